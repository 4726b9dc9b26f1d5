//! The identities stream of a files source: what tells a later run whether each file is still the same, unchanged one.
//! No I/O.
//!
//! [`IDENTITY_BYTES`] bytes for every regular file of the tree (hard links are none), in the order of the tree, and
//! nothing else: no version, no count. Zero stands for "none". No restore needs it, and whoever finds it damaged, too
//! short or missing reads the files instead, so it is stored once. It is apart from the tree because a tree that is
//! copied afresh changes all identities and often nothing else.

use crate::domain::entry::FileIdentity;

/// Bytes of one identity.
pub const IDENTITY_BYTES: usize = 4;

/// Appends the identity of the next file.
pub fn put(out: &mut Vec<u8>, identity: Option<FileIdentity>) {
    out.extend_from_slice(&identity.map_or([0; IDENTITY_BYTES], FileIdentity::bits));
}

/// Reads one identity.
pub fn get(bytes: [u8; IDENTITY_BYTES]) -> Option<FileIdentity> {
    (bytes != [0; IDENTITY_BYTES]).then(|| FileIdentity::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_none_and_no_identity_is_zero() {
        let zero = FileIdentity::new([0; 4]);
        let other = FileIdentity::new([0, 2, 3, 4]);
        let mut out = Vec::new();
        for identity in [None, Some(zero), Some(other)] {
            put(&mut out, identity);
        }
        assert_eq!(out, [0, 0, 0, 0, 1, 0, 0, 0, 0, 2, 3, 4]);
        assert_eq!((get([0; 4]), get([1, 0, 0, 0]), get([0, 2, 3, 4])), (None, Some(zero), Some(other)));
    }
}
