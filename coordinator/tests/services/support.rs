//! A coordinator over a store in memory, reached by gRPC in process, and workers whose results have a closed form.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use avsweep_coordinator::{Coordinator, InProcessServer, ManualClock, Settings, TokenSource};
use avsweep_domain::{
    Coefficient, Coverage, DecodeSettings, DomainDefinition, Dtype, Evaluation, FailureLimits, Fingerprint,
    FinishReason, JudgeProvider, JudgeSettings, Label, Level, Levels, Message, ModelSource, Point, Query,
    QueryScore, Range, ReferenceScore, Response, Role, Space, Strategy, SweepDefinition, Ticks, VectorSource,
    Verdict,
};
use avsweep_proto::v1;
use avsweep_proto::v1::job_service_client::JobServiceClient;
use avsweep_proto::v1::sweep_service_client::SweepServiceClient;
use avsweep_store::{SqliteStore, SqliteStoreOptions, Store};
use avsweep_transport::Transport;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// No wait in these tests comes near this; one that does has gone wrong.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

/// What differs between the tests' sweeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) likelihood: Coverage,
    pub(crate) generation: Coverage,
    pub(crate) search: usize,
    pub(crate) confirm: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            name: "tiny",
            likelihood: Coverage::All,
            generation: Coverage::Finalists,
            search: 4,
            confirm: 2,
        }
    }
}

/// Two knobs (−1, 0, 1) over two domains of three levels: nine points, nine targets.
pub(crate) fn definition(shape: Shape) -> SweepDefinition {
    let queries = |prefix: String, count: usize| {
        let queries = (0..count).map(|index| Query {
            id: format!("{prefix}{index}"),
            messages: vec![Message { role: Role::User, content: format!("{prefix} {index}?") }],
            references: ["no", "well", "yes"].map(str::to_owned).to_vec(),
        });
        queries.collect::<Vec<_>>()
    };
    let vector = |name: &str| VectorSource {
        name: name.to_owned(),
        path: format!("{name}.safetensors"),
        fingerprint: Fingerprint::of(name.as_bytes()),
    };
    let range = Range::new(Ticks::new(-10_000), Ticks::new(10_000), Ticks::new(10_000)).expect("divides");
    let knob = |name: &str, vector| Coefficient { name: name.to_owned(), vector, tensors: None, range };
    let definition = SweepDefinition {
        name: shape.name.to_owned(),
        model: ModelSource {
            path: "base".to_owned(),
            dtype: Dtype::F32,
            fingerprint: Fingerprint::of(b"base"),
        },
        vectors: vec![vector("medical"), vector("legal")],
        space: Space::new(vec![knob("alpha", 0), knob("beta", 1)]).expect("names differ"),
        levels: Levels::default(),
        domains: ["medical", "legal"]
            .map(|name| DomainDefinition {
                name: name.to_owned(),
                search: queries(format!("{name}-s"), shape.search),
                confirm: queries(format!("{name}-c"), shape.confirm),
            })
            .to_vec(),
        strategy: Strategy::Grid,
        evaluation: Evaluation {
            likelihood: shape.likelihood,
            generation: shape.generation,
            finalists_per_target: 1,
            decode: DecodeSettings::greedy(8),
            ladder: None,
            racing: None,
        },
        judge: JudgeSettings { provider: JudgeProvider::Reference { threshold: 0.5 }, rubric: String::new() },
    };
    definition.check().expect("a valid definition");
    definition
}

/// The level at which the made-up model is in a domain: the knob of the same number turns it, −1, 0, 1 to 0, 1, 2.
pub(crate) fn level_at(point: &Point, domain: usize) -> Level {
    let ticks = point.values()[domain].get();
    Level(u8::try_from(ticks / 10_000 + 1).expect("knobs go from -1 to 1"))
}

/// The one point where both domains are at the wanted levels.
pub(crate) fn point_of(levels: [u8; 2]) -> Point {
    Point::new(levels.map(|level| Ticks::new((i32::from(level) - 1) * 10_000)))
}

/// Settings under which nothing waits and small sweeps show batching.
pub(crate) fn settings() -> Settings {
    Settings {
        max_queries_per_job: 5,
        max_jobs_per_plan: 4,
        low_water: 2,
        failure_limits: FailureLimits { lost: 3, errors: 2 },
        max_wait: Duration::from_millis(100),
        planner_interval: Duration::from_millis(20),
        planner_gap: Duration::from_millis(1),
        reaper_interval: Duration::from_millis(20),
        watch_interval: Duration::from_millis(5),
        results_page_points: 2,
        ..Settings::default()
    }
}

/// A coordinator with its store, clock and server.
pub(crate) struct Cluster {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: ManualClock,
    pub(crate) coordinator: Arc<Coordinator>,
    pub(crate) server: InProcessServer,
    pub(crate) cancel: CancellationToken,
    pub(crate) transport: Transport,
}

impl Cluster {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        Self::with_settings(settings()).await
    }

    pub(crate) async fn with_settings(settings: Settings) -> anyhow::Result<Self> {
        let store = SqliteStore::open(&SqliteStoreOptions::memory()).await?;
        Ok(Self::over(Arc::new(store), ManualClock::default(), settings).await)
    }

    /// Another coordinator over a store that is there already.
    pub(crate) async fn over(store: Arc<dyn Store>, clock: ManualClock, settings: Settings) -> Self {
        let coordinator = Arc::new(Coordinator::with_parts(
            Arc::clone(&store),
            settings,
            Arc::new(clock.clone()),
            TokenSource::from_system(),
        ));
        let cancel = CancellationToken::new();
        let server = InProcessServer::start(Arc::clone(&coordinator), cancel.clone()).await;
        let transport = server.transport();
        Self { store, clock, coordinator, server, cancel, transport }
    }

    pub(crate) fn background(&self) -> TaskTracker {
        self.coordinator.start_background(self.cancel.clone())
    }

    pub(crate) fn jobs(&self) -> JobServiceClient<Transport> {
        JobServiceClient::new(self.transport.clone())
    }

    pub(crate) fn sweeps(&self) -> SweepServiceClient<Transport> {
        SweepServiceClient::new(self.transport.clone())
    }

    pub(crate) async fn create(&self, definition: &SweepDefinition) -> anyhow::Result<i64> {
        let request = v1::CreateSweepRequest { definition: Some(definition.into()), priority: 0 };
        Ok(self.sweeps().create_sweep(request).await?.into_inner().sweep)
    }

    pub(crate) async fn progress(&self, sweep: &str) -> anyhow::Result<v1::SweepProgress> {
        let request = v1::GetSweepRequest { sweep: sweep.to_owned() };
        self.sweeps().get_sweep(request).await?.into_inner().progress.context("progress")
    }

    pub(crate) async fn lease(
        &self,
        rungs: &[v1::Rung],
        max_jobs: u32,
    ) -> anyhow::Result<Vec<v1::LeasedJob>> {
        let request = lease_request(rungs, max_jobs, 0);
        Ok(self.jobs().lease(request).await?.into_inner().jobs)
    }

    /// Evaluates a job and reports it whole.
    pub(crate) async fn work(
        &self,
        definition: &SweepDefinition,
        job: &v1::LeasedJob,
    ) -> anyhow::Result<bool> {
        let report = evaluate(definition, job)?;
        let status = self.jobs().report(report).await?.into_inner().status();
        Ok(status == v1::LeaseStatus::Held)
    }

    /// Plans and works by turns, without background tasks, until the sweep is done.
    pub(crate) async fn run_to_done(&self, definition: &SweepDefinition) -> anyhow::Result<()> {
        for _ in 0..1000 {
            self.coordinator.plan_once().await?;
            let jobs = self.lease(&ALL_RUNGS, 3).await?;
            for job in &jobs {
                anyhow::ensure!(self.work(definition, job).await?, "the lease of job {job:?} was lost");
            }
            if jobs.is_empty() && self.progress(&definition.name).await?.state() == v1::SweepState::Done {
                return Ok(());
            }
        }
        bail!("sweep {} is not done: {:?}", definition.name, self.progress(&definition.name).await?)
    }

    pub(crate) async fn best(&self, definition: &SweepDefinition) -> anyhow::Result<v1::BestPointsResponse> {
        self.best_by(definition, v1::Aggregate::Min, v1::Reading::Unspecified).await
    }

    /// The best points of all targets by this aggregate and reading.
    pub(crate) async fn best_by(
        &self,
        definition: &SweepDefinition,
        aggregate: v1::Aggregate,
        reading: v1::Reading,
    ) -> anyhow::Result<v1::BestPointsResponse> {
        let request = v1::BestPointsRequest {
            sweep: definition.name.clone(),
            targets: vec![],
            aggregate: aggregate.into(),
            reading: reading.into(),
            assured: false,
        };
        Ok(self.sweeps().best_points(request).await?.into_inner())
    }

    pub(crate) async fn results(&self, sweep: &str) -> anyhow::Result<Vec<v1::ResultRow>> {
        let request = v1::ReadResultsRequest { sweep: sweep.to_owned() };
        let mut pages = self.sweeps().read_results(request).await?.into_inner();
        let mut rows = Vec::new();
        while let Some(page) = pages.message().await? {
            rows.extend(page.rows);
        }
        Ok(rows)
    }
}

pub(crate) const ALL_RUNGS: [v1::Rung; 3] = [v1::Rung::Likelihood, v1::Rung::Generation, v1::Rung::Judgement];

pub(crate) fn lease_request(rungs: &[v1::Rung], max_jobs: u32, wait_millis: u32) -> v1::LeaseRequest {
    let rungs = rungs.iter().map(|rung| (*rung).into()).collect();
    v1::LeaseRequest { worker: "tester".to_owned(), rungs, max_jobs, wait_millis, ..Default::default() }
}

/// A job's results in full, as the made-up model and judge give them.
pub(crate) fn evaluate(
    definition: &SweepDefinition,
    job: &v1::LeasedJob,
) -> anyhow::Result<v1::ReportRequest> {
    use v1::report_request::Results;
    let point = Point::try_from(job.point.clone().context("a point")?)?;
    let level = |ordinal: &u32| {
        let entry = definition.queries().nth(*ordinal as usize).context("an ordinal of the sweep")?;
        Ok::<_, anyhow::Error>(level_at(&point, entry.domain))
    };
    let results = match job.rung() {
        v1::Rung::Likelihood => {
            let results = job.ordinals.iter().map(|ordinal| {
                let at = f64::from(level(ordinal)?.0);
                let score = |reference: u8| ReferenceScore {
                    log_prob_sum: -1.0 - 4.0 * (f64::from(reference) - at).abs(),
                    tokens: 2,
                    bytes: 7,
                };
                Ok(v1::ScoreResult::from(&(*ordinal, QueryScore((0..3).map(score).collect()))))
            });
            Results::Scores(v1::ScoreResults { results: results.collect::<anyhow::Result<_>>()? })
        }
        v1::Rung::Generation => {
            let results = job.ordinals.iter().map(|ordinal| {
                // No two alike: a judge is not asked twice about the same response to the same query.
                let text = format!("{point}: an answer at level {}", level(ordinal)?.0);
                let response = Response { text, tokens: 5, finish: FinishReason::Stop };
                Ok(v1::ResponseResult::from(&(*ordinal, response)))
            });
            Results::Responses(v1::ResponseResults { results: results.collect::<anyhow::Result<_>>()? })
        }
        v1::Rung::Judgement => {
            let results = job.ordinals.iter().zip(&job.responses).map(|(ordinal, response)| {
                let index = response.text.chars().last().and_then(|digit| digit.to_digit(10));
                let level = Level(u8::try_from(index.context("a text that ends in a digit")?)?);
                let verdict = Verdict { label: Label::Level(level), confidence: Some(1.0), reason: None };
                Ok(v1::VerdictResult::from(&(*ordinal, verdict)))
            });
            Results::Verdicts(v1::VerdictResults { results: results.collect::<anyhow::Result<_>>()? })
        }
        v1::Rung::Unspecified => bail!("a job without a rung"),
    };
    Ok(v1::ReportRequest {
        worker: "tester".to_owned(),
        lease: job.lease.clone(),
        results: Some(results),
        finished: true,
        timings: Some(v1::Timings { load_micros: 1, merge_micros: 2, evaluate_micros: 3 }),
        usage: None,
        block_done: false,
    })
}

/// Repeats a question until its answer is there, within [`BOUND`].
pub(crate) async fn eventually<T>(
    what: &str,
    mut ask: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let asking = async {
        loop {
            if let Some(answer) = ask().await? {
                return anyhow::Ok(answer);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(BOUND, asking).await.with_context(|| format!("waiting for {what}"))?
}
