//! `backup`: sources of the configuration, or those of the command line, into one snapshot.
//!
//! Standard output is the snapshot's id and nothing else.

use crate::cli::args::backup::BackupArgs;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::json::{self, Kind};
use crate::cli::log::LogLevel;
use crate::cli::opening;

use crate::catalog::Catalog;
use crate::cli::settings::{FilesSettings, PostgresSettings, Settings, SourceKindSettings, SourceSettings};
use crate::domain::snapshot::{FileCounts, SourceKind};
use crate::domain::units;
use crate::format::config_object::WriterParameters;
use crate::fsio::system::RealRandom;
use crate::ops::backup::{
    self, BackupError, BackupMeans, BackupReport, BackupRequest, Holder, SourceFrom, SourceRequest, TurnMeans,
};
use crate::ops::git_info::{git_info, git_status_dirty};
use crate::ops::system_info::system_info;
use crate::repository::cached_snapshots::load_snapshots;
use crate::repository::open::OpenRepository;
use crate::source::command::InterruptibleInput;
use crate::source::postgres::client::ClientSearch;
use crate::source::postgres::connect::Connection;
use crate::source::process::ProcessSpec;
use crate::source::sqlite::SqliteOptions;
use crate::storage::WriteStore;
use crate::storage::local::LocalStore;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// How long a locked SQLite database is waited for.
const SQLITE_BUSY: Duration = Duration::from_secs(60);

/// Saves and says what it saved.
pub(crate) fn run(invocation: &Invocation, args: &BackupArgs) -> Result<ExitCode, Failure> {
    let settings = invocation.settings()?;
    if !settings.enabled {
        invocation.output.note("backup.disabled", "Backups are switched off (HOLDFAST_ENABLED); nothing was done");
        return Ok(ExitCode::Success);
    }
    let sources = sources(invocation, settings, args)?;
    if invocation.global.dry_run {
        for source in &sources {
            let text = format!("would save {} ({:?})", source.name, source.from);
            invocation.output.note("backup.would", &text);
        }
        return Ok(ExitCode::Success);
    }
    let request = request(invocation, settings, args, sources)?;
    let repository = opening::open_for_writing(invocation, args.init)?;
    // before anything is written
    let saving = Saving::prepare(invocation, &repository)?;
    let report = saving.save(invocation, &repository, request).map_err(failure_of)?;
    let mut findings: Vec<String> = repository.findings.iter().map(opening::describe).collect();
    findings.extend(report.findings.iter().cloned());
    print(invocation, &report);
    let complete = report.failures.is_empty() && report.snapshot.is_complete() && report.snapshot.suspect.is_none();
    opening::conclude(invocation, findings, if complete { ExitCode::Success } else { ExitCode::Incomplete })
}

/// What a backup needs beside the repository itself.
pub(super) struct Saving {
    parameters: WriterParameters,
    own_folders: Vec<PathBuf>,
    catalog: Catalog,
    cache: Option<PathBuf>,
}

impl Saving {
    /// Gathers it.
    ///
    /// # Errors
    /// Exit code 24 for a repository whose writers must know more than this one does.
    pub(super) fn prepare(invocation: &Invocation, repository: &OpenRepository<LocalStore>) -> Result<Self, Failure> {
        let id = repository.config.repository;
        Ok(Self {
            parameters: opening::writer_parameters(invocation, &repository.config)?,
            own_folders: opening::own_folders(invocation, id)?,
            catalog: opening::catalog(invocation, id)?,
            cache: opening::cache_folder(invocation, id)?,
        })
    }

    /// Waits for its turn and saves. What was damaged on the way is among the findings of the report.
    ///
    /// # Errors
    /// [`BackupError`]; there is no snapshot then.
    pub(super) fn save(
        &self,
        invocation: &Invocation,
        repository: &OpenRepository<LocalStore>,
        request: BackupRequest,
    ) -> Result<BackupReport, BackupError> {
        let turn_means = TurnMeans {
            store: Arc::clone(&repository.store) as Arc<dyn WriteStore>,
            keys: Arc::clone(&repository.keys),
            random: &invocation.random,
            clock: &invocation.clock,
            observer: invocation.observer(),
            cancel: &invocation.cancel,
            process_id: std::process::id(),
            patience: invocation.global.retry_lock,
        };
        let names: Vec<String> = request.sources.iter().map(|source| source.name.clone()).collect();
        let turn = backup::take_turn(&turn_means, &request.system.host, &names)?;
        // after the turn was taken: whoever was waited for may have made one
        let (snapshots, unreadable) = load_snapshots(repository.store.as_ref(), &repository.keys, &self.catalog)?;
        let mut findings: Vec<String> =
            unreadable.iter().map(|s| format!("Snapshot {} cannot be read: {}", s.id, s.error)).collect();
        findings.extend(snapshots.iter().filter_map(|s| s.healed.clone()));
        let means = BackupMeans {
            store: Arc::clone(&repository.store) as Arc<dyn WriteStore>,
            keys: Arc::clone(&repository.keys),
            random: Arc::new(RealRandom),
            parameters: self.parameters,
            own_folders: &self.own_folders,
            clock: &invocation.clock,
            processes: &invocation.processes,
            observer: invocation.observer(),
            cancel: &invocation.cancel,
            snapshots: &snapshots,
            cache: self.cache.as_deref(),
            process_id: std::process::id(),
        };
        let mut report = backup::run_in_turn(&means, request, turn)?;
        report.findings.splice(0..0, findings);
        Ok(report)
    }
}

pub(super) fn failure_of(error: BackupError) -> Failure {
    match error {
        BackupError::Repository(error) => Failure::from(error).hint("no snapshot was made; earlier ones are untouched"),
        BackupError::Interrupted => Failure::interrupted(ExitCode::Interrupted),
        BackupError::Busy { holders, waited } => {
            let shared: BTreeSet<&str> = holders.iter().flat_map(|h| h.shared.iter().map(String::as_str)).collect();
            let sources = shared.into_iter().collect::<Vec<_>>().join(", ");
            let waited = match waited.as_secs() {
                0 => String::new(),
                _ => format!(" and did not end within {}", units::format_duration(waited)),
            };
            let message = format!("Another run is saving {sources}{waited}; nothing was saved");
            let failure = Failure::new(ExitCode::Locked, "source.busy", message);
            let failure = holders.iter().map(Holder::to_string).fold(failure, Failure::cause);
            failure.hint("run the backup again when it is over, or let it wait longer with --retry-lock DURATION")
        }
        BackupError::NothingSaved { mut failures } => {
            if failures.len() == 1 {
                let (name, error) = failures.remove(0);
                let failure = Failure::from(error);
                return failure.cause(format!("Source {name} could not be saved, so there is no snapshot"));
            }
            let message = "No source could be saved, so there is no snapshot";
            let mut failure = Failure::new(ExitCode::NoSource, "backup.nothing_saved", message);
            for (name, error) in &failures {
                failure = failure.cause(format!("{name}: {}", backup::describe(error)));
            }
            failure
        }
    }
}

fn request(
    invocation: &Invocation,
    settings: &Settings,
    args: &BackupArgs,
    sources: Vec<SourceRequest>,
) -> Result<BackupRequest, Failure> {
    let environment = &invocation.environment;
    let host = args.host.as_deref().unwrap_or(&environment.host);
    let project = project_root(&sources);
    Ok(BackupRequest {
        time_ns: args.time_ns(&invocation.time_context())?,
        time_zone: environment.time_zone.iana_name().unwrap_or("UTC").to_owned(),
        class: args.class.clone(),
        tags: args.tags.clone(),
        scope: if args.sources.is_empty() { settings.scope.clone() } else { args.sources.clone() },
        git: project.as_deref().and_then(|root| git_info(root, &git_status_dirty)),
        project_root: project.map(|root| root.to_string_lossy().into_owned()),
        system: system_info(host, &environment.user, environment.os_release.as_deref()),
        allow_empty: args.allow_empty,
        min_sizes: match args.is_ad_hoc() {
            true => BTreeMap::new(),
            false => {
                let sources = settings.sources.iter();
                sources.filter_map(|source| Some((source.name.clone(), source.min_size_bytes?))).collect()
            }
        },
        sources,
    })
}

/// The first directory that a files source covers.
fn project_root(sources: &[SourceRequest]) -> Option<PathBuf> {
    sources.iter().find_map(|source| match &source.from {
        SourceFrom::Files { roots, .. } => roots.first().cloned(),
        _ => None,
    })
}

/// The sources of the run: those of the command line if there are any, else those of the configuration.
fn sources(invocation: &Invocation, settings: &Settings, args: &BackupArgs) -> Result<Vec<SourceRequest>, Failure> {
    let sources = if args.is_ad_hoc() { ad_hoc(invocation, args)? } else { configured(invocation, settings, args)? };
    for (n, source) in sources.iter().enumerate() {
        if sources.iter().take(n).any(|other| other.name == source.name) {
            let message = format!("Two sources of this run are called '{}'", source.name);
            return Err(Failure::usage("backup.same_name", message)
                .hint("history hangs on the name: put them into the configuration, each with a name of its own"));
        }
    }
    Ok(sources)
}

fn ad_hoc(invocation: &Invocation, args: &BackupArgs) -> Result<Vec<SourceRequest>, Failure> {
    let mut sources = Vec::new();
    for url in &args.postgres {
        let connection = Connection::resolve(url, &invocation.libpq()?)?;
        let name = source_name(connection.database());
        let search = client_search(invocation, None, Vec::new());
        let from = SourceFrom::Postgres { connection: Box::new(connection), search, globals: true };
        sources.push(SourceRequest { name, from });
    }
    for path in &args.sqlite {
        let name = path.file_name().map_or_else(|| "sqlite".into(), |n| source_name(&n.to_string_lossy()));
        sources.push(SourceRequest { name, from: sqlite(invocation, absolute(invocation, path)) });
    }
    if !args.paths.is_empty() {
        let roots = args.paths.iter().map(|path| absolute(invocation, path)).collect();
        let from = SourceFrom::Files {
            roots,
            exclude: args.exclude.clone(),
            default_excludes: !args.no_default_excludes,
            one_file_system: args.one_file_system,
        };
        sources.push(SourceRequest { name: "files".into(), from });
    }
    let file_name = args.stdin_filename.clone().unwrap_or_else(|| "stdin".into());
    if args.stdin {
        let input = InterruptibleInput::standard(invocation.cancel.flag()).map_err(|error| {
            Failure::new(ExitCode::NoSource, "source.stdin", "Cannot read standard input").caused_by(&error)
        })?;
        let from = SourceFrom::Stdin { reader: Box::new(input), file_name: file_name.clone() };
        sources.push(SourceRequest { name: source_name(&file_name), from });
    } else if args.stdin_from_command {
        let from = command(&args.command, file_name.clone())?;
        sources.push(SourceRequest { name: source_name(&file_name), from });
    }
    Ok(sources)
}

/// A name that history can hang on, from a file or database name.
fn source_name(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let name: String = text.chars().map(plain).take(128).collect();
    if name.is_empty() || name == "." || name == ".." { "source".to_owned() } else { name }
}

fn configured(invocation: &Invocation, settings: &Settings, args: &BackupArgs) -> Result<Vec<SourceRequest>, Failure> {
    if settings.sources.is_empty() {
        let message = "There is nothing to save: no path is given and no source is configured";
        return Err(Failure::usage("backup.no_source", message)
            .hint("name paths, --postgres, --sqlite or --stdin, or write [[source]] tables into holdfast.toml"));
    }
    let names = if args.sources.is_empty() { &settings.scope } else { &args.sources };
    for name in names {
        settings.source(name)?;
    }
    let wanted = |source: &&SourceSettings| {
        let kind = source.source_kind();
        (names.is_empty() || names.contains(&source.name))
            && (!args.db_only || kind.is_database())
            && (!args.code_only || kind == SourceKind::Files)
    };
    let mut sources = Vec::new();
    for source in settings.sources.iter().filter(wanted) {
        let from = match &source.kind {
            SourceKindSettings::Files(files) => files_from(files, args),
            SourceKindSettings::Postgres(postgres) => postgres_from(invocation, postgres)?,
            SourceKindSettings::Sqlite { path } => sqlite(invocation, path.clone()),
            SourceKindSettings::Command { command: words, filename } => {
                command(&words.iter().map(OsString::from).collect::<Vec<_>>(), filename.clone())?
            }
        };
        sources.push(SourceRequest { name: source.name.clone(), from });
    }
    if sources.is_empty() {
        let message = "None of the configured sources is of the kind asked for";
        return Err(Failure::usage("backup.no_source", message).hint("leave out --db-only or --code-only"));
    }
    Ok(sources)
}

fn files_from(files: &FilesSettings, args: &BackupArgs) -> SourceFrom {
    let exclude = files.exclude.iter().chain(&args.exclude).cloned().collect();
    SourceFrom::Files {
        roots: files.paths.clone(),
        exclude,
        default_excludes: files.default_excludes && !args.no_default_excludes,
        one_file_system: files.one_file_system || args.one_file_system,
    }
}

fn postgres_from(invocation: &Invocation, postgres: &PostgresSettings) -> Result<SourceFrom, Failure> {
    let connection = Connection::resolve(&postgres.url, &invocation.libpq()?)?;
    let mut connection = connection.with_default_sslmode(&postgres.sslmode)?;
    if let Some(password) = password_of(invocation, postgres, &connection)? {
        connection = connection.with_password(&password);
    }
    for note in connection.notes() {
        invocation.output.detail("postgres.connection", note);
    }
    let search = client_search(invocation, postgres.pg_bin_dir.clone(), postgres.command_prefix.clone());
    Ok(SourceFrom::Postgres { connection: Box::new(connection), search, globals: postgres.globals })
}

/// The password that the configuration has for a source, if it has one.
///
/// # Errors
/// Exit code 14 when it cannot be fetched.
pub(super) fn password_of(
    invocation: &Invocation,
    postgres: &PostgresSettings,
    connection: &Connection,
) -> Result<Option<Zeroizing<String>>, Failure> {
    let Some(password) = &postgres.password else { return Ok(None) };
    let secret = password.resolve(&invocation.environment).map_err(|error| {
        let message = format!("Cannot get the password for {}", connection.without_password());
        Failure::new(ExitCode::NoSource, "source.password", message).caused_by(&error)
    })?;
    let text = secret
        .expose_text()
        .ok_or_else(|| Failure::new(ExitCode::NoSource, "source.password", "The database password is not text"))?;
    Ok(Some(Zeroizing::new(text.to_owned())))
}

/// Where client programs are looked for.
pub(super) fn client_search(
    invocation: &Invocation,
    bin_dir: Option<PathBuf>,
    command_prefix: Vec<String>,
) -> ClientSearch {
    ClientSearch { bin_dir, command_prefix, ..ClientSearch::standard(invocation.environment.raw("PATH")) }
}

/// A SQLite database as a source.
pub(super) fn sqlite(invocation: &Invocation, path: PathBuf) -> SourceFrom {
    let temp_dir = invocation.environment.path("TMPDIR").unwrap_or_else(|| PathBuf::from("/tmp"));
    let options = SqliteOptions { temp_dir, busy_timeout: SQLITE_BUSY, interrupt: Some(invocation.cancel.flag()) };
    SourceFrom::Sqlite { path, options }
}

fn command(words: &[OsString], file_name: String) -> Result<SourceFrom, Failure> {
    let Some((program, rest)) = words.split_first() else {
        return Err(Failure::usage("backup.no_command", "A command is needed after --"));
    };
    let shown: Vec<String> = words.iter().map(|w| w.to_string_lossy().into_owned()).collect();
    let location = crate::cli::args::url::mask_passwords(&shown.join(" "));
    Ok(SourceFrom::Command { spec: ProcessSpec::new(program, rest), file_name, location })
}

fn absolute(invocation: &Invocation, path: &Path) -> PathBuf {
    invocation.environment.directory.join(path)
}

/// The id on standard output, the rest on standard error; or the summary as JSON.
fn print(invocation: &Invocation, report: &BackupReport) {
    let snapshot = &report.snapshot;
    let files = files_total(report);
    let seconds = report.duration_ns as f64 / 1e9;
    if invocation.global.json {
        let body = json!({
            "snapshot_id": snapshot.id.hex(),
            "snapshot": json::snapshot(snapshot, false),
            "total_bytes": report.plain_bytes,
            "data_added": report.stored_bytes,
            "files_new": files.files_new,
            "files_changed": files.files_changed,
            "files_unmodified": files.files_unmodified,
            "excluded_by_rule": files.excluded_by_rule,
            "excluded_by_default": files.excluded_by_default,
            "failed_sources": report.failures.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            "complete": report.failures.is_empty() && snapshot.is_complete(),
            "duration_seconds": seconds,
        });
        invocation.output.json(Kind::Summary, &body);
    }
    // in JSON all of this is in the summary, and the log wants it as lines
    let say = |id: &str, text: &str| match invocation.global.json {
        true => invocation.output.log(LogLevel::Info, id, "", text),
        false => invocation.output.note(id, text),
    };
    for source in &snapshot.sources {
        let text = match (&source.failure, &source.files) {
            (Some(reason), _) => format!("{}: FAILED: {reason}", source.name),
            (None, Some(counts)) => format!("{}: {}", source.name, files_line(counts)),
            (None, None) => {
                let plain: u64 = source.streams.iter().map(|s| s.plain_bytes).sum();
                let added: u64 = source.streams.iter().map(|s| s.added_bytes).sum();
                let rows: u64 = source.tables.iter().map(|t| t.rows).sum();
                let tables = match source.tables.len() {
                    0 => String::new(),
                    n => format!(", {} rows in {n} tables", units::format_count(rows)),
                };
                format!("{}: {}{tables}; {} new", source.name, units::format_size(plain), units::format_size(added))
            }
        };
        say("backup.source", &text);
    }
    let text = format!(
        "saved {} in {seconds:.1} s, {} added to the repository",
        units::format_size(report.plain_bytes),
        units::format_size(report.stored_bytes),
    );
    say("backup.summary", &text);
    invocation.output.log(LogLevel::Info, "backup.snapshot", "", &format!("snapshot {}", snapshot.id.hex()));
    if !invocation.global.json {
        invocation.output.line(&snapshot.id.hex());
    }
}

fn files_line(counts: &FileCounts) -> String {
    let mut text = format!(
        "{}, {} new, {} changed, {} unmodified",
        crate::domain::units::format_counted(counts.files, "file", "files"),
        counts.files_new,
        counts.files_changed,
        counts.files_unmodified
    );
    let extra = [
        (counts.excluded_by_rule, "left out by rules"),
        (counts.excluded_by_default, "left out by default (.git, CACHEDIR.TAG, holdfast's own)"),
        (counts.unreadable, "unreadable"),
        (counts.changed_while_read, "changed while read"),
    ];
    for (n, what) in extra.into_iter().filter(|(n, _)| *n > 0) {
        text.push_str(&format!("; {n} {what}"));
    }
    text
}

fn files_total(report: &BackupReport) -> FileCounts {
    report.snapshot.sources.iter().filter_map(|s| s.files).fold(FileCounts::default(), |mut all, one| {
        all.files_new += one.files_new;
        all.files_changed += one.files_changed;
        all.files_unmodified += one.files_unmodified;
        all.excluded_by_rule += one.excluded_by_rule;
        all.excluded_by_default += one.excluded_by_default;
        all
    })
}
