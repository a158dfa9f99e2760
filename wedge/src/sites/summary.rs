//! What became of the sites.

use annotate::instructions::Class;

use super::policy::{Form, Left};

/// Sites that were left, and do something else without privileges than with them, and nobody learns
/// of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// How many.
    pub count: u32,
    /// Address of the first.
    pub address: u64,
    /// Its class.
    pub class: Class,
    /// Why it was left.
    pub reason: Left,
}

/// How many sites were rewritten, per class, and how many were left, per reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    classes: [u32; 256],
    left: [u32; Left::ALL.len()],
    forms: [u32; Form::ALL.len()],
    hooked: u32,
    lost: Option<Lost>,
}

impl Summary {
    pub(super) const EMPTY: Self =
        Self { classes: [0; 256], left: [0; Left::ALL.len()], forms: [0; Form::ALL.len()], hooked: 0, lost: None };

    pub(super) fn rewritten_as(&mut self, class: Class, form: Form, hooked: bool) {
        self.classes[usize::from(class as u8)] += 1;
        self.forms[form as usize] += 1;
        self.hooked += u32::from(hooked);
    }

    pub(super) fn leave(&mut self, left: Left) {
        self.left[left as usize] += 1;
    }

    pub(super) fn lose(&mut self, address: u64, class: Class, reason: Left) {
        self.lost.get_or_insert(Lost { count: 0, address, class, reason }).count += 1;
    }

    /// Sites without which the guest cannot run here.
    #[must_use]
    pub fn lost(&self) -> Option<Lost> {
        self.lost
    }

    /// Sites in the table.
    #[must_use]
    pub fn sites(&self) -> u32 {
        self.rewritten() + self.left.iter().sum::<u32>()
    }

    /// Sites that were rewritten.
    #[must_use]
    pub fn rewritten(&self) -> u32 {
        self.classes.iter().sum()
    }

    /// Sites that took this form.
    #[must_use]
    pub fn in_form(&self, form: Form) -> u32 {
        self.forms[form as usize]
    }

    /// Sites that call the wedge.
    #[must_use]
    pub fn hooked(&self) -> u32 {
        self.hooked
    }

    /// The classes that have rewritten sites, and how many.
    pub fn classes(&self) -> impl Iterator<Item = (Class, u32)> {
        let count = |class: Class| (class, self.classes[usize::from(class as u8)]);
        Class::ALL.iter().copied().map(count).filter(|(_, count)| *count != 0)
    }

    /// The reasons for which sites were left, and how many.
    pub fn left(&self) -> impl Iterator<Item = (Left, u32)> {
        Left::ALL.into_iter().zip(self.left).filter(|(_, count)| *count != 0)
    }
}
