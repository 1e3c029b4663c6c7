//! Reading: results by page and by point, jobs by state.

use std::collections::HashMap;

use avsweep_domain::{JobId, JobState, Point, QuerySlice, Rung, SweepId, WorkerId};
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, QueryBuilder, Sqlite};

use super::connection::SqliteStore;
use super::{results, sweeps};
use crate::columns::{narrow, wide};
use crate::error::During;
use crate::layout::SweepLayout;
use crate::point_results;
use crate::point_results::{Decoded, PointResults};
use crate::{JobFilter, JobRecord, JobStatus, NewJob, ResultPage, ResultRow, StoreError, Timestamp, codec};

/// See [`crate::Store::results`].
pub(super) async fn results(
    store: &SqliteStore,
    sweep: SweepId,
    after: Option<&Point>,
    points: u32,
) -> Result<ResultPage, StoreError> {
    const OPERATION: &str = "read results";
    let mut reader = store.reader().await?;
    let mut snapshot = reader.begin().await.during(OPERATION)?;
    let layout = sweeps::layout(store, &mut snapshot, sweep).await?;
    // The empty blob is below every point.
    let after = after.map(codec::ticks).unwrap_or_default();
    let page: Vec<(i64, Vec<u8>)> = sqlx::query_as(
        "SELECT point, ticks FROM sweep_points WHERE sweep = ?1 AND ticks > ?2 ORDER BY ticks LIMIT +?3",
    )
    .bind(sweep.0)
    .bind(&after)
    .bind(i64::from(points))
    .fetch_all(&mut *snapshot)
    .await
    .during(OPERATION)?;
    let Some((_, until)) = page.last() else {
        return Ok(ResultPage::default());
    };
    let range = PageRange { sweep, after, until: until.clone() };
    let mut found = page_results(&mut snapshot, &layout, &range).await?;
    snapshot.commit().await.during(OPERATION)?;

    let mut rows = Vec::new();
    let mut last = None;
    for (id, ticks) in &page {
        let point =
            codec::read_ticks(ticks).map_err(|error| StoreError::corrupt(format!("point {id}"), error))?;
        if let Some(results) = found.remove(id) {
            rows.extend(results.rows(&layout, &point, |_| true));
        }
        last = Some(point);
    }
    Ok(ResultPage { rows, last })
}

/// The points of a sweep after some ticks, up to and with others.
struct PageRange {
    sweep: SweepId,
    after: Vec<u8>,
    until: Vec<u8>,
}

async fn page_results(
    connection: &mut SqliteConnection,
    layout: &SweepLayout,
    range: &PageRange,
) -> Result<HashMap<i64, PointResults>, StoreError> {
    const OPERATION: &str = "read results";
    let mut found: HashMap<i64, PointResults> = HashMap::new();
    let blocks: Vec<(i64, Vec<u8>)> = sqlx::query_as(
        "SELECT b.point, b.scores
         FROM sweep_points AS s CROSS JOIN score_blocks AS b ON b.point = s.point
         WHERE s.sweep = ?1 AND s.ticks > ?2 AND s.ticks <= ?3
         ORDER BY b.id",
    )
    .bind(range.sweep.0)
    .bind(&range.after)
    .bind(&range.until)
    .fetch_all(&mut *connection)
    .await
    .during(OPERATION)?;
    for (point, block) in &blocks {
        point_results::read_block(
            *point,
            block,
            layout.levels,
            &mut found.entry(*point).or_default().scores,
        )?;
    }
    let responses: Vec<(i64, i64, i64, String, String)> = sqlx::query_as(
        "SELECT r.point, r.query, r.tokens, r.finish, r.text
         FROM sweep_points AS s CROSS JOIN responses AS r ON r.point = s.point AND r.decoding = ?4
         WHERE s.sweep = ?1 AND s.ticks > ?2 AND s.ticks <= ?3",
    )
    .bind(range.sweep.0)
    .bind(&range.after)
    .bind(&range.until)
    .bind(layout.decoding)
    .fetch_all(&mut *connection)
    .await
    .during(OPERATION)?;
    for (point, query, tokens, finish, text) in responses {
        let response = point_results::read_response(point, tokens, &finish, text)?;
        found.entry(point).or_default().responses.insert(query, response);
    }
    let verdicts: Vec<(i64, i64, i64, Option<f64>, Option<String>)> = sqlx::query_as(
        "SELECT p.point, p.query, v.label, v.confidence, v.reason
         FROM sweep_points AS s
         CROSS JOIN point_verdicts AS p ON p.point = s.point AND p.decoding = ?4 AND p.judge = ?5
         CROSS JOIN verdicts AS v ON v.id = p.verdict
         WHERE s.sweep = ?1 AND s.ticks > ?2 AND s.ticks <= ?3",
    )
    .bind(range.sweep.0)
    .bind(&range.after)
    .bind(&range.until)
    .bind(layout.decoding)
    .bind(layout.judge)
    .fetch_all(&mut *connection)
    .await
    .during(OPERATION)?;
    for (point, query, label, confidence, reason) in verdicts {
        let verdict = point_results::read_verdict(point, label, confidence, reason)?;
        found.entry(point).or_default().verdicts.insert(query, verdict);
    }
    Ok(found)
}

/// See [`crate::Store::point_results`].
pub(super) async fn point_results(
    store: &SqliteStore,
    sweep: SweepId,
    point: &Point,
    ordinals: &[u32],
) -> Result<Vec<ResultRow>, StoreError> {
    const OPERATION: &str = "read the results of a point";
    let mut reader = store.reader().await?;
    let mut snapshot = reader.begin().await.during(OPERATION)?;
    let layout = sweeps::layout(store, &mut snapshot, sweep).await?;
    let Some(id) = point_of(&mut snapshot, sweep, point).await? else {
        return Ok(Vec::new());
    };
    let decoded = Decoded { point: id, decoding: layout.decoding };
    let found = PointResults {
        scores: results::scores(&mut snapshot, id, layout.levels).await?,
        responses: results::responses(&mut snapshot, decoded).await?,
        verdicts: results::verdicts(&mut snapshot, decoded, layout.judge).await?,
    };
    snapshot.commit().await.during(OPERATION)?;
    Ok(found.rows(&layout, point, |ordinal| ordinals.is_empty() || ordinals.contains(&ordinal)))
}

/// The number of a sweep's point; `None` when the sweep does not have it.
async fn point_of(
    connection: &mut SqliteConnection,
    sweep: SweepId,
    point: &Point,
) -> Result<Option<i64>, StoreError> {
    let row: Option<(i64,)> =
        sqlx::query_as("SELECT point FROM sweep_points WHERE sweep = ?1 AND ticks = ?2")
            .bind(sweep.0)
            .bind(codec::ticks(point))
            .fetch_optional(connection)
            .await
            .during("find a point")?;
    Ok(row.map(|(id,)| id))
}

/// See [`crate::Store::point_jobs`].
pub(super) async fn point_jobs(
    store: &SqliteStore,
    sweep: SweepId,
    point: &Point,
) -> Result<Vec<JobStatus>, StoreError> {
    const OPERATION: &str = "read the jobs of a point";
    let mut reader = store.reader().await?;
    let mut snapshot = reader.begin().await.during(OPERATION)?;
    sweeps::layout(store, &mut snapshot, sweep).await?;
    let Some(id) = point_of(&mut snapshot, sweep, point).await? else {
        return Ok(Vec::new());
    };
    let rows: Vec<(i64, String, i64, i64, String, Option<String>)> = sqlx::query_as(
        "SELECT id, rung, slice_start, slice_end, state, last_error FROM jobs WHERE sweep = ?1 AND point = ?2",
    )
    .bind(sweep.0)
    .bind(id)
    .fetch_all(&mut *snapshot)
    .await
    .during(OPERATION)?;
    snapshot.commit().await.during(OPERATION)?;
    let mut jobs = rows
        .into_iter()
        .map(|(id, rung, start, end, state, last_error)| {
            let what = || format!("job {id}");
            let corrupt = |problem: String| StoreError::corrupt(what(), problem);
            Ok(JobStatus {
                id: JobId(id),
                rung: rung.parse().map_err(corrupt)?,
                slice: QuerySlice { start: narrow(start, what)?, end: narrow(end, what)? },
                state: state.parse::<JobState>().map_err(corrupt)?,
                last_error,
            })
        })
        .collect::<Result<Vec<_>, StoreError>>()?;
    jobs.sort_by_key(|job| (job.rung, job.slice.start, job.slice.end));
    Ok(jobs)
}

/// A job to be, from the columns ticks, rung, slice_start, slice_end, priority.
fn read_new_job(id: i64, columns: (Vec<u8>, String, i64, i64, i64)) -> Result<NewJob, StoreError> {
    let (ticks, rung, start, end, priority) = columns;
    let what = || format!("job {id}");
    Ok(NewJob {
        point: codec::read_ticks(&ticks).map_err(|error| StoreError::corrupt(what(), error))?,
        rung: rung.parse().map_err(|problem: String| StoreError::corrupt(what(), problem))?,
        slice: QuerySlice { start: narrow(start, what)?, end: narrow(end, what)? },
        priority: i32::try_from(priority)
            .map_err(|_| StoreError::corrupt(what(), format!("priority {priority} is out of range")))?,
    })
}

/// See [`crate::Store::unjudged`].
pub(super) async fn unjudged(store: &SqliteStore, sweep: SweepId) -> Result<Vec<NewJob>, StoreError> {
    let mut reader = store.reader().await?;
    sweeps::layout(store, &mut reader, sweep).await?;
    let rows: Vec<(i64, Vec<u8>, String, i64, i64, i64)> = sqlx::query_as(
        "SELECT j.id, p.ticks, j.rung, j.slice_start, j.slice_end, j.priority
         FROM jobs AS j INDEXED BY jobs_unjudged JOIN points AS p ON p.id = j.point
         WHERE j.sweep = ?1 AND j.rung = 'generation' AND j.state = 'done' AND j.judged = 0
         ORDER BY j.id",
    )
    .bind(sweep.0)
    .fetch_all(&mut *reader)
    .await
    .during("find jobs to judge")?;
    rows.into_iter()
        .map(|(id, ticks, rung, start, end, priority)| read_new_job(id, (ticks, rung, start, end, priority)))
        .collect()
}

#[derive(sqlx::FromRow)]
struct JobColumns {
    id: i64,
    sweep: i64,
    ticks: Vec<u8>,
    rung: String,
    slice_start: i64,
    slice_end: i64,
    priority: i64,
    state: String,
    attempt: i64,
    worker: Option<String>,
    expires: Option<i64>,
    lost: i64,
    errors: i64,
    last_error: Option<String>,
}

impl JobColumns {
    fn read(self) -> Result<JobRecord, StoreError> {
        let id = self.id;
        let what = || format!("job {id}");
        let new = (self.ticks, self.rung, self.slice_start, self.slice_end, self.priority);
        Ok(JobRecord {
            id: JobId(id),
            sweep: SweepId(self.sweep),
            job: read_new_job(id, new)?,
            state: self.state.parse().map_err(|problem: String| StoreError::corrupt(what(), problem))?,
            attempt: narrow(self.attempt, what)?,
            worker: self.worker.map(WorkerId),
            expires: self.expires.map(Timestamp),
            lost: narrow(self.lost, what)?,
            errors: narrow(self.errors, what)?,
            last_error: self.last_error,
        })
    }
}

/// See [`crate::Store::jobs`].
pub(super) async fn jobs(store: &SqliteStore, filter: &JobFilter) -> Result<Vec<JobRecord>, StoreError> {
    // Parked and leased jobs are few among many, and have indexes of their own.
    let source = match filter.states[..] {
        [JobState::Parked] => {
            "INDEXED BY jobs_parked CROSS JOIN points AS p ON p.id = j.point WHERE j.state = 'parked'"
        }
        [JobState::Leased] => {
            "INDEXED BY jobs_leased CROSS JOIN points AS p ON p.id = j.point WHERE j.state = 'leased'"
        }
        _ => "CROSS JOIN points AS p ON p.id = j.point WHERE true",
    };
    let mut query = QueryBuilder::<Sqlite>::new(
        "SELECT j.id, j.sweep, p.ticks, j.rung, j.slice_start, j.slice_end, j.priority, j.state, j.attempt,
                j.worker, j.expires, j.lost, j.errors, j.last_error
         FROM jobs AS j ",
    );
    query.push(source);
    if filter.states.len() > 1
        || matches!(filter.states[..], [JobState::Ready | JobState::Done | JobState::Raced])
    {
        query.push(" AND j.state IN (");
        let mut list = query.separated(", ");
        for state in &filter.states {
            list.push_bind(state.as_str());
        }
        query.push(")");
    }
    if let Some(sweep) = filter.sweep {
        query.push(" AND j.sweep = ").push_bind(sweep.0);
    }
    if let Some(after) = filter.after {
        query.push(" AND j.id > ").push_bind(after.0);
    }
    query.push(" ORDER BY j.id LIMIT ").push_bind(i64::from(filter.limit));
    let mut reader = store.reader().await?;
    let rows: Vec<JobColumns> = query.build_query_as().fetch_all(&mut *reader).await.during("list jobs")?;
    rows.into_iter().map(JobColumns::read).collect()
}

/// See [`crate::Store::ready_jobs`].
pub(super) async fn ready_jobs(store: &SqliteStore, rungs: &[Rung]) -> Result<u64, StoreError> {
    let mut reader = store.reader().await?;
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "SELECT c.rung, sum(c.jobs)
         FROM sweeps AS s JOIN job_counts AS c ON c.sweep = s.id
         WHERE s.state = 'running' AND c.state = 'ready'
         GROUP BY c.rung",
    )
    .fetch_all(&mut *reader)
    .await
    .during("count ready jobs")?;
    let mut sum = 0;
    for (rung, jobs) in rows {
        let jobs = wide(jobs, || "the count of ready jobs".to_owned())?;
        if rungs.iter().any(|wanted| wanted.as_str() == rung) {
            sum += jobs;
        }
    }
    Ok(sum)
}
