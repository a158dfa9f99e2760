//! Registers that a guest has beside those that the interpreter knows.

use std::cell::Cell;
use std::rc::Rc;

use wedge::cpu::{ControlRegister, CpuidResult, DescriptorTable, Segment, VirtualCpu};
use wedge::vm::{self, Space};

use super::memory::{Ram, Tables};
use super::offset;

/// The registers.
#[derive(Debug)]
pub(super) struct Processor {
    window: Ram,
    clock: Rc<Cell<u64>>,
    selectors: [u16; 4],
    fs_base: u64,
    gs_bases: [u64; 2],
    debug: [u64; 8],
}

impl Processor {
    /// With nothing in any register.
    pub(super) fn new(window: Ram, clock: Rc<Cell<u64>>) -> Self {
        Self { window, clock, selectors: [0; 4], fs_base: 0, gs_bases: [0; 2], debug: [0; 8] }
    }

    fn gs_number(&self, other: bool) -> usize {
        let mut swapped = [0];
        self.window.load(offset::GS_SWAPPED, &mut swapped);
        usize::from((swapped[0] != 0) != other)
    }
}

impl vm::Processor<Tables> for Processor {
    /// A processor of the kind that every 64-bit kernel can do with.
    fn cpuid(&mut self, leaf: u32, _: u32) -> CpuidResult {
        const LONG_MODE: u32 = 1 << 29;
        match leaf {
            0 => CpuidResult { eax: 1, ..CpuidResult::default() },
            0x8000_0000 => CpuidResult { eax: 0x8000_0008, ..CpuidResult::default() },
            0x8000_0001 => CpuidResult { edx: LONG_MODE, ..CpuidResult::default() },
            0x8000_0008 => CpuidResult { eax: 0x3024, ..CpuidResult::default() },
            _ => CpuidResult::default(),
        }
    }

    fn control_changed(&mut self, _: &VirtualCpu, _: ControlRegister, _: u64) {}

    fn flushed(&mut self, _: Option<u64>) {}

    fn load_segment(&mut self, segment: Segment, selector: u16, _: Option<u64>, _: &mut Space<Tables>) {
        self.selectors[segment as usize] = selector;
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
        self.gs_bases[self.gs_number(other)]
    }

    fn set_gs_base(&mut self, other: bool, base: u64) {
        self.gs_bases[self.gs_number(other)] = base;
    }

    fn swap_gs(&mut self) {
        let mut swapped = [0];
        self.window.load(offset::GS_SWAPPED, &mut swapped);
        self.window.store(offset::GS_SWAPPED, &[!swapped[0]]);
    }

    fn tables_changed(&mut self, _: &VirtualCpu, _: DescriptorTable, _: &mut Space<Tables>) {}

    fn debug_register(&mut self, number: u8) -> u64 {
        self.debug[usize::from(number & 7)]
    }

    fn set_debug_register(&mut self, number: u8, value: u64) -> bool {
        self.debug[usize::from(number & 7)] = value;
        true
    }

    fn time_stamp(&mut self) -> u64 {
        self.clock.get()
    }

    fn set_xcr0(&mut self, _: u64) {}
}
