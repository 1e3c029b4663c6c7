//! Leases: handing jobs out, keeping them, taking them back.

use std::time::Duration;

use avsweep_domain::{FailureLimits, JobId, JobState, QuerySlice, Response, Rung, SweepId};
use sqlx::sqlite::SqliteConnection;

use super::connection::{SqliteStore, begin, unflushed};
use super::results::{Decoded, narrow};
use super::tallying::StoredPoint;
use super::{results, sweeps, tallying};
use crate::error::During;
use crate::layout::SweepLayout;
use crate::{Lease, LeaseClaim, LeaseRef, LeaseStatus, LeasedJob, StoreError, Timestamp, codec};

/// What is kept of an error's text.
const ERROR_BYTES: usize = 8192;

/// A job as a report or a lease needs it.
#[derive(Clone, Debug)]
pub(super) struct JobRow {
    pub(super) id: JobId,
    pub(super) sweep: SweepId,
    pub(super) point: i64,
    pub(super) ticks: Vec<u8>,
    pub(super) rung: Rung,
    pub(super) slice: QuerySlice,
    pub(super) attempt: u32,
}

/// Columns of a [`JobRow`]: id, sweep, point, ticks, rung, slice_start, slice_end, attempt.
pub(super) type JobColumns = (i64, i64, i64, Vec<u8>, String, i64, i64, i64);

impl JobRow {
    pub(super) fn read(columns: JobColumns) -> Result<Self, StoreError> {
        let (id, sweep, point, ticks, rung, start, end, attempt) = columns;
        let what = || format!("job {id}");
        Ok(Self {
            id: JobId(id),
            sweep: SweepId(sweep),
            point,
            ticks,
            rung: rung.parse().map_err(|problem: String| StoreError::corrupt(what(), problem))?,
            slice: QuerySlice { start: narrow(start, what)?, end: narrow(end, what)? },
            attempt: narrow(attempt, what)?,
        })
    }

    pub(super) fn stored_point(&self) -> StoredPoint<'_> {
        StoredPoint { id: self.point, ticks: &self.ticks }
    }
}

/// See [`crate::Store::lease`].
pub(super) async fn lease(
    store: &SqliteStore,
    claim: &LeaseClaim,
    now: Timestamp,
) -> Result<Vec<LeasedJob>, StoreError> {
    const OPERATION: &str = "lease jobs";
    if claim.max_jobs == 0 || claim.rungs.is_empty() {
        return Ok(Vec::new());
    }
    loop {
        let mut writer = store.writer(OPERATION).await?;
        unflushed(&mut writer, OPERATION).await?;
        let claimed = claim_jobs(&mut writer, claim, now).await?;
        if claimed.is_empty() {
            return Ok(Vec::new());
        }
        let mut leased = Vec::with_capacity(claimed.len());
        for job in &claimed {
            let layout = sweeps::layout(store, &mut writer, job.sweep).await?;
            let lacking = match job.rung {
                Rung::Likelihood => Lacking::scores(&mut writer, &layout, job).await?,
                Rung::Generation => Lacking::responses(&mut writer, &layout, job).await?,
                Rung::Judgement => Lacking::verdicts(store, &mut writer, &layout, job).await?,
            };
            leased.extend(hand_out(&mut writer, claim, now, &layout, job, lacking).await?);
        }
        if !leased.is_empty() {
            return Ok(leased);
        }
        // All of them lacked nothing and are closed now. There may be others.
    }
}

/// Marks ready jobs as leased; they come best first.
///
/// The statement is its own transaction, and what its jobs lack is looked up after it: they are ours by then.
async fn claim_jobs(
    connection: &mut SqliteConnection,
    claim: &LeaseClaim,
    now: Timestamp,
) -> Result<Vec<JobRow>, StoreError> {
    let mut rungs: Vec<&str> = claim.rungs.iter().map(|rung| rung.as_str()).collect();
    rungs.sort_unstable();
    rungs.dedup();
    // The first jobs of every running sweep and rung straight from the index of ready jobs, then the first of those.
    // `+?2`: SQLite would compile the statement anew for every value of a plain parameter in LIMIT.
    let rows: Vec<(i64, i64, i64, Vec<u8>, String, i64, i64, i64, i64)> = sqlx::query_as(
        "UPDATE jobs SET state = 'leased', attempt = attempt + 1, token = ?3, expires = ?4, worker = ?5
         WHERE id IN (
             SELECT job.id
             FROM sweeps AS sweep CROSS JOIN json_each(?1) AS rung CROSS JOIN jobs AS job
               ON job.id IN (
                   SELECT first.id FROM jobs AS first
                   WHERE first.sweep = sweep.id AND first.rung = rung.value AND first.state = 'ready'
                   ORDER BY first.priority DESC, first.id LIMIT +?2
               )
             WHERE sweep.state = 'running'
             ORDER BY job.priority DESC, job.id LIMIT +?2
         )
         RETURNING id, sweep, point, (SELECT ticks FROM points WHERE points.id = jobs.point), rung,
                   slice_start, slice_end, attempt, priority",
    )
    .bind(format!("[\"{}\"]", rungs.join("\",\"")))
    .bind(i64::from(claim.max_jobs))
    .bind(claim.token.as_bytes().as_slice())
    .bind(now.plus(claim.duration).0)
    .bind(&claim.worker.0)
    .fetch_all(connection)
    .await
    .during("lease jobs")?;
    let mut jobs = rows
        .into_iter()
        .map(|(id, sweep, point, ticks, rung, start, end, attempt, priority)| {
            Ok((-priority, JobRow::read((id, sweep, point, ticks, rung, start, end, attempt))?))
        })
        .collect::<Result<Vec<_>, StoreError>>()?;
    jobs.sort_by_key(|(order, job)| (*order, job.id));
    Ok(jobs.into_iter().map(|(_, job)| job).collect())
}

/// The job as it goes to the worker; `None` when it lacks nothing, then it is closed.
async fn hand_out(
    connection: &mut SqliteConnection,
    claim: &LeaseClaim,
    now: Timestamp,
    layout: &SweepLayout,
    job: &JobRow,
    Lacking { ordinals, responses }: Lacking,
) -> Result<Option<LeasedJob>, StoreError> {
    let reference = LeaseRef { job: job.id, attempt: job.attempt, token: claim.token };
    if ordinals.is_empty() {
        close(connection, &reference).await?;
        return Ok(None);
    }
    Ok(Some(LeasedJob {
        lease: Lease { reference, expires: now.plus(claim.duration) },
        sweep: job.sweep,
        sweep_fingerprint: layout.fingerprint,
        rung: job.rung,
        point: codec::read_ticks(&job.ticks)
            .map_err(|error| StoreError::corrupt(format!("point {}", job.point), error))?,
        ordinals,
        responses,
    }))
}

/// A job's ordinals without a result and, of a judgement job, the responses to judge.
struct Lacking {
    ordinals: Vec<u32>,
    responses: Vec<Response>,
}

impl Lacking {
    fn new(missing: &[(u32, i64)]) -> Self {
        Self { ordinals: missing.iter().map(|(ordinal, _)| *ordinal).collect(), responses: Vec::new() }
    }

    async fn scores(
        connection: &mut SqliteConnection,
        layout: &SweepLayout,
        job: &JobRow,
    ) -> Result<Self, StoreError> {
        let scores = results::scores(connection, job.point, layout.levels).await?;
        Ok(Self::new(&layout.missing(job.slice, |query| scores.contains_key(&query))))
    }

    async fn responses(
        connection: &mut SqliteConnection,
        layout: &SweepLayout,
        job: &JobRow,
    ) -> Result<Self, StoreError> {
        let decoded = Decoded { point: job.point, decoding: layout.decoding };
        let hashes = results::response_hashes(connection, decoded).await?;
        Ok(Self::new(&layout.missing(job.slice, |query| hashes.contains_key(&query))))
    }

    /// Looks for verdicts on the same texts first.
    async fn verdicts(
        store: &SqliteStore,
        connection: &mut SqliteConnection,
        layout: &SweepLayout,
        job: &JobRow,
    ) -> Result<Self, StoreError> {
        let decoded = Decoded { point: job.point, decoding: layout.decoding };
        let mut transaction = begin(connection, "look up verdicts").await?;
        let queries = results::queries_of(layout, job.slice);
        let found = results::resolve_verdicts(&mut transaction, decoded, layout.judge, &queries).await?;
        if found > 0 {
            let point = job.stored_point();
            tallying::refresh_judgement_everywhere(store, &mut transaction, point, layout).await?;
        }
        let verdicts = results::verdicts(&mut transaction, decoded, layout.judge).await?;
        let mut responses = results::responses(&mut transaction, decoded).await?;
        transaction.commit().await.during("look up verdicts")?;
        let missing = layout.missing(job.slice, |query| verdicts.contains_key(&query));
        let mut lacking = Self::new(&missing);
        for (_, query) in &missing {
            lacking.responses.push(responses.remove(query).ok_or_else(|| {
                StoreError::corrupt(format!("job {}", job.id), format!("query {query} has no response"))
            })?);
        }
        Ok(lacking)
    }
}

/// Marks a job as done, whose lease is held.
async fn close(connection: &mut SqliteConnection, lease: &LeaseRef) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE jobs SET state = 'done', token = NULL, expires = NULL, worker = NULL
         WHERE id = ?1 AND attempt = ?2 AND token = ?3 AND state = 'leased'",
    )
    .bind(lease.job.0)
    .bind(i64::from(lease.attempt))
    .bind(lease.token.as_bytes().as_slice())
    .execute(connection)
    .await
    .during("close a job")?;
    Ok(())
}

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
            "UPDATE jobs SET state = 'ready', token = NULL, expires = NULL, worker = NULL
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
                         token = NULL, expires = NULL, worker = NULL
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

/// See [`crate::Store::reap`] (`before` given) and [`crate::Store::reap_all`].
pub(super) async fn reap(
    store: &SqliteStore,
    limits: FailureLimits,
    before: Option<Timestamp>,
) -> Result<u64, StoreError> {
    const OPERATION: &str = "take back expired leases";
    let mut writer = store.writer(OPERATION).await?;
    let mut transaction = begin(&mut writer, OPERATION).await?;
    let rows: Vec<(i64, i64, i64, Option<String>)> = sqlx::query_as(
        "SELECT id, lost, errors, worker FROM jobs INDEXED BY jobs_leased
         WHERE state = 'leased' AND expires <= ?1
         ORDER BY expires, id",
    )
    .bind(before.map_or(i64::MAX, |before| before.0.saturating_sub(1)))
    .fetch_all(&mut *transaction)
    .await
    .during(OPERATION)?;
    for (id, lost, errors, worker) in &rows {
        let what = || format!("job {id}");
        let (lost, errors) = (narrow(*lost, what)?.saturating_add(1), narrow(*errors, what)?);
        let error = match worker {
            Some(worker) => format!("worker '{worker}' was lost: its lease ended without a last report"),
            None => "a worker was lost: its lease ended without a last report".to_owned(),
        };
        let state = limits.after_failure(lost, errors);
        let failed = Failed { job: JobId(*id), lost, errors, state, error: &error };
        take_back(&mut transaction, &failed).await?;
    }
    if !rows.is_empty() {
        transaction.commit().await.during(OPERATION)?;
    }
    Ok(rows.len() as u64)
}

/// See [`crate::Store::retry_failed`].
pub(super) async fn retry_failed(store: &SqliteStore, sweep: SweepId) -> Result<u64, StoreError> {
    const OPERATION: &str = "retry failed jobs";
    let mut writer = store.writer(OPERATION).await?;
    let mut transaction = begin(&mut writer, OPERATION).await?;
    sweeps::layout(store, &mut transaction, sweep).await?;
    let done = sqlx::query(
        "UPDATE jobs SET state = 'ready', lost = 0, errors = 0 WHERE sweep = ?1 AND state = 'parked'",
    )
    .bind(sweep.0)
    .execute(&mut *transaction)
    .await
    .during(OPERATION)?;
    transaction.commit().await.during(OPERATION)?;
    Ok(done.rows_affected())
}
