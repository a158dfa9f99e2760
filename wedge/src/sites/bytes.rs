//! The bytes of a slot, as one number.
//!
//! A slot is at most 16 bytes long, and most are 5. As a little-endian number, whose digits beyond
//! the slot are zero, it is compared, shifted and stored in a few instructions; there are thousands
//! of them at every boot.

/// The longest slot that is rewritten. An instruction has up to 15 bytes (SDM Vol. 2A, 2.3.11).
pub(super) const LONGEST_SLOT: u8 = 16;

/// All ones in the first bytes, by their number.
const MASKS: [u128; 32] = {
    let mut masks = [u128::MAX; 32];
    let mut length = 0;
    while length < LONGEST_SLOT as usize {
        masks[length] = (1 << (8 * length)) - 1;
        length += 1;
    }
    masks
};

/// The bytes of a slot, the first one lowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bytes(pub(super) u128);

impl Bytes {
    /// At most 16 bytes.
    pub(super) const fn of(bytes: &[u8]) -> Self {
        let (mut number, mut place) = (0, bytes.len());
        while place > 0 {
            place -= 1;
            number = number << 8 | bytes[place] as u128;
        }
        Self(number)
    }

    /// Reads a slot of a length that most have: 5 to 8 bytes.
    #[inline]
    pub(super) fn read_short(slot: &[u8]) -> Option<Self> {
        let (first, rest) = slot.split_first_chunk()?;
        let (1..=4, last) = (rest.len(), slot.last_chunk()?) else { return None };
        let last = u64::from(u32::from_le_bytes(*last)) << (8 * rest.len());
        Some(Self((u64::from(u32::from_le_bytes(*first)) | last).into()))
    }

    /// Reads a slot, `None` if it is too long.
    pub(super) fn read(slot: &[u8]) -> Option<Self> {
        if let Some(short) = Self::read_short(slot) {
            return Some(short);
        }
        let mut array = [0; LONGEST_SLOT as usize];
        array.get_mut(..slot.len())?.copy_from_slice(slot);
        Some(Self(u128::from_le_bytes(array)))
    }

    /// Writes a slot.
    #[inline]
    pub(super) fn write(self, slot: &mut [u8]) {
        let array = self.array();
        if let 5..=8 = slot.len() {
            let [low @ .., _, _, _, _] = self.low().to_le_bytes();
            let [last @ .., _, _, _, _] = (self.low() >> (8 * (slot.len() - 4))).to_le_bytes();
            if let Some(place) = slot.first_chunk_mut() {
                *place = low;
            }
            if let Some(place) = slot.last_chunk_mut() {
                *place = last;
            }
            return;
        }
        slot.iter_mut().zip(array).for_each(|(to, from)| *to = from);
    }

    /// The first eight bytes.
    #[inline]
    pub(super) const fn low(self) -> u64 {
        (self.0 & 0xffff_ffff_ffff_ffff) as u64
    }

    /// The single bytes.
    #[inline]
    pub(super) const fn array(self) -> [u8; LONGEST_SLOT as usize] {
        self.0.to_le_bytes()
    }

    /// The bytes before this offset.
    #[inline]
    pub(super) const fn before(self, offset: u8) -> Self {
        Self(self.0 & MASKS[(offset & 31) as usize])
    }

    /// The bytes from this offset on, with nothing before them.
    #[inline]
    pub(super) const fn behind(self, offset: u8) -> Self {
        Self(self.0 & !MASKS[(offset & 31) as usize])
    }

    /// These bytes, so much further up.
    #[inline]
    pub(super) const fn up(self, by: u8) -> Self {
        if by < LONGEST_SLOT { Self(self.0 << (8 * (by & 15))) } else { Self(0) }
    }

    /// The same, but the 32-bit number at this offset is so much greater; `None` if it has no room.
    #[inline]
    pub(super) fn displaced(self, offset: u8, by: i64) -> Option<Self> {
        let mut array = self.array();
        let field = array.get_mut(usize::from(offset)..)?.first_chunk_mut()?;
        *field = i32::try_from(i64::from(i32::from_le_bytes(*field)).checked_add(by)?).ok()?.to_le_bytes();
        Some(Self(u128::from_le_bytes(array)))
    }

    /// These bytes and, where they are zero, those.
    #[inline]
    pub(super) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
