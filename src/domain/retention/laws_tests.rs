//! The plan against the reference, and one test for each law. `HOLDFAST_RETENTION_CASES` says how many cases the
//! comparison makes.

use super::cases::{Case, Cases, Dice, larger, policy};
use super::{Candidate, Outcome, Plan, Policies, Rules, plan, reference};
use crate::domain::id::SnapshotId;
use crate::domain::snapshot::Series;
use std::collections::{BTreeMap, BTreeSet};

/// Cases for each law.
const LAW_CASES: u64 = 3_000;

fn cases() -> impl Iterator<Item = (u64, Case)> {
    let cases = Cases::new();
    (0..LAW_CASES).map(move |number| (number, cases.case(number)))
}

fn planned(case: &Case) -> Plan {
    plan(&case.candidates, &case.rules, &case.options)
}

fn removed(plan: &Plan) -> BTreeSet<SnapshotId> {
    plan.removals().collect()
}

fn members(case: &Case) -> BTreeMap<&Series, Vec<&Candidate>> {
    let mut series: BTreeMap<&Series, Vec<&Candidate>> = BTreeMap::new();
    case.candidates.iter().for_each(|c| series.entry(&c.series).or_default().push(c));
    series.values_mut().for_each(|members| members.sort_by_key(|c| (c.time_ns, c.id)));
    series
}

#[test]
fn the_plan_is_what_the_reference_says() {
    let wanted = std::env::var("HOLDFAST_RETENTION_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000);
    let cases = Cases::new();
    let (mut removals, mut refusals) = (0u64, 0u64);
    for number in 0..wanted {
        let case = cases.case(number);
        let plan = planned(&case);
        let answer = reference::answer(&case.candidates, &case.rules, &case.options);
        let gone = removed(&plan);
        for (at, candidate) in case.candidates.iter().enumerate() {
            assert_eq!(!gone.contains(&candidate.id), answer.kept.contains(&at), "case {number}, {at}: {case:#?}");
        }
        let refused: Vec<&Series> = plan.series.iter().filter(|s| s.refusal.is_some()).map(|s| &s.series).collect();
        for (at, candidate) in case.candidates.iter().enumerate() {
            assert_eq!(refused.contains(&&candidate.series), answer.refused.contains(&at), "case {number}: {case:#?}");
        }
        removals += gone.len() as u64;
        refusals += answer.refused.len() as u64;
    }
    // A generator that makes nothing happen would prove nothing.
    assert!(removals > wanted && refusals > wanted / 2, "{removals} removals, {refusals} refusals");
    println!("{wanted} cases, {removals} removals, {refusals} snapshots of refused series, no difference");
}

#[test]
fn every_snapshot_is_listed_once_with_a_reason() {
    for (number, case) in cases() {
        let plan = planned(&case);
        let listed: BTreeSet<SnapshotId> = plan.entries().map(|entry| entry.id).collect();
        assert_eq!((plan.entries().count(), listed.len()), (case.candidates.len(), case.candidates.len()), "{number}");
        assert!(plan.entries().all(|entry| !entry.reasons.is_empty()), "case {number}");
    }
}

#[test]
fn no_series_is_emptied_and_its_newest_stays() {
    for (number, case) in cases() {
        let gone = removed(&planned(&case));
        for members in members(&case).values() {
            assert!(!gone.contains(&members.last().unwrap().id), "case {number}: {case:#?}");
        }
    }
}

#[test]
fn the_newest_good_snapshot_of_every_source_stays() {
    for (number, case) in cases() {
        let gone = removed(&planned(&case));
        for (series, members) in members(&case) {
            for source in &series.sources {
                let newest = members.iter().rfind(|c| c.outcome(source) == Outcome::Good);
                assert!(newest.is_none_or(|c| !gone.contains(&c.id)), "case {number}, {source}: {case:#?}");
            }
        }
    }
}

#[test]
fn a_source_whose_newest_backup_is_not_good_loses_nothing_and_the_others_go_on() {
    let mut beside = 0;
    for (number, case) in cases() {
        let gone = removed(&planned(&case));
        for (series, members) in members(&case) {
            let newest = members.last().unwrap();
            let (bad, good): (Vec<&String>, Vec<&String>) =
                series.sources.iter().partition(|source| !newest.outcome(source).fills_slots());
            for source in bad.iter().copied() {
                let lost = members.iter().find(|c| c.outcome(source) != Outcome::Failed && gone.contains(&c.id));
                assert!(lost.is_none(), "case {number}, {source}: {case:#?}");
            }
            // Something of another source, or of another series, still goes.
            beside += u64::from(!bad.is_empty() && !good.is_empty() && members.iter().any(|c| gone.contains(&c.id)));
        }
    }
    assert!(beside > 0);
}

#[test]
fn a_new_normal_holds_nothing_back_and_the_last_three_good_ones_stay() {
    let (mut seen, mut gone_beside) = (0, 0);
    for (number, case) in cases() {
        let plan = planned(&case);
        let gone = removed(&plan);
        for (series, members) in members(&case) {
            let newest = members.last().unwrap();
            for source in series.sources.iter().filter(|s| newest.outcome(s) == Outcome::NewNormal) {
                let held = plan.series.iter().filter(|p| &p.series == series).flat_map(|p| &p.held);
                assert!(!held.into_iter().any(|hold| &hold.source == source), "case {number}, {source}: {case:#?}");
                let good: Vec<_> = members.iter().rev().filter(|c| c.outcome(source) == Outcome::Good).collect();
                let lost = good.iter().take(3).find(|c| gone.contains(&c.id));
                assert!(lost.is_none(), "case {number}, {source}: {case:#?}");
                seen += u64::from(good.len() > 2);
                gone_beside += u64::from(good.iter().any(|c| gone.contains(&c.id)));
            }
        }
    }
    assert!(seen > 50 && gone_beside > 10, "{seen} seen, {gone_beside} with something gone");
}

#[test]
fn a_slot_is_filled_for_a_source_only_by_its_good_and_its_newly_normal_snapshots() {
    for (number, case) in cases() {
        for entry in planned(&case).entries().filter(|entry| entry.keep) {
            let candidate = case.candidates.iter().find(|c| c.id == entry.id).unwrap();
            for reason in &entry.reasons {
                if let super::Reason::Slot { sources, .. } = reason {
                    let named = if sources.is_empty() { &candidate.series.sources } else { sources };
                    assert!(named.iter().all(|s| candidate.outcome(s).fills_slots()), "case {number}: {case:#?}");
                }
            }
        }
    }
}

#[test]
fn what_was_done_leaves_nothing_to_do() {
    for (number, case) in cases() {
        let gone = removed(&planned(&case));
        let mut left = case.clone();
        left.candidates.retain(|c| !gone.contains(&c.id));
        assert_eq!(removed(&planned(&left)), BTreeSet::new(), "case {number}: {case:#?}");
    }
}

#[test]
fn the_order_of_the_input_does_not_matter() {
    for (number, case) in cases() {
        let mut shuffled = case.clone();
        let mut dice = Dice(number);
        for at in (1..shuffled.candidates.len()).rev() {
            shuffled.candidates.swap(at, dice.below(at as u64 + 1) as usize);
        }
        assert_eq!(planned(&shuffled), planned(&case), "case {number}");
    }
}

#[test]
fn a_larger_policy_never_keeps_less() {
    for (number, mut case) in cases() {
        let mut dice = Dice(number ^ 0xabcd);
        // What is refused keeps everything; the law is about what runs.
        case.options.trust_gaps = true;
        let (small, large) = match &case.rules {
            Rules::ByClass(policies) => {
                let more = |dice: &mut Dice| Policies {
                    default: larger(dice, &policies.default),
                    classes: policies.classes.iter().map(|(class, p)| (class.clone(), larger(dice, p))).collect(),
                };
                (case.rules.clone(), Rules::ByClass(more(&mut dice)))
            }
            _ => {
                let small = policy(&mut dice);
                let large = larger(&mut dice, &small);
                (Rules::Uniform(small), Rules::Uniform(large))
            }
        };
        let (few, many) =
            (plan(&case.candidates, &small, &case.options), plan(&case.candidates, &large, &case.options));
        for (few, many) in few.series.iter().zip(&many.series).filter(|(few, _)| few.refusal.is_none()) {
            for (a, b) in few.entries.iter().zip(&many.entries) {
                assert!(b.keep || !a.keep, "case {number}: {small:?} keeps {} and {large:?} does not: {case:#?}", a.id);
            }
        }
    }
}

#[test]
fn a_refused_series_loses_nothing() {
    let mut seen = BTreeSet::new();
    for (number, case) in cases() {
        for series in planned(&case).series.iter().filter(|series| series.refusal.is_some()) {
            assert!(series.entries.iter().all(|entry| entry.keep), "case {number}: {case:#?}");
            seen.extend(series.refusal.as_ref().map(super::Refusal::code));
        }
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["keeps_nothing", "time_after_now", "time_gap"]);
}

#[test]
fn what_a_tag_pins_stays_whatever_its_age() {
    let mut pinned = 0;
    for (number, case) in cases() {
        let gone = removed(&planned(&case));
        for candidate in &case.candidates {
            let tags = match &case.rules {
                Rules::ByClass(policies) => &policies.of(candidate.policy_class()).1.keep_tags,
                Rules::Uniform(policy) => &policy.keep_tags,
                Rules::OlderThan { keep_tags, .. } => keep_tags,
            };
            if candidate.tags.iter().any(|tag| tags.contains(tag)) {
                pinned += 1;
                assert!(!gone.contains(&candidate.id), "case {number}: {case:#?}");
            }
        }
    }
    assert!(pinned > LAW_CASES / 10, "{pinned}");
}
