//! What can go wrong with a repository. Never mixed with source errors: these end the run.

use crate::domain::id::{ActId, PackId, VersionId};
use crate::{format, storage};

/// A repository operation failed.
#[derive(Debug, thiserror::Error)]
pub enum RepoError {
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// An object's bytes are not what they must be.
    #[error("{object} is damaged: {reason}")]
    Damaged {
        /// The object.
        object: String,
        /// What is wrong, in one phrase.
        reason: String,
    },
    /// An object or blob that a snapshot needs is not there.
    #[error("{what} is missing")]
    Missing {
        /// What, with its id.
        what: String,
    },
    /// A pack is not there under the index that was read. A prune may have replaced it: whoever follows the index reads
    /// it again before taking this for damage.
    #[error("Pack {} is gone", .pack)]
    PackGone {
        /// The pack.
        pack: PackId,
    },
    /// What was written does not decode to what was read from the source. Nothing is committed.
    #[error("The stored form of {what} does not decode to what was read: {reason}")]
    ProofFailed {
        /// The stream.
        what: String,
        /// Where they differ.
        reason: String,
    },
    /// The local index cache cannot be written or read.
    #[error("Cannot use the local cache {path}")]
    Cache {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something that only a later version knows how to write beside.
    #[error("The repository holds {what}, and this holdfast cannot write beside that")]
    Newer {
        /// What.
        what: String,
    },
    /// A limit of the format.
    #[error("{what} is beyond the limits of the format")]
    Limit {
        /// What.
        what: String,
    },
    /// An object could not be decoded.
    #[error("{object} cannot be read")]
    Format {
        /// The object.
        object: String,
        /// Why.
        source: format::Error,
    },
    /// Another process wrote the step of an act that this one was about to write: that one goes on with it.
    #[error("Another process goes on with act {}", .act.short())]
    ActTaken {
        /// The act.
        act: ActId,
    },
    /// The run was interrupted.
    #[error("Interrupted")]
    Interrupted,
}

/// Result of a repository operation.
pub type Result<T> = std::result::Result<T, RepoError>;

impl RepoError {
    /// Shorthand for a damaged pack.
    pub(crate) fn damaged_pack(pack: PackId, reason: impl Into<String>) -> Self {
        Self::Damaged { object: storage::ObjectName::pack(pack).to_string(), reason: reason.into() }
    }

    /// Shorthand for a damaged record of a version.
    pub(crate) fn damaged_version(version: VersionId, reason: impl Into<String>) -> Self {
        Self::Damaged { object: format!("version {version}"), reason: reason.into() }
    }

    /// True for damage and for an object that the storage cannot read (a bad sector): a second copy may serve.
    pub fn concerns_one_object(&self) -> bool {
        self.is_damage() || matches!(self, Self::Storage(e) if e.kind == storage::ErrorKind::Other)
    }

    /// True when stored data is damaged or missing, as opposed to out of reach.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } | Self::Missing { .. } | Self::Format { .. } | Self::PackGone { .. } => true,
            Self::Storage(e) => matches!(e.kind, storage::ErrorKind::NotFound | storage::ErrorKind::Size),
            _ => false,
        }
    }
}
