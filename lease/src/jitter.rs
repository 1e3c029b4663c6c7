//! Random numbers that can be repeated.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::Backoff;

/// Where waits are drawn from. Clones draw from one sequence, which a seed repeats.
///
/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014): spreading retries needs no
/// better one, and its whole state is one number.
#[derive(Clone, Debug)]
pub struct Jitter(Arc<AtomicU64>);

impl Default for Jitter {
    /// A sequence of its own for every process.
    fn default() -> Self {
        Self::seeded(rand::random())
    }
}

impl Jitter {
    /// The sequence of this seed.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(AtomicU64::new(seed)))
    }

    /// The next number, evenly from 0 up to 1.
    pub fn draw(&self) -> f64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut mixed = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        // The upper 53 bits are an f64's precision.
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// The wait after this many failures in a row.
    pub fn delay(&self, backoff: Backoff, failures: u32) -> Duration {
        backoff.delay(failures, self.draw())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_sequence_and_the_draws_are_spread_evenly() {
        let draws = |seed| {
            let jitter = Jitter::seeded(seed);
            (0..10_000).map(|_| jitter.draw()).collect::<Vec<_>>()
        };
        assert_eq!(draws(7), draws(7));
        assert_ne!(draws(7), draws(8));
        let drawn = draws(7);
        assert!(drawn.iter().all(|draw| (0.0..1.0).contains(draw)));
        let mean = drawn.iter().sum::<f64>() / drawn.len() as f64;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
    }

    #[test]
    fn the_sequence_is_that_of_the_published_generator() {
        // First output of SplitMix64 for the seed 0, as its authors' code gives it.
        let wanted = (0xe220_a839_7b1d_cdaf_u64 >> 11) as f64 / (1_u64 << 53) as f64;
        assert_eq!(Jitter::seeded(0).draw().to_bits(), wanted.to_bits());
    }
}
