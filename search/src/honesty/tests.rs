//! Honesty, by simulation.

use avsweep_domain::{BayesianSettings, Point, SequenceSettings};

use super::*;
use crate::normal::cdf;
use crate::random::{normal, stream};
use crate::strategy::{Decision, History, next_points};
use crate::surface::catalogue;

/// What is stated at 20 to 32 random points, against the full grid of 11³ points, on every fifth surface.
#[test]
fn stated_probabilities_and_regret_bounds_hold_on_the_surfaces() {
    let (mut stated, mut best, mut within, mut expected, mut regrets, mut count) =
        (0.0, 0.0, 0.0, 0.0, 0.0, 0.0);
    for surface in catalogue(8).iter().step_by(5) {
        let space = surface.space(10).expect("ten steps divide");
        let strategy = Strategy::Random(SequenceSettings { budget: 40, seed: 2 });
        let problem =
            Problem::new(space, &surface.levels(), surface.domains(), strategy, SearchRung::Likelihood)
                .expect("a fitting strategy");
        let Decision::Propose(points) = next_points(&problem, &History::default(), 32) else {
            panic!("points are wanted");
        };
        let grid: Vec<Point> = problem.space().grid().collect();
        let log_probs: Vec<Vec<f32>> = grid.iter().map(|point| surface.log_probs_at(point)).collect();
        let rates: Vec<Vec<f64>> = grid
            .iter()
            .zip(&log_probs)
            .filter_map(|(point, log_probs)| problem.rates(&Measured { point, log_probs, judged: None }))
            .collect();
        for n in [20, 32] {
            let measured: Vec<Measured<'_>> = grid
                .iter()
                .zip(&log_probs)
                .filter(|(point, _)| points[..n].contains(point))
                .map(|(point, log_probs)| Measured { point, log_probs, judged: None })
                .collect();
            let assurances = assurances(&problem, &measured).expect("a model");
            let wants = problem.wants(&History { measured: &measured, ..History::default() });
            for (assurance, wanted) in assurances.iter().zip(&wants) {
                let highest = rates.iter().map(|rates| problem.value(wanted, rates)).fold(0.0, f64::max);
                let regret = highest - assurance.value;
                stated += assurance.probability_best;
                best += f64::from(u8::from(regret < 1e-9));
                within += f64::from(u8::from(regret <= assurance.regret_bound + 1e-6));
                expected += assurance.expected_regret;
                regrets += regret;
                count += 1.0;
            }
        }
    }
    let (stated, best, within) = (stated / count, best / count, within / count);
    assert!(stated <= best + 0.05, "best with probability {stated} as stated, {best} in truth");
    assert!(within >= 0.93, "the bounds hold for a share of {within}");
    assert!(expected >= 0.85 * regrets, "regrets of {expected} as stated, {regrets} in truth");
}

/// 200 sweeps: 60 points, 40 search queries a domain to choose by, 30 to confirm, 27 targets.
#[test]
fn confirm_intervals_of_chosen_points_cover_the_truth() {
    let (levels, domains, points) = (3usize, 3usize, 60usize);
    let spread = 0.45;
    let mut held = [0.0; 3];
    let mut flattered = 0.0;
    let mut count = 0.0;
    for sweep in 0..200 {
        let mut generator = stream(sweep, "sweep", 0);
        let proficiencies: Vec<Vec<f64>> =
            (0..points).map(|_| (0..domains).map(|_| 1.4 * normal(&mut generator)).collect()).collect();
        let mut offsets = |n: usize| -> Vec<Vec<f64>> {
            (0..domains).map(|_| (0..n).map(|_| spread * normal(&mut generator)).collect()).collect()
        };
        let (search, confirm) = (offsets(40), offsets(30));
        let level = |proficiency: f64| ((proficiency.round().clamp(-1.0, 1.0)) + 1.0) as usize;
        let counted = |queries: &[Vec<f64>], point: usize, domain: usize, wanted: usize| {
            let at_level = queries[domain]
                .iter()
                .filter(|offset| level(proficiencies[point][domain] + **offset) == wanted);
            (at_level.count() as u32, queries[domain].len() as u32)
        };
        let truth = |point: usize, domain: usize, wanted: usize| {
            let below = |edge: f64| cdf((edge - proficiencies[point][domain]) / spread);
            match wanted {
                0 => below(-0.5),
                1 => below(0.5) - below(-0.5),
                _ => 1.0 - below(0.5),
            }
        };
        for target in 0..levels.pow(3) {
            let wanted = [target / 9, target / 3 % 3, target % 3];
            let each = |of: &dyn Fn(usize, usize) -> f64| -> Vec<f64> {
                wanted.iter().enumerate().map(|(domain, wanted)| of(domain, *wanted)).collect()
            };
            let value = |point: usize| {
                Aggregate::Min.of(each(&|domain, wanted| {
                    let (count, n) = counted(&search, point, domain, wanted);
                    f64::from(count) / f64::from(n)
                }))
            };
            let chosen =
                (0..points).max_by(|left, right| value(*left).total_cmp(&value(*right))).expect("points");
            let counts: Vec<(u32, u32)> = wanted
                .iter()
                .enumerate()
                .map(|(domain, wanted)| counted(&confirm, chosen, domain, *wanted))
                .collect();
            let true_rates = each(&|domain, wanted| truth(chosen, domain, wanted));
            for (held, aggregate) in held.iter_mut().zip(Aggregate::ALL) {
                let interval = confirm_interval(aggregate, &counts);
                let value = aggregate.of(true_rates.iter().copied());
                *held += f64::from(u8::from(interval.low <= value + 1e-12 && value <= interval.high + 1e-12));
            }
            flattered += value(chosen) - Aggregate::Min.of(true_rates.iter().copied());
            count += 1.0;
        }
    }
    for (held, aggregate) in held.iter().zip(Aggregate::ALL) {
        assert!(held / count >= 0.93, "{aggregate}: the intervals hold for a share of {}", held / count);
    }
    assert!(flattered / count > 0.01, "the search queries flatter the chosen points: {}", flattered / count);
}

#[test]
fn nothing_is_stated_without_a_model() {
    let surface = &catalogue(1)[0];
    let space = surface.space(10).expect("ten steps divide");
    let strategy = Strategy::Bayesian(BayesianSettings::default());
    let problem = Problem::new(space, &surface.levels(), surface.domains(), strategy, SearchRung::Likelihood)
        .expect("a fitting strategy");
    assert_eq!(assurances(&problem, &[]), None);
}
