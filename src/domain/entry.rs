//! One line of a tree: a file, directory, link or special file with its metadata.

use super::id::Digest;
use std::num::NonZeroU32;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file with contents in the content stream.
    File(FileContent),
    /// A directory.
    Directory,
    /// A symbolic link and its target, raw bytes.
    Symlink(Vec<u8>),
    /// A further name of a file that appeared earlier in the same tree: the path of the first name, as in [`Entry::path`].
    HardLink(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A socket (recorded, never restored as a live socket).
    Socket,
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// Contents of a regular file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileContent {
    /// Apparent size (`st_size`), bytes.
    pub size: u64,
    /// For a sparse file: the spans (offset, length) that hold data, ascending and apart; everything else reads as zero.
    /// Empty for an ordinary file, whose data is one span of `size` bytes.
    pub extents: Vec<(u64, u64)>,
    /// True when `extents` describe the file (a file that is all hole has `sparse` and no extents).
    pub sparse: bool,
    /// BLAKE3 of the stored bytes: the whole file, or its extents one after the other.
    pub hash: Digest,
    /// The file changed while it was read, on every attempt: its contents may be torn.
    pub torn: bool,
}

/// A fingerprint of a file's change time, device and inode: tells a later run whether this is still the same, unchanged
/// file. A file has none when it had changed less than two seconds before it was read (a later change might bear the
/// same time) or was torn: it is read again then. It is asked only about a file whose path, size and modification time
/// are as they were, so 32 bits are enough against chance: of a thousand changes an hour that leave those three as they
/// were, one goes unseen in five hundred years. They do not stop somebody who may write the file, sets its times back
/// and touches it some four thousand million times until the fingerprint is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileIdentity(NonZeroU32);

impl FileIdentity {
    /// The identity with these bits (little-endian). All zeros stand for "none" where identities are stored, so they
    /// become 1 here.
    pub fn new(bits: [u8; 4]) -> Self {
        Self(NonZeroU32::new(u32::from_le_bytes(bits)).unwrap_or(NonZeroU32::MIN))
    }

    /// Its bits, little-endian; never all zero.
    pub fn bits(self) -> [u8; 4] {
        self.0.get().to_le_bytes()
    }
}

impl FileContent {
    /// Bytes that the file takes in the content stream.
    pub fn stream_bytes(&self) -> u64 {
        if self.sparse { self.extents.iter().map(|e| e.1).sum() } else { self.size }
    }
}

/// One entry. A tree lists a directory, then everything below it, names in byte order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Full path as raw bytes, absolute, without a trailing slash (`/` itself for the root).
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits (`st_mode & 0o7777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Owner's name, if it has one.
    pub user: Option<String>,
    /// Group's name, if it has one.
    pub group: Option<String>,
    /// Modification time, nanoseconds since 1970 UTC.
    pub mtime_ns: i64,
    /// Extended attributes, sorted by name; POSIX ACLs travel among them.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}
