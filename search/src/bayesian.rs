//! `bayesian`: a model of what was measured, and the points that promise most over all targets.

mod acquisition;
mod assurance;
mod candidates;
mod covariates;
mod judged;
mod likelihood;
mod rates;

use std::collections::BTreeSet;

use avsweep_domain::{BayesianSettings, Point};

use crate::honesty::Assurance;
use crate::problem::{Decision, History, Measured, Problem, SearchRung};
use crate::sequence;

/// The next points of a `bayesian` search.
pub(crate) fn next_points(
    problem: &Problem,
    settings: &BayesianSettings,
    history: &History<'_>,
    limit: usize,
) -> Decision {
    let known: BTreeSet<&Point> = history
        .measured
        .iter()
        .map(|measured| measured.point)
        .chain(history.pending)
        .chain(history.given_up)
        .collect();
    let spent = history.proposed.max(known.len() as u64);
    let left = u64::from(settings.budget).saturating_sub(spent);
    let limit = limit.max(1).min(usize::try_from(left).unwrap_or(usize::MAX));
    if limit == 0 {
        return Decision::Finished;
    }
    let initial = initial_points(problem, settings);
    if known.len() < initial {
        let design =
            sequence::spread(problem.space(), settings.seed, &known, limit.min(initial - known.len()));
        return propose_or_finish(design);
    }
    // In ticks order: sums come out the same whatever the order in which results arrived.
    let mut measured: Vec<&Measured<'_>> =
        history.measured.iter().filter(|measured| problem.rates(measured).is_some()).collect();
    measured.sort_by_key(|measured| measured.point);
    measured.dedup_by_key(|measured| measured.point);
    // With less than half of the design measured there is nothing to model.
    if measured.len() < initial.div_ceil(2).max(2) {
        return if history.pending.is_empty() {
            propose_or_finish(sequence::spread(problem.space(), settings.seed, &known, limit))
        } else {
            Decision::Wait
        };
    }
    let known = likelihood::Known { history, measured: &measured, points: &known };
    match problem.rung() {
        SearchRung::Likelihood => likelihood::next_points(problem, settings, &known, limit),
        SearchRung::Judgement => judged::next_points(problem, settings, &known, limit),
    }
}

/// Per target, how far its best measured point can be trusted; `None` without a model.
pub(crate) fn assurances(
    problem: &Problem,
    settings: &BayesianSettings,
    measured: &[Measured<'_>],
) -> Option<Vec<Assurance>> {
    match problem.rung() {
        SearchRung::Likelihood => assurance::assurances(problem, settings, measured),
        SearchRung::Judgement => judged::assurances(problem, settings, measured),
    }
}

/// Points spread over the space before the model is asked.
fn initial_points(problem: &Problem, settings: &BayesianSettings) -> usize {
    let usual = 6 * problem.space().dimensions();
    let wanted = settings.initial.map_or(usual, |initial| initial as usize);
    wanted.min(settings.budget as usize).max(2)
}

fn propose_or_finish(points: Vec<Point>) -> Decision {
    if points.is_empty() { Decision::Finished } else { Decision::Propose(points) }
}
