//! What a file alleges costs no more than what it holds: eight times the file takes about eight
//! times the time.
//!
//! The time is that of the thread, so a busy machine does not matter, and the bound is far from
//! eight and far from what a square would be, 64.

use std::fmt::Write as _;
use std::time::Duration;

use annotate::instructions::Class;
use annotate::object::sources::Sources;
use annotate::object::{Elf, compare, has_records, verify};
use annotate::record::Flags;
use rustix::time::{ClockId, clock_gettime};

use crate::support::{PRELUDE, Workshop, padded, record, repeated, site};

const TIMES: usize = 8;
const BOUND: u32 = 24;

fn thread_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("a time")
}

/// The least time that some work takes.
fn cost(work: impl Fn()) -> Duration {
    let once = || {
        let start = thread_time();
        work();
        thread_time().saturating_sub(start)
    };
    (0..3).map(|_| once()).min().unwrap_or_default()
}

/// Holds the cost of what is made for `count` against that for eight times as much.
fn assert_linear<T>(name: &str, count: usize, make: impl Fn(usize) -> T, work: impl Fn(&T)) {
    let (small, large) = (make(count), make(count * TIMES));
    let (small, large) = (cost(|| work(&small)), cost(|| work(&large)));
    // What is too little to be measured is linear enough.
    let least = Duration::from_micros(500);
    assert!(large < small.max(least) * BOUND, "{name}: {count} cost {small:?}, {TIMES} times as many {large:?}");
}

fn assemble(text: &str) -> Vec<u8> {
    Workshop::new().assemble("text", &format!("{PRELUDE}.text\n.globl _start\n_start:\n{text}\n"), &[])
}

fn link(text: &str) -> Vec<u8> {
    let workshop = Workshop::new();
    workshop.assemble("a", &format!("{PRELUDE}.text\n.globl _start\n_start:\n{text}\n"), &[]);
    workshop.shell("ld", "-o a a.o");
    workshop.read("a")
}

/// All that `verify` and `sites` do.
fn examine(data: &[u8]) {
    let _ = has_records(data);
    if let Ok(elf) = Elf::parse(data)
        && let Ok(mut report) = verify(&elf)
    {
        let sources = Sources::of(&elf);
        report.find_sources(&sources);
        report.find_site_sources(&sources);
        let _ = report.problems.iter().map(|problem| problem.to_string().len()).sum::<usize>();
    }
}

const FUNCTION: &str = ".type f,@function\nf:\n";
const FUNCTION_END: &str = "\n.text\n.size f,.-f\n";

#[test]
fn objects_are_verified_in_linear_time() {
    let cli = padded("cli", Class::Cli);
    let one = record("1b", "1", "5", Class::Cli as u8, 0);
    let code32 = site("cli", Class::Cli, 1, Flags::CODE32);
    let cases = [
        ("sites", format!("{cli}\n")),
        ("sites and misses in one function", format!("{cli} hlt\n")),
        ("sites of 32-bit code and misses", format!("{code32} hlt\n")),
        ("records of one site", one.clone()),
        ("branches into one slot", "jmp 1b + 1\n".to_owned()),
        ("references into one slot", ".data\n.quad 1b + 1\n.text\n".to_owned()),
        ("sections", ".section .text.#,\"ax\"\n hlt; call _start\n".to_owned()),
        ("data sections with relocations", ".section .data.#,\"aw\"\n.quad _start\n".to_owned()),
        ("functions of one place", ".type g#,@function\n.set g#, f\n.size g#, 1\n".to_owned()),
        ("functions around each other", ".type g#,@function\n.set g#, f\n.size g#, # + 1\n hlt\n".to_owned()),
        ("objects of one place", ".type o#,@object\n.set o#, f\n.size o#, # + 1\n hlt\n".to_owned()),
        ("objects", ".type o#,@object\no#: .byte 0xf4, 0xf4\n.size o#, 2\n".to_owned()),
        ("symbols", "s#: nop\n".to_owned()),
        ("notes", ".section .note.x#,\"a\",@note\n.long 4, 0, 1\n.asciz \"abc\"\n.text\n".to_owned()),
        (
            "descriptors",
            ".section .note.afterburn\n.subsection 2\n.long 12, 0, 1\n.asciz \"Afterburner\"\n.text\n".to_owned(),
        ),
        ("exceptions", "2: hlt\n.section __ex_table,\"a\"\n.long 2b-., 2b-., 0\n.text\n".to_owned()),
        ("exceptions of one place", ".section __ex_table,\"a\"\n.long 1b-., 1b-., 0\n.text\n".to_owned()),
        ("invalid bytes", ".byte 0x06\n".to_owned()),
    ];
    for (name, text) in cases {
        let make = |count| {
            let first = format!("{FUNCTION}1: cli; .skip 4, 0x90\n{one}");
            assemble(&format!("{first}{}{FUNCTION_END}", repeated(count, &text)))
        };
        assert_linear(name, 400, make, |data| examine(data));
    }
}

/// An alternative: an original of two bytes, and its replacement.
const ALTERNATIVE: &str = "661: .nops 2\n662:
.section .altinstr_replacement,\"ax\"\n663: clac2\n664:
.section .altinstructions,\"a\"\n.long 661b-., 663b-.\n.short 0\n.byte 662b-661b, 664b-663b\n.text\n";

#[test]
fn linked_files_are_verified_in_linear_time() {
    let cli = padded("cli", Class::Cli);
    let entry = ".section .altinstructions,\"a\"\n.long 661b-., 663b-.\n.short 0\n.byte 2, 2\n.text\n";
    let of_one = format!(
        "{cli} 661: .nops 2\n.section .altinstr_replacement,\"ax\"\n663: nop; nop\n.text\n{entry}{cli} jmp 661b\n"
    );
    let cases = [
        ("sites and alternatives", String::new(), format!("{cli}{}", ALTERNATIVE.replace("clac2", "nop; nop"))),
        ("alternatives of one original", of_one, format!("{entry}{cli} jmp 661b\n")),
        ("jump labels", String::new(), ".section .rodata\n.long _start-., _start-.\n.quad 0\n.text\nnop\n".to_owned()),
        ("sites before a long way", String::new(), format!("{cli} .nops 8, 1\n")),
    ];
    for (name, first, text) in cases {
        let make = |count| {
            let table = ".globl __start___jump_table,__stop___jump_table\n.section .rodata\n";
            let start = format!("{table}__start___jump_table:\n.text\n");
            let end = format!("{table}__stop___jump_table:\n.text\n");
            link(&format!("{first}{start}{}{end}iretq", repeated(count, &text)))
        };
        assert_linear(name, 200, make, |data| examine(data));
    }
}

#[test]
fn a_table_ends_with_its_section() {
    let table = ".globl __start___jump_table,__stop___jump_table\n.section .rodata\n__start___jump_table: .quad 0, 0\n
        .set __stop___jump_table, __start___jump_table + (1 << 60)\n.text\n";
    let data = link(&format!("{table}{}", padded("cli", Class::Cli)));
    assert_eq!(verify(&Elf::parse(&data).unwrap()).unwrap().sites.len(), 1);
}

/// The object with the headers of its sections at its end, and `count` more of the section that a
/// name says.
fn with_headers(data: &[u8], name: &str, count: usize) -> Vec<u8> {
    const SIZE: usize = 64;
    let (index, _) = Elf::parse(data).unwrap().section_named(name).expect("the section");
    let offset = usize::try_from(u64::from_le_bytes(data[0x28..0x30].try_into().unwrap())).unwrap();
    let number = usize::from(u16::from_le_bytes(data[0x3c..0x3e].try_into().unwrap()));
    let header = |index: usize| &data[offset + index * SIZE..][..SIZE];
    let mut forged = data.to_vec();
    forged[0x28..0x30].copy_from_slice(&(data.len() as u64).to_le_bytes());
    forged[0x3c..0x3e].copy_from_slice(&u16::try_from(number + count).unwrap().to_le_bytes());
    (0..number).for_each(|index| forged.extend(header(index)));
    (0..count).for_each(|_| forged.extend(header(index)));
    forged
}

#[test]
fn sections_that_share_bytes_are_refused() {
    let text =
        format!("{FUNCTION}{}{FUNCTION_END}call elsewhere\n.data\n.quad f", padded("cli", Class::Cli).repeat(1000));
    let data = assemble(&text);
    for name in
        [".text", ".rela.text", ".note.afterburn", ".rela.note.afterburn", ".symtab", ".strtab", ".data", ".shstrtab"]
    {
        for count in [1, 3000] {
            let forged = with_headers(&data, name, count);
            let error = Elf::parse(&forged).err().expect("an error").to_string();
            assert!(error.starts_with(&format!("sections {name} (number ")), "{error}");
            assert!(error.ends_with("share bytes of the file: no assembler or linker makes that"), "{error}");
            assert!(compare(&forged, &data).is_err());
            assert!(compare(&data, &forged).is_err());
        }
    }
    let notes = assemble(&format!(".section .note.x,\"a\",@note\n{}", ".long 4, 0, 1\n.asciz \"abc\"\n".repeat(1000)));
    assert!(!has_records(&notes));
    assert!(has_records(&with_headers(&notes, ".note.x", 3000)), "nobody can say");
    // A section without contents shares nothing.
    let empty = assemble("nop\n.bss\n.skip 4096");
    assert!(Elf::parse(&with_headers(&empty, ".bss", 3000)).is_ok());
}

#[test]
fn names_are_in_proportion_to_the_file() {
    let long = |length: usize| format!(".globl {0}\n{0}: nop\n", "x".repeat(length));
    assert!(Elf::parse(&assemble(&long(4096))).is_ok());
    let error = Elf::parse(&assemble(&long(4097))).err().expect("an error").to_string();
    assert_eq!(error, "malformed ELF: a name of more than 4096 bytes");
    // All symbols get the longest name.
    let mut data = assemble(&format!("{}{}", long(4000), repeated(1000, "a#: nop\n")));
    let elf = Elf::parse(&data).unwrap();
    let (_, table) = elf.section_named(".symtab").unwrap();
    let start = usize::try_from(table.file_range.0).unwrap();
    let entries = table.bytes.as_chunks::<24>().0;
    let names: Vec<u32> = entries.iter().map(|entry| u32::from_le_bytes(*entry.first_chunk().unwrap())).collect();
    let longest = elf.symbols().zip(&names[1..]).find(|(symbol, _)| symbol.name.len() == 4000).map(|(_, name)| *name);
    for number in 1..names.len() {
        data[start + number * 24..][..4].copy_from_slice(&longest.expect("the symbol").to_le_bytes());
    }
    let error = Elf::parse(&data).err().expect("an error").to_string();
    assert_eq!(error, "malformed ELF: more names than the file can hold");
}

#[test]
fn objects_are_compared_in_linear_time() {
    let cli = padded("cli", Class::Cli);
    // An original that is as long as its replacement: what ends it may be room.
    let room = "661: .byte 0x90\n662:\n.section .altinstr_replacement,\"ax\"\n663: nop\n664:
        .section .altinstructions,\"a\"\n.long 661b-., 663b-.\n.short 0\n.byte 662b-661b, 664b-663b\n.text\n";
    let pair = |text: &str| [text.replace("{cli}", "cli\n"), text.replace("{cli}", &cli)];
    let cases = [
        ("sites", String::new(), "{cli}\n".to_owned(), ""),
        ("branches", String::new(), "{cli} jmp _start; call elsewhere\n".to_owned(), ""),
        ("NOPs", "{cli}".to_owned(), "nop\n".to_owned(), ""),
        ("NOPs and others", "{cli}".to_owned(), ".nops 70, 1\n ret\n".to_owned(), ""),
        ("rooms", "{cli}".to_owned(), room.to_owned(), ""),
        ("rooms and branches", "{cli} 1:\n".to_owned(), format!("{room} jmp 1b\n"), ""),
        ("symbols", "{cli}".to_owned(), "s#: nop\n".to_owned(), ""),
        ("symbols of one place", "{cli}".to_owned(), ".set s#, _start\n".to_owned(), ""),
        ("symbols and distances", "{cli}".to_owned(), "s#: mov $(s# - _start), %eax\n {cli}\n".to_owned(), ""),
        ("distances from afar", "{cli}".to_owned(), "s#: mov $(end - s#), %eax\n {cli}\n".to_owned(), "end: ret"),
        ("sections", String::new(), ".section .text.#,\"ax\"\n{cli} jmp 1f; 1:\n".to_owned(), ""),
        ("relocations of one field", "{cli}".to_owned(), ".reloc _start+1, R_X86_64_NONE, f#\n".to_owned(), ""),
        ("alignments", "{cli}".to_owned(), "{cli} .p2align 5\n ret\n".to_owned(), ""),
    ];
    for (name, first, text, last) in cases {
        let make = |count| pair(&format!("{first}{}{last}", repeated(count, &text))).map(|text| assemble(&text));
        let work = |[plain, padded]: &[Vec<u8>; 2]| {
            let difference = compare(plain, padded).err();
            assert!(difference.is_none() || name == "relocations of one field", "{name}: {difference:?}");
        };
        assert_linear(name, 400, make, work);
    }
}

#[test]
fn rooms_beside_a_run_of_nops_are_passed_in_linear_time() {
    // The plain object has one room after the other, the other one NOPs without end.
    let make = |count: usize| {
        let table = |entries: &str| format!(".section .altinstructions,\"a\"\n{entries}.text\n");
        let mut entries = String::new();
        for number in 0..count {
            let _ = writeln!(entries, ".long nops+{number}-., new-.\n.short 0\n.byte 1, 1");
        }
        let replacement = ".section .altinstr_replacement,\"ax\"\nnew: nop\n.text\n";
        let text = |table: &str| format!("nops: .skip {count}, 0x90\n{replacement}{table}");
        let one = table(".long nops-., new-.\n.short 0\n.byte 1, 1\n");
        [text(&table(&entries)), text(&one)].map(|text| assemble(&text))
    };
    assert_linear("rooms", 1000, make, |[plain, padded]| {
        let _ = compare(plain, padded);
        let _ = compare(padded, plain);
    });
}
