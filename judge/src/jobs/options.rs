//! How a judge's process works, what it did, and why it could not go on.

use std::sync::Arc;
use std::time::Duration;

use avsweep_domain::WorkerId;
use avsweep_lease::{AccessError, Backoff, Ended, Jitter, OnCoordinatorLost};
use tonic::Status;

use crate::error::JudgeError;
use crate::judge::JudgeOptions;
use crate::keys::KeyPolicy;
use crate::meter::Prices;
use crate::rate::Rate;

/// How a judge's process works.
#[derive(Clone, Debug)]
pub struct LoopOptions {
    /// This process, unique among all.
    pub worker: WorkerId,
    /// The coordinator's address, for messages.
    pub coordinator: String,
    /// Jobs held at once.
    pub max_jobs: u32,
    /// How long the coordinator may keep a request for jobs open when there are none.
    pub lease_wait: Duration,
    /// Most verdicts in one report.
    pub batch: usize,
    /// Longest time a verdict waits to be reported.
    pub batch_age: Duration,
    /// Time from the shutdown to the end: jobs are finished or given back within it.
    pub drain: Duration,
    /// End after so long without a job.
    pub idle_timeout: Option<Duration>,
    /// What to do about a coordinator that is away.
    pub on_coordinator_lost: OnCoordinatorLost,
    /// Longest time one call to the coordinator may take, a request for jobs apart.
    pub call_timeout: Duration,
    /// Waits while the coordinator cannot be reached.
    pub reconnect: Backoff,
    /// Pauses between jobs while a judge's endpoint is away.
    pub outage: Backoff,
    /// Where those waits and pauses are drawn from.
    pub jitter: Jitter,
    /// What the endpoints' tokens cost.
    pub prices: Prices,
    /// The judges.
    pub judge: JudgeOptions,
    /// How long a sweep whose judge cannot be used (no key, refused key) is passed over; `None`: that ends the loop.
    pub pass_over: Option<Duration>,
    /// Which keys of this process a sweep may name, and where they may be sent.
    pub keys: KeyPolicy,
    /// Makes all verdicts, whatever the sweeps' settings name.
    pub provider: Option<Arc<dyn Rate>>,
}

impl LoopOptions {
    /// The defaults for a process of this name.
    pub fn new(worker: WorkerId) -> Self {
        Self {
            worker,
            coordinator: "the coordinator".to_owned(),
            max_jobs: 4,
            lease_wait: Duration::from_secs(2),
            batch: 16,
            batch_age: Duration::from_secs(3),
            drain: Duration::from_secs(10),
            idle_timeout: None,
            on_coordinator_lost: OnCoordinatorLost::default(),
            call_timeout: Duration::from_secs(20),
            reconnect: Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(5) },
            outage: Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(30) },
            jitter: Jitter::default(),
            prices: Prices::default(),
            judge: JudgeOptions::default(),
            pass_over: None,
            keys: KeyPolicy::default(),
            provider: None,
        }
    }
}

/// What a judge's process did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoopSummary {
    /// Jobs judged in full.
    pub finished: u64,
    /// Jobs that failed.
    pub failed: u64,
    /// Jobs given back: at shutdown, or because a judge could not work.
    pub released: u64,
    /// Jobs whose lease was lost.
    pub lost: u64,
    /// Verdicts that the coordinator has acknowledged.
    pub verdicts: u64,
    /// Verdicts that came from memory instead of a provider.
    pub cache_hits: u64,
    /// How it ended.
    pub ended: Ended,
}

/// Why the loop cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum LoopError {
    /// The coordinator does not let this process in.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The coordinator will not give this process jobs, now or later.
    #[error("the coordinator refused to lease jobs")]
    Refused(#[source] Status),
    /// The coordinator has been away for longer than is waited for it.
    #[error(
        "{coordinator} has not answered for {} s, and no longer is waited for it (--on-coordinator-lost stop)",
        patience.as_secs()
    )]
    CoordinatorLost {
        /// The coordinator's address.
        coordinator: String,
        /// The time.
        patience: Duration,
    },
    /// A judge fails until somebody changes its settings: address, key, model or account.
    #[error("the judge cannot be used")]
    Judge(#[source] JudgeError),
}
