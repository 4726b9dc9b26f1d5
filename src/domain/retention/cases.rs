//! Random series for tests: clock changes in both directions, zones mixed in one series, equal times, failed and
//! suspect sources, several hosts, imported and dated by hand.

use super::{Candidate, Options, Outcome, Policies, Policy, Rules, Window};
use crate::domain::id::SnapshotId;
use crate::domain::snapshot::Series;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::collections::BTreeMap;
use std::time::Duration;

pub(super) const HOUR_NS: i64 = 3_600_000_000_000;
pub(super) const DAY_NS: i64 = 24 * HOUR_NS;

/// SplitMix64: small, and the same everywhere.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(super) fn pick<'t, T>(&mut self, from: &'t [T]) -> &'t T {
        &from[self.below(from.len() as u64) as usize]
    }
}

/// Moments at which calendars are difficult, UTC.
const MOMENTS: [&str; 10] = [
    "2026-03-29T01:10:00Z", // Berlin goes forward
    "2026-10-25T01:10:00Z", // and back
    "2026-03-08T07:10:00Z", // New York
    "2026-11-01T06:10:00Z",
    "2026-10-03T15:40:00Z", // Lord Howe moves by half an hour
    "2026-04-04T15:10:00Z",
    "2027-01-03T23:30:00Z", // the last week of 2026 ends in January
    "2024-02-29T12:00:00Z",
    "2011-12-31T00:30:00Z", // Apia had no 30 December 2011
    "1970-01-01T00:20:00Z",
];

const ZONES: [&str; 7] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Pacific/Apia",
    "America/St_Johns",
];

/// One question to retention.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) candidates: Vec<Candidate>,
    pub(super) rules: Rules,
    pub(super) options: Options,
}

/// Makes cases. Zones are looked up once.
pub(super) struct Cases {
    zones: Vec<TimeZone>,
}

impl Cases {
    pub(super) fn new() -> Self {
        Self { zones: ZONES.iter().map(|name| TimeZone::get(name).unwrap()).collect() }
    }

    /// The case of a number; the same number always gives the same case.
    pub(super) fn case(&self, number: u64) -> Case {
        let mut dice = Dice(number.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let candidates = self.candidates(&mut dice);
        let rules = rules(&mut dice);
        let newest = candidates.iter().map(|c| c.time_ns).max().unwrap_or(0);
        let after = *dice.pick(&[0, 0, 0, HOUR_NS, 40 * DAY_NS, -HOUR_NS, -DAY_NS, -2 * DAY_NS, 3700 * DAY_NS]);
        Case { candidates, rules, options: Options { now_ns: newest + after, trust_gaps: dice.one_in(3) } }
    }

    fn candidates(&self, dice: &mut Dice) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        let hosts = 1 + dice.below(3);
        let mut sets: Vec<Vec<&str>> = vec![vec!["db"], vec!["code", "db"], vec!["code", "db", "media"]];
        sets.truncate(1 + dice.below(3) as usize);
        let trouble = *dice.pick(&[2, 4, 10, 1000]);
        let mixed = dice.one_in(3);
        let home = dice.pick(&self.zones).clone();
        let mut time_ns = match dice.one_in(4) {
            true => dice.below(60 * 365) as i64 * DAY_NS,
            false => dice.pick(&MOMENTS).parse::<Timestamp>().unwrap().as_nanosecond() as i64,
        };
        time_ns += dice.below(100) as i64 * 600_000_000_000;
        // One rhythm for most of the case, with hitches.
        let rhythm = *dice.pick(&[HOUR_NS / 2, HOUR_NS, 3 * HOUR_NS, DAY_NS, 8 * DAY_NS, 31 * DAY_NS]);
        for _ in 0..1 + dice.below(24) {
            let host = format!("h{}", dice.below(hosts));
            let sources = dice.pick(&sets).clone();
            let outcome = |dice: &mut Dice| match dice.below(trouble) {
                0 => Outcome::Failed,
                1 => *dice.pick(&[Outcome::Suspect, Outcome::Suspect, Outcome::NewNormal]),
                _ => Outcome::Good,
            };
            let by_hand = dice.one_in(12);
            let offset = if by_hand { dice.below(5000) as i64 * DAY_NS } else { 0 };
            candidates.push(Candidate {
                id: SnapshotId(std::array::from_fn(|_| dice.below(256) as u8)),
                time_ns: time_ns - offset,
                started_ns: time_ns,
                zone: if mixed { dice.pick(&self.zones).clone() } else { home.clone() },
                sources: sources.iter().map(|name| ((*name).to_owned(), outcome(dice))).collect(),
                series: Series { host, sources: sources.iter().map(|name| (*name).to_owned()).collect() },
                class: dice.pick(&[None, None, Some("hourly"), Some("daily"), Some("own")]).map(str::to_owned),
                tags: if dice.one_in(10) { vec!["pin".to_owned()] } else { Vec::new() },
                imported: by_hand && dice.one_in(2),
                in_scope: !dice.one_in(30),
            });
            time_ns -= match dice.below(12) {
                0 => 0,
                1 => 1,
                2 => dice.below(90) as i64 * 60_000_000_000,
                3 => dice.below(400) as i64 * DAY_NS,
                4 if dice.one_in(20) => 4000 * DAY_NS,
                _ => rhythm,
            };
        }
        candidates
    }
}

fn rules(dice: &mut Dice) -> Rules {
    match dice.below(8) {
        0 => Rules::OlderThan { window: window(dice), keep_tags: vec!["pin".to_owned()] },
        1..=3 => Rules::Uniform(policy(dice)),
        _ => {
            let mut classes = BTreeMap::new();
            for class in ["hourly", "daily", "manual"] {
                if dice.one_in(2) {
                    classes.insert(class.to_owned(), policy(dice));
                }
            }
            Rules::ByClass(Policies { default: policy(dice), classes })
        }
    }
}

fn window(dice: &mut Dice) -> Window {
    let days = *dice.pick(&[0, 1, 7, 30, 400]);
    let time = if days == 0 || dice.one_in(4) { Duration::from_secs(dice.below(3 * 86_400)) } else { Duration::ZERO };
    Window { days, time }
}

/// A policy, sometimes an empty one.
pub(super) fn policy(dice: &mut Dice) -> Policy {
    let count = |dice: &mut Dice| if dice.one_in(2) { None } else { Some(dice.below(6) as u32) };
    Policy {
        keep_last: count(dice),
        keep_hourly: count(dice),
        keep_daily: count(dice),
        keep_weekly: count(dice),
        keep_monthly: count(dice),
        keep_yearly: count(dice),
        keep_within: if dice.one_in(3) { Some(window(dice)) } else { None },
        keep_tags: if dice.one_in(3) { vec!["pin".to_owned()] } else { Vec::new() },
    }
}

/// The same policy or a larger one.
pub(super) fn larger(dice: &mut Dice, policy: &Policy) -> Policy {
    let more = |dice: &mut Dice, count: Option<u32>| match dice.below(3) {
        0 => Some(count.unwrap_or(0) + dice.below(4) as u32),
        _ => count,
    };
    let mut tags = policy.keep_tags.clone();
    if dice.one_in(3) {
        tags.push("pin".to_owned());
    }
    let within = policy.keep_within.map(|w| Window { days: w.days + dice.below(3) as u32, time: w.time });
    Policy {
        keep_last: more(dice, policy.keep_last),
        keep_hourly: more(dice, policy.keep_hourly),
        keep_daily: more(dice, policy.keep_daily),
        keep_weekly: more(dice, policy.keep_weekly),
        keep_monthly: more(dice, policy.keep_monthly),
        keep_yearly: more(dice, policy.keep_yearly),
        keep_within: within.or_else(|| dice.one_in(3).then(|| window(dice))),
        keep_tags: tags,
    }
}
