//! Opening directories below the target, never through a symbolic link.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// How often a lookup that met a rename is tried again.
const TRIES_MAX: u32 = 64;

/// Flags of a directory to work in.
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens the directory `names` below `root`; no names: the root again.
///
/// # Errors
/// What the system says: `ELOOP` or `ENOTDIR` for a link on the way, `ENOENT` for what is not there.
pub(super) fn open_directory(root: BorrowedFd<'_>, names: &[&[u8]]) -> Result<OwnedFd, Errno> {
    if names.is_empty() {
        return rustix::fs::openat(root, ".", DIRECTORY, Mode::empty());
    }
    let path = names.join(&b'/');
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..TRIES_MAX {
        match rustix::fs::openat2(root, path.as_slice(), DIRECTORY, Mode::empty(), resolve) {
            // Something was renamed during the lookup.
            Err(Errno::AGAIN) => {}
            // Kernels before 5.6 do not have the call, and some containers forbid it.
            Err(Errno::NOSYS | Errno::PERM) => return open_by_steps(root, names),
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// The same, one component at a time: without `..` and without links no step can lead out.
fn open_by_steps(root: BorrowedFd<'_>, names: &[&[u8]]) -> Result<OwnedFd, Errno> {
    let mut directory = rustix::fs::openat(root, ".", DIRECTORY, Mode::empty())?;
    for name in names {
        directory = rustix::fs::openat(directory.as_fd(), *name, DIRECTORY, Mode::empty())?;
    }
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_way_follows_a_link_or_leaves_the_root() {
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::create_dir_all(dir.path().join("root/a/b")).expect("directories");
        std::fs::create_dir(dir.path().join("outside")).expect("directory");
        std::os::unix::fs::symlink("../outside", dir.path().join("root/out")).expect("link");
        std::os::unix::fs::symlink("a", dir.path().join("root/in")).expect("link");
        let root = rustix::fs::open(dir.path().join("root"), DIRECTORY, Mode::empty()).expect("opens");
        for open in [open_directory, open_by_steps] {
            assert!(open(root.as_fd(), &[b"a", b"b"]).is_ok());
            assert!(open(root.as_fd(), &[]).is_ok());
            for names in [vec![b"out".as_slice()], vec![b"in"], vec![b"in", b"b"], vec![b"missing"]] {
                assert!(open(root.as_fd(), &names).is_err(), "{names:?}");
            }
        }
        assert_eq!(open_directory(root.as_fd(), &[b".."]).err(), Some(Errno::XDEV), "the kernel keeps us beneath");
    }
}
