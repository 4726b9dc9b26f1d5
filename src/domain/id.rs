//! Identifiers: one newtype for each kind, 16 random bytes or a 32-byte keyed hash, shown as lower-case hex.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// A text that is not the hex form of an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not {1} lower-case hex digits")]
pub struct ParseIdError(pub String, pub usize);

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// Length of the identifier, bytes.
            pub const LEN: usize = $bytes;

            /// The whole identifier as lower-case hex.
            pub fn hex(&self) -> String {
                data_encoding::HEXLOWER.encode(&self.0)
            }

            /// The first eight hex digits, for people.
            pub fn short(&self) -> String {
                self.hex()[..8].to_owned()
            }

            /// Reads the whole lower-case hex form.
            ///
            /// # Errors
            /// [`ParseIdError`] when the text has another length or other characters.
            pub fn parse(text: &str) -> Result<Self, ParseIdError> {
                let wrong = || ParseIdError(text.to_owned(), 2 * $bytes);
                let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(|_| wrong())?;
                Ok(Self(bytes.try_into().map_err(|_| wrong())?))
            }
        }

        impl Serialize for $name {
            /// Hex where people may read it, else the bytes.
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match serializer.is_human_readable() {
                    true => serializer.serialize_str(&self.hex()),
                    false => self.0.serialize(serializer),
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                match deserializer.is_human_readable() {
                    true => Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom),
                    false => Ok(Self(<[u8; $bytes]>::deserialize(deserializer)?)),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }
    };
}

id_type!(
    /// Names a repository for its whole life; part of every object's header.
    RepositoryId, 16);
id_type!(
    /// Names a pack; random, never reused.
    PackId, 16);
id_type!(
    /// Names an index object; random, never reused.
    IndexId, 16);
id_type!(
    /// Names a run and, once it has committed, its snapshot: the commit renames `sessions/ID` to `snapshots/ID`.
    SnapshotId, 16);
id_type!(
    /// Names one version of one stream and the literal space that this version opened.
    VersionId, 16);
id_type!(
    /// Names a condemned record: packs that a prune is about to delete.
    CondemnedId, 16);
id_type!(
    /// Names an act: a restore in place, a guard, a drill, or what a guard holds.
    ActId, 16);
id_type!(
    /// Names a key slot.
    KeySlotId, 16);
id_type!(
    /// Keyed BLAKE3 of a chunk's plain bytes.
    ChunkId, 32);
id_type!(
    /// An unkeyed BLAKE3 or SHA-256 digest, as `b3sum` or `sha256sum` print it.
    Digest, 32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_hex() {
        let id = PackId([0xab; 16]);
        let text = serde_json::to_string(&id).unwrap();
        assert_eq!(text, format!("\"{}\"", "ab".repeat(16)));
        assert_eq!(serde_json::from_str::<PackId>(&text).unwrap(), id);
        assert!(serde_json::from_str::<PackId>("\"ab\"").is_err());
        assert!(serde_json::from_str::<PackId>("[1]").is_err());
    }

    #[test]
    fn hex_round_trip_and_rejects_other_text() {
        let id = PackId([0xab; 16]);
        assert_eq!(PackId::parse(&id.hex()), Ok(id));
        assert_eq!(id.short(), "abababab");
        for bad in ["", "ab", "AB", &"zz".repeat(16), &"ab".repeat(17)] {
            assert!(PackId::parse(bad).is_err(), "{bad}");
        }
    }
}
