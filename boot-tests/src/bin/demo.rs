//! `demo`: builds Linux through `afterburner build`, for the lower half of the address space, packs
//! it, boots it without the wedge, and the same image on bare hardware, on Xen, on seL4, and as a
//! process; then it profiles a command.
//!
//! On a terminal the image is booted to a shell on each host; otherwise a script shows the running
//! kernel and ends.

use std::collections::BTreeMap;
use std::fs;
use std::io::{IsTerminal as _, stdin, stdout};
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use boot_tests::expect::Expectations;
use boot_tests::guest::Guest;
use boot_tests::host::pack;
use boot_tests::kernel::{self, Kernel, Variant};
use boot_tests::qemu::{Machine, WORDS};
use boot_tests::{command, records};

const WELCOME: &str = "
Linux on the wedge. The kernel's annotations are in /sys/kernel/notes, modules in /modules.
`exit` or Ctrl-D ends the guest; Ctrl-A X ends it at once.
";

/// What is profiled.
const PROFILED: &str = "ls -lR /sys/kernel > /dev/null";

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
    let kernel = Variant::LOW.build()?;
    let log = kernel.log()?;
    let summary = log.rfind("afterburner: objects:").context("the build left no summary")?;
    print!("{}", &log[summary..]);
    let vmlinux = kernel.vmlinux();
    let sites = sites(&vmlinux)?;
    println!("{}: {sites} annotated sites", vmlinux.display());
    let modules = kernel.modules_named(&["msr", "cpuid"])?;
    let files = vec![("sites", format!("{sites} annotated sites\n")), ("welcome", WELCOME.to_owned())];

    let interactive = stdin().is_terminal() && stdout().is_terminal();
    let guest = if interactive { Guest { modules, ..Guest::default() } } else { Guest::script("demo", modules) };
    let guest = Guest { files, ..guest }.initramfs()?;
    let directory = tempfile::tempdir()?;
    let image = directory.path().join("image");
    let options = ["--initrd".as_ref(), guest.path().as_os_str(), "--cmdline".as_ref(), WORDS.as_ref()];
    print!("\nThe kernel and the wedge in one image:\n{}", pack(&kernel, &options, &image)?);

    let (bare, xen) = (Machine::image(&image), Machine::image(&image).on_xen()?);
    let sel4 = Machine::image(&image).on_sel4()?;
    let process = Machine { process: true, ..Machine::image(&image) };
    if interactive {
        println!("\nThe image on bare hardware, that is, on QEMU alone:");
        talk(&bare)?;
        println!("\nThe same image as the first guest of Xen, which runs on QEMU; its own lines start with (XEN):");
        talk(&xen)?;
        println!("\nThe same image as the root task of seL4, whose own lines come first:");
        talk(&sel4)?;
        println!("\nThe same image as a process of this Linux, without QEMU:");
        talk(&process)?;
    } else {
        println!("\nThe kernel by itself, on its NOPs:");
        print!("{}", Machine::new(&vmlinux, guest.path()).boot("demo", &Expectations::read("demo")?)?);
        println!("\nThe same kernel on the wedge, on bare hardware:");
        print!("{}", bare.boot("demo-wedge", &Expectations::read("demo-wedge")?)?);
        println!("\nThe same image as the first guest of Xen, whose own lines start with (XEN):");
        let log = xen.boot("demo-xen", &Expectations::read("demo")?)?;
        print!("{log}");
        ensure!(log.contains("afterburner: backend xen"), "the kernel ran, but not on the wedge's Xen backend");
        println!("\nThe same image as the root task of seL4, whose own lines come first:");
        let log = sel4.boot("demo-sel4", &Expectations::read("demo")?)?;
        print!("{log}");
        ensure!(log.contains("afterburner: backend l4"), "the kernel ran, but not on the wedge's L4 backend");
        println!("\nThe same image as a process of this Linux, without QEMU:");
        let log = process.boot("demo-process", &Expectations::read("demo")?)?;
        print!("{log}");
        ensure!(log.contains("afterburner: backend process"), "the kernel ran, but not on the wedge's process backend");
    }
    profile(&kernel, &image)
}

/// Boots a machine for somebody at a terminal.
fn talk(machine: &Machine) -> Result<()> {
    let status = machine.command("mon:stdio").status().context("starting the guest")?;
    ensure!(status.success(), "{status}");
    Ok(())
}

/// Shows what a command executes.
fn profile(kernel: &Kernel, image: &Path) -> Result<()> {
    println!("\nafterburner profile IMAGE --top 12 -- {PROFILED}");
    let mut profile = Command::new(kernel::afterburner()?);
    profile.arg("profile").arg(image).arg("--kernel").arg(kernel.vmlinux());
    profile.args(["--top", "12", "--timeout", "120", "--", PROFILED]);
    print!("{}", command::output(&mut profile)?);
    Ok(())
}

fn sites(vmlinux: &Path) -> Result<usize> {
    let data = fs::read(vmlinux).with_context(|| format!("reading {}", vmlinux.display()))?;
    let records: BTreeMap<_, _> = records::read(&object::File::parse(&*data)?)?;
    Ok(records.len())
}
