//! One stub: the original instructions at another address, and the way back.

use anyhow::{Context, Result, ensure};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Register};

use super::tables::distance;

const CALL: u8 = 0xe8;
const JMP: u8 = 0xe9;
const RET: u8 = 0xc3;
const NOP: u8 = 0x90;

/// Length of `call rel32` and `jmp rel32`.
pub(crate) const BRANCH: u64 = 5;

/// How the site gets to the stub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `call`, and `ret` at the end of the stub: works from a copy of the site, needs a stack.
    Call,
    /// `jmp`, and `jmp` back: needs nothing, but returns to the one place.
    Jump,
}

/// The instructions of a site.
#[derive(Debug)]
pub(crate) struct Original {
    bytes: Vec<u8>,
    instructions: Vec<Instruction>,
}

impl Original {
    /// Decodes what stands at `address`.
    pub(crate) fn decode(address: u64, bytes: &[u8]) -> Result<Self> {
        let decoder = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE);
        let instructions: Vec<_> = decoder.into_iter().collect();
        ensure!(!instructions.iter().any(Instruction::is_invalid), "no whole instructions at {address:#x}");
        Ok(Self { bytes: bytes.to_vec(), instructions })
    }

    /// Whether an operand or an effect of an instruction depends on the stack pointer.
    pub(crate) fn uses_stack(&self) -> bool {
        let mut factory = InstructionInfoFactory::new();
        self.instructions.iter().any(|instruction| {
            instruction.is_stack_instruction()
                || factory
                    .info(instruction)
                    .used_registers()
                    .iter()
                    .any(|used| used.register().full_register() == Register::RSP)
        })
    }

    /// The addresses of the instructions.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = u64> {
        self.instructions.iter().map(Instruction::ip)
    }

    /// The stub at `stub` for the site that ends at `site_end`.
    pub(crate) fn stub(&self, stub: u64, site_end: u64, route: Route) -> Result<Vec<u8>> {
        let mut code = self.at(stub)?;
        match route {
            Route::Call => code.push(RET),
            Route::Jump => code.extend(branch(JMP, stub + code.len() as u64, site_end)?),
        }
        Ok(code)
    }

    /// The bytes of the instructions at another address: the same but for displacements from RIP.
    fn at(&self, address: u64) -> Result<Vec<u8>> {
        let mut code = self.bytes.clone();
        let mut at = 0;
        for instruction in &self.instructions {
            let near_branch = matches!(
                instruction.flow_control(),
                FlowControl::ConditionalBranch | FlowControl::XbeginXabortXend | FlowControl::UnconditionalBranch
            ) && instruction.near_branch_target() != 0;
            ensure!(!near_branch, "a relative branch at {:#x}", instruction.ip());
            let end = at + instruction.len();
            if instruction.is_ip_rel_memory_operand() {
                let mut decoder = Decoder::with_ip(64, &self.bytes[at..end], instruction.ip(), DecoderOptions::NONE);
                let again = decoder.decode();
                let place = at + decoder.get_constant_offsets(&again).displacement_offset();
                let next = address + end as u64;
                code[place..place + 4].copy_from_slice(&distance(next, instruction.ip_rel_memory_address())?);
            }
            at = end;
        }
        Ok(code)
    }
}

/// What the slot of a site holds in place of the original: the branch to its stub, and NOPs.
pub(crate) fn slot(site: u64, slot: u64, stub: u64, route: Route) -> Result<Vec<u8>> {
    let opcode = match route {
        Route::Call => CALL,
        Route::Jump => JMP,
    };
    let mut code = branch(opcode, site, stub)?;
    code.resize(usize::try_from(slot)?, NOP);
    Ok(code)
}

fn branch(opcode: u8, from: u64, to: u64) -> Result<Vec<u8>> {
    let distance = distance(from + BRANCH, to).with_context(|| format!("{to:#x} is out of reach of {from:#x}"))?;
    Ok([&[opcode], distance.as_slice()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: u64 = 0xffff_ffff_8100_0000;
    const STUB: u64 = 0xffff_ffff_8120_0000;

    #[test]
    fn a_displacement_from_rip_keeps_its_target() {
        // lgdt 0x1000(%rip)
        let lgdt = Original::decode(SITE, &[0x0f, 0x01, 0x15, 0x00, 0x10, 0x00, 0x00]).unwrap();
        let stub = lgdt.stub(STUB, SITE + 7, Route::Call).unwrap();
        assert_eq!(stub, [0x0f, 0x01, 0x15, 0x00, 0x10, 0xe0, 0xff, RET]);
        assert!(!lgdt.uses_stack());
    }

    #[test]
    fn jump_goes_there_and_back() {
        let cli = Original::decode(SITE, &[0xfa]).unwrap();
        assert_eq!(slot(SITE, 7, STUB, Route::Jump).unwrap(), [JMP, 0xfb, 0xff, 0x1f, 0, NOP, NOP]);
        assert_eq!(cli.stub(STUB, SITE + 7, Route::Jump).unwrap(), [0xfa, JMP, 0x01, 0x00, 0xe0, 0xff]);
    }

    #[test]
    fn sees_the_stack() {
        for (bytes, stack) in [
            (&[0x9c, 0x58][..], true),         // pushf; pop %rax
            (&[0x0f, 0x01, 0x04, 0x24], true), // sgdt (%rsp)
            (&[0x48, 0xcf], true),             // iretq
            (&[0x8e, 0xe0], false),            // mov %eax, %fs
            (&[0x0f, 0x01, 0xca], false),      // clac
            (&[0x0f, 0x22, 0xdc], true),       // mov %rsp, %cr3
        ] {
            assert_eq!(Original::decode(SITE, bytes).unwrap().uses_stack(), stack, "{bytes:x?}");
        }
    }

    #[test]
    fn refuses_half_an_instruction_and_a_branch() {
        assert!(Original::decode(SITE, &[0x0f, 0x01]).is_err());
        let branch = Original::decode(SITE, &[0xeb, 0x10]).unwrap();
        assert!(branch.stub(STUB, SITE + 5, Route::Jump).is_err());
    }
}
