//! Where everything is: the index in memory, built from the repository's index objects.
//!
//! It holds one small entry for each pack, each part of a literal space and each record; tables of packs are read when
//! needed, and the chunk table lives in [`super::chunk_table`]. Packs named by a condemned record are kept apart: a
//! reader may use them, a backup may not.

use super::chunk_table::ChunkTable;
use crate::domain::id::{ChunkId, IndexId, PackId, VersionId};
use crate::format::records::{BlobMeta, IndexedPack};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};

/// Number of a pack in this index.
pub type PackNumber = u32;

/// One indexed pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackInfo {
    /// The pack.
    pub id: PackId,
    /// Copy number of its blobs.
    pub copy: u8,
    /// Length of the object.
    pub stored_bytes: u64,
    /// The index object that names it; None while that is not written yet.
    pub index: Option<IndexId>,
    /// True when a condemned record names it.
    pub condemned: bool,
}

/// A part of a literal space in one pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpacePart {
    /// First offset.
    pub start: u64,
    /// First offset after it.
    pub end: u64,
    /// The pack.
    pub pack: PackNumber,
}

/// A record of a version, or a part of one, in one pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordPlace {
    /// Its generation.
    pub generation: u32,
    /// The pack.
    pub pack: PackNumber,
}

/// Where a chunk's plain bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkPlace {
    /// The literal space.
    pub space: VersionId,
    /// First offset in it.
    pub start: u64,
    /// Length.
    pub plain_bytes: u32,
}

/// Everything but the chunk table, for the local cache.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct IndexSummary {
    packs: Vec<PackInfo>,
    spaces: Vec<(VersionId, SpacePart)>,
    records: Vec<(VersionId, RecordPlace)>,
    objects: Vec<IndexId>,
}

/// The index. See the module text.
#[derive(Debug, Default)]
pub struct RepositoryIndex {
    packs: Vec<PackInfo>,
    by_id: HashMap<PackId, PackNumber>,
    spaces: HashMap<VersionId, Vec<SpacePart>>,
    records: HashMap<VersionId, Vec<RecordPlace>>,
    chunks: ChunkTable,
    objects: HashSet<IndexId>,
}

impl RepositoryIndex {
    /// An empty index whose chunk table is `chunks`.
    pub fn new(chunks: ChunkTable) -> Self {
        Self { chunks, ..Self::default() }
    }

    /// Everything but the chunk table.
    pub fn summary(&self) -> IndexSummary {
        IndexSummary {
            packs: self.packs.clone(),
            spaces: self.spaces.iter().flat_map(|(id, parts)| parts.iter().map(|p| (*id, *p))).collect(),
            records: self.records.iter().flat_map(|(id, places)| places.iter().map(|p| (*id, *p))).collect(),
            objects: self.objects.iter().copied().collect(),
        }
    }

    /// The index that a summary and a chunk table describe.
    pub fn from_summary(summary: IndexSummary, chunks: ChunkTable) -> Self {
        let mut index = Self { chunks, ..Self::default() };
        index.by_id = summary.packs.iter().map(|p| p.id).zip(0..).collect();
        index.packs = summary.packs;
        for (id, part) in summary.spaces {
            index.spaces.entry(id).or_default().push(part);
        }
        for (id, place) in summary.records {
            index.records.entry(id).or_default().push(place);
        }
        index.objects = summary.objects.into_iter().collect();
        index
    }

    /// Adds a pack. A pack that is known already keeps its number.
    pub fn add_pack(&mut self, found: &IndexedPack, index: Option<IndexId>, condemned: bool) -> PackNumber {
        if let Some(&number) = self.by_id.get(&found.pack) {
            if let Some(info) = self.packs.get_mut(number as usize) {
                info.index = info.index.or(index);
                info.condemned |= condemned;
            }
            return number;
        }
        let number = PackNumber::try_from(self.packs.len()).unwrap_or(PackNumber::MAX);
        self.by_id.insert(found.pack, number);
        let (id, copy, stored_bytes) = (found.pack, found.copy, found.stored_bytes);
        self.packs.push(PackInfo { id, copy, stored_bytes, index, condemned });
        let mut parts: HashMap<u32, (u64, u64)> = HashMap::new();
        let mut records: HashSet<(u32, u32)> = HashSet::new();
        for blob in &found.table.blobs {
            match blob.meta {
                BlobMeta::Segment { space, start } => {
                    let end = start.saturating_add(u64::from(blob.raw_bytes));
                    let part = parts.entry(space).or_insert((start, end));
                    *part = (part.0.min(start), part.1.max(end));
                }
                // The slices of a long record lie in packs that were full before its head was written.
                BlobMeta::Head { version, generation } | BlobMeta::Slice { version, generation, .. } => {
                    records.insert((version, generation));
                }
            }
        }
        for (version, generation) in records {
            if let Some(&version) = found.table.ids.get(version as usize) {
                self.records.entry(version).or_default().push(RecordPlace { generation, pack: number });
            }
        }
        for (space, (start, end)) in parts {
            if let Some(&space) = found.table.ids.get(space as usize) {
                self.spaces.entry(space).or_default().push(SpacePart { start, end, pack: number });
            }
        }
        if copy == 0 && !condemned {
            self.chunks.add(found);
        }
        number
    }

    /// Marks an index object as read.
    pub fn add_object(&mut self, index: IndexId) {
        self.objects.insert(index);
    }

    /// True when this index object has been read.
    pub fn has_object(&self, index: IndexId) -> bool {
        self.objects.contains(&index)
    }

    /// The index objects that were read.
    pub fn objects(&self) -> &HashSet<IndexId> {
        &self.objects
    }

    /// All packs, by number.
    pub fn packs(&self) -> &[PackInfo] {
        &self.packs
    }

    /// One pack by number.
    pub fn pack(&self, number: PackNumber) -> Option<&PackInfo> {
        self.packs.get(number as usize)
    }

    /// The number of a pack.
    pub fn pack_number(&self, id: PackId) -> Option<PackNumber> {
        self.by_id.get(&id).copied()
    }

    /// Parts of a literal space, in no order; parts of different packs may overlap.
    pub fn space_parts(&self, space: VersionId) -> &[SpacePart] {
        self.spaces.get(&space).map_or(&[], Vec::as_slice)
    }

    /// Packs that hold parts of a version's record of the highest generation that is not condemned, copy 0 before
    /// copy 1.
    pub fn record_places(&self, version: VersionId) -> Vec<RecordPlace> {
        let mut places = self.records.get(&version).cloned().unwrap_or_default();
        let rank = |p: &RecordPlace| {
            let info = self.pack(p.pack);
            let condemned = info.is_none_or(|i| i.condemned);
            (condemned, std::cmp::Reverse(p.generation), info.map_or(2, |i| i.copy))
        };
        places.sort_by_key(rank);
        let best = places.first().map(|p| p.generation);
        places.retain(|p| Some(p.generation) == best);
        places
    }

    /// All versions that have a record.
    pub fn versions(&self) -> impl Iterator<Item = VersionId> + '_ {
        self.records.keys().copied()
    }

    /// True when a literal space has a part in a pack that a backup may rely on.
    pub fn space_is_usable(&self, space: VersionId) -> bool {
        self.space_parts(space).iter().all(|p| self.pack(p.pack).is_some_and(|i| !i.condemned))
    }

    /// Finds a chunk that a backup may refer to.
    pub fn chunk(&self, id: &ChunkId) -> Option<ChunkPlace> {
        self.chunks.find(id)
    }

    /// The chunk table.
    pub fn chunks(&self) -> &ChunkTable {
        &self.chunks
    }

    /// The chunk table, for keeping it on disk.
    pub fn chunks_mut(&mut self) -> &mut ChunkTable {
        &mut self.chunks
    }
}
