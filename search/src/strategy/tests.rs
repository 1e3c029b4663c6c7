//! Laws of strategies whose sequence is known beforehand.

use avsweep_domain::{SequenceSettings, Strategy};

use super::*;
use crate::fixture::definition;

#[test]
fn a_known_sequence_is_proposed_once_in_bounded_batches_then_finishes() {
    let settings = SequenceSettings { budget: 30, seed: 7 };
    for strategy in [Strategy::Grid, Strategy::Random(settings), Strategy::Sobol(settings)] {
        let mut definition = definition(2, 1, 0);
        definition.strategy = strategy;
        let problem = Problem::of(&definition);
        let mut sequences = Vec::new();
        for limit in [1, 7, 10_000] {
            let mut points = Vec::new();
            let finished = loop {
                let history = History { proposed: points.len() as u64, ..History::default() };
                match next_points(&problem, &history, limit) {
                    Decision::Propose(batch) => {
                        assert!((1..=limit).contains(&batch.len()));
                        points.extend(batch);
                    }
                    other => break other,
                }
            };
            assert_eq!(finished, Decision::Finished);
            assert_eq!(planned_points(&problem), Some(points.len() as u64));
            assert_eq!(known_point(&problem, 3).as_ref(), points.get(3));
            assert_eq!(known_point(&problem, points.len() as u64), None);
            let distinct: std::collections::BTreeSet<_> = points.iter().collect();
            assert_eq!(distinct.len(), points.len());
            assert!(points.iter().all(|point| definition.space.on_grid(point)));
            sequences.push(points);
        }
        assert!(sequences.windows(2).all(|pair| pair[0] == pair[1]));
        if definition.strategy == Strategy::Grid {
            assert_eq!(sequences[0], definition.space.grid().collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_budget_beyond_the_grid_ends_with_the_grid() {
    for kind in [Strategy::Random, Strategy::Sobol] {
        let mut definition = definition(1, 1, 0);
        definition.strategy = kind(SequenceSettings { budget: 1000, seed: 1 });
        let problem = Problem::of(&definition);
        let Decision::Propose(mut points) = next_points(&problem, &History::default(), 2000) else {
            panic!("points are wanted");
        };
        points.sort();
        assert_eq!(points, definition.space.grid().collect::<Vec<_>>());
    }
}

#[test]
fn a_raced_grid_visits_every_point_once_and_the_whole_space_soon() {
    for size in [1u64, 2, 7, 49, 125, 441, 9261] {
        let mut places: Vec<u64> = (0..size).map(|index| super::spread(index, size)).collect();
        let soon = &mut places.clone()[..(size as usize).min(10)];
        soon.sort_unstable();
        let gap = soon.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
        assert!(size < 20 || gap <= size / 4, "{size}: {gap}");
        places.sort_unstable();
        assert!(places.into_iter().eq(0..size), "{size}");
    }
    let mut definition = crate::fixture::definition(1, 4, 0);
    definition.evaluation.racing = Some(avsweep_domain::Racing { block: 1, error: 0.0, seed: 0 });
    let raced = Problem::of(&definition);
    let size = planned_points(&raced).expect("a grid");
    let mut points: Vec<Point> = (0..size).filter_map(|index| known_point(&raced, index)).collect();
    assert_ne!(points, definition.space.grid().collect::<Vec<_>>());
    points.sort_unstable();
    assert_eq!(points, definition.space.grid().collect::<Vec<_>>());
}
