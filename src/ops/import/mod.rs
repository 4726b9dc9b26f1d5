//! Import: files that other tools left behind become snapshots, with the times that they were made at.
//!
//! The line: paths -> items in the order of time (`gather`) -> each file read to its end and judged -> those that are
//! good and new stored by [`super::backup`], one snapshot for an item, proved as every backup is -> with
//! `remove`, the file deleted, if it is still the one that was stored. A file that is not good is named and left where
//! it is, and the rest goes on.

pub mod gather;

use super::backup::{
    self, BackupError, BackupMeans, BackupRequest, OriginalSource, SourceFrom, SourceRequest, TurnMeans, describe,
};
use super::cancel::Cancel;
use super::observer::{Event, Observer, Progress};
use crate::domain::id::{Digest, SnapshotId};
use crate::domain::original::Original;
use crate::domain::snapshot::{SourceRecord, SystemInfo};
use crate::domain::system::{Clock, Random};
use crate::format::config_object::WriterParameters;
use crate::format::originals;
use crate::format::seal::Keys;
use crate::repository::error::RepoError;
use crate::repository::snapshots::LoadedSnapshot;
use crate::source::SourceError;
use crate::source::original::{self, Content, Examined, Marks, OriginalOptions};
use crate::source::process::Processes;
use crate::storage::WriteStore;
use gather::{Candidate, Gathered, Item, NotTaken, TimeFrom};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What an import works with.
pub struct ImportMeans<'a> {
    /// The repository's objects.
    pub store: Arc<dyn WriteStore>,
    /// Its keys.
    pub keys: Arc<Keys>,
    /// For ids.
    pub random: Arc<dyn Random>,
    /// What its writers have agreed on.
    pub parameters: WriterParameters,
    /// The time.
    pub clock: &'a dyn Clock,
    /// Starts programs; none are needed here.
    pub processes: &'a dyn Processes,
    /// Watches.
    pub observer: &'a dyn Observer,
    /// Ends the run early.
    pub cancel: &'a Cancel,
    /// Folder of the local index cache, if there is one.
    pub cache: Option<&'a Path>,
    /// This process's id, for the session record.
    pub process_id: u32,
    /// How long another run of the same source is waited for.
    pub patience: Duration,
    /// Reads all snapshots, newest first.
    pub snapshots: &'a dyn Fn() -> Result<Vec<LoadedSnapshot>, RepoError>,
    /// Decodes the stored bytes of a source and compares them with their proof.
    pub prove: &'a dyn Fn(&SourceRecord) -> Result<(), RepoError>,
    /// Where packed databases are put to be checked.
    pub temp_dir: &'a Path,
}

impl std::fmt::Debug for ImportMeans<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ImportMeans({})", self.store.location())
    }
}

/// What to import and what to say about it.
#[derive(Debug)]
pub struct ImportRequest {
    /// What was found below the paths.
    pub gathered: Gathered,
    /// Host, user and program.
    pub system: SystemInfo,
    /// IANA name of the local time zone.
    pub time_zone: String,
    /// The class.
    pub class: String,
    /// Tags.
    pub tags: Vec<String>,
    /// Only look.
    pub dry_run: bool,
    /// Delete what was imported and proved.
    pub remove: bool,
}

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It is a snapshot now; in a dry run it would become one.
    Imported(Option<SnapshotId>),
    /// It was imported before, into this snapshot (none: twice among the paths of a dry run).
    Already(Option<SnapshotId>),
    /// It is not good, or cannot be read.
    Failed(String),
}

/// A file that was looked at.
#[derive(Debug, Clone)]
pub struct FileReport {
    /// Its path.
    pub path: PathBuf,
    /// The name that it is known by.
    pub name: String,
    /// The source.
    pub source: String,
    /// Time of the backup, nanoseconds since 1970 UTC; None for what was not dated.
    pub time_ns: Option<i64>,
    /// Where the time comes from.
    pub time_from: Option<TimeFrom>,
    /// Its size, bytes.
    pub bytes: u64,
    /// What is in it.
    pub content: Option<Content>,
    /// Bytes after unpacking.
    pub plain_bytes: Option<u64>,
    /// SHA-256 of the file.
    pub sha256: Option<Digest>,
    /// Findings that did not keep it out.
    pub warnings: u64,
    /// What became of it.
    pub state: State,
    /// It was deleted after its proof.
    pub removed: bool,
    /// Why it could not be deleted, if it was to be.
    pub not_removed: Option<String>,
}

/// A finished import.
#[derive(Debug, Default)]
pub struct ImportReport {
    /// The files, in the order of time; what could not be read at all comes last.
    pub files: Vec<FileReport>,
    /// Files that were not looked at.
    pub left_out: Vec<NotTaken>,
    /// Snapshots made.
    pub snapshots: u64,
    /// Bytes added to the repository.
    pub stored_bytes: u64,
    /// Damage of the repository that was met on the way.
    pub findings: Vec<String>,
    /// What ended the run before all was done; what is listed as imported is.
    pub ended: Option<BackupError>,
}

impl ImportReport {
    /// Files in a state, and their bytes.
    pub fn count(&self, is: impl Fn(&State) -> bool) -> (u64, u64) {
        let files = self.files.iter().filter(|file| is(&file.state));
        files.fold((0, 0), |(n, bytes), file| (n + 1, bytes + file.bytes))
    }
}

/// What is known to be imported: by name and size first, so that most files need not be read to know that they are new.
#[derive(Default)]
struct Known {
    sizes: BTreeSet<(String, u64)>,
    digests: HashMap<(String, Digest), Option<(SnapshotId, SourceRecord)>>,
}

impl Known {
    fn of(snapshots: &[LoadedSnapshot]) -> Self {
        let mut known = Self::default();
        for loaded in snapshots.iter().filter(|loaded| loaded.snapshot.imported) {
            for original in originals::of(&loaded.snapshot.extensions) {
                let record = loaded.snapshot.source(&original.source).filter(|record| record.failure.is_none());
                if let Some(record) = record {
                    let found = (loaded.snapshot.id, record.clone());
                    known.add(&original.name, original.bytes, original.sha256, Some(found));
                }
            }
        }
        known
    }

    fn add(&mut self, name: &str, bytes: u64, sha256: Digest, found: Option<(SnapshotId, SourceRecord)>) {
        self.sizes.insert((name.to_owned(), bytes));
        self.digests.insert((name.to_owned(), sha256), found);
    }

    fn get(&self, name: &str, sha256: Digest) -> Option<&Option<(SnapshotId, SourceRecord)>> {
        self.digests.get(&(name.to_owned(), sha256))
    }
}

/// A file on its way into a snapshot: its place in the report, and what it was found to be.
struct Ready {
    at: usize,
    file: Candidate,
    examined: Examined,
}

struct Import<'a> {
    means: &'a ImportMeans<'a>,
    request: ImportRequest,
    options: OriginalOptions,
    report: ImportReport,
    known: Known,
    bytes_done: u64,
    total_bytes: u64,
}

/// Imports what was gathered. Errors that end the run stand in the report, beside what was done before them.
pub fn run(means: &ImportMeans<'_>, mut request: ImportRequest) -> ImportReport {
    let gathered = std::mem::take(&mut request.gathered);
    let Gathered { items, left_out, unreadable } = gathered;
    let options = OriginalOptions { temp_dir: means.temp_dir.to_owned(), interrupt: means.cancel.flag() };
    let report = ImportReport { left_out, ..ImportReport::default() };
    let total_bytes = items.iter().flat_map(|item| &item.files).map(|file| file.bytes).sum();
    let mut import = Import { means, request, options, report, known: Known::default(), bytes_done: 0, total_bytes };
    if let Err(error) = import.all(items) {
        import.report.ended = Some(error);
    }
    for NotTaken { path, reason } in unreadable {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let file = Candidate::unread(path, name);
        let report = import.begin(&file, None);
        import.fail(report, reason);
    }
    import.report
}

impl Import<'_> {
    fn all(&mut self, items: Vec<Item>) -> Result<(), BackupError> {
        self.known = Known::of(&(self.means.snapshots)()?);
        let (total_bytes, total_items) = (Some(self.total_bytes), None);
        self.means.observer.event(&Event::PhaseStarted { phase: "importing", total_bytes, total_items });
        for item in items {
            self.item(item)?;
        }
        Ok(())
    }

    /// A line of the report for a file, first as one that was imported.
    fn begin(&mut self, file: &Candidate, item: Option<(i64, TimeFrom)>) -> usize {
        self.report.files.push(FileReport {
            path: file.path.clone(),
            name: file.name.clone(),
            source: file.source.clone(),
            time_ns: item.map(|(ns, _)| ns),
            time_from: item.map(|(_, from)| from),
            bytes: file.bytes,
            content: None,
            plain_bytes: None,
            sha256: None,
            warnings: 0,
            state: State::Imported(None),
            removed: false,
            not_removed: None,
        });
        self.report.files.len() - 1
    }

    fn line(&mut self, at: usize, change: impl FnOnce(&mut FileReport)) {
        if let Some(line) = self.report.files.get_mut(at) {
            change(line);
        }
    }

    fn fail(&mut self, at: usize, reason: String) {
        if let Some(line) = self.report.files.get_mut(at) {
            let subject = line.path.to_string_lossy().into_owned();
            // the sentence begins with the file, which is named already
            let short = reason.strip_prefix(&subject).map_or(reason.as_str(), str::trim_start);
            let (code, source) = ("import.failed", None);
            self.means.observer.event(&Event::Warning { code, source, subject: &subject, message: short });
            line.state = State::Failed(short.to_owned());
        }
    }

    fn check(&self) -> Result<(), BackupError> {
        if self.means.cancel.is_cancelled() { Err(BackupError::Interrupted) } else { Ok(()) }
    }

    fn item(&mut self, item: Item) -> Result<(), BackupError> {
        let dated = (item.time_ns, item.time_from);
        let mut ready = Vec::new();
        for file in item.files {
            self.check()?;
            let at = self.begin(&file, Some(dated));
            let before = self.bytes_done;
            let looked = self.look(at, &file);
            self.bytes_done = before + file.bytes;
            match looked {
                Ok(Some(examined)) => ready.push(Ready { at, file, examined }),
                Ok(None) => {}
                Err(SourceError::Interrupted) => return Err(BackupError::Interrupted),
                Err(error) => self.fail(at, describe(&error)),
            }
        }
        if self.request.dry_run {
            for Ready { file, examined, .. } in &ready {
                self.known.add(&file.name, file.bytes, examined.sha256, None);
            }
            return Ok(());
        }
        if ready.is_empty() { Ok(()) } else { self.store(dated.0, ready) }
    }

    /// Reads and judges a file. None: it was imported before.
    fn look(&mut self, at: usize, file: &Candidate) -> Result<Option<Examined>, SourceError> {
        let (means, before, total_bytes) = (self.means, self.bytes_done, self.total_bytes);
        if self.known.sizes.contains(&(file.name.clone(), file.bytes)) {
            let (sha256, marks) = original::hash(&file.path, &self.options.interrupt)?;
            if let Some(found) = self.known.get(&file.name, sha256).cloned() {
                self.line(at, |line| {
                    line.sha256 = Some(sha256);
                    line.state = State::Already(found.as_ref().map(|(id, _)| *id));
                });
                if let (true, false, Some((_, record))) = (self.request.remove, self.request.dry_run, found) {
                    match (means.prove)(&record) {
                        Ok(()) => self.remove(at, file, &marks),
                        Err(error) => {
                            let reason =
                                format!("it is kept, because what was imported of it cannot be proved: {error}");
                            self.not_removed(at, reason);
                        }
                    }
                }
                return Ok(None);
            }
        }
        let path = file.path.as_os_str().as_encoded_bytes();
        let examined = original::examine(&file.path, &self.options, |bytes_read| {
            means.observer.event(&Event::Progress(Progress {
                bytes_done: before + bytes_read,
                total_bytes: Some(total_bytes),
                current: Some(path),
                ..Progress::default()
            }));
        })?;
        self.line(at, |line| {
            line.content = Some(examined.content);
            line.plain_bytes = Some(examined.plain_bytes);
            line.sha256 = Some(examined.sha256);
            line.bytes = examined.marks.bytes();
            line.warnings = examined.proof.warnings.len() as u64;
        });
        Ok(Some(examined))
    }

    /// Stores what is ready as one snapshot.
    fn store(&mut self, time_ns: i64, ready: Vec<Ready>) -> Result<(), BackupError> {
        let means = self.means;
        let turn_means = TurnMeans {
            store: Arc::clone(&means.store),
            keys: Arc::clone(&means.keys),
            random: means.random.as_ref(),
            clock: means.clock,
            observer: means.observer,
            cancel: means.cancel,
            process_id: means.process_id,
            patience: means.patience,
        };
        let names: Vec<String> = ready.iter().map(|ready| ready.file.source.clone()).collect();
        let turn = backup::take_turn(&turn_means, &self.request.system.host, &names)?;
        // after the turn was taken: whoever was waited for may have imported the same
        let snapshots = (means.snapshots)()?;
        self.known = Known::of(&snapshots);
        let mut wanted = Vec::new();
        for Ready { at, file, examined } in ready {
            match self.known.get(&file.name, examined.sha256) {
                Some(found) => {
                    let id = found.as_ref().map(|(id, _)| *id);
                    self.line(at, |line| line.state = State::Already(id));
                }
                None => wanted.push(Ready { at, file, examined }),
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let sources = wanted.iter().map(|ready| self.source(ready)).collect();
        let backup_means = BackupMeans {
            store: Arc::clone(&means.store),
            keys: Arc::clone(&means.keys),
            random: Arc::clone(&means.random),
            parameters: means.parameters,
            own_folders: &[],
            clock: means.clock,
            processes: means.processes,
            observer: means.observer,
            cancel: means.cancel,
            snapshots: &snapshots,
            cache: means.cache,
            process_id: means.process_id,
        };
        match backup::run_in_turn(&backup_means, self.backup_request(time_ns, sources), turn) {
            Ok(done) => {
                self.report.snapshots += 1;
                self.report.stored_bytes += done.stored_bytes;
                self.report.findings.extend(done.findings);
                for ready in &wanted {
                    let failure = done.failures.iter().find(|(name, _)| *name == ready.file.source);
                    match failure {
                        Some((_, error)) => self.fail(ready.at, describe(error)),
                        None => {
                            self.line(ready.at, |line| line.state = State::Imported(Some(done.snapshot.id)));
                            if self.request.remove {
                                self.remove(ready.at, &ready.file, &ready.examined.marks);
                            }
                        }
                    }
                }
                Ok(())
            }
            Err(BackupError::NothingSaved { failures }) => {
                for (ready, (_, error)) in wanted.iter().zip(&failures) {
                    self.fail(ready.at, describe(error));
                }
                Ok(())
            }
            Err(error) => {
                for ready in &wanted {
                    self.line(ready.at, |line| line.state = State::Failed("the run ended before it".to_owned()));
                }
                Err(error)
            }
        }
    }

    fn source(&self, ready: &Ready) -> SourceRequest {
        let Ready { file, examined, .. } = ready;
        let original = Original {
            source: file.source.clone(),
            name: file.name.clone(),
            bytes: examined.marks.bytes(),
            sha256: examined.sha256,
            modified_ns: examined.marks.modified_ns(),
            packing: examined.packing.as_str().to_owned(),
        };
        let from = OriginalSource {
            path: file.path.clone(),
            examined: examined.clone(),
            options: self.options.clone(),
            original,
            file_name: file.source.clone(),
        };
        SourceRequest { name: file.source.clone(), from: SourceFrom::Original(Box::new(from)) }
    }

    fn backup_request(&self, time_ns: i64, sources: Vec<SourceRequest>) -> BackupRequest {
        BackupRequest {
            sources,
            time_ns: Some(time_ns),
            time_zone: self.request.time_zone.clone(),
            class: Some(self.request.class.clone()),
            tags: self.request.tags.clone(),
            scope: Vec::new(),
            project_root: None,
            git: None,
            system: self.request.system.clone(),
            allow_empty: false,
            min_sizes: BTreeMap::new(),
        }
    }

    /// Deletes a file whose bytes are stored and proved, unless it is another one by now.
    fn remove(&mut self, at: usize, file: &Candidate, marks: &Marks) {
        if !file.is_still(marks) {
            return self.not_removed(at, "it is kept, because it changed after it was read".to_owned());
        }
        match std::fs::remove_file(&file.path) {
            Ok(()) => self.line(at, |line| line.removed = true),
            Err(error) => self.not_removed(at, format!("it cannot be deleted: {error}")),
        }
    }

    fn not_removed(&mut self, at: usize, reason: String) {
        if let Some(line) = self.report.files.get_mut(at) {
            let subject = line.path.to_string_lossy().into_owned();
            let (code, source) = ("import.not_removed", None);
            self.means.observer.event(&Event::Warning { code, source, subject: &subject, message: &reason });
            line.not_removed = Some(reason);
        }
    }
}
