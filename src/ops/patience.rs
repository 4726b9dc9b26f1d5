//! Waiting for another run to end.

use super::cancel::{Cancel, Cancelled};
use super::observer::{Event, Observer};
use crate::domain::system::Random;
use crate::domain::units::format_duration;
use std::time::{Duration, Instant};

/// How often the wish to stop is looked at.
const CANCEL_EVERY: Duration = Duration::from_millis(50);
/// Shortest time between two attempts.
const ATTEMPT_EVERY_MS: u64 = 500;

/// How long another run is waited for, and who may end the wait.
pub struct Patience<'a> {
    /// Zero: not at all.
    pub longest: Duration,
    /// Keeps two that wait for each other out of step.
    pub random: &'a dyn Random,
    /// Hears whom the wait is for.
    pub observer: &'a dyn Observer,
    /// Ends the wait early.
    pub cancel: &'a Cancel,
}

impl std::fmt::Debug for Patience<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Patience({:?})", self.longest)
    }
}

impl Patience<'_> {
    /// Attempts something until nobody is in its way. `busy` says who is, from an error that means no more than that.
    ///
    /// # Errors
    /// The last attempt's error; [`Cancelled`].
    pub fn attempt<T, E: From<Cancelled>>(
        &self,
        busy: impl Fn(&E) -> Option<String>,
        mut attempt: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        let began = Instant::now();
        let mut said = None;
        loop {
            let error = match attempt() {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let left = self.longest.saturating_sub(began.elapsed());
            let Some(who) = busy(&error).filter(|_| !left.is_zero()) else { return Err(error) };
            if said.as_ref() != Some(&who) {
                let message = format!("Waiting up to {}: {who}", format_duration(left));
                self.observer.event(&Event::Note { code: "maintenance.waiting", message: &message });
                said = Some(who);
            }
            let [more] = self.random.bytes::<1>();
            pause(self.cancel, left.min(Duration::from_millis(ATTEMPT_EVERY_MS + 2 * u64::from(more))))?;
        }
    }
}

/// Waits, and looks at the wish to stop meanwhile.
///
/// # Errors
/// [`Cancelled`].
pub fn pause(cancel: &Cancel, length: Duration) -> Result<(), Cancelled> {
    let until = Instant::now() + length;
    loop {
        cancel.check()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(CANCEL_EVERY));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::system::SeededRandom;
    use crate::ops::observer::Silent;

    #[derive(Debug, PartialEq)]
    enum Outcome {
        Busy,
        Broken,
        Cancelled,
    }

    impl From<Cancelled> for Outcome {
        fn from(_: Cancelled) -> Self {
            Self::Cancelled
        }
    }

    fn busy(error: &Outcome) -> Option<String> {
        (*error == Outcome::Busy).then(|| "somebody".to_owned())
    }

    #[test]
    fn only_the_busy_are_waited_for() {
        let (random, cancel) = (SeededRandom::new(1), Cancel::new());
        let patience =
            |ms| Patience { longest: Duration::from_millis(ms), random: &random, observer: &Silent, cancel: &cancel };
        let after = |n: usize, then: fn() -> Result<u8, Outcome>| {
            let mut left = n;
            move || {
                left = left.wrapping_sub(1);
                if left == usize::MAX { then() } else { Err(Outcome::Busy) }
            }
        };
        assert_eq!(patience(60_000).attempt(busy, after(2, || Ok(7))), Ok(7));
        assert_eq!(patience(60_000).attempt(busy, after(0, || Err(Outcome::Broken))), Err(Outcome::Broken));
        assert_eq!(patience(0).attempt(busy, after(1, || Ok(7))), Err(Outcome::Busy));
        assert_eq!(patience(700).attempt(busy, after(1000, || Ok(7))), Err(Outcome::Busy));
        cancel.cancel();
        assert_eq!(patience(60_000).attempt(busy, after(1, || Ok(7))), Err(Outcome::Cancelled));
    }
}
