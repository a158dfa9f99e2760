//! A machine to test on: tables as Linux lays them out, a little memory, and a log of what reached
//! the host.

extern crate std;

mod delivery;
mod floating;
mod identification;
mod instructions;
mod ports;
mod properties;
mod registers;
mod returns;

use std::collections::BTreeMap;
use std::format;
use std::string::String;
use std::vec::Vec;

use super::*;
use crate::x86::control::{cr4, efer};
use crate::x86::flags;
use crate::x86::segment::Selector;

/// Where things are.
const GDT: u64 = 0xffff_8880_0000_1000;
const IDT: u64 = 0xffff_8880_0000_2000;
const TSS: u64 = 0xffff_8880_0000_4000;
const LDT: u64 = 0xffff_8880_0000_6000;
const KERNEL_STACK: u64 = 0xffff_8880_0001_1000;
const RSP0: u64 = 0xffff_8880_0002_1000;
const IST1: u64 = 0xffff_8880_0003_1000;
const KERNEL_DATA: u64 = 0xffff_8880_0004_0000;
const KERNEL_TEXT: u64 = 0xffff_ffff_8100_0000;
const HANDLER: u64 = 0xffff_ffff_8200_0000;
const USER_DATA: u64 = 0x0000_7fff_0000_0000;
const USER_STACK: u64 = USER_DATA + 0x1000;
const USER_TEXT: u64 = 0x40_0000;
const UNMAPPED: u64 = 0xffff_c900_0000_0000;

/// Selectors of the GDT.
const KERNEL_CS32: u16 = 0x08;
const KERNEL_CS: u16 = 0x10;
const KERNEL_DS: u16 = 0x18;
const USER_CS32: u16 = 0x23;
const USER_DS: u16 = 0x2b;
const USER_CS: u16 = 0x33;
const TSS_SELECTOR: u16 = 0x40;
const LDT_SELECTOR: u16 = 0x50;
const CONFORMING: u16 = 0x60;
const ABSENT_CODE: u16 = 0x6b;
const ABSENT_DATA: u16 = 0x73;
const READ_ONLY: u16 = 0x7b;
const LONG_AND_BIG: u16 = 0x83;
const CALL_GATE: u16 = 0x88;
const NEVER_LOADED: u16 = 0x9b;
const OUTSIDE: u16 = 0xa3;
/// Selectors of the LDT.
const LOCAL_DATA: u16 = 0x07;
const LOCAL_CODE: u16 = 0x0f;
const LOCAL_OUTSIDE: u16 = 0x17;

/// A GDT as Linux's (arch/x86/kernel/cpu/common.c, `gdt_page`), and entries that it does not have.
fn gdt() -> Vec<u64> {
    let [tss, tss_upper] = system_descriptor(9, TSS, 0x206f);
    let [ldt, ldt_upper] = system_descriptor(2, LDT, 15);
    std::vec![
        0,
        0x00cf_9b00_0000_ffff, // 08: 32-bit kernel code
        0x00af_9b00_0000_ffff, // 10: kernel code
        0x00cf_9300_0000_ffff, // 18: kernel data
        0x00cf_fb00_0000_ffff, // 20: 32-bit user code
        0x00cf_f300_0000_ffff, // 28: user data
        0x00af_fb00_0000_ffff, // 30: user code
        0,
        tss,
        tss_upper,
        ldt,
        ldt_upper,
        0x00af_9f00_0000_ffff, // 60: conforming kernel code
        0x00af_7b00_0000_ffff, // 68: user code, not present
        0x00cf_7300_0000_ffff, // 70: user data, not present
        0x00cf_f100_0000_ffff, // 78: user data, read-only
        0x00ef_fb00_0000_ffff, // 80: L and D
        0x0000_8c00_0010_0000, // 88: a call gate
        0,
        0x00cf_f200_0000_ffff, // 98: user data, not accessed
    ]
}

fn system_descriptor(kind: u64, base: u64, limit: u64) -> [u64; 2] {
    let low = limit & 0xffff | (base & 0xff_ffff) << 16 | (0x80 | kind) << 40 | (base >> 24 & 0xff) << 56;
    [low, base >> 32]
}

/// One 16-byte gate.
fn gate(kind: u64, dpl: u64, stack: u64, selector: u16, offset: u64) -> [u64; 2] {
    let flags = 0x80 | dpl << 5 | kind;
    [
        offset & 0xffff | u64::from(selector) << 16 | stack << 32 | flags << 40 | (offset >> 16 & 0xffff) << 48,
        offset >> 32,
    ]
}

/// Where the handler of a vector is.
fn handler(vector: u8) -> u64 {
    HANDLER + 16 * u64::from(vector)
}

/// The host: pages of memory, and a log.
struct Fake {
    pages: BTreeMap<u64, [u8; 4096]>,
    log: Vec<String>,
    segments: [u16; 4],
    bases: [u64; 3],
    debug: [u64; 8],
    cpuid: fn(u32, u32) -> CpuidResult,
    /// A program's x87 and SSE registers, if they are kept apart, and in which form they were set.
    floating_point: Option<(FloatingPoint, bool)>,
}

impl Fake {
    fn new() -> Self {
        let mut fake = Self {
            pages: BTreeMap::new(),
            log: Vec::new(),
            segments: [0; 4],
            bases: [0x1000_0000, 0xffff_8880_1000_0000, 0x2000_0000],
            debug: [0; 8],
            cpuid: identification::everything,
            floating_point: None,
        };
        let kernel_pages = [GDT, IDT, TSS, TSS + 0x1000, TSS + 0x2000, KERNEL_DATA];
        let stacks = [KERNEL_STACK, RSP0, IST1, USER_STACK].map(|top| top - 0x1000);
        for page in kernel_pages.into_iter().chain(stacks) {
            fake.pages.insert(page, [0; 4096]);
        }
        fake.put(GDT, &gdt());
        for vector in 0..=255u8 {
            let dpl = if matches!(vector, 3 | 4 | 0x80) { 3 } else { 0 };
            let stack = u64::from(vector == 8);
            fake.put(IDT + 16 * u64::from(vector), &gate(0xe, dpl, stack, KERNEL_CS, handler(vector)));
        }
        fake.put(TSS + 4, &[RSP0]);
        fake.put(TSS + 0x24, &[IST1]);
        fake.put(LDT, &[0x00cf_f300_0000_ffff, 0x00af_fb00_0000_ffff]);
        fake
    }

    fn put(&mut self, address: u64, values: &[u64]) {
        for (at, value) in (address..).step_by(8).zip(values) {
            assert!(self.copy_in(at, &value.to_le_bytes()).is_ok());
        }
    }

    fn get<const N: usize>(&mut self, address: u64) -> [u64; N] {
        core::array::from_fn(|index| memory::read_u64(self, address + 8 * index as u64, false).unwrap())
    }

    fn copy_in(&mut self, address: u64, bytes: &[u8]) -> Result<(), u64> {
        for (at, byte) in (address..=u64::MAX).zip(bytes) {
            let page = self.pages.get_mut(&(at & !0xfff)).ok_or(at)?;
            page[(at & 0xfff) as usize] = *byte;
        }
        Ok(())
    }

    fn check(&self, address: u64, length: usize, user: bool, write: bool) -> Result<(), Exception> {
        assert!(memory::is_range(address, length), "hosts see no address that is not canonical");
        let last = address + (length as u64 - 1);
        let code = u32::from(write) << 1 | u32::from(user) << 2;
        for at in [address, last] {
            let mapped = self.pages.contains_key(&(at & !0xfff));
            if !mapped || (user && at >> 63 != 0) {
                return Err(Exception::page_fault(code | u32::from(mapped), at));
            }
        }
        Ok(())
    }

    /// What was logged since it was last asked for.
    fn taken(&mut self) -> Vec<String> {
        core::mem::take(&mut self.log)
    }
}

impl Host for Fake {
    fn read(&mut self, address: u64, bytes: &mut [u8], user: bool) -> Result<(), Exception> {
        self.check(address, bytes.len(), user, false)?;
        for (at, byte) in (address..=u64::MAX).zip(bytes) {
            *byte = self.pages[&(at & !0xfff)][(at & 0xfff) as usize];
        }
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8], user: bool) -> Result<(), Exception> {
        self.check(address, bytes.len(), user, true)?;
        self.copy_in(address, bytes).map_err(|at| Exception::page_fault(2, at))
    }

    fn raw_cpuid(&mut self, leaf: u32, subleaf: u32) -> CpuidResult {
        (self.cpuid)(leaf, subleaf)
    }

    fn control_changed(&mut self, _: &VirtualCpu, register: ControlRegister, old: u64) {
        self.log.push(format!("{register:?} was {old:#x}"));
    }

    fn load_root(&mut self, cpu: &VirtualCpu, keep: bool) {
        self.log.push(format!("root {:#x}, keep {keep}", cpu.cr3));
    }

    fn flush_page(&mut self, address: u64) {
        self.log.push(format!("flush {address:#x}"));
    }

    fn flush_pcid_page(&mut self, pcid: u16, address: u64) {
        self.log.push(format!("flush {address:#x} of {pcid}"));
    }

    fn flush_pcid(&mut self, pcid: u16) {
        self.log.push(format!("flush {pcid}"));
    }

    fn flush_all(&mut self, include_global: bool) {
        self.log.push(format!("flush all, global {include_global}"));
    }

    fn load_segment(&mut self, segment: Segment, selector: u16, descriptor: Option<u64>) {
        self.segments[segment as usize] = selector;
        self.log.push(format!("{segment:?} {selector:#x} {:#x}", descriptor.unwrap_or(0)));
    }

    fn read_segment(&mut self, segment: Segment) -> u16 {
        self.segments[segment as usize]
    }

    fn fs_base(&mut self) -> u64 {
        self.bases[0]
    }

    fn set_fs_base(&mut self, base: u64) {
        self.bases[0] = base;
    }

    fn gs_base(&mut self) -> u64 {
        self.bases[1]
    }

    fn set_gs_base(&mut self, base: u64) {
        self.bases[1] = base;
    }

    fn kernel_gs_base(&mut self) -> u64 {
        self.bases[2]
    }

    fn set_kernel_gs_base(&mut self, base: u64) {
        self.bases[2] = base;
    }

    fn swap_gs(&mut self) {
        self.bases.swap(1, 2);
    }

    fn tables_changed(&mut self, _: &VirtualCpu, what: DescriptorTable) {
        self.log.push(format!("{what:?}"));
    }

    fn debug_register(&mut self, number: u8) -> u64 {
        self.debug[usize::from(number)]
    }

    fn set_debug_register(&mut self, number: u8, value: u64) -> bool {
        self.debug[usize::from(number)] = value;
        value != 0xbad
    }

    fn port_in(&mut self, port: u16, size: Size) -> u32 {
        self.log.push(format!("in {port:#x} {size:?}"));
        0x1234_5678
    }

    fn port_out(&mut self, port: u16, size: Size, value: u32) {
        self.log.push(format!("out {port:#x} {size:?} {value:#x}"));
    }

    fn time_stamp(&mut self) -> u64 {
        0x1_0000_0002
    }

    fn set_xcr0(&mut self, value: u64) {
        self.log.push(format!("xcr0 {value:#x}"));
    }

    fn save_floating_point(&mut self, state: &mut FloatingPoint, _: bool) -> bool {
        self.floating_point.inspect(|(kept, _)| *state = *kept).is_some()
    }

    fn load_floating_point(&mut self, state: &FloatingPoint, wide: bool) {
        self.floating_point = Some((*state, wide));
    }

    fn wait_for_interrupt(&mut self, _: &VirtualCpu, context: &Context) {
        self.log.push(format!("wait, IF {}", context.rflags >> 9 & 1));
    }

    fn write_back_caches(&mut self) {
        self.log.push("wbinvd".into());
    }
}

/// CPU, context and host.
struct World {
    cpu: VirtualCpu,
    context: Context,
    host: Fake,
}

impl World {
    /// In the kernel, interrupts on.
    fn kernel() -> Self {
        let mut host = Fake::new();
        let mut cpu = VirtualCpu::new(Limits::of(&mut host));
        cpu.gdt = Table { base: GDT, limit: u16::try_from(gdt().len() * 8 - 1).unwrap() };
        cpu.idt = Table { base: IDT, limit: 0xfff };
        cpu.tr = LoadedSegment { selector: Selector(TSS_SELECTOR), base: TSS, limit: 0x206f };
        cpu.ldt = LoadedSegment { selector: Selector(LDT_SELECTOR), base: LDT, limit: 15 };
        cpu.efer |= efer::SCE;
        let context = Context {
            rip: KERNEL_TEXT,
            cs: u64::from(KERNEL_CS),
            rflags: flags::FIXED | flags::INTERRUPT,
            rsp: KERNEL_STACK - 0x200,
            ss: u64::from(KERNEL_DS),
            ..Context::default()
        };
        Self { cpu, context, host }
    }

    /// In a user program.
    fn user() -> Self {
        let mut world = Self::kernel();
        world.context.rip = USER_TEXT;
        world.context.cs = u64::from(USER_CS);
        world.context.rsp = USER_STACK - 0x208;
        world.context.ss = u64::from(USER_DS);
        world
    }

    /// Executes an instruction.
    fn execute(&mut self, bytes: &[u8]) -> Result<Flow, Exception> {
        let instruction = decode(bytes, self.context.rip).expect("the test's instruction is one");
        assert_eq!(instruction.len(), bytes.len());
        emulate(&mut self.cpu, &mut self.context, &instruction, &mut self.host)
    }

    /// Executes an instruction that does not jump, and does not fault.
    fn next(&mut self, bytes: &[u8]) {
        assert_eq!(self.execute(bytes), Ok(Flow::Next), "{bytes:02x?}");
    }

    /// Executes an instruction that faults, and sees to it that nothing has changed.
    fn faults(&mut self, bytes: &[u8], with: Exception) {
        let context = self.context;
        assert_eq!(self.execute(bytes), Err(with), "{bytes:02x?}");
        assert_eq!(self.context, context, "{bytes:02x?}");
        assert!(self.host.taken().is_empty(), "{bytes:02x?}");
    }

    fn deliver(&mut self, event: Event) -> Result<(), Shutdown> {
        deliver(&mut self.cpu, &mut self.context, event, &mut self.host)
    }
}

const PROTECTION: Exception = Exception::PROTECTION;
const INVALID_OPCODE: Exception = Exception::INVALID_OPCODE;

#[test]
fn canonical_addresses() {
    for (address, canonical) in [
        (0, true),
        (0x0000_7fff_ffff_ffff, true),
        (0x0000_8000_0000_0000, false),
        (0xffff_7fff_ffff_ffff, false),
        (0xffff_8000_0000_0000, true),
        (u64::MAX, true),
    ] {
        assert_eq!(is_canonical(address), canonical, "{address:#x}");
    }
}
