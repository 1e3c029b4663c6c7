//! Made-up workers, each with a connection of its own: lease a few jobs, report each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use avsweep_proto::v1;
use avsweep_proto::v1::job_service_client::JobServiceClient;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::transport::{Channel, Endpoint};

use crate::definition;

/// The longest that one call may take before the bench fails.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest that a request for jobs waits for the planner, milliseconds.
const WAIT_MILLIS: u32 = 10_000;

/// How the workers work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Workers at once.
    pub(crate) workers: usize,
    /// Jobs that one asks for at a time.
    pub(crate) jobs_per_lease: u32,
    /// What one evaluation takes on average (half to one and a half of it); zero is none.
    pub(crate) evaluation: Duration,
    /// Not counted at first.
    pub(crate) warm_up: Duration,
    /// Counted then.
    pub(crate) window: Duration,
}

/// What came out of the counted time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// Jobs leased, reported and acknowledged.
    pub(crate) jobs: usize,
    /// The counted time.
    pub(crate) window: Duration,
    /// Each `Lease` call that ended in it, shortest first.
    pub(crate) leases: Vec<Duration>,
    /// Each `Report` call that ended in it, shortest first.
    pub(crate) reports: Vec<Duration>,
}

impl Outcome {
    /// Jobs per second.
    pub(crate) fn rate(&self) -> f64 {
        self.jobs as f64 / self.window.as_secs_f64()
    }
}

/// The value that a share (0 to 1) of the sorted values does not exceed.
pub(crate) fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or_default()
}

/// Calls of one worker: when each ended, and how long it took.
#[derive(Debug, Default)]
struct Calls {
    leases: Vec<(Instant, Duration)>,
    reports: Vec<(Instant, Duration)>,
}

/// When workers stop asking for jobs.
#[derive(Clone, Debug)]
enum Until {
    Time(Instant),
    /// Once so many jobs are reported or in hand.
    Jobs(Arc<AtomicU64>),
}

impl Until {
    /// Jobs that a worker may ask for now, of the most that it would.
    fn allowance(&self, most: u32) -> u32 {
        match self {
            Self::Time(end) => {
                if Instant::now() < *end {
                    most
                } else {
                    0
                }
            }
            Self::Jobs(left) => {
                let take = |left: u64| left.min(u64::from(most));
                let before =
                    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left - take(left)));
                u32::try_from(take(before.unwrap_or_default())).unwrap_or(most)
            }
        }
    }
}

/// Lets the workers loose on the coordinators, which they share evenly, for warm-up and window.
///
/// # Errors
/// The first failure of any call: none is expected, and none is repeated.
pub(crate) async fn run(load: Load, coordinators: &[String]) -> Result<Outcome> {
    let clients = connect(load, coordinators).await?;
    let from = Instant::now() + load.warm_up;
    let until = from + load.window;
    let mut tasks = JoinSet::new();
    for (index, client) in clients.into_iter().enumerate() {
        tasks.spawn(work(load, client, format!("bench-{index}"), Until::Time(until)));
    }
    let mut outcome = Outcome { window: load.window, ..Outcome::default() };
    while let Some(calls) = tasks.join_next().await {
        let calls = calls??;
        let counted = |calls: Vec<(Instant, Duration)>| {
            calls
                .into_iter()
                .filter(|(end, _)| (from..until).contains(end))
                .map(|(_, took)| took)
                .collect::<Vec<_>>()
        };
        outcome.leases.extend(counted(calls.leases));
        outcome.reports.extend(counted(calls.reports));
    }
    outcome.jobs = outcome.reports.len();
    outcome.leases.sort_unstable();
    outcome.reports.sort_unstable();
    Ok(outcome)
}

/// Has the workers report so many jobs.
///
/// # Errors
/// The first failure of any call.
pub(crate) async fn report(load: Load, coordinators: &[String], jobs: u64) -> Result<()> {
    let until = Until::Jobs(Arc::new(AtomicU64::new(jobs)));
    let mut tasks = JoinSet::new();
    for (index, client) in connect(load, coordinators).await?.into_iter().enumerate() {
        tasks.spawn(work(load, client, format!("fill-{index}"), until.clone()));
    }
    while let Some(calls) = tasks.join_next().await {
        calls??;
    }
    Ok(())
}

async fn connect(load: Load, coordinators: &[String]) -> Result<Vec<JobServiceClient<Channel>>> {
    let mut clients = Vec::with_capacity(load.workers);
    for index in 0..load.workers {
        let url = coordinators[index % coordinators.len()].clone();
        let connection =
            Endpoint::from_shared(url)?.tcp_nodelay(true).timeout(CALL_TIMEOUT).connect().await?;
        clients.push(JobServiceClient::new(connection));
    }
    Ok(clients)
}

async fn work(
    load: Load,
    mut client: JobServiceClient<Channel>,
    worker: String,
    until: Until,
) -> Result<Calls> {
    let mut calls = Calls::default();
    // Jobs that were asked for and not given: the answer may hold fewer.
    let mut owed = 0;
    loop {
        let max_jobs = if owed > 0 { owed } else { until.allowance(load.jobs_per_lease) };
        if max_jobs == 0 {
            return Ok(calls);
        }
        let request = v1::LeaseRequest {
            worker: worker.clone(),
            rungs: vec![v1::Rung::Likelihood.into(), v1::Rung::Generation.into()],
            max_jobs,
            wait_millis: WAIT_MILLIS,
            ..Default::default()
        };
        let asked = Instant::now();
        let jobs = client.lease(request).await.with_context(|| format!("{worker}: Lease"))?.into_inner().jobs;
        calls.leases.push((Instant::now(), asked.elapsed()));
        ensure!(
            !jobs.is_empty(),
            "{worker}: no job came within {WAIT_MILLIS} ms: the planner does not keep up"
        );
        if matches!(until, Until::Jobs(_)) {
            owed = max_jobs - u32::try_from(jobs.len())?;
        }
        for job in &jobs {
            if !load.evaluation.is_zero() {
                sleep(load.evaluation.mul_f64(rand::random_range(0.5..1.5))).await;
            }
            let request = definition::report(&worker, job);
            let asked = Instant::now();
            let answer = client.report(request).await.with_context(|| format!("{worker}: Report"))?;
            calls.reports.push((Instant::now(), asked.elapsed()));
            let status = answer.into_inner().status();
            ensure!(
                status == v1::LeaseStatus::Held,
                "{worker}: a report was answered {}",
                status.as_str_name()
            );
        }
    }
}
