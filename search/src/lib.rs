//! Search strategies as pure functions of the history.
//!
//! [`strategy`] says which points come next, [`Ranking`] which points are best for a target. No I/O, no clock, no
//! hidden state: the same history gives the same answer.

mod answer;
mod bayesian;
mod error;
mod finalists;
#[cfg(test)]
mod fixture;
pub mod gp;
mod hierarchical;
pub mod honesty;
pub mod ladder;
mod normal;
mod problem;
pub mod racing;
mod random;
mod ranking;
pub mod record;
pub mod replay;
mod sequence;
pub mod strategy;
pub mod surface;
mod targets;

pub use answer::{Answer, BestPoint, DomainAnswer, best};
pub use error::SearchError;
pub use finalists::{Finalists, finalists};
pub use problem::{DomainShape, SearchRung};
pub use ranking::Ranking;
pub use targets::{MAX_TARGETS, all_targets};
