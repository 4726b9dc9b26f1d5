//! The extension `samples` of a snapshot record: what compression would make of each source. docs/format.md, section
//! 15, gives the bytes. It is no part of any proof: one that cannot be read is as good as none.

use super::codec;
use crate::domain::suspicion::Sample;

/// The extension's name.
pub const EXTENSION: &str = "samples";
/// Longest extension that is read, bytes.
pub const BYTES_MAX: usize = 4 << 20;

/// The extension, or none where there is nothing to say.
pub fn extension(samples: &[Sample]) -> Option<(String, Vec<u8>)> {
    (!samples.is_empty()).then(|| (EXTENSION.to_owned(), codec::encode(&samples)))
}

/// The samples among a snapshot's extensions.
pub fn of(extensions: &[(String, Vec<u8>)]) -> Vec<Sample> {
    let found = extensions.iter().find(|(name, _)| name == EXTENSION);
    found.and_then(|(_, bytes)| codec::decode::<Vec<Sample>, BYTES_MAX>(bytes).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_as_written_and_rubbish_is_none() {
        let sample =
            Sample { source: "db".to_owned(), sampled_bytes: 1 << 20, saved_bytes: 700_000, ..Sample::default() };
        let files = Sample { source: "code".to_owned(), changed_files: 300, hardened_files: 2, ..Sample::default() };
        let written = extension(&[sample.clone(), files.clone()]).unwrap();
        assert_eq!(of(&[("other".to_owned(), vec![1]), written.clone()]), [sample, files]);
        assert_eq!(of(&[]), []);
        assert_eq!(extension(&[]), None);
        for end in 0..written.1.len() {
            assert_eq!(of(&[(EXTENSION.to_owned(), written.1[..end].to_vec())]), []);
        }
        assert_eq!(of(&[(EXTENSION.to_owned(), vec![0xff; 40])]), []);
    }
}
