//! As little as can be: all is fused but the few sites that have a hook.
//!
//! A site that cannot have its hook is fused all the same: the wedge is deaf there, but the guest
//! runs.

use annotate::instructions::Class;
use annotate::record::Flags;

use super::{Case, Form, Left, Policy, Way, flags_free};

/// The guest has its privileges, and its instructions stay.
#[derive(Clone, Copy, Debug)]
pub(in crate::sites) struct Native;

impl Policy for Native {
    fn way(&self, case: &Case<'_>) -> Result<Way, Left> {
        case.check()?;
        let moves = case.site.flags.intersects(Flags::COPIED.union(Flags::REPLACEMENT));
        let hook = case.hook().filter(|_| !moves);
        if hook.is_none() && matches!(case.site.class, Class::Vmcall | Class::Vmmcall) {
            return Err(Left::Hypercall);
        }
        let form = if hook.is_some() { Form::Jump } else { Form::Fused };
        Ok(Way { form, hook, flags_free: flags_free(case.site), template: None })
    }
}
