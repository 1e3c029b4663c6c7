//! The judged rung on synthetic surfaces, where the true probabilities of the levels are known.

use avsweep_domain::{BayesianSettings, Point, Strategy};
use avsweep_search::SearchRung;
use avsweep_search::honesty::assurances;
use avsweep_search::record::RecordedGrid;
use avsweep_search::strategy::{History, Problem};
use avsweep_search::surface::{Surface, catalogue};
use rayon::prelude::*;

use crate::replay::Replay;

/// Replays with every response drawn once per point, and prints the worst target's true regret in the median seed and in
/// the worst.
pub(crate) fn run(surface: Option<&str>, budget: u32, seeds: u64, at: &[usize]) -> anyhow::Result<()> {
    for known in catalogue(0).iter().filter(|known| surface.is_none_or(|name| known.name() == name)) {
        let grid = known.record(&known.space(20)?, true)?;
        let problem = |seed| {
            let settings = BayesianSettings { budget, seed, min_gain: 0.0, ..BayesianSettings::default() };
            crate::problem(&grid, Strategy::Bayesian(settings), SearchRung::Judgement)
        };
        let truth = JudgedTruth::new(known, &grid, &problem(0)?);
        let runs = (0..seeds).into_par_iter().map(|seed| {
            let problem = problem(seed)?;
            let replay = Replay::new(&grid, &problem)?;
            let regret = |evaluations: &usize| {
                truth.worst_regret(
                    &grid,
                    &problem,
                    &replay.visited[..(*evaluations).min(replay.visited.len())],
                )
            };
            Ok((at.iter().map(regret).collect::<anyhow::Result<_>>()?, replay))
        });
        let runs: Vec<(Vec<f64>, Replay)> = runs.collect::<anyhow::Result<_>>()?;
        print!("{:20}", known.name());
        for (place, evaluations) in at.iter().enumerate() {
            let mut regrets: Vec<f64> = runs.iter().map(|(regrets, _)| regrets[place]).collect();
            regrets.sort_by(f64::total_cmp);
            print!(" | {evaluations}: {:.3}, {:.3}", regrets[regrets.len() / 2], regrets[regrets.len() - 1]);
        }
        let decisions: usize = runs.iter().map(|(_, replay)| replay.visited.len()).sum();
        let deciding: f64 = runs.iter().map(|(_, replay)| replay.deciding.as_secs_f64()).sum();
        println!(" | {:.0} ms a decision", 1e3 * deciding / decisions.max(1) as f64);
    }
    Ok(())
}

/// Every target's true value at every grid point: of rates that infinitely many responses would have.
pub(crate) struct JudgedTruth {
    values: Vec<Vec<f64>>,
    best: Vec<f64>,
}

impl JudgedTruth {
    pub(crate) fn new(surface: &Surface, grid: &RecordedGrid, problem: &Problem) -> Self {
        let wants = problem.wants(&History::default());
        let mut values = vec![Vec::with_capacity(grid.points()); wants.len()];
        for point in 0..grid.points() {
            let probabilities = surface.judged_probabilities(grid.log_probs(point));
            let mut queries = probabilities.chunks_exact(problem.levels());
            let mut rates = Vec::new();
            for shape in problem.domains() {
                let mut sums = vec![0.0; problem.levels()];
                for query in queries.by_ref().take(shape.queries) {
                    sums.iter_mut().zip(query).for_each(|(sum, p)| *sum += p / shape.queries as f64);
                }
                rates.extend(sums);
            }
            values
                .iter_mut()
                .zip(&wants)
                .for_each(|(values, wanted)| values.push(problem.value(wanted, &rates)));
        }
        let best = values.iter().map(|values| values.iter().copied().fold(0.0, f64::max)).collect();
        Self { values, best }
    }

    /// The worst target's true regret, when each target's point is chosen among the visited by its expected value.
    pub(crate) fn worst_regret(
        &self,
        grid: &RecordedGrid,
        problem: &Problem,
        visited: &[usize],
    ) -> anyhow::Result<f64> {
        let points: Vec<Point> = visited
            .iter()
            .map(|place| {
                grid.space().grid_point(*place as u64).ok_or_else(|| anyhow::anyhow!("no point {place}"))
            })
            .collect::<anyhow::Result<_>>()?;
        let measured: Vec<_> = points.iter().filter_map(|point| grid.measured(point)).collect();
        let answers =
            assurances(problem, &measured).ok_or_else(|| anyhow::anyhow!("no model of the judged points"))?;
        let regrets =
            answers.iter().zip(self.values.iter().zip(&self.best)).map(|(answer, (values, best))| {
                grid.index(&answer.chosen).map_or(1.0, |place| best - values[place])
            });
        Ok(regrets.fold(0.0, f64::max))
    }
}
