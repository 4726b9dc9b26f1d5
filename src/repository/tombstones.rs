//! Tombstones: the small objects that hide forgotten snapshots. docs/format.md, "Tombstones", gives the bytes.
//!
//! Invariants: a tombstone hides its snapshot only when it can be read and is about that snapshot; one that is damaged
//! hides nothing and is reported. Nothing of the snapshot itself changes, so removing the tombstone brings it back for
//! as long as its packs are there.

use super::error::{RepoError, Result};
use super::proved_put::put_proved;
use crate::domain::id::{Digest, SnapshotId};
use crate::format::envelope::{Expected, Header, ObjectTag};
use crate::format::records::KIND_TOMBSTONE;
use crate::format::seal::Keys;
use crate::format::sealed;
use crate::storage::{ErrorKind, ObjectKind, ObjectName, ReadStore, WriteStore};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Largest tombstone record, bytes.
pub const TOMBSTONE_BYTES_MAX: usize = 64 << 10;
/// Longest reason that is kept, bytes.
pub const REASON_BYTES_MAX: usize = 16 << 10;

/// The record of a forgotten snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Digest of its stored record, as snapshots name it in their heads.
    pub record: Digest,
    /// Its backup time, nanoseconds since 1970 UTC.
    pub time_ns: i64,
    /// When it was forgotten, nanoseconds since 1970 UTC.
    pub forgotten_ns: i64,
    /// Host of whoever forgot it.
    pub host: String,
    /// User who forgot it.
    pub user: String,
    /// Version of the program that wrote this.
    pub tool_version: String,
    /// Why, for people.
    pub reason: String,
}

/// All tombstones of a repository.
#[derive(Debug, Default)]
pub struct Tombstones {
    /// Those that can be read; their snapshots are hidden.
    pub whole: BTreeMap<SnapshotId, Tombstone>,
    /// Those that cannot; their snapshots stay visible.
    pub damaged: BTreeMap<SnapshotId, RepoError>,
}

impl Tombstones {
    /// True when the snapshot is hidden.
    pub fn hides(&self, id: SnapshotId) -> bool {
        self.whole.contains_key(&id)
    }
}

/// Encodes a tombstone as an object.
///
/// # Errors
/// A record beyond the format's limits.
pub fn encode(keys: &Keys, tombstone: &Tombstone) -> Result<Vec<u8>> {
    let header = Header::new(ObjectTag::Tombstone, keys.repository(), tombstone.snapshot.0, keys.suite().number());
    sealed::encode(&header, keys.meta(), KIND_TOMBSTONE, 0, tombstone)
        .map_err(|_| RepoError::Limit { what: "A tombstone".to_owned() })
}

/// Decodes the tombstone of a snapshot.
///
/// # Errors
/// Damage, or another snapshot's tombstone under this name.
pub fn decode(keys: &Keys, id: SnapshotId, bytes: &[u8]) -> Result<Tombstone> {
    let object = || ObjectName::tombstone(id).to_string();
    let expected = Expected {
        repository: Some(keys.repository()),
        object_id: Some(id.0),
        copy: Some(0),
        ..Expected::any(ObjectTag::Tombstone)
    };
    let (_, tombstone) =
        sealed::decode::<Tombstone, TOMBSTONE_BYTES_MAX>(bytes, &expected, keys.meta(), KIND_TOMBSTONE, 0)
            .map_err(|source| RepoError::Format { object: object(), source })?;
    if tombstone.snapshot == id {
        Ok(tombstone)
    } else {
        let reason = format!("it is about snapshot {}", tombstone.snapshot);
        Err(RepoError::Damaged { object: object(), reason })
    }
}

/// Ids that tombstones name, sorted, readable or not.
///
/// # Errors
/// Storage errors.
pub fn list(store: &dyn ReadStore) -> Result<Vec<SnapshotId>> {
    let named = |name: &ObjectName| SnapshotId::parse(name.as_str().strip_prefix("forgotten/")?).ok();
    Ok(store.list(ObjectKind::Forgotten)?.iter().filter_map(|info| named(&info.name)).collect())
}

/// Reads every tombstone.
///
/// # Errors
/// Storage errors other than damage.
pub fn load(store: &dyn ReadStore, keys: &Keys) -> Result<Tombstones> {
    let mut all = Tombstones::default();
    for id in list(store)? {
        let read = store.get(&ObjectName::tombstone(id), OBJECT_BYTES_MAX).map_err(RepoError::from);
        match read.and_then(|bytes| decode(keys, id, &bytes)) {
            Ok(tombstone) => _ = all.whole.insert(id, tombstone),
            // undeleted since the listing
            Err(RepoError::Storage(e)) if e.kind == ErrorKind::NotFound => {}
            Err(error) if error.concerns_one_object() => _ = all.damaged.insert(id, error),
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// More than any tombstone has as a stored object, bytes.
pub const OBJECT_BYTES_MAX: u64 = 2 * TOMBSTONE_BYTES_MAX as u64;

/// Writes a tombstone: its snapshot is hidden from now on. A longer reason than the format takes is cut.
///
/// # Errors
/// Storage errors; [`ErrorKind::AlreadyExists`] when the snapshot has one.
pub fn write(store: &dyn WriteStore, keys: &Keys, tombstone: &Tombstone) -> Result<()> {
    let mut tombstone = tombstone.clone();
    let end = tombstone.reason.floor_char_boundary(REASON_BYTES_MAX);
    tombstone.reason.truncate(end);
    let bytes = encode(keys, &tombstone)?;
    if decode(keys, tombstone.snapshot, &bytes)? != tombstone {
        return Err(RepoError::ProofFailed {
            what: "the tombstone".to_owned(),
            reason: "it decodes to another record".to_owned(),
        });
    }
    put_proved(store, &ObjectName::tombstone(tombstone.snapshot), &bytes)?;
    Ok(())
}
