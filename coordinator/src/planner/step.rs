//! The planner's decision: what comes next for a sweep, as a function of its sums.

use avsweep_domain::{Coverage, Reading, SweepDefinition};
use avsweep_store::{RungCounts, SweepTotals};

use super::jobs::has_finalist_jobs;
use super::seen::is_adaptive;

/// What the planner knows of a sweep without looking at any result.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// The sweep's sums.
    pub totals: SweepTotals,
    /// Where the strategy stands.
    pub strategy: StrategyState,
    /// Workers that could evaluate; at least one is taken to be there. Counts for strategies that decide from results.
    pub workers: u64,
    /// Finalists were chosen from the history as it is now, and their jobs planned.
    pub finalists_settled: bool,
    /// The store was just asked for generation jobs without a judgement job and has none.
    pub judgements_settled: bool,
}

/// Where a sweep's strategy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StrategyState {
    /// It may have more points.
    Open,
    /// It wants more results first.
    Waiting,
    /// It has nothing more to propose.
    Finished,
}

/// What comes next for a running sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Plan judgements of what was generated.
    Judge,
    /// Ask the strategy for points and plan them.
    Propose,
    /// Choose the finalists of all targets and plan what they get.
    PlanFinalists,
    /// Everything is done or parked: so is the sweep.
    Finish,
    /// Nothing, until workers have done more.
    Wait,
}

/// The next step of a running sweep. `low_water`: jobs that should wait for workers while the strategy has points.
///
/// Every step but `Wait` and `Finish` changes what the next snapshot says, so steps taken one after the other end.
pub fn plan_step(definition: &SweepDefinition, snapshot: &Snapshot, low_water: u64) -> Step {
    let totals = &snapshot.totals;
    // Each judgement job stands for one generation job that is done.
    if totals.generation.done > all(&totals.judgement) && !snapshot.judgements_settled {
        return Step::Judge;
    }
    match snapshot.strategy {
        StrategyState::Open if wants_points(definition, snapshot, low_water) => return Step::Propose,
        StrategyState::Open | StrategyState::Waiting => return Step::Wait,
        StrategyState::Finished => {}
    }
    // What finalists get is on other queries than they are chosen by, a ladder's rungs apart: choosing again when that
    // is closed finds the same points, and the sweep finishes.
    let scored = definition.evaluation.likelihood == Coverage::All;
    let open = totals.likelihood.open() + totals.generation.open() + totals.judgement.open();
    let undecided = if verdicts_decide(definition) { open } else { totals.likelihood.open() };
    if scored && !snapshot.finalists_settled && has_finalist_jobs(definition) {
        return if undecided == 0 { Step::PlanFinalists } else { Step::Wait };
    }
    if open == 0 { Step::Finish } else { Step::Wait }
}

/// Whether finalists, or the points of a ladder's next rung, are chosen by verdicts too: then they are chosen when
/// everything is closed, so that it is the same choice whenever the verdicts came and whoever makes it.
pub(super) fn verdicts_decide(definition: &SweepDefinition) -> bool {
    definition.default_reading() == Reading::Judgement
}

/// Whether there should be more points.
///
/// A sequence known beforehand is planned well ahead of the workers. A choice that depends on results is made as late as
/// can be, when a worker would have nothing to do: the more results it has seen, the better it is. With one worker, one
/// evaluation is in flight at a time.
fn wants_points(definition: &SweepDefinition, snapshot: &Snapshot, low_water: u64) -> bool {
    let totals = &snapshot.totals;
    if is_adaptive(&definition.strategy) {
        return totals.likelihood.open() + totals.generation.open() < snapshot.workers.max(1);
    }
    let first_rung = match definition.evaluation.likelihood {
        Coverage::None => &totals.generation,
        Coverage::Finalists | Coverage::All => &totals.likelihood,
    };
    first_rung.ready < low_water.max(1)
}

fn all(counts: &RungCounts) -> u64 {
    counts.open() + counts.done + counts.parked + counts.raced
}

#[cfg(test)]
pub(crate) mod tests;
