//! A restored PostgreSQL database is dumped again with the same tools, and the two dumps are compared.

use super::apart::{self, Apart, Reader};
use super::archive::{Aside, EntryKey, Facts, Leave, Summary};
use super::compare::compare;
use super::{Error, Proof};
use crate::domain::snapshot::{SourceRecord, StreamRole, TableRows};
use crate::domain::system::Random;
use crate::ops::cancel::Cancel;
use crate::repository::error::RepoError;
use crate::repository::reading::Reading;
use crate::source::SourceStream;
use crate::source::postgres::client::ClientTools;
use crate::source::postgres::connect::Connection;
use crate::source::postgres::dump::{self, DumpStream};
use crate::source::postgres::dump_format::CustomArchive;
use crate::source::process::Processes;
use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;
use std::path::Path;

/// Bytes read from the fresh dump at a time.
const PIECE_BYTES: usize = 256 << 10;

/// What a stored dump says, to compare a restored database with.
pub struct Expected {
    archive: CustomArchive<Summary>,
    source: String,
    recorded: Vec<TableRows>,
}

impl std::fmt::Debug for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Expected({})", self.source)
    }
}

impl Expected {
    /// An expectation that knows nothing yet: feed it the stored dump, for instance while that is being restored.
    pub fn new(source: &SourceRecord, random: &dyn Random, leave: Leave) -> Self {
        let archive = CustomArchive::watched(Summary::new(random.bytes(), leave));
        Self { archive, source: source.name.clone(), recorded: source.tables.clone() }
    }

    /// Reads the whole stored dump.
    ///
    /// # Errors
    /// [`Error`]; also when the dump is nothing that can be compared.
    pub fn read(
        reading: &Reading,
        source: &SourceRecord,
        random: &dyn Random,
        leave: Leave,
        cancel: &Cancel,
    ) -> Result<Self, Error> {
        let mut expected = Self::new(source, random, leave);
        let missing = || RepoError::Missing { what: format!("The data of source {}", source.name) };
        let stream = source.streams.iter().find(|s| s.role == StreamRole::Data).ok_or_else(missing)?;
        reading.packs.follow_index();
        reading.copy_stream(stream, |bytes| {
            cancel.check().map_err(Error::from)?;
            expected.feed(bytes);
            Ok(())
        })?;
        Ok(expected)
    }

    /// Takes the next bytes of the stored dump.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.archive.feed(bytes);
    }

    /// What a restore must know before it begins; complete once `contents_end` is there.
    pub fn facts(&self) -> &Facts {
        &self.archive.watch().facts
    }

    /// The versions of the server that was dumped and of the `pg_dump` that did it, as the dump has them.
    pub fn versions(&self) -> (&str, &str) {
        let summary = self.archive.watch();
        (&summary.server_version, &summary.dump_version)
    }

    /// What belongs to the database as a whole.
    pub fn aside(&self) -> &Aside {
        &self.archive.watch().aside
    }

    /// The stored dump, summed up, and the recorded rows.
    fn summed(self) -> Result<(Summary, Vec<TableRows>), Error> {
        let what = format!("The stored dump of source {}", self.source);
        Ok((summary(self.archive, what)?, self.recorded))
    }
}

/// How to reach the restored database.
pub struct PostgresMeans<'a> {
    /// Starts programs.
    pub processes: &'a dyn Processes,
    /// The client programs that dump: those that made the stored dump, as far as they are still there.
    pub tools: &'a ClientTools,
    /// The restored database.
    pub connection: &'a Connection,
}

impl std::fmt::Debug for PostgresMeans<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PostgresMeans({})", self.connection.without_password())
    }
}

/// Compares a restored database with what its dump says.
///
/// # Errors
/// [`Error`]: nothing could be said. A database that differs is no error.
pub fn postgres(expected: Expected, means: &PostgresMeans<'_>, cancel: &Cancel) -> Result<Proof, Error> {
    postgres_apart(expected, means, &[], cancel)
}

/// As [`postgres()`], but that the rows of some tables are read from the server directly, on a core of their own, while
/// the rest is dumped: a large table passes one program less. Nobody else may write to the database meanwhile.
///
/// # Errors
/// As [`postgres()`].
pub fn postgres_apart(
    expected: Expected,
    means: &PostgresMeans<'_>,
    apart: &[Apart],
    cancel: &Cancel,
) -> Result<Proof, Error> {
    let (stored, recorded) = expected.summed()?;
    let names: Vec<(String, String)> =
        apart.iter().map(|table| (table.key.schema.clone(), table.key.name.clone())).collect();
    let readers = apart.iter().map(|table| Reader::new(&stored, table)).collect();
    let what = || format!("The dump of {}", means.connection.without_password());
    let (mut restored, rows) = std::thread::scope(|scope| {
        let reading = scope.spawn(|| apart::read(means.connection, readers, cancel));
        let restored = dump::dump_without_rows(means.processes, means.tools, means.connection, &names)
            .map_err(Error::from)
            .and_then(|stream| dumped(stream, &stored, what(), cancel));
        let rows = reading.join().unwrap_or(Err(Error::Interrupted));
        Ok::<_, Error>((restored?, rows?))
    })?;
    stored.take_apart(&mut restored, rows);
    Ok(compare(&stored, &recorded, &restored))
}

/// Reads a fresh dump into a summary of the same key.
fn dumped(stream: DumpStream, stored: &Summary, what: String, cancel: &Cancel) -> Result<Summary, Error> {
    let mut stream = Box::new(stream);
    let mut archive = CustomArchive::watched(stored.twin());
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        cancel.check()?;
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        archive.feed(buffer.get(..n).unwrap_or_default());
    }
    stream.finish()?;
    summary(archive, what)
}

/// Compares single tables, and what belongs to them, with what a dump of the whole database says of them: of all entries
/// those of `keys`. `names` are the tables and sequences that are dumped for it.
///
/// # Errors
/// As [`postgres()`].
pub fn tables(
    expected: Expected,
    means: &PostgresMeans<'_>,
    names: &[(String, String)],
    keys: &BTreeSet<EntryKey>,
    cancel: &Cancel,
) -> Result<Proof, Error> {
    let (mut stored, mut recorded) = expected.summed()?;
    let stream = dump::dump_tables(means.processes, means.tools, means.connection, names)?;
    let what = format!("The dump of tables of {}", means.connection.without_password());
    let mut restored = dumped(stream, &stored, what, cancel)?;
    stored.keep_only(keys);
    restored.keep_only(keys);
    recorded.retain(|rows| {
        keys.iter().any(|key| key.kind == "TABLE DATA" && rows.table == format!("{}.{}", key.schema, key.name))
    });
    Ok(compare(&stored, &recorded, &restored))
}

/// Compares the rows in a script of single tables with those of a dump: `copies` leads from the COPY statements that
/// the script must hold to the dump's entries. Statements are not compared.
///
/// # Errors
/// As [`postgres()`]; [`Error::Io`] when the script cannot be read.
pub fn script(
    expected: Expected,
    reader: impl BufRead,
    path: &Path,
    copies: &BTreeMap<Vec<u8>, EntryKey>,
    cancel: &Cancel,
) -> Result<Proof, Error> {
    let (mut stored, mut recorded) = expected.summed()?;
    let keys: BTreeSet<EntryKey> = copies.values().cloned().collect();
    stored.keep_only(&keys);
    recorded.retain(|rows| keys.iter().any(|key| rows.table == format!("{}.{}", key.schema, key.name)));
    let fail = |source| Error::Io { path: path.to_owned(), source };
    let restored = stored.rows_of_script(reader, copies, || cancel.check().is_ok()).map_err(fail)?;
    cancel.check()?;
    Ok(compare(&stored, &recorded, &restored))
}

fn summary(archive: CustomArchive<Summary>, what: String) -> Result<Summary, Error> {
    match archive.into_watch() {
        Err(reason) => Err(Error::Dump { what, reason }),
        Ok(summary) if summary.is_overflowing() => {
            Err(Error::Dump { what, reason: "holds more objects than can be compared".to_owned() })
        }
        Ok(summary) => Ok(summary),
    }
}
