//! Points that are out of reach: their open jobs are closed early.

use std::collections::BTreeMap;

use avsweep_domain::{JobState, QuerySlice, Rung, SweepId};
use sqlx::postgres::PgConnection;

use super::connection::{PostgresStore, begin, call};
use super::counting::Change;
use super::{results, sweeps};
use crate::columns::narrow;
use crate::error::During;
use crate::point_results::Decoded;
use crate::{LeaseRef, LeaseStatus, StoreError, Timestamp};

const OPERATION: &str = "close a raced job";

/// See [`crate::Store::close_raced`].
pub(super) async fn close_raced(
    store: &PostgresStore,
    lease: &LeaseRef,
    now: Timestamp,
) -> Result<LeaseStatus, StoreError> {
    call!(store, OPERATION, |connection| close_once(store, connection, lease, now))
}

async fn close_once(
    store: &PostgresStore,
    connection: &mut PgConnection,
    lease: &LeaseRef,
    now: Timestamp,
) -> Result<LeaseStatus, StoreError> {
    let place: Option<(i64, i64)> = sqlx::query_as("SELECT sweep, point FROM jobs WHERE id = $1")
        .bind(lease.job.0)
        .fetch_optional(&mut *connection)
        .await
        .during(OPERATION)?;
    let Some((sweep, point)) = place else {
        return Err(StoreError::NoSuchJob(lease.job));
    };
    let sweep = SweepId(sweep);
    let layout = sweeps::layout(store, connection, sweep).await?;
    let mut transaction = begin(connection, OPERATION).await?;
    // In the order in which everybody changes several jobs; the lease is looked at now that nobody can take it away.
    let open: Vec<(i64, String, String, i64, i64, bool)> = sqlx::query_as(
        "SELECT id, rung, state, slice_start, slice_end,
                coalesce(id = $3 AND rung = 'likelihood' AND state = 'leased' AND attempt = $4 AND token = $5
                         AND expires >= $6, FALSE)
         FROM jobs
         WHERE sweep = $1 AND point = $2 AND rung <> 'judgement' AND state IN ('ready', 'leased')
           AND (priority = 0 OR id = $3)
         ORDER BY id
         FOR UPDATE",
    )
    .bind(sweep.0)
    .bind(point)
    .bind(lease.job.0)
    .bind(i64::from(lease.attempt))
    .bind(lease.token.as_bytes().as_slice())
    .bind(now.0)
    .fetch_all(&mut *transaction)
    .await
    .during(OPERATION)?;
    if !open.iter().any(|row| row.5) {
        return Ok(LeaseStatus::Lost);
    }
    let ids: Vec<i64> = open.iter().map(|row| row.0).collect();
    let mut changes: BTreeMap<Rung, Change> = BTreeMap::new();
    for (id, rung, state, start, end, _) in &open {
        let what = || format!("job {id}");
        let corrupt = |problem: String| StoreError::corrupt(what(), problem);
        let slice = QuerySlice { start: narrow(*start, what)?, end: narrow(*end, what)? };
        let (rung, state): (Rung, JobState) =
            (rung.parse().map_err(corrupt)?, state.parse().map_err(corrupt)?);
        let missing = if rung == Rung::Likelihood {
            let known = results::scores(&mut transaction, point, layout.levels).await?;
            layout.missing(slice, |query| known.contains_key(&query))
        } else {
            let decoded = Decoded { point, decoding: layout.decoding };
            let known = results::response_hashes(&mut transaction, decoded).await?;
            layout.missing(slice, |query| known.contains_key(&query))
        };
        let change = changes.entry(rung).or_default();
        change.add(state, -1);
        change.add(JobState::Raced, 1);
        change.saved += missing.len() as i64;
    }
    sqlx::query("UPDATE jobs SET state = 'raced', token = NULL, expires = NULL WHERE id = ANY ($1)")
        .bind(ids)
        .execute(&mut *transaction)
        .await
        .during(OPERATION)?;
    for (rung, change) in changes {
        change.write(&mut transaction, sweep, rung).await?;
    }
    transaction.commit().await.during(OPERATION)?;
    Ok(LeaseStatus::Held)
}
