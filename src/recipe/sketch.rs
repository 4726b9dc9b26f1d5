//! Sketches: a few hundred bytes that say which stored stream a new one resembles.
//!
//! A sketch is the bottom-k set (the `k` smallest keyed hashes) of the content-defined chunks in a stream's first
//! MiBs; the share of common members estimates how alike two streams are (Broder's min-wise hashing). It is keyed, so
//! it tells nothing to somebody without the repository's key, and is stored inside encrypted records all the same.

use fastcdc::v2020::FastCDC;

/// Bytes of a stream that a sketch looks at.
pub const SKETCH_INPUT_BYTES: usize = 4 << 20;
/// Members of a sketch, 8 bytes each.
pub const SKETCH_MEMBERS: usize = 64;
/// Common members below which two streams count as unrelated.
pub const SKETCH_COMMON_MIN: usize = 4;

/// The smallest keyed chunk hashes of a stream's beginning, ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sketch(pub Vec<u64>);

impl Sketch {
    /// Sketch of the first [`SKETCH_INPUT_BYTES`] of a stream.
    pub fn of(key: &[u8; 32], beginning: &[u8]) -> Self {
        let input = beginning.get(..SKETCH_INPUT_BYTES).unwrap_or(beginning);
        let mut members: Vec<u64> = FastCDC::new(input, 256, 1024, 4096)
            .map(|c| {
                let part = input.get(c.offset..c.offset + c.length).unwrap_or_default();
                let mut word = [0u8; 8];
                word.copy_from_slice(&blake3::keyed_hash(key, part).as_bytes()[..8]);
                u64::from_le_bytes(word)
            })
            .collect();
        members.sort_unstable();
        members.dedup();
        members.truncate(SKETCH_MEMBERS);
        Self(members)
    }

    /// How many members both have.
    pub fn common(&self, other: &Self) -> usize {
        self.0.iter().filter(|m| other.0.binary_search(m).is_ok()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::system::{Random, SeededRandom};

    #[test]
    fn resembles_itself_after_edits_and_nothing_else() {
        let mut a = vec![0u8; 3 << 20];
        SeededRandom::new(1).fill(&mut a);
        let mut edited = a.clone();
        for k in 0..60 {
            edited[k * 50_000] ^= 0x55;
        }
        edited.splice(100..100, *b"inserted");
        let mut b = vec![0u8; 3 << 20];
        SeededRandom::new(2).fill(&mut b);
        let key = [7u8; 32];
        let (sa, se, sb) = (Sketch::of(&key, &a), Sketch::of(&key, &edited), Sketch::of(&key, &b));
        assert_eq!(sa.0.len(), SKETCH_MEMBERS);
        assert!(sa.common(&se) > 50, "{}", sa.common(&se));
        assert_eq!(sa.common(&sb), 0);
        assert_eq!(Sketch::of(&[8; 32], &a).common(&sa), 0);
    }
}
