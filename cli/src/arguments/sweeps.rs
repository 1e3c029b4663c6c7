//! Arguments of the verbs on sweeps, jobs and workers.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{CacheArguments, ConnectionArguments};

#[derive(Debug, Args)]
pub(crate) struct SweepArguments {
    #[command(flatten)]
    pub connection: ConnectionArguments,
    #[command(subcommand)]
    pub command: SweepCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SweepCommand {
    /// Create a sweep from its file; one that is there already is found.
    Create(CreateArguments),
    /// Every sweep.
    Ls,
    /// One sweep: what it is and how far it is.
    Show {
        /// Its name, number or file.
        sweep: String,
    },
    /// Follow a sweep until it is done: points, rate, time left, workers, failures, judge queue.
    Watch {
        /// Its name, number or file.
        sweep: String,
    },
    /// Hand out no more of its jobs; what is held is finished.
    Pause {
        /// Its name, number or file.
        sweep: String,
    },
    /// Go on with a paused sweep.
    Resume {
        /// Its name, number or file.
        sweep: String,
    },
    /// Stop a sweep for good; its results stay.
    Cancel {
        /// Its name, number or file.
        sweep: String,
    },
    /// Delete a done or cancelled sweep, and the results that no other sweep has.
    Rm {
        /// Its name, number or file.
        sweep: String,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
    /// Change a sweep's priority: jobs of a higher one always go first, equal ones share.
    Priority {
        /// Its name, number or file.
        sweep: String,
        /// 0 is usual.
        #[arg(allow_negative_numbers = true)]
        priority: i32,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CreateArguments {
    /// The sweep file (YAML). Workers open the model files it names: by the same paths, or from s3://….
    pub file: PathBuf,
    /// Higher goes first; equal ones share.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_name = "N")]
    pub priority: i32,
    /// Follow it until it is done.
    #[arg(long)]
    pub watch: bool,
    #[command(flatten)]
    pub cache: CacheArguments,
}

#[derive(Debug, Args)]
pub(crate) struct WorkersArguments {
    #[command(flatten)]
    pub connection: ConnectionArguments,
    #[command(subcommand)]
    pub command: WorkersCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum WorkersCommand {
    /// Workers and judges: state, device, job, rate, last seen, failures.
    Ls {
        /// Also those that ended in order.
        #[arg(long)]
        all: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct JobsArguments {
    #[command(flatten)]
    pub connection: ConnectionArguments,
    #[command(subcommand)]
    pub command: JobsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum JobsCommand {
    /// Jobs in the order of their numbers.
    Ls(ListJobsArguments),
    /// Make failed jobs ready again with their counts at zero.
    Retry {
        /// The sweep's name, number or file.
        sweep: String,
        /// The jobs' numbers. Default: all that failed.
        jobs: Vec<i64>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ListJobsArguments {
    /// The sweep's name, number or file. Default: every sweep.
    pub sweep: Option<String>,
    /// Only those that failed for good, with their reasons; the same as --state failed.
    #[arg(long, conflicts_with = "states")]
    pub failed: bool,
    /// Only those in this state; repeatable.
    #[arg(long = "state", value_enum, value_name = "STATE")]
    pub states: Vec<JobStateArgument>,
    /// At most this many.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum JobStateArgument {
    /// Waits for a worker.
    Ready,
    /// A worker holds it.
    Leased,
    /// Finished.
    Done,
    /// Over a failure limit, parked with its reason.
    #[value(alias = "parked")]
    Failed,
    /// Closed early: its point is out of reach for every target.
    Raced,
}
