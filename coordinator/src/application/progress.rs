//! How far a sweep has come.

use avsweep_domain::{Coverage, Strategy, SweepDefinition, SweepId, SweepState};
use avsweep_search::strategy::{Problem, planned_points};
use avsweep_store::{RungCounts, SweepRecord, SweepTotals};
use futures::stream::{self, Stream};
use tokio::time::{Instant, sleep_until};

use super::pace::Pace;
use crate::planner::jobs::jobs_at;
use crate::{Coordinator, CoordinatorError};

/// A sweep with its sums.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The sweep.
    pub record: SweepRecord,
    /// Its sums.
    pub totals: SweepTotals,
    /// Points that the strategy will visit in all, where it knows.
    pub points_planned: Option<u64>,
    /// The most points that it may visit, where it may stop earlier by itself.
    pub points_budget: Option<u64>,
    /// Points whose every search query is done.
    pub points_done: u64,
    /// Points done per second lately; a watcher's only.
    pub points_per_second: Option<f64>,
    /// Seconds left at that rate; a watcher's only.
    pub seconds_left: Option<u64>,
}

impl Progress {
    /// Points that were given up early: each has one job on the search queries there.
    pub fn points_raced(&self) -> u64 {
        self.totals.likelihood.raced
    }

    /// Points that need no more search queries.
    fn points_closed(&self) -> u64 {
        self.points_done + self.points_raced()
    }

    /// Whether a watcher would see a difference.
    fn differs(&self, other: &Self) -> bool {
        self.record.state != other.record.state
            || self.record.priority != other.record.priority
            || self.totals != other.totals
    }
}

/// The most points that a strategy may visit, where it may stop earlier by itself.
fn points_budget(strategy: &Strategy) -> Option<u64> {
    match strategy {
        Strategy::Hierarchical(settings) => settings.budget.map(u64::from),
        Strategy::Bayesian(settings) => Some(u64::from(settings.budget)),
        Strategy::Grid | Strategy::Random(_) | Strategy::Sobol(_) => None,
    }
}

/// Points whose every search query is done, from job counts alone.
///
/// Exact while the strategy runs and each point is one job. Later the finalists' jobs on the confirm queries are among
/// the done ones, so the count is held at the planned points less the parked and raced jobs.
fn points_done(definition: &SweepDefinition, totals: &SweepTotals, max_queries_per_job: u32) -> u64 {
    let first: RungCounts = match definition.evaluation.likelihood {
        Coverage::None => totals.generation,
        Coverage::Finalists | Coverage::All => totals.likelihood,
    };
    let per_point = jobs_at(definition, max_queries_per_job).first_rung_jobs();
    let most = planned_points(&Problem::of(definition)).unwrap_or(totals.points);
    let closed_otherwise = first.parked.div_ceil(per_point) + first.raced;
    (first.done / per_point).min(most.saturating_sub(closed_otherwise))
}

impl Coordinator {
    /// A sweep's progress.
    pub(crate) async fn progress_of(&self, record: SweepRecord) -> Result<Progress, CoordinatorError> {
        let totals = self.store.totals(record.id).await?;
        let points_planned = planned_points(&Problem::of(&record.definition));
        let points_done = points_done(&record.definition, &totals, self.settings.max_queries_per_job);
        let points_budget = points_budget(&record.definition.strategy);
        Ok(Progress {
            record,
            totals,
            points_planned,
            points_budget,
            points_done,
            points_per_second: None,
            seconds_left: None,
        })
    }

    /// A sweep's progress, by name or number.
    pub(crate) async fn progress(&self, sweep: &str) -> Result<Progress, CoordinatorError> {
        let record = self.store.find_sweep(sweep).await?;
        self.progress_of(record).await
    }

    /// Every sweep's progress, newest first.
    pub(crate) async fn all_progress(&self) -> Result<Vec<Progress>, CoordinatorError> {
        let mut all = Vec::new();
        for record in self.store.sweeps().await? {
            all.push(self.progress_of(record).await?);
        }
        Ok(all)
    }

    async fn progress_by_id(&self, id: SweepId) -> Result<Progress, CoordinatorError> {
        let record = self.store.sweep(id).await?;
        self.progress_of(record).await
    }

    /// Progress now and after changes, until the sweep is done or cancelled.
    pub(crate) fn watch(
        self: std::sync::Arc<Self>,
        first: Progress,
    ) -> impl Stream<Item = Result<Progress, CoordinatorError>> + Send + 'static {
        let pace = Pace::over(self.settings.rate_window);
        let watcher = Watcher { coordinator: self, shown: None, upcoming: Some(first), seen: 0, pace };
        stream::unfold(watcher, async |mut watcher| {
            let item = watcher.next().await?;
            Some((item, watcher))
        })
    }
}

struct Watcher {
    coordinator: std::sync::Arc<Coordinator>,
    shown: Option<Progress>,
    upcoming: Option<Progress>,
    /// The change count when the store was last read.
    seen: u64,
    pace: Pace,
}

impl Watcher {
    async fn next(&mut self) -> Option<Result<Progress, CoordinatorError>> {
        if let Some(first) = self.upcoming.take() {
            self.pace.look(Instant::now(), first.points_closed());
            self.shown = Some(first.clone());
            return Some(Ok(first));
        }
        let shown = self.shown.as_ref()?;
        if matches!(shown.record.state, SweepState::Done | SweepState::Cancelled) {
            return None;
        }
        let coordinator = &self.coordinator;
        loop {
            // Another coordinator's changes do not count here; they show up within the slower interval.
            let slow = Instant::now() + coordinator.settings.planner_interval;
            loop {
                let soon = Instant::now() + coordinator.settings.watch_interval;
                tokio::select! {
                    biased;
                    () = coordinator.stopping.cancelled() => return None,
                    () = sleep_until(soon) => {}
                }
                if coordinator.signals.changes() != self.seen || Instant::now() >= slow {
                    break;
                }
            }
            self.seen = coordinator.signals.changes();
            let mut progress = match coordinator.progress_by_id(shown.record.id).await {
                Ok(progress) => progress,
                Err(error) => {
                    self.shown = None;
                    return Some(Err(error));
                }
            };
            self.pace.look(Instant::now(), progress.points_closed());
            if progress.differs(shown) {
                progress.points_per_second = self.pace.per_second();
                progress.seconds_left = self.pace.seconds_left(progress.points_planned);
                self.shown = Some(progress.clone());
                return Some(Ok(progress));
            }
        }
    }
}
