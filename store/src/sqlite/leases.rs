//! Leases: keeping them, giving them back, taking them back.

use std::time::Duration;

use avsweep_domain::{FailureLimits, JobId, JobState, SweepId, SweepState};
use sqlx::sqlite::SqliteConnection;

use super::connection::{SqliteStore, begin, unflushed};
use super::{results, sweeps};
use crate::columns::narrow;
use crate::error::During;
use crate::{LeaseRef, LeaseStatus, StoreError, Timestamp};

/// What is kept of an error's text.
const ERROR_BYTES: usize = 8192;

/// See [`crate::Store::renew`].
pub(super) async fn renew(
    store: &SqliteStore,
    leases: &[LeaseRef],
    duration: Duration,
    now: Timestamp,
) -> Result<Vec<LeaseStatus>, StoreError> {
    const OPERATION: &str = "renew leases";
    let mut writer = store.writer(OPERATION).await?;
    unflushed(&mut writer, OPERATION).await?;
    let mut statuses = Vec::with_capacity(leases.len());
    for lease in leases {
        // Each is its own transaction.
        let done = sqlx::query(
            "UPDATE jobs SET expires = ?5
             WHERE id = ?1 AND attempt = ?2 AND token = ?3 AND state = 'leased' AND expires >= ?4",
        )
        .bind(lease.job.0)
        .bind(i64::from(lease.attempt))
        .bind(lease.token.as_bytes().as_slice())
        .bind(now.0)
        .bind(now.plus(duration).0)
        .execute(&mut *writer)
        .await
        .during(OPERATION)?;
        statuses.push(if done.rows_affected() > 0 { LeaseStatus::Held } else { LeaseStatus::Lost });
    }
    Ok(statuses)
}

/// See [`crate::Store::release`].
pub(super) async fn release(
    store: &SqliteStore,
    leases: &[LeaseRef],
    now: Timestamp,
) -> Result<(), StoreError> {
    const OPERATION: &str = "release leases";
    let mut writer = store.writer(OPERATION).await?;
    let mut transaction = begin(&mut writer, OPERATION).await?;
    for lease in leases {
        sqlx::query(
            "UPDATE jobs SET state = 'ready', token = NULL, expires = NULL
             WHERE id = ?1 AND attempt = ?2 AND token = ?3 AND state = 'leased' AND expires >= ?4",
        )
        .bind(lease.job.0)
        .bind(i64::from(lease.attempt))
        .bind(lease.token.as_bytes().as_slice())
        .bind(now.0)
        .execute(&mut *transaction)
        .await
        .during(OPERATION)?;
    }
    transaction.commit().await.during(OPERATION)
}

/// See [`crate::Store::fail`].
pub(super) async fn fail(
    store: &SqliteStore,
    lease: &LeaseRef,
    error: &str,
    limits: FailureLimits,
    now: Timestamp,
) -> Result<LeaseStatus, StoreError> {
    const OPERATION: &str = "count a failed job";
    let mut writer = store.writer(OPERATION).await?;
    let mut transaction = begin(&mut writer, OPERATION).await?;
    let row: Option<(i64, i64, bool)> = sqlx::query_as(
        "SELECT lost, errors, state = 'leased' AND attempt = ?2 AND token = ?3 AND expires >= ?4
         FROM jobs WHERE id = ?1",
    )
    .bind(lease.job.0)
    .bind(i64::from(lease.attempt))
    .bind(lease.token.as_bytes().as_slice())
    .bind(now.0)
    .fetch_optional(&mut *transaction)
    .await
    .during(OPERATION)?;
    let (lost, errors) = match row {
        None => return Err(StoreError::NoSuchJob(lease.job)),
        Some((_, _, false)) => return Ok(LeaseStatus::Lost),
        Some((lost, errors, true)) => (lost, errors),
    };
    let what = || format!("job {}", lease.job);
    let (lost, errors) = (narrow(lost, what)?, narrow(errors, what)?.saturating_add(1));
    let failed = Failed { job: lease.job, lost, errors, state: limits.after_failure(lost, errors), error };
    take_back(&mut transaction, &failed).await?;
    transaction.commit().await.during(OPERATION)?;
    Ok(LeaseStatus::Held)
}

/// A job after a failed attempt.
struct Failed<'a> {
    job: JobId,
    lost: u32,
    errors: u32,
    state: JobState,
    error: &'a str,
}

async fn take_back(connection: &mut SqliteConnection, failed: &Failed<'_>) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE jobs SET state = ?2, lost = ?3, errors = ?4, last_error = ?5,
                         token = NULL, expires = NULL
         WHERE id = ?1",
    )
    .bind(failed.job.0)
    .bind(failed.state.as_str())
    .bind(i64::from(failed.lost))
    .bind(i64::from(failed.errors))
    .bind(&failed.error[..failed.error.floor_char_boundary(ERROR_BYTES)])
    .execute(connection)
    .await
    .during("take back a job")?;
    Ok(())
}

/// A lease that is taken back.
#[derive(sqlx::FromRow)]
struct TakenBack {
    id: i64,
    lost: i64,
    errors: i64,
    worker: Option<String>,
}

/// See [`crate::Store::reap`].
pub(super) async fn reap(
    store: &SqliteStore,
    limits: FailureLimits,
    before: Timestamp,
) -> Result<u64, StoreError> {
    take_leases(store, limits, Some(before)).await
}

/// See [`crate::Store::reap_all`].
pub(super) async fn reap_all(store: &SqliteStore, limits: FailureLimits) -> Result<u64, StoreError> {
    take_leases(store, limits, None).await
}

/// Takes back the leases that ended before a time, or all of them. Of every worker's the first is counted as lost: the
/// one it was on.
async fn take_leases(
    store: &SqliteStore,
    limits: FailureLimits,
    before: Option<Timestamp>,
) -> Result<u64, StoreError> {
    const OPERATION: &str = "take leases back";
    let mut writer = store.writer(OPERATION).await?;
    let mut transaction = begin(&mut writer, OPERATION).await?;
    let rows: Vec<TakenBack> = sqlx::query_as(
        "SELECT id, lost, errors, worker FROM jobs INDEXED BY jobs_leased
         WHERE state = 'leased' AND (?1 IS NULL OR expires < ?1)
         ORDER BY worker, leased_at, priority DESC, id",
    )
    .bind(before.map(|before| before.0))
    .fetch_all(&mut *transaction)
    .await
    .during(OPERATION)?;
    for (row, previous) in rows.iter().zip(std::iter::once(None).chain(rows.iter().map(Some))) {
        if previous.is_some_and(|previous| previous.worker == row.worker) {
            sqlx::query("UPDATE jobs SET state = 'ready', token = NULL, expires = NULL WHERE id = ?1")
                .bind(row.id)
                .execute(&mut *transaction)
                .await
                .during(OPERATION)?;
        } else {
            count_lost(&mut transaction, limits, row).await?;
        }
    }
    if !rows.is_empty() {
        transaction.commit().await.during(OPERATION)?;
    }
    Ok(rows.len() as u64)
}

/// Takes a job back whose worker is lost.
async fn count_lost(
    connection: &mut SqliteConnection,
    limits: FailureLimits,
    row: &TakenBack,
) -> Result<(), StoreError> {
    let what = || format!("job {}", row.id);
    let (lost, errors) = (narrow(row.lost, what)?.saturating_add(1), narrow(row.errors, what)?);
    let error = match &row.worker {
        Some(worker) => format!("worker '{worker}' was lost: its lease ended without a last report"),
        None => "a worker was lost: its lease ended without a last report".to_owned(),
    };
    let state = limits.after_failure(lost, errors);
    take_back(connection, &Failed { job: JobId(row.id), lost, errors, state, error: &error }).await
}

/// See [`crate::Store::retry_jobs`].
pub(super) async fn retry(store: &SqliteStore, sweep: SweepId, jobs: &[JobId]) -> Result<u64, StoreError> {
    const OPERATION: &str = "retry parked jobs";
    let mut writer = store.writer(OPERATION).await?;
    let mut transaction = begin(&mut writer, OPERATION).await?;
    let state = sweeps::exists(&mut transaction, sweep).await?;
    let listed: Vec<i64> = jobs.iter().map(|job| job.0).collect();
    let listed = (!listed.is_empty()).then(|| results::json_numbers(&listed));
    if let Some(listed) = &listed {
        let other: Option<(i64,)> = sqlx::query_as(
            "SELECT value FROM json_each(?2)
             WHERE NOT EXISTS (
                 SELECT 1 FROM jobs AS j WHERE j.id = value AND j.sweep = ?1 AND j.state IN ('parked', 'raced')
             )
             LIMIT 1",
        )
        .bind(sweep.0)
        .bind(listed)
        .fetch_optional(&mut *transaction)
        .await
        .during(OPERATION)?;
        if let Some((job,)) = other {
            return Err(StoreError::NoSuchJob(JobId(job)));
        }
    }
    let statement = match listed {
        None => {
            "UPDATE jobs SET state = 'ready', lost = 0, errors = 0 WHERE sweep = ?1 AND state = 'parked' AND ?2 IS NULL"
        }
        Some(_) => {
            "UPDATE jobs SET state = 'ready', lost = 0, errors = 0
             WHERE sweep = ?1 AND state IN ('parked', 'raced') AND id IN (SELECT value FROM json_each(?2))"
        }
    };
    let done = sqlx::query(statement)
        .bind(sweep.0)
        .bind(listed)
        .execute(&mut *transaction)
        .await
        .during(OPERATION)?;
    if done.rows_affected() > 0 && state == SweepState::Done {
        sweeps::write_state(&mut transaction, sweep, SweepState::Running).await?;
    }
    transaction.commit().await.during(OPERATION)?;
    Ok(done.rows_affected())
}
