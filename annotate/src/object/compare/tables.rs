//! Jump tables of position-independent code.
//!
//! A compiler makes an entry the distance of a label from the start of its table (`.long .L3 -
//! .L1`), and the assembler makes that a relocation relative to the entry: label plus distance of
//! the entry from the start. Where tables start no symbol says. So each entry of a run is tried
//! with the starts that held for the entries before it, and as the first of a table itself.

/// The starts that the table at hand may have.
#[derive(Default)]
pub(super) struct Tables {
    /// The section, and where the next entry of the run would be.
    next: (usize, u64),
    starts: Vec<u64>,
}

impl Tables {
    /// Whether an entry holds, given whether it does so relative to some distance before itself.
    pub(super) fn hold(&mut self, section: usize, offset: u64, holds: impl Fn(u64) -> bool) -> bool {
        const ENTRY: u64 = 4;
        // Where nothing tells starts from each other, the first and the last ones are kept.
        const OLDEST: usize = 32;
        const MOST: usize = 64;
        if self.next != (section, offset) {
            self.starts.clear();
        }
        self.next = (section, offset.saturating_add(ENTRY));
        self.starts.push(offset);
        self.starts.retain(|start| holds(offset - start));
        if self.starts.len() > MOST {
            self.starts.remove(OLDEST);
        }
        !self.starts.is_empty()
    }
}
