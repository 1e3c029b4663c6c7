//! How a sweep's search has converged.

use anyhow::Result;
use avsweep_coordinator::MOST_MODELLED;
use avsweep_domain::Space;
use avsweep_proto::v1;
use serde::Serialize;

use crate::connection::{Connection, explain};
use crate::output::Table;

/// What a search expected still to lose, step by step; regrets in units of the aggregate.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ConvergenceOutput {
    /// Targets in all.
    pub(crate) targets: u32,
    /// In order; empty where no model can say, or nothing is left to be found.
    pub(crate) steps: Vec<StepOutput>,
}

/// What was known after so many evaluations.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct StepOutput {
    pub(crate) evaluations: u64,
    /// Expected regret on average over the targets.
    pub(crate) mean: f64,
    /// Of the worst target.
    pub(crate) worst: f64,
    /// With 95 % probability no target's regret is more, each taken alone.
    pub(crate) bound: f64,
    /// Targets whose best point is known with at least 95 % probability.
    pub(crate) certain: u32,
}

/// A sweep's convergence in at most so many steps.
pub(super) async fn ask(connection: &Connection, sweep: i64, steps: u32) -> Result<ConvergenceOutput> {
    let request = v1::ConvergenceRequest { sweep: sweep.to_string(), steps };
    let response = connection.sweeps().convergence(request).await.map_err(explain)?.into_inner();
    let step = |step: v1::ConvergenceStep| StepOutput {
        evaluations: step.evaluations,
        mean: step.expected_mean,
        worst: step.expected_worst,
        bound: step.bound_worst,
        certain: step.targets_certain,
    };
    Ok(ConvergenceOutput { targets: response.targets, steps: response.steps.into_iter().map(step).collect() })
}

/// Whether there is anything to tell of a search with so many measured points: not of a complete grid, nor of more points
/// than a coordinator models.
pub(super) fn is_told(space: &Space, measured: u64) -> bool {
    let is_complete = space.grid_size().is_ok_and(|size| measured >= size);
    measured <= MOST_MODELLED as u64 && !is_complete
}

impl ConvergenceOutput {
    /// The steps as a table.
    pub(super) fn table(&self) -> Table {
        let mut table =
            Table::new(["evaluations", "expected regret", "worst target", "95 % bound", "settled"]);
        for step in &self.steps {
            table.row([
                step.evaluations.to_string(),
                format!("{:.3}", step.mean),
                format!("{:.3}", step.worst),
                format!("{:.3}", step.bound),
                format!("{} of {}", step.certain, self.targets),
            ]);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use avsweep_domain::{Coefficient, Range, Ticks};

    use super::*;

    #[test]
    fn nothing_is_told_of_a_complete_grid_or_of_more_points_than_are_modelled() {
        let space = |points: i32| {
            let range = Range::new(Ticks::ZERO, Ticks::new(points - 1), Ticks::new(1)).expect("divides");
            Space::new(vec![Coefficient { name: "a".to_owned(), vector: 0, tensors: None, range }])
                .expect("one name")
        };
        assert!(is_told(&space(400), 399) && is_told(&space(5000), 1000));
        assert!(!is_told(&space(400), 400) && !is_told(&space(5000), 1001));
    }
}
