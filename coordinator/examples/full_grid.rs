//! What a full grid costs apart from its evaluation: 9,261 points of 120 queries through coordinator, gRPC and a SQLite
//! file, by a worker that evaluates in no time.
//!
//! `cargo run -p avsweep-coordinator --example full_grid -- FOLDER` (the store is made there and stays).

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use avsweep_coordinator::{Coordinator, InProcessServer, Settings};
use avsweep_domain::{
    Coefficient, Coverage, DecodeSettings, DomainDefinition, Dtype, Evaluation, Fingerprint, JudgeProvider,
    JudgeSettings, Levels, Message, ModelSource, Query, Range, Role, Space, Strategy, SweepDefinition, Ticks,
    VectorSource,
};
use avsweep_proto::v1;
use avsweep_proto::v1::job_service_client::JobServiceClient;
use avsweep_proto::v1::sweep_service_client::SweepServiceClient;
use avsweep_store::{SqliteStore, SqliteStoreOptions};
use tokio_util::sync::CancellationToken;

const DOMAINS: [&str; 3] = ["medical", "legal", "financial"];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder: PathBuf = std::env::args().nth(1).context("a folder for the store is wanted")?.into();
    let store = SqliteStore::open(&SqliteStoreOptions::file(folder.join("full_grid.db")).exclusive()).await?;
    let coordinator = Arc::new(Coordinator::new(Arc::new(store), Settings::default()));
    let cancel = CancellationToken::new();
    let server = InProcessServer::start(Arc::clone(&coordinator), cancel.clone()).await;
    let tasks = coordinator.start_background(cancel.clone());
    let mut sweeps = SweepServiceClient::new(server.transport());
    let mut jobs = JobServiceClient::new(server.transport());

    let definition = definition();
    let started = Instant::now();
    sweeps
        .create_sweep(v1::CreateSweepRequest { definition: Some((&definition).into()), priority: 0 })
        .await?;
    let (mut done, mut longest) = (0u32, Duration::ZERO);
    loop {
        let asked = Instant::now();
        let request = v1::LeaseRequest {
            worker: "example".to_owned(),
            rungs: vec![v1::Rung::Likelihood.into()],
            max_jobs: 4,
            wait_millis: 200,
            ..Default::default()
        };
        let leased = jobs.lease(request).await?.into_inner().jobs;
        longest = longest.max(asked.elapsed());
        for job in &leased {
            let asked = Instant::now();
            jobs.report(evaluate(job)).await?;
            longest = longest.max(asked.elapsed());
            done += 1;
        }
        if leased.is_empty() && state(&mut sweeps).await? == v1::SweepState::Done {
            break;
        }
    }
    let wall = started.elapsed();
    println!("{done} jobs in {wall:?}: {:?} a job; longest call {longest:?}", wall / done.max(1));

    for _ in 0..3 {
        let asked = Instant::now();
        let request =
            v1::BestPointsRequest { sweep: definition.name.clone(), ..v1::BestPointsRequest::default() };
        let best = sweeps.best_points(request).await?.into_inner();
        let points: HashSet<_> = best.answers.iter().map(|answer| answer.point_id).collect();
        println!("best of {} targets ({} points): {:?}", best.answers.len(), points.len(), asked.elapsed());
    }
    cancel.cancel();
    tasks.wait().await;
    Ok(())
}

async fn state(
    sweeps: &mut SweepServiceClient<avsweep_transport::Transport>,
) -> anyhow::Result<v1::SweepState> {
    let request = v1::GetSweepRequest { sweep: "full-grid".to_owned() };
    let progress = sweeps.get_sweep(request).await?.into_inner().progress;
    Ok(progress.context("progress")?.state())
}

/// Scores whose level follows the coefficient of the query's domain, each query with an offset of its own.
fn evaluate(job: &v1::LeasedJob) -> v1::ReportRequest {
    let ticks = job.point.as_ref().map(|point| point.ticks.clone()).unwrap_or_default();
    let results = job.ordinals.iter().map(|ordinal| {
        let domain = if *ordinal < 120 { ordinal / 40 } else { (ordinal - 120) / 20 };
        let at = 1.0 + f64::from(ticks[domain as usize]) / 10_000.0 + f64::from(ordinal % 20) / 20.0 - 0.5;
        let score = |level: i32| v1::ReferenceScore {
            log_prob_sum: -1.0 - (f64::from(level) - at).abs(),
            tokens: 3,
            bytes: 10,
        };
        v1::ScoreResult { ordinal: *ordinal, scores: (0..3).map(score).collect() }
    });
    v1::ReportRequest {
        worker: "example".to_owned(),
        lease: job.lease.clone(),
        results: Some(v1::report_request::Results::Scores(v1::ScoreResults { results: results.collect() })),
        finished: true,
        timings: None,
        usage: None,
        block_done: false,
    }
}

fn definition() -> SweepDefinition {
    let fingerprint = Fingerprint::of(b"made up");
    let range = Range::new(Ticks::new(-10_000), Ticks::new(10_000), Ticks::new(1000)).expect("divides");
    let coefficient =
        |(vector, name): (usize, &str)| Coefficient { name: name.to_owned(), vector, tensors: None, range };
    let queries = |domain: &str, set: &str, count: usize| {
        let queries = (0..count).map(|index| Query {
            id: format!("{domain}-{set}-{index}"),
            messages: vec![Message { role: Role::User, content: format!("{domain} {set} {index}?") }],
            references: ["no", "well", "yes"].map(str::to_owned).to_vec(),
        });
        queries.collect()
    };
    SweepDefinition {
        name: "full-grid".to_owned(),
        model: ModelSource { path: String::new(), dtype: Dtype::F32, fingerprint },
        vectors: DOMAINS
            .map(|name| VectorSource { name: name.to_owned(), path: String::new(), fingerprint })
            .to_vec(),
        space: Space::new(DOMAINS.into_iter().enumerate().map(coefficient).collect()).expect("names differ"),
        levels: Levels::default(),
        domains: DOMAINS
            .map(|name| DomainDefinition {
                name: name.to_owned(),
                search: queries(name, "search", 40),
                confirm: queries(name, "confirm", 20),
            })
            .to_vec(),
        strategy: Strategy::Grid,
        evaluation: Evaluation {
            likelihood: Coverage::All,
            generation: Coverage::None,
            finalists_per_target: 1,
            decode: DecodeSettings::greedy(8),
            ladder: None,
            racing: None,
        },
        judge: JudgeSettings { provider: JudgeProvider::Reference { threshold: 0.5 }, rubric: String::new() },
    }
}
