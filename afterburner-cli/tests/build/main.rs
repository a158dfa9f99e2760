//! `afterburner build` on a tree that has of a kernel's what matters: variables, flags, `vmlinux`,
//! a module.

mod accept;
mod compiler;
mod images;
mod interruption;
mod low;
#[path = "../support/mod.rs"]
mod support;

use std::path::PathBuf;

use support::{AFTERBURNER, Lab, Result};

const MAKEFILE: &str = "\
ifneq ($(LLVM),)
CC = clang
else
CC = $(CROSS_COMPILE)gcc
endif
ifeq ($(LLVM_IAS),0)
IAS = -fno-integrated-as
endif
O ?= .
CFLAGS = -g $(IAS) $(if $(BYPASS),,$(KCFLAGS))
AFLAGS = -g $(IAS) $(if $(BYPASS),,$(KAFLAGS))
all: $(O)/vmlinux $(O)/m.ko
$(O)/vmlinux: $(O)/a.o $(O)/b.o
\tld -e f -o $@ $^
$(O)/m.ko: $(O)/m.o
\tld -r -o $@ $^
$(O)/%.o: %.c
\t$(CC) $(CFLAGS) -c -o $@ $<
$(O)/%.o: %.S
\t$(CC) $(AFLAGS) -c -o $@ $<
config:
\t@echo configured
fail:
\t@exit 3
nested:
\t+$(AFTERBURNER) build -- $(MAKE) all
";

const SOURCES: &[(&str, &str)] = &[
    ("Makefile", MAKEFILE),
    ("a.c", "int f(void)\n{\n\tasm volatile(\"cli\");\n\treturn 1;\n}\n"),
    ("b.S", "\t.globl g\n\t.type g,@function\ng:\n\tsti\n\tret\n"),
    ("m.c", "int m(void)\n{\n\tasm volatile(\"cpuid\" ::: \"eax\", \"ebx\", \"ecx\", \"edx\");\n\treturn 1;\n}\n"),
];

fn tree() -> Lab {
    let lab = Lab::new();
    lab.write_all(SOURCES);
    lab
}

/// Runs `afterburner build OPTIONS -- make ARGUMENTS`, with variables.
fn build_with(lab: &Lab, variables: &[(&str, &str)], options: &[&str], arguments: &[&str]) -> Result {
    let mut command = lab.command(AFTERBURNER, &[&["build"], options, &["--", "make"], arguments].concat());
    command.env("XDG_CACHE_HOME", lab.path("cache")).env("CCACHE_DIR", lab.path("ccache"));
    command.env("CCACHE_COMPILERCHECK", "mtime").envs(variables.iter().copied());
    Result::of(command.output().expect("the command"))
}

fn build(lab: &Lab, options: &[&str], arguments: &[&str]) -> Result {
    build_with(lab, &[], options, arguments)
}

#[track_caller]
fn assert_annotated(lab: &Lab, files: &[&str]) {
    for file in files {
        assert!(lab.has_records(file), "{file}");
    }
}

fn shim_directories(lab: &Lab) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(lab.path("cache/afterburner")).expect("a cache");
    entries.flatten().map(|entry| entry.path()).collect()
}

#[test]
fn with_gcc() {
    let lab = tree();
    let result = build(&lab, &["--check", "--report", "report.json"], &["-j2"]).success();
    assert_annotated(&lab, &["a.o", "b.o", "vmlinux", "m.ko"]);
    assert!(result.stdout.contains("ld -e f"), "{result:?}");
    assert!(!result.stdout.contains("afterburner:"), "{result:?}");
    assert!(
        result
            .stderr
            .contains("objects: 3 assembled, 3 annotated, 0 with nothing to annotate, 0 left alone, 0 missed\n"),
        "{result:?}"
    );
    assert!(result.stderr.contains("/vmlinux: sites 2, "), "{result:?}");
    let report: serde_json::Value = serde_json::from_slice(&lab.read("report.json")).expect("JSON");
    assert_eq!(report["objects"]["annotated"], 3);
    assert_eq!(report["files"].as_array().map(Vec::len), Some(2));
    assert_eq!(report["files"][1]["classes"]["sti"]["sites"], 1);
    let result = build(&lab, &[], &[]).success();
    assert!(result.stderr.contains("objects: 0 assembled"), "{result:?}");
    assert!(result.stderr.contains("/vmlinux: sites 2, "), "what is up to date is verified too: {result:?}");
}

#[test]
fn out_of_tree() {
    let lab = tree();
    lab.write("out/keep", "");
    build(&lab, &[], &["O=out", "KCFLAGS=-DX=1"]).success();
    assert_annotated(&lab, &["out/vmlinux", "out/m.ko"]);
    assert!(!lab.path("vmlinux").exists());
}

#[test]
fn the_user_s_flags_are_kept() {
    let lab = tree();
    lab.write("a.c", "int f(void)\n{\n\tasm volatile(\"cli\");\n\treturn GIVEN + INHERITED;\n}\n");
    let given = build(&lab, &[], &["KCFLAGS=-DGIVEN=1 -DINHERITED=2", "all"]).success();
    assert!(given.stdout.contains("-DGIVEN=1 -DINHERITED=2"), "{given:?}");
    lab.write("a.c", "int f(void)\n{\n\tasm volatile(\"sti\");\n\treturn INHERITED;\n}\n");
    build_with(&lab, &[("KCFLAGS", "-DINHERITED=2")], &[], &["-B"]).success();
    assert_annotated(&lab, &["vmlinux"]);
}

#[test]
fn with_clang() {
    for arguments in [&["LLVM=1"] as &[&str], &["LLVM=1", "LLVM_IAS=0"], &["CC=clang", "LLVM_IAS=0"], &["CC=clang"]] {
        let lab = tree();
        let result = build(&lab, &["--check"], arguments).success();
        assert_annotated(&lab, &["vmlinux", "m.ko"]);
        assert!(result.stderr.contains("3 annotated"), "{arguments:?}: {result:?}");
    }
}

#[test]
fn a_silent_bypass_is_an_error() {
    let lab = tree();
    let result = build(&lab, &[], &["BYPASS=1"]);
    assert_eq!(result.status.code(), Some(1), "{result:?}");
    let errors: Vec<&str> = result.stderr.lines().filter(|line| line.starts_with("afterburner: error:")).collect();
    assert!(errors.iter().any(|line| line.contains("the compiler did not use the shim")), "{errors:?}");
    assert!(errors.iter().any(|line| line.contains("f+0x4") && line.contains("a.c:3")), "{errors:?}");
}

#[test]
fn make_decides_about_the_status() {
    let lab = tree();
    let result = build(&lab, &[], &["fail"]);
    assert_eq!(result.status.code(), Some(2), "{result:?}");
    assert!(!result.stderr.contains("afterburner:"), "{result:?}");
    let result = build(&lab, &[], &["config"]).success();
    assert_eq!(result.stdout, "configured\n");
    let arguments = ["build", "--", "/no/such/make"];
    let missing = lab.command(AFTERBURNER, &arguments).env("XDG_CACHE_HOME", lab.path("cache")).output();
    let missing = Result::of(missing.expect("the command"));
    assert_eq!(missing.status.code(), Some(2), "{missing:?}");
    assert_eq!(missing.stderr, "afterburner: cannot run /no/such/make: No such file or directory (os error 2)\n");
}

#[test]
fn single_objects_are_verified() {
    let lab = tree();
    let result = build(&lab, &[], &["./a.o"]).success();
    assert!(result.stderr.contains("objects: 1 assembled, 1 annotated"), "{result:?}");
    assert!(result.stderr.contains("cli "), "{result:?}");
}

#[test]
fn what_leaves_no_room_for_pads_is_recorded_without() {
    let lab = tree();
    lab.write("b.S", "\t.globl g\ng:\n\tsti\n\tret\n\t.org g + 2\n");
    let result = build(&lab, &[], &[]).success();
    assert!(result.stderr.contains("1 left alone: within a distance that the text counts in bytes"), "{result:?}");
}

#[test]
fn what_cannot_be_recorded_fails_the_build() {
    let lab = tree();
    lab.write(
        "b.S",
        "\t.altmacro\n\t.macro afterburn_record\n\t.endm\n\t.macro off b\n\tsti\n\t.endm\n\t.globl g\ng:\toff\n\tret\n",
    );
    let result = build(&lab, &[], &[]);
    assert_eq!(result.status.code(), Some(1), "{result:?}");
    assert!(result.stderr.contains("b.o: the assembler rejects the padded text: "), "{result:?}");
    assert!(result.stderr.contains("b.S:2: Error: "), "{result:?}");
}

#[test]
fn what_is_left_alone_is_listed_with_its_reason() {
    let lab = tree();
    lab.write("arch/x86/boot/x.c", "int x(void) { asm(\"cli\"); return 1; }\n");
    let result = build(&lab, &["--report", "report"], &["arch/x86/boot/x.o"]).success();
    assert!(result.stderr.contains("1 left alone: boot loader stub"), "{result:?}");
    let report = String::from_utf8(lab.read("report")).unwrap_or_default();
    assert!(report.contains("arch/x86/boot/x.o"), "{report}");
}

#[test]
fn a_class_can_be_left_alone() {
    let lab = tree();
    let result = build(&lab, &["--without", "sti"], &[]).success();
    assert!(result.stderr.contains("1 left alone: class switched off"), "{result:?}");
    let result = build(&lab, &["--without", "nonsense"], &[]);
    assert_eq!(result.status.code(), Some(2), "{result:?}");
    assert!(result.stderr.contains("no such class; there are cli, sti,"), "{result:?}");
}

#[test]
fn a_compiler_cache_sees_a_change_of_the_shim() {
    for cc in ["CC=ccache gcc", "CC=ccache clang"] {
        let lab = tree();
        let first = build(&lab, &[], &[cc]).success();
        assert!(first.stderr.contains("objects: 3 assembled, 3 annotated"), "is ccache installed? {first:?}");
        for name in ["a.o", "b.o", "m.o", "vmlinux", "m.ko"] {
            std::fs::remove_file(lab.path(name)).expect("a file");
        }
        let again = build(&lab, &[], &[cc]).success();
        let is_served = again.stderr.contains("objects: 0 assembled") || again.stderr.contains("objects: 1 assembled");
        assert!(is_served, "from the cache, except perhaps assembly: {again:?}");
        assert_annotated(&lab, &["vmlinux", "m.ko"]);
        let other = build(&lab, &["--without", "cli"], &["-B", cc]).success();
        assert!(other.stderr.contains("1 left alone: class switched off"), "{cc}: {other:?}");
        assert_eq!(shim_directories(&lab).len(), 2);
    }
}

#[test]
fn a_cache_under_the_compiler_s_name_keeps_working() {
    for arguments in [&[] as &[&str], &["LLVM=1"], &["LLVM=1", "LLVM_IAS=0"]] {
        let lab = tree();
        let ccache = lab.run("sh", &["-c", "command -v ccache"]).success();
        for name in ["gcc", "clang"] {
            std::fs::create_dir_all(lab.path("bin")).expect("a directory");
            std::os::unix::fs::symlink(ccache.stdout.trim(), lab.path("bin").join(name)).expect("a link");
        }
        let path = format!("{}:{}", lab.path("bin").display(), std::env::var("PATH").expect("PATH"));
        for expected in ["objects: 3 assembled", "objects: 0 assembled"] {
            let result = build_with(&lab, &[("PATH", &path)], &[], &[arguments, &["-B"]].concat()).success();
            assert!(result.stderr.contains(expected), "{arguments:?}: {result:?}");
            assert_annotated(&lab, &["vmlinux", "m.ko"]);
        }
    }
}

#[test]
fn a_job_server_is_passed_on() {
    let lab = tree();
    let mut command = lab.command("make", &["-j2", "nested"]);
    command.env("AFTERBURNER", AFTERBURNER).env("XDG_CACHE_HOME", lab.path("cache"));
    let result = Result::of(command.output().expect("make")).success();
    assert!(!result.stderr.contains("jobserver"), "{result:?}");
    assert_annotated(&lab, &["vmlinux"]);
}

#[test]
fn wrong_places_are_told() {
    let lab = tree();
    let result = build_with(&lab, &[("XDG_CACHE_HOME", "/tmp/a b")], &[], &[]);
    assert_eq!(result.status.code(), Some(2), "{result:?}");
    assert!(result.stderr.contains("set XDG_CACHE_HOME to a plainer one"), "{result:?}");
    let result = build(&lab, &["--report", "no-such-directory/report"], &[]);
    assert_eq!(result.status.code(), Some(2), "{result:?}");
    assert!(result.stderr.contains("afterburner: cannot write no-such-directory/report: "), "{result:?}");
}
