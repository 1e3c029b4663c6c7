//! Arguments of the cluster's processes: coordinator, worker, judge.

use std::net::SocketAddr;
use std::path::PathBuf;

use avsweep_judge::AllowedKey;
use clap::builder::FalseyValueParser;
use clap::{Args, ValueEnum};

use super::{CacheArguments, ConnectionArguments, DeviceArguments};

#[derive(Debug, Args)]
pub(crate) struct CoordinatorArguments {
    /// Address of the gRPC port.
    #[arg(long, env = "AVSWEEP_LISTEN", default_value = "127.0.0.1:7700", value_name = "HOST:PORT")]
    pub listen: SocketAddr,
    /// Address of the HTTP port: /metrics, /healthz, /readyz; `off` for none.
    #[arg(
        long,
        env = "AVSWEEP_METRICS_LISTEN",
        default_value = "127.0.0.1:7701",
        value_name = "HOST:PORT|off",
        value_parser = address_or_off
    )]
    pub metrics_listen: AddressOrOff,

    /// Apply missing migrations of the store under a lock, then serve.
    #[arg(long, env = "AVSWEEP_MIGRATE", value_parser = FalseyValueParser::new())]
    pub migrate: bool,
    /// Apply missing migrations of the store under a lock, then end.
    #[arg(long)]
    pub migrate_only: bool,
    /// Seconds to wait at the start for a database that is away.
    #[arg(long, env = "AVSWEEP_STORE_PATIENCE", default_value_t = 30, value_name = "SECONDS")]
    pub store_patience: u32,

    /// Seconds that a lease lasts; workers renew at a third of it. A silent worker is lost after one lease.
    #[arg(
        long,
        env = "AVSWEEP_LEASE",
        default_value_t = 60,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u32).range(1..=86_400)
    )]
    pub lease: u32,
    /// Seconds that open requests may take after SIGTERM.
    #[arg(long, env = "AVSWEEP_DRAIN", default_value_t = 10, value_name = "SECONDS")]
    pub drain: u32,
    /// Lost workers after which a job is parked. Default: 20.
    #[arg(
        long,
        env = "AVSWEEP_LOST_LIMIT",
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub lost_limit: Option<u32>,
    /// Failed evaluations after which a job is parked. Default: 3.
    #[arg(
        long,
        env = "AVSWEEP_ERROR_LIMIT",
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub error_limit: Option<u32>,
    /// Largest message taken, in bytes: a sweep's definition with all its queries, or a report.
    #[arg(
        long,
        env = "AVSWEEP_MAX_MESSAGE",
        default_value_t = 64 << 20,
        value_name = "BYTES",
        value_parser = clap::value_parser!(u32).range(1024..)
    )]
    pub max_message: u32,

    /// Certificate chain of both ports (PEM).
    #[arg(
        long,
        env = "AVSWEEP_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key",
        help_heading = "Security"
    )]
    pub tls_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(
        long,
        env = "AVSWEEP_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert",
        help_heading = "Security"
    )]
    pub tls_key: Option<PathBuf>,
    /// Authority whose certificates clients must show: mutual TLS (PEM).
    #[arg(
        long,
        env = "AVSWEEP_CLIENT_CA",
        value_name = "FILE",
        requires = "tls_cert",
        help_heading = "Security"
    )]
    pub client_ca: Option<PathBuf>,
    /// File with the users' tokens, one a line; AVSWEEP_USER_TOKEN holds one instead.
    #[arg(long, env = "AVSWEEP_USER_TOKEN_FILE", value_name = "FILE", help_heading = "Security")]
    pub user_token_file: Option<PathBuf>,
    /// File with the workers' tokens; AVSWEEP_WORKER_TOKEN.
    #[arg(long, env = "AVSWEEP_WORKER_TOKEN_FILE", value_name = "FILE", help_heading = "Security")]
    pub worker_token_file: Option<PathBuf>,
    /// File with the judges' tokens; AVSWEEP_JUDGE_TOKEN.
    #[arg(long, env = "AVSWEEP_JUDGE_TOKEN_FILE", value_name = "FILE", help_heading = "Security")]
    pub judge_token_file: Option<PathBuf>,
    /// File with tokens for /metrics alone; AVSWEEP_METRICS_TOKEN.
    #[arg(long, env = "AVSWEEP_METRICS_TOKEN_FILE", value_name = "FILE", help_heading = "Security")]
    pub metrics_token_file: Option<PathBuf>,
    /// Serve other machines without TLS or tokens: everyone who reaches the port can read and change everything.
    #[arg(
        long,
        env = "AVSWEEP_INSECURE",
        value_parser = FalseyValueParser::new(),
        help_heading = "Security"
    )]
    pub insecure: bool,
}

/// A port that may be left closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AddressOrOff(pub Option<SocketAddr>);

fn address_or_off(text: &str) -> Result<AddressOrOff, String> {
    if text == "off" {
        return Ok(AddressOrOff(None));
    }
    text.parse()
        .map(|address| AddressOrOff(Some(address)))
        .map_err(|_| format!("'{text}' is neither an address with a port (127.0.0.1:7701) nor 'off'"))
}

/// What a worker or judge does when the coordinator stays away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LostArgument {
    /// Keep trying for ever: finish what is held, report when it is back.
    Finish,
    /// End with code 4 after --coordinator-patience.
    Stop,
}

/// Flags that worker and judge share.
#[derive(Debug, Args)]
pub(crate) struct PullArguments {
    #[command(flatten)]
    pub connection: ConnectionArguments,
    /// Its name, unique among all. Default: from host and process number.
    #[arg(long, env = "AVSWEEP_WORKER_NAME", value_name = "NAME")]
    pub name: Option<String>,
    /// Seconds to finish what is held after SIGTERM; then it is given back.
    #[arg(long, env = "AVSWEEP_WORKER_DRAIN", default_value_t = 30, value_name = "SECONDS")]
    pub drain: u32,
    /// What to do when the coordinator stays away.
    #[arg(
        long,
        env = "AVSWEEP_WORKER_ON_COORDINATOR_LOST",
        value_enum,
        default_value_t = LostArgument::Finish,
        value_name = "finish|stop"
    )]
    pub on_coordinator_lost: LostArgument,
    /// Seconds without the coordinator after which `stop` ends.
    #[arg(long, env = "AVSWEEP_WORKER_COORDINATOR_PATIENCE", default_value_t = 300, value_name = "SECONDS")]
    pub coordinator_patience: u32,
    /// End with code 0 after so many seconds without a job; one whose judge's endpoint is away is a job. Default: wait for
    /// ever.
    #[arg(long, env = "AVSWEEP_WORKER_IDLE_TIMEOUT", value_name = "SECONDS")]
    pub idle_timeout: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct WorkerArguments {
    #[command(flatten)]
    pub pull: PullArguments,
    /// Threads that merge and evaluate. Default: all cores.
    #[arg(
        long,
        env = "AVSWEEP_WORKER_THREADS",
        value_name = "N",
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub threads: Option<u16>,
    #[command(flatten)]
    pub device: DeviceArguments,
    /// Jobs held at once: one on the engine, the rest waiting for it.
    #[arg(
        long,
        env = "AVSWEEP_WORKER_HELD_JOBS",
        default_value_t = 4,
        value_name = "N",
        value_parser = clap::value_parser!(u16).range(1..=256)
    )]
    pub held_jobs: u16,
    #[command(flatten)]
    pub cache: CacheArguments,
    /// Folder under which model paths are looked up that are not there as they are given.
    #[arg(long, env = "AVSWEEP_WORKER_MODEL_ROOT", value_name = "DIR")]
    pub model_root: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct JudgeArguments {
    #[command(flatten)]
    pub pull: PullArguments,
    /// Jobs held at once.
    #[arg(
        long,
        env = "AVSWEEP_JUDGE_MAX_JOBS",
        default_value_t = 4,
        value_name = "N",
        value_parser = clap::value_parser!(u16).range(1..=256)
    )]
    pub max_jobs: u16,
    /// An environment variable that sweeps may name as their judge's key, and where it may be sent. Repeatable.
    #[arg(
        long = "key-for",
        env = "AVSWEEP_JUDGE_KEYS",
        value_delimiter = ',',
        default_value = "OPENAI_API_KEY=https://api.openai.com/",
        value_name = "VARIABLE=URL"
    )]
    pub keys: Vec<AllowedKey>,
    /// US dollars per million tokens read, for the spend metric.
    #[arg(long, env = "AVSWEEP_JUDGE_INPUT_PRICE", value_name = "DOLLARS", value_parser = price)]
    pub input_price: Option<f64>,
    /// US dollars per million tokens written, for the spend metric.
    #[arg(long, env = "AVSWEEP_JUDGE_OUTPUT_PRICE", value_name = "DOLLARS", value_parser = price)]
    pub output_price: Option<f64>,
}

fn price(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(price) if price.is_finite() && price >= 0.0 => Ok(price),
        _ => Err(format!("'{text}' is not a price in US dollars, such as 0.15")),
    }
}
