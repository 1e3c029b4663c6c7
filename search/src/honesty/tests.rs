//! Honesty, by simulation.

use avsweep_domain::{BayesianSettings, Point, SequenceSettings};

use super::*;
use crate::SearchRung;
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

/// Thirty-six judged points: what is chosen by expectation, and what by the points' own counts, against the true probabilities of
/// the levels at every point of an 11³ grid.
#[test]
fn judged_points_are_chosen_by_more_than_their_luck() {
    let (mut by_expectation, mut by_counts, mut within, mut count) = (0.0, 0.0, 0.0, 0.0);
    for surface in catalogue(3).iter().step_by(7) {
        let space = surface.space(10).expect("ten steps divide");
        let strategy = Strategy::Bayesian(BayesianSettings::default());
        let problem =
            Problem::new(space, &surface.levels(), surface.domains(), strategy, SearchRung::Judgement)
                .expect("a fitting strategy");
        let grid: Vec<Point> = problem.space().grid().collect();
        let log_probs: Vec<Vec<f32>> = grid.iter().map(|point| surface.log_probs_at(point)).collect();
        let true_rates: Vec<Vec<f64>> = log_probs
            .iter()
            .map(|log_probs| {
                let probabilities = surface.judge().probabilities(log_probs);
                let mut rates = vec![0.0; 9];
                for (query, p) in probabilities.chunks_exact(3).enumerate() {
                    (0..3).for_each(|level| rates[query / 40 * 3 + level] += p[level] / 40.0);
                }
                rates
            })
            .collect();
        let some: Vec<usize> = (0..grid.len()).step_by(37).collect();
        let judged: Vec<Vec<u32>> = some
            .iter()
            .map(|place| {
                let mut counts = vec![0; 9];
                for (query, level) in
                    surface.judge().judged(&log_probs[*place], *place as u64).into_iter().enumerate()
                {
                    counts[query / 40 * 3 + usize::from(level)] += 1;
                }
                counts
            })
            .collect();
        let measured: Vec<Measured<'_>> = some
            .iter()
            .zip(&judged)
            .map(|(place, counts)| Measured { point: &grid[*place], log_probs: &[], judged: Some(counts) })
            .collect();
        let assurances = assurances(&problem, &measured).expect("a model");
        let wants = problem.wants(&History { measured: &measured, ..History::default() });
        for (assurance, wanted) in assurances.iter().zip(&wants) {
            let value = |place: usize| problem.value(wanted, &true_rates[place]);
            let best_measured = some.iter().map(|place| value(*place)).fold(0.0, f64::max);
            let best = (0..grid.len()).map(value).fold(0.0, f64::max);
            let chosen = grid.iter().position(|point| *point == assurance.chosen).expect("on the grid");
            let luckiest = (0..some.len())
                .max_by(|left, right| {
                    let counted =
                        |row: &usize| problem.value(wanted, &problem.rates(&measured[*row]).expect("judged"));
                    counted(left).total_cmp(&counted(right))
                })
                .expect("points");
            by_expectation += best_measured - value(chosen);
            by_counts += best_measured - value(some[luckiest]);
            within += f64::from(u8::from(best - value(chosen) <= assurance.regret_bound + 1e-6));
            count += 1.0;
        }
    }
    assert!(by_expectation < 0.8 * by_counts, "{by_expectation} beside {by_counts} by counts");
    assert!(within / count >= 0.9, "the bounds hold for a share of {}", within / count);
}

#[test]
fn convergence_ends_with_what_is_known_of_all_points_and_each_step_knows_only_the_points_before_it() {
    let surface = &catalogue(1)[0];
    let space = surface.space(10).expect("ten steps divide");
    let strategy = Strategy::Sobol(SequenceSettings { budget: 30, seed: 1 });
    let problem = Problem::new(space, &surface.levels(), surface.domains(), strategy, SearchRung::Likelihood)
        .expect("a fitting strategy");
    let Decision::Propose(points) = next_points(&problem, &History::default(), 30) else {
        panic!("points are wanted");
    };
    let log_probs: Vec<Vec<f32>> = points.iter().map(|point| surface.log_probs_at(point)).collect();
    let measured: Vec<Measured<'_>> = points
        .iter()
        .zip(&log_probs)
        .map(|(point, log_probs)| Measured { point, log_probs, judged: None })
        .collect();
    let steps = convergence(&problem, &measured, 4);
    let evaluations: Vec<usize> = steps.iter().map(|step| step.evaluations).collect();
    assert_eq!(evaluations, [8, 15, 23, 30]);
    assert_eq!(
        steps.last().copied(),
        Convergence::of(30, &assurances(&problem, &measured).expect("a model"))
    );
    assert_eq!(steps[1], convergence(&problem, &measured[..15], 1)[0]);
    assert!(steps[3].expected_mean < steps[0].expected_mean);
    assert_eq!(convergence(&problem, &[], 4), []);
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
