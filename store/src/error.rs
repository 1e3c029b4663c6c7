//! What can go wrong in a store.

use std::path::PathBuf;
use std::sync::Arc;

use avsweep_domain::{
    DefinitionError, Fingerprint, JobId, QuerySlice, Rung, SweepId, SweepState, TransitionError,
};

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
    /// A sweep that is still worked on cannot be deleted.
    #[error("sweep '{name}' is {state}: cancel it first ('avsweep sweep cancel {name}')")]
    SweepRunning {
        /// The sweep.
        name: String,
        /// Its state.
        state: SweepState,
    },
    /// Another coordinator plans the sweep now: what was to be written under the guard is not.
    #[error("another coordinator has taken over planning sweep {sweep}")]
    PlanningLost {
        /// The sweep.
        sweep: SweepId,
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
        /// The file, or the database's address.
        path: PathBuf,
        /// The version found.
        found: i64,
        /// The newest version known.
        known: i64,
    },
    /// The store was written by an earlier version, and nobody asked to bring it up to date.
    #[error("store {}: its schema has version {found}, {known} is wanted: {remedy}", .path.display())]
    Older {
        /// The file, or the database's address.
        path: PathBuf,
        /// The version found.
        found: i64,
        /// The version wanted.
        known: i64,
        /// What brings it up to date.
        remedy: &'static str,
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
    /// A database's address that cannot be read. It is not repeated: it may hold a password.
    #[error(
        "the address of the store is no PostgreSQL URL ({problem}): \
         postgres://USER:PASSWORD@HOST:PORT/DATABASE is wanted"
    )]
    Url {
        /// What is wrong with it.
        problem: String,
    },
    /// The server that holds the store could not be reached when it was opened.
    #[error(
        "the store {place} cannot be reached: check its address, and that the server runs and lets you in"
    )]
    Unreachable {
        /// The database's address, without a password.
        place: String,
        /// The cause.
        source: sqlx::Error,
    },
    /// The server that holds the store did not answer. The call may or may not have had its effect; trying again later
    /// is right.
    #[error("store: {operation}: the database does not answer")]
    Unavailable {
        /// What was tried.
        operation: &'static str,
        /// The cause.
        source: sqlx::Error,
    },
    /// The database failed.
    #[error("store: {operation} failed")]
    Database {
        /// What was tried.
        operation: &'static str,
        /// The cause.
        source: sqlx::Error,
    },
    /// A call for several failed, and this is what each of them is told.
    #[error(transparent)]
    Shared(Arc<StoreError>),
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
        self.map_err(|source| {
            if is_out_of_reach(&source) {
                StoreError::Unavailable { operation, source }
            } else {
                StoreError::Database { operation, source }
            }
        })
    }
}

/// Whether an error says that the server is not there, rather than what it thinks of a statement.
fn is_out_of_reach(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed => true,
        // Connection exceptions; the server stops, crashes or starts; it has too many connections.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            code.starts_with("08")
                || matches!(&*code, "57P01" | "57P02" | "57P03" | "57P05" | "53300" | "25P03")
        }),
        _ => false,
    }
}

impl StoreError {
    /// Whether the store is out of reach for now, so that the same call can succeed later.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Unavailable { .. } => true,
            // A server that answers with a wrong password or an unknown database will go on doing so.
            Self::Unreachable { source, .. } => is_out_of_reach(source),
            Self::Shared(error) => error.is_unavailable(),
            _ => false,
        }
    }

    /// The same error for each of several callers.
    pub(crate) fn for_each_of<T>(self, callers: usize) -> Vec<Result<T, Self>> {
        let error = Arc::new(self);
        (0..callers).map(|_| Err(Self::Shared(Arc::clone(&error)))).collect()
    }

    /// A row that this program could not have written.
    pub(crate) fn corrupt(what: impl Into<String>, problem: impl std::fmt::Display) -> Self {
        Self::Corrupt { what: what.into(), problem: problem.to_string() }
    }
}
