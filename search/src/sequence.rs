//! `random` and `sobol`: sequences of distinct grid points that are known beforehand.

mod sobol;

use std::collections::{BTreeMap, BTreeSet};

use avsweep_domain::{Point, SequenceSettings, Space};
use rand::RngExt as _;

use crate::random::stream;
use sobol::Sobol;

/// So many points of a sequence in a row may fall on points that are taken already, before the grid is gone through in
/// order instead.
const MOST_MISSES: usize = 4096;

/// How many points a sequence has: its budget, or the whole grid where that is smaller.
pub(crate) fn planned(space: &Space, settings: &SequenceSettings) -> u64 {
    u64::from(settings.budget).min(space.grid_size().unwrap_or(u64::MAX))
}

/// The first `count` points of `random`.
pub(crate) fn random(space: &Space, seed: u64, count: usize) -> Vec<Point> {
    let mut generator = stream(seed, "random", 0);
    let Ok(size) = space.grid_size() else {
        // Too many to number: doubles are so rare that they are drawn again.
        let mut seen = BTreeSet::new();
        let mut points = Vec::with_capacity(count);
        while points.len() < count {
            let ranges = space.coefficients().iter().map(|coefficient| coefficient.range);
            let values: Vec<_> = ranges
                .map(|range| range.value(generator.random_range(0..range.count())).unwrap_or(range.min()))
                .collect();
            let point = Point::new(values);
            if seen.insert(point.clone()) {
                points.push(point);
            }
        }
        return points;
    };
    // The head of a Fisher–Yates shuffle, of which only moved places are kept.
    let mut moved: BTreeMap<u64, u64> = BTreeMap::new();
    let places = (0..size.min(count as u64)).map(|place| {
        let other = generator.random_range(place..size);
        let drawn = moved.get(&other).copied().unwrap_or(other);
        let own = moved.get(&place).copied().unwrap_or(place);
        moved.insert(other, own);
        drawn
    });
    places.filter_map(|index| space.grid_point(index)).collect()
}

/// The first `count` points of `sobol`: grid points nearest to a scrambled Sobol sequence, each once.
pub(crate) fn sobol(space: &Space, seed: u64, count: usize) -> Vec<Point> {
    distinct(space, seed, &BTreeSet::new(), Vec::new(), count)
}

/// The next `count` points of a design that starts at the base and goes on evenly over the space, without the `known`.
pub(crate) fn spread(space: &Space, seed: u64, known: &BTreeSet<&Point>, count: usize) -> Vec<Point> {
    let origin = Point::origin(space.dimensions());
    let first = if space.on_grid(&origin) && !known.contains(&origin) { vec![origin] } else { Vec::new() };
    distinct(space, seed, known, first, count)
}

fn distinct(
    space: &Space,
    seed: u64,
    known: &BTreeSet<&Point>,
    first: Vec<Point>,
    count: usize,
) -> Vec<Point> {
    let mut points = first;
    points.truncate(count);
    let mut seen: BTreeSet<Point> = points.iter().cloned().collect();
    let mut sequence = Sobol::new(space.dimensions(), seed);
    let mut misses = 0;
    while points.len() < count && misses < MOST_MISSES {
        let values: Vec<_> = sequence
            .next_point()
            .into_iter()
            .zip(space.coefficients())
            .map(|(fraction, coefficient)| {
                let range = coefficient.range;
                let place = (fraction * range.count() as f64) as u64;
                range.value(place.min(range.count() - 1)).unwrap_or(range.min())
            })
            .collect();
        let point = Point::new(values);
        if known.contains(&point) || !seen.insert(point.clone()) {
            misses += 1;
        } else {
            misses = 0;
            points.push(point);
        }
    }
    if points.len() < count && space.grid_size().is_ok() {
        let rest = space.grid().filter(|point| !known.contains(point) && !seen.contains(point));
        let missing = count - points.len();
        points.extend(rest.take(missing));
    }
    points
}
