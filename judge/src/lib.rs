//! Leases judgement jobs and rates responses through an LLM API or an embedded reference.
//!
//! A [`Judge`] rates one response at a time and is never told the target. [`run`] is the loop of a judge's process:
//! it pulls jobs from the coordinator, judges, and reports verdicts under its leases.

mod cache;
mod error;
mod jobs;
mod judge;
mod keys;
mod meter;
mod openai;
mod rate;
mod reference;
mod retry_after;
mod secret;

pub use avsweep_lease::{Ended, Jitter, OnCoordinatorLost, Shutdown};
pub use error::{AttemptError, JudgeError, ReplyError};
pub use jobs::{LoopError, LoopOptions, LoopSummary, run};
pub use judge::{Judge, JudgeOptions};
pub use keys::{AllowedKey, KeyPolicy};
pub use meter::{Meter, Prices};
pub use openai::DEFAULT_RUBRIC;
pub use rate::Rate;
pub use reference::{CharGrams, DEFAULT_THRESHOLD, chrf};
pub use secret::Secret;
