//! The coordinator: the only part that touches the store.
//!
//! Three layers, each of which knows only the next one:
//!
//! - `services`: the gRPC edge. Parses a request, calls a use case, writes the reply, maps errors to status codes.
//! - `application`: the use cases, free of wire types.
//! - the [`Store`](avsweep_store::Store).
//!
//! Beside them run the `planner` and the `reaper`: background tasks that take no input and can run at any time.
//! [`serve()`] puts the services on a port, [`InProcessServer`] into this process alone; [`observability()`] is what a
//! cluster's machinery reads.
//!
//! Any number of coordinators work on one Postgres, all of them active: what must happen once at a time (planning a
//! sweep, closing a job) is decided by the store, never here.
//!
//! Nothing is kept in memory that cannot be rebuilt from the store.

mod application;
mod background;
mod clock;
mod coordinator;
mod error;
mod in_process;
mod metrics;
mod observability;
mod planner;
mod serve;
mod services;
mod settings;
mod signals;
mod token;

pub use application::answering::MOST_MODELLED;
pub use application::progress::Progress;
pub use application::sampling::{Sample, SampleRequest, SampledResponse};
pub use clock::{Clock, DatabaseClock, ManualClock, SystemClock};
pub use coordinator::Coordinator;
pub use error::{CoordinatorError, error_text};
pub use in_process::InProcessServer;
pub use observability::observability;
pub use planner::step::{Snapshot, Step, StrategyState, plan_step};
pub use serve::{Limits, ServeOptions, serve};
pub use services::{RequestLayer, RequestService};
pub use settings::Settings;
pub use token::TokenSource;
