//! The judge's loop: lease judgement jobs, judge, report, until told to stop.

mod job;
mod outage;
mod sweeps;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use avsweep_domain::WorkerId;
use avsweep_lease::{Backoff, CoordinatorClient, LeaseKeeper, Patience, job_client};
use avsweep_proto::v1;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Channel;

use self::job::{End, JudgementJob};
use self::outage::Outage;
use self::sweeps::Sweeps;
use crate::error::JudgeError;
use crate::judge::JudgeOptions;

/// How a judge's process works.
#[derive(Clone, Debug)]
pub struct LoopOptions {
    /// This process, unique among all.
    pub worker: WorkerId,
    /// Jobs held at once.
    pub max_jobs: u32,
    /// How long the coordinator may keep a request for jobs open when there are none.
    pub lease_wait: Duration,
    /// Most verdicts in one report.
    pub batch: usize,
    /// Longest time a verdict waits to be reported.
    pub batch_age: Duration,
    /// How long jobs may go on after the shutdown; then they are given back.
    pub drain: Duration,
    /// Longest time one call to the coordinator may take, a request for jobs apart.
    pub call_timeout: Duration,
    /// Waits while the coordinator cannot be reached.
    pub reconnect: Backoff,
    /// Pauses between jobs while a judge's endpoint is away.
    pub outage: Backoff,
    /// The judges.
    pub judge: JudgeOptions,
}

impl LoopOptions {
    /// The defaults for a process of this name.
    pub fn new(worker: WorkerId) -> Self {
        Self {
            worker,
            max_jobs: 4,
            lease_wait: Duration::from_secs(2),
            batch: 16,
            batch_age: Duration::from_secs(3),
            drain: Duration::from_secs(10),
            call_timeout: Duration::from_secs(20),
            reconnect: Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(5) },
            outage: Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(30) },
            judge: JudgeOptions::default(),
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
}

/// Why the loop cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum LoopError {
    /// The coordinator will not give this process jobs, now or later.
    #[error("the coordinator refused to lease jobs")]
    Refused(#[source] Status),
    /// A judge fails until somebody changes its settings: address, key, model or account.
    #[error("the judge cannot be used")]
    Judge(#[source] JudgeError),
}

#[derive(Debug, Default)]
struct Counters {
    finished: AtomicU64,
    failed: AtomicU64,
    released: AtomicU64,
    lost: AtomicU64,
    verdicts: AtomicU64,
}

/// What every job's task shares.
#[derive(Debug)]
struct Context {
    options: LoopOptions,
    coordinator: CoordinatorClient,
    sweeps: Sweeps,
    counters: Counters,
    outage: Outage,
    /// Why no job can be judged, once that is known.
    broken: OnceLock<JudgeError>,
    /// No more jobs are leased.
    stop: CancellationToken,
    /// The drain time is over.
    drained: CancellationToken,
}

impl Context {
    /// Ends the leasing: the judge cannot work.
    fn break_off(&self, error: &JudgeError) {
        // The first failure says it; the others are its like.
        let _ = self.broken.set(error.clone());
        self.stop.cancel();
    }
}

/// Leases judgement jobs over `channel` and judges them until `shutdown`.
///
/// A coordinator that is away is waited for. At the shutdown no more jobs are leased; those held have the drain time
/// to finish, then what is judged is reported and the rest given back.
///
/// An endpoint that is away is waited for as well: its jobs are given back, not failed, and leasing pauses.
///
/// # Errors
/// When the coordinator refuses this process for good, or a judge cannot work until its settings are changed.
pub async fn run(
    channel: Channel,
    options: LoopOptions,
    shutdown: CancellationToken,
) -> Result<LoopSummary, LoopError> {
    let client = job_client(channel);
    let drained = CancellationToken::new();
    let coordinator = CoordinatorClient {
        client: client.clone(),
        backoff: options.reconnect,
        timeout: options.call_timeout,
        hurry: drained.clone(),
    };
    let keeper = LeaseKeeper::start(client, options.worker.clone());
    // A refusal ends the loop like a shutdown: what is held is still worth finishing.
    let stop = shutdown.child_token();
    let context = Arc::new(Context {
        sweeps: Sweeps::new(coordinator.clone(), options.judge),
        coordinator,
        counters: Counters::default(),
        outage: Outage::default(),
        broken: OnceLock::new(),
        stop: stop.clone(),
        drained: drained.clone(),
        options,
    });
    let mut jobs = JoinSet::new();
    let drain = end_of_drain(stop.clone(), context.options.drain, drained.clone());
    let leasing = async {
        let outcome = lease_until_stopped(&context, &keeper, &stop, &mut jobs).await;
        stop.cancel();
        while let Some(ended) = jobs.join_next().await {
            report_panic(ended);
        }
        outcome
    };
    let outcome = tokio::select! {
        outcome = leasing => outcome,
        never = drain => match never {},
    };
    let counters = &context.counters;
    let summary = LoopSummary {
        finished: counters.finished.load(Ordering::Relaxed),
        failed: counters.failed.load(Ordering::Relaxed),
        released: counters.released.load(Ordering::Relaxed),
        lost: counters.lost.load(Ordering::Relaxed),
        verdicts: counters.verdicts.load(Ordering::Relaxed),
        cache_hits: context.sweeps.cache_hits(),
    };
    tracing::info!(?summary, "judge stopped");
    match context.broken.get() {
        Some(error) => Err(LoopError::Judge(error.clone())),
        None => outcome.map(|()| summary),
    }
}

/// Declares the drain time over when it is; then never returns.
async fn end_of_drain(
    stop: CancellationToken,
    drain: Duration,
    drained: CancellationToken,
) -> std::convert::Infallible {
    stop.cancelled().await;
    tokio::time::sleep(drain).await;
    drained.cancel();
    std::future::pending().await
}

async fn lease_until_stopped(
    context: &Arc<Context>,
    keeper: &LeaseKeeper,
    stop: &CancellationToken,
    jobs: &mut JoinSet<()>,
) -> Result<(), LoopError> {
    let slots = Arc::new(Semaphore::new(context.options.max_jobs.max(1) as usize));
    let mut patience = Patience::default();
    loop {
        let permits = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            permits = free_slots(&slots) => permits,
        };
        while let Some(ended) = jobs.try_join_next() {
            report_panic(ended);
        }
        if let Some(until) = context.outage.until() {
            pause(stop, until.saturating_duration_since(Instant::now())).await;
            continue;
        }
        let asked = Instant::now();
        // Not broken off at the stop: jobs in an answer that nobody hears would be lost to their lease's end.
        let answer = tokio::select! {
            answer = lease(context, permits.len()) => answer,
            () = context.drained.cancelled() => return Ok(()),
        };
        match answer {
            Ok(answer) => {
                patience = Patience::default();
                let idle = answer.jobs.is_empty();
                accept(context, keeper, answer, permits, stop, jobs).await;
                if idle && asked.elapsed() < context.options.lease_wait / 2 {
                    // The coordinator did not wait for jobs, so the pause is made here.
                    pause(stop, context.options.lease_wait.min(Duration::from_millis(250))).await;
                }
            }
            Err(status) if patience.allows_another_try(&status) => {
                let failures = patience.failures();
                tracing::warn!(
                    failures, code = %status.code(), message = status.message(),
                    "no jobs could be leased; trying again"
                );
                pause(stop, context.options.reconnect.random_delay(failures)).await;
            }
            Err(status) => return Err(LoopError::Refused(status)),
        }
    }
}

/// All free slots, once there is one.
async fn free_slots(slots: &Arc<Semaphore>) -> Vec<OwnedSemaphorePermit> {
    let first = Arc::clone(slots).acquire_owned().await.expect("the semaphore is never closed");
    let rest = std::iter::from_fn(|| Arc::clone(slots).try_acquire_owned().ok());
    std::iter::once(first).chain(rest).collect()
}

async fn lease(context: &Context, max_jobs: usize) -> Result<v1::LeaseResponse, Status> {
    let options = &context.options;
    let request = v1::LeaseRequest {
        worker: options.worker.0.clone(),
        rungs: vec![v1::Rung::Judgement.into()],
        max_jobs: u32::try_from(max_jobs).unwrap_or(u32::MAX),
        wait_millis: u32::try_from(options.lease_wait.as_millis()).unwrap_or(u32::MAX),
    };
    let mut client = context.coordinator.client.clone();
    tokio::time::timeout(options.lease_wait + options.call_timeout, client.lease(request))
        .await
        .map_err(|_| Status::deadline_exceeded("the coordinator did not answer in time"))?
        .map(tonic::Response::into_inner)
}

/// Starts the leased jobs, each in a slot; without a slot, or once stopped, gives them back.
async fn accept(
    context: &Arc<Context>,
    keeper: &LeaseKeeper,
    answer: v1::LeaseResponse,
    mut permits: Vec<OwnedSemaphorePermit>,
    stop: &CancellationToken,
    jobs: &mut JoinSet<()>,
) {
    let granted = Instant::now();
    for mut wire in answer.jobs {
        let Some(reference) = wire.lease.take() else {
            tracing::warn!(sweep = wire.sweep, "a job came without a lease and is left alone");
            continue;
        };
        let duration = Duration::from_millis(u64::from(wire.lease_millis));
        let lease = keeper.hold(reference, duration, granted);
        let permit = permits.pop().filter(|_| !stop.is_cancelled());
        let context = Arc::clone(context);
        jobs.spawn(async move {
            let Some(_permit) = permit else {
                job::release(&context, &lease).await;
                context.counters.released.fetch_add(1, Ordering::Relaxed);
                return;
            };
            let counters = &context.counters;
            let counter = match job::work(&context, JudgementJob::try_from(wire), lease).await {
                End::Finished => &counters.finished,
                End::Failed(_) => &counters.failed,
                End::Undone | End::Away(_) | End::Broken(_) => &counters.released,
                End::Lost => &counters.lost,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        });
    }
}

async fn pause(stop: &CancellationToken, duration: Duration) {
    tokio::select! {
        () = tokio::time::sleep(duration) => {}
        () = stop.cancelled() => {}
    }
}

fn report_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a job's task broke; its lease will expire");
    }
}
