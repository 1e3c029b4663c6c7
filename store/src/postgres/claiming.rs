//! Claims: handing ready jobs out.

use std::sync::{Arc, PoisonError};

use avsweep_domain::{JobId, QuerySlice, Response, Rung, SweepId};
use sqlx::postgres::PgConnection;

use super::connection::{PostgresStore, begin, call};
use super::counting::{Change, shard};
use super::results::plain;
use super::{results, sweeps, tallying};
use crate::columns::narrow;
use crate::error::During;
use crate::layout::SweepLayout;
use crate::point_results;
use crate::point_results::{Decoded, Scores};
use crate::{Lease, LeaseClaim, LeaseRef, LeasedJob, StoreError, Timestamp, codec, fair};

const OPERATION: &str = "lease jobs";

/// The claim, one statement, over the ready jobs that `$of` selects; for those that all claims of the same kind
/// select there is an index in their order, which is read up to the first that nobody else is just taking.
///
/// $1 rungs, $2 how many, $3 token, $4 end, $5 worker, $6 sweeps left out, $7 and $8 sweeps known to run and the draw
/// of each, $9 the sweep preferred, $10 now. When a sweep runs that is not among those known, nothing is taken and
/// every row says so. There is always a row.
macro_rules! claim {
    ($of:literal) => {
        concat!(
            "WITH running AS MATERIALIZED (
                 SELECT s.id, s.priority, known.draw, count(*) OVER () AS many
                 FROM sweeps AS s
                 LEFT JOIN unnest($7::bigint[], $8::bytea[]) AS known (sweep, draw) ON known.sweep = s.id
                 WHERE s.state = 'running' AND s.id <> ALL ($6)
             ), stale AS MATERIALIZED (
                 SELECT EXISTS (SELECT 1 FROM running WHERE draw IS NULL) AS unseen
             ), turn AS MATERIALIZED (
                 SELECT r.id,
                        row_number() OVER (
                            ORDER BY r.priority DESC, r.id IS DISTINCT FROM $9,
                                CASE WHEN r.many > 1 THEN (
                                    SELECT coalesce(sum(c.leased), 0) FROM sweep_counts AS c
                                    WHERE c.sweep = r.id AND c.rung = ANY ($1)
                                ) END,
                                r.draw
                        ) AS place
                 FROM running AS r, stale WHERE NOT stale.unseen
             ), picked AS MATERIALIZED (
                 SELECT ready.id, turn.place
                 FROM (SELECT t.id, t.place FROM turn AS t ORDER BY t.place) AS turn
                 CROSS JOIN LATERAL (
                     SELECT j.id FROM jobs AS j
                     WHERE j.sweep = turn.id AND j.state = 'ready' AND ",
            $of,
            "
                     ORDER BY j.priority DESC, j.id LIMIT $2 FOR UPDATE SKIP LOCKED
                 ) AS ready
                 LIMIT $2
             ), taken AS (
                 UPDATE jobs AS j
                 SET state = 'leased', attempt = j.attempt + 1, token = $3, expires = $4, worker = $5,
                     leased_at = $10
                 FROM picked WHERE j.id = picked.id
                 RETURNING j.id, j.sweep, j.point, j.rung, j.slice_start, j.slice_end, j.attempt, j.priority,
                           picked.place
             ), counted AS (
                 INSERT INTO sweep_counts AS c (sweep, rung, shard, ready, leased)
                 SELECT t.sweep, t.rung, ",
            shard!(),
            ", -count(*), count(*) FROM taken AS t GROUP BY t.sweep, t.rung ORDER BY t.sweep, t.rung
                 ON CONFLICT (sweep, rung, shard) DO UPDATE SET
                     ready = c.ready + excluded.ready, leased = c.leased + excluded.leased
             )
             SELECT stale.unseen AS stale, t.id, t.sweep, t.point, p.ticks, p.version, t.rung, t.slice_start,
                    t.slice_end, t.attempt,
                    CASE WHEN t.rung = 'likelihood' THEN
                        (SELECT array_agg(b.scores) FROM score_blocks AS b WHERE b.point = t.point)
                    END AS blocks,
                    set_config('synchronous_commit', 'off', true) AS unflushed
             FROM stale LEFT JOIN taken AS t ON TRUE LEFT JOIN points AS p ON p.id = t.point
             ORDER BY t.place, t.priority DESC, t.id"
        )
    };
}

const CLAIM_TO_EVALUATE: &str = claim!("j.rung <> 'judgement' AND j.rung = ANY ($1)");
const CLAIM_TO_JUDGE: &str = claim!("j.rung = 'judgement'");
/// Nobody who is in a hurry does both: this one has no index in its order.
const CLAIM_BOTH: &str = claim!("j.rung = ANY ($1)");

/// A job as a report or a lease needs it.
#[derive(Clone, Debug)]
pub(super) struct JobRow {
    pub(super) id: JobId,
    pub(super) sweep: SweepId,
    pub(super) point: i64,
    pub(super) rung: Rung,
    pub(super) slice: QuerySlice,
}

impl JobRow {
    /// From the columns id, sweep, point, rung, slice_start, slice_end.
    pub(super) fn read(
        (id, sweep, point, rung, start, end): (i64, i64, i64, &str, i64, i64),
    ) -> Result<Self, StoreError> {
        let what = || format!("job {id}");
        Ok(Self {
            id: JobId(id),
            sweep: SweepId(sweep),
            point,
            rung: rung.parse().map_err(|problem: String| StoreError::corrupt(what(), problem))?,
            slice: QuerySlice { start: narrow(start, what)?, end: narrow(end, what)? },
        })
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct ClaimRow {
    stale: bool,
    id: Option<i64>,
    sweep: Option<i64>,
    point: Option<i64>,
    ticks: Option<Vec<u8>>,
    rung: Option<String>,
    slice_start: Option<i64>,
    slice_end: Option<i64>,
    attempt: Option<i64>,
    blocks: Option<Vec<Vec<u8>>>,
}

pub(super) struct Claimed {
    job: JobRow,
    attempt: u32,
    ticks: Vec<u8>,
    /// Of a likelihood job: the score blocks of its point.
    blocks: Vec<Vec<u8>>,
}

impl ClaimRow {
    /// `None` for the row that says that there is nothing.
    pub(super) fn read(self) -> Result<Option<Claimed>, StoreError> {
        let columns = (self.id, self.sweep, self.point, self.rung, self.slice_start, self.slice_end);
        let (Some(id), Some(sweep), Some(point), Some(rung), Some(start), Some(end)) = columns else {
            return Ok(None);
        };
        let what = || format!("job {id}");
        let attempt = narrow(self.attempt.unwrap_or_default(), what)?;
        let ticks = self.ticks.ok_or_else(|| StoreError::corrupt(what(), "its point is not there"))?;
        let job = JobRow::read((id, sweep, point, &rung, start, end))?;
        Ok(Some(Claimed { job, attempt, ticks, blocks: self.blocks.unwrap_or_default() }))
    }
}

/// See [`crate::Store::lease`].
pub(super) async fn lease(
    store: &PostgresStore,
    claim: &LeaseClaim,
    now: Timestamp,
) -> Result<Vec<LeasedJob>, StoreError> {
    if claim.max_jobs == 0 || claim.rungs.is_empty() {
        return Ok(Vec::new());
    }
    loop {
        let claimed = call!(store, OPERATION, |connection| claim_once(store, connection, claim, now))?;
        if claimed.is_empty() {
            return Ok(Vec::new());
        }
        let mut leased = Vec::with_capacity(claimed.len());
        for job in &claimed {
            // Already ours; what it lacks is looked up apart.
            leased
                .extend(call!(store, OPERATION, |connection| hand_out(store, connection, claim, now, job))?);
        }
        if !leased.is_empty() {
            return Ok(leased);
        }
        // All of them lacked nothing and are closed now. There may be others.
    }
}

/// Marks ready jobs as leased; they come best first.
async fn claim_once(
    store: &PostgresStore,
    connection: &mut PgConnection,
    claim: &LeaseClaim,
    now: Timestamp,
) -> Result<Vec<Claimed>, StoreError> {
    let rungs: Vec<&str> = claim.rungs.iter().map(|rung| rung.as_str()).collect();
    let judges = claim.rungs.contains(&Rung::Judgement);
    let evaluates = claim.rungs.iter().any(|rung| *rung != Rung::Judgement);
    let statement = match (evaluates, judges) {
        (true, true) => CLAIM_BOTH,
        (true, false) => CLAIM_TO_EVALUATE,
        (false, _) => CLAIM_TO_JUDGE,
    };
    let except: Vec<i64> = claim.except.iter().map(|sweep| sweep.0).collect();
    // A sweep may start between looking and claiming, but not again and again.
    for _ in 0..8 {
        let known = Arc::clone(&store.running.lock().unwrap_or_else(PoisonError::into_inner));
        let rows: Vec<ClaimRow> = sqlx::query_as(statement)
            .bind(&rungs)
            .bind(i64::from(claim.max_jobs))
            .bind(claim.token.as_bytes().as_slice())
            .bind(now.plus(claim.duration).0)
            .bind(plain(&claim.worker.0))
            .bind(&except)
            .bind(known.iter().map(|sweep| sweep.0).collect::<Vec<_>>())
            .bind(known.iter().map(|sweep| fair::draw(claim.token, *sweep).to_vec()).collect::<Vec<_>>())
            .bind(claim.prefers.map(|sweep| sweep.0))
            .bind(now.0)
            .fetch_all(&mut *connection)
            .await
            .during(OPERATION)?;
        if !rows.iter().any(|row| row.stale) {
            return rows.into_iter().filter_map(|row| row.read().transpose()).collect();
        }
        let running: Vec<(i64,)> = sqlx::query_as("SELECT id FROM sweeps WHERE state = 'running'")
            .fetch_all(&mut *connection)
            .await
            .during(OPERATION)?;
        let running = running.into_iter().map(|(sweep,)| SweepId(sweep)).collect();
        *store.running.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(running);
    }
    Ok(Vec::new())
}

/// The job as it goes to the worker; `None` when it lacks nothing, then it is closed.
pub(super) async fn hand_out(
    store: &PostgresStore,
    connection: &mut PgConnection,
    claim: &LeaseClaim,
    now: Timestamp,
    claimed: &Claimed,
) -> Result<Option<LeasedJob>, StoreError> {
    let job = &claimed.job;
    let layout = sweeps::layout(store, connection, job.sweep).await?;
    let lacking = match job.rung {
        Rung::Likelihood => Lacking::scores(&layout, claimed)?,
        Rung::Generation => Lacking::responses(connection, &layout, job).await?,
        Rung::Judgement => Lacking::verdicts(store, connection, &layout, job).await?,
    };
    let reference = LeaseRef { job: job.id, attempt: claimed.attempt, token: claim.token };
    if lacking.ordinals.is_empty() {
        close(connection, job, &reference).await?;
        return Ok(None);
    }
    Ok(Some(LeasedJob {
        lease: Lease { reference, expires: now.plus(claim.duration) },
        sweep: job.sweep,
        sweep_fingerprint: layout.fingerprint,
        rung: job.rung,
        point: codec::read_ticks(&claimed.ticks)
            .map_err(|error| StoreError::corrupt(format!("point {}", job.point), error))?,
        ordinals: lacking.ordinals,
        responses: lacking.responses,
    }))
}

/// A job's ordinals without a result and, of a judgement job, the responses to judge.
struct Lacking {
    ordinals: Vec<u32>,
    responses: Vec<Response>,
}

impl Lacking {
    fn new(missing: &[(u32, i64)]) -> Self {
        Self { ordinals: missing.iter().map(|(ordinal, _)| *ordinal).collect(), responses: Vec::new() }
    }

    fn scores(layout: &SweepLayout, claimed: &Claimed) -> Result<Self, StoreError> {
        let mut scores = Scores::new();
        for block in &claimed.blocks {
            point_results::read_block(claimed.job.point, block, layout.levels, &mut scores)?;
        }
        Ok(Self::new(&layout.missing(claimed.job.slice, |query| scores.contains_key(&query))))
    }

    async fn responses(
        connection: &mut PgConnection,
        layout: &SweepLayout,
        job: &JobRow,
    ) -> Result<Self, StoreError> {
        let decoded = Decoded { point: job.point, decoding: layout.decoding };
        let hashes = results::response_hashes(connection, decoded).await?;
        Ok(Self::new(&layout.missing(job.slice, |query| hashes.contains_key(&query))))
    }

    /// Looks for verdicts on the same texts first.
    async fn verdicts(
        store: &PostgresStore,
        connection: &mut PgConnection,
        layout: &SweepLayout,
        job: &JobRow,
    ) -> Result<Self, StoreError> {
        let decoded = Decoded { point: job.point, decoding: layout.decoding };
        let mut transaction = begin(connection, "look up verdicts").await?;
        results::lock_point(&mut transaction, job.point).await?;
        let queries = point_results::queries_of(layout, job.slice);
        let found = results::resolve_verdicts(&mut transaction, decoded, layout.judge, &queries).await?;
        if found > 0 {
            tallying::refresh_judgement_everywhere(store, &mut transaction, decoded, layout).await?;
        }
        let verdicts = results::verdicts(&mut transaction, decoded, layout.judge).await?;
        let mut responses = results::responses(&mut transaction, decoded).await?;
        transaction.commit().await.during("look up verdicts")?;
        let missing = layout.missing(job.slice, |query| verdicts.contains_key(&query));
        let mut lacking = Self::new(&missing);
        for (_, query) in &missing {
            lacking.responses.push(responses.remove(query).ok_or_else(|| {
                StoreError::corrupt(format!("job {}", job.id), format!("query {query} has no response"))
            })?);
        }
        Ok(lacking)
    }
}

/// Marks a job as done, if its lease is held.
async fn close(connection: &mut PgConnection, job: &JobRow, lease: &LeaseRef) -> Result<(), StoreError> {
    const OPERATION: &str = "close a job";
    let mut transaction = begin(connection, OPERATION).await?;
    let done = sqlx::query(
        "UPDATE jobs SET state = 'done', token = NULL, expires = NULL
         WHERE id = $1 AND attempt = $2 AND token = $3 AND state = 'leased'",
    )
    .bind(lease.job.0)
    .bind(i64::from(lease.attempt))
    .bind(lease.token.as_bytes().as_slice())
    .execute(&mut *transaction)
    .await
    .during(OPERATION)?;
    if done.rows_affected() > 0 {
        let change = Change { leased: -1, done: 1, ..Change::default() };
        change.write(&mut transaction, job.sweep, job.rung).await?;
    }
    transaction.commit().await.during(OPERATION)
}
