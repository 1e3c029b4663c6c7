//! How long ranking takes: every target over a full grid of 9,261 points, three domains of 40 queries.
//!
//! `cargo run -p avsweep-search --example rank_full_grid`

use std::hint::black_box;
use std::time::Instant;

use avsweep_domain::{
    Aggregate, Coefficient, Coverage, DecodeSettings, DomainDefinition, Dtype, Evaluation, Fingerprint,
    JudgeProvider, JudgeSettings, Levels, LikelihoodTally, Message, ModelSource, PointId, PointTallies,
    Query, QueryScore, Range, Reading, ReferenceScore, Role, SetTallies, Space, Strategy, SweepDefinition,
    Ticks, VectorSource,
};
use avsweep_search::{best, finalists};

const DOMAINS: [&str; 3] = ["medical", "legal", "financial"];
const QUERIES: usize = 40;

fn main() {
    let definition = definition();
    let started = Instant::now();
    let history = history(&definition);
    println!("{} points made up in {:?}", history.len(), started.elapsed());
    let targets = definition.all_targets();
    let reading = Reading::Likelihood(avsweep_domain::Normalisation::Mean);
    for _ in 0..5 {
        let started = Instant::now();
        let answers =
            best(&definition, &history, &targets, Aggregate::Min, reading).expect("targets of this sweep");
        let ranked = started.elapsed();
        let started = Instant::now();
        let finalists = finalists(&definition, &history, 3);
        println!(
            "best of {} targets: {ranked:?}; {} finalists, {} to be judged: {:?}",
            black_box(answers).len(),
            finalists.confirmed.len(),
            finalists.judged.len(),
            started.elapsed()
        );
    }
}

fn definition() -> SweepDefinition {
    let fingerprint = Fingerprint::of(b"made up");
    let range = Range::new(Ticks::new(-10_000), Ticks::new(10_000), Ticks::new(1000)).expect("divides");
    let coefficient =
        |(vector, name): (usize, &str)| Coefficient { name: name.to_owned(), vector, tensors: None, range };
    let queries = |domain: &str| {
        let queries = (0..QUERIES).map(|index| Query {
            id: format!("{domain}-{index}"),
            messages: vec![Message { role: Role::User, content: "?".to_owned() }],
            references: ["no", "well", "yes"].map(str::to_owned).to_vec(),
        });
        queries.collect()
    };
    SweepDefinition {
        name: "full-grid".to_owned(),
        model: ModelSource { path: String::new(), dtype: Dtype::F32, fingerprint },
        vectors: DOMAINS
            .map(|name| VectorSource { name: name.to_owned(), path: String::new(), fingerprint })
            .to_vec(),
        space: Space::new(DOMAINS.into_iter().enumerate().map(coefficient).collect()).expect("names differ"),
        levels: Levels::default(),
        domains: DOMAINS
            .map(|name| DomainDefinition {
                name: name.to_owned(),
                search: queries(name),
                confirm: Vec::new(),
            })
            .to_vec(),
        strategy: Strategy::Grid,
        evaluation: Evaluation {
            likelihood: Coverage::All,
            generation: Coverage::None,
            finalists_per_target: 3,
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

/// Each domain's level follows its own coefficient, each query with an offset of its own.
fn history(definition: &SweepDefinition) -> Vec<PointTallies> {
    let points = definition.space.grid().enumerate().map(|(index, point)| {
        let domain = |coefficient: f64| {
            let mut tally = LikelihoodTally::new(3);
            for query in 0..QUERIES {
                let at = 1.0 + coefficient + (query as f64 / QUERIES as f64 - 0.5);
                let score = |level: u8| ReferenceScore {
                    log_prob_sum: -1.0 - (f64::from(level) - at).abs(),
                    tokens: 3,
                    bytes: 10,
                };
                tally.add(&QueryScore((0..3).map(score).collect()));
            }
            tally
        };
        let likelihood = Some(point.to_f64().into_iter().map(domain).collect());
        PointTallies {
            id: PointId(index as i64),
            point,
            search: SetTallies { likelihood, judgement: None },
            confirm: SetTallies::default(),
        }
    });
    points.collect()
}
