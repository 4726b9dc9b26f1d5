//! Saving a files source: walk, compare with the parent's tree, read what changed, write contents and tree.
//!
//! Contents of all files make one stream in tree order, so a file that moved or was edited finds its old self nearby.
//! A file that did not change is a range of the parent's stream: it is not opened. What tells so (identities) is a stream
//! beside the tree.

use super::identities::ParentIdentities;
use super::judge;
use super::prove::Proving;
use super::sample::{Hardening, Head};
use super::{SaveError, Saving};
use crate::domain::entry::{Entry, EntryKind, FileIdentity};
use crate::domain::id::{Digest, VersionId};
use crate::domain::snapshot::{SourceRecord, SourceWarning, StreamRecord, StreamRole};
use crate::format::identities;
use crate::format::tree::{TreeWriter, path_order};
use crate::ops::observer::{Event, Progress};
use crate::repository::error::RepoError;
use crate::repository::reading::{PlacedEntry, TreeCursor};
use crate::repository::session::BackupSession;
use crate::repository::stream_writer::{StoredVersion, StreamSettings, StreamWriter};
use crate::source::SourceError;
use crate::source::files::metadata::{Found, Owners};
use crate::source::files::read::{FileReader, ReadError, is_unchanged};
use crate::source::files::rules::Rules;
use crate::source::files::walk::{Walk, WalkOptions};
use aws_lc_rs::digest::{Context, SHA256};
use std::cmp::Ordering;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Bytes of the tree and of identities gathered before they go to their streams.
const PIECE_BYTES: usize = 256 << 10;
/// Warnings kept in the record; the rest are counted.
const WARNINGS_MAX: usize = 1000;

/// What is walked.
pub(super) struct Scope {
    /// Absolute paths.
    pub(super) roots: Vec<PathBuf>,
    /// Rules in gitignore syntax.
    pub(super) exclude: Vec<String>,
    /// `.git` and directories with a CACHEDIR.TAG are left out.
    pub(super) default_excludes: bool,
    /// Other file systems are not entered.
    pub(super) one_file_system: bool,
}

/// A file of the parent: its entry, and its identity as far as it is known.
type Known = (PlacedEntry, Option<FileIdentity>);

/// The parent's tree and identities, read beside the walk.
struct ParentTree {
    cursor: TreeCursor,
    next: Option<PlacedEntry>,
    identities: ParentIdentities,
    /// Number of regular files before `next`.
    files: u64,
}

impl ParentTree {
    fn open(session: &BackupSession, tree: VersionId) -> Result<Option<Self>, RepoError> {
        let Some(stream) = session.open_parent(tree)? else { return Ok(None) };
        let identities = ParentIdentities::default();
        let mut this = Self { cursor: TreeCursor::new(stream), next: None, identities, files: 0 };
        match this.cursor.next(session.index(), session.reader()) {
            Ok(first) => this.next = first,
            Err(error) if error.is_damage() => return Ok(None),
            Err(error) => return Err(error),
        }
        Ok(Some(this))
    }

    /// The parent's entry of the same path, if it has one.
    fn find(&mut self, session: &BackupSession, path: &[u8]) -> Result<Option<Known>, RepoError> {
        while let Some(next) = &self.next {
            let is_file = matches!(next.entry.kind, EntryKind::File(_));
            match path_order(&next.entry.path, path) {
                Ordering::Less => {
                    self.files += u64::from(is_file);
                    self.next = self.advance(session)?;
                }
                Ordering::Equal => {
                    let identity = if is_file { self.identities.of(session, self.files)? } else { None };
                    return Ok(Some((next.clone(), identity)));
                }
                Ordering::Greater => break,
            }
        }
        Ok(None)
    }

    /// Damage in the middle of the parent's tree ends it: the remaining files are read again.
    fn advance(&mut self, session: &BackupSession) -> Result<Option<PlacedEntry>, RepoError> {
        match self.cursor.next(session.index(), session.reader()) {
            Err(error) if error.is_damage() => Ok(None),
            other => other,
        }
    }
}

/// A stream that gathers a while and is hashed as it goes out.
struct Gathered {
    writer: StreamWriter,
    bytes: Vec<u8>,
    sha256: Context,
}

impl Gathered {
    fn new(writer: StreamWriter) -> Self {
        Self { writer, bytes: Vec::new(), sha256: Context::new(&SHA256) }
    }

    fn send(&mut self, session: &mut BackupSession) -> Result<(), RepoError> {
        self.sha256.update(&self.bytes);
        self.writer.push(session, &self.bytes)?;
        self.bytes.clear();
        Ok(())
    }

    fn finish(mut self, session: &mut BackupSession) -> Result<(StoredVersion, Digest), RepoError> {
        self.send(session)?;
        let mut sha256 = Digest::default();
        sha256.0.copy_from_slice(self.sha256.finish().as_ref());
        Ok((self.writer.finish(session)?, sha256))
    }
}

/// State of one files source being saved.
struct FilesRun<'a> {
    saving: &'a Saving<'a>,
    content: StreamWriter,
    tree: Gathered,
    identities: Gathered,
    writer: TreeWriter,
    reader: FileReader,
    parent: Option<ParentTree>,
    root: blake3::Hasher,
    hardening: Hardening,
    /// New files are tried, too: the newest snapshot looked wrong, and what is new may have come back.
    tries_new: bool,
    read: Vec<bool>,
    bytes_done: u64,
    items_done: u64,
    dropped_warnings: u64,
    new: u64,
    changed: u64,
    unmodified: u64,
    torn: u64,
    unreadable: u64,
}

/// Saves a files source.
pub(super) fn save(
    saving: &Saving<'_>,
    session: &mut BackupSession,
    scope: Scope,
    record: &mut SourceRecord,
    proofs: &mut Vec<Proving>,
) -> Result<(), SaveError> {
    record.reader_version = format!("holdfast {}", env!("CARGO_PKG_VERSION"));
    let rules = Rules::new(scope.exclude, scope.default_excludes)
        .map_err(|error| SourceError::Content { subject: "The exclude rule".to_owned(), reason: error.to_string() })?;
    let owners = Owners::default();
    let options = WalkOptions {
        rules,
        one_file_system: scope.one_file_system,
        own_folders: saving.means.own_folders.iter().filter_map(|path| identity(path)).collect(),
        owners: owners.clone(),
        threads: 2,
    };
    let mut walk = Walk::new(&scope.roots, options)?;
    let mut run = FilesRun::new(saving, session, owners)?;
    while let Some(found) = walk.next() {
        let found = found?;
        if saving.means.cancel.is_cancelled() {
            return Err(SourceError::Interrupted.into());
        }
        run.entry(session, &mut walk, found, record)?;
        for warning in walk.take_warnings() {
            run.warn(record, warning);
        }
        say_left_out(saving, &mut walk);
    }
    for warning in walk.take_warnings() {
        run.warn(record, warning);
    }
    say_left_out(saving, &mut walk);
    run.close(session, &walk, record, proofs)
}

/// Device and inode of a folder; none when it is not there.
fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Notes holdfast's own folders that the walk left out.
fn say_left_out(saving: &Saving<'_>, walk: &mut Walk) {
    for path in walk.take_own_folders() {
        let shown = String::from_utf8_lossy(&path).into_owned();
        let message = format!("{}: {shown} is left out: it is holdfast's own repository, cache or state", saving.name);
        saving.means.observer.event(&Event::Note { code: "file.own_folder", message: &message });
    }
}

impl<'a> FilesRun<'a> {
    fn new(saving: &'a Saving<'a>, session: &mut BackupSession, owners: Owners) -> Result<Self, SaveError> {
        // Places in the contents and numbers of identities follow from the tree, so the three come from one snapshot.
        let parents = saving.history_of(|source| {
            let of = |role| source.streams.iter().find(|s| s.role == role).map(|s| s.version);
            Some((of(StreamRole::Tree)?, of(StreamRole::Content)?, of(StreamRole::Identities)))
        });
        let (mut parent, mut tree, mut content, mut identities) = (None, None, None, None);
        let mut hardening = Hardening::default();
        for (tree_version, content_version, identities_version) in parents {
            let both = (ParentTree::open(session, tree_version)?, session.open_parent(content_version)?);
            if let (Some(mut found), Some(stream)) = both {
                if let Some(version) = identities_version {
                    found.identities = ParentIdentities::open(session, version)?;
                    identities = session.open_parent(version)?;
                }
                tree = session.open_parent(tree_version)?;
                (parent, content) = (Some(found), Some(stream));
                hardening = Hardening::new(Some(content_version));
                break;
            }
        }
        let candidates = if content.is_none() { saving.candidates(session) } else { Vec::new() };
        Ok(Self {
            saving,
            content: StreamWriter::new(session, content, candidates, StreamSettings::files()),
            tree: Gathered::new(StreamWriter::new(session, tree, Vec::new(), StreamSettings::tree())),
            identities: Gathered::new(StreamWriter::new(session, identities, Vec::new(), StreamSettings::identities())),
            writer: TreeWriter::new(),
            reader: FileReader::new(owners),
            parent,
            root: blake3::Hasher::new(),
            hardening,
            tries_new: judge::is_newest_suspect(saving),
            read: Vec::new(),
            bytes_done: 0,
            items_done: 0,
            dropped_warnings: 0,
            new: 0,
            changed: 0,
            unmodified: 0,
            torn: 0,
            unreadable: 0,
        })
    }

    fn warn(&mut self, record: &mut SourceRecord, warning: SourceWarning) {
        if record.warnings.len() < WARNINGS_MAX {
            self.saving.warn(record, warning);
        } else {
            self.dropped_warnings += 1;
        }
    }

    fn entry(
        &mut self,
        session: &mut BackupSession,
        walk: &mut Walk,
        found: Found,
        record: &mut SourceRecord,
    ) -> Result<(), SaveError> {
        let (entry, identity) = match found.entry.kind {
            EntryKind::File(_) => match self.file(session, walk, found, record)? {
                Some(saved) => saved,
                None => return Ok(()),
            },
            _ => (found.entry, None),
        };
        if let EntryKind::File(file) = &entry.kind {
            identities::put(&mut self.identities.bytes, identity);
            self.root.update(&file.stream_bytes().to_le_bytes());
            self.root.update(&file.hash.0);
            self.bytes_done += file.size;
        }
        let unfit = |error: crate::format::tree::TreeError| SourceError::Content {
            subject: String::from_utf8_lossy(&entry.path).into_owned(),
            reason: error.to_string(),
        };
        self.writer.push(&entry).map_err(unfit)?;
        if self.writer.pending_bytes() >= PIECE_BYTES {
            self.writer.drain_into(&mut self.tree.bytes);
            self.tree.send(session)?;
        }
        if self.identities.bytes.len() >= PIECE_BYTES {
            self.identities.send(session)?;
        }
        self.items_done += 1;
        self.saving.means.observer.event(&Event::Progress(Progress {
            source: Some(self.saving.name),
            bytes_done: self.bytes_done,
            items_done: self.items_done,
            current: Some(&entry.path),
            ..Progress::default()
        }));
        Ok(())
    }

    /// Stores a file's contents; returns its entry and identity, None when it could not be read.
    fn file(
        &mut self,
        session: &mut BackupSession,
        walk: &mut Walk,
        found: Found,
        record: &mut SourceRecord,
    ) -> Result<Option<(Entry, Option<FileIdentity>)>, SaveError> {
        let known = match &mut self.parent {
            Some(parent) => parent.find(session, &found.entry.path)?,
            None => None,
        };
        if let Some((known, identity)) = &known
            && let EntryKind::File(stored) = &known.entry.kind
        {
            if is_unchanged(&known.entry, *identity, &found) {
                self.content.copy_parent(session, known.content_offset, stored.stream_bytes())?;
                self.read.push(false);
                self.unmodified += 1;
                let kind = EntryKind::File(stored.clone());
                return Ok(Some((Entry { kind, ..found.entry }, *identity)));
            }
            self.content.hint(known.content_offset);
        }
        let (content, clock) = (&mut self.content, self.saving.means.clock);
        let (mut head, is_tried) = (Head::default(), known.is_some() || self.tries_new);
        let send = |bytes: &[u8]| {
            if is_tried {
                head.push(bytes);
            }
            content.push(session, bytes)
        };
        match self.reader.read(&found, clock, send) {
            Ok(read) => {
                let now = match &read.entry.kind {
                    EntryKind::File(file) => Some(file.hash),
                    _ => None,
                };
                match known.as_ref().map(|(known, _)| (&known.entry.kind, known.content_offset)) {
                    // many files are read again and have not changed
                    Some((EntryKind::File(stored), offset)) if now != Some(stored.hash) => {
                        self.hardening.changed(session, &head, offset, stored.stream_bytes())?;
                    }
                    Some((EntryKind::File(_), _)) => {}
                    _ if is_tried => self.hardening.new_file(&head),
                    _ => {}
                }
                if read.replaced {
                    walk.forget_first_name(&found);
                }
                if let Some(warning) = read.warning {
                    self.torn += 1;
                    self.warn(record, warning);
                }
                self.read.push(true);
                if known.is_some() {
                    self.changed += 1;
                } else {
                    self.new += 1;
                }
                Ok(Some((read.entry, read.identity)))
            }
            Err(ReadError::Skipped(warning)) => {
                walk.forget_first_name(&found);
                self.unreadable += 1;
                self.warn(record, warning);
                Ok(None)
            }
            Err(ReadError::Receiver(error)) => Err(error.into()),
        }
    }

    fn close(
        mut self,
        session: &mut BackupSession,
        walk: &Walk,
        record: &mut SourceRecord,
        proofs: &mut Vec<Proving>,
    ) -> Result<(), SaveError> {
        self.tree.bytes = std::mem::take(&mut self.writer).finish();
        let content = self.content.finish_files(session, Digest(*self.root.finalize().as_bytes()))?;
        let (tree, tree_sha256) = self.tree.finish(session)?;
        let (identities, identities_sha256) = self.identities.finish(session)?;
        for (stored, what) in [(&tree, "tree"), (&identities, "identities")] {
            if stored.is_new {
                let name = format!("the {what} of {}", self.saving.name);
                proofs.push(Proving::Stream { version: stored.version, name });
            }
        }
        if content.is_new || tree.is_new {
            proofs.push(Proving::Files { content: content.version, tree: tree.version, read: self.read });
        }
        let stream = |role, stored: &StoredVersion, what: &str, sha256| StreamRecord {
            role,
            file_name: format!("{}.{what}", self.saving.name),
            version: stored.version,
            plain_bytes: stored.plain_bytes,
            blake3: stored.root,
            sha256,
            added_bytes: 0,
            volatile: Vec::new(),
        };
        record.streams.push(stream(StreamRole::Content, &content, "content", None));
        record.streams.push(stream(StreamRole::Tree, &tree, "tree", Some(tree_sha256)));
        record.streams.push(stream(StreamRole::Identities, &identities, "identities", Some(identities_sha256)));
        {
            let mut tried = self.saving.tried.borrow_mut();
            tried.softened = self.hardening.finish(&mut tried.sample);
        }
        let mut counts = walk.counts();
        counts.files_new = self.new;
        counts.files_changed = self.changed;
        counts.files_unmodified = self.unmodified;
        counts.changed_while_read = self.torn;
        counts.unreadable += self.unreadable;
        counts.files = counts.files.saturating_sub(self.unreadable);
        record.files = Some(counts);
        if self.dropped_warnings > 0 {
            let message = format!("{} more findings are not listed", self.dropped_warnings);
            let code = "files.more_findings".to_owned();
            let more = SourceWarning { code, subject: String::new(), message, incomplete: true };
            self.saving.warn(record, more);
        }
        Ok(())
    }
}
