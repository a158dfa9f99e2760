//! Objects that came ready-made are accepted where the user says so, and nothing else is.

use crate::support::{Lab, Result};
use crate::{build, tree};

/// Ready-made: a call, so that a linker has something to fill in, and two sensitive instructions.
const BLOB: &str = "\t.globl now\nnow:\tcall elsewhere\n\trdtsc\n\tlidt table(%rip)\n\tret\n";

/// A tree in which `m.ko` and `vmlinux` hold an object that came so.
fn shipped(text: &str) -> Lab {
    let lab = tree();
    lab.write("blob.s", text);
    lab.run("as", &["-o", "blob.o_shipped", "blob.s"]).silent_success();
    let rules =
        "all: $(O)/vmlinux $(O)/m.ko\n$(O)/vmlinux $(O)/m.ko: $(O)/blob.o\n$(O)/blob.o: blob.o_shipped\n\tcp $< $@\n";
    let makefile = String::from_utf8(lab.read("Makefile")).expect("a makefile");
    lab.write("Makefile", makefile.replace("all: $(O)/vmlinux $(O)/m.ko\n", &format!("all:\n{rules}")));
    lab.write("b.S", "\t.globl elsewhere, table\nelsewhere:\n\tsti\n\tret\n\t.bss\ntable:\t.skip 16\n");
    lab
}

#[track_caller]
fn assert_fails(result: &Result, message: &str) {
    assert_eq!(result.status.code(), Some(1), "{result:?}");
    assert!(result.stderr.contains(message), "{message}: {result:?}");
}

#[test]
fn an_object_is_accepted_with_its_reason() {
    let lab = shipped(BLOB);
    lab.write("out/keep", "");
    assert_fails(&build(&lab, &[], &["O=out"]), "rdtsc (0f 31) has no record");
    for option in
        ["--accept=blob.o=from the vendor = X", "--accept-file=list", "--accept=out/blob.o=from the vendor = X"]
    {
        lab.write("list", "# ours\n\nblob.o = from the vendor = X\n");
        let result = build(&lab, &[option, "--report", "report"], &["O=out"]).success();
        assert!(result.stderr.contains("blob.o: accepted 4 instructions: from the vendor = X\n"), "{result:?}");
        assert!(result.stderr.contains("vmlinux: sites 2, "), "{result:?}");
        let report: serde_json::Value = serde_json::from_slice(&lab.read("report")).expect("JSON");
        assert_eq!(report["accepted"][0]["instructions"], 4);
        assert_eq!(report["accepted"][0]["reason"], "from the vendor = X");
    }
    for file in ["out/vmlinux", "out/m.ko", "out/blob.o"] {
        assert_eq!(lab.afterburner(&["verify", file]).status.code(), Some(1));
        let result = lab.afterburner(&["verify", file, "--accept", "out/blob.o=known"]).success();
        assert!(result.stdout.contains("not padded: 2 (accepted, out/blob.o: known)"), "{file}: {result:?}");
        let json = lab.afterburner(&["verify", "--json", file, "--accept", "out/blob.o=known"]).success();
        let json: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
        assert_eq!(json[0]["reasons"]["accepted, out/blob.o: known"], 2);
        assert_eq!(json[0]["excused"][0]["reason"], "accepted, out/blob.o: known");
    }
}

#[test]
fn nothing_else_is_accepted() {
    // The same bytes elsewhere, and another instruction beside them.
    let lab = shipped("\t.globl now\nnow:\trdtsc\n\tret\n");
    lab.write("b.S", "\t.globl same\nsame:\trdtsc\n\tret\n\twrmsr\n");
    lab.run("cp", &["blob.o_shipped", "blob.o"]).silent_success();
    lab.run("as", &["-o", "b.o", "b.S"]).silent_success();
    lab.run("ld", &["-r", "-o", "both.ko", "b.o", "blob.o"]).silent_success();
    let result = lab.afterburner(&["verify", "both.ko", "--accept", "blob.o=known"]);
    assert_eq!(result.status.code(), Some(1), "{result:?}");
    let misses: Vec<&str> = result.stdout.lines().filter(|line| line.contains("has no record")).collect();
    assert_eq!(misses.len(), 2, "{misses:?}");
    assert!(misses.iter().any(|miss| miss.contains(".text+0x0: rdtsc")), "{misses:?}");
    assert!(misses.iter().any(|miss| miss.contains("wrmsr")), "{misses:?}");
}

#[test]
fn an_object_that_was_changed_is_another() {
    let lab = shipped(BLOB);
    build(&lab, &["--accept", "blob.o=known"], &[]).success();
    for text in [
        BLOB.replace("rdtsc", "rdpmc"),
        BLOB.replace("now", "then"),
        BLOB.replace("\tret\n", "\tret\n\tnop\n"),
        "\tret\n".to_owned(),
    ] {
        lab.write("other.s", &text);
        lab.run("as", &["-o", "other.o", "other.s"]).silent_success();
        let result = lab.afterburner(&["verify", "vmlinux", "--accept", "other.o=known"]);
        assert_fails(&result, "other.o: accepted nothing");
        assert!(result.stdout.contains("rdtsc (0f 31) has no record"), "{text}: {result:?}");
    }
}

#[test]
fn sections_without_symbols_must_be_in_one_place() {
    let lab = Lab::new();
    lab.write("blob.s", "\trdtsc\n\tnop\n\tret\n");
    lab.write("other.s", "\t.globl f\nf:\tint3\n\tret\n");
    for name in ["blob", "other"] {
        lab.run("as", &["-o", &format!("{name}.o"), &format!("{name}.s")]).silent_success();
    }
    lab.run("ld", &["-r", "-o", "once.ko", "other.o", "blob.o"]).silent_success();
    lab.run("ld", &["-r", "-o", "twice.ko", "blob.o", "other.o", "blob.o"]).silent_success();
    lab.afterburner(&["verify", "once.ko", "--accept", "blob.o=known"]).success();
    let twice = lab.afterburner(&["verify", "twice.ko", "--accept", "blob.o=known"]);
    assert_eq!(twice.status.code(), Some(2), "{twice:?}");
    assert!(twice.stderr.contains("its section .text could be in 2 places"), "{twice:?}");
}

#[test]
fn archives_are_accepted_with_all_that_is_in_them() {
    let lab = shipped(BLOB);
    lab.write("two.s", "\t.globl two\ntwo:\trdpmc\n\tret\n");
    lab.run("as", &["-o", "two.o", "two.s"]).silent_success();
    lab.run("ar", &["rc", "lib.a", "blob.o_shipped", "two.o"]).silent_success();
    lab.run("ld", &["-r", "-o", "m.ko", "--whole-archive", "lib.a"]).silent_success();
    let result = lab.afterburner(&["verify", "m.ko", "--accept", "lib.a=Rust"]).success();
    assert!(result.stdout.contains("not padded: 3 (accepted, lib.a: Rust)"), "{result:?}");
    lab.run("ar", &["rcT", "thin.a", "blob.o_shipped", "two.o"]).silent_success();
    let thin = lab.afterburner(&["verify", "m.ko", "--accept", "thin.a=Rust"]);
    assert_eq!(thin.status.code(), Some(2), "{thin:?}");
}

#[test]
fn what_cannot_be_accepted_is_said() {
    let lab = tree();
    lab.write("list", "# fine\na.o=known\nb.o\n");
    for (option, status, message) in [
        ("--accept=a.o", 2, "a file and a reason are needed"),
        ("--accept=a.o= ", 2, "a file and a reason are needed"),
        ("--accept==why", 2, "a file and a reason are needed"),
        ("--accept-file=list", 2, "afterburner: list:3: a file and a reason are needed"),
        ("--accept-file=missing", 2, "afterburner: cannot read missing: "),
        ("--accept=missing.o=why", 2, "afterburner: --accept missing.o: No such file"),
        ("--accept=Makefile=why", 1, "Makefile: accepted nothing"),
        ("--accept=a.o=why", 1, "afterburner: error: a.o: accepted nothing"),
    ] {
        let result = build(&lab, &[option], &[]);
        assert_eq!(result.status.code(), Some(status), "{option}: {result:?}");
        assert!(result.stderr.contains(message), "{option}: {result:?}");
    }
    let result = lab.afterburner(&["verify", "vmlinux", "--accept", "missing.o=why"]);
    assert_eq!(result.status.code(), Some(2), "{result:?}");
    assert_fails(&lab.afterburner(&["verify", "vmlinux", "--accept", "a.o=why"]), "afterburner: a.o: accepted nothing");
}
