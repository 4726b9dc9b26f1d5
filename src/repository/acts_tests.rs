use super::*;
use crate::domain::id::RepositoryId;
use crate::domain::system::{FixedClock, SeededRandom};
use crate::format::seal::Suite;
use crate::storage::memory::MemoryStore;
use serde_json::{Value, json};
use std::sync::Mutex;

struct Bench {
    store: MemoryStore,
    keys: Keys,
    clock: FixedClock,
    random: SeededRandom,
}

impl Bench {
    fn new() -> Self {
        let keys = Keys::derive(&[1; 32], RepositoryId([2; 16]), Suite::Aes256Gcm);
        let clock = FixedClock(Mutex::new("2026-11-20T12:00:00Z".parse().unwrap()));
        Self { store: MemoryStore::new(), keys, clock, random: SeededRandom::new(3) }
    }

    fn recorder(&self, process: u32) -> Recorder<'_> {
        let owner = Owner { host: "web1".into(), user: "app".into(), process, mark: format!("m/b/n/{process}") };
        Recorder { store: &self.store, keys: &self.keys, clock: &self.clock, random: &self.random, owner }
    }

    fn list(&self, kind: Option<ActKind>) -> Stories {
        list(&self.store, &self.keys, kind).unwrap()
    }

    fn later(&self, seconds: i64) {
        let mut now = self.clock.0.lock().unwrap();
        *now = now.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap();
    }
}

#[test]
fn a_story_is_read_as_it_was_told() {
    let bench = Bench::new();
    let mut act = bench.recorder(7).begin(ActKind::Restore, &json!({"state": "begun", "text": "app-db"})).unwrap();
    bench.later(5);
    act.note(&json!({"state": "swap"})).unwrap();
    let open = bench.list(Some(ActKind::Restore));
    assert!(!open.stories[0].is_finished());
    let id = act.id();
    act.finish(&json!({"state": "done"})).unwrap();
    bench.later(1);
    bench.recorder(8).begin(ActKind::Guard, &json!({"state": "open"})).unwrap();

    let all = bench.list(None);
    assert_eq!(all.stories.iter().map(|s| s.kind).collect::<Vec<_>>(), [ActKind::Restore, ActKind::Guard]);
    assert!(bench.list(Some(ActKind::Drill)).stories.is_empty() && all.damaged.is_empty());
    let story = load(&bench.store, &bench.keys, id).unwrap().unwrap();
    assert_eq!(story.entries.iter().map(ActEntry::state).collect::<Vec<_>>(), ["begun", "swap", "done"]);
    assert_eq!((story.first().text().as_str(), story.last().text().as_str()), ("app-db", ""));
    assert!(story.is_finished());
    assert_eq!(story.last().time_ns - story.first().time_ns, 5_000_000_000);
    assert_eq!(story.first().owner(), bench.recorder(7).owner);
    assert_eq!(story.last().read::<Value>().unwrap(), json!({"state": "done"}));
    assert!(story.last().read::<Vec<u8>>().is_err());
    assert_eq!(load(&bench.store, &bench.keys, ActId([9; 16])).unwrap().map(|s| s.id), None);
}

#[test]
fn of_two_that_go_on_one_learns_that_it_must_stop() {
    let bench = Bench::new();
    let mut first = bench.recorder(1).begin(ActKind::Guard, &json!({})).unwrap();
    let story = bench.list(None).stories.remove(0);
    let mut second = bench.recorder(2).resume(&story);
    let mut third = bench.recorder(3).resume(&story);
    second.note(&json!({})).unwrap();
    for late in [&mut first, &mut third] {
        assert!(matches!(late.note(&json!({})), Err(RepoError::ActTaken { act }) if act == story.id));
        // not only once
        assert!(matches!(late.note(&json!({})), Err(RepoError::ActTaken { .. })));
    }
    second.finish(&json!({})).unwrap();
    assert!(matches!(
        bench.recorder(4).begin_as(story.id, ActKind::Guard, &json!({})),
        Err(RepoError::ActTaken { .. })
    ));
    let story = bench.list(None).stories.remove(0);
    assert_eq!(story.entries.iter().map(|e| e.process).collect::<Vec<_>>(), [1, 2, 2]);
}

#[test]
fn damage_is_named_and_in_nobodys_way() {
    let bench = Bench::new();
    let mut act = bench.recorder(1).begin(ActKind::Drill, &json!({"state": "a"})).unwrap();
    act.note(&json!({"state": "b"})).unwrap();
    act.note(&json!({"state": "c"})).unwrap();
    let id = act.id();
    let name = |sequence| ObjectName::act(id, sequence).to_string();
    let mut bytes = bench.store.raw_get(&name(2)).unwrap();
    bytes[80] ^= 1;
    bench.store.raw_replace(&name(2), bytes);
    // an entry under another number is none
    bench.store.raw_replace(&name(3), bench.store.raw_get(&name(0)).unwrap());
    let found = bench.list(None);
    assert_eq!(found.damaged.iter().map(|(of, n, _)| (*of, *n)).collect::<Vec<_>>(), [(id, 2), (id, 3)]);
    let story = &found.stories[0];
    assert_eq!((story.entries.len(), story.last().state().as_str()), (2, "b"));
    assert!(!story.is_finished());
    // It can be gone on with, after what is there.
    bench.recorder(2).resume(story).finish(&json!({"state": "d"})).unwrap();
    let story = bench.list(None).stories.remove(0);
    assert_eq!(story.last().sequence, 4);
    assert!(story.is_finished());
    remove(&bench.store, &story).unwrap();
    assert_eq!(bench.store.raw_names(), Vec::<String>::new());
}

#[test]
fn what_a_removal_leaves_is_still_finished() {
    let bench = Bench::new();
    let mut act = bench.recorder(1).begin(ActKind::Drill, &json!({})).unwrap();
    act.note(&json!({})).unwrap();
    act.finish(&json!({})).unwrap();
    let story = bench.list(None).stories.remove(0);
    // what is left after any number of deletions, in the order in which they happen
    let left: Vec<u16> = story.entries.iter().map(|e| e.sequence).collect();
    for gone in 0..left.len() - 1 {
        let store = bench.store.raw_copy();
        left[..=gone].iter().for_each(|n| drop(store.raw_remove(ObjectName::act(story.id, *n).as_str())));
        assert!(list(&store, &bench.keys, None).unwrap().stories[0].is_finished());
    }
}

#[test]
fn kinds_of_later_versions_and_strange_names_are_passed_over() {
    let bench = Bench::new();
    bench.recorder(1).begin(ActKind::Guard, &json!({})).unwrap();
    let entry =
        ActEntry { act: ActId([5; 16]), kind: "later".into(), ..bench.list(None).stories[0].entries[0].clone() };
    put(&bench.store, &bench.keys, &entry).unwrap();
    for stray in ["acts/x", "acts/00", "acts/05050505050505050505050505050505.1", "acts/a/b"] {
        bench.store.raw_replace(stray, b"x".to_vec());
    }
    let found = bench.list(None);
    assert_eq!((found.stories.len(), found.damaged.len()), (1, 0));
    assert!(load(&bench.store, &bench.keys, entry.act).unwrap().is_none());
}

#[test]
fn snapshots_of_open_acts_are_held() {
    let bench = Bench::new();
    let (one, two, three) = (SnapshotId([1; 16]), SnapshotId([2; 16]), SnapshotId([3; 16]));
    let mut act = bench.recorder(1).begin(ActKind::Guard, &json!({"snapshot": null, "text": "v1"})).unwrap();
    act.note(&json!({"snapshot": one, "text": "v1"})).unwrap();
    let body = json!({"safety": two, "plan": {"snapshot": three}, "snapshot": "no id"});
    let restore = bench.recorder(1).begin(ActKind::Restore, &body).unwrap();
    let held = bench.list(None).held_snapshots();
    assert_eq!(held.keys().copied().collect::<Vec<_>>(), [one, two, three]);
    assert_eq!(held[&one], "guard v1");
    act.finish(&json!({"snapshot": one})).unwrap();
    restore.finish(&body).unwrap();
    assert!(bench.list(None).held_snapshots().is_empty());
}

#[test]
fn limits_hold() {
    let bench = Bench::new();
    let long = json!({"text": "x".repeat(ENTRY_BYTES_MAX)});
    assert!(matches!(bench.recorder(1).begin(ActKind::Drill, &long), Err(RepoError::Limit { .. })));
    assert_eq!(bench.store.raw_names(), Vec::<String>::new());
    let mut act = bench.recorder(1).begin(ActKind::Drill, &json!({})).unwrap();
    act.next = ENTRIES_MAX;
    assert!(matches!(act.note(&json!({})), Err(RepoError::Limit { .. })));
}
