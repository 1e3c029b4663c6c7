//! What can go wrong in a store.

use std::path::PathBuf;

use avsweep_domain::{DefinitionError, Fingerprint, JobId, QuerySlice, Rung, SweepId, TransitionError};

use crate::NewJob;

/// A store's refusal or failure. Nothing is changed by a call that returns one.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The name is taken by another definition.
    #[error(
        "sweep '{name}' is in the store already with another definition ({}, not {}): \
         give the changed sweep another name, or use another store",
        .stored.short(), .given.short()
    )]
    SweepDiffers {
        /// The name.
        name: String,
        /// The stored definition's fingerprint.
        stored: Fingerprint,
        /// The given definition's fingerprint.
        given: Fingerprint,
    },
    /// No sweep by that name or number.
    #[error("there is no sweep '{wanted}' in the store; {}", known_sweeps(.known))]
    NoSuchSweep {
        /// The name or number asked for.
        wanted: String,
        /// The names there are, newest first.
        known: Vec<String>,
    },
    /// No job by that number.
    #[error("there is no job {0} in the store")]
    NoSuchJob(JobId),
    /// A change of a sweep's state that is not allowed.
    #[error("sweep {sweep}: {source}")]
    Transition {
        /// The sweep.
        sweep: SweepId,
        /// What is not allowed.
        source: TransitionError,
    },
    /// A definition that cannot be stored.
    #[error("sweep '{name}': {source}")]
    BadDefinition {
        /// The sweep's name.
        name: String,
        /// What is wrong.
        source: DefinitionError,
    },
    /// A definition that would not come back as it went in.
    #[error("sweep '{name}' cannot be stored: {problem}")]
    Unstorable {
        /// The sweep's name.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// A job that cannot be planned.
    #[error("sweep {sweep}: the {} job on queries {} to {} at point {} {problem}",
        .job.rung, .job.slice.start, .job.slice.end, .job.point)]
    BadPlan {
        /// The sweep.
        sweep: SweepId,
        /// The job.
        job: Box<NewJob>,
        /// What is wrong.
        problem: PlanProblem,
    },
    /// A report that cannot be of its job.
    #[error("report for job {job}: {problem}")]
    BadReport {
        /// The job.
        job: JobId,
        /// What is wrong.
        problem: ReportProblem,
    },
    /// The store was written by a later version of the program.
    #[error(
        "store {}: its schema has version {found}, this program knows up to {known}: use a newer avsweep",
        .path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: i64,
        /// The newest version known.
        known: i64,
    },
    /// The store was written by an earlier version, and it was opened for reading only.
    #[error(
        "store {}: its schema has version {found}, {known} is wanted: \
         open it once for writing and it is brought up to date",
        .path.display()
    )]
    Older {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: i64,
        /// The version wanted.
        known: i64,
    },
    /// A file that is no store.
    #[error("{} is no avsweep store: {problem}", .path.display())]
    NotAStore {
        /// The file.
        path: PathBuf,
        /// How that shows.
        problem: String,
    },
    /// A store that was to be read is not there.
    #[error("there is no store {}: `avsweep run` makes one", .path.display())]
    Missing {
        /// The file wanted.
        path: PathBuf,
    },
    /// Another process holds the store for itself.
    #[error(
        "store {} is in use by another avsweep process, which holds {}: \
         wait for it, stop it, or use another store",
        .path.display(), .lock.display()
    )]
    InUse {
        /// The store.
        path: PathBuf,
        /// The lock file.
        lock: PathBuf,
    },
    /// A write to a store that was opened for reading only.
    #[error("{operation}: the store was opened for reading only")]
    ReadOnly {
        /// What was tried.
        operation: &'static str,
    },
    /// A file could not be used.
    #[error("{operation} {}", .path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The database failed.
    #[error("store: {operation} failed")]
    Database {
        /// What was tried.
        operation: &'static str,
        /// The cause.
        source: sqlx::Error,
    },
    /// A row that this program could not have written.
    #[error("store: {what} is damaged: {problem}")]
    Corrupt {
        /// The row.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Why a job cannot be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanProblem {
    /// The point is of another space.
    #[error("has {found} coefficients; the sweep has {wanted}")]
    Dimensions {
        /// Values found.
        found: usize,
        /// Values wanted.
        wanted: usize,
    },
    /// The slice is empty or reaches past the sweep's queries.
    #[error("has no valid slice: the sweep has queries 0 to {queries}")]
    Slice {
        /// How many queries the sweep has.
        queries: usize,
    },
    /// There is nothing to judge yet.
    #[error("lacks the response to query {ordinal}: a judgement is planned once its responses are stored")]
    NoResponse {
        /// The first query without a response.
        ordinal: u32,
    },
}

/// Why a report cannot be of its job.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ReportProblem {
    /// Results of another rung.
    #[error("it holds {found} results; the job is a {wanted} job")]
    Rung {
        /// The results' rung.
        found: Rung,
        /// The job's rung.
        wanted: Rung,
    },
    /// A query that the job is not on.
    #[error("query {ordinal} is not of the job, which has {} to {}", .slice.start, .slice.end)]
    ForeignQuery {
        /// The ordinal found.
        ordinal: u32,
        /// The job's slice.
        slice: QuerySlice,
    },
    /// A query that stands twice.
    #[error("query {ordinal} stands twice")]
    DoubledQuery {
        /// The ordinal.
        ordinal: u32,
    },
    /// Not one score per level.
    #[error("query {ordinal} has {found} scores; one for each of {wanted} levels is wanted")]
    ScoreCount {
        /// The ordinal.
        ordinal: u32,
        /// Scores found.
        found: usize,
        /// Scores wanted.
        wanted: usize,
    },
    /// A log-probability that is none.
    #[error(
        "query {ordinal}, level {level}: log-probability {found}; a finite number of at most 0 is wanted"
    )]
    LogProb {
        /// The ordinal.
        ordinal: u32,
        /// The level's index.
        level: usize,
        /// The number found.
        found: f64,
    },
    /// A reference without tokens or bytes.
    #[error(
        "query {ordinal}, level {level}: {tokens} tokens and {bytes} bytes scored; at least 1 of each is wanted"
    )]
    EmptyReference {
        /// The ordinal.
        ordinal: u32,
        /// The level's index.
        level: usize,
        /// Tokens found.
        tokens: u32,
        /// Bytes found.
        bytes: u32,
    },
    /// A verdict that names no level of the sweep.
    #[error("query {ordinal}: level number {found}; the sweep has {levels} levels")]
    UnknownLevel {
        /// The ordinal.
        ordinal: u32,
        /// The level's index.
        found: u8,
        /// How many levels there are.
        levels: usize,
    },
    /// A confidence that is none.
    #[error("query {ordinal}: confidence {found}; 0 to 1 is wanted")]
    Confidence {
        /// The ordinal.
        ordinal: u32,
        /// The number found.
        found: f64,
    },
    /// The last report, and something is missing.
    #[error("it is the last, but {missing} of {wanted} queries have no result (the first is {first})")]
    Unfinished {
        /// Queries without a result.
        missing: usize,
        /// Queries of the job.
        wanted: usize,
        /// The first ordinal without a result.
        first: u32,
    },
}

fn known_sweeps(known: &[String]) -> String {
    if known.is_empty() { "it holds none".to_owned() } else { format!("it holds {}", known.join(", ")) }
}

/// Names the operation that a database error happened in.
pub(crate) trait During<T> {
    /// The result with its error as [`StoreError::Database`].
    fn during(self, operation: &'static str) -> Result<T, StoreError>;
}

impl<T> During<T> for Result<T, sqlx::Error> {
    fn during(self, operation: &'static str) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Database { operation, source })
    }
}

impl StoreError {
    /// A row that this program could not have written.
    pub(crate) fn corrupt(what: impl Into<String>, problem: impl std::fmt::Display) -> Self {
        Self::Corrupt { what: what.into(), problem: problem.to_string() }
    }
}
