//! Transfers of control that are not events: IRET, far RET, JMP and CALL, and the fast system
//! calls.
//!
//! The checks are those of the manual's pseudo-code for 64-bit mode, in its order. A kernel relies
//! on them: Linux returns to whatever a signal handler or a debugger has left in a frame, and the
//! exception table has the answer to the #GP.

use super::{Context, Exception, Host, Segment, VirtualCpu, is_canonical};
use crate::x86::control::efer;
use crate::x86::flags;
use crate::x86::segment::{Descriptor, Selector, system};

/// What IRETQ pops.
#[expect(missing_docs, reason = "the architecture's names")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Frame {
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// Where a return goes, all checks done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReturnTo {
    /// The new values of the registers: selectors zero-extended, RFLAGS and RSP as they become.
    pub frame: Frame,
    /// Whether the code segment is a 64-bit one; compatibility mode otherwise.
    pub long: bool,
}

impl ReturnTo {
    /// The privilege level.
    #[must_use]
    pub const fn cpl(&self) -> u8 {
        (self.frame.cs & 3) as u8
    }
}

/// IRETQ with a frame that was popped; `context` is where the instruction is executed (SDM Vol. 2A,
/// IRET, from `PROTECTED-MODE-RETURN` on, and `IA-32e-MODE-RETURN`).
///
/// # Errors
///
/// #GP, #NP or #SS, a page fault.
pub fn check_return(
    cpu: &VirtualCpu,
    context: &Context,
    frame: &Frame,
    host: &mut impl Host,
) -> Result<ReturnTo, Exception> {
    if context.rflags & flags::NESTED != 0 {
        return Err(Exception::PROTECTION);
    }
    let Target { rip, long } = check_return_address(cpu, context.cpl(), Selector::of(frame.cs), frame.rip, host)?;
    let (cs, ss) = (Selector::of(frame.cs), Selector::of(frame.ss));
    let stack = cpu.check_stack_segment(ss, cs.rpl(), long, host)?;
    let rsp = if long { frame.rsp } else { stack.stack_pointer(context.rsp, frame.rsp) };
    let rflags = context.rflags & !flags_of_iret(context) | frame.rflags & flags_of_iret(context) | flags::FIXED;
    Ok(ReturnTo { frame: Frame { rip, cs: u64::from(cs.0), rflags, rsp, ss: u64::from(ss.0) }, long })
}

/// Where code goes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    /// RIP as it becomes: code that is not of 64 bits has an EIP.
    pub(super) rip: u64,
    /// Whether that is 64-bit code.
    pub(super) long: bool,
}

/// Far RET, the part that IRET shares: where it may go.
///
/// # Errors
///
/// #GP or #NP, a page fault.
pub(super) fn check_return_address(
    cpu: &VirtualCpu,
    cpl: u8,
    cs: Selector,
    rip: u64,
    host: &mut impl Host,
) -> Result<Target, Exception> {
    let code = code_segment(cpu, cs, host)?;
    let level = code.dpl();
    let reachable = if code.is_conforming() { level <= cs.rpl() } else { level == cs.rpl() };
    if cs.rpl() < cpl || !reachable {
        return Err(Exception::protection(cs));
    }
    present(cpu, cs, code, host)?;
    check_rip(code, rip)
}

/// Where a far JMP or CALL goes.
pub(super) enum FarTarget {
    /// CS and RIP as they become.
    Code(Selector, u64),
    /// A call gate.
    Gate,
}

/// Far JMP and CALL through a selector.
///
/// # Errors
///
/// #GP or #NP, a page fault.
pub(super) fn check_far(
    cpu: &VirtualCpu,
    cpl: u8,
    cs: Selector,
    rip: u64,
    host: &mut impl Host,
) -> Result<FarTarget, Exception> {
    if cs.is_null() {
        return Err(Exception::PROTECTION);
    }
    let code = cpu.descriptor(cs, host)?;
    if code.is_system() && code.kind() == system::CALL_GATE {
        return Ok(FarTarget::Gate);
    }
    let reachable = if code.is_conforming() { code.dpl() <= cpl } else { cs.rpl() <= cpl && code.dpl() == cpl };
    if !is_executable(code) || !reachable {
        return Err(Exception::protection(cs));
    }
    present(cpu, cs, code, host)?;
    let target = check_rip(code, rip)?;
    Ok(FarTarget::Code(cs.with_rpl(cpl), target.rip))
}

fn code_segment(cpu: &VirtualCpu, cs: Selector, host: &mut impl Host) -> Result<Descriptor, Exception> {
    if cs.is_null() {
        return Err(Exception::PROTECTION);
    }
    let code = cpu.descriptor(cs, host)?;
    if is_executable(code) { Ok(code) } else { Err(Exception::protection(cs)) }
}

/// L and D together are reserved (SDM Vol. 3A, 5.2.1).
const fn is_executable(code: Descriptor) -> bool {
    code.is_code() && !(code.is_long() && code.is_big())
}

fn present(cpu: &VirtualCpu, cs: Selector, code: Descriptor, host: &mut impl Host) -> Result<(), Exception> {
    if !code.is_present() {
        return Err(Exception::not_present(cs));
    }
    cpu.mark(cs, code, 1, host).map(drop)
}

fn check_rip(code: Descriptor, rip: u64) -> Result<Target, Exception> {
    let long = code.is_long();
    let rip = if long { rip } else { rip & 0xffff_ffff };
    let inside = if long { is_canonical(rip) } else { rip <= u64::from(code.limit()) };
    if inside { Ok(Target { rip, long }) } else { Err(Exception::PROTECTION) }
}

/// The flags that IRET takes from the stack.
const fn flags_of_iret(context: &Context) -> u64 {
    let privileged = if context.cpl() == 0 { flags::VIRTUAL_INTERRUPT } else { 0 };
    flags_of_popf(context) | flags::RESUME | privileged
}

/// The flags that POPF takes from the stack: IOPL is the kernel's, IF is that of who has the I/O
/// privilege.
pub(super) const fn flags_of_popf(context: &Context) -> u64 {
    let cpl = context.cpl();
    let iopl = if cpl == 0 { flags::IOPL } else { 0 };
    let interrupt = if cpl <= flags::iopl(context.rflags) { flags::INTERRUPT } else { 0 };
    flags::OF_USER | iopl | interrupt
}

/// ES, DS, FS and GS after a return from the kernel to user mode: what user mode may not hold
/// becomes null (SDM Vol. 2A, IRET, `RETURN-TO-OUTER-PRIVILEGE-LEVEL`). In 64-bit mode they are
/// null already, nearly always.
pub fn drop_privileged_segments(cpu: &VirtualCpu, host: &mut impl Host) {
    for segment in [Segment::Es, Segment::Ds, Segment::Fs, Segment::Gs] {
        let selector = Selector(host.read_segment(segment));
        if selector.is_null() {
            continue;
        }
        let stays = cpu.descriptor(selector, host).is_ok_and(|found| found.is_conforming() || found.dpl() == 3);
        if !stays {
            host.load_segment(segment, 0, None);
        }
    }
}

/// SYSCALL (SDM Vol. 2B, SYSCALL), from 64-bit code or, where the processor has it, from
/// compatibility mode (APM Vol. 3, SYSCALL). `next` is the address behind it.
///
/// # Errors
///
/// #UD if EFER.SCE is 0.
pub fn syscall(cpu: &VirtualCpu, context: &mut Context, next: u64, long: bool) -> Result<(), Exception> {
    if cpu.efer & efer::SCE == 0 {
        return Err(Exception::INVALID_OPCODE);
    }
    context.registers.rcx = next;
    context.registers.r11 = context.rflags & !flags::RESUME;
    context.rip = if long { cpu.lstar } else { cpu.cstar };
    context.rflags = context.rflags & !cpu.fmask & !flags::RESUME | flags::FIXED;
    let cs = Selector((cpu.star >> 32) as u16).with_rpl(0);
    set_flat(context, cs, cs.0.wrapping_add(8));
    Ok(())
}

/// SYSRET (SDM Vol. 2B, SYSRET), to 64-bit code or to compatibility mode.
///
/// # Errors
///
/// #UD if EFER.SCE is 0; #GP(0) outside the kernel, or if RCX is not canonical.
pub fn sysret(cpu: &VirtualCpu, context: &mut Context, long: bool) -> Result<(), Exception> {
    if cpu.efer & efer::SCE == 0 {
        return Err(Exception::INVALID_OPCODE);
    }
    let rcx = context.registers.rcx;
    if context.cpl() != 0 || (long && !is_canonical(rcx)) {
        return Err(Exception::PROTECTION);
    }
    let base = (cpu.star >> 48) as u16;
    let all = flags::OF_USER | flags::INTERRUPT | flags::IOPL | flags::VIRTUAL_INTERRUPT;
    context.rip = if long { rcx } else { rcx & 0xffff_ffff };
    context.rflags = context.registers.r11 & all | flags::FIXED;
    let cs = Selector(base.wrapping_add(if long { 16 } else { 0 })).with_rpl(3);
    set_flat(context, cs, base.wrapping_add(8) | 3);
    Ok(())
}

/// SYSENTER (SDM Vol. 2B, SYSENTER).
///
/// # Errors
///
/// #GP(0) if `IA32_SYSENTER_CS` is null.
pub fn sysenter(cpu: &VirtualCpu, context: &mut Context) -> Result<(), Exception> {
    let cs = Selector::of(cpu.sysenter_cs).with_rpl(0);
    if cs.is_null() {
        return Err(Exception::PROTECTION);
    }
    context.rip = cpu.sysenter_eip;
    context.rsp = cpu.sysenter_esp;
    context.rflags &= !(flags::INTERRUPT | flags::RESUME | flags::VIRTUAL_8086);
    set_flat(context, cs, cs.0.wrapping_add(8));
    Ok(())
}

/// SYSEXIT (SDM Vol. 2B, SYSEXIT), to 64-bit code or to compatibility mode.
///
/// # Errors
///
/// #GP(0) outside the kernel, if `IA32_SYSENTER_CS` is null, or if RCX or RDX is not canonical.
pub fn sysexit(cpu: &VirtualCpu, context: &mut Context, long: bool) -> Result<(), Exception> {
    let base = Selector::of(cpu.sysenter_cs);
    let (rip, rsp) = (context.registers.rdx, context.registers.rcx);
    if context.cpl() != 0 || base.is_null() || (long && !(is_canonical(rip) && is_canonical(rsp))) {
        return Err(Exception::PROTECTION);
    }
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    context.rip = rip & mask;
    context.rsp = rsp & mask;
    let cs = Selector(base.0.wrapping_add(if long { 32 } else { 16 })).with_rpl(3);
    set_flat(context, cs, cs.0.wrapping_add(8));
    Ok(())
}

/// The fast system calls load fixed descriptors: no table is read.
fn set_flat(context: &mut Context, cs: Selector, ss: u16) {
    context.cs = u64::from(cs.0);
    context.ss = u64::from(ss);
}
