//! The way to seL4: its system calls, by SYSENTER (`libsel4/sel4_arch_include/x86_64/`,
//! `syscalls_sysenter.h`), and invocations of capabilities.
//!
//! A message is a word that describes it, four registers, and the rest in the IPC buffer of the
//! thread. Each of the wedge's two threads has its own buffer, and calls by its own
//! [`Kernel`].

use core::arch::asm;

use wedge::vm::{Calls, Counts};

use super::abi::{Refused, abi};
use super::memory::pointer;
use crate::runtime::timestamp;

/// The address of a capability in the space of the wedge's threads.
pub(super) type Slot = u64;

/// Capabilities that the first thread has from the start (`seL4_RootCNodeCapSlots`).
pub(super) mod initial {
    use super::Slot;

    pub(in super::super) const THREAD: Slot = 1;
    pub(in super::super) const CNODE: Slot = 2;
    pub(in super::super) const VSPACE: Slot = 3;
    pub(in super::super) const IRQ_CONTROL: Slot = 4;
    pub(in super::super) const ASID_POOL: Slot = 6;
    /// All I/O ports, or what gives capabilities for them.
    pub(in super::super) const IO_PORTS: Slot = 7;
}

/// Object types (`api_object_t` and those of the architecture).
pub(super) mod object {
    pub(in super::super) const UNTYPED: u64 = 0;
    pub(in super::super) const TCB: u64 = 1;
    pub(in super::super) const ENDPOINT: u64 = 2;
    pub(in super::super) const NOTIFICATION: u64 = 3;
    pub(in super::super) const CNODE: u64 = 4;
    pub(in super::super) const PDPT: u64 = 5;
    pub(in super::super) const PML4: u64 = 6;
    pub(in super::super) const PAGE: u64 = 7;
    pub(in super::super) const PAGE_TABLE: u64 = 9;
    pub(in super::super) const PAGE_DIRECTORY: u64 = 10;
}

/// Rights of capabilities and mappings (`seL4_CapRights`).
pub(super) mod rights {
    pub(in super::super) const READ: u64 = 2;
    pub(in super::super) const READ_AND_WRITE: u64 = 3;
    pub(in super::super) const ALL: u64 = 7;
    /// To send, also with a capability to reply, as faults are sent; and not to receive.
    pub(in super::super) const SEND: u64 = 5;
}

/// Kinds of fault messages (`seL4_Fault_tag`), without MCS.
pub(super) mod fault {
    pub(in super::super) const USER_EXCEPTION: u64 = 3;
    pub(in super::super) const VM_FAULT: u64 = 5;
}

/// System calls.
const CALL: i64 = -1;
const REPLY_RECV: i64 = -2;
const SEND: i64 = -3;
const RECV: i64 = -5;

/// How often each was called.
static COUNTS: Counts<8> = Counts::new();

/// That, with names.
pub(super) fn calls() -> Calls {
    const NAMES: [(i64, &str); 4] =
        [(CALL, "seL4_Call"), (REPLY_RECV, "seL4_ReplyRecv"), (SEND, "seL4_Send"), (RECV, "seL4_Recv")];
    COUNTS.calls(|number| {
        let name = NAMES.iter().find(|(known, _)| known.unsigned_abs() as usize == number);
        name.map_or("seL4", |(_, name)| *name)
    })
}

/// The last of them, in any version: what is below sends no message.
const LAST: u32 = (-16_i32).cast_unsigned();

/// Whether a thread with this in RAX may have sent its message by a system call, which stays there,
/// and goes on. Who has come upon a fault waits for the answer.
pub(super) const fn may_have_called(rax: u64) -> bool {
    rax as u32 >= LAST
}

/// Words of a message.
pub(super) const MESSAGE_WORDS: usize = 120;
/// How many of them are in registers.
const IN_REGISTERS: usize = 4;
/// Where in the buffer the capabilities are that are sent.
const CAPABILITIES: usize = 122;

/// What has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    /// Who has sent it: the badge of the capability, or bits of a notification.
    pub(super) badge: u64,
    pub(super) label: u64,
    pub(super) registers: [u64; IN_REGISTERS],
}

impl Message {
    fn new(badge: u64, info: u64, registers: [u64; IN_REGISTERS]) -> Self {
        Self { badge, label: info >> 12, registers }
    }
}

/// One of the wedge's threads, by the address of its IPC buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel {
    buffer: u64,
}

const fn information(label: u64, capabilities: usize, length: usize) -> u64 {
    label << 12 | (capabilities as u64) << 7 | length as u64
}

impl Kernel {
    /// The thread with this IPC buffer.
    ///
    /// # Safety
    ///
    /// The buffer is mapped there, as long as there is a `Kernel`, and nobody but this thread, and
    /// seL4 for it, accesses it.
    pub(super) const unsafe fn new(buffer: u64) -> Self {
        Self { buffer }
    }

    /// A word of a message that came last, or that is sent next.
    pub(super) fn word(self, number: usize) -> u64 {
        debug_assert!((IN_REGISTERS..MESSAGE_WORDS).contains(&number));
        // SAFETY: the buffer's, by `new`.
        unsafe { pointer::<u64>(self.buffer).add(1 + number).read_volatile() }
    }

    fn set_word(self, at: usize, value: u64) {
        // SAFETY: as above.
        unsafe { pointer::<u64>(self.buffer).add(at).write_volatile(value) };
    }

    fn put(self, capabilities: &[Slot], words: &[u64]) -> [u64; IN_REGISTERS] {
        // One by one: to copy a slice is to call a function by its address, and the wedge is not
        // there yet when it invokes first ([`early`](super::early)).
        let registers = [0, 1, 2, 3].map(|number| words.get(number).copied().unwrap_or(0));
        const { assert!(IN_REGISTERS == 4) };
        for (number, word) in words.iter().enumerate().skip(IN_REGISTERS) {
            self.set_word(1 + number, *word);
        }
        for (number, capability) in capabilities.iter().enumerate() {
            self.set_word(CAPABILITIES + number, *capability);
        }
        registers
    }

    /// Invokes a capability.
    pub(super) fn invoke(
        self,
        capability: Slot,
        label: u64,
        capabilities: &[Slot],
        words: &[u64],
    ) -> Result<[u64; IN_REGISTERS], Refused> {
        let registers = self.put(capabilities, words);
        let answer = system_call(CALL, capability, information(label, capabilities.len(), words.len()), registers);
        if answer.label == 0 { Ok(answer.registers) } else { Err(Refused(answer.label)) }
    }

    /// Answers the latest message, and waits for the next.
    #[expect(clippy::unused_self, reason = "as `receive`")]
    pub(super) fn reply_and_receive(self, endpoint: Slot, words: &[u64]) -> Message {
        let mut registers = [0; IN_REGISTERS];
        registers[..words.len()].copy_from_slice(words);
        system_call(REPLY_RECV, endpoint, information(0, 0, words.len()), registers)
    }

    /// Waits for a message. Who waits for the answer to an earlier one gets none any more.
    #[expect(clippy::unused_self, reason = "the thread that has this buffer waits, and no other")]
    pub(super) fn receive(self, endpoint: Slot) -> Message {
        system_call(RECV, endpoint, 0, [0; IN_REGISTERS])
    }

    /// Signals a notification.
    #[expect(clippy::unused_self, reason = "as `receive`")]
    pub(super) fn signal(self, notification: Slot) {
        system_call(SEND, notification, 0, [0; IN_REGISTERS]);
    }

    /// The first of a thread's registers, as many as there is room for.
    pub(super) fn read_registers(self, thread: Slot, suspend: bool, registers: &mut [u64]) -> Result<(), Refused> {
        let words = [u64::from(suspend), registers.len() as u64];
        let first = self.invoke(thread, abi().tcb_read_registers, &[], &words)?;
        let (in_registers, others) = registers.split_at_mut(registers.len().min(IN_REGISTERS));
        in_registers.copy_from_slice(&first[..in_registers.len()]);
        // SAFETY: the buffer's, by `new`, and longer than any number of registers.
        let words = unsafe { pointer::<[u64; 16]>(self.buffer + 8 * (1 + IN_REGISTERS as u64)).read_volatile() };
        others.copy_from_slice(&words[..others.len()]);
        Ok(())
    }

    /// Sets the first of a thread's registers, and has it go on there.
    pub(super) fn write_registers(self, thread: Slot, registers: &[u64]) -> Result<(), Refused> {
        const RESUME: u64 = 1;
        let mut words = [0; 2 + 20];
        (words[0], words[1]) = (RESUME, registers.len() as u64);
        words[2..2 + registers.len()].copy_from_slice(registers);
        self.invoke(thread, abi().tcb_write_registers, &[], &words[..2 + registers.len()]).map(|_| ())
    }
}

/// A system call: the capability's address and badge in RDI, the description of the message in RSI,
/// the first four words of it in R10, R8, R9, R15; RSP in RCX and the address of the instruction in
/// RDX, which is how the kernel finds back.
fn system_call(number: i64, capability: u64, information: u64, registers: [u64; IN_REGISTERS]) -> Message {
    let (badge, info);
    let mut words = registers;
    let counted = COUNTS.begin(timestamp);
    // SAFETY: seL4 changes the registers that are named, and a buffer that is nobody's else.
    unsafe {
        asm!(
            "mov rcx, rsp",
            "lea rdx, [rip + 2f]",
            "2: sysenter",
            inlateout("rax") number => _,
            inlateout("rdi") capability => badge,
            inlateout("rsi") information => info,
            inlateout("r10") words[0],
            inlateout("r8") words[1],
            inlateout("r9") words[2],
            inlateout("r15") words[3],
            lateout("rcx") _,
            lateout("rdx") _,
        );
    }
    COUNTS.end(number.unsigned_abs() as usize, counted, timestamp);
    Message::new(badge, info, words)
}
