//! The `avsweep` command: finds the coefficients of alignment vectors that give each domain the level one wants.

mod arguments;
mod commands;
mod connection;
mod embedded;
mod interruption;
mod logging;
mod output;
mod processes;
mod remote;
mod report;
mod sweep_file;
mod usage;

use std::process::ExitCode;

use arguments::Arguments;
use commands::Outcome;
use usage::UsageError;

fn main() -> ExitCode {
    let arguments = Arguments::read();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads(&arguments))
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the asynchronous runtime cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        let logging = logging::start(&arguments);
        let outcome = commands::run(arguments).await;
        logging.end().await;
        outcome
    });
    // What may still block (a long evaluation) must not hold the process: everything acknowledged is stored.
    runtime.shutdown_background();
    match outcome {
        Ok(outcome) => outcome.exit_code(),
        Err(error) => {
            if is_broken_pipe(&error) {
                return ExitCode::SUCCESS;
            }
            output::print_error(&error);
            if error.is::<UsageError>() { ExitCode::from(2) } else { Outcome::FAILURE }
        }
    }
}

/// Asynchronous threads: a coordinator serves many, everything else waits for one or two peers.
fn threads(arguments: &Arguments) -> usize {
    match arguments.command {
        arguments::Command::Coordinator(_) => {
            std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(2, 16)
        }
        _ => 2,
    }
}

/// Whoever read our output went away (`avsweep export … | head`): nothing is wrong.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        // One of the CSV writer does not tell its source.
        let written = cause.downcast_ref::<csv::Error>().map(csv::Error::kind);
        let failed = match written {
            Some(csv::ErrorKind::Io(error)) => Some(error),
            _ => cause.downcast_ref::<std::io::Error>(),
        };
        failed.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
