//! Births: a space gets a process that is a copy of the first, the *mother*, when a program runs in
//! it for the first time, or when the last one had to be ended.

use linux_raw_sys::errno::{EAGAIN, EINTR, ENOENT, ENOMEM};
use linux_raw_sys::general as raw;
use wedge::platform::SECOND;

use super::super::listener::Question;
use super::super::memory::{READ_AND_WRITE, STACKS, STUB, pointer};
use super::super::orders::{Order, Orders};
use super::super::processes::{has_ended, note, reap};
use super::super::questions::{is_order, is_stop};
use super::super::stub::{self, ORDERS, STACK, STACK_LENGTH};
use super::super::system::{Errno, File};
use super::{END_WITH_THIS, Failure, MOTHERS, Programs, Stub, end, refused, view};
use crate::runtime::PAGE;

impl Programs {
    /// Has the mother give up all that it has from this process, but for two files.
    pub(super) fn raise(&mut self, files: [File; 2]) -> Result<(), Failure> {
        let [first, second] = files.map(|file| u64::from(file.0));
        let [first, second] = [first.min(second), first.max(second)];
        let mut orders = Orders::new();
        orders.add(raw::__NR_unshare, [raw::CLONE_FILES.into(), 0, 0, 0, 0, 0]);
        for (from, behind) in [(0, first), (first + 1, second), (second + 1, 1 << 32)] {
            if from < behind {
                orders.add(raw::__NR_close_range, [from, behind - 1, 0, 0, 0, 0]);
            }
        }
        orders.add(raw::__NR_munmap, [0, STUB, 0, 0, 0, 0]);
        orders.add(raw::__NR_munmap, [STACK.end, (1 << 47) - PAGE - STACK.end, 0, 0, 0, 0]);
        let shared = u64::from(raw::MAP_SHARED | raw::MAP_FIXED);
        orders.add(raw::__NR_mmap, [ORDERS, PAGE, raw::PROT_READ.into(), shared, self.file.0.into(), PAGE]);
        self.order_mother(orders.as_slice()).map(drop)
    }

    /// Has the mother carry out orders.
    fn order_mother(&mut self, orders: &[Order]) -> Result<(), Failure> {
        let mut mother = self.mother;
        let done = self.carry_out(&mut mother, orders, false)? && self.has_done(&mut mother)?;
        self.mother = mother;
        if done { Ok(()) } else { Err(self.failure()) }
    }

    /// Why the mother, or a child that has not run a program yet, does not do as it is told.
    fn failure(&self) -> Failure {
        self.refused.map_or(Failure::Mother, refused("a process for programs"))
    }

    /// A child of the mother, for a space. Where Linux allows no more processes, another space's
    /// goes for that: it gets a new one when its turn comes.
    pub(super) fn bear_in_any_case(&mut self, space: usize) -> Result<Stub, Failure> {
        loop {
            let other = self.stubs.iter().rposition(Option::is_some);
            match (self.bear(space), other) {
                (Err(Failure::Refused { error: Errno(EAGAIN | ENOMEM), .. }), Some(other)) => self.bury(other),
                (result, _) => return result,
            }
        }
    }

    /// A child of the mother, for a space.
    fn bear(&mut self, space: usize) -> Result<Stub, Failure> {
        let what = "a process for programs";
        // SAFETY: both stacks are mapped here; the mother waits, and the other is nobody's yet.
        unsafe {
            core::ptr::copy_nonoverlapping::<u8>(pointer(view(MOTHERS)), pointer(view(space)), STACK_LENGTH as usize);
        }
        let flags = u64::from(raw::CLONE_PARENT | raw::SIGCHLD);
        let order = [raw::__NR_clone.into(), flags, 0, 0, 0, 0, 0];
        stub::write_orders(&[order], None);
        let mother = self.mother.process;
        let mut caller = self.mother;
        if !self.release(&mut caller)? {
            return Err(Failure::Mother);
        }
        loop {
            let question = self.mothers(None)?;
            if !is_order(&question, &order) {
                return Err(Failure::Mother);
            }
            if self.allow(&question)? {
                break;
            }
        }
        // Both say that they have come so far, in any order.
        let (mut parent, mut child) = (None::<Question>, None);
        while parent.is_none() || child.is_none() {
            let question = self.mothers(parent.map(|question| question.arguments[5] as u32))?;
            match question.arguments[5].cast_signed() {
                _ if !is_stop(&question) => return Err(Failure::Mother),
                error @ ..0 => {
                    self.mother.question = question;
                    return Err(Failure::Refused { what, error: Errno(error.unsigned_abs() as u32) });
                }
                _ if question.process == mother => parent = Some(question),
                _ => child = Some(question),
            }
        }
        let (Some(parent), Some(child)) = (parent, child) else { return Err(Failure::Mother) };
        self.mother.question = parent;
        note(child.process);
        let mut stub = Stub::new(child.process, child);
        let settled = self.settle(&mut stub, space);
        if settled.is_err() {
            end(&stub);
        }
        settled.map(|()| stub)
    }

    /// Has a new stub process end with this one, and have a stack of its own.
    fn settle(&mut self, stub: &mut Stub, space: usize) -> Result<(), Failure> {
        let mut orders = Orders::new();
        orders.add(raw::__NR_prctl, END_WITH_THIS);
        let shared = u64::from(raw::MAP_SHARED | raw::MAP_FIXED);
        let offset = 2 * PAGE + view(space) - STACKS;
        orders.add(
            raw::__NR_mmap,
            [STACK.start, STACK_LENGTH, READ_AND_WRITE.into(), shared, self.file.0.into(), offset],
        );
        let done = self.carry_out(stub, orders.as_slice(), false)? && self.has_done(stub)?;
        if done { Ok(()) } else { Err(self.failure()) }
    }

    /// The next question of the mother's, or of a child that nobody knows yet, but by its number.
    fn mothers(&mut self, child: Option<u32>) -> Result<Question, Failure> {
        loop {
            match self.listener.receive_within(SECOND) {
                Ok(question) if self.is_known(&question) => {}
                Ok(question) => return Ok(question),
                Err(Errno(EINTR | ENOENT)) if !has_ended(self.mother.process) => {
                    if let Some(status) = child.and_then(|child| reap(child, raw::WNOHANG)) {
                        return Err(Failure::Ended { status });
                    }
                }
                _ => return Err(Failure::Mother),
            }
        }
    }
}
