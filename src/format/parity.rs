//! Parity of a pack: an object that makes damaged or missing parts of the pack's stored bytes again. Needs no key.
//!
//! The pack is cut into *shards* of equal length, the last one filled up with zeros. A Reed-Solomon code makes *rows*
//! from them: as many damaged shards as there are whole rows can be made again. Which shards are damaged is told by
//! their *sums*, short hashes, which are kept in the rows as well, coded so that any half of the rows gives all of them.
//! Every row says whose it is and checks itself, so damage to a parity object costs the rows that it hits and no more.
//! docs/format.md, section 27.
//!
//! Invariants: what is made again is compared with its sums and with the checksum of the pack's own envelope; nothing
//! that a parity object says makes a reader take more memory than the pack is said to have.

mod code;

use super::envelope::{self, Header, OBJECT_BYTES_MAX, ObjectTag};
use super::{Error, Result};
use crate::domain::id::PackId;
use std::ops::Range;

/// Optional feature bit of a pack's header: the pack was written together with its parity, so parity that is not there
/// was lost.
pub const PROTECTED: u32 = 1;
/// Bytes of a row before its shard: whose it is, and its checksum.
const CARD_BYTES: usize = 64;
/// What a card begins with.
const CARD_MAGIC: [u8; 8] = *b"HFPARITY";
/// Where a card's checksum stands; it covers what is before it and the rest of the row.
const CARD_SUM_AT: usize = 48;
/// Length of the sum of a shard and of the checksum of a row.
const SUM_BYTES: usize = 16;
/// Shards, pieces and rows are multiples of this, so that every card can be found without any other.
const GRAIN: usize = 64;
/// A writer cuts a pack into no more shards than this: with their rows they fill the code's places well.
const SHARDS_AIM: u64 = 1900;
/// Small packs are cut into so many shards, as long as those are not longer than [`SHARD_BYTES_USUAL`].
const SHARDS_OF_SMALL: u64 = 40;
/// Length of most shards, bytes: a sector of a disk. Shorter ones make the sums dear.
const SHARD_BYTES_USUAL: u64 = 4096;
/// Shortest shard that a writer makes, bytes.
const SHARD_BYTES_MIN: u64 = 256;
/// Longest shard that a reader accepts, bytes.
const SHARD_BYTES_MAX: u32 = 4 << 20;
/// Rows that every pack has at least.
const ROWS_MIN: u64 = 2;
/// Places of the code: rows, up to the next power of two, and shards.
const PLACES_MAX: u64 = 65_536;

/// How much parity a writer adds: shards that can be made again, in percent of all shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParityShare(u8);

impl ParityShare {
    /// What is used where nothing else is known.
    pub const DEFAULT: Self = Self(5);

    /// 1 to 100 percent.
    pub fn new(percent: u8) -> Option<Self> {
        (1..=100).contains(&percent).then_some(Self(percent))
    }

    /// The number.
    pub fn percent(self) -> u8 {
        self.0
    }
}

/// The measures of a parity object; all else follows from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Length of the pack, bytes.
    pub pack_bytes: u64,
    /// Length of a shard, bytes.
    pub shard_bytes: u32,
    /// Rows.
    pub rows: u32,
}

impl Shape {
    /// What a writer chooses for a pack of this length.
    pub fn choose(pack_bytes: u64, share: ParityShare) -> Self {
        let small = pack_bytes.div_ceil(SHARDS_OF_SMALL).clamp(SHARD_BYTES_MIN, SHARD_BYTES_USUAL);
        let shard_bytes = pack_bytes.div_ceil(SHARDS_AIM).max(small).next_multiple_of(GRAIN as u64);
        let rows = (pack_bytes.div_ceil(shard_bytes) * u64::from(share.0)).div_ceil(100).max(ROWS_MIN);
        let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        Self { pack_bytes, shard_bytes: narrow(shard_bytes), rows: narrow(rows) }
    }

    /// Within what a reader accepts.
    fn is_sane(&self) -> bool {
        let grain = u32::try_from(GRAIN).unwrap_or(u32::MAX);
        (1..=OBJECT_BYTES_MAX).contains(&self.pack_bytes)
            && self.shard_bytes.is_multiple_of(grain)
            && (grain..=SHARD_BYTES_MAX).contains(&self.shard_bytes)
            && u64::from(self.rows) < PLACES_MAX
            && self.rows > 0
            && u64::from(self.rows.next_power_of_two()) + self.shards() as u64 <= PLACES_MAX
    }

    /// Shards of the pack.
    pub fn shards(&self) -> usize {
        usize::try_from(self.pack_bytes.div_ceil(u64::from(self.shard_bytes.max(1)))).unwrap_or(usize::MAX)
    }

    fn shard(&self) -> usize {
        self.shard_bytes as usize
    }

    fn row_count(&self) -> usize {
        self.rows as usize
    }

    /// So many rows give all sums.
    pub fn rows_for_sums(&self) -> usize {
        self.row_count().div_ceil(2)
    }

    /// Length of the part of a row that is about sums.
    fn piece_bytes(&self) -> usize {
        (self.shards() * SUM_BYTES).div_ceil(self.rows_for_sums()).next_multiple_of(GRAIN)
    }

    fn row_bytes(&self) -> usize {
        CARD_BYTES + self.shard() + self.piece_bytes()
    }

    /// Length of the whole object.
    pub fn object_bytes(&self) -> u64 {
        self.row_bytes() as u64 * u64::from(self.rows) + envelope::OVERHEAD as u64
    }

    /// Where a row stands in the object.
    fn row_at(&self, row: usize) -> Range<usize> {
        let start = envelope::HEADER_BYTES + row * self.row_bytes();
        start..start + self.row_bytes()
    }

    /// Where a shard stands in the pack.
    fn shard_at(&self, shard: usize) -> Range<usize> {
        let end = usize::try_from(self.pack_bytes).unwrap_or(usize::MAX);
        (shard * self.shard())..((shard + 1) * self.shard()).min(end)
    }
}

/// The first bytes of the BLAKE3 of several parts.
fn sum(parts: &[&[u8]]) -> [u8; SUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    let mut short = [0; SUM_BYTES];
    short.copy_from_slice(&hasher.finalize().as_bytes()[..SUM_BYTES]);
    short
}

fn card(pack: PackId, shape: &Shape, row: u32) -> [u8; CARD_SUM_AT] {
    let mut card = [0; CARD_SUM_AT];
    card[0..8].copy_from_slice(&CARD_MAGIC);
    card[8..24].copy_from_slice(&pack.0);
    card[24..32].copy_from_slice(&shape.pack_bytes.to_le_bytes());
    card[32..36].copy_from_slice(&shape.shard_bytes.to_le_bytes());
    card[36..40].copy_from_slice(&shape.rows.to_le_bytes());
    card[40..44].copy_from_slice(&row.to_le_bytes());
    card
}

/// The shards of a pack, as far as its bytes go; the last one is filled up.
struct Shards<'p> {
    shape: Shape,
    pack: &'p [u8],
    last: Vec<u8>,
}

impl<'p> Shards<'p> {
    fn new(shape: Shape, pack: &'p [u8]) -> Self {
        let place = shape.shard_at(shape.shards().saturating_sub(1));
        let mut last = pack.get(place).unwrap_or_default().to_vec();
        if !last.is_empty() {
            last.resize(shape.shard(), 0);
        }
        Self { shape, pack, last }
    }

    /// `None` when the pack's bytes end before.
    fn get(&self, shard: usize) -> Option<&[u8]> {
        if shard + 1 == self.shape.shards() {
            return (!self.last.is_empty()).then_some(&self.last);
        }
        self.pack.get(self.shape.shard_at(shard))
    }
}

/// The parity object of a whole pack. Always the same bytes for the same pack and shape.
///
/// # Errors
/// A pack of another length than the shape's, or a shape beyond the limits.
pub fn encode(pack_header: &Header, shape: Shape, pack: &[u8]) -> Result<Vec<u8>> {
    if !shape.is_sane() || pack.len() as u64 != shape.pack_bytes {
        return Err(Error::damaged("Parity", 0, "its measures do not fit the pack"));
    }
    let shards = Shards::new(shape, pack);
    let originals: Vec<&[u8]> = (0..shape.shards()).filter_map(|n| shards.get(n)).collect();
    let rows = code::rows_of(&originals, shape.row_count(), shape.shard())?;
    let mut sums: Vec<u8> = originals.iter().flat_map(|shard| sum(&[shard])).collect();
    sums.resize(shape.rows_for_sums() * shape.piece_bytes(), 0);
    let pieces: Vec<&[u8]> = sums.chunks_exact(shape.piece_bytes()).collect();
    let pieces = code::rows_of(&pieces, shape.row_count(), shape.piece_bytes())?;
    let id = PackId(pack_header.object_id);
    let mut body = Vec::with_capacity(shape.row_count() * shape.row_bytes());
    for (number, (row, piece)) in (0u32..).zip(rows.iter().zip(&pieces)) {
        let card = card(id, &shape, number);
        body.extend_from_slice(&card);
        body.extend_from_slice(&sum(&[&card, row, piece]));
        body.extend_from_slice(row);
        body.extend_from_slice(piece);
    }
    let header = Header::new(ObjectTag::Parity, pack_header.repository, id.0, pack_header.suite);
    Ok(envelope::encode_object(&header, &body))
}

/// What is whole of a parity object.
#[derive(Debug)]
pub struct Parity<'o> {
    pack: PackId,
    shape: Shape,
    /// Shard and piece of each row that is whole.
    rows: Vec<Option<(&'o [u8], &'o [u8])>>,
}

/// Why a pack cannot be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unhealable {
    /// Too few rows are whole to know the sums of the shards.
    #[error("{whole} of {rows} rows of its parity are whole, and {needed} are needed")]
    RowsDamaged {
        /// Whole rows.
        whole: usize,
        /// All rows.
        rows: usize,
        /// Rows that give the sums.
        needed: usize,
    },
    /// More shards are damaged than rows are whole.
    #[error("{damaged} of its {shards} shards are damaged, and its parity makes {whole} again")]
    BeyondBudget {
        /// Damaged shards.
        damaged: usize,
        /// All shards.
        shards: usize,
        /// Whole rows.
        whole: usize,
    },
    /// What was made again is not the pack: the parity belongs to other bytes.
    #[error("what its parity makes is not this pack")]
    OtherBytes,
}

impl<'o> Parity<'o> {
    /// Finds the rows of a pack's parity in an object, whatever has happened to it; `None` when no row is whole.
    pub fn find(object: &'o [u8], pack: PackId) -> Option<Self> {
        let starts = (envelope::HEADER_BYTES..object.len()).step_by(GRAIN);
        let shape = starts.filter_map(|at| object.get(at..)).find_map(|rest| whole_row(rest, pack)).map(|row| row.0)?;
        let rows = (0..shape.rows).map(|number| {
            let (found, found_number, shard, piece) = whole_row(object.get(shape.row_at(number as usize))?, pack)?;
            (found == shape && found_number == number).then_some((shard, piece))
        });
        Some(Self { pack, shape, rows: rows.collect() })
    }

    /// Its measures.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Rows that are whole: so many damaged shards can be made again.
    pub fn whole_rows(&self) -> usize {
        self.rows.iter().flatten().count()
    }

    /// The whole pack, from what there is of its bytes. Parts that could not be read are zeros, or missing at the end.
    ///
    /// # Errors
    /// [`Unhealable`].
    pub fn heal(&self, pack: &[u8]) -> std::result::Result<Vec<u8>, Unhealable> {
        let (shape, whole) = (self.shape, self.whole_rows());
        let expected = envelope::Expected { object_id: Some(self.pack.0), ..envelope::Expected::any(ObjectTag::Pack) };
        let sums = match self.sums() {
            // nothing is known of its shards, and nothing seems to be wrong with them
            Err(_) if pack.len() as u64 == shape.pack_bytes && envelope::decode_object(pack, &expected).is_ok() => {
                return Ok(pack.to_vec());
            }
            sums => sums?,
        };
        let shards = Shards::new(shape, pack);
        let originals: Vec<Option<&[u8]>> = (0..shape.shards())
            .zip(sums.chunks_exact(SUM_BYTES))
            .map(|(n, expected)| shards.get(n).filter(|shard| sum(&[shard]) == expected))
            .collect();
        let damaged = originals.iter().filter(|shard| shard.is_none()).count();
        if damaged > whole {
            return Err(Unhealable::BeyondBudget { damaged, shards: originals.len(), whole });
        }
        let rows: Vec<Option<&[u8]>> = self.rows.iter().map(|row| row.map(|(shard, _)| shard)).collect();
        let made = code::originals_of(&originals, &rows, shape.shard()).ok_or(Unhealable::OtherBytes)?;
        let mut healed = Vec::with_capacity(usize::try_from(shape.pack_bytes).unwrap_or(0));
        let mut made = made.iter();
        for (number, shard) in originals.iter().enumerate() {
            let shard = shard.or_else(|| made.next().map(Vec::as_slice)).ok_or(Unhealable::OtherBytes)?;
            healed.extend_from_slice(shard.get(..shape.shard_at(number).len()).ok_or(Unhealable::OtherBytes)?);
        }
        envelope::decode_object(&healed, &expected).map_err(|_| Unhealable::OtherBytes)?;
        Ok(healed)
    }

    /// The sums of all shards, one after the other.
    fn sums(&self) -> std::result::Result<Vec<u8>, Unhealable> {
        let (whole, needed) = (self.whole_rows(), self.shape.rows_for_sums());
        if whole < needed {
            return Err(Unhealable::RowsDamaged { whole, rows: self.rows.len(), needed });
        }
        let pieces: Vec<Option<&[u8]>> = self.rows.iter().map(|row| row.map(|(_, piece)| piece)).collect();
        let made = code::originals_of(&vec![None; needed], &pieces, self.shape.piece_bytes());
        let mut sums = made.ok_or(Unhealable::OtherBytes)?.concat();
        sums.truncate(self.shape.shards() * SUM_BYTES);
        Ok(sums)
    }
}

/// Shape, number, shard and piece of the row at the beginning of these bytes, if it is whole and of this pack's parity.
fn whole_row(bytes: &[u8], pack: PackId) -> Option<(Shape, u32, &[u8], &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<CARD_BYTES>()?;
    let u32_at = |at: usize| head.get(at..at + 4).and_then(|b| Some(u32::from_le_bytes(b.try_into().ok()?)));
    let pack_bytes = u64::from_le_bytes(head.get(24..32)?.try_into().ok()?);
    let shape = Shape { pack_bytes, shard_bytes: u32_at(32)?, rows: u32_at(36)? };
    let number = u32_at(40)?;
    // the cheap comparisons first: most places hold no card
    let (stated, checked) = (head.get(..CARD_SUM_AT)?, head.get(CARD_SUM_AT..)?);
    if head.get(..8)? != CARD_MAGIC || !shape.is_sane() || number >= shape.rows || stated != card(pack, &shape, number)
    {
        return None;
    }
    let (shard, rest) = rest.split_at_checked(shape.shard())?;
    let piece = rest.get(..shape.piece_bytes())?;
    (sum(&[stated, shard, piece]) == checked).then_some((shape, number, shard, piece))
}

#[cfg(test)]
mod tests;
