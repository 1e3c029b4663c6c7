//! Random histories of every operation, on a store and on the [model](super::model) at once.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use avsweep_domain::{
    FailureLimits, JobId, JobState, LeaseToken, QuerySlice, Rung, SweepId, SweepState, WorkerId,
};
use avsweep_store::{
    JobFilter, JobResults, LeaseClaim, LeaseRef, LeaseStatus, NewJob, Plan, PlanningGuard, Report, Store,
    StoreError, Timestamp, Timings,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

use super::fixture::{self, EVERY_RUNG};
use super::model::{GONE, Model, ModelJob, ModelSweep};

const LIMITS: FailureLimits = FailureLimits { lost: 3, errors: 2 };
const POINTS: [&str; 4] = ["0,0", "0,0.5", "-1,1", "0.5,0"];
const SLICES: [QuerySlice; 4] = [
    QuerySlice { start: 0, end: 6 },
    QuerySlice { start: 6, end: 10 },
    QuerySlice { start: 0, end: 10 },
    QuerySlice { start: 0, end: 1 },
];

/// A step of a history: what to do, and numbers to choose by.
#[derive(Debug, Clone)]
struct Step {
    kind: u8,
    a: u16,
    b: u16,
    c: u16,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0u8..38, any::<u16>(), any::<u16>(), any::<u16>()).prop_map(|(kind, a, b, c)| Step {
        kind,
        a,
        b,
        c,
    });
    prop::collection::vec(step, 20..120)
}

struct Pair<'s> {
    store: &'s dyn Store,
    model: Model,
    /// Every lease there ever was: the model's job and the right shown.
    leases: Vec<(usize, LeaseRef)>,
    /// Every right to plan there ever was.
    guards: Vec<PlanningGuard>,
}

/// One of so many.
fn pick_of(number: u16, of: usize) -> usize {
    usize::from(number) % of.max(1)
}

impl Pair<'_> {
    async fn step(&mut self, step: &Step) -> Result<()> {
        let pick = pick_of;
        match step.kind {
            0..=5 => self.plan(pick(step.a, 3), step).await,
            6..=11 => self.lease(step).await,
            12..=17 if !self.leases.is_empty() => {
                // Mostly a recent lease: old ones are lost, which a few tries show well enough.
                let back = pick(step.a, self.leases.len().min(if step.b.is_multiple_of(4) { 40 } else { 4 }));
                self.report(self.leases.len() - 1 - back, step).await
            }
            18 if !self.leases.is_empty() => self.fail(pick(step.a, self.leases.len())).await,
            19 if !self.leases.is_empty() => {
                self.keep_or_release(pick(step.a, self.leases.len()), step.b.is_multiple_of(2)).await
            }
            20 => {
                self.model.now = self.model.now.plus(Duration::from_secs(u64::from(step.a % 40)));
                Ok(())
            }
            21 => self.reap(step.a.is_multiple_of(4)).await,
            22 => self.set_state(pick(step.a, 3), SweepState::ALL[pick(step.b, 3)]).await,
            23 => self.retry(pick(step.a, 3)).await,
            24..=28 => self.work(step).await,
            29..=30 => self.judge(pick(step.a, 3)).await,
            31 => self.prioritise(pick(step.a, 3), i32::from(step.b % 3) - 1).await,
            32..=33 => self.claim_planning(pick(step.a, 3), step).await,
            34 if !self.guards.is_empty() => self.release_planning(pick(step.a, self.guards.len())).await,
            35 if !self.guards.is_empty() => self.finish_sweep(pick(step.a, self.guards.len())).await,
            36 => self.delete(pick(step.a, 3)).await,
            37 => self.retry_one(pick(step.a, 3), step).await,
            _ => Ok(()),
        }
    }

    async fn plan(&mut self, sweep: usize, step: &Step) -> Result<()> {
        let jobs: Vec<NewJob> = (0..1 + step.a / 3 % 3)
            .map(|index| {
                let number = usize::from(step.b.wrapping_add(index * 7));
                NewJob {
                    point: fixture::point(POINTS[number % 4]),
                    rung: EVERY_RUNG[number / 4 % 3],
                    slice: SLICES[number / 12 % 4],
                    priority: i32::from(step.c % 3) - 1,
                }
            })
            .collect();
        if step.c.is_multiple_of(4)
            && let Some(guard) = self.guards.get(pick_of(step.b, self.guards.len())).copied()
        {
            return self.plan_guarded(sweep, &jobs, guard).await;
        }
        self.plan_jobs(sweep, &jobs).await
    }

    async fn plan_jobs(&mut self, sweep: usize, jobs: &[NewJob]) -> Result<()> {
        let plan = Plan { jobs: jobs.to_vec(), ..Plan::default() };
        let planned = match self.store.plan(self.id(sweep), &plan, None, self.model.now).await {
            Ok(planned) => Some(planned),
            Err(StoreError::BadPlan { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let expected = self.model.plan(sweep, jobs);
        ensure!(planned == expected, "planned {planned:?}, expected {expected:?}");
        Ok(())
    }

    async fn plan_guarded(&mut self, sweep: usize, jobs: &[NewJob], guard: PlanningGuard) -> Result<()> {
        let plan = Plan { jobs: jobs.to_vec(), ..Plan::default() };
        let planned = match self.store.plan(self.id(sweep), &plan, Some(&guard), self.model.now).await {
            Ok(planned) => Some(planned),
            Err(StoreError::PlanningLost { .. }) if !self.model.may_plan(sweep, &guard) => return Ok(()),
            Err(StoreError::BadPlan { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        ensure!(self.model.may_plan(sweep, &guard), "planned under a guard that is lost");
        let expected = self.model.plan(sweep, jobs);
        ensure!(planned == expected, "planned {planned:?}, expected {expected:?}");
        Ok(())
    }

    /// The sweep's number: another after it was deleted and made again.
    fn id(&self, sweep: usize) -> SweepId {
        self.model.sweeps[sweep].id
    }

    /// Evaluates a few jobs as a worker without trouble does.
    async fn work(&mut self, step: &Step) -> Result<()> {
        for _ in 0..3 {
            let before = self.leases.len();
            self.lease(&Step { kind: 0, a: 2, b: 0, c: 0 }).await?;
            if self.leases.len() > before {
                self.report(self.leases.len() - 1, &Step { kind: 0, a: 1, b: 1, c: step.c }).await?;
            }
        }
        Ok(())
    }

    /// Plans the judgement of all that is generated.
    async fn judge(&mut self, sweep: usize) -> Result<()> {
        let generated = |job: &&ModelJob| {
            job.sweep == sweep && job.new.rung == Rung::Generation && job.state == JobState::Done
        };
        let jobs: Vec<NewJob> = (self.model.jobs.iter().filter(generated))
            .map(|job| NewJob { rung: Rung::Judgement, ..job.new.clone() })
            .collect();
        self.plan_jobs(sweep, &jobs).await
    }

    async fn lease(&mut self, step: &Step) -> Result<()> {
        let rungs = match step.a % 6 {
            0 => vec![Rung::Likelihood],
            1 => vec![Rung::Judgement, Rung::Generation],
            _ => EVERY_RUNG.to_vec(),
        };
        let claim = LeaseClaim {
            worker: WorkerId(format!("w{}", step.c % 3)),
            rungs,
            max_jobs: 1 + u32::from(step.b % 3),
            duration: Duration::from_secs(30),
            token: fixture::token(),
            except: if step.c.is_multiple_of(7) { vec![self.id(0)] } else { Vec::new() },
            prefers: step.c.is_multiple_of(5).then(|| self.id(1)),
        };
        let leased = self.store.lease(&claim, self.model.now).await?;
        let expected = self.model.lease(&claim);
        ensure!(leased.len() == expected.len(), "{} leased, expected {}", leased.len(), expected.len());
        for (found, index) in leased.iter().zip(expected) {
            let job = &mut self.model.jobs[index];
            let id = *job.id.get_or_insert(found.lease.reference.job);
            ensure!(id == found.lease.reference.job, "job {index} changed its number");
            ensure!(found.lease.reference.attempt == job.attempt, "attempt of {found:?}");
            ensure!(found.lease.expires == job.expires, "end of {found:?}");
            ensure!(found.sweep == self.model.sweeps[job.sweep].id, "sweep of {found:?}");
            ensure!(
                (&found.point, found.rung) == (&job.new.point, job.new.rung),
                "{found:?}, expected {job:?}"
            );
            ensure!(
                (&found.ordinals, &found.responses) == (&job.ordinals, &job.responses),
                "{found:?}, not {job:?}"
            );
            self.leases.push((index, found.lease.reference));
        }
        Ok(())
    }

    async fn report(&mut self, lease: usize, step: &Step) -> Result<()> {
        let (index, mut reference) = self.leases[lease];
        if self.model.jobs[index].sweep == GONE {
            let empty = fixture::report(reference, JobResults::Scores(Vec::new()), false);
            let refused = self.store.report(&empty, self.model.now).await;
            ensure!(matches!(refused, Err(StoreError::NoSuchJob(_))), "report of a deleted job: {refused:?}");
            return Ok(());
        }
        let job = &self.model.jobs[index];
        let definition = &self.model.sweeps[job.sweep].definition;
        if step.b.is_multiple_of(13) {
            reference.token = fixture::token();
        }
        // Evaluations that differ from one another: whichever is stored first must stay.
        let salted = |ordinal: u32| format!("{}/{}", fixture::query_id(definition, ordinal), step.c % 2);
        let whole = !step.b.is_multiple_of(3);
        let chosen = job.ordinals.iter().enumerate().filter(|(at, _)| whole || step.c >> (at % 16) & 1 == 1);
        let point = &job.new.point;
        let results = match job.new.rung {
            Rung::Likelihood => {
                JobResults::Scores(chosen.map(|(_, o)| (*o, fixture::score(point, &salted(*o), 3))).collect())
            }
            Rung::Generation => JobResults::Responses(
                chosen.map(|(_, o)| (*o, fixture::response(point, &salted(*o)))).collect(),
            ),
            Rung::Judgement => JobResults::Verdicts(
                chosen.map(|(at, o)| (*o, fixture::verdict(&salted(*o), &job.responses[at].text))).collect(),
            ),
        };
        let report = Report {
            lease: reference,
            results,
            finished: !step.a.is_multiple_of(3),
            timings: Timings::default(),
        };
        let status = match self.store.report(&report, self.model.now).await {
            Ok(status) => Some(status),
            Err(StoreError::BadReport { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let expected = self.model.report(index, &report);
        ensure!(status == expected, "report {status:?}, expected {expected:?}");
        Ok(())
    }

    async fn fail(&mut self, lease: usize) -> Result<()> {
        let (index, reference) = self.leases[lease];
        if self.model.jobs[index].sweep == GONE {
            let refused = self.store.fail(&reference, "broken", LIMITS, self.model.now).await;
            ensure!(
                matches!(refused, Err(StoreError::NoSuchJob(_))),
                "failure of a deleted job: {refused:?}"
            );
            return Ok(());
        }
        let status = self.store.fail(&reference, "broken", LIMITS, self.model.now).await?;
        let held = self.model.held(index, &reference);
        ensure!((status == LeaseStatus::Held) == held, "fail: {status:?}");
        if held {
            let job = &mut self.model.jobs[index];
            job.errors += 1;
            self.model.sweeps[job.sweep].errors += 1;
            job.state = LIMITS.after_failure(job.lost, job.errors);
        }
        Ok(())
    }

    async fn keep_or_release(&mut self, lease: usize, keep: bool) -> Result<()> {
        let (index, reference) = self.leases[lease];
        let held = self.model.held(index, &reference);
        if keep {
            let duration = Duration::from_secs(45);
            let statuses = self.store.renew(&[reference], duration, self.model.now).await?;
            ensure!(
                statuses == [if held { LeaseStatus::Held } else { LeaseStatus::Lost }],
                "renew: {statuses:?}"
            );
            if held {
                self.model.jobs[index].expires = self.model.now.plus(duration);
            }
        } else {
            self.store.release(&[reference], self.model.now).await?;
            if held {
                self.model.jobs[index].state = JobState::Ready;
            }
        }
        Ok(())
    }

    async fn reap(&mut self, all: bool) -> Result<()> {
        let now = self.model.now;
        let reaped =
            if all { self.store.reap_all(LIMITS, now).await? } else { self.store.reap(LIMITS, now).await? };
        let expected = if all { self.model.reap_all(LIMITS) } else { self.model.reap(LIMITS) };
        ensure!(reaped == expected, "{reaped} reaped, expected {expected}");
        Ok(())
    }

    async fn set_state(&mut self, sweep: usize, to: SweepState) -> Result<()> {
        let allowed = self.model.sweeps[sweep].state.check_transition(to).is_ok();
        match self.store.set_sweep_state(self.id(sweep), to).await {
            Ok(()) => ensure!(allowed, "changed to {to}"),
            Err(StoreError::Transition { .. }) => ensure!(!allowed, "not changed to {to}"),
            Err(error) => return Err(error.into()),
        }
        if allowed {
            self.model.sweeps[sweep].state = to;
        }
        Ok(())
    }

    async fn retry(&mut self, sweep: usize) -> Result<()> {
        let retried = self.store.retry_jobs(self.id(sweep), &[]).await?;
        let mut expected = 0;
        for job in
            self.model.jobs.iter_mut().filter(|job| job.sweep == sweep && job.state == JobState::Parked)
        {
            (job.state, job.lost, job.errors) = (JobState::Ready, 0, 0);
            expected += 1;
        }
        ensure!(retried == expected, "{retried} retried, expected {expected}");
        self.run_again(sweep, retried);
        Ok(())
    }

    fn run_again(&mut self, sweep: usize, retried: u64) {
        let state = &mut self.model.sweeps[sweep].state;
        if retried > 0 && *state == SweepState::Done {
            *state = SweepState::Running;
        }
    }

    /// Retries one job that was leased once, parked or not, of the sweep or not.
    async fn retry_one(&mut self, sweep: usize, step: &Step) -> Result<()> {
        let known: Vec<(usize, JobId)> =
            (self.model.jobs.iter().enumerate()).filter_map(|(index, job)| Some((index, job.id?))).collect();
        let Some((index, id)) = known.get(pick_of(step.b, known.len())).copied() else { return Ok(()) };
        let retried = match self.store.retry_jobs(self.id(sweep), &[id]).await {
            Ok(retried) => retried,
            Err(StoreError::NoSuchJob(job)) if job == id => 0,
            Err(error) => return Err(error.into()),
        };
        let job = &mut self.model.jobs[index];
        let expected = u64::from(job.sweep == sweep && job.state == JobState::Parked);
        ensure!(retried == expected, "{retried} retried, expected {expected}");
        if expected > 0 {
            (job.state, job.lost, job.errors) = (JobState::Ready, 0, 0);
        }
        self.run_again(sweep, retried);
        Ok(())
    }

    async fn prioritise(&mut self, sweep: usize, priority: i32) -> Result<()> {
        self.store.set_sweep_priority(self.id(sweep), priority).await?;
        self.model.sweeps[sweep].priority = priority;
        Ok(())
    }

    async fn claim_planning(&mut self, sweep: usize, step: &Step) -> Result<()> {
        let holder = LeaseToken::from_bytes([200 + (step.b % 2) as u8; 16]);
        let duration = Duration::from_secs(25);
        let guard = self.store.claim_planning(self.id(sweep), holder, duration, self.model.now).await?;
        let until = self.model.now.plus(duration);
        let expected = self.model.claim_planning(sweep, holder, until);
        ensure!(guard == expected, "guard {guard:?}, expected {expected:?}");
        self.guards.extend(guard);
        Ok(())
    }

    async fn release_planning(&mut self, guard: usize) -> Result<()> {
        let guard = self.guards[guard];
        self.store.release_planning(&guard).await?;
        let now = self.model.now;
        for sweep in &mut self.model.sweeps {
            if (sweep.id, sweep.term) == (guard.sweep, guard.term)
                && let Some((holder, end)) = &mut sweep.planner
                && *holder == guard.holder
            {
                *end = Timestamp(now.0 - 1);
            }
        }
        Ok(())
    }

    async fn finish_sweep(&mut self, guard: usize) -> Result<()> {
        let guard = self.guards[guard];
        let sweep = self.model.sweeps.iter().position(|sweep| sweep.id == guard.sweep);
        let sweep = sweep.filter(|sweep| self.model.may_plan(*sweep, &guard));
        let finished = match self.store.finish_sweep(&guard, self.model.now).await {
            Ok(finished) => Some(finished),
            Err(StoreError::PlanningLost { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let expected = sweep.map(|sweep| {
            let totals = self.model.totals(sweep);
            let open = totals.likelihood.open() + totals.generation.open() + totals.judgement.open();
            let state = &mut self.model.sweeps[sweep].state;
            if *state == SweepState::Running && open == 0 {
                *state = SweepState::Done;
            }
            *state == SweepState::Done
        });
        ensure!(finished == expected, "finished {finished:?}, expected {expected:?}");
        Ok(())
    }

    /// Deletes a sweep and makes it again.
    async fn delete(&mut self, sweep: usize) -> Result<()> {
        let deleted = match self.store.delete_sweep(self.id(sweep)).await {
            Ok(deleted) => Some(deleted),
            Err(StoreError::SweepRunning { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let expected = self.model.delete(sweep);
        ensure!(deleted == expected, "deleted {deleted:?}, expected {expected:?}");
        if deleted.is_some() {
            let id = fixture::create(self.store, &self.model.sweeps[sweep].definition).await?;
            self.model.sweeps[sweep].id = id;
        }
        Ok(())
    }

    /// Everything that can be read is as the model says.
    async fn compare(&self) -> Result<()> {
        let mut ready = 0;
        for (sweep, ModelSweep { id, state, priority, .. }) in self.model.sweeps.iter().enumerate() {
            let (store, model) = (self.store, &self.model);
            let record = store.sweep(*id).await?;
            ensure!((record.state, record.priority) == (*state, *priority), "sweep {id}: {record:?}");
            let (totals, expected) = (store.totals(*id).await?, model.totals(sweep));
            ensure!(totals == expected, "totals {totals:?}, expected {expected:?}");
            if model.sweeps[sweep].state == SweepState::Running {
                ready += expected.likelihood.ready + expected.generation.ready + expected.judgement.ready;
            }
            let (rows, expected) = (fixture::every_result(store, *id, 2).await?, model.rows(sweep));
            ensure!(rows == expected, "results {rows:?}, expected {expected:?}");
            fixture::tallies_equal_a_recount(store, *id, &model.sweeps[sweep].definition).await?;
            self.compare_jobs(sweep, *id).await?;
        }
        ensure!(self.store.ready_jobs(&EVERY_RUNG).await? == ready, "ready jobs");
        let (overview, expected) = (self.store.overview(self.model.now).await?, self.model.overview());
        ensure!(overview == expected, "overview {overview:?}, expected {expected:?}");
        Ok(())
    }

    async fn compare_jobs(&self, sweep: usize, id: SweepId) -> Result<()> {
        let own = || self.model.jobs.iter().filter(move |job| job.sweep == sweep);
        let key = |new: &NewJob| (new.rung, new.slice.start, new.slice.end);
        for point in &self.model.sweeps[sweep].points {
            let expected: BTreeMap<_, _> =
                own().filter(|job| job.new.point == *point).map(|job| (key(&job.new), job.state)).collect();
            let found = self.store.point_jobs(id, point).await?;
            let found: Vec<_> =
                found.iter().map(|job| ((job.rung, job.slice.start, job.slice.end), job.state)).collect();
            ensure!(found == expected.into_iter().collect::<Vec<_>>(), "jobs at {point}: {found:?}");
        }
        self.compare_listed(sweep, id).await?;

        let judged = |job: &ModelJob| {
            let judgement = NewJob { rung: Rung::Judgement, ..job.new.clone() };
            own().any(|other| NewJob { priority: judgement.priority, ..other.new.clone() } == judgement)
        };
        let unjudged = self.store.unjudged(id).await?;
        let mut expected: Vec<_> = own()
            .filter(|job| job.new.rung == Rung::Generation && job.state == JobState::Done && !judged(job))
            .map(|job| job.new.clone())
            .collect();
        let mut found = unjudged;
        found.sort_by_key(|job| (job.point.clone(), key(job)));
        expected.sort_by_key(|job| (job.point.clone(), key(job)));
        ensure!(found == expected, "unjudged {found:?}, expected {expected:?}");
        Ok(())
    }
}

impl Pair<'_> {
    /// The jobs of a sweep, a page at a time, are the model's.
    async fn compare_listed(&self, sweep: usize, id: SweepId) -> Result<()> {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let filter = JobFilter { sweep: Some(id), states: Vec::new(), after, limit: 3 };
            let page = self.store.jobs(&filter).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            found.extend(page);
        }
        ensure!(found.is_sorted_by_key(|job| job.id), "not by number: {found:?}");
        let key = |new: &NewJob| (new.point.clone(), new.rung, new.slice.start, new.slice.end);
        let mut own: Vec<&ModelJob> = self.model.jobs.iter().filter(|job| job.sweep == sweep).collect();
        own.sort_by_key(|job| key(&job.new));
        found.sort_by_key(|job| key(&job.job));
        ensure!(found.len() == own.len(), "{} jobs listed, expected {}", found.len(), own.len());
        for (found, job) in found.iter().zip(own) {
            ensure!(job.id.is_none_or(|id| id == found.id) && found.sweep == id, "{found:?}, not {job:?}");
            ensure!((&found.job, found.state) == (&job.new, job.state), "{found:?}, not {job:?}");
            let counts = (job.attempt, job.lost, job.errors);
            ensure!((found.attempt, found.lost, found.errors) == counts, "{found:?}, not {job:?}");
            let expires = (job.state == JobState::Leased).then_some(job.expires);
            ensure!((&found.worker, found.expires) == (&job.worker, expires), "{found:?}, not {job:?}");
        }
        Ok(())
    }
}

async fn run_history(store: &dyn Store, steps: &[Step]) -> Result<()> {
    let mut model = Model::new();
    for sweep in &mut model.sweeps {
        sweep.id = fixture::create(store, &sweep.definition).await?;
    }
    let mut pair = Pair { store, model, leases: Vec::new(), guards: Vec::new() };
    for (number, step) in steps.iter().enumerate() {
        pair.step(step).await.with_context(|| format!("step {number}: {step:?}"))?;
        if number % 6 == 5 {
            pair.compare().await.with_context(|| format!("after step {number}: {step:?}"))?;
        }
    }
    pair.compare().await.context("in the end")
}

/// Random histories of every operation leave the store as they leave the model. `AVSWEEP_HISTORIES` sets how many.
pub(crate) fn any_history_agrees_with_the_model<F, G, S>(usual_cases: u32, make: impl Fn() -> F) -> Result<()>
where
    F: Future<Output = Result<(G, S)>>,
    S: Store,
{
    let cases = match std::env::var("AVSWEEP_HISTORIES") {
        Ok(number) => number.parse().context("AVSWEEP_HISTORIES")?,
        Err(_) => usual_cases,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 2000, ..Config::default() };
    // The same histories every time; a failing one is shrunk and printed.
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    runner
        .run(&steps(), |steps| {
            runtime
                .block_on(async {
                    let (_guard, store) = make().await?;
                    run_history(&store, &steps).await
                })
                .map_err(|error| TestCaseError::fail(format!("{error:#}")))
        })
        .map_err(|error| anyhow!("{error}"))
}
