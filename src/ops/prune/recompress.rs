//! Packs whose literals are all old and would be smaller at a higher level.
//!
//! Nothing in a pack tells how hard it was compressed, so the largest blob is tried. A pack that would gain too little
//! is remembered in the local catalog, so that it is tried once on each machine.

use super::{PruneError, PruneMeans, View, unreadable};
use crate::domain::id::PackId;
use crate::format::compress;
use crate::format::records::BlobMeta;
use crate::repository::error::RepoError;
use crate::repository::index::PackNumber;
use crate::repository::rewrite::HARD_LEVEL;
use std::collections::{BTreeSet, HashSet};

/// Least gain worth rewriting a pack for, parts of a thousand of the blob that is tried.
const GAIN_PERMILLE_MIN: usize = 30;
/// Blobs smaller than this say nothing about a pack.
const TRIED_BYTES_MIN: u32 = 4 << 10;

/// Finds packs that hold literals of nothing younger than `before_ns` and are worth it. Of a version that no kept
/// snapshot names the age is not known; what refers to it is younger, so it counts as old.
pub(super) fn worth_it(
    means: &PruneMeans<'_>,
    view: &View,
    before_ns: i64,
    remember: bool,
) -> Result<HashSet<PackNumber>, PruneError> {
    let since = |space| view.roots.first_named_ns.get(&view.marking.owner_of(space));
    let is_young = |space| since(space).is_some_and(|since| *since >= before_ns);
    let (mut old, mut young) = (BTreeSet::new(), HashSet::new());
    for (space, parts) in view.index.spaces() {
        let numbers = parts.iter().map(|part| part.pack);
        if is_young(space) { young.extend(numbers) } else { old.extend(numbers) }
    }
    let settled = means.catalog.settled_packs();
    let (mut found, mut nothing_gained): (HashSet<PackNumber>, Vec<PackId>) = (HashSet::new(), Vec::new());
    for number in old.into_iter().filter(|number| !young.contains(number)) {
        means.cancel.check()?;
        let Some(pack) = view.index.pack(number).map(|info| info.id).filter(|id| !settled.contains(id)) else {
            continue;
        };
        if gains(view, number).map_err(unreadable)? {
            found.insert(number);
        } else {
            nothing_gained.push(pack);
        }
    }
    if remember {
        let gone: Vec<PackId> = settled.into_iter().filter(|id| view.index.pack_number(*id).is_none()).collect();
        means.catalog.note_settled_packs(&nothing_gained, &gone);
    }
    Ok(found)
}

/// Tries the largest blob of literals.
fn gains(view: &View, number: PackNumber) -> Result<bool, RepoError> {
    let table = view.packs.table(&view.index, number)?;
    let is_literal = |meta| matches!(meta, BlobMeta::Segment { .. } | BlobMeta::Sparse { .. });
    let largest = (0u32..)
        .zip(&table.table.blobs)
        .filter(|(_, blob)| is_literal(blob.meta) && blob.raw_bytes >= TRIED_BYTES_MIN)
        .max_by_key(|(_, blob)| blob.raw_bytes);
    let Some((ordinal, _)) = largest else { return Ok(false) };
    let (packed, raw_bytes) = view.packs.packed_blob(&view.index, number, &table, ordinal)?;
    let (mut raw, mut harder) = (Vec::new(), Vec::new());
    compress::decompress_exact(&packed, raw_bytes as usize, &mut raw).map_err(|source| {
        let reason = format!("blob {ordinal}: {source}");
        match view.index.pack(number) {
            Some(info) => RepoError::damaged_pack(info.id, reason),
            None => RepoError::Missing { what: format!("pack number {number}") },
        }
    })?;
    compress::compress(HARD_LEVEL, &raw, &mut harder);
    Ok(harder.len() * 1000 <= packed.len() * (1000 - GAIN_PERMILLE_MIN))
}
