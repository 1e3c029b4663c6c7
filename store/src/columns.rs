//! Columns of rows as both forms of the store hold them, read into values: what is there may be damaged.

use avsweep_domain::{Fingerprint, SweepId, SweepState, WorkerId};

use crate::{StoreError, Timestamp, WorkerJob, WorkerKind, WorkerRecord, WorkerState, WorkerStatus};

/// A stored number that is never negative.
pub(crate) fn wide(value: i64, what: impl Fn() -> String) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(|_| StoreError::corrupt(what(), format!("{value} is negative")))
}

/// A stored number that fits 32 bits and is never negative.
pub(crate) fn narrow(value: i64, what: impl Fn() -> String) -> Result<u32, StoreError> {
    u32::try_from(value)
        .map_err(|_| StoreError::corrupt(what(), format!("{value} is out of its field's range")))
}

/// The state of a sweep from its column.
pub(crate) fn read_state(text: &str, id: SweepId) -> Result<SweepState, StoreError> {
    text.parse().map_err(|problem: String| StoreError::corrupt(format!("the state of sweep {id}"), problem))
}

/// A fingerprint from its bytes.
pub(crate) fn read_fingerprint(bytes: &[u8], what: impl Fn() -> String) -> Result<Fingerprint, StoreError> {
    bytes
        .try_into()
        .map(Fingerprint::from_bytes)
        .map_err(|_| StoreError::corrupt(what(), format!("its fingerprint has {} bytes", bytes.len())))
}

/// A kind as its column holds it.
pub(crate) fn kind_text(kind: WorkerKind) -> &'static str {
    match kind {
        WorkerKind::Worker => "worker",
        WorkerKind::Judge => "judge",
    }
}

fn read_kind(text: &str, name: &str) -> Result<WorkerKind, StoreError> {
    match text {
        "worker" => Ok(WorkerKind::Worker),
        "judge" => Ok(WorkerKind::Judge),
        other => Err(StoreError::corrupt(format!("worker '{name}'"), format!("kind '{other}' is unknown"))),
    }
}

/// A state as its column holds it.
pub(crate) fn state_text(state: WorkerState) -> &'static str {
    match state {
        WorkerState::Idle => "idle",
        WorkerState::Busy => "busy",
        WorkerState::Draining => "draining",
        WorkerState::Stopped => "stopped",
    }
}

fn read_worker_state(text: &str, name: &str) -> Result<WorkerState, StoreError> {
    match text {
        "idle" => Ok(WorkerState::Idle),
        "busy" => Ok(WorkerState::Busy),
        "draining" => Ok(WorkerState::Draining),
        "stopped" => Ok(WorkerState::Stopped),
        other => Err(StoreError::corrupt(format!("worker '{name}'"), format!("state '{other}' is unknown"))),
    }
}

/// A row of `workers`.
#[derive(sqlx::FromRow)]
pub(crate) struct WorkerRow {
    pub(crate) name: String,
    kind: String,
    state: String,
    device: String,
    host: String,
    version: String,
    finished: i64,
    failed: i64,
    lost: i64,
    results: i64,
    rate: f64,
    problem: Option<String>,
    first_seen: i64,
    last_seen: i64,
}

impl WorkerRow {
    /// The worker, with the jobs it holds.
    pub(crate) fn read(self, jobs: Vec<WorkerJob>) -> Result<WorkerRecord, StoreError> {
        let what = || format!("worker '{}'", self.name);
        Ok(WorkerRecord {
            status: WorkerStatus {
                kind: read_kind(&self.kind, &self.name)?,
                state: read_worker_state(&self.state, &self.name)?,
                finished: wide(self.finished, what)?,
                failed: wide(self.failed, what)?,
                lost: wide(self.lost, what)?,
                results: wide(self.results, what)?,
                worker: WorkerId(self.name),
                device: self.device,
                host: self.host,
                version: self.version,
                rate: self.rate,
                problem: self.problem,
            },
            first_seen: Timestamp(self.first_seen),
            last_seen: Timestamp(self.last_seen),
            jobs,
        })
    }
}
