//! Every byte of every object damaged, objects cut, lengthened, removed, exchanged: `verify --read-data` sees it every
//! time, and a restore gives what was saved or an error, never anything else. How much is tried: TESTING.md.

use crate::small_repository::{EDITS, SNAPSHOTS, Small, make, open_reading, restore_all};
use holdfast::catalog::Catalog;
use holdfast::domain::id::SnapshotId;
use holdfast::domain::system::{FixedClock, Random, SeededRandom};
use holdfast::format::seal::Suite;
use holdfast::ops::cancel::Cancel;
use holdfast::ops::observer::Silent;
use holdfast::ops::repair_index::{self, Local, RepairIndexReport};
use holdfast::ops::verify::{self, PackSelection, VerifyOptions, VerifyReport, VerifyScope};
use holdfast::repository::cached_snapshots;
use holdfast::repository::reading::Reading;
use holdfast::repository::session::SessionStart;
use holdfast::storage::memory::MemoryStore;
use holdfast::storage::{ReadStore, WriteStore};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Set to `full`: every byte three times. Otherwise one byte in [`STRIDE`] of every object and its first and last ones.
const VARIABLE: &str = "HOLDFAST_DAMAGE";
const STRIDE: usize = 7;
/// Bytes at both ends of an object that are always damaged: header, trailer and footer.
const ENDS: usize = 72;

/// Something done to one object, or two.
#[derive(Debug, Clone)]
enum Damage {
    Flip(usize, u8),
    Cut(usize),
    Longer(Vec<u8>),
    Gone,
    Swap(String),
}

fn clock() -> FixedClock {
    FixedClock(Mutex::new("2026-11-20T12:00:00Z".parse().expect("a time")))
}

fn built(suite: Suite) -> (MemoryStore, Small) {
    let store = MemoryStore::new();
    let small = make(Arc::new(store.clone()), suite, 77);
    (store, small)
}

fn verify_with(
    store: &MemoryStore,
    small: &Small,
    suite: Suite,
    options: &VerifyOptions,
    catalog: &Catalog,
) -> VerifyReport {
    let secret = (suite != Suite::None).then_some(&small.key_file);
    let reading = open_reading(Arc::new(store.clone()), secret).expect("opens");
    verify::run(&reading, catalog, options, &clock(), &Silent, &Cancel::new()).expect("verify runs to its end")
}

fn read_data() -> VerifyOptions {
    VerifyOptions::new(VerifyScope::ReadData(PackSelection::All))
}

fn kind_of(name: &str) -> &str {
    name.split('/').next().unwrap_or(name)
}

/// What is tried on an object of `length` bytes.
fn damages(name: &str, length: usize, names: &[String], full: bool) -> Vec<Damage> {
    let xors = [0x01, 0x80, 0xff];
    let mut all = Vec::new();
    for at in 0..length {
        if full {
            all.extend(xors.map(|xor| Damage::Flip(at, xor)));
        } else if at % STRIDE == 0 || at < ENDS || at + ENDS >= length {
            all.push(Damage::Flip(at, xors[at / STRIDE % 3]));
        }
    }
    all.extend([0, 1, 63, 64, 111, 112, length / 2, length - 49, length - 1].map(|n| Damage::Cut(n.min(length - 1))));
    all.extend([Damage::Longer(vec![0]), Damage::Longer(vec![0xaa; 5000]), Damage::Gone]);
    let mates = names.iter().filter(|other| other.as_str() > name && kind_of(other) == kind_of(name));
    let mates = mates.take(if full { usize::MAX } else { 4 });
    all.extend(mates.map(|other| Damage::Swap(other.clone())));
    all
}

/// What may be missing unnoticed. The ends of an act: without its last entry it is an act that is not finished yet, without its
/// first one a finished act that is being pruned. And what stands alone: nobody forgot, accepted, condemned or began anything then.
fn may_be_unseen(name: &str, damage: &Damage) -> bool {
    let alone = ["forgotten", "accepted", "condemned", "sessions", "fenced"];
    let end_of_act = name.starts_with("acts/") && !name.ends_with(".0001");
    matches!(damage, Damage::Gone) && (end_of_act || alone.contains(&kind_of(name)))
}

fn apply(store: &MemoryStore, name: &str, damage: &Damage) {
    let bytes = store.raw_get(name).expect("the object is there");
    match damage {
        Damage::Flip(at, xor) => {
            let mut bytes = bytes;
            bytes[*at] ^= xor;
            store.raw_replace(name, bytes);
        }
        Damage::Cut(at) => store.raw_replace(name, bytes[..*at].to_vec()),
        Damage::Longer(more) => store.raw_replace(name, [bytes.as_slice(), more].concat()),
        Damage::Gone => drop(store.raw_remove(name)),
        Damage::Swap(other) => {
            let theirs = store.raw_get(other).expect("the other object is there");
            store.raw_replace(other, bytes);
            store.raw_replace(name, theirs);
        }
    }
}

fn damage_everything(suite: Suite, stride_of_jobs: usize) {
    let (store, small) = built(suite);
    damage_all_of(&store, &small, suite, stride_of_jobs);
}

fn damage_all_of(store: &MemoryStore, small: &Small, suite: Suite, stride_of_jobs: usize) {
    let full = std::env::var(VARIABLE).is_ok_and(|value| value == "full");
    let sound = verify_with(store, small, suite, &read_data(), &Catalog::none());
    assert_eq!((sound.findings, sound.affected), (Vec::new(), Vec::new()));
    let names = store.raw_names();
    let jobs: Vec<(&str, Damage)> = names
        .iter()
        .flat_map(|name| {
            let length = store.raw_get(name).expect("listed").len();
            let tried = damages(name, length, &names, full).into_iter().filter(|d| !may_be_unseen(name, d));
            tried.map(move |damage| (name.as_str(), damage))
        })
        .step_by(if full { 1 } else { stride_of_jobs })
        .collect();
    let lost = AtomicUsize::new(0);
    jobs.par_iter().for_each(|(name, damage)| {
        let bad = store.raw_copy();
        apply(&bad, name, damage);
        let secret = (suite != Suite::None).then_some(&small.key_file);
        let reading = open_reading(Arc::new(bad.clone()), secret).unwrap_or_else(|| {
            // both copies of the configuration or of the slot: whoever holds the keys can still read
            assert!(matches!(damage, Damage::Swap(other) if *other == format!("{name}.copy")), "{damage:?} of {name}");
            Reading::open(Arc::new(bad.clone()), Arc::clone(&small.keys), None).expect("index")
        });
        let failures = restore_all(&reading, &small.saved);
        lost.fetch_add(failures, Ordering::Relaxed);
        let report = verify::run(&reading, &Catalog::none(), &read_data(), &clock(), &Silent, &Cancel::new());
        let report = report.expect("verify runs to its end");
        // An index object that names nothing but what no version needs, as after a prune: then its packs belong to nobody, as those
        // of a run that died, and that is said.
        if !report.is_damaged() && matches!(damage, Damage::Gone) && kind_of(name) == "index" {
            assert!(report.notes.iter().any(|n| n.code == "pack.unindexed"), "{name} is gone and nothing is said");
            assert_eq!(failures, 0, "{name} is gone, sources are lost, and nothing is said");
            return;
        }
        assert!(report.is_damaged(), "{damage:?} of {name} was not seen");
        let named =
            report.findings.iter().any(|f| f.object.starts_with(kind_of(name)) || f.object.starts_with("version"));
        assert!(named, "{damage:?} of {name} is reported as {:?}", report.findings);
        if failures > 0 {
            let told = !report.affected.is_empty() || !report.unreadable_snapshots.is_empty();
            assert!(
                told,
                "{damage:?} of {name} hits {failures} sources, and the report names none: {:?}",
                report.findings
            );
        } else {
            assert!(
                report.affected.is_empty(),
                "{damage:?} of {name} hits nobody, and the report says {:?}",
                report.affected
            );
        }
    });
    let lost = lost.into_inner();
    println!(
        "{} objects, {} damages, each seen or harmless and said; {lost} sources were not given back, with an error",
        names.len(),
        jobs.len()
    );
    assert!(jobs.len() > 1000 && lost > 0, "the test damages too little");
}

#[test]
fn the_small_repository_has_what_the_test_promises() {
    let (store, small) = built(Suite::Aes256Gcm);
    let names = store.raw_names();
    let count = |kind: &str| names.iter().filter(|n| kind_of(n) == kind).count();
    assert_eq!((count("keys"), count("config") + count("config.copy")), (4, 2));
    assert!(count("packs") >= 4 && count("index") >= 2);
    assert_eq!((count("snapshots"), count("acts")), (4 * SNAPSHOTS, 3));
    let reading = open_reading(Arc::new(store), Some(&small.key_file)).expect("opens");
    let (snapshots, _) = reading.snapshots().expect("snapshots");
    let depths: Vec<usize> = small
        .saved
        .iter()
        .map(|saved| {
            let loaded = snapshots.iter().find(|l| l.snapshot.id == saved.id).expect("there");
            reading.stream(loaded.snapshot.sources[0].streams[0].version).expect("stream").depth()
        })
        .collect();
    assert_eq!(depths[..=EDITS], [1, 2, 3, 4, 5, 6]);
    assert_eq!(depths[EDITS + 1..], [1, 2], "the full recipe stands on its own");
    assert_eq!(restore_all(&reading, &small.saved), 0);
}

#[test]
fn every_byte_of_an_encrypted_repository_matters() {
    damage_everything(Suite::Aes256Gcm, 1);
}

#[test]
fn every_byte_of_an_open_repository_matters() {
    damage_everything(Suite::None, 5);
}

/// Merged edits, tombstones, an acceptance, a condemned record and dead runs are in this one.
#[test]
fn every_byte_of_a_repository_that_has_lived_matters() {
    let (store, small) = built(Suite::Aes256Gcm);
    crate::lived_in::live(&store, &small);
    damage_all_of(&store, &small, Suite::Aes256Gcm, 8);
}

#[test]
fn damage_is_traced_to_snapshots_sources_and_files() {
    let (store, small) = built(Suite::Aes256Gcm);
    // The pack that holds the first contents: the dump and the files of the first backup.
    let reading = open_reading(Arc::new(store.clone()), Some(&small.key_file)).expect("opens");
    let (snapshots, _) = reading.snapshots().expect("snapshots");
    let first = snapshots.last().expect("the oldest").snapshot.source("code").expect("files").streams[0].version;
    let number = reading.index.space_parts(first).first().expect("its literals").pack;
    let content_pack = reading.index.pack(number).expect("indexed").id;
    let bad = store.raw_copy();
    bad.raw_remove(&format!("packs/{}/{content_pack}", &content_pack.hex()[..2]));
    let report =
        verify_with(&bad, &small, Suite::Aes256Gcm, &VerifyOptions::new(VerifyScope::Structure), &Catalog::none());
    assert!(report.findings.iter().any(|f| f.object.ends_with(&content_pack.hex()) && f.problem == "missing"));
    let hit = |source: &str| report.affected.iter().filter(|a| a.source == source).count();
    assert!(hit("app") >= 1 && hit("code") >= 1, "{:?}", report.affected);
    let files: Vec<&String> = report.affected.iter().filter(|a| a.source == "code").flat_map(|a| &a.paths).collect();
    assert!(files.iter().any(|f| f.as_str() == "/srv/app/b.bin"), "{files:?}");
    assert!(!files.iter().any(|f| f.as_str() == "/srv/app/empty"), "{files:?}");

    // The data of one snapshot alone: damage elsewhere is not looked for.
    let newest = small.saved.last().expect("snapshots").id;
    let one = VerifyOptions::new(VerifyScope::Snapshots(vec![newest]));
    let report = verify_with(&store, &small, Suite::Aes256Gcm, &one, &Catalog::none());
    assert_eq!((report.findings.len(), report.streams_proved, report.files_proved), (0, 4, 4));
    let report = verify_with(&bad, &small, Suite::Aes256Gcm, &one, &Catalog::none());
    assert!(report.affected.iter().all(|a| a.snapshot == newest.hex()) && !report.affected.is_empty());
}

#[test]
fn strays_and_leftovers_are_notes() {
    let (store, small) = built(Suite::Aes256Gcm);
    let strays =
        ["notes.txt", "tmp/left", "packs/zz/hello", "index/hello", "keys/hello", "snapshots/hello", "quarantine/ab/x"];
    for name in strays {
        store.raw_replace(name, b"x".to_vec());
    }
    let report = verify_with(&store, &small, Suite::Aes256Gcm, &read_data(), &Catalog::none());
    assert_eq!(report.findings, []);
    for name in strays {
        assert!(report.notes.iter().any(|n| n.object == name), "{name} is not noted");
    }
}

#[test]
fn the_ledger_spreads_the_work_over_runs() {
    let (store, small) = built(Suite::Aes256Gcm);
    let state = tempfile::tempdir().expect("temporary folder");
    let catalog = Catalog::open(state.path(), small.keys.repository());
    let some = |selection| VerifyOptions::new(VerifyScope::ReadData(selection));
    let run = |options: &VerifyOptions| verify_with(&store, &small, Suite::Aes256Gcm, options, &catalog);
    let parts: Vec<u64> = (1..=3).map(|part| run(&some(PackSelection::Part { part, parts: 3 })).packs_read).collect();
    let packs = run(&some(PackSelection::Bytes(1))).packs;
    assert_eq!(parts.iter().sum::<u64>(), packs, "every pack is in one part");
    assert_eq!(catalog.last_reads().len() as u64, packs);
    let recent = VerifyOptions { unverified_for: Some(std::time::Duration::from_secs(3600)), ..read_data() };
    assert_eq!(run(&recent).packs_read, 0, "all were read a moment ago");
    let none_left = VerifyOptions { max_duration: Some(std::time::Duration::ZERO), ..read_data() };
    let report = run(&none_left);
    assert_eq!((report.complete, report.packs_read, report.packs_left), (false, 0, packs));
    let half = run(&some(PackSelection::Permille(500))).packs_read;
    assert!(half > 0 && half < packs, "{half} of {packs}");
    assert_eq!(run(&some(PackSelection::Permille(1000))).packs_read, packs);

    // A damaged pack is due again at once.
    let name = store.raw_names().into_iter().find(|n| n.starts_with("packs/")).expect("a pack");
    let mut bytes = store.raw_get(&name).expect("there");
    bytes[100] ^= 1;
    store.raw_replace(&name, bytes);
    assert!(run(&read_data()).is_damaged());
    assert_eq!(run(&recent).packs_read, 1);
}

/// How many snapshot records a catalog keeps.
fn kept_records(catalog: &Catalog) -> usize {
    let mut kept = 0;
    catalog.each_snapshot_record(100, |records| kept += records.len());
    kept
}

#[test]
fn listing_with_the_catalog_gives_what_the_repository_has() {
    let (store, small) = built(Suite::Aes256Gcm);
    let state = tempfile::tempdir().expect("temporary folder");
    let catalog = Catalog::open(state.path(), small.keys.repository());
    let load = |store: &MemoryStore| cached_snapshots::load_snapshots(store, &small.keys, &catalog).expect("load").0;
    let first = load(&store);
    assert_eq!(first.len(), SNAPSHOTS);
    assert_eq!(kept_records(&catalog), SNAPSHOTS);
    assert_eq!(load(&store), first);
    // Forgotten snapshots disappear, records that were tampered with are read again.
    let gone = small.saved[0].id;
    let less = store.raw_copy();
    less.raw_names().iter().filter(|n| n.contains(&gone.hex())).for_each(|n| drop(less.raw_remove(n)));
    catalog.put_snapshots(&[(small.saved[1].id, 0, b"rubbish".to_vec())]);
    let rest = load(&less);
    assert_eq!(rest.len(), SNAPSHOTS - 1);
    assert!(rest.iter().all(|l| l.snapshot.id != gone && first.contains(l)));
    assert_eq!(kept_records(&catalog), SNAPSHOTS - 1);
}

fn repair(store: &MemoryStore, small: &Small, dry_run: bool) -> RepairIndexReport {
    let store: Arc<dyn WriteStore> = Arc::new(store.clone());
    static RUNS: AtomicUsize = AtomicUsize::new(123);
    let random = SeededRandom::new(RUNS.fetch_add(1, Ordering::Relaxed) as u64);
    let catalog = Catalog::none();
    let local = Local { catalog: &catalog, cache: None };
    let start = SessionStart {
        id: SnapshotId((&random as &dyn Random).bytes()),
        host: "host".to_owned(),
        process: 1,
        started_ns: 0,
        sources: Vec::new(),
    };
    repair_index::run(&store, &small.keys, &random, local, (!dry_run).then_some(&start), &Silent, &Cancel::new())
        .expect("repair")
}

#[test]
fn the_index_is_made_again_from_the_packs() {
    let (store, small) = built(Suite::Aes256Gcm);
    let before: BTreeMap<String, Vec<u8>> =
        store.raw_names().into_iter().map(|n| (n.clone(), store.raw_get(&n).expect("there"))).collect();
    let indexes: Vec<&String> = before.keys().filter(|n| n.starts_with("index/")).collect();
    let sound = repair(&store, &small, false);
    assert_eq!((sound.index_objects, sound.index_objects_written.len()), (indexes.len() as u64, 0));

    // One is gone, one is damaged, one is cut off.
    store.raw_remove(indexes[0]);
    let mut damaged = before[indexes[1]].clone();
    damaged[70] ^= 4;
    store.raw_replace(indexes[1], damaged.clone());
    store.raw_replace(indexes[2], before[indexes[2]][..50].to_vec());
    let dry = repair(&store, &small, true);
    assert!(!dry.packs_added.is_empty() && dry.index_objects_written.is_empty());
    assert_eq!(dry.damaged_index_objects.len(), 2);
    assert!(verify_with(&store, &small, Suite::Aes256Gcm, &read_data(), &Catalog::none()).is_damaged());

    let done = repair(&store, &small, false);
    assert_eq!(done.packs_added, dry.packs_added);
    assert_eq!(done.index_objects_written.len(), 1);
    let reading = open_reading(Arc::new(store.clone()), Some(&small.key_file)).expect("opens");
    assert_eq!(restore_all(&reading, &small.saved), 0);
    assert_eq!(reading.findings(), Vec::<String>::new(), "what was replaced is history");
    let report = verify_with(&store, &small, Suite::Aes256Gcm, &read_data(), &Catalog::none());
    assert_eq!(report.findings, []);
    assert_eq!(report.notes.iter().filter(|n| n.code == "index.superseded").count(), 2);
    // Nothing was changed or removed.
    assert_eq!(store.raw_get(indexes[1]), Some(damaged));
    for (name, bytes) in before.iter().filter(|(n, _)| !indexes[..3].contains(n)) {
        assert_eq!(store.raw_get(name).as_ref(), Some(bytes), "{name}");
    }
    assert_eq!(repair(&store, &small, false).index_objects_written.len(), 0, "a second repair has nothing to do");
}

#[test]
fn packs_that_cannot_be_indexed_are_named() {
    let (store, small) = built(Suite::Aes256Gcm);
    let names = store.raw_names();
    names.iter().filter(|n| n.starts_with("index/")).for_each(|n| drop(store.raw_remove(n)));
    let pack = names.iter().find(|n| n.starts_with("packs/")).expect("a pack");
    let bytes = store.raw_get(pack).expect("there");
    store.raw_replace(pack, bytes[..bytes.len() - 1].to_vec());
    let report = repair(&store, &small, false);
    assert_eq!(report.unusable_packs.iter().map(|u| &u.object).collect::<Vec<_>>(), [pack]);
    assert_eq!(report.packs_added.len() as u64, report.packs - 1);
    assert!(store.raw_get(pack).is_some());
}

/// Never writes: the store offers reading only, and is the same afterwards.
#[test]
fn verify_changes_nothing() {
    let (store, small) = built(Suite::Aes256Gcm);
    let pack = store.raw_names().into_iter().find(|n| n.starts_with("packs/")).expect("a pack");
    store.raw_replace(&pack, vec![1, 2, 3]);
    let all = |store: &MemoryStore| -> Vec<(String, Option<Vec<u8>>)> {
        store.raw_names().into_iter().map(|n| (n.clone(), store.raw_get(&n))).collect()
    };
    let before = all(&store);
    let read_only: Arc<dyn ReadStore> = Arc::new(store.clone());
    let reading = open_reading(read_only, Some(&small.key_file)).expect("opens");
    for options in [read_data(), VerifyOptions::new(VerifyScope::Structure)] {
        let report = verify::run(&reading, &Catalog::none(), &options, &clock(), &Silent, &Cancel::new());
        assert!(report.expect("verify").is_damaged());
    }
    assert_eq!(all(&store), before);
}
