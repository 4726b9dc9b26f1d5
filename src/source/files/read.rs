//! Contents of regular files: read once, checked for changes while they were read, holes left out.
//!
//! Invariant: what the entry says about its contents (size, extents, hash) is about the bytes that were delivered,
//! whatever the file did meanwhile; bytes that may be torn are never without the flag.

use super::metadata::{Facts, Found, Owners, XattrReader};
use super::open::open_without_links;
use super::warning;
use crate::domain::entry::{Entry, EntryKind, FileContent, FileIdentity};
use crate::domain::id::Digest;
use crate::domain::snapshot::SourceWarning;
use crate::domain::system::Clock;
use crate::format::tree::EXTENTS_MAX;
use rustix::fd::AsFd;
use rustix::fs::{FileType, OFlags, SeekFrom};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Files up to this size are held in memory and read again when they changed; larger ones are sent as they are read.
pub const BUFFERED_BYTES_MAX: u64 = 8 << 20;
/// Bytes that are handed over at a time, at most.
pub const PIECE_BYTES: usize = 1 << 20;
/// How often a file that changed while it was read is read again.
pub const REREADS_MAX: u32 = 3;
/// Holes that are not worth an extent.
const HOLE_BYTES_MIN: u64 = 4096;
/// A file that changed this short a time ago may change again without showing it: many kernels stamp times by a clock
/// that ticks every four to ten milliseconds.
const TICK_NS: i64 = 20_000_000;
/// How much older than the reading a change must be to be told apart from one that came after it.
const CLOCK_STEP_NS: i64 = 2_000_000_000;

/// Why a file gave no entry.
#[derive(Debug, thiserror::Error)]
pub enum ReadError<E> {
    /// The file could not be read and nothing was sent; the finding says why. The run goes on without it.
    #[error("{} was left out", .0.subject)]
    Skipped(SourceWarning),
    /// The receiver failed, which is no fault of the file and ends the run.
    #[error(transparent)]
    Receiver(E),
}

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRead {
    /// The entry, with contents and the metadata that belong to them.
    pub entry: Entry,
    /// What to know the file by in a later run; none if it was torn, or changed so recently that another change may come
    /// after the reading with the same time stamp.
    pub identity: Option<FileIdentity>,
    /// The file changed while it was read, or ended in an error after part of it had been sent.
    pub warning: Option<SourceWarning>,
    /// Another file had taken the name since the walk (an editor's save). If so, the walk has to be told:
    /// [`super::walk::Walk::forget_first_name`] with the entry that was asked for.
    pub replaced: bool,
}

/// Reads files one after the other, with buffers that are used again. One for each thread.
#[derive(Debug)]
pub struct FileReader {
    owners: Owners,
    xattrs: XattrReader,
    buffer: Vec<u8>,
}

/// True when a file need not be read: it is the file that was stored with `parent` and `identity`, and nothing about it
/// changed since. A file without an identity is read.
pub fn is_unchanged(parent: &Entry, identity: Option<FileIdentity>, now: &Found) -> bool {
    let (EntryKind::File(stored), EntryKind::File(present)) = (&parent.kind, &now.entry.kind) else { return false };
    !stored.torn
        && stored.size == present.size
        && parent.mtime_ns == now.entry.mtime_ns
        && identity.is_some_and(|identity| identity == now.stamp.identity())
}

/// What one pass over a file gave.
struct Pass {
    content: FileContent,
    /// The file on disk says something else about itself than before the pass.
    changed: bool,
    after: Facts,
    /// Reading failed after some bytes had been sent.
    error: Option<std::io::Error>,
}

impl FileReader {
    /// A reader; `owners` is best shared with the walk.
    pub fn new(owners: Owners) -> Self {
        Self { owners, xattrs: XattrReader::default(), buffer: Vec::new() }
    }

    /// Reads the file of an entry that the walk gave and sends its bytes (holes left out) in order.
    ///
    /// # Errors
    /// [`ReadError::Skipped`] when nothing was sent because the file is gone or closed to us, [`ReadError::Receiver`]
    /// with what `send` returned.
    pub fn read<E>(
        &mut self,
        found: &Found,
        clock: &dyn Clock,
        mut send: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<FileRead, ReadError<E>> {
        let entry = &found.entry;
        let skipped = |error| ReadError::Skipped(failure(&entry.path, &error));
        // Without waiting, in case a pipe has taken the file's place.
        let file = open_without_links(&entry.path, OFlags::RDONLY | OFlags::NONBLOCK).map_err(|e| skipped(e.into()))?;
        let mut before = facts(&file).map_err(|e| skipped(e.into()))?;
        if before.file_type != FileType::RegularFile {
            let message = "Something else took the place of the file while it was being saved".to_owned();
            return Err(ReadError::Skipped(warning("file.vanished", &entry.path, message, true)));
        }
        let replaced = (before.device, before.inode) != (found.stamp.device, found.stamp.inode);
        let file = File::from(file);
        let mut rereads = 0;
        let mut last_hash = None;
        let (pass, read_ns) = loop {
            let read_ns = i64::try_from(clock.now().as_nanosecond()).unwrap_or(0);
            if before.size > BUFFERED_BYTES_MAX && data_bytes(&file, &before) > BUFFERED_BYTES_MAX {
                let mut pass = self.stream(&file, &before, &mut send).map_err(ReadError::Receiver)?;
                pass.changed |= just_changed(&pass.after, read_ns);
                break (pass, read_ns);
            }
            let mut pass = self.fill(&file, &before).map_err(skipped)?;
            // Where the time stamps cannot tell, two readings that give the same bytes do.
            let hash = Some(pass.content.hash);
            pass.changed |= just_changed(&pass.after, read_ns) && last_hash != hash;
            if pass.changed && rereads < REREADS_MAX {
                rereads += 1;
                before = pass.after;
                last_hash = hash;
                continue;
            }
            for piece in self.buffer.chunks(PIECE_BYTES) {
                send(piece).map_err(ReadError::Receiver)?;
            }
            break (pass, read_ns);
        };
        Ok(self.conclude(found, &file, pass, read_ns, replaced))
    }

    /// Reads everything into the buffer.
    fn fill(&mut self, file: &File, before: &Facts) -> std::io::Result<Pass> {
        self.buffer.clear();
        let extents = extents(file, before)?;
        let mut short = false;
        let mut delivered = Vec::new();
        for &(offset, length) in extents.as_deref().unwrap_or(&[(0, before.size)]) {
            let start = self.buffer.len();
            let wanted = usize::try_from(length).map_err(|_| std::io::ErrorKind::OutOfMemory)?;
            self.buffer.resize(start + wanted, 0);
            let got = read_full(file, self.buffer.get_mut(start..).unwrap_or_default(), offset)?;
            self.buffer.truncate(start + got);
            if got > 0 {
                delivered.push((offset, got as u64));
            }
            short |= got < wanted;
        }
        let hash = blake3::hash(&self.buffer);
        finish_pass(file, before, extents.is_some(), delivered, hash, short, None)
    }

    /// Sends a large file as it is read.
    fn stream<E>(
        &mut self,
        file: &File,
        before: &Facts,
        send: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<Pass, E> {
        self.buffer.clear();
        self.buffer.resize(PIECE_BYTES, 0);
        let mut error = None;
        let extents = extents(file, before).unwrap_or_else(|e| {
            error = Some(e);
            None
        });
        let mut hasher = blake3::Hasher::new();
        let mut delivered: Vec<(u64, u64)> = Vec::new();
        let mut short = false;
        'extents: for &(offset, length) in extents.as_deref().unwrap_or(&[(0, before.size)]) {
            let mut done = 0;
            while done < length && error.is_none() {
                let wanted = usize::try_from(length - done).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
                let piece = self.buffer.get_mut(..wanted).unwrap_or_default();
                match read_full(file, piece, offset + done) {
                    Ok(got) => {
                        let piece = piece.get(..got).unwrap_or_default();
                        hasher.update(piece);
                        send(piece)?;
                        done += got as u64;
                        if got < wanted {
                            short = true;
                            break;
                        }
                    }
                    Err(fault) => error = Some(fault),
                }
            }
            if done > 0 {
                delivered.push((offset, done));
            }
            if short || error.is_some() {
                break 'extents;
            }
        }
        let sparse = extents.is_some();
        let hash = hasher.finalize();
        let pass = finish_pass(file, before, sparse, delivered.clone(), hash, short, error);
        // The bytes are out; that the file can no longer be asked about itself makes them doubtful, not gone.
        Ok(pass.unwrap_or_else(|fault| Pass {
            content: content(before.size, sparse, delivered, hash),
            changed: true,
            after: *before,
            error: Some(fault),
        }))
    }

    fn conclude(&mut self, found: &Found, file: &File, pass: Pass, read_ns: i64, replaced: bool) -> FileRead {
        let Pass { mut content, changed, after, error } = pass;
        let asked = &found.entry;
        content.torn = changed || error.is_some();
        let identity = (!content.torn && is_settled(&after, read_ns)).then(|| after.stamp().identity());
        let owners = self.owners.names(after.uid, after.gid);
        let mut warned = match &error {
            Some(error) => {
                let got = content.stream_bytes();
                let message = format!("Only {got} of its bytes could be read: {error}");
                Some(warning("file.unreadable", &asked.path, message, true))
            }
            None if changed => {
                let message = "The file changed while it was read: its contents may be a mixture of old and new";
                Some(warning("file.changed", &asked.path, message.to_owned(), false))
            }
            None => None,
        };
        let kind = EntryKind::File(content);
        let mut entry = Entry { kind, ..asked.clone() };
        (entry.user, entry.group) = owners;
        (entry.mode, entry.uid, entry.gid) = (after.mode, after.uid, after.gid);
        entry.mtime_ns = after.mtime_ns;
        if replaced || found.stamp.ctime_ns != after.ctime_ns {
            match self.xattrs.read_fd(file.as_fd()) {
                Ok(xattrs) => entry.xattrs = xattrs,
                Err(error) => {
                    let message = format!("The extended attributes cannot be read: {}", std::io::Error::from(error));
                    warned.get_or_insert(warning("file.xattrs", &asked.path, message, true));
                }
            }
        }
        FileRead { entry, identity, warning: warned, replaced }
    }
}

fn failure(path: &[u8], error: &std::io::Error) -> SourceWarning {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE) => {
            warning("file.vanished", path, "The file vanished while it was being saved".to_owned(), true)
        }
        _ => warning("file.unreadable", path, format!("The file cannot be read: {error}"), true),
    }
}

fn is_settled(facts: &Facts, read_ns: i64) -> bool {
    facts.ctime_ns.checked_add(CLOCK_STEP_NS).is_some_and(|settled| settled <= read_ns)
}

fn just_changed(facts: &Facts, read_ns: i64) -> bool {
    facts.ctime_ns > read_ns.saturating_sub(TICK_NS)
}

fn facts(file: impl AsFd) -> Result<Facts, Errno> {
    Ok(Facts::from_stat(&rustix::fs::fstat(file)?))
}

/// Compares the file with what it was before, and describes what was delivered.
fn finish_pass(
    file: &File,
    before: &Facts,
    sparse: bool,
    delivered: Vec<(u64, u64)>,
    hash: blake3::Hash,
    short: bool,
    error: Option<std::io::Error>,
) -> std::io::Result<Pass> {
    let after = facts(file)?;
    let same = (before.size, before.mtime_ns, before.ctime_ns) == (after.size, after.mtime_ns, after.ctime_ns);
    let size = if short { after.size.min(before.size) } else { before.size };
    Ok(Pass { content: content(size, sparse, delivered, hash), changed: short || !same, after, error })
}

fn content(size: u64, sparse: bool, delivered: Vec<(u64, u64)>, hash: blake3::Hash) -> FileContent {
    let end = delivered.last().map_or(0, |(offset, length)| offset + length);
    let hash = Digest(*hash.as_bytes());
    if sparse {
        return FileContent { size: size.max(end), extents: delivered, sparse, hash, torn: false };
    }
    FileContent { size: end, extents: Vec::new(), sparse, hash, torn: false }
}

/// Reads until the buffer is full or the file ends.
fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(got) => filled += got,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Bytes that a pass will deliver, as far as that can be told.
fn data_bytes(file: &File, before: &Facts) -> u64 {
    match extents(file, before) {
        Ok(Some(extents)) => extents.iter().map(|extent| extent.1).sum(),
        _ => before.size,
    }
}

/// The spans of a sparse file that hold data; none for a file that is to be read whole.
fn extents(file: &File, before: &Facts) -> std::io::Result<Option<Vec<(u64, u64)>>> {
    if before.size == 0 || before.allocated_bytes >= before.size || !tells_holes_truly(file) {
        return Ok(None);
    }
    let mut found: Vec<(u64, u64)> = Vec::new();
    let mut hole_min = HOLE_BYTES_MIN;
    let mut position = 0;
    while position < before.size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(position)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL) if found.is_empty() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if start >= before.size {
            break;
        }
        let end = match rustix::fs::seek(file, SeekFrom::Hole(start)) {
            Ok(end) => end.clamp(start, before.size),
            // The file was cut behind us: what follows is read as data, and the change is noticed afterwards.
            Err(Errno::NXIO) => before.size,
            Err(error) => return Err(error.into()),
        };
        if end == start {
            break;
        }
        push_extent(&mut found, (start, end - start), &mut hole_min);
        position = end;
    }
    let whole = matches!(found.as_slice(), [(0, length)] if *length == before.size);
    Ok((!whole).then_some(found))
}

/// Adds an extent. Short holes are read as the zeros they are, and what counts as short grows with their number, so
/// that no file has more extents than the format holds.
fn push_extent(found: &mut Vec<(u64, u64)>, (start, length): (u64, u64), hole_min: &mut u64) {
    let join = |last: &mut (u64, u64), start: u64, length: u64, hole_min: u64| {
        let near = start.saturating_sub(last.0 + last.1) < hole_min;
        if near {
            last.1 = start + length - last.0;
        }
        near
    };
    if found.last_mut().is_some_and(|last| join(last, start, length, *hole_min)) {
        return;
    }
    found.push((start, length));
    while found.len() > EXTENTS_MAX {
        *hole_min = hole_min.saturating_mul(2);
        found.dedup_by(|next, last| join(last, next.0, next.1, *hole_min));
    }
}

/// File systems whose answers to `SEEK_HOLE` are known to be right. Others have reported holes where data was still
/// on its way to the disk (OpenZFS 15526), so their sparse files are read whole.
fn tells_holes_truly(file: &File) -> bool {
    const EXT: u64 = 0xef53;
    const XFS: u64 = 0x5846_5342;
    const BTRFS: u64 = 0x9123_683e;
    const TMPFS: u64 = 0x0102_1994;
    const F2FS: u64 = 0xf2f5_2010;
    let magic = rustix::fs::fstatfs(file).map(|statfs| u64::try_from(statfs.f_type).unwrap_or(0));
    magic.is_ok_and(|magic| [EXT, XFS, BTRFS, TMPFS, F2FS].contains(&(magic & 0xffff_ffff)))
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
