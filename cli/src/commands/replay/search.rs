//! One search against a record.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use avsweep_domain::Point;
use avsweep_search::record::RecordedGrid;
use avsweep_search::strategy::{Decision, History, Measured, Problem, next_points};
use indicatif::ProgressBar;

/// A search that has ended.
#[derive(Debug)]
pub(super) struct Run {
    /// Places of the points in the grid's order, as they were measured.
    pub visited: Vec<usize>,
    /// How long its decisions took.
    pub deciding: Duration,
}

/// Replays a search until its strategy has finished. With several evaluations in flight the oldest is done first, and a
/// free worker gets a point at once.
///
/// # Errors
/// When the strategy wants a point that the record lacks.
pub(super) fn replay(
    grid: &RecordedGrid,
    points: &[Point],
    problem: &Problem,
    in_flight: usize,
    bar: &ProgressBar,
) -> Result<Run> {
    let mut measured: Vec<Measured<'_>> = Vec::new();
    let mut pending: Vec<Point> = Vec::new();
    let mut run = Run { visited: Vec::new(), deciding: Duration::ZERO };
    let mut proposed = 0;
    let mut finished = false;
    loop {
        if pending.len() < in_flight && !finished {
            let history = History { proposed, measured: &measured, pending: &pending, given_up: &[] };
            let started = Instant::now();
            let decision = next_points(problem, &history, in_flight - pending.len());
            run.deciding += started.elapsed();
            match decision {
                Decision::Propose(batch) => {
                    proposed += batch.len() as u64;
                    pending.extend(batch);
                }
                Decision::Finished => finished = true,
                Decision::Wait if pending.is_empty() => {
                    bail!("the strategy waits although nothing is in flight")
                }
                Decision::Wait => {}
            }
        }
        if pending.is_empty() {
            return Ok(run);
        }
        let point = pending.remove(0);
        let place = grid.index(&point).with_context(|| {
            format!(
                "the strategy asks for point ({point}), which lies between the points of the recorded grid"
            )
        })?;
        measured.push(grid.measured(&points[place]).context("the record has all points of its grid")?);
        run.visited.push(place);
        bar.inc(1);
    }
}
