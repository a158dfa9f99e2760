//! Source lines by DWARF.

use annotate::object::sources::Sources;
use annotate::object::{Elf, verify};

use crate::support::Workshop;

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
    assert_eq!(lines(&workshop.assemble("text", "cli", &[])), [None]);
    // Compressed sections are not read.
    let long = format!("cli\n{}", "nop\n".repeat(1000));
    assert_eq!(lines(&workshop.assemble("text", &long, &["-g"])), [Some("text.s:1".to_owned())]);
    assert_eq!(lines(&workshop.assemble("text", &long, &["-g", "--compress-debug-sections=zlib"])), [None]);
}
