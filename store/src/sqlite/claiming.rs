//! Claims: handing ready jobs out.

use avsweep_domain::{JobId, QuerySlice, Response, Rung, SweepId};
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;

use super::connection::{SqliteStore, begin, unflushed};
use super::tallying::StoredPoint;
use super::{results, sweeps, tallying};
use crate::columns;
use crate::columns::narrow;
use crate::error::During;
use crate::fair::{self, Candidate};
use crate::layout::SweepLayout;
use crate::point_results;
use crate::point_results::Decoded;
use crate::{Lease, LeaseClaim, LeaseRef, LeasedJob, StoreError, Timestamp, codec};

/// A job as a report or a lease needs it.
#[derive(Clone, Debug)]
pub(super) struct JobRow {
    pub(super) id: JobId,
    pub(super) sweep: SweepId,
    pub(super) point: i64,
    pub(super) ticks: Vec<u8>,
    pub(super) rung: Rung,
    pub(super) slice: QuerySlice,
    pub(super) attempt: u32,
}

/// Columns of a [`JobRow`]: id, sweep, point, ticks, rung, slice_start, slice_end, attempt.
pub(super) type JobColumns = (i64, i64, i64, Vec<u8>, String, i64, i64, i64);

impl JobRow {
    pub(super) fn read(columns: JobColumns) -> Result<Self, StoreError> {
        let (id, sweep, point, ticks, rung, start, end, attempt) = columns;
        let what = || format!("job {id}");
        Ok(Self {
            id: JobId(id),
            sweep: SweepId(sweep),
            point,
            ticks,
            rung: rung.parse().map_err(|problem: String| StoreError::corrupt(what(), problem))?,
            slice: QuerySlice { start: narrow(start, what)?, end: narrow(end, what)? },
            attempt: narrow(attempt, what)?,
        })
    }

    pub(super) fn stored_point(&self) -> StoredPoint<'_> {
        StoredPoint { id: self.point, ticks: &self.ticks }
    }
}

/// See [`crate::Store::lease`].
pub(super) async fn lease(
    store: &SqliteStore,
    claim: &LeaseClaim,
    now: Timestamp,
) -> Result<Vec<LeasedJob>, StoreError> {
    const OPERATION: &str = "lease jobs";
    if claim.max_jobs == 0 || claim.rungs.is_empty() {
        return Ok(Vec::new());
    }
    loop {
        let mut writer = store.writer(OPERATION).await?;
        unflushed(&mut writer, OPERATION).await?;
        let claimed = claim_jobs(&mut writer, claim, now).await?;
        if claimed.is_empty() {
            return Ok(Vec::new());
        }
        let mut leased = Vec::with_capacity(claimed.len());
        for job in &claimed {
            let layout = sweeps::layout(store, &mut writer, job.sweep).await?;
            let lacking = match job.rung {
                Rung::Likelihood => Lacking::scores(&mut writer, &layout, job).await?,
                Rung::Generation => Lacking::responses(&mut writer, &layout, job).await?,
                Rung::Judgement => Lacking::verdicts(store, &mut writer, &layout, job).await?,
            };
            leased.extend(hand_out(&mut writer, claim, now, &layout, job, lacking).await?);
        }
        if !leased.is_empty() {
            return Ok(leased);
        }
        // All of them lacked nothing and are closed now. There may be others.
    }
}

/// Marks ready jobs as leased; they come best first.
///
/// What they lack is looked up after this transaction: they are ours by then.
async fn claim_jobs(
    connection: &mut SqliteConnection,
    claim: &LeaseClaim,
    now: Timestamp,
) -> Result<Vec<JobRow>, StoreError> {
    const OPERATION: &str = "lease jobs";
    let mut rungs: Vec<&str> = claim.rungs.iter().map(|rung| rung.as_str()).collect();
    rungs.sort_unstable();
    rungs.dedup();
    let rungs = format!("[\"{}\"]", rungs.join("\",\""));
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.during(OPERATION)?;
    let candidates = candidates(&mut transaction, &rungs).await?;
    let mut claimed = Vec::new();
    let mut wanted = claim.max_jobs as usize;
    for sweep in fair::order(claim, candidates) {
        if wanted == 0 {
            break;
        }
        let jobs =
            claim_of_sweep(&mut transaction, claim, now, SweepJobs { sweep, rungs: &rungs, wanted }).await?;
        wanted = wanted.saturating_sub(jobs.len());
        claimed.extend(jobs);
    }
    if !claimed.is_empty() {
        transaction.commit().await.during(OPERATION)?;
    }
    Ok(claimed)
}

/// The running sweeps that have ready jobs of these rungs (a JSON array).
async fn candidates(connection: &mut SqliteConnection, rungs: &str) -> Result<Vec<Candidate>, StoreError> {
    let rows: Vec<(i64, i64, i64)> = sqlx::query_as(
        "SELECT sweep.id, control.priority,
                (SELECT coalesce(sum(held.jobs), 0)
                 FROM json_each(?1) AS rung CROSS JOIN job_counts AS held
                   ON held.sweep = sweep.id AND held.rung = rung.value AND held.state = 'leased')
         FROM sweeps AS sweep CROSS JOIN sweep_controls AS control ON control.sweep = sweep.id
         WHERE sweep.state = 'running'
           AND EXISTS (
               SELECT 1 FROM json_each(?1) AS rung CROSS JOIN job_counts AS waiting
                 ON waiting.sweep = sweep.id AND waiting.rung = rung.value AND waiting.state = 'ready'
               WHERE waiting.jobs > 0
           )",
    )
    .bind(rungs)
    .fetch_all(connection)
    .await
    .during("lease jobs")?;
    rows.into_iter()
        .map(|(sweep, priority, leased)| {
            let what = || format!("the job counts of sweep {sweep}");
            Ok(Candidate {
                sweep: SweepId(sweep),
                priority: sweeps::read_priority(priority, SweepId(sweep))?,
                leased: columns::wide(leased, what)?,
            })
        })
        .collect()
}

/// Ready jobs of one sweep.
#[derive(Clone, Copy)]
struct SweepJobs<'r> {
    sweep: SweepId,
    /// A JSON array.
    rungs: &'r str,
    wanted: usize,
}

async fn claim_of_sweep(
    connection: &mut SqliteConnection,
    claim: &LeaseClaim,
    now: Timestamp,
    from: SweepJobs<'_>,
) -> Result<Vec<JobRow>, StoreError> {
    // The first jobs of every rung straight from the index of ready jobs, then the first of those.
    // `+?2`: SQLite would compile the statement anew for every value of a plain parameter in LIMIT.
    let rows: Vec<(i64, i64, i64, Vec<u8>, String, i64, i64, i64, i64)> = sqlx::query_as(
        "UPDATE jobs SET state = 'leased', attempt = attempt + 1, token = ?3, expires = ?4, worker = ?5,
                         leased_at = ?6
         WHERE id IN (
             SELECT job.id
             FROM json_each(?1) AS rung CROSS JOIN jobs AS job
               ON job.id IN (
                   SELECT first.id FROM jobs AS first
                   WHERE first.sweep = ?7 AND first.rung = rung.value AND first.state = 'ready'
                   ORDER BY first.priority DESC, first.id LIMIT +?2
               )
             ORDER BY job.priority DESC, job.id LIMIT +?2
         )
         RETURNING id, sweep, point, (SELECT ticks FROM points WHERE points.id = jobs.point), rung,
                   slice_start, slice_end, attempt, priority",
    )
    .bind(from.rungs)
    .bind(from.wanted as i64)
    .bind(claim.token.as_bytes().as_slice())
    .bind(now.plus(claim.duration).0)
    .bind(&claim.worker.0)
    .bind(now.0)
    .bind(from.sweep.0)
    .fetch_all(connection)
    .await
    .during("lease jobs")?;
    let mut jobs = rows
        .into_iter()
        .map(|(id, sweep, point, ticks, rung, start, end, attempt, priority)| {
            Ok((-priority, JobRow::read((id, sweep, point, ticks, rung, start, end, attempt))?))
        })
        .collect::<Result<Vec<_>, StoreError>>()?;
    jobs.sort_by_key(|(order, job)| (*order, job.id));
    Ok(jobs.into_iter().map(|(_, job)| job).collect())
}

/// The job as it goes to the worker; `None` when it lacks nothing, then it is closed.
async fn hand_out(
    connection: &mut SqliteConnection,
    claim: &LeaseClaim,
    now: Timestamp,
    layout: &SweepLayout,
    job: &JobRow,
    Lacking { ordinals, responses }: Lacking,
) -> Result<Option<LeasedJob>, StoreError> {
    let reference = LeaseRef { job: job.id, attempt: job.attempt, token: claim.token };
    if ordinals.is_empty() {
        close(connection, &reference).await?;
        return Ok(None);
    }
    Ok(Some(LeasedJob {
        lease: Lease { reference, expires: now.plus(claim.duration) },
        sweep: job.sweep,
        sweep_fingerprint: layout.fingerprint,
        rung: job.rung,
        point: codec::read_ticks(&job.ticks)
            .map_err(|error| StoreError::corrupt(format!("point {}", job.point), error))?,
        ordinals,
        responses,
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

    async fn scores(
        connection: &mut SqliteConnection,
        layout: &SweepLayout,
        job: &JobRow,
    ) -> Result<Self, StoreError> {
        let scores = results::scores(connection, job.point, layout.levels).await?;
        Ok(Self::new(&layout.missing(job.slice, |query| scores.contains_key(&query))))
    }

    async fn responses(
        connection: &mut SqliteConnection,
        layout: &SweepLayout,
        job: &JobRow,
    ) -> Result<Self, StoreError> {
        let decoded = Decoded { point: job.point, decoding: layout.decoding };
        let hashes = results::response_hashes(connection, decoded).await?;
        Ok(Self::new(&layout.missing(job.slice, |query| hashes.contains_key(&query))))
    }

    /// Looks for verdicts on the same texts first.
    async fn verdicts(
        store: &SqliteStore,
        connection: &mut SqliteConnection,
        layout: &SweepLayout,
        job: &JobRow,
    ) -> Result<Self, StoreError> {
        let decoded = Decoded { point: job.point, decoding: layout.decoding };
        let mut transaction = begin(connection, "look up verdicts").await?;
        let queries = point_results::queries_of(layout, job.slice);
        let found = results::resolve_verdicts(&mut transaction, decoded, layout.judge, &queries).await?;
        if found > 0 {
            let point = job.stored_point();
            tallying::refresh_judgement_everywhere(store, &mut transaction, point, layout).await?;
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

/// Marks a job as done, whose lease is held.
async fn close(connection: &mut SqliteConnection, lease: &LeaseRef) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE jobs SET state = 'done', token = NULL, expires = NULL
         WHERE id = ?1 AND attempt = ?2 AND token = ?3 AND state = 'leased'",
    )
    .bind(lease.job.0)
    .bind(i64::from(lease.attempt))
    .bind(lease.token.as_bytes().as_slice())
    .execute(connection)
    .await
    .during("close a job")?;
    Ok(())
}
