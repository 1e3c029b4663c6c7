//! What strategies see and what they chose.

use std::collections::BTreeSet;

use avsweep_domain::SweepId;
use sqlx::postgres::PgConnection;

use super::connection::{PostgresStore, call, snapshot};
use super::sweeps;
use crate::columns::{narrow, wide};
use crate::error::During;
use crate::search_points::{JobRow, SearchRow, assemble, pack, unpack};
use crate::{Choice, PointFilter, SearchPoint, StoreError, codec};

/// Points whose results are in memory as they are stored.
const POINTS_AT_ONCE: usize = 512;

/// See [`crate::Store::search_points`].
pub(super) async fn search_points(
    store: &PostgresStore,
    sweep: SweepId,
    filter: PointFilter<'_>,
) -> Result<Vec<SearchPoint>, StoreError> {
    call!(store, "read what a strategy sees", |connection| {
        search_points_once(store, connection, sweep, filter)
    })
}

async fn search_points_once(
    store: &PostgresStore,
    connection: &mut PgConnection,
    sweep: SweepId,
    filter: PointFilter<'_>,
) -> Result<Vec<SearchPoint>, StoreError> {
    const OPERATION: &str = "read what a strategy sees";
    let mut snapshot = snapshot(connection, OPERATION).await?;
    let layout = sweeps::present(store, &mut snapshot, sweep).await?;
    let rows: Vec<SearchRow> = match filter {
        PointFilter::All => sqlx::query_as(
            "SELECT point, ticks, search_judgement FROM sweep_points WHERE sweep = $1 ORDER BY ticks",
        )
        .bind(sweep.0)
        .fetch_all(&mut *snapshot)
        .await
        .during(OPERATION)?,
        PointFilter::These(points) => {
            let fitting = points.iter().filter(|point| point.dimensions() == layout.dimensions);
            let wanted: BTreeSet<Vec<u8>> = fitting.map(codec::ticks).collect();
            sqlx::query_as(
                "SELECT s.point, s.ticks, s.search_judgement
                 FROM unnest($2::bytea[]) AS wanted (ticks)
                 JOIN sweep_points AS s ON s.sweep = $1 AND s.ticks = wanted.ticks
                 ORDER BY s.ticks",
            )
            .bind(sweep.0)
            .bind(wanted.into_iter().collect::<Vec<_>>())
            .fetch_all(&mut *snapshot)
            .await
            .during(OPERATION)?
        }
    };
    let mut points = Vec::with_capacity(rows.len());
    for rows in rows.chunks(POINTS_AT_ONCE) {
        let ids: Vec<i64> = rows.iter().map(|row| row.0).collect();
        let jobs: Vec<JobRow> = sqlx::query_as(
            "SELECT j.point, j.rung, j.state, j.slice_start, j.slice_end
             FROM unnest($2::bigint[]) AS wanted (point)
             JOIN jobs AS j ON j.sweep = $1 AND j.point = wanted.point
             WHERE j.slice_start < $3",
        )
        .bind(sweep.0)
        .bind(&ids)
        .bind(i64::from(layout.search.len()))
        .fetch_all(&mut *snapshot)
        .await
        .during(OPERATION)?;
        let blocks: Vec<(i64, Vec<u8>)> = sqlx::query_as(
            "SELECT b.point, b.scores
             FROM unnest($1::bigint[]) AS wanted (point) JOIN score_blocks AS b ON b.point = wanted.point",
        )
        .bind(&ids)
        .fetch_all(&mut *snapshot)
        .await
        .during(OPERATION)?;
        points.extend(assemble(&layout, rows, jobs, &blocks)?);
    }
    snapshot.commit().await.during(OPERATION)?;
    Ok(points)
}

/// Writes a choice with the plan that it comes from. One that is written already stays; another at its place says that
/// somebody else has planned meanwhile.
pub(super) async fn write_choice(
    connection: &mut PgConnection,
    sweep: SweepId,
    choice: &Choice,
) -> Result<(), StoreError> {
    const OPERATION: &str = "write a choice";
    let points = pack(&choice.points);
    sqlx::query(
        "INSERT INTO choices (sweep, proposed, asked, pending, given_up, points) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT DO NOTHING",
    )
    .bind(sweep.0)
    .bind(choice.proposed as i64)
    .bind(i64::from(choice.asked))
    .bind(pack(&choice.pending))
    .bind(pack(&choice.given_up))
    .bind(&points)
    .execute(&mut *connection)
    .await
    .during(OPERATION)?;
    let (written,): (Vec<u8>,) =
        sqlx::query_as("SELECT points FROM choices WHERE sweep = $1 AND proposed = $2")
            .bind(sweep.0)
            .bind(choice.proposed as i64)
            .fetch_one(connection)
            .await
            .during(OPERATION)?;
    if written == points { Ok(()) } else { Err(StoreError::PlanningLost { sweep }) }
}

/// See [`crate::Store::choices`].
pub(super) async fn choices(store: &PostgresStore, sweep: SweepId) -> Result<Vec<Choice>, StoreError> {
    call!(store, "read choices", |connection| choices_once(store, connection, sweep))
}

async fn choices_once(
    store: &PostgresStore,
    connection: &mut PgConnection,
    sweep: SweepId,
) -> Result<Vec<Choice>, StoreError> {
    const OPERATION: &str = "read choices";
    let mut snapshot = snapshot(connection, OPERATION).await?;
    let layout = sweeps::present(store, &mut snapshot, sweep).await?;
    let rows: Vec<(i64, i64, Vec<u8>, Vec<u8>, Vec<u8>)> = sqlx::query_as(
        "SELECT proposed, asked, pending, given_up, points FROM choices WHERE sweep = $1 ORDER BY proposed",
    )
    .bind(sweep.0)
    .fetch_all(&mut *snapshot)
    .await
    .during(OPERATION)?;
    snapshot.commit().await.during(OPERATION)?;
    rows.into_iter()
        .map(|(proposed, asked, pending, given_up, points)| {
            let what = || format!("a choice of sweep {sweep}");
            Ok(Choice {
                proposed: wide(proposed, what)?,
                asked: narrow(asked, what)?,
                pending: unpack(&pending, &layout)?,
                given_up: unpack(&given_up, &layout)?,
                points: unpack(&points, &layout)?,
            })
        })
        .collect()
}
