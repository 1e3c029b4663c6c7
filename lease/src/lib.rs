//! The pull side of the lease protocol, shared by workers and judges: calls that outlast the coordinator's absence,
//! and leases kept alive apart from the work done under them.

mod access;
mod backoff;
mod client;
mod contact;
mod ending;
mod jitter;
mod keeper;
mod passed_over;
mod presence;
mod text;

pub use access::AccessError;
pub use backoff::Backoff;
pub use client::{CoordinatorClient, Patience, is_worth_retrying, job_client};
pub use contact::Contact;
pub use ending::{Ended, Ending, OnCoordinatorLost, Shutdown};
pub use jitter::Jitter;
pub use keeper::{HeldLease, LeaseKeeper};
pub use passed_over::PassedOver;
pub use presence::{Counts, Identity, Presence};
pub use text::error_chain;
