//! The identities of the parent's files, read beside its tree.
//!
//! Invariant: nothing that is wrong with them stops a backup. What cannot be told here is "not known", and a file whose
//! identity is not known is read.

use crate::domain::entry::FileIdentity;
use crate::domain::id::VersionId;
use crate::format::identities::{self, IDENTITY_BYTES};
use crate::repository::error::RepoError;
use crate::repository::session::BackupSession;
use crate::repository::stream_reader::StreamReader;

/// Bytes read at a time.
const PIECE_BYTES: u64 = 64 << 10;

/// Identities by the number of the file in its tree.
#[derive(Debug, Default)]
pub(super) struct ParentIdentities {
    /// None: nothing is known (any more).
    stream: Option<StreamReader>,
    /// Offset of the first byte in memory.
    start: u64,
    bytes: Vec<u8>,
}

impl ParentIdentities {
    /// Those of a stored version; none are known when it cannot be used.
    ///
    /// # Errors
    /// Storage errors other than damage.
    pub(super) fn open(session: &BackupSession, version: VersionId) -> Result<Self, RepoError> {
        let stream = session.open_parent(version)?;
        if stream.is_none() {
            note(session, &format!("version {version} cannot be used"));
        }
        Ok(Self { stream, ..Self::default() })
    }

    /// The identity of the file with this number, counted from 0 in the order of the tree. Asked in ascending order,
    /// each byte is read once.
    ///
    /// # Errors
    /// Storage errors other than damage.
    pub(super) fn of(&mut self, session: &BackupSession, number: u64) -> Result<Option<FileIdentity>, RepoError> {
        let Some(stream) = &mut self.stream else { return Ok(None) };
        let at = number.saturating_mul(IDENTITY_BYTES as u64);
        let end = at.saturating_add(IDENTITY_BYTES as u64);
        if end > stream.plain_bytes() {
            let version = stream.head().version;
            note(session, &format!("version {version} has fewer identities than its tree has files"));
            *self = Self::default();
            return Ok(None);
        }
        if at < self.start || end > self.start + self.bytes.len() as u64 {
            self.bytes.clear();
            self.start = at;
            let to = at.saturating_add(PIECE_BYTES).min(stream.plain_bytes());
            match stream.read(session.index(), session.reader(), at, to, &mut self.bytes) {
                Ok(()) => {}
                Err(error) if error.is_damage() => {
                    note(session, &error.to_string());
                    *self = Self::default();
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        let found = usize::try_from(at - self.start).ok().and_then(|at| self.bytes.get(at..));
        Ok(found.and_then(<[u8]>::first_chunk).and_then(|bytes| identities::get(*bytes)))
    }
}

fn note(session: &BackupSession, what: &str) {
    session.reader().note_healed(format!("{what}; files are read again, although they may not have changed"));
}

#[cfg(test)]
#[path = "identities_tests.rs"]
mod tests;
