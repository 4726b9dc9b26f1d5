//! Something new takes the place of something old, in steps that can be repeated and taken back.
//!
//! A replacement is known by its place and the id of the act it belongs to; whoever knows these two can go on with it or
//! take it back, in another process and after a power failure. What stands beside the place says how far it is, and
//! nothing else is remembered: `NAME.holdfast-new-ACT8` is the new one before the swap, `NAME.holdfast-old-ACT8` the old
//! one after it (for databases `name_restore_ACT8` and `name_old_ACT8`).
//!
//! The line of states, and who moves along it:
//!
//! ```text
//! Untouched --staging--> Staged --swap--> Halfway --swap--> Swapped --discard_old--> Untouched
//! Untouched <-discard_new- Staged <-unswap- Halfway <-unswap- Swapped
//! ```
//!
//! Invariant: whatever is cut short, the old one and the new one are both whole, each under one of its names, until the
//! one or the other is discarded on purpose.

mod beside;
pub mod carry;
pub mod emptied;
pub mod postgres;
mod postgres_properties;
pub(in crate::target) mod removal;
pub mod sqlite;
pub mod tree;

use crate::source::SourceError;
use std::io;
use std::path::{Path, PathBuf};

/// How far a replacement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Nothing of the act is beside the place: it has not begun, was taken back, or is settled. The act's story knows
    /// which; what stands in the place is whole in any case.
    Untouched,
    /// The new one is complete and stands beside the old one, which is in its place.
    Staged,
    /// A swap was cut short. Both are whole, one of them perhaps not in the place: `swap` goes on, `unswap` goes back.
    Halfway,
    /// The new one is in the place, the old one is kept beside it.
    Swapped,
}

impl State {
    /// The word for messages and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Untouched => "untouched",
            Self::Staged => "staged",
            Self::Halfway => "halfway",
            Self::Swapped => "swapped",
        }
    }
}

/// Where the two are to be found, for people: paths, or names of databases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The place itself.
    pub place: String,
    /// The new one while it is not in the place.
    pub new: String,
    /// The old one while it is not in the place.
    pub old: String,
}

/// One replacement. Every call is idempotent, and what it did is durable when it returns.
pub trait Replace {
    /// What is beside the place. Changes nothing.
    ///
    /// # Errors
    /// [`Error`]; [`Error::Unexpected`] when what is there fits no state.
    fn state(&self) -> Result<State, Error>;

    /// From [`State::Staged`] or [`State::Halfway`] to [`State::Swapped`].
    ///
    /// # Errors
    /// [`Error::NothingStaged`], [`Error::Busy`], [`Error`]. The state tells how far it went.
    fn swap(&self) -> Result<(), Error>;

    /// From [`State::Swapped`] or [`State::Halfway`] back to [`State::Staged`]. When nothing was swapped there is
    /// nothing to do.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error`]. The state tells how far it went.
    fn unswap(&self) -> Result<(), Error>;

    /// Removes the new one, complete or not, from beside the place: to [`State::Untouched`].
    ///
    /// # Errors
    /// [`Error::InUse`] when it is, or may be, in the place.
    fn discard_new(&self) -> Result<(), Error>;

    /// Removes the old one from beside the place, for good: to [`State::Untouched`].
    ///
    /// # Errors
    /// [`Error::InUse`] when the new one is not in the place.
    fn discard_old(&self) -> Result<(), Error>;

    /// What is called how.
    fn names(&self) -> Names;
}

/// Refuses to remove the new one where it is, or may be, in the place.
fn require_new_beside(replacement: &dyn Replace) -> Result<State, Error> {
    require_beside(replacement, State::Staged, |names| names.new)
}

/// Refuses to remove the old one where it is, or may be, in the place.
fn require_old_beside(replacement: &dyn Replace) -> Result<State, Error> {
    require_beside(replacement, State::Swapped, |names| names.old)
}

fn require_beside(
    replacement: &dyn Replace,
    wanted: State,
    what: impl FnOnce(Names) -> String,
) -> Result<State, Error> {
    let state = replacement.state()?;
    if state == State::Untouched || state == wanted {
        return Ok(state);
    }
    let names = replacement.names();
    Err(Error::InUse { place: names.place.clone(), what: what(names), state })
}

/// Why a replacement cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody works with what is to be replaced. Nothing was changed by this call.
    #[error("{place} is in use")]
    Busy {
        /// The place.
        place: String,
        /// Who, as far as it can be seen, one line each; may be empty.
        by: Vec<String>,
    },
    /// A swap was asked for and no complete new one is there.
    #[error("Nothing stands ready to take the place of {place}")]
    NothingStaged {
        /// The place.
        place: String,
    },
    /// What is to be removed is, or may be, what stands in the place.
    #[error("{what} is not removed: the replacement of {place} is {}", .state.as_str())]
    InUse {
        /// The place.
        place: String,
        /// What was to be removed.
        what: String,
        /// How far the replacement is.
        state: State,
    },
    /// What is beside the place fits no state: somebody else moved things. Nothing was changed by this call.
    #[error("What stands beside {place} is not what a replacement leaves: {found}")]
    Unexpected {
        /// The place.
        place: String,
        /// What is there and what is not.
        found: String,
    },
    /// The place cannot be moved as a whole: it is a mount point or holds one. Its files can be replaced one by one.
    #[error("{} cannot be moved: {} is a mount point", place.display(), mount.display())]
    MountPoint {
        /// The place.
        place: PathBuf,
        /// The mount point.
        mount: PathBuf,
    },
    /// The place is not of the kind that is to be put there.
    #[error("{} cannot be replaced: {reason}", path.display())]
    Unsuitable {
        /// The place.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// The new one is not good. It was not put into the place.
    #[error("{target} {reason}")]
    Content {
        /// The new one.
        target: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file system is full, or a quota is used up.
    #[error("No space is left for {}", path.display())]
    NoSpace {
        /// What was being written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused something.
    #[error("Cannot {operation} {}", path.display())]
    Io {
        /// The verb.
        operation: &'static str,
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The server refused a statement.
    #[error("Cannot {operation} {target}: {reason}")]
    Server {
        /// The verb.
        operation: &'static str,
        /// URI without password, or name of a database.
        target: String,
        /// What the server said.
        reason: String,
    },
    /// The server, or a client program, is not there or refused us.
    #[error(transparent)]
    Client(#[from] SourceError),
}

impl Error {
    /// An error of the system, with a full disk told apart.
    pub(super) fn from_io(operation: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::NoSpace { path, source }
            }
            _ => Self::Io { operation, path, source },
        }
    }
}

/// Does something in the folder above a path, which is made if it is missing, and gives the folder its times back: for work
/// in a new tree that is complete.
///
/// # Errors
/// [`Error::Io`], [`Error::NoSpace`], and what the work says.
pub fn staged_folder<E: From<Error>>(path: &Path, work: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let fault = |operation, error| Error::from_io(operation, folder, error);
    std::fs::create_dir_all(folder).map_err(|error| fault("create", error))?;
    let before = folder.metadata().map_err(|error| fault("look at", error))?;
    work()?;
    let handle = std::fs::File::open(folder).map_err(|error| fault("open", error))?;
    let mut times = std::fs::FileTimes::new();
    if let (Ok(modified), Ok(accessed)) = (before.modified(), before.accessed()) {
        times = times.set_modified(modified).set_accessed(accessed);
    }
    handle.set_times(times).map_err(|error| fault("set the times of", error))?;
    Ok(handle.sync_all().map_err(|error| fault("sync", error))?)
}

/// A directory in memory where there is one: tests that cut thousands of sequences wait for no disk.
#[cfg(test)]
fn quick_directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("temporary directory")
}

#[cfg(test)]
#[path = "sqlite_tests.rs"]
mod sqlite_tests;
#[cfg(test)]
#[path = "tree_tests.rs"]
mod tree_tests;
