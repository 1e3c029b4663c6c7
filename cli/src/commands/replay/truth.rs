//! What the full grid says: every target's value everywhere, and the best of them.

use anyhow::{Context as _, Result};
use avsweep_domain::{Point, Target};
use avsweep_search::record::RecordedGrid;
use avsweep_search::strategy::{History, Problem};

use super::asks_for_base;
use crate::usage::UsageError;

/// Rates are quotients of small integers, which leave this much in floating point.
const SAME: f64 = 1e-9;

/// Every target's value at every point of the grid.
pub(super) struct Truth {
    /// The targets.
    pub targets: Vec<Target>,
    /// Per target, per point in the grid's order.
    values: Vec<Vec<f64>>,
    /// Per target, the largest.
    pub best: Vec<f64>,
}

/// After some evaluations: how far what was found is from the grid's best, over all targets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Regret {
    /// Of the target that is furthest from it.
    pub worst: f64,
    /// On average.
    pub mean: f64,
    /// Targets that equal it.
    pub equal: usize,
}

impl Truth {
    /// From the record, read as the problem reads it; its targets and aggregate count.
    ///
    /// # Errors
    /// When a target asks for the base's level, and the record does not say which that is.
    pub(super) fn new(grid: &RecordedGrid, problem: &Problem) -> Result<Self> {
        let targets = problem.targets();
        let origin = Point::origin(grid.space().dimensions());
        let base: Vec<_> = grid.measured(&origin).into_iter().collect();
        let wants = problem.wants(&History { measured: &base, ..History::default() });
        for (target, wanted) in targets.iter().zip(&wants) {
            if let Some(domain) = asks_for_base(target).find(|domain| wanted[*domain].is_none()) {
                let name = &grid.domains()[domain].name;
                let reason = if base.is_empty() {
                    format!("the grid has no point ({origin})")
                } else {
                    format!("no level is more frequent there than all others at point ({origin})")
                };
                return Err(UsageError::new(format!(
                    "a target asks that {name} stays as the base has it, but {reason}: name a level, or {name}=any"
                ))
                .into());
            }
        }
        let mut values = vec![Vec::with_capacity(grid.points()); wants.len()];
        for point in grid.space().grid() {
            let measured = grid.measured(&point).context("the record has all points of its grid")?;
            let rates = problem.rates(&measured).context("the record has the rung that is asked for")?;
            for (values, wanted) in values.iter_mut().zip(&wants) {
                values.push(problem.value(wanted, &rates));
            }
        }
        let best = values.iter().map(|values| values.iter().copied().fold(0.0, f64::max)).collect();
        Ok(Self { targets, values, best })
    }

    /// After each evaluation.
    pub(super) fn regrets(&self, visited: &[usize]) -> Vec<Regret> {
        let mut highest = vec![0.0f64; self.best.len()];
        let after = visited.iter().map(|place| {
            let mut regret = Regret { worst: 0.0, mean: 0.0, equal: 0 };
            for ((highest, values), best) in highest.iter_mut().zip(&self.values).zip(&self.best) {
                *highest = highest.max(values[*place]);
                let lacking = best - *highest;
                regret.worst = regret.worst.max(lacking);
                regret.mean += lacking / self.best.len() as f64;
                regret.equal += usize::from(lacking < SAME);
            }
            regret
        });
        after.collect()
    }

    /// The first of the visited points that is best for a target, and its value there.
    pub(super) fn found(&self, target: usize, visited: &[usize]) -> Option<(usize, f64)> {
        let values = visited.iter().map(|place| (*place, self.values[target][*place]));
        values.reduce(|best, next| if next.1 > best.1 { next } else { best })
    }

    /// Whether a value equals the grid's best for a target.
    pub(super) fn is_best(&self, target: usize, value: f64) -> bool {
        self.best[target] - value < SAME
    }
}
