//! The program's own operations under shuttle: several processes on one simulated disk, and shuttle decides after every call who
//! makes the next one, at random or by priorities that change a few times (PCT). A process runs in a thread of the system and
//! stands still before each of its calls until the shuttle thread that stands for it lets it go on: processes share nothing but
//! the disk, so nothing that one does between two calls can be seen by another ([ADR 0019](../../docs/adr)).
//!
//! A schedule is found again by its block: `HOLDFAST_SCHEDULES=BLOCK:1 cargo test --test sim schedules`.

use crate::crash::{alone, in_parallel};
use crate::dice::Dice;
use crate::disk::{Blind, Image, Machine, Pid};
use crate::repo::{Actor, Content, NORMAL_TIME, Said, Stand, Truth, edit, init, rows};
use holdfast::domain::id::SnapshotId;
use holdfast::fsio::disk::Disk;
use holdfast::ops::prune::PruneOptions;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

/// What a process does, one after the other.
#[derive(Debug, Clone, Copy)]
enum Act {
    /// Saves this state of a source.
    Backup(&'static str, usize),
    Forget(&'static str),
    Undelete(&'static str),
    Prune,
    PruneFull,
    RepairIndex,
}

/// Processes that run at once, and what each of them does.
type Scenario = (&'static str, &'static [&'static [Act]]);

const SCENARIOS: [Scenario; 7] = [
    ("parent forgotten", &[&[Act::Backup("db", 2)], &[Act::Forget("new"), Act::PruneFull, Act::PruneFull]]),
    ("two backups", &[&[Act::Backup("db", 2)], &[Act::Backup("other", 1)], &[Act::PruneFull, Act::Prune]]),
    ("undelete", &[&[Act::Undelete("old")], &[Act::PruneFull, Act::Prune], &[Act::Backup("db", 2)]]),
    (
        "forgets",
        &[&[Act::Forget("new")], &[Act::Forget("other")], &[Act::Backup("db", 2)], &[Act::Prune, Act::PruneFull]],
    ),
    ("one source", &[&[Act::Backup("db", 2)], &[Act::Backup("db", 3)], &[Act::PruneFull, Act::PruneFull]]),
    ("two prunes", &[&[Act::Prune, Act::Prune], &[Act::PruneFull], &[Act::Backup("db", 2)]]),
    ("index", &[&[Act::RepairIndex], &[Act::Forget("new"), Act::PruneFull, Act::PruneFull], &[Act::Backup("db", 2)]]),
];

/// Schedules of one block: one scenario, one scheduler, one seed.
const BLOCK: u64 = 50;
/// Blocks that run always: each scenario under both schedulers.
const QUICK_BLOCKS: u64 = 2 * SCENARIOS.len() as u64;
/// Changes of priority that PCT makes.
const PCT_DEPTH: usize = 4;

/// The repository that every schedule begins with: a forgotten snapshot, its child, and one of another source.
struct Base {
    image: Image,
    truth: Truth,
    ids: BTreeMap<&'static str, SnapshotId>,
    states: BTreeMap<&'static str, Vec<Arc<Vec<u8>>>>,
}

impl Base {
    fn new() -> Said<Self> {
        let machine = Machine::new(Image::default(), 1);
        init(&machine, 1)?;
        machine.change_image(|image| image.damage("reserve", None));
        let mut dice = Dice::new(7);
        let mut states = BTreeMap::new();
        for source in ["db", "other"] {
            let mut bytes = rows(&mut dice, 60);
            let mut of_source = Vec::new();
            for _ in 0..4 {
                of_source.push(Arc::new(bytes.clone()));
                edit(&mut dice, &mut bytes);
            }
            states.insert(source, of_source);
        }
        let mut base = Self { image: Image::default(), truth: Truth::default(), ids: BTreeMap::new(), states };
        for (time, (label, source, state)) in
            [("old", "db", 0), ("new", "db", 1), ("other", "other", 0)].iter().enumerate()
        {
            let (time, content) = (NORMAL_TIME * 1_000_000_000 + time as i64, base.content(source, *state));
            let actor = Actor::open(&machine, 10 + time as u64, NORMAL_TIME)?;
            base.truth.attempt(time, &content);
            let id = actor.backup(&content, time)?;
            base.truth.reported(id);
            base.ids.insert(label, id);
        }
        Actor::open(&machine, 20, NORMAL_TIME)?.forget(base.ids["old"])?;
        base.truth.set(base.ids["old"], Stand::Hidden);
        base.image = machine.image();
        base.image.calm_down();
        Ok(base)
    }

    /// The one of all schedules.
    fn get() -> &'static Self {
        static BASE: OnceLock<Base> = OnceLock::new();
        BASE.get_or_init(|| alone(|| Self::new().expect("a repository")))
    }

    fn content(&self, source: &str, state: usize) -> Content {
        Content { stream: (source.to_owned(), Arc::clone(&self.states[source][state])), tree: None, suspect: false }
    }
}

/// Acts of all schedules that did what they should, and that said that they did not.
static DONE: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
static REFUSED: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

/// A process and its disk.
type Process = (Pid, Arc<dyn Disk>);

/// One history: what is known, and what was said.
struct Run {
    machine: Arc<Machine>,
    truth: Mutex<Truth>,
    log: Mutex<Vec<String>>,
}

impl Run {
    fn act(&self, (pid, disk): &Process, number: u64, act: Act) -> Said<()> {
        let base = Base::get();
        let actor = Actor::open_as(&self.machine, *pid, Arc::clone(disk), number, NORMAL_TIME + 100)?;
        let truth = || self.truth.lock().expect("the truth");
        // A snapshot is in one process's hands alone, so its stand is clear as soon as that has spoken.
        let about = |label: &str, said: &dyn Fn(SnapshotId) -> Said<()>, stand: Stand| {
            let id = base.ids[label];
            truth().set(id, Stand::Unclear);
            said(id).map(|()| truth().set(id, stand))
        };
        match act {
            Act::Backup(source, state) => {
                let (time, content) =
                    ((NORMAL_TIME + 1000 + number as i64) * 1_000_000_000, base.content(source, state));
                truth().attempt(time, &content);
                actor.backup(&content, time).map(|id| truth().reported(id))
            }
            Act::Forget(label) => about(label, &|id| actor.forget(id), Stand::Hidden),
            Act::Undelete(label) => {
                truth().copies_may_miss = true;
                about(label, &|id| actor.undelete(id), Stand::Kept)
            }
            Act::Prune => actor.prune(PruneOptions::default()).map(drop),
            Act::PruneFull => actor.prune(PruneOptions { full: true, ..PruneOptions::default() }).map(drop),
            Act::RepairIndex => actor.repair_index(),
        }
    }

    /// All that a process does, one call whenever it is let.
    fn process(&self, process: &Process, acts: &[Act]) {
        let pid = process.0;
        let said = catch_unwind(AssertUnwindSafe(|| {
            alone(|| {
                for (n, act) in acts.iter().enumerate() {
                    self.machine.look_anew(pid);
                    let said = self.act(process, u64::from(pid) * 10 + n as u64, *act);
                    let count = if said.is_ok() { &DONE } else { &REFUSED };
                    count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    self.log.lock().expect("the log").push(format!("p{pid} {act:?}: {said:?}"));
                }
            });
        }));
        if said.is_err() {
            self.log.lock().expect("the log").push(format!("p{pid} panicked"));
        }
        self.machine.end(pid);
    }

    /// Both oracles, and that everything works when nobody else is there.
    fn judge(&self) -> Said<()> {
        let log = self.log.lock().expect("the log");
        let lie = |line: &&String| {
            ["NotProved", "does not prove", "is damaged", "panicked"].iter().any(|word| line.contains(word))
        };
        if let Some(lie) = log.iter().find(lie) {
            return Err(format!("O2: {lie}"));
        }
        let truth = self.truth.lock().expect("the truth");
        truth.check(&self.machine.image())?;
        let actor = Actor::open(&self.machine, 0xca1, NORMAL_TIME + 5000)?;
        actor
            .prune(PruneOptions { full: true, ..PruneOptions::default() })
            .map_err(|why| format!("liveness: {why}"))?;
        drop(actor);
        truth.check(&self.machine.image())?;
        truth.check_whole(&self.machine.image())
    }
}

/// Something that a process does not see.
type Planted = (usize, &'static str, Blind);

/// One schedule, within shuttle.
fn play(scenario: Scenario, planted: &'static [Planted]) {
    let base = Base::get();
    let machine = Machine::new(base.image.clone(), 1);
    let processes: Vec<Process> = scenario.1.iter().map(|_| machine.process()).collect();
    let pids: Vec<Pid> = processes.iter().map(|process| process.0).collect();
    for &(process, folder, blind) in planted {
        machine.blind(pids[process], folder, blind);
    }
    machine.conduct(&pids);
    let (truth, log) = (Mutex::new(base.truth.clone()), Mutex::default());
    let run = Arc::new(Run { machine, truth, log });
    let mut threads = Vec::new();
    for (process, acts) in processes.into_iter().zip(scenario.1) {
        let run = Arc::clone(&run);
        threads.push(std::thread::spawn(move || run.process(&process, acts)));
    }
    // What shuttle sees: each process is a thread, each of its calls an access to something shared.
    let calls = Arc::new(AtomicU64::new(0));
    let stand_ins: Vec<_> = pids
        .iter()
        .map(|&pid| {
            let (run, calls) = (Arc::clone(&run), Arc::clone(&calls));
            shuttle::thread::spawn(move || {
                while run.machine.step(pid) {
                    calls.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    stand_ins.into_iter().for_each(|stand_in| stand_in.join().expect("a process"));
    threads.into_iter().for_each(|thread| thread.join().expect("a process"));
    // On a stack of its own: those of shuttle are small.
    let judging = Arc::clone(&run);
    let judged = std::thread::spawn(move || alone(|| judging.judge())).join().expect("a judgement");
    if let Err(why) = judged {
        panic!("{}: {why}\n    {}", scenario.0, run.log.lock().expect("the log").join("\n    "));
    }
}

/// Plays so many schedules of one seed; says what broke.
fn explore(scenario: Scenario, planted: &'static [Planted], by_priority: bool, seed: u64, schedules: u64) -> Said<()> {
    let mut config = shuttle::Config::new();
    config.failure_persistence = shuttle::FailurePersistence::None;
    config.silence_warnings = true;
    let run = move || play(scenario, planted);
    let count = usize::try_from(schedules).expect("small");
    catch_unwind(AssertUnwindSafe(|| match by_priority {
        true => shuttle::Runner::new(PctScheduler::new_from_seed(seed, PCT_DEPTH, count), config).run(run),
        false => shuttle::Runner::new(RandomScheduler::new_from_seed(seed, count), config).run(run),
    }))
    .map(drop)
    .map_err(|panic| match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(_) => "it panicked".to_owned(),
    })
}

fn block(number: u64) -> Said<()> {
    let scenario = SCENARIOS[(number % SCENARIOS.len() as u64) as usize];
    let by_priority = !(number / SCENARIOS.len() as u64).is_multiple_of(2);
    explore(scenario, &[], by_priority, number, BLOCK)
        .map_err(|why| format!("{why}\n  again: HOLDFAST_SCHEDULES={number}:1 cargo test --test sim schedules"))
}

/// `HOLDFAST_SCHEDULES=FIRST:COUNT` runs other blocks of 50 schedules; with `HOLDFAST_SIM_RESULTS=FILE` what was run is added
/// to a file by commit, and blocks that stand there are not run again.
#[test]
fn schedules() {
    let (first, count) = match std::env::var("HOLDFAST_SCHEDULES") {
        Ok(text) => {
            let (first, count) = text.split_once(':').expect("FIRST:COUNT");
            (first.parse().expect("a number"), count.parse().expect("a number"))
        }
        Err(_) => (0, QUICK_BLOCKS),
    };
    let results = std::env::var_os("HOLDFAST_SIM_RESULTS").map(PathBuf::from);
    let commit = crate::seeds::commit();
    let line = |number: u64| format!("{commit}\tschedules\t{number}\t{BLOCK}\theld");
    let known = results.as_ref().and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
    let left: Vec<u64> = (first..first + count).filter(|n| !known.lines().any(|old| old == line(*n))).collect();
    let failures = in_parallel(left.len() as u64, |job| {
        let number = left[job as usize];
        block(number)?;
        if let Some(file) = &results {
            let mut file = std::fs::OpenOptions::new().append(true).create(true).open(file).expect("the results");
            writeln!(file, "{}", line(number)).expect("the results");
        }
        Ok(())
    });
    let (done, refused) = [&DONE, &REFUSED].map(|n| n.load(std::sync::atomic::Ordering::Relaxed)).into();
    println!(
        "{} schedules, {done} acts done, {refused} refused; {} blocks failed",
        left.len() as u64 * BLOCK,
        failures.len()
    );
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// What a collector must look at, and does not: found within some hundred schedules.
#[test]
fn schedules_find_collectors_that_do_not_look() {
    const NO_SESSIONS: &[Planted] = &[(1, "sessions", Blind::Empty)];
    const OLD_SNAPSHOTS: &[Planted] = &[(1, "snapshots", Blind::AsFirstSeen)];
    for (what, planted) in [("sessions", NO_SESSIONS), ("snapshots, a second time", OLD_SNAPSHOTS)] {
        let found = (0..20).find_map(|seed| explore(SCENARIOS[0], planted, true, seed, 50).err());
        let found = found.unwrap_or_else(|| panic!("a prune that does not look at {what} breaks nothing"));
        println!("a prune that does not look at {what}: {}", found.lines().next().unwrap_or_default());
        assert!(found.contains("O1") || found.contains("O2"), "{found}");
    }
}
