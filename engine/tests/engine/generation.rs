//! Generation: against a loop over full forward passes, and independent of batches and threads.

use crate::SMALL;
use crate::common::{RandomFamily, words};
use avsweep_engine::{BaseModel, Engine, FinishReason, ItemError, Message, PromptItem, Sampling, WeightType};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn engine(family: &RandomFamily) -> Engine {
    Engine::load(BaseModel::open(&family.base).unwrap(), Vec::new(), &[], WeightType::F32).unwrap()
}

fn prompts(count: u64) -> Vec<PromptItem> {
    let mut generator = ChaCha8Rng::seed_from_u64(11);
    (0..count)
        .map(|seed| {
            let length = generator.random_range(1..25);
            PromptItem { messages: vec![Message::user(words(&mut generator, length, SMALL.vocab))], seed }
        })
        .collect()
}

/// Greedy decoding without a cache: the whole sequence anew for every token.
fn slowly(engine: &Engine, prompt: &PromptItem, limit: usize) -> (Vec<u32>, FinishReason) {
    let mut tokens = engine.prompt_tokens(&prompt.messages).unwrap();
    let start = tokens.len();
    while tokens.len() - start < limit {
        let logits = engine.logits(&tokens).unwrap().pop().unwrap();
        let best = (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32;
        tokens.push(best);
        if best == 2 {
            return (tokens.split_off(start), FinishReason::Stop);
        }
    }
    (tokens.split_off(start), FinishReason::Length)
}

#[test]
fn greedy_answers_are_those_of_full_forward_passes() {
    let family = RandomFamily::new(&SMALL, 0);
    let engine = engine(&family);
    let prompts = prompts(40);
    let answers = engine.generate(&engine.prepare_prompts(&prompts), &Sampling::greedy(20)).unwrap();
    let mut stopped = 0;
    for (prompt, answer) in prompts.iter().zip(answers) {
        let answer = answer.unwrap();
        let (tokens, finish) = slowly(&engine, prompt, 20);
        let text: Vec<String> =
            tokens.iter().filter(|&&token| token > 2).map(|token| format!("w{}", token - 3)).collect();
        assert_eq!(answer.text, text.join(" "));
        assert_eq!((answer.tokens as usize, answer.finish), (tokens.len(), finish));
        stopped += usize::from(finish == FinishReason::Stop);
    }
    assert!(stopped > 0, "some of the answers should end their turn, or the stop token is not tested");
}

#[test]
fn batched_answers_equal_those_one_by_one() {
    let family = RandomFamily::new(&SMALL, 0);
    let engine = engine(&family);
    // More than eight groups of eight places, so that places are refilled.
    let prompts = prompts(150);
    for settings in [Sampling::greedy(12), Sampling { temperature: 0.9, top_p: 0.8, ..Sampling::greedy(12) }]
    {
        let together = engine.generate(&engine.prepare_prompts(&prompts), &settings).unwrap();
        for (prompt, expected) in prompts.iter().zip(&together) {
            let alone = engine.prepare_prompts(std::slice::from_ref(prompt));
            assert_eq!(&engine.generate(&alone, &settings).unwrap()[0], expected);
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(5).build().unwrap();
        let elsewhere =
            pool.install(|| engine.generate(&engine.prepare_prompts(&prompts), &settings).unwrap());
        assert_eq!(elsewhere, together);
    }
}

#[test]
fn sampled_answers_follow_their_seed() {
    let family = RandomFamily::new(&SMALL, 0);
    let engine = engine(&family);
    let settings = Sampling { temperature: 1.5, top_p: 1.0, ..Sampling::greedy(16) };
    let prompt = |seed| PromptItem { messages: vec![Message::user("w1 w2")], seed };
    let answers =
        engine.generate(&engine.prepare_prompts(&[prompt(1), prompt(2), prompt(1)]), &settings).unwrap();
    assert_eq!(answers[0], answers[2]);
    assert_ne!(answers[0], answers[1]);
}

#[test]
fn the_context_bounds_an_answer_and_refuses_a_prompt_that_fills_it() {
    let family = RandomFamily::new(&SMALL, 0);
    let engine = engine(&family);
    let mut prompts = prompts(3);
    prompts[0].messages = vec![Message::user("w1 ".repeat(55))];
    prompts[1].messages = vec![Message::user("w1 ".repeat(64))];
    let used = engine.prompt_tokens(&prompts[0].messages).unwrap().len();
    let settings = Sampling { temperature: 30.0, top_p: 1.0, ..Sampling::greedy(40) };
    let answers = engine.generate(&engine.prepare_prompts(&prompts), &settings).unwrap();
    let answer = answers[0].as_ref().unwrap();
    assert!(answer.tokens as usize <= SMALL.context - used);
    assert!(matches!(answers[1], Err(ItemError::TooLong { .. })), "{:?}", answers[1]);
    assert!(answers[2].is_ok());
}

/// Where a whole answer is to be cut: before the stop string that is completed first.
pub(crate) fn cut(text: &str, stops: &[String]) -> Option<usize> {
    (0..=text.len()).filter(|&end| text.is_char_boundary(end)).find_map(|end| {
        stops.iter().filter(|stop| text[..end].ends_with(*stop)).map(|stop| end - stop.len()).min()
    })
}

#[test]
fn an_answer_ends_before_the_first_stop_string() {
    let family = RandomFamily::new(&SMALL, 0);
    let prompts = prompts(30);
    let answer = |family| {
        let engine = engine(family);
        let prepared = engine.prepare_prompts(&prompts);
        let answers = engine.generate(&prepared, &Sampling::greedy(20)).unwrap();
        answers.into_iter().map(Result::unwrap).collect::<Vec<_>>()
    };
    let free = answer(&family);
    // From the middle of two words of some answer to the middle of the next: no token's border.
    let words: Vec<&str> = free.iter().find(|free| free.tokens == 20).unwrap().text.split(' ').collect();
    let across = format!("{} {}", &words[7][1..], &words[8][..2]);
    let stops = [across, "w4".to_owned()];
    let config = serde_json::json!({"eos_token_id": 2, "stop_strings": stops});
    std::fs::write(family.base.join("generation_config.json"), config.to_string()).unwrap();
    let mut stopped_early = 0;
    for (free, stopped) in free.iter().zip(answer(&family)) {
        let end = cut(&free.text, &stops);
        assert_eq!(stopped.text, free.text[..end.unwrap_or(free.text.len())]);
        assert!(stopped.tokens <= free.tokens);
        if end.is_some() {
            assert_eq!(stopped.finish, FinishReason::Stop);
            stopped_early += 1;
        } else {
            assert_eq!(&stopped, free);
        }
    }
    assert!(stopped_early > 1 && stopped_early < 30, "{stopped_early} answers were cut");
    // At once, not at the end.
    let end = free.iter().find(|free| free.text.contains(&stops[0])).unwrap();
    let stopped = &answer(&family)[free.iter().position(|answer| answer == end).unwrap()];
    assert!(stopped.tokens <= 9, "{stopped:?}");
}
