//! Stubs: where a site's original instruction runs when its slot is a branch.
//!
//! A stub is position independent and has one size, so that the number of a site, of its stub and
//! of its counter are one. In front of the original there may be a counter and a hook:
//!
//! * *Counting* must be right on several processors and under interrupts, and must not change a
//!   register, a flag or, where there is none, the stack. `lock inc` overwrites flags (SDM Vol. 2A,
//!   INC). Where these are not free, they are kept in AH and AL: `lahf` and `seto` save, `add
//!   $0x7f, %al` overflows exactly if AL is 1, `sahf` restores the others. No `pushf`, no `popf`:
//!   the only sensitive instruction in a stub is its site's own.
//! * *The port* is compared without flags, too: `jecxz` tests a register.
//! * *A hook* is a plain `call`. The wedge's routine keeps all registers and flags, and knows the
//!   site by its return address.
//!
//! The original is verbatim, but for a displacement from RIP: an exception is presented at the same
//! offset in the site, and a program that disassembles a stub finds what it expects.

use super::bytes::Bytes;
use super::fuse::SINGLE_NOPS;
use super::moves::{Fields, Place, Target};
use super::policy::{Form, Hook, Left};
use super::site::Site;
use crate::guest::linux::BEHIND_MODULES;
use crate::vm::port::PORT;
use annotate::instructions::Class;

/// Bytes of a stub: a cache line.
pub const STUB_SIZE: usize = 64;

/// Length of `call rel32` and `jmp rel32` (SDM Vol. 2A, CALL and JMP).
pub(super) const BRANCH: u8 = 5;

pub(super) const CALL: u8 = 0xe8;
pub(super) const JMP: u8 = 0xe9;
pub(super) const RET: u8 = 0xc3;
/// INT3 (SDM Vol. 2A, INT n/INTO/INT3/INT1).
pub const INT3: u8 = 0xcc;

/// Addresses of the wedge's routines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// [`Hook::Port`]. Returns behind the IN or OUT, with AL set for an IN.
    pub port: u64,
    /// [`Hook::Flush`].
    pub flush: u64,
    /// [`Hook::Descriptor`].
    pub descriptor: u64,
    /// [`Hook::Fault`].
    pub fault: u64,
    /// [`Hook::Return`]. The frame that IRETQ takes stands above its return address.
    pub ret: u64,
}

/// Makes the stub of a site, and says where in it the original stands.
pub(super) fn stub(site: &Site, place: Place, count: bool, hooks: &Hooks) -> Result<(Code, u8), Left> {
    let mut code = Code::new(place.stub);
    let back = Target::Guest(site.end());
    // In front of the counter: what is meant for the wedge is not executed.
    let filter = match site.hook() {
        Some(Hook::Port) => Some(code.port_filter(site.kind.flags_free)?),
        Some(Hook::Flush) => code.flush_filter(site.base_of_invlpg().filter(|_| !count))?,
        _ => None,
    };
    if count {
        code.count(site.kind.flags_free, Target::Counter(place.counter))?;
    }
    match site.hook() {
        Some(Hook::Flush) if filter.is_none() => code.branch(CALL, Target::Wedge(hooks.flush))?,
        Some(Hook::Fault) => code.branch(CALL, Target::Wedge(hooks.fault))?,
        Some(Hook::Return) => {
            code.push(&[0xf6, 0x44, 0x24, 0x08, 0x03])?; // testb $3, 8(%rsp): the privilege level in CS
            code.push(&[0x75, BRANCH])?; // jnz body
            code.branch(CALL, Target::Wedge(hooks.ret))?;
        }
        Some(Hook::Port | Hook::Flush | Hook::Descriptor) | None => {}
    }
    let body = code.length;
    code.original(site)?;
    if site.hook() == Some(Hook::Descriptor) {
        code.branch(CALL, Target::Wedge(hooks.descriptor))?;
    }
    code.leave(site.form(), site.class(), back)?;
    match (filter, site.hook()) {
        (Some(filter), Some(Hook::Flush)) => {
            code.slow_path(filter, hooks.flush)?;
            code.branch(JMP, Target::Stub(place.stub.wrapping_add(body as u64)))?;
        }
        (Some(filter), _) => {
            code.slow_path(filter, hooks.port)?;
            code.leave(site.form(), site.class(), back)?;
        }
        (None, _) => {}
    }
    Ok((code, u8::try_from(body).map_err(|_| Left::TooLong)?))
}

/// What the slot at `place` becomes to branch to its stub.
pub(super) fn branch(form: Form, place: u64, slot: u8, stub: u64) -> Result<Bytes, Left> {
    let opcode = if form == Form::Call { CALL } else { JMP };
    let distance = distance(place.wrapping_add(BRANCH.into()), stub)?;
    let branch = u128::from(opcode) | u128::from(u32::from_le_bytes(distance)) << 8;
    Ok(Bytes(branch).or(SINGLE_NOPS.before(slot).behind(BRANCH)))
}

/// The 32-bit distance between two addresses.
fn distance(from: u64, to: u64) -> Result<[u8; 4], Left> {
    let distance = i32::try_from(to.wrapping_sub(from).cast_signed()).map_err(|_| Left::OutOfReach)?;
    Ok(distance.to_le_bytes())
}

/// A filter: where its branch to the slow path is, and whether RCX is on the stack there.
#[derive(Clone, Copy)]
struct Filter {
    branch: usize,
    pushed: bool,
}

/// A stub that is being written.
pub(super) struct Code {
    bytes: [u8; STUB_SIZE],
    length: usize,
    address: u64,
    fields: Fields,
}

impl Code {
    pub(super) fn new(address: u64) -> Self {
        Self { bytes: [INT3; STUB_SIZE], length: 0, address, fields: Fields::default() }
    }

    pub(super) fn bytes(&self) -> &[u8; STUB_SIZE] {
        &self.bytes
    }

    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// What is different in the stub of a site that is like this one.
    pub(super) fn fields(&self) -> Fields {
        self.fields
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), Left> {
        let place =
            self.bytes.get_mut(self.length..).and_then(|free| free.get_mut(..bytes.len())).ok_or(Left::TooLong)?;
        place.copy_from_slice(bytes);
        self.length += bytes.len();
        Ok(())
    }

    /// An instruction with an operand relative to RIP, which counts from behind the immediate (SDM
    /// Vol. 2A, 2.2.1.6).
    pub(super) fn memory(&mut self, opcode: &[u8], to: Target, immediate: &[u8]) -> Result<(), Left> {
        self.push(opcode)?;
        self.fields.distance(self.length, to)?;
        let behind = self.length + 4 + immediate.len();
        self.push(&distance(self.address.wrapping_add(behind as u64), to.address())?)?;
        self.push(immediate)
    }

    /// The same, and the immediate is the number of the site.
    pub(super) fn memory_and_number(&mut self, opcode: &[u8], to: Target, number: u32) -> Result<(), Left> {
        self.memory(opcode, to, &number.to_le_bytes())?;
        self.fields.number(self.length - size_of_val(&number))
    }

    /// Makes the short branch that ends at an offset lead here.
    pub(super) fn land(&mut self, branch: usize) -> Result<(), Left> {
        let distance = i8::try_from(self.length - branch).map_err(|_| Left::TooLong)?;
        *self.bytes.get_mut(branch - 1).ok_or(Left::TooLong)? = distance.cast_unsigned();
        Ok(())
    }

    pub(super) fn branch(&mut self, opcode: u8, to: Target) -> Result<(), Left> {
        self.memory(&[opcode], to, &[])
    }

    fn count(&mut self, flags_free: bool, counter: Target) -> Result<(), Left> {
        if !flags_free {
            self.push(&[0x50, 0x9f, 0x0f, 0x90, 0xc0])?; // push %rax; lahf; seto %al
        }
        self.memory(&[0xf0, 0x48, 0xff, 0x05], counter, &[])?; // lock incq counter(%rip)
        if !flags_free {
            self.push(&[0x04, 0x7f, 0x9e, 0x58])?; // add $0x7f, %al; sahf; pop %rax
        }
        Ok(())
    }

    /// Branches off to call the wedge, for a flush of one page only if that is from the last 4 GB
    /// of the address space but not from the last 16 MB: modules are between. What is behind them
    /// is flushed too often ([`BEHIND_MODULES`]). 16 MB more make such an address a negative 32-bit
    /// number, and no other. Without flags: neither LEA nor NOT nor BSWAP changes any (SDM Vol. 1,
    /// appendix A).
    fn flush_filter(&mut self, base: Option<u8>) -> Result<Option<Filter>, Left> {
        let Some(base) = base else { return Ok(None) };
        self.push(&[0x51])?; // push %rcx
        self.push(&[0x48 | base >> 3, 0x8d, 0x88 | base & 7])?; // lea BEHIND_MODULES(base), %rcx
        self.push(&BEHIND_MODULES.to_le_bytes())?;
        self.push(&[0x48, 0xf7, 0xd1])?; // not %rcx
        self.push(&[0x48, 0x0f, 0xc9])?; // bswap %rcx: the upper half comes down
        self.push(&[0x67, 0xe3, 0])?; // jecxz slow
        let branch = self.length;
        self.push(&[0x59])?; // pop %rcx
        Ok(Some(Filter { branch, pushed: true }))
    }

    /// Branches off if DX is the wedge's port.
    fn port_filter(&mut self, flags_free: bool) -> Result<Filter, Left> {
        if flags_free {
            let [low, high] = PORT.to_le_bytes();
            self.push(&[0x66, 0x81, 0xfa, low, high])?; // cmp $PORT, %dx
            self.push(&[0x74, 0])?; // je slow
            return Ok(Filter { branch: self.length, pushed: false });
        }
        self.push(&[0x51, 0x0f, 0xb7, 0xca])?; // push %rcx; movzwl %dx, %ecx
        self.push(&[0x8d, 0x89])?; // lea -PORT(%rcx), %ecx
        self.push(&(-i32::from(PORT)).to_le_bytes())?;
        self.push(&[0x67, 0xe3, 0])?; // jecxz slow
        let branch = self.length;
        self.push(&[0x59])?; // pop %rcx
        Ok(Filter { branch, pushed: true })
    }

    /// The slow path of a filter.
    fn slow_path(&mut self, filter: Filter, hook: u64) -> Result<(), Left> {
        self.land(filter.branch)?;
        if filter.pushed {
            self.push(&[0x59])?; // pop %rcx
        }
        self.branch(CALL, Target::Wedge(hook))
    }

    fn original(&mut self, site: &Site) -> Result<(), Left> {
        let instructions = site.in_slot();
        let here = self.address.wrapping_add(self.length as u64);
        let by = site.address.wrapping_sub(here).cast_signed();
        if instructions.displacement != 0 {
            self.fields.distance(self.length + usize::from(instructions.displacement), Target::Guest(site.address))?;
        }
        let bytes = instructions.moved(by).ok_or(Left::OutOfReach)?;
        self.push(bytes.array().get(..usize::from(instructions.length)).ok_or(Left::TooLong)?)
    }

    fn leave(&mut self, form: Form, class: Class, back: Target) -> Result<(), Left> {
        match form {
            _ if !falls_through(class) => Ok(()),
            Form::Call => self.push(&[RET]),
            _ => self.branch(JMP, back),
        }
    }
}

/// Whether the instruction behind one of this class is ever reached from it.
pub(super) fn falls_through(class: Class) -> bool {
    !matches!(
        class,
        Class::Iret
            | Class::Lret
            | Class::Ljmp
            | Class::Sysret
            | Class::Sysenter
            | Class::Sysexit
            | Class::Uiret
            | Class::Erets
            | Class::Eretu
            | Class::Rsm
            | Class::Seamret
    )
}
