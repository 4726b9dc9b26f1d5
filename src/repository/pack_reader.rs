//! Reads blobs from packs, with bounded caches for tables and segments.

mod decode;

pub use decode::{PackTrailer, decode_index, decode_table, load_index, open_blob};

use super::error::{RepoError, Result};
use super::index::{PackInfo, PackNumber, RepositoryIndex};
use super::made_whole::MadeWhole;
use super::pack_writer::sealer_for;
use crate::domain::id::{PackId, VersionId};
use crate::format::envelope::{self, ObjectTag};
use crate::format::parity::PROTECTED;
use crate::format::records::{BlobEntry, BlobMeta, PACK_TRAILER_BYTES, PackTable};
use crate::format::seal::{BlobContext, Keys};
use crate::format::sparse::{self, Piece, SparseError};
use crate::storage::{ErrorKind, ObjectName, ReadStore};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Largest index body or pack table that a reader accepts, bytes.
pub const TABLE_BYTES_MAX: usize = 64 << 20;
/// Decoded tables kept.
const TABLES_KEPT: usize = 512;
/// Default bound of the segment cache.
pub const SEGMENT_CACHE_BYTES: usize = 16 << 20;

/// A pack's table with what is needed to find things in it.
#[derive(Debug)]
pub struct LoadedTable {
    /// The table.
    pub table: PackTable,
    offsets: Vec<u64>,
    segments: Vec<(VersionId, u64, u64, u32)>,
    records: HashMap<(VersionId, u32, Option<u32>), u32>,
}

impl LoadedTable {
    /// Prepares a table. Blobs lie one after the other from the end of the header.
    pub fn new(table: PackTable) -> Self {
        let mut offset = envelope::HEADER_BYTES as u64;
        let mut offsets = Vec::with_capacity(table.blobs.len());
        let mut segments = Vec::new();
        let mut records = HashMap::new();
        let id = |n: u32| table.ids.get(n as usize).copied();
        for (ordinal, blob) in (0u32..).zip(&table.blobs) {
            offsets.push(offset);
            offset = offset.saturating_add(u64::from(blob.stored_bytes));
            if let Some((space, start, end)) = blob.literal_span()
                && let Some(space) = id(space)
            {
                segments.push((space, start, end, ordinal));
            }
            match blob.meta {
                BlobMeta::Segment { .. } | BlobMeta::Sparse { .. } => {}
                BlobMeta::Head { version, generation } => {
                    if let Some(version) = id(version) {
                        records.insert((version, generation, None), ordinal);
                    }
                }
                BlobMeta::Slice { version, generation, sequence } => {
                    if let Some(version) = id(version) {
                        records.insert((version, generation, Some(sequence)), ordinal);
                    }
                }
            }
        }
        segments.sort_unstable();
        Self { table, offsets, segments, records }
    }

    /// The segment that holds an offset of a space: (ordinal, first offset, first offset after it).
    pub fn segment(&self, space: VersionId, offset: u64) -> Option<(u32, u64, u64)> {
        let after = self.segments.partition_point(|s| (s.0, s.1) <= (space, offset));
        let &(found, start, end, ordinal) = self.segments.get(after.checked_sub(1)?)?;
        (found == space && start <= offset && offset < end).then_some((ordinal, start, end))
    }

    /// The blobs of literal bytes of a space, as (ordinal, first offset, first offset after it), ascending.
    pub fn segments_of(&self, space: VersionId) -> impl Iterator<Item = (u32, u64, u64)> + '_ {
        let first = self.segments.partition_point(|s| s.0 < space);
        let same = self.segments.get(first..).unwrap_or_default().iter().take_while(move |s| s.0 == space);
        same.map(|s| (s.3, s.1, s.2))
    }

    /// The ordinal of a record's head (`None`) or slice.
    pub fn record(&self, version: VersionId, generation: u32, slice: Option<u32>) -> Option<u32> {
        self.records.get(&(version, generation, slice)).copied()
    }

    /// A blob's entry and its offset in the object.
    pub fn blob(&self, ordinal: u32) -> Option<(&BlobEntry, u64)> {
        Some((self.table.blobs.get(ordinal as usize)?, *self.offsets.get(ordinal as usize)?))
    }
}

/// Counters of a reader, for reports and benchmarks.
#[derive(Debug, Default)]
pub struct ReadCounters {
    /// Bytes decompressed from segments.
    pub decoded_bytes: AtomicU64,
    /// Stored bytes read from packs.
    pub read_bytes: AtomicU64,
}

/// Decoded literal bytes of a part of a space, with or without holes.
#[derive(Debug)]
pub struct Segment {
    first: u64,
    raw: Vec<u8>,
    /// Empty when there are no holes.
    pieces: Vec<Piece>,
}

impl Segment {
    /// From a decoded blob.
    ///
    /// # Errors
    /// A blob that is no literal bytes, or a sparse segment that is damaged.
    pub fn new(meta: BlobMeta, raw: Vec<u8>) -> std::result::Result<Self, SparseError> {
        match meta {
            BlobMeta::Segment { start, .. } => Ok(Self { first: start, raw, pieces: Vec::new() }),
            BlobMeta::Sparse { start, span_bytes, .. } => {
                let pieces = sparse::decode(start, span_bytes, &raw)?;
                Ok(Self { first: start, raw, pieces })
            }
            BlobMeta::Head { .. } | BlobMeta::Slice { .. } => Err(SparseError("it holds no literal bytes")),
        }
    }

    /// The bytes from an offset of the space on, as far as they go without a hole; empty where there are none.
    #[inline]
    pub fn bytes_at(&self, offset: u64) -> &[u8] {
        if self.pieces.is_empty() {
            let skip = offset.checked_sub(self.first).and_then(|skip| usize::try_from(skip).ok());
            return skip.and_then(|skip| self.raw.get(skip..)).unwrap_or_default();
        }
        let after = self.pieces.partition_point(|p| p.start <= offset);
        let Some(piece) = after.checked_sub(1).and_then(|n| self.pieces.get(n)).filter(|p| offset < p.end()) else {
            return &[];
        };
        let skip = u32::try_from(offset - piece.start).unwrap_or(u32::MAX);
        self.raw.get((piece.at + skip) as usize..(piece.at + piece.len) as usize).unwrap_or_default()
    }

    /// The pieces that there are, as (offset in the space, bytes), ascending.
    pub fn pieces(&self) -> Vec<(u64, &[u8])> {
        if self.pieces.is_empty() {
            return vec![(self.first, self.raw.as_slice())];
        }
        let bytes = |p: &Piece| self.raw.get(p.at as usize..(p.at + p.len) as usize).unwrap_or_default();
        self.pieces.iter().map(|p| (p.start, bytes(p))).collect()
    }

    /// Bytes held in memory.
    pub fn held_bytes(&self) -> usize {
        self.raw.len() + self.pieces.len() * size_of::<Piece>()
    }
}

impl ReadCounters {
    /// Bytes decompressed from segments so far.
    pub fn decoded(&self) -> u64 {
        self.decoded_bytes.load(Ordering::Relaxed)
    }
}

/// A decoded segment and when it was last used.
type CachedSegment = (Arc<Segment>, u64);

#[derive(Default)]
struct SegmentCache {
    entries: HashMap<(PackNumber, u32), CachedSegment>,
    bytes: usize,
    tick: u64,
}

/// Reads blobs. Shared by all streams of a run; safe to use from several threads.
pub struct PackReader {
    store: Arc<dyn ReadStore>,
    keys: Arc<Keys>,
    tables: Mutex<HashMap<PackNumber, (Arc<LoadedTable>, u64)>>,
    segments: Mutex<SegmentCache>,
    segment_bytes_max: usize,
    /// What was read so far.
    pub counters: ReadCounters,
    /// Damage that a second copy made good: object and reason. The command that met it must not end with 0.
    healed: Mutex<Vec<String>>,
    made_whole: MadeWhole,
    follow: Mutex<Option<Follow>>,
}

/// Where a reader stands that follows the index while prunes replace packs.
#[derive(Default)]
struct Follow {
    /// The newest index read, when it is not the one that the reader began with.
    newest: Option<Arc<RepositoryIndex>>,
    /// How often it was read again.
    epoch: u64,
    /// Packs that are not there although the newest index names them: damage.
    missing: HashSet<PackId>,
}

impl std::fmt::Debug for PackReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackReader({})", self.store.location())
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PackReader {
    /// A reader with its own caches.
    pub fn new(store: Arc<dyn ReadStore>, keys: Arc<Keys>, segment_bytes_max: usize) -> Self {
        Self {
            store,
            keys,
            tables: Mutex::default(),
            segments: Mutex::default(),
            segment_bytes_max,
            counters: ReadCounters::default(),
            healed: Mutex::default(),
            made_whole: MadeWhole::default(),
            follow: Mutex::default(),
        }
    }

    /// From now on a pack that is not there makes streams read the index again and go on. For restores, which may take
    /// longer than a prune; not for runs that write, whose index must stay what it was when they began.
    pub fn follow_index(&self) {
        locked(&self.follow).get_or_insert_default();
    }

    /// The newest index, and how often it was read again; `None` for the index that the reader began with.
    pub(crate) fn newest(&self) -> (Option<Arc<RepositoryIndex>>, u64) {
        locked(&self.follow).as_ref().map_or((None, 0), |f| (f.newest.clone(), f.epoch))
    }

    /// Reads the index again because a pack is gone. Without any change the pack counts as missing from now on.
    ///
    /// # Errors
    /// Storage errors.
    pub(crate) fn reload(&self, began_with: &RepositoryIndex, gone: PackId) -> Result<()> {
        let mut follow = locked(&self.follow);
        let Some(follow) = follow.as_mut() else { return Ok(()) };
        let before = follow.newest.as_deref().unwrap_or(began_with);
        match super::index_loader::reload(self.store.as_ref(), &self.keys, before)? {
            Some(index) => {
                follow.newest = Some(Arc::new(index));
                follow.epoch += 1;
            }
            None => _ = follow.missing.insert(gone),
        }
        Ok(())
    }

    /// Tells a pack that may have been replaced from one that is missing.
    fn or_gone(&self, pack: PackId, error: RepoError) -> RepoError {
        let absent = matches!(&error, RepoError::Storage(e) if e.kind == ErrorKind::NotFound);
        let unsure = || locked(&self.follow).as_ref().is_some_and(|f| !f.missing.contains(&pack));
        if absent && unsure() { RepoError::PackGone { pack } } else { error }
    }

    /// Drops what is kept of tables and segments: for long runs, before something else needs the memory.
    pub fn drop_caches(&self) {
        locked(&self.tables).clear();
        *locked(&self.segments) = SegmentCache::default();
    }

    /// Notes damage that a second copy or parity made good.
    pub fn note_healed(&self, what: String) {
        let mut healed = locked(&self.healed);
        if healed.len() < 1000 && !healed.contains(&what) {
            healed.push(what);
        }
    }

    /// A damaged or missing pack as it was written, if its parity can make it again. `stored_bytes` is the length that
    /// the index has. Changes nothing in the repository.
    ///
    /// # Errors
    /// Storage errors that do not concern this pack alone.
    pub fn made_whole(&self, pack: PackId, stored_bytes: u64) -> Result<Option<Arc<Vec<u8>>>> {
        self.made_whole.get(self.store.as_ref(), pack, stored_bytes)
    }

    /// The stored bytes of a blob, judged by `open`; out of what parity makes of the pack if they do not open as they are.
    fn stored_blob<T>(
        &self,
        info: &PackInfo,
        entry: &BlobEntry,
        offset: u64,
        open: impl Fn(&[u8]) -> Result<T>,
    ) -> Result<T> {
        let stored = self.store.get_range(&ObjectName::pack(info.id), offset, entry.stored_bytes);
        let opened = stored.map_err(|error| self.or_gone(info.id, error.into())).and_then(|stored| {
            self.counters.read_bytes.fetch_add(stored.len() as u64, Ordering::Relaxed);
            open(&stored)
        });
        let error = match opened {
            Err(error) if error.concerns_one_object() && !matches!(error, RepoError::PackGone { .. }) => error,
            other => return other,
        };
        let Some(whole) = self.made_whole(info.id, info.stored_bytes)? else { return Err(error) };
        let range =
            usize::try_from(offset).ok().and_then(|start| whole.get(start..)?.get(..entry.stored_bytes as usize));
        let opened = open(range.unwrap_or_default())?;
        self.note_healed(format!("{} is not as it was written, and its parity served", ObjectName::pack(info.id)));
        Ok(opened)
    }

    /// Damage that second copies and parity made good so far.
    pub fn healed(&self) -> Vec<String> {
        locked(&self.healed).clone()
    }

    /// The table of a pack: from its trailer, or from the index object when the trailer is damaged.
    ///
    /// # Errors
    /// Damage or absence of both.
    pub fn table(&self, index: &RepositoryIndex, number: PackNumber) -> Result<Arc<LoadedTable>> {
        if let Some((table, _)) = locked(&self.tables).get(&number) {
            return Ok(Arc::clone(table));
        }
        let info = index.pack(number).ok_or_else(|| RepoError::Missing { what: format!("pack number {number}") })?;
        let table = match self.table_of(info.id, info.stored_bytes).map_err(|error| self.or_gone(info.id, error)) {
            Ok(table) => table,
            Err(error @ RepoError::PackGone { .. }) => return Err(error),
            Err(error) if error.concerns_one_object() && info.index.is_some() => {
                self.note_healed(format!("table of {}: {error}", ObjectName::pack(info.id)));
                let id = info.index.unwrap_or_default();
                let body = load_index(self.store.as_ref(), &self.keys, id)?;
                body.packs.into_iter().find(|p| p.pack == info.id).map(|p| p.table).ok_or(error)?
            }
            Err(error) => return Err(error),
        };
        let table = Arc::new(LoadedTable::new(table));
        let mut tables = locked(&self.tables);
        if tables.len() >= TABLES_KEPT {
            tables.clear();
        }
        tables.insert(number, (Arc::clone(&table), 0));
        Ok(table)
    }

    /// Reads the table from a pack's trailer.
    ///
    /// # Errors
    /// [`RepoError::Damaged`] and storage errors.
    pub fn table_of(&self, pack: PackId, stored_bytes: u64) -> Result<PackTable> {
        let name = ObjectName::pack(pack);
        let tail = (PACK_TRAILER_BYTES + envelope::FOOTER_BYTES) as u64;
        let damaged = |reason: &str| RepoError::damaged_pack(pack, reason);
        let at = stored_bytes.checked_sub(tail).ok_or_else(|| damaged("it is too short"))?;
        self.check_header(pack, &name)?;
        let trailer = self.store.get_range(&name, at, PACK_TRAILER_BYTES as u32)?;
        let place = PackTrailer::parse(&trailer).ok_or_else(|| damaged("its trailer is wrong"))?;
        if place.table_offset.checked_add(u64::from(place.stored_len)).is_none_or(|end| end > at) {
            return Err(damaged("its trailer points outside"));
        }
        let sealed = self.store.get_range(&name, place.table_offset, place.stored_len)?;
        decode_table(&self.keys, pack, &place, &sealed)
    }

    /// Refuses a pack of a newer format, and one that stands under another's name.
    fn check_header(&self, pack: PackId, name: &ObjectName) -> Result<()> {
        self.header(pack, name).map(drop)
    }

    /// True when the pack was written together with its parity, so that parity that is missing was lost.
    ///
    /// # Errors
    /// Damage, storage errors.
    pub fn should_have_parity(&self, pack: PackId) -> Result<bool> {
        Ok(self.header(pack, &ObjectName::pack(pack))?.optional_features & PROTECTED != 0)
    }

    fn header(&self, pack: PackId, name: &ObjectName) -> Result<envelope::Header> {
        let bytes = self.store.get_range(name, 0, envelope::HEADER_BYTES as u32)?;
        let short = || RepoError::damaged_pack(pack, "its header is cut off");
        let bytes = bytes.first_chunk::<{ envelope::HEADER_BYTES }>().ok_or_else(short)?;
        let failed = |source| RepoError::Format { object: name.to_string(), source };
        let header = envelope::Header::from_bytes(bytes).map_err(failed)?;
        let ours = header.tag == ObjectTag::Pack && header.object_id == pack.0;
        if ours && header.repository == self.keys.repository() {
            Ok(header)
        } else {
            Err(RepoError::damaged_pack(pack, "its header belongs to another object"))
        }
    }

    /// The raw bytes of one blob.
    ///
    /// # Errors
    /// [`RepoError::Damaged`] and storage errors.
    pub fn blob(
        &self,
        index: &RepositoryIndex,
        number: PackNumber,
        table: &LoadedTable,
        ordinal: u32,
    ) -> Result<Vec<u8>> {
        let info = index.pack(number).ok_or_else(|| RepoError::Missing { what: format!("pack number {number}") })?;
        let (entry, offset) =
            table.blob(ordinal).ok_or_else(|| RepoError::damaged_pack(info.id, format!("it has no blob {ordinal}")))?;
        self.stored_blob(info, entry, offset, |stored| open_blob(&self.keys, info.id, ordinal, entry, stored))
    }

    /// One blob as a compressed unit: decrypted and authenticated, not decompressed. With its raw length.
    ///
    /// # Errors
    /// [`RepoError::Damaged`] and storage errors.
    pub fn packed_blob(
        &self,
        index: &RepositoryIndex,
        number: PackNumber,
        table: &LoadedTable,
        ordinal: u32,
    ) -> Result<(Vec<u8>, u32)> {
        let info = index.pack(number).ok_or_else(|| RepoError::Missing { what: format!("pack number {number}") })?;
        let (entry, offset) =
            table.blob(ordinal).ok_or_else(|| RepoError::damaged_pack(info.id, format!("it has no blob {ordinal}")))?;
        let context = BlobContext { object: info.id.0, ordinal, kind: entry.meta.kind(), raw_len: entry.raw_bytes };
        let damaged = |source| RepoError::damaged_pack(info.id, format!("blob {ordinal}: {source}"));
        let open = |stored: &[u8]| sealer_for(&self.keys, entry.meta).open(&context, stored).map_err(damaged);
        Ok((self.stored_blob(info, entry, offset, open)?, entry.raw_bytes))
    }

    /// A segment that holds the byte at an offset of a space.
    ///
    /// # Errors
    /// [`RepoError::Missing`] when no pack holds it; damage when none of those that do can be read.
    pub fn segment(&self, index: &RepositoryIndex, space: VersionId, offset: u64) -> Result<Arc<Segment>> {
        let mut failure = None;
        let mut parts: Vec<_> =
            index.space_parts(space).iter().filter(|p| p.start <= offset && offset < p.end).copied().collect();
        parts.sort_by_key(|p| index.pack(p.pack).map_or(2, |i| i.copy));
        for part in parts {
            match self.segment_in(index, part.pack, space, offset) {
                // in a hole: another pack may have the byte
                Ok(Some(found)) if found.bytes_at(offset).is_empty() => {}
                Ok(Some(found)) => {
                    if let Some(error) = failure {
                        self.note_healed(format!("{error}"));
                    }
                    return Ok(found);
                }
                Ok(None) => {}
                Err(error @ RepoError::PackGone { .. }) => return Err(error),
                Err(error) if error.concerns_one_object() => failure = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(failure.unwrap_or_else(|| RepoError::Missing { what: format!("byte {offset} of literal space {space}") }))
    }

    fn segment_in(
        &self,
        index: &RepositoryIndex,
        pack: PackNumber,
        space: VersionId,
        offset: u64,
    ) -> Result<Option<Arc<Segment>>> {
        let table = self.table(index, pack)?;
        let Some((ordinal, _, _)) = table.segment(space, offset) else { return Ok(None) };
        {
            let mut cache = locked(&self.segments);
            cache.tick += 1;
            let tick = cache.tick;
            if let Some((bytes, used)) = cache.entries.get_mut(&(pack, ordinal)) {
                *used = tick;
                return Ok(Some(Arc::clone(bytes)));
            }
        }
        let segment = Arc::new(self.literal_blob(index, pack, &table, ordinal)?);
        self.counters.decoded_bytes.fetch_add(segment.raw.len() as u64, Ordering::Relaxed);
        let mut cache = locked(&self.segments);
        cache.tick += 1;
        let tick = cache.tick;
        cache.make_room(segment.held_bytes(), self.segment_bytes_max);
        if cache.entries.insert((pack, ordinal), (Arc::clone(&segment), tick)).is_none() {
            cache.bytes += segment.held_bytes();
        }
        Ok(Some(segment))
    }

    /// Decodes one blob of literal bytes, past the cache.
    ///
    /// # Errors
    /// [`RepoError::Damaged`] and storage errors.
    pub fn literal_blob(
        &self,
        index: &RepositoryIndex,
        pack: PackNumber,
        table: &LoadedTable,
        ordinal: u32,
    ) -> Result<Segment> {
        let id = index.pack(pack).map(|p| p.id).unwrap_or_default();
        let damaged = |reason: String| RepoError::damaged_pack(id, format!("blob {ordinal}: {reason}"));
        let meta = table.blob(ordinal).map(|b| b.0.meta).ok_or_else(|| damaged("it does not exist".to_owned()))?;
        let raw = self.blob(index, pack, table, ordinal)?;
        Segment::new(meta, raw).map_err(|e| damaged(e.to_string()))
    }
}

impl SegmentCache {
    /// Drops the entries that were not used for longest until `incoming` fits.
    fn make_room(&mut self, incoming: usize, bytes_max: usize) {
        while self.bytes + incoming > bytes_max && !self.entries.is_empty() {
            let oldest = self.entries.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key);
            if let Some((bytes, _)) = oldest.and_then(|key| self.entries.remove(&key)) {
                self.bytes -= bytes.held_bytes();
            }
        }
    }
}
