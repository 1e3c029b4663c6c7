//! Leases jobs, evaluates them on one engine thread, reports results.
//!
//! ```text
//! lease ──► queue ──► driver ──► engine thread
//!   ▲                   │        (load, merge, score, generate)
//!   └── free slot ◄── reports
//! ```
//!
//! - `worker`, `running`: the loop; jobs in hand; the drain.
//! - `evaluate`: the seam behind which an engine, or something made up, does the work.
//! - `driver`, `queue`, `limits`: one job after another onto the evaluator, smaller batches where memory is short.
//! - `engine`: the evaluator that computes.
//!
//! The engine never waits for the coordinator: the next job is leased while the present one is computed, and leases
//! are renewed by a task of their own. A job whose lease is lost is dropped at the next chunk.

mod definitions;
mod driver;
mod engine;
mod error;
mod evaluate;
mod limits;
mod options;
mod queue;
mod report;
mod running;
mod worker;

pub use avsweep_lease::{Ended, Jitter, OnCoordinatorLost, Shutdown};
pub use engine::{EngineEvaluator, EngineOptions};
pub use error::{JobError, UnfitError, WorkerError};
pub use evaluate::{Chunk, ChunkResults, End, Evaluate, Failure, Spent, Task};
pub use options::{UnfitPolicy, WorkerOptions, WorkerSummary};
pub use worker::Worker;
