//! `restore` over what is there, and `rollback`.

use super::net::{self, Net};
use crate::cli::args::in_place::{InPlaceArgs, RollbackArgs};
use crate::cli::args::restore::RestoreArgs;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::json::Kind;
use crate::cli::opening::{self, Chosen, ReadingRepository};
use crate::cli::settings::{Settings, SourceKindSettings, SourceSettings, TargetSettings, nearest};
use crate::domain::act::ActKind;
use crate::domain::id::SnapshotId;
use crate::domain::snapshot::{PRE_RESTORE, Snapshot, SourceKind, SourceRecord};
use crate::domain::time_spec::format_local;
use crate::ops::in_place::{
    self, Check, Concern, Context, Direction, Ending, Entry, Error, Healed, Item, LeftOut, Mended, Outcome, Place,
    Plan, Purpose, Request, Step,
};
use crate::ops::restore::{self, Kinds, Selection, absolute};
use crate::repository::acts::{self, Story};
use crate::source::files::rules::Rules;
use serde_json::json;
use std::path::PathBuf;

/// Longest name of a source.
const SOURCE_NAME_MAX: usize = 128;

/// A restore that ended well and saved what was there before.
struct Past {
    finished_ns: i64,
    safety: SnapshotId,
    plan: Plan,
}

/// What is to be done, before it is confirmed.
struct Intent<'a> {
    purpose: Purpose,
    snapshot: &'a Snapshot,
    items: Vec<Item>,
    environment: Option<String>,
    production: bool,
    /// The places are those of the application that the configuration knows.
    application: bool,
}

/// Restores over what is there: into the places of the sources, of an environment, or the database of `--to --clean`.
///
/// # Errors
/// Exit codes as in `holdfast help exit-codes`.
pub(super) fn restore(
    invocation: &Invocation,
    args: &RestoreArgs,
    repository: &ReadingRepository,
    chosen: &Chosen,
    selection: &Selection,
) -> Result<ExitCode, Failure> {
    let net = Net::new(invocation, repository)?;
    let context = net.context();
    if !args.in_place.check && !invocation.global.dry_run {
        heal(invocation, &context, Direction::Forward, &args.in_place)?;
    }
    let settings = invocation.settings()?;
    let snapshot = &chosen.snapshot.snapshot;
    let environment = environment(settings, args.in_place.env.as_deref())?;
    let (items, application) = match &args.to {
        Some(to) => (vec![database_item(invocation, snapshot, selection, to)?], false),
        None => (items(invocation, repository, snapshot, selection, chosen.path.as_deref(), environment)?, true),
    };
    let intent = Intent {
        purpose: Purpose::Restore,
        snapshot,
        items,
        environment: args.in_place.env.clone(),
        production: environment.is_some_and(|(_, target)| target.production),
        application,
    };
    go(invocation, repository, &context, &args.in_place, &intent)
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
    let chosen = match &args.selector {
        Some(selector) => repository.choose(invocation, selector, &args.scope)?.snapshot.snapshot,
        None => default_rollback(invocation, &repository, &past, &args.in_place)?,
    };
    let selection = Selection { sources: args.scope.sources.clone(), ..Selection::default() };
    let of_act = past.iter().find(|past| past.safety == chosen.id).map(|past| &past.plan);
    let named = args.in_place.env.clone().or_else(|| of_act.and_then(|plan| plan.environment.clone()));
    let environment = environment(settings, named.as_deref())?;
    let items = match of_act {
        // Back to exactly the places that the restore had replaced.
        Some(plan) => items_of(&context, plan, &selection)?,
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

/// Finished restores of this repository with a snapshot of what was there before, newest first.
fn last_restores(context: &Context<'_>) -> Result<Vec<Past>, Failure> {
    let recorder = &context.recorder;
    let stories = acts::list(recorder.store, recorder.keys, Some(ActKind::Restore))?.stories;
    let of_story = |story: &Story| {
        let last = Entry::of(story.last())?;
        let finished_ns = story.last().time_ns;
        let good = last.ending == Some(Ending::Restored) || last.state == Step::Settle;
        Some(Past { finished_ns, safety: last.safety.filter(|_| good)?, plan: last.plan })
    };
    let of_host = stories.iter().filter(|story| story.first().host == recorder.owner.host);
    let mut found: Vec<Past> = of_host.filter_map(of_story).collect();
    found.sort_by_key(|past| std::cmp::Reverse(past.finished_ns));
    Ok(found)
}

fn default_rollback(
    invocation: &Invocation,
    repository: &ReadingRepository,
    past: &[Past],
    args: &InPlaceArgs,
) -> Result<Snapshot, Failure> {
    let snapshots = repository.snapshots()?;
    let tz = &invocation.environment.time_zone;
    let wanted = |plan: &Plan| args.env.is_none() || plan.environment == args.env;
    let undone = past.iter().filter(|past| wanted(&past.plan)).find_map(|past| {
        let found = snapshots.iter().find(|loaded| loaded.snapshot.id == past.safety)?;
        Some((past, &found.snapshot))
    });
    if let Some((past, snapshot)) = undone {
        let text = format!(
            "this undoes the restore of {} at {} by its safety snapshot {}",
            past.plan.snapshot.short(),
            format_local(past.finished_ns, tz),
            snapshot.id.short()
        );
        invocation.output.note("rollback.chosen", &text);
        return Ok(snapshot.clone());
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
    Ok(snapshot.clone())
}

/// The places of an earlier restore.
fn items_of(context: &Context<'_>, plan: &Plan, selection: &Selection) -> Result<Vec<Item>, Failure> {
    let wanted = plan
        .items
        .iter()
        .filter(|item| item.existed && (selection.sources.is_empty() || selection.sources.contains(&item.source)));
    let mut items = Vec::new();
    for planned in wanted {
        let mut place = context.surroundings.place(planned).map_err(|reason| {
            Failure::new(ExitCode::Refused, "place.unreachable", format!("{} cannot be reached", planned.place))
                .cause(reason)
        })?;
        if let Place::Tree { path, from, .. } = &mut place {
            // The safety snapshot holds the tree as it stood in its place.
            *from = path.to_string_lossy().into_owned();
        }
        let (source, safety_source) = (planned.safety_source.clone(), planned.safety_source.clone());
        items.push(Item { source, safety_source, place });
    }
    if items.is_empty() {
        let message = "The safety snapshot holds nothing of what is to be rolled back";
        return Err(Failure::new(ExitCode::SnapshotNotFound, "source.not_found", message));
    }
    Ok(items)
}

/// An environment of the configuration by name.
pub(super) fn environment<'s>(
    settings: &'s Settings,
    name: Option<&str>,
) -> Result<Option<(&'s str, &'s TargetSettings)>, Failure> {
    let Some(name) = name else { return Ok(None) };
    let environments = &settings.sections.environments;
    if let Some((name, target)) = environments.get_key_value(name) {
        return Ok(Some((name, target)));
    }
    let failure = Failure::usage("environment.unknown", format!("No environment is called '{name}'"));
    Err(match nearest(name, environments.keys().map(String::as_str)) {
        Some(near) => failure.hint(format!("did you mean '{near}'?")),
        None if environments.is_empty() => failure.hint("write an [env.NAME] table into the configuration"),
        None => {
            let names: Vec<&str> = environments.keys().map(String::as_str).collect();
            failure.hint(format!("environments are {}", names.join(", ")))
        }
    })
}

/// What goes where: every wanted source of the snapshot that has a place.
fn items(
    invocation: &Invocation,
    repository: &ReadingRepository,
    snapshot: &Snapshot,
    selection: &Selection,
    path: Option<&[u8]>,
    environment: Option<(&str, &TargetSettings)>,
) -> Result<Vec<Item>, Failure> {
    let available = || snapshot.sources.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(name) = selection.sources.iter().find(|name| snapshot.source(name).is_none()) {
        let message = format!("Snapshot {} has no source '{name}'", snapshot.id.short());
        return Err(Failure::new(ExitCode::SnapshotNotFound, "source.not_found", message)
            .hint(format!("it has {}", available())));
    }
    let mut items = Vec::new();
    for record in &snapshot.sources {
        let named = selection.sources.contains(&record.name);
        let wanted = (named || selection.sources.is_empty())
            && match selection.kinds {
                Kinds::All => true,
                Kinds::Databases => record.kind.is_database(),
                Kinds::Files => record.kind == SourceKind::Files,
            }
            && (path.is_none() || record.kind == SourceKind::Files);
        if !wanted {
            continue;
        }
        let of_source = places(invocation, repository, record, path, environment)?;
        if of_source.is_empty() && (named || record.kind.is_database()) {
            return Err(no_place(record, environment.map(|(name, _)| name)));
        }
        if of_source.is_empty() && path.is_none() {
            let text = format!("{} has no place of its own and is left out", record.name);
            invocation.output.note("restore.no_place", &text);
        }
        let safety_source = safety_name(&record.name, environment.map(|(name, _)| name));
        items.extend(of_source.into_iter().map(|place| Item {
            source: record.name.clone(),
            safety_source: safety_source.clone(),
            place,
        }));
    }
    if items.is_empty() {
        let message = format!("Snapshot {} holds nothing of what is to be restored", snapshot.id.short());
        return Err(Failure::new(ExitCode::SnapshotNotFound, "source.not_found", message)
            .hint(format!("it has {}", available())));
    }
    Ok(items)
}

fn no_place(record: &SourceRecord, environment: Option<&str>) -> Failure {
    let message = format!("It is not known where source '{}' belongs", record.name);
    let failure = Failure::usage("restore.no_place", message);
    match environment {
        Some(name) => failure.hint(format!("name its place under targets in [env.{name}]")),
        None => failure.hint("write it into the configuration as a [[source]], or use --target DIR or --to URL"),
    }
}

/// The name under which what stands in another environment is saved: it must not become the newest of the source itself.
pub(super) fn safety_name(source: &str, environment: Option<&str>) -> String {
    let Some(environment) = environment else { return source.to_owned() };
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    format!("{source}.{environment}").chars().map(plain).take(SOURCE_NAME_MAX).collect()
}

/// Where a source belongs: more than one place for files with several paths, none for what has no place.
fn places(
    invocation: &Invocation,
    repository: &ReadingRepository,
    record: &SourceRecord,
    path: Option<&[u8]>,
    environment: Option<(&str, &TargetSettings)>,
) -> Result<Vec<Place>, Failure> {
    let configured = invocation.settings()?.sources.iter().find(|source| source.name == record.name);
    let target = match environment {
        Some((_, target)) => match target.targets.get(&record.name) {
            Some(target) => Some(target.as_str()),
            None => return Ok(Vec::new()),
        },
        None => None,
    };
    match record.kind {
        SourceKind::Postgres => {
            let url = match (target, configured.map(|source| &source.kind)) {
                (Some(target), _) => target,
                (None, Some(SourceKindSettings::Postgres(postgres))) => postgres.url.as_str(),
                _ => return Ok(Vec::new()),
            };
            let (connection, search) = net::server(invocation, &record.name, url)?;
            Ok(vec![Place::Postgres { connection: Box::new(connection), search }])
        }
        SourceKind::Sqlite => match (target, configured.map(|source| &source.kind)) {
            (Some(target), _) => Ok(vec![Place::Sqlite { path: invocation.environment.directory.join(target) }]),
            (None, Some(SourceKindSettings::Sqlite { path })) => {
                Ok(vec![Place::Sqlite { path: invocation.environment.directory.join(path) }])
            }
            _ => Ok(Vec::new()),
        },
        SourceKind::Files => trees(invocation, repository, configured, record, path, target),
        SourceKind::Command | SourceKind::Stdin => Ok(Vec::new()),
    }
}

fn trees(
    invocation: &Invocation,
    repository: &ReadingRepository,
    configured: Option<&SourceSettings>,
    record: &SourceRecord,
    path: Option<&[u8]>,
    target: Option<&str>,
) -> Result<Vec<Place>, Failure> {
    let Some(SourceKindSettings::Files(files)) = configured.map(|source| &source.kind) else { return Ok(Vec::new()) };
    let text = |bytes: Vec<u8>| {
        String::from_utf8(bytes).map_err(|error| {
            let shown = String::from_utf8_lossy(error.as_bytes()).into_owned();
            Failure::usage("restore.path", format!("The path {shown} is not UTF-8 and cannot be restored in place"))
                .hint("restore it into a directory with --target DIR")
        })
    };
    let root = |path: &PathBuf| {
        let full = invocation.environment.directory.join(path);
        text(absolute(std::os::unix::ffi::OsStrExt::as_bytes(full.as_os_str())))
    };
    let roots = files.paths.iter().map(root).collect::<Result<Vec<String>, Failure>>()?;
    // The path in the snapshot, and the path of the source that it is at or below.
    let wanted: Vec<(String, String)> = match path {
        None => roots.iter().map(|root| (root.clone(), root.clone())).collect(),
        Some(path) => {
            let path = text(absolute(path))?;
            let below =
                |root: &&String| path == **root || path.starts_with(&format!("{}/", root.trim_end_matches('/')));
            roots.iter().find(below).map(|root| (path.clone(), root.clone())).into_iter().collect()
        }
    };
    if target.is_some() && roots.len() > 1 {
        let message = format!("Source '{}' has several paths, and an environment names one place", record.name);
        return Err(Failure::usage("restore.several_paths", message)
            .hint("restore it into a directory with --target DIR, or make each path a source"));
    }
    let rules = Rules::new(files.exclude.clone(), files.default_excludes).map_err(|error| {
        Failure::from_error(ExitCode::Usage, "source.rule", &error).hint("rules are in gitignore syntax")
    })?;
    let base = target.map(|target| invocation.environment.directory.join(target));
    let saved = restore::roots(&repository.reading, record, &invocation.cancel);
    let saved = saved.map_err(|error| super::restore::failure_of(error, std::path::Path::new("")))?;
    let single = roots.len() == 1;
    let place = |(from, root): (String, String)| {
        let rest = from.strip_prefix(root.as_str()).unwrap_or_default().trim_start_matches('/').to_owned();
        let from = saved_path(saved.as_deref(), &root, &rest, single);
        let known_as = PathBuf::from(root);
        let base = base.clone().unwrap_or_else(|| known_as.clone());
        // The tree itself is replaced, not a link that leads to it.
        let base = base.canonicalize().unwrap_or(base);
        let path = if rest.is_empty() { base.clone() } else { base.join(&rest) };
        let left_out = Some(LeftOut { rules: rules.clone(), root: base, known_as });
        Place::Tree { path, from, left_out }
    };
    Ok(wanted.into_iter().map(place).collect())
}

/// Where the snapshot has what belongs at `rest` below a path of a source. A path that was a link then is found where the
/// link led; the snapshot must know it, which the prerequisites make sure of.
fn saved_path(saved: Option<&[Vec<u8>]>, root: &str, rest: &str, single: bool) -> String {
    let real = match saved {
        Some([only]) if single => String::from_utf8_lossy(only).into_owned(),
        _ => root.to_owned(),
    };
    if rest.is_empty() { real } else { format!("{}/{rest}", real.trim_end_matches('/')) }
}

/// The one database of `--to URL --clean`.
fn database_item(
    invocation: &Invocation,
    snapshot: &Snapshot,
    selection: &Selection,
    to: &str,
) -> Result<Item, Failure> {
    use crate::ops::restore::database;
    let postgres = super::restore::is_connection(to);
    let wanted = if postgres { SourceKind::Postgres } else { SourceKind::Sqlite };
    let record = database::choose(snapshot, selection, wanted)
        .map_err(|error| super::restore::failure_of(error, std::path::Path::new(to)))?;
    let place = if postgres {
        let (connection, search) = net::server(invocation, &record.name, to)?;
        Place::Postgres { connection: Box::new(connection), search }
    } else {
        Place::Sqlite { path: invocation.environment.directory.join(to) }
    };
    let name = match &place {
        Place::Postgres { connection, .. } => format!("to-{}", connection.database()),
        _ => "to-file".to_owned(),
    };
    let safety_source = safety_name(&record.name, Some(&name));
    Ok(Item { source: record.name.clone(), safety_source, place })
}

/// Shows, asks, and does it.
fn go(
    invocation: &Invocation,
    repository: &ReadingRepository,
    context: &Context<'_>,
    args: &InPlaceArgs,
    intent: &Intent<'_>,
) -> Result<ExitCode, Failure> {
    let service = context.surroundings.service(intent.environment.as_deref());
    let request = Request {
        purpose: intent.purpose,
        snapshot: intent.snapshot,
        items: intent.items.clone(),
        environment: intent.environment.clone(),
        safety: !args.no_safety,
        service: intent.application && service.is_configured(),
        check: intent.application && context.surroundings.check().is_some(),
    };
    let existing = show(invocation, &request)?;
    if args.check || invocation.global.dry_run {
        return report_checks(invocation, repository, context, &request);
    }
    confirm(invocation, intent, existing)?;
    let outcome = in_place::run(context, &request).map_err(failure_of)?;
    print(invocation, &outcome);
    repository.conclude(invocation, ExitCode::Success)
}

/// Says what will be overwritten. Returns how many places hold something.
fn show(invocation: &Invocation, request: &Request<'_>) -> Result<usize, Failure> {
    let time = format_local(request.snapshot.time_ns, &invocation.environment.time_zone);
    let text = format!("snapshot {} of {time} will be restored:", request.snapshot.id.short());
    invocation.output.note("restore.plan", &text);
    let mut existing = 0;
    for item in &request.items {
        let what = match item.place.exists() {
            Ok(true) => "replaces what is there",
            Ok(false) => "nothing is there yet",
            // The prerequisites will say why.
            Err(_) => "cannot be looked at",
        };
        existing += usize::from(what != "nothing is there yet");
        let text = format!("  {} -> {} ({what})", item.source, item.place.shown());
        invocation.output.note("restore.place", &text);
    }
    let mut after = Vec::new();
    if !request.safety && existing > 0 {
        after.push("what is there now is NOT saved first".to_owned());
    }
    if request.service {
        after.push("the application is stopped and started again".to_owned());
    }
    if !after.is_empty() {
        invocation.output.note("restore.plan", &format!("  {}", after.join("; ")));
    }
    Ok(existing)
}

fn confirm(invocation: &Invocation, intent: &Intent<'_>, existing: usize) -> Result<(), Failure> {
    if intent.production {
        let name = intent.environment.as_deref().unwrap_or_default();
        if invocation.global.yes {
            return Ok(());
        }
        if !invocation.may_ask() {
            let message = format!("A confirmation is needed: {name} is production");
            return Err(Failure::new(ExitCode::NeedsConfirmation, "confirmation.needed", message)
                .hint(format!("give --yes --env {name}")));
        }
        let answer = invocation.ask(&format!("This is production. Type its name ({name}) to go on: "))?;
        if answer == name {
            return Ok(());
        }
        return Err(Failure::new(ExitCode::Failed, "confirmation.refused", "Not confirmed; nothing was changed"));
    }
    match existing {
        0 => Ok(()),
        1 => invocation.confirm("Replace what is there?"),
        n => invocation.confirm(&format!("Replace what is in these {n} places?")),
    }
}

fn report_checks(
    invocation: &Invocation,
    repository: &ReadingRepository,
    context: &Context<'_>,
    request: &Request<'_>,
) -> Result<ExitCode, Failure> {
    let checks = in_place::check(context, request).map_err(|trouble| trouble_failure(ExitCode::Failed, &trouble))?;
    if invocation.global.json {
        let good = checks.iter().all(|check| check.good);
        invocation.output.json(Kind::Summary, &json!({ "good": good, "checks": checks }));
    } else {
        for check in &checks {
            let mark = if check.good { "ok  " } else { "FAIL" };
            invocation.output.line(&format!("{mark} {}: {}", check.subject, check.finding));
        }
    }
    let failed: Vec<Check> = checks.into_iter().filter(|check| !check.good).collect();
    if failed.is_empty() {
        return repository.conclude(invocation, ExitCode::Success);
    }
    Err(failure_of(Error::Unready { failed }))
}

fn print(invocation: &Invocation, outcome: &Outcome) {
    if invocation.global.json {
        let places: Vec<_> =
            outcome.places.iter().map(|(source, place)| json!({ "source": source, "place": place })).collect();
        let body = json!({
            "act": outcome.act.hex(),
            "snapshot_id": outcome.snapshot.hex(),
            "safety_snapshot_id": outcome.safety.map(|id| id.hex()),
            "places": places,
            "left": outcome.left,
        });
        invocation.output.json(Kind::Summary, &body);
    }
    for left in &outcome.left {
        invocation.output.warning("restore.left", None, "", &format!("Not removed: {left}"));
    }
    let places: Vec<&str> = outcome.places.iter().map(|(_, place)| place.as_str()).collect();
    let text = format!("restored {} to {}", outcome.snapshot.short(), places.join(", "));
    if !invocation.global.json {
        invocation.output.note("restore.summary", &text);
        if let Some(safety) = outcome.safety {
            let text = format!("`holdfast rollback` brings back what was there, saved as {}", safety.short());
            invocation.output.note("restore.way_back", &text);
        }
    }
}

/// Brings what was cut short to an end, and says so.
fn heal(
    invocation: &Invocation,
    context: &Context<'_>,
    direction: Direction,
    args: &InPlaceArgs,
) -> Result<Vec<Healed>, Failure> {
    let healed = match args.break_others {
        true => in_place::heal_with_others(context, direction)?,
        false => in_place::heal(context, direction)?,
    };
    for one in &healed {
        let began = format!("restore {} was cut short at step {}", one.act.short(), one.step.as_str());
        match &one.result {
            Ok(mended) => {
                let text = match mended {
                    Mended::Restored(_) => format!("{began}; it is complete now, and verified"),
                    Mended::RolledBack => format!("{began}; what was there before is in its place again"),
                    Mended::Untouched => format!("{began}; nothing had been touched"),
                };
                invocation.output.note("restore.healed", &text);
            }
            Err(Error::RolledBack { source, .. }) => {
                let text = format!("{began}; it could not be completed and was rolled back: {source}");
                invocation.output.warning("restore.healed", None, "", &text);
            }
            Err(_) => {}
        }
    }
    let mut rest = Vec::new();
    let mut failed = None;
    for one in healed {
        match one.result {
            Err(error) if !matches!(error, Error::RolledBack { .. }) => failed = Some(failure_of(error)),
            result => rest.push(Healed { result, ..one }),
        }
    }
    match failed {
        Some(failure) => Err(failure),
        None => Ok(rest),
    }
}

fn trouble_failure(exit: ExitCode, trouble: &in_place::Trouble) -> Failure {
    let exit = if trouble.is_interruption() { ExitCode::Interrupted } else { exit };
    Failure::from_error(exit, "restore.failed", trouble)
}

/// What each error of a restore in place means for people.
pub(crate) fn failure_of(error: Error) -> Failure {
    let message = error.to_string();
    match error {
        Error::Repository(error) => Failure::from(error),
        Error::Busy { holder, alive, .. } => {
            let failure = Failure::new(ExitCode::Locked, "restore.busy", message).cause(holder);
            match alive {
                true => failure.hint("wait for its end; nothing was touched"),
                false => failure.hint("run `holdfast rollback` on that machine; --break takes over if it is gone"),
            }
        }
        Error::Guarded { holder, .. } => Failure::new(ExitCode::GuardClosed, "restore.guarded", message)
            .cause(holder)
            .hint("complete it or roll it back with `holdfast guard`; nothing was touched"),
        Error::Unready { failed } => {
            let exit = match failed.iter().map(|check| check.concern).max() {
                Some(Concern::Damage) => ExitCode::Damaged,
                Some(Concern::Reach) => ExitCode::NoSource,
                Some(Concern::Space) => ExitCode::NoSpace,
                _ => ExitCode::Refused,
            };
            let failure = Failure::new(exit, "restore.unready", message);
            let failure =
                failed.iter().fold(failure, |f, check| f.cause(format!("{}: {}", check.subject, check.finding)));
            let roles = failed.iter().any(|check| check.finding.contains("roles that the server does not have"));
            let failure = match roles {
                true => failure.hint(
                    "make the roles first: `holdfast restore SELECTOR --target DIR` writes them to DIR/NAME.globals.sql, for psql",
                ),
                false => failure,
            };
            failure.hint("nothing was touched; `--check` tests everything again")
        }
        Error::Untouched { source, .. } => untouched(message, *source),
        Error::RolledBack { source, act, left, .. } => {
            let exit = if source.is_interruption() { ExitCode::Interrupted } else { ExitCode::RolledBack };
            let failure = with_causes(Failure::new(exit, "restore.rolled_back", message), &source);
            let beside =
                |failure: Failure, left: String| failure.cause(format!("left beside, for the next run: {left}"));
            let failure = left.into_iter().fold(failure, beside);
            failure.hint(format!("`holdfast history restore` keeps the story (act {})", act.short()))
        }
        Error::NotRolledBack { source, back, places, safety, act, .. } => {
            let failure = Failure::new(ExitCode::NotRolledBack, "restore.not_rolled_back", message);
            let failure = with_causes(failure, &source);
            let failure = back.into_iter().fold(failure, Failure::cause);
            let failure = places.into_iter().fold(failure, Failure::cause);
            let failure = failure.hint(format!(
                "remove the cause and run `holdfast rollback`, which tries again (act {}); nothing has to be done by hand",
                act.short()
            ));
            match safety {
                Some(safety) => failure.hint(format!("what was there before is saved as snapshot {safety}")),
                None => failure,
            }
        }
        Error::TakenOver { .. } => {
            Failure::new(ExitCode::Locked, "restore.taken_over", message).hint("`holdfast status` shows how far it is")
        }
    }
}

fn untouched(message: String, trouble: in_place::Trouble) -> Failure {
    use crate::ops::in_place::Trouble;
    let hint = "nothing was touched";
    match trouble {
        Trouble::Safety(error) => {
            save_failure(error).hint(hint).hint("--no-safety restores without saving what is there")
        }
        Trouble::Repository(error) => Failure::from(error).hint(hint),
        other => {
            let exit = match &other {
                _ if other.is_interruption() => ExitCode::Interrupted,
                Trouble::Replace(crate::target::replace::Error::Client(_)) => ExitCode::NoSource,
                _ => ExitCode::Refused,
            };
            with_causes(Failure::new(exit, "restore.untouched", message), &other).hint(hint)
        }
    }
}

/// What is there now could not be saved.
pub(super) fn save_failure(error: in_place::SaveError) -> Failure {
    use crate::ops::in_place::SaveError;
    match error {
        SaveError::Backup(error) => super::backup::failure_of(error).cause("What is there now could not be saved"),
        SaveError::Incomplete { source_name, source } => {
            Failure::from(source).cause(format!("What is there now could not be saved: {source_name} failed"))
        }
    }
}

fn with_causes(failure: Failure, trouble: &in_place::Trouble) -> Failure {
    use crate::ops::in_place::Trouble;
    let mut failure = failure.caused_by(trouble);
    if let Trouble::Program { source, .. } = trouble {
        failure = source.output.lines().fold(failure, Failure::cause);
    }
    if let Trouble::Restore(crate::ops::restore::Error::Database(crate::target::database::TargetError::Failed {
        stderr,
        ..
    })) = trouble
    {
        failure = stderr.lines().filter(|line| !line.trim().is_empty()).fold(failure, Failure::cause);
    }
    failure
}
