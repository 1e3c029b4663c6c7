//! One search against a record, timed and with its progress shown.

use std::time::{Duration, Instant};

use anyhow::Result;
use avsweep_search::record::RecordedGrid;
use avsweep_search::replay::{Moment, replay};
use avsweep_search::strategy::Problem;
use indicatif::ProgressBar;

/// A search that has ended.
#[derive(Debug)]
pub(super) struct Run {
    /// Places of the points in the grid's order, as they were measured.
    pub visited: Vec<usize>,
    /// How long its decisions took.
    pub deciding: Duration,
}

impl Run {
    /// Replays a search until its strategy has finished.
    ///
    /// # Errors
    /// When the strategy wants a point that the record lacks.
    pub(super) fn new(
        grid: &RecordedGrid,
        problem: &Problem,
        in_flight: usize,
        bar: &ProgressBar,
    ) -> Result<Self> {
        let (mut deciding, mut began) = (Duration::ZERO, Instant::now());
        let visited = replay(grid, problem, in_flight, |moment| match moment {
            Moment::Deciding => began = Instant::now(),
            Moment::Decided => deciding += began.elapsed(),
            Moment::Measured => bar.inc(1),
        })?;
        Ok(Self { visited, deciding })
    }
}
