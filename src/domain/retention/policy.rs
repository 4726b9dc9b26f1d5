//! What is to be kept: numbers of slots, a window, tags.

use super::slots::Rule;
use crate::domain::time_spec::{ns_timestamp, timestamp_ns};
use crate::domain::units::{ParseUnitError, format_duration_exact, parse_days_and_time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// A length of time back from a moment: days of the calendar, then exact hours and less.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    /// Days of the calendar; with a change of clocks one has 23 or 25 hours.
    pub days: u32,
    /// Exact time beyond them.
    pub time: Duration,
}

impl Window {
    /// So many days of the calendar.
    pub const fn days(days: u32) -> Self {
        Self { days, time: Duration::ZERO }
    }

    /// Reads `7d`, `2w`, `26h`, `1d12h`. Days and weeks follow the calendar, the rest is exact.
    ///
    /// # Errors
    /// [`ParseUnitError`] when it is no duration or too long.
    pub fn parse(text: &str) -> Result<Self, ParseUnitError> {
        let (days, time) = parse_days_and_time(text)?;
        let days = u32::try_from(days).map_err(|_| ParseUnitError::TooLarge(text.to_owned()))?;
        Ok(Self { days, time })
    }

    /// The moment that lies this far before another one, in nanoseconds since 1970 UTC; the beginning of time when the
    /// calendar does not reach that far.
    pub fn start_before(&self, at_ns: i64, zone: &TimeZone) -> i64 {
        let at = ns_timestamp(at_ns).to_zoned(zone.clone());
        let exact = SignedDuration::try_from(self.time);
        let start = Span::new().try_days(i64::from(self.days)).and_then(|days| at.checked_sub(days));
        match (start, exact) {
            (Ok(start), Ok(exact)) => start.timestamp().checked_sub(exact).map_or(i64::MIN, timestamp_ns),
            _ => i64::MIN,
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.days, self.time.is_zero()) {
            (0, _) => f.write_str(&format_duration_exact(self.time)),
            (days, true) => write!(f, "{days}d"),
            (days, false) => write!(f, "{days}d{}", format_duration_exact(self.time)),
        }
    }
}

/// How much of a series is kept. What is not set keeps nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// The newest so many snapshots.
    pub keep_last: Option<u32>,
    /// The newest of each of so many hours.
    pub keep_hourly: Option<u32>,
    /// The newest of each of so many days.
    pub keep_daily: Option<u32>,
    /// The newest of each of so many weeks (Monday to Sunday).
    pub keep_weekly: Option<u32>,
    /// The newest of each of so many months.
    pub keep_monthly: Option<u32>,
    /// The newest of each of so many years.
    pub keep_yearly: Option<u32>,
    /// All within this time before the newest snapshot of the series.
    pub keep_within: Option<Window>,
    /// All that carry any of these tags; they are pinned, and not even named by id removed without force.
    pub keep_tags: Vec<String>,
}

impl Policy {
    /// How many slots of a rule are kept.
    pub fn count(&self, rule: Rule) -> u32 {
        let count = match rule {
            Rule::Last => self.keep_last,
            Rule::Hourly => self.keep_hourly,
            Rule::Daily => self.keep_daily,
            Rule::Weekly => self.keep_weekly,
            Rule::Monthly => self.keep_monthly,
            Rule::Yearly => self.keep_yearly,
        };
        count.unwrap_or(0)
    }

    /// True when no snapshot at all could be kept by it.
    pub fn is_empty(&self) -> bool {
        Rule::ALL.into_iter().all(|rule| self.count(rule) == 0)
            && self.keep_within.is_none()
            && self.keep_tags.is_empty()
    }

    /// The first tag of a snapshot that pins it.
    pub fn pin<'t>(&self, tags: &'t [String]) -> Option<&'t str> {
        tags.iter().find(|tag| self.keep_tags.contains(tag)).map(String::as_str)
    }
}

/// A policy for each class.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policies {
    /// For snapshots without a class and for classes that have no policy of their own; they share its slots.
    pub default: Policy,
    /// By class.
    pub classes: BTreeMap<String, Policy>,
}

impl Policies {
    /// The policy of a class, and the class it stands under; `None` is the default's.
    pub fn of(&self, class: Option<&str>) -> (Option<&str>, &Policy) {
        match class.and_then(|class| self.classes.get_key_value(class)) {
            Some((class, policy)) => (Some(class), policy),
            None => (None, &self.default),
        }
    }

    /// Every tag that pins somewhere.
    pub fn pinning_tags(&self) -> Vec<String> {
        let all = self.classes.values().chain([&self.default]).flat_map(|policy| policy.keep_tags.iter().cloned());
        let sorted: std::collections::BTreeSet<String> = all.collect();
        sorted.into_iter().collect()
    }
}

/// The rules of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rules {
    /// By class, as configured or preset.
    ByClass(Policies),
    /// One policy for each series, whatever the class (`--keep-*`).
    Uniform(Policy),
    /// Everything older goes, counted from the newest snapshot of the series or from now, whichever is earlier.
    OlderThan {
        /// How old.
        window: Window,
        /// Tags that pin.
        keep_tags: Vec<String>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time_spec::timestamp_ns;

    #[test]
    fn windows_are_read_and_written() {
        for (text, days, seconds, shown) in [
            ("7d", 7, 0, "7d"),
            ("2w", 14, 0, "14d"),
            ("26h", 0, 26 * 3600, "26h"),
            ("1d12h", 1, 12 * 3600, "1d12h"),
            ("0", 0, 0, "0s"),
        ] {
            let window = Window::parse(text).unwrap();
            assert_eq!((window.days, window.time.as_secs()), (days, seconds), "{text}");
            assert_eq!(window.to_string(), shown);
            assert_eq!(Window::parse(shown), Ok(window));
        }
        for wrong in ["", "-1d", "7", "7 days ago", "99999999999d", "1y"] {
            assert!(Window::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_day_of_the_window_is_a_day_of_the_calendar() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let at = |text: &str| timestamp_ns(text.parse().unwrap());
        // Clocks went forward on 2026-03-29 and back on 2026-10-25.
        assert_eq!(Window::days(1).start_before(at("2026-03-29T10:00:00Z"), &zone), at("2026-03-28T11:00:00Z"));
        assert_eq!(Window::days(1).start_before(at("2026-10-25T11:00:00Z"), &zone), at("2026-10-24T10:00:00Z"));
        let exact = Window::parse("24h").unwrap();
        assert_eq!(exact.start_before(at("2026-03-29T10:00:00Z"), &zone), at("2026-03-28T10:00:00Z"));
        assert_eq!(Window::days(u32::MAX).start_before(0, &zone), i64::MIN);
    }
}
