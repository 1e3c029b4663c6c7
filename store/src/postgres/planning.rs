//! Planning: points and jobs in, with what is stored already taken into account.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use avsweep_domain::{JobState, Rung, SweepId};
use sqlx::postgres::PgConnection;

use super::connection::{PostgresStore, begin, call};
use super::counting::Change;
use super::{guards, results, searching, sweeps, tallying};
use crate::error::{During, PlanProblem};
use crate::layout::SweepLayout;
use crate::packed_tallies;
use crate::point_results;
use crate::point_results::{Decoded, Scores};
use crate::{NewJob, Plan, Planned, PlanningGuard, StoreError, Timestamp, check, codec};

const OPERATION: &str = "plan jobs";
/// Jobs of one round: bounds what is held in memory at once, not the plan.
const JOBS_AT_ONCE: usize = 512;

/// See [`crate::Store::plan`].
pub(super) async fn plan(
    store: &PostgresStore,
    sweep: SweepId,
    plan: &Plan,
    guard: Option<&PlanningGuard>,
    now: Timestamp,
) -> Result<Planned, StoreError> {
    call!(store, OPERATION, |connection| plan_once(store, connection, sweep, plan, guard, now))
}

async fn plan_once(
    store: &PostgresStore,
    connection: &mut PgConnection,
    sweep: SweepId,
    plan: &Plan,
    guard: Option<&PlanningGuard>,
    now: Timestamp,
) -> Result<Planned, StoreError> {
    let mut transaction = begin(connection, OPERATION).await?;
    // The sweep is neither finished nor deleted before this is written.
    sweeps::share(&mut transaction, sweep).await?;
    if let Some(guard) = guard {
        guards::check(&mut transaction, sweep, guard, now).await?;
    }
    let layout = sweeps::layout(store, &mut transaction, sweep).await?;
    plan.jobs.iter().try_for_each(|job| check::job(sweep, &layout, job))?;
    let mut planner = Planner {
        store,
        layout: &layout,
        connection: &mut transaction,
        points: HashMap::new(),
        fresh: HashSet::new(),
        scores: HashMap::new(),
        uncounted: 0,
        planned: Planned::default(),
    };
    planner.add_points(&plan.jobs).await?;
    for jobs in plan.jobs.chunks(JOBS_AT_ONCE) {
        planner.read_scores(jobs).await?;
        planner.tally_anew(jobs).await?;
        planner.add_jobs(jobs).await?;
    }
    let planned = planner.planned;
    if let Some(choice) = &plan.choice {
        searching::write_choice(&mut transaction, sweep, choice).await?;
    }
    transaction.commit().await.during(OPERATION)?;
    Ok(planned)
}

/// A point of the plan as it was before.
#[derive(Clone, Copy, Debug)]
struct PlannedPoint {
    id: i64,
    scored: bool,
    answered: bool,
}

struct Planner<'r> {
    store: &'r PostgresStore,
    layout: &'r Arc<SweepLayout>,
    connection: &'r mut PgConnection,
    /// The plan's points by their ticks.
    points: HashMap<Vec<u8>, PlannedPoint>,
    /// Points that are new to the sweep, as long as they have not got their tallies.
    fresh: HashSet<i64>,
    /// The scores of those of the round's points that have any.
    scores: HashMap<i64, Scores>,
    /// New points that the sweep's sums do not hold yet.
    uncounted: i64,
    planned: Planned,
}

impl Planner<'_> {
    /// Adds the jobs' points. Those that were there are kept as they are until the transaction ends.
    async fn add_points(&mut self, jobs: &[NewJob]) -> Result<(), StoreError> {
        // In one order everywhere, so that two plans wait for each other instead of blocking each other.
        let ticks: Vec<Vec<u8>> =
            jobs.iter().map(|job| codec::ticks(&job.point)).collect::<BTreeSet<_>>().into_iter().collect();
        if ticks.is_empty() {
            return Ok(());
        }
        let rows: Vec<(i64, Vec<u8>, bool)> = sqlx::query_as(
            "INSERT INTO points (recipe, ticks)
             SELECT $1, given.ticks FROM unnest($2::bytea[]) WITH ORDINALITY AS given (ticks, place)
             ORDER BY given.place
             ON CONFLICT (recipe, ticks) DO UPDATE SET version = points.version + 1
             RETURNING id, ticks, version > 0",
        )
        .bind(self.layout.recipe)
        .bind(&ticks)
        .fetch_all(&mut *self.connection)
        .await
        .during(OPERATION)?;
        if rows.len() != ticks.len() {
            return Err(StoreError::corrupt("the points", "a point that was just written is not there"));
        }
        let old: Vec<i64> = rows.iter().filter(|row| row.2).map(|row| row.0).collect();
        let with_results = self.with_results(&old).await?;
        for (id, ticks, _) in &rows {
            let (scored, answered) = with_results.get(id).copied().unwrap_or_default();
            self.points.insert(ticks.clone(), PlannedPoint { id: *id, scored, answered });
        }
        let (ids, ticks): (Vec<i64>, Vec<&[u8]>) = rows.iter().map(|row| (row.0, row.1.as_slice())).unzip();
        let fresh: Vec<(i64,)> = sqlx::query_as(
            "INSERT INTO sweep_points (sweep, ticks, point)
             SELECT $1, given.ticks, given.point
             FROM unnest($2::bytea[], $3::bigint[]) AS given (ticks, point)
             ORDER BY given.ticks
             ON CONFLICT DO NOTHING
             RETURNING point",
        )
        .bind(self.layout.id.0)
        .bind(ticks)
        .bind(ids)
        .fetch_all(&mut *self.connection)
        .await
        .during(OPERATION)?;
        self.planned.new_points = fresh.len() as u64;
        self.uncounted = fresh.len() as i64;
        self.fresh = fresh.into_iter().map(|(point,)| point).collect();
        Ok(())
    }

    /// Which of some points have scores, and which have responses.
    async fn with_results(&mut self, points: &[i64]) -> Result<HashMap<i64, (bool, bool)>, StoreError> {
        if points.is_empty() {
            return Ok(HashMap::new());
        }
        let rows: Vec<(i64, bool, bool)> = sqlx::query_as(
            "SELECT given.point,
                    EXISTS (SELECT 1 FROM score_blocks AS b WHERE b.point = given.point),
                    EXISTS (SELECT 1 FROM responses AS r WHERE r.point = given.point)
             FROM unnest($1::bigint[]) AS given (point)",
        )
        .bind(points)
        .fetch_all(&mut *self.connection)
        .await
        .during(OPERATION)?;
        Ok(rows.into_iter().map(|(point, scored, answered)| (point, (scored, answered))).collect())
    }

    fn point(&self, job: &NewJob) -> Result<PlannedPoint, StoreError> {
        self.points.get(&codec::ticks(&job.point)).copied().ok_or_else(|| {
            StoreError::corrupt("the points", format!("point {}, just written, is not there", job.point))
        })
    }

    /// Reads the scores of a round's points.
    async fn read_scores(&mut self, jobs: &[NewJob]) -> Result<(), StoreError> {
        self.scores.clear();
        let mut wanted = BTreeSet::new();
        for job in jobs {
            let point = self.point(job)?;
            // A point that is new to the sweep needs its tallies, whatever the job.
            if point.scored && (job.rung == Rung::Likelihood || self.fresh.contains(&point.id)) {
                wanted.insert(point.id);
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let blocks: Vec<(i64, Vec<u8>)> = sqlx::query_as(
            "SELECT b.point, b.scores
             FROM unnest($1::bigint[]) AS wanted (point) JOIN score_blocks AS b ON b.point = wanted.point",
        )
        .bind(wanted.into_iter().collect::<Vec<_>>())
        .fetch_all(&mut *self.connection)
        .await
        .during(OPERATION)?;
        for (point, block) in &blocks {
            let scores = self.scores.entry(*point).or_default();
            point_results::read_block(*point, block, self.layout.levels, scores)?;
        }
        Ok(())
    }

    /// Gives the round's points that are new to the sweep the tallies of what other sweeps found there.
    async fn tally_anew(&mut self, jobs: &[NewJob]) -> Result<(), StoreError> {
        let mut likelihood = Vec::new();
        for job in jobs {
            let point = self.point(job)?;
            if !self.fresh.remove(&point.id) {
                continue;
            }
            if let Some(scores) = self.scores.get(&point.id) {
                likelihood.push((point.id, packed_tallies::likelihood(self.layout, scores)));
            }
            if point.answered {
                let layouts = std::slice::from_ref(self.layout);
                let kind = (self.layout.decoding, self.layout.judge);
                let decoded = Decoded { point: point.id, decoding: kind.0 };
                let verdicts = results::verdicts(self.connection, decoded, kind.1).await?;
                tallying::refresh_judgement(self.connection, point.id, layouts, kind, &verdicts).await?;
            }
        }
        tallying::write_likelihood(self.connection, self.layout.id, likelihood).await
    }

    /// Adds the jobs: those that lack nothing as done, the others as ready.
    async fn add_jobs(&mut self, jobs: &[NewJob]) -> Result<(), StoreError> {
        let mut rows = JobRows::default();
        for job in jobs {
            let point = self.point(job)?;
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
                Rung::Judgement => self.judged(job, point).await?,
            };
            rows.push(point.id, job, if covered { JobState::Done } else { JobState::Ready });
        }
        let added = rows.insert(self.connection, self.layout.id).await?;
        rows.mark_judged(self.connection, self.layout.id).await?;
        for rung in [Rung::Likelihood, Rung::Generation, Rung::Judgement] {
            let mut change = Change::default();
            for (_, state) in added.iter().filter(|(added, _)| *added == rung) {
                change.add(*state, 1);
            }
            self.planned.new_jobs += change.ready as u64;
            self.planned.reused_jobs += change.done as u64;
            if jobs.first().is_some_and(|job| job.rung == rung) {
                // With the plan's first round come all its points.
                change.points = std::mem::take(&mut self.uncounted);
            }
            change.write(self.connection, self.layout.id, rung).await?;
        }
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
            tallying::refresh_judgement_everywhere(self.store, self.connection, decoded, layout).await?;
        }
        let verdicts = results::verdicts(self.connection, decoded, layout.judge).await?;
        Ok(self.covers(job, |query| verdicts.contains_key(&query)))
    }
}

/// Columns of jobs to be, in the plan's order.
#[derive(Debug, Default)]
struct JobRows {
    points: Vec<i64>,
    rungs: Vec<&'static str>,
    starts: Vec<i64>,
    ends: Vec<i64>,
    priorities: Vec<i32>,
    states: Vec<&'static str>,
}

impl JobRows {
    fn push(&mut self, point: i64, job: &NewJob, state: JobState) {
        self.points.push(point);
        self.rungs.push(job.rung.as_str());
        self.starts.push(i64::from(job.slice.start));
        self.ends.push(i64::from(job.slice.end));
        self.priorities.push(job.priority);
        self.states.push(state.as_str());
    }

    /// Adds those that are not there, numbered in the plan's order. Returns what was added.
    async fn insert(
        &self,
        connection: &mut PgConnection,
        sweep: SweepId,
    ) -> Result<Vec<(Rung, JobState)>, StoreError> {
        let rows: Vec<(String, String)> = sqlx::query_as(
            "INSERT INTO jobs (sweep, point, rung, slice_start, slice_end, priority, state, judged)
             SELECT $1, given.point, given.rung, given.slice_start, given.slice_end, given.priority, given.state,
                    given.rung = 'generation' AND EXISTS (
                        SELECT 1 FROM jobs AS judgement
                        WHERE judgement.sweep = $1 AND judgement.point = given.point
                          AND judgement.rung = 'judgement' AND judgement.slice_start = given.slice_start
                          AND judgement.slice_end = given.slice_end
                    )
             FROM unnest($2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::integer[], $7::text[])
                 WITH ORDINALITY
                 AS given (point, rung, slice_start, slice_end, priority, state, place)
             ORDER BY given.place
             ON CONFLICT DO NOTHING
             RETURNING rung, state",
        )
        .bind(sweep.0)
        .bind(&self.points)
        .bind(&self.rungs)
        .bind(&self.starts)
        .bind(&self.ends)
        .bind(&self.priorities)
        .bind(&self.states)
        .fetch_all(connection)
        .await
        .during(OPERATION)?;
        rows.into_iter()
            .map(|(rung, state)| {
                let corrupt = |problem: String| StoreError::corrupt("a job that was just written", problem);
                Ok((rung.parse().map_err(corrupt)?, state.parse().map_err(corrupt)?))
            })
            .collect()
    }

    /// Notes at the generation jobs which of them have their judgement job now.
    async fn mark_judged(&self, connection: &mut PgConnection, sweep: SweepId) -> Result<(), StoreError> {
        if !self.rungs.contains(&Rung::Judgement.as_str()) {
            return Ok(());
        }
        sqlx::query(
            "UPDATE jobs AS job SET judged = TRUE
             FROM unnest($2::bigint[], $3::text[], $4::bigint[], $5::bigint[])
                 AS given (point, rung, slice_start, slice_end)
             WHERE given.rung = 'judgement' AND job.sweep = $1 AND job.point = given.point
               AND job.rung = 'generation' AND job.slice_start = given.slice_start
               AND job.slice_end = given.slice_end AND NOT job.judged",
        )
        .bind(sweep.0)
        .bind(&self.points)
        .bind(&self.rungs)
        .bind(&self.starts)
        .bind(&self.ends)
        .execute(connection)
        .await
        .during(OPERATION)?;
        Ok(())
    }
}
