//! The states of a sweep.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where a sweep stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SweepState {
    /// Points are planned and jobs handed out.
    Running,
    /// Nothing new is handed out; what is in flight may finish.
    Paused,
    /// The strategy has ended and every job is done or parked.
    Done,
    /// Ended by a user; its results stay.
    Cancelled,
}

/// A change of state that is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sweep that is {from} cannot become {to}")]
pub struct TransitionError {
    /// The state it is in.
    pub from: SweepState,
    /// The state asked for.
    pub to: SweepState,
}

impl SweepState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Running, Self::Paused, Self::Done, Self::Cancelled];

    /// Whether the change is allowed; staying where one is always is.
    ///
    /// A done sweep runs again when more is asked of it (a sample, a retried job); a cancelled one stays cancelled.
    ///
    /// # Errors
    /// When it is not.
    pub fn check_transition(self, to: Self) -> Result<(), TransitionError> {
        use SweepState::{Cancelled, Done, Paused, Running};
        let allowed = self == to
            || matches!(
                (self, to),
                (Running, Paused | Done | Cancelled) | (Paused, Running | Cancelled) | (Done, Running)
            );
        if allowed { Ok(()) } else { Err(TransitionError { from: self, to }) }
    }

    /// The text form, as in the store and in exports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for SweepState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for SweepState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| format!("'{text}' is no state of a sweep"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancelled_sweep_stays_cancelled() {
        for to in [SweepState::Running, SweepState::Paused, SweepState::Done] {
            assert!(SweepState::Cancelled.check_transition(to).is_err());
        }
        assert!(SweepState::Done.check_transition(SweepState::Running).is_ok());
        assert!(SweepState::Paused.check_transition(SweepState::Done).is_err());
    }
}
