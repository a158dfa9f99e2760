//! The processor's registers, as far as Xen lets a guest have its own.
//!
//! User mode uses the real registers without the wedge, so they have to be right whenever it runs.
//! What costs a trap or a hypercall to read is remembered here.
//!
//! * *Segments.* User mode loads selectors from the real tables, in which the guest's descriptors
//!   are copied. They are brought up to date when the kernel loads a selector, which is a site, and
//!   before user mode runs; of a local table also when something is loaded from a page of it that
//!   is not mapped ([`segments`](super::segments), [`ldt`](super::ldt)).
//! * *GS bases.* Xen exchanges them when it changes between kernel and user mode. Whether the
//!   guest's SWAPGS would have them otherwise is a byte, `gs_swapped`, so SWAPGS is one
//!   instruction. User mode's base is known as long as user mode has not run since.
//! * *CR4.* Xen has one for the domain, of which only the bits that change what user mode's
//!   instructions do are the guest's.

use core::arch::asm;
use core::ops::Range;
use core::sync::atomic::Ordering;

use wedge::cpu::{Context, ControlRegister, CpuidResult, DescriptorTable, Exception, Segment, VirtualCpu};
use wedge::guest::linux::TLS_ENTRIES;
use wedge::vm;
use wedge::x86::msr;
use wedge::x86::segment::Descriptor;
use x86_64::registers::control::{Cr4, Cr4Flags};
use x86_64::registers::model_specific::Msr;

use super::cpu::{CPU, Source};
use super::entry::cause;
use super::guest::Springboard;
use super::hypercall::{self, SegmentBase};
use super::memory::pointer;
use super::segments::Segments;
use super::tables::Tables;
use crate::runtime::exclusive::PAGE_WORDS;
use crate::runtime::{PAGE, timestamp};

/// Memory and translations.
type Space = vm::Space<Tables>;

/// The registers.
#[derive(Debug)]
pub(super) struct Processor {
    pub(super) segments: Segments,
    /// CR4 as Xen has it for the domain: to read it is a trap, too.
    real_cr4: u64,
    /// The base of user mode's GS, while `CPU.users_gs_known` says that it is.
    users_gs_base: u64,
    pub(super) springboard: Springboard,
    /// Whether the guest was stepped when a stub called.
    pub(super) steps: bool,
}

impl Processor {
    /// With these descriptor tables.
    pub(super) fn new(segments: Segments, springboard: Springboard) -> Self {
        Self { segments, real_cr4: Cr4::read_raw(), users_gs_base: 0, springboard, steps: false }
    }

    /// Before user mode runs: what it may load is what the guest has in its tables now.
    pub(super) fn update_descriptors(&mut self, cpu: &VirtualCpu, context: &Context, space: &mut Space) {
        self.update_gdt(cpu, context.vector == cause::EVENT, space);
        for selector in [context.cs, context.ss] {
            // Xen's IRETQ loads these two, and could hand on no page fault.
            if selector & 4 != 0 {
                let _ = self.show_local(usize::from(selector as u16 >> 3), space);
            }
        }
    }

    fn update_gdt(&mut self, cpu: &VirtualCpu, all: bool, space: &mut Space) {
        let base = cpu.gdt.base;
        let count = ((usize::from(cpu.gdt.limit) + 1) / 8).min(PAGE_WORDS);
        if let Some(place) = self.segments.place(base) {
            return self.segments.look(place, count, all);
        }
        if vm::is_in_page(base, 8 * count.max(TLS_ENTRIES.end))
            && let Ok(place) = system_place(base & !(PAGE - 1), space)
        {
            self.segments.found(base, place);
            return self.segments.look(place + base % PAGE, count, true);
        }
        for index in 0..count {
            let descriptor = space.word(base.wrapping_add(8 * index as u64)).unwrap_or(0);
            self.segments.prepare(8 * index as u16, descriptor);
        }
        self.segments.forget_behind(count);
    }

    /// Maps the page of the real local table that an entry is in. Says whether it was missing.
    ///
    /// # Errors
    ///
    /// The page fault at the guest's entry.
    pub(super) fn show_local(&mut self, index: usize, space: &mut Space) -> Result<bool, Exception> {
        if !self.segments.ldt.lacks(index) {
            return Ok(false);
        }
        let page = index / PAGE_WORDS;
        let address = self.segments.ldt.page_address(page);
        let of = system_place(address.wrapping_add(8 * (index % PAGE_WORDS) as u64), space)? & !(PAGE - 1);
        let image = self.segments.ldt.image_for(of);
        let mut sources = CPU.ldt_sources.borrow();
        let is_new = renew(&mut sources[image][..self.segments.ldt.bytes_of(page)], address, space);
        drop(sources);
        self.segments.ldt.show(page, image, of, is_new);
        Ok(true)
    }

    /// Until user mode runs the base of its GS is this.
    fn know_users_gs(&mut self, base: u64) {
        self.users_gs_base = base;
        CPU.users_gs_known.store(1, Ordering::Relaxed);
    }

    /// The guest has loaded a local table, or none.
    fn replace_ldt(&mut self, cpu: &VirtualCpu, space: &mut Space) {
        let bytes = if cpu.ldt.selector.is_null() { 0 } else { cpu.ldt.limit as usize + 1 };
        let is_same = |source: &Source, address, length| is_there(&source[..length], address, space);
        self.segments.ldt.replace(cpu.ldt.base, bytes / 8, is_same);
    }
}

/// Where the wedge sees what the processor itself reads at an address.
fn system_place(address: u64, space: &mut Space) -> Result<u64, Exception> {
    let found = space.system_address(address)?;
    space.memory.memory.place(found).ok_or(Exception::page_fault(0, address))
}

/// Calls with the parts of a page of the guest's table, and what the processor finds of each; where
/// there is no memory, zeros.
fn for_parts(length: usize, address: u64, space: &mut Space, mut with: impl FnMut(Range<usize>, &[u8])) {
    static NOTHING: [u8; PAGE as usize] = [0; _];
    let mut done = 0;
    for (part, length) in vm::parts(address, length) {
        let guests = match space.reach_for_reading(part) {
            // SAFETY: the guest's memory, of which any value may come; the guest does not run.
            Ok(reached) => unsafe { core::slice::from_raw_parts(pointer(reached.address()), length) },
            Err(_) => &NOTHING[..length],
        };
        with(done..done + length, guests);
        done += length;
    }
}

/// Whether the guest has these bytes of a page of its table at an address.
fn is_there(bytes: &[u8], address: u64, space: &mut Space) -> bool {
    let mut same = true;
    for_parts(bytes.len(), address, space, |part, guests| same &= is_same(&bytes[part], guests));
    same
}

/// Copies a page of the guest's table, unless that is what is there.
fn renew(bytes: &mut [u8], address: u64, space: &mut Space) -> bool {
    let mut is_new = false;
    for_parts(bytes.len(), address, space, |part, guests| {
        let bytes = &mut bytes[part];
        if !is_same(bytes, guests) {
            is_new = true;
            bytes.copy_from_slice(guests);
        }
    });
    is_new
}

/// Whether bytes are the same: as many of the one as of the other. By the instruction for it: what
/// is compared is mostly the same, and as long as a page.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let ((one, rest), (other, others_rest)) = (one.as_chunks::<8>(), other.as_chunks::<8>());
    let different: u8;
    // SAFETY: both are that long; the comparison in front is for those without a word.
    unsafe {
        asm!(
            "cmp ecx, ecx", "repe cmpsq", "setne {different}",
            different = out(reg_byte) different,
            inout("rcx") one.len().min(other.len()) => _, inout("rsi") one.as_ptr() => _, inout("rdi") other.as_ptr() => _,
            options(nostack, readonly),
        );
    }
    different == 0 && (rest.is_empty() && others_rest.is_empty() || rest == others_rest)
}

/// Whether the real GS bases are exchanged against the virtual ones: of the real ones, the active
/// one is the kernel's.
fn is_swapped() -> bool {
    CPU.gs_swapped.load(Ordering::Relaxed) != 0
}

/// Whether the base of user mode's GS is known: only user mode can change it without the wedge.
fn is_users_gs_known() -> bool {
    CPU.users_gs_known.load(Ordering::Relaxed) != 0
}

impl vm::Processor<Tables> for Processor {
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> CpuidResult {
        let result = core::arch::x86_64::__cpuid_count(leaf, subleaf);
        CpuidResult { eax: result.eax, ebx: result.ebx, ecx: result.ecx, edx: result.edx }
    }

    fn control_changed(&mut self, cpu: &VirtualCpu, register: ControlRegister, old: u64) {
        let own = Cr4Flags::FSGSBASE | Cr4Flags::OSXSAVE | Cr4Flags::TIMESTAMP_DISABLE;
        if register != ControlRegister::Cr4 || !Cr4Flags::from_bits_truncate(old ^ cpu.cr4).intersects(own) {
            return;
        }
        let wanted = Cr4Flags::from_bits_truncate(cpu.cr4).intersection(own);
        self.real_cr4 = self.real_cr4 & !own.bits() | wanted.bits();
        // SAFETY: Xen emulates it; the bits concern user mode's instructions, and the wedge uses
        // none of them but behind a check of CR4.
        unsafe { Cr4::write_raw(self.real_cr4) };
    }

    fn flushed(&mut self, page: Option<u64>) {
        match page {
            Some(address) => self.segments.forget_place_in(address),
            None => self.segments.forget_place(),
        }
    }

    fn load_segment(&mut self, segment: Segment, selector: u16, descriptor: Option<u64>, space: &mut Space) {
        let level_3 = descriptor.is_some_and(|descriptor| Descriptor(descriptor).dpl() == 3);
        // What only the kernel may load is not in the real tables: its real register is null.
        let selector = if level_3 { selector } else { 0 };
        if let (true, Some(descriptor)) = (level_3, descriptor) {
            if selector & 4 != 0 {
                // It has just been read: it is mapped.
                let _ = self.show_local(usize::from(selector >> 3), space);
            }
            self.segments.prepare(selector, descriptor);
        }
        if segment == Segment::Gs && is_swapped() {
            CPU.users_gs_known.store(0, Ordering::Relaxed);
            let _ = hypercall::set_segment_base(SegmentBase::GsUserSelector, selector.into());
            return;
        }
        // SAFETY: the selector is null, or that of a descriptor that was checked and copied; should
        // Xen have refused it, the exception is presented to the guest. The wedge uses none of
        // these segments.
        unsafe {
            match segment {
                Segment::Es => asm!("mov es, {:x}", in(reg) selector, options(nostack)),
                Segment::Ds => asm!("mov ds, {:x}", in(reg) selector, options(nostack)),
                Segment::Fs => asm!("mov fs, {:x}", in(reg) selector, options(nostack)),
                Segment::Gs => asm!("mov gs, {:x}", in(reg) selector, options(nostack)),
            }
        }
    }

    fn read_segment(&mut self, segment: Segment) -> u16 {
        let selector: u16;
        // SAFETY: no effect.
        unsafe {
            match segment {
                Segment::Es => asm!("mov {:x}, es", out(reg) selector, options(nomem, nostack)),
                Segment::Ds => asm!("mov {:x}, ds", out(reg) selector, options(nomem, nostack)),
                Segment::Fs => asm!("mov {:x}, fs", out(reg) selector, options(nomem, nostack)),
                Segment::Gs => asm!("mov {:x}, gs", out(reg) selector, options(nomem, nostack)),
            }
        }
        selector
    }

    fn fs_base(&mut self) -> u64 {
        // SAFETY: Xen answers.
        unsafe { Msr::new(msr::FS_BASE).read() }
    }

    fn set_fs_base(&mut self, base: u64) {
        let _ = hypercall::set_segment_base(SegmentBase::Fs, base);
    }

    fn gs_base(&mut self, other: bool) -> u64 {
        if is_swapped() == other {
            // SAFETY: Xen answers.
            return unsafe { Msr::new(msr::GS_BASE).read() };
        }
        if !is_users_gs_known() {
            // SAFETY: as above.
            self.know_users_gs(unsafe { Msr::new(msr::KERNEL_GS_BASE).read() });
        }
        self.users_gs_base
    }

    fn set_gs_base(&mut self, other: bool, base: u64) {
        if is_swapped() == other {
            let _ = hypercall::set_segment_base(SegmentBase::GsKernel, base);
        } else if !(is_users_gs_known() && self.users_gs_base == base)
            && hypercall::set_segment_base(SegmentBase::GsUser, base).is_ok()
        {
            self.know_users_gs(base);
        }
    }

    fn swap_gs(&mut self) {
        CPU.gs_swapped.fetch_xor(0xff, Ordering::Relaxed);
    }

    fn tables_changed(&mut self, cpu: &VirtualCpu, what: DescriptorTable, space: &mut Space) {
        match what {
            DescriptorTable::Gdt => self.segments.forget_place(),
            DescriptorTable::Ldt => self.replace_ldt(cpu, space),
            DescriptorTable::Idt | DescriptorTable::Tr => {}
        }
    }

    fn debug_register(&mut self, number: u8) -> u64 {
        hypercall::get_debug_register(number)
    }

    fn set_debug_register(&mut self, number: u8, value: u64) -> bool {
        hypercall::set_debug_register(number, value).is_ok()
    }

    fn time_stamp(&mut self) -> u64 {
        timestamp()
    }

    fn set_xcr0(&mut self, value: u64) {
        // SAFETY: the value is legal; Xen emulates the instruction, and keeps the state of all
        // components.
        unsafe {
            asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack));
        }
    }
}
