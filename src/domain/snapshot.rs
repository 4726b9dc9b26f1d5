//! What a snapshot says about itself. The bytes of the record are fixed by docs/format.md, "Snapshot".

use super::id::{Digest, SnapshotId, VersionId};
use serde::{Deserialize, Serialize};

/// The class of snapshots of what stood in a place before a restore replaced it. They often hold what was broken, so they
/// are never `latest`, no measure for later backups, and not judged themselves.
pub const PRE_RESTORE: &str = "pre-restore";
/// Code of the finding that says: the third suspect in a row that is like the two before it.
pub const NEW_NORMAL: &str = "suspect.new_normal";

/// Record of one completed run: what was saved, when, from where, and the proof of every stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The snapshot's name; equal to the name of the session that wrote it.
    pub id: SnapshotId,
    /// The backup time that users address, nanoseconds since 1970 UTC (`--time` sets it).
    pub time_ns: i64,
    /// IANA name of the time zone the run saw, for calendar arithmetic in retention.
    pub time_zone: String,
    /// When the run began, nanoseconds since 1970 UTC.
    pub started_ns: i64,
    /// When the last source was finished, nanoseconds since 1970 UTC.
    pub finished_ns: i64,
    /// Where the run happened.
    pub system: SystemInfo,
    /// The class (`hourly`, `daily`, ...), if the run was given one.
    pub class: Option<String>,
    /// Free tags, sorted, without repeats.
    pub tags: Vec<String>,
    /// True for a backup that was made by another tool and imported.
    pub imported: bool,
    /// Why the run looked wrong, if it did. Suspect snapshots are never `latest`.
    pub suspect: Option<String>,
    /// Version control state of the directory the run covered.
    pub git: Option<GitInfo>,
    /// The directory the run was about, as an absolute path.
    pub project_root: Option<String>,
    /// Names that limited the run (`--only`, `HOLDFAST_SCOPE`); empty: everything configured.
    pub scope: Vec<String>,
    /// One record for each source of the run, in run order.
    pub sources: Vec<SourceRecord>,
    /// Manifest digests of the snapshots that this one saw as newest (a set of heads, reliability of the chain).
    pub heads: Vec<(SnapshotId, Digest)>,
    /// Packs this snapshot's run wrote (stored bytes are counted from these).
    pub stored_bytes: u64,
    /// Named additions of later versions that old readers may ignore.
    pub extensions: Vec<(String, Vec<u8>)>,
}

/// The machine and program of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SystemInfo {
    /// Host name.
    pub host: String,
    /// User name.
    pub user: String,
    /// Operating system, for example `linux`.
    pub os: String,
    /// Its version, for example `Debian GNU/Linux 12 (bookworm)`.
    pub os_version: String,
    /// Version of holdfast.
    pub tool_version: String,
}

/// State of a git work tree at backup time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitInfo {
    /// Full commit id of HEAD.
    pub commit: String,
    /// Branch name; empty when detached.
    pub branch: String,
    /// True when tracked files differ from the commit.
    pub dirty: bool,
}

/// Kinds of source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// Files and directories.
    Files,
    /// One PostgreSQL database.
    Postgres,
    /// One SQLite database.
    Sqlite,
    /// Output of a program.
    Command,
    /// Standard input.
    Stdin,
}

impl SourceKind {
    /// The word used in the configuration and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Postgres => "postgres",
            Self::Sqlite => "sqlite",
            Self::Command => "command",
            Self::Stdin => "stdin",
        }
    }

    /// True for the kinds that `--db-only` keeps.
    pub fn is_database(self) -> bool {
        matches!(self, Self::Postgres | Self::Sqlite)
    }
}

/// What one source contributed, or why it did not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// The stable name that history hangs on.
    pub name: String,
    /// Its kind.
    pub kind: SourceKind,
    /// Where it came from, without any password: a libpq URI, a path, a command line.
    pub location: String,
    /// None: succeeded. Otherwise the reason; such a source has no streams.
    pub failure: Option<String>,
    /// The stored streams; empty when failed.
    pub streams: Vec<StreamRecord>,
    /// Version of the tool or library that read it (`pg_dump (PostgreSQL) 15.18`).
    pub reader_version: String,
    /// Version of the server it came from, if any.
    pub server_version: Option<String>,
    /// Rows of each table, counted in the stored stream itself.
    pub tables: Vec<TableRows>,
    /// Counters of a files source.
    pub files: Option<FileCounts>,
    /// Findings that did not fail the source: unreadable files, files that changed while read, notes.
    pub warnings: Vec<SourceWarning>,
    /// Size of the live database as its server reports it, bytes.
    pub live_bytes: Option<u64>,
    /// Duration, milliseconds.
    pub duration_ms: u64,
}

/// Rows of one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRows {
    /// `schema.table`; SQLite tables without schema.
    pub table: String,
    /// Rows in the stored stream.
    pub rows: u64,
}

/// Counters of a files source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FileCounts {
    /// Regular files recorded.
    pub files: u64,
    /// Directories recorded.
    pub directories: u64,
    /// Symbolic links, FIFOs, sockets and devices recorded.
    pub others: u64,
    /// Files not in the parent.
    pub files_new: u64,
    /// Files that differ from the parent.
    pub files_changed: u64,
    /// Files that were not read because nothing about them changed.
    pub files_unmodified: u64,
    /// Entries left out by `exclude`, `--exclude` and `.holdfastignore`.
    pub excluded_by_rule: u64,
    /// Entries left out by the default rules (`.git`, CACHEDIR.TAG).
    pub excluded_by_default: u64,
    /// Files that could not be read.
    pub unreadable: u64,
    /// Files that changed while they were read.
    pub changed_while_read: u64,
}

/// A finding that did not fail its source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceWarning {
    /// Stable id for scripts, for example `file.unreadable`.
    pub code: String,
    /// The path or table it is about; may be empty.
    pub subject: String,
    /// One sentence.
    pub message: String,
    /// True when some data is missing from the snapshot because of it (exit code 3).
    pub incomplete: bool,
}

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamRole {
    /// Contents of all files of a files source, concatenated in tree order.
    Content,
    /// The tree object of a files source: names, metadata, lengths, hashes.
    Tree,
    /// A database dump, a database image, a program's output.
    Data,
    /// Roles and settings of a PostgreSQL cluster.
    Globals,
    /// What tells the next run whether the files of a files source are unchanged; no restore needs it.
    Identities,
}

impl StreamRole {
    /// True for streams that say something about files and hold nothing that a user saved as bytes.
    pub fn is_about_files(self) -> bool {
        matches!(self, Self::Tree | Self::Identities)
    }
}

/// One stored stream and its proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamRecord {
    /// What it is for.
    pub role: StreamRole,
    /// File name used on restore, for example `app-db.dump`.
    pub file_name: String,
    /// The stored version.
    pub version: VersionId,
    /// Plain length.
    pub plain_bytes: u64,
    /// BLAKE3 of the plain bytes; for [`StreamRole::Content`] the hash over all files' lengths and hashes in order.
    pub blake3: Digest,
    /// SHA-256 of the plain bytes; for [`StreamRole::Content`] absent (each file is proved by the tree).
    pub sha256: Option<Digest>,
    /// Bytes that this run added to the repository for this stream, second copies included.
    pub added_bytes: u64,
    /// Spans that differ between two dumps of the same data; ignored only when streams are compared.
    pub volatile: Vec<VolatileSpan>,
}

/// A span of a stream that changes on every run although the data did not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolatileSpan {
    /// First byte.
    pub offset: u64,
    /// Length, bytes.
    pub length: u64,
    /// What it is, for example `dump time`.
    pub what: String,
}

impl Snapshot {
    /// Names of the sources that succeeded, in run order.
    pub fn source_names(&self) -> impl Iterator<Item = &str> {
        self.sources.iter().filter(|s| s.failure.is_none()).map(|s| s.name.as_str())
    }

    /// The record of one source by name.
    pub fn source(&self, name: &str) -> Option<&SourceRecord> {
        self.sources.iter().find(|s| s.name == name)
    }

    /// The series this snapshot belongs to: host and sorted set of all its source names, failed ones included.
    pub fn series(&self) -> Series {
        let mut sources: Vec<String> = self.sources.iter().map(|s| s.name.clone()).collect();
        sources.sort();
        Series { host: self.system.host.clone(), sources }
    }

    /// True when the run looked wrong for this source: for those with a finding whose code begins with `suspect.`, and
    /// for every source when the run is suspect and no finding says for which.
    pub fn is_suspect_for(&self, source: &str) -> bool {
        let found = |record: &SourceRecord| record.warnings.iter().any(|w| w.code.starts_with("suspect."));
        self.suspect.is_some() && (self.source(source).is_some_and(found) || !self.sources.iter().any(found))
    }

    /// True when the run looked wrong for this source in the way in which two runs before it did.
    pub fn is_new_normal_for(&self, source: &str) -> bool {
        let said = |record: &SourceRecord| record.warnings.iter().any(|w| w.code == NEW_NORMAL);
        self.suspect.is_some() && self.source(source).is_some_and(said)
    }

    /// True when every source succeeded and nothing was left out for an error.
    pub fn is_complete(&self) -> bool {
        self.sources.iter().all(|s| s.failure.is_none() && !s.warnings.iter().any(|w| w.incomplete))
    }
}

/// Host and source set: the unit that `latest` and retention work on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Series {
    /// Host name.
    pub host: String,
    /// Sorted source names.
    pub sources: Vec<String>,
}

impl std::fmt::Display for Series {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.host, self.sources.join(", "))
    }
}
