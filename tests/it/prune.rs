//! Prune through the library: whatever is kept reads back, whatever is not frees its space.

use crate::streams::{Change, Repo, apply, rows};
use holdfast::catalog::Catalog;
use holdfast::domain::id::{SnapshotId, VersionId};
use holdfast::domain::system::{FixedClock, Random, SeededRandom};
use holdfast::format::config_object::WriterParameters;
use holdfast::ops::cancel::Cancel;
use holdfast::ops::observer::Silent;
use holdfast::ops::prune::{self, PruneError, PruneMeans, PruneOptions, PruneReport, Roots};
use holdfast::repository::closure::Coverage;
use holdfast::repository::reading::Reading;
use holdfast::repository::stream_writer::StreamSettings;
use holdfast::storage::{ObjectKind, ReadStore};
use proptest::prelude::*;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};

/// Prunes everything but `kept`.
pub(crate) fn prune(repo: &Repo, kept: &HashSet<VersionId>, options: &PruneOptions) -> Result<PruneReport, PruneError> {
    let roots = || Ok(Roots { versions: kept.clone(), ..Roots::default() });
    prune_with(repo, &roots, options)
}

pub(crate) fn prune_with(
    repo: &Repo,
    roots: &prune::ReadRoots<'_>,
    options: &PruneOptions,
) -> Result<PruneReport, PruneError> {
    let clock = FixedClock(Mutex::new(jiff::Timestamp::UNIX_EPOCH));
    let means = PruneMeans {
        store: Arc::clone(&repo.store) as Arc<_>,
        keys: Arc::clone(&repo.keys),
        parameters: WriterParameters::DEFAULT,
        random: Arc::clone(&repo.random),
        clock: &clock,
        observer: &Silent,
        cancel: &Cancel::default(),
        cache: None,
        catalog: &Catalog::none(),
        host: "test".into(),
        process_id: 1,
        roots,
    };
    prune::run(&means, options)
}

fn stored(repo: &Repo) -> u64 {
    [ObjectKind::Pack, ObjectKind::Index]
        .into_iter()
        .flat_map(|kind| repo.store.list(kind).expect("list"))
        .map(|o| o.stored_bytes)
        .sum()
}

const FULL: PruneOptions =
    PruneOptions { dry_run: false, full: true, max_repack_bytes: None, recompress_before_ns: None };
const NORMAL: PruneOptions =
    PruneOptions { dry_run: false, full: false, max_repack_bytes: None, recompress_before_ns: None };

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// A random tree of versions, forgotten in a random order with prunes in between, some with limits.
    #[test]
    fn any_tree_forgotten_in_any_order_keeps_what_it_must(
        script in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<Change>(), 0..6)), 2..9),
        order in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        seed in any::<u64>(),
    ) {
        let repo = Repo::new(seed);
        let mut all: Vec<(VersionId, Vec<u8>)> = Vec::new();
        for (n, (pick, changes)) in script.into_iter().enumerate() {
            let base = (!all.is_empty() && pick % 5 != 0).then(|| &all[usize::from(pick) % all.len()]);
            let mut bytes = base.map_or_else(|| rows(seed ^ n as u64, 2000), |b| b.1.clone());
            for (k, change) in changes.into_iter().enumerate() {
                apply(&mut bytes, change, seed.wrapping_add((n * 100 + k) as u64));
            }
            let (stored, _) = repo.put(&bytes, base.map(|b| b.0), &[]);
            if stored.is_new {
                all.push((stored.version, bytes));
            }
        }
        let mut kept = all.clone();
        for (index, kind) in order {
            if kept.len() > 1 {
                kept.remove(index.index(kept.len()));
            }
            if kind % 3 == 0 {
                // new versions keep coming, with any kept one as parent
                let (parent, bytes) = &kept[usize::from(kind) % kept.len()];
                let mut bytes = bytes.clone();
                apply(&mut bytes, (kind, u16::from(kind) << 8, 3000), seed ^ u64::from(kind));
                let (stored, _) = repo.put(&bytes, Some(*parent), &[]);
                if stored.is_new {
                    kept.push((stored.version, bytes));
                }
            }
            let ids: HashSet<VersionId> = kept.iter().map(|k| k.0).collect();
            let options = match kind % 4 {
                0 => FULL,
                1 => PruneOptions { max_repack_bytes: Some(100_000), ..NORMAL },
                _ => NORMAL,
            };
            let report = prune(&repo, &ids, &options).expect("prune");
            prop_assert_eq!(report.packs_waiting, 0);
            for (version, bytes) in &kept {
                prop_assert_eq!(&repo.read(*version), bytes);
            }
        }
        // nothing is left of what was forgotten, and a second prune finds nothing to do
        let ids: HashSet<VersionId> = kept.iter().map(|k| k.0).collect();
        prune(&repo, &ids, &FULL).expect("prune");
        let after = stored(&repo);
        let again = prune(&repo, &ids, &FULL).expect("prune");
        prop_assert_eq!((again.removed_bytes, again.records_merged), (0, 0));
        prop_assert_eq!(stored(&repo), after);
        prop_assert!(repo.store.list(ObjectKind::Condemned).expect("list").is_empty());
        prop_assert!(repo.store.list(ObjectKind::Session).expect("list").is_empty());
        // versions that were forgotten are gone
        for (version, _) in all.iter().filter(|a| !ids.contains(&a.0)) {
            prop_assert!(!repo.has_record(*version));
        }
    }
}

#[test]
fn everything_goes_when_nothing_is_kept() {
    let repo = Repo::new(1);
    let mut parent = None;
    for n in 0..5 {
        let (stored, _) = repo.put(&rows(n, 3000), parent, &[]);
        parent = Some(stored.version);
    }
    let before = repo.store.list(ObjectKind::Pack).expect("list").len() as u64;
    let report = prune(&repo, &HashSet::new(), &NORMAL).expect("prune");
    assert_eq!(report.packs_removed, before);
    assert!(repo.store.list(ObjectKind::Pack).expect("list").is_empty());
    assert!(repo.store.list(ObjectKind::Index).expect("list").is_empty());
}

#[test]
fn a_dry_run_writes_nothing() {
    let repo = Repo::new(2);
    let (first, _) = repo.put(&rows(1, 3000), None, &[]);
    let (second, _) = repo.put(&rows(2, 3000), Some(first.version), &[]);
    let names = repo.store.raw_names();
    let report =
        prune(&repo, &HashSet::from([second.version]), &PruneOptions { dry_run: true, ..FULL }).expect("prune");
    assert!(report.dry_run && report.dead_bytes > 0 && report.removed_bytes > 0, "{report:?}");
    assert_eq!(repo.store.raw_names(), names);
}

/// A long chain thinned out: what is left is as small as if only that had ever been stored.
#[test]
fn a_thinned_chain_is_as_small_as_a_fresh_repository() {
    let repo = Repo::new(3);
    let mut bytes = rows(7, 60_000);
    let mut all: Vec<(VersionId, Vec<u8>)> = Vec::new();
    for n in 0..60u16 {
        for k in 0..40u16 {
            apply(&mut bytes, (2, n.wrapping_mul(7919).wrapping_add(k * 1607), 90), u64::from(n * 100 + k));
        }
        let (stored, _) = repo.put(&bytes, all.last().map(|l| l.0), &[]);
        all.push((stored.version, bytes.clone()));
    }
    let kept: Vec<_> =
        all.iter().enumerate().filter(|(n, _)| n % 12 == 11 || *n > 54).map(|(_, a)| a.clone()).collect();
    let fresh = Repo::new(4);
    let mut parent = None;
    for (_, bytes) in &kept {
        parent = Some(fresh.put(bytes, parent, &[]).0.version);
    }
    let ids: HashSet<VersionId> = kept.iter().map(|k| k.0).collect();
    let report = prune(&repo, &ids, &NORMAL).expect("prune");
    assert_eq!(report.versions_proved, report.records_merged);
    let again = prune(&repo, &ids, &PruneOptions { dry_run: true, ..NORMAL }).expect("look");
    assert!(again.dead_bytes * 10 <= again.stored_bytes, "{again:?}");
    prune(&repo, &ids, &FULL).expect("prune");
    for (version, bytes) in &kept {
        assert_eq!(&repo.read(*version), bytes);
    }
    let (ours, theirs) = (stored(&repo), stored(&fresh));
    assert!(ours * 100 <= theirs * 103, "{ours} against {theirs}");
}

/// Appends a version with scattered changes to a history.
fn one_more(repo: &Repo, all: &mut Vec<(VersionId, Vec<u8>)>, settings: StreamSettings) {
    let n = u16::try_from(all.len()).expect("few");
    let mut bytes = all.last().map_or_else(|| rows(7, 30_000), |last| last.1.clone());
    for k in 0..40u16 {
        apply(&mut bytes, (2, n.wrapping_mul(7919).wrapping_add(k * 1607), 90), u64::from(n * 100 + k));
    }
    let (stored, _) = repo.put_with(&bytes, all.last().map(|l| l.0), &[], settings);
    all.push((stored.version, bytes));
}

/// Retention at work: the newest stay, of the others one in eight, with a prune after every eight. Full recipes come and
/// go, versions are merged again and again, and in the end it is as if only what is left had been stored.
#[test]
fn a_history_thinned_again_and_again_stays_as_small_as_a_fresh_repository() {
    let (repo, fresh) = (Repo::new(31), Repo::new(32));
    let (mut kept, mut parent) = (Vec::new(), None);
    for n in 0..130 {
        one_more(&repo, &mut kept, StreamSettings::data());
        if n % 8 == 7 {
            let young = kept.len().saturating_sub(10);
            let mut at = 0;
            kept.retain(|_| {
                at += 1;
                at > young || at % 4 == 1
            });
            let ids: HashSet<VersionId> = kept.iter().map(|k| k.0).collect();
            let options = if n % 32 == 31 { FULL } else { NORMAL };
            prune(&repo, &ids, &options).expect("prune");
            for (version, bytes) in &kept {
                assert_eq!(&repo.read(*version), bytes, "after {n}");
            }
        }
    }
    let ids: HashSet<VersionId> = kept.iter().map(|k| k.0).collect();
    prune(&repo, &ids, &FULL).expect("prune");
    assert_eq!(prune(&repo, &ids, &FULL).expect("again").records_merged, 0);
    for (_, bytes) in &kept {
        parent = Some(fresh.put(bytes, parent, &[]).0.version);
    }
    let (ours, theirs) = (stored(&repo), stored(&fresh));
    assert!(ours * 100 <= theirs * 105, "{ours} against {theirs}");
}

/// Trees have two copies of their literals, and so have those that a merge brought together.
#[test]
fn literals_that_were_stored_twice_are_brought_together_twice() {
    let repo = Repo::new(33);
    let mut all = Vec::new();
    for _ in 0..20 {
        one_more(&repo, &mut all, StreamSettings::tree());
    }
    let kept = HashSet::from([all[3].0, all[19].0]);
    assert!(prune(&repo, &kept, &NORMAL).expect("prune").records_merged > 0);
    let reading = Reading::open(Arc::clone(&repo.store) as Arc<_>, Arc::clone(&repo.keys), None).expect("open");
    let versions: HashSet<VersionId> = reading.index.versions().collect();
    let mut coverage = Coverage::default();
    let mut gathered = 0;
    for (space, _) in reading.index.spaces() {
        let mut held = |copy| coverage.of(&reading.index, &reading.packs, space, Some(copy)).expect("read").clone();
        assert_eq!(held(0), held(1), "{space}");
        gathered += usize::from(!versions.contains(&space) && held(0).first().is_some_and(|part| part.0 == 0));
    }
    assert!(gathered > 0, "nothing was brought together");
    let again = prune(&repo, &kept, &NORMAL).expect("again");
    assert_eq!((again.removed_bytes, again.records_merged), (0, 0));
    for at in [3, 19] {
        assert_eq!(repo.read(all[at].0), all[at].1);
    }
}

/// In a large repository little is dead, and a normal prune leaves a little; but what merges bring together goes from where
/// it was.
#[test]
fn a_prune_in_a_large_repository_makes_it_no_larger() {
    let repo = Repo::new(35);
    let mut noise = vec![0; 24 << 20];
    SeededRandom::new(36).fill(&mut noise);
    let (large, _) = repo.put(&noise, None, &[]);
    let mut all = Vec::new();
    for _ in 0..20 {
        one_more(&repo, &mut all, StreamSettings::data());
    }
    let before = stored(&repo);
    let kept = HashSet::from([large.version, all[3].0, all[19].0]);
    let report = prune(&repo, &kept, &NORMAL).expect("prune");
    assert!(report.records_merged > 0 && report.dead_bytes * 25 < report.stored_bytes, "{report:?}");
    assert!(stored(&repo) < before, "{report:?}");
}

/// What merges would write has no place where work is limited; a full prune does it later.
#[test]
fn with_a_limit_literals_stay_where_they_are() {
    let repo = Repo::new(34);
    let mut all = Vec::new();
    for _ in 0..20 {
        one_more(&repo, &mut all, StreamSettings::data());
    }
    let kept = HashSet::from([all[3].0, all[19].0]);
    let limited = PruneOptions { max_repack_bytes: Some(1), ..NORMAL };
    let report = prune(&repo, &kept, &limited).expect("prune");
    assert!(report.records_merged > 0 && report.written_bytes < 100_000, "{report:?}");
    assert!(prune(&repo, &kept, &FULL).expect("full").records_merged > 0);
    assert_eq!(prune(&repo, &kept, &FULL).expect("again").records_merged, 0);
    for at in [3, 19] {
        assert_eq!(repo.read(all[at].0), all[at].1);
    }
}

#[test]
fn a_run_that_began_earlier_is_waited_for() {
    let repo = Repo::new(5);
    let (first, _) = repo.put(&rows(1, 3000), None, &[]);
    let (second, _) = repo.put(&rows(2, 3000), Some(first.version), &[]);
    let session = repo.session_of("app");
    let kept = HashSet::from([second.version]);
    let report = prune(&repo, &kept, &NORMAL).expect("prune");
    assert!(report.packs_waiting > 0 && report.removed_bytes == 0, "{report:?}");
    assert_eq!(report.waiting_for.len(), 1);
    // it reads what it knew when it began
    let parent = session.open_parent(first.version).expect("open");
    assert!(parent.is_some());
    drop(session);
    let report = prune(&repo, &kept, &NORMAL).expect("prune");
    assert!(report.packs_waiting == 0 && report.removed_bytes > 0, "{report:?}");
    assert!(!repo.has_record(first.version));
}

#[test]
fn what_a_run_came_to_need_meanwhile_stays() {
    let repo = Repo::new(6);
    let text = rows(1, 3000);
    let (first, _) = repo.put(&text, None, &[]);
    let (second, _) = repo.put(&rows(2, 3000), None, &[]);
    let session = repo.session_of("app");
    let mut kept = HashSet::from([second.version]);
    assert!(prune(&repo, &kept, &NORMAL).expect("prune").packs_waiting > 0);
    // the run stores what it finds in the version that is about to go
    let mut changed = text;
    apply(&mut changed, (2, 9000, 400), 77);
    let third = repo.put_in(session, &changed, Some(first.version));
    kept.insert(third);
    let report = prune(&repo, &kept, &NORMAL).expect("prune");
    assert_eq!(repo.read(third), changed);
    // the next one can free what is left of the first
    let more = prune(&repo, &kept, &FULL).expect("prune");
    assert_eq!(repo.read(third), changed);
    assert!(report.packs_waiting == 0 && more.packs_waiting == 0);
    assert!(!repo.has_record(first.version));
}

#[test]
fn a_run_beside_a_condemned_record_does_not_rely_on_it() {
    let repo = Repo::new(7);
    let text = rows(1, 3000);
    let (first, _) = repo.put(&text, None, &[]);
    let (second, _) = repo.put(&rows(2, 3000), None, &[]);
    let older = repo.session_of("older");
    let mut kept = HashSet::from([second.version]);
    assert!(prune(&repo, &kept, &NORMAL).expect("prune").packs_waiting > 0);
    let newer = repo.session_of("newer");
    assert!(newer.open_parent(first.version).expect("open").is_none());
    let third = repo.put_in(newer, &text, None);
    kept.insert(third);
    drop(older);
    let report = prune(&repo, &kept, &NORMAL).expect("prune");
    assert!(report.removed_bytes > 0, "{report:?}");
    assert_eq!(repo.read(third), text);
    assert!(!repo.has_record(first.version));
}

#[test]
fn damage_stops_it_before_it_deletes() {
    let repo = Repo::new(8);
    let (first, _) = repo.put(&rows(1, 3000), None, &[]);
    let (second, _) = repo.put(&rows(2, 3000), Some(first.version), &[]);
    let index = repo.store.list(ObjectKind::Index).expect("list")[0].name.clone();
    let mut bytes = repo.store.get(&index, 1 << 20).expect("get");
    bytes[70] ^= 1;
    repo.store.raw_replace(index.as_str(), bytes);
    let objects = || {
        let mut names = repo.store.raw_names();
        names.retain(|n| !n.starts_with("sessions/"));
        names
    };
    let names = objects();
    match prune(&repo, &HashSet::from([second.version]), &NORMAL) {
        Err(PruneError::Unreadable { what, .. }) => assert_eq!(what, index.as_str()),
        other => panic!("{other:?}"),
    }
    assert_eq!(objects(), names);
}

#[test]
fn forgotten_snapshots_go_with_their_data() {
    let repo = Repo::new(9);
    let (first, _) = repo.put(&rows(1, 3000), None, &[]);
    let gone = SnapshotId([3; 16]);
    repo.store.raw_replace(&format!("snapshots/{gone}/snapshot"), vec![1]);
    let roots = || Ok(Roots { versions: HashSet::from([first.version]), gone: vec![gone], ..Roots::default() });
    let report = prune_with(&repo, &roots, &NORMAL).expect("prune");
    assert_eq!((report.snapshots_removed, report.packs_removed), (1, 0));
    assert!(repo.store.list(ObjectKind::Snapshot).expect("list").is_empty());
}

/// A restore that stands still while two prunes replace everything it reads goes on and ends right.
#[test]
fn a_restore_goes_on_while_prunes_replace_what_it_reads() {
    let repo = Repo::new(10);
    let mut bytes = rows(11, 150_000);
    let mut all: Vec<(VersionId, Vec<u8>)> = Vec::new();
    for n in 0..12u16 {
        for k in 0..60u16 {
            apply(&mut bytes, (2, n.wrapping_mul(7919).wrapping_add(k * 1091), 90), u64::from(n * 100 + k));
        }
        let (stored, _) = repo.put(&bytes, all.last().map(|l| l.0), &[]);
        all.push((stored.version, bytes.clone()));
    }
    let wanted = all.last().expect("versions").clone();
    let reading = Reading::open(Arc::clone(&repo.store) as Arc<_>, Arc::clone(&repo.keys), None).expect("open");
    reading.packs.follow_index();
    let mut stream = reading.stream(wanted.0).expect("stream");
    let (mut out, total) = (Vec::new(), stream.plain_bytes());
    let mut at = 0;
    for step in 0.. {
        if at == total {
            break;
        }
        let to = (at + 700_000).min(total);
        stream.read(&reading.index, &reading.packs, at, to, &mut out).expect("read");
        at = to;
        if step < 2 {
            let kept = if step == 0 { all.iter().skip(6).step_by(2).map(|a| a.0).collect() } else { HashSet::new() };
            let kept: HashSet<VersionId> = kept.into_iter().chain([wanted.0]).collect();
            assert!(prune(&repo, &kept, &FULL).expect("prune").removed_bytes > 0);
        }
    }
    assert!(out == wanted.1, "the bytes differ");
    assert_eq!(reading.findings(), Vec::<String>::new());
    // opened later with the old index it finds its way, too
    assert!(reading.stream(wanted.0).is_ok());
    // what is really missing is damage, and said to be
    let pack = repo.store.list(ObjectKind::Pack).expect("list");
    pack.iter().for_each(|p| drop(repo.store.raw_remove(p.name.as_str())));
    let mut late = Vec::new();
    let error = reading.stream(wanted.0).and_then(|mut s| s.read(&reading.index, &reading.packs, 0, total, &mut late));
    assert!(error.expect_err("all packs are gone").is_damage());
}

#[test]
fn two_at_once_do_not_do_the_work_twice() {
    let repo = Repo::new(12);
    let (first, _) = repo.put(&rows(1, 3000), None, &[]);
    let maintenance = repo.session_of_none();
    match prune(&repo, &HashSet::from([first.version]), &NORMAL) {
        Err(PruneError::Busy { who }) => assert!(who.contains("process 1 on test"), "{who}"),
        other => panic!("{other:?}"),
    }
    drop(maintenance);
    prune(&repo, &HashSet::from([first.version]), &NORMAL).expect("the other one is over");
}

/// Full recipes in the middle of a history are not written again when their versions go: what stays is edits against
/// an older version that stays, found by comparing recipes.
#[test]
fn a_full_recipe_that_goes_leaves_edits() {
    let repo = Repo::new(13);
    let settings = StreamSettings { full_recipe_depth: 3, ..StreamSettings::data() };
    let mut bytes = rows(21, 20_000);
    let mut all: Vec<(VersionId, Vec<u8>)> = Vec::new();
    for n in 0..16u16 {
        for k in 0..20u16 {
            apply(&mut bytes, (2, n.wrapping_mul(6007).wrapping_add(k * 3001), 60), u64::from(n * 100 + k));
        }
        let (stored, _) = repo.put_with(&bytes, all.last().map(|l| l.0), &[], settings);
        all.push((stored.version, bytes.clone()));
    }
    let parent = |version: VersionId| {
        let reading = Reading::open(Arc::clone(&repo.store) as Arc<_>, Arc::clone(&repo.keys), None).expect("open");
        reading.stream(version).expect("stream").head().parent
    };
    // every fourth is a full recipe
    assert_eq!(all.iter().filter(|a| parent(a.0).is_none()).count(), 4);
    let kept: Vec<_> = all.iter().filter(|a| parent(a.0).is_some()).step_by(4).cloned().collect();
    let ids: HashSet<VersionId> = kept.iter().map(|k| k.0).collect();
    prune(&repo, &ids, &FULL).expect("prune");
    for (version, bytes) in &kept {
        assert!(&repo.read(*version) == bytes);
    }
    let full = kept.iter().filter(|k| parent(k.0).is_none()).count();
    assert!(kept.len() == 3 && full == 1, "{full} of {} are full recipes", kept.len());
    // and what is kept of those thins out further
    prune(&repo, &HashSet::from([kept[2].0]), &FULL).expect("prune");
    assert!(repo.read(kept[2].0) == kept[2].1);
    assert_eq!(parent(kept[2].0), None);
}
