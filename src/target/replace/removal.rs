//! Removes a tree below a handle: no link is followed and no mount point is entered, whoever moves things about.

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Directories that are open at the same time; what lies deeper is brought up first.
const DEPTH_MAX: usize = 64;

/// Removes what stands under a name, with everything in it. Nothing there is fine.
///
/// # Errors
/// What the system says; a part may be gone then.
pub(in crate::target) fn remove(directory: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // Linux says the first for a directory, POSIX the second.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    let top = match open(directory, name) {
        // What could not be removed was no directory.
        Err(Errno::NOTDIR | Errno::LOOP) => return Err(Errno::PERM),
        other => other?,
    };
    let mut brought_up = 0;
    while empty(top.as_fd(), top.as_fd(), 1, &mut brought_up)? {}
    rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)
}

/// Opens a directory that is to be emptied, giving its owner the right to do so.
fn open(directory: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let opened = |()| match rustix::fs::openat2(directory, name, flags, Mode::empty(), resolve) {
        Err(Errno::NOSYS) => rustix::fs::openat(directory, name, flags, Mode::empty()),
        other => other,
    };
    let handle = match opened(()) {
        Err(Errno::ACCESS) => {
            allow(directory, name)?;
            opened(())?
        }
        other => other?,
    };
    if !rustix::process::geteuid().is_root() {
        // Not ours to change: then it may not be ours to empty either, which the system will say.
        let _ = rustix::fs::fchmod(&handle, Mode::from_raw_mode(0o700));
    }
    Ok(handle)
}

/// Makes a directory of ours readable without following a link.
fn allow(directory: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    rustix::fs::chmod(format!("/proc/self/fd/{}", handle.as_raw_fd()), Mode::from_raw_mode(0o700))
}

/// Empties a directory. True: something deeper was brought up to the top, which must be emptied again.
fn empty(directory: BorrowedFd<'_>, top: BorrowedFd<'_>, depth: usize, brought_up: &mut u64) -> Result<bool, Errno> {
    let mut again = false;
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let is_directory = match entry.file_type() {
            FileType::Unknown => {
                let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            }
            kind => kind == FileType::Directory,
        };
        if !is_directory {
            gone(rustix::fs::unlinkat(directory, name, AtFlags::empty()))?;
        } else if depth < DEPTH_MAX {
            let inner = open(directory, name.to_bytes())?;
            again |= empty(inner.as_fd(), top, depth + 1, brought_up)?;
            gone(rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR))?;
        } else {
            // Moving a directory takes the right to write in it.
            drop(open(directory, name.to_bytes())?);
            *brought_up += 1;
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            let up = format!(".holdfast-deep-{brought_up}");
            match rustix::fs::renameat_with(directory, name, top, up.as_str(), flags) {
                // The name is taken; the next round tries the next one.
                Err(Errno::EXIST) => {
                    *brought_up += 1;
                    let up = format!(".holdfast-deep-{}-{brought_up}", rustix::process::getpid().as_raw_nonzero());
                    rustix::fs::renameat_with(directory, name, top, up.as_str(), flags)?;
                }
                other => other?,
            }
            again = true;
        }
    }
    Ok(again)
}

/// What is gone already is fine.
fn gone(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::{Path, PathBuf};

    fn remove_at(directory: &Path, name: &str) -> Result<(), Errno> {
        let handle = std::fs::File::open(directory).unwrap();
        remove(handle.as_fd(), name.as_bytes())
    }

    #[test]
    fn trees_of_any_depth_go_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path();
        std::fs::create_dir_all(base.join("outside")).unwrap();
        std::fs::write(base.join("outside/canary"), b"x").unwrap();
        let mut deep: PathBuf = base.join("tree");
        for _ in 0..(3 * DEPTH_MAX) {
            deep.push("d");
        }
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("file"), b"x").unwrap();
        symlink(base.join("outside"), deep.join("link")).unwrap();
        symlink("../outside", base.join("tree/link")).unwrap();
        std::fs::create_dir(base.join("tree/.holdfast-deep-1")).unwrap();
        std::fs::create_dir(base.join("tree/closed")).unwrap();
        std::fs::set_permissions(base.join("tree/closed"), std::fs::Permissions::from_mode(0o000)).unwrap();
        remove_at(base, "tree").unwrap();
        assert!(!base.join("tree").exists());
        symlink("outside", base.join("tree")).unwrap();
        remove_at(base, "tree").unwrap();
        remove_at(base, "tree").unwrap();
        assert_eq!(std::fs::read(base.join("outside/canary")).unwrap(), b"x");
    }
}
