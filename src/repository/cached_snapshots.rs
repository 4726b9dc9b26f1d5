//! Snapshot records with the help of the local catalog: only those that it does not hold yet are read.
//!
//! What others said about a snapshot later (that it is forgotten, that it is accepted) is read anew each time.
//!
//! Invariant: the result is what [`super::reading::load_snapshots`] gives, since a kept record is the stored object
//! itself, which is authenticated on every use, and the listing of the repository says which ones exist.

use super::error::Result;
use super::reading::UnreadableSnapshot;
use super::snapshots::{self, LoadedSnapshot, SNAPSHOT_BYTES_MAX};
use super::{accepted, tombstones};
use crate::catalog::Catalog;
use crate::domain::id::{Digest, SnapshotId};
use crate::format::seal::Keys;
use crate::storage::{ObjectName, ReadStore, SessionPart};
use rayon::prelude::*;
use std::cmp::Reverse;
use std::collections::HashSet;

/// Records come from the catalog, and new ones are handed to it, in groups of this many.
const GROUP: usize = 512;

/// Loads every visible snapshot that can be read, newest first; the others are returned beside them. As [`each`].
///
/// # Errors
/// Storage errors other than damage.
pub fn load_snapshots(
    store: &dyn ReadStore,
    keys: &Keys,
    catalog: &Catalog,
) -> Result<(Vec<LoadedSnapshot>, Vec<UnreadableSnapshot>)> {
    let mut good = Vec::new();
    let bad = each(store, keys, catalog, |loaded| loaded, |loaded| good.push(loaded))?;
    good.sort_by_key(|loaded| Reverse((loaded.snapshot.time_ns, loaded.snapshot.id)));
    Ok((good, bad))
}

/// Hands what `shape` makes of every visible snapshot that can be read to `found`, in no order, and returns the others. For
/// those who need little of each: a long history is never in memory as a whole, and `shape` runs on all cores. A snapshot
/// whose first copy is damaged is never kept in the catalog, so that the damage is met again each time. Forgotten snapshots
/// are not visible; one whose tombstone cannot be read is, and says so in [`LoadedSnapshot::healed`]. Accepted snapshots are
/// not suspect.
///
/// # Errors
/// Storage errors other than damage.
pub fn each<T: Send>(
    store: &dyn ReadStore,
    keys: &Keys,
    catalog: &Catalog,
    shape: impl Fn(LoadedSnapshot) -> T + Sync,
    mut found: impl FnMut(T),
) -> Result<Vec<UnreadableSnapshot>> {
    let listed = snapshots::list(store)?;
    // After the snapshots: one that was forgotten in between is hidden, and none is hidden too early.
    let mut forgotten = tombstones::load(store, keys)?;
    let (mut known, mut gone) = (HashSet::new(), Vec::new());
    let (mut bad, mut fresh) = (Vec::new(), Vec::new());
    // of these something else must be looked up, for all of them together
    let mut marked: Vec<LoadedSnapshot> = Vec::new();
    let is_marked = |loaded: &LoadedSnapshot| {
        loaded.snapshot.suspect.is_some() || forgotten.damaged.contains_key(&loaded.snapshot.id)
    };
    catalog.each_snapshot_record(GROUP, |records| {
        let (there, not): (Vec<_>, Vec<_>) = records.into_iter().partition(|(id, _)| listed.binary_search(id).is_ok());
        gone.extend(not.into_iter().map(|(id, _)| id));
        let wanted = there.into_par_iter().filter(|(id, _)| !forgotten.hides(*id));
        let opened = wanted.filter_map(|(id, bytes)| {
            let loaded = kept(keys, id, &bytes)?;
            Some((id, if is_marked(&loaded) { Err(loaded) } else { Ok(shape(loaded)) }))
        });
        for (id, opened) in opened.collect::<Vec<_>>() {
            known.insert(id);
            match opened {
                Ok(shaped) => found(shaped),
                Err(loaded) => marked.push(loaded),
            }
        }
    });
    for &id in listed.iter().filter(|id| !forgotten.hides(**id) && !known.contains(*id)) {
        match snapshots::load(store, keys, id) {
            Ok(snapshot) => {
                if snapshot.healed.is_none() {
                    let name = ObjectName::snapshot(id, SessionPart::Manifest);
                    if let Ok(bytes) = store.get(&name, SNAPSHOT_BYTES_MAX as u64) {
                        fresh.push((id, snapshot.snapshot.time_ns, bytes));
                    }
                }
                if is_marked(&snapshot) { marked.push(snapshot) } else { found(shape(snapshot)) }
            }
            // a snapshot goes in one step, so one that is not listed any more was removed, not damaged
            Err(error) if error.concerns_one_object() => {
                if snapshots::list(store)?.binary_search(&id).is_ok() {
                    bad.push(UnreadableSnapshot { id, error });
                }
            }
            Err(error) => return Err(error),
        }
        if fresh.len() >= GROUP {
            catalog.put_snapshots(&fresh);
            fresh.clear();
        }
    }
    catalog.put_snapshots(&fresh);
    for loaded in &mut marked {
        if let Some(error) = forgotten.damaged.remove(&loaded.snapshot.id) {
            let also = loaded.healed.take().map(|healed| format!("; {healed}")).unwrap_or_default();
            loaded.healed = Some(format!("{error}; the snapshot counts as not forgotten{also}"));
        }
    }
    accept(store, keys, &mut marked)?;
    marked.into_iter().map(shape).for_each(found);
    catalog.drop_snapshots(&gone);
    Ok(bad)
}

/// Takes the mark of those suspects away that somebody accepted.
fn accept(store: &dyn ReadStore, keys: &Keys, loaded: &mut [LoadedSnapshot]) -> Result<()> {
    let suspects = loaded.iter().filter(|l| l.snapshot.suspect.is_some()).map(|l| l.snapshot.id).collect();
    let mut said = accepted::load(store, keys, &suspects)?;
    for loaded in loaded {
        let id = loaded.snapshot.id;
        if said.whole.contains_key(&id) {
            loaded.snapshot.suspect = None;
            loaded.accepted = true;
        } else if let Some(error) = said.damaged.remove(&id) {
            let also = loaded.healed.take().map(|healed| format!("; {healed}")).unwrap_or_default();
            loaded.healed = Some(format!("{error}; the snapshot counts as not accepted{also}"));
        }
    }
    Ok(())
}

/// A record from the catalog; `None` where it is not what was stored.
fn kept(keys: &Keys, id: SnapshotId, bytes: &[u8]) -> Option<LoadedSnapshot> {
    let snapshot = snapshots::decode(keys, id, 0, bytes).ok()?;
    let digest = Digest(*blake3::hash(bytes).as_bytes());
    Some(LoadedSnapshot { snapshot, digest, healed: None, accepted: false })
}
