//! Takes out of damaged packs what is still whole, and makes the rest again from other packs where they have it.
//!
//! Everything whole is kept, also what no snapshot needs today: a backup that is at work may have found it by its
//! content. Whatever is not needed goes with the next prune.

use super::RepairError;
use crate::domain::id::VersionId;
use crate::format::records::{BlobMeta, ChunkEntry};
use crate::format::seal::Keys;
use crate::recipe::run::{Intervals, normalize};
use crate::repository::error::RepoError;
use crate::repository::index::{PackNumber, RepositoryIndex};
use crate::repository::pack_reader::{LoadedTable, PackReader, Segment};
use crate::repository::pack_writer::{NewBlob, PackWriter};
use std::collections::{BTreeSet, HashMap, HashSet};

/// Level for literals that are compressed anew.
const LITERALS_LEVEL: i32 = 6;

/// What identifies a blob whatever pack it is in: copy number, owner, kind, and two numbers (generation and sequence, or
/// first offset and length).
pub(super) type BlobKey = (u8, VersionId, u8, u64, u64);

/// How the blobs of one pack fared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Fared {
    pub(super) blobs: u64,
    pub(super) copied: u64,
    pub(super) healed: u64,
    pub(super) lost: u64,
}

/// Works through damaged packs.
pub(super) struct Salvage<'s> {
    pub(super) index: &'s RepositoryIndex,
    pub(super) packs: &'s PackReader,
    pub(super) keys: &'s Keys,
    pub(super) writer: &'s mut PackWriter,
    /// The damaged packs.
    pub(super) gone: &'s HashSet<PackNumber>,
    /// Packs that a prune is about to delete: they may give, but nothing may rely on them.
    pub(super) condemned: &'s HashSet<PackNumber>,
    /// What the new packs must hold, with the hash of the raw bytes.
    pub(super) expected: HashMap<BlobKey, blake3::Hash>,
    /// Versions of which something was made again from another pack.
    pub(super) healed: BTreeSet<VersionId>,
}

/// What a blob of a pack is called elsewhere.
pub(super) fn new_blob(meta: BlobMeta, owner: VersionId) -> NewBlob {
    match meta {
        BlobMeta::Segment { start, .. } => NewBlob::Segment { space: owner, start },
        BlobMeta::Sparse { start, span_bytes, .. } => NewBlob::Sparse { space: owner, start, span_bytes },
        BlobMeta::Head { generation, .. } => NewBlob::Head { version: owner, generation },
        BlobMeta::Slice { generation, sequence, .. } => NewBlob::Slice { version: owner, generation, sequence },
    }
}

/// The key of a blob with so many raw bytes.
pub(super) fn key_of(copy: u8, blob: NewBlob, raw_bytes: u64) -> BlobKey {
    match blob {
        NewBlob::Segment { space, start } => (copy, space, 1, start, raw_bytes),
        NewBlob::Sparse { space, start, span_bytes } => (copy, space, 8, start, u64::from(span_bytes)),
        NewBlob::Head { version, generation } => (copy, version, 2, u64::from(generation), 0),
        NewBlob::Slice { version, generation, sequence } => {
            (copy, version, 3, u64::from(generation), u64::from(sequence))
        }
    }
}

/// Damage is a value here, everything else ends the repair.
fn readable<T>(result: Result<T, RepoError>) -> Result<Option<T>, RepairError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.concerns_one_object() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Salvage<'_> {
    /// Copies what is whole of one pack and heals what another has.
    ///
    /// # Errors
    /// Storage errors; a table that cannot be read in the pack nor in the index.
    pub(super) fn pack(&mut self, number: PackNumber) -> Result<Fared, RepairError> {
        let table = self.packs.table(self.index, number)?;
        let copy = self.index.pack(number).map_or(0, |info| u8::from(info.copy != 0));
        let mut fared = Fared { blobs: table.table.blobs.len() as u64, ..Fared::default() };
        let mut damaged = Vec::new();
        for (ordinal, entry) in (0u32..).zip(&table.table.blobs) {
            let owner = table.table.ids.get(entry.meta.owner() as usize).copied().unwrap_or_default();
            if self.copy_whole(number, &table, ordinal, copy, owner)? {
                fared.copied += 1;
            } else {
                damaged.push((entry.meta, entry.literal_span(), owner));
            }
        }
        // neighbours in a space are healed together, in order
        damaged.sort_by_key(|(_, span, owner)| (*owner, span.map_or((0, 0), |s| (s.1, s.2))));
        for (meta, span, owner) in damaged {
            let whole = match span {
                Some((space, start, end)) => {
                    let chunks: Vec<ChunkEntry> =
                        table.table.chunks.iter().filter(|c| c.space == space && copy == 0).copied().collect();
                    self.heal_literals(copy, owner, (start, end), &chunks)?
                }
                None => self.heal_record(copy, owner, meta)?,
            };
            if whole {
                fared.healed += 1;
                self.healed.insert(owner);
            } else {
                fared.lost += 1;
            }
        }
        Ok(fared)
    }

    /// Copies a blob as it is; false when it cannot be opened.
    fn copy_whole(
        &mut self,
        number: PackNumber,
        table: &LoadedTable,
        ordinal: u32,
        copy: u8,
        owner: VersionId,
    ) -> Result<bool, RepairError> {
        let Some((entry, _)) = table.blob(ordinal) else { return Ok(false) };
        let Some(raw) = readable(self.packs.blob(self.index, number, table, ordinal))? else { return Ok(false) };
        let hash = blake3::hash(&raw);
        if let Some((space, start, end)) = entry.literal_span() {
            let Ok(segment) = Segment::new(entry.meta, raw) else { return Ok(false) };
            if copy == 0 {
                let inside = |c: &&ChunkEntry| c.space == space && c.start >= start && c.start < end;
                let chunks: Vec<ChunkEntry> = table.table.chunks.iter().filter(inside).copied().collect();
                self.name_chunks(owner, &chunks, |at| segment.bytes_at(at))?;
            }
        }
        let Some((packed, raw_len)) = readable(self.packs.packed_blob(self.index, number, table, ordinal))? else {
            return Ok(false);
        };
        let blob = new_blob(entry.meta, owner);
        self.expected.insert(key_of(copy, blob, u64::from(raw_len)), hash);
        self.writer.add_packed(copy, blob, packed, raw_len)?;
        Ok(true)
    }

    /// Names the chunks whose bytes are what their ids say, in the pack of copy 0 that is open now.
    fn name_chunks<'b>(
        &mut self,
        owner: VersionId,
        chunks: &[ChunkEntry],
        bytes_at: impl Fn(u64) -> &'b [u8],
    ) -> Result<(), RepairError> {
        for chunk in chunks {
            let bytes = bytes_at(chunk.start).get(..chunk.plain_bytes as usize);
            if bytes.is_some_and(|bytes| self.keys.chunk_id(bytes) == chunk.id) {
                self.writer.add_chunk(chunk.id, owner, chunk.start, chunk.plain_bytes)?;
            }
        }
        Ok(())
    }

    /// Makes a head or slice again from another pack; true when it is there in this copy number.
    fn heal_record(&mut self, copy: u8, version: VersionId, meta: BlobMeta) -> Result<bool, RepairError> {
        let (generation, part) = match meta {
            BlobMeta::Head { generation, .. } => (generation, None),
            BlobMeta::Slice { generation, sequence, .. } => (generation, Some(sequence)),
            BlobMeta::Segment { .. } | BlobMeta::Sparse { .. } => return Ok(false),
        };
        self.record_again(copy, version, generation, part)
    }

    /// The same for a head (None) or slice by its number.
    pub(super) fn record_again(
        &mut self,
        copy: u8,
        version: VersionId,
        generation: u32,
        part: Option<u32>,
    ) -> Result<bool, RepairError> {
        let mut giver = None;
        for place in self.index.all_record_places(version).iter().filter(|p| p.generation == generation) {
            let Some(table) = readable(self.packs.table(self.index, place.pack))? else { continue };
            let Some(ordinal) = table.record(version, generation, part) else { continue };
            let Some(raw) = readable(self.packs.blob(self.index, place.pack, &table, ordinal))? else { continue };
            if self.stays(place.pack, copy) {
                return Ok(true);
            }
            if let Some((packed, raw_len)) = readable(self.packs.packed_blob(self.index, place.pack, &table, ordinal))?
            {
                giver = Some((packed, raw_len, blake3::hash(&raw)));
            }
        }
        let Some((packed, raw_len, hash)) = giver else { return Ok(false) };
        let blob = match part {
            None => NewBlob::Head { version, generation },
            Some(sequence) => NewBlob::Slice { version, generation, sequence },
        };
        self.expected.insert(key_of(copy, blob, u64::from(raw_len)), hash);
        self.writer.add_packed(copy, blob, packed, raw_len)?;
        Ok(true)
    }

    /// True for a pack of this copy number that is neither damaged nor about to go.
    fn stays(&self, number: PackNumber, copy: u8) -> bool {
        !self.gone.contains(&number)
            && !self.condemned.contains(&number)
            && self.index.pack(number).is_some_and(|info| (info.copy != 0) == (copy != 0))
    }

    /// Makes literal bytes again from other packs; true when all of the span is there in this copy number.
    pub(super) fn heal_literals(
        &mut self,
        copy: u8,
        space: VersionId,
        (start, end): (u64, u64),
        chunks: &[ChunkEntry],
    ) -> Result<bool, RepairError> {
        let mut there = Intervals::new();
        let mut givers = Vec::new();
        for part in self.index.space_parts(space).iter().filter(|p| p.start < end && start < p.end) {
            let Some(table) = readable(self.packs.table(self.index, part.pack))? else { continue };
            for (ordinal, from, to) in table.segments_of(space).filter(|s| s.1 < end && start < s.2) {
                let Some(found) = readable(self.packs.literal_blob(self.index, part.pack, &table, ordinal))? else {
                    continue;
                };
                if self.stays(part.pack, copy) {
                    there.extend(found.pieces().iter().map(|(at, bytes)| (*at, at + bytes.len() as u64)));
                } else if from < to {
                    givers.push(found);
                }
            }
        }
        normalize(&mut there, 0);
        for giver in givers {
            for (at, bytes) in giver.pieces() {
                for (from, to) in missing(&there, at.max(start), (at + bytes.len() as u64).min(end)) {
                    let cut = |n: u64| usize::try_from(n - at).unwrap_or(usize::MAX);
                    let Some(piece) = bytes.get(cut(from)..cut(to)) else { continue };
                    let inside = |c: &&ChunkEntry| c.start >= from && c.start + u64::from(c.plain_bytes) <= to;
                    let named: Vec<ChunkEntry> = chunks.iter().filter(inside).copied().collect();
                    let skip = |n: u64| piece.get(usize::try_from(n - from).unwrap_or(usize::MAX)..);
                    self.name_chunks(space, &named, |n| skip(n).unwrap_or_default())?;
                    let blob = NewBlob::Segment { space, start: from };
                    self.expected.insert(key_of(copy, blob, piece.len() as u64), blake3::hash(piece));
                    self.writer.add(copy, blob, piece.to_vec(), LITERALS_LEVEL)?;
                    there.push((from, to));
                }
                normalize(&mut there, 0);
            }
        }
        Ok(missing(&there, start, end).is_empty())
    }
}

/// The parts of `[start, end)` that intervals (sorted, apart) leave out.
fn missing(there: &[(u64, u64)], start: u64, end: u64) -> Intervals {
    let mut holes = Intervals::new();
    let mut at = start;
    let first = there.partition_point(|t| t.1 <= start);
    for &(from, to) in there.get(first..).unwrap_or_default().iter().take_while(|t| t.0 < end) {
        if from > at {
            holes.push((at, from));
        }
        at = at.max(to);
    }
    if at < end {
        holes.push((at, end));
    }
    holes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_what_is_missing() {
        let there = [(10, 20), (30, 40)];
        assert_eq!(missing(&there, 0, 50), [(0, 10), (20, 30), (40, 50)]);
        assert_eq!(missing(&there, 12, 18), []);
        assert_eq!(missing(&there, 15, 35), [(20, 30)]);
        assert_eq!(missing(&[], 1, 2), [(1, 2)]);
        assert_eq!(missing(&there, 5, 5), []);
        assert_eq!(missing(&there, 60, 50), []);
    }
}
