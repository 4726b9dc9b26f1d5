//! Format and storage together: the order of writes that never lets anything durable refer to something that is not.

pub mod accepted;
pub mod act_claims;
pub mod acts;
pub mod cached_snapshots;
pub mod chunk_run;
pub mod chunk_table;
pub mod closure;
pub mod condemned;
pub mod error;
pub mod head_facts;
pub mod index;
pub mod index_cache;
pub mod index_loader;
#[cfg(test)]
mod key_use_tests;
pub mod keys;
pub mod liveness;
mod made_whole;
pub mod named_parts;
pub mod open;
pub mod pack_reader;
pub mod pack_writer;
pub mod parity;
#[cfg(test)]
pub(crate) mod planted_fault;
mod proved_put;
pub mod reading;
pub mod record_merge;
pub mod rewrite;
pub mod segment_use;
pub mod session;
pub mod snapshots;
pub mod stream_reader;
pub mod stream_writer;
mod taken;
pub mod tombstones;

use crate::domain::id::KeySlotId;
use crate::format;
use crate::storage;

/// Something wrong that did not stop the work, because a second copy served or the object was not needed. Whoever
/// collects findings must report them in the end: the repository is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The object's name.
    pub object: String,
    /// What is wrong.
    pub problem: Problem,
    /// In a few words.
    pub reason: String,
}

/// Kinds of finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Problem {
    /// Wrong bytes.
    Damaged,
    /// Absent.
    Missing,
    /// The storage could not read it.
    Unreadable,
    /// A name that no object of the format has.
    Unknown,
}

impl Problem {
    /// The word for people and for JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::Missing => "missing",
            Self::Unreadable => "unreadable",
            Self::Unknown => "unknown",
        }
    }
}

/// A repository could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none.
    #[error("There is no repository in {location}")]
    NoRepository {
        /// Where it was looked for.
        location: String,
    },
    /// An `init` has not come to its end here, and nothing has been stored.
    #[error("There is no repository in {location} yet: an init was interrupted before its end")]
    Unfinished {
        /// Where.
        location: String,
    },
    /// There is one already.
    #[error("There is a repository in {location} already")]
    AlreadyInitialised {
        /// Where.
        location: String,
    },
    /// The secret opens no key slot.
    #[error("The {kind} opens no key slot of the repository in {location} ({tried} tried)")]
    WrongSecret {
        /// Where the repository is.
        location: String,
        /// The kind of secret, for people.
        kind: &'static str,
        /// Slots of that kind that were tried.
        tried: usize,
    },
    /// The repository is encrypted and no secret was given.
    #[error("The repository in {location} is encrypted, and neither a password nor a key was given")]
    SecretNeeded {
        /// Where the repository is.
        location: String,
    },
    /// A secret was given for a repository that says it is not encrypted. It may have been replaced by another one.
    #[error("The repository in {location} is not encrypted, although a password or key was given for it")]
    NotEncrypted {
        /// Where the repository is.
        location: String,
    },
    /// A newer program wrote it.
    #[error("The repository in {location} was written by a newer holdfast")]
    NewerVersion {
        /// Where the repository is.
        location: String,
        /// Which object says so.
        source: format::Error,
    },
    /// No copy of something that is needed is whole.
    #[error("The repository in {location} is damaged")]
    Damaged {
        /// Where the repository is.
        location: String,
        /// What is wrong.
        source: format::Error,
    },
    /// The secret's derivation needs more memory than there is.
    #[error("The key of the repository in {location} cannot be derived")]
    OutOfMemory {
        /// Where the repository is.
        location: String,
        /// What it needs.
        source: format::Error,
    },
    /// The options of a new repository or slot contradict each other or are out of bounds.
    #[error("{reason}")]
    Options {
        /// One sentence.
        reason: String,
    },
    /// There is no such key slot.
    #[error("There is no key slot {id} in {location}")]
    NoSuchSlot {
        /// The slot.
        id: KeySlotId,
        /// Where the repository is.
        location: String,
    },
    /// The last key slot is never removed: nothing could be read any more.
    #[error("Key slot {id} is the last one that opens the repository in {location}")]
    LastSlot {
        /// The slot.
        id: KeySlotId,
        /// Where the repository is.
        location: String,
    },
    /// The storage failed.
    #[error("The repository's storage failed")]
    Storage(#[source] storage::Error),
}

impl From<storage::Error> for Error {
    fn from(error: storage::Error) -> Self {
        Self::Storage(error)
    }
}

/// Result of a repository operation.
pub type Result<T> = std::result::Result<T, Error>;
