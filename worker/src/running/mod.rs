//! The worker's loop: lease ahead, hand to the evaluator, report, until told to stop.

mod drain;
mod hand;
mod shortage;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use avsweep_domain::{Point, Rung};
use avsweep_lease::{
    AccessError, CoordinatorClient, Ended, Ending, HeldLease, LeaseKeeper, OnCoordinatorLost, PassedOver,
    Patience, Presence,
};
use avsweep_proto::v1;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::definitions::Definitions;
use crate::driver::Event;
use crate::error::WorkerError;
use crate::options::{WorkerOptions, WorkerSummary};
use crate::queue::Queue;
use crate::report::Batch;

use self::shortage::Shortages;

/// Pause after an empty answer: a coordinator that does not wait for jobs must not be asked in a tight loop.
const EMPTY_PAUSE: Duration = Duration::from_millis(10);

/// A job in this worker's hands.
struct HeldJob {
    lease: HeldLease,
    sweep: i64,
    point: Point,
    /// Its queries come in blocks.
    is_raced: bool,
    unwanted: CancellationToken,
    batch: Batch,
    rung: Rung,
    reported: Instant,
}

/// A worker at work.
pub(crate) struct Running {
    options: WorkerOptions,
    coordinator: CoordinatorClient,
    keeper: LeaseKeeper,
    presence: Presence,
    queue: Arc<Queue>,
    ending: Ending,
    definitions: Definitions,
    passed_over: PassedOver,
    shortages: Shortages,
    /// By number, which is the order in which they came.
    held: BTreeMap<u64, HeldJob>,
    next_number: u64,
    /// Leases that could neither be finished nor given back.
    left_behind: usize,
}

impl Running {
    pub(crate) fn new(
        options: WorkerOptions,
        coordinator: CoordinatorClient,
        keeper: LeaseKeeper,
        presence: Presence,
        queue: Arc<Queue>,
        ending: Ending,
    ) -> Self {
        Self {
            options,
            coordinator,
            keeper,
            presence,
            queue,
            ending,
            definitions: Definitions::default(),
            passed_over: PassedOver::default(),
            shortages: Shortages::default(),
            held: BTreeMap::new(),
            next_number: 0,
            left_behind: 0,
        }
    }

    pub(crate) fn summary(&self, ended: Ended) -> WorkerSummary {
        let counts = self.presence.counts();
        WorkerSummary {
            finished: counts.finished,
            failed: counts.failed,
            released: counts.released,
            lost: counts.lost,
            results: counts.results,
            ended,
        }
    }

    /// Leases and reports until the stop, or the end of the idle time.
    pub(crate) async fn work(&mut self, events: &mut mpsc::Receiver<Event>) -> Result<Ended, WorkerError> {
        let mut patience = Patience::default();
        let mut not_before = Instant::now();
        let mut idle_since = Instant::now();
        loop {
            if !self.held.is_empty() {
                idle_since = Instant::now();
            }
            let idle_until = self.options.idle_timeout.map(|timeout| idle_since + timeout);
            if idle_until.is_some_and(|until| until <= Instant::now()) {
                return Ok(Ended::Idle);
            }
            let excepted = self.passed_over.current();
            self.show_state();
            let free = self.options.held_jobs.max(1).saturating_sub(self.held.len());
            let (request, wait) = self.request(free, excepted, idle_until);
            if let Some(until) = idle_until {
                not_before = not_before.min(until);
            }
            // A request that is given up may still lease jobs that nobody then holds; so it is only asked for when
            // there is room, and kept until it is answered while events are worked on.
            let mut asking = std::pin::pin!(ask(self.coordinator.clone(), request, wait, not_before));
            let answer = loop {
                tokio::select! {
                    biased;
                    () = self.ending.lost.cancelled() => return Err(self.coordinator_lost()),
                    () = self.ending.stop.cancelled() => {
                        // Whatever the last request still brings is given back.
                        if free > 0 && not_before <= Instant::now() {
                            self.give_back_late(asking, wait).await;
                        }
                        return Ok(Ended::Stopped);
                    }
                    event = events.recv() => {
                        let event = event.ok_or(WorkerError::EngineGone)?;
                        // Up to here it had a job.
                        idle_since = Instant::now();
                        self.take(event).await?;
                        self.show_state();
                        if free == 0 && self.held.len() < self.options.held_jobs.max(1) {
                            break None;
                        }
                    }
                    answer = &mut asking, if free > 0 => break Some(answer),
                }
            };
            match answer {
                None => {}
                Some(Ok(answer)) => {
                    patience = Patience::default();
                    not_before = Instant::now();
                    if answer.jobs.is_empty() {
                        not_before += EMPTY_PAUSE;
                    }
                    self.accept(answer.jobs).await?;
                }
                Some(Err(status)) if patience.allows_another_try(&status) => {
                    let failures = patience.failures();
                    not_before = Instant::now() + self.options.jitter.delay(self.options.reconnect, failures);
                    tracing::warn!(
                        failures, code = ?status.code(), reason = status.message(),
                        "no jobs could be leased; trying again"
                    );
                }
                Some(Err(status)) => return Err(self.refused("Lease", &status)),
            }
        }
    }

    /// The request for this many jobs, and how long its answer may take to be made.
    fn request(
        &self,
        free: usize,
        except_sweeps: Vec<i64>,
        idle_until: Option<Instant>,
    ) -> (v1::LeaseRequest, Duration) {
        let idle_left = idle_until.map_or(Duration::MAX, |until| until.duration_since(Instant::now()));
        let wait = self.options.lease_wait.min(idle_left);
        let request = v1::LeaseRequest {
            worker: self.options.name.0.clone(),
            rungs: vec![v1::Rung::Likelihood.into(), v1::Rung::Generation.into()],
            max_jobs: u32::try_from(free).unwrap_or(u32::MAX),
            wait_millis: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
            prefers_sweep: self
                .queue
                .preferred(self.options.stint)
                .map(|sweep| sweep.0)
                .filter(|sweep| !except_sweeps.contains(sweep)),
            except_sweeps,
        };
        (request, wait)
    }

    /// Tells what this worker is doing, where that has changed.
    fn show_state(&self) {
        let busy = !self.held.is_empty();
        self.presence.set_state(if busy { v1::WorkerState::Busy } else { v1::WorkerState::Idle });
        self.presence.set_problem(self.passed_over.problem());
    }

    fn coordinator_lost(&self) -> WorkerError {
        let patience = match self.options.on_coordinator_lost {
            OnCoordinatorLost::Stop { patience } => patience,
            OnCoordinatorLost::Finish => Duration::ZERO,
        };
        WorkerError::CoordinatorLost { coordinator: self.options.coordinator.clone(), patience }
    }

    /// A refusal that another try would not change.
    fn refused(&self, operation: &'static str, status: &Status) -> WorkerError {
        match AccessError::of(status, &self.options.coordinator, "worker") {
            Some(error) => error.into(),
            None => WorkerError::Refused {
                coordinator: self.options.coordinator.clone(),
                operation,
                reason: status.message().to_owned(),
            },
        }
    }
}

/// Asks for jobs once, not before the given time.
async fn ask(
    coordinator: CoordinatorClient,
    request: v1::LeaseRequest,
    wait: Duration,
    not_before: Instant,
) -> Result<v1::LeaseResponse, Status> {
    tokio::time::sleep_until(not_before).await;
    let timeout = wait + coordinator.timeout;
    coordinator.once(timeout, |mut client| async move { client.lease(request).await }).await
}
