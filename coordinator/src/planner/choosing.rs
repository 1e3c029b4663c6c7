//! Planning with a strategy that decides from results: one choice at a time, each written with what it had seen.

use std::sync::Arc;

use avsweep_domain::SweepId;
use avsweep_search::strategy::{Decision, Waves};
use avsweep_store::{Plan, PointFilter, SweepRecord, SweepTotals, WorkerKind, WorkerState};
use tokio::time::sleep;
use tracing::debug;

use super::cursor::Cursor;
use super::jobs::jobs_at;
use super::seen::{Closed, Rest, Seen};
use super::turn::Turn;
use crate::metrics::is_gone;
use crate::{Coordinator, CoordinatorError};

impl Coordinator {
    /// Asks the strategy for as many points as there are workers without work, and plans them; or learns that it has none
    /// for now.
    ///
    /// What was seen is put back only when all went well: after a failure the store is read anew.
    pub(super) async fn choose(
        &self,
        record: &SweepRecord,
        totals: &SweepTotals,
        cursor: &mut Cursor,
        turn: &mut Turn,
    ) -> Result<(), CoordinatorError> {
        let mut seen = self.look_at_results(record.id, cursor.seen.take(), Closed::of(totals)).await?;
        if seen.rest.is_none() {
            let at_point = jobs_at(&record.definition, self.settings.max_queries_per_job);
            let jobs_each = at_point.len().max(1);
            let free =
                self.evaluators().await?.saturating_sub(totals.likelihood.open() + totals.generation.open());
            // One choice is one transaction.
            let limit = usize::try_from(free.div_ceil(jobs_each as u64))
                .unwrap_or(usize::MAX)
                .clamp(1, (self.settings.max_jobs_per_plan / jobs_each).max(1));
            let sweep = &record.definition.name;
            let (decision, waves) = self.decide(record, &seen, limit, turn).await?;
            Arc::make_mut(&mut seen).waves = waves;
            match decision {
                Decision::Propose(points) => {
                    let jobs = points.iter().flat_map(|point| at_point.jobs(point)).collect();
                    self.write(turn, &Plan { jobs, choice: Some(seen.choice(limit, points.clone())) })
                        .await?;
                    Arc::make_mut(&mut seen).planned(points);
                }
                Decision::Wait => Arc::make_mut(&mut seen).rest = Some(Rest::Waits),
                Decision::Finished => {
                    debug!(sweep, "the strategy has finished");
                    Arc::make_mut(&mut seen).rest = Some(Rest::Finished);
                }
            }
        }
        cursor.seen = Some(seen);
        Ok(())
    }

    /// What the strategy sees: what is remembered, brought up to date if jobs were closed since, or all of it.
    async fn look_at_results(
        &self,
        sweep: SweepId,
        remembered: Option<Arc<Seen>>,
        closed: Closed,
    ) -> Result<Arc<Seen>, CoordinatorError> {
        let (mut seen, points) = match remembered {
            Some(seen) if seen.at == closed => return Ok(seen),
            Some(seen) => {
                let unsettled = seen.unsettled();
                let points = self.store.search_points(sweep, PointFilter::These(&unsettled)).await?;
                (seen, points)
            }
            None => (Arc::default(), self.store.search_points(sweep, PointFilter::All).await?),
        };
        Arc::make_mut(&mut seen).learn(points, closed);
        Ok(seen)
    }

    /// The strategy's decision. The turn is kept for as long as that takes.
    async fn decide(
        &self,
        record: &SweepRecord,
        seen: &Arc<Seen>,
        limit: usize,
        turn: &mut Turn,
    ) -> Result<(Decision, Waves), CoordinatorError> {
        let (definition, seen) = (Arc::clone(&record.definition), Arc::clone(seen));
        let mut deciding = std::pin::pin!(self.compute(move || seen.decide(&definition, limit)));
        loop {
            tokio::select! {
                biased;
                decision = &mut deciding => return Ok(decision),
                () = sleep(self.settings.planning_duration / 3) => self.keep(turn).await?,
            }
        }
    }

    /// Workers that could evaluate. One that was last heard of before this coordinator began to plan may have gone with
    /// its forerunner.
    pub(super) async fn evaluators(&self) -> Result<u64, CoordinatorError> {
        let now = self.clock.now();
        let since = self.cursors.since(now);
        let workers = self.store.workers().await?.into_iter().filter(|worker| {
            worker.status.kind == WorkerKind::Worker
                && matches!(worker.status.state, WorkerState::Idle | WorkerState::Busy)
                && worker.last_seen >= since
                && !is_gone(worker, self.settings.lease_duration, now)
        });
        Ok((workers.count() as u64).max(1))
    }
}
