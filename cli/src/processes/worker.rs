//! `avsweep worker`: evaluates a coordinator's jobs.

use anyhow::Result;
use avsweep_domain::WorkerId;
use avsweep_worker::{Worker, WorkerError, WorkerOptions};
use tracing::info;

use super::ending::{on_coordinator_lost, outcome, seconds};
use super::unique_name;
use crate::arguments::WorkerArguments;
use crate::commands::Outcome;
use crate::interruption;
use crate::output;
use crate::remote;

/// `avsweep worker`
pub(crate) async fn worker(arguments: &WorkerArguments) -> Result<Outcome> {
    let pull = &arguments.pull;
    let transport = remote::connect(&pull.connection)?;
    let name = pull.name.clone().unwrap_or_else(|| unique_name("worker"));
    let coordinator = pull.connection.urls().join(",");
    let cache = arguments.cache.folder();
    info!(
        version = env!("CARGO_PKG_VERSION"),
        name,
        coordinator,
        cache = %cache.display(),
        model_root = %arguments.model_root.as_deref().map_or_else(String::new, |root| root.display().to_string()),
        "worker starts"
    );
    let options = WorkerOptions {
        name: WorkerId(name),
        coordinator,
        device: arguments.device.device,
        memory: arguments.device.memory.map(|size| size.0),
        threads: arguments.threads.map(usize::from),
        model_root: arguments.model_root.clone(),
        cache: Some(cache),
        held_jobs: usize::from(arguments.held_jobs),
        drain: seconds(pull.drain),
        idle_timeout: pull.idle_timeout.map(seconds),
        on_coordinator_lost: on_coordinator_lost(pull),
        ..WorkerOptions::default()
    };
    let interruption = interruption::listen();
    match Worker::new(transport, options)?.run(interruption.token()).await {
        Ok(summary) => Ok(outcome(summary.ended, &interruption)),
        Err(error @ WorkerError::CoordinatorLost { .. }) => {
            output::print_error(&error.into());
            Ok(Outcome::CoordinatorLost)
        }
        Err(error) => Err(error.into()),
    }
}
