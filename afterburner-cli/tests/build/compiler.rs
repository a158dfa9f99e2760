//! Whatever `CC` says, the compiler uses the shims, or that is said before make starts.

use crate::support::Result;
use crate::{assert_annotated, build, build_with, tree};

#[test]
fn any_program_may_run_the_compiler() {
    for cc in ["time gcc", "env X=1 gcc", "time clang", "env X=1 nice -n 0 clang", "clang -Wall", "env \"X=1 2\" clang"]
    {
        let lab = tree();
        build(&lab, &[], &[&format!("CC={cc}")]).success();
        assert_annotated(&lab, &["vmlinux", "m.ko"]);
    }
    let lab = tree();
    build(&lab, &[], &["CC=nice clang", "LLVM_IAS=0"]).success();
    assert_annotated(&lab, &["vmlinux", "m.ko"]);
}

#[test]
fn a_compiler_of_the_environment_counts_where_make_lets_it() {
    let lab = tree();
    build_with(&lab, &[("CC", "env X=1 clang")], &[], &["-e"]).success();
    assert_annotated(&lab, &["vmlinux"]);
    let comment = lab.run("readelf", &["-p", ".comment", "a.o"]).stdout;
    assert!(comment.contains("clang"), "{comment}");
}

#[test]
fn a_script_may_be_the_compiler() {
    let lab = tree();
    lab.write("bin/compile", "#!/bin/sh\nexec clang \"$@\"\n");
    lab.run("chmod", &["+x", "bin/compile"]).silent_success();
    for cc in ["CC=bin/compile", "CC=nice ./bin/compile"] {
        build(&lab, &[], &["-B", cc]).success();
        assert_annotated(&lab, &["vmlinux", "m.ko"]);
    }
}

/// Refused with this reason before make starts.
#[track_caller]
fn assert_refused(result: &Result, lab: &crate::support::Lab, reason: &str) {
    assert_eq!(result.status.code(), Some(2), "{result:?}");
    assert!(result.stderr.contains(reason), "{result:?}");
    assert!(result.stdout.is_empty() && !lab.path("a.o").exists(), "{result:?}");
}

#[test]
fn what_keeps_the_shims_out_is_said_at_once() {
    let lab = tree();
    // It drops the option that names the shims' directory.
    lab.write(
        "deaf",
        "#!/bin/sh\nfor o; do shift; case $o in -B*) ;; *) set -- \"$@\" \"$o\" ;; esac; done\nexec gcc \"$@\"\n",
    );
    lab.run("chmod", &["+x", "deaf"]).silent_success();
    let refused = [
        ("CC=", "CC= names no compiler"),
        ("CC=true -x", "CC=true -x names no compiler"),
        ("CC=./deaf", "CC=./deaf: nothing would be annotated: the compiler does not use the shim in "),
        ("KCFLAGS=-m32", "nothing would be annotated: 16- or 32-bit code"),
    ];
    for (argument, reason) in refused {
        assert_refused(&build(&lab, &[], &[argument]), &lab, reason);
    }
    let lto = build(&lab, &[], &["CC=clang", "KCFLAGS=-flto"]);
    assert_refused(&lto, &lab, "nothing would be annotated: -flto keeps code from the assembler");
}

#[test]
fn a_shim_that_cannot_be_run_is_said_at_once() {
    let lab = tree();
    build(&lab, &[], &["config"]).success();
    let [directory] = crate::shim_directories(&lab).try_into().expect("one directory");
    lab.run("chmod", &["-x", &directory.join("as").display().to_string()]).silent_success();
    assert_refused(&build(&lab, &[], &[]), &lab, "the shim cannot be run: ");
}

#[test]
fn a_compiler_that_does_not_work_is_make_s_business() {
    let lab = tree();
    let result = build(&lab, &[], &["KCFLAGS=-no-such-option", "CC=gcc"]);
    assert_eq!(result.status.code(), Some(2), "{result:?}");
    assert!(result.stderr.contains("make: *** "), "{result:?}");
    let result = build(&lab, &[], &["CROSS_COMPILE=no-such-target-"]);
    assert!(result.stderr.contains("no-such-target-gcc: No such file"), "{result:?}");
}
