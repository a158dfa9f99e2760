//! Hypercalls of a 64-bit PV guest: `syscall` with the number in RAX and arguments in RDI, RSI,
//! RDX, R10, R8 (`arch-x86/xen-x86_64.h`). No hypercall page is needed.

use core::arch::asm;

use wedge::vm::{Calls, Counts};

use super::interface::{DOMID_SELF, MmuExtended, MmuUpdate, TrapInfo, mmuext};
use crate::runtime::timestamp;

/// Declares the numbers of hypercalls, and says what each is called.
macro_rules! hypercalls {
    ($($constant:ident = $number:literal $name:literal,)*) => {
        mod number {
            $(pub(super) const $constant: u64 = $number;)*
        }

        fn name(number: usize) -> &'static str {
            match number {
                $($number => $name,)*
                _ => "hypercall",
            }
        }
    };
}

// The numbers of `xen.h`, `__HYPERVISOR_*`.
hypercalls! {
    SET_TRAP_TABLE = 0 "set_trap_table",
    MMU_UPDATE = 1 "mmu_update",
    SET_GDT = 2 "set_gdt",
    STACK_SWITCH = 3 "stack_switch",
    SET_CALLBACKS = 4 "set_callbacks",
    SET_DEBUG_REGISTER = 8 "set_debug_register",
    GET_DEBUG_REGISTER = 9 "get_debug_register",
    UPDATE_DESCRIPTOR = 10 "update_descriptor",
    UPDATE_VA_MAPPING = 14 "update_va_mapping",
    SET_TIMER_OP = 15 "set_timer_op",
    CONSOLE_IO = 18 "console_io",
    VCPU_OP = 24 "vcpu_op",
    SET_SEGMENT_BASE = 25 "set_segment_base",
    MMUEXT_OP = 26 "mmuext_op",
    SCHED_OP = 29 "sched_op",
    CALLBACK_OP = 30 "callback_op",
    EVENT_CHANNEL_OP = 32 "event_channel_op",
    PHYSDEV_OP = 33 "physdev_op",
}

/// How often each was called. IRET is not in it: where it is executed, nothing can be counted.
static COUNTS: Counts<64> = Counts::new();

/// That, with names.
pub(super) fn calls() -> Calls {
    COUNTS.calls(name)
}

/// A hypercall was refused, with this error number (`errno.h`, negative).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused(pub(super) i64);

type Answer = Result<u64, Refused>;

/// # Safety
///
/// What Xen writes to by the arguments, and what it changes in address space and registers, is the
/// caller's to change.
unsafe fn hypercall(number: u64, arguments: [u64; 5]) -> Answer {
    let [first, second, third, fourth, fifth] = arguments;
    let result: i64;
    let counted = COUNTS.begin(timestamp);
    // SAFETY: by the caller. Xen keeps all registers but these, and does not touch the stack.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            inlateout("rdi") first => _, inlateout("rsi") second => _, inlateout("rdx") third => _,
            inlateout("r10") fourth => _, inlateout("r8") fifth => _,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    COUNTS.end(number as usize, counted, timestamp);
    u64::try_from(result).map_err(|_| Refused(result))
}

/// The address of an argument.
fn address<T: ?Sized>(of: *const T) -> u64 {
    of.addr() as u64
}

/// Writes to Xen's console; a domU may not.
pub(super) fn console_write(bytes: &[u8]) -> Answer {
    // SAFETY: Xen reads the bytes (`CONSOLEIO_write`, 0).
    unsafe { hypercall(number::CONSOLE_IO, [0, bytes.len() as u64, address(bytes), 0, 0]) }
}

/// Reads from Xen's console.
pub(super) fn console_read(bytes: &mut [u8]) -> usize {
    // SAFETY: Xen writes as many bytes at most (`CONSOLEIO_read`, 1).
    let read = unsafe { hypercall(number::CONSOLE_IO, [1, bytes.len() as u64, address(bytes), 0, 0]) };
    usize::try_from(read.unwrap_or(0)).unwrap_or(0).min(bytes.len())
}

/// Sets all exception handlers; the last entry's address is 0.
///
/// # Safety
///
/// The handlers can take Xen's frames.
pub(super) unsafe fn set_trap_table(table: &[TrapInfo]) -> Answer {
    // SAFETY: by the caller; Xen reads up to the last entry.
    unsafe { hypercall(number::SET_TRAP_TABLE, [address(table), 0, 0, 0, 0]) }
}

/// Sets the stack on which the kernel is entered from user mode.
///
/// # Safety
///
/// The stack is the wedge's own.
pub(super) unsafe fn stack_switch(ss: u64, stack: u64) -> Answer {
    // SAFETY: by the caller.
    unsafe { hypercall(number::STACK_SWITCH, [ss, stack, 0, 0, 0]) }
}

/// Sets the routines for events, for failed returns, and for SYSCALL.
///
/// # Safety
///
/// As for the trap table.
pub(super) unsafe fn set_callbacks(event: u64, failsafe: u64, syscall: u64) -> Answer {
    // SAFETY: by the caller.
    unsafe { hypercall(number::SET_CALLBACKS, [event, failsafe, syscall, 0, 0]) }
}

/// Registers a callback that is entered with events masked (`callback.h`: `CALLBACKOP_register` 0,
/// `CALLBACKF_mask_events` 1).
///
/// # Safety
///
/// As for the trap table.
pub(super) unsafe fn register_callback(kind: u16, handler: u64) -> Answer {
    #[repr(C)]
    struct Register {
        kind: u16,
        flags: u16,
        handler: u64,
    }
    let register = Register { kind, flags: 1, handler };
    // SAFETY: by the caller.
    unsafe { hypercall(number::CALLBACK_OP, [0, address(&raw const register), 0, 0, 0]) }
}

/// Writes page-table entries. Returns how many were written, should not all be.
///
/// # Safety
///
/// No reference exists into memory whose mapping changes, unless it stays what it was.
pub(super) unsafe fn mmu_update(updates: &[MmuUpdate], domain: u64) -> Result<(), (usize, Refused)> {
    let mut done: u32 = 0;
    let arguments = [address(updates), updates.len() as u64, address(&raw mut done), domain, 0];
    // SAFETY: by the caller; Xen writes the count.
    match unsafe { hypercall(number::MMU_UPDATE, arguments) } {
        Ok(_) => Ok(()),
        Err(refused) => Err((done as usize, refused)),
    }
}

/// # Safety
///
/// As for [`mmu_update`].
pub(super) unsafe fn mmuext(operations: &[MmuExtended]) -> Answer {
    let arguments = [address(operations), operations.len() as u64, 0, DOMID_SELF, 0];
    // SAFETY: by the caller.
    unsafe { hypercall(number::MMUEXT_OP, arguments) }
}

/// Forgets what the TLB has of a page.
pub(super) fn flush_page(page: u64) {
    let operation = MmuExtended { command: mmuext::INVLPG_LOCAL, argument: page, argument2: 0 };
    // SAFETY: no mapping changes.
    let _ = unsafe { mmuext(&[operation]) };
}

/// Forgets all that the TLB has.
pub(super) fn flush_all() {
    let operation = MmuExtended { command: mmuext::TLB_FLUSH_LOCAL, argument: 0, argument2: 0 };
    // SAFETY: no mapping changes.
    let _ = unsafe { mmuext(&[operation]) };
}

/// Maps a page of the current address space, and flushes it from the TLB (`UVMF_INVLPG`, 2).
///
/// # Safety
///
/// As for [`mmu_update`].
pub(super) unsafe fn update_va_mapping(page: u64, entry: u64) -> Answer {
    // SAFETY: by the caller.
    unsafe { hypercall(number::UPDATE_VA_MAPPING, [page, entry, 2, 0, 0]) }
}

/// Maps a page of the current address space, and leaves the TLB alone (`UVMF_NONE`, 0).
///
/// # Safety
///
/// As for [`mmu_update`].
pub(super) unsafe fn write_va_mapping(page: u64, entry: u64) -> Answer {
    // SAFETY: by the caller.
    unsafe { hypercall(number::UPDATE_VA_MAPPING, [page, entry, 0, 0, 0]) }
}

/// Loads a descriptor table of whole frames.
///
/// # Safety
///
/// The frames hold descriptors and are nowhere mapped writable.
pub(super) unsafe fn set_gdt(frames: &[u64], entries: u64) -> Answer {
    // SAFETY: by the caller.
    unsafe { hypercall(number::SET_GDT, [address(frames), entries, 0, 0, 0]) }
}

/// Writes a descriptor at a machine address, in a table in use. Xen refuses what would be dangerous
/// to it.
pub(super) fn update_descriptor(machine_address: u64, descriptor: u64) -> Answer {
    // SAFETY: segments do not decide what Rust code sees: the wedge's own are Xen's.
    unsafe { hypercall(number::UPDATE_DESCRIPTOR, [machine_address, descriptor, 0, 0, 0]) }
}

/// Sets a debug register.
pub(super) fn set_debug_register(register: u8, value: u64) -> Answer {
    // SAFETY: a breakpoint in the wedge would be delivered as an exception, which the wedge can
    // take.
    unsafe { hypercall(number::SET_DEBUG_REGISTER, [register.into(), value, 0, 0, 0]) }
}

/// Reads a debug register. Any value may be an answer, so there is no error.
pub(super) fn get_debug_register(register: u8) -> u64 {
    // SAFETY: nothing changes.
    match unsafe { hypercall(number::GET_DEBUG_REGISTER, [register.into(), 0, 0, 0, 0]) } {
        Ok(value) => value,
        Err(Refused(value)) => value.cast_unsigned(),
    }
}

/// The segment bases that only Xen can load (`xen.h`, `SEGBASE_*`).
#[derive(Clone, Copy, Debug)]
pub(super) enum SegmentBase {
    /// FS.
    Fs = 0,
    /// GS of user mode.
    GsUser = 1,
    /// GS of kernel mode.
    GsKernel = 2,
    /// The selector of user mode's GS.
    GsUserSelector = 3,
}

/// Sets a segment base, or user mode's GS selector.
pub(super) fn set_segment_base(which: SegmentBase, value: u64) -> Answer {
    // SAFETY: the wedge uses neither FS nor GS.
    unsafe { hypercall(number::SET_SEGMENT_BASE, [which as u64, value, 0, 0, 0]) }
}

/// Asks for a timer event at a time of Xen's clock; 0 for none.
pub(super) fn set_timer(nanoseconds: u64) {
    // SAFETY: no memory is involved.
    let _ = unsafe { hypercall(number::SET_TIMER_OP, [nanoseconds, 0, 0, 0, 0]) };
}

/// Stops Xen's own periodic timer (`vcpu.h`, `VCPUOP_stop_periodic_timer` 7).
pub(super) fn stop_periodic_timer() -> Answer {
    // SAFETY: no memory is involved.
    unsafe { hypercall(number::VCPU_OP, [7, 0, 0, 0, 0]) }
}

/// Waits until one of some ports has an event or a time of Xen's clock has come, with events masked
/// (`sched.h`, `SCHEDOP_poll` 3); 0 is no time.
pub(super) fn poll(ports: &[u32], nanoseconds: u64) {
    #[repr(C)]
    struct Poll {
        ports: u64,
        count: u32,
        timeout: u64,
    }
    let poll = Poll { ports: address(ports), count: u32::try_from(ports.len()).unwrap_or(0), timeout: nanoseconds };
    // SAFETY: Xen reads the arguments.
    let _ = unsafe { hypercall(number::SCHED_OP, [3, address(&raw const poll), 0, 0, 0]) };
}

/// Lets others run (`SCHEDOP_yield` 0).
pub(super) fn yield_now() {
    // SAFETY: no memory is involved.
    let _ = unsafe { hypercall(number::SCHED_OP, [0, 0, 0, 0, 0]) };
}

/// Why a guest ends (`sched.h`, `SHUTDOWN_*`).
#[derive(Clone, Copy, Debug)]
pub(super) enum Reason {
    /// It wants to be off.
    PowerOff = 0,
    /// It wants to be started again.
    Reboot = 1,
    /// It failed.
    Crash = 3,
}

/// Ends the guest (`SCHEDOP_shutdown` 2).
pub(super) fn shutdown(reason: Reason) -> ! {
    let reason = reason as u32;
    loop {
        // SAFETY: Xen reads the reason; nothing runs afterwards.
        let _ = unsafe { hypercall(number::SCHED_OP, [2, address(&raw const reason), 0, 0, 0]) };
    }
}

/// `event_channel.h`: `EVTCHNOP_bind_virq` 1, `EVTCHNOP_bind_pirq` 2, `EVTCHNOP_send` 4.
fn event_channel_op<T>(command: u64, argument: &mut T) -> Answer {
    // SAFETY: Xen reads and writes the argument.
    unsafe { hypercall(number::EVENT_CHANNEL_OP, [command, address(&raw const *argument), 0, 0, 0]) }
}

/// Binds a virtual interrupt; returns the port.
pub(super) fn bind_virq(virq: u32) -> Result<u32, Refused> {
    let mut bind: [u32; 3] = [virq, 0, 0];
    event_channel_op(1, &mut bind)?;
    Ok(bind[2])
}

/// Binds a physical interrupt that others may share; returns the port.
pub(super) fn bind_pirq(pirq: u32) -> Result<u32, Refused> {
    let mut bind: [u32; 3] = [pirq, 1, 0];
    event_channel_op(2, &mut bind)?;
    Ok(bind[2])
}

/// Tells the other end of a port.
pub(super) fn notify(port: u32) {
    let mut send = port;
    let _ = event_channel_op(4, &mut send);
}

fn physdev_op<T>(command: u64, argument: &mut T) -> Answer {
    // SAFETY: Xen reads and writes the argument.
    unsafe { hypercall(number::PHYSDEV_OP, [command, address(&raw const *argument), 0, 0, 0]) }
}

/// Lets the kernel use I/O ports (`physdev.h`, `PHYSDEVOP_set_iopl` 6).
pub(super) fn set_iopl(level: u32) -> Answer {
    let mut level = level;
    physdev_op(6, &mut level)
}

/// Says how an interrupt line is wired (`PHYSDEVOP_setup_gsi` 21): level-triggered, active high, as
/// the PIIX3 has it.
pub(super) fn setup_gsi(line: u32) -> Answer {
    let mut setup: [u32; 2] = [line, u32::from_le_bytes([1, 0, 0, 0])];
    physdev_op(21, &mut setup)
}

/// Makes an interrupt line one of the guest's (`PHYSDEVOP_map_pirq` 13, `MAP_PIRQ_TYPE_GSI` 1).
pub(super) fn map_gsi(line: i32) -> Result<u32, Refused> {
    #[repr(C)]
    struct Map {
        domain: u16,
        kind: i32,
        index: i32,
        pirq: i32,
        bus: i32,
        device_function: i32,
        entry: i32,
        table_base: u64,
    }
    let mut map =
        Map { domain: 0x7ff0, kind: 1, index: line, pirq: line, bus: 0, device_function: 0, entry: 0, table_base: 0 };
    physdev_op(13, &mut map)?;
    u32::try_from(map.pirq).map_err(|_| Refused(i64::from(map.pirq)))
}

/// The guest has served an interrupt (`PHYSDEVOP_eoi` 12).
pub(super) fn end_of_interrupt(pirq: u32) {
    let mut pirq = pirq;
    let _ = physdev_op(12, &mut pirq);
}
