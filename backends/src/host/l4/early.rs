//! What has to be done before the wedge can run where it belongs: its frames are mapped in the
//! window once more.
//!
//! seL4 has loaded the image low, where the guest's programs will be. This runs there, before the
//! addresses hold that `afterburner pack` has put into the wedge: nothing here may use one, so
//! there is no formatting, no other module's static, and nothing that can fail with a message of
//! its own.

use wedge::image::{LOAD_ADDRESS, Parameters};
use wedge::x86::paging::{PAGE, shift};

use super::abi::{Refused, abi, use_version};
use super::bootinfo::BootInfo;
use super::kernel::{Kernel, Slot, initial, object, rights};
use super::memory::pointer;

/// Tables for a window: one of each level above the lowest, and those of the lowest.
const TABLES: u64 = 2 + wedge::guest::layout::WINDOW_LENGTH / (PAGE << 9);

/// What was used of what seL4 gave: the untyped memory, and the next free slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    pub(super) untyped: Slot,
    pub(super) next: Slot,
}

impl Used {
    const SHIFT: u32 = 32;

    pub(super) const fn from_word(word: u64) -> Self {
        Self { untyped: word >> Self::SHIFT, next: word & ((1 << Self::SHIFT) - 1) }
    }

    const fn word(self) -> u64 {
        self.untyped << Self::SHIFT | self.next
    }
}

/// The first of the capabilities by which the wedge's pages are mapped in the window.
pub(super) fn copies_from(info: &BootInfo) -> Slot {
    info.empty().start + TABLES
}

/// Maps the wedge, loaded at an address, where it belongs. Called by the code in
/// [`entry`](super::entry), once.
#[unsafe(no_mangle)]
extern "C" fn l4_early(info: u64, loaded: u64, linked: u64) -> u64 {
    // SAFETY: seL4 has put it there.
    let info = unsafe { BootInfo::find(info) };
    use_version(info.version);
    // SAFETY: seL4 has given the first thread this buffer.
    let kernel = unsafe { Kernel::new(info.ipc_buffer()) };
    if let Ok(used) = map(kernel, &info, loaded, linked) {
        return used.word();
    }
    tell(kernel, &info);
    loop {
        core::hint::spin_loop();
    }
}

/// Says why it cannot go on, on the first serial port. In another configuration of seL4's the
/// numbers of invocations are others, and nobody tells which: the first one that the capability for
/// the ports does not refuse is the first of theirs.
fn tell(kernel: Kernel, info: &BootInfo) {
    const SERIAL_PORT: u64 = 0x3f8;
    const LINE_STATUS: u64 = SERIAL_PORT + 5;
    const FARTHEST: u64 = 32;
    const WHY: &[u8] =
        b"afterburner: seL4 does not map the wedge's window: it has to be built for one processor, without \
        MCS, huge pages, IOMMU and VTX\r\nafterburner: stopped\r\n";
    let issued = info.empty().end - 1;
    let numbers = |first: u64| first..first + FARTHEST;
    let (slot, input) = if let Some(first) = abi().io_port_control_issue {
        let words = [0, 0xffff, issued, 64];
        let issue = |number: &u64| kernel.invoke(initial::IO_PORTS, *number, &[initial::CNODE], &words).is_ok();
        (issued, numbers(first).find(issue).map(|number| number + 1))
    } else {
        let read = |number: &u64| kernel.invoke(initial::IO_PORTS, *number, &[], &[LINE_STATUS]).is_ok();
        (initial::IO_PORTS, numbers(abi().io_port_in).find(read))
    };
    let Some(input) = input else { return };
    let output = input + (abi().io_port_out - abi().io_port_in);
    for byte in WHY {
        let _ = kernel.invoke(slot, output, &[], &[SERIAL_PORT, (*byte).into()]);
    }
}

fn map(kernel: Kernel, info: &BootInfo, loaded: u64, linked: u64) -> Result<Used, Refused> {
    const NOT_ENOUGH: Refused = Refused(10);
    let least = (TABLES * PAGE).next_power_of_two();
    let mut found: Option<super::bootinfo::Untyped> = None;
    for piece in info.untyped() {
        let fits = !piece.is_device && 1 << piece.bits >= least;
        if fits && found.is_none_or(|found| piece.bits < found.bits) {
            found = Some(piece);
        }
    }
    let untyped = found.ok_or(NOT_ENOUGH)?.slot;
    let mut next = info.empty().start;
    let window = linked - LOAD_ADDRESS;
    let mut add = |kind, label, address: u64| -> Result<(), Refused> {
        let slot = next;
        next += 1;
        kernel.invoke(untyped, abi().untyped_retype, &[initial::CNODE], &[kind, 0, 0, 0, slot, 1])?;
        kernel.invoke(slot, label, &[initial::VSPACE], &[address, 0]).map(|_| ())
    };
    add(object::PDPT, abi().pdpt_map, window)?;
    add(object::PAGE_DIRECTORY, abi().page_directory_map, window)?;
    for table in 0..TABLES - 2 {
        add(object::PAGE_TABLE, abi().page_table_map, window + (table << shift(2)))?;
    }
    // The parameters are the wedge's first bytes.
    // SAFETY: seL4 has loaded the wedge there.
    let Parameters { arena, .. } = unsafe { pointer::<Parameters>(loaded).read_volatile() };
    let pages = (arena.offset + arena.length).div_ceil(PAGE);
    for page in 0..pages {
        let frame = info.image_frame(loaded + page * PAGE);
        let copy = next + page;
        let words = [copy, 64, frame, 64, rights::ALL];
        kernel.invoke(initial::CNODE, abi().cnode_copy, &[initial::CNODE], &words)?;
        kernel.invoke(copy, abi().page_map, &[initial::VSPACE], &[linked + page * PAGE, rights::READ_AND_WRITE, 0])?;
    }
    Ok(Used { untyped, next: next + pages })
}
