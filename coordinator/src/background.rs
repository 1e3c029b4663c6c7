//! The background tasks: planner and reaper, on timers and wake-up calls.

use std::sync::Arc;

use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error};

use crate::{Coordinator, CoordinatorError, error_text};

impl Coordinator {
    /// Starts planner and reaper. Cancelling the token ends them, and every waiting request with them; reports are
    /// still taken. The tracker is closed: waiting for it waits for their end.
    pub fn start_background(self: &Arc<Self>, cancel: CancellationToken) -> TaskTracker {
        let tasks = TaskTracker::new();
        let coordinator = Arc::clone(self);
        tasks.spawn(async move { coordinator.run_planner().await });
        let coordinator = Arc::clone(self);
        tasks.spawn(async move { coordinator.run_reaper().await });
        let stopping = self.stopping.clone();
        tasks.spawn(async move {
            cancel.cancelled().await;
            stopping.cancel();
        });
        tasks.close();
        tasks
    }

    async fn run_planner(&self) {
        let mut timer = interval(self.settings.planner_interval);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.stopping.cancelled() => return,
                _ = timer.tick() => {}
                () = self.signals.planner_woken() => {}
            }
            // The next timer tick or wake-up call tries again.
            if let Err(error) = self.plan_once().await {
                error!(error = error_text(&error), "planning failed");
            }
            // Calls that come meanwhile are one call.
            tokio::select! {
                () = self.stopping.cancelled() => return,
                () = sleep(self.settings.planner_gap) => {}
            }
        }
    }

    async fn run_reaper(&self) {
        let mut timer = interval(self.settings.reaper_interval);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.stopping.cancelled() => return,
                _ = timer.tick() => {}
            }
            if let Err(error) = self.reap_once().await {
                error!(error = error_text(&error), "taking back expired leases failed");
            }
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
            debug!(leases, "leases taken back");
            self.signals.changed();
            self.signals.jobs_ready();
            // A job may have been parked, and with it the last open one closed.
            self.signals.wake_planner();
        }
    }
}
