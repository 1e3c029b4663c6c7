//! Searches replayed on recorded grids and synthetic surfaces; see the folder's README.

mod dump;
mod import;
mod judged;
mod layers;
mod replay;
mod summary;

use std::path::PathBuf;

use anyhow::bail;
use avsweep_domain::{BayesianSettings, HierarchicalSettings, SequenceSettings, Strategy};
use avsweep_search::SearchRung;
use avsweep_search::record::{DEFAULT_QUANTUM, RecordedGrid};
use avsweep_search::replay::Truth;
use avsweep_search::strategy::Problem;
use avsweep_search::surface::catalogue;
use clap::{Args, Parser, Subcommand, ValueEnum};
use rayon::prelude::*;

use replay::Replay;

#[derive(Parser)]
#[command(about = "Searches replayed on recorded grids and synthetic surfaces")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a recorded grid of `avsweep export --format csv`.
    Import {
        /// The exported file.
        csv: PathBuf,
        /// The grid to write.
        grid: PathBuf,
        /// Nats that log-probabilities are rounded to.
        #[arg(long, default_value_t = DEFAULT_QUANTUM)]
        quantum: f64,
    },
    /// Writes every target's value at every grid point, for searches in other languages.
    Dump {
        /// A recorded grid, or a surface's name, or `surfaces` for all.
        grid: String,
        /// The folder to write to.
        folder: PathBuf,
    },
    /// Replays a strategy.
    Replay(ReplayArguments),
    /// Replays `bayesian` on judged outcomes.
    Judged {
        /// Recorded grids, surfaces' names, or `surfaces` for all of these.
        #[arg(required = true)]
        grids: Vec<String>,
        /// Evaluations.
        #[arg(long, default_value_t = 139)]
        budget: u32,
        /// Seeds, from 0.
        #[arg(long, default_value_t = 20)]
        seeds: u64,
        /// Evaluations that figures are printed for.
        #[arg(long, value_delimiter = ',', default_value = "64,100,139")]
        at: Vec<usize>,
    },
    /// Nine coefficients (three vectors by three groups of layers) beside the full grid of three.
    Layers {
        /// Evaluations.
        #[arg(long, default_value_t = 300)]
        budget: u32,
        /// Seeds, from 0.
        #[arg(long, default_value_t = 3)]
        seeds: u64,
        /// The search stops when it expects less, over all targets together, from the next point.
        #[arg(long, default_value_t = BayesianSettings::default().min_gain)]
        min_gain: f64,
    },
}

#[derive(Args)]
struct ReplayArguments {
    /// Recorded grids, surfaces' names, or `surfaces` for all of these.
    #[arg(required = true)]
    grids: Vec<String>,
    /// The strategy.
    #[arg(long, value_enum, default_value_t = Kind::Bayesian)]
    strategy: Kind,
    /// Evaluations, at most: 81, or no limit for `hierarchical`.
    #[arg(long)]
    budget: Option<u32>,
    /// Seeds, from 0.
    #[arg(long, default_value_t = 20)]
    seeds: u64,
    /// Points of `bayesian`'s design.
    #[arg(long)]
    initial: Option<u32>,
    /// Where `bayesian` stops; 0 goes on to the budget.
    #[arg(long)]
    min_gain: Option<f64>,
    /// Evaluations that figures are printed for.
    #[arg(long, value_delimiter = ',', default_value = "27,40,50,64,81")]
    at: Vec<usize>,
    /// The surfaces' seed: another one draws others of the same shapes.
    #[arg(long, default_value_t = 0)]
    catalogue: u64,
    /// Every seed's regret after every evaluation, as CSV.
    #[arg(long)]
    csv: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Bayesian,
    Hierarchical,
    Random,
    Sobol,
}

impl ReplayArguments {
    fn strategy(&self, seed: u64) -> Strategy {
        let usual = BayesianSettings::default();
        let budget = self.budget.unwrap_or(usual.budget);
        match self.strategy {
            Kind::Bayesian => Strategy::Bayesian(BayesianSettings {
                budget,
                initial: self.initial,
                min_gain: self.min_gain.unwrap_or(usual.min_gain),
                seed,
                ..usual
            }),
            Kind::Hierarchical => Strategy::Hierarchical(HierarchicalSettings {
                budget: self.budget,
                ..HierarchicalSettings::default()
            }),
            Kind::Random => Strategy::Random(SequenceSettings { budget, seed }),
            Kind::Sobol => Strategy::Sobol(SequenceSettings { budget, seed }),
        }
    }

    /// `hierarchical` draws nothing.
    fn seeds(&self) -> u64 {
        if self.strategy == Kind::Hierarchical { 1 } else { self.seeds }
    }
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Import { csv, grid, quantum } => {
            let recorded = import::import(&csv)?;
            recorded.write(&grid, quantum)?;
            println!("{} points, {} bytes", recorded.points(), std::fs::metadata(&grid)?.len());
        }
        Command::Dump { grid, folder } => {
            for (name, recorded) in grids(&grid, 0)? {
                dump::dump(&name, &recorded, &folder)?;
            }
        }
        Command::Replay(arguments) => {
            let mut rows = Vec::new();
            for (name, grid) in arguments
                .grids
                .iter()
                .map(|name| grids(name, arguments.catalogue))
                .collect::<anyhow::Result<Vec<_>>>()?
                .into_iter()
                .flatten()
            {
                let problem = |seed| problem(&grid, arguments.strategy(seed), SearchRung::Likelihood);
                let truth = Truth::new(&grid, &problem(0)?)?;
                let runs = (0..arguments.seeds()).into_par_iter().map(|seed| {
                    let replay = Replay::new(&grid, &problem(seed)?)?;
                    Ok(summary::Run { regrets: truth.regrets(&replay.visited), replay })
                });
                let runs = runs.collect::<anyhow::Result<Vec<_>>>()?;
                summary::print(&name, &runs, truth.targets().len(), &arguments.at);
                rows.push((name, runs));
            }
            if let Some(path) = &arguments.csv {
                summary::write_csv(path, &format!("{:?}", arguments.strategy).to_lowercase(), &rows)?;
            }
        }
        Command::Judged { grids, budget, seeds, at } => judged::run(&grids, budget, seeds, &at)?,
        Command::Layers { budget, seeds, min_gain } => layers::run(budget, seeds, min_gain)?,
    }
    Ok(())
}

fn problem(grid: &RecordedGrid, strategy: Strategy, rung: SearchRung) -> anyhow::Result<Problem> {
    Ok(Problem::new(grid.space().clone(), grid.levels(), grid.domains().to_vec(), strategy, rung)?)
}

/// A recorded grid from its file, or the full grids of surfaces.
fn grids(name: &str, seed: u64) -> anyhow::Result<Vec<(String, RecordedGrid)>> {
    if name.ends_with(".avgrid") {
        let stem = std::path::Path::new(name).file_stem().map_or(name.into(), |stem| stem.to_string_lossy());
        return Ok(vec![(stem.into_owned(), RecordedGrid::read(name.as_ref())?)]);
    }
    let surfaces = catalogue(seed);
    let wanted = surfaces.iter().filter(|surface| name == "surfaces" || surface.name() == name);
    let grids =
        wanted.map(|surface| Ok((surface.name().to_owned(), surface.record(&surface.space(20)?, false)?)));
    let grids = grids.collect::<anyhow::Result<Vec<_>>>()?;
    if grids.is_empty() {
        let known: Vec<&str> = surfaces.iter().map(avsweep_search::surface::Surface::name).collect();
        bail!("'{name}' is neither an .avgrid file nor a surface; surfaces: {}", known.join(", "));
    }
    Ok(grids)
}
