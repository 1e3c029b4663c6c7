//! What goes into the store and comes out of it.

use std::sync::Arc;
use std::time::Duration;

use avsweep_domain::{
    Fingerprint, JobId, JobState, LeaseToken, Point, QueryScore, QuerySlice, Response, Rung, SweepDefinition,
    SweepId, SweepState, Verdict, WorkerId,
};

/// Milliseconds since 1970-01-01T00:00:00Z, by the coordinator's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The time `duration` later.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }
}

/// The outcome of creating a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Created {
    /// The sweep.
    pub id: SweepId,
    /// `false` when it was there already.
    pub created: bool,
    /// Its state.
    pub state: SweepState,
}

/// A sweep as stored.
#[derive(Clone, Debug)]
pub struct SweepRecord {
    /// Its number.
    pub id: SweepId,
    /// Its state.
    pub state: SweepState,
    /// Its definition.
    pub definition: Arc<SweepDefinition>,
    /// The definition's fingerprint.
    pub fingerprint: Fingerprint,
    /// When it was created.
    pub created_at: Timestamp,
    /// Higher goes first; 0 is usual.
    pub priority: i32,
}

/// What deleting a sweep took away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Its jobs.
    pub jobs: u64,
    /// Points that no other sweep has, with all their results.
    pub points: u64,
}

/// The right to plan a sweep's next points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanningGuard {
    /// The sweep.
    pub sweep: SweepId,
    /// The holder's secret.
    pub holder: LeaseToken,
    /// Counts the sweep's planners from 1: the same holder that takes it again, with no other in between, stays in
    /// its term.
    pub term: u64,
}

/// A sweep's jobs of one rung, by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RungCounts {
    /// Waiting.
    pub ready: u64,
    /// Held.
    pub leased: u64,
    /// Finished.
    pub done: u64,
    /// Over a failure limit.
    pub parked: u64,
    /// Closed early: out of reach for every target.
    pub raced: u64,
}

impl RungCounts {
    /// Jobs that will still change by themselves.
    pub fn open(&self) -> u64 {
        self.ready + self.leased
    }
}

/// Sums over a sweep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepTotals {
    /// Points planned so far.
    pub points: u64,
    /// Likelihood jobs.
    pub likelihood: RungCounts,
    /// Generation jobs.
    pub generation: RungCounts,
    /// Judgement jobs.
    pub judgement: RungCounts,
    /// Query results that this sweep's jobs brought in.
    pub results: u64,
    /// Query results that were stored already when reported: waste.
    pub duplicate_results: u64,
    /// Times that workers reported.
    pub timings: Timings,
    /// Lost attempts of all jobs so far, retried ones included.
    pub lost: u64,
    /// Failed evaluations of all jobs so far, retried ones included.
    pub errors: u64,
    /// Workers and judges that hold a lease.
    pub holders: u32,
    /// Query results that raced jobs were closed without.
    pub saved: u64,
}

/// Where a worker's time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Loading model and vectors.
    pub load: Duration,
    /// Merging.
    pub merge: Duration,
    /// Scoring, generating or judging.
    pub evaluate: Duration,
}

/// A job to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NewJob {
    /// Where.
    pub point: Point,
    /// What is measured.
    pub rung: Rung,
    /// On which queries.
    pub slice: QuerySlice,
    /// Higher goes first; 0 is usual.
    pub priority: i32,
}

/// Points and jobs to add; a point of a job need not be listed apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The jobs.
    pub jobs: Vec<NewJob>,
    /// The decision that they come from, where it depends on results: written with them.
    pub choice: Option<Choice>,
}

/// A strategy's decision, with what it had seen: enough to take it again.
///
/// Results never change, so what was seen follows from which points were measured: all that were chosen before, less
/// those that were pending and those that were given up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// How many points had been proposed before.
    pub proposed: u64,
    /// How many points were asked for at most.
    pub asked: u32,
    /// Those of them that were not measured yet.
    pub pending: Vec<Point>,
    /// Those that would never be measured, as it looked then: their jobs were parked.
    pub given_up: Vec<Point>,
    /// The points chosen, best first.
    pub points: Vec<Point>,
}

/// A point that a strategy has proposed, and what came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchPoint {
    /// The point.
    pub point: Point,
    /// What came of it.
    pub state: SearchState,
}

/// What came of a proposed point on the search queries.
#[derive(Clone, Debug, PartialEq)]
pub enum SearchState {
    /// Not measured in full yet.
    Pending,
    /// A job that it takes was parked.
    GivenUp,
    /// Closed early, out of reach for every target: that stands, unless another sweep measures the rest.
    Raced,
    /// Measured in full on the rung that points are chosen by.
    Measured {
        /// Mean log-probability per token (nats) of every level's reference: `queries × levels` numbers, by ordinal.
        /// Empty unless all queries are scored.
        log_probs: Vec<f32>,
        /// Responses judged to be at each level: `domains × levels` counts. `None` unless all queries are judged.
        judged: Option<Vec<u32>>,
    },
}

/// What a plan changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    /// Points that the sweep did not have.
    pub new_points: u64,
    /// Jobs that were added and wait for a worker.
    pub new_jobs: u64,
    /// Jobs that were added as done: their results are stored already.
    pub reused_jobs: u64,
}

/// Which of a sweep's points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PointFilter<'a> {
    /// All of them.
    All,
    /// These, where they are of the sweep.
    These(&'a [Point]),
}

/// The right to write a job's results: job, attempt and secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseRef {
    /// The job.
    pub job: JobId,
    /// Counts the job's leases from 1.
    pub attempt: u32,
    /// The secret.
    pub token: LeaseToken,
}

/// Whether a lease is still held by whoever shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseStatus {
    /// It is.
    Held,
    /// It expired, was given back, or its job is done: nothing was written.
    Lost,
}

/// A worker's wish for jobs.
#[derive(Clone, Debug)]
pub struct LeaseClaim {
    /// Who asks.
    pub worker: WorkerId,
    /// What it can do.
    pub rungs: Vec<Rung>,
    /// At most this many.
    pub max_jobs: u32,
    /// How long each lease lasts from now.
    pub duration: Duration,
    /// Fresh random bytes from the caller; the secret of every lease of this claim.
    pub token: LeaseToken,
    /// Sweeps that the worker cannot do (its model files are not theirs).
    pub except: Vec<SweepId>,
    /// The sweep whose model the worker has loaded, if it should stay with it.
    pub prefers: Option<SweepId>,
}

/// A lease with what it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The right to write.
    pub reference: LeaseRef,
    /// When it ends unless renewed.
    pub expires: Timestamp,
}

/// A job in a worker's hands.
#[derive(Clone, Debug, PartialEq)]
pub struct LeasedJob {
    /// The lease.
    pub lease: Lease,
    /// Its sweep.
    pub sweep: SweepId,
    /// The sweep's fingerprint.
    pub sweep_fingerprint: Fingerprint,
    /// What is measured.
    pub rung: Rung,
    /// Where.
    pub point: Point,
    /// The queries that still lack a result, ascending; never empty.
    pub ordinals: Vec<u32>,
    /// Judgement jobs: the responses to judge, one per ordinal; else empty.
    pub responses: Vec<Response>,
}

/// Results of a report, each with its query's ordinal.
#[derive(Clone, Debug, PartialEq)]
pub enum JobResults {
    /// Likelihood jobs.
    Scores(Vec<(u32, QueryScore)>),
    /// Generation jobs.
    Responses(Vec<(u32, Response)>),
    /// Judgement jobs.
    Verdicts(Vec<(u32, Verdict)>),
}

/// A batch of results under a lease.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The right to write.
    pub lease: LeaseRef,
    /// The results.
    pub results: JobResults,
    /// Whether the job is finished with these.
    pub finished: bool,
    /// Where the time went.
    pub timings: Timings,
}

/// Which jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Of this sweep; `None` is all.
    pub sweep: Option<SweepId>,
    /// In one of these states; empty is all.
    pub states: Vec<JobState>,
    /// After this job, for the next page.
    pub after: Option<JobId>,
    /// At most this many.
    pub limit: u32,
}

/// A job as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRecord {
    /// The job.
    pub id: JobId,
    /// Its sweep.
    pub sweep: SweepId,
    /// What it is.
    pub job: NewJob,
    /// Where it stands.
    pub state: JobState,
    /// Leases so far.
    pub attempt: u32,
    /// Who holds it, or held it last.
    pub worker: Option<WorkerId>,
    /// When its lease ends, while it is leased.
    pub expires: Option<Timestamp>,
    /// Lost attempts since it last brought a new result.
    pub lost: u32,
    /// Failed evaluations.
    pub errors: u32,
    /// The last error, if an attempt failed or was lost.
    pub last_error: Option<String>,
}

/// What a process that pulls jobs does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerKind {
    /// Merges, scores and generates.
    Worker,
    /// Judges.
    Judge,
}

/// What a worker says it is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// Waits for jobs.
    Idle,
    /// Works on one.
    Busy,
    /// Finishes or gives back what it holds, then ends.
    Draining,
    /// Has ended in order.
    Stopped,
}

/// What a worker or judge says of itself. Counts are since its start.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerStatus {
    /// Who.
    pub worker: WorkerId,
    /// What it does.
    pub kind: WorkerKind,
    /// Its state.
    pub state: WorkerState,
    /// What it computes on (`cpu, 2 threads`), or whom it asks.
    pub device: String,
    /// The machine's name.
    pub host: String,
    /// Its program's version.
    pub version: String,
    /// Jobs finished.
    pub finished: u64,
    /// Jobs failed.
    pub failed: u64,
    /// Jobs whose lease was lost.
    pub lost: u64,
    /// Query results reported.
    pub results: u64,
    /// Query results per second, lately.
    pub rate: f64,
    /// What is wrong with it, if something is (model files that are not a sweep's).
    pub problem: Option<String>,
}

/// A job that a worker holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerJob {
    /// The job.
    pub id: JobId,
    /// Its sweep.
    pub sweep: SweepId,
    /// What is measured.
    pub rung: Rung,
    /// Where.
    pub point: Point,
}

/// A worker as remembered.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerRecord {
    /// What it last said.
    pub status: WorkerStatus,
    /// When it was first seen.
    pub first_seen: Timestamp,
    /// When it was last seen.
    pub last_seen: Timestamp,
    /// The jobs whose leases it holds, in the order in which it got them.
    pub jobs: Vec<WorkerJob>,
}

/// Sums over all sweeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overview {
    /// Likelihood jobs.
    pub likelihood: RungCounts,
    /// Generation jobs.
    pub generation: RungCounts,
    /// Judgement jobs.
    pub judgement: RungCounts,
    /// Running sweeps.
    pub running: u64,
    /// Leases that have ended and are not taken back yet.
    pub expired: u64,
    /// The earliest end of a lease that is held.
    pub next_expiry: Option<Timestamp>,
}

/// One stored result.
#[derive(Clone, Debug, PartialEq)]
pub enum ResultValue {
    /// Likelihood rung.
    Score(QueryScore),
    /// Generation rung.
    Response(Response),
    /// Judgement rung.
    Verdict(Verdict),
}

/// One stored result with its identity in the sweep.
#[derive(Clone, Debug, PartialEq)]
pub struct ResultRow {
    /// Where.
    pub point: Point,
    /// Which query.
    pub ordinal: u32,
    /// The result.
    pub value: ResultValue,
}

/// Results of some whole points.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResultPage {
    /// The results.
    pub rows: Vec<ResultRow>,
    /// The last point of the page, with or without results; `None` at the end.
    pub last: Option<Point>,
}

/// A job's id with its state, for a look at one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobStatus {
    /// The job.
    pub id: JobId,
    /// What is measured.
    pub rung: Rung,
    /// On which queries.
    pub slice: QuerySlice,
    /// Where it stands.
    pub state: JobState,
    /// The last error, if an attempt failed.
    pub last_error: Option<String>,
}
