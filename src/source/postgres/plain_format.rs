//! Plain SQL dumps, read line by line while they stream through: `pg_dump`, `pg_dumpall`, `mysqldump`.
//!
//! The reader knows a dump by its first lines, counts the rows of each `COPY ... FROM stdin` block, notes what changes
//! from run to run (restrict keys, times), and asks for the trailer that the tool writes last. A dump without its
//! trailer is truncated. Of a line only the first bytes are kept, so memory does not depend on the data.

use std::collections::BTreeMap;
use std::io::BufRead;

use super::inspect::{Findings, Verdict};
use crate::domain::snapshot::{SourceWarning, TableRows, VolatileSpan};

/// Bytes of a line that are kept: enough for every comment and for the name in a COPY statement.
const LINE_KEPT_MAX: usize = 2048;
/// Bytes kept of the end of a line, to see `FROM stdin;`.
const LINE_END_MAX: usize = 32;
/// Tables and volatile spans that are remembered.
const TABLES_MAX: usize = 200_000;
const VOLATILE_MAX: usize = 4096;

/// Which tool wrote a plain dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainKind {
    /// `pg_dump --format=plain`.
    PgDump,
    /// `pg_dumpall`.
    PgDumpAll,
    /// `mysqldump` or `mariadb-dump`.
    MySqlDump,
}

impl PlainKind {
    /// The kind that the first bytes show.
    pub fn of(head: &[u8]) -> Option<Self> {
        let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let first = lines.next()?;
        let second = lines.next().unwrap_or_default();
        let is_mysql = |line: &[u8]| line.starts_with(b"-- MySQL dump ") || line.starts_with(b"-- MariaDB dump ");
        match first {
            // MariaDB puts a line before its comment that old clients choke on, on purpose.
            _ if is_mysql(first) || (first.starts_with(b"/*") && is_mysql(second)) => Some(Self::MySqlDump),
            b"--" if second == b"-- PostgreSQL database dump" => Some(Self::PgDump),
            b"--" if second == b"-- PostgreSQL database cluster dump" => Some(Self::PgDumpAll),
            _ => None,
        }
    }

    fn tool(self) -> &'static str {
        match self {
            Self::PgDump => "pg_dump",
            Self::PgDumpAll => "pg_dumpall",
            Self::MySqlDump => "mysqldump",
        }
    }
}

/// How much of the last comment has been seen. PostgreSQL frames it with lines of `--`, so that the same words within a
/// function's text do not pass for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trailer {
    Missing,
    Named,
    Complete,
}

/// The incremental reader.
pub struct PlainDump {
    kind: PlainKind,
    line: Vec<u8>,
    line_end: Vec<u8>,
    line_length: u64,
    position: u64,
    line_start: u64,
    copy: Option<(String, u64)>,
    /// Lines since a comment announced the data of a table; a COPY within a function's text has none.
    since_announcement: u8,
    database: Option<String>,
    trailer: Trailer,
    after_dashes: bool,
    tables: BTreeMap<String, u64>,
    volatile: Vec<VolatileSpan>,
    overflow: bool,
}

impl PlainDump {
    /// A reader of a dump of this kind.
    pub fn new(kind: PlainKind) -> Self {
        Self {
            kind,
            line: Vec::new(),
            line_end: Vec::new(),
            line_length: 0,
            position: 0,
            line_start: 0,
            copy: None,
            since_announcement: u8::MAX,
            database: None,
            trailer: Trailer::Missing,
            after_dashes: false,
            tables: BTreeMap::new(),
            volatile: Vec::new(),
            overflow: false,
        }
    }

    /// The kind it was made for.
    pub fn kind(&self) -> PlainKind {
        self.kind
    }

    /// Takes the next bytes of the dump.
    pub fn feed(&mut self, mut input: &[u8]) {
        while !input.is_empty() {
            let mut rest = input;
            // Reading from a slice cannot fail.
            let taken = rest.skip_until(b'\n').unwrap_or(input.len());
            let part = input.get(..taken).unwrap_or_default();
            input = rest;
            self.position += taken as u64;
            let (text, ends) = match part.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (part, false),
            };
            self.hold(text);
            if ends {
                self.end_line();
            }
        }
    }

    fn hold(&mut self, text: &[u8]) {
        self.line_length += text.len() as u64;
        if self.copy.is_some() && self.line_length > 8 {
            // A row of data: only the end mark matters, and this line is too long for it.
            return;
        }
        let keep = text.len().min(LINE_KEPT_MAX.saturating_sub(self.line.len()));
        self.line.extend_from_slice(text.get(..keep).unwrap_or_default());
        if self.line_length > LINE_KEPT_MAX as u64 {
            self.line_end.extend_from_slice(text.get(text.len().saturating_sub(LINE_END_MAX)..).unwrap_or_default());
            let excess = self.line_end.len().saturating_sub(LINE_END_MAX);
            self.line_end.drain(..excess);
        }
    }

    fn end_line(&mut self) {
        let held = std::mem::take(&mut self.line);
        let whole = self.line_length == held.len() as u64;
        let line = held.strip_suffix(b"\r").unwrap_or(&held);
        match &mut self.copy {
            Some((_, rows)) if !(whole && line == b"\\.") => *rows += 1,
            Some(_) => self.end_copy(),
            None => self.take_line(line, whole),
        }
        self.line = held;
        self.line.clear();
        self.line_end.clear();
        self.line_length = 0;
        self.line_start = self.position;
    }

    fn end_copy(&mut self) {
        let Some((table, rows)) = self.copy.take() else { return };
        if self.tables.len() >= TABLES_MAX && !self.tables.contains_key(&table) {
            self.overflow = true;
            return;
        }
        *self.tables.entry(table).or_default() += rows;
    }

    fn take_line(&mut self, line: &[u8], whole: bool) {
        self.since_announcement = self.since_announcement.saturating_add(1);
        if self.kind == PlainKind::MySqlDump {
            return self.take_mysql_line(line);
        }
        let trailer: &[u8] = match self.kind {
            PlainKind::PgDumpAll => b"-- PostgreSQL database cluster dump complete",
            _ => b"-- PostgreSQL database dump complete",
        };
        let after_dashes = std::mem::replace(&mut self.after_dashes, line == b"--");
        if line == trailer {
            self.trailer = if after_dashes { Trailer::Named } else { Trailer::Missing };
        } else if line == b"--" && self.trailer == Trailer::Named {
            self.trailer = Trailer::Complete;
        } else if let Some(start) = [&b"\\restrict "[..], b"\\unrestrict "].iter().find(|p| line.starts_with(p)) {
            self.add_volatile(start.len(), line.len(), "restrict key");
        } else if let Some(start) = [&b"-- Started on "[..], b"-- Completed on "].iter().find(|p| line.starts_with(p)) {
            self.add_volatile(start.len(), line.len(), "dump time");
        } else if line.starts_with(b"-- Data for Name: ") {
            (self.since_announcement, self.trailer) = (0, Trailer::Missing);
        } else if let Some(name) = line.strip_prefix(b"\\connect ") {
            self.database = Some(connected_database(name));
            self.trailer = Trailer::Missing;
        } else if !line.is_empty() && line != b"--" {
            self.trailer = Trailer::Missing;
            let end = if whole { line } else { &self.line_end };
            let end = end.strip_suffix(b"\r").unwrap_or(end);
            // The announcement is followed by `--`, an empty line and, for some tables, a setting.
            if self.since_announcement <= 6
                && end.ends_with(b" FROM stdin;")
                && let Some(table) = line.strip_prefix(b"COPY ").and_then(qualified_name)
            {
                let table = match (&self.database, self.kind) {
                    (Some(database), PlainKind::PgDumpAll) => format!("{database}.{table}"),
                    _ => table,
                };
                self.copy = Some((table, 0));
            }
        }
    }

    fn take_mysql_line(&mut self, line: &[u8]) {
        const TRAILER: &[u8] = b"-- Dump completed";
        if line.starts_with(TRAILER) {
            self.trailer = Trailer::Complete;
            let start = TRAILER.len() + b" on ".len();
            if line.len() > start {
                self.add_volatile(start, line.len(), "dump time");
            }
        } else if !line.is_empty() {
            self.trailer = Trailer::Missing;
        }
    }

    fn add_volatile(&mut self, start: usize, end: usize, what: &str) {
        if self.volatile.len() < VOLATILE_MAX && end > start {
            let offset = self.line_start + start as u64;
            self.volatile.push(VolatileSpan { offset, length: (end - start) as u64, what: what.into() });
        }
    }

    /// The verdict after the last byte.
    pub fn finish(mut self) -> Verdict {
        if self.line_length > 0 {
            self.end_line();
        }
        if let Some((table, rows)) = &self.copy {
            return Verdict::Bad(format!(
                "is a truncated dump of {}: it ends within the data of {table}, after {rows} rows",
                self.kind.tool()
            ));
        }
        if self.trailer != Trailer::Complete {
            return Verdict::Bad(format!(
                "is a truncated dump of {}: its last line, the mark of completeness, is missing",
                self.kind.tool()
            ));
        }
        let mut findings = Findings { volatile: self.volatile, ..Findings::default() };
        findings.tables = self.tables.into_iter().map(|(table, rows)| TableRows { table, rows }).collect();
        if self.overflow {
            findings.warnings.push(SourceWarning {
                code: "dump.too_many_tables".into(),
                subject: String::new(),
                message: format!("The dump has more than {TABLES_MAX} tables, the rows of the others are not counted"),
                incomplete: false,
            });
        }
        Verdict::Good(findings)
    }
}

/// The database of `\connect name` or `\connect -reuse-previous=on "dbname='name'"`.
fn connected_database(rest: &[u8]) -> String {
    let text = String::from_utf8_lossy(rest);
    let last = text.trim();
    let last = last.strip_prefix("-reuse-previous=on ").unwrap_or(last).trim_matches('"');
    last.strip_prefix("dbname=").unwrap_or(last).trim_matches('\'').to_owned()
}

/// `schema.table` without quotes, from the start of `public."We ird" (x) FROM stdin;`.
fn qualified_name(text: &[u8]) -> Option<String> {
    let (schema, rest) = identifier(text)?;
    match rest.strip_prefix(b".") {
        Some(rest) => Some(format!("{schema}.{}", identifier(rest)?.0)),
        None => Some(schema),
    }
}

fn identifier(text: &[u8]) -> Option<(String, &[u8])> {
    let mut name = Vec::new();
    let mut index = 0;
    if text.first() == Some(&b'"') {
        index = 1;
        loop {
            match (text.get(index)?, text.get(index + 1)) {
                (b'"', Some(b'"')) => {
                    name.push(b'"');
                    index += 2;
                }
                (b'"', _) => break,
                (byte, _) => {
                    name.push(*byte);
                    index += 1;
                }
            }
        }
        index += 1;
    } else {
        while let Some(byte) = text.get(index).filter(|byte| !matches!(byte, b'.' | b' ' | b'(')) {
            name.push(*byte);
            index += 1;
        }
    }
    (!name.is_empty()).then(|| (String::from_utf8_lossy(&name).into_owned(), text.get(index..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = "--\n-- PostgreSQL database dump\n--\n\n\\restrict Key1\n\n-- Started on 2026-11-21 10:00:00 UTC\n\
        CREATE FUNCTION f() RETURNS text AS $$\nCOPY public.fake (a) FROM stdin;\n-- PostgreSQL database dump complete\n$$;\n\n\
        --\n-- Data for Name: We ird; Type: TABLE DATA; Schema: public; Owner: postgres\n--\n\n\
        COPY public.\"We \"\"ird\" (x) FROM stdin;\n-- PostgreSQL database dump complete\na\\nb\n\\\\.\n\\.\n\n\n\
        --\n-- Data for Name: e; Type: TABLE DATA; Schema: s; Owner: postgres\n--\n\nCOPY s.e  FROM stdin;\n\\.\n\n\n\
        --\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict Key1\n\n";

    fn judge(text: &str, step: usize) -> Verdict {
        let mut reader = PlainDump::new(PlainKind::of(text.as_bytes()).unwrap());
        for part in text.as_bytes().chunks(step) {
            reader.feed(part);
        }
        reader.finish()
    }

    #[test]
    fn rows_and_volatile_spans_of_a_plain_dump() {
        for step in [1, 3, 50, DUMP.len()] {
            let Verdict::Good(findings) = judge(DUMP, step) else { panic!("{step}") };
            let rows: Vec<_> = findings.tables.iter().map(|t| (t.table.as_str(), t.rows)).collect();
            assert_eq!(rows, [("public.We \"ird", 3), ("s.e", 0)], "{step}");
            let spans: Vec<_> = findings
                .volatile
                .iter()
                .map(|s| &DUMP[usize::try_from(s.offset).unwrap()..usize::try_from(s.offset + s.length).unwrap()])
                .collect();
            assert_eq!(spans, ["Key1", "2026-11-21 10:00:00 UTC", "Key1"]);
        }
    }

    #[test]
    fn every_truncation_before_the_trailer_is_found() {
        let trailer = DUMP.rfind("-- PostgreSQL database dump complete").unwrap();
        for length in 40..trailer + "-- PostgreSQL database dump complete\n-".len() {
            assert!(matches!(judge(&DUMP[..length], 64), Verdict::Bad(_)), "{length}");
        }
    }

    #[test]
    fn long_rows_and_long_column_lists_are_counted_in_bounded_memory() {
        let columns = (0..1000).map(|n| format!("column_{n}")).collect::<Vec<_>>().join(", ");
        let row = "x".repeat(1 << 20);
        let text = format!(
            "--\n-- PostgreSQL database dump\n--\n\n-- Data for Name: t; Type: TABLE DATA;\n--\n\nCOPY public.t ({columns}) FROM stdin;\n\
             {row}\n{row}\n\\.\n--\n-- PostgreSQL database dump complete\n--\n"
        );
        let mut reader = PlainDump::new(PlainKind::PgDump);
        for part in text.as_bytes().chunks(4096) {
            reader.feed(part);
            assert!(reader.line.capacity() <= 2 * LINE_KEPT_MAX);
        }
        let Verdict::Good(findings) = reader.finish() else { panic!() };
        assert_eq!(findings.tables, [TableRows { table: "public.t".into(), rows: 2 }]);
    }

    #[test]
    fn mysqldump_needs_its_last_line() {
        let good = "-- MySQL dump 10.13  Distrib 8.0\n--\nINSERT INTO t VALUES (1);\n-- Dump completed on 2026-11-21  1:02:03\n";
        let Verdict::Good(findings) = judge(good, 7) else { panic!() };
        assert_eq!((findings.volatile.len(), findings.volatile[0].length), (1, 19));
        assert!(matches!(judge(&good[..60], 7), Verdict::Bad(_)));
        let maria = format!("/*M!999999\\- enable the sandbox mode */ \n{}", good.replace("MySQL", "MariaDB"));
        assert!(matches!(judge(&maria, 7), Verdict::Good(_)));
    }

    #[test]
    fn a_cluster_script_ends_with_its_own_trailer() {
        let part =
            DUMP.replace("--\n-- PostgreSQL database dump\n", "\\connect app\n--\n-- PostgreSQL database dump\n");
        let head = "--\n-- PostgreSQL database cluster dump\n--\n\n";
        assert!(matches!(judge(&format!("{head}{part}"), 64), Verdict::Bad(_)));
        let whole = format!("{head}{part}--\n-- PostgreSQL database cluster dump complete\n--\n");
        let Verdict::Good(findings) = judge(&whole, 64) else { panic!() };
        assert_eq!(findings.tables[1].table, "app.s.e");
    }
}
