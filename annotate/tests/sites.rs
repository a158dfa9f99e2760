//! The text stage against the assembler and the object side, over `testdata/sites/*.s`.
//!
//! Each line of these files says in a comment which sites it has:
//!
//! ```text
//! # site: CLASS [FLAG...][, CLASS [FLAG...]...]   the site starts on this line
//! # site-start: CLASS [FLAG...]                   it starts on an earlier one
//! ```
//!
//! A file that says `# data in text` has bytes there that only look sensitive; its census is not
//! taken.
//!
//! `dispatched` stands for a site whose class is known only when a macro is expanded. The text is
//! then assembled plain and annotated: the census of the annotated object must be complete, every
//! record must hold, and with the pads removed the two objects must be the same.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use annotate::object::{Elf, compare, verify};
use annotate::record::Flags;
use annotate::text::{self, Options};

/// What a line expects: line, whether the site starts there, and its description.
#[derive(Debug, PartialEq, Eq)]
struct Expected {
    line: u32,
    starts_here: bool,
    site: String,
}

fn expectations(source: &str) -> Vec<Expected> {
    let mut expected = Vec::new();
    for (line, number) in source.lines().zip(1..) {
        let (starts_here, sites) = match (line.split_once("# site: "), line.split_once("# site-start: ")) {
            (Some((_, sites)), _) => (true, sites),
            (None, Some((_, sites))) => (false, sites),
            (None, None) => continue,
        };
        for site in sites.split(',') {
            expected.push(Expected { line: number, starts_here, site: site.trim().to_owned() });
        }
    }
    expected
}

fn describe(site: text::Site) -> String {
    let names = [
        (Flags::INIT, "init"),
        (Flags::NO_STACK, "no-stack"),
        (Flags::REPLACEMENT, "replacement"),
        (Flags::COPIED, "copied"),
        (Flags::EXTABLE, "extable"),
        (Flags::HEAD, "head"),
        (Flags::CODE32, "code32"),
        (Flags::SWITCHED_OFF, "switched-off"),
        (Flags::COUNTED, "counted"),
        (Flags::SHADOW, "shadow"),
        (Flags::HINTED, "hinted"),
        (Flags::DATA, "data"),
    ];
    let flags = names.iter().filter(|(flag, _)| site.flags.contains(*flag)).map(|(_, name)| *name);
    let class = site.class.map_or("dispatched", annotate::instructions::Class::name);
    std::iter::once(class).chain(flags).collect::<Vec<_>>().join(" ")
}

fn assemble(directory: &Path, name: &str, text: &[u8]) -> Vec<u8> {
    let (source, object) = (directory.join(format!("{name}.s")), directory.join(format!("{name}.o")));
    fs::write(&source, text).unwrap();
    let output = Command::new("as").arg("--64").arg(&source).arg("-o").arg(&object).output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    fs::read(object).unwrap()
}

fn data_files() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/sites");
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 7, "the data files are missing");
    files
}

#[test]
fn every_line_has_the_sites_that_it_says() {
    for file in data_files() {
        let source = fs::read_to_string(&file).unwrap();
        let expected = expectations(&source);
        let options = Options::default();
        let annotated = text::annotate(source.as_bytes(), &options);
        let mut found = annotated.sites();
        let mut previous = 0;
        for expected in expected {
            let place = format!("{}:{}", file.display(), expected.line);
            let site = found.next().unwrap_or_else(|| panic!("{place}: {} is not found", expected.site));
            assert_eq!(describe(site), expected.site, "{place}, found on line {}", site.line);
            if expected.starts_here {
                assert_eq!(site.line, expected.line, "{place}");
            } else {
                assert!(previous < site.line && site.line < expected.line, "{place}: starts on line {}", site.line);
            }
            previous = site.line;
        }
        if let Some(site) = found.next() {
            panic!("{}:{}: {} is not expected", file.display(), site.line, describe(site));
        }
    }
}

#[test]
fn objects_are_complete_valid_and_the_same_but_for_pads() {
    let directory = tempfile::tempdir().unwrap();
    for file in data_files() {
        let source = fs::read(&file).unwrap();
        let name = file.file_stem().unwrap().to_str().unwrap();
        let options = Options::default();
        let annotated = text::annotate(&source, &options);
        let mut text = Vec::new();
        annotated.write_to(&file.display().to_string(), &mut text).unwrap();
        let plain = assemble(directory.path(), name, &source);
        let padded = assemble(directory.path(), name, &text);

        let elf = Elf::parse(&padded).unwrap();
        let report = verify(&elf).unwrap();
        let complaints: Vec<String> = report
            .misses
            .iter()
            .map(ToString::to_string)
            .chain(report.problems.iter().map(ToString::to_string))
            .collect();
        let has_data_in_text = source.starts_with(b"# data in text");
        assert!(report.holds() || has_data_in_text, "{name}: {complaints:#?}");
        assert_eq!(annotated.is_changed(), !report.sites.is_empty(), "{name}");
        if let Err(difference) = compare(&plain, &padded) {
            panic!("{name}: {difference}");
        }
    }
}

#[test]
fn a_text_without_sites_is_copied_unchanged() {
    let source = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/sites/harmless.s")).unwrap();
    let options = Options::default();
    let annotated = text::annotate(&source, &options);
    let mut text = Vec::new();
    annotated.write_to("harmless.s", &mut text).unwrap();
    assert!(!annotated.is_changed());
    assert_eq!(text, source);
}

#[test]
fn a_class_switched_off_is_recorded_but_not_padded() {
    let mut options = Options::default();
    options.classes.remove(annotate::instructions::Class::Sti);
    let source = b"\tsti\n\tsti; hlt\n\tcli\n";
    let annotated = text::annotate(source, &options);
    let sites: Vec<String> = annotated.sites().map(describe).collect();
    assert_eq!(sites, ["sti switched-off", "sti switched-off", "hlt", "cli"]);
}

#[test]
fn a_hint_for_the_unwinder_stays_behind_a_change_of_context() {
    let hinted = Options { objtool_hints: true, ..Options::default() };
    for (text, options, expected) in [
        ("syscall\n\tUNWIND_HINT_RESTORE\n\tpop %rcx\n", &hinted, "syscall hinted"),
        ("syscall\n\t.Lhere:\n\t.pushsection .discard.unwind_hints\n", &hinted, "syscall hinted"),
        ("sysenter\n\tUNWIND_HINT type=3\n", &hinted, "sysenter hinted"),
        ("lretq\nout:\tUNWIND_HINT type=3\n\tjmp out\n", &hinted, "lret"),
        ("syscall\n\tpop %rcx\n\tUNWIND_HINT_RESTORE\n", &hinted, "syscall"),
        ("syscall\n\t.pushsection .discard.places\n", &hinted, "syscall"),
        ("cli\n\tUNWIND_HINT_RESTORE\n", &hinted, "cli"),
        ("syscall\n\tUNWIND_HINT_RESTORE\n", &Options::default(), "syscall"),
    ] {
        let sites: Vec<String> = text::annotate(text.as_bytes(), options).sites().map(describe).collect();
        assert_eq!(sites, [expected], "{text}");
    }
}

#[test]
fn recorded_without_pads_the_object_is_the_plain_one() {
    let directory = tempfile::tempdir().unwrap();
    for file in data_files() {
        let source = fs::read(&file).unwrap();
        let options = Options::default();
        let annotated = text::annotate(&source, &options).unpadded();
        let mut text = Vec::new();
        annotated.write_to(&file.display().to_string(), &mut text).unwrap();
        let [plain, recorded] = [("plain", &source), ("recorded", &text)].map(|(name, text)| {
            let object = assemble(directory.path(), name, text);
            let elf = Elf::parse(&object).unwrap();
            let report = verify(&elf).unwrap();
            assert!(report.problems.is_empty() && report.pad_bytes() == 0, "{}: {report:#?}", file.display());
            assert_eq!(!report.sites.is_empty(), name == "recorded" && annotated.is_changed(), "{}", file.display());
            elf.executable().map(|(_, section)| section.bytes.to_vec()).collect::<Vec<_>>()
        });
        assert!(plain == recorded, "{}: the text differs", file.display());
    }
}

#[test]
fn a_text_that_uses_the_labels_of_the_insertions_is_left_alone() {
    let options = Options::default();
    assert!(!text::annotate(b"28110: cli\n jmp 28110b\n", &options).is_changed());
}
