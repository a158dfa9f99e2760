//! The mother of all stub processes, up to its first stop: what it sets up is what all of them
//! have, a stack for signals, the handler, the filter.

use linux_raw_sys::general as raw;
use linux_raw_sys::prctl::{PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG};
use linux_raw_sys::ptrace as tracing;

use super::memory::{READ_AND_WRITE, STUB};
use super::processes::has_ended;
use super::stub::{self, FILTER, SIGNALS, STACK, STACK_LENGTH};
use super::system::{self, Answer, Errno, File, call};
use crate::runtime::{PAGE, say};

/// Makes the mother (`fork(2)`), who has the same descriptors as this process, so that the listener
/// is one of its, too. Her stack is at an offset of the file.
///
/// CPUID is refused to her and to all that are made of her, where the processor can do that: it is
/// refused to this process while it makes her, for a copy has what its original has (Linux,
/// `TIF_NOCPUID`). No filter has to allow the call then.
pub(super) fn start(file: File, stack: u64) -> Answer<u32> {
    let flags = u64::from(raw::CLONE_FILES | raw::SIGCHLD);
    let parent = system::process();
    if system::refuse_cpuid(true).is_err() {
        say!("programs see what CPUID says of the real processor: it cannot be refused to them (CPUID faulting)");
    }
    // SAFETY: the new process does nothing with the memory that it has in common with this one.
    let child = unsafe { call(raw::__NR_clone, [flags, 0, 0, 0, 0, 0]) };
    if child != Ok(0) {
        // Without it, there was nothing to be taken back.
        let _ = system::refuse_cpuid(false);
    }
    let child = child? as u32;
    if child == 0 {
        if let Err(Errno(error)) = become_mother(file, stack, parent) {
            say_listener(u64::from(error) | REFUSED);
        }
        system::exit(1);
    }
    Ok(child)
}

/// Marks what is said of a listener that there is not.
const REFUSED: u64 = 1 << 32;

/// Says, from the mother to this process, which file the listener is.
fn say_listener(word: u64) {
    // SAFETY: the page is mapped for this.
    unsafe { stub::word().write_volatile(word + 1) };
}

/// Waits until the mother has made the listener.
///
/// # Errors
///
/// When Linux refuses the mother something; `None` if the mother has ended.
pub(super) fn wait_for_listener(mother: u32) -> Result<File, Option<Errno>> {
    const SHORT: u64 = 20_000;
    loop {
        // SAFETY: as above.
        match unsafe { stub::word().read_volatile() } {
            0 if has_ended(mother) => return Err(None),
            0 => _ = system::wait_for(&mut [], Some(SHORT)),
            word if word & REFUSED != 0 => {
                return Err(Some(Errno((word - 1) as u32)));
            }
            word => return Ok(File((word - 1) as u32)),
        }
    }
}

/// What the mother does first: from then on it is in the handler.
fn become_mother(file: File, stack: u64, parent: u32) -> Answer {
    const CORE: u64 = 4;
    // SAFETY: nothing is written but the process's own state. What is mapped is nobody's.
    unsafe {
        call(raw::__NR_prctl, [PR_SET_PDEATHSIG.into(), raw::SIGKILL.into(), 0, 0, 0, 0])?;
        if call(raw::__NR_getppid, [0; 6])? != u64::from(parent) {
            system::exit(1);
        }
        // No part of it goes to whoever collects what is left of programs.
        call(raw::__NR_prctl, [PR_SET_DUMPABLE.into(), 0, 0, 0, 0, 0])?;
        call(raw::__NR_setrlimit, [CORE, (&raw const NOTHING).addr() as u64, 0, 0, 0, 0])?;
        system::map(STACK.start, STACK_LENGTH, READ_AND_WRITE, Some((file, stack)))?;
        system::map(STUB, PAGE, raw::PROT_READ | raw::PROT_EXEC, Some((file, 0)))?;
        call(raw::__NR_sigaltstack, [stub::stack(), 0, 0, 0, 0, 0])?;
        for number in SIGNALS {
            system::handle(number, stub::handler(), stub::handler(), u64::MAX)?;
        }
        call(raw::__NR_prctl, [PR_SET_NO_NEW_PRIVS.into(), 1, 0, 0, 0, 0])?;
        let mode = u64::from(tracing::SECCOMP_SET_MODE_FILTER);
        let listener =
            call(raw::__NR_seccomp, [mode, tracing::SECCOMP_FILTER_FLAG_NEW_LISTENER.into(), FILTER, 0, 0, 0])?;
        say_listener(listener);
        call(raw::__NR_getppid, [0; 6]).map(drop)
    }
}

/// A limit of nothing (`setrlimit(2)`).
static NOTHING: [u64; 2] = [0; 2];
