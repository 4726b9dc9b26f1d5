//! One history, stopped at every single mutating call, half-way through it, or by the power going; and the same with every
//! call failing once. After each stop the history is finished, and both oracles must hold.

use crate::dice::Dice;
use crate::disk::{Call, Death, Image, Machine, Moment, Verdict};
use crate::repo::{Actor, Content, NORMAL_TIME, Said, Site, Stand, Truth, edit, init, rows, some_parity};
use holdfast::domain::id::{IndexId, SnapshotId};
use holdfast::format::parity::ParityShare;
use holdfast::ops::prune::PruneOptions;
use holdfast::storage::local::LocalStore;
use holdfast::storage::{DeleteStore, ObjectName, WriteStore};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// One step of the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Init,
    /// Saves the stream's state of that number and the tree, under a label.
    Backup(&'static str, usize),
    /// Another source, which looks wrong.
    Suspect(&'static str),
    Accept(&'static str),
    Forget(&'static str),
    Undelete(&'static str),
    /// Beside a run that began earlier: condemns and must wait.
    PruneBeside,
    Prune,
    PruneFull,
    /// Bits rot in a pack of second copies first.
    RepairPacks,
    /// An index object is lost first.
    RepairIndex,
}

pub(crate) const HISTORY: &[Step] = &[
    Step::Init,
    Step::Backup("a0", 0),
    Step::Backup("a1", 1),
    Step::Backup("a2", 2),
    Step::Suspect("odd"),
    Step::Accept("odd"),
    Step::Forget("a0"),
    Step::Forget("a1"),
    Step::Undelete("a1"),
    Step::PruneBeside,
    Step::Prune,
    Step::Forget("a1"),
    Step::PruneFull,
    Step::RepairPacks,
    Step::RepairIndex,
    Step::Backup("a3", 3),
    Step::Forget("a2"),
    Step::Prune,
];

/// The world between two steps.
#[derive(Clone)]
struct World {
    image: Image,
    truth: Truth,
    labels: BTreeMap<&'static str, SnapshotId>,
    time: i64,
    /// The path whose bits rot.
    rotten: Option<String>,
    /// What its processes wish for.
    parity: Option<ParityShare>,
}

/// What backups save.
struct Sources {
    streams: Vec<Arc<Vec<u8>>>,
    tree: (String, PathBuf, PathBuf),
}

impl Sources {
    fn new(dice: &mut Dice, site: &mut Site) -> Self {
        let mut bytes = rows(dice, 60);
        let mut streams = Vec::new();
        for _ in 0..4 {
            streams.push(Arc::new(bytes.clone()));
            edit(dice, &mut bytes);
        }
        Self { streams, tree: site.change(dice) }
    }

    fn content(&self, step: Step) -> Content {
        match step {
            Step::Backup(_, state) => Content {
                stream: ("db".to_owned(), Arc::clone(&self.streams[state])),
                tree: Some(self.tree.clone()),
                suspect: false,
            },
            _ => Content { stream: ("other".to_owned(), Arc::new(b"short\n".to_vec())), tree: None, suspect: true },
        }
    }
}

/// How a step ended.
enum Ended {
    Done,
    Died,
    Refused(String),
}

impl World {
    fn new(parity: Option<ParityShare>) -> Self {
        Self {
            parity,
            image: Image::default(),
            truth: Truth::default(),
            labels: BTreeMap::new(),
            time: NORMAL_TIME * 1_000_000_000,
            rotten: None,
        }
    }

    /// What happens to the disk before a step, by nobody's hand.
    fn prepare(&mut self, step: Step) {
        let folder = if step == Step::RepairIndex { "index" } else { "packs" };
        let names: Vec<String> = self.image.files(folder);
        match step {
            Step::RepairIndex => {
                if let Some(name) = names.last() {
                    self.image.damage(name, None);
                }
            }
            Step::RepairPacks => {
                // one that only holds second copies, or any that has parity: nothing is lost by it
                for name in names {
                    let whole = self.image.read(&name).expect("a pack").to_vec();
                    let mut damaged = whole.clone();
                    damaged[whole.len() / 3] ^= 0x10;
                    self.image.damage(&name, Some(damaged));
                    if self.truth.check(&self.image).is_ok() && self.truth.check_whole(&self.image).is_err() {
                        self.rotten = Some(name);
                        break;
                    }
                    self.image.damage(&name, Some(whole));
                }
                assert!(self.rotten.is_some(), "no pack holds second copies alone");
            }
            _ => {}
        }
    }

    /// Takes a step, with `faults` from its first call on.
    fn take(
        &mut self,
        step: Step,
        sources: &Sources,
        seed: u64,
        faults: impl FnOnce(&Machine) + Send,
    ) -> (Ended, Arc<Machine>) {
        let machine = Machine::new(self.image.clone(), seed);
        machine.wish_for_parity(self.parity);
        let older = (step == Step::PruneBeside).then(|| {
            let actor = Actor::open(&machine, seed ^ 0x01de, NORMAL_TIME).expect("opens");
            let held = actor.announce("elsewhere").expect("a session");
            (actor, held)
        });
        faults(&machine);
        let said = self.act(step, sources, seed, &machine);
        machine.set_faults(None);
        drop(older);
        self.image = machine.image();
        let ended = match said {
            Ok(Ok(())) => Ended::Done,
            Ok(Err(why)) => Ended::Refused(why),
            Err(Died) => Ended::Died,
        };
        (ended, machine)
    }

    fn act(&mut self, step: Step, sources: &Sources, seed: u64, machine: &Arc<Machine>) -> Result<Said<()>, Died> {
        if step == Step::Init {
            // an init that was interrupted at its end has made a repository, perhaps without the second copy of its
            // configuration
            if let Ok(actor) = Actor::open(machine, seed, NORMAL_TIME) {
                return Ok(actor.repair_snapshots());
            }
            let said = init(machine, seed);
            machine.change_image(|image| {
                // its 8 MiB make everything slow; what it is for has tests of its own
                if said.is_ok() && image.read("reserve").is_some() {
                    image.damage("reserve", None);
                }
            });
            return if machine.has_died() { Err(Died) } else { Ok(said) };
        }
        let actor = match Actor::open(machine, seed, NORMAL_TIME + (seed % 1000) as i64) {
            Ok(actor) => actor,
            Err(_) if machine.has_died() => return Err(Died),
            Err(why) => return Ok(Err(why)),
        };
        let label = |label: &str| *self.labels.get(label).expect("the label is known");
        let said = match step {
            Step::Init => Ok(()),
            Step::Backup(name, _) | Step::Suspect(name) => {
                self.time += 1_000_000_000;
                let content = sources.content(step);
                self.truth.attempt(self.time, &content);
                let said = actor.backup(&content, self.time);
                if machine.has_died() {
                    return Err(Died);
                }
                said.map(|id| {
                    self.truth.reported(id);
                    self.labels.insert(name, id);
                })
            }
            Step::Accept(name) => {
                let said = actor.accept(label(name));
                if said.is_ok() && !machine.has_died() {
                    self.truth.snapshots.get_mut(&label(name)).expect("known").accepted = true;
                }
                said
            }
            Step::Forget(name) => {
                let id = label(name);
                let before = self.truth.snapshots[&id].stand;
                self.truth.set(id, Stand::Unclear);
                let said = match actor.snapshots() {
                    Ok(all) if before == Stand::Unclear && !all.iter().any(|s| s.snapshot.id == id) => Ok(()),
                    Ok(_) => actor.forget(id),
                    Err(why) => Err(why),
                };
                if said.is_ok() && !machine.has_died() {
                    self.truth.set(id, Stand::Hidden);
                }
                said
            }
            Step::Undelete(name) => {
                let id = label(name);
                let before = self.truth.snapshots[&id].stand;
                self.truth.set(id, Stand::Unclear);
                let said = match actor.snapshots() {
                    Ok(all) if before == Stand::Unclear && all.iter().any(|s| s.snapshot.id == id) => Ok(()),
                    Ok(_) => actor.undelete(id),
                    Err(why) => Err(why),
                };
                if said.is_ok() && !machine.has_died() {
                    self.truth.set(id, Stand::Kept);
                }
                said
            }
            Step::PruneBeside | Step::Prune => actor.prune(PruneOptions::default()).map(drop),
            Step::PruneFull => actor.prune(PruneOptions { full: true, ..PruneOptions::default() }).map(drop),
            Step::RepairPacks => actor.repair_packs().map(drop),
            // a repair of packs that died may have left a damaged pack that no index names; this names it again
            Step::RepairIndex => actor.repair_index().and_then(|()| actor.repair_packs().map(drop)),
        };
        if machine.has_died() { Err(Died) } else { Ok(said) }
    }

    /// Takes all steps from one on, without faults.
    fn finish(&mut self, begun: usize, from: usize, sources: &Sources, seed: u64) -> Said<()> {
        for (at, &step) in HISTORY.iter().enumerate().skip(from) {
            if at > begun && !matches!(step, Step::RepairPacks) {
                self.prepare(step);
            }
            if let Ended::Refused(why) =
                self.take(step, sources, Dice::new(seed ^ 0xf1_0000).next() ^ at as u64, |_| ()).0
            {
                return Err(format!("step {at} {step:?} after the stop: {why}"));
            }
        }
        self.truth.check(&self.image)
    }
}

struct Died;

/// One way to stop.
#[derive(Debug, Clone, Copy)]
enum Stop {
    Killed,
    KilledHalfway,
    PowerBefore,
    PowerAfter,
}

const STOPS: [Stop; 4] = [Stop::Killed, Stop::KilledHalfway, Stop::PowerBefore, Stop::PowerAfter];

impl Stop {
    fn verdict(self, seed: u64) -> Verdict {
        match self {
            Self::Killed => Verdict::DieBefore(Death::Kill),
            Self::KilledHalfway => Verdict::DieHalfway(Death::Kill),
            Self::PowerBefore => Verdict::DieBefore(Death::Power(seed)),
            Self::PowerAfter => Verdict::DieAfter(Death::Power(seed)),
        }
    }
}

/// How many mutating calls, and how many calls of all kinds, a step makes.
fn measure(world: &World, step: Step, sources: &Sources, seed: u64) -> (u64, u64) {
    let mut world = world.clone();
    let (ended, machine) = alone(|| world.take(step, sources, seed, |machine| machine.set_faults(None)));
    assert!(matches!(ended, Ended::Done), "{step:?} does not work");
    machine.last_counts()
}

/// Runs something in a thread and a pool of its own, so that it does the same whenever it is run.
pub(crate) fn alone<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool").install(act)
}

/// Runs jobs on all cores.
pub(crate) fn in_parallel(jobs: u64, act: impl Fn(u64) -> Said<()> + Sync) -> Vec<String> {
    let next = AtomicU64::new(0);
    let failures = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let job = next.fetch_add(1, Ordering::SeqCst);
                    if job >= jobs || failures.lock().expect("failures").len() > 20 {
                        return;
                    }
                    if let Err(why) = alone(|| act(job)) {
                        failures.lock().expect("failures").push(why);
                    }
                }
            });
        }
    });
    failures.into_inner().expect("failures")
}

/// Goes through the history; at each step everything that `variants` says is tried.
fn at_every_step(
    parity: Option<ParityShare>,
    mut variants: impl FnMut(&World, usize, &Sources, u64) -> Vec<String>,
) -> Vec<String> {
    let seed = 1;
    let mut dice = Dice::new(seed);
    let mut site = Site::new("files");
    let mut sources = Sources::new(&mut dice, &mut site);
    let mut world = World::new(parity);
    let mut failures = Vec::new();
    for (at, &step) in HISTORY.iter().enumerate() {
        if matches!(step, Step::Backup(_, state) if state > 0) {
            sources.tree = site.change(&mut dice);
        }
        alone(|| world.prepare(step));
        failures.extend(variants(&world, at, &sources, seed));
        assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
        let (ended, _) = alone(|| world.take(step, &sources, seed + at as u64, |_| ()));
        if let Ended::Refused(why) = ended {
            panic!("step {at} {step:?}: {why}");
        }
        world.truth.check(&world.image).expect("the history without faults");
        if at % 2 == 0 {
            world.image.calm_down();
        }
    }
    world.truth.check_whole(&world.image).expect("the history without faults");
    failures
}

/// Who deletes an object and dies before that is durable leaves it to the next one, who finds it gone: what is deleted after it
/// (packs after index objects) must not be gone alone after a power failure.
#[test]
fn a_delete_that_is_repeated_is_durable() {
    let name = ObjectName::index(IndexId([7; 16]));
    let machine = Machine::new(Image::default(), 1);
    init(&machine, 1).expect("a repository");
    let store = |machine: &Arc<Machine>| {
        let (_, disk) = machine.process();
        LocalStore::open_on(std::path::Path::new("/simulated"), disk)
    };
    let comes_back = |machine: &Machine| {
        (0..50).any(|seed| {
            let mut image = machine.image();
            image.lose_power(&mut Dice::new(seed));
            !image.files("index").is_empty()
        })
    };
    for aside in [false, true] {
        let machine = Machine::new(machine.image(), 2);
        store(&machine).put_new(&name, b"anything").expect("written");
        machine.change_image(Image::calm_down);
        machine.set_faults(Some(Box::new(|m| match m.call {
            Call::RemoveFile | Call::Rename => Verdict::DieAfter(Death::Kill),
            _ => Verdict::Go,
        })));
        let act = |store: &LocalStore| match aside {
            false => store.delete(&name),
            true => store.quarantine(&name).map(|to| to.is_some()),
        };
        assert!(act(&store(&machine)).is_err() && machine.has_died() && comes_back(&machine));
        machine.set_faults(None);
        assert!(!act(&store(&machine)).expect("it is gone"));
        assert!(!comes_back(&machine), "{aside}");
    }
}

/// A `forget` that fails may leave its tombstone visible and not durable. A prune that goes by it makes it durable before it deletes:
/// a snapshot that comes back in a power failure comes back whole. So it is with the name of an index object that a backup builds on.
#[test]
fn what_others_left_visible_is_durable_before_it_counts() {
    let mut dice = Dice::new(3);
    let mut site = Site::new("files");
    let sources = Sources::new(&mut dice, &mut site);
    let mut world = World::new(None);
    for (seed, step) in (50..).zip([Step::Init, Step::Backup("a0", 0), Step::Backup("a1", 1)]) {
        assert!(matches!(world.take(step, &sources, seed, |_| ()).0, Ended::Done));
    }
    world.image.calm_down();
    let failing = |m: &Moment<'_>| match m.call == Call::SyncFolder && m.path == "forgotten" {
        true => Verdict::Fail(5),
        false => Verdict::Go,
    };
    let (ended, _) = world.take(Step::Forget("a0"), &sources, 6, |machine| machine.set_faults(Some(Box::new(failing))));
    assert!(matches!(ended, Ended::Refused(_)), "the forget says that it failed");
    // Every call of the prune is the last one before the power goes.
    let mut came_back = 0;
    for last in 0.. {
        let mut world = world.clone();
        let stop = move |m: &Moment<'_>| match m.call.mutates() && m.mutations == last {
            true => Verdict::DieAfter(Death::Power(last * 7 + 1)),
            false => Verdict::Go,
        };
        let (ended, _) = world.take(Step::PruneFull, &sources, 7, |machine| machine.set_faults(Some(Box::new(stop))));
        came_back += u64::from(world.image.files("forgotten").is_empty());
        world.truth.check(&world.image).unwrap_or_else(|why| panic!("after call {last}: {why}"));
        if matches!(ended, Ended::Done) {
            break;
        }
    }
    assert!(came_back > 5, "the tombstone never went: {came_back}");
    // A run dies between naming its packs and making that durable; the next one stores nothing of its own and commits.
    let dying = |m: &Moment<'_>| match m.call == Call::SyncFolder && m.path == "index" {
        true => Verdict::DieBefore(Death::Kill),
        false => Verdict::Go,
    };
    let (ended, _) =
        world.take(Step::Backup("a2", 2), &sources, 8, |machine| machine.set_faults(Some(Box::new(dying))));
    assert!(matches!(ended, Ended::Died));
    let (ended, _) = world.take(Step::Backup("a2", 2), &sources, 9, |_| ());
    assert!(matches!(ended, Ended::Done));
    for seed in 0..50 {
        let mut image = world.image.clone();
        image.lose_power(&mut Dice::new(seed));
        world.truth.check(&image).unwrap_or_else(|why| panic!("power {seed}: {why}"));
    }
}

#[test]
fn crash_every_op() {
    crash_points("crash_every_op", None, 1);
}

/// A share of them unless all ways are asked for: what parity adds are calls like others.
#[test]
fn crash_with_parity() {
    crash_points("crash_with_parity", some_parity(), if ways() == 1 { 4 } else { 1 });
}

/// Stops the history at one of so many calls.
fn crash_points(test: &str, parity: Option<ParityShare>, one_of: u64) {
    let mut points = 0;
    let ways = ways();
    at_every_step(parity, |world, at, sources, seed| {
        let step = HISTORY[at];
        let (_, mutations) = measure(world, step, sources, seed + at as u64);
        points += mutations;
        in_parallel(mutations * ways, |job| {
            let (k, stop) = (job / ways, STOPS[((job % ways + job / ways + at as u64) % STOPS.len() as u64) as usize]);
            if !is_wanted(at, k) || !(k + at as u64).is_multiple_of(one_of) {
                return Ok(());
            }
            let mut world = world.clone();
            let died = ((seed.wrapping_mul(1_000_003) + at as u64) << 32) | job;
            let faults = move |m: &Moment<'_>| match m.call.mutates() && m.mutations == k {
                true => stop.verdict(died),
                false => Verdict::Go,
            };
            let (ended, machine) = world.take(step, sources, seed + at as u64, |machine| {
                machine.set_faults(Some(Box::new(faults)));
            });
            let context = |why: String| {
                let trace = machine.trace();
                let last = trace.iter().rev().take(6).rev().cloned().collect::<Vec<_>>().join("\n    ");
                let again = format!("HOLDFAST_SIM=full HOLDFAST_SIM_POINT={at}:{k} cargo test --test sim {test}");
                format!("step {at} {step:?}, call {k}, {stop:?}: {why}\n    {last}\n  again: {again}")
            };
            if !matches!(ended, Ended::Died) {
                return Err(context("the stop did not stop it".to_owned()));
            }
            if at > 0 {
                world.truth.check(&world.image).map_err(&context)?;
            }
            world.finish(at, at, sources, died).and_then(|()| world.truth.check_whole(&world.image)).map_err(context)
        })
    });
    println!("{points} crash points, one of {one_of}, each in {ways} of {} ways", STOPS.len());
    assert!(points > 400, "{points}");
}

/// With `HOLDFAST_SIM_POINT=STEP:CALL` only that point is tried, with `=STEP` only that step.
fn is_wanted(step: usize, call: u64) -> bool {
    std::env::var("HOLDFAST_SIM_POINT")
        .map_or(true, |point| point == format!("{step}:{call}") || point == step.to_string())
}

/// In how many ways each point is tried: one after the other, or with `HOLDFAST_SIM=full` all.
fn ways() -> u64 {
    if std::env::var("HOLDFAST_SIM").is_ok_and(|value| value == "full") { STOPS.len() as u64 } else { 1 }
}

#[test]
fn every_call_fails_once() {
    let mut points = 0;
    at_every_step(None, |world, at, sources, seed| {
        let step = HISTORY[at];
        let (calls, _) = measure(world, step, sources, seed + at as u64);
        points += calls;
        in_parallel(calls, |k| {
            if !is_wanted(at, k)
                || (ways() == 1 && std::env::var("HOLDFAST_SIM_POINT").is_err() && k % 6 != at as u64 % 6)
            {
                return Ok(());
            }
            let mut world = world.clone();
            let how = [Verdict::Fail(5), Verdict::FailAfter(5), Verdict::Fail(28)][(k % 3) as usize];
            let faults = move |m: &Moment<'_>| match m.calls == k {
                // what cannot be carried out by half fails as a whole
                true if !m.call.mutates() || m.call == Call::CreateFile => Verdict::Fail(5),
                true => how,
                false => Verdict::Go,
            };
            let (ended, machine) = world.take(step, sources, seed + at as u64, |machine| {
                machine.set_faults(Some(Box::new(faults)));
            });
            let said = if let Ended::Refused(why) = &ended { why.clone() } else { "done".to_owned() };
            let context = |why: String| {
                let trace = machine.trace();
                let failed = trace.iter().find(|line| !line.ends_with("Go"));
                format!("step {at} {step:?}, call {k} {how:?} {failed:?}: it said: {said}; {why}")
            };
            let done = matches!(ended, Ended::Done);
            if at > 0 {
                world.truth.check(&world.image).map_err(&context)?;
            }
            world.finish(at, at + usize::from(done), sources, k).map_err(&context)?;
            // what cannot be read is lost for a repair, which says so; `verify` goes on saying that a copy is missing
            match step {
                Step::RepairPacks | Step::RepairIndex => Ok(()),
                _ => world.truth.check_whole(&world.image).map_err(context),
            }
        })
    });
    let share = if ways() == 1 { "every sixth" } else { "each" };
    println!("{points} calls, {share} failed once");
}

/// A disk that lies: bytes are changed on the way, or calls are reported as done and nothing happens. Whatever a step that
/// says it succeeded has stored can be given back.
#[test]
fn a_lying_disk_is_caught() {
    let (mut points, caught) = (0, AtomicU64::new(0));
    at_every_step(None, |world, at, sources, seed| {
        let step = HISTORY[at];
        if !matches!(step, Step::Backup(..) | Step::Suspect(_)) {
            return Vec::new();
        }
        let (_, mutations) = measure(world, step, sources, seed + at as u64);
        points += mutations;
        in_parallel(mutations, |k| {
            let mut world = world.clone();
            let faults = move |m: &Moment<'_>| match (m.call, m.mutations == k && m.call.mutates()) {
                (Call::Append, true) if k % 2 == 0 => Verdict::Garble,
                (Call::Append | Call::Rename, true) => Verdict::Pretend,
                _ => Verdict::Go,
            };
            let (ended, machine) = world.take(step, sources, seed + at as u64, |machine| {
                machine.set_faults(Some(Box::new(faults)));
            });
            caught.fetch_add(u64::from(matches!(ended, Ended::Refused(_))), Ordering::SeqCst);
            let context = |why: String| {
                let trace = machine.trace();
                let lie = trace.iter().find(|line| !line.ends_with("Go"));
                format!("step {at} {step:?}, call {k} {lie:?}: {why}")
            };
            match ended {
                Ended::Done => world.truth.check(&world.image).map_err(context),
                _ => Ok(()),
            }
        })
    });
    println!("{points} calls, {caught:?} lies were told and caught");
    assert!(caught.into_inner() > 20);
}

/// A world after one backup that ran with a schedule of faults which it did not notice, and then lost its power.
fn after_unnoticed(sources: &Sources, faults: fn(&Moment<'_>) -> Verdict, power: u64) -> World {
    let mut world = World::new(None);
    for (seed, step) in [(1, Step::Init), (2, Step::Backup("a0", 0))] {
        let (ended, _) = alone(|| world.take(step, sources, seed, |m| m.set_faults(Some(Box::new(faults)))));
        assert!(matches!(ended, Ended::Done), "{step:?}");
    }
    world.image.lose_power(&mut Dice::new(power));
    world
}

/// Each detector is shown what it must find: the oracles fire when a sync is left out, when a success is reported that was
/// none, when a pack goes that is needed, and when a forgotten snapshot is still seen.
#[test]
fn the_oracles_fire() {
    let mut dice = Dice::new(7);
    let mut site = Site::new("files");
    let sources = Sources::new(&mut dice, &mut site);
    let holds = |faults: fn(&Moment<'_>) -> Verdict| {
        (0..20).filter(|power| after_unnoticed(&sources, faults, *power).truth_holds()).count()
    };
    assert_eq!(holds(|_| Verdict::Go), 20, "without a fault nothing is lost");
    let no_folder = holds(|m| if m.call == Call::SyncFolder { Verdict::Pretend } else { Verdict::Go });
    assert!(no_folder < 20, "folders that are never synced lose names");
    let no_index = holds(|m| match m.call == Call::SyncFolder && m.path == "index" {
        true => Verdict::Pretend,
        false => Verdict::Go,
    });
    assert!(no_index < 20, "one folder that is not synced loses the index");
    let no_file = holds(|m| if m.call == Call::Sync { Verdict::Pretend } else { Verdict::Go });
    assert!(no_file < 20, "files that are never synced lose bytes");

    let whole = after_unnoticed(&sources, |_| Verdict::Go, 1);
    let mut told = whole.clone();
    told.truth.reported(SnapshotId([9; 16]));
    assert!(!told.truth_holds(), "a success that was reported without a commit");
    for name in whole.image.files("packs") {
        let mut gone = whole.clone();
        gone.image.damage(&name, None);
        let seen = gone.truth.check(&gone.image).and_then(|()| gone.truth.check_whole(&gone.image));
        assert!(seen.is_err(), "{name} was deleted before it was marked again");
    }
    let mut hidden = whole.clone();
    let id = hidden.truth.of(Stand::Kept)[0];
    hidden.truth.set(id, Stand::Hidden);
    assert!(!hidden.truth_holds(), "it was reported as forgotten and is still seen");
    let mut accepted = whole;
    let content = Content { stream: ("db".to_owned(), Arc::new(Vec::new())), tree: None, suspect: false };
    accepted.truth.attempts.values_mut().for_each(|saved| *saved = content.clone());
    assert!(!accepted.truth_holds(), "other bytes");
}

impl World {
    fn truth_holds(&self) -> bool {
        self.truth.check(&self.image).is_ok()
    }
}
