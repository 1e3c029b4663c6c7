//! Small sweeps and histories for tests.

use avsweep_domain::{
    Coefficient, Coverage, DecodeSettings, DomainDefinition, Dtype, Evaluation, Fingerprint, JudgeProvider,
    JudgeSettings, JudgementTally, Levels, LikelihoodTally, Message, ModelSource, Point, PointId,
    PointTallies, Query, Range, Role, SetTallies, Space, Strategy, SweepDefinition, Ticks, VectorSource,
};

/// A sweep of two coefficients (−0.03 … 0.03 by 0.01) with this many domains, each with these numbers of queries.
pub(crate) fn definition(domains: usize, search: usize, confirm: usize) -> SweepDefinition {
    let queries = |prefix: String, count: usize| {
        let queries = (0..count).map(|index| Query {
            id: format!("{prefix}{index}"),
            messages: vec![Message { role: Role::User, content: "?".to_owned() }],
            references: ["a", "b", "c"].map(str::to_owned).to_vec(),
        });
        queries.collect::<Vec<_>>()
    };
    let source = |name: &str| VectorSource {
        name: name.to_owned(),
        path: String::new(),
        fingerprint: Fingerprint::of(name.as_bytes()),
    };
    let range = Range::new(Ticks::new(-300), Ticks::new(300), Ticks::new(100)).expect("divides");
    let coefficient =
        |name: &str, vector| Coefficient { name: name.to_owned(), vector, tensors: None, range };
    let definition = SweepDefinition {
        name: "fixture".to_owned(),
        model: ModelSource { path: String::new(), dtype: Dtype::F32, fingerprint: Fingerprint::of(b"base") },
        vectors: vec![source("v0"), source("v1")],
        space: Space::new(vec![coefficient("alpha", 0), coefficient("beta", 1)]).expect("names differ"),
        levels: Levels::default(),
        domains: (0..domains)
            .map(|index| DomainDefinition {
                name: format!("d{index}"),
                search: queries(format!("d{index}-s"), search),
                confirm: queries(format!("d{index}-c"), confirm),
            })
            .collect(),
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
    };
    definition.check().expect("a valid fixture");
    definition
}

/// Likelihood tallies with these counts per domain and level under every normalisation, and no margins.
pub(crate) fn likelihood(counts: &[[u32; 3]]) -> Vec<LikelihoodTally> {
    let tally = |counts: &[u32; 3]| LikelihoodTally {
        queries: counts.iter().sum(),
        counts: std::array::from_fn(|_| counts.to_vec()),
        mean_log_prob_micronats: vec![0; 3],
    };
    counts.iter().map(tally).collect()
}

/// Judgement tallies with these counts per domain and level, and so many unclear ones per domain.
pub(crate) fn judged(counts: &[[u32; 3]], unclear: &[u32]) -> Vec<JudgementTally> {
    let tally = |(counts, unclear): (&[u32; 3], &u32)| JudgementTally {
        queries: counts.iter().sum::<u32>() + unclear,
        counts: counts.to_vec(),
        unclear: *unclear,
        refused: 0,
    };
    counts.iter().zip(unclear).map(tally).collect()
}

/// A point with likelihood counts on the search queries.
pub(crate) fn point_tallies(id: i64, ticks: &[i32], counts: &[[u32; 3]]) -> PointTallies {
    PointTallies {
        id: PointId(id),
        point: Point::new(ticks.iter().copied().map(Ticks::new).collect::<Vec<_>>()),
        search: SetTallies { likelihood: Some(likelihood(counts)), judgement: None },
        confirm: SetTallies::default(),
    }
}
