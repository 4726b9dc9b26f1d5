//! The names beside a place, all in one directory that is held by a handle: every step of a replacement is one change
//! of one name there. Nothing is followed, and no rename replaces anything.

use super::{Error, Names};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Bytes that a file system allows in a name.
const NAME_BYTES_MAX: usize = 255;
/// Bytes left for what is added to the place's name, `-journal` of SQLite included.
const ADDED_BYTES: usize = 40;

/// What a name beside the place is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The place itself.
    Place,
    /// The new one, complete.
    New,
    /// The old one, kept.
    Old,
    /// The new one while it is made.
    Part,
    /// The new one on its way into the place or out of it.
    Moving,
    /// A mark: nothing was in the place before.
    Nothing,
    /// A mark: the place and the new one are being exchanged.
    Swap,
    /// What is being removed.
    Gone,
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Self::Place => "",
            Self::New => "new",
            Self::Old => "old",
            Self::Part => "part",
            Self::Moving => "moving",
            Self::Nothing => "none",
            Self::Swap => "swap",
            Self::Gone => "gone",
        }
    }
}

/// What stands under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) inode: u64,
    pub(super) kind: FileType,
}

/// The directory of a place, and the names in it that belong to one act.
#[derive(Debug)]
pub(super) struct Beside {
    handle: OwnedFd,
    directory: PathBuf,
    name: Vec<u8>,
    act: String,
    /// The system exchanges two names in one step here, and inodes keep their numbers.
    pub(super) exchanges: bool,
    /// Steps until one fails, for tests that cut a sequence anywhere.
    #[cfg(test)]
    pub(super) cut: std::cell::Cell<u32>,
}

impl Beside {
    /// Opens the directory of a place, which need not exist itself. `act` is the id of the act in hexadecimal.
    pub(super) fn open(place: &Path, act: &str) -> Result<Self, Error> {
        let unsuitable = |reason| Error::Unsuitable { path: place.to_owned(), reason };
        let Some(name) = place.file_name() else { return Err(unsuitable("it has no name of its own")) };
        let act = act.get(..8).filter(|a| a.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(act) = act else { return Err(unsuitable("the id of the act is not hexadecimal")) };
        let above = place.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        let directory = above.canonicalize().map_err(|error| Error::from_io("open", above, error))?;
        // The path has no links now; one that appears meanwhile was planted.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::NO_SYMLINKS;
        let handle = match rustix::fs::openat2(CWD, &directory, flags, Mode::empty(), resolve) {
            Err(Errno::NOSYS | Errno::PERM) => rustix::fs::openat(CWD, &directory, flags, Mode::empty()),
            other => other,
        };
        let handle = handle.map_err(|error| Error::from_io("open", &directory, error.into()))?;
        let exchanges = keeps_inodes(&handle);
        Ok(Self {
            handle,
            directory,
            name: name.as_bytes().to_vec(),
            act: act.to_owned(),
            exchanges,
            #[cfg(test)]
            cut: std::cell::Cell::new(u32::MAX),
        })
    }

    /// The name that the place has for a role, with something added (`-wal`).
    pub(super) fn name(&self, role: Role, added: &str) -> Vec<u8> {
        let mut name = self.name.clone();
        if role != Role::Place {
            let room = NAME_BYTES_MAX - ADDED_BYTES;
            if name.len() > room {
                // Two long names that begin alike must not meet.
                let hash = blake3::hash(&name).to_hex();
                name.truncate(room - 9);
                name.push(b'-');
                name.extend_from_slice(hash.as_bytes().get(..8).unwrap_or_default());
            }
            name.extend_from_slice(format!(".holdfast-{}-{}", role.word(), self.act).as_bytes());
        }
        name.extend_from_slice(added.as_bytes());
        name
    }

    /// The same as a path.
    pub(super) fn path(&self, role: Role, added: &str) -> PathBuf {
        self.directory.join(OsStr::from_bytes(&self.name(role, added)))
    }

    /// The handle of the directory.
    pub(super) fn handle(&self) -> rustix::fd::BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// For [`super::Replace::names`].
    pub(super) fn names(&self) -> Names {
        let shown = |role| self.path(role, "").display().to_string();
        Names { place: shown(Role::Place), new: shown(Role::New), old: shown(Role::Old) }
    }

    /// What stands under a name; a link is not followed.
    pub(super) fn find(&self, role: Role, added: &str) -> Result<Option<Found>, Error> {
        match rustix::fs::statat(&self.handle, self.name(role, added), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Found { inode: stat.st_ino, kind: FileType::from_raw_mode(stat.st_mode) })),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.fault("look at", role, added, error)),
        }
    }

    /// An error about a name.
    pub(super) fn fault(&self, operation: &'static str, role: Role, added: &str, error: Errno) -> Error {
        Error::from_io(operation, self.path(role, added), error.into())
    }

    /// An error that says what is there and what is not.
    pub(super) fn unexpected(&self, found: &[(Role, bool)]) -> Error {
        let line = |(role, there): &(Role, bool)| {
            let name = String::from_utf8_lossy(&self.name(*role, "")).into_owned();
            format!("{name} is {}", if *there { "there" } else { "not there" })
        };
        let found = found.iter().map(line).collect::<Vec<_>>().join(", ");
        Error::Unexpected { place: self.path(Role::Place, "").display().to_string(), found }
    }

    /// Renames to a name that must be free.
    pub(super) fn rename(&self, from: (Role, &str), to: (Role, &str)) -> Result<(), Error> {
        self.step()?;
        let (old, new) = (self.name(from.0, from.1), self.name(to.0, to.1));
        let (old, new) = (old.as_slice(), new.as_slice());
        let renamed = match rustix::fs::renameat_with(&self.handle, old, &self.handle, new, RenameFlags::NOREPLACE) {
            // A file system that cannot promise it: look first.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => match self.find(to.0, to.1)? {
                Some(_) => Err(Errno::EXIST),
                None => rustix::fs::renameat(&self.handle, old, &self.handle, new),
            },
            other => other,
        };
        renamed.map_err(|error| match error {
            Errno::BUSY if from.0 == Role::Place => {
                let place = self.path(Role::Place, "");
                Error::MountPoint { mount: place.clone(), place }
            }
            error => self.fault("rename", from.0, from.1, error),
        })
    }

    /// Renames if there is something to rename and the new name is free. False: there was nothing.
    pub(super) fn rename_if_there(&self, from: (Role, &str), to: (Role, &str)) -> Result<bool, Error> {
        match self.find(from.0, from.1)? {
            None => Ok(false),
            Some(_) => self.rename(from, to).map(|()| true),
        }
    }

    /// Exchanges two names in one step; false where the system cannot.
    pub(super) fn exchange(&self, one: Role, other: Role) -> Result<bool, Error> {
        self.step()?;
        let (a, b) = (self.name(one, ""), self.name(other, ""));
        let flags = RenameFlags::EXCHANGE;
        match rustix::fs::renameat_with(&self.handle, a.as_slice(), &self.handle, b.as_slice(), flags) {
            Ok(()) => Ok(true),
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Ok(false),
            Err(Errno::BUSY) => {
                let place = self.path(Role::Place, "");
                Err(Error::MountPoint { mount: place.clone(), place })
            }
            Err(error) => Err(self.fault("exchange", one, "", error)),
        }
    }

    /// Makes a mark: a link that leads nowhere and says `text`, whole or not at all. One that is there is replaced.
    pub(super) fn mark(&self, role: Role, text: &str) -> Result<(), Error> {
        self.unmark(role)?;
        self.step()?;
        let made = rustix::fs::symlinkat(text, &self.handle, self.name(role, ""));
        made.map_err(|error| self.fault("create", role, "", error))
    }

    /// What a mark says.
    pub(super) fn read_mark(&self, role: Role) -> Result<Option<String>, Error> {
        match rustix::fs::readlinkat(&self.handle, self.name(role, ""), Vec::new()) {
            Ok(text) => Ok(Some(text.to_string_lossy().into_owned())),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.fault("read", role, "", error)),
        }
    }

    /// Removes a mark, if it is there.
    pub(super) fn unmark(&self, role: Role) -> Result<(), Error> {
        if self.find(role, "")?.is_none() {
            return Ok(());
        }
        self.remove_file(role, "")
    }

    /// Removes a file or link, if it is there.
    pub(super) fn remove_file(&self, role: Role, added: &str) -> Result<(), Error> {
        self.step()?;
        match rustix::fs::unlinkat(&self.handle, self.name(role, added), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(self.fault("remove", role, added, error)),
        }
    }

    /// Makes all changes of names so far durable.
    pub(super) fn sync(&self) -> Result<(), Error> {
        self.step()?;
        rustix::fs::fsync(&self.handle).map_err(|error| Error::from_io("sync", &self.directory, error.into()))
    }

    /// The first mount point at or below the place, if there is one: a rename would carry it away.
    pub(super) fn mount_point(&self) -> Option<PathBuf> {
        let place = self.path(Role::Place, "");
        let mounts = std::fs::read("/proc/self/mountinfo").ok()?;
        let points = mounts.split(|b| *b == b'\n').filter_map(|line| line.split(|b| *b == b' ').nth(4));
        points.map(unescaped).find(|point| point.starts_with(&place))
    }

    /// Each change of the system is one step.
    #[cfg(test)]
    fn step(&self) -> Result<(), Error> {
        match self.cut.get() {
            0 => Err(Error::from_io("go on with", &self.directory, std::io::Error::other("cut"))),
            left => {
                self.cut.set(left - 1);
                Ok(())
            }
        }
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "tests count and cut here")]
    fn step(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// File systems on which two names are exchanged in one step and inodes keep their numbers over a restart.
fn keeps_inodes(directory: &OwnedFd) -> bool {
    const EXT: u64 = 0xef53;
    const XFS: u64 = 0x5846_5342;
    const BTRFS: u64 = 0x9123_683e;
    const F2FS: u64 = 0xf2f5_2010;
    const TMPFS: u64 = 0x0102_1994;
    let kind = rustix::fs::fstatfs(directory).map(|fs| fs.f_type as u64).unwrap_or_default();
    [EXT, XFS, BTRFS, F2FS, TMPFS].contains(&kind)
}

/// A path as `mountinfo` writes it, with `\040` for a space.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_derive_from_place_and_act_and_stay_within_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let act = "0123456789abcdef";
        let beside = Beside::open(&dir.path().join("app"), act).unwrap();
        assert_eq!(beside.name(Role::New, ""), b"app.holdfast-new-01234567");
        assert_eq!(beside.name(Role::Old, "-wal"), b"app.holdfast-old-01234567-wal");
        let long = |last: &str| Beside::open(&dir.path().join(format!("{}{last}", "x".repeat(254))), act).unwrap();
        let (a, b) = (long("a"), long("b"));
        assert!(a.name(Role::Moving, "-journal").len() <= NAME_BYTES_MAX);
        assert_ne!(a.name(Role::New, ""), b.name(Role::New, ""));
        for (place, act) in [("/", act), ("/tmp/..", act), ("/tmp/x", "short"), ("/tmp/x", "../../..")] {
            assert!(matches!(Beside::open(Path::new(place), act), Err(Error::Unsuitable { .. })), "{place} {act}");
        }
    }

    #[test]
    fn no_rename_replaces_anything() {
        let dir = tempfile::tempdir().unwrap();
        let beside = Beside::open(&dir.path().join("app"), "0123456789abcdef").unwrap();
        for role in [Role::Place, Role::New] {
            std::fs::write(beside.path(role, ""), role.word()).unwrap();
        }
        assert!(beside.rename((Role::New, ""), (Role::Place, "")).is_err());
        assert_eq!(std::fs::read(beside.path(Role::Place, "")).unwrap(), b"");
        assert!(!beside.rename_if_there((Role::Old, ""), (Role::Place, "")).unwrap());
    }

    #[test]
    fn mount_points_are_read_with_their_spaces() {
        assert_eq!(unescaped(b"/srv/my\\040data\\134x"), Path::new("/srv/my data\\x"));
        assert_eq!(unescaped(b"/a\\"), Path::new("/a\\"));
        assert!(Beside::open(Path::new("/proc"), "0123456789abcdef").unwrap().mount_point().is_some());
    }
}
