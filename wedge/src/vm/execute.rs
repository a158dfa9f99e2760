//! Sites that call: their instructions are carried out on the virtual CPU.

use core::ops::Range;

use annotate::instructions::Class;
use iced_x86::Instruction;

use crate::cpu::{Context, Event, Exception, Flow, VirtualCpu, decode, emulate, is_canonical};
use crate::guest::linux;
use crate::sites::{Form, Site};
use crate::x86::flags;

use super::{Host, Path, Vcpu, Vm};

/// Instructions whose addresses have the same place in [`Decoded`], and are kept at the same time.
const WAYS: usize = 4;

/// Sites that were emulated lately, decoded: decoding costs more than emulating.
///
/// A few sites are emulated over and over, a dozen for each change of processes. Where they lie is
/// chance: with one place for each, two of them take it from each other in most kernels.
#[derive(Debug)]
pub struct Decoded([[Option<(u64, Instruction)>; WAYS]; 16]);

impl Decoded {
    /// None yet.
    pub(super) const NONE: Self = Self([[None; WAYS]; 16]);

    /// The instruction at an address, which is decoded if it is not known; `None` if it is none. A
    /// site's bytes do not change while it is one; when modules come and go, everything is
    /// forgotten.
    #[inline]
    fn at(&mut self, at: u64, decode: impl FnOnce() -> Option<Instruction>) -> Option<&Instruction> {
        let sets = self.0.len();
        let set = &mut self.0[(at >> 2) as usize % sets];
        let is_it = |place: &Option<(u64, Instruction)>| place.as_ref().is_some_and(|(address, _)| *address == at);
        let place = if let Some(place) = set.iter().position(is_it) {
            place
        } else {
            let decoded = decode()?;
            set.rotate_right(1);
            set[0] = Some((at, decoded));
            0
        };
        set[place].as_ref().map(|(_, instruction)| instruction)
    }

    pub(super) fn forget(&mut self) {
        *self = Self::NONE;
    }
}

/// The first instruction of a site, at an address. If it is the only one, the pad comes next.
fn decode_first(site: &Site, at: u64) -> Option<Instruction> {
    let original = site.original();
    let mut first = decode(&original, at)?;
    if first.len() == original.len() {
        first.set_next_ip(at + u64::from(site.slot()));
    }
    Some(first)
}

/// The second instruction of a site at an address, behind the first; the site's end comes next.
fn decode_second(site: &Site, at: u64, behind_first: u64) -> Option<Instruction> {
    let first = usize::try_from(behind_first - at).ok()?;
    let mut second = decode(site.original().get(first..)?, behind_first)?;
    second.set_next_ip(at + u64::from(site.slot()));
    Some(second)
}

impl<H: Host> Vm<'_, H> {
    /// A site has called: the return address says which.
    #[inline]
    pub fn site_called(&mut self, context: &mut Context) {
        let Some((number, site)) = self.machine.text.engine.at_stub(context.rip) else {
            Self::die(context, "called from no site");
        };
        let at = if site.form() == Form::Call {
            let end = self.machine.space.word(context.rsp).unwrap_or(0);
            context.rsp += 8;
            end.wrapping_sub(u64::from(site.slot()))
        } else {
            site.address()
        };
        self.emulate_site(context, number, at);
    }

    /// A site without a stack has jumped, and has left its number behind.
    #[inline]
    pub fn site_jumped(&mut self, context: &mut Context, number: usize) {
        let Some(at) = self.machine.text.engine.site(number).map(Site::address) else {
            Self::die(context, "jumped from no site");
        };
        self.emulate_site(context, number, at);
    }

    /// An IRETQ, if it leads to a program in the plainest way: with the selectors of 64-bit
    /// programs and interrupts on. Whether it did; `number` is that of its site.
    #[inline]
    pub fn return_plainly(&mut self, context: &mut Context, number: usize) -> bool {
        let Some([rip, cs, rflags, rsp, ss]) = self.machine.space.words(context.rsp) else { return false };
        let user = is_canonical(rip) && rip >> 63 == 0;
        let plain = (cs, ss) == (linux::USER_CS, linux::USER_DS) && user && rflags & flags::INTERRUPT != 0;
        if plain {
            self.note_site(number, context);
            (context.rip, context.cs, context.rflags, context.rsp, context.ss) = (rip, cs, rflags, rsp, ss);
        }
        plain
    }

    /// Carries out a site's instructions for a context that is at `at`: the site's address, or
    /// another at which it runs.
    #[inline]
    pub fn emulate_site(&mut self, context: &mut Context, number: usize, at: u64) {
        context.rip = at;
        self.note_site(number, context);
        let Self { vcpu: Vcpu { cpu, processor, decoded, .. }, machine } = self;
        let Some(site) = machine.text.engine.site(number) else { Self::die(context, "at no site") };
        let Some(first) = decoded.at(at, || decode_first(site, at)) else {
            Self::die(context, "at a site that does not decode")
        };
        let (class, end) = (site.class(), at + u64::from(site.slot()));
        let behind_first = first.next_ip();
        let mut outcome = emulate(cpu, context, first, &mut machine.behind(processor));
        if outcome == Ok(Flow::Next) && behind_first != end {
            context.rip = behind_first;
            let site = machine.text.engine.site(number);
            let decode = || site.and_then(|site| decode_second(site, at, behind_first));
            let Some(second) = decoded.at(behind_first, decode) else {
                Self::die(context, "at a site that does not decode");
            };
            outcome = emulate(cpu, context, second, &mut machine.behind(processor));
        }
        match outcome {
            Ok(Flow::Next) => context.rip = end,
            Ok(Flow::Jumped) => {}
            Ok(Flow::Unhandled) => Self::die(context, format_args!("{class} is not emulated")),
            Err(exception) => self.deliver(context, Event::Exception(exception)),
        }
        if !self.vcpu.has_run_user && class == Class::MovToCr {
            // The kernel may go on, on a stack in its image, in tables that nobody has used yet.
            self.reach_image(self.machine.text.kernel.clone());
        }
        if let Class::MovToCr | Class::Clts | Class::Lmsw | Class::Wrmsr = class {
            H::registers_changed(self, class == Class::Wrmsr);
        }
    }

    /// A site's instructions are carried out, if anybody counts.
    #[inline]
    pub fn note_site(&mut self, number: usize, context: &Context) {
        if self.machine.profile.is_on() {
            self.count_site(number, context);
        }
    }

    #[cold]
    #[inline(never)]
    fn count_site(&mut self, number: usize, context: &Context) {
        let engine = &self.machine.text.engine;
        engine.count(number);
        if let Some(class) = engine.site(number).map(Site::class) {
            self.begin(Path::Site(class), context);
        }
    }

    /// Makes sure that the kernel's image can be accessed where it is loaded: it is about to run
    /// there, on a stack in it.
    pub fn reach_image(&mut self, image: Range<u64>) {
        for page in image.step_by(2 << 20) {
            self.machine.space.reach_for_writing(page);
        }
    }

    /// A way into the kernel that is not an exception: SYSCALL, SYSENTER.
    pub fn transfer(
        &mut self,
        context: &mut Context,
        how: impl FnOnce(&VirtualCpu, &mut Context) -> Result<(), Exception>,
    ) {
        self.begin(Path::SystemCall, context);
        if let Err(exception) = how(&self.vcpu.cpu, context) {
            self.deliver(context, Event::Exception(exception));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLI: [u8; 1] = [0xfa];

    #[test]
    fn sites_at_like_addresses_are_decoded_once() {
        let mut decoded = Decoded::NONE;
        let mut count = 0;
        for _ in 0..10 {
            for at in (0..WAYS as u64).map(|number| 0xffff_ffff_8100_0000 + (number << 12)) {
                let instruction = decoded.at(at, || {
                    count += 1;
                    decode(&CLI, at)
                });
                assert_eq!(instruction.map(Instruction::ip), Some(at));
            }
        }
        assert_eq!(count, WAYS);
    }

    #[test]
    fn what_is_not_known_any_more_is_decoded_again() {
        let mut decoded = Decoded::NONE;
        for number in (0..100).chain(0..100) {
            let at = 0xffff_ffff_8100_0000 + (number << 12);
            assert_eq!(decoded.at(at, || decode(&CLI, at)).map(Instruction::ip), Some(at));
        }
        assert!(decoded.at(1, || None).is_none());
        decoded.forget();
        assert!(decoded.at(0xffff_ffff_8100_0000, || None).is_none());
    }
}
