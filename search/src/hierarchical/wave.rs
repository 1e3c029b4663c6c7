//! One wave: what is expected around the leaders, and what of it is measured.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use avsweep_domain::{HierarchicalSettings, Level, Point, Ticks};

use super::forecast::{Forecast, Record};
use super::{Round, ends};
use crate::gp::spread;
use crate::problem::{Problem, SearchRung};

/// How much the soft value counts beside the value itself.
///
/// Rates are steps: far from a target most points are worth the same, and the soft rates say which way is up.
const SOFT: f64 = 1.0;

/// The same where points are ranked by what they are worth: only to part equals.
const EQUALS: f64 = 1e-3;

/// Around so many of each target's best points it is looked at what is expected.
const LOOKED_AROUND: usize = 4;

/// Contenders per leader that are measured, in the exact round.
const CONTENDERS: usize = 8;

/// Contenders per leader that are looked at again in its later waves: the whole grid is looked at once.
const WATCHED: usize = 32;

/// With more points, a forecast is made from the best of every target and every so many of the others.
const MOST_POINTS: usize = 800;

/// Steps along coefficients, all at once.
type Move = Vec<(usize, i64)>;

/// Draws waves.
pub(super) struct Planner<'a> {
    problem: &'a Problem,
    leaders: usize,
    wants: Vec<Vec<Option<Level>>>,
    /// Along one coefficient.
    along: Vec<Move>,
    /// Along one coefficient, or a step along two.
    around: Vec<Move>,
    /// Contenders of the whole grid, once that was looked at.
    watched: Option<Vec<Point>>,
}

/// A point in the field: its record is known or expected.
struct Runner {
    point: Point,
    squared_norm: i128,
    is_measured: bool,
}

/// All points that may lead, and for each target the best of them.
struct Field<'a> {
    planner: &'a Planner<'a>,
    /// The weight of soft values.
    softly: f64,
    runners: Vec<Runner>,
    races: Vec<Race<'a>>,
}

/// One target's best runners.
struct Race<'a> {
    wanted: &'a [Option<Level>],
    /// Values and places among the runners, best first.
    leading: Vec<(f64, usize)>,
}

impl<'a> Planner<'a> {
    pub(super) fn new(
        problem: &'a Problem,
        settings: &HierarchicalSettings,
        wants: Vec<Vec<Option<Level>>>,
    ) -> Self {
        let axes = problem.space().dimensions();
        let width = i64::from(settings.width);
        let along: Vec<Move> = (0..axes)
            .flat_map(|axis| (1..=width).flat_map(move |far| [vec![(axis, -far)], vec![(axis, far)]]))
            .collect();
        let pairs = (0..axes).flat_map(|first| (first + 1..axes).map(move |second| (first, second)));
        let across = pairs.flat_map(|(first, second)| {
            [(-1, -1), (-1, 1), (1, -1), (1, 1)].map(|(left, right)| vec![(first, left), (second, right)])
        });
        let around = along.iter().cloned().chain(across).collect();
        Self { problem, leaders: settings.leaders as usize, wants, along, around, watched: None }
    }

    /// The points that a forecast is made from: what it costs grows with the square of their number.
    pub(super) fn basis<'b>(&self, known: &[(&'b Point, &'b Record)]) -> Vec<(&'b Point, &'b Record)> {
        if known.len() <= MOST_POINTS {
            return known.to_vec();
        }
        let field = Field::new(self, known, None, &Round::default());
        let longest = field.races.iter().map(|race| race.leading.len()).max().unwrap_or(0);
        let ranked =
            (0..longest).flat_map(|rank| field.races.iter().filter_map(move |race| race.leading.get(rank)));
        let mut chosen = BTreeSet::new();
        for (_, place) in ranked {
            if chosen.len() < MOST_POINTS / 2 {
                chosen.insert(*place);
            }
        }
        let others: Vec<usize> = (0..known.len()).filter(|place| !chosen.contains(place)).collect();
        chosen.extend(spread(others.len(), MOST_POINTS - chosen.len()).map(|place| others[place]));
        chosen.into_iter().map(|place| known[place]).collect()
    }

    /// The unvisited points to measure, in the targets' order, each once.
    pub(super) fn next_wave(
        &mut self,
        known: &[(&Point, &Record)],
        visited: &BTreeSet<Point>,
        forecast: Option<&Forecast>,
        round: &Round,
    ) -> Vec<Point> {
        let planner = &*self;
        let field = planner.field(known, visited, forecast, round);
        // Rates of log-probabilities are steps, and their forecast a query off here and there; verdicts' are smoothed.
        let is_stepped = planner.problem.rung() == SearchRung::Likelihood;
        let contenders = if round.exact && is_stepped { CONTENDERS } else { 1 };
        let count = planner.leaders.saturating_mul(contenders);
        let mut wave = Vec::new();
        let mut listed = BTreeSet::new();
        for race in &field.races {
            for (_, place) in race.leading.iter().take(count) {
                let runner = &field.runners[*place];
                let wanted = if !runner.is_measured {
                    vec![runner.point.clone()]
                } else if round.exact {
                    continue;
                } else {
                    planner.moved(&runner.point, &planner.along, &round.step)
                };
                wave.extend(
                    wanted
                        .into_iter()
                        .filter(|point| !visited.contains(point) && listed.insert(point.clone())),
                );
            }
        }
        if round.exact {
            let places: BTreeSet<usize> =
                field.races.iter().flat_map(|race| &race.leading).map(|(_, place)| *place).collect();
            self.watched = Some(places.into_iter().map(|place| field.runners[place].point.clone()).collect());
        }
        wave
    }

    /// What is measured and what is expected around the leaders, and around those that are then expected to lead, until
    /// they are no others; in the exact round on the whole grid, where it can be listed.
    fn field(
        &'a self,
        known: &[(&Point, &Record)],
        visited: &BTreeSet<Point>,
        forecast: Option<&Forecast>,
        round: &Round,
    ) -> Field<'a> {
        let mut field = Field::new(self, known, forecast, round);
        let Some(forecast) = forecast.filter(|_| !field.races.is_empty()) else { return field };
        let mut seen: BTreeSet<Point> = BTreeSet::new();
        let mut fresh = match &self.watched {
            _ if !round.exact => Vec::new(),
            Some(watched) => watched.clone(),
            None => self.problem.whole_grid().unwrap_or_default(),
        };
        fresh.retain(|point| !visited.contains(point));
        seen.extend(fresh.iter().cloned());
        let mut left: BTreeSet<usize> = BTreeSet::new();
        loop {
            let records = forecast.at(self.problem, &fresh.iter().collect::<Vec<_>>());
            field.enter(fresh, &records.iter().collect::<Vec<_>>(), false);
            fresh = Vec::new();
            let starts: BTreeSet<usize> = field
                .races
                .iter()
                .flat_map(|race| race.leading.iter().take(LOOKED_AROUND.max(self.leaders)))
                .map(|(_, place)| *place)
                .collect();
            for start in starts {
                if left.insert(start) {
                    let around = self.moved(&field.runners[start].point, &self.around, &round.step);
                    fresh.extend(
                        around
                            .into_iter()
                            .filter(|point| !visited.contains(point) && seen.insert(point.clone())),
                    );
                }
            }
            if fresh.is_empty() {
                return field;
            }
        }
    }

    /// Where the moves lead to, within the ranges.
    fn moved(&self, from: &Point, moves: &[Move], step: &[i64]) -> Vec<Point> {
        let moved = |way: &Move| {
            let mut values = from.values().to_vec();
            for (axis, distance) in way {
                let (min, max) = ends(&self.problem.space().coefficients()[*axis]);
                let value = i64::from(values[*axis].get()) + distance.saturating_mul(step[*axis]);
                values[*axis] = Ticks::new(value.clamp(min, max) as i32);
            }
            Point::new(values)
        };
        moves.iter().map(moved).collect()
    }
}

impl<'a> Field<'a> {
    /// The measured points. Targets that one of them meets in full are left out: nothing is better.
    fn new(
        planner: &'a Planner<'a>,
        known: &[(&Point, &Record)],
        forecast: Option<&Forecast>,
        round: &Round,
    ) -> Self {
        let points: Vec<&Point> = known.iter().map(|(point, _)| *point).collect();
        // Verdicts are noisy: the luckiest point is not the best one.
        let smoothed = forecast
            .filter(|_| planner.problem.rung() == SearchRung::Judgement)
            .map(|forecast| forecast.at(planner.problem, &points));
        let records: Vec<&Record> = match &smoothed {
            Some(smoothed) => smoothed.iter().collect(),
            None => known.iter().map(|(_, record)| *record).collect(),
        };
        let is_met = |wanted: &[Option<Level>]| {
            let meets = |record: &Record| planner.problem.value(wanted, &record.rates) > 1.0 - 1e-12;
            // Smoothing may go beyond what was measured.
            records.iter().zip(known).any(|(record, (_, measured))| meets(record) && meets(measured))
        };
        let open = planner.wants.iter().filter(|wanted| !is_met(wanted));
        let races = open.map(|wanted| Race { wanted, leading: Vec::new() }).collect();
        let softly = if round.exact { EQUALS } else { SOFT };
        let mut field = Self { planner, softly, runners: Vec::new(), races };
        field.enter(points.into_iter().cloned().collect(), &records, true);
        field
    }

    /// Lets points take part in every race; those that lead in none are forgotten there.
    fn enter(&mut self, points: Vec<Point>, records: &[&Record], is_measured: bool) {
        let Self { planner, softly, runners, races } = self;
        let problem = planner.problem;
        let first = runners.len();
        runners.extend(points.into_iter().map(|point| {
            let squared_norm = point.squared_norm();
            Runner { point, squared_norm, is_measured }
        }));
        let kept = planner.leaders.saturating_mul(WATCHED);
        for Race { wanted, leading } in races {
            let value = |record: &Record| {
                problem.value(wanted, &record.rates) + *softly * problem.value(wanted, &record.soft)
            };
            // Sums of the same rates in another order of domains may differ in their last bits; so they still tie.
            let rounded = |record: &&Record| (value(record) * 1e9).round();
            leading.extend(records.iter().map(rounded).zip(first..));
            // The nearer to the base on a tie.
            let order = |left: &(f64, usize), right: &(f64, usize)| -> Ordering {
                let (one, other) = (&runners[left.1], &runners[right.1]);
                right
                    .0
                    .total_cmp(&left.0)
                    .then_with(|| one.squared_norm.cmp(&other.squared_norm))
                    .then_with(|| one.point.cmp(&other.point))
            };
            if kept < leading.len() {
                leading.select_nth_unstable_by(kept, order);
                leading.truncate(kept);
            }
            leading.sort_by(order);
        }
    }
}
