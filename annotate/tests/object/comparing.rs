//! The padded object held against the plain one.

use annotate::instructions::Class;
use annotate::object::compare;
use annotate::object::compare::{Comparison, Difference, Which};
use annotate::record::Flags;

use crate::support::{PRELUDE, Workshop, annotated, assemble, padded, repeated, site};

/// A plain text and the padded one: `{cli}`, `{wrmsr}` ... stand for sites.
fn pair(text: &str) -> [String; 2] {
    let sites = [
        ("{cli}", "cli\n", padded("cli", Class::Cli)),
        ("{wrmsr}", "wrmsr\n", padded("wrmsr", Class::Wrmsr)),
        ("{clac}", ".byte 0x0f,0x01,0xca\n", padded(".byte 0x0f,0x01,0xca", Class::Clac)),
        ("{pushf}", "pushfq\npop %rax\n", padded("pushfq\npop %rax", Class::PushfPop)),
    ];
    let mut pair = [text.to_owned(), format!("{PRELUDE}{text}")];
    for (mark, plain, padded) in sites {
        pair = [pair[0].replace(mark, plain), pair[1].replace(mark, &padded)];
    }
    pair
}

fn compared(text: &str) -> Result<Comparison, Difference> {
    let [plain, padded] = pair(text).map(|text| assemble(&text));
    compare(&plain, &padded)
}

/// The comparison of two texts that should be equal.
fn equal(text: &str) -> Comparison {
    compared(text).unwrap_or_else(|difference| panic!("{difference}"))
}

/// The difference that a change of the padded text makes.
fn difference(text: &str, from: &str, to: &str) -> String {
    let [plain, padded] = pair(text);
    assert!(padded.contains(from), "{padded}");
    let padded = padded.replacen(from, to, 1);
    compare(&assemble(&plain), &assemble(&padded)).expect_err("a difference").to_string()
}

const TEXT: &str = "
.globl f, g
.type f,@function
f:  push %rbp
    {cli}
1:  mov table(%rip), %rax
    lea 1b(%rip), %rcx
    {pushf}
2:  {wrmsr}
3:  jne 1b
    call g
    jmp *table(,%rax,8)
4:  mov $-5, %eax
    ret
.size f,.-f
.p2align 4
.type g,@function
g:  {cli}
    call elsewhere
    ret
.size g,.-g
.section __ex_table,\"a\"
.long 2b-., 4b-., 3
.section .rodata
table: .quad 1b, 2b, 3b, g, f + 1
.section .init.text,\"ax\"
    {cli}
    jmp 4b
";

#[test]
fn a_padded_object_is_the_plain_one() {
    let comparison = equal(TEXT);
    assert_eq!(comparison.pads, 5);
    assert_eq!(comparison.sections, 2);
    assert_eq!(comparison.instructions, 17);
    assert_eq!(comparison.resized_branches, 0);
    let [plain, _] = pair(TEXT);
    let plain = assemble(&plain);
    assert_eq!(compare(&plain, &plain).unwrap().pads, 0);
}

#[test]
fn branches_may_change_their_size() {
    let text = format!(
        "1: {} jmp 1b; 2: {} jne 2b; jmp 3f; {} 3: ret",
        "{cli}".repeat(30),
        "{cli}".repeat(31),
        "{cli}".repeat(40)
    );
    assert_eq!(equal(&text).resized_branches, 3);
}

#[test]
fn alignment_may_change_its_filler() {
    for sites in 0..20 {
        for align in
            [".p2align 4", ".p2align 4,,10; .p2align 3", ".balign 32, 0xcc", ".p2align 5; .byte 0x0f,0x1f,0x44,0,0"]
        {
            equal(&format!(
                ".p2align 6\n{} ret; {align}\n 1: nop; call 1b; {{cli}} {align}\n jmp 1b",
                "{cli}".repeat(sites)
            ));
        }
    }
}

#[test]
fn filler_may_stand_among_int3_of_the_text() {
    // As Linux's `clear_bhb_loop` does: 14 INT3 behind the alignment, up to the return thunk's
    // place.
    for sites in 0..12 {
        equal(&format!(
            "{} call 1f; jmp 2f; .align 64, 0xcc; .skip 14, 0xcc; 1: ret; int3; int3; 2: ret",
            "{cli}".repeat(sites)
        ));
    }
}

#[test]
fn immediates_may_be_distances_of_labels() {
    let text = "f: mov $5, %eax; {cli} add $(1f - f), %r8; mov $(g - 1f), %ecx; nop; 1: {cli} g: ret";
    equal(text);
    assert!(difference(text, "$(1f - f)", "$(g - f)").contains("the instructions differ: plain +0x6 `add $"));
    assert!(difference(text, "$5", "$6").contains("the instructions differ: plain +0x0 `mov $5,%eax`"));
}

#[test]
fn nops_of_the_text_are_no_filler() {
    let text = ".p2align 4\n{cli} nopl 8(%rax); ret";
    assert!(difference(text, "nopl 8(%rax);", "").starts_with("section .text: the instructions differ"));
    assert!(difference(text, "ret", "nop; ret").contains("plain +0x5 `ret`, padded +0x9 `nop`"));
    assert!(difference(text, "8(%rax)", "9(%rax)").contains("the instructions differ"));
}

#[test]
fn originals_make_room_for_longer_replacements() {
    let alternative = |original: &str, replacement: &str| {
        format!(
            "661: {original} 662: .skip -(((665f-664f)-(662b-661b)) > 0) * ((665f-664f)-(662b-661b)), 0x90\n663:
            .pushsection .altinstructions,\"a\"\n.long 661b-., 664f-.\n.short 1\n.byte 663b-661b, 665f-664f\n.popsection
            .pushsection .altinstr_replacement,\"ax\"\n664: {replacement} 665:\n.popsection\n"
        )
    };
    let smap = alternative("", "{clac}");
    let text = format!(
        ".p2align 4\n.globl f\nf: {smap} mov %rdi,%rax; {} nop; {smap} ret\n.p2align 4\n.globl g\ng: {smap} {cli}.p2align 4\nh: {smap} jmp h",
        alternative("rdtsc;", "lfence; rdtsc;"),
        cli = "{cli}"
    );
    assert_eq!(equal(&text).pads, 5);
    // More room than the replacement needs is no room, but NOPs of the text.
    assert!(difference(&text, "663:", ".skip 3, 0x90\n663:").contains("differ"));
}

#[test]
fn physical_addresses_are_addresses() {
    equal("{cli} 1: nop; {cli} 2: mov $(2b + 0x80000000), %eax; movq $(1b + 0x80000000), %rbx");
}

#[test]
fn code_of_32_bits_is_compared_as_such() {
    let unpadded = site("mov %eax, %cr0", Class::MovToCr, 3, Flags::CODE32);
    let text =
        |site: &str| format!(".code32\np: inc %eax; {site} ljmp $8, $1f\n1: .code64\n {{cli}} ret\n.size p,.-p\n");
    let [plain, _] = pair(&text("mov %eax, %cr0;"));
    let [_, padded] = pair(&text(&unpadded));
    assert_eq!(compare(&assemble(&plain), &assemble(&padded)).unwrap().pads, 2);
}

#[test]
fn anything_else_is_a_difference() {
    let cases = [
        (
            "push %rbp",
            "push %rbx",
            "section .text: the instructions differ: plain +0x0 `push %rbp`, padded +0x0 `push %rbx`",
        ),
        ("push %rbp\n", "", "`push %rbp`, padded +0x0 `cli`"),
        ("mov $-5", "mov $-6", "the instructions differ"),
        ("jne 1b", "je 1b", "the instructions differ: plain +0x14 `jne 2`, padded +0x1e `je 6`"),
        ("jne 1b", "jne 2b", "the targets differ: plain +0x"),
        ("lea 1b(%rip)", "lea 2f(%rip)", "the targets differ"),
        ("call elsewhere", "call nowhere", "the relocations differ"),
        ("call elsewhere", "call elsewhere + 4", "the relocations differ"),
        ("call g", "call f", "the relocations differ"),
        (".quad 1b,", ".quad 4b,", "section .rodata: the targets differ: plain +0x0 `-> .text+0x2`"),
        (".quad 1b,", ".quad 1,", "section .rodata: "),
        (".long 2b-.,", ".long 3b-.,", "section __ex_table: the targets differ"),
        (".long 2b-., 4b-., 3", ".long 2b-., 4b-., 4", "section __ex_table: the contents differ from 0x8 on"),
        (".long 2b-., 4b-., 3", ".long 2b-., 4b-.", "section __ex_table: 12 bytes plain, 8 padded"),
        (".size f,.-f", ".size f,.-f-1", "the symbols differ: plain f = .text+0x0"),
        (".globl f, g", ".globl f", ""),
        ("f:  push", ".data; .long 1; .text; f:  push", "section .data: 0 bytes plain, 4 padded"),
        ("f:  push", ".section .more,\"ax\"; ret; .text; f:  push", "section .more: only the padded file has it"),
        (".section .init.text", ".section .exit.text", "section .init.text: only the plain file has it"),
        ("    ret\n.size g", "    ret; ret\n.size g", "section .text: one text ends before the other"),
        ("jmp 4b", "jmp 4b; ret", "section .init.text: one text ends before the other"),
        ("jmp 4b", "", "section .init.text: one text ends before the other"),
    ];
    for (from, to, what) in cases {
        let difference = difference(TEXT, from, to);
        assert!(difference.contains(what), "{from} -> {to}: {difference}");
    }
}

#[test]
fn a_label_stays_on_its_side_of_a_pad() {
    let plain = assemble("cli; 1: nop; jmp 1b");
    let behind = annotated(&format!("{} 1: nop; jmp 1b", padded("cli", Class::Cli)));
    assert!(compare(&plain, &behind).is_ok());
    let before = annotated(&format!("{} nop; jmp 28111b", padded("cli", Class::Cli)));
    let difference = compare(&plain, &before).unwrap_err().to_string();
    assert_eq!(difference, "section .text: the targets differ: plain +0x2 `-> .text+0x1`, padded +0x6 `-> .text+0x1`");
}

#[test]
fn a_pad_that_no_record_names_is_a_difference() {
    let [plain, padded] = pair("{cli} ret")
        .map(|text| text.replace(".pushsection .note.afterburn\n.long", ".pushsection .discard\n.long"));
    let difference = compare(&assemble(&plain), &assemble(&padded)).unwrap_err().to_string();
    assert!(difference.contains("differ") || difference.contains(".discard"), "{difference}");
}

#[test]
fn a_pad_in_data_is_a_difference() {
    let table = |bytes: &str| format!(".type t,@object\nt: {bytes}\n.size t,.-t\nf: lea t(%rip), %rax; ret");
    let [plain, padded] = pair(&table("{clac} .byte 1")).map(|text| assemble(&text));
    assert_eq!(compare(&plain, &padded).unwrap_err().to_string(), "the padded file: record 0: the site lies in data");
    equal(&format!("{}; {{cli}}", table(".byte 0x0f,0x01,0xca")));
}

#[test]
fn what_cannot_be_compared_is_said() {
    let workshop = Workshop::new();
    let plain = workshop.assemble("a", ".globl _start\n_start: nop", &[]);
    workshop.shell("ld", "-o a a.o");
    assert_eq!(compare(&plain, &workshop.read("a")), Err(Difference::NotRelocatable(Which::Padded)));
    assert!(matches!(compare(b"", &plain), Err(Difference::Unreadable(Which::Plain, _))));
    let wrong = annotated(&padded("sti", Class::Cli));
    let difference = compare(&plain, &wrong).unwrap_err();
    assert_eq!(difference.to_string(), "the padded file: record 0: the instruction there is of class sti");
}

/// The options by which GAS keeps branches from a boundary, by NOPs and by prefixes.
const ALIGNED: [&[&str]; 7] = [
    &["-mbranches-within-32B-boundaries"],
    &["-malign-branch-boundary=32", "-malign-branch=jcc+fused+jmp+call+ret+indirect", "-malign-branch-prefix-size=0"],
    &["-malign-branch-boundary=32", "-malign-branch=jcc+fused+jmp+call+ret+indirect", "-malign-branch-prefix-size=5"],
    &["-malign-branch-boundary=16", "-malign-branch=jcc+jmp", "-malign-branch-prefix-size=2"],
    &["-malign-branch-boundary=64", "-malign-branch=jcc+fused+jmp+ret", "-malign-branch-prefix-size=1"],
    &["-malign-branch-boundary=32", "-malign-branch=call+indirect", "-malign-branch-prefix-size=4"],
    &["-mbranches-within-32B-boundaries", "-O2"],
];

/// A loop of sites, branches of every kind, and instructions that prefixes go before.
const BRANCHES: &str = "
.globl f
.type f,@function
f:  mov %rsp, %rbp
    .rept 12
1:  mov %rax, 8(%rsp)
    {cli}
    mov %gs:(%rax), %rbx
    test %rdi, %rdi
    jne f
    cmp table(%rip), %rax
    jb 9f
    {pushf}
    test $2, %ah
    jne 9f
    push %rbx
    call elsewhere
    lock incl (%rax)
    call *%rcx
    jmp *table(,%rax,8)
    {wrmsr}
    nopl 8(%rax)
    mov $5, %eax
    add %rbx, %rcx
    jo 1b
9:  jmp 1b
    .p2align 3
    {cli}
    .endr
    ret
.size f,.-f
.section .rodata
table: .quad f
";

fn compared_with(options: &[&str], [plain, padded]: &[String; 2]) -> Result<Comparison, Difference> {
    let workshop = Workshop::new();
    compare(&workshop.assemble("plain", plain, options), &workshop.assemble("padded", padded, options))
}

#[test]
fn branches_may_be_kept_from_boundaries() {
    for options in ALIGNED {
        for shift in 0..33 {
            let text = format!(".fill {shift}, 1, 0x9b\n{BRANCHES}");
            // Numeric labels of sites do not survive `.rept`, so the repetition is written out.
            let [before, rest] = text.split(".rept 12").collect::<Vec<_>>().try_into().unwrap();
            let [body, after] = rest.split(".endr").collect::<Vec<_>>().try_into().unwrap();
            let text = format!("{before}{}{after}", body.repeat(12));
            let compared = compared_with(options, &pair(&text));
            assert_eq!(compared.unwrap_or_else(|error| panic!("{options:?}, {shift}: {error}")).pads, 48);
        }
    }
}

#[test]
fn what_is_lost_among_aligned_branches_is_found() {
    let text = BRANCHES.replace(".rept 12", "").replace(".endr", "");
    for options in ALIGNED {
        for (from, to) in [
            ("mov %rax, 8(%rsp)", ""),
            ("mov %gs:(%rax), %rbx", "mov (%rax), %rbx"),
            ("mov %gs:(%rax), %rbx", "mov %fs:(%rax), %rbx"),
            ("lock incl", "incl"),
            ("jne f", "je f"),
            ("jmp 1b", "jmp 1b; jmp 1b"),
            ("jmp *table", "notrack jmp *table"),
            ("push %rbx\n", ""),
            ("push %rbx\n", "pushw %bx\n"),
            ("nopl 8(%rax)", ""),
            ("call *%rcx", ""),
            ("mov $5, %eax", "mov $6, %eax"),
            ("ret\n", "nop; ret\n"),
        ] {
            let [plain, padded] = pair(&text);
            let changed = padded.replacen(from, to, 1);
            assert_ne!(padded, changed, "{from}");
            assert!(compared_with(options, &[plain, changed]).is_err(), "{options:?}: {from} -> {to}");
        }
    }
}

#[test]
fn clang_keeps_branches_from_boundaries_too() {
    let workshop = Workshop::new();
    let text = BRANCHES.replace(".rept 12", "").replace(".endr", "");
    let [plain, padded] = pair(&text);
    for options in [
        "-mbranches-within-32B-boundaries",
        "-mllvm -x86-align-branch-boundary=32 -mllvm -x86-align-branch=jcc+jmp+fused+call+ret -mllvm -x86-pad-max-prefix-size=5",
    ] {
        for shift in 0..33 {
            let object = |name: &str, text: &str| {
                std::fs::write(workshop.path(&format!("{name}.s")), format!(".fill {shift}, 1, 0x9b\n{text}")).unwrap();
                workshop.shell("clang", &format!("-c {options} -o {name}.o {name}.s"));
                workshop.read(&format!("{name}.o"))
            };
            let compared = compare(&object("plain", &plain), &object("padded", &padded));
            assert_eq!(compared.unwrap_or_else(|error| panic!("{options}, {shift}: {error}")).pads, 4);
        }
    }
}

#[test]
fn barriers_that_the_assembler_adds_are_those_of_the_text() {
    let text = "f: {cli} mov (%rax), %rbx; {wrmsr} nop; jmp *%rax; call *(%rbx); {cli} nop; ret";
    for options in [
        &["-mlfence-after-load=yes"] as &[&str],
        &["-mlfence-before-indirect-branch=all"],
        &["-mlfence-before-ret=or"],
        &["-mlfence-before-ret=shl"],
    ] {
        assert_eq!(compared_with(options, &pair(text)).unwrap_or_else(|error| panic!("{options:?}: {error}")).pads, 3);
    }
    // GAS puts none behind what it takes for data, as a pad may be.
    let lost = compared_with(&["-mlfence-before-indirect-branch=all"], &pair("{cli} jmp *%rax")).unwrap_err();
    assert!(lost.to_string().contains("plain +0x1 `lfence`, padded +0x5 `jmp *%rax`"), "{lost}");
    let difference = compared_with(&["-mlfence-after-load=yes"], &pair("{pushf} ret")).unwrap_err().to_string();
    assert_eq!(
        difference,
        "the padded file: record 0: an LFENCE stands between the instruction and its pad (-mlfence-after-load)"
    );
}

#[test]
fn jump_tables_may_be_relative_to_their_start() {
    let labels = "{cli} 1: nop; {wrmsr} 2: nop; 3: {cli} {cli} 4: ret\n";
    let tables = "t: .long 1b-t, 2b-t, 3b-t, 4b-t, 1b-t\nu: .long 4b-u, 3b-u, 2b-u, 1b-u";
    let text = format!("f: {labels} .section .rodata\n{tables}");
    equal(&text);
    equal(&format!(
        "f: {} .section .rodata\n{}",
        repeated(100, labels),
        repeated(100, "t#: .long 1b-t#, 4b-t#, 2b-t#\n")
    ));
    for (from, to) in [("2b-t, 3b", "3b-t, 3b"), ("4b-t, 1b-t", "4b-t, 3b-t"), ("3b-u", "1b-u")] {
        let difference = difference(&text, from, to);
        assert!(difference.starts_with("section .rodata: the targets differ"), "{from}: {difference}");
    }
}

#[test]
fn a_thousand_immediates_may_be_distances() {
    let body = repeated(1000, "add $(l# - f), %r8d; l#: {cli}");
    let text = format!("f: {body} g: ret");
    assert_eq!(equal(&text).pads, 1000);
}
