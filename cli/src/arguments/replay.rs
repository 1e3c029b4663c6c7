//! Arguments of `avsweep replay`.

use std::path::PathBuf;

use avsweep_domain::Aggregate;
use clap::{ArgGroup, Args, ValueEnum};

/// Strategies, as sweep files call them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StrategyArgument {
    /// A model of what was measured; the points that promise most over all targets.
    Bayesian,
    /// Coarse to fine around the leaders of every target.
    Hierarchical,
    /// Grid points drawn evenly at random.
    Random,
    /// Grid points along a scrambled Sobol sequence.
    Sobol,
    /// Every point.
    Grid,
}

/// What a search chooses points by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RungArgument {
    /// Which reference is most probable.
    Likelihood,
    /// The judged levels, where the grid has them.
    Judgement,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArguments {
    /// The recorded grid, from `avsweep export --format grid`.
    #[arg(value_name = "GRID")]
    pub grid: PathBuf,
    #[command(flatten)]
    pub strategy: StrategyFlags,
    /// Runs with so many seeds, from --seed on.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub seeds: u64,
    /// A level for every domain: medical=expert,legal=avoidance,financial=generic. Also =any, =base. Repeatable.
    /// Default: every combination of levels.
    #[arg(long = "target", value_name = "TARGET")]
    pub targets: Vec<String>,
    /// How a target's domains are summed up: min, mean or product. Default: the strategy's, else min.
    #[arg(long, value_name = "min|mean|product")]
    pub aggregate: Option<Aggregate>,
    /// What points are chosen by.
    #[arg(long, value_enum, default_value_t = RungArgument::Likelihood)]
    pub rung: RungArgument,
    /// Evaluations in flight at once: as many workers with one job each.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub in_flight: u16,
    /// Numbers of evaluations after which the regret is shown: 27,64,81.
    #[arg(long, value_delimiter = ',', value_name = "N,…", value_parser = clap::value_parser!(u64).range(1..))]
    pub at: Vec<u64>,
}

/// A strategy and its settings; those that are given go before those of the file.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("search").required(true))]
pub(crate) struct StrategyFlags {
    /// The strategy.
    #[arg(long, value_enum, group = "search")]
    pub strategy: Option<StrategyArgument>,
    /// A YAML or JSON file with what a sweep file has under `strategy`: {kind: bayesian, budget: 81}.
    #[arg(long, value_name = "FILE", group = "search")]
    pub strategy_file: Option<PathBuf>,
    /// No more evaluations than this. Default: 81 for bayesian, 200 for random and sobol, else no limit.
    #[arg(long, value_name = "N")]
    pub budget: Option<u32>,
    /// Another seed makes another search (bayesian, random, sobol). Default: 0.
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// bayesian: points spread over the space before the model is asked.
    #[arg(long, value_name = "N")]
    pub initial: Option<u32>,
    /// bayesian: stop when the next point is expected to gain less, summed over all targets; 0 goes on to the budget.
    #[arg(long, value_name = "RATE")]
    pub min_gain: Option<f64>,
    /// hierarchical: rounds, the coarse one included.
    #[arg(long, value_name = "N")]
    pub levels: Option<u32>,
    /// hierarchical: by how much the step shrinks from round to round.
    #[arg(long, value_name = "N")]
    pub factor: Option<u32>,
    /// hierarchical: how many steps around a leader are measured.
    #[arg(long, value_name = "N")]
    pub width: Option<u32>,
    /// hierarchical: leaders per target.
    #[arg(long, value_name = "N")]
    pub leaders: Option<u32>,
}
