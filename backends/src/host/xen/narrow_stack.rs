//! Return to user mode on a stack of 16 bits.
//!
//! IRETQ loads as much of RSP as the new stack segment's B flag says, unless it returns to 64-bit
//! code: with B = 0, SP (SDM Vol. 3A, 3.4.5; APM Vol. 3, IRET). Bits 63:16 stay those of the stack
//! that IRETQ was executed on, and the program sees them. Linux therefore executes it on a stack
//! whose bits 31:16 are the program's (6.1, `native_irq_return_ldt`). Here that IRETQ is emulated,
//! and the one that is executed is Xen's, on Xen's stack: the program's ESP would be wrong, and
//! would tell where Xen keeps its stacks.
//!
//! So this step is not left to Xen. From ring 3 to ring 3 IRETQ needs no privilege, and in 64-bit
//! mode it always pops RSP and SS (SDM Vol. 2A, IRET, `IA-32e-MODE`; Vol. 3A, 6.14.3). Xen enters
//! user mode on a springboard, a page of the wedge's with an IRETQ and the frame for it and nothing
//! else. User mode's root maps it, read-only, where bits 63:16 of an address are those that RSP is
//! to have: for Linux's IRETQ, where Linux's own stack would be. There is room for it anywhere: a
//! user root has nothing in its upper half. The tables that lead there do so for all values of bits
//! 38:16, so that a return links them to the root, and writes nothing else.
//!
//! What interrupts the IRETQ, an event or an exception of its own, is told as if the return had
//! been Xen's: the context is the one behind it. The next entry takes the page out of the address
//! space again. Entries that do not come by Rust stay in that address space, so that a program can
//! never find another's frame on the page, but at most the last of its own.
//!
//! Xen's own interrupts return by Xen's IRETQ. If one that is not for the guest comes in while a
//! program is on such a stack, the program's ESP is lost all the same.

use core::ops::Range;
use core::sync::atomic::Ordering;

use wedge::cpu::{Context, Frame};
use wedge::shadow::{Host as _, Level};

use wedge::x86::flags;
use wedge::x86::segment::Descriptor;

use super::cpu::CPU;
use super::entry::cause;
use super::guest::{Springboard, Vm, Xen};
use super::hypercall;
use super::interface::{KERNEL_CS, KERNEL_SS, mmuext};
use super::memory::LINEAR;
use super::segments::Segments;
use super::tables::Tables;

/// IRETQ, as the first word.
const IRETQ: u64 = u64::from_le_bytes([0x48, 0xcf, 0, 0, 0, 0, 0, 0]);
/// The words of its frame.
const FRAME: Range<usize> = 1..6;

impl Springboard {
    /// One that is not in use; `None` if there are no page tables left.
    pub(super) fn new(tables: &mut Tables) -> Option<Self> {
        let mut table = |level| tables.allocate(level, 0);
        CPU.springboard.page(0)[0].store(IRETQ, Ordering::Relaxed);
        let chain = [table(Level::L3)?, table(Level::L2)?, table(Level::L1)?];
        tables.lead_everywhere(chain, tables.memory.machine_of(CPU.springboard.address(0)));
        tables.pin(chain[0], mmuext::PIN_L3_TABLE);
        Some(Self { pointers: chain[0], address: None })
    }

    fn set_frame(&Frame { rip, cs, rflags, rsp, ss }: &Frame) {
        for (word, value) in CPU.springboard.page(0)[FRAME].iter().zip([rip, cs, rflags, rsp, ss]) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn frame() -> Frame {
        let [rip, cs, rflags, rsp, ss] =
            core::array::from_fn(|number| CPU.springboard.page(0)[FRAME.start + number].load(Ordering::Relaxed));
        Frame { rip, cs, rflags, rsp, ss }
    }

    /// Whether a return is to a stack segment of 16 bits, and not to 64-bit code. If a selector
    /// leads nowhere, the return fails in Xen as it should.
    fn is_for(code: u64, stack: u64, segments: &Segments) -> bool {
        let [code, stack] = [code, stack].map(|selector| Descriptor(segments.descriptor(selector as u16)));
        stack.is_present() && !stack.is_big() && !code.is_long()
    }

    /// Where in user mode's upper half bits 31:16 of addresses are those of RSP, and if it can be,
    /// all above, too. It cannot if RSP was loaded by the program itself: then these are bits that
    /// code which uses such a stack does not see.
    fn address_for(rsp: u64) -> u64 {
        const ANYWHERE: u64 = 0xffff_ff00_0000_0000;
        if rsp >= LINEAR { rsp & !0xffff } else { ANYWHERE | rsp & 0xffff_0000 }
    }

    /// Where the instruction, then where its frame is, of a springboard at an address.
    fn start(address: u64) -> (u64, u64) {
        (address, address + 8 * FRAME.start as u64)
    }
}

impl Xen {
    /// A context that is about to go on in user mode goes by the springboard, if its stack has 16
    /// bits.
    pub(super) fn use_springboard(vm: &mut Vm, context: &mut Context) {
        if !Springboard::is_for(context.cs, context.ss, &vm.vcpu.processor.segments) {
            return;
        }
        let Context { rip, cs, rflags, rsp, ss, .. } = *context;
        Springboard::set_frame(&Frame { rip, cs, rflags, rsp, ss });
        let address = Springboard::address_for(rsp);
        vm.machine.space.memory.set_users_pointers(vm.vcpu.processor.springboard.pointers, address, true);
        vm.vcpu.processor.springboard.address = Some(address);
        (context.rip, context.rsp) = Springboard::start(address);
        // Neither TF, nor NT, with which there is no IRETQ.
        (context.cs, context.rflags, context.ss) = (KERNEL_CS, rflags & flags::INTERRUPT | flags::FIXED, KERNEL_SS);
    }

    /// A context that comes in: the springboard is no longer in use, and one that was still on it
    /// has left it.
    pub(super) fn leave_springboard(vm: &mut Vm, context: &mut Context) {
        let Some(address) = vm.vcpu.processor.springboard.address.take() else { return };
        vm.machine.space.memory.set_users_pointers(vm.vcpu.processor.springboard.pointers, address, false);
        hypercall::flush_page(address);
        if !context.is_user() || (context.rip, context.rsp) != Springboard::start(address) {
            return;
        }
        let Frame { rip, cs, rflags, rsp, ss } = Springboard::frame();
        (context.rip, context.cs, context.rflags, context.rsp, context.ss) = (rip, cs, rflags, rsp, ss);
        if context.vector < cause::EVENT {
            context.vector = cause::FAILSAFE;
        }
    }
}
