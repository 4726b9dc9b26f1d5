//! A files source without the files that are lost: a new tree, and contents that refer to what is there.

use super::RepairError;
use crate::domain::entry::EntryKind;
use crate::domain::id::{Digest, VersionId};
use crate::domain::snapshot::{SourceRecord, SourceWarning, StreamRecord, StreamRole};
use crate::format::tree::TreeWriter;
use crate::ops::backup::prove::Proving;
use crate::ops::cancel::Cancel;
use crate::repository::error::RepoError;
use crate::repository::reading::{PlacedEntry, TreeCursor};
use crate::repository::session::BackupSession;
use crate::repository::stream_reader::StreamReader;
use crate::repository::stream_writer::{StoredVersion, StreamSettings, StreamWriter};
use aws_lc_rs::digest::{Context, SHA256};
use std::collections::HashSet;

/// Bytes of the tree gathered before they go to its stream.
const TREE_PIECE_BYTES: usize = 256 << 10;
/// Bytes of a file compared at a time.
const PIECE_BYTES: u64 = 2 << 20;
/// Lost files named in the record and in reports; the rest are counted.
pub(super) const PATHS_MAX: usize = 1000;

/// What became of a files source.
#[derive(Debug, Clone, Default)]
pub(super) struct Rebuilt {
    /// Content and tree; none when nothing of the source is left.
    pub(super) streams: Vec<StreamRecord>,
    /// Files kept.
    pub(super) kept: u64,
    /// Files lost, the first ones by name.
    pub(super) lost_paths: Vec<String>,
    /// All lost files.
    pub(super) lost: u64,
}

impl Rebuilt {
    fn lose(&mut self, path: &[u8]) {
        self.lost += 1;
        if self.lost_paths.len() < PATHS_MAX {
            self.lost_paths.push(String::from_utf8_lossy(path).into_owned());
        }
    }

    /// Findings for the record.
    pub(super) fn warnings(&self) -> Vec<SourceWarning> {
        let warning = |code: &str, subject: &str, message: String| SourceWarning {
            code: code.to_owned(),
            subject: subject.to_owned(),
            message,
            incomplete: true,
        };
        let of =
            |path: &String| warning("file.lost", path, format!("{path} was damaged in the repository and is lost"));
        let mut all: Vec<SourceWarning> = self.lost_paths.iter().map(of).collect();
        if let Some(more @ 1..) = self.lost.checked_sub(self.lost_paths.len() as u64) {
            all.push(warning("files.more_findings", "", format!("{more} more lost files are not listed")));
        }
        all
    }
}

/// Opens a version without asking whether all of it is there; `None` when its record cannot be read.
fn open(session: &BackupSession, version: VersionId) -> Result<Option<StreamReader>, RepairError> {
    match StreamReader::open(session.index(), session.reader(), version) {
        Ok(reader) => Ok(Some(reader)),
        Err(error) if error.concerns_one_object() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Writes content and tree of a source without what cannot be read. Every file that stays was compared with its hash.
/// `None` when the tree cannot be read.
pub(super) fn rebuild(
    session: &mut BackupSession,
    source: &SourceRecord,
    proofs: &mut Vec<Proving>,
    cancel: &Cancel,
) -> Result<Option<Rebuilt>, RepairError> {
    let of = |role| source.streams.iter().find(|s| s.role == role);
    let (Some(tree), Some(content)) = (of(StreamRole::Tree), of(StreamRole::Content)) else { return Ok(None) };
    let (Some(old_tree), Some(tree_parent)) = (open(session, tree.version)?, open(session, tree.version)?) else {
        return Ok(None);
    };
    let (mut old_content, parent) = (open(session, content.version)?, open(session, content.version)?);
    // a full recipe, so that nothing of the damaged record is needed once the original is forgotten
    let settings = StreamSettings { full_recipe_depth: 0, ..StreamSettings::files() };
    let mut contents = StreamWriter::new(session, parent, Vec::new(), settings);
    let mut trees = StreamWriter::new(session, Some(tree_parent), Vec::new(), StreamSettings::tree());
    let (mut writer, mut bytes, mut sha256) = (TreeWriter::new(), Vec::new(), Context::new(&SHA256));
    let (mut root, mut rebuilt) = (blake3::Hasher::new(), Rebuilt::default());
    let mut lost: HashSet<Vec<u8>> = HashSet::new();
    let mut cursor = TreeCursor::new(old_tree);
    loop {
        cancel.check()?;
        let placed = match cursor.next(session.index(), session.reader()) {
            Ok(Some(placed)) => placed,
            Ok(None) => break,
            Err(error) if error.concerns_one_object() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match &placed.entry.kind {
            EntryKind::File(file) => {
                if !is_whole(session, old_content.as_mut(), &placed)? {
                    rebuilt.lose(&placed.entry.path);
                    lost.insert(placed.entry.path);
                    continue;
                }
                if file.stream_bytes() > 0 {
                    contents.copy_parent(session, placed.content_offset, file.stream_bytes())?;
                }
                root.update(&file.stream_bytes().to_le_bytes()).update(&file.hash.0);
                rebuilt.kept += 1;
            }
            // another name of a file that is lost
            EntryKind::HardLink(first) if lost.contains(first) => {
                rebuilt.lose(&placed.entry.path);
                continue;
            }
            _ => {}
        }
        let unfit = |e: crate::format::tree::TreeError| RepoError::damaged_version(tree.version, format!("tree: {e}"));
        writer.push(&placed.entry).map_err(unfit)?;
        if writer.pending_bytes() >= TREE_PIECE_BYTES {
            writer.drain_into(&mut bytes);
            sha256.update(&bytes);
            trees.push(session, &bytes)?;
            bytes.clear();
        }
    }
    bytes.extend(writer.finish());
    sha256.update(&bytes);
    trees.push(session, &bytes)?;
    let new_content = contents.finish_files(session, Digest(*root.finalize().as_bytes()))?;
    let new_tree = trees.finish(session)?;
    let mut digest = Digest::default();
    digest.0.copy_from_slice(sha256.finish().as_ref());
    let name = format!("the tree of {}", source.name);
    proofs.push(Proving::Stream { version: new_tree.version, name });
    let read = vec![true; usize::try_from(rebuilt.kept).unwrap_or(0)];
    proofs.push(Proving::Files { content: new_content.version, tree: new_tree.version, read });
    rebuilt.streams = vec![record(content, &new_content, None), record(tree, &new_tree, Some(digest))];
    Ok(Some(rebuilt))
}

fn record(old: &StreamRecord, stored: &StoredVersion, sha256: Option<Digest>) -> StreamRecord {
    StreamRecord {
        version: stored.version,
        plain_bytes: stored.plain_bytes,
        blake3: stored.root,
        sha256,
        added_bytes: 0,
        volatile: Vec::new(),
        ..old.clone()
    }
}

/// Compares a file with its hash.
fn is_whole(
    session: &BackupSession,
    content: Option<&mut StreamReader>,
    placed: &PlacedEntry,
) -> Result<bool, RepairError> {
    let EntryKind::File(file) = &placed.entry.kind else { return Ok(true) };
    let (mut at, end) = (placed.content_offset, placed.content_offset.saturating_add(file.stream_bytes()));
    let (mut hasher, mut buffer) = (blake3::Hasher::new(), Vec::new());
    if at < end {
        let Some(content) = content else { return Ok(false) };
        while at < end {
            let to = (at + PIECE_BYTES).min(end);
            buffer.clear();
            match content.read(session.index(), session.reader(), at, to, &mut buffer) {
                Ok(()) => {}
                Err(error) if error.concerns_one_object() => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            hasher.update(&buffer);
            at = to;
        }
    }
    Ok(*hasher.finalize().as_bytes() == file.hash.0)
}
