//! One database is restored into a new database, and its rows are counted again.
//!
//! Nothing that exists is touched: the database or file is created here, and removed again when the restore fails.

use super::{Error, Selection};
use crate::domain::snapshot::{Snapshot, SourceKind, SourceRecord, StreamRecord, StreamRole};
use crate::ops::cancel::{Cancel, Cancelled};
use crate::ops::observer::{Event, Observer, Progress};
use crate::repository::error::RepoError;
use crate::repository::reading::{CopyError, Reading};
use crate::source::SourceError;
use crate::source::original::Content;
use crate::source::postgres::client::{self, ClientSearch, ClientTools};
use crate::source::postgres::connect::Connection;
use crate::source::postgres::dump_format::CustomArchive;
use crate::source::postgres::dump_watch::{HeaderText, Watch};
use crate::source::postgres::server;
use crate::source::process::Processes;
use crate::target::database::{self, TargetError};
use crate::target::postgres::{DumpFormat, PostgresRestore, RestoreOptions};
use crate::target::script::ScriptFilter;
use crate::target::sqlite::SqliteRestore;
use serde::Serialize;
use std::path::Path;

/// Databases that every server has, to ask it for its version.
const ALWAYS_THERE: [&str; 2] = ["postgres", "template1"];

/// Longest version that is kept.
const VERSION_BYTES_MAX: usize = 256;

/// What a database restore ended with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DatabaseReport {
    /// The snapshot.
    pub snapshot_id: String,
    /// The source.
    pub source: String,
    /// The new database, without password.
    pub target: String,
    /// Bytes of the dump or image.
    pub bytes_restored: u64,
    /// Plain bytes of all segments that were decompressed for it.
    pub decoded_bytes: u64,
    /// Tables whose rows were compared.
    pub tables_compared: u64,
    /// Tables whose rows are not those of the snapshot.
    pub differences: Vec<TableDifference>,
    /// What the restoring program said although it succeeded.
    pub notes: Vec<String>,
}

/// A table whose rows are not those of the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableDifference {
    /// The table.
    pub table: String,
    /// Rows in the snapshot.
    pub recorded: u64,
    /// Rows now; none when the table is missing.
    pub restored: Option<u64>,
}

/// How to reach the server, and what runs on this side.
pub struct PostgresMeans<'a> {
    /// Starts programs.
    pub processes: &'a dyn Processes,
    /// Where the client programs are.
    pub search: &'a ClientSearch,
    /// The database to be.
    pub connection: &'a Connection,
}

impl std::fmt::Debug for PostgresMeans<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PostgresMeans({})", self.connection.without_password())
    }
}

/// The one database of the snapshot that is meant, which must be of the target's kind.
///
/// # Errors
/// [`Error::SeveralDatabases`] when none is named and several are there; what [`super::run`] says about sources.
pub fn choose<'s>(
    snapshot: &'s Snapshot,
    selection: &Selection,
    wanted: SourceKind,
) -> Result<&'s SourceRecord, Error> {
    pick(snapshot, selection, wanted, false)
}

/// As [`choose`], for a new database: a script of `pg_dump` that was imported goes into one as well as an archive.
///
/// # Errors
/// As [`choose`].
pub fn choose_for_new<'s>(
    snapshot: &'s Snapshot,
    selection: &Selection,
    wanted: SourceKind,
) -> Result<&'s SourceRecord, Error> {
    pick(snapshot, selection, wanted, wanted == SourceKind::Postgres)
}

fn pick<'s>(
    snapshot: &'s Snapshot,
    selection: &Selection,
    wanted: SourceKind,
    scripts: bool,
) -> Result<&'s SourceRecord, Error> {
    let short = || snapshot.id.short();
    let available = || snapshot.sources.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
    if let Some(name) = selection.sources.iter().find(|name| snapshot.source(name).is_none()) {
        return Err(Error::NoSuchSource { snapshot: short(), name: name.clone(), available: available() });
    }
    let named = |source: &&SourceRecord| match selection.sources.is_empty() {
        true => source.kind.is_database() || (scripts && is_script(source)),
        false => selection.sources.contains(&source.name),
    };
    let meant: Vec<&SourceRecord> = snapshot.sources.iter().filter(named).filter(|s| selection.wants(s)).collect();
    match meant.as_slice() {
        [] => Err(Error::NothingSelected { snapshot: short(), available: available() }),
        [one] if scripts && is_script(one) => Ok(one),
        [one] if one.kind != wanted => {
            let wanted = if wanted == SourceKind::Postgres { "PostgreSQL" } else { "SQLite" };
            Err(Error::WrongKind { name: one.name.clone(), kind: one.kind, wanted })
        }
        [one] => Ok(one),
        many => {
            let names = many.iter().map(|source| source.name.clone()).collect();
            Err(Error::SeveralDatabases { snapshot: short(), names })
        }
    }
}

/// True for a plain script of `pg_dump` that was imported.
pub fn is_script(source: &SourceRecord) -> bool {
    source.kind == SourceKind::Stdin && source.reader_version.starts_with(Content::PostgresScript.as_str())
}

fn format_of(source: &SourceRecord) -> DumpFormat {
    if is_script(source) { DumpFormat::Script } else { DumpFormat::Archive }
}

/// Restores a dump into a database that it creates.
///
/// # Errors
/// [`Error`]; nothing of the restore is left unless the error says so.
pub fn to_postgres(
    reading: &Reading,
    snapshot: &Snapshot,
    source: &SourceRecord,
    means: &PostgresMeans<'_>,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<DatabaseReport, Error> {
    require_new_enough(reading, source, means.connection)?;
    let options = RestoreOptions::default();
    let create = |tools: &ClientTools| {
        PostgresRestore::create(means.processes, tools, means.connection, format_of(source), options)
    };
    through(reading, snapshot, source, means, create, &mut |_| {}, observer, cancel)
}

/// Restores a dump into the connection's database, which the caller has created, empty, and gives away: it is dropped
/// when the restore fails. `watch` is given every byte of the dump.
///
/// # Errors
/// [`Error`]; nothing of the restore is left unless the error says so.
pub fn fill_postgres(
    reading: &Reading,
    snapshot: &Snapshot,
    source: &SourceRecord,
    means: &PostgresMeans<'_>,
    watch: &mut dyn FnMut(&[u8]),
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<DatabaseReport, Error> {
    let options = RestoreOptions::default();
    let fill = |tools: &ClientTools| {
        PostgresRestore::fill(means.processes, tools, means.connection, format_of(source), options)
    };
    through(reading, snapshot, source, means, fill, watch, observer, cancel)
}

/// Refuses a server that is older than the one that was dumped: it would not know what the newer one knew, and say so in
/// the middle.
fn require_new_enough(reading: &Reading, source: &SourceRecord, connection: &Connection) -> Result<(), Error> {
    let dump = match &source.server_version {
        Some(version) => version.clone(),
        None => header_version(reading, source)?,
    };
    let digits: String = dump.chars().take_while(char::is_ascii_digit).collect();
    let Ok(needed) = digits.parse::<u32>() else { return Ok(()) };
    let server = server_major(connection).map_err(TargetError::Client)?;
    if server >= needed {
        return Ok(());
    }
    let target = connection.without_password();
    Err(TargetError::OlderServer { target, server, dump }.into())
}

/// The version of the server that an archive was made of, as its header has it; empty for what is no archive.
fn header_version(reading: &Reading, source: &SourceRecord) -> Result<String, Error> {
    struct Header(String);
    impl Watch for Header {
        fn header(&mut self, text: HeaderText, piece: &[u8]) {
            if text == HeaderText::ServerVersion && self.0.len() < VERSION_BYTES_MAX {
                self.0.push_str(&String::from_utf8_lossy(piece));
            }
        }
    }
    let mut archive = CustomArchive::watched(Header(String::new()));
    // The header is within the first piece.
    let copied = reading.copy_stream(data_stream(source)?, |bytes| {
        archive.feed(bytes);
        Err(())
    });
    match copied {
        Ok(()) | Err(CopyError::Sink(())) => Ok(archive.watch().0.clone()),
        Err(CopyError::Repository(error)) => Err(error.into()),
    }
}

/// The client programs that restore into the connection's server, and dump it.
///
/// # Errors
/// [`Error::Database`] when the server or the programs are not there.
pub fn tools_for(means: &PostgresMeans<'_>) -> Result<ClientTools, Error> {
    let major = server_major(means.connection).map_err(TargetError::Client)?;
    // A newer client sets what an older server does not know.
    Ok(client::find(means.processes, means.search, Some(major)).map_err(TargetError::Client)?)
}

#[expect(clippy::too_many_arguments, reason = "each is another thing, and there is one caller of each kind")]
fn through(
    reading: &Reading,
    snapshot: &Snapshot,
    source: &SourceRecord,
    means: &PostgresMeans<'_>,
    start: impl FnOnce(&ClientTools) -> Result<PostgresRestore, TargetError>,
    watch: &mut dyn FnMut(&[u8]),
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<DatabaseReport, Error> {
    let stream = data_stream(source)?;
    reading.packs.follow_index();
    let decoded_before = reading.packs.counters.decoded();
    let tools = tools_for(means)?;
    begin(source, stream, observer);
    let mut restore = start(&tools)?;
    if is_script(source) {
        // the version's name was drawn when the script was imported, so the script cannot hold it
        let mut filter = ScriptFilter::new(&stream.version.hex());
        restore.write(&filter.begin())?;
        let mut out = Vec::new();
        copy(reading, source, stream, observer, cancel, |bytes| {
            out.clear();
            filter.push(bytes, &mut out);
            restore.write(&out)
        })?;
        out.clear();
        filter.finish(&mut out);
        restore.write(&out)?;
    } else {
        copy(reading, source, stream, observer, cancel, |bytes| {
            watch(bytes);
            restore.write(bytes)
        })?;
    }
    let report = restore.finish(&source.tables)?;
    observer.event(&Event::SourceFinished { source: &source.name, failure: None });
    let decoded_bytes = reading.packs.counters.decoded() - decoded_before;
    let target = means.connection.without_password();
    Ok(DatabaseReport { decoded_bytes, ..summary(snapshot, source, stream, target, report) })
}

/// Restores an image into a file that it creates.
///
/// # Errors
/// [`Error`]; nothing of the restore is left then.
pub fn to_sqlite(
    reading: &Reading,
    snapshot: &Snapshot,
    source: &SourceRecord,
    path: &Path,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<DatabaseReport, Error> {
    let stream = data_stream(source)?;
    reading.packs.follow_index();
    let decoded_before = reading.packs.counters.decoded();
    begin(source, stream, observer);
    let mut restore = SqliteRestore::create(path)?;
    copy(reading, source, stream, observer, cancel, |bytes| restore.write(bytes))?;
    let report = restore.finish(&source.tables)?;
    observer.event(&Event::SourceFinished { source: &source.name, failure: None });
    let decoded_bytes = reading.packs.counters.decoded() - decoded_before;
    let target = path.display().to_string();
    Ok(DatabaseReport { decoded_bytes, ..summary(snapshot, source, stream, target, report) })
}

pub(super) fn data_stream(source: &SourceRecord) -> Result<&StreamRecord, Error> {
    let missing = || RepoError::Missing { what: format!("The data of source {}", source.name) };
    let stream = source.streams.iter().find(|s| s.role == StreamRole::Data).ok_or_else(missing)?;
    Ok(stream)
}

fn server_major(connection: &Connection) -> Result<u32, SourceError> {
    let mut refused = None;
    for database in ALWAYS_THERE {
        match server::inspect(&connection.clone().with_database(database)) {
            Ok(info) => return Ok(info.major()),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    Err(refused.unwrap_or(SourceError::Interrupted))
}

pub(super) fn begin(source: &SourceRecord, stream: &StreamRecord, observer: &dyn Observer) {
    let total_bytes = Some(stream.plain_bytes);
    observer.event(&Event::PhaseStarted { phase: "restoring", total_bytes, total_items: None });
    observer.event(&Event::SourceStarted { source: &source.name, kind: source.kind });
}

/// Copies the whole stream; the receiver must not count as complete before this returns `Ok`.
pub(super) fn copy<E: Into<Error>>(
    reading: &Reading,
    source: &SourceRecord,
    stream: &StreamRecord,
    observer: &dyn Observer,
    cancel: &Cancel,
    mut write: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), Error> {
    enum Stop<E> {
        Cancelled,
        Target(E),
    }
    impl<E> From<Cancelled> for Stop<E> {
        fn from(_: Cancelled) -> Self {
            Self::Cancelled
        }
    }
    let mut bytes_done = 0;
    let copied = reading.copy_stream(stream, |bytes| {
        cancel.check()?;
        write(bytes).map_err(Stop::Target)?;
        bytes_done += bytes.len() as u64;
        observer.event(&Event::Progress(Progress {
            source: Some(&source.name),
            bytes_done,
            total_bytes: Some(stream.plain_bytes),
            ..Progress::default()
        }));
        Ok(())
    });
    copied.map_err(|error| match error {
        CopyError::Repository(error) => Error::Repository(error),
        CopyError::Sink(Stop::Cancelled) => Error::Interrupted,
        CopyError::Sink(Stop::Target(error)) => error.into(),
    })?;
    Ok(cancel.check()?)
}

pub(super) fn summary(
    snapshot: &Snapshot,
    source: &SourceRecord,
    stream: &StreamRecord,
    target: String,
    report: database::RestoreReport,
) -> DatabaseReport {
    let difference =
        |d: database::RowDifference| TableDifference { table: d.table, recorded: d.recorded, restored: d.restored };
    DatabaseReport {
        snapshot_id: snapshot.id.hex(),
        source: source.name.clone(),
        target,
        bytes_restored: stream.plain_bytes,
        decoded_bytes: 0,
        tables_compared: report.tables_compared,
        differences: report.differences.into_iter().map(difference).collect(),
        notes: report.notes,
    }
}
