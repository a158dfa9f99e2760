//! `demo`: builds Linux through `afterburner build` and boots it to a shell.
//!
//! Interactive on a terminal; otherwise a script shows the running kernel and ends.

use std::collections::BTreeMap;
use std::fs;
use std::io::{IsTerminal as _, stdin, stdout};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use boot_tests::expect::Expectations;
use boot_tests::guest::Guest;
use boot_tests::kernel::{self, Variant};
use boot_tests::qemu::Machine;
use boot_tests::records;

const WELCOME: &str = "
Linux, built through afterburner, on its NOPs. The kernel's annotations are in /sys/kernel/notes, modules in /modules.
`exit` or Ctrl-D ends the guest; Ctrl-A X ends QEMU.
";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    println!("building with {}", kernel::afterburner()?.display());
    let kernel = Variant::MIN.build()?;
    let log = kernel.log()?;
    let summary = log.rfind("afterburner: objects:").context("the build left no summary")?;
    print!("{}", &log[summary..]);
    let vmlinux = kernel.vmlinux();
    let sites = sites(&vmlinux)?;
    println!("{}: {sites} annotated sites", vmlinux.display());
    let modules = kernel.modules_named(&["msr", "cpuid"])?;
    let files = vec![("sites", format!("{sites} annotated sites\n")), ("welcome", WELCOME.to_owned())];

    if stdin().is_terminal() && stdout().is_terminal() {
        let guest = Guest { modules, files, ..Guest::default() }.initramfs()?;
        let status = Machine::new(&vmlinux, guest.path()).command("mon:stdio").status();
        let status = status.context("starting qemu-system-x86_64")?;
        ensure!(status.success(), "QEMU: {status}");
    } else {
        let guest = Guest { files, ..Guest::script("demo", modules) }.initramfs()?;
        print!("{}", Machine::new(&vmlinux, guest.path()).boot("demo", &Expectations::read("demo")?)?);
    }
    Ok(())
}

fn sites(vmlinux: &Path) -> Result<usize> {
    let data = fs::read(vmlinux).with_context(|| format!("reading {}", vmlinux.display()))?;
    let records: BTreeMap<_, _> = records::read(&object::File::parse(&*data)?)?;
    Ok(records.len())
}
