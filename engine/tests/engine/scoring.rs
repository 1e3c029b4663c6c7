//! Scoring: against a plain sum over logits, and independent of batches, threads and neighbours.

use crate::SMALL;
use crate::common::{RandomFamily, words};
use avsweep_engine::{BaseModel, Engine, ItemError, Message, ReferenceScore, ScoreItem, WeightType};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

type Scores = Vec<Result<Vec<ReferenceScore>, ItemError>>;

fn engine(family: &RandomFamily) -> Engine {
    Engine::load(BaseModel::open(&family.base).unwrap(), Vec::new(), &[], WeightType::F32).unwrap()
}

/// Queries of all lengths, some with equal beginnings, equal prompts, or references that begin alike.
fn items(count: usize) -> Vec<ScoreItem> {
    let mut generator = ChaCha8Rng::seed_from_u64(3);
    let mut items: Vec<ScoreItem> = (0..count)
        .map(|_| {
            let length = generator.random_range(1..20);
            let prompt = words(&mut generator, length, SMALL.vocab);
            let mut references: Vec<String> = (0..3)
                .map(|_| {
                    let length = generator.random_range(1..12);
                    words(&mut generator, length, SMALL.vocab)
                })
                .collect();
            references[1] = format!("{} w3 w4", references[0]);
            ScoreItem { messages: vec![Message::user(prompt)], references }
        })
        .collect();
    items[1].messages = items[0].messages.clone();
    items
}

fn score(engine: &Engine, items: &[ScoreItem]) -> Scores {
    engine.score(&engine.prepare_scores(items)).unwrap()
}

#[test]
fn a_score_is_the_sum_of_log_softmax_over_the_references_tokens() {
    let family = RandomFamily::new(&SMALL, 0);
    let engine = engine(&family);
    for (item, scores) in items(12).iter().zip(score(&engine, &items(12))) {
        let prompt = engine.prompt_tokens(&item.messages).unwrap();
        for (reference, score) in item.references.iter().zip(scores.unwrap()) {
            // Words are tokens w0 = 3, w1 = 4 …; 2 ends the turn.
            let mut tokens: Vec<u32> =
                reference.split(' ').map(|word| word[1..].parse::<u32>().unwrap() + 3).collect();
            tokens.push(2);
            let sequence: Vec<u32> = prompt.iter().chain(&tokens).copied().collect();
            let logits = engine.logits(&sequence).unwrap();
            let exact: f64 = tokens
                .iter()
                .zip(&logits[prompt.len() - 1..])
                .map(|(token, logits)| {
                    let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
                    f64::from(logits[*token as usize]) - total.ln()
                })
                .sum();
            assert_eq!(score.tokens as usize, tokens.len());
            assert_eq!(score.bytes as usize, reference.len());
            assert!((score.log_prob_sum - exact).abs() < 1e-4, "{} against {exact}", score.log_prob_sum);
        }
    }
}

#[test]
fn a_batch_scores_as_its_items_one_by_one_to_the_last_bit() {
    let family = RandomFamily::new(&SMALL, 0);
    let engine = engine(&family);
    let items = items(60);
    let together = score(&engine, &items);
    for (item, expected) in items.iter().zip(&together) {
        assert_eq!(&score(&engine, std::slice::from_ref(item))[0], expected);
    }
    let backwards: Vec<usize> = (0..items.len()).rev().collect();
    let selected = engine.score(&engine.prepare_scores(&items).select(&backwards)).unwrap();
    assert!(selected.iter().rev().eq(&together));
}

#[test]
fn scores_do_not_depend_on_the_number_of_threads() {
    let family = RandomFamily::new(&SMALL, 0);
    let engine = engine(&family);
    let items = items(40);
    let with = |threads: usize| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
            .install(|| score(&engine, &items))
    };
    let one = with(1);
    assert_eq!(one, with(3));
    // More threads than chunks: then each chunk is split over the threads.
    assert_eq!(one, with(64));
}

#[test]
fn what_sequences_share_is_computed_once() {
    let family = RandomFamily::new(&SMALL, 0);
    let engine = engine(&family);
    let messages = vec![Message::user("w1 w2 w3 w4 w5")];
    let one = ScoreItem { messages: messages.clone(), references: vec!["w7 w8".to_owned()] };
    let many = ScoreItem { messages, references: ["w7 w8", "w7 w9", "w10 w8"].map(str::to_owned).to_vec() };
    let (one, many) = (engine.prepare_scores(&[one]), engine.prepare_scores(&[many]));
    // `w9`, and `w10 w8`; the tokens that end the turns are asked for, not taken in.
    assert_eq!(many.tokens(), one.tokens() + 3);
}

#[test]
fn an_item_that_does_not_fit_the_context_fails_alone() {
    let family = RandomFamily::new(&SMALL, 0);
    let engine = engine(&family);
    let mut items = items(3);
    items[1].messages = vec![Message::user("w1 ".repeat(80))];
    let prepared = engine.prepare_scores(&items);
    assert_eq!(prepared.failures().map(|(index, _)| index).collect::<Vec<_>>(), [1]);
    let scores = engine.score(&prepared).unwrap();
    assert!(scores[0].is_ok() && scores[2].is_ok());
    assert!(matches!(scores[1], Err(ItemError::TooLong { context: 64, .. })), "{:?}", scores[1]);
}
