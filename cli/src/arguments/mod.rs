//! The command line.

mod answers;
mod connection;
mod processes;
mod replay;
mod slurm;
mod store;
mod sweeps;
mod vectors;

use std::path::PathBuf;

use avsweep_engine::{ByteSize, DeviceChoice};
use clap::{
    Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum, error::ErrorKind,
    parser::ValueSource,
};

pub(crate) use answers::{BestArguments, ExportArguments, ExportFormat, ReportArguments, SampleArguments};
pub(crate) use connection::ConnectionArguments;
pub(crate) use processes::{
    CoordinatorArguments, JudgeArguments, LostArgument, PullArguments, WorkerArguments,
};
pub(crate) use replay::{ReplayArguments, RungArgument, StrategyArgument};
pub(crate) use slurm::{SlurmArguments, SlurmCommand, SubmitArguments};
pub(crate) use store::StoreLocation;
pub(crate) use sweeps::{
    CreateArguments, JobStateArgument, JobsArguments, JobsCommand, ListJobsArguments, SweepArguments,
    SweepCommand, WorkersArguments, WorkersCommand,
};
pub(crate) use vectors::{DeltaArgument, MergeArguments, VectorCommand};

const EXIT_CODES: &str = "\
Exit codes:
  0    done; also coordinator, worker and judge after a drain in time on SIGTERM
  1    failed: the message says why
  2    the command line is wrong
  3    the sweep is done, but some of its jobs failed for good and are parked
  4    the coordinator is lost (worker and judge with --on-coordinator-lost stop)
  130  interrupted; the same command goes on where it stopped
  143  ended by SIGTERM before what was in flight was done";

/// Finds the coefficients of alignment vectors that give each domain the level you want.
#[derive(Debug, Parser)]
#[command(name = "avsweep", version, after_long_help = EXIT_CODES, propagate_version = true)]
pub(crate) struct Arguments {
    /// The store: a SQLite file that holds sweeps and all their results (a coordinator also takes postgres://…).
    #[arg(
        long,
        global = true,
        env = "AVSWEEP_STORE",
        hide_env_values = true,
        default_value = "avsweep.db",
        value_name = "FILE|URL"
    )]
    pub store: StoreLocation,

    /// Where the store's name comes from: the command line, the environment or the default.
    #[arg(skip)]
    pub store_source: Option<ValueSource>,

    /// Table for people or JSON for programs.
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,

    /// Log more to stderr (-v, -vv, -vvv); AVSWEEP_LOG takes a tracing filter.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Form of the log lines.
    #[arg(long, global = true, value_enum, env = "AVSWEEP_LOG_FORMAT", default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Where traces go: an OTLP endpoint (gRPC), http://127.0.0.1:4317 or https://…. Default: nowhere.
    #[arg(
        long,
        global = true,
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        value_name = "URL",
        hide_env_values = true
    )]
    pub otlp_endpoint: Option<String>,

    /// Certificates (PEM) of the authority to trust for an https:// OTLP endpoint, in place of the system's. Refused for
    /// another endpoint; from the variable, not used there.
    #[arg(long, global = true, env = "OTEL_EXPORTER_OTLP_CERTIFICATE", value_name = "PEM")]
    pub otlp_ca: Option<PathBuf>,

    #[command(subcommand)]
    pub command: Command,
}

impl Arguments {
    /// The process's arguments; a wrong command line ends it with code 2.
    pub(crate) fn read() -> Self {
        let mut matches = Self::command().get_matches();
        let mut deepest = &matches;
        while let Some((_, inner)) = deepest.subcommand() {
            deepest = inner;
        }
        // A global argument is copied down to the subcommand that was called.
        let store_source = deepest.value_source("store");
        let is_said = |id: &str| {
            matches!(deepest.try_contains_id(id), Ok(true))
                && deepest.value_source(id) == Some(ValueSource::CommandLine)
        };
        if is_said("store") && is_said("coordinator") {
            let said = "--store and --coordinator name two places: sweeps are in one of them";
            Self::command().error(ErrorKind::ArgumentConflict, said).exit()
        }
        let is_ca_asked_for = deepest.value_source("otlp_ca") == Some(ValueSource::CommandLine);
        match Self::from_arg_matches_mut(&mut matches) {
            Ok(arguments) if is_ca_asked_for && arguments.is_otlp_ca_idle() => {
                let said = "--otlp-ca is for an https:// OTLP endpoint, and the one that is named is none";
                Self::command().error(ErrorKind::ArgumentConflict, said).exit()
            }
            Ok(arguments) => Self { store_source, ..arguments },
            Err(error) => error.format(&mut Self::command()).exit(),
        }
    }

    /// Where traces go, if anywhere.
    pub(crate) fn otlp_endpoint(&self) -> Option<&str> {
        self.otlp_endpoint.as_deref().filter(|endpoint| !endpoint.is_empty())
    }

    /// Whether an authority is named for traces that leave without TLS.
    pub(crate) fn is_otlp_ca_idle(&self) -> bool {
        self.otlp_ca.is_some() && self.otlp_endpoint().is_some_and(|endpoint| !is_https(endpoint))
    }
}

/// Whether a URL asks for TLS.
pub(crate) fn is_https(url: &str) -> bool {
    url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"))
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show everything on a tiny model: a coarse sweep, then the table of all targets. About a minute.
    Demo(DemoArguments),
    /// Run a sweep file to its end on this machine; go on where an earlier run stopped.
    Run(RunArguments),
    /// Create, watch and steer sweeps, of a store or of a coordinator.
    Sweep(SweepArguments),
    /// The best coefficients for a target, or for all of them.
    Best(BestArguments),
    /// What the model says at a point.
    Sample(SampleArguments),
    /// Write every stored result.
    Export(ExportArguments),
    /// Write a picture of a sweep: one HTML file that needs no network.
    Report(ReportArguments),
    /// Look at workers and judges.
    Workers(WorkersArguments),
    /// Look at jobs, and retry failed ones.
    Jobs(JobsArguments),
    /// Serve sweeps to a cluster: hand out jobs, take results, plan.
    Coordinator(Box<CoordinatorArguments>),
    /// Evaluate jobs of a coordinator on this machine until told to stop.
    Worker(WorkerArguments),
    /// Judge responses for a coordinator until told to stop.
    Judge(JudgeArguments),
    /// Place workers by Slurm.
    Slurm(SlurmArguments),
    /// Make and inspect alignment vectors.
    #[command(subcommand)]
    Vector(VectorCommand),
    /// Write base + Σ coefficient · vector as a Hugging Face folder.
    Merge(MergeArguments),
    /// Print the JSON schema of sweep files.
    Schema,
    /// Run a strategy against a recorded grid: no model, in seconds.
    Replay(Box<ReplayArguments>),
}

/// The flag that commands of one machine refuse with a hint.
#[derive(Debug, Args)]
pub(crate) struct NoCoordinator {
    /// Refused: this command works on this machine alone.
    #[arg(long = "coordinator", hide = true, value_name = "URL")]
    pub refused: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArguments {
    /// Folder for the demo's model, sweep files and store; made if absent.
    #[arg(long, default_value = "avsweep-demo", value_name = "DIR")]
    pub folder: PathBuf,
    /// What merges and evaluates: auto, cpu or cuda:N. So small a model is fastest on the CPU.
    #[arg(long, default_value_t = DeviceChoice::Cpu, value_name = "auto|cpu|cuda:N")]
    pub device: DeviceChoice,
    #[command(flatten)]
    pub coordinator: NoCoordinator,
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// The sweep file (YAML).
    pub sweep: PathBuf,
    /// Threads that merge and evaluate. Default: all cores.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    #[command(flatten)]
    pub device: DeviceArguments,
    /// Check the file and everything it names, count what there is to do, then stop.
    #[arg(long)]
    pub check: bool,
    #[command(flatten)]
    pub cache: CacheArguments,
    #[command(flatten)]
    pub coordinator: NoCoordinator,
}

/// What computes.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct DeviceArguments {
    /// What merges and evaluates: a CUDA device, or the CPU. auto: the first CUDA device where there is one and this
    /// program was built with it, else the CPU.
    #[arg(long, env = "AVSWEEP_DEVICE", default_value_t, value_name = "auto|cpu|cuda:N")]
    pub device: DeviceChoice,
    /// Most memory that weights, caches and activations take (12GiB): of the GPU's on a GPU, else of this machine's.
    /// What does not fit of base and vectors is read from their files for every point. Default: three quarters of the
    /// machine's memory or of the control group's limit; of a GPU's 85 %, or 90 % of what is free there if that is less.
    #[arg(long, env = "AVSWEEP_MEMORY", value_name = "SIZE")]
    pub memory: Option<ByteSize>,
}

/// Where model files of object storage are kept.
#[derive(Debug, Clone, Args)]
pub(crate) struct CacheArguments {
    /// Folder for model files from object storage (s3://…). Default: avsweep in the user's cache folder.
    #[arg(long, env = "AVSWEEP_CACHE", value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

impl CacheArguments {
    /// The folder given, or the user's.
    pub(crate) fn folder(&self) -> PathBuf {
        if let Some(folder) = &self.cache {
            return folder.clone();
        }
        let named = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        named("XDG_CACHE_HOME")
            .or_else(|| named("HOME").map(|home| home.join(".cache")))
            .unwrap_or_else(std::env::temp_dir)
            .join("avsweep")
    }
}
