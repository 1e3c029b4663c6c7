//! The pull side of the lease protocol, shared by workers and judges: calls that outlast the coordinator's absence,
//! and leases kept alive apart from the work done under them.

mod backoff;
mod client;
mod keeper;

pub use backoff::Backoff;
pub use client::{CoordinatorClient, is_transient, job_client};
pub use keeper::{HeldLease, LeaseKeeper};
