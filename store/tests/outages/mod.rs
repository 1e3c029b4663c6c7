//! The server away, a call cut off, a call refused: nothing is lost, half done or left locked.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use avsweep_domain::{FailureLimits, JobId, Rung, SweepState};
use avsweep_store::{LeaseStatus, PostgresStore, PostgresStoreOptions, Store};
use avsweep_testing::postgres::{Cluster, Settings};

use crate::contract::fixture::{
    LEASE, NOW, claim, create, definition, evaluate, every_result, plan, report, tallies_equal_a_recount,
    token, work_off,
};
use crate::{grid, on_a_server, options};

/// Everything that an error says, with its causes.
fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = format!("{error} {error:?}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(" {error} {error:?}"));
        cause = error.source();
    }
    text
}

#[tokio::test]
async fn a_server_out_of_reach_is_named_without_the_password() -> Result<()> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let secret = "swordfish";
    let url = format!("postgres://user:{secret}@127.0.0.1:{port}/sweeps?application_name=x");
    let options = PostgresStoreOptions::new(&url).acquire_timeout(Duration::from_secs(5));
    for outcome in [PostgresStore::open(&options).await.err(), PostgresStore::migrate(&options).await.err()] {
        let error = outcome.context("nobody is there")?;
        ensure!(error.is_unavailable(), "{error:?}");
        let text = told(&error);
        ensure!(text.contains(&format!("postgres://user@127.0.0.1:{port}/sweeps")), "{text}");
        ensure!(!text.contains(secret), "{text}");
    }
    ensure!(!format!("{options:?}").contains(secret));
    let server = Cluster::shared().await?;
    let wrong = format!("postgres://nobody:{secret}@127.0.0.1:{}/postgres", server.port());
    let error = PostgresStore::open(&PostgresStoreOptions::new(wrong)).await.err().context("no such role")?;
    let text = told(&error);
    ensure!(text.contains("nobody") && !text.contains(secret), "{text}");
    for bad in [format!("postgres://user:{secret}@host:notaport/x"), secret.to_owned(), String::new()] {
        let error = PostgresStore::open(&PostgresStoreOptions::new(bad)).await.err().context("no URL")?;
        ensure!(!told(&error).contains(secret), "{error:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crash_of_the_server_loses_no_acknowledged_report_and_the_store_goes_on() -> Result<()> {
    let cluster = Cluster::start(Settings::durable()).await?;
    let options = options(cluster.database().await?);
    PostgresStore::migrate(&options).await?;
    let store = Arc::new(PostgresStore::open(&options).await?);
    let sweep = Arc::new(definition("s"));
    let id = create(&*store, &sweep).await?;
    plan(&*store, id, grid(25)).await?;
    let (over, reported) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let (store, sweep) = (Arc::clone(&store), Arc::clone(&sweep));
            let (over, reported) = (Arc::clone(&over), Arc::clone(&reported));
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    let leased = match store.lease(&claim(&[Rung::Likelihood], 1), NOW).await {
                        Ok(leased) => leased,
                        Err(error) => {
                            ensure!(error.is_unavailable(), "{}", told(&error));
                            tokio::time::sleep(Duration::from_millis(20)).await;
                            continue;
                        }
                    };
                    let Some(leased) = leased.into_iter().next() else {
                        // Those that the crash left leased are given out again.
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        continue;
                    };
                    let results = evaluate(&sweep, &leased, &leased.ordinals);
                    match store.report(&report(leased.lease.reference, results, true), NOW).await {
                        Ok(LeaseStatus::Held) => {
                            acknowledged.push((leased.point, leased.ordinals));
                            reported.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(LeaseStatus::Lost) => {}
                        Err(error) => ensure!(error.is_unavailable(), "{}", told(&error)),
                    }
                }
                anyhow::Ok(acknowledged)
            })
        })
        .collect();
    let until = async |reports: u64| {
        let started = Instant::now();
        while reported.load(Ordering::Relaxed) < reports {
            ensure!(started.elapsed() < Duration::from_secs(60), "not {reports} reports in a minute");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    };
    for reports in [5, 20] {
        until(reports).await?;
        cluster.kill().await?;
        cluster.restart().await?;
    }
    until(30).await?;
    over.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    for worker in workers {
        acknowledged.extend(worker.await??);
    }
    cluster.kill().await?;
    cluster.restart().await?;
    let stored: HashSet<_> =
        every_result(&*store, id, 7).await?.into_iter().map(|row| (row.point, row.ordinal)).collect();
    for (point, ordinals) in acknowledged {
        for ordinal in ordinals {
            ensure!(stored.contains(&(point.clone(), ordinal)), "query {ordinal} at {point} is gone");
        }
    }
    tallies_equal_a_recount(&*store, id, &sweep).await?;
    store.reap_all(FailureLimits::default(), NOW).await?;
    work_off(&*store, &sweep).await?;
    let totals = store.totals(id).await?;
    ensure!(totals.likelihood.done == 50 && totals.results == 250, "{totals:?}");
    tallies_equal_a_recount(&*store, id, &sweep).await
}

#[tokio::test]
async fn a_call_that_is_dropped_halfway_leaves_nothing_half_done() -> Result<()> {
    let (_guard, store) = on_a_server().await?;
    let sweep = definition("s");
    let id = create(&store, &sweep).await?;
    let jobs = grid(20);
    for (patience, job) in jobs.iter().enumerate() {
        let call = plan(&store, id, vec![job.clone()]);
        let _ = tokio::time::timeout(Duration::from_micros(150 * patience as u64), call).await;
    }
    let totals = store.totals(id).await?;
    ensure!(totals.likelihood.ready <= 40 && totals.points <= 20, "{totals:?}");
    plan(&store, id, jobs).await?;
    ensure!(work_off(&store, &sweep).await? == 40);
    tallies_equal_a_recount(&store, id, &sweep).await
}

#[tokio::test]
async fn a_refused_call_leaves_nothing_locked() -> Result<()> {
    let options = options(Cluster::shared().await?.database().await?);
    PostgresStore::migrate(&options).await?;
    let (store, other) = (PostgresStore::open(&options).await?, PostgresStore::open(&options).await?);
    let id = create(&store, &definition("s")).await?;
    plan(&store, id, grid(1)).await?;
    let guard = store.claim_planning(id, token(), LEASE, NOW).await?.context("it is free")?;
    ensure!(!store.finish_sweep(&guard, NOW).await?, "jobs are open");
    // Shorter than the server's patience with a transaction that was forgotten.
    let bound = Duration::from_secs(8);
    tokio::time::timeout(bound, other.set_sweep_state(id, SweepState::Cancelled))
        .await
        .context("the sweep is locked")??;
    ensure!(store.retry_jobs(id, &[JobId(99)]).await.is_err(), "there is no such job");
    tokio::time::timeout(bound, other.delete_sweep(id)).await.context("the sweep is locked")??;
    Ok(())
}
