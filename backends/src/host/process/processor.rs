//! The processor's registers, as far as a process of Linux has its own.
//!
//! The kernel's GS base is really in force while the kernel runs, and so is the FS base of the
//! program that it runs for, for the kernel reads both by instructions of its own. The program's GS
//! base is kept meanwhile. Selectors are kept here, too: what is in the real registers while the
//! kernel runs is nobody's, and the guest's thread areas are in the table of a program's process
//! only ([`areas`](super::areas)). Where programs run in this process they load selectors
//! themselves, and what the processor has in ES, DS, FS and GS is theirs while the kernel runs,
//! too.

use core::arch::asm;
use core::sync::atomic::Ordering;

use wedge::cpu::{ControlRegister, CpuidResult, DescriptorTable, Segment, VirtualCpu};
use wedge::vm::{self, Space};
use wedge::x86::control::debug;
use wedge::x86::segment::{Descriptor, Selector};

use super::areas::ThreadAreas;
use super::cpu::{CPU, is_fast};
use super::locals::Locals;
use super::tables::Tables;
use crate::runtime::{say, timestamp};

/// The registers.
#[derive(Debug)]
pub(super) struct Processor {
    /// ES, DS, FS and GS.
    pub(super) selectors: [u16; 4],
    debug: [u64; 8],
    /// The log has been told that breakpoints do not break.
    told: bool,
    /// And that what is in a local descriptor table cannot be loaded; or there is nothing to tell,
    /// for it can.
    told_of_table: bool,
    /// And that programs of this process have no thread areas.
    told_of_areas: bool,
    /// What a program has accessed in vain: it may be mapped when it goes on.
    pub(super) wanted: Option<u64>,
    /// The local descriptor table of this process, if it has one and programs run in it.
    locals: Option<Locals>,
    /// How often the kernel has loaded a local descriptor table.
    pub(super) locals_loaded: u64,
}

impl Processor {
    /// With nothing in any register. `has_locals` says whether programs can load what is in a local
    /// descriptor table; `locals` is that of this process, if they run in it.
    pub(super) const fn new(has_locals: bool, locals: Option<Locals>) -> Self {
        let (told, told_of_table, told_of_areas) = (false, has_locals, false);
        Self {
            selectors: [0; 4],
            debug: debug::RESET,
            told,
            told_of_table,
            told_of_areas,
            wanted: None,
            locals,
            locals_loaded: 0,
        }
    }

    /// The log is told once of a selector that would be a thread area, which a program of this
    /// process has none of: it loads a null selector.
    fn tell_of_area(&mut self, selector: u16) {
        let is_area = ThreadAreas::default().can_load(selector).is_some();
        if is_area && !core::mem::replace(&mut self.told_of_areas, true) {
            say!("a program has a thread area, which it cannot load with --fast: 32-bit programs do not run");
        }
    }

    /// A single step has ended (SDM Vol. 3B, 17.2.3, BS).
    pub(super) fn note_step(&mut self) {
        self.debug[6] |= 1 << 14;
    }
}

/// The kernel is left for a program, whose GS base is the one in force. When it comes back, the
/// other is really in force, and virtually what the program had.
pub(super) fn leave_kernel() -> u64 {
    if CPU.gs_swapped.swap(0xff, Ordering::Relaxed) == 0 {
        let active = real_gs_base();
        set_real_gs_base(CPU.users_gs_base.swap(active, Ordering::Relaxed));
    }
    users_gs_base()
}

/// The kernel is left for a program that runs in this process.
pub(super) fn enter_program() {
    let base = leave_kernel();
    CPU.kernels_gs_base.store(real_gs_base(), Ordering::Relaxed);
    set_real_gs_base(base);
    CPU.user.store(1, Ordering::Relaxed);
}

/// The kernel, or the wedge, goes on behind a program that ran in this process, if one did.
pub(super) fn leave_program() {
    if CPU.user.load(Ordering::Relaxed) != 0 {
        CPU.user.store(0, Ordering::Relaxed);
        CPU.users_gs_base.store(real_gs_base(), Ordering::Relaxed);
        set_real_gs_base(CPU.kernels_gs_base.load(Ordering::Relaxed));
    }
}

/// The GS base of the program, while the kernel runs.
fn users_gs_base() -> u64 {
    CPU.users_gs_base.load(Ordering::Relaxed)
}

/// The selector that is really in a segment register.
fn real_selector(segment: Segment) -> u16 {
    let selector: u64;
    // SAFETY: it reads a register.
    unsafe {
        match segment {
            Segment::Es => asm!("mov {}, es", out(reg) selector, options(nomem, nostack, preserves_flags)),
            Segment::Ds => asm!("mov {}, ds", out(reg) selector, options(nomem, nostack, preserves_flags)),
            Segment::Fs => asm!("mov {}, fs", out(reg) selector, options(nomem, nostack, preserves_flags)),
            Segment::Gs => asm!("mov {}, gs", out(reg) selector, options(nomem, nostack, preserves_flags)),
        }
    }
    selector as u16
}

/// Loads a segment register with what a program can have there, whose local table `local` knows.
/// The base stays as it is.
fn load_real_selector(segment: Segment, selector: u16, local: impl FnOnce(u16) -> bool) {
    let selector = loadable(selector, &ThreadAreas::default(), local);
    let (fs, gs) = (fs_base(), real_gs_base());
    // SAFETY: the selector can be loaded, and no memory is accessed by it in 64-bit mode.
    unsafe {
        match segment {
            Segment::Es => asm!("mov es, {:e}", in(reg) selector, options(nomem, nostack, preserves_flags)),
            Segment::Ds => asm!("mov ds, {:e}", in(reg) selector, options(nomem, nostack, preserves_flags)),
            Segment::Fs => asm!("mov fs, {:e}", in(reg) selector, options(nomem, nostack, preserves_flags)),
            Segment::Gs => asm!("mov gs, {:e}", in(reg) selector, options(nomem, nostack, preserves_flags)),
        }
    }
    set_fs_base(fs);
    set_real_gs_base(gs);
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
/// tables of this Linux do not have are none. `local` says so of its local table.
pub(super) fn loadable(selector: u16, areas: &ThreadAreas, local: impl FnOnce(u16) -> bool) -> u32 {
    const NULL: u16 = 3;
    if Selector(selector).is_local() {
        return if local(selector) { selector.into() } else { 0 };
    }
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

/// Reads the local descriptor table that the guest's kernel has loaded.
pub(super) fn want(locals: &mut Locals, cpu: &VirtualCpu, space: &mut Space<Tables>) {
    let table = cpu.ldt;
    let length = if table.selector.is_null() { 0 } else { table.limit as usize + 1 };
    locals.want(length, |at, bytes| space.read(table.base.wrapping_add(at as u64), bytes, false).is_ok());
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
        if is_fast() {
            self.tell_of_area(selector);
            let locals = self.locals.as_ref();
            load_real_selector(segment, selector, |local| locals.is_some_and(|locals| locals.can_load(0, local)));
        } else {
            self.selectors[segment as usize] = selector;
        }
        let base = descriptor.map(|descriptor| u64::from(Descriptor(descriptor).base()));
        match (segment, base) {
            (Segment::Fs, Some(base)) => set_fs_base(base),
            (Segment::Gs, Some(base)) => self.set_gs_base(false, base),
            _ => {}
        }
    }

    fn read_segment(&mut self, segment: Segment) -> u16 {
        if is_fast() { real_selector(segment) } else { self.selectors[segment as usize] }
    }

    fn fs_base(&mut self) -> u64 {
        fs_base()
    }

    fn set_fs_base(&mut self, base: u64) {
        set_fs_base(base);
    }

    fn gs_base(&mut self, other: bool) -> u64 {
        if is_real(other) { real_gs_base() } else { users_gs_base() }
    }

    fn set_gs_base(&mut self, other: bool, base: u64) {
        if is_real(other) { set_real_gs_base(base) } else { CPU.users_gs_base.store(base, Ordering::Relaxed) }
    }

    fn swap_gs(&mut self) {
        CPU.gs_swapped.fetch_xor(0xff, Ordering::Relaxed);
    }

    /// What a program finds in its local table is set when it goes on, or here, if programs run in
    /// this process; and never where Linux has no such tables.
    fn tables_changed(&mut self, cpu: &VirtualCpu, what: DescriptorTable, space: &mut Space<Tables>) {
        self.locals_loaded += u64::from(what == DescriptorTable::Ldt);
        if let Some(locals) = self.locals.as_mut().filter(|_| what == DescriptorTable::Ldt) {
            want(locals, cpu, space);
            if let Err(error) = locals.set_here() {
                say!("Linux refuses a program's local descriptor, {error}: it cannot be loaded");
            }
        }
        if what == DescriptorTable::Ldt
            && !cpu.ldt.selector.is_null()
            && !core::mem::replace(&mut self.told_of_table, true)
        {
            say!(
                "the guest has a local descriptor table, from which its programs can load nothing: this Linux has none \
                 (CONFIG_MODIFY_LDT_SYSCALL)"
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
