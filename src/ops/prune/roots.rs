//! Which snapshots a prune keeps: those that are visible, and those that were forgotten so recently that they may still
//! be undeleted.

use super::{PruneError, Roots};
use crate::catalog::Catalog;
use crate::domain::id::SnapshotId;
use crate::domain::snapshot::Snapshot;
use crate::format::seal::Keys;
use crate::repository::tombstones::Tombstone;
use crate::repository::{cached_snapshots, snapshots, tombstones};
use crate::storage::ReadStore;
use std::time::Duration;

/// Reads them. `grace` is how long a forgotten snapshot stays; it is measured against the newest backup as well as the
/// clock, whichever is earlier, so a clock that jumps ahead deletes nothing early.
///
/// # Errors
/// A snapshot or a tombstone that cannot be read: nothing may be deleted then. Storage errors.
pub fn read(
    store: &dyn ReadStore,
    keys: &Keys,
    catalog: &Catalog,
    now_ns: i64,
    grace: Duration,
) -> Result<Roots, PruneError> {
    // tombstones first: one that is written after this was read hides nothing from this prune
    let buried = tombstones::load(store, keys)?;
    if let Some((id, error)) = buried.damaged.into_iter().next() {
        return Err(PruneError::Unreadable { what: format!("forgotten/{id}"), reason: error.to_string() });
    }
    let (good, bad) = cached_snapshots::load_snapshots(store, keys, catalog)?;
    if let Some(bad) = bad.into_iter().next() {
        return Err(PruneError::Unreadable { what: format!("snapshots/{}", bad.id), reason: bad.error.to_string() });
    }
    let mut kept: Vec<Snapshot> = good.into_iter().map(|l| l.snapshot).collect();
    let newest_ns = kept.iter().map(|s| s.time_ns).max().unwrap_or(i64::MIN);
    let mut gone: Vec<SnapshotId> = Vec::new();
    for id in snapshots::list(store)? {
        let Some(tombstone) = buried.whole.get(&id) else { continue };
        if is_over(tombstone, now_ns.min(newest_ns), grace) {
            gone.push(id);
        } else if !kept.iter().any(|s| s.id == id) {
            let loaded = snapshots::load(store, keys, id).map_err(|error| PruneError::Unreadable {
                what: format!("snapshots/{id}"),
                reason: error.to_string(),
            })?;
            kept.push(loaded.snapshot);
        }
    }
    // a snapshot that was undeleted since the tombstones were read is visible
    gone.retain(|id| !kept.iter().any(|s| s.id == *id));
    Ok(Roots::new(&kept, gone))
}

/// True when a forgotten snapshot cannot be undeleted any more.
fn is_over(tombstone: &Tombstone, now_ns: i64, grace: Duration) -> bool {
    if grace.is_zero() {
        return true;
    }
    // forgotten before it was made: one of the two clocks was wrong, and waiting is the safe answer
    let since = tombstone.forgotten_ns.max(tombstone.time_ns);
    let grace_ns = i64::try_from(grace.as_nanos()).unwrap_or(i64::MAX);
    now_ns >= since.saturating_add(grace_ns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::Digest;

    fn tombstone(time_ns: i64, forgotten_ns: i64) -> Tombstone {
        Tombstone {
            snapshot: SnapshotId([1; 16]),
            record: Digest::default(),
            time_ns,
            forgotten_ns,
            host: String::new(),
            user: String::new(),
            tool_version: String::new(),
            reason: String::new(),
        }
    }

    #[test]
    fn grace_is_counted_from_the_later_time() {
        let grace = Duration::from_nanos(100);
        assert!(!is_over(&tombstone(0, 50), 149, grace));
        assert!(is_over(&tombstone(0, 50), 150, grace));
        // a clock in 1970 at the time of forgetting
        assert!(!is_over(&tombstone(1000, 50), 1050, grace));
        assert!(is_over(&tombstone(1000, 50), 0, Duration::ZERO));
        assert!(!is_over(&tombstone(0, i64::MAX - 1), i64::MAX - 1, grace));
    }
}
