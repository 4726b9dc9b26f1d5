//! Copies what is needed of a pack into new packs, at the same addresses. Records and whole segments are copied as they
//! are; of a segment with dead bytes only the live pieces are stored again ([`crate::format::sparse`]).

use super::error::Result;
use super::index::{PackNumber, RepositoryIndex};
use super::liveness::{Live, Marking};
use super::pack_reader::{LoadedTable, PackReader};
use super::pack_writer::{NewBlob, PackWriter};
use crate::domain::id::VersionId;
use crate::format::records::{BlobMeta, ChunkEntry};
use crate::format::sparse;
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// None: whole segments are copied as compressed units.
    AsItIs,
    /// They are compressed again, with [`HARD_LEVEL`].
    Hard,
}

/// Blobs that another pack holds as well: (pack, ordinal).
pub type Repeated = HashSet<(PackNumber, u32)>;

/// Copies everything of a pack that is needed. `repeated` blobs are left out.
///
/// # Errors
/// Damage of what is needed, storage errors.
pub fn copy_pack(
    index: &RepositoryIndex,
    packs: &PackReader,
    writer: &mut PackWriter,
    marking: &Marking,
    repeated: &Repeated,
    number: PackNumber,
    effort: Effort,
) -> Result<()> {
    let table = packs.table(index, number)?;
    let copy = index.pack(number).map_or(0, |info| info.copy);
    let mut chunks: HashMap<u32, Vec<ChunkEntry>> = HashMap::new();
    for chunk in &table.table.chunks {
        chunks.entry(chunk.space).or_default().push(*chunk);
    }
    chunks.values_mut().for_each(|of_space| of_space.sort_unstable_by_key(|c| c.start));
    let (copied, gathered) = (HashMap::new(), Gathered::default());
    let mut copier = Copier { index, packs, writer, number, effort, copy, table: &table, chunks, copied, gathered };
    let mut literals = Vec::new();
    for (ordinal, blob) in (0u32..).zip(&table.table.blobs) {
        if repeated.contains(&(number, ordinal)) {
            continue;
        }
        let owner = table.table.ids.get(blob.meta.owner() as usize).copied().unwrap_or_default();
        match blob.meta {
            BlobMeta::Head { generation, .. } if marking.needs_record(owner, generation) => {
                copier.whole(ordinal, NewBlob::Head { version: owner, generation })?;
            }
            BlobMeta::Slice { generation, sequence, .. } if marking.needs_record(owner, generation) => {
                copier.whole(ordinal, NewBlob::Slice { version: owner, generation, sequence })?;
            }
            BlobMeta::Head { .. } | BlobMeta::Slice { .. } => {}
            BlobMeta::Segment { .. } | BlobMeta::Sparse { .. } => {
                if let Some((space, start, end)) = blob.literal_span() {
                    literals.push((space, start, end, ordinal));
                }
            }
        }
    }
    literals.sort_unstable();
    for (space, start, end, ordinal) in literals {
        let id = table.table.ids.get(space as usize).copied().unwrap_or_default();
        copier.literals(id, space, (start, end), ordinal, marking.live_in(id, start, end))?;
    }
    copier.flush()
}

/// Live pieces on their way into one segment.
#[derive(Default)]
struct Gathered {
    space: VersionId,
    number: u32,
    start: u64,
    end: u64,
    bytes: usize,
    pieces: Vec<(u64, Vec<u8>)>,
}

struct Copier<'c> {
    index: &'c RepositoryIndex,
    packs: &'c PackReader,
    writer: &'c mut PackWriter,
    number: PackNumber,
    effort: Effort,
    copy: u8,
    table: &'c LoadedTable,
    /// Chunks of each space of the table, by first offset.
    chunks: HashMap<u32, Vec<ChunkEntry>>,
    /// What was copied of each space. A pack may hold bytes twice: a prune that ended between naming its packs and
    /// condemning the old ones leaves two forms of them, and the next one may have put both into one pack.
    copied: HashMap<u32, Copied>,
    gathered: Gathered,
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
    fn whole(&mut self, ordinal: u32, blob: NewBlob) -> Result<()> {
        let (packed, raw_len) = self.packs.packed_blob(self.index, self.number, self.table, ordinal)?;
        self.writer.add_packed(self.copy, blob, packed, raw_len)
    }

    fn literals(&mut self, id: VersionId, space: u32, span: (u64, u64), ordinal: u32, live: Live) -> Result<()> {
        let meta = self.table.blob(ordinal).map(|b| b.0.meta);
        let parts = match live {
            Live::Whole => vec![span],
            Live::Parts(parts) => parts,
        };
        if parts.is_empty() {
            return Ok(());
        }
        if let Some(BlobMeta::Segment { start, .. }) = meta
            && parts == [span]
            && (span.1 - span.0) as usize >= GATHER_BYTES / 2
        {
            if self.copied.entry(space).or_default().add(span.0, span.1).is_empty() {
                return Ok(());
            }
            self.flush()?;
            self.chunks_in(id, space, &[span])?;
            let blob = NewBlob::Segment { space: id, start };
            if self.effort == Effort::Hard {
                let raw = self.packs.blob(self.index, self.number, self.table, ordinal)?;
                return self.writer.add(self.copy, blob, raw, HARD_LEVEL);
            }
            return self.whole(ordinal, blob);
        }
        let segment = self.packs.literal_blob(self.index, self.number, self.table, ordinal)?;
        let pieces = segment.pieces();
        let mut fresh = Vec::new();
        for (start, end) in parts {
            let first = pieces.partition_point(|(from, bytes)| from + bytes.len() as u64 <= start);
            for (from, bytes) in pieces.iter().skip(first).take_while(|(from, _)| *from < end) {
                let part = (start.max(*from), end.min(from + bytes.len() as u64));
                let new = self.copied.entry(space).or_default().add(part.0, part.1);
                fresh.extend(new.into_iter().map(|part| (part, *from, *bytes)));
            }
        }
        let Some(((first, _), ..)) = fresh.first() else { return Ok(()) };
        let far = self.gathered.space != id
            || self.gathered.bytes >= GATHER_BYTES
            || span.1.saturating_sub(self.gathered.start) > SPAN_BYTES_MAX
            // pieces are written in ascending order
            || *first < self.gathered.end;
        if far {
            self.flush()?;
        }
        let gathered = &mut self.gathered;
        if gathered.pieces.is_empty() {
            (gathered.space, gathered.number) = (id, space);
        }
        for ((start, end), from, bytes) in fresh {
            let skip = usize::try_from(start - from).unwrap_or(usize::MAX);
            let take = usize::try_from(end - start).unwrap_or(0);
            let Some(part) = bytes.get(skip..).and_then(|rest| rest.get(..take)) else { continue };
            gathered.add(start, part);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let gathered = std::mem::take(&mut self.gathered);
        if gathered.pieces.is_empty() {
            return Ok(());
        }
        let spans: Vec<(u64, u64)> = gathered.pieces.iter().map(|(at, b)| (*at, at + b.len() as u64)).collect();
        self.chunks_in(gathered.space, gathered.number, &spans)?;
        let level = match self.effort {
            Effort::Hard => HARD_LEVEL,
            Effort::AsItIs if gathered.bytes >= BULK_BYTES => BULK_LEVEL,
            Effort::AsItIs => SMALL_LEVEL,
        };
        let (space, start) = (gathered.space, gathered.start);
        if let [(_, bytes)] = gathered.pieces.as_slice() {
            return self.writer.add(self.copy, NewBlob::Segment { space, start }, bytes.clone(), level);
        }
        let pieces: Vec<(u64, &[u8])> = gathered.pieces.iter().map(|(at, b)| (*at, b.as_slice())).collect();
        let span_bytes = u32::try_from(gathered.end - start).unwrap_or(u32::MAX);
        let raw = sparse::encode(start, &pieces);
        self.writer.add(self.copy, NewBlob::Sparse { space, start, span_bytes }, raw, level)
    }

    /// Names the chunks that lie wholly in one of the spans, which are ascending and go into one blob.
    fn chunks_in(&mut self, id: VersionId, space: u32, spans: &[(u64, u64)]) -> Result<()> {
        let Some(of_space) = self.chunks.get(&space).filter(|_| self.copy == 0) else { return Ok(()) };
        for &(start, end) in spans {
            let first = of_space.partition_point(|c| c.start < start);
            for chunk in of_space.get(first..).unwrap_or_default().iter().take_while(|c| c.start < end) {
                if chunk.start + u64::from(chunk.plain_bytes) <= end {
                    self.writer.add_chunk(chunk.id, id, chunk.start, chunk.plain_bytes)?;
                }
            }
        }
        Ok(())
    }
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
