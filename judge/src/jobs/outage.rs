//! An endpoint's absence, waited out.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use avsweep_lease::{Backoff, Jitter};
use tokio::time::Instant;

/// How long no jobs are leased because an endpoint is away.
#[derive(Debug, Default)]
pub(super) struct Outage {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Pauses in a row without a job judged.
    pauses: u32,
    until: Option<Instant>,
}

impl Outage {
    /// Notes that the endpoint was away just now; how long to pause from here on.
    ///
    /// Jobs that fail side by side are one outage: during a pause no further one is counted.
    pub(super) fn note(&self, backoff: Backoff, jitter: &Jitter) -> Duration {
        let now = Instant::now();
        let mut state = self.lock();
        if let Some(until) = state.until.filter(|until| *until > now) {
            return until - now;
        }
        state.pauses = state.pauses.saturating_add(1);
        let pause = jitter.delay(backoff, state.pauses);
        state.until = Some(now + pause);
        pause
    }

    /// Notes that a job was judged.
    pub(super) fn over(&self) {
        *self.lock() = State::default();
    }

    /// Up to when to pause.
    pub(super) fn until(&self) -> Option<Instant> {
        self.lock().until.filter(|until| *until > Instant::now())
    }

    /// No code panics while it holds the lock, so what it guards is whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
