//! What a custom archive of `pg_dump` says about a database, as something small that can be compared: one item for
//! each entry of its table of contents, and for each table the number of its rows and one hash over all of them.
//!
//! # The rows
//! A restored table may give its rows in another order, so the hash of a table must not depend on order, and it must
//! not be possible for a row to be lost and another doubled without a change. Every row is hashed by BLAKE3 under a key
//! that is drawn for this one comparison, and the hashes are added, as two numbers modulo 2^128 each by itself. Two
//! tables that differ as multisets have the same sums with a chance of at most 2^-128: their difference is a sum of
//! hashes with factors that are not all zero, none of them a multiple of 2^64 (tables have fewer rows than that), and
//! nobody who wrote the rows knew the key. The exact number of rows is compared beside it. Memory: 40 bytes for each
//! table, whatever its size; a row of any length passes in pieces.
//!
//! # The order of columns
//! A table that inherits may come back with its columns in another order: `pg_dump` writes what the parent brings
//! first. For those tables alone a row is the sum of its fields, each hashed with its column's name, and the definition
//! is the sum of its lines.
//!
//! # What is set aside
//! The dump's time and the database's name in the header, numbers of entries, OIDs, dependencies (numbers of entries),
//! the order of entries, the statements that drop, who owns the server's own catalog, and what belongs to the database
//! as a whole ([`Aside`]).

use super::rows::{RowHasher, Sum};
use super::statements::{grantee, statements};
use crate::source::postgres::dump_watch::{EntryField, HeaderText, Watch};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Bytes of a name that are kept for messages and for matching.
const NAME_KEPT_MAX: usize = 1024;
/// Bytes of a definition that is kept as text.
const DATABASE_DEFINITION_MAX: usize = 4096;
/// Bytes of the statements of one entry that are looked at.
const STATEMENTS_MAX: usize = 256 << 10;
/// Bytes of a line of a definition that are looked at together.
const LINE_MAX: usize = 1 << 20;
/// Bytes of COPY statements that are looked at; 1,600 columns of 63 bytes fit.
const COPY_KEPT_MAX: usize = 256 << 10;
/// Entries that are compared; a database with more gets no proof.
const ENTRIES_MAX: usize = 3_000_000;
/// Bytes of all names.
const NAMES_MAX: usize = 256 << 20;

/// What an entry is matched by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryKey {
    /// `TABLE`, `TABLE DATA`, `INDEX` and so on.
    pub kind: String,
    /// The schema; empty for what has none.
    pub schema: String,
    /// The name, as the table of contents has it.
    pub name: String,
}

/// What an entry says, without its name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Item {
    /// Everything that makes the entry: its statement, owner, tablespace and so on.
    pub(super) definition: Sum,
    /// Rows of a table.
    pub(super) rows: Option<u64>,
    /// Contents of a table, or of large objects.
    pub(super) content: Sum,
}

/// The part of the table of contents that a restore into a new database does not restore.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Aside {
    /// The statement that makes the database, as far as it was kept.
    pub database_definition: String,
    /// Who owns the database.
    pub database_owner: String,
    /// Where the database is; empty: in the server's default tablespace.
    pub database_tablespace: String,
    /// The database has a comment, privileges, settings or labels of its own.
    pub database_properties: bool,
    /// The statements that give it these, as far as they were kept.
    pub database_statements: Vec<String>,
}

/// What is left out of a comparison.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leave {
    /// Owners, because the roles are not there.
    pub owners: bool,
    /// Privileges.
    pub privileges: bool,
}

/// One archive, summed up.
#[derive(Debug)]
pub struct Summary {
    key: [u8; 32],
    leave: Leave,
    /// Items by name. Names are not unique: operators of several types share one.
    pub(super) items: BTreeMap<EntryKey, Vec<Item>>,
    /// Large objects by number.
    pub(super) large_objects: BTreeMap<i64, Sum>,
    /// Tables whose columns may change places.
    inheriting: HashSet<(String, String)>,
    /// The version of the server that was dumped.
    pub server_version: String,
    /// The version of `pg_dump`.
    pub dump_version: String,
    /// What no restore brings back.
    pub aside: Aside,
    /// Kinds, schemas and owners of entries for whoever prepares a restore.
    pub facts: Facts,
    /// Where the data of each block goes, with the columns of tables whose columns may change places.
    blocks: HashMap<i64, Block>,
    pending: Pending,
    rows: RowHasher,
    current: Option<Block>,
    large_object: Option<(i64, Box<blake3::Hasher>)>,
    names_bytes: usize,
    entries: usize,
    overflow: bool,
}

/// What a restore must know before it begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Extensions.
    pub extensions: Vec<String>,
    /// Owners of anything.
    pub owners: BTreeSet<String>,
    /// Roles that are granted something.
    pub grantees: BTreeSet<String>,
    /// Tablespaces that are named.
    pub tablespaces: BTreeSet<String>,
    /// Kinds of entries.
    pub kinds: BTreeSet<String>,
    /// Where the table of contents ends, bytes.
    pub contents_end: Option<u64>,
}

/// Where the data of a block goes.
#[derive(Debug, Clone)]
struct Block {
    key: EntryKey,
    place: usize,
    /// Names of the columns in the order of the fields, for tables whose columns may change places.
    columns: Option<Vec<Vec<u8>>>,
}

/// The entry that is being read.
#[derive(Default)]
struct Pending {
    kind: Vec<u8>,
    name: Vec<u8>,
    schema: Vec<u8>,
    owner: Vec<u8>,
    tablespace: Vec<u8>,
    copy: Vec<u8>,
    definition: Vec<u8>,
    /// The field whose text is being hashed.
    hashing: Option<(EntryField, Box<blake3::Hasher>)>,
    /// Texts that are always compared as they are.
    texts: Sum,
    /// The exact definition and COPY statement.
    statements: Sum,
    lines: Lines,
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pending({})", String::from_utf8_lossy(&self.name))
    }
}

impl Pending {
    /// Ends the text that is being hashed.
    fn end_text(&mut self) {
        match self.hashing.take() {
            Some((EntryField::Definition | EntryField::Copy, hasher)) => self.statements.add(&hasher.finalize()),
            Some((_, hasher)) => self.texts.add(&hasher.finalize()),
            None => {}
        }
    }

    fn hash(&mut self, key: &[u8; 32], field: EntryField, piece: &[u8]) {
        if self.hashing.as_ref().is_none_or(|(current, _)| *current != field) {
            self.end_text();
            let mut hasher = Box::new(blake3::Hasher::new_keyed(key));
            // Which text it is, so that two of them cannot change places.
            hasher.update(&[field as u8]);
            self.hashing = Some((field, hasher));
        }
        if let Some((_, hasher)) = &mut self.hashing {
            hasher.update(piece);
        }
    }
}

/// Sums up the lines of a definition, without the comma that ends most of them.
#[derive(Default)]
struct Lines {
    sum: Sum,
    line: Vec<u8>,
    inherits: bool,
}

impl Lines {
    fn feed(&mut self, key: &[u8; 32], piece: &[u8]) {
        for (at, part) in piece.split(|byte| *byte == b'\n').enumerate() {
            if at > 0 {
                self.end_line(key);
            }
            self.line.extend_from_slice(part);
            // A piece of a very long line counts as a line: cut at the same places in both archives or not, which
            // can only make equal lines look different, never the other way round.
            if self.line.len() > LINE_MAX {
                self.end_line(key);
            }
        }
    }

    fn end_line(&mut self, key: &[u8; 32]) {
        self.inherits |= self.line.starts_with(b"INHERITS (");
        let line = self.line.strip_suffix(b",").unwrap_or(&self.line);
        self.sum.add(&blake3::keyed_hash(key, line));
        self.line.clear();
    }
}

impl Summary {
    /// A summary under a key. Only summaries of one key can be compared; the key must be fresh and random.
    pub fn new(key: [u8; 32], leave: Leave) -> Self {
        Self {
            key,
            leave,
            items: BTreeMap::new(),
            large_objects: BTreeMap::new(),
            inheriting: HashSet::new(),
            server_version: String::new(),
            dump_version: String::new(),
            aside: Aside::default(),
            facts: Facts::default(),
            blocks: HashMap::new(),
            pending: Pending::default(),
            rows: RowHasher::default(),
            current: None,
            large_object: None,
            names_bytes: 0,
            entries: 0,
            overflow: false,
        }
    }

    /// True when the database has more than can be compared.
    pub fn is_overflowing(&self) -> bool {
        self.overflow
    }

    /// An empty summary of the same key, for the archive that is to be compared with this one.
    #[must_use]
    pub fn twin(&self) -> Self {
        Self::new(self.key, self.leave)
    }

    /// The same, with other things left out of the comparison.
    #[must_use]
    pub fn leaving(mut self, leave: Leave) -> Self {
        self.leave = leave;
        self
    }

    /// Forgets all entries but these, large objects, and what belongs to the database as a whole.
    pub(super) fn keep_only(&mut self, keys: &BTreeSet<EntryKey>) {
        self.items.retain(|key, _| keys.contains(key));
        self.large_objects.clear();
        self.aside = Aside::default();
    }

    /// A hasher for the rows of a table.
    pub(super) fn hasher_of(&self, key: &EntryKey, copy: &[u8]) -> RowHasher {
        let free = self.inheriting.contains(&(key.schema.clone(), key.name.clone())) && copy.len() < COPY_KEPT_MAX;
        RowHasher::new(&self.key, free.then(|| copy_columns(copy)).as_deref())
    }

    /// True for what no restore into a new database brings back, and for what is left out.
    fn is_aside(&mut self, kind: &str, name: &str) -> bool {
        match kind {
            "DATABASE" => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                self.aside.database_definition = text(&self.pending.definition);
                self.aside.database_owner = text(&self.pending.owner);
                self.aside.database_tablespace = text(&self.pending.tablespace);
                true
            }
            "DATABASE PROPERTIES" => {
                self.keep_statements();
                true
            }
            "COMMENT" | "ACL" | "SECURITY LABEL" if name.starts_with("DATABASE ") => {
                self.keep_statements();
                true
            }
            // Guesses of the planner, which every server makes anew.
            "STATISTICS DATA" => true,
            "ACL" | "DEFAULT ACL" => self.leave.privileges,
            _ => false,
        }
    }

    fn keep_statements(&mut self) {
        self.aside.database_properties = true;
        let text = String::from_utf8_lossy(&self.pending.definition);
        self.aside.database_statements.extend(statements(&text).map(str::to_owned));
    }

    fn note_facts(&mut self, kind: &str, name: &str) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        // A database that exists keeps its own privileges.
        if matches!(kind, "ACL" | "DEFAULT ACL") && !name.starts_with("DATABASE ") {
            self.facts.grantees.extend(statements(&text(&self.pending.definition)).filter_map(grantee));
        }
        let facts = &mut self.facts;
        for (value, set) in
            [(&self.pending.owner, &mut facts.owners), (&self.pending.tablespace, &mut facts.tablespaces)]
        {
            if !value.is_empty() {
                set.insert(text(value));
            }
        }
        facts.kinds.insert(kind.to_owned());
        if kind == "EXTENSION" {
            facts.extensions.push(name.to_owned());
        }
    }

    /// The columns of a table that inherits; they may change places, so they count in any order.
    fn free_columns(&self, pending: &Pending, schema: &str, name: &str) -> Option<Vec<Vec<u8>>> {
        let inherits = self.inheriting.contains(&(schema.to_owned(), name.to_owned()));
        (inherits && pending.copy.len() < COPY_KEPT_MAX).then(|| copy_columns(&pending.copy))
    }

    fn take_entry(&mut self, dump_id: i64, with_data: bool) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        self.pending.end_text();
        let (kind, name) = (text(&self.pending.kind), text(&self.pending.name));
        let schema = text(&self.pending.schema);
        self.note_facts(&kind, &name);
        let aside = self.is_aside(&kind, &name);
        let mut pending = std::mem::take(&mut self.pending);
        if aside {
            return;
        }
        self.entries += 1;
        self.names_bytes += kind.len() + schema.len() + name.len();
        if self.entries > ENTRIES_MAX || self.names_bytes > NAMES_MAX {
            self.overflow = true;
            return;
        }
        pending.lines.end_line(&self.key);
        // Whom a table belongs to is said where it is defined.
        let (mut definition, mut columns) = (if kind == "TABLE DATA" { Sum::default() } else { pending.texts }, None);
        if kind == "TABLE" && pending.lines.inherits {
            definition.join(pending.lines.sum);
            self.inheriting.insert((schema.clone(), name.clone()));
        } else {
            columns = if kind == "TABLE DATA" { self.free_columns(&pending, &schema, &name) } else { None };
            match &columns {
                None => definition.join(pending.statements),
                Some(columns) => columns.iter().for_each(|name| definition.add(&blake3::keyed_hash(&self.key, name))),
            }
        }
        let rows = (kind == "TABLE DATA" && with_data).then_some(0);
        let key = EntryKey { kind, schema, name };
        let items = self.items.entry(key.clone()).or_default();
        items.push(Item { definition, rows, content: Sum::default() });
        if with_data {
            self.blocks.insert(dump_id, Block { key, place: items.len() - 1, columns });
        }
    }
}

impl Watch for Summary {
    fn header(&mut self, text: HeaderText, piece: &[u8]) {
        let target = match text {
            HeaderText::Database => return,
            HeaderText::ServerVersion => &mut self.server_version,
            HeaderText::DumpVersion => &mut self.dump_version,
        };
        if target.len() < NAME_KEPT_MAX {
            target.push_str(&String::from_utf8_lossy(piece));
        }
    }

    fn text(&mut self, field: EntryField, piece: &[u8]) {
        let keep = |to: &mut Vec<u8>, max: usize| {
            let room = max.saturating_sub(to.len());
            to.extend_from_slice(piece.get(..piece.len().min(room)).unwrap_or_default());
        };
        let pending = &mut self.pending;
        match field {
            EntryField::Kind => keep(&mut pending.kind, NAME_KEPT_MAX),
            EntryField::Tag => keep(&mut pending.name, NAME_KEPT_MAX),
            EntryField::Namespace => keep(&mut pending.schema, NAME_KEPT_MAX),
            EntryField::Owner => {
                keep(&mut pending.owner, NAME_KEPT_MAX);
                // The catalog belongs to whoever made the server, under whatever name.
                if !self.leave.owners && pending.schema != b"pg_catalog" {
                    pending.hash(&self.key, field, piece);
                }
            }
            EntryField::Tablespace | EntryField::AccessMethod => {
                if field == EntryField::Tablespace {
                    keep(&mut pending.tablespace, NAME_KEPT_MAX);
                }
                pending.hash(&self.key, field, piece);
            }
            EntryField::Copy => {
                keep(&mut pending.copy, COPY_KEPT_MAX);
                pending.hash(&self.key, field, piece);
            }
            EntryField::Definition => {
                match pending.kind.as_slice() {
                    b"TABLE" => pending.lines.feed(&self.key, piece),
                    b"DATABASE" => keep(&mut pending.definition, DATABASE_DEFINITION_MAX),
                    b"DATABASE PROPERTIES" | b"ACL" | b"DEFAULT ACL" | b"COMMENT" | b"SECURITY LABEL" => {
                        keep(&mut pending.definition, STATEMENTS_MAX);
                    }
                    _ => {}
                }
                pending.hash(&self.key, field, piece);
            }
            // Names that follow from others, and numbers that follow from nothing.
            _ => {}
        }
    }

    fn entry(&mut self, dump_id: i64, with_data: bool) {
        self.take_entry(dump_id, with_data);
    }

    fn contents_end(&mut self, position: u64) {
        self.facts.contents_end = Some(position);
    }

    fn block(&mut self, dump_id: i64) {
        self.current = self.blocks.remove(&dump_id);
        let columns = self.current.as_ref().and_then(|block| block.columns.as_deref());
        self.rows = RowHasher::new(&self.key, columns);
    }

    fn large_object(&mut self, oid: i64) {
        self.large_object = Some((oid, Box::new(blake3::Hasher::new_keyed(&self.key))));
    }

    fn data(&mut self, piece: &[u8]) {
        match &mut self.large_object {
            Some((_, hasher)) => drop(hasher.update(piece)),
            None => self.rows.feed(piece),
        }
    }

    fn large_object_end(&mut self) {
        let Some((oid, hasher)) = self.large_object.take() else { return };
        if self.large_objects.len() >= ENTRIES_MAX {
            self.overflow = true;
            return;
        }
        self.large_objects.entry(oid).or_default().add(&hasher.finalize());
    }

    fn block_end(&mut self) {
        let Some(block) = self.current.take() else { return };
        let item = self.items.get_mut(&block.key).and_then(|items| items.get_mut(block.place));
        if let Some(item) = item.filter(|item| item.rows.is_some()) {
            let (rows, content) = std::mem::take(&mut self.rows).finish();
            (item.rows, item.content) = (Some(rows), content);
        }
    }
}

/// The column names of `COPY t (a, "B c") FROM stdin;`, as they are written.
fn copy_columns(statement: &[u8]) -> Vec<Vec<u8>> {
    let (mut columns, mut name) = (Vec::new(), Vec::new());
    let (mut quoted, mut inside) = (false, false);
    for &byte in statement {
        quoted ^= byte == b'"';
        match byte {
            b'(' if !quoted && !inside => inside = true,
            b')' if !quoted && inside => break,
            b',' if !quoted && inside => columns.push(std::mem::take(&mut name)),
            b' ' if !quoted => {}
            _ if inside => name.push(byte),
            _ => {}
        }
    }
    if !name.is_empty() {
        columns.push(name);
    }
    columns
}
