//! Where everything is: the index in memory, built from the repository's index objects.
//!
//! It holds one small entry for each pack, each part of a literal space and each record; tables of packs are read when
//! needed, and the chunk table lives in [`super::chunk_table`]. Packs named by a condemned record are left out of the
//! index of a run that writes; a reader may use them.

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
    /// The record's head is in this pack. A record without a head anywhere was never finished.
    pub has_head: bool,
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
    objects: Vec<(IndexId, Vec<PackNumber>)>,
}

/// The index. See the module text.
#[derive(Debug, Default)]
pub struct RepositoryIndex {
    packs: Vec<PackInfo>,
    by_id: HashMap<PackId, PackNumber>,
    spaces: HashMap<VersionId, Vec<SpacePart>>,
    records: HashMap<VersionId, Vec<RecordPlace>>,
    chunks: ChunkTable,
    /// Index objects read, with the packs that each names.
    objects: HashMap<IndexId, Vec<PackNumber>>,
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
            objects: self.objects.iter().map(|(id, packs)| (*id, packs.clone())).collect(),
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
    pub fn add_pack(&mut self, found: &IndexedPack, index: Option<IndexId>) -> PackNumber {
        let number = self.add_pack_once(found, index);
        if let Some(index) = index {
            self.objects.entry(index).or_default().push(number);
        }
        number
    }

    fn add_pack_once(&mut self, found: &IndexedPack, index: Option<IndexId>) -> PackNumber {
        if let Some(&number) = self.by_id.get(&found.pack) {
            if let Some(info) = self.packs.get_mut(number as usize) {
                info.index = info.index.or(index);
            }
            return number;
        }
        let number = PackNumber::try_from(self.packs.len()).unwrap_or(PackNumber::MAX);
        self.by_id.insert(found.pack, number);
        let (id, copy, stored_bytes) = (found.pack, found.copy, found.stored_bytes);
        self.packs.push(PackInfo { id, copy, stored_bytes, index });
        let mut parts: HashMap<u32, (u64, u64)> = HashMap::new();
        let mut records: HashMap<(u32, u32), bool> = HashMap::new();
        for blob in &found.table.blobs {
            if let Some((space, start, end)) = blob.literal_span() {
                let part = parts.entry(space).or_insert((start, end));
                *part = (part.0.min(start), part.1.max(end));
            }
            // The slices of a long record lie in packs that were full before its head was written.
            match blob.meta {
                BlobMeta::Head { version, generation } => {
                    records.insert((version, generation), true);
                }
                BlobMeta::Slice { version, generation, .. } => {
                    records.entry((version, generation)).or_default();
                }
                BlobMeta::Segment { .. } | BlobMeta::Sparse { .. } => {}
            }
        }
        for ((version, generation), has_head) in records {
            if let Some(&version) = found.table.ids.get(version as usize) {
                let place = RecordPlace { generation, pack: number, has_head };
                self.records.entry(version).or_default().push(place);
            }
        }
        for (space, (start, end)) in parts {
            if let Some(&space) = found.table.ids.get(space as usize) {
                self.spaces.entry(space).or_default().push(SpacePart { start, end, pack: number });
            }
        }
        if copy == 0 {
            self.chunks.add(found);
        }
        number
    }

    /// Marks an index object as read.
    pub fn add_object(&mut self, index: IndexId) {
        self.objects.entry(index).or_default();
    }

    /// True when this index object has been read.
    pub fn has_object(&self, index: IndexId) -> bool {
        self.objects.contains_key(&index)
    }

    /// The index objects that were read, with the packs that each names.
    pub fn objects(&self) -> &HashMap<IndexId, Vec<PackNumber>> {
        &self.objects
    }

    /// Forgets index objects that are not in `listed`.
    pub fn keep_objects(&mut self, listed: &HashSet<IndexId>) {
        self.objects.retain(|id, _| listed.contains(id));
    }

    /// The same index without some packs and without the chunk table. Numbers of packs stay the same.
    pub fn without(&self, gone: &HashSet<PackNumber>) -> Self {
        let mut index = Self { packs: self.packs.clone(), by_id: self.by_id.clone(), ..Self::default() };
        for number in gone {
            if let Some(info) = self.pack(*number) {
                index.by_id.remove(&info.id);
            }
        }
        for (id, parts) in &self.spaces {
            let left: Vec<SpacePart> = parts.iter().filter(|p| !gone.contains(&p.pack)).copied().collect();
            if !left.is_empty() {
                index.spaces.insert(*id, left);
            }
        }
        for (id, places) in &self.records {
            let left: Vec<RecordPlace> = places.iter().filter(|p| !gone.contains(&p.pack)).copied().collect();
            if !left.is_empty() {
                index.records.insert(*id, left);
            }
        }
        for (id, packs) in &self.objects {
            index.objects.insert(*id, packs.iter().filter(|n| !gone.contains(n)).copied().collect());
        }
        index
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

    /// Packs that hold parts of a version's record of the highest generation that has a head, copy 0 before copy 1.
    /// Only heads decide: slices without one were left by a run that died.
    pub fn record_places(&self, version: VersionId) -> Vec<RecordPlace> {
        let mut places = self.records.get(&version).cloned().unwrap_or_default();
        let heads = |copy: u8| {
            let is_of = move |p: &&RecordPlace| p.has_head && self.pack(p.pack).is_some_and(|info| info.copy == copy);
            places.iter().filter(is_of).map(|p| p.generation)
        };
        // A prune that died may have left one copy of a record, which `repair index` named: both copies of an older one
        // are worth more.
        let whole = heads(0).filter(|generation| heads(1).any(|other| other == *generation)).max();
        let any = places.iter().filter(|p| p.has_head).map(|p| p.generation).max();
        let Some(best) = whole.or(any) else { return Vec::new() };
        places.retain(|p| p.generation == best);
        places.sort_by_key(|p| self.pack(p.pack).map_or(2, |i| i.copy));
        places
    }

    /// All places of all records of a version, in no order.
    pub fn all_record_places(&self, version: VersionId) -> &[RecordPlace] {
        self.records.get(&version).map_or(&[], Vec::as_slice)
    }

    /// All literal spaces that have a part in a pack.
    pub fn spaces(&self) -> impl Iterator<Item = (VersionId, &[SpacePart])> {
        self.spaces.iter().map(|(id, parts)| (*id, parts.as_slice()))
    }

    /// All versions that have a record.
    pub fn versions(&self) -> impl Iterator<Item = VersionId> + '_ {
        self.records.keys().copied()
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
