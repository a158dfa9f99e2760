//! `costs [--json FILE] [--report FILE.html] [SYSTEM... | process]`: measures what the kernel's
//! operations cost on several systems, and prints the table.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use boot_tests::costs::{Clocked, Figures, System, Table, measure_twice};

/// What the command line asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    json: Option<PathBuf>,
    report: Option<PathBuf>,
    /// By the clock, not in instructions.
    process: bool,
    systems: Vec<System>,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("costs: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let options = parse(env::args().skip(1))?;
    if options.process {
        let clocked = Clocked::measure()?;
        println!("\nThe median of five turns (least to most):\n\n{}", clocked.text());
        return publish(&clocked.figures(), &options);
    }
    let table = Table::measure(&options.systems, measure_twice)?;
    println!("\nExecuted instructions; two boots of each system show the same:\n\n{}", table.text()?);
    println!("Boots:\n{}\nAs Markdown:\n\n{}", table.boots(), table.markdown()?);
    publish(&table.figures()?, &options)?;
    table.check()
}

/// Prints what is the most important, and writes the files that are asked for.
fn publish(figures: &Figures, options: &Options) -> Result<()> {
    println!("{}", figures.means());
    let write =
        |path: &Path, text: String| fs::write(path, text).with_context(|| format!("writing {}", path.display()));
    if let Some(path) = &options.json {
        write(path, figures.json()?)?;
    }
    if let Some(path) = &options.report {
        write(path, figures.page().html())?;
    }
    Ok(())
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options::default();
    while let Some(word) = arguments.next() {
        let mut file = || arguments.next().map(PathBuf::from).with_context(|| format!("{word} needs a file"));
        match word.as_str() {
            "--json" => options.json = Some(file()?),
            "--report" => options.report = Some(file()?),
            "process" => options.process = true,
            name => options.systems.push(System::named(name).with_context(|| format!("{name} is no system"))?),
        }
    }
    match (options.process, options.systems.is_empty()) {
        (true, false) => bail!("a process is measured by the clock, the other systems in instructions"),
        (false, true) => options.systems = System::ALL.to_vec(),
        _ => {}
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Options> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn command_lines_are_read() {
        assert_eq!(parsed("").unwrap().systems, System::ALL);
        let options = parsed("--report a.html xen --json b.json peer").unwrap();
        assert_eq!((options.systems, options.process), (vec![System::Xen, System::Peer], false));
        assert_eq!((options.report, options.json), (Some("a.html".into()), Some("b.json".into())));
        assert!(parsed("process --json c").unwrap().process);
        for bad in ["--json", "process xen", "qemu", "--fast"] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }
}
