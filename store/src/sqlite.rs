//! The store of one machine: a SQLite file, or memory.
//!
//! One connection writes, in `BEGIN IMMEDIATE` transactions behind a mutex; a few others read, each from its own
//! snapshot (write-ahead log). Counting is done when results arrive, never when they are read.

mod connection;
mod leases;
mod migration;
mod options;
mod planning;
mod reading;
mod reporting;
mod results;
mod sweeps;
mod tallying;

use async_trait::async_trait;
use avsweep_domain::{FailureLimits, Point, PointTallies, Rung, SweepDefinition, SweepId, SweepState};

use crate::{
    Created, FailedJob, JobStatus, LeaseClaim, LeaseRef, LeaseStatus, LeasedJob, NewJob, Plan, Planned,
    PointFilter, Report, ResultPage, ResultRow, Store, StoreError, SweepRecord, SweepTotals, Timestamp,
};

pub use connection::SqliteStore;
pub use options::{SqliteLocation, SqliteStoreOptions};

#[async_trait]
impl Store for SqliteStore {
    async fn create_sweep(
        &self,
        definition: &SweepDefinition,
        now: Timestamp,
    ) -> Result<Created, StoreError> {
        sweeps::create(self, definition, now).await
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

    async fn totals(&self, id: SweepId) -> Result<SweepTotals, StoreError> {
        sweeps::totals(self, id).await
    }

    async fn plan(&self, sweep: SweepId, plan: &Plan) -> Result<Planned, StoreError> {
        planning::plan(self, sweep, plan).await
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
        leases::lease(self, claim, now).await
    }

    async fn renew(
        &self,
        leases: &[LeaseRef],
        duration: std::time::Duration,
        now: Timestamp,
    ) -> Result<Vec<LeaseStatus>, StoreError> {
        leases::renew(self, leases, duration, now).await
    }

    async fn report(&self, report: &Report, now: Timestamp) -> Result<LeaseStatus, StoreError> {
        reporting::report(self, report, now).await
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
        leases::reap(self, limits, Some(now)).await
    }

    async fn reap_all(&self, limits: FailureLimits, _now: Timestamp) -> Result<u64, StoreError> {
        leases::reap(self, limits, None).await
    }

    async fn failed_jobs(&self, sweep: SweepId) -> Result<Vec<FailedJob>, StoreError> {
        reading::failed_jobs(self, sweep).await
    }

    async fn retry_failed(&self, sweep: SweepId) -> Result<u64, StoreError> {
        leases::retry_failed(self, sweep).await
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

    async fn point_jobs(&self, sweep: SweepId, point: &Point) -> Result<Vec<JobStatus>, StoreError> {
        reading::point_jobs(self, sweep, point).await
    }

    async fn ready_jobs(&self, rungs: &[Rung]) -> Result<u64, StoreError> {
        reading::ready_jobs(self, rungs).await
    }
}
