//! Nine coefficients beside three: what a vector split over groups of layers can reach.

use avsweep_domain::{BayesianSettings, Level, Point, Strategy, Ticks};
use avsweep_search::SearchRung;
use avsweep_search::strategy::{Decision, History, Measured, Problem, next_points};
use avsweep_search::surface::{Surface, layered, tied};
use rayon::prelude::*;

/// One search of nine coefficients.
struct Run {
    /// Evaluations until it stopped.
    evaluations: usize,
    /// After how many of them no target got better any more.
    settled: usize,
    /// Per target, the best value found.
    found: Vec<f64>,
}

/// Prints, per seed, how the best that nine coefficients find stands beside the best of the 21³ points whose groups are
/// alike, over all targets.
pub(crate) fn run(budget: u32, seeds: u64, min_gain: f64) -> anyhow::Result<()> {
    let surface = layered(0);
    let space = surface.space(20)?;
    let problem = |seed| {
        let settings = BayesianSettings { budget, seed, min_gain, ..BayesianSettings::default() };
        let strategy = Strategy::Bayesian(settings);
        Problem::new(space.clone(), &surface.levels(), surface.domains(), strategy, SearchRung::Likelihood)
    };
    let wants = problem(0)?.wants(&History::default());
    let ticks = |place: i32| Ticks::new(1000 * place - 10_000);
    let alike = (0..9261).map(|index| tied(&[ticks(index / 441), ticks(index / 21 % 21), ticks(index % 21)]));
    let mut tied_best = vec![0.0f64; wants.len()];
    for point in alike {
        raise(&mut tied_best, &surface, &problem(0)?, &wants, &point)?;
    }
    let runs = (0..seeds).into_par_iter().map(|seed| search(&surface, &problem(seed)?, &wants));
    let runs: Vec<Run> = runs.collect::<anyhow::Result<_>>()?;
    for (seed, run) in runs.iter().enumerate() {
        let pairs = || run.found.iter().zip(&tied_best);
        let better = pairs().filter(|(found, tied)| **found > **tied + 1e-9).count();
        let worse = pairs().filter(|(found, tied)| **found < **tied - 1e-9).count();
        let lowest = |values: &[f64]| values.iter().copied().fold(1.0, f64::min);
        println!(
            "seed {seed}: {} evaluations, the last gain at {}; {better} of {} targets better than with three coefficients, \
             {worse} worse; worst target {:.3} beside {:.3}, mean {:.3} beside {:.3}",
            run.evaluations,
            run.settled,
            wants.len(),
            lowest(&run.found),
            lowest(&tied_best),
            run.found.iter().sum::<f64>() / wants.len() as f64,
            tied_best.iter().sum::<f64>() / wants.len() as f64,
        );
    }
    Ok(())
}

fn search(surface: &Surface, problem: &Problem, wants: &[Vec<Option<Level>>]) -> anyhow::Result<Run> {
    let mut points: Vec<Point> = Vec::new();
    let mut log_probs: Vec<Vec<f32>> = Vec::new();
    let mut run = Run { evaluations: 0, settled: 0, found: vec![0.0; wants.len()] };
    loop {
        let measured: Vec<Measured<'_>> = points
            .iter()
            .zip(&log_probs)
            .map(|(point, log_probs)| Measured { point, log_probs, judged: None })
            .collect();
        let history = History { proposed: points.len() as u64, measured: &measured, ..History::default() };
        let Decision::Propose(next) = next_points(problem, &history, 1) else { break };
        for point in next {
            run.evaluations += 1;
            if raise(&mut run.found, surface, problem, wants, &point)? {
                run.settled = run.evaluations;
            }
            log_probs.push(surface.log_probs_at(&point));
            points.push(point);
        }
    }
    Ok(run)
}

/// Raises every target's best value to that of a point; whether one was raised.
fn raise(
    best: &mut [f64],
    surface: &Surface,
    problem: &Problem,
    wants: &[Vec<Option<Level>>],
    point: &Point,
) -> anyhow::Result<bool> {
    let log_probs = surface.log_probs_at(point);
    let rates = problem
        .rates(&Measured { point, log_probs: &log_probs, judged: None })
        .ok_or_else(|| anyhow::anyhow!("point {point} has no rates"))?;
    let mut raised = false;
    for (best, wanted) in best.iter_mut().zip(wants) {
        let value = problem.value(wanted, &rates);
        raised |= value > *best;
        *best = best.max(value);
    }
    Ok(raised)
}
