//! Which points come next.

use avsweep_domain::{Point, Strategy};

pub use crate::problem::{Decision, History, Measured, Problem};
use crate::{bayesian, hierarchical, sequence};

/// The next points, at most `limit` (at least 1) of them.
///
/// A pure function: the same problem and history give the same decision.
pub fn next_points(problem: &Problem, history: &History<'_>, limit: usize) -> Decision {
    let limit = limit.max(1);
    match problem.strategy() {
        Strategy::Grid | Strategy::Random(_) | Strategy::Sobol(_) => {
            let points = known_points(problem, history.proposed, limit);
            if points.is_empty() { Decision::Finished } else { Decision::Propose(points) }
        }
        Strategy::Hierarchical(settings) => hierarchical::next_points(problem, settings, history, limit),
        Strategy::Bayesian(settings) => bayesian::next_points(problem, settings, history, limit),
    }
}

/// What is left to propose of the wave that a strategy is in, where it proposes whole waves, each from what was measured
/// before it: the rest of a wave is the same whatever comes of its other points, and working one out takes long where much
/// was measured. A memory only: without it [`next_points`] decides the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waves(Option<Vec<Point>>);

impl Waves {
    /// As [`next_points`]; the caller proposes all of them.
    pub fn next_points(&mut self, problem: &Problem, history: &History<'_>, limit: usize) -> Decision {
        let Strategy::Hierarchical(_) = problem.strategy() else {
            return next_points(problem, history, limit);
        };
        if self.0.as_ref().is_none_or(|left| left.is_empty() && history.pending.is_empty()) {
            self.0 = match next_points(problem, history, usize::MAX) {
                Decision::Propose(wave) => Some(wave),
                Decision::Wait => Some(Vec::new()),
                Decision::Finished => return Decision::Finished,
            };
        }
        let left = self.0.get_or_insert_default();
        if left.is_empty() {
            return Decision::Wait;
        }
        Decision::Propose(left.drain(..limit.clamp(1, left.len())).collect())
    }

    /// To be called when a proposed point was given up, or one that was is pending or measured after all: what comes next
    /// may be another wave.
    pub fn forget(&mut self) {
        self.0 = None;
    }
}

/// How many points the strategy will propose in all, where that is known beforehand.
pub fn planned_points(problem: &Problem) -> Option<u64> {
    match problem.strategy() {
        Strategy::Grid => problem.space().grid_size().ok(),
        Strategy::Random(settings) | Strategy::Sobol(settings) => {
            Some(sequence::planned(problem.space(), settings))
        }
        Strategy::Hierarchical(_) | Strategy::Bayesian(_) => None,
    }
}

/// The point at a place of the strategy's sequence, where the sequence is known beforehand.
///
/// With it, a planner that has forgotten how far the sequence went finds out by looking for its points.
pub fn known_point(problem: &Problem, index: u64) -> Option<Point> {
    known_points(problem, index, 1).pop()
}

/// A stretch of the sequence; empty past its end, or where none is known beforehand.
fn known_points(problem: &Problem, start: u64, count: usize) -> Vec<Point> {
    let space = problem.space();
    let planned = planned_points(problem).unwrap_or(0);
    let end = start.saturating_add(count as u64).min(planned);
    if start >= end {
        return Vec::new();
    }
    let head = |sequence: fn(&avsweep_domain::Space, u64, usize) -> Vec<Point>, seed| {
        sequence(space, seed, usize::try_from(end).unwrap_or(usize::MAX)).split_off(start as usize)
    };
    match problem.strategy() {
        Strategy::Grid => {
            let place = |index| if problem.is_spread() { spread(index, planned) } else { index };
            (start..end).map_while(|index| space.grid_point(place(index))).collect()
        }
        Strategy::Random(settings) => head(sequence::random, settings.seed),
        Strategy::Sobol(settings) => head(sequence::sobol, settings.seed),
        Strategy::Hierarchical(_) | Strategy::Bayesian(_) => Vec::new(),
    }
}

/// The place of a number below `size` in an order of all of them that leaves no large gaps: multiples of the golden
/// ratio's share of `size`.
fn spread(index: u64, size: u64) -> u64 {
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    let gcd = |mut left: u64, mut right: u64| {
        while right > 0 {
            (left, right) = (right, left % right);
        }
        left
    };
    let mut stride = ((size as f64 * GOLDEN) as u64).max(1);
    // The next number prime to the size comes soon; each place is then visited once.
    while gcd(stride, size) != 1 {
        stride += 1;
    }
    (u128::from(index) * u128::from(stride) % u128::from(size.max(1))) as u64
}

#[cfg(test)]
mod tests;
