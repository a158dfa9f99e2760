//! The copies of programs' text with [`calls`](super::calls) that have been changed, in memory.
//!
//! A copy is for one page of the guest's memory at one address. It is found by these, and kept when
//! Linux's mappings go, as they do whenever the space changes.

use core::sync::atomic::Ordering;

use linux_raw_sys::general as raw;
use wedge::x86::paging::PAGE;

use super::calls::{self, COUNT, Form, Heat, POINTER, POINTERS, POINTERS_END, SYSCALL_LENGTH, TRAMPOLINE, Text};
use super::cpu::CPU;
use super::entry::process_system_call;
use super::memory::{Memory, READ_AND_WRITE, pointer};
use super::system::{self, Answer, File};
use crate::host::seen::Seen;
use crate::runtime::exclusive::Exclusive;

/// Where the copies are, and behind them the originals.
const COPIES: u64 = 0x7580_0000_0000;
/// The trampolines, and in front of them a pointer to the entry point.
const TRAMPOLINES: u64 = 0x75c0_0000_0000;
const FIRST: u64 = TRAMPOLINES + PAGE;
const TRAMPOLINES_END: u64 = FIRST + COUNT as u64 * TRAMPOLINE;

/// How many pages may have a copy.
const PAGES: usize = 1024;
const ALL: u64 = PAGES as u64 * PAGE;

/// What a copy is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Of {
    address: u64,
    physical: u64,
}

/// The copies.
#[derive(Debug)]
pub(super) struct Copies {
    file: File,
    pages: &'static mut [Option<Of>; PAGES],
    /// How many trampolines are in use.
    used: usize,
    heat: &'static mut Heat,
}

/// What they are made of, which is too long for the stack.
static ROOM: Exclusive<([Option<Of>; PAGES], Heat)> = Exclusive::new(([None; PAGES], Heat::NONE));

/// What must not be mapped any more when a call may have been changed, beside the page that it is
/// in.
pub(super) enum Dropped {
    /// Nothing.
    None,
    /// The page at an address, which has lost its copy.
    Page(u64),
    /// Everything: there is no room, and all copies have been forgotten.
    All,
}

/// Maps the trampolines, also where none of them will be used: a program may jump there.
///
/// # Errors
///
/// When Linux does not give the memory.
pub(super) fn map_trampolines() -> Answer {
    const ALL_RIGHTS: u32 = READ_AND_WRITE | raw::PROT_EXEC;
    // SAFETY: nothing is there.
    unsafe {
        system::map(TRAMPOLINES, TRAMPOLINES_END - TRAMPOLINES, ALL_RIGHTS, None)?;
        pointer::<u64>(TRAMPOLINES).write(process_system_call as *const () as u64);
    }
    Ok(())
}

impl Copies {
    /// Without any; the trampolines are mapped.
    ///
    /// # Errors
    ///
    /// When Linux does not give the memory; the pointers have to lie at low addresses.
    pub(super) fn new() -> Answer<Self> {
        let file = File::memory(c"afterburner text", 2 * ALL)?;
        // SAFETY: nothing is there.
        unsafe {
            system::map(COPIES, 2 * ALL, READ_AND_WRITE, Some((file, 0)))?;
            system::map(POINTERS, POINTERS_END - POINTERS, READ_AND_WRITE, None)?;
        }
        let (pages, heat) = ROOM.take();
        Ok(Self { file, pages, used: 0, heat })
    }

    /// The copy of a page, if there is one that is as the page is now: a file, and where in it.
    pub(super) fn copy_of(&mut self, address: u64, physical: u64, memory: Memory) -> Option<(File, u64)> {
        let of = Of { address, physical };
        let place = place_of(of);
        if self.pages[place] != Some(of) {
            return None;
        }
        if original(place) != page(memory, physical)? {
            self.pages[place] = None;
            return None;
        }
        Some((self.file, place as u64 * PAGE))
    }

    /// A call has been made that returns to `next`. Whether it is worth while to change it.
    pub(super) fn is_warm(&mut self, next: u64) -> bool {
        CPU.system_call.load(Ordering::Relaxed) != 0 && self.heat.note(next)
    }

    /// Changes a call of this number, which returns to `next`, in a page of the guest's memory, if
    /// that can be done.
    pub(super) fn change(&mut self, next: u64, number: u64, physical: u64, memory: Memory) -> Dropped {
        let at = next.wrapping_sub(SYSCALL_LENGTH);
        let of = Of { address: at & !(PAGE - 1), physical };
        let place = place_of(of);
        let Some(now) = page(memory, physical) else { return Dropped::None };
        let old = self.pages[place].filter(|old| *old != of);
        let (copy, kept) = (copy(place), original(place));
        if self.pages[place] != Some(of) || kept != now {
            kept.copy_from_slice(now);
            copy.copy_from_slice(now);
            self.pages[place] = None;
        }
        let offset = (at % PAGE) as usize;
        if let Some(form) = calls::form(copy, kept, offset, number) {
            if self.used == COUNT {
                self.forget();
                return Dropped::All;
            }
            let trampoline = self.add_trampoline(form, number, next);
            calls::write(copy, offset, form, trampoline);
            self.pages[place] = Some(of);
        }
        old.map_or(Dropped::None, |old| Dropped::Page(old.address))
    }

    /// A trampoline: the address of the pointer to it.
    fn add_trampoline(&mut self, form: Form, number: u64, next: u64) -> u32 {
        let place = FIRST + self.used as u64 * TRAMPOLINE;
        let to = POINTERS + self.used as u64 * POINTER;
        self.used += 1;
        let code = calls::trampoline(form, number, next, TRAMPOLINES.wrapping_sub(place) as i32);
        // SAFETY: both are the wedge's, and no jump leads there yet.
        unsafe {
            pointer::<[u8; TRAMPOLINE as usize]>(place).write(code);
            pointer::<u64>(to).write(place);
        }
        to as u32
    }

    /// Forgets all copies. None of them may be mapped any more.
    pub(super) fn forget(&mut self) {
        self.pages.fill(None);
        self.used = 0;
    }
}

/// The call that a program was interrupted in the trampoline of, by its address: the number, if RAX
/// does not have it yet, and the address behind it.
pub(super) fn at_trampoline(rip: u64) -> Option<(Option<u64>, u64)> {
    (FIRST..TRAMPOLINES_END).contains(&rip).then(|| {
        let place = rip - (rip - FIRST) % TRAMPOLINE;
        // SAFETY: `map_trampolines` has mapped them before any program runs in this process, and
        // any bytes are valid.
        calls::of_trampoline(unsafe { &*pointer(place) })
    })
}

fn place_of(of: Of) -> usize {
    ((of.address / PAGE) ^ (of.physical / PAGE)) as usize % PAGES
}

fn copy(place: usize) -> &'static mut Text {
    // SAFETY: mapped by `new`; there is one reference at a time, and no program writes there.
    unsafe { &mut *pointer(COPIES + place as u64 * PAGE) }
}

fn original(place: usize) -> &'static mut Text {
    // SAFETY: as above.
    unsafe { &mut *pointer(COPIES + ALL + place as u64 * PAGE) }
}

/// A page of the guest's memory.
fn page(memory: Memory, physical: u64) -> Option<&'static Text> {
    // SAFETY: the guest does not run, and any bytes are valid.
    memory.range(physical, PAGE).map(|place| unsafe { &*place.cast() })
}
