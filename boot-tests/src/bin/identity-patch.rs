//! `identity-patch IN OUT`: copies an annotated vmlinux with every site routed through a stub.

use std::env;
use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use boot_tests::identity;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("identity-patch: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let [input, output] = arguments.as_slice() else { bail!("usage: identity-patch IN OUT") };
    let vmlinux = fs::read(input).with_context(|| format!("reading {}", input.display()))?;
    let (patched, report) = identity::patch(vmlinux).with_context(|| input.display().to_string())?;
    fs::write(output, patched).with_context(|| format!("writing {}", output.display()))?;
    print!("{report}");
    Ok(())
}
