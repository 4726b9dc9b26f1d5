//! BLAKE3 of a stream with one intermediate value for each MiB, from a single pass.
//!
//! The intermediate values are the chaining values of BLAKE3's own tree at 1 MiB subtrees, so the root made from them
//! is the ordinary BLAKE3 of the stream, as `b3sum` prints it. A part of a stream can be checked by itself.

use crate::domain::id::Digest;
use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

/// Bytes under one leaf.
pub const LEAF_BYTES: usize = 1 << 20;

/// Hashes a stream.
#[derive(Debug)]
pub struct StreamHasher {
    current: blake3::Hasher,
    in_leaf: usize,
    total: u64,
    leaves: Vec<Digest>,
}

/// The hash of a whole stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamHash {
    /// BLAKE3 of all bytes.
    pub root: Digest,
    /// One value for each MiB begun; a stream of at most one MiB has its root as only leaf, an empty one none.
    pub leaves: Vec<Digest>,
    /// Bytes hashed.
    pub plain_bytes: u64,
}

impl Default for StreamHasher {
    fn default() -> Self {
        Self { current: blake3::Hasher::new(), in_leaf: 0, total: 0, leaves: Vec::new() }
    }
}

impl StreamHasher {
    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.in_leaf == LEAF_BYTES {
                self.close_leaf();
            }
            let (now, rest) = bytes.split_at(bytes.len().min(LEAF_BYTES - self.in_leaf));
            self.current.update(now);
            self.in_leaf += now.len();
            self.total += now.len() as u64;
            bytes = rest;
        }
    }

    /// Leaves that are complete and certain so far. A full leaf closes only when a byte follows it.
    pub fn leaves(&self) -> &[Digest] {
        &self.leaves
    }

    /// Bytes hashed so far.
    pub fn plain_bytes(&self) -> u64 {
        self.total
    }

    fn close_leaf(&mut self) {
        self.leaves.push(Digest(self.current.finalize_non_root()));
        let mut next = blake3::Hasher::new();
        next.set_input_offset(self.total);
        self.current = next;
        self.in_leaf = 0;
    }

    /// Ends the stream.
    pub fn finish(mut self) -> StreamHash {
        let plain_bytes = self.total;
        if self.leaves.is_empty() {
            let root = Digest(*self.current.finalize().as_bytes());
            let leaves = if plain_bytes == 0 { Vec::new() } else { vec![root] };
            return StreamHash { root, leaves, plain_bytes };
        }
        self.leaves.push(Digest(self.current.finalize_non_root()));
        let root = root_of(&self.leaves);
        StreamHash { root, leaves: self.leaves, plain_bytes }
    }
}

/// The root over at least two leaves.
fn root_of(leaves: &[Digest]) -> Digest {
    let (left, right) = halves(leaves);
    Digest(*merge_subtrees_root(&inner(left), &inner(right), Mode::Hash).as_bytes())
}

/// BLAKE3's shape: the left subtree is the largest power of two that leaves something for the right.
fn halves(leaves: &[Digest]) -> (&[Digest], &[Digest]) {
    leaves.split_at(leaves.len().next_power_of_two() / 2)
}

fn inner(leaves: &[Digest]) -> [u8; 32] {
    match leaves {
        [one] => one.0,
        _ => {
            let (left, right) = halves(leaves);
            merge_subtrees_non_root(&inner(left), &inner(right), Mode::Hash)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_plain_blake3() {
        let data: Vec<u8> = (0..9 * LEAF_BYTES + 17).map(|i| ((i * 31) >> 5) as u8).collect();
        for n in [0, 1, 1000, LEAF_BYTES - 1, LEAF_BYTES, LEAF_BYTES + 1, 2 * LEAF_BYTES, 3 * LEAF_BYTES, data.len()] {
            let mut hasher = StreamHasher::default();
            for part in data[..n].chunks(333_333) {
                hasher.update(part);
            }
            let hash = hasher.finish();
            assert_eq!(hash.root.0, *blake3::hash(&data[..n]).as_bytes(), "{n}");
            assert_eq!(hash.leaves.len(), n.div_ceil(LEAF_BYTES));
        }
    }
}
