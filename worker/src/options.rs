//! How a worker works, and what it did.

use std::path::PathBuf;
use std::time::Duration;

use avsweep_domain::WorkerId;
use avsweep_engine::DeviceChoice;
use avsweep_lease::{Backoff, Ended, Jitter, OnCoordinatorLost};

use crate::engine::EngineOptions;

/// What to do about a sweep whose model cannot be used here (other files than it was created with, or none), and about
/// jobs that want more memory than is here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnfitPolicy {
    /// Give its jobs back uncounted, leave it to others for a while, and go on with other sweeps.
    #[default]
    PassOver,
    /// End with the reason, and count such jobs as failed: nobody else is there.
    End,
}

/// How a worker works.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// This process, unique among all.
    pub name: WorkerId,
    /// The coordinator's address, for messages.
    pub coordinator: String,
    /// What computes.
    pub device: DeviceChoice,
    /// Bytes of memory that weights, caches and activations may take: of the device's where it has its own, else of the
    /// host's. `None` is a share of what there is.
    pub memory: Option<u64>,
    /// Threads that compute; `None` is all cores.
    pub threads: Option<usize>,
    /// Folder under which a sweep's model files are looked for that are not where the sweep says.
    pub model_root: Option<PathBuf>,
    /// Folder for model files from object storage; `None` is one among the system's temporary files.
    pub cache: Option<PathBuf>,
    /// Jobs held at once: one on the engine, the rest waiting, so that the engine never does.
    pub held_jobs: usize,
    /// How long the coordinator may keep a request for jobs open when there are none.
    pub lease_wait: Duration,
    /// Results of a long job are reported at least this often.
    pub report_interval: Duration,
    /// Time from the stop to the end: what is held is finished or given back within it.
    pub drain: Duration,
    /// End after so long without a job.
    pub idle_timeout: Option<Duration>,
    /// Longest time that the coordinator is asked for more jobs of the sweep whose model is loaded, before another of
    /// the same priority has its turn.
    pub stint: Duration,
    /// What to do about a sweep whose model cannot be used here.
    pub unfit: UnfitPolicy,
    /// How long such a sweep is left to others.
    pub pass_over: Duration,
    /// What to do about a coordinator that is away.
    pub on_coordinator_lost: OnCoordinatorLost,
    /// Longest time one call to the coordinator may take, a request for jobs apart.
    pub call_timeout: Duration,
    /// Waits while the coordinator cannot be reached.
    pub reconnect: Backoff,
    /// Where those waits are drawn from.
    pub jitter: Jitter,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self {
            name: WorkerId(format!("worker-{}-{:08x}", std::process::id(), rand::random::<u32>())),
            coordinator: "the coordinator".to_owned(),
            device: DeviceChoice::default(),
            memory: None,
            threads: None,
            model_root: None,
            cache: None,
            held_jobs: 4,
            lease_wait: Duration::from_secs(2),
            report_interval: Duration::from_secs(1),
            drain: Duration::from_secs(10),
            idle_timeout: None,
            stint: Duration::from_secs(60),
            unfit: UnfitPolicy::default(),
            pass_over: Duration::from_secs(300),
            on_coordinator_lost: OnCoordinatorLost::default(),
            call_timeout: Duration::from_secs(20),
            reconnect: Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(5) },
            jitter: Jitter::default(),
        }
    }
}

impl WorkerOptions {
    pub(crate) fn engine(&self) -> EngineOptions {
        EngineOptions {
            device: self.device,
            memory: self.memory,
            threads: self.threads,
            model_root: self.model_root.clone(),
            cache: self.cache.clone(),
        }
    }
}

/// What a worker did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerSummary {
    /// Jobs evaluated in full.
    pub finished: u64,
    /// Jobs that failed.
    pub failed: u64,
    /// Jobs given back.
    pub released: u64,
    /// Jobs whose lease was lost.
    pub lost: u64,
    /// Query results that the coordinator has acknowledged.
    pub results: u64,
    /// How it ended.
    pub ended: Ended,
}
