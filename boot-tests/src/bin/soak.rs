//! `soak [--boots N] [--minutes N] [--seconds N] [--host HOST]...`: boots in a row, then minutes of
//! the mixed load, on each host.

use std::env;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use boot_tests::host::Host;
use boot_tests::kernel::Variant;
use boot_tests::soak::{Report, Soak};

const HOSTS: [Host; 7] = [Host::Plain, Host::Native, Host::Identity, Host::Profile, Host::Xen, Host::Process, Host::L4];

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    boots: u32,
    seconds: u32,
    hosts: Vec<Host>,
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all of it succeeded.
fn run() -> Result<bool> {
    let options = parse(env::args().skip(1))?;
    let mut reports = Vec::new();
    for host in options.hosts {
        let is_low = matches!(host, Host::Process | Host::L4);
        let kernel = if is_low { Variant::LOW } else { Variant::MIN }.build()?;
        reports.push(Soak { host, boots: options.boots, seconds: options.seconds }.run(&kernel)?);
    }
    println!();
    for failure in reports.iter().flat_map(Report::failures) {
        println!("{failure}\n");
    }
    for report in &reports {
        println!("{report}");
    }
    Ok(reports.iter().all(Report::good))
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options { boots: 100, seconds: 600, hosts: Vec::new() };
    while let Some(option) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{option} needs a value"))?;
        let number = || value.parse::<u32>().with_context(|| format!("{option} {value}"));
        match option.as_str() {
            "--boots" => options.boots = number()?,
            "--seconds" => options.seconds = number()?,
            "--minutes" => options.seconds = number()?.saturating_mul(60),
            "--host" => options.hosts.push(host(&value)?),
            _ => bail!("unknown option {option}"),
        }
    }
    if options.hosts.is_empty() {
        options.hosts.push(Host::Xen);
    }
    Ok(options)
}

fn host(name: &str) -> Result<Host> {
    let host = HOSTS.into_iter().find(|host| host.to_string() == name);
    host.with_context(|| format!("{name} is no host; they are {}", HOSTS.map(|host| host.to_string()).join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Options> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_are_read_in_any_order() {
        let expected = |boots, seconds, hosts: &[Host]| Options { boots, seconds, hosts: hosts.to_vec() };
        for (line, options) in [
            ("", expected(100, 600, &[Host::Xen])),
            ("--host plain --boots 3 --host profile", expected(3, 600, &[Host::Plain, Host::Profile])),
            ("--minutes 2 --boots 0", expected(0, 120, &[Host::Xen])),
            ("--seconds 20", expected(100, 20, &[Host::Xen])),
        ] {
            assert_eq!(parsed(line).unwrap(), options, "{line}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (line, message) in [
            ("--boots", "--boots needs a value"),
            ("--boots many", "--boots many"),
            ("--boot 3", "unknown option --boot"),
            ("--host mars", "mars is no host; they are plain, native, identity, profile, xen, process, l4"),
        ] {
            assert_eq!(parsed(line).unwrap_err().to_string(), message);
        }
    }
}
