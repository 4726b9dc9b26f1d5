//! Drill: sources of a snapshot are restored somewhere where nothing depends on it, proved, timed, and removed again.
//!
//! PostgreSQL goes into a scratch database of a temporary cluster, or of a server that the user names; SQLite and files
//! go into a temporary folder; what programs gave is decoded and compared with its proof. A source that fails never
//! stops the others. Nothing but scratch things that the drill made itself is ever written or removed.

mod large;
mod postgres;

use super::cancel::{Cancel, Cancelled};
use super::observer::{Event, Observer};
use super::proof::{self, Proof, TableProof, TreeOptions};
use super::restore::{self, Kinds, Selection};
use crate::domain::snapshot::{Snapshot, SourceKind, SourceRecord, StreamRecord, StreamRole};
use crate::domain::system::Random;
use crate::repository::error::RepoError;
use crate::repository::reading::{CopyError, Reading};
use crate::source::SourceError;
use crate::source::postgres::client::ClientSearch;
use crate::source::postgres::connect::Connection;
use crate::source::process::Processes;
use crate::target::cluster::{ClusterError, ScratchFolder};
use crate::target::database::TargetError;
use crate::target::files::Options as AttributeOptions;
use crate::target::sqlite::SqliteRestore;
use serde::Serialize;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Free space that a scratch folder must have beyond what is restored.
const SPARE_BYTES: u64 = 64 << 20;

/// What a drill works with.
pub struct Means<'a> {
    /// The repository.
    pub reading: &'a Reading,
    /// Starts programs.
    pub processes: &'a dyn Processes,
    /// For names that nobody has, and keys of proofs.
    pub random: &'a dyn Random,
    /// Where PostgreSQL's client and server programs are.
    pub search: &'a ClientSearch,
    /// The server that scratch databases are made on; none: a temporary cluster.
    pub server: Option<&'a Connection>,
    /// The database that a source is, as far as this machine knows.
    pub live: &'a dyn Fn(&SourceRecord) -> Option<Connection>,
    /// Where scratch folders are made.
    pub temp_dir: &'a Path,
    /// Who watches.
    pub observer: &'a dyn Observer,
    /// The wish to stop.
    pub cancel: &'a Cancel,
}

impl std::fmt::Debug for Means<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Means({})", self.temp_dir.display())
    }
}

/// How the drill of a source ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Restored, and equal to what was saved.
    Equal,
    /// Restored, and not equal.
    Different,
    /// Not restored, or not to be compared.
    Failed,
}

/// The drill of one source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceDrill {
    /// The source.
    pub source: String,
    /// Its kind.
    pub kind: SourceKind,
    /// The snapshot.
    pub snapshot_id: String,
    /// Where it was restored to, for people.
    pub place: String,
    /// How it ended.
    pub proof: Outcome,
    /// Recovery time: milliseconds from the first byte read to the last thing restored, a server that is started for it
    /// among it and the proof not.
    #[serde(skip)]
    pub restore_time: Duration,
    /// Time that the proof took.
    #[serde(skip)]
    pub proof_time: Duration,
    /// Plain bytes restored.
    pub bytes_restored: u64,
    /// Rows of each table.
    pub tables: Vec<TableProof>,
    /// What differs; at most [`proof::DIFFERENCES_LISTED_MAX`].
    pub differences: Vec<String>,
    /// How much differs.
    pub difference_count: u64,
    /// What was not compared or restored differently, and why.
    pub notes: Vec<String>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// Why a source could not be drilled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The repository cannot be read.
    #[error(transparent)]
    Repository(#[from] RepoError),
    /// The restore failed.
    #[error(transparent)]
    Restore(restore::Error),
    /// The scratch database cannot be made or filled.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A server or a client program cannot be used.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// There is no temporary cluster.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Nothing can be said about what was restored.
    #[error(transparent)]
    Proof(proof::Error),
    /// Not enough space for the scratch copy. Nothing was made.
    #[error("{} has {} free, and the restore of {source_name} needs about {}", path.display(), crate::domain::units::format_size(*.free), crate::domain::units::format_size(*.needed))]
    NoSpace {
        /// The source.
        source_name: String,
        /// Where the space is missing.
        path: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// The scratch server is older than what was dumped. Nothing was made.
    #[error("The scratch server {target} has version {server}, and the dump is of version {dump}")]
    OlderServer {
        /// The server.
        target: String,
        /// Its version.
        server: u32,
        /// The version that was dumped.
        dump: u32,
    },
    /// What was made as a scratch database is the source's own.
    #[error("The scratch database {target} is the source's own database")]
    OwnDatabase {
        /// The database.
        target: String,
    },
    /// The source failed when the snapshot was made, so there is nothing to restore.
    #[error("Source {name} failed when the snapshot was made: {reason}")]
    NotSaved {
        /// The source.
        name: String,
        /// Why it failed.
        reason: String,
    },
    /// Some of it is lost in the repository.
    #[error("{count} files of source {name} are damaged in the repository; the first: {first}")]
    Lost {
        /// The source.
        name: String,
        /// How many.
        count: u64,
        /// The first.
        first: String,
    },
    /// The run was ended from outside.
    #[error("The drill was interrupted")]
    Interrupted,
}

impl From<Cancelled> for Error {
    fn from(_: Cancelled) -> Self {
        Self::Interrupted
    }
}

impl From<restore::Error> for Error {
    fn from(error: restore::Error) -> Self {
        match error {
            restore::Error::Repository(error) => Self::Repository(error),
            restore::Error::Database(error) => Self::Target(error),
            restore::Error::Interrupted => Self::Interrupted,
            other => Self::Restore(other),
        }
    }
}

impl From<proof::Error> for Error {
    fn from(error: proof::Error) -> Self {
        match error {
            proof::Error::Repository(error) => Self::Repository(error),
            proof::Error::Interrupted => Self::Interrupted,
            other => Self::Proof(other),
        }
    }
}

/// What a good restore and its proof gave.
struct Done {
    place: String,
    restore_time: Duration,
    proof_time: Duration,
    bytes_restored: u64,
    proof: Proof,
}

/// Drills one source of a snapshot. The second value says why it failed, if it did.
pub fn run(means: &Means<'_>, snapshot: &Snapshot, source: &SourceRecord) -> (SourceDrill, Option<Error>) {
    means.observer.event(&Event::SourceStarted { source: &source.name, kind: source.kind });
    let done = match (&source.failure, source.kind) {
        (Some(reason), _) => Err(Error::NotSaved { name: source.name.clone(), reason: reason.clone() }),
        (None, SourceKind::Postgres) => postgres::drill(means, source),
        (None, SourceKind::Sqlite) => sqlite(means, source),
        (None, SourceKind::Files) => files(means, snapshot, source),
        (None, SourceKind::Command | SourceKind::Stdin) => bytes(means, source),
    };
    // What was cut short says many things; the reason is one.
    let done = if means.cancel.is_cancelled() { Err(Error::Interrupted) } else { done };
    let mut drill = SourceDrill {
        source: source.name.clone(),
        kind: source.kind,
        snapshot_id: snapshot.id.hex(),
        place: String::new(),
        proof: Outcome::Failed,
        restore_time: Duration::ZERO,
        proof_time: Duration::ZERO,
        bytes_restored: 0,
        tables: Vec::new(),
        differences: Vec::new(),
        difference_count: 0,
        notes: Vec::new(),
        failure: None,
    };
    match done {
        Ok(done) => {
            drill.place = done.place;
            drill.proof = if done.proof.equal { Outcome::Equal } else { Outcome::Different };
            (drill.restore_time, drill.proof_time) = (done.restore_time, done.proof_time);
            drill.bytes_restored = done.bytes_restored;
            (drill.tables, drill.notes) = (done.proof.tables, done.proof.notes);
            (drill.differences, drill.difference_count) = (done.proof.differences, done.proof.difference_count);
            means.observer.event(&Event::SourceFinished { source: &source.name, failure: None });
            (drill, None)
        }
        Err(error) => {
            drill.failure = Some(error.to_string());
            let failure = drill.failure.as_deref();
            means.observer.event(&Event::SourceFinished { source: &source.name, failure });
            (drill, Some(error))
        }
    }
}

fn sqlite(means: &Means<'_>, source: &SourceRecord) -> Result<Done, Error> {
    let stream = data_stream(source)?;
    require_space(means.temp_dir, source, stream.plain_bytes)?;
    let folder = ScratchFolder::create(means.temp_dir, &unique(means.random))?;
    let path = folder.path().join("database");
    restoring(means, stream.plain_bytes);
    let began = Instant::now();
    let mut restore = SqliteRestore::create(&path)?;
    copy(means, stream, |bytes| restore.write(bytes))?;
    // The rows are compared by the proof.
    restore.finish(&[])?;
    let restore_time = began.elapsed();
    proving(means);
    let began = Instant::now();
    let proof = proof::sqlite(means.reading, source, &path, means.cancel)?;
    let bytes_restored = stream.plain_bytes;
    Ok(Done { place: "a temporary file".into(), restore_time, proof_time: began.elapsed(), bytes_restored, proof })
}

fn files(means: &Means<'_>, snapshot: &Snapshot, source: &SourceRecord) -> Result<Done, Error> {
    let content = source.streams.iter().filter(|s| s.role == StreamRole::Content).map(|s| s.plain_bytes).sum();
    require_space(means.temp_dir, source, content)?;
    let folder = ScratchFolder::create(means.temp_dir, &unique(means.random))?;
    let target = folder.path().join("files");
    let attributes = AttributeOptions::for_this_user();
    let selection = Selection { sources: vec![source.name.clone()], kinds: Kinds::All, ..Selection::default() };
    let options = restore::Options { target: target.clone(), existing: None, selection, dry_run: false, attributes };
    restoring(means, content);
    let began = Instant::now();
    let report = restore::run(means.reading, snapshot, &[], &options, means.observer, means.cancel)?;
    let restore_time = began.elapsed();
    if let Some(first) = report.lost.first() {
        let first = first.path.clone().unwrap_or_else(|| first.reason.clone());
        return Err(Error::Lost { name: source.name.clone(), count: report.lost_count, first });
    }
    proving(means);
    let began = Instant::now();
    let io = |source| Error::Proof(proof::Error::Io { path: target.clone(), source });
    let root = target.canonicalize().map_err(io)?;
    let place = |path: &[u8]| {
        let below = path.strip_prefix(b"/").unwrap_or(path);
        Some(if below.is_empty() {
            root.as_os_str().as_bytes().to_vec()
        } else {
            root.join(std::ffi::OsStr::from_bytes(below)).into_os_string().into_encoded_bytes()
        })
    };
    let tree =
        TreeOptions { owner: attributes.owner, xattrs: attributes.xattrs, devices: attributes.devices, extras: true };
    let mut proof = proof::tree(means.reading, source, &place, tree, means.cancel)?;
    if !attributes.owner {
        proof.notes.push("Owners were not restored or compared: only root can".to_owned());
    }
    let bytes_restored = report.bytes_restored;
    Ok(Done { place: "a temporary folder".into(), restore_time, proof_time: began.elapsed(), bytes_restored, proof })
}

/// What a program gave means something to that program alone: every byte is decoded and compared with its proof.
fn bytes(means: &Means<'_>, source: &SourceRecord) -> Result<Done, Error> {
    let stream = data_stream(source)?;
    restoring(means, stream.plain_bytes);
    let began = Instant::now();
    copy(means, stream, |_| Ok(()))?;
    let notes =
        vec!["The bytes were compared with their hash; only the program they came from can say more".to_owned()];
    Ok(Done {
        place: "nowhere".into(),
        restore_time: began.elapsed(),
        proof_time: Duration::ZERO,
        bytes_restored: stream.plain_bytes,
        proof: Proof { equal: true, notes, ..Proof::default() },
    })
}

fn restoring(means: &Means<'_>, total: u64) {
    means.observer.event(&Event::PhaseStarted { phase: "restoring", total_bytes: Some(total), total_items: None });
}

fn proving(means: &Means<'_>) {
    means.observer.event(&Event::PhaseStarted { phase: "proving", total_bytes: None, total_items: None });
}

fn data_stream(source: &SourceRecord) -> Result<&StreamRecord, RepoError> {
    let missing = || RepoError::Missing { what: format!("The data of source {}", source.name) };
    source.streams.iter().find(|s| s.role == StreamRole::Data).ok_or_else(missing)
}

/// Copies a whole stream, which is compared with its proof.
fn copy(
    means: &Means<'_>,
    stream: &StreamRecord,
    mut write: impl FnMut(&[u8]) -> Result<(), TargetError>,
) -> Result<(), Error> {
    means.reading.packs.follow_index();
    let mut bytes_done = 0;
    let copied = means.reading.copy_stream(stream, |bytes| {
        means.cancel.check().map_err(Error::from)?;
        write(bytes).map_err(Error::from)?;
        bytes_done += bytes.len() as u64;
        means.observer.event(&Event::Progress(super::observer::Progress {
            bytes_done,
            total_bytes: Some(stream.plain_bytes),
            ..Default::default()
        }));
        Ok(())
    });
    copied.map_err(|error| match error {
        CopyError::Repository(error) => Error::Repository(error),
        CopyError::Sink(error) => error,
    })
}

/// Eight letters.
fn unique(random: &dyn Random) -> String {
    random.bytes::<4>().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes sure that a folder can take so many bytes.
fn require_space(path: &Path, source: &SourceRecord, bytes: u64) -> Result<(), Error> {
    let needed = bytes.saturating_add(SPARE_BYTES);
    // A system that does not say is believed to have space; it will say so when it has none.
    let Ok(stat) = rustix::fs::statvfs(path) else { return Ok(()) };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < needed {
        return Err(Error::NoSpace { source_name: source.name.clone(), path: path.to_owned(), needed, free });
    }
    Ok(())
}
