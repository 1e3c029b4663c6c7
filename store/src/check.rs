//! Whether a definition can be stored, and a plan or report be of its sweep: pure checks that every store makes before it writes.

use avsweep_domain::{JobId, Label, QuerySlice, Rung, SweepDefinition, SweepId};

use crate::error::{PlanProblem, ReportProblem};
use crate::layout::SweepLayout;
use crate::{JobResults, NewJob, StoreError};

/// The definition's text, checked to be a sound definition and to read back as it is.
pub(crate) fn definition(definition: &SweepDefinition) -> Result<String, StoreError> {
    let name = || definition.name.clone();
    definition.check().map_err(|source| StoreError::BadDefinition { name: name(), source })?;
    let unstorable = |problem: String| StoreError::Unstorable { name: name(), problem };
    let levels = definition.levels.len();
    if let Some(entry) = definition.queries().find(|entry| entry.query.references.len() != levels) {
        // Its scores would be of another shape than those another sweep stores for the same query.
        return Err(unstorable(format!(
            "query '{}' has {} references; one for each of {levels} levels is wanted",
            entry.query.id,
            entry.query.references.len()
        )));
    }
    let text = serde_json::to_string(definition).map_err(|error| unstorable(error.to_string()))?;
    let back: SweepDefinition = serde_json::from_str(&text).map_err(|error| unstorable(error.to_string()))?;
    if back != *definition {
        return Err(unstorable("a number in it does not survive being written as JSON".to_owned()));
    }
    Ok(text)
}

/// Checks a job to be planned.
pub(crate) fn job(sweep: SweepId, layout: &SweepLayout, job: &NewJob) -> Result<(), StoreError> {
    let refuse = |problem| Err(StoreError::BadPlan { sweep, job: Box::new(job.clone()), problem });
    if job.point.dimensions() != layout.dimensions {
        return refuse(PlanProblem::Dimensions { found: job.point.dimensions(), wanted: layout.dimensions });
    }
    if job.slice.is_empty() || job.slice.end as usize > layout.len() {
        return refuse(PlanProblem::Slice { queries: layout.len() });
    }
    Ok(())
}

/// Checks a report's results against the job they are for.
pub(crate) fn results(
    job: JobId,
    rung: Rung,
    slice: QuerySlice,
    layout: &SweepLayout,
    results: &JobResults,
) -> Result<(), StoreError> {
    match problem(rung, slice, layout, results) {
        None => Ok(()),
        Some(problem) => Err(StoreError::BadReport { job, problem }),
    }
}

fn problem(
    rung: Rung,
    slice: QuerySlice,
    layout: &SweepLayout,
    results: &JobResults,
) -> Option<ReportProblem> {
    let found = match results {
        JobResults::Scores(_) => Rung::Likelihood,
        JobResults::Responses(_) => Rung::Generation,
        JobResults::Verdicts(_) => Rung::Judgement,
    };
    if found != rung {
        return Some(ReportProblem::Rung { found, wanted: rung });
    }
    match results {
        JobResults::Scores(scores) => bad_ordinal(slice, scores).or_else(|| {
            scores.iter().find_map(|(ordinal, score)| bad_score(*ordinal, layout.levels, &score.0))
        }),
        JobResults::Responses(responses) => bad_ordinal(slice, responses),
        JobResults::Verdicts(verdicts) => bad_ordinal(slice, verdicts).or_else(|| {
            verdicts.iter().find_map(|(ordinal, verdict)| {
                let ordinal = *ordinal;
                if let Label::Level(level) = verdict.label
                    && level.index() >= layout.levels
                {
                    return Some(ReportProblem::UnknownLevel {
                        ordinal,
                        found: level.0,
                        levels: layout.levels,
                    });
                }
                let found = verdict.confidence.filter(|confidence| !(0.0..=1.0).contains(confidence))?;
                Some(ReportProblem::Confidence { ordinal, found })
            })
        }),
    }
}

fn bad_ordinal<T>(slice: QuerySlice, results: &[(u32, T)]) -> Option<ReportProblem> {
    let mut seen = vec![false; slice.len()];
    results.iter().find_map(|(ordinal, _)| {
        let ordinal = *ordinal;
        match ordinal.checked_sub(slice.start).and_then(|index| seen.get_mut(index as usize)) {
            None => Some(ReportProblem::ForeignQuery { ordinal, slice }),
            Some(seen) => std::mem::replace(seen, true).then_some(ReportProblem::DoubledQuery { ordinal }),
        }
    })
}

fn bad_score(
    ordinal: u32,
    levels: usize,
    references: &[avsweep_domain::ReferenceScore],
) -> Option<ReportProblem> {
    if references.len() != levels {
        return Some(ReportProblem::ScoreCount { ordinal, found: references.len(), wanted: levels });
    }
    references.iter().enumerate().find_map(|(level, reference)| {
        let found = reference.log_prob_sum;
        if !found.is_finite() || found > 0.0 {
            Some(ReportProblem::LogProb { ordinal, level, found })
        } else if reference.tokens == 0 || reference.bytes == 0 {
            Some(ReportProblem::EmptyReference {
                ordinal,
                level,
                tokens: reference.tokens,
                bytes: reference.bytes,
            })
        } else {
            None
        }
    })
}
