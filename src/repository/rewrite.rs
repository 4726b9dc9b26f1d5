//! Copies what is needed of a pack into new packs, at the same addresses. Records and whole segments are copied as they
//! are; of a segment with dead bytes only the live pieces are stored again ([`crate::format::sparse`]).

use super::error::Result;
use super::index::{PackNumber, RepositoryIndex};
use super::liveness::{Live, Marking};
use super::pack_reader::{LoadedTable, PackReader, Segment};
use super::pack_writer::{NewBlob, PackWriter};
use crate::domain::id::VersionId;
use crate::format::records::{BlobMeta, ChunkEntry};
use crate::format::sparse;
use crate::recipe::run::intersect;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Live bytes gathered from neighbouring segments before they are stored as one.
const GATHER_BYTES: usize = 32 << 10;
/// Longest span of a gathered segment.
const SPAN_BYTES_MAX: u64 = 64 << 20;
/// Raw bytes from which literals count as bulk.
const BULK_BYTES: usize = 192 << 10;
/// Levels for gathered and for bulk literals.
const SMALL_LEVEL: i32 = 9;
const BULK_LEVEL: i32 = 6;

/// Level for literals that are old and therefore worth the time. Above it the time grows and the gain hardly does.
pub const HARD_LEVEL: i32 = 15;

/// How much work literals are worth that could be copied as they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effort {
    /// None: whole segments are copied as compressed units.
    #[default]
    AsItIs,
    /// They are compressed again, with [`HARD_LEVEL`].
    Hard,
}

/// Blobs that another pack holds as well: (pack, ordinal).
pub type Repeated = HashSet<(PackNumber, u32)>;

/// Live pieces on their way into one segment.
#[derive(Default)]
struct Gathered {
    copy: u8,
    space: VersionId,
    effort: Effort,
    start: u64,
    end: u64,
    bytes: usize,
    pieces: Vec<(u64, Vec<u8>)>,
    chunks: Vec<ChunkEntry>,
}

/// A blob of literals that may have something live. Ordered so that each space is copied from its first offset to its last,
/// whatever packs hold it: spans of one space must not overlap inside one pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Literals {
    copy: u8,
    /// Position of the space among those met, so that reading stays near.
    rank: u32,
    start: u64,
    end: u64,
    pack: PackNumber,
    ordinal: u32,
    space: VersionId,
    effort: Effort,
}

/// Copies what is needed of packs: [`Self::pack`] for each of them, then [`Self::literals`] until there are no more.
pub struct Copier<'c> {
    index: &'c RepositoryIndex,
    packs: &'c PackReader,
    marking: &'c Marking,
    /// Blobs that are left out because another pack holds them as well.
    repeated: &'c Repeated,
    ranks: HashMap<VersionId, u32>,
    /// Still to be copied, the next one last.
    waiting: Vec<Literals>,
    is_sorted: bool,
    /// What was copied of the space at hand. Packs may hold bytes twice: a prune that ended between naming its packs and
    /// condemning the old ones leaves two forms of them.
    copied: (u8, VersionId, Copied),
    gathered: Gathered,
}

impl std::fmt::Debug for Copier<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Copier({} blobs to come)", self.waiting.len())
    }
}

impl<'c> Copier<'c> {
    /// A copier that has nothing to copy yet.
    pub fn new(
        index: &'c RepositoryIndex,
        packs: &'c PackReader,
        marking: &'c Marking,
        repeated: &'c Repeated,
    ) -> Self {
        let (ranks, copied, gathered) = Default::default();
        Self { index, packs, marking, repeated, ranks, waiting: Vec::new(), is_sorted: false, copied, gathered }
    }

    /// Copies the records of a pack and notes its literals.
    ///
    /// # Errors
    /// Damage of what is needed, storage errors.
    pub fn pack(&mut self, writer: &mut PackWriter, number: PackNumber, effort: Effort) -> Result<()> {
        let table = self.packs.table(self.index, number)?;
        let copy = self.index.pack(number).map_or(0, |info| info.copy);
        for (ordinal, blob) in (0u32..).zip(&table.table.blobs) {
            if self.repeated.contains(&(number, ordinal)) {
                continue;
            }
            let owner = table.table.ids.get(blob.meta.owner() as usize).copied().unwrap_or_default();
            let record = match blob.meta {
                BlobMeta::Head { generation, .. } => (generation, NewBlob::Head { version: owner, generation }),
                BlobMeta::Slice { generation, sequence, .. } => {
                    (generation, NewBlob::Slice { version: owner, generation, sequence })
                }
                BlobMeta::Segment { .. } | BlobMeta::Sparse { .. } => {
                    if let Some((_, start, end)) = blob.literal_span() {
                        let next = u32::try_from(self.ranks.len()).unwrap_or(u32::MAX);
                        let rank = *self.ranks.entry(owner).or_insert(next);
                        let found = Literals { copy, rank, start, end, pack: number, ordinal, space: owner, effort };
                        self.waiting.push(found);
                    }
                    continue;
                }
            };
            if self.marking.needs_record(owner, record.0) {
                let (packed, raw_len) = self.packs.packed_blob(self.index, number, &table, ordinal)?;
                writer.add_packed(copy, record.1, packed, raw_len)?;
            }
        }
        self.is_sorted = false;
        Ok(())
    }

    /// Blobs of literals that were noted and not copied yet.
    pub fn blobs_left(&self) -> u64 {
        self.waiting.len() as u64
    }

    /// Copies the next blob of literals. False when there are no more and everything was handed to the writer.
    ///
    /// # Errors
    /// Damage of what is needed, storage errors.
    pub fn literals(&mut self, writer: &mut PackWriter) -> Result<bool> {
        if !self.is_sorted {
            self.waiting.sort_unstable_by(|a, b| b.cmp(a));
            self.is_sorted = true;
        }
        let Some(next) = self.waiting.pop() else {
            self.flush(writer)?;
            return Ok(false);
        };
        self.copy(writer, next)?;
        Ok(true)
    }

    fn copy(&mut self, writer: &mut PackWriter, from: Literals) -> Result<()> {
        let Literals { copy, space: id, effort, .. } = from;
        let span = (from.start, from.end);
        let parts = match self.marking.live_in(id, from.start, from.end) {
            Live::Whole => vec![span],
            Live::Parts(parts) => parts,
        };
        if parts.is_empty() {
            return Ok(());
        }
        let table = self.packs.table(self.index, from.pack)?;
        if (self.copied.0, self.copied.1) != (copy, id) {
            self.copied = (copy, id, Copied::default());
        }
        let meta = table.blob(from.ordinal).map(|b| b.0.meta);
        if let Some(BlobMeta::Segment { start, .. }) = meta
            && parts == [span]
            && (span.1 - span.0) as usize >= GATHER_BYTES / 2
        {
            let fresh = self.copied.2.add(span.0, span.1);
            if fresh.is_empty() {
                return Ok(());
            }
            if fresh == [span] {
                self.flush(writer)?;
                let blob = NewBlob::Segment { space: id, start };
                let chunks = chunks_of(&table, id, span).filter(|chunk| lies_in(&[span], chunk)).collect();
                if effort == Effort::Hard {
                    let raw = self.packs.blob(self.index, from.pack, &table, from.ordinal)?;
                    return put(writer, copy, blob, chunks, raw, HARD_LEVEL);
                }
                let (packed, raw_len) = self.packs.packed_blob(self.index, from.pack, &table, from.ordinal)?;
                writer.make_way(copy, blob)?;
                name_chunks(writer, copy, blob, chunks)?;
                return writer.add_packed(copy, blob, packed, raw_len);
            }
            let segment = self.packs.literal_blob(self.index, from.pack, &table, from.ordinal)?;
            return self.gather(writer, from, &table, &segment, &fresh);
        }
        let segment = self.packs.literal_blob(self.index, from.pack, &table, from.ordinal)?;
        let held: Vec<(u64, u64)> = segment.pieces().iter().map(|(at, b)| (*at, at + b.len() as u64)).collect();
        let mut fresh = Vec::new();
        for (start, end) in intersect(&parts, &held) {
            fresh.extend(self.copied.2.add(start, end));
        }
        self.gather(writer, from, &table, &segment, &fresh)
    }
}

/// Parts of a space, ascending and apart: first offset and the one after the last.
#[derive(Default)]
struct Copied(BTreeMap<u64, u64>);

impl Copied {
    /// Adds a part. Returns what of it is new.
    fn add(&mut self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let (mut from, mut to, mut at) = (start, end, start);
        let mut fresh = Vec::new();
        // those that overlap or touch, from the last one that begins before the part on
        let first = self.0.range(..start).next_back().map_or(start, |(first, _)| *first);
        let met: Vec<(u64, u64)> = self.0.range(first..=end).map(|(a, b)| (*a, *b)).filter(|m| m.1 >= start).collect();
        for (a, b) in met {
            if a > at {
                fresh.push((at, a.min(end)));
            }
            at = at.max(b);
            (from, to) = (from.min(a), to.max(b));
            self.0.remove(&a);
        }
        if at < end {
            fresh.push((at, end));
        }
        self.0.insert(from, to);
        fresh
    }
}

impl Copier<'_> {
    /// Takes parts of a blob, ascending and apart, all of which it holds, on their way into a new one.
    fn gather(
        &mut self,
        writer: &mut PackWriter,
        from: Literals,
        table: &LoadedTable,
        segment: &Segment,
        parts: &[(u64, u64)],
    ) -> Result<()> {
        let Some(&(first, _)) = parts.first() else { return Ok(()) };
        let gathered = &self.gathered;
        let far = (gathered.copy, gathered.space, gathered.effort) != (from.copy, from.space, from.effort)
            || gathered.bytes >= GATHER_BYTES
            || from.end.saturating_sub(gathered.start) > SPAN_BYTES_MAX
            // pieces are written in ascending order
            || first < gathered.end;
        if far {
            self.flush(writer)?;
        }
        let gathered = &mut self.gathered;
        (gathered.copy, gathered.space, gathered.effort) = (from.copy, from.space, from.effort);
        gathered.chunks.extend(chunks_of(table, from.space, (from.start, from.end)));
        for &(start, end) in parts {
            let mut at = start;
            while at < end {
                let bytes = segment.bytes_at(at);
                let take = usize::try_from(end - at).unwrap_or(usize::MAX).min(bytes.len());
                let Some(part) = bytes.get(..take).filter(|part| !part.is_empty()) else { break };
                gathered.add(at, part);
                at += take as u64;
            }
        }
        Ok(())
    }

    fn flush(&mut self, writer: &mut PackWriter) -> Result<()> {
        let gathered = std::mem::take(&mut self.gathered);
        if gathered.pieces.is_empty() {
            return Ok(());
        }
        let (copy, space, start) = (gathered.copy, gathered.space, gathered.start);
        let level = match gathered.effort {
            Effort::Hard => HARD_LEVEL,
            Effort::AsItIs if gathered.bytes >= BULK_BYTES => BULK_LEVEL,
            Effort::AsItIs => SMALL_LEVEL,
        };
        let spans: Vec<(u64, u64)> = gathered.pieces.iter().map(|(at, b)| (*at, at + b.len() as u64)).collect();
        let chunks: Vec<ChunkEntry> = gathered.chunks.into_iter().filter(|chunk| lies_in(&spans, chunk)).collect();
        if let [(_, bytes)] = gathered.pieces.as_slice() {
            return put(writer, copy, NewBlob::Segment { space, start }, chunks, bytes.clone(), level);
        }
        let pieces: Vec<(u64, &[u8])> = gathered.pieces.iter().map(|(at, b)| (*at, b.as_slice())).collect();
        let span_bytes = u32::try_from(gathered.end - start).unwrap_or(u32::MAX);
        let raw = sparse::encode(start, &pieces);
        put(writer, copy, NewBlob::Sparse { space, start, span_bytes }, chunks, raw, level)
    }
}

/// Adds literals with their chunks, which must be named in the pack that holds them.
fn put(
    writer: &mut PackWriter,
    copy: u8,
    blob: NewBlob,
    chunks: Vec<ChunkEntry>,
    raw: Vec<u8>,
    level: i32,
) -> Result<()> {
    writer.make_way(copy, blob)?;
    name_chunks(writer, copy, blob, chunks)?;
    writer.add(copy, blob, raw, level)
}

fn name_chunks(writer: &mut PackWriter, copy: u8, blob: NewBlob, chunks: Vec<ChunkEntry>) -> Result<()> {
    let (NewBlob::Segment { space, .. } | NewBlob::Sparse { space, .. }) = blob else { return Ok(()) };
    for chunk in chunks.into_iter().filter(|_| copy == 0) {
        writer.add_chunk(chunk.id, space, chunk.start, chunk.plain_bytes)?;
    }
    Ok(())
}

/// The chunks of a space that begin in a part of it.
fn chunks_of(table: &LoadedTable, space: VersionId, (start, end): (u64, u64)) -> impl Iterator<Item = ChunkEntry> + '_ {
    let is_of = move |number: u32| table.table.ids.get(number as usize) == Some(&space);
    table.table.chunks.iter().filter(move |c| start <= c.start && c.start < end && is_of(c.space)).copied()
}

/// True when a chunk lies wholly in one of the parts, which are ascending and apart.
fn lies_in(parts: &[(u64, u64)], chunk: &ChunkEntry) -> bool {
    let found = parts.partition_point(|p| p.1 <= chunk.start);
    parts.get(found).is_some_and(|p| p.0 <= chunk.start && chunk.start + u64::from(chunk.plain_bytes) <= p.1)
}

impl Gathered {
    fn add(&mut self, at: u64, bytes: &[u8]) {
        if self.pieces.is_empty() {
            self.start = at;
        }
        match self.pieces.last_mut() {
            Some((from, last)) if *from + last.len() as u64 == at => last.extend_from_slice(bytes),
            _ => self.pieces.push((at, bytes.to_vec())),
        }
        self.bytes += bytes.len();
        self.end = at + bytes.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is added in whatever order: each byte is new exactly once.
        #[test]
        fn every_byte_is_new_once(parts in prop::collection::vec((0u64..200, 1u64..60), 0..30)) {
            let (mut copied, mut seen) = (Copied::default(), [false; 260]);
            for (start, len) in parts {
                let fresh = copied.add(start, start + len);
                prop_assert!(fresh.windows(2).all(|w| w[0].1 < w[1].0));
                for at in start..start + len {
                    let is_new = fresh.iter().any(|f| f.0 <= at && at < f.1);
                    prop_assert_eq!(is_new, !seen[at as usize], "{}", at);
                    seen[at as usize] = true;
                }
                prop_assert!(fresh.iter().all(|f| f.0 >= start && f.1 <= start + len));
                let parts: Vec<(u64, u64)> = copied.0.iter().map(|(a, b)| (*a, *b)).collect();
                prop_assert!(parts.windows(2).all(|w| w[0].1 < w[1].0));
            }
        }
    }
}
