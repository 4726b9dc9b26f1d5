//! Restores into a target that holds something: what of it stays, what is replaced, what goes.
//!
//! Everything is decided by looking, below the handle of the target and without following a link. A file is never
//! written in place: its new contents come under another name and take its name by a rename, so that a second name
//! of the old file, wherever it is, keeps the old contents.

use super::beneath::open_directory;
use crate::domain::entry::{Entry, EntryKind, FileContent};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::HashSet;
use std::fs::File;
use std::io::Read;

/// What happens to a name of the snapshot that the target has already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    /// It becomes what the snapshot has. Contents that are the same, byte by byte, are left and get their metadata.
    Always,
    /// The same, but a file of the same size and modification time is taken for the same without being read.
    IfChanged,
    /// It becomes what the snapshot has if the snapshot's is newer by its modification time, else it stays.
    IfNewer,
    /// It stays.
    Never,
}

/// How a restore treats what is in its target.
#[derive(Debug, Clone)]
pub struct Existing {
    /// For names that the snapshot has.
    pub overwrite: Overwrite,
    /// Paths of the snapshot within which names that it does not have are removed; usually none.
    pub delete_below: Vec<Vec<u8>>,
    /// Paths of the snapshot that are not removed, nor what is above them.
    pub protect: Vec<Vec<u8>>,
}

/// What is to be done about an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing has the name.
    New,
    /// What has the name is to be replaced.
    Replace,
    /// It is what the snapshot has; its metadata may differ.
    Same,
    /// It stays as it is.
    Keep,
}

impl Existing {
    /// True when names that the snapshot does not have are removed from a directory of it.
    pub(super) fn deletes_in(&self, path: &[u8]) -> bool {
        self.delete_below.iter().any(|root| is_at_or_below(path, root))
    }

    /// True when a path must stay although the snapshot does not have it.
    pub(super) fn protects(&self, path: &[u8]) -> bool {
        self.protect.iter().any(|kept| is_at_or_below(kept, path))
    }

    /// True when the target itself keeps its metadata.
    pub(super) fn keeps_directory(&self, directory: BorrowedFd<'_>, entry: &Entry) -> bool {
        match self.overwrite {
            Overwrite::Never => true,
            Overwrite::IfNewer => rustix::fs::fstat(directory).is_ok_and(|stat| entry.mtime_ns <= mtime_ns(&stat)),
            Overwrite::Always | Overwrite::IfChanged => false,
        }
    }

    /// Compares what has an entry's name in a directory with the entry.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn judge(&self, directory: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<Verdict, Errno> {
        let stat = match look(directory, name)? {
            None => return Ok(Verdict::New),
            Some(stat) => stat,
        };
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_directory && entry.kind == EntryKind::Directory {
            let keeps = match self.overwrite {
                Overwrite::Never => true,
                Overwrite::IfNewer => entry.mtime_ns <= mtime_ns(&stat),
                Overwrite::Always | Overwrite::IfChanged => false,
            };
            return Ok(if keeps { Verdict::Keep } else { Verdict::Same });
        }
        match self.overwrite {
            Overwrite::Never => return Ok(Verdict::Keep),
            Overwrite::IfNewer if entry.mtime_ns <= mtime_ns(&stat) => return Ok(Verdict::Keep),
            _ => {}
        }
        // Another name of it may lie outside of the target: it must not get the metadata of the snapshot.
        let alone = stat.st_nlink == 1;
        let same = alone
            && match (&entry.kind, FileType::from_raw_mode(stat.st_mode)) {
                (EntryKind::File(content), FileType::RegularFile) => {
                    self.is_same_file(directory, name, entry, content, &stat)
                }
                (EntryKind::Symlink(target), FileType::Symlink) => {
                    rustix::fs::readlinkat(directory, name, Vec::new()).is_ok_and(|found| found.as_bytes() == target)
                }
                (EntryKind::Fifo, FileType::Fifo) => true,
                _ => false,
            };
        Ok(if same { Verdict::Same } else { Verdict::Replace })
    }

    /// Compares contents. What cannot be read is not the same.
    fn is_same_file(
        &self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
        content: &FileContent,
        stat: &Stat,
    ) -> bool {
        if u64::try_from(stat.st_size).ok() != Some(content.size) {
            return false;
        }
        if self.overwrite == Overwrite::IfChanged && mtime_ns(stat) == entry.mtime_ns {
            return true;
        }
        // The hash of a sparse file says nothing about its holes.
        !content.sparse
            && open_regular(directory, name)
                .is_ok_and(|file| hash_of(file.into()).is_ok_and(|hash| hash.as_bytes() == &content.hash.0))
    }
}

/// Looks at entries of a tree in the target, without changing anything: for dry runs, and for whoever reads the
/// repository and need not read what is there already.
#[derive(Debug)]
pub struct Looker {
    root: OwnedFd,
    existing: Existing,
    moved: Option<super::moved::Moved>,
}

impl Looker {
    pub(super) fn new(root: OwnedFd, existing: Existing, moved: Option<super::moved::Moved>) -> Self {
        Self { root, existing, moved }
    }

    /// A look at a target that exists; `moved`: as [`super::Restorer::move_path`].
    ///
    /// # Errors
    /// What the system says.
    pub fn open(target: &std::path::Path, existing: Existing, moved: Option<(&[u8], &[u8])>) -> std::io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(target, flags, Mode::empty())?;
        Ok(Self::new(root, existing, moved.map(|(from, to)| super::moved::Moved::new(from, to))))
    }

    /// What is to be done about an entry. What cannot be looked at counts as missing: the restore will meet it.
    pub fn judge(&self, entry: &Entry) -> Verdict {
        let judged = self.parent(&entry.path).and_then(|(directory, name)| {
            if name.is_empty() { Ok(Verdict::Same) } else { self.existing.judge(directory.as_fd(), &name, entry) }
        });
        judged.unwrap_or(Verdict::New)
    }

    /// Paths of the snapshot's kind that would be removed from a directory of the snapshot which has these names.
    pub fn extras(&self, directory: &[u8], names: &HashSet<u64>) -> Vec<Vec<u8>> {
        if !self.existing.deletes_in(directory) {
            return Vec::new();
        }
        let opened = self.parent(directory).and_then(|(parent, name)| {
            let names: Vec<&[u8]> = if name.is_empty() { Vec::new() } else { vec![&name] };
            open_directory(parent.as_fd(), &names)
        });
        let Ok(opened) = opened else { return Vec::new() };
        let found = extras(opened.as_fd(), names, &HashSet::new()).unwrap_or_default();
        let above = if directory == b"/" { b"".as_slice() } else { directory };
        let paths = found.into_iter().map(|name| [above, b"/", &name].concat());
        paths.filter(|path| !self.existing.protects(path)).collect()
    }

    /// The directory of a path of the snapshot, and its name there; no name for the target itself.
    fn parent(&self, path: &[u8]) -> Result<(OwnedFd, Vec<u8>), Errno> {
        let place = match &self.moved {
            None => path.to_vec(),
            Some(moved) => moved.place(path).ok_or(Errno::NOENT)?,
        };
        let mut names: Vec<&[u8]> = place.split(|b| *b == b'/').filter(|name| !name.is_empty()).collect();
        let name = names.pop().unwrap_or_default().to_vec();
        Ok((open_directory(self.root.as_fd(), &names)?, name))
    }
}

/// A name as it is remembered: eight bytes of its hash. Two names that meet in it only keep a file that could go.
pub fn name_mark(name: &[u8]) -> u64 {
    let hash = blake3::hash(name);
    hash.as_bytes().first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// The names of a directory that are not among those, ascending. What the run itself put there under another spelling
/// of the name (a file system without upper and lower case) is not among them either; `placed` has the inodes.
pub(super) fn extras(
    directory: BorrowedFd<'_>,
    names: &HashSet<u64>,
    placed: &HashSet<u64>,
) -> Result<Vec<Vec<u8>>, Errno> {
    let mut found = Vec::new();
    for item in Dir::read_from(directory)? {
        let item = item?;
        let name = item.file_name().to_bytes();
        if matches!(name, b"." | b"..") || names.contains(&name_mark(name)) {
            continue;
        }
        match look(directory, name)? {
            Some(stat) if placed.contains(&stat.st_ino) && is_one_name(&stat) => {}
            Some(_) => found.push(name.to_vec()),
            None => {}
        }
    }
    found.sort();
    Ok(found)
}

/// True for what cannot have a second name: then a second name for it is another spelling of the first.
pub(super) fn is_one_name(stat: &Stat) -> bool {
    stat.st_nlink == 1 || FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// What has a name; a link is not followed.
pub(super) fn look(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens a regular file for reading, and nothing else.
pub(super) fn open_regular(directory: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(file),
        _ => Err(Errno::INVAL),
    }
}

fn hash_of(mut file: File) -> std::io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0u8; 256 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize()),
            n => hasher.update(buffer.get(..n).unwrap_or_default()),
        };
    }
}

fn mtime_ns(stat: &Stat) -> i64 {
    let (seconds, nanoseconds) = (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or_default());
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

fn is_at_or_below(path: &[u8], above: &[u8]) -> bool {
    above == b"/" || path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.first() == Some(&b'/'))
}
