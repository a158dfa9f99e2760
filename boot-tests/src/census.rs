//! The independent census: `objdump` and a list of mnemonics find the sensitive instructions of a
//! file, and each must have its record.
//!
//! It goes both ways. Every sensitive instruction lies in a record's instruction; every record
//! begins at an instruction, covers a sensitive one, and is followed by NOPs up to the end of its
//! slot.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use object::{Object as _, ObjectSection as _};
use tempfile::NamedTempFile;

use crate::records::{self, Place, Record};
use crate::{cache, command};

/// What the census of one file found.
#[derive(Debug, Default)]
pub struct Census {
    /// Sensitive instructions that `objdump` prints.
    pub sensitive: usize,
    /// Records in the file.
    pub records: usize,
    /// Records of sites that are not padded, by the stated reason.
    pub unpadded: BTreeMap<&'static str, usize>,
    /// Sensitive instructions without a record, and records that do not say the truth.
    pub misses: Vec<String>,
}

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} sensitive instructions, {} records, {} misses", self.sensitive, self.records, self.misses.len())?;
        self.unpadded.iter().try_for_each(|(reason, sites)| write!(f, ", {sites} not padded: {reason}"))
    }
}

/// Takes the census of an object, a module or a kernel.
///
/// # Errors
///
/// When the file cannot be read or disassembled, or its records are malformed.
pub fn take(path: &Path) -> Result<Census> {
    let data = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let file = object::File::parse(&*data).with_context(|| path.display().to_string())?;
    let records = records::read(&file).with_context(|| path.display().to_string())?;
    let listing = disassemble(path)?;
    let known = with_known_instructions(&data, &file, &listing)?;
    let listing = known.map_or(Ok(listing), |copy| disassemble(copy.path()))?;
    compare(&Disassembly::parse(&listing, &Patterns::read()?)?, &records)
}

fn disassemble(path: &Path) -> Result<String> {
    command::output(Command::new("objdump").args(["--disassemble", "--wide", "--no-show-raw-insn"]).arg(path))
}

/// `objdump` of binutils 2.40 does not know LKGS, which Linux encodes by hand since 6.12, and is
/// led astray by it. A copy of a file that has some, with WRGSBASE of the same register in their
/// places: that is as long, and as sensitive.
fn with_known_instructions(data: &[u8], file: &object::File, listing: &str) -> Result<Option<NamedTempFile>> {
    let mut copy = data.to_vec();
    for section in file.sections().filter(|section| section.kind() == object::SectionKind::Text) {
        let Some((start, size)) = section.file_range() else { continue };
        let range = usize::try_from(start)?..usize::try_from(start + size)?;
        for (offset, bytes) in data[range.clone()].windows(4).enumerate() {
            let &[0xf2, 0x0f, 0x00, modrm @ 0xf0..=0xf7] = bytes else { continue };
            let address = section.address() + u64::try_from(offset)?;
            if listing.contains(&format!("{address:x}:\trepnz (bad)")) {
                copy[range.start + offset..][..4].copy_from_slice(&[0xf3, 0x0f, 0xae, 0xd8 | modrm & 7]);
            }
        }
    }
    if copy == data {
        return Ok(None);
    }
    let mut copied = NamedTempFile::new()?;
    copied.write_all(&copy)?;
    Ok(Some(copied))
}

fn compare(disassembly: &Disassembly, records: &BTreeMap<Place, Record>) -> Result<Census> {
    let mut census = Census { records: records.len(), ..Census::default() };
    for ((section, address), record) in records {
        if let Some(reason) = record.unpadded_reason() {
            *census.unpadded.entry(reason).or_default() += 1;
            // Not 64-bit code, perhaps: objdump's boundaries mean nothing there.
            continue;
        }
        let instructions =
            disassembly.sections.get(section).with_context(|| format!("objdump shows no section {section}"))?;
        if let Err(reason) = check(instructions, *address, *record) {
            census.misses.push(format!("record of {section} {address:#x}: {reason}"));
        }
    }
    for (section, instructions) in &disassembly.sections {
        for (&address, kind) in instructions {
            let Kind::Sensitive(text) = kind else { continue };
            census.sensitive += 1;
            let record = records
                .range((section.clone(), 0)..=(section.clone(), address))
                .next_back()
                .filter(|((_, site), record)| address < site + u64::from(record.length));
            if record.is_none() {
                census.misses.push(format!("no record for {section} {address:#x}: {text}"));
            }
        }
    }
    Ok(census)
}

/// Holds one record of a padded site against the instructions there.
fn check(instructions: &Instructions, site: u64, record: Record) -> Result<()> {
    let end = site + u64::from(record.length);
    let slot_end = site + u64::from(record.slot);
    ensure!(record.slot >= 5, "a slot of {} bytes", record.slot);
    ensure!(instructions.contains_key(&site), "no instruction begins there");
    ensure!(instructions.contains_key(&end) || record.slot == record.length, "no instruction ends at {end:#x}");
    ensure!(
        instructions.range(site..end).any(|(_, kind)| matches!(kind, Kind::Sensitive(_))),
        "nothing sensitive there"
    );
    ensure!(
        instructions.range(end..slot_end).all(|(_, kind)| matches!(kind, Kind::Nop)),
        "not only NOPs up to the end of its slot"
    );
    let last = instructions.keys().next_back().is_some_and(|last| *last < slot_end);
    ensure!(instructions.contains_key(&slot_end) || last, "no instruction ends with its slot");
    Ok(())
}

/// What the census has to know of an instruction.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sensitive(String),
    Nop,
    Other,
}

type Instructions = BTreeMap<u64, Kind>;

/// The instructions of a file, by section and address.
#[derive(Debug, Default)]
struct Disassembly {
    sections: BTreeMap<String, Instructions>,
}

impl Disassembly {
    fn parse(listing: &str, patterns: &Patterns) -> Result<Self> {
        let mut disassembly = Self::default();
        let mut section = None;
        for line in listing.lines() {
            if let Some(name) = line.strip_prefix("Disassembly of section ") {
                let name = name.trim_end_matches(':').to_owned();
                ensure!(!disassembly.sections.contains_key(&name), "two sections have the name {name}");
                section = Some(disassembly.sections.entry(name).or_default());
            } else if let (Some(section), Some((address, text))) = (section.as_mut(), line.split_once(":\t")) {
                let address = u64::from_str_radix(address.trim(), 16).with_context(|| format!("objdump: {line}"))?;
                section.insert(address, patterns.classify(text));
            }
        }
        ensure!(!disassembly.sections.is_empty(), "objdump shows no executable section");
        Ok(disassembly)
    }
}

/// The sensitive mnemonics, each with the operands that make it so; none means any.
#[derive(Debug, Default)]
pub(crate) struct Patterns {
    operands: BTreeMap<String, Vec<String>>,
}

impl Patterns {
    pub(crate) fn read() -> Result<Self> {
        let path = cache::testdata("census/sensitive.txt");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let mut patterns = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let mut words = line.split_whitespace().map(str::to_owned);
            if let Some(mnemonic) = words.next() {
                patterns.operands.entry(mnemonic).or_default().extend(words);
            }
        }
        Ok(patterns)
    }

    pub(crate) fn classify(&self, text: &str) -> Kind {
        let code = text.split('#').next().unwrap_or_default();
        let mut words = code.split_whitespace().skip_while(|word| is_prefix(word));
        let mnemonic = words.next().unwrap_or_default();
        let operands = words.next().unwrap_or_default();
        if mnemonic.starts_with("nop") || (mnemonic, operands) == ("xchg", "%ax,%ax") {
            return Kind::Nop;
        }
        let sensitive = self.operands.get(mnemonic).is_some_and(|patterns| {
            patterns.is_empty() || split_operands(operands).any(|operand| patterns.iter().any(|p| fits(operand, p)))
        });
        if sensitive { Kind::Sensitive(text.to_owned()) } else { Kind::Other }
    }
}

pub(crate) fn is_prefix(word: &str) -> bool {
    const PREFIXES: [&str; 19] = [
        "lock", "rep", "repz", "repnz", "data16", "addr32", "cs", "ds", "es", "fs", "gs", "ss", "bnd", "notrack",
        "xacquire", "xrelease", "{disp8}", "{disp32}", "{load}",
    ];
    PREFIXES.contains(&word) || word == "rex" || word.starts_with("rex.")
}

/// Splits at the commas that are not inside parentheses.
pub(crate) fn split_operands(operands: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    operands.split(move |character| {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        character == ',' && depth == 0
    })
}

fn fits(operand: &str, pattern: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => operand.starts_with(start),
        None => operand == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assemble(source: &Path) -> tempfile::TempPath {
        let object = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        command::output(Command::new("as").arg("-o").arg(&object).arg(source)).unwrap();
        object
    }

    fn census_of(assembly: &str) -> Result<Census> {
        let source = tempfile::NamedTempFile::new().unwrap();
        fs::write(source.path(), assembly).unwrap();
        take(&assemble(source.path()))
    }

    /// A site as the assembler stage leaves it: `body`, of `length` bytes, in a slot of `slot`.
    fn site(body: &str, length: u8, slot: u8, flags: u16) -> String {
        format!(
            "771: {body}\n.nops {pad}\n\
             .pushsection .note.afterburn, \"a\", @note\n\
             .balign 4\n.long 12, 12, 1\n.ascii \"Afterburner\\0\"\n\
             .long 771b - . + {displacement}\n.byte {length}, {slot}, 0, 127\n.short 0xffff, {flags}\n.popsection\n",
            pad = slot - length,
            displacement = if flags >> 8 == 0 { 0 } else { 1 << 30 },
        )
    }

    #[test]
    fn the_list_finds_every_sensitive_instruction() {
        let source = cache::testdata("census/instructions.s");
        let census = take(&assemble(&source)).unwrap();
        let written = fs::read_to_string(&source).unwrap();
        let instructions = written.lines().filter(|line| line.starts_with('\t')).count();
        assert!(instructions > 100);
        assert_eq!(census.sensitive, instructions, "{:#?}", census.misses);
        assert_eq!(census.misses.len(), instructions, "none of them has a record");
    }

    #[test]
    fn ordinary_instructions_are_not_sensitive() {
        let harmless = "mov %gs:0x10, %rax\npush %rax\npop %rbx\nmov %eax, %fs:(%rbx)\nint3\nud2\nret\nxsave (%rax)\n\
                        lock incl %gs:(%rax)\ncall *%rax\nleave\nrep movsb\nendbr64\nldmxcsr (%rax)\nclflush (%rax)\n";
        assert_eq!(census_of(harmless).unwrap().sensitive, 0);
    }

    #[test]
    fn recorded_sites_pass() {
        let census = census_of(&format!(
            "{}{}{}{}ret",
            site("cli", 1, 5, 0),
            site("sti; hlt", 2, 5, 0),
            site("push %rax; popf", 2, 5, 0),
            site("mov %gs:0, %eax; mov %cr3, %rax", 11, 16, 0)
        ))
        .unwrap();
        assert!(census.misses.is_empty(), "{:#?}", census.misses);
        assert_eq!((census.sensitive, census.records), (5, 4));
    }

    #[test]
    fn an_unpadded_site_counts_with_its_reason() {
        let census = census_of(&site("cli", 1, 1, 1 << 9)).unwrap();
        assert!(census.misses.is_empty());
        assert_eq!(census.unpadded["class switched off"], 1);
    }

    #[test]
    fn a_site_without_a_record_is_a_miss() {
        let census = census_of(&format!("{}sti\n", site("cli", 1, 5, 0))).unwrap();
        assert_eq!(census.misses, ["no record for .text 0x5: sti"]);
    }

    #[test]
    fn a_record_that_lies_is_a_miss() {
        for (lie, body, length, slot) in [
            ("nothing sensitive there", "nop", 1, 5),
            ("no instruction ends at", "cli; mov $1, %eax", 2, 6),
            ("a slot of 3 bytes", "cli", 1, 3),
        ] {
            let census = census_of(&format!("{}ret", site(body, length, slot, 0))).unwrap();
            assert!(census.misses.iter().any(|miss| miss.contains(lie)), "{lie}: {:?}", census.misses);
        }
        let beyond = site("cli", 1, 5, 0).replace(".byte 1, 5", ".byte 1, 7");
        let census = census_of(&format!("{beyond}mov %eax, %ebx; ret")).unwrap();
        assert!(census.misses[0].contains("not only NOPs"), "{:?}", census.misses);
        let cut = site("cli", 1, 9, 0).replace(".byte 1, 9", ".byte 1, 7");
        let census = census_of(&format!("{cut}ret")).unwrap();
        assert!(census.misses[0].contains("no instruction ends with its slot"), "{:?}", census.misses);
    }

    #[test]
    fn malformed_records_are_refused() {
        for (error, assembly) in [
            ("two records", site("cli", 1, 5, 0) + &site("", 0, 5, 0).replace("771b", "771b - 5")),
            ("version 2", site("cli", 1, 5, 0).replace("12, 12, 1", "12, 12, 2")),
            ("half a record", site("cli", 1, 5, 0).replace("12, 12, 1", "12, 8, 1")),
            ("cut short", site("cli", 1, 5, 0).replace("12, 12, 1", "12, 24, 1")),
            ("no relocation", site("cli", 1, 5, 0).replace("771b - . + 0", "0")),
        ] {
            let result = census_of(&(assembly + "ret"));
            assert!(result.is_err_and(|got| format!("{got:#}").contains(error)), "{error}");
        }
    }
}
