//! Small sweeps, made-up results, and shorthands for the calls that most laws need.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use avsweep_domain::{
    Coefficient, Coverage, DecodeSettings, DomainDefinition, Dtype, Evaluation, Fingerprint, FinishReason,
    JobState, JudgeProvider, JudgeSettings, JudgementTally, Label, LeaseToken, Level, Levels,
    LikelihoodTally, Message, ModelSource, Point, PointTallies, Query, QueryScore, QuerySet, QuerySlice,
    Range, ReferenceScore, Response, Role, Rung, SetTallies, Space, Strategy, SweepDefinition, SweepId,
    Ticks, VectorSource, Verdict, WorkerId,
};
use avsweep_store::{
    JobFilter, JobRecord, JobResults, LeaseClaim, LeaseRef, LeaseStatus, LeasedJob, NewJob, Plan, Planned,
    PointFilter, Report, ResultRow, ResultValue, Store, StoreError, Timestamp, Timings,
};

/// The clock of the laws: nothing here reads a real one.
pub(crate) const NOW: Timestamp = Timestamp(1_700_000_000_000);
/// How long leases last here.
pub(crate) const LEASE: Duration = Duration::from_secs(60);
/// After every lease taken at [`NOW`] has ended.
pub(crate) const LATER: Timestamp = Timestamp(NOW.0 + 61_000);

pub(crate) const SEARCH: QuerySlice = QuerySlice { start: 0, end: 6 };
pub(crate) const CONFIRM: QuerySlice = QuerySlice { start: 6, end: 10 };

/// Two coefficients from −1 to 1 by 0.5, two domains with 3 search and 2 confirm queries each, three levels.
pub(crate) fn definition(name: &str) -> SweepDefinition {
    let coefficient = |name: &str, vector| Coefficient {
        name: name.to_owned(),
        vector,
        tensors: None,
        range: Range::new(Ticks::new(-10_000), Ticks::new(10_000), Ticks::new(5000)).expect("divides"),
    };
    let vector = |name: &str| VectorSource {
        name: name.to_owned(),
        path: format!("{name}.safetensors"),
        fingerprint: Fingerprint::of(name.as_bytes()),
    };
    let domain = |name: &str| DomainDefinition {
        name: name.to_owned(),
        search: (0..3).map(|index| query(&format!("{name}-{index}"))).collect(),
        confirm: (3..5).map(|index| query(&format!("{name}-{index}"))).collect(),
    };
    SweepDefinition {
        name: name.to_owned(),
        model: ModelSource {
            path: "base".to_owned(),
            dtype: Dtype::F32,
            fingerprint: Fingerprint::of(b"base"),
        },
        vectors: vec![vector("medical"), vector("legal")],
        space: Space::new(vec![coefficient("alpha", 0), coefficient("beta", 1)]).expect("names differ"),
        levels: Levels::default(),
        domains: vec![domain("medical"), domain("legal")],
        strategy: Strategy::Grid,
        evaluation: Evaluation {
            likelihood: Coverage::All,
            generation: Coverage::Finalists,
            finalists_per_target: 1,
            decode: DecodeSettings::greedy(8),
            ladder: None,
            racing: None,
        },
        judge: JudgeSettings {
            provider: JudgeProvider::Openai {
                base_url: "http://judge.invalid/v1".to_owned(),
                model: "judge".to_owned(),
                api_key_env: None,
                concurrency: 4,
                timeout_seconds: 30,
                max_attempts: 3,
            },
            rubric: "Which level?".to_owned(),
        },
    }
}

pub(crate) fn query(id: &str) -> Query {
    Query {
        id: id.to_owned(),
        messages: vec![Message { role: Role::User, content: format!("What of {id}?") }],
        references: ["no", "some", "much"].map(|level| format!("{level} {id}")).to_vec(),
    }
}

pub(crate) fn point(text: &str) -> Point {
    text.parse().expect("a point")
}

pub(crate) fn job(at: &str, rung: Rung, slice: QuerySlice) -> NewJob {
    NewJob { point: point(at), rung, slice, priority: 0 }
}

/// A number that depends on everything it is made from, the same everywhere.
fn mix(parts: &[&[u8]]) -> u64 {
    let content = parts.concat();
    let hash = Fingerprint::of(&content);
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("eight bytes"))
}

/// The score that every evaluation of a query at a point yields here.
pub(crate) fn score(point: &Point, query: &str, levels: usize) -> QueryScore {
    let references = (0..levels).map(|level| {
        let bits = mix(&[point.to_string().as_bytes(), query.as_bytes(), &[level as u8]]);
        ReferenceScore {
            // Every f64 in here must come back bit for bit.
            log_prob_sum: -((bits >> 11) as f64 / (1u64 << 53) as f64) * 50.0,
            tokens: 1 + (bits % 20) as u32,
            bytes: 1 + (bits % 97) as u32,
        }
    });
    QueryScore(references.collect())
}

/// The response that every generation for a query at a point yields here; a few points share each text.
pub(crate) fn response(point: &Point, query: &str) -> Response {
    let bits = mix(&[point.to_string().as_bytes(), query.as_bytes()]);
    let text = match bits % 3 {
        0 => String::new(),
        1 => format!("the usual \u{0}answer to {query} – “ja”"),
        _ => format!("another answer to {query}"),
    };
    Response {
        text,
        tokens: (bits % 9) as u32,
        finish: if bits.is_multiple_of(2) { FinishReason::Stop } else { FinishReason::Length },
    }
}

/// The verdict that the judge gives on a response here.
pub(crate) fn verdict(query: &str, text: &str) -> Verdict {
    let bits = mix(&[query.as_bytes(), b"/", text.as_bytes()]);
    Verdict {
        label: match bits % 5 {
            0 => Label::Unclear,
            1 => Label::Refused,
            level => Label::Level(Level((level - 2) as u8)),
        },
        confidence: bits.is_multiple_of(2).then_some((bits % 101) as f64 / 100.0),
        reason: (bits % 7 < 3).then(|| format!("because of {query}")),
    }
}

/// The id of the query at an ordinal.
pub(crate) fn query_id(definition: &SweepDefinition, ordinal: u32) -> &str {
    let entry = definition.queries().nth(ordinal as usize).expect("an ordinal of the sweep");
    &entry.query.id
}

/// What an evaluation of these ordinals of a leased job yields.
pub(crate) fn evaluate(definition: &SweepDefinition, job: &LeasedJob, ordinals: &[u32]) -> JobResults {
    let id = |ordinal: u32| query_id(definition, ordinal);
    match job.rung {
        Rung::Likelihood => JobResults::Scores(
            ordinals
                .iter()
                .map(|ordinal| (*ordinal, score(&job.point, id(*ordinal), definition.levels.len())))
                .collect(),
        ),
        Rung::Generation => JobResults::Responses(
            ordinals.iter().map(|ordinal| (*ordinal, response(&job.point, id(*ordinal)))).collect(),
        ),
        Rung::Judgement => JobResults::Verdicts(
            ordinals
                .iter()
                .map(|ordinal| {
                    let index = job.ordinals.iter().position(|own| own == ordinal).expect("of the job");
                    (*ordinal, verdict(id(*ordinal), &job.responses[index].text))
                })
                .collect(),
        ),
    }
}

/// A secret that no other claim has.
pub(crate) fn token() -> LeaseToken {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    LeaseToken::from_bytes(u128::from(NEXT.fetch_add(1, Ordering::Relaxed)).to_le_bytes())
}

pub(crate) fn claim(rungs: &[Rung], max_jobs: u32) -> LeaseClaim {
    LeaseClaim {
        worker: WorkerId("worker-1".to_owned()),
        rungs: rungs.to_vec(),
        max_jobs,
        duration: LEASE,
        token: token(),
        except: Vec::new(),
        prefers: None,
    }
}

pub(crate) const EVERY_RUNG: [Rung; 3] = [Rung::Likelihood, Rung::Generation, Rung::Judgement];

pub(crate) async fn create(store: &dyn Store, definition: &SweepDefinition) -> Result<SweepId> {
    Ok(store.create_sweep(definition, 0, NOW).await?.id)
}

pub(crate) async fn plan(store: &dyn Store, sweep: SweepId, jobs: Vec<NewJob>) -> Result<Planned> {
    Ok(store.plan(sweep, &Plan { jobs, ..Plan::default() }, None, NOW).await?)
}

/// Leases one job, which must be there.
pub(crate) async fn lease_one(store: &dyn Store) -> Result<LeasedJob> {
    let mut leased = store.lease(&claim(&EVERY_RUNG, 1), NOW).await?;
    ensure!(leased.len() <= 1, "more jobs than asked for");
    leased.pop().context("no job was ready")
}

/// What each of several claims gets; each is answered once.
pub(crate) async fn lease_several(
    store: &dyn Store,
    claims: &[LeaseClaim],
) -> Vec<Result<Vec<LeasedJob>, StoreError>> {
    let mut answers: Vec<_> = claims.iter().map(|_| None).collect();
    let mut answered = |place: usize, answer| {
        assert!(answers[place].replace(answer).is_none(), "claim {place} is answered twice");
    };
    store.lease_several(claims, NOW, &mut answered).await;
    answers.into_iter().map(|answer| answer.expect("every claim is answered")).collect()
}

pub(crate) fn report(lease: LeaseRef, results: JobResults, finished: bool) -> Report {
    Report { lease, results, finished, timings: Timings::default() }
}

/// Evaluates and reports some ordinals of a leased job.
pub(crate) async fn report_some(
    store: &dyn Store,
    definition: &SweepDefinition,
    job: &LeasedJob,
    ordinals: &[u32],
    finished: bool,
) -> Result<LeaseStatus> {
    let results = evaluate(definition, job, ordinals);
    Ok(store.report(&report(job.lease.reference, results, finished), NOW).await?)
}

/// Evaluates and reports a leased job as a whole.
pub(crate) async fn finish(store: &dyn Store, definition: &SweepDefinition, job: &LeasedJob) -> Result<()> {
    let status = report_some(store, definition, job, &job.ordinals, true).await?;
    ensure!(status == LeaseStatus::Held, "the lease was lost");
    Ok(())
}

/// The parked jobs of a sweep.
pub(crate) async fn parked(store: &dyn Store, sweep: SweepId) -> Result<Vec<JobRecord>> {
    let filter = JobFilter { sweep: Some(sweep), states: vec![JobState::Parked], after: None, limit: 10_000 };
    Ok(store.jobs(&filter).await?)
}

/// Does every ready job there is, one after the other.
pub(crate) async fn work_off(store: &dyn Store, definition: &SweepDefinition) -> Result<u64> {
    let mut jobs = 0;
    while let Some(job) = store.lease(&claim(&EVERY_RUNG, 1), NOW).await?.pop() {
        finish(store, definition, &job).await?;
        jobs += 1;
    }
    Ok(jobs)
}

/// Every result of a sweep, read page by page.
pub(crate) async fn every_result(store: &dyn Store, sweep: SweepId, page: u32) -> Result<Vec<ResultRow>> {
    let mut rows = Vec::new();
    let mut after = None;
    loop {
        let next = store.results(sweep, after.as_ref(), page).await?;
        rows.extend(next.rows);
        match next.last {
            None => return Ok(rows),
            last => after = last,
        }
    }
}

/// Checks that the tallies are those that counting the results anew gives.
pub(crate) async fn tallies_equal_a_recount(
    store: &dyn Store,
    sweep: SweepId,
    definition: &SweepDefinition,
) -> Result<()> {
    let tallies = store.tallies(sweep, PointFilter::All).await?;
    let mut counted: BTreeMap<Point, [SetTallies; 2]> =
        tallies.iter().map(|point| (point.point.clone(), Default::default())).collect();
    let (domains, levels) = (definition.domains.len(), definition.levels.len());
    for row in every_result(store, sweep, 3).await? {
        let entry = definition.queries().nth(row.ordinal as usize).context("an ordinal of the sweep")?;
        let sets = counted.get_mut(&row.point).context("a result at a point without tallies")?;
        let set = &mut sets[usize::from(entry.set == QuerySet::Confirm)];
        match &row.value {
            ResultValue::Score(score) => {
                let tallies =
                    set.likelihood.get_or_insert_with(|| vec![LikelihoodTally::new(levels); domains]);
                tallies[entry.domain].add(score);
            }
            ResultValue::Response(_) => {}
            ResultValue::Verdict(verdict) => {
                let tallies = set.judgement.get_or_insert_with(|| vec![JudgementTally::new(levels); domains]);
                tallies[entry.domain].add(verdict);
            }
        }
    }
    for PointTallies { point, search, confirm, .. } in tallies {
        let [counted_search, counted_confirm] = &counted[&point];
        ensure!(
            search == *counted_search,
            "search tallies at {point}: {search:?}, counted {counted_search:?}"
        );
        ensure!(
            confirm == *counted_confirm,
            "confirm tallies at {point}: {confirm:?}, counted {counted_confirm:?}"
        );
    }
    Ok(())
}
