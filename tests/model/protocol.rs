//! The protocol of backups and collectors as a state machine, one step at a time, and the faults that can be planted.
//!
//! Order of every list and write is the order of reliability's protocol: a backup lists the condemned before it loads the
//! index; a collector writes its record, waits until every living session saw it, lists snapshots again, then condemned
//! records and index, and only then deletes. Anyone may crash anywhere, any session may be fenced at any moment, users
//! may forget snapshots at any moment. No clock.

use crate::world::*;
use stateright::{Model, Property};

/// How a snapshot becomes visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Commit {
    /// A local folder: the session is renamed into a snapshot, which fails once it is fenced.
    Rename,
    /// A store with a conditional write: the snapshot appears in one atomic step, the session goes later.
    Conditional,
    /// A plain store: look for a fence, write, look again, withdraw if there is one.
    Plain,
}

/// A rule of the protocol that is left out. `None` is the protocol itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The protocol as specified.
    None,
    /// Collectors do not look at sessions (a grace period instead).
    IgnoreSessions,
    /// Collectors trust the live set of the first mark.
    NoRemark,
    /// A condemned record is ripe once any one new snapshot was finished.
    AnyOneSnapshot,
    /// The second mark lists snapshots before it looks at sessions.
    SnapshotsBeforeSessions,
    /// A backup loads the index before it lists the condemned.
    IndexBeforeCondemned,
    /// Pack names derive from content, so that a pack can come back under its name.
    ReusedNames,
    /// A copy counts although another collector condemned it.
    TrustCondemnedCopies,
    /// Commit does not look for a fence.
    NoFenceCheck,
    /// A plain store does not look for a fence again after writing.
    NoSecondFenceCheck,
    /// The session is gone before the snapshot is there.
    SessionDroppedEarly,
    /// Packs are deleted before the index forgets them.
    PacksBeforeIndex,
    /// The condemned record goes before the index is rewritten.
    CondemnedDroppedEarly,
    /// A backup takes a parent whose closure is condemned.
    CondemnedParent,
    /// A backup looks at the parent's own record alone, not at its chain and segments.
    ParentRecordOnly,
    /// Liveness without the closure: a forgotten parent dies under its children.
    OwnLivenessOnly,
    /// A merged record is never proved by decoding.
    MergeNotProved,
    /// A merged record is indexed first and proved later.
    MergeIndexedBeforeProof,
    /// Old records are condemned and deleted while the merged ones are not yet durable.
    CondemnBeforeMergeDurable,
    /// The merge deletes at once what it replaced, without condemning.
    MergeDeletesAtOnce,
    /// Copy 1 of a record counts as copy 0 and the other way round.
    CopiesCountForEachOther,
}

/// A backup's progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct Session {
    /// Next step to take.
    pub(crate) step: u8,
    /// Its session object is in the store.
    pub(crate) session_object: bool,
    /// The session object says which condemned records it saw.
    pub(crate) saw_written: bool,
    /// The condemned records it saw.
    pub(crate) saw: u8,
    /// The packs those records name.
    pub(crate) condemned: Packs,
    /// The packs of the index it loaded.
    pub(crate) usable: Packs,
    /// The version its edits are made against.
    pub(crate) parent: Parent,
    /// Its snapshot is visible.
    pub(crate) snapshot: bool,
    /// A user forgot the snapshot.
    pub(crate) forgotten: bool,
    /// It is fenced.
    pub(crate) fenced: bool,
    /// It reported success.
    pub(crate) reported: bool,
    /// It died.
    pub(crate) dead: bool,
}

/// A collector's progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct Collector {
    /// Next step to take.
    pub(crate) step: u8,
    /// It wrote merged packs.
    pub(crate) merged: bool,
    /// What it merged is wrong: its encoder failed.
    pub(crate) wrong: bool,
    /// The snapshots of its last list.
    pub(crate) roots: Roots,
    /// Packs that others condemned, by its last list.
    pub(crate) condemned_by_others: Packs,
    /// The packs its condemned record names.
    pub(crate) record: Packs,
    /// The record is in the store.
    pub(crate) record_there: bool,
    /// The packs that it deletes.
    pub(crate) doomed: Packs,
    /// It died.
    pub(crate) dead: bool,
}

/// The repository and everyone at work on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    /// Packs in the store.
    pub(crate) packs: Packs,
    /// Packs that the index names.
    pub(crate) index: Packs,
    /// Snapshot A is visible.
    pub(crate) snapshot_a: bool,
    /// Snapshot B is visible.
    pub(crate) snapshot_b: bool,
    /// The backups.
    pub(crate) sessions: [Session; SESSIONS],
    /// The collectors.
    pub(crate) collectors: [Collector; COLLECTORS],
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// A backup takes a step.
    Backup(usize),
    /// A backup chooses its parent.
    Choose(usize, Parent),
    /// A backup is killed.
    BackupDies(usize),
    /// Someone fences a session.
    Fence(usize),
    /// A collector takes a step.
    Collect(usize),
    /// A collector writes a merge that its encoder got wrong.
    WrongMerge(usize),
    /// A collector is killed.
    CollectorDies(usize),
    /// A user forgets A.
    ForgetA,
    /// A user forgets B.
    ForgetB,
    /// A user forgets a backup's snapshot.
    Forget(usize),
}

const CHOOSE: u8 = 4;
const COMMIT: u8 = 7;
const SESSION_DONE: u8 = 11;
const CONDEMN: u8 = 5;
const COLLECTOR_DONE: u8 = 20;

/// What is explored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Protocol {
    /// How snapshots are committed.
    pub(crate) commit: Commit,
    /// The planted fault.
    pub(crate) fault: Fault,
    /// The backups.
    pub(crate) sessions: usize,
    /// The collectors.
    pub(crate) collectors: usize,
}

impl World {
    fn start() -> Self {
        Self {
            packs: OLD_PACKS,
            index: OLD_PACKS,
            snapshot_a: true,
            snapshot_b: true,
            sessions: Default::default(),
            collectors: Default::default(),
        }
    }

    fn condemned(&self, except: Option<usize>) -> Packs {
        let counted = |&(number, collector): &(usize, &Collector)| Some(number) != except && collector.record_there;
        self.collectors.iter().enumerate().filter(counted).fold(0, |all, (_, c)| all | c.record)
    }

    fn records_there(&self) -> u8 {
        self.collectors.iter().enumerate().filter(|(_, c)| c.record_there).fold(0, |all, (n, _)| all | 1 << n)
    }

    fn snapshots(&self) -> Roots {
        let own = self.sessions.iter().enumerate().filter(|(_, s)| s.snapshot).fold(0, |all, (n, _)| all | 4 << n);
        u8::from(self.snapshot_a) | u8::from(self.snapshot_b) << 1 | own
    }

    fn parents(&self) -> [Parent; SESSIONS] {
        [self.sessions[0].parent, self.sessions[1].parent]
    }

    fn there(&self) -> Items {
        items_of(self.packs & self.index)
    }

    fn wrong_merge_indexed(&self) -> bool {
        self.collectors.iter().enumerate().any(|(n, c)| c.wrong && self.index & self.packs & merge_packs(n) != 0)
    }

    fn restorable(&self, roots: Roots) -> bool {
        let (there, wrong) = (self.there(), self.wrong_merge_indexed());
        let old = |bit: u8, version| roots & bit == 0 || readable(version, there, wrong);
        old(1, Parent::Version0)
            && old(2, Parent::Version1)
            && self.sessions.iter().enumerate().filter(|(n, _)| roots & 4 << n != 0).all(|(n, s)| {
                there & own_segment(n) != 0 && there & own_record(n) != 0 && readable(s.parent, there, wrong)
            })
    }

    /// Snapshots that must be restorable: visible, and their sessions not fenced.
    pub(crate) fn promised(&self) -> Roots {
        let fenced = self.sessions.iter().enumerate().filter(|(_, s)| s.fenced).fold(0u8, |all, (n, _)| all | 4 << n);
        self.snapshots() & !fenced
    }

    fn reported(&self) -> Roots {
        let own = self.sessions.iter().enumerate().filter(|(_, s)| s.reported && s.snapshot && !s.forgotten);
        own.fold(0, |all, (n, _)| all | 4 << n)
    }

    /// True when both copies of every record that a promised snapshot needs are there.
    fn redundant(&self) -> bool {
        let there = self.there();
        let need = live(self.promised(), &self.parents(), there, Liveness::Closure);
        need & ALL_RECORDS & !there == 0
    }
}

impl Protocol {
    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn merge_packs(&self, collector: usize) -> Packs {
        merge_packs(if self.is(Fault::ReusedNames) { 0 } else { collector })
    }

    /// One step of a backup; false when it has to wait or is over.
    fn backup(&self, world: &mut World, number: usize) -> bool {
        let mut s = world.sessions[number];
        let first_list = if self.is(Fault::IndexBeforeCondemned) { 3 } else { 1 };
        match s.step {
            0 => s.session_object = true,
            step @ (1 | 3) if step == first_list => {
                s.condemned = world.condemned(None);
                s.saw = world.records_there();
                s.saw_written = self.is(Fault::IndexBeforeCondemned);
            }
            1 | 3 => s.usable = world.index,
            2 => s.saw_written = !self.is(Fault::IndexBeforeCondemned),
            CHOOSE => return false,
            5 => world.packs |= backup_packs(number),
            6 => world.index |= backup_packs(number),
            COMMIT..=9 => return self.commit(world, number),
            10 => {
                s.session_object = false;
                s.reported = true;
            }
            _ => return false,
        }
        s.step += 1;
        world.sessions[number] = s;
        true
    }

    fn choose(&self, world: &mut World, number: usize, parent: Parent) -> bool {
        let s = &mut world.sessions[number];
        let usable = if self.is(Fault::CondemnedParent) { s.usable } else { s.usable & !s.condemned };
        let items = items_of(usable);
        let fits = if self.is(Fault::ParentRecordOnly) {
            match parent {
                Parent::None => true,
                Parent::Version0 => items & RECORD_0 == RECORD_0,
                Parent::Version1 => items & RECORD_1 == RECORD_1 || items & RECORD_1_MERGED == RECORD_1_MERGED,
            }
        } else {
            closure_complete(parent, items)
        };
        if fits {
            // What was listed is not needed any more: forgetting it keeps the state space small.
            *s = Session { step: CHOOSE + 1, parent, condemned: 0, usable: 0, ..*s };
        }
        fits
    }

    /// Steps 7 (look for a fence and write), 8 (plain: written), 9 (plain: look again).
    fn commit(&self, world: &mut World, number: usize) -> bool {
        let s = &mut world.sessions[number];
        let stopped = s.fenced && !self.is(Fault::NoFenceCheck);
        match (s.step, self.commit) {
            (COMMIT, _) if stopped => s.dead = true,
            (COMMIT, _) if self.is(Fault::SessionDroppedEarly) && s.session_object => s.session_object = false,
            (COMMIT, Commit::Plain) => s.step = 8,
            (COMMIT, mode) => {
                s.snapshot = true;
                s.session_object = mode != Commit::Rename;
                s.step = 10;
            }
            (8, _) => {
                s.snapshot = true;
                s.step = if self.is(Fault::NoSecondFenceCheck) { 10 } else { 9 };
            }
            _ if stopped => {
                s.snapshot = false;
                s.dead = true;
            }
            _ => s.step = 10,
        }
        true
    }

    fn ripe(&self, world: &World, number: usize) -> bool {
        if self.is(Fault::IgnoreSessions) {
            return true;
        }
        if self.is(Fault::AnyOneSnapshot) {
            return world.snapshots() & !world.collectors[number].roots & !3 != 0;
        }
        let saw = |s: &Session| s.saw_written && s.saw & 1 << number != 0;
        world.sessions.iter().all(|s| !s.session_object || s.fenced || saw(s))
    }

    /// The copies that are taken for `items`: themselves, unless copy numbers are (wrongly) ignored.
    fn taken_for(&self, items: Items) -> Items {
        if !self.is(Fault::CopiesCountForEachOther) {
            return items;
        }
        let either = (items | items >> 1) & FIRST_COPIES;
        items | either | either << 1
    }

    fn liveness(&self) -> Liveness {
        if self.is(Fault::OwnLivenessOnly) { Liveness::OwnOnly } else { Liveness::Closure }
    }

    /// The packs to condemn: those that hold nothing live, or nothing live that no other reliable pack keeps.
    fn candidates(&self, world: &World, number: usize) -> Packs {
        let c = &world.collectors[number];
        let reliable =
            if self.is(Fault::TrustCondemnedCopies) { world.index } else { world.index & !c.condemned_by_others };
        let need = live(c.roots, &world.parents(), self.taken_for(items_of(reliable)), self.liveness());
        let keep = bits(need).fold(0, |keep, item| {
            let item = self.taken_for(1 << item);
            let chosen = match (holders(item, reliable), number) {
                // Nobody reliable holds it: nothing that holds it may go.
                (0, _) => holders(item, world.index),
                // The first collector keeps the newest copy, the second the oldest: they disagree on purpose.
                (held, 0) => 1 << (15 - held.leading_zeros()),
                (held, _) => held & held.wrapping_neg(),
            };
            keep | chosen
        });
        world.index & !keep
    }

    /// What of the condemned may go after the second mark.
    fn doomed(&self, world: &World, number: usize) -> Packs {
        let c = &world.collectors[number];
        if self.is(Fault::NoRemark) {
            return c.record;
        }
        let others = if self.is(Fault::TrustCondemnedCopies) { 0 } else { c.condemned_by_others };
        let reliable = self.taken_for(items_of(world.index & !c.record & !others));
        let need = live(c.roots, &world.parents(), reliable, self.liveness());
        let rescued = bits(need & !reliable).fold(0, |all, item| all | holders(1 << item, c.record));
        c.record & !rescued
    }

    /// Steps 0 to 4: merge version 1 into a full recipe of a higher generation when version 0 was forgotten.
    fn merge(&self, world: &mut World, number: usize, wrong: bool) -> bool {
        let written = self.merge_packs(number);
        let (index, usable) = (world.index, world.index & !world.condemned(None));
        let (forgotten, kept) = (!world.snapshot_a, world.snapshot_b);
        let c = &mut world.collectors[number];
        // Decoding the new record reads the new packs and the segment of version 1.
        let proved = !c.wrong && items_of(world.packs) & SEGMENT_1 != 0;
        match c.step {
            0 if forgotten && kept && mergeable(items_of(usable)) => c.step = 1,
            0 => c.step = CONDEMN,
            1 => {
                (c.wrong, c.merged) = (wrong, true);
                world.packs |= written;
                c.step = if self.is(Fault::MergeIndexedBeforeProof) { 3 } else { 2 };
            }
            2 if self.is(Fault::MergeNotProved) || proved => c.step = 3,
            2 => c.step = COLLECTOR_DONE,
            3 => {
                world.index = index | written;
                c.step = match self.fault {
                    Fault::MergeIndexedBeforeProof => 4,
                    Fault::MergeDeletesAtOnce => 4,
                    _ => CONDEMN,
                };
            }
            _ if self.is(Fault::MergeDeletesAtOnce) => {
                // Replaced: version 1's edits and all of version 0, which "nobody" uses any more.
                world.index &= !REPLACED_BY_MERGE;
                world.packs &= !REPLACED_BY_MERGE;
                c.step = COLLECTOR_DONE;
            }
            _ if proved => c.step = CONDEMN,
            _ => {
                world.index = index & !written;
                c.step = COLLECTOR_DONE;
            }
        }
        true
    }

    /// One step of a collector; false when it has to wait or is over.
    fn collect(&self, world: &mut World, number: usize) -> bool {
        if world.collectors[number].step < CONDEMN {
            return self.merge(world, number, false);
        }
        let (others, snapshots) = (world.condemned(Some(number)), world.snapshots());
        let early_snapshots = self.is(Fault::SnapshotsBeforeSessions);
        let mut c = world.collectors[number];
        match c.step {
            CONDEMN => c.condemned_by_others = others,
            6 => c.roots = snapshots,
            7 => {
                c.record = self.candidates(world, number);
                c.condemned_by_others = 0;
                if c.record == 0 {
                    c = Collector { step: COLLECTOR_DONE - 1, roots: 0, ..c };
                }
            }
            8 => c.record_there = true,
            9 if early_snapshots => c.roots = snapshots,
            9 | 10 if (c.step == 9) != early_snapshots => {
                if !self.ripe(world, number) {
                    return false;
                }
            }
            10 if !self.is(Fault::NoRemark) => c.roots = snapshots,
            10 => {}
            11 => c.condemned_by_others = others,
            12 => {
                c.doomed = self.doomed(world, number);
                (c.roots, c.condemned_by_others) = (0, 0);
                c.record_there = !self.is(Fault::CondemnedDroppedEarly);
            }
            13 if self.is(Fault::PacksBeforeIndex) => world.packs &= !c.doomed,
            13 => world.index &= !c.doomed,
            14 if self.is(Fault::PacksBeforeIndex) => world.index &= !c.doomed,
            14 => world.packs &= !c.doomed,
            15 => c = Collector { step: COLLECTOR_DONE - 1, record: 0, record_there: false, doomed: 0, ..c },
            _ => return false,
        }
        c.step += 1;
        world.collectors[number] = c;
        true
    }

    fn collector_dies(&self, world: &mut World, number: usize) {
        let c = &mut world.collectors[number];
        if self.is(Fault::CondemnBeforeMergeDurable) && c.merged {
            // A power cut takes what was never flushed: packs and the index object alike.
            world.packs &= !merge_packs(number);
            world.index &= !merge_packs(number);
        }
        // Its record stays; what it held in memory is gone.
        let Collector { merged, wrong, record_there, .. } = *c;
        let record = if record_there { c.record } else { 0 };
        *c = Collector { step: COLLECTOR_DONE, merged, wrong, record, record_there, dead: true, ..Default::default() };
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Event;

    fn init_states(&self) -> Vec<World> {
        vec![World::start()]
    }

    fn actions(&self, world: &World, events: &mut Vec<Event>) {
        for (number, s) in world.sessions.iter().enumerate().take(self.sessions) {
            if !s.dead && s.step == CHOOSE {
                events.extend([Parent::None, Parent::Version0, Parent::Version1].map(|p| Event::Choose(number, p)));
            } else if !s.dead && s.step < SESSION_DONE {
                events.push(Event::Backup(number));
            }
            if !s.dead && s.step > 0 && s.step < SESSION_DONE {
                events.push(Event::BackupDies(number));
            }
            // A fence may come whenever the session object is there: no clock is trusted.
            let fenceable = s.session_object && (self.commit == Commit::Plain || !s.snapshot);
            if fenceable && !s.fenced {
                events.push(Event::Fence(number));
            }
            if s.snapshot && s.reported && !s.forgotten {
                events.push(Event::Forget(number));
            }
        }
        for (number, c) in world.collectors.iter().enumerate().take(self.collectors) {
            if !c.dead && c.step < COLLECTOR_DONE {
                events.push(Event::Collect(number));
                // Where names derive from content, wrong bytes cannot come under the right name.
                if c.step == 1 && self.fault != Fault::ReusedNames {
                    events.push(Event::WrongMerge(number));
                }
                if c.step > 0 {
                    events.push(Event::CollectorDies(number));
                }
            }
        }
        if world.snapshot_a {
            events.push(Event::ForgetA);
        }
        if world.snapshot_b {
            events.push(Event::ForgetB);
        }
    }

    fn next_state(&self, last: &World, event: Event) -> Option<World> {
        let mut world = *last;
        let happened = match event {
            Event::Backup(n) => self.backup(&mut world, n),
            Event::Choose(n, parent) => self.choose(&mut world, n, parent),
            Event::BackupDies(n) => {
                let s = &mut world.sessions[n];
                *s = Session { dead: true, condemned: 0, usable: 0, ..*s };
                true
            }
            Event::Fence(n) => {
                world.sessions[n].fenced = true;
                true
            }
            Event::Collect(n) => self.collect(&mut world, n),
            Event::WrongMerge(n) => self.merge(&mut world, n, true),
            Event::CollectorDies(n) => {
                self.collector_dies(&mut world, n);
                true
            }
            Event::ForgetA => std::mem::replace(&mut world.snapshot_a, false),
            Event::ForgetB => std::mem::replace(&mut world.snapshot_b, false),
            Event::Forget(n) => {
                world.sessions[n].snapshot = false;
                world.sessions[n].forgotten = true;
                true
            }
        };
        happened.then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(S1, |_, world: &World| world.restorable(world.promised())),
            Property::always(S2, |_, world: &World| world.restorable(world.reported())),
            Property::always(S3, |_, world: &World| world.index & !world.packs == 0),
            Property::always(S4, |_, world: &World| world.redundant()),
            Property::sometimes(L1, |_, world: &World| {
                world.packs & PACK_DATA_0 == 0 && world.snapshot_b && world.sessions[0].reported
            }),
            Property::sometimes(L2, |protocol: &Protocol, world: &World| {
                world.sessions[..protocol.sessions].iter().all(|s| s.reported)
            }),
            Property::sometimes(L3, |_, world: &World| {
                let child = world.sessions[0];
                child.reported
                    && child.snapshot
                    && child.parent == Parent::Version1
                    && !world.snapshot_b
                    && world.packs & PACK_DATA_0 == 0
            }),
        ]
    }
}

/// A visible snapshot whose session is not fenced can be restored, in every state.
pub(crate) const S1: &str = "S1 visible and unfenced snapshots are restorable";
/// What was reported as a success and not forgotten can be restored.
pub(crate) const S2: &str = "S2 reported snapshots are restorable";
/// The index names no pack that is gone.
pub(crate) const S3: &str = "S3 indexed packs exist";
/// Both copies of every record in use exist.
pub(crate) const S4: &str = "S4 records in use have both copies";
/// Garbage goes while its neighbour in the same pack lives on in a merged, rewritten form, and a backup succeeded.
pub(crate) const L1: &str = "L1 a half dead pack is collected beside a successful backup";
/// Concurrent backups can all succeed.
pub(crate) const L2: &str = "L2 all backups succeed";
/// A child of a forgotten, merged parent lives on after the grandparent's pack was deleted.
pub(crate) const L3: &str = "L3 a child outlives its forgotten and merged parent";
