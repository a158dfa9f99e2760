//! The notes with a module's records, as they lie in its memory.
//!
//! A link puts the notes of a module's objects one after the other; those of section groups may lie
//! elsewhere (ELF gABI, "Note Section": sizes of name and description, type, and both padded to 4
//! bytes).

use core::ops::Range;

use annotate::record::{NOTE_NAME, RECORD_SIZE, RawRecord, VERSION};

use super::tables::{ModuleMemory, Tables};

/// The first word of a note of ours.
const NAME_SIZE: u32 = 12;

const _: () = assert!(NAME_SIZE as usize == NOTE_NAME.len());

/// Bytes of a note in front of its records.
const HEADER: usize = 12 + NOTE_NAME.len();

/// What stands at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// No note of ours.
    Other,
    /// What may be one, but reaches beyond the memory that was searched.
    Cut,
    /// A whole one, of so many bytes.
    Note(u64),
}

/// What stands at an address, in memory that ends at `end`.
fn read<M: ModuleMemory>(tables: &mut Tables<'_, M>, address: u64, end: u64) -> Found {
    let mut header = [0; HEADER];
    let length = usize::try_from(end.saturating_sub(address)).unwrap_or(usize::MAX).min(HEADER);
    if length == 0 || !tables.read(address, &mut header[..length]) {
        return Found::Other;
    }
    let mut expected = header;
    expected[..4].copy_from_slice(&NAME_SIZE.to_le_bytes());
    expected[8..12].copy_from_slice(&VERSION.to_le_bytes());
    expected[12..].copy_from_slice(NOTE_NAME);
    if header[..length] != expected[..length] {
        return Found::Other;
    }
    if length < HEADER {
        return Found::Cut;
    }
    let size = u64::from(u32::from_le_bytes([header[4], header[5], header[6], header[7]]));
    let whole = HEADER as u64 + size;
    match size.is_multiple_of(RECORD_SIZE as u64) {
        false => Found::Other,
        true if whole > end - address => Found::Cut,
        true => Found::Note(whole),
    }
}

/// The first notes in a range: from the first to the end of the last that follows. If there is
/// none, or one that reaches beyond the range comes first, where that would start.
pub(super) fn find<M: ModuleMemory>(tables: &mut Tables<'_, M>, range: &Range<u64>) -> Result<Range<u64>, Option<u64>> {
    let mut from = range.start;
    loop {
        let start = tables.find_word(&(from..range.end), NAME_SIZE).ok_or(None)?;
        match read(tables, start, range.end) {
            Found::Other => from = start + 4,
            Found::Cut => return Err(Some(start)),
            Found::Note(length) => {
                let mut end = start + length;
                while let Found::Note(length) = read(tables, end, range.end) {
                    end += length;
                }
                return Ok(start..end);
            }
        }
    }
}

/// The records of some notes: where each alleges its site to be, and what it says of it.
pub(super) struct Records {
    next: u64,
    in_note: u64,
    end: u64,
}

impl Records {
    pub(super) fn of(notes: &Range<u64>) -> Self {
        Self { next: notes.start, in_note: 0, end: notes.end }
    }

    pub(super) fn next<M: ModuleMemory>(&mut self, tables: &mut Tables<'_, M>) -> Option<(u64, RawRecord)> {
        while self.in_note == 0 {
            let Found::Note(length) = read(tables, self.next, self.end) else { return None };
            self.in_note = (length - HEADER as u64) / RECORD_SIZE as u64;
            self.next += HEADER as u64;
        }
        let mut bytes = [0; RECORD_SIZE];
        let place = self.next;
        self.next += RECORD_SIZE as u64;
        self.in_note -= 1;
        let record = tables.read(place, &mut bytes).then(|| RawRecord::from_bytes(&bytes))?;
        Some((place.wrapping_add_signed(record.distance()), record))
    }
}
