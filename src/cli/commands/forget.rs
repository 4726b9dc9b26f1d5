//! `forget` and `remove`: by policy, or what is named.

use crate::cli::args::forget::{ForgetArgs, LeaveArgs, RemoveArgs};
use crate::cli::args::prune::PruneLimits;
use crate::cli::args::scope::ScopeArgs;
use crate::cli::commands::prune;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::json::{self, Kind};
use crate::cli::opening::{self, Listing};
use crate::domain::id::SnapshotId;
use crate::domain::retention::{Entry, Options, Outcome, Plan, Policies, Policy, Reason, Rules, SeriesPlan, plan};
use crate::domain::snapshot::Snapshot;
use crate::domain::system::Clock;
use crate::domain::time_spec::{format_local, timestamp_ns};
use crate::domain::units::format_count;
use crate::ops::forget::{self, ForgetError, ForgetMeans, Forgetter, Objection, Removal};
use crate::repository::acts;
use crate::repository::snapshots::LoadedSnapshot;
use crate::storage::WriteStore;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;

/// Forgets by policy, or what is named, and prunes if that is wanted.
pub(crate) fn run(invocation: &Invocation, args: &ForgetArgs) -> Result<ExitCode, Failure> {
    let limits = &args.limits;
    if !args.prune
        && (limits.full
            || limits.grace.is_some()
            || limits.max_repack_size.is_some()
            || limits.recompress_older.is_some())
    {
        let failure = Failure::usage(
            "forget.no_prune",
            "--full, --grace, --max-repack-size and --recompress-older belong to --prune",
        );
        return Err(failure.hint("add --prune; nothing was touched"));
    }
    if args.selectors.is_empty() {
        by_policy(invocation, args)
    } else {
        named(invocation, &args.selectors, &args.scope, &args.leave, args.prune.then_some(limits), |_| Ok(()))
    }
}

/// `forget --prune` by policy.
pub(crate) fn cleanup(invocation: &Invocation, args: &ForgetArgs) -> Result<ExitCode, Failure> {
    run(invocation, &ForgetArgs { prune: true, ..args.clone() })
}

/// Prunes after forgetting. A run that forgot less than it should must not delete either.
fn then_prune(invocation: &Invocation, listing: &Listing, limits: Option<&PruneLimits>) -> Result<(), Failure> {
    let Some(limits) = limits else { return Ok(()) };
    if invocation.global.dry_run {
        let message = "what this would free shows `holdfast prune --dry-run` after the snapshots were forgotten";
        invocation.output.note("prune.would", message);
        return Ok(());
    }
    let report = prune::prune(invocation, listing, limits)?;
    prune::tell(invocation, &report);
    Ok(())
}

/// Forgets what is named, and asks before.
pub(crate) fn remove(invocation: &Invocation, args: &RemoveArgs) -> Result<ExitCode, Failure> {
    named(invocation, &args.selectors, &args.scope, &args.leave, None, |count| {
        invocation.confirm(&format!("Remove {}?", snapshots(count)))
    })
}

/// So many snapshots, in words.
pub(super) fn snapshots(count: usize) -> String {
    let number = format_count(u64::try_from(count).unwrap_or(u64::MAX));
    format!("{number} {}", if count == 1 { "snapshot" } else { "snapshots" })
}

/// Snapshots that an open guard or restore needs to go back, and which.
fn held(listing: &Listing) -> Result<BTreeMap<SnapshotId, String>, Failure> {
    Ok(acts::list(&*listing.repository.store, &listing.repository.keys, None)?.held_snapshots())
}

/// The rules that flags or the configuration give.
fn rules(args: &ForgetArgs, configured: &Policies) -> Result<Rules, Failure> {
    if let Some(window) = args.older_than {
        return Ok(Rules::OlderThan { window, keep_tags: configured.pinning_tags() });
    }
    if let Some(mut policy) = args.keep.policy()? {
        // A pin is a promise; other numbers do not break it.
        policy.keep_tags.extend(configured.pinning_tags());
        return Ok(Rules::Uniform(policy));
    }
    let Some(preset) = args.preset else { return Ok(Rules::ByClass(configured.clone())) };
    let mut policies = crate::domain::retention::Preset::from(preset).policies();
    let pin = |policy: &mut Policy| policy.keep_tags = configured.pinning_tags();
    pin(&mut policies.default);
    policies.classes.values_mut().for_each(pin);
    Ok(Rules::ByClass(policies))
}

fn by_policy(invocation: &Invocation, args: &ForgetArgs) -> Result<ExitCode, Failure> {
    let rules = rules(args, &invocation.settings()?.sections.retention)?;
    let listing = opening::open_for_listing(invocation)?;
    let loaded = listing.snapshots()?;
    let in_scope = |snapshot: &Snapshot| {
        args.scope.host.as_ref().is_none_or(|host| *host == snapshot.system.host)
            && args.scope.sources.iter().all(|source| snapshot.source(source).is_some())
            && args.class.as_ref().is_none_or(|class| snapshot.class.as_ref() == Some(class))
    };
    let (candidates, unknown) = forget::candidates(loaded.iter().map(|l| &l.snapshot), in_scope);
    for zone in unknown {
        let message = format!("The time zone '{zone}' is not known here; UTC stands in for it");
        invocation.output.warning("zone.unknown", None, &zone, &message);
    }
    let options = Options { now_ns: timestamp_ns(invocation.clock.now()), trust_gaps: args.trust_times };
    let plan = plan(&candidates, &rules, &options);
    let by_id: HashMap<SnapshotId, &LoadedSnapshot> = loaded.iter().map(|l| (l.snapshot.id, l)).collect();
    tell_refusals(invocation, &plan);
    if !invocation.global.json {
        print(invocation, &plan, &by_id, args.explain);
    }
    let held = held(&listing)?;
    for entry in plan.entries().filter(|entry| !entry.keep) {
        if let Some(by) = held.get(&entry.id) {
            invocation.output.note("retention.act", &format!("{} stays: {by} is open", entry.id.short()));
        }
    }
    let removals: Vec<Removal<'_>> = plan
        .entries()
        .filter(|entry| !entry.keep && !held.contains_key(&entry.id))
        .filter_map(|entry| {
            let reason = format!("by policy: {}", reasons_text(entry));
            by_id.get(&entry.id).map(|snapshot| Removal { snapshot, reason })
        })
        .collect();
    if !removals.is_empty() && !invocation.global.dry_run && !invocation.global.yes && invocation.may_ask() {
        invocation.confirm(&format!("Forget {}?", snapshots(removals.len())))?;
    }
    let removed = removals.len();
    let whole = write(invocation, &listing, removals)?;
    if invocation.global.json {
        let series: Vec<Value> = plan.series.iter().map(|series| series_json(series, &by_id)).collect();
        let kept = plan.entries().filter(|entry| entry.keep).count();
        let dry_run = invocation.global.dry_run;
        let body = json!({ "series": series, "kept": kept, "removed": removed, "dry_run": dry_run });
        invocation.output.json(Kind::Result, &body);
    }
    let refused = plan.series.iter().filter(|series| series.refusal.is_some()).count();
    if refused > 0 && refused == plan.series.len() {
        let failure = Failure::new(ExitCode::Refused, "retention.refused", "Retention does not run for any series");
        let causes = plan.series.iter().filter_map(|s| s.refusal.as_ref().map(|r| format!("{}: {r}", s.series)));
        let failure = causes.fold(failure, Failure::cause).hint("nothing was touched");
        return Err(failure.hint("check the clock with `date`, and forget a snapshot of a wrong time by its id"));
    }
    if whole {
        then_prune(invocation, &listing, args.prune.then_some(&args.limits))?;
    }
    let exit = if plan.is_held_back() || !whole { ExitCode::Incomplete } else { ExitCode::Success };
    listing.conclude(invocation, exit)
}

/// Forgets what a plan or a user says. False when something stood in the way of some of it.
pub(super) fn write(invocation: &Invocation, listing: &Listing, removals: Vec<Removal<'_>>) -> Result<bool, Failure> {
    let (count, output) = (removals.len(), &invocation.output);
    if invocation.global.dry_run {
        output.note("forget.would", &format!("would forget {}; nothing was changed", snapshots(count)));
        return Ok(true);
    }
    let store: &dyn WriteStore = &*listing.repository.store;
    let means = ForgetMeans {
        store,
        keys: &listing.repository.keys,
        clock: &invocation.clock,
        cancel: &invocation.cancel,
        who: Forgetter {
            host: invocation.environment.host.clone(),
            user: invocation.environment.user.clone(),
            tool_version: Invocation::program(),
        },
    };
    let report = forget::run(&means, removals).map_err(|error| match error {
        ForgetError::Repository(error) => Failure::from(error),
        ForgetError::Cancelled(cancelled) => Failure::from(cancelled),
    })?;
    for id in &report.blocked {
        let message = format!(
            "Snapshot {} has a damaged tombstone, which hides nothing; run `holdfast undelete {}` and forget it again",
            id.short(),
            id.short()
        );
        output.warning("tombstone.damaged", None, &id.hex(), &message);
    }
    let forgotten = snapshots(report.forgotten.len());
    output.note("forget.done", &format!("forgot {forgotten}; `holdfast undelete` brings them back until a prune"));
    Ok(report.blocked.is_empty())
}

fn tell_refusals(invocation: &Invocation, plan: &Plan) {
    for series in &plan.series {
        let name = series.series.to_string();
        if let Some(refusal) = &series.refusal {
            let message = format!("Nothing of series {name} is forgotten: {refusal}");
            invocation.output.warning(&format!("retention.{}", refusal.code()), None, &name, &message);
        }
        for hold in &series.held {
            let message = format!(
                "Nothing of source {} in series {name} is forgotten: it {} in the newest snapshot {}",
                hold.source,
                if hold.outcome == Outcome::Failed { "failed" } else { "looked wrong" },
                hold.newest.short()
            );
            invocation.output.warning("retention.held", Some(&hold.source), &name, &message);
        }
    }
}

fn reasons_text(entry: &Entry) -> String {
    entry.reasons.iter().map(Reason::to_string).collect::<Vec<_>>().join("; ")
}

/// Times in the zone that the snapshot recorded, because its slots are of that zone.
fn local_time(entry: &Entry, by_id: &HashMap<SnapshotId, &LoadedSnapshot>) -> String {
    let zone = by_id.get(&entry.id).and_then(|l| TimeZone::get(&l.snapshot.time_zone).ok()).unwrap_or(TimeZone::UTC);
    format_local(entry.time_ns, &zone)
}

/// One line for each snapshot that goes; with `explain` for every one, and why.
fn print(invocation: &Invocation, plan: &Plan, by_id: &HashMap<SnapshotId, &LoadedSnapshot>, explain: bool) {
    let output = &invocation.output;
    for series in &plan.series {
        let kept = series.entries.iter().filter(|entry| entry.keep).count();
        let removed = series.entries.len() - kept;
        let summary = format!("{}: keep {kept}, forget {removed}", series.series);
        if explain {
            output.line(&summary);
        } else {
            output.note("forget.series", &summary);
        }
        for entry in series.entries.iter().filter(|entry| explain || !entry.keep) {
            let word = if entry.keep { "keep  " } else { "forget" };
            let class = entry.class.as_deref().unwrap_or("-");
            let line = format!("{word}  {}  {}  {class}", entry.id.short(), local_time(entry, by_id));
            match explain {
                true => output.line(&format!("  {line}  {}", reasons_text(entry))),
                false => output.line(&line),
            }
        }
    }
}

fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Good => "good",
        Outcome::Suspect => "suspect",
        Outcome::NewNormal => "new_normal",
        Outcome::Failed => "failed",
    }
}

fn reason_json(reason: &Reason) -> Value {
    let mut object = json!({ "code": reason.code(), "message": reason.to_string() });
    match reason {
        Reason::Slot { rule, slot, number, of, sources } => {
            object["rule"] = rule.as_str().into();
            object["slot"] = slot.to_string().into();
            object["number"] = (*number).into();
            object["of"] = (*of).into();
            object["sources"] = sources.clone().into();
        }
        Reason::SlotTaken { rule, slot, by, sources } => {
            object["rule"] = rule.as_str().into();
            object["slot"] = slot.to_string().into();
            object["by"] = by.hex().into();
            object["sources"] = sources.clone().into();
        }
        Reason::SlotsFull { rule, of, sources } => {
            object["rule"] = rule.as_str().into();
            object["of"] = (*of).into();
            object["sources"] = sources.clone().into();
        }
        Reason::NewestGood { sources } | Reason::GoodBefore { sources } | Reason::NotGood { sources, .. } => {
            object["sources"] = sources.clone().into();
        }
        Reason::Held { source } => object["sources"] = vec![source.clone()].into(),
        Reason::Pinned { tag } => object["tag"] = tag.clone().into(),
        _ => {}
    }
    object
}

fn series_json(series: &SeriesPlan, by_id: &HashMap<SnapshotId, &LoadedSnapshot>) -> Value {
    let snapshot = |entry: &Entry| {
        json!({
            "id": entry.id.hex(),
            "time": json::time(entry.time_ns),
            "local_time": local_time(entry, by_id),
            "class": entry.class,
            "keep": entry.keep,
            "reasons": entry.reasons.iter().map(reason_json).collect::<Vec<_>>(),
        })
    };
    let held = series.held.iter().map(
        |hold| json!({ "source": hold.source, "newest": hold.newest.hex(), "outcome": outcome_word(hold.outcome) }),
    );
    let refusal = series.refusal.as_ref().map(|refusal| {
        let snapshot = refusal.snapshot().map(|id| id.hex());
        json!({ "code": refusal.code(), "message": refusal.to_string(), "snapshot": snapshot })
    });
    json!({
        "host": series.series.host,
        "sources": series.series.sources,
        "refusal": refusal,
        "held": held.collect::<Vec<_>>(),
        "snapshots": series.entries.iter().map(snapshot).collect::<Vec<_>>(),
    })
}

fn named(
    invocation: &Invocation,
    selectors: &[OsString],
    scope: &ScopeArgs,
    leave: &LeaveArgs,
    limits: Option<&PruneLimits>,
    confirm: impl FnOnce(usize) -> Result<(), Failure>,
) -> Result<ExitCode, Failure> {
    let policies = &invocation.settings()?.sections.retention;
    let listing = opening::open_for_listing(invocation)?;
    let mut chosen = Vec::new();
    let mut ids: BTreeSet<SnapshotId> = BTreeSet::new();
    for selector in selectors {
        let found = listing.choose(invocation, selector, scope)?;
        if found.path.is_some() {
            let message = format!("'{}' names a path, and only whole snapshots are forgotten", selector.display());
            return Err(Failure::usage("selector.path", message));
        }
        if ids.insert(found.snapshot.snapshot.id) {
            chosen.push(found.snapshot);
        }
    }
    let loaded = listing.snapshots()?;
    let (candidates, _) = forget::candidates(loaded.iter().map(|l| &l.snapshot), |_| true);
    object(forget::objections(&candidates, &ids, policies), leave)?;
    let held = held(&listing)?;
    if let Some((id, by)) = ids.iter().find_map(|id| Some((id, held.get(id)?))) {
        let message = format!("Snapshot {} is the way back of something that is open: {by}", id.short());
        return Err(Failure::new(ExitCode::Refused, "forget.held", message)
            .hint("bring it to its end first: `holdfast guard status`, `holdfast status`; nothing was touched"));
    }
    if !invocation.global.dry_run {
        confirm(chosen.len())?;
    }
    let removals = chosen.iter().map(|snapshot| Removal { snapshot, reason: "named".to_owned() }).collect();
    let whole = write(invocation, &listing, removals)?;
    if invocation.global.json {
        let ids: Vec<String> = ids.iter().map(SnapshotId::hex).collect();
        let body = json!({ "forgotten": ids, "dry_run": invocation.global.dry_run });
        invocation.output.json(Kind::Result, &body);
    }
    if whole {
        then_prune(invocation, &listing, limits)?;
    }
    listing.conclude(invocation, if whole { ExitCode::Success } else { ExitCode::Incomplete })
}

/// Refuses what the user gave no leave for.
fn object(objections: Vec<Objection>, leave: &LeaveArgs) -> Result<(), Failure> {
    for objection in objections {
        match objection {
            Objection::Pinned { snapshot, tag } if !leave.even_pinned => {
                let message = format!("Snapshot {} is pinned by its tag {tag}", snapshot.short());
                let failure = Failure::new(ExitCode::Refused, "snapshot.pinned", message);
                return Err(failure.hint("add --even-pinned to forget it all the same; nothing was touched"));
            }
            Objection::LastGood { series, source, snapshot } if !leave.even_last => {
                let message = format!(
                    "Without snapshot {} nothing good of source {source} would be left in series {series}",
                    snapshot.short()
                );
                let failure = Failure::new(ExitCode::Refused, "snapshot.last_good", message);
                return Err(failure.hint("add --even-last to forget it all the same; nothing was touched"));
            }
            _ => {}
        }
    }
    Ok(())
}
