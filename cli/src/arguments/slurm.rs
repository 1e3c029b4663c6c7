//! Arguments of `avsweep slurm`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::ConnectionArguments;

#[derive(Debug, Args)]
pub(crate) struct SlurmArguments {
    #[command(flatten)]
    pub connection: ConnectionArguments,
    #[command(subcommand)]
    pub command: SlurmCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SlurmCommand {
    /// Submit a job array of workers, and first the sweep if one is named.
    Submit(Box<SubmitArguments>),
}

#[derive(Debug, Args)]
pub(crate) struct SubmitArguments {
    /// A sweep file to create on the coordinator first. Default: workers only.
    pub sweep: Option<PathBuf>,
    /// Print the command and the script instead of submitting; nothing is created either.
    #[arg(long)]
    pub dry_run: bool,
    /// How many workers.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub array: u32,
    /// GPUs of each.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub gpus: u32,
    /// Cores of each.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub cpus: u32,
    /// Memory of each, as sbatch takes it: 16G.
    #[arg(long, default_value = "16G", value_name = "SIZE")]
    pub mem: String,
    /// Time limit of each, as sbatch takes it: 12:00:00.
    #[arg(long, default_value = "12:00:00", value_name = "TIME")]
    pub time: String,
    /// The partition.
    #[arg(long, value_name = "NAME")]
    pub partition: Option<String>,
    /// The account to charge.
    #[arg(long, value_name = "NAME")]
    pub account: Option<String>,
    /// Job name in the queue.
    #[arg(long, default_value = "avsweep-worker", value_name = "NAME")]
    pub job_name: String,
    /// Seconds without a job after which a worker ends and gives its place back.
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    pub idle_timeout: u32,
    /// Seconds before the time limit at which workers are told to finish.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub signal_before: u32,
    /// File with the workers' token, on a file system that the nodes share. Default: that of --token-file.
    #[arg(long, env = "AVSWEEP_WORKER_TOKEN_FILE", value_name = "FILE")]
    pub worker_token_file: Option<PathBuf>,
    /// Folder for model files from object storage, on the nodes.
    #[arg(long, env = "AVSWEEP_CACHE", value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Folder on the nodes under which model paths are looked up.
    #[arg(long, env = "AVSWEEP_WORKER_MODEL_ROOT", value_name = "DIR")]
    pub model_root: Option<PathBuf>,
    /// The avsweep program on the nodes. Default: this one.
    #[arg(long, value_name = "PATH")]
    pub program: Option<PathBuf>,
    /// Further options for sbatch, as they are; repeatable.
    #[arg(long = "sbatch-option", value_name = "OPTION", allow_hyphen_values = true)]
    pub sbatch_options: Vec<String>,
}
