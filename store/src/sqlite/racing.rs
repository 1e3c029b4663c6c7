//! Points that are out of reach: their open jobs are closed early.

use avsweep_domain::{QuerySlice, Rung};
use sqlx::sqlite::SqliteConnection;

use super::connection::{SqliteStore, begin};
use super::{results, sweeps};
use crate::columns::narrow;
use crate::error::During;
use crate::layout::SweepLayout;
use crate::point_results::Decoded;
use crate::{LeaseRef, LeaseStatus, StoreError, Timestamp};

const OPERATION: &str = "close a raced job";

/// See [`crate::Store::close_raced`].
pub(super) async fn close_raced(
    store: &SqliteStore,
    lease: &LeaseRef,
    now: Timestamp,
) -> Result<LeaseStatus, StoreError> {
    let mut writer = store.writer(OPERATION).await?;
    let mut transaction = begin(&mut writer, OPERATION).await?;
    let row: Option<(i64, i64, bool)> = sqlx::query_as(
        "SELECT sweep, point,
                rung = 'likelihood' AND state = 'leased' AND attempt = ?2 AND token = ?3 AND expires >= ?4
         FROM jobs WHERE id = ?1",
    )
    .bind(lease.job.0)
    .bind(i64::from(lease.attempt))
    .bind(lease.token.as_bytes().as_slice())
    .bind(now.0)
    .fetch_optional(&mut *transaction)
    .await
    .during(OPERATION)?;
    let (sweep, point) = match row {
        None => return Err(StoreError::NoSuchJob(lease.job)),
        Some((_, _, false)) => return Ok(LeaseStatus::Lost),
        Some((sweep, point, true)) => (avsweep_domain::SweepId(sweep), point),
    };
    let layout = sweeps::layout(store, &mut transaction, sweep).await?;
    let closed: Vec<(i64, String, i64, i64)> = sqlx::query_as(
        "UPDATE jobs SET state = 'raced', token = NULL, expires = NULL
         WHERE sweep = ?1 AND point = ?2 AND rung <> 'judgement' AND state IN ('ready', 'leased')
           AND (priority = 0 OR id = ?3)
         RETURNING id, rung, slice_start, slice_end",
    )
    .bind(sweep.0)
    .bind(point)
    .bind(lease.job.0)
    .fetch_all(&mut *transaction)
    .await
    .during(OPERATION)?;
    let mut saved = 0;
    for (id, rung, start, end) in closed {
        let what = || format!("job {id}");
        let slice = QuerySlice { start: narrow(start, what)?, end: narrow(end, what)? };
        let rung = rung.parse().map_err(|problem: String| StoreError::corrupt(what(), problem))?;
        saved += missing(&mut transaction, &layout, point, rung, slice).await?;
    }
    sqlx::query("UPDATE sweep_totals SET saved = saved + ?2 WHERE sweep = ?1")
        .bind(sweep.0)
        .bind(saved as i64)
        .execute(&mut *transaction)
        .await
        .during(OPERATION)?;
    transaction.commit().await.during(OPERATION)?;
    Ok(LeaseStatus::Held)
}

/// How many of a slice's queries have no result at a point.
async fn missing(
    connection: &mut SqliteConnection,
    layout: &SweepLayout,
    point: i64,
    rung: Rung,
    slice: QuerySlice,
) -> Result<usize, StoreError> {
    if rung == Rung::Likelihood {
        let known = results::scores(connection, point, layout.levels).await?;
        return Ok(layout.missing(slice, |query| known.contains_key(&query)).len());
    }
    let decoded = Decoded { point, decoding: layout.decoding };
    let known = results::response_hashes(connection, decoded).await?;
    Ok(layout.missing(slice, |query| known.contains_key(&query)).len())
}
