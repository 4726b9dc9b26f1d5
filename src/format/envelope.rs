//! The frame around every stored object: a 64-byte header, the body, a 48-byte footer. All numbers little-endian.
//!
//! Header: 0 `HOLDFAST`; 8 u16 kind ([`ObjectTag`]); 10 u16 format version; 12 u32 mandatory feature bits; 16 u32
//! optional feature bits; 20 u16 copy number; 22 u16 suite; 24 repository id; 40 object id; 56 eight zero bytes.
//! Footer: u64 body length; `tsafdloh`; 32 bytes BLAKE3 (no key) of everything before them.
//!
//! The frame is the same in all versions for ever, so that a checksum can be checked without a key and without
//! knowing the version; therefore the checksum is judged first, and only whole objects are called "newer".

use super::{Error, Result};
use crate::domain::id::RepositoryId;

/// Length of the header, bytes.
pub const HEADER_BYTES: usize = 64;
/// Length of the footer, bytes.
pub const FOOTER_BYTES: usize = 48;
/// What the envelope adds to a body, bytes.
pub const OVERHEAD: usize = HEADER_BYTES + FOOTER_BYTES;
/// The longest body of any object, bytes.
pub const BODY_BYTES_MAX: u64 = 256 << 20;
/// The longest object, bytes: what a reader passes to a store as its bound when it knows nothing better.
pub const OBJECT_BYTES_MAX: u64 = BODY_BYTES_MAX + OVERHEAD as u64;
/// The format version that this program writes and the newest that it reads.
pub const FORMAT_VERSION: u16 = 1;
/// The mandatory feature bits that this program knows.
pub const KNOWN_FEATURES: u32 = 0;

const HEADER_MAGIC: [u8; 8] = *b"HOLDFAST";
const FOOTER_MAGIC: [u8; 8] = *b"tsafdloh";
const CHECKSUM_BYTES: usize = 32;

/// The kinds of object as the header numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum ObjectTag {
    /// The repository's configuration.
    Config = 1,
    /// A key slot.
    KeySlot = 2,
    /// A pack.
    Pack = 3,
    /// An index object.
    Index = 4,
    /// A session's start record.
    SessionStart = 5,
    /// A session's list of condemned records seen.
    SessionSaw = 6,
    /// A snapshot record.
    Snapshot = 7,
    /// A condemned record.
    Condemned = 8,
    /// A fence.
    Fence = 9,
    /// The tombstone of a forgotten snapshot.
    Tombstone = 10,
    /// The acceptance of a suspect snapshot.
    Acceptance = 11,
    /// One entry of an act.
    Act = 12,
    /// Parity of a pack.
    Parity = 13,
}

impl ObjectTag {
    /// All kinds.
    pub const ALL: [Self; 13] = [
        Self::Config,
        Self::KeySlot,
        Self::Pack,
        Self::Index,
        Self::SessionStart,
        Self::SessionSaw,
        Self::Snapshot,
        Self::Condemned,
        Self::Fence,
        Self::Tombstone,
        Self::Acceptance,
        Self::Act,
        Self::Parity,
    ];

    /// The number in the header.
    pub fn number(self) -> u16 {
        self as u16
    }

    /// The kind of a number, if it has one.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|tag| tag.number() == number)
    }

    /// The word for people, at the start of a sentence.
    pub fn word(self) -> &'static str {
        match self {
            Self::Config => "Configuration",
            Self::KeySlot => "Key slot",
            Self::Pack => "Pack",
            Self::Index => "Index object",
            Self::SessionStart => "Session start",
            Self::SessionSaw => "Session record",
            Self::Snapshot => "Snapshot",
            Self::Condemned => "Condemned record",
            Self::Fence => "Fence",
            Self::Tombstone => "Tombstone",
            Self::Acceptance => "Acceptance",
            Self::Act => "Entry of an act",
            Self::Parity => "Parity",
        }
    }
}

/// The header of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Kind.
    pub tag: ObjectTag,
    /// Feature bits that a reader must know.
    pub mandatory_features: u32,
    /// Feature bits that a reader may ignore.
    pub optional_features: u32,
    /// Copy number, 0 or 1.
    pub copy: u16,
    /// Encryption suite of the body; 0 for none.
    pub suite: u16,
    /// The repository that the object belongs to.
    pub repository: RepositoryId,
    /// The object's own id; for the configuration the repository's.
    pub object_id: [u8; 16],
}

impl Header {
    /// A header of the current version without features, copy 0.
    pub fn new(tag: ObjectTag, repository: RepositoryId, object_id: [u8; 16], suite: u16) -> Self {
        Self { tag, mandatory_features: 0, optional_features: 0, copy: 0, suite, repository, object_id }
    }

    /// The same header for another copy.
    pub fn with_copy(self, copy: u16) -> Self {
        Self { copy, ..self }
    }

    /// The same header with these optional feature bits.
    pub fn with_optional_features(self, optional_features: u32) -> Self {
        Self { optional_features, ..self }
    }

    /// The 64 bytes.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0u8; HEADER_BYTES];
        bytes[0..8].copy_from_slice(&HEADER_MAGIC);
        bytes[8..10].copy_from_slice(&self.tag.number().to_le_bytes());
        bytes[10..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.mandatory_features.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.optional_features.to_le_bytes());
        bytes[20..22].copy_from_slice(&self.copy.to_le_bytes());
        bytes[22..24].copy_from_slice(&self.suite.to_le_bytes());
        bytes[24..40].copy_from_slice(&self.repository.0);
        bytes[40..56].copy_from_slice(&self.object_id);
        bytes
    }

    /// Reads a header, for a reader that fetched no more of the object than this. The checksum is not checked here.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::NewerVersion`] and [`Error::UnknownFeatures`].
    pub fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Result<Self> {
        let damaged = |offset, reason: &str| Error::damaged("Object", offset, reason);
        if bytes[0..8] != HEADER_MAGIC {
            return Err(damaged(0, "it does not begin like an object of holdfast"));
        }
        let number = u16_at(bytes, 8);
        let version = u16_at(bytes, 10);
        let object = match ObjectTag::from_number(number) {
            Some(tag) => format!("{} {}", tag.word(), short_hex(&bytes[40..56])),
            None => format!("Object {} of kind {number}", short_hex(&bytes[40..56])),
        };
        if version > FORMAT_VERSION {
            return Err(Error::NewerVersion { object, version, supported: FORMAT_VERSION });
        }
        if version == 0 {
            return Err(damaged(10, "format version 0 does not exist"));
        }
        let mandatory_features = u32_at(bytes, 12);
        if mandatory_features & !KNOWN_FEATURES != 0 {
            return Err(Error::UnknownFeatures { object, bits: mandatory_features & !KNOWN_FEATURES });
        }
        let tag = ObjectTag::from_number(number).ok_or_else(|| damaged(8, "unknown kind of object"))?;
        if bytes[56..64] != [0; 8] {
            return Err(damaged(56, "reserved bytes are not zero"));
        }
        let copy = u16_at(bytes, 20);
        if copy > 1 {
            return Err(damaged(20, "copy number above 1"));
        }
        Ok(Self {
            tag,
            mandatory_features,
            optional_features: u32_at(bytes, 16),
            copy,
            suite: u16_at(bytes, 22),
            repository: RepositoryId(array_at(bytes, 24)),
            object_id: array_at(bytes, 40),
        })
    }

    /// The object as a message names it.
    fn describe(&self) -> String {
        format!("{} {}", self.tag.word(), short_hex(&self.object_id))
    }
}

/// What a reader knows about the object that it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Its kind.
    pub tag: ObjectTag,
    /// Its repository; `None` only while the configuration is read.
    pub repository: Option<RepositoryId>,
    /// Its id, as its name says.
    pub object_id: Option<[u8; 16]>,
    /// Its copy number, as its name says.
    pub copy: Option<u16>,
}

impl Expected {
    /// Any object of a kind; the fields say more.
    pub fn any(tag: ObjectTag) -> Self {
        Self { tag, repository: None, object_id: None, copy: None }
    }

    fn describe(&self) -> String {
        match self.object_id {
            Some(id) => format!("{} {}", self.tag.word(), short_hex(&id)),
            None => self.tag.word().to_owned(),
        }
    }

    fn check(&self, header: &Header) -> Result<()> {
        let wrong = |offset, reason: &str| Err(Error::damaged(self.describe(), offset, reason));
        if header.tag != self.tag {
            return wrong(8, &format!("it holds another kind of object ({})", header.describe()));
        }
        if self.repository.is_some_and(|id| id != header.repository) {
            return wrong(24, &format!("it belongs to another repository ({})", header.repository.short()));
        }
        if self.object_id.is_some_and(|id| id != header.object_id) {
            return wrong(40, &format!("it holds another object ({})", header.describe()));
        }
        if self.copy.is_some_and(|copy| copy != header.copy) {
            return wrong(20, &format!("it holds copy {}", header.copy));
        }
        Ok(())
    }
}

/// A whole object in memory.
///
/// # Panics
/// If the body is longer than [`BODY_BYTES_MAX`].
pub fn encode_object(header: &Header, body: &[u8]) -> Vec<u8> {
    let mut encoder = ObjectEncoder::new(header);
    encoder.update(body);
    let mut bytes = Vec::with_capacity(body.len() + OVERHEAD);
    bytes.extend_from_slice(&header.to_bytes());
    bytes.extend_from_slice(body);
    bytes.extend_from_slice(&encoder.finish());
    bytes
}

/// Checks an object and returns its header and body.
///
/// # Errors
/// [`Error::Damaged`] when any stored byte is wrong or the object is not the expected one; [`Error::NewerVersion`]
/// and [`Error::UnknownFeatures`] when the bytes are whole but this program may not read them.
pub fn decode_object<'a>(bytes: &'a [u8], expected: &Expected) -> Result<(Header, &'a [u8])> {
    let named = |error| match error {
        Error::Damaged { offset, reason, .. } => Error::Damaged { object: expected.describe(), offset, reason },
        other => other,
    };
    let (header, body) = split(bytes).map_err(named)?;
    let header = Header::from_bytes(header).map_err(named)?;
    expected.check(&header)?;
    Ok((header, body))
}

/// Checks the frame and the checksum alone: needs no key and works for every version.
///
/// # Errors
/// [`Error::Damaged`].
pub fn check_stored(bytes: &[u8]) -> Result<()> {
    split(bytes).map(|_| ())
}

/// The header and body of an object whose frame and checksum are right.
fn split(bytes: &[u8]) -> Result<(&[u8; HEADER_BYTES], &[u8])> {
    let mut hasher = StoredHasher::new();
    hasher.update(bytes);
    hasher.finish()?;
    let too_short = || Error::damaged("Object", bytes.len() as u64, "it is too short");
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or_else(too_short)?;
    let (body, _) = rest.split_last_chunk::<FOOTER_BYTES>().ok_or_else(too_short)?;
    Ok((header, body))
}

/// Makes the footer while header and body go elsewhere piece by piece.
#[derive(Debug)]
pub struct ObjectEncoder {
    hasher: blake3::Hasher,
    body_bytes: u64,
}

impl ObjectEncoder {
    /// Starts an object. The caller stores [`Header::to_bytes`] of the same header first.
    pub fn new(header: &Header) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&header.to_bytes());
        Self { hasher, body_bytes: 0 }
    }

    /// Takes the next bytes of the body.
    pub fn update(&mut self, body: &[u8]) {
        self.hasher.update(body);
        self.body_bytes += body.len() as u64;
    }

    /// The length of the body so far.
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    /// The footer, to be stored after the last byte of the body.
    ///
    /// # Panics
    /// If the body is longer than [`BODY_BYTES_MAX`]: no reader would take the object.
    pub fn finish(mut self) -> [u8; FOOTER_BYTES] {
        assert!(self.body_bytes <= BODY_BYTES_MAX, "an object's body holds at most {BODY_BYTES_MAX} bytes");
        let mut footer = [0u8; FOOTER_BYTES];
        footer[0..8].copy_from_slice(&self.body_bytes.to_le_bytes());
        footer[8..16].copy_from_slice(&FOOTER_MAGIC);
        self.hasher.update(&footer[..16]);
        footer[16..].copy_from_slice(self.hasher.finalize().as_bytes());
        footer
    }
}

/// Checks a stored object that passes by in pieces of any length, in constant memory. Needs no key.
#[derive(Debug, Default)]
pub struct StoredHasher {
    hasher: blake3::Hasher,
    /// The first bytes, up to a header.
    head: Vec<u8>,
    /// The newest bytes, up to a footer: only those before them are known to be covered by the checksum.
    tail: Vec<u8>,
    stored_bytes: u64,
}

impl StoredHasher {
    /// Starts an object.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next stored bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let missing = (HEADER_BYTES - self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..missing]);
        self.stored_bytes += bytes.len() as u64;
        let keep_of_new = bytes.len().min(FOOTER_BYTES);
        let (old, new) = bytes.split_at(bytes.len() - keep_of_new);
        let drop_of_tail = (self.tail.len() + keep_of_new).saturating_sub(FOOTER_BYTES);
        self.hasher.update(&self.tail[..drop_of_tail]);
        self.tail.drain(..drop_of_tail);
        self.hasher.update(old);
        self.tail.extend_from_slice(new);
    }

    /// How many bytes have passed.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// The verdict, and the header's 64 bytes (not yet judged: see [`Header::from_bytes`]).
    ///
    /// # Errors
    /// [`Error::Damaged`] when the frame or the checksum is wrong.
    pub fn finish(mut self) -> Result<[u8; HEADER_BYTES]> {
        let damaged = |offset, reason: &str| Err(Error::damaged("Object", offset, reason));
        let (Ok(head), Ok(tail)) =
            (<[u8; HEADER_BYTES]>::try_from(self.head), <[u8; FOOTER_BYTES]>::try_from(self.tail))
        else {
            return damaged(self.stored_bytes, "it is too short");
        };
        let Some(body_bytes) = self.stored_bytes.checked_sub(OVERHEAD as u64) else {
            return damaged(self.stored_bytes, "it is too short");
        };
        if body_bytes > BODY_BYTES_MAX {
            return damaged(OBJECT_BYTES_MAX, "it is longer than any object");
        }
        if head[..8] != HEADER_MAGIC {
            return damaged(0, "it does not begin like an object of holdfast");
        }
        let footer_at = HEADER_BYTES as u64 + body_bytes;
        if tail[8..16] != FOOTER_MAGIC {
            return damaged(footer_at + 8, "it does not end like an object of holdfast");
        }
        if u64::from_le_bytes(array_at(&tail, 0)) != body_bytes {
            return damaged(footer_at, "its length is not the one that it states");
        }
        self.hasher.update(&tail[..FOOTER_BYTES - CHECKSUM_BYTES]);
        if self.hasher.finalize() != blake3::Hash::from_bytes(array_at(&tail, FOOTER_BYTES - CHECKSUM_BYTES)) {
            return damaged(0, "its checksum does not fit its bytes");
        }
        Ok(head)
    }
}

/// `N` bytes of a fixed field; offsets are constants of this file.
fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut out = [0u8; N];
    out.copy_from_slice(&bytes[offset..offset + N]);
    out
}

fn u16_at(bytes: &[u8; HEADER_BYTES], offset: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, offset))
}

fn u32_at(bytes: &[u8; HEADER_BYTES], offset: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, offset))
}

/// The first four bytes of an id in hex, as ids are shortened everywhere.
fn short_hex(id: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(id.get(..4).unwrap_or(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> Header {
        Header::new(ObjectTag::Pack, RepositoryId([1; 16]), [2; 16], 1).with_copy(1)
    }

    fn expected() -> Expected {
        Expected {
            tag: ObjectTag::Pack,
            repository: Some(RepositoryId([1; 16])),
            object_id: Some([2; 16]),
            copy: Some(1),
        }
    }

    /// Recomputes the checksum after a test has changed bytes before it.
    fn reseal(bytes: &mut [u8]) {
        let end = bytes.len() - CHECKSUM_BYTES;
        let sum = blake3::hash(&bytes[..end]);
        bytes[end..].copy_from_slice(sum.as_bytes());
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let bytes = encode_object(&header(), b"body");
        assert_eq!(bytes.len(), 64 + 4 + 48);
        assert_eq!(&bytes[..24], b"HOLDFAST\x03\0\x01\0\0\0\0\0\0\0\0\0\x01\0\x01\0");
        assert_eq!(bytes[24..40], [1; 16]);
        assert_eq!(bytes[40..56], [2; 16]);
        assert_eq!(bytes[56..64], [0; 8]);
        assert_eq!(&bytes[64..84], b"body\x04\0\0\0\0\0\0\0tsafdloh");
        assert_eq!(bytes[84..], *blake3::hash(&bytes[..84]).as_bytes());
        assert_eq!(decode_object(&bytes, &expected()), Ok((header(), b"body".as_slice())));
    }

    #[test]
    fn every_flipped_byte_and_every_length_is_noticed() {
        let bytes = encode_object(&header(), b"some body");
        for at in 0..bytes.len() {
            for xor in [0x01, 0x80, 0xff] {
                let mut bad = bytes.clone();
                bad[at] ^= xor;
                assert!(matches!(decode_object(&bad, &expected()), Err(Error::Damaged { .. })), "byte {at}");
                assert!(check_stored(&bad).is_err(), "byte {at}");
            }
            assert!(check_stored(&bytes[..at]).is_err(), "cut at {at}");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(check_stored(&longer).is_err());
    }

    #[test]
    fn another_object_in_its_place_is_damage() {
        let bytes = encode_object(&header(), b"x");
        let others = [
            Expected { tag: ObjectTag::Index, ..expected() },
            Expected { repository: Some(RepositoryId([9; 16])), ..expected() },
            Expected { object_id: Some([9; 16]), ..expected() },
            Expected { copy: Some(0), ..expected() },
        ];
        for other in others {
            assert!(matches!(decode_object(&bytes, &other), Err(Error::Damaged { .. })), "{other:?}");
        }
        assert!(decode_object(&bytes, &Expected::any(ObjectTag::Pack)).is_ok());
    }

    #[test]
    fn whole_objects_of_the_future_are_refused_by_name() {
        let change = |offset: usize, value: u8| {
            let mut bytes = encode_object(&header(), b"x");
            bytes[offset] = value;
            reseal(&mut bytes);
            assert_eq!(check_stored(&bytes), Ok(()));
            decode_object(&bytes, &expected()).unwrap_err()
        };
        assert!(matches!(change(10, 2), Error::NewerVersion { version: 2, supported: 1, .. }));
        assert!(matches!(change(15, 0x80), Error::UnknownFeatures { bits: 0x8000_0000, .. }));
        for (offset, value) in [(8, 0), (8, 99), (10, 0), (20, 2), (56, 1), (63, 1)] {
            assert!(matches!(change(offset, value), Error::Damaged { .. }), "byte {offset}");
        }
        // Optional bits may be set by later versions.
        let mut bytes = encode_object(&header(), b"x");
        bytes[16] = 1;
        reseal(&mut bytes);
        assert_eq!(decode_object(&bytes, &expected()).map(|(h, _)| h.optional_features), Ok(1));
    }

    proptest! {
        #[test]
        fn pieces_of_any_length_give_the_same_verdict(body in proptest::collection::vec(any::<u8>(), 0..400),
                                                     piece in 1usize..130, cut in 0usize..60) {
            let mut encoder = ObjectEncoder::new(&header());
            body.chunks(piece).for_each(|p| encoder.update(p));
            let bytes = encode_object(&header(), &body);
            prop_assert_eq!(&encoder.finish()[..], &bytes[bytes.len() - FOOTER_BYTES..]);
            let seen = &bytes[..bytes.len() - cut];
            let mut hasher = StoredHasher::new();
            seen.chunks(piece).for_each(|p| hasher.update(p));
            prop_assert_eq!(hasher.stored_bytes(), seen.len() as u64);
            prop_assert_eq!(hasher.finish().is_ok(), cut == 0);
        }

        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(check_stored(&bytes).is_err());
        }
    }
}
