//! What can go wrong in a worker, in a job, and with model files.

use std::time::Duration;

use avsweep_domain::Rung;
use avsweep_engine::{EngineError, ItemError};
use avsweep_lease::AccessError;

/// Why a worker cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The sweep's model cannot be used here, and the worker was to end then.
    #[error("sweep {sweep}")]
    Unfit {
        /// The sweep's number.
        sweep: i64,
        /// Why.
        source: UnfitError,
    },
    /// The system gives no thread.
    #[error("the engine's threads cannot be started: {0}")]
    Threads(String),
    /// The device cannot be used.
    #[error(transparent)]
    Device(Box<EngineError>),
    /// The evaluator is gone.
    #[error("the engine ended unexpectedly")]
    EngineGone,
    /// The coordinator does not let this worker in.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The coordinator refuses what this worker sends.
    #[error("{coordinator} refused {operation}: {reason}")]
    Refused {
        /// The coordinator's address.
        coordinator: String,
        /// The call.
        operation: &'static str,
        /// The coordinator's reason.
        reason: String,
    },
    /// The coordinator has been away for longer than is waited for it.
    #[error(
        "{coordinator} has not answered for {} s, and no longer is waited for it (--on-coordinator-lost stop)",
        patience.as_secs()
    )]
    CoordinatorLost {
        /// The coordinator's address.
        coordinator: String,
        /// The time.
        patience: Duration,
    },
}

/// Why a sweep's jobs cannot be done here, while another worker may do them.
#[derive(Debug, thiserror::Error)]
pub enum UnfitError {
    /// Model files are not those that the sweep was created with.
    #[error(
        "{path} has fingerprint {found}, wanted {wanted}: bring back the files that the sweep was created with, or \
         start a new sweep"
    )]
    FilesDiffer {
        /// The file or folder.
        path: String,
        /// Its fingerprint now.
        found: String,
        /// The sweep's.
        wanted: String,
    },
    /// Model files are not there.
    #[error("{location} is not here (looked for: {tried}); put it there, or name the folder by --model-root")]
    Missing {
        /// Where the sweep says that they are.
        location: String,
        /// The paths that were tried, joined.
        tried: String,
    },
    /// Model files could not be fetched.
    #[error("{location} could not be fetched: {reason}")]
    Fetch {
        /// Where the sweep says that they are.
        location: String,
        /// Why, with all causes.
        reason: String,
    },
    /// Model files cannot be opened.
    #[error("the model cannot be opened")]
    Open(#[from] EngineError),
    /// The model does not fit this device's memory.
    #[error("{path} does not fit the memory here: {reason}")]
    TooLarge {
        /// The base model.
        path: String,
        /// What the device said.
        reason: String,
    },
}

/// Why a job cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// One of its queries cannot be evaluated.
    #[error("query '{query}'")]
    Query {
        /// The query's id.
        query: String,
        /// Why.
        source: ItemError,
    },
    /// The engine refuses the point or the settings.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A query that the sweep does not have.
    #[error("query number {ordinal} of a sweep with {known}")]
    UnknownQuery {
        /// The number found.
        ordinal: u32,
        /// Queries of the sweep.
        known: usize,
    },
    /// A rung that needs no engine.
    #[error("rung {0} is no work for an engine")]
    WrongRung(Rung),
    /// The engine broke on it.
    #[error("the engine panicked: {0}")]
    Panicked(String),
    /// A single query does not fit the memory.
    #[error("the device's memory does not suffice for a single query: {reason}")]
    OutOfMemory {
        /// What the device said.
        reason: String,
    },
    /// The evaluator said that it was finished before every query had its result.
    #[error("the engine ended with {missing} of {wanted} queries without a result")]
    Incomplete {
        /// Queries without one.
        missing: usize,
        /// Queries asked for.
        wanted: usize,
    },
    /// A step was asked for before the model was loaded.
    #[error("no model is loaded")]
    NothingLoaded,
}
