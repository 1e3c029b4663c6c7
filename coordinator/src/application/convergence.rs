//! How a sweep's search has converged.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use avsweep_domain::{Point, SweepDefinition, SweepId};
use avsweep_search::honesty::{Convergence, convergence};
use avsweep_search::strategy::{Decision, History, Measured, Problem, next_points, planned_points};
use avsweep_store::{PointFilter, SearchPoint, SearchState};

use super::answering::MOST_MODELLED;
use crate::planner::seen::is_adaptive;
use crate::{Coordinator, CoordinatorError};

/// Rows that are given where no number is asked for.
const USUAL_STEPS: usize = 24;
/// The most rows: each takes a model of its own.
const MOST_STEPS: usize = 64;

impl Coordinator {
    /// How the sweep's search has come closer to its targets, as it could tell at each step; empty where no model can say, or
    /// where nothing is left to be found.
    pub(crate) async fn convergence(
        &self,
        sweep: &str,
        steps: Option<NonZeroUsize>,
    ) -> Result<Vec<Convergence>, CoordinatorError> {
        let record = self.store.find_sweep(sweep).await?;
        let definition = record.definition;
        // Tallies are small; what strategies see is every result.
        let history = Arc::new(self.tallies(record.id).await?);
        if !self.can_model(&definition, &history).await {
            return Ok(Vec::new());
        }
        let mut searched = self.store.search_points(record.id, PointFilter::All).await?;
        searched.retain(|searched| matches!(searched.state, SearchState::Measured { .. }));
        let order = self.proposal_order(record.id, &definition).await?;
        let steps = steps.map_or(USUAL_STEPS, NonZeroUsize::get).min(MOST_STEPS);
        let steps = self.compute(move || {
            searched.sort_by_key(|searched| order.get(&searched.point).copied().unwrap_or(usize::MAX));
            convergence(&Problem::of(&definition), &measured(&searched), steps)
        });
        Ok(steps.await)
    }

    /// Each proposed point's place in the order of proposals.
    async fn proposal_order(
        &self,
        sweep: SweepId,
        definition: &SweepDefinition,
    ) -> Result<HashMap<Point, usize>, CoordinatorError> {
        let points: Vec<Point> = if is_adaptive(&definition.strategy) {
            self.store.choices(sweep).await?.into_iter().flat_map(|choice| choice.points).collect()
        } else {
            let problem = Problem::of(definition);
            let planned = planned_points(&problem).and_then(|planned| usize::try_from(planned).ok());
            // What has been measured is at the sequence's beginning.
            let count = planned.unwrap_or(0).min(100 * MOST_MODELLED);
            match next_points(&problem, &History::default(), count) {
                Decision::Propose(points) => points,
                Decision::Wait | Decision::Finished => Vec::new(),
            }
        };
        Ok(points.into_iter().enumerate().map(|(place, point)| (point, place)).collect())
    }
}

/// The measured ones of some points, as strategies see them.
pub(super) fn measured(searched: &[SearchPoint]) -> Vec<Measured<'_>> {
    let measured = searched.iter().filter_map(|searched| match &searched.state {
        SearchState::Measured { log_probs, judged } => {
            Some(Measured { point: &searched.point, log_probs, judged: judged.as_deref() })
        }
        SearchState::Pending | SearchState::GivenUp | SearchState::Raced => None,
    });
    measured.collect()
}
