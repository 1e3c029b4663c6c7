//! The background tasks: planner, reaper, poller, clock setter; on timers and wake-up calls.
//!
//! None of them ever ends before the coordinator does: a database that is away, or a fault of their own, is logged and
//! the next round tries again.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info};

use crate::clock::DatabaseClock;
use crate::metrics::FailureKind;
use crate::{Coordinator, CoordinatorError, error_text};

/// How often workers that have not been seen for long are looked for.
const FORGET_INTERVAL: Duration = Duration::from_secs(60);

/// One task's rounds: says when they begin to fail and when they work again, not at every failure between.
struct Rounds {
    task: &'static str,
    failing: bool,
}

impl Rounds {
    fn of(task: &'static str) -> Self {
        Self { task, failing: false }
    }

    /// Takes a round, whatever becomes of it.
    async fn take(&mut self, round: impl Future<Output = Result<(), CoordinatorError>>) {
        let task = self.task;
        match AssertUnwindSafe(round).catch_unwind().await {
            Ok(Ok(())) => {
                if std::mem::replace(&mut self.failing, false) {
                    info!(task, "works again");
                }
            }
            Ok(Err(error)) => {
                if std::mem::replace(&mut self.failing, true) {
                    debug!(task, error = error_text(&error), "still fails");
                } else {
                    error!(task, error = error_text(&error), "failed; it is tried again");
                }
            }
            // The panic hook has told the message and place.
            Err(_) => error!(task, "failed badly; it is tried again"),
        }
    }
}

impl Coordinator {
    /// Starts the background tasks. Cancelling the token ends them, and every waiting request with them; reports are
    /// still taken. The tracker is closed: waiting for it waits for their end.
    pub fn start_background(self: &Arc<Self>, cancel: CancellationToken) -> TaskTracker {
        let tasks = TaskTracker::new();
        let coordinator = Arc::clone(self);
        tasks.spawn(async move { coordinator.run_planner().await });
        let coordinator = Arc::clone(self);
        tasks.spawn(async move { coordinator.run_reaper().await });
        let coordinator = Arc::clone(self);
        tasks.spawn(async move { coordinator.run_poller().await });
        if let Some(clock) = &self.database_clock {
            let (coordinator, clock) = (Arc::clone(self), Arc::clone(clock));
            tasks.spawn(async move { coordinator.run_clock(&clock).await });
        }
        let stopping = self.stopping.clone();
        tasks.spawn(async move {
            cancel.cancelled().await;
            stopping.cancel();
        });
        tasks.close();
        tasks
    }

    async fn run_planner(&self) {
        let mut rounds = Rounds::of("planner");
        let mut timer = interval(self.settings.planner_interval);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => return,
                _ = timer.tick() => {}
                () = self.signals.planner_woken() => {}
            }
            rounds.take(self.plan_once()).await;
            // Calls that come meanwhile are one call.
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => return,
                () = sleep(self.settings.planner_gap) => {}
            }
        }
    }

    async fn run_reaper(&self) {
        let mut rounds = Rounds::of("reaper");
        let mut timer = interval(self.settings.reaper_interval);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut forgotten: Option<Instant> = None;
        loop {
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => return,
                _ = timer.tick() => {}
            }
            rounds.take(async { self.reap_once().await.map(|_| ()) }).await;
            if forgotten.is_none_or(|at| at.elapsed() >= FORGET_INTERVAL) {
                rounds.take(self.forget_workers()).await;
                forgotten = Some(Instant::now());
            }
        }
    }

    /// Asks for ready jobs while requests wait for some, once for all of them: other coordinators' jobs are found so.
    async fn run_poller(&self) {
        let mut rounds = Rounds::of("poller");
        loop {
            if self.signals.waited_for().is_empty() {
                tokio::select! {
                    biased;
                    () = self.stopping.cancelled() => return,
                    () = self.signals.somebody_waits() => {}
                }
            }
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => return,
                () = sleep(self.settings.wait_poll_interval) => {}
            }
            let rungs = self.signals.waited_for();
            if rungs.is_empty() {
                continue;
            }
            let poll = async {
                if self.store.ready_jobs(&rungs).await? > 0 {
                    self.signals.jobs_ready();
                }
                Ok(())
            };
            rounds.take(poll).await;
        }
    }

    async fn run_clock(&self, clock: &DatabaseClock) {
        let mut rounds = Rounds::of("clock");
        loop {
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => return,
                () = sleep(self.settings.clock_interval) => {}
            }
            rounds.take(async { Ok(clock.set(self.store.as_ref()).await?) }).await;
        }
    }

    /// Takes back every expired lease once. Returns how many.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn reap_once(&self) -> Result<u64, CoordinatorError> {
        let reaped = self.store.reap(self.settings.failure_limits, self.clock.now()).await?;
        self.taken_back(reaped);
        Ok(reaped)
    }

    /// Takes back every lease, expired or not. Only for a store that this process holds alone, before it serves: who
    /// held a lease is gone then. Returns how many.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn reap_all(&self) -> Result<u64, CoordinatorError> {
        let reaped = self.store.reap_all(self.settings.failure_limits, self.clock.now()).await?;
        self.taken_back(reaped);
        Ok(reaped)
    }

    fn taken_back(&self, leases: u64) {
        if leases > 0 {
            info!(leases, "leases ended unrenewed and were taken back");
            self.metrics.failures(FailureKind::Lost, leases);
            self.signals.changed();
            self.signals.jobs_ready();
            // A job may have been parked, and with it the last open one closed.
            self.signals.wake_planner();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_round_that_panics_is_not_the_last() {
        let mut rounds = Rounds::of("test");
        let mut taken = 0;
        for round in 0..3 {
            rounds
                .take(async {
                    taken += 1;
                    assert!(round != 1, "the second round");
                    Ok(())
                })
                .await;
        }
        assert_eq!(taken, 3);
    }
}
