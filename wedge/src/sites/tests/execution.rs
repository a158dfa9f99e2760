//! Rewritten sites, executed: those that a user program may execute, in its own memory.
#![expect(unsafe_code, reason = "maps memory and executes what was written there")]

use std::ffi::c_void;
use std::sync::atomic::Ordering;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::ptr;
use std::slice;

use super::*;
use crate::vm::port::PORT;

pub(super) const SIZE: usize = 0x4000;
pub(super) const STUBS_AT: usize = 0x1000;
pub(super) const DATA_AT: usize = 0x3000;
pub(super) const ROUTINES_AT: usize = 0x3800;

/// Executable memory: program, stubs, counters or other data, routines that stubs call.
pub(super) struct Arena(pub(super) *mut u8);

impl Arena {
    pub(super) fn new() -> Self {
        let protection = ProtFlags::READ | ProtFlags::WRITE | ProtFlags::EXEC;
        // SAFETY: an anonymous mapping at an address of the system's choice touches nothing that
        // exists.
        let memory = unsafe { mmap_anonymous(ptr::null_mut(), SIZE, protection, MapFlags::PRIVATE) };
        Self(memory.unwrap().cast())
    }

    pub(super) fn address(&self) -> u64 {
        self.0.addr() as u64
    }

    /// Some of its bytes. They must not be referred to otherwise.
    #[expect(clippy::mut_from_ref, reason = "the memory is not the arena's own")]
    pub(super) fn part(&self, place: Range<usize>) -> &mut [u8] {
        assert!(place.start <= place.end && place.end <= SIZE);
        // SAFETY: all of it is in the mapping, readable and writable, and the caller refers to it
        // only once.
        unsafe { slice::from_raw_parts_mut(self.0.map_addr(|first| first + place.start), place.len()) }
    }

    /// Runs what is at its start, which must keep to the System V calling convention.
    pub(super) fn run(&self) -> Returned {
        // SAFETY: that is what the program does: two words are returned in RAX and RDX, and of the
        // registers that a callee has to keep, RBX and RBP are pushed and popped, and the others
        // not written.
        unsafe {
            let program: extern "sysv64" fn() -> Returned = core::mem::transmute(self.0);
            program()
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference to it outlives the arena.
        unsafe { munmap(self.0.cast(), SIZE).unwrap() };
    }
}

/// What the program has seen.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// The status flags behind the site.
    flags: u64,
    /// RAX behind the site.
    rax: u64,
    /// What the site's counter says after one run.
    count: u64,
    /// Whether it ran in a stub.
    stub: bool,
}

/// What is returned in registers (System V psABI, 3.2.3: two words of class INTEGER).
#[repr(C)]
pub(super) struct Returned {
    pub(super) rax: u64,
    pub(super) rdx: u64,
}

/// The status flags (SDM Vol. 1, 3.4.3).
pub(super) const STATUS: u64 = 0x8d5;

/// Runs a site with these flags and this RAX in front of it.
fn run(mode: Mode, planned: &Planned, setup: &[u8], teardown: &[u8], flags: u64) -> Seen {
    let arena = Arena::new();
    // push %rbx; push %rbp; the setup; push $flags; popfq
    let mut program = [&[0x53, 0x55][..], setup, &[0x68]].concat();
    program.extend(u32::try_from(flags | 0x202).unwrap().to_le_bytes());
    program.push(0x9d);
    let site = program.len();
    program.extend(planned.padded());
    // pushfq; the teardown; pop %rdx; pop %rbp; pop %rbx; ret: the flags in RDX, the other half of
    // what is returned
    program.extend([&[0x9c][..], teardown, &[0x5a, 0x5d, 0x5b, 0xc3]].concat());

    let text = arena.part(0..STUBS_AT);
    let stubs = arena.part(STUBS_AT..DATA_AT);
    let counters = arena.0.map_addr(|first| first + DATA_AT).cast::<c_void>().cast::<AtomicU64>();
    // SAFETY: in the mapping, aligned to a page, and referred to by nobody else; a counter may be
    // zero.
    let counters = unsafe { slice::from_raw_parts(counters, 8) };
    let hook = arena.part(ROUTINES_AT..ROUTINES_AT + 3);
    hook.copy_from_slice(&[0xb0, 0x5a, 0xc3]); // mov $0x5a, %al; ret
    text[..program.len()].copy_from_slice(&program);
    let site = planned.at(arena.address() + site as u64);
    let hook = arena.address() + ROUTINES_AT as u64;
    let memory = Memory {
        sites: &mut [None; 1],
        stubs: stubs.as_chunks_mut().0,
        stubs_address: arena.address() + STUBS_AT as u64,
        counters,
        counters_address: arena.address() + DATA_AT as u64,
        snapshot: &mut [0; 1],
        order: &mut [0; 1],
    };
    let hooks = Hooks { port: hook, flush: hook, descriptor: hook, fault: hook, ret: hook };
    let mut engine = Engine::new(mode, hooks, memory);
    let address = arena.address();
    assert_eq!(engine.add(&site, &mut Piece { bytes: text, address }), Ok(Ok(())));
    let stub = engine.sites().any(|(_, entry)| entry.form() == Form::Jump);

    let returned = arena.run();
    Seen { flags: returned.rdx & STATUS, rax: returned.rax, count: counters[0].load(Ordering::Relaxed), stub }
}

/// All combinations of the status flags.
pub(super) fn combinations() -> impl Iterator<Item = u64> {
    (0..64).map(|bits| [0, 2, 4, 6, 7, 11].iter().enumerate().map(|(bit, flag)| (bits >> bit & 1) << flag).sum())
}

/// `mov $value, %eax; xor %ecx, %ecx`
pub(super) fn registers(value: u32) -> Vec<u8> {
    [&[0xb8][..], &value.to_le_bytes(), &[0x31, 0xc9]].concat()
}

#[test]
fn a_site_keeps_flags_and_registers_and_is_counted() {
    for mode in Mode::ALL {
        for (live, flags) in combinations().map(|flags| (LiveFlags::all(), flags)).chain([(LiveFlags::empty(), 0)]) {
            // pushfq; pop %rbx reads the flags; mov %ds, %ebx and lsl and rdtsc change none or one.
            for bytes in [&[0x9c, 0x5b][..], &[0x8c, 0xdb], &[0x41, 0x8c, 0xc8]] {
                let seen = run(mode, &Planned::new(bytes, Flags::empty(), live), &registers(0x1234_5678), &[], flags);
                let expected = Seen {
                    flags: if live.is_empty() { seen.flags } else { flags },
                    rax: 0x1234_5678,
                    count: u64::from(mode == Mode::Profile),
                    stub: mode != Mode::Native,
                };
                assert_eq!(seen, expected, "{mode} {bytes:02x?} {flags:#x}");
            }
        }
    }
}

#[test]
fn a_site_that_stores_the_flags_stores_the_right_ones() {
    for mode in Mode::ALL {
        for (live, flags) in combinations().flat_map(|flags| [(LiveFlags::all(), flags), (LiveFlags::empty(), flags)]) {
            // pushfq; pop %rax at the site
            let seen = run(mode, &Planned::new(&[0x9c, 0x58], Flags::empty(), live), &registers(0), &[], flags);
            assert_eq!(seen.rax & STATUS, flags, "{mode} {live:?}");
        }
    }
}

#[test]
fn a_site_that_loads_the_flags_loads_them_all() {
    for mode in Mode::ALL {
        for flags in combinations() {
            // push %rax; popfq at the site
            let planned = Planned::new(&[0x50, 0x9d], Flags::empty(), LiveFlags::all());
            let seen = run(mode, &planned, &registers(u32::try_from(flags | 0x202).unwrap()), &[], flags ^ STATUS);
            assert_eq!((seen.flags, seen.count), (flags, u64::from(mode == Mode::Profile)), "{mode}");
        }
    }
}

#[test]
fn an_instruction_does_the_same_in_its_stub() {
    for mode in Mode::ALL {
        // cpuid with EAX = 0: the largest leaf in EAX, and it is on the stack of no one
        let [direct, site] = [Mode::Native, mode].map(|mode| {
            run(mode, &Planned::new(&[0x0f, 0xa2], Flags::empty(), LiveFlags::all()), &registers(0), &[], 0)
        });
        assert_eq!(direct.rax, site.rax);
        let rdtsc = Planned::new(&[0x0f, 0x31], Flags::empty(), LiveFlags::all());
        // or %rdx, %rax
        assert_ne!(run(mode, &rdtsc, &registers(0), &[0x48, 0x09, 0xd0], 0).rax, 0);
    }
}

#[test]
fn the_wedge_answers_its_port() {
    for mode in Mode::ALL {
        for (live, flags) in combinations().flat_map(|flags| [(LiveFlags::all(), flags), (LiveFlags::empty(), flags)]) {
            let [low, high] = PORT.to_le_bytes();
            let port = [&[0xba, low, high, 0, 0][..], &registers(0x1200)].concat(); // mov $PORT, %edx
            let seen = run(mode, &Planned::new(&[0xec], Flags::empty(), live), &port, &[], flags);
            assert_eq!((seen.rax, seen.stub), (0x125a, true), "{mode}");
            if !live.is_empty() {
                assert_eq!(seen.flags, flags, "{mode}");
            }
        }
    }
}

#[test]
fn a_hook_is_called_before_a_fault_and_keeps_the_stack() {
    // mov %ds, 8(%rsp) with RSP as it was, and what the hook returned in AL
    let setup = [&[0x6a, 0x00, 0x6a, 0x00][..], &registers(0)].concat();
    // mov 16(%rsp), %cx; add $16 is done by popping what was pushed: pop %rdx; pop %rcx; pop %rcx;
    // push %rdx
    let teardown = [0x5a, 0x59, 0x59, 0x52];
    let planned = Planned::new(&[0x8c, 0x5c, 0x24, 0x08], Flags::EXTABLE, LiveFlags::all());
    for (mode, rax) in [(Mode::Native, 0), (Mode::Identity, 0x5a), (Mode::Profile, 0x5a)] {
        assert_eq!(run(mode, &planned, &setup, &teardown, 0x41).rax, rax, "{mode}");
    }
}
