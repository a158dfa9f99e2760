//! Every site goes through the wedge, which executes the original, and may count it. One that
//! cannot is left, with the reason.

use annotate::instructions::Class;
use annotate::record::Flags;

use super::{Case, Form, Hook, Left, Policy, Way, flags_free};

/// The guest has its privileges, and its sites run in stubs.
#[derive(Clone, Copy, Debug)]
pub(in crate::sites) struct Probe {
    /// Whether each counts how often it is executed.
    pub(in crate::sites) counts: bool,
}

impl Policy for Probe {
    fn way(&self, case: &Case<'_>) -> Result<Way, Left> {
        case.check()?;
        let (flags, stack, flags_free) = (case.site.flags, case.has_stack(), flags_free(case.site));
        if flags.contains(Flags::COPIED) {
            return Err(Left::Copied);
        }
        if flags.contains(Flags::HEAD) && matches!(case.site.class, Class::MovToCr | Class::MovFromCr) {
            return Err(Left::AddressSpace);
        }
        if self.counts && !stack && !flags_free {
            return Err(Left::NoPlaceToCount);
        }
        let form = if !flags.contains(Flags::REPLACEMENT) {
            Form::Jump
        } else if case.shape.stack || !stack {
            return Err(Left::ReplacementUsesStack);
        } else {
            Form::Call
        };
        Ok(Way { form, hook: if stack { hook(case) } else { None }, flags_free, template: None })
    }
}

/// The hook of a site that has a stack.
fn hook(case: &Case<'_>) -> Option<Hook> {
    case.hook().or_else(|| match case.site.class {
        Class::Lidt | Class::Lldt => Some(Hook::Descriptor),
        _ => case.site.flags.contains(Flags::EXTABLE).then_some(Hook::Fault),
    })
}
