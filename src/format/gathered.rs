//! The extension `gathered` of a head: a literal space that was made for this record alone. docs/format.md, section 11.

use super::codec;
use crate::domain::id::VersionId;
use serde::{Deserialize, Serialize};

/// The extension's name.
pub const EXTENSION: &str = "gathered";
/// Longest extension that is read, bytes.
const BYTES_MAX: usize = 64;

/// A literal space all of which this record names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gathered {
    /// The space.
    pub space: VersionId,
    /// Its length.
    pub bytes: u64,
}

impl Gathered {
    /// As a head keeps it.
    pub fn extension(&self) -> (String, Vec<u8>) {
        (EXTENSION.to_owned(), codec::encode(self))
    }

    /// What a head's extensions say; None also where they cannot be read, since nothing but time is lost by it.
    pub fn of(extensions: &[(String, Vec<u8>)]) -> Option<Self> {
        let (_, bytes) = extensions.iter().find(|(name, _)| name == EXTENSION)?;
        codec::decode::<Self, BYTES_MAX>(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_as_written_and_rubbish_is_none() {
        let gathered = Gathered { space: VersionId([7; 16]), bytes: 1 << 40 };
        let written = gathered.extension();
        assert_eq!(Gathered::of(&[("other".to_owned(), vec![1]), written.clone()]), Some(gathered));
        assert_eq!(Gathered::of(&[]), None);
        for end in 0..written.1.len() {
            assert_eq!(Gathered::of(&[(EXTENSION.to_owned(), written.1[..end].to_vec())]), None);
        }
    }
}
