//! The tree stream: every entry of a files source, as bytes. No I/O, no hashing, no compression.
//!
//! Invariant: the bytes of an entry follow from that entry alone. No offset, counter, table or difference to a
//! neighbour is stored, so an unchanged entry gives the same bytes wherever it stands, and an entry that is added or
//! removed adds or removes one run of bytes. The stream is itself stored as edits against the tree of the parent.
//!
//! Every value has exactly one encoding, and a decoder refuses all others.
//!
//! # The bytes
//! ```text
//! tree    = version(1 byte, 0x01) node* end
//! node    = length(varint, 1..=16 MiB) body(`length` bytes) [node* end]     the bracket only for a directory
//! end     = 0x00                              leaves the directory; at the top it ends the tree, nothing follows
//! body    = kind(1 byte) name(bytes) mode(u16) uid(varint) gid(varint) user(text) group(text) xattrs
//!           seconds(zigzag) nanoseconds(varint, below 10^9) rest            the two of the modification time
//! xattrs  = count(varint) { name(bytes) value(bytes) }*count                 names ascending, each once
//! rest    = kind 1, file:             flags(1 byte) size(varint) hash(32 bytes) [extents]
//!           kind 2, directory:        nothing
//!           kind 3, symbolic link:    target(bytes)
//!           kind 4, hard link:        path(bytes)    of the first name, absolute, as `/srv/app/x`
//!           kind 5, FIFO:             nothing
//!           kind 6, socket:           nothing
//!           kind 7, character device: major(varint) minor(varint)
//!           kind 8, block device:     major(varint) minor(varint)
//! flags   = bit 0: sparse, extents follow; bit 1: torn (changed while it was read); other bits zero
//! extents = count(varint) { gap(varint) length(varint) }*count               gap: from the end of the extent before
//!
//! varint  = unsigned LEB128: 7 bits a byte, least significant first, top bit set on all bytes but the last; at most
//!           64 bits of value, and no more bytes than the value needs
//! bytes   = length(varint) and that many bytes
//! text    = 0x00 for none; otherwise (length + 1)(varint) and `length` bytes of UTF-8
//! zigzag  = varint of 2n for n >= 0, of -2n - 1 for n < 0
//! u16     = little-endian, fixed width
//! ```
//! - A directory's node is followed by the nodes of what it holds, then `end`. The top of the stream stands for `/`;
//!   its own metadata may come first of all, as a directory (kind 2) with an empty name, which takes no `end`.
//! - Names are raw bytes of one path component: not empty, not `.` or `..`, no `/`, no NUL. In one directory they
//!   ascend strictly in byte order. A whole path has at most 4,096 bytes.
//! - `mode` holds the permission bits (0o7777). The modification time is `seconds` (since 1970 UTC, rounded down) and
//!   `nanoseconds`; in nanoseconds it fits 64 bits with a sign.
//! - `hash` is BLAKE3 of the stored bytes: the whole file, or its extents one after the other. An extent is not empty,
//!   all but the first have a gap of at least 1, and the last ends within `size`.
//! - What changes for every file when a tree is copied afresh (change time, device, inode) is not here: see
//!   [`super::identities`].
//! - Limits: user, group 1,024 bytes; target 4,096; an xattr name 1,024 and value 16 MiB; 65,536 xattrs and extents.

use crate::domain::entry::{Entry, EntryKind, FileContent};
use crate::domain::id::Digest;
use std::cmp::Ordering;

/// The version that this module writes, and the only one it reads.
pub const TREE_VERSION: u8 = 1;
/// Longest path, bytes.
pub const PATH_BYTES_MAX: usize = 4096;
/// Most extents that one sparse file may have.
pub const EXTENTS_MAX: usize = 65_536;
/// Largest node, bytes.
pub const NODE_BYTES_MAX: usize = 16 << 20;
/// Longest user or group name, bytes.
pub const OWNER_BYTES_MAX: usize = 1024;
/// Longest target of a symbolic link, bytes.
pub const LINK_BYTES_MAX: usize = 4096;
/// Nanoseconds in a second.
const SECOND_NS: i64 = 1_000_000_000;
/// Most extended attributes of one entry.
pub const XATTRS_MAX: usize = 65_536;
/// Longest name of an extended attribute, bytes.
pub const XATTR_NAME_BYTES_MAX: usize = 1024;

/// Why a tree cannot be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// An entry to write does not fit the format.
    #[error("Entry {} cannot be stored: {reason}", path.escape_ascii())]
    Entry {
        /// Its path.
        path: Vec<u8>,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The stream was written by another version of the format.
    #[error("The tree has format version {found}, this program reads version {TREE_VERSION}")]
    Version {
        /// The version byte of the stream.
        found: u8,
    },
    /// The bytes are not a tree.
    #[error("The tree is damaged at byte {offset}: {reason}")]
    Damaged {
        /// Where the node begins that cannot be read.
        offset: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Compares two paths in the order of a tree: depth first, a directory before its contents, names in byte order.
pub fn path_order(a: &[u8], b: &[u8]) -> Ordering {
    // A slash sorts below every byte that a name can hold; apart from that the order is the order of the bytes.
    let rank = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    let top = |path: &[u8]| path == b"/";
    match (top(a), top(b)) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => a.iter().map(rank).cmp(b.iter().map(rank)),
    }
}

/// Says what is wrong with a name as one component of a path, if anything is.
pub fn name_fault(name: &[u8]) -> Option<&'static str> {
    match name {
        b"" => Some("an empty name"),
        b"." | b".." => Some("a name that is '.' or '..'"),
        _ if name.contains(&b'/') => Some("a name with a slash"),
        _ if name.contains(&0) => Some("a name with a NUL byte"),
        _ => None,
    }
}

/// Says what is wrong with an absolute path, if anything is. `/` itself is in order.
pub fn path_fault(path: &[u8]) -> Option<&'static str> {
    if path.len() > PATH_BYTES_MAX {
        return Some("a path of more than 4,096 bytes");
    }
    match path.split_first() {
        Some((b'/', [])) => None,
        Some((b'/', rest)) => rest.split(|b| *b == b'/').find_map(name_fault),
        _ => Some("a path that is not absolute"),
    }
}

/// Writes entries in tree order. The bytes gather inside until the caller takes them.
#[derive(Debug)]
pub struct TreeWriter {
    out: Vec<u8>,
    body: Vec<u8>,
    /// Path of the directory that is open, without a trailing slash: empty at the top.
    directory: Vec<u8>,
    /// The name written last in each open directory, outermost first.
    last_names: Vec<Vec<u8>>,
    started: bool,
}

impl Default for TreeWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl TreeWriter {
    /// A writer that has not seen an entry.
    pub fn new() -> Self {
        let last_names = vec![Vec::new()];
        Self { out: vec![TREE_VERSION], body: Vec::new(), directory: Vec::new(), last_names, started: false }
    }

    /// Adds the next entry. Its directory must have been pushed before, except `/`.
    ///
    /// # Errors
    /// [`TreeError::Entry`] when it is out of order or cannot be stored; the writer is as before then.
    pub fn push(&mut self, entry: &Entry) -> Result<(), TreeError> {
        let wrong = |reason| TreeError::Entry { path: entry.path.clone(), reason };
        if let Some(reason) = path_fault(&entry.path).or_else(|| entry_fault(entry)) {
            return Err(wrong(reason));
        }
        if entry.path == b"/" {
            if self.started || entry.kind != EntryKind::Directory {
                return Err(wrong("the root is not the first entry or is not a directory"));
            }
            self.encode(entry, b"").map_err(wrong)?;
            self.started = true;
            return Ok(());
        }
        let (parent, name) = split_path(&entry.path);
        let up = self.levels_up_to(parent).ok_or_else(|| wrong("its directory is not the one that is open"))?;
        let level = self.last_names.len() - up;
        if self.last_names.get(level.wrapping_sub(1)).is_none_or(|last| last.as_slice() >= name) {
            return Err(wrong("it is not in byte order after the entry before it"));
        }
        let mark = self.out.len();
        self.out.resize(mark + up, 0);
        if let Err(reason) = self.encode(entry, name) {
            self.out.truncate(mark);
            return Err(wrong(reason));
        }
        self.last_names.truncate(level);
        if let Some(last) = self.last_names.last_mut() {
            last.clear();
            last.extend_from_slice(name);
        }
        self.directory.truncate(parent.len());
        if entry.kind == EntryKind::Directory {
            self.directory.clear();
            self.directory.extend_from_slice(&entry.path);
            self.last_names.push(Vec::new());
        }
        self.started = true;
        Ok(())
    }

    /// Moves the bytes written so far to the end of `to`.
    pub fn drain_into(&mut self, to: &mut Vec<u8>) {
        to.append(&mut self.out);
    }

    /// Bytes that wait to be drained.
    pub fn pending_bytes(&self) -> usize {
        self.out.len()
    }

    /// Ends the tree and returns the bytes not drained yet.
    pub fn finish(mut self) -> Vec<u8> {
        self.out.resize(self.out.len() + self.last_names.len(), 0);
        self.out
    }

    /// How many directories must be left so that `parent` is open; none if it is not among the open ones.
    fn levels_up_to(&self, parent: &[u8]) -> Option<usize> {
        let below = self.directory.strip_prefix(parent)?;
        match below.first() {
            None => Some(0),
            Some(b'/') => Some(below.iter().filter(|b| **b == b'/').count()),
            Some(_) => None,
        }
    }

    fn encode(&mut self, entry: &Entry, name: &[u8]) -> Result<(), &'static str> {
        self.body.clear();
        encode_body(&mut self.body, entry, name);
        if self.body.len() > NODE_BYTES_MAX {
            return Err("its metadata take more than 16 MiB");
        }
        put_varint(&mut self.out, self.body.len() as u64);
        self.out.extend_from_slice(&self.body);
        Ok(())
    }
}

/// Splits an absolute path other than `/` into its directory (empty for the top) and its name.
fn split_path(path: &[u8]) -> (&[u8], &[u8]) {
    let slash = path.iter().rposition(|b| *b == b'/').unwrap_or(0);
    (path.get(..slash).unwrap_or_default(), path.get(slash + 1..).unwrap_or_default())
}

/// What keeps an entry out of a tree apart from its place. Writer and reader ask the same question.
fn entry_fault(entry: &Entry) -> Option<&'static str> {
    if entry.mode > 0o7777 {
        return Some("mode bits beyond 0o7777");
    }
    if [&entry.user, &entry.group].iter().any(|n| n.as_ref().is_some_and(|n| n.len() > OWNER_BYTES_MAX)) {
        return Some("an owner's name of more than 1,024 bytes");
    }
    if entry.xattrs.len() > XATTRS_MAX {
        return Some("too many extended attributes");
    }
    if entry.xattrs.iter().any(|(n, _)| n.is_empty() || n.len() > XATTR_NAME_BYTES_MAX || n.contains(&0)) {
        return Some("an extended attribute whose name is empty, too long or holds a NUL byte");
    }
    if !entry.xattrs.windows(2).all(|w| matches!(w, [(a, _), (b, _)] if a < b)) {
        return Some("extended attributes out of order");
    }
    match &entry.kind {
        EntryKind::File(content) => content_fault(content),
        EntryKind::Symlink(t) if t.is_empty() || t.len() > LINK_BYTES_MAX || t.contains(&0) => {
            Some("a link whose target is empty, too long or holds a NUL byte")
        }
        EntryKind::HardLink(path) => path_fault(path),
        _ => None,
    }
}

fn content_fault(content: &FileContent) -> Option<&'static str> {
    if !content.sparse {
        return (!content.extents.is_empty()).then_some("extents of a file that is not sparse");
    }
    if content.extents.len() > EXTENTS_MAX {
        return Some("more than 65,536 extents");
    }
    let mut end = None;
    for &(offset, length) in &content.extents {
        let next = offset.checked_add(length);
        if length == 0 || end.is_some_and(|end| offset <= end) || next.is_none_or(|next| next > content.size) {
            return Some("extents that are empty, out of order or beyond the end");
        }
        end = next;
    }
    None
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Seconds and nanoseconds apart: most programs that set times set whole seconds, and times near each other share bytes.
fn put_time(out: &mut Vec<u8>, time_ns: i64) {
    let seconds = time_ns.div_euclid(SECOND_NS);
    put_varint(out, ((seconds << 1) ^ (seconds >> 63)).cast_unsigned());
    put_varint(out, time_ns.rem_euclid(SECOND_NS).cast_unsigned());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_text(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        None => out.push(0),
        Some(text) => {
            put_varint(out, text.len() as u64 + 1);
            out.extend_from_slice(text.as_bytes());
        }
    }
}

fn encode_body(out: &mut Vec<u8>, entry: &Entry, name: &[u8]) {
    out.push(match entry.kind {
        EntryKind::File(_) => 1,
        EntryKind::Directory => 2,
        EntryKind::Symlink(_) => 3,
        EntryKind::HardLink(_) => 4,
        EntryKind::Fifo => 5,
        EntryKind::Socket => 6,
        EntryKind::CharDevice { .. } => 7,
        EntryKind::BlockDevice { .. } => 8,
    });
    put_bytes(out, name);
    // entry_fault has refused a mode of more than twelve bits.
    out.extend_from_slice(&(entry.mode as u16).to_le_bytes());
    put_varint(out, entry.uid.into());
    put_varint(out, entry.gid.into());
    put_text(out, entry.user.as_deref());
    put_text(out, entry.group.as_deref());
    put_varint(out, entry.xattrs.len() as u64);
    for (name, value) in &entry.xattrs {
        put_bytes(out, name);
        put_bytes(out, value);
    }
    put_time(out, entry.mtime_ns);
    match &entry.kind {
        EntryKind::File(content) => encode_content(out, content),
        EntryKind::Symlink(bytes) | EntryKind::HardLink(bytes) => put_bytes(out, bytes),
        EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } => {
            put_varint(out, (*major).into());
            put_varint(out, (*minor).into());
        }
        EntryKind::Directory | EntryKind::Fifo | EntryKind::Socket => {}
    }
}

fn encode_content(out: &mut Vec<u8>, content: &FileContent) {
    out.push(u8::from(content.sparse) | u8::from(content.torn) << 1);
    put_varint(out, content.size);
    out.extend_from_slice(&content.hash.0);
    if content.sparse {
        put_varint(out, content.extents.len() as u64);
        let mut end = 0;
        for &(offset, length) in &content.extents {
            put_varint(out, offset - end);
            put_varint(out, length);
            end = offset + length;
        }
    }
}

/// Reads a tree from pieces of any size. Memory: the longest node and what was fed since the last entry was taken.
#[derive(Debug, Default)]
pub struct TreeReader {
    buffer: Vec<u8>,
    /// First byte of `buffer` that has not been decoded.
    start: usize,
    /// Bytes decoded before `buffer`, for messages.
    before: u64,
    directory: Vec<u8>,
    last_names: Vec<Vec<u8>>,
    started: bool,
    ended: bool,
    entries: u64,
}

impl TreeReader {
    /// A reader at the first byte of a tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Hands over the next bytes of the stream. Take all entries before feeding more: that bounds the memory.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.before += self.start as u64;
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next entry; none when more bytes are needed or the tree has ended.
    ///
    /// # Errors
    /// [`TreeError::Version`] and [`TreeError::Damaged`]; the reader gives nothing sensible afterwards.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TreeError> {
        if self.last_names.is_empty() {
            match self.buffer.get(self.start) {
                None => return Ok(None),
                Some(&TREE_VERSION) => self.start += 1,
                Some(&found) => return Err(TreeError::Version { found }),
            }
            self.last_names.push(Vec::new());
        }
        loop {
            let offset = self.before + self.start as u64;
            let damaged = |reason| TreeError::Damaged { offset, reason };
            if self.ended {
                return if self.start == self.buffer.len() { Ok(None) } else { Err(damaged("bytes after the end")) };
            }
            let mut cursor = Cursor { rest: self.buffer.get(self.start..).unwrap_or_default() };
            let available = cursor.rest.len();
            let length = match cursor.varint() {
                Ok(length) => length,
                // A varint has at most ten bytes: with fewer at hand, more may come.
                Err(_) if available < 10 && cursor.only_continuations() => return Ok(None),
                Err(reason) => return Err(damaged(reason)),
            };
            if length == 0 {
                self.start += 1;
                self.leave();
                continue;
            }
            let length = usize::try_from(length).ok().filter(|l| *l <= NODE_BYTES_MAX);
            let length = length.ok_or_else(|| damaged("a node of more than 16 MiB"))?;
            let Some(body) = cursor.rest.get(..length) else { return Ok(None) };
            let entry = decode_body(body, &self.directory).map_err(damaged)?;
            self.start += available - cursor.rest.len() + length;
            self.place(&entry).map_err(damaged)?;
            self.entries += 1;
            return Ok(Some(entry));
        }
    }

    /// Ends the reading and returns the number of entries.
    ///
    /// # Errors
    /// [`TreeError::Damaged`] when the tree had not ended, or bytes are left over.
    pub fn finish(self) -> Result<u64, TreeError> {
        let offset = self.before + self.start as u64;
        if !self.ended {
            return Err(TreeError::Damaged { offset, reason: "it ends too early" });
        }
        if self.start != self.buffer.len() {
            return Err(TreeError::Damaged { offset, reason: "bytes after the end" });
        }
        Ok(self.entries)
    }

    fn leave(&mut self) {
        self.started = true;
        self.last_names.pop();
        self.ended = self.last_names.is_empty();
        let (parent, _) = split_path(&self.directory);
        let parent_len = parent.len();
        self.directory.truncate(parent_len);
    }

    /// Checks that the entry may stand here, and enters it if it is a directory.
    fn place(&mut self, entry: &Entry) -> Result<(), &'static str> {
        let first = !std::mem::replace(&mut self.started, true);
        if entry.path == b"/" {
            return if first { Ok(()) } else { Err("the root is not the first entry") };
        }
        let (_, name) = split_path(&entry.path);
        let last = self.last_names.last_mut().ok_or("an entry after the end")?;
        if last.as_slice() >= name {
            return Err("names out of order");
        }
        last.clear();
        last.extend_from_slice(name);
        if entry.kind == EntryKind::Directory {
            self.directory.clear();
            self.directory.extend_from_slice(&entry.path);
            self.last_names.push(Vec::new());
        }
        Ok(())
    }
}

const CUT: &str = "a value runs over the end of its node";

struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: u64) -> Result<&'a [u8], &'static str> {
        let count = usize::try_from(count).map_err(|_| CUT)?;
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(CUT)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(CUT)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn varint(&mut self) -> Result<u64, &'static str> {
        let mut value = 0u64;
        for (index, &byte) in self.rest.iter().enumerate().take(10) {
            let bits = u64::from(byte & 0x7f);
            if index == 9 && byte > 1 {
                return Err("a number of more than 64 bits");
            }
            value |= bits << (7 * index);
            if byte & 0x80 == 0 {
                if byte == 0 && index > 0 {
                    return Err("a number that is longer than it needs to be");
                }
                self.rest = self.rest.get(index + 1..).unwrap_or_default();
                return Ok(value);
            }
        }
        Err(CUT)
    }

    fn only_continuations(&self) -> bool {
        self.rest.iter().all(|b| b & 0x80 != 0)
    }

    fn number32(&mut self) -> Result<u32, &'static str> {
        u32::try_from(self.varint()?).map_err(|_| "a number of more than 32 bits")
    }

    fn time(&mut self) -> Result<i64, &'static str> {
        let coded = self.varint()?;
        let seconds = (coded >> 1).cast_signed() ^ -(coded & 1).cast_signed();
        let below = self.varint()?;
        if below >= SECOND_NS.cast_unsigned() {
            return Err("a time with a second or more of nanoseconds");
        }
        let time = i128::from(seconds) * i128::from(SECOND_NS) + i128::from(below);
        i64::try_from(time).map_err(|_| "a time that does not fit 64 bits")
    }

    fn bytes(&mut self) -> Result<&'a [u8], &'static str> {
        let length = self.varint()?;
        self.take(length)
    }

    fn text(&mut self) -> Result<Option<String>, &'static str> {
        let Some(length) = self.varint()?.checked_sub(1) else { return Ok(None) };
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| "a name that is not UTF-8")?;
        Ok(Some(text.to_owned()))
    }

    /// A count of things that take at least two bytes each, so that no more is set aside than the input can fill.
    fn count(&mut self) -> Result<usize, &'static str> {
        let count = usize::try_from(self.varint()?).map_err(|_| CUT)?;
        if count > self.rest.len() / 2 { Err(CUT) } else { Ok(count) }
    }
}

fn decode_body(body: &[u8], directory: &[u8]) -> Result<Entry, &'static str> {
    let mut cursor = Cursor { rest: body };
    let [tag] = cursor.array()?;
    let name = cursor.bytes()?;
    let path = if name.is_empty() && tag == 2 {
        b"/".to_vec()
    } else {
        if let Some(reason) = name_fault(name) {
            return Err(reason);
        }
        if directory.len() + 1 + name.len() > PATH_BYTES_MAX {
            return Err("a path of more than 4,096 bytes");
        }
        [directory, b"/", name].concat()
    };
    let mut entry = Entry {
        path,
        kind: EntryKind::Directory,
        mode: u16::from_le_bytes(cursor.array()?).into(),
        uid: cursor.number32()?,
        gid: cursor.number32()?,
        user: cursor.text()?,
        group: cursor.text()?,
        mtime_ns: 0,
        xattrs: Vec::new(),
    };
    let count = cursor.count()?;
    entry.xattrs.reserve_exact(count.min(XATTRS_MAX));
    for _ in 0..count {
        entry.xattrs.push((cursor.bytes()?.to_vec(), cursor.bytes()?.to_vec()));
    }
    entry.mtime_ns = cursor.time()?;
    entry.kind = match tag {
        1 => EntryKind::File(decode_content(&mut cursor)?),
        2 => EntryKind::Directory,
        3 => EntryKind::Symlink(cursor.bytes()?.to_vec()),
        4 => EntryKind::HardLink(cursor.bytes()?.to_vec()),
        5 => EntryKind::Fifo,
        6 => EntryKind::Socket,
        7 => EntryKind::CharDevice { major: cursor.number32()?, minor: cursor.number32()? },
        8 => EntryKind::BlockDevice { major: cursor.number32()?, minor: cursor.number32()? },
        _ => return Err("an unknown kind of entry"),
    };
    if !cursor.rest.is_empty() {
        return Err("a node that is longer than its values");
    }
    match entry_fault(&entry) {
        Some(reason) => Err(reason),
        None => Ok(entry),
    }
}

fn decode_content(cursor: &mut Cursor<'_>) -> Result<FileContent, &'static str> {
    let [flags] = cursor.array()?;
    if flags > 3 {
        return Err("unknown flags");
    }
    let (sparse, torn) = (flags & 1 != 0, flags & 2 != 0);
    let size = cursor.varint()?;
    let hash = Digest(cursor.array()?);
    let mut extents = Vec::new();
    if sparse {
        let count = cursor.count()?;
        extents.reserve_exact(count.min(EXTENTS_MAX));
        let mut end = 0u64;
        for _ in 0..count {
            let (gap, length) = (cursor.varint()?, cursor.varint()?);
            let offset = end.checked_add(gap).ok_or("extents beyond the end")?;
            extents.push((offset, length));
            end = offset.checked_add(length).ok_or("extents beyond the end")?;
        }
    }
    Ok(FileContent { size, extents, sparse, hash, torn })
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
