//! Laws of forecasts, and of spaces whose grid cannot be listed.

use std::collections::BTreeMap;

use avsweep_domain::{Space, Strategy};

use super::*;
use crate::problem::{Measured, SearchRung};
use crate::strategy::{Waves, next_points};
use crate::surface::{Surface, catalogue};

fn problem(surface: &Surface, steps: u32, settings: HierarchicalSettings) -> Problem {
    let space: Space = surface.space(steps).expect("the steps divide");
    let strategy = Strategy::Hierarchical(settings);
    Problem::new(space, &surface.levels(), surface.domains(), strategy, SearchRung::Likelihood)
        .expect("the strategy fits")
}

#[test]
fn what_is_left_of_a_wave_is_what_the_strategy_decides_anew() {
    let surface = catalogue(5).into_iter().find(|surface| surface.name() == "interaction").expect("known");
    let settings = HierarchicalSettings { budget: Some(70), ..HierarchicalSettings::default() };
    let problem = problem(&surface, 10, settings);
    let mut scored: Vec<(Point, Vec<f32>)> = Vec::new();
    let (mut pending, mut given_up) = (Vec::new(), Vec::new());
    let mut waves = Waves::default();
    for step in 0.. {
        let measured: Vec<_> =
            scored.iter().map(|(point, log_probs)| Measured { point, log_probs, judged: None }).collect();
        let history = History {
            proposed: (scored.len() + pending.len() + given_up.len()) as u64,
            measured: &measured,
            pending: &pending,
            given_up: &given_up,
        };
        let limit = 1 + step % 3;
        let decision = waves.next_points(&problem, &history, limit);
        assert_eq!(decision, next_points(&problem, &history, limit), "step {step}");
        match decision {
            Decision::Propose(points) => pending.extend(points),
            Decision::Finished if pending.is_empty() => break,
            Decision::Wait | Decision::Finished => {}
        }
        // Some fail; one of them is tried again later.
        if step % 17 == 16 && !pending.is_empty() {
            given_up.push(pending.remove(0));
            waves.forget();
        }
        if step == 40 {
            pending.extend(given_up.pop());
            waves.forget();
        }
        if pending.len() > 3 || step % 2 == 1 {
            let point = pending.remove(0);
            scored.push((point.clone(), surface.log_probs_at(&point)));
        }
    }
    assert_eq!((scored.len() + given_up.len(), given_up.is_empty()), (70, false));
}

#[test]
fn a_forecast_keeps_what_is_measured_and_tells_what_lies_between() {
    let surface = catalogue(5).into_iter().find(|surface| surface.name() == "interaction").expect("known");
    let problem = problem(&surface, 20, HierarchicalSettings::default());
    let lattice = lattice(&problem, &[4000; 3]);
    let log_probs: Vec<Vec<f32>> = lattice.iter().map(|point| surface.log_probs_at(point)).collect();
    let record = |point, log_probs: &Vec<f32>| {
        let mut record =
            Record::measured(&problem, &Measured { point, log_probs, judged: None }).expect("measured");
        record.soften(&problem, 0.3);
        record
    };
    let records: Vec<Record> =
        lattice.iter().zip(&log_probs).map(|(point, row)| record(point, row)).collect();
    let known: Vec<(&Point, &Record)> = lattice.iter().zip(&records).collect();
    let kernel = forecast::kernel(&problem, &known).expect("something is known");
    let forecast = Forecast::new(&problem, &kernel, &known, 0.3).expect("distinct points");
    let furthest = |found: &[f64], wanted: &[f64]| {
        found.iter().zip(wanted).map(|(found, wanted)| (found - wanted).abs()).fold(0.0, f64::max)
    };
    let again = forecast.at(&problem, &lattice.iter().collect::<Vec<_>>());
    for (record, again) in records.iter().zip(&again) {
        assert!(furthest(&again.soft, &record.soft) < 0.01);
    }
    // As far from the lattice as can be: in the middles of its cells.
    let middle = |point: &Point| point.values().iter().all(|value| value.get().rem_euclid(4000) == 0);
    let middles: Vec<Point> = problem.space().grid().filter(middle).collect();
    assert_eq!(middles.len(), 125);
    for (point, expected) in middles.iter().zip(forecast.at(&problem, &middles.iter().collect::<Vec<_>>())) {
        let truth = record(point, &surface.log_probs_at(point));
        assert!(furthest(&expected.rates, &truth.rates) <= 0.1 + 1e-9, "{point}");
        assert!(furthest(&expected.soft, &truth.soft) < 0.05, "{point}");
    }
}

#[test]
fn a_forecast_from_many_points_takes_the_leaders_and_some_of_all_others() {
    let surface = &catalogue(5)[0];
    let problem = problem(surface, 20, HierarchicalSettings::default());
    let lattice = lattice(&problem, &[2000; 3]);
    let log_probs: Vec<Vec<f32>> = lattice.iter().map(|point| surface.log_probs_at(point)).collect();
    let record = |(point, log_probs): (_, &Vec<f32>)| {
        Record::measured(&problem, &Measured { point, log_probs, judged: None }).expect("measured")
    };
    let records: Vec<Record> = lattice.iter().zip(&log_probs).map(record).collect();
    let known: Vec<(&Point, &Record)> = lattice.iter().zip(&records).collect();
    let wants = problem.wants(&History::default());
    let planner = Planner::new(&problem, &HierarchicalSettings::default(), wants.clone());
    let basis = planner.basis(&known);
    assert!(known.len() == 1331 && (600..=800).contains(&basis.len()), "{}", basis.len());
    assert!(basis.windows(2).all(|pair| pair[0].0 < pair[1].0), "each once, in order");
    for wanted in wants {
        let best = |points: &[(&Point, &Record)]| {
            points.iter().map(|(_, record)| problem.value(&wanted, &record.rates)).fold(0.0, f64::max)
        };
        // Nothing is sought any more where a target is met in full.
        let most = best(&known);
        assert!(most > 1.0 - 1e-12 || (best(&basis) - most).abs() < 1e-12, "{wanted:?}");
    }
}

/// Four coefficients have 194,481 points: nobody looks at them all.
#[test]
fn a_space_that_cannot_be_listed_is_searched_around_its_leaders() {
    let shape = *catalogue(6)[0].shape();
    let gains = [[1.6, 0.1, -0.1, 0.5], [0.1, 1.8, 0.1, -0.5], [-0.1, 0.0, 1.7, 0.4]].map(|row| row.to_vec());
    let surface = Surface::new("four", shape, &gains, 20, 3, 6);
    let problem = problem(&surface, 20, HierarchicalSettings::default());
    assert!(problem.whole_grid().is_none());
    let mut log_probs: BTreeMap<Point, Vec<f32>> = BTreeMap::new();
    loop {
        let measured: Vec<Measured<'_>> =
            log_probs.iter().map(|(point, log_probs)| Measured { point, log_probs, judged: None }).collect();
        let history = History { proposed: measured.len() as u64, measured: &measured, ..History::default() };
        match next_points(&problem, &history, 1000) {
            Decision::Propose(points) => {
                for point in points {
                    let row = surface.log_probs_at(&point);
                    assert!(log_probs.insert(point, row).is_none(), "never twice");
                }
            }
            Decision::Wait => panic!("nothing is pending"),
            Decision::Finished => break,
        }
    }
    assert!(log_probs.len() < 700, "{} points", log_probs.len());
    let rates: Vec<Vec<f64>> = log_probs.values().map(|row| problem.rates_of(&problem.counts(row))).collect();
    for wanted in problem.wants(&History::default()) {
        let best = rates.iter().map(|rates| problem.value(&wanted, rates)).fold(0.0, f64::max);
        assert!(best >= 0.95, "{wanted:?}: {best}");
    }
}
