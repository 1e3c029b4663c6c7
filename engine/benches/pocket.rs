//! Merge, scoring and generation on a random model of the pocket family's shape: what a point of a sweep costs.
//!
//! `cargo bench -p avsweep-engine`, or, as the workspace's dev profile optimises this crate,
//! `cargo test -p avsweep-engine --bench pocket`. Prints medians, and for
//! merge and score the best as well, which other processes on the machine disturb less.

#![expect(clippy::unwrap_used, reason = "a failed step fails the bench")]

#[path = "../tests/engine/common.rs"]
#[expect(dead_code, reason = "shared with the engine's tests")]
mod common;

use avsweep_engine::{
    AlignmentVector, BaseModel, Coefficient, Engine, Message, PromptItem, Sampling, ScoreItem, WeightType,
};
use common::{RandomFamily, Shape, words};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::Instant;

/// The pocket model's sizes.
const POCKET: Shape = Shape {
    hidden: 128,
    inner: 256,
    layers: 2,
    heads: 4,
    kv_heads: 2,
    vocab: 1792,
    context: 256,
    tied: false,
};
/// Queries of a point: 40 in each of three domains.
const QUERIES: usize = 120;
/// Points of the full grid, 21³.
const GRID: f64 = 9261.0;

fn main() {
    let family = RandomFamily::new(&POCKET, 3);
    let started = Instant::now();
    println!("files in {}", family.folder.path().display());
    let base = BaseModel::open(&family.base).unwrap();
    let vectors: Vec<_> =
        family.vectors.iter().map(|path| AlignmentVector::open(path, &base).unwrap()).collect();
    println!("open base of {} parameters and 3 vectors  {:8.2} ms", base.parameters(), ms(started));
    let started = Instant::now();
    let _ = (base.fingerprint(), vectors[0].fingerprint());
    println!("fingerprints of base and one vector        {:8.2} ms", ms(started));
    let coefficients: Vec<_> = (0..3).map(|index| Coefficient::whole(format!("c{index}"), index)).collect();
    let mut engine = Engine::load(base, vectors, &coefficients, WeightType::F32).unwrap();

    let mut generator = ChaCha8Rng::seed_from_u64(5);
    let vocab = POCKET.vocab;
    let messages: Vec<Vec<Message>> =
        (0..QUERIES).map(|_| vec![Message::user(words(&mut generator, 7, vocab))]).collect();
    let items: Vec<ScoreItem> = messages
        .iter()
        .map(|messages| ScoreItem {
            messages: messages.clone(),
            references: (0..3)
                .map(|_| {
                    let length = generator.random_range(6..11);
                    words(&mut generator, length, vocab)
                })
                .collect(),
        })
        .collect();
    let prepared = engine.prepare_scores(&items);
    println!(
        "{} queries: {} packed tokens, {} target tokens",
        prepared.len(),
        prepared.tokens(),
        prepared.targets()
    );

    let mut step = 0.0;
    let (merge, merge_best) = times(60, || {
        step += 0.1;
        engine.merge(&[0.1 + step, -0.3, 0.2]).unwrap();
    });
    println!("merge                                      {merge:8.2} ms, best {merge_best:.2}");
    let (score, score_best) = times(60, || {
        assert_eq!(engine.score(&prepared).unwrap().len(), QUERIES);
    });
    println!("score                                      {score:8.2} ms, best {score_best:.2}");
    println!(
        "points per second {:.1}; the grid of 9,261 points in {:.1} minutes",
        1000.0 / (merge + score),
        GRID * (merge + score) / 60_000.0
    );

    let prompts: Vec<PromptItem> =
        messages.into_iter().zip(0..).map(|(messages, seed)| PromptItem { messages, seed }).collect();
    let prompts = engine.prepare_prompts(&prompts);
    let mut tokens = 0;
    let (generate, _) = times(5, || {
        let answers = engine.generate(&prompts, &Sampling::greedy(64)).unwrap();
        tokens = answers.into_iter().map(|answer| answer.unwrap().tokens).sum();
    });
    println!(
        "generate, {QUERIES} prompts, 64 new tokens      {generate:8.2} ms, {:.0} tokens/s",
        f64::from(tokens) / generate * 1000.0
    );
}

fn ms(started: Instant) -> f64 {
    started.elapsed().as_secs_f64() * 1000.0
}

/// Median and least wall time in milliseconds of `rounds` runs, after two to warm up.
fn times(rounds: usize, mut run: impl FnMut()) -> (f64, f64) {
    (0..2).for_each(|_| run());
    let mut times: Vec<f64> = (0..rounds)
        .map(|_| {
            let started = Instant::now();
            run();
            ms(started)
        })
        .collect();
    times.sort_unstable_by(f64::total_cmp);
    (times[rounds / 2], times[0])
}
