//! Backup files that other tools left behind, as streams: unpacked, recognised by what is in them, and judged whole.
//!
//! A file is read twice. [`examine`] reads it to its end and says what it is, or why it is not good; nothing is stored
//! for a file that fails. [`OriginalStream`] reads it again to be stored, judges it again, and fails when its bytes are
//! not those that were examined.

mod judge;
pub mod sql_text;
pub mod tar_format;
pub mod unpack;

use super::{SourceError, SourceStream, StreamProof};
use crate::domain::id::Digest;
use crate::domain::snapshot::SourceKind;
use judge::Judge;
use rustix::fs::{Mode, OFlags};
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use unpack::{Packing, Unpacked};

/// Bytes read at a time while examining.
const READ_BYTES: usize = 1 << 20;

/// What is in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// `pg_dump --format=custom`.
    PostgresArchive,
    /// `pg_dump --format=plain`.
    PostgresScript,
    /// `pg_dumpall`.
    ClusterScript,
    /// `mysqldump`, `mariadb-dump`.
    MySqlScript,
    /// Another script.
    Sql,
    /// A SQLite database.
    Sqlite,
    /// A tar archive.
    Tar,
}

impl Content {
    /// A few words for people and for records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PostgresArchive => "pg_dump archive",
            Self::PostgresScript => "pg_dump script",
            Self::ClusterScript => "pg_dumpall script",
            Self::MySqlScript => "mysqldump script",
            Self::Sql => "SQL script",
            Self::Sqlite => "SQLite database",
            Self::Tar => "tar archive",
        }
    }

    /// The kind of source that it becomes: what a restore can do with it. Scripts and archives are bytes for other
    /// tools.
    pub fn kind(self) -> SourceKind {
        match self {
            Self::PostgresArchive => SourceKind::Postgres,
            Self::Sqlite => SourceKind::Sqlite,
            _ => SourceKind::Stdin,
        }
    }
}

/// How files are read.
#[derive(Debug, Clone)]
pub struct OriginalOptions {
    /// Where packed SQLite databases are put to be checked (TMPDIR).
    pub temp_dir: PathBuf,
    /// Ends reading early when it turns true.
    pub interrupt: Arc<AtomicBool>,
}

/// What tells whether a file on disk is still the one that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_ns: i64,
    changed_ns: i64,
}

impl Marks {
    fn of(metadata: &Metadata) -> Self {
        let ns = |seconds: i64, ns: i64| seconds.saturating_mul(1_000_000_000).saturating_add(ns);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// When the file was changed last, nanoseconds since 1970 UTC.
    pub fn modified_ns(&self) -> i64 {
        self.modified_ns
    }

    /// Its size, bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Those of a file as it is now, links not followed.
    ///
    /// # Errors
    /// What the system says.
    pub fn now(path: &Path) -> std::io::Result<Self> {
        Ok(Self::of(&path.symlink_metadata()?))
    }
}

/// A file that was read to its end and is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// How it is packed.
    pub packing: Packing,
    /// What is in it.
    pub content: Content,
    /// SHA-256 of the file.
    pub sha256: Digest,
    /// What tells it from others.
    pub marks: Marks,
    /// Bytes after unpacking.
    pub plain_bytes: u64,
    /// What was found in it.
    pub proof: StreamProof,
}

fn content_error(path: &Path, reason: impl Into<String>) -> SourceError {
    SourceError::Content { subject: path.display().to_string(), reason: reason.into() }
}

/// Opens a regular file. A pipe or a device would wait for ever, so that nothing is opened before it is looked at.
fn open_file(path: &Path) -> Result<(File, Marks), SourceError> {
    let error = |operation, source: std::io::Error| SourceError::Path { operation, path: path.to_owned(), source };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path.as_os_str().as_bytes(), flags, Mode::empty())
        .map(File::from)
        .map_err(|errno| error("open", errno.into()))?;
    let metadata = file.metadata().map_err(|e| error("read", e))?;
    if !metadata.is_file() {
        return Err(content_error(path, "is not a regular file"));
    }
    Ok((file, Marks::of(&metadata)))
}

/// SHA-256 of a file, and what tells it from others.
///
/// # Errors
/// [`SourceError::Path`], [`SourceError::Interrupted`].
pub fn hash(path: &Path, interrupt: &AtomicBool) -> Result<(Digest, Marks), SourceError> {
    let (mut file, marks) = open_file(path)?;
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut buffer = vec![0u8; READ_BYTES];
    loop {
        if interrupt.load(Ordering::SeqCst) {
            return Err(SourceError::Interrupted);
        }
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => context.update(buffer.get(..n).unwrap_or_default()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => return Err(SourceError::Path { operation: "read", path: path.to_owned(), source }),
        }
    }
    let mut digest = Digest::default();
    digest.0.copy_from_slice(context.finish().as_ref());
    Ok((digest, marks))
}

/// Reads a file to its end and says what it is; `progress` is told how many bytes of the file were read.
///
/// # Errors
/// [`SourceError`] for a file that cannot be read, is cut off, damaged, or nothing that is known.
pub fn examine(path: &Path, options: &OriginalOptions, mut progress: impl FnMut(u64)) -> Result<Examined, SourceError> {
    let mut stream = OriginalStream::begin(path, options)?;
    let mut buffer = vec![0u8; READ_BYTES];
    while stream.read(&mut buffer)? > 0 {
        progress(stream.unpacked.seen.get().1);
    }
    stream.close()
}

/// A file being read.
pub struct OriginalStream {
    path: PathBuf,
    unpacked: Unpacked,
    judge: Judge,
    marks: Marks,
    plain_bytes: u64,
    ended: bool,
    interrupt: Arc<AtomicBool>,
    expected: Option<Examined>,
}

impl OriginalStream {
    /// Opens a file that was examined, to store it.
    ///
    /// # Errors
    /// [`SourceError`] when it cannot be opened, or is another one by now.
    pub fn open(path: &Path, options: &OriginalOptions, examined: Examined) -> Result<Self, SourceError> {
        let stream = Self::begin(path, options)?;
        if stream.marks != examined.marks {
            return Err(content_error(path, "changed after it was verified"));
        }
        Ok(Self { expected: Some(examined), ..stream })
    }

    fn begin(path: &Path, options: &OriginalOptions) -> Result<Self, SourceError> {
        let (file, marks) = open_file(path)?;
        if marks.bytes == 0 {
            return Err(content_error(path, "is empty"));
        }
        let unpacked = Unpacked::new(file).map_err(|source| SourceError::Path {
            operation: "read",
            path: path.to_owned(),
            source,
        })?;
        let judge = Judge::new(path, unpacked.packing, options);
        let interrupt = Arc::clone(&options.interrupt);
        let path = path.to_owned();
        Ok(Self { path, unpacked, judge, marks, plain_bytes: 0, ended: false, interrupt, expected: None })
    }

    /// The verdict of everything.
    fn close(self) -> Result<Examined, SourceError> {
        let path = self.path;
        if !self.ended {
            return Err(content_error(&path, "was not read to its end"));
        }
        let (sha256, bytes) = self.unpacked.seen.get();
        if Marks::now_of(&path)? != self.marks || bytes != self.marks.bytes {
            return Err(content_error(&path, "changed while it was read"));
        }
        let packing = self.unpacked.packing;
        let (content, proof) = self.judge.finish().map_err(|reason| reason.about(&path))?;
        Ok(Examined { packing, content, sha256, marks: self.marks, plain_bytes: self.plain_bytes, proof })
    }

    fn unreadable(&self, error: &std::io::Error) -> SourceError {
        let name = self.unpacked.packing.as_str();
        match error.kind() {
            _ if name.is_empty() => SourceError::Path {
                operation: "read",
                path: self.path.clone(),
                source: std::io::Error::new(error.kind(), error.to_string()),
            },
            std::io::ErrorKind::UnexpectedEof => {
                content_error(&self.path, format!("is truncated: its {name} data end too early"))
            }
            _ => content_error(&self.path, format!("is damaged: its {name} data cannot be unpacked: {error}")),
        }
    }
}

impl Marks {
    /// Those of a file as it is now, links followed.
    fn now_of(path: &Path) -> Result<Self, SourceError> {
        let now = std::fs::metadata(path);
        Ok(Self::of(&now.map_err(|source| SourceError::Path { operation: "read", path: path.to_owned(), source })?))
    }
}

impl SourceStream for OriginalStream {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        let n = loop {
            if self.interrupt.load(Ordering::SeqCst) {
                return Err(SourceError::Interrupted);
            }
            match self.unpacked.read(buffer) {
                Ok(n) => break n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.unreadable(&error)),
            }
        };
        let part = buffer.get(..n).unwrap_or_default();
        self.ended |= n == 0 && !buffer.is_empty();
        self.plain_bytes += n as u64;
        self.judge.feed(part).map_err(|reason| reason.about(&self.path))?;
        Ok(n)
    }

    fn finish(mut self: Box<Self>) -> Result<StreamProof, SourceError> {
        let path = self.path.clone();
        let expected = self.expected.take();
        let now = self.close()?;
        match expected {
            Some(expected) if expected != now => Err(content_error(&path, "changed after it was verified")),
            _ => Ok(now.proof),
        }
    }
}

#[cfg(test)]
#[path = "original_tests.rs"]
mod tests;
