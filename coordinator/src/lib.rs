//! The coordinator: the only part that touches the store.
//!
//! Three layers, each of which knows only the next one:
//!
//! - `services`: the gRPC edge. Parses a request, calls a use case, writes the reply, maps errors to status codes.
//! - `application`: the use cases, free of wire types.
//! - the [`Store`](avsweep_store::Store).
//!
//! Beside them run the `planner` and the `reaper`: background tasks that take no input and can run at any time.
//! Nothing is kept in memory that cannot be rebuilt from the store.

mod application;
mod background;
mod clock;
mod coordinator;
mod error;
mod in_process;
mod planner;
mod services;
mod settings;
mod signals;
mod token;

pub use application::progress::Progress;
pub use application::sampling::{Sample, SampleRequest, SampledResponse};
pub use clock::{Clock, ManualClock, SystemClock};
pub use coordinator::Coordinator;
pub use error::{CoordinatorError, error_text};
pub use in_process::InProcessServer;
pub use planner::step::{Snapshot, Step, StrategyState, plan_step};
pub use settings::Settings;
pub use token::TokenSource;
