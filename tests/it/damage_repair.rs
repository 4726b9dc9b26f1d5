//! Packs damaged in every way, then repaired: nothing that could be given back before is lost by it, whatever has a second
//! copy has both again, and a repair that dies anywhere is finished by the next one.

use crate::small_repository::{Small, make, open_reading, restore_all};
use crate::streams::{Repo, apply, rows};
use holdfast::catalog::Catalog;
use holdfast::domain::id::SnapshotId;
use holdfast::domain::system::{FixedClock, Random, SeededRandom};
use holdfast::format::config_object::WriterParameters;
use holdfast::format::records::IndexBody;
use holdfast::format::seal::{Keys, Suite};
use holdfast::ops::cancel::Cancel;
use holdfast::ops::observer::Silent;
use holdfast::ops::repair::packs::{self, PacksReport, PacksRequest};
use holdfast::ops::repair::snapshots::{self, SnapshotsReport, SnapshotsRequest};
use holdfast::ops::repair::{RepairError, RepairMeans};
use holdfast::ops::repair_index::Local;
use holdfast::ops::verify::{self, PackSelection, VerifyOptions, VerifyReport, VerifyScope};
use holdfast::repository::index_loader;
use holdfast::repository::pack_reader::load_index;
use holdfast::repository::pack_writer::put_index;
use holdfast::repository::session::{BackupSession, SessionStart};
use holdfast::storage::memory::MemoryStore;
use holdfast::storage::{
    DeleteStore, Error, ErrorKind, ObjectInfo, ObjectKind, ObjectName, ObjectWriter, ReadStore, Result, SessionGuard,
    WriteStore,
};
use rayon::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// One byte in this many of every pack is damaged; with `HOLDFAST_DAMAGE=full` every one.
const STRIDE: usize = 17;

fn clock() -> FixedClock {
    FixedClock(Mutex::new("2026-11-20T12:00:00Z".parse().expect("a time")))
}

fn with_means<S: DeleteStore + 'static, T>(
    store: S,
    keys: &Arc<Keys>,
    seed: u64,
    act: impl FnOnce(&RepairMeans<'_>) -> std::result::Result<T, RepairError>,
) -> std::result::Result<T, RepairError> {
    let (store, catalog, clock, cancel) = (Arc::new(store), Catalog::none(), clock(), Cancel::new());
    act(&RepairMeans {
        store: Arc::clone(&store) as Arc<_>,
        keys: Arc::clone(keys),
        parameters: WriterParameters::DEFAULT,
        random: Arc::new(SeededRandom::new(seed)),
        clock: &clock,
        observer: &Silent,
        cancel: &cancel,
        local: Local { catalog: &catalog, cache: None },
        host: "host".into(),
        process_id: 1,
    })
}

fn repair_packs(store: &MemoryStore, small: &Small, seed: u64) -> PacksReport {
    with_means(store.clone(), &small.keys, seed, |means| packs::run(means, &PacksRequest::default())).expect("repair")
}

fn repair_snapshots(store: &MemoryStore, small: &Small, seed: u64) -> SnapshotsReport {
    with_means(store.clone(), &small.keys, seed, |means| snapshots::run(means, &SnapshotsRequest::default()))
        .expect("repair")
}

fn verify(store: &MemoryStore, small: &Small, scope: VerifyScope) -> VerifyReport {
    let reading = open_reading(Arc::new(store.clone()), Some(&small.key_file)).expect("opens");
    let options = VerifyOptions::new(scope);
    verify::run(&reading, &Catalog::none(), &options, &clock(), &Silent, &Cancel::new()).expect("verify")
}

fn failures(store: &MemoryStore, small: &Small) -> usize {
    restore_all(&open_reading(Arc::new(store.clone()), Some(&small.key_file)).expect("opens"), &small.saved)
}

fn built() -> (MemoryStore, Small, Vec<String>) {
    let store = MemoryStore::new();
    let small = make(Arc::new(store.clone()), Suite::Aes256Gcm, 78);
    let packs = store.raw_names().into_iter().filter(|n| n.starts_with("packs/")).collect();
    (store, small, packs)
}

/// What is left to be found after a repair: literal bytes that nobody has. Nothing about packs or the index, and no record
/// that is there once only.
fn only_holes(report: &VerifyReport) -> bool {
    report.findings.iter().all(|f| {
        let of_data = f.object.starts_with("version ") || f.object.starts_with("byte ");
        of_data && f.problem == "missing" && !f.reason.starts_with("copy ")
    })
}

#[test]
fn a_repair_loses_nothing_and_heals_what_has_a_second_copy() {
    let (store, small, names) = built();
    let full = std::env::var("HOLDFAST_DAMAGE").is_ok_and(|value| value == "full");
    let mut jobs: Vec<(usize, Option<usize>)> = Vec::new();
    for (n, name) in names.iter().enumerate() {
        let length = store.raw_get(name).expect("listed").len();
        jobs.push((n, None));
        jobs.extend((n % STRIDE..length).step_by(if full { 1 } else { STRIDE }).map(|at| (n, Some(at))));
    }
    let (healed, lost) = (AtomicUsize::new(0), AtomicUsize::new(0));
    jobs.par_iter().for_each(|(n, at)| {
        let (name, bad) = (&names[*n], store.raw_copy());
        let mut bytes = bad.raw_remove(name).expect("there");
        if let Some(at) = at {
            bytes[*at] ^= 0x40;
            bad.raw_replace(name, bytes.clone());
        }
        let before = failures(&bad, &small);
        let report = repair_packs(&bad, &small, 1000 + *n as u64);
        assert_eq!(report.damaged.len(), 1, "{name} {at:?}: {report:?}");
        assert_eq!(failures(&bad, &small), before, "{name} {at:?}: {report:?}");
        assert_eq!(report.lost.is_empty(), before == 0, "{name} {at:?}: {report:?}");
        assert_eq!(bad.raw_get(name), None, "it has left its place");
        let aside = format!("quarantine/{}", name.trim_start_matches("packs/"));
        assert_eq!(bad.raw_get(&aside), at.map(|_| bytes), "and is kept as it was found");
        assert!(bad.raw_names().iter().all(|n| !n.starts_with("sessions/") && !n.starts_with("fenced/")));
        let after = verify(&bad, &small, VerifyScope::ReadData(PackSelection::All));
        assert!(only_holes(&after), "{name} {at:?}: {:?}", after.findings);
        assert_eq!(after.affected.is_empty(), before == 0, "{name} {at:?}: {:?}", after.affected);
        // the second time there is nothing to do
        let objects = bad.raw_names();
        assert!(repair_packs(&bad, &small, 2000).damaged.is_empty());
        assert_eq!(bad.raw_names(), objects);
        if before == 0 { &healed } else { &lost }.fetch_add(1, Ordering::Relaxed);
    });
    assert!(healed.into_inner() > 100 && lost.into_inner() > 20, "the test damages too little");
}

#[test]
fn both_copies_damaged_in_different_places_heal_each_other() {
    let (store, small, names) = built();
    let reading = open_reading(Arc::new(store.clone()), Some(&small.key_file)).expect("opens");
    // every pack of second copies gone, and the trailers of all others: no blob that a restore needs is hit
    for name in &names {
        let number = reading.index.packs().iter().find(|p| name.ends_with(&p.id.hex())).expect("indexed");
        if number.copy == 1 {
            store.raw_remove(name);
        } else {
            let mut bytes = store.raw_get(name).expect("there");
            let at = bytes.len() - 60;
            bytes[at] ^= 1;
            store.raw_replace(name, bytes);
        }
    }
    let report = repair_packs(&store, &small, 5);
    assert_eq!(report.damaged.len(), names.len());
    assert!(report.damaged.iter().all(|p| p.blobs_lost == 0), "{report:?}");
    assert!(!report.healed.is_empty());
    assert!(!verify(&store, &small, VerifyScope::ReadData(PackSelection::All)).is_damaged());
    assert_eq!(failures(&store, &small), 0);
}

#[test]
fn what_is_whole_of_damaged_snapshots_is_saved_again() {
    let (store, small, names) = built();
    let (mut written, mut failed) = (0, 0);
    for (n, name) in names.iter().enumerate() {
        let bad = store.raw_copy();
        bad.raw_remove(name);
        repair_packs(&bad, &small, 10 + n as u64);
        let before = failures(&bad, &small);
        let report = repair_snapshots(&bad, &small, 50 + n as u64);
        assert_eq!(report.repaired.is_empty(), before == 0, "{report:?}");
        assert_eq!(failures(&bad, &small), before, "the originals are as they were");
        let new: Vec<SnapshotId> = report
            .repaired
            .iter()
            .filter_map(|r| Some(SnapshotId::parse(r.repaired.as_ref()?).expect("an id")))
            .collect();
        written += new.len();
        failed += report.repaired.iter().flat_map(|r| &r.sources).filter(|s| s.failed).count();
        if !new.is_empty() {
            let whole = verify(&bad, &small, VerifyScope::Snapshots(new));
            assert!(whole.affected.is_empty() && whole.findings.is_empty(), "{whole:?}");
        }
        let again = repair_snapshots(&bad, &small, 90 + n as u64);
        let left = report.repaired.iter().filter(|r| r.repaired.is_none()).count();
        assert_eq!(again.repaired.len(), left, "done once");
    }
    assert!(written > 0 && failed > 0, "{written} {failed}");
}

#[test]
fn what_a_backup_found_meanwhile_is_kept() {
    let repo = Repo::new(11);
    let text = rows(1, 3000);
    let (first, _) = repo.put(&text, None, &[]);
    let names = repo.store.raw_names();
    // a run that has found most of its bytes in a version that no snapshot needs, and has not committed
    let session = repo.session_of("app");
    let mut changed = text;
    apply(&mut changed, (2, 9000, 400), 77);
    let second = repo.put_in(session, &changed, Some(first.version));
    for name in names.iter().filter(|n| n.starts_with("packs/")) {
        let mut bytes = repo.store.raw_get(name).expect("there");
        let at = bytes.len() - 50;
        bytes[at] ^= 1;
        repo.store.raw_replace(name, bytes);
    }
    let store = MemoryStore::clone(&repo.store);
    let report = with_means(store, &repo.keys, 3, |means| packs::run(means, &PacksRequest::default())).expect("repair");
    assert!(report.damaged.len() > 1 && report.damaged.iter().all(|p| p.blobs_lost == 0), "{report:?}");
    assert_eq!(repo.read(second), changed);
}

#[test]
fn two_maintenance_runs_keep_out_of_each_others_way() {
    let (store, small, names) = built();
    let begin = |sources: Vec<String>| {
        let random: Arc<dyn Random> = Arc::new(SeededRandom::new(sources.len() as u64));
        let id = SnapshotId(random.bytes());
        let start = SessionStart { id, host: "other".into(), process: 7, started_ns: 0, sources };
        let (writer, keys) = (Arc::new(store.clone()), Arc::clone(&small.keys));
        BackupSession::begin(writer, keys, random, &WriterParameters::DEFAULT, &start, |store, keys, _| {
            Ok(index_loader::load(store, keys, None)?.0)
        })
        .expect("begin")
    };
    store.raw_remove(&names[0]);
    let prune = begin(Vec::new());
    let before = store.raw_names();
    match with_means(store.clone(), &small.keys, 4, |means| packs::run(means, &PacksRequest::default())) {
        Err(RepairError::Busy { who }) => assert_eq!(who, "process 7 on other"),
        other => panic!("{other:?}"),
    }
    assert_eq!(store.raw_names(), before, "nothing was touched");
    drop(prune);
    let backup = begin(vec!["app".into()]);
    assert_eq!(repair_packs(&store, &small, 5).damaged.len(), 1, "a backup is no obstacle, nor is a dead run");
    drop(backup);
}

/// Fails every call that changes something after the first few, as if the process had died there.
#[derive(Clone)]
pub(crate) struct Dies(pub(crate) MemoryStore, pub(crate) Arc<AtomicUsize>);

impl Dies {
    fn step(&self, name: &str) -> Result<()> {
        let left = self.1.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| Some(n.saturating_sub(1)));
        if left == Ok(0) {
            let kind = ErrorKind::Refused;
            return Err(Error {
                kind,
                operation: "write",
                name: name.to_owned(),
                location: "test".into(),
                source: None,
            });
        }
        Ok(())
    }
}

impl ReadStore for Dies {
    fn location(&self) -> String {
        self.0.location()
    }
    fn get(&self, name: &ObjectName, max_bytes: u64) -> Result<Vec<u8>> {
        self.0.get(name, max_bytes)
    }
    fn get_range(&self, name: &ObjectName, offset: u64, length: u32) -> Result<Vec<u8>> {
        self.0.get_range(name, offset, length)
    }
    fn stored_bytes(&self, name: &ObjectName) -> Result<Option<u64>> {
        self.0.stored_bytes(name)
    }
    fn list(&self, kind: ObjectKind) -> Result<Vec<ObjectInfo>> {
        self.0.list(kind)
    }
    fn list_strays(&self) -> Result<Vec<String>> {
        self.0.list_strays()
    }
    fn reserve_fault(&self) -> Result<Option<String>> {
        self.0.reserve_fault()
    }
}

impl WriteStore for Dies {
    fn put_new(&self, name: &ObjectName, bytes: &[u8]) -> Result<()> {
        self.step(name.as_str())?;
        self.0.put_new(name, bytes)
    }
    fn create(&self, name: &ObjectName) -> Result<Box<dyn ObjectWriter>> {
        self.step(name.as_str())?;
        self.0.create(name)
    }
    fn begin_session(&self, id: SnapshotId, start: &[u8]) -> Result<Box<dyn SessionGuard>> {
        self.step("session")?;
        self.0.begin_session(id, start)
    }
    fn commit(&self, guard: &dyn SessionGuard) -> Result<()> {
        self.step("session")?;
        self.0.commit(guard)
    }
    fn fence(&self, id: SnapshotId) -> Result<bool> {
        self.step("session")?;
        self.0.fence(id)
    }
    fn session_is_alive(&self, id: SnapshotId) -> Result<bool> {
        self.0.session_is_alive(id)
    }
    fn settle(&self, kind: ObjectKind) -> Result<()> {
        self.0.settle(kind)
    }
    fn clear_leftovers(&self) -> Result<u64> {
        self.0.clear_leftovers()
    }
}

impl DeleteStore for Dies {
    fn delete(&self, name: &ObjectName) -> Result<bool> {
        self.step(name.as_str())?;
        self.0.delete(name)
    }
    fn remove_run(&self, kind: ObjectKind, id: SnapshotId) -> Result<bool> {
        self.step("session")?;
        self.0.remove_run(kind, id)
    }
    fn quarantine(&self, name: &ObjectName) -> Result<Option<ObjectName>> {
        self.step(name.as_str())?;
        self.0.quarantine(name)
    }
    fn release_reserve(&self) -> Result<u64> {
        self.0.release_reserve()
    }
    fn restore_reserve(&self) -> Result<()> {
        self.0.restore_reserve()
    }
}

#[test]
fn a_repair_that_dies_is_finished_by_the_next() {
    let (store, small, names) = built();
    let mut steps_seen = 0;
    for name in names.iter().take(6) {
        for steps in 0..60 {
            let bad = store.raw_copy();
            let mut bytes = bad.raw_get(name).expect("there");
            bytes[80] ^= 1;
            bad.raw_replace(name, bytes.clone());
            let before = failures(&bad, &small);
            let dying = Dies(bad.clone(), Arc::new(AtomicUsize::new(steps)));
            let died = with_means(dying, &small.keys, 7, |means| packs::run(means, &PacksRequest::default())).is_err();
            assert_eq!(failures(&bad, &small), before, "{name} after {steps} steps");
            // the damaged bytes are somewhere, whatever happened
            let kept = bad.raw_names().iter().any(|n| bad.raw_get(n).as_ref() == Some(&bytes));
            assert!(kept, "{name} after {steps} steps");
            repair_packs(&bad, &small, 8);
            assert_eq!(failures(&bad, &small), before, "{name} after {steps} steps");
            let after = verify(&bad, &small, VerifyScope::ReadData(PackSelection::All));
            assert!(only_holes(&after), "{name} after {steps} steps: {:?}", after.findings);
            if !died {
                steps_seen += steps;
                break;
            }
        }
    }
    assert!(steps_seen > 30, "the test dies too seldom: {steps_seen}");
}

/// Leaves the packs of one copy number only, and an index that names no others: what a prune may leave that had condemned
/// the other copies before an `undelete`.
fn leave_copy(store: &MemoryStore, small: &Small, copy: u8) {
    let reading = open_reading(Arc::new(store.clone()), Some(&small.key_file)).expect("opens");
    let ids: Vec<_> = reading.index.objects().keys().copied().collect();
    let mut left = IndexBody::default();
    for id in ids {
        let body = load_index(store, &small.keys, id).expect("index");
        let (stay, go): (Vec<_>, Vec<_>) = body.packs.into_iter().partition(|pack| pack.copy == copy);
        left.packs.extend(stay);
        for name in go.iter().map(|pack| ObjectName::pack(pack.pack)).chain([ObjectName::index(id)]) {
            store.raw_remove(name.as_str());
        }
    }
    put_index(store, &small.keys, &SeededRandom::new(5), &left).expect("put");
}

#[test]
fn what_has_one_copy_gets_the_other_again() {
    let (store, small, _) = built();
    leave_copy(&store, &small, 0);
    let found = verify(&store, &small, VerifyScope::ReadData(PackSelection::All));
    assert!(found.findings.iter().any(|f| f.reason.starts_with("copy 1 of the head")), "{:?}", found.findings);
    assert!(found.findings.iter().any(|f| f.reason.contains("a part of a tree")), "{:?}", found.findings);
    let names = store.raw_names();
    let dry = PacksRequest { dry_run: true, ..PacksRequest::default() };
    let would = with_means(store.clone(), &small.keys, 1, |means| packs::run(means, &dry)).expect("dry run");
    assert!(would.copies_made > 0 && store.raw_names() == names);
    let report = repair_packs(&store, &small, 2);
    assert_eq!((report.copies_made, report.damaged.len(), report.lost.len()), (would.copies_made, 0, 0));
    let found = verify(&store, &small, VerifyScope::ReadData(PackSelection::All));
    assert!(found.findings.is_empty(), "{:?}", found.findings);
    assert_eq!(repair_packs(&store, &small, 3).copies_made, 0);
    // now the first copies may go: records and trees are there, and with them all that is no dump and no content
    leave_copy(&store, &small, 1);
    let reading = open_reading(Arc::new(store), Some(&small.key_file)).expect("opens");
    let (streams, _) = reading.index.versions().fold((0, 0), |(n, m), version| match reading.stream(version) {
        Ok(_) => (n + 1, m),
        Err(error) => panic!("{version}: {error}"),
    });
    assert!(streams > 0);
}
