//! When to try again: exponential backoff with full jitter.

use std::time::Duration;

/// Exponential backoff with full jitter.
///
/// After failure number n the wait is drawn evenly from zero to min(cap, base · 2ⁿ⁻¹), which spreads the retries of
/// many clients best (Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Longest wait after the first failure.
    pub base: Duration,
    /// Longest wait ever.
    pub cap: Duration,
}

impl Backoff {
    /// The longest wait after this many failures in a row (at least one).
    pub fn ceiling(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.base.saturating_mul(1 << doublings).min(self.cap)
    }

    /// The wait after this many failures in a row, for a draw from 0 to 1.
    pub fn delay(&self, failures: u32, draw: f64) -> Duration {
        self.ceiling(failures).mul_f64(draw.clamp(0.0, 1.0))
    }

    /// The wait after this many failures in a row, drawn at random.
    pub fn random_delay(&self, failures: u32) -> Duration {
        self.delay(failures, rand::random::<f64>())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BACKOFF: Backoff = Backoff { base: Duration::from_millis(500), cap: Duration::from_secs(30) };

    #[test]
    fn ceilings_double_up_to_the_cap() {
        let seconds: Vec<_> = (0..9).map(|failures| BACKOFF.ceiling(failures).as_secs_f64()).collect();
        assert_eq!(seconds, [0.5, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]);
        assert_eq!(BACKOFF.ceiling(u32::MAX), BACKOFF.cap);
    }

    proptest! {
        #[test]
        fn every_delay_lies_between_zero_and_the_ceiling(failures in 0u32..200, draw in 0.0f64..=1.0) {
            prop_assert!(BACKOFF.delay(failures, draw) <= BACKOFF.ceiling(failures));
        }
    }
}
