//! `restore` over what is there: shown, asked about, done.

use super::in_place_errors::{failure_of, trouble_failure};
use super::net::Net;
use super::places::{database_item, environment, items};
use crate::cli::args::in_place::InPlaceArgs;
use crate::cli::args::restore::RestoreArgs;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::json::Kind;
use crate::cli::opening::{Chosen, ReadingRepository};
use crate::cli::settings::SourceKindSettings;
use crate::domain::snapshot::Snapshot;
use crate::domain::time_spec::format_local;
use crate::ops::in_place::{
    self, Check, Context, Direction, Error, Healed, Item, Mended, Outcome, Place, Purpose, Request,
};
use crate::ops::restore::Selection;
use serde_json::json;
use std::path::PathBuf;

/// What is to be done, before it is confirmed.
pub(super) struct Intent<'a> {
    pub(super) purpose: Purpose,
    pub(super) snapshot: &'a Snapshot,
    pub(super) items: Vec<Item>,
    pub(super) environment: Option<String>,
    pub(super) production: bool,
    /// The places are those of the application that the configuration knows.
    pub(super) application: bool,
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

/// Shows, asks, and does it.
pub(super) fn go(
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
        // It asks the application itself, which has its own places.
        check: intent.application && intent.environment.is_none() && context.surroundings.check().is_some(),
    };
    let existing = show(invocation, &request)?;
    if let Some(name) = intent.environment.as_ref().filter(|_| context.surroundings.check().is_some()) {
        let text = format!("  post_restore_check asks the application itself and is not run for environment {name}");
        invocation.output.note("restore.plan", &text);
    }
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
            Ok(true) if item.empties => "nothing was there before: what is there is removed",
            Ok(true) => "replaces what is there",
            Ok(false) => "nothing is there yet",
            // The prerequisites will say why.
            Err(_) => "cannot be looked at",
        };
        existing += usize::from(what != "nothing is there yet");
        let text = format!("  {} -> {} ({what})", item.source, item.place.shown());
        invocation.output.note("restore.place", &text);
        if !item.empties && request.environment.is_none() {
            for (source, path) in others_within(invocation, request, &item.place)? {
                let text = format!(
                    "{} of source {source} lies in it and becomes the copy that {} has of it, if any: restore {source}, too",
                    path.display(),
                    item.source
                );
                invocation.output.warning("restore.within", Some(&item.source), "", &text);
            }
        }
        let users = item.place.users();
        if !users.is_empty() && !request.service {
            let text = format!("    its sessions will be ended: {}", users.join(", "));
            invocation.output.note("restore.sessions", &text);
        }
    }
    let mut after = Vec::new();
    if request.service {
        after.push("the application is stopped first and started again");
    }
    match (request.safety, request.service) {
        _ if existing == 0 => {}
        (false, _) => after.push("what is there now is NOT saved first: there will be no way back"),
        (true, true) => {}
        (true, false) => after.push(
            "no [service] is stopped: what is written after the safety snapshot and before the swap will be lost",
        ),
    }
    if !after.is_empty() {
        invocation.output.note("restore.plan", &format!("  {}", after.join("; ")));
    }
    Ok(existing)
}

/// Sources that are not restored and whose places lie in a tree that is, with these places.
fn others_within<'i>(
    invocation: &'i Invocation,
    request: &Request<'_>,
    place: &Place,
) -> Result<Vec<(&'i str, PathBuf)>, Failure> {
    let Place::Tree { path: tree, .. } = place else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for source in &invocation.settings()?.sources {
        let paths: Vec<&PathBuf> = match &source.kind {
            SourceKindSettings::Sqlite { path } => vec![path],
            SourceKindSettings::Files(files) => files.paths.iter().collect(),
            _ => Vec::new(),
        };
        if request.items.iter().any(|item| item.source == source.name) {
            continue;
        }
        let full = paths.into_iter().map(|path| invocation.environment.directory.join(path));
        let full = full.map(|path| path.canonicalize().unwrap_or(path));
        found.extend(
            full.filter(|path| path.starts_with(tree) && path != tree).map(|path| (source.name.as_str(), path)),
        );
    }
    Ok(found)
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
            "removed": outcome.removed,
            "left": outcome.left,
        });
        invocation.output.json(Kind::Summary, &body);
    }
    for left in &outcome.left {
        invocation.output.warning("restore.left", None, "", &format!("Not removed: {left}"));
    }
    let places: Vec<&str> = outcome.places.iter().map(|(_, place)| place.as_str()).collect();
    if !invocation.global.json {
        if !places.is_empty() {
            let text = format!("restored {} to {}", outcome.snapshot.short(), places.join(", "));
            invocation.output.note("restore.summary", &text);
        }
        if !outcome.removed.is_empty() {
            invocation.output.note("restore.removed", &format!("removed {}", outcome.removed.join(", ")));
        }
        match outcome.safety {
            Some(safety) => {
                let tz = &invocation.environment.time_zone;
                let when = outcome.safety_ns.map_or_else(String::new, |ns| format!(" of {}", format_local(ns, tz)));
                let text = format!("`holdfast rollback` brings back what was there: snapshot {}{when}", safety.short());
                invocation.output.note("restore.way_back", &text);
            }
            None => invocation.output.note("restore.way_back", "what was there before was not saved"),
        }
    }
}

/// Brings what was cut short to an end, and says so.
pub(super) fn heal(
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
            Err(Error::RolledBack { source, stopped: None, .. }) => {
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
            Err(error) if !matches!(error, Error::RolledBack { stopped: None, .. }) => {
                failed = Some(failure_of(error));
            }
            result => rest.push(Healed { result, ..one }),
        }
    }
    match failed {
        Some(failure) => Err(failure),
        None => Ok(rest),
    }
}
