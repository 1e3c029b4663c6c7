//! Tallies: kept with every report, read in one scan.

use std::collections::BTreeSet;
use std::sync::Arc;

use avsweep_domain::{PointTallies, SweepId};
use sqlx::postgres::PgConnection;

use super::connection::{PostgresStore, call};
use super::{results, sweeps};
use crate::error::During;
use crate::layout::SweepLayout;
use crate::packed_tallies::{Packed, TallyRow, judgement, read_row};
use crate::point_results::{Decoded, Verdicts};
use crate::{PointFilter, StoreError, codec};

/// Above this many points asked for, reading all of them and choosing is faster.
const FEW_POINTS: usize = 2000;

/// See [`crate::Store::tallies`].
pub(super) async fn read(
    store: &PostgresStore,
    sweep: SweepId,
    filter: PointFilter<'_>,
) -> Result<Vec<PointTallies>, StoreError> {
    call!(store, "read tallies", |connection| read_once(store, connection, sweep, filter))
}

async fn read_once(
    store: &PostgresStore,
    connection: &mut PgConnection,
    sweep: SweepId,
    filter: PointFilter<'_>,
) -> Result<Vec<PointTallies>, StoreError> {
    const OPERATION: &str = "read tallies";
    let layout = sweeps::present(store, connection, sweep).await?;
    let wanted: Option<BTreeSet<Vec<u8>>> = match filter {
        PointFilter::All => None,
        PointFilter::These(points) => Some(
            points.iter().filter(|point| point.dimensions() == layout.dimensions).map(codec::ticks).collect(),
        ),
    };
    let few = wanted.as_ref().filter(|wanted| wanted.len() <= FEW_POINTS);
    let mut rows: Vec<TallyRow> = if let Some(wanted) = few {
        sqlx::query_as(
            "SELECT s.point, s.ticks,
                    s.search_likelihood, s.search_judgement, s.confirm_likelihood, s.confirm_judgement
             FROM unnest($2::bytea[]) AS wanted (ticks)
             JOIN sweep_points AS s ON s.sweep = $1 AND s.ticks = wanted.ticks
             ORDER BY s.ticks",
        )
        .bind(sweep.0)
        .bind(wanted.iter().collect::<Vec<_>>())
        .fetch_all(connection)
        .await
        .during(OPERATION)?
    } else {
        sqlx::query_as(
            "SELECT point, ticks, search_likelihood, search_judgement, confirm_likelihood, confirm_judgement
             FROM sweep_points WHERE sweep = $1 ORDER BY ticks",
        )
        .bind(sweep.0)
        .fetch_all(connection)
        .await
        .during(OPERATION)?
    };
    if let Some(wanted) = &wanted
        && few.is_none()
    {
        rows.retain(|row| wanted.contains(&row.1));
    }
    rows.into_iter().map(|row| read_row(&layout, row)).collect()
}

/// The layouts of these sweeps, which have a point in common, but for one that was deleted meanwhile.
pub(super) async fn layouts(
    store: &PostgresStore,
    connection: &mut PgConnection,
    sharers: &[i64],
) -> Result<Vec<Arc<SweepLayout>>, StoreError> {
    let mut layouts = Vec::with_capacity(sharers.len());
    for sweep in sharers {
        match sweeps::layout(store, connection, SweepId(*sweep)).await {
            Ok(layout) => layouts.push(layout),
            Err(StoreError::NoSuchSweep { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(layouts)
}

/// The layouts of every sweep that has the point: new results there count in all of them.
async fn sharers(
    store: &PostgresStore,
    connection: &mut PgConnection,
    point: i64,
) -> Result<Vec<Arc<SweepLayout>>, StoreError> {
    let rows: Vec<(i64,)> = sqlx::query_as("SELECT sweep FROM sweep_points WHERE point = $1")
        .bind(point)
        .fetch_all(&mut *connection)
        .await
        .during("find the sweeps of a point")?;
    let sweeps: Vec<i64> = rows.into_iter().map(|(sweep,)| sweep).collect();
    layouts(store, connection, &sweeps).await
}

/// Writes a sweep's likelihood tallies of some points.
pub(super) async fn write_likelihood(
    connection: &mut PgConnection,
    sweep: SweepId,
    tallies: Vec<(i64, Packed)>,
) -> Result<(), StoreError> {
    if tallies.is_empty() {
        return Ok(());
    }
    let (mut points, mut search, mut confirm) = (Vec::new(), Vec::new(), Vec::new());
    for (point, [on_search, on_confirm]) in tallies {
        points.push(point);
        search.push(on_search);
        confirm.push(on_confirm);
    }
    sqlx::query(
        "UPDATE sweep_points AS s SET search_likelihood = given.search, confirm_likelihood = given.confirm
         FROM unnest($2::bigint[], $3::bytea[], $4::bytea[]) AS given (point, search, confirm)
         WHERE s.sweep = $1 AND s.point = given.point",
    )
    .bind(sweep.0)
    .bind(points)
    .bind(search)
    .bind(confirm)
    .execute(connection)
    .await
    .during("store tallies")?;
    Ok(())
}

/// Brings a point's judgement tallies up to date in those of these sweeps that decode and judge alike.
pub(super) async fn refresh_judgement(
    connection: &mut PgConnection,
    point: i64,
    layouts: &[Arc<SweepLayout>],
    (decoding, judge): (i64, i64),
    verdicts: &Verdicts,
) -> Result<(), StoreError> {
    for layout in layouts.iter().filter(|layout| (layout.decoding, layout.judge) == (decoding, judge)) {
        let [search, confirm] = judgement(layout, verdicts);
        sqlx::query(
            "UPDATE sweep_points SET search_judgement = $3, confirm_judgement = $4
             WHERE sweep = $1 AND point = $2",
        )
        .bind(layout.id.0)
        .bind(point)
        .bind(search)
        .bind(confirm)
        .execute(&mut *connection)
        .await
        .during("store tallies")?;
    }
    Ok(())
}

/// Brings a point's judgement tallies up to date in every sweep that has it, from what is stored.
pub(super) async fn refresh_judgement_everywhere(
    store: &PostgresStore,
    connection: &mut PgConnection,
    decoded: Decoded,
    layout: &SweepLayout,
) -> Result<(), StoreError> {
    let layouts = sharers(store, connection, decoded.point).await?;
    let verdicts = results::verdicts(connection, decoded, layout.judge).await?;
    refresh_judgement(connection, decoded.point, &layouts, (layout.decoding, layout.judge), &verdicts).await
}
