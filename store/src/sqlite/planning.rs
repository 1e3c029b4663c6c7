//! Planning: points and jobs in, with what is stored already taken into account.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use avsweep_domain::{JobState, Point, Rung, SweepId};
use sqlx::sqlite::SqliteConnection;

use super::connection::{SqliteStore, begin};
use super::tallying::StoredPoint;
use super::{guards, results, searching, sweeps, tallying};
use crate::error::{During, PlanProblem};
use crate::layout::SweepLayout;
use crate::point_results;
use crate::point_results::{Decoded, Scores};
use crate::{NewJob, Plan, Planned, PlanningGuard, StoreError, Timestamp, check, codec};

const OPERATION: &str = "plan jobs";
/// Jobs of one round: bounds what is held in memory at once, not the plan.
const JOBS_AT_ONCE: usize = 512;

/// See [`crate::Store::plan`].
pub(super) async fn plan(
    store: &SqliteStore,
    sweep: SweepId,
    plan: &Plan,
    guard: Option<&PlanningGuard>,
    now: Timestamp,
) -> Result<Planned, StoreError> {
    let mut writer = store.writer(OPERATION).await?;
    let mut transaction = begin(&mut writer, OPERATION).await?;
    sweeps::exists(&mut transaction, sweep).await?;
    if let Some(guard) = guard {
        guards::check(&mut transaction, sweep, guard, now).await?;
    }
    let layout = sweeps::layout(store, &mut transaction, sweep).await?;
    plan.jobs.iter().try_for_each(|job| check::job(sweep, &layout, job))?;
    let mut planned = Planned::default();
    for jobs in plan.jobs.chunks(JOBS_AT_ONCE) {
        let mut round =
            Round { store, layout: &layout, connection: &mut transaction, scores: HashMap::new() };
        let points = round.add_points(jobs, &mut planned).await?;
        round.add_jobs(jobs, &points, &mut planned).await?;
    }
    if let Some(choice) = &plan.choice {
        searching::write_choice(&mut transaction, sweep, choice).await?;
    }
    sqlx::query("UPDATE sweep_totals SET points = points + ?2 WHERE sweep = ?1")
        .bind(sweep.0)
        .bind(planned.new_points as i64)
        .execute(&mut *transaction)
        .await
        .during(OPERATION)?;
    transaction.commit().await.during(OPERATION)?;
    Ok(planned)
}

/// A point of the plan as it was before.
#[derive(Clone, Copy, Debug)]
struct PlannedPoint {
    id: i64,
    answered: bool,
}

type Points<'p> = HashMap<&'p Point, PlannedPoint>;

struct Round<'r> {
    store: &'r SqliteStore,
    layout: &'r Arc<SweepLayout>,
    connection: &'r mut SqliteConnection,
    /// The scores of those of the round's points that have any.
    scores: HashMap<i64, Scores>,
}

impl Round<'_> {
    /// Adds the jobs' points; those that have results already get their tallies.
    async fn add_points<'p>(
        &mut self,
        jobs: &'p [NewJob],
        planned: &mut Planned,
    ) -> Result<Points<'p>, StoreError> {
        let mut distinct: Vec<&Point> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for job in jobs {
            if seen.insert(&job.point) {
                distinct.push(&job.point);
            }
        }
        let mut ticks = Vec::with_capacity(distinct.len() * codec::ticks_width(self.layout.dimensions));
        distinct.iter().for_each(|point| codec::push_ticks(point, &mut ticks));
        let width = codec::ticks_width(self.layout.dimensions);

        // In each: ?1 the sweep, ?2 the recipe, ?3 the ticks one after another, ?4 bytes each; ?5 how many.
        sqlx::query(
            "WITH RECURSIVE series (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM series WHERE i + 1 < ?5)
             INSERT INTO points (recipe, ticks) SELECT ?2, substr(?3, 1 + ?4 * i, ?4) FROM series WHERE true
             ON CONFLICT DO NOTHING",
        )
        .bind(self.layout.id.0)
        .bind(self.layout.recipe)
        .bind(&ticks)
        .bind(width as i64)
        .bind(distinct.len() as i64)
        .execute(&mut *self.connection)
        .await
        .during(OPERATION)?;
        let rows: Vec<(i64, bool, bool, bool)> = sqlx::query_as(
            "WITH RECURSIVE series (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM series WHERE i + 1 < ?5)
             SELECT p.id,
                    EXISTS (SELECT 1 FROM sweep_points AS s WHERE s.sweep = ?1 AND s.ticks = p.ticks),
                    EXISTS (SELECT 1 FROM score_blocks AS b WHERE b.point = p.id),
                    EXISTS (SELECT 1 FROM responses AS r WHERE r.point = p.id)
             FROM series CROSS JOIN points AS p ON p.recipe = ?2 AND p.ticks = substr(?3, 1 + ?4 * i, ?4)
             ORDER BY i",
        )
        .bind(self.layout.id.0)
        .bind(self.layout.recipe)
        .bind(&ticks)
        .bind(width as i64)
        .bind(distinct.len() as i64)
        .fetch_all(&mut *self.connection)
        .await
        .during(OPERATION)?;
        let done = sqlx::query(
            "WITH RECURSIVE series (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM series WHERE i + 1 < ?5)
             INSERT INTO sweep_points (sweep, ticks, point)
             SELECT ?1, p.ticks, p.id
             FROM series CROSS JOIN points AS p ON p.recipe = ?2 AND p.ticks = substr(?3, 1 + ?4 * i, ?4)
             WHERE true
             ON CONFLICT DO NOTHING",
        )
        .bind(self.layout.id.0)
        .bind(self.layout.recipe)
        .bind(&ticks)
        .bind(width as i64)
        .bind(distinct.len() as i64)
        .execute(&mut *self.connection)
        .await
        .during(OPERATION)?;
        planned.new_points += done.rows_affected();

        let scored: Vec<i64> = rows.iter().filter(|row| row.2).map(|row| row.0).collect();
        self.read_scores(&scored).await?;
        if rows.len() != distinct.len() {
            return Err(StoreError::corrupt("the points", "a point that was just written is not there"));
        }
        let mut points = Points::with_capacity(distinct.len());
        for ((point, ticks), (id, in_sweep, _, answered)) in
            distinct.into_iter().zip(ticks.chunks(width)).zip(rows)
        {
            points.insert(point, PlannedPoint { id, answered });
            if !in_sweep {
                self.tally_anew(StoredPoint { id, ticks }, answered).await?;
            }
        }
        Ok(points)
    }

    async fn read_scores(&mut self, points: &[i64]) -> Result<(), StoreError> {
        if points.is_empty() {
            return Ok(());
        }
        let blocks: Vec<(i64, Vec<u8>)> = sqlx::query_as(
            "SELECT b.point, b.scores
             FROM json_each(?1) AS wanted CROSS JOIN score_blocks AS b ON b.point = wanted.value
             ORDER BY b.id",
        )
        .bind(results::json_numbers(points))
        .fetch_all(&mut *self.connection)
        .await
        .during(OPERATION)?;
        for (point, block) in &blocks {
            let scores = self.scores.entry(*point).or_default();
            point_results::read_block(*point, block, self.layout.levels, scores)?;
        }
        Ok(())
    }

    /// Gives a point that is new to the sweep the tallies of what other sweeps found there.
    async fn tally_anew(&mut self, point: StoredPoint<'_>, answered: bool) -> Result<(), StoreError> {
        let layouts = std::slice::from_ref(self.layout);
        if let Some(scores) = self.scores.get(&point.id) {
            tallying::refresh_likelihood(self.connection, point, layouts, scores).await?;
        }
        if answered {
            let kind = (self.layout.decoding, self.layout.judge);
            let decoded = Decoded { point: point.id, decoding: kind.0 };
            let verdicts = results::verdicts(self.connection, decoded, kind.1).await?;
            tallying::refresh_judgement(self.connection, point, layouts, kind, &verdicts).await?;
        }
        Ok(())
    }

    /// Adds the jobs: those that lack nothing as done, the others as ready.
    async fn add_jobs(
        &mut self,
        jobs: &[NewJob],
        points: &Points<'_>,
        planned: &mut Planned,
    ) -> Result<(), StoreError> {
        let (mut ready, mut done) = (JobList::default(), JobList::default());
        for job in jobs {
            let Some(point) = points.get(&job.point) else {
                continue;
            };
            let covered = match job.rung {
                Rung::Likelihood => match self.scores.get(&point.id) {
                    Some(scores) => self.covers(job, |query| scores.contains_key(&query)),
                    None => false,
                },
                Rung::Generation => {
                    point.answered && {
                        let decoded = Decoded { point: point.id, decoding: self.layout.decoding };
                        let known = results::response_hashes(self.connection, decoded).await?;
                        self.covers(job, |query| known.contains_key(&query))
                    }
                }
                Rung::Judgement => self.judged(job, *point).await?,
            };
            if covered { &mut done } else { &mut ready }.push(point.id, job);
        }
        planned.new_jobs += self.insert(ready, JobState::Ready).await?;
        planned.reused_jobs += self.insert(done, JobState::Done).await?;
        Ok(())
    }

    fn covers(&self, job: &NewJob, has: impl Fn(i64) -> bool) -> bool {
        self.layout.missing(job.slice, has).is_empty()
    }

    /// Whether every response of a judgement job has its verdict, here or under the same text elsewhere.
    async fn judged(&mut self, job: &NewJob, point: PlannedPoint) -> Result<bool, StoreError> {
        let layout = self.layout;
        let decoded = Decoded { point: point.id, decoding: layout.decoding };
        let answered = results::response_hashes(self.connection, decoded).await?;
        if let Some((ordinal, _)) = layout.missing(job.slice, |query| answered.contains_key(&query)).first() {
            return Err(StoreError::BadPlan {
                sweep: layout.id,
                job: Box::new(job.clone()),
                problem: PlanProblem::NoResponse { ordinal: *ordinal },
            });
        }
        let queries = point_results::queries_of(layout, job.slice);
        if results::resolve_verdicts(self.connection, decoded, layout.judge, &queries).await? > 0 {
            let ticks = codec::ticks(&job.point);
            let stored = StoredPoint { id: point.id, ticks: &ticks };
            tallying::refresh_judgement_everywhere(self.store, self.connection, stored, layout).await?;
        }
        let verdicts = results::verdicts(self.connection, decoded, layout.judge).await?;
        Ok(self.covers(job, |query| verdicts.contains_key(&query)))
    }

    async fn insert(&mut self, jobs: JobList, state: JobState) -> Result<u64, StoreError> {
        let Some(list) = jobs.finish() else {
            return Ok(0);
        };
        let done = sqlx::query(
            // Numbers above every one there is or ever was.
            "INSERT INTO jobs (id, sweep, point, rung, slice_start, slice_end, priority, state)
             SELECT 1 + key
                      + max(coalesce((SELECT max(id) FROM jobs), 0), (SELECT highest FROM deleted_jobs)),
                    ?1, value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, ?3
             FROM json_each(?2) WHERE true
             ORDER BY key
             ON CONFLICT DO NOTHING",
        )
        .bind(self.layout.id.0)
        .bind(list)
        .bind(state.as_str())
        .execute(&mut *self.connection)
        .await
        .during(OPERATION)?;
        Ok(done.rows_affected())
    }
}

/// Jobs as a JSON array of `[point, rung, start, end, priority]`, in the plan's order.
#[derive(Debug, Default)]
struct JobList(String);

impl JobList {
    fn push(&mut self, point: i64, job: &NewJob) {
        let separator = if self.0.is_empty() { '[' } else { ',' };
        let NewJob { rung, slice, priority, .. } = job;
        // Writing to a String cannot fail.
        let _ = write!(self.0, "{separator}[{point},\"{rung}\",{},{},{priority}]", slice.start, slice.end);
    }

    fn finish(mut self) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        self.0.push(']');
        Some(self.0)
    }
}
