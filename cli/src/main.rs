//! The `avsweep` command: finds the coefficients of alignment vectors that give each domain the level one wants.

mod arguments;
mod commands;
mod embedded;
mod interruption;
mod output;
mod report;
mod sweep_file;

use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use arguments::Arguments;
use commands::Outcome;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_logging(&arguments);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the asynchronous runtime cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(commands::run(arguments));
    // What may still block (a long evaluation) must not hold the process: everything acknowledged is stored.
    runtime.shutdown_background();
    match outcome {
        Ok(outcome) => outcome.exit_code(),
        Err(error) => {
            if is_broken_pipe(&error) {
                return ExitCode::SUCCESS;
            }
            output::print_error(&error);
            Outcome::FAILURE
        }
    }
}

fn start_logging(arguments: &Arguments) {
    let default = match arguments.verbose {
        0 => "warn",
        1 => "info,sqlx=warn",
        2 => "debug,sqlx=info,h2=info,hyper=info",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("AVSWEEP_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(output::stderr_beside_progress)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    tracing_subscriber::registry().with(filter).with(layer).init();
}

/// Whoever read our output went away (`avsweep export … | head`): nothing is wrong.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
