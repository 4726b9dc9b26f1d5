//! What the rules mean, by example.

use super::cases::{DAY_NS, HOUR_NS};
use super::{Candidate, Options, Outcome, Plan, Policies, Policy, Reason, Refusal, Rules, Window, plan};
use crate::domain::id::SnapshotId;
use crate::domain::snapshot::Series;
use crate::domain::time_spec::timestamp_ns;
use jiff::tz::TimeZone;

fn at(text: &str) -> i64 {
    timestamp_ns(text.parse().unwrap())
}

/// A good snapshot of `web1: code, db`; the id is made from its number.
fn snapshot(number: u8, time_ns: i64, zone: &str) -> Candidate {
    let sources = ["code", "db"];
    Candidate {
        id: SnapshotId([number; 16]),
        time_ns,
        started_ns: time_ns,
        zone: TimeZone::get(zone).unwrap(),
        series: Series { host: "web1".to_owned(), sources: sources.map(str::to_owned).to_vec() },
        class: None,
        tags: Vec::new(),
        imported: false,
        sources: sources.map(|name| (name.to_owned(), Outcome::Good)).to_vec(),
        in_scope: true,
    }
}

fn with(mut candidate: Candidate, source: &str, outcome: Outcome) -> Candidate {
    candidate.sources.iter_mut().filter(|(name, _)| name == source).for_each(|(_, o)| *o = outcome);
    candidate
}

fn options(candidates: &[Candidate]) -> Options {
    Options { now_ns: candidates.iter().map(|c| c.time_ns).max().unwrap(), trust_gaps: false }
}

fn run(candidates: &[Candidate], policy: Policy) -> Plan {
    plan(candidates, &Rules::Uniform(policy), &options(candidates))
}

/// Numbers of the snapshots that stay, ascending.
fn kept(plan: &Plan) -> Vec<u8> {
    let mut kept: Vec<u8> = plan.entries().filter(|e| e.keep).map(|e| e.id.0[0]).collect();
    kept.sort_unstable();
    kept
}

fn hourly(count: u32) -> Policy {
    Policy { keep_hourly: Some(count), ..Policy::default() }
}

fn daily(count: u32) -> Policy {
    Policy { keep_daily: Some(count), ..Policy::default() }
}

#[test]
fn both_hours_of_the_night_when_clocks_go_back_are_slots() {
    // 02:30 summer time, 02:30 winter time, 03:30.
    let times = ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"];
    let all: Vec<Candidate> = (1..).zip(times).map(|(n, t)| snapshot(n, at(t), "Europe/Berlin")).collect();
    assert_eq!(kept(&run(&all, hourly(3))), [1, 2, 3]);
    assert_eq!(kept(&run(&all, hourly(2))), [2, 3]);
    assert_eq!(kept(&run(&all, daily(3))), [3]);
}

#[test]
fn days_are_those_of_the_recorded_zone() {
    // 23:30 and 00:30 in Berlin; one day in UTC.
    let times = ["2026-07-01T21:30:00Z", "2026-07-01T22:30:00Z"];
    let of = |zone| -> Vec<Candidate> { (1..).zip(times).map(|(n, t)| snapshot(n, at(t), zone)).collect() };
    assert_eq!(kept(&run(&of("Europe/Berlin"), daily(7))), [1, 2]);
    assert_eq!(kept(&run(&of("UTC"), daily(7))), [2]);
}

#[test]
fn a_zone_that_changes_in_a_series_fills_no_day_twice() {
    // Tokyo, New York, Tokyo again: the days 3, 2, 3.
    let mut all = vec![snapshot(3, at("2026-07-02T16:00:00Z"), "Asia/Tokyo")];
    all.push(snapshot(2, at("2026-07-02T15:30:00Z"), "America/New_York"));
    all.push(snapshot(1, at("2026-07-02T15:10:00Z"), "Asia/Tokyo"));
    assert_eq!(kept(&run(&all, daily(7))), [2, 3]);
}

#[test]
fn a_week_belongs_to_the_year_of_its_thursday() {
    let times = ["2026-12-28T12:00:00Z", "2027-01-03T12:00:00Z", "2027-01-04T12:00:00Z"];
    let all: Vec<Candidate> = (1..).zip(times).map(|(n, t)| snapshot(n, at(t), "UTC")).collect();
    let weekly = Policy { keep_weekly: Some(9), ..Policy::default() };
    assert_eq!(kept(&run(&all, weekly)), [2, 3]);
    let reasons = run(&all, Policy { keep_weekly: Some(9), ..Policy::default() });
    let text = reasons.entries().nth(1).unwrap().reasons[0].to_string();
    assert_eq!(text, "weekly 2 of 9: 2026-W53");
}

#[test]
fn a_failed_source_leaves_its_slot_to_an_older_snapshot() {
    let start = at("2026-07-01T12:00:00Z");
    let all = vec![
        snapshot(1, start, "UTC"),
        with(snapshot(2, start + HOUR_NS, "UTC"), "db", Outcome::Failed),
        snapshot(3, start + DAY_NS, "UTC"),
    ];
    let plan = run(&all, daily(2));
    assert_eq!(kept(&plan), [1, 2, 3]);
    let reasons = |n: u8| plan.entries().find(|e| e.id.0[0] == n).unwrap().reasons.clone();
    assert_eq!(reasons(1)[0].to_string(), "daily 2 of 2: 2026-07-01 for db");
    assert_eq!(reasons(2)[0].to_string(), "daily 2 of 2: 2026-07-01 for code");
}

#[test]
fn a_bad_newest_backup_stops_retention_for_its_source_alone() {
    let start = at("2026-07-01T12:00:00Z");
    let mut all: Vec<Candidate> = (1..=5u8).map(|n| snapshot(n, start + i64::from(n) * DAY_NS, "UTC")).collect();
    assert_eq!(kept(&run(&all, daily(1))), [5]);
    all[4] = with(all[4].clone(), "db", Outcome::Suspect);
    let plan = run(&all, daily(1));
    assert_eq!(kept(&plan), [1, 2, 3, 4, 5]);
    assert!(plan.is_held_back());
    assert_eq!(plan.series[0].held[0].source, "db");
    // A snapshot without data of the held source goes by the rules of the others.
    all[1] = with(all[1].clone(), "db", Outcome::Failed);
    assert_eq!(kept(&run(&all, daily(1))), [1, 3, 4, 5]);
    // Another series goes on.
    for n in 11..=13u8 {
        let mut other = snapshot(n, start + i64::from(n) * HOUR_NS, "UTC");
        other.series.host = "web2".to_owned();
        all.push(other);
    }
    assert_eq!(kept(&run(&all, daily(1))), [1, 3, 4, 5, 13]);
}

#[test]
fn a_new_normal_fills_slots_beside_the_last_three_good_ones() {
    let start = at("2026-07-01T12:00:00Z");
    let mut all: Vec<Candidate> = (1..=9u8).map(|n| snapshot(n, start + i64::from(n) * DAY_NS, "UTC")).collect();
    for (n, outcome) in [(5, Outcome::Suspect), (6, Outcome::Suspect), (7, Outcome::NewNormal), (8, Outcome::NewNormal)]
    {
        all[n] = with(all[n].clone(), "db", outcome);
    }
    // Until the third suspect nothing goes.
    assert_eq!(kept(&run(&all[..7], daily(1))), [1, 2, 3, 4, 5, 6, 7]);
    let plan = run(&all, Policy { keep_daily: Some(2), ..Policy::default() });
    assert!(!plan.is_held_back());
    assert_eq!(kept(&plan), [3, 4, 5, 8, 9]);
    let reasons = |n: u8| plan.entries().find(|e| e.id.0[0] == n).unwrap().reasons[0].to_string();
    assert_eq!(reasons(8), "daily 2 of 2: 2026-07-09");
    assert_eq!(reasons(5), "newest good one for db");
    assert_eq!(reasons(4), "good one before a new normal for db");
    assert!(reasons(6).contains("for code") && reasons(1).contains("2 newer daily kept"), "{plan:#?}");
    // Once one of them is accepted, it is the newest good one, and the others go by the rules.
    all[8] = with(all[8].clone(), "db", Outcome::Good);
    assert_eq!(kept(&run(&all, daily(1))), [9]);
}

#[test]
fn windows_count_from_the_newest_snapshot_and_not_from_the_clock() {
    let start = at("2026-07-01T12:00:00Z");
    let all: Vec<Candidate> = (1..=9u8).map(|n| snapshot(n, start + i64::from(n) * DAY_NS, "UTC")).collect();
    let within = Policy { keep_within: Some(Window::days(3)), ..Policy::default() };
    let later = Options { now_ns: start + 2000 * DAY_NS, trust_gaps: false };
    assert_eq!(kept(&plan(&all, &Rules::Uniform(within), &later)), [6, 7, 8, 9]);
    let older = Rules::OlderThan { window: Window::days(3), keep_tags: Vec::new() };
    assert_eq!(kept(&plan(&all, &older, &later)), [6, 7, 8, 9]);
    // A clock that is a little behind removes less.
    let behind = Options { now_ns: start + 9 * DAY_NS - HOUR_NS, trust_gaps: false };
    assert_eq!(kept(&plan(&all, &older, &behind)), [6, 7, 8, 9]);
    let late = Options { now_ns: start + 8 * DAY_NS, trust_gaps: false };
    assert_eq!(kept(&plan(&all, &older, &late)), [5, 6, 7, 8, 9]);
}

#[test]
fn classes_have_their_own_slots_and_the_rest_share_the_default() {
    let start = at("2026-07-01T12:00:00Z");
    let classes = [Some("hourly"), None, Some("odd"), Some("hourly"), None];
    let all: Vec<Candidate> = (1..)
        .zip(classes)
        .map(|(n, class)| Candidate {
            class: class.map(str::to_owned),
            ..snapshot(n, start + i64::from(n) * HOUR_NS, "UTC")
        })
        .collect();
    let policies = Policies {
        default: Policy { keep_last: Some(2), ..Policy::default() },
        classes: [("hourly".to_owned(), hourly(1))].into(),
    };
    assert_eq!(kept(&plan(&all, &Rules::ByClass(policies.clone()), &options(&all))), [3, 4, 5]);
    // One policy for all: whatever the class.
    assert_eq!(kept(&run(&all, hourly(2))), [4, 5]);
    // An imported snapshot without a class is kept as one made by hand.
    let imported = Candidate { imported: true, ..snapshot(1, start, "UTC") };
    assert_eq!(imported.policy_class(), Some("manual"));
}

#[test]
fn what_was_imported_ages_from_its_import() {
    let now = at("2026-07-01T12:00:00Z");
    let old = Candidate {
        imported: true,
        started_ns: now - DAY_NS,
        class: Some("manual".to_owned()),
        ..snapshot(1, at("2019-07-01T12:00:00Z"), "UTC")
    };
    let all = vec![old, snapshot(2, now, "UTC")];
    let rules = Rules::ByClass(super::defaults());
    assert_eq!(kept(&plan(&all, &rules, &options(&all))), [1, 2]);
    let mut later = all.clone();
    later.push(snapshot(3, now + 100 * DAY_NS, "UTC"));
    assert_eq!(kept(&plan(&later, &rules, &options(&later))), [2, 3]);
}

#[test]
fn clocks_in_1970_and_2099_are_refused_by_name() {
    let now = at("2026-07-01T12:00:00Z");
    let mut all: Vec<Candidate> = (1..=3u8).map(|n| snapshot(n, now - i64::from(n) * DAY_NS, "UTC")).collect();
    let refusal = |all: &[Candidate], now: &str| {
        let options = Options { now_ns: at(now), trust_gaps: false };
        let plan = plan(all, &Rules::Uniform(daily(1)), &options);
        assert_eq!(plan.removals().count() == 0, plan.series[0].refusal.is_some());
        plan.series[0].refusal.clone()
    };
    assert_eq!(refusal(&all, "2026-07-01T12:00:00Z"), None);
    let early = refusal(&all, "1970-01-01T00:10:00Z").unwrap();
    assert_eq!((early.code(), early.snapshot()), ("time_after_now", Some(SnapshotId([1; 16]))));
    let late = refusal(&all, "2099-01-01T00:00:00Z").unwrap();
    assert_eq!((late.code(), late.snapshot()), ("time_gap", Some(SnapshotId([1; 16]))));
    // A run while the clock stood in 2099, seen from either side.
    all.push(snapshot(9, at("2099-01-01T00:00:00Z"), "UTC"));
    assert_eq!(refusal(&all, "2026-07-01T12:00:00Z").unwrap().snapshot(), Some(SnapshotId([9; 16])));
    let gap = refusal(&all, "2099-01-02T00:00:00Z").unwrap();
    assert!(matches!(gap, Refusal::Gap { after: Some(SnapshotId([9, ..])), .. }), "{gap}");
    // Dated by hand and imported snapshots may be as old as they like.
    all.pop();
    all.push(Candidate { started_ns: now, ..snapshot(9, 0, "UTC") });
    all.push(Candidate { imported: true, ..snapshot(8, 1, "UTC") });
    assert_eq!(refusal(&all, "2026-07-01T12:00:00Z"), None);
}

#[test]
fn a_policy_that_keeps_nothing_is_refused() {
    let all: Vec<Candidate> = (1..=3u8).map(|n| snapshot(n, i64::from(n) * DAY_NS, "UTC")).collect();
    let refusal = |policy: Policy| run(&all, policy).series[0].refusal.clone();
    assert_eq!(refusal(Policy::default()), Some(Refusal::KeepsNothing { class: None }));
    assert_eq!(refusal(daily(0)), Some(Refusal::KeepsNothing { class: None }));
    let tags = Policy { keep_tags: vec!["none-has-it".to_owned()], ..Policy::default() };
    assert_eq!(refusal(tags), Some(Refusal::KeepsNothing { class: None }));
    assert_eq!(refusal(daily(1)), None);
}

#[test]
fn tags_pin_and_scope_limits() {
    let mut all: Vec<Candidate> = (1..=4u8).map(|n| snapshot(n, i64::from(n) * DAY_NS, "UTC")).collect();
    all[0].tags = vec!["release".to_owned()];
    all[1].in_scope = false;
    let policy = Policy { keep_tags: vec!["release".to_owned()], ..daily(1) };
    let plan = run(&all, policy);
    assert_eq!(kept(&plan), [1, 2, 4]);
    let reasons: Vec<String> =
        plan.entries().map(|e| e.reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")).collect();
    assert_eq!(
        reasons,
        [
            "daily 1 of 1: 1970-01-05; newest of its series; newest good one",
            "1 newer daily kept",
            "not asked about",
            "pinned by tag release"
        ]
    );
    assert!(matches!(plan.entries().nth(1).unwrap().reasons[0], Reason::SlotsFull { .. }));
}
