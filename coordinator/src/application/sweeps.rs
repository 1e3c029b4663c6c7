//! Sweeps and their jobs as a user handles them.
//!
//! Nothing here keeps the planner away: what it writes meanwhile is held against the store's state in its own
//! transaction (a sweep with open jobs is never declared done, a deleted one is not planned).

use avsweep_domain::{JobId, JobState, SweepDefinition, SweepState};
use avsweep_store::{Created, Deleted, JobFilter, JobRecord, Timestamp};
use tracing::info;

use crate::{Coordinator, CoordinatorError};

/// The most jobs listed at once.
pub(crate) const MAX_LISTED_JOBS: u32 = 1000;

/// Which jobs a user wants to see.
#[derive(Clone, Debug, Default)]
pub(crate) struct JobQuestion {
    /// By name or number; `None` is every sweep.
    pub(crate) sweep: Option<String>,
    /// Empty: every state.
    pub(crate) states: Vec<JobState>,
    pub(crate) after: Option<JobId>,
    /// `None`: [`MAX_LISTED_JOBS`].
    pub(crate) limit: Option<u32>,
}

impl Coordinator {
    /// Creates a sweep, or finds it.
    pub(crate) async fn create_sweep(
        &self,
        definition: &SweepDefinition,
        priority: i32,
    ) -> Result<Created, CoordinatorError> {
        let created = self.store.create_sweep(definition, priority, self.clock.now()).await?;
        info!(sweep = definition.name, number = %created.id, created = created.created, state = %created.state, "sweep");
        self.signals.changed();
        self.signals.wake_planner();
        Ok(created)
    }

    /// Changes a sweep's state. One that is done stays so when it is to go on: there is nothing left to do.
    pub(crate) async fn set_sweep_state(
        &self,
        sweep: &str,
        to: SweepState,
    ) -> Result<SweepState, CoordinatorError> {
        let record = self.store.find_sweep(sweep).await?;
        if (record.state, to) == (SweepState::Done, SweepState::Running) {
            return Ok(record.state);
        }
        self.store.set_sweep_state(record.id, to).await?;
        info!(sweep = record.definition.name, from = %record.state, %to, "sweep changes state");
        self.changed_by_user();
        Ok(to)
    }

    /// Changes a sweep's priority.
    pub(crate) async fn set_sweep_priority(
        &self,
        sweep: &str,
        priority: i32,
    ) -> Result<(), CoordinatorError> {
        let record = self.store.find_sweep(sweep).await?;
        self.store.set_sweep_priority(record.id, priority).await?;
        info!(
            sweep = record.definition.name,
            from = record.priority,
            to = priority,
            "sweep changes priority"
        );
        self.signals.changed();
        Ok(())
    }

    /// Deletes a sweep that is done or cancelled.
    pub(crate) async fn delete_sweep(&self, sweep: &str) -> Result<Deleted, CoordinatorError> {
        let record = self.store.find_sweep(sweep).await?;
        let deleted = self.store.delete_sweep(record.id).await?;
        info!(sweep = record.definition.name, jobs = deleted.jobs, points = deleted.points, "sweep deleted");
        self.signals.changed();
        Ok(deleted)
    }

    /// Jobs by number, with the time at which they were looked up.
    pub(crate) async fn list_jobs(
        &self,
        question: &JobQuestion,
    ) -> Result<(Vec<JobRecord>, Timestamp), CoordinatorError> {
        let sweep = match &question.sweep {
            Some(sweep) => Some(self.store.find_sweep(sweep).await?.id),
            None => None,
        };
        let filter = JobFilter {
            sweep,
            states: question.states.clone(),
            after: question.after,
            limit: question.limit.unwrap_or(MAX_LISTED_JOBS).min(MAX_LISTED_JOBS),
        };
        let jobs = self.store.jobs(&filter).await?;
        Ok((jobs, self.clock.now()))
    }

    /// Makes parked jobs ready again, those listed or all; a done sweep runs again for them.
    pub(crate) async fn retry_jobs(&self, sweep: &str, jobs: &[JobId]) -> Result<u64, CoordinatorError> {
        let record = self.store.find_sweep(sweep).await?;
        let retried = self.store.retry_jobs(record.id, jobs).await?;
        if retried > 0 {
            info!(sweep = record.definition.name, jobs = retried, "failed jobs are tried again");
            self.changed_by_user();
        }
        Ok(retried)
    }

    fn changed_by_user(&self) {
        self.signals.changed();
        self.signals.jobs_ready();
        self.signals.wake_planner();
    }
}
