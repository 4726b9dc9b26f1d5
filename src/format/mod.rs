//! The bytes of every object: how values become stored bytes and back. Pure: no I/O, no clock, no randomness.
//!
//! Invariant: bytes that come from a repository never panic; whatever is wrong with them is an [`Error`].

pub mod chunker;
pub mod codec;
pub mod compress;
pub mod config_object;
pub mod envelope;
pub mod gathered;
pub mod identities;
pub mod key_slot;
pub mod originals;
pub mod parity;
pub mod records;
pub mod samples;
pub mod seal;
pub mod sealed;
pub mod secret_text;
pub mod slice;
pub mod sparse;
pub mod stream_hash;
pub mod tree;

/// Bytes that are not a valid object, or one that this version may not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The stored bytes are wrong.
    #[error("{object} is damaged at byte {offset}: {reason}")]
    Damaged {
        /// The object or the part of it, for people; starts a sentence.
        object: String,
        /// Where the first fault was seen, counted from the start of what was decoded.
        offset: u64,
        /// What is wrong, in a few words.
        reason: String,
    },
    /// A newer holdfast wrote the object.
    #[error("{object} has format version {version}, and this holdfast reads up to {supported}")]
    NewerVersion {
        /// The object.
        object: String,
        /// Its version.
        version: u16,
        /// The newest version that this program reads.
        supported: u16,
    },
    /// The object needs a feature that this program does not know.
    #[error("{object} needs features that this holdfast does not know (bits {bits:#010x})")]
    UnknownFeatures {
        /// The object.
        object: String,
        /// The unknown mandatory bits.
        bits: u32,
    },
    /// The configuration asks writers for something that this program cannot do. Readers are not concerned.
    #[error("This holdfast may read the repository and not write to it: {reason}")]
    WriterParameters {
        /// What it cannot do, half a sentence about this program.
        reason: String,
    },
    /// The memory that a key derivation asks for is not to be had.
    #[error("{object} needs {bytes} bytes of memory to be opened, and the system does not give them")]
    OutOfMemory {
        /// The object.
        object: String,
        /// What it asks for.
        bytes: u64,
    },
}

impl Error {
    /// An object is damaged.
    pub fn damaged(object: impl Into<String>, offset: u64, reason: impl Into<String>) -> Self {
        Self::Damaged { object: object.into(), offset, reason: reason.into() }
    }
}

/// Result of decoding.
pub type Result<T> = std::result::Result<T, Error>;
