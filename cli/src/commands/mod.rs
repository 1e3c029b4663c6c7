//! One file per verb: arguments in, gRPC calls, a table or JSON out.

mod best;
mod demo;
mod export;
mod merge;
mod report;
mod run;
mod sample;
mod sweeps;
mod vector;

use std::process::ExitCode;

use anyhow::Result;

use crate::arguments::{Arguments, Command, SweepCommand};
use crate::output;

/// How a command ended, when it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Everything asked for was done.
    Done,
    /// The sweep is done around jobs that failed for good.
    DoneWithFailures,
    /// Stopped by the user.
    Interrupted,
}

impl Outcome {
    /// The exit code of an error.
    pub(crate) const FAILURE: ExitCode = ExitCode::FAILURE;

    /// The process's exit code; `avsweep --help` lists them.
    pub(crate) fn exit_code(self) -> ExitCode {
        match self {
            Self::Done => ExitCode::SUCCESS,
            Self::DoneWithFailures => ExitCode::from(3),
            Self::Interrupted => ExitCode::from(130),
        }
    }
}

/// Runs a command.
///
/// # Errors
/// Says what went wrong and what to do next.
pub(crate) async fn run(arguments: Arguments) -> Result<Outcome> {
    let Arguments { store, output: format, command, .. } = arguments;
    let done = match command {
        Command::Demo(arguments) => return demo::run(&arguments, format).await,
        Command::Run(arguments) => return run::run(&store, &arguments, format).await,
        Command::Sample(arguments) => return sample::run(&store, &arguments, format).await,
        Command::Sweep(SweepCommand::Ls) => sweeps::list(&store, format).await,
        Command::Sweep(SweepCommand::Show { sweep }) => sweeps::show(&store, &sweep, format).await,
        Command::Best(arguments) => best::run(&store, &arguments, format).await,
        Command::Export(arguments) => export::run(&store, &arguments).await,
        Command::Report(arguments) => report::run(&store, &arguments).await,
        Command::Vector(command) => vector::run(command, format),
        Command::Merge(arguments) => merge::run(&arguments),
        Command::Schema => {
            output::print(crate::arguments::Format::Json, &crate::sweep_file::schema(), |_, _| Ok(()))
        }
    };
    done.map(|()| Outcome::Done)
}
