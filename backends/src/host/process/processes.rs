//! The processes that this one has made: they end with it, and their ends are waited for.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

use linux_raw_sys::errno::{EFAULT, EINTR};
use linux_raw_sys::general as raw;
use wedge::x86::segment::Descriptor;

use super::areas::SET_THREAD_AREA;
use super::cpu::CPU;
use super::descriptions::description;
use super::locals::Given;
use super::system::{self, Errno, call};
use crate::host::soft::SPACES;

/// All processes that have been made; 0 where there is none. One is the network, and one serves
/// directories.
static PROCESSES: [AtomicU32; SPACES + 3] = [const { AtomicU32::new(0) }; SPACES + 3];

/// Notes one, so that it ends with this.
pub(super) fn note(process: u32) {
    replace(0, process);
}

/// It is not there any more.
pub(super) fn forget(process: u32) {
    replace(process, 0);
}

fn replace(old: u32, new: u32) {
    if let Some(place) = PROCESSES.iter().find(|place| place.load(Ordering::Relaxed) == old) {
        place.store(new, Ordering::Relaxed);
    }
}

/// Ends all processes, and waits until they are gone.
pub(super) fn end_all() {
    const ANY: u64 = u64::MAX;
    for process in &PROCESSES {
        match process.load(Ordering::Relaxed) {
            0 => {}
            process => system::signal(process, raw::SIGKILL),
        }
    }
    // SAFETY: nothing is to be written. Each end is told by a signal, too, which interrupts.
    let wait = || unsafe { call(raw::__NR_wait4, [ANY, 0, raw::__WALL.into(), 0, 0, 0]) };
    while matches!(wait(), Ok(_) | Err(Errno(EINTR))) {}
}

/// The status of a process that has ended (`wait4(2)`).
pub(super) fn reap(process: u32, options: u32) -> Option<u32> {
    let mut status = 0_u32;
    let place = (&raw mut status).addr() as u64;
    loop {
        // SAFETY: it writes to `status`.
        match unsafe { call(raw::__NR_wait4, [process.into(), place, options.into(), 0, 0, 0]) } {
            Err(Errno(EINTR)) => {}
            Err(_) | Ok(0) => return None,
            // SAFETY: written by Linux.
            Ok(_) => return Some(unsafe { (&raw const status).read_volatile() }),
        }
    }
}

/// The status of a program's process, if it has ended. Its number is sent no signal any more, for
/// Linux may give it to another.
pub(super) fn reap_program(process: u32) -> Option<u32> {
    let running = CPU.running.swap(0, Ordering::SeqCst);
    let status = reap(process, raw::WNOHANG);
    if status.is_none() {
        CPU.running.store(running, Ordering::SeqCst);
    }
    status
}

/// Whether Linux has thread areas, and with them the system calls of 32-bit programs
/// (`CONFIG_IA32_EMULATION`): a child tries, for where there is none it ends by that.
pub(super) fn has_thread_areas() -> bool {
    const CORE: u64 = 4;
    let Ok(child) = system::fork() else { return false };
    if child == 0 {
        let nothing = [0_u64; 2];
        let result: i64;
        // SAFETY: it reads `nothing`; at address 0 there is no description.
        unsafe {
            let _ = call(raw::__NR_setrlimit, [CORE, (&raw const nothing).addr() as u64, 0, 0, 0, 0]);
            asm!(
                "xchg {place}, rbx", "int 0x80", "xchg {place}, rbx",
                place = inout(reg) 0_u64 => _,
                inout("rax") i64::from(SET_THREAD_AREA) => result,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _,
                options(nostack),
            );
        }
        system::exit(u8::from(result != -i64::from(EFAULT)));
    }
    reap(child, 0) == Some(0)
}

/// What Linux gives programs in local descriptor tables, if it has any
/// (`CONFIG_MODIFY_LDT_SYSCALL`): a child tries, for it is given a table by that.
pub(super) fn given_in_local_tables() -> Option<Given> {
    let child = system::fork().ok()?;
    if child == 0 {
        const NARROW: Descriptor = Descriptor(0x0000_f300_0000_ffff);
        const WIDE: Descriptor = Descriptor(0x0040_f300_0000_ffff);
        let is_taken = |descriptor| system::set_local(&description(0, descriptor)).is_ok();
        system::exit(u8::from(is_taken(WIDE)) | u8::from(is_taken(NARROW)) << 1);
    }
    match reap(child, 0)? >> 8 {
        1 => Some(Given { narrow: false }),
        3 => Some(Given { narrow: true }),
        _ => None,
    }
}

/// Whether a process has ended.
pub(super) fn has_ended(process: u32) -> bool {
    reap(process, raw::WNOHANG).is_some()
}
