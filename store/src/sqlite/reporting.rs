//! Reports: results in, tallies and job brought up to date, in one transaction.

use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::SqliteConnection;

use super::claiming::JobRow;
use super::connection::{SqliteStore, begin};
use super::{results, sweeps, tallying};
use crate::error::{During, ReportProblem};
use crate::layout::SweepLayout;
use crate::point_results;
use crate::point_results::{Decoded, Scores};
use crate::{JobResults, LeaseRef, LeaseStatus, Report, StoreError, Timestamp, check};

const OPERATION: &str = "store a report";

/// See [`crate::Store::report`].
pub(super) async fn report(
    store: &SqliteStore,
    report: &Report,
    now: Timestamp,
) -> Result<LeaseStatus, StoreError> {
    let mut writer = store.writer(OPERATION).await?;
    let mut transaction = begin(&mut writer, OPERATION).await?;
    let Some(held) = held_job(&mut transaction, &report.lease, now).await? else {
        return Ok(LeaseStatus::Lost);
    };
    let job = &held.job;
    let layout = sweeps::layout(store, &mut transaction, job.sweep).await?;
    check::results(job.id, job.rung, job.slice, &layout, &report.results)?;
    // Usually the job's sweep is the only one that has the point.
    let layouts = if held.shared {
        tallying::sharers(store, &mut transaction, job.point).await?
    } else {
        vec![Arc::clone(&layout)]
    };
    let stored = store_results(&mut transaction, &held, &layout, &layouts, report).await?;
    settle(&mut transaction, job, report, &stored).await?;
    transaction.commit().await.during(OPERATION)?;
    Ok(LeaseStatus::Held)
}

struct HeldJob {
    job: JobRow,
    /// Whether other sweeps have the point too.
    shared: bool,
    /// Of a likelihood job: the score blocks of its point.
    blocks: Vec<Vec<u8>>,
}

/// The job of a lease; `None` when the lease is lost.
async fn held_job(
    connection: &mut SqliteConnection,
    lease: &LeaseRef,
    now: Timestamp,
) -> Result<Option<HeldJob>, StoreError> {
    // A row for every score block of the point, or one.
    let rows: Vec<(i64, i64, Vec<u8>, String, i64, i64, bool, bool, Option<Vec<u8>>)> = sqlx::query_as(
        "SELECT j.sweep, j.point, p.ticks, j.rung, j.slice_start, j.slice_end,
                j.state = 'leased' AND j.attempt = ?2 AND j.token = ?3 AND j.expires >= ?4,
                (SELECT count(*) FROM sweep_points AS s WHERE s.point = j.point) > 1,
                b.scores
         FROM jobs AS j
         CROSS JOIN points AS p ON p.id = j.point
         LEFT JOIN score_blocks AS b ON j.rung = 'likelihood' AND b.point = j.point
         WHERE j.id = ?1
         ORDER BY b.id",
    )
    .bind(lease.job.0)
    .bind(i64::from(lease.attempt))
    .bind(lease.token.as_bytes().as_slice())
    .bind(now.0)
    .fetch_all(connection)
    .await
    .during(OPERATION)?;
    let mut held_job = None;
    let mut blocks = Vec::new();
    for (sweep, point, ticks, rung, start, end, held, shared, block) in rows {
        if !held {
            return Ok(None);
        }
        blocks.extend(block);
        let columns = (lease.job.0, sweep, point, ticks, rung, start, end, i64::from(lease.attempt));
        held_job = Some((columns, shared));
    }
    match held_job {
        None => Err(StoreError::NoSuchJob(lease.job)),
        Some((columns, shared)) => Ok(Some(HeldJob { job: JobRow::read(columns)?, shared, blocks })),
    }
}

/// How many results a report brought, and how many of them were new.
struct Stored {
    results: u64,
    new: u64,
}

async fn store_results(
    connection: &mut SqliteConnection,
    held: &HeldJob,
    layout: &SweepLayout,
    layouts: &[Arc<SweepLayout>],
    report: &Report,
) -> Result<Stored, StoreError> {
    let job = &held.job;
    let decoded = Decoded { point: job.point, decoding: layout.decoding };
    match &report.results {
        JobResults::Scores(scores) => {
            let rows = by_query(layout, scores);
            let mut known = Scores::new();
            for block in &held.blocks {
                point_results::read_block(job.point, block, layout.levels, &mut known)?;
            }
            let (block, new) = point_results::new_block(layout.levels, &rows, &mut known);
            complete(job, layout, report, |query| known.contains_key(&query))?;
            if let Some(block) = block {
                sqlx::query("INSERT INTO score_blocks (point, scores) VALUES (?1, ?2)")
                    .bind(job.point)
                    .bind(block)
                    .execute(&mut *connection)
                    .await
                    .during(OPERATION)?;
                tallying::refresh_likelihood(connection, job.stored_point(), layouts, &known).await?;
            }
            Ok(Stored { results: rows.len() as u64, new })
        }
        JobResults::Responses(responses) => {
            let rows = by_query(layout, responses);
            let new = results::add_responses(connection, decoded, &rows).await?;
            if report.finished {
                let known = results::response_hashes(connection, decoded).await?;
                complete(job, layout, report, |query| known.contains_key(&query))?;
            }
            Ok(Stored { results: rows.len() as u64, new })
        }
        JobResults::Verdicts(verdicts) => {
            let rows = by_query(layout, verdicts);
            let new = results::add_verdicts(connection, decoded, layout.judge, &rows).await?;
            let known = results::verdicts(connection, decoded, layout.judge).await?;
            complete(job, layout, report, |query| known.contains_key(&query))?;
            let kind = (layout.decoding, layout.judge);
            tallying::refresh_judgement(connection, job.stored_point(), layouts, kind, &known).await?;
            Ok(Stored { results: rows.len() as u64, new })
        }
    }
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

/// Notes at the job what the report brought (the sweep's totals follow), and closes it after the last one.
async fn settle(
    connection: &mut SqliteConnection,
    job: &JobRow,
    report: &Report,
    stored: &Stored,
) -> Result<(), StoreError> {
    let nanos = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    sqlx::query(
        "UPDATE jobs
         SET results = results + ?2,
             duplicate_results = duplicate_results + ?3,
             load_nanos = load_nanos + min(?4, 9223372036854775807 - load_nanos),
             merge_nanos = merge_nanos + min(?5, 9223372036854775807 - merge_nanos),
             evaluate_nanos = evaluate_nanos + min(?6, 9223372036854775807 - evaluate_nanos),
             lost = iif(?2 > 0, 0, lost),
             state = iif(?7, 'done', state),
             token = iif(?7, NULL, token),
             expires = iif(?7, NULL, expires)
         WHERE id = ?1",
    )
    .bind(job.id.0)
    .bind(stored.new as i64)
    .bind((stored.results - stored.new) as i64)
    .bind(nanos(report.timings.load))
    .bind(nanos(report.timings.merge))
    .bind(nanos(report.timings.evaluate))
    .bind(report.finished)
    .execute(connection)
    .await
    .during(OPERATION)?;
    Ok(())
}
