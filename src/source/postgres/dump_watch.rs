//! What a reader of a custom archive tells whoever watches it; the reader is [`super::dump_format`].

/// The fields of one entry of the table of contents, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryField {
    /// Number of the entry in this archive.
    DumpId,
    /// 1 when the entry has data.
    HadDumper,
    /// A number of the server's catalog; volatile.
    TableOid,
    /// A number of the server's catalog; volatile.
    Oid,
    /// The name, with the arguments of a function and the like.
    Tag,
    /// `TABLE`, `TABLE DATA`, `INDEX` and so on.
    Kind,
    /// Before, with or after the data.
    Section,
    /// The statement that makes it.
    Definition,
    /// The statement that drops it.
    Drop,
    /// The COPY statement.
    Copy,
    /// The schema.
    Namespace,
    /// The tablespace.
    Tablespace,
    /// The table's access method.
    AccessMethod,
    /// The kind of relation, as the server's catalog has it.
    RelationKind,
    /// The owning role.
    Owner,
    /// Of old servers.
    WithOids,
    /// The number of another entry, as text.
    Dependency,
    /// Where the data is in the file.
    Offset,
}

/// The three texts of the header, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderText {
    /// The database's name.
    Database,
    /// The server's version.
    ServerVersion,
    /// The version of `pg_dump`.
    DumpVersion,
}

/// Hears what an archive holds, in the order of its bytes. Texts and data come in pieces of any length.
pub trait Watch {
    /// A piece of a text of the header.
    fn header(&mut self, _text: HeaderText, _piece: &[u8]) {}
    /// A piece of a text of the entry that is being read. A text that is absent, or empty, has no piece.
    fn text(&mut self, _field: EntryField, _piece: &[u8]) {}
    /// The text of this field of the entry that is being read has ended; said of texts that are there alone.
    fn text_end(&mut self, _field: EntryField) {}
    /// The texts of the entry with this number are complete; `with_data` when a block follows for it.
    fn entry(&mut self, _dump_id: i64, _with_data: bool) {}
    /// The table of contents ends after this many bytes.
    fn contents_end(&mut self, _position: u64) {}
    /// The block of an entry begins.
    fn block(&mut self, _dump_id: i64) {}
    /// A large object begins in the block.
    fn large_object(&mut self, _oid: i64) {}
    /// A piece of the block's, or of the large object's, data.
    fn data(&mut self, _piece: &[u8]) {}
    /// The large object ends.
    fn large_object_end(&mut self) {}
    /// The block ends.
    fn block_end(&mut self) {}
}

/// Nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Watch for Unwatched {}
