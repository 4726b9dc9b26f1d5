//! One entry by its path, as a walk would have found it. For comparing, not for saving: nothing is remembered.

use super::metadata::{Facts, XattrReader, link_target};
use super::open::open_without_links;
use crate::domain::entry::Entry;
use rustix::fd::AsFd;
use rustix::fs::{AtFlags, FileType, OFlags, RawDir};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;

/// Looks at entries. No symbolic link is followed in any component of a path, so paths must be free of them.
#[derive(Debug, Default)]
pub struct Look {
    xattrs: XattrReader,
}

impl Look {
    /// What is at an absolute path; none when nothing is there. A regular file's entry has no hash, and no entry has
    /// the names of its owners.
    ///
    /// # Errors
    /// What the system says.
    pub fn at(&mut self, path: &[u8]) -> io::Result<Option<(Entry, Facts)>> {
        let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(0) | None => (&b"/"[..], path.get(1..).unwrap_or_default()),
            Some(slash) => path.split_at(slash),
        };
        let name = name.strip_prefix(b"/").unwrap_or(name);
        let name = if name.is_empty() { &b"."[..] } else { name };
        match self.in_parent(parent, name, path) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            other => Ok(other?),
        }
    }

    fn in_parent(&mut self, parent: &[u8], name: &[u8], path: &[u8]) -> Result<Option<(Entry, Facts)>, Errno> {
        let directory = open_without_links(parent, OFlags::PATH | OFlags::DIRECTORY)?;
        let stat = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let facts = Facts::from_stat(&stat);
        let link = match facts.file_type {
            FileType::Symlink => Some(link_target(directory.as_fd(), name)?),
            _ => None,
        };
        let Some(mut entry) = facts.entry(path.to_vec(), link, (None, None)) else { return Ok(None) };
        entry.xattrs = match self.xattrs.read_at(directory.as_fd(), name, path) {
            Err(Errno::OPNOTSUPP) => Vec::new(),
            other => other?,
        };
        Ok(Some((entry, facts)))
    }
}

/// Opens a regular file for reading.
///
/// # Errors
/// What the system says.
pub fn open_file(path: &[u8]) -> io::Result<File> {
    // Without waiting: a pipe that took the file's place has nobody at its other end.
    Ok(File::from(open_without_links(path, OFlags::RDONLY | OFlags::NONBLOCK)?))
}

/// The names in a directory, in no order.
///
/// # Errors
/// What the system says.
pub fn names(path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let directory = open_without_links(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut buffer = [const { MaybeUninit::uninit() }; 16 << 10];
    let mut entries = RawDir::new(directory, &mut buffer);
    let mut found = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            found.push(name.to_vec());
        }
    }
    Ok(found)
}
