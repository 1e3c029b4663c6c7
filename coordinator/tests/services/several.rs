//! Several coordinators on one PostgreSQL.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use avsweep_coordinator::{Coordinator, ManualClock};
use avsweep_domain::{LeaseToken, QuerySet, Rung, SweepDefinition, SweepId};
use avsweep_proto::v1;
use avsweep_search::strategy::{Problem, known_point};
use avsweep_store::{JobFilter, PostgresStore, PostgresStoreOptions, Store};

use crate::support::{ALL_RUNGS, BOUND, Cluster, Shape, definition, eventually, lease_request, settings};

/// Coordinators with stores of their own on one database, and one clock.
async fn two_on_one_database() -> anyhow::Result<[Cluster; 2]> {
    let url = avsweep_testing::postgres::Cluster::shared().await?.database().await?;
    let options = PostgresStoreOptions::new(url).connections(4);
    PostgresStore::migrate(&options).await?;
    let clock = ManualClock::default();
    let mut clusters = Vec::new();
    for _ in 0..2 {
        let store: Arc<dyn Store> = Arc::new(PostgresStore::open(&options).await?);
        clusters.push(Cluster::over(store, clock.clone(), settings()).await);
    }
    clusters.try_into().map_err(|_| anyhow::anyhow!("two coordinators"))
}

/// Every point has each of its jobs once, and points were planned in the strategy's order.
async fn check_plan(cluster: &Cluster, sweep: SweepId, definition: &SweepDefinition) -> anyhow::Result<()> {
    let filter = JobFilter { sweep: Some(sweep), limit: 10_000, ..JobFilter::default() };
    let jobs = cluster.store.jobs(&filter).await?;
    let distinct: HashSet<_> = jobs.iter().map(|job| &job.job).collect();
    assert_eq!(distinct.len(), jobs.len(), "no job is there twice");
    let search = definition.slice(QuerySet::Search);
    let mut planned: Vec<_> = jobs
        .iter()
        .filter(|job| job.job.rung == Rung::Likelihood && job.job.slice.start < search.end)
        .map(|job| job.job.point.clone())
        .collect();
    planned.dedup();
    let strategy: Vec<_> = (0..9).map_while(|index| known_point(&Problem::of(definition), index)).collect();
    assert_eq!(planned, strategy);
    Ok(())
}

/// Leases and works through this coordinator until the sweep is done, or so many jobs are.
async fn work(cluster: &Cluster, definition: &SweepDefinition, most: usize) -> anyhow::Result<()> {
    let mut done = 0;
    let working = async {
        while done < most && cluster.progress("tiny").await?.state() != v1::SweepState::Done {
            for job in cluster.jobs().lease(lease_request(&ALL_RUNGS, 1, 50)).await?.into_inner().jobs {
                anyhow::ensure!(cluster.work(definition, &job).await?, "the lease was lost");
                done += 1;
            }
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(BOUND, working).await.context("the sweep's end")?
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_coordinators_plan_every_point_once_and_in_the_strategys_order() -> anyhow::Result<()> {
    let clusters = two_on_one_database().await?;
    let definition = definition(Shape::default());
    let sweep = SweepId(clusters[0].create(&definition).await?);
    let tasks = [clusters[0].background(), clusters[1].background()];
    let both = clusters.each_ref().map(|cluster| work(cluster, &definition, usize::MAX));
    futures::future::try_join_all(both).await?;
    check_plan(&clusters[0], sweep, &definition).await?;
    let progress = clusters[1].progress("tiny").await?;
    assert_eq!((progress.results, progress.duplicate_results), (9 * (8 + 4 + 4 + 4), 0));
    for (cluster, tasks) in clusters.iter().zip(tasks) {
        cluster.cancel.cancel();
        tokio::time::timeout(BOUND, tasks.wait()).await.context("background tasks end")?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_dies_while_it_plans_is_replaced_after_its_guard() -> anyhow::Result<()> {
    let [first, second] = two_on_one_database().await?;
    let definition = definition(Shape::default());
    let sweep = SweepId(first.create(&definition).await?);
    first.coordinator.plan_once().await?;
    work(&first, &definition, 2).await?;
    // It dies with the right to plan in its hands.
    let dead = LeaseToken::from_bytes([7; 16]);
    let guard = first.store.claim_planning(sweep, dead, Duration::from_secs(10), clock_of(&first)).await?;
    let guard = guard.context("nobody plans right now")?;
    drop(first);

    let planned = second.progress("tiny").await?.rungs;
    second.coordinator.plan_once().await?;
    assert_eq!(second.progress("tiny").await?.rungs, planned, "the right to plan is not ours yet");
    second.clock.advance(Duration::from_secs(11));
    let tasks = second.background();
    work(&second, &definition, usize::MAX).await?;
    check_plan(&second, sweep, &definition).await?;
    // What the dead one might still write is refused.
    let late = second.store.finish_sweep(&guard, clock_of(&second)).await;
    assert!(matches!(late, Err(avsweep_store::StoreError::PlanningLost { .. })), "{late:?}");
    second.cancel.cancel();
    tokio::time::timeout(BOUND, tasks.wait()).await.context("background tasks end")?;
    Ok(())
}

fn clock_of(cluster: &Cluster) -> avsweep_store::Timestamp {
    avsweep_coordinator::Clock::now(&cluster.clock)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_become_ready_through_another_coordinator_reach_a_waiting_worker() -> anyhow::Result<()> {
    let url = avsweep_testing::postgres::Cluster::shared().await?.database().await?;
    let options = PostgresStoreOptions::new(url).connections(4);
    PostgresStore::migrate(&options).await?;
    let long = avsweep_coordinator::Settings {
        max_wait: BOUND * 10,
        // The waiting coordinator's own planner never looks by itself.
        planner_interval: BOUND * 10,
        wait_poll_interval: Duration::from_millis(20),
        ..settings()
    };
    let clock = ManualClock::default();
    let waits = Cluster::over(Arc::new(PostgresStore::open(&options).await?), clock.clone(), long).await;
    let plans = Cluster::over(Arc::new(PostgresStore::open(&options).await?), clock, settings()).await;
    let tasks = waits.background();
    let mut waiting = waits.jobs();
    let waiting = tokio::spawn(async move { waiting.lease(lease_request(&ALL_RUNGS, 1, u32::MAX)).await });
    let definition = definition(Shape::default());
    plans.create(&definition).await?;
    plans.coordinator.plan_once().await?;
    let jobs = tokio::time::timeout(BOUND, waiting).await.context("found")???.into_inner().jobs;
    assert_eq!(jobs.len(), 1);
    waits.cancel.cancel();
    tokio::time::timeout(BOUND, tasks.wait()).await.context("background tasks end")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_database_is_away_requests_say_so_and_afterwards_all_goes_on() -> anyhow::Result<()> {
    // Killed right after its migration: what it has acknowledged must be on the disk.
    let server =
        avsweep_testing::postgres::Cluster::start(avsweep_testing::postgres::Settings::durable()).await?;
    let options = PostgresStoreOptions::new(server.database().await?).acquire_timeout(Duration::from_secs(2));
    PostgresStore::migrate(&options).await?;
    let store: Arc<dyn Store> = Arc::new(PostgresStore::open(&options).await?);
    // The clock is the database's here.
    let coordinator = Arc::new(Coordinator::open(store, settings()).await?);
    let cancel = tokio_util::sync::CancellationToken::new();
    let tasks = coordinator.start_background(cancel.clone());
    let in_process =
        avsweep_coordinator::InProcessServer::start(Arc::clone(&coordinator), cancel.clone()).await;
    let mut jobs = v1::job_service_client::JobServiceClient::new(in_process.transport());
    jobs.lease(lease_request(&ALL_RUNGS, 1, 0)).await?;
    server.kill().await?;
    let refusal = jobs.lease(lease_request(&ALL_RUNGS, 1, 0)).await.expect_err("no database");
    let code = avsweep_proto::ErrorCode::of(&refusal);
    assert_eq!(code, Some(avsweep_proto::ErrorCode::StoreUnavailable), "{refusal}");
    assert_eq!(refusal.code(), tonic::Code::Unavailable);
    assert!(coordinator.metrics_text().await.contains("avsweep_store_reachable 0\n"));
    server.restart().await?;

    let mut sweeps = v1::sweep_service_client::SweepServiceClient::new(in_process.transport());
    let wanted = definition(Shape::default());
    let create = async || {
        let request = v1::CreateSweepRequest { definition: Some((&wanted).into()), priority: 0 };
        match sweeps.create_sweep(request).await {
            Ok(created) => Ok(Some(created)),
            Err(refusal) if refusal.code() == tonic::Code::Unavailable => Ok(None),
            Err(refusal) => Err(refusal.into()),
        }
    };
    eventually("a sweep", create).await?;
    // Planned by the background task that was there all along.
    let planned = async || Ok(jobs.lease(lease_request(&ALL_RUNGS, 1, 50)).await?.into_inner().jobs.pop());
    eventually("a job", planned).await?;
    cancel.cancel();
    tokio::time::timeout(BOUND, tasks.wait()).await.context("background tasks end")?;
    Ok(())
}
