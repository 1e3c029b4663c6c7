//! Nine coefficients beside three: what a vector split over groups of layers can reach.

use avsweep_domain::{BayesianSettings, Level, Point, Strategy, Ticks};
use avsweep_search::SearchRung;
use avsweep_search::strategy::{Decision, History, Measured, Problem, next_points};
use avsweep_search::surface::{Surface, layered, tied};

/// Prints, per target, the best of the 21³ points whose groups are alike, and the best that nine coefficients find.
pub(crate) fn run(budget: u32, seeds: u64) -> anyhow::Result<()> {
    let surface = layered(0);
    let space = surface.space(20)?;
    let problem = |seed| {
        let settings = BayesianSettings { budget, seed, min_gain: 0.0, ..BayesianSettings::default() };
        let strategy = Strategy::Bayesian(settings);
        Problem::new(space.clone(), &surface.levels(), surface.domains(), strategy, SearchRung::Likelihood)
    };
    let wants = problem(0)?.wants(&History::default());
    let ticks = |place: i32| Ticks::new(1000 * place - 10_000);
    let alike = (0..9261).map(|index| tied(&[ticks(index / 441), ticks(index / 21 % 21), ticks(index % 21)]));
    let tied_best = best(&surface, &problem(0)?, &wants, alike)?;
    for seed in 0..seeds {
        let problem = problem(seed)?;
        let mut points: Vec<Point> = Vec::new();
        let mut log_probs: Vec<Vec<f32>> = Vec::new();
        loop {
            let measured: Vec<Measured<'_>> = points
                .iter()
                .zip(&log_probs)
                .map(|(point, log_probs)| Measured { point, log_probs, judged: None })
                .collect();
            let history =
                History { proposed: points.len() as u64, measured: &measured, ..History::default() };
            let Decision::Propose(next) = next_points(&problem, &history, 1) else { break };
            log_probs.extend(next.iter().map(|point| surface.log_probs_at(point)));
            points.extend(next);
        }
        let found = best(&surface, &problem, &wants, points.iter().cloned())?;
        let better = found.iter().zip(&tied_best).filter(|(found, tied)| **found > **tied + 1e-9).count();
        let worse = found.iter().zip(&tied_best).filter(|(found, tied)| **found < **tied - 1e-9).count();
        let lowest = |values: &[f64]| values.iter().copied().fold(1.0, f64::min);
        println!(
            "seed {seed}: {} evaluations; {better} of {} targets better than with three coefficients, {worse} worse; worst \
             target {:.3} beside {:.3}, mean {:.3} beside {:.3}",
            points.len(),
            wants.len(),
            lowest(&found),
            lowest(&tied_best),
            found.iter().sum::<f64>() / found.len() as f64,
            tied_best.iter().sum::<f64>() / tied_best.len() as f64,
        );
    }
    Ok(())
}

/// Per target, the highest value among some points.
fn best(
    surface: &Surface,
    problem: &Problem,
    wants: &[Vec<Option<Level>>],
    points: impl Iterator<Item = Point>,
) -> anyhow::Result<Vec<f64>> {
    let mut best = vec![0.0f64; wants.len()];
    for point in points {
        let log_probs = surface.log_probs_at(&point);
        let rates = problem
            .rates(&Measured { point: &point, log_probs: &log_probs, judged: None })
            .ok_or_else(|| anyhow::anyhow!("point {point} has no rates"))?;
        best.iter_mut().zip(wants).for_each(|(best, wanted)| *best = best.max(problem.value(wanted, &rates)));
    }
    Ok(best)
}
