//! Which snapshots a prune keeps: those that are visible, and those that were forgotten so recently that they may still
//! be undeleted.

use super::{Named, PruneError, Roots};
use crate::catalog::Catalog;
use crate::format::seal::Keys;
use crate::repository::snapshots::LoadedSnapshot;
use crate::repository::tombstones::Tombstone;
use crate::repository::{cached_snapshots, snapshots, tombstones};
use crate::storage::ReadStore;
use std::collections::HashSet;
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
    let mut roots = Roots::default();
    let (mut visible, mut newest_ns) = (HashSet::new(), i64::MIN);
    let named = |loaded: LoadedSnapshot| Named::by(&loaded.snapshot);
    let bad = cached_snapshots::each(store, keys, catalog, named, |named| {
        newest_ns = newest_ns.max(named.time_ns);
        visible.insert(named.id);
        roots.keep(named);
    })?;
    if let Some(bad) = bad.into_iter().next() {
        return Err(PruneError::Unreadable { what: format!("snapshots/{}", bad.id), reason: bad.error.to_string() });
    }
    let now_ns = now_ns.min(newest_ns);
    for id in snapshots::list(store)?.into_iter().filter(|id| !visible.contains(id)) {
        // without a tombstone at the beginning it was forgotten since, or is newer than the listing: it is kept
        if buried.whole.get(&id).is_some_and(|tombstone| is_over(tombstone, now_ns, grace)) {
            roots.gone.push(id);
            continue;
        }
        let loaded = snapshots::load(store, keys, id)
            .map_err(|error| PruneError::Unreadable { what: format!("snapshots/{id}"), reason: error.to_string() })?;
        roots.keep(Named::by(&loaded.snapshot));
    }
    roots.kept.sort_unstable();
    roots.gone.sort_unstable();
    Ok(roots)
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
    use crate::domain::id::{Digest, SnapshotId};

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
