//! The pull side of the lease protocol, shared by workers and judges: calls that outlast the coordinator's absence,
//! and leases kept alive apart from the work done under them.

mod backoff;
mod client;
mod keeper;
mod text;

pub use backoff::Backoff;
pub use client::{CoordinatorClient, Patience, is_transient, job_client};
pub use keeper::{HeldLease, LeaseKeeper};
pub use text::error_chain;
