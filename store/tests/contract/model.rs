//! A model of the store that is too simple to be wrong: vectors, maps, and no code shared with any store.

use std::collections::{BTreeSet, HashMap};

use avsweep_domain::{
    Fingerprint, JobId, JobState, LeaseToken, Point, QueryScore, Response, Rung, SweepDefinition, SweepState,
    Verdict,
};
use avsweep_store::{
    JobResults, LeaseClaim, LeaseRef, LeaseStatus, NewJob, Planned, Report, ResultRow, ResultValue,
    RungCounts, SweepTotals, Timestamp, Timings,
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

#[derive(Debug, Clone)]
pub(crate) struct ModelJob {
    pub(crate) sweep: usize,
    pub(crate) new: NewJob,
    pub(crate) state: JobState,
    pub(crate) attempt: u32,
    pub(crate) token: Option<LeaseToken>,
    pub(crate) expires: Timestamp,
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
    pub(crate) state: SweepState,
    pub(crate) points: BTreeSet<Point>,
    pub(crate) results: u64,
    pub(crate) duplicates: u64,
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
                lost: 0,
                errors: 0,
                ordinals: Vec::new(),
                responses: Vec::new(),
                id: None,
            });
        }
        Some(planned)
    }

    pub(crate) fn lease(&mut self, claim: &LeaseClaim) -> Vec<usize> {
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

    pub(crate) fn totals(&self, sweep: usize) -> SweepTotals {
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
