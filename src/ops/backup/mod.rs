//! Backup: many sources, one snapshot, one commit.
//!
//! The line: its turn taken -> session opened -> each source becomes streams, stored against its parent, and is compared
//! with its older snapshots -> everything flushed -> every new version decoded from storage and compared -> snapshot
//! record written and committed -> record read again.
//! A source that fails is recorded as failed and the run goes on; a repository error ends the run and nothing is
//! committed.

mod files;
mod identities;
mod judge;
pub(crate) mod prove;
mod sample;
mod streams;
mod turn;

pub use turn::{Holder, Turn, TurnMeans, take_turn};

use super::cancel::Cancel;
use super::observer::{Event, Observer};
use crate::domain::id::{SnapshotId, VersionId};
use crate::domain::original::Original;
use crate::domain::snapshot::{
    GitInfo, PRE_RESTORE, Snapshot, SourceKind, SourceRecord, SourceWarning, StreamRole, SystemInfo,
};
use crate::domain::system::{Clock, Random};
use crate::format::config_object::WriterParameters;
use crate::format::seal::Keys;
use crate::format::{originals, samples};
use crate::repository::error::RepoError;
use crate::repository::session::BackupSession;
use crate::repository::snapshots::LoadedSnapshot;
use crate::repository::{index_loader, snapshots};
use crate::source::SourceError;
use crate::source::original::{Examined, OriginalOptions};
use crate::source::postgres::client::ClientSearch;
use crate::source::postgres::connect::Connection;
use crate::source::process::{ProcessSpec, Processes};
use crate::source::sqlite::SqliteOptions;
use crate::storage::WriteStore;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hash::Hash;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Versions of other streams that are compared with a stream that has no history under its own name.
const CANDIDATES_MAX: usize = 192;

/// What to save and what to say about it.
#[derive(Debug)]
pub struct BackupRequest {
    /// The sources, in run order.
    pub sources: Vec<SourceRequest>,
    /// The backup time; the run's own if None.
    pub time_ns: Option<i64>,
    /// IANA name of the local time zone.
    pub time_zone: String,
    /// The class.
    pub class: Option<String>,
    /// Tags.
    pub tags: Vec<String>,
    /// Names that limited the run.
    pub scope: Vec<String>,
    /// The directory the run is about.
    pub project_root: Option<String>,
    /// Its version control state.
    pub git: Option<GitInfo>,
    /// Host, user and program.
    pub system: SystemInfo,
    /// An empty stream is no failure.
    pub allow_empty: bool,
    /// By source: fewer plain bytes than this look wrong.
    pub min_sizes: BTreeMap<String, u64>,
}

/// One source to save.
#[derive(Debug)]
pub struct SourceRequest {
    /// Its stable name.
    pub name: String,
    /// How to read it.
    pub from: SourceFrom,
}

/// How to read a source.
pub enum SourceFrom {
    /// Files and directories.
    Files {
        /// Absolute paths.
        roots: Vec<PathBuf>,
        /// Rules in gitignore syntax.
        exclude: Vec<String>,
        /// `.git` and directories with a CACHEDIR.TAG are left out.
        default_excludes: bool,
        /// Other file systems are not entered.
        one_file_system: bool,
    },
    /// One PostgreSQL database.
    Postgres {
        /// How to reach it.
        connection: Box<Connection>,
        /// Where its client programs are.
        search: ClientSearch,
        /// Save roles and settings, too.
        globals: bool,
    },
    /// One SQLite database.
    Sqlite {
        /// Its file.
        path: PathBuf,
        /// How it is read.
        options: SqliteOptions,
    },
    /// The output of a program.
    Command {
        /// The program.
        spec: ProcessSpec,
        /// Name of the stored stream.
        file_name: String,
        /// The command line as recorded, without secrets.
        location: String,
    },
    /// Standard input.
    Stdin {
        /// The reader.
        reader: Box<dyn Read + Send>,
        /// Name of the stored stream.
        file_name: String,
    },
    /// A file that another tool left behind; a snapshot with one of these counts as imported.
    Original(Box<OriginalSource>),
}

/// A file to import.
#[derive(Debug)]
pub struct OriginalSource {
    /// The file, an absolute path.
    pub path: PathBuf,
    /// What an earlier look found it to be.
    pub examined: Examined,
    /// How it is read.
    pub options: OriginalOptions,
    /// What the snapshot keeps about it.
    pub original: Original,
    /// Name of the stored stream.
    pub file_name: String,
}

impl std::fmt::Debug for SourceFrom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind().as_str())
    }
}

impl SourceFrom {
    /// The kind of source.
    pub fn kind(&self) -> SourceKind {
        match self {
            Self::Files { .. } => SourceKind::Files,
            Self::Postgres { .. } => SourceKind::Postgres,
            Self::Sqlite { .. } => SourceKind::Sqlite,
            Self::Command { .. } => SourceKind::Command,
            Self::Stdin { .. } => SourceKind::Stdin,
            Self::Original(original) => original.examined.content.kind(),
        }
    }

    fn location(&self) -> String {
        match self {
            Self::Files { roots, .. } => {
                roots.iter().map(|r| r.to_string_lossy().into_owned()).collect::<Vec<_>>().join(", ")
            }
            Self::Postgres { connection, .. } => connection.without_password(),
            Self::Sqlite { path, .. } => path.to_string_lossy().into_owned(),
            Self::Command { location, .. } => location.clone(),
            Self::Stdin { .. } => "standard input".to_owned(),
            Self::Original(original) => original.path.to_string_lossy().into_owned(),
        }
    }
}

/// What a run works with.
pub struct BackupMeans<'a> {
    /// The repository's objects.
    pub store: Arc<dyn WriteStore>,
    /// Its keys.
    pub keys: Arc<Keys>,
    /// For ids.
    pub random: Arc<dyn Random>,
    /// What its writers have agreed on.
    pub parameters: WriterParameters,
    /// Folders of holdfast itself (repository, caches, state), which are left out of files sources.
    pub own_folders: &'a [PathBuf],
    /// The time.
    pub clock: &'a dyn Clock,
    /// Starts programs.
    pub processes: &'a dyn Processes,
    /// Watches.
    pub observer: &'a dyn Observer,
    /// Ends the run early.
    pub cancel: &'a Cancel,
    /// All snapshots, newest first: where parents come from.
    pub snapshots: &'a [LoadedSnapshot],
    /// Folder of the local index cache, if there is one.
    pub cache: Option<&'a Path>,
    /// This process's id, for the session record.
    pub process_id: u32,
}

impl std::fmt::Debug for BackupMeans<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BackupMeans({})", self.store.location())
    }
}

/// A finished run.
#[derive(Debug)]
pub struct BackupReport {
    /// The committed snapshot, as read back.
    pub snapshot: Snapshot,
    /// Plain bytes of all streams.
    pub plain_bytes: u64,
    /// Bytes added to the repository: packs, index objects.
    pub stored_bytes: u64,
    /// Sources that failed, with their errors.
    pub failures: Vec<(String, SourceError)>,
    /// Damage of the repository that was met on the way.
    pub findings: Vec<String>,
    /// Sessions of dead runs that were closed.
    pub fenced: Vec<SnapshotId>,
    /// Duration, nanoseconds.
    pub duration_ns: i64,
}

/// Nothing was committed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The repository failed.
    #[error("The backup was not stored")]
    Repository(#[from] RepoError),
    /// Every source failed.
    #[error("No source could be saved")]
    NothingSaved {
        /// Sources and errors, in run order.
        failures: Vec<(String, SourceError)>,
    },
    /// Another run saves a source of this one, and did not end in time.
    #[error("Another run saves the same source")]
    Busy {
        /// Who; the one that will be through first comes first.
        holders: Vec<Holder>,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The run was ended from outside.
    #[error("The backup was interrupted")]
    Interrupted,
}

/// One source failed, or the whole run.
pub(crate) enum SaveError {
    /// The source.
    Source(SourceError),
    /// The repository: ends the run.
    Repository(RepoError),
}

impl From<SourceError> for SaveError {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}
impl From<RepoError> for SaveError {
    fn from(error: RepoError) -> Self {
        Self::Repository(error)
    }
}

fn now_ns(clock: &dyn Clock) -> i64 {
    i64::try_from(clock.now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// Saves all sources in one snapshot. Another run of the same source is not waited for.
///
/// # Errors
/// [`BackupError`]; nothing is committed then.
pub fn run(means: &BackupMeans<'_>, request: BackupRequest) -> Result<BackupReport, BackupError> {
    let turn_means = TurnMeans {
        store: Arc::clone(&means.store),
        keys: Arc::clone(&means.keys),
        random: means.random.as_ref(),
        clock: means.clock,
        observer: means.observer,
        cancel: means.cancel,
        process_id: means.process_id,
        patience: Duration::ZERO,
    };
    let sources: Vec<String> = request.sources.iter().map(|s| s.name.clone()).collect();
    let turn = take_turn(&turn_means, &request.system.host, &sources)?;
    run_in_turn(means, request, turn)
}

/// Saves all sources in one snapshot, in a session whose turn it is. `means.snapshots` must have been read after the
/// turn was taken: whoever was waited for may have made one.
///
/// # Errors
/// [`BackupError`]; nothing is committed then.
pub fn run_in_turn(
    means: &BackupMeans<'_>,
    request: BackupRequest,
    mut turn: Turn,
) -> Result<BackupReport, BackupError> {
    let (started_ns, fenced) = (turn.started_ns, std::mem::take(&mut turn.fenced));
    let Some(announced) = turn.take() else { return Err(BackupError::Interrupted) };
    let id = announced.id();
    let mut damaged_index = Vec::new();
    let session = announced.open(Arc::clone(&means.random), &means.parameters, |store, keys, excluded| {
        let (index, report) = index_loader::load_without(store, keys, means.cache, excluded)?;
        damaged_index = report.damaged.into_iter().map(|(id, why)| format!("index/{id}: {why}")).collect();
        Ok(index)
    });
    let result =
        session.map_err(BackupError::from).and_then(|session| save_and_commit(means, request, session, started_ns));
    match result {
        Ok(mut report) => {
            report.fenced = fenced;
            report.findings.splice(0..0, damaged_index);
            Ok(report)
        }
        Err(error) => {
            // best effort: what a dead session leaves is closed by the next run as well
            let _ = means.store.fence(id);
            Err(error)
        }
    }
}

fn save_and_commit(
    means: &BackupMeans<'_>,
    request: BackupRequest,
    mut session: BackupSession,
    started_ns: i64,
) -> Result<BackupReport, BackupError> {
    let mut failures = Vec::new();
    let mut records = Vec::new();
    let mut proofs = Vec::new();
    let (mut suspect, mut sampled, mut originals) = (Vec::new(), Vec::new(), Vec::new());
    let imported = request.sources.iter().any(|source| matches!(source.from, SourceFrom::Original(_)));
    for source in request.sources {
        if means.cancel.is_cancelled() {
            return Err(BackupError::Interrupted);
        }
        let (name, kind, location) = (source.name.clone(), source.from.kind(), source.from.location());
        means.observer.event(&Event::SourceStarted { source: &name, kind });
        let began = now_ns(means.clock);
        let mut record = empty_record(&name, kind, location);
        let saving = Saving {
            means,
            host: &request.system.host,
            name: &name,
            allow_empty: request.allow_empty,
            min_sizes: &request.min_sizes,
            tried: RefCell::default(),
        };
        let original = match &source.from {
            SourceFrom::Original(from) => Some(from.original.clone()),
            _ => None,
        };
        let saved = save_source(&saving, &mut session, source.from, &mut record, &mut proofs);
        record.duration_ms = u64::try_from((now_ns(means.clock) - began) / 1_000_000).unwrap_or(0);
        match saved {
            Ok(()) if imported => {
                // what was saved by others, long ago, says nothing about today, and today nothing about it
                originals.extend(original);
                means.observer.event(&Event::SourceFinished { source: &name, failure: None });
            }
            Ok(()) => {
                // What is about to be replaced may well look wrong.
                if request.class.as_deref() != Some(PRE_RESTORE) {
                    let judged = judge::judge(&saving, session.id(), &mut record, saving.tried.take());
                    suspect.extend(judged.suspect);
                    sampled.extend(judged.sample);
                }
                means.observer.event(&Event::SourceFinished { source: &name, failure: None });
            }
            Err(SaveError::Repository(RepoError::Interrupted) | SaveError::Source(SourceError::Interrupted)) => {
                return Err(BackupError::Interrupted);
            }
            Err(SaveError::Repository(error)) => return Err(error.into()),
            Err(SaveError::Source(error)) => {
                let text = describe(&error);
                means.observer.event(&Event::SourceFinished { source: &name, failure: Some(&text) });
                let kept = empty_record(&name, kind, record.location.clone());
                record = SourceRecord { failure: Some(text), duration_ms: record.duration_ms, ..kept };
                failures.push((name, error));
            }
        }
        records.push(record);
    }
    if records.iter().all(|r| r.failure.is_some()) {
        return Err(BackupError::NothingSaved { failures });
    }
    means.observer.event(&Event::PhaseStarted { phase: "storing", total_bytes: None, total_items: None });
    session.flush()?;
    means.observer.event(&Event::PhaseStarted { phase: "proving", total_bytes: None, total_items: None });
    for proof in &proofs {
        if means.cancel.is_cancelled() {
            return Err(BackupError::Interrupted);
        }
        prove::prove(&session, proof)?;
    }
    for stream in records.iter_mut().flat_map(|r| &mut r.streams) {
        stream.added_bytes = session.added_bytes(stream.version);
    }
    let head = |s: &LoadedSnapshot| (s.snapshot.id, s.digest);
    let finished_ns = now_ns(means.clock);
    let mut tags = request.tags;
    tags.sort();
    tags.dedup();
    let snapshot = Snapshot {
        id: session.id(),
        time_ns: request.time_ns.unwrap_or(started_ns),
        time_zone: request.time_zone,
        started_ns,
        finished_ns,
        system: request.system,
        class: request.class,
        tags,
        imported,
        suspect: (!suspect.is_empty()).then(|| suspect.join("; ")),
        git: request.git,
        project_root: request.project_root,
        scope: request.scope,
        sources: records,
        heads: heads(means.snapshots).map(head).collect(),
        stored_bytes: session.stored_bytes(),
        extensions: samples::extension(&sampled).into_iter().chain(originals::extension(&originals)).collect(),
    };
    let findings = session.reader().healed();
    session.commit(&snapshot)?;
    let read = snapshots::load(means.store.as_ref(), &means.keys, snapshot.id)?;
    if read.snapshot != snapshot {
        let reason = "it reads back as another record".to_owned();
        return Err(RepoError::ProofFailed { what: "the snapshot record".to_owned(), reason }.into());
    }
    let plain_bytes = snapshot.sources.iter().flat_map(|s| &s.streams).map(|s| s.plain_bytes).sum();
    let (stored_bytes, duration_ns) = (snapshot.stored_bytes, finished_ns - started_ns);
    Ok(BackupReport {
        snapshot: read.snapshot,
        plain_bytes,
        stored_bytes,
        failures,
        findings,
        fenced: Vec::new(),
        duration_ns,
    })
}

/// Snapshots that no other snapshot names as seen: the ends of the chain.
pub(crate) fn heads(all: &[LoadedSnapshot]) -> impl Iterator<Item = &LoadedSnapshot> {
    let seen: std::collections::HashSet<SnapshotId> =
        all.iter().flat_map(|s| s.snapshot.heads.iter().map(|h| h.0)).collect();
    all.iter().filter(move |s| !seen.contains(&s.snapshot.id))
}

fn empty_record(name: &str, kind: SourceKind, location: String) -> SourceRecord {
    SourceRecord {
        name: name.to_owned(),
        kind,
        location,
        failure: None,
        streams: Vec::new(),
        reader_version: String::new(),
        server_version: None,
        tables: Vec::new(),
        files: None,
        warnings: Vec::new(),
        live_bytes: None,
        duration_ms: 0,
    }
}

/// An error with its causes, in one line.
pub fn describe(error: &SourceError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    if let SourceError::Failed { stderr, .. } = error
        && let Some(last) = stderr.lines().rev().find(|l| !l.trim().is_empty())
    {
        text.push_str(": ");
        text.push_str(last.trim());
    }
    text
}

fn save_source(
    saving: &Saving<'_>,
    session: &mut BackupSession,
    from: SourceFrom,
    record: &mut SourceRecord,
    proofs: &mut Vec<prove::Proving>,
) -> Result<(), SaveError> {
    match from {
        SourceFrom::Files { roots, exclude, default_excludes, one_file_system } => {
            let scope = files::Scope { roots, exclude, default_excludes, one_file_system };
            files::save(saving, session, scope, record, proofs)
        }
        SourceFrom::Postgres { connection, search, globals } => {
            streams::save_postgres(saving, session, &connection, &search, globals, record, proofs)
        }
        SourceFrom::Sqlite { path, options } => streams::save_sqlite(saving, session, &path, &options, record, proofs),
        SourceFrom::Command { spec, file_name, .. } => {
            streams::save_command(saving, session, &spec, &file_name, record, proofs)
        }
        SourceFrom::Stdin { reader, file_name } => {
            streams::save_stdin(saving, session, reader, &file_name, record, proofs)
        }
        SourceFrom::Original(original) => streams::save_original(saving, session, *original, record, proofs),
    }
}

/// What saving one source has at hand.
pub(crate) struct Saving<'a> {
    means: &'a BackupMeans<'a>,
    host: &'a str,
    name: &'a str,
    allow_empty: bool,
    min_sizes: &'a BTreeMap<String, u64>,
    /// What was tried on the way, for judging.
    tried: RefCell<judge::Tried>,
}

impl Saving<'_> {
    /// Versions of this source's stream, newest first, of this host before others.
    fn history(&self, role: StreamRole) -> Vec<VersionId> {
        self.history_of(|source| source.streams.iter().find(|stream| stream.role == role).map(|s| s.version))
    }

    /// What this source's records in older snapshots have, newest first, of this host before others, each once.
    fn history_of<T: Copy + Eq + Hash>(&self, pick: impl Fn(&SourceRecord) -> Option<T>) -> Vec<T> {
        let of = |same_host: bool| {
            let here = self.means.snapshots.iter().filter(move |s| (s.snapshot.system.host == self.host) == same_host);
            here.filter_map(|s| s.snapshot.source(self.name).filter(|r| r.failure.is_none()).and_then(&pick))
        };
        let mut all: Vec<T> = of(true).take(8).chain(of(false).take(4)).collect();
        let mut seen = std::collections::HashSet::new();
        all.retain(|v| seen.insert(*v));
        all
    }

    /// Versions of other streams that this one may resemble: the newest of each, then whatever else is stored.
    fn candidates(&self, session: &BackupSession) -> Vec<VersionId> {
        let mut named = std::collections::HashSet::new();
        let mut all = Vec::new();
        for loaded in self.means.snapshots {
            for source in loaded.snapshot.sources.iter().filter(|s| s.failure.is_none()) {
                for stream in source.streams.iter().filter(|s| !s.role.is_about_files()) {
                    let key = (loaded.snapshot.system.host.clone(), source.name.clone(), stream.role);
                    if named.insert(key) {
                        all.push(stream.version);
                    }
                }
            }
        }
        let known: std::collections::HashSet<VersionId> = all.iter().copied().collect();
        all.extend(session.index().versions().filter(|v| !known.contains(v)).take(CANDIDATES_MAX));
        all.truncate(CANDIDATES_MAX);
        all
    }

    fn warn(&self, record: &mut SourceRecord, warning: SourceWarning) {
        self.means.observer.event(&Event::Warning {
            code: &warning.code,
            source: Some(self.name),
            subject: &warning.subject,
            message: &warning.message,
        });
        record.warnings.push(warning);
    }
}
