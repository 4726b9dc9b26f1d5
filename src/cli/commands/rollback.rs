//! `rollback`: back to what was there before a restore.

use super::in_place::{Intent, go, heal};
use super::net::Net;
use super::places::{environment, items};
use crate::cli::args::in_place::RollbackArgs;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::opening::{self, ReadingRepository};
use crate::domain::act::ActKind;
use crate::domain::id::SnapshotId;
use crate::domain::snapshot::{PRE_RESTORE, Snapshot};
use crate::domain::time_spec::format_local;
use crate::ops::in_place::{Context, Direction, Ending, Entry, Healed, Item, Mended, Place, Plan, Purpose, Step};
use crate::ops::restore::Selection;
use crate::repository::acts::{self, Story};

/// A restore that ended well.
struct Past {
    finished_ns: i64,
    /// What was there before, if it was saved.
    safety: Option<SnapshotId>,
    plan: Plan,
}

/// Goes back to the state before the last restore, or to a named snapshot.
///
/// # Errors
/// Exit codes as in `holdfast help exit-codes`.
pub(crate) fn rollback(invocation: &Invocation, args: &RollbackArgs) -> Result<ExitCode, Failure> {
    let repository = opening::open_for_reading(invocation)?;
    let net = Net::new(invocation, &repository)?;
    let context = net.context();
    if !args.in_place.check && !invocation.global.dry_run {
        let healed = heal(invocation, &context, Direction::Back, &args.in_place)?;
        // Who goes back after something was cut short means that, and not what was completed before it.
        let settled = |one: &Healed| matches!(one.result, Ok(Mended::Restored(_)));
        if args.selector.is_none() && !healed.is_empty() && !healed.iter().all(settled) {
            let text = "that was taken back; `holdfast rollback` once more undoes the last restore that was completed";
            invocation.output.note("rollback.healed", text);
            return repository.conclude(invocation, ExitCode::Success);
        }
    }
    let settings = invocation.settings()?;
    let past = last_restores(&context)?;
    let (chosen, of_act) = match &args.selector {
        Some(selector) => {
            let chosen = repository.choose(invocation, selector, &args.scope)?.snapshot.snapshot;
            let of_act = past.iter().find(|past| past.safety == Some(chosen.id));
            (chosen, of_act)
        }
        None => default_rollback(invocation, &repository, &past, args)?,
    };
    let selection = Selection { sources: args.scope.sources.clone(), ..Selection::default() };
    let of_act = of_act.map(|past| &past.plan);
    let named = args.in_place.env.clone().or_else(|| of_act.and_then(|plan| plan.environment.clone()));
    let environment = environment(settings, named.as_deref())?;
    let items = match of_act {
        // Back to exactly the places that the restore had replaced.
        Some(plan) => items_of(invocation, &context, plan, &selection, args.remove_new)?,
        None => items(invocation, &repository, &chosen, &selection, None, environment)?,
    };
    let intent = Intent {
        purpose: Purpose::Rollback,
        snapshot: &chosen,
        items,
        production: environment.is_some_and(|(_, target)| target.production),
        environment: named,
        application: of_act.is_none_or(|plan| plan.service || plan.check),
    };
    go(invocation, &repository, &context, &args.in_place, &intent)
}

/// Finished restores of this repository, newest first.
fn last_restores(context: &Context<'_>) -> Result<Vec<Past>, Failure> {
    let recorder = &context.recorder;
    let stories = acts::list(recorder.store, recorder.keys, Some(ActKind::Restore))?.stories;
    let of_story = |story: &Story| {
        let last = Entry::of(story.last())?;
        let finished_ns = story.last().time_ns;
        let good = last.ending == Some(Ending::Restored) || last.state == Step::Settle;
        good.then_some(Past { finished_ns, safety: last.safety, plan: last.plan })
    };
    let of_host = stories.iter().filter(|story| story.first().host == recorder.owner.host);
    let mut found: Vec<Past> = of_host.filter_map(of_story).collect();
    found.sort_by_key(|past| std::cmp::Reverse(past.finished_ns));
    Ok(found)
}

/// What is undone without a selector: the snapshot to go back to, and the restore that is undone. Where nothing was there
/// before that restore, the snapshot is the one that was restored, of which nothing is needed.
fn default_rollback<'p>(
    invocation: &Invocation,
    repository: &ReadingRepository,
    past: &'p [Past],
    args: &RollbackArgs,
) -> Result<(Snapshot, Option<&'p Past>), Failure> {
    let snapshots = repository.snapshots()?;
    let tz = &invocation.environment.time_zone;
    let env = &args.in_place.env;
    let mut wanted = past.iter().filter(|past| env.is_none() || past.plan.environment == *env);
    if let Some(past) = wanted.next() {
        let which = format!("the restore of {} at {}", past.plan.snapshot.short(), format_local(past.finished_ns, tz));
        let saved = past.safety.and_then(|id| snapshots.iter().find(|loaded| loaded.snapshot.id == id));
        let nothing_was_there = past.safety.is_none() && past.plan.items.iter().all(|item| !item.existed);
        if nothing_was_there && args.remove_new {
            let restored = snapshots.iter().find(|loaded| loaded.snapshot.id == past.plan.snapshot);
            if let Some(restored) = restored {
                invocation.output.note("rollback.chosen", &format!("this undoes {which}; nothing was there before it"));
                return Ok((restored.snapshot.clone(), Some(past)));
            }
        }
        let Some(saved) = saved else { return Err(no_way_back(past, &which, wanted.find_map(|older| older.safety))) };
        let text = format!("this undoes {which} by its safety snapshot {}", saved.snapshot.id.short());
        invocation.output.note("rollback.chosen", &text);
        return Ok((saved.snapshot.clone(), Some(past)));
    }
    let host = &invocation.environment.host;
    let before = |snapshot: &&Snapshot| {
        snapshot.system.host == *host && matches!(snapshot.class.as_deref(), Some(PRE_RESTORE | "pre-deploy"))
    };
    let newest = snapshots.iter().map(|loaded| &loaded.snapshot).filter(before).max_by_key(|s| (s.time_ns, s.id));
    let Some(snapshot) = newest else {
        let message = "There is nothing to roll back to: no restore was made with a safety snapshot, and there is no \
                       snapshot of class pre-restore or pre-deploy of this host";
        return Err(Failure::new(ExitCode::SnapshotNotFound, "rollback.nothing", message)
            .hint("name a snapshot: `holdfast snapshots` lists them"));
    };
    let class = snapshot.class.as_deref().unwrap_or_default();
    let time = format_local(snapshot.time_ns, tz);
    let text = format!("this goes back to {} of {time}, class {class}", snapshot.id.short());
    invocation.output.note("rollback.chosen", &text);
    Ok((snapshot.clone(), None))
}

/// Why the last restore cannot be undone. The one before it is not undone in its stead: that would be another state than
/// the one that is asked for.
fn no_way_back(past: &Past, which: &str, older: Option<SnapshotId>) -> Failure {
    let of = |message: String| Failure::new(ExitCode::SnapshotNotFound, "rollback.no_way_back", message);
    let there: Vec<&str> = past.plan.items.iter().filter(|item| item.existed).map(|item| item.place.as_str()).collect();
    let failure = match past.safety {
        Some(id) => of(format!("The last restore cannot be undone: its safety snapshot {} is gone", id.short()))
            .hint(format!("`holdfast undelete {}` may bring it back", id.short())),
        None if there.is_empty() => {
            let places: Vec<&str> = past.plan.items.iter().map(|item| item.place.as_str()).collect();
            of("There is nothing to go back to: nothing was there before the last restore".to_owned())
                .hint(format!("`holdfast rollback --remove-new` saves and removes what it made: {}", places.join(", ")))
        }
        None => of("The last restore cannot be undone: what was there before it was not saved".to_owned()),
    };
    let failure = failure.cause(format!("it was {which}")).hint("name a snapshot: `holdfast snapshots` lists them");
    match older {
        Some(older) => failure.hint(format!("`holdfast rollback {}` undoes the one before it, too", older.short())),
        None => failure,
    }
}

/// The places of an earlier restore.
fn items_of(
    invocation: &Invocation,
    context: &Context<'_>,
    plan: &Plan,
    selection: &Selection,
    remove_new: bool,
) -> Result<Vec<Item>, Failure> {
    let wanted =
        plan.items.iter().filter(|item| selection.sources.is_empty() || selection.sources.contains(&item.source));
    let (mut items, mut gone) = (Vec::new(), false);
    for planned in wanted {
        // What an earlier rollback removed was there before it, and comes back.
        if !planned.existed && !remove_new {
            let text = format!(
                "{} did not exist before that restore and stays as it is; with --remove-new it is saved and removed",
                planned.place
            );
            invocation.output.warning("rollback.stays", Some(&planned.source), "", &text);
            continue;
        }
        let mut place = context.surroundings.place(planned).map_err(|reason| {
            Failure::new(ExitCode::Refused, "place.unreachable", format!("{} cannot be reached", planned.place))
                .cause(reason)
        })?;
        if let Place::Tree { path, from, .. } = &mut place {
            // The safety snapshot holds the tree as it stood in its place.
            *from = path.to_string_lossy().into_owned();
        }
        if !planned.existed && !place.exists().map_err(Failure::from)? {
            let text = format!("{} did not exist before that restore, and does not now", planned.place);
            invocation.output.note("rollback.gone", &text);
            gone = true;
            continue;
        }
        let (source, safety_source) = (planned.safety_source.clone(), planned.safety_source.clone());
        items.push(Item { source, safety_source, place, empties: !planned.existed });
    }
    if items.is_empty() {
        let message = match gone {
            true => "There is nothing to roll back: what the last restore made is gone already",
            false => "The safety snapshot holds nothing of what is to be rolled back",
        };
        return Err(Failure::new(ExitCode::SnapshotNotFound, "source.not_found", message));
    }
    Ok(items)
}
