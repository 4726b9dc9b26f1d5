//! What a guard covers, and in which places it is.

use super::net;
use crate::cli::args::guard::CoverArgs;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::settings::{Settings, SourceKindSettings, SourceSettings, TargetSettings};
use crate::domain::snapshot::SourceKind;
use crate::ops::guard::{Covered, Plan, Purpose};
use std::path::Path;

/// What a guard of this run covers.
pub(super) fn plan(
    invocation: &Invocation,
    name: String,
    description: String,
    purpose: Purpose,
    cover: &CoverArgs,
) -> Result<Plan, Failure> {
    let settings = invocation.settings()?;
    let environment = super::places::environment(settings, cover.env.as_deref())?;
    let mut all = Vec::new();
    for source in wanted(settings, cover, environment)? {
        all.extend(covered(invocation, source, environment)?);
    }
    Ok(Plan { name, description, purpose, environment: cover.env.clone(), covered: all })
}

/// The sources that are covered: those that are named, else those of `[guard]`, else every database.
fn wanted<'s>(
    settings: &'s Settings,
    cover: &CoverArgs,
    environment: Option<(&str, &TargetSettings)>,
) -> Result<Vec<&'s SourceSettings>, Failure> {
    let named = if cover.sources.is_empty() {
        settings.sections.guard.sources.clone().unwrap_or_default()
    } else {
        cover.sources.clone()
    };
    let mut names: Vec<&str> = named.iter().map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    if !names.is_empty() {
        return names.into_iter().map(|name| settings.source(name)).collect();
    }
    let in_environment =
        |source: &&SourceSettings| environment.is_none_or(|(_, target)| target.targets.contains_key(&source.name));
    let databases = settings.sources.iter().filter(|source| source.source_kind().is_database());
    let found: Vec<&SourceSettings> = databases.filter(in_environment).collect();
    if found.is_empty() {
        let message = "There is nothing to guard: no database is configured";
        return Err(Failure::usage("guard.no_source", message)
            .hint("write [[source]] tables of kind postgres or sqlite, or name a source with --source"));
    }
    Ok(found)
}

/// The places of one source.
fn covered(
    invocation: &Invocation,
    source: &SourceSettings,
    environment: Option<(&str, &TargetSettings)>,
) -> Result<Vec<Covered>, Failure> {
    let name = &source.name;
    let target = match environment {
        None => None,
        Some((environment, target)) => Some(target.targets.get(name).map(String::as_str).ok_or_else(|| {
            let message = format!("It is not known where source '{name}' is in environment '{environment}'");
            Failure::usage("guard.no_place", message)
                .hint(format!("name its place under targets in [env.{environment}]"))
        })?),
    };
    let absolute = |path: &Path| {
        let path = invocation.environment.directory.join(path);
        // The database or tree itself is replaced, not a link that leads to it.
        path.canonicalize().unwrap_or(path).to_string_lossy().into_owned()
    };
    let saved_as = super::places::safety_name(name, environment.map(|(name, _)| name));
    let of = |place: String, reach: String| {
        let (source, saved_as) = (name.clone(), saved_as.clone());
        Covered { source, saved_as, kind: SourceKind::Files, place, reach }
    };
    match (&source.kind, target) {
        (SourceKindSettings::Postgres(postgres), target) => {
            let url = target.unwrap_or(&postgres.url);
            let (connection, _) = net::server(invocation, name, url)?;
            let place = of(connection.without_password(), connection.client_conninfo(false));
            Ok(vec![Covered { kind: SourceKind::Postgres, ..place }])
        }
        (SourceKindSettings::Sqlite { path }, target) => {
            let path = absolute(target.map_or(path.as_path(), Path::new));
            Ok(vec![Covered { kind: SourceKind::Sqlite, ..of(path.clone(), path) }])
        }
        (SourceKindSettings::Files(_), Some(target)) => {
            let path = absolute(Path::new(target));
            Ok(vec![of(path.clone(), path)])
        }
        (SourceKindSettings::Files(files), None) => {
            Ok(files.paths.iter().map(|path| of(absolute(path), absolute(path))).collect())
        }
        (SourceKindSettings::Command { .. }, _) => {
            let message = format!("Source '{name}' is the output of a program and cannot be put back by a guard");
            Err(Failure::usage("guard.no_way_back", message).hint("leave it out of --source and of [guard] sources"))
        }
    }
}

/// The environment, if it is production.
pub(super) fn production<'s>(
    invocation: &'s Invocation,
    cover: &CoverArgs,
) -> Result<Option<(&'s str, &'s TargetSettings)>, Failure> {
    let environment = super::places::environment(invocation.settings()?, cover.env.as_deref())?;
    Ok(environment.filter(|(_, target)| target.production))
}

pub(super) fn confirm_production(invocation: &Invocation, cover: &CoverArgs) -> Result<(), Failure> {
    match production(invocation, cover)? {
        Some((name, _)) => confirm_name(invocation, name, " --env "),
        None => Ok(()),
    }
}

/// Asks for the name of production.
pub(super) fn confirm_name(invocation: &Invocation, name: &str, flag: &str) -> Result<(), Failure> {
    if invocation.global.yes {
        return Ok(());
    }
    if !invocation.may_ask() {
        let message = format!("A confirmation is needed: {name} is production");
        let environment = if flag.is_empty() { String::new() } else { format!("{flag}{name}") };
        return Err(Failure::new(ExitCode::NeedsConfirmation, "confirmation.needed", message)
            .hint(format!("give --yes{environment}")));
    }
    let answer = invocation.ask(&format!("This is production. Type its name ({name}) to go on: "))?;
    match answer == name {
        true => Ok(()),
        false => Err(Failure::new(ExitCode::Failed, "confirmation.refused", "Not confirmed; nothing was changed")),
    }
}
