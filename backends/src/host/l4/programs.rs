//! Where the guest's programs run: for each of the guest's address spaces one of seL4's, and a
//! thread in it, which runs whichever program of that space is to run.
//!
//! The thread's faults are messages to the wedge. It has one capability, that for the endpoint that
//! they go to, and the badge says which space it is. By that a program can send messages itself,
//! which look like faults; so no message is believed more than what the program could have caused.
//!
//! What a space had stays when it ends, for the next will need as much of it; all is given back when
//! memory for objects is short.

use super::abi::abi;
use super::kernel::{Slot, initial, object, rights};
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
}

/// The slot of a thread's one capability.
const FAULTS: u64 = 1;
/// The binary logarithm of the number of slots that a thread has.
const NODE_BITS: u64 = 1;

impl Programs {
    pub(super) const fn new(endpoint: Slot) -> Self {
        Self { each: [None; SPACES], nodes: [0; SPACES], endpoint }
    }

    /// The endpoint that messages of programs come to.
    pub(super) const fn endpoint(&self) -> Slot {
        self.endpoint
    }

    /// The badge of a space's messages.
    pub(super) const fn badge(space: usize) -> u64 {
        space as u64 + 1
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
        structures.pool.give_back(objects, thread)?;
        structures.give_back_tables(objects, &mut vspace)?;
        structures.pool.give_back(objects, root)
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
