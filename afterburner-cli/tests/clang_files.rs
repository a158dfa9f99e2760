//! The clang wrapper: every file that clang leaves behind beside the object is where clang puts it,
//! and says what it says.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use support::{AFTERBURNER, Lab, Result};

const SOURCE: &str = "#include \"h.h\"\nint g(int);\nint f(int x)\n{\n\tasm volatile(\"cli\");\n\tfor (int i = 0; i < x; i++)\n\t\tx += g(i);\n\treturn x ? X : 2;\n}\n";
const ASSEMBLY: &str = "#include \"h.h\"\n\t.globl f\nf:\n\tmovl $X, %eax\n\tcli\n\tret\n";
const FILES: &[(&str, &str)] = &[
    ("a.c", SOURCE),
    ("a.S", ASSEMBLY),
    ("a.s", "\t.globl f\nf:\n\tcli\n\tret\n"),
    ("a.i", "int f(void) { asm volatile(\"cli\"); return 1; }\n"),
    ("h.h", "#define X 3\n"),
    ("sub/keep", ""),
    ("dump/keep", ""),
    ("options", "-O2 -fstack-usage\n-c 'a.c' -o sub/b.o"),
    ("nested", "@options -MD"),
];

/// What a clang left behind.
struct Left {
    result: Result,
    files: BTreeMap<PathBuf, Vec<u8>>,
    /// What the object's debug information and strings say of other files.
    names: String,
}

fn run(lab: &Lab, clang: &[&str], arguments: &[&str], object: &str) -> Left {
    lab.clear();
    lab.write_all(FILES);
    let result = lab.run(clang[0], &[&clang[1..], arguments].concat());
    let files = lab.files();
    let script = format!("readelf -W --debug-dump=info {object} | grep dwo_name; strings {object} | grep gcda");
    let names = lab.run("sh", &["-c", &script]).stdout;
    Left { result, files, names }
}

/// Whether two runs cannot leave the same: what holds code or its length, times, names of temporary
/// files.
fn varies(path: &Path, arguments: &[&str]) -> bool {
    let is = |extension: &str| path.extension().is_some_and(|other| other == extension);
    is("o") || is("dwo") || (is("json") && ["-ftime-trace", "a.S"].iter().any(|other| arguments.contains(other)))
}

/// Compares with the real clang.
#[track_caller]
fn same(arguments: &[&str], object: &str) {
    let lab = Lab::new();
    let plain = run(&lab, &["clang"], arguments, object);
    let ours = run(&lab, &[AFTERBURNER, "clang"], arguments, object);
    assert_eq!(ours.result, plain.result, "{arguments:?}");
    assert!(plain.result.status.success(), "{arguments:?}: {:?}", plain.result);
    assert_eq!(ours.files.keys().collect::<Vec<_>>(), plain.files.keys().collect::<Vec<_>>(), "{arguments:?}");
    for (path, content) in &plain.files {
        if !varies(path, arguments) {
            assert!(ours.files[path] == *content, "{arguments:?}: {} differs", path.display());
        }
    }
    assert_eq!(ours.names, plain.names, "{arguments:?}");
    assert!(lab.has_records(object), "{arguments:?}");
    lab.write("plain.o", &plain.files[Path::new(object)]);
    lab.afterburner(&["compare", "plain.o", object]).success();
}

/// Options that have clang write files beside the object, or write of them in it.
const OPTIONS: &[&[&str]] = &[
    &["-ftest-coverage"],
    &["--coverage"],
    &["-fprofile-arcs", "-ftest-coverage", "-O2"],
    &["-fprofile-instr-generate", "-fcoverage-mapping"],
    &["-fstack-usage"],
    &["-O2", "-fsave-optimization-record"],
    &["-O2", "-fsave-optimization-record", "-foptimization-record-file=x.yaml"],
    &["-MJ", "x.json"],
    &["-MJx.json", "-fstack-usage"],
    &["-save-temps"],
    &["-save-temps=obj"],
    &["-save-temps=cwd", "-g"],
    &["-save-temps=obj", "-fstack-usage", "--coverage"],
    &["-ftime-trace"],
    &["-g", "-gsplit-dwarf"],
    &["-gsplit-dwarf=split", "-O2", "-gdwarf-4"],
    &["-gsplit-dwarf=single", "-g"],
    &["-gsplit-dwarf", "-g", "-save-temps"],
    &["-MD"],
    &["-MMD", "-MP", "-g"],
    &["-MD", "-MF", "dump/x.d", "-MT", "y"],
    &["--serialize-diagnostics", "x.dia"],
    &["-Wp,-MD,x.d"],
    &["-frecord-command-line"],
    &["-grecord-command-line", "-g"],
    &["-gz", "-g", "-Wa,--noexecstack"],
    &["-pipe", "-fno-integrated-cc1"],
    &["-fcrash-diagnostics-dir=dump"],
];

#[test]
fn files_beside_an_object_of_c() {
    for options in OPTIONS {
        same(&[options, &["-c", "a.c", "-o", "sub/b.o"] as &[&str]].concat(), "sub/b.o");
        same(&[options, &["-c", "a.c"] as &[&str]].concat(), "a.o");
    }
}

#[test]
fn files_beside_an_object_of_assembly() {
    for options in OPTIONS {
        same(&[options, &["-c", "a.S", "-o", "sub/b.o"] as &[&str]].concat(), "sub/b.o");
    }
}

#[test]
fn files_beside_an_object_of_other_sources() {
    for options in [&["-save-temps=obj", "-g"] as &[&str], &["-gsplit-dwarf", "-g"], &["-MD", "-fstack-usage"]] {
        for (source, object) in [("a.s", "sub/b.o"), ("a.i", "sub/c.o")] {
            same(&[options, &["-c", source, "-o", object]].concat(), object);
        }
    }
}

#[test]
fn a_directory_to_work_in() {
    for options in [&["-fstack-usage"] as &[&str], &["-MD", "--coverage"], &["-g", "-gsplit-dwarf"]] {
        let lab = Lab::new();
        let directory = lab.path("").display().to_string();
        let arguments = [options, &["-working-directory", &directory, "-c", "a.c", "-o", "sub/b.o"]].concat();
        let plain = run(&lab, &["clang"], &arguments, "sub/b.o");
        let ours = run(&lab, &[AFTERBURNER, "clang"], &arguments, "sub/b.o");
        assert_eq!(ours.result, plain.result);
        assert_eq!(ours.files.keys().collect::<Vec<_>>(), plain.files.keys().collect::<Vec<_>>(), "{options:?}");
        assert!(lab.has_records("sub/b.o"), "{options:?}");
    }
}

#[test]
fn response_files() {
    same(&["@options"], "sub/b.o");
    same(&["@nested", "-g"], "sub/b.o");
}
