//! Reading: results by page and by point, jobs by state.

use std::collections::HashMap;

use avsweep_domain::{JobId, JobState, Point, QuerySlice, Rung, SweepId, WorkerId};
use sqlx::postgres::PgConnection;
use sqlx::{Postgres, QueryBuilder};

use super::connection::{PostgresStore, call, snapshot};
use super::{results, sweeps};
use crate::columns::{narrow, wide};
use crate::error::During;
use crate::layout::SweepLayout;
use crate::point_results;
use crate::point_results::{Decoded, PointResults};
use crate::{JobFilter, JobRecord, JobStatus, NewJob, ResultPage, ResultRow, StoreError, Timestamp, codec};

/// See [`crate::Store::results`].
pub(super) async fn results(
    store: &PostgresStore,
    sweep: SweepId,
    after: Option<&Point>,
    points: u32,
) -> Result<ResultPage, StoreError> {
    call!(store, "read results", |connection| results_once(store, connection, sweep, after, points))
}

async fn results_once(
    store: &PostgresStore,
    connection: &mut PgConnection,
    sweep: SweepId,
    after: Option<&Point>,
    points: u32,
) -> Result<ResultPage, StoreError> {
    const OPERATION: &str = "read results";
    let mut snapshot = snapshot(connection, OPERATION).await?;
    let layout = sweeps::present(store, &mut snapshot, sweep).await?;
    // The empty string of bytes is below every point.
    let page: Vec<(i64, Vec<u8>)> = sqlx::query_as(
        "SELECT point, ticks FROM sweep_points WHERE sweep = $1 AND ticks > $2 ORDER BY ticks LIMIT $3",
    )
    .bind(sweep.0)
    .bind(after.map(codec::ticks).unwrap_or_default())
    .bind(i64::from(points))
    .fetch_all(&mut *snapshot)
    .await
    .during(OPERATION)?;
    if page.is_empty() {
        return Ok(ResultPage::default());
    }
    let ids: Vec<i64> = page.iter().map(|(id, _)| *id).collect();
    let mut found = page_results(&mut snapshot, &layout, &ids).await?;
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

/// Everything stored at some points.
async fn page_results(
    connection: &mut PgConnection,
    layout: &SweepLayout,
    points: &[i64],
) -> Result<HashMap<i64, PointResults>, StoreError> {
    const OPERATION: &str = "read results";
    let mut found: HashMap<i64, PointResults> = HashMap::new();
    let blocks: Vec<(i64, Vec<u8>)> = sqlx::query_as(
        "SELECT b.point, b.scores
         FROM unnest($1::bigint[]) AS wanted (point) JOIN score_blocks AS b ON b.point = wanted.point",
    )
    .bind(points)
    .fetch_all(&mut *connection)
    .await
    .during(OPERATION)?;
    for (point, block) in &blocks {
        let results = found.entry(*point).or_default();
        point_results::read_block(*point, block, layout.levels, &mut results.scores)?;
    }
    let responses: Vec<(i64, i64, i64, String, Vec<u8>)> = sqlx::query_as(
        "SELECT r.point, r.query, r.tokens, r.finish, r.text
         FROM unnest($1::bigint[]) AS wanted (point)
         JOIN responses AS r ON r.point = wanted.point AND r.decoding = $2",
    )
    .bind(points)
    .bind(layout.decoding)
    .fetch_all(&mut *connection)
    .await
    .during(OPERATION)?;
    for (point, query, tokens, finish, text) in responses {
        let response = results::read_response(point, tokens, &finish, text)?;
        found.entry(point).or_default().responses.insert(query, response);
    }
    let verdicts: Vec<(i64, i64, i64, Option<f64>, Option<Vec<u8>>)> = sqlx::query_as(
        "SELECT p.point, p.query, v.label, v.confidence, v.reason
         FROM unnest($1::bigint[]) AS wanted (point)
         JOIN point_verdicts AS p ON p.point = wanted.point AND p.decoding = $2 AND p.judge = $3
         JOIN verdicts AS v ON v.id = p.verdict",
    )
    .bind(points)
    .bind(layout.decoding)
    .bind(layout.judge)
    .fetch_all(connection)
    .await
    .during(OPERATION)?;
    for (point, query, label, confidence, reason) in verdicts {
        let verdict = results::read_verdict(point, label, confidence, reason)?;
        found.entry(point).or_default().verdicts.insert(query, verdict);
    }
    Ok(found)
}

/// See [`crate::Store::point_results`].
pub(super) async fn point_results(
    store: &PostgresStore,
    sweep: SweepId,
    point: &Point,
    ordinals: &[u32],
) -> Result<Vec<ResultRow>, StoreError> {
    call!(store, "read the results of a point", |connection| {
        point_results_once(store, connection, sweep, point, ordinals)
    })
}

async fn point_results_once(
    store: &PostgresStore,
    connection: &mut PgConnection,
    sweep: SweepId,
    point: &Point,
    ordinals: &[u32],
) -> Result<Vec<ResultRow>, StoreError> {
    const OPERATION: &str = "read the results of a point";
    let mut snapshot = snapshot(connection, OPERATION).await?;
    let layout = sweeps::present(store, &mut snapshot, sweep).await?;
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
    connection: &mut PgConnection,
    sweep: SweepId,
    point: &Point,
) -> Result<Option<i64>, StoreError> {
    let row: Option<(i64,)> =
        sqlx::query_as("SELECT point FROM sweep_points WHERE sweep = $1 AND ticks = $2")
            .bind(sweep.0)
            .bind(codec::ticks(point))
            .fetch_optional(connection)
            .await
            .during("find a point")?;
    Ok(row.map(|(id,)| id))
}

/// See [`crate::Store::point_jobs`].
pub(super) async fn point_jobs(
    store: &PostgresStore,
    sweep: SweepId,
    point: &Point,
) -> Result<Vec<JobStatus>, StoreError> {
    call!(store, "read the jobs of a point", |connection| point_jobs_once(store, connection, sweep, point))
}

async fn point_jobs_once(
    store: &PostgresStore,
    connection: &mut PgConnection,
    sweep: SweepId,
    point: &Point,
) -> Result<Vec<JobStatus>, StoreError> {
    const OPERATION: &str = "read the jobs of a point";
    let mut snapshot = snapshot(connection, OPERATION).await?;
    sweeps::present(store, &mut snapshot, sweep).await?;
    let Some(id) = point_of(&mut snapshot, sweep, point).await? else {
        return Ok(Vec::new());
    };
    let rows: Vec<(i64, String, i64, i64, String, Option<String>)> = sqlx::query_as(
        "SELECT id, rung, slice_start, slice_end, state, last_error FROM jobs WHERE sweep = $1 AND point = $2",
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

#[derive(sqlx::FromRow)]
struct NewJobColumns {
    id: i64,
    ticks: Vec<u8>,
    rung: String,
    slice_start: i64,
    slice_end: i64,
    priority: i32,
}

impl NewJobColumns {
    fn read(self) -> Result<NewJob, StoreError> {
        let what = || format!("job {}", self.id);
        Ok(NewJob {
            point: codec::read_ticks(&self.ticks).map_err(|error| StoreError::corrupt(what(), error))?,
            rung: self.rung.parse().map_err(|problem: String| StoreError::corrupt(what(), problem))?,
            slice: QuerySlice { start: narrow(self.slice_start, what)?, end: narrow(self.slice_end, what)? },
            priority: self.priority,
        })
    }
}

/// See [`crate::Store::unjudged`].
pub(super) async fn unjudged(store: &PostgresStore, sweep: SweepId) -> Result<Vec<NewJob>, StoreError> {
    const OPERATION: &str = "find jobs to judge";
    let rows: Vec<NewJobColumns> = call!(store, OPERATION, |connection| async move {
        sweeps::present(store, connection, sweep).await?;
        sqlx::query_as(
            "SELECT j.id, p.ticks, j.rung, j.slice_start, j.slice_end, j.priority
             FROM jobs AS j JOIN points AS p ON p.id = j.point
             WHERE j.sweep = $1 AND j.rung = 'generation' AND j.state = 'done' AND NOT j.judged
             ORDER BY j.id",
        )
        .bind(sweep.0)
        .fetch_all(connection)
        .await
        .during(OPERATION)
    })?;
    rows.into_iter().map(NewJobColumns::read).collect()
}

#[derive(sqlx::FromRow)]
struct JobColumns {
    #[sqlx(flatten)]
    new: NewJobColumns,
    sweep: i64,
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
        let id = self.new.id;
        let what = || format!("job {id}");
        Ok(JobRecord {
            id: JobId(id),
            sweep: SweepId(self.sweep),
            job: self.new.read()?,
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
pub(super) async fn jobs(store: &PostgresStore, filter: &JobFilter) -> Result<Vec<JobRecord>, StoreError> {
    let rows = call!(store, "list jobs", |connection| jobs_once(connection, filter))?;
    rows.into_iter().map(JobColumns::read).collect()
}

async fn jobs_once(connection: &mut PgConnection, filter: &JobFilter) -> Result<Vec<JobColumns>, StoreError> {
    let mut query = QueryBuilder::<Postgres>::new(
        "SELECT j.id, j.sweep, p.ticks, j.rung, j.slice_start, j.slice_end, j.priority, j.state, j.attempt,
                j.worker, j.expires, j.lost, j.errors, j.last_error
         FROM jobs AS j JOIN points AS p ON p.id = j.point WHERE TRUE",
    );
    // Parked and leased jobs are few among many, and have indexes of their own: the condition must be a constant.
    match filter.states[..] {
        [JobState::Parked] => {
            query.push(" AND j.state = 'parked'");
        }
        [JobState::Leased] => {
            query.push(" AND j.state = 'leased'");
        }
        [] => {}
        _ => {
            let states: Vec<&str> = filter.states.iter().map(|state| state.as_str()).collect();
            query.push(" AND j.state = ANY (").push_bind(states).push(")");
        }
    }
    if let Some(sweep) = filter.sweep {
        query.push(" AND j.sweep = ").push_bind(sweep.0);
    }
    if let Some(after) = filter.after {
        query.push(" AND j.id > ").push_bind(after.0);
    }
    query.push(" ORDER BY j.id LIMIT ").push_bind(i64::from(filter.limit));
    query.build_query_as().fetch_all(connection).await.during("list jobs")
}

/// See [`crate::Store::ready_jobs`].
pub(super) async fn ready_jobs(store: &PostgresStore, rungs: &[Rung]) -> Result<u64, StoreError> {
    const OPERATION: &str = "count ready jobs";
    let rungs: Vec<&str> = rungs.iter().map(|rung| rung.as_str()).collect();
    let (jobs,): (i64,) = call!(store, OPERATION, |connection| async {
        sqlx::query_as(
            "SELECT coalesce(sum(c.ready), 0)::bigint
             FROM sweeps AS s JOIN sweep_counts AS c ON c.sweep = s.id
             WHERE s.state = 'running' AND c.rung = ANY ($1)",
        )
        .bind(&rungs)
        .fetch_one(connection)
        .await
        .during(OPERATION)
    })?;
    wide(jobs, || "the count of ready jobs".to_owned())
}
