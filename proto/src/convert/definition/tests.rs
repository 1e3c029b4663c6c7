//! Laws of the definition's conversions.

use avsweep_domain::{
    Aggregate, BayesianSettings, Fingerprint, HierarchicalSettings, Level, SequenceSettings, Strategy,
    Target, Ticks, Wanted,
};
use proptest::collection::vec;
use proptest::prelude::{Just, ProptestConfig, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
// Two things are called `Strategy` here: `Generator` is proptest's, `Strategy` the sweep's.
use proptest::strategy::Strategy as Generator;

use super::*;

fn model() -> impl Generator<Value = ModelSource> {
    let dtype = prop_oneof![Just(Dtype::F32), Just(Dtype::Bf16), Just(Dtype::F16)];
    (".{0,20}", dtype, any::<[u8; 32]>()).prop_map(|(path, dtype, bytes)| ModelSource {
        path,
        dtype,
        fingerprint: Fingerprint::from_bytes(bytes),
    })
}

fn coefficients(vectors: usize) -> impl Generator<Value = Vec<Coefficient>> {
    let tensors = prop::option::of(vec("[a-z.*{}0-9]{1,12}", 0..3));
    let one = (0..vectors, -5000i32..5000, 1i32..500, 0i32..8, tensors);
    vec(one, vectors..5).prop_map(move |mut all| {
        // Every vector is used.
        all.iter_mut().enumerate().take(vectors).for_each(|(index, coefficient)| coefficient.0 = index);
        let named = all.into_iter().enumerate();
        named
            .map(|(index, (vector, min, step, count, tensors))| Coefficient {
                name: format!("c{index}"),
                vector,
                tensors,
                range: Range::new(Ticks::new(min), Ticks::new(min + step * count), Ticks::new(step))
                    .expect("divides by construction"),
            })
            .collect()
    })
}

fn queries(prefix: String, count: std::ops::Range<usize>) -> impl Generator<Value = Vec<Query>> {
    let role = prop_oneof![Just(Role::System), Just(Role::User), Just(Role::Assistant)];
    let message = (role, "[a-z].{0,20}").prop_map(|(role, content)| Message { role, content });
    vec((vec(message, 0..3), vec("[a-z ]{0,9}[a-z]", 3)), count).prop_map(move |all| {
        let numbered = all.into_iter().enumerate();
        numbered
            .map(|(index, (mut messages, references))| {
                messages.push(Message { role: Role::User, content: "?".to_owned() });
                Query { id: format!("{prefix}{index}"), messages, references }
            })
            .collect()
    })
}

fn judge() -> impl Generator<Value = JudgeSettings> {
    let provider = prop_oneof![
        (0.0f64..=1.0).prop_map(|threshold| JudgeProvider::Reference { threshold }),
        (".{0,9}", ".{0,9}", prop::option::of("[A-Z]{1,9}"), 1u32..=1000, 1u32..=3600, 1u32..=100).prop_map(
            |(base_url, model, api_key_env, concurrency, timeout_seconds, max_attempts)| {
                JudgeProvider::Openai {
                    base_url,
                    model,
                    api_key_env,
                    concurrency,
                    timeout_seconds,
                    max_attempts,
                }
            }
        ),
    ];
    (provider, ".{0,40}").prop_map(|(provider, rubric)| JudgeSettings { provider, rubric })
}

fn evaluation() -> impl Generator<Value = Evaluation> {
    let ladder = (0.5f64..1.0, 0u32..=1_000_000).prop_map(|(confidence, most)| Ladder { confidence, most });
    let finalists = prop::option::of(ladder).prop_map(|ladder| (Coverage::All, Coverage::Finalists, ladder));
    let coverage = prop_oneof![
        Just((Coverage::All, Coverage::None, None)),
        finalists,
        Just((Coverage::All, Coverage::All, None)),
        Just((Coverage::None, Coverage::All, None)),
    ];
    let decode = (1u32..=100_000, 0.0f64..=100.0, 0.001f64..=1.0, any::<u64>(), vec(".{1,9}", 0..4))
        .prop_map(|(max_new_tokens, temperature, top_p, seed, stop)| DecodeSettings {
            max_new_tokens,
            temperature,
            top_p,
            seed,
            stop,
        });
    (coverage, 1u32..=1000, decode).prop_map(
        |((likelihood, generation, ladder), finalists_per_target, decode)| Evaluation {
            likelihood,
            generation,
            finalists_per_target,
            decode,
            ladder,
            racing: None,
        },
    )
}

/// What is measured and how points are found; points are raced only where both allow it.
fn measured() -> impl Generator<Value = (Evaluation, Strategy)> {
    let racing = (1u32..=1_000_000, 0.0f64..1.0, any::<u64>()).prop_map(|(block, error, seed)| Racing {
        block,
        error,
        seed,
    });
    (evaluation(), strategy(), prop::option::of(racing)).prop_map(|(evaluation, strategy, racing)| {
        let raced = evaluation.likelihood == Coverage::All
            && evaluation.ladder.is_none()
            && matches!(strategy, Strategy::Grid | Strategy::Random(_) | Strategy::Sobol(_));
        (Evaluation { racing: racing.filter(|_| raced), ..evaluation }, strategy)
    })
}

/// Strategies that fit every space here: steps are whole and ranges may be a single point.
fn strategy() -> impl Generator<Value = Strategy> {
    let sequence = || (1u32.., any::<u64>()).prop_map(|(budget, seed)| SequenceSettings { budget, seed });
    let hierarchical = (prop::option::of(Just(1u32)), 2u32..5, 1u32..4, 1u32..4, prop::option::of(1u32..))
        .prop_map(|(levels, factor, width, leaders, budget)| {
            Strategy::Hierarchical(HierarchicalSettings { levels, factor, width, leaders, finer: 0, budget })
        });
    let wanted = || {
        prop_oneof![
            (0u8..3).prop_map(|level| Wanted::Level(Level(level))),
            Just(Wanted::AsBase),
            Just(Wanted::Free)
        ]
    };
    let targets = vec(vec(wanted(), 2).prop_map(Target::new), 0..3);
    let aggregate = prop_oneof![Just(Aggregate::Min), Just(Aggregate::Mean), Just(Aggregate::Product)];
    let bayesian = (2u32.., prop::option::of(Just(2u32)), 0.0f64..9.0, aggregate, targets, any::<u64>())
        .prop_map(|(budget, initial, min_gain, aggregate, targets, seed)| {
            Strategy::Bayesian(BayesianSettings { budget, initial, min_gain, aggregate, targets, seed })
        });
    prop_oneof![
        Just(Strategy::Grid),
        hierarchical,
        bayesian,
        sequence().prop_map(Strategy::Random),
        sequence().prop_map(Strategy::Sobol),
    ]
}

fn definition() -> impl Generator<Value = SweepDefinition> {
    let vector = (any::<[u8; 32]>(), ".{0,9}");
    let domains = ["medical", "legal"].map(|name| {
        (queries(format!("{name}-s"), 1..4), queries(format!("{name}-c"), 1..3))
            .prop_map(move |(search, confirm)| DomainDefinition { name: name.to_owned(), search, confirm })
    });
    (vec(vector, 1..4), "[a-z][a-z0-9._-]{0,20}", model(), measured(), judge(), domains).prop_flat_map(
        |(vectors, name, model, (evaluation, strategy), judge, domains)| {
            coefficients(vectors.len()).prop_map(move |coefficients| SweepDefinition {
                name: name.clone(),
                model: model.clone(),
                vectors: vectors
                    .iter()
                    .enumerate()
                    .map(|(index, (bytes, path))| VectorSource {
                        name: format!("v{index}"),
                        path: path.clone(),
                        fingerprint: Fingerprint::from_bytes(*bytes),
                    })
                    .collect(),
                space: Space::new(coefficients).expect("names differ"),
                levels: Levels::default(),
                domains: domains.to_vec(),
                strategy: strategy.clone(),
                evaluation: evaluation.clone(),
                judge: judge.clone(),
            })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn definitions_round_trip_with_their_fingerprint(definition in definition()) {
        definition.check().expect("the generator makes valid definitions");
        let back = SweepDefinition::try_from(v1::SweepDefinition::from(&definition)).expect("valid");
        prop_assert_eq!(back.fingerprint(), definition.fingerprint());
        prop_assert_eq!(back, definition);
    }

    #[test]
    fn a_definition_is_checked_on_its_way_in(definition in definition()) {
        type Change = fn(&mut v1::SweepDefinition);
        let break_it = |change: Change| {
            let mut wire = v1::SweepDefinition::from(&definition);
            change(&mut wire);
            SweepDefinition::try_from(wire).expect_err("broken").to_string()
        };
        let cases: [(Change, &str); 10] = [
            (|wire| wire.strategy = Some(v1::Strategy { kind: None }), "Strategy.kind is missing"),
            (
                |wire| {
                    let settings = v1::SequenceStrategy { budget: 0, seed: 1 };
                    wire.strategy = Some(v1::Strategy { kind: Some(v1::strategy::Kind::Sobol(settings)) });
                },
                "strategy.budget is 0",
            ),
            (|wire| wire.model = None, "SweepDefinition.model is missing"),
            (|wire| wire.vectors[0].fingerprint.truncate(31), "VectorSource.fingerprint is 31 bytes long"),
            (|wire| wire.coefficients[0].vector = 77, "refers to vector number 77"),
            (|wire| wire.coefficients[0].step_ticks = 0, "range of coefficient 'c0'"),
            (|wire| wire.domains[1].search[0].references.truncate(2), "no reference for level 'expert'"),
            (|wire| wire.domains[0].search[0].messages[0].role = 9, "Message.role is 9"),
            (|wire| wire.levels.truncate(1), "1 levels found"),
            (|wire| wire.name = "not a name".to_owned(), "sweep name 'not a name'"),
        ];
        for (change, text) in cases {
            let error = break_it(change);
            prop_assert!(error.contains(text), "{}", error);
        }
    }
}
