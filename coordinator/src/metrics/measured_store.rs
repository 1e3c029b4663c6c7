//! A store whose operations are timed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use avsweep_domain::{
    FailureLimits, JobId, LeaseToken, Point, PointTallies, Rung, SweepDefinition, SweepId, SweepState,
};
use avsweep_store::{
    Answered, Choice, Created, Deleted, JobFilter, JobRecord, JobStatus, LeaseClaim, LeaseRef, LeaseStatus,
    LeasedJob, NewJob, Overview, Plan, Planned, PlanningGuard, PointFilter, Report, ResultPage, ResultRow,
    SearchPoint, Store, StoreError, SweepRecord, SweepTotals, Timestamp, WorkerRecord, WorkerStatus,
};

use super::Metrics;

/// Passes every call on and notes how long it took, whether it succeeded or not.
#[derive(Debug)]
pub(crate) struct MeasuredStore {
    inner: Arc<dyn Store>,
    metrics: Arc<Metrics>,
}

impl MeasuredStore {
    pub(crate) fn new(inner: Arc<dyn Store>, metrics: Arc<Metrics>) -> Self {
        Self { inner, metrics }
    }

    async fn timed<T>(&self, operation: &'static str, call: impl Future<Output = T>) -> T {
        let started = Instant::now();
        let result = call.await;
        self.metrics.store_took(operation, started.elapsed());
        result
    }
}

#[tonic::async_trait]
impl Store for MeasuredStore {
    async fn create_sweep(
        &self,
        definition: &SweepDefinition,
        priority: i32,
        now: Timestamp,
    ) -> Result<Created, StoreError> {
        self.timed("create_sweep", self.inner.create_sweep(definition, priority, now)).await
    }

    async fn sweep(&self, id: SweepId) -> Result<SweepRecord, StoreError> {
        self.timed("sweep", self.inner.sweep(id)).await
    }

    async fn find_sweep(&self, name_or_number: &str) -> Result<SweepRecord, StoreError> {
        self.timed("find_sweep", self.inner.find_sweep(name_or_number)).await
    }

    async fn sweeps(&self) -> Result<Vec<SweepRecord>, StoreError> {
        self.timed("sweeps", self.inner.sweeps()).await
    }

    async fn set_sweep_state(&self, id: SweepId, to: SweepState) -> Result<(), StoreError> {
        self.timed("set_sweep_state", self.inner.set_sweep_state(id, to)).await
    }

    async fn set_sweep_priority(&self, id: SweepId, priority: i32) -> Result<(), StoreError> {
        self.timed("set_sweep_priority", self.inner.set_sweep_priority(id, priority)).await
    }

    async fn delete_sweep(&self, id: SweepId) -> Result<Deleted, StoreError> {
        self.timed("delete_sweep", self.inner.delete_sweep(id)).await
    }

    async fn claim_planning(
        &self,
        sweep: SweepId,
        holder: LeaseToken,
        duration: Duration,
        now: Timestamp,
    ) -> Result<Option<PlanningGuard>, StoreError> {
        self.timed("claim_planning", self.inner.claim_planning(sweep, holder, duration, now)).await
    }

    async fn release_planning(&self, guard: &PlanningGuard) -> Result<(), StoreError> {
        self.timed("release_planning", self.inner.release_planning(guard)).await
    }

    async fn finish_sweep(&self, guard: &PlanningGuard, now: Timestamp) -> Result<bool, StoreError> {
        self.timed("finish_sweep", self.inner.finish_sweep(guard, now)).await
    }

    async fn totals(&self, id: SweepId) -> Result<SweepTotals, StoreError> {
        self.timed("totals", self.inner.totals(id)).await
    }

    async fn plan(
        &self,
        sweep: SweepId,
        plan: &Plan,
        guard: Option<&PlanningGuard>,
        now: Timestamp,
    ) -> Result<Planned, StoreError> {
        self.timed("plan", self.inner.plan(sweep, plan, guard, now)).await
    }

    async fn tallies(
        &self,
        sweep: SweepId,
        filter: PointFilter<'_>,
    ) -> Result<Vec<PointTallies>, StoreError> {
        self.timed("tallies", self.inner.tallies(sweep, filter)).await
    }

    async fn unjudged(&self, sweep: SweepId) -> Result<Vec<NewJob>, StoreError> {
        self.timed("unjudged", self.inner.unjudged(sweep)).await
    }

    async fn lease(&self, claim: &LeaseClaim, now: Timestamp) -> Result<Vec<LeasedJob>, StoreError> {
        self.timed("lease", self.inner.lease(claim, now)).await
    }

    async fn lease_several(&self, claims: &[LeaseClaim], now: Timestamp, answered: Answered<'_>) {
        self.timed("lease", self.inner.lease_several(claims, now, answered)).await;
    }

    async fn renew(
        &self,
        leases: &[LeaseRef],
        duration: Duration,
        now: Timestamp,
    ) -> Result<Vec<LeaseStatus>, StoreError> {
        self.timed("renew", self.inner.renew(leases, duration, now)).await
    }

    async fn report(&self, report: &Report, now: Timestamp) -> Result<LeaseStatus, StoreError> {
        self.timed("report", self.inner.report(report, now)).await
    }

    async fn close_raced(&self, lease: &LeaseRef, now: Timestamp) -> Result<LeaseStatus, StoreError> {
        self.timed("close_raced", self.inner.close_raced(lease, now)).await
    }

    async fn release(&self, leases: &[LeaseRef], now: Timestamp) -> Result<(), StoreError> {
        self.timed("release", self.inner.release(leases, now)).await
    }

    async fn fail(
        &self,
        lease: &LeaseRef,
        error: &str,
        limits: FailureLimits,
        now: Timestamp,
    ) -> Result<LeaseStatus, StoreError> {
        self.timed("fail", self.inner.fail(lease, error, limits, now)).await
    }

    async fn reap(&self, limits: FailureLimits, now: Timestamp) -> Result<u64, StoreError> {
        self.timed("reap", self.inner.reap(limits, now)).await
    }

    async fn reap_all(&self, limits: FailureLimits, now: Timestamp) -> Result<u64, StoreError> {
        self.timed("reap_all", self.inner.reap_all(limits, now)).await
    }

    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobRecord>, StoreError> {
        self.timed("jobs", self.inner.jobs(filter)).await
    }

    async fn retry_jobs(&self, sweep: SweepId, jobs: &[JobId]) -> Result<u64, StoreError> {
        self.timed("retry_jobs", self.inner.retry_jobs(sweep, jobs)).await
    }

    async fn note_worker(&self, status: &WorkerStatus, now: Timestamp) -> Result<(), StoreError> {
        self.timed("note_worker", self.inner.note_worker(status, now)).await
    }

    async fn workers(&self) -> Result<Vec<WorkerRecord>, StoreError> {
        self.timed("workers", self.inner.workers()).await
    }

    async fn forget_workers(&self, before: Timestamp) -> Result<u64, StoreError> {
        self.timed("forget_workers", self.inner.forget_workers(before)).await
    }

    async fn overview(&self, now: Timestamp) -> Result<Overview, StoreError> {
        self.timed("overview", self.inner.overview(now)).await
    }

    async fn clock(&self) -> Result<Option<Timestamp>, StoreError> {
        self.timed("clock", self.inner.clock()).await
    }

    async fn results(
        &self,
        sweep: SweepId,
        after: Option<&Point>,
        points: u32,
    ) -> Result<ResultPage, StoreError> {
        self.timed("results", self.inner.results(sweep, after, points)).await
    }

    async fn point_results(
        &self,
        sweep: SweepId,
        point: &Point,
        ordinals: &[u32],
    ) -> Result<Vec<ResultRow>, StoreError> {
        self.timed("point_results", self.inner.point_results(sweep, point, ordinals)).await
    }

    async fn search_points(
        &self,
        sweep: SweepId,
        filter: PointFilter<'_>,
    ) -> Result<Vec<SearchPoint>, StoreError> {
        self.timed("search_points", self.inner.search_points(sweep, filter)).await
    }

    async fn point_jobs(&self, sweep: SweepId, point: &Point) -> Result<Vec<JobStatus>, StoreError> {
        self.timed("point_jobs", self.inner.point_jobs(sweep, point)).await
    }

    async fn choices(&self, sweep: SweepId) -> Result<Vec<Choice>, StoreError> {
        self.timed("choices", self.inner.choices(sweep)).await
    }

    async fn ready_jobs(&self, rungs: &[Rung]) -> Result<u64, StoreError> {
        self.timed("ready_jobs", self.inner.ready_jobs(rungs)).await
    }
}
