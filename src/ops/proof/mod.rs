//! Is this restored thing what the snapshot says? Databases are read again by the tools that saved them, files by the
//! reader that saved them, and everything is compared with what is stored. Nothing is changed, nothing printed.
//!
//! A proof that fails is not an error: it is a [`Proof`] that is not equal and names what differs. An [`Error`] means
//! that nothing could be said.

mod apart;
mod archive;
mod compare;
mod postgres;
mod rows;
mod script_rows;
mod sqlite;
mod statements;
#[cfg(test)]
mod tests;
mod tree;

pub use apart::Apart;
pub use archive::{Aside, EntryKey, Facts, Leave, Summary};
pub use postgres::{Expected, PostgresMeans, postgres, postgres_apart, script, tables};
pub use sqlite::sqlite;
pub use tree::{TreeOptions, tree};

use crate::ops::cancel::Cancelled;
use crate::repository::error::RepoError;
use crate::repository::reading::CopyError;
use crate::source::SourceError;
use serde::Serialize;
use std::path::PathBuf;

/// Differences that are named; more are only counted.
pub const DIFFERENCES_LISTED_MAX: usize = 1000;

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// True when nothing differs.
    pub equal: bool,
    /// Every table with its rows, by schema and name; empty for files.
    pub tables: Vec<TableProof>,
    /// What differs, one sentence each; at most [`DIFFERENCES_LISTED_MAX`].
    pub differences: Vec<String>,
    /// How many differences there are.
    pub difference_count: u64,
    /// What was not compared, and why.
    pub notes: Vec<String>,
}

/// The rows of one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableProof {
    /// Its schema; empty for SQLite.
    pub schema: String,
    /// Its name.
    pub table: String,
    /// Rows in the snapshot; none when the snapshot has no such table.
    pub rows_expected: Option<u64>,
    /// Rows in what was restored; none when the table is missing there.
    pub rows_restored: Option<u64>,
}

impl Proof {
    /// Notes a difference.
    fn differs(&mut self, sentence: impl FnOnce() -> String) {
        self.difference_count += 1;
        if self.differences.len() < DIFFERENCES_LISTED_MAX {
            self.differences.push(shown(&sentence()));
        }
    }

    /// Decides.
    fn decided(mut self) -> Self {
        self.equal = self.difference_count == 0;
        self
    }
}

/// Why nothing could be said.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The repository cannot be read.
    #[error(transparent)]
    Repository(#[from] RepoError),
    /// The restored database cannot be reached, or its dump failed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A dump is nothing that can be compared.
    #[error("{what} {reason}")]
    Dump {
        /// Which dump.
        what: String,
        /// The predicate.
        reason: String,
    },
    /// A restored file cannot be read.
    #[error("Cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The run was ended from outside.
    #[error("The proof was interrupted")]
    Interrupted,
}

impl From<Cancelled> for Error {
    fn from(_: Cancelled) -> Self {
        Self::Interrupted
    }
}

impl From<CopyError<Error>> for Error {
    fn from(error: CopyError<Error>) -> Self {
        match error {
            CopyError::Repository(error) => Self::Repository(error),
            CopyError::Sink(error) => error,
        }
    }
}

/// Text with control characters spelled out, so that a name cannot break a line or move the cursor.
fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}
