//! Makes the entries of a tree again, in tree order, below one directory.
//!
//! Memory: one record for each directory that is open (a path has at most 4,096 bytes), and one for each directory
//! whose permission bits shut its owner out, which get their bits at the very end.

use super::attributes::Setter;
use super::beneath::open_directory;
use super::existing::{Existing, look};
use super::moved::Moved;
use super::replacing::{Seen, There};
use super::sink::FileSink;
use super::{TargetError, finding, shown};
use crate::domain::entry::{Entry, EntryKind};
use crate::domain::snapshot::SourceWarning;
use crate::format::tree::{path_fault, path_order};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::path::Path;
use std::sync::Arc;

/// What is restored beside contents, times and permission bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Give files to their owners, by number. Only root can.
    pub owner: bool,
    /// Set extended attributes, and with them ACLs and capabilities.
    pub xattrs: bool,
    /// Make device nodes. Only root can.
    pub devices: bool,
}

impl Options {
    /// Everything that the user who runs this can restore.
    pub fn for_this_user() -> Self {
        let root = rustix::process::geteuid().is_root();
        Self { owner: root, xattrs: true, devices: root }
    }
}

/// What was restored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Regular files, further names of files included.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Links, pipes and devices.
    pub others: u64,
    /// What was there already as the snapshot has it, directories apart.
    pub unchanged: u64,
    /// What stayed because the rule for what exists says so.
    pub kept: u64,
    /// Findings that [`Restorer::take_warnings`] has not handed out.
    pub warnings: Vec<SourceWarning>,
}

/// Restores one tree after the other below a target that was new or empty.
#[derive(Debug)]
pub struct Restorer {
    pub(super) root: OwnedFd,
    options: Options,
    pub(super) setter: Setter,
    /// Directories on the way to where the last entry was made, outermost first.
    pub(super) open: Vec<OpenDirectory>,
    /// Handle of the last of them.
    pub(super) current: Arc<OwnedFd>,
    last_path: Option<Vec<u8>>,
    /// A directory whose name was taken: what lies below it is left out with it.
    pub(super) left_out: Option<Vec<u8>>,
    /// Trees begun before this one made directories that this one may share.
    pub(super) shares: bool,
    /// The target hands down ACLs to what is created in it.
    hands_down_acls: bool,
    /// Paths of the snapshot that get another beginning, if only a part of a tree is restored to a place of its own.
    pub(super) moved: Option<Moved>,
    /// The entry of `/`, for the target itself.
    top: Option<Entry>,
    /// Directories whose bits would lock us out, in the order in which they were left.
    late_modes: Vec<Entry>,
    pub(super) report: Report,
    /// How what the target holds is treated; none in a target that was new or empty.
    pub(super) existing: Option<Existing>,
    /// For the target itself.
    pub(super) top_seen: Seen,
    /// What was removed and not told yet.
    pub(super) deleted: Vec<Vec<u8>>,
    pub(super) temporary_names: u64,
}

#[derive(Debug)]
pub(super) struct OpenDirectory {
    name: Vec<u8>,
    /// None when only a child of it is restored.
    entry: Option<Entry>,
    /// In a target that holds something.
    pub(super) seen: Seen,
}

/// Where an entry belongs.
enum Place {
    /// Under this name in the current directory.
    In(Vec<u8>),
    /// It is the target itself.
    Top,
    /// Nowhere: its directory was left out.
    LeftOut,
}

impl Restorer {
    /// Opens the target, creating it and its parents if it does not exist.
    ///
    /// # Errors
    /// [`TargetError::TargetNotEmpty`] when it holds anything, before anything is touched; [`TargetError::Io`].
    pub fn new(target: &Path, options: Options) -> Result<Self, TargetError> {
        Self::open(target, options, false)
    }

    pub(super) fn open(target: &Path, options: Options, may_hold_something: bool) -> Result<Self, TargetError> {
        use std::os::unix::ffi::OsStrExt;
        let bytes = target.as_os_str().as_bytes();
        let fault = |operation, error| TargetError::from_io(operation, bytes, error);
        std::fs::create_dir_all(target).map_err(|error| fault("create", error))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, target, flags, Mode::empty()).map_err(|e| fault("open", e.into()))?;
        let mut entries = rustix::fs::Dir::read_from(&root).map_err(|e| fault("read", e.into()))?;
        let used = entries.find_map(|entry| match entry {
            Ok(entry) if entry.file_name() == c"." || entry.file_name() == c".." => None,
            other => Some(other.map(drop)),
        });
        match used {
            None => {}
            Some(Ok(())) if may_hold_something => {}
            Some(Ok(())) => return Err(TargetError::TargetNotEmpty { path: target.to_owned() }),
            Some(Err(error)) => return Err(fault("read", error.into())),
        }
        let default_acl = rustix::fs::fgetxattr_query(&root, "system.posix_acl_default");
        let current = open_directory(root.as_fd(), &[]).map_err(|e| fault("open", e.into()))?;
        Ok(Self {
            root,
            options,
            setter: Setter::new(options),
            open: Vec::new(),
            current: Arc::new(current),
            last_path: None,
            left_out: None,
            shares: false,
            moved: None,
            hands_down_acls: default_acl.is_ok_and(|bytes| bytes > 0),
            top: None,
            late_modes: Vec::new(),
            report: Report::default(),
            existing: None,
            top_seen: Seen::default(),
            deleted: Vec::new(),
            temporary_names: 0,
        })
    }

    /// Restores what is at or below `from` of the snapshot as `to` (`/` for the target itself), and refuses everything
    /// else. To be called before the first entry; both begin with a slash.
    pub fn move_path(&mut self, from: &[u8], to: &[u8]) {
        self.moved = Some(Moved::new(from, to));
    }

    /// Where a path of the snapshot belongs in the target.
    fn place_of(&self, path: &[u8]) -> Option<Vec<u8>> {
        match &self.moved {
            None => Some(path.to_vec()),
            Some(moved) => moved.place(path),
        }
    }

    /// Begins another tree (the next source) in the same target. It may share directories with those before.
    ///
    /// # Errors
    /// As [`Restorer::make`].
    pub fn next_tree(&mut self) -> Result<(), TargetError> {
        self.leave_to(0)?;
        self.last_path = None;
        self.left_out = None;
        self.shares = true;
        Ok(())
    }

    /// Makes everything that has no contents. Sockets are left out, and devices unless they are asked for.
    ///
    /// # Errors
    /// [`TargetError`]; a name that is taken, or an attribute that cannot be set, is a finding and no error.
    pub fn make(&mut self, entry: &Entry) -> Result<(), TargetError> {
        let name = match self.approach(entry)? {
            Place::In(name) => name,
            Place::LeftOut => return Ok(()),
            Place::Top => {
                self.begin_top(entry);
                return Ok(());
            }
        };
        let name = name.as_slice();
        let directory = Arc::clone(&self.current);
        let at = directory.as_fd();
        match &entry.kind {
            EntryKind::Directory => return self.make_directory(name, entry),
            EntryKind::File(_) => {
                let reason = "it is a file and its contents were not given";
                return Err(TargetError::UnsafePath { path: shown(&entry.path), reason });
            }
            EntryKind::HardLink(first) => return self.make_hard_link(name, entry, first),
            EntryKind::Socket => {
                let message = "A socket is not restored: the program that listens on it makes it again";
                self.note("file.socket_skipped", entry, message.to_owned(), false);
                return Ok(());
            }
            EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. } if !self.options.devices => {
                let message = "A device is restored by root only and was left out";
                self.note("file.device_skipped", entry, message.to_owned(), false);
                return Ok(());
            }
            _ => {}
        }
        let make = |name: &[u8]| make_special(at, name, &entry.kind);
        let result = if self.existing.is_some() {
            if !self.wants_special(name, entry)? || !self.make_way(name, entry)? {
                return Ok(());
            }
            self.make_and_rename(name, make)
        } else {
            make(name)
        };
        if self.created(entry, result)? {
            self.setter.set_at(at, name, entry, &mut self.report.warnings);
            self.report.others += 1;
        }
        Ok(())
    }

    /// Creates a regular file. None: its name is taken, which is a finding; the contents are to be skipped.
    ///
    /// The sink may be finished after other entries were begun, and in another thread. When it fails the restore must
    /// end: a hard link to the file may have been made meanwhile.
    ///
    /// # Errors
    /// [`TargetError`].
    pub fn begin_file(&mut self, entry: &Entry) -> Result<Option<FileSink>, TargetError> {
        let EntryKind::File(_) = entry.kind else {
            return Err(TargetError::UnsafePath { path: shown(&entry.path), reason: "it is not a regular file" });
        };
        // `/` as a file has been refused.
        let Some(name) = self.name_of(entry)? else { return Ok(None) };
        if self.existing.is_some() {
            return self.begin_replacing(name, entry);
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        let file = match rustix::fs::openat(self.current.as_fd(), name.as_slice(), flags, mode) {
            Ok(file) => file,
            Err(error) => return self.created(entry, Err(error)).map(|_| None),
        };
        self.drop_handed_down_acls(file.as_fd());
        self.report.files += 1;
        Ok(Some(FileSink::new(file, Arc::clone(&self.current), name, entry.clone(), self.setter)))
    }

    /// Findings since the last call. To be asked for now and then: they wait in memory.
    pub fn take_warnings(&mut self) -> Vec<SourceWarning> {
        std::mem::take(&mut self.report.warnings)
    }

    /// Sets the metadata of the directories that are still open, deepest first, and brings everything to the disk.
    /// All sinks must have been finished.
    ///
    /// # Errors
    /// [`TargetError`]: what was restored is then not known to be durable.
    pub fn finish(mut self) -> Result<Report, TargetError> {
        self.settle()?;
        rustix::fs::syncfs(&self.root).map_err(|error| TargetError::from_io("sync", b"the target", error.into()))?;
        Ok(self.report)
    }

    /// Sets what could not be set before everything was in its place.
    ///
    /// # Errors
    /// [`TargetError`].
    pub fn settle(&mut self) -> Result<(), TargetError> {
        self.leave_to(0)?;
        for entry in std::mem::take(&mut self.late_modes) {
            let place = self.place_of(&entry.path).unwrap_or_default();
            let directory = self.open_path(&place)?;
            self.setter.set_open(directory.as_fd(), &entry, entry.mode, &mut self.report.warnings);
        }
        let seen = std::mem::take(&mut self.top_seen);
        self.delete_extras(&seen)?;
        if let Some(top) = self.top.take() {
            self.setter.set_open(self.root.as_fd(), &top, top.mode, &mut self.report.warnings);
        }
        Ok(())
    }

    fn note(&mut self, code: &str, entry: &Entry, message: String, incomplete: bool) {
        self.report.warnings.push(finding(code, &entry.path, message, incomplete));
    }

    /// The entry of the target itself.
    fn begin_top(&mut self, entry: &Entry) {
        if let Some(existing) = &self.existing {
            let moved_here = self.moved.as_ref().is_some_and(Moved::is_to_top);
            self.top_seen.path.clone_from(&entry.path);
            self.top_seen.deletes = moved_here && existing.deletes_in(&entry.path);
            if existing.keeps_directory(self.root.as_fd(), entry) {
                return;
            }
        }
        self.top = Some(entry.clone());
    }

    /// Goes to the directory of an entry and returns its name there; none when it is left out or the target itself.
    pub(super) fn name_of(&mut self, entry: &Entry) -> Result<Option<Vec<u8>>, TargetError> {
        Ok(match self.approach(entry)? {
            Place::In(name) => Some(name),
            Place::Top | Place::LeftOut => None,
        })
    }

    /// Checks the path, goes to its directory and returns its name there.
    fn approach(&mut self, entry: &Entry) -> Result<Place, TargetError> {
        let wrong = |reason| TargetError::UnsafePath { path: shown(&entry.path), reason };
        if let Some(reason) = path_fault(&entry.path) {
            return Err(wrong(reason));
        }
        if self.last_path.as_ref().is_some_and(|last| path_order(last, &entry.path).is_ge()) {
            return Err(wrong("it does not come after the entry before it"));
        }
        self.last_path = Some(entry.path.clone());
        let Some(place) = self.place_of(&entry.path) else {
            return Err(wrong("it is not below the path that is restored"));
        };
        if place == b"/" {
            let reason = "it takes the place of the target and is not a directory";
            return if entry.kind == EntryKind::Directory { Ok(Place::Top) } else { Err(wrong(reason)) };
        }
        let left_out = self.left_out.as_ref().and_then(|above| entry.path.strip_prefix(above.as_slice()));
        if left_out.is_some_and(|rest| rest.first() == Some(&b'/')) {
            return Ok(Place::LeftOut);
        }
        let mut names: Vec<&[u8]> = place.split(|b| *b == b'/').skip(1).collect();
        let name = names.pop().unwrap_or_default().to_vec();
        let common = self.open.iter().zip(&names).take_while(|(open, name)| open.name == **name).count();
        self.leave_to(common)?;
        for missing in names.get(common..).unwrap_or_default() {
            self.saw(missing);
            self.enter_unlisted(missing, &entry.path)?;
        }
        self.saw(&name);
        Ok(Place::In(name))
    }

    /// Enters a directory that has no entry of its own, making it if need be: only part of a tree is restored.
    fn enter_unlisted(&mut self, name: &[u8], path: &[u8]) -> Result<(), TargetError> {
        let mode = Mode::from_raw_mode(0o755);
        match rustix::fs::mkdirat(self.current.as_fd(), name, mode) {
            Ok(()) => self.enter(name, None, path, Some(mode)),
            Err(Errno::EXIST) => self.enter(name, None, path, None),
            Err(error) => Err(TargetError::from_io("create the directory of", path, error.into())),
        }
    }

    /// Enters a directory; `made` is the mode it was made with, if it was made now.
    fn enter(&mut self, name: &[u8], entry: Option<Entry>, path: &[u8], made: Option<Mode>) -> Result<(), TargetError> {
        let directory = open_directory(self.current.as_fd(), &[name]).map_err(|error| match error {
            Errno::LOOP | Errno::NOTDIR => {
                let reason = "it leads through something that is not a directory";
                TargetError::UnsafePath { path: shown(path), reason }
            }
            error => TargetError::from_io("open the directory of", path, error.into()),
        })?;
        if let Some(mode) = made.filter(|_| self.hands_down_acls && self.open.is_empty()) {
            self.drop_handed_down_acls(directory.as_fd());
            // The ACL may have taken rights from its owner that are needed to go on.
            let result = rustix::fs::fchmod(&directory, mode);
            result.map_err(|error| TargetError::from_io("open the directory of", path, error.into()))?;
        }
        if (self.shares || (self.existing.is_some() && made.is_none())) && entry.is_some() {
            // It may have one of its own, from the tree before for one; it gets it again when it is left.
            let _ = rustix::fs::fremovexattr(&directory, "system.posix_acl_default");
        }
        self.current = Arc::new(directory);
        self.open.push(OpenDirectory { name: name.to_vec(), entry, seen: Seen::default() });
        Ok(())
    }

    /// A target with a default ACL gives it to what is created right below it, and would so to everything else.
    pub(super) fn drop_handed_down_acls(&self, file: rustix::fd::BorrowedFd<'_>) {
        if (self.hands_down_acls && self.open.is_empty()) || self.existing.is_some() {
            for name in ["system.posix_acl_default", "system.posix_acl_access"] {
                // A file without the one or the other is as it should be.
                let _ = rustix::fs::fremovexattr(file, name);
            }
        }
    }

    /// Leaves directories until `depth` are open, setting the metadata of each.
    fn leave_to(&mut self, depth: usize) -> Result<(), TargetError> {
        if self.open.len() <= depth {
            return Ok(());
        }
        let mut path: Vec<u8> =
            self.open.iter().flat_map(|open| [b"/".as_slice(), &open.name]).flatten().copied().collect();
        while self.open.len() > depth {
            let Some(left) = self.open.pop() else { break };
            self.delete_extras(&left.seen)?;
            if let Some(entry) = left.entry {
                if self.existing.is_some() {
                    self.setter.drop_other_xattrs(self.current.as_fd(), &entry);
                }
                // Root passes everywhere; anyone else must be able to come back for hard links and shared directories.
                let shuts_out = entry.mode & 0o700 != 0o700 && !rustix::process::geteuid().is_root();
                let mode = if shuts_out { entry.mode | 0o700 } else { entry.mode };
                self.setter.set_open(self.current.as_fd(), &entry, mode, &mut self.report.warnings);
                if shuts_out {
                    self.late_modes.push(entry);
                }
            }
            path.truncate(path.len() - left.name.len() - 1);
            self.current = Arc::new(self.open_path(&path)?);
        }
        Ok(())
    }

    /// Opens a directory by its path in the target.
    fn open_path(&self, path: &[u8]) -> Result<OwnedFd, TargetError> {
        let names: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|name| !name.is_empty()).collect();
        let opened = open_directory(self.root.as_fd(), &names);
        opened.map_err(|error| TargetError::from_io("open", path, error.into()))
    }

    fn make_directory(&mut self, name: &[u8], entry: &Entry) -> Result<(), TargetError> {
        let mode = Mode::from_raw_mode(0o700);
        match self.directory_there(name, entry)? {
            There::Free => {}
            There::LeftOut => {
                self.left_out = Some(entry.path.clone());
                return Ok(());
            }
            there => {
                let sets = (there == There::Taken).then(|| entry.clone());
                self.report.directories += 1;
                self.enter(name, sets, &entry.path, None)?;
                self.begin_seen(entry);
                return Ok(());
            }
        }
        let made = match rustix::fs::mkdirat(self.current.as_fd(), name, mode) {
            Err(Errno::EXIST) if self.shares && self.is_listed(name)? => None,
            result => {
                if !self.created(entry, result)? {
                    // What lies below would mix with another entry's contents.
                    self.left_out = Some(entry.path.clone());
                    return Ok(());
                }
                self.report.directories += 1;
                Some(mode)
            }
        };
        if self.existing.is_some()
            && let Ok(Some(stat)) = look(self.current.as_fd(), name)
        {
            self.placed(stat.st_ino);
        }
        self.enter(name, Some(entry.clone()), &entry.path, made)?;
        self.begin_seen(entry);
        Ok(())
    }

    /// What is remembered of a directory that was entered.
    fn begin_seen(&mut self, entry: &Entry) {
        if let (Some(existing), Some(open)) = (&self.existing, self.open.last_mut()) {
            open.seen.deletes = existing.deletes_in(&entry.path);
            open.seen.path.clone_from(&entry.path);
        }
    }

    /// True when the current directory holds exactly this name, and not one that the file system takes for the same.
    fn is_listed(&self, name: &[u8]) -> Result<bool, TargetError> {
        let fault = |error: Errno| TargetError::from_io("read the directory of", name, error.into());
        for entry in rustix::fs::Dir::read_from(self.current.as_fd()).map_err(fault)? {
            if entry.map_err(fault)?.file_name().to_bytes() == name {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn make_hard_link(&mut self, name: &[u8], entry: &Entry, first: &[u8]) -> Result<(), TargetError> {
        let unsafe_path = |reason| TargetError::UnsafePath { path: shown(first), reason };
        if let Some(reason) = path_fault(first) {
            return Err(unsafe_path(reason));
        }
        let Some(place) = self.place_of(first) else {
            return self.no_first_name(entry, first, Errno::NOENT);
        };
        let names: Vec<&[u8]> = place.split(|b| *b == b'/').skip(1).collect();
        let Some((first_name, parents)) = names.split_last().filter(|(name, _)| !name.is_empty()) else {
            return Err(unsafe_path("a hard link cannot lead to the target itself"));
        };
        let parent = match open_directory(self.root.as_fd(), parents) {
            Ok(parent) => parent,
            Err(error) => return self.no_first_name(entry, first, error),
        };
        // Without following: the first name of a symbolic link is the link itself.
        let current = Arc::clone(&self.current);
        let link = |name: &[u8]| rustix::fs::linkat(&parent, *first_name, &*current, name, AtFlags::empty());
        let result = if self.existing.is_some() {
            let first_stat = look(parent.as_fd(), first_name).ok().flatten();
            if self.hard_link_there(name, entry, first_stat.as_ref())? || !self.make_way(name, entry)? {
                return Ok(());
            }
            self.make_and_rename(name, link)
        } else {
            link(name)
        };
        match result {
            Err(Errno::NOENT | Errno::PERM | Errno::MLINK | Errno::XDEV) => {
                let error = result.err().unwrap_or(Errno::NOENT);
                self.no_first_name(entry, first, error)
            }
            result => {
                self.report.files += u64::from(self.created(entry, result)?);
                Ok(())
            }
        }
    }

    fn no_first_name(&mut self, entry: &Entry, first: &[u8], error: Errno) -> Result<(), TargetError> {
        let (first, error) = (String::from_utf8_lossy(first), std::io::Error::from(error));
        let message = format!("It is a further name of {first}, which cannot be linked to: {error}");
        self.note("file.link_missing", entry, message, true);
        Ok(())
    }

    /// True when something was made; a name that is taken is a finding.
    pub(super) fn created(&mut self, entry: &Entry, result: Result<(), Errno>) -> Result<bool, TargetError> {
        match result {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => {
                let what = if entry.kind == EntryKind::Directory { " with everything in it" } else { "" };
                let message = format!("It was left out{what}: this file system takes its name for another entry's");
                self.note("file.name_taken", entry, message, true);
                Ok(false)
            }
            Err(Errno::PERM) if matches!(entry.kind, EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. }) => {
                let message = "The device was left out: making it is not permitted here";
                self.note("file.device_skipped", entry, message.to_owned(), false);
                Ok(false)
            }
            Err(error) => Err(TargetError::from_io("create", &entry.path, error.into())),
        }
    }
}

/// Makes a link, pipe or device.
fn make_special(directory: BorrowedFd<'_>, name: &[u8], kind: &EntryKind) -> Result<(), Errno> {
    let private = Mode::from_raw_mode(0o600);
    let device =
        |kind, major, minor| rustix::fs::mknodat(directory, name, kind, private, rustix::fs::makedev(major, minor));
    match kind {
        EntryKind::Symlink(target) => rustix::fs::symlinkat(target.as_slice(), directory, name),
        EntryKind::Fifo => rustix::fs::mkfifoat(directory, name, private),
        EntryKind::CharDevice { major, minor } => device(FileType::CharacterDevice, *major, *minor),
        EntryKind::BlockDevice { major, minor } => device(FileType::BlockDevice, *major, *minor),
        // The others are made elsewhere.
        EntryKind::File(_) | EntryKind::Directory | EntryKind::HardLink(_) | EntryKind::Socket => Err(Errno::INVAL),
    }
}
