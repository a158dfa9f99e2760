//! Exceptions of a guest that runs without its privileges.
//!
//! A page fault is the shadow's first. A breakpoint may be a site in code that runs where no branch
//! reaches a stub. #GP and #UD may be an instruction that the guest's kernel executes and that
//! nobody has annotated, or one that the guest allows its programs. It may be a program's CPUID,
//! where the processor can refuse that (*CPUID faulting*: SDM Vol. 4, `MSR_PLATFORM_INFO`,
//! `MSR_MISC_FEATURES_ENABLES`; APM Vol. 3, `CpuidUserDis`) and a host has it do
//! so: then the program sees what its kernel sees. All else is the guest's own.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

use crate::cpu::{Context, Event, Exception, Flow, decode, emulate};
use crate::guest::linux::SYSTEM_CALL;
use crate::shadow::{Access, Outcome};
use crate::sites::Form;
use crate::x86::paging::{PAGE, fault};
use crate::x86::segment::{Descriptor, Selector};
use crate::x86::{flags, vector};

use super::{Host, Path, Processor as _, Vm};

impl<H: Host> Vm<'_, H> {
    /// An exception, of the guest's or of its hardware.
    #[inline]
    pub fn exception(&mut self, context: &mut Context) {
        self.begin(Path::of_exception(context.vector), context);
        let in_wedge = !context.is_user() && self.machine.text.window.contains(&context.rip);
        if in_wedge && self.machine.text.engine.at_stub(context.rip).is_none() {
            Self::die(context, "in the wedge");
        }
        match context.vector as u8 {
            vector::PAGE_FAULT => self.page_fault(context),
            vector::BREAKPOINT => self.breakpoint(context),
            // Some hosts hand it on as if it were an exception.
            SYSTEM_CALL => self.software_interrupt(context, SYSTEM_CALL, 2),
            vector::PROTECTION | vector::INVALID_OPCODE if !in_wedge => self.refused(context),
            _ => self.deliver_own(context),
        }
    }

    #[inline]
    fn page_fault(&mut self, context: &mut Context) {
        let address = H::fault_address();
        if H::own_page_fault(self, context, address) {
            return;
        }
        let has = |bit: u32| context.error & u64::from(bit) != 0;
        let access = Access { write: has(fault::WRITE), user: context.is_user(), fetch: has(fault::FETCH) };
        match self.machine.space.shadow.fault(address, access, &mut self.machine.space.memory) {
            Outcome::Filled | Outcome::Spurious => {}
            Outcome::Fault { error } => {
                self.present(context);
                if access.user || !self.machine.space.shadow.is_kernel(address) {
                    self.vcpu.wanted = Some(address);
                    H::note_work(self);
                }
                self.deliver(context, Event::Exception(Exception::page_fault(error, address)));
            }
            Outcome::Nothing { address } => {
                Self::die(context, format_args!("at an address without memory, {address:#x}"));
            }
            Outcome::OutOfTables => Self::die(context, "without a page table left"),
        }
    }

    /// INT3: the host's own, a site in code that runs at its physical address, or the guest's.
    fn breakpoint(&mut self, context: &mut Context) {
        let at = context.rip.wrapping_sub(1);
        if !context.is_user() {
            if H::own_breakpoint(self, context, at) {
                return;
            }
            let places = [at, at.wrapping_sub(self.machine.text.head_distance)];
            let mut sites = places.iter().filter_map(|address| self.machine.text.engine.site_at(*address));
            if let Some((number, _)) = sites.find(|(_, site)| site.form() == Form::Trap) {
                return self.emulate_site(context, number, at);
            }
        }
        self.software_interrupt(context, vector::BREAKPOINT, 1);
    }

    /// INT n that has been executed: if the guest's gate does not allow it, the exception is one of
    /// the instruction.
    fn software_interrupt(&mut self, context: &mut Context, vector: u8, length: u64) {
        let return_rip = context.rip;
        context.rip = context.rip.wrapping_sub(length);
        self.deliver(context, Event::Software { vector, return_rip });
    }

    /// #GP or #UD: an instruction that ring 3 may not execute, or the guest's own fault.
    fn refused(&mut self, context: &mut Context) {
        if context.is_user() && context.vector == vector::PROTECTION.into() && self.interrupt_gate(context) {
            return;
        }
        let mut bytes = [0; 15];
        let user = context.is_user();
        let at = if user { self.code_address(context, context.rip) } else { context.rip };
        let length = self.fetch(at, &mut bytes, user);
        let Some(instruction) = decode(&bytes[..length], context.rip) else {
            return self.deliver_own(context);
        };
        if user && !self.may_be_allowed(context, &instruction) {
            return self.deliver_own(context);
        }
        let steps = user && context.rflags & flags::TRAP != 0 && !holds_off_steps(&instruction);
        let (cpu, mut behind) = self.processor();
        match emulate(cpu, context, &instruction, &mut behind) {
            Ok(Flow::Next) => {
                context.rip = instruction.next_ip();
                context.rflags &= !flags::RESUME;
            }
            Ok(Flow::Jumped) => {}
            Ok(Flow::Unhandled) => return self.deliver_own(context),
            Err(exception) => return self.deliver(context, Event::Exception(exception)),
        }
        if !user {
            self.count_unannotated(instruction.ip(), &bytes[..instruction.len()]);
            H::registers_changed(self, true);
        }
        // A way into the kernel clears the flag.
        if steps && context.is_user() {
            self.step_has_ended(context);
        }
    }

    /// A single step ends behind what was emulated for a program, as the processor would have ended
    /// it (SDM Vol. 3B, 17.2.3, BS).
    fn step_has_ended(&mut self, context: &mut Context) {
        const SINGLE_STEP: u64 = 1 << 14;
        let status = self.vcpu.processor.debug_register(6);
        self.vcpu.processor.set_debug_register(6, status | SINGLE_STEP);
        let exception = Exception { vector: vector::DEBUG, error: None, address: None };
        self.deliver(context, Event::Exception(exception));
    }

    fn count_unannotated(&mut self, at: u64, bytes: &[u8]) {
        /// More are counted, but not printed.
        const PRINTED: u64 = 16;
        let count = &mut self.machine.account.unannotated;
        *count += 1;
        if *count <= PRINTED {
            H::say(format_args!("emulated without an annotation: {bytes:02x?} at {at:#x}"));
        }
    }

    /// INT n of user mode, which the real table of interrupts turns into #GP: a gate that user mode
    /// may use (SDM Vol. 3A, 6.12.1.1, 6.13). The number is the instruction's, for QEMU 7.2 puts
    /// twice as much into the error code.
    fn interrupt_gate(&mut self, context: &mut Context) -> bool {
        const THROUGH_TABLE: u64 = 1 << 1;
        if context.error & 7 != THROUGH_TABLE {
            return false;
        }
        let mut bytes = [0; 15];
        let at = self.code_address(context, context.rip);
        let length = self.fetch(at, &mut bytes, true);
        let instruction = decode(&bytes[..length], context.rip);
        let Some(instruction) = instruction.filter(|found| found.code() == Code::Int_imm8) else { return false };
        let number = instruction.immediate8();
        let gate = self.machine.space.word(self.vcpu.cpu.idt.base + 16 * u64::from(number));
        if gate.is_none_or(|gate| Descriptor(gate).dpl() != 3) {
            return false;
        }
        let return_rip = instruction.next_ip();
        self.deliver(context, Event::Software { vector: number, return_rip });
        true
    }

    /// Whether the guest may allow user mode what the processor has refused.
    fn may_be_allowed(&mut self, context: &Context, instruction: &Instruction) -> bool {
        // SYSENTER that is not the host's is #GP; on processors that have none in 64-bit mode it
        // is #UD. CPUID is #GP where it is refused, and the same in all modes.
        let is_refused = matches!(instruction.mnemonic(), Mnemonic::Sysenter | Mnemonic::Cpuid);
        if is_refused && context.vector == vector::PROTECTION.into() {
            return true;
        }
        // In code of 16 bits, operands have other lengths.
        let is_known = |code: Descriptor| code.is_long() || code.is_big() && is_same_in_compatibility_mode(instruction);
        concerns_tables_or_ports(instruction) && self.code_segment(context).is_some_and(is_known)
    }

    /// The descriptor of a program's code segment.
    fn code_segment(&mut self, context: &Context) -> Option<Descriptor> {
        let (cpu, mut behind) = self.processor();
        cpu.descriptor(Selector::of(context.cs), &mut behind).ok()
    }

    /// The linear address of an offset in a program's code segment: in 64-bit code, they are the
    /// same (SDM Vol. 3A, 3.4.4). In other code an offset has as many bits as the segment says.
    pub fn code_address(&mut self, context: &Context, offset: u64) -> u64 {
        match self.code_segment(context) {
            Some(code) if !code.is_long() => {
                let bits = if code.is_big() { 0xffff_ffff } else { 0xffff };
                u64::from(code.base()).wrapping_add(offset & bits) & 0xffff_ffff
            }
            _ => offset,
        }
    }

    /// Reads as many bytes of code as there are.
    pub fn fetch(&mut self, address: u64, bytes: &mut [u8; 15], user: bool) -> usize {
        if self.machine.space.read(address, bytes, user).is_ok() {
            return bytes.len();
        }
        let rest = (PAGE - address % PAGE).min(15) as usize;
        if self.machine.space.read(address, &mut bytes[..rest], user).is_ok() { rest } else { 0 }
    }

    /// The context's own exception, delivered as it came.
    fn deliver_own(&mut self, context: &mut Context) {
        self.present(context);
        let vector = context.vector as u8;
        let error = vector::WITH_ERROR.contains(vector).then_some(context.error as u32);
        self.deliver(context, Event::Exception(Exception { vector, error, address: None }));
    }
}

/// Whether the processor may have refused an instruction of user mode only because the real tables
/// are not the guest's: it loads a segment, or accesses a port that the guest's TSS may allow.
fn concerns_tables_or_ports(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    match instruction.mnemonic() {
        M::In
        | M::Out
        | M::Insb
        | M::Insw
        | M::Insd
        | M::Outsb
        | M::Outsw
        | M::Outsd
        | M::Lss
        | M::Lfs
        | M::Lgs
        | M::Retf
        | M::Iret
        | M::Iretd
        | M::Iretq => true,
        M::Mov | M::Pop => instruction.op0_register().is_segment_register(),
        M::Jmp => instruction.is_jmp_far() || instruction.is_jmp_far_indirect(),
        M::Call => instruction.is_call_far() || instruction.is_call_far_indirect(),
        _ => false,
    }
}

/// Whether a single step does not end behind an instruction, but behind the next: it loads SS (SDM
/// Vol. 3A, 6.8.3).
fn holds_off_steps(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Mov | Mnemonic::Pop) && instruction.op0_register() == Register::SS
}

/// Whether an instruction that was decoded as one of 64-bit code does the same in compatibility
/// mode, where operands in memory have another form and segments another base.
fn is_same_in_compatibility_mode(instruction: &Instruction) -> bool {
    let in_memory = (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory);
    matches!(instruction.mnemonic(), Mnemonic::In | Mnemonic::Out | Mnemonic::Mov) && !in_memory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_held_off_by_what_loads_ss() {
        for (bytes, expected) in [
            (&[0x8e, 0xd0][..], true),    // mov %eax, %ss
            (&[0x8e, 0x10], true),        // mov (%rax), %ss
            (&[0x8e, 0xd8], false),       // mov %eax, %ds
            (&[0x8c, 0xd0], false),       // mov %ss, %eax
            (&[0x0f, 0xb2, 0x08], false), // lss (%rax), %ecx
            (&[0x0f, 0xa2], false),       // cpuid
        ] {
            let instruction = decode(bytes, 0x1000).expect("an instruction");
            assert_eq!(holds_off_steps(&instruction), expected, "{bytes:02x?}");
        }
    }
}
