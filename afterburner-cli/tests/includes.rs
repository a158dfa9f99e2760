//! What an assembler reads by itself is annotated, and everything but the object is the real
//! assembler's.

mod support;

use support::{Lab, compare};

const TOP: &str = "\t.globl f\nf:\n\tnop\n.include \"off.inc\"\n\tret\n";
const OFF: &str = ".macro off\n\tcli\n.endm\n\toff\n\trdtsc\n";

#[track_caller]
fn same(tool: &str, files: &[(&str, &str)], arguments: &[&str]) -> bool {
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, text)| (*name, text.as_bytes())).collect();
    compare(tool, &files, None, arguments)
}

#[test]
fn included_files_are_annotated() {
    let elsewhere = TOP.replace("off.inc", "off.h");
    let files = [("a.s", TOP), ("off.inc", OFF), ("b.s", &elsewhere), ("d/off.h", "nop\n"), ("e/off.h", OFF)];
    for tool in ["as", "clang"] {
        let object: &[&str] = if tool == "as" { &["-o", "a.o"] } else { &["-c", "-o", "a.o"] };
        for arguments in
            [&["a.s"] as &[&str], &["-g", "a.s"], &["-I", "d", "a.s"], &["-Ie", "b.s"], &["-I", "d/../e", "b.s"]]
        {
            assert!(same(tool, &files, &[object, arguments].concat()), "{tool} {arguments:?}");
        }
        assert!(!same(tool, &files, &[object, &["-I", "d", "-I", "e", "b.s"]].concat()), "the first one counts");
        same(tool, &files, &[object, &["b.s"]].concat());
    }
    assert!(compare("as", &[("off.inc", OFF.as_bytes())], Some(TOP.as_bytes()), &["-o", "a.o"]));
    assert!(same("as", &files, &["--MD", "a.d", "-I", "e", "b.s", "-o", "a.o"]));
    assert!(same("as", &files, &["-al=a.lst", "-g", "a.s", "-o", "a.o"]));
}

#[test]
fn what_the_compiler_s_text_includes() {
    let source = "int f(void) { asm volatile(\".include \\\"off.inc\\\"\"); return 1; }\n";
    let files = [("a.c", source), ("d/off.inc", OFF)];
    assert!(same("clang", &files, &["-I", "d", "-c", "a.c"]));
    assert!(same("clang", &files, &["-isystem", "d", "-g", "-c", "a.c"]));
    assert!(same("clang", &[("a.S", TOP), ("off.inc", OFF)], &["-MD", "-c", "a.S"]));
}

#[test]
fn conditionals_bodies_and_nests() {
    let guarded = ".ifndef X\n.set X, 1\n.include \"b.inc\"\n\tcli\n.endif\n";
    let nest = [
        ("a.s", ".include \"a.inc\"\n.include \"a.inc\"\n"),
        ("a.inc", guarded),
        ("b.inc", ".include \"a.inc\"\n\tsti\n"),
    ];
    assert!(same("as", &nest, &["a.s", "-o", "a.o"]));
    let absent = "\tcli\n.if 0\n.include \"none\"\n.else\n.include \"off.inc\"\n.endif\n";
    assert!(same("as", &[("a.s", absent), ("off.inc", OFF)], &["a.s", "-o", "a.o"]));
    let unread =
        ".if 0\n.include \"off.inc\"\n.endif\n# .include \"off.inc\"\n.data\n.ascii \".include \\\"off.inc\\\"\"\n";
    assert!(!same("as", &[("a.s", unread), ("off.inc", OFF)], &["a.s", "-o", "a.o"]));
    // The assembler reads these by itself: what is in them is for the census to find.
    let bodies = ".macro m file\n.include \"\\file\"\n.endm\n\tm off.inc\n.rept 2\n.include \"off.inc\"\n.endr\n";
    same("as", &[("a.s", bodies), ("off.inc", "\tcli\n")], &["a.s", "-o", "a.o"]);
}

#[test]
fn messages_are_about_the_files() {
    let broken = |line: &str| format!("\tcli\n{line}\n\tsti\n");
    for line in ["\tnonsense", "\t.warning \"careful\"", ".if 1", ".macro m", ".endif", "\tret;.error \"x\""] {
        let off = broken(line);
        let files =
            [("a.s", TOP), ("off.inc", off.as_str()), ("b.s", ".include \"off.inc\"; nonsense # 9\n.warning \"b\"\n")];
        for tool in ["as", "clang"] {
            let object: &[&str] = if tool == "as" { &["-o", "a.o"] } else { &["-c", "-o", "a.o"] };
            same(tool, &files, &[object, &["a.s"]].concat());
            same(tool, &files, &[object, &["b.s"]].concat());
        }
    }
    let endless = broken(".include \"off.inc\"");
    same("as", &[("a.s", TOP), ("off.inc", &endless)], &["a.s", "-o", "a.o"]);
    let unended = [("a.s", TOP), ("off.inc", "\tcli\n\tsti")];
    assert!(same("as", &unended, &["a.s", "-o", "a.o"]));
    let warned = broken("\t.warning \"careful\"");
    assert!(same("as", &[("a.s", TOP), ("off.inc", &warned)], &["a.s", "-o", "a.o"]), "a warning is no obstacle");
    assert!(same("clang", &[("a.s", TOP), ("off.inc", &warned)], &["-c", "a.s"]), "a warning is no obstacle");
}

#[test]
fn debug_lines_name_the_files() {
    let lab = Lab::with(&[("a.s", format!("# 70 \"real.S\"\n{TOP}").as_bytes()), ("off.inc", OFF.as_bytes())]);
    let lines = |lab: &Lab| {
        let lines = lab.run("objdump", &["--no-addresses", "-dl", "a.o"]).stdout;
        lines
            .lines()
            .filter(|line| line.contains(".inc:") || line.contains(".S:"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    lab.run("as", &["-g", "a.s", "-o", "a.o"]).silent_success();
    let plain = lines(&lab);
    lab.afterburner(&["as", "-g", "a.s", "-o", "a.o"]).silent_success();
    assert!(lab.has_records("a.o") && plain.iter().any(|line| line.contains("off.inc:5")), "{plain:?}");
    let mut ours = lines(&lab);
    ours.dedup();
    let mut plain = plain;
    plain.dedup();
    assert_eq!(ours, plain);
}
