//! Planning: by one at a time, of jobs that are then there, until there is nothing more.

use std::collections::HashSet;

use avsweep_domain::{JobState, LeaseToken, SweepId, SweepState};
use avsweep_store::{NewJob, Plan, Planned, PlanningGuard, StoreError, Timestamp};

use super::observation::Observation;
use super::{Laws, Planner, Ruling, answered, ensure};

impl Laws {
    /// Whether a guard is held, by the answers so far.
    fn may_plan(&self, guard: &PlanningGuard, now: Timestamp) -> bool {
        self.planners.get(&guard.sweep).is_some_and(|planner| {
            planner.holder == guard.holder && planner.term == guard.term && now <= planner.until
        })
    }

    pub(crate) fn planning_claimed(
        &mut self,
        sweep: SweepId,
        holder: LeaseToken,
        until: Timestamp,
        now: Timestamp,
        answer: &Result<Option<PlanningGuard>, StoreError>,
        seen: &Observation,
    ) -> Ruling {
        let guard = *answered(answer)?;
        self.nothing_changed(seen)?;
        let last = self.planners.get(&sweep).copied();
        let others = last.is_some_and(|planner| planner.holder != holder && now <= planner.until);
        ensure(others == guard.is_none(), || {
            format!("sweep {sweep} is planned by another: {others}, and the answer was {guard:?}")
        })?;
        let Some(guard) = guard else { return Ok(format!("of sweep {sweep}: another plans")) };
        let term = match last {
            Some(planner) if planner.holder == holder => planner.term,
            Some(planner) => planner.term + 1,
            None => 1,
        };
        ensure(guard.term == term && guard.sweep == sweep && guard.holder == holder, || {
            format!("the guard is {guard:?}; term {term} is wanted")
        })?;
        self.planners.insert(sweep, Planner { holder, term, until });
        Ok(format!("of sweep {sweep}: term {term}"))
    }

    pub(crate) fn planning_released(
        &mut self,
        guard: &PlanningGuard,
        answer: &Result<(), StoreError>,
        seen: &Observation,
    ) -> Ruling {
        answered(answer)?;
        self.nothing_changed(seen)?;
        if let Some(planner) = self.planners.get_mut(&guard.sweep)
            && (planner.holder, planner.term) == (guard.holder, guard.term)
        {
            planner.until = Timestamp(i64::MIN);
        }
        Ok(format!("of sweep {}: term {}", guard.sweep, guard.term))
    }

    pub(crate) fn planned(
        &mut self,
        sweep: SweepId,
        plan: &Plan,
        guard: Option<&PlanningGuard>,
        now: Timestamp,
        answer: &Result<Planned, StoreError>,
        seen: &Observation,
    ) -> Ruling {
        let guard = guard.ok_or("nobody here asks for samples, and this came without a guard")?;
        let held = self.may_plan(guard, now);
        if let Err(StoreError::PlanningLost { .. }) = answer {
            ensure(!held, || format!("sweep {sweep}: the right to plan is held and was refused"))?;
            self.nothing_changed(seen)?;
            return Ok(format!("sweep {sweep}: the right to plan is lost"));
        }
        let planned = answered(answer)?;
        ensure(held, || {
            format!("sweep {sweep} was planned by one who has no right to (term {})", guard.term)
        })?;
        self.no_sweep_changed(seen, None)?;
        let changes = self.seen.changes(seen);
        for change in &changes {
            let wanted = plan.jobs.contains(&change.after.job) && change.sweep == sweep;
            ensure(wanted && change.before.is_none(), || {
                format!("it changed {:?} to {:?}", change.before, change.after)
            })?;
        }
        let is = |state| changes.iter().filter(|change| change.after.state == state).count() as u64;
        let found = (is(JobState::Ready), is(JobState::Done));
        ensure(found == (planned.new_jobs, planned.reused_jobs), || {
            format!("{found:?} jobs are new, ready and done; the answer was {planned:?}")
        })?;
        let jobs = seen.sweeps.get(&sweep).map(|sweep| &sweep.jobs);
        for job in &plan.jobs {
            let there = jobs.is_some_and(|jobs| jobs.values().any(|other| other.job == *job));
            ensure(there, || format!("{job:?} was planned and is not there"))?;
        }
        // In the order of the plan; numbers are given to open jobs first.
        let added: HashSet<&NewJob> = changes.iter().map(|change| &change.after.job).collect();
        let new: Vec<&NewJob> = plan.jobs.iter().filter(|job| added.contains(job)).collect();
        self.points_are_the_strategys(sweep, plan, &new)?;
        Ok(format!("sweep {sweep}: {planned:?}"))
    }

    pub(crate) fn finished(
        &mut self,
        guard: &PlanningGuard,
        now: Timestamp,
        answer: &Result<bool, StoreError>,
        seen: &Observation,
    ) -> Ruling {
        let sweep = guard.sweep;
        let held = self.may_plan(guard, now);
        if let Err(StoreError::PlanningLost { .. }) = answer {
            ensure(!held, || format!("sweep {sweep}: the right to plan is held and was refused"))?;
            self.nothing_changed(seen)?;
            return Ok(format!("sweep {sweep}: the right to plan is lost"));
        }
        let done = *answered(answer)?;
        ensure(held, || format!("sweep {sweep} was finished by one who has no right to"))?;
        ensure(self.seen.changes(seen).is_empty(), || "it changed jobs".to_owned())?;
        self.no_sweep_changed(seen, Some(sweep))?;
        let now_seen = seen.sweeps.get(&sweep).ok_or("its sweep is gone")?;
        let open = now_seen.jobs.values().find(|job| matches!(job.state, JobState::Ready | JobState::Leased));
        ensure(!done || open.is_none(), || format!("sweep {sweep} is done, and {open:?} is open"))?;
        let before = self.seen.sweeps.get(&sweep).ok_or("its sweep was not there")?;
        let wanted = if done { SweepState::Done } else { before.state };
        ensure(
            now_seen.state == wanted && (before.state == SweepState::Running || before.state == wanted),
            || format!("sweep {sweep} went from {} to {}; done: {done}", before.state, now_seen.state),
        )?;
        Ok(format!("sweep {sweep}: {done}"))
    }
}
