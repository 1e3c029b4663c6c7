//! Random histories of every operation, on a store and on the [model](super::model) at once.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use avsweep_domain::{FailureLimits, JobState, QuerySlice, Rung, SweepId, SweepState, WorkerId};
use avsweep_store::{
    JobResults, LeaseClaim, LeaseRef, LeaseStatus, NewJob, Plan, Report, Store, StoreError, Timings,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

use super::fixture::{self, EVERY_RUNG};
use super::model::{Model, ModelJob};

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
    let step = (0u8..32, any::<u16>(), any::<u16>(), any::<u16>()).prop_map(|(kind, a, b, c)| Step {
        kind,
        a,
        b,
        c,
    });
    prop::collection::vec(step, 20..120)
}

struct Pair<'s> {
    store: &'s dyn Store,
    ids: Vec<SweepId>,
    model: Model,
    /// Every lease there ever was: the model's job and the right shown.
    leases: Vec<(usize, LeaseRef)>,
}

impl Pair<'_> {
    async fn step(&mut self, step: &Step) -> Result<()> {
        let pick = |number: u16, of: usize| usize::from(number) % of.max(1);
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
        self.plan_jobs(sweep, &jobs).await
    }

    async fn plan_jobs(&mut self, sweep: usize, jobs: &[NewJob]) -> Result<()> {
        let planned = match self.store.plan(self.ids[sweep], &Plan { jobs: jobs.to_vec() }).await {
            Ok(planned) => Some(planned),
            Err(StoreError::BadPlan { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let expected = self.model.plan(sweep, jobs);
        ensure!(planned == expected, "planned {planned:?}, expected {expected:?}");
        Ok(())
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
            worker: WorkerId("w".to_owned()),
            rungs,
            max_jobs: 1 + u32::from(step.b % 3),
            duration: Duration::from_secs(30),
            token: fixture::token(),
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
            ensure!(found.sweep == self.ids[job.sweep], "sweep of {found:?}");
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
        let status = self.store.fail(&reference, "broken", LIMITS, self.model.now).await?;
        let held = self.model.held(index, &reference);
        ensure!((status == LeaseStatus::Held) == held, "fail: {status:?}");
        if held {
            let job = &mut self.model.jobs[index];
            job.errors += 1;
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
        let mut expected = 0;
        for job in &mut self.model.jobs {
            if job.state == JobState::Leased && (all || job.expires < now) {
                job.lost += 1;
                job.state = LIMITS.after_failure(job.lost, job.errors);
                expected += 1;
            }
        }
        ensure!(reaped == expected, "{reaped} reaped, expected {expected}");
        Ok(())
    }

    async fn set_state(&mut self, sweep: usize, to: SweepState) -> Result<()> {
        let allowed = self.model.sweeps[sweep].state.check_transition(to).is_ok();
        match self.store.set_sweep_state(self.ids[sweep], to).await {
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
        let retried = self.store.retry_failed(self.ids[sweep]).await?;
        let mut expected = 0;
        for job in
            self.model.jobs.iter_mut().filter(|job| job.sweep == sweep && job.state == JobState::Parked)
        {
            (job.state, job.lost, job.errors) = (JobState::Ready, 0, 0);
            expected += 1;
        }
        ensure!(retried == expected, "{retried} retried, expected {expected}");
        Ok(())
    }

    /// Everything that can be read is as the model says.
    async fn compare(&self) -> Result<()> {
        let mut ready = 0;
        for (sweep, id) in self.ids.iter().enumerate() {
            let (store, model) = (self.store, &self.model);
            ensure!(store.sweep(*id).await?.state == model.sweeps[sweep].state, "state of sweep {id}");
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
        let mut failed: Vec<_> = self
            .store
            .failed_jobs(id)
            .await?
            .into_iter()
            .map(|job| (job.job, job.lost, job.errors))
            .collect();
        failed.sort_by_key(|(job, ..)| (job.point.clone(), key(job)));
        let mut expected: Vec<_> = own()
            .filter(|job| job.state == JobState::Parked)
            .map(|job| (job.new.clone(), job.lost, job.errors))
            .collect();
        expected.sort_by_key(|(job, ..)| (job.point.clone(), key(job)));
        ensure!(failed == expected, "failed jobs {failed:?}, expected {expected:?}");

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

async fn run_history(store: &dyn Store, steps: &[Step]) -> Result<()> {
    let model = Model::new();
    let mut ids = Vec::new();
    for sweep in &model.sweeps {
        ids.push(fixture::create(store, &sweep.definition).await?);
    }
    let mut pair = Pair { store, ids, model, leases: Vec::new() };
    for (number, step) in steps.iter().enumerate() {
        pair.step(step).await.with_context(|| format!("step {number}: {step:?}"))?;
        if number % 6 == 5 {
            pair.compare().await.with_context(|| format!("after step {number}: {step:?}"))?;
        }
    }
    pair.compare().await.context("in the end")
}

/// Random histories of every operation leave the store as they leave the model. `AVSWEEP_HISTORIES` sets how many.
pub(crate) fn any_history_agrees_with_the_model<F, G, S>(make: impl Fn() -> F) -> Result<()>
where
    F: Future<Output = Result<(G, S)>>,
    S: Store,
{
    let cases = match std::env::var("AVSWEEP_HISTORIES") {
        Ok(number) => number.parse().context("AVSWEEP_HISTORIES")?,
        Err(_) => 40,
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
