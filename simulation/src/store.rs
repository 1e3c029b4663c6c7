//! The store as one coordinator sees it: every call at once in simulated time, held against the laws.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use avsweep_domain::{
    FailureLimits, JobId, LeaseToken, Point, PointTallies, Rung, SweepDefinition, SweepId, SweepState,
};
use avsweep_store::{
    Choice, Created, Deleted, JobFilter, JobRecord, JobResults, JobStatus, LeaseClaim, LeaseRef, LeaseStatus,
    LeasedJob, NewJob, Overview, Plan, Planned, PlanningGuard, PointFilter, Report, ResultPage, ResultRow,
    SearchPoint, SqliteStore, Store, StoreError, SweepRecord, SweepTotals, Timestamp, WorkerRecord,
    WorkerStatus,
};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::Sabotage;
use crate::laws::{Laws, Observation, Ruling};
use crate::world::{Fault, World};

/// How late a store call begins or returns where it is late.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(60));

/// Carries a future out here and now: the simulated clock stands still meanwhile, and nothing comes in between.
pub(crate) fn at_once<F: Future>(future: F) -> F::Output {
    // Outside the runtime's budget, which would have the future wait for a turn that does not come.
    futures::executor::block_on(tokio::task::coop::unconstrained(future))
}

/// One life of a coordinator.
#[derive(Debug, Default)]
pub(crate) struct Life {
    over: AtomicBool,
    /// Crashes at the end of this many store calls (and never at 0).
    fuse: AtomicI64,
    /// Shared by all lives: one has ended by its fuse.
    crashed: Arc<Notify>,
}

impl Life {
    pub(crate) fn new(crashed: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self { crashed, ..Self::default() })
    }

    /// From now on the store does not answer: whatever of the coordinator still runs gets no further.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Has it crash between two store calls; 0 does not.
    pub(crate) fn set_fuse(&self, calls: i64) {
        self.fuse.store(calls, Ordering::Relaxed);
    }

    async fn go_on(&self) {
        if self.is_over() {
            std::future::pending::<()>().await;
        }
    }

    /// Counts a call; whether it was the last.
    fn burns_down(&self) -> bool {
        self.fuse.load(Ordering::Relaxed) > 0 && self.fuse.fetch_sub(1, Ordering::Relaxed) == 1
    }
}

/// A coordinator's way to the store.
pub(crate) struct SimulatedStore {
    pub(crate) name: String,
    pub(crate) world: Arc<World>,
    pub(crate) inner: Arc<SqliteStore>,
    pub(crate) laws: Arc<Mutex<Laws>>,
    pub(crate) life: Arc<Life>,
    pub(crate) sabotage: Option<Sabotage>,
}

impl fmt::Debug for SimulatedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedStore").field("name", &self.name).finish_non_exhaustive()
    }
}

impl SimulatedStore {
    /// No code panics while it holds the lock, so what it guards is whole.
    fn laws(&self) -> MutexGuard<'_, Laws> {
        self.laws.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn pause(&self) {
        self.life.go_on().await;
        if self.world.chance(self.world.weather().store_pause) {
            self.world.count(Fault::StoreCallDelayed);
            sleep(self.world.between(PAUSE.0, PAUSE.1)).await;
            self.life.go_on().await;
        }
    }

    async fn after(&self) {
        if self.life.burns_down() {
            self.world.count(Fault::CoordinatorCrashedBetweenStoreCalls);
            self.world.log(format_args!("{}: crashes after a store call", self.name));
            self.life.end();
            self.life.crashed.notify_one();
        }
        self.pause().await;
    }

    /// A call that changes nothing.
    async fn read<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        self.pause().await;
        let answer = at_once(call);
        self.world.log(format_args!("{}: {operation}", self.name));
        if let Err(error) = &answer
            && !matches!(error, StoreError::NoSuchSweep { .. })
        {
            self.world.break_law(format!("{operation} failed: {error}"));
        }
        self.after().await;
        answer
    }

    /// A call that may change something; `law` says whether it did what it may.
    async fn write<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, StoreError>> + Send,
        law: impl FnOnce(&mut Laws, &Result<T, StoreError>, &Observation) -> Ruling + Send,
    ) -> Result<T, StoreError> {
        self.pause().await;
        let answer = at_once(call);
        let ruling = self.laws().after_step(&self.inner, |laws, seen| law(laws, &answer, seen));
        match ruling {
            Ok(text) => self.world.log(format_args!("{}: {operation} {text}", self.name)),
            Err(problem) => self.world.break_law(format!("{}: {operation}: {problem}", self.name)),
        }
        self.after().await;
        answer
    }

    /// What reaches the store of a report, in a store that is broken on purpose.
    fn sabotaged(&self, report: &Report, now: Timestamp) -> (Report, Timestamp) {
        let (mut report, mut now) = (report.clone(), now);
        match self.sabotage {
            // As if the sender's clock decided, and not the coordinator's.
            Some(Sabotage::AcceptLateReports) => now = Timestamp(now.0 - 60_000),
            Some(Sabotage::ForgetResults) if !report.finished => match &mut report.results {
                JobResults::Scores(rows) => drop(rows.pop()),
                JobResults::Responses(rows) => drop(rows.pop()),
                JobResults::Verdicts(rows) => drop(rows.pop()),
            },
            Some(Sabotage::ForgetResults | Sabotage::PlanUnguarded) | None => {}
        }
        (report, now)
    }
}

#[async_trait]
impl Store for SimulatedStore {
    async fn create_sweep(
        &self,
        definition: &SweepDefinition,
        priority: i32,
        now: Timestamp,
    ) -> Result<Created, StoreError> {
        self.write(
            "create_sweep",
            self.inner.create_sweep(definition, priority, now),
            |laws, answer, seen| laws.created(definition, priority, answer, seen),
        )
        .await
    }

    async fn sweep(&self, id: SweepId) -> Result<SweepRecord, StoreError> {
        self.read("sweep", self.inner.sweep(id)).await
    }

    async fn find_sweep(&self, name_or_number: &str) -> Result<SweepRecord, StoreError> {
        self.read("find_sweep", self.inner.find_sweep(name_or_number)).await
    }

    async fn sweeps(&self) -> Result<Vec<SweepRecord>, StoreError> {
        self.read("sweeps", self.inner.sweeps()).await
    }

    async fn set_sweep_state(&self, id: SweepId, to: SweepState) -> Result<(), StoreError> {
        self.write("set_sweep_state", self.inner.set_sweep_state(id, to), |laws, answer, seen| {
            laws.state_set(id, to, answer, seen)
        })
        .await
    }

    async fn set_sweep_priority(&self, id: SweepId, priority: i32) -> Result<(), StoreError> {
        self.write("set_sweep_priority", self.inner.set_sweep_priority(id, priority), |laws, answer, seen| {
            laws.prioritised(id, priority, answer, seen)
        })
        .await
    }

    async fn delete_sweep(&self, id: SweepId) -> Result<Deleted, StoreError> {
        self.write("delete_sweep", self.inner.delete_sweep(id), |_, _, _| {
            Err("no schedule deletes a sweep".to_owned())
        })
        .await
    }

    async fn claim_planning(
        &self,
        sweep: SweepId,
        holder: LeaseToken,
        duration: Duration,
        now: Timestamp,
    ) -> Result<Option<PlanningGuard>, StoreError> {
        let claim = async {
            if self.sabotage == Some(Sabotage::PlanUnguarded) {
                return Ok(Some(PlanningGuard { sweep, holder, term: 1 }));
            }
            self.inner.claim_planning(sweep, holder, duration, now).await
        };
        self.write("claim_planning", claim, |laws, answer, seen| {
            laws.planning_claimed(sweep, holder, now.plus(duration), now, answer, seen)
        })
        .await
    }

    async fn release_planning(&self, guard: &PlanningGuard) -> Result<(), StoreError> {
        self.write("release_planning", self.inner.release_planning(guard), |laws, answer, seen| {
            laws.planning_released(guard, answer, seen)
        })
        .await
    }

    async fn finish_sweep(&self, guard: &PlanningGuard, now: Timestamp) -> Result<bool, StoreError> {
        self.write("finish_sweep", self.inner.finish_sweep(guard, now), |laws, answer, seen| {
            laws.finished(guard, now, answer, seen)
        })
        .await
    }

    async fn totals(&self, id: SweepId) -> Result<SweepTotals, StoreError> {
        self.read("totals", self.inner.totals(id)).await
    }

    async fn plan(
        &self,
        sweep: SweepId,
        plan: &Plan,
        guard: Option<&PlanningGuard>,
        now: Timestamp,
    ) -> Result<Planned, StoreError> {
        let given = guard.filter(|_| self.sabotage != Some(Sabotage::PlanUnguarded));
        self.write("plan", self.inner.plan(sweep, plan, given, now), |laws, answer, seen| {
            laws.planned(sweep, plan, guard, now, answer, seen)
        })
        .await
    }

    async fn tallies(
        &self,
        sweep: SweepId,
        filter: PointFilter<'_>,
    ) -> Result<Vec<PointTallies>, StoreError> {
        self.read("tallies", self.inner.tallies(sweep, filter)).await
    }

    async fn unjudged(&self, sweep: SweepId) -> Result<Vec<NewJob>, StoreError> {
        self.read("unjudged", self.inner.unjudged(sweep)).await
    }

    async fn lease(&self, claim: &LeaseClaim, now: Timestamp) -> Result<Vec<LeasedJob>, StoreError> {
        self.write("lease", self.inner.lease(claim, now), |laws, answer, seen| {
            laws.leased(claim, now, answer, seen)
        })
        .await
    }

    async fn renew(
        &self,
        leases: &[LeaseRef],
        duration: Duration,
        now: Timestamp,
    ) -> Result<Vec<LeaseStatus>, StoreError> {
        self.write("renew", self.inner.renew(leases, duration, now), |laws, answer, seen| {
            laws.renewed(leases, now.plus(duration), now, answer, seen)
        })
        .await
    }

    async fn report(&self, report: &Report, now: Timestamp) -> Result<LeaseStatus, StoreError> {
        let (given, given_now) = self.sabotaged(report, now);
        let answer = self
            .write("report", self.inner.report(&given, given_now), |laws, answer, seen| {
                laws.reported(report, now, answer, seen)
            })
            .await;
        if matches!(answer, Ok(LeaseStatus::Lost)) {
            self.world.count(Fault::LateReport);
        }
        answer
    }

    async fn close_raced(&self, lease: &LeaseRef, now: Timestamp) -> Result<LeaseStatus, StoreError> {
        self.write("close_raced", self.inner.close_raced(lease, now), |laws, answer, seen| {
            laws.closed_raced(lease, now, answer, seen)
        })
        .await
    }

    async fn release(&self, leases: &[LeaseRef], now: Timestamp) -> Result<(), StoreError> {
        self.write("release", self.inner.release(leases, now), |laws, answer, seen| {
            laws.released(leases, now, answer, seen)
        })
        .await
    }

    async fn fail(
        &self,
        lease: &LeaseRef,
        error: &str,
        limits: FailureLimits,
        now: Timestamp,
    ) -> Result<LeaseStatus, StoreError> {
        self.write("fail", self.inner.fail(lease, error, limits, now), |laws, answer, seen| {
            laws.failed(lease, limits, now, answer, seen)
        })
        .await
    }

    async fn reap(&self, limits: FailureLimits, now: Timestamp) -> Result<u64, StoreError> {
        self.write("reap", self.inner.reap(limits, now), |laws, answer, seen| {
            laws.reaped(limits, now, answer, seen)
        })
        .await
    }

    async fn reap_all(&self, limits: FailureLimits, now: Timestamp) -> Result<u64, StoreError> {
        self.write("reap_all", self.inner.reap_all(limits, now), |_, _, _| {
            Err("no coordinator here holds the store alone".to_owned())
        })
        .await
    }

    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobRecord>, StoreError> {
        self.read("jobs", self.inner.jobs(filter)).await
    }

    async fn retry_jobs(&self, sweep: SweepId, jobs: &[JobId]) -> Result<u64, StoreError> {
        self.write("retry_jobs", self.inner.retry_jobs(sweep, jobs), |laws, answer, seen| {
            laws.retried(sweep, jobs, answer, seen)
        })
        .await
    }

    async fn note_worker(&self, status: &WorkerStatus, now: Timestamp) -> Result<(), StoreError> {
        self.read("note_worker", self.inner.note_worker(status, now)).await
    }

    async fn workers(&self) -> Result<Vec<WorkerRecord>, StoreError> {
        self.read("workers", self.inner.workers()).await
    }

    async fn forget_workers(&self, before: Timestamp) -> Result<u64, StoreError> {
        self.read("forget_workers", self.inner.forget_workers(before)).await
    }

    async fn overview(&self, now: Timestamp) -> Result<Overview, StoreError> {
        self.read("overview", self.inner.overview(now)).await
    }

    async fn clock(&self) -> Result<Option<Timestamp>, StoreError> {
        self.read("clock", self.inner.clock()).await
    }

    async fn results(
        &self,
        sweep: SweepId,
        after: Option<&Point>,
        points: u32,
    ) -> Result<ResultPage, StoreError> {
        self.read("results", self.inner.results(sweep, after, points)).await
    }

    async fn point_results(
        &self,
        sweep: SweepId,
        point: &Point,
        ordinals: &[u32],
    ) -> Result<Vec<ResultRow>, StoreError> {
        self.read("point_results", self.inner.point_results(sweep, point, ordinals)).await
    }

    async fn point_jobs(&self, sweep: SweepId, point: &Point) -> Result<Vec<JobStatus>, StoreError> {
        self.read("point_jobs", self.inner.point_jobs(sweep, point)).await
    }

    async fn search_points(
        &self,
        sweep: SweepId,
        filter: PointFilter<'_>,
    ) -> Result<Vec<SearchPoint>, StoreError> {
        self.read("search_points", self.inner.search_points(sweep, filter)).await
    }

    async fn choices(&self, sweep: SweepId) -> Result<Vec<Choice>, StoreError> {
        self.read("choices", self.inner.choices(sweep)).await
    }

    async fn ready_jobs(&self, rungs: &[Rung]) -> Result<u64, StoreError> {
        self.read("ready_jobs", self.inner.ready_jobs(rungs)).await
    }
}
