//! Sweeps as a user handles them.

use avsweep_domain::{SweepDefinition, SweepState};
use avsweep_store::{Created, FailedJob};
use tracing::info;

use crate::{Coordinator, CoordinatorError};

impl Coordinator {
    /// Creates a sweep, or finds it.
    pub(crate) async fn create_sweep(
        &self,
        definition: &SweepDefinition,
    ) -> Result<Created, CoordinatorError> {
        let created = self.store.create_sweep(definition, self.clock.now()).await?;
        info!(sweep = definition.name, number = %created.id, created = created.created, state = %created.state, "sweep");
        self.signals.changed();
        self.signals.wake_planner();
        Ok(created)
    }

    /// Changes a sweep's state.
    pub(crate) async fn set_sweep_state(
        &self,
        sweep: &str,
        to: SweepState,
    ) -> Result<SweepState, CoordinatorError> {
        let record = self.store.find_sweep(sweep).await?;
        // Not between the planner's look at the sweep and what it does to it.
        let _planning = self.cursors.lock().await;
        self.store.set_sweep_state(record.id, to).await?;
        info!(sweep = record.definition.name, from = %record.state, %to, "sweep changes state");
        self.signals.changed();
        self.signals.jobs_ready();
        self.signals.wake_planner();
        Ok(to)
    }

    /// A sweep's parked jobs.
    pub(crate) async fn failed_jobs(&self, sweep: &str) -> Result<Vec<FailedJob>, CoordinatorError> {
        let record = self.store.find_sweep(sweep).await?;
        Ok(self.store.failed_jobs(record.id).await?)
    }

    /// Makes a sweep's parked jobs ready again; a done sweep runs again for them.
    pub(crate) async fn retry_failed(&self, sweep: &str) -> Result<u64, CoordinatorError> {
        let record = self.store.find_sweep(sweep).await?;
        let _planning = self.cursors.lock().await;
        let retried = self.store.retry_failed(record.id).await?;
        if retried > 0 {
            info!(sweep = record.definition.name, jobs = retried, "failed jobs are tried again");
            if self.store.sweep(record.id).await?.state == SweepState::Done {
                self.store.set_sweep_state(record.id, SweepState::Running).await?;
            }
            self.signals.changed();
            self.signals.jobs_ready();
            self.signals.wake_planner();
        }
        Ok(retried)
    }
}
