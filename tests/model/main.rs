//! Model check of the lock-free protocol between backups and garbage collection (docs/format.md, "Liveness").
//!
//! The protocol must hold in every reachable state, and every planted fault must be found: a model that finds no fault
//! proves nothing. The quick configurations run always; `HOLDFAST_MODEL=full` explores the exhaustive ones (TESTING.md).

mod protocol;
mod world;

use protocol::{Commit, Fault, L1, L2, L3, Protocol, S1, S2, S3, S4};
use stateright::{Checker, HasDiscoveries, Model};

const SAFETY: [&str; 4] = [S1, S2, S3, S4];
const THREADS: usize = 2;

/// Explores everything; asserts that nothing breaks and that the useful things can happen.
fn holds(commit: Commit, sessions: usize, collectors: usize) {
    let started = std::time::Instant::now();
    let protocol = Protocol { commit, fault: Fault::None, sessions, collectors };
    let checker = protocol.checker().threads(THREADS).spawn_bfs().join();
    println!(
        "{commit:?}, {sessions} backups, {collectors} collectors: {} distinct states, {:.1} s",
        checker.unique_state_count(),
        started.elapsed().as_secs_f32()
    );
    for property in SAFETY {
        if let Some(path) = checker.discovery(property) {
            panic!("{property} is broken by {:?}", path.into_actions());
        }
    }
    for property in [L1, L2, L3] {
        assert!(checker.discovery(property).is_some(), "{property}: never happens");
    }
}

/// Explores until something breaks; asserts that it does, and that it is one of the properties expected.
fn breaks(fault: Fault, commit: Commit, sessions: usize, collectors: usize, expected: &[&str]) {
    let started = std::time::Instant::now();
    let protocol = Protocol { commit, fault, sessions, collectors };
    let checker = protocol.checker().threads(THREADS).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let found: Vec<&str> = SAFETY.into_iter().filter(|property| checker.discovery(property).is_some()).collect();
    println!(
        "{fault:?}: broke {found:?} after {} distinct states, {:.1} s",
        checker.unique_state_count(),
        started.elapsed().as_secs_f32()
    );
    assert!(!found.is_empty(), "{fault:?} was not caught");
    assert!(found.iter().any(|property| expected.contains(property)), "{fault:?} broke {found:?}, not {expected:?}");
}

/// Explores breadth first until `limit` states were generated (repeats counted); asserts that nothing breaks among them.
fn holds_among(limit: usize, commit: Commit, sessions: usize, collectors: usize) {
    let protocol = Protocol { commit, fault: Fault::None, sessions, collectors };
    let checker = protocol.checker().threads(THREADS).target_state_count(limit).spawn_bfs().join();
    println!(
        "{commit:?}, {sessions} backups, {collectors} collectors: {} distinct states, bounded",
        checker.unique_state_count()
    );
    for property in SAFETY {
        assert!(checker.discovery(property).is_none(), "{property} is broken");
    }
}

fn full() -> bool {
    std::env::var("HOLDFAST_MODEL").is_ok_and(|value| value == "full")
}

#[test]
fn protocol_holds_for_one_backup_and_one_collector() {
    for commit in [Commit::Rename, Commit::Conditional, Commit::Plain] {
        holds(commit, 1, 1);
    }
}

#[test]
fn protocol_holds_for_two_backups_and_one_collector() {
    holds(Commit::Rename, 2, 1);
    if full() {
        holds(Commit::Conditional, 2, 1);
        holds(Commit::Plain, 2, 1);
    }
}

#[test]
fn protocol_holds_for_one_backup_and_two_collectors() {
    holds(Commit::Rename, 1, 2);
    if full() {
        holds(Commit::Conditional, 1, 2);
        holds(Commit::Plain, 1, 2);
    }
}

#[test]
fn protocol_holds_for_two_backups_and_two_collectors_as_far_as_explored() {
    holds_among(if full() { 60_000_000 } else { 2_000_000 }, Commit::Rename, 2, 2);
}

macro_rules! faults {
    ($($name:ident: $fault:ident, $commit:ident, $sessions:literal, $collectors:literal, $expected:expr;)*) => {
        $(#[test]
        fn $name() {
            breaks(Fault::$fault, Commit::$commit, $sessions, $collectors, &$expected);
        })*
    };
}

faults! {
    finds_check_of_parent_record_only: ParentRecordOnly, Rename, 1, 1, [S1, S2];
    finds_liveness_without_closure: OwnLivenessOnly, Rename, 1, 1, [S1, S2];
    finds_unproved_merge: MergeNotProved, Rename, 1, 1, [S1];
    finds_merge_indexed_before_proof: MergeIndexedBeforeProof, Rename, 1, 1, [S1];
    finds_condemning_before_merge_is_durable: CondemnBeforeMergeDurable, Rename, 1, 1, [S1];
    finds_merge_that_deletes_at_once: MergeDeletesAtOnce, Rename, 1, 1, [S1, S2];
    finds_copies_counted_for_each_other: CopiesCountForEachOther, Rename, 1, 1, [S4];
}

/// A known way to get this wrong, by its name and by who did or nearly did: each is caught.
type Mutant = (&'static str, Fault, Commit, usize, usize, &'static [&'static str]);

const MUTANTS: [Mutant; 13] = [
    ("grace period instead of sessions", Fault::IgnoreSessions, Commit::Rename, 1, 1, &[S1, S2]),
    ("no second mark before deleting", Fault::NoRemark, Commit::Rename, 1, 1, &[S1, S2]),
    ("ripe when one new snapshot was finished", Fault::AnyOneSnapshot, Commit::Rename, 2, 1, &[S1, S2]),
    ("snapshots read before sessions", Fault::SnapshotsBeforeSessions, Commit::Rename, 1, 1, &[S1, S2]),
    ("index read before the condemned list", Fault::IndexBeforeCondemned, Commit::Rename, 1, 1, &[S1, S2]),
    ("pack names derived from content", Fault::ReusedNames, Commit::Rename, 1, 2, &[S3]),
    (
        "copies counted that another collector condemned",
        Fault::TrustCondemnedCopies,
        Commit::Rename,
        1,
        2,
        &[S1, S2, S4],
    ),
    ("no look for a fence at the commit", Fault::NoFenceCheck, Commit::Conditional, 1, 1, &[S1, S2]),
    (
        "session removed before the snapshot is durable",
        Fault::SessionDroppedEarly,
        Commit::Conditional,
        1,
        1,
        &[S1, S2],
    ),
    ("packs deleted before the index", Fault::PacksBeforeIndex, Commit::Rename, 1, 1, &[S3]),
    (
        "condemned record removed before the index is rewritten",
        Fault::CondemnedDroppedEarly,
        Commit::Rename,
        1,
        1,
        &[S1, S2],
    ),
    (
        "what is unchanged is taken over although it is condemned",
        Fault::CondemnedParent,
        Commit::Rename,
        1,
        1,
        &[S1, S2],
    ),
    ("plain store without a second look for a fence", Fault::NoSecondFenceCheck, Commit::Plain, 1, 1, &[S2]),
];

/// `cargo model mutants -- --nocapture` prints them.
#[test]
fn all_thirteen_mutants_are_caught() {
    let mut caught = 0;
    for (name, fault, commit, sessions, collectors, expected) in MUTANTS {
        print!("{name}: ");
        breaks(fault, commit, sessions, collectors, expected);
        caught += 1;
    }
    println!("{caught} of {} mutants caught", MUTANTS.len());
}
