//! A strategy against a recorded grid, timed.

use std::time::{Duration, Instant};

use avsweep_search::record::RecordedGrid;
use avsweep_search::replay::{Moment, replay};
use avsweep_search::strategy::Problem;

/// A replayed search.
pub(crate) struct Replay {
    /// The places of the points visited, in order.
    pub(crate) visited: Vec<usize>,
    /// How long decisions took in all.
    pub(crate) deciding: Duration,
    /// The longest decision.
    pub(crate) slowest: Duration,
}

impl Replay {
    /// Replays with one evaluation in flight, until the strategy has finished.
    pub(crate) fn new(grid: &RecordedGrid, problem: &Problem) -> anyhow::Result<Self> {
        let (mut deciding, mut slowest, mut began) = (Duration::ZERO, Duration::ZERO, Instant::now());
        let visited = replay(grid, problem, 1, |moment| match moment {
            Moment::Deciding => began = Instant::now(),
            Moment::Decided => {
                deciding += began.elapsed();
                slowest = slowest.max(began.elapsed());
            }
            Moment::Measured => {}
        })?;
        Ok(Self { visited, deciding, slowest })
    }
}
