//! What a full grid says: the best value of every target.

use avsweep_domain::Point;
use avsweep_search::record::RecordedGrid;
use avsweep_search::strategy::{History, Problem};

/// Every target's value at every grid point.
pub(crate) struct Truth {
    /// Per target, per grid point.
    values: Vec<Vec<f64>>,
    /// Per target, the largest.
    best: Vec<f64>,
}

impl Truth {
    /// From the grid's own measurements, read as the problem reads them.
    pub(crate) fn new(grid: &RecordedGrid, problem: &Problem) -> anyhow::Result<Self> {
        let origin = Point::origin(grid.space().dimensions());
        let base: Vec<_> = grid.measured(&origin).into_iter().collect();
        let wants = problem.wants(&History { measured: &base, ..History::default() });
        let mut values = vec![Vec::with_capacity(grid.points()); wants.len()];
        for point in grid.space().grid() {
            let measured =
                grid.measured(&point).ok_or_else(|| anyhow::anyhow!("the grid lacks its point {point}"))?;
            let rates = problem
                .rates(&measured)
                .ok_or_else(|| anyhow::anyhow!("point {point} has no result on the wanted rung"))?;
            for (values, wanted) in values.iter_mut().zip(&wants) {
                values.push(problem.value(wanted, &rates));
            }
        }
        let best = values.iter().map(|values| values.iter().copied().fold(0.0, f64::max)).collect();
        Ok(Self { values, best })
    }

    /// Per target, what the best of these grid points (by place) lacks to the grid's best.
    pub(crate) fn regrets(&self, visited: &[usize]) -> Vec<Regret> {
        let mut highest = vec![0.0f64; self.best.len()];
        visited
            .iter()
            .map(|place| {
                for (highest, values) in highest.iter_mut().zip(&self.values) {
                    *highest = highest.max(values[*place]);
                }
                let lacks = highest.iter().zip(&self.best).map(|(highest, best)| best - highest);
                let mut regret = Regret { worst: 0.0, mean: 0.0, reached: 0 };
                for lack in lacks {
                    regret.worst = regret.worst.max(lack);
                    regret.mean += lack / self.best.len() as f64;
                    regret.reached += usize::from(lack < 1e-9);
                }
                regret
            })
            .collect()
    }

    /// Per target, its value at every grid point.
    pub(crate) fn values(&self) -> &[Vec<f64>] {
        &self.values
    }

    /// How many targets there are.
    pub(crate) fn targets(&self) -> usize {
        self.best.len()
    }
}

/// How far a search is from the full grid's best, over all targets.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Regret {
    /// Of the worst target.
    pub(crate) worst: f64,
    /// On average.
    pub(crate) mean: f64,
    /// Targets whose best is reached.
    pub(crate) reached: usize,
}
