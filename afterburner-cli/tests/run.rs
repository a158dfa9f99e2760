//! `afterburner run` and `afterburner profile`, as far as they can be seen without a guest: what
//! they would run, and what they refuse. QEMU's command is taken from `--dry-run`.

mod support;

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use rustix::process::{Pid, Signal, kill_process};
use support::{AFTERBURNER, Lab, Result};
use wedge::image::{CHECKED_FROM, GuestFacts, Header, MAGIC, Span, checksum};

const COMMAND_LINE: &str = "root=/dev/ram0 quiet";

/// An ELF file of x86-64 with these segments: their types and contents.
fn elf(segments: &[(u32, &[u8])]) -> Vec<u8> {
    let word = |number: usize| u64::try_from(number).expect("a small file").to_le_bytes();
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    file.extend([word(0), word(64), word(0)].concat()); // e_entry, e_phoff, e_shoff
    let count = u16::try_from(segments.len()).expect("a few segments");
    file.extend([0, 0, 64, 56, count, 64, 0, 0_u16].map(u16::to_le_bytes).concat());
    let mut offset = 64 + segments.len() * 56;
    for (kind, contents) in segments {
        file.extend([kind.to_le_bytes(), 0_u32.to_le_bytes()].concat());
        file.extend([word(offset), word(0), word(0), word(contents.len()), word(contents.len()), word(4)].concat());
        offset += contents.len();
    }
    for (_, contents) in segments {
        file.extend_from_slice(contents);
    }
    file
}

/// What any kernel may be like.
const FACTS: GuestFacts = GuestFacts {
    image: 0xffff_ffff_8000_0000,
    window_entry: 509 * 8,
    user_window_entry: 0,
    modules_start: 0xffff_ffff_a000_0000,
    modules_end: 0xffff_ffff_ff00_0000,
    stack_switch: 0,
};

/// An image: a wedge of four bytes, and a payload with a kernel of one segment, an initramfs, and a
/// command line.
fn image(notes: &[u8]) -> Vec<u8> {
    let kernel = kernel();
    let parts = [&kernel[..], b"initramfs", COMMAND_LINE.as_bytes()];
    let mut offset = u64::try_from(size_of::<Header>()).expect("a small header");
    let [kernel, initramfs, command_line] = parts.map(|part| {
        let span = Span { offset, length: part.len() as u64 };
        offset += span.length;
        span
    });
    let header =
        Header { kernel, initramfs, command_line, length: offset, magic: MAGIC, guest: FACTS, ..Header::default() };
    let bytes = |header: &Header| [&header.to_bytes()[..], parts.concat().as_slice()].concat();
    let checksum = checksum(&bytes(&header)[CHECKED_FROM..]);
    let payload = bytes(&Header { checksum, ..header });
    elf(&[(1, b"code"), (4, notes), (1, &payload)])
}

fn kernel() -> Vec<u8> {
    elf(&[(1, b"text")])
}

/// A note of Xen's with its PV entry (`XEN_ELFNOTE_ENTRY`).
const XEN_ENTRY: &[u8] = b"\x04\0\0\0\x08\0\0\0\x01\0\0\0Xen\0\0\0\0\0\0\0\0\0";

fn lab() -> Lab {
    Lab::with(&[
        ("image", &image(b"")),
        ("vmlinux", &kernel()),
        ("more.cpio", b"070701more"),
        ("a,b.cpio", b"070701ab"),
    ])
}

fn run(lab: &Lab, arguments: &[&str]) -> Result {
    let mut command: Command = lab.command(AFTERBURNER, &[&["run"], arguments].concat());
    Result::of(command.env("XDG_CACHE_HOME", lab.path("cache")).output().expect("the command"))
}

/// The command that `--dry-run` prints, the directory of the cache left out.
fn dry_run(lab: &Lab, arguments: &[&str]) -> String {
    let result = run(lab, &[&["--dry-run"], arguments].concat()).success();
    assert_eq!(result.stderr, "");
    let kept = format!("{}/", lab.path("cache/afterburner/dry-run").display());
    result.stdout.replace(&kept, "KEPT/").trim_end().to_owned()
}

const COMMON: &str = "-m 256 -nodefaults -no-reboot -display none -serial stdio";

#[test]
fn a_kernel_boots_on_no_host() {
    let lab = lab();
    assert_eq!(
        dry_run(&lab, &["vmlinux"]),
        format!(
            "qemu-system-x86_64 -accel 'tcg,thread=single' -cpu qemu64 -smp '1,sockets=1' {COMMON} \
             -kernel vmlinux -append 'console=ttyS0 panic=-1'"
        )
    );
    assert!(!lab.path("cache/afterburner/dry-run/initramfs").exists());
}

#[test]
fn every_option_has_its_place() {
    let options =
        ["--memory", "512", "--cpus", "2", "--cpu", "max,-smap", "--append", "nokaslr quiet", "--initrd", "more.cpio"];
    let options =
        [&options[..], &["--qemu-opts", "-device 'isa-debug-exit,iobase=0xf4'", "--mode", "profile", "image"]];
    assert_eq!(
        dry_run(&lab(), &options.concat()),
        "qemu-system-x86_64 -accel 'tcg,thread=single' -cpu 'max,-smap' -smp '2,sockets=2' -m 512 -nodefaults -no-reboot \
         -display none -serial stdio -kernel image -initrd more.cpio \
         -append 'console=ttyS0 panic=-1 afterburn.mode=profile nokaslr quiet' -device 'isa-debug-exit,iobase=0xf4'"
    );
}

#[test]
fn without_a_host_the_image_is_taken_apart() {
    let lab = lab();
    let command = dry_run(&lab, &["--host", "none", "--initrd", "more.cpio", "image"]);
    let words = format!("{COMMAND_LINE} console=ttyS0 panic=-1");
    assert!(command.ends_with(&format!("-kernel KEPT/kernel -initrd KEPT/initramfs -append '{words}'")), "{command}");
    assert_eq!(lab.read("cache/afterburner/dry-run/kernel"), kernel());
    assert_eq!(lab.read("cache/afterburner/dry-run/initramfs"), [&b"initramfs\0\0\0"[..], b"070701more"].concat());
}

#[test]
fn a_command_goes_in_over_the_image() {
    let lab = lab();
    let command = dry_run(&lab, &["image", "--", "echo", "a  b"]);
    let words = "console=ttyS0 panic=-1 printk.devkmsg=on rdinit=/afterburner/init";
    assert!(command.ends_with(&format!("-kernel image -initrd KEPT/initramfs -append '{words}'")), "{command}");
    let files = lab.path("files");
    fs::create_dir(&files).expect("a directory");
    let unpack = "cpio --extract --make-directories --quiet 'afterburner/*' < ../cache/afterburner/dry-run/initramfs";
    let status = lab.command("sh", &["-c", unpack]).current_dir(&files).status().expect("a shell");
    assert!(status.success());
    assert_eq!(lab.read("files/afterburner/command"), b"echo a  b\n");
    assert!(lab.path("files/afterburner/init").exists() && lab.path("files/afterburner/busybox").exists());
    assert!(!lab.path("files/afterburner/terminal").exists());
}

#[test]
fn a_path_that_a_multiboot_loader_would_split_is_copied() {
    let lab = lab();
    let command = dry_run(&lab, &["image", "--initrd", "a,b.cpio"]);
    assert!(command.contains("-initrd KEPT/initramfs "), "{command}");
    assert_eq!(lab.read("cache/afterburner/dry-run/initramfs"), b"070701ab");
}

#[test]
fn an_iso_boots_as_it_is() {
    let lab = lab();
    let mut iso = vec![0; 0x8800];
    iso[0x8001..0x8006].copy_from_slice(b"CD001");
    lab.write("image.iso", iso);
    assert!(dry_run(&lab, &["image.iso"]).ends_with(&format!("{COMMON} -cdrom image.iso")));
    for more in [&["--append", "x"] as &[&str], &["--initrd", "more.cpio"], &["--mode", "native"], &["--", "true"]] {
        let result = run(&lab, &[&["image.iso"], more].concat());
        assert_eq!(result.status.code(), Some(2), "{more:?}");
        assert!(result.stderr.contains("is an ISO image, whose command line"), "{}", result.stderr);
    }
}

#[test]
fn what_cannot_run_is_refused() {
    let lab = lab();
    lab.write("script", "#!/bin/sh\n");
    lab.write("xen-image", image(XEN_ENTRY));
    let mut damaged = image(b"");
    *damaged.last_mut().expect("a byte") ^= 1;
    lab.write("damaged", damaged);
    let mut damaged = image(XEN_ENTRY);
    *damaged.last_mut().expect("a byte") ^= 1;
    lab.write("damaged-for-xen", damaged);
    let mut of_tomorrow = image(XEN_ENTRY);
    let magic = of_tomorrow.windows(MAGIC.len()).position(|bytes| bytes == MAGIC).expect("a version");
    of_tomorrow[magic + MAGIC.len() - 1] += 1;
    lab.write("of-tomorrow", of_tomorrow);
    for (arguments, message) in [
        (&["image", "--host", "xen"] as &[&str], "image has no Xen PV entry"),
        (&["vmlinux", "--host", "bare"], "vmlinux is a kernel without a wedge, which runs on --host none"),
        (&["vmlinux", "--host", "xen"], "vmlinux is a kernel without a wedge, which runs on --host none"),
        (&["vmlinux", "--mode", "native"], "--mode is for the wedge, and on --host none there is none"),
        (&["image", "--host", "none", "--mode", "native"], "--mode is for the wedge"),
        (&["image", "--fast"], "--fast is for --host process"),
        (&["image", "--net", "user"], "--net is for --host process; QEMU has `--qemu-opts"),
        (&["image", "--share", "."], "--share is for --host process; QEMU has `--qemu-opts"),
        (&["image", "--disk", "disk"], "--disk is for --host process; QEMU has `--qemu-opts"),
        (&["vmlinux", "--disk", "disk"], "--disk is for --host process"),
        (&["damaged", "--host", "none"], "damaged: the payload is damaged: its checksum is"),
        (&["damaged"], "damaged: the payload is damaged: its checksum is"),
        (&["damaged", "--host", "xen"], "damaged has no Xen PV entry"),
        (&["damaged-for-xen", "--host", "xen"], "damaged-for-xen: the payload is damaged: its checksum is"),
        (&["of-tomorrow"], "an image of another version of Afterburner: its payload is of version 0006, not 0005"),
        (&["xen-image", "--host", "xen", "--mode", "identity"], "afterburn.mode=identity: that mode is for bare"),
        (
            &["xen-image", "--host", "xen", "--append", "afterburn.mode=identity"],
            "afterburn.mode=identity: that mode is for",
        ),
        (&["xen-image", "--host", "xen", "--append", "afterburn.backend=bare"], "this machine was entered by Xen PV"),
        (&["image", "--append", "afterburn.backend=xen"], "this backend needs a Xen PV entry; this machine was"),
        (
            &["image", "--append", "afterburn.backend=l4"],
            "needs to be started by seL4, as its root task; this machine was",
        ),
        (
            &["image", "--append", "afterburn.backend=kvm"],
            "afterburn.backend=kvm: no such backend; there are bare xen process l4",
        ),
        (&["image", "--append", "afterburn.mod=native"], "afterburn.mod: no such option"),
        (&["script"], "script: a script, and not a kernel or an image"),
        (&["nothing"], "nothing: No such file"),
        (&["image", "--initrd", "nothing"], "nothing: No such file"),
        (&["image", "--qemu-opts", "-append 'open"], "--qemu-opts: an open quote in: -append 'open"),
        (&["image", "--timeout=-1"], "invalid value '-1' for '--timeout <S>'"),
        (&["image", "--timeout", "soon"], "not a number of seconds"),
        (&["image", "--cpus", "0"], "0 is not in 1.."),
        (&["image", "--host", "kvm"], "possible values: none, bare, xen, process, l4"),
    ] {
        let result = run(&lab, &[&["--dry-run"], arguments].concat());
        assert_eq!(result.status.code(), Some(2), "{arguments:?}: {result:?}");
        assert!(result.stderr.contains(message), "{arguments:?}: {}", result.stderr);
    }
}

#[test]
fn an_image_for_xen_is_a_module_of_xen() {
    let lab = lab();
    lab.write_all(&[("xen-image", image(XEN_ENTRY)), ("xen", b"multiboot".to_vec())]);
    lab.run("sh", &["-c", "gzip -c xen > xen.gz"]).success();
    let arguments = ["xen-image", "--host", "xen", "--append", "a,b", "--initrd", "more.cpio", "--xen"];
    let expected = |hypervisor: &str| {
        format!(
            "qemu-system-x86_64 -accel 'tcg,thread=single' -cpu 'max,-smap' -smp '1,sockets=1' -m 1024 -nodefaults \
             -no-reboot -display none -serial stdio -kernel {hypervisor} \
             -append 'console=com1 com1=115200,8n1 loglvl=warning guest_loglvl=warning' \
             -initrd 'xen-image console=ttyS0 panic=-1 a,,b,more.cpio'"
        )
    };
    assert_eq!(dry_run(&lab, &[&arguments[..], &["xen"]].concat()), expected("xen"));
    assert_eq!(dry_run(&lab, &[&arguments[..], &["xen.gz"]].concat()), expected("KEPT/xen"));
    assert_eq!(lab.read("cache/afterburner/dry-run/xen"), b"multiboot");
    // Without a name it is the one in the cache.
    lab.write("cache/afterburner/xen/xen-4.17-amd64", b"multiboot");
    let cached = lab.path("cache/afterburner/xen/xen-4.17-amd64").display().to_string();
    assert_eq!(dry_run(&lab, &arguments[..arguments.len() - 1]), expected(&cached));
}

#[test]
fn without_qemu_the_status_is_that_of_a_shell() {
    let lab = lab();
    for arguments in [&["run", "image"] as &[&str], &["profile", "image", "--", "true"]] {
        let mut command = lab.command(AFTERBURNER, arguments);
        command.env("XDG_CACHE_HOME", lab.path("cache")).env("PATH", lab.path("tools"));
        fs::create_dir_all(lab.path("tools")).expect("a directory");
        for tool in ["cc", "as", "ld"] {
            let found = Path::new("/usr/bin").join(tool);
            let _ = std::os::unix::fs::symlink(found, lab.path(&format!("tools/{tool}")));
        }
        let result = Result::of(command.output().expect("the command"));
        assert_eq!(result.status.code(), Some(127), "{result:?}");
        assert!(result.stderr.contains("there is no qemu-system-x86_64 in PATH"), "{}", result.stderr);
    }
}

#[test]
fn a_profile_needs_a_wedge_and_for_functions_a_kernel() {
    let lab = lab();
    for (arguments, message) in [
        (&["vmlinux", "--", "true"] as &[&str], "vmlinux is a kernel without a wedge"),
        (&["image", "--by", "function", "--", "true"], "known by the kernel's symbols: --kernel VMLINUX"),
        (&["image", "--kernel", "more.cpio", "--", "true"], "more.cpio: not a 64-bit x86-64 ELF file"),
        (&["image", "--host", "none", "--", "true"], "--mode is for the wedge, and on --host none there is none"),
        (&["image"], "required arguments were not provided"),
    ] {
        let mut command = lab.command(AFTERBURNER, &[&["profile"], arguments].concat());
        let result = Result::of(command.env("XDG_CACHE_HOME", lab.path("cache")).output().expect("the command"));
        assert_eq!(result.status.code(), Some(2), "{arguments:?}: {result:?}");
        assert!(result.stderr.contains(message), "{arguments:?}: {}", result.stderr);
    }
}

/// What stands in for QEMU: it notes its number and what it gets for an initramfs, and runs until
/// somebody ends it. The stubborn one does not when it is asked to.
const EMULATOR: &str = "\
#!/bin/sh
[ -e stubborn ] && trap '' TERM HUP INT
while [ \"$1\" != -initrd ]; do shift; done
cat \"$2\" > seen
echo booting
echo $$ > pid.new
mv pid.new pid
exec sleep 1000
";

/// A lab in which `EMULATOR` is found for QEMU, and an empty directory for temporary files.
fn lab_with_emulator() -> Lab {
    let lab = lab();
    lab.write("script", EMULATOR);
    // Another process writes it: a program that a thread here has open for writing cannot be
    // executed.
    lab.run("install", &["-D", "-m", "755", "script", "tools/qemu-system-x86_64"]).silent_success();
    fs::create_dir(lab.path("temporary")).expect("a directory");
    lab
}

/// Starts `afterburner run` there, and waits until the emulator runs; returns its number too.
fn start(lab: &Lab, arguments: &[&str], stdout: Stdio) -> (Child, u32) {
    let mut command = lab.command(AFTERBURNER, arguments);
    let path = format!("{}:{}", lab.path("tools").display(), std::env::var("PATH").expect("a PATH"));
    command.env("PATH", path).env("TMPDIR", lab.path("temporary")).env("XDG_CACHE_HOME", lab.path("cache"));
    let child = command.stdout(stdout).stderr(Stdio::null()).spawn().expect("the command");
    let pid = lab.path("pid");
    wait_until("the emulator runs", || pid.exists());
    let emulator = fs::read_to_string(pid).expect("a number").trim().parse().expect("a number");
    (child, emulator)
}

#[track_caller]
fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(120), "it takes two minutes until {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Whether there is such a process; one that has ended and that nobody has asked about does not
/// count.
fn lives(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| [vec![path.clone()], files_below(&path)].concat()).collect()
}

#[test]
fn whatever_ends_it_nothing_stays_behind() {
    const RUN: &[&str] = &["run", "image", "--", "true"];
    const TAKEN_APART: &[&str] = &["run", "--host", "none", "image"];
    const PROFILE: &[&str] = &["profile", "image", "--", "true"];
    for (arguments, stubborn, signal) in [
        (RUN, false, Signal::KILL),
        (RUN, false, Signal::TERM),
        (RUN, false, Signal::HUP),
        (RUN, false, Signal::INT),
        (RUN, true, Signal::KILL),
        (RUN, true, Signal::TERM),
        (TAKEN_APART, false, Signal::KILL),
        (TAKEN_APART, false, Signal::TERM),
        (PROFILE, false, Signal::KILL),
        (PROFILE, true, Signal::HUP),
    ] {
        let lab = lab_with_emulator();
        if stubborn {
            lab.write("stubborn", "");
        }
        let (mut child, emulator) = start(&lab, arguments, Stdio::null());
        assert!(lives(emulator) && !lab.read("seen").is_empty(), "{arguments:?}");
        kill_process(Pid::from_child(&child), signal).expect("a process");
        let status = child.wait().expect("a status");
        let expected = if signal == Signal::KILL { 128 + 9 } else { 128 + signal.as_raw() };
        let status = status.code().or(status.signal().map(|signal| 128 + signal));
        assert_eq!(status, Some(expected), "{arguments:?}, {signal:?}");
        wait_until("the emulator has ended", || !lives(emulator));
        assert_eq!(files_below(&lab.path("temporary")), [] as [PathBuf; 0], "{arguments:?}, {signal:?}");
        let kept = files_below(&lab.path("cache/afterburner"));
        assert!(kept.iter().all(|path| path.display().to_string().contains("/wedge-port")), "{kept:?}");
    }
}

#[test]
fn a_signal_ends_it_though_nobody_reads_what_the_guest_prints() {
    let lab = lab_with_emulator();
    lab.write("script", EMULATOR.replace("exec sleep 1000", "exec yes"));
    lab.run("install", &["-D", "-m", "755", "script", "tools/qemu-system-x86_64"]).silent_success();
    let (mut child, emulator) = start(&lab, &["run", "image", "--", "true"], Stdio::piped());
    let _unread = child.stdout.take().expect("a pipe");
    // The pipe is full when we are no longer awake.
    let state = format!("/proc/{}/wchan", child.id());
    wait_until("nothing more is written", || fs::read_to_string(&state).is_ok_and(|at| at.contains("pipe_write")));
    kill_process(Pid::from_child(&child), Signal::TERM).expect("a process");
    child.wait().expect("a status");
    wait_until("the emulator has ended", || !lives(emulator));
}

#[test]
fn qemu_is_not_started_for_a_parent_that_is_gone() {
    let lab = lab();
    let gone = Command::new("true").spawn().and_then(|mut child| child.wait().map(|_| child.id())).expect("a child");
    for (arguments, message) in [
        (&[&gone.to_string(), "9", "touch", "made"] as &[&str], "ended before touch was started"),
        (&["1", "9", "touch", "made"], "ended before touch was started"),
        (&["0", "9", "touch", "made"], "not the number of a process"),
        (&["1", "0", "touch", "made"], "not the number of a signal"),
        (&["1"], "PID, SIGNAL and PROGRAM are needed"),
        (&[&std::process::id().to_string(), "9", "./nothing"], "cannot run ./nothing: No such file"),
    ] {
        let result = lab.afterburner(&[&["end-with-parent"], arguments].concat());
        assert_eq!(result.status.code(), Some(127), "{result:?}");
        assert!(result.stderr.contains(message), "{arguments:?}: {}", result.stderr);
    }
    assert!(!lab.path("made").exists());
    let ourselves = std::process::id().to_string();
    lab.afterburner(&["end-with-parent", &ourselves, "9", "touch", "made"]).silent_success();
    assert!(lab.path("made").exists());
}
