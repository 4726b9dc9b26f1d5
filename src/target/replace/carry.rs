//! What no backup holds goes along: the entries of an old tree that rules leave out are given to the new one before it
//! takes the place.
//!
//! Directories are made anew, everything else gets a further name (a hard link), so the old tree stays as it is and no
//! space is used. What the new tree has already is never touched. Every name is opened below a handle, no link followed.

use super::Error;
use super::sqlite::attributes;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Deeper directories are not carried along; a path of them would be longer than the system takes.
const DEPTH_MAX: usize = 2000;

/// Carries entries from `old` to `new`, both directories on one file system. `relative` are their paths below `old`. Those
/// whose directory the new tree does not have are left behind. Returns how many entries were carried along.
///
/// # Errors
/// [`Error::Io`], [`Error::NoSpace`]; the new tree holds a part of them then, and must be discarded.
pub fn carry(old: &Path, new: &Path, relative: &[PathBuf]) -> Result<u64, Error> {
    let (from, to) = (open_root(old)?, open_root(new)?);
    let mut carried = 0;
    for path in relative {
        let fault = |error: Errno| Error::from_io("carry along", old.join(path), error.into());
        let parent = path.parent().unwrap_or(Path::new(""));
        let Some(name) = path.file_name() else { continue };
        let (Some(from), Some(to)) =
            (descend(from.as_fd(), parent).map_err(fault)?, descend(to.as_fd(), parent).map_err(fault)?)
        else {
            continue;
        };
        // A new name changes the time of its directory, which is that of the snapshot.
        let before = rustix::fs::fstat(&to).map_err(fault)?;
        carried += one(from.as_fd(), to.as_fd(), name.as_bytes(), 0).map_err(fault)?;
        rustix::fs::futimens(&to, &times(&before)).map_err(fault)?;
    }
    Ok(carried)
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn open_root(path: &Path) -> Result<OwnedFd, Error> {
    rustix::fs::open(path, DIRECTORY, Mode::empty()).map_err(|error| Error::from_io("open", path, error.into()))
}

/// The directory at a path; none when a part of it is missing or no directory.
fn descend(root: BorrowedFd<'_>, path: &Path) -> Result<Option<OwnedFd>, Errno> {
    let mut here = rustix::io::fcntl_dupfd_cloexec(root, 0)?;
    for name in path {
        here = match rustix::fs::openat(&here, name, DIRECTORY, Mode::empty()) {
            Ok(next) => next,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(error) => return Err(error),
        };
    }
    Ok(Some(here))
}

/// Carries one name along, with everything in it.
fn one(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &[u8], depth: usize) -> Result<u64, Errno> {
    let stat = match rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        // Gone since it was seen.
        Err(Errno::NOENT) => return Ok(0),
        Err(error) => return Err(error),
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return match rustix::fs::linkat(from, name, to, name, AtFlags::empty()) {
            Ok(()) => Ok(1),
            Err(Errno::EXIST | Errno::NOENT) => Ok(0),
            Err(error) => Err(error),
        };
    }
    if depth > DEPTH_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    let made = match rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700)) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(error),
    };
    let inner_from = match rustix::fs::openat(from, name, DIRECTORY, Mode::empty()) {
        Ok(inner) => inner,
        Err(Errno::NOENT) => return Ok(0),
        Err(error) => return Err(error),
    };
    let inner_to = match rustix::fs::openat(to, name, DIRECTORY, Mode::empty()) {
        Ok(inner) => inner,
        // The new tree has something else under this name.
        Err(Errno::NOTDIR | Errno::LOOP) if !made => return Ok(0),
        Err(error) => return Err(error),
    };
    let before = rustix::fs::fstat(&inner_to)?;
    let mut carried = u64::from(made);
    for entry in Dir::read_from(&inner_from)? {
        let entry = entry?;
        let child = entry.file_name().to_bytes();
        if child != b"." && child != b".." {
            carried += one(inner_from.as_fd(), inner_to.as_fd(), child, depth + 1)?;
        }
    }
    if made {
        give_attributes(&File::from(inner_from), &inner_to, &stat)?;
    } else {
        rustix::fs::futimens(&inner_to, &times(&before))?;
    }
    Ok(carried)
}

fn give_attributes(from: &File, to: &OwnedFd, stat: &Stat) -> Result<(), Errno> {
    use rustix::fs::{Gid, Uid};
    let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    match rustix::fs::fchown(to, owner.0, owner.1) {
        // Who may not give it away keeps it.
        Ok(()) | Err(Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    for (name, value) in attributes(from) {
        // What the system keeps for itself cannot be set.
        let _ = rustix::fs::fsetxattr(to, name.as_slice(), &value, XattrFlags::empty());
    }
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    rustix::fs::futimens(to, &times(stat))
}

fn times(stat: &Stat) -> Timestamps {
    let time = |tv_sec, tv_nsec: u64| Timespec { tv_sec, tv_nsec: i64::try_from(tv_nsec).unwrap_or(0) };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn what_is_missing_goes_along_and_nothing_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        for directory in ["old/.git/objects", "old/logs", "new/logs", "old/gone"] {
            fs::create_dir_all(folder.path().join(directory)).unwrap();
        }
        for (path, text) in [
            ("old/.git/HEAD", "ref"),
            ("old/logs/a.log", "a"),
            ("old/x", "old x"),
            ("new/x", "new x"),
            ("old/gone/y.log", "y"),
        ] {
            fs::write(folder.path().join(path), text).unwrap();
        }
        fs::set_permissions(old.join(".git"), fs::Permissions::from_mode(0o750)).unwrap();
        symlink("/etc", old.join("logs/link")).unwrap();
        symlink("/tmp", new.join("gone")).unwrap();
        let time = |path: &Path| path.metadata().unwrap().mtime_nsec();
        let before = (time(&new), time(&new.join("logs")), time(&old.join(".git")));
        let paths = [".git", "logs/a.log", "logs/link", "x", "gone/y.log", "nowhere/z"].map(PathBuf::from);
        assert_eq!(carry(&old, &new, &paths).unwrap(), 5);
        assert_eq!(fs::read(new.join(".git/HEAD")).unwrap(), b"ref");
        assert_eq!(fs::metadata(new.join(".git")).unwrap().mode() & 0o7777, 0o750);
        assert_eq!(fs::read(new.join("logs/a.log")).unwrap(), b"a");
        assert_eq!(fs::read_link(new.join("logs/link")).unwrap(), Path::new("/etc"));
        assert_eq!(fs::read(new.join("x")).unwrap(), b"new x");
        assert_eq!(before, (time(&new), time(&new.join("logs")), time(&new.join(".git"))));
        assert!(!Path::new("/tmp/y.log").exists(), "no link was followed");
        fs::remove_dir_all(&old).unwrap();
        assert_eq!(fs::read(new.join("logs/a.log")).unwrap(), b"a");
    }
}
