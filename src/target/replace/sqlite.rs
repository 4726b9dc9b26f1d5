//! An SQLite database takes the place of another.
//!
//! A database is its file and what SQLite keeps beside it: `-wal`, `-shm`, `-journal`, found by the file's name alone. A log
//! that came to lie beside another database's file would destroy that database. So each log moves with its file, and
//! the names tell at every moment whose the logs beside the place are:
//!
//! | place | new | moving | old | logs beside the place belong to |
//! |---|---|---|---|---|
//! | there | there | | | the old one (`Staged`) |
//! | | there | | there | the old one (`Halfway`) |
//! | | | there | there | the new one (`Halfway`) |
//! | there | | | there | the new one (`Swapped`) |
//!
//! Between the first and the last line the place is empty, never half. Where nothing was in the place, a mark stands
//! for the old one.

use super::beside::{Beside, Role};
use super::emptied::Emptied;
use super::{Error, Names, Replace, State, require_new_beside, require_old_beside};
use crate::domain::id::Digest;
use crate::domain::snapshot::TableRows;
use crate::source::sqlite::{ImageError, check_image};
use crate::target::database::{RestoreReport, compare};
use rustix::fs::{FlockOperation, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What SQLite keeps beside a database, in the order in which it moves.
const LOGS: [&str; 3] = ["-wal", "-journal", "-shm"];
/// More steps than any sequence has.
const STEPS_MAX: u32 = 16;
/// Processes that are named as users of a database.
const USERS_MAX: usize = 8;

/// A database beside the one that it is to replace.
#[derive(Debug)]
pub struct SqliteReplacement {
    beside: Beside,
}

/// The new database while it is written.
#[derive(Debug)]
pub struct SqliteStaging<'a> {
    replacement: &'a SqliteReplacement,
    file: File,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Untouched,
    Staged,
    /// The place is empty, and logs beside it belong to the old one.
    LogsOfOld,
    /// The place is empty, and logs beside it belong to the new one.
    LogsOfNew,
    Swapped,
}

#[cfg(test)]
impl SqliteReplacement {
    pub(super) fn beside_mut(&mut self) -> &mut Beside {
        &mut self.beside
    }
}

impl SqliteReplacement {
    /// The replacement of the database that is, or will be, at `place` by the act with this id (hexadecimal). A link is
    /// followed, as SQLite does. The directory above must exist.
    ///
    /// # Errors
    /// [`Error::Io`] when that directory cannot be opened, [`Error::Unsuitable`].
    pub fn new(place: &Path, act: &str) -> Result<Self, Error> {
        let real = match place.canonicalize() {
            Ok(real) => real,
            // Nothing is there yet.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => place.to_owned(),
            Err(error) => return Err(Error::from_io("look at", place, error)),
        };
        let replacement = Self { beside: Beside::open(&real, act)? };
        match replacement.beside.find(Role::Place, "")? {
            Some(found) if found.kind != rustix::fs::FileType::RegularFile => {
                let reason = "it is not a regular file, so it is not an SQLite database";
                Err(Error::Unsuitable { path: real, reason })
            }
            _ => Ok(replacement),
        }
    }

    /// Begins the new one, which gets owner and permissions of the old one. What this act made before and did not swap
    /// is removed.
    ///
    /// # Errors
    /// [`Error::InUse`] after a swap, [`Error`].
    pub fn begin(&self) -> Result<SqliteStaging<'_>, Error> {
        self.discard_new()?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = self.beside.name(Role::Part, "");
        let file = rustix::fs::openat(self.beside.handle(), name, flags, Mode::from_raw_mode(0o600));
        let file = file.map_err(|error| self.beside.fault("create", Role::Part, "", error))?;
        Ok(SqliteStaging { replacement: self, file: file.into() })
    }

    /// Bytes that are free for this user where the new one will stand.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn free_bytes(&self) -> Result<u64, Error> {
        let free = rustix::fs::fstatvfs(self.beside.handle());
        let free = free.map_err(|error| self.beside.fault("look at the space of", Role::Place, "", error))?;
        Ok(free.f_bavail.saturating_mul(free.f_frsize))
    }

    /// Where the new one stands once it is staged, to look at it with other eyes. Who opens it must leave nothing beside it.
    pub fn staged_path(&self) -> PathBuf {
        self.beside.path(Role::New, "")
    }

    /// Fails when another process has the database in the place open.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::Io`].
    pub fn check_unused(&self) -> Result<(), Error> {
        self.lock().map(drop)
    }

    /// Locks the database in the place against every writer and reader, for as long as the handle lives.
    fn lock(&self) -> Result<Option<File>, Error> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let name = self.beside.name(Role::Place, "");
        let file = match rustix::fs::openat(self.beside.handle(), name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(self.beside.fault("open", Role::Place, "", error)),
        };
        let fault = |error| self.beside.fault("look at", Role::Place, "", error);
        let stat = rustix::fs::fstat(&file).map_err(fault)?;
        let users = users(stat.st_dev, stat.st_ino);
        // SQLite locks bytes of the file; this locks all of them. Who has it open without a transaction is found above,
        // as far as we may look.
        let locked = rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive);
        match locked {
            Ok(()) if users.is_empty() => Ok(Some(file)),
            Ok(()) | Err(Errno::AGAIN | Errno::ACCESS) => Err(Error::Busy { place: self.names().place, by: users }),
            Err(error) => Err(self.beside.fault("lock", Role::Place, "", error)),
        }
    }

    fn shape(&self) -> Result<Shape, Error> {
        let there = |role| self.beside.find(role, "").map(|found| found.is_some());
        let (place, new, moving) = (there(Role::Place)?, there(Role::New)?, there(Role::Moving)?);
        let (old, nothing) = (there(Role::Old)?, there(Role::Nothing)?);
        Ok(match (place, new, moving, old ^ nothing) {
            (_, false, false, false) if !old => Shape::Untouched,
            (_, true, false, false) if !old => Shape::Staged,
            (false, true, false, true) => Shape::LogsOfOld,
            (false, false, true, true) => Shape::LogsOfNew,
            (true, false, false, true) => Shape::Swapped,
            _ => {
                let roles = [(Role::Place, place), (Role::New, new), (Role::Moving, moving)];
                let others = [(Role::Old, old), (Role::Nothing, nothing)];
                return Err(self.beside.unexpected(&[&roles[..], &others].concat()));
            }
        })
    }

    fn move_logs(&self, from: Role, to: Role) -> Result<(), Error> {
        for log in LOGS {
            self.beside.rename_if_there((from, log), (to, log))?;
        }
        self.beside.sync()
    }

    fn had_nothing(&self) -> Result<bool, Error> {
        Ok(self.beside.find(Role::Nothing, "")?.is_some())
    }

    /// One step towards the swap. True: there is nothing more to do.
    fn step_forward(&self) -> Result<bool, Error> {
        match self.shape()? {
            Shape::Untouched => return Err(Error::NothingStaged { place: self.names().place }),
            Shape::Staged => match self.lock()? {
                None => self.beside.mark(Role::Nothing, "nothing-was-here")?,
                // The lock holds until the file has left its place.
                Some(_locked) => self.beside.rename((Role::Place, ""), (Role::Old, ""))?,
            },
            Shape::LogsOfOld => {
                self.move_logs(Role::Place, Role::Old)?;
                self.beside.rename((Role::New, ""), (Role::Moving, ""))?;
            }
            Shape::LogsOfNew => {
                self.move_logs(Role::New, Role::Place)?;
                self.beside.rename((Role::Moving, ""), (Role::Place, ""))?;
            }
            Shape::Swapped => return Ok(true),
        }
        Ok(false)
    }

    /// One step back. True: there is nothing more to do.
    fn step_back(&self) -> Result<bool, Error> {
        match self.shape()? {
            Shape::Untouched | Shape::Staged => return Ok(true),
            Shape::LogsOfOld => {
                self.move_logs(Role::Old, Role::Place)?;
                match self.had_nothing()? {
                    true => self.beside.unmark(Role::Nothing)?,
                    false => self.beside.rename((Role::Old, ""), (Role::Place, ""))?,
                }
            }
            Shape::LogsOfNew => {
                self.move_logs(Role::Place, Role::New)?;
                self.beside.rename((Role::Moving, ""), (Role::New, ""))?;
            }
            Shape::Swapped => {
                let _locked = self.lock()?;
                self.beside.rename((Role::Place, ""), (Role::Moving, ""))?;
            }
        }
        Ok(false)
    }

    fn walk(&self, step: impl Fn() -> Result<bool, Error>) -> Result<(), Error> {
        for _ in 0..STEPS_MAX {
            let done = step()?;
            self.beside.sync()?;
            if done {
                return Ok(());
            }
        }
        Err(Error::Unexpected { place: self.names().place, found: "names keep changing".to_owned() })
    }

    /// Removes a database with its logs, the database first: logs alone are nothing.
    fn remove(&self, role: Role) -> Result<(), Error> {
        self.beside.remove_file(role, "")?;
        self.beside.sync()?;
        for log in LOGS {
            self.beside.remove_file(role, log)?;
        }
        self.beside.sync()
    }
}

impl Replace for SqliteReplacement {
    fn state(&self) -> Result<State, Error> {
        Ok(match self.shape()? {
            Shape::Untouched => State::Untouched,
            Shape::Staged => State::Staged,
            Shape::LogsOfOld | Shape::LogsOfNew => State::Halfway,
            Shape::Swapped => State::Swapped,
        })
    }

    fn swap(&self) -> Result<(), Error> {
        self.walk(|| self.step_forward())
    }

    fn unswap(&self) -> Result<(), Error> {
        self.walk(|| self.step_back())
    }

    fn discard_new(&self) -> Result<(), Error> {
        require_new_beside(self)?;
        self.remove(Role::New)?;
        self.remove(Role::Part)
    }

    fn discard_old(&self) -> Result<(), Error> {
        require_old_beside(self)?;
        self.beside.unmark(Role::Nothing)?;
        self.remove(Role::Old)
    }

    fn names(&self) -> Names {
        self.beside.names()
    }
}

impl Emptied for SqliteReplacement {
    fn begin_emptying(&self) -> Result<(), Error> {
        match self.shape()? {
            Shape::Swapped => Ok(()),
            Shape::Untouched => {
                self.beside.mark(Role::Nothing, "nothing-was-here")?;
                self.beside.sync()
            }
            _ => Err(self.beside.unexpected(&[(Role::New, true)])),
        }
    }

    fn end_emptying(&self) -> Result<(), Error> {
        self.beside.unmark(Role::Nothing)?;
        self.beside.sync()
    }
}

impl SqliteStaging<'_> {
    /// Takes the next bytes of the image.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Io`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let path = || self.replacement.beside.path(Role::Part, "");
        self.file.write_all(bytes).map_err(|error| Error::from_io("write", path(), error))
    }

    /// Brings the image to the disk, reads it back, compares it with its hash, checks it, compares its rows with the
    /// recorded ones, and gives it its name.
    ///
    /// # Errors
    /// [`Error::Content`] when it is not the image that was saved, or no good database; [`Error`].
    pub fn finish(mut self, expected: &Digest, recorded: &[TableRows]) -> Result<RestoreReport, Error> {
        let beside = &self.replacement.beside;
        let path = beside.path(Role::Part, "");
        let wrong = |reason: String| Error::Content { target: path.display().to_string(), reason };
        let fault = |operation, error| Error::from_io(operation, &path, error);
        self.file.sync_all().map_err(|error| fault("sync", error))?;
        let hash = hash_of(&mut self.file).map_err(|error| fault("read back", error))?;
        if hash != *expected {
            return Err(wrong("is not the image that was saved: its hash differs".to_owned()));
        }
        let check = check_image(&path).map_err(|error| match error {
            ImageError::Sqlite(inner) => wrong(format!("would not be a readable database: {inner}")),
            ImageError::Damaged(text) => wrong(format!("would be damaged: {text}")),
        })?;
        let notes = self.take_attributes()?;
        self.file.sync_all().map_err(|error| fault("sync", error))?;
        beside.rename((Role::Part, ""), (Role::New, ""))?;
        beside.sync()?;
        let mut report = compare(recorded, &check.tables);
        report.notes = notes.into_iter().chain(check.warnings.into_iter().map(|warning| warning.message)).collect();
        Ok(report)
    }

    /// Owner, permissions and extended attributes of the old one. Returns what could not be set.
    fn take_attributes(&self) -> Result<Vec<String>, Error> {
        let beside = &self.replacement.beside;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let old = match rustix::fs::openat(beside.handle(), beside.name(Role::Place, ""), flags, Mode::empty()) {
            Ok(old) => File::from(old),
            Err(Errno::NOENT) => return self.take_attributes_of_folder(),
            Err(error) => return Err(beside.fault("open", Role::Place, "", error)),
        };
        let metadata =
            old.metadata().map_err(|error| Error::from_io("look at", beside.path(Role::Place, ""), error))?;
        let mut notes = Vec::new();
        let mut note = |what: &str, result: Result<(), Errno>| {
            if let Err(error) = result {
                let error = std::io::Error::from(error);
                notes.push(format!("The {what} of the old database cannot be given to the new one: {error}"));
            }
        };
        let (uid, gid) = (Uid::from_raw(metadata.uid()), Gid::from_raw(metadata.gid()));
        note("owner", rustix::fs::fchown(&self.file, Some(uid), Some(gid)));
        for (name, value) in attributes(&old) {
            note(
                "extended attributes",
                rustix::fs::fsetxattr(&self.file, name.as_slice(), &value, XattrFlags::empty()),
            );
        }
        note("permissions", rustix::fs::fchmod(&self.file, Mode::from_raw_mode(metadata.mode() & 0o777)));
        Ok(notes)
    }
}

impl SqliteStaging<'_> {
    /// Where nothing was, the directory tells who is to use the database: its owner, and whoever may read, or write, in
    /// it.
    fn take_attributes_of_folder(&self) -> Result<Vec<String>, Error> {
        let beside = &self.replacement.beside;
        let folder = rustix::fs::fstat(beside.handle());
        let folder = folder.map_err(|error| beside.fault("look at the folder of", Role::Place, "", error))?;
        let mut notes = Vec::new();
        let owner =
            rustix::fs::fchown(&self.file, Some(Uid::from_raw(folder.st_uid)), Some(Gid::from_raw(folder.st_gid)));
        if let Err(error) = owner {
            let error = std::io::Error::from(error);
            notes.push(format!("The owner of the folder cannot be given to the new database: {error}"));
        }
        // Never for everybody to write.
        let mode = Mode::from_raw_mode((folder.st_mode & 0o664) | 0o600);
        rustix::fs::fchmod(&self.file, mode)
            .map_err(|error| beside.fault("set the permissions of", Role::Part, "", error))?;
        Ok(notes)
    }
}

/// Extended attributes of an open file; none where there are none to be had.
pub(super) fn attributes(file: &File) -> Vec<(Vec<u8>, Vec<u8>)> {
    use std::os::unix::ffi::OsStringExt;
    use xattr::FileExt;
    let Ok(names) = file.list_xattr() else { return Vec::new() };
    let pair = |name: std::ffi::OsString| {
        let value = file.get_xattr(&name).ok().flatten()?;
        Some((name.into_vec(), value))
    };
    names.filter_map(pair).collect()
}

fn hash_of(file: &mut File) -> std::io::Result<Digest> {
    use std::io::Seek;
    file.rewind()?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0u8; 256 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Digest(*hasher.finalize().as_bytes())),
            n => hasher.update(buffer.get(..n).unwrap_or_default()),
        };
    }
}

/// Other processes that have a file open, as far as this user may see: `process 123 (app)`.
fn users(device: u64, inode: u64) -> Vec<String> {
    let own = std::process::id();
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let mut found = Vec::new();
    for process in processes.filter_map(Result::ok) {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(files) = std::fs::read_dir(process.path().join("fd")) else { continue };
        let uses = |file: std::io::Result<std::fs::DirEntry>| {
            let metadata = file.ok().and_then(|file| std::fs::metadata(file.path()).ok());
            metadata.is_some_and(|m| (m.dev(), m.ino()) == (device, inode))
        };
        if pid == own || !files.into_iter().any(uses) {
            continue;
        }
        let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        found.push(format!("process {pid} ({}) has it open", name.trim_end()));
        if found.len() == USERS_MAX {
            break;
        }
    }
    found
}
