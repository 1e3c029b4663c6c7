//! Which points come next.

use avsweep_domain::{Point, PointTallies, Strategy, SweepDefinition};

/// What a strategy decides from.
///
/// A strategy's proposals are one sequence; its decision is a function of how far that went and what came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct History<'a> {
    /// Length of the sequence of proposals so far.
    pub proposed: u64,
    /// Points measured on all search queries. `grid` does not look at them.
    pub measured: &'a [PointTallies],
    /// Points proposed and not measured yet. `grid` does not look at them.
    pub pending: &'a [Point],
}

/// What a strategy decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Measure these, the next of the sequence; never empty.
    Propose(Vec<Point>),
    /// Ask again when more is measured.
    Wait,
    /// There is nothing more to propose, whatever comes of the pending points.
    Finished,
}

/// The next points, at most `limit` (at least 1) of them.
///
/// A pure function: the same definition and history give the same decision.
pub fn next_points(definition: &SweepDefinition, history: &History<'_>, limit: usize) -> Decision {
    match definition.strategy {
        Strategy::Grid => {
            let end = history.proposed.saturating_add(limit.max(1) as u64);
            let points: Vec<Point> =
                (history.proposed..end).map_while(|index| definition.space.grid_point(index)).collect();
            if points.is_empty() { Decision::Finished } else { Decision::Propose(points) }
        }
    }
}

/// How many points the strategy will propose in all, where that is known beforehand.
pub fn planned_points(definition: &SweepDefinition) -> Option<u64> {
    match definition.strategy {
        Strategy::Grid => definition.space.grid_size().ok(),
    }
}

/// The point at a place of the strategy's sequence, where the sequence is known beforehand.
///
/// With it, a planner that has forgotten how far the sequence went finds out by looking for its points.
pub fn known_point(definition: &SweepDefinition, index: u64) -> Option<Point> {
    match definition.strategy {
        Strategy::Grid => definition.space.grid_point(index),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::definition;

    #[test]
    fn grid_proposes_every_point_once_in_bounded_batches_then_finishes() {
        let definition = definition(2, 1, 0);
        for limit in [1, 7, 10_000] {
            let mut points = Vec::new();
            let finished = loop {
                let history = History { proposed: points.len() as u64, ..History::default() };
                match next_points(&definition, &history, limit) {
                    Decision::Propose(batch) => {
                        assert!((1..=limit).contains(&batch.len()));
                        points.extend(batch);
                    }
                    other => break other,
                }
            };
            assert_eq!(finished, Decision::Finished);
            assert_eq!(points, definition.space.grid().collect::<Vec<_>>());
            assert_eq!(planned_points(&definition), Some(points.len() as u64));
            assert_eq!(known_point(&definition, 3).as_ref(), points.get(3));
        }
    }
}
