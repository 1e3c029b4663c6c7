//! What came of the points that a strategy has proposed, from jobs, scores and tallies.

use std::collections::HashMap;

use avsweep_domain::{
    Coverage, JobState, JudgementTally, Normalisation, Point, QueryScore, QuerySlice, Reading, Rung,
    SweepDefinition,
};

use crate::columns::narrow;
use crate::layout::SweepLayout;
use crate::point_results::Scores;
use crate::{SearchPoint, SearchState, StoreError, codec, point_results};

/// What a sweep's points are chosen by.
#[derive(Clone, Debug)]
pub(crate) struct SearchShape {
    /// The rung that every proposed point gets jobs of first, on all search queries.
    first: Rung,
    /// Whether points are chosen by verdicts.
    by_verdicts: bool,
    /// Search queries per domain.
    queries: Vec<u32>,
}

/// A job on search queries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SearchJob {
    pub(crate) rung: Rung,
    pub(crate) slice: QuerySlice,
    pub(crate) state: JobState,
}

impl SearchShape {
    pub(crate) fn of(definition: &SweepDefinition) -> Self {
        Self {
            first: match definition.evaluation.likelihood {
                Coverage::None => Rung::Generation,
                Coverage::Finalists | Coverage::All => Rung::Likelihood,
            },
            by_verdicts: definition.search_reading() == Reading::Judgement,
            queries: definition.domains.iter().map(|domain| domain.search.len() as u32).collect(),
        }
    }

    /// How many search queries there are; they have the first ordinals.
    pub(crate) fn len(&self) -> u32 {
        self.queries.iter().sum()
    }

    /// What came of a point; `None` when the strategy has not proposed it: its jobs do not cover the search queries.
    fn state<'a>(
        &self,
        jobs: &[SearchJob],
        score: impl Fn(u32) -> Option<&'a QueryScore>,
        judgement: Option<&[JudgementTally]>,
    ) -> Option<SearchState> {
        if !self.is_covered(jobs) {
            return None;
        }
        let log_probs = (0..self.len()).map(score).collect::<Option<Vec<_>>>().map(|scores| {
            let means =
                scores.iter().flat_map(|score| &score.0).map(|score| Normalisation::Mean.apply(score) as f32);
            means.collect::<Vec<f32>>()
        });
        let judged = judgement
            .filter(|tallies| tallies.iter().map(|tally| tally.queries).eq(self.queries.iter().copied()));
        let judged =
            judged.map(|tallies| tallies.iter().flat_map(|tally| tally.counts.iter().copied()).collect());
        let decides = |rung: Rung| {
            rung == self.first || (self.by_verdicts && matches!(rung, Rung::Generation | Rung::Judgement))
        };
        let is_measured = (self.first != Rung::Likelihood || log_probs.is_some())
            && (!self.by_verdicts || judged.is_some());
        Some(if is_measured {
            SearchState::Measured { log_probs: log_probs.unwrap_or_default(), judged }
        } else if jobs.iter().any(|job| decides(job.rung) && job.state == JobState::Raced) {
            SearchState::Raced
        } else if jobs.iter().any(|job| decides(job.rung) && job.state == JobState::Parked) {
            SearchState::GivenUp
        } else {
            SearchState::Pending
        })
    }

    fn is_covered(&self, jobs: &[SearchJob]) -> bool {
        let mut slices: Vec<_> = jobs
            .iter()
            .filter(|job| job.rung == self.first)
            .map(|job| (job.slice.start, job.slice.end))
            .collect();
        slices.sort_unstable();
        let end = slices.into_iter().fold(0, |end, (from, to)| if from <= end { end.max(to) } else { end });
        end >= self.len()
    }
}

/// Columns point, ticks, search_judgement.
pub(crate) type SearchRow = (i64, Vec<u8>, Option<Vec<u8>>);
/// Columns point, rung, state, slice_start, slice_end.
pub(crate) type JobRow = (i64, String, String, i64, i64);

/// The proposed ones among some points, from their rows, jobs on search queries and score blocks.
pub(crate) fn assemble(
    layout: &SweepLayout,
    rows: &[SearchRow],
    jobs: Vec<JobRow>,
    blocks: &[(i64, Vec<u8>)],
) -> Result<Vec<SearchPoint>, StoreError> {
    let mut jobs_at: HashMap<i64, Vec<SearchJob>> = HashMap::with_capacity(rows.len());
    for (point, rung, state, start, end) in jobs {
        let what = || format!("a job of point {point}");
        let corrupt = |problem: String| StoreError::corrupt(what(), problem);
        jobs_at.entry(point).or_default().push(SearchJob {
            rung: rung.parse().map_err(corrupt)?,
            slice: QuerySlice { start: narrow(start, what)?, end: narrow(end, what)? },
            state: state.parse().map_err(corrupt)?,
        });
    }
    let mut scores_at: HashMap<i64, Scores> = HashMap::with_capacity(rows.len());
    for (point, block) in blocks {
        point_results::read_block(*point, block, layout.levels, scores_at.entry(*point).or_default())?;
    }
    let mut points = Vec::with_capacity(rows.len());
    for (id, ticks, judgement) in rows {
        let corrupt = |error| StoreError::corrupt(format!("point {id}"), error);
        let judgement = judgement
            .as_deref()
            .map(|bytes| codec::read_judgement_tallies(bytes, layout.domains, layout.levels))
            .transpose()
            .map_err(corrupt)?;
        let jobs = jobs_at.get(id).map_or(&[][..], Vec::as_slice);
        let scores = scores_at.get(id);
        let score = |ordinal| scores?.get(&layout.query(ordinal)?);
        if let Some(state) = layout.search.state(jobs, score, judgement.as_deref()) {
            points.push(SearchPoint { point: codec::read_ticks(ticks).map_err(corrupt)?, state });
        }
    }
    Ok(points)
}

/// Points as their ticks, one after another.
pub(crate) fn pack(points: &[Point]) -> Vec<u8> {
    let mut bytes = Vec::new();
    points.iter().for_each(|point| codec::push_ticks(point, &mut bytes));
    bytes
}

/// Points from [`pack`].
pub(crate) fn unpack(bytes: &[u8], layout: &SweepLayout) -> Result<Vec<Point>, StoreError> {
    let width = codec::ticks_width(layout.dimensions);
    let corrupt = |error| StoreError::corrupt(format!("a choice of sweep {}", layout.id), error);
    bytes.chunks(width.max(1)).map(|ticks| codec::read_ticks(ticks).map_err(corrupt)).collect()
}
