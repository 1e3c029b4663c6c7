//! Sweeps that cannot be done here, for a while.

use std::collections::BTreeMap;
use std::time::Duration;

use avsweep_domain::SweepId;
use tokio::time::Instant;

/// Sweeps whose jobs are not asked for, each up to its time.
#[derive(Debug, Default)]
pub struct PassedOver {
    sweeps: BTreeMap<SweepId, Entry>,
}

#[derive(Debug)]
struct Entry {
    until: Instant,
    problem: String,
}

impl PassedOver {
    /// Passes a sweep over for this long, for this reason.
    pub fn add(&mut self, sweep: SweepId, duration: Duration, problem: String) {
        self.sweeps.insert(sweep, Entry { until: Instant::now() + duration, problem });
    }

    /// Whether it is passed over.
    pub fn contains(&self, sweep: SweepId) -> bool {
        self.sweeps.contains_key(&sweep)
    }

    /// Forgets those whose time is over; the rest, as a request names them.
    pub fn current(&mut self) -> Vec<i64> {
        let now = Instant::now();
        self.sweeps.retain(|_, entry| entry.until > now);
        self.sweeps.keys().map(|sweep| sweep.0).collect()
    }

    /// What is wrong, for people; `None` when nothing is.
    pub fn problem(&self) -> Option<String> {
        let problems: Vec<_> = self
            .sweeps
            .iter()
            .map(|(sweep, entry)| format!("sweep {}: {}", sweep.0, entry.problem))
            .collect();
        (!problems.is_empty()).then(|| problems.join("; "))
    }
}
