//! A kernel for the lower half of the address space, from the text of any compiler: GAS text in,
//! the same text without an address in 32 bits out.
//!
//! Linux for x86-64 is linked into the last two gigabytes of the address space, so that an address
//! of the kernel's is a number of 32 bits, sign-extended (System V ABI, AMD64 supplement, 3.5.1,
//! "kernel code model"). A program has only the addresses below 2^47, and so has a kernel that runs
//! as one. Linked there, no address fits. Compilers know how to do without: `-fPIE -mcmodel=small`
//! finds everything from where the code is. What people have written in assembly, they have written
//! for the kernel's code model. This stage writes it anew, one instruction after the other:
//!
//! | what it is | what becomes of it | where it is from |
//! |---|---|---|
//! | memory by address alone | relative to the instruction | `.S`, inline assembly |
//! | an address with registers | the address in a register first | `.S` |
//! | a number that looks like an address | a MOV with 64 bits | `head_64.S` |
//! | an address as a number | a MOV with 64 bits, or a constant in memory | `.S`, inline assembly |
//! | a number that was small only in the upper half | the same | `.S` |
//! | an entry of the global offset table | the address itself: there is no dynamic linker | weak symbols, calls of ftrace |
//! | a weak symbol, relative to the instruction | its address, for that may be 0 | `.S` |
//! | compiled code that runs where it is loaded, and asks for an address | the address where it is linked | `.head.text` |
//! | compiled arithmetic with the bounds of text | the number itself: it is no place in text | `PFN_UP(_text)` |
//! | data that holds addresses, in sections of its own | where other data is | any C |
//! | the number of the image's entry in a page table | its number in the lower half | `head_64.S`, `head64.c` |
//!
//! Flags and all registers are what they were. The stage goes before the one that pads, which takes
//! its text for the user's. It never fails: what it does not know it leaves, and the object then
//! shows it ([`crate::object::low`]).

mod facts;
mod operands;
mod places;
mod rules;
mod scratch;

use std::borrow::Cow;
use std::ops::Range;

use self::facts::Facts;
use self::places::{Next, Places};
use self::rules::Instruction;
use super::distance::definition;
use super::expression::Sum;
use super::inline::Inline;
use super::scan::{Item, Scanner, Statement, lowercase};
use super::sections::Sections;
use super::stage::is_instruction;
use crate::linux::low::{IMAGE_INDEX, IMAGE_TABLE, LOW_IMAGE_INDEX, SECTIONS_WITH_ADDRESSES};
use crate::record::Flags;

/// The same text for the lower half.
#[must_use]
pub fn to_lower_half(source: &[u8]) -> Cow<'_, [u8]> {
    let mut stage = Stage::new(source);
    if stage.facts.has_label {
        return Cow::Borrowed(source);
    }
    stage.run();
    stage.text()
}

/// A part of the text and what takes its place.
struct Change {
    range: Range<usize>,
    text: Vec<u8>,
}

struct Stage<'a> {
    source: &'a [u8],
    sections: Sections,
    inline: Inline<'a>,
    facts: Facts<'a>,
    places: Places<'a>,
    next: Next,
    /// A compiler made the text.
    is_compiled: bool,
    long_mode: bool,
    is_att: bool,
    changes: Vec<Change>,
}

impl<'a> Stage<'a> {
    fn new(source: &'a [u8]) -> Self {
        Self {
            source,
            sections: Sections::default(),
            inline: Inline::of(source),
            facts: Facts::of(source),
            places: Places::of(source),
            next: Next::default(),
            is_compiled: memchr::memmem::find(source, b"\t.ident\t\"").is_some(),
            long_mode: true,
            is_att: true,
            changes: Vec::new(),
        }
    }

    fn run(&mut self) {
        let mut scanner = Scanner::new(self.source, 0..self.source.len());
        while let Some(item) = scanner.next() {
            let statement = match item {
                Item::Statement(statement) => statement,
                Item::Label(name) => {
                    self.next.follow_label(&self.places, name.start);
                    continue;
                }
            };
            let is_instruction = is_instruction(self.source, &statement);
            if is_instruction {
                self.instruction(&statement);
            } else if let Some((name, value)) = definition(self.source, &statement) {
                self.facts.define(name, value);
            } else {
                self.directive(&statement, &scanner);
            }
            self.next.follow(&self.places, self.source, &statement, is_instruction);
        }
    }

    fn text(self) -> Cow<'a, [u8]> {
        if self.changes.is_empty() {
            return Cow::Borrowed(self.source);
        }
        let mut text = Vec::with_capacity(self.source.len() + self.changes.len() * 64);
        let mut copied = 0;
        for change in &self.changes {
            text.extend_from_slice(&self.source[copied..change.range.start]);
            text.extend_from_slice(&change.text);
            copied = change.range.end;
        }
        text.extend_from_slice(&self.source[copied..]);
        Cow::Owned(text)
    }

    fn instruction(&mut self, statement: &Statement) {
        if !self.long_mode || !self.is_att {
            return;
        }
        let text = &self.source[statement.range()];
        let Some(instruction) = Instruction::read(text) else { return };
        if self.facts.is_macro(&instruction.mnemonic) {
            return;
        }
        let part = self.inline.part(statement.start);
        let is_compiled = self.is_compiled && (part == 0 || self.inline.is_compiled(statement.start));
        let runs_where_loaded = is_compiled && self.sections.current().flags.contains(Flags::HEAD);
        if let Some(rewritten) = instruction.rewrite(&self.facts, is_compiled, runs_where_loaded)
            && !(self.next.is_prefixed && rewritten.is_several())
            && !(self.next.may_fault && rewritten.has_others_before())
        {
            self.changes.push(Change { range: statement.range(), text: rewritten.text() });
        }
    }

    fn directive(&mut self, statement: &Statement, scanner: &Scanner<'a>) {
        let name = lowercase(statement.head(self.source));
        let operands = statement.operands(self.source);
        match &*name {
            b".code64" => self.long_mode = true,
            b".code32" | b".code16" | b".code16gcc" => self.long_mode = false,
            b".att_syntax" => self.is_att = operands != b"noprefix",
            b".intel_syntax" => self.is_att = false,
            b".fill" => self.first_page_table(statement, operands, scanner),
            b".section" if self.is_compiled => self.section(statement, operands),
            _ => {}
        }
        self.sections.follow(&name, operands);
    }

    /// Data that holds addresses goes where it goes in code that is not position-independent.
    fn section(&mut self, statement: &Statement, operands: &[u8]) {
        let name = operands.split(|&byte| byte == b',').next().unwrap_or_default();
        let is_of = |family: &str| {
            let rest = name.strip_prefix(family.as_bytes());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b".") && !rest.starts_with(b".ro"))
        };
        let Some(&(from, to)) = SECTIONS_WITH_ADDRESSES.iter().find(|(from, _)| is_of(from)) else { return };
        let text = [b".section ", to.as_bytes(), &operands[from.len()..]].concat();
        self.changes.push(Change { range: statement.range(), text });
    }

    /// `.fill 511, 8, 0` before the entry of the image's map.
    fn first_page_table(&mut self, fill: &Statement, operands: &[u8], scanner: &Scanner<'a>) {
        let mut numbers = super::operands::split(operands).map(|operand| Sum::read(operand.trim_ascii())?.constant());
        if [numbers.next(), numbers.next()] != [Some(Some(IMAGE_INDEX)), Some(Some(8))] {
            return;
        }
        let Some(Item::Statement(entry)) = scanner.clone().next() else { return };
        let is_image = entry.head(self.source) == b".quad"
            && super::references::words(entry.operands(self.source)).any(|word| word == IMAGE_TABLE.as_bytes());
        if is_image {
            let before = format!(".fill {LOW_IMAGE_INDEX}, 8, 0").into_bytes();
            self.changes.push(Change { range: fill.range(), text: before });
            let behind = format!("; .fill {}, 8, 0", IMAGE_INDEX - LOW_IMAGE_INDEX).into_bytes();
            self.changes.push(Change { range: entry.end..entry.end, text: behind });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::to_lower_half;

    fn lowered(text: &str) -> String {
        String::from_utf8(to_lower_half(text.as_bytes()).into_owned()).unwrap()
    }

    const CONSTANT: &str = ".pushsection .rodata.low,\"a\",@progbits; .balign 8; 28120: .quad";

    #[test]
    fn each_rule() {
        let constant = |expression: &str| format!("{CONSTANT} {expression}; .popsection; ");
        for (text, expected) in [
            // Memory by address alone.
            ("incl word", "incl word(%rip)".to_owned()),
            ("lock incl word+4 # more", "lock incl word+4(%rip) # more".to_owned()),
            ("movq %gs:word, %rax", "movq %gs:word(%rip), %rax".to_owned()),
            ("call *word", "call *word(%rip)".to_owned()),
            // An address with registers.
            ("movq word(,%rax,8), %rcx", "movabsq $word, %rcx; movq (%rcx,%rax,8), %rcx".to_owned()),
            (
                "movzbl word(%rdi), %ecx",
                "pushq %r11; movabsq $word, %r11; movzbl (%rdi,%r11), %ecx; popq %r11".to_owned(),
            ),
            (
                ".macro m to; movq word(, \\to, 8), \\to; .endm",
                ".macro m to; pushq \\to; pushq %r10; pushq %r11; movq 16(%rsp), %r10; movabsq $word, %r11; movq (%r11,%r10, 8), %r10; movq %r10, 16(%rsp); popq %r11; popq %r10; popq \\to; .endm".to_owned(),
            ),
            ("addq word(%rsp), %r11", "pushq %r10; movabsq $word, %r10; addq 8(%rsp,%r10), %r11; popq %r10".to_owned()),
            // An address as a number.
            ("movq $word+8, %rdi", "movabsq $word+8, %rdi".to_owned()),
            ("pushq $1f", "pushq %rax; movabsq $1f, %rax; xchgq %rax, (%rsp)".to_owned()),
            ("subq $word, %rsi", format!("{}subq 28120b(%rip), %rsi", constant("word"))),
            ("cmpq $word, 16(%rsp)", "pushq %r11; movabsq $word, %r11; cmpq %r11, 8+16(%rsp); popq %r11".to_owned()),
            ("movq $word, table(%rax)", "pushq %r11; movabsq $table, %r11; pushq %r10; movabsq $word, %r10; movq %r10, (%rax,%r11); popq %r10; popq %r11".to_owned()),
            // Where control goes on after a fault, or where another has been, is any place.
            (".section __ex_table; .long 1b - ., 2f - ., 1; .text; 2: addq word(%rdi), %rax", ".section __ex_table; .long 1b - ., 2f - ., 1; .text; 2: pushq %r11; movabsq $word, %r11; addq (%rdi,%r11), %rax; popq %r11".to_owned()),
            ("lock; incl (%rax); incl word(%rdi)", "lock; incl (%rax); pushq %r11; movabsq $word, %r11; incl (%rdi,%r11); popq %r11".to_owned()),
            (".macro m; lock; incl (%rax); .endm; m; incl word(%rdi)", ".macro m; lock; incl (%rax); .endm; m; pushq %r11; movabsq $word, %r11; incl (%rdi,%r11); popq %r11".to_owned()),
            (".byte 0x0f, 0xf0; incl word(%rdi)", ".byte 0x0f, 0xf0; pushq %r11; movabsq $word, %r11; incl (%rdi,%r11); popq %r11".to_owned()),
            ("popcntq word(%rdi), %rax", "pushq %r11; movabsq $word, %r11; popcntq (%rdi,%r11), %rax; popq %r11".to_owned()),
            (".set here, .; .set there, word; movq here, %rax; movq there, %rax", ".set here, .; .set there, word; movq here(%rip), %rax; movq there(%rip), %rax".to_owned()),
            ("X = %ymm1; Y = X; vpaddd word(%rdi), X, Y", "X = %ymm1; Y = X; pushq %r11; movabsq $word, %r11; vpaddd (%rdi,%r11), X, Y; popq %r11".to_owned()),
            (".macro m; .L\\@ = 1; .endm; .Lword: incl .Lword", ".macro m; .L\\@ = 1; .endm; .Lword: incl .Lword(%rip)".to_owned()),
            // What only the upper half makes small.
            ("andq $0x5fff80000000, %rsi", format!("{}andq 28120b(%rip), %rsi", constant("0x5fff80000000"))),
            // The global offset table.
            ("movq word@GOTPCREL(%rip), %rax", "movabsq $word, %rax".to_owned()),
            ("1: call *__fentry__@GOTPCREL(%rip)", "1: call __fentry__".to_owned()),
            ("cmpq word@GOTPCREL(%rip), %rax", format!("{}cmpq 28120b(%rip), %rax", constant("word"))),
            // Weak symbols.
            (".weak w; leaq w(%rip), %rax", ".weak w; movabsq $w, %rax".to_owned()),
            (".weak w; movq w(%rip), %rax", ".weak w; movabsq $w, %rax; movq (%rax), %rax".to_owned()),
            (".weak w; call w", format!(".weak w; {}call *28120b(%rip)", constant("w"))),
            // What is a number, and looks like an address.
            (
                "leaq init_per_cpu__fixed_percpu_data(%rip), %rdx",
                "movabsq $init_per_cpu__fixed_percpu_data, %rdx".to_owned(),
            ),
            // Page tables.
            ("movq init_top_pgt+4088(%rip), %rax", "movq init_top_pgt+1528(%rip), %rax".to_owned()),
            (
                ".fill 511,8,0\n.quad level3_kernel_pgt - 1\n",
                ".fill 191, 8, 0\n.quad level3_kernel_pgt - 1; .fill 320, 8, 0\n".to_owned(),
            ),
        ] {
            assert_eq!(lowered(text), expected, "{text}");
        }
    }

    #[test]
    fn what_needs_nothing_stays() {
        for text in [
            "movq word(%rip), %rax",
            "testb $128, 5+word (% rip)",
            "movq $8, %rax",
            "movq 8(%rax), %rcx",
            "movl $word - 0x5fff80000000, %eax",
            "movq $end - start, %rax",
            "jmp word; call word; jne 1b",
            "n = 5; movq $n, %rax",
            ".set state, %xmm0; movups 8(%rax), state; paddd state, state",
            ".macro m to; movq $word, \\to; .endm; m %rax",
            // The table's address would need a register, which may be any of these.
            ".macro m to; movq word(, \\to, 8), %rax; movq word(\\to), \\to; movq \\to(, \\to, 8), \\to; lock movq word(,\\to,8), \\to; .endm",
            ".macro incl x; .endm; incl word",
            ".code32; movl word, %eax; .code64",
            ".intel_syntax noprefix; mov rax, word",
            "movabsq word, %rax",
            "movq $-1, %rax; movq $0xffffffff80000000, %rcx",
            ".section .data.rel,\"aw\"",
            // No text of GAS.
            ". = ALIGN(8); *(.text) (x) , ,; : \"\": = ; \\ ; $; %; @; (",
            // Nobody rewrites a jump that needs a register, and the object shows it.
            "jmp *word(,%rax,8)",
            // The prefix would stand before another instruction.
            "lock; addq $1, word(%rax)",
            "lock; 1: addq $1, word(%rax)",
            ".if smp; lock; .endif; addq $1, word(%rax)",
            ".byte 0xf0; addq $1, word(%rax)",
            ".macro prefix; 1: lock; .pushsection .smp_locks; .long 1b - .; .popsection; .endm; prefix; addq $1, word(%rax)",
            // The table would have the address of another instruction.
            "1: movq word(%rdi), %rax; 2: .pushsection \"__ex_table\",\"a\"; .balign 4; .long (1b) - .; .long (2b) - .; .long 1; .popsection",
            ".section __ex_table, \"a\"; .long 3f - ., 4f - ., 1, access - ., 4f - ., 1; .previous; 3: .loc 1 2; addl word(%rdi), %eax; access: lock addl word(%rdi), %eax; 4:",
            ".macro may_fault from to; .pushsection __ex_table, \"a\"; .long \\from - ., \\to - ., 1; .popsection; .endm; may_fault 1f, 2f; 1: cmpq $word, (%rdi); 2:",
            // The stack pointer's place would be another.
            "cmpq $word, -8(%rsp)",
            "cmpq $word, 8(%esp)",
            "ljmp *word(%rax); lcall *word(%rax)",
            // Other names of registers, which may be the one that would be saved.
            ".set a, %r11; .set b, a; addq word(%rdi), b; movq $word, b",
            ".att_syntax noprefix; movq $word, r11",
            // No addresses, but numbers that only the assembler knows.
            ".macro m; movq a, b; movq %gs:number, %rax; movq $word, b; .endm; .macro n; b = a; a = %r11; number = 8; .endm; n; m",
            ".set a, %r11; movq (a), %rax; addq %rax, (a)",
            ".macro define r n; register_\\r = %r\\n; .endm; define a 11; .set b, register_a; movq b, %rax; addq word(%rdi), b; movq register_a, %rax; movq $word, register_a; addq word(%rdi), register_a",
            ".macro m; addq word(%rdi), a; .endm; .macro set to; a = \\to; .endm; set %r11; m",
            ".macro set name to; \\name = \\to; .endm; set a %r11; addq word(%rdi), a",
            ".macro set to; field = \\to; .endm; set 8; movq %gs:field, %rax",
            ".set size, end - start; movq %gs:size, %rax; movq $(size), %rax",
            ".set size, (end - start) * 8; .set other, size + 8; movq %gs:other, %rax",
            ".struct 8; field: .text; movq %gs:field, %rax",
            ".macro define name; \\name = 16; .endm; define field; movq %gs:field, %rax",
            ".macro define name; .set \\name, 16; .endm; define field; movq %gs:field, %rax",
            // The label is taken.
            "28120: incl word",
        ] {
            assert_eq!(lowered(text), text);
        }
    }

    #[test]
    fn what_compilers_write() {
        let compiled = |text: &str| format!("{text}\n\t.ident\t\"GCC\"\n");
        let head = "\t.section .head.text,\"ax\",@progbits\n";
        let same = |text: String| (text.clone(), text);
        for (text, expected) in [
            (format!("{head}leaq word(%rip), %rax"), format!("{head}movabsq $word, %rax")),
            same("leaq word(%rip), %rax".to_owned()),
            same(format!("{head}movq word(%rip), %rax")),
            same(format!("{head}#APP\nleaq word(%rip), %rax\n#NO_APP")),
            ("leaq _text+4095(%rip), %rax".to_owned(), "movabsq $_text+4095, %rax".to_owned()),
            same("leaq _text(%rip), %rax".to_owned()),
            ("\t.section\t.data.rel.local,\"aw\"".to_owned(), "\t.section .data,\"aw\"".to_owned()),
            ("\t.section\t.data.rel.x,\"aw\"".to_owned(), "\t.section .data.x,\"aw\"".to_owned()),
            same("\t.section\t.data.rel.ro.local,\"aw\"".to_owned()),
        ] {
            assert_eq!(lowered(&compiled(&text)), compiled(&expected));
        }
    }
}
