//! One seed is a whole history: several processes at once back up, forget, undelete, accept, prune and repair, are killed,
//! lose the power, meet full disks and calls that fail. The same seed does the same again.

use crate::crash::alone;
use crate::dice::Dice;
use crate::disk::{Call, Death, Faults, Image, Machine, Moment, Pid, Verdict};
use crate::repo::{Actor, Content, NORMAL_TIME, Said, Site, Stand, Truth, edit, init, rows, some_parity};
use holdfast::domain::id::SnapshotId;
use holdfast::format::parity::ParityShare;
use holdfast::fsio::disk::Disk;
use holdfast::ops::prune::PruneOptions;
use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// What one process does.
#[derive(Debug, Clone)]
enum Act {
    Backup(Content),
    Forget(u64),
    Undelete(u64),
    Accept(u64),
    Prune(PruneOptions),
    RepairPacks,
    RepairIndex,
    RepairSnapshots,
}

/// What all processes of a history know together.
#[derive(Default)]
struct Shared {
    truth: Truth,
    time: i64,
    /// Actions about a snapshot that are going on, and how many began.
    busy: HashMap<SnapshotId, (u32, u32)>,
    /// What processes said that must not be said.
    lies: Vec<String>,
    log: Vec<String>,
}

/// What a history went through.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) acts: u64,
    pub(crate) deaths: u64,
    pub(crate) refusals: u64,
    pub(crate) snapshots: u64,
}

/// A process, its disk, what it does, its seed and its clock.
type Plan = (Pid, Arc<dyn Disk>, Vec<Act>, u64, i64);

struct History {
    dice: Dice,
    image: Image,
    shared: Mutex<Shared>,
    streams: Vec<Vec<u8>>,
    site: Option<Site>,
    tally: Tally,
    /// Every third history has it.
    parity: Option<ParityShare>,
}

/// Ends a process whatever happens to its thread.
struct Ending<'m>(&'m Machine, Pid);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.end(self.1);
    }
}

impl History {
    fn new(seed: u64) -> Said<Self> {
        let mut dice = Dice::new(seed);
        let machine = Machine::new(Image::default(), dice.next());
        // an init that fails or dies is run again
        if dice.one_in(4) {
            let at = dice.below(100);
            let death = if dice.one_in(2) { Death::Kill } else { Death::Power(dice.next()) };
            machine.set_faults(Some(Box::new(move |m| match m.call.mutates() && m.mutations == at {
                true => Verdict::DieHalfway(death),
                false => Verdict::Go,
            })));
            drop(init(&machine, dice.next()));
            machine.set_faults(None);
        }
        match Actor::open(&machine, dice.next(), NORMAL_TIME) {
            Ok(actor) => actor.repair_snapshots()?,
            Err(_) => init(&machine, dice.next())?,
        }
        machine.change_image(|image| {
            if image.read("reserve").is_some() {
                image.damage("reserve", None);
            }
        });
        let streams = (0..3).map(|_| rows(&mut dice, 40)).collect();
        let parity = if seed.is_multiple_of(3) { some_parity() } else { None };
        let site = dice.one_in(3).then(|| Site::new("files"));
        let shared = Mutex::new(Shared { time: NORMAL_TIME * 1_000_000_000, ..Shared::default() });
        Ok(Self { dice, image: machine.image(), shared, streams, site, tally: Tally::default(), parity })
    }

    fn content(&mut self, source: usize, tree: Option<(String, PathBuf, PathBuf)>) -> Content {
        edit(&mut self.dice, &mut self.streams[source]);
        if self.dice.one_in(12) {
            self.streams[source] = rows(&mut self.dice, 40);
        }
        let stream = (format!("db{source}"), Arc::new(self.streams[source].clone()));
        Content { stream, tree, suspect: self.dice.one_in(8) }
    }

    fn choose(&mut self, source: usize, tree: &mut Option<(String, PathBuf, PathBuf)>) -> Act {
        let pick = self.dice.next();
        match self.dice.below(20) {
            0..8 => {
                let tree = tree.take();
                Act::Backup(self.content(source, tree))
            }
            8..12 => Act::Forget(pick),
            12 => Act::Undelete(pick),
            13 => Act::Accept(pick),
            14..18 => {
                let limit = self.dice.one_in(4).then_some(4000);
                Act::Prune(PruneOptions {
                    full: self.dice.one_in(2),
                    max_repack_bytes: limit,
                    ..PruneOptions::default()
                })
            }
            18 => Act::RepairPacks,
            _ => match self.dice.below(3) {
                0 => Act::RepairSnapshots,
                _ => Act::RepairIndex,
            },
        }
    }

    /// A schedule of faults for one round; names it.
    fn faults(&mut self, machine: &Machine, pids: &[Pid]) -> (Option<Faults>, &'static str) {
        let at = self.dice.below(150);
        let mut dice = Dice::new(self.dice.next());
        let hit = move |m: &Moment<'_>| m.call.mutates() && m.mutations == at;
        let victim = pids[self.dice.below(pids.len() as u64) as usize];
        match self.dice.below(10) {
            0 | 1 => (None, "none"),
            2 | 3 => {
                let mut done = false;
                let kill = move |m: &Moment<'_>| match !done && m.pid == victim && m.call.mutates() && m.mutations >= at
                {
                    true => {
                        done = true;
                        if dice.one_in(2) { Verdict::DieBefore(Death::Kill) } else { Verdict::DieHalfway(Death::Kill) }
                    }
                    false => Verdict::Go,
                };
                (Some(Box::new(kill)), "one is killed")
            }
            4 | 5 => {
                let power = move |m: &Moment<'_>| match hit(m) {
                    true if dice.one_in(2) => Verdict::DieBefore(Death::Power(dice.next())),
                    true => Verdict::DieAfter(Death::Power(dice.next())),
                    false => Verdict::Go,
                };
                (Some(Box::new(power)), "the power goes")
            }
            6 => {
                let fail = move |m: &Moment<'_>| match m.call.mutates() && dice.one_in(40) {
                    true => Verdict::Fail(5),
                    false => Verdict::Go,
                };
                (Some(Box::new(fail)), "calls fail")
            }
            7 => {
                let fail = move |m: &Moment<'_>| match m.call.mutates() && m.call != Call::CreateFile && dice.one_in(40)
                {
                    true => Verdict::FailAfter(5),
                    false => Verdict::Go,
                };
                (Some(Box::new(fail)), "calls fail after they were carried out")
            }
            8 => {
                machine.set_limit(Some(self.image.used_bytes() + self.dice.below(12_000)));
                (None, "the disk is full")
            }
            _ => {
                // failed calls, and then the power goes
                let fail = move |m: &Moment<'_>| match hit(m) {
                    true => Verdict::DieAfter(Death::Power(dice.next())),
                    false if m.call == Call::Sync && dice.one_in(20) => Verdict::Fail(5),
                    false => Verdict::Go,
                };
                (Some(Box::new(fail)), "syncs fail and the power goes")
            }
        }
    }

    fn round(&mut self, number: u64) -> Said<()> {
        let machine = Machine::new(self.image.clone(), self.dice.next());
        machine.wish_for_parity(self.parity);
        let writers = 1 + self.dice.below(3) as usize;
        let dice = &mut self.dice;
        let mut tree = self.site.as_mut().filter(|_| dice.one_in(2)).map(|site| site.change(dice));
        let plans: Vec<Plan> = (0..writers)
            .map(|writer| {
                let (pid, disk) = machine.process();
                // now and then two save the same source
                let source = if self.dice.one_in(4) { 0 } else { writer };
                let acts = (0..1 + self.dice.below(3)).map(|_| self.choose(source, &mut tree)).collect();
                let second = match self.dice.below(6) {
                    0 => 0,
                    1 => 4_070_908_800,
                    _ => NORMAL_TIME + number as i64 * 1000,
                };
                (pid, disk, acts, self.dice.next(), second)
            })
            .collect();
        let pids: Vec<Pid> = plans.iter().map(|plan| plan.0).collect();
        let (faults, name) = self.faults(&machine, &pids);
        self.shared.lock().expect("shared").log.push(format!("round {number}: {writers} at once, {name}"));
        machine.set_faults(faults);
        machine.interleave(&pids);
        let (shared, tallies) = (&self.shared, Mutex::new(Tally::default()));
        std::thread::scope(|scope| {
            for (pid, disk, acts, seed, second) in plans {
                let (machine, tallies) = (&machine, &tallies);
                scope.spawn(move || {
                    let _ending = Ending(machine, pid);
                    alone(|| {
                        for (n, act) in acts.into_iter().enumerate() {
                            let seed = seed.wrapping_add(n as u64);
                            let said = Actor::open_as(machine, pid, Arc::clone(&disk), seed, second)
                                .and_then(|actor| perform(&actor, &act, shared, machine));
                            let (dead, failed) = (machine.is_dead(pid), said.is_err());
                            note(shared, pid, &act, &said, dead, name);
                            let mut tally = tallies.lock().expect("tally");
                            tally.acts += 1;
                            tally.deaths += u64::from(dead);
                            tally.refusals += u64::from(failed && !dead);
                            if dead {
                                return;
                            }
                        }
                    });
                });
            }
        });
        machine.set_faults(None);
        machine.set_limit(None);
        self.image = machine.image();
        if self.dice.one_in(2) {
            self.image.calm_down();
        }
        let tally = tallies.into_inner().expect("tally");
        self.tally.acts += tally.acts;
        self.tally.deaths += tally.deaths;
        self.tally.refusals += tally.refusals;
        let shared = self.shared.lock().expect("shared");
        if let Some(lie) = shared.lies.first() {
            return Err(format!("O2: {lie}"));
        }
        shared.truth.check(&self.image)
    }

    /// When nothing fails any more everything works, and what is not needed can go.
    fn calm_end(&mut self) -> Said<()> {
        let content = self.content(0, None);
        let machine = Machine::new(self.image.clone(), 1);
        let options = PruneOptions { full: true, ..PruneOptions::default() };
        for turn in 0..2u64 {
            let actor = Actor::open(&machine, self.dice.next(), NORMAL_TIME + 90_000)?;
            actor.prune(options).map_err(|why| format!("liveness: prune: {why}"))?;
            drop(actor);
            let actor = Actor::open(&machine, self.dice.next(), NORMAL_TIME + 90_000)?;
            let mut shared = self.shared.lock().expect("shared");
            shared.time += 1_000_000_000;
            let time = shared.time;
            shared.truth.attempt(time, &content);
            let id = actor.backup(&content, time).map_err(|why| format!("liveness: backup {turn}: {why}"))?;
            shared.truth.reported(id);
        }
        let report = Actor::open(&machine, self.dice.next(), NORMAL_TIME + 90_000)?.prune(options)?;
        if report.packs_waiting > 0 {
            return Err(format!("liveness: prune waits for {:?}", report.waiting_for));
        }
        self.image = machine.image();
        let shared = self.shared.lock().expect("shared");
        self.tally.snapshots = shared.truth.snapshots.len() as u64;
        shared.truth.check(&self.image)?;
        shared.truth.check_whole(&self.image)
    }
}

/// Remembers what was said; what must never be said without damage is a lie.
fn note(shared: &Mutex<Shared>, pid: Pid, act: &Act, said: &Said<()>, dead: bool, faults: &str) {
    let mut shared = shared.lock().expect("shared");
    let what = match act {
        Act::Backup(content) => format!("Backup of {}", content.stream.0),
        other => format!("{other:?}"),
    };
    let line = match (said, dead) {
        (_, true) => format!("p{pid} {what}: died"),
        (Ok(()), _) => format!("p{pid} {what}: done"),
        (Err(why), _) => format!("p{pid} {what}: {why}"),
    };
    if let (Err(why), false) = (said, dead)
        && ["NotProved", "does not prove", "is damaged", "panicked"].iter().any(|word| why.contains(word))
    {
        shared.lies.push(format!("{line} ({faults})"));
    }
    shared.log.push(line);
}

/// Begins an action about a snapshot: until it is over nobody knows where that stands. Returns its mark.
fn begin(shared: &Mutex<Shared>, id: SnapshotId) -> u32 {
    let mut shared = shared.lock().expect("shared");
    let busy = shared.busy.entry(id).or_default();
    busy.0 += 1;
    busy.1 += 1;
    let mark = busy.1;
    shared.truth.set(id, Stand::Unclear);
    mark
}

/// Ends it: it stands as the action says if no other one was at it meanwhile.
fn end(shared: &Mutex<Shared>, id: SnapshotId, mark: u32, stand: Option<Stand>) {
    let mut shared = shared.lock().expect("shared");
    let busy = shared.busy.entry(id).or_default();
    busy.0 -= 1;
    let alone = busy.0 == 0 && busy.1 == mark;
    if let (Some(stand), true) = (stand, alone) {
        shared.truth.set(id, stand);
    }
}

fn perform(actor: &Actor, act: &Act, shared: &Mutex<Shared>, machine: &Machine) -> Said<()> {
    let known = |stands: &[Stand], pick: u64| {
        let shared = shared.lock().expect("shared");
        let ids: Vec<SnapshotId> = stands.iter().flat_map(|stand| shared.truth.of(*stand)).collect();
        (!ids.is_empty()).then(|| ids[(pick % ids.len() as u64) as usize])
    };
    let about = |id: SnapshotId, act: &dyn Fn() -> Said<()>, stand: Stand| {
        let mark = begin(shared, id);
        let said = act();
        let counts = said.is_ok() && !machine.is_dead(actor.pid);
        end(shared, id, mark, counts.then_some(stand));
        said
    };
    match act {
        Act::Backup(content) => {
            let time = {
                let mut shared = shared.lock().expect("shared");
                shared.time += 1_000_000_000;
                let time = shared.time;
                shared.truth.attempt(time, content);
                time
            };
            let id = actor.backup(content, time)?;
            if !machine.is_dead(actor.pid) {
                shared.lock().expect("shared").truth.reported(id);
            }
            Ok(())
        }
        Act::Forget(pick) => match known(&[Stand::Kept, Stand::Unclear], *pick) {
            Some(id) => about(id, &|| actor.forget(id), Stand::Hidden),
            None => Ok(()),
        },
        Act::Undelete(pick) => match known(&[Stand::Hidden, Stand::Unclear], *pick) {
            Some(id) => {
                shared.lock().expect("shared").truth.copies_may_miss = true;
                about(id, &|| actor.undelete(id), Stand::Kept)
            }
            None => Ok(()),
        },
        Act::Accept(pick) => match known(&[Stand::Kept], *pick) {
            Some(id) => {
                actor.accept(id)?;
                if !machine.is_dead(actor.pid)
                    && let Some(known) = shared.lock().expect("shared").truth.snapshots.get_mut(&id)
                {
                    known.accepted = true;
                }
                Ok(())
            }
            None => Ok(()),
        },
        Act::Prune(options) => actor.prune(*options).map(drop),
        Act::RepairPacks => actor.repair_packs().map(drop),
        Act::RepairIndex => actor.repair_index(),
        Act::RepairSnapshots => actor.repair_snapshots(),
    }
}

/// Runs one seed.
pub(crate) fn run(seed: u64) -> Result<Tally, String> {
    alone(|| {
        let mut history = History::new(seed).map_err(|why| format!("seed {seed}: {why}"))?;
        let rounds = 2 + history.dice.below(6);
        let mut result = Ok(());
        for number in 0..rounds {
            result = history.round(number);
            if result.is_err() {
                break;
            }
        }
        let result = result.and_then(|()| history.calm_end());
        let log = history.shared.lock().expect("shared").log.join("\n    ");
        let again = format!("HOLDFAST_SIM_SEEDS={seed}:1 cargo test --test sim seeds");
        result.map(|()| history.tally).map_err(|why| format!("seed {seed}: {why}\n    {log}\n  again: {again}"))
    })
}

/// The commit that is being tested, short.
pub(crate) fn commit() -> String {
    let commit = std::process::Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    commit.map_or_else(|_| "unknown".to_owned(), |out| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

/// Seeds that run always.
const QUICK: u64 = 200;

/// `HOLDFAST_SIM_SEEDS=START:COUNT` runs others; with `HOLDFAST_SIM_RESULTS=FILE` what was run is added to a file by
/// commit, and seeds that stand there are not run again.
#[test]
fn seeds() {
    let (start, count) = match std::env::var("HOLDFAST_SIM_SEEDS") {
        Ok(text) => {
            let (start, count) = text.split_once(':').expect("START:COUNT");
            (start.parse().expect("a number"), count.parse().expect("a number"))
        }
        Err(_) => (0u64, QUICK),
    };
    let results = std::env::var_os("HOLDFAST_SIM_RESULTS").map(PathBuf::from);
    let commit = commit();
    let total = Mutex::new((0u64, Tally::default()));
    const BLOCK: u64 = 50;
    let mut failures = Vec::new();
    for block in (start..start + count).step_by(BLOCK as usize) {
        let size = BLOCK.min(start + count - block);
        let line = format!("{commit}\t{block}\t{size}\t");
        if results.as_ref().is_some_and(|file| std::fs::read_to_string(file).is_ok_and(|all| all.contains(&line))) {
            continue;
        }
        let found = crate::crash::in_parallel(size, |n| {
            let tally = run(block + n)?;
            let mut total = total.lock().expect("total");
            total.0 += 1;
            total.1.acts += tally.acts;
            total.1.deaths += tally.deaths;
            total.1.refusals += tally.refusals;
            total.1.snapshots += tally.snapshots;
            Ok(())
        });
        if let Some(file) = &results {
            let mut file = std::fs::OpenOptions::new().append(true).create(true).open(file).expect("the results");
            writeln!(file, "{line}{} failed", found.len()).expect("the results");
        }
        found.iter().for_each(|failure| println!("{failure}"));
        failures.extend(found);
    }
    let (seeds, tally) = *total.lock().expect("total");
    println!("{seeds} seeds held ({tally:?}), {} failed", failures.len());
    assert!(failures.is_empty(), "{} seeds failed; the first:\n{}", failures.len(), failures[0]);
}
