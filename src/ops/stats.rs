//! `stats`: sizes. Of the repository by kind of object, and of snapshots: how much they hold, how much of it only they
//! hold, and how much they added.

use super::cancel::{Cancel, Cancelled};
use super::observer::{Event, Observer, Progress};
use crate::domain::id::{SnapshotId, VersionId};
use crate::domain::snapshot::Snapshot;
use crate::repository::error::RepoError;
use crate::repository::index::SpacePart;
use crate::repository::reading::Reading;
use crate::storage::ObjectKind;
use serde::Serialize;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Objects of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KindStats {
    /// The kind, as its folder is called.
    pub kind: &'static str,
    /// How many.
    pub objects: u64,
    /// Their stored bytes.
    pub stored_bytes: u64,
}

/// Sizes of the whole repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepositoryStats {
    /// Snapshots.
    pub snapshots: u64,
    /// Series of snapshots.
    pub series: u64,
    /// Plain bytes of all snapshots together: what restoring each of them would write.
    pub plain_bytes: u64,
    /// Plain bytes that are kept, each once.
    pub unique_bytes: u64,
    /// Stored bytes of all objects, second copies included.
    pub stored_bytes: u64,
    /// Chunks that can be found by content; those that two runs stored at once may count twice.
    pub chunks: u64,
    /// Packs.
    pub packs: u64,
    /// Packs that are second copies, among them.
    pub second_copies: u64,
    /// By kind of object; kinds without objects are left out.
    pub kinds: Vec<KindStats>,
}

/// Sizes of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotStats {
    /// Its full id.
    #[serde(serialize_with = "as_hex")]
    pub id: SnapshotId,
    /// Plain bytes: what restoring it writes.
    pub plain_bytes: u64,
    /// Plain bytes that are kept for this snapshot alone.
    pub own_bytes: u64,
    /// Stored bytes that its run added.
    pub data_added: u64,
    /// Files, directories and other entries.
    pub entries: u64,
    /// Rows of all tables.
    pub rows: u64,
    /// By source, in run order.
    pub sources: Vec<SourceStats>,
}

/// Sizes of one source in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceStats {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: &'static str,
    /// Plain bytes.
    pub plain_bytes: u64,
    /// Stored bytes that the run added for it.
    pub data_added: u64,
    /// It failed: nothing of it is there.
    pub failed: bool,
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    /// The repository.
    #[error("The sizes cannot be gathered")]
    Repository(#[from] RepoError),
    /// The run was ended from outside.
    #[error("Interrupted")]
    Interrupted,
}

impl From<Cancelled> for StatsError {
    fn from(_: Cancelled) -> Self {
        Self::Interrupted
    }
}

fn as_hex<S: serde::Serializer>(id: &SnapshotId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&id.hex())
}

/// Sizes of the whole repository; `snapshots` are all of it.
///
/// # Errors
/// [`StatsError`].
pub fn repository(reading: &Reading, snapshots: &[Snapshot], cancel: &Cancel) -> Result<RepositoryStats, StatsError> {
    let mut kinds = Vec::new();
    for kind in ObjectKind::ALL {
        cancel.check()?;
        let (mut objects, mut stored_bytes) = (0, 0u64);
        for info in reading.store.list(kind).map_err(RepoError::from)? {
            objects += 1;
            stored_bytes += info.stored_bytes;
        }
        if objects > 0 {
            kinds.push(KindStats { kind: kind.folder(), objects, stored_bytes });
        }
    }
    let packs = reading.index.packs();
    let series: BTreeSet<_> = snapshots.iter().map(Snapshot::series).collect();
    Ok(RepositoryStats {
        snapshots: count(snapshots.len()),
        series: count(series.len()),
        plain_bytes: snapshots.iter().map(plain_bytes).fold(0, u64::saturating_add),
        unique_bytes: reading.index.versions().map(|v| covered_bytes(reading.index.space_parts(v))).sum(),
        stored_bytes: kinds.iter().map(|kind| kind.stored_bytes).sum(),
        chunks: reading.index.chunks().len(),
        packs: count(packs.len()),
        second_copies: count(packs.iter().filter(|pack| pack.copy != 0).count()),
        kinds,
    })
}

/// Sizes of the chosen snapshots; `all` are all snapshots of the repository, the chosen ones among them.
///
/// # Errors
/// [`StatsError`].
pub fn snapshots(
    reading: &Reading,
    all: &[Snapshot],
    chosen: &[SnapshotId],
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Vec<SnapshotStats>, StatsError> {
    let users = users_of_spaces(reading, all, observer, cancel)?;
    let mut own: HashMap<SnapshotId, u64> = HashMap::new();
    for (space, user) in users {
        if let User::Only(id) = user {
            *own.entry(id).or_default() += covered_bytes(reading.index.space_parts(space));
        }
    }
    let of_chosen = all.iter().filter(|snapshot| chosen.contains(&snapshot.id));
    Ok(of_chosen.map(|snapshot| one(snapshot, own.get(&snapshot.id).copied().unwrap_or(0))).collect())
}

/// Who needs a literal space.
#[derive(Clone, Copy, PartialEq, Eq)]
enum User {
    Only(SnapshotId),
    Several,
}

fn users_of_spaces(
    reading: &Reading,
    all: &[Snapshot],
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<HashMap<VersionId, User>, StatsError> {
    let mut users: HashMap<VersionId, User> = HashMap::new();
    let total_items = Some(count(all.len()));
    observer.event(&Event::PhaseStarted { phase: "reading recipes", total_bytes: None, total_items });
    for (done, snapshot) in all.iter().enumerate() {
        let mut spaces: HashSet<VersionId> = HashSet::new();
        for stream in snapshot.sources.iter().flat_map(|source| &source.streams) {
            cancel.check()?;
            spaces.extend(reading.stream(stream.version)?.closure());
        }
        for space in spaces {
            users.entry(space).and_modify(|user| *user = User::Several).or_insert(User::Only(snapshot.id));
        }
        observer.event(&Event::Progress(Progress { items_done: count(done + 1), total_items, ..Progress::default() }));
    }
    Ok(users)
}

fn one(snapshot: &Snapshot, own_bytes: u64) -> SnapshotStats {
    let entries = |source: &crate::domain::snapshot::SourceRecord| {
        source.files.as_ref().map_or(0, |files| files.files + files.directories + files.others)
    };
    let sources = snapshot.sources.iter().map(|source| SourceStats {
        name: source.name.clone(),
        kind: source.kind.as_str(),
        plain_bytes: source_bytes(source),
        data_added: source.streams.iter().map(|stream| stream.added_bytes).sum(),
        failed: source.failure.is_some(),
    });
    SnapshotStats {
        id: snapshot.id,
        plain_bytes: plain_bytes(snapshot),
        own_bytes,
        data_added: snapshot.stored_bytes,
        entries: snapshot.sources.iter().map(entries).sum(),
        rows: snapshot.sources.iter().flat_map(|source| &source.tables).map(|table| table.rows).sum(),
        sources: sources.collect(),
    }
}

/// Plain bytes of a snapshot. Trees and identities are left out: they are not restored as bytes.
pub fn plain_bytes(snapshot: &Snapshot) -> u64 {
    snapshot.sources.iter().map(source_bytes).fold(0, u64::saturating_add)
}

fn source_bytes(source: &crate::domain::snapshot::SourceRecord) -> u64 {
    let data = source.streams.iter().filter(|stream| !stream.role.is_about_files());
    data.map(|stream| stream.plain_bytes).fold(0, u64::saturating_add)
}

/// Bytes that at least one part covers: second copies and overlaps count once.
fn covered_bytes(parts: &[SpacePart]) -> u64 {
    let mut spans: Vec<(u64, u64)> = parts.iter().map(|part| (part.start, part.end)).collect();
    spans.sort_unstable();
    let (mut covered, mut reached) = (0, 0);
    for (start, end) in spans {
        covered += end.saturating_sub(start.max(reached));
        reached = reached.max(end);
    }
    covered
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_count_once() {
        let part = |start, end| SpacePart { start, end, pack: 0 };
        assert_eq!(covered_bytes(&[]), 0);
        assert_eq!(covered_bytes(&[part(0, 10), part(0, 10)]), 10);
        assert_eq!(covered_bytes(&[part(20, 30), part(0, 10), part(5, 12), part(6, 7)]), 22);
    }
}
