//! Leases: keeping them, giving them back, taking them back.

use std::collections::HashSet;
use std::time::Duration;

use avsweep_domain::{FailureLimits, JobId, JobState, Rung, SweepId, SweepState};
use sqlx::postgres::PgConnection;

use super::connection::{PostgresStore, begin, call};
use super::counting::Change;
use super::results::plain;
use super::sweeps;
use crate::columns::narrow;
use crate::error::During;
use crate::{LeaseRef, LeaseStatus, StoreError, Timestamp};

/// What is kept of an error's text.
const ERROR_BYTES: usize = 8192;

/// Leases as three lists, by job: whoever changes several rows does so in one order everywhere.
struct LeaseLists {
    jobs: Vec<i64>,
    attempts: Vec<i64>,
    tokens: Vec<Vec<u8>>,
}

impl LeaseLists {
    fn new(leases: &[LeaseRef]) -> Self {
        let mut leases: Vec<&LeaseRef> = leases.iter().collect();
        leases.sort_by_key(|lease| (lease.job, lease.attempt));
        Self {
            jobs: leases.iter().map(|lease| lease.job.0).collect(),
            attempts: leases.iter().map(|lease| i64::from(lease.attempt)).collect(),
            tokens: leases.iter().map(|lease| lease.token.as_bytes().to_vec()).collect(),
        }
    }
}

/// See [`crate::Store::renew`].
pub(super) async fn renew(
    store: &PostgresStore,
    leases: &[LeaseRef],
    duration: Duration,
    now: Timestamp,
) -> Result<Vec<LeaseStatus>, StoreError> {
    const OPERATION: &str = "renew leases";
    if leases.is_empty() {
        return Ok(Vec::new());
    }
    let lists = LeaseLists::new(leases);
    let until = now.plus(duration).0;
    let rows: Vec<(i64, i64, Vec<u8>, String)> = call!(store, OPERATION, |connection| async {
        // Not flushed: a crash shortens leases at most.
        sqlx::query_as(
            "UPDATE jobs AS j SET expires = $5
             FROM unnest($1::bigint[], $2::bigint[], $3::bytea[]) AS given (id, attempt, token)
             WHERE j.id = given.id AND j.attempt = given.attempt AND j.token = given.token
               AND j.state = 'leased' AND j.expires >= $4
             RETURNING j.id, j.attempt, j.token, set_config('synchronous_commit', 'off', true)",
        )
        .bind(&lists.jobs)
        .bind(&lists.attempts)
        .bind(&lists.tokens)
        .bind(now.0)
        .bind(until)
        .fetch_all(connection)
        .await
        .during(OPERATION)
    })?;
    let held: HashSet<(i64, i64, &[u8])> =
        rows.iter().map(|(job, attempt, token, _)| (*job, *attempt, token.as_slice())).collect();
    Ok(leases
        .iter()
        .map(|lease| {
            let key = (lease.job.0, i64::from(lease.attempt), lease.token.as_bytes().as_slice());
            if held.contains(&key) { LeaseStatus::Held } else { LeaseStatus::Lost }
        })
        .collect())
}

/// See [`crate::Store::release`].
pub(super) async fn release(
    store: &PostgresStore,
    leases: &[LeaseRef],
    now: Timestamp,
) -> Result<(), StoreError> {
    if leases.is_empty() {
        return Ok(());
    }
    let lists = LeaseLists::new(leases);
    call!(store, "release leases", |connection| release_once(connection, &lists, now))
}

async fn release_once(
    connection: &mut PgConnection,
    lists: &LeaseLists,
    now: Timestamp,
) -> Result<(), StoreError> {
    const OPERATION: &str = "release leases";
    let mut transaction = begin(connection, OPERATION).await?;
    let released: Vec<(i64, String)> = sqlx::query_as(
        "UPDATE jobs AS j SET state = 'ready', token = NULL, expires = NULL
         FROM unnest($1::bigint[], $2::bigint[], $3::bytea[]) AS given (id, attempt, token)
         WHERE j.id = given.id AND j.attempt = given.attempt AND j.token = given.token
           AND j.state = 'leased' AND j.expires >= $4
         RETURNING j.sweep, j.rung",
    )
    .bind(&lists.jobs)
    .bind(&lists.attempts)
    .bind(&lists.tokens)
    .bind(now.0)
    .fetch_all(&mut *transaction)
    .await
    .during(OPERATION)?;
    let mut changes = Changes::default();
    for (sweep, rung) in released {
        let change = changes.of(sweep, &rung)?;
        change.leased -= 1;
        change.ready += 1;
    }
    changes.write(&mut transaction).await?;
    transaction.commit().await.during(OPERATION)
}

/// Changes of the sums of several sweeps and rungs, written in one order everywhere.
#[derive(Debug, Default)]
struct Changes(std::collections::BTreeMap<(SweepId, Rung), Change>);

impl Changes {
    fn of(&mut self, sweep: i64, rung: &str) -> Result<&mut Change, StoreError> {
        let rung = rung
            .parse()
            .map_err(|problem: String| StoreError::corrupt(format!("a job of sweep {sweep}"), problem))?;
        Ok(self.0.entry((SweepId(sweep), rung)).or_default())
    }

    async fn write(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
        for ((sweep, rung), change) in &self.0 {
            change.write(connection, *sweep, *rung).await?;
        }
        Ok(())
    }
}

/// See [`crate::Store::fail`].
pub(super) async fn fail(
    store: &PostgresStore,
    lease: &LeaseRef,
    error: &str,
    limits: FailureLimits,
    now: Timestamp,
) -> Result<LeaseStatus, StoreError> {
    call!(store, "count a failed job", |connection| fail_once(connection, lease, error, limits, now))
}

async fn fail_once(
    connection: &mut PgConnection,
    lease: &LeaseRef,
    error: &str,
    limits: FailureLimits,
    now: Timestamp,
) -> Result<LeaseStatus, StoreError> {
    const OPERATION: &str = "count a failed job";
    let mut transaction = begin(connection, OPERATION).await?;
    let row: Option<(i64, String, i64, i64, bool)> = sqlx::query_as(
        "SELECT sweep, rung, lost, errors,
                coalesce(state = 'leased' AND attempt = $2 AND token = $3 AND expires >= $4, FALSE)
         FROM jobs WHERE id = $1 FOR UPDATE",
    )
    .bind(lease.job.0)
    .bind(i64::from(lease.attempt))
    .bind(lease.token.as_bytes().as_slice())
    .bind(now.0)
    .fetch_optional(&mut *transaction)
    .await
    .during(OPERATION)?;
    let (sweep, rung, lost, errors) = match row {
        None => return Err(StoreError::NoSuchJob(lease.job)),
        Some((_, _, _, _, false)) => return Ok(LeaseStatus::Lost),
        Some((sweep, rung, lost, errors, true)) => (sweep, rung, lost, errors),
    };
    let what = || format!("job {}", lease.job);
    let (lost, errors) = (narrow(lost, what)?, narrow(errors, what)?.saturating_add(1));
    let state = limits.after_failure(lost, errors);
    let failed = Failed { job: lease.job.0, lost, errors, state, error: error.to_owned() };
    take_back(&mut transaction, &[failed]).await?;
    let mut changes = Changes::default();
    let change = changes.of(sweep, &rung)?;
    (change.leased, change.errors) = (-1, 1);
    change.add(state, 1);
    changes.write(&mut transaction).await?;
    transaction.commit().await.during(OPERATION)?;
    Ok(LeaseStatus::Held)
}

/// A job after a failed attempt.
struct Failed {
    job: i64,
    lost: u32,
    errors: u32,
    state: JobState,
    error: String,
}

async fn take_back(connection: &mut PgConnection, failed: &[Failed]) -> Result<(), StoreError> {
    let text = |failed: &Failed| {
        let error = plain(&failed.error);
        error[..error.floor_char_boundary(ERROR_BYTES)].to_owned()
    };
    sqlx::query(
        "UPDATE jobs AS j
         SET state = given.state, lost = given.lost, errors = given.errors, last_error = given.error,
             token = NULL, expires = NULL
         FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::text[])
             AS given (id, state, lost, errors, error)
         WHERE j.id = given.id",
    )
    .bind(failed.iter().map(|failed| failed.job).collect::<Vec<_>>())
    .bind(failed.iter().map(|failed| failed.state.as_str()).collect::<Vec<_>>())
    .bind(failed.iter().map(|failed| i64::from(failed.lost)).collect::<Vec<_>>())
    .bind(failed.iter().map(|failed| i64::from(failed.errors)).collect::<Vec<_>>())
    .bind(failed.iter().map(text).collect::<Vec<_>>())
    .execute(connection)
    .await
    .during("take back a job")?;
    Ok(())
}

/// See [`crate::Store::reap`].
pub(super) async fn reap(
    store: &PostgresStore,
    limits: FailureLimits,
    before: Timestamp,
) -> Result<u64, StoreError> {
    // A job that somebody else has in hand is renewed, reported or reaped by them, or found the next time.
    const EXPIRED: &str = "SELECT id, sweep, rung, lost, errors, worker FROM jobs
         WHERE state = 'leased' AND expires < $1
         ORDER BY worker, leased_at, priority DESC, id
         FOR UPDATE SKIP LOCKED";
    call!(store, REAP, |connection| reap_once(connection, EXPIRED, before, limits))
}

/// See [`crate::Store::reap_all`].
pub(super) async fn reap_all(store: &PostgresStore, limits: FailureLimits) -> Result<u64, StoreError> {
    const LEASED: &str = "SELECT id, sweep, rung, lost, errors, worker FROM jobs
         WHERE state = 'leased' AND expires <= $1
         ORDER BY worker, leased_at, priority DESC, id
         FOR UPDATE";
    call!(store, REAP, |connection| reap_once(connection, LEASED, Timestamp(i64::MAX), limits))
}

const REAP: &str = "take back expired leases";

/// Takes back the leases that a statement finds ($1 is a time): a worker's one after the other, in the order in which
/// it got them. Of every worker's the first is counted as lost: the one it was on.
async fn reap_once(
    connection: &mut PgConnection,
    statement: &'static str,
    time: Timestamp,
    limits: FailureLimits,
) -> Result<u64, StoreError> {
    let mut transaction = begin(connection, REAP).await?;
    let rows: Vec<(i64, i64, String, i64, i64, Option<String>)> =
        sqlx::query_as(statement).bind(time.0).fetch_all(&mut *transaction).await.during(REAP)?;
    if rows.is_empty() {
        return Ok(0);
    }
    let (mut changes, mut failed, mut spared) = (Changes::default(), Vec::new(), Vec::new());
    let mut last_worker = None;
    let taken = rows.len() as u64;
    for (id, sweep, rung, lost, errors, worker) in rows {
        let change = changes.of(sweep, &rung)?;
        change.leased -= 1;
        if last_worker.as_ref() == Some(&worker) {
            change.ready += 1;
            spared.push(id);
            continue;
        }
        let what = || format!("job {id}");
        let (lost, errors) = (narrow(lost, what)?.saturating_add(1), narrow(errors, what)?);
        let error = match &worker {
            Some(worker) => format!("worker '{worker}' was lost: its lease ended without a last report"),
            None => "a worker was lost: its lease ended without a last report".to_owned(),
        };
        let state = limits.after_failure(lost, errors);
        change.lost += 1;
        change.add(state, 1);
        failed.push(Failed { job: id, lost, errors, state, error });
        last_worker = Some(worker);
    }
    take_back(&mut transaction, &failed).await?;
    if !spared.is_empty() {
        sqlx::query("UPDATE jobs SET state = 'ready', token = NULL, expires = NULL WHERE id = ANY ($1)")
            .bind(spared)
            .execute(&mut *transaction)
            .await
            .during(REAP)?;
    }
    changes.write(&mut transaction).await?;
    transaction.commit().await.during(REAP)?;
    Ok(taken)
}

/// See [`crate::Store::retry_jobs`].
pub(super) async fn retry(store: &PostgresStore, sweep: SweepId, jobs: &[JobId]) -> Result<u64, StoreError> {
    call!(store, "retry parked jobs", |connection| retry_once(connection, sweep, jobs))
}

async fn retry_once(
    connection: &mut PgConnection,
    sweep: SweepId,
    jobs: &[JobId],
) -> Result<u64, StoreError> {
    const OPERATION: &str = "retry parked jobs";
    let mut transaction = begin(connection, OPERATION).await?;
    let state = sweeps::lock(&mut transaction, sweep).await?;
    let mut listed: Vec<i64> = jobs.iter().map(|job| job.0).collect();
    listed.sort_unstable();
    listed.dedup();
    let statement = match listed.is_empty() {
        true => {
            "SELECT id, rung, state FROM jobs WHERE sweep = $1 AND state = 'parked' AND cardinality($2) = 0
             ORDER BY id FOR UPDATE"
        }
        false => {
            "SELECT id, rung, state FROM jobs
             WHERE sweep = $1 AND state IN ('parked', 'raced') AND id = ANY ($2)
             ORDER BY id FOR UPDATE"
        }
    };
    let retried: Vec<(i64, String, String)> = sqlx::query_as(statement)
        .bind(sweep.0)
        .bind(&listed)
        .fetch_all(&mut *transaction)
        .await
        .during(OPERATION)?;
    let ids: HashSet<i64> = retried.iter().map(|(id, _, _)| *id).collect();
    sqlx::query("UPDATE jobs SET state = 'ready', lost = 0, errors = 0 WHERE id = ANY ($1)")
        .bind(ids.iter().copied().collect::<Vec<_>>())
        .execute(&mut *transaction)
        .await
        .during(OPERATION)?;
    if let Some(other) = jobs.iter().find(|job| !ids.contains(&job.0)) {
        return Err(StoreError::NoSuchJob(*other));
    }
    let mut changes = Changes::default();
    for (id, rung, state) in &retried {
        let corrupt = |problem: String| StoreError::corrupt(format!("job {id}"), problem);
        let state: JobState = state.parse().map_err(corrupt)?;
        let change = changes.of(sweep.0, rung)?;
        change.add(state, -1);
        change.ready += 1;
    }
    changes.write(&mut transaction).await?;
    if !retried.is_empty() && state == SweepState::Done {
        sweeps::write_state(&mut transaction, sweep, SweepState::Running).await?;
    }
    transaction.commit().await.during(OPERATION)?;
    Ok(retried.len() as u64)
}
