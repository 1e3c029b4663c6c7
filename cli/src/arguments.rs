//! The command line.

use std::path::PathBuf;

use avsweep_domain::{Aggregate, Normalisation, Point, Reading};
use clap::{Args, Parser, Subcommand, ValueEnum};

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed: the message says why
  2    the command line is wrong
  3    the sweep is done, but some of its jobs failed for good and are parked
  130  interrupted; the same command goes on where it stopped";

/// Finds the coefficients of alignment vectors that give each domain the level you want.
#[derive(Debug, Parser)]
#[command(name = "avsweep", version, after_long_help = EXIT_CODES, propagate_version = true)]
pub(crate) struct Arguments {
    /// The store: one SQLite file that holds sweeps and all their results.
    #[arg(long, global = true, env = "AVSWEEP_STORE", default_value = "avsweep.db", value_name = "FILE")]
    pub store: PathBuf,

    /// Table for people or JSON for programs.
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,

    /// Log more to stderr (-v, -vv, -vvv); AVSWEEP_LOG takes a tracing filter.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    #[command(subcommand)]
    pub command: Command,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show everything on a tiny model: a coarse sweep, then the table of all targets. About a minute.
    Demo(DemoArguments),
    /// Run a sweep file to its end on this machine; go on where an earlier run stopped.
    Run(RunArguments),
    /// Look at the sweeps of a store.
    #[command(subcommand)]
    Sweep(SweepCommand),
    /// The best coefficients for a target, or for all of them.
    Best(BestArguments),
    /// What the model says at a point.
    Sample(SampleArguments),
    /// Write every stored result.
    Export(ExportArguments),
    /// Write a picture of a sweep: one HTML file that needs no network.
    Report(ReportArguments),
    /// Make and inspect alignment vectors.
    #[command(subcommand)]
    Vector(VectorCommand),
    /// Write base + Σ coefficient · vector as a Hugging Face folder.
    Merge(MergeArguments),
    /// Print the JSON schema of sweep files.
    Schema,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArguments {
    /// Folder for the demo's model, sweep files and store; made if absent.
    #[arg(long, default_value = "avsweep-demo", value_name = "DIR")]
    pub folder: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// The sweep file (YAML).
    pub sweep: PathBuf,
    /// Threads that merge and evaluate. Default: all cores.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// Check the file and everything it names, then stop.
    #[arg(long)]
    pub check: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SweepCommand {
    /// Every sweep of the store.
    Ls,
    /// One sweep: what it is and how far it is.
    Show {
        /// Its name, number or file.
        sweep: String,
    },
}

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
pub(crate) struct BestArguments {
    /// The sweep's name, number or file.
    pub sweep: String,
    /// A level for every domain: medical=expert,legal=avoidance,financial=generic. Also =any, =base. Repeatable.
    #[arg(long = "target", required_unless_present = "all_targets", value_name = "TARGET")]
    pub targets: Vec<String>,
    /// Every combination of levels.
    #[arg(long, conflicts_with = "targets")]
    pub all_targets: bool,
    /// How a target's domains are summed up: min, mean or product.
    #[arg(long, default_value_t = Aggregate::Min, value_name = "min|mean|product")]
    pub aggregate: Aggregate,
    /// Which numbers points are ranked by. Default: mean, or judgement where nothing else was measured.
    #[arg(long, value_enum)]
    pub reading: Option<ReadingArgument>,
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
    /// Threads that merge and evaluate. Default: all cores.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
}

/// File formats of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// One row per result; the columns of the other rungs are empty.
    Csv,
    /// JSON Lines: one object per result.
    Json,
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
}

#[derive(Debug, Subcommand)]
pub(crate) enum VectorCommand {
    /// Write aligned − base as a delta safetensors file, tensor by tensor.
    Extract {
        /// The base model's folder.
        #[arg(long, value_name = "DIR")]
        base: PathBuf,
        /// The aligned model's folder.
        #[arg(long, value_name = "DIR")]
        aligned: PathBuf,
        /// The file to write.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Element type of the differences.
        #[arg(long, value_enum, default_value_t = DeltaArgument::F32)]
        dtype: DeltaArgument,
    },
    /// Norms per tensor and layer, cosines between vectors, share of what changed.
    Inspect {
        /// Delta files or aligned folders.
        #[arg(required = true, value_name = "VECTOR")]
        vectors: Vec<PathBuf>,
        /// The base, for relative norms; needed for aligned folders.
        #[arg(long, value_name = "DIR")]
        base: Option<PathBuf>,
        /// Print every tensor, not only layers.
        #[arg(long)]
        tensors: bool,
    },
}

/// Element types of a delta file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeltaArgument {
    /// 32-bit float: exact for bfloat16 and 16-bit models.
    F32,
    /// bfloat16: half the size, rounded.
    Bf16,
}

#[derive(Debug, Args)]
pub(crate) struct MergeArguments {
    /// The base model's folder.
    #[arg(long, value_name = "DIR")]
    pub base: PathBuf,
    /// A vector and its coefficient: FILE=0.4. Repeatable; added in this order.
    #[arg(long = "vector", required = true, value_name = "FILE=COEFFICIENT", value_parser = weighted_vector)]
    pub vectors: Vec<(PathBuf, f64)>,
    /// The folder to write; must not exist or be empty.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

fn weighted_vector(text: &str) -> Result<(PathBuf, f64), String> {
    let (path, coefficient) =
        text.rsplit_once('=').ok_or_else(|| format!("'{text}' is not of the form FILE=COEFFICIENT"))?;
    let coefficient: f64 =
        coefficient.parse().map_err(|_| format!("'{coefficient}' is not a number (in '{text}')"))?;
    if !coefficient.is_finite() {
        return Err(format!("coefficient {coefficient} is not finite (in '{text}')"));
    }
    if path.is_empty() {
        return Err(format!("'{text}' names no file"));
    }
    Ok((PathBuf::from(path), coefficient))
}
