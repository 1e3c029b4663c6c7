//! The SQLite store against the contract, and what is its own: files, versions, locks, damage.

mod contract;

use anyhow::Result;
use avsweep_domain::Rung;
use avsweep_store::{PointFilter, SqliteStore, SqliteStoreOptions, Store, StoreError};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use tempfile::TempDir;

use contract::fixture::{
    self, EVERY_RUNG, LATER, NOW, SEARCH, claim, create, definition, every_result, finish, job, lease_one,
    plan, tallies_equal_a_recount, work_off,
};

async fn in_memory() -> Result<((), SqliteStore)> {
    Ok(((), SqliteStore::open(&SqliteStoreOptions::memory()).await?))
}

async fn in_a_file() -> Result<(TempDir, SqliteStore)> {
    let folder = tempfile::tempdir()?;
    let store = SqliteStore::open(&options(&folder)).await?;
    Ok((folder, store))
}

fn options(folder: &TempDir) -> SqliteStoreOptions {
    SqliteStoreOptions::file(folder.path().join("store.db"))
}

mod memory {
    use crate::contract::contract_suite;

    contract_suite!(super::in_memory);
}

mod file {
    use crate::contract::contract_suite;

    contract_suite!(super::in_a_file);
}

/// Runs SQL on a store's file behind its back.
async fn tamper(folder: &TempDir, sql: &str) -> Result<()> {
    let path = folder.path().join("store.db");
    let mut connection = SqliteConnectOptions::new().filename(path).create_if_missing(true).connect().await?;
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

#[tokio::test]
async fn a_store_opened_again_holds_everything() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let definition = definition("s");
    let (id, totals, rows) = {
        let store = SqliteStore::open(&options(&folder)).await?;
        let id = create(&store, &definition).await?;
        plan(&store, id, vec![job("0,0", Rung::Likelihood, SEARCH), job("0,1", Rung::Likelihood, SEARCH)])
            .await?;
        finish(&store, &definition, &lease_one(&store).await?).await?;
        lease_one(&store).await?;
        // Dropped, not closed: as a process that ends does.
        (id, store.totals(id).await?, every_result(&store, id, 5).await?)
    };
    let store = SqliteStore::open(&options(&folder)).await?;
    assert_eq!(store.totals(id).await?, totals);
    assert_eq!(every_result(&store, id, 5).await?, rows);
    assert_eq!(*store.find_sweep("s").await?.definition, definition);
    assert!(!store.create_sweep(&definition, 0, LATER).await?.created);
    tallies_equal_a_recount(&store, id, &definition).await?;
    store.reap_all(avsweep_domain::FailureLimits::default(), NOW).await?;
    assert_eq!(work_off(&store, &definition).await?, 1);
    store.close().await?;
    let left: Vec<_> =
        std::fs::read_dir(folder.path())?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    assert_eq!(left, ["store.db"], "closing leaves one file");
    Ok(())
}

#[tokio::test]
async fn a_store_of_a_newer_version_is_refused() -> Result<()> {
    let (folder, store) = in_a_file().await?;
    store.close().await?;
    tamper(&folder, "PRAGMA user_version = 99").await?;
    for options in [options(&folder), options(&folder).read_only()] {
        match SqliteStore::open(&options).await {
            Err(error @ StoreError::Newer { found: 99, .. }) => {
                let text = error.to_string();
                assert!(
                    text.contains("store.db") && text.contains("99") && text.contains("up to 4"),
                    "{text}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
    Ok(())
}

/// A store's file of version 1 with all that another store holds, written by the released migration.
async fn make_version_1(folder: &TempDir, from: &TempDir) -> Result<()> {
    let mut sql = include_str!("../../migrations/sqlite/0001_first.sql").to_owned();
    let from = from.path().join("store.db");
    sql += &format!("ATTACH '{}' AS new; PRAGMA foreign_keys = OFF;", from.display());
    // Triggers count what is copied; their tables come last and are overwritten.
    for (table, columns) in [
        ("recipes", "id, fingerprint"),
        ("queries", "id, fingerprint"),
        ("decodings", "id, fingerprint"),
        ("judges", "id, fingerprint"),
        ("sweeps", "id, name, state, fingerprint, recipe, decoding, judge, created_at, revision, definition"),
        ("sweep_queries", "sweep, ordinal, query"),
        ("points", "id, recipe, ticks"),
        (
            "sweep_points",
            "sweep, ticks, point, search_likelihood, search_judgement, confirm_likelihood, confirm_judgement",
        ),
        (
            "jobs",
            "id, sweep, point, rung, slice_start, slice_end, priority, state, attempt, token, expires, worker, \
             lost, errors, last_error, judged, results, duplicate_results, load_nanos, merge_nanos, \
             evaluate_nanos",
        ),
        ("score_blocks", "id, point, scores"),
        ("responses", "point, decoding, query, hash, tokens, finish, text"),
        ("verdicts", "id, judge, query, hash, label, confidence, reason"),
        ("point_verdicts", "point, decoding, judge, query, verdict"),
        ("job_counts", "sweep, rung, state, jobs"),
        (
            "sweep_totals",
            "sweep, points, results, duplicate_results, load_nanos, merge_nanos, evaluate_nanos",
        ),
    ] {
        sql += &format!("INSERT OR REPLACE INTO main.{table} ({columns}) SELECT {columns} FROM new.{table};");
    }
    sql += "DETACH new; PRAGMA user_version = 1; PRAGMA application_id = 1635152759;";
    tamper(folder, &sql).await
}

#[tokio::test]
async fn a_store_of_the_first_version_is_brought_up_to_date() -> Result<()> {
    let (source, store) = in_a_file().await?;
    let definition = definition("s");
    let id = create(&store, &definition).await?;
    for rung in EVERY_RUNG {
        plan(&store, id, vec![job("0,0", rung, SEARCH), job("0,0.5", Rung::Likelihood, SEARCH)]).await?;
        work_off(&store, &definition).await?;
    }
    plan(&store, id, vec![job("0,1", Rung::Likelihood, SEARCH), job("1,1", Rung::Likelihood, SEARCH)])
        .await?;
    let limits = avsweep_domain::FailureLimits { lost: 1, errors: 1 };
    let held = lease_one(&store).await?;
    store.fail(&held.lease.reference, "broken", limits, NOW).await?;
    lease_one(&store).await?;
    let (totals, rows) = (store.totals(id).await?, every_result(&store, id, 5).await?);
    store.close().await?;

    let folder = tempfile::tempdir()?;
    make_version_1(&folder, &source).await?;
    match SqliteStore::open(&options(&folder).read_only()).await {
        Err(error @ StoreError::Older { found: 1, .. }) => {
            assert!(error.to_string().contains("4 is wanted"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    let store = SqliteStore::open(&options(&folder)).await?;
    let found = store.find_sweep("s").await?;
    assert_eq!((found.id, found.priority, &*found.definition), (id, 0, &definition));
    assert_eq!(store.totals(id).await?, totals);
    assert_eq!((totals.errors, totals.holders), (1, 1));
    assert_eq!(every_result(&store, id, 5).await?, rows);
    tallies_equal_a_recount(&store, id, &definition).await?;
    // Its leases, jobs and deletion are as if it had been made today.
    assert_eq!(store.reap_all(avsweep_domain::FailureLimits::default(), NOW).await?, 1);
    assert_eq!(store.retry_jobs(id, &[]).await?, 1);
    assert_eq!(work_off(&store, &definition).await?, 2);
    store.set_sweep_state(id, avsweep_domain::SweepState::Done).await?;
    assert_eq!(store.delete_sweep(id).await?.points, 4);
    assert!(create(&store, &definition).await? > id);
    Ok(())
}

#[tokio::test]
async fn a_deletion_that_was_cut_off_is_finished_by_asking_again() -> Result<()> {
    let (folder, store) = in_a_file().await?;
    let definition = definition("s");
    let id = create(&store, &definition).await?;
    let jobs = (0..5000).map(|step| job(&format!("0.{step:04},0"), Rung::Likelihood, SEARCH)).collect();
    plan(&store, id, jobs).await?;
    store.set_sweep_state(id, avsweep_domain::SweepState::Done).await?;
    {
        let mut call = store.delete_sweep(id);
        while store_points(&folder).await? == 5000 {
            assert!(!futures_poll_once(&mut call).await, "a step at a time is seen");
        }
    }
    // What is left is a cancelled sweep with fewer points.
    let store = SqliteStore::open(&options(&folder)).await?;
    assert_eq!(store.sweep(id).await?.state, avsweep_domain::SweepState::Cancelled);
    let totals = store.totals(id).await?;
    assert!((1..5000).contains(&totals.points), "{totals:?}");
    assert_eq!(totals.likelihood.ready, totals.points);
    let rest = store.delete_sweep(id).await?;
    assert_eq!((rest.jobs, rest.points), (totals.points, totals.points));
    assert!(store.sweeps().await?.is_empty());
    Ok(())
}

/// How many points of sweeps a store's file holds, seen from outside.
async fn store_points(folder: &TempDir) -> Result<i64> {
    let mut connection = SqliteConnectOptions::new()
        .filename(folder.path().join("store.db"))
        .read_only(true)
        .connect()
        .await?;
    let points = sqlx::query_scalar("SELECT count(*) FROM sweep_points").fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(points)
}

#[tokio::test]
async fn what_is_no_store_is_refused_and_left_alone() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("store.db");
    let text = "name: not a database, but a text that is long enough to be taken for one\n".repeat(20);
    std::fs::write(&path, &text)?;
    for options in [options(&folder), options(&folder).read_only()] {
        assert!(matches!(SqliteStore::open(&options).await, Err(StoreError::NotAStore { .. })));
    }
    assert_eq!(std::fs::read_to_string(&path)?, text);

    std::fs::remove_file(&path)?;
    tamper(&folder, "CREATE TABLE theirs (id INTEGER)").await?;
    let before = std::fs::read(&path)?;
    for options in [options(&folder), options(&folder).read_only()] {
        assert!(matches!(SqliteStore::open(&options).await, Err(StoreError::NotAStore { .. })));
    }
    assert_eq!(std::fs::read(&path)?, before);
    Ok(())
}

#[tokio::test]
async fn a_store_that_is_not_there_is_not_made_by_reading() -> Result<()> {
    let folder = tempfile::tempdir()?;
    match SqliteStore::open(&options(&folder).read_only()).await {
        Err(error @ StoreError::Missing { .. }) => assert!(error.to_string().contains("store.db"), "{error}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(std::fs::read_dir(folder.path())?.count(), 0);
    let nowhere = SqliteStoreOptions::file(folder.path().join("no/such/folder/store.db"));
    match SqliteStore::open(&nowhere).await {
        Err(StoreError::Io { path, .. }) => assert!(path.ends_with("no/such/folder")),
        other => panic!("{other:?}"),
    }
    Ok(())
}

#[tokio::test]
async fn a_store_for_reading_refuses_to_write() -> Result<()> {
    let (folder, store) = in_a_file().await?;
    let definition = definition("s");
    let id = create(&store, &definition).await?;
    let reader = SqliteStore::open(&options(&folder).read_only()).await?;
    assert_eq!(*reader.find_sweep("s").await?.definition, definition);
    let refused = reader.lease(&claim(&EVERY_RUNG, 1), NOW).await;
    assert!(matches!(refused, Err(StoreError::ReadOnly { .. })), "{refused:?}");
    assert!(matches!(reader.create_sweep(&definition, 0, NOW).await, Err(StoreError::ReadOnly { .. })));
    // It sees what the other writes.
    plan(&store, id, vec![job("0,0", Rung::Likelihood, SEARCH)]).await?;
    assert_eq!(reader.totals(id).await?.points, 1);
    Ok(())
}

#[tokio::test]
async fn one_process_alone_holds_a_store_exclusively() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let first = SqliteStore::open(&options(&folder).exclusive()).await?;
    match SqliteStore::open(&options(&folder).exclusive()).await {
        Err(error @ StoreError::InUse { .. }) => {
            assert!(error.to_string().contains("store.db.lock"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    let id = create(&first, &definition("s")).await?;
    let reader = SqliteStore::open(&options(&folder).read_only()).await?;
    assert_eq!(reader.find_sweep("s").await?.id, id);
    drop(first);
    SqliteStore::open(&options(&folder).exclusive()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_stores_on_one_file_work_side_by_side() -> Result<()> {
    let (folder, first) = in_a_file().await?;
    let definition = definition("s");
    let id = create(&first, &definition).await?;
    let points: Vec<String> = (0..40).map(|step| format!("0.{step:02},0")).collect();
    plan(&first, id, points.iter().map(|at| job(at, Rung::Likelihood, SEARCH)).collect()).await?;
    let second = SqliteStore::open(&options(&folder)).await?;
    let (one, two) = tokio::join!(work_off(&first, &definition), work_off(&second, &definition));
    assert_eq!(one? + two?, 40);
    let totals = first.totals(id).await?;
    assert_eq!((totals.likelihood.done, totals.results, totals.duplicate_results), (40, 240, 0));
    assert_eq!(second.totals(id).await?, totals);
    tallies_equal_a_recount(&second, id, &definition).await
}

#[tokio::test]
async fn a_call_given_up_halfway_leaves_the_store_usable() -> Result<()> {
    let (_folder, store) = in_a_file().await?;
    let definition = definition("s");
    let id = create(&store, &definition).await?;
    let jobs: Vec<_> = (0..40).map(|step| job(&format!("0.{step:02},0"), Rung::Likelihood, SEARCH)).collect();
    // Polled a few times, then dropped: as when a client goes away.
    for (polls, job) in jobs.iter().enumerate() {
        let plan = avsweep_store::Plan { jobs: vec![job.clone()], ..avsweep_store::Plan::default() };
        let mut call = store.plan(id, &plan, None, NOW);
        for _ in 0..polls {
            if futures_poll_once(&mut call).await {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_micros(200)).await;
        }
    }
    // Each was done as a whole or not at all, and the next call works.
    let totals = store.totals(id).await?;
    assert_eq!(totals.points, totals.likelihood.ready);
    plan(&store, id, jobs).await?;
    assert_eq!(work_off(&store, &definition).await?, 40);
    tallies_equal_a_recount(&store, id, &definition).await
}

/// Polls a future once; whether it is done.
async fn futures_poll_once<F: Future + Unpin>(future: &mut F) -> bool {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(context).is_ready())
    })
    .await
}

#[tokio::test]
async fn damaged_rows_are_errors_not_panics() -> Result<()> {
    for damage in [
        "UPDATE score_blocks SET scores = x'01'",
        "UPDATE score_blocks SET scores = substr(scores, 1, 40)",
        "UPDATE sweep_points SET search_likelihood = x'0102'",
        "UPDATE points SET ticks = x'0102' WHERE id = 2",
        "UPDATE sweep_points SET ticks = x'0102' WHERE point = 2",
        "UPDATE jobs SET slice_start = -1",
        "UPDATE jobs SET rung = 'dreaming' WHERE rung = 'likelihood'",
        "UPDATE sweeps SET definition = '{}'",
        "UPDATE sweeps SET fingerprint = x'00'",
        "UPDATE sweeps SET state = 'asleep'",
        "DELETE FROM sweep_queries WHERE ordinal = 9",
        "UPDATE verdicts SET label = 999",
        "UPDATE responses SET finish = 'never'",
        "UPDATE responses SET tokens = -1",
        "UPDATE job_counts SET jobs = -1",
        "UPDATE sweep_totals SET results = -5",
        "UPDATE sweep_totals SET lost = -1",
        "UPDATE sweep_controls SET priority = 99999999999",
    ] {
        let (folder, store) = in_a_file().await?;
        let sweep = definition("s");
        let id = create(&store, &sweep).await?;
        for rung in EVERY_RUNG {
            plan(&store, id, vec![job("0,0", rung, SEARCH)]).await?;
            work_off(&store, &sweep).await?;
        }
        plan(&store, id, vec![job("0,1", Rung::Likelihood, SEARCH)]).await?;
        store.close().await?;
        tamper(&folder, &format!("PRAGMA foreign_keys = OFF; {damage}")).await?;
        let store = SqliteStore::open(&options(&folder)).await?;
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
