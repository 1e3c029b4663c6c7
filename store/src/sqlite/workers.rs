//! Workers and judges: what they say of themselves, and sums for those who watch.

use avsweep_domain::{JobId, JobState, Rung, SweepId};
use sqlx::Connection;
use std::collections::HashMap;

use super::connection::{SqliteStore, unflushed};
use crate::columns::{WorkerRow, kind_text, state_text, wide};
use crate::error::During;
use crate::{Overview, RungCounts, StoreError, Timestamp, WorkerJob, WorkerRecord, WorkerStatus, codec};

/// See [`crate::Store::note_worker`].
pub(super) async fn note(
    store: &SqliteStore,
    status: &WorkerStatus,
    now: Timestamp,
) -> Result<(), StoreError> {
    const OPERATION: &str = "note a worker";
    let mut writer = store.writer(OPERATION).await?;
    // Said again within a lease; a power cut may have the last word.
    unflushed(&mut writer, OPERATION).await?;
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    sqlx::query(
        "INSERT INTO workers (name, kind, state, device, host, version, finished, failed, lost, results, rate,
                              problem, first_seen, last_seen)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?13)
         ON CONFLICT DO UPDATE SET
             kind = excluded.kind, state = excluded.state, device = excluded.device, host = excluded.host,
             version = excluded.version, finished = excluded.finished, failed = excluded.failed,
             lost = excluded.lost, results = excluded.results, rate = excluded.rate,
             problem = excluded.problem, last_seen = max(last_seen, excluded.last_seen)",
    )
    .bind(&status.worker.0)
    .bind(kind_text(status.kind))
    .bind(state_text(status.state))
    .bind(&status.device)
    .bind(&status.host)
    .bind(&status.version)
    .bind(count(status.finished))
    .bind(count(status.failed))
    .bind(count(status.lost))
    .bind(count(status.results))
    .bind(if status.rate.is_finite() { status.rate } else { 0.0 })
    .bind(&status.problem)
    .bind(now.0)
    .execute(&mut *writer)
    .await
    .during(OPERATION)?;
    Ok(())
}

/// See [`crate::Store::workers`].
pub(super) async fn all(store: &SqliteStore) -> Result<Vec<WorkerRecord>, StoreError> {
    const OPERATION: &str = "list workers";
    let mut reader = store.reader().await?;
    let mut snapshot = reader.begin().await.during(OPERATION)?;
    let held: Vec<(String, i64, i64, String, Vec<u8>)> = sqlx::query_as(
        "SELECT j.worker, j.id, j.sweep, j.rung, p.ticks
         FROM jobs AS j INDEXED BY jobs_leased CROSS JOIN points AS p ON p.id = j.point
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
pub(super) async fn forget(store: &SqliteStore, before: Timestamp) -> Result<u64, StoreError> {
    const OPERATION: &str = "forget workers";
    let mut writer = store.writer(OPERATION).await?;
    unflushed(&mut writer, OPERATION).await?;
    let done = sqlx::query(
        "DELETE FROM workers
         WHERE last_seen < ?1
           AND name NOT IN (
               SELECT worker FROM jobs INDEXED BY jobs_leased WHERE state = 'leased' AND worker IS NOT NULL
           )",
    )
    .bind(before.0)
    .execute(&mut *writer)
    .await
    .during(OPERATION)?;
    Ok(done.rows_affected())
}

/// Adds a number of jobs of a rung and state to the counts of that rung.
pub(super) fn count_jobs(
    counts: &mut RungCounts,
    state: JobState,
    jobs: i64,
    what: impl Fn() -> String,
) -> Result<(), StoreError> {
    let count = match state {
        JobState::Ready => &mut counts.ready,
        JobState::Leased => &mut counts.leased,
        JobState::Done => &mut counts.done,
        JobState::Parked => &mut counts.parked,
        JobState::Raced => &mut counts.raced,
    };
    *count = wide(jobs, what)?;
    Ok(())
}

/// See [`crate::Store::overview`].
pub(super) async fn overview(store: &SqliteStore, now: Timestamp) -> Result<Overview, StoreError> {
    const OPERATION: &str = "read the overview";
    let what = || "the overview".to_owned();
    let mut reader = store.reader().await?;
    let mut snapshot = reader.begin().await.during(OPERATION)?;
    let counts: Vec<(String, String, i64)> =
        sqlx::query_as("SELECT rung, state, sum(jobs) FROM job_counts GROUP BY rung, state")
            .fetch_all(&mut *snapshot)
            .await
            .during(OPERATION)?;
    let (running, expired, next_expiry): (i64, i64, Option<i64>) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM sweeps WHERE state = 'running'),
                (SELECT count(*) FROM jobs INDEXED BY jobs_leased WHERE state = 'leased' AND expires < ?1),
                (SELECT min(expires) FROM jobs INDEXED BY jobs_leased WHERE state = 'leased' AND expires >= ?1)",
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
    for (rung, state, jobs) in counts {
        let corrupt = |problem| StoreError::corrupt(what(), problem);
        let counts = match rung.parse().map_err(corrupt)? {
            Rung::Likelihood => &mut overview.likelihood,
            Rung::Generation => &mut overview.generation,
            Rung::Judgement => &mut overview.judgement,
        };
        count_jobs(counts, state.parse().map_err(corrupt)?, jobs, what)?;
    }
    Ok(overview)
}
