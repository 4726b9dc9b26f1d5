//! Content-defined chunking of what is stored whole: FastCDC (Xia et al., 2016 and 2020) with a keyed gear table.
//!
//! The parameters and the table are part of the format: the table comes from the repository's chunker key, so that
//! chunk borders tell nothing about known files. Cutting depends on the bytes alone, never on how they arrive.

use super::config_object::WriterParameters;
use fastcdc::v2020::{Normalization, cut_gear, select_masks};

/// Cuts byte runs into chunks.
#[derive(Clone)]
pub struct Chunker {
    min_bytes: usize,
    avg_bytes: usize,
    max_bytes: usize,
    gear: Vec<u64>,
    gear_shifted: Vec<u64>,
    mask_small: u64,
    mask_large: u64,
}

impl std::fmt::Debug for Chunker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Chunker(..)")
    }
}

impl Chunker {
    /// A chunker with the repository's 256-entry gear table and its sizes.
    pub fn new(gear: &[u64; 256], parameters: &WriterParameters) -> Self {
        let size = |bytes: u32| usize::try_from(bytes).unwrap_or(usize::MAX);
        let sizes = parameters.chunker();
        let (min_bytes, avg_bytes, max_bytes) = (size(sizes.min_bytes), size(sizes.avg_bytes), size(sizes.max_bytes));
        let (mask_small, mask_large) = select_masks(avg_bytes, Normalization::Level1);
        let gear_shifted = gear.iter().map(|g| g << 1).collect();
        Self { min_bytes, avg_bytes, max_bytes, gear: gear.to_vec(), gear_shifted, mask_small, mask_large }
    }

    /// Longest chunk, bytes.
    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Length of the chunk at the start of `bytes`. If it equals `bytes.len()` and more bytes may follow, the border is
    /// only certain once `bytes` holds [`Self::max_bytes`] bytes.
    pub fn cut(&self, bytes: &[u8]) -> usize {
        if bytes.len() <= self.min_bytes {
            return bytes.len();
        }
        let (_, length) = cut_gear(
            bytes,
            self.min_bytes,
            self.avg_bytes,
            self.max_bytes,
            self.mask_small,
            self.mask_large,
            self.mask_small << 1,
            self.mask_large << 1,
            &self.gear,
            &self.gear_shifted,
        );
        length.clamp(1, bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::system::{Random, SeededRandom};

    #[test]
    fn golden_cuts_and_key_dependence() {
        let mut gear = [0u64; 256];
        let mut other = [0u64; 256];
        for (i, (a, b)) in gear.iter_mut().zip(other.iter_mut()).enumerate() {
            let pick = |s: &str| {
                let h = blake3::hash(format!("{s}{i}").as_bytes());
                u64::from_le_bytes(*h.as_bytes().first_chunk::<8>().unwrap())
            };
            (*a, *b) = (pick("gear"), pick("other"));
        }
        let mut data = vec![0u8; 2 << 20];
        SeededRandom::new(5).fill(&mut data);
        let cuts = |g: &[u64; 256]| {
            let chunker = Chunker::new(g, &WriterParameters::DEFAULT);
            let (mut at, mut all) = (0, Vec::new());
            while at < data.len() {
                at += chunker.cut(&data[at..]);
                all.push(at);
            }
            all
        };
        let ours = cuts(&gear);
        assert_ne!(ours, cuts(&other));
        assert_eq!(ours.last(), Some(&data.len()));
        assert!((20..50).contains(&ours.len()), "{}", ours.len());
        // pinned: a change here is a change of the format
        assert_eq!(blake3::hash(format!("{ours:?}").as_bytes()).to_hex()[..16], *"6dc9feb078497cf0");
    }
}
