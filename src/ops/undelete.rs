//! `undelete`: makes a forgotten snapshot visible again, beside backups and beside a prune.
//!
//! It runs as a session, because that is what a prune waits for. The session's parts `start` and `saw` are durable
//! before the index is read, so whatever is condemned later is not deleted before the session has ended, and the
//! snapshots are listed again before it is. Then every version is opened and must need nothing that is condemned. Only
//! then the tombstone goes. The session ends by fencing itself: of two fences one succeeds, so if somebody else had
//! declared it dead meanwhile, its own fails, and the tombstone is written again.

use crate::domain::id::SnapshotId;
use crate::domain::system::{Clock, Random};
use crate::domain::time_spec::timestamp_ns;
use crate::format::config_object::WriterParameters;
use crate::format::seal::Keys;
use crate::repository::closure::{self, Coverage};
use crate::repository::condemned;
use crate::repository::error::RepoError;
use crate::repository::index_loader;
use crate::repository::session::{BackupSession, SessionStart};
use crate::repository::{snapshots, tombstones};
use crate::storage::{self, DeleteStore, ErrorKind, ObjectName, WriteStore};
use std::path::Path;
use std::sync::Arc;

/// What undeleting needs.
pub struct UndeleteMeans<'a, S> {
    /// The repository.
    pub store: Arc<S>,
    /// Its keys.
    pub keys: Arc<Keys>,
    /// What the repository's writers agreed on.
    pub parameters: WriterParameters,
    /// Ids.
    pub random: Arc<dyn Random>,
    /// The time.
    pub clock: &'a dyn Clock,
    /// Host name, for the session.
    pub host: String,
    /// Process id, for the session.
    pub process_id: u32,
    /// The folder for local caches.
    pub cache: Option<&'a Path>,
}

/// Why a snapshot stays forgotten.
#[derive(Debug, thiserror::Error)]
pub enum UndeleteError {
    /// It has no tombstone.
    #[error("Snapshot {} is not forgotten", .0.short())]
    NotForgotten(SnapshotId),
    /// Its record is gone.
    #[error("Snapshot {} was forgotten and a prune has removed it", .0.short())]
    Gone(SnapshotId),
    /// A prune deletes what it needs.
    #[error("A prune has condemned data of {source_name} that snapshot {} needs", .snapshot.short())]
    Condemned {
        /// The snapshot.
        snapshot: SnapshotId,
        /// The source.
        source_name: String,
    },
    /// The session was declared dead; the snapshot is forgotten as before.
    #[error("Another process took this run for dead; snapshot {} stays forgotten", .0.short())]
    Fenced(SnapshotId),
    /// The repository.
    #[error(transparent)]
    Repository(#[from] RepoError),
}

impl From<storage::Error> for UndeleteError {
    fn from(error: storage::Error) -> Self {
        Self::Repository(error.into())
    }
}

/// Makes a forgotten snapshot visible again. A damaged tombstone is removed, too: it hid nothing.
///
/// # Errors
/// [`UndeleteError`]; the snapshot is forgotten as before.
pub fn run<S: DeleteStore + 'static>(means: &UndeleteMeans<'_, S>, id: SnapshotId) -> Result<(), UndeleteError> {
    let name = ObjectName::tombstone(id);
    let tombstone = match means.store.get(&name, tombstones::OBJECT_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.kind == ErrorKind::NotFound => return Err(UndeleteError::NotForgotten(id)),
        Err(error) => return Err(error.into()),
    };
    let start = SessionStart {
        id: SnapshotId(means.random.bytes()),
        host: means.host.clone(),
        process: means.process_id,
        started_ns: timestamp_ns(means.clock.now()),
        sources: Vec::new(),
    };
    let session = BackupSession::begin(
        Arc::clone(&means.store) as Arc<dyn WriteStore>,
        Arc::clone(&means.keys),
        Arc::clone(&means.random),
        &means.parameters,
        &start,
        |store, keys, excluded| Ok(index_loader::load_without(store, keys, means.cache, excluded)?.0),
    )?;
    let result = check(means, &session, id).and_then(|()| reveal(means, &session, id, &tombstone));
    if result.is_err() {
        // Best effort: what a dead session leaves is closed by the next run as well.
        let _ = means.store.fence(start.id);
    }
    result
}

/// Everything that the snapshot needs is there and will stay.
fn check<S: DeleteStore>(
    means: &UndeleteMeans<'_, S>,
    session: &BackupSession,
    id: SnapshotId,
) -> Result<(), UndeleteError> {
    let loaded = match snapshots::load(means.store.as_ref(), &means.keys, id) {
        Ok(loaded) => loaded,
        Err(error) if !snapshots::list(means.store.as_ref())?.contains(&id) => {
            return Err(if error.is_damage() { UndeleteError::Gone(id) } else { error.into() });
        }
        Err(error) => return Err(error.into()),
    };
    let records = condemned::load_all(means.store.as_ref(), &means.keys)?;
    if records.iter().any(|record| record.snapshots.contains(&id)) {
        return Err(UndeleteError::Gone(id));
    }
    let condemned = !records.is_empty();
    let mut coverage = Coverage::default();
    for source in &loaded.snapshot.sources {
        for stream in &source.streams {
            match closure::check(session.index(), session.reader(), &mut coverage, stream.version) {
                Ok(()) => {}
                Err(_) if condemned => {
                    return Err(UndeleteError::Condemned { snapshot: id, source_name: source.name.clone() });
                }
                // Damage is an error here: what cannot be read is not brought back as if it could.
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Removes the tombstone and ends the session; puts the tombstone back when the session had been fenced.
fn reveal<S: DeleteStore>(
    means: &UndeleteMeans<'_, S>,
    session: &BackupSession,
    id: SnapshotId,
    tombstone: &[u8],
) -> Result<(), UndeleteError> {
    let name = ObjectName::tombstone(id);
    if !means.store.delete(&name)? {
        return Err(UndeleteError::NotForgotten(id));
    }
    if means.store.fence(session.id())? {
        return Ok(());
    }
    match means.store.put_new(&name, tombstone) {
        Err(error) if error.kind != ErrorKind::AlreadyExists => Err(error.into()),
        _ => Err(UndeleteError::Fenced(id)),
    }
}
