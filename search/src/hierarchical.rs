//! `hierarchical`: coarse to fine around the leaders of every target.
//!
//! The search is a sequence of waves. The first is a coarse lattice; each other one holds the points around the leaders
//! of all waves before it, a step apart. When no leader has a new point around it, the step shrinks. At the grid's own step
//! come last the points across from the leaders: along each axis alone a search is caught on ridges that run between the
//! axes. A wave is worked out only when those before it are measured in full: the same points are visited however many are measured at once.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use avsweep_domain::{HierarchicalSettings, Level, Point, Ticks};

use crate::problem::{Decision, History, Problem};

/// How much the soft value counts beside the value itself.
const SOFT: f64 = 1.0;

/// How a wave is drawn around leaders.
#[derive(Default)]
struct Round {
    /// Per coefficient, in ticks.
    step: Vec<i64>,
    /// Whether two coefficients move at once too, and points are ranked by what they are worth before anything else.
    across: bool,
}

/// What a measured point is ranked by.
struct Record<'a> {
    rates: Vec<f64>,
    /// As [`Problem::soft_rates`]; the rates themselves where likelihoods are not measured.
    soft: Vec<f64>,
    log_probs: &'a [f32],
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
    let mut records = BTreeMap::new();
    for measured in history.measured {
        if let Some(rates) = problem.rates(measured) {
            let soft = rates.clone();
            records.insert(measured.point, Record { rates, soft, log_probs: measured.log_probs });
        }
    }
    let spent = (records.len() + pending.len() + given_up.len()) as u64;
    let left = settings.budget.map_or(u64::MAX, |budget| u64::from(budget).saturating_sub(spent));
    let limit = limit.min(usize::try_from(left).unwrap_or(usize::MAX));
    let wants = problem.wants(history);
    let mut rounds = rounds(problem, settings).into_iter();
    let mut round = rounds.next().unwrap_or_default();
    let mut visited: BTreeSet<Point> = BTreeSet::new();
    let mut wave = lattice(problem, &round.step);
    let softness = problem.softness(wave.iter().filter_map(|point| Some(records.get(point)?.log_probs)));
    for record in records.values_mut().filter(|record| record.log_probs.len() == problem.outputs()) {
        record.soft = problem.soft_rates(record.log_probs, softness);
    }
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
        wave = around_leaders(problem, settings, &wants, &records, &visited, &round);
        while wave.is_empty() {
            let Some(next) = rounds.next() else {
                return Decision::Finished;
            };
            round = next;
            wave = around_leaders(problem, settings, &wants, &records, &visited, &round);
        }
    }
}

/// Coarse to fine down to the grid's step, across at that step, then below it.
fn rounds(problem: &Problem, settings: &HierarchicalSettings) -> Vec<Round> {
    let factor = i64::from(settings.factor.max(2));
    let along = |by: &dyn Fn(i64) -> i64| -> Round {
        let coefficients = problem.space().coefficients().iter();
        let step = coefficients.map(|coefficient| by(i64::from(coefficient.range.step().get())).max(1));
        Round { step: step.collect(), across: false }
    };
    let down_to_the_grid = (0..settings.rounds(problem.space()).max(1)).rev();
    let below = 1..=settings.finer;
    down_to_the_grid
        .map(|round| along(&|step| step.saturating_mul(factor.saturating_pow(round))))
        .chain([Round { across: true, ..along(&|step| step) }])
        .chain(below.map(|round| along(&|step| step / factor.saturating_pow(round))))
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

fn ends(coefficient: &avsweep_domain::Coefficient) -> (i64, i64) {
    (i64::from(coefficient.range.min().get()), i64::from(coefficient.range.max().get()))
}

/// Unvisited points up to `width` steps along each coefficient from the leaders, in the targets' order, each once; across, a
/// step along every two coefficients at once too.
fn around_leaders(
    problem: &Problem,
    settings: &HierarchicalSettings,
    wants: &[Vec<Option<Level>>],
    records: &BTreeMap<&Point, Record<'_>>,
    visited: &BTreeSet<Point>,
    round: &Round,
) -> Vec<Point> {
    let mut points = Vec::new();
    let mut listed = BTreeSet::new();
    let moves = moves(problem.space().coefficients().len(), i64::from(settings.width), round.across);
    for wanted in wants {
        let leaders = leaders(problem, wanted, records, visited, settings.leaders as usize, round.across);
        // Nothing is better than every query at its wanted level.
        let is_perfect = |point: &&Point| problem.value(wanted, &records[point].rates) > 1.0 - 1e-12;
        if leaders.first().is_some_and(is_perfect) {
            continue;
        }
        for leader in leaders {
            for way in &moves {
                let mut values = leader.values().to_vec();
                for (axis, distance) in way {
                    let (min, max) = ends(&problem.space().coefficients()[*axis]);
                    let value = i64::from(values[*axis].get()) + distance.saturating_mul(round.step[*axis]);
                    values[*axis] = Ticks::new(value.clamp(min, max) as i32);
                }
                let point = Point::new(values);
                if !visited.contains(&point) && listed.insert(point.clone()) {
                    points.push(point);
                }
            }
        }
    }
    points
}

/// Ways from a leader: axes and steps along them.
fn moves(axes: usize, width: i64, across: bool) -> Vec<Vec<(usize, i64)>> {
    let along =
        (0..axes).flat_map(|axis| (1..=width).flat_map(move |far| [vec![(axis, -far)], vec![(axis, far)]]));
    let pairs = (0..axes).flat_map(|first| (first + 1..axes).map(move |second| (first, second)));
    let across = pairs.filter(|_| across).flat_map(|(first, second)| {
        [(-1, -1), (-1, 1), (1, -1), (1, 1)].map(|(left, right)| vec![(first, left), (second, right)])
    });
    along.chain(across).collect()
}

/// A target's best visited points, the nearer to the base on a tie.
///
/// Rates are steps: far from a target most points are worth the same, and the soft rates say which way is up. `exact`: they
/// only part points of the same worth.
fn leaders<'a>(
    problem: &Problem,
    wanted: &[Option<Level>],
    records: &BTreeMap<&'a Point, Record<'_>>,
    visited: &BTreeSet<Point>,
    count: usize,
    exact: bool,
) -> Vec<&'a Point> {
    let softly = if exact { 1e-3 } else { SOFT };
    let mut ranked: Vec<(f64, &Point)> = records
        .iter()
        .filter(|(point, _)| visited.contains(**point))
        .map(|(point, record)| {
            (problem.value(wanted, &record.rates) + softly * problem.value(wanted, &record.soft), *point)
        })
        .collect();
    let order = |left: &(f64, &Point), right: &(f64, &Point)| -> Ordering {
        // Sums of the same rates in another order of domains may differ in their last bits; so they still tie.
        let (left_value, right_value) = ((left.0 * 1e9).round(), (right.0 * 1e9).round());
        right_value
            .total_cmp(&left_value)
            .then_with(|| left.1.squared_norm().cmp(&right.1.squared_norm()))
            .then_with(|| left.1.cmp(right.1))
    };
    let count = count.min(ranked.len());
    if count > 0 && count < ranked.len() {
        ranked.select_nth_unstable_by(count - 1, order);
        ranked.truncate(count);
    }
    ranked.sort_by(order);
    ranked.into_iter().map(|(_, point)| point).collect()
}
