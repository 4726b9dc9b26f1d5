//! What a prune removes of the stories of acts: those that are finished and older than their kind is kept.
//!
//! Invariants: an act that is not finished stays, and so does the newest claim of each source with the guard that it
//! names, because the number of the next claim follows from it and no name is used twice.

use crate::domain::act::ActKind;
use crate::domain::id::ActId;
use crate::format::seal::Keys;
use crate::repository::act_claims::{self, Claim};
use crate::repository::acts::{self, Story};
use crate::repository::error::RepoError;
use crate::storage::DeleteStore;
use std::collections::HashSet;

/// From when on acts are kept, nanoseconds since 1970 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptSince {
    /// Restores over what was there.
    pub restore_ns: i64,
    /// Guards, with what they claimed.
    pub guard_ns: i64,
    /// Drills.
    pub drill_ns: i64,
}

/// Removes what is finished and too old; says how many acts went, or would go. Claims are not counted.
///
/// # Errors
/// Storage errors. What was removed until then is gone, and nothing else.
pub fn remove_finished(
    store: &dyn DeleteStore,
    keys: &Keys,
    kept: &KeptSince,
    dry_run: bool,
) -> Result<u64, RepoError> {
    let found = acts::list(store, keys, None)?;
    let newest = act_claims::newest(&found);
    let claim = |story: &Story| story.first().read::<Claim>().ok().filter(|_| story.kind == ActKind::Lock);
    let is_newest = |claim: &Claim| newest.get(&claim.source).is_some_and(|newest| newest.number == claim.number);
    let held: HashSet<ActId> = newest.values().filter_map(Claim::guard_id).collect();
    let is_old = |story: &Story| {
        let since = match story.kind {
            ActKind::Restore => kept.restore_ns,
            ActKind::Guard | ActKind::Lock => kept.guard_ns,
            ActKind::Drill => kept.drill_ns,
        };
        story.is_finished() && story.last().time_ns < since && !held.contains(&story.id)
    };
    let (claims, others): (Vec<&Story>, Vec<&Story>) =
        found.stories.iter().filter(|story| is_old(story)).partition(|story| story.kind == ActKind::Lock);
    if dry_run {
        return Ok(others.len() as u64);
    }
    // Claims first: one that names no guard any more would look as if the guard had been lost.
    for story in claims.iter().filter(|story| claim(story).is_some_and(|claim| !is_newest(&claim))) {
        acts::remove(store, story)?;
    }
    for story in &others {
        acts::remove(store, story)?;
    }
    Ok(others.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::act::Owner;
    use crate::domain::id::RepositoryId;
    use crate::domain::system::{FixedClock, SeededRandom};
    use crate::domain::time_spec::timestamp_ns;
    use crate::format::seal::Suite;
    use crate::repository::acts::Recorder;
    use crate::storage::memory::MemoryStore;
    use serde_json::json;
    use std::sync::Mutex;

    #[test]
    fn only_finished_and_old_acts_go_and_the_newest_claim_stays() {
        let store = MemoryStore::new();
        let keys = Keys::derive(&[1; 32], RepositoryId([2; 16]), Suite::Aes256Gcm);
        let clock = FixedClock(Mutex::new("2026-01-01T00:00:00Z".parse().unwrap()));
        let random = SeededRandom::new(4);
        let owner = Owner::default();
        let recorder = Recorder { store: &store, keys: &keys, clock: &clock, random: &random, owner };
        let done = |kind, state: &str| {
            let act = recorder.begin(kind, &json!({"state": state})).unwrap();
            let id = act.id();
            act.finish(&json!({"state": "done"})).unwrap();
            id
        };
        let claim = |source: &str, number, guard: ActId| {
            act_claims::put(&recorder, &Claim { source: source.into(), number, guard: guard.hex() }).unwrap();
        };
        let first = done(ActKind::Guard, "first");
        claim("db", 0, first);
        let second = done(ActKind::Guard, "second");
        claim("db", 1, second);
        let lonely = done(ActKind::Guard, "nothing claimed");
        let drill = done(ActKind::Drill, "drill");
        let restore = done(ActKind::Restore, "restore");
        let open = recorder.begin(ActKind::Restore, &json!({})).unwrap().id();
        let day = |text: &str| timestamp_ns(text.parse().unwrap());
        let ids = || acts::list(&store, &keys, None).unwrap().stories.iter().map(|s| s.id).collect::<HashSet<_>>();

        let before = day("2025-12-31T00:00:00Z");
        let all_kept = KeptSince { restore_ns: before, guard_ns: before, drill_ns: before };
        assert_eq!(remove_finished(&store, &keys, &all_kept, false).unwrap(), 0);
        let after = day("2026-02-01T00:00:00Z");
        let only_drills = KeptSince { drill_ns: after, ..all_kept };
        assert_eq!(remove_finished(&store, &keys, &only_drills, true).unwrap(), 1);
        assert!(ids().contains(&drill), "a dry run removes nothing");
        assert_eq!(remove_finished(&store, &keys, &only_drills, false).unwrap(), 1);
        assert!(!ids().contains(&drill) && ids().contains(&restore));

        let none_kept = KeptSince { restore_ns: after, guard_ns: after, drill_ns: after };
        assert_eq!(remove_finished(&store, &keys, &none_kept, false).unwrap(), 3);
        let left = ids();
        assert_eq!(left, HashSet::from([second, open, act_claims::claim_id(&keys, "db", 1)]));
        assert!(!left.contains(&first) && !left.contains(&lonely));
        let found = acts::list(&store, &keys, None).unwrap();
        let newest = act_claims::newest(&found);
        assert_eq!(act_claims::next_number(&store, &keys, "db", newest.get("db")).unwrap(), (2, false));
        // A claim that cannot be read is not passed over in silence.
        let name = crate::storage::ObjectName::act(act_claims::claim_id(&keys, "db", 2), 0);
        store.raw_replace(name.as_str(), b"rubbish".to_vec());
        assert_eq!(act_claims::next_number(&store, &keys, "db", newest.get("db")).unwrap(), (3, true));
    }
}
