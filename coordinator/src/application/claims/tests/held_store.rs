//! A store that leases at once, and tells of it only when it is let.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use avsweep_domain::{
    FailureLimits, JobId, LeaseToken, Point, PointTallies, Rung, SweepDefinition, SweepId, SweepState,
};
use avsweep_store::{
    Answered, Choice, Created, Deleted, JobFilter, JobRecord, JobStatus, LeaseClaim, LeaseRef, LeaseStatus,
    LeasedJob, NewJob, Overview, Plan, Planned, PlanningGuard, PointFilter, Report, ResultPage, ResultRow,
    SearchPoint, SqliteStore, Store, StoreError, SweepRecord, SweepTotals, Timestamp, WorkerRecord,
    WorkerStatus,
};
use tokio::sync::Semaphore;

#[derive(Debug)]
pub(super) struct HeldStore {
    pub(super) inner: SqliteStore,
    /// A permit for every round that has its jobs.
    pub(super) leased: Semaphore,
    /// A permit for every round that may hear of them.
    pub(super) told: Semaphore,
    /// Looks at the workers.
    pub(super) looks: AtomicU64,
}

impl HeldStore {
    /// `told`: how many rounds are not held.
    pub(super) fn new(inner: SqliteStore, told: usize) -> Self {
        let (leased, told) = (Semaphore::new(0), Semaphore::new(told));
        Self { inner, leased, told, looks: AtomicU64::new(0) }
    }

    async fn lease_held(&self, claims: &[LeaseClaim], now: Timestamp, answered: Answered<'_>) {
        let mut answers = Vec::new();
        self.inner.lease_several(claims, now, &mut |place, answer| answers.push((place, answer))).await;
        self.leased.add_permits(1);
        self.told.acquire().await.expect("open").forget();
        answers.into_iter().for_each(|(place, answer)| answered(place, answer));
    }

    async fn look(&self) -> Result<Vec<WorkerRecord>, StoreError> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        self.inner.workers().await
    }
}

/// A store whose other methods are the inner one's.
macro_rules! over_inner {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)*) => {
        #[tonic::async_trait]
        impl Store for HeldStore {
            async fn lease_several(&self, claims: &[LeaseClaim], now: Timestamp, answered: Answered<'_>) {
                self.lease_held(claims, now, answered).await;
            }

            async fn workers(&self) -> Result<Vec<WorkerRecord>, StoreError> {
                self.look().await
            }

            $(async fn $name(&self, $($argument: $kind),*) -> Result<$answer, StoreError> {
                self.inner.$name($($argument),*).await
            })*
        }
    };
}

over_inner! {
    create_sweep(definition: &SweepDefinition, priority: i32, now: Timestamp) -> Created;
    sweep(id: SweepId) -> SweepRecord;
    find_sweep(name_or_number: &str) -> SweepRecord;
    sweeps() -> Vec<SweepRecord>;
    set_sweep_state(id: SweepId, to: SweepState) -> ();
    set_sweep_priority(id: SweepId, priority: i32) -> ();
    delete_sweep(id: SweepId) -> Deleted;
    claim_planning(sweep: SweepId, holder: LeaseToken, duration: Duration, now: Timestamp)
        -> Option<PlanningGuard>;
    release_planning(guard: &PlanningGuard) -> ();
    finish_sweep(guard: &PlanningGuard, now: Timestamp) -> bool;
    totals(id: SweepId) -> SweepTotals;
    plan(sweep: SweepId, plan: &Plan, guard: Option<&PlanningGuard>, now: Timestamp) -> Planned;
    tallies(sweep: SweepId, filter: PointFilter<'_>) -> Vec<PointTallies>;
    unjudged(sweep: SweepId) -> Vec<NewJob>;
    lease(claim: &LeaseClaim, now: Timestamp) -> Vec<LeasedJob>;
    renew(leases: &[LeaseRef], duration: Duration, now: Timestamp) -> Vec<LeaseStatus>;
    report(report: &Report, now: Timestamp) -> LeaseStatus;
    close_raced(lease: &LeaseRef, now: Timestamp) -> LeaseStatus;
    release(leases: &[LeaseRef], now: Timestamp) -> ();
    fail(lease: &LeaseRef, error: &str, limits: FailureLimits, now: Timestamp) -> LeaseStatus;
    reap(limits: FailureLimits, now: Timestamp) -> u64;
    reap_all(limits: FailureLimits, now: Timestamp) -> u64;
    jobs(filter: &JobFilter) -> Vec<JobRecord>;
    retry_jobs(sweep: SweepId, jobs: &[JobId]) -> u64;
    note_worker(status: &WorkerStatus, now: Timestamp) -> ();
    forget_workers(before: Timestamp) -> u64;
    overview(now: Timestamp) -> Overview;
    clock() -> Option<Timestamp>;
    results(sweep: SweepId, after: Option<&Point>, points: u32) -> ResultPage;
    point_results(sweep: SweepId, point: &Point, ordinals: &[u32]) -> Vec<ResultRow>;
    search_points(sweep: SweepId, filter: PointFilter<'_>) -> Vec<SearchPoint>;
    point_jobs(sweep: SweepId, point: &Point) -> Vec<JobStatus>;
    choices(sweep: SweepId) -> Vec<Choice>;
    ready_jobs(rungs: &[Rung]) -> u64;
}
