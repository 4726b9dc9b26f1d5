//! The part of [`Restorer`] that works in a target which holds something.

use super::existing::{Existing, Looker, Verdict, extras, is_one_name, look, name_mark, open_regular};
use super::restorer::{Options, Restorer};
use super::sink::FileSink;
use super::{TargetError, finding};
use crate::domain::entry::Entry;
use crate::target::replace::removal;
use rustix::fd::AsFd;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

/// Temporary names that are tried before a directory is given up.
const NAMES_MAX: u32 = 1000;

/// What is remembered of a directory that is open in such a target.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Path in the snapshot.
    pub(super) path: Vec<u8>,
    /// Names that the snapshot has, marked by [`name_mark`].
    pub(super) names: HashSet<u64>,
    /// Inodes that this run made or kept.
    pub(super) placed: HashSet<u64>,
    /// Other names go when the directory is left.
    pub(super) deletes: bool,
}

/// What is there under a directory's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum There {
    /// Nothing any more: it is to be made.
    Free,
    /// A directory that becomes the snapshot's.
    Taken,
    /// A directory that keeps its metadata.
    Kept,
    /// Something that stays, so that the directory is left out.
    LeftOut,
}

impl Restorer {
    /// As [`Restorer::new`], for a target that may hold something.
    ///
    /// # Errors
    /// [`TargetError::Io`].
    pub fn into_existing(target: &Path, options: Options, existing: Existing) -> Result<Self, TargetError> {
        let mut restorer = Self::open(target, options, true)?;
        restorer.existing = Some(existing);
        Ok(restorer)
    }

    /// Eyes of its own for who reads the repository; none in a target that was empty.
    ///
    /// # Errors
    /// [`TargetError::Io`].
    pub fn looker(&self) -> Result<Option<Looker>, TargetError> {
        let Some(existing) = &self.existing else { return Ok(None) };
        let root = rustix::io::fcntl_dupfd_cloexec(&self.root, 0);
        let root = root.map_err(|error| TargetError::from_io("open", b"/", error.into()))?;
        Ok(Some(Looker::new(root, existing.clone(), self.moved.clone())))
    }

    /// Removes nothing from the directories that are still open: the rest of what the snapshot has in them is not known.
    pub fn delete_no_more(&mut self) {
        self.top_seen.deletes = false;
        self.open.iter_mut().for_each(|open| open.seen.deletes = false);
    }

    /// Paths that were removed since the last call, as the snapshot would call them.
    pub fn take_deleted(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.deleted)
    }

    /// A file that is there already with the right contents (`repair`: it gets its metadata), or that stays whatever it is.
    ///
    /// # Errors
    /// [`TargetError`]; metadata that cannot be set are a finding.
    pub fn keep_file(&mut self, entry: &Entry, repair: bool) -> Result<(), TargetError> {
        let Some(name) = self.name_of(entry)? else { return Ok(()) };
        self.report.kept += u64::from(!repair);
        self.report.unchanged += u64::from(repair);
        let Ok(Some(stat)) = look(self.current.as_fd(), &name) else { return Ok(()) };
        if self.is_twin(&stat) {
            return self.created(entry, Err(Errno::EXIST)).map(drop);
        }
        self.placed(stat.st_ino);
        if repair
            && let Ok(file) = open_regular(self.current.as_fd(), &name)
            && rustix::fs::fstat(&file).is_ok_and(|now| now.st_ino == stat.st_ino && now.st_nlink == 1)
        {
            self.setter.drop_other_xattrs(file.as_fd(), entry);
            self.setter.set_open(file.as_fd(), entry, entry.mode, &mut self.report.warnings);
        }
        Ok(())
    }

    /// Remembers what this run put into the current directory.
    pub(super) fn placed(&mut self, inode: u64) {
        let seen = self.open.last_mut().map_or(&mut self.top_seen, |open| &mut open.seen);
        seen.placed.insert(inode);
    }

    /// Remembers that the snapshot has a name in the current directory.
    pub(super) fn saw(&mut self, name: &[u8]) {
        if self.existing.is_some() {
            let seen = self.open.last_mut().map_or(&mut self.top_seen, |open| &mut open.seen);
            seen.names.insert(name_mark(name));
        }
    }

    /// True when what has a name was put there by this run: the file system takes two names of the snapshot for one.
    fn is_twin(&self, stat: &Stat) -> bool {
        let seen = self.open.last().map_or(&self.top_seen, |open| &open.seen);
        seen.placed.contains(&stat.st_ino) && is_one_name(stat)
    }

    /// Makes way for an entry that is no directory. True: it is to be made, and takes its name by a rename.
    pub(super) fn make_way(&mut self, name: &[u8], entry: &Entry) -> Result<bool, TargetError> {
        let fault = |error: Errno| TargetError::from_io("look at", &entry.path, error.into());
        let Some(stat) = look(self.current.as_fd(), name).map_err(fault)? else { return Ok(true) };
        if self.is_twin(&stat) {
            return self.created(entry, Err(Errno::EXIST));
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Ok(true);
        }
        match rustix::fs::unlinkat(self.current.as_fd(), name, AtFlags::REMOVEDIR) {
            Ok(()) => return Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY) => {}
            Err(error) => return Err(TargetError::from_io("remove", &entry.path, error.into())),
        }
        let may_go = |existing: &Existing| existing.deletes_in(&entry.path) && !existing.protects(&entry.path);
        if !self.existing.as_ref().is_some_and(may_go) {
            let message = "It was left out: a directory that is not empty has its name, and --delete was not given";
            self.report.warnings.push(finding("file.in_the_way", &entry.path, message.to_owned(), true));
            return Ok(false);
        }
        let removed = removal::remove(self.current.as_fd(), name);
        removed.map_err(|error| TargetError::from_io("remove", &entry.path, error.into()))?;
        self.deleted.push(entry.path.clone());
        Ok(true)
    }

    /// Makes something under a name of its own and gives it its name, replacing what has it.
    pub(super) fn make_and_rename(
        &mut self,
        name: &[u8],
        make: impl Fn(&[u8]) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let (temporary, ()) = self.under_new_name(make)?;
        let directory = Arc::clone(&self.current);
        if let Err(error) = rustix::fs::renameat(directory.as_fd(), temporary.as_slice(), directory.as_fd(), name) {
            // Nobody asked for this name; the error of the rename counts.
            let _ = rustix::fs::unlinkat(directory.as_fd(), temporary.as_slice(), AtFlags::empty());
            return Err(error);
        }
        if let Ok(Some(stat)) = look(directory.as_fd(), name) {
            self.placed(stat.st_ino);
        }
        Ok(())
    }

    /// Tries temporary names until one is free.
    fn under_new_name<T>(&mut self, make: impl Fn(&[u8]) -> Result<T, Errno>) -> Result<(Vec<u8>, T), Errno> {
        for _ in 0..NAMES_MAX {
            self.temporary_names += 1;
            let process = rustix::process::getpid().as_raw_nonzero();
            let name = format!(".holdfast-restore-{process}-{}", self.temporary_names).into_bytes();
            match make(&name) {
                Err(Errno::EXIST) => {}
                made => return made.map(|made| (name, made)),
            }
        }
        Err(Errno::EXIST)
    }

    /// Begins a file that takes its name when it is finished. None: it is left out, which is a finding.
    pub(super) fn begin_replacing(&mut self, name: Vec<u8>, entry: &Entry) -> Result<Option<FileSink>, TargetError> {
        if !self.make_way(&name, entry)? {
            return Ok(None);
        }
        let directory = Arc::clone(&self.current);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open =
            |temporary: &[u8]| rustix::fs::openat(directory.as_fd(), temporary, flags, Mode::from_raw_mode(0o600));
        let opened = self.under_new_name(open);
        let (temporary, file) = opened.map_err(|error| TargetError::from_io("create", &entry.path, error.into()))?;
        self.drop_handed_down_acls(file.as_fd());
        if let Ok(stat) = rustix::fs::fstat(&file) {
            self.placed(stat.st_ino);
        }
        self.report.files += 1;
        let sink = FileSink::new(file, Arc::clone(&self.current), temporary, entry.clone(), self.setter);
        Ok(Some(sink.renamed_to(name)))
    }

    /// Goes on with what is there under a directory's name.
    pub(super) fn directory_there(&mut self, name: &[u8], entry: &Entry) -> Result<There, TargetError> {
        let fault = |operation, error: Errno| TargetError::from_io(operation, &entry.path, error.into());
        let Some(existing) = &self.existing else { return Ok(There::Free) };
        let verdict = existing.judge(self.current.as_fd(), name, entry).map_err(|error| fault("look at", error))?;
        let Some(stat) = look(self.current.as_fd(), name).map_err(|error| fault("look at", error))? else {
            return Ok(There::Free);
        };
        if self.is_twin(&stat) && !self.shares {
            self.created(entry, Err(Errno::EXIST))?;
            return Ok(There::LeftOut);
        }
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_directory {
            self.placed(stat.st_ino);
            return Ok(if verdict == Verdict::Keep { There::Kept } else { There::Taken });
        }
        if verdict == Verdict::Keep {
            let message = "It was left out with everything in it: something that is no directory has its name";
            self.report.warnings.push(finding("file.in_the_way", &entry.path, message.to_owned(), true));
            return Ok(There::LeftOut);
        }
        let removed = rustix::fs::unlinkat(self.current.as_fd(), name, AtFlags::empty());
        removed.map_err(|error| fault("remove", error))?;
        Ok(There::Free)
    }

    /// Removes what the snapshot does not have from the current directory.
    pub(super) fn delete_extras(&mut self, seen: &Seen) -> Result<(), TargetError> {
        if !seen.deletes {
            return Ok(());
        }
        let fault = |error: Errno| TargetError::from_io("read", &seen.path, error.into());
        let directory = Arc::clone(&self.current);
        let above = if seen.path == b"/" { b"".as_slice() } else { &seen.path };
        for name in extras(directory.as_fd(), &seen.names, &seen.placed).map_err(fault)? {
            let path = [above, b"/", &name].concat();
            if self.existing.as_ref().is_some_and(|existing| existing.protects(&path)) {
                continue;
            }
            match removal::remove(directory.as_fd(), &name) {
                Ok(()) => self.deleted.push(path),
                Err(error) => {
                    let error = std::io::Error::from(error);
                    let message = format!("The snapshot does not have it and it cannot be removed: {error}");
                    self.report.warnings.push(finding("file.not_deleted", &path, message, true));
                }
            }
        }
        Ok(())
    }

    /// Decides about an entry without contents that is no directory. True: it is to be made.
    pub(super) fn wants_special(&mut self, name: &[u8], entry: &Entry) -> Result<bool, TargetError> {
        let Some(existing) = &self.existing else { return Ok(true) };
        let judged = existing.judge(self.current.as_fd(), name, entry);
        let verdict = judged.map_err(|error| TargetError::from_io("look at", &entry.path, error.into()))?;
        let stat = look(self.current.as_fd(), name).ok().flatten();
        match verdict {
            Verdict::New | Verdict::Replace => return Ok(true),
            // Another spelling of a name that was made before: found when way is made.
            _ if stat.is_some_and(|stat| self.is_twin(&stat)) => return Ok(true),
            Verdict::Same => {
                self.setter.set_at(self.current.as_fd(), name, entry, &mut self.report.warnings);
                self.report.unchanged += 1;
            }
            Verdict::Keep => self.report.kept += 1,
        }
        if let Some(stat) = stat {
            self.placed(stat.st_ino);
        }
        Ok(false)
    }

    /// A further name of a file whose first name is `first` in `parent`. None: it is to be linked.
    pub(super) fn hard_link_there(
        &mut self,
        name: &[u8],
        entry: &Entry,
        first: Option<&Stat>,
    ) -> Result<bool, TargetError> {
        let Some(existing) = &self.existing else { return Ok(false) };
        let Ok(Some(stat)) = look(self.current.as_fd(), name) else { return Ok(false) };
        if first.is_some_and(|first| (first.st_dev, first.st_ino) == (stat.st_dev, stat.st_ino)) {
            self.placed(stat.st_ino);
            self.report.unchanged += 1;
            return Ok(true);
        }
        let judged = existing.judge(self.current.as_fd(), name, entry);
        let verdict = judged.map_err(|error| TargetError::from_io("look at", &entry.path, error.into()))?;
        if verdict == Verdict::Keep {
            self.placed(stat.st_ino);
            self.report.kept += 1;
            return Ok(true);
        }
        Ok(false)
    }
}
