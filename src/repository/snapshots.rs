//! Snapshot records: writing them into a session, listing and loading committed ones.

use super::error::{RepoError, Result};
use crate::domain::id::{Digest, SnapshotId};
use crate::domain::snapshot::Snapshot;
use crate::format::envelope::{Expected, Header, ObjectTag};
use crate::format::records::KIND_SNAPSHOT;
use crate::format::seal::Keys;
use crate::format::sealed;
use crate::storage::{ObjectKind, ObjectName, ReadStore, SessionPart};

/// Largest snapshot record, bytes.
pub const SNAPSHOT_BYTES_MAX: usize = 64 << 20;

/// A snapshot as loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedSnapshot {
    /// The record.
    pub snapshot: Snapshot,
    /// Digest of the stored bytes of copy 0, or of copy 1 when copy 0 is damaged; names the record in later heads.
    pub digest: Digest,
    /// Damage of the first copy that the second made good, or of a tombstone or an acceptance that therefore counts for
    /// nothing.
    pub healed: Option<String>,
    /// True when it looked wrong and somebody said that it is good; `suspect` of the record is then taken away.
    pub accepted: bool,
}

/// Encodes a record, copy 0 or 1.
///
/// # Errors
/// A record beyond the format's limits.
pub fn encode(keys: &Keys, snapshot: &Snapshot, copy: u8) -> Result<Vec<u8>> {
    let header = Header::new(ObjectTag::Snapshot, keys.repository(), snapshot.id.0, keys.suite().number())
        .with_copy(u16::from(copy));
    sealed::encode(&header, keys.meta(), KIND_SNAPSHOT, u32::from(copy), snapshot)
        .map_err(|_| RepoError::Limit { what: "A snapshot record".to_owned() })
}

/// Decodes one copy.
///
/// # Errors
/// Damage, or another snapshot's record under this name.
pub fn decode(keys: &Keys, id: SnapshotId, copy: u8, bytes: &[u8]) -> Result<Snapshot> {
    let name = ObjectName::snapshot(id, if copy == 0 { SessionPart::Manifest } else { SessionPart::ManifestCopy });
    let failed = |source| RepoError::Format { object: name.to_string(), source };
    let expected = Expected {
        repository: Some(keys.repository()),
        object_id: Some(id.0),
        copy: Some(u16::from(copy)),
        ..Expected::any(ObjectTag::Snapshot)
    };
    let (_, snapshot) =
        sealed::decode::<Snapshot, SNAPSHOT_BYTES_MAX>(bytes, &expected, keys.meta(), KIND_SNAPSHOT, u32::from(copy))
            .map_err(failed)?;
    if snapshot.id == id {
        Ok(snapshot)
    } else {
        Err(RepoError::Damaged { object: name.to_string(), reason: format!("it describes snapshot {}", snapshot.id) })
    }
}

/// Ids of all committed snapshots, from a listing, sorted.
///
/// # Errors
/// Storage errors.
pub fn list(store: &dyn ReadStore) -> Result<Vec<SnapshotId>> {
    Ok(store.list_runs(ObjectKind::Snapshot)?)
}

/// Loads one snapshot, from its second copy if the first is damaged.
///
/// # Errors
/// Damage of both copies; storage errors.
pub fn load(store: &dyn ReadStore, keys: &Keys, id: SnapshotId) -> Result<LoadedSnapshot> {
    let read = |copy: u8, part: SessionPart| -> Result<(Snapshot, Digest)> {
        let bytes = store.get(&ObjectName::snapshot(id, part), SNAPSHOT_BYTES_MAX as u64)?;
        Ok((decode(keys, id, copy, &bytes)?, Digest(*blake3::hash(&bytes).as_bytes())))
    };
    match read(0, SessionPart::Manifest) {
        Ok((snapshot, digest)) => Ok(LoadedSnapshot { snapshot, digest, healed: None, accepted: false }),
        Err(error) if error.concerns_one_object() => {
            let (snapshot, digest) = read(1, SessionPart::ManifestCopy).map_err(|_| error_again(&error, id))?;
            Ok(LoadedSnapshot { snapshot, digest, healed: Some(error.to_string()), accepted: false })
        }
        Err(error) => Err(error),
    }
}

fn error_again(error: &RepoError, id: SnapshotId) -> RepoError {
    RepoError::Damaged { object: format!("snapshots/{id}"), reason: format!("both copies: {error}") }
}
