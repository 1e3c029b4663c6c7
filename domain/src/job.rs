//! Jobs: the units handed to workers and judges.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What is measured at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// Which reference the model finds most probable; no text is generated.
    Likelihood,
    /// Texts.
    Generation,
    /// Levels of those texts.
    Judgement,
}

/// Which part of a sweep's queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuerySet {
    /// The queries that points are chosen by.
    Search,
    /// The queries that chosen points are reported on.
    Confirm,
}

/// A run of a sweep's queries by ordinal: `start..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct QuerySlice {
    /// First ordinal.
    pub start: u32,
    /// One past the last ordinal.
    pub end: u32,
}

impl QuerySlice {
    /// How many queries the slice holds.
    pub fn len(self) -> usize {
        self.end.saturating_sub(self.start) as usize
    }

    /// Whether it holds none.
    pub fn is_empty(self) -> bool {
        self.start >= self.end
    }

    /// The ordinals.
    pub fn ordinals(self) -> std::ops::Range<u32> {
        self.start..self.end
    }

    /// The slice cut into pieces of at most `size` queries (at least 1).
    pub fn pieces(self, size: u32) -> impl Iterator<Item = Self> {
        let size = size.max(1);
        (self.start..self.end)
            .step_by(size as usize)
            .map(move |start| Self { start, end: start.saturating_add(size).min(self.end) })
    }
}

/// Where a job stands.
///
/// `Ready → Leased → Done`; a lost or failed attempt leads back to `Ready`, or to `Parked` over its limit, from where
/// only a user's retry leads back. A race that is lost leads from `Ready` and `Leased` to `Raced`, for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for a worker.
    Ready,
    /// An attempt holds it.
    Leased,
    /// Every result is stored.
    Done,
    /// Over a failure limit; its last error says why.
    Parked,
    /// Closed early: its point is out of reach for every target, the rest of its queries is not evaluated.
    Raced,
}

/// How often an attempt may fail before its job is parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureLimits {
    /// Lost attempts.
    pub lost: u32,
    /// Failed evaluations.
    pub errors: u32,
}

impl Default for FailureLimits {
    /// A lost worker says little about the job; a reported error says much.
    fn default() -> Self {
        Self { lost: 20, errors: 3 }
    }
}

impl FailureLimits {
    /// The state of a job after a failed attempt, given its counts with that attempt included.
    pub fn after_failure(self, lost: u32, errors: u32) -> JobState {
        if lost >= self.lost || errors >= self.errors { JobState::Parked } else { JobState::Ready }
    }
}

macro_rules! text_form {
    ($name:ident, $what:literal, $($variant:ident = $text:literal),+ $(,)?) => {
        impl $name {
            /// The text form, as in the store and in exports.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    other => Err(format!("'{other}' is no {}", $what)),
                }
            }
        }
    };
}

text_form!(Rung, "rung", Likelihood = "likelihood", Generation = "generation", Judgement = "judgement");
text_form!(QuerySet, "query set", Search = "search", Confirm = "confirm");
text_form!(
    JobState,
    "job state",
    Ready = "ready",
    Leased = "leased",
    Done = "done",
    Parked = "parked",
    Raced = "raced"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_slice_exactly() {
        let slice = QuerySlice { start: 3, end: 20 };
        let pieces: Vec<_> = slice.pieces(6).collect();
        let ordinals: Vec<_> = pieces.iter().flat_map(|piece| piece.ordinals()).collect();
        assert_eq!(ordinals, (3..20).collect::<Vec<_>>());
        assert!(pieces.iter().all(|piece| piece.len() <= 6 && !piece.is_empty()));
    }

    #[test]
    fn lost_attempts_and_errors_are_limited_apart() {
        let limits = FailureLimits { lost: 5, errors: 2 };
        assert_eq!(limits.after_failure(4, 1), JobState::Ready);
        assert_eq!(limits.after_failure(5, 0), JobState::Parked);
        assert_eq!(limits.after_failure(0, 2), JobState::Parked);
    }
}
