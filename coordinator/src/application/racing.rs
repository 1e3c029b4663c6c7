//! Racing: the blocks that a job's queries come in, and whether the rest of them is wanted.
//!
//! What is known here of a sweep, its definition and who is ahead in it, is a copy of what the store has. It decides
//! nothing but how much is evaluated: with several coordinators or workers a point may be given up a block later than it
//! could have been, never one that is within reach.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use avsweep_domain::{JobId, Level, Normalisation, PointTallies, QuerySet, Rung, SweepDefinition, SweepId};
use avsweep_search::racing::{Race, Standing};
use avsweep_search::strategy::Problem;
use avsweep_store::{JobFilter, LeaseStatus, LeasedJob, PointFilter, Report, ResultValue, StoreError};
use tokio::time::Instant;
use tracing::debug;

use crate::{Coordinator, CoordinatorError};

/// Sweeps of which it is known whether they race.
const KNOWN: usize = 1000;
/// Another coordinator's points are looked for this long after the last look, or [`LOOK_SHARE`] times as long as that
/// look took.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
const LOOK_SHARE: u32 = 50;

/// What is remembered of the races; can be forgotten at any time.
#[derive(Debug, Default)]
pub(crate) struct Races {
    /// The definitions of sweeps that race; `None` of those that do not.
    definitions: Mutex<HashMap<SweepId, Option<Arc<SweepDefinition>>>>,
    standings: Mutex<HashMap<SweepId, Kept>>,
}

#[derive(Debug)]
struct Kept {
    standing: Standing,
    /// From when on it is brought up to date.
    until: Instant,
}

impl Races {
    /// Forgets who is ahead in a sweep: points were measured that nobody reported here.
    pub(crate) fn look_anew(&self, sweep: SweepId) {
        self.standings().remove(&sweep);
    }

    /// Forgets all sweeps but these.
    pub(crate) fn retain(&self, running: impl Fn(&SweepId) -> bool) {
        self.standings().retain(|sweep, _| running(sweep));
    }

    /// No code panics while it holds a lock here, so what they guard is whole.
    fn standings(&self) -> MutexGuard<'_, HashMap<SweepId, Kept>> {
        self.standings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn definitions(&self) -> MutexGuard<'_, HashMap<SweepId, Option<Arc<SweepDefinition>>>> {
        self.definitions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many leaders of a target the sweep goes on with.
fn places(definition: &SweepDefinition) -> usize {
    definition.evaluation.finalists_per_target.max(1) as usize
}

impl Coordinator {
    /// Leased jobs with the lengths of the blocks that their queries come in; none where no block is waited for.
    pub(crate) async fn in_blocks(&self, jobs: Vec<LeasedJob>) -> Vec<(LeasedJob, Vec<u32>)> {
        let mut ordered = Vec::with_capacity(jobs.len());
        for mut job in jobs {
            let mut lengths = Vec::new();
            // The jobs are leased: what cannot be looked up now must not keep them from going out, whole.
            if job.rung == Rung::Likelihood
                && let Ok(Some(definition)) = self.raced(job.sweep).await
                && job
                    .ordinals
                    .iter()
                    .all(|ordinal| definition.slice(QuerySet::Search).ordinals().contains(ordinal))
            {
                let problem = Problem::of(&definition);
                if let Some(race) = race(&definition, &problem) {
                    let blocks = race.blocks_of(&job.ordinals);
                    lengths = blocks.iter().map(|block| block.len() as u32).collect();
                    job.ordinals = blocks.concat();
                }
            }
            ordered.push((job, lengths));
        }
        ordered
    }

    /// Looks at a race after a block of a job: whether the rest is not wanted. Then the job is closed.
    pub(crate) async fn look_at_race(&self, report: &Report) -> Result<bool, CoordinatorError> {
        let id = report.lease.job;
        let filter =
            JobFilter { after: Some(JobId(id.0.saturating_sub(1))), limit: 1, ..JobFilter::default() };
        let job = self.store.jobs(&filter).await?.pop().filter(|job| job.id == id);
        let Some(job) = job.filter(|job| job.job.rung == Rung::Likelihood) else {
            return Ok(false);
        };
        let Some(definition) = self.raced(job.sweep).await? else {
            return Ok(false);
        };
        let problem = Problem::of(&definition);
        let search = definition.slice(QuerySet::Search);
        let Some(race) = race(&definition, &problem).filter(|_| job.job.slice == search) else {
            return Ok(false);
        };
        let point = std::slice::from_ref(&job.job.point);
        if report.finished {
            let tallies = self.store.tallies(job.sweep, PointFilter::These(point)).await?;
            if let Some(kept) = self.races.standings().get_mut(&job.sweep) {
                tallies.iter().for_each(|tallies| kept.standing.add(&problem, tallies));
            }
            return Ok(false);
        }
        let ordinals: Vec<u32> = search.ordinals().collect();
        let rows = self.store.point_results(job.sweep, &job.job.point, &ordinals).await?;
        let levels: HashMap<u32, Level> = rows
            .into_iter()
            .filter_map(|row| match row.value {
                ResultValue::Score(score) => Some((row.ordinal, score.level(Normalisation::Mean)?)),
                ResultValue::Response(_) | ResultValue::Verdict(_) => None,
            })
            .collect();
        let asked = race.asked(|ordinal| levels.get(&ordinal).copied());
        self.bring_up_to_date(job.sweep, &definition, &problem).await?;
        let is_lost = |kept: &Kept| kept.standing.is_out_of_reach(&race, &asked);
        if !self.races.standings().get(&job.sweep).is_some_and(is_lost) {
            return Ok(false);
        }
        let status = self.store.close_raced(&report.lease, self.clock.now()).await?;
        debug!(sweep = definition.name, point = %job.job.point, ?status, "out of reach for every target");
        Ok(status == LeaseStatus::Held)
    }

    /// Reads who is ahead, where that is not known, or another coordinator may know more.
    async fn bring_up_to_date(
        &self,
        sweep: SweepId,
        definition: &Arc<SweepDefinition>,
        problem: &Problem,
    ) -> Result<(), CoordinatorError> {
        let started = Instant::now();
        if let Some(kept) = self.races.standings().get_mut(&sweep) {
            if started < kept.until {
                return Ok(());
            }
            // One report looks, the others go by what is known: a stale standing only gives up later.
            kept.until = started + LOOK_AGAIN;
        }
        let all: Vec<PointTallies> = self.store.tallies(sweep, PointFilter::All).await?;
        let (problem, places) = (problem.clone(), places(definition));
        let read = self.compute(move || {
            let mut standing = Standing::new(&problem, places);
            all.iter().for_each(|tallies| standing.add(&problem, tallies));
            standing
        });
        let read = read.await;
        let until = Instant::now() + LOOK_AGAIN.max(started.elapsed() * LOOK_SHARE);
        let mut standings = self.races.standings();
        match standings.get_mut(&sweep) {
            // Reports have come in meanwhile.
            Some(kept) => {
                kept.standing.merge(read);
                kept.until = until;
            }
            None => {
                standings.insert(sweep, Kept { standing: read, until });
            }
        }
        Ok(())
    }

    /// The definition of a sweep that races its points; `None` of another.
    async fn raced(&self, sweep: SweepId) -> Result<Option<Arc<SweepDefinition>>, CoordinatorError> {
        if let Some(known) = self.races.definitions().get(&sweep) {
            return Ok(known.clone());
        }
        let definition = match self.store.sweep(sweep).await {
            Ok(record) => Some(record.definition).filter(|definition| definition.evaluation.racing.is_some()),
            Err(StoreError::NoSuchSweep { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let mut definitions = self.races.definitions();
        if definitions.len() >= KNOWN {
            definitions.clear();
        }
        definitions.insert(sweep, definition.clone());
        Ok(definition)
    }
}

/// The race of a sweep that has one.
fn race<'p>(definition: &SweepDefinition, problem: &'p Problem) -> Option<Race<'p>> {
    Race::new(problem, definition.evaluation.racing?).ok()
}
