//! The processor's registers, as far as a guest on seL4 has its own.
//!
//! The bases of a program's segments are registers of its thread, which the wedge sets when the
//! program goes on. All descriptors are seL4's, so a program can load no selector but a null one:
//! selectors are kept, and loaded by nobody.
//!
//! The kernel's GS base has to be in force while the kernel runs, for there its data of the
//! processor are. seL4 5.0.0 has no register of a thread's for it: there GS leads to the thread's
//! IPC buffer. But it takes any address for that of the buffer, as long as that is a multiple of
//! the buffer's size, whatever is mapped there, and accesses the buffer by the capability for its
//! frame. So to it the buffer is where the kernel has its data, and the wedge sees it elsewhere.
//! Address 0 means that there is no buffer; for that base, which Linux has until it knows its
//! processors, stands [`INSTEAD_OF_0`], so far above which its data are mapped once more. A
//! program's base can be anything, and is not in force there.

use core::arch::asm;
use core::sync::atomic::Ordering;

use wedge::cpu::{ControlRegister, CpuidResult, DescriptorTable, FloatingPoint, Segment, VirtualCpu};
use wedge::vm::{self, Space};
use wedge::x86::control::debug;
use wedge::x86::segment::Descriptor;

use super::abi::{Version, abi, version};
use super::cpu::CPU;
use super::floating::Registers;
use super::kernel::{Kernel, Slot, initial};
use super::tables::Tables;
use crate::runtime::{say, timestamp};

/// The registers.
#[derive(Debug)]
pub(super) struct Processor {
    /// ES, DS, FS and GS.
    selectors: [u16; 4],
    debug: [u64; 8],
    pub(super) fs_base: u64,
    /// The GS bases: of the kernel, and of the program.
    gs_bases: [u64; 2],
    /// The log has been told that breakpoints do not break,
    told: bool,
    /// and that a program's GS base is not in force.
    told_of_gs: bool,
    /// What a program has accessed in vain: it may be mapped when it goes on.
    pub(super) wanted: Option<u64>,
    kernel: Kernel,
    /// The x87 and SSE registers.
    pub(super) floating_point: Registers,
    /// The frame of the IPC buffer.
    buffer: Slot,
}

/// What is in force with 5.0.0 where the kernel's GS base is 0.
pub(super) const INSTEAD_OF_0: u64 = 0x1800_0000_0000;

/// The kernel's base, of the two.
const KERNELS: usize = 0;

impl Processor {
    /// With nothing in any register; the frame of the thread's IPC buffer.
    pub(super) const fn new(kernel: Kernel, buffer: Slot) -> Self {
        Self {
            selectors: [0; 4],
            debug: debug::RESET,
            fs_base: 0,
            gs_bases: [0; 2],
            told: false,
            told_of_gs: false,
            wanted: None,
            kernel,
            floating_point: Registers::new(),
            buffer,
        }
    }

    /// Sets one of the bases, and puts it in force if it is the kernel's.
    fn set_base(&mut self, number: usize, base: u64) {
        if self.gs_bases[number] == base {
            return;
        }
        self.gs_bases[number] = base;
        if number == KERNELS {
            self.put_in_force(base);
        }
    }

    /// Puts a base of the kernel's in force.
    pub(super) fn put_in_force(&self, base: u64) {
        match version() {
            Version::V5 => {
                let words = [if base == 0 { INSTEAD_OF_0 } else { base }];
                let set = self.kernel.invoke(initial::THREAD, abi().tcb_set_ipc_buffer, &[self.buffer], &words);
                if let Err(error) = set {
                    super::end::fail(format_args!("seL4 5.0.0 cannot have {base:#x} as the kernel's GS base: {error}"));
                }
            }
            // SAFETY: seL4 lets threads use the instruction, as has been checked; the wedge does
            // not use GS.
            Version::Current => unsafe { asm!("wrgsbase {}", in(reg) base, options(nomem, nostack)) },
        }
    }

    /// The kernel is left for a program, whose GS base is the one in force: when it comes back, the
    /// other is. Whoever leaves by SWAPGS has done that already.
    pub(super) fn leave_kernel(&mut self) {
        if CPU.gs_swapped.swap(0xff, Ordering::Relaxed) == 0 {
            let [kernels, users] = self.gs_bases;
            self.set_base(KERNELS, users);
            self.gs_bases[1 - KERNELS] = kernels;
        }
    }

    /// The GS base of the program that goes on.
    pub(super) fn users_gs_base(&mut self) -> u64 {
        let base = self.gs_bases[self.number(false)];
        if base != 0 && version() == Version::V5 && !core::mem::replace(&mut self.told_of_gs, true) {
            say!("a program sets its GS base, which seL4 5.0.0 does not let it have: it reads memory at others");
        }
        base
    }

    /// The bases of FS and GS while the kernel runs,
    pub(super) const fn kernels_bases(&self) -> [u64; 2] {
        let base = self.gs_bases[KERNELS];
        [self.fs_base, if base == 0 { INSTEAD_OF_0 } else { base }]
    }

    /// and while the program does that was left.
    pub(super) const fn users_bases(&self) -> [u64; 2] {
        [self.fs_base, self.gs_bases[1 - KERNELS]]
    }

    /// A single step has ended (SDM Vol. 3B, 17.2.3, BS).
    pub(super) fn note_step(&mut self) {
        self.debug[6] |= 1 << 14;
    }

    /// Which base is meant: the one in force, or the other.
    fn number(&self, other: bool) -> usize {
        let _ = self;
        usize::from((CPU.gs_swapped.load(Ordering::Relaxed) != 0) != other)
    }

    pub(super) fn set_users_gs_base(&mut self, base: u64) {
        let number = self.number(false);
        self.set_base(number, base);
    }
}

impl vm::Processor<Tables> for Processor {
    /// Less what takes registers that seL4 does not keep for a thread, or does not enable: XSAVE
    /// and all that builds on it, and the instructions for segment bases.
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> CpuidResult {
        const XSAVE: u32 = 1 << 26 | 1 << 27;
        const ON_XSAVE: u32 = 1 << 12 | 1 << 28 | 1 << 29;
        const FSGSBASE: u32 = 1 << 0;
        const AVX2: u32 = 1 << 5;
        const AVX512: u32 = 1 << 16 | 1 << 17 | 1 << 21 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 30 | 1 << 31;
        const VECTORS: u32 = 1 << 1 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 14;
        const SYSCALL: u32 = 1 << 11;
        let result = core::arch::x86_64::__cpuid_count(leaf, subleaf);
        let mut result = CpuidResult { eax: result.eax, ebx: result.ebx, ecx: result.ecx, edx: result.edx };
        match (leaf, subleaf) {
            (1, _) => result.ecx &= !(XSAVE | ON_XSAVE),
            (7, 0) => {
                result.ebx &= !(FSGSBASE | AVX2 | AVX512);
                result.ecx &= !VECTORS;
                result.edx = 0;
            }
            (7 | 0xd, _) => result = CpuidResult::default(),
            (0x8000_0001, _) => result.edx |= SYSCALL,
            _ => {}
        }
        result
    }

    fn control_changed(&mut self, _: &VirtualCpu, _: ControlRegister, _: u64) {}

    fn flushed(&mut self, _: Option<u64>) {}

    fn load_segment(&mut self, segment: Segment, selector: u16, descriptor: Option<u64>, _: &mut Space<Tables>) {
        self.selectors[segment as usize] = selector;
        let base = descriptor.map(|descriptor| u64::from(Descriptor(descriptor).base()));
        match (segment, base) {
            (Segment::Fs, Some(base)) => self.fs_base = base,
            (Segment::Gs, Some(base)) => self.set_gs_base(false, base),
            _ => {}
        }
    }

    fn read_segment(&mut self, segment: Segment) -> u16 {
        self.selectors[segment as usize]
    }

    fn fs_base(&mut self) -> u64 {
        self.fs_base
    }

    fn set_fs_base(&mut self, base: u64) {
        self.fs_base = base;
    }

    fn gs_base(&mut self, other: bool) -> u64 {
        self.gs_bases[self.number(other)]
    }

    fn set_gs_base(&mut self, other: bool, base: u64) {
        let number = self.number(other);
        self.set_base(number, base);
    }

    fn swap_gs(&mut self) {
        CPU.gs_swapped.fetch_xor(0xff, Ordering::Relaxed);
    }

    fn tables_changed(&mut self, _: &VirtualCpu, _: DescriptorTable, _: &mut Space<Tables>) {}

    fn debug_register(&mut self, number: u8) -> u64 {
        self.debug[usize::from(number & 7)]
    }

    /// They are kept, but nothing stops at an address that is in one.
    fn set_debug_register(&mut self, number: u8, value: u64) -> bool {
        const ENABLED: u64 = 0xff;
        if number == 7 && value & ENABLED != 0 && !core::mem::replace(&mut self.told, true) {
            say!("the guest sets breakpoints in debug registers, which seL4 keeps for itself: they do not break");
        }
        self.debug[usize::from(number & 7)] = value;
        true
    }

    fn time_stamp(&mut self) -> u64 {
        timestamp()
    }

    /// There is none: CPUID has no XSAVE.
    fn set_xcr0(&mut self, _: u64) {}

    fn save_floating_point(&mut self, state: &mut FloatingPoint, wide: bool, space: &mut Space<Tables>) -> bool {
        if let Err(failure) = self.floating_point.save(state, wide, &mut space.memory) {
            super::end::fail(format_args!("{failure}"));
        }
        true
    }

    fn load_floating_point(&mut self, state: &FloatingPoint, wide: bool, space: &mut Space<Tables>) {
        self.floating_point.load(state, wide);
        space.memory.kept = self.floating_point.holder();
    }
}
