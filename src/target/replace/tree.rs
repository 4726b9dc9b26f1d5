//! A tree (a directory with everything in it, or one file) takes the place of another.
//!
//! The new one is made beside the place, on the same file system, in a directory that only its owner can enter. Where the system
//! can exchange two names, the place is never empty: the exchange is one step, and a mark made before it remembers which
//! of the two is the new one, by its inode. Elsewhere there are two renames, and the middle between them is recognised.

use super::beside::{Beside, Role};
use super::emptied::Emptied;
use super::removal::remove;
use super::{Error, Names, Replace, State, require_new_beside, require_old_beside};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use std::path::{Path, PathBuf};

/// More steps than any sequence has; what needs more is not what we made.
const STEPS_MAX: u32 = 16;

/// A tree beside the one that it is to replace.
#[derive(Debug)]
pub struct TreeReplacement {
    beside: Beside,
}

/// The state, with the middle of a swap taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Untouched,
    Staged,
    /// The place is empty, old and new stand beside it.
    Empty,
    /// The new one is in the place, the old one has the name of the new one.
    Exchanged,
    /// The old one is in the place, the new one has the name of the old one.
    ExchangedBack,
    Swapped,
}

#[cfg(test)]
impl TreeReplacement {
    pub(super) fn beside_mut(&mut self) -> &mut Beside {
        &mut self.beside
    }

    pub(super) fn beside_ref(&self) -> &Beside {
        &self.beside
    }
}

impl TreeReplacement {
    /// The replacement of what is, or will be, at `place` by the act with this id (hexadecimal). The directory above
    /// must exist.
    ///
    /// # Errors
    /// [`Error::Io`] when that directory cannot be opened, [`Error::Unsuitable`].
    pub fn new(place: &Path, act: &str) -> Result<Self, Error> {
        Ok(Self { beside: Beside::open(place, act)? })
    }

    /// Fails when the place cannot be moved as a whole, because it is a mount point or holds one.
    ///
    /// # Errors
    /// [`Error::MountPoint`].
    pub fn check_movable(&self) -> Result<(), Error> {
        match self.beside.mount_point() {
            Some(mount) => Err(Error::MountPoint { place: self.beside.path(Role::Place, ""), mount }),
            None => Ok(()),
        }
    }

    /// Fails when one of these folders is the place or lies in it: with the old tree it would go. For holdfast's own folders, which no
    /// snapshot has.
    ///
    /// # Errors
    /// [`Error::Unsuitable`].
    pub fn check_apart(&self, own_folders: &[PathBuf]) -> Result<(), Error> {
        let place = self.beside.path(Role::Place, "");
        let real = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
        match own_folders.iter().map(real).find(|folder| folder.starts_with(&place)) {
            Some(_) => {
                let reason = "holdfast's own repository, cache or state lies in it";
                Err(Error::Unsuitable { path: place, reason })
            }
            None => Ok(()),
        }
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

    /// Makes an empty directory and returns it: the new one is to be made in it, under the name of the place. What this
    /// act made before and did not swap is removed.
    ///
    /// # Errors
    /// [`Error::MountPoint`], [`Error::InUse`] after a swap, [`Error`].
    pub fn begin(&self) -> Result<PathBuf, Error> {
        self.check_movable()?;
        self.discard_new()?;
        let name = self.beside.name(Role::Part, "");
        let made = rustix::fs::mkdirat(self.beside.handle(), name, Mode::from_raw_mode(0o700));
        made.map_err(|error| self.beside.fault("create", Role::Part, "", error))?;
        self.beside.sync()?;
        Ok(self.beside.path(Role::Part, ""))
    }

    /// The new one is complete: it is brought to the disk and gets its name. To be called again if it was cut short.
    ///
    /// # Errors
    /// [`Error::NothingStaged`] when [`Self::begin`]'s directory does not hold it.
    pub fn ready(&self) -> Result<(), Error> {
        let staged = self.shape()? != Shape::Untouched;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fault = |operation, error| self.beside.fault(operation, Role::Part, "", error);
        match rustix::fs::openat(self.beside.handle(), self.beside.name(Role::Part, ""), flags, Mode::empty()) {
            Err(Errno::NOENT) if staged => return Ok(()),
            Err(Errno::NOENT) => return Err(self.nothing_staged()),
            Err(error) => return Err(fault("open", error)),
            Ok(part) if !staged => {
                rustix::fs::syncfs(&part).map_err(|error| fault("sync", error))?;
                match self.move_out(&part) {
                    Ok(()) => {}
                    Err(Errno::NOENT) => return Err(self.nothing_staged()),
                    Err(error) => return Err(fault("move the new one out of", error)),
                }
                self.beside.sync()?;
            }
            Ok(_) => {}
        }
        match rustix::fs::unlinkat(self.beside.handle(), self.beside.name(Role::Part, ""), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => self.beside.sync(),
            Err(error) => Err(fault("remove", error)),
        }
    }

    /// Gives the complete new one its name.
    fn move_out(&self, part: &OwnedFd) -> Result<(), Errno> {
        let (from, to) = (self.beside.name(Role::Place, ""), self.beside.name(Role::New, ""));
        let rename = || rustix::fs::renameat(part, from.as_slice(), self.beside.handle(), to.as_slice());
        match rename() {
            Err(Errno::ACCESS) => {}
            other => return other,
        }
        // To move a directory its owner must be allowed to write in it; for a moment it is.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(part, from.as_slice(), flags, Mode::empty())?;
        let mode = Mode::from_raw_mode(rustix::fs::fstat(&directory)?.st_mode & 0o7777);
        rustix::fs::fchmod(&directory, mode | Mode::RWXU)?;
        let renamed = rename();
        rustix::fs::fchmod(&directory, mode)?;
        renamed
    }

    fn nothing_staged(&self) -> Error {
        Error::NothingStaged { place: self.names().place }
    }

    fn shape(&self) -> Result<Shape, Error> {
        let place = self.beside.find(Role::Place, "")?;
        let new = self.beside.find(Role::New, "")?;
        let old = self.beside.find(Role::Old, "")?;
        let nothing = self.beside.find(Role::Nothing, "")?.is_some();
        let mark = self.beside.read_mark(Role::Swap)?.and_then(|text| text.parse::<u64>().ok());
        let is_new = |inode: u64| mark == Some(inode);
        let unexpected = || {
            let roles = [(Role::Place, place.is_some()), (Role::New, new.is_some()), (Role::Old, old.is_some())];
            self.beside.unexpected(&[&roles[..], &[(Role::Nothing, nothing)]].concat())
        };
        Ok(match (place, new, old, nothing) {
            (_, None, None, false) => Shape::Untouched,
            (Some(place), Some(new), None, false) if mark.is_some() => match (is_new(place.inode), is_new(new.inode)) {
                (true, false) => Shape::Exchanged,
                (false, true) => Shape::Staged,
                _ => return Err(unexpected()),
            },
            (_, Some(_), None, false) => Shape::Staged,
            (None, Some(_), Some(_), false) | (None, Some(_), None, true) => Shape::Empty,
            (Some(place), None, Some(old), false) if mark.is_some() => match (is_new(place.inode), is_new(old.inode)) {
                (true, false) => Shape::Swapped,
                (false, true) => Shape::ExchangedBack,
                _ => return Err(unexpected()),
            },
            (Some(_), None, Some(_), false) | (Some(_), None, None, true) => Shape::Swapped,
            _ => return Err(unexpected()),
        })
    }

    /// Exchanges the new one, which has the name `new`, with what has the name `other`. False: the system cannot.
    fn exchange(&self, new: Role, other: Role) -> Result<bool, Error> {
        let Some(found) = self.beside.find(new, "")? else { return Ok(false) };
        if !self.beside.exchanges {
            return Ok(false);
        }
        self.beside.mark(Role::Swap, &found.inode.to_string())?;
        self.beside.sync()?;
        let done = self.beside.exchange(new, other);
        if matches!(done, Ok(false) | Err(_)) {
            // Nothing was exchanged; without the mark the names say so by themselves.
            self.beside.unmark(Role::Swap)?;
        }
        if matches!(done, Ok(true)) {
            self.beside.sync()?;
        }
        done
    }

    /// One step towards the swap. True: there is nothing more to do.
    fn step_forward(&self) -> Result<bool, Error> {
        let beside = &self.beside;
        match self.shape()? {
            Shape::Untouched => return Err(self.nothing_staged()),
            Shape::Staged if beside.find(Role::Place, "")?.is_none() => {
                beside.mark(Role::Nothing, "nothing-was-here")?;
            }
            Shape::Staged => {
                self.check_movable()?;
                if !self.exchange(Role::New, Role::Place)? {
                    beside.rename((Role::Place, ""), (Role::Old, ""))?;
                }
            }
            Shape::Exchanged => beside.rename((Role::New, ""), (Role::Old, ""))?,
            Shape::ExchangedBack => beside.rename((Role::Old, ""), (Role::New, ""))?,
            Shape::Empty => beside.rename((Role::New, ""), (Role::Place, ""))?,
            Shape::Swapped => {
                beside.unmark(Role::Swap)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// One step back. True: there is nothing more to do.
    fn step_back(&self) -> Result<bool, Error> {
        let beside = &self.beside;
        match self.shape()? {
            Shape::Untouched => return Ok(true),
            Shape::Staged => {
                beside.unmark(Role::Swap)?;
                return Ok(true);
            }
            Shape::Exchanged => beside.rename((Role::New, ""), (Role::Old, ""))?,
            Shape::ExchangedBack => beside.rename((Role::Old, ""), (Role::New, ""))?,
            Shape::Empty if beside.find(Role::Old, "")?.is_none() => beside.unmark(Role::Nothing)?,
            Shape::Empty => beside.rename((Role::Old, ""), (Role::Place, ""))?,
            Shape::Swapped => {
                self.check_movable()?;
                if beside.find(Role::Old, "")?.is_none() || !self.exchange(Role::Place, Role::Old)? {
                    beside.rename((Role::Place, ""), (Role::New, ""))?;
                }
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

    fn remove(&self, role: Role) -> Result<(), Error> {
        let removed = remove(self.beside.handle(), &self.beside.name(role, ""));
        removed.map_err(|error| self.beside.fault("remove", role, "", error))
    }

    /// Takes a name away in one step and removes what had it, so that half of a tree never has a name that counts.
    fn discard(&self, role: Role) -> Result<(), Error> {
        self.remove(Role::Gone)?;
        if self.beside.rename_if_there((role, ""), (Role::Gone, ""))? {
            self.beside.sync()?;
        }
        self.remove(Role::Gone)
    }
}

impl Replace for TreeReplacement {
    fn state(&self) -> Result<State, Error> {
        Ok(match self.shape()? {
            Shape::Untouched => State::Untouched,
            Shape::Staged => State::Staged,
            Shape::Empty | Shape::Exchanged | Shape::ExchangedBack => State::Halfway,
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
        self.beside.unmark(Role::Swap)?;
        self.discard(Role::New)?;
        self.remove(Role::Part)?;
        self.beside.sync()
    }

    fn discard_old(&self) -> Result<(), Error> {
        let state = require_old_beside(self)?;
        if state == State::Swapped {
            self.beside.unmark(Role::Swap)?;
            self.beside.unmark(Role::Nothing)?;
            self.discard(Role::Old)?;
        }
        self.remove(Role::Gone)?;
        self.beside.sync()
    }

    fn names(&self) -> Names {
        self.beside.names()
    }
}

impl Emptied for TreeReplacement {
    fn begin_emptying(&self) -> Result<(), Error> {
        match self.shape()? {
            Shape::Swapped => Ok(()),
            Shape::Untouched => {
                self.check_movable()?;
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
