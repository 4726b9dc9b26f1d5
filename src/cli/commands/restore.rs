//! `restore`: a snapshot into a directory, one database into a new database; over what is there: [`super::in_place`].

use super::{import, in_place, net, restore_table};
use crate::cli::args::restore::{OverwriteWhen, RestoreArgs, RestoreType};
use crate::cli::args::url::is_connection;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::json::{self, Kind};
use crate::cli::log::LogLevel;
use crate::cli::opening::{self, Chosen, ReadingRepository};
use crate::cli::output::{JsonMode, Output, display_path};
use crate::cli::picker;
use crate::domain::snapshot::{Snapshot, SourceKind, SourceRecord};
use crate::domain::units::{format_count, format_counted, format_size};
use crate::ops::observer::{Event, Observer};
use crate::ops::restore::database::{self, DatabaseReport, PostgresMeans};
use crate::ops::restore::{self, Error, Kinds, Options, Overwriting, PathFilter, Report, Selection};
use crate::target;
use crate::target::files::Overwrite;
use std::ffi::OsString;
use std::path::Path;

/// Losses that the failure names; the report and the warnings name all.
const LOST_SHOWN_MAX: usize = 10;

/// Restores and says what it restored.
pub(crate) fn run(invocation: &Invocation, args: &RestoreArgs) -> Result<ExitCode, Failure> {
    let imported;
    let (args, selector) = match &args.from_file {
        None => (args, args.selector.clone()),
        Some(file) => {
            let Some((id, source)) = import::one(invocation, file)? else { return Ok(ExitCode::Success) };
            let mut of_file = args.clone();
            of_file.scope.sources = vec![source];
            imported = of_file;
            (&imported, Some(OsString::from(id.hex())))
        }
    };
    let repository = opening::open_for_reading(invocation)?;
    let chosen = picker::choose(invocation, &repository, selector.as_deref(), &args.scope)?;
    if !args.tables.is_empty() {
        return restore_table::run(invocation, args, &repository, &chosen);
    }
    match (&args.target, &args.to) {
        (Some(target), _) => into_directory(invocation, args, &repository, &chosen, target),
        (None, Some(to)) if !args.clean => into_database(invocation, args, &repository, &chosen, to),
        _ => in_place::restore(invocation, args, &repository, &chosen, &selection(args, None)?),
    }
}

pub(super) fn selection(args: &RestoreArgs, path: Option<&[u8]>) -> Result<Selection, Failure> {
    let paths = PathFilter::new(path, &args.include, &args.exclude);
    let paths = paths.map_err(|error| {
        Failure::from_error(ExitCode::Usage, "restore.rule", &error).hint("rules are in gitignore syntax")
    })?;
    let kinds = match args.restore_type() {
        RestoreType::Full => Kinds::All,
        RestoreType::Database => Kinds::Databases,
        RestoreType::Codebase => Kinds::Files,
    };
    Ok(Selection { sources: args.scope.sources.clone(), kinds, paths })
}

fn into_directory(
    invocation: &Invocation,
    args: &RestoreArgs,
    repository: &ReadingRepository,
    chosen: &Chosen,
    target: &Path,
) -> Result<ExitCode, Failure> {
    let snapshot = &chosen.snapshot.snapshot;
    let options = Options {
        target: invocation.environment.directory.join(target),
        selection: selection(args, chosen.path.as_deref())?,
        existing: overwriting(invocation, args, repository)?,
        dry_run: invocation.global.dry_run,
        attributes: target::files::Options::for_this_user(),
    };
    confirm(invocation, &options)?;
    // Only a failed source makes others worth a look.
    let history = match snapshot.sources.iter().any(|source| source.failure.is_some()) {
        true => repository.snapshots()?,
        false => Vec::new(),
    };
    let listing = Listing { output: &invocation.output, inner: invocation.observer() };
    let observer = if options.dry_run { &listing } else { listing.inner };
    let report = restore::run(&repository.reading, snapshot, &history, &options, observer, &invocation.cancel);
    let report = report.map_err(|error| failure_of(error, &options.target))?;
    print(invocation, &report);
    if report.lost_count > 0 {
        // Prints what else is damaged; that the whole is no success is said here.
        let _ = repository.conclude(invocation, ExitCode::Damaged);
        return Err(lost_failure(snapshot, &report));
    }
    let exit = if report.is_complete() { ExitCode::Success } else { ExitCode::Incomplete };
    repository.conclude(invocation, exit)
}

fn overwriting(
    invocation: &Invocation,
    args: &RestoreArgs,
    repository: &ReadingRepository,
) -> Result<Option<Overwriting>, Failure> {
    let Some(overwrite) = args.overwrite else { return Ok(None) };
    let overwrite = match overwrite {
        OverwriteWhen::Always => Overwrite::Always,
        OverwriteWhen::IfChanged => Overwrite::IfChanged,
        OverwriteWhen::IfNewer => Overwrite::IfNewer,
        OverwriteWhen::Never => Overwrite::Never,
    };
    let own_folders = opening::own_folders(invocation, repository.repository.config.repository)?;
    Ok(Some(Overwriting { overwrite, delete: args.delete, own_folders }))
}

/// Asks before anything that exists is replaced or removed.
fn confirm(invocation: &Invocation, options: &Options) -> Result<(), Failure> {
    let Some(Overwriting { overwrite, delete, .. }) = options.existing else { return Ok(()) };
    let holds_something = std::fs::read_dir(&options.target).is_ok_and(|mut entries| entries.next().is_some());
    if options.dry_run || !holds_something || (overwrite == Overwrite::Never && !delete) {
        return Ok(());
    }
    let target = options.target.display();
    invocation.confirm(&match (overwrite == Overwrite::Never, delete) {
        (true, _) => format!("Remove from {target} what the snapshot does not have?"),
        (false, true) => format!("Replace files in {target} and remove what the snapshot does not have?"),
        (false, false) => format!("Replace files in {target}?"),
    })
}

/// Lists what a dry run would restore, as its result.
struct Listing<'a> {
    output: &'a Output,
    inner: &'a dyn Observer,
}

impl Observer for Listing<'_> {
    fn event(&self, event: &Event<'_>) {
        let Event::Item { action, path, plain_bytes } = event else { return self.inner.event(event) };
        if self.output.options().json == JsonMode::Off {
            self.output.line(&format!("{action} {} ({})", display_path(path), format_size(*plain_bytes)));
            return;
        }
        let mut body = serde_json::Map::new();
        body.insert("action".to_owned(), (*action).into());
        json::insert_path(&mut body, path);
        body.insert("plain_bytes".to_owned(), (*plain_bytes).into());
        self.output.json(Kind::Item, &body);
    }
}

pub(super) fn lost_failure(snapshot: &Snapshot, report: &Report) -> Failure {
    let message = format!(
        "Snapshot {} could not be restored completely: {} not restored",
        snapshot.id.short(),
        match report.lost_count {
            1 => "1 thing is".to_owned(),
            n => format!("{} things are", format_count(n)),
        }
    );
    let mut failure = Failure::new(ExitCode::Damaged, "restore.lost", message);
    for lost in report.lost.iter().take(LOST_SHOWN_MAX) {
        let path = lost.path.as_ref().map(|path| format!(" {path}:")).unwrap_or_default();
        failure = failure.cause(format!("{}:{path} {}", lost.source, lost.reason));
    }
    failure
        .hint("everything else was restored; nothing that is damaged was left in the target")
        .hint("look for the lost files in other snapshots, and run `holdfast verify --read-data`")
}

/// What was restored, on standard error; or the report as JSON.
fn print(invocation: &Invocation, report: &Report) {
    if invocation.global.json {
        invocation.output.json(Kind::Summary, report);
    }
    let would = if report.dry_run { "would restore " } else { "" };
    for source in &report.sources {
        let size = format_size(source.plain_bytes);
        let text = match source.kind {
            SourceKind::Files => format!(
                "{}: {would}{}, {}, {}, {size}",
                source.name,
                format_counted(source.files, "file", "files"),
                format_counted(source.directories, "directory", "directories"),
                format_counted(source.others, "other", "others")
            ),
            _ => format!("{}: {would}{}, {size}", source.name, source.written.join(", ")),
        };
        say(invocation, "restore.source", &text);
    }
    let done = if report.dry_run { "would restore" } else { "restored" };
    let mut text = format!("{done} {} to {}", format_size(report.bytes_restored), report.target);
    let counted = [(report.unchanged, "unchanged"), (report.kept, "kept"), (report.deleted, "deleted")];
    for (count, what) in counted.into_iter().filter(|(count, _)| *count > 0) {
        let would = if report.dry_run && what == "deleted" { "would be " } else { "" };
        text.push_str(&format!(", {} {would}{what}", format_count(count)));
    }
    if report.left_out > 0 {
        text.push_str(&format!("; {} entries were left out, see the warnings", format_count(report.left_out)));
    }
    say(invocation, "restore.summary", &text);
}

/// Says what the summary holds in JSON, where only the log wants it as a line.
pub(super) fn say(invocation: &Invocation, id: &str, text: &str) {
    match invocation.global.json {
        true => invocation.output.log(LogLevel::Info, id, "", text),
        false => invocation.output.note(id, text),
    }
}

/// Errors of a restore, for people.
pub(super) fn failure_of(error: Error, target: &Path) -> Failure {
    let of = |exit, id| Failure::from_error(exit, id, &error);
    let shown = target.display();
    let left = format!("what was restored so far stays in {shown}; remove it before you restore there again");
    match &error {
        Error::Repository(_) | Error::Database(_) | Error::Target(_) | Error::Replace(_) => match error {
            Error::Replace(error) => Failure::from(error),
            Error::Repository(error) => Failure::from(error).hint(left),
            Error::Database(error) => missing_roles(Failure::from(error)),
            Error::Target(error) => Failure::from(error),
            _ => Failure::new(ExitCode::Failed, "restore", "The restore failed"),
        },
        Error::Unusable { .. } => of(ExitCode::Refused, "target.unusable")
            .hint("name a directory that can be made, and written, by this user; nothing was touched"),
        Error::NotADirectory { .. } => {
            of(ExitCode::Refused, "target.exists").hint("name a new or empty directory; nothing was touched")
        }
        Error::NoSuchSource { available, .. } | Error::NothingSelected { available, .. } => {
            of(ExitCode::SnapshotNotFound, "source.not_found").hint(format!("it has {}", available.join(", ")))
        }
        Error::OnlyFailed { failed, .. } => {
            let mut failure = of(ExitCode::SnapshotNotFound, "source.failed_in_snapshot");
            for source in failed {
                failure = failure.cause(format!("{}: {}", source.name, source.reason));
                failure = match &source.newest_good_id {
                    Some(id) => failure.hint(format!("the newest good snapshot of {} is {id}", source.name)),
                    None => failure.hint(format!("no other snapshot of this host holds {}", source.name)),
                };
            }
            failure
        }
        Error::NoSuchPath { .. } => of(ExitCode::SnapshotNotFound, "path.not_found")
            .hint("paths are absolute, as in latest:/srv/app/config; `holdfast ls SELECTOR` lists them"),
        Error::SeveralDatabases { names, .. } => of(ExitCode::Usage, "restore.several_databases")
            .hint(format!("name one with --source: {}", names.join(", "))),
        Error::WrongKind { name, .. } => of(ExitCode::Usage, "restore.kind")
            .hint("PostgreSQL sources take --to postgres://..., SQLite sources --to PATH")
            .hint(format!("`holdfast dump SELECTOR {name}` writes the bytes of any other source")),
        Error::Thread { .. } => of(ExitCode::Failed, "restore.thread").hint(left),
        Error::Interrupted => Failure::interrupted(ExitCode::Interrupted).hint(left),
    }
}

/// A dump names the owners of its objects, and a new server does not know them.
fn missing_roles(failure: Failure) -> Failure {
    let unknown = |line: &String| line.contains("role \"") && line.contains("\" does not exist");
    if failure.causes.iter().any(unknown) {
        return failure.hint(
            "make the roles first: `holdfast restore SELECTOR --target DIR` writes them to DIR/NAME.globals.sql, for psql",
        );
    }
    failure
}

fn into_database(
    invocation: &Invocation,
    args: &RestoreArgs,
    repository: &ReadingRepository,
    chosen: &Chosen,
    to: &str,
) -> Result<ExitCode, Failure> {
    let snapshot = &chosen.snapshot.snapshot;
    if chosen.path.is_some() {
        return Err(Failure::usage("restore.path", "A path names files, and --to restores a database")
            .hint("leave out the path, or restore into a directory with --target DIR"));
    }
    let selection = selection(args, None)?;
    let wanted = if is_connection(to) { SourceKind::Postgres } else { SourceKind::Sqlite };
    let source =
        database::choose_for_new(snapshot, &selection, wanted).map_err(|error| failure_of(error, Path::new(to)))?;
    if let Some(reason) = &source.failure {
        return Err(failed_source(repository, snapshot, source, reason)?);
    }
    let report = if wanted == SourceKind::Postgres {
        let (connection, search) = net::server(invocation, &source.name, to)?;
        let target = connection.without_password();
        if invocation.global.dry_run {
            return would(invocation, repository, source, &target);
        }
        let means = PostgresMeans { processes: &invocation.processes, search: &search, connection: &connection };
        let (observer, cancel) = (invocation.observer(), &invocation.cancel);
        database::to_postgres(&repository.reading, snapshot, source, &means, observer, cancel)
    } else {
        let path = invocation.environment.directory.join(to);
        if invocation.global.dry_run {
            return would(invocation, repository, source, &path.display().to_string());
        }
        let (observer, cancel) = (invocation.observer(), &invocation.cancel);
        database::to_sqlite(&repository.reading, snapshot, source, &path, observer, cancel)
    };
    let report = report.map_err(database_failure)?;
    print_database(invocation, &report);
    if !report.differences.is_empty() {
        let _ = repository.conclude(invocation, ExitCode::NotRolledBack);
        return Err(different_rows(&report));
    }
    repository.conclude(invocation, ExitCode::Success)
}

/// As [`failure_of`], for a database: nothing of it is left unless the error says so.
pub(super) fn database_failure(error: Error) -> Failure {
    match error {
        Error::Repository(error) => Failure::from(error).hint("nothing of the restore was left behind"),
        Error::Interrupted => {
            Failure::interrupted(ExitCode::Interrupted).hint("nothing of the restore was left behind")
        }
        Error::Database(target::database::TargetError::Client(crate::source::SourceError::Interrupted)) => {
            Failure::interrupted(ExitCode::Interrupted).hint("nothing of the restore was left behind")
        }
        Error::Database(error @ target::database::TargetError::Exists { .. }) => {
            Failure::from(error).hint("--clean replaces it, with a way back")
        }
        other => failure_of(other, Path::new("")),
    }
}

pub(super) fn failed_source(
    repository: &ReadingRepository,
    snapshot: &Snapshot,
    source: &SourceRecord,
    reason: &str,
) -> Result<Failure, Failure> {
    let history = repository.snapshots()?;
    let good = restore::newest_good(&history, &snapshot.system.host, &source.name);
    let failed = restore::FailedSource {
        name: source.name.clone(),
        reason: reason.to_owned(),
        newest_good_id: good.map(|snapshot| snapshot.id.hex()),
    };
    let error = Error::OnlyFailed { snapshot: snapshot.id.short(), failed: vec![failed] };
    Ok(failure_of(error, Path::new("")))
}

fn would(
    invocation: &Invocation,
    repository: &ReadingRepository,
    source: &SourceRecord,
    target: &str,
) -> Result<ExitCode, Failure> {
    let text = format!("would restore {} into the new database {target}", source.name);
    invocation.output.note("restore.would", &text);
    repository.conclude(invocation, ExitCode::Success)
}

fn print_database(invocation: &Invocation, report: &DatabaseReport) {
    if invocation.global.json {
        invocation.output.json(Kind::Summary, report);
    } else {
        for note in &report.notes {
            invocation.output.warning("restore.note", Some(&report.source), "", note);
        }
    }
    let rows = match report.tables_compared {
        0 => "no rows were recorded to compare".to_owned(),
        n => format!("rows of {} tables compared", format_count(n)),
    };
    let size = format_size(report.bytes_restored);
    let text = format!("restored {} ({size}) into {}; {rows}", report.source, report.target);
    say(invocation, "restore.summary", &text);
}

fn different_rows(report: &DatabaseReport) -> Failure {
    let message = format!(
        "{} was restored, but {} tables do not have the rows of the snapshot",
        report.target,
        report.differences.len()
    );
    let mut failure = Failure::new(ExitCode::NotRolledBack, "restore.rows", message);
    for difference in report.differences.iter().take(LOST_SHOWN_MAX) {
        let now = difference.restored.map_or_else(|| "the table is missing".to_owned(), |n| format!("{n} rows now"));
        failure = failure.cause(format!("{}: {} rows recorded, {now}", difference.table, difference.recorded));
    }
    failure.hint("the database is left as it is, for a look; do not use it in place of the original")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_connection_strings_are_told_from_paths() {
        for text in
            ["postgres://h/db", "postgresql:///db?host=/run", "dbname=x host=/run/postgresql", "host=h dbname=x"]
        {
            assert!(is_connection(text), "{text}");
        }
        for text in ["/tmp/new.db", "new.sqlite3", "dir/a=b.db", "./x"] {
            assert!(!is_connection(text), "{text}");
        }
    }

    #[test]
    fn an_unknown_role_gets_its_hint() {
        let failure =
            Failure::new(ExitCode::RolledBack, "target.failed", "x").cause("ERROR:  role \"app\" does not exist");
        assert!(missing_roles(failure).hints[0].contains("globals.sql"));
        assert!(missing_roles(Failure::usage("x", "y")).hints.is_empty());
    }
}
