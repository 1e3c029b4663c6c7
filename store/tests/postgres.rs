//! The PostgreSQL store against the contract, and what is its own: several at once, versions, outages.

mod contract;
mod outages;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use avsweep_domain::{FailureLimits, LeaseToken, QuerySlice, Rung, SweepState};
use avsweep_store::{
    JobResults, LeaseStatus, NewJob, Plan, PointFilter, PostgresStore, PostgresStoreOptions, Store,
    StoreError,
};
use avsweep_testing::postgres::Cluster;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};

use contract::fixture::{
    self, EVERY_RUNG, LATER, LEASE, NOW, SEARCH, claim, create, definition, every_result, job, lease_one,
    lease_several, plan, report, report_some, tallies_equal_a_recount, work_off,
};

/// A new empty store on the server that the tests share.
async fn on_a_server() -> Result<((), PostgresStore)> {
    let options = options(Cluster::shared().await?.database().await?);
    PostgresStore::migrate(&options).await?;
    Ok(((), PostgresStore::open(&options).await?))
}

fn options(url: impl Into<String>) -> PostgresStoreOptions {
    PostgresStoreOptions::new(url).connections(8)
}

mod server {
    use crate::contract::contract_suite;

    // Every history has its own database and goes over the wire: fewer of them.
    contract_suite!(super::on_a_server, 4);
}

/// Runs SQL on a store behind its back.
async fn tamper(url: &str, sql: &str) -> Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

/// Likelihood jobs on both query sets at the first points of the fixture's grid.
fn grid(points: usize) -> Vec<NewJob> {
    let steps = ["-1", "-0.5", "0", "0.5", "1"];
    let at = steps.iter().flat_map(|alpha| steps.iter().map(move |beta| format!("{alpha},{beta}")));
    at.take(points)
        .flat_map(|at| [SEARCH, fixture::CONFIRM].map(|slice| job(&at, Rung::Likelihood, slice)))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixteen_claim_at_once_from_two_coordinators_and_no_job_goes_out_twice() -> Result<()> {
    let options = options(Cluster::shared().await?.database().await?);
    PostgresStore::migrate(&options).await?;
    let stores =
        [Arc::new(PostgresStore::open(&options).await?), Arc::new(PostgresStore::open(&options).await?)];
    let sweep = definition("s");
    let id = create(&*stores[0], &sweep).await?;
    plan(&*stores[0], id, grid(25)).await?;
    let claimers: Vec<_> = (0..16)
        .map(|number| {
            let store = Arc::clone(&stores[number % 2]);
            tokio::spawn(async move {
                let mut jobs = Vec::new();
                loop {
                    let leased = store.lease(&claim(&[Rung::Likelihood], 1 + number as u32 % 3), NOW).await?;
                    if leased.is_empty() {
                        return anyhow::Ok(jobs);
                    }
                    jobs.extend(leased.into_iter().map(|leased| leased.lease.reference.job));
                }
            })
        })
        .collect();
    let mut seen = HashSet::new();
    for claimer in claimers {
        for job in claimer.await?? {
            ensure!(seen.insert(job), "job {job} was handed out twice");
        }
    }
    ensure!(seen.len() == 50, "{} of 50 jobs were handed out", seen.len());
    let totals = stores[1].totals(id).await?;
    ensure!((totals.likelihood.ready, totals.likelihood.leased) == (0, 50), "{totals:?}");
    Ok(())
}

#[tokio::test]
async fn a_damaged_job_fails_no_claim_but_the_one_that_it_is_dealt_to() -> Result<()> {
    let url = Cluster::shared().await?.database().await?;
    let options = options(&*url);
    PostgresStore::migrate(&options).await?;
    let store = PostgresStore::open(&options).await?;
    let id = create(&store, &definition("s")).await?;
    plan(&store, id, grid(2)).await?;
    // More attempts than there can be.
    tamper(&url, "UPDATE jobs SET attempt = 5000000000 WHERE id = (SELECT min(id) FROM jobs) + 1").await?;
    let claims = [1, 1, 2].map(|most| claim(&[Rung::Likelihood], most));
    let answers = lease_several(&store, &claims).await;
    let jobs: Vec<_> = answers.iter().map(|answer| answer.as_ref().map(Vec::len).ok()).collect();
    ensure!(jobs == [Some(1), None, Some(2)], "{answers:?}");
    ensure!(matches!(answers[1], Err(StoreError::Corrupt { .. })), "{answers:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reports_on_one_point_at_once_lose_no_result_and_no_tally() -> Result<()> {
    let options = options(Cluster::shared().await?.database().await?);
    PostgresStore::migrate(&options).await?;
    let stores =
        [Arc::new(PostgresStore::open(&options).await?), Arc::new(PostgresStore::open(&options).await?)];
    // Two sweeps share every result; the jobs overlap in every way.
    let sweeps = [definition("first"), definition("second")];
    let mut ids = Vec::new();
    for sweep in &sweeps {
        let id = create(&*stores[0], sweep).await?;
        let slices = (0..10).flat_map(|start| (start + 1..=10).map(move |end| QuerySlice { start, end }));
        plan(&*stores[0], id, slices.map(|slice| job("0,0", Rung::Likelihood, slice)).collect()).await?;
        ids.push(id);
    }
    let mut held = Vec::new();
    while let Some(leased) = stores[0].lease(&claim(&[Rung::Likelihood], 1), NOW).await?.pop() {
        held.push(leased);
    }
    ensure!(held.len() == 110);
    let brought = Arc::new(AtomicU64::new(0));
    let reports: Vec<_> = held
        .into_iter()
        .enumerate()
        .map(|(number, leased)| {
            let (store, sweep) = (Arc::clone(&stores[number % 2]), sweeps[0].clone());
            let brought = Arc::clone(&brought);
            tokio::spawn(async move {
                brought.fetch_add(leased.ordinals.len() as u64, Ordering::Relaxed);
                // In two parts, so that a report meets others halfway.
                let (first, rest) = leased.ordinals.split_at(leased.ordinals.len() / 2);
                report_some(&*store, &sweep, &leased, first, false).await?;
                let status = report_some(&*store, &sweep, &leased, rest, true).await?;
                ensure!(status == LeaseStatus::Held, "the lease was lost");
                Ok(())
            })
        })
        .collect();
    for report in reports {
        report.await??;
    }
    let (mut results, mut duplicates) = (0, 0);
    for (id, sweep) in ids.iter().zip(&sweeps) {
        let totals = stores[1].totals(*id).await?;
        ensure!(totals.likelihood.done == 55 && totals.likelihood.open() == 0, "{totals:?}");
        results += totals.results;
        duplicates += totals.duplicate_results;
        tallies_equal_a_recount(&*stores[1], *id, sweep).await?;
        ensure!(every_result(&*stores[1], *id, 1).await?.len() == 10);
    }
    ensure!(
        results == 10 && results + duplicates == brought.load(Ordering::Relaxed),
        "{results} {duplicates}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_two_coordinators_do_at_once_the_sums_and_tallies_are_right() -> Result<()> {
    let options = options(Cluster::shared().await?.database().await?);
    PostgresStore::migrate(&options).await?;
    let store = Arc::new(PostgresStore::open(&options).await?);
    let sweeps = Arc::new([definition("first"), definition("second"), definition("third")]);
    let mut ids = Vec::new();
    for sweep in sweeps.iter() {
        ids.push(create(&*store, sweep).await?);
    }
    let ids = Arc::new(ids);
    let over = Arc::new(AtomicBool::new(false));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..3usize {
        let (store, sweeps, ids) =
            (PostgresStore::open(&options).await?, Arc::clone(&sweeps), Arc::clone(&ids));
        tasks.spawn(async move {
            // Everybody plans the same points in another order.
            let mut points = grid(25);
            points.rotate_left(number * 13);
            for jobs in points.chunks(7) {
                plan(&store, ids[number], jobs.to_vec()).await?;
                let at = jobs[0].point.to_string();
                plan(&store, ids[number], vec![job(&at, Rung::Generation, SEARCH)]).await?;
                let jobs: Vec<NewJob> = store.unjudged(ids[number]).await?;
                let judge = jobs.into_iter().map(|job| NewJob { rung: Rung::Judgement, ..job }).collect();
                store.plan(ids[number], &Plan { jobs: judge, ..Plan::default() }, None, NOW).await?;
            }
            let _ = &sweeps;
            anyhow::Ok(0)
        });
    }
    for number in 0..6u64 {
        let store = Arc::new(PostgresStore::open(&options).await?);
        let (sweeps, over) = (Arc::clone(&sweeps), Arc::clone(&over));
        tasks.spawn(async move {
            let mut done = 0u64;
            loop {
                let finished = over.load(Ordering::Relaxed);
                let Some(leased) = store.lease(&claim(&EVERY_RUNG, 1), NOW).await?.pop() else {
                    if finished {
                        return Ok(done);
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    continue;
                };
                let lease = leased.lease.reference;
                match (done + number) % 5 {
                    0 => store.release(&[lease], NOW).await?,
                    1 => {
                        store.fail(&lease, "broken", FailureLimits { lost: 99, errors: 99 }, NOW).await?;
                    }
                    _ => {
                        store.renew(&[lease], LEASE, NOW).await?;
                        let status =
                            report_some(&*store, &sweeps[0], &leased, &leased.ordinals, true).await?;
                        ensure!(status == LeaseStatus::Held);
                    }
                }
                done += 1;
            }
        });
    }
    let mut planning = 3;
    while let Some(task) = tasks.join_next().await {
        let done = task??;
        if planning > 0 && done == 0 {
            planning -= 1;
        }
        if planning == 0 {
            over.store(true, Ordering::Relaxed);
        }
    }
    for (id, sweep) in ids.iter().zip(sweeps.iter()) {
        let totals = store.totals(*id).await?;
        let jobs = store
            .jobs(&avsweep_store::JobFilter { sweep: Some(*id), limit: 10_000, ..Default::default() })
            .await?;
        let open = totals.likelihood.open() + totals.generation.open() + totals.judgement.open();
        let done = totals.likelihood.done + totals.generation.done + totals.judgement.done;
        ensure!((open, done, totals.holders) == (0, jobs.len() as u64, 0), "{totals:?}");
        ensure!(totals.points == 25 && totals.likelihood.done == 50, "{totals:?}");
        tallies_equal_a_recount(&*store, *id, sweep).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_sweep_is_planned_by_one_at_a_time_and_finished_only_when_nothing_is_open() -> Result<()> {
    let options = options(Cluster::shared().await?.database().await?);
    PostgresStore::migrate(&options).await?;
    let stores = [PostgresStore::open(&options).await?, PostgresStore::open(&options).await?];
    let id = create(&stores[0], &definition("s")).await?;
    let holders = [LeaseToken::from_bytes([1; 16]), LeaseToken::from_bytes([2; 16])];
    let (first, second) = tokio::join!(
        stores[0].claim_planning(id, holders[0], LEASE, NOW),
        stores[1].claim_planning(id, holders[1], LEASE, NOW)
    );
    let (first, second) = (first?, second?);
    ensure!(first.is_some() != second.is_some(), "{first:?} {second:?}");
    let guard = first.or(second).context("one has it")?;
    let other = if first.is_some() { 1 } else { 0 };
    let jobs = Plan { jobs: grid(2), ..Plan::default() };
    stores[1].plan(id, &jobs, Some(&guard), NOW).await?;
    ensure!(!stores[0].finish_sweep(&guard, NOW).await?, "jobs are open");
    let next = stores[0].claim_planning(id, holders[other], LEASE, LATER).await?.context("it has ended")?;
    ensure!(next.term == guard.term + 1);
    for lost in [
        stores[0].plan(id, &jobs, Some(&guard), LATER).await.err(),
        stores[0].finish_sweep(&guard, LATER).await.err(),
    ] {
        ensure!(matches!(lost, Some(StoreError::PlanningLost { .. })), "{lost:?}");
    }
    work_off(&stores[0], &definition("s")).await?;
    ensure!(stores[1].finish_sweep(&next, LATER).await?, "nothing is open");
    ensure!(stores[0].sweep(id).await?.state == SweepState::Done);
    Ok(())
}

#[tokio::test]
async fn several_migrate_at_once_and_the_schema_is_made_once() -> Result<()> {
    let options = options(Cluster::shared().await?.database().await?);
    match PostgresStore::open(&options).await {
        Err(error @ StoreError::Older { found: 0, .. }) => {
            let text = error.to_string();
            ensure!(
                text.contains("avsweep coordinator --migrate")
                    && text.contains("postgres://avsweep@127.0.0.1")
            );
        }
        other => panic!("{other:?}"),
    }
    let all = tokio::join!(
        PostgresStore::migrate(&options),
        PostgresStore::migrate(&options),
        PostgresStore::migrate(&options)
    );
    all.0?;
    all.1?;
    all.2?;
    PostgresStore::migrate(&options).await?;
    let store = PostgresStore::open(&options).await?;
    create(&store, &definition("s")).await?;
    Ok(())
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() -> Result<()> {
    let url = Cluster::shared().await?.database().await?;
    PostgresStore::migrate(&options(&url)).await?;
    tamper(&url, "UPDATE avsweep_schema SET version = 99").await?;
    for outcome in
        [PostgresStore::open(&options(&url)).await.err(), PostgresStore::migrate(&options(&url)).await.err()]
    {
        let Some(error @ StoreError::Newer { found: 99, .. }) = outcome else {
            panic!("{outcome:?}");
        };
        ensure!(error.to_string().contains("99") && error.to_string().contains("newer avsweep"), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn damaged_rows_are_errors_not_panics() -> Result<()> {
    for damage in [
        "UPDATE score_blocks SET scores = '\\x01'",
        "UPDATE score_blocks SET scores = substr(scores, 1, 40)",
        "UPDATE sweep_points SET search_likelihood = '\\x0102'",
        "UPDATE points SET ticks = '\\x0102' WHERE id = (SELECT max(id) FROM points)",
        "UPDATE sweep_points SET ticks = '\\x0102' WHERE point = (SELECT max(id) FROM points)",
        "UPDATE jobs SET slice_start = -1",
        "UPDATE jobs SET rung = 'dreaming' WHERE rung = 'likelihood'",
        "UPDATE sweeps SET definition = '{}'",
        "UPDATE sweeps SET fingerprint = '\\x00'",
        "UPDATE sweeps SET state = 'asleep'",
        "DELETE FROM sweep_queries WHERE ordinal = 9",
        "UPDATE verdicts SET label = 999",
        "UPDATE responses SET finish = 'never'",
        "UPDATE responses SET tokens = -1",
        "UPDATE responses SET text = '\\xff'",
        "UPDATE sweep_counts SET done = -1",
        "UPDATE sweep_counts SET results = -5000",
    ] {
        let url = Cluster::shared().await?.database().await?;
        PostgresStore::migrate(&options(&url)).await?;
        let store = PostgresStore::open(&options(&url)).await?;
        let sweep = definition("s");
        let id = create(&store, &sweep).await?;
        for rung in EVERY_RUNG {
            plan(&store, id, vec![job("0,0", rung, SEARCH)]).await?;
            work_off(&store, &sweep).await?;
        }
        plan(&store, id, vec![job("0,1", Rung::Likelihood, SEARCH)]).await?;
        store.close().await?;
        tamper(&url, damage).await?;
        let store = PostgresStore::open(&options(&url)).await?;
        let at = fixture::point("0,0");
        let outcomes = [
            store.sweep(id).await.err(),
            store.totals(id).await.err(),
            store.tallies(id, PointFilter::All).await.err(),
            store.results(id, None, 10).await.err(),
            store.point_results(id, &at, &[]).await.err(),
            store.point_jobs(id, &at).await.err(),
            store.lease(&claim(&EVERY_RUNG, 9), NOW).await.err(),
        ];
        let corrupt =
            outcomes.iter().flatten().filter(|error| matches!(error, StoreError::Corrupt { .. })).count();
        assert!(corrupt > 0, "{damage}: {outcomes:?}");
        assert_eq!(outcomes.iter().flatten().count(), corrupt, "{damage}: {outcomes:?}");
    }
    Ok(())
}

#[tokio::test]
async fn text_with_zero_characters_is_taken() -> Result<()> {
    let (_guard, store) = on_a_server().await?;
    let id = create(&store, &definition("s")).await?;
    ensure!(matches!(store.find_sweep("a\0b").await, Err(StoreError::NoSuchSweep { .. })));
    plan(&store, id, vec![job("0,0", Rung::Likelihood, SEARCH)]).await?;
    let leased = lease_one(&store).await?;
    store.fail(&leased.lease.reference, "a\0b", FailureLimits::default(), NOW).await?;
    let jobs = store.jobs(&avsweep_store::JobFilter { limit: 9, ..Default::default() }).await?;
    ensure!(jobs[0].last_error.as_deref() == Some("a\u{fffd}b"), "{jobs:?}");
    let results = JobResults::Scores(Vec::new());
    let status = store.report(&report(leased.lease.reference, results, false), NOW).await?;
    ensure!(status == LeaseStatus::Lost);
    Ok(())
}

#[tokio::test]
async fn the_servers_clock_is_the_time() -> Result<()> {
    let (_guard, store) = on_a_server().await?;
    let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() as i64;
    let clock = store.clock().await?.context("it has one")?.0;
    let after = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() as i64;
    ensure!((before..=after).contains(&clock), "{before} {clock} {after}");
    Ok(())
}
