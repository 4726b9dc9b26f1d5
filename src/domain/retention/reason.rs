//! Why a snapshot stays or goes, and why nothing may be decided at all.

use super::Outcome;
use super::policy::Window;
use super::slots::{Rule, Slot};
use crate::domain::id::SnapshotId;
use crate::domain::time_spec::{format_local, ns_timestamp};
use crate::domain::units::format_duration;
use jiff::tz::TimeZone;
use std::fmt;
use std::time::Duration;

/// One reason for keeping or removing a snapshot. `sources` are the sources it holds for; empty: for all of the series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Kept: it is the newest of a slot.
    Slot {
        /// The rule.
        rule: Rule,
        /// The slot.
        slot: Slot,
        /// Which slot of the rule it is, newest first, from 1.
        number: u32,
        /// How many the rule keeps.
        of: u32,
        /// For which sources.
        sources: Vec<String>,
    },
    /// Kept: it lies in the window.
    Within {
        /// The window.
        window: Window,
    },
    /// Kept: a tag pins it.
    Pinned {
        /// The tag.
        tag: String,
    },
    /// Kept: a series keeps its newest snapshot.
    NewestOfSeries,
    /// Kept: it is the newest good one of these sources.
    NewestGood {
        /// Which sources.
        sources: Vec<String>,
    },
    /// Kept: it is one of the last good ones of these sources before what looks like a new normal.
    GoodBefore {
        /// Which sources.
        sources: Vec<String>,
    },
    /// Kept: retention does not run for this source after a failed or suspect newest backup.
    Held {
        /// The source.
        source: String,
    },
    /// Kept: it was not asked about.
    OutOfScope,
    /// Kept: retention does not run for this series at all.
    Refused,
    /// Removed: a newer snapshot fills its slot.
    SlotTaken {
        /// The rule.
        rule: Rule,
        /// The slot.
        slot: Slot,
        /// The snapshot that fills it.
        by: SnapshotId,
        /// For which sources.
        sources: Vec<String>,
    },
    /// Removed: all slots of the rule are filled by newer snapshots.
    SlotsFull {
        /// The rule.
        rule: Rule,
        /// How many slots there are.
        of: u32,
        /// For which sources.
        sources: Vec<String>,
    },
    /// Removed: it is older than the window.
    OutsideWindow {
        /// The window.
        window: Window,
        /// Where it begins, nanoseconds since 1970 UTC.
        start_ns: i64,
    },
    /// Removed: these sources fill no slot with it.
    NotGood {
        /// How they fared.
        outcome: Outcome,
        /// Which sources.
        sources: Vec<String>,
    },
    /// Removed: its policy has no numbers and no window, only tags.
    NoTag,
    /// Removed: it was named by the user.
    Named,
}

impl Reason {
    /// The stable word for scripts.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Slot { .. } => "slot",
            Self::Within { .. } => "within",
            Self::Pinned { .. } => "pinned",
            Self::NewestOfSeries => "newest_of_series",
            Self::NewestGood { .. } => "newest_good",
            Self::GoodBefore { .. } => "good_before",
            Self::Held { .. } => "held",
            Self::OutOfScope => "out_of_scope",
            Self::Refused => "refused",
            Self::SlotTaken { .. } => "slot_taken",
            Self::SlotsFull { .. } => "slots_full",
            Self::OutsideWindow { .. } => "outside_window",
            Self::NotGood { .. } => "not_good",
            Self::NoTag => "no_tag",
            Self::Named => "named",
        }
    }

    /// The sources that it holds for, where it is about some.
    pub fn sources_mut(&mut self) -> Option<&mut Vec<String>> {
        match self {
            Self::Slot { sources, .. }
            | Self::NewestGood { sources }
            | Self::GoodBefore { sources }
            | Self::SlotTaken { sources, .. }
            | Self::SlotsFull { sources, .. }
            | Self::NotGood { sources, .. } => Some(sources),
            _ => None,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |sources: &[String]| match sources {
            [] => String::new(),
            some => format!(" for {}", some.join(", ")),
        };
        match self {
            Self::Slot { rule: Rule::Last, number, of: count, sources, .. } => {
                write!(f, "last {number} of {count}{}", of(sources))
            }
            Self::Slot { rule, slot, number, of: count, sources } => {
                write!(f, "{} {number} of {count}: {slot}{}", rule.as_str(), of(sources))
            }
            Self::Within { window } => write!(f, "within {window} before the newest"),
            Self::Pinned { tag } => write!(f, "pinned by tag {tag}"),
            Self::NewestOfSeries => f.write_str("newest of its series"),
            Self::NewestGood { sources } => write!(f, "newest good one{}", of(sources)),
            Self::GoodBefore { sources } => write!(f, "good one before a new normal{}", of(sources)),
            Self::Held { source } => write!(f, "held: the newest backup of {source} is not good"),
            Self::OutOfScope => f.write_str("not asked about"),
            Self::Refused => f.write_str("retention does not run for its series"),
            Self::SlotTaken { rule, slot, by, sources } => {
                write!(f, "{} {slot} is kept as {}{}", rule.as_str(), by.short(), of(sources))
            }
            Self::SlotsFull { rule, of: count, sources } => {
                write!(f, "{count} newer {} kept{}", rule.as_str(), of(sources))
            }
            Self::OutsideWindow { window, .. } => write!(f, "older than {window}"),
            Self::NotGood { outcome: Outcome::Failed, sources } => write!(f, "failed{}", of(sources)),
            Self::NotGood { sources, .. } => write!(f, "suspect{}", of(sources)),
            Self::NoTag => f.write_str("no tag pins it"),
            Self::Named => f.write_str("named"),
        }
    }
}

/// Why retention does not run for a series. Nothing of it is removed then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// A snapshot is more than a day in the future: the clock is wrong now, or was wrong then.
    AfterNow {
        /// The snapshot.
        snapshot: SnapshotId,
        /// Its backup time, nanoseconds.
        time_ns: i64,
        /// The clock, nanoseconds.
        now_ns: i64,
    },
    /// Ten years and more passed between two snapshots, or since the newest one.
    Gap {
        /// The older snapshot.
        before: SnapshotId,
        /// Its backup time, nanoseconds.
        before_ns: i64,
        /// The newer snapshot; None: the clock.
        after: Option<SnapshotId>,
        /// Its backup time, nanoseconds.
        after_ns: i64,
    },
    /// The policy keeps nothing of the series, or of a class of it.
    KeepsNothing {
        /// The class whose policy is empty; None: that of the default, or of the command line.
        class: Option<String>,
    },
}

impl Refusal {
    /// The stable word for scripts.
    pub fn code(&self) -> &'static str {
        match self {
            Self::AfterNow { .. } => "time_after_now",
            Self::Gap { .. } => "time_gap",
            Self::KeepsNothing { .. } => "keeps_nothing",
        }
    }

    /// The snapshot that is in the way, if one is.
    pub fn snapshot(&self) -> Option<SnapshotId> {
        match self {
            Self::AfterNow { snapshot, .. } => Some(*snapshot),
            Self::Gap { before, after, .. } => Some(after.unwrap_or(*before)),
            Self::KeepsNothing { .. } => None,
        }
    }
}

/// A time of day that is the same for every reader of a message.
fn utc(ns: i64) -> String {
    format_local(ns, &TimeZone::UTC)
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AfterNow { snapshot, time_ns, now_ns } => {
                let ahead = ns_timestamp(*time_ns).duration_since(ns_timestamp(*now_ns));
                let ahead = format_duration(Duration::try_from(ahead).unwrap_or_default());
                write!(
                    f,
                    "snapshot {} is of {}, which is {ahead} after now ({}): a clock is or was wrong",
                    snapshot.short(),
                    utc(*time_ns),
                    utc(*now_ns)
                )
            }
            Self::Gap { before, before_ns, after: Some(after), after_ns } => write!(
                f,
                "more than ten years lie between snapshot {} of {} and {} of {}: a clock may have been wrong",
                before.short(),
                utc(*before_ns),
                after.short(),
                utc(*after_ns)
            ),
            Self::Gap { before, before_ns, after: None, after_ns } => write!(
                f,
                "the newest snapshot {} of {} is more than ten years before now ({}): the clock may be wrong",
                before.short(),
                utc(*before_ns),
                utc(*after_ns)
            ),
            Self::KeepsNothing { class: Some(class) } => write!(f, "the policy of class {class} keeps nothing"),
            Self::KeepsNothing { class: None } => f.write_str("the policy keeps nothing"),
        }
    }
}
