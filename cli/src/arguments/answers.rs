//! Arguments of the verbs that read answers: best, sample, export, report.

use std::path::PathBuf;

use avsweep_domain::{Aggregate, Normalisation, Point, Reading};
use clap::{ArgGroup, Args, ValueEnum};

use super::{ConnectionArguments, DeviceArguments};

/// Which numbers points are ranked by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReadingArgument {
    /// Likelihood rung: mean log-probability per token.
    Mean,
    /// Likelihood rung: sum of the log-probabilities.
    Sum,
    /// Likelihood rung: log-probability per byte.
    PerByte,
    /// Judgement rung.
    Judgement,
}

impl From<ReadingArgument> for Reading {
    fn from(argument: ReadingArgument) -> Self {
        match argument {
            ReadingArgument::Mean => Self::Likelihood(Normalisation::Mean),
            ReadingArgument::Sum => Self::Likelihood(Normalisation::Sum),
            ReadingArgument::PerByte => Self::Likelihood(Normalisation::PerByte),
            ReadingArgument::Judgement => Self::Judgement,
        }
    }
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true))]
pub(crate) struct BestArguments {
    /// The sweep's name, number or file.
    pub sweep: String,
    /// A level for every domain: medical=expert,legal=avoidance,financial=generic. Also =any, =base. Repeatable.
    #[arg(long = "target", group = "which", value_name = "TARGET")]
    pub targets: Vec<String>,
    /// Every combination of levels.
    #[arg(long, group = "which")]
    pub all_targets: bool,
    /// How a target's domains are summed up: min, mean or product.
    #[arg(long, default_value_t = Aggregate::Min, value_name = "min|mean|product")]
    pub aggregate: Aggregate,
    /// Which numbers points are ranked by. Default: mean, or judgement where nothing else was measured.
    #[arg(long, value_enum)]
    pub reading: Option<ReadingArgument>,
    #[command(flatten)]
    pub connection: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct SampleArguments {
    /// The sweep's name, number or file.
    pub sweep: String,
    /// One value per coefficient: 0.4,-1,0.1
    #[arg(long, allow_hyphen_values = true)]
    pub point: Point,
    /// A query's id; repeatable. Default: three queries of each domain.
    #[arg(long = "query", value_name = "ID")]
    pub queries: Vec<String>,
    /// Threads that merge and evaluate, without a coordinator. Default: all cores.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    #[command(flatten)]
    pub device: DeviceArguments,
    #[command(flatten)]
    pub connection: ConnectionArguments,
}

/// File formats of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// One row per result; the columns of the other rungs are empty.
    Csv,
    /// JSON Lines: one object per result.
    Json,
    /// A recorded grid (.avgrid): all points' log-probabilities on the search queries, for `avsweep replay`.
    Grid,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// The sweep's name, number or file.
    pub sweep: String,
    /// The format.
    #[arg(long, value_enum)]
    pub format: ExportFormat,
    /// The file to write. Default: standard output.
    #[arg(long, short, value_name = "FILE")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub connection: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArguments {
    /// The sweep's name, number or file.
    pub sweep: String,
    /// The file to write. Default: SWEEP.html in the current folder.
    #[arg(long, short, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// How a target's domains are summed up: min, mean or product.
    #[arg(long, default_value_t = Aggregate::Min, value_name = "min|mean|product")]
    pub aggregate: Aggregate,
    #[command(flatten)]
    pub connection: ConnectionArguments,
}
