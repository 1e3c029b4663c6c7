//! A model of the store that is too simple to be wrong: vectors, maps, and no code shared with any store.

use std::collections::{BTreeSet, HashMap, HashSet};

use avsweep_domain::{
    FailureLimits, Fingerprint, JobId, JobState, LeaseToken, Point, QueryScore, Response, Rung,
    SweepDefinition, SweepId, SweepState, Verdict, WorkerId,
};
use avsweep_store::{
    Deleted, JobResults, LeaseClaim, LeaseRef, LeaseStatus, NewJob, Overview, Planned, PlanningGuard, Report,
    ResultRow, ResultValue, RungCounts, SweepTotals, Timestamp,
};

use super::fixture::{self, NOW};

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

/// No sweep.
pub(crate) const GONE: usize = usize::MAX;

#[derive(Debug, Clone)]
pub(crate) struct ModelJob {
    /// [`GONE`] when its sweep was deleted.
    pub(crate) sweep: usize,
    pub(crate) new: NewJob,
    pub(crate) state: JobState,
    pub(crate) attempt: u32,
    pub(crate) token: Option<LeaseToken>,
    pub(crate) expires: Timestamp,
    pub(crate) leased_at: Timestamp,
    pub(crate) worker: Option<WorkerId>,
    pub(crate) lost: u32,
    pub(crate) errors: u32,
    /// What the worker got with the latest lease.
    pub(crate) ordinals: Vec<u32>,
    pub(crate) responses: Vec<Response>,
    pub(crate) id: Option<JobId>,
}

#[derive(Debug)]
pub(crate) struct ModelSweep {
    pub(crate) definition: SweepDefinition,
    /// The queries' fingerprints by ordinal.
    pub(crate) queries: Vec<Fingerprint>,
    pub(crate) decoding: Fingerprint,
    pub(crate) judge: Fingerprint,
    pub(crate) id: SweepId,
    pub(crate) state: SweepState,
    pub(crate) priority: i32,
    /// Who plans, until when, in which term.
    pub(crate) planner: Option<(LeaseToken, Timestamp)>,
    pub(crate) term: u64,
    pub(crate) points: BTreeSet<Point>,
    pub(crate) results: u64,
    pub(crate) duplicates: u64,
    pub(crate) lost: u64,
    pub(crate) errors: u64,
}

impl ModelSweep {
    pub(crate) fn new(definition: SweepDefinition) -> Self {
        Self {
            queries: definition.queries().map(|entry| entry.query.fingerprint()).collect(),
            decoding: definition.decode_fingerprint(),
            judge: definition.judge_fingerprint(),
            definition,
            id: SweepId(0),
            state: SweepState::Running,
            priority: 0,
            planner: None,
            term: 0,
            points: BTreeSet::new(),
            results: 0,
            duplicates: 0,
            lost: 0,
            errors: 0,
        }
    }
}

type AtPoint = (Point, Fingerprint);
type Decoded = (Point, Fingerprint, Fingerprint);

#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) now: Timestamp,
    pub(crate) sweeps: Vec<ModelSweep>,
    pub(crate) jobs: Vec<ModelJob>,
    pub(crate) scores: HashMap<AtPoint, QueryScore>,
    /// By point, query and decoding.
    pub(crate) responses: HashMap<Decoded, Response>,
    /// By query, text and judge.
    pub(crate) verdicts: HashMap<(Fingerprint, String, Fingerprint), Verdict>,
    /// By point, query and decoding, then judge.
    pub(crate) judged: HashMap<(Decoded, Fingerprint), Verdict>,
}

impl Model {
    pub(crate) fn new() -> Self {
        let sweeps = definitions().into_iter().map(ModelSweep::new).collect();
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

    pub(crate) fn decoded(&self, sweep: usize, point: &Point, ordinal: u32) -> Decoded {
        let sweep = &self.sweeps[sweep];
        (point.clone(), sweep.queries[ordinal as usize], sweep.decoding)
    }

    pub(crate) fn has(&self, sweep: usize, point: &Point, rung: Rung, ordinal: u32) -> bool {
        let key = self.decoded(sweep, point, ordinal);
        match rung {
            Rung::Likelihood => self.scores.contains_key(&(key.0, key.1)),
            Rung::Generation => self.responses.contains_key(&key),
            Rung::Judgement => self.judged.contains_key(&(key, self.sweeps[sweep].judge)),
        }
    }

    /// The ordinals of a slice without a result; of those that share a query the first.
    pub(crate) fn lacking(&self, sweep: usize, job: &NewJob) -> Vec<u32> {
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
    pub(crate) fn resolve(&mut self, sweep: usize, job: &NewJob) {
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
    pub(crate) fn plan(&mut self, sweep: usize, jobs: &[NewJob]) -> Option<Planned> {
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
                    && (&other.new.point, other.new.rung, other.new.slice)
                        == (&job.point, job.rung, job.slice)
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
                leased_at: self.now,
                worker: None,
                lost: 0,
                errors: 0,
                ordinals: Vec::new(),
                responses: Vec::new(),
                id: None,
            });
        }
        Some(planned)
    }

    /// The ready jobs that a claim gets, whether they lack results or not.
    fn next_jobs(&self, claim: &LeaseClaim) -> Vec<usize> {
        let with = |sweep: usize, state: JobState| {
            self.jobs.iter().enumerate().filter(move |(_, job)| {
                job.sweep == sweep && job.state == state && claim.rungs.contains(&job.new.rung)
            })
        };
        let mut order: Vec<usize> = (0..self.sweeps.len())
            .filter(|sweep| {
                let ModelSweep { id, state, .. } = &self.sweeps[*sweep];
                *state == SweepState::Running && !claim.except.contains(id)
            })
            .collect();
        order.sort_by_key(|sweep| {
            let ModelSweep { id, priority, .. } = &self.sweeps[*sweep];
            let drawn = Fingerprint::of(&[&claim.token.as_bytes()[..], &id.0.to_le_bytes()[..]].concat());
            let leased = with(*sweep, JobState::Leased).count();
            (-priority, claim.prefers != Some(*id), leased, *drawn.as_bytes())
        });
        let mut jobs = Vec::new();
        for sweep in order {
            let mut ready: Vec<usize> = with(sweep, JobState::Ready).map(|(index, _)| index).collect();
            ready.sort_by_key(|index| (-self.jobs[*index].new.priority, *index));
            jobs.extend(ready);
        }
        jobs.truncate(claim.max_jobs as usize);
        jobs
    }

    /// Takes a job's lease back, counted as lost or not.
    fn take_back(&mut self, index: usize, limits: Option<FailureLimits>) {
        let job = &mut self.jobs[index];
        job.state = match limits {
            None => JobState::Ready,
            Some(limits) => {
                job.lost += 1;
                self.sweeps[job.sweep].lost += 1;
                limits.after_failure(job.lost, job.errors)
            }
        };
    }

    pub(crate) fn reap(&mut self, limits: FailureLimits) -> u64 {
        let now = self.now;
        self.take_leases(limits, |job| job.expires < now)
    }

    pub(crate) fn reap_all(&mut self, limits: FailureLimits) -> u64 {
        self.take_leases(limits, |_| true)
    }

    /// Of each worker's leases only the first counts.
    fn take_leases(&mut self, limits: FailureLimits, which: impl Fn(&ModelJob) -> bool) -> u64 {
        let mut held: Vec<usize> = (0..self.jobs.len())
            .filter(|index| self.jobs[*index].state == JobState::Leased && which(&self.jobs[*index]))
            .collect();
        held.sort_by_key(|index| {
            let job = &self.jobs[*index];
            (job.leased_at, -job.new.priority, *index)
        });
        let mut blamed = HashSet::new();
        for index in &held {
            let first = blamed.insert(self.jobs[*index].worker.clone());
            self.take_back(*index, first.then_some(limits));
        }
        held.len() as u64
    }

    pub(crate) fn claim_planning(
        &mut self,
        sweep: usize,
        holder: LeaseToken,
        until: Timestamp,
    ) -> Option<PlanningGuard> {
        let now = self.now;
        let sweep = &mut self.sweeps[sweep];
        match sweep.planner {
            Some((other, end)) if other != holder && end >= now => return None,
            Some((other, _)) if other == holder => {}
            _ => sweep.term += 1,
        }
        sweep.planner = Some((holder, until));
        Some(PlanningGuard { sweep: sweep.id, holder, term: sweep.term })
    }

    pub(crate) fn may_plan(&self, sweep: usize, guard: &PlanningGuard) -> bool {
        let sweep = &self.sweeps[sweep];
        (guard.sweep, guard.term) == (sweep.id, sweep.term)
            && sweep.planner.is_some_and(|(holder, end)| holder == guard.holder && end >= self.now)
    }

    /// `None`: refused, because it is worked on.
    pub(crate) fn delete(&mut self, sweep: usize) -> Option<Deleted> {
        if matches!(self.sweeps[sweep].state, SweepState::Running | SweepState::Paused) {
            return None;
        }
        let fresh = ModelSweep::new(self.sweeps[sweep].definition.clone());
        let old = std::mem::replace(&mut self.sweeps[sweep], fresh);
        let mut deleted = Deleted::default();
        for job in self.jobs.iter_mut().filter(|job| job.sweep == sweep) {
            (job.sweep, job.state) = (GONE, JobState::Done);
            deleted.jobs += 1;
        }
        for point in old.points {
            if self.sweeps.iter().any(|other| other.points.contains(&point)) {
                continue;
            }
            deleted.points += 1;
            self.scores.retain(|key, _| key.0 != point);
            self.judged.retain(|key, _| key.0.0 != point);
            self.responses.retain(|key, _| key.0 != point);
        }
        let used: HashSet<_> = (self.judged.keys())
            .map(|(key, judge)| (key.1, self.responses[key].text.clone(), *judge))
            .collect();
        self.verdicts.retain(|key, _| used.contains(key));
        Some(deleted)
    }

    pub(crate) fn lease(&mut self, claim: &LeaseClaim) -> Vec<usize> {
        loop {
            let ready = self.next_jobs(claim);
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
                let (now, expires) = (self.now, self.now.plus(claim.duration));
                let job = &mut self.jobs[*index];
                job.attempt += 1;
                job.state = if ordinals.is_empty() { JobState::Done } else { JobState::Leased };
                job.token = (!ordinals.is_empty()).then_some(claim.token);
                job.expires = expires;
                job.leased_at = now;
                job.worker = Some(claim.worker.clone());
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

    pub(crate) fn held(&self, index: usize, lease: &LeaseRef) -> bool {
        let job = &self.jobs[index];
        job.state == JobState::Leased
            && (job.attempt, job.token) == (lease.attempt, Some(lease.token))
            && self.now <= job.expires
    }

    /// `None`: refused, because it is the last report and something is missing.
    pub(crate) fn report(&mut self, index: usize, report: &Report) -> Option<LeaseStatus> {
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
        if report.finished && queries(&self.lacking(sweep, &new)).iter().any(|query| !brought.contains(query))
        {
            return None;
        }
        let judge = self.sweeps[sweep].judge;
        let (before, count) =
            (self.scores.len() + self.responses.len() + self.verdicts.len(), reported.len());
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
        if new > 0 {
            self.jobs[index].lost = 0;
        }
        self.sweeps[sweep].results += new as u64;
        self.sweeps[sweep].duplicates += (count - new) as u64;
        if report.finished {
            self.jobs[index].state = JobState::Done;
        }
        Some(LeaseStatus::Held)
    }

    pub(crate) fn rows(&self, sweep: usize) -> Vec<ResultRow> {
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

    fn counts(&self, rung: Rung, of: impl Fn(usize) -> bool) -> RungCounts {
        let count = |state| {
            let is = |job: &&ModelJob| of(job.sweep) && job.new.rung == rung && job.state == state;
            self.jobs.iter().filter(is).count() as u64
        };
        RungCounts {
            ready: count(JobState::Ready),
            leased: count(JobState::Leased),
            done: count(JobState::Done),
            parked: count(JobState::Parked),
            raced: count(JobState::Raced),
        }
    }

    pub(crate) fn overview(&self) -> Overview {
        let counts = |rung| self.counts(rung, |sweep| sweep != GONE);
        let ends = || self.jobs.iter().filter(|job| job.state == JobState::Leased).map(|job| job.expires);
        Overview {
            likelihood: counts(Rung::Likelihood),
            generation: counts(Rung::Generation),
            judgement: counts(Rung::Judgement),
            running: self.sweeps.iter().filter(|sweep| sweep.state == SweepState::Running).count() as u64,
            expired: ends().filter(|end| *end < self.now).count() as u64,
            next_expiry: ends().filter(|end| *end >= self.now).min(),
        }
    }

    pub(crate) fn totals(&self, sweep: usize) -> SweepTotals {
        let counts = |rung| self.counts(rung, |other| other == sweep);
        let holders: HashSet<_> = (self.jobs.iter())
            .filter(|job| job.sweep == sweep && job.state == JobState::Leased)
            .map(|job| &job.worker)
            .collect();
        SweepTotals {
            points: self.sweeps[sweep].points.len() as u64,
            likelihood: counts(Rung::Likelihood),
            generation: counts(Rung::Generation),
            judgement: counts(Rung::Judgement),
            results: self.sweeps[sweep].results,
            duplicate_results: self.sweeps[sweep].duplicates,
            lost: self.sweeps[sweep].lost,
            errors: self.sweeps[sweep].errors,
            holders: holders.len() as u32,
            ..SweepTotals::default()
        }
    }
}
