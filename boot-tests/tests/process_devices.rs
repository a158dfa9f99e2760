//! What a kernel that is a process of Linux has of devices: disks, directories, and a network.
//!
//! The host's side is looked at from outside: what is in its files, who is left, and what is
//! refused before the guest runs.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use boot_tests::expect::Expectations;
use boot_tests::guest::Guest;
use boot_tests::guest_process::{GuestProcess, kill, runs};
use boot_tests::host::Host;
use boot_tests::kernel::Variant;
use boot_tests::qemu::Machine;
use boot_tests::server;

/// What is written to a disk is in the host's file, and what is not to be written is not.
#[test]
fn disks_keep_what_is_written_to_them() -> Result<()> {
    const MB: u64 = 1 << 20;
    let kernel = Variant::LOW.build()?;
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    for (name, length) in [("files", 32 * MB), ("pattern", 8 * MB), ("large", 1024 * MB)] {
        File::create(path(name))?.set_len(length)?;
    }
    let read_only = b"read-only".iter().copied().chain(0..=255).cycle().take(4096).collect::<Vec<u8>>();
    fs::write(path("still"), &read_only)?;
    let kept = vec![b'x'; 32768];
    fs::write(path("kept"), &kept)?;
    let run = |script: &'static str, disks: &[&str]| {
        let initramfs = Guest::script(script, Vec::new()).initramfs()?;
        let machine = Host::Process.machine(&kernel, initramfs.path())?;
        // Beyond a limit, Linux takes nothing, as it does when there is no room.
        let limited = path("limited");
        let image = machine.kernel.clone().context("an image")?;
        fs::write(&limited, format!("#!/bin/sh\nexec prlimit --fsize={} {} \"$@\"\n", 512 * MB, image.display()))?;
        fs::set_permissions(&limited, fs::Permissions::from_mode(0o755))?;
        let options = disks.iter().flat_map(|disk| ["--disk".into(), path(disk).into()]).collect();
        let machine = Machine { kernel: Some(limited), options, timeout: Duration::from_secs(600), ..machine };
        machine.boot(&format!("process-{script}"), &Expectations::read(script)?)
    };
    let log = run("disk", &["files", "pattern", "still,ro", "large", "kept,snapshot"])?;
    ensure!(log.contains("large: Linux refuses to write it, error 27 (file too large)"), "the log has no reason");
    let pattern = fs::read(path("pattern"))?;
    let expected = b"what the guest has written\n".iter().copied().cycle().take(4 << 20);
    ensure!(pattern[1 << 20..5 << 20].iter().copied().eq(expected), "the host's file has not what was written");
    ensure!(pattern[..1 << 20].iter().chain(&pattern[5 << 20..]).all(|byte| *byte == 0), "more than that was written");
    ensure!(fs::read(path("still"))? == read_only, "a disk that cannot be written was");
    ensure!(fs::read(path("kept"))? == kept, "a snapshot has changed its file");
    let files = fs::read(path("files"))?;
    run("disk-again", &["files,ro"])?;
    ensure!(fs::read(path("files"))? == files, "a disk that cannot be written was");
    Ok(())
}

/// What is no disk is refused before the guest runs, with its name and the reason.
#[test]
fn what_is_no_disk_is_refused() -> Result<()> {
    let kernel = Variant::LOW.build()?;
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    File::create(path("odd"))?.set_len(1000)?;
    File::create(path("empty"))?;
    let used = File::create(path("used"))?;
    used.set_len(1024)?;
    used.lock()?;
    fs::create_dir(path("directory"))?;
    let status = Command::new("mkfifo").arg(path("pipe")).status()?;
    ensure!(status.success(), "mkfifo");
    let machine = Machine::image(boot_tests::host::image(&kernel)?);
    for (name, reason) in [
        ("odd", "has 1000 bytes, which is no multiple of 512"),
        ("odd,ro", "has 1000 bytes, which is no multiple of 512"),
        ("odd,snapshot", "has 1000 bytes, which is no multiple of 512"),
        ("used,snapshot", "another process has locked it"),
        ("empty", "has no bytes"),
        ("used", "another process has locked it"),
        ("used,ro", "another process has locked it"),
        ("missing", "cannot be opened, error 2 (no such file or directory)"),
        ("directory", "cannot be opened, error 21 (is a directory)"),
        ("directory,ro", "neither a file nor a block device"),
        ("pipe", "neither a file nor a block device"),
        ("pipe,ro", "neither a file nor a block device"),
    ] {
        let options = vec!["--disk".into(), path(name).into()];
        let machine = Machine { process: true, options, ..machine.clone() };
        let output = machine.command("stdio").stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let file = path(name.split(',').next().unwrap_or(name));
        ensure!(said.contains(&format!("--disk {}: {reason}", file.display())), "{name}: {said}");
        ensure!(output.status.code() == Some(1) && !said.contains("Linux version"), "{name}: {:?}", output.status);
    }
    Ok(())
}

/// What the guest does in a directory is what the host finds there, and nothing outside.
#[test]
fn directories_are_shared() -> Result<()> {
    const BIG: u32 = 20_000_003;
    let kernel = Variant::LOW.build()?;
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    fs::create_dir_all(path("share/thousand"))?;
    fs::create_dir(path("still"))?;
    fs::create_dir(path("outside"))?;
    let big: Vec<u8> = (0..BIG).map(|number| number.wrapping_mul(0x9e37_79b9).to_be_bytes()[0]).collect();
    for (name, contents) in [
        ("share/greeting", &b"from the host\n"[..]),
        ("share/big", &big),
        ("share/closed", b"?"),
        ("still/file", b"still\n"),
        ("outside/secret", b"the host's\n"),
    ] {
        fs::write(path(name), contents)?;
    }
    let sum = Command::new("sha256sum").stdin(File::open(path("share/big"))?).output()?;
    fs::write(path("share/sum"), sum.stdout)?;
    fs::set_permissions(path("share/closed"), fs::Permissions::from_mode(0o0))?;
    for number in 0..1000 {
        fs::write(path(&format!("share/thousand/entry-{number:0width$}", width = number % 200 + 1)), "line\n")?;
    }
    std::os::unix::fs::symlink("/host-only", path("share/outside"))?;
    let before = fs::read_dir(path("outside"))?.count();

    let initramfs = Guest::script("share", Vec::new()).initramfs()?;
    let machine = Host::Process.machine(&kernel, initramfs.path())?;
    // Without the rights of root to files, if it is root who tests.
    let image = machine.kernel.clone().context("an image")?;
    let without = path("without");
    let text = "[ \"$(id -u)\" != 0 ] || without='setpriv --bounding-set=-chown,-dac_override,-dac_read_search,-mknod'";
    write_script(&without, &format!("{text}\nexec $without {} \"$@\"", image.display()))?;
    let still = format!("{},ro", path("still").display());
    let options = vec!["--share".into(), path("share").into(), "--share".into(), still.into()];
    let machine = Machine { kernel: Some(without), options, timeout: Duration::from_secs(600), ..machine };
    machine.boot("process-share", &Expectations::read("share")?)?;

    ensure!(fs::read(path("share/copy"))? == big, "the host has not what the guest has copied");
    for cache in ["none", "mmap", "loose"] {
        let answer = fs::read_to_string(path(&format!("share/answer-{cache}")))?;
        ensure!(answer == format!("by way of {cache}\nand more\n"), "{answer}");
    }
    ensure!(fs::read_dir(path("share/made"))?.count() == 888, "the host finds other entries");
    ensure!(fs::metadata(path("share/to/file"))?.len() == 100_000, "the file is not as long as it was made");
    ensure!(fs::metadata(path("share/to/file"))?.permissions().mode() & 0o7777 == 0o640, "other permissions");
    ensure!(fs::read_link(path("share/to/root"))? == Path::new("/"), "another link");
    ensure!(fs::read_dir(path("outside"))?.count() == before, "something outside has changed");
    ensure!(fs::read_dir(path("still"))?.count() == 1 && fs::read(path("still/file"))? == b"still\n", "it has changed");
    Ok(())
}

#[test]
fn a_guest_outlives_whoever_serves_its_directories() -> Result<()> {
    let image = boot_tests::host::image(&Variant::LOW.build()?)?;
    let directory = tempfile::tempdir()?;
    fs::write(directory.path().join("file"), "still there\n")?;
    let initramfs = Guest::script("share-ended", Vec::new()).initramfs()?;
    let share = directory.path().to_string_lossy().into_owned();
    let guests = GuestProcess::start_saying(&image, initramfs.path(), &["--share", &share], "share: still there")?;
    // It is the one with the directory open.
    let has_it_open = |process: &String| {
        let files = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_link(file.path()).ok()).any(|file| file == directory.path())
    };
    let servers: Vec<_> = guests.stubs()?.into_iter().filter(has_it_open).collect();
    ensure!(servers.len() == 1, "{servers:?} serve the directory");
    // It does not end by what ends the guest.
    for signal in ["TERM", "INT", "KILL"] {
        kill(signal, &servers)?;
    }
    let (status, said) = guests.end()?;
    ensure!(status == Some(0) && said.contains("share: I/O errors"), "{status:?}\n{said}");
    let log = format!("--share {share}: the process that serves it does not answer");
    ensure!(said.contains(&log), "the log does not say so: {said}");
    Ok(())
}

#[test]
fn what_is_no_directory_is_refused() -> Result<()> {
    let image = boot_tests::host::image(&Variant::LOW.build()?)?;
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    fs::write(path("file"), "")?;
    for (name, reason) in [
        ("missing", "cannot be opened, error 2 (no such file or directory)"),
        ("missing,ro", "cannot be opened, error 2 (no such file or directory)"),
        ("file", "is no directory"),
    ] {
        let output = Command::new(&image).arg("--share").arg(path(name)).stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let shown = path(name.split(',').next().unwrap_or(name));
        ensure!(said.contains(&format!("--share {}: {reason}", shown.display())), "{name}: {said}");
        ensure!(output.status.code() == Some(1) && !said.contains("Linux version"), "{name}: {:?}", output.status);
    }
    Ok(())
}

/// An image, or a script that starts one with other programs at hand.
fn wrapped(image: &Path, directory: &Path) -> Result<PathBuf> {
    let path = directory.join("image");
    write_script(&path, &format!("PATH={} exec {} \"$@\"", directory.display(), image.display()))?;
    Ok(path)
}

fn write_script(path: &Path, text: &str) -> Result<()> {
    fs::write(path, format!("#!/bin/sh\n{text}\n"))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// Boots a guest with a network, by another program than the image, which starts that.
fn boot_with_network(guest: &Guest, name: &'static str, image: Option<&Path>, net: &str) -> Result<String> {
    let initramfs = guest.initramfs()?;
    let machine = Host::Process.machine(&Variant::LOW.build()?, initramfs.path())?;
    let kernel = image.map(Path::to_owned).or(machine.kernel);
    let options = vec!["--net".into(), net.into()];
    let machine = Machine { kernel, options, timeout: Duration::from_secs(120), ..machine };
    machine.boot(&format!("process-{name}"), &Expectations::read(name)?)
}

/// Some MB go each way without a byte lost or changed, and passt ends with the guest.
#[test]
fn a_network_carries_what_is_sent() -> Result<()> {
    let image = boot_tests::host::image(&Variant::LOW.build()?)?;
    let directory = tempfile::tempdir()?;
    let passt = directory.path().join("passt");
    let id = directory.path().join("id");
    // The number stays.
    write_script(&passt, &format!("echo $$ > {}\nexec /usr/bin/passt \"$@\"", id.display()))?;
    let wrapped = wrapped(&image, directory.path())?;
    let mut guest = Guest::script("net-user", Vec::new());
    guest.files.push(("port", server::start()?.to_string()));
    // Debian 12's passt may come to loop, which is no fault of the guest's.
    let boot = || boot_with_network(&guest, "net-user", Some(&wrapped), "user");
    boot().or_else(|error| {
        println!("once more: {error:#}");
        boot()
    })?;
    let passts_id = || Ok::<_, anyhow::Error>(fs::read_to_string(&id)?.trim().to_owned());
    ensure!(!Path::new("/proc").join(passts_id()?).exists(), "passt is left, and nobody has waited for it");

    let initramfs = Guest::script("forks", Vec::new()).initramfs()?;
    let guests = GuestProcess::start_with(&wrapped, initramfs.path(), &["--net", "user"])?;
    let passt = passts_id()?;
    ensure!(runs(&passt), "passt does not run");
    guests.kill(&[passt])
}

#[test]
fn a_guest_outlives_its_network() -> Result<()> {
    let image = boot_tests::host::image(&Variant::LOW.build()?)?;
    let directory = tempfile::tempdir()?;
    write_script(&directory.path().join("passt"), "exit 1")?;
    let guest = Guest::script("net-down", Vec::new());
    let log = boot_with_network(&guest, "net-down", Some(&wrapped(&image, directory.path())?), "user")?;
    ensure!(log.contains("--net user: passt has ended: the guest's network is down"), "the log does not say so");
    Ok(())
}

#[test]
fn without_passt_a_network_is_refused() -> Result<()> {
    let image = boot_tests::host::image(&Variant::LOW.build()?)?;
    let directory = tempfile::tempdir()?;
    let run = || -> Result<(Option<i32>, String)> {
        let mut command = Command::new(&image);
        command.args(["--net", "user"]).env("PATH", directory.path()).stdin(Stdio::null());
        let output = command.output()?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
    };
    let (status, said) = run()?;
    ensure!(status == Some(1) && said.contains("--net user: there is no program `passt`"), "{status:?} {said}");
    // It may be executed, and is no program.
    let passt = directory.path().join("passt");
    fs::write(&passt, "?")?;
    fs::set_permissions(&passt, fs::Permissions::from_mode(0o755))?;
    let (status, said) = run()?;
    ensure!(status == Some(1) && said.contains("--net user: passt cannot be started, error 8"), "{status:?} {said}");
    Ok(())
}

/// In a network of its own, an interface, a server behind it, and somebody who asks the guest's
/// server and then starts another guest; the guest, which it all ends with.
const AT_AN_INTERFACE: &str = r#"
set -e
cd DIRECTORY
busybox tunctl -t burn0 > /dev/null
busybox ifconfig burn0 10.9.8.1 netmask 255.255.255.0 up
busybox ip link show burn0 > link
seq 600000 > numbers
timeout 300 busybox httpd -f -h . &
server=$!
ask() {
    for turn in $(seq 300); do
        if busybox wget -q -O got http://10.9.8.2/numbers && cmp -s got numbers && busybox ping -q -c 3 10.9.8.2 > ping; then
            IMAGE --net tap:burn0 > second < /dev/null || echo "status $?" >> second
            echo same > verdict
            return
        fi
        sleep 0.3
    done
}
ask 2> /dev/null &
asker=$!
status=0
IMAGE "$@" || status=$?
kill $server $asker 2> /dev/null || true
exit $status
"#;

/// Some MB go each way without a byte lost or changed, whoever begins.
#[test]
fn an_interface_carries_what_is_sent() -> Result<()> {
    let image = boot_tests::host::image(&Variant::LOW.build()?)?;
    let mut possible = Command::new("unshare");
    possible.args(["--net", "busybox", "tunctl", "-t", "burn0"]).stdout(Stdio::null()).stderr(Stdio::null());
    if !possible.status().is_ok_and(|status| status.success()) {
        println!("nobody may make a TAP interface here: what is refused is tried, and nothing else");
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    let script = AT_AN_INTERFACE.replace("IMAGE", &image.display().to_string());
    write_script(&path("inside"), &script.replace("DIRECTORY", &directory.path().display().to_string()))?;
    write_script(&path("image"), &format!("exec unshare --net {} \"$@\"", path("inside").display()))?;
    let log = boot_with_network(&Guest::script("net-tap", Vec::new()), "net-tap", Some(&path("image")), "tap:burn0")?;

    let second = fs::read_to_string(path("second"))?;
    let busy = "--net tap:burn0: another program has the interface, error 16 (device or resource busy)";
    ensure!(second.contains(busy) && second.contains("status 1") && !second.contains("Linux version"), "{second}");
    let link = fs::read_to_string(path("link"))?;
    let interface = link.split("link/ether ").nth(1).and_then(|rest| rest.get(..17)).context("its address")?;
    let card = log.split("the card has ").nth(1).and_then(|rest| rest.get(..17)).context("the card's address")?;
    let last = |address: &str| u8::from_str_radix(&address[15..], 16);
    ensure!(
        card[2..15] == interface[2..15] && last(card)? == last(interface)? ^ 0x80,
        "the interface has {interface}, the card {card}"
    );
    Ok(())
}

/// What cannot be had is refused before the guest runs, with its name and the reason.
#[test]
fn what_is_no_interface_of_the_users_is_refused() -> Result<()> {
    let image = boot_tests::host::image(&Variant::LOW.build()?)?;
    let no_device = "--net tap:lo: /dev/net/tun cannot be opened, error";
    let hidden = format!("mount -t tmpfs none /dev/net && exec {} --net tap:lo", image.display());
    let cases: [(&str, Vec<&str>, [&str; 2]); 3] = [
        ("--net tap:nobodys", vec![], ["--net tap:nobodys: there is no such interface, error 19"; 2]),
        (
            "--net tap:lo",
            vec![],
            ["--net tap:lo: this is no TAP interface, or one with several queues, error 22", no_device],
        ),
        // As whoever may do everything here, or nothing.
        ("", vec!["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", &hidden], [no_device, "unshare"]),
    ];
    for (arguments, wrapper, reasons) in cases {
        let mut command = Command::new(wrapper.first().map_or(image.as_os_str(), |program| program.as_ref()));
        command.args(wrapper.iter().skip(1)).args(arguments.split_whitespace()).stdin(Stdio::null());
        let output = command.output()?;
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
        ensure!(reasons.iter().any(|reason| said.contains(reason)), "{arguments}: {said}");
        ensure!(output.status.code() == Some(1) && !said.contains("Linux version"), "{arguments}: {:?}", output.status);
    }
    Ok(())
}
