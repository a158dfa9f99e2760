//! What the virtual CPU finds behind it: memory by the shadow, segments, model-specific registers, and the platform.

use core::arch::asm;
use core::ops::Range;
use core::sync::atomic::Ordering;

use wedge::cpu::{
    Context, ControlRegister, CpuidResult, DescriptorTable, Exception, Host, Segment, Size, VirtualCpu, control,
};
use wedge::guest::linux::TLS_ENTRIES;
use wedge::platform::Platform;
use wedge::shadow::{Access, Mode, Outcome, Shadow};
use wedge::vm::port::{PORT, Port as WedgePort};
use x86_64::registers::control::{Cr4, Cr4Flags};
use x86_64::registers::model_specific::Msr;

use super::account::{Account, Answers};
use super::board::Board;
use super::entry::{GS_SWAPPED, cause};
use super::hypercall::{self, Reason, SegmentBase, shutdown};
use super::ldt::PAGE_ENTRIES;
use super::memory::pointer;
use super::narrow_stack::Springboard;
use super::segments::Segments;
use super::tables::Tables;
use crate::runtime::{PAGE, say, timestamp};

/// Model-specific registers that Xen reads for its guests (SDM Vol. 4, table 2-2).
const IA32_FS_BASE: u32 = 0xc000_0100;
const IA32_GS_BASE: u32 = 0xc000_0101;
const IA32_KERNEL_GS_BASE: u32 = 0xc000_0102;

/// The machine behind the virtual CPU.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) shadow: Shadow<'static>,
    pub(super) tables: Tables,
    pub(super) platform: Platform,
    pub(super) board: Board,
    pub(super) segments: Segments,
    pub(super) springboard: Springboard,
    /// The platform may have something to do: a port was accessed, or an event came in.
    pub(super) touched: bool,
    pub(super) port: WedgePort,
    pub(super) account: Account,
    /// Addresses of modules.
    pub(super) modules: Range<u64>,
    /// Something that may concern modules has been flushed since the last look at them.
    pub(super) flushed: bool,
    /// CR4 as Xen has it for the domain: to read it is a trap, too.
    pub(super) real_cr4: u64,
}

/// The paging mode of a CPU.
pub(super) fn paging_mode(cpu: &VirtualCpu) -> Mode {
    Mode {
        pcid: cpu.cr4 & control::cr4::PCIDE != 0,
        global: cpu.cr4 & control::cr4::PGE != 0,
        write_protect: cpu.cr0 & control::cr0::WP != 0,
        no_execute: cpu.efer & control::efer::NXE != 0,
        physical_bits: cpu.limits.physical_bits,
    }
}

/// Whether a range lies in one page, as nearly all do.
const fn is_in_page(address: u64, length: usize) -> bool {
    address % PAGE + length as u64 <= PAGE
}

impl Machine {
    /// Makes sure that the kernel can access the page around an address.
    #[inline]
    fn reach(&mut self, address: u64, write: bool) -> Result<(), Exception> {
        if self.tables.is_known(address, write) { Ok(()) } else { self.map(address, write) }
    }

    fn map(&mut self, address: u64, write: bool) -> Result<(), Exception> {
        if self.tables.is_mapped(address, write) {
            return Ok(());
        }
        let access = Access { write, user: false, fetch: false };
        match self.shadow.fault(address, access, &mut self.tables) {
            Outcome::Filled | Outcome::Spurious => Ok(()),
            Outcome::Fault { error } => Err(Exception::page_fault(error, address)),
            Outcome::Nothing { .. } => Err(Exception::page_fault(0, address)),
            Outcome::OutOfTables => panic!("without a page table left for the kernel's {address:#x}"),
        }
    }

    /// The parts of a range that each lie in one page: address and length.
    fn parts(address: u64, length: usize) -> impl Iterator<Item = (u64, usize)> {
        let mut done = 0;
        core::iter::from_fn(move || {
            let start = address.wrapping_add(done as u64);
            let part = (length - done).min((PAGE - start % PAGE) as usize);
            done += part;
            (part != 0).then_some((start, part))
        })
    }

    /// Where the wedge finds a user program's page, for an access with the program's rights.
    fn user_place(&mut self, address: u64, write: bool) -> Result<u64, Exception> {
        self.place(address, Access { write, user: true, fetch: false })
    }

    fn place(&mut self, address: u64, access: Access) -> Result<u64, Exception> {
        let found = self.shadow.translate(address, access, &mut self.tables);
        let found = found.map_err(|error| Exception::page_fault(error, address))?;
        self.tables.memory.place(found).ok_or(Exception::page_fault(0, address))
    }

    fn read_parts(&mut self, address: u64, bytes: &mut [u8], user: bool) -> Result<(), Exception> {
        let mut rest = bytes;
        for (start, length) in Self::parts(address, rest.len()) {
            let place = if user {
                self.user_place(start, false)?
            } else {
                self.reach(start, false)?;
                start
            };
            let (part, behind) = rest.split_at_mut(length);
            // SAFETY: mapped, as was just made sure; the guest's memory is no Rust object.
            unsafe { core::ptr::copy_nonoverlapping(pointer::<u8>(place), part.as_mut_ptr(), length) };
            rest = behind;
        }
        Ok(())
    }

    fn write_parts(&mut self, address: u64, bytes: &[u8], user: bool) -> Result<(), Exception> {
        for (start, _) in Self::parts(address, bytes.len()) {
            if user {
                self.user_place(start, true)?;
            } else {
                self.reach(start, true)?;
            }
        }
        let mut rest = bytes;
        for (start, length) in Self::parts(address, bytes.len()) {
            let place = if user { self.user_place(start, true)? } else { start };
            let (part, behind) = rest.split_at(length);
            // SAFETY: as in `read`; the guest may write there.
            unsafe { core::ptr::copy_nonoverlapping(part.as_ptr(), pointer::<u8>(place), length) };
            rest = behind;
        }
        Ok(())
    }

    /// Makes sure that the kernel can write to an address.
    pub(super) fn reach_for_writing(&mut self, address: u64) {
        let _ = self.reach(address, true);
    }

    /// A word of the guest kernel's memory, if it is mapped.
    pub(super) fn word(&mut self, address: u64) -> Option<u64> {
        self.words(address).map(|[word]| word)
    }

    /// Some words of the guest kernel's memory, if they are mapped.
    pub(super) fn words<const COUNT: usize>(&mut self, address: u64) -> Option<[u64; COUNT]> {
        let mut words = [[0; 8]; COUNT];
        self.read(address, words.as_flattened_mut(), false).ok()?;
        Some(words.map(u64::from_le_bytes))
    }

    /// Where the wedge sees what the processor itself reads at an address: with the kernel's rights (SDM Vol. 3A, 4.6.1).
    fn system_place(&mut self, address: u64) -> Result<u64, Exception> {
        self.place(address, Access { write: false, user: false, fetch: false })
    }

    /// Before user mode runs: what it may load is what the guest has in its tables now.
    pub(super) fn update_descriptors(&mut self, cpu: &VirtualCpu, context: &Context) {
        self.update_gdt(cpu, context.vector == cause::EVENT);
        for selector in [context.cs, context.ss] {
            // Xen's IRETQ loads these two, and could hand on no page fault.
            if selector & 4 != 0 {
                let _ = self.show_local(usize::from(selector as u16 >> 3));
            }
        }
    }

    fn update_gdt(&mut self, cpu: &VirtualCpu, all: bool) {
        let base = cpu.gdt.base;
        let count = ((usize::from(cpu.gdt.limit) + 1) / 8).min(PAGE_ENTRIES);
        if let Some(place) = self.segments.place(base) {
            return self.segments.look(place, count, all);
        }
        if is_in_page(base, 8 * count.max(TLS_ENTRIES.end))
            && let Ok(place) = self.system_place(base & !(PAGE - 1))
        {
            self.segments.found(base, place);
            return self.segments.look(place + base % PAGE, count, true);
        }
        for index in 0..count {
            let descriptor = self.word(base.wrapping_add(8 * index as u64)).unwrap_or(0);
            self.segments.prepare(8 * index as u16, descriptor);
        }
        self.segments.forget_behind(count);
    }

    /// Maps the page of the real local table that an entry is in. Says whether it was missing.
    ///
    /// # Errors
    ///
    /// The page fault at the guest's entry.
    pub(super) fn show_local(&mut self, index: usize) -> Result<bool, Exception> {
        if !self.segments.ldt.lacks(index) {
            return Ok(false);
        }
        let base = self.segments.ldt.base();
        let page = index / PAGE_ENTRIES;
        let of = self.system_place(base.wrapping_add(8 * index as u64))? & !(PAGE - 1);
        let image = self.segments.ldt.image_for(of);
        let mut rest = self.segments.ldt.source_of(image, page);
        let mut is_new = false;
        for (address, length) in Self::parts(base.wrapping_add(page as u64 * PAGE), rest.len()) {
            let (part, behind) = rest.split_at_mut(length);
            is_new |= self.renew(part, address);
            rest = behind;
        }
        self.segments.ldt.show(page, image, of, is_new);
        Ok(true)
    }

    /// Copies a part of a page of the guest's, unless that is what is there. Where there is no memory, there are zeros.
    fn renew(&mut self, bytes: &mut [u8], address: u64) -> bool {
        static NOTHING: [u8; PAGE as usize] = [0; _];
        let guests = match self.system_place(address) {
            // SAFETY: the guest's memory, of which any value may come; the guest does not run.
            Ok(place) => unsafe { core::slice::from_raw_parts(pointer(place), bytes.len()) },
            Err(_) => &NOTHING[..bytes.len()],
        };
        let is_new = *bytes != *guests;
        if is_new {
            bytes.copy_from_slice(guests);
        }
        is_new
    }

    /// The guest has loaded a local table, or none.
    fn replace_ldt(&mut self, cpu: &VirtualCpu) {
        let bytes = if cpu.ldt.selector.is_null() { 0 } else { cpu.ldt.limit as usize + 1 };
        self.segments.ldt.replace(cpu.ldt.base, bytes / 8);
    }
}

impl Host for Machine {
    #[expect(clippy::inline_always, reason = "a delivery reads three constant lengths, from pages that are mapped")]
    #[inline(always)]
    fn read(&mut self, address: u64, bytes: &mut [u8], user: bool) -> Result<(), Exception> {
        if user || !is_in_page(address, bytes.len()) || !self.tables.is_known(address, false) {
            return self.read_parts(address, bytes, user);
        }
        // SAFETY: mapped; the guest's memory is no Rust object.
        unsafe { core::ptr::copy_nonoverlapping(pointer::<u8>(address), bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8], user: bool) -> Result<(), Exception> {
        if user || !is_in_page(address, bytes.len()) || !self.tables.is_known(address, true) {
            return self.write_parts(address, bytes, user);
        }
        // SAFETY: mapped, to be written, too; the guest's memory is no Rust object.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), pointer::<u8>(address), bytes.len()) };
        Ok(())
    }

    fn raw_cpuid(&mut self, leaf: u32, subleaf: u32) -> CpuidResult {
        let result = core::arch::x86_64::__cpuid_count(leaf, subleaf);
        CpuidResult { eax: result.eax, ebx: result.ebx, ecx: result.ecx, edx: result.edx }
    }

    fn control_changed(&mut self, cpu: &VirtualCpu, register: ControlRegister, old: u64) {
        self.segments.forget_place();
        let mode = paging_mode(cpu);
        self.shadow.set_mode(mode, &mut self.tables);
        if register == ControlRegister::Cr4 {
            let own = Cr4Flags::FSGSBASE | Cr4Flags::OSXSAVE | Cr4Flags::TIMESTAMP_DISABLE;
            let changed = Cr4Flags::from_bits_truncate(old ^ cpu.cr4);
            if changed.intersects(own) {
                let wanted = Cr4Flags::from_bits_truncate(cpu.cr4).intersection(own);
                self.real_cr4 = self.real_cr4 & !own.bits() | wanted.bits();
                // SAFETY: Xen emulates it; the bits concern user mode's instructions, and the wedge uses none of them but
                // behind a check of CR4.
                unsafe { Cr4::write_raw(self.real_cr4) };
            }
            // What makes translations void that are in all address spaces (SDM Vol. 3A, 4.10.4.1).
            self.flushed |= changed.intersects(Cr4Flags::PAGE_GLOBAL | Cr4Flags::PCID);
        }
    }

    fn load_root(&mut self, cpu: &VirtualCpu, keep: bool) {
        self.shadow.load_root(cpu.cr3, keep, &mut self.tables);
    }

    fn flush_page(&mut self, address: u64) {
        self.flushed |= self.modules.contains(&address);
        self.segments.forget_place_in(address);
        self.shadow.flush_page(address, &mut self.tables);
    }

    fn flush_pcid_page(&mut self, pcid: u16, address: u64) {
        self.segments.forget_place_in(address);
        self.shadow.flush_pcid_page(pcid, address, &mut self.tables);
    }

    fn flush_pcid(&mut self, pcid: u16) {
        self.shadow.flush_pcid(pcid, &mut self.tables);
    }

    fn flush_all(&mut self, include_global: bool) {
        self.flushed |= include_global;
        self.segments.forget_place();
        self.shadow.flush_all(include_global, &mut self.tables);
    }

    fn load_segment(&mut self, segment: Segment, selector: u16, descriptor: Option<u64>) {
        let level_3 = descriptor.is_some_and(|descriptor| descriptor >> 45 & 3 == 3);
        // What only the kernel may load is not in the real tables: its real register is null.
        let selector = if level_3 { selector } else { 0 };
        if let (true, Some(descriptor)) = (level_3, descriptor) {
            if selector & 4 != 0 {
                // It has just been read: it is mapped.
                let _ = self.show_local(usize::from(selector >> 3));
            }
            self.segments.prepare(selector, descriptor);
        }
        if segment == Segment::Gs && GS_SWAPPED.load(Ordering::Relaxed) != 0 {
            let _ = hypercall::set_segment_base(SegmentBase::GsUserSelector, selector.into());
            return;
        }
        // SAFETY: the selector is null, or that of a descriptor that was checked and copied; should Xen have refused it, the
        // exception is presented to the guest. The wedge uses none of these segments.
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
        unsafe { Msr::new(IA32_FS_BASE).read() }
    }

    fn set_fs_base(&mut self, base: u64) {
        let _ = hypercall::set_segment_base(SegmentBase::Fs, base);
    }

    fn gs_base(&mut self) -> u64 {
        let swapped = GS_SWAPPED.load(Ordering::Relaxed) != 0;
        // SAFETY: Xen answers.
        unsafe { Msr::new(if swapped { IA32_KERNEL_GS_BASE } else { IA32_GS_BASE }).read() }
    }

    fn set_gs_base(&mut self, base: u64) {
        let swapped = GS_SWAPPED.load(Ordering::Relaxed) != 0;
        let which = if swapped { SegmentBase::GsUser } else { SegmentBase::GsKernel };
        let _ = hypercall::set_segment_base(which, base);
    }

    fn kernel_gs_base(&mut self) -> u64 {
        let swapped = GS_SWAPPED.load(Ordering::Relaxed) != 0;
        // SAFETY: Xen answers.
        unsafe { Msr::new(if swapped { IA32_GS_BASE } else { IA32_KERNEL_GS_BASE }).read() }
    }

    fn set_kernel_gs_base(&mut self, base: u64) {
        let swapped = GS_SWAPPED.load(Ordering::Relaxed) != 0;
        let which = if swapped { SegmentBase::GsKernel } else { SegmentBase::GsUser };
        let _ = hypercall::set_segment_base(which, base);
    }

    fn swap_gs(&mut self) {
        GS_SWAPPED.fetch_xor(0xff, Ordering::Relaxed);
    }

    fn tables_changed(&mut self, cpu: &VirtualCpu, what: DescriptorTable) {
        match what {
            DescriptorTable::Gdt => self.segments.forget_place(),
            DescriptorTable::Ldt => self.replace_ldt(cpu),
            DescriptorTable::Idt | DescriptorTable::Tr => {}
        }
    }

    fn debug_register(&mut self, number: u8) -> u64 {
        hypercall::get_debug_register(number)
    }

    fn set_debug_register(&mut self, number: u8, value: u64) -> bool {
        hypercall::set_debug_register(number, value).is_ok()
    }

    fn port_in(&mut self, port: u16, size: Size) -> u32 {
        if (port, size) == (PORT, Size::Byte) {
            let mut answers =
                Answers { account: &self.account, shadow: self.shadow.statistics(), refused: self.tables.refused };
            return self.port.read(&mut answers).into();
        }
        self.touched = true;
        self.platform.read(port, size, &mut self.board)
    }

    fn port_out(&mut self, port: u16, size: Size, value: u32) {
        if (port, size) == (PORT, Size::Byte) {
            let mut answers =
                Answers { account: &self.account, shadow: self.shadow.statistics(), refused: self.tables.refused };
            return self.port.write(value as u8, &mut answers);
        }
        self.touched = true;
        self.platform.write(port, size, value, &mut self.board);
    }

    fn time_stamp(&mut self) -> u64 {
        timestamp()
    }

    fn set_xcr0(&mut self, value: u64) {
        // SAFETY: the value is legal; Xen emulates the instruction, and keeps the state of all components.
        unsafe {
            asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack));
        }
    }

    fn wait_for_interrupt(&mut self, _: &VirtualCpu, context: &Context) {
        if context.rflags & 1 << 9 == 0 {
            self.platform.advance(&mut self.board);
            say!("halted with interrupts off at {:#x}", context.rip);
            shutdown(Reason::PowerOff);
        }
        self.board.collect(&mut self.platform);
        self.platform.advance(&mut self.board);
        self.touched = true;
        while !self.platform.has_interrupt() {
            self.board.wait(&mut self.platform);
        }
    }

    fn write_back_caches(&mut self) {}
}
