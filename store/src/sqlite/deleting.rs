//! Deleting a sweep, with what no other sweep has a part in.

use std::sync::PoisonError;

use avsweep_domain::{SweepId, SweepState};
use sqlx::sqlite::SqliteConnection;

use super::connection::{SqliteStore, begin};
use super::{results, sweeps};
use crate::columns;
use crate::error::During;
use crate::{Deleted, StoreError};

const OPERATION: &str = "delete a sweep";
/// Points of one transaction: bounds how long others wait to write.
const POINTS_AT_ONCE: i64 = 2000;

/// See [`crate::Store::delete_sweep`].
pub(super) async fn delete(store: &SqliteStore, sweep: SweepId) -> Result<Deleted, StoreError> {
    let mut deleted = Deleted::default();
    loop {
        let mut writer = store.writer(OPERATION).await?;
        let mut transaction = begin(&mut writer, OPERATION).await?;
        cancel(&mut transaction, sweep).await?;
        if let Some(until) = last_of_step(&mut transaction, sweep).await? {
            let step = Step { sweep, until };
            step.note_highest_job(&mut transaction).await?;
            deleted.jobs += step.delete_jobs(&mut transaction).await?;
            deleted.points += step.delete_results(&mut transaction).await?;
            step.delete_points(&mut transaction).await?;
        }
        let last = last_of_step(&mut transaction, sweep).await?.is_none();
        if last {
            delete_rest(&mut transaction, sweep).await?;
        }
        transaction.commit().await.during(OPERATION)?;
        if last {
            store.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&sweep);
            return Ok(deleted);
        }
    }
}

/// Refuses a sweep that is worked on; any other is not taken up again from here on.
async fn cancel(connection: &mut SqliteConnection, sweep: SweepId) -> Result<(), StoreError> {
    let row: Option<(String, String)> = sqlx::query_as("SELECT name, state FROM sweeps WHERE id = ?1")
        .bind(sweep.0)
        .fetch_optional(&mut *connection)
        .await
        .during(OPERATION)?;
    let Some((name, state)) = row else {
        return Err(sweeps::no_such_sweep(connection, &sweep.to_string()).await?);
    };
    match columns::read_state(&state, sweep)? {
        state @ (SweepState::Running | SweepState::Paused) => Err(StoreError::SweepRunning { name, state }),
        SweepState::Cancelled => Ok(()),
        SweepState::Done => sweeps::write_state(connection, sweep, SweepState::Cancelled).await,
    }
}

/// The ticks of the last point of the next step; `None` when no point is left.
async fn last_of_step(
    connection: &mut SqliteConnection,
    sweep: SweepId,
) -> Result<Option<Vec<u8>>, StoreError> {
    let (until,): (Option<Vec<u8>>,) = sqlx::query_as(
        "SELECT max(ticks) FROM
             (SELECT ticks FROM sweep_points WHERE sweep = ?1 ORDER BY ticks LIMIT +?2)",
    )
    .bind(sweep.0)
    .bind(POINTS_AT_ONCE)
    .fetch_one(connection)
    .await
    .during(OPERATION)?;
    Ok(until)
}

/// The sweep's points up to and with some ticks.
struct Step {
    sweep: SweepId,
    until: Vec<u8>,
}

/// The points of a step that no other sweep has.
macro_rules! orphans {
    () => {
        "SELECT own.point FROM sweep_points AS own
         WHERE own.sweep = ?1 AND own.ticks <= ?2
           AND NOT EXISTS (
               SELECT 1 FROM sweep_points AS other WHERE other.point = own.point AND other.sweep <> ?1
           )"
    };
}

impl Step {
    async fn note_highest_job(&self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE deleted_jobs SET highest = max(highest, coalesce((SELECT max(id) FROM jobs), 0))",
        )
        .execute(connection)
        .await
        .during(OPERATION)?;
        Ok(())
    }

    async fn delete_jobs(&self, connection: &mut SqliteConnection) -> Result<u64, StoreError> {
        let done = sqlx::query(
            "DELETE FROM jobs
             WHERE sweep = ?1
               AND point IN (SELECT point FROM sweep_points WHERE sweep = ?1 AND ticks <= ?2)",
        )
        .bind(self.sweep.0)
        .bind(&self.until)
        .execute(connection)
        .await
        .during(OPERATION)?;
        Ok(done.rows_affected())
    }

    /// Deletes what hangs on the points that only this sweep has. Returns how many such points there are.
    async fn delete_results(&self, connection: &mut SqliteConnection) -> Result<u64, StoreError> {
        let (points,): (i64,) = sqlx::query_as(concat!("SELECT count(*) FROM (", orphans!(), ")"))
            .bind(self.sweep.0)
            .bind(&self.until)
            .fetch_one(&mut *connection)
            .await
            .during(OPERATION)?;
        let verdicts: Vec<(i64,)> = sqlx::query_as(concat!(
            "DELETE FROM point_verdicts WHERE point IN (",
            orphans!(),
            ") RETURNING verdict"
        ))
        .bind(self.sweep.0)
        .bind(&self.until)
        .fetch_all(&mut *connection)
        .await
        .during(OPERATION)?;
        let mut verdicts: Vec<i64> = verdicts.into_iter().map(|(verdict,)| verdict).collect();
        verdicts.sort_unstable();
        verdicts.dedup();
        sqlx::query(
            "DELETE FROM verdicts
             WHERE id IN (SELECT value FROM json_each(?1))
               AND NOT EXISTS (SELECT 1 FROM point_verdicts AS p WHERE p.verdict = verdicts.id)",
        )
        .bind(results::json_numbers(&verdicts))
        .execute(&mut *connection)
        .await
        .during(OPERATION)?;
        for statement in [
            concat!("DELETE FROM responses WHERE point IN (", orphans!(), ")"),
            concat!("DELETE FROM score_blocks WHERE point IN (", orphans!(), ")"),
        ] {
            sqlx::query(statement)
                .bind(self.sweep.0)
                .bind(&self.until)
                .execute(&mut *connection)
                .await
                .during(OPERATION)?;
        }
        columns::wide(points, || format!("the points of sweep {}", self.sweep))
    }

    /// Takes the points out of the sweep. What a point's number stands for stays noted, so that it is never another's.
    async fn delete_points(&self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        let done = sqlx::query("DELETE FROM sweep_points WHERE sweep = ?1 AND ticks <= ?2")
            .bind(self.sweep.0)
            .bind(&self.until)
            .execute(&mut *connection)
            .await
            .during(OPERATION)?;
        sqlx::query("UPDATE sweep_totals SET points = points - ?2 WHERE sweep = ?1")
            .bind(self.sweep.0)
            .bind(done.rows_affected() as i64)
            .execute(connection)
            .await
            .during(OPERATION)?;
        Ok(())
    }
}

/// Deletes a sweep that has no points.
async fn delete_rest(connection: &mut SqliteConnection, sweep: SweepId) -> Result<(), StoreError> {
    for statement in [
        "DELETE FROM job_counts WHERE sweep = ?1",
        "DELETE FROM sweep_totals WHERE sweep = ?1",
        "DELETE FROM sweep_queries WHERE sweep = ?1",
        "DELETE FROM choices WHERE sweep = ?1",
        "DELETE FROM sweep_controls WHERE sweep = ?1",
        "DELETE FROM sweeps WHERE id = ?1",
    ] {
        sqlx::query(statement).bind(sweep.0).execute(&mut *connection).await.during(OPERATION)?;
    }
    Ok(())
}
