//! Address spaces of seL4's: a root, and tables that are put below it when something is to be
//! mapped where there is none yet (seL4 manual, 7, "Address Spaces and Virtual Memory").

use super::abi::{Refused, abi};
use super::kernel::{Slot, object};
use super::objects::{Failure, NONE, Objects, Piece, Pool};

/// An address space, or a part of one: its root, and the first of its tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct VSpace {
    pub(super) root: Slot,
    tables: u32,
}

/// What is made of pieces of memory: tables and threads, and which table of an address space is
/// followed by which.
#[derive(Debug)]
pub(super) struct Structures {
    pub(super) pool: Pool,
    behind: &'static mut [u32],
}

/// How a page is mapped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes {
    pub(super) rights: u64,
    /// `seL4_X86_VMAttributes`: 0 is memory.
    pub(super) cache: u64,
}

/// Levels of tables: 1 is a page table.
const LEVELS: usize = 3;

impl VSpace {
    pub(super) const fn new(root: Slot) -> Self {
        Self { root, tables: NONE }
    }

    /// Whether it has no tables but its root.
    pub(super) const fn is_empty(&self) -> bool {
        self.tables == NONE
    }
}

impl Structures {
    /// With a pool, and a word for each of its pieces.
    pub(super) const fn new(pool: Pool, behind: &'static mut [u32]) -> Self {
        Self { pool, behind }
    }

    /// Maps a frame, and puts tables above it where there are none. `None` if there is no memory
    /// for those.
    pub(super) fn map(
        &mut self,
        objects: &Objects,
        space: &mut VSpace,
        frame: Slot,
        address: u64,
        how: Attributes,
    ) -> Result<Option<()>, Failure> {
        loop {
            let words = [address, how.rights, how.cache];
            match objects.kernel.invoke(frame, abi().page_map, &[space.root], &words) {
                Ok(_) => return Ok(Some(())),
                Err(Refused::FAILED_LOOKUP) => {
                    if self.add_table(objects, space, address, 1)?.is_none() {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(Failure::Refused { what: "to map a page", error }),
            }
        }
    }

    /// Adds a table of a level, and those above it.
    fn add_table(
        &mut self,
        objects: &Objects,
        space: &mut VSpace,
        address: u64,
        level: usize,
    ) -> Result<Option<()>, Failure> {
        let (kind, label) = match level {
            1 => (object::PAGE_TABLE, abi().page_table_map),
            2 => (object::PAGE_DIRECTORY, abi().page_directory_map),
            _ => (object::PDPT, abi().pdpt_map),
        };
        let Some(piece) = self.pool.take(objects, kind, 0)? else { return Ok(None) };
        let mapped = loop {
            match objects.kernel.invoke(self.pool.slot(piece), label, &[space.root], &[address, 0]) {
                Ok(_) => break Ok(Some(())),
                Err(Refused::FAILED_LOOKUP) if level < LEVELS => {
                    match self.add_table(objects, space, address, level + 1) {
                        Ok(Some(())) => {}
                        other => break other,
                    }
                }
                Err(error) => break Err(Failure::Refused { what: "to map a page table", error }),
            }
        };
        if mapped == Ok(Some(())) {
            self.behind[piece.0 as usize] = space.tables;
            space.tables = piece.0;
        } else {
            self.pool.give_back(objects, piece)?;
        }
        mapped
    }

    /// Gives an address space's tables back. Nothing is mapped in it any more.
    pub(super) fn give_back_tables(&mut self, objects: &Objects, space: &mut VSpace) -> Result<(), Failure> {
        while space.tables != NONE {
            let piece = Piece(space.tables);
            space.tables = self.behind[piece.0 as usize];
            self.pool.give_back(objects, piece)?;
        }
        Ok(())
    }
}
