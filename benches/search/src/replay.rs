//! A strategy against a recorded grid.

use std::time::{Duration, Instant};

use avsweep_domain::Point;
use avsweep_search::record::RecordedGrid;
use avsweep_search::strategy::{Decision, History, Problem, next_points};

/// A replayed search.
pub(crate) struct Replay {
    /// The places of the points visited, in order.
    pub(crate) visited: Vec<usize>,
    /// How long decisions took in all, and the longest.
    pub(crate) deciding: Duration,
    /// The longest decision.
    pub(crate) slowest: Duration,
}

/// Replays with one evaluation in flight, until the strategy has finished.
pub(crate) fn replay(grid: &RecordedGrid, problem: &Problem) -> anyhow::Result<Replay> {
    let mut points: Vec<Point> = Vec::new();
    let mut visited = Vec::new();
    let (mut deciding, mut slowest) = (Duration::ZERO, Duration::ZERO);
    loop {
        let measured: Vec<_> = points.iter().filter_map(|point| grid.measured(point)).collect();
        let history = History { proposed: points.len() as u64, measured: &measured, ..History::default() };
        let started = Instant::now();
        let decision = next_points(problem, &history, 1);
        let took = started.elapsed();
        deciding += took;
        slowest = slowest.max(took);
        match decision {
            Decision::Propose(batch) => {
                for point in batch {
                    let place = grid.index(&point);
                    visited.push(place.ok_or_else(|| anyhow::anyhow!("{point} is not on the grid"))?);
                    points.push(point);
                }
            }
            Decision::Finished => return Ok(Replay { visited, deciding, slowest }),
            Decision::Wait => anyhow::bail!("the strategy waits although nothing is in flight"),
        }
    }
}
