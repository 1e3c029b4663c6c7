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
    assert!(!store.create_sweep(&definition, LATER).await?.created);
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
                    text.contains("store.db") && text.contains("99") && text.contains("up to 1"),
                    "{text}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
    Ok(())
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
    assert!(matches!(reader.create_sweep(&definition, NOW).await, Err(StoreError::ReadOnly { .. })));
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
        let plan = avsweep_store::Plan { jobs: vec![job.clone()] };
        let mut call = store.plan(id, &plan);
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
