//! The scripts of the project, with other programs in place of those that need more than a test
//! has.

mod support;

use std::path::Path;

use support::{Lab, Result};

/// Runs scripts/apt with an `apt-get` that fails with this message twice.
fn apt(message: &str, patience: &str) -> (Lab, Result) {
    let lab = Lab::new();
    lab.write(
        "bin/apt-get",
        format!("#!/bin/sh\necho \"$@\" >> calls\nif [ $(wc -l < calls) -gt 2 ]; then echo done; else echo '{message}' >&2; exit 100; fi\n"),
    );
    lab.run("chmod", &["+x", "bin/apt-get"]).silent_success();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/apt");
    let path = format!("{}:{}", lab.path("bin").display(), std::env::var("PATH").expect("PATH"));
    let mut command = lab.command(script, &["download", "a package"]);
    command.env("PATH", path).env("AFTERBURNER_PATIENCE", patience);
    let result = Result::of(command.output().expect("scripts/apt"));
    (lab, result)
}

#[test]
fn apt_waits_for_its_locks() {
    for message in [
        "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 1 (apt-get)",
        "E: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend), is another process using it?",
        "E: Unable to lock directory /var/cache/apt/archives/",
    ] {
        let (lab, result) = apt(message, "600");
        assert_eq!(result.success().stdout, "done\n");
        let calls = String::from_utf8(lab.read("calls")).expect("text");
        let call = "-qq -o DPkg::Lock::Timeout=600 download a package\n";
        assert_eq!(calls, call.repeat(3));
    }
}

#[test]
fn other_failures_of_apt_are_passed_on() {
    for (message, patience) in [("E: Unable to locate package x", "600"), ("E: Could not get lock /x", "0")] {
        let (lab, result) = apt(message, patience);
        assert_eq!(result.status.code(), Some(100), "{result:?}");
        assert_eq!(result.stderr, format!("{message}\n"));
        assert_eq!(String::from_utf8(lab.read("calls")).expect("text").lines().count(), 1);
    }
}
