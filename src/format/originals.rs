//! The extension `originals` of a snapshot record: the files of other tools that it was imported from. docs/format.md,
//! section 15, gives the bytes.

use super::codec;
use crate::domain::original::Original;

/// The extension's name.
pub const EXTENSION: &str = "originals";
/// Longest extension that is read, bytes.
pub const BYTES_MAX: usize = 4 << 20;

/// The extension, or none where there is nothing to say.
pub fn extension(originals: &[Original]) -> Option<(String, Vec<u8>)> {
    (!originals.is_empty()).then(|| (EXTENSION.to_owned(), codec::encode(&originals)))
}

/// The originals among a snapshot's extensions; none when they cannot be read.
pub fn of(extensions: &[(String, Vec<u8>)]) -> Vec<Original> {
    let found = extensions.iter().find(|(name, _)| name == EXTENSION);
    found.and_then(|(_, bytes)| codec::decode::<Vec<Original>, BYTES_MAX>(bytes).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::Digest;

    #[test]
    fn originals_are_read_as_written_and_rubbish_is_none() {
        let original = Original {
            source: "app.sql".to_owned(),
            name: "2024-07-12/app.sql.gz".to_owned(),
            bytes: 1 << 40,
            sha256: Digest([7; 32]),
            modified_ns: -5,
            packing: "gzip".to_owned(),
        };
        let plain = Original { packing: String::new(), ..original.clone() };
        let written = extension(&[original.clone(), plain.clone()]).unwrap();
        assert_eq!(of(&[("other".to_owned(), vec![1]), written.clone()]), [original, plain]);
        assert_eq!((of(&[]), extension(&[])), (Vec::new(), None));
        for end in 0..written.1.len() {
            assert_eq!(of(&[(EXTENSION.to_owned(), written.1[..end].to_vec())]), []);
        }
    }
}
