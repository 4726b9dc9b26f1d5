//! Restores a PostgreSQL dump into a new database, and turns an archive into SQL.
//!
//! The database is created here and only here, so it is ours to drop when the restore fails: no restore ever touches a
//! database that existed before. The programs stop at the first error. A plain script is run by `psql`, which obeys what
//! stands in it, `\!` included: it must come from a repository whose objects are authenticated.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::time::Duration;

use super::database::{RestoreReport, TargetError, compare};
use crate::domain::snapshot::TableRows;
use crate::source::SourceError;
use crate::source::command::cannot_start;
use crate::source::postgres::client::ClientTools;
use crate::source::postgres::connect::Connection;
use crate::source::postgres::dump::client_program;
use crate::source::postgres::tls::explain;
use crate::source::process::{Child, ChildRead, Exit, ProcessSpec, Processes, StdinMode};

/// Databases that a session is opened in to create and drop others.
const MAINTENANCE: [&str; 2] = ["postgres", "template1"];
/// A restore that has all its input builds indexes for as long as it takes; this only bounds a hang.
const FINISH_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3600);

/// What kind of dump is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DumpFormat {
    /// `pg_dump --format=custom`, by `pg_restore`.
    Archive,
    /// A plain SQL script, by `psql`, in one transaction.
    Script,
}

/// How a dump is restored.
#[derive(Debug, Clone, Copy, Default)]
pub struct RestoreOptions {
    /// Everything belongs to the user who restores; needed where the original roles do not exist (archives only).
    pub no_owner: bool,
    /// Leaves out GRANT and REVOKE (archives only).
    pub no_privileges: bool,
    /// One part of the dump alone (archives only).
    pub section: Option<Section>,
}

/// The three parts of a dump, in the order in which they are restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// Definitions that the rows need.
    Before,
    /// Rows, large objects, values of sequences.
    Data,
    /// Indexes, constraints, triggers and the like.
    After,
}

impl Section {
    fn argument(self) -> &'static str {
        match self {
            Self::Before => "--section=pre-data",
            Self::Data => "--section=data",
            Self::After => "--section=post-data",
        }
    }
}

/// A restore in progress. Dropping it ends the program and drops the database.
pub struct PostgresRestore {
    connection: Connection,
    child: Option<Box<dyn Child>>,
    stdin: Option<Box<dyn Write + Send>>,
    program: String,
    /// True while a database of ours may exist that no good restore has claimed.
    ours: bool,
}

impl PostgresRestore {
    /// Creates the connection's database, empty, and starts the program that fills it.
    /// # Errors
    /// [`TargetError::Exists`] when the database exists; [`TargetError::Client`] and [`TargetError::Server`] when the
    /// server or the program cannot be used. Nothing is left then.
    pub fn create(
        processes: &dyn Processes,
        tools: &ClientTools,
        connection: &Connection,
        format: DumpFormat,
        options: RestoreOptions,
    ) -> Result<Self, TargetError> {
        create_database(connection)?;
        Self::fill(processes, tools, connection, format, options)
    }

    /// Starts the program that fills the connection's database, which the caller has created, empty, and gives away: it
    /// is dropped when the restore fails.
    /// # Errors
    /// [`TargetError::Client`] when the program cannot be started; the database is gone then.
    pub fn fill(
        processes: &dyn Processes,
        tools: &ClientTools,
        connection: &Connection,
        format: DumpFormat,
        options: RestoreOptions,
    ) -> Result<Self, TargetError> {
        let mut spec = restore_program(tools, connection, format, options);
        spec.stdin = StdinMode::Pipe;
        let program = if format == DumpFormat::Archive { "pg_restore" } else { "psql" };
        let mut restore =
            Self { connection: connection.clone(), child: None, stdin: None, program: program.to_owned(), ours: true };
        let mut child = processes.spawn(&spec).map_err(|error| TargetError::Client(cannot_start(&spec, &error)))?;
        restore.stdin = child.take_stdin();
        restore.child = Some(child);
        Ok(restore)
    }

    /// Takes the next bytes of the dump.
    /// # Errors
    /// [`TargetError::Failed`] when the program has ended; the database is gone then.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), TargetError> {
        let Some(stdin) = self.stdin.as_mut() else { return Err(self.failed(None)) };
        match stdin.write_all(bytes) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.failed(Some(error))),
        }
    }

    /// Waits for the program, judges it, and compares the rows with the recorded ones.
    /// # Errors
    /// [`TargetError::Failed`] when the program did not succeed; the database is gone then.
    /// [`TargetError::Server`] when the rows cannot be counted; the database is kept, because it is whole.
    pub fn finish(mut self, recorded: &[TableRows]) -> Result<RestoreReport, TargetError> {
        let flushed = self.stdin.take().map_or(Ok(()), |mut stdin| stdin.flush());
        if let Err(error) = flushed {
            return Err(self.failed(Some(error)));
        }
        let Some(child) = self.child.as_mut() else { return Err(self.failed(None)) };
        drain(child.as_mut());
        match child.wait(Some(FINISH_TIMEOUT)) {
            Ok(Some(exit)) if exit.success() => {}
            _ => return Err(self.failed(None)),
        }
        let said = child.stderr_tail();
        self.ours = false;
        let restored = count_rows(&self.connection, recorded)?;
        let mut report = compare(recorded, &restored);
        report.notes = (!said.is_empty()).then_some(said).into_iter().collect();
        Ok(report)
    }

    /// Ends the program, removes the database, and tells what happened.
    fn failed(&mut self, write_error: Option<io::Error>) -> TargetError {
        self.stdin = None;
        let (mut outcome, mut stderr) = (String::new(), String::new());
        if let Some(mut child) = self.child.take() {
            // A program that closed its input is about to tell why; one that did not is ended.
            match child.wait(Some(Duration::from_secs(10))) {
                Ok(Some(Exit::Code(0))) => {
                    "ended before it had read the whole dump".clone_into(&mut outcome);
                }
                Ok(Some(exit)) => outcome = exit.to_string(),
                Ok(None) => "was ended".clone_into(&mut outcome),
                Err(error) => outcome = format!("cannot be waited for: {error}"),
            }
            child.kill();
            stderr = child.stderr_tail();
        }
        if outcome.is_empty() {
            outcome = write_error.map_or("is not running".into(), |error| format!("cannot be written to: {error}"));
        }
        let removed = self.remove();
        let target = self.connection.without_password();
        TargetError::Failed { program: self.program.clone(), outcome, stderr, target, removed }
    }

    fn remove(&mut self) -> bool {
        if !self.ours {
            return false;
        }
        self.ours = false;
        drop_database(&self.connection)
    }
}

impl Drop for PostgresRestore {
    fn drop(&mut self) {
        self.stdin = None;
        if let Some(mut child) = self.child.take() {
            child.kill();
        }
        self.remove();
    }
}

fn restore_program(
    tools: &ClientTools,
    connection: &Connection,
    format: DumpFormat,
    options: RestoreOptions,
) -> ProcessSpec {
    let mut args: Vec<OsString> = Vec::new();
    match format {
        DumpFormat::Archive => {
            args.push("--exit-on-error".into());
            args.extend(options.no_owner.then(|| "--no-owner".into()));
            args.extend(options.no_privileges.then(|| "--no-privileges".into()));
            args.extend(options.section.map(|section| section.argument().into()));
            client_program(tools, "pg_restore", args, connection)
        }
        DumpFormat::Script => {
            // `--file=-` because psql makes one transaction only of what it reads as a file.
            let words = [
                "--no-psqlrc",
                "--quiet",
                "--output=/dev/null",
                "--set=ON_ERROR_STOP=1",
                "--single-transaction",
                "--file=-",
            ];
            args.extend(words.map(OsString::from));
            client_program(tools, "psql", args, connection)
        }
    }
}

/// Reads what a program says on stdout, so that it never waits for a reader.
fn drain(child: &mut dyn Child) {
    let mut buffer = [0u8; 4096];
    while matches!(child.read(&mut buffer, None), Ok(ChildRead::Bytes(n)) if n > 0) {}
}

/// An identifier in quotes.
pub(super) fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

fn server_error(
    operation: &'static str,
    connection: &Connection,
    error: &postgres::Error,
    removed: bool,
) -> TargetError {
    TargetError::Server { operation, target: connection.without_password(), reason: explain(error), removed }
}

/// The server refused something before anything was made, or took it back.
pub(super) fn refused(operation: &'static str, connection: &Connection, error: &postgres::Error) -> TargetError {
    TargetError::Server { operation, target: connection.without_password(), reason: explain(error), removed: true }
}

/// A session in a database that is always there.
pub(super) fn maintenance_session(connection: &Connection) -> Result<postgres::Client, SourceError> {
    let mut refused = None;
    for database in MAINTENANCE {
        match connection.clone().with_database(database).open() {
            Ok(client) => return Ok(client),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    Err(refused.unwrap_or(SourceError::Interrupted))
}

fn create_database(connection: &Connection) -> Result<(), TargetError> {
    let mut client = maintenance_session(connection)?;
    let fail = |error: postgres::Error| server_error("create database", connection, &error, true);
    let name = connection.database();
    let exists = || TargetError::Exists { target: format!("Database {}", connection.without_password()) };
    if client.query_opt("select from pg_catalog.pg_database where datname = $1", &[&name]).map_err(fail)?.is_some() {
        return Err(exists());
    }
    // From template0, because what an administrator put into template1 would clash with the dump.
    match client.batch_execute(&format!("create database {} template template0", quoted(name))) {
        Err(error) if error.code() == Some(&postgres::error::SqlState::DUPLICATE_DATABASE) => Err(exists()),
        other => other.map_err(fail),
    }
}

/// Drops a database that this room created. True when it is gone.
pub(super) fn drop_database(connection: &Connection) -> bool {
    drop_subscriptions(connection);
    let Ok(mut client) = maintenance_session(connection) else { return false };
    let name = quoted(connection.database());
    // The server may still be ending the session of a killed program; FORCE ends it (PostgreSQL 13 and later).
    client.batch_execute(&format!("drop database if exists {name} with (force)")).is_ok()
        || client.batch_execute(&format!("drop database if exists {name}")).is_ok()
}

/// No database can be dropped as long as it has a subscription. Nothing is said to the publisher: its slot belongs to
/// the database that the dump was made of.
fn drop_subscriptions(connection: &Connection) {
    let Ok(mut client) = connection.open() else { return };
    let names = "select s.subname from pg_catalog.pg_subscription s join pg_catalog.pg_database d on d.oid = s.subdbid \
                 where d.datname = current_database()";
    // Only a superuser, or a member of pg_create_subscription, can have made one; others may not even look.
    for row in client.query(names, &[]).unwrap_or_default() {
        let Ok(name) = row.try_get::<_, String>(0) else { continue };
        let name = quoted(&name);
        let statements = format!(
            "alter subscription {name} disable; alter subscription {name} set (slot_name = none); drop subscription {name}"
        );
        // What fails here fails when the database is dropped, and is told then.
        let _ = client.batch_execute(&statements);
    }
}

/// Counts the rows of the recorded tables that exist.
fn count_rows(connection: &Connection, recorded: &[TableRows]) -> Result<Vec<TableRows>, TargetError> {
    if recorded.is_empty() {
        return Ok(Vec::new());
    }
    let mut client = connection.open()?;
    let fail = |error: postgres::Error| server_error("count the rows of", connection, &error, false);
    client.batch_execute("set row_security = off").map_err(fail)?;
    let names = "select n.nspname, c.relname from pg_catalog.pg_class c \
                 join pg_catalog.pg_namespace n on n.oid = c.relnamespace where c.relkind in ('r', 'p')";
    // The record joins schema and table by a dot, which may also stand within a name: compare joined names.
    let mut known = BTreeMap::new();
    for row in client.query(names, &[]).map_err(fail)? {
        let (schema, table): (String, String) = (row.try_get(0).map_err(fail)?, row.try_get(1).map_err(fail)?);
        known.insert(format!("{schema}.{table}"), (schema, table));
    }
    let mut counted = Vec::new();
    for wanted in recorded {
        let Some((schema, table)) = known.get(&wanted.table) else { continue };
        // ONLY, because a dump holds the rows of a parent and of its children apart.
        let query = format!("select count(*) from only {}.{}", quoted(schema), quoted(table));
        let count: i64 = client.query_one(&query, &[]).and_then(|row| row.try_get(0)).map_err(fail)?;
        counted.push(TableRows { table: wanted.table.clone(), rows: u64::try_from(count).unwrap_or_default() });
    }
    Ok(counted)
}

/// An archive being turned into plain SQL: bytes of the archive go in, SQL comes out into a sink.
pub struct SqlConversion {
    stdin: Option<Box<dyn Write + Send>>,
    worker: Option<std::thread::JoinHandle<Outcome>>,
}

/// How a program ended whose stdout went into a sink.
pub(super) struct Outcome {
    pub(super) copied: io::Result<()>,
    pub(super) exit: io::Result<Option<Exit>>,
    pub(super) stderr: String,
}

impl SqlConversion {
    /// Starts `pg_restore --file=-`. The sink is written by a thread of its own.
    /// # Errors
    /// [`TargetError::Client`] when the program cannot be started.
    pub fn start(
        processes: &dyn Processes,
        tools: &ClientTools,
        sink: Box<dyn Write + Send>,
    ) -> Result<Self, TargetError> {
        let mut spec = tools.program("pg_restore", ["--file=-"]);
        spec.stdin = StdinMode::Pipe;
        let mut child = processes.spawn(&spec).map_err(|error| cannot_start(&spec, &error))?;
        let stdin = child.take_stdin();
        let worker = std::thread::Builder::new()
            .name("to-sql".into())
            .spawn(move || copy_out(child, sink))
            .map_err(|error| cannot_start(&spec, &error))?;
        Ok(Self { stdin, worker: Some(worker) })
    }

    /// Takes the next bytes of the archive.
    /// # Errors
    /// [`TargetError::Failed`] or, when the sink refused, [`TargetError::Path`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), TargetError> {
        let written = self.stdin.as_mut().map_or(Ok(()), |stdin| stdin.write_all(bytes));
        written.map_err(|error| match self.judge() {
            Ok(()) => conversion_failed(format!("stopped reading the archive: {error}"), String::new()),
            Err(reason) => reason,
        })
    }

    /// Waits for the last byte of SQL and judges.
    /// # Errors
    /// As [`Self::write`].
    pub fn finish(mut self) -> Result<(), TargetError> {
        self.judge()
    }

    fn judge(&mut self) -> Result<(), TargetError> {
        self.stdin = None;
        let Some(worker) = self.worker.take() else { return Ok(()) };
        let Ok(outcome) = worker.join() else {
            return Err(conversion_failed("was lost".into(), String::new()));
        };
        if let Err(source) = outcome.copied {
            return Err(TargetError::Path { operation: "write the SQL to", path: "the output".into(), source });
        }
        match outcome.exit {
            Ok(Some(exit)) if exit.success() => Ok(()),
            Ok(Some(exit)) => Err(conversion_failed(exit.to_string(), outcome.stderr)),
            Ok(None) => Err(conversion_failed("did not end and was killed".into(), outcome.stderr)),
            Err(error) => Err(conversion_failed(format!("cannot be waited for: {error}"), outcome.stderr)),
        }
    }
}

impl Drop for SqlConversion {
    fn drop(&mut self) {
        // Without its input pg_restore ends, and with it the worker.
        let _ = self.judge();
    }
}

fn conversion_failed(outcome: String, stderr: String) -> TargetError {
    TargetError::Client(SourceError::Failed { program: "pg_restore".into(), outcome, stderr })
}

/// Copies what a program says into a sink, to its end.
pub(super) fn copy_out(mut child: Box<dyn Child>, mut sink: Box<dyn Write + Send>) -> Outcome {
    let mut buffer = vec![0u8; 64 * 1024];
    let copied = loop {
        match child.read(&mut buffer, None) {
            Ok(ChildRead::Bytes(0)) => break sink.flush(),
            Ok(ChildRead::Bytes(n)) => {
                if let Err(error) = sink.write_all(buffer.get(..n).unwrap_or_default()) {
                    break Err(error);
                }
            }
            Ok(ChildRead::Stalled | ChildRead::Interrupted) => {
                break Err(io::Error::new(io::ErrorKind::Interrupted, "interrupted"));
            }
            Err(error) => break Err(error),
        }
    };
    if copied.is_err() {
        child.kill();
    }
    let exit = child.wait(Some(Duration::from_secs(60)));
    Outcome { copied, exit, stderr: child.stderr_tail() }
}
