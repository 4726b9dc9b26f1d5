//! The rows of large tables, read from the server by `COPY` without `pg_dump` in between, in the same words.

use super::Error;
use super::archive::{EntryKey, Item, Summary};
use super::rows::{RowHasher, Sum};
use crate::ops::cancel::Cancel;
use crate::source::SourceError;
use crate::source::postgres::connect::Connection;
use crate::source::postgres::tls::explain;
use std::io::BufRead;

/// What `pg_dump` sets before it reads rows, and the zone that our dumps are made in: with these a row is the same text.
const AS_PG_DUMP: &str = "set datestyle = 'ISO'; set intervalstyle = 'postgres'; set extra_float_digits = 3; \
    set synchronize_seqscans = off; set statement_timeout = 0; set lock_timeout = 0; set row_security = off; \
    set timezone = 'UTC'; set search_path = ''";

/// A table whose rows are read apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Apart {
    /// The entry of its rows.
    pub key: EntryKey,
    /// The dump's COPY statement up to its columns: `COPY public.orders (id, note)`.
    pub copy: String,
}

/// What reads one table.
pub(super) struct Reader {
    key: EntryKey,
    statement: String,
    hasher: RowHasher,
}

/// The rows of one table.
pub(super) struct ReadRows {
    key: EntryKey,
    rows: u64,
    content: Sum,
}

impl Reader {
    pub(super) fn new(stored: &Summary, table: &Apart) -> Self {
        let hasher = stored.hasher_of(&table.key, table.copy.as_bytes());
        Self { key: table.key.clone(), statement: format!("{} TO STDOUT", table.copy), hasher }
    }
}

/// Reads the tables, one after the other.
pub(super) fn read(connection: &Connection, readers: Vec<Reader>, cancel: &Cancel) -> Result<Vec<ReadRows>, Error> {
    if readers.is_empty() {
        return Ok(Vec::new());
    }
    let subject = connection.without_password();
    let failed = |reason: String| {
        Error::Source(SourceError::Failed {
            program: format!("COPY in {subject}"),
            outcome: "failed".to_owned(),
            stderr: reason,
        })
    };
    let mut client = connection.open()?;
    client.batch_execute(AS_PG_DUMP).map_err(|error| failed(explain(&error)))?;
    let mut found = Vec::new();
    for mut reader in readers {
        let mut rows = client.copy_out(&reader.statement).map_err(|error| failed(explain(&error)))?;
        let mut pieces = 0u32;
        loop {
            let piece = rows.fill_buf().map_err(|error| failed(error.to_string()))?;
            if piece.is_empty() {
                break;
            }
            reader.hasher.feed(piece);
            let n = piece.len();
            rows.consume(n);
            pieces = pieces.wrapping_add(1);
            if pieces.is_multiple_of(4096) {
                cancel.check()?;
            }
        }
        drop(rows);
        let (rows, content) = reader.hasher.finish();
        found.push(ReadRows { key: reader.key, rows, content });
    }
    Ok(found)
}

impl Summary {
    /// Puts the rows that were read apart into the summary of the rest. Their columns were named by the stored dump, and
    /// what columns the table has is compared where it is defined.
    pub(super) fn take_apart(&self, restored: &mut Self, rows: Vec<ReadRows>) {
        for read in rows {
            let definition = self.items.get(&read.key).and_then(|items| items.first()).map(|item| item.definition);
            let item =
                Item { definition: definition.unwrap_or_default(), rows: Some(read.rows), content: read.content };
            restored.items.entry(read.key).or_default().push(item);
        }
    }
}
