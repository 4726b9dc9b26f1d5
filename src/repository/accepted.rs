//! Acceptances: the small objects that say of suspect snapshots that they are good. docs/format.md, "Acceptances", gives
//! the bytes.
//!
//! Invariants: an acceptance counts only when it can be read and is about its snapshot; one that is damaged counts for
//! nothing and is reported, because a backup that looked wrong must not pass for a good one by accident. Nothing of the
//! snapshot itself changes.

use super::error::{RepoError, Result};
use super::proved_put::put_proved;
use crate::domain::id::{Digest, SnapshotId};
use crate::format::envelope::{Expected, Header, ObjectTag};
use crate::format::records::KIND_ACCEPTANCE;
use crate::format::seal::Keys;
use crate::format::sealed;
use crate::storage::{ErrorKind, ObjectKind, ObjectName, ReadStore, WriteStore};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};

/// Largest acceptance record, bytes.
pub const ACCEPTANCE_BYTES_MAX: usize = 1 << 20;
/// More than any acceptance has as a stored object, bytes.
pub const OBJECT_BYTES_MAX: u64 = 2 * ACCEPTANCE_BYTES_MAX as u64;

/// The record of an accepted snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acceptance {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Digest of its stored record, as snapshots name it in their heads.
    pub record: Digest,
    /// When it was accepted, nanoseconds since 1970 UTC.
    pub accepted_ns: i64,
    /// Host of whoever accepted it.
    pub host: String,
    /// User who accepted it.
    pub user: String,
    /// Version of the program that wrote this.
    pub tool_version: String,
    /// The sources that had looked wrong.
    pub sources: Vec<String>,
}

/// All acceptances of a repository.
#[derive(Debug, Default)]
pub struct Acceptances {
    /// Those that can be read.
    pub whole: BTreeMap<SnapshotId, Acceptance>,
    /// Those that cannot; their snapshots are as suspect as before.
    pub damaged: BTreeMap<SnapshotId, RepoError>,
}

/// Encodes an acceptance as an object.
///
/// # Errors
/// A record beyond the format's limits.
pub fn encode(keys: &Keys, acceptance: &Acceptance) -> Result<Vec<u8>> {
    let header = Header::new(ObjectTag::Acceptance, keys.repository(), acceptance.snapshot.0, keys.suite().number());
    sealed::encode(&header, keys.meta(), KIND_ACCEPTANCE, 0, acceptance)
        .map_err(|_| RepoError::Limit { what: "An acceptance".to_owned() })
}

/// Decodes the acceptance of a snapshot.
///
/// # Errors
/// Damage, or another snapshot's acceptance under this name.
pub fn decode(keys: &Keys, id: SnapshotId, bytes: &[u8]) -> Result<Acceptance> {
    let object = || ObjectName::acceptance(id).to_string();
    let expected = Expected {
        repository: Some(keys.repository()),
        object_id: Some(id.0),
        copy: Some(0),
        ..Expected::any(ObjectTag::Acceptance)
    };
    let (_, acceptance) =
        sealed::decode::<Acceptance, ACCEPTANCE_BYTES_MAX>(bytes, &expected, keys.meta(), KIND_ACCEPTANCE, 0)
            .map_err(|source| RepoError::Format { object: object(), source })?;
    if acceptance.snapshot == id {
        Ok(acceptance)
    } else {
        let reason = format!("it is about snapshot {}", acceptance.snapshot);
        Err(RepoError::Damaged { object: object(), reason })
    }
}

/// Ids that acceptances name, sorted, readable or not.
///
/// # Errors
/// Storage errors.
pub fn list(store: &dyn ReadStore) -> Result<Vec<SnapshotId>> {
    let named = |name: &ObjectName| SnapshotId::parse(name.as_str().strip_prefix("accepted/")?).ok();
    Ok(store.list(ObjectKind::Accepted)?.iter().filter_map(|info| named(&info.name)).collect())
}

/// Reads the acceptances of those snapshots that `wanted` names. Of others nobody asks.
///
/// # Errors
/// Storage errors other than damage.
pub fn load(store: &dyn ReadStore, keys: &Keys, wanted: &HashSet<SnapshotId>) -> Result<Acceptances> {
    let mut all = Acceptances::default();
    if wanted.is_empty() {
        return Ok(all);
    }
    for id in list(store)?.into_iter().filter(|id| wanted.contains(id)) {
        let read = store.get(&ObjectName::acceptance(id), OBJECT_BYTES_MAX).map_err(RepoError::from);
        match read.and_then(|bytes| decode(keys, id, &bytes)) {
            Ok(acceptance) => _ = all.whole.insert(id, acceptance),
            // pruned with its snapshot since the listing
            Err(RepoError::Storage(e)) if e.kind == ErrorKind::NotFound => {}
            Err(error) if error.concerns_one_object() => _ = all.damaged.insert(id, error),
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// Writes an acceptance: its snapshot counts as good from now on.
///
/// # Errors
/// Storage errors; [`ErrorKind::AlreadyExists`] when the snapshot has one.
pub fn write(store: &dyn WriteStore, keys: &Keys, acceptance: &Acceptance) -> Result<()> {
    let bytes = encode(keys, acceptance)?;
    if decode(keys, acceptance.snapshot, &bytes)? != *acceptance {
        return Err(RepoError::ProofFailed {
            what: "the acceptance".to_owned(),
            reason: "it decodes to another record".to_owned(),
        });
    }
    put_proved(store, &ObjectName::acceptance(acceptance.snapshot), &bytes)?;
    Ok(())
}
