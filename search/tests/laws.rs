//! Laws of searches that adapt to what they see.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use avsweep_domain::{BayesianSettings, HierarchicalSettings, Point, Space, Strategy, Ticks};
use avsweep_search::SearchRung;
use avsweep_search::honesty::assurances;
use avsweep_search::record::RecordedGrid;
use avsweep_search::replay::Truth;
use avsweep_search::strategy::{Decision, History, Measured, Problem, next_points};
use avsweep_search::surface::{Surface, catalogue, layered, tied};

/// A surface's searches, measured as asked.
struct Bench {
    surface: Surface,
    problem: Problem,
}

impl Bench {
    fn new(name: &str, steps: u32, strategy: Strategy) -> Self {
        let surface = catalogue(4).into_iter().find(|surface| surface.name() == name).unwrap();
        let space: Space = surface.space(steps).unwrap();
        let problem =
            Problem::new(space, &surface.levels(), surface.domains(), strategy, SearchRung::Likelihood)
                .unwrap();
        Self { surface, problem }
    }

    fn decide(&self, measured: &[Point], pending: &[Point], limit: usize) -> Decision {
        let log_probs: Vec<Vec<f32>> =
            measured.iter().map(|point| self.surface.log_probs_at(point)).collect();
        let measured: Vec<Measured<'_>> = measured
            .iter()
            .zip(&log_probs)
            .map(|(point, log_probs)| Measured { point, log_probs, judged: None })
            .collect();
        let proposed = (measured.len() + pending.len()) as u64;
        let history = History { proposed, measured: &measured, pending, given_up: &[] };
        next_points(&self.problem, &history, limit)
    }

    /// The points of a search with so many evaluations in flight, measured in the order of `pick`.
    fn run(&self, in_flight: usize, mut pick: impl FnMut(usize) -> usize) -> Vec<Point> {
        let (mut measured, mut pending): (Vec<Point>, Vec<Point>) = (Vec::new(), Vec::new());
        loop {
            let mut finished = false;
            while pending.len() < in_flight {
                match self.decide(&measured, &pending, in_flight - pending.len()) {
                    Decision::Propose(points) => {
                        assert!(!points.is_empty() && points.len() <= in_flight - pending.len());
                        for point in points {
                            assert!(!measured.contains(&point) && !pending.contains(&point), "{point} again");
                            pending.push(point);
                        }
                    }
                    Decision::Wait => {
                        assert!(!pending.is_empty(), "nothing to wait for");
                        break;
                    }
                    Decision::Finished => {
                        finished = true;
                        break;
                    }
                }
            }
            if pending.is_empty() {
                assert!(finished);
                return measured;
            }
            let next = pick(pending.len());
            measured.push(pending.remove(next));
        }
    }
}

fn bayesian(budget: u32) -> Strategy {
    Strategy::Bayesian(BayesianSettings { budget, min_gain: 0.0, seed: 3, ..BayesianSettings::default() })
}

#[test]
fn a_search_resumed_at_any_step_makes_the_same_choices() {
    for strategy in [bayesian(30), Strategy::Hierarchical(HierarchicalSettings::default())] {
        let bench = Bench::new("cross-talk", 10, strategy);
        let points = bench.run(1, |_| 0);
        assert!(points.len() >= 30);
        for stop in (0..points.len()).step_by(7) {
            // The store gives points in ticks order: the order of results is forgotten.
            let mut measured = points[..stop].to_vec();
            measured.sort();
            let decision = bench.decide(&measured, &[], 1);
            assert_eq!(decision, Decision::Propose(vec![points[stop].clone()]), "after {stop}");
        }
    }
}

#[test]
fn hierarchical_visits_the_same_points_however_many_are_in_flight() {
    let bench = Bench::new("interaction", 10, Strategy::Hierarchical(HierarchicalSettings::default()));
    let alone: BTreeSet<Point> = bench.run(1, |_| 0).into_iter().collect();
    assert!(alone.len() < 1000, "{} of 1,331", alone.len());
    let mut state = 5usize;
    for in_flight in [4, 100] {
        let scrambled = bench.run(in_flight, |pending| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % pending
        });
        assert_eq!(scrambled.into_iter().collect::<BTreeSet<Point>>(), alone);
    }
}

/// The places of a search's points, when it is asked again only after all that it wanted is measured.
fn by_waves(grid: &RecordedGrid, problem: &Problem) -> Vec<usize> {
    let (mut points, mut visited): (Vec<Point>, Vec<usize>) = (Vec::new(), Vec::new());
    loop {
        let measured: Vec<Measured<'_>> = points.iter().map(|point| grid.measured(point).unwrap()).collect();
        let history = History { proposed: measured.len() as u64, measured: &measured, ..History::default() };
        match next_points(problem, &history, 1000) {
            Decision::Propose(wave) => {
                visited.extend(wave.iter().map(|point| grid.index(point).unwrap()));
                points.extend(wave);
            }
            Decision::Wait => panic!("nothing is pending"),
            Decision::Finished => return visited,
        }
    }
}

/// Whatever the steps are: what lies between the lattice's points is forecast, and none is left that should lead.
#[test]
fn hierarchical_finds_the_best_point_of_every_target() {
    let usual = HierarchicalSettings::default();
    for (name, settings) in [
        ("plain", usual),
        ("steep", usual),
        ("strong-cross-talk", usual),
        ("hard-saturated", usual),
        ("everything", usual),
        ("folded", HierarchicalSettings { factor: 3, levels: Some(2), ..usual }),
        ("bent", HierarchicalSettings { width: 2, leaders: 2, ..usual }),
    ] {
        let bench = Bench::new(name, 20, Strategy::Hierarchical(settings));
        let grid = bench.surface.record(bench.problem.space(), false).unwrap();
        let visited = by_waves(&grid, &bench.problem);
        let found = *Truth::new(&grid, &bench.problem).unwrap().regrets(&visited).last().unwrap();
        assert_eq!(found.equal, 27, "{name}: {found:?} after {} points", visited.len());
        assert!(visited.len() < 700, "{name}: {} points", visited.len());
    }
}

/// Verdicts alone: their rates are noisy, and forecast all the same.
#[test]
fn hierarchical_goes_by_verdicts_where_nothing_else_is_measured() {
    let surface = catalogue(4).into_iter().find(|surface| surface.name() == "plain").unwrap();
    let space = surface.space(20).unwrap();
    let grid = surface.record(&space, true).unwrap();
    let strategy = Strategy::Hierarchical(HierarchicalSettings::default());
    let problem =
        Problem::new(space, &surface.levels(), surface.domains(), strategy, SearchRung::Judgement).unwrap();
    let visited = by_waves(&grid, &problem);
    assert!(visited.len() < 700, "{} points", visited.len());
    let rates: Vec<Vec<f64>> = problem
        .space()
        .grid()
        .map(|point| true_rates(&problem, &surface.judge().probabilities(&surface.log_probs_at(&point))))
        .collect();
    for wanted in problem.wants(&History::default()) {
        let value = |place: &usize| problem.value(&wanted, &rates[*place]);
        let best = (0..rates.len()).map(|place| value(&place)).fold(0.0, f64::max);
        let found = visited.iter().map(value).fold(0.0, f64::max);
        assert!(best - found < 0.02, "{wanted:?}: {found} of {best} after {} points", visited.len());
    }
}

/// Rates of probabilities of every query's levels.
fn true_rates(problem: &Problem, probabilities: &[f64]) -> Vec<f64> {
    let levels = problem.levels();
    let mut queries = probabilities.chunks_exact(levels);
    let mut rates = Vec::new();
    for domain in problem.domains() {
        let mut sums = vec![0.0; levels];
        for query in queries.by_ref().take(domain.queries) {
            sums.iter_mut().zip(query).for_each(|(sum, p)| *sum += p / domain.queries as f64);
        }
        rates.extend(sums);
    }
    rates
}

#[test]
fn bayesian_keeps_its_budget_and_never_proposes_twice_with_several_in_flight() {
    let bench = Bench::new("plain", 10, bayesian(45));
    for in_flight in [1, 6] {
        let points = bench.run(in_flight, |pending| pending / 2);
        assert_eq!(points.len(), 45);
        assert_eq!(points.iter().collect::<BTreeSet<_>>().len(), 45);
        assert!(points.contains(&Point::origin(3)), "the base is one of the design");
    }
}

#[test]
fn bayesian_stops_by_itself_when_nothing_is_to_be_gained() {
    let strategy = BayesianSettings { budget: 500, min_gain: 0.01, ..BayesianSettings::default() };
    let bench = Bench::new("plain", 10, Strategy::Bayesian(strategy));
    let points = bench.run(1, |_| 0);
    assert!(points.len() < 120, "{} points", points.len());
    // And what it found is the grid's best, for every target.
    let grid: Vec<Point> = bench.problem.space().grid().collect();
    let rates = |point: &Point| {
        let log_probs = bench.surface.log_probs_at(point);
        bench.problem.rates(&Measured { point, log_probs: &log_probs, judged: None }).unwrap()
    };
    let (all, found): (Vec<_>, Vec<_>) =
        (grid.iter().map(rates).collect(), points.iter().map(rates).collect());
    for wanted in bench.problem.wants(&History::default()) {
        let best = |rates: &[Vec<f64>]| {
            rates.iter().map(|rates| bench.problem.value(&wanted, rates)).fold(0.0, f64::max)
        };
        assert!(best(&all) - best(&found) < 0.026, "{wanted:?}: {} of {}", best(&found), best(&all));
    }
}

#[test]
fn a_batch_is_worth_more_than_its_points_alone_would_suggest() {
    // Points of one batch are chosen for different targets: none is a neighbour of another.
    let bench = Bench::new("plain", 20, bayesian(100));
    let measured: Vec<Point> = bench.run_design();
    let Decision::Propose(batch) = bench.decide(&measured, &[], 8) else { panic!("a batch is wanted") };
    assert_eq!(batch.len(), 8);
    for (index, left) in batch.iter().enumerate() {
        for right in &batch[index + 1..] {
            let apart =
                left.values().iter().zip(right.values()).map(|(x, y)| (x.get() - y.get()).abs()).max();
            assert!(apart > Some(1000), "{left} and {right}");
        }
    }
}

impl Bench {
    fn run_design(&self) -> Vec<Point> {
        match self.decide(&[], &[], 18) {
            Decision::Propose(points) => points,
            other => panic!("a design is wanted, not {other:?}"),
        }
    }
}

/// Vectors split over groups of layers reach targets that no three coefficients reach.
#[test]
fn nine_coefficients_find_what_three_cannot_reach() {
    let surface = layered(0);
    let settings = BayesianSettings { budget: 110, seed: 1, ..BayesianSettings::default() };
    let space = surface.space(20).unwrap();
    let strategy = Strategy::Bayesian(settings);
    let problem =
        Problem::new(space, &surface.levels(), surface.domains(), strategy, SearchRung::Likelihood).unwrap();
    let wants = problem.wants(&History::default());
    let raise = |best: &mut [f64], point: &Point| {
        let log_probs = surface.log_probs_at(point);
        let rates = problem.rates(&Measured { point, log_probs: &log_probs, judged: None }).unwrap();
        for (best, wanted) in best.iter_mut().zip(&wants) {
            *best = best.max(problem.value(wanted, &rates));
        }
    };
    let mut three = vec![0.0f64; wants.len()];
    let ticks = |place: i32| Ticks::new(2000 * place - 10_000);
    for index in 0..1331 {
        raise(&mut three, &tied(&[ticks(index / 121), ticks(index / 11 % 11), ticks(index % 11)]));
    }
    let bench = Bench { surface: layered(0), problem: problem.clone() };
    let mut nine = vec![0.0f64; wants.len()];
    let points = bench.run(1, |_| 0);
    points.iter().for_each(|point| raise(&mut nine, point));
    let out_of_reach = three.iter().filter(|best| **best < 0.5).count();
    assert!(out_of_reach >= 9, "three coefficients reach all but {out_of_reach} targets");
    let lowest = nine.iter().copied().fold(1.0, f64::min);
    assert!(lowest >= 0.9, "the worst of 27 targets has {lowest} after {} points", points.len());
}

/// Verdicts are few and noisy; what log-probabilities say of the same points makes the answers' values truer.
#[test]
fn likelihoods_beside_verdicts_make_truer_answers() {
    let surface = catalogue(4).into_iter().find(|surface| surface.name() == "rough").unwrap();
    let space = surface.space(10).unwrap();
    let grid = surface.record(&space, true).unwrap();
    let strategy = Strategy::Bayesian(BayesianSettings::default());
    let levels = surface.levels();
    let problem = Problem::new(space, &levels, surface.domains(), strategy, SearchRung::Judgement).unwrap();
    let points: Vec<Point> = grid.space().grid().step_by(29).collect();
    let both: Vec<Measured<'_>> = points.iter().map(|point| grid.measured(point).unwrap()).collect();
    let verdicts: Vec<Measured<'_>> =
        both.iter().map(|measured| Measured { log_probs: &[], ..measured.clone() }).collect();
    let truth = |point: &Point, wanted: &[Option<avsweep_domain::Level>]| {
        let probabilities = surface.judge().probabilities(&surface.log_probs_at(point));
        problem.value(wanted, &true_rates(&problem, &probabilities))
    };
    let wants = problem.wants(&History::default());
    let error = |measured: &[Measured<'_>]| -> f64 {
        let answers = assurances(&problem, measured).unwrap();
        assert_eq!(answers.len(), wants.len());
        let errors = answers.iter().zip(&wants);
        errors.map(|(answer, wanted)| (answer.value - truth(&answer.chosen, wanted)).abs()).sum()
    };
    let (with, without) = (error(&both), error(&verdicts));
    assert!(with < without, "{with} {without}");
}
