//! The bytes of tables, blobs and index objects, opened.

use super::TABLE_BYTES_MAX;
use crate::domain::id::{IndexId, PackId};
use crate::format::envelope::{self, Expected, ObjectTag};
use crate::format::records::{
    BlobEntry, IndexBody, KIND_INDEX, KIND_TABLE, PACK_TRAILER_BYTES, PackTable, TABLE_ORDINAL,
};
use crate::format::seal::{self, BlobContext, Keys};
use crate::format::{codec, compress, sealed};
use crate::repository::error::{RepoError, Result};
use crate::repository::pack_writer::sealer_for;
use crate::storage::{ObjectName, ReadStore};

/// The place of a pack's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackTrailer {
    /// Offset in the object.
    pub table_offset: u64,
    /// Its stored length.
    pub stored_len: u32,
    /// Its length after decryption and decompression.
    pub raw_len: u32,
}

impl PackTrailer {
    /// Reads the bytes that stand before the footer.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; PACK_TRAILER_BYTES] = bytes.try_into().ok()?;
        let (offset, rest) = bytes.split_first_chunk::<8>()?;
        let (stored, rest) = rest.split_first_chunk::<4>()?;
        let (raw, zero) = rest.split_first_chunk::<4>()?;
        let (table_offset, stored_len) = (u64::from_le_bytes(*offset), u32::from_le_bytes(*stored));
        let raw_len = u32::from_le_bytes(*raw);
        let sane = zero == [0; 4] && (raw_len as usize) <= TABLE_BYTES_MAX && (stored_len as usize) <= TABLE_BYTES_MAX;
        sane.then_some(Self { table_offset, stored_len, raw_len })
    }
}

/// Opens a sealed table.
///
/// # Errors
/// [`RepoError::Damaged`].
pub fn decode_table(keys: &Keys, pack: PackId, place: &PackTrailer, sealed: &[u8]) -> Result<PackTable> {
    let context = BlobContext { object: pack.0, ordinal: TABLE_ORDINAL, kind: KIND_TABLE, raw_len: place.raw_len };
    let damaged = |source: crate::format::Error| RepoError::damaged_pack(pack, format!("its table: {source}"));
    let packed = keys.index().open(&context, sealed).map_err(damaged)?;
    let mut raw = Vec::new();
    compress::decompress_exact(&packed, place.raw_len as usize, &mut raw).map_err(damaged)?;
    codec::decode::<PackTable, TABLE_BYTES_MAX>(&raw).map_err(damaged)
}

/// Opens a sealed blob.
///
/// # Errors
/// [`RepoError::Damaged`].
pub fn open_blob(keys: &Keys, pack: PackId, ordinal: u32, entry: &BlobEntry, stored: &[u8]) -> Result<Vec<u8>> {
    let context = BlobContext { object: pack.0, ordinal, kind: entry.meta.kind(), raw_len: entry.raw_bytes };
    let damaged = |source: crate::format::Error| RepoError::damaged_pack(pack, format!("blob {ordinal}: {source}"));
    if stored.len() < seal::OVERHEAD {
        return Err(RepoError::damaged_pack(pack, format!("blob {ordinal} is too short")));
    }
    let packed = sealer_for(keys, entry.meta).open(&context, stored).map_err(damaged)?;
    let mut raw = Vec::with_capacity(entry.raw_bytes as usize);
    compress::decompress_exact(&packed, entry.raw_bytes as usize, &mut raw).map_err(damaged)?;
    Ok(raw)
}

/// Reads an index object.
///
/// # Errors
/// Storage errors and damage.
pub fn load_index(store: &dyn ReadStore, keys: &Keys, id: IndexId) -> Result<IndexBody> {
    let name = ObjectName::index(id);
    let bytes = store.get(&name, envelope::OBJECT_BYTES_MAX)?;
    decode_index(keys, id, &bytes)
}

/// Decodes the bytes of an index object.
///
/// # Errors
/// Damage.
pub fn decode_index(keys: &Keys, id: IndexId, bytes: &[u8]) -> Result<IndexBody> {
    let damaged = |source| RepoError::Format { object: ObjectName::index(id).to_string(), source };
    let expected =
        Expected { repository: Some(keys.repository()), object_id: Some(id.0), ..Expected::any(ObjectTag::Index) };
    let (_, body) =
        sealed::decode::<IndexBody, TABLE_BYTES_MAX>(bytes, &expected, keys.index(), KIND_INDEX, 0).map_err(damaged)?;
    Ok(body)
}
