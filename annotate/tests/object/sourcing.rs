//! Source lines by DWARF.

use annotate::object::sources::Sources;
use annotate::object::{Elf, verify};

use crate::support::{Workshop, repeated};

/// The source lines of the misses of a file.
fn lines(data: &[u8]) -> Vec<Option<String>> {
    let elf = Elf::parse(data).unwrap();
    let mut report = verify(&elf).unwrap();
    report.find_sources(&Sources::of(&elf));
    let file = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
    let line = |miss: &annotate::object::report::Miss<'_>| {
        miss.location.source.as_ref().map(|source| file(&source.to_string()))
    };
    report.misses.iter().map(line).collect()
}

#[test]
fn each_section_of_an_object_has_its_own_lines() {
    let workshop = Workshop::new();
    let text = "nop\ncli\n.section .init.text,\"ax\"\nsti\n.section .exit.text,\"ax\"\nnop\nhlt\n";
    for format in ["--gdwarf-4", "--gdwarf-5"] {
        let data = workshop.assemble("text", text, &[format]);
        let expected = ["text.s:2", "text.s:4", "text.s:7"].map(|line| Some(line.to_owned()));
        assert_eq!(lines(&data), expected, "{format}");
        workshop.shell("ld", "-e 0 -o linked text.o");
        let mut found = lines(&workshop.read("linked"));
        found.sort();
        assert_eq!(found, expected, "{format}, linked");
    }
}

#[test]
fn inlined_code_is_where_it_was_written() {
    let workshop = Workshop::new();
    std::fs::write(
        workshop.path("text.c"),
        "static inline __attribute__((always_inline)) void off(void)\n{\n\tasm volatile(\"cli\");\n}\n\nvoid f(void)\n{\n\toff();\n}\n\
         __attribute__((section(\".init.text\"))) void g(void)\n{\n\toff();\n\tasm volatile(\"sti\");\n}\n",
    )
    .unwrap();
    workshop.shell("gcc", "-O2 -g -c -o text.o text.c");
    let expected = ["text.c:3", "text.c:3", "text.c:13"].map(|line| Some(line.to_owned()));
    assert_eq!(lines(&workshop.read("text.o")), expected);
}

#[test]
fn without_debug_information_there_are_no_lines() {
    let workshop = Workshop::new();
    let data = workshop.assemble("text", "cli", &[]);
    assert_eq!(lines(&data), [None]);
    assert_eq!(trouble(&data), None);
}

/// What keeps the lines of the misses of a file from being found.
fn trouble(data: &[u8]) -> Option<String> {
    let elf = Elf::parse(data).unwrap();
    let sources = Sources::of(&elf);
    verify(&elf).unwrap().find_sources(&sources);
    sources.trouble()
}

const FORMATS: [&str; 3] = ["zlib", "zlib-gnu", "zstd"];

/// A text of two sections, with lines enough to be worth compressing.
fn long_text() -> String {
    let code = "nop\nadd $1, %eax\n".repeat(2000);
    format!("{code}cli\n.section .init.text,\"ax\"\n{code}sti\n")
}

#[test]
fn compressed_debug_information_is_read() {
    let workshop = Workshop::new();
    let expected = ["text.s:4001", "text.s:8003"].map(|line| Some(line.to_owned()));
    for version in ["--gdwarf-4", "--gdwarf-5"] {
        let plain = workshop.assemble("text", &long_text(), &[version]);
        for format in FORMATS {
            workshop.shell("objcopy", &format!("--compress-debug-sections={format} text.o compressed.o"));
            let compressed = workshop.read("compressed.o");
            assert!(compressed.len() < plain.len(), "{format} compresses");
            assert_eq!(lines(&compressed), expected, "{version}, {format}");
            assert_eq!(trouble(&compressed), None, "{version}, {format}");
            workshop.shell("ld", "-e 0 -o linked text.o");
            workshop.shell("objcopy", &format!("--compress-debug-sections={format} linked compressed"));
            let mut found = lines(&workshop.read("compressed"));
            found.sort();
            assert_eq!(found, expected, "{version}, {format}, linked");
        }
    }
}

#[test]
fn the_assembler_and_the_linker_compress_too() {
    let workshop = Workshop::new();
    let expected = ["text.s:4001", "text.s:8003"].map(|line| Some(line.to_owned()));
    for format in FORMATS {
        let option = format!("--compress-debug-sections={format}");
        let data = workshop.assemble("text", &long_text(), &["-g", &option]);
        assert_eq!(lines(&data), expected, "{format}");
        workshop.shell("ld", &format!("-e 0 {option} -o linked text.o"));
        let mut found = lines(&workshop.read("linked"));
        found.sort();
        assert_eq!(found, expected, "{format}, linked");
    }
}

#[test]
fn split_debug_information_keeps_its_lines_in_the_object() {
    let workshop = Workshop::new();
    std::fs::write(workshop.path("text.c"), "void f(void)\n{\n\tasm volatile(\"cli\");\n}\n").unwrap();
    for version in [4, 5] {
        workshop.shell("gcc", &format!("-gdwarf-{version} -gsplit-dwarf -c -o text.o text.c"));
        std::fs::remove_file(workshop.path("text.dwo")).expect("a .dwo file");
        assert_eq!(lines(&workshop.read("text.o")), [Some("text.c:3".to_owned())], "DWARF {version}");
    }
}

/// The header of a section, by name: where it lies in the file.
fn header(data: &[u8], name: &str) -> (usize, usize) {
    let elf = Elf::parse(data).unwrap();
    let (_, section) = elf.section_named(name).expect("the section");
    let [start, end] = [section.file_range.0, section.file_range.1].map(|offset| usize::try_from(offset).unwrap());
    (start, end - start)
}

/// What is done to the contents of a section.
type Change = fn(&mut [u8]);

#[test]
fn debug_information_that_cannot_be_read_is_said() {
    let workshop = Workshop::new();
    let assembled =
        |format: &str| workshop.assemble("text", &long_text(), &["-g", &format!("--compress-debug-sections={format}")]);
    // `Chdr`: type, reserved, size. GNU's: "ZLIB", and the size, big-endian.
    let huge: Change = |section| section[8..16].copy_from_slice(&(1u64 << 60).to_le_bytes());
    let large: Change = |section| section[8..16].copy_from_slice(&(1u64 << 32).to_le_bytes());
    let other: Change = |section| section[8..16].copy_from_slice(&12345u64.to_le_bytes());
    let kind: Change = |section| section[..4].copy_from_slice(&77u32.to_le_bytes());
    let damage: Change = |section| section[24..].fill(0x55);
    let gnu_size: Change = |section| section[4..12].copy_from_slice(&0xf000_0000u64.to_be_bytes());
    let gnu_damage: Change = |section| section[12..].fill(0x55);
    let cases: [(&str, &str, Change, &str); 9] = [
        ("zlib", ".debug_line", huge, "it is alleged to decompress to far more than such a file can hold"),
        ("zstd", ".debug_line", huge, "it is alleged to decompress to far more than such a file can hold"),
        ("zlib", ".debug_line", large, "it is alleged to decompress to far more than such a file can hold"),
        ("zlib", ".debug_line", other, "its compressed contents are damaged"),
        ("zlib", ".debug_line", kind, "its compression is of no known kind"),
        ("zlib", ".debug_line", damage, "its compressed contents are damaged"),
        ("zstd", ".debug_line", damage, "its compressed contents are damaged"),
        ("zlib-gnu", ".zdebug_line", gnu_size, "it is alleged to decompress to far more than such a file can hold"),
        ("zlib-gnu", ".zdebug_line", gnu_damage, "its compressed contents are damaged"),
    ];
    for (format, name, change, expected) in cases {
        let mut data = assembled(format);
        let (start, size) = header(&data, name);
        change(&mut data[start..start + size]);
        assert_eq!(lines(&data), [None, None], "{format}");
        let trouble = trouble(&data).expect("trouble");
        assert!(trouble.starts_with(&format!("section {name} (number ")), "{trouble}");
        assert!(trouble.ends_with(expected), "{format}: {trouble}");
    }
    let mut data = workshop.assemble("text", &long_text(), &["-g"]);
    let (start, _) = header(&data, ".debug_info");
    data[start + 4] = 0x77;
    assert!(trouble(&data).expect("trouble").starts_with("the debug information cannot be read: "));
    let mut data = workshop.assemble("text", &long_text(), &["-g"]);
    let (start, size) = header(&data, ".debug_line");
    data[start + 4..start + size].fill(0xff);
    assert!(trouble(&data).expect("trouble").starts_with("the debug information cannot be read: "));
}

/// An object with a line table of its own making: `cli` at line 1, then so many more lines, and
/// what a text of DWARF adds.
fn by_hand(lines: usize, dwarf: &str) -> Vec<u8> {
    let code = repeated(lines, ".loc 1 #+2\n nop\n");
    let text = format!(".file 1 \"text.c\"\nf: .loc 1 1\n cli\n{code}end:\n{dwarf}\n");
    Workshop::new().assemble("text", &text, &[])
}

/// DWARF 4: an entry of a table of abbreviations for a unit with all of `low_pc`, `high_pc`,
/// `stmt_list`, `comp_dir`.
const ABBREVIATION: &str = ".uleb128 1, 0x11\n.byte 0\n.uleb128 0x11,1, 0x12,7, 0x10,0x17, 0x1b,8, 0,0\n";

/// Its bytes: each of these numbers is one.
const ABBREVIATION_SIZE: usize = 13;

/// Units of all the text and of one line table, each with an offset in the table of abbreviations.
fn units(abbreviations: impl Iterator<Item = usize>, directory: &str) -> String {
    let unit = |offset| {
        format!(
            ".long 2f-1f\n1: .short 4\n.long {offset}\n.byte 8\n.uleb128 1\n.quad f, end-f\n.long .debug_line\n.asciz \"{directory}\"\n2:\n"
        )
    };
    format!(".section .debug_info\n{}", abbreviations.map(unit).collect::<String>())
}

#[test]
fn debug_information_is_in_proportion_to_its_file() {
    let one = format!(".section .debug_abbrev\n{ABBREVIATION}.byte 0\n");
    let same = std::iter::repeat(0);
    let good = by_hand(2000, &format!("{one}{}", units(same.clone().take(10), "/x")));
    assert_eq!((lines(&good), trouble(&good)), (vec![Some("text.c:1".to_owned())], None));
    let table = format!(".section .debug_abbrev\n{}.byte 0\n", ABBREVIATION.repeat(2000));
    let files = repeated(4000, ".file # \"#\"\n");
    let files = &files[files.find(".file 2 ").expect("the third")..];
    for (name, data, expected) in [
        (
            "a line table",
            by_hand(2000, &format!("{one}{}", units(same.clone().take(2000), ""))),
            "the debug information alleges more than its file can hold",
        ),
        (
            "text",
            by_hand(0, &format!("{one}{}", units(same.clone().take(100), ""))),
            "more than 64 units of the debug information claim the code at 0x10000",
        ),
        (
            "abbreviations",
            by_hand(0, &format!("{table}{}", units((0..2000).map(|number| number * ABBREVIATION_SIZE), ""))),
            "the debug information alleges more than its file can hold",
        ),
        (
            "a directory",
            by_hand(0, &format!("{files}{one}{}", units(same.clone().take(1), &"d".repeat(100_000)))),
            "the debug information alleges more than its file can hold",
        ),
    ] {
        assert_eq!(trouble(&data).as_deref(), Some(expected), "{name}");
        assert_eq!(lines(&data), [None], "{name}");
    }
}
