//! Counts the sensitive instructions that a boot executes, exactly and by class: the oracle for the
//! wedge's own counters.
//!
//! A plugin of QEMU's counts every execution of what could be sensitive, with its bytes. `objdump`
//! and the census's list of mnemonics say what each was. Nothing of this shares code or tables with
//! the annotations, nor with the wedge.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::census::{Kind, Patterns, is_prefix, split_operands};
use crate::expect::Expectations;
use crate::qemu::Machine;
use crate::{command, icount};

/// The longest instruction (SDM Vol. 2A, 2.3.11) and a NOP, so that each begins at a multiple.
const STRIDE: usize = 16;

/// Between which two moments of a boot is counted. Neither address should hold a sensitive
/// instruction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    /// The counts start from zero whenever the instruction at this address is about to be executed.
    pub zero: Option<u64>,
    /// The counts are frozen when the instruction at this address is about to be executed for the
    /// given time since then; without one, at the end of the boot.
    pub snapshot: Option<(u64, u64)>,
}

/// One sensitive instruction that was executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// Where it was executed.
    pub address: u64,
    /// Its class, by the names that annotations use for single instructions.
    pub class: String,
    /// How often. An execution that faults is one; so is each iteration of a repeated string
    /// instruction.
    pub count: u64,
}

/// What was counted.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Every sensitive instruction that was executed, in user mode too.
    pub executed: Vec<Executed>,
}

impl Counts {
    /// Counts by class in a range of addresses.
    #[must_use]
    pub fn inside(&self, range: &Range<u64>) -> BTreeMap<String, u64> {
        self.sum(|address| range.contains(&address))
    }

    /// Counts by class in the kernel half of the address space, apart from a range.
    #[must_use]
    pub fn kernel_outside(&self, range: &Range<u64>) -> BTreeMap<String, u64> {
        self.sum(|address| address >= 1 << 63 && !range.contains(&address))
    }

    fn sum(&self, counted: impl Fn(u64) -> bool) -> BTreeMap<String, u64> {
        let mut classes = BTreeMap::new();
        for executed in self.executed.iter().filter(|executed| counted(executed.address)) {
            *classes.entry(executed.class.clone()).or_default() += executed.count;
        }
        classes
    }
}

/// The sensitive instructions of an annotated class: those of a sequence, or itself.
#[must_use]
pub fn instructions_of(class: &str) -> Vec<&str> {
    class.split(';').filter(|part| !class.contains(';') || !["push", "pop"].contains(part)).collect()
}

/// Boots the machine with deterministic time and counts.
///
/// # Errors
///
/// When the plugin cannot be built, the boot fails, or it never comes to the snapshot.
pub fn boot(machine: &Machine, name: &str, expectations: &Expectations, window: Window) -> Result<Counts> {
    let directory = tempfile::tempdir()?;
    let out = directory.path().join("classes");
    let mut plugin = format!("{},out={}", icount::build_plugin("classes", directory.path())?.display(), out.display());
    if let Some(zero) = window.zero {
        write!(plugin, ",zero={zero:x}")?;
    }
    if let Some((snapshot, times)) = window.snapshot {
        write!(plugin, ",snap={snapshot:x},times={times}")?;
    }
    let mut machine = icount::deterministic(machine);
    machine.options.extend(["-plugin".into(), plugin.into()]);
    machine.boot(name, expectations)?;

    let text = fs::read_to_string(&out).context("reading what the QEMU plugin counted")?;
    ensure!(!text.is_empty(), "the QEMU plugin counted nothing: the snapshot was never reached");
    read(&text, directory.path())
}

/// Disassembles what the plugin counted.
fn read(text: &str, directory: &Path) -> Result<Counts> {
    let lines = text.lines().map(|line| parse(line).with_context(|| format!("the QEMU plugin's line `{line}`")));
    let lines = lines.collect::<Result<Vec<_>>>()?;
    let mut flat = Vec::new();
    for (_, bytes, _) in &lines {
        flat.extend(bytes);
        flat.resize(flat.len().next_multiple_of(STRIDE), 0x90); // nop
    }
    let file = directory.join("instructions");
    fs::write(&file, &flat)?;
    let classes = classify(&file)?;
    let executed = lines.iter().enumerate().filter_map(|(index, &(address, _, count))| {
        let class = classes.get(&(index * STRIDE))?.clone();
        Some(Executed { address, class, count })
    });
    Ok(Counts { executed: executed.collect() })
}

fn parse(line: &str) -> Result<(u64, Vec<u8>, u64)> {
    let words: Vec<_> = line.split(' ').collect();
    let [address, bytes, count] = words[..] else { bail!("not three words") };
    ensure!(bytes.len().is_multiple_of(2) && (2..2 * STRIDE).contains(&bytes.len()), "not an instruction");
    let byte = |at: usize| u8::from_str_radix(bytes.get(at..at + 2).unwrap_or_default(), 16);
    let bytes = (0..bytes.len()).step_by(2).map(byte).collect::<Result<_, _>>()?;
    Ok((u64::from_str_radix(address, 16)?, bytes, count.parse()?))
}

/// The classes of the sensitive instructions in a flat file, by offset.
fn classify(file: &Path) -> Result<BTreeMap<usize, String>> {
    let mut objdump = Command::new("objdump");
    objdump.args(["-D", "-b", "binary", "-m", "i386:x86-64", "--wide", "--no-show-raw-insn"]).arg(file);
    let patterns = Patterns::read()?;
    let mut classes = BTreeMap::new();
    for line in command::output(&mut objdump)?.lines() {
        let Some((offset, text)) = line.split_once(":\t") else { continue };
        let offset = usize::from_str_radix(offset.trim(), 16).with_context(|| format!("objdump: {line}"))?;
        if let (0, Kind::Sensitive(text)) = (offset % STRIDE, patterns.classify(text)) {
            classes.insert(offset, class(&text));
        }
    }
    Ok(classes)
}

/// The class of a sensitive instruction as `objdump` prints it: in AT&T syntax the source operand
/// comes first.
fn class(text: &str) -> String {
    let mut words = text.split_whitespace().skip_while(|word| is_prefix(word));
    let mnemonic = words.next().unwrap_or_default();
    let mut operands = words.next().unwrap_or_default();
    operands = operands.split('#').next().unwrap_or_default();
    match mnemonic {
        "mov" => {
            let mut operands = split_operands(operands);
            let source = operands.next().and_then(register_file);
            let destination = operands.next().and_then(register_file);
            source.map(|file| format!("mov-from-{file}")).or(destination.map(|file| format!("mov-to-{file}")))
        }
        "push" | "pushw" | "pushq" => Some("push-seg".to_owned()),
        "pop" | "popw" | "popq" => Some("pop-seg".to_owned()),
        _ => None,
    }
    .unwrap_or_else(|| stem(mnemonic).to_owned())
}

fn register_file(operand: &str) -> Option<&'static str> {
    match operand {
        "%cs" | "%ds" | "%es" | "%fs" | "%gs" | "%ss" => Some("seg"),
        _ if operand.starts_with("%cr") => Some("cr"),
        _ if operand.starts_with("%db") || operand.starts_with("%dr") => Some("dr"),
        _ => None,
    }
}

/// The mnemonic without its operand size.
fn stem(mnemonic: &str) -> &str {
    const SIZED: [&str; 22] = [
        "pushf", "popf", "iret", "lret", "ljmp", "lcall", "sysret", "sysexit", "in", "out", "ins", "outs", "sgdt",
        "sidt", "sldt", "str", "smsw", "lmsw", "xsaves", "xrstors", "fxsave", "fxrstor",
    ];
    let size = |rest: &str| ["", "b", "w", "l", "q", "64"].contains(&rest);
    SIZED.into_iter().find(|stem| mnemonic.strip_prefix(stem).is_some_and(size)).unwrap_or(mnemonic)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wedge_port::WINDOW;

    fn classes_of(lines: &str) -> Vec<(u64, String, u64)> {
        let directory = tempfile::tempdir().unwrap();
        let counts = read(lines, directory.path()).unwrap();
        counts.executed.into_iter().map(|executed| (executed.address, executed.class, executed.count)).collect()
    }

    #[test]
    fn executed_bytes_get_their_class() {
        for (bytes, class) in [
            ("fa", "cli"),
            ("2e2e2e2efa", "cli"),
            ("9c", "pushf"),
            ("669d", "popf"),
            ("48cf", "iret"),
            ("480f07", "sysret"),
            ("0f20d8", "mov-from-cr"),
            ("0f22d8", "mov-to-cr"),
            ("440f20c0", "mov-from-cr"),
            ("0f23f8", "mov-to-dr"),
            ("0f21f8", "mov-from-dr"),
            ("8cd8", "mov-from-seg"),
            ("8ee8", "mov-to-seg"),
            ("0fa8", "push-seg"),
            ("0fa1", "pop-seg"),
            ("ec", "in"),
            ("66ef", "out"),
            ("f36d", "ins"),
            ("0f01d0", "xgetbv"),
            ("0f01f8", "swapgs"),
            ("0f011d00000000", "lidt"),
            ("480fc7282e", "xsaves"),
            ("480fae07", "fxsave"),
            ("f3480fc7f8", "rdpid"),
            ("f3480faed8", "wrgsbase"),
        ] {
            let found = classes_of(&format!("ffffffff81000000 {bytes} 7\n"));
            assert_eq!(found, [(0xffff_ffff_8100_0000, class.to_owned(), 7)], "{bytes}");
        }
    }

    #[test]
    fn harmless_bytes_are_not_counted() {
        assert_eq!(
            classes_of("10 0f01c1 1\n20 ff10 5\n30 0fae28 1\n40 0fc70f 3\n50 fa 2\n"),
            [(0x10, "vmcall".to_owned(), 1), (0x50, "cli".to_owned(), 2)]
        );
    }

    #[test]
    fn counts_are_summed_by_class_and_place() {
        let directory = tempfile::tempdir().unwrap();
        let text = "ffffffff81000000 fa 1\nffffffff81000010 fa 2\nffffffff7f000000 fa 4\n400000 0fa2 8\n";
        let counts = read(text, directory.path()).unwrap();
        assert_eq!(counts.inside(&WINDOW), BTreeMap::from([("cli".to_owned(), 4)]));
        assert_eq!(counts.kernel_outside(&WINDOW), BTreeMap::from([("cli".to_owned(), 3)]));
    }

    #[test]
    fn a_sequence_counts_as_its_sensitive_instructions() {
        assert_eq!(instructions_of("pushf;pop"), ["pushf"]);
        assert_eq!(instructions_of("push;popf"), ["popf"]);
        assert_eq!(instructions_of("sti;hlt"), ["sti", "hlt"]);
        assert_eq!(instructions_of("cli"), ["cli"]);
    }

    #[test]
    fn malformed_lines_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        for line in ["", "10 fa", "10 f 1", "10 xx 1", "zz fa 1", "10 fa -1", "10 é0 1"] {
            assert!(read(&format!("{line}\n"), directory.path()).is_err(), "{line}");
        }
    }
}
