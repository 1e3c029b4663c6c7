//! How a process that pulls jobs has ended.

use std::time::Duration;

use avsweep_worker::{Ended, OnCoordinatorLost};

use crate::arguments::{LostArgument, PullArguments};
use crate::commands::Outcome;
use crate::interruption::{Interruption, Signal};

/// The exit code's reason for a process that nothing went wrong with.
pub(super) fn outcome(ended: Ended, interruption: &Interruption) -> Outcome {
    match (ended, interruption.signal()) {
        (Ended::Idle, _) | (_, None) => Outcome::Done,
        (Ended::Stopped | Ended::DrainRanOut, Some(Signal::Interrupt)) => Outcome::Interrupted,
        (Ended::Stopped, Some(Signal::Terminate)) => Outcome::Done,
        (Ended::DrainRanOut, Some(Signal::Terminate)) => Outcome::Terminated,
    }
}

/// What to do about a coordinator that is away.
pub(super) fn on_coordinator_lost(pull: &PullArguments) -> OnCoordinatorLost {
    match pull.on_coordinator_lost {
        LostArgument::Finish => OnCoordinatorLost::Finish,
        LostArgument::Stop => OnCoordinatorLost::Stop { patience: seconds(pull.coordinator_patience) },
    }
}

/// A number of seconds from the command line.
pub(super) fn seconds(number: u32) -> Duration {
    Duration::from_secs(u64::from(number))
}
