//! The tables beside `[[source]]`. Some of them are read and checked already although the features that use them come
//! later: a configuration that is accepted today stays right.

use super::document::Problem;
use super::reader::{Size, TableReader, Url, Words};
use super::retention::read_retention;
use super::source::{SourceKindSettings, SourceSettings};
use crate::domain::retention::Policies;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);

/// `[prune]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PruneSettings {
    /// Waiting time of a scheduled prune before it deletes.
    pub grace: Duration,
    /// Most bytes rewritten in one run.
    pub max_repack_bytes: Option<u64>,
    /// Data older than this is compressed harder.
    pub recompress_older: Option<Duration>,
}

/// `[drill]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrillSettings {
    /// A scratch server; none: a temporary local cluster.
    pub postgres: Option<String>,
    /// Longest duration.
    pub max_duration: Option<Duration>,
}

/// `[service]`: the application, around restore and rollback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSettings {
    /// Stops it.
    pub stop: Option<Vec<String>>,
    /// Starts it.
    pub start: Option<Vec<String>>,
    /// Succeeds while it runs.
    pub status: Option<Vec<String>>,
    /// Longest time for each.
    pub timeout: Duration,
}

/// `[restore]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreSettings {
    /// The application's own check after a restore.
    pub post_restore_check: Option<Vec<String>>,
    /// Longest time for it.
    pub check_timeout: Duration,
}

/// `[guard]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardSettings {
    /// The sources it saves; None: every database.
    pub sources: Option<Vec<String>>,
    /// What "fresh" means for production.
    pub fresh_within: Duration,
}

/// `[env.NAME]`: targets for restore and guard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetSettings {
    /// Production: asks for the name.
    pub production: bool,
    /// Source name to where it is restored.
    pub targets: BTreeMap<String, String>,
    /// The application of this environment.
    pub service: Option<ServiceSettings>,
}

/// Everything but the repository and the sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sections {
    /// What is kept, by class (`[retention.CLASS]`).
    pub retention: Policies,
    /// `[prune]`.
    pub prune: PruneSettings,
    /// `[drill]`.
    pub drill: DrillSettings,
    /// `[service]`.
    pub service: Option<ServiceSettings>,
    /// `[restore]`.
    pub restore: RestoreSettings,
    /// `[guard]`.
    pub guard: GuardSettings,
    /// By name.
    pub environments: BTreeMap<String, TargetSettings>,
}

pub(super) fn nowhere(_: &str) -> Option<String> {
    None
}

/// Reads them all. Names of sources are checked against `sources`.
pub(super) fn read_sections(root: &mut TableReader<'_, '_>, sources: &[SourceSettings]) -> Sections {
    let guard = read_guard(root, sources);
    Sections {
        retention: read_retention(root),
        prune: read_prune(root),
        drill: read_drill(root),
        service: root.table("service").map(read_service),
        restore: read_restore(root),
        guard,
        environments: read_environments(root, sources),
    }
}

fn read_prune(root: &mut TableReader<'_, '_>) -> PruneSettings {
    let default = PruneSettings { grace: DAY * 7, max_repack_bytes: None, recompress_older: None };
    let Some(mut table) = root.table("prune") else { return default };
    let settings = PruneSettings {
        grace: table.or("grace", default.grace),
        max_repack_bytes: table.get::<Size>("max_repack_size").map(|size| size.0),
        recompress_older: table.get("recompress_older"),
    };
    table.finish(nowhere);
    settings
}

fn read_drill(root: &mut TableReader<'_, '_>) -> DrillSettings {
    let Some(mut table) = root.table("drill") else { return DrillSettings { postgres: None, max_duration: None } };
    let settings = DrillSettings {
        postgres: table.get::<Url>("postgres").map(|url| url.0),
        max_duration: table.get("max_duration"),
    };
    table.finish(nowhere);
    settings
}

fn read_service(mut table: TableReader<'_, '_>) -> ServiceSettings {
    let words = |table: &mut TableReader<'_, '_>, key| table.get::<Words>(key).map(|words| words.0);
    let settings = ServiceSettings {
        stop: words(&mut table, "stop"),
        start: words(&mut table, "start"),
        status: words(&mut table, "status"),
        timeout: table.or("timeout", Duration::from_secs(60)),
    };
    table.finish(nowhere);
    settings
}

fn read_restore(root: &mut TableReader<'_, '_>) -> RestoreSettings {
    let default = RestoreSettings { post_restore_check: None, check_timeout: Duration::from_secs(600) };
    let Some(mut table) = root.table("restore") else { return default };
    let settings = RestoreSettings {
        post_restore_check: table.get::<Words>("post_restore_check").map(|words| words.0),
        check_timeout: table.or("check_timeout", default.check_timeout),
    };
    table.finish(nowhere);
    settings
}

/// Problems for names that no source has.
fn check_names(table: &TableReader<'_, '_>, key: &str, names: &[String], sources: &[SourceSettings]) {
    for name in names.iter().filter(|name| !sources.iter().any(|source| source.name == **name)) {
        let problem = Problem::new(table.place(key), format!("No source is called '{name}' in {}", table.title()));
        let known: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
        table.findings.problem(problem.hint(format!("sources are {}", known.join(", "))));
    }
}

fn read_guard(root: &mut TableReader<'_, '_>, sources: &[SourceSettings]) -> GuardSettings {
    let default = GuardSettings { sources: None, fresh_within: Duration::from_secs(3600) };
    let Some(mut table) = root.table("guard") else { return default };
    let names: Option<Vec<String>> = table.get("sources");
    check_names(&table, "sources", names.as_deref().unwrap_or_default(), sources);
    let settings = GuardSettings { sources: names, fresh_within: table.or("fresh_within", default.fresh_within) };
    table.finish(nowhere);
    settings
}

fn read_environments(root: &mut TableReader<'_, '_>, sources: &[SourceSettings]) -> BTreeMap<String, TargetSettings> {
    let mut environments = BTreeMap::new();
    for (name, mut table) in root.named_tables("env") {
        let production = table.or("production", false);
        let targets: Vec<(String, String)> = table.named_urls("targets");
        let names: Vec<String> = targets.iter().map(|(name, _)| name.clone()).collect();
        check_names(&table, "targets", &names, sources);
        for (name, target) in &targets {
            check_target(&table, name, target, sources);
        }
        let service = table.table("service").map(read_service);
        table.finish(nowhere);
        environments.insert(name, TargetSettings { production, targets: targets.into_iter().collect(), service });
    }
    environments
}

/// A problem where a source cannot go to its target.
fn check_target(table: &TableReader<'_, '_>, name: &str, target: &str, sources: &[SourceSettings]) {
    let Some(source) = sources.iter().find(|source| source.name == name) else { return };
    let url = crate::cli::args::url::is_connection(target);
    let (reason, hint) = match &source.kind {
        SourceKindSettings::Postgres(_) if !url => {
            ("is a PostgreSQL database, and its target is a path", "write a URL such as postgres://user@host/database")
        }
        SourceKindSettings::Sqlite { .. } if url => {
            ("is a SQLite database, and its target is a URL", "write the path of a file")
        }
        SourceKindSettings::Files(_) if url => ("is files, and its target is a URL", "write the path of a directory"),
        SourceKindSettings::Files(files) if files.paths.len() > 1 => {
            ("has several paths, and its target is one place", "make each path a source")
        }
        SourceKindSettings::Command { .. } => {
            ("is the output of a program, which has no place", "leave it out of targets")
        }
        _ => return,
    };
    let problem = Problem::new(table.place("targets"), format!("Source '{name}' in {} {reason}", table.title()));
    table.findings.problem(problem.hint(hint.to_owned()));
}

/// The default repository of a user, or of root.
pub(super) fn default_repository(environment: &crate::cli::environment::Environment) -> Option<PathBuf> {
    // An explicit XDG_DATA_HOME is a wish, also of root; without one root's data belongs to the machine.
    let explicit = environment.path("XDG_DATA_HOME").filter(|path| path.is_absolute());
    if environment.is_root() && explicit.is_none() {
        return Some(PathBuf::from("/var/lib/holdfast/repository"));
    }
    environment.xdg("XDG_DATA_HOME", ".local/share").map(|data| data.join("holdfast/repository"))
}
