//! Claims of several at once: one statement takes the jobs, and each claim is dealt its own.

use std::collections::BTreeMap;

use avsweep_domain::{Rung, SweepId};
use futures::{FutureExt as _, StreamExt as _, stream};
use sqlx::postgres::PgConnection;

use super::claiming::{ClaimRow, Claimed, hand_out, lease};
use super::connection::{PostgresStore, call};
use super::counting::shard;
use super::results::plain;
use crate::columns::{narrow, wide};
use crate::error::During;
use crate::fair::{self, Candidate, Share, Standing};
use crate::{Answered, LeaseClaim, LeasedJob, StoreError, Timestamp};

const OPERATION: &str = "lease jobs";

/// Claims that are handed out side by side: one that has to wait for a point must not make all the others wait.
const AT_ONCE: usize = 8;

/// The claims, one statement, over the ready jobs that `$of` selects; from the same indexes as a single claim.
///
/// $1 rungs, $2 and $3 sweeps and how many jobs of each, $4 to $6 shares: of which sweep, from which of its jobs, to
/// before which; and $7 to $10 for whom: number, token, worker, end. $11 now. A share of jobs that others are taking is
/// smaller, or none.
macro_rules! deal {
    ($of:literal) => {
        concat!(
            "WITH wanted AS MATERIALIZED (
                 SELECT w.sweep, w.many FROM unnest($2::bigint[], $3::bigint[]) AS w (sweep, many)
                 JOIN sweeps AS s ON s.id = w.sweep AND s.state = 'running'
             ), picked AS MATERIALIZED (
                 SELECT ready.id, ready.priority, wanted.sweep
                 FROM wanted CROSS JOIN LATERAL (
                     SELECT j.id, j.priority FROM jobs AS j
                     WHERE j.sweep = wanted.sweep AND j.state = 'ready' AND ",
            $of,
            "
                     ORDER BY j.priority DESC, j.id LIMIT wanted.many FOR UPDATE SKIP LOCKED
                 ) AS ready
             ), placed AS MATERIALIZED (
                 SELECT id, sweep, row_number() OVER (PARTITION BY sweep ORDER BY priority DESC, id) AS place
                 FROM picked
             ), dealt AS MATERIALIZED (
                 SELECT placed.id, share.claim, share.token, share.worker, share.expires, share.turn
                 FROM unnest($4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bytea[], $9::text[],
                             $10::bigint[])
                     WITH ORDINALITY AS share (sweep, first, last, claim, token, worker, expires, turn)
                 JOIN placed ON placed.sweep = share.sweep
                     AND placed.place > share.first AND placed.place <= share.last
             ), taken AS (
                 UPDATE jobs AS j
                 SET state = 'leased', attempt = j.attempt + 1, token = dealt.token, expires = dealt.expires,
                     worker = dealt.worker, leased_at = $11
                 FROM dealt WHERE j.id = dealt.id
                 RETURNING j.id, j.sweep, j.point, j.rung, j.slice_start, j.slice_end, j.attempt, j.priority,
                           dealt.claim, dealt.turn
             ), counted AS (
                 INSERT INTO sweep_counts AS c (sweep, rung, shard, ready, leased)
                 SELECT t.sweep, t.rung, ",
            shard!(),
            ", -count(*), count(*) FROM taken AS t GROUP BY t.sweep, t.rung ORDER BY t.sweep, t.rung
                 ON CONFLICT (sweep, rung, shard) DO UPDATE SET
                     ready = c.ready + excluded.ready, leased = c.leased + excluded.leased
             )
             SELECT FALSE AS stale, t.id, t.sweep, t.point, p.ticks, p.version, t.rung, t.slice_start,
                    t.slice_end, t.attempt, t.claim,
                    CASE WHEN t.rung = 'likelihood' THEN
                        (SELECT array_agg(b.scores) FROM score_blocks AS b WHERE b.point = t.point)
                    END AS blocks,
                    set_config('synchronous_commit', 'off', true) AS unflushed
             FROM taken AS t LEFT JOIN points AS p ON p.id = t.point
             ORDER BY t.turn, t.priority DESC, t.id"
        )
    };
}

const DEAL_TO_EVALUATE: &str = deal!("j.rung <> 'judgement' AND j.rung = ANY ($1)");
const DEAL_TO_JUDGE: &str = deal!("j.rung = 'judgement' AND j.rung = ANY ($1)");
const DEAL_BOTH: &str = deal!("j.rung = ANY ($1)");

/// The running sweeps with ready jobs of these rungs.
const STANDINGS: &str = "SELECT s.id, s.priority, sum(c.leased)::bigint, sum(c.ready)::bigint
     FROM sweeps AS s JOIN sweep_counts AS c ON c.sweep = s.id AND c.rung = ANY ($1)
     WHERE s.state = 'running' GROUP BY s.id HAVING sum(c.ready) > 0";

#[derive(sqlx::FromRow)]
struct DealtRow {
    claim: i64,
    #[sqlx(flatten)]
    job: ClaimRow,
}

/// Claims that ask for jobs of the same rungs.
struct Table<'a> {
    rungs: Vec<&'static str>,
    /// With the claim's place in the call.
    claims: Vec<(usize, &'a LeaseClaim)>,
}

/// What came of the one statement for a claim.
struct Dealt {
    /// Jobs were meant for it.
    meant: bool,
    claimed: Result<Vec<Claimed>, StoreError>,
}

/// See [`crate::Store::lease_several`].
pub(super) async fn lease_several(
    store: &PostgresStore,
    claims: &[LeaseClaim],
    now: Timestamp,
    answered: Answered<'_>,
) {
    if let [claim] = claims {
        answered(0, lease(store, claim, now).await);
        return;
    }
    for (place, claim) in claims.iter().enumerate() {
        if wants_nothing(claim) {
            answered(place, Ok(Vec::new()));
        }
    }
    for table in tables(claims) {
        let dealt = match deal(store, &table, now).await {
            Ok(dealt) => dealt,
            Err(error) => {
                let told = error.for_each_of(table.claims.len());
                for ((place, _), answer) in table.claims.iter().zip(told) {
                    answered(*place, answer);
                }
                continue;
            }
        };
        let mut finishing = Vec::with_capacity(dealt.len());
        for ((place, claim), dealt) in table.claims.iter().zip(dealt) {
            finishing.push(async move { (*place, finish(store, claim, now, dealt).await) }.boxed());
        }
        let mut finished = stream::iter(finishing).buffer_unordered(AT_ONCE);
        while let Some((place, answer)) = finished.next().await {
            answered(place, answer);
        }
    }
}

fn wants_nothing(claim: &LeaseClaim) -> bool {
    claim.rungs.is_empty() || claim.max_jobs == 0
}

fn tables(claims: &[LeaseClaim]) -> Vec<Table<'_>> {
    let mut tables: BTreeMap<Vec<&'static str>, Vec<(usize, &LeaseClaim)>> = BTreeMap::new();
    for (place, claim) in claims.iter().enumerate().filter(|(_, claim)| !wants_nothing(claim)) {
        let mut rungs: Vec<_> = claim.rungs.iter().map(|rung| rung.as_str()).collect();
        rungs.sort_unstable();
        rungs.dedup();
        tables.entry(rungs).or_default().push((place, claim));
    }
    tables.into_iter().map(|(rungs, claims)| Table { rungs, claims }).collect()
}

/// Hands out what a claim was dealt; one that others were quicker than, or whose jobs lacked nothing, claims by itself.
async fn finish(
    store: &PostgresStore,
    claim: &LeaseClaim,
    now: Timestamp,
    dealt: Dealt,
) -> Result<Vec<LeasedJob>, StoreError> {
    let claimed = dealt.claimed?;
    let mut leased = Vec::with_capacity(claimed.len());
    for job in &claimed {
        leased.extend(call!(store, OPERATION, |connection| hand_out(store, connection, claim, now, job))?);
    }
    if leased.is_empty() && dealt.meant {
        return lease(store, claim, now).await;
    }
    Ok(leased)
}

/// What each claim of a table gets, in order.
async fn deal(store: &PostgresStore, table: &Table<'_>, now: Timestamp) -> Result<Vec<Dealt>, StoreError> {
    call!(store, OPERATION, |connection| deal_once(connection, table, now))
}

async fn deal_once(
    connection: &mut PgConnection,
    table: &Table<'_>,
    now: Timestamp,
) -> Result<Vec<Dealt>, StoreError> {
    let nothing = || Dealt { meant: false, claimed: Ok(Vec::new()) };
    let mut dealt: Vec<Dealt> = table.claims.iter().map(|_| nothing()).collect();
    let claims: Vec<&LeaseClaim> = table.claims.iter().map(|(_, claim)| *claim).collect();
    let shares = fair::deal(&claims, standings(connection, &table.rungs).await?);
    if shares.is_empty() {
        return Ok(dealt);
    }
    let mut wanted: BTreeMap<i64, i64> = BTreeMap::new();
    for share in &shares {
        dealt[share.claim].meant = true;
        let many = wanted.entry(share.sweep.0).or_default();
        *many = (*many).max(share.last as i64);
    }
    let (judges, evaluates) = (
        table.rungs.contains(&Rung::Judgement.as_str()),
        table.rungs.iter().any(|rung| *rung != Rung::Judgement.as_str()),
    );
    let statement = match (evaluates, judges) {
        (true, true) => DEAL_BOTH,
        (true, false) => DEAL_TO_EVALUATE,
        (false, _) => DEAL_TO_JUDGE,
    };
    let of_claim = |share: &Share| claims[share.claim];
    let rows: Vec<DealtRow> = sqlx::query_as(statement)
        .bind(&table.rungs)
        .bind(wanted.keys().copied().collect::<Vec<_>>())
        .bind(wanted.values().copied().collect::<Vec<_>>())
        .bind(shares.iter().map(|share| share.sweep.0).collect::<Vec<_>>())
        .bind(shares.iter().map(|share| share.first as i64).collect::<Vec<_>>())
        .bind(shares.iter().map(|share| share.last as i64).collect::<Vec<_>>())
        .bind(shares.iter().map(|share| share.claim as i64).collect::<Vec<_>>())
        .bind(shares.iter().map(|share| of_claim(share).token.as_bytes().to_vec()).collect::<Vec<_>>())
        .bind(shares.iter().map(|share| plain(&of_claim(share).worker.0)).collect::<Vec<_>>())
        .bind(shares.iter().map(|share| now.plus(of_claim(share).duration).0).collect::<Vec<_>>())
        .bind(now.0)
        .fetch_all(connection)
        .await
        .during(OPERATION)?;
    for row in rows {
        let claim = narrow(row.claim, || "a claim's number".to_owned())? as usize;
        let Some(Dealt { claimed: Ok(claimed), .. }) = dealt.get_mut(claim) else { continue };
        match row.job.read() {
            Ok(job) => claimed.extend(job),
            // The others' jobs are theirs all the same.
            Err(error) => dealt[claim].claimed = Err(error),
        }
    }
    Ok(dealt)
}

async fn standings(connection: &mut PgConnection, rungs: &[&str]) -> Result<Vec<Standing>, StoreError> {
    let rows: Vec<(i64, i32, i64, i64)> =
        sqlx::query_as(STANDINGS).bind(rungs).fetch_all(connection).await.during(OPERATION)?;
    rows.into_iter()
        .map(|(sweep, priority, leased, ready)| {
            let what = || format!("the job counts of sweep {sweep}");
            let leased = wide(leased, what)?;
            Ok(Standing {
                candidate: Candidate { sweep: SweepId(sweep), priority, leased },
                ready: wide(ready, what)?,
            })
        })
        .collect()
}
