//! Condemned records: what a prune is about to delete. They are durable before anything is deleted, and a run that
//! writes leaves out of its index whatever they name.
//!
//! docs/format.md, "Garbage collection", says when a record is ripe.

use super::error::{RepoError, Result};
use super::proved_put::put_proved;
use crate::domain::id::{CondemnedId, PackId, SnapshotId};
use crate::format::envelope::{Expected, Header, ObjectTag};
use crate::format::records::KIND_CONDEMNED;
use crate::format::seal::Keys;
use crate::format::sealed;
use crate::storage::{ErrorKind, ObjectKind, ObjectName, ReadStore, WriteStore};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// Largest condemned record, bytes.
pub const CONDEMNED_BYTES_MAX: usize = 64 << 20;

/// Packs and forgotten snapshots that are about to be deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condemned {
    /// The record's name.
    pub id: CondemnedId,
    /// When it was written, nanoseconds since 1970 UTC. For people; nothing rests on it.
    pub created_ns: i64,
    /// Host that wrote it.
    pub host: String,
    /// The packs, ascending.
    pub packs: Vec<PackId>,
    /// Forgotten snapshots that are deleted together with them, ascending.
    pub snapshots: Vec<SnapshotId>,
}

/// Ids of the condemned records that exist, ascending.
///
/// # Errors
/// Storage errors.
pub fn list(store: &dyn ReadStore) -> Result<Vec<CondemnedId>> {
    let names = store.list(ObjectKind::Condemned)?;
    let id = |name: &ObjectName| CondemnedId::parse(name.as_str().split('/').nth(1)?).ok();
    Ok(names.iter().filter_map(|info| id(&info.name)).collect())
}

/// Reads a record; `None` when it was removed since the listing.
///
/// # Errors
/// Storage errors and damage.
pub fn load(store: &dyn ReadStore, keys: &Keys, id: CondemnedId) -> Result<Option<Condemned>> {
    let name = ObjectName::condemned(id);
    match store.get(&name, CONDEMNED_BYTES_MAX as u64) {
        Ok(bytes) => decode(keys, id, &bytes).map(Some),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Decodes the bytes of a record.
///
/// # Errors
/// Damage.
pub fn decode(keys: &Keys, id: CondemnedId, bytes: &[u8]) -> Result<Condemned> {
    let object = || ObjectName::condemned(id).to_string();
    let expected =
        Expected { repository: Some(keys.repository()), object_id: Some(id.0), ..Expected::any(ObjectTag::Condemned) };
    let (_, record) =
        sealed::decode::<Condemned, CONDEMNED_BYTES_MAX>(bytes, &expected, keys.meta(), KIND_CONDEMNED, 0)
            .map_err(|source| RepoError::Format { object: object(), source })?;
    if record.id == id {
        Ok(record)
    } else {
        Err(RepoError::Damaged { object: object(), reason: format!("it is record {}", record.id) })
    }
}

/// Writes a record, durably.
///
/// # Errors
/// Storage errors.
pub fn put(store: &dyn WriteStore, keys: &Keys, record: &Condemned) -> Result<()> {
    let header = Header::new(ObjectTag::Condemned, keys.repository(), record.id.0, keys.suite().number());
    let bytes = sealed::encode(&header, keys.meta(), KIND_CONDEMNED, 0, record)
        .map_err(|_| RepoError::Limit { what: "A condemned record".to_owned() })?;
    put_proved(store, &ObjectName::condemned(record.id), &bytes)
}

/// Every record that exists.
///
/// # Errors
/// Storage errors; a record that cannot be read: whoever writes must not go on, because it cannot know what to leave
/// alone.
pub fn load_all(store: &dyn ReadStore, keys: &Keys) -> Result<Vec<Condemned>> {
    let mut all = Vec::new();
    for id in list(store)? {
        all.extend(load(store, keys, id)?);
    }
    Ok(all)
}

/// All packs that the records name.
pub fn packs_of(records: &[Condemned]) -> HashSet<PackId> {
    records.iter().flat_map(|r| r.packs.iter().copied()).collect()
}
