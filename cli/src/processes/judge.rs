//! `avsweep judge`: judges a coordinator's responses.

use std::time::Duration;

use anyhow::Result;
use avsweep_domain::WorkerId;
use avsweep_judge::{KeyPolicy, LoopError, LoopOptions, Prices};
use tracing::info;

use super::ending::{on_coordinator_lost, outcome, seconds};
use super::unique_name;
use crate::arguments::JudgeArguments;
use crate::commands::Outcome;
use crate::interruption;
use crate::output;
use crate::remote;

/// How long a sweep whose judge cannot be used here is passed over.
const PASS_OVER: Duration = Duration::from_secs(300);

/// `avsweep judge`
pub(crate) async fn judge(arguments: &JudgeArguments) -> Result<Outcome> {
    let pull = &arguments.pull;
    let transport = remote::connect(&pull.connection)?;
    let name = pull.name.clone().unwrap_or_else(|| unique_name("judge"));
    let coordinator = pull.connection.urls().join(",");
    info!(version = env!("CARGO_PKG_VERSION"), name, coordinator, "judge starts");
    let options = LoopOptions {
        coordinator,
        max_jobs: u32::from(arguments.max_jobs),
        drain: seconds(pull.drain),
        idle_timeout: pull.idle_timeout.map(seconds),
        on_coordinator_lost: on_coordinator_lost(pull),
        prices: Prices {
            input: arguments.input_price.unwrap_or(0.0),
            output: arguments.output_price.unwrap_or(0.0),
        },
        pass_over: Some(PASS_OVER),
        keys: KeyPolicy::Only(arguments.keys.clone()),
        ..LoopOptions::new(WorkerId(name))
    };
    let interruption = interruption::listen();
    match avsweep_judge::run(transport, options, interruption.token()).await {
        Ok(summary) => Ok(outcome(summary.ended, &interruption)),
        Err(error @ LoopError::CoordinatorLost { .. }) => {
            output::print_error(&error.into());
            Ok(Outcome::CoordinatorLost)
        }
        Err(error) => Err(error.into()),
    }
}
