//! Parity of packs: whatever damages a pack within its budget is seen by `verify`, hits no restore, and is gone after a
//! repair; beyond the budget nothing wrong comes out. `HOLDFAST_DAMAGE=full` heals every byte of every
//! pack with three patterns, and looks at every seventh more closely.

use crate::damage_repair::Dies;
use crate::small_repository::{Small, make_with, open_reading, restore_all};
use holdfast::catalog::Catalog;
use holdfast::domain::id::PackId;
use holdfast::domain::system::{FixedClock, SeededRandom};
use holdfast::format::config_object::WriterParameters;
use holdfast::format::parity::{Parity, ParityShare, Shape};
use holdfast::format::seal::Suite;
use holdfast::ops::cancel::Cancel;
use holdfast::ops::observer::Silent;
use holdfast::ops::repair::packs::{self, PacksReport, PacksRequest};
use holdfast::ops::repair::{RepairError, RepairMeans};
use holdfast::ops::repair_index::Local;
use holdfast::ops::verify::{self, PackSelection, VerifyOptions, VerifyReport, VerifyScope};
use holdfast::storage::memory::MemoryStore;
use holdfast::storage::{DeleteStore, ReadStore};
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

/// One byte in this many of every pack is damaged unless all of them are.
const STRIDE: usize = 113;
const MASKS: [u8; 3] = [0x01, 0x80, 0xff];

fn full() -> bool {
    std::env::var("HOLDFAST_DAMAGE").is_ok_and(|value| value == "full")
}

fn clock() -> FixedClock {
    FixedClock(Mutex::new("2026-11-20T12:00:00Z".parse().expect("a time")))
}

fn parameters(percent: u8) -> WriterParameters {
    WriterParameters::DEFAULT.with_parity(ParityShare::new(percent))
}

fn built(percent: u8) -> (MemoryStore, Small) {
    let store = MemoryStore::new();
    let small = make_with(Arc::new(store.clone()), Suite::Aes256Gcm, 79, parameters(percent));
    (store, small)
}

fn names(store: &MemoryStore, kind: &str) -> Vec<String> {
    store.raw_names().into_iter().filter(|name| name.starts_with(kind)).collect()
}

fn id_of(name: &str) -> PackId {
    PackId::parse(name.rsplit('/').next().expect("a name")).expect("an id")
}

fn shape_of(store: &MemoryStore, pack: &str) -> Shape {
    let object = store.raw_get(&pack.replace("packs/", "parity/")).expect("its parity");
    Parity::find(&object, id_of(pack)).expect("whole").shape()
}

fn verify_all(store: &MemoryStore, small: &Small) -> (VerifyReport, usize) {
    let reading = open_reading(Arc::new(store.clone()), Some(&small.key_file)).expect("opens");
    let failures = restore_all(&reading, &small.saved);
    let reading = open_reading(Arc::new(store.clone()), Some(&small.key_file)).expect("opens");
    let options = VerifyOptions::new(VerifyScope::ReadData(PackSelection::All));
    let report = verify::run(&reading, &Catalog::none(), &options, &clock(), &Silent, &Cancel::new());
    (report.expect("verify runs to its end"), failures)
}

fn try_repair<S: DeleteStore + 'static>(
    store: S,
    small: &Small,
    percent: u8,
    seed: u64,
) -> Result<PacksReport, RepairError> {
    let (catalog, clock, cancel) = (Catalog::none(), clock(), Cancel::new());
    let means = RepairMeans {
        store: Arc::new(store),
        keys: Arc::clone(&small.keys),
        parameters: parameters(percent),
        random: Arc::new(SeededRandom::new(seed)),
        clock: &clock,
        observer: &Silent,
        cancel: &cancel,
        local: Local { catalog: &catalog, cache: None },
        host: "host".into(),
        process_id: 1,
    };
    packs::run(&means, &PacksRequest::default())
}

fn repair(store: &MemoryStore, small: &Small, percent: u8) -> PacksReport {
    try_repair(store.clone(), small, percent, 4000).expect("repair")
}

/// Nothing is wrong, and every pack has its parity.
fn assert_sound(store: &MemoryStore, small: &Small, why: &str) {
    let (report, failures) = verify_all(store, small);
    assert_eq!((report.findings, report.affected, failures), (Vec::new(), Vec::new(), 0), "{why}");
    assert_eq!(report.packs_with_parity, report.packs, "{why}");
    assert_eq!(names(store, "packs/").len(), names(store, "parity/").len(), "{why}");
}

#[test]
fn every_pack_has_parity_and_nothing_is_wrong() {
    let (store, small) = built(5);
    assert_sound(&store, &small, "as built");
    let report = repair(&store, &small, 5);
    assert!(report.damaged.is_empty() && report.parity.written == 0, "{report:?}");
}

/// Healing alone, without looking whom the damage hits.
#[test]
fn every_flipped_byte_of_every_pack_is_healed() {
    let (store, _) = built(5);
    let mut jobs: Vec<(String, usize, u8)> = Vec::new();
    for (n, name) in names(&store, "packs/").into_iter().enumerate() {
        let length = store.raw_get(&name).expect("there").len();
        for at in (n % STRIDE..length).step_by(if full() { 1 } else { STRIDE }) {
            let masks: &[u8] = if full() { &MASKS } else { &[MASKS[at % 3]] };
            jobs.extend(masks.iter().map(|mask| (name.clone(), at, *mask)));
        }
    }
    println!("{} flipped bytes", jobs.len());
    jobs.par_iter().for_each(|(name, at, mask)| {
        let whole = store.raw_get(name).expect("there");
        let mut bad = whole.clone();
        bad[*at] ^= mask;
        let object = store.raw_get(&name.replace("packs/", "parity/")).expect("its parity");
        let parity = Parity::find(&object, id_of(name)).expect("whole");
        assert_eq!(parity.heal(&bad), Ok(whole), "byte {at} of {name}");
    });
}

/// What is done to a pack.
#[derive(Debug, Clone)]
enum Damage {
    Flip(usize, u8),
    Run(usize, usize),
    Cut(usize),
    Longer,
}

#[test]
fn damage_within_the_budget_hits_nobody_and_is_repaired() {
    let (store, small) = built(8);
    let mut jobs: Vec<(String, Damage)> = Vec::new();
    for (n, name) in names(&store, "packs/").into_iter().enumerate() {
        let (length, shape) = (store.raw_get(&name).expect("there").len(), shape_of(&store, &name));
        let run = (shape.rows as usize - 1) * shape.shard_bytes as usize + 1;
        let flips = (n % STRIDE..length).step_by(if full() { STRIDE / 16 } else { STRIDE });
        jobs.extend(flips.map(|at| (name.clone(), Damage::Flip(at, MASKS[at % 3]))));
        let starts = [0, 64, length / 3, length.saturating_sub(run)];
        jobs.extend(starts.map(|at| (name.clone(), Damage::Run(at.min(length - 1), run))));
        // whole shards from the end
        let kept = (shape.shards() - shape.rows as usize) * shape.shard_bytes as usize;
        jobs.extend([length - 1, length - 49, kept].map(|at| (name.clone(), Damage::Cut(at))));
        jobs.push((name, Damage::Longer));
    }
    assert!(jobs.len() > 200, "{}", jobs.len());
    jobs.par_iter().enumerate().for_each(|(n, (name, damage))| {
        let bad = store.raw_copy();
        let mut bytes = bad.raw_get(name).expect("there");
        match damage {
            Damage::Flip(at, xor) => bytes[*at] ^= xor,
            Damage::Run(at, run) => {
                let end = (at + run).min(bytes.len());
                bytes[*at..end].iter_mut().for_each(|b| *b = b.wrapping_add(0x55));
            }
            Damage::Cut(at) => bytes.truncate(*at),
            Damage::Longer => bytes.extend([1, 2, 3]),
        }
        bad.raw_replace(name, bytes.clone());
        let (report, failures) = verify_all(&bad, &small);
        assert_eq!(failures, 0, "{name} {damage:?}");
        assert!(report.findings.iter().any(|f| f.object == *name), "{name} {damage:?}: {:?}", report.findings);
        assert!(report.affected.is_empty(), "{name} {damage:?}: {:?}", report.affected);
        assert_eq!(report.repairable, std::slice::from_ref(name), "{damage:?}");
        if n % if full() { 50 } else { 5 } == 0 || !matches!(damage, Damage::Flip(..)) {
            let report = repair(&bad, &small, 8);
            let [repaired] = report.damaged.as_slice() else { panic!("{name} {damage:?}: {report:?}") };
            assert!(repaired.by_parity && repaired.blobs_copied == repaired.blobs, "{name} {damage:?}: {report:?}");
            assert_sound(&bad, &small, &format!("{name} {damage:?}"));
            let aside = |name: &str| format!("quarantine/{}", name.trim_start_matches("packs/"));
            assert_eq!(bad.raw_get(&aside(name)), Some(bytes), "it is kept as it was found");
            assert!(bad.raw_get(&aside(&name.replace("packs/", "parity/"))).is_some(), "and its parity with it");
        }
    });
}

#[test]
fn damaged_parity_is_seen_hits_nobody_and_is_written_again() {
    let (store, small) = built(5);
    let all = names(&store, "parity/");
    let mut jobs: Vec<(&String, Option<Vec<u8>>)> = Vec::new();
    for (n, name) in all.iter().enumerate() {
        let whole = store.raw_get(name).expect("there");
        for at in (n % STRIDE..whole.len()).step_by(if full() { STRIDE / 16 } else { STRIDE }) {
            let mut bytes = whole.clone();
            bytes[at] ^= MASKS[at % 3];
            jobs.push((name, Some(bytes)));
        }
        jobs.extend([0, 1, 64, 113, whole.len() - 1].map(|cut| (name, Some(whole[..cut].to_vec()))));
        jobs.push((name, Some([whole.as_slice(), &[0]].concat())));
        jobs.push((name, store.raw_get(&all[(n + 1) % all.len()])));
        jobs.push((name, None));
    }
    jobs.into_par_iter().enumerate().for_each(|(n, (name, bytes))| {
        let bad = store.raw_copy();
        let whole = bad.raw_remove(name);
        if let Some(bytes) = &bytes {
            bad.raw_replace(name, bytes.clone());
        }
        let (report, failures) = verify_all(&bad, &small);
        assert_eq!((failures, report.affected.len()), (0, 0), "{name}");
        assert!(report.findings.iter().all(|f| f.object == *name) && report.is_damaged(), "{:?}", report.findings);
        if n % 5 == 0 || bytes.is_none() {
            let report = repair(&bad, &small, 5);
            assert_eq!((report.damaged.len(), report.parity.damaged.len(), report.parity.written), (0, 1, 1));
            assert_eq!(bad.raw_get(name), whole, "the same bytes again");
            assert_eq!(bad.raw_get(&format!("quarantine/{name}")), bytes);
            assert_sound(&bad, &small, name);
        }
    });
}

#[test]
fn packs_that_are_gone_come_back_from_parity_of_their_own_size() {
    let (store, small) = built(100);
    for name in names(&store, "packs/") {
        let bad = store.raw_copy();
        bad.raw_remove(&name);
        let (report, failures) = verify_all(&bad, &small);
        assert_eq!((failures, report.affected.len(), report.repairable), (0, 0, vec![name.clone()]));
        let report = repair(&bad, &small, 100);
        assert!(report.damaged[0].by_parity && report.damaged[0].problem == "missing", "{report:?}");
        assert_sound(&bad, &small, &name);
    }
    // all at once
    names(&store, "packs/").iter().for_each(|name| drop(store.raw_remove(name)));
    assert_eq!(verify_all(&store, &small).1, 0);
    repair(&store, &small, 100);
    assert_sound(&store, &small, "all packs gone");
}

#[test]
fn beyond_the_budget_the_report_is_true_and_nothing_wrong_comes_out() {
    let (store, small) = built(5);
    let mut lost = 0;
    for name in names(&store, "packs/") {
        let shape = shape_of(&store, &name);
        if shape.shards() <= shape.rows as usize {
            continue; // nothing is beyond the budget
        }
        let bad = store.raw_copy();
        let mut bytes = bad.raw_get(&name).expect("there");
        (0..=shape.rows as usize).for_each(|n| bytes[n * shape.shard_bytes as usize + 7] ^= 1);
        bad.raw_replace(&name, bytes);
        let (report, failures) = verify_all(&bad, &small);
        assert!(report.repairable.is_empty() && report.findings.iter().any(|f| f.object == name), "{report:?}");
        assert_eq!(failures > 0, !report.affected.is_empty(), "{name}: {:?}", report.affected);
        let report = repair(&bad, &small, 5);
        assert_eq!((report.damaged.len(), report.damaged[0].by_parity), (1, false));
        assert_eq!(report.lost.is_empty(), failures == 0, "{report:?}");
        lost += failures;
    }
    assert!(lost > 0, "the test damages too little");
}

#[test]
fn parity_is_given_to_packs_that_have_none() {
    let store = MemoryStore::new();
    let small = make_with(Arc::new(store.clone()), Suite::Aes256Gcm, 80, WriterParameters::DEFAULT);
    let packs = names(&store, "packs/");
    let report = repair(&store, &small, 5);
    assert_eq!((report.parity.unprotected, report.parity.written), (packs.len() as u64, packs.len() as u64));
    assert_eq!(names(&store, "packs/"), packs, "the packs themselves stay");
    assert_sound(&store, &small, "protected later");
    // nobody can know that a pack that was written without parity has had some
    store.raw_remove(&packs[0].replace("packs/", "parity/"));
    let (report, _) = verify_all(&store, &small);
    assert_eq!((report.findings.len(), report.packs_with_parity), (0, packs.len() as u64 - 1));
    assert_eq!(repair(&store, &small, 5).parity.written, 1);
}

#[test]
fn a_repair_that_dies_is_finished_by_the_next() {
    let (store, small) = built(5);
    let packs = names(&store, "packs/");
    let mut died = 0;
    for steps in 0..200 {
        let bad = store.raw_copy();
        // a damaged pack, damaged parity of another, lost parity of a third
        let mut bytes = bad.raw_get(&packs[0]).expect("there");
        bytes[100] ^= 1;
        bad.raw_replace(&packs[0], bytes);
        let parity = |n: usize| packs[n].replace("packs/", "parity/");
        let mut bytes = bad.raw_get(&parity(1)).expect("there");
        bytes[200] ^= 1;
        bad.raw_replace(&parity(1), bytes);
        bad.raw_remove(&parity(2));
        let dying = Dies(bad.clone(), Arc::new(AtomicUsize::new(steps)));
        let whole = try_repair(dying, &small, 5, 7).is_ok();
        assert_eq!(verify_all(&bad, &small).1, 0, "after {steps} steps");
        try_repair(bad.clone(), &small, 5, 8).expect("repair");
        let (report, failures) = verify_all(&bad, &small);
        assert_eq!((report.findings, failures), (Vec::new(), 0), "after {steps} steps");
        if whole {
            break;
        }
        died += 1;
    }
    assert!(died > 10, "{died}");
}

#[test]
fn the_bytes_of_parity_follow_from_the_pack() {
    let (store, _) = built(5);
    let (again, _) = built(5);
    let of = |store: &MemoryStore| -> BTreeSet<Vec<u8>> {
        names(store, "parity/").iter().map(|name| store.raw_get(name).expect("there")).collect()
    };
    assert_eq!(of(&store), of(&again));
    let info = store.list(holdfast::storage::ObjectKind::Parity).expect("list");
    assert_eq!(info.len(), names(&store, "packs/").len());
}
