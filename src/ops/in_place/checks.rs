//! Step 1: everything that can be known before anything is touched. `--check` runs the same.

use super::record::{Plan, Purpose, Standing, Step};
use super::{Context, Error, Item, Place, Request, Trouble, heal};
use crate::catalog::Catalog;
use crate::domain::act::{ActKind, Whereabouts};
use crate::domain::entry::EntryKind;
use crate::domain::id::ActId;
use crate::domain::snapshot::{SourceKind, SourceRecord, StreamRole};
use crate::domain::time_spec::ns_timestamp;
use crate::domain::units::{format_counted, format_size};
use crate::ops::proof::{Expected, Leave};
use crate::ops::restore::{self, staged};
use crate::ops::verify::{self, VerifyError, VerifyOptions, VerifyScope};
use crate::repository::act_claims;
use crate::repository::acts::{self, Story};
use crate::repository::reading::CopyError;
use crate::source::SourceError;
use crate::source::postgres::client::{self, ClientSearch};
use crate::source::postgres::connect::Connection;
use crate::target::replace;
use crate::target::replace::postgres::{Needs, PostgresReplacement};
use crate::target::replace::sqlite::SqliteReplacement;
use crate::target::replace::tree::TreeReplacement;
use serde::Serialize;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Space that must be left beyond what is restored, in percent of it.
const SPACE_MARGIN_PERCENT: u64 = 5;

/// What kind of thing is wrong, for the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Concern {
    /// Something that is needed is missing or forbidden.
    Need,
    /// There is not enough space.
    Space,
    /// A server or program cannot be reached.
    Reach,
    /// The snapshot's data is damaged.
    Damage,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What: a place, the snapshot, a program.
    pub subject: String,
    /// What was found, one sentence.
    pub finding: String,
    /// It is as it must be.
    pub good: bool,
    /// What it is about.
    pub concern: Concern,
}

impl Check {
    fn new(concern: Concern, subject: impl Into<String>, verdict: Result<String, String>) -> Self {
        let good = verdict.is_ok();
        let (Ok(finding) | Err(finding)) = verdict;
        Self { subject: subject.into(), finding, good, concern }
    }
}

/// Looks at everything that a restore in place needs and touches nothing.
///
/// # Errors
/// When the repository cannot be read, or the run was interrupted. What is not as it must be is no error.
pub fn check(context: &Context<'_>, request: &Request<'_>) -> Result<Vec<Check>, Trouble> {
    let mut checks = Vec::new();
    let mut sources = Vec::new();
    let (emptied, filled): (Vec<&Item>, Vec<&Item>) = request.items.iter().partition(|item| item.empties);
    for item in filled {
        match source_of(request, item) {
            Ok(source) => sources.push((item, source)),
            Err(check) => checks.push(check),
        }
    }
    if emptied.len() < request.items.len() {
        checks.push(data(context, request, &sources)?);
    }
    for item in emptied {
        removable(context, request, &item.place, &mut checks);
    }
    for (item, source) in &sources {
        context.cancel.check()?;
        match &item.place {
            Place::Postgres { connection, search } => postgres(context, source, connection, search, &mut checks)?,
            Place::Sqlite { path } if comes_with_a_tree(request, path) => {}
            Place::Sqlite { path } => sqlite(path, request.service, &mut checks),
            Place::Tree { path, from, .. } => tree(context, request, source, path, from, &mut checks)?,
        }
    }
    space(&sources, &mut checks);
    if request.service {
        let service = context.surroundings.service(request.environment.as_deref());
        for program in [&service.stop, &service.start].into_iter().flatten() {
            checks.push(program_exists(context, &program.words));
        }
    }
    if request.check
        && let Some(program) = context.surroundings.check()
    {
        checks.push(program_exists(context, &program.words));
    }
    Ok(checks)
}

/// True when the folder of a place is not there and comes with the tree around it.
fn comes_with_a_tree(request: &Request<'_>, inner: &Path) -> bool {
    let around =
        |item: &Item| matches!(&item.place, Place::Tree { path, .. } if inner != path && inner.starts_with(path));
    inner.parent().is_some_and(|folder| !folder.exists()) && request.items.iter().any(around)
}

fn source_of<'r>(request: &Request<'r>, item: &Item) -> Result<&'r SourceRecord, Check> {
    let subject = format!("Snapshot {}", request.snapshot.id.short());
    let bad = |text: String| Check::new(Concern::Need, subject.clone(), Err(text));
    let wanted = match &item.place {
        Place::Postgres { .. } => SourceKind::Postgres,
        Place::Sqlite { .. } => SourceKind::Sqlite,
        Place::Tree { .. } => SourceKind::Files,
    };
    let Some(source) = request.snapshot.source(&item.source) else {
        return Err(bad(format!("it has no source '{}'", item.source)));
    };
    match &source.failure {
        Some(reason) => Err(bad(format!("source '{}' failed when it was made: {reason}", item.source))),
        None if wanted == SourceKind::Postgres && restore::database::is_script(source) => Ok(source),
        None if source.kind != wanted => Err(bad(format!(
            "source '{}' is of kind {}, and {} takes {}",
            item.source,
            source.kind.as_str(),
            item.place.shown(),
            wanted.as_str()
        ))),
        None => Ok(source),
    }
}

/// Decodes everything that will be restored and compares it with its proof.
fn data(context: &Context<'_>, request: &Request<'_>, sources: &[(&Item, &SourceRecord)]) -> Result<Check, Trouble> {
    let subject = format!("Snapshot {}", request.snapshot.id.short());
    let mut options = VerifyOptions::new(VerifyScope::Snapshots(vec![request.snapshot.id]));
    options.sources = sources.iter().map(|(item, _)| item.source.clone()).collect();
    if options.sources.is_empty() {
        return Ok(Check::new(Concern::Need, subject, Err("nothing of it can be restored".to_owned())));
    }
    let clock = context.recorder.clock;
    let report = verify::run(context.reading, &Catalog::none(), &options, clock, context.observer, context.cancel);
    let report = report.map_err(|error| match error {
        VerifyError::Repository(error) => Trouble::Repository(error),
        VerifyError::Cancelled(_) => Trouble::Interrupted,
    })?;
    // Damage elsewhere in the repository does not stop the restore of what is whole.
    let verdict = match report.affected.first() {
        None => Ok(format!(
            "its data is whole: {}, {}, {}",
            format_counted(report.streams_proved, "stream", "streams"),
            format_counted(report.files_proved, "file", "files"),
            format_size(report.bytes_proved)
        )),
        Some(affected) => Err(format!("the data of source '{}' is damaged", affected.source)),
    };
    Ok(Check::new(Concern::Damage, subject, verdict))
}

fn postgres(
    context: &Context<'_>,
    source: &SourceRecord,
    connection: &Connection,
    search: &ClientSearch,
    checks: &mut Vec<Check>,
) -> Result<(), Trouble> {
    let subject = connection.without_password();
    let contents = contents(context, source)?;
    let facts = contents.facts();
    let needs = Needs {
        // An archive that was imported says it in its header alone.
        server_version: source.server_version.as_deref().or(Some(contents.versions().0)),
        roles: facts.owners.union(&facts.grantees).cloned().collect(),
        extensions: facts.extensions.clone(),
        tablespaces: facts.tablespaces.iter().cloned().collect(),
    };
    let found = match PostgresReplacement::examine(connection, &needs) {
        Ok(found) => found,
        Err(error) => {
            let reason = match &error {
                replace::Error::Client(SourceError::Unreachable { reason, .. }) => reason.clone(),
                other => other.to_string(),
            };
            checks.push(Check::new(Concern::Reach, subject, Err(format!("cannot be reached: {reason}"))));
            return Ok(());
        }
    };
    checks.push(Check::new(Concern::Reach, subject.clone(), Ok(format!("PostgreSQL {} answers", found.version))));
    let tools = client::find(context.processes, search, Some(found.major));
    let tools = tools.map(|tools| format!("restored by {}", tools.version)).map_err(|error| error.to_string());
    checks.push(Check::new(Concern::Reach, subject.clone(), tools));
    for problem in found.problems {
        checks.push(Check::new(Concern::Need, subject.clone(), Err(problem)));
    }
    if !found.users.is_empty() {
        let text = format!("in use by {}; these sessions will be ended before the swap", found.users.join(", "));
        checks.push(Check::new(Concern::Need, subject, Ok(text)));
    }
    Ok(())
}

/// What is to be removed without anything in its stead.
fn removable(context: &Context<'_>, request: &Request<'_>, place: &Place, checks: &mut Vec<Check>) {
    match place {
        Place::Postgres { connection, .. } => {
            let subject = connection.without_password();
            match PostgresReplacement::examine(connection, &Needs::default()) {
                Ok(found) => {
                    let problems = found.problems.into_iter();
                    checks.extend(problems.map(|problem| Check::new(Concern::Need, subject.clone(), Err(problem))));
                    checks.push(Check::new(Concern::Reach, subject, Ok("will be removed".to_owned())));
                }
                Err(error) => checks.push(Check::new(Concern::Reach, subject, Err(error.to_string()))),
            }
        }
        Place::Sqlite { path } => sqlite(path, request.service, checks),
        Place::Tree { path, .. } => tree_place(context, path, checks),
    }
}

/// The table of contents of the dump; empty for a dump that cannot be read.
pub(super) fn contents(context: &Context<'_>, source: &SourceRecord) -> Result<Expected, Trouble> {
    let mut expected = Expected::new(source, context.recorder.random, Leave::default());
    let Some(stream) = source.streams.iter().find(|s| s.role == StreamRole::Data) else { return Ok(expected) };
    let copied = context.reading.copy_stream(stream, |bytes| {
        expected.feed(bytes);
        // The rest is data.
        if expected.facts().contents_end.is_some() { Err(()) } else { Ok(()) }
    });
    match copied {
        Ok(()) | Err(CopyError::Sink(())) => Ok(expected),
        Err(CopyError::Repository(error)) => Err(error.into()),
    }
}

fn sqlite(path: &Path, service: bool, checks: &mut Vec<Check>) {
    checks.push(folder_of(path));
    let subject = path.display().to_string();
    let used = SqliteReplacement::new(path, &ActId([0; 16]).hex()).and_then(|database| database.check_unused());
    match used {
        Ok(()) => {}
        Err(replace::Error::Busy { by, .. }) => {
            let by = if by.is_empty() { "another process".to_owned() } else { by.join(", ") };
            let verdict = match service {
                true => Ok(format!("in use by {by}; the application is stopped first")),
                false => Err(format!("in use by {by}: stop it, or write how into [service]")),
            };
            checks.push(Check::new(Concern::Need, subject, verdict));
        }
        Err(error) => checks.push(Check::new(Concern::Need, subject, Err(error.to_string()))),
    }
}

fn folder_of(path: &Path) -> Check {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let verdict = match rustix::fs::access(folder, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK) {
        Ok(()) => Ok("its folder can be written".to_owned()),
        Err(error) => Err(format!("{} cannot be written: {error}", folder.display())),
    };
    Check::new(Concern::Need, path.display().to_string(), verdict)
}

fn tree(
    context: &Context<'_>,
    request: &Request<'_>,
    source: &SourceRecord,
    path: &Path,
    from: &str,
    checks: &mut Vec<Check>,
) -> Result<(), Trouble> {
    if !comes_with_a_tree(request, path) {
        tree_place(context, path, checks);
    }
    let subject = path.display().to_string();
    match staged::tree_bytes(context.reading, request.snapshot, source, from.as_bytes(), context.cancel) {
        Ok(_) if is_link(context, source, from)? => {
            let text = format!("{from} was a link when it was saved, and what it led to cannot be told");
            checks.push(Check::new(Concern::Need, subject, Err(text)));
        }
        Ok(_) => {}
        Err(error @ restore::Error::NoSuchPath { .. }) => {
            checks.push(Check::new(Concern::Need, subject, Err(error.to_string())));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// The tree that makes place.
fn tree_place(context: &Context<'_>, path: &Path, checks: &mut Vec<Check>) {
    let subject = path.display().to_string();
    checks.push(folder_of(path));
    // No act has this id: nothing is made, the place is only looked at.
    let movable = TreeReplacement::new(path, &ActId([0; 16]).hex()).and_then(|tree| tree.check_movable());
    if let Err(error) = movable {
        checks.push(Check::new(Concern::Need, subject.clone(), Err(error.to_string())));
    }
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let inside = context.surroundings.own_folders().into_iter().find(|own| real(own).starts_with(real(path)));
    if let Some(own) = inside {
        let text = format!("{} lies in it and would move away with it: restore a path beside it", own.display());
        checks.push(Check::new(Concern::Need, subject, Err(text)));
    }
}

/// True when the snapshot has a symbolic link at a path.
fn is_link(context: &Context<'_>, source: &SourceRecord, from: &str) -> Result<bool, Trouble> {
    let from = restore::absolute(from.as_bytes());
    for placed in context.reading.tree(source)? {
        context.cancel.check()?;
        let entry = placed?.entry;
        if entry.path == from {
            return Ok(matches!(entry.kind, EntryKind::Symlink(_)));
        }
    }
    Ok(false)
}

/// Compares what is needed on each file system with what is free there. Where a server keeps its data is known only when
/// it is this machine and the user may ask.
fn space(sources: &[(&Item, &SourceRecord)], checks: &mut Vec<Check>) {
    let mut needed: BTreeMap<u64, (std::path::PathBuf, BTreeMap<&str, u64>)> = BTreeMap::new();
    for (item, source) in sources {
        let folder = match &item.place {
            Place::Sqlite { path } | Place::Tree { path, .. } => path.parent().unwrap_or(Path::new("/")).to_owned(),
            Place::Postgres { connection, .. } => match PostgresReplacement::local_folder(connection) {
                Some(folder) => folder,
                None => continue,
            },
        };
        let Ok(metadata) = folder.metadata() else { continue };
        let content = source.streams.iter().filter(|s| matches!(s.role, StreamRole::Content | StreamRole::Data));
        let stored: u64 = content.map(|s| s.plain_bytes).sum();
        let bytes = if source.kind == SourceKind::Postgres { source.live_bytes.unwrap_or(stored) } else { stored };
        let entry = needed.entry(metadata.dev()).or_insert_with(|| (folder, BTreeMap::new()));
        // Several places of one source share its bytes.
        entry.1.insert(&source.name, bytes);
    }
    for (folder, by_source) in needed.into_values() {
        let bytes: u64 = by_source.values().sum();
        let bytes = bytes.saturating_add(bytes / 100 * SPACE_MARGIN_PERCENT);
        let Ok(system) = rustix::fs::statvfs(&folder) else { continue };
        let free = system.f_bavail.saturating_mul(system.f_frsize);
        let text = format!("{} are needed and {} are free", format_size(bytes), format_size(free));
        let verdict = if free >= bytes { Ok(text) } else { Err(text) };
        checks.push(Check::new(Concern::Space, folder.display().to_string(), verdict));
    }
}

fn program_exists(context: &Context<'_>, words: &[String]) -> Check {
    let program = words.first().map_or("", String::as_str);
    let verdict = match context.surroundings.finds(program) {
        true => Ok("will be run".to_owned()),
        false if program.contains('/') => Err("cannot be executed".to_owned()),
        false => Err(format!("no program called '{program}' is found on PATH")),
    };
    Check::new(Concern::Need, words.join(" "), verdict)
}

/// Fails when another act, which has not ended, works on one of the places or sources.
pub(super) fn rivals(context: &Context<'_>, plan: &Plan, own: ActId) -> Result<(), Error> {
    // A guard puts back what is its own.
    if plan.purpose != Purpose::Guard {
        guards(context, plan)?;
    }
    for (story, whereabouts) in heal::unfinished(context)? {
        if story.id == own {
            continue;
        }
        let Some(standing) = Standing::of(&story) else { continue };
        // It is over but for what could not be removed.
        if standing.last.state == Step::Settle && whereabouts != Whereabouts::Alive {
            continue;
        }
        let theirs = &standing.last.plan.items;
        let shared = plan.items.iter().find(|item| theirs.iter().any(|their| their.place == item.place));
        if let Some(item) = shared {
            let holder = holder(&story);
            let alive = whereabouts == Whereabouts::Alive;
            return Err(Error::Busy { place: item.place.clone(), holder, alive });
        }
    }
    Ok(())
}

/// Fails when an open guard has one of the sources for itself.
fn guards(context: &Context<'_>, plan: &Plan) -> Result<(), Error> {
    let stories = acts::list(context.recorder.store, context.recorder.keys, None)?;
    let claims = act_claims::newest(&stories);
    for item in &plan.items {
        let guard = [&item.source, &item.safety_source].into_iter().find_map(|name| claims.get(name)?.guard_id());
        let open = stories.stories.iter().find(|story| Some(story.id) == guard && !story.is_finished());
        if let Some(story) = open {
            return Err(Error::Guarded { name: item.source.clone(), holder: holder(story) });
        }
    }
    Ok(())
}

/// The part of a guard's entry that holds its name.
#[derive(serde::Deserialize)]
struct Named {
    plan: NamedPlan,
}

#[derive(serde::Deserialize)]
struct NamedPlan {
    name: String,
}

fn holder(story: &Story) -> String {
    let owner = story.last().owner();
    let since = ns_timestamp(story.first().time_ns).strftime("%Y-%m-%d %H:%M:%S UTC");
    let (kind, act, state) = (story.kind.as_str(), story.id.short(), story.last().state());
    // People know a guard by its name.
    let name = match story.last().read::<Named>() {
        Ok(named) if story.kind == ActKind::Guard => format!("{kind} {} (act {act})", named.plan.name),
        _ => format!("{kind} {act}"),
    };
    format!("{name} of {} on {}, process {}, since {since}, at step {state}", owner.user, owner.host, owner.process)
}
