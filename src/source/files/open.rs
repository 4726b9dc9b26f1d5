//! Opening by absolute path without following any symbolic link, in whatever component.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Opens `path`, which must be absolute. A link anywhere in it is `ELOOP`: the caller resolved the roots before, so
/// a link that stands there now was put there during the run. The access time stays as it is where that is allowed.
///
/// # Errors
/// What the system says.
pub(crate) fn open_without_links(path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    if flags.contains(OFlags::PATH) {
        return open_resolved(path, flags);
    }
    match open_resolved(path, flags | OFlags::NOATIME) {
        // Only the owner and root may leave the access time alone.
        Err(Errno::PERM) => open_resolved(path, flags),
        other => other,
    }
}

fn open_resolved(path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    match rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        // Kernels before 5.6 do not have the call, and some containers forbid it.
        Err(Errno::NOSYS | Errno::PERM) => open_by_components(path, flags),
        other => other,
    }
}

fn open_by_components(path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut names = path.split(|b| *b == b'/').filter(|name| !name.is_empty()).peekable();
    if names.peek().is_none() {
        return rustix::fs::open("/", flags, Mode::empty());
    }
    let mut directory = rustix::fs::open("/", step, Mode::empty())?;
    loop {
        let Some(name) = names.next() else { return Err(Errno::INVAL) };
        if names.peek().is_none() {
            return rustix::fs::openat(directory.as_fd(), name, flags, Mode::empty());
        }
        directory = rustix::fs::openat(directory.as_fd(), name, step, Mode::empty())?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_not_followed_by_either_way() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let real = dir.path().canonicalize().expect("exists");
        std::fs::create_dir(real.join("d")).expect("directory");
        std::fs::write(real.join("d/f"), b"x").expect("file");
        std::os::unix::fs::symlink("d", real.join("l")).expect("link");
        let path = |name: &str| format!("{}/{name}", real.display()).into_bytes();
        for open in [open_without_links, open_by_components] {
            assert!(open(&path("d/f"), OFlags::RDONLY | OFlags::NOFOLLOW).is_ok());
            assert!(open(&path("l/f"), OFlags::RDONLY | OFlags::NOFOLLOW).is_err());
            assert!(open(&path("l"), OFlags::RDONLY | OFlags::NOFOLLOW).is_err());
            assert!(open(b"/", OFlags::RDONLY | OFlags::DIRECTORY).is_ok());
        }
    }
}
