//! A restored tree: every entry's kind, contents and metadata, and nothing beside them.

use super::{Error, Proof};
use crate::domain::entry::{Entry, EntryKind, FileContent};
use crate::domain::snapshot::SourceRecord;
use crate::ops::cancel::Cancel;
use crate::repository::reading::Reading;
use crate::source::files::look::{self, Look};
use crate::source::files::metadata::Facts;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Bytes read at a time.
const PIECE_BYTES: usize = 256 << 10;
/// Bits that lend the owner's or the group's rights; a restore without owners leaves them out.
const SET_ID_BITS: u32 = 0o6000;

/// What is compared beside kinds, contents, permission bits and times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeOptions {
    /// Owners and groups, by number.
    pub owner: bool,
    /// Extended attributes, ACLs and capabilities among them.
    pub xattrs: bool,
    /// Device nodes.
    pub devices: bool,
    /// What stands beside the entries of the tree in its directories counts as a difference.
    pub extras: bool,
}

/// A directory whose contents are being compared.
struct OpenDirectory {
    path: Vec<u8>,
    place: Vec<u8>,
    names: BTreeSet<Vec<u8>>,
}

/// Compares what was restored with the tree. `place` says where an entry's path is now: absolute, without symbolic
/// links in it; none leaves the entry out.
///
/// # Errors
/// [`Error`]: the repository cannot be read. A file that cannot be read is a difference.
pub fn tree(
    reading: &Reading,
    source: &SourceRecord,
    place: &dyn Fn(&[u8]) -> Option<Vec<u8>>,
    options: TreeOptions,
    cancel: &Cancel,
) -> Result<Proof, Error> {
    reading.packs.follow_index();
    let mut check = Check { proof: Proof::default(), options, place, look: Look::default(), open: Vec::new() };
    for placed in reading.tree(source)? {
        cancel.check()?;
        check.entry(&placed?.entry, cancel)?;
    }
    while let Some(directory) = check.open.pop() {
        check.leave(&directory);
    }
    Ok(check.proof.decided())
}

struct Check<'a> {
    proof: Proof,
    options: TreeOptions,
    place: &'a dyn Fn(&[u8]) -> Option<Vec<u8>>,
    look: Look,
    open: Vec<OpenDirectory>,
}

impl Check<'_> {
    fn entry(&mut self, entry: &Entry, cancel: &Cancel) -> Result<(), Error> {
        while self.open.last().is_some_and(|directory| !is_below(&entry.path, &directory.path)) {
            if let Some(directory) = self.open.pop() {
                self.leave(&directory);
            }
        }
        let name = entry.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        if let Some(directory) = self.open.last_mut() {
            directory.names.insert(name.to_vec());
        }
        let Some(place) = (self.place)(&entry.path) else { return Ok(()) };
        // A socket lives with its program and is never restored.
        if entry.kind == EntryKind::Socket || (is_device(&entry.kind) && !self.options.devices) {
            return Ok(());
        }
        let path = String::from_utf8_lossy(&entry.path).into_owned();
        match self.look.at(&place) {
            Err(error) => self.proof.differs(|| format!("{path} cannot be examined: {error}")),
            Ok(None) => self.proof.differs(|| format!("{path} is missing")),
            Ok(Some((found, facts))) => {
                self.same(entry, &found, &facts, &path)?;
                if let (EntryKind::File(content), EntryKind::File(_)) = (&entry.kind, &found.kind) {
                    self.contents(content, &place, &path, cancel)?;
                }
                if entry.kind == EntryKind::Directory && found.kind == EntryKind::Directory && self.options.extras {
                    self.open.push(OpenDirectory { path: entry.path.clone(), place, names: BTreeSet::new() });
                }
            }
        }
        Ok(())
    }

    fn same(&mut self, entry: &Entry, found: &Entry, facts: &Facts, path: &str) -> Result<(), Error> {
        if let EntryKind::HardLink(first) = &entry.kind {
            let first_found = (self.place)(first).map(|place| self.look.at(&place)).transpose();
            let identity = |facts: &Facts| (facts.device, facts.inode);
            if !matches!(first_found, Ok(Some(Some((_, other)))) if identity(&other) == identity(facts)) {
                let first = String::from_utf8_lossy(first).into_owned();
                self.proof.differs(|| format!("{path} is not a further name of {first}"));
            }
            return Ok(());
        }
        let (wanted_kind, found_kind) = (kind_of(&entry.kind), kind_of(&found.kind));
        if wanted_kind != found_kind {
            self.proof.differs(|| format!("{path} is {found_kind} instead of {wanted_kind}"));
            return Ok(());
        }
        match (&entry.kind, &found.kind) {
            (EntryKind::File(wanted), EntryKind::File(found)) if wanted.size != found.size => {
                self.proof.differs(|| format!("{path} has {} bytes instead of {}", found.size, wanted.size));
            }
            (EntryKind::File(_), _) => {}
            (wanted, found) if wanted != found => {
                self.proof.differs(|| format!("{path} does not lead where it did"));
            }
            _ => {}
        }
        let bits = if self.options.owner { 0o7777 } else { 0o7777 & !SET_ID_BITS };
        if entry.mode & bits != found.mode & bits && !matches!(entry.kind, EntryKind::Symlink(_)) {
            let (found, wanted) = (found.mode, entry.mode);
            self.proof.differs(|| format!("{path} has the permission bits {found:o} instead of {wanted:o}"));
        }
        if self.options.owner && (entry.uid, entry.gid) != (found.uid, found.gid) {
            let (a, b) = ((found.uid, found.gid), (entry.uid, entry.gid));
            self.proof.differs(|| format!("{path} belongs to {}:{} instead of {}:{}", a.0, a.1, b.0, b.1));
        }
        if entry.mtime_ns != found.mtime_ns {
            self.proof.differs(|| format!("{path} has another modification time"));
        }
        if self.options.xattrs && entry.xattrs != found.xattrs {
            self.proof.differs(|| format!("{path} has other extended attributes"));
        }
        Ok(())
    }

    fn contents(&mut self, content: &FileContent, place: &[u8], path: &str, cancel: &Cancel) -> Result<(), Error> {
        match hash(content, place, cancel) {
            Ok(Some(hash)) if *hash.as_bytes() == content.hash.0 => {}
            Ok(_) => self.proof.differs(|| format!("the contents of {path} are not those that were saved")),
            Err(error) if cancel.is_cancelled() => {
                return Err(if error.kind() == io::ErrorKind::Interrupted {
                    Error::Interrupted
                } else {
                    Error::Io { path: Path::new(OsStr::from_bytes(place)).to_owned(), source: error }
                });
            }
            Err(error) => self.proof.differs(|| format!("{path} cannot be read: {error}")),
        }
        Ok(())
    }

    /// Names that stand in a directory and not in the tree.
    fn leave(&mut self, directory: &OpenDirectory) {
        let path = String::from_utf8_lossy(&directory.path).into_owned();
        match look::names(&directory.place) {
            Err(error) => self.proof.differs(|| format!("{path} cannot be listed: {error}")),
            Ok(mut names) => {
                names.sort_unstable();
                for name in names.iter().filter(|name| !directory.names.contains(*name)) {
                    let name = String::from_utf8_lossy(name).into_owned();
                    let path = path.trim_end_matches('/');
                    self.proof.differs(|| format!("{path}/{name} is not in the snapshot"));
                }
            }
        }
    }
}

fn is_below(path: &[u8], directory: &[u8]) -> bool {
    match directory {
        b"/" => path != b"/",
        _ => path.strip_prefix(directory).is_some_and(|rest| rest.starts_with(b"/")),
    }
}

fn is_device(kind: &EntryKind) -> bool {
    matches!(kind, EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. })
}

fn kind_of(kind: &EntryKind) -> &'static str {
    match kind {
        EntryKind::File(_) | EntryKind::HardLink(_) => "a file",
        EntryKind::Directory => "a directory",
        EntryKind::Symlink(_) => "a symbolic link",
        EntryKind::Fifo => "a pipe",
        EntryKind::Socket => "a socket",
        EntryKind::CharDevice { .. } => "a character device",
        EntryKind::BlockDevice { .. } => "a block device",
    }
}

/// BLAKE3 of a file's stored bytes; none when it has data where the saved one had a hole.
fn hash(content: &FileContent, place: &[u8], cancel: &Cancel) -> io::Result<Option<blake3::Hash>> {
    let mut file = look::open_file(place)?;
    let mut hasher = blake3::Hasher::new();
    let whole = [(0, content.size)];
    let extents = if content.sparse { content.extents.as_slice() } else { &whole };
    let mut at = 0;
    for (start, length) in extents {
        if !read_span(&mut file, start.saturating_sub(at), cancel, None)? {
            return Ok(None);
        }
        read_span(&mut file, *length, cancel, Some(&mut hasher))?;
        at = start.saturating_add(*length);
    }
    let clear = read_span(&mut file, content.size.saturating_sub(at), cancel, None)?;
    Ok(clear.then(|| hasher.finalize()))
}

/// Reads so many bytes into the hasher; without one, says whether all of them are zero.
fn read_span(
    file: &mut File,
    length: u64,
    cancel: &Cancel,
    mut hasher: Option<&mut blake3::Hasher>,
) -> io::Result<bool> {
    let mut buffer = vec![0; PIECE_BYTES.min(usize::try_from(length).unwrap_or(PIECE_BYTES))];
    let mut left = length;
    while left > 0 {
        if cancel.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let n = file.read(buffer.get_mut(..want).unwrap_or_default())?;
        let read = buffer.get(..n).unwrap_or_default();
        match &mut hasher {
            _ if n == 0 => return Ok(true),
            Some(hasher) => drop(hasher.update(read)),
            None if read.iter().any(|byte| *byte != 0) => return Ok(false),
            None => {}
        }
        left -= n as u64;
    }
    Ok(true)
}
