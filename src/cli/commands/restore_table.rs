//! `restore --table`: single tables of a dump, into a database that exists or as a script.

use super::net;
use super::restore::{database_failure, failed_source, failure_of, say, selection};
use crate::cli::args::restore::RestoreArgs;
use crate::cli::args::url::is_connection;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::json::Kind;
use crate::cli::opening::{Chosen, ReadingRepository};
use crate::cli::settings::suggest::nearest;
use crate::domain::units::format_count;
use crate::ops::proof::Proof;
use crate::ops::restore::NoTable;
use crate::ops::restore::database::PostgresMeans;
use crate::ops::restore::tables::{self, ScriptMeans, TablesError, TablesReport, Wanted};
use std::path::{Path, PathBuf};

/// Differences and tables that a failure names.
const NAMED_MAX: usize = 10;

/// Restores tables and says what came with them.
pub(super) fn run(
    invocation: &Invocation,
    args: &RestoreArgs,
    repository: &ReadingRepository,
    chosen: &Chosen,
) -> Result<ExitCode, Failure> {
    let snapshot = &chosen.snapshot.snapshot;
    if chosen.path.is_some() {
        return Err(Failure::usage("restore.path", "A path names files, and --table a table of a database")
            .hint("leave out the path"));
    }
    if args.target.is_none() && args.to.is_none() {
        return Err(Failure::usage("restore.table_place", "A table needs a place to go to").hint(
            "--to postgres://... restores it into a database where it does not exist, --target DIR writes a script",
        ));
    }
    let source = tables::choose(snapshot, &selection(args, None)?, &args.tables);
    let source = source.map_err(|error| failure_of(error, Path::new("")))?;
    if let Some(reason) = &source.failure {
        return Err(failed_source(repository, snapshot, source, reason)?);
    }
    let temp_dir = invocation.environment.path("TMPDIR").unwrap_or_else(|| PathBuf::from("/tmp"));
    let wanted = Wanted {
        snapshot,
        source,
        tables: &args.tables,
        temp_dir: &temp_dir,
        random: &invocation.random,
        dry_run: invocation.global.dry_run,
    };
    let (observer, cancel) = (invocation.observer(), &invocation.cancel);
    let report = match (&args.to, &args.target) {
        (Some(to), _) if !is_connection(to) => {
            return Err(Failure::usage("restore.kind", "Single tables are taken out of PostgreSQL dumps")
                .hint("restore a SQLite source as a whole with --to PATH, and take the table out with sqlite3"));
        }
        (Some(to), _) => {
            let (connection, search) = net::server(invocation, &source.name, to)?;
            let means = PostgresMeans { processes: &invocation.processes, search: &search, connection: &connection };
            tables::into_database(&repository.reading, &wanted, &means, observer, cancel)
        }
        (None, target) => {
            let folder = invocation.environment.directory.join(target.as_deref().unwrap_or(Path::new(".")));
            let search = net::local_search(invocation, &source.name)?;
            let means = ScriptMeans { processes: &invocation.processes, search: &search };
            let path = folder.join(script_name(&source.name, &args.tables));
            tables::into_script(&repository.reading, &wanted, &means, &path, observer, cancel)
        }
    };
    let report = report.map_err(tables_failure)?;
    print(invocation, &report);
    repository.conclude(invocation, ExitCode::Success)
}

/// `app-db.public.orders.sql`, or `app-db.tables.sql` for several.
fn script_name(source: &str, names: &[String]) -> String {
    let what = match names {
        [one] => one.replace('"', ""),
        _ => "tables".to_owned(),
    };
    let safe = |c: char| if c == '/' || c.is_control() { '_' } else { c };
    format!("{source}.{what}.sql").chars().map(safe).collect()
}

fn print(invocation: &Invocation, report: &TablesReport) {
    if invocation.global.json {
        invocation.output.json(Kind::Summary, report);
    } else {
        for note in &report.notes {
            invocation.output.warning("restore.note", Some(&report.source), "", note);
        }
    }
    let along: Vec<String> =
        report.sequences.iter().map(|name| format!("sequence {name}")).chain(report.made.iter().cloned()).collect();
    let along = if along.is_empty() { String::new() } else { format!(", with {}", along.join(", ")) };
    for table in &report.tables {
        let rows = match table.rows_restored {
            Some(rows) => format!(" ({} rows, equal)", format_count(rows)),
            None => String::new(),
        };
        say(invocation, "restore.table", &format!("table {}.{}{rows}", table.schema, table.table));
    }
    let done = if report.dry_run { "would restore" } else { "restored" };
    let tables =
        if report.tables.len() == 1 { "1 table".to_owned() } else { format!("{} tables", report.tables.len()) };
    let text = format!("{done} {tables} of {} into {}{along}", report.source, report.target);
    say(invocation, "restore.summary", &text);
}

fn tables_failure(error: TablesError) -> Failure {
    let of = |exit, id| Failure::from_error(exit, id, &error);
    match &error {
        TablesError::Restore(_) => match error {
            TablesError::Restore(error) => database_failure(error),
            _ => Failure::new(ExitCode::Failed, "restore", "The restore failed"),
        },
        TablesError::NotReadable { .. } => of(ExitCode::Usage, "restore.table_source")
            .hint("tables are taken out of what holdfast saved with pg_dump; restore the source as a whole"),
        TablesError::NoSuchTable { wrong, available, .. } => wrong
            .iter()
            .fold(of(ExitCode::SnapshotNotFound, "restore.no_such_table"), |failure, no| failure.hint(near(no, available))),
        TablesError::Present { .. } => of(ExitCode::Refused, "restore.table_exists")
            .hint("nothing was touched: rename or drop it first, or restore into another database and copy the rows that you need"),
        TablesError::Missing { .. } => of(ExitCode::Refused, "restore.table_needs")
            .hint("nothing was touched: make these first, or restore everything into a new database with --to"),
        TablesError::Elsewhere => of(ExitCode::Usage, "restore.table_elsewhere")
            .hint("restore everything into a new database with --to, or name client programs of this machine as pg_bin_dir"),
        TablesError::Differs { proof, .. } => different(of(ExitCode::RolledBack, "restore.table_differs"), proof),
        TablesError::Left { reason, .. } => of(ExitCode::NotRolledBack, "restore.table_left")
            .cause(reason.clone())
            .hint("nothing that was there before was changed; drop these tables when the server is back, then try again"),
        TablesError::Proof(crate::ops::proof::Error::Interrupted) => Failure::interrupted(ExitCode::Interrupted)
            .hint("nothing of the restore was left behind"),
        TablesError::Proof(_) => of(ExitCode::RolledBack, "restore.table_unproved")
            .hint("what was restored could not be proved and was removed again"),
        TablesError::Io { source, .. } if crate::cli::errors::is_no_space(source) => of(ExitCode::NoSpace, "target.no_space"),
        TablesError::Io { .. } => of(ExitCode::RolledBack, "target.path"),
    }
}

fn different(failure: Failure, proof: &Proof) -> Failure {
    proof.differences.iter().take(NAMED_MAX).fold(failure, |failure, difference| failure.cause(difference.clone()))
}

/// What may have been meant.
fn near(no: &NoTable, available: &[String]) -> String {
    match no.found.as_slice() {
        [] => {}
        [one] => return format!("{} is a {one}, and only tables are restored alone", no.name),
        several => return format!("{} may be {}: name it with its schema", no.name, several.join(" or ")),
    }
    let wanted = no.name.replace('"', "");
    let bare = |name: &'_ String| name.rsplit_once('.').map_or(name.clone(), |(_, table)| table.to_owned());
    let tables: Vec<String> = available.iter().map(bare).collect();
    let table = bare(&wanted);
    let by_name = nearest(&table, tables.iter().map(String::as_str)).and_then(|name| {
        available.iter().find(|full| full.rsplit_once('.').is_some_and(|(_, table)| table == name)).cloned()
    });
    let found = by_name.or_else(|| nearest(&wanted, available.iter().map(String::as_str)).map(str::to_owned));
    match found {
        Some(found) => format!("did you mean {found}?"),
        None => {
            let shown = available.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
            let more = available.len().saturating_sub(NAMED_MAX);
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            format!("its tables are {shown}{more}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_table_is_named_with_its_schema() {
        let available = ["public.orders".to_owned(), "shop.items".to_owned()];
        let no = |name: &str| NoTable { name: name.to_owned(), found: Vec::new() };
        for (name, hint) in [
            ("ordres", "did you mean public.orders?"),
            ("public.ordesr", "did you mean public.orders?"),
            ("public.items", "did you mean shop.items?"),
            ("completely_else", "its tables are public.orders, shop.items"),
        ] {
            assert_eq!(near(&no(name), &available), hint);
        }
    }

    #[test]
    fn a_script_has_a_name_that_is_one() {
        assert_eq!(script_name("app", &["a/b.\"C\"".into()]), "app.a_b.C.sql");
        assert_eq!(script_name("app", &["a".into(), "b".into()]), "app.tables.sql");
    }
}
