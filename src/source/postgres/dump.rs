//! `pg_dump` and `pg_dumpall --globals-only` as streams.
//!
//! The archive is uncompressed, because compressed bytes share nothing with those of the hour before. The bytes are
//! exactly what the tool wrote. The programs never ask for a password: that question would wait on a terminal for ever.

use std::ffi::OsString;
use std::time::Duration;

use super::client::ClientTools;
use super::connect::Connection;
use super::inspect::Promise;
use super::server::GlobalsAccess;
use crate::domain::snapshot::SourceWarning;
use crate::source::command::CommandStream;
use crate::source::process::{ProcessSpec, Processes};
use crate::source::{SourceError, SourceStream, StreamProof};

/// Limits of a dump.
#[derive(Debug, Clone, Copy, Default)]
pub struct DumpOptions {
    /// How long `pg_dump` may wait for a lock on a table; unlimited if none.
    pub lock_timeout: Option<Duration>,
    /// How long the program may stay silent before it is ended; unlimited if none.
    pub stall_timeout: Option<Duration>,
}

/// A dump that is running.
pub struct DumpStream {
    inner: Box<CommandStream>,
    notes: Vec<SourceWarning>,
}

/// What came of the wish for roles and settings.
pub enum Globals {
    /// They are being read.
    Stream(DumpStream),
    /// They cannot be read; the dump of the database is whole without them.
    Skipped(SourceWarning),
}

/// Starts a dump of the connection's database in the custom format.
/// # Errors
/// [`SourceError::Client`] when the program cannot be started.
pub fn dump(
    processes: &dyn Processes,
    tools: &ClientTools,
    connection: &Connection,
    options: &DumpOptions,
) -> Result<DumpStream, SourceError> {
    dump_with(processes, tools, connection, options, Vec::new())
}

/// Starts a dump of these tables and sequences alone, by schema and name, with what belongs to them.
/// # Errors
/// [`SourceError::Client`] when the program cannot be started.
pub fn dump_tables(
    processes: &dyn Processes,
    tools: &ClientTools,
    connection: &Connection,
    tables: &[(String, String)],
) -> Result<DumpStream, SourceError> {
    dump_with(processes, tools, connection, &DumpOptions::default(), patterns("--table", tables))
}

/// Starts a dump of the connection's database without the rows of these tables, by schema and name.
/// # Errors
/// [`SourceError::Client`] when the program cannot be started.
pub fn dump_without_rows(
    processes: &dyn Processes,
    tools: &ClientTools,
    connection: &Connection,
    tables: &[(String, String)],
) -> Result<DumpStream, SourceError> {
    dump_with(processes, tools, connection, &DumpOptions::default(), patterns("--exclude-table-data", tables))
}

/// An option for each table. In quotes a pattern is a name.
fn patterns(option: &str, tables: &[(String, String)]) -> Vec<OsString> {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    tables.iter().map(|(schema, name)| format!("{option}={}.{}", quoted(schema), quoted(name)).into()).collect()
}

fn dump_with(
    processes: &dyn Processes,
    tools: &ClientTools,
    connection: &Connection,
    options: &DumpOptions,
    more: Vec<OsString>,
) -> Result<DumpStream, SourceError> {
    let mut args: Vec<OsString> = vec!["--format=custom".into(), "--compress=0".into()];
    args.extend(more);
    if let Some(limit) = options.lock_timeout {
        args.push(format!("--lock-wait-timeout={}", limit.as_millis()).into());
    }
    let mut spec = client_program(tools, "pg_dump", args, connection);
    // Times with a zone are written in the session's zone, which is a setting of the server: in that of another server
    // the same row would be another text.
    spec.env.push(("PGTZ".into(), Some("UTC".into())));
    let subject = connection.without_password();
    let stream = CommandStream::promised(processes, &spec, &subject, options.stall_timeout, Promise::Archive)?;
    Ok(DumpStream { inner: Box::new(stream), notes: Vec::new() })
}

/// Starts a dump of the cluster's roles and settings, as far as the user may see them.
pub fn globals(
    processes: &dyn Processes,
    tools: &ClientTools,
    connection: &Connection,
    access: GlobalsAccess,
    options: &DumpOptions,
) -> Globals {
    let mut args: Vec<OsString> = vec!["--globals-only".into()];
    // pg_dumpall asks `postgres` or `template1` otherwise, where the user may not be let in.
    args.push(format!("--database={}", connection.database()).into());
    let mut notes = Vec::new();
    match access {
        GlobalsAccess::Full => {}
        GlobalsAccess::WithoutPasswords => {
            args.push("--no-role-passwords".into());
            notes.push(warning(
                "globals.no_passwords",
                connection,
                format!(
                    "User {} may not read the roles' passwords, so roles are saved without them",
                    connection.user()
                ),
            ));
        }
        GlobalsAccess::None => {
            let reason = format!("user {} may not read the list of roles", connection.user());
            return Globals::Skipped(skipped(connection, &reason));
        }
    }
    let spec = client_program(tools, "pg_dumpall", args, connection);
    let subject = format!("The globals of {}", connection.without_password());
    match CommandStream::promised(processes, &spec, &subject, options.stall_timeout, Promise::ClusterScript) {
        Ok(stream) => Globals::Stream(DumpStream { inner: Box::new(stream), notes }),
        Err(error) => Globals::Skipped(globals_failed(connection, &error)),
    }
}

/// The warning for globals that failed on the way: the database itself is saved, and the run goes on.
pub fn globals_failed(connection: &Connection, error: &SourceError) -> SourceWarning {
    let reason = match error {
        SourceError::Failed { stderr, .. } if !stderr.is_empty() => format!("{error}: {stderr}"),
        _ => error.to_string(),
    };
    skipped(connection, &reason)
}

fn skipped(connection: &Connection, reason: &str) -> SourceWarning {
    warning("globals.skipped", connection, format!("Roles and settings are not saved: {reason}"))
}

fn warning(code: &str, connection: &Connection, message: String) -> SourceWarning {
    SourceWarning { code: code.into(), subject: connection.without_password(), message, incomplete: false }
}

/// A client program for a connection: connection without secrets in the arguments, secrets in the environment.
pub fn client_program(
    tools: &ClientTools,
    name: &str,
    mut args: Vec<OsString>,
    connection: &Connection,
) -> ProcessSpec {
    args.push("--no-password".into());
    args.push(format!("--dbname={}", connection.client_conninfo(tools.is_elsewhere())).into());
    let mut spec = tools.program(name, args);
    spec.env = connection.client_environment();
    spec
}

impl SourceStream for DumpStream {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        self.inner.read(buffer)
    }

    fn finish(self: Box<Self>) -> Result<StreamProof, SourceError> {
        match self.inner.finish() {
            Ok(mut proof) => {
                proof.warnings.extend(self.notes);
                Ok(proof)
            }
            // Seen when the server could not be asked before, as behind a command prefix.
            Err(SourceError::Failed { program, stderr, .. }) if stderr.contains("server version mismatch") => {
                Err(SourceError::Client {
                    reason: format!("{program} is older than the server: {stderr}"),
                    hint: "use client programs of the server's version, or name their directory as pg_bin_dir".into(),
                })
            }
            Err(error) => Err(error),
        }
    }
}
