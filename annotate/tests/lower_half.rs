//! What is rewritten for the lower half computes there what the plain text computes where addresses
//! have 32 bits.
//!
//! The rules of the stage are not known here. A text is assembled as it is and linked at 4 MB,
//! where its addresses fit; rewritten, it is assembled and linked where a kernel in the lower half
//! has its image, and the linker refuses what does not fit. Both programs run, and write all
//! registers, the flags, and their data to standard output: they must be the same, addresses less
//! the start of the program.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use annotate::object::Elf;
use annotate::object::low::{Reason, obstacles};
use annotate::text::to_lower_half;

/// Where the two are linked.
const PLAIN: u64 = 0x40_0000;
const LOW: u64 = 0x5fff_8000_0000;

/// No program of this test is longer.
const LONGEST: u64 = 1 << 20;

/// Runs a text, and writes what it leaves behind.
fn program(text: &str) -> String {
    const REGISTERS: [&str; 15] =
        ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];
    let set = |(number, name): (usize, &&str)| format!("\tmovq ${}, %{name}\n", 0x1000 * (number + 1));
    let set: String = REGISTERS.iter().enumerate().map(set).collect();
    let save = |(number, name): (usize, &&str)| format!("\tmovq %{name}, {}+saved(%rip)\n", 8 * number);
    let save: String = REGISTERS.iter().enumerate().map(save).collect();
    format!(
        "\t.globl _start\n_start:\n\tmovq %rsp, stack(%rip)\n{set}\tstc\n{text}\n{save}\tpushfq\n\tpopq flags(%rip)\n\
         \tsubq stack(%rip), %rsp\n\tmovq %rsp, stack(%rip)\n\
         \tmovl $1, %eax\n\tmovl $1, %edi\n\tleaq saved(%rip), %rsi\n\tmovl $end - saved, %edx\n\tsyscall\n\
         \tmovl $60, %eax\n\txorl %edi, %edi\n\tsyscall\n\
         function:\n\tmovq $7, %rbp\n\tret\n\
         \t.data\n\t.balign 8\nsaved: .fill 15, 8, 0\nflags: .quad 0\nstack: .quad 0\n\
         table: .quad 11, 22, 33, 44\nword: .quad 0x1122334455667788\nend:\npointer: .quad function\n"
    )
}

fn assemble(lab: &Path, name: &str, text: &[u8]) -> Vec<u8> {
    let object = lab.join(name);
    let mut tool = Command::new("as").arg("-o").arg(&object).arg("-").stdin(Stdio::piped()).spawn().expect("as");
    tool.stdin.take().expect("a pipe").write_all(text).expect("as reads");
    assert!(tool.wait().expect("as ends").success(), "{}", String::from_utf8_lossy(text));
    fs::read(object).expect("the object")
}

/// What the program writes: words, addresses in it less its start.
fn run(lab: &Path, name: &str, base: u64) -> Vec<u64> {
    let program = lab.join("program");
    let mut linker = Command::new("ld");
    linker.args(["-static", "-z", "max-page-size=4096", "-Ttext-segment"]).arg(format!("{base:#x}"));
    // Data lies at the same place whatever the length of the text.
    linker.arg(format!("-Tdata={:#x}", base + LONGEST / 2));
    let outcome = linker.arg("-o").arg(&program).arg(lab.join(name)).output().expect("ld");
    assert!(outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stderr));
    let output = Command::new(&program).output().expect("the program");
    assert!(output.status.success(), "{}", output.status);
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    let relative = |word: u64| if (base..base + LONGEST).contains(&word) { word - base } else { word };
    output.stdout.chunks(8).map(|bytes| relative(word(bytes))).collect()
}

#[test]
fn what_is_rewritten_computes_the_same() {
    let lab = tempfile::tempdir().expect("a directory");
    for text in [
        "movq word, %rax; incl word; addq $3, word+0; movl word+4, %ecx",
        "lock incq word; lock; incq word",
        "movq $word, %rax; movq (%rax), %rbx; movq $word+4, %rcx; movq $1f, %rdx; jmp *%rdx; hlt; 1: xorl %edx, %edx",
        "pushq $word; popq %rdx",
        "movq $word, %r9; cmpq $word, %r9; pushfq; popq %r10; cmpq $word+1, %r9",
        "movq $word, %r9; subq $table, %r9; movq $table, %r8; xorq $word, %r8; xorq $table, %r8",
        "movl $2, %eax; movq table(,%rax,8), %rcx; movl $3, %eax; movq table(,%rax,8), %rax",
        "movl $8, %esi; addq table(%rsi), %rdx; adcq table+8(%rsi), %rdx; movzbl table(%rsi), %ebx",
        "movl $1, %eax; movl $8, %ebx; leaq table(%rbx,%rax,8), %rdi; movq table(%rbx,%rax,8), %rsi",
        "movl $1, %eax; movl $8, %ebx; addq %rcx, table(%rbx,%rax,8); stc; adcq %r11, table(%rbx)",
        "movq $word, table(%rip); cmpq $word, table(%rip); movq $table, word",
        "subq $16, %rsp; movq $word, 8(%rsp); movq $table, (%rsp); cmpq $word, 8(%rsp); pushfq; popq %rbx; popq %rax; popq %rcx",
        "call *pointer; jmp *1f; .data; 1: .quad 2f; .text; hlt; 2:",
        "call *function@GOTPCREL(%rip); movq word@GOTPCREL(%rip), %rax; pushq word@GOTPCREL(%rip); popq %rbx",
        "movq $word, %rax; cmpq word@GOTPCREL(%rip), %rax",
        ".weak nobody; leaq nobody(%rip), %rax; testq %rax, %rax; jz 1f; call nobody; 1:",
        "number = 16; movq $number, %rax; movq table+number, %rcx; movq number+table(%rip), %rdx",
        ".macro load from to; movq \\from(%rip), \\to; incl word; .endm; load word, %rax",
        // Whichever register a parameter stands for.
        ".macro load to; movq table(,\\to,8), \\to; .endm; movl $2, %eax; load %rax; movl $3, %r11d; load %r11; \
         movl $1, %r10d; stc; load %r10; adcq $0, %rbx",
        // Two registers are saved.
        "movl $8, %eax; movq $word, table(%rax); movl $1, %ebx; movq $word, table(%rax,%rbx,8)",
        // Numbers that only the assembler knows, and memory by them: the start of the segment.
        ".struct 8; field: .text; .set size, saved + 16 - saved; .macro define name; \\name = 24; .endm; define other
         movl $158, %eax; movl $0x1002, %edi; leaq table(%rip), %rsi; syscall; xorl %ecx, %ecx; xorl %r11d, %r11d
         1: movq %fs:field, %rax; movq %fs:size, %rbx; movq %fs:other, %rdx; xorl %esi, %esi",
    ] {
        let plain = program(text);
        let lowered = to_lower_half(plain.as_bytes());
        assemble(lab.path(), "plain.o", plain.as_bytes());
        let object = assemble(lab.path(), "low.o", &lowered);
        let left = obstacles(&Elf::parse(&object).expect("an object"), false);
        assert_eq!(left, [], "{text}");
        assert_eq!(run(lab.path(), "plain.o", PLAIN), run(lab.path(), "low.o", LOW), "{text}");
    }
}

#[test]
fn numbers_that_only_the_upper_half_makes_small() {
    let lab = tempfile::tempdir().expect("a directory");
    let text = program("movabsq $0x5fff80001234, %rax; subq $0x5fff80000000, %rax; cmpq $0x5fff80000000, %rbx");
    assemble(lab.path(), "low.o", &to_lower_half(text.as_bytes()));
    assert_eq!(run(lab.path(), "low.o", LOW)[0], 0x1234);
}

#[test]
fn what_is_left_is_found_in_the_object() {
    let lab = tempfile::tempdir().expect("a directory");
    let copied = "\t.section .altinstr_replacement,\"ax\"\n";
    for (text, adjusts_copies, expected) in [
        ("movl $word, %eax", true, Some(Reason::Narrow)),
        (".long word", true, Some(Reason::Narrow)),
        ("jmp *word(,%rax,8)", true, Some(Reason::Narrow)),
        ("lock; addq $1, word(%rax)", true, Some(Reason::Narrow)),
        ("testl %eax, word@GOTPCREL(%rip)", true, None),
        (".long word - 0x5fff80000000; movl $(word - 0x5fff80000000), %eax", true, None),
        (".section .debug_x; .long word", true, None),
        (&format!("{copied}movq word(%rip), %rax"), false, Some(Reason::Copied)),
        (&format!("{copied}movq word(%rip), %rax"), true, None),
        (&format!("{copied}call word; jmp word"), false, None),
    ] {
        let text = format!("{text}\n");
        let object = assemble(lab.path(), "low.o", &to_lower_half(text.as_bytes()));
        let found = obstacles(&Elf::parse(&object).expect("an object"), adjusts_copies);
        assert_eq!(found.first().map(|obstacle| obstacle.reason), expected, "{text}: {found:?}");
    }
    let plain = assemble(lab.path(), "plain.o", b"\taddq word@GOTPCREL(%rip), %rax\n");
    let found = obstacles(&Elf::parse(&plain).expect("an object"), true);
    assert_eq!(found[0].to_string(), format!(".text+0x3: word: {}", Reason::GlobalOffsetTable));
}
