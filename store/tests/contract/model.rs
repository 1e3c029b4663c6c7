//! Random histories against a model of the store that is too simple to be wrong: vectors, maps, and no sharing of
//! code with any store.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use avsweep_domain::{
    FailureLimits, Fingerprint, JobId, JobState, LeaseToken, Point, QueryScore, QuerySlice, Response, Rung,
    SweepDefinition, SweepId, SweepState, Verdict, WorkerId,
};
use avsweep_store::{
    JobResults, LeaseClaim, LeaseRef, LeaseStatus, NewJob, Plan, Planned, Report, ResultRow, ResultValue, RungCounts,
    Store, StoreError, SweepTotals, Timestamp, Timings,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

use super::fixture::{self, EVERY_RUNG, NOW};

const LIMITS: FailureLimits = FailureLimits { lost: 3, errors: 2 };
const POINTS: [&str; 4] = ["0,0", "0,0.5", "-1,1", "0.5,0"];
const SLICES: [QuerySlice; 4] = [
    QuerySlice { start: 0, end: 6 },
    QuerySlice { start: 6, end: 10 },
    QuerySlice { start: 2, end: 8 },
    QuerySlice { start: 0, end: 1 },
];

/// Three sweeps that share much: the second has some other queries and one twin, the third decodes otherwise.
fn definitions() -> Vec<SweepDefinition> {
    let first = fixture::definition("first");
    let mut second = fixture::definition("second");
    second.domains[0].search[1] = fixture::query("only-second");
    second.domains[1].confirm[0] = second.domains[0].search[0].clone();
    second.domains[1].confirm[0].id = "twin".to_owned();
    let mut third = fixture::definition("third");
    third.evaluation.decode.max_new_tokens = 9;
    vec![first, second, third]
}

#[derive(Debug, Clone)]
struct ModelJob {
    sweep: usize,
    new: NewJob,
    state: JobState,
    attempt: u32,
    token: Option<LeaseToken>,
    expires: Timestamp,
    lost: u32,
    errors: u32,
    /// What the worker got with the latest lease.
    ordinals: Vec<u32>,
    responses: Vec<Response>,
    id: Option<JobId>,
}

#[derive(Debug)]
struct ModelSweep {
    definition: SweepDefinition,
    /// The queries' fingerprints by ordinal.
    queries: Vec<Fingerprint>,
    decoding: Fingerprint,
    judge: Fingerprint,
    state: SweepState,
    points: BTreeSet<Point>,
    results: u64,
    duplicates: u64,
}

type AtPoint = (Point, Fingerprint);
type Decoded = (Point, Fingerprint, Fingerprint);

#[derive(Debug)]
struct Model {
    now: Timestamp,
    sweeps: Vec<ModelSweep>,
    jobs: Vec<ModelJob>,
    scores: HashMap<AtPoint, QueryScore>,
    /// By point, query and decoding.
    responses: HashMap<Decoded, Response>,
    /// By query, text and judge.
    verdicts: HashMap<(Fingerprint, String, Fingerprint), Verdict>,
    /// By point, query and decoding, then judge.
    judged: HashMap<(Decoded, Fingerprint), Verdict>,
}

impl Model {
    fn new() -> Self {
        let sweeps = definitions()
            .into_iter()
            .map(|definition| ModelSweep {
                queries: definition.queries().map(|entry| entry.query.fingerprint()).collect(),
                decoding: definition.decode_fingerprint(),
                judge: definition.judge_fingerprint(),
                definition,
                state: SweepState::Running,
                points: BTreeSet::new(),
                results: 0,
                duplicates: 0,
            })
            .collect();
        Self {
            now: NOW,
            sweeps,
            jobs: Vec::new(),
            scores: HashMap::new(),
            responses: HashMap::new(),
            verdicts: HashMap::new(),
            judged: HashMap::new(),
        }
    }

    fn decoded(&self, sweep: usize, point: &Point, ordinal: u32) -> Decoded {
        let sweep = &self.sweeps[sweep];
        (point.clone(), sweep.queries[ordinal as usize], sweep.decoding)
    }

    fn has(&self, sweep: usize, point: &Point, rung: Rung, ordinal: u32) -> bool {
        let key = self.decoded(sweep, point, ordinal);
        match rung {
            Rung::Likelihood => self.scores.contains_key(&(key.0, key.1)),
            Rung::Generation => self.responses.contains_key(&key),
            Rung::Judgement => self.judged.contains_key(&(key, self.sweeps[sweep].judge)),
        }
    }

    /// The ordinals of a slice without a result; of those that share a query the first.
    fn lacking(&self, sweep: usize, job: &NewJob) -> Vec<u32> {
        let mut seen = Vec::new();
        let mut lacking = Vec::new();
        for ordinal in job.slice.ordinals() {
            let query = self.sweeps[sweep].queries[ordinal as usize];
            if !seen.contains(&query) && !self.has(sweep, &job.point, job.rung, ordinal) {
                lacking.push(ordinal);
            }
            seen.push(query);
        }
        lacking
    }

    /// Gives the responses of a judgement job the verdicts there are for the same text.
    fn resolve(&mut self, sweep: usize, job: &NewJob) {
        let judge = self.sweeps[sweep].judge;
        for ordinal in job.slice.ordinals() {
            let key = self.decoded(sweep, &job.point, ordinal);
            let Some(response) = self.responses.get(&key) else { continue };
            if let Some(verdict) = self.verdicts.get(&(key.1, response.text.clone(), judge)) {
                self.judged.entry((key, judge)).or_insert_with(|| verdict.clone());
            }
        }
    }

    /// `None`: refused, because there is nothing to judge.
    fn plan(&mut self, sweep: usize, jobs: &[NewJob]) -> Option<Planned> {
        for job in jobs.iter().filter(|job| job.rung == Rung::Judgement) {
            if !job.slice.ordinals().all(|ordinal| self.has(sweep, &job.point, Rung::Generation, ordinal)) {
                return None;
            }
        }
        let mut planned = Planned::default();
        for job in jobs {
            planned.new_points += u64::from(self.sweeps[sweep].points.insert(job.point.clone()));
            if job.rung == Rung::Judgement {
                self.resolve(sweep, job);
            }
            let same = |other: &ModelJob| {
                other.sweep == sweep
                    && (&other.new.point, other.new.rung, other.new.slice) == (&job.point, job.rung, job.slice)
            };
            if self.jobs.iter().any(same) {
                continue;
            }
            let covered = self.lacking(sweep, job).is_empty();
            *(if covered { &mut planned.reused_jobs } else { &mut planned.new_jobs }) += 1;
            self.jobs.push(ModelJob {
                sweep,
                new: job.clone(),
                state: if covered { JobState::Done } else { JobState::Ready },
                attempt: 0,
                token: None,
                expires: self.now,
                lost: 0,
                errors: 0,
                ordinals: Vec::new(),
                responses: Vec::new(),
                id: None,
            });
        }
        Some(planned)
    }

    fn lease(&mut self, claim: &LeaseClaim) -> Vec<usize> {
        loop {
            let mut ready: Vec<usize> = (0..self.jobs.len())
                .filter(|index| {
                    let job = &self.jobs[*index];
                    job.state == JobState::Ready
                        && claim.rungs.contains(&job.new.rung)
                        && self.sweeps[job.sweep].state == SweepState::Running
                })
                .collect();
            ready.sort_by_key(|index| (-self.jobs[*index].new.priority, *index));
            ready.truncate(claim.max_jobs as usize);
            let mut leased = Vec::new();
            for index in &ready {
                let (sweep, new) = (self.jobs[*index].sweep, self.jobs[*index].new.clone());
                if new.rung == Rung::Judgement {
                    self.resolve(sweep, &new);
                }
                let ordinals = self.lacking(sweep, &new);
                let responses = match new.rung {
                    Rung::Judgement => ordinals
                        .iter()
                        .map(|ordinal| self.responses[&self.decoded(sweep, &new.point, *ordinal)].clone())
                        .collect(),
                    Rung::Likelihood | Rung::Generation => Vec::new(),
                };
                let expires = self.now.plus(claim.duration);
                let job = &mut self.jobs[*index];
                job.attempt += 1;
                job.state = if ordinals.is_empty() { JobState::Done } else { JobState::Leased };
                job.token = (!ordinals.is_empty()).then_some(claim.token);
                job.expires = expires;
                if !ordinals.is_empty() {
                    leased.push(*index);
                }
                (job.ordinals, job.responses) = (ordinals, responses);
            }
            if !leased.is_empty() || ready.is_empty() {
                return leased;
            }
        }
    }

    fn held(&self, index: usize, lease: &LeaseRef) -> bool {
        let job = &self.jobs[index];
        job.state == JobState::Leased
            && (job.attempt, job.token) == (lease.attempt, Some(lease.token))
            && self.now <= job.expires
    }

    /// `None`: refused, because it is the last report and something is missing.
    fn report(&mut self, index: usize, report: &Report) -> Option<LeaseStatus> {
        if !self.held(index, &report.lease) {
            return Some(LeaseStatus::Lost);
        }
        let (sweep, new) = (self.jobs[index].sweep, self.jobs[index].new.clone());
        let reported: Vec<u32> = match &report.results {
            JobResults::Scores(rows) => rows.iter().map(|row| row.0).collect(),
            JobResults::Responses(rows) => rows.iter().map(|row| row.0).collect(),
            JobResults::Verdicts(rows) => rows.iter().map(|row| row.0).collect(),
        };
        let queries = |ordinals: &[u32]| -> Vec<Fingerprint> {
            ordinals.iter().map(|ordinal| self.sweeps[sweep].queries[*ordinal as usize]).collect()
        };
        let brought = queries(&reported);
        if report.finished && queries(&self.lacking(sweep, &new)).iter().any(|query| !brought.contains(query)) {
            return None;
        }
        let judge = self.sweeps[sweep].judge;
        let (before, count) = (self.scores.len() + self.responses.len() + self.verdicts.len(), reported.len());
        match &report.results {
            JobResults::Scores(rows) => {
                for (ordinal, score) in rows {
                    let (point, query, _) = self.decoded(sweep, &new.point, *ordinal);
                    self.scores.entry((point, query)).or_insert_with(|| score.clone());
                }
            }
            JobResults::Responses(rows) => {
                for (ordinal, response) in rows {
                    let key = self.decoded(sweep, &new.point, *ordinal);
                    self.responses.entry(key).or_insert_with(|| response.clone());
                }
            }
            JobResults::Verdicts(rows) => {
                for (ordinal, verdict) in rows {
                    let key = self.decoded(sweep, &new.point, *ordinal);
                    let pair = (key.1, self.responses[&key].text.clone(), judge);
                    let kept = self.verdicts.entry(pair).or_insert_with(|| verdict.clone()).clone();
                    self.judged.entry((key, judge)).or_insert(kept);
                }
            }
        }
        let new = self.scores.len() + self.responses.len() + self.verdicts.len() - before;
        self.sweeps[sweep].results += new as u64;
        self.sweeps[sweep].duplicates += (count - new) as u64;
        if report.finished {
            self.jobs[index].state = JobState::Done;
        }
        Some(LeaseStatus::Held)
    }

    fn rows(&self, sweep: usize) -> Vec<ResultRow> {
        let mut rows = Vec::new();
        for point in &self.sweeps[sweep].points {
            for ordinal in 0..self.sweeps[sweep].queries.len() as u32 {
                let key = self.decoded(sweep, point, ordinal);
                let score = self.scores.get(&(key.0.clone(), key.1)).cloned().map(ResultValue::Score);
                let response = self.responses.get(&key).cloned().map(ResultValue::Response);
                let verdict =
                    self.judged.get(&(key, self.sweeps[sweep].judge)).cloned().map(ResultValue::Verdict);
                let values = [score, response, verdict].into_iter().flatten();
                rows.extend(values.map(|value| ResultRow { point: point.clone(), ordinal, value }));
            }
        }
        rows
    }

    fn totals(&self, sweep: usize) -> SweepTotals {
        let counts = |rung| {
            let count = |state| {
                let is = |job: &&ModelJob| job.sweep == sweep && job.new.rung == rung && job.state == state;
                self.jobs.iter().filter(is).count() as u64
            };
            RungCounts {
                ready: count(JobState::Ready),
                leased: count(JobState::Leased),
                done: count(JobState::Done),
                parked: count(JobState::Parked),
            }
        };
        SweepTotals {
            points: self.sweeps[sweep].points.len() as u64,
            likelihood: counts(Rung::Likelihood),
            generation: counts(Rung::Generation),
            judgement: counts(Rung::Judgement),
            results: self.sweeps[sweep].results,
            duplicate_results: self.sweeps[sweep].duplicates,
            timings: Timings::default(),
        }
    }
}

/// A step of a history: what to do, and numbers to choose by.
#[derive(Debug, Clone)]
struct Step {
    kind: u8,
    a: u16,
    b: u16,
    c: u16,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0u8..24, any::<u16>(), any::<u16>(), any::<u16>()).prop_map(|(kind, a, b, c)| Step { kind, a, b, c });
    prop::collection::vec(step, 1..70)
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
                let back = pick(step.a, self.leases.len().min(if step.b % 4 == 0 { 40 } else { 4 }));
                self.report(self.leases.len() - 1 - back, step).await
            }
            18 if !self.leases.is_empty() => self.fail(pick(step.a, self.leases.len())).await,
            19 if !self.leases.is_empty() => self.keep_or_release(pick(step.a, self.leases.len()), step.b % 2 == 0).await,
            20 => {
                self.model.now = self.model.now.plus(Duration::from_secs(u64::from(step.a % 40)));
                Ok(())
            }
            21 => self.reap(step.a % 4 == 0).await,
            22 => self.set_state(pick(step.a, 3), SweepState::ALL[pick(step.b, 3)]).await,
            23 => self.retry(pick(step.a, 3)).await,
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
        let planned = match self.store.plan(self.ids[sweep], &Plan { jobs: jobs.clone() }).await {
            Ok(planned) => Some(planned),
            Err(StoreError::BadPlan { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let expected = self.model.plan(sweep, &jobs);
        ensure!(planned == expected, "planned {planned:?}, expected {expected:?}");
        Ok(())
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
            ensure!((&found.point, found.rung) == (&job.new.point, job.new.rung), "{found:?}, expected {job:?}");
            ensure!((&found.ordinals, &found.responses) == (&job.ordinals, &job.responses), "{found:?}, not {job:?}");
            self.leases.push((index, found.lease.reference));
        }
        Ok(())
    }

    async fn report(&mut self, lease: usize, step: &Step) -> Result<()> {
        let (index, mut reference) = self.leases[lease];
        let job = &self.model.jobs[index];
        let definition = &self.model.sweeps[job.sweep].definition;
        if step.b % 13 == 0 {
            reference.token = fixture::token();
        }
        // Evaluations that differ from one another: whichever is stored first must stay.
        let salted = |ordinal: u32| format!("{}/{}", fixture::query_id(definition, ordinal), step.c % 2);
        let whole = step.b % 3 != 0;
        let chosen = job.ordinals.iter().enumerate().filter(|(at, _)| whole || step.c >> (at % 16) & 1 == 1);
        let point = &job.new.point;
        let results = match job.new.rung {
            Rung::Likelihood => {
                JobResults::Scores(chosen.map(|(_, o)| (*o, fixture::score(point, &salted(*o), 3))).collect())
            }
            Rung::Generation => {
                JobResults::Responses(chosen.map(|(_, o)| (*o, fixture::response(point, &salted(*o)))).collect())
            }
            Rung::Judgement => JobResults::Verdicts(
                chosen.map(|(at, o)| (*o, fixture::verdict(&salted(*o), &job.responses[at].text))).collect(),
            ),
        };
        let report = Report { lease: reference, results, finished: step.a % 3 != 0, timings: Timings::default() };
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
            ensure!(statuses == [if held { LeaseStatus::Held } else { LeaseStatus::Lost }], "renew: {statuses:?}");
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
        for job in self.model.jobs.iter_mut().filter(|job| job.sweep == sweep && job.state == JobState::Parked) {
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
        let mut failed: Vec<_> =
            self.store.failed_jobs(id).await?.into_iter().map(|job| (job.job, job.lost, job.errors)).collect();
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
