//! Before the commit: what was stored is decoded from storage and compared with what was read.

use crate::domain::entry::EntryKind;
use crate::domain::id::VersionId;
use crate::repository::error::{RepoError, Result};
use crate::repository::reading::TreeCursor;
use crate::repository::session::BackupSession;
use crate::repository::stream_reader::StreamReader;

/// Bytes compared at a time.
const PIECE_BYTES: u64 = 2 << 20;

/// A new version, and how it is proved.
#[derive(Debug)]
pub(crate) enum Proving {
    /// By the hash of the whole stream.
    Stream {
        /// The version.
        version: VersionId,
        /// Its name, for messages.
        name: String,
    },
    /// Contents of files, each by its hash in the tree. Files that were not read are ranges of the parent, which was
    /// proved when it was stored; their lengths are checked.
    Files {
        /// The content stream.
        content: VersionId,
        /// The tree stream.
        tree: VersionId,
        /// For each file in tree order: it was read by this run.
        read: Vec<bool>,
    },
}

/// Decodes and compares.
///
/// # Errors
/// [`RepoError::ProofFailed`]; damage; storage errors.
pub(crate) fn prove(session: &BackupSession, proving: &Proving) -> Result<()> {
    match proving {
        Proving::Stream { version, name } => session.prove(*version).map_err(|error| match error {
            RepoError::ProofFailed { reason, .. } => RepoError::ProofFailed { what: name.clone(), reason },
            other => other,
        }),
        Proving::Files { content, tree, read } => prove_files(session, *content, *tree, read),
    }
}

fn prove_files(session: &BackupSession, content: VersionId, tree: VersionId, read: &[bool]) -> Result<()> {
    let (index, packs) = (session.index(), session.reader());
    let mut content = StreamReader::open(index, packs, content)?;
    let mut cursor = TreeCursor::new(StreamReader::open(index, packs, tree)?);
    let mut was_read = read.iter();
    let mut buffer = Vec::new();
    let mut end = 0;
    while let Some(placed) = cursor.next(index, packs)? {
        let EntryKind::File(file) = &placed.entry.kind else { continue };
        end = placed.content_offset + file.stream_bytes();
        let failed = |reason: &str| RepoError::ProofFailed {
            what: String::from_utf8_lossy(&placed.entry.path).into_owned(),
            reason: reason.to_owned(),
        };
        if end > content.plain_bytes() {
            return Err(failed("its contents are not all there"));
        }
        match was_read.next() {
            Some(true) => {}
            Some(false) => continue,
            None => return Err(failed("the tree has more files than were saved")),
        }
        let mut hasher = blake3::Hasher::new();
        let mut at = placed.content_offset;
        while at < end {
            let to = (at + PIECE_BYTES).min(end);
            buffer.clear();
            content.read(index, packs, at, to, &mut buffer)?;
            hasher.update(&buffer);
            at = to;
        }
        if *hasher.finalize().as_bytes() != file.hash.0 {
            return Err(failed("the hashes differ"));
        }
    }
    if was_read.next().is_some() || end != content.plain_bytes() {
        let reason = "the tree and the contents do not fit together".to_owned();
        return Err(RepoError::ProofFailed { what: "a files source".to_owned(), reason });
    }
    Ok(())
}
