//! Leases jobs, evaluates them on one engine thread, reports results.
//!
//! ```text
//! lease ──► queue ──► engine thread ──► reports
//!   ▲                 (load, merge,        │
//!   └──── free slot ◄─ score, generate) ◄──┘
//! ```
//!
//! The engine thread never waits for the coordinator: the next job is leased while the present one is computed, and
//! leases are renewed by a task of their own. A job whose lease is lost is dropped at the next chunk.

mod engine_thread;
mod error;
mod evaluator;
mod report;
mod worker;

pub use error::WorkerError;
pub use worker::{Worker, WorkerOptions, WorkerSummary};
