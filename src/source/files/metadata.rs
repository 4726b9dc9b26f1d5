//! What the system says about one entry, as a [`Entry`]: `stat` results, owners' names, extended attributes.
//!
//! Invariant: nothing here opens an entry; extended attributes are read through the directory's handle, so a directory
//! that is swapped for a link meanwhile cannot lend us another file's attributes.

use crate::domain::entry::{Entry, EntryKind, FileContent, FileIdentity};
use crate::format::tree::{LINK_BYTES_MAX, OWNER_BYTES_MAX};
use rustix::buffer::spare_capacity;
use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{Arc, Mutex, PoisonError};

/// Most bytes of extended attributes that are stored for one entry; Linux allows 64 KiB for one value and one list.
const XATTR_BYTES_MAX: usize = 8 << 20;
/// Longest value and longest list of names that the kernel hands out.
const XATTR_PIECE_MAX: usize = 64 << 10;

/// A user's and a group's name, as far as they have any.
pub type OwnerNames = (Option<String>, Option<String>);

/// Owners' names by number, asked of the system once for each number.
#[derive(Debug, Default, Clone)]
pub struct Owners {
    inner: Arc<Mutex<Names>>,
}

#[derive(Debug, Default)]
struct Names {
    users: HashMap<u32, Option<String>>,
    groups: HashMap<u32, Option<String>>,
}

impl Owners {
    /// The names of a user and of a group, as far as they have any.
    pub fn names(&self, uid: u32, gid: u32) -> OwnerNames {
        let mut names = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |name: &String| name.len() <= OWNER_BYTES_MAX;
        let user = names.users.entry(uid).or_insert_with(|| {
            let found = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten();
            found.map(|u| u.name).filter(fits)
        });
        let user = user.clone();
        let group = names.groups.entry(gid).or_insert_with(|| {
            let found = nix::unistd::Group::from_gid(nix::unistd::Gid::from_raw(gid)).ok().flatten();
            found.map(|g| g.name).filter(fits)
        });
        (user, group.clone())
    }
}

/// Context of the key that fingerprints are made with.
const IDENTITY_CONTEXT: &str = "holdfast v1 file identity";

/// What changes when a file changes or another one takes its place. No more of it is kept than a fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Change time, nanoseconds.
    pub ctime_ns: i64,
    /// Device it is on.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

impl Stamp {
    /// The fingerprint that is kept: the first four bytes of BLAKE3 (`derive_key`) over the three numbers, each as eight
    /// bytes, little-endian.
    pub fn identity(&self) -> FileIdentity {
        let mut hasher = blake3::Hasher::new_derive_key(IDENTITY_CONTEXT);
        hasher.update(&self.ctime_ns.to_le_bytes());
        hasher.update(&self.device.to_le_bytes());
        hasher.update(&self.inode.to_le_bytes());
        let mut bits = [0; 4];
        hasher.finalize_xof().fill(&mut bits);
        FileIdentity::new(bits)
    }
}

/// An entry as it stands on disk. A regular file's has no hash yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The entry.
    pub entry: Entry,
    /// What tells this file, as it is now, from others.
    pub stamp: Stamp,
}

/// The answers of `stat` that entries and comparisons need, in types that do not depend on the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// What it is.
    pub file_type: FileType,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Apparent size, bytes.
    pub size: u64,
    /// Bytes taken on disk.
    pub allocated_bytes: u64,
    /// Number of names.
    pub links: u64,
    /// Device it is on.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Device that it stands for.
    pub special: (u32, u32),
    /// Modification time, nanoseconds.
    pub mtime_ns: i64,
    /// Change time, nanoseconds.
    pub ctime_ns: i64,
}

impl Facts {
    /// Reads what the system returned.
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion, reason = "the types differ from machine to machine")]
    pub fn from_stat(stat: &Stat) -> Self {
        Self {
            file_type: FileType::from_raw_mode(stat.st_mode),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            allocated_bytes: u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512),
            links: u64::from(stat.st_nlink),
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            special: (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
            mtime_ns: nanoseconds(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            ctime_ns: nanoseconds(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }

    /// The entry at `path`; a link's target is given by the caller. `None` for a kind of file that Linux does not have.
    pub fn entry(&self, path: Vec<u8>, link: Option<Vec<u8>>, owners: OwnerNames) -> Option<Entry> {
        let (major, minor) = self.special;
        let kind = match self.file_type {
            FileType::RegularFile => EntryKind::File(FileContent { size: self.size, ..FileContent::default() }),
            FileType::Directory => EntryKind::Directory,
            FileType::Symlink => EntryKind::Symlink(link?),
            FileType::Fifo => EntryKind::Fifo,
            FileType::Socket => EntryKind::Socket,
            FileType::CharacterDevice => EntryKind::CharDevice { major, minor },
            FileType::BlockDevice => EntryKind::BlockDevice { major, minor },
            _ => return None,
        };
        Some(Entry {
            path,
            kind,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            user: owners.0,
            group: owners.1,
            mtime_ns: self.mtime_ns,
            xattrs: Vec::new(),
        })
    }

    /// What tells this file, as it is now, from others.
    pub fn stamp(&self) -> Stamp {
        Stamp { ctime_ns: self.ctime_ns, device: self.device, inode: self.inode }
    }
}

/// Seconds and nanoseconds as one number. Times beyond the years 1678 and 2262 become the nearest that fits.
fn nanoseconds(seconds: i64, nanoseconds: i64) -> i64 {
    let whole = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    i64::try_from(whole).unwrap_or(if whole < 0 { i64::MIN } else { i64::MAX })
}

/// The target of a symbolic link, raw bytes.
///
/// # Errors
/// What the system says; `ENAMETOOLONG` for a target that the format cannot hold.
pub(crate) fn link_target(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u8>, Errno> {
    let target = rustix::fs::readlinkat(directory, name, Vec::new())?.into_bytes();
    if target.len() > LINK_BYTES_MAX || target.is_empty() { Err(Errno::NAMETOOLONG) } else { Ok(target) }
}

/// Extended attributes of an entry, sorted by name.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Reads extended attributes, with buffers that are used again.
#[derive(Debug, Default)]
pub(crate) struct XattrReader {
    names: Vec<u8>,
    value: Vec<u8>,
}

impl XattrReader {
    /// The attributes of `name` in an open directory. `path` is its full path, used for a first look only: most
    /// entries have none, and a lookup by path is several times cheaper than one through `/proc`.
    ///
    /// # Errors
    /// What the system says; `EOPNOTSUPP` where the file system has none at all.
    pub(crate) fn read_at(&mut self, directory: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<Xattrs, Errno> {
        match rustix::fs::llistxattr_query(path) {
            Ok(0) => return Ok(Vec::new()),
            Err(Errno::OPNOTSUPP) => return Err(Errno::OPNOTSUPP),
            _ => {}
        }
        let mut handle = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
        handle.extend_from_slice(name);
        let handle = CString::new(handle).map_err(|_| Errno::INVAL)?;
        self.names.clear();
        self.names.reserve(XATTR_PIECE_MAX);
        rustix::fs::llistxattr(handle.as_c_str(), spare_capacity(&mut self.names))?;
        self.values(|name, value| rustix::fs::lgetxattr(handle.as_c_str(), name, spare_capacity(value)))
    }

    /// The attributes of an open file.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn read_fd(&mut self, file: BorrowedFd<'_>) -> Result<Xattrs, Errno> {
        self.names.clear();
        self.names.reserve(XATTR_PIECE_MAX);
        match rustix::fs::flistxattr(file, spare_capacity(&mut self.names)) {
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            other => other?,
        };
        self.values(|name, value| rustix::fs::fgetxattr(file, name, spare_capacity(value)))
    }

    fn values(&mut self, get: impl Fn(&[u8], &mut Vec<u8>) -> Result<usize, Errno>) -> Result<Xattrs, Errno> {
        let mut found = Vec::new();
        let mut total = 0usize;
        for name in self.names.split(|b| *b == 0).filter(|name| !name.is_empty()) {
            self.value.clear();
            self.value.reserve(XATTR_PIECE_MAX);
            match get(name, &mut self.value) {
                Ok(_) => {}
                // Removed meanwhile, or listed and not for us to read (attributes of security modules).
                Err(Errno::NODATA | Errno::OPNOTSUPP) => continue,
                Err(error) => return Err(error),
            }
            total += name.len() + self.value.len();
            if total > XATTR_BYTES_MAX {
                return Err(Errno::TOOBIG);
            }
            found.push((name.to_vec(), self.value.clone()));
        }
        found.sort();
        found.dedup_by(|a, b| a.0 == b.0);
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_and_far_away() {
        assert_eq!(nanoseconds(-1, 999_999_999), -1);
        assert_eq!(nanoseconds(2, 3), 2_000_000_003);
        assert_eq!(nanoseconds(i64::MAX, 0), i64::MAX);
        assert_eq!(nanoseconds(i64::MIN, 0), i64::MIN);
    }

    #[test]
    fn owners_are_named_where_they_have_names() {
        let owners = Owners::default();
        assert_eq!(owners.names(0, 0), (Some("root".into()), Some("root".into())));
        assert_eq!(owners.names(4_000_000_001, 4_000_000_002), (None, None));
    }
}
