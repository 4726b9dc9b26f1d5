//! Encryption of blobs and the keys for it. A blob is one compressed segment or record inside an object.
//!
//! Suite 1, AES-256-GCM: a blob is `siv[16] | ciphertext | tag[16]`.
//! * context = version u16 | repository id | object id | ordinal u32 | kind u8 | raw length u32 | suite u16;
//! * siv = the first 16 bytes of keyed BLAKE3(siv key, context | bytes);
//! * key = keyed BLAKE3(purpose key, object id | ordinal | kind | siv), nonce zero, additional data = context.
//!
//! Invariant: the key follows from the bytes themselves, so one (key, nonce) never meets two texts, whatever is
//! written again after a crash or by a copied random generator. Reading checks the tag and then the siv, which also
//! commits the blob to its key.
//!
//! Suite 0, no encryption: `hash[16] | bytes | hash[16..32]` with hash = keyed BLAKE3(siv key, context | bytes); the
//! keys of such a repository follow from its id, so the hash finds damage and blobs in wrong places, not forgers.

use super::envelope::FORMAT_VERSION;
use super::{Error, Result};
use crate::domain::id::{ChunkId, RepositoryId};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use std::fmt;
use zeroize::Zeroizing;

/// What sealing adds to the bytes, in both suites.
pub const OVERHEAD: usize = 32;

const SIV_BYTES: usize = 16;
const TAG_BYTES: usize = 16;
const CONTEXT_BYTES: usize = 45;

/// How a repository's blobs are protected; chosen at init for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Suite {
    /// Not encrypted.
    None = 0,
    /// AES-256-GCM with a key for each blob.
    Aes256Gcm = 1,
}

impl Suite {
    /// The number in headers and in the configuration.
    pub fn number(self) -> u16 {
        self as u16
    }

    /// The suite of a number, if it has one.
    pub fn from_number(number: u16) -> Option<Self> {
        [Self::None, Self::Aes256Gcm].into_iter().find(|suite| suite.number() == number)
    }
}

/// Where a blob stands. Sealed into it: a blob moved elsewhere does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlobContext {
    /// The object that holds it.
    pub object: [u8; 16],
    /// Its number inside the object.
    pub ordinal: u32,
    /// Its kind, as the object's format numbers them.
    pub kind: u8,
    /// Its length before compression, bytes.
    pub raw_len: u32,
}

/// Seals and opens the blobs of one purpose.
pub struct Sealer {
    suite: Suite,
    repository: RepositoryId,
    purpose_key: Zeroizing<[u8; 32]>,
    siv_key: Zeroizing<[u8; 32]>,
}

impl Sealer {
    /// The sealed form of compressed bytes.
    pub fn seal(&self, context: &BlobContext, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len() + OVERHEAD);
        self.seal_into(context, bytes, &mut out);
        out
    }

    /// Appends the sealed form to `out`; returns its length.
    pub fn seal_into(&self, context: &BlobContext, bytes: &[u8], out: &mut Vec<u8>) -> usize {
        let aad = self.context_bytes(context);
        let hash = self.siv_hash(&aad, bytes);
        let (siv, rest) = hash.split_at(SIV_BYTES);
        out.reserve(bytes.len() + OVERHEAD);
        out.extend_from_slice(siv);
        let start = out.len();
        out.extend_from_slice(bytes);
        match self.suite {
            Suite::None => out.extend_from_slice(rest),
            Suite::Aes256Gcm => {
                let key = self.blob_key(context, siv);
                #[cfg(test)]
                witness::met(&self.blob_key_bytes(context, siv), &aad, bytes);
                // Sealing fails only beyond 64 GiB, which a u32 raw length cannot reach.
                match key.seal_in_place_separate_tag(zero_nonce(), Aad::from(aad), &mut out[start..]) {
                    Ok(tag) => out.extend_from_slice(tag.as_ref()),
                    Err(_) => unreachable!("AES-256-GCM seals every text below its length limit"),
                }
            }
        }
        bytes.len() + OVERHEAD
    }

    /// The compressed bytes of a sealed blob.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the blob is not exactly what was sealed in this place with this key.
    pub fn open(&self, context: &BlobContext, blob: &[u8]) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        self.open_into(context, blob, &mut out)?;
        Ok(out)
    }

    /// As [`Sealer::open`], into a buffer that can be used again (cleared first, and left empty on failure).
    ///
    /// # Errors
    /// As [`Sealer::open`].
    pub fn open_into(&self, context: &BlobContext, blob: &[u8], out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        let damaged = |reason: &str| Err(Error::damaged(describe(context), 0, reason));
        let Some((siv, rest)) = blob.split_first_chunk::<SIV_BYTES>() else {
            return damaged("it is too short");
        };
        let Some((body, end)) = rest.split_last_chunk::<TAG_BYTES>() else {
            return damaged("it is too short");
        };
        let aad = self.context_bytes(context);
        out.extend_from_slice(body);
        if self.suite == Suite::Aes256Gcm {
            let key = self.blob_key(context, siv);
            if key.open_in_place_separate_tag(zero_nonce(), Aad::from(aad), end, out).is_err() {
                out.clear();
                return damaged("its authentication tag does not fit");
            }
        }
        let hash = self.siv_hash(&aad, out);
        let (expected_siv, expected_end) = hash.split_at(SIV_BYTES);
        let same = expected_siv == siv && (self.suite == Suite::Aes256Gcm || expected_end == end);
        if !same {
            out.clear();
            return damaged("its hash does not fit");
        }
        Ok(())
    }

    fn context_bytes(&self, context: &BlobContext) -> [u8; CONTEXT_BYTES] {
        let mut bytes = [0u8; CONTEXT_BYTES];
        bytes[0..2].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[2..18].copy_from_slice(&self.repository.0);
        bytes[18..34].copy_from_slice(&context.object);
        bytes[34..38].copy_from_slice(&context.ordinal.to_le_bytes());
        bytes[38] = context.kind;
        bytes[39..43].copy_from_slice(&context.raw_len.to_le_bytes());
        bytes[43..45].copy_from_slice(&self.suite.number().to_le_bytes());
        bytes
    }

    fn siv_hash(&self, context: &[u8; CONTEXT_BYTES], bytes: &[u8]) -> [u8; 32] {
        *blake3::Hasher::new_keyed(&self.siv_key).update(context).update(bytes).finalize().as_bytes()
    }

    fn blob_key_bytes(&self, context: &BlobContext, siv: &[u8]) -> Zeroizing<[u8; 32]> {
        let mut hasher = blake3::Hasher::new_keyed(&self.purpose_key);
        hasher.update(&context.object).update(&context.ordinal.to_le_bytes()).update(&[context.kind]).update(siv);
        Zeroizing::new(*hasher.finalize().as_bytes())
    }

    fn blob_key(&self, context: &BlobContext, siv: &[u8]) -> LessSafeKey {
        aes_key(&self.blob_key_bytes(context, siv))
    }
}

/// The cipher for one 256-bit key.
pub(crate) fn aes_key(key: &[u8; 32]) -> LessSafeKey {
    match UnboundKey::new(&AES_256_GCM, key) {
        Ok(key) => LessSafeKey::new(key),
        Err(_) => unreachable!("AES-256-GCM takes every key of 32 bytes"),
    }
}

/// The nonce of every sealing: keys are used for one text only.
pub(crate) fn zero_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn describe(context: &BlobContext) -> String {
    let object = data_encoding::HEXLOWER.encode(&context.object[..4]);
    format!("Blob {} of object {object}", context.ordinal)
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("suite", &self.suite).finish_non_exhaustive()
    }
}

/// All keys of a repository, derived from its root key. Wiped from memory when dropped.
pub struct Keys {
    suite: Suite,
    repository: RepositoryId,
    chunk_id: Zeroizing<[u8; 32]>,
    chunker: Zeroizing<[u8; 32]>,
    sketch: Zeroizing<[u8; 32]>,
    mac: Zeroizing<[u8; 32]>,
    data: Sealer,
    meta: Sealer,
    index: Sealer,
}

impl Keys {
    /// Derives every key: BLAKE3 `derive_key` with the context `holdfast v1 PURPOSE` over the root key.
    pub fn derive(root: &[u8; 32], repository: RepositoryId, suite: Suite) -> Self {
        let key = |purpose: &str| Zeroizing::new(blake3::derive_key(&format!("holdfast v1 {purpose}"), root));
        let sealer = |purpose| Sealer { suite, repository, purpose_key: key(purpose), siv_key: key("siv") };
        Self {
            suite,
            repository,
            chunk_id: key("chunk-id"),
            chunker: key("chunker"),
            sketch: key("sketch"),
            mac: key("mac"),
            data: sealer("data"),
            meta: sealer("meta"),
            index: sealer("index"),
        }
    }

    /// The keys of a repository without encryption: everybody can derive them from its id.
    pub fn public(repository: RepositoryId) -> Self {
        Self::derive(&blake3::derive_key("holdfast v1 public root", &repository.0), repository, Suite::None)
    }

    /// The suite.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// The repository.
    pub fn repository(&self) -> RepositoryId {
        self.repository
    }

    /// The identity of a chunk: keyed BLAKE3 of its plain bytes.
    pub fn chunk_id(&self, plain: &[u8]) -> ChunkId {
        ChunkId(*blake3::keyed_hash(&self.chunk_id, plain).as_bytes())
    }

    /// The Gear table of the chunker: the first 2048 bytes of the output stream of keyed BLAKE3(chunker key, `gear`)
    /// as 256 little-endian numbers.
    pub fn gear_table(&self) -> [u64; 256] {
        let mut bytes = Zeroizing::new([0u8; 2048]);
        blake3::Hasher::new_keyed(&self.chunker).update(b"gear").finalize_xof().fill(&mut *bytes);
        let mut table = [0u64; 256];
        for (entry, bytes) in table.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *entry = u64::from_le_bytes(*bytes);
        }
        table
    }

    /// Seals segments of stream bytes.
    pub fn data(&self) -> &Sealer {
        &self.data
    }

    /// Seals records: edits, recipes, hashes, trees, snapshots.
    pub fn meta(&self) -> &Sealer {
        &self.meta
    }

    /// Seals index objects and pack directories.
    pub fn index(&self) -> &Sealer {
        &self.index
    }

    /// The key of similarity sketches.
    pub fn sketch_key(&self) -> [u8; 32] {
        *self.sketch
    }

    /// Authenticates bytes that stay readable.
    pub fn mac(&self, bytes: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.mac, bytes).as_bytes()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("suite", &self.suite).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod witness;
