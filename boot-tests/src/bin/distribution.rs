//! `distribution RELEASE [DIRECTORY]`: builds Debian's kernel for virtual machines, of 6.1 or 6.12,
//! and runs Debian on it. With a directory, the kernel is the one that was built there.

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use boot_tests::distribution;
use boot_tests::kernel::{Kernel, Variant};
use boot_tests::source::Release;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("distribution: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut arguments = env::args_os().skip(1);
    let release = arguments.next().unwrap_or_else(|| "6.1".into());
    let variant = match release.to_str() {
        Some("6.1") => Variant::cloud(Release::Chosen),
        Some("6.12") => Variant::cloud(Release::V6_12),
        _ => bail!("{}: there are 6.1 and 6.12", release.display()),
    };
    let kernel = if let Some(directory) = arguments.next() {
        Kernel::built_in(PathBuf::from(directory))
    } else {
        let kernel = variant.build()?;
        let log = kernel.log()?;
        print!("{}", log.rfind("afterburner: objects:").map_or("", |summary| &log[summary..]));
        kernel
    };
    distribution::boot(&kernel, &variant.name())
}
