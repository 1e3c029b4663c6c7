//! What can go wrong in a worker, and in a job.

use avsweep_domain::Rung;
use avsweep_engine::{EngineError, ItemError};

/// Why a worker cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Model files are not those that the sweep was created with.
    #[error(
        "{path}: fingerprint {found}, the sweep was created with {wanted}: bring back the files or start a new sweep"
    )]
    FilesDiffer {
        /// The file or folder.
        path: String,
        /// Its fingerprint now.
        found: String,
        /// The sweep's.
        wanted: String,
    },
    /// The model cannot be loaded.
    #[error("the model cannot be loaded")]
    Load(#[from] EngineError),
    /// The system gives no thread.
    #[error("the engine's threads cannot be started: {0}")]
    Threads(String),
    /// The engine thread is gone.
    #[error("the engine thread ended unexpectedly")]
    EngineGone,
    /// The coordinator refuses what this worker sends.
    #[error("the coordinator refused {operation}: {reason}")]
    Refused {
        /// The call.
        operation: &'static str,
        /// The coordinator's reason.
        reason: String,
    },
}

/// Why a job cannot be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobError {
    /// One of its queries cannot be evaluated.
    #[error("query '{query}'")]
    Query { query: String, source: ItemError },
    /// The engine refuses the point or the settings.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A query that the sweep does not have.
    #[error("query number {ordinal} of a sweep with {known}")]
    UnknownQuery { ordinal: u32, known: usize },
    /// A rung that needs no engine.
    #[error("rung {0} is no work for an engine")]
    WrongRung(Rung),
    /// The engine broke on it.
    #[error("the engine panicked: {0}")]
    Panicked(String),
    /// A step was asked for before the model was loaded.
    #[error("no model is loaded")]
    NothingLoaded,
}
