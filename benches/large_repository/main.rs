//! Fills a repository with the history of one stream: 10,000 snapshots an hour apart, 16 million chunks, every object
//! written by the program's own encoders and every reference, hash and chunk id true.
//!
//! `cargo bench --bench large_repository -- DIR [SNAPSHOTS]` fills the repository that `holdfast init` made in DIR without
//! encryption; `benches/large` does both and measures. Without arguments (as `cargo test --benches` starts it) it makes a
//! small one and decodes its newest version.
//!
//! The stream has 64 blocks of 100 chunks. Each state writes 16 of them anew, which ones is drawn; so states share blocks
//! with states that are up to some dozens of hours older, and full recipes, every 56 records, name dozens of literal
//! spaces. Chunks have 1 KiB instead of 64: their number is what costs an index, not their length. A state brings three
//! packs of data, which hold some 530 chunks each; packs of records hold those of 600 states, as a prune that brings small
//! packs together leaves them. So that no pack counts as small, each has 512 KiB of zeros that are stored as they are, and
//! holes are made of them in the file system. (That is why nothing is encrypted.)

use holdfast::domain::id::{Digest, RepositoryId, SnapshotId, VersionId};
use holdfast::domain::snapshot::{Snapshot, SourceKind, SourceRecord, StreamRecord, StreamRole, SystemInfo, TableRows};
use holdfast::domain::system::{Random, SeededRandom};
use holdfast::format::codec;
use holdfast::format::config_object::WriterParameters;
use holdfast::format::envelope::HEADER_BYTES;
use holdfast::format::records::{IndexedPack, Proof, SliceInfo, VersionHead};
use holdfast::format::seal::Keys;
use holdfast::format::slice::{self, OWN};
use holdfast::format::stream_hash::{StreamHash, StreamHasher};
use holdfast::recipe::run::{PARENT, Run, push};
use holdfast::recipe::sketch::{SKETCH_INPUT_BYTES, Sketch};
use holdfast::repository::index::RepositoryIndex;
use holdfast::repository::index_loader;
use holdfast::repository::open;
use holdfast::repository::pack_reader::PackReader;
use holdfast::repository::pack_writer::{INDEX_PACKS_MAX, NewBlob, PackWriter, name_packs};
use holdfast::repository::session::{BackupSession, SessionStart, prove_stream};
use holdfast::storage::local::LocalStore;
use holdfast::storage::memory::MemoryStore;
use holdfast::storage::{ObjectName, ReadStore, WriteStore};
use rustix::fs::FallocateFlags;
use std::error::Error;
use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An hour each: more than a year.
const SNAPSHOTS: u64 = 10_000;
const SNAPSHOTS_SMALL: u64 = 60;
const BLOCKS: usize = 64;
/// Blocks that one state writes anew.
const NEW_BLOCKS: usize = 16;
const BLOCK_CHUNKS: usize = 100;
const CHUNK_BYTES: usize = 1 << 10;
const BLOCK_BYTES: usize = BLOCK_CHUNKS * CHUNK_BYTES;
/// Chunks of one segment.
const SEGMENT_CHUNKS: usize = 16;
/// Packs of one state: blocks before these, then zeros.
const PACKS: [usize; 3] = [21, 42, BLOCKS];
const ZERO_BYTES: usize = 512 << 10;
/// A full recipe after so many records of edits.
const FULL_RECIPE_DEPTH: u32 = 55;
/// States whose records lie in one pack of each copy number.
const RECORD_STATES: u64 = 600;
/// 2025-01-01 00:30 UTC.
const BEGIN_NS: i64 = 1_735_691_400_000_000_000;
const HOUR_NS: i64 = 3_600_000_000_000;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Where a block of the stream is.
#[derive(Clone, Copy)]
struct Place {
    space: VersionId,
    start: u64,
}

/// The stream and everything that is written about it.
struct History {
    store: Arc<dyn WriteStore>,
    keys: Arc<Keys>,
    random: Arc<dyn Random>,
    data: PackWriter,
    records: PackWriter,
    written: Vec<IndexedPack>,
    /// Folder of the repository, if it has one.
    folder: Option<PathBuf>,
    packs: u64,
    chunks: u64,
    bytes: Vec<u8>,
    places: Vec<Place>,
    below: Option<VersionHead>,
    newest: Option<(SnapshotId, Digest)>,
}

impl History {
    fn new(store: Arc<dyn WriteStore>, keys: Arc<Keys>, folder: Option<PathBuf>) -> Self {
        let random: Arc<dyn Random> = Arc::new(SeededRandom::new(16));
        let writer = || PackWriter::new(Arc::clone(&store), Arc::clone(&keys), Arc::clone(&random));
        let (data, records) = (writer().for_rewriting(1 << 30), writer().for_rewriting(1 << 30));
        Self {
            data,
            records,
            written: Vec::new(),
            folder,
            packs: 0,
            chunks: 0,
            bytes: vec![0; BLOCKS * BLOCK_BYTES + PACKS.len() * ZERO_BYTES],
            places: vec![Place { space: VersionId::default(), start: 0 }; BLOCKS],
            below: None,
            newest: None,
            store,
            keys,
            random,
        }
    }

    /// One hour: new blocks, a record, a snapshot.
    fn state(&mut self, number: u64) -> Outcome<VersionId> {
        let version = VersionId(self.random.as_ref().bytes());
        let blocks = self.drawn_blocks();
        let before = self.places.clone();
        self.write_literals(version, &blocks)?;
        let mut hasher = StreamHasher::default();
        hasher.update(&self.bytes);
        let hash = hasher.finish();
        self.write_record(version, &blocks, &before, &hash)?;
        if number % RECORD_STATES == RECORD_STATES - 1 {
            let packs = self.records.finish_packs()?;
            self.take(packs)?;
        }
        self.snapshot(number, version, &hash)?;
        Ok(version)
    }

    fn drawn_blocks(&self) -> Vec<usize> {
        if self.below.is_none() {
            return (0..BLOCKS).collect();
        }
        let mut blocks: Vec<usize> = (0..BLOCKS).collect();
        for at in 0..NEW_BLOCKS {
            let [a, b] = self.random.as_ref().bytes::<2>();
            let other = at + usize::from(u16::from_le_bytes([a, b])) % (BLOCKS - at);
            blocks.swap(at, other);
        }
        blocks.truncate(NEW_BLOCKS);
        blocks.sort_unstable();
        blocks
    }

    /// Writes blocks with chunks that there have never been, and zeros at the end of each pack.
    fn write_literals(&mut self, version: VersionId, blocks: &[usize]) -> Outcome<()> {
        let (mut start, mut first) = (0u64, 0);
        for end in PACKS {
            let mut literal = Vec::new();
            for &block in blocks.iter().filter(|block| (first..end).contains(*block)) {
                let from = block_at(block);
                let Some(bytes) = self.bytes.get_mut(from..from + BLOCK_BYTES) else { continue };
                for chunk in bytes.chunks_exact_mut(CHUNK_BYTES) {
                    self.chunks += 1;
                    let word = self.chunks.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
                    chunk.chunks_exact_mut(word.len()).for_each(|part| part.copy_from_slice(&word));
                }
                if let Some(place) = self.places.get_mut(block) {
                    *place = Place { space: version, start: start + literal.len() as u64 };
                }
                literal.extend_from_slice(bytes);
            }
            for segment in literal.chunks(SEGMENT_CHUNKS * CHUNK_BYTES) {
                for (chunk, at) in segment.chunks(CHUNK_BYTES).zip((start..).step_by(CHUNK_BYTES)) {
                    self.data.add_chunk(self.keys.chunk_id(chunk), version, at, CHUNK_BYTES as u32)?;
                }
                self.data.add(0, NewBlob::Segment { space: version, start }, segment.to_vec(), 1)?;
                start += segment.len() as u64;
            }
            let blob = NewBlob::Segment { space: version, start };
            // a compressed unit of bytes as they are begins with a zero
            self.data.add_packed(0, blob, vec![0; ZERO_BYTES + 1], ZERO_BYTES as u32)?;
            start += ZERO_BYTES as u64;
            first = end;
            let packs = self.data.finish_packs()?;
            self.take(packs)?;
        }
        Ok(())
    }

    fn write_record(&mut self, version: VersionId, new: &[usize], before: &[Place], hash: &StreamHash) -> Outcome<()> {
        let below = self.below.take().filter(|head| head.depth < FULL_RECIPE_DEPTH);
        let (mut runs, mut spaces): (Vec<Run>, Vec<VersionId>) = (Vec::new(), Vec::new());
        let mut own = 0;
        for (block, place) in before.iter().enumerate() {
            let (dst, len) = (block_at(block) as u64, BLOCK_BYTES as u64);
            if new.binary_search(&block).is_ok() {
                push(&mut runs, dst, OWN, own, len);
                own += len;
            } else if below.is_some() {
                push(&mut runs, dst, PARENT, dst, len);
            } else {
                let known = spaces.iter().position(|space| *space == place.space);
                let at = known.unwrap_or_else(|| {
                    spaces.push(place.space);
                    spaces.len() - 1
                });
                push(&mut runs, dst, u32::try_from(at + 1)?, place.start, len);
            }
            if PACKS.contains(&(block + 1)) {
                push(&mut runs, dst + len, OWN, own, ZERO_BYTES as u64);
                own += ZERO_BYTES as u64;
            }
        }
        let encoded = slice::encode(&runs);
        let beginning = self.bytes.get(..SKETCH_INPUT_BYTES).unwrap_or(&self.bytes);
        let (run_count, bytes) = (runs.len() as u64, encoded.len() as u64);
        let head = VersionHead {
            version,
            generation: 0,
            parent: below.as_ref().map(|h| h.version),
            parent_bytes: below.as_ref().map_or(0, |h| h.plain_bytes),
            depth: below.as_ref().map_or(0, |h| h.depth + 1),
            chain_bytes: bytes + below.as_ref().map_or(0, |h| h.chain_bytes),
            flat_runs: run_count + below.as_ref().map_or(0, |h| h.flat_runs),
            plain_bytes: hash.plain_bytes,
            literal_bytes: own,
            spaces,
            slices: vec![SliceInfo { plain_bytes: hash.plain_bytes, literal_bytes: own }],
            proof: Proof::Stream { root: hash.root, leaves: hash.leaves.clone() },
            sketch: Sketch::of(&self.keys.sketch_key(), beginning),
            extensions: Vec::new(),
        };
        for copy in [1, 0] {
            let blob = NewBlob::Slice { version, generation: 0, sequence: 0 };
            self.records.add(copy, blob, encoded.clone(), 1)?;
            self.records.add(copy, NewBlob::Head { version, generation: 0 }, codec::encode(&head), 9)?;
        }
        self.below = Some(head);
        Ok(())
    }

    fn take(&mut self, packs: Vec<IndexedPack>) -> Outcome<()> {
        self.packs += packs.len() as u64;
        if let Some(folder) = &self.folder {
            packs.iter().try_for_each(|pack| make_hole(folder, pack))?;
        }
        self.written.extend(packs);
        if self.written.len() >= INDEX_PACKS_MAX {
            let waiting = std::mem::take(&mut self.written);
            name_packs(self.store.as_ref(), &self.keys, self.random.as_ref(), waiting)?;
        }
        Ok(())
    }

    /// The snapshot last; packs that nothing names yet make no difference to a reader of older ones.
    fn snapshot(&mut self, number: u64, version: VersionId, hash: &StreamHash) -> Outcome<()> {
        let id = SnapshotId(self.random.as_ref().bytes());
        let time_ns = BEGIN_NS + HOUR_NS * i64::try_from(number)?;
        let start = SessionStart {
            id,
            host: "bench".to_owned(),
            process: std::process::id(),
            started_ns: time_ns,
            sources: vec!["app.dump".to_owned()],
        };
        let (store, keys, random) = (Arc::clone(&self.store), Arc::clone(&self.keys), Arc::clone(&self.random));
        let empty = |_: &dyn WriteStore, _: &Arc<Keys>, _: &_| Ok(RepositoryIndex::default());
        let session = BackupSession::begin(store, keys, random, &WriterParameters::DEFAULT, &start, empty)?;
        let snapshot = Snapshot {
            id,
            time_ns,
            time_zone: "Europe/Berlin".to_owned(),
            started_ns: time_ns,
            finished_ns: time_ns + 2_000_000_000,
            system: SystemInfo {
                host: "bench".to_owned(),
                user: "root".to_owned(),
                os: "linux".to_owned(),
                os_version: "Debian GNU/Linux 12 (bookworm)".to_owned(),
                tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            },
            class: None,
            tags: Vec::new(),
            imported: false,
            suspect: None,
            git: None,
            project_root: None,
            scope: Vec::new(),
            sources: vec![source(version, hash)],
            heads: self.newest.take().into_iter().collect(),
            stored_bytes: 90_000,
            extensions: Vec::new(),
        };
        let digest = session.commit(&snapshot)?;
        self.newest = Some((id, digest));
        Ok(())
    }

    /// Names what is not named yet.
    fn finish(&mut self) -> Outcome<()> {
        let mut packs = self.data.finish_packs()?;
        packs.extend(self.records.finish_packs()?);
        self.packs += packs.len() as u64;
        packs.append(&mut self.written);
        name_packs(self.store.as_ref(), &self.keys, self.random.as_ref(), packs)?;
        Ok(())
    }
}

/// Where a block is in the stream.
fn block_at(block: usize) -> usize {
    block * BLOCK_BYTES + PACKS.iter().filter(|end| **end <= block).count() * ZERO_BYTES
}

/// Gives the space of zeros in a pack back to the file system. What it reads as stays the same.
fn make_hole(folder: &Path, pack: &IndexedPack) -> Outcome<()> {
    let mut at = HEADER_BYTES as u64;
    for blob in &pack.table.blobs {
        let length = u64::from(blob.stored_bytes);
        if blob.raw_bytes as usize == ZERO_BYTES {
            let path = folder.join(ObjectName::pack(pack.pack).as_str());
            let mode = path.metadata()?.permissions();
            std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
            let file = OpenOptions::new().write(true).open(&path)?;
            // some file systems have no holes: then the zeros take space
            let _ = rustix::fs::fallocate(
                &file,
                FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                at + 64,
                length - 128,
            );
            std::fs::set_permissions(&path, mode)?;
        }
        at += length;
    }
    Ok(())
}

fn source(version: VersionId, hash: &StreamHash) -> SourceRecord {
    let rows = |n: u64| TableRows { table: format!("public.table_{n}"), rows: 1000 * n };
    SourceRecord {
        name: "app.dump".to_owned(),
        kind: SourceKind::Stdin,
        location: "standard input".to_owned(),
        failure: None,
        streams: vec![StreamRecord {
            role: StreamRole::Data,
            file_name: "app.dump".to_owned(),
            version,
            plain_bytes: hash.plain_bytes,
            blake3: hash.root,
            sha256: None,
            added_bytes: 80_000,
            volatile: Vec::new(),
        }],
        reader_version: String::new(),
        server_version: None,
        tables: (1..=12).map(rows).collect(),
        files: None,
        warnings: Vec::new(),
        live_bytes: None,
        duration_ms: 2000,
    }
}

fn fill(store: Arc<dyn WriteStore>, keys: Arc<Keys>, folder: Option<PathBuf>, snapshots: u64) -> Outcome<VersionId> {
    let mut history = History::new(store, keys, folder);
    let mut newest = VersionId::default();
    for number in 0..snapshots {
        newest = history.state(number)?;
        if number % 1000 == 999 {
            println!("  {} snapshots, {} chunks, {} packs", number + 1, history.chunks, history.packs);
        }
    }
    history.finish()?;
    println!("{snapshots} snapshots, {} chunks, {} packs", history.chunks, history.packs);
    Ok(newest)
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [folder, rest @ ..] = arguments.as_slice() {
        let folder = PathBuf::from(folder);
        let repository = open::open(Arc::new(LocalStore::open(&folder)?), None)?;
        let snapshots = rest.first().map_or(Ok(SNAPSHOTS), |n| n.parse())?;
        fill(repository.store, repository.keys, Some(folder), snapshots)?;
        return Ok(());
    }
    let store = Arc::new(MemoryStore::default());
    let keys = Arc::new(Keys::public(RepositoryId([1; 16])));
    let newest = fill(Arc::clone(&store) as Arc<dyn WriteStore>, Arc::clone(&keys), None, SNAPSHOTS_SMALL)?;
    let (index, _) = index_loader::load(store.as_ref(), &keys, None)?;
    let packs = PackReader::new(store as Arc<dyn ReadStore>, keys, 1 << 20);
    prove_stream(&index, &packs, newest)?;
    Ok(())
}
