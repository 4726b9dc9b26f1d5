//! Randomness from the system's cryptographic generator.

use crate::domain::system::Random;

/// The generator for identifiers and keys.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealRandom;

impl Random for RealRandom {
    /// # Panics
    /// When the operating system has no random bytes to give. No identifier or key could be trusted then, so there is
    /// nothing sensible to go on with.
    fn fill(&self, buffer: &mut [u8]) {
        let filled = aws_lc_rs::rand::fill(buffer);
        assert!(filled.is_ok(), "the operating system gives no random bytes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_differ() {
        let random: &dyn Random = &RealRandom;
        assert_ne!(random.bytes::<32>(), random.bytes::<32>());
    }
}
