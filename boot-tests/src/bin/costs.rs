//! `costs`: measures what the kernel's operations cost on several systems, and prints the table.

use std::env;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use boot_tests::costs::{Clocked, System, Table, measure_twice};

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
    let named = |name: String| System::named(&name).with_context(|| format!("{name} is no system"));
    if env::args().skip(1).eq(["process".to_owned()]) {
        return by_the_clock();
    }
    let mut systems = env::args().skip(1).map(named).collect::<Result<Vec<_>>>()?;
    if systems.is_empty() {
        systems = System::ALL.to_vec();
    }
    let table = Table::measure(&systems, measure_twice)?;
    println!("\nExecuted instructions; two boots of each system show the same:\n\n{}", table.text()?);
    println!("Boots:\n{}\nAs Markdown:\n\n{}", table.boots(), table.markdown()?);
    table.check()
}

fn by_the_clock() -> Result<()> {
    let clocked = Clocked::measure()?;
    println!("\nThe median of five turns (least to most):\n\n{}\n{}", clocked.text(), clocked.means());
    Ok(())
}
