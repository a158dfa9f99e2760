//! The clang wrapper: everything but the object is the real compiler's.

mod support;

use support::{AFTERBURNER, Lab, Result, SENSITIVE, compare};

const SOURCE: &str = "#include \"h.h\"\nint f(void)\n{\n\tasm volatile(\"cli\");\n\treturn X;\n}\n";
const PLAIN: &str = "#include \"h.h\"\nint f(void) { return X; }\n";
const ASSEMBLY: &str = "#include \"h.h\"\n\t.globl f\nf:\n\tmovl $X, %eax\n\tcli\n\tret\n";
const HEADER: (&str, &[u8]) = ("h.h", b"#define X 3\n");

/// Compares with the real compiler; tells whether an object was annotated.
#[track_caller]
fn same(files: &[(&str, &str)], arguments: &[&str]) -> bool {
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, text)| (*name, text.as_bytes())).chain([HEADER]).collect();
    compare("clang", &files, None, arguments)
}

#[test]
fn c_is_annotated() {
    assert!(same(&[("a.c", SOURCE)], &["-c", "a.c"]));
    assert!(same(&[("a.c", SOURCE)], &["-O2", "-g", "-c", "a.c", "-o", "b.o"]));
    assert!(same(&[("a.i", "int f(void) { asm(\"cli\"); return 1; }\n")], &["-c", "a.i"]));
    let as_kbuild = ["-Wp,-MMD,.a.o.d", "-nostdinc", "-I.", "-include", "h.h", "-DY=1", "-Wall", "-Werror", "-fno-PIE"];
    let as_kbuild =
        [&as_kbuild as &[&str], &["--target=x86_64-linux-gnu", "-fintegrated-as", "-mno-sse", "-mcmodel=kernel"]]
            .concat();
    assert!(same(&[("a.c", SOURCE)], &[&as_kbuild as &[&str], &["-c", "-o", "a.o", "a.c"]].concat()));
}

#[test]
fn assembly_is_annotated() {
    assert!(same(&[("a.S", ASSEMBLY)], &["-c", "a.S"]));
    assert!(same(
        &[("a.S", ASSEMBLY)],
        &["-MMD", "-D__ASSEMBLY__", "-g", "-Wa,--noexecstack", "-c", "a.S", "-o", "b.o"]
    ));
    assert!(same(&[("a.s", SENSITIVE)], &["-c", "a.s"]));
}

#[test]
fn dependency_files_are_those_of_the_original_command() {
    for options in
        [&["-MMD"] as &[&str], &["-MD", "-MF", "x.d"], &["-Wp,-MMD,x.d"], &["-MD", "-MT", "target"], &["-MMD", "-MP"]]
    {
        assert!(same(&[("a.c", SOURCE)], &[options, &["-c", "a.c", "-o", "b.o"]].concat()), "{options:?}");
    }
}

#[test]
fn an_object_without_sensitive_instructions_is_the_real_one() {
    // But for its debug information, which clang arranges in another order when it reads it back.
    assert!(!same(&[("a.c", PLAIN)], &["-O2", "-MMD", "-c", "a.c"]));
    assert!(!same(&[("a.S", "\tret\n")], &["-c", "a.S"]));
    let unused = ".macro m\n\tcli\n.endm\n\tret\n";
    assert!(!same(&[("a.S", unused)], &["-c", "a.S"]), "a macro that is never expanded");
}

#[test]
fn messages_are_those_of_the_original_command() {
    let warning = format!("{SOURCE}#warning careful\n");
    assert!(same(&[("a.c", &warning)], &["-MMD", "-c", "a.c"]), "a warning is no obstacle");
    same(&[("a.c", &warning)], &["-Werror", "-c", "a.c"]);
    same(&[("a.c", &SOURCE.replace("return X", "asm(\"nonsense\")"))], &["-c", "a.c"]);
    same(&[("a.c", &SOURCE.replace("return X", "return Z"))], &["-c", "a.c"]);
    same(&[("a.S", &format!("{ASSEMBLY}\tnonsense\n"))], &["-c", "a.S"]);
    same(&[("a.S", &format!("{ASSEMBLY}#error no\n"))], &["-c", "a.S"]);
    same(&[("a.S", &format!("{ASSEMBLY}\t.warning \"careful\"\n"))], &["-g", "-c", "a.S"]);
    same(&[("a.c", SOURCE)], &["-lm", "-c", "a.c"]);
    same(&[("a.c", SOURCE)], &["-c", "no-such-file.c"]);
}

#[test]
fn everything_else_is_clang_s() {
    for arguments in [
        &["--version"] as &[&str],
        &["-print-prog-name=as"],
        &["-E", "a.c"],
        &["-S", "a.c", "-o", "-"],
        &["-c", "-x", "c", "/dev/null", "-o", "/dev/null"],
        &["-Werror", "-fsyntax-only", "a.c"],
        &["-c", "a.c", "-o", "/dev/null"],
        &["-m32", "-c", "a.S"],
        &["--no-such-option"],
        &["-c", "a.c", "a.S"],
        &["-c", "a.c", "-o", "no-such-directory/a.o"],
    ] {
        let annotated = same(&[("a.c", SOURCE), ("a.S", ASSEMBLY)], arguments);
        assert!(!annotated, "{arguments:?}");
    }
}

#[test]
fn what_is_not_kernel_code_is_left_alone() {
    let source = "arch/x86/boot/a.c";
    let text = SOURCE.replace("h.h", "../../../h.h");
    assert!(!same(&[(source, &text)], &["-c", source, "-o", "a.o"]));
    assert!(!same(&[("vgetcpu.c", SOURCE)], &["-c", "vgetcpu.c", "-o", "distcc.o"]));
}

#[test]
fn with_an_external_assembler_the_shim_is_found() {
    let lab = Lab::with(&[("a.c", SOURCE.as_bytes()), HEADER]);
    let [_, clang] = ["shims/as", "shims/clang"].map(|name| lab.copy_of_the_command(name));
    lab.run(clang, &["-fno-integrated-as", "-c", "a.c"]).silent_success();
    assert!(lab.has_records("a.o"));
}

#[test]
fn without_a_real_clang_there_is_one_clear_error() {
    let lab = Lab::with(&[("a.c", SOURCE.as_bytes()), HEADER]);
    let mut command = lab.command(AFTERBURNER, &["clang", "-c", "a.c"]);
    let result = Result::of(command.env("PATH", lab.path("nowhere")).output().expect("the wrapper"));
    assert_eq!(result.status.code(), Some(127));
    assert_eq!(result.stderr, "afterburner: there is no `clang` in PATH but this one\n");
}
