//! The processor's registers, as far as a process of Linux has its own.
//!
//! The kernel's GS base is really in force while the kernel runs, and so is the FS base of the
//! program that it runs for, for the kernel reads both by instructions of its own. The program's GS
//! base is kept here meanwhile. Selectors are kept here, too: what is in the real registers while
//! the kernel runs is nobody's, and the guest's thread areas are in the table of a program's process
//! only ([`areas`](super::areas)).

use core::arch::asm;
use core::sync::atomic::Ordering;

use wedge::cpu::{ControlRegister, CpuidResult, DescriptorTable, Segment, VirtualCpu};
use wedge::vm::{self, Space};
use wedge::x86::segment::Descriptor;

use super::areas::ThreadAreas;
use super::cpu::CPU;
use super::tables::Tables;
use crate::runtime::{say, timestamp};

/// The registers.
#[derive(Debug)]
pub(super) struct Processor {
    /// ES, DS, FS and GS.
    pub(super) selectors: [u16; 4],
    /// The GS base of the program, while the kernel runs.
    pub(super) users_gs_base: u64,
    debug: [u64; 8],
    /// The log has been told that breakpoints do not break.
    told: bool,
    /// And that what is in a local descriptor table cannot be loaded.
    told_of_table: bool,
    /// What a program has accessed in vain: it may be mapped when it goes on.
    pub(super) wanted: Option<u64>,
}

impl Processor {
    /// With nothing in any register.
    pub(super) const fn new() -> Self {
        let mut debug = [0; 8];
        (debug[6], debug[7]) = (0xffff_0ff0, 0x400);
        Self { selectors: [0; 4], users_gs_base: 0, debug, told: false, told_of_table: false, wanted: None }
    }

    /// The kernel is left for a program, whose GS base is the one in force. When it comes back, the
    /// other is really in force, and virtually what the program had.
    pub(super) fn leave_kernel(&mut self) -> u64 {
        if CPU.gs_swapped.swap(0xff, Ordering::Relaxed) == 0 {
            let active = real_gs_base();
            set_real_gs_base(core::mem::replace(&mut self.users_gs_base, active));
        }
        self.users_gs_base
    }

    /// A single step has ended (SDM Vol. 3B, 17.2.3, BS).
    pub(super) fn note_step(&mut self) {
        self.debug[6] |= 1 << 14;
    }
}

/// The FS base in force.
pub(super) fn fs_base() -> u64 {
    let base;
    // SAFETY: Linux lets programs use the instruction, as has been checked.
    unsafe { asm!("rdfsbase {}", out(reg) base, options(nomem, nostack)) };
    base
}

/// What a processor with addresses of 48 bits takes for a base, whatever a program claims to have.
pub(super) const fn canonical(base: u64) -> u64 {
    (base.cast_signed() << 16 >> 16).cast_unsigned()
}

/// A selector that a program with these thread areas can have in ES, DS, FS or GS: those that the
/// tables of this Linux do not have are none.
pub(super) fn loadable(selector: u16, areas: &ThreadAreas) -> u32 {
    const NULL: u16 = 3;
    if let Some(is_there) = areas.can_load(selector) {
        return if is_there { selector.into() } else { 0 };
    }
    let readable: u8;
    // SAFETY: it looks at a descriptor, and changes a flag.
    unsafe { asm!("verr {0:x}", "setz {1}", in(reg) selector, out(reg_byte) readable, options(nomem, nostack)) };
    if selector <= NULL || readable != 0 { selector.into() } else { 0 }
}

/// Puts an FS base in force.
pub(super) fn set_fs_base(base: u64) {
    // SAFETY: as above; the wedge does not use FS.
    unsafe { asm!("wrfsbase {}", in(reg) base, options(nomem, nostack)) };
}

fn real_gs_base() -> u64 {
    let base;
    // SAFETY: as above.
    unsafe { asm!("rdgsbase {}", out(reg) base, options(nomem, nostack)) };
    base
}

fn set_real_gs_base(base: u64) {
    // SAFETY: as above; the wedge does not use GS.
    unsafe { asm!("wrgsbase {}", in(reg) base, options(nomem, nostack)) };
}

/// Whether the virtual GS base that is asked for is the real one: the kernel's.
fn is_real(other: bool) -> bool {
    (CPU.gs_swapped.load(Ordering::Relaxed) != 0) == other
}

impl vm::Processor<Tables> for Processor {
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> CpuidResult {
        let result = core::arch::x86_64::__cpuid_count(leaf, subleaf);
        CpuidResult { eax: result.eax, ebx: result.ebx, ecx: result.ecx, edx: result.edx }
    }

    fn control_changed(&mut self, _: &VirtualCpu, _: ControlRegister, _: u64) {}

    fn flushed(&mut self, _: Option<u64>) {}

    fn load_segment(&mut self, segment: Segment, selector: u16, descriptor: Option<u64>, _: &mut Space<Tables>) {
        self.selectors[segment as usize] = selector;
        let base = descriptor.map(|descriptor| u64::from(Descriptor(descriptor).base()));
        match (segment, base) {
            (Segment::Fs, Some(base)) => set_fs_base(base),
            (Segment::Gs, Some(base)) => self.set_gs_base(false, base),
            _ => {}
        }
    }

    fn read_segment(&mut self, segment: Segment) -> u16 {
        self.selectors[segment as usize]
    }

    fn fs_base(&mut self) -> u64 {
        fs_base()
    }

    fn set_fs_base(&mut self, base: u64) {
        set_fs_base(base);
    }

    fn gs_base(&mut self, other: bool) -> u64 {
        if is_real(other) { real_gs_base() } else { self.users_gs_base }
    }

    fn set_gs_base(&mut self, other: bool, base: u64) {
        if is_real(other) { set_real_gs_base(base) } else { self.users_gs_base = base }
    }

    fn swap_gs(&mut self) {
        CPU.gs_swapped.fetch_xor(0xff, Ordering::Relaxed);
    }

    /// What a local table has, nobody can load.
    fn tables_changed(&mut self, cpu: &VirtualCpu, what: DescriptorTable, _: &mut Space<Tables>) {
        if what == DescriptorTable::Ldt
            && !cpu.ldt.selector.is_null()
            && !core::mem::replace(&mut self.told_of_table, true)
        {
            say!(
                "the guest has a local descriptor table, from which its programs can load nothing in a process of Linux"
            );
        }
    }

    fn debug_register(&mut self, number: u8) -> u64 {
        self.debug[usize::from(number & 7)]
    }

    /// They are kept, but nothing stops at an address that is in one.
    fn set_debug_register(&mut self, number: u8, value: u64) -> bool {
        const ENABLED: u64 = 0xff;
        if number == 7 && value & ENABLED != 0 && !core::mem::replace(&mut self.told, true) {
            say!("the guest sets breakpoints in debug registers, which do not break in a process of Linux");
        }
        self.debug[usize::from(number & 7)] = value;
        true
    }

    fn time_stamp(&mut self) -> u64 {
        timestamp()
    }

    /// What the real one allows, the virtual one allows at most.
    fn set_xcr0(&mut self, _: u64) {}
}
