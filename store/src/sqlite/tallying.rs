//! Tallies: kept with every report, read in one scan.

use std::sync::Arc;

use avsweep_domain::{PointTallies, SweepId};
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;

use super::connection::SqliteStore;
use super::{results, sweeps};
use crate::error::During;
use crate::layout::SweepLayout;
use crate::packed_tallies;
use crate::packed_tallies::{TallyRow, judgement, read_row};
use crate::point_results::{Decoded, Scores, Verdicts};
use crate::{PointFilter, StoreError, codec};

/// Above this many points asked for, reading all of them and choosing is faster.
const FEW_POINTS: usize = 2000;
/// Points of one packed row.
const POINTS_AT_ONCE: i64 = 512;

/// See [`crate::Store::tallies`].
pub(super) async fn read(
    store: &SqliteStore,
    sweep: SweepId,
    filter: PointFilter<'_>,
) -> Result<Vec<PointTallies>, StoreError> {
    const OPERATION: &str = "read tallies";
    let mut reader = store.reader().await?;
    let layout = sweeps::layout(store, &mut reader, sweep).await?;
    let wanted = match filter {
        PointFilter::All => None,
        PointFilter::These(points) => Some(
            points
                .iter()
                .filter(|point| point.dimensions() == layout.dimensions)
                .map(codec::ticks)
                .collect::<std::collections::BTreeSet<_>>(),
        ),
    };
    let few = wanted.as_ref().filter(|wanted| wanted.len() <= FEW_POINTS);
    let mut rows: Vec<TallyRow> = if let Some(wanted) = few {
        let width = codec::ticks_width(layout.dimensions);
        // ?2: the ticks one after another, ?3 bytes each; ?4: how many.
        sqlx::query_as(
            "WITH RECURSIVE series (i) AS (SELECT 0 WHERE ?4 > 0 UNION ALL SELECT i + 1 FROM series WHERE i + 1 < ?4)
             SELECT s.point, s.ticks,
                    s.search_likelihood, s.search_judgement, s.confirm_likelihood, s.confirm_judgement
             FROM series CROSS JOIN sweep_points AS s
               ON s.sweep = ?1 AND s.ticks = substr(?2, 1 + ?3 * i, ?3)
             ORDER BY i",
        )
        .bind(sweep.0)
        .bind(wanted.iter().flatten().copied().collect::<Vec<u8>>())
        .bind(width as i64)
        .bind(wanted.len() as i64)
        .fetch_all(&mut *reader)
        .await
        .during(OPERATION)?
    } else {
        let mut snapshot = reader.begin().await.during(OPERATION)?;
        let rows = read_packed(&mut snapshot, sweep).await?;
        snapshot.commit().await.during(OPERATION)?;
        rows
    };
    drop(reader);
    if let Some(wanted) = &wanted
        && few.is_none()
    {
        rows.retain(|row| wanted.contains(&row.1));
    }
    rows.into_iter().map(|row| read_row(&layout, row)).collect()
}

/// Every tally of a sweep, many points in a row: handing a row from the database's thread to ours costs more than what
/// is in it.
async fn read_packed(connection: &mut SqliteConnection, sweep: SweepId) -> Result<Vec<TallyRow>, StoreError> {
    let mut rows = Vec::new();
    // The empty blob is below every point.
    let mut after = Vec::new();
    loop {
        let page: (Option<Vec<u8>>, Option<Vec<u8>>) = sqlx::query_as(
            "SELECT CAST(group_concat(
                        format('%016x%08x%08x%08x%08x%08x', point, length(ticks),
                               ifnull(1 + length(search_likelihood), 0), ifnull(1 + length(search_judgement), 0),
                               ifnull(1 + length(confirm_likelihood), 0), ifnull(1 + length(confirm_judgement), 0))
                        || ticks || ifnull(search_likelihood, '') || ifnull(search_judgement, '')
                        || ifnull(confirm_likelihood, '') || ifnull(confirm_judgement, ''), '') AS BLOB),
                    max(ticks)
             FROM (SELECT * FROM sweep_points WHERE sweep = ?1 AND ticks > ?2 ORDER BY ticks LIMIT +?3)",
        )
        .bind(sweep.0)
        .bind(&after)
        .bind(POINTS_AT_ONCE)
        .fetch_one(&mut *connection)
        .await
        .during("read tallies")?;
        let (Some(packed), Some(last)) = page else {
            return Ok(rows);
        };
        unpack(&packed, &mut rows).ok_or_else(|| {
            StoreError::corrupt(format!("the tallies of sweep {sweep}"), "they are cut short")
        })?;
        after = last;
    }
}

/// Reads rows as [`read_packed`] asks for them: a number, five lengths (of a tally: plus one, 0 for none), in
/// hexadecimal digits; then the bytes.
fn unpack(mut packed: &[u8], rows: &mut Vec<TallyRow>) -> Option<()> {
    fn bytes<'p>(packed: &mut &'p [u8], count: usize) -> Option<&'p [u8]> {
        packed.split_off(..count)
    }
    fn number(packed: &mut &[u8], digits: usize) -> Option<i64> {
        i64::from_str_radix(std::str::from_utf8(bytes(packed, digits)?).ok()?, 16).ok()
    }
    while !packed.is_empty() {
        let id = number(&mut packed, 16)?;
        let ticks = usize::try_from(number(&mut packed, 8)?).ok()?;
        let mut lengths = [0; 4];
        for length in &mut lengths {
            *length = usize::try_from(number(&mut packed, 8)?).ok()?;
        }
        let ticks = bytes(&mut packed, ticks)?.to_vec();
        let mut tallies = [const { None }; 4];
        for (tally, length) in tallies.iter_mut().zip(lengths) {
            if let Some(length) = length.checked_sub(1) {
                *tally = Some(bytes(&mut packed, length)?.to_vec());
            }
        }
        let [search_likelihood, search_judgement, confirm_likelihood, confirm_judgement] = tallies;
        rows.push((id, ticks, search_likelihood, search_judgement, confirm_likelihood, confirm_judgement));
    }
    Some(())
}

/// A point of some sweep: its number and its ticks as stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct StoredPoint<'a> {
    pub(super) id: i64,
    pub(super) ticks: &'a [u8],
}

/// The layouts of every sweep that has the point: new results there count in all of them.
pub(super) async fn sharers(
    store: &SqliteStore,
    connection: &mut SqliteConnection,
    point: i64,
) -> Result<Vec<Arc<SweepLayout>>, StoreError> {
    let rows: Vec<(i64,)> = sqlx::query_as("SELECT sweep FROM sweep_points WHERE point = ?1")
        .bind(point)
        .fetch_all(&mut *connection)
        .await
        .during("find the sweeps of a point")?;
    let mut layouts = Vec::with_capacity(rows.len());
    for (sweep,) in rows {
        layouts.push(sweeps::layout(store, connection, SweepId(sweep)).await?);
    }
    Ok(layouts)
}

/// Brings a point's likelihood tallies up to date in these sweeps.
pub(super) async fn refresh_likelihood(
    connection: &mut SqliteConnection,
    point: StoredPoint<'_>,
    layouts: &[Arc<SweepLayout>],
    scores: &Scores,
) -> Result<(), StoreError> {
    for layout in layouts {
        let [search, confirm] = packed_tallies::likelihood(layout, scores);
        sqlx::query(
            "UPDATE sweep_points SET search_likelihood = ?3, confirm_likelihood = ?4
             WHERE sweep = ?1 AND ticks = ?2",
        )
        .bind(layout.id.0)
        .bind(point.ticks)
        .bind(search)
        .bind(confirm)
        .execute(&mut *connection)
        .await
        .during("store tallies")?;
    }
    Ok(())
}

/// Brings a point's judgement tallies up to date in those of these sweeps that decode and judge alike.
pub(super) async fn refresh_judgement(
    connection: &mut SqliteConnection,
    point: StoredPoint<'_>,
    layouts: &[Arc<SweepLayout>],
    (decoding, judge): (i64, i64),
    verdicts: &Verdicts,
) -> Result<(), StoreError> {
    for layout in layouts.iter().filter(|layout| (layout.decoding, layout.judge) == (decoding, judge)) {
        let [search, confirm] = judgement(layout, verdicts);
        sqlx::query(
            "UPDATE sweep_points SET search_judgement = ?3, confirm_judgement = ?4
             WHERE sweep = ?1 AND ticks = ?2",
        )
        .bind(layout.id.0)
        .bind(point.ticks)
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
    store: &SqliteStore,
    connection: &mut SqliteConnection,
    point: StoredPoint<'_>,
    layout: &SweepLayout,
) -> Result<(), StoreError> {
    let layouts = sharers(store, connection, point.id).await?;
    let decoded = Decoded { point: point.id, decoding: layout.decoding };
    let verdicts = results::verdicts(connection, decoded, layout.judge).await?;
    refresh_judgement(connection, point, &layouts, (layout.decoding, layout.judge), &verdicts).await
}
