//! Reports: results in, tallies and job brought up to date, in one transaction.
//!
//! Scores, of which there are most, take two statements: one reads what is there, one writes what follows from it, and
//! writes nothing if the lease is lost or the point has changed in between (its `version` tells), so no lock is held
//! while we compute. Responses and verdicts, which come seldom and large, lock the point first.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::{Postgres, Row};

use super::claiming::JobRow;
use super::connection::{PostgresStore, begin, call};
use super::counting::shard;
use super::{results, sweeps, tallying};
use crate::error::{During, ReportProblem};
use crate::layout::SweepLayout;
use crate::packed_tallies;
use crate::point_results;
use crate::point_results::{Decoded, Scores};
use crate::{JobResults, LeaseRef, LeaseStatus, Report, StoreError, Timestamp, check};

const OPERATION: &str = "store a report";
/// How often a report is made anew because others report at the same point, before that is an error.
const TRIES: usize = 50;

/// See [`crate::Store::report`].
pub(super) async fn report(
    store: &PostgresStore,
    report: &Report,
    now: Timestamp,
) -> Result<LeaseStatus, StoreError> {
    call!(store, OPERATION, |connection| report_once(store, connection, report, now))
}

async fn report_once(
    store: &PostgresStore,
    connection: &mut PgConnection,
    report: &Report,
    now: Timestamp,
) -> Result<LeaseStatus, StoreError> {
    for _ in 0..TRIES {
        let Some(held) = held_job(connection, &report.lease, now).await? else {
            return Ok(LeaseStatus::Lost);
        };
        let job = &held.job;
        let layout = sweeps::layout(store, connection, job.sweep).await?;
        check::results(job.id, job.rung, job.slice, &layout, &report.results)?;
        let status = match &report.results {
            JobResults::Scores(scores) => {
                let rows = by_query(&layout, scores);
                let layouts = tallying::layouts(store, connection, &held.sharers).await?;
                let write = ScoreReport::new(&held, &layout, &layouts, &rows, report)?;
                write.run(connection, report, now).await?
            }
            JobResults::Responses(_) | JobResults::Verdicts(_) => {
                Some(report_texts(store, connection, &held, &layout, report, now).await?)
            }
        };
        if let Some(status) = status {
            return Ok(status);
        }
    }
    // Every try failed because another one at the same point succeeded: not in a world of workers that compute.
    Err(StoreError::Unavailable { operation: OPERATION, source: sqlx::Error::PoolTimedOut })
}

struct HeldJob {
    job: JobRow,
    /// The version of its point.
    version: i64,
    /// The sweeps that have the point.
    sharers: Vec<i64>,
    /// Of a likelihood job: the score blocks of its point.
    blocks: Vec<Vec<u8>>,
}

/// The job of a lease; `None` when the lease is lost.
async fn held_job(
    connection: &mut PgConnection,
    lease: &LeaseRef,
    now: Timestamp,
) -> Result<Option<HeldJob>, StoreError> {
    type Columns = (i64, i64, i64, String, i64, i64, bool, Option<Vec<i64>>, Option<Vec<Vec<u8>>>);
    let row: Option<Columns> = sqlx::query_as(
        "SELECT j.sweep, j.point, p.version, j.rung, j.slice_start, j.slice_end,
                coalesce(j.state = 'leased' AND j.attempt = $2 AND j.token = $3 AND j.expires >= $4, FALSE),
                (SELECT array_agg(s.sweep) FROM sweep_points AS s WHERE s.point = j.point),
                CASE WHEN j.rung = 'likelihood' THEN
                    (SELECT array_agg(b.scores) FROM score_blocks AS b WHERE b.point = j.point)
                END
         FROM jobs AS j JOIN points AS p ON p.id = j.point
         WHERE j.id = $1",
    )
    .bind(lease.job.0)
    .bind(i64::from(lease.attempt))
    .bind(lease.token.as_bytes().as_slice())
    .bind(now.0)
    .fetch_optional(connection)
    .await
    .during(OPERATION)?;
    let Some((sweep, point, version, rung, start, end, held, sharers, blocks)) = row else {
        return Err(StoreError::NoSuchJob(lease.job));
    };
    if !held {
        return Ok(None);
    }
    let job = JobRow::read((lease.job.0, sweep, point, &rung, start, end))?;
    let (sharers, blocks) = (sharers.unwrap_or_default(), blocks.unwrap_or_default());
    Ok(Some(HeldJob { job, version, sharers, blocks }))
}

/// Results by the store's number of their query.
fn by_query<'a, T>(layout: &SweepLayout, results: &'a [(u32, T)]) -> Vec<(i64, &'a T)> {
    results.iter().filter_map(|(ordinal, result)| Some((layout.query(*ordinal)?, result))).collect()
}

/// Refuses a last report that leaves a query without a result.
fn complete(
    job: &JobRow,
    layout: &SweepLayout,
    report: &Report,
    has: impl Fn(i64) -> bool,
) -> Result<(), StoreError> {
    if !report.finished {
        return Ok(());
    }
    let missing = layout.missing(job.slice, has);
    match missing.first() {
        None => Ok(()),
        Some((first, _)) => Err(StoreError::BadReport {
            job: job.id,
            problem: ReportProblem::Unfinished {
                missing: missing.len(),
                wanted: job.slice.len(),
                first: *first,
            },
        }),
    }
}

/// How many results a report brought, and how many of them were new.
#[derive(Clone, Copy)]
struct Stored {
    results: u64,
    new: u64,
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// What a report changes about its job ($1): the last one closes it; one with new results ($4) shows that it gets on.
macro_rules! settle_job {
    () => {
        "UPDATE jobs AS j
         SET state = CASE WHEN $9 THEN 'done' ELSE j.state END,
             token = CASE WHEN $9 THEN NULL ELSE j.token END,
             expires = CASE WHEN $9 THEN NULL ELSE j.expires END,
             lost = CASE WHEN $4::bigint > 0 THEN 0 ELSE j.lost END
         WHERE j.id = $1 AND ($9 OR ($4::bigint > 0 AND j.lost > 0))"
    };
}

/// The end of a report's statement: adds to the sums. $1 job, $2 sweep, $3 rung, $4 new results, $5 known ones,
/// $6 to $8 times, $9 whether the job is done. Times stop at the largest number instead of failing: workers report them.
macro_rules! count_report {
    ($from:literal) => {
        concat!(
            "INSERT INTO sweep_counts AS c
                 (sweep, rung, shard, leased, done, results, duplicate_results,
                  load_nanos, merge_nanos, evaluate_nanos)
             SELECT $2, $3, ",
            shard!(),
            ", CASE WHEN $9 THEN -1 ELSE 0 END, CASE WHEN $9 THEN 1 ELSE 0 END, $4::bigint, $5::bigint,
                $6::bigint, $7::bigint, $8::bigint",
            $from,
            "
             ON CONFLICT (sweep, rung, shard) DO UPDATE SET
                 leased = c.leased + excluded.leased, done = c.done + excluded.done,
                 results = c.results + excluded.results,
                 duplicate_results = c.duplicate_results + excluded.duplicate_results,
                 load_nanos = c.load_nanos + LEAST(excluded.load_nanos, 9223372036854775807 - c.load_nanos),
                 merge_nanos = c.merge_nanos + LEAST(excluded.merge_nanos, 9223372036854775807 - c.merge_nanos),
                 evaluate_nanos = c.evaluate_nanos
                     + LEAST(excluded.evaluate_nanos, 9223372036854775807 - c.evaluate_nanos)"
        )
    };
}

/// As above, and $10 attempt, $11 token, $12 now, $13 point, $14 its version, $15 the block, $16 to $18 tallies by sweep.
const STORE_SCORES: &str = concat!(
    "WITH held AS MATERIALIZED (
         SELECT id FROM jobs
         WHERE id = $1 AND attempt = $10 AND token = $11 AND state = 'leased' AND expires >= $12
         FOR UPDATE
     ), bumped AS (
         UPDATE points SET version = version + 1
         WHERE id = $13 AND version = $14 AND EXISTS (SELECT 1 FROM held)
         RETURNING id
     ), stored AS (
         INSERT INTO score_blocks (point, scores) SELECT id, $15 FROM bumped WHERE $15::bytea IS NOT NULL
     ), tallied AS (
         UPDATE sweep_points AS s SET search_likelihood = given.search, confirm_likelihood = given.confirm
         FROM unnest($16::bigint[], $17::bytea[], $18::bytea[]) AS given (sweep, search, confirm), bumped
         WHERE s.point = bumped.id AND s.sweep = given.sweep
     ), closed AS (
",
    settle_job!(),
    " AND EXISTS (SELECT 1 FROM bumped)
     ), counted AS (",
    count_report!(" FROM bumped"),
    ")
     SELECT EXISTS (SELECT 1 FROM held), EXISTS (SELECT 1 FROM bumped)"
);

/// What a report of scores writes, made ready.
struct ScoreReport<'r> {
    held: &'r HeldJob,
    block: Option<Vec<u8>>,
    stored: Stored,
    sweeps: Vec<i64>,
    search: Vec<Option<Vec<u8>>>,
    confirm: Vec<Option<Vec<u8>>>,
}

impl<'r> ScoreReport<'r> {
    fn new(
        held: &'r HeldJob,
        layout: &SweepLayout,
        layouts: &[Arc<SweepLayout>],
        rows: &[(i64, &avsweep_domain::QueryScore)],
        report: &Report,
    ) -> Result<Self, StoreError> {
        let mut known = Scores::new();
        for block in &held.blocks {
            point_results::read_block(held.job.point, block, layout.levels, &mut known)?;
        }
        let (block, new) = point_results::new_block(layout.levels, rows, &mut known);
        complete(&held.job, layout, report, |query| known.contains_key(&query))?;
        let stored = Stored { results: rows.len() as u64, new };
        let mut this =
            Self { held, block, stored, sweeps: Vec::new(), search: Vec::new(), confirm: Vec::new() };
        // Nothing new: the tallies are what they were.
        for layout in layouts.iter().filter(|_| this.block.is_some()) {
            let [search, confirm] = packed_tallies::likelihood(layout, &known);
            this.sweeps.push(layout.id.0);
            this.search.push(search);
            this.confirm.push(confirm);
        }
        Ok(this)
    }

    /// `None`: the point has changed meanwhile, nothing is written.
    async fn run(
        self,
        connection: &mut PgConnection,
        report: &Report,
        now: Timestamp,
    ) -> Result<Option<LeaseStatus>, StoreError> {
        let HeldJob { job, version, .. } = self.held;
        let row = counted(STORE_SCORES, job, report, self.stored)
            .bind(i64::from(report.lease.attempt))
            .bind(report.lease.token.as_bytes().as_slice())
            .bind(now.0)
            .bind(job.point)
            .bind(version)
            .bind(self.block)
            .bind(self.sweeps)
            .bind(self.search)
            .bind(self.confirm)
            .fetch_one(connection)
            .await
            .during(OPERATION)?;
        let (held, bumped): (bool, bool) =
            (row.try_get(0).during(OPERATION)?, row.try_get(1).during(OPERATION)?);
        Ok(match (held, bumped) {
            (false, _) => Some(LeaseStatus::Lost),
            (true, true) => Some(LeaseStatus::Held),
            (true, false) => None,
        })
    }
}

/// Stores responses or verdicts.
async fn report_texts(
    store: &PostgresStore,
    connection: &mut PgConnection,
    held: &HeldJob,
    layout: &SweepLayout,
    report: &Report,
    now: Timestamp,
) -> Result<LeaseStatus, StoreError> {
    let job = &held.job;
    let mut transaction = begin(connection, OPERATION).await?;
    // The lease is looked at again, now that nobody can take it away.
    let still: Option<(i64,)> = sqlx::query_as(
        "SELECT id FROM jobs
         WHERE id = $1 AND attempt = $2 AND token = $3 AND state = 'leased' AND expires >= $4
         FOR UPDATE",
    )
    .bind(job.id.0)
    .bind(i64::from(report.lease.attempt))
    .bind(report.lease.token.as_bytes().as_slice())
    .bind(now.0)
    .fetch_optional(&mut *transaction)
    .await
    .during(OPERATION)?;
    if still.is_none() {
        return Ok(LeaseStatus::Lost);
    }
    results::lock_point(&mut transaction, job.point).await?;
    let decoded = Decoded { point: job.point, decoding: layout.decoding };
    let stored = match &report.results {
        JobResults::Scores(_) => Stored { results: 0, new: 0 },
        JobResults::Responses(responses) => {
            let rows = by_query(layout, responses);
            let new = results::add_responses(&mut transaction, decoded, &rows).await?;
            if report.finished {
                let known = results::response_hashes(&mut transaction, decoded).await?;
                complete(job, layout, report, |query| known.contains_key(&query))?;
            }
            Stored { results: rows.len() as u64, new }
        }
        JobResults::Verdicts(verdicts) => {
            let rows = by_query(layout, verdicts);
            let new = results::add_verdicts(&mut transaction, decoded, layout.judge, &rows).await?;
            let known = results::verdicts(&mut transaction, decoded, layout.judge).await?;
            complete(job, layout, report, |query| known.contains_key(&query))?;
            tallying::refresh_judgement_everywhere(store, &mut transaction, decoded, layout).await?;
            Stored { results: rows.len() as u64, new }
        }
    };
    counted(SETTLE, job, report, stored).execute(&mut *transaction).await.during(OPERATION)?;
    transaction.commit().await.during(OPERATION)?;
    Ok(LeaseStatus::Held)
}

/// Counts what the report brought, and closes the job after the last one.
const SETTLE: &str = concat!(
    "WITH closed AS (
",
    settle_job!(),
    ") ",
    count_report!("")
);

/// A report's statement with what it counts.
fn counted<'q>(
    statement: &'static str,
    job: &JobRow,
    report: &Report,
    stored: Stored,
) -> sqlx::query::Query<'q, Postgres, PgArguments> {
    sqlx::query(statement)
        .bind(job.id.0)
        .bind(job.sweep.0)
        .bind(job.rung.as_str())
        .bind(stored.new as i64)
        .bind((stored.results - stored.new) as i64)
        .bind(nanos(report.timings.load))
        .bind(nanos(report.timings.merge))
        .bind(nanos(report.timings.evaluate))
        .bind(report.finished)
}
