//! What is saved: sources and the streams they give.
//!
//! A source error never looks like a repository error: the first fails one source and the run goes on, the second
//! ends the run.

pub mod command;
pub mod files;
pub mod original;
pub mod postgres;
pub mod process;
pub mod sqlite;

use crate::domain::snapshot::{SourceWarning, TableRows, VolatileSpan};
use std::path::PathBuf;

/// Why a source could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A path is missing or may not be read.
    #[error("Cannot {operation} {}", path.display())]
    Path {
        /// The verb.
        operation: &'static str,
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A database could not be reached or refused us.
    #[error("Cannot connect to {target}: {reason}")]
    Unreachable {
        /// URI without password.
        target: String,
        /// What the server or the network said.
        reason: String,
    },
    /// A program is missing, or none of a fitting version was found.
    #[error("{reason}")]
    Client {
        /// One sentence naming the program.
        reason: String,
        /// What to do about it.
        hint: String,
    },
    /// A program ended badly.
    #[error("{program} {outcome}")]
    Failed {
        /// The program.
        program: String,
        /// `exited with status 1`, `was killed by signal 9`.
        outcome: String,
        /// Last lines of its stderr.
        stderr: String,
    },
    /// The bytes are not what the source must give: empty, truncated, damaged.
    #[error("{subject} {reason}")]
    Content {
        /// The source or file.
        subject: String,
        /// What is wrong with the bytes.
        reason: String,
    },
    /// There were no bytes, where anything may come, so that nothing may be right too.
    #[error("{subject} {reason}")]
    Empty {
        /// The source.
        subject: String,
        /// That it gave no bytes, and what the program said.
        reason: String,
    },
    /// The run was interrupted.
    #[error("Interrupted")]
    Interrupted,
}

/// What is known about a stream once it has been read to its end without error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamProof {
    /// Rows of each table counted in the stream, sorted by name.
    pub tables: Vec<TableRows>,
    /// Spans that change although the data does not.
    pub volatile: Vec<VolatileSpan>,
    /// Findings that did not fail the source.
    pub warnings: Vec<SourceWarning>,
}

/// A stream being read from a source. `read` returning `Ok(0)` means that the bytes ended; only `finish` says whether
/// they are good (exit status, structure, completeness). Dropping it early ends every process it started.
pub trait SourceStream: Send {
    /// Reads the next bytes; 0 at the end.
    /// # Errors
    /// [`SourceError`]; the stream is then dead.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError>;
    /// The verdict after the last byte. Calling it before `read` returned 0 is an error of content.
    /// # Errors
    /// [`SourceError`] when the program failed or the bytes are truncated, empty or damaged.
    fn finish(self: Box<Self>) -> Result<StreamProof, SourceError>;
}
