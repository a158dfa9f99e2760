//! Where the guest's programs run: for each of the guest's address spaces one of seL4's, and a
//! thread in it, which runs whichever program of that space is to run.
//!
//! The thread's faults are messages to the wedge. It has one capability, that for the endpoint that
//! they go to, and the badge says which space it is. By that a program can send messages itself,
//! which look like faults; so no message is believed more than what the program could have caused.
//!
//! A thread that has come upon a fault goes on when it is answered, which costs less than to tell
//! seL4 of the thread again; an exception's answer says where, a page fault's nothing. One thread
//! can be answered at a time, the one whose message came last.
//!
//! What a space had stays when it ends, for the next will need as much of it; all is given back
//! when memory for objects is short.

use core::sync::atomic::Ordering;

use super::abi::abi;
use super::cpu::CPU;
use super::kernel::{Kernel, Message, Slot, fault, initial, may_have_called, object, rights};
use super::objects::{Failure, Objects, Piece, refused};
use super::vspace::{Structures, VSpace};
use crate::host::soft::SPACES;

/// The priority of programs. That of the wedge and the guest's kernel is higher.
const PRIORITY: u64 = 100;

/// What a space has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Program {
    root: Piece,
    thread: Piece,
    pub(super) vspace: VSpace,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Programs {
    each: [Option<Program>; SPACES],
    /// The CNodes of two slots that the threads have, once they are made.
    nodes: [Slot; SPACES],
    /// Where faults go.
    endpoint: Slot,
    /// The bases of FS and GS that the threads have.
    bases: [[u64; 2]; SPACES],
    kernel: Kernel,
}

/// Set in the badge of what wakes the wedge's thread.
pub(super) const WAKES: u64 = 1 << 62;

/// The slot of a thread's one capability.
const FAULTS: u64 = 1;
/// The binary logarithm of the number of slots that a thread has.
const NODE_BITS: u64 = 1;

impl Programs {
    pub(super) const fn new(endpoint: Slot, kernel: Kernel) -> Self {
        Self { each: [None; SPACES], nodes: [0; SPACES], endpoint, bases: [[0; 2]; SPACES], kernel }
    }

    /// The badge of a space's messages.
    const fn badge(space: usize) -> u64 {
        space as u64 + 1
    }

    /// Whether a space's thread can go on where it was, with these bases, by an answer.
    pub(super) fn can_repeat(&self, space: usize, bases: [u64; 2]) -> bool {
        self.bases[space] == bases && Answer::due() == Some(Answer { space, label: fault::VM_FAULT })
    }

    /// Has a space's thread go on, at an address, with a stack and flags, or where it was, if it
    /// [can](Self::can_repeat); with other bases, if there are any. Then waits for it.
    pub(super) fn run(
        &mut self,
        space: usize,
        thread: Slot,
        at: Option<[u64; 3]>,
        bases: Option<[u64; 2]>,
    ) -> Result<Option<Message>, Failure> {
        let changed = bases.filter(|bases| self.bases[space] != *bases);
        let due = Answer::due();
        Answer::forget();
        let message = match (at, changed) {
            (Some(at), None) if due == Some(Answer { space, label: fault::USER_EXCEPTION }) => {
                self.kernel.reply_and_receive(self.endpoint, &at)
            }
            (None, _) => self.kernel.reply_and_receive(self.endpoint, &[]),
            (Some(at), _) => {
                self.tell(space, thread, at, changed)?;
                self.kernel.receive(self.endpoint)
            }
        };
        Ok(self.wait_from(space, message))
    }

    /// Sets what a thread goes on with, and has it do so. The other registers it gets by itself.
    fn tell(&mut self, space: usize, thread: Slot, at: [u64; 3], bases: Option<[u64; 2]>) -> Result<(), Failure> {
        let mut registers = [0; 20];
        registers[..3].copy_from_slice(&at);
        let length = match bases {
            Some(bases) => {
                registers[18..].copy_from_slice(&bases);
                self.bases[space] = bases;
                abi().registers
            }
            None => 3,
        };
        self.kernel.write_registers(thread, &registers[..length]).map_err(refused("a program's registers"))
    }

    /// Waits until a space's program has stopped, or something has come in.
    pub(super) fn wait(&self, space: usize) -> Option<Message> {
        self.wait_from(space, self.kernel.receive(self.endpoint))
    }

    /// The same, where a message has come.
    fn wait_from(&self, space: usize, mut message: Message) -> Option<Message> {
        loop {
            if message.badge == Self::badge(space) {
                return Some(message);
            }
            // What a program of another space has sent, by itself, is nothing.
            if message.badge & WAKES != 0 {
                return None;
            }
            message = self.kernel.receive(self.endpoint);
        }
    }

    /// A space's thread has stopped at UD2 in the stub, where no program can have sent the message.
    pub(super) fn stopped_at_stub(space: usize, message: &Message) -> Result<(), Failure> {
        if message.label != fault::USER_EXCEPTION {
            return Err(Failure::Stub(message.label));
        }
        Answer { space, label: message.label }.note();
        Ok(())
    }

    /// Reads the registers of a thread that has stopped by a message, or that is stopped by this. It is
    /// stopped for certain: a message may be one that the program has sent by itself, and not a fault.
    pub(super) fn stopped(
        &mut self,
        space: usize,
        thread: Slot,
        message: Option<&Message>,
        registers: &mut [u64; 20],
    ) -> Result<(), Failure> {
        const RAX: usize = 3;
        // Without a register for it, a program cannot change the base.
        let length = if abi().registers == registers.len() { registers.len() } else { 18 };
        let kernel = self.kernel;
        let mut read = |suspend| {
            let read = kernel.read_registers(thread, suspend, &mut registers[..length]);
            read.map(|()| registers[RAX]).map_err(refused("a program's registers"))
        };
        let fault = message.map(|message| message.label);
        let fault = fault.filter(|label| matches!(*label, fault::USER_EXCEPTION | fault::VM_FAULT));
        let rax = read(fault.is_none())?;
        match fault {
            Some(_) if may_have_called(rax) => {
                read(true)?;
            }
            Some(label) => Answer { space, label }.note(),
            None => {}
        }
        if length == registers.len() {
            self.bases[space] = [registers[18], registers[19]];
        }
        Ok(())
    }

    /// What a space has.
    pub(super) fn get(&mut self, space: usize) -> Option<&mut Program> {
        self.each[space].as_mut()
    }

    /// The thread of a space's programs.
    pub(super) fn thread(&self, space: usize, structures: &Structures) -> Option<Slot> {
        self.each[space].map(|program| structures.pool.slot(program.thread))
    }

    /// Makes what a space needs. `None` if there is no memory for it.
    pub(super) fn make(
        &mut self,
        space: usize,
        objects: &mut Objects,
        structures: &mut Structures,
    ) -> Result<Option<()>, Failure> {
        let node = self.node(space, objects)?;
        let Some(root) = structures.pool.take(objects, object::PML4, 0)? else { return Ok(None) };
        let Some(thread) = structures.pool.take(objects, object::TCB, 0)? else {
            structures.pool.give_back(objects, root)?;
            return Ok(None);
        };
        let [root_slot, thread_slot] = [root, thread].map(|piece| structures.pool.slot(piece));
        let invoke = |capability, label, capabilities: &[Slot], words: &[u64], what| {
            objects.kernel.invoke(capability, label, capabilities, words).map_err(refused(what))
        };
        invoke(initial::ASID_POOL, abi().asid_pool_assign, &[root_slot], &[], "another address space")?;
        let guard = (64 - NODE_BITS) << abi().guard_shift;
        invoke(thread_slot, abi().tcb_set_space, &[node, root_slot], &[FAULTS, guard, 0], "a thread's spaces")?;
        set_priority(objects, thread_slot, PRIORITY)?;
        self.each[space] = Some(Program { root, thread, vspace: VSpace::new(root_slot) });
        self.bases[space] = [0; 2];
        Ok(Some(()))
    }

    /// A CNode with nothing but the capability for the endpoint.
    fn node(&mut self, space: usize, objects: &mut Objects) -> Result<Slot, Failure> {
        const SLOT_BITS: u64 = 5;
        if self.nodes[space] == 0 {
            let node = objects.slots(1)?;
            objects.object(object::CNODE, NODE_BITS + SLOT_BITS, NODE_BITS, node)?;
            objects
                .mint(self.endpoint, (node, FAULTS, NODE_BITS), rights::SEND, Self::badge(space))
                .map_err(refused("a badge of an endpoint"))?;
            self.nodes[space] = node;
        }
        Ok(self.nodes[space])
    }

    /// Gives back what a space has. Nothing is mapped there any more.
    pub(super) fn give_back(
        &mut self,
        space: usize,
        objects: &Objects,
        structures: &mut Structures,
    ) -> Result<(), Failure> {
        let Some(Program { root, thread, mut vspace }) = self.each[space].take() else { return Ok(()) };
        if Answer::due().is_some_and(|answer| answer.space == space) {
            Answer::forget();
        }
        structures.pool.give_back(objects, thread)?;
        structures.give_back_tables(objects, &mut vspace)?;
        structures.pool.give_back(objects, root)
    }
}

/// An answer that is due: to a space's thread, for a message with a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    space: usize,
    label: u64,
}

impl Answer {
    const LABEL_BITS: u32 = 8;

    /// The one that is due.
    fn due() -> Option<Self> {
        let due = CPU.answer.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Self { space: (due >> Self::LABEL_BITS) as usize, label: due & 0xff })
    }

    /// It is due from here on, and no other.
    fn note(self) {
        CPU.answer.store(((self.space as u64) << Self::LABEL_BITS) + self.label + 1, Ordering::Relaxed);
    }

    /// The wedge's thread waits for something else, or there is nobody to answer.
    pub(super) fn forget() {
        CPU.answer.store(0, Ordering::Relaxed);
    }
}

/// Sets a thread's priority.
pub(super) fn set_priority(objects: &Objects, thread: Slot, priority: u64) -> Result<(), Failure> {
    let authority = [initial::THREAD];
    let capabilities = if abi().priority_needs_authority { &authority[..] } else { &[] };
    objects
        .kernel
        .invoke(thread, abi().tcb_set_priority, capabilities, &[priority])
        .map(|_| ())
        .map_err(refused("a thread's priority"))
}
