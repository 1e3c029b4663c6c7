//! `avsweep replay`: a strategy against a recorded grid, through the code that chooses points in real sweeps.

mod output;
mod search;
mod settings;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Result, ensure};
use avsweep_domain::{BayesianSettings, Point, Strategy};
use avsweep_search::SearchRung;
use avsweep_search::honesty::{Convergence, assurances};
use avsweep_search::record::RecordedGrid;
use avsweep_search::replay::{ReplayError, Truth};
use avsweep_search::strategy::{Problem, planned_points};

use crate::arguments::{Format, ReplayArguments, RungArgument};
use crate::output::{counting_bar, print};
use crate::usage::UsageError;
use output::{ReplayOutput, Replayed};
use search::Run;

/// So many points of a sequence that is known beforehand are asked for at once; what is measured changes none of them.
const SEQUENCE_BATCH: usize = 256;

/// What a sweep would expect of itself is worked out of one run, after so many evaluations at most: it takes a model each.
const MOST_EXPECTED: usize = 300;

/// `avsweep replay`
pub(super) fn run(arguments: &ReplayArguments, format: Format) -> Result<()> {
    let grid = RecordedGrid::read(&arguments.grid)?;
    let rung = match arguments.rung {
        RungArgument::Likelihood => SearchRung::Likelihood,
        RungArgument::Judgement => {
            ensure!(
                grid.is_judged(),
                "recorded grid {}: has no judged levels; export a sweep with evaluation.generation: all",
                arguments.grid.display()
            );
            SearchRung::Judgement
        }
    };
    let strategy = settings::strategy(arguments, &grid)?;
    let problem = |strategy: Strategy| {
        Problem::new(grid.space().clone(), grid.levels(), grid.domains().to_vec(), strategy, rung)
            .map_err(UsageError::from_error)
    };
    if arguments.seeds > 1 && matches!(strategy, Strategy::Grid | Strategy::Hierarchical(_)) {
        let text = format!(
            "--seeds {}: '{}' draws nothing, all its runs are the same",
            arguments.seeds,
            strategy.kind()
        );
        return Err(UsageError::new(text).into());
    }
    let judging = problem(judge(arguments, &strategy, &grid)?)?;
    let truth = Truth::new(&grid, &judging).map_err(|error| match error {
        ReplayError::BaseUnknown { .. } => UsageError::from_error(error),
        error => anyhow::Error::from(error),
    })?;
    let first = problem(strategy.clone())?;
    let limit = settings::budget(&strategy).or_else(|| planned_points(&first));
    let points: Vec<Point> = grid.space().grid().collect();
    let in_flight = match planned_points(&first) {
        Some(_) => SEQUENCE_BATCH,
        None => usize::from(arguments.in_flight),
    };
    let seeded: Vec<(u64, Problem)> = (0..arguments.seeds)
        .map(|number| {
            let seed = settings::seed(&strategy).saturating_add(number);
            Ok((seed, problem(settings::with_seed(strategy.clone(), seed))?))
        })
        .collect::<Result<_>>()?;
    let bar = counting_bar("evaluations", limit.map(|limit| limit * arguments.seeds));
    let runs =
        in_parallel(&seeded, |(seed, problem)| Ok((*seed, Run::new(&grid, problem, in_flight, &bar)?)));
    bar.finish_and_clear();
    let runs: Vec<(u64, Run)> = runs?;
    let replayed =
        Replayed { arguments, grid: &grid, strategy: &strategy, truth: &truth, points: &points, runs: &runs };
    let expected = |evaluations: usize| match runs.as_slice() {
        [(_, run)] if evaluations <= MOST_EXPECTED => {
            let measured =
                run.visited.iter().take(evaluations).filter_map(|place| grid.measured(&points[*place]));
            Convergence::of(evaluations, &assurances(&judging, &measured.collect::<Vec<_>>())?)
        }
        _ => None,
    };
    let output = ReplayOutput::new(&replayed, expected);
    print(format, &output, ReplayOutput::write)
}

/// The strategy that stands for what counts: targets and aggregate, as asked for or as the strategy has them.
fn judge(arguments: &ReplayArguments, strategy: &Strategy, grid: &RecordedGrid) -> Result<Strategy> {
    let mut counting = match strategy {
        Strategy::Bayesian(settings) => settings.clone(),
        _ => BayesianSettings {
            targets: settings::targets(&arguments.targets, grid)?,
            ..BayesianSettings::default()
        },
    };
    counting.aggregate = arguments.aggregate.unwrap_or(counting.aggregate);
    Ok(Strategy::Bayesian(counting))
}

/// Does all of it on all cores; results in order.
fn in_parallel<T: Sync, R: Send>(tasks: &[T], work: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let next = AtomicU64::new(0);
    let done: Mutex<Vec<(usize, Result<R>)>> = Mutex::new(Vec::new());
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get).min(tasks.len());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed) as usize;
                    let Some(task) = tasks.get(index) else { break };
                    let result = work(task);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}
