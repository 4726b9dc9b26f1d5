//! The same decisions once more, by definition: for each snapshot the question "who is newer and in my slot?", without
//! sorting, without running counts. Slow on purpose, and sharing nothing with the plan but the input.

use super::{Candidate, Options, Outcome, Policy, Rule, Rules};
use jiff::Timestamp;
use std::collections::BTreeSet;

const YEARS_TEN_NS: i128 = 3653 * 86_400 * 1_000_000_000;
const DAY_NS: i128 = 86_400 * 1_000_000_000;

/// Positions of the candidates that stay, and of those whose series is refused.
pub(super) struct Answer {
    pub(super) kept: BTreeSet<usize>,
    pub(super) refused: BTreeSet<usize>,
}

pub(super) fn answer(all: &[Candidate], rules: &Rules, options: &Options) -> Answer {
    let (mut kept, mut refused) = (BTreeSet::new(), BTreeSet::new());
    for at in 0..all.len() {
        let series: Vec<&Candidate> = all.iter().filter(|c| c.series == all[at].series).collect();
        if is_refused(&series, rules, options) {
            refused.insert(at);
        }
        if refused.contains(&at) || wanted(&all[at], &series, rules, options) || is_net(&all[at], &series) {
            kept.insert(at);
        }
    }
    Answer { kept, refused }
}

fn newer(a: &Candidate, b: &Candidate) -> bool {
    a.time_ns > b.time_ns || (a.time_ns == b.time_ns && a.id > b.id)
}

fn newest<'a>(series: &[&'a Candidate]) -> &'a Candidate {
    series.iter().find(|c| !series.iter().any(|other| newer(other, c))).unwrap()
}

fn good(c: &Candidate, source: &str) -> bool {
    c.sources.iter().any(|(name, outcome)| name == source && *outcome == Outcome::Good)
}

/// Good, or as those before it that looked wrong.
fn usable(c: &Candidate, source: &str) -> bool {
    good(c, source) || new_normal(c, source)
}

fn new_normal(c: &Candidate, source: &str) -> bool {
    c.sources.iter().any(|(name, outcome)| name == source && *outcome == Outcome::NewNormal)
}

/// The newest snapshot, and the newest good one of any source; with a new normal the three newest good ones.
fn is_net(c: &Candidate, series: &[&Candidate]) -> bool {
    let good_and_newer = |s: &str| series.iter().filter(|o| good(o, s) && newer(o, c)).count();
    let enough = |s: &str| if new_normal(newest(series), s) { 3 } else { 1 };
    !series.iter().any(|other| newer(other, c))
        || c.series.sources.iter().any(|s| good(c, s) && good_and_newer(s) < enough(s))
}

/// The name under which a policy is found, and the policy.
fn policy_of<'r>(c: &Candidate, rules: &'r Rules) -> (String, Option<&'r Policy>) {
    match rules {
        Rules::Uniform(policy) => (String::new(), Some(policy)),
        Rules::OlderThan { .. } => (String::new(), None),
        Rules::ByClass(policies) => {
            let class = match &c.class {
                Some(class) => class.clone(),
                None if c.imported => "manual".to_owned(),
                None => String::new(),
            };
            match policies.classes.get(&class) {
                Some(policy) => (class, Some(policy)),
                None => (String::new(), Some(&policies.default)),
            }
        }
    }
}

fn pinned(c: &Candidate, rules: &Rules) -> bool {
    let tags = match (rules, policy_of(c, rules).1) {
        (Rules::OlderThan { keep_tags, .. }, _) => keep_tags,
        (_, Some(policy)) => &policy.keep_tags,
        (_, None) => return false,
    };
    tags.iter().any(|tag| c.tags.contains(tag))
}

/// Wanted by anything but the nets.
fn wanted(c: &Candidate, series: &[&Candidate], rules: &Rules, options: &Options) -> bool {
    if !c.in_scope || pinned(c, rules) {
        return true;
    }
    let newest = newest(series);
    let held = |source: &str| !usable(newest, source);
    let has_data = |source: &str| c.sources.iter().any(|(n, o)| n == source && *o != Outcome::Failed);
    if c.series.sources.iter().any(|source| held(source) && has_data(source)) {
        return true;
    }
    let back = |window: super::Window, at_ns: i64| -> i128 {
        let at = Timestamp::from_nanosecond(i128::from(at_ns)).unwrap().to_zoned(newest.zone.clone());
        let days = at.checked_sub(jiff::Span::new().days(i64::from(window.days))).unwrap();
        days.timestamp().as_nanosecond() - window.time.as_nanos() as i128
    };
    match (rules, policy_of(c, rules).1) {
        (Rules::OlderThan { window, .. }, _) => {
            i128::from(c.time_ns) >= back(*window, newest.time_ns.min(options.now_ns))
        }
        (_, Some(policy)) => {
            let age_ns = if c.imported { c.time_ns.max(c.started_ns) } else { c.time_ns };
            policy.keep_within.is_some_and(|window| i128::from(age_ns) >= back(window, newest.time_ns))
                || c.series.sources.iter().any(|source| {
                    !held(source) && Rule::ALL.into_iter().any(|rule| fills(c, source, rule, policy, series, rules))
                })
        }
        (_, None) => false,
    }
}

/// True when the snapshot is the newest good one of its slot, and fewer slots than the policy keeps are newer.
fn fills(c: &Candidate, source: &str, rule: Rule, policy: &Policy, series: &[&Candidate], rules: &Rules) -> bool {
    let peers: Vec<&&Candidate> = series
        .iter()
        .filter(|o| o.in_scope && usable(o, source) && policy_of(o, rules).0 == policy_of(c, rules).0)
        .collect();
    let count = match rule {
        Rule::Last => policy.keep_last,
        Rule::Hourly => policy.keep_hourly,
        Rule::Daily => policy.keep_daily,
        Rule::Weekly => policy.keep_weekly,
        Rule::Monthly => policy.keep_monthly,
        Rule::Yearly => policy.keep_yearly,
    };
    let before_me: BTreeSet<String> = peers.iter().filter(|o| newer(o, c)).map(|o| slot(o, rule)).collect();
    usable(c, source) && !before_me.contains(&slot(c, rule)) && before_me.len() < count.unwrap_or(0) as usize
}

/// The name of a slot, by formatting.
fn slot(c: &Candidate, rule: Rule) -> String {
    let local = Timestamp::from_nanosecond(i128::from(c.time_ns)).unwrap().to_zoned(c.zone.clone());
    match rule {
        Rule::Last => c.id.hex(),
        Rule::Hourly => {
            let hour = local.datetime().with().minute(0).second(0).subsec_nanosecond(0).build().unwrap();
            local.offset().to_timestamp(hour).unwrap().to_string()
        }
        Rule::Daily => local.strftime("%Y-%m-%d").to_string(),
        Rule::Weekly => local.strftime("%G-%V").to_string(),
        Rule::Monthly => local.strftime("%Y-%m").to_string(),
        Rule::Yearly => local.strftime("%Y").to_string(),
    }
}

fn is_refused(series: &[&Candidate], rules: &Rules, options: &Options) -> bool {
    let newest = newest(series);
    let now = i128::from(options.now_ns);
    if series.iter().any(|c| i128::from(c.time_ns) - now > DAY_NS) {
        return true;
    }
    if !options.trust_gaps {
        let dated: Vec<i128> = series
            .iter()
            .filter(|c| !c.imported && c.time_ns == c.started_ns && !pinned(c, rules))
            .map(|c| i128::from(c.time_ns))
            .collect();
        // A gap follows a time when nothing lies in the ten years after it, but something lies later.
        let gap = |t: &i128| !dated.iter().any(|o| o > t && o - t <= YEARS_TEN_NS) && dated.iter().any(|o| o > t);
        if dated.iter().any(gap) || (!dated.is_empty() && now - i128::from(newest.time_ns) > YEARS_TEN_NS) {
            return true;
        }
    }
    let empty = |policy: &Policy| {
        *policy == Policy::default() || (larger_than_nothing(policy) == 0 && policy.keep_within.is_none())
    };
    if series.iter().any(|c| c.in_scope && policy_of(c, rules).1.is_some_and(|p| empty(p) && p.keep_tags.is_empty())) {
        return true;
    }
    !matches!(rules, Rules::OlderThan { .. }) && !series.iter().any(|c| wanted(c, series, rules, options))
}

fn larger_than_nothing(policy: &Policy) -> u64 {
    [
        policy.keep_last,
        policy.keep_hourly,
        policy.keep_daily,
        policy.keep_weekly,
        policy.keep_monthly,
        policy.keep_yearly,
    ]
    .into_iter()
    .flatten()
    .map(u64::from)
    .sum()
}
