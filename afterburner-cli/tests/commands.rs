//! The command line itself, and `afterburner annotate`.

mod support;

use support::{AFTERBURNER, Lab, PLAIN, SENSITIVE};

#[test]
fn help_says_what_the_exit_status_means() {
    let lab = Lab::new();
    for arguments in [&["--help"] as &[&str], &["-h"], &["help"]] {
        let result = lab.afterburner(arguments).success();
        assert!(result.stdout.contains("Exit status:"), "{result:?}");
    }
    for command in ["build", "verify", "sites", "compare", "annotate", "as", "clang"] {
        assert!(lab.afterburner(&["help", command]).success().stdout.contains("Usage: afterburner"), "{command}");
    }
}

#[test]
fn a_wrong_command_line_is_status_2() {
    let lab = Lab::new();
    for arguments in [&[] as &[&str], &["no-such-command"], &["build"], &["annotate"], &["verify", "no-such-file"]] {
        let result = lab.afterburner(arguments);
        assert_eq!(result.status.code(), Some(2), "{arguments:?}: {result:?}");
        assert!(!result.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn completions_and_manual_pages() {
    let lab = Lab::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(lab.afterburner(&["completions", shell]).success().stdout.contains("annotate"), "{shell}");
    }
    assert!(lab.afterburner(&["man"]).success().stdout.contains(".TH afterburner 1"));
    lab.afterburner(&["man", "."]).silent_success();
    assert!(lab.path("afterburner-build.1").exists());
    assert_eq!(lab.afterburner(&["man", "no-such-directory"]).status.code(), Some(2));
}

#[test]
fn a_text_is_annotated_from_file_to_file() {
    let lab = Lab::with(&[("in.s", SENSITIVE.as_bytes()), ("plain.s", PLAIN.as_bytes())]);
    lab.afterburner(&["annotate", "in.s", "-o", "out.s"]).silent_success();
    lab.run("as", &["out.s", "-o", "out.o"]).silent_success();
    assert!(lab.has_records("out.o"));
    let printed = lab.afterburner(&["annotate", "in.s"]).success();
    assert_eq!(printed.stdout.into_bytes(), lab.read("out.s"));
    let piped = support::feed(lab.command(AFTERBURNER, &["annotate", "-", "-o", "-"]), SENSITIVE.as_bytes()).success();
    assert!(piped.stdout.contains("{standard input}"), "{piped:?}");
    lab.afterburner(&["annotate", "plain.s", "-o", "same.s"]).silent_success();
    assert_eq!(lab.read("same.s"), PLAIN.as_bytes());
}

#[test]
fn a_text_that_cannot_be_written_is_not_written_in_part() {
    let lab = Lab::with(&[("in.s", SENSITIVE.as_bytes())]);
    let missing = lab.afterburner(&["annotate", "no-such.s", "-o", "out.s"]);
    assert_eq!(missing.status.code(), Some(2));
    assert_eq!(missing.stderr, "afterburner: cannot read no-such.s: No such file or directory (os error 2)\n");
    let nowhere = lab.afterburner(&["annotate", "in.s", "-o", "no-such/out.s"]);
    assert_eq!(nowhere.status.code(), Some(2));
    let full = std::fs::File::create("/dev/full").expect("/dev/full");
    let status = lab.command(AFTERBURNER, &["annotate", "in.s"]).stdout(full).status().expect("the command");
    assert_eq!(status.code(), Some(2));
    assert_eq!(lab.files().len(), 1);
}
