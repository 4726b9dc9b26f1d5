//! A backup's session: from `start` to the commit, in the order that prune relies on.
//!
//! 1. `start` is durable and marks the run alive.
//! 2. The condemned records are listed and written down as `saw`.
//! 3. Only then is the index read.
//! 4. Packs and index objects become durable.
//! 5. Every new version is decoded from storage and compared with the hashes of what was read.
//! 6. The snapshot record and its copy are written into the session.
//! 7. One rename turns the session into a snapshot.
//!
//! docs/format.md, "Sessions", says why this order.

use super::closure;
use super::condemned;
use super::error::{RepoError, Result};
use super::index::RepositoryIndex;
use super::pack_reader::{PackReader, SEGMENT_CACHE_BYTES};
use super::pack_writer::PackWriter;
use super::snapshots;
use super::stream_reader::{StreamReader, read_head};
use crate::domain::id::{Digest, PackId, SnapshotId, VersionId};
use crate::domain::snapshot::Snapshot;
use crate::domain::system::Random;
use crate::format::chunker::Chunker;
use crate::format::config_object::WriterParameters;
use crate::format::envelope::{Expected, Header, ObjectTag};
use crate::format::records::{KIND_SESSION, Proof};
use crate::format::seal::Keys;
use crate::format::sealed;
use crate::format::stream_hash::StreamHasher;
use crate::recipe::sketch::{SKETCH_COMMON_MIN, Sketch};
use crate::storage::{DeleteStore, ObjectKind, ObjectName, ReadStore, SessionGuard, SessionPart, WriteStore};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Largest part of a session, bytes.
const SESSION_BYTES_MAX: usize = 16 << 20;
/// Bytes decoded at a time when a version is proved.
const PROOF_BYTES: u64 = 2 << 20;

/// Who runs: the part `start` of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStart {
    /// The session.
    pub id: SnapshotId,
    /// Host name.
    pub host: String,
    /// Process id.
    pub process: u32,
    /// When it began, nanoseconds since 1970 UTC.
    pub started_ns: i64,
    /// Names of the sources it works on.
    pub sources: Vec<String>,
}

/// Condemned records that the run had seen before it read the index: the part `saw`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSaw {
    /// Ids of condemned records.
    pub condemned: Vec<[u8; 16]>,
}

/// A backup in progress.
pub struct BackupSession {
    pub(crate) store: Arc<dyn WriteStore>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) index: RepositoryIndex,
    pub(crate) reader: PackReader,
    pub(crate) writer: PackWriter,
    pub(crate) chunker: Chunker,
    guard: Box<dyn SessionGuard>,
    /// Something was lost once, or is about to go: a parent counts only when all of it is there.
    checks_parents: bool,
    added: HashMap<VersionId, u64>,
}

impl std::fmt::Debug for BackupSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BackupSession({})", self.guard.id())
    }
}

/// A session at its first step: others can see it, and it has not looked at anything yet.
pub struct Announced {
    store: Arc<dyn WriteStore>,
    keys: Arc<Keys>,
    guard: Box<dyn SessionGuard>,
}

impl std::fmt::Debug for Announced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Announced({})", self.guard.id())
    }
}

fn session_header(keys: &Keys, id: SnapshotId, tag: ObjectTag) -> Header {
    Header::new(tag, keys.repository(), id.0, keys.suite().number())
}

fn beyond_limits<T>(_: T) -> RepoError {
    RepoError::Limit { what: "A session record".to_owned() }
}

impl Announced {
    /// Step 1: the part `start` is durable and marks the run alive.
    ///
    /// # Errors
    /// Storage errors.
    pub fn new(store: Arc<dyn WriteStore>, keys: Arc<Keys>, start: &SessionStart) -> Result<Self> {
        let header = session_header(&keys, start.id, ObjectTag::SessionStart);
        let bytes = sealed::encode(&header, keys.meta(), KIND_SESSION, 0, start).map_err(beyond_limits)?;
        let guard = store.begin_session(start.id, &bytes)?;
        Ok(Self { store, keys, guard })
    }

    /// The session's id.
    pub fn id(&self) -> SnapshotId {
        self.guard.id()
    }

    /// Steps 2 and 3.
    ///
    /// # Errors
    /// Storage errors; damage of an index object that cannot be made good from the packs.
    pub fn open(
        self,
        random: Arc<dyn Random>,
        parameters: &WriterParameters,
        load: impl FnOnce(&dyn WriteStore, &Arc<Keys>, &HashSet<PackId>) -> Result<RepositoryIndex>,
    ) -> Result<BackupSession> {
        let Self { store, keys, guard } = self;
        let ids = condemned::list(store.as_ref())?;
        let mut excluded = HashSet::new();
        for &id in &ids {
            // a record that cannot be read ends the run: it cannot know what to leave alone
            excluded.extend(condemned::load(store.as_ref(), &keys, id)?.into_iter().flat_map(|r| r.packs));
        }
        let saw = SessionSaw { condemned: ids.iter().map(|id| id.0).collect() };
        let header = session_header(&keys, guard.id(), ObjectTag::SessionSaw);
        let bytes = sealed::encode(&header, keys.meta(), KIND_SESSION, 1, &saw).map_err(beyond_limits)?;
        store.put_new(&ObjectName::session(guard.id(), SessionPart::Saw), &bytes)?;
        let index = load(store.as_ref(), &keys, &excluded)?;
        // after the index: a repair puts the old index objects aside, so an index without them comes with this list
        let checks_parents = !excluded.is_empty() || !store.list(ObjectKind::Quarantine)?.is_empty();
        let reader = PackReader::new(Arc::clone(&store) as Arc<_>, Arc::clone(&keys), SEGMENT_CACHE_BYTES);
        let writer =
            PackWriter::new(Arc::clone(&store), Arc::clone(&keys), Arc::clone(&random)).with_target(parameters);
        let chunker = Chunker::new(&keys.gear_table(), parameters);
        let added = HashMap::new();
        Ok(BackupSession { store, keys, random, index, reader, writer, chunker, guard, checks_parents, added })
    }
}

impl BackupSession {
    /// Opens a session: steps 1 to 3.
    ///
    /// # Errors
    /// Storage errors; damage of an index object that cannot be made good from the packs.
    pub fn begin(
        store: Arc<dyn WriteStore>,
        keys: Arc<Keys>,
        random: Arc<dyn Random>,
        parameters: &WriterParameters,
        start: &SessionStart,
        load: impl FnOnce(&dyn WriteStore, &Arc<Keys>, &HashSet<PackId>) -> Result<RepositoryIndex>,
    ) -> Result<Self> {
        Announced::new(store, keys, start)?.open(random, parameters, load)
    }

    /// The session's id: the id of the snapshot to be.
    pub fn id(&self) -> SnapshotId {
        self.guard.id()
    }

    /// The index and what keeps the session alive, for a run that writes no snapshot.
    pub(crate) fn into_parts(self) -> (RepositoryIndex, Box<dyn SessionGuard>) {
        (self.index, self.guard)
    }

    /// The index the run works with.
    pub fn index(&self) -> &RepositoryIndex {
        &self.index
    }

    /// The reader the run works with.
    pub fn reader(&self) -> &PackReader {
        &self.reader
    }

    /// Opens a version as a parent, if its whole closure can be relied on. Damage makes it unusable, not an error:
    /// the stream is then stored in full and the repository heals.
    ///
    /// # Errors
    /// Storage errors other than damage.
    pub fn open_parent(&self, version: VersionId) -> Result<Option<StreamReader>> {
        match StreamReader::open(&self.index, &self.reader, version) {
            // beside a prune a version may have lost a part that nobody else needed; after a repair its bytes may be gone,
            // and a file that did not change would be copied from there without being read
            Ok(_) if self.checks_parents && !closure::is_complete(&self.index, &self.reader, version)? => Ok(None),
            Ok(reader) => Ok(Some(reader)),
            Err(error) if error.is_damage() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Of the candidates, the version whose beginning resembles the sketch most, if any does.
    pub(crate) fn most_alike(&self, sketch: &Sketch, candidates: &[VersionId]) -> Result<Option<StreamReader>> {
        let mut best: Option<(usize, VersionId)> = None;
        for &version in candidates {
            let head = match read_head(&self.index, &self.reader, version) {
                Ok((head, _)) => head,
                Err(error) if error.is_damage() => continue,
                Err(error) => return Err(error),
            };
            let common = head.sketch.common(sketch);
            let enough = SKETCH_COMMON_MIN.min(sketch.0.len().max(1));
            if common >= enough && best.is_none_or(|(most, _)| common > most) {
                best = Some((common, version));
            }
        }
        best.map_or(Ok(None), |(_, version)| self.open_parent(version))
    }

    /// Takes note of packs that the writer finished.
    pub(crate) fn absorb_finished(&mut self) {
        for (pack, index) in self.writer.take_finished() {
            for blob in &pack.table.blobs {
                let number = blob.meta.owner();
                if let Some(&id) = pack.table.ids.get(number as usize) {
                    *self.added.entry(id).or_default() += u64::from(blob.stored_bytes);
                }
            }
            self.index.add_pack(&pack, index);
        }
    }

    /// Step 4: everything written so far is durable and indexed.
    ///
    /// # Errors
    /// Storage errors; damage found when reading back.
    pub fn flush(&mut self) -> Result<()> {
        self.writer.flush()?;
        self.absorb_finished();
        Ok(())
    }

    /// Stored bytes that a version added, second copies included. Complete after [`Self::flush`].
    pub fn added_bytes(&self, version: VersionId) -> u64 {
        self.added.get(&version).copied().unwrap_or(0)
    }

    /// Stored bytes of all packs and index objects of this run.
    pub fn stored_bytes(&self) -> u64 {
        self.writer.stored_bytes()
    }

    /// Step 5: decodes a version from storage and compares it with the hashes taken while it was read.
    ///
    /// # Errors
    /// [`RepoError::ProofFailed`], damage, storage errors.
    pub fn prove(&self, version: VersionId) -> Result<()> {
        prove_stream(&self.index, &self.reader, version)
    }

    /// Steps 6 and 7. Returns the digest of the record.
    ///
    /// # Errors
    /// Storage errors; [`crate::storage::ErrorKind::Fenced`] when the session was declared dead.
    pub fn commit(self, snapshot: &Snapshot) -> Result<Digest> {
        let mut digest = Digest::default();
        for (copy, part) in [(0u8, SessionPart::Manifest), (1, SessionPart::ManifestCopy)] {
            let bytes = snapshots::encode(&self.keys, snapshot, copy)?;
            if snapshots::decode(&self.keys, snapshot.id, copy, &bytes)? != *snapshot {
                return Err(RepoError::ProofFailed {
                    what: "the snapshot record".to_owned(),
                    reason: "it decodes to another record".to_owned(),
                });
            }
            if copy == 0 {
                digest = Digest(*blake3::hash(&bytes).as_bytes());
            }
            self.store.put_new(&ObjectName::session(snapshot.id, part), &bytes)?;
        }
        // What it builds on may have been named by a run that died before the name was durable.
        self.store.settle(ObjectKind::Index)?;
        self.store.commit(self.guard.as_ref())?;
        Ok(digest)
    }
}

/// Decodes a whole version and compares it with its proof. For the contents of files only the length can be compared
/// here; each file is proved by its hash in the tree.
///
/// # Errors
/// [`RepoError::ProofFailed`], damage, storage errors.
pub fn prove_stream(index: &RepositoryIndex, packs: &PackReader, version: VersionId) -> Result<()> {
    let mut reader = StreamReader::open(index, packs, version)?;
    let proof = reader.head().proof.clone();
    let (mut at, total) = (0, reader.plain_bytes());
    let mut hasher = StreamHasher::default();
    let mut buffer = Vec::new();
    while at < total {
        let to = (at + PROOF_BYTES).min(total);
        buffer.clear();
        reader.read(index, packs, at, to, &mut buffer)?;
        hasher.update(&buffer);
        at = to;
    }
    let hash = hasher.finish();
    let failed = |reason: String| Err(RepoError::ProofFailed { what: format!("version {version}"), reason });
    match proof {
        Proof::Stream { root, leaves } if root != hash.root || leaves != hash.leaves => {
            let leaf = leaves.iter().zip(&hash.leaves).position(|(a, b)| a != b).unwrap_or(0);
            failed(format!("the hashes differ in MiB {leaf}"))
        }
        _ if hash.plain_bytes != total => failed("the lengths differ".to_owned()),
        _ => Ok(()),
    }
}

/// Sessions that have not committed, with a word on whether they live.
///
/// # Errors
/// Storage errors.
pub fn open_sessions(store: &dyn WriteStore) -> Result<Vec<(SnapshotId, bool)>> {
    store.list_runs(ObjectKind::Session)?.into_iter().map(|id| Ok((id, store.session_is_alive(id)?))).collect()
}

/// What [`fence_dead`] found.
#[derive(Debug, Default)]
pub struct Swept {
    /// Dead sessions that were fenced now. What they left is still there: see [`end`].
    pub fenced: Vec<SnapshotId>,
    /// Living sessions.
    pub living: Vec<SnapshotId>,
}

/// Fences the sessions of dead processes, so that nobody waits for them. One that is in neither list ended meanwhile.
///
/// # Errors
/// Storage errors.
pub fn fence_dead(store: &dyn WriteStore) -> Result<Swept> {
    let mut swept = Swept::default();
    for (id, alive) in open_sessions(store)? {
        if alive {
            swept.living.push(id);
        } else if store.fence(id)? {
            swept.fenced.push(id);
        }
    }
    Ok(swept)
}

/// The living maintenance run other than `own`, for people: a session without sources.
///
/// # Errors
/// Storage errors.
pub fn other_maintenance(store: &dyn WriteStore, keys: &Keys, own: Option<SnapshotId>) -> Result<Option<String>> {
    for (id, alive) in open_sessions(store)? {
        if alive
            && Some(id) != own
            && let Ok(start) = load_start(store, keys, id)
            && start.sources.is_empty()
        {
            return Ok(Some(format!("process {} on {}", start.process, start.host)));
        }
    }
    Ok(None)
}

/// Ends a session that writes no snapshot, and removes what it left.
///
/// # Errors
/// Storage errors.
pub fn end(store: &dyn DeleteStore, id: SnapshotId) -> Result<()> {
    store.fence(id)?;
    store.remove_run(ObjectKind::Fenced, id)?;
    Ok(())
}

/// Who runs a session.
///
/// # Errors
/// Storage errors, damage.
pub fn load_start(store: &dyn ReadStore, keys: &Keys, id: SnapshotId) -> Result<SessionStart> {
    load_part(store, keys, id, SessionPart::Start, ObjectTag::SessionStart, 0)
}

/// Which condemned records a session had seen before it read the index.
///
/// # Errors
/// Storage errors, damage; [`crate::storage::ErrorKind::NotFound`] while it has not been written.
pub fn load_saw(store: &dyn ReadStore, keys: &Keys, id: SnapshotId) -> Result<SessionSaw> {
    load_part(store, keys, id, SessionPart::Saw, ObjectTag::SessionSaw, 1)
}

fn load_part<T: DeserializeOwned>(
    store: &dyn ReadStore,
    keys: &Keys,
    id: SnapshotId,
    part: SessionPart,
    tag: ObjectTag,
    ordinal: u32,
) -> Result<T> {
    let name = ObjectName::session(id, part);
    let bytes = store.get(&name, SESSION_BYTES_MAX as u64)?;
    let expected = Expected { repository: Some(keys.repository()), object_id: Some(id.0), ..Expected::any(tag) };
    let (_, record) = sealed::decode::<T, SESSION_BYTES_MAX>(&bytes, &expected, keys.meta(), KIND_SESSION, ordinal)
        .map_err(|source| RepoError::Format { object: name.to_string(), source })?;
    Ok(record)
}
