//! Lease tokens: fresh random bytes for every claim.

use std::sync::{Mutex, PoisonError};

use avsweep_domain::LeaseToken;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// Draws lease tokens.
#[derive(Debug)]
pub struct TokenSource(Mutex<StdRng>);

impl TokenSource {
    /// Tokens that nobody can guess, seeded by the operating system.
    pub fn from_system() -> Self {
        Self(Mutex::new(rand::make_rng()))
    }

    /// The same tokens for the same seed: for tests only.
    pub fn seeded(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }

    /// The next token.
    pub fn draw(&self) -> LeaseToken {
        let mut bytes = [0; 16];
        // A poisoned generator is still a generator: no invariant can be half-made here.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(&mut bytes);
        LeaseToken::from_bytes(bytes)
    }
}
