//! A worker: its parts put together, run, and brought to an end in time.

use std::fmt;
use std::sync::Arc;

use avsweep_engine::{ByteSize, peak_host_memory};
use avsweep_lease::{CoordinatorClient, Ended, Ending, Identity, LeaseKeeper, Presence, Shutdown};
use avsweep_proto::v1;
use avsweep_transport::Transport;
use tokio_util::task::AbortOnDropHandle;

use crate::driver::Driver;
use crate::engine::EngineEvaluator;
use crate::error::WorkerError;
use crate::evaluate::Evaluate;
use crate::options::{WorkerOptions, WorkerSummary};
use crate::queue::Queue;
use crate::running::Running;

/// A worker with its evaluator, not yet running.
pub struct Worker {
    options: WorkerOptions,
    transport: Transport,
    evaluator: Box<dyn Evaluate>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Worker {
    /// A worker that computes: starts the engine's thread.
    ///
    /// # Errors
    /// When there is no such device, or the system gives no thread.
    pub fn new(transport: Transport, options: WorkerOptions) -> Result<Self, WorkerError> {
        let evaluator = EngineEvaluator::start(&options.engine())?;
        Ok(Self::with_evaluator(transport, options, Box::new(evaluator)))
    }

    /// A worker whose results come from `evaluator`.
    pub fn with_evaluator(
        transport: Transport,
        options: WorkerOptions,
        evaluator: Box<dyn Evaluate>,
    ) -> Self {
        Self { options, transport, evaluator }
    }

    /// Works until it is told to end, or has been idle for too long; a coordinator that is away is waited for, as long
    /// as the options say.
    ///
    /// Told to end, it finishes the job on the engine, reports, and gives back the rest, within
    /// [`WorkerOptions::drain`]; see [`Shutdown`].
    ///
    /// # Errors
    /// When the coordinator refuses this worker or is given up, the evaluator is broken, or a sweep's model cannot be
    /// used and the options say that this is the end. Everything held is given back first.
    pub async fn run(self, shutdown: impl Into<Shutdown>) -> Result<WorkerSummary, WorkerError> {
        let Self { options, transport, evaluator } = self;
        let ending = Ending::new(&shutdown.into(), options.drain, options.on_coordinator_lost);
        let coordinator = CoordinatorClient::new(
            transport,
            &ending,
            options.reconnect,
            options.jitter.clone(),
            options.call_timeout,
        );
        let identity = Identity {
            worker: options.name.clone(),
            kind: v1::WorkerKind::Worker,
            device: evaluator.device(),
        };
        let presence = Presence::start(coordinator.clone(), identity);
        let keeper = LeaseKeeper::start(coordinator.clone(), options.name.clone());
        let queue = Arc::new(Queue::default());
        let (driver, mut events) = Driver::new(evaluator, Arc::clone(&queue), options.stint);
        // Not waited for at the end: a long chunk may still be on it.
        let _driver = AbortOnDropHandle::new(tokio::spawn(driver.run()));
        let contact = coordinator.contact.clone();
        let mut running = Running::new(options, coordinator, keeper, presence, queue, ending.clone());
        let working = async {
            let outcome = running.work(&mut events).await;
            if outcome.is_err() {
                // What is left to do is done once; it makes no sense to insist.
                ending.hurry.cancel();
            }
            ending.stop.cancel();
            let in_time = running.drain(&mut events).await;
            outcome.map(|ended| if in_time { ended } else { Ended::DrainRanOut })
        };
        let outcome = tokio::select! {
            biased;
            outcome = working => outcome,
            never = ending.watch(&contact) => match never {},
        };
        let outcome = outcome.map(|ended| running.summary(ended));
        // Beside what the engine said that it would take.
        let peak = peak_host_memory().map_or_else(String::new, |bytes| ByteSize(bytes).to_string());
        tracing::info!(?outcome, peak_memory = peak, "worker stopped");
        outcome
    }
}
