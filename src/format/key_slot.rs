//! Key slots: the repository's root key, sealed under one secret of its owner.
//!
//! Body of a slot: the record [`SlotFacts`], then the 32 sealed bytes and the 16-byte tag. From the secret come 64 bytes:
//! * passphrase: Argon2id (version 0x13) of the passphrase with the slot's salt and costs;
//! * key file and recovery key: the first 64 bytes of BLAKE3 `derive_key` (`holdfast v1 key-file slot` or `holdfast v1
//!   recovery slot`) over secret | salt. They are random, so stretching them would gain nothing.
//!
//! The first 32 are the key of AES-256-GCM (nonce zero: the salt is fresh, so the key seals one text; additional data =
//! `holdfast v1 key slot` | header with copy number 0 | record). The other 32 are the commitment in the record, compared
//! in constant time before anything is decrypted: without it one slot could be made to open under many passphrases.
//!
//! Invariant: costs outside the bounds are refused before any work is done for them, and the derivation's memory is
//! free again before a slot's answer is known.

use super::codec;
use super::envelope::{self, Expected, Header, ObjectTag};
use super::seal::{Suite, aes_key, zero_nonce};
use super::secret_text::{self, SecretKey, TextError, TextKind};
use super::{Error, Result};
use crate::domain::id::{KeySlotId, RepositoryId};
use crate::domain::system::Random;
use aws_lc_rs::aead::Aad;
use serde::{Deserialize, Serialize};
use std::fmt;
use zeroize::Zeroizing;

/// The longest key slot object, stored bytes.
pub const STORED_BYTES_MAX: u64 = 64 << 10;
/// The longest label and host name, bytes.
pub const LABEL_BYTES_MAX: usize = 1024;

const SEALED_BYTES: usize = 48;
const RECORD_BYTES_MAX: usize = 16 << 10;

/// The repository's root key; wiped from memory when dropped.
pub type RootKey = Zeroizing<[u8; 32]>;

/// Kinds of slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlotKind {
    /// Something a person remembers.
    Passphrase,
    /// Random bytes in a file.
    KeyFile,
    /// Random bytes on paper.
    Recovery,
}

impl SlotKind {
    /// The word for people and for JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passphrase => "passphrase",
            Self::KeyFile => "key-file",
            Self::Recovery => "recovery",
        }
    }
}

/// What opens a slot.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// A passphrase, taken as the bytes that were typed.
    Passphrase(Zeroizing<Vec<u8>>),
    /// The secret of a key file.
    KeyFile(SecretKey),
    /// The secret of a recovery kit.
    Recovery(SecretKey),
}

impl Secret {
    /// A new random secret for a key file.
    pub fn new_key_file(random: &dyn Random) -> Self {
        Self::KeyFile(Zeroizing::new(random.bytes()))
    }

    /// A new random secret for a recovery kit.
    pub fn new_recovery(random: &dyn Random) -> Self {
        Self::Recovery(Zeroizing::new(random.bytes()))
    }

    /// Reads a key file, or a recovery kit used as one.
    ///
    /// # Errors
    /// [`TextError`].
    pub fn from_key_file(bytes: &[u8]) -> std::result::Result<Self, TextError> {
        let text = std::str::from_utf8(bytes).map_err(|_| TextError::NotAKey)?;
        Ok(match secret_text::parse(text)? {
            (TextKind::KeyFile, secret) => Self::KeyFile(secret),
            (TextKind::Recovery, secret) => Self::Recovery(secret),
        })
    }

    /// What somebody typed where a passphrase is asked for: the recovery key from a kit, or else a passphrase.
    pub fn from_typed(text: Zeroizing<String>) -> Self {
        match secret_text::parse(&text) {
            Ok((_, secret)) => Self::Recovery(secret),
            Err(_) => Self::Passphrase(Zeroizing::new(text.as_bytes().to_vec())),
        }
    }

    /// The contents of the file to keep; `None` for a passphrase.
    pub fn to_text(&self) -> Option<Zeroizing<String>> {
        match self {
            Self::Passphrase(_) => None,
            Self::KeyFile(secret) => Some(secret_text::block(secret, TextKind::KeyFile)),
            Self::Recovery(secret) => Some(secret_text::block(secret, TextKind::Recovery)),
        }
    }

    /// The kind of slot that it opens.
    pub fn kind(&self) -> SlotKind {
        match self {
            Self::Passphrase(_) => SlotKind::Passphrase,
            Self::KeyFile(_) => SlotKind::KeyFile,
            Self::Recovery(_) => SlotKind::Recovery,
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.kind().as_str())
    }
}

/// Costs of Argon2id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KdfCosts {
    /// Memory, KiB.
    pub memory_kib: u32,
    /// Passes.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl KdfCosts {
    /// The second choice of RFC 9106: 64 MiB, 3 passes, 4 lanes.
    pub const DEFAULT: Self = Self { memory_kib: 64 << 10, passes: 3, lanes: 4 };
    /// The cheapest that is accepted: 19 MiB, 2 passes, 1 lane (2 passes are not demanded of what is read).
    pub const CHEAPEST: Self = Self { memory_kib: 19 << 10, passes: 2, lanes: 1 };

    /// Whether the costs are neither too low to protect nor so high that a hostile slot could stop the machine.
    pub fn are_acceptable(&self) -> bool {
        (19 << 10..=4 << 20).contains(&self.memory_kib)
            && (1..=64).contains(&self.passes)
            && (1..=16).contains(&self.lanes)
    }
}

/// What a slot says openly about itself. All of it is authenticated by the sealed key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotFacts {
    /// Kind of secret.
    pub kind: SlotKind,
    /// What its owner calls it.
    pub label: String,
    /// When it was made, nanoseconds since 1970 UTC.
    pub created_ns: i64,
    /// On which host.
    pub host: String,
    /// Costs of the derivation; for passphrases only.
    pub kdf: Option<KdfCosts>,
    /// Random, for this slot alone.
    pub salt: [u8; 32],
    /// The commitment to the secret.
    pub commitment: [u8; 32],
}

/// What its maker decides about a new slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSlot {
    /// What to call it; cut at [`LABEL_BYTES_MAX`] bytes.
    pub label: String,
    /// When it is made, nanoseconds since 1970 UTC.
    pub created_ns: i64,
    /// On which host.
    pub host: String,
    /// Costs for a passphrase.
    pub kdf: KdfCosts,
}

/// A key slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySlot {
    /// Its name.
    pub id: KeySlotId,
    /// The repository whose root key it holds.
    pub repository: RepositoryId,
    /// What it says about itself.
    pub facts: SlotFacts,
    /// The header's bits that a reader may ignore; authenticated like the facts.
    optional_features: u32,
    sealed: [u8; SEALED_BYTES],
}

impl KeySlot {
    /// Seals a root key under a secret, with a fresh id and salt.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], and [`Error::Damaged`] for costs outside the bounds.
    pub fn seal(
        repository: RepositoryId,
        root: &RootKey,
        secret: &Secret,
        new: NewSlot,
        random: &dyn Random,
    ) -> Result<Self> {
        let id = KeySlotId(random.bytes());
        let salt: [u8; 32] = random.bytes();
        let kdf = matches!(secret, Secret::Passphrase(_)).then_some(new.kdf);
        let derived = derive(id, secret, kdf, &salt)?;
        let (label, host) = (cut(new.label), cut(new.host));
        let facts = SlotFacts {
            kind: secret.kind(),
            label,
            created_ns: new.created_ns,
            host,
            kdf,
            salt,
            commitment: derived.commitment,
        };
        let mut slot = Self { id, repository, facts, optional_features: 0, sealed: [0; SEALED_BYTES] };
        let aad = slot.additional_data();
        let (text, tag_place) = slot.sealed.split_at_mut(32);
        text.copy_from_slice(&**root);
        #[cfg(test)]
        super::seal::witness::met(&derived.key, &aad, text);
        match aes_key(&derived.key).seal_in_place_separate_tag(zero_nonce(), Aad::from(&aad), text) {
            Ok(tag) => tag_place.copy_from_slice(tag.as_ref()),
            Err(_) => unreachable!("AES-256-GCM seals 32 bytes"),
        }
        Ok(slot)
    }

    /// The root key; `None` when the secret is not the slot's.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the secret is right but the slot is not what was sealed; [`Error::OutOfMemory`].
    pub fn open(&self, secret: &Secret) -> Result<Option<RootKey>> {
        if secret.kind() != self.facts.kind {
            return Ok(None);
        }
        let derived = derive(self.id, secret, self.facts.kdf, &self.facts.salt)?;
        if aws_lc_rs::constant_time::verify_slices_are_equal(&derived.commitment, &self.facts.commitment).is_err() {
            return Ok(None);
        }
        let aad = self.additional_data();
        let mut root = RootKey::default();
        let (text, tag) = self.sealed.split_at(32);
        root.copy_from_slice(text);
        match aes_key(&derived.key).open_in_place_separate_tag(zero_nonce(), Aad::from(&aad), tag, &mut *root) {
            Ok(_) => Ok(Some(root)),
            Err(_) => Err(Error::damaged(describe(self.id), 0, "its key does not open although the secret is right")),
        }
    }

    /// The stored object.
    pub fn encode(&self, copy: u16) -> Vec<u8> {
        let mut body = codec::encode(&self.facts);
        body.extend_from_slice(&self.sealed);
        envelope::encode_object(&self.header().with_copy(copy), &body)
    }

    fn header(&self) -> Header {
        let header = Header::new(ObjectTag::KeySlot, self.repository, self.id.0, Suite::Aes256Gcm.number());
        Header { optional_features: self.optional_features, ..header }
    }

    fn additional_data(&self) -> Vec<u8> {
        [b"holdfast v1 key slot".as_slice(), &self.header().to_bytes(), &codec::encode(&self.facts)].concat()
    }

    /// Reads a stored slot.
    ///
    /// # Errors
    /// [`Error`].
    pub fn decode(bytes: &[u8], repository: RepositoryId, id: KeySlotId, copy: u16) -> Result<Self> {
        let expected =
            Expected { tag: ObjectTag::KeySlot, repository: Some(repository), object_id: Some(id.0), copy: Some(copy) };
        let (header, body) = envelope::decode_object(bytes, &expected)?;
        let damaged = |offset, reason: &str| Error::damaged(describe(id), offset, reason);
        if header.suite != Suite::Aes256Gcm.number() {
            return Err(damaged(22, "unknown suite"));
        }
        let at_body = envelope::HEADER_BYTES as u64;
        let Some((record, sealed)) = body.split_last_chunk::<SEALED_BYTES>() else {
            return Err(damaged(at_body, "it is too short"));
        };
        let facts: SlotFacts =
            codec::decode::<_, RECORD_BYTES_MAX>(record).map_err(|error| damaged(at_body, &error.to_string()))?;
        if facts.kdf.is_some() != (facts.kind == SlotKind::Passphrase) {
            return Err(damaged(at_body, "its costs do not fit its kind"));
        }
        if facts.kdf.is_some_and(|costs| !costs.are_acceptable()) {
            return Err(damaged(at_body, "the costs of its key derivation are out of bounds"));
        }
        Ok(Self { id, repository, facts, optional_features: header.optional_features, sealed: *sealed })
    }
}

/// What follows from a secret and a salt.
struct Derived {
    key: Zeroizing<[u8; 32]>,
    commitment: [u8; 32],
}

fn derive(id: KeySlotId, secret: &Secret, kdf: Option<KdfCosts>, salt: &[u8; 32]) -> Result<Derived> {
    let mut out = Zeroizing::new([0u8; 64]);
    let stretch = |context: &str, secret: &SecretKey, out: &mut [u8]| {
        blake3::Hasher::new_derive_key(context).update(&**secret).update(salt).finalize_xof().fill(out);
    };
    match (secret, kdf) {
        (Secret::Passphrase(passphrase), Some(costs)) => argon2id(id, passphrase, salt, costs, &mut out)?,
        (Secret::Passphrase(_), None) => return Err(Error::damaged(describe(id), 0, "it has no costs")),
        (Secret::KeyFile(secret), _) => stretch("holdfast v1 key-file slot", secret, &mut *out),
        (Secret::Recovery(secret), _) => stretch("holdfast v1 recovery slot", secret, &mut *out),
    }
    let (key, commitment) = out.split_at(32);
    let mut derived = Derived { key: Zeroizing::default(), commitment: [0; 32] };
    derived.key.copy_from_slice(key);
    derived.commitment.copy_from_slice(commitment);
    Ok(derived)
}

/// Argon2id in memory of its own, which is free again on return.
fn argon2id(id: KeySlotId, passphrase: &[u8], salt: &[u8; 32], costs: KdfCosts, out: &mut [u8; 64]) -> Result<()> {
    let refused = || Error::damaged(describe(id), 0, "the costs of its key derivation are out of bounds");
    if !costs.are_acceptable() {
        return Err(refused());
    }
    let params =
        argon2::Params::new(costs.memory_kib, costs.passes, costs.lanes, Some(out.len())).map_err(|_| refused())?;
    let blocks = params.block_count();
    let mut memory = Vec::new();
    if memory.try_reserve_exact(blocks).is_err() {
        return Err(Error::OutOfMemory { object: describe(id), bytes: blocks as u64 * argon2::Block::SIZE as u64 });
    }
    memory.resize(blocks, argon2::Block::new());
    argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params)
        .hash_password_into_with_memory(passphrase, salt, out, &mut memory)
        .map_err(|error| Error::damaged(describe(id), 0, format!("its key cannot be derived ({error})")))
}

fn describe(id: KeySlotId) -> String {
    format!("Key slot {}", id.short())
}

/// Labels are for people; a very long one is cut at a character.
fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(LABEL_BYTES_MAX));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::system::SeededRandom;

    const REPOSITORY: RepositoryId = RepositoryId([5; 16]);

    fn new_slot() -> NewSlot {
        NewSlot { label: "laptop".into(), created_ns: 7, host: "h".into(), kdf: KdfCosts::CHEAPEST }
    }

    fn root() -> RootKey {
        Zeroizing::new([0xaa; 32])
    }

    fn passphrase(text: &str) -> Secret {
        Secret::Passphrase(Zeroizing::new(text.as_bytes().to_vec()))
    }

    fn seal(secret: &Secret) -> KeySlot {
        KeySlot::seal(REPOSITORY, &root(), secret, new_slot(), &SeededRandom::new(4)).unwrap()
    }

    #[test]
    fn each_kind_opens_with_its_secret_alone() {
        let random = SeededRandom::new(1);
        let secrets = [passphrase("correct horse"), Secret::new_key_file(&random), Secret::new_recovery(&random)];
        for secret in &secrets {
            let slot = seal(secret);
            for copy in [0, 1] {
                let read = KeySlot::decode(&slot.encode(copy), REPOSITORY, slot.id, copy).unwrap();
                assert_eq!(read, slot);
                assert!(KeySlot::decode(&slot.encode(copy), REPOSITORY, slot.id, 1 - copy).is_err());
            }
            assert_eq!(slot.open(secret), Ok(Some(root())));
            for other in secrets.iter().filter(|other| *other != secret) {
                assert_eq!(slot.open(other), Ok(None));
            }
        }
        assert_eq!(seal(&secrets[0]).open(&passphrase("correct horsf")), Ok(None));
        // The same bytes as another kind of secret open nothing either.
        let Secret::KeyFile(bytes) = &secrets[1] else { unreachable!() };
        assert_eq!(seal(&secrets[1]).open(&Secret::Recovery(bytes.clone())), Ok(None));
    }

    /// Argon2id's own test vector: RFC 9106, section 5.3.
    #[test]
    fn published_vector_of_argon2id() {
        let mut params = argon2::ParamsBuilder::new();
        params.m_cost(32).t_cost(3).p_cost(4).output_len(32);
        params.data(argon2::AssociatedData::new(&[4; 12]).unwrap());
        let (algorithm, version) = (argon2::Algorithm::Argon2id, argon2::Version::V0x13);
        let with = argon2::Argon2::new_with_secret(&[3; 8], algorithm, version, params.build().unwrap()).unwrap();
        let mut out = [0u8; 32];
        with.hash_password_into(&[1; 32], &[2; 16], &mut out).unwrap();
        let published = "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659";
        assert_eq!(data_encoding::HEXLOWER.encode(&out), published);
    }

    #[test]
    fn known_answer_of_argon2id() {
        // The answer was computed with OpenSSL.
        let mut out = [0u8; 64];
        argon2id(KeySlotId([0; 16]), b"password", b"somesaltsomesaltsomesaltsomesalt", KdfCosts::DEFAULT, &mut out)
            .unwrap();
        assert_eq!(data_encoding::HEXLOWER.encode(&out), KNOWN_ARGON2ID);
    }

    #[test]
    fn costs_out_of_bounds_are_refused_before_any_work() {
        let slot = seal(&passphrase("x"));
        let good = KdfCosts::CHEAPEST;
        for bad in [
            KdfCosts { memory_kib: (19 << 10) - 1, ..good },
            KdfCosts { memory_kib: (4 << 20) + 1, ..good },
            KdfCosts { memory_kib: u32::MAX, ..good },
            KdfCosts { passes: 0, ..good },
            KdfCosts { passes: 65, ..good },
            KdfCosts { lanes: 0, ..good },
            KdfCosts { lanes: 17, ..good },
        ] {
            let mut hostile = slot.clone();
            hostile.facts.kdf = Some(bad);
            assert!(KeySlot::decode(&hostile.encode(0), REPOSITORY, slot.id, 0).is_err(), "{bad:?}");
            assert!(hostile.open(&passphrase("x")).is_err(), "{bad:?}");
            let new = NewSlot { kdf: bad, ..new_slot() };
            assert!(KeySlot::seal(REPOSITORY, &root(), &passphrase("x"), new, &SeededRandom::new(1)).is_err());
        }
        let mut odd = slot.clone();
        odd.facts.kdf = None;
        assert!(KeySlot::decode(&odd.encode(0), REPOSITORY, slot.id, 0).is_err());
    }

    #[test]
    fn what_a_slot_says_about_itself_cannot_be_changed() {
        let secret = Secret::new_key_file(&SeededRandom::new(1));
        let slot = seal(&secret);
        let mut others = vec![slot.clone(); 6];
        others[0].facts.label = "desktop".into();
        others[1].facts.created_ns += 1;
        others[2].facts.host = "elsewhere".into();
        others[3].id = KeySlotId([1; 16]);
        others[4].repository = RepositoryId([1; 16]);
        others[5].optional_features = 1;
        for other in others {
            assert!(other.open(&secret).is_err(), "{other:?}");
        }
        for at in 0..SEALED_BYTES {
            let mut bad = slot.clone();
            bad.sealed[at] ^= 1;
            assert!(bad.open(&secret).is_err(), "{at}");
        }
    }

    #[test]
    fn secrets_come_back_from_their_text_and_are_not_printed() {
        let random = SeededRandom::new(1);
        for secret in [Secret::new_key_file(&random), Secret::new_recovery(&random)] {
            let text = secret.to_text().unwrap();
            assert_eq!(Secret::from_key_file(text.as_bytes()), Ok(secret.clone()));
            assert!(format!("{secret:?}").starts_with("Secret("));
            assert!(format!("{secret:?}").len() < 20);
        }
        let recovery = Secret::new_recovery(&random);
        let Secret::Recovery(bytes) = &recovery else { unreachable!() };
        let typed = secret_text::groups(bytes).iter().map(|g| g.to_lowercase()).collect::<Vec<_>>().join(" ");
        assert_eq!(Secret::from_typed(Zeroizing::new(typed)), recovery);
        assert_eq!(Secret::from_typed(Zeroizing::new("hunter2".to_owned())), passphrase("hunter2"));
        assert_eq!(passphrase("x").to_text(), None);
        assert!(Secret::from_key_file(&[0xff, 0]).is_err());
    }

    #[test]
    fn long_labels_are_cut_between_characters() {
        let new = NewSlot { label: "ö".repeat(2000), ..new_slot() };
        let secret = Secret::new_key_file(&SeededRandom::new(1));
        let slot = KeySlot::seal(REPOSITORY, &root(), &secret, new, &SeededRandom::new(2)).unwrap();
        assert_eq!(slot.facts.label.len(), LABEL_BYTES_MAX);
        assert!(slot.encode(0).len() as u64 <= STORED_BYTES_MAX);
    }

    const KNOWN_ARGON2ID: &str = "f90cdb80e6b3229c95a826a026e2301b728e1528d2d1eccbd357a0b4cd47cb3f0149b2eb94466c931a517e8f94347cd5f0423ec7785a29649019b54b532d7a54";
}
