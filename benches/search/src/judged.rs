//! The judged rung on recorded grids and synthetic surfaces, whose responses are drawn from known probabilities.

use avsweep_domain::{BayesianSettings, Point, Strategy};
use avsweep_search::SearchRung;
use avsweep_search::honesty::assurances;
use avsweep_search::record::{GridBuilder, RecordedGrid};
use avsweep_search::strategy::{History, Problem};
use avsweep_search::surface::{SoftmaxJudge, catalogue};
use rayon::prelude::*;

use crate::replay::Replay;

/// Of the surfaces' judges.
const TEMPERATURE: f64 = 0.15;

/// Replays with every response drawn once per point, and prints the worst target's true regret in the median seed and in
/// the worst.
pub(crate) fn run(grids: &[String], budget: u32, seeds: u64, at: &[usize]) -> anyhow::Result<()> {
    let grids = grids.iter().map(|name| crate::grids(name, 0)).collect::<anyhow::Result<Vec<_>>>()?;
    for (name, grid) in grids.into_iter().flatten() {
        let surface = catalogue(0).into_iter().find(|surface| surface.name() == name);
        let judge = surface.map_or_else(|| usual(&grid), |surface| surface.judge());
        let grid = judged(&grid, &judge)?;
        let problem = |seed| {
            let settings = BayesianSettings { budget, seed, min_gain: 0.0, ..BayesianSettings::default() };
            crate::problem(&grid, Strategy::Bayesian(settings), SearchRung::Judgement)
        };
        let truth = JudgedTruth::new(&judge, &grid, &problem(0)?);
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
        print!("{name:20}");
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

/// The judge of a grid that is no surface's: as those of the surfaces.
fn usual(grid: &RecordedGrid) -> SoftmaxJudge {
    SoftmaxJudge { levels: grid.levels().len(), temperature: TEMPERATURE, seed: 0 }
}

/// A grid with judged responses.
fn judged(grid: &RecordedGrid, judge: &SoftmaxJudge) -> anyhow::Result<RecordedGrid> {
    let levels = grid.levels().clone();
    let mut builder = GridBuilder::new(grid.space().clone(), levels, grid.domains().to_vec())?;
    for (index, point) in grid.space().grid().enumerate() {
        let log_probs = grid.log_probs(index);
        builder.add(&point, log_probs, Some(&judge.judged(log_probs, index as u64)))?;
    }
    Ok(builder.build()?)
}

/// Every target's true value at every grid point: of rates that infinitely many responses would have.
pub(crate) struct JudgedTruth {
    values: Vec<Vec<f64>>,
    best: Vec<f64>,
}

impl JudgedTruth {
    pub(crate) fn new(judge: &SoftmaxJudge, grid: &RecordedGrid, problem: &Problem) -> Self {
        let wants = problem.wants(&History::default());
        let mut values = vec![Vec::with_capacity(grid.points()); wants.len()];
        for point in 0..grid.points() {
            let probabilities = judge.probabilities(grid.log_probs(point));
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
