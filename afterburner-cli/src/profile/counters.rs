//! The wedge's counters, as they come out of the guest.
//!
//! Each answer of the wedge was sent line by line: `NAME: LINE` for each line, then `NAME ended
//! STATUS LINES`. Nothing of it is believed: a line that is no counter is an error that names it,
//! and so is an answer that is not whole.

use annotate::instructions::Class;
use anyhow::{Context as _, bail, ensure};
use wedge::vm::port::GREETING;

use super::paths::{Paths, Spent};

/// One site that was executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counter {
    /// The address of the site at run time.
    pub(super) address: u64,
    /// What it is.
    pub(super) class: Class,
    /// How often it was executed.
    pub(super) count: u64,
}

/// The lines of an answer, without the wedge's greeting. An answer that says that something failed
/// is an error.
pub(super) fn answer<'a>(messages: &'a [String], name: &str) -> anyhow::Result<Vec<&'a str>> {
    let of_name = |message: &'a String| message.strip_prefix(name);
    let lines: Vec<&str> =
        messages.iter().filter_map(|message| of_name(message)?.strip_prefix(":")).map(str::trim).collect();
    let end = messages.iter().find_map(|message| of_name(message)?.strip_prefix(" ended "));
    let end = end.with_context(|| format!("the guest ended before it had the wedge's answer ({name})"))?;
    let (status, count) =
        end.split_once(' ').with_context(|| format!("the end of the answer ({name}) is cut: {end}"))?;
    if let Some(error) = lines.get(1).and_then(|line| line.strip_prefix("error:")) {
        bail!("the wedge: {}", error.trim());
    }
    if status != "0" || lines.first() != Some(&GREETING) {
        bail!("{}", lines.first().copied().unwrap_or("wedge-port failed in the guest"));
    }
    ensure!(
        count == lines.len().to_string(),
        "{} of {count} lines of the wedge's answer ({name}) arrived",
        lines.len()
    );
    Ok(lines[1..].to_vec())
}

/// All that an answer tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) sites: Vec<Counter>,
    pub(super) paths: Paths,
}

/// The counters in the lines of an answer.
pub(super) fn parse(lines: &[&str]) -> anyhow::Result<Counters> {
    let mut counters = Counters::default();
    for (number, line) in lines.iter().enumerate() {
        let kept = if let Some(rest) = line.strip_prefix("path ") {
            spent(rest).map(|spent| counters.paths.paths.push(spent))
        } else if let Some(rest) = line.strip_prefix("call ") {
            spent(rest).map(|spent| counters.paths.calls.push(spent))
        } else {
            counter(line).map(|counter| counters.sites.push(counter))
        };
        kept.with_context(|| format!("counters, line {}: `{line}` is no counter", number + 1))?;
    }
    counters.paths.sort();
    Ok(counters)
}

/// A number. A sign is no digit, though `parse` takes it.
fn number(word: &str) -> Option<u64> {
    word.parse().ok().filter(|_| !word.starts_with('+'))
}

fn spent(line: &str) -> Option<Spent> {
    let mut words = line.split(' ');
    let name = words.next().filter(|name| !name.is_empty())?.to_owned();
    let spent = Spent { name, count: number(words.next()?)?, ticks: number(words.next()?)? };
    words.next().is_none().then_some(spent)
}

fn counter(line: &str) -> Option<Counter> {
    let mut words = line.split(' ');
    let (address, class, count) = (words.next()?, words.next()?, words.next()?);
    let well_formed = address.len() == 16 && !address.starts_with('+') && words.next().is_none();
    let address = u64::from_str_radix(address, 16).ok()?;
    let counter = Counter { address, class: Class::from_name(class)?, count: number(count)? };
    well_formed.then_some(counter)
}

/// How far the kernel was moved from where it was linked, as the wedge's status says it.
pub(super) fn offset(status: &[&str]) -> anyhow::Result<u64> {
    let Some(offset) = status.iter().find_map(|line| line.strip_prefix("offset ")) else { return Ok(0) };
    let digits = offset.strip_prefix("0x").unwrap_or(offset);
    u64::from_str_radix(digits, 16).with_context(|| format!("the wedge says `offset {offset}`, which is no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn an_answer_is_whole_or_an_error() {
        let whole =
            ["zero ended 0 1", "counters: afterburn 1", "counters: x", "wedge: y", "counters ended 0 2", "status 0"];
        assert_eq!(answer(&messages(&whole), "counters").expect("an answer"), ["x"]);
        for (lines, error) in [
            (&["status 0"] as &[&str], "the guest ended before it had the wedge's answer (counters)"),
            (&["counters: afterburn 1", "counters ended 0 3"], "1 of 3 lines of the wedge's answer (counters) arrived"),
            (&["counters: afterburn 1", "counters ended 0"], "the end of the answer (counters) is cut: 0"),
            (
                &["counters: afterburn 1", "counters: error: not counting", "counters ended 1 2"],
                "the wedge: not counting",
            ),
            (
                &["counters: wedge-port: there is no wedge here", "counters ended 2 1"],
                "wedge-port: there is no wedge here",
            ),
            (&["counters: afterburn 2", "counters ended 0 1"], "afterburn 2"),
            (&["counters ended 127 0"], "wedge-port failed in the guest"),
        ] {
            let found = answer(&messages(lines), "counters").expect_err("not whole");
            assert_eq!(format!("{found:#}"), error);
        }
    }

    #[test]
    fn counters_are_read_and_what_is_none_is_named() {
        let counter = Counter { address: 0xffff_ffff_8100_1234, class: Class::StiHlt, count: 17 };
        assert_eq!(parse(&["ffffffff81001234 sti;hlt 17"]).expect("a counter").sites, [counter]);
        assert_eq!(parse(&[]).expect("no counters"), Counters::default());
        let Counters { sites, paths } =
            parse(&["path event 1 20", "path mov-to-cr 3 90", "call mmu_update 2 9"]).expect("paths");
        assert!(sites.is_empty());
        assert_eq!(paths.paths[0], Spent { name: "mov-to-cr".to_owned(), count: 3, ticks: 90 });
        assert_eq!(paths.paths[1], Spent { name: "event".to_owned(), count: 1, ticks: 20 });
        assert_eq!(paths.calls, [Spent { name: "mmu_update".to_owned(), count: 2, ticks: 9 }]);
        for line in [
            "",
            "ffffffff81001234",
            "ffffffff81001234 cli",
            "81001234 cli 1",
            "+fffffff81001234 cli 1",
            "fffffffg81001234 cli 1",
            "ffffffff81001234 nop 1",
            "ffffffff81001234 cli -1",
            "ffffffff81001234 cli +1",
            "ffffffff81001234 cli 18446744073709551616",
            "ffffffff81001234 cli 1 2",
            "ffffffff81001234  cli 1",
            "path event 1",
            "path event +1 2",
            "path event 1 2 3",
            "path  1 2",
            "call iret 1",
            "call iret -1 2",
        ] {
            let error = parse(&["ffffffff81001234 cli 1", line]).expect_err(line);
            assert!(error.to_string().starts_with(&format!("counters, line 2: `{line}`")), "{error}");
        }
    }

    #[test]
    fn the_offset_is_hexadecimal_and_zero_unless_it_is_said() {
        assert_eq!(offset(&["mode profile", "offset 0x1e000000", "sites 3"]).expect("one"), 0x1e00_0000);
        assert_eq!(offset(&["offset 1000"]).expect("one"), 0x1000);
        assert_eq!(offset(&["mode profile"]).expect("none"), 0);
        assert!(offset(&["offset far"]).is_err());
    }
}
