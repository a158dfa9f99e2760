//! A build that is ended, and places that are not there.

use std::fs;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{AFTERBURNER, Lab};
use crate::{build_with, tree};

/// A recipe with a program below its shell, which notes its number and goes on for a minute.
const SLOW: &str = "all:\n\t+sh -c 'echo $$$$ > below; exec sleep 60'; :\n\t: > finished\n";

/// Starts a build and waits until it is in the middle of it.
fn start(lab: &Lab, arguments: &[&str]) -> Child {
    fs::create_dir_all(lab.path("tmp")).expect("a directory");
    // Whoever runs the tests may have them ignore a signal, as `nohup` does.
    let mut command = lab.command("env", &[&["--default-signal", AFTERBURNER], arguments].concat());
    command.env("XDG_CACHE_HOME", lab.path("cache")).env("TMPDIR", lab.path("tmp"));
    let child = command.process_group(0).spawn().expect("the command");
    wait_for(|| fs::read_to_string(lab.path("below")).is_ok_and(|number| number.ends_with('\n')));
    child
}

#[track_caller]
fn wait_for(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(50);
    while !condition() {
        assert!(Instant::now() < deadline, "it does not happen");
        thread::sleep(Duration::from_millis(10));
    }
}

fn kill(signal: &str, pid: u32) {
    let status = Command::new("kill").args([signal, &pid.to_string()]).status();
    assert!(status.expect("kill").success());
}

fn is_running(lab: &Lab) -> bool {
    let number = String::from_utf8(lab.read("below")).expect("a number");
    let stat = fs::read_to_string(Path::new("/proc").join(number.trim()).join("stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_signal_to_the_command_ends_all_of_the_build() {
    for (name, number) in [("-TERM", 15), ("-HUP", 1), ("-INT", 2), ("-QUIT", 3)] {
        let lab = Lab::new();
        lab.write("Makefile", SLOW);
        let mut child = start(&lab, &["build", "--", "make", "-s"]);
        kill(name, child.id());
        let status = child.wait().expect("a status");
        assert_eq!(status.signal(), Some(number), "as a shell wants it, which says 128 + {number}");
        assert!(!is_running(&lab), "{name}");
        assert!(!lab.path("finished").exists());
        assert_eq!(fs::read_dir(lab.path("tmp")).expect("a directory").count(), 0);
        assert_eq!(crate::shim_directories(&lab).len(), 1, "nor is anything else left");
    }
}

#[test]
fn the_death_of_the_command_ends_make() {
    let lab = Lab::new();
    lab.write("Makefile", SLOW);
    let mut child = start(&lab, &["build", "--", "make", "-s"]);
    child.kill().expect("a process");
    child.wait().expect("a status");
    let make = format!("{}", lab.path("").canonicalize().expect("a directory").display());
    let is_make = |entry: &fs::DirEntry| {
        let is_here = fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == Path::new(&make));
        is_here && fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| name.trim() == "make")
    };
    wait_for(|| !fs::read_dir("/proc").expect("/proc").flatten().any(|entry| is_make(&entry)));
    assert!(!lab.path("finished").exists());
    assert_eq!(fs::read_dir(lab.path("tmp")).expect("a directory").count(), 0);
}

#[test]
fn a_signal_that_is_ignored_stays_so() {
    let lab = Lab::new();
    lab.write("Makefile", "other:\n\techo > below; sleep 1; : > finished\n");
    let mut command = lab.command("nohup", &[AFTERBURNER, "build", "--", "make", "-s", "other"]);
    command.env("XDG_CACHE_HOME", lab.path("cache")).process_group(0);
    let mut child = command.spawn().expect("nohup");
    wait_for(|| lab.path("below").exists());
    kill("-HUP", child.id());
    assert!(child.wait().expect("a status").success());
    assert!(lab.path("finished").exists());
}

#[test]
fn the_directory_for_temporary_files_does_not_matter() {
    for place in ["/nonexistent", "/dev/full", "/proc", ""] {
        let lab = tree();
        let result = build_with(&lab, &[("TMPDIR", place)], &[], &["KCFLAGS=-pipe", "KAFLAGS=-pipe"]).success();
        assert!(result.stderr.contains("objects: 3 assembled, 3 annotated"), "{place}: {result:?}");
    }
}
