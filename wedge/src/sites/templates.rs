//! The code that stands for an instruction in deprivileged mode, and what holds at each instruction
//! of it.
//!
//! The host may deliver an event while the virtual IF is set, and a fault may be raised in a stub;
//! the guest must see neither the stub nor half an instruction. So every line here states a
//! [`State`]: where in the guest a context is that is interrupted *before* that line is executed.
//! There are two places, the start of the site, if going there and executing all of the original is
//! the same as going on, and the end of the slot, if all of it has been done. What lies between,
//! the *commit point*, is a single instruction in each template. Where the stub has pushed a word,
//! that is still on the stack; where it has changed a register or the flags for itself, their
//! values are in that word.
//!
//! Nothing but this knows the states: a listing is made again to ask it.
//!
//! Facts that the templates rest on:
//!
//! * In ring 3 with an IOPL of 0, which is what the host runs the guest's kernel with, the real IF
//!   is always set, and POPF and IRETQ change neither IF nor IOPL, without a fault (SDM Vol. 2B,
//!   POPF, table 4-16; Vol. 2A, IRET).
//! * While `mask` is 1 no event comes, so that between the lines where it is known to be 1 only
//!   faults matter, and what may fault, a stack access, stands where it does in the original.
//! * Status flags are overwritten only where they are free, or while a word with them is on the
//!   stack.
//! * There is no red zone.

use super::bytes::Bytes;
use super::fuse::SINGLE_NOPS;
use super::moves::Target;
use super::policy::{Deprivileged, Template, constant, popped, readable};
use super::policy::{Form, Left};
use super::site::Site;
use super::stub::{BRANCH, CALL, Code, JMP, RET, STUB_SIZE};

/// Where a context is that was interrupted in a stub of deprivileged mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupted {
    /// At this address.
    At(u64),
    /// At this address, and there is a word on its stack that is not the guest's: RSP is 8 more.
    Pushed(u64, Word),
    /// The stub was called, and the stack has the address behind the site: RIP is that plus the
    /// offset, and RSP is 8 more.
    Caller(i64),
    /// Behind an IRETQ to the kernel, whose frame is still on the stack: RIP, RFLAGS and RSP are
    /// those in it. The selectors in it may already be the real ones.
    Returned,
    /// The same, if the frame on the stack leads to the kernel and sets IF; else at this address.
    Returning(u64),
}

/// What a word is that a stub has pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Nothing that is needed.
    Dropped,
    /// RCX.
    Rcx,
    /// The flags, but for IF and IOPL, which are the virtual ones.
    Flags,
}

/// What holds where an instruction of a listing has not been executed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing of the site has been done,
    Before,
    /// or nothing that is not done again, and a word is on the stack.
    BeforeWith(Word),
    /// All of the site has been done,
    After,
    /// and a word is on the stack.
    AfterWith(Word),
    /// [`Interrupted::Returned`].
    Returned,
    /// [`Interrupted::Returning`].
    Returning,
}

use State::{After, AfterWith, Before, BeforeWith, Returned, Returning};

/// Conditional branches (SDM Vol. 2A, Jcc and JRCXZ).
const JE: u8 = 0x74;
const JNE: u8 = 0x75;
const JRCXZ: u8 = 0xe3;

/// PUSHFQ and POPFQ.
const PUSHFQ: &[u8] = &[0x9c];
const POPFQ: &[u8] = &[0x9d];

/// The byte of a word of flags that has IF (bit 9), on top of the stack: `testb $2, 1(%rsp)` and
/// `andb $~2, 1(%rsp)`.
const TEST_IF: &[u8] = &[0xf6, 0x44, 0x24, 0x01, 0x02];
const CLEAR_IF: &[u8] = &[0x80, 0x64, 0x24, 0x01, 0xfd];

/// The NOP of five bytes (SDM Vol. 2B, NOP, "Recommended Multi-Byte Sequence").
const NOP: &[u8] = &[0x0f, 0x1f, 0x44, 0x00, 0x00];

const PUSH_RCX: &[u8] = &[0x51];
const POP_RCX: &[u8] = &[0x59];

/// A stub, or an instruction in a slot, that is being written.
pub(super) struct Listing<'a> {
    policy: &'a Deprivileged,
    site: &'a Site,
    /// The number of the site.
    number: u32,
    code: Code,
    /// The state at each instruction, by its offset.
    states: [Option<State>; STUB_SIZE],
    failed: Option<Left>,
}

/// Makes the stub of a site, to stand at `address`.
pub(super) fn stub<'a>(
    template: Template,
    site: &'a Site,
    number: usize,
    address: u64,
    policy: &'a Deprivileged,
) -> Result<Listing<'a>, Left> {
    let mut listing = Listing::new(site, number, address, policy)?;
    match template {
        Template::Sti if site.kind.flags_free => listing.sti(),
        Template::Sti => listing.sti_with_live_flags(),
        Template::Pushf => listing.pushf(),
        Template::PushfPop => listing.pushf_pop(),
        Template::Popf => listing.popf(Before),
        Template::PushPopf => {
            listing.push(Before, &site.kind.original.array()[..usize::from(site.kind.second)]);
            listing.popf(BeforeWith(Word::Dropped));
        }
        // Also one that returns to the kernel is counted.
        Template::Iretq if policy.counts => listing.jump_as(Before, policy.iret),
        Template::Iretq => listing.iretq(),
        Template::Emulate => {
            listing.branch(Before, CALL, Target::Wedge(policy.emulate));
            listing.leave(After);
        }
        Template::EmulateWithoutStack => listing.jump_as(Before, policy.emulate_without_stack),
        Template::Cli
        | Template::Swapgs
        | Template::MovFromCr
        | Template::MovFromSeg
        | Template::Nothing
        | Template::Sysretq => {
            listing.single(template);
            listing.leave(After);
        }
    }
    listing.finish()
}

/// Makes the one instruction that stands for a site, to stand in its slot.
pub(super) fn inline<'a>(template: Template, site: &'a Site, policy: &'a Deprivileged) -> Result<Listing<'a>, Left> {
    let mut listing = Listing::new(site, 0, site.address(), policy)?;
    listing.single(template);
    listing.finish()
}

impl<'a> Listing<'a> {
    fn new(site: &'a Site, number: usize, address: u64, policy: &'a Deprivileged) -> Result<Self, Left> {
        let number = u32::try_from(number).map_err(|_| Left::NoStub)?;
        Ok(Self { policy, site, number, code: Code::new(address), states: [None; _], failed: None })
    }

    fn finish(self) -> Result<Self, Left> {
        self.failed.map_or(Ok(self), Err)
    }

    /// Its code.
    pub(super) fn code(&self) -> &Code {
        &self.code
    }

    /// What a slot with it holds; `None` if it is too long.
    pub(super) fn in_slot(&self) -> Option<Bytes> {
        let length = u8::try_from(self.code.length()).ok()?;
        let bytes = Bytes::read(self.code.bytes().get(..length.into())?)?;
        (length <= self.site.slot()).then(|| bytes.or(SINGLE_NOPS.before(self.site.slot()).behind(length)))
    }

    /// Where a context is that was interrupted at the instruction at this offset; `None` if there
    /// starts none.
    pub(super) fn interrupted(&self, offset: u8) -> Option<Interrupted> {
        let state = (*self.states.get(usize::from(offset))?)?;
        let start = self.site.address();
        if self.site.form() == Form::Call {
            return Some(Interrupted::Caller(if state == After { 0 } else { -i64::from(BRANCH) }));
        }
        Some(match state {
            Before => Interrupted::At(start),
            BeforeWith(word) => Interrupted::Pushed(start, word),
            After => Interrupted::At(self.site.end()),
            AfterWith(word) => Interrupted::Pushed(self.site.end(), word),
            Returned => Interrupted::Returned,
            Returning => Interrupted::Returning(start),
        })
    }

    /// What is one instruction, and its own commit point.
    fn single(&mut self, template: Template) {
        let policy = self.policy;
        match template {
            Template::Cli => self.store(Before, policy.mask, 1),
            Template::Swapgs => self.memory(Before, &[0xf6, 0x15], policy.gs_swapped, &[]), // notb: no flags
            Template::MovFromCr => match readable(&self.site.kind.original.array(), policy) {
                Some((register, from)) => self.memory(Before, &load(register), from, &[]),
                None => self.failed = Some(Left::OutOfReach),
            },
            Template::Nothing => self.push(Before, NOP),
            Template::MovFromSeg => match constant(&self.site.kind.original.array()) {
                Some((bytes, length)) => self.push(Before, &bytes[..length]),
                None => self.failed = Some(Left::OutOfReach),
            },
            _ => self.branch(Before, JMP, Target::Wedge(policy.sysret)),
        }
    }

    /// Committed by the store: from there on IF is set, and the check behind it is for what has
    /// come before. Where there is no stack the instruction is emulated as a whole if an event is
    /// pending; setting IF once more does not matter.
    fn sti(&mut self) {
        self.store(Before, self.policy.mask, 0);
        self.compare(After, self.policy.pending);
        let slow = self.short(After, JNE);
        self.leave(After);
        self.land(slow);
        if self.site.has_stack() {
            self.branch(After, CALL, Target::Wedge(self.policy.interrupt));
            self.leave(After);
        } else {
            self.jump_as(After, self.policy.emulate_without_stack);
        }
    }

    /// The same, but the check is by JRCXZ, which needs no flags but RCX.
    fn sti_with_live_flags(&mut self) {
        self.push(Before, PUSH_RCX);
        self.store(BeforeWith(Word::Rcx), self.policy.mask, 0);
        self.memory(AfterWith(Word::Rcx), &[0x0f, 0xb6, 0x0d], self.policy.pending, &[]); // movzbl pending(%rip), %ecx
        let none = self.short(AfterWith(Word::Rcx), JRCXZ);
        self.push(AfterWith(Word::Rcx), POP_RCX);
        self.branch(After, CALL, Target::Wedge(self.policy.interrupt));
        self.leave(After);
        self.land(none);
        self.push(AfterWith(Word::Rcx), POP_RCX);
        self.leave(After);
    }

    /// Pushes the real flags and clears IF in them if the virtual one is clear. Until then it can
    /// be done again, and the word has the flags that have been overwritten. An event between the
    /// comparison and its branch finds IF set, and leads back to the start.
    fn push_flags(&mut self) {
        self.push(Before, PUSHFQ);
        self.compare(BeforeWith(Word::Flags), self.policy.mask);
        let set = self.short(BeforeWith(Word::Flags), JE);
        self.push(BeforeWith(Word::Flags), CLEAR_IF);
        self.land(set);
    }

    /// Committed when the word is complete; where flags are live, when its copy, which they are
    /// restored from, is pushed.
    fn pushf(&mut self) {
        self.push_flags();
        if !self.site.kind.flags_free {
            self.push(BeforeWith(Word::Flags), &[0xff, 0x34, 0x24]); // pushq (%rsp)
            self.push(AfterWith(Word::Flags), POPFQ);
        }
        self.leave(After);
    }

    /// Committed when the register is written: by the POP or, where flags are live and still to be
    /// restored, by a MOV.
    fn pushf_pop(&mut self) {
        let original = self.site.kind.original.array();
        let Some(register) = popped(&original) else { return self.failed = Some(Left::OutOfReach) };
        self.push_flags();
        if self.site.kind.flags_free {
            self.push(BeforeWith(Word::Flags), original.get(1..usize::from(self.site.length())).unwrap_or(&[]));
        } else {
            let [rex, mov, modrm] = load(register);
            self.push(BeforeWith(Word::Flags), &[rex, mov, modrm & 0x38 | 4, 0x24]); // mov (%rsp), register
            self.push(AfterWith(Word::Flags), POPFQ);
        }
        self.leave(After);
    }

    /// The word on the stack says what IF will be.
    ///
    /// Set: the store commits, for an event may come right behind it. It must not be seen in front
    /// of the POPF, where the guest had IF clear; but with the flags in the word, and without the
    /// word, the context is just behind it. Clear: the store comes first as well, and from there no
    /// event does. Were it last, one between the POPF and the store would be presented behind the
    /// site, and the guest would go on there with IF set.
    fn popf(&mut self, before: State) {
        self.push(before, TEST_IF);
        let clear = self.short(before, JE);
        self.store(before, self.policy.mask, 0);
        self.compare(AfterWith(Word::Flags), self.policy.pending);
        let slow = self.short(AfterWith(Word::Flags), JNE);
        self.push(AfterWith(Word::Flags), POPFQ);
        self.leave(After);
        self.land(clear);
        self.store(before, self.policy.mask, 1);
        self.push(AfterWith(Word::Flags), POPFQ);
        self.leave(After);
        self.land(slow);
        self.push(AfterWith(Word::Flags), POPFQ);
        self.branch(After, CALL, Target::Wedge(self.policy.interrupt));
        self.leave(After);
    }

    /// A return to the kernel that sets IF is an IRETQ to the real selectors; CS and SS are those
    /// of ring 0 in the frame, and only their lower words count. All others are slow.
    ///
    /// Committed by the store. An event behind it must not be presented at the IRETQ: there IF was
    /// clear, and Linux takes an exception with that RIP for one of the IRETQ itself (6.1,
    /// `error_entry`). The frame has the context that it is to be presented in. On the way out,
    /// which has come from before and from behind the store, the frame decides: if an event comes
    /// there at all and the frame leads to the kernel with IF set, the store has been executed.
    fn iretq(&mut self) {
        self.push(Before, &[0xf6, 0x44, 0x24, 0x08, 0x03]); // testb $3, 8(%rsp): the privilege level in CS
        let to_user = self.short(Before, JNE);
        self.push(Before, &[0xf6, 0x44, 0x24, 0x11, 0x02]); // testb $2, 17(%rsp): IF
        let masked = self.short(Before, JE);
        self.store(Before, self.policy.mask, 0);
        self.compare(Returned, self.policy.pending);
        let pending = self.short(Returned, JNE);
        self.store_selector(8, self.policy.code_selector);
        self.store_selector(32, self.policy.stack_selector);
        self.push(Returned, &[0x48, 0xcf]);
        for out in [to_user, masked, pending] {
            self.land(out);
        }
        self.jump_as(Returning, self.policy.iret);
    }

    /// `movl $selector, offset(%rsp)`
    fn store_selector(&mut self, offset: u8, selector: u16) {
        let [low, high] = selector.to_le_bytes();
        self.push(Returned, &[0xc7, 0x44, 0x24, offset, low, high, 0, 0]);
    }

    /// `movl $number, site(%rip)`, and a jump to a routine that reads it.
    fn jump_as(&mut self, state: State, routine: u64) {
        self.state(state);
        let pushed = self.code.memory_and_number(&[0xc7, 0x05], Target::Wedge(self.policy.site), self.number);
        self.note(pushed);
        self.branch(state, JMP, Target::Wedge(routine));
    }

    /// `movb $value, address(%rip)`
    fn store(&mut self, state: State, address: u64, value: u8) {
        self.memory(state, &[0xc6, 0x05], address, &[value]);
    }

    /// `cmpb $0, address(%rip)`
    fn compare(&mut self, state: State, address: u64) {
        self.memory(state, &[0x80, 0x3d], address, &[0]);
    }

    /// Goes back to the guest.
    fn leave(&mut self, state: State) {
        match self.site.form() {
            Form::Call => self.push(state, &[RET]),
            _ => self.branch(state, JMP, Target::Guest(self.site.end())),
        }
    }

    fn push(&mut self, state: State, bytes: &[u8]) {
        self.state(state);
        let pushed = self.code.push(bytes);
        self.note(pushed);
    }

    fn branch(&mut self, state: State, opcode: u8, to: Target) {
        self.state(state);
        let pushed = self.code.branch(opcode, to);
        self.note(pushed);
    }

    /// An instruction with an operand relative to RIP, and an immediate behind that.
    fn memory(&mut self, state: State, opcode: &[u8], address: u64, immediate: &[u8]) {
        self.state(state);
        let pushed = self.code.memory(opcode, Target::Wedge(address), immediate);
        self.note(pushed);
    }

    /// A branch to a place that is still to come.
    fn short(&mut self, state: State, opcode: u8) -> usize {
        self.push(state, &[opcode, 0]);
        self.code.length()
    }

    /// The place that a branch leads to.
    fn land(&mut self, branch: usize) {
        let landed = self.code.land(branch);
        self.note(landed);
    }

    fn state(&mut self, state: State) {
        if let Some(place) = self.states.get_mut(self.code.length()) {
            *place = Some(state);
        }
    }

    /// Remembers the first failure.
    fn note(&mut self, result: Result<(), Left>) {
        self.failed = self.failed.or(result.err());
    }
}

/// `mov disp32(%rip), register`, up to the displacement.
fn load(register: u8) -> [u8; 3] {
    [0x48 | register >> 1 & 4, 0x8b, (register & 7) << 3 | 5]
}
