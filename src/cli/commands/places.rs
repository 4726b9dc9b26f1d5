//! Which source goes to which place: those of the configuration, of an environment, or the database of `--to --clean`.

use super::net;
use crate::cli::args::url::is_connection;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::opening::ReadingRepository;
use crate::cli::settings::{Settings, SourceKindSettings, SourceSettings, TargetSettings, nearest};
use crate::domain::snapshot::{Snapshot, SourceKind, SourceRecord};
use crate::ops::in_place::{Item, LeftOut, Place};
use crate::ops::restore::{self, Kinds, Selection, absolute};
use crate::source::files::rules::Rules;
use std::path::PathBuf;

/// Longest name of a source.
const SOURCE_NAME_MAX: usize = 128;

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
pub(super) fn items(
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
        // An environment names what it has; elsewhere a database without a place is a gap in the configuration.
        if of_source.is_empty() && (named || (environment.is_none() && record.kind.is_database())) {
            return Err(no_place(record, environment.map(|(name, _)| name)));
        }
        if of_source.is_empty() && path.is_none() {
            let text = match environment {
                Some((name, _)) => format!("{} has no place in [env.{name}] and is left out", record.name),
                None => format!("{} has no place of its own and is left out", record.name),
            };
            invocation.output.note("restore.no_place", &text);
        }
        let safety_source = safety_name(&record.name, environment.map(|(name, _)| name));
        items.extend(of_source.into_iter().map(|place| Item {
            source: record.name.clone(),
            safety_source: safety_source.clone(),
            place,
            empties: false,
        }));
    }
    if items.is_empty() {
        let message = match path.map(String::from_utf8_lossy) {
            Some(path) => {
                format!("No files source of snapshot {} belongs to a place that has {path}", snapshot.id.short())
            }
            None => format!("Snapshot {} holds nothing of what is to be restored", snapshot.id.short()),
        };
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
pub(super) fn database_item(
    invocation: &Invocation,
    snapshot: &Snapshot,
    selection: &Selection,
    to: &str,
) -> Result<Item, Failure> {
    use crate::ops::restore::database;
    let postgres = is_connection(to);
    let wanted = if postgres { SourceKind::Postgres } else { SourceKind::Sqlite };
    let record = database::choose_for_new(snapshot, selection, wanted)
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
    Ok(Item { source: record.name.clone(), safety_source, place, empties: false })
}
