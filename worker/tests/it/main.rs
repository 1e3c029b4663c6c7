//! The worker's real loop, on a paused clock: time passes only while everyone waits.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

mod absence;
mod budget;
mod coordinator;
mod draining;
mod evaluator;
mod jobs;
mod real;
mod shortage;
mod unfit;
