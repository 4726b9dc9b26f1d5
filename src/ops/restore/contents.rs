//! The table of contents of a stored dump, kept for a restore of single tables: who is what, and who needs whom.

use crate::source::postgres::dump_watch::{EntryField, Watch};

/// Bytes of all texts that are kept.
const TEXTS_MAX: usize = 256 << 20;
/// Bytes of one text that is kept; longer ones are cut.
const TEXT_MAX: usize = 256 << 10;

/// One entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::ops) struct Entry {
    /// Its number in this archive.
    pub(in crate::ops) number: i64,
    /// `TABLE`, `INDEX` and so on.
    pub(in crate::ops) kind: String,
    /// The schema; empty for what has none.
    pub(in crate::ops) schema: String,
    /// The name; with that of its table in front for what belongs to a table.
    pub(in crate::ops) name: String,
    /// The owning role.
    pub(in crate::ops) owner: String,
    /// The COPY statement of rows.
    pub(in crate::ops) copy: String,
    /// The statement; of privileges, of what ties a sequence to its column, and of the encoding alone.
    pub(in crate::ops) statement: String,
    /// Numbers of entries that it needs.
    pub(in crate::ops) needs: Vec<i64>,
    /// A block of data follows for it.
    pub(in crate::ops) with_data: bool,
}

/// All entries, in their order.
#[derive(Debug, Default)]
pub(in crate::ops) struct Contents {
    /// The entries.
    pub(in crate::ops) entries: Vec<Entry>,
    /// The table of contents was read to its end.
    pub(in crate::ops) complete: bool,
    /// There is more than is kept.
    pub(in crate::ops) overflow: bool,
    pending: Pending,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Pending {
    kind: Vec<u8>,
    schema: Vec<u8>,
    name: Vec<u8>,
    owner: Vec<u8>,
    copy: Vec<u8>,
    statement: Vec<u8>,
    need: Vec<u8>,
    needs: Vec<i64>,
}

impl Watch for Contents {
    fn text(&mut self, field: EntryField, piece: &[u8]) {
        let pending = &mut self.pending;
        let text = match field {
            EntryField::Kind => &mut pending.kind,
            EntryField::Namespace => &mut pending.schema,
            EntryField::Tag => &mut pending.name,
            EntryField::Owner => &mut pending.owner,
            EntryField::Copy => &mut pending.copy,
            EntryField::Definition
                if matches!(pending.kind.as_slice(), b"ACL" | b"SEQUENCE OWNED BY" | b"ENCODING") =>
            {
                &mut pending.statement
            }
            EntryField::Dependency => &mut pending.need,
            _ => return,
        };
        let room = TEXT_MAX.saturating_sub(text.len());
        text.extend_from_slice(piece.get(..piece.len().min(room)).unwrap_or_default());
    }

    fn text_end(&mut self, field: EntryField) {
        if field == EntryField::Dependency {
            let digits = std::mem::take(&mut self.pending.need);
            self.pending.needs.extend(std::str::from_utf8(&digits).ok().and_then(|text| text.parse::<i64>().ok()));
        }
    }

    fn entry(&mut self, number: i64, with_data: bool) {
        let pending = std::mem::take(&mut self.pending);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let entry = Entry {
            number,
            kind: text(&pending.kind),
            schema: text(&pending.schema),
            name: text(&pending.name),
            owner: text(&pending.owner),
            copy: text(&pending.copy),
            statement: text(&pending.statement),
            needs: pending.needs,
            with_data,
        };
        self.bytes += entry.name.len() + entry.copy.len() + entry.statement.len() + 8 * entry.needs.len() + 128;
        if self.bytes > TEXTS_MAX {
            self.overflow = true;
        } else {
            self.entries.push(entry);
        }
    }

    fn contents_end(&mut self, _position: u64) {
        self.complete = true;
    }
}
