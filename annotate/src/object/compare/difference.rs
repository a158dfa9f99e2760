//! How two objects differ.

use iced_x86::{Decoder, DecoderOptions, Formatter as _, GasFormatter};

use crate::instructions::decode_next;
use crate::object::elf::{Elf, Error, Target};

/// One of the two objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The plain assembler's.
    Plain,
    /// The assembler stage's.
    Padded,
}

impl std::fmt::Display for Which {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Padded => "padded",
        })
    }
}

/// The first difference between two objects that padding does not explain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// One of them cannot be read.
    #[error("the {0} file: {1}")]
    Unreadable(Which, Error),
    /// One of them is linked: where its parts have moved, nothing can be compared.
    #[error("the {0} file is not relocatable: compare objects or modules")]
    NotRelocatable(Which),
    /// The padded object has a record that does not hold.
    #[error("the padded file: record {number}: {what}")]
    Record {
        /// Number of the record.
        number: usize,
        /// What is wrong.
        what: String,
    },
    /// Sections differ as a whole.
    #[error("section {name}: {what}")]
    Section {
        /// Name of the section.
        name: String,
        /// How.
        what: String,
    },
    /// What stands at two corresponding places differs.
    #[error("section {section}: {what}: plain {}, padded {}", .plain, .padded)]
    Content {
        /// Name of the section.
        section: String,
        /// How.
        what: &'static str,
        /// What stands in the plain object, and where.
        plain: Spot,
        /// What stands in the padded object, and where.
        padded: Spot,
    },
    /// A symbol differs.
    #[error("the symbols differ: plain {plain}, padded {padded}")]
    Symbol {
        /// What it is in the plain object.
        plain: String,
        /// What it is in the padded object.
        padded: String,
    },
}

/// An offset in a section, and what stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    /// The offset.
    pub offset: u64,
    /// What stands there.
    pub text: String,
}

impl std::fmt::Display for Spot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "+{:#x} `{}`", self.offset, self.text)
    }
}

impl Spot {
    /// The instruction at an offset.
    pub(super) fn instruction(bytes: &[u8], offset: u64, bitness: u32) -> Self {
        let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
        let mut text = String::new();
        if rest.is_empty() {
            text.push_str("end of section");
        } else {
            let instruction = decode_next(&mut Decoder::with_ip(bitness, rest, offset, DecoderOptions::NONE), rest);
            GasFormatter::new().format(&instruction, &mut text);
        }
        Self { offset, text }
    }

    /// The target of a reference at an offset.
    pub(super) fn target(elf: &Elf<'_>, offset: u64, target: &Target<'_>) -> Self {
        let text = match target {
            Target::Place(place) => {
                let section = elf.sections().get(place.section).map_or("", |section| section.name);
                format!("-> {section}{:+#x}", place.offset.cast_signed())
            }
            Target::Symbol(name, addend) => format!("-> {name}{addend:+#x}"),
        };
        Self { offset, text }
    }
}
