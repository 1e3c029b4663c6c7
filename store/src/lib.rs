//! Durable state: sweeps, points, jobs, leases and results behind one trait.
//!
//! The only crate that knows sqlx. [`SqliteStore`] serves one machine, [`PostgresStore`] a cluster. Every form passes the one contract suite in
//! `tests/contract`; what a method promises is written at the trait and tested there.

mod check;
mod codec;
mod columns;
mod error;
mod fair;
mod layout;
mod packed_tallies;
mod point_results;
mod postgres;
mod record;
mod search_points;
mod sqlite;

use std::time::Duration;

use async_trait::async_trait;
use avsweep_domain::{
    FailureLimits, JobId, LeaseToken, Point, PointTallies, Rung, SweepDefinition, SweepId, SweepState,
};

pub use error::{PlanProblem, ReportProblem, StoreError};
pub use postgres::{PostgresStore, PostgresStoreOptions};
pub use record::{
    Choice, Created, Deleted, JobFilter, JobRecord, JobResults, JobStatus, Lease, LeaseClaim, LeaseRef,
    LeaseStatus, LeasedJob, NewJob, Overview, Plan, Planned, PlanningGuard, PointFilter, Report, ResultPage,
    ResultRow, ResultValue, RungCounts, SearchPoint, SearchState, SweepRecord, SweepTotals, Timestamp,
    Timings, WorkerJob, WorkerKind, WorkerRecord, WorkerState, WorkerStatus,
};
pub use sqlite::{SqliteLocation, SqliteStore, SqliteStoreOptions};

/// Takes the answer to one of several claims, with the claim's place among them.
pub type Answered<'a> = &'a mut (dyn FnMut(usize, Result<Vec<LeasedJob>, StoreError>) + Send);

/// Durable state. Every method is one short transaction; none waits for anything but the database.
///
/// The caller brings the time and the randomness, so that a store's behaviour is a function of its calls.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug + 'static {
    /// Creates a sweep in state `Running`, or finds the one with the same name and fingerprint
    /// (then nothing changes, the priority neither, but paths to model files and the judge's way of being reached are
    /// brought up to date).
    ///
    /// # Errors
    /// [`StoreError::SweepDiffers`] when the name is taken by another definition, [`StoreError::BadDefinition`] and
    /// [`StoreError::Unstorable`] when it is unsound or would not come back as it is.
    async fn create_sweep(
        &self,
        definition: &SweepDefinition,
        priority: i32,
        now: Timestamp,
    ) -> Result<Created, StoreError>;

    /// A sweep by number. The definition is shared, cheap to ask for again.
    ///
    /// # Errors
    /// [`StoreError::NoSuchSweep`].
    async fn sweep(&self, id: SweepId) -> Result<SweepRecord, StoreError>;

    /// A sweep by name, or by number in decimal.
    ///
    /// # Errors
    /// [`StoreError::NoSuchSweep`], which lists the names there are.
    async fn find_sweep(&self, name_or_number: &str) -> Result<SweepRecord, StoreError>;

    /// Every sweep, newest first.
    async fn sweeps(&self) -> Result<Vec<SweepRecord>, StoreError>;

    /// Changes a sweep's state if the transition is allowed; staying is.
    ///
    /// # Errors
    /// [`StoreError::Transition`], [`StoreError::NoSuchSweep`].
    async fn set_sweep_state(&self, id: SweepId, to: SweepState) -> Result<(), StoreError>;

    /// Changes a sweep's priority; jobs of a sweep with a higher one always go first.
    ///
    /// # Errors
    /// [`StoreError::NoSuchSweep`].
    async fn set_sweep_priority(&self, id: SweepId, priority: i32) -> Result<(), StoreError>;

    /// Deletes a sweep with its jobs, and all results at points that no other sweep has. A verdict stays while a
    /// response elsewhere has it. Numbers of jobs and points are never given out again.
    ///
    /// A large sweep goes in steps, each a transaction: from the first on it is cancelled and has fewer points, and
    /// one that was interrupted is finished by asking again.
    ///
    /// # Errors
    /// [`StoreError::SweepRunning`] when it is running or paused, [`StoreError::NoSuchSweep`].
    async fn delete_sweep(&self, id: SweepId) -> Result<Deleted, StoreError>;

    /// Takes the right to plan a sweep's next points until `now + duration`, or extends it for the same `holder`.
    /// `None` while another holds it. At most one holds it at a time; one that was passed on writes nothing more.
    /// It is held up to and at its end. Whoever takes it again before another had it goes on in the same term.
    ///
    /// # Errors
    /// [`StoreError::NoSuchSweep`].
    async fn claim_planning(
        &self,
        sweep: SweepId,
        holder: LeaseToken,
        duration: Duration,
        now: Timestamp,
    ) -> Result<Option<PlanningGuard>, StoreError>;

    /// Gives the right to plan back. One that is lost is passed over.
    async fn release_planning(&self, guard: &PlanningGuard) -> Result<(), StoreError>;

    /// Declares a sweep done if it is running and no job of it is ready or leased, in one transaction. Returns whether
    /// it is done now (it may have been before).
    ///
    /// # Errors
    /// [`StoreError::PlanningLost`].
    async fn finish_sweep(&self, guard: &PlanningGuard, now: Timestamp) -> Result<bool, StoreError>;

    /// Job counts by rung and state, results and times of a sweep.
    async fn totals(&self, id: SweepId) -> Result<SweepTotals, StoreError>;

    /// Adds points and jobs to a sweep in one transaction. Idempotent: a point or job that is there stays as it is.
    ///
    /// A job whose results are all stored already (by an earlier sweep over the same inputs) is written as done, and
    /// the point's tallies are brought up to date: nothing is evaluated twice (law 2).
    ///
    /// What the planner plans is written under its `guard`, what a user asks for (a sample) without one. A plan's choice
    /// is written with it; see [`Store::choices`].
    ///
    /// # Errors
    /// [`StoreError::BadPlan`] when a point or slice is not of the sweep, or a judgement job's responses are not all
    /// stored; [`StoreError::PlanningLost`] when the guard is not held at `now`. Nothing is added then.
    async fn plan(
        &self,
        sweep: SweepId,
        plan: &Plan,
        guard: Option<&PlanningGuard>,
        now: Timestamp,
    ) -> Result<Planned, StoreError>;

    /// Points of the sweep (see [`PointFilter`]) with their tallies, by ticks.
    async fn tallies(&self, sweep: SweepId, filter: PointFilter<'_>)
    -> Result<Vec<PointTallies>, StoreError>;

    /// Generation jobs (as they were planned) that are done and have no judgement job of the same point and slice yet.
    async fn unjudged(&self, sweep: SweepId) -> Result<Vec<NewJob>, StoreError>;

    /// Leases up to `claim.max_jobs` ready jobs of running sweeps.
    ///
    /// Sweeps of the highest priority go first. Among equals: the one that the claim prefers, then the one with the
    /// fewest leased jobs of the rungs asked for (fair shares), then in an order drawn from the claim's token. A claim takes all it can from
    /// one sweep before it looks at the next, so that a worker does not change models for every job. Within a sweep:
    /// highest job priority first, then oldest.
    ///
    /// Each comes with the ordinals that still lack a result (for judgement jobs: with the responses to judge, where
    /// no verdict is stored for the same query, response and judge). Of ordinals whose queries have one content the
    /// first is handed out, its result counts for all. A job that turns out to lack none is closed and not handed out;
    /// fewer jobs than asked for come then, but none only when none is ready.
    ///
    /// A lease is held up to and at its end, lost after it, whether anybody has taken it back or not. It need not
    /// survive a power cut.
    async fn lease(&self, claim: &LeaseClaim, now: Timestamp) -> Result<Vec<LeasedJob>, StoreError>;

    /// Leases for several claims at once: as [`Store::lease`] for each of them, in order. Each is answered once, as soon
    /// as its own jobs are there.
    ///
    /// Where others claim at the same time, a claim may get fewer jobs than it would alone, but none only when none is
    /// ready.
    async fn lease_several(&self, claims: &[LeaseClaim], now: Timestamp, answered: Answered<'_>) {
        for (place, claim) in claims.iter().enumerate() {
            match self.lease(claim, now).await {
                Ok(jobs) => answered(place, Ok(jobs)),
                // What failed for one would fail for the others, each after its own timeout.
                Err(error) => {
                    let told = error.for_each_of(claims.len() - place);
                    (place..).zip(told).for_each(|(place, answer)| answered(place, answer));
                    return;
                }
            }
        }
    }

    /// Extends leases to `now + duration`. One status per lease, in order.
    async fn renew(
        &self,
        leases: &[LeaseRef],
        duration: Duration,
        now: Timestamp,
    ) -> Result<Vec<LeaseStatus>, StoreError>;

    /// Stores results under a lease, refreshes the tallies of the point and, if the report is the last, closes the
    /// job: one transaction. Under a lost lease nothing changes and [`LeaseStatus::Lost`] is returned.
    /// A result that is stored already stays as it is and is counted as a duplicate. One that is new sets the job's
    /// lost attempts back to zero: whatever stops its workers, the job gets on.
    ///
    /// # Errors
    /// [`StoreError::BadReport`] when an ordinal is not of the job, a result has the wrong shape or number, or the
    /// last report leaves queries without a result; [`StoreError::NoSuchJob`]. Nothing is stored then.
    async fn report(&self, report: &Report, now: Timestamp) -> Result<LeaseStatus, StoreError>;

    /// Closes a likelihood job under its lease because its point is out of reach for every target, and with it whatever
    /// else was planned at the point and is not done: its queries without a result are counted as saved, those with one
    /// keep it. What a user asked for there (jobs of another than the usual priority) and judgements stay. One
    /// transaction; under a lost lease nothing changes and [`LeaseStatus::Lost`] is returned.
    ///
    /// # Errors
    /// [`StoreError::NoSuchJob`].
    async fn close_raced(&self, lease: &LeaseRef, now: Timestamp) -> Result<LeaseStatus, StoreError>;

    /// Gives jobs back to `Ready`, uncounted. Lost leases are passed over.
    async fn release(&self, leases: &[LeaseRef], now: Timestamp) -> Result<(), StoreError>;

    /// Counts a failed evaluation; the job is ready again, or parked over its limit.
    ///
    /// # Errors
    /// [`StoreError::NoSuchJob`].
    async fn fail(
        &self,
        lease: &LeaseRef,
        error: &str,
        limits: FailureLimits,
        now: Timestamp,
    ) -> Result<LeaseStatus, StoreError>;

    /// Takes back every lease that ended before `now`: its worker is lost. Returns how many.
    ///
    /// Of a worker's leases that are taken back together only the one it got first (of one claim: the first of its jobs)
    /// is counted as lost: that is the job it was on, and which may be what ended it. The others waited in its hands
    /// and are not blamed.
    async fn reap(&self, limits: FailureLimits, now: Timestamp) -> Result<u64, StoreError>;

    /// Takes back every lease, expired or not. Only for a store that the caller holds alone: whoever held a lease is
    /// gone then. Blames as [`Store::reap`] does. Returns how many.
    async fn reap_all(&self, limits: FailureLimits, now: Timestamp) -> Result<u64, StoreError>;

    /// Jobs by number, at most `filter.limit` of them; none of a sweep that is not there.
    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobRecord>, StoreError>;

    /// Makes a sweep's parked jobs ready again with their counts at zero: those listed, or all when none is. Listed
    /// jobs may also be raced ones, which are wanted after all.
    /// A done sweep runs again if there was one. Returns how many.
    ///
    /// # Errors
    /// [`StoreError::NoSuchSweep`]; [`StoreError::NoSuchJob`] when a listed job is not of the sweep, nor parked or raced.
    async fn retry_jobs(&self, sweep: SweepId, jobs: &[JobId]) -> Result<u64, StoreError>;

    /// Notes what a worker or judge says of itself; the first time, that it is there.
    async fn note_worker(&self, status: &WorkerStatus, now: Timestamp) -> Result<(), StoreError>;

    /// Every worker and judge that is remembered, with the jobs it holds; the latest seen first.
    async fn workers(&self) -> Result<Vec<WorkerRecord>, StoreError>;

    /// Forgets workers that were last seen before `before` and hold no lease. Returns how many.
    async fn forget_workers(&self, before: Timestamp) -> Result<u64, StoreError>;

    /// Sums over all sweeps, for metrics.
    async fn overview(&self, now: Timestamp) -> Result<Overview, StoreError>;

    /// The database's own clock, where several coordinators share it; `None` where there is but one machine.
    async fn clock(&self) -> Result<Option<Timestamp>, StoreError>;

    /// Stored results of a sweep's points and queries, a page of whole points at a time: by ticks, then ordinal, then
    /// rung. `after` is the last point of the page before; an empty page is the end.
    async fn results(
        &self,
        sweep: SweepId,
        after: Option<&Point>,
        points: u32,
    ) -> Result<ResultPage, StoreError>;

    /// Stored results of one point for some queries (all when `ordinals` is empty), by ordinal, then rung.
    async fn point_results(
        &self,
        sweep: SweepId,
        point: &Point,
        ordinals: &[u32],
    ) -> Result<Vec<ResultRow>, StoreError>;

    /// What came of the points (see [`PointFilter`]) that a strategy has proposed, by ticks: those with jobs on all search
    /// queries of the rung that points are chosen by. A point that has only been sampled is not among them.
    async fn search_points(
        &self,
        sweep: SweepId,
        filter: PointFilter<'_>,
    ) -> Result<Vec<SearchPoint>, StoreError>;

    /// Every job of the sweep at one point, by rung, then slice.
    async fn point_jobs(&self, sweep: SweepId, point: &Point) -> Result<Vec<JobStatus>, StoreError>;

    /// How many ready jobs there are for these rungs, over all running sweeps.
    async fn ready_jobs(&self, rungs: &[Rung]) -> Result<u64, StoreError>;

    /// Every decision of a strategy that was written with its plan, in order: what it takes to take it again.
    ///
    /// # Errors
    /// [`StoreError::NoSuchSweep`].
    async fn choices(&self, sweep: SweepId) -> Result<Vec<Choice>, StoreError>;
}
