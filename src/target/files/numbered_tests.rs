//! Hostile trees by number, so that runs add up: every number is one tree, always the same, restored into a new target and
//! into one with planted things. `HOLDFAST_HOSTILE_TREES=FIRST:COUNT` says which; with `HOLDFAST_HOSTILE_RESULTS=FILE` blocks
//! that held are added to a file by commit and not run again.

use super::existing_tests::{restore_existing, situations};
use super::hostile_tests::{hostile_entries, restore_new};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::io::Write;

/// Numbers between two lines in the file of results.
const BLOCK: u64 = 1000;

fn run(number: u64) {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    let trees = (vec(hostile_entries(), 1..14), prop::bool::weighted(0.8), situations());
    let (entries, sorted, situation) = trees.new_tree(&mut runner).expect("a tree").current();
    let said = std::panic::catch_unwind(|| {
        restore_new(entries.clone(), sorted);
        restore_existing(entries.clone(), &situation);
    });
    let again = "HOLDFAST_HOSTILE_TREES";
    assert!(
        said.is_ok(),
        "tree {number}: {entries:?} {situation:?}\nagain: {again}={number}:1 cargo test --lib numbered"
    );
}

#[test]
fn numbered_hostile_trees_change_nothing_outside() {
    let wanted = std::env::var("HOLDFAST_HOSTILE_TREES").unwrap_or_else(|_| "0:100".to_owned());
    let (first, count) = wanted.split_once(':').expect("FIRST:COUNT");
    let (first, count): (u64, u64) = (first.parse().expect("a number"), count.parse().expect("a number"));
    let results = std::env::var_os("HOLDFAST_HOSTILE_RESULTS").map(std::path::PathBuf::from);
    let commit = std::process::Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    let commit = commit.map_or_else(|_| "unknown".to_owned(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    for block in (first..first + count).step_by(usize::try_from(BLOCK).expect("small")) {
        let size = BLOCK.min(first + count - block);
        let line = format!("{commit}\t{block}\t{size}\theld");
        let known = results.as_ref().and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
        if known.lines().any(|old| old == line) {
            continue;
        }
        (block..block + size).for_each(run);
        if let Some(file) = &results {
            let mut file = std::fs::OpenOptions::new().append(true).create(true).open(file).expect("the results");
            writeln!(file, "{line}").expect("the results");
        }
    }
    println!("{count} hostile trees from {first} on, each restored twice: nothing changed outside of the target");
}
