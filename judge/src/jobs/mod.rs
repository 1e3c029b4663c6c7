//! The judge's loop: lease judgement jobs, judge, report, until told to stop.

mod job;
mod options;
mod outage;
mod sweeps;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use avsweep_domain::SweepId;
use avsweep_lease::{
    AccessError, CoordinatorClient, Ended, Ending, Identity, LeaseKeeper, OnCoordinatorLost, PassedOver,
    Patience, Presence, Shutdown,
};
use avsweep_proto::v1;
use avsweep_transport::Transport;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use self::job::{End, JudgementJob};
pub use self::options::{LoopError, LoopOptions, LoopSummary};
use self::outage::Outage;
use self::sweeps::Sweeps;
use crate::error::JudgeError;
use crate::meter::Meter;

/// What every job's task shares.
#[derive(Debug)]
struct Context {
    options: LoopOptions,
    coordinator: CoordinatorClient,
    sweeps: Sweeps,
    presence: Presence,
    meter: Arc<Meter>,
    outage: Outage,
    passed_over: Mutex<PassedOver>,
    ending: Ending,
    /// Why no job can be judged, once that is known.
    broken: OnceLock<JudgeError>,
    /// Why the coordinator does not let this process in, once that is known.
    shut_out: OnceLock<AccessError>,
    /// Leases that could neither be finished nor given back.
    left_behind: AtomicUsize,
    /// Jobs at work.
    active: AtomicUsize,
    /// When the last of them ended.
    idle_since: Mutex<Instant>,
}

impl Context {
    /// A sweep's judge cannot be used until somebody changes its settings: the sweep is passed over for a while, or,
    /// where that is not wanted, the leasing ends.
    fn unusable(&self, sweep: Option<SweepId>, error: &JudgeError) {
        if let (Some(sweep), Some(duration)) = (sweep, self.options.pass_over) {
            let problem = avsweep_lease::error_chain(error);
            tracing::warn!(%sweep, problem, seconds = duration.as_secs(), "the sweep is passed over for a while");
            let mut passed_over = self.passed_over.lock().unwrap_or_else(PoisonError::into_inner);
            passed_over.add(sweep, duration, problem);
            self.presence.set_problem(passed_over.problem());
            return;
        }
        // The first failure says it; the others are its like.
        let _ = self.broken.set(error.clone());
        self.presence.set_problem(Some(avsweep_lease::error_chain(error)));
        self.ending.stop.cancel();
    }

    /// Ends the leasing if a refusal says that this process is not let in.
    fn refuse_access(&self, status: &Status) {
        if let Some(error) = AccessError::of(status, &self.options.coordinator, "judge") {
            let _ = self.shut_out.set(error);
            self.ending.stop.cancel();
        }
    }

    fn show_state(&self) {
        if !self.ending.stop.is_cancelled() {
            let busy = self.active.load(Ordering::Relaxed) > 0;
            self.presence.set_state(if busy { v1::WorkerState::Busy } else { v1::WorkerState::Idle });
        }
    }

    /// When the idle time is over; `None` while there is a job or no such limit.
    fn idle_until(&self) -> Option<Instant> {
        let timeout = self.options.idle_timeout?;
        let since = *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
        (self.active.load(Ordering::Relaxed) == 0).then(|| since + timeout)
    }

    fn summary(&self) -> LoopSummary {
        let counts = self.presence.counts();
        LoopSummary {
            finished: counts.finished,
            failed: counts.failed,
            released: counts.released,
            lost: counts.lost,
            verdicts: counts.results,
            cache_hits: self.sweeps.cache_hits(),
            ended: Ended::Stopped,
        }
    }
}

/// A job at work, whatever becomes of its task.
struct Active(Arc<Context>);

impl Active {
    fn begin(context: &Arc<Context>) -> Self {
        context.active.fetch_add(1, Ordering::Relaxed);
        context.show_state();
        Self(Arc::clone(context))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        *self.0.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.active.fetch_sub(1, Ordering::Relaxed);
        self.0.show_state();
    }
}

/// Leases judgement jobs over `transport` and judges them until `shutdown`, or for as long as there are any.
///
/// A coordinator that is away is waited for, as long as the options say. At the shutdown no more jobs are leased; those
/// held have the drain time to finish, then what is judged is reported and the rest given back.
///
/// An endpoint that is away is waited for as well: its jobs are given back, not failed, and leasing pauses.
///
/// # Errors
/// When the coordinator refuses this process for good or is given up, or a judge cannot work until its settings are
/// changed.
pub async fn run(
    transport: Transport,
    options: LoopOptions,
    shutdown: impl Into<Shutdown>,
) -> Result<LoopSummary, LoopError> {
    // A refusal ends the loop like a shutdown: what is held is still worth finishing.
    let ending = Ending::new(&shutdown.into(), options.drain, options.on_coordinator_lost);
    let coordinator = CoordinatorClient::new(
        transport,
        &ending,
        options.reconnect,
        options.jitter.clone(),
        options.call_timeout,
    );
    let identity = Identity {
        worker: options.worker.clone(),
        kind: v1::WorkerKind::Judge,
        device: "judges of the sweeps' settings".to_owned(),
    };
    let keeper = LeaseKeeper::start(coordinator.clone(), options.worker.clone());
    let meter = Arc::new(Meter::default());
    let context = Arc::new(Context {
        sweeps: Sweeps::new(
            coordinator.clone(),
            options.judge,
            options.keys.clone(),
            options.provider.clone(),
            Arc::clone(&meter),
        ),
        passed_over: Mutex::default(),
        presence: Presence::start(coordinator.clone(), identity),
        coordinator,
        meter,
        outage: Outage::default(),
        ending: ending.clone(),
        broken: OnceLock::new(),
        shut_out: OnceLock::new(),
        left_behind: AtomicUsize::new(0),
        active: AtomicUsize::new(0),
        idle_since: Mutex::new(Instant::now()),
        options,
    });
    let mut jobs = JoinSet::new();
    let leasing = async {
        let outcome = lease_until_stopped(&context, &keeper, &mut jobs).await;
        ending.stop.cancel();
        context.presence.set_state(v1::WorkerState::Draining);
        while let Some(ended) = jobs.join_next().await {
            report_panic(ended);
        }
        job::tell_usage(&context).await;
        context.presence.stopped().await;
        outcome
    };
    let outcome = tokio::select! {
        biased;
        outcome = leasing => outcome,
        never = ending.watch(&context.coordinator.contact) => match never {},
    };
    let left_behind = context.left_behind.load(Ordering::Relaxed) > 0;
    let outcome = match (context.broken.get(), context.shut_out.get()) {
        (Some(error), _) => Err(LoopError::Judge(error.clone())),
        (None, Some(error)) => Err(error.clone().into()),
        (None, None) => outcome.map(|ended| LoopSummary {
            ended: if left_behind { Ended::DrainRanOut } else { ended },
            ..context.summary()
        }),
    };
    tracing::info!(summary = ?context.summary(), ?outcome, "judge stopped");
    outcome
}

async fn lease_until_stopped(
    context: &Arc<Context>,
    keeper: &LeaseKeeper,
    jobs: &mut JoinSet<()>,
) -> Result<Ended, LoopError> {
    let (options, stop) = (&context.options, &context.ending.stop);
    let slots = Arc::new(Semaphore::new(options.max_jobs.max(1) as usize));
    let mut patience = Patience::default();
    loop {
        let permits = tokio::select! {
            biased;
            () = stop.cancelled() => return ended(context),
            permits = free_slots(&slots) => permits,
        };
        while let Some(ended) = jobs.try_join_next() {
            report_panic(ended);
        }
        if let Some(until) = context.outage.until() {
            pause(stop, until.saturating_duration_since(Instant::now())).await;
            // There is work, and it waits for the endpoint.
            *context.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            continue;
        }
        let asked = Instant::now();
        let idle_left = context.idle_until().map(|until| until.saturating_duration_since(asked));
        if idle_left == Some(Duration::ZERO) {
            return Ok(Ended::Idle);
        }
        let wait = idle_left.map_or(options.lease_wait, |left| left.min(options.lease_wait));
        // Not broken off at the stop: jobs in an answer that nobody hears would be lost to their lease's end.
        let answer = tokio::select! {
            biased;
            answer = lease(context, permits.len(), wait) => answer,
            () = context.ending.cut.cancelled() => return ended(context),
        };
        match answer {
            Ok(answer) => {
                patience = Patience::default();
                let idle = answer.jobs.is_empty();
                accept(context, keeper, answer, permits, jobs);
                if idle && asked.elapsed() < wait / 2 {
                    // The coordinator did not wait for jobs, so the pause is made here.
                    pause(stop, wait.min(Duration::from_millis(250))).await;
                }
            }
            Err(status) if patience.allows_another_try(&status) => {
                let failures = patience.failures();
                tracing::warn!(
                    failures, code = ?status.code(), reason = status.message(),
                    "no jobs could be leased; trying again"
                );
                let delay = options.jitter.delay(options.reconnect, failures);
                pause(stop, idle_left.map_or(delay, |left| left.min(delay))).await;
            }
            Err(status) => {
                context.refuse_access(&status);
                return Err(LoopError::Refused(status));
            }
        }
    }
}

/// What the end of the leasing means: a stop was asked for, or the coordinator is given up.
fn ended(context: &Context) -> Result<Ended, LoopError> {
    match context.options.on_coordinator_lost {
        OnCoordinatorLost::Stop { patience } if context.ending.lost.is_cancelled() => {
            Err(LoopError::CoordinatorLost { coordinator: context.options.coordinator.clone(), patience })
        }
        OnCoordinatorLost::Stop { .. } | OnCoordinatorLost::Finish => Ok(Ended::Stopped),
    }
}

/// All free slots, once there is one.
async fn free_slots(slots: &Arc<Semaphore>) -> Vec<OwnedSemaphorePermit> {
    let first = Arc::clone(slots).acquire_owned().await.expect("the semaphore is never closed");
    let rest = std::iter::from_fn(|| Arc::clone(slots).try_acquire_owned().ok());
    std::iter::once(first).chain(rest).collect()
}

async fn lease(context: &Context, max_jobs: usize, wait: Duration) -> Result<v1::LeaseResponse, Status> {
    let options = &context.options;
    let except_sweeps = {
        let mut passed_over = context.passed_over.lock().unwrap_or_else(PoisonError::into_inner);
        let current = passed_over.current();
        context.presence.set_problem(passed_over.problem());
        current
    };
    let request = v1::LeaseRequest {
        worker: options.worker.0.clone(),
        rungs: vec![v1::Rung::Judgement.into()],
        max_jobs: u32::try_from(max_jobs).unwrap_or(u32::MAX),
        wait_millis: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
        except_sweeps,
        prefers_sweep: None,
    };
    let timeout = wait + options.call_timeout;
    context.coordinator.once(timeout, |mut client| async move { client.lease(request).await }).await
}

/// Starts the leased jobs, each in a slot; without a slot, or once stopped, gives them back.
fn accept(
    context: &Arc<Context>,
    keeper: &LeaseKeeper,
    answer: v1::LeaseResponse,
    mut permits: Vec<OwnedSemaphorePermit>,
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
        let permit = permits.pop().filter(|_| !context.ending.stop.is_cancelled());
        let context = Arc::clone(context);
        // Here, and not when its task first runs: until then the process would count as idle.
        let active = Active::begin(&context);
        jobs.spawn(async move {
            let _active = active;
            let end = match &permit {
                Some(_) => job::work(&context, JudgementJob::try_from(wire), lease).await,
                None => {
                    job::release(&context, &lease).await;
                    End::Undone
                }
            };
            context.presence.count(|counts| match end {
                End::Finished => counts.finished += 1,
                End::Failed(_) => counts.failed += 1,
                End::Undone | End::Away(_) | End::Broken(_) => counts.released += 1,
                End::Lost => counts.lost += 1,
            });
        });
    }
}

async fn pause(stop: &CancellationToken, duration: Duration) {
    tokio::select! {
        biased;
        () = tokio::time::sleep(duration) => {}
        () = stop.cancelled() => {}
    }
}

fn report_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a job's task broke; its lease will expire");
    }
}
