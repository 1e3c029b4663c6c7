//! Deleting a sweep, with what no other sweep has a part in.

use std::sync::PoisonError;

use avsweep_domain::{JobState, Rung, SweepId, SweepState};
use sqlx::postgres::PgConnection;

use super::connection::{PostgresStore, begin, call};
use super::counting::Change;
use super::sweeps;
use crate::error::During;
use crate::{Deleted, StoreError};

const OPERATION: &str = "delete a sweep";
/// Points of one transaction: bounds how long their locks are held.
const POINTS_AT_ONCE: i64 = 2000;

/// See [`crate::Store::delete_sweep`].
pub(super) async fn delete(store: &PostgresStore, sweep: SweepId) -> Result<Deleted, StoreError> {
    let mut deleted = Deleted::default();
    loop {
        let (step, last) = call!(store, OPERATION, |connection| delete_step(connection, sweep))?;
        deleted.jobs += step.jobs;
        deleted.points += step.points;
        if last {
            store.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&sweep);
            return Ok(deleted);
        }
    }
}

/// Deletes some points with their jobs, and the sweep with the last of them; then the second is `true`.
async fn delete_step(connection: &mut PgConnection, sweep: SweepId) -> Result<(Deleted, bool), StoreError> {
    let mut transaction = begin(connection, OPERATION).await?;
    cancel(&mut transaction, sweep).await?;
    let points: Vec<(i64,)> =
        sqlx::query_as("SELECT point FROM sweep_points WHERE sweep = $1 ORDER BY ticks LIMIT $2")
            .bind(sweep.0)
            .bind(POINTS_AT_ONCE)
            .fetch_all(&mut *transaction)
            .await
            .during(OPERATION)?;
    let points: Vec<i64> = points.into_iter().map(|(point,)| point).collect();
    let mut deleted = Deleted { jobs: delete_jobs(&mut transaction, sweep, &points).await?, points: 0 };
    if !points.is_empty() {
        deleted.points = delete_results(&mut transaction, sweep, &points).await?;
        delete_points(&mut transaction, sweep, &points).await?;
    }
    let last = points.len() < POINTS_AT_ONCE as usize;
    if last {
        delete_rest(&mut transaction, sweep).await?;
    }
    transaction.commit().await.during(OPERATION)?;
    Ok((deleted, last))
}

/// Refuses a sweep that is worked on; any other is not taken up again from here on.
async fn cancel(connection: &mut PgConnection, sweep: SweepId) -> Result<(), StoreError> {
    match sweeps::lock(connection, sweep).await? {
        state @ (SweepState::Running | SweepState::Paused) => {
            let (name,): (String,) = sqlx::query_as("SELECT name FROM sweeps WHERE id = $1")
                .bind(sweep.0)
                .fetch_one(connection)
                .await
                .during(OPERATION)?;
            Err(StoreError::SweepRunning { name, state })
        }
        SweepState::Cancelled => Ok(()),
        SweepState::Done => sweeps::write_state(connection, sweep, SweepState::Cancelled).await,
    }
}

async fn delete_jobs(
    connection: &mut PgConnection,
    sweep: SweepId,
    points: &[i64],
) -> Result<u64, StoreError> {
    // A job before its point, as a report locks them.
    let rows: Vec<(String, String)> = sqlx::query_as(
        "DELETE FROM jobs AS j USING unnest($2::bigint[]) AS given (point)
         WHERE j.sweep = $1 AND j.point = given.point
         RETURNING j.rung, j.state",
    )
    .bind(sweep.0)
    .bind(points)
    .fetch_all(&mut *connection)
    .await
    .during(OPERATION)?;
    let mut counts: std::collections::BTreeMap<Rung, Change> = std::collections::BTreeMap::new();
    for (rung, state) in &rows {
        let corrupt = |problem: String| StoreError::corrupt(format!("a job of sweep {sweep}"), problem);
        let state: JobState = state.parse().map_err(corrupt)?;
        counts.entry(rung.parse().map_err(corrupt)?).or_default().add(state, -1);
    }
    for (rung, change) in counts {
        change.write(connection, sweep, rung).await?;
    }
    Ok(rows.len() as u64)
}

/// Deletes what hangs on those of the points that only this sweep has. Returns how many such points there are.
async fn delete_results(
    connection: &mut PgConnection,
    sweep: SweepId,
    points: &[i64],
) -> Result<u64, StoreError> {
    // No other sweep takes a point up from here on, and no report writes to it.
    sqlx::query(
        "UPDATE points AS p SET version = p.version + 1
         FROM (SELECT id FROM points WHERE id = ANY ($1) ORDER BY recipe, ticks FOR UPDATE) AS locked
         WHERE p.id = locked.id",
    )
    .bind(points)
    .execute(&mut *connection)
    .await
    .during(OPERATION)?;
    let orphans: Vec<(i64,)> = sqlx::query_as(
        "SELECT given.point FROM unnest($2::bigint[]) AS given (point)
         WHERE NOT EXISTS (
             SELECT 1 FROM sweep_points AS other WHERE other.point = given.point AND other.sweep <> $1
         )",
    )
    .bind(sweep.0)
    .bind(points)
    .fetch_all(&mut *connection)
    .await
    .during(OPERATION)?;
    let orphans: Vec<i64> = orphans.into_iter().map(|(point,)| point).collect();
    let verdicts: Vec<(i64,)> =
        sqlx::query_as("DELETE FROM point_verdicts WHERE point = ANY ($1) RETURNING verdict")
            .bind(&orphans)
            .fetch_all(&mut *connection)
            .await
            .during(OPERATION)?;
    let mut verdicts: Vec<i64> = verdicts.into_iter().map(|(verdict,)| verdict).collect();
    verdicts.sort_unstable();
    verdicts.dedup();
    sqlx::query(
        "DELETE FROM verdicts AS v
         WHERE v.id = ANY ($1) AND NOT EXISTS (SELECT 1 FROM point_verdicts AS p WHERE p.verdict = v.id)",
    )
    .bind(verdicts)
    .execute(&mut *connection)
    .await
    .during(OPERATION)?;
    for statement in
        ["DELETE FROM responses WHERE point = ANY ($1)", "DELETE FROM score_blocks WHERE point = ANY ($1)"]
    {
        sqlx::query(statement).bind(&orphans).execute(&mut *connection).await.during(OPERATION)?;
    }
    Ok(orphans.len() as u64)
}

/// Takes the points out of the sweep. What a point's number stands for stays noted, so that it is never another's.
async fn delete_points(
    connection: &mut PgConnection,
    sweep: SweepId,
    points: &[i64],
) -> Result<(), StoreError> {
    let done = sqlx::query("DELETE FROM sweep_points WHERE sweep = $1 AND point = ANY ($2)")
        .bind(sweep.0)
        .bind(points)
        .execute(&mut *connection)
        .await
        .during(OPERATION)?;
    let change = Change { points: -(done.rows_affected() as i64), ..Change::default() };
    // Only the sum over the rungs counts.
    change.write(connection, sweep, Rung::Likelihood).await
}

/// Deletes a sweep that has no points.
async fn delete_rest(connection: &mut PgConnection, sweep: SweepId) -> Result<(), StoreError> {
    for statement in [
        "DELETE FROM sweep_counts WHERE sweep = $1",
        "DELETE FROM sweep_queries WHERE sweep = $1",
        "DELETE FROM choices WHERE sweep = $1",
        "DELETE FROM sweep_planners WHERE sweep = $1",
        "DELETE FROM sweeps WHERE id = $1",
    ] {
        sqlx::query(statement).bind(sweep.0).execute(&mut *connection).await.during(OPERATION)?;
    }
    Ok(())
}
