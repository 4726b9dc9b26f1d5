//! Builds the index from the repository's index objects.

use super::chunk_table::ChunkTable;
use super::error::{RepoError, Result};
use super::index::{PackNumber, RepositoryIndex};
use super::index_cache;
use super::pack_reader::load_index;
use crate::domain::id::{IndexId, PackId};
use crate::format::seal::Keys;
use crate::storage::{ErrorKind, ObjectKind, ReadStore};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

/// Index objects as listed. Other names in the folder are not index objects; `verify` reports them.
///
/// # Errors
/// Storage errors.
pub fn list_objects(store: &dyn ReadStore) -> Result<Vec<IndexId>> {
    let names = store.list(ObjectKind::Index)?;
    Ok(names.iter().filter_map(|i| IndexId::parse(i.name.as_str().split('/').nth(1)?).ok()).collect())
}

/// What loading found besides the index.
#[derive(Debug, Default)]
pub struct LoadReport {
    /// Index objects that could not be read, with the reason.
    pub damaged: Vec<(IndexId, String)>,
}

/// How often the objects are listed again because one of them was replaced meanwhile.
const LISTINGS_MAX: u32 = 100;
/// Index objects beyond those in the local cache before the cache is written again.
const NEW_OBJECTS_MAX: usize = 64;
/// Chunks beyond those in the cache, as one part of the cached ones, before it is written again.
const NEW_CHUNKS_SHARE: u64 = 32;
/// Below this many chunks in all a cache saves nothing.
const CACHE_CHUNKS_MIN: u64 = 50_000;

/// Reads the index without the packs in `excluded` and what they hold, past the local cache if there are any.
/// `cache` is used for spilling then.
///
/// # Errors
/// As [`load`].
pub fn load_without(
    store: &dyn ReadStore,
    keys: &Arc<Keys>,
    cache: Option<&Path>,
    excluded: &HashSet<PackId>,
) -> Result<(RepositoryIndex, LoadReport)> {
    if excluded.is_empty() {
        return load(store, keys, cache);
    }
    let mut index = RepositoryIndex::new(ChunkTable::on_disk(cache, keys));
    let report = add_objects(store, keys, &list_objects(store)?, excluded, &mut index)?;
    Ok((index, report))
}

/// Reads the index: from the local cache in `cache` as far as it goes, and all newer index objects. A damaged object
/// is reported and left out: what only it names is then missing, and whoever needs it fails by itself; one bad object
/// never blocks the rest.
///
/// # Errors
/// Storage errors other than damage.
pub fn load(store: &dyn ReadStore, keys: &Arc<Keys>, cache: Option<&Path>) -> Result<(RepositoryIndex, LoadReport)> {
    let listed = list_objects(store)?;
    let cached = cache.and_then(|folder| index_cache::open(folder, keys));
    // an object that is gone was replaced: what the cache says of it may be gone, too
    let mut index = cached
        .filter(|index| {
            let present: HashSet<IndexId> = listed.iter().copied().collect();
            index.objects().keys().all(|id| present.contains(id))
        })
        .unwrap_or_else(|| RepositoryIndex::new(ChunkTable::on_disk(cache, keys)));
    let cached_chunks = index.chunks().len();
    let cached_objects = index.objects().len();
    let report = add_objects(store, keys, &listed, &HashSet::new(), &mut index)?;
    let new_chunks = index.chunks().len() - cached_chunks;
    let many =
        index.objects().len() - cached_objects > NEW_OBJECTS_MAX || new_chunks > cached_chunks / NEW_CHUNKS_SHARE;
    if let Some(folder) = cache
        && many
        && index.chunks().len() >= CACHE_CHUNKS_MIN
    {
        // a cache that cannot be written is a cache that is not there
        let _ = index_cache::store(folder, keys, &mut index);
    }
    Ok((index, report))
}

/// The index as it is now, starting from one that was read before: `None` when nothing has changed. Packs keep their
/// numbers; the chunk table is left out.
///
/// # Errors
/// Storage errors other than damage.
pub fn reload(store: &dyn ReadStore, keys: &Arc<Keys>, before: &RepositoryIndex) -> Result<Option<RepositoryIndex>> {
    let listed: HashSet<IndexId> = list_objects(store)?.into_iter().collect();
    if listed.len() == before.objects().len() && listed.iter().all(|id| before.has_object(*id)) {
        return Ok(None);
    }
    let named = |id: &IndexId| before.objects().get(id).map_or(&[][..], Vec::as_slice);
    let still: HashSet<PackNumber> = listed.iter().flat_map(named).copied().collect();
    let all = 0..PackNumber::try_from(before.packs().len()).unwrap_or(PackNumber::MAX);
    let mut index = before.without(&all.filter(|n| !still.contains(n)).collect());
    index.keep_objects(&listed);
    let new: Vec<IndexId> = listed.into_iter().collect();
    add_objects(store, keys, &new, &HashSet::new(), &mut index)?;
    Ok(Some(index))
}

/// Adds the index objects that are not known yet, without the packs in `excluded`.
fn add_objects(
    store: &dyn ReadStore,
    keys: &Arc<Keys>,
    listed: &[IndexId],
    excluded: &HashSet<PackId>,
    index: &mut RepositoryIndex,
) -> Result<LoadReport> {
    let mut report = LoadReport::default();
    let mut superseded: HashSet<IndexId> = HashSet::new();
    let mut waiting: Vec<IndexId> = listed.to_vec();
    let mut again = 0;
    while let Some(id) = waiting.pop() {
        if index.has_object(id) {
            continue;
        }
        match load_index(store, keys, id) {
            Ok(body) => {
                superseded.extend(body.supersedes.iter().copied());
                for pack in body.packs.iter().filter(|p| !excluded.contains(&p.pack)) {
                    index.add_pack(pack, Some(id));
                }
                index.add_object(id);
            }
            // replaced by newer ones since the listing
            Err(RepoError::Storage(e)) if e.kind == ErrorKind::NotFound && again < LISTINGS_MAX => {
                again += 1;
                waiting = list_objects(store)?;
            }
            Err(error) if error.concerns_one_object() => report.damaged.push((id, error.to_string())),
            Err(error) => return Err(error),
        }
    }
    report.damaged.sort_unstable();
    report.damaged.dedup();
    // a damaged object whose place another one has taken is history
    report.damaged.retain(|(id, _)| !superseded.contains(id));
    Ok(report)
}
