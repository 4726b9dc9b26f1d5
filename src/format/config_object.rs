//! The configuration of a repository: what was decided at init and never changes. Stored twice, readable without a key,
//! authenticated with one.
//!
//! Body: a MAC of 32 bytes, then the record (suite u16, created, made by, chunker, pack target, notes; see `Record`).
//! mac = MAC key over `holdfast v1 config` | header with copy number 0 | record. Whoever changes the suite or the chunker without the key is noticed on opening; without
//! encryption the key is public and the mac finds damage only.

use super::codec;
use super::envelope::{self, Expected, Header, ObjectTag};
use super::parity::ParityShare;
use super::seal::{Keys, Suite};
use super::{Error, Result};
use crate::domain::id::RepositoryId;
use serde::{Deserialize, Serialize};

/// The longest configuration object, stored bytes.
pub const STORED_BYTES_MAX: u64 = 64 << 10;

const MAC_BYTES: usize = 32;
const RECORD_BYTES_MAX: usize = 64 << 10;
/// FastCDC with a Gear table from the repository's key.
pub const CHUNKER_KEYED_FASTCDC: u16 = 1;

/// How streams are cut into chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkerConfig {
    /// The algorithm: [`CHUNKER_KEYED_FASTCDC`].
    pub id: u16,
    /// Shortest chunk, bytes; even.
    pub min_bytes: u32,
    /// Average chunk, bytes; even.
    pub avg_bytes: u32,
    /// Longest chunk, bytes; even.
    pub max_bytes: u32,
}

impl ChunkerConfig {
    /// 64 KiB on average.
    pub const DEFAULT: Self =
        Self { id: CHUNKER_KEYED_FASTCDC, min_bytes: 32 << 10, avg_bytes: 64 << 10, max_bytes: 256 << 10 };

    /// Within what the algorithm is made for.
    fn is_in_bounds(&self) -> bool {
        let sizes = [self.min_bytes, self.avg_bytes, self.max_bytes];
        (64..=1 << 20).contains(&self.min_bytes)
            && (256..=4 << 20).contains(&self.avg_bytes)
            && (1024..=16 << 20).contains(&self.max_bytes)
            && sizes.iter().all(|size| size % 2 == 0)
            && sizes.is_sorted_by(|a, b| a < b)
    }
}

/// What the writers of a repository have agreed on, known to be something that this program can do. Readers need none
/// of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriterParameters {
    chunker: ChunkerConfig,
    pack_bytes_target: u32,
    parity: Option<ParityShare>,
}

impl WriterParameters {
    /// Those of a repository that `init` makes.
    pub const DEFAULT: Self = Self { chunker: ChunkerConfig::DEFAULT, pack_bytes_target: 16 << 20, parity: None };

    /// How streams are cut.
    pub fn chunker(&self) -> ChunkerConfig {
        self.chunker
    }

    /// The longest pack that writers aim at, bytes.
    pub fn pack_bytes_target(&self) -> u32 {
        self.pack_bytes_target
    }

    /// The same with parity for every new pack, or without. This is each writer's own wish, not the repository's.
    #[must_use]
    pub fn with_parity(self, parity: Option<ParityShare>) -> Self {
        Self { parity, ..self }
    }

    /// How much parity new packs get.
    pub fn parity(&self) -> Option<ParityShare> {
        self.parity
    }
}

/// The configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The repository's name for its whole life.
    pub repository: RepositoryId,
    /// How its blobs are protected.
    pub suite: Suite,
    /// When it was made, nanoseconds since 1970 UTC.
    pub created_ns: i64,
    /// The program that made it, for example `holdfast 0.1.0`.
    pub created_by: String,
    /// How streams are cut.
    pub chunker: ChunkerConfig,
    /// The longest pack that writers aim at, bytes.
    pub pack_bytes_target: u32,
    /// Named additions of later versions; what a reader must not ignore has a mandatory feature bit as well.
    pub notes: Vec<(String, Vec<u8>)>,
}

#[derive(Serialize, Deserialize)]
struct Record {
    suite: u16,
    created_ns: i64,
    created_by: String,
    chunker: ChunkerConfig,
    pack_bytes_target: u32,
    notes: Vec<(String, Vec<u8>)>,
}

impl Config {
    /// What writers must keep to.
    ///
    /// # Errors
    /// [`Error::WriterParameters`] when this program does not know the chunker or cannot do what the values ask for.
    pub fn writer_parameters(&self) -> Result<WriterParameters> {
        let (chunker, pack_bytes_target) = (self.chunker, self.pack_bytes_target);
        let unfit = |reason: String| Err(Error::WriterParameters { reason });
        if chunker.id != CHUNKER_KEYED_FASTCDC {
            return unfit(format!("it does not know chunker {}", chunker.id));
        }
        if !chunker.is_in_bounds() {
            let ChunkerConfig { min_bytes, avg_bytes, max_bytes, .. } = chunker;
            return unfit(format!("it cannot cut chunks of {min_bytes}, {avg_bytes} and {max_bytes} bytes"));
        }
        if !(64 << 10..=128 << 20).contains(&pack_bytes_target) {
            return unfit(format!("it cannot write packs of {pack_bytes_target} bytes"));
        }
        Ok(WriterParameters { chunker, pack_bytes_target, parity: None })
    }

    /// The stored object.
    pub fn encode(&self, keys: &Keys, copy: u16) -> Vec<u8> {
        let record = codec::encode(&Record {
            suite: self.suite.number(),
            created_ns: self.created_ns,
            created_by: self.created_by.clone(),
            chunker: self.chunker,
            pack_bytes_target: self.pack_bytes_target,
            notes: self.notes.clone(),
        });
        let header =
            Header::new(ObjectTag::Config, self.repository, self.repository.0, self.suite.number()).with_copy(copy);
        let body = [keys.mac(&authenticated(&header, &record)).as_slice(), &record].concat();
        envelope::encode_object(&header, &body)
    }
}

/// A configuration as it was read: whole, but not known to be authentic yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnverifiedConfig {
    config: Config,
    mac: [u8; MAC_BYTES],
    authenticated: Vec<u8>,
}

impl UnverifiedConfig {
    /// Reads a stored configuration.
    ///
    /// # Errors
    /// [`Error`].
    pub fn decode(bytes: &[u8], copy: u16) -> Result<Self> {
        let expected = Expected { copy: Some(copy), ..Expected::any(ObjectTag::Config) };
        let (header, body) = envelope::decode_object(bytes, &expected)?;
        let damaged = |offset: usize, reason: &str| Err(Error::damaged("Configuration", offset as u64, reason));
        if header.object_id != header.repository.0 {
            return damaged(40, "its id is not that of the repository");
        }
        let Some((mac, record_bytes)) = body.split_first_chunk::<MAC_BYTES>() else {
            return damaged(envelope::HEADER_BYTES, "it is too short");
        };
        let at_record = envelope::HEADER_BYTES + MAC_BYTES;
        let record: Record = match codec::decode::<_, RECORD_BYTES_MAX>(record_bytes) {
            Ok(record) => record,
            Err(error) => return damaged(at_record, &error.to_string()),
        };
        let Some(suite) = Suite::from_number(record.suite).filter(|suite| suite.number() == header.suite) else {
            return damaged(22, "unknown suite, or two different ones");
        };
        let config = Config {
            repository: header.repository,
            suite,
            created_ns: record.created_ns,
            created_by: record.created_by,
            chunker: record.chunker,
            pack_bytes_target: record.pack_bytes_target,
            notes: record.notes,
        };
        Ok(Self { config, mac: *mac, authenticated: authenticated(&header, record_bytes) })
    }

    /// The repository that it claims to be of.
    pub fn repository(&self) -> RepositoryId {
        self.config.repository
    }

    /// The suite that it claims.
    pub fn suite(&self) -> Suite {
        self.config.suite
    }

    /// The configuration, if whoever wrote it had the key.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it is not authentic.
    pub fn verify(&self, keys: &Keys) -> Result<&Config> {
        let wanted = keys.mac(&self.authenticated);
        match aws_lc_rs::constant_time::verify_slices_are_equal(&wanted, &self.mac) {
            Ok(()) => Ok(&self.config),
            Err(_) => {
                Err(Error::damaged("Configuration", envelope::HEADER_BYTES as u64, "it was not written with this key"))
            }
        }
    }
}

fn authenticated(header: &Header, record: &[u8]) -> Vec<u8> {
    [b"holdfast v1 config".as_slice(), &header.with_copy(0).to_bytes(), record].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(suite: Suite) -> Config {
        Config {
            repository: RepositoryId([3; 16]),
            suite,
            created_ns: 1,
            created_by: "holdfast 0.1.0".into(),
            chunker: ChunkerConfig::DEFAULT,
            pack_bytes_target: 16 << 20,
            notes: vec![("later".into(), vec![1, 2, 3])],
        }
    }

    fn keys(suite: Suite) -> Keys {
        match suite {
            Suite::None => Keys::public(RepositoryId([3; 16])),
            Suite::Aes256Gcm => Keys::derive(&[7; 32], RepositoryId([3; 16]), suite),
        }
    }

    #[test]
    fn both_copies_round_trip() {
        for suite in [Suite::None, Suite::Aes256Gcm] {
            for copy in [0, 1] {
                let bytes = config(suite).encode(&keys(suite), copy);
                let read = UnverifiedConfig::decode(&bytes, copy).unwrap();
                assert_eq!(read.verify(&keys(suite)), Ok(&config(suite)));
                assert!(UnverifiedConfig::decode(&bytes, 1 - copy).is_err());
            }
        }
    }

    #[test]
    fn nobody_changes_it_without_the_key() {
        let keys = keys(Suite::Aes256Gcm);
        let stranger = Keys::derive(&[8; 32], RepositoryId([3; 16]), Suite::Aes256Gcm);
        let forged = config(Suite::Aes256Gcm).encode(&stranger, 0);
        assert!(UnverifiedConfig::decode(&forged, 0).unwrap().verify(&keys).is_err());
        // A downgrade to no encryption is well formed, and not authentic for who has the key.
        let downgraded = config(Suite::None).encode(&Keys::public(RepositoryId([3; 16])), 0);
        assert!(UnverifiedConfig::decode(&downgraded, 0).unwrap().verify(&keys).is_err());
    }

    #[test]
    fn values_out_of_bounds_are_readable_and_not_writable() {
        let keys = keys(Suite::Aes256Gcm);
        let mut wrong = vec![config(Suite::Aes256Gcm); 8];
        wrong[0].chunker.min_bytes = 33;
        wrong[1].chunker.avg_bytes = 8 << 20;
        wrong[2].chunker.max_bytes = 64 << 10;
        wrong[3].chunker.id = 2;
        wrong[4].pack_bytes_target = 0;
        wrong[5].chunker.min_bytes = 0;
        wrong[6].chunker.max_bytes = 32 << 20;
        wrong[7].pack_bytes_target = u32::MAX;
        for config in wrong {
            let read = UnverifiedConfig::decode(&config.encode(&keys, 0), 0).unwrap();
            let refused = read.verify(&keys).unwrap().writer_parameters();
            assert!(matches!(refused, Err(Error::WriterParameters { .. })), "{config:?}");
        }
        assert_eq!(config(Suite::None).writer_parameters(), Ok(WriterParameters::DEFAULT));
    }
}
