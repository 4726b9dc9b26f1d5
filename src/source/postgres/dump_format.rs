//! The custom archive format of `pg_dump`, read incrementally while the bytes stream through.
//!
//! The reader follows header, table of contents and data blocks, counts the rows of each COPY block, notes the creation
//! time as a volatile span, and says at the end whether the archive is complete. It never keeps the data and keeps of
//! the table of contents only the names of entries that have data, up to a bound. An archive of a version it does not
//! know is not judged: that is a warning, never a failure, because a new `pg_dump` must not stop the backups.
//!
//! Whoever wants to know more than that hangs a [`Watch`] on the reader, which hears of every text of every entry and of
//! all data, in pieces as they come (`ops::proof` does).
//!
//! Layout (pg_backup_archiver.c): `PGDMP`, version (3 bytes), sizes of integers and offsets, format; compression; seven
//! integers of creation time; three texts; the number of entries and the entries; then blocks of a type byte, the
//! entry's number and chunks of (length, bytes) that end with length 0. An integer is a sign byte and `int_size` bytes,
//! low byte first; a text is a length and its bytes, length -1 for none. An archive ends with its last block.

use std::collections::HashMap;

use super::dump_watch::{EntryField, HeaderText, Unwatched, Watch};
use super::inspect::{Findings, Verdict};
use crate::domain::snapshot::{SourceWarning, TableRows, VolatileSpan};

/// The first bytes of every archive.
pub const MAGIC: &[u8] = b"PGDMP";
/// Entries with data that are remembered; a database with more tables is stored, but not judged.
const DATA_ENTRIES_MAX: usize = 500_000;
/// Bytes of a text that are kept; names are shorter than this.
const TEXT_KEPT_MAX: usize = 1024;
/// Bytes of names kept in all.
const NAMES_MAX: usize = 24 << 20;
/// The end of a COPY block that is kept to find its terminator.
const TAIL: usize = 16;

const FORMAT_CUSTOM: u8 = 1;
const BLOCK_DATA: u8 = 1;
const BLOCK_BLOBS: u8 = 3;
const OFFSET_NO_DATA: u8 = 3;

/// What the bytes at hand belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Prefix,
    CompressionByte,
    CompressionInt,
    Time(u8),
    HeaderText(u8),
    EntryCount,
    Entry(EntryField),
    BlockType,
    BlockId,
    ChunkLength,
    BlobOid,
    BlobChunkLength,
}

/// How the bytes at hand are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// So many bytes into `held`, then [`CustomArchive::take_fixed`].
    Fixed(usize),
    /// The rest of a text.
    Text(u64),
    /// The rest of a chunk of data.
    Data(u64),
    /// Nothing more is read: unknown version, or a fault.
    Off,
}

struct DataEntry {
    name: String,
    counted: bool,
    rows: Option<u64>,
    seen: bool,
}

#[derive(Default)]
struct PendingEntry {
    dump_id: i64,
    had_dumper: bool,
    tag: String,
    kind: String,
    namespace: String,
    has_copy: bool,
}

/// The incremental reader.
pub struct CustomArchive<W = Unwatched> {
    watch: W,
    mode: Mode,
    field: Field,
    held: Vec<u8>,
    position: u64,
    version: (u8, u8),
    int_size: usize,
    offset_size: usize,
    time_start: u64,
    time_length: u64,
    compressed: bool,
    pending: PendingEntry,
    entries_left: u64,
    entries: HashMap<i64, DataEntry>,
    names_bytes: usize,
    block: Option<i64>,
    newlines: u64,
    tail: Vec<u8>,
    no_terminator: Option<String>,
    unread: Option<String>,
    fault: Option<String>,
}

impl Default for CustomArchive {
    fn default() -> Self {
        Self::watched(Unwatched)
    }
}

impl<W: Watch> CustomArchive<W> {
    /// A reader that tells `watch` what it meets.
    pub fn watched(watch: W) -> Self {
        Self {
            watch,
            mode: Mode::Fixed(MAGIC.len() + 6),
            field: Field::Prefix,
            held: Vec::new(),
            position: 0,
            version: (0, 0),
            int_size: 4,
            offset_size: 8,
            time_start: 0,
            time_length: 0,
            compressed: false,
            pending: PendingEntry::default(),
            entries_left: 0,
            entries: HashMap::new(),
            names_bytes: 0,
            block: None,
            newlines: 0,
            tail: Vec::new(),
            no_terminator: None,
            unread: None,
            fault: None,
        }
    }

    /// Takes the next bytes of the archive.
    pub fn feed(&mut self, mut input: &[u8]) {
        while !input.is_empty() {
            let taken = match self.mode {
                Mode::Off => input.len(),
                Mode::Fixed(wanted) => {
                    let n = wanted.saturating_sub(self.held.len()).min(input.len());
                    self.held.extend_from_slice(input.get(..n).unwrap_or_default());
                    n
                }
                Mode::Text(left) => {
                    let n = bounded(left, input.len());
                    self.tell_text(input.get(..n).unwrap_or_default());
                    let keep = n.min(TEXT_KEPT_MAX.saturating_sub(self.held.len()));
                    self.held.extend_from_slice(input.get(..keep).unwrap_or_default());
                    self.mode = Mode::Text(left - n as u64);
                    n
                }
                Mode::Data(left) => {
                    let n = bounded(left, input.len());
                    self.count(input.get(..n).unwrap_or_default());
                    self.mode = Mode::Data(left - n as u64);
                    n
                }
            };
            self.position += taken as u64;
            input = input.get(taken..).unwrap_or_default();
            self.advance();
        }
    }

    /// Who watches.
    pub fn watch(&self) -> &W {
        &self.watch
    }

    /// Who watches, to take something from it.
    pub fn watch_mut(&mut self) -> &mut W {
        &mut self.watch
    }

    /// The watcher after the last byte.
    /// # Errors
    /// The predicate of a sentence, when the archive is not whole or the watcher cannot have seen everything.
    pub fn into_watch(self) -> Result<W, String> {
        if let Some(reason) = self.fault {
            return Err(reason);
        }
        if let Some(reason) = self.unread {
            return Err(format!("cannot be compared: {reason}"));
        }
        if !self.is_whole() {
            return Err(format!("is a truncated pg_dump archive: it ends after {} bytes", self.position));
        }
        if self.compressed {
            return Err("cannot be compared, because its data is compressed".into());
        }
        if let Some(table) = self.no_terminator {
            return Err(format!("cannot be compared: the COPY data of {table} has no end mark"));
        }
        Ok(self.watch)
    }

    /// The watcher, although the archive was not read to its end: for who wants its beginning alone.
    pub fn into_partial_watch(self) -> W {
        self.watch
    }

    fn is_whole(&self) -> bool {
        self.field == Field::BlockType && self.held.is_empty() && self.entries.values().all(|entry| entry.seen)
    }

    fn tell_text(&mut self, piece: &[u8]) {
        match self.field {
            Field::HeaderText(0) => self.watch.header(HeaderText::Database, piece),
            Field::HeaderText(1) => self.watch.header(HeaderText::ServerVersion, piece),
            Field::HeaderText(_) => self.watch.header(HeaderText::DumpVersion, piece),
            Field::Entry(field) => self.watch.text(field, piece),
            _ => {}
        }
    }

    /// The verdict after the last byte.
    pub fn finish(self) -> Verdict {
        let whole = self.is_whole();
        if let Some(reason) = self.fault {
            return Verdict::Bad(reason);
        }
        let mut findings = Findings::default();
        if self.time_length > 0 {
            let what = "dump time".to_owned();
            findings.volatile.push(VolatileSpan { offset: self.time_start, length: self.time_length, what });
        }
        if let Some(message) = self.unread {
            findings.warnings.push(warning("dump.unknown_version", message));
            return Verdict::Good(findings);
        }
        if !whole {
            let missing = self.entries.values().filter(|entry| !entry.seen).count();
            return Verdict::Bad(format!(
                "is a truncated pg_dump archive: it ends after {} bytes with the data of {} of {} entries",
                self.position,
                self.entries.len() - missing,
                self.entries.len()
            ));
        }
        if let Some(table) = self.no_terminator {
            let message = format!("The COPY data of {table} has no end mark, its rows may be counted wrongly");
            findings.warnings.push(SourceWarning { subject: table, ..warning("dump.copy_end", message) });
        }
        if self.compressed {
            findings.warnings.push(SourceWarning {
                message: "The archive is compressed, so it shares almost nothing with the one before, and its rows \
                          are not counted; dump with --compress=0"
                    .into(),
                ..warning("stream.compressed", String::new())
            });
        }
        findings.tables = self
            .entries
            .into_values()
            .filter_map(|entry| Some(TableRows { rows: entry.rows?, table: entry.name }))
            .collect();
        Verdict::Good(findings)
    }

    fn advance(&mut self) {
        loop {
            match self.mode {
                Mode::Fixed(wanted) if self.held.len() >= wanted => {
                    let held = std::mem::take(&mut self.held);
                    self.take_fixed(&held);
                }
                Mode::Text(0) => {
                    let held = std::mem::take(&mut self.held);
                    self.take_text(Some(&held));
                }
                Mode::Data(0) => self.mode = Mode::Fixed(1 + self.int_size),
                _ => return,
            }
        }
    }

    fn fail(&mut self, what: impl std::fmt::Display) {
        self.fault = Some(format!("is a damaged pg_dump archive: {what} at byte {}", self.position));
        self.mode = Mode::Off;
    }

    fn expect_int(&mut self, field: Field) {
        (self.field, self.mode) = (field, Mode::Fixed(1 + self.int_size));
    }

    fn expect_byte(&mut self, field: Field) {
        (self.field, self.mode) = (field, Mode::Fixed(1));
    }

    fn take_fixed(&mut self, held: &[u8]) {
        match self.field {
            Field::Prefix => return self.take_prefix(held),
            Field::CompressionByte => {
                self.compressed = held != [0];
                self.time_start = self.position;
                return self.expect_int(Field::Time(0));
            }
            Field::BlockType => {
                return match held {
                    [BLOCK_DATA | BLOCK_BLOBS] => {
                        self.tail = held.to_vec();
                        self.expect_int(Field::BlockId);
                    }
                    _ => self.fail("a block of an unknown type"),
                };
            }
            Field::Entry(EntryField::Offset) => return self.take_entry(held.first() == Some(&OFFSET_NO_DATA)),
            _ => {}
        }
        let Some(value) = integer(held) else { return self.fail("an integer that is none") };
        match self.field {
            Field::CompressionInt => {
                self.compressed = value != 0;
                self.time_start = self.position;
                self.expect_int(Field::Time(0));
            }
            Field::Time(6) => {
                self.time_length = self.position - self.time_start;
                self.expect_int(Field::HeaderText(0));
            }
            Field::Time(n) => self.expect_int(Field::Time(n + 1)),
            Field::EntryCount => self.take_entry_count(value),
            Field::Entry(EntryField::DumpId) => {
                self.pending = PendingEntry { dump_id: value, ..PendingEntry::default() };
                self.next_entry_field(EntryField::DumpId);
            }
            Field::Entry(EntryField::HadDumper) => {
                self.pending.had_dumper = value != 0;
                self.next_entry_field(EntryField::HadDumper);
            }
            Field::Entry(field @ (EntryField::Section | EntryField::RelationKind)) => self.next_entry_field(field),
            Field::HeaderText(_) | Field::Entry(_) => match u64::try_from(value) {
                Ok(length) => self.mode = Mode::Text(length),
                Err(_) => self.take_text(None),
            },
            Field::BlockId => self.take_block(value),
            Field::ChunkLength => self.take_chunk_length(value, None),
            Field::BlobChunkLength => self.take_chunk_length(value, Some(())),
            Field::BlobOid if value == 0 => self.end_block(),
            Field::BlobOid => {
                self.watch.large_object(value);
                self.expect_int(Field::BlobChunkLength);
            }
            Field::Prefix | Field::CompressionByte | Field::BlockType => self.fail("an impossible state"),
        }
    }

    fn take_prefix(&mut self, held: &[u8]) {
        let Some(&[major, minor, _revision, int_size, offset_size, format]) = held.get(MAGIC.len()..) else {
            return self.fail("a short header");
        };
        self.version = (major, minor);
        if major != 1 || !(12..=16).contains(&minor) || format != FORMAT_CUSTOM {
            self.unread = Some(format!(
                "The archive has version {major}.{minor} and format {format}, which holdfast cannot read yet: stored, \
                 but not checked for completeness, rows not counted"
            ));
            self.mode = Mode::Off;
        } else if !held.starts_with(MAGIC) || !(1..=8).contains(&int_size) || !(1..=8).contains(&offset_size) {
            self.fail("an impossible header");
        } else {
            (self.int_size, self.offset_size) = (int_size.into(), offset_size.into());
            if minor >= 15 {
                self.expect_byte(Field::CompressionByte);
            } else {
                self.expect_int(Field::CompressionInt);
            }
        }
    }

    fn take_entry_count(&mut self, value: i64) {
        match u64::try_from(value) {
            Ok(count) => {
                self.entries_left = count;
                self.next_entry();
            }
            Err(_) => self.fail("a negative number of entries"),
        }
    }

    fn next_entry(&mut self) {
        if self.entries_left == 0 {
            self.watch.contents_end(self.position);
            self.expect_byte(Field::BlockType);
        } else {
            self.entries_left -= 1;
            self.expect_int(Field::Entry(EntryField::DumpId));
        }
    }

    fn next_entry_field(&mut self, after: EntryField) {
        use EntryField as F;
        let next = match after {
            F::DumpId => F::HadDumper,
            F::HadDumper => F::TableOid,
            F::TableOid => F::Oid,
            F::Oid => F::Tag,
            F::Tag => F::Kind,
            F::Kind => F::Section,
            F::Section => F::Definition,
            F::Definition => F::Drop,
            F::Drop => F::Copy,
            F::Copy => F::Namespace,
            F::Namespace => F::Tablespace,
            F::Tablespace if self.version.1 >= 14 => F::AccessMethod,
            F::Tablespace => F::Owner,
            F::AccessMethod if self.version.1 >= 16 => F::RelationKind,
            F::AccessMethod | F::RelationKind => F::Owner,
            F::Owner => F::WithOids,
            F::WithOids | F::Dependency => F::Dependency,
            F::Offset => return self.next_entry(),
        };
        self.expect_int(Field::Entry(next));
    }

    fn take_text(&mut self, text: Option<&[u8]>) {
        let owned = || String::from_utf8_lossy(text.unwrap_or_default()).into_owned();
        match self.field {
            Field::HeaderText(2) => self.expect_int(Field::EntryCount),
            Field::HeaderText(n) => self.expect_int(Field::HeaderText(n + 1)),
            Field::Entry(EntryField::Dependency) if text.is_none() => {
                (self.field, self.mode) = (Field::Entry(EntryField::Offset), Mode::Fixed(1 + self.offset_size));
            }
            Field::Entry(field) => {
                match field {
                    EntryField::Tag => self.pending.tag = owned(),
                    EntryField::Kind => self.pending.kind = owned(),
                    EntryField::Namespace => self.pending.namespace = owned(),
                    EntryField::Copy => self.pending.has_copy = text.is_some_and(|t| !t.is_empty()),
                    _ => {}
                }
                if text.is_some() {
                    self.watch.text_end(field);
                }
                self.next_entry_field(field);
            }
            _ => self.fail("a text out of place"),
        }
    }

    fn take_entry(&mut self, no_data: bool) {
        let pending = std::mem::take(&mut self.pending);
        self.watch.entry(pending.dump_id, pending.had_dumper && !no_data);
        if pending.had_dumper && !no_data {
            let name = match pending.namespace.as_str() {
                "" => pending.tag,
                namespace => format!("{namespace}.{}", pending.tag),
            };
            self.names_bytes += name.len();
            if self.entries.len() >= DATA_ENTRIES_MAX || self.names_bytes > NAMES_MAX {
                self.unread = Some(
                    "The archive has more tables than holdfast keeps track of: stored, but not checked for \
                     completeness, rows not counted"
                        .to_owned(),
                );
                self.mode = Mode::Off;
                return;
            }
            let counted = pending.kind == "TABLE DATA" && pending.has_copy;
            let entry = DataEntry { name, counted, rows: None, seen: false };
            if self.entries.insert(pending.dump_id, entry).is_some() {
                return self.fail("two entries of one number");
            }
        }
        self.next_entry_field(EntryField::Offset);
    }

    fn take_block(&mut self, id: i64) {
        let blobs = self.tail == [BLOCK_BLOBS];
        self.tail.clear();
        self.newlines = 0;
        match self.entries.get_mut(&id) {
            None => self.fail(format_args!("data of an entry {id} that the table of contents does not have")),
            Some(entry) if entry.seen => self.fail(format_args!("a second block for entry {id}")),
            Some(entry) => {
                entry.seen = true;
                self.block = Some(id);
                self.watch.block(id);
                self.expect_int(if blobs { Field::BlobOid } else { Field::ChunkLength });
            }
        }
    }

    fn take_chunk_length(&mut self, value: i64, blob: Option<()>) {
        match (u64::try_from(value), blob) {
            (Err(_), _) => self.fail("a chunk of negative length"),
            (Ok(0), None) => self.end_block(),
            (Ok(0), Some(())) => {
                self.watch.large_object_end();
                self.expect_int(Field::BlobOid);
            }
            (Ok(length), _) => self.mode = Mode::Data(length),
        }
    }

    /// Counts the line ends of COPY data and keeps its last bytes, where the end mark is.
    fn count(&mut self, data: &[u8]) {
        self.watch.data(data);
        let counted = self.block.and_then(|id| self.entries.get(&id)).is_some_and(|entry| entry.counted);
        if self.compressed || !counted {
            return;
        }
        self.newlines += data.iter().filter(|byte| **byte == b'\n').count() as u64;
        let last = data.get(data.len().saturating_sub(TAIL)..).unwrap_or_default();
        self.tail.extend_from_slice(last);
        let excess = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..excess);
    }

    fn end_block(&mut self) {
        let compressed = self.compressed;
        self.watch.block_end();
        let entry = self.block.take().and_then(|id| self.entries.get_mut(&id));
        if let Some(entry) = entry.filter(|entry| entry.counted && !compressed) {
            // pg_dump writes the rows, then `\.` and empty lines. Within the data a backslash is always doubled, so
            // a line of `\.` can only be the end mark.
            let trimmed = self.tail.iter().rposition(|byte| *byte != b'\n').map_or(0, |last| last + 1);
            let mark = self.tail.get(..trimmed).unwrap_or_default();
            if mark == b"\\." || mark.ends_with(b"\n\\.") {
                entry.rows = Some(self.newlines.saturating_sub((self.tail.len() - trimmed) as u64));
            } else {
                entry.rows = Some(self.newlines);
                self.no_terminator.get_or_insert_with(|| entry.name.clone());
            }
        }
        self.tail.clear();
        self.expect_byte(Field::BlockType);
    }
}

fn warning(code: &str, message: String) -> SourceWarning {
    SourceWarning { code: code.into(), subject: String::new(), message, incomplete: false }
}

fn bounded(left: u64, available: usize) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(available)
}

/// A sign byte and up to eight bytes, low byte first.
fn integer(held: &[u8]) -> Option<i64> {
    let (sign, bytes) = held.split_first()?;
    let mut value: u64 = 0;
    for byte in bytes.iter().rev() {
        value = value.checked_mul(256)? | u64::from(*byte);
    }
    let value = i64::try_from(value).ok()?;
    match sign {
        0 => Some(value),
        1 => Some(-value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn int(out: &mut Vec<u8>, value: i32) {
        out.push(u8::from(value < 0));
        out.extend_from_slice(&value.unsigned_abs().to_le_bytes());
    }

    fn text(out: &mut Vec<u8>, value: Option<&str>) {
        int(out, value.map_or(-1, |v| i32::try_from(v.len()).unwrap()));
        out.extend_from_slice(value.unwrap_or_default().as_bytes());
    }

    fn entry(out: &mut Vec<u8>, minor: u8, id: i32, kind: &str, tag: &str, data: bool) {
        int(out, id);
        int(out, data.into());
        text(out, Some("0"));
        text(out, Some("0"));
        text(out, Some(tag));
        text(out, Some(kind));
        int(out, 3);
        text(out, Some("select 1;\n"));
        text(out, Some(""));
        text(out, if kind == "TABLE DATA" { Some("COPY x FROM stdin;\n") } else { None });
        text(out, Some("public"));
        text(out, None);
        if minor >= 14 {
            text(out, None);
        }
        if minor >= 16 {
            int(out, 114);
        }
        text(out, Some("owner"));
        text(out, Some("false"));
        text(out, Some("17"));
        text(out, None);
        out.push(if data { 1 } else { 3 });
        out.extend_from_slice(&[0; 8]);
    }

    fn data(out: &mut Vec<u8>, id: i32, chunks: &[&[u8]]) {
        out.push(BLOCK_DATA);
        int(out, id);
        for chunk in chunks {
            int(out, i32::try_from(chunk.len()).unwrap());
            out.extend_from_slice(chunk);
        }
        int(out, 0);
    }

    /// An archive of two tables and large objects, written as `pg_dump` of the given format version writes it.
    fn archive(minor: u8) -> Vec<u8> {
        let mut out = b"PGDMP".to_vec();
        out.extend_from_slice(&[1, minor, 0, 4, 8, 1]);
        if minor >= 15 {
            out.push(0);
        } else {
            int(&mut out, 0);
        }
        for value in [41, 25, 13, 21, 10, 126, 0] {
            int(&mut out, value);
        }
        for value in ["app", "15.18", "15.18"] {
            text(&mut out, Some(value));
        }
        int(&mut out, 4);
        entry(&mut out, minor, 1, "TABLE", "t", false);
        entry(&mut out, minor, 2, "TABLE DATA", "t", true);
        entry(&mut out, minor, 3, "TABLE DATA", "e", true);
        entry(&mut out, minor, 4, "BLOBS", "BLOBS", true);
        data(&mut out, 2, &[b"1\tx\n", b"2\ty\\n\n3\t", b"\\\\.\n", b"\\.\n\n\n"]);
        data(&mut out, 3, &[b"\\.\n\n\n"]);
        out.push(BLOCK_BLOBS);
        int(&mut out, 4);
        int(&mut out, 16408);
        int(&mut out, 5);
        out.extend_from_slice(b"hello");
        int(&mut out, 0);
        int(&mut out, 0);
        out
    }

    fn judge(bytes: &[u8], step: usize) -> Verdict {
        let mut reader = CustomArchive::default();
        for part in bytes.chunks(step) {
            reader.feed(part);
        }
        reader.finish()
    }

    fn rows(findings: &Findings) -> Vec<(String, u64)> {
        let mut rows: Vec<_> = findings.tables.iter().map(|t| (t.table.clone(), t.rows)).collect();
        rows.sort();
        rows
    }

    #[test]
    fn every_known_version_is_read_in_pieces_of_any_size() {
        for minor in 12..=16 {
            let bytes = archive(minor);
            for step in [1, 2, 3, 7, 64, bytes.len()] {
                let Verdict::Good(findings) = judge(&bytes, step) else { panic!("{minor} {step}") };
                assert_eq!(rows(&findings), [("public.e".into(), 0), ("public.t".into(), 3)]);
                assert_eq!(findings.warnings, []);
                let start = if minor >= 15 { 12 } else { 16 };
                assert_eq!((findings.volatile[0].offset, findings.volatile[0].length), (start, 35));
            }
        }
    }

    #[test]
    fn every_truncation_is_found() {
        let bytes = archive(14);
        for length in 0..bytes.len() {
            assert!(matches!(judge(&bytes[..length], 64), Verdict::Bad(_)), "{length}");
        }
    }

    #[test]
    fn doubled_missing_and_foreign_blocks_are_found() {
        for id in [2, 9] {
            let mut bytes = archive(14);
            data(&mut bytes, id, &[b"\\.\n\n\n"]);
            assert!(matches!(judge(&bytes, 64), Verdict::Bad(_)), "{id}");
        }
        let mut bytes = archive(14);
        bytes.push(b'\n');
        assert!(matches!(judge(&bytes, 64), Verdict::Bad(_)));
    }

    #[test]
    fn an_unknown_version_is_stored_with_a_warning() {
        for minor in [11, 17, 200] {
            let mut bytes = archive(14);
            bytes[6] = minor;
            let Verdict::Good(findings) = judge(&bytes, 64) else { panic!("{minor}") };
            assert_eq!(findings.warnings[0].code, "dump.unknown_version");
            assert_eq!(findings.tables, []);
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(at in 0usize..500, byte: u8, step in 1usize..70, tail in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = archive(16);
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.extend(tail);
            let _ = judge(&bytes, step);
        }
    }
}
