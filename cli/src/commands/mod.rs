//! One file per verb: arguments in, gRPC calls, a table or JSON out.

mod agreement;
mod best;
pub(crate) mod convergence;
mod counts;
mod create;
mod crew;
mod demo;
mod export;
mod jobs;
mod merge;
mod replay;
mod report;
mod run;
mod sample;
mod slurm;
mod standstill;
mod steer;
mod sweeps;
mod vector;
mod watch;
mod workers;

use std::process::ExitCode;

use anyhow::Result;
use avsweep_proto::v1;

use crate::arguments::{Arguments, Command, ConnectionArguments, Format, SweepCommand};
use crate::connection::Place;
use crate::output;
use crate::processes;

/// How a command ended, when it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Everything asked for was done.
    Done,
    /// The sweep is done around jobs that failed for good.
    DoneWithFailures,
    /// The coordinator stayed away longer than it was to be waited for.
    CoordinatorLost,
    /// Stopped by the user.
    Interrupted,
    /// Stopped by SIGTERM before what was in flight was done.
    Terminated,
}

impl Outcome {
    /// The exit code of an error.
    pub(crate) const FAILURE: ExitCode = ExitCode::FAILURE;

    /// The process's exit code; `avsweep --help` lists them.
    pub(crate) fn exit_code(self) -> ExitCode {
        match self {
            Self::Done => ExitCode::SUCCESS,
            Self::DoneWithFailures => ExitCode::from(3),
            Self::CoordinatorLost => ExitCode::from(4),
            Self::Interrupted => ExitCode::from(130),
            Self::Terminated => ExitCode::from(143),
        }
    }
}

/// Runs a command.
///
/// # Errors
/// Says what went wrong and what to do next.
pub(crate) async fn run(arguments: Arguments) -> Result<Outcome> {
    let Arguments { store, store_source, output: format, command, .. } = arguments;
    let place =
        |connection: &ConnectionArguments| Place::new(store.clone(), store_source, connection.clone());
    let done = match command {
        Command::Demo(arguments) => return demo::run(&arguments, format).await,
        Command::Run(arguments) => return run::run(&store, &arguments, format).await,
        Command::Sample(arguments) => {
            return sample::run(&place(&arguments.connection), &arguments, format).await;
        }
        Command::Sweep(arguments) => {
            return sweep(&place(&arguments.connection), arguments.command, format).await;
        }
        Command::Coordinator(arguments) => return processes::coordinator(&store, &arguments).await,
        Command::Worker(arguments) => return processes::worker(&arguments).await,
        Command::Judge(arguments) => return processes::judge(&arguments).await,
        Command::Slurm(arguments) => return slurm::run(&arguments, format).await,
        Command::Workers(arguments) => {
            workers::run(&place(&arguments.connection), &arguments.command, format).await
        }
        Command::Jobs(arguments) => {
            jobs::run(&place(&arguments.connection), &arguments.command, format).await
        }
        Command::Best(arguments) => best::run(&place(&arguments.connection), &arguments, format).await,
        Command::Export(arguments) => export::run(&place(&arguments.connection), &arguments).await,
        Command::Report(arguments) => report::run(&place(&arguments.connection), &arguments).await,
        Command::Vector(command) => vector::run(command, format),
        Command::Merge(arguments) => merge::run(&arguments),
        Command::Replay(arguments) => replay::run(&arguments, format),
        Command::Schema => output::print(Format::Json, &crate::sweep_file::schema(), |_, _| Ok(())),
    };
    done.map(|()| Outcome::Done)
}

async fn sweep(place: &Place, command: SweepCommand, format: Format) -> Result<Outcome> {
    let done = match command {
        SweepCommand::Create(arguments) => return create::run(place, &arguments, format).await,
        SweepCommand::Watch { sweep } => return watch::run(place, &sweep, format).await,
        SweepCommand::Rm { sweep, yes } => return steer::remove(place, &sweep, yes, format).await,
        SweepCommand::Ls => sweeps::list(place, format).await,
        SweepCommand::Show { sweep } => sweeps::show(place, &sweep, format).await,
        SweepCommand::Pause { sweep } => {
            steer::set_state(place, &sweep, v1::SweepState::Paused, format).await
        }
        SweepCommand::Resume { sweep } => {
            steer::set_state(place, &sweep, v1::SweepState::Running, format).await
        }
        SweepCommand::Cancel { sweep } => {
            steer::set_state(place, &sweep, v1::SweepState::Cancelled, format).await
        }
        SweepCommand::Priority { sweep, priority } => {
            steer::set_priority(place, &sweep, priority, format).await
        }
    };
    done.map(|()| Outcome::Done)
}
