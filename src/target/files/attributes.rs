//! Owner, extended attributes, permission bits and times of what was restored, in the order in which they survive:
//! a change of owner clears capabilities and setuid bits, so it comes first; a file that is closed to its owner takes
//! no attributes, so permission bits come after those; everything else changes the times, so they come last.
//!
//! What cannot be set is a finding; the restore goes on.

use super::finding;
use super::restorer::Options;
use crate::domain::entry::{Entry, EntryKind};
use crate::domain::snapshot::SourceWarning;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;
use std::ffi::CString;

/// Bits that lend the owner's or the group's rights to whoever runs the file.
const SET_ID_BITS: u32 = 0o6000;

/// Who sets attributes, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setter {
    options: Options,
    uid: u32,
    gid: u32,
}

impl Setter {
    pub(super) fn new(options: Options) -> Self {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Self { options, uid, gid }
    }

    /// Sets everything on an open file or directory, except permission bits that `mode` leaves out.
    pub(super) fn set_open(&self, file: BorrowedFd<'_>, entry: &Entry, mode: u32, findings: &mut Vec<SourceWarning>) {
        let chown = || rustix::fs::fchown(file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)));
        let owned = self.set_owner(entry, chown, findings);
        self.set_xattrs(entry, findings, |name, value| rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()));
        let mode = self.mode(entry, mode, owned, findings);
        note(entry, "file.mode", "permission bits", rustix::fs::fchmod(file, Mode::from_raw_mode(mode)), findings);
        note(entry, "file.times", "times", rustix::fs::futimens(file, &times(entry)), findings);
    }

    /// Removes extended attributes that the entry does not have from what was there before: an ACL would go on
    /// giving rights that the snapshot does not give. Namespaces that belong to the system are left alone.
    pub(super) fn drop_other_xattrs(&self, file: BorrowedFd<'_>, entry: &Entry) {
        if !self.options.xattrs {
            return;
        }
        let mut buffer = vec![0u8; 64 * 1024];
        let Ok(length) = rustix::fs::flistxattr(file, buffer.as_mut_slice()) else { return };
        let names = buffer.get(..length).unwrap_or_default().split(|b| *b == 0).filter(|name| !name.is_empty());
        for name in names {
            let ours =
                [&b"user."[..], b"system.posix_acl_", b"security.capability"].iter().any(|n| name.starts_with(n));
            if ours && !entry.xattrs.iter().any(|(known, _)| known == name) {
                // What stays is no worse than before.
                let _ = rustix::fs::fremovexattr(file, name);
            }
        }
    }

    /// Sets everything on what is not opened: links, pipes, devices.
    pub(super) fn set_at(
        &self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
        findings: &mut Vec<SourceWarning>,
    ) {
        let (uid, gid) = (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)));
        let chown = || rustix::fs::chownat(directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW);
        let owned = self.set_owner(entry, chown, findings);
        if !entry.xattrs.is_empty() {
            let path = proc_path(directory, name);
            self.set_xattrs(entry, findings, |name, value| {
                rustix::fs::lsetxattr(path.as_deref().map_err(|error| *error)?, name, value, XattrFlags::empty())
            });
        }
        if !matches!(entry.kind, EntryKind::Symlink(_)) {
            let mode = self.mode(entry, entry.mode, owned, findings);
            note(entry, "file.mode", "permission bits", chmod_at(directory, name, mode), findings);
        }
        let result = rustix::fs::utimensat(directory, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW);
        note(entry, "file.times", "times", result, findings);
    }

    /// Returns true when the file belongs to whom the snapshot says.
    fn set_owner(
        &self,
        entry: &Entry,
        chown: impl FnOnce() -> Result<(), Errno>,
        findings: &mut Vec<SourceWarning>,
    ) -> bool {
        if self.options.owner {
            let result = chown();
            note(entry, "file.owner", "owner", result, findings);
            return result.is_ok();
        }
        (entry.uid, entry.gid) == (self.uid, self.gid)
    }

    /// The bits to set. A file that does not belong to its owner does not lend the rights of whoever restored it.
    fn mode(&self, entry: &Entry, mode: u32, owned: bool, findings: &mut Vec<SourceWarning>) -> u32 {
        let lent = mode & SET_ID_BITS;
        if owned || lent == 0 || entry.kind == EntryKind::Directory {
            return mode;
        }
        let message = "The setuid and setgid bits are not set, because the owner is not the one of the snapshot";
        findings.push(finding("file.setid_dropped", &entry.path, message.to_owned(), false));
        mode & !SET_ID_BITS
    }

    fn set_xattrs(
        &self,
        entry: &Entry,
        findings: &mut Vec<SourceWarning>,
        set: impl Fn(&[u8], &[u8]) -> Result<(), Errno>,
    ) {
        if !self.options.xattrs {
            return;
        }
        for (name, value) in &entry.xattrs {
            if let Err(error) = set(name, value) {
                let name = String::from_utf8_lossy(name);
                let error = std::io::Error::from(error);
                let message = format!("The extended attribute {name} cannot be set: {error}");
                findings.push(finding("file.xattr", &entry.path, message, false));
            }
        }
    }
}

fn note(entry: &Entry, code: &str, what: &str, result: Result<(), Errno>, findings: &mut Vec<SourceWarning>) {
    if let Err(error) = result {
        let message = format!("The {what} cannot be set: {}", std::io::Error::from(error));
        findings.push(finding(code, &entry.path, message, false));
    }
}

/// The modification time; the access time stays.
fn times(entry: &Entry) -> Timestamps {
    let (tv_sec, tv_nsec) = (entry.mtime_ns.div_euclid(1_000_000_000), entry.mtime_ns.rem_euclid(1_000_000_000));
    let last_modification = Timespec { tv_sec, tv_nsec };
    Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification }
}

/// The path of a name in an open directory, for calls that take paths only; the name itself is not followed.
fn proc_path(directory: BorrowedFd<'_>, name: &[u8]) -> Result<CString, Errno> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    CString::new(path).map_err(|_| Errno::INVAL)
}

/// Sets permission bits by name without following a link that took the place of what was made: the thing is held by
/// a handle first, and the bits are set on what the handle holds.
fn chmod_at(directory: BorrowedFd<'_>, name: &[u8], mode: u32) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&handle)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Symlink {
        return Err(Errno::LOOP);
    }
    let path = format!("/proc/self/fd/{}", handle.as_fd().as_raw_fd());
    rustix::fs::chmod(path, Mode::from_raw_mode(mode))
}
