//! What users do to sweeps.

use std::sync::Arc;

use avsweep_domain::{JobId, JobState, SweepDefinition, SweepId, SweepState};
use avsweep_store::{Created, JobRecord, StoreError};

use super::observation::{Observation, SeenSweep};
use super::{Laws, Ruling, answered, ensure};

impl Laws {
    fn before(&self, sweep: SweepId) -> Result<&SeenSweep, String> {
        self.seen.sweeps.get(&sweep).ok_or_else(|| format!("there is no sweep {sweep}"))
    }

    pub(crate) fn created(
        &mut self,
        definition: &SweepDefinition,
        priority: i32,
        answer: &Result<Created, StoreError>,
        seen: &Observation,
    ) -> Ruling {
        let created = answered(answer)?;
        let known = self.seen.sweeps.values().any(|sweep| sweep.name == definition.name);
        ensure(known != created.created, || format!("'{}' was known: {known}", definition.name))?;
        if known {
            self.nothing_changed(seen)?;
            return Ok(format!("'{}' is there already", definition.name));
        }
        self.no_sweep_changed(seen, Some(created.id))?;
        self.definitions.insert(created.id, Arc::new(definition.clone()));
        let sweep = seen.sweeps.get(&created.id).ok_or("it is not there")?;
        let is = (sweep.state, sweep.priority, sweep.jobs.len());
        ensure(is == (SweepState::Running, priority, 0), || format!("it is {is:?}"))?;
        Ok(format!("'{}' as {}", definition.name, created.id))
    }

    pub(crate) fn state_set(
        &mut self,
        sweep: SweepId,
        to: SweepState,
        answer: &Result<(), StoreError>,
        seen: &Observation,
    ) -> Ruling {
        let from = self.before(sweep)?.state;
        let allowed = from.check_transition(to).is_ok();
        if let Err(StoreError::Transition { .. }) = answer {
            ensure(!allowed, || format!("{from} to {to} was refused"))?;
            self.nothing_changed(seen)?;
            return Ok(format!("sweep {sweep}: from {from} to {to}: refused"));
        }
        answered(answer)?;
        ensure(allowed, || format!("{from} to {to} was allowed"))?;
        ensure(self.seen.changes(seen).is_empty(), || "it changed jobs".to_owned())?;
        self.no_sweep_changed(seen, Some(sweep))?;
        let state = seen.sweeps.get(&sweep).map(|sweep| sweep.state);
        ensure(state == Some(to), || format!("sweep {sweep} is {state:?} after it was set to {to}"))?;
        Ok(format!("sweep {sweep}: from {from} to {to}"))
    }

    pub(crate) fn prioritised(
        &mut self,
        sweep: SweepId,
        priority: i32,
        answer: &Result<(), StoreError>,
        seen: &Observation,
    ) -> Ruling {
        answered(answer)?;
        ensure(self.seen.changes(seen).is_empty(), || "it changed jobs".to_owned())?;
        self.no_sweep_changed(seen, Some(sweep))?;
        let (before, after) = (self.before(sweep)?, seen.sweeps.get(&sweep).ok_or("it is gone")?);
        ensure((after.state, after.priority) == (before.state, priority), || {
            format!("sweep {sweep} is {} with priority {}", after.state, after.priority)
        })?;
        Ok(format!("sweep {sweep}: {priority}"))
    }

    pub(crate) fn retried(
        &mut self,
        sweep: SweepId,
        jobs: &[JobId],
        answer: &Result<u64, StoreError>,
        seen: &Observation,
    ) -> Ruling {
        let before = self.before(sweep)?;
        let parked = |id: &JobId| before.jobs.get(id).is_some_and(|job| job.state == JobState::Parked);
        if let Err(StoreError::NoSuchJob(_)) = answer {
            ensure(!jobs.iter().all(parked), || "parked jobs were refused".to_owned())?;
            self.nothing_changed(seen)?;
            return Ok(format!("sweep {sweep}: {jobs:?} are not all parked"));
        }
        let count = *answered(answer)?;
        let wanted = before
            .jobs
            .values()
            .filter(|job| job.state == JobState::Parked && (jobs.is_empty() || jobs.contains(&job.id)));
        let wanted: Vec<JobId> = wanted.map(|job| job.id).collect();
        let changes = self.seen.changes(seen);
        let changed: Vec<JobId> = changes.iter().map(|change| change.after.id).collect();
        ensure(changed == wanted && count == wanted.len() as u64, || {
            format!("{wanted:?} were parked; {changed:?} changed, and {count} were counted")
        })?;
        for change in changes {
            let is = (change.after.state, change.after.lost, change.after.errors);
            let attempt = change.before.map(|before: &JobRecord| before.attempt);
            ensure(is == (JobState::Ready, 0, 0) && attempt == Some(change.after.attempt), || {
                format!("a retried job is {:?}", change.after)
            })?;
        }
        self.no_sweep_changed(seen, Some(sweep))?;
        let state = seen.sweeps.get(&sweep).map(|sweep| sweep.state);
        let runs_again = before.state == SweepState::Done && !wanted.is_empty();
        let right = if runs_again { SweepState::Running } else { before.state };
        ensure(state == Some(right), || format!("sweep {sweep} is {state:?}; {right} is wanted"))?;
        Ok(format!("sweep {sweep}: {wanted:?}"))
    }
}
