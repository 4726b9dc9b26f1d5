//! Objects whose whole body is one sealed record: index objects, snapshot records, session parts.
//!
//! Body: raw length u32 little-endian, then a sealed blob of the compressed record.

use super::envelope::{self, Expected, Header};
use super::seal::{BlobContext, Sealer};
use super::{Error, Result, codec, compress};
use serde::{Serialize, de::DeserializeOwned};

/// Level for records: they are small or full of hashes.
const LEVEL: i32 = 9;

/// Encodes a record as an object. `kind` and `ordinal` are bound into its key.
///
/// # Errors
/// A record of 4 GiB or more.
pub fn encode<T: Serialize>(header: &Header, sealer: &Sealer, kind: u8, ordinal: u32, record: &T) -> Result<Vec<u8>> {
    let raw = codec::encode(record);
    let raw_len = u32::try_from(raw.len()).map_err(|_| Error::damaged("Record", 0, "it is too large"))?;
    let mut packed = Vec::new();
    compress::compress(LEVEL, &raw, &mut packed);
    let mut body = raw_len.to_le_bytes().to_vec();
    sealer.seal_into(&BlobContext { object: header.object_id, ordinal, kind, raw_len }, &packed, &mut body);
    Ok(envelope::encode_object(header, &body))
}

/// Decodes what [`encode`] wrote, after checking the envelope against `expected`.
///
/// # Errors
/// Damage, another object, a newer version.
pub fn decode<T: DeserializeOwned, const LIMIT: usize>(
    bytes: &[u8],
    expected: &Expected,
    sealer: &Sealer,
    kind: u8,
    ordinal: u32,
) -> Result<(Header, T)> {
    let (header, body) = envelope::decode_object(bytes, expected)?;
    let (raw_len, blob) =
        body.split_first_chunk::<4>().ok_or_else(|| Error::damaged("Object", 64, "its body is too short"))?;
    let raw_len = u32::from_le_bytes(*raw_len);
    if raw_len as usize > LIMIT {
        return Err(Error::damaged("Object", 64, "its record is longer than any valid one"));
    }
    let context = BlobContext { object: header.object_id, ordinal, kind, raw_len };
    let packed = sealer.open(&context, blob)?;
    let mut raw = Vec::new();
    compress::decompress_exact(&packed, raw_len as usize, &mut raw)?;
    Ok((header, codec::decode::<T, LIMIT>(&raw)?))
}
