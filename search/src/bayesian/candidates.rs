//! Where a model is asked when not all grid points can be candidates: a sample around what is good.

use std::collections::BTreeSet;

use avsweep_domain::{Point, Ticks};
use rand::RngExt as _;

use crate::problem::Problem;
use crate::random::stream;
use crate::sequence;

/// Candidates spread over the space, where not all are taken.
const SPREAD: usize = 1024;

/// Candidates around each leader.
const AROUND: usize = 48;

/// At most so many candidates around leaders.
const MOST_AROUND: usize = 4096;

/// Candidates spread over the space and around `leaders`, distinct and in ticks order; another `round`, others.
pub(super) fn sampled(problem: &Problem, seed: u64, round: u64, leaders: &[&Point]) -> Vec<Point> {
    let space = problem.space();
    let spread = if round == 0 { SPREAD } else { 0 };
    let mut points: BTreeSet<Point> =
        sequence::spread(space, seed ^ 0x5eed, &BTreeSet::new(), spread).into_iter().collect();
    let mut generator = stream(seed, "candidates", round);
    let around = if leaders.is_empty() { 0 } else { AROUND.min(MOST_AROUND / leaders.len()).max(2) };
    for (number, leader) in leaders.iter().enumerate() {
        for index in 0..around {
            // A third takes part of another leader, the rest moves some coefficients by steps that are mostly small.
            let other = leaders[generator.random_range(0..leaders.len())];
            let crossed = index % 3 == 0 && leaders.len() > 1 && !std::ptr::eq(other, leaders[number]);
            let values: Vec<Ticks> = space
                .coefficients()
                .iter()
                .enumerate()
                .map(|(axis, coefficient)| {
                    let range = coefficient.range;
                    let value = leader.values()[axis];
                    if crossed && generator.random_range(0..2) == 0 {
                        return other.values()[axis];
                    }
                    if generator.random_range(0..space.dimensions().max(2)) > 1 {
                        return value;
                    }
                    let place = (i64::from(value.get()) - i64::from(range.min().get()))
                        / i64::from(range.step().get());
                    let last = range.count() as i64 - 1;
                    let far = [1, 1, 2, (last / 8).max(1), (last / 3).max(1)][generator.random_range(0..5)];
                    let moved = (place + generator.random_range(-far..=far)).clamp(0, last);
                    range.value(moved as u64).unwrap_or(value)
                })
                .collect();
            points.insert(Point::new(values));
        }
    }
    points.into_iter().collect()
}
