//! Which jobs a point needs.

use avsweep_domain::{Coverage, Point, QuerySet, QuerySlice, Rung, SweepDefinition};
use avsweep_store::NewJob;

/// The jobs that the strategy's points get, the same at every point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobsAt(Vec<(Rung, QuerySlice)>);

impl JobsAt {
    /// How many there are; at least one for a checked definition.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The first one: of the rung that points are chosen by, on the search queries.
    pub(crate) fn first(&self) -> Option<(Rung, QuerySlice)> {
        self.0.first().copied()
    }

    /// How many are of the first one's rung (at least 1).
    pub(crate) fn first_rung_jobs(&self) -> u64 {
        let first = self.0.first().map(|(rung, _)| *rung);
        (self.0.iter().filter(|(rung, _)| Some(*rung) == first).count() as u64).max(1)
    }

    /// The jobs at a point.
    pub(crate) fn jobs(&self, point: &Point) -> impl Iterator<Item = NewJob> {
        self.0.iter().map(|(rung, slice)| new_job(point, *rung, *slice))
    }
}

/// What is measured wherever the strategy looks: likelihoods on the search queries, texts for all queries.
pub(crate) fn jobs_at(definition: &SweepDefinition, max_queries: u32) -> JobsAt {
    let mut jobs = Vec::new();
    let mut add = |rung, set, most| {
        jobs.extend(definition.slice(set).pieces(most).map(|slice| (rung, slice)));
    };
    if definition.evaluation.likelihood == Coverage::All {
        // A race goes over all search queries of a point: one job, reported block by block.
        let most = if definition.evaluation.racing.is_some() { u32::MAX } else { max_queries };
        add(Rung::Likelihood, QuerySet::Search, most);
    }
    if definition.evaluation.generation == Coverage::All {
        add(Rung::Generation, QuerySet::Search, max_queries);
        add(Rung::Generation, QuerySet::Confirm, max_queries);
    }
    JobsAt(jobs)
}

/// What is measured at finalists besides: likelihoods on the confirm queries, and texts for the reported queries at
/// those that are `judged`.
pub(crate) fn finalist_jobs(
    definition: &SweepDefinition,
    max_queries: u32,
    point: &Point,
    judged: bool,
) -> impl Iterator<Item = NewJob> {
    let likelihood = (definition.evaluation.likelihood == Coverage::All)
        .then(|| definition.slice(QuerySet::Confirm))
        .map(|slice| (Rung::Likelihood, slice));
    let generation = (judged && definition.evaluation.generation == Coverage::Finalists)
        .then(|| definition.slice(definition.reported_set()))
        .map(|slice| (Rung::Generation, slice));
    likelihood.into_iter().chain(generation).flat_map(move |(rung, slice)| {
        slice.pieces(max_queries).map(move |piece| new_job(point, rung, piece))
    })
}

/// What a ladder has measured at the points that the judge chooses among: texts for the search queries.
pub(crate) fn ladder_jobs(
    definition: &SweepDefinition,
    max_queries: u32,
    point: &Point,
) -> impl Iterator<Item = NewJob> {
    let slices = definition.slice(QuerySet::Search).pieces(max_queries);
    slices.map(|piece| new_job(point, Rung::Generation, piece))
}

/// Whether finalists get anything that other points do not.
pub(crate) fn has_finalist_jobs(definition: &SweepDefinition) -> bool {
    let any_point = Point::origin(definition.space.dimensions());
    finalist_jobs(definition, u32::MAX, &any_point, true).next().is_some()
}

fn new_job(point: &Point, rung: Rung, slice: QuerySlice) -> NewJob {
    NewJob { point: point.clone(), rung, slice, priority: 0 }
}
