//! Records of packs and index objects: version heads, pack tables, index bodies. Encoded by [`super::codec`];
//! docs/format.md gives the bytes.

use crate::domain::id::{ChunkId, Digest, IndexId, PackId, VersionId};
use crate::recipe::sketch::Sketch;
use serde::{Deserialize, Serialize};

/// How a version's bytes are proved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Proof {
    /// BLAKE3 of the stream and one chaining value for each MiB.
    Stream {
        /// BLAKE3 of all bytes.
        root: Digest,
        /// See [`super::stream_hash`].
        leaves: Vec<Digest>,
    },
    /// The contents of files; every file is proved by its hash in the tree stream.
    Files {
        /// BLAKE3 over (length as u64 little-endian, hash) of every file in order.
        root: Digest,
    },
}

impl Proof {
    /// The root, of either kind.
    pub fn root(&self) -> Digest {
        match self {
            Self::Stream { root, .. } | Self::Files { root } => *root,
        }
    }
}

/// The head of a version's record: everything but its runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionHead {
    /// The version.
    pub version: VersionId,
    /// Readers take the highest generation that is not condemned.
    pub generation: u32,
    /// The stream that copies refer to. None: a full recipe.
    pub parent: Option<VersionId>,
    /// Length of the parent stream, 0 without parent.
    pub parent_bytes: u64,
    /// Records below this one until a full recipe; 0 for a full recipe.
    pub depth: u32,
    /// Stored bytes of this record and those below it, up to and with the full recipe, second copies apart.
    pub chain_bytes: u64,
    /// Estimate of the runs of the flat recipe.
    pub flat_runs: u64,
    /// Length of the stream.
    pub plain_bytes: u64,
    /// Length of the version's own literal space.
    pub literal_bytes: u64,
    /// Foreign literal spaces that runs name, by number.
    pub spaces: Vec<VersionId>,
    /// The slices, in stream order.
    pub slices: Vec<SliceInfo>,
    /// The proof of the plain bytes.
    pub proof: Proof,
    /// For finding a parent under another name.
    pub sketch: Sketch,
    /// Named additions that old readers may ignore.
    pub extensions: Vec<(String, Vec<u8>)>,
}

/// What a slice's runs add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceInfo {
    /// Stream bytes.
    pub plain_bytes: u64,
    /// Own literal bytes.
    pub literal_bytes: u64,
}

/// What a blob in a pack is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlobMeta {
    /// Literal bytes of a space, from `start`. `space` counts in [`PackTable::ids`].
    Segment {
        /// Number of the space in the table's ids.
        space: u32,
        /// First offset in the space.
        start: u64,
    },
    /// A [`VersionHead`].
    Head {
        /// Number of the version in the table's ids.
        version: u32,
        /// Its generation.
        generation: u32,
    },
    /// A slice of a record.
    Slice {
        /// Number of the version in the table's ids.
        version: u32,
        /// The record's generation.
        generation: u32,
        /// Position among the record's slices.
        sequence: u32,
    },
    /// What is left of the literal bytes of a part of a space: see [`super::sparse`].
    Sparse {
        /// Number of the space in the table's ids.
        space: u32,
        /// First offset of the part.
        start: u64,
        /// Length of the part, holes included.
        span_bytes: u32,
    },
}

impl BlobMeta {
    /// The type byte bound into the blob's key.
    pub fn kind(self) -> u8 {
        match self {
            Self::Segment { .. } => 1,
            Self::Head { .. } => 2,
            Self::Slice { .. } => 3,
            Self::Sparse { .. } => 10,
        }
    }

    /// Number in the table's ids of the space or version that the blob belongs to.
    pub fn owner(self) -> u32 {
        match self {
            Self::Segment { space, .. } | Self::Sparse { space, .. } => space,
            Self::Head { version, .. } | Self::Slice { version, .. } => version,
        }
    }
}

/// Type byte of a pack's table.
pub const KIND_TABLE: u8 = 4;
/// Type byte of an index body.
pub const KIND_INDEX: u8 = 5;
/// Type byte of a snapshot record.
pub const KIND_SNAPSHOT: u8 = 6;
/// Type byte of a session part.
pub const KIND_SESSION: u8 = 7;
/// Type byte of a condemned record.
pub const KIND_CONDEMNED: u8 = 8;
/// Type byte of a tombstone.
pub const KIND_TOMBSTONE: u8 = 9;
/// Type byte of an acceptance.
pub const KIND_ACCEPTANCE: u8 = 11;
/// Type byte of an entry of an act.
pub const KIND_ACT: u8 = 12;
/// The ordinal of a pack's table.
pub const TABLE_ORDINAL: u32 = u32::MAX;

/// One blob of a pack. Blobs follow each other without gaps from the end of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobEntry {
    /// What it is.
    pub meta: BlobMeta,
    /// Bytes in the pack.
    pub stored_bytes: u32,
    /// Bytes after decryption and decompression.
    pub raw_bytes: u32,
}

impl BlobEntry {
    /// The space's number and the offsets that a blob of literal bytes spans; None for records.
    pub fn literal_span(&self) -> Option<(u32, u64, u64)> {
        match self.meta {
            BlobMeta::Segment { space, start } => Some((space, start, start.saturating_add(u64::from(self.raw_bytes)))),
            BlobMeta::Sparse { space, start, span_bytes } => {
                Some((space, start, start.saturating_add(u64::from(span_bytes))))
            }
            BlobMeta::Head { .. } | BlobMeta::Slice { .. } => None,
        }
    }
}

/// A chunk that can be found by its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkEntry {
    /// Keyed BLAKE3 of its plain bytes.
    pub id: ChunkId,
    /// Number of the literal space in the table's ids.
    pub space: u32,
    /// First offset in the space.
    pub start: u64,
    /// Length.
    pub plain_bytes: u32,
}

/// Table of contents of a pack.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackTable {
    /// Versions and spaces that the other fields name by number.
    pub ids: Vec<VersionId>,
    /// The blobs, in pack order; a blob's ordinal is its position here.
    pub blobs: Vec<BlobEntry>,
    /// Chunks whose bytes lie wholly in this pack's segments.
    pub chunks: Vec<ChunkEntry>,
}

/// What an index object says about one pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexedPack {
    /// The pack.
    pub pack: PackId,
    /// Copy number that all its blobs carry.
    pub copy: u8,
    /// Length of the whole object.
    pub stored_bytes: u64,
    /// Its table, the same as in the pack's trailer.
    pub table: PackTable,
}

/// Body of an index object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexBody {
    /// Index objects that this one replaces.
    pub supersedes: Vec<IndexId>,
    /// The packs.
    pub packs: Vec<IndexedPack>,
}

/// Bytes of the trailer that stands between a pack's table and the footer: table offset, table stored length, table
/// raw length, four zero bytes.
pub const PACK_TRAILER_BYTES: usize = 20;
