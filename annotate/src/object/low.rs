//! What keeps an object out of a kernel in the lower half of the address space.
//!
//! The text stage for the lower half ([`crate::text::to_lower_half`]) rewrites what it knows. This
//! is the other oracle, which knows nothing of text: it looks at what the linker is asked to fill
//! in. An address there needs more than 32 bits; nobody makes a global offset table; and what Linux
//! copies, it has to copy with the distances in it.

use std::fmt;

use ::object::elf::{
    R_X86_64_8, R_X86_64_16, R_X86_64_32, R_X86_64_32S, R_X86_64_GOT32, R_X86_64_GOT64, R_X86_64_GOTPC32,
    R_X86_64_GOTPCREL, R_X86_64_GOTPCREL64, R_X86_64_GOTPCRELX, R_X86_64_PC32, R_X86_64_REX_GOTPCRELX, RelocationType,
};

use super::elf::{Elf, Place, Relocation, Section};
use super::sources::Sources;
use crate::linux::REPLACEMENTS;

/// Why a field cannot be filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It holds an address in 32 bits or fewer.
    Narrow,
    /// It needs a global offset table.
    GlobalOffsetTable,
    /// It holds a distance, in an instruction that the kernel copies without changing it.
    Copied,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Narrow => "an address in 32 bits, which no address of the lower half fits in",
            Self::GlobalOffsetTable => "an entry of a global offset table, which a kernel does not have",
            Self::Copied => {
                "a distance in an alternative instruction, which this Linux copies without adjusting it (since 6.5 it does)"
            }
        })
    }
}

/// A field that cannot be filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// Where it is: section and offset, with the source line if that is known.
    pub place: String,
    /// The symbol that it is about.
    pub symbol: String,
    /// What is wrong with it.
    pub reason: Reason,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.place, self.symbol, self.reason)
    }
}

/// What keeps an object out of the lower half. `adjusts_copies` says of the kernel that it adjusts
/// the distances in alternative instructions.
#[must_use]
pub fn obstacles(elf: &Elf<'_>, adjusts_copies: bool) -> Vec<Obstacle> {
    let mut found = Vec::new();
    for (number, section) in elf.sections().iter().enumerate().filter(|(_, section)| section.alloc) {
        for relocation in elf.relocations(number) {
            let reason = reason(section, &relocation).filter(|reason| *reason != Reason::Copied || !adjusts_copies);
            if let Some(reason) = reason {
                let place = Place { section: number, offset: relocation.offset };
                let symbol = elf.symbol_of(&relocation).map_or("", |symbol| symbol.name);
                found.push((place, symbol.to_owned(), reason));
            }
        }
    }
    let sources = if found.is_empty() { None } else { Some(Sources::of(elf)) };
    let obstacle = |(place, symbol, reason): (Place, String, Reason)| {
        let line = sources.as_ref().and_then(|sources| sources.line(place));
        let name = elf.sections()[place.section].name;
        let line = line.map(|line| format!(" ({line})")).unwrap_or_default();
        Obstacle { place: format!("{name}+{:#x}{line}", place.offset), symbol, reason }
    };
    found.into_iter().map(obstacle).collect()
}

fn reason(section: &Section<'_>, relocation: &Relocation) -> Option<Reason> {
    let in_table = [
        R_X86_64_GOT32,
        R_X86_64_GOT64,
        R_X86_64_GOTPC32,
        R_X86_64_GOTPCREL,
        R_X86_64_GOTPCREL64,
        R_X86_64_GOTPCRELX,
        R_X86_64_REX_GOTPCRELX,
    ];
    let is_one_of = |kinds: &[RelocationType]| kinds.contains(&relocation.kind);
    if is_one_of(&in_table) {
        return Some(Reason::GlobalOffsetTable);
    }
    // Less the address of the image's map, it is a physical address, which fits.
    let is_physical = i32::try_from(relocation.addend).is_err();
    if is_one_of(&[R_X86_64_8, R_X86_64_16, R_X86_64_32, R_X86_64_32S]) && !is_physical {
        return Some(Reason::Narrow);
    }
    let is_distance = section.name == REPLACEMENTS && relocation.kind == R_X86_64_PC32;
    (is_distance && !is_branch(section, relocation)).then_some(Reason::Copied)
}

/// Whether the field is the target of a CALL or JMP (SDM Vol. 2A), which Linux adjusts in any
/// release.
fn is_branch(section: &Section<'_>, relocation: &Relocation) -> bool {
    const CALL: u8 = 0xe8;
    const JMP: u8 = 0xe9;
    let before = usize::try_from(relocation.offset).ok().and_then(|offset| offset.checked_sub(1));
    before.and_then(|at| section.bytes.get(at)).is_some_and(|opcode| matches!(*opcode, CALL | JMP))
}
