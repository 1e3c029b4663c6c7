//! Durable state: sweeps, points, jobs, leases and results behind one trait.
//!
//! The only crate that knows sqlx. [`SqliteStore`] serves one machine. Every form passes the one contract suite in
//! `tests/contract`; what a method promises is written at the trait and tested there.

mod check;
mod codec;
mod error;
mod layout;
mod record;
mod sqlite;

use async_trait::async_trait;
use avsweep_domain::{FailureLimits, Point, PointTallies, Rung, SweepDefinition, SweepId, SweepState};

pub use error::{PlanProblem, ReportProblem, StoreError};
pub use record::{
    Created, FailedJob, JobResults, JobStatus, Lease, LeaseClaim, LeaseRef, LeaseStatus, LeasedJob, NewJob,
    Plan, Planned, PointFilter, Report, ResultPage, ResultRow, ResultValue, RungCounts, SweepRecord,
    SweepTotals, Timestamp, Timings,
};
pub use sqlite::{SqliteLocation, SqliteStore, SqliteStoreOptions};

/// Durable state. Every method is one short transaction; none waits for anything but the database.
///
/// The caller brings the time and the randomness, so that a store's behaviour is a function of its calls.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug + 'static {
    /// Creates a sweep in state `Running`, or finds the one with the same name and fingerprint
    /// (then nothing changes, but paths to model files and the judge's way of being reached are brought up to date).
    ///
    /// # Errors
    /// [`StoreError::SweepDiffers`] when the name is taken by another definition, [`StoreError::BadDefinition`] and
    /// [`StoreError::Unstorable`] when it is unsound or would not come back as it is.
    async fn create_sweep(&self, definition: &SweepDefinition, now: Timestamp)
    -> Result<Created, StoreError>;

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

    /// Job counts by rung and state, results and times of a sweep.
    async fn totals(&self, id: SweepId) -> Result<SweepTotals, StoreError>;

    /// Adds points and jobs to a sweep in one transaction. Idempotent: a point or job that is there stays as it is.
    ///
    /// A job whose results are all stored already (by an earlier sweep over the same inputs) is written as done, and
    /// the point's tallies are brought up to date: nothing is evaluated twice (law 2).
    ///
    /// # Errors
    /// [`StoreError::BadPlan`] when a point or slice is not of the sweep, or a judgement job's responses are not all
    /// stored. Nothing is added then.
    async fn plan(&self, sweep: SweepId, plan: &Plan) -> Result<Planned, StoreError>;

    /// Points of the sweep (see [`PointFilter`]) with their tallies, by ticks.
    async fn tallies(&self, sweep: SweepId, filter: PointFilter<'_>)
    -> Result<Vec<PointTallies>, StoreError>;

    /// Generation jobs (as they were planned) that are done and have no judgement job of the same point and slice yet.
    async fn unjudged(&self, sweep: SweepId) -> Result<Vec<NewJob>, StoreError>;

    /// Leases up to `claim.max_jobs` ready jobs of running sweeps: highest priority first, then oldest.
    ///
    /// Each comes with the ordinals that still lack a result (for judgement jobs: with the responses to judge, where
    /// no verdict is stored for the same query, response and judge). Of ordinals whose queries have one content the
    /// first is handed out, its result counts for all. A job that turns out to lack none is closed and not handed out;
    /// fewer jobs than asked for come then, but none only when none is ready.
    ///
    /// A lease is held up to and at its end, lost after it, whether anybody has taken it back or not. It need not
    /// survive a power cut.
    async fn lease(&self, claim: &LeaseClaim, now: Timestamp) -> Result<Vec<LeasedJob>, StoreError>;

    /// Extends leases to `now + duration`. One status per lease, in order.
    async fn renew(
        &self,
        leases: &[LeaseRef],
        duration: std::time::Duration,
        now: Timestamp,
    ) -> Result<Vec<LeaseStatus>, StoreError>;

    /// Stores results under a lease, refreshes the tallies of the point and, if the report is the last, closes the
    /// job: one transaction. Under a lost lease nothing changes and [`LeaseStatus::Lost`] is returned.
    /// A result that is stored already stays as it is and is counted as a duplicate.
    ///
    /// # Errors
    /// [`StoreError::BadReport`] when an ordinal is not of the job, a result has the wrong shape or number, or the
    /// last report leaves queries without a result; [`StoreError::NoSuchJob`]. Nothing is stored then.
    async fn report(&self, report: &Report, now: Timestamp) -> Result<LeaseStatus, StoreError>;

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

    /// Takes back every lease that ended before `now`, counting its worker as lost. Returns how many.
    async fn reap(&self, limits: FailureLimits, now: Timestamp) -> Result<u64, StoreError>;

    /// Takes back every lease, expired or not, counting its worker as lost. Only for a store that the caller holds
    /// alone: whoever held a lease is gone then. Returns how many.
    async fn reap_all(&self, limits: FailureLimits, now: Timestamp) -> Result<u64, StoreError>;

    /// Parked jobs of a sweep with their last errors.
    async fn failed_jobs(&self, sweep: SweepId) -> Result<Vec<FailedJob>, StoreError>;

    /// Makes a sweep's parked jobs ready again with their counts at zero. Returns how many.
    async fn retry_failed(&self, sweep: SweepId) -> Result<u64, StoreError>;

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

    /// Every job of the sweep at one point, by rung, then slice.
    async fn point_jobs(&self, sweep: SweepId, point: &Point) -> Result<Vec<JobStatus>, StoreError>;

    /// How many ready jobs there are for these rungs, over all running sweeps.
    async fn ready_jobs(&self, rungs: &[Rung]) -> Result<u64, StoreError>;
}
