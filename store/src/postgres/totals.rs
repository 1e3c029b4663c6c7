//! Sums over a sweep.

use std::time::Duration;

use avsweep_domain::{Rung, SweepId};
use sqlx::postgres::PgConnection;

use super::connection::{PostgresStore, call, snapshot};
use super::sweeps;
use crate::columns::{narrow, wide};
use crate::error::During;
use crate::{RungCounts, StoreError, SweepTotals, Timings};

#[derive(sqlx::FromRow)]
struct TotalsRow {
    rung: String,
    ready: i64,
    leased: i64,
    done: i64,
    parked: i64,
    points: i64,
    lost: i64,
    errors: i64,
    raced: i64,
    saved: i64,
    results: i64,
    duplicate_results: i64,
    load_nanos: i64,
    merge_nanos: i64,
    evaluate_nanos: i64,
}

impl TotalsRow {
    fn counts(&self, what: impl Fn() -> String + Copy) -> Result<RungCounts, StoreError> {
        Ok(RungCounts {
            ready: wide(self.ready, what)?,
            leased: wide(self.leased, what)?,
            done: wide(self.done, what)?,
            parked: wide(self.parked, what)?,
            raced: wide(self.raced, what)?,
        })
    }
}

/// See [`crate::Store::totals`].
pub(super) async fn totals(store: &PostgresStore, id: SweepId) -> Result<SweepTotals, StoreError> {
    call!(store, "read the totals of a sweep", |connection| totals_once(connection, id))
}

async fn totals_once(connection: &mut PgConnection, id: SweepId) -> Result<SweepTotals, StoreError> {
    const OPERATION: &str = "read the totals of a sweep";
    let mut snapshot = snapshot(connection, OPERATION).await?;
    // Times stop at the largest number instead of failing: workers report them.
    let rows: Vec<TotalsRow> = sqlx::query_as(
        "SELECT rung, sum(ready)::bigint AS ready, sum(leased)::bigint AS leased, sum(done)::bigint AS done,
                sum(parked)::bigint AS parked, sum(points)::bigint AS points, sum(lost)::bigint AS lost,
                sum(errors)::bigint AS errors, sum(raced)::bigint AS raced, sum(saved)::bigint AS saved,
                sum(results)::bigint AS results,
                sum(duplicate_results)::bigint AS duplicate_results,
                LEAST(sum(load_nanos), 9223372036854775807)::bigint AS load_nanos,
                LEAST(sum(merge_nanos), 9223372036854775807)::bigint AS merge_nanos,
                LEAST(sum(evaluate_nanos), 9223372036854775807)::bigint AS evaluate_nanos
         FROM sweep_counts WHERE sweep = $1 GROUP BY rung",
    )
    .bind(id.0)
    .fetch_all(&mut *snapshot)
    .await
    .during(OPERATION)?;
    let holders: Option<(i64,)> = sqlx::query_as(
        "SELECT (SELECT count(DISTINCT worker) FROM jobs WHERE sweep = $1 AND state = 'leased')
         FROM sweeps WHERE id = $1",
    )
    .bind(id.0)
    .fetch_optional(&mut *snapshot)
    .await
    .during(OPERATION)?;
    let what = || format!("the totals of sweep {id}");
    let Some((holders,)) = holders else {
        return Err(sweeps::no_such_sweep(&mut snapshot, &id.to_string()).await?);
    };
    snapshot.commit().await.during(OPERATION)?;
    let mut totals = SweepTotals { holders: narrow(holders, what)?, ..SweepTotals::default() };
    // Points that are deleted are taken from one rung, whichever brought them: only their sum counts.
    totals.points = wide(rows.iter().map(|row| row.points).sum(), what)?;
    for row in rows {
        *rung_counts(&mut totals, &row.rung, what)? = row.counts(what)?;
        totals.lost += wide(row.lost, what)?;
        totals.errors += wide(row.errors, what)?;
        totals.saved += wide(row.saved, what)?;
        totals.results += wide(row.results, what)?;
        totals.duplicate_results += wide(row.duplicate_results, what)?;
        let Timings { load, merge, evaluate } = &mut totals.timings;
        for (sum, nanos) in [(load, row.load_nanos), (merge, row.merge_nanos), (evaluate, row.evaluate_nanos)]
        {
            let most = Duration::from_nanos(i64::MAX as u64);
            *sum = most.min(*sum + Duration::from_nanos(wide(nanos, what)?));
        }
    }
    Ok(totals)
}

fn rung_counts<'t>(
    totals: &'t mut SweepTotals,
    rung: &str,
    what: impl Fn() -> String,
) -> Result<&'t mut RungCounts, StoreError> {
    Ok(match rung.parse().map_err(|problem: String| StoreError::corrupt(what(), problem))? {
        Rung::Likelihood => &mut totals.likelihood,
        Rung::Generation => &mut totals.generation,
        Rung::Judgement => &mut totals.judgement,
    })
}
