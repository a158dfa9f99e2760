//! How a site is taken on a host that runs the guest's kernel without its privileges: in ring 3.
//!
//! Every sensitive instruction gets one of these decisions:
//!
//! * It stays (fused), because in ring 3 it does the right thing, or because the guest never
//!   executes it.
//! * It has a [`Template`]: a few instructions in its slot or stub that read or write the virtual
//!   state. That is for what a kernel executes by the thousand and what needs no more than that.
//!   Where the virtual platform ignores an OUT, nothing stands for it.
//! * It is emulated: its stub calls a routine that does the same to the virtual CPU as the
//!   instruction does to a real one, faults included.
//!
//! To be counted (`profile` mode) a site has to call the wedge. So whatever would have a template is
//! emulated then; what stays is not counted.
//!
//! The flags say where code may stand. *No stack*: nothing is pushed but what the instruction pushes
//! itself; the stub says which site it is in a variable, and jumps. *Head*: that code runs at its physical address, where no branch
//! reaches a stub, so the slot becomes an INT3, and whoever gets the breakpoint asks
//! [`Engine::site_at`](crate::sites::Engine::site_at). So does the slot of a single instruction
//! that could not be padded, for POPF and SGDT would not even fault in ring 3, and of one in a
//! longer replacement: a byte needs no relocation when the kernel copies it. *Copied*: a copy has
//! no site, so the instruction stays, and is emulated as one that nobody knew of.
//!
//! The host may deliver an event at any instruction. [`templates`](crate::sites::templates) says
//! what holds there.

use annotate::instructions::Class;
use annotate::record::{AllegedSite, Flags, LiveFlags, MINIMUM_SLOT};

use super::{Applied, Case, Form, Left, Native, Policy, Way};
use crate::guest::linux::{KERNEL_CS, KERNEL_DS, executed_for};
use crate::platform;
use crate::sites::bytes::Bytes;

/// The guest's kernel runs without privileges. What its rewritten sites see of the virtual
/// CPU: addresses within 2 GB of the stubs and the guest's text, all but the selectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deprivileged {
    /// A byte: 0 where the virtual IF is set, 1 where it is clear. While it is 1 no event is
    /// delivered.
    pub mask: u64,
    /// A byte: not 0 if an event waits for the virtual IF.
    pub pending: u64,
    /// A byte: `swapgs` inverts it.
    pub gs_swapped: u64,
    /// By number, the virtual control registers that may simply be read (8 bytes each); 0 for the
    /// others.
    pub control: [u64; 9],
    /// 4 bytes: the number of the site that jumps without a stack.
    pub site: u64,
    /// Called to emulate a site; [`Engine::at_stub`](crate::sites::Engine::at_stub) knows it by the
    /// return address. Keeps what the instruction keeps. Returns, or leaves for where the
    /// instruction leads.
    pub emulate: u64,
    /// Jumped to for the same where there is no stack, with the number of the site in `site`. Goes
    /// on behind the slot.
    pub emulate_without_stack: u64,
    /// Called when IF has been set and an event was pending. Keeps all registers and flags. The
    /// event may have been delivered since.
    pub interrupt: u64,
    /// Jumped to instead of an IRETQ, with the number of the site in `site` and the frame on the
    /// stack: it does not simply return to the kernel, or an event is pending.
    pub iret: u64,
    /// Jumped to instead of a SYSRETQ.
    pub sysret: u64,
    /// What the guest's kernel really runs with in CS,
    pub code_selector: u16,
    /// and in SS.
    pub stack_selector: u16,
    /// What is really in ES, DS, FS and GS is not what the guest believes.
    pub virtual_selectors: bool,
    /// What is really in the x87 and SSE registers while the kernel runs is not the program's.
    pub own_floating_point: bool,
    /// Each site that something stands for calls the wedge, which counts it.
    pub counts: bool,
}

/// The code that stands for an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sites) enum Template {
    Cli,
    Sti,
    Pushf,
    PushfPop,
    Popf,
    PushPopf,
    Iretq,
    Sysretq,
    Swapgs,
    MovFromCr,
    MovFromSeg,
    Nothing,
    Emulate,
    EmulateWithoutStack,
}

impl Template {
    /// The length that it may have, and where its displacement from RIP stands, if it is one
    /// instruction, and has one.
    pub(in crate::sites) fn single(self) -> Option<(u8, Option<u8>)> {
        match self {
            Self::Nothing => Some((5, None)),
            Self::Sysretq => Some((5, Some(1))),
            Self::Swapgs => Some((6, Some(2))),
            Self::MovFromSeg => Some((6, None)),
            Self::Cli => Some((7, Some(2))),
            Self::MovFromCr => Some((7, Some(3))),
            _ => None,
        }
    }

    /// What stands for the instruction where nothing may be pushed but what it pushes itself.
    fn without_stack(self, flags_free: bool) -> Self {
        match self {
            Self::Sti | Self::Pushf if flags_free => self,
            Self::Cli
            | Self::PushfPop
            | Self::Iretq
            | Self::Sysretq
            | Self::Swapgs
            | Self::MovFromCr
            | Self::MovFromSeg
            | Self::Nothing => self,
            _ => Self::EmulateWithoutStack,
        }
    }

    /// What stands for the instruction where the wedge counts it. The ways to programs lead there
    /// anyway, if the host has them do so. Without a stack the wedge is not told of IF, so what reads
    /// it is not counted.
    fn counted(self, stack: bool) -> Self {
        match self {
            Self::Iretq | Self::Sysretq => self,
            Self::Pushf | Self::PushfPop if !stack => self,
            _ if stack => Self::Emulate,
            _ => Self::EmulateWithoutStack,
        }
    }

    /// What stands for the instruction where the stub is called. Only what is never interrupted
    /// with something pushed.
    fn called(self) -> Self {
        match self {
            Self::Cli | Self::Swapgs | Self::MovFromCr | Self::MovFromSeg | Self::Nothing => self,
            _ => Self::Emulate,
        }
    }
}

impl Policy for Deprivileged {
    fn way(&self, case: &Case<'_>) -> Result<Way, Left> {
        let Case { site, original, .. } = *case;
        match (template(site, original.before(site.length), self), Left::unpadded(site.flags)) {
            (Some(template), unpadded) => way(case, template, unpadded, self.counts),
            (None, Some(left)) => Err(left),
            (None, None) => Native.way(case),
        }
    }
}

/// How a site is taken that something stands for; `unpadded` if it was not padded.
fn way(case: &Case<'_>, template: Template, unpadded: Option<Left>, counts: bool) -> Result<Way, Left> {
    let Case { site, shape, applied, .. } = *case;
    let flags = site.flags;
    let stack = !flags.contains(Flags::NO_STACK);
    let flags_free =
        !flags.contains(Flags::EXTABLE) && !site.liveness.flags.intersects(LiveFlags::all().difference(LiveFlags::DF));
    let template = if stack { template } else { template.without_stack(flags_free) };
    let template = if counts { template.counted(stack) } else { template };
    // Without a stack nothing may fault; and who gets the breakpoint must know the place.
    let may_trap = stack && matches!(applied, Applied::Never | Applied::Part(_));
    let taken = |form, template| Ok(Way { form, hook: None, flags_free, template: Some(template) });
    if flags.contains(Flags::COPIED) {
        Err(Left::Copied)
    } else if let Some(left) = unpadded {
        // The text may count its way into the middle of a sequence, unless letters are there.
        let single = shape.second == 0 || site.class == Class::ForcedEmulation;
        if single && may_trap { taken(Form::Trap, template) } else { Err(left) }
    } else if flags.contains(Flags::HEAD) {
        taken(Form::Trap, template)
    } else if !flags.contains(Flags::REPLACEMENT) {
        let fits = template.single().is_some_and(|(length, _)| length <= site.slot);
        taken(if fits { Form::Inline } else { Form::Jump }, template)
    } else if !(matches!(applied, Applied::Whole(_)) && site.slot == MINIMUM_SLOT) {
        if may_trap { taken(Form::Trap, template) } else { Err(Left::LongReplacement) }
    } else if !stack {
        Err(Left::ReplacementUsesStack)
    } else if shape.stack || shape.second != 0 {
        // Who emulates has taken the return address from the stack.
        taken(Form::Call, Template::Emulate)
    } else {
        taken(Form::Call, if counts { Template::Emulate } else { template.called() })
    }
}

/// What stands for the instruction of a site; `None` if it stays itself.
fn template(site: &AllegedSite, original: Bytes, policy: &Deprivileged) -> Option<Template> {
    let bytes = original.array();
    let alone = |encoding: &[u8]| usize::from(site.length) == encoding.len() && bytes.starts_with(encoding);
    let wanted = match site.class {
        Class::Cli => Template::Cli,
        Class::Sti => Template::Sti,
        Class::Swapgs => Template::Swapgs,
        // The 64-bit forms; of the others, which no 64-bit kernel has, none is worth a template.
        Class::Pushf if alone(&[0x9c]) => Template::Pushf,
        Class::Popf if alone(&[0x9d]) => Template::Popf,
        Class::PushfPop if popped(&bytes).is_some_and(|register| register != RSP) => Template::PushfPop,
        Class::PushPopf if matches!(bytes, [0x50..=0x57, 0x9d, ..] | [0x41, 0x50..=0x57, 0x9d, ..]) => {
            Template::PushPopf
        }
        Class::Iret if alone(&[0x48, 0xcf]) => Template::Iretq,
        Class::Sysret if alone(&[0x48, 0x0f, 0x07]) => Template::Sysretq,
        Class::Iret | Class::Sysret => Template::EmulateWithoutStack,
        Class::MovFromCr if readable(&bytes, policy).is_some() => Template::MovFromCr,
        Class::Out if matches!(bytes, [0xe6, port, ..] if site.length == 2 && platform::ignores(port.into())) => {
            Template::Nothing
        }
        Class::MovFromSeg if constant(&bytes).is_some() => Template::MovFromSeg,
        Class::MovFromSeg if policy.virtual_selectors || reads_cs_or_ss(original) => Template::Emulate,
        Class::PushSeg if policy.virtual_selectors => Template::Emulate,
        Class::Fxsave | Class::Fxrstor if policy.own_floating_point => Template::Emulate,
        class if stays(class).is_some() => return None,
        _ => Template::Emulate,
    };
    Some(wanted)
}

/// The number of RSP in an encoding (SDM Vol. 2A, table 2-2).
const RSP: u8 = 4;

/// The register of `pushfq; pop`: 9C, then 58+r with REX.B or without (SDM Vol. 2B, POP).
pub(in crate::sites) fn popped(bytes: &[u8]) -> Option<u8> {
    match *bytes {
        [0x9c, pop @ 0x58..=0x5f, ..] => Some(pop & 7),
        [0x9c, 0x41, pop @ 0x58..=0x5f, ..] => Some(pop & 7 | 8),
        _ => None,
    }
}

/// The general-purpose register of a MOV from a control register that may be read, and where that
/// is: 0F 20 /r, with REX or without (SDM Vol. 2B, MOV - Move to/from Control Registers). REX.R
/// means CR8 to CR15, REX.B R8 to R15.
pub(in crate::sites) fn readable(bytes: &[u8], policy: &Deprivileged) -> Option<(u8, u64)> {
    let (rex, modrm) = match *bytes {
        [0x0f, 0x20, modrm, ..] => (0, modrm),
        [rex @ 0x40..=0x4f, 0x0f, 0x20, modrm, ..] => (rex, modrm),
        _ => return None,
    };
    let control = policy.control.get(usize::from(modrm >> 3 & 7 | rex << 1 & 8)).copied();
    control.filter(|address| *address != 0).map(|address| (modrm & 7 | rex << 3 & 8, address))
}

/// What a MOV from CS or SS to a general-purpose register (8C /r, SDM Vol. 2B, MOV) loads, by an
/// instruction that loads it: a kernel has always the same selectors there. With an operand size
/// of 16 bits the other bits of the register stay; they are cleared otherwise.
pub(in crate::sites) fn constant(bytes: &[u8]) -> Option<([u8; 6], usize)> {
    let (short, rest) = match bytes {
        [0x66, rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let (rex, modrm) = match *rest {
        [0x8c, modrm, ..] => (0, modrm),
        [rex @ 0x40..=0x4f, 0x8c, modrm, ..] => (rex, modrm),
        _ => return None,
    };
    let selector = match modrm & 0xf8 {
        0xc8 => KERNEL_CS,
        0xd0 => KERNEL_DS,
        _ => return None,
    };
    let [low, high, ..] = selector.to_le_bytes();
    let opcode = 0xb8 | modrm & 7; // mov $selector, register
    Some(match (short && rex & 8 == 0, rex & 1 != 0) {
        (true, false) => ([0x66, opcode, low, high, 0, 0], 4),
        (true, true) => ([0x66, 0x41, opcode, low, high, 0], 5),
        (false, false) => ([opcode, low, high, 0, 0, 0], 5),
        (false, true) => ([0x41, opcode, low, high, 0, 0], 6),
    })
}

/// Whether a MOV from a segment register (8C /r, SDM Vol. 2B, MOV) reads CS or SS, whose real
/// selectors are the host's.
fn reads_cs_or_ss(original: Bytes) -> bool {
    const PREFIXES: [u8; 11] = [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3];
    let bytes = original.array();
    let mut rest = bytes.iter().skip_while(|byte| PREFIXES.contains(byte) || matches!(byte, 0x40..=0x4f));
    match (rest.next(), rest.next()) {
        (Some(0x8c), Some(modrm)) => matches!(modrm >> 3 & 7, 1 | 2),
        _ => true,
    }
}

/// Whether a site that was left for a reason does something else in ring 3 than in ring 0, and
/// nobody learns of it: it does not fault (SDM Vol. 2, POPF, SGDT, CPUID, RDGSBASE ...), or the
/// host takes it for something else: Xen ignores STI, and SYSCALL is a hypercall. Copies are left
/// because the kernel has few of them, which save the flags and restore them.
pub(in crate::sites) fn is_lost(class: Class, left: Left) -> bool {
    let is_silent = matches!(
        class,
        Class::Cli
            | Class::Sti
            | Class::StiHlt
            | Class::StiMwait
            | Class::Pushf
            | Class::PushfPop
            | Class::Popf
            | Class::PushPopf
            | Class::Sgdt
            | Class::Sidt
            | Class::Sldt
            | Class::Str
            | Class::Smsw
            | Class::Lar
            | Class::Lsl
            | Class::Verr
            | Class::Rdgsbase
            | Class::Wrgsbase
            | Class::Cpuid
            | Class::Rdpid
            | Class::Syscall
            | Class::Sysenter
    );
    is_silent && !matches!(left, Left::Code32 | Left::Copied | Left::Data)
}

/// Why instructions of this class stay as they are, in a few words; `None` if they do not. MOV from
/// CS and SS does not, either.
#[must_use]
#[rustfmt::skip]
pub fn stays(class: Class) -> Option<&'static str> {
    Some(match class {
        Class::Rdtsc | Class::Rdpru | Class::Umonitor | Class::Umwait | Class::Tpause | Class::Xgetbv | Class::Rdpkru
        | Class::Wrpkru => "the same in every ring",
        Class::Rdtscp | Class::Verw => return executed_for(class),
        // The base of GS is not always, nor are the selectors in CS and SS; the others are where
        // the host can load what the guest does.
        Class::Rdfsbase | Class::Wrfsbase | Class::PushSeg | Class::MovFromSeg | Class::Fxsave | Class::Fxrstor => {
            "the registers are the guest's own"
        }
        // As the processor would.
        Class::Int3 => "the host delivers the breakpoint",
        // The guest never executes these. SMAP,
        Class::Clac | Class::Stac
        // MONITOR and user interrupts,
        | Class::Monitor | Class::Mwait | Class::Monitorx | Class::Mwaitx | Class::Clui | Class::Stui | Class::Senduipi
        | Class::Uiret
        // supervisor state components, supervisor shadow stacks, FRED,
        | Class::Xsaves | Class::Xrstors | Class::Wruss | Class::Setssbsy | Class::Clrssbsy | Class::Erets | Class::Eretu
        | Class::Lkgs
        // lists of MSRs, work queues, history reset, platform configuration, broadcast
        // invalidation,
        | Class::Wrmsrns | Class::Rdmsrlist | Class::Wrmsrlist | Class::Enqcmds | Class::Hreset | Class::Pconfig
        | Class::Invlpgb | Class::Tlbsync
        // enclaves, measured launch, memory encryption,
        | Class::Encls | Class::Enclv | Class::Getsec | Class::Seamcall | Class::Seamops | Class::Seamret | Class::Tdcall
        | Class::Psmash | Class::Pvalidate | Class::Rmpadjust | Class::Rmpupdate
        // virtual machines.
        | Class::Vmfunc | Class::Vmx | Class::Svm | Class::Clgi | Class::Stgi | Class::Invlpga => "CPUID hides the feature",
        // Nor for one below it.
        Class::Vmcall | Class::Vmmcall => "a hypercall is not for this host",
        Class::Rsm => "undefined outside of system management mode",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sites::tests::{MACHINE, Planned};

    #[test]
    fn selectors_are_read_where_the_guests_are() {
        use Template::{Emulate, MovFromSeg};
        // mov from DS, from CS, from CS to memory; push of FS
        for (bytes, really, virtually) in [
            (&[0x8c, 0xd8][..], None, Emulate),
            (&[0x8c, 0xc8], Some(MovFromSeg), MovFromSeg),
            (&[0x8c, 0x08], Some(Emulate), Emulate),
            (&[0x0f, 0xa0], None, Emulate),
        ] {
            let site = Planned::new(bytes, Flags::empty(), LiveFlags::all()).at(0x1000);
            let original = Bytes::read(bytes).expect("a few bytes");
            let elsewhere = Deprivileged { virtual_selectors: true, ..MACHINE };
            assert_eq!(template(&site, original, &MACHINE), really, "{bytes:02x?}");
            assert_eq!(template(&site, original, &elsewhere), Some(virtually), "{bytes:02x?}");
        }
    }

    #[test]
    fn selectors_that_are_always_the_same_are_constants() {
        for (bytes, expected) in [
            // mov %ss,%ax; %cs,%r9w; %ss,%ebx; %cs,%r15d; %ss,%rcx; %cs,%r8
            (&[0x66, 0x8c, 0xd0][..], Some(&[0x66, 0xb8, 0x18, 0x00][..])),
            (&[0x66, 0x41, 0x8c, 0xc9], Some(&[0x66, 0x41, 0xb9, 0x10, 0x00])),
            (&[0x8c, 0xd3], Some(&[0xbb, 0x18, 0x00, 0x00, 0x00])),
            (&[0x41, 0x8c, 0xcf], Some(&[0x41, 0xbf, 0x10, 0x00, 0x00, 0x00])),
            (&[0x48, 0x8c, 0xd1], Some(&[0xb9, 0x18, 0x00, 0x00, 0x00])),
            (&[0x66, 0x49, 0x8c, 0xc8], Some(&[0x41, 0xb8, 0x10, 0x00, 0x00, 0x00])),
            // from DS; to memory; with another prefix
            (&[0x8c, 0xd8], None),
            (&[0x8c, 0x10], None),
            (&[0x67, 0x8c, 0xd0], None),
        ] {
            let found = constant(bytes);
            assert_eq!(found.as_ref().map(|(bytes, length)| &bytes[..*length]), expected, "{bytes:02x?}");
        }
    }
}
