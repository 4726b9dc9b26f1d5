//! Restore of files below one directory. [`Restorer`] takes the entries of a tree in order; what an entry says about
//! itself is set by `attributes`, contents are written by `sink`, names are opened by `beneath`.
//!
//! Invariant: nothing outside the target is created, changed or opened, whatever a snapshot says and whoever moves
//! directories about meanwhile. Every name is looked up below the handle of the target, no symbolic link is followed,
//! and everything is created new: an entry whose name is taken is a finding and never overwrites. In a target that
//! holds something (`existing`, `replacing`) new things replace old ones by a rename, as far as the caller allows it.

mod attributes;
mod beneath;
mod existing;
mod moved;
mod replacing;
mod restorer;
mod sink;

pub use existing::{Existing, Looker, Overwrite, Verdict, name_mark};
pub use restorer::{Options, Report, Restorer};
pub use sink::FileSink;

use crate::domain::snapshot::SourceWarning;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Why a restore cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The target holds something. Nothing was touched.
    #[error("{} is not empty", path.display())]
    TargetNotEmpty {
        /// The target.
        path: PathBuf,
    },
    /// The file system of the target is full, or a quota is used up.
    #[error("No space is left for {}", path.display())]
    NoSpace {
        /// What was being written.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// An entry whose path would lead out of the target or through something that is not a directory. No snapshot
    /// that holdfast wrote has one.
    #[error("The entry {} is not restored: {reason}", path.display())]
    UnsafePath {
        /// The path as the snapshot has it.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// What was written is not what the snapshot has for this file. The file was removed again.
    #[error("The contents of {} are not those of the snapshot: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What differs.
        reason: &'static str,
    },
    /// The system refused something.
    #[error("Cannot {operation} {}", path.display())]
    Io {
        /// The verb.
        operation: &'static str,
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl TargetError {
    /// An error of the system, with a full disk told apart.
    fn from_io(operation: &'static str, path: &[u8], source: std::io::Error) -> Self {
        let path = shown(path);
        match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::NoSpace { path, source },
            _ => Self::Io { operation, path, source },
        }
    }
}

fn shown(path: &[u8]) -> PathBuf {
    Path::new(OsStr::from_bytes(path)).to_owned()
}

/// A finding about an entry that did not end the restore.
fn finding(code: &str, path: &[u8], message: String, incomplete: bool) -> SourceWarning {
    SourceWarning { code: code.to_owned(), subject: String::from_utf8_lossy(path).into_owned(), message, incomplete }
}

#[cfg(test)]
#[path = "existing_tests.rs"]
mod existing_tests;
#[cfg(test)]
#[path = "hostile_tests.rs"]
mod hostile_tests;
#[cfg(test)]
#[path = "numbered_tests.rs"]
mod numbered_tests;
#[cfg(test)]
#[path = "round_trip_tests.rs"]
mod round_trip_tests;
