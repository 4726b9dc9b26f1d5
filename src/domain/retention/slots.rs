//! Slots of the calendar: which hour, day, week, month or year a snapshot belongs to, in the zone that it recorded.

use super::Candidate;
use crate::domain::id::SnapshotId;
use crate::domain::time_spec::ns_timestamp;
use jiff::civil::Date;
use jiff::tz::Offset;
use std::fmt;

/// A rule that keeps the newest snapshot of each of a number of slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// Every snapshot is a slot of its own.
    Last,
    /// Hours.
    Hourly,
    /// Days.
    Daily,
    /// Weeks, Monday to Sunday.
    Weekly,
    /// Months.
    Monthly,
    /// Years.
    Yearly,
}

impl Rule {
    /// All of them, finest first.
    pub const ALL: [Self; 6] = [Self::Last, Self::Hourly, Self::Daily, Self::Weekly, Self::Monthly, Self::Yearly];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Last => "last",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
        }
    }
}

/// What tells slots of one rule apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SlotKey {
    /// One snapshot.
    Snapshot(SnapshotId),
    /// The second since 1970 at which a local hour began. So the two hours of the night when clocks go back are two
    /// slots, and zones that are whole hours apart share theirs.
    Hour(i64),
    /// A local day.
    Day(Date),
    /// Year and number of a week (ISO 8601).
    Week(i16, i8),
    /// Year and month.
    Month(i16, i8),
    /// Year.
    Year(i16),
}

/// A slot, with what is needed to show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Which slot it is.
    pub key: SlotKey,
    /// The local offset of the snapshot that was asked about.
    offset: Offset,
}

impl Slot {
    /// The slot of a rule that a snapshot belongs to.
    pub fn of(rule: Rule, candidate: &Candidate) -> Self {
        let local = ns_timestamp(candidate.time_ns).to_zoned(candidate.zone.clone());
        let key = match rule {
            Rule::Last => SlotKey::Snapshot(candidate.id),
            Rule::Hourly => {
                let into_hour = i64::from(local.minute()) * 60 + i64::from(local.second());
                // Before 1970 fractions count the other way, so the whole second is the floor.
                SlotKey::Hour(candidate.time_ns.div_euclid(1_000_000_000) - into_hour)
            }
            Rule::Daily => SlotKey::Day(local.date()),
            Rule::Weekly => {
                let week = local.date().iso_week_date();
                SlotKey::Week(week.year(), week.week())
            }
            Rule::Monthly => SlotKey::Month(local.year(), local.month()),
            Rule::Yearly => SlotKey::Year(local.year()),
        };
        Self { key, offset: local.offset() }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key {
            SlotKey::Snapshot(id) => f.write_str(&id.short()),
            SlotKey::Hour(second) => {
                let local = ns_timestamp(second.saturating_mul(1_000_000_000)).to_zoned(self.offset.to_time_zone());
                write!(f, "{}", local.strftime("%Y-%m-%d %H:%M (%:z)"))
            }
            SlotKey::Day(date) => write!(f, "{date}"),
            SlotKey::Week(year, week) => write!(f, "{year}-W{week:02}"),
            SlotKey::Month(year, month) => write!(f, "{year}-{month:02}"),
            SlotKey::Year(year) => write!(f, "{year}"),
        }
    }
}
