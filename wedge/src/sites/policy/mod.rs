//! How a site is taken: what its slot becomes, and whether the wedge is called.
//!
//! A site is *fused* (the instruction stays, see [`fuse`](super::fuse)), or becomes a branch to its
//! stub: `jmp`, which needs nothing of the site, or `call`, which needs a stack but may stand in a
//! replacement, for the kernel relocates a lone 5-byte call when it copies the replacement over its
//! original (Linux 6.1, `arch/x86/kernel/alternative.c`, `apply_alternatives`).
//!
//! Which of these is decided by a [`Policy`], which knows nothing of other sites and nothing of
//! addresses. There are three: [`Native`] and [`Probe`] for a guest that has its privileges,
//! [`Deprivileged`] for one that has not.

mod deprivileged;
mod native;
mod probe;

use core::fmt;

use annotate::instructions::Class;
use annotate::record::{AllegedSite, Flags, LiveFlags, MINIMUM_SLOT};

use super::Applied;
use super::bytes::Bytes;
use super::encoding::{Operand, Shape};

pub use deprivileged::{Deprivileged, stays};
pub(super) use deprivileged::{Template, constant, is_lost, popped, readable};
pub(super) use native::Native;
pub(super) use probe::Probe;

/// What is done with the sites.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Pads are fused into their instructions, nothing else.
    #[default]
    Native,
    /// Every site goes through the wedge, which executes the original.
    Identity,
    /// The same, and each site counts how often it is executed.
    Profile,
    /// The guest's kernel runs without privileges, and its sites work on a virtual CPU (see
    /// [`deprivileged`](super::deprivileged)). It comes with the host, not by choice.
    Deprivileged,
}

impl Mode {
    /// All that can be chosen between, where the guest's kernel has its privileges.
    pub const ALL: [Self; 3] = [Self::Native, Self::Identity, Self::Profile];

    /// The name that the command line and the boot log use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Identity => "identity",
            Self::Profile => "profile",
            Self::Deprivileged => "deprivileged",
        }
    }

    /// The mode of this name, if it can be chosen.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a slot becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The instruction with its pad in front.
    Fused,
    /// `jmp rel32` to the stub.
    Jump,
    /// `call rel32` to the stub.
    Call,
    /// Another instruction that does all there is to do.
    Inline,
    /// INT3.
    Trap,
}

impl Form {
    /// Whether what is written is the same wherever the slot is.
    pub(super) const fn is_fixed(self) -> bool {
        matches!(self, Self::Fused | Self::Trap)
    }

    /// All of them.
    pub const ALL: [Self; 5] = [Self::Fused, Self::Jump, Self::Call, Self::Inline, Self::Trap];

    /// Whether the slot branches to a stub.
    pub(super) fn has_stub(self) -> bool {
        matches!(self, Self::Jump | Self::Call)
    }
}

/// Where a stub calls into the wedge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Instead of an IN or OUT of AL that is meant for the wedge.
    Port,
    /// Before the TLB is flushed: text may have come or gone.
    Flush,
    /// After a descriptor table was loaded.
    Descriptor,
    /// Before an instruction that may fault and whose fault the guest expects.
    Fault,
    /// Before a return to kernel mode: the interrupted context may be inside a slot that has
    /// changed since.
    Return,
}

/// Why a site is left as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Left {
    /// Its record says that it was not padded: code of another mode.
    Code32,
    /// Its record says that it was not padded: not wanted.
    SwitchedOff,
    /// Its record says that it was not padded: the text counts bytes over it.
    Counted,
    /// Its record says that it was not padded: nothing may stand between it and the next
    /// instruction.
    Shadow,
    /// Its record says that it was not padded: the next instruction has to be the one behind it.
    Hinted,
    /// Its record says that it is none, but data.
    Data,
    /// The kernel copies the text, and the branch in the copy would miss.
    Copied,
    /// Part of a longer replacement, of which the kernel relocates nothing. An INT3 needs that its
    /// only copy is known.
    LongReplacement,
    /// In a replacement, where only a call is relocated; a call would move the stack under it, or
    /// has none.
    ReplacementUsesStack,
    /// In a replacement that has been copied over its original already.
    Applied,
    /// To count, flags or a stack have to be free.
    NoPlaceToCount,
    /// At its physical address, and the stub is gone from the new address space.
    AddressSpace,
    /// A hypervisor may replace it in place.
    Hypercall,
    /// A hypervisor is to find it in place. On a processor it is #UD.
    ForcedEmulation,
    /// The stub, or what it refers to, is more than 2 GB away.
    OutOfReach,
    /// The slot is longer than any instruction.
    TooLong,
    /// There is no stub left for it.
    NoStub,
}

impl Left {
    /// All reasons.
    pub const ALL: [Self; 17] = [
        Self::Code32,
        Self::SwitchedOff,
        Self::Counted,
        Self::Shadow,
        Self::Hinted,
        Self::Data,
        Self::Copied,
        Self::LongReplacement,
        Self::ReplacementUsesStack,
        Self::Applied,
        Self::NoPlaceToCount,
        Self::AddressSpace,
        Self::Hypercall,
        Self::ForcedEmulation,
        Self::OutOfReach,
        Self::TooLong,
        Self::NoStub,
    ];

    /// The reason in a few words.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Code32 => Flags::CODE32.unpadded_reason().unwrap_or_default(),
            Self::SwitchedOff => Flags::SWITCHED_OFF.unpadded_reason().unwrap_or_default(),
            Self::Counted => Flags::COUNTED.unpadded_reason().unwrap_or_default(),
            Self::Shadow => Flags::SHADOW.unpadded_reason().unwrap_or_default(),
            Self::Hinted => Flags::HINTED.unpadded_reason().unwrap_or_default(),
            Self::Data => Flags::DATA.unpadded_reason().unwrap_or_default(),
            Self::Copied => "in text that the kernel copies",
            Self::LongReplacement => "part of a longer replacement",
            Self::ReplacementUsesStack => "a replacement that no call can stand for",
            Self::Applied => "a replacement that is applied already",
            Self::NoPlaceToCount => "no flags and no stack to count with",
            Self::AddressSpace => "changes the address space at its physical address",
            Self::Hypercall => "a hypercall, which the host may patch",
            Self::ForcedEmulation => "for a hypervisor to emulate",
            Self::OutOfReach => "out of a stub's reach",
            Self::TooLong => "a slot longer than an instruction",
            Self::NoStub => "no stub left",
        }
    }

    /// Whether the reason leaves room for an INT3 in place of the instruction, which is a byte long
    /// and moves nothing.
    pub(super) fn fits_trap(self) -> bool {
        matches!(self, Self::Counted | Self::Shadow | Self::Hinted)
    }

    /// The reason why a site was not padded, if it was not.
    pub(super) fn unpadded(flags: Flags) -> Option<Self> {
        if flags.intersection(Flags::UNPADDED).is_empty() {
            None
        } else if flags.contains(Flags::DATA) {
            Some(Self::Data)
        } else if flags.contains(Flags::CODE32) {
            Some(Self::Code32)
        } else if flags.contains(Flags::SWITCHED_OFF) {
            Some(Self::SwitchedOff)
        } else if flags.contains(Flags::COUNTED) {
            Some(Self::Counted)
        } else if flags.contains(Flags::SHADOW) {
            Some(Self::Shadow)
        } else {
            Some(Self::Hinted)
        }
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.reason())
    }
}

/// Decides how sites are taken.
pub(super) trait Policy {
    /// How a site is taken, or why it is left.
    fn way(&self, case: &Case<'_>) -> Result<Way, Left>;
}

/// What a decision depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case<'a> {
    pub(super) site: &'a AllegedSite,
    pub(super) shape: Shape,
    /// The bytes of its slot.
    pub(super) original: Bytes,
    /// What the kernel does with it when it applies alternatives.
    pub(super) applied: Applied,
}

/// How a site is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) form: Form,
    pub(super) hook: Option<Hook>,
    /// Whether the status flags may be overwritten before the instruction.
    pub(super) flags_free: bool,
    /// What stands for the instruction, in deprivileged mode.
    pub(super) template: Option<Template>,
}

impl Case<'_> {
    /// What is left where the guest has its privileges, whatever else is done with the sites.
    fn check(&self) -> Result<(), Left> {
        let Self { site, shape, applied, .. } = *self;
        if site.class == Class::ForcedEmulation {
            return Err(Left::ForcedEmulation);
        }
        let fits = matches!(applied, Applied::Whole(_)) && site.slot == MINIMUM_SLOT && shape.second == 0;
        if site.flags.contains(Flags::REPLACEMENT) && !fits { Err(Left::LongReplacement) } else { Ok(()) }
    }

    /// Whether there is a stack. At its physical address code has one, but there is no routine to
    /// be called.
    fn has_stack(&self) -> bool {
        !self.site.flags.intersects(Flags::NO_STACK.union(Flags::HEAD))
    }

    /// The hook without which the wedge would be deaf.
    fn hook(&self) -> Option<Hook> {
        match (self.site.class, self.shape.operand) {
            _ if !self.has_stack() => None,
            (Class::In | Class::Out, Operand::AlDx) => Some(Hook::Port),
            (Class::Invlpg | Class::Invpcid, _) | (Class::MovToCr, Operand::Cr4) => Some(Hook::Flush),
            // Each processor loads its task register once: that is how the wedge learns of it.
            (Class::Ltr, _) => Some(Hook::Descriptor),
            _ => None,
        }
    }
}

/// Whether nobody reads the status flags that stand before the site.
///
/// What is live after a site does not say it of an instruction that stores the flags, nor of one
/// that may go on at a fix-up. An instruction that loads all of them makes it true whatever is live
/// behind it.
fn flags_free(site: &AllegedSite) -> bool {
    match site.class {
        Class::Popf | Class::PushPopf | Class::Iret | Class::Sysret => true,
        Class::Pushf | Class::PushfPop | Class::Int | Class::Int1 | Class::Int3 | Class::Syscall => false,
        _ if site.flags.contains(Flags::EXTABLE) => false,
        _ => !site.liveness.flags.intersects(LiveFlags::all().difference(LiveFlags::DF)),
    }
}
