//! The right to plan a sweep: taken, given back, checked in the transaction that writes under it.

use std::time::Duration;

use avsweep_domain::{LeaseToken, SweepId, SweepState};
use sqlx::postgres::PgConnection;

use super::connection::{PostgresStore, begin, call};
use super::sweeps;
use crate::columns::wide;
use crate::error::During;
use crate::{PlanningGuard, StoreError, Timestamp};

/// See [`crate::Store::claim_planning`].
pub(super) async fn claim(
    store: &PostgresStore,
    sweep: SweepId,
    holder: LeaseToken,
    duration: Duration,
    now: Timestamp,
) -> Result<Option<PlanningGuard>, StoreError> {
    const OPERATION: &str = "claim planning";
    let until = now.plus(duration);
    call!(store, OPERATION, |connection| async move {
        // Not flushed: a crash takes back at most a right under which nothing has been written.
        let row: Option<(i64, String)> = sqlx::query_as(
            "UPDATE sweep_planners
             SET term = term + CASE WHEN planner IS DISTINCT FROM $2 THEN 1 ELSE 0 END,
                 planner = $2, planner_until = $4
             WHERE sweep = $1 AND (planner IS NULL OR planner = $2 OR planner_until < $3)
             RETURNING term, set_config('synchronous_commit', 'off', true)",
        )
        .bind(sweep.0)
        .bind(holder.as_bytes().as_slice())
        .bind(now.0)
        .bind(until.0)
        .fetch_optional(&mut *connection)
        .await
        .during(OPERATION)?;
        if let Some((term, _)) = row {
            let term = wide(term, || format!("the planner of sweep {sweep}"))?;
            return Ok(Some(PlanningGuard { sweep, holder, term }));
        }
        sweeps::present(store, connection, sweep).await?;
        Ok(None)
    })
}

/// See [`crate::Store::release_planning`].
pub(super) async fn release(store: &PostgresStore, guard: &PlanningGuard) -> Result<(), StoreError> {
    const OPERATION: &str = "release planning";
    call!(store, OPERATION, |connection| async move {
        // The planner stays noted: if nobody else plans in between, it goes on in its term.
        sqlx::query(
            "UPDATE sweep_planners SET planner_until = -9223372036854775808
             WHERE sweep = $1 AND planner = $2 AND term = $3",
        )
        .bind(guard.sweep.0)
        .bind(guard.holder.as_bytes().as_slice())
        .bind(i64::try_from(guard.term).unwrap_or(i64::MAX))
        .execute(&mut *connection)
        .await
        .during(OPERATION)?;
        Ok(())
    })
}

/// Refuses what is to be written under a guard that is not held. One that is cannot be taken before the transaction
/// ends.
///
/// # Errors
/// [`StoreError::PlanningLost`].
pub(super) async fn check(
    connection: &mut PgConnection,
    sweep: SweepId,
    guard: &PlanningGuard,
    now: Timestamp,
) -> Result<(), StoreError> {
    let held: Option<(i64,)> = sqlx::query_as(
        "SELECT term FROM sweep_planners
         WHERE sweep = $1 AND planner = $2 AND term = $3 AND planner_until >= $4
         FOR SHARE",
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
    store: &PostgresStore,
    guard: &PlanningGuard,
    now: Timestamp,
) -> Result<bool, StoreError> {
    call!(store, "finish a sweep", |connection| finish_once(connection, guard, now))
}

async fn finish_once(
    connection: &mut PgConnection,
    guard: &PlanningGuard,
    now: Timestamp,
) -> Result<bool, StoreError> {
    const OPERATION: &str = "finish a sweep";
    let mut transaction = begin(connection, OPERATION).await?;
    // Whoever plans shares this lock, so no job comes up between looking and writing. It comes before the planner's, as
    // everywhere.
    let state = match sweeps::lock(&mut transaction, guard.sweep).await {
        Err(StoreError::NoSuchSweep { .. }) => return Err(StoreError::PlanningLost { sweep: guard.sweep }),
        state => state?,
    };
    check(&mut transaction, guard.sweep, guard, now).await?;
    match state {
        SweepState::Done => return Ok(true),
        SweepState::Running => {}
        SweepState::Paused | SweepState::Cancelled => return Ok(false),
    }
    let (open,): (bool,) = sqlx::query_as(
        "SELECT EXISTS (SELECT 1 FROM jobs WHERE sweep = $1 AND state = 'ready' AND rung <> 'judgement')
             OR EXISTS (SELECT 1 FROM jobs WHERE sweep = $1 AND state = 'ready' AND rung = 'judgement')
             OR EXISTS (SELECT 1 FROM jobs WHERE sweep = $1 AND state = 'leased')",
    )
    .bind(guard.sweep.0)
    .fetch_one(&mut *transaction)
    .await
    .during(OPERATION)?;
    if open {
        return Ok(false);
    }
    sweeps::write_state(&mut transaction, guard.sweep, SweepState::Done).await?;
    transaction.commit().await.during(OPERATION)?;
    Ok(true)
}
