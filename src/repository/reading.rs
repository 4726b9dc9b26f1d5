//! A repository opened for reading: index, packs, snapshots, streams and trees behind one door.
//!
//! What is read here is checked on the way: a stream is compared with its proof while it is copied, a file with its
//! hash. Damage that a second copy made good is kept as a finding; whoever reads must end with exit code 13 then.

use super::cached_snapshots;
use super::error::{RepoError, Result};
use super::index::RepositoryIndex;
use super::index_loader;
use super::pack_reader::{PackReader, SEGMENT_CACHE_BYTES};
use super::snapshots::LoadedSnapshot;
use super::stream_reader::StreamReader;
use crate::catalog::Catalog;
use crate::domain::entry::{Entry, EntryKind};
use crate::domain::id::{SnapshotId, VersionId};
use crate::domain::snapshot::{SourceRecord, StreamRecord, StreamRole};
use crate::format::records::Proof;
use crate::format::seal::Keys;
use crate::format::stream_hash::StreamHasher;
use crate::format::tree::TreeReader;
use crate::storage::ReadStore;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

/// Bytes copied at a time.
const PIECE_BYTES: u64 = 2 << 20;
/// Bytes of a tree decoded at a time.
const TREE_PIECE_BYTES: u64 = 256 << 10;

/// A repository opened for reading.
#[derive(Debug)]
pub struct Reading {
    /// Its objects.
    pub store: Arc<dyn ReadStore>,
    /// Its keys.
    pub keys: Arc<Keys>,
    /// Where everything is.
    pub index: RepositoryIndex,
    /// Its packs.
    pub packs: PackReader,
    /// Index objects that could not be read.
    pub damaged_index: Vec<String>,
}

impl std::fmt::Debug for dyn ReadStore + '_ {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.location())
    }
}

/// A snapshot that could not be loaded, and why.
#[derive(Debug)]
pub struct UnreadableSnapshot {
    /// Its id.
    pub id: SnapshotId,
    /// Why.
    pub error: RepoError,
}

impl Reading {
    /// Loads the index, with the help of the local cache in the folder `cache`.
    ///
    /// # Errors
    /// Storage errors.
    pub fn open(store: Arc<dyn ReadStore>, keys: Arc<Keys>, cache: Option<&Path>) -> Result<Self> {
        let (index, report) = index_loader::load(store.as_ref(), &keys, cache)?;
        let damaged_index = report.damaged.into_iter().map(|(id, reason)| format!("index/{id}: {reason}")).collect();
        let packs = PackReader::new(Arc::clone(&store), Arc::clone(&keys), SEGMENT_CACHE_BYTES);
        Ok(Self { store, keys, index, packs, damaged_index })
    }

    /// Damage met so far that did not stop anything: healed by second copies, or index objects that cannot be read.
    pub fn findings(&self) -> Vec<String> {
        let mut all = self.damaged_index.clone();
        all.extend(self.packs.healed());
        all
    }

    /// Opens a stored version.
    ///
    /// # Errors
    /// Damage, storage errors.
    pub fn stream(&self, version: VersionId) -> Result<StreamReader> {
        StreamReader::open(&self.index, &self.packs, version)
    }

    /// Copies a whole stream into `sink` and compares it with its proof and with the snapshot's record. The sink has
    /// seen every byte when a difference is found, so what it wrote is only good if this returns `Ok`.
    ///
    /// # Errors
    /// [`CopyError`].
    pub fn copy_stream<E>(
        &self,
        record: &StreamRecord,
        mut sink: impl FnMut(&[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), CopyError<E>> {
        let mut reader = self.stream(record.version)?;
        let total = reader.plain_bytes();
        let mut hasher = StreamHasher::default();
        let mut buffer = Vec::new();
        let mut at = 0;
        while at < total {
            let to = (at + PIECE_BYTES).min(total);
            buffer.clear();
            reader.read(&self.index, &self.packs, at, to, &mut buffer)?;
            hasher.update(&buffer);
            sink(&buffer).map_err(CopyError::Sink)?;
            at = to;
        }
        if total != record.plain_bytes {
            return Err(RepoError::damaged_version(record.version, "its length is not the recorded one").into());
        }
        if matches!(reader.head().proof, Proof::Stream { .. }) && hasher.finish().root != record.blake3 {
            return Err(RepoError::damaged_version(record.version, "its bytes do not have the recorded hash").into());
        }
        Ok(())
    }

    /// The entries of a files source, in order, each with the offset of its contents in the content stream.
    ///
    /// # Errors
    /// Damage, storage errors; no tree among the source's streams.
    pub fn tree(&self, source: &SourceRecord) -> Result<TreeEntries<'_>> {
        let missing = || RepoError::Missing { what: format!("the tree of source {}", source.name) };
        let tree = source.streams.iter().find(|s| s.role == StreamRole::Tree).ok_or_else(missing)?;
        TreeEntries::new(&self.index, &self.packs, tree.version)
    }

    /// The content stream of a files source.
    ///
    /// # Errors
    /// Damage, storage errors; no content stream.
    pub fn content(&self, source: &SourceRecord) -> Result<StreamReader> {
        let missing = || RepoError::Missing { what: format!("the contents of source {}", source.name) };
        let content = source.streams.iter().find(|s| s.role == StreamRole::Content).ok_or_else(missing)?;
        self.stream(content.version)
    }

    /// Copies a file's stored bytes (extents one after the other) into `sink` and compares them with its hash.
    ///
    /// # Errors
    /// [`CopyError`]; the file's bytes are only good if this returns `Ok`.
    pub fn copy_file<E>(
        &self,
        content: &mut StreamReader,
        placed: &PlacedEntry,
        mut sink: impl FnMut(&[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), CopyError<E>> {
        let EntryKind::File(file) = &placed.entry.kind else { return Ok(()) };
        let mut hasher = blake3::Hasher::new();
        let mut buffer = Vec::new();
        let (mut at, end) = (placed.content_offset, placed.content_offset + file.stream_bytes());
        while at < end {
            let to = (at + PIECE_BYTES).min(end);
            buffer.clear();
            content.read(&self.index, &self.packs, at, to, &mut buffer)?;
            hasher.update(&buffer);
            sink(&buffer).map_err(CopyError::Sink)?;
            at = to;
        }
        if *hasher.finalize().as_bytes() == file.hash.0 {
            return Ok(());
        }
        let path = String::from_utf8_lossy(&placed.entry.path);
        let reason = format!("the contents of {path} do not have the recorded hash");
        Err(RepoError::damaged_version(content.head().version, reason).into())
    }

    /// Loads every snapshot that can be read, newest first; the others are returned beside them.
    ///
    /// # Errors
    /// Storage errors other than damage.
    pub fn snapshots(&self) -> Result<(Vec<LoadedSnapshot>, Vec<UnreadableSnapshot>)> {
        load_snapshots(self.store.as_ref(), &self.keys)
    }
}

/// Loads every snapshot that can be read, newest first; the others are returned beside them.
///
/// # Errors
/// Storage errors other than damage.
pub fn load_snapshots(store: &dyn ReadStore, keys: &Keys) -> Result<(Vec<LoadedSnapshot>, Vec<UnreadableSnapshot>)> {
    cached_snapshots::load_snapshots(store, keys, &Catalog::none())
}

/// Copying failed: on the repository's side or on the receiver's.
#[derive(Debug)]
pub enum CopyError<E> {
    /// The repository's.
    Repository(RepoError),
    /// The receiver's.
    Sink(E),
}

impl<E> From<RepoError> for CopyError<E> {
    fn from(error: RepoError) -> Self {
        Self::Repository(error)
    }
}

/// An entry with the place of its contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedEntry {
    /// The entry.
    pub entry: Entry,
    /// Offset of its first stored byte in the content stream; meaningful for files.
    pub content_offset: u64,
}

/// Reads a tree entry by entry, in bounded memory, for callers that hold the index and the packs themselves.
#[derive(Debug)]
pub struct TreeCursor {
    stream: StreamReader,
    tree: Option<TreeReader>,
    at: u64,
    content_offset: u64,
    ready: VecDeque<PlacedEntry>,
    buffer: Vec<u8>,
}

impl TreeCursor {
    /// Reads the tree of an opened tree stream.
    pub fn new(stream: StreamReader) -> Self {
        Self {
            stream,
            tree: Some(TreeReader::new()),
            at: 0,
            content_offset: 0,
            ready: VecDeque::new(),
            buffer: Vec::new(),
        }
    }

    /// The next entry; None at the end.
    ///
    /// # Errors
    /// Damage, storage errors; the cursor is at its end then.
    pub fn next(&mut self, index: &RepositoryIndex, packs: &PackReader) -> Result<Option<PlacedEntry>> {
        if let Err(error) = self.fill(index, packs) {
            self.tree = None;
            return Err(error);
        }
        Ok(self.ready.pop_front())
    }

    fn fill(&mut self, index: &RepositoryIndex, packs: &PackReader) -> Result<()> {
        let version = self.stream.head().version;
        let damaged = |e: crate::format::tree::TreeError| RepoError::damaged_version(version, format!("tree: {e}"));
        while self.ready.is_empty() {
            let total = self.stream.plain_bytes();
            let Some(tree) = &mut self.tree else { return Ok(()) };
            if self.at == total {
                if let Some(tree) = self.tree.take() {
                    tree.finish().map_err(damaged)?;
                }
                return Ok(());
            }
            let to = (self.at + TREE_PIECE_BYTES).min(total);
            self.buffer.clear();
            self.stream.read(index, packs, self.at, to, &mut self.buffer)?;
            self.at = to;
            tree.feed(&self.buffer);
            while let Some(entry) = tree.next_entry().map_err(damaged)? {
                let content_offset = self.content_offset;
                if let EntryKind::File(file) = &entry.kind {
                    self.content_offset = content_offset.saturating_add(file.stream_bytes());
                }
                self.ready.push_back(PlacedEntry { entry, content_offset });
            }
        }
        Ok(())
    }
}

/// The entries of a tree as an iterator.
#[derive(Debug)]
pub struct TreeEntries<'r> {
    index: &'r RepositoryIndex,
    packs: &'r PackReader,
    cursor: TreeCursor,
}

impl<'r> TreeEntries<'r> {
    /// Opens the tree stream of a version.
    ///
    /// # Errors
    /// Damage, storage errors.
    pub fn new(index: &'r RepositoryIndex, packs: &'r PackReader, version: VersionId) -> Result<Self> {
        let stream = StreamReader::open(index, packs, version)?;
        Ok(Self { index, packs, cursor: TreeCursor::new(stream) })
    }
}

impl Iterator for TreeEntries<'_> {
    type Item = Result<PlacedEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        self.cursor.next(self.index, self.packs).transpose()
    }
}
