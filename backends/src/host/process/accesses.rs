//! What a program's access was that has faulted.
//!
//! Linux tells who traces a process where an access faulted, but not whether it was a write: that
//! is in the frame of a signal that is delivered, and there is none. The instruction says it.

use core::fmt;

use iced_x86::{Code, CodeSize, Decoder, DecoderOptions, InstructionInfoFactory, OpAccess, Register, UsedMemory};
use wedge::cpu::{Context, Registers};
use wedge::x86::paging::fault;

/// The longest instruction.
const LONGEST: u64 = 15;

/// The accesses of programs.
pub(super) struct Accesses {
    instructions: InstructionInfoFactory,
    /// The page that was accessed last, which may be mapped when a program goes on.
    latest: Option<u64>,
    /// Where the last instruction was that said nothing of its access, and what it accessed.
    unknown: Option<(u64, u64)>,
}

impl fmt::Debug for Accesses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accesses").field("latest", &self.latest).finish_non_exhaustive()
    }
}

impl Accesses {
    /// None yet.
    pub(super) fn new() -> Self {
        Self { instructions: InstructionInfoFactory::new(), latest: None, unknown: None }
    }

    /// The address that was accessed last, once.
    pub(super) fn wanted(&mut self) -> Option<u64> {
        self.latest.take()
    }

    /// The error code of a page fault at an address, by the instruction at RIP, as far as it says
    /// how the access was. `bases` are those of FS and GS.
    ///
    /// An instruction that is not known says nothing: its access is a read, and if that fails again
    /// once it is allowed, a write.
    pub(super) fn error(&mut self, context: &Context, bases: [u64; 2], code: &[u8], address: u64) -> u32 {
        self.latest = Some(address);
        let again = self.unknown.take() == Some((context.rip, address));
        let distance = address.wrapping_sub(context.rip);
        // What cannot be read is not executed, either.
        if code.is_empty() || distance < LONGEST && code.len() as u64 <= distance {
            return fault::USER | fault::FETCH;
        }
        let instruction = Decoder::with_ip(bits(context), code, context.rip, DecoderOptions::NONE).decode();
        let used = self.instructions.info(&instruction).used_memory();
        let (mut reached, mut written) = (false, false);
        for operand in used.iter().filter(|operand| reaches(operand, context, bases, address)) {
            reached = true;
            written |= is_write(operand.access());
        }
        if written || !reached && distance >= LONGEST && again {
            fault::USER | fault::WRITE
        } else if reached {
            fault::USER
        } else if distance < LONGEST {
            fault::USER | fault::FETCH
        } else {
            self.unknown = Some((context.rip, address));
            fault::USER
        }
    }
}

/// How many bits code has: a segment of Linux's for 32-bit code, or any other.
fn bits(context: &Context) -> u32 {
    const COMPATIBILITY: u64 = 0x23;
    if context.cs == COMPATIBILITY { 32 } else { 64 }
}

fn is_write(access: OpAccess) -> bool {
    matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

/// The number of an INT n.
pub(super) fn interrupt(code: &[u8]) -> Option<u8> {
    let instruction = Decoder::new(64, code, DecoderOptions::NONE).decode();
    (instruction.code() == Code::Int_imm8).then(|| instruction.immediate8())
}

/// Whether an operand in memory reaches an address. One whose place is in a vector may.
fn reaches(used: &UsedMemory, context: &Context, [fs, gs]: [u64; 2], address: u64) -> bool {
    /// Of what has no fixed length, such as the state that XSAVE saves: no more than that.
    const LENGTH: u64 = 16 << 10;
    let value = |register: Register| value(register, &context.registers, context);
    let (Some(base), Some(index)) = (value(used.base()), value(used.index())) else { return true };
    let offset = base.wrapping_add(index.wrapping_mul(u64::from(used.scale()))).wrapping_add(used.displacement());
    let offset = if used.address_size() == CodeSize::Code64 { offset } else { offset & 0xffff_ffff };
    let start = match used.segment() {
        Register::FS => fs.wrapping_add(offset),
        Register::GS => gs.wrapping_add(offset),
        _ => offset,
    };
    let length = match used.memory_size().size() as u64 {
        0 => LENGTH,
        length => length,
    };
    address.wrapping_sub(start) < length
}

/// A register's value; nothing of those that no address has, or of vectors.
fn value(register: Register, of: &Registers, context: &Context) -> Option<u64> {
    let value = match register.full_register() {
        Register::None => 0,
        Register::RAX => of.rax,
        Register::RBX => of.rbx,
        Register::RCX => of.rcx,
        Register::RDX => of.rdx,
        Register::RSI => of.rsi,
        Register::RDI => of.rdi,
        Register::RBP => of.rbp,
        Register::RSP => context.rsp,
        Register::R8 => of.r8,
        Register::R9 => of.r9,
        Register::R10 => of.r10,
        Register::R11 => of.r11,
        Register::R12 => of.r12,
        Register::R13 => of.r13,
        Register::R14 => of.r14,
        Register::R15 => of.r15,
        Register::RIP => context.rip,
        _ => return None,
    };
    Some(match register.size() {
        4 => value & 0xffff_ffff,
        _ => value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIP: u64 = 0x40_0ff0;

    fn error(code: &[u8], address: u64) -> u32 {
        let registers =
            Registers { rax: 0x1000, rbx: 0x2000, rsi: 0x5ff8, rdi: 0x7000, rcx: 4, ..Registers::default() };
        let context = Context { registers, rip: RIP, cs: 0x33, rsp: 0x9000, ..Context::default() };
        let mut accesses = Accesses::new();
        let error = accesses.error(&context, [0x10_0000, 0x20_0000], code, address);
        assert_eq!(accesses.wanted(), Some(address));
        assert_eq!(accesses.wanted(), None, "once");
        error
    }

    #[test]
    fn the_instruction_says_how_the_access_was() {
        const READ: u32 = fault::USER;
        const WRITE: u32 = fault::USER | fault::WRITE;
        const FETCH: u32 = fault::USER | fault::FETCH;
        let cases: [(&[u8], u64, u32, &str); 18] = [
            (&[0x48, 0x8b, 0x00], 0x1000, READ, "mov (%rax), %rax"),
            (&[0x48, 0x89, 0x00], 0x1000, WRITE, "mov %rax, (%rax)"),
            (&[0x48, 0x89, 0x40, 0x10], 0x1010, WRITE, "mov %rax, 16(%rax)"),
            (&[0x48, 0x01, 0x18], 0x1000, WRITE, "add %rbx, (%rax)"),
            (&[0xf0, 0x48, 0x0f, 0xb1, 0x1c, 0x58], 0x5000, WRITE, "lock cmpxchg %rbx, (%rax,%rbx,2)"),
            (&[0x48, 0x3b, 0x18], 0x1000, READ, "cmp (%rax), %rbx"),
            (&[0x50], 0x8ff8, WRITE, "push %rax"),
            (&[0x58], 0x9000, READ, "pop %rax"),
            (&[0xff, 0x10], 0x1000, READ, "call *(%rax), of where it leads"),
            (&[0xff, 0x10], 0x8ff8, WRITE, "call *(%rax), of what it pushes"),
            (&[0x48, 0xa5], 0x7000, WRITE, "movsq, of what it writes"),
            (&[0x48, 0xa5], 0x5ff8, READ, "movsq, of what it reads"),
            (&[0x64, 0x89, 0x00], 0x10_1000, WRITE, "mov %eax, %fs:(%rax)"),
            (&[0x65, 0x8b, 0x00], 0x20_1000, READ, "mov %gs:(%rax), %eax"),
            (&[0x64, 0x89, 0x00], RIP, FETCH, "mov %eax, %fs:(%rax), of which nothing may be executed"),
            (&[0xc6, 0x05, 0xf9, 0xff, 0xff, 0xff, 0x90], RIP, WRITE, "movb $0x90, -7(%rip)"),
            (&[], RIP, FETCH, "nothing can be read"),
            (&[0x90], RIP, FETCH, "nothing may be executed"),
        ];
        for (code, address, expected, what) in cases {
            assert_eq!(error(code, address), expected, "{what}");
        }
    }

    #[test]
    fn an_interrupt_has_its_number_whatever_stands_in_front() {
        for (code, number) in [
            (&[0xcd, 0x21][..], Some(0x21)),
            (&[0x66, 0x48, 0xcd, 0xf3], Some(0xf3)),
            (&[0xcc], None),
            (&[0xcd], None),
            (&[], None),
        ] {
            assert_eq!(interrupt(code), number, "{code:x?}");
        }
    }

    /// `0f 04` is nothing.
    #[test]
    fn what_an_unknown_instruction_does_is_found_out() {
        let mut accesses = Accesses::new();
        let mut error = |rip: u64, address: u64| {
            let context = Context { rip, cs: 0x33, ..Context::default() };
            accesses.error(&context, [0; 2], &[0x0f, 0x04], address)
        };
        assert_eq!(error(0x40_0000, 0x1000), fault::USER);
        assert_eq!(error(0x40_0000, 0x1000), fault::USER | fault::WRITE);
        assert_eq!(error(0x40_0000, 0x1000), fault::USER, "from the start");
        assert_eq!(error(0x40_0000, 0x2000), fault::USER, "another address");
    }

    /// The rest of an instruction is in the next page.
    #[test]
    fn an_instruction_that_is_cut_off_is_a_fetch() {
        let mut accesses = Accesses::new();
        let context = Context { rip: 0x40_0ffe, cs: 0x33, ..Context::default() };
        assert_eq!(accesses.error(&context, [0; 2], &[0x48, 0x8b], 0x40_1000), fault::USER | fault::FETCH);
    }
}
