//! A part of an archive, by the numbers of its entries: into a database that exists, in one transaction, or as a script.
//!
//! `pg_restore` takes the numbers from a file and ends as soon as it has read the last entry that it wants, so that it
//! closes its input early is no fault: its exit status decides.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;

use tempfile::NamedTempFile;

use super::database::TargetError;
use super::postgres::{Outcome, copy_out, quoted, refused};
use super::scratch::server_facts;
use crate::source::command::cannot_start;
use crate::source::postgres::client::ClientTools;
use crate::source::postgres::connect::Connection;
use crate::source::postgres::dump::client_program;
use crate::source::process::{Child, ProcessSpec, Processes, StdinMode};

/// Where the part goes.
pub enum ListedTarget<'a> {
    /// Into a database that exists.
    Database {
        /// The database.
        connection: &'a Connection,
        /// Everything belongs to the user who restores.
        no_owner: bool,
        /// All of it in one transaction; otherwise of these only what holds rows and values.
        whole: bool,
    },
    /// As SQL into this sink, which a thread of its own writes.
    Script(Box<dyn Write + Send>),
}

/// `pg_restore` of some entries of an archive.
pub struct ListedRestore {
    stdin: Option<Box<dyn Write + Send>>,
    worker: Option<std::thread::JoinHandle<Outcome>>,
    target: String,
    _list: NamedTempFile,
}

impl std::fmt::Debug for ListedRestore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ListedRestore({})", self.target)
    }
}

impl ListedRestore {
    /// Starts the program. `entries` are numbers of the archive's table of contents, in its order; `temp_dir` takes a
    /// small file.
    /// # Errors
    /// [`TargetError::Client`] when it cannot be started, [`TargetError::Path`] when the file cannot be written.
    pub fn start(
        processes: &dyn Processes,
        tools: &ClientTools,
        temp_dir: &Path,
        entries: &[i64],
        target: ListedTarget<'_>,
    ) -> Result<Self, TargetError> {
        let list = write_list(temp_dir, entries).map_err(|source| TargetError::Path {
            operation: "write a list in",
            path: temp_dir.to_owned(),
            source,
        })?;
        let mut args: Vec<OsString> = vec!["--exit-on-error".into()];
        let mut word = OsString::from("--use-list=");
        word.push(list.path());
        args.push(word);
        let (mut spec, sink, name) = match target {
            ListedTarget::Database { connection, no_owner, whole } => {
                args.push(if whole { "--single-transaction" } else { "--section=data" }.into());
                args.extend(no_owner.then(|| "--no-owner".into()));
                let spec = client_program(tools, "pg_restore", args, connection);
                (spec, Box::new(io::sink()) as Box<dyn Write + Send>, connection.without_password())
            }
            ListedTarget::Script(sink) => {
                args.push("--file=-".into());
                (tools.program("pg_restore", args), sink, "the script".to_owned())
            }
        };
        spec.stdin = StdinMode::Pipe;
        let mut child = processes.spawn(&spec).map_err(|error| TargetError::Client(cannot_start(&spec, &error)))?;
        let stdin = child.take_stdin();
        let worker = spawn_worker(child, sink, &spec)?;
        Ok(Self { stdin, worker: Some(worker), target: name, _list: list })
    }

    /// Takes the next bytes of the archive.
    /// # Errors
    /// [`TargetError::Undone`] when the program cannot be written to for another reason than that it wants no more.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), TargetError> {
        let Some(stdin) = self.stdin.as_mut() else { return Ok(()) };
        match stdin.write_all(bytes) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.stdin = None;
                Ok(())
            }
            Err(error) => Err(self.undone(format!("cannot be written to: {error}"), String::new())),
        }
    }

    /// Waits for the program. Returns what it said although it succeeded.
    /// # Errors
    /// [`TargetError::Undone`], or [`TargetError::Path`] when the sink refused.
    pub fn finish(mut self) -> Result<Option<String>, TargetError> {
        if let Some(Err(error)) = self.stdin.take().map(|mut stdin| stdin.flush())
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            return Err(self.undone(format!("cannot be written to: {error}"), String::new()));
        }
        let Some(outcome) = self.worker.take().and_then(|worker| worker.join().ok()) else {
            return Err(self.undone("was lost".to_owned(), String::new()));
        };
        if let Err(source) = outcome.copied {
            return Err(TargetError::Path { operation: "write", path: self.target.as_str().into(), source });
        }
        match outcome.exit {
            Ok(Some(exit)) if exit.success() => Ok(Some(outcome.stderr).filter(|said| !said.is_empty())),
            Ok(Some(exit)) => Err(self.undone(exit.to_string(), outcome.stderr)),
            Ok(None) => Err(self.undone("did not end and was killed".to_owned(), outcome.stderr)),
            Err(error) => Err(self.undone(format!("cannot be waited for: {error}"), outcome.stderr)),
        }
    }

    fn undone(&self, outcome: String, stderr: String) -> TargetError {
        TargetError::Undone { program: "pg_restore".to_owned(), outcome, stderr, target: self.target.clone() }
    }
}

impl Drop for ListedRestore {
    fn drop(&mut self) {
        // Without its input the program ends, and with it the worker.
        self.stdin = None;
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

fn write_list(temp_dir: &Path, entries: &[i64]) -> io::Result<NamedTempFile> {
    let mut file = tempfile::Builder::new().prefix("holdfast-list-").tempfile_in(temp_dir)?;
    let lines: String = entries.iter().map(|number| format!("{number};\n")).collect();
    file.write_all(lines.as_bytes())?;
    file.flush()?;
    Ok(file)
}

fn spawn_worker(
    child: Box<dyn Child>,
    sink: Box<dyn Write + Send>,
    spec: &ProcessSpec,
) -> Result<std::thread::JoinHandle<Outcome>, TargetError> {
    let worker = std::thread::Builder::new().name("pg-restore".into()).spawn(move || copy_out(child, sink));
    worker.map_err(|error| TargetError::Client(cannot_start(spec, &error)))
}

/// What a database has, by name, as far as a restore of single tables must know it.
#[derive(Debug, Clone, Default)]
pub struct Present {
    /// Schemas.
    pub schemas: BTreeSet<String>,
    /// Tables, views, sequences, indexes: schema and name.
    pub relations: BTreeSet<(String, String)>,
    /// Types and domains: schema and name.
    pub types: BTreeSet<(String, String)>,
    /// Functions and procedures: schema, and name with arguments.
    pub functions: BTreeSet<(String, String)>,
    /// Extensions.
    pub extensions: BTreeSet<String>,
    /// Collations: schema and name.
    pub collations: BTreeSet<(String, String)>,
    /// Roles of the server.
    pub roles: BTreeSet<String>,
    /// The user may do everything.
    pub superuser: bool,
    /// The server's major version.
    pub major: u32,
}

/// Asks a database what it has.
/// # Errors
/// [`TargetError`]; also when there is no such database.
pub fn present(connection: &Connection) -> Result<Present, TargetError> {
    let fail = |error: postgres::Error| refused("look into", connection, &error);
    let mut client = connection.open()?;
    let facts = server_facts(connection)?;
    let mut pairs = |query: &str| -> Result<BTreeSet<(String, String)>, TargetError> {
        let rows = client.query(query, &[]).map_err(fail)?;
        rows.iter().map(|row| Ok((row.try_get(0).map_err(fail)?, row.try_get(1).map_err(fail)?))).collect()
    };
    let of = |name: &str, table: &str, space: &str| {
        format!(
            "select n.nspname::text, {name}::text from pg_catalog.{table} o \
             join pg_catalog.pg_namespace n on n.oid = o.{space}"
        )
    };
    let functions = "o.proname || '(' || pg_catalog.pg_get_function_identity_arguments(o.oid) || ')'";
    let first = |pairs: BTreeSet<(String, String)>| pairs.into_iter().map(|(name, _)| name).collect();
    Ok(Present {
        schemas: first(pairs("select nspname::text, '' from pg_catalog.pg_namespace")?),
        relations: pairs(&of("o.relname", "pg_class", "relnamespace"))?,
        types: pairs(&of("o.typname", "pg_type", "typnamespace"))?,
        functions: pairs(&of(functions, "pg_proc", "pronamespace"))?,
        extensions: first(pairs("select extname::text, '' from pg_catalog.pg_extension")?),
        collations: pairs(&of("o.collname", "pg_collation", "collnamespace"))?,
        roles: facts.roles,
        superuser: facts.superuser,
        major: facts.major,
    })
}

/// What was made beside the tables, in the order in which it was made: kind, schema, name.
pub type Made = (String, String, String);

/// Drops tables that were just made, as far as they are there, and what was made for them; all or nothing.
/// # Errors
/// [`TargetError`]; nothing was dropped then.
pub fn drop_made(connection: &Connection, tables: &[(String, String)], made: &[Made]) -> Result<(), TargetError> {
    let fail = |error: postgres::Error| refused("drop what was restored in", connection, &error);
    let full = |schema: &str, name: &str| format!("{}.{}", quoted(schema), quoted(name));
    let mut statements = String::from("begin;");
    let names: Vec<String> = tables.iter().map(|(schema, name)| full(schema, name)).collect();
    // A schema that is not there is no error with IF EXISTS.
    statements.push_str(&format!("drop table if exists {};", names.join(", ")));
    for (kind, schema, name) in made.iter().rev() {
        statements.push_str(&match kind.as_str() {
            "SCHEMA" => format!("drop schema if exists {};", quoted(name)),
            "SEQUENCE" | "DOMAIN" | "TYPE" | "COLLATION" => {
                format!("drop {} if exists {};", kind.to_lowercase(), full(schema, name))
            }
            _ => continue,
        });
    }
    statements.push_str("commit");
    connection.open()?.batch_execute(&statements).map_err(fail)
}

/// A table's name for a statement.
pub fn quoted_table(schema: &str, name: &str) -> String {
    format!("{}.{}", quoted(schema), quoted(name))
}

/// Pieces that may wait for the server.
const PIECES_WAITING: usize = 4;

/// Fills one table of a scratch database by `COPY`, in a transaction that empties it first. A thread of its own talks to
/// the server. Dropped before [`Self::finish`], it takes everything back.
#[derive(Debug)]
pub struct Filler {
    pieces: Option<crossbeam_channel::Sender<Vec<u8>>>,
    worker: Option<std::thread::JoinHandle<Result<(), TargetError>>>,
}

impl Filler {
    /// Starts. `copy` is the statement up to its columns, `table` the quoted name.
    /// # Errors
    /// [`TargetError::Client`] when there can be no thread.
    pub fn start(connection: &Connection, copy: &str, table: &str) -> Result<Self, TargetError> {
        let (pieces, waiting) = crossbeam_channel::bounded::<Vec<u8>>(PIECES_WAITING);
        let (connection, copy, table) = (connection.clone(), copy.to_owned(), table.to_owned());
        let worker =
            std::thread::Builder::new().name("fill".into()).spawn(move || fill(&connection, &copy, &table, &waiting));
        let worker = worker.map_err(|source| TargetError::Path {
            operation: "start a thread to fill",
            path: "the scratch database".into(),
            source,
        })?;
        Ok(Self { pieces: Some(pieces), worker: Some(worker) })
    }

    /// Hands over rows as `COPY` has them. False when the server takes no more.
    pub fn write(&mut self, piece: Vec<u8>) -> bool {
        self.pieces.as_ref().is_some_and(|pieces| pieces.send(piece).is_ok())
    }

    /// Commits.
    /// # Errors
    /// [`TargetError`]; nothing is in the table then.
    pub fn finish(mut self) -> Result<(), TargetError> {
        // An empty piece is the end; without it the other side takes back what it has.
        self.write(Vec::new());
        self.pieces = None;
        let lost = || TargetError::Server {
            operation: "fill a table of",
            target: "the scratch database".to_owned(),
            reason: "its thread was lost".to_owned(),
            removed: true,
        };
        self.worker.take().map_or(Ok(()), |worker| worker.join().unwrap_or_else(|_| Err(lost())))
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.pieces = None;
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

fn fill(
    connection: &Connection,
    copy: &str,
    table: &str,
    waiting: &crossbeam_channel::Receiver<Vec<u8>>,
) -> Result<(), TargetError> {
    let fail = |error: postgres::Error| refused("fill a table of", connection, &error);
    let broken = |source: io::Error| TargetError::Server {
        operation: "fill a table of",
        target: connection.without_password(),
        reason: source.to_string(),
        removed: true,
    };
    let mut client = connection.open()?;
    // As pg_restore has them.
    let settings = "set statement_timeout = 0; set lock_timeout = 0; set standard_conforming_strings = on; \
                    set check_function_bodies = false; set xmloption = content; set row_security = off; \
                    set search_path = ''";
    client.batch_execute(settings).map_err(fail)?;
    let mut transaction = client.transaction().map_err(fail)?;
    transaction.batch_execute(&format!("truncate only {table}")).map_err(fail)?;
    let mut rows = transaction.copy_in(&format!("{copy} FROM STDIN WITH (FREEZE)")).map_err(fail)?;
    loop {
        match waiting.recv() {
            Ok(piece) if piece.is_empty() => break,
            Ok(piece) => rows.write_all(&piece).map_err(broken)?,
            Err(_) => return Ok(()),
        }
    }
    rows.finish().map_err(fail)?;
    transaction.commit().map_err(fail)
}
