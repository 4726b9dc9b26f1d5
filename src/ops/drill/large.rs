//! Large tables of a drill in a temporary cluster are filled by `COPY` of our own, each in one transaction that empties
//! the table first: what such a transaction writes needs no log of the server, and its rows need no second writing when
//! they are read for the first time. Small tables, sequences and large objects go through `pg_restore`.

use super::{Error, Means};
use crate::domain::snapshot::{StreamRecord, TableRows};
use crate::ops::proof::{Apart, EntryKey};
use crate::ops::restore::contents::{Contents, Entry};
use crate::repository::reading::CopyError;
use crate::source::postgres::connect::Connection;
use crate::source::postgres::dump_format::CustomArchive;
use crate::source::postgres::dump_watch::Watch;
use crate::target::database::TargetError;
use crate::target::listed::{Filler, quoted_table};
use std::collections::{BTreeSet, HashMap};

/// Rows from which on a table is large.
const LARGE_ROWS: u64 = 20_000;
/// Tables that are filled so; of more the largest.
const LARGE_MAX: usize = 64;
/// Bytes that are handed over at a time.
const PIECE_BYTES: usize = 256 << 10;

/// The large tables of a dump.
#[derive(Debug, Default)]
pub(super) struct Large {
    tables: HashMap<i64, Apart>,
}

impl Large {
    /// Chooses, by the rows that the snapshot records.
    pub(super) fn choose(contents: &Contents, recorded: &[TableRows]) -> Self {
        let utf8 = contents.entries.iter().any(|e| e.kind == "ENCODING" && e.statement.contains("'UTF8'"));
        if !utf8 {
            return Self::default();
        }
        let rows: HashMap<&str, u64> = recorded.iter().map(|table| (table.table.as_str(), table.rows)).collect();
        let tables: BTreeSet<(&str, &str)> = contents
            .entries
            .iter()
            .filter(|entry| entry.kind == "TABLE")
            .map(|entry| (entry.schema.as_str(), entry.name.as_str()))
            .collect();
        let rows_of = |entry: &Entry| rows.get(format!("{}.{}", entry.schema, entry.name).as_str()).copied();
        let mut found: Vec<(u64, i64, Apart)> = contents
            .entries
            .iter()
            .filter(|entry| entry.kind == "TABLE DATA" && entry.with_data)
            // Rows of a table that belongs to an extension may be a part of its rows.
            .filter(|entry| tables.contains(&(entry.schema.as_str(), entry.name.as_str())))
            .filter_map(|entry| Some((rows_of(entry)?, entry.number, apart(entry)?)))
            .filter(|(rows, _, _)| *rows >= LARGE_ROWS)
            .collect();
        found.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        found.truncate(LARGE_MAX);
        let large = Self { tables: found.into_iter().map(|(_, number, apart)| (number, apart)).collect() };
        if large.others_run_functions(contents) { Self::default() } else { large }
    }

    /// A check of a small table may read a large one, and would wait for it while `pg_restore`, who waits with it, keeps
    /// the archive from going on.
    fn others_run_functions(&self, contents: &Contents) -> bool {
        let functions: BTreeSet<i64> = contents
            .entries
            .iter()
            .filter(|entry| matches!(entry.kind.as_str(), "FUNCTION" | "PROCEDURE"))
            .map(|entry| entry.number)
            .collect();
        let is_large = |entry: &Entry| {
            self.tables.values().any(|apart| apart.key.schema == entry.schema && apart.key.name == entry.name)
        };
        let runs = |entry: &&Entry| entry.kind == "DOMAIN" || (entry.kind == "TABLE" && !is_large(entry));
        contents.entries.iter().filter(runs).any(|entry| entry.needs.iter().any(|need| functions.contains(need)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// The tables, for the proof.
    pub(super) fn apart(&self) -> Vec<Apart> {
        let mut tables: Vec<Apart> = self.tables.values().cloned().collect();
        tables.sort_by(|a, b| a.key.cmp(&b.key));
        tables
    }

    /// Numbers of all other entries, in their order.
    pub(super) fn others(&self, contents: &Contents) -> Vec<i64> {
        let numbers = contents.entries.iter().map(|entry| entry.number);
        numbers.filter(|number| !self.tables.contains_key(number)).collect()
    }

    /// Statements that let `role` empty the tables, and those that take it back.
    pub(super) fn grants(&self, role: &str) -> (String, String) {
        let names: Vec<String> =
            self.tables.values().map(|apart| quoted_table(&apart.key.schema, &apart.key.name)).collect();
        let names = names.join(", ");
        (format!("grant truncate on table {names} to {role}"), format!("revoke truncate on table {names} from {role}"))
    }

    /// What takes the archive's bytes and fills the tables.
    pub(super) fn filling<'a>(&'a self, loader: &'a Connection) -> Filling<'a> {
        let router = Router { large: self, loader, piece: Vec::with_capacity(PIECE_BYTES), filler: None, failed: None };
        Filling { archive: CustomArchive::watched(router) }
    }
}

/// None for a statement that is not of the usual form, such as one that fills a partition through its root.
fn apart(entry: &Entry) -> Option<Apart> {
    let copy = entry.copy.trim_end().strip_suffix(" FROM stdin;")?.trim_end();
    let table = copy.strip_prefix("COPY ")?;
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let spelled = |name: &str| [name.to_owned(), quoted(name)];
    let named = spelled(&entry.schema).into_iter().any(|schema| {
        spelled(&entry.name)
            .iter()
            .any(|name| table.strip_prefix(&format!("{schema}.{name}")).is_some_and(is_column_list))
    });
    let key = EntryKey { kind: entry.kind.clone(), schema: entry.schema.clone(), name: entry.name.clone() };
    named.then(|| Apart { key, copy: copy.to_owned() })
}

/// Nothing, or names in parentheses and nothing behind them: the statement is run with another end.
fn is_column_list(text: &str) -> bool {
    let mut quoted = false;
    let end = text.char_indices().find(|(_, c)| {
        quoted ^= *c == '"';
        *c == ')' && !quoted
    });
    text.is_empty() || (text.starts_with(" (") && end.is_some_and(|(at, _)| at + 1 == text.len()))
}

/// Fills large tables while the archive passes.
pub(super) struct Filling<'a> {
    archive: CustomArchive<Router<'a>>,
}

impl Filling<'_> {
    /// Takes the next bytes of the archive.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), TargetError> {
        self.archive.feed(bytes);
        self.archive.watch_mut().failed.take().map_or(Ok(()), Err)
    }
}

struct Router<'a> {
    large: &'a Large,
    loader: &'a Connection,
    piece: Vec<u8>,
    filler: Option<Filler>,
    failed: Option<TargetError>,
}

impl Router<'_> {
    fn hand_over(&mut self) {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        if let Some(filler) = &mut self.filler
            && !filler.write(piece)
        {
            // It says why when it is waited for.
            self.end();
        }
    }

    fn end(&mut self) {
        let Some(filler) = self.filler.take() else { return };
        if let Err(error) = filler.finish() {
            self.failed.get_or_insert(error);
        }
    }
}

impl Watch for Router<'_> {
    fn block(&mut self, number: i64) {
        let Some(table) = self.large.tables.get(&number) else { return };
        match Filler::start(self.loader, &table.copy, &quoted_table(&table.key.schema, &table.key.name)) {
            Ok(filler) => self.filler = Some(filler),
            Err(error) => drop(self.failed.get_or_insert(error)),
        }
    }

    fn data(&mut self, piece: &[u8]) {
        if self.filler.is_none() {
            return;
        }
        self.piece.extend_from_slice(piece);
        if self.piece.len() >= PIECE_BYTES {
            self.hand_over();
        }
    }

    fn block_end(&mut self) {
        if self.filler.is_some() {
            self.hand_over();
            self.end();
        }
    }
}

/// The table of contents, for the choice.
pub(super) fn read_contents(means: &Means<'_>, stream: &StreamRecord) -> Result<Contents, Error> {
    let mut archive = CustomArchive::watched(Contents::default());
    let copied = means.reading.copy_stream(stream, |bytes| {
        archive.feed(bytes);
        if means.cancel.is_cancelled() || archive.watch().complete { Err(()) } else { Ok(()) }
    });
    if let Err(CopyError::Repository(error)) = copied {
        return Err(error.into());
    }
    means.cancel.check()?;
    Ok(archive.into_partial_watch())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_of_small_tables_never_meet_a_table_that_is_being_filled() {
        let entry = |number: i64, kind: &str, name: &str, needs: &[i64]| Entry {
            number,
            kind: kind.into(),
            schema: "public".into(),
            name: name.into(),
            copy: format!("COPY public.{name} (a) FROM stdin;\n"),
            statement: "SET client_encoding = 'UTF8';\n".into(),
            needs: needs.to_vec(),
            with_data: kind == "TABLE DATA",
            ..Entry::default()
        };
        let with = |small: &[i64], large: &[i64]| {
            let mut contents = Contents::default();
            contents.entries = vec![
                entry(1, "ENCODING", "ENCODING", &[]),
                entry(2, "FUNCTION", "f()", &[]),
                entry(3, "TABLE", "small", small),
                entry(4, "TABLE", "large", large),
                entry(5, "TABLE DATA", "small", &[3]),
                entry(6, "TABLE DATA", "large", &[4]),
            ];
            contents
        };
        let rows = |table: &str, rows: u64| TableRows { table: format!("public.{table}"), rows };
        let tables = [rows("small", 5), rows("large", LARGE_ROWS)];
        let chosen = |contents: &Contents| Large::choose(contents, &tables).apart().len();
        assert_eq!(chosen(&with(&[], &[])), 1);
        assert_eq!(chosen(&with(&[], &[2])), 1);
        assert_eq!(chosen(&with(&[2], &[])), 0);
    }

    #[test]
    fn only_usual_statements_are_run_with_another_end() {
        let entry = |copy: &str| Entry {
            kind: "TABLE DATA".into(),
            schema: "public".into(),
            name: "T".into(),
            copy: copy.into(),
            ..Entry::default()
        };
        let copy = |text: &str| apart(&entry(text)).map(|apart| apart.copy);
        assert_eq!(copy("COPY public.\"T\" (a, \"b)\") FROM stdin;\n").unwrap(), "COPY public.\"T\" (a, \"b)\")");
        assert_eq!(copy("COPY public.\"T\"  FROM stdin;\n").unwrap(), "COPY public.\"T\"");
        for hostile in [
            "COPY public.\"T\" (a) TO PROGRAM 'x' --  FROM stdin;\n",
            "COPY public.\"T\" TO PROGRAM 'x' -- (a) FROM stdin;\n",
            "COPY public.\"Other\" (a) FROM stdin;\n",
            "COPY public.\"T\" (a) FROM stdin WITH (x);\n",
        ] {
            assert_eq!(copy(hostile), None, "{hostile}");
        }
    }
}
