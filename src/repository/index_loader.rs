//! Builds the index from the repository's index objects.

use super::chunk_table::ChunkTable;
use super::error::{RepoError, Result};
use super::index::RepositoryIndex;
use super::pack_reader::load_index;
use crate::domain::id::IndexId;
use crate::format::seal::Keys;
use crate::storage::{ErrorKind, ObjectKind, ReadStore};
use std::collections::HashSet;

/// Index objects as listed. Other names in the folder are not index objects; `verify` reports them.
///
/// # Errors
/// Storage errors.
pub fn list_objects(store: &dyn ReadStore) -> Result<Vec<IndexId>> {
    let names = store.list(ObjectKind::Index)?;
    Ok(names.iter().filter_map(|i| IndexId::parse(i.name.as_str().split('/').nth(1)?).ok()).collect())
}

/// Ids of the condemned records that exist.
///
/// # Errors
/// Storage errors.
pub fn condemned_ids(store: &dyn ReadStore) -> Result<Vec<[u8; 16]>> {
    let names = store.list(ObjectKind::Condemned)?;
    Ok(names.iter().filter_map(|i| Some(IndexId::parse(i.name.as_str().split('/').nth(1)?).ok()?.0)).collect())
}

/// What loading found besides the index.
#[derive(Debug, Default)]
pub struct LoadReport {
    /// Index objects that could not be read, with the reason.
    pub damaged: Vec<(IndexId, String)>,
}

/// Reads all index objects. A damaged one is reported and left out: what only it names is then missing, and whoever
/// needs it fails by itself; one bad object never blocks the rest.
///
/// # Errors
/// Storage errors other than damage.
pub fn load(store: &dyn ReadStore, keys: &Keys) -> Result<(RepositoryIndex, LoadReport)> {
    let mut index = RepositoryIndex::new(ChunkTable::default());
    let mut report = LoadReport::default();
    let mut superseded: HashSet<IndexId> = HashSet::new();
    let mut bodies = Vec::new();
    for id in list_objects(store)? {
        match load_index(store, keys, id) {
            Ok(body) => {
                superseded.extend(body.supersedes.iter().copied());
                bodies.push((id, body));
            }
            // replaced by a newer one since the listing
            Err(RepoError::Storage(e)) if e.kind == ErrorKind::NotFound => {}
            Err(error) if error.concerns_one_object() => report.damaged.push((id, error.to_string())),
            Err(error) => return Err(error),
        }
    }
    // what a repair has replaced is needed no more
    report.damaged.retain(|(id, _)| !superseded.contains(id));
    for (id, body) in bodies {
        if superseded.contains(&id) {
            continue;
        }
        for pack in &body.packs {
            index.add_pack(pack, Some(id), false);
        }
        index.add_object(id);
    }
    Ok((index, report))
}
