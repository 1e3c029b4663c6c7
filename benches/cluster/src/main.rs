//! Jobs leased and reported per second on PostgreSQL, as results grow, beside Optuna's trials per second on the same
//! server; and many workers at once.
//!
//! Everything but the evaluation is real: a PostgreSQL server with durable commits, coordinators that serve gRPC on
//! loopback with planner and reaper, workers with a TCP connection each. Every window runs on a fresh copy of a database
//! that holds the wanted number of results, and the sizes (and Optuna) take turns, so that a machine that grows slower
//! for a while does so for all of them.

mod coordinators;
mod databases;
mod definition;
mod load;
mod output;
mod peer;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};

use coordinators::Coordinators;
use databases::Databases;
use load::Load;
use output::{Crowd, Figures, Size};

const CROWD_WINDOW: Duration = Duration::from_secs(20);
/// How long the crowd needs until its members no longer ask in step.
const CROWD_SETTLES: Duration = Duration::from_secs(4);

/// Measures jobs leased and reported per second on PostgreSQL.
#[derive(Debug, Parser)]
struct Arguments {
    /// Query results stored beforehand, each a size to measure at.
    #[arg(long, value_delimiter = ',', default_value = "0,100000,1000000")]
    stored: Vec<u64>,
    /// Coordinators on the one database.
    #[arg(long, default_value_t = 1)]
    coordinators: usize,
    /// Workers at once.
    #[arg(long, default_value_t = 16)]
    workers: usize,
    /// Jobs that a worker asks for at a time.
    #[arg(long, default_value_t = 4)]
    jobs_per_lease: u32,
    /// Windows per size.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of a window that are counted.
    #[arg(long, default_value_t = 4.0)]
    window: f64,
    /// Seconds before them that are not.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Workers of the crowd that is measured at the last size; 0 leaves it out.
    #[arg(long, default_value_t = 200)]
    crowd: usize,
    /// Milliseconds that an evaluation of the crowd takes on average.
    #[arg(long, default_value_t = 1000)]
    crowd_evaluation: u64,
    /// Python with Optuna and psycopg2, to measure Optuna on the same server.
    #[arg(long, value_name = "PYTHON")]
    optuna: Option<PathBuf>,
    /// Optuna's processes.
    #[arg(long, default_value_t = 16)]
    optuna_processes: usize,
    /// Rounds in which Optuna takes part.
    #[arg(long, default_value_t = 3)]
    optuna_rounds: usize,
    /// Use this running server instead of a private one (a URL of a role that may make databases).
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// How the figures are printed.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Table,
    Json,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(!arguments.stored.is_empty(), "--stored: at least one size is wanted");
    ensure!(arguments.coordinators > 0, "--coordinators: at least 1 is wanted");
    let databases = Databases::start(arguments.server.clone()).await?;
    let figures = measure(&arguments, &databases).await?;
    match arguments.output {
        Output::Table => print!("{figures}"),
        Output::Json => println!("{}", figures.json()),
    }
    Ok(())
}

async fn measure(arguments: &Arguments, databases: &Databases) -> Result<Figures> {
    let window = Load {
        workers: arguments.workers,
        jobs_per_lease: arguments.jobs_per_lease,
        evaluation: Duration::ZERO,
        warm_up: Duration::from_secs_f64(arguments.warm_up),
        window: Duration::from_secs_f64(arguments.window),
    };
    let mut sizes = Vec::new();
    for stored in &arguments.stored {
        eprintln!("filling a database with {stored} results");
        let template = format!("stored_{stored}");
        let url = databases.create(&template).await?;
        let stored = coordinators::fill(&url, *stored).await?;
        databases.settle(&template).await?;
        sizes.push(Size { template, stored, windows: vec![] });
    }

    let mut optuna = Vec::new();
    for round in 0..arguments.rounds {
        if let Some(python) = &arguments.optuna
            && round < arguments.optuna_rounds
        {
            let url = databases.create("peer").await?;
            optuna.push(peer::run(python, &url, arguments.optuna_processes, arguments.window).await?);
            databases.drop("peer").await?;
            eprintln!("round {round}: optuna, {:.1} trials/s", optuna[round].trials_per_second);
        }
        for size in &mut sizes {
            let outcome = on_copy(arguments.coordinators, databases, &size.template, window).await?;
            eprintln!("round {round}: {} results stored, {:.0} jobs/s", size.stored, outcome.rate());
            size.windows.push(outcome);
        }
    }

    let mut crowds = Vec::new();
    if let (Some(size), 1..) = (sizes.last(), arguments.crowd) {
        // First all of them ask at the same moment, and that counts; then only what comes later does.
        for warm_up in [Duration::ZERO, CROWD_SETTLES] {
            let load = Load {
                workers: arguments.crowd,
                jobs_per_lease: 1,
                evaluation: Duration::from_millis(arguments.crowd_evaluation),
                warm_up,
                window: CROWD_WINDOW,
            };
            let outcome = on_copy(arguments.coordinators, databases, &size.template, load).await?;
            crowds.push(Crowd { load, stored: size.stored, outcome });
        }
    }
    Ok(Figures { workers: arguments.workers, coordinators: arguments.coordinators, sizes, optuna, crowds })
}

/// Lets workers loose on a fresh copy of a database.
async fn on_copy(
    coordinators: usize,
    databases: &Databases,
    template: &str,
    load: Load,
) -> Result<load::Outcome> {
    let url = databases.copy(template, "measured").await?;
    let coordinators = Coordinators::start(&url, coordinators).await?;
    let outcome = load::run(load, coordinators.urls()).await;
    coordinators.stop().await?;
    databases.drop("measured").await?;
    outcome
}
