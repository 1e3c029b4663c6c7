//! What a replay prints.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use avsweep_domain::{Aggregate, Levels, Point, Strategy};
use avsweep_search::DomainShape;
use avsweep_search::honesty::Convergence;
use avsweep_search::record::RecordedGrid;
use avsweep_search::replay::{Regret, Truth};
use serde::Serialize;

use super::search::Run;
use crate::arguments::{ReplayArguments, RungArgument};
use crate::output::{Table, human_duration};

/// Numbers of evaluations after which the regret is shown, unless others are asked for.
const MILESTONES: [u64; 14] = [10, 27, 40, 64, 81, 100, 139, 200, 300, 500, 700, 1000, 2000, 5000];

/// Runs of a strategy on a grid, and what they are held against.
pub(super) struct Replayed<'a> {
    pub arguments: &'a ReplayArguments,
    pub grid: &'a RecordedGrid,
    pub strategy: &'a Strategy,
    pub truth: &'a Truth,
    /// In the grid's order.
    pub points: &'a [Point],
    /// By their seeds.
    pub runs: &'a [(u64, Run)],
}

/// A replay's outcome.
#[derive(Serialize)]
pub(super) struct ReplayOutput {
    grid: PathBuf,
    points: usize,
    coefficients: Vec<String>,
    levels: Levels,
    domains: Vec<DomainShape>,
    rung: &'static str,
    strategy: Strategy,
    aggregate: Aggregate,
    in_flight: u16,
    /// Over all runs; one that has ended keeps what it has found.
    regret: Vec<RegretOutput>,
    targets: Vec<TargetOutput>,
    runs: Vec<RunOutput>,
}

/// Regret after some evaluations, over all runs.
#[derive(Serialize)]
struct RegretOutput {
    evaluations: u64,
    /// Runs that have not ended before.
    runs: usize,
    /// The worst target's regret.
    worst_median: f64,
    worst_highest: f64,
    /// The mean over all targets.
    mean_median: f64,
    mean_highest: f64,
    /// Targets that equal the grid's best.
    equal_median: usize,
    equal_lowest: usize,
    /// What a sweep would expect of itself; of one run only, and of few evaluations.
    expected_worst: Option<f64>,
    expected_mean: Option<f64>,
}

#[derive(Serialize)]
struct TargetOutput {
    target: String,
    /// The best value of the whole grid.
    best: f64,
    /// Runs that found a point with that value.
    equal: usize,
    /// What each run found, in their order.
    found: Vec<FoundOutput>,
}

#[derive(Serialize)]
struct FoundOutput {
    point: String,
    value: f64,
    regret: f64,
}

#[derive(Serialize)]
struct RunOutput {
    seed: u64,
    evaluations: usize,
    /// After how many evaluations every target equalled the grid's best.
    all_equal_after: Option<usize>,
    deciding_seconds: f64,
    /// The points visited, in order.
    points: Vec<String>,
    /// After each of them: the worst target's regret, the mean over all targets, and targets that equal the grid's best.
    worst_regret: Vec<f64>,
    mean_regret: Vec<f64>,
    targets_equal: Vec<usize>,
}

impl ReplayOutput {
    /// Of these runs; `expected` is what the only run would expect after some evaluations.
    pub(super) fn new(replayed: &Replayed<'_>, expected: impl Fn(usize) -> Option<Convergence>) -> Self {
        let Replayed { arguments, grid, strategy, truth, points, runs } = *replayed;
        let curves: Vec<Vec<Regret>> = runs.iter().map(|(_, run)| truth.regrets(&run.visited)).collect();
        let longest = curves.iter().map(Vec::len).max().unwrap_or(0) as u64;
        let mut shown: Vec<u64> =
            if arguments.at.is_empty() { MILESTONES.to_vec() } else { arguments.at.clone() };
        shown.retain(|evaluations| *evaluations < longest);
        shown.push(longest);
        shown.sort_unstable();
        shown.dedup();
        let names: Vec<&str> = grid.domains().iter().map(|domain| domain.name.as_str()).collect();
        let targets = truth.targets().iter().enumerate().map(|(index, target)| {
            let found = runs.iter().filter_map(|(_, run)| truth.found(index, &run.visited));
            TargetOutput {
                target: target.display(&names, grid.levels()).to_string(),
                best: truth.best()[index],
                equal: found.clone().filter(|(_, value)| truth.is_best(index, *value)).count(),
                found: found
                    .map(|(place, value)| FoundOutput {
                        point: points[place].to_string(),
                        value,
                        regret: truth.best()[index] - value,
                    })
                    .collect(),
            }
        });
        let aggregate = match strategy {
            Strategy::Bayesian(settings) => settings.aggregate,
            _ => Aggregate::default(),
        };
        Self {
            grid: arguments.grid.clone(),
            points: grid.points(),
            coefficients: grid
                .space()
                .coefficients()
                .iter()
                .map(|coefficient| coefficient.name.clone())
                .collect(),
            levels: grid.levels().clone(),
            domains: grid.domains().to_vec(),
            rung: match arguments.rung {
                RungArgument::Likelihood => "likelihood",
                RungArgument::Judgement => "judgement",
            },
            strategy: strategy.clone(),
            aggregate: arguments.aggregate.unwrap_or(aggregate),
            in_flight: arguments.in_flight,
            regret: shown
                .into_iter()
                .filter_map(|evaluations| regret(evaluations, &curves, &expected))
                .collect(),
            targets: targets.collect(),
            runs: runs
                .iter()
                .zip(&curves)
                .map(|((seed, run), curve)| RunOutput {
                    seed: *seed,
                    evaluations: run.visited.len(),
                    all_equal_after: curve
                        .iter()
                        .position(|regret| regret.equal == truth.targets().len())
                        .map(|index| index + 1),
                    deciding_seconds: run.deciding.as_secs_f64(),
                    points: run.visited.iter().map(|place| points[*place].to_string()).collect(),
                    worst_regret: curve.iter().map(|regret| regret.worst).collect(),
                    mean_regret: curve.iter().map(|regret| regret.mean).collect(),
                    targets_equal: curve.iter().map(|regret| regret.equal).collect(),
                })
                .collect(),
        }
    }

    /// For people.
    ///
    /// # Errors
    /// When `out` cannot be written.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let several = self.runs.len() > 1;
        self.regret_table(several).write(out)?;
        writeln!(out)?;
        self.target_table(several).write(out)?;
        let all_equal: Vec<usize> = self.runs.iter().filter_map(|run| run.all_equal_after).collect();
        let count = self.targets.len();
        let reached = match (all_equal.iter().max(), several) {
            (None, _) => format!("not all {count} targets equal the grid's best"),
            (Some(last), false) => {
                format!("all {count} targets equal the grid's best after {last} evaluations")
            }
            (Some(last), true) => format!(
                "all {count} targets equal the grid's best in {} of {} runs, the latest after {last} evaluations",
                all_equal.len(),
                self.runs.len()
            ),
        };
        let evaluations: usize = self.runs.iter().map(|run| run.evaluations).sum();
        let deciding: f64 = self.runs.iter().map(|run| run.deciding_seconds).sum();
        writeln!(
            out,
            "{}: {reached}. {} of the grid's {} points measured{}; decisions took {}{}. {}Values are the {} over the \
             domains of the wanted level's rate on the search queries ({} rung).",
            self.strategy.kind(),
            evaluations / self.runs.len().max(1),
            self.points,
            if several { " a run" } else { "" },
            human_duration(Duration::from_secs_f64(deciding / self.runs.len().max(1) as f64)),
            if several { " a run" } else { "" },
            if several {
                "Regrets are medians over the runs, beside the worst one's. "
            } else {
                "Expected is what a sweep would say of itself, knowing only what it has measured. "
            },
            self.aggregate,
            self.rung,
        )
    }

    fn regret_table(&self, several: bool) -> Table {
        let equal = |count: usize| format!("{count} of {}", self.targets.len());
        if several {
            let mut table = Table::new([
                "evaluations",
                "worst regret",
                "(worst run)",
                "mean regret",
                "(worst run)",
                "equal",
                "(worst run)",
            ]);
            for row in &self.regret {
                table.row([
                    row.evaluations.to_string(),
                    three(row.worst_median),
                    three(row.worst_highest),
                    three(row.mean_median),
                    three(row.mean_highest),
                    equal(row.equal_median),
                    equal(row.equal_lowest),
                ]);
            }
            return table;
        }
        let mut table = Table::new([
            "evaluations",
            "worst regret",
            "expected",
            "mean regret",
            "expected",
            "equal to the grid's best",
        ]);
        let expected = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), three);
        for row in &self.regret {
            table.row([
                row.evaluations.to_string(),
                three(row.worst_median),
                expected(row.expected_worst),
                three(row.mean_median),
                expected(row.expected_mean),
                equal(row.equal_median),
            ]);
        }
        table
    }

    fn target_table(&self, several: bool) -> Table {
        let coefficients = self.coefficients.join(",");
        if several {
            let mut table = Table::new(["target", "grid's best", "runs equal to it", "highest regret"]);
            for target in &self.targets {
                let highest = target.found.iter().map(|found| found.regret).fold(0.0, f64::max);
                let equal = format!("{} of {}", target.equal, self.runs.len());
                table.row([target.target.clone(), three(target.best), equal, three(highest)]);
            }
            return table;
        }
        let mut table = Table::new(["target", coefficients.as_str(), "found", "grid's best", "regret"]);
        for target in &self.targets {
            for found in &target.found {
                table.row([
                    target.target.clone(),
                    found.point.clone(),
                    three(found.value),
                    three(target.best),
                    three(found.regret),
                ]);
            }
        }
        table
    }
}

/// `None` when there is no run.
fn regret(
    evaluations: u64,
    curves: &[Vec<Regret>],
    expected: impl Fn(usize) -> Option<Convergence>,
) -> Option<RegretOutput> {
    let place = usize::try_from(evaluations).unwrap_or(usize::MAX);
    let after: Vec<Regret> = curves
        .iter()
        .filter_map(|curve| curve.get(place.min(curve.len()).checked_sub(1)?))
        .copied()
        .collect();
    let sorted = |of: fn(&Regret) -> f64| {
        let mut numbers: Vec<f64> = after.iter().map(of).collect();
        numbers.sort_by(f64::total_cmp);
        numbers
    };
    let median = |numbers: &[f64]| (numbers[(numbers.len() - 1) / 2] + numbers[numbers.len() / 2]) / 2.0;
    let mut equal: Vec<usize> = after.iter().map(|regret| regret.equal).collect();
    equal.sort_unstable();
    let (worst, mean) = (sorted(|regret| regret.worst), sorted(|regret| regret.mean));
    let expected = expected(place);
    Some(RegretOutput {
        evaluations,
        runs: curves.iter().filter(|curve| curve.len() >= place).count(),
        worst_highest: *worst.last()?,
        worst_median: median(&worst),
        mean_highest: *mean.last()?,
        mean_median: median(&mean),
        // Of an even number the lower one of the middle two.
        equal_median: equal[(equal.len() - 1) / 2],
        equal_lowest: *equal.first()?,
        expected_worst: expected.map(|expected| expected.expected_worst),
        expected_mean: expected.map(|expected| expected.expected_mean),
    })
}

/// Three decimals, without the sign of a zero.
fn three(value: f64) -> String {
    let text = format!("{value:.3}");
    if text == "-0.000" { "0.000".to_owned() } else { text }
}
