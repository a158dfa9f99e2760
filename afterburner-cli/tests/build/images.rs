//! What was built is verified, however make was called and wherever it wrote to.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{Lab, Result};
use crate::{build, build_with};

/// One object of `vmlinux` goes around the shims.
const BYPASSED: &[(&str, &str)] = &[
    (
        "t/Makefile",
        "CC = gcc\nO ?= .\nCFLAGS = -O2 -ffreestanding\nall vmlinux: $(O)/vmlinux\nmodules: $(O)/m.ko\n\
         $(O)/vmlinux: $(O)/a.o $(O)/b.o\n\tld -e f -o $@ $^\n$(O)/m.ko: $(O)/a.o $(O)/b.o\n\tld -r -o $@ $^\n\
         $(O)/a.o: a.c\n\t$(CC) $(CFLAGS) $(KCFLAGS) -c -o $@ $<\n$(O)/b.o: b.c\n\t$(CC) $(CFLAGS) -c -o $@ $<\n\
         .PHONY: all vmlinux modules\nnothing:\n\tfalse\n",
    ),
    ("t/a.c", "void f(void) { asm volatile(\"cli\"); }\n"),
    ("t/b.c", "void g(void) { asm volatile(\"wrmsr\"); }\n"),
    ("t/out/keep", ""),
];

fn bypassed() -> Lab {
    let lab = Lab::new();
    lab.write_all(BYPASSED);
    lab
}

#[track_caller]
fn assert_found(result: &Result, image: &str) {
    assert_eq!(result.status.code(), Some(1), "{result:?}");
    let is_it = |line: &str| line.contains(image) && line.contains("wrmsr") && line.contains("has no record");
    assert!(result.stderr.lines().any(is_it), "{image}: {result:?}");
}

#[test]
fn wherever_the_options_lead() {
    let lab = bypassed();
    let joined = format!("-kC{}", lab.path("t").display());
    let home = lab.path("t").display().to_string();
    for (arguments, image) in [
        (&["-C", "t"] as &[&str], "t/vmlinux"),
        (&["-sC", "t"], "t/vmlinux"),
        (&[&joined], "t/vmlinux"),
        (&["--directory", "t"], "t/vmlinux"),
        (&["--direct=t", "--silent"], "t/vmlinux"),
        (&["-f", "t/Makefile", "VPATH=t"], "/vmlinux"),
        (&["O=out", "-j", "2", "--directory=t"], "t/out/vmlinux"),
        (&["-Ct", "--", "O=$(CURDIR)/out", "vmlinux"], "t/out/vmlinux"),
        (&["-C", "t", "O=~/out"], "t/out/vmlinux"),
        (&["-C", "t", "modules"], "t/m.ko"),
    ] {
        for name in ["t/a.o", "t/b.o", "t/vmlinux", "t/out/a.o", "t/out/b.o", "t/out/vmlinux"] {
            let _ = fs::remove_file(lab.path(name));
        }
        for _ in 0..2 {
            // The second time there is nothing to be done.
            assert_found(&build_with(&lab, &[("HOME", &home)], &[], arguments), image);
        }
    }
    assert_found(&build_with(&lab, &[("MAKEFLAGS", "s --directory=t O=out")], &[], &["-C", "t"]), "t/out/vmlinux");
}

#[test]
fn wherever_another_makefile_builds() {
    for (recipe, goals, image) in [
        ("$(MAKE) -C ../t O=out", &[] as &[&str], "t/out/vmlinux"),
        ("cd ../t && $(MAKE) O=$(CURDIR)/../o", &[], "o/vmlinux"),
        ("$(MAKE) -C ../t modules", &[], "t/m.ko"),
        ("$(MAKE) -C ../t vmlinux", &["linux"], "t/vmlinux"),
        ("env -u MAKEFILES $(MAKE) -C ../t vmlinux -B", &["linux"], "t/vmlinux"),
        // No object comes by the shims.
        ("$(MAKE) -C ../t KCFLAGS=", &[], "t/vmlinux"),
    ] {
        let lab = bypassed();
        lab.write("wrap/Makefile", format!("linux:\n\t{recipe}\n"));
        lab.write("o/keep", "");
        for _ in 0..2 {
            // The second time there is nothing to be done, and the same to be said.
            assert_found(&build(&lab, &[], &[&["-C", "wrap"], goals].concat()), image);
        }
    }
}

#[test]
fn makes_are_asked_behind_the_back_of_their_makefiles() {
    const MAKEFILE: &str = "$(info $(.DEFAULT_GOAL) $(firstword $(MAKEFILE_LIST)) $(words $(MAKEFILE_LIST)) $(origin O))\n\
                            first:\n\t+$(if $(DEPTH),,$(MAKE) DEPTH=1)\n%: force\n\t@echo remakes $@\nforce: ;\nMakefile: ;\n";
    let lab = Lab::new();
    lab.write("Makefile", MAKEFILE);
    let options = ["-s", "--warn-undefined-variables", "--no-print-directory", "first"];
    let plain = lab.run("make", &options).success();
    let result = build(&lab, &[], &options).success();
    assert_eq!(result.stdout, plain.stdout);
    let own = result.stderr.lines().filter(|line| line.starts_with("afterburner: ")).count();
    assert_eq!(result.stderr.lines().count() - own, plain.stderr.lines().count(), "{result:?}, {plain:?}");
}

#[test]
fn a_kernel_that_is_not_shown_is_an_error() {
    let lab = Lab::new();
    lab.write("Makefile", "all vmlinux modules bindeb-pkg x.ko:\n\t@true\nother:\n\t@true\n");
    for goals in [&[] as &[&str], &["vmlinux"], &["modules"], &["bindeb-pkg"], &["x.ko"]] {
        let result = build(&lab, &["--report", "report"], goals);
        assert_eq!(result.status.code(), Some(1), "{goals:?}: {result:?}");
        assert!(result.stderr.contains(" was found to verify"), "{goals:?}: {result:?}");
        let report: serde_json::Value = serde_json::from_slice(&lab.read("report")).expect("JSON");
        assert!(report["missing"].is_string(), "{goals:?}: {report}");
    }
    let other = build(&lab, &[], &["other"]).success();
    assert!(other.stderr.contains("no kernel or module was verified"), "{other:?}");
    lab.write("modules.order", "");
    build(&lab, &[], &["modules"]).success();
}

#[test]
fn what_builds_nothing_cannot_fail() {
    let lab = bypassed();
    for arguments in [&["-n"] as &[&str], &["--dry-run"], &["-t"], &["-p", "-n"], &["--version"], &["--help"]] {
        let result = build(&lab, &[], &[&["-C", "t"], arguments].concat()).success();
        assert!(!result.stderr.contains("error"), "{arguments:?}: {result:?}");
        let _ = fs::remove_file(lab.path("t/vmlinux"));
    }
    assert_eq!(build(&lab, &[], &["-C", "t", "-q"]).status.code(), Some(1));
    assert!(!lab.path("t/b.o").metadata().is_ok_and(|object| object.len() > 0));
}

/// Changes nothing but that the file was changed long ago, also for who looks at `st_ctime`.
fn assemble(lab: &Lab, text: &str, object: &str) {
    lab.write("text.s", text);
    lab.run("as", &["-o", object, "text.s"]).silent_success();
    std::thread::sleep(std::time::Duration::from_millis(50));
}

#[test]
fn what_belongs_to_no_build_is_left_alone() {
    let lab = crate::tree();
    lab.write("old/keep", "");
    assemble(&lab, "wrmsr\n", "old/x.ko");
    let result = build(&lab, &[], &[]).success();
    assert!(!result.stderr.contains("x.ko"), "{result:?}");
    // Linux says which modules there are.
    lab.write("modules.order", "m.ko\n");
    build(&lab, &[], &[]).success();
    lab.write("modules.order", "m.o\nold/x.o\n");
    assert_found(&build(&lab, &[], &[]), "old/x.ko");
    assert_found(&build(&lab, &[], &["-W", "m.c"]), "old/x.ko");
}

#[test]
fn a_kernel_that_was_there_is_verified_with_a_new_module() {
    let lab = crate::tree();
    build(&lab, &[], &[]).success();
    assemble(&lab, "wrmsr\n", "vmlinux");
    for arguments in [&["-W", "m.c", "-o", "vmlinux"] as &[&str], &["-o", "vmlinux"]] {
        assert_found(&build(&lab, &[], arguments), "/vmlinux");
    }
    build(&lab, &[], &["m.ko"]).success();
}

#[test]
fn a_copy_with_an_old_date_is_new() {
    let lab = Lab::new();
    lab.write("Makefile", "all:\n\tcp -p old.bin copy.ko\n");
    assemble(&lab, "wrmsr\n", "old.bin");
    assert!(
        Command::new("touch").args(["-d", "2001-01-01"]).arg(lab.path("old.bin")).status().expect("touch").success()
    );
    assert_found(&build(&lab, &[], &["all", "-B"]), "copy.ko");
}

#[test]
fn files_for_debuggers_are_no_modules() {
    let lab = Lab::new();
    lab.write(
        "Makefile",
        "CC = gcc\nbindeb-pkg: m.ko\n\tmkdir -p dbg image\n\tobjcopy --only-keep-debug $< dbg/m.ko\n\
         \tobjcopy --strip-debug $< image/m.ko\nm.ko: m.o\n\tld -r -o $@ $<\n\
         m.o: m.c\n\t$(CC) -g $(FLAGS) -c -o $@ $<\nFLAGS = $(KCFLAGS)\n",
    );
    lab.write("m.c", "void m(void) { asm volatile(\"wrmsr\"); }\n");
    for goal in ["bindeb-pkg", "m.ko"] {
        let result = build(&lab, &[], &[goal]).success();
        assert!(result.stderr.contains("/m.ko: sites 1") && !result.stderr.contains("dbg/m.ko"), "{result:?}");
    }
    // Code that is there is looked at.
    let result = build(&lab, &[], &["-B", "bindeb-pkg", "FLAGS="]);
    assert_found(&result, "image/m.ko");
    assert!(Path::new(&lab.path("dbg/m.ko")).exists() && !result.stderr.contains("dbg/m.ko"), "{result:?}");
}
