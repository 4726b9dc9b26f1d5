//! A restored SQLite file: its own integrity check, its rows, and every byte against the stored image.

use super::{Error, Proof, TableProof};
use crate::domain::snapshot::{SourceRecord, StreamRole};
use crate::ops::cancel::Cancel;
use crate::repository::error::RepoError;
use crate::repository::reading::Reading;
use crate::source::sqlite::{ImageError, check_image, tables_of_pages};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Pages that differ, of which the tables are looked up.
const PAGES_LOOKED_UP_MAX: usize = 1000;

/// Compares a file that nobody writes with what is stored.
///
/// # Errors
/// [`Error`]: nothing could be said. A file that differs or is damaged is no error.
pub fn sqlite(reading: &Reading, source: &SourceRecord, path: &Path, cancel: &Cancel) -> Result<Proof, Error> {
    let mut proof = Proof::default();
    let fail = |source| Error::Io { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(fail)?;
    for suffix in ["-wal", "-journal"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        if std::fs::metadata(&name).is_ok_and(|metadata| metadata.len() > 0) {
            proof.differs(|| format!("{} is there and would change the database", name.to_string_lossy()));
        }
    }
    let mut page_bytes = 4096;
    let mut restored: BTreeMap<String, u64> = BTreeMap::new();
    match check_image(path) {
        Ok(check) => {
            page_bytes = u64::from(check.page_size).max(512);
            restored = check.tables.into_iter().map(|table| (table.table, table.rows)).collect();
            proof.notes.extend(check.warnings.into_iter().map(|warning| warning.message));
        }
        Err(ImageError::Damaged(text)) => proof.differs(|| format!("the integrity check says: {text}")),
        Err(ImageError::Sqlite(error)) => proof.differs(|| format!("it is no database that SQLite reads: {error}")),
    }
    for recorded in &source.tables {
        let found = restored.remove(&recorded.table);
        proof.table(&recorded.table, Some(recorded.rows), found);
    }
    for (table, rows) in restored {
        proof.table(&table, None, Some(rows));
    }
    let pages = differing_pages(reading, source, &mut file, path, page_bytes, cancel)?;
    if pages.count > 0 {
        let tables = tables_of_pages(path, &pages.first).unwrap_or_default();
        let among = if tables.is_empty() { String::new() } else { format!(", of {}", tables.join(", ")) };
        proof.differs(|| format!("{} of its pages are not those that were saved{among}", pages.count));
    }
    if pages.lengths.0 != pages.lengths.1 {
        let (stored, found) = pages.lengths;
        proof.differs(|| format!("it has {found} bytes instead of {stored}"));
    }
    Ok(proof.decided())
}

impl Proof {
    fn table(&mut self, table: &str, expected: Option<u64>, restored: Option<u64>) {
        let schema = String::new();
        self.tables.push(TableProof {
            schema,
            table: table.to_owned(),
            rows_expected: expected,
            rows_restored: restored,
        });
        match (expected, restored) {
            (Some(expected), None) => self.differs(|| format!("table {table} is missing, with {expected} rows")),
            (None, Some(found)) => {
                self.differs(|| format!("table {table} is not in the snapshot, and has {found} rows"))
            }
            (Some(expected), Some(found)) if expected != found => {
                self.differs(|| format!("table {table} has {found} rows instead of {expected}"));
            }
            _ => {}
        }
    }
}

/// How a file differs from the stored image.
struct Pages {
    count: u64,
    /// Numbers of the first of them, from 1.
    first: Vec<u64>,
    /// Bytes stored, bytes found.
    lengths: (u64, u64),
}

fn differing_pages(
    reading: &Reading,
    source: &SourceRecord,
    file: &mut File,
    path: &Path,
    page_bytes: u64,
    cancel: &Cancel,
) -> Result<Pages, Error> {
    let fail = |source| Error::Io { path: path.to_owned(), source };
    let missing = || RepoError::Missing { what: format!("The data of source {}", source.name) };
    let stream = source.streams.iter().find(|s| s.role == StreamRole::Data).ok_or_else(missing)?;
    let found = file.metadata().map_err(fail)?.len();
    let mut pages = Pages { count: 0, first: Vec::new(), lengths: (stream.plain_bytes, found) };
    let (mut at, mut last_page, mut buffer) = (0u64, 0, Vec::new());
    reading.packs.follow_index();
    reading.copy_stream(stream, |stored| {
        cancel.check().map_err(Error::from)?;
        buffer.clear();
        file.by_ref().take(stored.len() as u64).read_to_end(&mut buffer).map_err(fail)?;
        if buffer != stored {
            for (offset, byte) in stored.iter().enumerate() {
                let page = (at + offset as u64) / page_bytes + 1;
                if page != last_page && buffer.get(offset) != Some(byte) {
                    last_page = page;
                    pages.count += 1;
                    if pages.first.len() < PAGES_LOOKED_UP_MAX {
                        pages.first.push(page);
                    }
                }
            }
        }
        at += stored.len() as u64;
        Ok(())
    })?;
    Ok(pages)
}
