//! The domain's memory, and who has which part of it.
//!
//! The guest is shown machine addresses as its physical ones, so that what it tells a device to
//! access is what the device will access. Xen gives a domain its pages in a few long runs of
//! machine frames; they are the guest's memory map. Below 1 MB, where a PC has its BIOS, the guest
//! finds pages of zeros: the domain's first 256.
//!
//! All of the domain's pages are mapped once more, at machine address + [`LINEAR`]: by that the
//! wedge reads the guest's page tables, and the level-1 tables of that mapping serve as shadows of
//! the guest's large pages. Pages that are page tables to Xen are read-only there, as everywhere.
//!
//! Of the domain's own numbering (pseudo-physical frames), which runs through without gaps, the
//! wedge keeps what Xen mapped at its window: the image, and behind it, up to where the kernel
//! would lie on bare hardware, the pool of page tables for the guest. The tables of the mapping of
//! all memory do not come from there, for they grow with the memory: 8 bytes for each page. They
//! lie in one piece wherever there is room. Xen has not mapped that at the start, so each is
//! written where the first pages of the pool are mapped later, in turn, and is nowhere writable
//! when Xen takes it for a page table.

use core::ops::Range;

use wedge::guest::layout::WINDOW_LENGTH;
use wedge::memory::{Kind, MemoryMap, OutOfMemory, PhysicalMemory, Region, TooManyRegions, UsablePages};

use wedge::guest::linux::FREE_ROOT_ENTRY;
use wedge::x86::paging::{entry, index};

use super::hypercall::{self, Refused};
use super::interface::{DOMID_SELF, MACHINE_TO_PHYSICAL, MmuUpdate, StartInfo};
use crate::runtime::{PAGE, window};

/// Where the domain's memory is mapped, by machine address: the first PML4 entry behind Xen's own.
pub(super) const LINEAR: u64 = 0xffff_8800_0000_0000;
/// Its PML4 entry.
pub(super) const LINEAR_SLOT: usize = FREE_ROOT_ENTRY;
const _: () = assert!(index(LINEAR, 4) == LINEAR_SLOT);
/// Below this address the guest's memory is not the machine's.
pub(super) const LOW: u64 = 1 << 20;
/// Machine addresses that are served: 512 GB would fit into the entry.
pub(super) const LIMIT: u64 = 64 << 30;

/// As many runs of machine frames as a memory map has room for, what is taken out of it included.
const RUNS: usize = 96;

/// Why there is not enough memory, or Xen's differs from what it says.
#[derive(Clone, Copy, Debug)]
pub(super) enum MemoryError {
    TooManyRuns,
    TooHigh { address: u64 },
    TooLittle { pages: u64 },
    Map(TooManyRegions),
    NoRoom { tables: u64 },
    SmallPool { pages: u64 },
    Xen { what: &'static str, refused: Refused },
}

impl core::fmt::Display for MemoryError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooManyRuns => write!(f, "the domain's memory lies in more than {RUNS} pieces"),
            Self::TooHigh { address } => write!(
                f,
                "the domain has memory at {address:#x}, behind the last address served, {LIMIT:#x}: give it less, by dom0_mem= \
                 or memory="
            ),
            Self::NoRoom { tables } => {
                write!(
                    f,
                    "no room for {tables} page tables in one piece: give the domain more memory, by dom0_mem= or memory="
                )
            }
            Self::SmallPool { pages } => {
                write!(f, "the image leaves {pages} pages of its window for page tables, fewer than {FEWEST_TABLES}")
            }
            Self::TooLittle { pages } => write!(f, "{pages} pages of memory are not even enough for the wedge"),
            Self::Map(error) => error.fmt(f),
            Self::Xen { what, refused } => write!(f, "Xen refuses {what}, error {}", refused.0),
        }
    }
}

/// The domain's memory.
#[derive(Debug)]
pub(super) struct Memory {
    /// Runs of machine frames, in order. The toolstack fills a domain from the top of the machine's
    /// memory downwards, in pieces of 2 MB: one run here, though hardly a piece follows the other
    /// in both numberings.
    runs: [Range<u64>; RUNS],
    count: usize,
    /// Machine frames by pseudo-physical frame: Xen's list, which is gone with the address space
    /// that Xen made. Without one all of this is zeros, and takes no room in the wedge's file.
    frames: Option<&'static [u64]>,
    /// The same of the window, which is kept.
    window: [u64; WINDOW_FRAMES],
    /// Pseudo-physical frames of the pool.
    pool: Range<u64>,
    /// Machine addresses of the linear mapping's tables.
    linear_tables: Range<u64>,
    /// Pseudo-physical frames of the tables that Xen booted the domain with.
    boot_tables: Range<u64>,
    /// The guest's, from `LOW` on: by machine address.
    guests: UsablePages<{ (LIMIT >> 21) as usize }>,
}

/// With fewer tables a kernel may not come far.
pub(super) const FEWEST_TABLES: u64 = 256;

/// The places in the window where the linear mapping's tables are written, one for each level: the
/// first pages of the pool.
#[derive(Clone, Copy, Debug)]
enum Desk {
    Pointers,
    Directory,
    Table,
}

const WINDOW_FRAMES: usize = (WINDOW_LENGTH / PAGE) as usize;

/// Something in memory at a virtual address.
pub(super) fn pointer<T>(address: u64) -> *mut T {
    core::ptr::with_exposed_provenance_mut(address as usize)
}

/// The pseudo-physical frame of a machine frame of the domain's. Only as long as there is Xen's
/// address space.
fn physical(machine: u64) -> u64 {
    // SAFETY: Xen shows every guest this table, of which any value may come.
    unsafe { pointer::<u64>(MACHINE_TO_PHYSICAL + 8 * machine).read() }
}

/// Machine frames by pseudo-physical frame, where they follow each other.
fn pieces(list: &[u64], frames: Range<u64>) -> impl Iterator<Item = Range<u64>> + Clone {
    let mut rest = list.get(frames.start as usize..frames.end as usize).unwrap_or_default();
    core::iter::from_fn(move || {
        let first = *rest.first()?;
        let length = rest.iter().zip(first..).take_while(|(frame, next)| *frame == next).count();
        rest = &rest[length..];
        Some(first..first + length as u64)
    })
}

impl Memory {
    /// No memory yet.
    #[expect(clippy::large_stack_arrays, reason = "it is the initial value of a static")]
    pub(super) const fn empty() -> Self {
        Self {
            runs: [const { 0..0 }; RUNS],
            count: 0,
            frames: None,
            window: [0; WINDOW_FRAMES],
            pool: 0..0,
            linear_tables: 0..0,
            boot_tables: 0..0,
            guests: UsablePages::EMPTY,
        }
    }

    /// Finds out what there is, and maps it. `own_end` is the end of the wedge's image and arena,
    /// an offset in the window.
    ///
    /// # Safety
    ///
    /// Called once, with what Xen has told, before there is any other page table than Xen's.
    pub(super) unsafe fn set_up(&mut self, start: &StartInfo, own_end: u64) -> Result<(), MemoryError> {
        // SAFETY: Xen has mapped its list there, and nobody writes to it.
        let frames = unsafe { core::slice::from_raw_parts(pointer::<u64>(start.mfn_list), start.nr_pages as usize) };
        if frames.len() < WINDOW_FRAMES {
            return Err(MemoryError::TooLittle { pages: start.nr_pages });
        }
        self.window.copy_from_slice(&frames[..WINDOW_FRAMES]);
        self.frames = Some(frames);
        self.pool = own_end.div_ceil(PAGE)..WINDOW_LENGTH / PAGE;
        let pages = self.pool.end.saturating_sub(self.pool.start);
        if pages <= FEWEST_TABLES {
            return Err(MemoryError::SmallPool { pages });
        }
        let tables = (start.pt_base - window()) / PAGE;
        self.boot_tables = tables..tables + start.nr_pt_frames;
        self.find_runs()?;
        self.linear_tables = self.place_linear_tables(start)?;
        self.clear_pool();
        let pointers = self.map_linear()?;
        let root = frames[tables as usize] << 12;
        let update = MmuUpdate { address: root + 8 * LINEAR_SLOT as u64, value: pointers | entry::TABLE };
        // SAFETY: nothing else lies in that part of the address space.
        let updated = unsafe { hypercall::mmu_update(&[update], DOMID_SELF) };
        updated.map_err(|(_, refused)| MemoryError::Xen { what: "the linear mapping", refused })
    }

    fn frames(&self) -> &'static [u64] {
        self.frames.unwrap_or_default()
    }

    fn find_runs(&mut self) -> Result<(), MemoryError> {
        let everything = 0..self.frames().len() as u64;
        for range in pieces(self.frames(), everything) {
            if range.end * PAGE > LIMIT {
                return Err(MemoryError::TooHigh { address: range.end * PAGE });
            }
            self.add(range)?;
        }
        Ok(())
    }

    /// Adds a run, and joins it with those that it touches.
    fn add(&mut self, run: Range<u64>) -> Result<(), MemoryError> {
        let known = &mut self.runs[..self.count];
        let at = known.partition_point(|other| other.start < run.start);
        let before = at > 0 && known[at - 1].end == run.start;
        let behind = known.get(at).is_some_and(|other| other.start == run.end);
        match (before, behind) {
            (true, true) => {
                known[at - 1].end = known[at].end;
                known[at..].rotate_left(1);
                self.count -= 1;
            }
            (true, false) => known[at - 1].end = run.end,
            (false, true) => known[at].start = run.start,
            (false, false) => {
                let longer = self.runs.get_mut(..=self.count).ok_or(MemoryError::TooManyRuns)?;
                longer[at..].rotate_right(1);
                longer[at] = run;
                self.count += 1;
            }
        }
        Ok(())
    }

    /// Clears the pool.
    fn clear_pool(&self) {
        for frame in self.pool.clone() {
            // SAFETY: Xen has mapped the domain's first pages at the window, and nobody uses these
            // yet.
            unsafe { pointer::<[u64; 512]>(window() + frame * PAGE).write_bytes(0, 1) };
        }
    }

    /// Finds room for the tables of the linear mapping, away from all that Xen has loaded or
    /// mapped: behind its last page at least 512 KB, up to a multiple of 4 MB (`xen.h`,
    /// "Start-of-day memory layout"). A page that is mapped there can be written, and so be no page
    /// table.
    fn place_linear_tables(&self, start: &StartInfo) -> Result<Range<u64>, MemoryError> {
        const LEAST: u64 = (512 << 10) / PAGE;
        const STEP: u64 = (4 << 20) / PAGE;
        let mapped = (self.boot_end() + LEAST).next_multiple_of(STEP).min(self.frames().len() as u64);
        let tables = 1 + self.touched(18) + self.touched(9);
        let mut map = MemoryMap::default();
        self.add_runs(&mut map)?;
        let module = start.mod_start..start.mod_start + start.mod_len.div_ceil(PAGE);
        let busy = self.machine_ranges(0..mapped).chain(self.machine_ranges(module));
        let address = map.place(busy, tables * PAGE, PAGE, LIMIT).ok_or(MemoryError::NoRoom { tables })?;
        Ok(address..address + tables * PAGE)
    }

    /// How many aligned groups of 2^`shift` machine frames have one of the domain's among them.
    fn touched(&self, shift: u32) -> u64 {
        let groups = self.runs[..self.count].iter().map(|run| (run.start >> shift, (run.end - 1) >> shift));
        let new = |last: &mut Option<u64>, (first, end): (u64, u64)| {
            let known = u64::from(*last == Some(first));
            *last = Some(end);
            Some(end + 1 - first - known)
        };
        groups.scan(None, new).sum()
    }

    /// Writes the tables of the linear mapping, then protects the pool. Returns the machine address
    /// of the mapping's page-directory-pointer table.
    fn map_linear(&self) -> Result<u64, MemoryError> {
        let mut tables = self.linear_tables.clone().step_by(PAGE as usize);
        let no_room = MemoryError::NoRoom { tables: tables.clone().count() as u64 };
        let mut open = |desk: Desk| {
            let table = tables.next().ok_or(no_room)?;
            self.open(desk, table)?;
            Ok(table)
        };
        let root = open(Desk::Pointers)?;
        let (mut directory, mut table) = (u64::MAX, u64::MAX);
        for number in 0..self.count {
            for machine in self.runs[number].clone() {
                if directory != machine >> 18 {
                    directory = machine >> 18;
                    let value = open(Desk::Directory)? | entry::TABLE;
                    self.write(Desk::Pointers, directory, value);
                }
                if table != machine >> 9 {
                    table = machine >> 9;
                    let value = open(Desk::Table)? | entry::TABLE;
                    self.write(Desk::Directory, table, value);
                }
                let physical = physical(machine);
                let is_table = self.pool.contains(&physical)
                    || self.boot_tables.contains(&physical)
                    || self.linear_tables.contains(&(machine * PAGE));
                let rights = if is_table { 0 } else { entry::WRITABLE };
                let value = (machine * PAGE) | entry::PRESENT | entry::ACCESSED_AND_DIRTY | rights;
                self.write(Desk::Table, machine, value);
            }
        }
        self.make_pool_read_only()?;
        Ok(root)
    }

    /// Address in the window where a table is written.
    fn desk(&self, desk: Desk) -> u64 {
        window() + (self.pool.start + desk as u64) * PAGE
    }

    /// Puts a page on a desk, and clears it.
    fn open(&self, desk: Desk, machine: u64) -> Result<(), MemoryError> {
        let value = machine | entry::PRESENT | entry::WRITABLE | entry::ACCESSED_AND_DIRTY;
        // SAFETY: nobody uses what Xen has mapped there, nor the page.
        let mapped = unsafe { hypercall::update_va_mapping(self.desk(desk), value) };
        mapped.map_err(|refused| MemoryError::Xen { what: "to map a page for a page table", refused })?;
        // SAFETY: mapped just now.
        unsafe { pointer::<[u64; 512]>(self.desk(desk)).write_bytes(0, 1) };
        Ok(())
    }

    /// Writes the entry for a number, of which the low bits count, of the table on a desk.
    fn write(&self, desk: Desk, number: u64, value: u64) {
        // SAFETY: a page that is mapped for this, and no table to Xen yet.
        unsafe { pointer::<u64>(self.desk(desk) + 8 * (number & 511)).write(value) };
    }

    fn make_pool_read_only(&self) -> Result<(), MemoryError> {
        let mut updates = [MmuUpdate::default(); 128];
        let mut length = 0;
        for frame in self.pool.clone() {
            let value = self.machine_address(frame) | entry::PRESENT | entry::ACCESSED_AND_DIRTY;
            updates[length] = MmuUpdate { address: self.boot_entry(window() + frame * PAGE), value };
            length += 1;
            if length == updates.len() || frame + 1 == self.pool.end {
                // SAFETY: the pool is only read from here on.
                let result = unsafe { hypercall::mmu_update(&updates[..length], DOMID_SELF) };
                result.map_err(|(_, refused)| MemoryError::Xen { what: "to protect page tables", refused })?;
                length = 0;
            }
        }
        Ok(())
    }

    /// Takes the right to write to a page of the wedge's from the linear mapping.
    pub(super) fn protect_in_linear_mapping(machine: u64) -> Result<(), Refused> {
        let value = machine & entry::ADDRESS | entry::PRESENT | entry::ACCESSED_AND_DIRTY;
        // SAFETY: nothing is written to the page there.
        unsafe { hypercall::update_va_mapping(LINEAR + (machine & entry::ADDRESS), value) }.map(|_| ())
    }

    /// Machine address of a page.
    pub(super) fn machine_address(&self, frame: u64) -> u64 {
        let frame = frame as usize;
        self.window.get(frame).or_else(|| self.frames().get(frame)).copied().unwrap_or(0) * PAGE
    }

    /// Machine address of a page of the window.
    pub(super) fn machine_of(&self, address: u64) -> u64 {
        self.machine_address((address - window()) / PAGE) + address % PAGE
    }

    /// Entry of an address in one of the tables that Xen booted the domain with, at the given
    /// level, 1 being the lowest.
    pub(super) fn boot_table(&self, address: u64, level: u8) -> u64 {
        let mut table = self.machine_address(self.boot_tables.start);
        for level in (level + 1..=4).rev() {
            let index = index(address, level) as u64;
            // SAFETY: Xen's tables are mapped at the window, like all that it booted the domain
            // with.
            table = unsafe { pointer::<u64>(Self::boot_address(table) + 8 * index).read() } & entry::ADDRESS;
        }
        table
    }

    fn boot_entry(&self, address: u64) -> u64 {
        self.boot_table(address, 1) + 8 * index(address, 1) as u64
    }

    /// Where Xen has mapped a page that it booted the domain with.
    fn boot_address(machine: u64) -> u64 {
        window() + physical(machine / PAGE) * PAGE
    }

    /// Pages of the domain.
    pub(super) fn pages(&self) -> u64 {
        self.runs[..self.count].iter().map(|run| run.end - run.start).sum()
    }

    /// Behind the last page that Xen has put something into: the tables, and one page of stack.
    pub(super) fn boot_end(&self) -> u64 {
        self.boot_tables.end + 1
    }

    /// The pool: pseudo-physical frames.
    pub(super) fn pool(&self) -> Range<u64> {
        self.pool.clone()
    }

    /// The machine ranges of some pseudo-physical frames, in the order of those.
    pub(super) fn machine_ranges(&self, frames: Range<u64>) -> impl Iterator<Item = Range<u64>> + Clone {
        pieces(self.frames(), frames).map(|piece| piece.start * PAGE..piece.end * PAGE)
    }

    /// Adds the domain's memory to a map.
    fn add_runs(&self, map: &mut MemoryMap) -> Result<(), MemoryError> {
        let regions = self.runs[..self.count].iter();
        regions
            .map(|run| Region { start: run.start * PAGE, end: run.end * PAGE, kind: Kind::Usable })
            .try_for_each(|region| map.add(region))
            .map_err(MemoryError::Map)
    }

    /// The guest's memory map: all but the linear mapping's tables and the pages in `own`,
    /// pseudo-physical frames.
    pub(super) fn make_map(&mut self, own: &[Range<u64>]) -> Result<MemoryMap, MemoryError> {
        let mut map = MemoryMap::default();
        // Linux wants a place below 1 MB for the code that starts other processors, and leaves the
        // rest alone.
        let low = Region { start: PAGE, end: 0x9f000, kind: Kind::Usable };
        map.add(low).map_err(MemoryError::Map)?;
        self.add_runs(&mut map)?;
        map.reserve(&self.linear_tables).map_err(MemoryError::Map)?;
        for frames in own {
            for range in self.machine_ranges(frames.clone()) {
                map.reserve(&range).map_err(MemoryError::Map)?;
            }
        }
        Ok(map)
    }

    /// From here on this is the guest's memory.
    pub(super) fn set_map(&mut self, map: &MemoryMap) {
        self.guests.set(map, LOW);
    }

    /// Whether the page around a machine address is the guest's memory.
    #[inline]
    pub(super) fn is_guests(&self, address: u64) -> bool {
        self.guests.contains(address)
    }

    /// Where the wedge sees a guest-physical address that is memory.
    #[inline]
    pub(super) fn place(&self, address: u64) -> Option<u64> {
        if self.is_guests(address) { Some(LINEAR + address) } else { (address < LOW).then(|| window() + address) }
    }

    /// Whether a machine address is in one of the domain's pages, whoever uses it.
    pub(super) fn is_domains(&self, address: u64) -> bool {
        let frame = address / PAGE;
        self.runs[..self.count].iter().any(|run| run.contains(&frame))
    }

    /// Whether a machine range lies in one run of the domain's pages.
    fn has_run(&self, range: &Range<u64>) -> bool {
        self.runs[..self.count].iter().any(|run| run.start * PAGE <= range.start && range.end <= run.end * PAGE)
    }

    /// Whether 2 MB from a machine address on are the guest's memory.
    pub(super) fn has_guests_piece(&self, address: u64) -> bool {
        self.guests.contains_group(address)
    }
}

/// Machine memory that may be written while the guest is loaded, where the linear mapping shows it.
#[derive(Debug)]
pub(super) struct Usable<'a> {
    map: &'a MemoryMap,
    memory: &'a Memory,
}

impl<'a> Usable<'a> {
    /// # Safety
    ///
    /// No reference may exist into what is going to be asked for: the caller has planned what is
    /// written where.
    pub(super) unsafe fn new(map: &'a MemoryMap, memory: &'a Memory) -> Self {
        Self { map, memory }
    }

    /// Where bytes are that may be written.
    fn place(&self, address: u64, length: u64) -> Result<*mut u8, OutOfMemory> {
        let end = address.checked_add(length).filter(|end| self.map.is_usable(&(address..*end)));
        end.map(|_| pointer(LINEAR + address)).ok_or(OutOfMemory { address, length })
    }
}

impl PhysicalMemory for Usable<'_> {
    fn bytes(&mut self, address: u64, length: u64) -> Result<&mut [u8], OutOfMemory> {
        let place = self.place(address, length)?;
        // SAFETY: memory of the domain, mapped, and by `new`, nobody else's.
        Ok(unsafe { core::slice::from_raw_parts_mut(place, length as usize) })
    }

    fn copy(&mut self, from: u64, to: u64, length: u64) -> Result<(), OutOfMemory> {
        let place = self.place(to, length)?;
        let whole = from.checked_add(length).is_some_and(|end| self.memory.has_run(&(from..end)));
        let source = whole.then(|| pointer::<u8>(LINEAR + from));
        let source = source.ok_or(OutOfMemory { address: from, length })?;
        // SAFETY: any page of the domain's may be read; the others as in `bytes`.
        unsafe { core::ptr::copy(source, place, length as usize) };
        Ok(())
    }
}
