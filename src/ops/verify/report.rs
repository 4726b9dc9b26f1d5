//! What a verification found, as data: findings about objects, and the snapshots, sources and files that they hit.

use crate::repository::Problem;
use crate::repository::error::RepoError;
use crate::storage::ErrorKind;
use serde::Serialize;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// Findings and notes kept of each sort; more are counted.
const KEPT_MAX: usize = 10_000;
/// Paths kept for each damaged source.
pub(super) const PATHS_MAX: usize = 1000;

/// Something in the repository that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct VerifyFinding {
    /// The object, or `version ID` for something wrong in the records of a version.
    pub object: String,
    /// `damaged`, `missing` or `unreadable`.
    pub problem: &'static str,
    /// In a few words.
    pub reason: String,
}

/// Something worth knowing that is no damage: unknown names, leftovers of interrupted runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct VerifyNote {
    /// Stable id, for example `object.stray`.
    pub code: &'static str,
    /// The name it is about.
    pub object: String,
    /// One sentence.
    pub message: String,
}

/// A stream of a snapshot that cannot be given back whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Affected {
    /// The snapshot's id.
    pub snapshot: String,
    /// Its backup time, RFC 3339.
    pub time: String,
    /// The host.
    pub host: String,
    /// The source.
    pub source: String,
    /// The stream's file name on restore.
    pub stream: String,
    /// Bytes of the stream that cannot be read; None: not known, any of them.
    pub damaged_bytes: Option<u64>,
    /// Files whose contents are hit; names that are not UTF-8 with replacement characters.
    pub paths: Vec<String>,
    /// Files beyond those listed.
    pub paths_omitted: u64,
}

/// The outcome of a verification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// `structure`, `snapshots`, `read-data` or `stored-only`.
    pub mode: &'static str,
    /// False when a time limit ended the run before everything wanted was read.
    pub complete: bool,
    /// Objects apart from packs that were read in full.
    pub objects_read: u64,
    /// Packs in the index.
    pub packs: u64,
    /// Packs that were read in full.
    pub packs_read: u64,
    /// Packs that were wanted and not read because time was up.
    pub packs_left: u64,
    /// Stored bytes read in full and compared with their checksums.
    pub stored_bytes_read: u64,
    /// Plain bytes of the blobs opened on the way.
    pub plain_bytes_read: u64,
    /// Committed snapshots.
    pub snapshots: u64,
    /// Versions of streams whose records were followed.
    pub versions: u64,
    /// Streams decoded and compared with their proofs.
    pub streams_proved: u64,
    /// Files compared with their hashes.
    pub files_proved: u64,
    /// Plain bytes decoded and compared.
    pub bytes_proved: u64,
    /// What is not as it was written. Empty: the repository is whole as far as it was read.
    pub findings: Vec<VerifyFinding>,
    /// Findings beyond those listed.
    pub findings_omitted: u64,
    /// Snapshots of which no copy of the record can be read.
    pub unreadable_snapshots: Vec<String>,
    /// Packs that the index names and that have parity. Zero where the structure was not looked at.
    pub packs_with_parity: u64,
    /// Damaged or missing packs that their parity makes whole again: reads go on, `repair packs` makes them anew.
    pub repairable: Vec<String>,
    /// Data that cannot be given back. Empty although there are findings: second copies serve, or nothing needs it.
    pub affected: Vec<Affected>,
    /// What is no damage.
    pub notes: Vec<VerifyNote>,
    /// Notes beyond those listed.
    pub notes_omitted: u64,
}

impl VerifyReport {
    /// True when anything at all is not as it was written (exit code 13).
    pub fn is_damaged(&self) -> bool {
        !self.findings.is_empty() || !self.affected.is_empty() || !self.unreadable_snapshots.is_empty()
    }
}

#[derive(Debug, Default)]
struct Gathered {
    seen: HashSet<(String, String)>,
    report: VerifyReport,
}

/// Gathers findings from all threads.
#[derive(Debug, Default)]
pub(super) struct Gatherer(Mutex<Gathered>);

impl Gatherer {
    fn with<T>(&self, action: impl FnOnce(&mut Gathered) -> T) -> T {
        action(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds a finding; the same one counts once.
    pub(super) fn finding(&self, object: impl Into<String>, problem: Problem, reason: impl Into<String>) {
        let (object, reason) = (object.into(), reason.into());
        self.with(|all| {
            if all.report.findings.len() >= KEPT_MAX {
                all.report.findings_omitted += 1;
            } else if all.seen.insert((object.clone(), reason.clone())) {
                all.report.findings.push(VerifyFinding { object, problem: problem.as_str(), reason });
            }
        });
    }

    /// Adds what an error says.
    pub(super) fn error(&self, error: &RepoError) {
        let (object, problem, reason) = describe(error);
        self.finding(object, problem, reason);
    }

    /// Notes that a damaged pack can be made whole by its parity.
    pub(super) fn repairable(&self, object: &str) {
        self.with(|all| {
            if !all.report.repairable.iter().any(|known| known == object) && all.report.repairable.len() < KEPT_MAX {
                all.report.repairable.push(object.to_owned());
            }
        });
    }

    /// Adds a note.
    pub(super) fn note(&self, code: &'static str, object: impl Into<String>, message: impl Into<String>) {
        let note = VerifyNote { code, object: object.into(), message: message.into() };
        self.with(|all| {
            if all.report.notes.len() >= KEPT_MAX {
                all.report.notes_omitted += 1;
            } else {
                all.report.notes.push(note);
            }
        });
    }

    /// Changes counters and the like.
    pub(super) fn count(&self, change: impl FnOnce(&mut VerifyReport)) {
        self.with(|all| change(&mut all.report));
    }

    /// True when there is a finding so far.
    pub(super) fn has_findings(&self) -> bool {
        self.with(|all| !all.report.findings.is_empty())
    }

    /// The report, findings and notes in the order of names.
    pub(super) fn into_report(self) -> VerifyReport {
        let mut report = self.0.into_inner().unwrap_or_else(PoisonError::into_inner).report;
        report.findings.sort_by(|a, b| (&a.object, &a.reason).cmp(&(&b.object, &b.reason)));
        report.repairable.sort();
        report.notes.sort_by(|a, b| (&a.object, &a.message).cmp(&(&b.object, &b.message)));
        report
    }
}

/// Object, problem and reason of an error.
pub(super) fn describe(error: &RepoError) -> (String, Problem, String) {
    match error {
        RepoError::Damaged { object, reason } => (object.clone(), Problem::Damaged, reason.clone()),
        RepoError::Missing { what } => (version_in(what), Problem::Missing, format!("{what} is nowhere")),
        RepoError::Format { object, source } => (object.clone(), Problem::Damaged, source.to_string()),
        RepoError::Storage(error) => {
            let cause = error.source.as_ref().map(ToString::to_string);
            match error.kind {
                ErrorKind::NotFound => (error.name.clone(), Problem::Missing, "it is not there".to_owned()),
                ErrorKind::Size => {
                    (error.name.clone(), Problem::Damaged, "its length is not that of what was written".to_owned())
                }
                _ => (error.name.clone(), Problem::Unreadable, cause.unwrap_or_else(|| error.to_string())),
            }
        }
        other => ("repository".to_owned(), Problem::Damaged, other.to_string()),
    }
}

/// `version ID` where a phrase names one, else the phrase.
fn version_in(phrase: &str) -> String {
    let Some((_, rest)) = phrase.split_once("version ") else { return phrase.to_owned() };
    format!("version {}", rest.split(' ').next().unwrap_or_default())
}

/// The object that a sentence about healed damage speaks of.
pub(super) fn object_of(sentence: &str) -> &str {
    let is_name = |word: &&str| ["packs/", "index/", "snapshots/"].iter().any(|top| word.starts_with(top));
    sentence.split([' ', ':']).find(is_name).unwrap_or("repository")
}
