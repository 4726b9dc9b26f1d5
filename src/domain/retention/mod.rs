//! Retention: which snapshots are kept, and why. Pure: no I/O, no clock, no opinion about how anything is removed.
//!
//! The unit is the series (host and set of sources). Within it everything is judged **for each source**: a slot (an
//! hour, a day, ...) is filled for a source only by a snapshot in which that source succeeded and did not look wrong,
//! and a snapshot is kept when any source, window, tag or safety net wants it. The laws, each with a test of its own:
//!
//! * a series is never emptied, and its newest snapshot stays;
//! * the newest good snapshot of every source stays;
//! * when the newest snapshot of a series failed or looked wrong for a source, nothing that holds data of that source
//!   goes; other sources and other series go on;
//! * when it looked wrong in the same way as those before it (a new normal), retention goes on for that source, snapshots
//!   of the new normal fill slots, and the last three good ones stay;
//! * what was planned once and done leaves nothing to do (idempotent); the order of the input does not matter;
//! * a larger policy never keeps less (monotone);
//! * times that cannot be true stop the series: the clock of the machine, or of an earlier run, was wrong.
//!
//! Hours, days, weeks, months and years are those of the zone that each snapshot recorded. Windows count back from the
//! newest snapshot of the series, never from the clock, so a machine whose backups stopped does not lose its last ones.

mod plan;
mod policy;
mod presets;
mod reason;
mod slots;

pub use plan::{Entry, Hold, Plan, SeriesPlan, plan};
pub use policy::{Policies, Policy, Rules, Window};
pub use presets::{Preset, defaults};
pub use reason::{Reason, Refusal};
pub use slots::{Rule, Slot, SlotKey};

use super::id::SnapshotId;
use super::snapshot::{Series, Snapshot};
use jiff::tz::TimeZone;

/// How a source fared in a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// Stored, and nothing looked wrong.
    Good,
    /// Stored, but it looked wrong.
    Suspect,
    /// Stored, and it looked wrong as two runs before it did: perhaps that is how things are now.
    NewNormal,
    /// Not stored.
    Failed,
}

impl Outcome {
    /// True when a slot can be filled with it.
    pub fn fills_slots(self) -> bool {
        matches!(self, Self::Good | Self::NewNormal)
    }
}

/// What retention knows of a snapshot.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its id.
    pub id: SnapshotId,
    /// Its backup time, nanoseconds since 1970 UTC.
    pub time_ns: i64,
    /// When its run began, nanoseconds since 1970 UTC; differs from the backup time when that was given by hand.
    pub started_ns: i64,
    /// The zone it recorded.
    pub zone: TimeZone,
    /// Host and sources.
    pub series: Series,
    /// Its class.
    pub class: Option<String>,
    /// Its tags.
    pub tags: Vec<String>,
    /// True when another tool made it.
    pub imported: bool,
    /// Each source and how it fared.
    pub sources: Vec<(String, Outcome)>,
    /// False: it is listed and kept, and counts as the newest of its series, but fills no slot (`--class`, `--source`).
    pub in_scope: bool,
}

impl Candidate {
    /// What retention needs of a snapshot whose recorded zone the caller has looked up.
    pub fn new(snapshot: &Snapshot, zone: TimeZone, in_scope: bool) -> Self {
        let outcome = |source: &super::snapshot::SourceRecord| match source.failure {
            Some(_) => Outcome::Failed,
            None if snapshot.is_new_normal_for(&source.name) => Outcome::NewNormal,
            None if snapshot.is_suspect_for(&source.name) => Outcome::Suspect,
            None => Outcome::Good,
        };
        Self {
            id: snapshot.id,
            time_ns: snapshot.time_ns,
            started_ns: snapshot.started_ns,
            zone,
            series: snapshot.series(),
            class: snapshot.class.clone(),
            tags: snapshot.tags.clone(),
            imported: snapshot.imported,
            sources: snapshot.sources.iter().map(|source| (source.name.clone(), outcome(source))).collect(),
            in_scope,
        }
    }

    /// How a source fared; one that the snapshot does not name counts as failed.
    pub fn outcome(&self, source: &str) -> Outcome {
        self.sources.iter().find(|(name, _)| name == source).map_or(Outcome::Failed, |(_, outcome)| *outcome)
    }

    /// The class whose policy applies: imported snapshots without a class are kept like those made by hand.
    pub fn policy_class(&self) -> Option<&str> {
        self.class.as_deref().or(self.imported.then_some("manual"))
    }

    /// The time that windows compare. What was imported ages from its import, or it would go on the same day.
    fn window_ns(&self) -> i64 {
        if self.imported { self.time_ns.max(self.started_ns) } else { self.time_ns }
    }

    /// True when the backup time is the run's own, so that it tells about the clock of that run.
    fn is_dated_by_clock(&self) -> bool {
        !self.imported && self.time_ns == self.started_ns
    }
}

/// What a plan depends on beside snapshots and rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The current time, nanoseconds since 1970 UTC. Only judges whether times can be true, and `older than`.
    pub now_ns: i64,
    /// Go on although there are gaps of years between snapshots.
    pub trust_gaps: bool,
}

#[cfg(test)]
mod cases;
#[cfg(test)]
mod laws_tests;
#[cfg(test)]
mod plan_tests;
#[cfg(test)]
mod reference;
