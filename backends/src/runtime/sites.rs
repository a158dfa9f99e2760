//! The sites of a loaded kernel, rewritten, with an account in the boot log.

use core::fmt;

use wedge::image::{Copied, Payload};
use wedge::sites::{Applied, Engine, Form, Piece, Refusal, SiteTable, Summary};

use super::{say, timestamp};

/// Rewrites all sites of a kernel that was moved `moved` bytes up, all or none.
///
/// # Errors
///
/// When the table does not hold.
pub(crate) fn rewrite_sites(
    engine: &mut Engine<'static>,
    contents: &Payload<'_>,
    moved: u64,
    mut text: Piece<'_>,
) -> Result<Summary, Refusal> {
    let table = SiteTable::new(contents.sites, contents.sites_address.wrapping_add(moved))?;
    let mut copies = contents.copies().peekable();
    let applied = |number: usize| {
        while copies.next_if(|copied| copied.record < number as u64).is_some() {}
        match copies.next_if(|copied| copied.record == number as u64) {
            None | Some(Copied { address: 0, whole: 0, .. }) => Applied::Somewhere,
            Some(Copied { address, whole: 0, .. }) => Applied::Part(address.wrapping_add(moved)),
            Some(Copied { address: 0, .. }) => Applied::Whole(0),
            Some(Copied { address, .. }) => Applied::Whole(address.wrapping_add(moved)),
        }
    };
    let started = timestamp();
    let summary = engine.rewrite(&table, applied, &mut text)?;
    report(&summary, timestamp() - started);
    Ok(summary)
}

/// The boot log's account of the sites.
fn report(summary: &Summary, ticks: u64) {
    say!(
        "{} of {} sites rewritten: {} fused, {} jmp, {} call, {} of them hooked; {ticks} TSC ticks",
        summary.rewritten(),
        summary.sites(),
        summary.in_form(Form::Fused),
        summary.in_form(Form::Jump),
        summary.in_form(Form::Call),
        summary.hooked(),
    );
    let (inline, traps) = (summary.in_form(Form::Inline), summary.in_form(Form::Trap));
    if inline + traps != 0 {
        say!("the others: {inline} replaced in place, {traps} by INT3");
    }
    say!("rewritten: {}", List(|| summary.classes()));
    for (reason, count) in summary.left() {
        say!("left as they are: {count}, {reason}");
    }
}

/// Counts with names.
struct List<F>(F);

impl<T: fmt::Display, I: Iterator<Item = (T, u32)>, F: Fn() -> I> fmt::Display for List<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (name, count)) in (self.0)().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{name} {count}")?;
        }
        Ok(())
    }
}
