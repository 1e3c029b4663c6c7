//! Samples: what does the model say at a point?

use std::collections::{BTreeMap, BTreeSet};

use avsweep_domain::{
    JobId, JobState, Point, QueryScore, QuerySet, QuerySlice, Response, Rung, SweepId, SweepState, Verdict,
};
use avsweep_store::{JobStatus, NewJob, Plan, ResultValue, StoreError};
use tracing::debug;

use crate::{Coordinator, CoordinatorError};

/// A person waits for a sample: it goes before the sweep's own jobs.
const SAMPLE_PRIORITY: i32 = 100;

/// Which responses are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleRequest {
    /// The sweep, by name or number.
    pub sweep: String,
    /// Where.
    pub point: Point,
    /// To which queries; empty: all of the reported set.
    pub ordinals: Vec<u32>,
    /// Only look: plan nothing.
    pub stored_only: bool,
}

/// A stored response, with what else is stored of its query at the point.
#[derive(Clone, Debug, PartialEq)]
pub struct SampledResponse {
    /// The query.
    pub ordinal: u32,
    /// The response.
    pub response: Response,
    /// The verdict; `None` while it is not judged.
    pub verdict: Option<Verdict>,
    /// The query's scores; `None` where it was not scored.
    pub score: Option<QueryScore>,
}

/// What is there of a sample.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// The responses stored so far, by ordinal.
    pub responses: Vec<SampledResponse>,
    /// Queries that a job will still answer or judge.
    pub pending: u32,
    /// Why others will have no answer or verdict.
    pub failures: Vec<String>,
}

/// What is stored of a query at a point.
#[derive(Debug, Default)]
struct Stored {
    score: Option<QueryScore>,
    response: Option<Response>,
    verdict: Option<Verdict>,
}

/// What has to happen for a sample to be whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Missing {
    /// Queries that no job is on: runs of ordinals.
    unplanned: Vec<QuerySlice>,
    /// Queries that a job is on which will answer or judge them.
    coming: u32,
    /// Parked jobs that others depend on.
    parked: BTreeSet<usize>,
    /// Queries whose job was closed early because the point is out of reach.
    raced: u32,
    /// Those jobs.
    raced_jobs: BTreeSet<usize>,
}

/// Looks for the job that each unsettled query depends on. `stored` says whether a query has a response and a verdict.
fn missing(wanted: &[u32], stored: impl Fn(u32) -> (bool, bool), jobs: &[JobStatus]) -> Missing {
    let mut missing = Missing::default();
    for ordinal in wanted {
        let (response, verdict) = stored(*ordinal);
        if response && verdict {
            continue;
        }
        let covering = |rung: Rung| {
            let on_it = move |job: &JobStatus| job.rung == rung && job.slice.ordinals().contains(ordinal);
            jobs.iter().enumerate().filter(move |(_, job)| on_it(job))
        };
        let parked = |rung: Rung| covering(rung).find(|(_, job)| job.state == JobState::Parked);
        let is_closed = |job: &JobStatus| matches!(job.state, JobState::Parked | JobState::Raced);
        let will_come = |rung: Rung| covering(rung).any(|(_, job)| !is_closed(job));
        let raced = || covering(Rung::Generation).find(|(_, job)| !response && job.state == JobState::Raced);
        // A judgement follows by itself from every generation job that is done.
        let (comes, stuck) = if response && covering(Rung::Judgement).next().is_some() {
            (will_come(Rung::Judgement), parked(Rung::Judgement))
        } else {
            (will_come(Rung::Generation), parked(Rung::Generation))
        };
        match (comes, stuck) {
            (true, _) => missing.coming += 1,
            (false, Some((index, _))) => {
                missing.parked.insert(index);
            }
            (false, None) => match (raced(), missing.unplanned.last_mut()) {
                (Some((index, _)), _) => {
                    missing.raced += 1;
                    missing.raced_jobs.insert(index);
                }
                (None, Some(run)) if run.end == *ordinal => run.end += 1,
                (None, _) => missing.unplanned.push(QuerySlice { start: *ordinal, end: *ordinal + 1 }),
            },
        }
    }
    missing
}

impl Coordinator {
    /// What is stored of a sample; what is not is planned, and a done sweep runs again for it.
    pub(crate) async fn sample(&self, request: &SampleRequest) -> Result<Sample, CoordinatorError> {
        let record = self.store.find_sweep(&request.sweep).await?;
        let definition = &record.definition;
        definition.space.check(&request.point)?;
        let queries = definition.slice(QuerySet::Search).len() + definition.slice(QuerySet::Confirm).len();
        if let Some(found) = request.ordinals.iter().find(|ordinal| **ordinal as usize >= queries) {
            return Err(CoordinatorError::NoSuchQuery {
                sweep: definition.name.clone(),
                found: *found,
                queries: queries as u32,
            });
        }
        let mut wanted: Vec<u32> = if request.ordinals.is_empty() {
            definition.slice(definition.reported_set()).ordinals().collect()
        } else {
            request.ordinals.clone()
        };
        wanted.sort_unstable();
        wanted.dedup();

        let mut stored = BTreeMap::<u32, Stored>::new();
        for row in self.store.point_results(record.id, &request.point, &wanted).await? {
            let stored = stored.entry(row.ordinal).or_default();
            match row.value {
                ResultValue::Score(score) => stored.score = Some(score),
                ResultValue::Response(response) => stored.response = Some(response),
                ResultValue::Verdict(verdict) => stored.verdict = Some(verdict),
            }
        }
        let jobs = self.store.point_jobs(record.id, &request.point).await?;
        let is_stored = |ordinal: u32| {
            stored
                .get(&ordinal)
                .map_or((false, false), |stored| (stored.response.is_some(), stored.verdict.is_some()))
        };
        let missing = missing(&wanted, is_stored, &jobs);
        let mut pending = missing.coming;
        if !request.stored_only {
            pending += missing.unplanned.iter().map(|run| run.len() as u32).sum::<u32>() + missing.raced;
            if pending > 0 {
                let raced: Vec<JobId> = missing.raced_jobs.iter().map(|index| jobs[*index].id).collect();
                self.have_sampled(record.id, request, &missing.unplanned, &raced).await?;
            }
        }
        let responses = stored.into_iter().filter_map(|(ordinal, stored)| {
            let Stored { score, response, verdict } = stored;
            Some(SampledResponse { ordinal, response: response?, verdict, score })
        });
        Ok(Sample {
            responses: responses.collect(),
            pending,
            failures: missing.parked.iter().map(|index| describe(&jobs[*index])).collect(),
        })
    }

    /// Plans what no job is on, takes up again what was closed early, and has the sweep run for what is open.
    ///
    /// The sweep's state is looked at after the jobs are there: whoever declares it done from then on finds them open,
    /// and what was declared before is undone here. (Planned twice by two such requests, a job stays one.)
    async fn have_sampled(
        &self,
        sweep: SweepId,
        request: &SampleRequest,
        unplanned: &[QuerySlice],
        raced: &[JobId],
    ) -> Result<(), CoordinatorError> {
        let record = self.store.sweep(sweep).await?;
        if matches!(record.state, SweepState::Paused | SweepState::Cancelled) {
            return Err(CoordinatorError::NotRunning {
                sweep: record.definition.name.clone(),
                state: record.state,
            });
        }
        if !unplanned.is_empty() {
            let pieces = unplanned.iter().flat_map(|run| run.pieces(self.settings.max_queries_per_job));
            let jobs = pieces.map(|slice| NewJob {
                point: request.point.clone(),
                rung: Rung::Generation,
                slice,
                priority: SAMPLE_PRIORITY,
            });
            let plan = Plan { jobs: jobs.collect(), ..Plan::default() };
            debug!(sweep = record.definition.name, point = %request.point, jobs = plan.jobs.len(), "sample planned");
            self.store.plan(record.id, &plan, None, self.clock.now()).await?;
        }
        if !raced.is_empty() {
            match self.store.retry_jobs(sweep, raced).await {
                // Another request has had them taken up.
                Ok(_) | Err(StoreError::NoSuchJob(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if self.store.sweep(sweep).await?.state == SweepState::Done {
            self.store.set_sweep_state(sweep, SweepState::Running).await?;
        }
        self.signals.changed();
        self.signals.jobs_ready();
        self.signals.wake_planner();
        Ok(())
    }
}

fn describe(job: &JobStatus) -> String {
    let (start, last) = (job.slice.start, job.slice.end.saturating_sub(1));
    let error = job.last_error.as_deref().unwrap_or("no error is recorded");
    format!("{} job {} on queries {start} to {last} is parked: {error}", job.rung, job.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: i64, rung: Rung, slice: (u32, u32), state: JobState) -> JobStatus {
        let slice = QuerySlice { start: slice.0, end: slice.1 };
        JobStatus { id: JobId(id), rung, slice, state, last_error: None }
    }

    fn runs(missing: &Missing) -> Vec<(u32, u32)> {
        missing.unplanned.iter().map(|run| (run.start, run.end)).collect()
    }

    #[test]
    fn queries_without_a_job_are_planned_in_runs() {
        let missing = missing(&[3, 4, 5, 8, 10, 11], |_| (false, false), &[]);
        assert_eq!(runs(&missing), [(3, 6), (8, 9), (10, 12)]);
        assert_eq!((missing.coming, missing.parked.len()), (0, 0));
    }

    #[test]
    fn what_is_answered_and_judged_needs_nothing() {
        assert_eq!(missing(&[1, 2], |_| (true, true), &[]), Missing::default());
    }

    #[test]
    fn a_query_whose_job_is_open_is_waited_for_and_not_planned_again() {
        let jobs = [job(1, Rung::Generation, (0, 5), JobState::Leased)];
        let missing = missing(&[3, 4, 5], |_| (false, false), &jobs);
        assert_eq!((runs(&missing), missing.coming), (vec![(5, 6)], 2));
    }

    #[test]
    fn a_response_waits_for_the_judgement_that_follows_its_generation() {
        let generated = job(1, Rung::Generation, (0, 5), JobState::Done);
        let waits = missing(&[3], |_| (true, false), std::slice::from_ref(&generated));
        assert_eq!((runs(&waits), waits.coming), (vec![], 1));
        let parked = [generated, job(2, Rung::Judgement, (0, 5), JobState::Parked)];
        let fails = missing(&[3], |_| (true, false), &parked);
        assert_eq!((fails.coming, fails.parked), (0, BTreeSet::from([1])));
    }

    #[test]
    fn a_response_of_an_earlier_sweep_gets_its_judgement_through_a_job_of_this_one() {
        let missing = missing(&[3], |_| (true, false), &[]);
        assert_eq!((runs(&missing), missing.coming), (vec![(3, 4)], 0));
    }

    #[test]
    fn a_parked_job_is_told_once_and_not_waited_for() {
        let jobs = [job(7, Rung::Generation, (0, 5), JobState::Parked)];
        let missing = missing(&[1, 2, 3], |_| (false, false), &jobs);
        assert_eq!((missing.coming, missing.parked), (0, BTreeSet::from([0])));
    }

    #[test]
    fn a_job_that_was_closed_early_is_taken_up_again_and_not_planned_anew() {
        let jobs = [job(7, Rung::Generation, (0, 5), JobState::Raced)];
        let missing = missing(&[1, 2, 7], |_| (false, false), &jobs);
        assert_eq!((missing.raced, missing.raced_jobs.clone()), (2, BTreeSet::from([0])));
        assert_eq!((runs(&missing), missing.coming), (vec![(7, 8)], 0));
    }
}
