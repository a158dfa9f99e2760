//! Delivery of exceptions and interrupts in 64-bit mode (SDM Vol. 3A, 6.12.1 and 6.14).
//!
//! This is the hottest path of the virtual CPU: each page fault, interrupt and system call by INT
//! of the guest takes it. So it reads the guest's tables once each, writes the frame in one piece,
//! and allocates nothing.
//!
//! Nothing is changed before the frame has been written, so that a delivery which fails leaves the
//! context as it was, and what it failed with is delivered instead: a page fault on the stack of a
//! kernel that is out of it, for instance, ends in the double-fault handler on its own stack, which
//! is how Linux reports it.

use super::{Context, Exception, Host, VirtualCpu, is_canonical, memory};
use crate::x86::segment::Selector;
use crate::x86::{flags, vector};

/// What is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An exception; the saved RIP is the context's.
    Exception(Exception),
    /// An external interrupt.
    Interrupt(u8),
    /// INT n or INT3.
    Software {
        /// The vector.
        vector: u8,
        /// The address behind the instruction.
        return_rip: u64,
    },
}

/// A fault while a double fault was delivered: the CPU stops until it is reset (SDM Vol. 3A, 6.15,
/// interrupt 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shutdown;

/// Delivers an event: the context is then at the first instruction of the handler.
///
/// # Errors
///
/// A triple fault.
pub fn deliver(
    cpu: &mut VirtualCpu,
    context: &mut Context,
    event: Event,
    host: &mut impl Host,
) -> Result<(), Shutdown> {
    let mut event = event;
    loop {
        let Err(fault) = attempt(cpu, context, event, host) else { return Ok(()) };
        event = Event::Exception(after(event, fault)?);
    }
}

/// Delivers INT n or INT3, as the instruction: what goes wrong is an exception of its own.
///
/// # Errors
///
/// #GP or #NP for the gate, and all that a delivery can raise.
pub fn software_interrupt(
    cpu: &mut VirtualCpu,
    context: &mut Context,
    vector: u8,
    return_rip: u64,
    host: &mut impl Host,
) -> Result<(), Exception> {
    attempt(cpu, context, Event::Software { vector, return_rip }, host)
}

/// Classes of exceptions (SDM Vol. 3A, table 6-4).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Severity {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

const fn severity(event: Event) -> Severity {
    let Event::Exception(Exception { vector, .. }) = event else { return Severity::Benign };
    match vector {
        vector::PAGE_FAULT | vector::VIRTUALIZATION => Severity::PageFault,
        vector::DOUBLE_FAULT => Severity::DoubleFault,
        _ if vector::CONTRIBUTORY.contains(vector) => Severity::Contributory,
        _ => Severity::Benign,
    }
}

/// What is delivered when the delivery of an event has failed (SDM Vol. 3A, table 6-5).
fn after(event: Event, fault: Exception) -> Result<Exception, Shutdown> {
    let first = severity(event);
    let second = severity(Event::Exception(fault));
    match (first, second) {
        (_, Severity::Benign) | (Severity::Benign, _) | (Severity::Contributory, Severity::PageFault) => Ok(fault),
        (Severity::DoubleFault, _) => Err(Shutdown),
        _ => Ok(Exception::DOUBLE_FAULT),
    }
}

/// One attempt. An error code tells whether the event came from outside the program (EXT; SDM Vol.
/// 3A, 6.13).
fn attempt(cpu: &mut VirtualCpu, context: &mut Context, event: Event, host: &mut impl Host) -> Result<(), Exception> {
    let external = !matches!(event, Event::Software { .. });
    if let Event::Exception(Exception { address: Some(address), .. }) = event {
        cpu.cr2 = address;
    }
    let Err(fault) = enter(cpu, context, event, host) else { return Ok(()) };
    match fault.address {
        // Even if it ends in a double fault: so Linux tells a stack that has overflown.
        Some(address) => {
            cpu.cr2 = address;
            Err(fault)
        }
        None => Err(Exception { error: fault.error.map(|error| error | u32::from(external)), ..fault }),
    }
}

fn enter(cpu: &VirtualCpu, context: &mut Context, event: Event, host: &mut impl Host) -> Result<(), Exception> {
    let (vector, error, return_rip) = match event {
        Event::Exception(exception) => (exception.vector, exception.error, context.rip),
        Event::Interrupt(vector) => (vector, None, context.rip),
        Event::Software { vector, return_rip } => (vector, None, return_rip),
    };
    let cpl = context.cpl();
    let gate = cpu.gate(vector, matches!(event, Event::Software { .. }).then_some(cpl), host)?;
    let level = handler_level(cpu, gate.selector, cpl, host)?;
    if !is_canonical(gate.offset) {
        return Err(Exception::PROTECTION);
    }

    let stack = match gate.stack {
        0 if level < cpl => cpu.stack_of_level(level, host)?,
        0 => context.rsp,
        number => cpu.interrupt_stack(number, host)?,
    };
    let saved_flags = context.rflags | if is_fault(event) { flags::RESUME } else { 0 };
    let frame = [return_rip, context.cs, saved_flags, context.rsp, context.ss];
    let rsp = push(stack & !0xf, error, &frame, level == 3, host)?;

    context.rsp = rsp;
    context.rip = gate.offset;
    context.cs = u64::from(gate.selector.with_rpl(level).0);
    if level < cpl {
        context.ss = u64::from(level);
    }
    let cleared = flags::TRAP | flags::NESTED | flags::RESUME | flags::VIRTUAL_8086;
    context.rflags &= !(cleared | if gate.is_interrupt { flags::INTERRUPT } else { 0 });
    Ok(())
}

/// The privilege level that a handler runs at.
fn handler_level(cpu: &VirtualCpu, selector: Selector, cpl: u8, host: &mut impl Host) -> Result<u8, Exception> {
    if selector.is_null() {
        return Err(Exception::PROTECTION);
    }
    let code = cpu.descriptor(selector, host)?;
    if !code.is_code() || code.dpl() > cpl || !code.is_long() || code.is_big() {
        return Err(Exception::protection(selector));
    }
    if !code.is_present() {
        return Err(Exception::not_present(selector));
    }
    cpu.mark(selector, code, 1, host)?;
    Ok(if code.is_conforming() { cpl } else { code.dpl() })
}

/// Writes the frame below an address, with the error code under it, in one piece.
fn push(stack: u64, error: Option<u32>, frame: &[u64; 5], user: bool, host: &mut impl Host) -> Result<u64, Exception> {
    let mut bytes = [0; 48];
    let (code, rest) = bytes.split_at_mut(8);
    code.copy_from_slice(&u64::from(error.unwrap_or(0)).to_le_bytes());
    for (slot, value) in rest.chunks_exact_mut(8).zip(frame) {
        slot.copy_from_slice(&value.to_le_bytes());
    }
    let pushed = if error.is_some() { &bytes[..] } else { &bytes[8..] };
    let rsp = stack.wrapping_sub(pushed.len() as u64);
    if !memory::is_range(rsp, pushed.len()) {
        return Err(Exception::STACK);
    }
    host.write(rsp, pushed, user)?;
    Ok(rsp)
}

/// Whether the saved RFLAGS have RF set: for all faults but #DB, which would have to say whether it
/// is one (SDM Vol. 3B, 17.3.1.1).
const fn is_fault(event: Event) -> bool {
    match event {
        Event::Exception(Exception { vector, .. }) => vector::FAULTS.contains(vector),
        _ => false,
    }
}
