//! The right to plan a sweep: taken, given back, checked in the transaction that writes under it.

use std::time::Duration;

use avsweep_domain::{LeaseToken, SweepId, SweepState};
use sqlx::sqlite::SqliteConnection;

use super::connection::{SqliteStore, begin, unflushed};
use super::sweeps;
use crate::columns;
use crate::columns::wide;
use crate::error::During;
use crate::{PlanningGuard, StoreError, Timestamp};

/// See [`crate::Store::claim_planning`].
pub(super) async fn claim(
    store: &SqliteStore,
    sweep: SweepId,
    holder: LeaseToken,
    duration: Duration,
    now: Timestamp,
) -> Result<Option<PlanningGuard>, StoreError> {
    const OPERATION: &str = "claim planning";
    let mut writer = store.writer(OPERATION).await?;
    // A power cut takes the holder too, and nothing was written under a guard that it takes away.
    unflushed(&mut writer, OPERATION).await?;
    let row: Option<(i64,)> = sqlx::query_as(
        "UPDATE sweep_controls
         SET term = term + (planner IS NOT ?2), planner = ?2, planner_until = ?4
         WHERE sweep = ?1 AND (planner IS NULL OR planner = ?2 OR planner_until < ?3)
         RETURNING term",
    )
    .bind(sweep.0)
    .bind(holder.as_bytes().as_slice())
    .bind(now.0)
    .bind(now.plus(duration).0)
    .fetch_optional(&mut *writer)
    .await
    .during(OPERATION)?;
    if let Some((term,)) = row {
        let term = wide(term, || format!("the planner of sweep {sweep}"))?;
        return Ok(Some(PlanningGuard { sweep, holder, term }));
    }
    sweeps::exists(&mut writer, sweep).await?;
    Ok(None)
}

/// See [`crate::Store::release_planning`].
pub(super) async fn release(store: &SqliteStore, guard: &PlanningGuard) -> Result<(), StoreError> {
    const OPERATION: &str = "release planning";
    let mut writer = store.writer(OPERATION).await?;
    unflushed(&mut writer, OPERATION).await?;
    // The planner stays noted: if nobody else plans in between, it goes on in its term.
    sqlx::query(
        "UPDATE sweep_controls SET planner_until = -9223372036854775808
         WHERE sweep = ?1 AND planner = ?2 AND term = ?3",
    )
    .bind(guard.sweep.0)
    .bind(guard.holder.as_bytes().as_slice())
    .bind(i64::try_from(guard.term).unwrap_or(i64::MAX))
    .execute(&mut *writer)
    .await
    .during(OPERATION)?;
    Ok(())
}

/// Refuses what is to be written under a guard that is not held.
///
/// # Errors
/// [`StoreError::PlanningLost`].
pub(super) async fn check(
    connection: &mut SqliteConnection,
    sweep: SweepId,
    guard: &PlanningGuard,
    now: Timestamp,
) -> Result<(), StoreError> {
    let held: Option<(i64,)> = sqlx::query_as(
        "SELECT 1 FROM sweep_controls
         WHERE sweep = ?1 AND planner = ?2 AND term = ?3 AND planner_until >= ?4",
    )
    .bind(guard.sweep.0)
    .bind(guard.holder.as_bytes().as_slice())
    .bind(i64::try_from(guard.term).unwrap_or(i64::MAX))
    .bind(now.0)
    .fetch_optional(connection)
    .await
    .during("check the right to plan")?;
    if held.is_none() || guard.sweep != sweep { Err(StoreError::PlanningLost { sweep }) } else { Ok(()) }
}

/// See [`crate::Store::finish_sweep`].
pub(super) async fn finish(
    store: &SqliteStore,
    guard: &PlanningGuard,
    now: Timestamp,
) -> Result<bool, StoreError> {
    const OPERATION: &str = "finish a sweep";
    let mut writer = store.writer(OPERATION).await?;
    let mut transaction = begin(&mut writer, OPERATION).await?;
    check(&mut transaction, guard.sweep, guard, now).await?;
    let (state, open): (String, i64) = sqlx::query_as(
        "SELECT state,
                (SELECT coalesce(sum(jobs), 0) FROM job_counts
                 WHERE sweep = ?1 AND state IN ('ready', 'leased'))
         FROM sweeps WHERE id = ?1",
    )
    .bind(guard.sweep.0)
    .fetch_one(&mut *transaction)
    .await
    .during(OPERATION)?;
    match columns::read_state(&state, guard.sweep)? {
        SweepState::Done => Ok(true),
        SweepState::Running if open == 0 => {
            sweeps::write_state(&mut transaction, guard.sweep, SweepState::Done).await?;
            transaction.commit().await.during(OPERATION)?;
            Ok(true)
        }
        SweepState::Running | SweepState::Paused | SweepState::Cancelled => Ok(false),
    }
}
