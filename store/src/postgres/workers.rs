//! Workers and judges: what they say of themselves, and sums for those who watch.

use std::collections::HashMap;

use avsweep_domain::{JobId, Rung, SweepId};
use sqlx::postgres::PgConnection;

use super::connection::{PostgresStore, call, snapshot};
use super::results::plain;
use crate::columns::{WorkerRow, kind_text, state_text, wide};
use crate::error::During;
use crate::{Overview, RungCounts, StoreError, Timestamp, WorkerJob, WorkerRecord, WorkerStatus, codec};

/// See [`crate::Store::note_worker`].
pub(super) async fn note(
    store: &PostgresStore,
    status: &WorkerStatus,
    now: Timestamp,
) -> Result<(), StoreError> {
    const OPERATION: &str = "note a worker";
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    call!(store, OPERATION, |connection| async {
        // Said again within a lease; a crash may have the last word.
        sqlx::query(
            "INSERT INTO workers AS w (name, kind, state, device, host, version, finished, failed, lost, results,
                                       rate, problem, first_seen, last_seen)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $13)
             ON CONFLICT (name) DO UPDATE SET
                 kind = excluded.kind, state = excluded.state, device = excluded.device, host = excluded.host,
                 version = excluded.version, finished = excluded.finished, failed = excluded.failed,
                 lost = excluded.lost, results = excluded.results, rate = excluded.rate,
                 problem = excluded.problem, last_seen = GREATEST(w.last_seen, excluded.last_seen)
             RETURNING set_config('synchronous_commit', 'off', true)",
        )
        .bind(plain(&status.worker.0))
        .bind(kind_text(status.kind))
        .bind(state_text(status.state))
        .bind(plain(&status.device))
        .bind(plain(&status.host))
        .bind(plain(&status.version))
        .bind(count(status.finished))
        .bind(count(status.failed))
        .bind(count(status.lost))
        .bind(count(status.results))
        .bind(if status.rate.is_finite() { status.rate } else { 0.0 })
        .bind(status.problem.as_deref().map(plain))
        .bind(now.0)
        .execute(&mut *connection)
        .await
        .during(OPERATION)?;
        Ok(())
    })
}

/// See [`crate::Store::workers`].
pub(super) async fn all(store: &PostgresStore) -> Result<Vec<WorkerRecord>, StoreError> {
    call!(store, "list workers", |connection| all_once(connection))
}

async fn all_once(connection: &mut PgConnection) -> Result<Vec<WorkerRecord>, StoreError> {
    const OPERATION: &str = "list workers";
    let mut snapshot = snapshot(connection, OPERATION).await?;
    let held: Vec<(String, i64, i64, String, Vec<u8>)> = sqlx::query_as(
        "SELECT j.worker, j.id, j.sweep, j.rung, p.ticks
         FROM jobs AS j JOIN points AS p ON p.id = j.point
         WHERE j.state = 'leased' AND j.worker IS NOT NULL
         ORDER BY j.leased_at, j.priority DESC, j.id",
    )
    .fetch_all(&mut *snapshot)
    .await
    .during(OPERATION)?;
    let rows: Vec<WorkerRow> = sqlx::query_as(
        "SELECT name, kind, state, device, host, version, finished, failed, lost, results, rate, problem,
                first_seen, last_seen
         FROM workers ORDER BY last_seen DESC, name",
    )
    .fetch_all(&mut *snapshot)
    .await
    .during(OPERATION)?;
    snapshot.commit().await.during(OPERATION)?;
    let mut jobs: HashMap<String, Vec<WorkerJob>> = HashMap::new();
    for (worker, id, sweep, rung, ticks) in held {
        let what = || format!("job {id}");
        jobs.entry(worker).or_default().push(WorkerJob {
            id: JobId(id),
            sweep: SweepId(sweep),
            rung: rung.parse().map_err(|problem: String| StoreError::corrupt(what(), problem))?,
            point: codec::read_ticks(&ticks).map_err(|error| StoreError::corrupt(what(), error))?,
        });
    }
    rows.into_iter()
        .map(|row| {
            let held = jobs.remove(&row.name).unwrap_or_default();
            row.read(held)
        })
        .collect()
}

/// See [`crate::Store::forget_workers`].
pub(super) async fn forget(store: &PostgresStore, before: Timestamp) -> Result<u64, StoreError> {
    const OPERATION: &str = "forget workers";
    call!(store, OPERATION, |connection| async move {
        let done = sqlx::query(
            "DELETE FROM workers AS w
             WHERE w.last_seen < $1
               AND NOT EXISTS (SELECT 1 FROM jobs AS j WHERE j.state = 'leased' AND j.worker = w.name)",
        )
        .bind(before.0)
        .execute(connection)
        .await
        .during(OPERATION)?;
        Ok(done.rows_affected())
    })
}

/// See [`crate::Store::overview`].
pub(super) async fn overview(store: &PostgresStore, now: Timestamp) -> Result<Overview, StoreError> {
    call!(store, "read the overview", |connection| overview_once(connection, now))
}

async fn overview_once(connection: &mut PgConnection, now: Timestamp) -> Result<Overview, StoreError> {
    const OPERATION: &str = "read the overview";
    let what = || "the overview".to_owned();
    let mut snapshot = snapshot(connection, OPERATION).await?;
    let counts: Vec<(String, i64, i64, i64, i64, i64)> = sqlx::query_as(
        "SELECT rung, sum(ready)::bigint, sum(leased)::bigint, sum(done)::bigint, sum(parked)::bigint,
                sum(raced)::bigint
         FROM sweep_counts GROUP BY rung",
    )
    .fetch_all(&mut *snapshot)
    .await
    .during(OPERATION)?;
    let (running, expired, next_expiry): (i64, i64, Option<i64>) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM sweeps WHERE state = 'running'),
                count(*) FILTER (WHERE expires < $1), min(expires) FILTER (WHERE expires >= $1)
         FROM jobs WHERE state = 'leased'",
    )
    .bind(now.0)
    .fetch_one(&mut *snapshot)
    .await
    .during(OPERATION)?;
    snapshot.commit().await.during(OPERATION)?;
    let mut overview = Overview {
        running: wide(running, what)?,
        expired: wide(expired, what)?,
        next_expiry: next_expiry.map(Timestamp),
        ..Overview::default()
    };
    for (rung, ready, leased, done, parked, raced) in counts {
        let counts = match rung.parse().map_err(|problem: String| StoreError::corrupt(what(), problem))? {
            Rung::Likelihood => &mut overview.likelihood,
            Rung::Generation => &mut overview.generation,
            Rung::Judgement => &mut overview.judgement,
        };
        *counts = RungCounts {
            ready: wide(ready, what)?,
            leased: wide(leased, what)?,
            done: wide(done, what)?,
            parked: wide(parked, what)?,
            raced: wide(raced, what)?,
        };
    }
    Ok(overview)
}

/// See [`crate::Store::clock`].
pub(super) async fn clock(store: &PostgresStore) -> Result<Timestamp, StoreError> {
    const OPERATION: &str = "read the clock";
    call!(store, OPERATION, |connection| async move {
        let (millis,): (i64,) =
            sqlx::query_as("SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint")
                .fetch_one(connection)
                .await
                .during(OPERATION)?;
        Ok(Timestamp(millis))
    })
}
