//! System calls of programs that run in this process: where an instruction is that makes one, the
//! text is changed so that the next goes straight to the guest's kernel.
//!
//! SYSCALL has two bytes, and a jump to anywhere has seven: `jmp *address`, with an address of 32
//! bits at which a pointer lies. Nothing is known of a program's text but that this one instruction
//! has been executed. So whatever is changed must be right for whoever jumps to any instruction
//! that was there before, and must not use the stack, below which a program may keep something.
//! There are two forms:
//!
//! * `mov $number, %eax` in front of it makes seven bytes. The pointers lie at 0x60000 and up, so
//!   that where SYSCALL was there is 0x06 now, which is no instruction in 64-bit mode (SDM Vol. 2D,
//!   table A-2): who jumps there comes to the wedge, which does what SYSCALL would have done. That
//!   the five bytes are such a `mov`, and not the end of something else, is seen by what is in RAX,
//!   and by what may stand in front of them.
//! * Elsewhere a short jump takes the place of SYSCALL. It leads to a NOP of at least eight bytes,
//!   such as compilers put behind a function, whose opcode becomes 0x06 and what follows the long
//!   jump. Who executes the NOP comes to the wedge, which skips it.
//!
//! What the jump leads to, a *trampoline*, loads RCX with the address behind SYSCALL, and jumps to
//! the entry point.
//!
//! The text that is changed is a copy of the page, which is mapped instead of the guest's where a
//! program may execute it but not write to it. The guest's page stays as it is: others map it, and
//! files are made of it. When it is mapped again the copy is held against it.

use wedge::x86::paging::PAGE;

/// The pointers that jumps refer to.
pub(super) const POINTERS: u64 = 0x6_0000;
/// The first address behind them.
pub(super) const POINTERS_END: u64 = 0x7_0000;
/// Bytes of a pointer, and of a trampoline.
pub(super) const POINTER: u64 = 8;
pub(super) const TRAMPOLINE: u64 = 32;
/// As many trampolines as pointers.
pub(super) const COUNT: usize = ((POINTERS_END - POINTERS) / POINTER) as usize;

/// A page of text.
pub(super) type Text = [u8; PAGE as usize];

/// SYSCALL, and its length.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
pub(super) const SYSCALL_LENGTH: u64 = 2;
/// `mov $imm32, %eax`, and its length.
const MOV_EAX: u8 = 0xb8;
const MOV_LENGTH: usize = 5;
/// `jmp *disp32`, without the address.
const JMP: [u8; 3] = [0xff, 0x24, 0x25];
const JMP_LENGTH: usize = 7;
/// `jmp rel8`.
const SHORT_JMP: u8 = 0xeb;
/// No instruction in 64-bit mode.
const INVALID: u8 = 0x06;
/// `nopl 0(%rax, %rax)`, with a displacement of 32 bits.
const NOP: [u8; 8] = [0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0];

/// How a call is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// With the `mov` in front of it.
    Mov,
    /// With the NOP that begins there in the page.
    Nop(usize),
}

/// How the SYSCALL at an offset can be changed, which was executed with this number in RAX. The
/// text may have been changed in other places; `original` is what was there.
pub(super) fn form(text: &Text, original: &Text, at: usize, number: u64) -> Option<Form> {
    let is_original = |from: usize, to: usize| text.get(from..to).is_some_and(|bytes| bytes == &original[from..to]);
    if !is_original(at, at + 2) || original.get(at..at + 2) != Some(&SYSCALL) {
        return None;
    }
    if is_mov(original, at, number) && is_original(at - MOV_LENGTH, at) {
        return Some(Form::Mov);
    }
    let nearest = (at + 1).saturating_sub(0x80)..=at + 0x80;
    let mut nops = nearest.filter(|nop| original.get(*nop..*nop + NOP.len()) == Some(&NOP));
    nops.find(|nop| is_original(*nop, *nop + NOP.len()) && is_behind_an_end(original, *nop)).map(Form::Nop)
}

/// Whether in front of an offset there is `mov $number, %eax`. What precedes it must not make
/// another instruction of it: a prefix, an escape, or an opcode with an immediate operand of 32
/// bits, for which the first byte would be a displacement.
fn is_mov(original: &Text, at: usize, number: u64) -> bool {
    const LAST_NUMBER: u64 = 0x3ff;
    const IN_FRONT: usize = 3;
    let Some(start) = at.checked_sub(MOV_LENGTH).filter(|start| *start >= IN_FRONT) else { return false };
    let immediate =
        u32::from_le_bytes([original[start + 1], original[start + 2], original[start + 3], original[start + 4]]);
    let [third, second, first] = [original[start - 3], original[start - 2], original[start - 1]];
    let has_immediate = |opcode: u8| matches!(opcode, 0xc7 | 0x81 | 0x69 | 0xf7);
    let has_displacement = |modrm: u8| modrm >> 6 == 1;
    let is_prefixed = matches!(first, 0x40..=0x4f | 0x0f | 0x66);
    let is_displacement =
        has_immediate(second) && has_displacement(first) || has_immediate(third) && has_displacement(second);
    original[start] == MOV_EAX
        && u64::from(immediate) == number
        && number <= LAST_NUMBER
        && !is_prefixed
        && !is_displacement
}

/// Whether the NOP with this opcode is behind an instruction that nothing falls through, so that
/// hardly anybody executes it: RET, INT3, or the like.
fn is_behind_an_end(original: &Text, nop: usize) -> bool {
    let mut at = nop;
    while at > 0 && matches!(original[at - 1], 0x66 | 0x2e) {
        at -= 1;
    }
    let before = |distance: usize| at.checked_sub(distance).map(|place| original[place]);
    matches!(before(1), Some(0xc3 | 0xcc | 0xf4)) || before(2) == Some(SHORT_JMP) || before(5) == Some(0xe9)
}

/// Changes the SYSCALL at an offset, to jump by a pointer.
pub(super) fn write(text: &mut Text, at: usize, form: Form, pointer: u32) {
    let mut jump = [0; JMP_LENGTH];
    jump[..JMP.len()].copy_from_slice(&JMP);
    jump[JMP.len()..].copy_from_slice(&pointer.to_le_bytes());
    match form {
        Form::Mov => text[at - MOV_LENGTH..at + 2].copy_from_slice(&jump),
        Form::Nop(nop) => {
            text[nop] = INVALID;
            text[nop + 1..nop + 1 + JMP_LENGTH].copy_from_slice(&jump);
            let distance = (nop + 1).wrapping_sub(at + 2);
            text[at..at + 2].copy_from_slice(&[SHORT_JMP, distance as u8]);
        }
    }
}

/// A trampoline, for a call that returns to `next`: with `mov $number, %eax`, or nothing for it,
/// `movabs $next, %rcx`, and `jmp *` to the pointer at so many bytes from the trampoline's start.
pub(super) fn trampoline(form: Form, number: u64, next: u64, pointer: i32) -> [u8; TRAMPOLINE as usize] {
    let mut code = [0xcc; TRAMPOLINE as usize];
    let mut length = 0;
    let mut push = |bytes: &[u8]| {
        code[length..length + bytes.len()].copy_from_slice(bytes);
        length += bytes.len();
    };
    if form == Form::Mov {
        push(&[MOV_EAX]);
        push(&(number as u32).to_le_bytes());
    }
    push(&[0x48, 0xb9]);
    push(&next.to_le_bytes());
    let end = if form == Form::Mov { MOV_LENGTH } else { 0 } + 16;
    push(&[0xff, 0x25]);
    push(&pointer.wrapping_sub_unsigned(end as u32).to_le_bytes());
    code
}

/// What a trampoline is for: the number of the call, if it loads that, and the address behind it.
pub(super) fn of_trampoline(code: &[u8; TRAMPOLINE as usize]) -> (Option<u64>, u64) {
    let loads = code[0] == MOV_EAX;
    let at = if loads { MOV_LENGTH } else { 0 } + 2;
    let word = |at: usize, length: usize| {
        let mut bytes = [0; 8];
        bytes[..length].copy_from_slice(&code[at..at + length]);
        u64::from_le_bytes(bytes)
    };
    (loads.then(|| word(1, 4)), word(at, 8))
}

/// The length of the NOP at the start of some bytes, if it is one that may have been changed.
pub(super) fn nop_length(bytes: &[u8]) -> Option<usize> {
    let prefixes = bytes.iter().take_while(|byte| matches!(byte, 0x66 | 0x2e)).count();
    bytes[prefixes..].starts_with(&NOP).then_some(prefixes + NOP.len())
}

/// Whether some bytes begin with SYSCALL.
pub(super) fn is_system_call(bytes: &[u8]) -> bool {
    bytes.starts_with(&SYSCALL)
}

/// How often a call was made, of those made lately.
#[derive(Debug)]
pub(super) struct Heat([(u64, u8); 256]);

impl Heat {
    /// None was made.
    pub(super) const NONE: Self = Self([(0, 0); 256]);

    /// Notes one. Whether it is worth while to change the text now: not for those that are made a
    /// few times, as by programs that soon end; and where it could not be done, not at once again.
    pub(super) fn note(&mut self, next: u64) -> bool {
        const ENOUGH: u8 = 16;
        let (call, count) = &mut self.0[((next ^ next >> 12) & 0xff) as usize];
        if *call != next {
            (*call, *count) = (next, 0);
        }
        *count = count.wrapping_add(1);
        *count == ENOUGH
    }
}

#[cfg(test)]
mod tests {
    use iced_x86::{Code, Decoder, DecoderOptions};
    use std::boxed::Box;

    use super::*;

    fn text(bytes: &[u8]) -> Box<Text> {
        let mut text = Box::new([0x90; PAGE as usize]);
        text[0x100..0x100 + bytes.len()].copy_from_slice(bytes);
        text
    }

    #[test]
    fn a_call_is_changed_where_that_is_safe() {
        let nop = |front: &[u8]| [front, &[0xc3, 0x66, 0x2e], &NOP].concat();
        for (bytes, at, number, expected) in [
            (&[0xb8, 39, 0, 0, 0, 0x0f, 0x05][..], 5, 39, Some(Form::Mov)),
            // Another number than it loads: these bytes are something else.
            (&[0xb8, 39, 0, 0, 0, 0x0f, 0x05], 5, 40, None),
            // mov $39, %r8d
            (&[0x41, 0xb8, 39, 0, 0, 0, 0x0f, 0x05], 6, 39, None),
            // movl $39, -0x48(%rbp); movl $39, -0x48(%rsp)
            (&[0xc7, 0x45, 0xb8, 39, 0, 0, 0, 0x0f, 0x05], 7, 39, None),
            (&[0xc7, 0x44, 0x24, 0xb8, 39, 0, 0, 0, 0x0f, 0x05], 8, 39, None),
            (&[0x31, 0xc0, 0x0f, 0x05, 0xc3], 2, 0, None),
            (&nop(&[0x31, 0xc0, 0x0f, 0x05]), 2, 0, Some(Form::Nop(0x107))),
            // Somebody falls into the NOP.
            (&[&[0x0f, 0x05, 0x90][..], &NOP].concat(), 0, 0, None),
            (&[0xcd, 0x80], 0, 0, None),
        ] {
            let text = text(bytes);
            assert_eq!(form(&text, &text, 0x100 + at, number), expected, "{bytes:x?}");
        }
    }

    #[test]
    fn a_nop_that_is_too_far_or_taken_is_not_used() {
        for (distance, expected) in [(3, true), (0x80, true), (0x81, false)] {
            let mut original = text(&[0x0f, 0x05]);
            let nop = 0x100 + distance;
            original[nop - 1] = 0xc3;
            original[nop..nop + 8].copy_from_slice(&NOP);
            let found = form(&original, &original, 0x100, 0);
            assert_eq!(found.is_some(), expected, "{distance:#x}");
            let mut changed = original.clone();
            changed[nop] = INVALID;
            assert_eq!(form(&changed, &original, 0x100, 0), None);
        }
    }

    #[test]
    fn whoever_jumps_to_what_was_an_instruction_is_noticed() {
        let decode = |text: &Text, at: usize| {
            let mut decoder = Decoder::with_ip(64, &text[at..], at as u64, DecoderOptions::NONE);
            decoder.decode()
        };
        let mut with_mov = text(&[0xb8, 39, 0, 0, 0, 0x0f, 0x05]);
        write(&mut with_mov, 0x105, Form::Mov, 0x6_ff18);
        assert_eq!(decode(&with_mov, 0x100).code(), Code::Jmp_rm64);
        assert_eq!(decode(&with_mov, 0x100).memory_displacement64(), 0x6_ff18);
        assert!(decode(&with_mov, 0x105).is_invalid());

        let mut with_nop = text(&[&[0x0f, 0x05, 0xc3, 0x66, 0x2e][..], &NOP].concat());
        write(&mut with_nop, 0x100, Form::Nop(0x105), 0x6_0008);
        assert_eq!(decode(&with_nop, 0x100).near_branch_target(), 0x106);
        assert_eq!(decode(&with_nop, 0x106).memory_displacement64(), 0x6_0008);
        for at in [0x103, 0x104, 0x105] {
            assert!(decode(&with_nop, at).is_invalid());
        }
    }

    #[test]
    fn a_trampoline_says_what_it_is_for() {
        for (form, number) in [(Form::Mov, Some(39)), (Form::Nop(0), None)] {
            let code = trampoline(form, 39, 0x1234_5678_9abc, -0x100);
            assert_eq!(of_trampoline(&code), (number, 0x1234_5678_9abc));
            let mut decoder = Decoder::with_ip(64, &code, 0x1000, DecoderOptions::NONE);
            let last = loop {
                let instruction = decoder.decode();
                if instruction.code() == Code::Jmp_rm64 {
                    break instruction;
                }
                assert!(!instruction.is_invalid());
            };
            assert_eq!(last.memory_displacement64(), 0x1000 - 0x100);
        }
    }

    #[test]
    fn a_call_is_warm_after_a_while_and_not_at_once_again() {
        let mut heat = Heat::NONE;
        let warm: std::vec::Vec<_> = (1..300).filter(|_| heat.note(0x1000)).collect();
        assert_eq!(warm, [16, 16 + 256]);
    }
}
