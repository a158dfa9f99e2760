//! Records in objects, linked files and images.

use annotate::instructions::Class;
use annotate::object::elf::{Elf, Error};
use annotate::object::records::{Fault, Records, has_records};
use annotate::record::Flags;

use crate::support::{PRELUDE, Workshop, annotated, assemble, padded, record};

fn faults(data: &[u8]) -> Vec<String> {
    let elf = Elf::parse(data).expect("an object");
    let records = Records::read(&elf).expect("records");
    assert!(records.records.is_empty(), "{:?}", records.records);
    records.bad.iter().map(|bad| bad.fault.to_string()).collect()
}

/// The error of reading a file, in words.
fn error(data: &[u8]) -> String {
    let error = Elf::parse(data).and_then(|elf| Records::read(&elf).map(|_| ()));
    error.expect_err("an error").to_string()
}

#[test]
fn records_of_an_object_are_resolved_by_their_relocations() {
    let text = format!(
        ".globl start\nnop\nstart: {} .section .init.text,\"ax\"\n nop; nop\n {}",
        padded("cli", Class::Cli),
        padded("wrmsr", Class::Wrmsr)
    );
    let data = annotated(&text);
    let elf = Elf::parse(&data).unwrap();
    let records = Records::read(&elf).unwrap();
    let found: Vec<_> = records
        .records
        .iter()
        .map(|record| (elf.sections()[record.place.section].name, record.place.offset, record.alleged.class))
        .collect();
    assert_eq!(found, [(".text", 1, Class::Cli), (".init.text", 2, Class::Wrmsr)]);
    assert!(records.bad.is_empty());
    assert!(has_records(&data));
}

#[test]
fn a_site_may_be_named_by_a_global_symbol() {
    let site = record("start", "1", "5", Class::Cli as u8, 0);
    let data = annotated(&format!("nop\n.globl start\nstart: cli; .skip 4, 0x90\n{site}"));
    let records = Records::read(&Elf::parse(&data).unwrap()).unwrap();
    assert_eq!(records.records[0].place.offset, 1);
}

#[test]
fn records_of_a_linked_file_are_self_relative() {
    let workshop = Workshop::new();
    workshop.assemble("a", &format!("{PRELUDE}.globl _start\n_start: {}", padded("cli", Class::Cli)), &[]);
    workshop.assemble("b", &format!("{PRELUDE}{}{}", padded("sti", Class::Sti), padded("hlt", Class::Hlt)), &[]);
    // Other people's notes, one of them aligned to 8, before, between and behind ours.
    let property =
        ".section .note.gnu.property,\"a\",@note\n.balign 8\n.long 4, 8, 5\n.asciz \"GNU\"\n.long 0xc0000002, 0\n";
    workshop.assemble(
        "n",
        &format!(".section .note.x,\"a\",@note\n.long 3, 1, 9\n.asciz \"ab\"\n.balign 4\n.byte 7\n{property}"),
        &[],
    );
    let script = "SECTIONS { . = 0xffffffff81000000; .text : { *(.text) }
        .notes : { *(.note.x) a.o(.note.afterburn) *(.note.gnu.property) b.o(.note.afterburn) } }";
    std::fs::write(workshop.path("script"), script).unwrap();
    workshop.shell("ld", "-z noexecstack --build-id=none -T script -o linked a.o b.o n.o");
    let data = workshop.read("linked");
    let elf = Elf::parse(&data).unwrap();
    let records = Records::read(&elf).unwrap();
    let found: Vec<_> = records.records.iter().map(|record| (record.alleged.address, record.alleged.class)).collect();
    let base = 0xffff_ffff_8100_0000;
    assert_eq!(found, [(base, Class::Cli), (base + 5, Class::Sti), (base + 10, Class::Hlt)]);
    assert!(records.bad.is_empty(), "{:?}", records.bad);
    assert!(has_records(&data));
}

#[test]
fn an_image_holds_bare_records() {
    let workshop = Workshop::new();
    let site = record("1b", "1", "5", Class::Cli as u8, 0).replace(".note.afterburn", ".afterburn,\"a\"");
    workshop.assemble("image", &format!(".globl _start\n_start: 1: cli; .skip 4, 0x90\n{site}"), &[]);
    workshop.shell("ld", "-o image image.o");
    let data = workshop.read("image");
    let records = Records::read(&Elf::parse(&data).unwrap()).unwrap();
    assert_eq!(records.records.len(), 1);
    assert!(has_records(&data));
}

#[test]
fn an_unusable_record_is_reported_by_what_is_wrong() {
    let cases = [
        (record("1b", "1", "5", 0, 0), Fault::Malformed(annotate::record::RecordError::Class(0)).to_string()),
        (record("1b", "1", "5", 1, 0).replace("1b-.", "7"), Fault::Relocations(0).to_string()),
        (record("elsewhere", "1", "5", 1, 0), Fault::Undefined("elsewhere".to_owned()).to_string()),
        (
            record("1b", "1", "5", 1, 0).replace("1b-.", "1b"),
            "relocation of type 10 for its site instead of R_X86_64_PC32".to_owned(),
        ),
        (record("1b", "1", "1", 1, Flags::INIT.bits()), "a slot of 1 bytes, shorter than 5".to_owned()),
    ];
    for (record, fault) in cases {
        assert_eq!(faults(&annotated(&format!("1: cli\n.skip 4, 0x90\n{record}"))), [fault]);
    }
}

#[test]
fn a_site_outside_of_a_linked_file_is_reported() {
    let workshop = Workshop::new();
    let site = record("1b", "1", "5", 1, 0).replace("1b-.", "0x70000000");
    workshop.assemble("far", &format!("{PRELUDE}.globl _start\n_start: 1: cli; .skip 4, 0x90\n{site}"), &[]);
    workshop.shell("ld", "-o far far.o");
    let faults = faults(&workshop.read("far"));
    assert!(faults[0].ends_with("is in no section"), "{faults:?}");
}

#[test]
fn a_note_that_cannot_be_read_is_an_error() {
    let other = format!("{PRELUDE}{}", padded("cli", Class::Cli)).replace("28113f, 1", "28113f, 2");
    assert_eq!(
        error(&assemble(&other)),
        "section .note.afterburn, offset 0x0: records of version 2; this program reads version 1"
    );
    let part = annotated(&format!("{}.pushsection .note.afterburn\n.byte 0\n.popsection", padded("cli", Class::Cli)));
    assert_eq!(error(&part), "section .note.afterburn, offset 0x18: 13 bytes are no whole number of records");
    let long = assemble(".section .note.afterburn,\"a\",@note\n.long 12, 13, 1\n.asciz \"Afterburner\"\n.long 0, 0, 0");
    assert_eq!(error(&long), "section .note.afterburn, offset 0x0: the note reaches beyond its section");
    let cut = assemble(".section .note.other,\"a\",@note\n.long 12, 13");
    assert_eq!(error(&cut), "section .note.other, offset 0x0: the note reaches beyond its section");
}

#[test]
fn a_file_of_another_kind_is_an_error() {
    let workshop = Workshop::new();
    workshop.assemble("a", "nop", &[]);
    workshop.shell("ar", "rc a.a a.o");
    assert_eq!(error(&workshop.read("a.a")), "an archive: give its members instead");
    for (name, options) in [("b", "--32"), ("c", "--x32")] {
        let data = workshop.assemble(name, "nop", &[options]);
        assert_eq!(Elf::parse(&data).err(), Some(Error::NotX86Elf));
    }
    for data in [&b""[..], b"\x7fELF", b"BC\xc0\xde", b"!<thin>\n"] {
        assert!(Elf::parse(data).is_err());
        assert!(!has_records(data));
    }
}

#[test]
fn code_cannot_hide_in_a_compressed_section() {
    const COMPRESSED: u8 = 0x08;
    let mut data = assemble("cli");
    let table = usize::try_from(u64::from_le_bytes(data[0x28..0x30].try_into().unwrap())).unwrap();
    // The first section but the null one is .text; `sh_flags` is the third field.
    data[table + 64 + 8 + 1] |= COMPRESSED;
    assert_eq!(error(&data), "section .text (number 1): it is loaded, and yet compressed");
}

#[test]
fn a_file_without_records_has_none() {
    assert!(!has_records(&assemble("cli")));
    assert!(!has_records(&assemble(PRELUDE)), "a note with an empty descriptor");
    assert!(!has_records(&assemble(".section .note.x,\"a\",@note\n.long 4, 0, 1\n.asciz \"abc\"")));
}
