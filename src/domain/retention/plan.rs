//! The plan: every snapshot, what becomes of it, and all reasons.

use super::policy::{Policy, Rules, Window};
use super::reason::{Reason, Refusal};
use super::slots::{Rule, Slot, SlotKey};
use super::{Candidate, Options, Outcome};
use crate::domain::id::SnapshotId;
use crate::domain::snapshot::Series;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

const DAY_NS: i64 = 86_400 * 1_000_000_000;
/// Good snapshots of a source that stay beside a new normal.
const GOOD_BESIDE_NEW_NORMAL: usize = 3;
/// Ten years and their leap days.
const GAP_MAX_NS: i64 = 3653 * DAY_NS;

/// What becomes of every snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// By series, sorted.
    pub series: Vec<SeriesPlan>,
}

/// What becomes of one series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesPlan {
    /// The series.
    pub series: Series,
    /// Why nothing is removed, if retention does not run for it.
    pub refusal: Option<Refusal>,
    /// Sources whose newest backup is not good; nothing with data of theirs is removed.
    pub held: Vec<Hold>,
    /// Every snapshot of it, newest first.
    pub entries: Vec<Entry>,
}

/// A source for which retention does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// The source.
    pub source: String,
    /// The newest snapshot of the series.
    pub newest: SnapshotId,
    /// How the source fared in it.
    pub outcome: Outcome,
}

/// What becomes of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The snapshot.
    pub id: SnapshotId,
    /// Its backup time, nanoseconds since 1970 UTC.
    pub time_ns: i64,
    /// Its class.
    pub class: Option<String>,
    /// True when it stays.
    pub keep: bool,
    /// All reasons for that; never empty.
    pub reasons: Vec<Reason>,
}

impl Plan {
    /// Every snapshot of the plan.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.series.iter().flat_map(|series| &series.entries)
    }

    /// Ids of what goes.
    pub fn removals(&self) -> impl Iterator<Item = SnapshotId> {
        self.entries().filter(|entry| !entry.keep).map(|entry| entry.id)
    }

    /// True when retention did not run for some series or source.
    pub fn is_held_back(&self) -> bool {
        self.series.iter().any(|series| series.refusal.is_some() || !series.held.is_empty())
    }
}

/// Decides what becomes of every snapshot. The order of `candidates` does not matter.
pub fn plan(candidates: &[Candidate], rules: &Rules, options: &Options) -> Plan {
    let mut by_series: BTreeMap<&Series, Vec<&Candidate>> = BTreeMap::new();
    for candidate in candidates {
        by_series.entry(&candidate.series).or_default().push(candidate);
    }
    let series = by_series.into_iter().map(|(series, mut members)| {
        members.sort_by_key(|member| Reverse((member.time_ns, member.id)));
        plan_series(series, &members, rules, options)
    });
    Plan { series: series.collect() }
}

/// Reasons gathered for one snapshot.
#[derive(Default)]
struct Verdict {
    keep: Vec<Reason>,
    pass: Vec<Reason>,
}

/// `members` are newest first.
fn plan_series(series: &Series, members: &[&Candidate], rules: &Rules, options: &Options) -> SeriesPlan {
    let mut verdicts: Vec<Verdict> = members.iter().map(|_| Verdict::default()).collect();
    let held = held_sources(series, members);
    let groups = groups(members, rules);
    let judge = Judge { series, members, held: &held };
    judge.holds(&mut verdicts);
    for group in &groups {
        judge.group(group, rules, options, &mut verdicts);
    }
    let refusal = implausible(members, rules, options).or_else(|| keeps_nothing(&groups, rules, &verdicts));
    judge.nets(&mut verdicts);
    let entry = |(member, verdict): (&&Candidate, Verdict)| {
        let (keep, mut reasons) = match (&refusal, verdict.keep.is_empty()) {
            (Some(_), _) => (true, vec![Reason::Refused]),
            (None, false) => (true, verdict.keep),
            (None, true) if verdict.pass.is_empty() => (false, vec![Reason::NoTag]),
            (None, true) => (false, verdict.pass),
        };
        // A reason that holds for every source needs no list of them.
        for sources in reasons.iter_mut().filter_map(Reason::sources_mut) {
            if sources.len() == series.sources.len() {
                sources.clear();
            }
        }
        Entry { id: member.id, time_ns: member.time_ns, class: member.class.clone(), keep, reasons }
    };
    let entries = members.iter().zip(verdicts).map(entry).collect();
    SeriesPlan { series: series.clone(), refusal, held, entries }
}

fn held_sources(series: &Series, members: &[&Candidate]) -> Vec<Hold> {
    let Some(newest) = members.first() else { return Vec::new() };
    let hold = |source: &String| Hold { source: source.clone(), newest: newest.id, outcome: newest.outcome(source) };
    series.sources.iter().map(hold).filter(|hold| !hold.outcome.fills_slots()).collect()
}

/// Snapshots that share one policy and its slots, as positions in the series.
struct Group<'a> {
    class: Option<&'a str>,
    policy: Option<&'a Policy>,
    at: Vec<usize>,
}

fn groups<'a>(members: &[&'a Candidate], rules: &'a Rules) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    for (at, member) in members.iter().enumerate().filter(|(_, member)| member.in_scope) {
        let (class, policy) = match rules {
            Rules::ByClass(policies) => {
                let (class, policy) = policies.of(member.policy_class());
                (class, Some(policy))
            }
            Rules::Uniform(policy) => (None, Some(policy)),
            Rules::OlderThan { .. } => (None, None),
        };
        match groups.iter_mut().find(|group| group.class == class) {
            Some(group) => group.at.push(at),
            None => groups.push(Group { class, policy, at: vec![at] }),
        }
    }
    groups
}

/// Times that cannot be true, or that hardly are.
fn implausible(members: &[&Candidate], rules: &Rules, options: &Options) -> Option<Refusal> {
    let newest = members.first()?;
    let now_ns = options.now_ns;
    if newest.time_ns.saturating_sub(now_ns) > DAY_NS {
        return Some(Refusal::AfterNow { snapshot: newest.id, time_ns: newest.time_ns, now_ns });
    }
    if options.trust_gaps {
        return None;
    }
    // What was imported, dated by hand or pinned may be as old as it likes.
    let pinned = |member: &Candidate| pin(member, rules).is_some();
    let dated: Vec<&&Candidate> = members.iter().filter(|m| m.is_dated_by_clock() && !pinned(m)).collect();
    let last = dated.first()?;
    if now_ns.saturating_sub(last.time_ns) > GAP_MAX_NS && now_ns.saturating_sub(newest.time_ns) > GAP_MAX_NS {
        return Some(Refusal::Gap { before: last.id, before_ns: last.time_ns, after: None, after_ns: now_ns });
    }
    let (after, before) =
        dated.iter().zip(dated.iter().skip(1)).find(|(a, b)| a.time_ns.saturating_sub(b.time_ns) > GAP_MAX_NS)?;
    let (before_ns, after_ns) = (before.time_ns, after.time_ns);
    Some(Refusal::Gap { before: before.id, before_ns, after: Some(after.id), after_ns })
}

/// The tag that pins a snapshot under the rules.
fn pin<'c>(candidate: &'c Candidate, rules: &Rules) -> Option<&'c str> {
    match rules {
        Rules::ByClass(policies) => policies.of(candidate.policy_class()).1.pin(&candidate.tags),
        Rules::Uniform(policy) => policy.pin(&candidate.tags),
        Rules::OlderThan { keep_tags, .. } => {
            candidate.tags.iter().find(|tag| keep_tags.contains(tag)).map(String::as_str)
        }
    }
}

/// A policy that keeps nothing is a mistake; the safety nets must not hide it. Judged before they are hung.
fn keeps_nothing(groups: &[Group<'_>], rules: &Rules, verdicts: &[Verdict]) -> Option<Refusal> {
    if let Some(group) = groups.iter().find(|group| group.policy.is_some_and(Policy::is_empty)) {
        return Some(Refusal::KeepsNothing { class: group.class.map(str::to_owned) });
    }
    let nothing = verdicts.iter().all(|verdict| verdict.keep.is_empty());
    (nothing && !matches!(rules, Rules::OlderThan { .. })).then_some(Refusal::KeepsNothing { class: None })
}

/// Judges the snapshots of one series.
struct Judge<'a> {
    series: &'a Series,
    members: &'a [&'a Candidate],
    held: &'a [Hold],
}

impl Judge<'_> {
    fn is_held(&self, source: &str) -> bool {
        self.held.iter().any(|hold| hold.source == source)
    }

    /// What is kept whatever the policy says, because nothing was asked or nothing may be decided.
    fn holds(&self, verdicts: &mut [Verdict]) {
        for (member, verdict) in self.members.iter().zip(verdicts) {
            if !member.in_scope {
                verdict.keep.push(Reason::OutOfScope);
            }
            for hold in self.held.iter().filter(|hold| member.outcome(&hold.source) != Outcome::Failed) {
                verdict.keep.push(Reason::Held { source: hold.source.clone() });
            }
        }
    }

    /// The newest snapshot and the newest good one of every source; three of a source that has a new normal, since
    /// nobody has said yet that it is right.
    fn nets(&self, verdicts: &mut [Verdict]) {
        if let Some(verdict) = verdicts.first_mut() {
            verdict.keep.push(Reason::NewestOfSeries);
        }
        for source in &self.series.sources {
            let is_new_normal = self.members.first().is_some_and(|m| m.outcome(source) == Outcome::NewNormal);
            let count = if is_new_normal { GOOD_BESIDE_NEW_NORMAL } else { 1 };
            let good = self.members.iter().zip(verdicts.iter_mut()).filter(|(m, _)| m.outcome(source) == Outcome::Good);
            for (nth, (_, verdict)) in good.take(count).enumerate() {
                let sources = vec![source.clone()];
                let reason = match nth {
                    0 => Reason::NewestGood { sources },
                    _ => Reason::GoodBefore { sources },
                };
                add(&mut verdict.keep, reason, source);
            }
        }
    }

    fn group(&self, group: &Group<'_>, rules: &Rules, options: &Options, verdicts: &mut [Verdict]) {
        for (member, at) in group.at.iter().filter_map(|&at| self.members.get(at).map(|member| (member, at))) {
            if let (Some(tag), Some(verdict)) = (pin(member, rules), verdicts.get_mut(at)) {
                verdict.keep.push(Reason::Pinned { tag: tag.to_owned() });
            }
        }
        match (rules, group.policy) {
            (Rules::OlderThan { window, .. }, _) => self.window(group, *window, Some(options.now_ns), verdicts),
            (_, Some(policy)) => {
                if let Some(window) = policy.keep_within {
                    self.window(group, window, None, verdicts);
                }
                for source in &self.series.sources {
                    self.slots(group, policy, source, verdicts);
                }
            }
            (_, None) => {}
        }
    }

    /// Everything in a window before the newest snapshot of the whole series, or before `now_ns` if that is earlier.
    fn window(&self, group: &Group<'_>, window: Window, now_ns: Option<i64>, verdicts: &mut [Verdict]) {
        let Some(newest) = self.members.first() else { return };
        let anchor_ns = newest.time_ns.min(now_ns.unwrap_or(i64::MAX));
        let start_ns = window.start_before(anchor_ns, &newest.zone);
        for &at in &group.at {
            let (Some(member), Some(verdict)) = (self.members.get(at), verdicts.get_mut(at)) else { continue };
            let time_ns = if now_ns.is_some() { member.time_ns } else { member.window_ns() };
            match time_ns >= start_ns {
                true => verdict.keep.push(Reason::Within { window }),
                false => verdict.pass.push(Reason::OutsideWindow { window, start_ns }),
            }
        }
    }

    /// The slots of one source.
    fn slots(&self, group: &Group<'_>, policy: &Policy, source: &str, verdicts: &mut [Verdict]) {
        let sources = || vec![source.to_owned()];
        let mut good = Vec::new();
        for &at in &group.at {
            let (Some(member), Some(verdict)) = (self.members.get(at), verdicts.get_mut(at)) else { continue };
            match member.outcome(source) {
                outcome if outcome.fills_slots() => good.push((at, *member)),
                outcome => add(&mut verdict.pass, Reason::NotGood { outcome, sources: sources() }, source),
            }
        }
        // What is held keeps all of it anyway; slots would only be noise.
        if self.is_held(source) {
            return;
        }
        for rule in Rule::ALL.into_iter().filter(|rule| policy.count(*rule) > 0) {
            let of = policy.count(rule);
            let mut filled: HashMap<SlotKey, SnapshotId> = HashMap::new();
            for &(at, member) in &good {
                let Some(verdict) = verdicts.get_mut(at) else { continue };
                let slot = Slot::of(rule, member);
                let count = u32::try_from(filled.len()).unwrap_or(u32::MAX);
                if let Some(&by) = filled.get(&slot.key) {
                    add(&mut verdict.pass, Reason::SlotTaken { rule, slot, by, sources: sources() }, source);
                } else if count < of {
                    filled.insert(slot.key, member.id);
                    let number = count.saturating_add(1);
                    add(&mut verdict.keep, Reason::Slot { rule, slot, number, of, sources: sources() }, source);
                } else {
                    add(&mut verdict.pass, Reason::SlotsFull { rule, of, sources: sources() }, source);
                }
            }
        }
    }
}

/// Adds a reason about one source, to the same reason about other sources if there is one.
fn add(reasons: &mut Vec<Reason>, reason: Reason, source: &str) {
    let mut bare = reason.clone();
    bare.sources_mut().map(std::mem::take);
    for known in reasons.iter_mut() {
        let mut same = known.clone();
        same.sources_mut().map(std::mem::take);
        if same == bare {
            if let Some(sources) = known.sources_mut() {
                sources.push(source.to_owned());
            }
            return;
        }
    }
    reasons.push(reason);
}
