//! The use cases: one method each, in domain and store types.

pub(crate) mod agreement;
pub(crate) mod answering;
pub(crate) mod claims;
mod convergence;
pub(crate) mod leasing;
mod pace;
pub(crate) mod progress;
pub(crate) mod racing;
pub(crate) mod sampling;
pub(crate) mod sweeps;
pub(crate) mod workers;
