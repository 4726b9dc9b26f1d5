//! Two runs at once: of one source the second waits, says for whom, and gives up in time; others run side by side.

use crate::support::program::{PASSWORD, Place, Ran, files_below};
use holdfast::domain::id::SnapshotId;
use holdfast::format::key_slot::Secret;
use holdfast::repository::open;
use holdfast::repository::session::{Announced, SessionStart};
use holdfast::storage::WriteStore;
use holdfast::storage::local::LocalStore;
use serde_json::Value;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Starts a backup of what a shell prints.
fn start(place: &Place, source: &str, script: &str, more: &[&str]) -> Child {
    let mut command = place.command(["backup", "--stdin-filename", source, "--stdin-from-command"]);
    command.args(more).args(["--", "sh", "-c", script]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn end(child: Child) -> Ran {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Waits until so many runs have gone on.
fn wait_for_sessions(place: &Place, count: usize) {
    let began = Instant::now();
    let running =
        || files_below(&place.path("repository/sessions")).iter().filter(|file| file.ends_with("saw")).count() == count;
    while !running() {
        assert!(began.elapsed() < Duration::from_secs(120), "no {count} sessions were opened");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Beginning and end of every snapshot, oldest first.
fn times(place: &Place) -> Vec<(String, u64)> {
    let document = place.run(["snapshots", "--json"]).good().json();
    let all: &Vec<Value> = document["snapshots"].as_array().unwrap();
    let of = |s: &Value| (s["time"].as_str().unwrap().to_owned(), s["sources"][0]["duration_ms"].as_u64().unwrap());
    all.iter().rev().map(of).collect()
}

/// No snapshot began before the one before it had read its source.
fn one_by_one(place: &Place) {
    let times = times(place);
    for pair in times.windows(2) {
        let began = |n: usize| pair[n].0.parse::<jiff::Timestamp>().unwrap().as_millisecond();
        assert!(began(1) - began(0) >= pair[0].1 as i64, "{times:?}");
    }
}

#[test]
fn the_second_run_of_a_source_waits_and_other_sources_do_not() {
    let place = Place::with_repository();
    let mut first = start(&place, "db", "sleep 4; echo one", &[]);
    wait_for_sessions(&place, 1);
    let second = start(&place, "db", "sleep 1; echo two", &[]);
    let other = end(start(&place, "code", "echo other", &[]));
    assert!(!other.good().stderr.contains("Waiting"), "{other:?}");
    let elsewhere = end(start(&place, "db", "echo elsewhere", &["--host", "web2"]));
    assert!(!elsewhere.good().stderr.contains("Waiting"), "another host's is another source: {elsewhere:?}");
    assert!(first.try_wait().unwrap().is_none(), "the first was over before the others");
    let holder = format!("process {} on ", first.id());
    let (first, second) = (end(first), end(second));
    first.good();
    let said = second.good().stderr.lines().filter(|line| line.contains("Waiting up to ")).count();
    assert_eq!(said, 1, "{second:?}");
    assert!(second.stderr.contains(&holder) && second.stderr.contains(" saves db since 20"), "{second:?}");
    // It builds on what the first one stored.
    let listed = place.run(["snapshots", "--host", &host(&place), "--source", "db", "--json"]).good().json();
    let ids: Vec<&str> = listed["snapshots"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [second.stdout.trim_end(), first.stdout.trim_end()]);
    place.run(["verify", "--read-data"]).good();
}

/// The host that snapshots without `--host` record.
fn host(place: &Place) -> String {
    let document = place.run(["snapshots", "--source", "code", "--json"]).good().json();
    document["snapshots"][0]["host"].as_str().unwrap().to_owned()
}

#[test]
fn a_run_that_may_not_wait_says_who_is_in_the_way() {
    let place = Place::with_repository();
    let first = start(&place, "db", "sleep 5; echo one", &[]);
    wait_for_sessions(&place, 1);
    let began = Instant::now();
    let second = end(start(&place, "db", "echo two", &["--retry-lock", "0"]));
    second.failed(11, "Another run is saving db; nothing was saved");
    assert!(second.stderr.contains(&format!("process {} on ", first.id())), "{second:?}");
    assert!(second.stderr.contains("--retry-lock"), "{second:?}");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let third = end(start(&place, "db", "echo three", &["--retry-lock", "1s", "--json"]));
    assert_eq!((third.code, third.json_error()["id"].as_str()), (11, Some("source.busy")), "{third:?}");
    assert!(third.json_error()["message"].as_str().unwrap().contains("did not end within 1"), "{third:?}");
    end(first).good();
    end(start(&place, "db", "echo four", &["--retry-lock", "0"])).good();
    assert_eq!(times(&place).len(), 2);
}

#[test]
fn a_run_that_is_killed_is_recognised_by_the_one_that_waits() {
    let place = Place::with_repository();
    let mut first = start(&place, "db", "sleep 6; echo one", &[]);
    wait_for_sessions(&place, 1);
    let mut second = place.command(["backup", "--stdin-filename", "db", "--stdin-from-command", "--", "echo", "two"]);
    let second = second.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    first.kill().unwrap();
    first.wait().unwrap();
    let began = Instant::now();
    let second = end(second);
    assert!(second.good().stderr.contains("Waiting up to"), "{second:?}");
    assert!(second.stderr.contains("Closed run") && second.stderr.contains("ended without a snapshot"), "{second:?}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(times(&place).len(), 1);
    assert!(files_below(&place.path("repository/sessions")).is_empty());
    place.run(["verify", "--read-data"]).good();
}

#[test]
fn runs_that_start_at_the_same_moment_go_on_one_by_one() {
    let place = Place::with_repository();
    let runs: Vec<Child> = (0..5).map(|n| start(&place, "db", &format!("echo {n}; sleep 0.3"), &[])).collect();
    for run in runs {
        end(run).good();
    }
    assert_eq!(times(&place).len(), 5);
    one_by_one(&place);
    place.run(["verify", "--read-data"]).good();
}

/// A maintenance run of this process that has only just begun.
fn maintenance(place: &Place) -> Announced {
    let secret = Secret::Passphrase(zeroize::Zeroizing::new(PASSWORD.as_bytes().to_vec()));
    let store = Arc::new(LocalStore::open(&place.path("repository")).unwrap());
    let opened = open::open(store, Some(&secret)).unwrap();
    let start = SessionStart {
        id: SnapshotId([7; 16]),
        host: "elsewhere".to_owned(),
        process: std::process::id(),
        started_ns: 0,
        sources: Vec::new(),
    };
    Announced::new(opened.store as Arc<dyn WriteStore>, opened.keys, &start).unwrap()
}

#[test]
fn prune_and_repair_wait_for_each_other() {
    let place = Place::with_repository();
    place.backup(["--stdin-from-command", "--", "echo", "one"]);
    for words in [&["prune"][..], &["repair", "packs"]] {
        if words == ["repair", "packs"] {
            // a repair that finds nothing needs no turn
            let pack = files_below(&place.path("repository/packs")).remove(0);
            let mut bytes = std::fs::read(&pack).unwrap();
            bytes[100] ^= 1;
            std::fs::write(&pack, bytes).unwrap();
        }
        let other = maintenance(&place);
        let impatient = place.run(words.iter().copied().chain(["--retry-lock", "0s"]));
        impatient.failed(11, "--retry-lock");
        assert!(impatient.stderr.contains("elsewhere") && !impatient.stderr.contains("Waiting"), "{impatient:?}");
        let waiting = place.command(words.iter().copied().chain(["--retry-lock", "60s"]));
        let mut waiting = { waiting }.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_secs(2));
        assert!(waiting.try_wait().unwrap().is_none(), "{words:?} did not wait");
        drop(other);
        let ran = end(waiting);
        assert!(ran.stderr.contains("Waiting up to") && ran.stderr.contains("elsewhere"), "{ran:?}");
        assert_ne!(ran.code, 11, "{ran:?}");
    }
}
