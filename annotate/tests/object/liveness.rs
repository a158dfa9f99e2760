//! Status flags after a site, on a linked file.

use annotate::instructions::Class;
use annotate::object::{Elf, verify};
use annotate::record::{Flags, LiveFlags};

use crate::support::{PRELUDE, Workshop, padded, site};

const ALL: LiveFlags = LiveFlags::all();
const NONE: LiveFlags = LiveFlags::DF;

/// The flags that are live after the first site of a linked text.
fn live(text: &str) -> LiveFlags {
    let workshop = Workshop::new();
    workshop.assemble("a", &format!("{PRELUDE}.text\n.globl _start\n_start: {text}\n"), &[]);
    workshop.shell("ld", "-Ttext=0xffffffff81000000 -o a a.o");
    let data = workshop.read("a");
    let elf = Elf::parse(&data).expect("a linked file");
    let report = verify(&elf).expect("a report");
    assert!(report.problems.is_empty(), "{text}: {:?}", report.problems);
    report.sites[0].site.liveness.flags
}

/// The flags that are live after a site that is followed by this.
fn live_before(text: &str) -> LiveFlags {
    live(&format!("{}\n{text}", padded("cli", Class::Cli)))
}

#[test]
fn a_flag_is_dead_where_every_way_writes_it_unread() {
    for (text, expected) in [
        ("test %eax, %eax; ret", NONE),
        ("iretq", NONE),
        ("sysretq", NONE),
        ("popfq; ret", NONE),
        ("ret", ALL),
        ("pushfq; iretq", ALL),
        ("jc 1f; iretq; 1: iretq", NONE | LiveFlags::CF),
        ("jz 1f; iretq; 1: ret", ALL),
        ("jmp 1f; ret; 1: iretq", NONE),
        ("inc %eax; ret", NONE | LiveFlags::CF),
        ("adc $1, %eax; ret", NONE | LiveFlags::CF),
        ("and $1, %eax; ret", NONE),
        ("1: nop; jmp 1b", NONE),
        ("jmp *%rax", ALL),
        ("call *%rax", ALL),
        ("call 1f; ret; 1: xor %eax, %eax; ret", NONE),
        ("call 1f; iretq; 1: ret", ALL),
        ("hlt; ud2", ALL),
        ("", ALL),
        (".nops 40, 1; iretq", NONE),
        (".nops 80, 1; iretq", ALL),
    ] {
        assert_eq!(live_before(text), expected, "{text}");
    }
}

#[test]
fn what_may_leave_a_flag_alone_does_not_write_it() {
    for text in [
        "shl %cl, %eax; ret",
        "shld %cl, %eax, %edx; ret",
        ".byte 0xc1, 0xe0, 0; ret",
        "repe cmpsb; ret",
        "repne scasb; ret",
        "mov %cr3, %rax; ret",
        "mov %rax, %cr3; ret",
    ] {
        assert_eq!(live_before(text), ALL, "{text}");
    }
    assert_eq!(live_before("shl $4, %eax; ret"), NONE);
    assert_eq!(live_before("cmpsb; ret"), NONE);
}

#[test]
fn sites_that_may_go_on_elsewhere_stay_as_they_are() {
    let after = "iretq";
    for site in [
        site("iretq", Class::Iret, 5, Flags::empty()),
        site("int $0x80", Class::Int, 5, Flags::empty()),
        site("rdmsr", Class::Rdmsr, 5, Flags::COPIED),
        format!(
            "1: {}\n.pushsection __ex_table, \"a\"\n.long 1b-., 1b-., 0\n.popsection",
            site("rdmsr", Class::Rdmsr, 5, Flags::empty())
        ),
    ] {
        assert_eq!(live(&format!("{site}\n{after}")), ALL, "{site}");
    }
    assert_eq!(live(&format!("{}\n{after}", padded("push %rax; popfq", Class::PushPopf))), NONE);
}

#[test]
fn an_instruction_that_may_fault_into_a_fix_up_makes_all_live() {
    let fault = ".pushsection __ex_table, \"a\"\n.long 1b-., 1b-., 0\n.popsection";
    assert_eq!(live_before("1: mov (%rax), %rax; iretq"), NONE);
    assert_eq!(live_before(&format!("1: mov (%rax), %rax; iretq\n{fault}")), ALL);
}

/// An alternative of 5 bytes at `1:` that ends at `2:`.
fn alternative(replacement: &str) -> String {
    format!(
        ".pushsection .altinstr_replacement, \"ax\"\n3: {replacement}\n4:\n.popsection
         .pushsection .altinstructions, \"a\"\n.long 1b-., 3b-.\n.short 0\n.byte 2b-1b, 4b-3b\n.popsection\n"
    )
}

#[test]
fn an_alternative_is_its_original_and_its_replacement() {
    let original = "1: .nops 5\n2: iretq; 5: iretq\n";
    for (replacement, expected) in
        [("lfence", NONE), ("", NONE), ("clac; jc 5b", NONE | LiveFlags::CF), ("ret", ALL), ("jmp 4f", NONE)]
    {
        assert_eq!(live_before(&format!("{original}{}", alternative(replacement))), expected, "{replacement}");
    }
    let two = format!("{original}{}{}", alternative("lfence"), alternative("jo 5b"));
    assert_eq!(live_before(&two), NONE | LiveFlags::OF);
    let middle = format!("jmp 1f + 1\n{}{}", original.replace(".nops 5", "nop; .nops 4"), alternative("lfence"));
    assert_eq!(live_before(&middle), ALL, "a jump into an original");
}

#[test]
fn a_site_in_a_replacement_goes_on_where_its_original_ends() {
    let replacement = format!("3: {}\n4:", padded("clac", Class::Clac));
    for (after, expected) in [("iretq", NONE), ("js 5f; iretq; 5: iretq", NONE | LiveFlags::SF)] {
        let text = format!(
            "1: .nops 5\n2: {after}\n.section .altinstr_replacement, \"ax\"\n{replacement}
             .section .altinstructions, \"a\"\n.long 1b-., 3b-.\n.short 0\n.byte 2b-1b, 4b-3b"
        );
        assert_eq!(live(&text), expected, "{after}");
    }
    assert_eq!(live(&format!("ret\n.section .altinstr_replacement, \"ax\"\n{replacement} iretq")), ALL, "unused");
}

#[test]
fn a_jump_label_is_a_nop_and_a_jump() {
    for code in [".nops 5", "jmp 2f", ".byte 0xe9; .long 2f-.-4"] {
        let text = format!(
            "1: {code}\n iretq\n2: jp 3f; iretq\n3: iretq
             .section .rodata\n.globl __start___jump_table, __stop___jump_table
             __start___jump_table: .long 1b-., 2b-.\n.quad 0\n__stop___jump_table:"
        );
        assert_eq!(live_before(&text), NONE | LiveFlags::PF, "{code}");
    }
}

#[test]
fn a_static_call_goes_anywhere() {
    let table = ".section .rodata\n.globl __start_static_call_sites, __stop_static_call_sites
         __start_static_call_sites: .long 1b-., 0\n__stop_static_call_sites:";
    assert_eq!(live_before("1: jmp 2f\n2: iretq"), NONE);
    assert_eq!(live_before(&format!("1: jmp 2f\n2: iretq\n{table}")), ALL);
    let trampoline = "jmp 2f\n.globl __static_call_text_start, __static_call_text_end
         __static_call_text_start:\n2: iretq\n__static_call_text_end:";
    assert_eq!(live_before(trampoline), ALL);
}

#[test]
fn an_object_keeps_what_the_records_say() {
    let data = crate::support::annotated(&format!("{} iretq", padded("cli", Class::Cli)));
    let elf = Elf::parse(&data).expect("an object");
    assert_eq!(verify(&elf).expect("a report").sites[0].site.liveness.flags, ALL);
}
