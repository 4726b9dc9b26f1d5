//! Restore: what a snapshot holds is put back, and everything is compared with its proof on the way.
//!
//! Files go to a target that is new or empty, below their absolute paths; streams become files in it; one database can
//! be restored into a new database ([`database`]). One bad object never stops the run: what cannot be restored is left
//! out, listed, and the rest goes on. Nothing that is not what was saved stays behind under its name.

pub(super) mod contents;
pub mod database;
mod existing;
mod files;
mod roots;
mod selection;
pub mod staged;
#[cfg(test)]
mod staged_tests;
mod streams;
mod table_plan;
pub mod tables;
#[cfg(test)]
pub(super) mod tests;

pub use roots::roots;
pub use selection::{Kinds, PathFilter, RuleError, Selection, absolute};
pub use table_plan::NoTable;

use super::cancel::{Cancel, Cancelled};
use super::observer::{Event, Observer, Progress};
use crate::domain::snapshot::{PRE_RESTORE, Snapshot, SourceKind, SourceRecord, SourceWarning, StreamRole};
use crate::repository::error::RepoError;
use crate::repository::reading::Reading;
use crate::repository::snapshots::LoadedSnapshot;
use crate::target::database as target_database;
use crate::target::files::{Looker, Options as AttributeOptions, Overwrite, Restorer, TargetError};
use crate::target::replace;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Entries of [`Report::lost`]; more are only counted.
const LOST_LISTED_MAX: usize = 10_000;

/// What to restore and where to.
#[derive(Debug)]
pub struct Options {
    /// The directory; new or empty, unless `existing` says what becomes of what it holds.
    pub target: PathBuf,
    /// What becomes of what the target holds; none: it must hold nothing.
    pub existing: Option<Overwriting>,
    /// What of the snapshot.
    pub selection: Selection,
    /// Only say what would be done.
    pub dry_run: bool,
    /// What is restored of files beside their contents.
    pub attributes: AttributeOptions,
}

/// What becomes of what a target holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overwriting {
    /// For what the snapshot has, too.
    pub overwrite: Overwrite,
    /// Removes what the snapshot does not have, within the restored roots of files sources.
    pub delete: bool,
    /// Folders on this machine that are never removed: holdfast's own, which no snapshot has.
    pub own_folders: Vec<PathBuf>,
}

/// What was restored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The snapshot.
    pub snapshot_id: String,
    /// The target.
    pub target: String,
    /// Nothing was written.
    pub dry_run: bool,
    /// The sources, in run order.
    pub sources: Vec<RestoredSource>,
    /// What could not be restored because the repository is damaged; at most 10,000 entries.
    pub lost: Vec<Lost>,
    /// How much could not be restored.
    pub lost_count: u64,
    /// Entries that the target could not take.
    pub left_out: u64,
    /// What the target had already, as the snapshot has it.
    pub unchanged: u64,
    /// What stayed in the target although the snapshot has something else.
    pub kept: u64,
    /// What was removed because the snapshot does not have it; a directory with everything in it counts once.
    pub deleted: u64,
    /// Wanted sources that the snapshot does not hold because they failed when it was made.
    pub failed_sources: Vec<FailedSource>,
    /// Plain bytes restored.
    pub bytes_restored: u64,
    /// Files restored, streams among them.
    pub files_restored: u64,
    /// Plain bytes of all segments that were decompressed for it. Compared with `bytes_restored` it says what the
    /// restore of an old version costs; trees of files count here and not there.
    pub decoded_bytes: u64,
}

impl Report {
    /// True when everything that was wanted is there.
    pub fn is_complete(&self) -> bool {
        self.lost_count == 0 && self.left_out == 0 && self.failed_sources.is_empty()
    }
}

/// What was restored of one source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestoredSource {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: SourceKind,
    /// Regular files, further names of files included; for other sources their streams.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Links, pipes and devices.
    pub others: u64,
    /// Plain bytes.
    pub plain_bytes: u64,
    /// The files that streams became.
    pub written: Vec<String>,
}

impl RestoredSource {
    fn new(source: &SourceRecord) -> Self {
        let (name, kind) = (source.name.clone(), source.kind);
        Self { name, kind, files: 0, directories: 0, others: 0, plain_bytes: 0, written: Vec::new() }
    }
}

/// Something that could not be restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// The source.
    pub source: String,
    /// The path or stream; none: the source as a whole.
    pub path: Option<String>,
    /// Why.
    pub reason: String,
}

/// A source that failed when the snapshot was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailedSource {
    /// Its name.
    pub name: String,
    /// Why it failed.
    pub reason: String,
    /// The newest snapshot of the same host that holds it, if there is one.
    pub newest_good_id: Option<String>,
}

/// Why a restore did not happen, or ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The repository cannot be read.
    #[error(transparent)]
    Repository(#[from] RepoError),
    /// The target cannot be written.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The target cannot be made or opened.
    #[error("The target cannot be used")]
    Unusable {
        /// Why.
        source: TargetError,
    },
    /// What takes the place of something else cannot be made or put there.
    #[error(transparent)]
    Replace(#[from] replace::Error),
    /// The database cannot be restored.
    #[error(transparent)]
    Database(#[from] target_database::TargetError),
    /// The target is there and not a directory. Nothing was touched.
    #[error("{} exists and is not a directory", path.display())]
    NotADirectory {
        /// The target.
        path: PathBuf,
    },
    /// The snapshot has no such source.
    #[error("Snapshot {snapshot} has no source '{name}'")]
    NoSuchSource {
        /// The snapshot, short.
        snapshot: String,
        /// The name.
        name: String,
        /// The sources it has.
        available: Vec<String>,
    },
    /// Nothing in the snapshot is wanted.
    #[error("Snapshot {snapshot} holds nothing of what is to be restored")]
    NothingSelected {
        /// The snapshot, short.
        snapshot: String,
        /// The sources it has.
        available: Vec<String>,
    },
    /// All that is wanted failed when the snapshot was made.
    #[error(
        "Snapshot {snapshot} holds nothing of what is to be restored, because it failed when the snapshot was made"
    )]
    OnlyFailed {
        /// The snapshot, short.
        snapshot: String,
        /// The sources.
        failed: Vec<FailedSource>,
    },
    /// No files source of the snapshot has the path.
    #[error("Snapshot {snapshot} has no path {}", String::from_utf8_lossy(path))]
    NoSuchPath {
        /// The snapshot, short.
        snapshot: String,
        /// The path.
        path: Vec<u8>,
    },
    /// More than one database could be meant.
    #[error("Snapshot {snapshot} holds {} databases", .names.len())]
    SeveralDatabases {
        /// The snapshot, short.
        snapshot: String,
        /// Their names.
        names: Vec<String>,
    },
    /// The source cannot be restored into a database of this kind.
    #[error("Source '{name}' is of kind {} and cannot be restored into a {wanted} database", .kind.as_str())]
    WrongKind {
        /// The source.
        name: String,
        /// Its kind.
        kind: SourceKind,
        /// The kind of the target.
        wanted: &'static str,
    },
    /// The thread that reads the repository could not be started or was lost.
    #[error("Cannot read the repository in a thread of its own")]
    Thread {
        /// What the system said.
        source: Option<std::io::Error>,
    },
    /// The run was ended from outside.
    #[error("The restore was interrupted")]
    Interrupted,
}

impl From<Cancelled> for Error {
    fn from(_: Cancelled) -> Self {
        Self::Interrupted
    }
}

/// What a run works with, and what it has done so far.
struct Run<'a> {
    reading: &'a Reading,
    observer: &'a dyn Observer,
    cancel: &'a Cancel,
    report: Report,
    total_bytes: u64,
    total_items: u64,
    bytes_done: u64,
    items_done: u64,
}

impl Run<'_> {
    /// Notes something that could not be restored.
    fn lost(&mut self, source: &str, path: Option<&[u8]>, reason: String) {
        let path = path.map(|path| String::from_utf8_lossy(path).into_owned());
        self.observer.event(&Event::Warning {
            code: "restore.lost",
            source: Some(source),
            subject: path.as_deref().unwrap_or_default(),
            message: &format!("Not restored: {reason}"),
        });
        self.report.lost_count += 1;
        if self.report.lost.len() < LOST_LISTED_MAX {
            self.report.lost.push(Lost { source: source.to_owned(), path, reason });
        }
    }

    /// Passes findings of the target on.
    fn found(&mut self, source: Option<&str>, warnings: Vec<SourceWarning>) {
        for warning in warnings {
            self.report.left_out += u64::from(warning.incomplete);
            self.observer.event(&Event::Warning {
                code: &warning.code,
                source,
                subject: &warning.subject,
                message: &warning.message,
            });
        }
    }

    /// Counts and tells what was removed.
    fn deleted(&mut self, paths: Vec<Vec<u8>>) {
        for path in paths {
            self.report.deleted += 1;
            self.item("deleted", &path, 0);
        }
    }

    /// Adds a source to what was restored, or would be.
    fn count(&mut self, restored: RestoredSource) {
        self.report.bytes_restored += restored.plain_bytes;
        self.report.files_restored += restored.files;
        self.report.sources.push(restored);
    }

    /// Ends a source. `lost_before` is how much had been lost when it began.
    fn finished(&mut self, restored: RestoredSource, lost_before: u64) {
        let failure = (self.report.lost_count > lost_before).then_some("not everything could be restored");
        self.observer.event(&Event::SourceFinished { source: &restored.name, failure });
        self.count(restored);
    }

    fn progress(&self, source: &str, current: &[u8]) {
        self.observer.event(&Event::Progress(Progress {
            source: Some(source),
            bytes_done: self.bytes_done,
            total_bytes: Some(self.total_bytes),
            items_done: self.items_done,
            total_items: Some(self.total_items),
            current: Some(current),
        }));
    }

    fn item(&self, action: &'static str, path: &[u8], plain_bytes: u64) {
        self.observer.event(&Event::Item { action, path, plain_bytes });
    }
}

/// A source on its way.
struct Planned<'a> {
    source: &'a SourceRecord,
    /// For a files source.
    tree: Option<files::Plan>,
}

/// Restores into a directory. `history` is where a better snapshot of a failed source is looked for; it may be empty.
///
/// # Errors
/// [`Error`]. What is damaged is no error: see [`Report::lost`].
pub fn run(
    reading: &Reading,
    snapshot: &Snapshot,
    history: &[LoadedSnapshot],
    options: &Options,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<Report, Error> {
    check_target(&options.target, options.existing.is_some())?;
    reading.packs.follow_index();
    let decoded_before = reading.packs.counters.decoded();
    let sources = choose(snapshot, history, &options.selection)?;
    let report = Report {
        snapshot_id: snapshot.id.hex(),
        target: options.target.to_string_lossy().into_owned(),
        dry_run: options.dry_run,
        failed_sources: sources.failed,
        ..Report::default()
    };
    let mut run =
        Run { reading, observer, cancel, report, total_bytes: 0, total_items: 0, bytes_done: 0, items_done: 0 };
    for failed in run.report.failed_sources.clone() {
        say_failed(observer, &failed);
    }
    let planned = plan(&mut run, snapshot, &sources.good, &options.selection.paths)?;
    if options.dry_run {
        show(&mut run, snapshot, &planned, options)?;
        return Ok(run.report);
    }
    let restorer = match &options.existing {
        None => Restorer::new(&options.target, options.attributes),
        Some(overwriting) => {
            let existing = existing::plan(&mut run, snapshot, &planned, options, overwriting)?;
            Restorer::into_existing(&options.target, options.attributes, existing)
        }
    };
    let mut restorer = restorer.map_err(unusable)?;
    let (total_bytes, total_items) = (Some(run.total_bytes), Some(run.total_items));
    observer.event(&Event::PhaseStarted { phase: "restoring", total_bytes, total_items });
    let mut trees = 0;
    for planned in &planned {
        let source = planned.source;
        observer.event(&Event::SourceStarted { source: &source.name, kind: source.kind });
        let lost_before = run.report.lost_count;
        let restored = match &planned.tree {
            Some(plan) => {
                if trees > 0 {
                    restorer.next_tree()?;
                }
                trees += 1;
                files::restore(&mut run, source, plan, &options.selection.paths, &mut restorer)?
            }
            None => streams::restore(&mut run, snapshot, source, options)?,
        };
        run.finished(restored, lost_before);
    }
    finish(&mut run, restorer)?;
    run.report.decoded_bytes = reading.packs.counters.decoded() - decoded_before;
    Ok(run.report)
}

/// Ends a restore of files: directories get their metadata, what is to go goes, everything is durable.
fn finish(run: &mut Run<'_>, mut restorer: Restorer) -> Result<(), Error> {
    restorer.settle()?;
    run.deleted(restorer.take_deleted());
    let last = restorer.finish()?;
    run.report.unchanged += last.unchanged;
    run.report.kept += last.kept;
    run.found(None, last.warnings);
    Ok(())
}

/// Refuses a target that holds something, before anything is touched or read.
fn check_target(target: &Path, may_hold_something: bool) -> Result<(), Error> {
    match std::fs::read_dir(target) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) if may_hold_something => Ok(()),
            Some(_) => Err(TargetError::TargetNotEmpty { path: target.to_owned() }.into()),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => match target.symlink_metadata() {
            // A link that leads nowhere.
            Ok(_) => Err(Error::NotADirectory { path: target.to_owned() }),
            Err(_) => Ok(()),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            Err(Error::NotADirectory { path: target.to_owned() })
        }
        Err(source) => Err(unusable(TargetError::Io { operation: "read", path: target.to_owned(), source })),
    }
}

/// Nothing was restored yet.
fn unusable(error: TargetError) -> Error {
    match error {
        TargetError::Io { .. } => Error::Unusable { source: error },
        other => other.into(),
    }
}

struct Sources<'s> {
    good: Vec<&'s SourceRecord>,
    failed: Vec<FailedSource>,
}

/// The sources that are wanted, those that failed apart.
fn choose<'s>(snapshot: &'s Snapshot, history: &[LoadedSnapshot], selection: &Selection) -> Result<Sources<'s>, Error> {
    let available = || snapshot.sources.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
    let short = snapshot.id.short();
    if let Some(name) = selection.sources.iter().find(|name| snapshot.source(name).is_none()) {
        return Err(Error::NoSuchSource { snapshot: short, name: name.clone(), available: available() });
    }
    let mut sources = Sources { good: Vec::new(), failed: Vec::new() };
    for source in snapshot.sources.iter().filter(|source| selection.wants(source)) {
        match &source.failure {
            None => sources.good.push(source),
            Some(reason) => sources.failed.push(FailedSource {
                name: source.name.clone(),
                reason: reason.clone(),
                newest_good_id: newest_good(history, &snapshot.system.host, &source.name).map(|s| s.id.hex()),
            }),
        }
    }
    match (sources.good.is_empty(), sources.failed.is_empty()) {
        (true, true) => Err(Error::NothingSelected { snapshot: short, available: available() }),
        (true, false) => Err(Error::OnlyFailed { snapshot: short, failed: sources.failed }),
        (false, _) => Ok(sources),
    }
}

/// The newest snapshot of a host that holds a source which did not look wrong, and was not taken of what a restore was
/// about to replace.
pub fn newest_good<'h>(history: &'h [LoadedSnapshot], host: &str, source: &str) -> Option<&'h Snapshot> {
    let holds = |s: &&Snapshot| {
        s.system.host == host
            && !s.is_suspect_for(source)
            && s.class.as_deref() != Some(PRE_RESTORE)
            && s.source(source).is_some_and(|record| record.failure.is_none())
    };
    history.iter().map(|loaded| &loaded.snapshot).filter(holds).max_by_key(|s| (s.time_ns, s.id))
}

fn say_failed(observer: &dyn Observer, failed: &FailedSource) {
    let FailedSource { name, reason, newest_good_id } = failed;
    let better = match newest_good_id {
        Some(id) => format!("its newest good snapshot is {}", id.get(..8).unwrap_or(id)),
        None => "no other snapshot of this host holds it".to_owned(),
    };
    observer.event(&Event::Warning {
        code: "source.failed_in_snapshot",
        source: None,
        subject: "",
        message: &format!("Source {name} failed in this snapshot ({reason}) and cannot be restored from it; {better}"),
    });
}

/// Reads every tree that is wanted, compares it with its proof, and adds up what is to come.
fn plan<'s>(
    run: &mut Run<'_>,
    snapshot: &Snapshot,
    sources: &[&'s SourceRecord],
    filter: &PathFilter,
) -> Result<Vec<Planned<'s>>, Error> {
    run.observer.event(&Event::PhaseStarted { phase: "reading trees", total_bytes: None, total_items: None });
    let mut planned = Vec::new();
    let mut unreadable = false;
    for source in sources {
        run.cancel.check()?;
        if source.kind != SourceKind::Files {
            let streams = source.streams.iter().filter(|s| is_data(s.role));
            for stream in streams {
                run.total_bytes += stream.plain_bytes;
                run.total_items += 1;
            }
            planned.push(Planned { source, tree: None });
            continue;
        }
        let plan = files::plan(run.reading, source, filter, run.cancel)?;
        unreadable |= plan.fault.is_some();
        run.total_bytes += plan.plain_bytes;
        run.total_items += plan.entries;
        // A source without the path is left alone, unless its tree cannot tell.
        if filter.below().is_none() || plan.entries > 0 || plan.fault.is_some() {
            planned.push(Planned { source, tree: Some(plan) });
        }
    }
    match filter.below() {
        Some(path) if run.total_items == 0 && !unreadable => {
            Err(Error::NoSuchPath { snapshot: snapshot.id.short(), path: path.to_vec() })
        }
        _ => Ok(planned),
    }
}

/// True for the streams that become files.
fn is_data(role: StreamRole) -> bool {
    matches!(role, StreamRole::Data | StreamRole::Globals)
}

/// The dry run.
fn show(run: &mut Run<'_>, snapshot: &Snapshot, planned: &[Planned<'_>], options: &Options) -> Result<(), Error> {
    let looker = match &options.existing {
        Some(overwriting) if options.target.exists() => {
            let existing = existing::plan(run, snapshot, planned, options, overwriting)?;
            let opened = Looker::open(&options.target, existing, None);
            Some(opened.map_err(|source| {
                unusable(TargetError::Io { operation: "open", path: options.target.clone(), source })
            })?)
        }
        _ => None,
    };
    for Planned { source, tree } in planned {
        let restored = match tree {
            Some(plan) => files::show(run, source, plan, &options.selection.paths, looker.as_ref())?,
            None => streams::show(run, source),
        };
        run.count(restored);
    }
    Ok(())
}
