//! What the outside world gives us, as traits, so that a simulator can stand in for it: time and randomness.
//! Child processes are in [`crate::source::process`], storage in [`crate::storage`].

use jiff::Timestamp;

/// The time of day. No decision about what is safe to delete may rest on it.
pub trait Clock: Send + Sync {
    /// The current time.
    fn now(&self) -> Timestamp;
}

/// A source of unpredictable bytes, for identifiers and keys.
pub trait Random: Send + Sync {
    /// Fills the whole buffer.
    fn fill(&self, buffer: &mut [u8]);
}

impl dyn Random + '_ {
    /// Returns `N` fresh bytes.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut out = [0u8; N];
        self.fill(&mut out);
        out
    }
}

/// A clock that stands still or moves as a test says.
#[derive(Debug)]
pub struct FixedClock(pub std::sync::Mutex<Timestamp>);

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Reproducible bytes from a seed: the BLAKE3 output stream of the seed. For tests and benchmarks only.
#[derive(Debug)]
pub struct SeededRandom(std::sync::Mutex<blake3::OutputReader>);

impl SeededRandom {
    /// A generator whose whole output follows from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(std::sync::Mutex::new(blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof()))
    }
}

impl Random for SeededRandom {
    fn fill(&self, buffer: &mut [u8]) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).fill(buffer);
    }
}
