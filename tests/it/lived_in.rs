//! The small repository after some life: two snapshots forgotten, a suspect accepted, a prune that merged edits past them and wrote its
//! condemned record while a run that began earlier was still alive, that run declared dead, and another one that just died.

use crate::small_repository::Small;
use holdfast::catalog::Catalog;
use holdfast::domain::id::SnapshotId;
use holdfast::domain::system::{FixedClock, Random, SeededRandom};
use holdfast::format::config_object::WriterParameters;
use holdfast::ops::accept::{self, AcceptMeans};
use holdfast::ops::cancel::Cancel;
use holdfast::ops::forget::{self, ForgetMeans, Forgetter, Removal};
use holdfast::ops::observer::Silent;
use holdfast::ops::prune::{self, PruneMeans, PruneOptions};
use holdfast::repository::reading::load_snapshots;
use holdfast::repository::session::{Announced, SessionStart};
use holdfast::storage::memory::MemoryStore;
use holdfast::storage::{ObjectKind, ReadStore, WriteStore};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Which of the saved states are forgotten: the parents of the third one.
const FORGOTTEN: [usize; 2] = [1, 2];

/// Lets a repository live. Nothing that is saved is lost: what was condemned is still there.
pub(crate) fn live(store: &MemoryStore, small: &Small) {
    let clock = FixedClock(Mutex::new("2026-11-20T12:00:00Z".parse().expect("a time")));
    let random: Arc<dyn Random> = Arc::new(SeededRandom::new(4711));
    let catalog = Catalog::none();
    let (loaded, _) = load_snapshots(store, &small.keys).expect("snapshots");
    let of = |n: usize| loaded.iter().find(|l| l.snapshot.id == small.saved[n].id).expect("a snapshot");
    let (host, user, tool_version) = ("host".to_owned(), "user".to_owned(), "test".to_owned());
    let who = Forgetter { host: host.clone(), user: user.clone(), tool_version: tool_version.clone() };
    let means = ForgetMeans { store, keys: &small.keys, clock: &clock, cancel: &Cancel::new(), who };
    let removals = FORGOTTEN.map(|n| Removal { snapshot: of(n), reason: "named".to_owned() });
    assert_eq!(forget::run(&means, removals.to_vec()).expect("forgotten").forgotten.len(), FORGOTTEN.len());
    let means = AcceptMeans { store, keys: &small.keys, clock: &clock, host: host.clone(), user, tool_version };
    accept::run(&means, of(3)).expect("accepted");

    let announce = || {
        let start = SessionStart {
            id: SnapshotId(random.bytes()),
            host: host.clone(),
            process: 1,
            started_ns: 0,
            sources: vec!["app".to_owned()],
        };
        Announced::new(Arc::new(store.clone()), Arc::clone(&small.keys), &start).expect("a session")
    };
    let older = announce();
    let roots = || {
        let now = jiff::Timestamp::MAX.as_nanosecond().try_into().unwrap_or(i64::MAX);
        prune::roots::read(store, &small.keys, &catalog, now, Duration::ZERO)
    };
    let means = PruneMeans {
        store: Arc::new(store.clone()),
        keys: Arc::clone(&small.keys),
        parameters: WriterParameters::DEFAULT,
        random: Arc::clone(&random),
        clock: &clock,
        observer: &Silent,
        cancel: &Cancel::new(),
        cache: None,
        catalog: &catalog,
        host: host.clone(),
        process_id: 1,
        roots: &roots,
    };
    let report = prune::run(&means, &PruneOptions::default()).expect("pruned");
    assert!(
        report.records_merged > 0
            && report.packs_waiting > 0
            && report.packs_waiting < report.packs
            && report.removed_bytes == 0,
        "{report:?}"
    );
    let id = older.id();
    drop(older);
    assert!(store.fence(id).expect("fenced"));
    drop(announce());
    for kind in
        [ObjectKind::Forgotten, ObjectKind::Accepted, ObjectKind::Condemned, ObjectKind::Session, ObjectKind::Fenced]
    {
        assert!(!store.list(kind).expect("listed").is_empty(), "{kind:?}");
    }
}
