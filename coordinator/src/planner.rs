//! The planner: looks at every running sweep and writes the jobs that come next.
//!
//! It takes no input and can run at any time, any number of times: what it writes is idempotent, and what it
//! remembers ([`Cursor`]) only saves it from looking again. While workers are busy it reads a sweep's sums and nothing
//! else; it reads tallies only where finalists are chosen.

pub(crate) mod jobs;
pub(crate) mod step;

use std::collections::HashMap;
use std::sync::Arc;

use avsweep_domain::{Rung, SweepDefinition, SweepId, SweepState};
use avsweep_search::strategy::{Decision, History, known_point, next_points, planned_points};
use avsweep_search::{Finalists, finalists};
use avsweep_store::{NewJob, Plan, PointFilter, StoreError, SweepRecord};
use tokio::sync::{Mutex, MutexGuard};
use tracing::{debug, error, info};

use crate::coordinator::compute;
use crate::{Coordinator, CoordinatorError, error_text};
use jobs::{JobsAt, finalist_jobs, jobs_at};
use step::{Snapshot, Step, StrategyState, plan_step};

/// What the planner remembers of the sweeps. Whoever holds the lock is the only one in this process who plans.
#[derive(Debug, Default)]
pub(crate) struct Cursors(Mutex<HashMap<SweepId, Cursor>>);

impl Cursors {
    /// Keeps the planner away for as long as the guard lives.
    pub(crate) async fn lock(&self) -> MutexGuard<'_, HashMap<SweepId, Cursor>> {
        self.0.lock().await
    }
}

/// How far a sweep is planned; can be forgotten at any time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cursor {
    /// Length of the strategy's sequence of proposals so far; `None` when it has to be looked up.
    proposed: Option<u64>,
    /// Whether the strategy said that there is nothing more.
    finished: bool,
    /// Closed likelihood jobs (done, parked) at which finalists were last chosen. At others the choice may differ.
    finalists_at: Option<(u64, u64)>,
}

/// What one pass over a sweep learns on its way; forgotten with the pass.
#[derive(Clone, Copy, Debug, Default)]
struct Pass {
    strategy_waits: bool,
    judgements_settled: bool,
}

impl Coordinator {
    /// Plans whatever can be planned for every running sweep. A sweep whose planning fails does not keep the others
    /// from theirs.
    ///
    /// # Errors
    /// When the sweeps cannot be listed.
    pub async fn plan_once(&self) -> Result<(), CoordinatorError> {
        for record in self.store.sweeps().await? {
            if record.state != SweepState::Running {
                continue;
            }
            if let Err(error) = self.plan_sweep(record.id).await {
                let sweep = &record.definition.name;
                error!(sweep, error = error_text(&error), "planning the sweep failed");
            }
        }
        Ok(())
    }

    /// One step after the other until the sweep has to wait for its workers.
    async fn plan_sweep(&self, sweep: SweepId) -> Result<(), CoordinatorError> {
        let mut pass = Pass::default();
        loop {
            // Taken anew for every step: users' requests come in between.
            let mut cursors = self.cursors.lock().await;
            let record = self.store.sweep(sweep).await?;
            if record.state != SweepState::Running {
                return Ok(());
            }
            let totals = self.store.totals(sweep).await?;
            let cursor = cursors.entry(sweep).or_default();
            let closed = (totals.likelihood.done, totals.likelihood.parked);
            let snapshot = Snapshot {
                totals,
                strategy: if cursor.finished {
                    StrategyState::Finished
                } else if pass.strategy_waits {
                    StrategyState::Waiting
                } else {
                    StrategyState::Open
                },
                finalists_settled: cursor.finalists_at == Some(closed),
                judgements_settled: pass.judgements_settled,
            };
            match plan_step(&record.definition, &snapshot, self.settings.low_water) {
                Step::Judge => pass.judgements_settled = self.plan_judgements(sweep).await? == 0,
                Step::Propose => pass.strategy_waits = self.propose(&record, cursor).await?,
                Step::PlanFinalists => {
                    self.plan_finalists(&record).await?;
                    cursor.finalists_at = Some(closed);
                }
                Step::Finish => {
                    self.finish(&record).await?;
                    return Ok(());
                }
                Step::Wait => return Ok(()),
            }
        }
    }

    /// Asks the strategy for points and plans them. Returns whether it has to wait for results.
    async fn propose(&self, record: &SweepRecord, cursor: &mut Cursor) -> Result<bool, CoordinatorError> {
        let definition = &record.definition;
        let at_point = jobs_at(definition, self.settings.max_queries_per_job);
        let proposed = match cursor.proposed {
            Some(proposed) => proposed,
            None => self.find_proposed(record.id, definition, &at_point).await?,
        };
        cursor.proposed = Some(proposed);
        let limit = self.settings.max_jobs_per_plan / at_point.len().max(1);
        let history = History { proposed, ..History::default() };
        match next_points(definition, &history, limit) {
            Decision::Propose(points) => {
                let jobs = points.iter().flat_map(|point| at_point.jobs(point)).collect();
                self.plan(record.id, jobs).await?;
                cursor.proposed = Some(proposed + points.len() as u64);
                Ok(false)
            }
            Decision::Wait => Ok(true),
            Decision::Finished => {
                cursor.finished = true;
                debug!(sweep = definition.name, points = proposed, "the strategy has finished");
                Ok(false)
            }
        }
    }

    /// How far a sequence known beforehand was planned, by bisection: points are planned in its order, whole batches at
    /// a time, and nothing but the planner writes likelihood jobs on search queries.
    ///
    /// Without likelihoods the first jobs are generations, which samples write too, anywhere: then planning starts over,
    /// and what is there already stays as it is.
    async fn find_proposed(
        &self,
        sweep: SweepId,
        definition: &SweepDefinition,
        at_point: &JobsAt,
    ) -> Result<u64, CoordinatorError> {
        let Some((Rung::Likelihood, first)) = at_point.first() else {
            return Ok(0);
        };
        let (mut planned, mut open) = (0, planned_points(definition).unwrap_or(0));
        while planned < open {
            let middle = planned + (open - planned) / 2;
            let Some(point) = known_point(definition, middle) else {
                break;
            };
            let jobs = self.store.point_jobs(sweep, &point).await?;
            if jobs.iter().any(|job| job.rung == Rung::Likelihood && job.slice.start == first.start) {
                planned = middle + 1;
            } else {
                open = middle;
            }
        }
        Ok(planned)
    }

    /// Plans the likelihoods of the best points on the confirm queries, and the texts of those that are judged.
    async fn plan_finalists(&self, record: &SweepRecord) -> Result<(), CoordinatorError> {
        let definition = Arc::clone(&record.definition);
        let history = self.store.tallies(record.id, PointFilter::All).await?;
        let per_target = definition.evaluation.finalists_per_target as usize;
        let Finalists { judged, confirmed } =
            compute(move || finalists(&definition, &history, per_target)).await;
        debug!(
            sweep = record.definition.name,
            confirmed = confirmed.len(),
            judged = judged.len(),
            "finalists chosen"
        );
        // Point by point, so that a worker finds all jobs of a merged model together.
        let jobs = confirmed.iter().flat_map(|point| {
            let judged = judged.binary_search(point).is_ok();
            finalist_jobs(&record.definition, self.settings.max_queries_per_job, point, judged)
        });
        self.plan(record.id, jobs.collect()).await
    }

    /// Plans judgements of the responses that have none. Returns how many jobs.
    async fn plan_judgements(&self, sweep: SweepId) -> Result<usize, CoordinatorError> {
        let generated = self.store.unjudged(sweep).await?;
        let jobs: Vec<NewJob> =
            generated.into_iter().map(|job| NewJob { rung: Rung::Judgement, ..job }).collect();
        let count = jobs.len();
        self.plan(sweep, jobs).await?;
        Ok(count)
    }

    /// Writes jobs in bounded transactions and tells whoever waits for them.
    async fn plan(&self, sweep: SweepId, jobs: Vec<NewJob>) -> Result<(), CoordinatorError> {
        let mut jobs = jobs.into_iter().peekable();
        while jobs.peek().is_some() {
            let batch = jobs.by_ref().take(self.settings.max_jobs_per_plan.max(1)).collect();
            let planned = self.store.plan(sweep, &Plan { jobs: batch }).await?;
            debug!(
                %sweep,
                points = planned.new_points,
                jobs = planned.new_jobs,
                reused = planned.reused_jobs,
                "planned"
            );
            self.signals.changed();
            if planned.new_jobs > 0 {
                self.signals.jobs_ready();
            }
        }
        Ok(())
    }

    async fn finish(&self, record: &SweepRecord) -> Result<(), CoordinatorError> {
        match self.store.set_sweep_state(record.id, SweepState::Done).await {
            Ok(()) => {
                info!(sweep = record.definition.name, "sweep done");
                self.signals.changed();
                Ok(())
            }
            // Another coordinator changed the state since we looked: it is no longer ours to end.
            Err(StoreError::Transition { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
