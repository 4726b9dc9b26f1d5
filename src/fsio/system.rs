//! Randomness from the system's cryptographic generator.

use crate::domain::system::Random;
use rustix::io::Errno;
use rustix::rand::GetRandomFlags;

/// The generator for identifiers and keys.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealRandom;

impl Random for RealRandom {
    /// # Panics
    /// When the operating system has no random bytes to give. No identifier or key could be trusted then, so there is
    /// nothing sensible to go on with.
    fn fill(&self, buffer: &mut [u8]) {
        // Straight from the system: a generator of our own would have to be seeded, which costs tens of milliseconds in
        // every short command, and would have to notice when the process forks.
        let mut rest = buffer;
        while !rest.is_empty() {
            let filled = match rustix::rand::getrandom(&mut *rest, GetRandomFlags::empty()) {
                Err(Errno::INTR) => 0,
                other => other.unwrap_or(usize::MAX),
            };
            assert!(filled <= rest.len(), "the operating system gives no random bytes");
            rest = rest.split_at_mut(filled).1;
        }
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
