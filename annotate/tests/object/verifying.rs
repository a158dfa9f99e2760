//! Records held against text, and text against records.

use annotate::instructions::Class;
use annotate::object::report::Report;
use annotate::object::{Elf, verify};
use annotate::record::Flags;

use crate::support::{PRELUDE, Workshop, annotated, assemble, padded, record, site};

/// Verifies a file and hands the report to a test.
fn verified<T>(data: &[u8], test: impl FnOnce(&Report<'_>) -> T) -> T {
    let elf = Elf::parse(data).expect("an object");
    test(&verify(&elf).expect("a report"))
}

/// The problems of a file, in words.
fn problems(data: &[u8]) -> Vec<String> {
    verified(data, |report| report.problems.iter().map(ToString::to_string).collect())
}

/// The one problem that an annotated text has.
fn problem(text: &str) -> String {
    let problems = problems(&annotated(text));
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems.into_iter().next().unwrap()
}

fn misses(data: &[u8]) -> Vec<String> {
    verified(data, |report| report.misses.iter().map(ToString::to_string).collect())
}

#[test]
fn sites_with_records_hold() {
    let text = format!(
        "f: {} {} {} ret",
        padded("cli", Class::Cli),
        padded("pushfq; pop %rax", Class::PushfPop),
        padded(".byte 0x0f, 0x01, 0xca", Class::Clac)
    );
    verified(&annotated(&text), |report| {
        assert!(report.holds(), "{report:?}");
        assert_eq!(report.sites.len(), 3);
        assert_eq!(report.pad_bytes(), 4 + 3 + 2);
        assert_eq!(report.executable_bytes, 16);
        assert_eq!(report.classes()[&Class::PushfPop].sites, 1);
        assert!(report.reasons().is_empty());
    });
}

#[test]
fn sensitive_instructions_without_records_are_misses() {
    let text = ".type f,@function\nf: nop; cli; mov %cr3,%rax; int3; mov %rax,%rbx\n.size f,.-f
        .section .init.text,\"ax\"\n rdmsr\n.section .rodata\n.byte 0xfa";
    assert_eq!(
        misses(&assemble(text)),
        [
            ".text+0x1 (f+0x1): cli (fa) has no record",
            ".text+0x2 (f+0x2): mov-from-cr (0f 20 d8) has no record",
            ".init.text+0x0: rdmsr (0f 32) has no record",
        ]
    );
}

#[test]
fn a_linked_file_is_described_by_addresses() {
    let workshop = Workshop::new();
    let text = format!("{PRELUDE}.globl _start\n_start: hlt; {}", padded("cli", Class::Cli));
    workshop.assemble("a", &text, &[]);
    workshop.shell("ld", "-Ttext=0xffffffff81000000 -o a a.o");
    let data = workshop.read("a");
    assert_eq!(misses(&data), [".text+0x0 (0xffffffff81000000): hlt (f4) has no record"]);
    verified(&data, |report| {
        assert_eq!(report.sites[0].site.address, 0xffff_ffff_8100_0001);
        assert_eq!(report.sites[0].location.address, Some(0xffff_ffff_8100_0001));
    });
}

#[test]
fn a_record_has_to_agree_with_the_text() {
    let cases = [
        (padded("sti", Class::Cli), "cli: the instruction there is of class sti"),
        (padded("nop", Class::Cli), "cli: the instruction there is not sensitive"),
        (padded("cli; ret", Class::Cli), "cli: the instruction there is 1 bytes long"),
        (
            padded("popfq; lfence", Class::Popf),
            "popf: an LFENCE stands between the instruction and its pad (-mlfence-after-load)",
        ),
        (
            site("pushfq; pop %rax; lfence", Class::PushfPop, 8, Flags::empty()),
            "pushf;pop: an LFENCE stands between the instruction and its pad (-mlfence-after-load)",
        ),
        (
            format!("1: popfq; lfence; .skip 1, 0x90\n{}", record("1b", "1", "5", Class::Popf as u8, 0)),
            "popf: byte 1 of the slot starts something else than a NOP",
        ),
        (
            format!("1: cli; ret; .skip 3, 0x90\n{}", record("1b", "1", "5", 1, 0)),
            "cli: byte 1 of the slot starts something else than a NOP",
        ),
        (format!("1: cli; nop\n{}", record("1b", "1", "5", 1, 0)), "cli: the slot reaches beyond its text"),
        (format!("1: nop\n{}", record("1b+2", "1", "5", 1, 0)), "the site is beyond the end of its section"),
        (format!("1: nop\n{}", record("1b-2", "1", "5", 1, 0)), "the site is beyond the end of its section"),
        (format!(".data\n1: .skip 8, 0xfa\n{}", record("1b", "1", "5", 1, 0)), "the site is in no executable section"),
    ];
    for (text, what) in cases {
        let problem = problem(&text);
        assert!(problem.ends_with(&format!(": record 0: {what}")), "{problem}");
    }
}

#[test]
fn a_site_with_a_wrong_record_is_a_miss_too() {
    assert_eq!(misses(&annotated(&padded("sti", Class::Cli))), [".text+0x0: sti (fb) has no record"]);
}

#[test]
fn records_may_not_overlap() {
    let cli = "1: cli; .skip 4, 0x90\n";
    let one = record("1b", "1", "5", Class::Cli as u8, 0);
    assert!(problem(&format!("{cli}{one}{one}")).ends_with("record 1: record 0 is of the same site"));
    let sti = record("1b+4", "1", "5", Class::Sti as u8, 0);
    let text = format!("1: cli; .skip 3, 0x90; sti; .skip 4, 0x90\n{one}{sti}");
    let problem = problems(&annotated(&text)).remove(0);
    assert!(problem.contains("record 0: cli: byte 4 of the slot starts something else"), "{problem}");
    // A pad that ends in the bytes of the next instruction: 0f 1f 40 fb.
    let long = record("1b", "1", "5", Class::Cli as u8, 0);
    let text = format!("1: cli; .byte 0x0f,0x1f,0x40,0xfb; .skip 4, 0x90\n{long}{sti}");
    let problem = problems(&annotated(&text)).remove(0);
    assert!(problem.ends_with("record 1: its slot overlaps that of record 0, .text+0x0"), "{problem}");
}

#[test]
fn branches_may_go_to_either_end_of_a_slot_only() {
    let cli = format!("start: {}end: ", padded("cli", Class::Cli));
    let good =
        format!(".globl global\n jmp start; jne end; call end\n global: {cli} jmp start; loop start; jmp global");
    assert!(problems(&annotated(&good)).is_empty());
    let cases = [
        (format!("from: jmp start + 1\n {cli}"), "the branch at .text+0x0 goes to byte 1 of its slot"),
        (format!("{cli} jne start + 4"), "the branch at .text+0x5 goes to byte 4 of its slot"),
        (
            format!("{cli}.section .other,\"ax\"\n call start + 2"),
            "the branch at .other+0x0 goes to byte 2 of its slot",
        ),
        (format!("{cli} nop; jrcxz start + 3"), "the branch at .text+0x6 goes to byte 3 of its slot"),
    ];
    for (text, what) in cases {
        let problem = problem(&text);
        assert!(problem.ends_with(&format!("record 0: {what}")), "{problem}");
    }
}

#[test]
fn nothing_may_refer_to_a_place_within_a_slot() {
    let cli = format!("start: {}end: ", padded("cli", Class::Cli));
    let good = format!(
        "{cli} lea start(%rip), %rax; lea end(%rip), %rax; mov $start, %eax; mov $end, %rax; jmp *start(%rip)
        .data\n.quad start, end\n.long start-., end-.
        .section .debug_x\n.quad start+1\n.section .discard.x,\"a\"\n.quad start+1\n.section .orc_x,\"a\"\n.long start+1-.
        .section .eh_frame,\"a\"\n.long start+1-.\n.section .rodata\n.long start+1-."
    );
    assert_eq!(problems(&annotated(&good)), [""; 0]);
    let cases = [
        ("lea start+1(%rip), %rax", ".text", "operand", "+0x5", 1),
        ("lea .-3(%rip), %rax", ".text", "operand", "+0x5", 2),
        ("mov start+2(%rip), %rax", ".text", "operand", "+0x5", 2),
        ("movl $1, start+4(%rip)", ".text", "operand", "+0x5", 4),
        ("call *start+4(%rip)", ".text", "operand", "+0x5", 4),
        ("mov $start+3, %eax", ".text", "operand", "+0x5", 3),
        ("movq $.-1, %rax", ".text", "operand", "+0x5", 4),
        ("movq $start+3, 8(%rdx,%rcx)", ".text", "operand", "+0x5", 3),
        ("movabs $start+1, %rax", ".text", "operand", "+0x5", 1),
        ("mov start+1, %eax", ".text", "operand", "+0x5", 1),
        (".section .other,\"ax\"\n nop; lea start+1(%rip), %rax", ".other", "operand", "+0x1", 1),
        (".data\n.quad 7, start+1", ".data", "word", "+0x8", 1),
        (".section .rodata\n.quad 7, start+1", ".rodata", "word", "+0x8", 1),
        (".section __table,\"a\"\n.long start+1-.", "__table", "word", "+0x0", 1),
    ];
    for (text, section, kind, offset, byte) in cases {
        let problem = problem(&format!("{cli}{text}"));
        let expected = format!("record 0: the {kind} at {section}{offset} goes to byte {byte} of its slot");
        assert!(problem.ends_with(&expected), "{text}: {problem}");
    }
}

#[test]
fn a_word_may_name_the_field_of_an_instruction() {
    let names = |word: &str| {
        problems(&assemble(&functions(&format!(
            "mov $0x123456789abcdef, %rcx\n1: shrl $12, %edx\n2: mov %eax, 0x1000(%rbx)\n3: .pushsection t, \"a\"
            .long {word} - .\n.popsection"
        ))))
    };
    // As the kernel patches an address, a shift and an offset.
    for field in ["1b - 8", "2b - 1", "3b - 4"] {
        assert_eq!(names(field), [""; 0], "{field}");
    }
    for inside in ["1b - 9", "1b - 7", "1b - 1", "2b - 2", "3b - 5", "3b - 3"] {
        assert_eq!(names(inside).len(), 1, "{inside}");
    }
}

#[test]
fn what_compilers_compute_with_is_no_reference() {
    // Biased by a register, or by what a table starts at.
    let text = format!(
        ".globl table\n.type table,@object\ncode: {}.section .rodata\ntable: .quad 1, 2\n.size table,.-table
        .text\nmov code+1(%rax), %ecx; mov code+1(,%rax,8), %ecx; lea code+3(%rcx), %rdx; movl $5, code+1(%rax)
        .section .rodata\n.long code-.+1\n.data\n.quad table-8\n",
        padded("cli", Class::Cli)
    );
    assert_eq!(problems(&annotated(&text)), [""; 0]);
    let sized = ".type g,@function\n.globl g\ng: ret\n.size g,.-g\n.data\n.quad g-4, g-3";
    assert_eq!(problems(&annotated(&format!("{}{sized}", padded("cli", Class::Cli)))), [""; 0]);
}

/// Functions of which the first has an instruction of 7 bytes at its start, and three bytes behind.
fn functions(text: &str) -> String {
    format!(
        ".type f,@function\nf: lea 0x11223344(%rip), %rax; nop; 2: lock incl (%rax); ret\n.size f,.-f
        .type g,@function\ng: {text}\n.size g,.-g"
    )
}

#[test]
fn branches_go_to_instructions() {
    for text in
        ["jmp f", "jmp f + 7", "jne 2b", "jmp 2b + 1", "call g", "lea f(%rip), %rax", "jmp 3f; .byte 0xe8; 3: ret"]
    {
        assert_eq!(problems(&assemble(&functions(text))), [""; 0], "{text}");
    }
    for (text, what) in [
        ("jmp f + 3", ".text+0xc (g+0x0): the branch goes to .text+0x3 (f+0x3), which is within an instruction"),
        ("jne 2b + 2", ".text+0xc (g+0x0): the branch goes to .text+0xa (f+0xa), which is within an instruction"),
        ("nop; call f + 1", ".text+0xd (g+0x1): the branch goes to .text+0x1 (f+0x1), which is within an instruction"),
        (
            "lea f + 1(%rip), %rax",
            ".text+0xc (g+0x0): the operand goes to .text+0x1 (f+0x1), which is within an instruction",
        ),
        (
            "movq $f + 2, %rax",
            ".text+0xc (g+0x0): the operand goes to .text+0x2 (f+0x2), which is within an instruction",
        ),
        (
            "ret\n.data\n.quad f + 2\n.text",
            ".data+0x0: the word goes to .text+0x2 (f+0x2), which is within an instruction",
        ),
    ] {
        assert_eq!(problems(&assemble(&functions(text))), [what], "{text}");
    }
    // Without functions it is code if all of it may be; beside functions nobody knows.
    let unnamed = "f: lea 0x11223344(%rip), %rax; jmp f + 3\n";
    assert_eq!(problems(&assemble(unnamed)).len(), 1);
    assert_eq!(problems(&assemble(&format!("{unnamed}.byte 0x06"))), [""; 0], "no instruction");
    assert_eq!(problems(&assemble(&format!("{}{}", unnamed.replace('f', "e"), functions("ret")))), [""; 0]);
}

#[test]
fn data_in_text_is_no_code() {
    let table = |size: &str| {
        format!(".type t,@object\nt: .byte 0x0f,0x31,0xe4,0x60\n{size}\n.type f,@function\nf: cli\n.size f,.-f")
    };
    verified(&assemble(&table(".size t,.-t")), |report| {
        let excused: Vec<_> = report.excused.iter().map(|miss| (miss.class, miss.location.offset)).collect();
        assert_eq!(excused, [(Class::Rdtsc, 0), (Class::In, 2)]);
        assert_eq!(report.reasons()["in data"], 2);
        assert_eq!(report.misses.iter().map(|miss| miss.class).collect::<Vec<_>>(), [Class::Cli]);
        assert_eq!(report.executable_bytes, 1);
    });
    assert_eq!(misses(&assemble(&table(""))).len(), 3, "without a size nobody knows where it ends");
    // A sweep that is led astray by data falls into step where it ends.
    for data in ["0x48", "0x0f, 0x0f", "0xe8", "0x48, 0xb8, 1, 2"] {
        let text = format!(".type t,@object\nt: .byte {data}\n.size t,.-t\ncli; mov %cr3, %rax; ret");
        assert_eq!(misses(&assemble(&text)).len(), 2, "{data}");
    }
}

#[test]
fn data_that_a_record_names_is_no_code() {
    // The text ends in the middle of an instruction, which would hide the next one.
    let text = format!("ud2; {}", site(".ascii \"no, 1\"", Class::Outs, 5, Flags::DATA));
    verified(&annotated(&format!("{text} {}", padded("cli", Class::Cli))), |report| {
        assert!(report.holds(), "{report:?}");
        assert_eq!(report.reasons()["data in text"], 1);
        assert_eq!(report.executable_bytes, 2 + 5, "{report:?}");
    });
    verified(&annotated(&format!("{text} cli")), |report| {
        assert_eq!(report.misses.iter().map(|miss| miss.class).collect::<Vec<_>>(), [Class::Cli]);
    });
    let beyond = format!("28110: ud2\n{}", record("28110b", "3", "3", Class::Outs as u8, Flags::DATA.bits()));
    assert!(problem(&beyond).ends_with("the slot reaches beyond its text"), "{}", problem(&beyond));
}

#[test]
fn letters_for_a_hypervisor_are_no_code() {
    for (letters, forced) in [("xen", "cpuid"), ("kvm", "cpuid"), ("kvm", "cli")] {
        let class = Class::from_name(forced).unwrap();
        let text = format!("ud2; .ascii \"{letters}\"; {forced}");
        // OUTS is a letter, and IMUL takes the next instruction for an operand.
        let found = misses(&assemble(&text));
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert!(found[0].starts_with(&format!(".text+0x5: {forced} ")), "{text}: {found:?}");
        let site = padded(&text, Class::ForcedEmulation);
        verified(&annotated(&format!("nop; {site} {}", padded("cli", Class::Cli))), |report| {
            assert!(report.holds(), "{report:?}");
            assert_eq!(report.classes()[&Class::ForcedEmulation].sites, 1);
        });
        // The instruction alone is no site, whoever says so.
        let alone = format!("ud2; .ascii \"{letters}\"; {}", padded(forced, class));
        assert_eq!(misses(&annotated(&alone)).len(), 1, "{alone}");
    }
    assert_eq!(misses(&assemble("ud2; .ascii \"xen\"; nop")), [""; 0]);
    assert_eq!(misses(&assemble("ud2; .ascii \"Xen\"")).len(), 1);
    assert!(problem(&padded("ud2; cpuid", Class::ForcedEmulation)).contains("forced-emulation: "));
}

#[test]
fn code_with_the_name_of_data_is_code() {
    let named = ".type t,@object\n.type f,@function\nt: f: cli; ret\n.size t,.-t\n.size f,.-f";
    assert_eq!(misses(&assemble(named)).len(), 1);
    let around = ".type t,@object\nt: .byte 0xfa\n.type f,@function\nf: cli; ret\n.size f,.-f\n.size t,.-t";
    assert_eq!(misses(&assemble(around)).len(), 1);
    let inside = ".type f,@function\nf: cli; jmp 1f\n.type t,@object\nt: .byte 0xfa\n.size t,.-t\n1: ret\n.size f,.-f";
    assert_eq!(misses(&assemble(inside)).len(), 1);
}

#[test]
fn a_site_in_data_is_a_problem() {
    let text = format!(".type t,@object\nt: {}\n.size t,.-t", padded("rdtsc", Class::Rdtsc));
    assert!(problem(&text).ends_with("record 0: the site lies in data"), "{}", problem(&text));
    let text = format!("{}.type t,@object\nt: .byte 1, 2\n.size t,.-t", padded("rdtsc", Class::Rdtsc));
    assert_eq!(problems(&annotated(&text)), [""; 0]);
}

#[test]
fn branches_of_a_linked_file_are_followed_between_sections() {
    let workshop = Workshop::new();
    let text = format!(
        "{PRELUDE}.globl _start\n_start: {} .section .init.text,\"ax\"\n nop; jmp _start + 1",
        padded("cli", Class::Cli)
    );
    workshop.assemble("a", &text, &[]);
    // Kept relocations have been applied already.
    workshop.shell("ld", "--emit-relocs -Ttext=0xffffffff81000000 -o a a.o");
    let problems = problems(&workshop.read("a"));
    assert_eq!(problems.len(), 1);
    assert!(problems[0].contains(".init.text+0x1"), "{problems:?}");
}

#[test]
fn claims_are_completed() {
    let flags = |text: &str| {
        verified(&annotated(text), |report| {
            assert!(report.holds(), "{report:?}");
            report.sites[0].site.flags
        })
    };
    let cli = padded("cli", Class::Cli);
    let section = |name: &str| format!(".section {name},\"ax\"\n{cli}");
    assert_eq!(flags(&cli), Flags::empty());
    assert_eq!(flags(&section(".init.text")), Flags::INIT);
    assert_eq!(flags(&section(".exit.text")), Flags::INIT);
    assert_eq!(flags(&section(".entry.text")), Flags::NO_STACK);
    assert_eq!(flags(&section(".head.text")), Flags::HEAD);
    assert_eq!(flags(&section(".altinstr_replacement")), Flags::REPLACEMENT);
    let copied = format!(
        ".type ftrace_regs_caller,@function\nftrace_regs_caller: {cli}.size ftrace_regs_caller,.-ftrace_regs_caller"
    );
    assert_eq!(flags(&copied), Flags::COPIED);
    let table = "nop; 2: .section __ex_table,\"a\"\n.long 2b-., 1b-., 1, 1b-., 2b-., 1";
    assert_eq!(flags(&format!("1: {}{table}", padded("wrmsr", Class::Wrmsr))), Flags::EXTABLE);
}

#[test]
fn a_replacement_is_executed_where_its_original_stands() {
    let text = format!(
        ".section .entry.text,\"ax\"\nnop\n.type f,@function\nf: nop; 661: .skip 7, 0x90; 662: ret\n.size f,.-f
        .section .altinstructions,\"a\"\n.long 661b-., 663f-.\n.short 1\n.byte 662b-661b, 664f-663f
        .section .altinstr_replacement,\"ax\"\nnop; 663: nop; nop; {}664:",
        padded(".byte 0x0f,0x01,0xca", Class::Clac)
    );
    let check = |data: &[u8], flags: Flags| {
        verified(data, |report| {
            assert!(report.holds(), "{report:?}");
            let site = &report.sites[0];
            assert_eq!(site.site.flags, flags);
            assert_eq!(site.location.section, ".altinstr_replacement");
            assert_eq!(site.location.function.unwrap().to_string(), "f+0x3");
        });
    };
    let workshop = Workshop::new();
    let object = workshop.assemble("a", &format!("{PRELUDE}.globl _start\n_start:\n{text}"), &[]);
    check(&object, Flags::REPLACEMENT | Flags::NO_STACK);
    workshop.shell("ld", "-o a a.o --section-start=.altinstr_replacement=0x500000");
    check(&workshop.read("a"), Flags::REPLACEMENT | Flags::NO_STACK);
}

#[test]
fn entry_text_of_a_linked_kernel_is_named_by_symbols() {
    let workshop = Workshop::new();
    let text = format!(
        "{PRELUDE}.globl _start,__entry_text_start,__entry_text_end\n_start: {0}__entry_text_start: {0}__entry_text_end: {0}",
        padded("cli", Class::Cli)
    );
    workshop.assemble("a", &text, &[]);
    workshop.shell("ld", "-o a a.o");
    verified(&workshop.read("a"), |report| {
        let flags: Vec<_> = report.sites.iter().map(|site| site.site.flags).collect();
        assert_eq!(flags, [Flags::empty(), Flags::NO_STACK, Flags::empty()]);
    });
}

#[test]
fn entry_text_that_is_called_has_a_stack() {
    let workshop = Workshop::new();
    let function = |name: &str| {
        format!(".type {name}, @function\n{name}: {}ret\n.size {name}, . - {name}\n", padded("cli", Class::Cli))
    };
    let text = format!(
        "{PRELUDE}.globl _start,__entry_text_start,__entry_text_end\n\
         _start: call called\njmp jumped_to\n__entry_text_start: {}{}__entry_text_end: ret",
        function("called"),
        function("jumped_to")
    );
    workshop.assemble("a", &text, &[]);
    workshop.shell("ld", "-o a a.o");
    verified(&workshop.read("a"), |report| {
        let flags: Vec<_> = report.sites.iter().map(|site| site.site.flags).collect();
        assert_eq!(flags, [Flags::empty(), Flags::NO_STACK]);
    });
}

#[test]
fn a_claim_that_the_object_refutes_is_a_problem() {
    for flag in [Flags::INIT, Flags::REPLACEMENT, Flags::NO_STACK, Flags::HEAD, Flags::EXTABLE] {
        let problem = problem(&site("cli", Class::Cli, 5, flag));
        assert!(problem.ends_with(&format!("record 0: it claims {flag:?}, which the file refutes")), "{problem}");
    }
    assert!(problems(&annotated(&site("cli", Class::Cli, 5, Flags::COPIED))).is_empty());
}

#[test]
fn unpadded_sites_are_listed_with_their_reason() {
    let text = format!(
        "{}{}",
        site("cpuid", Class::Cpuid, 2, Flags::SWITCHED_OFF),
        site("cli", Class::Cli, 1, Flags::COUNTED)
    );
    verified(&annotated(&text), |report| {
        assert!(report.holds(), "{report:?}");
        let reasons: Vec<_> = report.reasons().into_iter().collect();
        assert_eq!(reasons, [("class switched off", 1), ("within a distance that the text counts in bytes", 1)]);
        assert_eq!(report.classes()[&Class::Cpuid].excused, 1);
    });
}

#[test]
fn functions_of_32_bit_code_are_swept_as_such() {
    // In 64-bit code, 0f 01 15 is `lgdt disp32(%rip)` too, but `ljmp $8, $1f` (ea ...) and `inc
    // %eax` (40) are not.
    let text = format!(
        ".code32\npvh: inc %eax; {} rdmsr; ljmp $8, $1f\n1: .code64\n {} ret\n.size pvh,.-pvh\n.type f,@function\nf: hlt; ret\n.size f,.-f",
        site("mov %eax,%cr0", Class::MovToCr, 3, Flags::CODE32),
        padded("cli", Class::Cli)
    );
    verified(&annotated(&text), |report| {
        assert!(report.problems.is_empty(), "{report:?}");
        let excused: Vec<_> = report.excused.iter().map(|miss| (miss.class, miss.location.offset)).collect();
        assert_eq!(excused, [(Class::Rdmsr, 4), (Class::Ljmp, 6)]);
        assert_eq!(report.reasons()["in a function of 32-bit code"], 2);
        let misses: Vec<_> = report.misses.iter().map(|miss| miss.class).collect();
        assert_eq!(misses, [Class::Hlt], "the next function is 64-bit code again");
    });
}

#[test]
fn a_function_within_an_instruction_is_swept() {
    // Linux hides its return thunk in the operand of a `test`: f6 [c3 cc].
    let text = ".byte 0xf6\n.type thunk,@function\nthunk: cli; hlt; ret\n.size thunk,.-thunk";
    assert_eq!(misses(&assemble(text)).len(), 2);
}

#[test]
fn a_report_is_serializable() {
    let data = annotated(&format!("f: {} hlt", padded("cli", Class::Cli)));
    verified(&data, |report| {
        let json = serde_json::to_value(report).expect("JSON");
        assert_eq!(json["sites"][0]["class"], "cli");
        assert_eq!(json["misses"][0]["bytes"], "f4");
    });
}
