//! `hierarchical`: coarse to fine around the leaders of every target.
//!
//! The search is a sequence of waves. The first is a coarse lattice. From what the waves before it have measured, each other
//! one [forecasts](forecast) what lies between, and measures every target's leaders where they are only expected to lead, and
//! the points a step along each coefficient from those that are measured. When that is all known, the step shrinks. At the
//! grid's own step come last the best contenders of the whole grid, until none is left that is not measured. A leader that
//! nobody measured is how a search finds basins between the points of its lattice, and ridges that run between the axes.
//!
//! A wave is worked out only when those before it are measured in full: the same points are visited however many are
//! measured at once.

mod forecast;
mod wave;

use std::collections::{BTreeMap, BTreeSet};

use avsweep_domain::{Coefficient, HierarchicalSettings, Point, Ticks};

use crate::problem::{Decision, History, Problem};
use forecast::{Forecast, Record};
use wave::Planner;

/// How a wave is drawn.
#[derive(Clone, Debug, Default)]
struct Round {
    /// Per coefficient, in ticks.
    step: Vec<i64>,
    /// Whether points of the whole grid contend, ranked by what they are worth before anything else.
    exact: bool,
}

/// The next points of a `hierarchical` search.
pub(crate) fn next_points(
    problem: &Problem,
    settings: &HierarchicalSettings,
    history: &History<'_>,
    limit: usize,
) -> Decision {
    let pending: BTreeSet<&Point> = history.pending.iter().collect();
    let given_up: BTreeSet<&Point> = history.given_up.iter().collect();
    let mut records: BTreeMap<&Point, Record> = BTreeMap::new();
    for measured in history.measured {
        if let Some(record) = Record::measured(problem, measured) {
            records.insert(measured.point, record);
        }
    }
    let spent = (records.len() + pending.len() + given_up.len()) as u64;
    let left = settings.budget.map_or(u64::MAX, |budget| u64::from(budget).saturating_sub(spent));
    let limit = limit.min(usize::try_from(left).unwrap_or(usize::MAX));
    let mut rounds = rounds(problem, settings).into_iter();
    let mut round = rounds.next().unwrap_or_default();
    let mut wave = lattice(problem, &round.step);
    let softness = problem.softness(wave.iter().filter_map(|point| records.get(point)?.log_probs(problem)));
    records.values_mut().for_each(|record| record.soften(problem, softness));
    let mut planner = Planner::new(problem, settings, problem.wants(history));
    let mut visited: BTreeSet<Point> = BTreeSet::new();
    let mut kernel = None;
    loop {
        let is_open = |point: &&Point| {
            !records.contains_key(point) && !pending.contains(point) && !given_up.contains(point)
        };
        let open: Vec<Point> = wave.iter().filter(is_open).take(limit).cloned().collect();
        if !open.is_empty() {
            return Decision::Propose(open);
        }
        if wave.iter().any(|point| !records.contains_key(point) && !given_up.contains(point)) {
            return if pending.is_empty() { Decision::Finished } else { Decision::Wait };
        }
        visited.extend(wave);
        let known: Vec<(&Point, &Record)> =
            visited.iter().filter_map(|point| Some((point, records.get(point)?))).collect();
        if kernel.is_none() {
            kernel = forecast::kernel(problem, &known);
        }
        let forecast = kernel
            .as_ref()
            .and_then(|kernel| Forecast::new(problem, kernel, &planner.basis(&known), softness));
        wave = planner.next_wave(&known, &visited, forecast.as_ref(), &round);
        while wave.is_empty() {
            let Some(next) = rounds.next() else {
                return Decision::Finished;
            };
            round = next;
            wave = planner.next_wave(&known, &visited, forecast.as_ref(), &round);
        }
    }
}

/// Coarse to fine down to the grid's step, exactly at that step, then below it.
fn rounds(problem: &Problem, settings: &HierarchicalSettings) -> Vec<Round> {
    let factor = i64::from(settings.factor.max(2));
    let softly = |by: &dyn Fn(i64) -> i64| -> Round {
        let coefficients = problem.space().coefficients().iter();
        let step = coefficients.map(|coefficient| by(i64::from(coefficient.range.step().get())).max(1));
        Round { step: step.collect(), exact: false }
    };
    let down_to_the_grid = (0..settings.rounds(problem.space()).max(1)).rev();
    let below = 1..=settings.finer;
    down_to_the_grid
        .map(|round| softly(&|step| step.saturating_mul(factor.saturating_pow(round))))
        .chain([Round { exact: true, ..softly(&|step| step) }])
        .chain(below.map(|round| softly(&|step| step / factor.saturating_pow(round))))
        .collect()
}

/// The points of the first wave: a step apart from each range's lower end, and its upper end.
fn lattice(problem: &Problem, step: &[i64]) -> Vec<Point> {
    let mut points = vec![Vec::new()];
    for (coefficient, step) in problem.space().coefficients().iter().zip(step) {
        let (min, max) = ends(coefficient);
        let mut values: Vec<i64> =
            (0..).map(|place| min + place * step).take_while(|value| *value < max).collect();
        values.push(max);
        points = points
            .into_iter()
            .flat_map(|point: Vec<Ticks>| {
                values.iter().map(move |value| [point.as_slice(), &[Ticks::new(*value as i32)]].concat())
            })
            .collect();
    }
    points.into_iter().map(Point::new).collect()
}

fn ends(coefficient: &Coefficient) -> (i64, i64) {
    (i64::from(coefficient.range.min().get()), i64::from(coefficient.range.max().get()))
}

#[cfg(test)]
mod tests;
