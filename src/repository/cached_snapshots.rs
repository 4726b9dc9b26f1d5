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

/// New records are handed to the catalog in groups of this many.
const GROUP: usize = 256;

/// Loads every visible snapshot that can be read, newest first; the others are returned beside them. A snapshot whose
/// first copy is damaged is never kept, so that the damage is met again each time. Forgotten snapshots are not visible;
/// one whose tombstone cannot be read is, and says so in [`LoadedSnapshot::healed`]. Accepted snapshots are not suspect.
///
/// # Errors
/// Storage errors other than damage.
pub fn load_snapshots(
    store: &dyn ReadStore,
    keys: &Keys,
    catalog: &Catalog,
) -> Result<(Vec<LoadedSnapshot>, Vec<UnreadableSnapshot>)> {
    let listed = snapshots::list(store)?;
    // After the snapshots: one that was forgotten in between is hidden, and none is hidden too early.
    let mut forgotten = tombstones::load(store, keys)?;
    let (mut known, mut gone) = (HashSet::new(), Vec::new());
    let (mut good, mut bad, mut fresh) = (Vec::new(), Vec::new(), Vec::new());
    catalog.each_snapshot_record(GROUP, |records| {
        let (there, not): (Vec<_>, Vec<_>) = records.into_iter().partition(|(id, _)| listed.binary_search(id).is_ok());
        gone.extend(not.into_iter().map(|(id, _)| id));
        let wanted = there.into_par_iter().filter(|(id, _)| !forgotten.hides(*id));
        let opened: Vec<LoadedSnapshot> = wanted.filter_map(|(id, bytes)| kept(keys, id, &bytes)).collect();
        known.extend(opened.iter().map(|loaded| loaded.snapshot.id));
        good.extend(opened);
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
                good.push(snapshot);
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
    for loaded in &mut good {
        if let Some(error) = forgotten.damaged.remove(&loaded.snapshot.id) {
            let also = loaded.healed.take().map(|healed| format!("; {healed}")).unwrap_or_default();
            loaded.healed = Some(format!("{error}; the snapshot counts as not forgotten{also}"));
        }
    }
    accept(store, keys, &mut good)?;
    catalog.drop_snapshots(&gone);
    good.sort_by_key(|loaded| Reverse((loaded.snapshot.time_ns, loaded.snapshot.id)));
    Ok((good, bad))
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
