//! The rules of the door in every order, and real runs side by side.

use super::*;
use crate::domain::id::RepositoryId;
use crate::domain::system::{FixedClock, SeededRandom};
use crate::format::seal::Suite;
use crate::ops::observer::Silent;
use crate::storage::memory::MemoryStore;
use crate::storage::{ObjectKind, ReadStore};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// One run in the model: where it stands, and when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stand {
    /// Knows when it begins, and is not visible.
    Outside(u8),
    /// Visible, has not looked.
    Door(u8),
    /// Looked, saw nobody, and has not shown it yet.
    Passed(u8),
    /// Shows that it has gone on.
    Inside(u8),
    /// Gave way: it looks without being visible.
    Waiting,
    Over,
}

impl Stand {
    /// What others see of it: when it began, and whether it has gone on.
    fn seen(self, number: usize) -> Option<Seen> {
        let id = SnapshotId([u8::try_from(number).unwrap(); 16]);
        match self {
            Self::Door(began) | Self::Passed(began) => Some(((began.into(), id), false)),
            Self::Inside(began) => Some(((began.into(), id), true)),
            _ => None,
        }
    }
}

/// Every state that follows from one by one step of one run. Clocks may say anything: a run that begins anew may begin
/// at any time.
fn next(runs: &[Stand]) -> Vec<Vec<Stand>> {
    let mut all = Vec::new();
    for at in 0..runs.len() {
        let others: Vec<Seen> = (0..runs.len()).filter(|n| *n != at).filter_map(|n| runs[n].seen(n)).collect();
        let mut step = |stand| {
            let mut after = runs.to_vec();
            after[at] = stand;
            all.push(after);
        };
        match runs[at] {
            Stand::Outside(began) => step(Stand::Door(began)),
            Stand::Door(began) => {
                let own = runs[at].seen(at).unwrap().0;
                match decide(own, &others) {
                    Decision::GoOn => step(Stand::Passed(began)),
                    Decision::GiveWay => step(Stand::Waiting),
                    Decision::LookAgain => {}
                }
            }
            Stand::Passed(began) => step(Stand::Inside(began)),
            Stand::Inside(_) => step(Stand::Over),
            Stand::Waiting if others.is_empty() => (0..2).for_each(|began| step(Stand::Outside(began))),
            Stand::Waiting | Stand::Over => {}
        }
    }
    all
}

#[test]
fn in_every_order_one_goes_on_and_nobody_waits_for_ever() {
    let mut states = 0;
    for runs in [2usize, 3] {
        for beginnings in 0..2u8.pow(runs as u32) {
            let start: Vec<Stand> = (0..runs).map(|n| Stand::Outside(beginnings >> n & 1)).collect();
            let (mut seen, mut open) = (BTreeSet::from([start.clone()]), vec![start]);
            while let Some(state) = open.pop() {
                let on = state.iter().filter(|s| matches!(s, Stand::Passed(_) | Stand::Inside(_))).count();
                assert!(on <= 1, "two go on at once: {state:?}");
                let following = next(&state);
                let is_over = state.iter().all(|s| *s == Stand::Over);
                assert_eq!(following.is_empty(), is_over, "nobody can do anything: {state:?}");
                open.extend(following.into_iter().filter(|state| seen.insert(state.clone())));
            }
            states += seen.len();
        }
    }
    assert!(states > 1000, "{states}");
}

#[test]
fn who_has_gone_on_is_not_waited_for_at_the_door() {
    let (own, later) = ((1, SnapshotId([1; 16])), (2, SnapshotId([2; 16])));
    assert_eq!(decide(own, &[]), Decision::GoOn);
    assert_eq!(decide(own, &[(later, false)]), Decision::LookAgain);
    assert_eq!(decide(own, &[(later, true)]), Decision::GiveWay, "whatever the clocks say");
    assert_eq!(decide(later, &[(own, false)]), Decision::GiveWay);
}

struct Setup {
    store: Arc<MemoryStore>,
    keys: Arc<Keys>,
    clock: FixedClock,
    cancel: Cancel,
    random: SeededRandom,
}

impl Setup {
    fn new() -> Self {
        Self {
            store: Arc::new(MemoryStore::new()),
            keys: Arc::new(Keys::derive(&[1; 32], RepositoryId([2; 16]), Suite::None)),
            clock: FixedClock(Mutex::new("2026-11-20T12:00:00Z".parse().unwrap())),
            cancel: Cancel::new(),
            random: SeededRandom::new(7),
        }
    }

    fn take(&self, process_id: u32, patience: Duration, source: &str) -> Result<Turn, BackupError> {
        let means = TurnMeans {
            store: Arc::clone(&self.store) as Arc<dyn WriteStore>,
            keys: Arc::clone(&self.keys),
            random: &self.random,
            clock: &self.clock,
            observer: &Silent,
            cancel: &self.cancel,
            process_id,
            patience,
        };
        take_turn(&means, "web1", &[source.to_owned()])
    }
}

#[test]
fn another_source_is_not_waited_for_and_who_holds_one_is_named() {
    let setup = Setup::new();
    let first = setup.take(1, Duration::ZERO, "db").unwrap();
    let other = setup.take(2, Duration::ZERO, "code").unwrap();
    first
        .announced
        .as_ref()
        .map(|a| setup.store.put_new(&ObjectName::session(a.id(), SessionPart::Saw), b"x"))
        .unwrap()
        .unwrap();
    let Err(BackupError::Busy { holders, .. }) = setup.take(3, Duration::ZERO, "db") else { panic!("it went on") };
    assert_eq!(holders[0].to_string(), "process 1 on web1 saves db since 2026-11-20 12:00:00 UTC");
    assert_eq!(setup.store.list(ObjectKind::Session).unwrap().len(), 3, "its own session is over");
    drop((first, other));
    setup.take(3, Duration::ZERO, "db").unwrap();
}

#[test]
fn a_session_without_sources_is_not_waited_for() {
    let setup = Setup::new();
    let (id, host) = (SnapshotId([9; 16]), "web1".to_owned());
    let start = SessionStart { id, host, process: 1, started_ns: 0, sources: Vec::new() };
    let store = Arc::clone(&setup.store) as Arc<dyn WriteStore>;
    let _maintenance = Announced::new(store, Arc::clone(&setup.keys), &start).unwrap();
    setup.take(2, Duration::ZERO, "db").unwrap();
}

#[test]
fn many_runs_that_start_at_once_go_on_one_by_one() {
    let setup = Setup::new();
    let (inside, done) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (setup, inside, done) = (&setup, &inside, &done);
            scope.spawn(move || {
                let turn = setup.take(n, Duration::from_secs(120), "db").unwrap();
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two go on at once");
                let id = turn.announced.as_ref().unwrap().id();
                std::thread::sleep(Duration::from_millis(5));
                setup.store.put_new(&ObjectName::session(id, SessionPart::Saw), b"x").unwrap();
                std::thread::sleep(Duration::from_millis(20));
                inside.fetch_sub(1, Ordering::SeqCst);
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
    });
    assert_eq!(done.load(Ordering::SeqCst), 4);
}

#[test]
fn a_wait_ends_when_it_is_cancelled() {
    let setup = Setup::new();
    let _first = setup.take(1, Duration::ZERO, "db").unwrap();
    setup.cancel.cancel();
    assert!(matches!(setup.take(2, Duration::from_secs(60), "db"), Err(BackupError::Interrupted)));
}
