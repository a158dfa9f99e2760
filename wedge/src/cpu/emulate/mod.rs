//! One instruction.
//!
//! Each of the instructions of [`annotate::instructions`] has one of three fates. It is carried
//! out, at the privilege level of the context; or the CPU that the guest sees does not have it,
//! which is #UD whoever executes it (what CPUID hides: MONITOR, STAC, XSAVES, VMX ...); or it is
//! not emulated at all, and the caller is told so.
//!
//! A fault leaves the context at the instruction and changes nothing, so that the guest can repair
//! and repeat. To see to that, each function here reads and checks first, and changes last.

mod flags;
mod floating;
mod identification;
mod jumps;
mod operands;
mod ports;
mod registers;
mod segments;
mod system;
mod tables;

use annotate::instructions::row_of;
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use super::{Context, Exception, Host, VirtualCpu};

/// Where the guest goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Behind the instruction: the caller sets RIP.
    Next,
    /// The context says where.
    Jumped,
    /// The instruction is not emulated; nothing was changed.
    Unhandled,
}

/// Decodes a 64-bit instruction at an address. iced-x86 allocates its tables when it decodes for
/// the first time, and never again.
#[must_use]
pub fn decode(bytes: &[u8], rip: u64) -> Option<Instruction> {
    let instruction = Decoder::with_ip(64, bytes, rip, DecoderOptions::NONE).decode();
    (!instruction.is_invalid()).then_some(instruction)
}

/// Carries out an instruction. The context is at the instruction; [`Instruction::next_ip`] is where
/// it goes on, so whoever decodes a rewritten site sets that behind the slot (operands relative to
/// RIP are absolute once decoded).
///
/// # Errors
///
/// The exception that the instruction raises, for the context as it then is: at the instruction, or
/// behind it if the exception is a trap. Of a repeated instruction what was done stays done.
pub fn emulate(
    cpu: &mut VirtualCpu,
    context: &mut Context,
    instruction: &Instruction,
    host: &mut impl Host,
) -> Result<Flow, Exception> {
    Machine { cpu, context, instruction, host }.run()
}

type Outcome = Result<Flow, Exception>;

/// An instruction with all that it works on.
struct Machine<'a, H> {
    cpu: &'a mut VirtualCpu,
    context: &'a mut Context,
    instruction: &'a Instruction,
    host: &'a mut H,
}

impl<H: Host> Machine<'_, H> {
    #[rustfmt::skip]
    fn run(&mut self) -> Outcome {
        use Mnemonic as M;
        match self.instruction.mnemonic() {
            M::In => self.input(),
            M::Out => self.output(),
            M::Insb | M::Insw | M::Insd => self.input_string(),
            M::Outsb | M::Outsw | M::Outsd => self.output_string(),
            M::Rdmsr => self.read_msr(),
            M::Wrmsr => self.write_msr(),
            M::Mov => self.mov(),
            M::Push => self.push_register(),
            M::Pop => self.pop_register(),

            M::Cli => self.set_interrupt_flag(false),
            M::Sti => self.set_interrupt_flag(true),
            M::Pushf | M::Pushfd | M::Pushfq => self.push_flags(),
            M::Popf | M::Popfd | M::Popfq => self.pop_flags(),

            M::Iret | M::Iretd | M::Iretq => self.iret(),
            M::Retf => self.far_return(),
            M::Jmp => self.far_jump(),
            M::Call => self.far_call(),
            M::Syscall => self.syscall(),
            M::Sysenter => self.sysenter(),
            M::Sysret | M::Sysretq => self.sysret(),
            M::Sysexit | M::Sysexitq => self.sysexit(),
            M::Int => self.software_interrupt(self.instruction.immediate8()),
            M::Int3 => self.software_interrupt(3),
            M::Int1 => self.debug_trap(),

            M::Clts => self.clear_task_switched(),
            M::Smsw => self.store_machine_status(),
            M::Lmsw => self.load_machine_status(),
            M::Xgetbv => self.get_extended_control(),
            M::Xsetbv => self.set_extended_control(),
            M::Fxsave | M::Fxsave64 => self.save_floating_point(),
            M::Fxrstor | M::Fxrstor64 => self.load_floating_point(),

            M::Lss | M::Lfs | M::Lgs => self.load_far_pointer(),
            M::Lar => self.load_access_rights(),
            M::Lsl => self.load_segment_limit(),
            M::Verr => self.verify(crate::x86::segment::Descriptor::is_readable),
            M::Verw => self.verify(crate::x86::segment::Descriptor::is_writable),
            M::Rdfsbase | M::Rdgsbase => self.read_segment_base(),
            M::Wrfsbase | M::Wrgsbase => self.write_segment_base(),
            M::Swapgs => self.swap_gs(),

            M::Sgdt => self.store_table(self.cpu.gdt),
            M::Sidt => self.store_table(self.cpu.idt),
            M::Sldt => self.store_selector(self.cpu.ldt.selector),
            M::Str => self.store_selector(self.cpu.tr.selector),
            M::Lgdt => self.load_gdt(),
            M::Lidt => self.load_idt(),
            M::Lldt => self.load_ldt(),
            M::Ltr => self.load_task_register(),

            M::Cpuid => Ok(self.cpuid()),
            M::Rdtsc => self.read_time_stamp(),
            M::Rdtscp => self.read_time_stamp_and_processor(),
            M::Rdpid => Ok(self.read_processor()),
            M::Rdpmc => Err(Exception::PROTECTION),

            // At a site it stands before letters and what a hypervisor is to emulate; and the guest
            // sees none.
            M::Ud2 => Err(Exception::INVALID_OPCODE),

            M::Hlt => self.halt(),
            M::Invlpg => self.invalidate_page(),
            M::Invpcid => self.invalidate_pcid(),
            M::Invd | M::Wbinvd | M::Wbnoinvd => self.write_back_caches(),
            _ => self.not_there(),
        }
    }

    /// MOV is many instructions.
    fn mov(&mut self) -> Outcome {
        let of = |operand| match self.instruction.op_kind(operand) {
            OpKind::Register => self.instruction.op_register(operand),
            _ => Register::None,
        };
        let (destination, source) = (of(0), of(1));
        if source.is_cr() {
            self.move_from_control(source, destination)
        } else if destination.is_cr() {
            self.move_to_control(destination, source)
        } else if source.is_dr() {
            self.move_from_debug(source, destination)
        } else if destination.is_dr() {
            self.move_to_debug(destination, source)
        } else if source.is_segment_register() {
            self.move_from_segment(source)
        } else if destination.is_segment_register() {
            self.move_to_segment(destination)
        } else {
            Ok(Flow::Unhandled)
        }
    }

    /// What is sensitive and not carried out does not exist on the virtual CPU.
    fn not_there(&self) -> Outcome {
        match row_of(self.instruction) {
            Some(_) => Err(Exception::INVALID_OPCODE),
            None => Ok(Flow::Unhandled),
        }
    }

    /// #GP(0) outside the kernel.
    fn privileged(&self) -> Result<(), Exception> {
        if self.context.cpl() == 0 { Ok(()) } else { Err(Exception::PROTECTION) }
    }
}
