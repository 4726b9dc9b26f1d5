//! Dump: one stream or file of a snapshot as plain bytes.
//!
//! What is meant is found first ([`find_source`], [`find_path`]), so that nothing is written for a wrong name. The hash
//! is only known to be right after the last byte: an error of [`run`] means that the bytes written are not good.

use super::cancel::Cancel;
use super::observer::{Event, Observer, Progress};
use super::restore::absolute;
use crate::domain::entry::{EntryKind, FileContent};
use crate::domain::snapshot::{Snapshot, SourceKind, SourceRecord, StreamRecord, StreamRole};
use crate::repository::error::RepoError;
use crate::repository::reading::{CopyError, PlacedEntry, Reading};

/// Zeros written at a time for a hole.
const HOLE_PIECE_BYTES: usize = 64 << 10;

/// Something that can be dumped.
#[derive(Debug)]
pub enum Found<'s> {
    /// A stream.
    Stream {
        /// Its source.
        source: &'s SourceRecord,
        /// Its record.
        stream: &'s StreamRecord,
    },
    /// A regular file.
    File {
        /// Its source.
        source: &'s SourceRecord,
        /// Its entry.
        placed: Box<PlacedEntry>,
    },
}

impl Found<'_> {
    /// Bytes that a dump writes.
    pub fn plain_bytes(&self) -> u64 {
        match self {
            Self::Stream { stream, .. } => stream.plain_bytes,
            Self::File { placed, .. } => content_of(placed).map_or(0, |content| content.size),
        }
    }

    /// Its source.
    pub fn source(&self) -> &SourceRecord {
        match self {
            Self::Stream { source, .. } | Self::File { source, .. } => source,
        }
    }

    /// True for a PostgreSQL archive, which can be turned into SQL.
    pub fn is_archive(&self) -> bool {
        matches!(self, Self::Stream { source, stream }
            if source.kind == SourceKind::Postgres && stream.role == StreamRole::Data)
    }
}

/// Why there is nothing to dump.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The repository cannot be read.
    #[error(transparent)]
    Repository(#[from] RepoError),
    /// The snapshot has no such source and no such stream.
    #[error("Snapshot {snapshot} has no source '{name}'")]
    NoSuchSource {
        /// The snapshot, short.
        snapshot: String,
        /// The name.
        name: String,
        /// What it has.
        available: Vec<String>,
    },
    /// The source failed when the snapshot was made.
    #[error("Source '{name}' failed when snapshot {snapshot} was made: {reason}")]
    SourceFailed {
        /// The snapshot, short.
        snapshot: String,
        /// The source.
        name: String,
        /// Why it failed.
        reason: String,
    },
    /// The source holds many files.
    #[error("Source '{name}' holds files, and a dump is one stream of bytes")]
    HoldsFiles {
        /// The source.
        name: String,
    },
    /// A path was named in a source that holds no files.
    #[error("Source '{name}' holds no files")]
    HoldsNoFiles {
        /// The source.
        name: String,
    },
    /// No files source of the snapshot has the path.
    #[error("Snapshot {snapshot} has no path {}", String::from_utf8_lossy(path))]
    NoSuchPath {
        /// The snapshot, short.
        snapshot: String,
        /// The path.
        path: Vec<u8>,
    },
    /// The path is something without contents.
    #[error("{} is {what}, and only the contents of a file can be dumped", String::from_utf8_lossy(path))]
    NotAFile {
        /// The path.
        path: Vec<u8>,
        /// What it is, with an article.
        what: &'static str,
    },
    /// The run was ended from outside.
    #[error("The dump was interrupted")]
    Interrupted,
}

/// Finds a stream by the name of its source, or by the file name that a restore would give it.
///
/// # Errors
/// [`Error`].
pub fn find_source<'s>(snapshot: &'s Snapshot, name: &str) -> Result<Found<'s>, Error> {
    if let Some(source) = snapshot.source(name) {
        check_source(snapshot, source)?;
        if source.kind == SourceKind::Files {
            return Err(Error::HoldsFiles { name: name.to_owned() });
        }
        let missing = || RepoError::Missing { what: format!("The data of source {name}") };
        let stream = source.streams.iter().find(|s| s.role == StreamRole::Data).ok_or_else(missing)?;
        return Ok(Found::Stream { source, stream });
    }
    let mut streams = streams(snapshot);
    match streams.find(|(_, stream)| stream.file_name == name) {
        Some((source, stream)) => Ok(Found::Stream { source, stream }),
        None => Err(Error::NoSuchSource {
            snapshot: snapshot.id.short(),
            name: name.to_owned(),
            available: available(snapshot),
        }),
    }
}

/// Names that [`find_source`] finds.
pub fn available(snapshot: &Snapshot) -> Vec<String> {
    let globals = streams(snapshot).filter(|(_, stream)| stream.role == StreamRole::Globals);
    let sources =
        snapshot.source_names().filter(|name| snapshot.source(name).is_some_and(|s| s.kind != SourceKind::Files));
    sources.map(str::to_owned).chain(globals.map(|(_, stream)| stream.file_name.clone())).collect()
}

/// Streams that can be dumped.
fn streams(snapshot: &Snapshot) -> impl Iterator<Item = (&SourceRecord, &StreamRecord)> {
    let of = |source| std::iter::repeat(source);
    let wanted = |role| matches!(role, StreamRole::Data | StreamRole::Globals);
    let all = snapshot.sources.iter().flat_map(move |source| of(source).zip(&source.streams));
    all.filter(move |(_, stream)| wanted(stream.role))
}

/// Finds a file by its path, in one source or in any.
///
/// # Errors
/// [`Error`]; damage of a tree on the way.
pub fn find_path<'s>(
    reading: &Reading,
    snapshot: &'s Snapshot,
    source: Option<&str>,
    path: &[u8],
    cancel: &Cancel,
) -> Result<Found<'s>, Error> {
    let path = absolute(path);
    let mut searched: Vec<&SourceRecord> = Vec::new();
    match source {
        Some(name) => match snapshot.source(name) {
            Some(source) if source.kind == SourceKind::Files => {
                check_source(snapshot, source)?;
                searched.push(source);
            }
            Some(_) => return Err(Error::HoldsNoFiles { name: name.to_owned() }),
            None => {
                let available = snapshot.source_names().map(str::to_owned).collect();
                return Err(Error::NoSuchSource { snapshot: snapshot.id.short(), name: name.to_owned(), available });
            }
        },
        None => searched.extend(snapshot.sources.iter().filter(|s| s.kind == SourceKind::Files && s.failure.is_none())),
    }
    for source in searched {
        let Some(placed) = look_up(reading, source, &path, cancel)? else { continue };
        let placed = match &placed.entry.kind {
            EntryKind::HardLink(first) => {
                let missing = || RepoError::Missing { what: format!("The first name of {}", shown(&path)) };
                look_up(reading, source, first, cancel)?.ok_or_else(missing)?
            }
            _ => placed,
        };
        let what = match &placed.entry.kind {
            EntryKind::File(_) => return Ok(Found::File { source, placed: Box::new(placed) }),
            EntryKind::Directory => "a directory",
            EntryKind::Symlink(_) => "a symbolic link",
            EntryKind::HardLink(_) => "a link to a link",
            EntryKind::Fifo => "a named pipe",
            EntryKind::Socket => "a socket",
            EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. } => "a device",
        };
        return Err(Error::NotAFile { path, what });
    }
    Err(Error::NoSuchPath { snapshot: snapshot.id.short(), path })
}

fn check_source(snapshot: &Snapshot, source: &SourceRecord) -> Result<(), Error> {
    match &source.failure {
        None => Ok(()),
        Some(reason) => Err(Error::SourceFailed {
            snapshot: snapshot.id.short(),
            name: source.name.clone(),
            reason: reason.clone(),
        }),
    }
}

fn look_up(
    reading: &Reading,
    source: &SourceRecord,
    path: &[u8],
    cancel: &Cancel,
) -> Result<Option<PlacedEntry>, Error> {
    for placed in reading.tree(source)? {
        let placed = placed?;
        if cancel.is_cancelled() {
            return Err(Error::Interrupted);
        }
        match crate::format::tree::path_order(&placed.entry.path, path) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => return Ok(Some(placed)),
            std::cmp::Ordering::Greater => return Ok(None),
        }
    }
    Ok(None)
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn content_of(placed: &PlacedEntry) -> Option<&FileContent> {
    if let EntryKind::File(content) = &placed.entry.kind { Some(content) } else { None }
}

/// Writes the bytes; returns how many.
///
/// # Errors
/// [`DumpFailure`]: what was written is not good then, also when it is complete in length.
pub fn run<E>(
    reading: &Reading,
    found: &Found<'_>,
    mut write: impl FnMut(&[u8]) -> Result<(), E>,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<u64, DumpFailure<E>> {
    reading.packs.follow_index();
    let total_bytes = Some(found.plain_bytes());
    observer.event(&Event::PhaseStarted { phase: "dumping", total_bytes, total_items: None });
    let mut bytes_done = 0;
    let take = |bytes: &[u8]| {
        if cancel.is_cancelled() {
            return Err(Stop::Cancelled);
        }
        write(bytes).map_err(Stop::Receiver)?;
        bytes_done += bytes.len() as u64;
        observer.event(&Event::Progress(Progress { bytes_done, total_bytes, ..Progress::default() }));
        Ok(())
    };
    let copied = match found {
        Found::Stream { stream, .. } => reading.copy_stream(stream, take),
        Found::File { source, placed } => copy_file(reading, source, placed, take),
    };
    match copied {
        Ok(()) => Ok(bytes_done),
        Err(CopyError::Repository(error)) => Err(DumpFailure::Repository(error)),
        Err(CopyError::Sink(Stop::Cancelled)) => Err(DumpFailure::Interrupted),
        Err(CopyError::Sink(Stop::Receiver(error))) => Err(DumpFailure::Receiver(error)),
    }
}

enum Stop<E> {
    Cancelled,
    Receiver(E),
}

/// Why a dump that had begun is not good.
#[derive(Debug)]
pub enum DumpFailure<E> {
    /// The repository cannot be read, or the bytes are not those that were saved.
    Repository(RepoError),
    /// The receiver does not take the bytes.
    Receiver(E),
    /// The run was ended from outside.
    Interrupted,
}

/// Copies a file with its holes filled by zeros.
fn copy_file<E>(
    reading: &Reading,
    source: &SourceRecord,
    placed: &PlacedEntry,
    mut take: impl FnMut(&[u8]) -> Result<(), Stop<E>>,
) -> Result<(), CopyError<Stop<E>>> {
    let mut stream = reading.content(source)?;
    let content = content_of(placed).cloned().unwrap_or_default();
    if !content.sparse {
        return reading.copy_file(&mut stream, placed, take);
    }
    let mut extents = content.extents.iter().copied();
    let mut current = extents.next();
    let mut at = 0;
    reading.copy_file(&mut stream, placed, |mut bytes| {
        while !bytes.is_empty() {
            let Some((offset, length)) = current else { break };
            zeros(&mut at, offset, &mut take)?;
            let left = usize::try_from(offset + length - at).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(left.min(bytes.len()));
            take(now)?;
            at += now.len() as u64;
            if at == offset + length {
                current = extents.next();
            }
            bytes = later;
        }
        Ok(())
    })?;
    zeros(&mut at, content.size, &mut take).map_err(CopyError::Sink)
}

/// Zeros from `at` to `to`.
fn zeros<E>(at: &mut u64, to: u64, take: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    let hole = [0u8; HOLE_PIECE_BYTES];
    while *at < to {
        let count = usize::try_from(to - *at).unwrap_or(usize::MAX).min(HOLE_PIECE_BYTES);
        take(hole.get(..count).unwrap_or(&hole))?;
        *at += count as u64;
    }
    Ok(())
}
