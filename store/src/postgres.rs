//! The store of a cluster: a PostgreSQL database that several coordinators use at once.
//!
//! Every method is one short transaction, most are one statement. Who is faster is decided by the database: claims skip
//! the rows that others are just taking, reports of scores are written only if their point is as it was read, and what
//! several may change is locked in one order (sweep, planner, job, point, sums). What still collides is tried again
//! in one place, [`connection`].

mod claiming;
mod connection;
mod counting;
mod dealing;
mod deleting;
mod guards;
mod leases;
mod migration;
mod options;
mod planning;
mod racing;
mod reading;
mod reporting;
mod results;
mod searching;
mod sweeps;
mod tallying;
mod totals;
mod workers;

use std::time::Duration;

use async_trait::async_trait;
use avsweep_domain::{
    FailureLimits, JobId, LeaseToken, Point, PointTallies, Rung, SweepDefinition, SweepId, SweepState,
};

use crate::{
    Answered, Choice, Created, Deleted, JobFilter, JobRecord, JobStatus, LeaseClaim, LeaseRef, LeaseStatus,
    LeasedJob, NewJob, Overview, Plan, Planned, PlanningGuard, PointFilter, Report, ResultPage, ResultRow,
    SearchPoint, Store, StoreError, SweepRecord, SweepTotals, Timestamp, WorkerRecord, WorkerStatus,
};

pub use connection::PostgresStore;
pub use options::PostgresStoreOptions;

#[async_trait]
impl Store for PostgresStore {
    async fn create_sweep(
        &self,
        definition: &SweepDefinition,
        priority: i32,
        now: Timestamp,
    ) -> Result<Created, StoreError> {
        sweeps::create(self, definition, priority, now).await
    }

    async fn sweep(&self, id: SweepId) -> Result<SweepRecord, StoreError> {
        sweeps::get(self, id).await
    }

    async fn find_sweep(&self, name_or_number: &str) -> Result<SweepRecord, StoreError> {
        sweeps::find(self, name_or_number).await
    }

    async fn sweeps(&self) -> Result<Vec<SweepRecord>, StoreError> {
        sweeps::all(self).await
    }

    async fn set_sweep_state(&self, id: SweepId, to: SweepState) -> Result<(), StoreError> {
        sweeps::set_state(self, id, to).await
    }

    async fn set_sweep_priority(&self, id: SweepId, priority: i32) -> Result<(), StoreError> {
        sweeps::set_priority(self, id, priority).await
    }

    async fn delete_sweep(&self, id: SweepId) -> Result<Deleted, StoreError> {
        deleting::delete(self, id).await
    }

    async fn claim_planning(
        &self,
        sweep: SweepId,
        holder: LeaseToken,
        duration: Duration,
        now: Timestamp,
    ) -> Result<Option<PlanningGuard>, StoreError> {
        guards::claim(self, sweep, holder, duration, now).await
    }

    async fn release_planning(&self, guard: &PlanningGuard) -> Result<(), StoreError> {
        guards::release(self, guard).await
    }

    async fn finish_sweep(&self, guard: &PlanningGuard, now: Timestamp) -> Result<bool, StoreError> {
        guards::finish(self, guard, now).await
    }

    async fn totals(&self, id: SweepId) -> Result<SweepTotals, StoreError> {
        totals::totals(self, id).await
    }

    async fn plan(
        &self,
        sweep: SweepId,
        plan: &Plan,
        guard: Option<&PlanningGuard>,
        now: Timestamp,
    ) -> Result<Planned, StoreError> {
        planning::plan(self, sweep, plan, guard, now).await
    }

    async fn tallies(
        &self,
        sweep: SweepId,
        filter: PointFilter<'_>,
    ) -> Result<Vec<PointTallies>, StoreError> {
        tallying::read(self, sweep, filter).await
    }

    async fn unjudged(&self, sweep: SweepId) -> Result<Vec<NewJob>, StoreError> {
        reading::unjudged(self, sweep).await
    }

    async fn lease(&self, claim: &LeaseClaim, now: Timestamp) -> Result<Vec<LeasedJob>, StoreError> {
        claiming::lease(self, claim, now).await
    }

    async fn lease_several(&self, claims: &[LeaseClaim], now: Timestamp, answered: Answered<'_>) {
        dealing::lease_several(self, claims, now, answered).await;
    }

    async fn renew(
        &self,
        leases: &[LeaseRef],
        duration: Duration,
        now: Timestamp,
    ) -> Result<Vec<LeaseStatus>, StoreError> {
        leases::renew(self, leases, duration, now).await
    }

    async fn report(&self, report: &Report, now: Timestamp) -> Result<LeaseStatus, StoreError> {
        reporting::report(self, report, now).await
    }

    async fn close_raced(&self, lease: &LeaseRef, now: Timestamp) -> Result<LeaseStatus, StoreError> {
        racing::close_raced(self, lease, now).await
    }

    async fn release(&self, leases: &[LeaseRef], now: Timestamp) -> Result<(), StoreError> {
        leases::release(self, leases, now).await
    }

    async fn fail(
        &self,
        lease: &LeaseRef,
        error: &str,
        limits: FailureLimits,
        now: Timestamp,
    ) -> Result<LeaseStatus, StoreError> {
        leases::fail(self, lease, error, limits, now).await
    }

    async fn reap(&self, limits: FailureLimits, now: Timestamp) -> Result<u64, StoreError> {
        leases::reap(self, limits, now).await
    }

    async fn reap_all(&self, limits: FailureLimits, _now: Timestamp) -> Result<u64, StoreError> {
        leases::reap_all(self, limits).await
    }

    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobRecord>, StoreError> {
        reading::jobs(self, filter).await
    }

    async fn retry_jobs(&self, sweep: SweepId, jobs: &[JobId]) -> Result<u64, StoreError> {
        leases::retry(self, sweep, jobs).await
    }

    async fn note_worker(&self, status: &WorkerStatus, now: Timestamp) -> Result<(), StoreError> {
        workers::note(self, status, now).await
    }

    async fn workers(&self) -> Result<Vec<WorkerRecord>, StoreError> {
        workers::all(self).await
    }

    async fn forget_workers(&self, before: Timestamp) -> Result<u64, StoreError> {
        workers::forget(self, before).await
    }

    async fn overview(&self, now: Timestamp) -> Result<Overview, StoreError> {
        workers::overview(self, now).await
    }

    async fn clock(&self) -> Result<Option<Timestamp>, StoreError> {
        workers::clock(self).await.map(Some)
    }

    async fn results(
        &self,
        sweep: SweepId,
        after: Option<&Point>,
        points: u32,
    ) -> Result<ResultPage, StoreError> {
        reading::results(self, sweep, after, points).await
    }

    async fn point_results(
        &self,
        sweep: SweepId,
        point: &Point,
        ordinals: &[u32],
    ) -> Result<Vec<ResultRow>, StoreError> {
        reading::point_results(self, sweep, point, ordinals).await
    }

    async fn search_points(
        &self,
        sweep: SweepId,
        filter: PointFilter<'_>,
    ) -> Result<Vec<SearchPoint>, StoreError> {
        searching::search_points(self, sweep, filter).await
    }

    async fn point_jobs(&self, sweep: SweepId, point: &Point) -> Result<Vec<JobStatus>, StoreError> {
        reading::point_jobs(self, sweep, point).await
    }

    async fn ready_jobs(&self, rungs: &[Rung]) -> Result<u64, StoreError> {
        reading::ready_jobs(self, rungs).await
    }

    async fn choices(&self, sweep: SweepId) -> Result<Vec<Choice>, StoreError> {
        searching::choices(self, sweep).await
    }
}
