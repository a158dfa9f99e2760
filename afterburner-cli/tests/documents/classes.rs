//! The table of classes, made from the code: a site of every class is assembled, and the wedge
//! rewrites it in each mode.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::sync::atomic::AtomicU64;

use annotate::instructions::{Class, SEQUENCES, TABLE, decode_next};
use annotate::object::{Elf, Records};
use annotate::record::{AllegedSite, Flags, Liveness, MINIMUM_SLOT, RawRecord};
use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter};
use wedge::sites::{
    Applied, Deprivileged, Engine, Form, Hooks, Memory, Mode, Piece, STUB_SIZE, SiteTable, Summary, stays,
};

use crate::root;
use crate::support::Lab;

/// The variable with which [`CLASSES`] is written instead of compared.
const OVERWRITE: &str = "AFTERBURNER_OVERWRITE";

/// The table of classes.
const CLASSES: &str = "docs/classes.md";

/// Where a test has text and the wedge.
const TEXT: u64 = 0xffff_ffff_8100_0000;
const WEDGE: u64 = 0xffff_ffff_7f00_0000;

const HOOKS: Hooks = Hooks {
    port: WEDGE + 0x100,
    flush: WEDGE + 0x200,
    descriptor: WEDGE + 0x300,
    fault: WEDGE + 0x400,
    ret: WEDGE + 0x500,
};

const HOOK_NAMES: [(u64, &str); 5] = [
    (HOOKS.port, "`Port`"),
    (HOOKS.flush, "`Flush`"),
    (HOOKS.descriptor, "`Descriptor`"),
    (HOOKS.fault, "`Fault`"),
    (HOOKS.ret, "`Return`"),
];

/// A virtual CPU as a host sets it up: CR0, CR2, CR3 and CR4 may simply be read.
const DEPRIVILEGED: Deprivileged = Deprivileged {
    mask: WEDGE + 0x1001,
    pending: WEDGE + 0x1000,
    gs_swapped: WEDGE + 0x1002,
    control: [WEDGE + 0x1010, 0, WEDGE + 0x1020, WEDGE + 0x1028, WEDGE + 0x1030, 0, 0, 0, 0],
    site: WEDGE + 0x1004,
    emulate: WEDGE + 0x600,
    emulate_without_stack: WEDGE + 0x700,
    interrupt: WEDGE + 0x800,
    iret: WEDGE + 0x900,
    sysret: WEDGE + 0xa00,
    code_selector: 0xe033,
    stack_selector: 0xe02b,
    counts: false,
    virtual_selectors: false,
    own_floating_point: false,
};

/// A site in ordinary text, with the bytes in its slot.
struct Sample {
    site: AllegedSite,
    slot: Vec<u8>,
}

impl Sample {
    /// Every kind of site that testdata/sites/*.s has in ordinary text.
    fn all() -> Vec<Self> {
        let mut samples = Vec::new();
        for name in ["instructions", "event-delivery", "sequences", "emulated"] {
            let lab = Lab::new();
            let source = root().join(format!("testdata/sites/{name}.s"));
            lab.afterburner(&["as", source.to_str().expect("a path"), "-o", "out.o"]).success();
            let object = lab.read("out.o");
            let elf = Elf::parse(&object).expect("an object");
            for record in Records::read(&elf).expect("records").records {
                let section = &elf.sections()[record.place.section];
                let at = usize::try_from(record.place.offset).expect("an offset");
                let slot = section.bytes[at..][..record.alleged.slot.into()].to_vec();
                let flags = record.alleged.flags;
                if section.name == ".text" && flags.intersection(Flags::UNPADDED).is_empty() {
                    let liveness = Liveness::UNKNOWN;
                    samples
                        .push(Self { site: AllegedSite { flags: Flags::empty(), liveness, ..record.alleged }, slot });
                }
            }
        }
        samples
    }

    /// The instructions, as GNU as spells them.
    fn spelled(&self) -> String {
        let bytes = &self.slot[..self.site.length.into()];
        let mut decoder = Decoder::with_ip(64, bytes, TEXT, DecoderOptions::NONE);
        let mut formatter = GasFormatter::new();
        let mut spelled = String::new();
        while decoder.can_decode() {
            let instruction = decode_next(&mut decoder, bytes);
            if !spelled.is_empty() {
                spelled.push_str("; ");
            }
            formatter.format(&instruction, &mut spelled);
        }
        spelled
    }

    /// What becomes of the site in a mode, and where its stub leads.
    fn rewritten(&self, mode: Mode) -> (Summary, BTreeSet<u64>) {
        const TABLE: u64 = TEXT + 0x1000;
        let record = RawRecord {
            site: -0x1000,
            length: self.site.length,
            slot: self.site.slot,
            class: self.site.class as u8,
            live_flags: self.site.liveness.flags.bits(),
            live_registers: self.site.liveness.registers.bits(),
            flags: self.site.flags.bits(),
        }
        .to_bytes();
        let mut stubs = [[0; STUB_SIZE]];
        let memory = Memory {
            sites: &mut [None],
            stubs: &mut stubs,
            stubs_address: WEDGE + 0x2000,
            counters: &[AtomicU64::new(0)],
            counters_address: WEDGE + 0x3000,
            snapshot: &mut [0],
            order: &mut [0],
        };
        let mut engine = match mode {
            Mode::Deprivileged => Engine::deprivileged(DEPRIVILEGED, Mode::default(), memory),
            _ => Engine::new(mode, HOOKS, memory),
        };
        let mut slot = self.slot.clone();
        let mut text = Piece { bytes: &mut slot, address: TEXT };
        let table = SiteTable::new(&record, TABLE).expect("a record");
        let summary = engine.rewrite(&table, |_| Applied::Somewhere, &mut text).expect("a record that holds");
        let mut decoder = Decoder::with_ip(64, &stubs[0], WEDGE + 0x2000, DecoderOptions::NONE);
        let targets = decoder.iter().map(|instruction| instruction.near_branch_target()).collect();
        (summary, targets)
    }

    /// The same in words.
    fn described(&self, mode: Mode) -> String {
        let (summary, targets) = self.rewritten(mode);
        if let Some((left, _)) = summary.left().next() {
            return format!("left: {left}");
        }
        let form = Form::ALL.into_iter().find(|form| summary.in_form(*form) == 1).expect("a form");
        let emulated =
            [DEPRIVILEGED.emulate, DEPRIVILEGED.emulate_without_stack].iter().any(|target| targets.contains(target));
        let mut words = match form {
            Form::Fused if mode == Mode::Deprivileged => {
                format!("stays: {}", stays(self.site.class).expect("a reason why it stays"))
            }
            Form::Fused => "fused".to_owned(),
            Form::Inline => "template, in the slot".to_owned(),
            Form::Jump | Form::Call if mode != Mode::Deprivileged => "stub".to_owned(),
            Form::Jump | Form::Call if emulated => "emulated".to_owned(),
            Form::Jump | Form::Call => "template, in a stub".to_owned(),
            Form::Trap => "INT3".to_owned(),
        };
        let hooks = HOOK_NAMES.iter().filter(|(target, _)| targets.contains(target));
        for (_, name) in hooks.filter(|_| summary.hooked() == 1) {
            let _ = write!(words, ", hook {name}");
        }
        words
    }
}

/// What becomes of the sites of a class. If that is not the same for all, each has an example.
fn cell(samples: &[&Sample], mode: Mode) -> String {
    let mut found: Vec<(String, String)> = Vec::new();
    for sample in samples {
        let described = sample.described(mode);
        if found.iter().all(|(known, _)| *known != described) {
            found.push((described, sample.spelled()));
        }
    }
    match found.as_slice() {
        [(only, _)] => only.clone(),
        several => {
            let with_example = |(words, example): &(String, String)| format!("`{example}`: {words}");
            several.iter().map(with_example).collect::<Vec<_>>().join("; ")
        }
    }
}

const HEAD: &str = "\
# The classes of sensitive instructions

<!-- Generated. Do not edit: `AFTERBURNER_OVERWRITE=1 cargo test -p afterburner-cli --test documents` writes it. -->

A site's record names its class by the number. One row of `annotate/src/instructions.rs` defines a
class and cites the manual. The other columns say what the wedge makes of an ordinary site of the
class, one in ordinary text with a stack. What the flags of a record change is in [the
wedge](wedge.md#what-decides-beside-the-class).

* *Slot*: how many bytes the assembler stage makes of the instruction at least. A replacement of an
  ALTERNATIVE always gets 5.
* *`native`*: the mode on bare hardware in which the kernel runs at full speed. A *fused* site is
  its own instruction with the pad as prefixes.
* *`identity`, `profile`*: the modes on bare hardware in which each site runs its instruction in a
  *stub*. A *hook* calls the wedge from there; `Fault` is added to sites with an entry in the
  exception table, and `Return` acts after a switch-on.
* *Deprivileged*: a host that runs the kernel without privileges: Xen; and a process, where MOV and
  PUSH of a segment register are emulated, too. A *template* is a few instructions that work on the
  virtual CPU; *emulated* is a call of the virtual CPU; what *stays* is fused, for the stated reason.
* Where forms of one class differ, each is shown with an example.

| class | no. | slot | `native` | `identity`, `profile` | deprivileged | defined in |
|---|---:|---:|---|---|---|---|
";

/// The document with the table of classes.
fn classes() -> String {
    let samples = Sample::all();
    let mut document = HEAD.to_owned();
    let rows = TABLE.iter().map(|row| (row.class, row.slot, row.by_default, row.source));
    let sequences = SEQUENCES.iter().map(|row| (row.class, row.slot, true, "`SEQUENCES` in the same file"));
    for (class, slot, by_default, source) in rows.chain(sequences) {
        let int3 = Sample { site: breakpoint(), slot: vec![0xcc, 0x0f, 0x1f, 0x40, 0x00] };
        let mut of_class: Vec<_> =
            samples.iter().filter(|sample| sample.site.class == class && sample.site.slot >= slot).collect();
        if class == Class::Int3 {
            of_class.push(&int3);
        }
        assert!(!of_class.is_empty(), "no file in testdata/sites has a site of the class {class}");
        let [native, identity, profile, deprivileged] =
            [Mode::Native, Mode::Identity, Mode::Profile, Mode::Deprivileged].map(|mode| cell(&of_class, mode));
        assert_eq!(identity, profile, "{class}: the table has one column for both");
        let name = if by_default { format!("`{class}`") } else { format!("`{class}`, not annotated by default") };
        let number = class as u8;
        let _ =
            writeln!(document, "| {name} | {number} | {slot} | {native} | {identity} | {deprivileged} | {source} |");
    }
    document
}

/// A site of the one class that is not annotated by default.
fn breakpoint() -> AllegedSite {
    AllegedSite {
        address: 0,
        length: 1,
        slot: MINIMUM_SLOT,
        class: Class::Int3,
        liveness: Liveness::UNKNOWN,
        flags: Flags::empty(),
    }
}

#[test]
fn the_table_of_classes_says_what_the_code_does() {
    let path = root().join(CLASSES);
    let made = classes();
    if std::env::var_os(OVERWRITE).is_some() {
        fs::write(&path, made).expect("a file that can be written");
        return;
    }
    let written = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{CLASSES}: {error}"));
    let differences = differences(&written, &made);
    assert!(
        differences.is_empty(),
        "{CLASSES} is not what the code does. `{OVERWRITE}=1 cargo test -p afterburner-cli --test documents` writes it anew. \
         Lines that go (-) and come (+):\n{differences}"
    );
}

/// The lines that only one of the texts has.
fn differences(old: &str, new: &str) -> String {
    let count = |text: &str| {
        let mut lines = BTreeMap::new();
        for line in text.lines() {
            *lines.entry(line.to_owned()).or_insert(0) += 1;
        }
        lines
    };
    let (old_lines, new_lines) = (count(old), count(new));
    let missing = |text: &str, other: &BTreeMap<String, i32>, sign: char| {
        let lines = text.lines().filter(|line| !other.contains_key(*line));
        lines.fold(String::new(), |all, line| all + &format!("{sign} {line}\n"))
    };
    let differences = missing(old, &new_lines, '-') + &missing(new, &old_lines, '+');
    if differences.is_empty() && old != new {
        "the same lines, in another order or number\n".to_owned()
    } else {
        differences
    }
}
