//! A made-up sweep of 40 queries a point, and the scores that a made-up worker finds there.

use avsweep_domain::{
    Coefficient, Coverage, DecodeSettings, DomainDefinition, Dtype, Evaluation, Fingerprint, JudgeProvider,
    JudgeSettings, Levels, Message, ModelSource, Query, Range, Role, Space, Strategy, SweepDefinition, Ticks,
    VectorSource,
};
use avsweep_proto::v1;

/// Query results in one report: every query of a point.
pub(crate) const RESULTS_PER_JOB: u32 = 40;
const LEVELS: u32 = 3;
const DOMAINS: [&str; 2] = ["medical", "legal"];
const QUERIES_PER_DOMAIN: u32 = RESULTS_PER_JOB / DOMAINS.len() as u32;
/// 81 × 81 × 81 points: more than any window reaches.
const STEP_TICKS: i32 = 250;

/// A full grid on the likelihood rung.
pub(crate) fn sweep() -> SweepDefinition {
    let fingerprint = Fingerprint::of(b"made up");
    let range = Range::new(Ticks::new(-10_000), Ticks::new(10_000), Ticks::new(STEP_TICKS))
        .expect("the step divides the range");
    let coefficient =
        |(name, vector): (&str, usize)| Coefficient { name: name.to_owned(), vector, tensors: None, range };
    let query = |domain: &str, index: u32| Query {
        id: format!("{domain}-{index}"),
        messages: vec![Message {
            role: Role::User,
            content: format!("What of {domain} number {index}? ").repeat(4),
        }],
        references: ["no", "some", "much"]
            .map(|level| format!("{level} {domain} {index}. ").repeat(8))
            .to_vec(),
    };
    SweepDefinition {
        name: "bench".to_owned(),
        model: ModelSource { path: "base".to_owned(), dtype: Dtype::F32, fingerprint },
        vectors: DOMAINS
            .map(|name| VectorSource {
                name: name.to_owned(),
                path: name.to_owned(),
                fingerprint: Fingerprint::of(name.as_bytes()),
            })
            .to_vec(),
        space: Space::new([("alpha", 0), ("beta", 1), ("gamma", 1)].map(coefficient).to_vec())
            .expect("the names differ"),
        levels: Levels::default(),
        domains: DOMAINS
            .map(|name| DomainDefinition {
                name: name.to_owned(),
                search: (0..QUERIES_PER_DOMAIN).map(|index| query(name, index)).collect(),
                confirm: vec![],
            })
            .to_vec(),
        strategy: Strategy::Grid,
        evaluation: Evaluation {
            likelihood: Coverage::All,
            generation: Coverage::None,
            finalists_per_target: 1,
            decode: DecodeSettings {
                max_new_tokens: 8,
                temperature: 0.0,
                top_p: 1.0,
                seed: 0,
                stop: Vec::new(),
            },
            ladder: None,
            racing: None,
        },
        judge: JudgeSettings { provider: JudgeProvider::Reference { threshold: 0.5 }, rubric: String::new() },
    }
}

/// A leased job's results in full; as incompressible as real ones.
pub(crate) fn report(worker: &str, job: &v1::LeasedJob) -> v1::ReportRequest {
    let seed: i32 =
        job.point.iter().flat_map(|point| &point.ticks).fold(0, |seed, ticks| seed * 31 + ticks / STEP_TICKS);
    let score = |ordinal: u32, level: u32| v1::ReferenceScore {
        log_prob_sum: -40.0
            - 30.0 * (f64::from(seed) * 0.7 + f64::from(ordinal) * 1.3 + f64::from(level) * 2.1).sin(),
        tokens: 20 + ordinal % 30,
        bytes: 90 + ordinal % 60,
    };
    let result = |ordinal: &u32| v1::ScoreResult {
        ordinal: *ordinal,
        scores: (0..LEVELS).map(|level| score(*ordinal, level)).collect(),
    };
    v1::ReportRequest {
        worker: worker.to_owned(),
        lease: job.lease.clone(),
        results: Some(v1::report_request::Results::Scores(v1::ScoreResults {
            results: job.ordinals.iter().map(result).collect(),
        })),
        finished: true,
        timings: Some(v1::Timings { load_micros: 0, merge_micros: 1000, evaluate_micros: 10_000 }),
        usage: None,
        block_done: false,
    }
}
