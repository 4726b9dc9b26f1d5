//! The effective settings: flags over variables over configuration files over defaults, each with its origin.
//!
//! The keys are exactly those of the example configuration; anything else is an error that names line and column and
//! suggests the nearest known key. Secrets are kept as references until somebody needs them.

mod document;
mod locate;
mod origin;
mod reader;
mod retention;
mod secret;
mod sections;
mod show;
mod source;
pub(crate) mod suggest;
mod unlock;
mod variables;

pub use document::{Place, Problem};
pub use locate::candidates;
pub use origin::{Origin, Shown, Valued};
pub use secret::{Secret, SecretError, SecretRef, split_words};
pub use sections::{
    DrillSettings, GuardSettings, PruneSettings, RestoreSettings, Sections, ServiceSettings, TargetSettings,
};
pub use show::{show_json, show_text};
pub use source::{FilesSettings, PostgresSettings, SourceKindSettings, SourceSettings};
pub use suggest::nearest;
pub use unlock::{Prompt, TerminalPrompt, Unlock, UnlockFrom, fetch, fetch_new};
pub use variables::{KNOWN as KNOWN_VARIABLES, add_env_file};

use super::environment::Environment;
use super::failure::Failure;
use crate::domain::snapshot::Series;
use crate::format::parity::ParityShare;
use document::{Node, Table, Value};
use reader::{Findings, Setting, TableReader, quoted};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use variables::{first_of, parse_list, parse_switch, with_twin};

/// More than any configuration holds; a wrong path must not fill memory.
const CONFIG_BYTES_MAX: u64 = 4 << 20;

/// What the flags of the command line say about settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `-r`.
    pub repository: Option<String>,
    /// `-c`.
    pub config: Option<PathBuf>,
    /// `-P`.
    pub profile: Option<String>,
    /// `--cache-dir`.
    pub cache_dir: Option<PathBuf>,
    /// `--password-file`.
    pub password_file: Option<PathBuf>,
    /// `--password-command`.
    pub password_command: Option<String>,
    /// `--key-file`.
    pub key_file: Option<PathBuf>,
}

/// Everything that is set, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder of the repository.
    pub repository: Valued<PathBuf>,
    /// What opens it; None: ask.
    pub unlock: Option<Valued<UnlockFrom>>,
    /// How much parity new packs get; None: none.
    pub parity: Option<ParityShare>,
    /// The sources, in the order of the files.
    pub sources: Vec<SourceSettings>,
    /// The other tables.
    pub sections: Sections,
    /// Where caches go; None when there is neither a home nor a wish.
    pub cache_dir: Option<PathBuf>,
    /// Where catalog and ledgers go; None when there is no home.
    pub state_dir: Option<PathBuf>,
    /// False: runs do nothing and say so (`HOLDFAST_ENABLED`).
    pub enabled: bool,
    /// Names that limit a run (`HOLDFAST_SCOPE`); empty: no limit.
    pub scope: Vec<String>,
    /// The level of the log (`HOLDFAST_LOG`), as it was written.
    pub log: Option<String>,
    /// Renewals of progress per second.
    pub progress_fps: Option<f64>,
    /// True when the old `DEBUG` variable asks for more talk.
    pub debug: bool,
    /// libpq's `PG*` variables, with the old systems' `DB_USER` and `DB_NAME` where libpq's are not set. `PGPASSWORD`
    /// may be among them: never print.
    pub postgres_variables: PostgresVariables,
    /// What `config show` prints.
    pub shown: Vec<Shown>,
    /// The files that were read.
    pub files: Vec<PathBuf>,
    /// What deserves a warning.
    pub warnings: Vec<String>,
}

/// libpq's variables; shows names only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PostgresVariables(pub BTreeMap<String, String>);

impl std::fmt::Debug for PostgresVariables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Settings {
    /// Gathers and checks all settings. Does not fetch secrets.
    ///
    /// # Errors
    /// A failure with exit code 2 that names file, line and column.
    pub fn load(overrides: &Overrides, environment: &Environment) -> Result<Self, Failure> {
        if overrides.profile.is_some() || environment.raw("HOLDFAST_PROFILE").is_some() {
            let message = "Profiles are reserved for a later version of holdfast";
            return Err(Failure::usage("profile.reserved", message).hint("use one configuration file each, with -c"));
        }
        let files = locate::find(overrides.config.as_deref(), environment).map_err(|p| fail(vec![p]))?;
        let root = read_files(&files)?;
        let findings = Findings::new(environment);
        let mut root = TableReader::new(&root, "", "the configuration", &findings);
        let configured = read_repository(&mut root);
        let sources = source::read_sources(&mut root);
        let mut sections = sections::read_sections(&mut root, &sources);
        root.finish(reserved);
        let problems = findings.problems.take();
        if !problems.is_empty() {
            return Err(fail(problems));
        }
        retention::overlay_variables(&mut sections.retention, &findings)?;
        let repository = choose_repository(overrides, configured.location, &findings)?;
        let unlock = choose_unlock(overrides, configured.unlock, &findings)?;
        let switches = Switches::read(overrides, &findings)?;
        let postgres_variables = postgres_variables(&findings)?;
        let mut shown = findings.shown.take();
        shown.sort_by_key(|s| !s.key.starts_with("repository."));
        Ok(Self {
            repository,
            unlock,
            parity: configured.parity,
            sources,
            sections,
            cache_dir: switches.cache_dir,
            state_dir: environment.state_directory(),
            enabled: switches.enabled,
            scope: switches.scope,
            log: switches.log,
            progress_fps: switches.progress_fps,
            debug: switches.debug,
            postgres_variables,
            shown,
            files,
            warnings: variables::unknown_variables(environment),
        })
    }

    /// The series that a run of the whole configuration belongs to; None when nothing is configured. It is what
    /// `latest` means when several series are there.
    pub fn configured_series(&self, host: &str) -> Option<Series> {
        let mut sources: Vec<String> = self.sources.iter().map(|source| source.name.clone()).collect();
        sources.sort();
        (!sources.is_empty()).then(|| Series { host: host.to_owned(), sources })
    }

    /// A source by name.
    ///
    /// # Errors
    /// Exit code 2 with the nearest name.
    pub fn source(&self, name: &str) -> Result<&SourceSettings, Failure> {
        self.sources.iter().find(|source| source.name == name).ok_or_else(|| {
            let names = || self.sources.iter().map(|source| source.name.as_str());
            let failure = Failure::usage("source.unknown", format!("No source is called '{name}'"));
            match nearest(name, names()) {
                Some(near) => failure.hint(format!("did you mean '{near}'?")),
                None if self.sources.is_empty() => failure.hint("no source is configured"),
                None => failure.hint(format!("sources are {}", names().collect::<Vec<_>>().join(", "))),
            }
        })
    }
}

/// A path in the quotes of TOML.
fn quoted_path(path: &Path) -> String {
    quoted(&path.display().to_string())
}

/// One failure for all problems, in the order of the files: the first is the message, the others follow.
fn fail(mut problems: Vec<Problem>) -> Failure {
    // The sort is stable, so files stay in the order in which they were read.
    problems.sort_by_key(|problem| {
        problem.place.as_ref().map(|place| (place.file.to_path_buf(), place.line, place.column))
    });
    let mut problems = problems.into_iter();
    let Some(first) = problems.next() else {
        return Failure::usage("config.invalid", "The configuration cannot be used");
    };
    let mut failure = Failure::usage("config.invalid", first.to_string());
    failure.hints.extend(first.hint);
    for problem in problems {
        let hint = problem.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
        failure.causes.push(format!("also: {problem}{hint}"));
    }
    failure
}

fn read_files(files: &[PathBuf]) -> Result<Table, Failure> {
    let mut root = Table::default();
    let mut problems = Vec::new();
    for path in files {
        let file: Arc<Path> = Arc::from(path.as_path());
        let unreadable = |error: &dyn std::error::Error| {
            Failure::usage("config.unreadable", format!("Cannot read the configuration file {}", path.display()))
                .cause(error.to_string())
        };
        let size = std::fs::metadata(path).map_err(|error| unreadable(&error))?.len();
        if size > CONFIG_BYTES_MAX {
            return Err(Failure::usage(
                "config.unreadable",
                format!("The file {} is no configuration: it has {size} bytes", path.display()),
            ));
        }
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(&error))?;
        match document::parse(&text, &file) {
            Ok(table) => document::merge(&mut root, table, &mut problems),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(root) } else { Err(fail(problems)) }
}

/// Tables of later versions; they are refused so that nobody believes they work.
fn reserved(key: &str) -> Option<String> {
    let table = match key {
        "health" | "alerts" | "schedule" | "catalog" => format!("[{key}]"),
        "profile" => "[profile.NAME]".to_owned(),
        "job" => "[[job]]".to_owned(),
        _ => return None,
    };
    Some(format!("{table} is reserved for a later version of holdfast; remove it for now"))
}

/// The place of the repository: a directory. Other storage comes later.
struct Location(PathBuf);

fn read_location(text: &str, base: &Path, environment: &Environment) -> Result<PathBuf, String> {
    match text.split_once("://") {
        Some(("file", path)) if path.starts_with('/') => Ok(PathBuf::from(path)),
        // The rest may hold a password, so only the scheme is shown.
        Some((scheme, _)) => {
            Err(format!("Repositories at {scheme}:// are reserved for a later version; name a directory"))
        }
        None if text.is_empty() => Err("The location of the repository is empty".to_owned()),
        None => Ok(environment.expand_path(text, base)),
    }
}

impl Setting for Location {
    fn read(node: &Node, environment: &Environment) -> Result<Self, Problem> {
        let Value::Text(text) = &node.value else {
            return Err(Problem::new(Some(&node.place), "The location of the repository is a directory"));
        };
        let base = environment.directory.join(node.place.file.parent().unwrap_or(Path::new("")));
        read_location(text, &base, environment).map(Self).map_err(|message| Problem::new(Some(&node.place), message))
    }
    fn shown(&self) -> String {
        quoted_path(&self.0)
    }
}

#[derive(Default)]
struct ConfiguredRepository {
    location: Option<Valued<PathBuf>>,
    unlock: Option<Valued<UnlockFrom>>,
    parity: Option<ParityShare>,
}

fn read_repository(root: &mut TableReader<'_, '_>) -> ConfiguredRepository {
    let Some(mut table) = root.table("repository") else { return ConfiguredRepository::default() };
    let at = |table: &TableReader<'_, '_>, key: &str| table.place(key).cloned().map(Origin::Config);
    let location = table.get::<Location>("location").map(|location| location.0);
    let location = location.zip(at(&table, "location")).map(|(value, origin)| Valued { value, origin });
    let password: Option<SecretRef> = table.get("password");
    let key_file: Option<PathBuf> = table.get("key_file");
    if password.is_some() && key_file.is_some() {
        let problem = Problem::new(table.place("key_file"), "[repository] has both 'password' and 'key_file'");
        table.findings.problem(problem.hint("a key file is used instead of a password: keep one of them"));
    }
    let unlock = match (password, key_file) {
        (Some(password), _) => Some(UnlockFrom::Password(password)).zip(at(&table, "password")),
        (None, Some(path)) => Some(UnlockFrom::KeyFile(path)).zip(at(&table, "key_file")),
        (None, None) => None,
    };
    let parity = table.get("parity");
    table.finish(|_| None);
    ConfiguredRepository { location, unlock: unlock.map(|(value, origin)| Valued { value, origin }), parity }
}

fn choose_repository(
    overrides: &Overrides,
    configured: Option<Valued<PathBuf>>,
    findings: &Findings<'_>,
) -> Result<Valued<PathBuf>, Failure> {
    let environment = findings.environment;
    let flag = overrides.repository.clone().map(|value| Valued { value, origin: Origin::Flag("--repo") });
    let named = match flag {
        Some(flag) => Some(flag),
        None => with_twin(environment, "HOLDFAST_REPOSITORY", "HOLDFAST_REPOSITORY_FILE")?,
    };
    let chosen = match named {
        Some(Valued { value, origin }) => {
            let location = read_location(&value, &environment.directory, environment);
            let value =
                location.map_err(|message| Failure::usage("repository.location", format!("{message} ({origin})")))?;
            Valued { value, origin }
        }
        None => match configured {
            Some(configured) => configured,
            None => {
                let value = sections::default_repository(environment).ok_or_else(|| {
                    Failure::usage("repository.unnamed", "No repository is named, and there is no home to keep one in")
                        .hint("give -r DIRECTORY or set HOLDFAST_REPOSITORY")
                })?;
                Valued { value, origin: Origin::Default }
            }
        },
    };
    findings.show("repository.location".to_owned(), quoted_path(&chosen.value), chosen.origin.clone());
    Ok(chosen)
}

fn choose_unlock(
    overrides: &Overrides,
    configured: Option<Valued<UnlockFrom>>,
    findings: &Findings<'_>,
) -> Result<Option<Valued<UnlockFrom>>, Failure> {
    let environment = findings.environment;
    let named = match unlock::from_flags(overrides, environment)? {
        Some(flag) => Some(flag),
        None => unlock::from_variables(environment)?,
    };
    if let Some(named) = &named {
        // What the configuration says is overruled as a whole: a key file takes the place of a password too.
        findings.shown.borrow_mut().retain(|s| s.key != "repository.password" && s.key != "repository.key_file");
        let (key, value) = named.value.shown();
        findings.show(key.to_owned(), value, named.origin.clone());
    }
    Ok(named.or(configured))
}

/// The settings that have no key in the file.
struct Switches {
    cache_dir: Option<PathBuf>,
    enabled: bool,
    scope: Vec<String>,
    log: Option<String>,
    progress_fps: Option<f64>,
    debug: bool,
}

impl Switches {
    fn read(overrides: &Overrides, findings: &Findings<'_>) -> Result<Self, Failure> {
        let environment = findings.environment;
        let default = |value| Valued { value, origin: Origin::Default };
        let enabled = match first_of(environment, &["HOLDFAST_ENABLED", "BACKUP_ENABLED"])? {
            Some(valued) => Valued { value: parse_switch(&valued)?, origin: valued.origin },
            None => default(true),
        };
        findings.show("enabled".to_owned(), enabled.value.to_string(), enabled.origin);
        let scope = first_of(environment, &["HOLDFAST_SCOPE", "BACKUP_SCOPE"])?;
        let scope = scope.map(|valued| Valued { value: parse_list(&valued.value), origin: valued.origin });
        if let Some(scope) = &scope {
            findings.show("scope".to_owned(), scope.value.shown(), scope.origin.clone());
        }
        let log = first_of(environment, &["HOLDFAST_LOG"])?;
        if let Some(log) = &log {
            findings.show("log".to_owned(), quoted(&log.value), log.origin.clone());
        }
        let progress_fps = match first_of(environment, &["HOLDFAST_PROGRESS_FPS"])? {
            None => None,
            Some(valued) => {
                let fps = valued.value.trim().parse::<f64>().ok().filter(|fps| fps.is_finite() && *fps > 0.0);
                let wrong = || Failure::usage("variable.number", "HOLDFAST_PROGRESS_FPS is not a number above 0");
                let fps = fps.ok_or_else(wrong)?;
                findings.show("progress_fps".to_owned(), fps.to_string(), valued.origin);
                Some(fps)
            }
        };
        let debug = first_of(environment, &["DEBUG"])?;
        // Other programs put all sorts of words into DEBUG; only a plain switch is meant for us.
        let debug = debug.is_some_and(|valued| parse_switch(&valued).unwrap_or(false));
        let cache_dir = choose_cache_dir(overrides, findings);
        Ok(Self {
            cache_dir,
            enabled: enabled.value,
            scope: scope.map(|valued| valued.value).unwrap_or_default(),
            log: log.map(|valued| valued.value),
            progress_fps,
            debug,
        })
    }
}

fn choose_cache_dir(overrides: &Overrides, findings: &Findings<'_>) -> Option<PathBuf> {
    let environment = findings.environment;
    let flag = overrides.cache_dir.clone().map(|path| (path, Origin::Flag("--cache-dir")));
    let variable = || {
        let name = "HOLDFAST_CACHE_DIR";
        environment.path(name).map(|path| (path, variables::origin(environment, name)))
    };
    let default = || environment.cache_directory().map(|path| (path, Origin::Default));
    let (path, origin) = flag.or_else(variable).or_else(default)?;
    let path = environment.directory.join(path);
    findings.show("cache_dir".to_owned(), quoted_path(&path), origin);
    Some(path)
}

/// libpq's own variables, then the old systems' names for two of them.
fn postgres_variables(findings: &Findings<'_>) -> Result<PostgresVariables, Failure> {
    let environment = findings.environment;
    let mut variables = BTreeMap::new();
    for name in environment.variables.keys().filter_map(|name| name.to_str()).filter(|name| name.starts_with("PG")) {
        if let Some(value) = environment.text(name) {
            variables.insert(name.to_owned(), value.to_owned());
        }
    }
    for (new, old) in [("PGUSER", "DB_USER"), ("PGDATABASE", "DB_NAME")] {
        if variables.contains_key(new) {
            continue;
        }
        if let Some(valued) = first_of(environment, &[old])? {
            findings.show(format!("postgres.{}", new.to_lowercase()), quoted(&valued.value), valued.origin);
            variables.insert(new.to_owned(), valued.value);
        }
    }
    Ok(PostgresVariables(variables))
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
