//! Seeded random numbers.

use rand::{Rng, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// The generator of one purpose: another seed, purpose or number gives an independent one.
pub(crate) fn stream(seed: u64, purpose: &str, number: u64) -> ChaCha8Rng {
    let mut hash = blake3::Hasher::new();
    hash.update(&seed.to_le_bytes()).update(&number.to_le_bytes()).update(purpose.as_bytes());
    ChaCha8Rng::from_seed(*hash.finalize().as_bytes())
}

/// A standard normal number (G. E. P. Box, M. E. Muller, 1958).
pub(crate) fn normal(generator: &mut impl Rng) -> f64 {
    let first: f64 = 1.0 - generator.random::<f64>();
    let second: f64 = generator.random();
    (-2.0 * first.ln()).sqrt() * (2.0 * std::f64::consts::PI * second).cos()
}
