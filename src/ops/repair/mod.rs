//! `repair packs` and `repair snapshots`: what is still whole is kept, what is damaged is put aside, what is lost is said.
//!
//! Invariants: nothing is deleted and no snapshot is changed. Damaged objects move below `quarantine/`; what takes
//! their place is written, read back and compared first. A repair of packs is a session without sources, as a prune is,
//! so that the two keep out of each other's way.

pub mod copies;
pub mod packs;
pub mod parity;
mod salvage;
mod second_copies;
mod snapshot_files;
pub mod snapshots;

use super::cancel::{Cancel, Cancelled};
use super::observer::{Event, Observer};
use super::repair_index::Local;
use super::verify::{Affected, VerifyError};
use crate::domain::id::SnapshotId;
use crate::domain::snapshot::{SourceRecord, StreamRole};
use crate::domain::system::{Clock, Random};
use crate::format::config_object::WriterParameters;
use crate::format::seal::Keys;
use crate::repository::error::RepoError;
use crate::repository::index_loader;
use crate::repository::reading::Reading;
use crate::repository::session::{self, BackupSession, SessionStart};
use crate::repository::snapshots::LoadedSnapshot;
use crate::storage::{self, DeleteStore, ReadStore, WriteStore};
use serde::Serialize;
use std::sync::Arc;

/// What a repair works with.
pub struct RepairMeans<'a> {
    /// The repository's objects.
    pub store: Arc<dyn DeleteStore>,
    /// Its keys.
    pub keys: Arc<Keys>,
    /// What the repository's writers agreed on.
    pub parameters: WriterParameters,
    /// For ids.
    pub random: Arc<dyn Random>,
    /// The time; for records only.
    pub clock: &'a dyn Clock,
    /// Watches.
    pub observer: &'a dyn Observer,
    /// Ends the run early.
    pub cancel: &'a Cancel,
    /// What this machine keeps about the repository.
    pub local: Local<'a>,
    /// Host name, for records.
    pub host: String,
    /// This process's id, for the session record.
    pub process_id: u32,
}

impl std::fmt::Debug for RepairMeans<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RepairMeans({})", self.store.location())
    }
}

/// A repair could not go on. What it had published by then is whole; everything else is as before.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The repository failed.
    #[error("The repository was not repaired")]
    Repository(#[from] RepoError),
    /// An index object must be made anew first: without it good copies would be overlooked.
    #[error("{object} cannot be read")]
    IndexDamaged {
        /// The object.
        object: String,
    },
    /// The index names no such pack.
    #[error("The index names no pack {pack}")]
    NoSuchPack {
        /// What was asked for.
        pack: String,
    },
    /// Another prune, repair or undelete is at work.
    #[error("Another maintenance run is at work: {who}")]
    Busy {
        /// Its host and process.
        who: String,
    },
    /// What was written does not give back what it must. Nothing was put aside.
    #[error("Nothing was repaired: the new form of {what} does not prove")]
    NotProved {
        /// The pack or stream.
        what: String,
        /// Why.
        reason: String,
    },
    /// The wish to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl From<storage::Error> for RepairError {
    fn from(error: storage::Error) -> Self {
        Self::Repository(error.into())
    }
}

impl From<VerifyError> for RepairError {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Repository(RepoError::Interrupted) => Self::Cancelled(Cancelled),
            VerifyError::Repository(error) => Self::Repository(error),
            VerifyError::Cancelled(cancelled) => Self::Cancelled(cancelled),
        }
    }
}

/// A stream of a snapshot that cannot be given back whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LostStream {
    /// The snapshot, source, stream, and files.
    #[serde(flatten)]
    pub stream: Affected,
    /// Tables that the stream holds, where it is a dump or an image of a database: any of them may be hit.
    pub tables: Vec<String>,
}

/// Adds to what was found the tables of databases.
fn lost_streams(affected: Vec<Affected>, snapshots: &[LoadedSnapshot]) -> Vec<LostStream> {
    let tables = |affected: &Affected| {
        let snapshot = snapshots.iter().find(|l| l.snapshot.id.hex() == affected.snapshot)?;
        let source = snapshot.snapshot.source(&affected.source)?;
        let is_data =
            |s: &SourceRecord| s.streams.iter().any(|s| s.file_name == affected.stream && s.role == StreamRole::Data);
        is_data(source).then(|| source.tables.iter().map(|t| t.table.clone()).collect())
    };
    affected.into_iter().map(|a| LostStream { tables: tables(&a).unwrap_or_default(), stream: a }).collect()
}

/// Loads the index as a reader does; a repair needs all of it.
fn open_reading(means: &RepairMeans<'_>) -> Result<Reading, RepairError> {
    let reading =
        Reading::open(Arc::clone(&means.store) as Arc<dyn ReadStore>, Arc::clone(&means.keys), means.local.cache)?;
    match reading.damaged_index.first() {
        None => Ok(reading),
        Some(object) => Err(RepairError::IndexDamaged { object: object.clone() }),
    }
}

/// Opens a session: of a maintenance run when there are no sources.
fn begin(means: &RepairMeans<'_>, sources: Vec<String>) -> Result<BackupSession, RepairError> {
    let start = SessionStart {
        id: SnapshotId(means.random.bytes()),
        host: means.host.clone(),
        process: means.process_id,
        started_ns: i64::try_from(means.clock.now().as_nanosecond()).unwrap_or(i64::MAX),
        sources,
    };
    let (writer, keys, random) =
        (Arc::clone(&means.store) as Arc<dyn WriteStore>, Arc::clone(&means.keys), Arc::clone(&means.random));
    let session = BackupSession::begin(writer, keys, random, &means.parameters, &start, |store, keys, excluded| {
        Ok(index_loader::load_without(store, keys, means.local.cache, excluded)?.0)
    });
    session.map_err(|error| {
        // best effort: what a dead session leaves is closed by the next run as well
        let _ = session::end(means.store.as_ref(), start.id);
        error.into()
    })
}

/// Fences the sessions of dead processes, and refuses to work beside another maintenance run than `own`.
fn refuse_beside_another(means: &RepairMeans<'_>, own: Option<SnapshotId>) -> Result<(), RepairError> {
    for id in session::fence_dead(means.store.as_ref())?.fenced {
        let message = format!("Closed run {} that ended without a snapshot", id.short());
        means.observer.event(&Event::Note { code: "session.closed", message: &message });
    }
    match session::other_maintenance(means.store.as_ref(), &means.keys, own)? {
        Some(who) => Err(RepairError::Busy { who }),
        None => Ok(()),
    }
}
