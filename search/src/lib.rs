//! Search strategies as pure functions of the history.
//!
//! [`strategy`] says which points come next, [`Ranking`] which points are best for a target. No I/O, no clock, no
//! hidden state: the same history gives the same answer.

mod answer;
mod error;
mod finalists;
#[cfg(test)]
mod fixture;
mod ranking;
pub mod strategy;
mod targets;

pub use answer::{Answer, BestPoint, DomainAnswer, best};
pub use error::SearchError;
pub use finalists::{Finalists, finalists};
pub use ranking::Ranking;
pub use targets::{MAX_TARGETS, all_targets};
