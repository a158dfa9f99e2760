//! Which registers and flags matter after a site.
//!
//! A replacement that may use a dead register or spoil dead flags is far shorter than one that must
//! save them. Liveness is computed forward from the site within its basic block: what is read
//! before it is written is live, what is written first is dead, and what is still undecided where
//! the block ends, or at the first statement that is not understood, is live. A label that
//! something names ends the block too, although control falls through it: in hand-written code it
//! may mark an instruction that faults into a fix-up, and the fix-up reads what it likes.
//!
//! At a `call` or `ret` that the compiler emitted, the status flags are dead (System V psABI for
//! x86-64, 3.2.1: they "have no specified role in the standard calling sequence and are not
//! preserved across calls"). Registers are not: GCC's `-fipa-ra` lets a caller rely on what it has
//! seen its callee leave alone.

use super::operands::{GeneralRegister, Syntax, split};
use super::scan::{Scanner, Statement};
use super::stage::Stage;
use crate::record::{LiveFlags, LiveRegisters, Liveness};

/// Blocks are rarely longer, and the scan must not make the stage quadratic.
const LONGEST_BLOCK: usize = 32;

const STATUS: LiveFlags = LiveFlags::all().difference(LiveFlags::DF);
const NOT_CARRY: LiveFlags = STATUS.difference(LiveFlags::CF);

/// What one instruction does to registers and flags.
#[derive(Default)]
struct Effect {
    reads: u16,
    writes: u16,
    reads_flags: bool,
    writes_flags: Option<LiveFlags>,
}

/// How an instruction treats its operands.
#[derive(Clone, Copy)]
enum Shape {
    /// Source read, destination written (`mov`, `lea`).
    Move,
    /// Source read, destination read and written.
    Modify,
    /// All read.
    Compare,
}

impl<'a> Stage<'a> {
    /// Liveness after a site, whose following text `scanner` is about to read.
    pub(super) fn liveness(&self, mut scanner: Scanner<'a>) -> Liveness {
        let source = self.source;
        let mut live = LiveRegisters::RSP.bits();
        let mut dead = 0_u16;
        let mut live_flags = LiveFlags::DF;
        let mut dead_flags = LiveFlags::empty();
        for _ in 0..LONGEST_BLOCK {
            let Some(statement) = self.next_code(&mut scanner) else { break };
            let Some(effect) = effect(source, &statement) else {
                if leaves_function(source, &statement) && self.inline.is_compiled(statement.start) {
                    dead_flags |= STATUS.difference(live_flags);
                }
                break;
            };
            live |= effect.reads & !dead;
            dead |= effect.writes & !live;
            if effect.reads_flags {
                live_flags |= STATUS.difference(dead_flags);
            }
            dead_flags |= effect.writes_flags.unwrap_or(LiveFlags::empty()).difference(live_flags);
        }
        Liveness { registers: LiveRegisters::from_bits_retain(!dead), flags: LiveFlags::all().difference(dead_flags) }
    }
}

/// A call, return, or jump to another function.
fn leaves_function(source: &[u8], statement: &Statement) -> bool {
    match statement.head(source) {
        b"call" | b"callq" | b"ret" | b"retq" => true,
        b"jmp" => statement.operands(source).first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_'),
        _ => false,
    }
}

/// What the statement does, if it is one of the plain AT&T instructions of compiled code.
fn effect(source: &[u8], statement: &Statement) -> Option<Effect> {
    let syntax = Syntax::default();
    let (shape, reads_flags, writes_flags) = shape(statement.head(source))?;
    let operands: Vec<&[u8]> = split(statement.operands(source)).collect();
    let mut effect = Effect { reads_flags, writes_flags, ..Effect::default() };
    let (destination, sources) = operands.split_last()?;
    for operand in sources {
        effect.reads |= registers(syntax, operand)?;
    }
    let Some(register) = syntax.general_register(destination) else {
        effect.reads |= registers(syntax, destination)?;
        return Some(effect);
    };
    let bit = bit(register);
    match shape {
        // A 32-bit write clears the upper half (SDM Vol. 1, 3.4.1.1); a narrower one keeps the
        // rest.
        Shape::Move if register.bits >= 32 => effect.writes |= bit,
        Shape::Modify if register.bits >= 32 && clears(syntax, statement.head(source), &operands) => {
            effect.reads &= !bit;
            effect.writes |= bit;
        }
        Shape::Move | Shape::Modify | Shape::Compare => effect.reads |= bit,
    }
    Some(effect)
}

/// `xor %eax, %eax` reads nothing (SDM, Optimization Reference Manual, 3.5.1.7).
fn clears(syntax: Syntax, head: &[u8], operands: &[&[u8]]) -> bool {
    matches!(head, b"xorl" | b"xorq")
        && operands.len() == 2
        && syntax.general_register(operands[0]) == syntax.general_register(operands[1])
}

/// Shape, and flags read and written, by mnemonic; the flags are those of each instruction's page
/// in the SDM, Vol. 2.
fn shape(head: &[u8]) -> Option<(Shape, bool, Option<LiveFlags>)> {
    let base = match head {
        b"movslq" | b"movabsq" | b"movzbl" | b"movzwl" | b"movzbq" | b"movzwq" | b"movsbl" | b"movswl" | b"movsbq"
        | b"movswq" => {
            return Some((Shape::Move, false, None));
        }
        [base @ .., b'b' | b'w' | b'l' | b'q'] => base,
        _ => return None,
    };
    Some(match base {
        b"mov" | b"lea" => (Shape::Move, false, None),
        b"add" | b"sub" | b"and" | b"or" | b"xor" | b"neg" => (Shape::Modify, false, Some(STATUS)),
        b"adc" | b"sbb" => (Shape::Modify, true, Some(STATUS)),
        b"inc" | b"dec" => (Shape::Modify, false, Some(NOT_CARRY)),
        b"not" => (Shape::Modify, false, None),
        b"cmp" | b"test" => (Shape::Compare, false, Some(STATUS)),
        _ => return None,
    })
}

/// The registers that an operand reads; `None` if it is not understood.
fn registers(syntax: Syntax, operand: &[u8]) -> Option<u16> {
    let operand = operand.trim_ascii();
    if operand.starts_with(b"$") {
        return Some(0);
    }
    if let Some(register) = syntax.general_register(operand) {
        return Some(bit(register));
    }
    if operand.contains(&b'\\') {
        return None;
    }
    let mut read = 0;
    for name in operand.split(|&byte| byte == b'%').skip(1) {
        let length = name.iter().position(|byte| !byte.is_ascii_alphanumeric()).unwrap_or(name.len());
        match &name[..length] {
            b"rip" | b"gs" | b"fs" | b"ds" | b"es" | b"ss" | b"cs" => {}
            name => {
                let mut operand = vec![b'%'];
                operand.extend_from_slice(name);
                read |= bit(syntax.general_register(&operand)?);
            }
        }
    }
    Some(read)
}

fn bit(register: GeneralRegister) -> u16 {
    LiveRegisters::register(register.number).bits()
}

#[cfg(test)]
mod tests {
    use super::super::Options;
    use super::*;

    fn liveness(text: &str) -> Liveness {
        let options = Options::default();
        Stage::new(text.as_bytes(), &options).liveness(Scanner::new(text.as_bytes(), 0..text.len()))
    }

    /// The numbers of the registers that are dead.
    fn dead(text: &str) -> Vec<u8> {
        let live = liveness(text).registers;
        (0..16).filter(|&number| !live.contains(LiveRegisters::register(number))).collect()
    }

    #[test]
    fn registers_die_where_they_are_overwritten_unread() {
        for (text, expected) in [
            ("movq %rdi, %rax\n movl $1, %ecx", vec![0, 1]),
            ("movq (%rax), %rax", vec![]),
            ("movb $1, %al", vec![]),
            ("movw $1, %ax\n movl $1, %eax", vec![]),
            ("xorl %edx, %edx", vec![2]),
            ("addl %edx, %edx", vec![]),
            ("leaq 8(%rsp,%rbx,4), %r12", vec![12]),
            ("movq %rsp, %rsp", vec![]),
            ("movl $0, %gs:counter(%rip)\n movl $1, %eax", vec![0]),
            ("jne 1f\n movl $1, %eax", vec![]),
            ("1: movl $1, %eax; jmp 1b", vec![]),
            (".L1: movl $1, %eax", vec![0]),
            (".L1: movl $1, %eax\n .section .debug_loc\n .quad .L1", vec![0]),
            ("rdmsr\n movl $1, %ebx", vec![]),
            (".loc 1 2 3\n .cfi_def_cfa_offset 8\n movl $1, %eax", vec![0]),
            ("movq \\x, %rax", vec![]),
            ("movzbl %ah, %eax", vec![]),
        ] {
            assert_eq!(dead(text), expected, "{text}");
        }
    }

    #[test]
    fn flags_die_where_they_are_written_unread() {
        for (text, expected) in [
            ("testl %eax, %eax\n je 1f", LiveFlags::DF),
            ("incl %eax\n je 1f", LiveFlags::DF | LiveFlags::CF),
            ("incl %eax\n cmpl $1, %eax", LiveFlags::DF),
            ("adcl $0, %eax", LiveFlags::all()),
            ("movl $0, %eax\n jc 1f", LiveFlags::all()),
            ("#NO_APP\n ret", LiveFlags::DF),
            ("#NO_APP\n movq %rbx, %rdi\n call f", LiveFlags::DF),
            ("ret\n #NO_APP", LiveFlags::all()),
            ("#NO_APP\n#APP\n call thunk\n#NO_APP", LiveFlags::all()),
        ] {
            assert_eq!(liveness(text).flags, expected, "{text}");
        }
    }
}
