//! A strategy against a recorded grid, and what the whole grid says of what it found.

use avsweep_domain::{Point, Target, Wanted};

use crate::problem::{History, Measured, Problem};
use crate::record::RecordedGrid;
use crate::strategy::{Decision, Waves};

/// Rates are quotients of small integers, which leave this much in floating point.
const SAME: f64 = 1e-9;

/// Why a search cannot be replayed, or its result not be held against the grid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// A point between those of the grid.
    #[error("the strategy asks for point ({point}), which lies between the points of the recorded grid")]
    OffGrid {
        /// The point.
        point: Point,
    },
    /// The strategy wants more results and gets none.
    #[error("the strategy waits although nothing is in flight")]
    Standstill,
    /// A point without a result on the rung that points are chosen by.
    #[error("point ({point}) of the recorded grid has no result on the rung that points are chosen by")]
    NotMeasured {
        /// The point.
        point: Point,
    },
    /// A target asks for the base's level, and the record does not say which that is.
    #[error(
        "a target asks that {domain} stays as the base has it, but {}: name a level, or {domain}=any",
        if *.tied { format!("no level is more frequent there than all others at point ({origin})") }
        else { format!("the grid has no point ({origin})") }
    )]
    BaseUnknown {
        /// The domain.
        domain: String,
        /// The base's point.
        origin: Point,
        /// Whether it is measured, and two levels share the first place there.
        tied: bool,
    },
}

/// What a replay is at, for whoever watches or times it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The strategy is about to decide.
    Deciding,
    /// It has decided.
    Decided,
    /// A point was measured.
    Measured,
}

/// Replays a search until its strategy has finished; gives the measured points' places in the grid's order. With several
/// evaluations in flight the oldest is done first, and a free worker gets a point at once.
///
/// # Errors
/// When the strategy wants a point that the record lacks.
pub fn replay(
    grid: &RecordedGrid,
    problem: &Problem,
    in_flight: usize,
    mut watch: impl FnMut(Moment),
) -> Result<Vec<usize>, ReplayError> {
    let points: Vec<Point> = grid.space().grid().collect();
    let mut measured: Vec<Measured<'_>> = Vec::new();
    let mut pending: Vec<Point> = Vec::new();
    let mut visited = Vec::new();
    let mut proposed = 0;
    let mut finished = false;
    let mut waves = Waves::default();
    loop {
        if pending.len() < in_flight.max(1) && !finished {
            let history = History { proposed, measured: &measured, pending: &pending, given_up: &[] };
            watch(Moment::Deciding);
            let decision = waves.next_points(problem, &history, in_flight.max(1) - pending.len());
            watch(Moment::Decided);
            match decision {
                Decision::Propose(batch) => {
                    proposed += batch.len() as u64;
                    pending.extend(batch);
                }
                Decision::Finished => finished = true,
                Decision::Wait if pending.is_empty() => return Err(ReplayError::Standstill),
                Decision::Wait => {}
            }
        }
        if pending.is_empty() {
            return Ok(visited);
        }
        let point = pending.remove(0);
        let found = grid.index(&point).and_then(|place| Some((place, grid.measured(points.get(place)?)?)));
        let Some((place, measurement)) = found else {
            return Err(ReplayError::OffGrid { point });
        };
        measured.push(measurement);
        visited.push(place);
        watch(Moment::Measured);
    }
}

/// Every target's value at every point of a recorded grid.
#[derive(Clone, Debug)]
pub struct Truth {
    targets: Vec<Target>,
    /// Per target, per point in the grid's order.
    values: Vec<Vec<f64>>,
    /// Per target, the largest.
    best: Vec<f64>,
}

/// After some evaluations: how far what was found is from the grid's best, over all targets.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Regret {
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
    /// When a target asks for the base's level and the record does not say which that is, or a point has no result on the
    /// wanted rung.
    pub fn new(grid: &RecordedGrid, problem: &Problem) -> Result<Self, ReplayError> {
        let targets = problem.targets();
        let origin = Point::origin(grid.space().dimensions());
        let base: Vec<_> = grid.measured(&origin).into_iter().collect();
        let wants = problem.wants(&History { measured: &base, ..History::default() });
        for (target, wanted) in targets.iter().zip(&wants) {
            let as_base =
                |domain: &usize| target.wanted()[*domain] == Wanted::AsBase && wanted[*domain].is_none();
            if let Some(domain) = (0..target.wanted().len()).find(as_base) {
                let domain = grid.domains()[domain].name.clone();
                let tied = !base.is_empty();
                return Err(ReplayError::BaseUnknown { domain, origin: origin.clone(), tied });
            }
        }
        let mut values = vec![Vec::with_capacity(grid.points()); wants.len()];
        for point in grid.space().grid() {
            let rates = grid.measured(&point).and_then(|measured| problem.rates(&measured));
            let Some(rates) = rates else { return Err(ReplayError::NotMeasured { point }) };
            for (values, wanted) in values.iter_mut().zip(&wants) {
                values.push(problem.value(wanted, &rates));
            }
        }
        let best = values.iter().map(|values| values.iter().copied().fold(0.0, f64::max)).collect();
        Ok(Self { targets, values, best })
    }

    /// The targets, in the order of everything else here.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// Per target, its value at every point in the grid's order.
    pub fn values(&self) -> &[Vec<f64>] {
        &self.values
    }

    /// Per target, the grid's best value.
    pub fn best(&self) -> &[f64] {
        &self.best
    }

    /// After each of the visited points.
    pub fn regrets(&self, visited: &[usize]) -> Vec<Regret> {
        let mut highest = vec![0.0f64; self.best.len()];
        let after = visited.iter().map(|place| {
            let mut regret = Regret::default();
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
    pub fn found(&self, target: usize, visited: &[usize]) -> Option<(usize, f64)> {
        let values = visited.iter().map(|place| (*place, self.values[target][*place]));
        values.reduce(|best, next| if next.1 > best.1 { next } else { best })
    }

    /// Whether a value equals the grid's best for a target.
    pub fn is_best(&self, target: usize, value: f64) -> bool {
        self.best[target] - value < SAME
    }
}
