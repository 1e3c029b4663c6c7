//! How far an answer can be trusted: is the chosen point the best, what may be lost, and what would tell more.

use avsweep_domain::{Aggregate, BayesianSettings, Interval, Point, Strategy, Target};

use crate::bayesian;
use crate::normal::quantile;
use crate::problem::{Measured, Problem};

/// A target's best measured point and what is known of the points that are not measured.
///
/// All of it is on the search queries and in units of the aggregate, which points are chosen by.
#[derive(Clone, Debug, PartialEq)]
pub struct Assurance {
    /// The target.
    pub target: Target,
    /// The best measured point; on the judged rung the one of the highest expected value, whatever its own lucky count.
    pub chosen: Point,
    /// Its value; on the judged rung what is expected of it.
    pub value: f64,
    /// The probability that no other point of the grid is better.
    pub probability_best: f64,
    /// By how much the grid's best is expected to be better.
    pub expected_regret: f64,
    /// With 95 % probability the grid's best is better by no more than this.
    pub regret_bound: f64,
    /// The evaluation that is expected to gain most for this target, and how much; `None` when none may gain anything.
    pub next: Option<(Point, f64)>,
}

/// Per target, how far its best measured point can be trusted, by the model of `bayesian`; whatever strategy measured.
///
/// `None` where no model can be made: with too few points.
pub fn assurances(problem: &Problem, measured: &[Measured<'_>]) -> Option<Vec<Assurance>> {
    if measured.len() < 2 {
        return None;
    }
    let settings = match problem.strategy() {
        Strategy::Bayesian(settings) => settings.clone(),
        _ => BayesianSettings::default(),
    };
    bayesian::assurances(problem, &settings, measured)
}

/// The 95 % interval of a target's value from each wanted domain's count of confirm queries at the wanted level.
///
/// Confirm queries had no part in the choice, so that a chosen point's rates on them are as good or bad as any point's: there
/// is no winner's curse to correct for. Every domain's rate has a Wilson interval at the level 1 − 0.05/K, so that all K hold
/// together (Bonferroni), and the aggregate rises with every rate.
pub fn confirm_interval(aggregate: Aggregate, counts: &[(u32, u32)]) -> Interval {
    let z = quantile(1.0 - 0.025 / counts.len().max(1) as f64);
    let ends: Vec<(f64, f64)> = counts.iter().map(|(count, n)| wilson(*count, *n, z)).collect();
    Interval {
        low: aggregate.of(ends.iter().map(|end| end.0)),
        high: aggregate.of(ends.iter().map(|end| end.1)),
    }
}

/// Wilson's score interval at `z` deviations; see [`avsweep_domain::wilson_interval`].
fn wilson(count: u32, n: u32, z: f64) -> (f64, f64) {
    if n == 0 {
        return (0.0, 1.0);
    }
    let (n, p) = (f64::from(n), f64::from(count) / f64::from(n));
    let z2 = z * z;
    let centre = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = z / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

/// How far a search has come after so many evaluations, as it could tell then; in units of the aggregate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Convergence {
    /// Points measured.
    pub evaluations: usize,
    /// By how much the grid's best is expected to be better, of the target where that is most.
    pub expected_worst: f64,
    /// The same on average over the targets.
    pub expected_mean: f64,
    /// With 95 % probability no target's regret is more, each taken alone.
    pub bound_worst: f64,
    /// Targets whose best point is known with at least 95 % probability.
    pub certain: usize,
    /// Targets in all.
    pub targets: usize,
}

impl Convergence {
    /// Over all targets; `None` when there is none.
    pub fn of(evaluations: usize, assurances: &[Assurance]) -> Option<Self> {
        let targets = assurances.len();
        let highest = |of: fn(&Assurance) -> f64| assurances.iter().map(of).fold(0.0, f64::max);
        (targets > 0).then(|| Self {
            evaluations,
            expected_worst: highest(|assurance| assurance.expected_regret),
            expected_mean: assurances.iter().map(|assurance| assurance.expected_regret).sum::<f64>()
                / targets as f64,
            bound_worst: highest(|assurance| assurance.regret_bound),
            certain: assurances.iter().filter(|assurance| assurance.probability_best >= 0.95).count(),
            targets,
        })
    }
}

/// How a search converged: after at most `steps` evenly spaced numbers of evaluations, the last one being all of them.
///
/// `measured` is in the order in which the points were proposed. A step knows only the points before it.
pub fn convergence(problem: &Problem, measured: &[Measured<'_>], steps: usize) -> Vec<Convergence> {
    let all = measured.len();
    let steps = steps.clamp(1, all.max(1));
    (1..=steps)
        .map(|step| (step * all).div_ceil(steps))
        .filter_map(|evaluations| {
            Convergence::of(evaluations, &assurances(problem, &measured[..evaluations])?)
        })
        .collect()
}

#[cfg(test)]
mod tests;
