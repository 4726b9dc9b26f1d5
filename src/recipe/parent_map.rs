//! A map of the whole parent stream by chunk hash: the way back when the child has lost its place.
//!
//! Large insertions, deletions and moves (a dropped table, a renamed folder) take the matched place out of the
//! matcher's window. Then the parent is decoded once, cut into small content-defined chunks, and their hashes kept:
//! 16 bytes for about 8 KiB. Only chunks that occur once serve as anchors. A false anchor costs nothing but a
//! missed match, since every copy is compared byte for byte.

use fastcdc::v2020::FastCDC;

const CHUNK_BYTES_MIN: usize = 2 << 10;
const CHUNK_BYTES_AVG: usize = 8 << 10;
const CHUNK_BYTES_MAX: usize = 32 << 10;
/// Bytes cut at a time; the last chunk of a block may be short, which loses one anchor in a hundred.
const BLOCK_BYTES: usize = 1 << 20;
/// Largest map: 2^20 anchors, 16 MiB, a parent of about 8 GiB. Beyond it half of the anchors are dropped, then half again.
const ANCHORS_MAX: usize = 1 << 20;

/// Hashes of a stream's chunks with their offsets.
#[derive(Debug, Default)]
pub struct ParentMap {
    anchors: Vec<(u64, u64)>,
    /// Only hashes whose low bits are zero are kept.
    thinning: u32,
    pending: Vec<u8>,
    pending_start: u64,
    sealed: bool,
}

/// A child chunk that the parent has, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// Position in the child window.
    pub at: usize,
    /// Offset in the parent stream.
    pub parent: u64,
    /// Length of the chunk, bytes.
    pub len: usize,
}

fn chunks(bytes: &[u8]) -> impl Iterator<Item = (usize, usize, u64)> + '_ {
    FastCDC::new(bytes, CHUNK_BYTES_MIN, CHUNK_BYTES_AVG, CHUNK_BYTES_MAX).map(move |c| {
        let part = bytes.get(c.offset..c.offset + c.length).unwrap_or_default();
        let hash = blake3::hash(part);
        let mut word = [0u8; 8];
        word.copy_from_slice(&hash.as_bytes()[..8]);
        (c.offset, c.length, u64::from_le_bytes(word))
    })
}

impl ParentMap {
    /// Takes the next bytes of the parent, in order from offset 0.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let take = bytes.len().min(BLOCK_BYTES - self.pending.len());
            let (now, rest) = bytes.split_at(take);
            self.pending.extend_from_slice(now);
            bytes = rest;
            if self.pending.len() == BLOCK_BYTES {
                self.cut(false);
            }
        }
    }

    fn cut(&mut self, last: bool) {
        let mut done = 0;
        let total = self.pending.len();
        let mask = (1u64 << self.thinning) - 1;
        for (offset, length, hash) in chunks(&self.pending) {
            // the last chunk of a block ends where the block ends, not where the content says
            if !last && offset + length == total && offset > 0 {
                break;
            }
            if hash & mask == 0 {
                self.anchors.push((hash, self.pending_start + offset as u64));
            }
            done = offset + length;
        }
        self.pending.drain(..done);
        self.pending_start += done as u64;
        if self.anchors.len() > ANCHORS_MAX {
            self.thinning += 1;
            let mask = (1u64 << self.thinning) - 1;
            self.anchors.retain(|a| a.0 & mask == 0);
        }
    }

    /// Ends the parent; lookups are possible from now on.
    pub fn seal(&mut self) {
        self.cut(true);
        self.pending = Vec::new();
        self.anchors.sort_unstable();
        // chunks that occur more than once say nothing about the place
        let mut kept: Vec<(u64, u64)> = Vec::with_capacity(self.anchors.len());
        for group in self.anchors.chunk_by(|a, b| a.0 == b.0) {
            if let [one] = group {
                kept.push(*one);
            }
        }
        self.anchors = kept;
        self.sealed = true;
    }

    /// Anchors of a child window, ascending by position.
    pub fn anchors(&self, child: &[u8]) -> Vec<Anchor> {
        debug_assert!(self.sealed);
        chunks(child)
            .filter_map(|(at, len, hash)| {
                let k = self.anchors.binary_search_by_key(&hash, |a| a.0).ok()?;
                self.anchors.get(k).map(|a| Anchor { at, parent: a.1, len })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::system::{Random, SeededRandom};

    #[test]
    fn finds_a_block_wherever_it_went() {
        let mut parent = vec![0u8; 5 << 20];
        SeededRandom::new(11).fill(&mut parent);
        let mut map = ParentMap::default();
        for part in parent.chunks(77_777) {
            map.feed(part);
        }
        map.seal();
        let child = &parent[3_333_333..4_444_444];
        let found = map.anchors(child);
        let covered: usize = found.iter().map(|a| a.len).sum();
        assert!(covered > child.len() * 9 / 10, "{covered} of {}", child.len());
        assert!(found.iter().all(|a| a.parent == 3_333_333 + a.at as u64));
        let mut other = vec![0u8; 1 << 20];
        SeededRandom::new(12).fill(&mut other);
        assert!(map.anchors(&other).is_empty());
    }
}
