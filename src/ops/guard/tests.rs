use super::*;
use crate::domain::act::{ActKind, Owner, Whereabouts};
use crate::domain::id::RepositoryId;
use crate::domain::snapshot::SourceKind;
use crate::domain::system::{FixedClock, SeededRandom};
use crate::format::seal::{Keys, Suite};
use crate::ops::observer::Silent;
use crate::repository::acts;
use crate::source::process::{OutputMode, ProcessSpec, SystemProcesses};
use crate::storage::memory::MemoryStore;
use std::cell::RefCell;
use std::sync::Mutex;
use std::time::Duration;

const SNAPSHOT: SnapshotId = SnapshotId([7; 16]);

/// Every process with an odd id is dead, 1000 and above belong to another machine; commands are over.
struct Odd;

impl Census for Odd {
    fn mark(&self, _process: u32) -> String {
        "command".to_owned()
    }

    fn find(&self, owner: &Owner) -> Whereabouts {
        match owner.process {
            _ if owner.mark == "command" => Whereabouts::Dead,
            1000.. => Whereabouts::Elsewhere,
            n if n % 2 == 1 => Whereabouts::Dead,
            _ => Whereabouts::Alive,
        }
    }
}

/// Hands that write down what they did, and fail where they are told to.
#[derive(Default)]
struct Fake {
    done: RefCell<Vec<&'static str>>,
    fails: &'static str,
    /// What the guard had written down when each thing was done.
    states: RefCell<Vec<String>>,
    store: MemoryStore,
    keys: Option<Keys>,
}

impl Fake {
    fn unfit(&self, what: &'static str) -> Result<(), Unfit> {
        self.note(what);
        match self.fails == what {
            true => Err(Unfit { kind: UnfitKind::Source, message: format!("{what} failed"), causes: Vec::new() }),
            false => Ok(()),
        }
    }

    fn note(&self, what: &'static str) {
        self.done.borrow_mut().push(what);
        if let Some(keys) = &self.keys {
            let found = acts::list(&self.store, keys, Some(ActKind::Guard)).unwrap();
            self.states.borrow_mut().push(found.stories.last().unwrap().last().state());
        }
    }
}

impl Hands for Fake {
    fn look(&self, _: &Plan) -> Result<(), Unfit> {
        self.unfit("look")
    }

    fn save(&self, _: &Plan) -> Result<SnapshotId, Unfit> {
        self.unfit("save").map(|()| SNAPSHOT)
    }

    fn verify(&self, _: &Plan, _: SnapshotId) -> Result<(), Unfit> {
        self.unfit("verify")
    }

    fn put_back(&self, _: &Plan, _: SnapshotId) -> Result<(), NotBack> {
        self.note("put_back");
        match self.fails {
            "put_back" => Err(NotBack { message: "the disk is gone".to_owned(), details: Vec::new() }),
            _ => Ok(()),
        }
    }
}

struct Bench {
    store: MemoryStore,
    keys: Keys,
    clock: FixedClock,
    random: SeededRandom,
    processes: SystemProcesses,
    cancel: Cancel,
}

impl Bench {
    fn new() -> Self {
        Self {
            store: MemoryStore::new(),
            keys: Keys::derive(&[1; 32], RepositoryId([2; 16]), Suite::Aes256Gcm),
            clock: FixedClock(Mutex::new("2026-11-20T12:00:00Z".parse().unwrap())),
            random: SeededRandom::new(3),
            processes: SystemProcesses::default(),
            cancel: Cancel::new(),
        }
    }

    fn means<'a>(&'a self, process: u32, hands: &'a dyn Hands) -> Means<'a> {
        // later than all before, so that the newest guard is the last one
        let mut now = self.clock.0.lock().unwrap();
        *now = now.checked_add(jiff::SignedDuration::from_secs(1)).unwrap();
        let owner = Owner { host: "web1".into(), user: "app".into(), process, mark: "m/b/n/1".into() };
        let (store, keys, clock, random) = (&self.store, &self.keys, &self.clock, &self.random);
        let recorder = Recorder { store, keys, clock, random, owner };
        Means { recorder, census: &Odd, processes: &self.processes, observer: &Silent, cancel: &self.cancel, hands }
    }

    fn fake(&self, fails: &'static str) -> Fake {
        Fake {
            fails,
            store: self.store.clone(),
            keys: Some(Keys::derive(&[1; 32], RepositoryId([2; 16]), Suite::Aes256Gcm)),
            ..Fake::default()
        }
    }

    /// States of the newest guard, in order.
    fn states(&self) -> Vec<String> {
        let found = acts::list(&self.store, &self.keys, Some(ActKind::Guard)).unwrap();
        found.stories.last().unwrap().entries.iter().map(|entry| entry.state()).collect()
    }

    fn ending(&self) -> Option<Ending> {
        let found = acts::list(&self.store, &self.keys, Some(ActKind::Guard)).unwrap();
        Entry::of(found.stories.last().unwrap().last()).unwrap().ending
    }
}

fn plan(name: &str, sources: &[&str]) -> Plan {
    let covered = sources.iter().map(|source| Covered {
        source: (*source).to_owned(),
        saved_as: (*source).to_owned(),
        kind: SourceKind::Sqlite,
        place: format!("/srv/{source}"),
        reach: format!("/srv/{source}"),
    });
    let (name, description) = (name.to_owned(), "a test".to_owned());
    Plan { name, description, purpose: Purpose::Migration, environment: None, covered: covered.collect() }
}

fn shell(script: &str, limit: Option<Duration>) -> Command {
    let mut spec = ProcessSpec::new("/bin/sh", ["-c", script]);
    spec.output = OutputMode::Inherit;
    Command { spec, shown: script.to_owned(), limit }
}

fn go(bench: &Bench, hands: &Fake, command: &str, validation: Option<&Command>) -> Result<Done, Error> {
    let means = bench.means(2, hands);
    let opened = open(&means, plan("v1", &["db"]), false)?;
    run(&means, opened, &shell(command, None), validation)
}

#[test]
fn every_step_is_written_down_before_it_is_done() {
    let bench = Bench::new();
    let hands = bench.fake("");
    let done = go(&bench, &hands, "true", Some(&shell("true", None))).unwrap();
    assert_eq!((done.name.as_str(), done.snapshot, done.ending), ("v1", SNAPSHOT, Ending::Completed));
    assert_eq!(*hands.done.borrow(), ["look", "save", "verify"]);
    assert_eq!(*hands.states.borrow(), ["checking", "saving", "verifying"]);
    let all = ["opening", "checking", "saving", "verifying", "open", "running", "running", "validating", "finished"];
    assert_eq!(bench.states(), all);
    assert_eq!(bench.ending(), Some(Ending::Completed));

    let hands = bench.fake("");
    let error = go(&bench, &hands, "exit 3", None).unwrap_err();
    assert!(matches!(&error, Error::RolledBack { snapshot: SNAPSHOT, .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        "The command `exit 3` exited with status 3, and the state before is restored and proved"
    );
    assert_eq!(hands.states.borrow().last().unwrap(), "rolling-back");
    assert_eq!(bench.states()[5..], ["running", "running", "rolling-back", "finished"]);
    assert_eq!(bench.ending(), Some(Ending::RolledBack));
}

#[test]
fn whatever_fails_before_the_command_touches_nothing_and_frees_the_sources() {
    let bench = Bench::new();
    for fails in ["look", "save", "verify"] {
        let hands = bench.fake(fails);
        let error = go(&bench, &hands, "touch /nonexistent/x", None).unwrap_err();
        assert!(matches!(&error, Error::Unfit { .. }), "{error:?}");
        assert_eq!(bench.ending(), Some(Ending::Refused));
        assert!(!hands.done.borrow().contains(&"put_back"));
    }
    go(&bench, &bench.fake(""), "true", None).unwrap();
    bench.cancel.cancel();
    assert!(matches!(go(&bench, &bench.fake(""), "true", None), Err(Error::Interrupted)));
}

#[test]
fn validation_decides_and_has_a_limit() {
    let bench = Bench::new();
    for (script, words) in [("exit 1", "exited with status 1"), ("sleep 60", "did not end within")] {
        let hands = bench.fake("");
        let validation = shell(script, Some(Duration::from_millis(300)));
        let error = go(&bench, &hands, "true", Some(&validation)).unwrap_err();
        assert!(error.to_string().contains(words) && error.to_string().contains("validation"), "{error}");
        assert_eq!(hands.done.borrow().last(), Some(&"put_back"));
    }
    let missing = Command { spec: ProcessSpec::new("/nonexistent", [""; 0]), ..shell("x", None) };
    let error = go(&bench, &bench.fake(""), "true", Some(&missing)).unwrap_err();
    assert!(error.to_string().contains("cannot be run"), "{error}");
}

#[test]
fn an_interruption_ends_the_command_and_takes_it_back() {
    let bench = Bench::new();
    let hands = bench.fake("");
    let error = std::thread::scope(|scope| {
        let cancel = bench.cancel.clone();
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(400));
            cancel.cancel();
        });
        go(&bench, &hands, "sleep 60", None).unwrap_err()
    });
    let Error::RolledBack { failed, .. } = &error else { panic!("{error:?}") };
    assert!(failed.is_interruption());
    assert_eq!(hands.done.borrow().last(), Some(&"put_back"));
}

#[test]
fn after_a_test_the_state_before_is_back_whatever_its_result() {
    let bench = Bench::new();
    for (script, fails) in [("true", false), ("false", true)] {
        let hands = bench.fake("");
        let means = bench.means(2, &hands);
        let plan = Plan { purpose: Purpose::Test, ..plan("t", &["db"]) };
        let opened = open(&means, plan, false).unwrap();
        let result = run(&means, opened, &shell(script, None), None);
        assert_eq!(result.is_err(), fails);
        assert_eq!(hands.done.borrow().last(), Some(&"put_back"));
        assert_eq!(bench.ending(), Some(Ending::RolledBack));
    }
}

#[test]
fn a_second_guard_is_refused_until_the_first_is_closed() {
    let bench = Bench::new();
    let hands = bench.fake("");
    let first = open(&bench.means(2, &hands), plan("v1", &["b", "c"]), false).unwrap();
    for (name, sources, what) in
        [("v2", &["a", "b"][..], "source b"), ("v2", &["c"], "source c"), ("v1", &["z"], "the name v1")]
    {
        let other = bench.fake("");
        let error = open(&bench.means(4, &other), plan(name, sources), false).unwrap_err();
        let Error::Held { what: held, holder } = &error else { panic!("{error:?}") };
        assert_eq!((held.as_str(), holder.name.as_str(), holder.act), (what, "v1", first.act()));
        assert_eq!((holder.state, holder.whereabouts), (Some(State::Open), Whereabouts::Alive));
        assert!(other.done.borrow().is_empty(), "it is refused before anything else");
    }
    // What the refused one had claimed is free.
    open(&bench.means(4, &hands), plan("v3", &["a"]), false).unwrap().complete().unwrap();
    assert_eq!(open_guards(&bench.means(2, &hands)).unwrap().len(), 1);
    first.complete().unwrap();
    open(&bench.means(4, &hands), plan("v2", &["a", "b"]), false).unwrap().complete().unwrap();
    assert!(open_guards(&bench.means(2, &hands)).unwrap().is_empty());
}

#[test]
fn of_many_that_open_at_once_one_gets_the_source() {
    let bench = Bench::new();
    let won: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8u32)
            .map(|n| {
                let bench = &bench;
                scope.spawn(move || {
                    let hands = Fake::default();
                    let means = bench.means(2 * n + 2, &hands);
                    let opened = open(&means, plan(&format!("v{n}"), &["db"]), false);
                    usize::from(opened.is_ok())
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(won, 1);
    assert_eq!(open_guards(&bench.means(2, &Fake::default())).unwrap().len(), 1);
}

/// A guard whose process was killed after it had written down a state.
fn killed_at(bench: &Bench, state: &str, process: u32) {
    let hands = bench.fake("");
    let means = bench.means(process, &hands);
    let opened = open(&means, plan("v1", &["db"]), false).unwrap();
    let act = opened.act();
    if matches!(state, "running" | "validating" | "rolling-back" | "rollback-failed") {
        let hands = bench.fake(if state == "rollback-failed" { "put_back" } else { "" });
        let command = if state.starts_with("roll") { "false" } else { "true" };
        let _ = run(&bench.means(process, &hands), opened, &shell(command, None), Some(&shell("true", None)));
    }
    let story = acts::load(&bench.store, &bench.keys, act).unwrap().unwrap();
    let last = story.entries.iter().rev().find(|entry| entry.state() == state).unwrap().sequence;
    for entry in story.entries.iter().filter(|entry| entry.sequence > last) {
        let name = crate::storage::ObjectName::act(act, entry.sequence);
        bench.store.raw_remove(name.as_str()).unwrap();
    }
}

#[test]
fn a_guard_that_was_killed_anywhere_is_completed_or_rolled_back() {
    let all = [
        "opening",
        "checking",
        "saving",
        "verifying",
        "open",
        "running",
        "validating",
        "rolling-back",
        "rollback-failed",
    ];
    for state in all {
        let harmless = ["opening", "checking", "saving", "verifying"].contains(&state);
        let bench = Bench::new();
        killed_at(&bench, state, 3);
        let hands = bench.fake("");
        let means = bench.means(4, &hands);
        let seen = open_guards(&means).unwrap();
        assert_eq!(seen.iter().map(|h| h.state.unwrap().as_str()).collect::<Vec<_>>(), [state]);
        let done = roll_back(&means, "v1", false).unwrap();
        assert_eq!(done.ending, if harmless { Ending::Refused } else { Ending::RolledBack }, "{state}");
        let expected: &[&str] = if harmless { &[] } else { &["put_back"] };
        assert_eq!(*hands.done.borrow(), expected, "{state}");
        assert!(open_guards(&means).unwrap().is_empty());
        assert!(matches!(roll_back(&means, "v1", false), Err(Error::NotOpen { ended: Some(_), .. })));

        let bench = Bench::new();
        killed_at(&bench, state, 3);
        let hands = bench.fake("");
        let means = bench.means(4, &hands);
        match complete(&means, "v1", false) {
            Ok(done) => assert_eq!(done.ending, Ending::Completed),
            Err(Error::WrongState { rolling_back, .. }) => {
                assert_eq!(rolling_back, state == "rolling-back");
                assert!(harmless || rolling_back, "{state}");
            }
            other => panic!("{state}: {other:?}"),
        }
        assert!(hands.done.borrow().is_empty(), "completing touches nothing");

        // The next guard is not in the way of one that did nothing.
        let bench = Bench::new();
        killed_at(&bench, state, 3);
        let hands = bench.fake("");
        let means = bench.means(4, &hands);
        let next = open(&means, plan("v2", &["db"]), false);
        assert_eq!(next.is_ok(), harmless, "{state}");
    }
}

#[test]
fn nobody_takes_a_guard_from_a_process_that_works() {
    for (process, force, busy) in [(2, false, true), (2, true, true), (1000, false, true), (1000, true, false)] {
        let bench = Bench::new();
        killed_at(&bench, "validating", process);
        let hands = bench.fake("");
        let means = bench.means(4, &hands);
        // The command of the fake is over, whatever its number: only the owner counts here.
        let result = roll_back(&means, "v1", force);
        assert_eq!(matches!(result, Err(Error::Busy { .. })), busy, "{process} {force}: {result:?}");
    }
    // A guard that waits for a word belongs to nobody's process.
    let bench = Bench::new();
    killed_at(&bench, "open", 1000);
    complete(&bench.means(4, &bench.fake("")), "v1", false).unwrap();
}

#[test]
fn a_guard_that_is_closed_by_force_ends_the_work_of_its_process() {
    let bench = Bench::new();
    let hands = bench.fake("");
    let means = bench.means(2, &hands);
    let opened = open(&means, plan("v1", &["db"]), false).unwrap();
    let other = bench.fake("");
    let stranger = bench.means(4, &other);
    let found = holders(&stranger, &["db".to_owned()], "v2").unwrap();
    break_guard(&stranger, &found[0]).unwrap();
    assert_eq!(bench.ending(), Some(Ending::Broken));
    let error = run(&means, opened, &shell("exit 1", None), None).unwrap_err();
    assert!(matches!(error, Error::TakenOver { .. }), "{error:?}");
    assert!(!hands.done.borrow().contains(&"put_back"), "the sources may be somebody else's by now");
    open(&stranger, plan("v2", &["db"]), false).unwrap();
}

#[test]
fn a_guard_that_is_closed_while_its_command_runs_is_not_rolled_back() {
    let bench = Bench::new();
    let hands = bench.fake("");
    let error = std::thread::scope(|scope| {
        scope.spawn(|| {
            let other = bench.fake("");
            let stranger = bench.means(4, &other);
            let running = |holder: &Holder| holder.entry.as_ref().is_some_and(|entry| entry.running.is_some());
            loop {
                if let Some(holder) = open_guards(&stranger).unwrap().iter().find(|holder| running(holder)) {
                    break break_guard(&stranger, holder).unwrap();
                }
                std::thread::yield_now();
            }
        });
        go(&bench, &hands, "sleep 2; exit 1", None).unwrap_err()
    });
    assert!(matches!(error, Error::TakenOver { .. }), "{error:?}");
    assert!(!hands.done.borrow().contains(&"put_back"));
    assert_eq!(bench.ending(), Some(Ending::Broken));
}

#[test]
fn a_rollback_that_failed_is_said_and_tried_again() {
    let bench = Bench::new();
    let error = go(&bench, &bench.fake("put_back"), "false", None).unwrap_err();
    let Error::NotRolledBack { failed: Some(_), snapshot: SNAPSHOT, .. } = &error else { panic!("{error:?}") };
    assert!(error.to_string().contains("could not be put back"), "{error}");
    assert_eq!(bench.states().last().unwrap(), "rollback-failed");
    let hands = bench.fake("");
    let means = bench.means(2, &hands);
    let seen = open_guards(&means).unwrap();
    assert!(refuse_unsettled(&seen).is_err());
    // Its own process would be over by now.
    let means = bench.means(4, &hands);
    assert!(matches!(roll_back(&means, "v1", false), Err(Error::Busy { .. })), "process 2 counts as alive here");
}

#[test]
fn a_claim_that_cannot_be_read_is_not_passed_over() {
    let bench = Bench::new();
    let hands = bench.fake("");
    go(&bench, &hands, "true", None).unwrap();
    let id = crate::repository::act_claims::claim_id(&bench.keys, "db", 1);
    bench.store.raw_replace(crate::storage::ObjectName::act(id, 0).as_str(), b"rubbish".to_vec());
    let means = bench.means(2, &hands);
    let error = open(&means, plan("v2", &["db"]), false).unwrap_err();
    assert!(matches!(error, Error::UnreadableClaim { .. }), "{error:?}");
    open(&means, plan("v2", &["db"]), true).unwrap();
}
