//! The planner: looks at every running sweep and writes the jobs that come next.
//!
//! It takes no input and can run at any time, any number of times, in any number of coordinators at once: what it
//! writes is idempotent and written under the store's planning guard, of which a sweep has one. What it remembers
//! ([`Cursor`]) only saves it from looking again. While workers are busy it reads a sweep's sums and nothing else, and
//! claims nothing; it reads tallies only where finalists are chosen, and results only for strategies that decide from
//! them, each point's once.

mod choosing;
mod cursor;
pub(crate) mod jobs;
pub(crate) mod seen;
pub(crate) mod step;
mod turn;

use std::collections::HashSet;
use std::sync::Arc;

use avsweep_domain::{Rung, SweepDefinition, SweepId, SweepState};
use avsweep_search::ladder::climb;
use avsweep_search::strategy::{Decision, History, Problem, known_point, next_points, planned_points};
use avsweep_search::{Finalists, finalists};
use avsweep_store::{NewJob, Plan, PointFilter, StoreError, SweepRecord, SweepTotals};
use tracing::{debug, error, info};

use crate::{Coordinator, CoordinatorError, error_text};
use cursor::Cursor;
use jobs::{JobsAt, finalist_jobs, jobs_at, ladder_jobs};
use seen::{Closed, Rest, is_adaptive};
use step::{Snapshot, Step, StrategyState, plan_step, verdicts_decide};
use turn::Turn;

pub(crate) use cursor::Cursors;

/// What one pass over a sweep learns on its way; forgotten with the pass.
#[derive(Clone, Copy, Debug, Default)]
struct Pass {
    strategy_waits: bool,
    judgements_settled: bool,
}

/// The closed jobs that the choice of finalists depends on: those of likelihoods, or all.
fn deciding(definition: &SweepDefinition, totals: &SweepTotals) -> Closed {
    if verdicts_decide(definition) {
        return Closed::of(totals);
    }
    Closed::of(&SweepTotals { likelihood: totals.likelihood, ..SweepTotals::default() })
}

impl Coordinator {
    /// Plans whatever can be planned for every running sweep. A sweep whose planning fails does not keep the others
    /// from theirs; one that another coordinator plans right now is left to it.
    ///
    /// # Errors
    /// When the sweeps cannot be listed, or the store went away meanwhile.
    pub async fn plan_once(&self) -> Result<(), CoordinatorError> {
        self.cursors.since(self.clock.now());
        let running: Vec<SweepRecord> = self.store.sweeps().await?;
        let running: Vec<_> =
            running.into_iter().filter(|sweep| sweep.state == SweepState::Running).collect();
        let ids: HashSet<SweepId> = running.iter().map(|sweep| sweep.id).collect();
        self.cursors.lock().await.retain(|sweep, _| ids.contains(sweep));
        self.races.retain(|sweep| ids.contains(sweep));
        let adaptive = running.iter().filter(|sweep| is_adaptive(&sweep.definition.strategy));
        self.cursors.note_adaptive(adaptive.map(|sweep| sweep.id).collect());
        for record in running {
            let sweep = &record.definition.name;
            match self.plan_sweep(record.id).await {
                Ok(()) => {}
                Err(CoordinatorError::Store(StoreError::PlanningLost { .. })) => {
                    debug!(sweep, "another coordinator has taken over planning");
                }
                // Deleted since it was listed.
                Err(CoordinatorError::Store(StoreError::NoSuchSweep { .. })) => {}
                // Nor would the other sweeps be planned.
                Err(CoordinatorError::Store(error)) if error.is_unavailable() => return Err(error.into()),
                Err(error) => error!(sweep, error = error_text(&error), "planning the sweep failed"),
            }
        }
        Ok(())
    }

    /// Takes the sweep's turn if there is something to do, and gives it back.
    async fn plan_sweep(&self, sweep: SweepId) -> Result<(), CoordinatorError> {
        let mut cursors = self.cursors.lock().await;
        let cursor = cursors.entry(sweep).or_default();
        // What is remembered may be of an older term than the last. It decides no more than whether to ask for a turn,
        // and says at worst that the strategy is open where it has finished.
        if self.next_step(sweep, cursor, Pass::default()).await?.is_none() {
            return Ok(());
        }
        let Some(mut turn) = self.take_turn(sweep).await? else {
            return Ok(());
        };
        cursor.begin(turn.guard.term);
        let result = self.take_steps(sweep, cursor, &mut turn).await;
        self.end_turn(turn).await;
        result
    }

    /// One step after the other until the sweep has to wait for its workers.
    async fn take_steps(
        &self,
        sweep: SweepId,
        cursor: &mut Cursor,
        turn: &mut Turn,
    ) -> Result<(), CoordinatorError> {
        let mut pass = Pass::default();
        while let Some((step, record, totals)) = self.next_step(sweep, cursor, pass).await? {
            match step {
                Step::Judge => pass.judgements_settled = self.plan_judgements(turn).await? == 0,
                Step::Propose if is_adaptive(&record.definition.strategy) => {
                    self.choose(&record, &totals, cursor, turn).await?;
                }
                Step::Propose => pass.strategy_waits = self.propose(&record, cursor, turn).await?,
                Step::PlanFinalists => {
                    self.plan_finalists(&record, turn).await?;
                    cursor.finalists_at = Some(deciding(&record.definition, &totals));
                }
                Step::Finish => {
                    if self.finish_in(turn).await? {
                        info!(sweep = record.definition.name, "sweep done");
                        self.signals.changed();
                    }
                    // If not, a user has asked for more since we looked.
                    return Ok(());
                }
                Step::Wait => return Ok(()),
            }
        }
        Ok(())
    }

    /// What comes next; `None` when it is to wait, or the sweep no longer runs.
    async fn next_step(
        &self,
        sweep: SweepId,
        cursor: &Cursor,
        pass: Pass,
    ) -> Result<Option<(Step, SweepRecord, SweepTotals)>, CoordinatorError> {
        let record = self.store.sweep(sweep).await?;
        if record.state != SweepState::Running {
            return Ok(None);
        }
        let totals = self.store.totals(sweep).await?;
        let adaptive = is_adaptive(&record.definition.strategy);
        let rest =
            cursor.seen.as_ref().filter(|seen| seen.at == Closed::of(&totals)).and_then(|seen| seen.rest);
        let strategy = if cursor.finished || rest == Some(Rest::Finished) {
            StrategyState::Finished
        } else if pass.strategy_waits || rest == Some(Rest::Waits) {
            StrategyState::Waiting
        } else {
            StrategyState::Open
        };
        let snapshot = Snapshot {
            totals,
            strategy,
            workers: if adaptive && strategy == StrategyState::Open { self.evaluators().await? } else { 0 },
            finalists_settled: cursor.finalists_at == Some(deciding(&record.definition, &totals)),
            judgements_settled: pass.judgements_settled,
        };
        let step = plan_step(&record.definition, &snapshot, self.settings.low_water);
        Ok((step != Step::Wait).then_some((step, record, totals)))
    }

    /// Asks the strategy for points and plans them. Returns whether it has to wait for results.
    async fn propose(
        &self,
        record: &SweepRecord,
        cursor: &mut Cursor,
        turn: &mut Turn,
    ) -> Result<bool, CoordinatorError> {
        let definition = &record.definition;
        let at_point = jobs_at(definition, self.settings.max_queries_per_job);
        let proposed = match cursor.proposed {
            Some(proposed) => proposed,
            None => self.find_proposed(record.id, definition, &at_point).await?,
        };
        cursor.proposed = Some(proposed);
        let limit = self.settings.max_jobs_per_plan / at_point.len().max(1);
        let history = History { proposed, ..History::default() };
        match next_points(&Problem::of(definition), &history, limit) {
            Decision::Propose(points) => {
                let jobs = points.iter().flat_map(|point| at_point.jobs(point)).collect();
                self.plan(turn, jobs).await?;
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
        let problem = Problem::of(definition);
        let (mut planned, mut open) = (0, planned_points(&problem).unwrap_or(0));
        while planned < open {
            let middle = planned + (open - planned) / 2;
            let Some(point) = known_point(&problem, middle) else {
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

    /// Plans what the best points get besides: with a ladder first the texts that the judge chooses by, rung by rung;
    /// then the likelihoods of the best points on the confirm queries, and the texts of those that are judged.
    async fn plan_finalists(&self, record: &SweepRecord, turn: &mut Turn) -> Result<(), CoordinatorError> {
        let definition = &record.definition;
        let history = self.store.tallies(record.id, PointFilter::All).await?;
        let (asked, per_target) =
            (Arc::clone(definition), definition.evaluation.finalists_per_target as usize);
        let (climb, Finalists { judged, confirmed }) =
            self.compute(move || (climb(&asked, &history), finalists(&asked, &history, per_target))).await;
        if let Some(climb) = climb {
            // What comes later is decided by what comes before: it waits until that is planned, and so measured, in full.
            for points in [climb.first, climb.judged] {
                let jobs = points
                    .iter()
                    .flat_map(|point| ladder_jobs(definition, self.settings.max_queries_per_job, point));
                if self.plan(turn, jobs.collect()).await? > 0 {
                    debug!(
                        sweep = definition.name,
                        points = points.len(),
                        share = climb.share,
                        "judged by the ladder"
                    );
                    return Ok(());
                }
            }
        }
        debug!(
            sweep = definition.name,
            confirmed = confirmed.len(),
            judged = judged.len(),
            "finalists chosen"
        );
        // Point by point, so that a worker finds all jobs of a merged model together.
        let jobs = confirmed.iter().flat_map(|point| {
            let judged = judged.binary_search(point).is_ok();
            finalist_jobs(definition, self.settings.max_queries_per_job, point, judged)
        });
        self.plan(turn, jobs.collect()).await?;
        Ok(())
    }

    /// Plans judgements of the responses that have none. Returns how many jobs.
    async fn plan_judgements(&self, turn: &mut Turn) -> Result<usize, CoordinatorError> {
        let generated = self.store.unjudged(turn.guard.sweep).await?;
        let jobs: Vec<NewJob> =
            generated.into_iter().map(|job| NewJob { rung: Rung::Judgement, ..job }).collect();
        let count = jobs.len();
        self.plan(turn, jobs).await?;
        Ok(count)
    }

    /// Writes jobs in bounded transactions and tells whoever waits for them. Returns how many were not there yet.
    async fn plan(&self, turn: &mut Turn, jobs: Vec<NewJob>) -> Result<u64, CoordinatorError> {
        let mut jobs = jobs.into_iter().peekable();
        let mut written = 0;
        while jobs.peek().is_some() {
            let batch = jobs.by_ref().take(self.settings.max_jobs_per_plan.max(1)).collect();
            written += self.write(turn, &Plan { jobs: batch, choice: None }).await?;
        }
        Ok(written)
    }

    /// Writes jobs in one transaction and tells whoever waits for them. Returns how many were not there yet.
    async fn write(&self, turn: &mut Turn, plan: &Plan) -> Result<u64, CoordinatorError> {
        let planned = self.plan_in(turn, plan).await?;
        debug!(
            sweep = %turn.guard.sweep,
            points = planned.new_points,
            jobs = planned.new_jobs,
            reused = planned.reused_jobs,
            "planned"
        );
        if planned.reused_jobs > 0 {
            self.races.look_anew(turn.guard.sweep);
        }
        self.signals.changed();
        if planned.new_jobs > 0 {
            self.signals.jobs_ready();
        }
        Ok(planned.new_jobs + planned.reused_jobs)
    }
}
