//! What an engine does within a memory: the same results, fewer at a time, and refusals before work.

use crate::SMALL;
use crate::common::{self, RandomFamily, Shape, random_prompts, random_weights, words, write_tensors};
use crate::goldens::folder;
use avsweep_engine::{
    BaseModel, Device, DeviceChoice, Engine, EngineError, ItemError, MemoryUse, Message, PromptItem,
    Sampling, ScoreItem, WeightType,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::path::{Path, PathBuf};

/// More than one query of 256 tokens, and large enough for its weights to pass over a small model's bound.
const LONG: Shape = Shape { context: 2048, ..SMALL };

fn load(
    choice: DeviceChoice,
    memory: Option<u64>,
    base: &Path,
    vectors: &[PathBuf],
) -> Result<Engine, EngineError> {
    common::load(&Device::open(choice).unwrap(), memory, base, vectors, WeightType::Bf16)
}

/// The smallest budget that the model has, by its own complaint about a smaller one.
fn least(choice: DeviceChoice, base: &Path, vectors: &[PathBuf]) -> u64 {
    match load(choice, Some(1), base, vectors).map(drop) {
        Err(error @ EngineError::TooLarge { merged, least, .. }) => {
            let text = error.to_string();
            assert!(text.contains("--memory") && text.contains("may take 1 B"), "{text}");
            merged + least
        }
        other => panic!("{other:?}"),
    }
}

fn prompts(count: u64, longest: usize) -> Vec<PromptItem> {
    random_prompts(5, count, longest, SMALL.vocab)
}

fn items(count: u64) -> Vec<ScoreItem> {
    let references = |at: usize| vec![format!("w{at} w3 w4"), "w5 w6 w7 w8 w9".to_owned()];
    let prompts = prompts(count, 30).into_iter().enumerate();
    prompts.map(|(at, prompt)| ScoreItem { messages: prompt.messages, references: references(at) }).collect()
}

#[test]
fn a_model_over_its_budget_is_refused_before_anything_is_allocated() {
    let family = RandomFamily::new(&SMALL, 2);
    for choice in [DeviceChoice::Cpu, DeviceChoice::Candle] {
        let least = least(choice, &family.base, &family.vectors);
        assert!(load(choice, Some(least - 1), &family.base, &family.vectors).is_err());
        let memory = load(choice, Some(least), &family.base, &family.vectors).unwrap().memory();
        assert_eq!((memory.budget, memory.kept), (least, 0));
    }
    assert!(load(DeviceChoice::Cpu, Some(1), &folder("others/phi"), &[]).is_err());
}

/// Weights that opening would refuse for their values are not looked at.
#[test]
fn the_headers_of_a_models_files_tell_that_it_does_not_fit() {
    let family = RandomFamily::new(&SMALL, 0);
    let mut weights = random_weights(&SMALL, 1, 1.0);
    weights[3].2[0] = f32::NAN;
    write_tensors(&family.base.join("model.safetensors"), &weights);
    assert!(matches!(BaseModel::open(&family.base), Err(EngineError::NonFinite { .. })));
    let phi = folder("others/phi");
    for (choice, base) in
        [(DeviceChoice::Cpu, &family.base), (DeviceChoice::Candle, &family.base), (DeviceChoice::Cpu, &phi)]
    {
        let device = Device::open(choice).unwrap();
        let check = |memory| Engine::check_memory(&device, memory, base, WeightType::Bf16);
        let Err(EngineError::TooLarge { merged, least, budget: 1, .. }) = check(Some(1)) else {
            panic!("{choice}")
        };
        assert!(check(Some(merged + least - 1)).is_err());
        check(Some(merged + least)).unwrap();
        check(None).unwrap();
    }
}

#[test]
fn on_cpu_a_point_has_the_same_bits_whatever_stays_in_memory() {
    let family = RandomFamily::new(&SMALL, 2);
    let tokens = [1_u32, 40, 41, 99, 7, 3, 60];
    let logits = |memory: Option<u64>| {
        let mut engine = load(DeviceChoice::Cpu, memory, &family.base, &family.vectors).unwrap();
        engine.merge(&[0.7, -0.4]).unwrap();
        let once = engine.logits(&tokens).unwrap();
        engine.merge(&[0.0, 0.1]).unwrap();
        engine.merge(&[0.7, -0.4]).unwrap();
        assert_eq!(engine.logits(&tokens).unwrap(), once);
        (once, engine.memory())
    };
    let (all, MemoryUse { kept, streamed, .. }) = logits(None);
    assert_eq!(streamed, 0);
    let least = least(DeviceChoice::Cpu, &family.base, &family.vectors);
    let mut stayed = Vec::new();
    for more in [0, kept / 2, 2 * kept] {
        let (some, memory) = logits(Some(least + more));
        assert_eq!(some, all);
        assert!(memory.kept <= more && memory.kept + memory.streamed == kept, "{memory:?}");
        stayed.push(memory.kept);
    }
    assert!(stayed[0] == 0 && stayed[0] < stayed[1] && stayed[1] < stayed[2], "{stayed:?}");
}

/// The largest pass and caches that the least budget leaves answer every query that fits, some at a time, as one of
/// any size does.
#[test]
fn within_the_least_budget_results_are_those_of_any_budget() {
    let family = RandomFamily::new(&LONG, 0);
    for choice in [DeviceChoice::Cpu, DeviceChoice::Candle] {
        let least = least(choice, &family.base, &[]);
        let wide = load(choice, None, &family.base, &[]).unwrap();
        let narrow = load(choice, Some(least), &family.base, &[]).unwrap();
        let (items, prompts, settings) = (items(90), prompts(90, 60), Sampling::greedy(40));
        let score = |engine: &Engine| engine.score(&engine.prepare_scores(&items)).unwrap();
        for (one, other) in score(&wide).into_iter().zip(score(&narrow)) {
            for (one, other) in one.unwrap().into_iter().zip(other.unwrap()) {
                let difference = (one.log_prob_sum - other.log_prob_sum).abs();
                assert!(if choice == DeviceChoice::Cpu { one == other } else { difference < 1e-4 });
            }
        }
        let plan = |engine: &Engine| engine.generation_plan(&engine.prepare_prompts(&prompts), &settings);
        let (free, bounded) = (plan(&wide), plan(&narrow));
        assert!(bounded.sequences <= free.sequences && bounded.cache <= free.cache, "{bounded:?} {free:?}");
        assert!(bounded.cache <= narrow.memory().room(), "{bounded:?}");
        let generate =
            |engine: &Engine| engine.generate(&engine.prepare_prompts(&prompts), &settings).unwrap();
        assert_eq!(generate(&wide), generate(&narrow));
    }
}

#[test]
fn a_query_that_does_not_fit_is_refused_alone_with_what_it_takes() {
    let family = RandomFamily::new(&LONG, 0);
    let phi = folder("others/phi");
    for (choice, base, longest) in [
        (DeviceChoice::Cpu, &family.base, 1500),
        (DeviceChoice::Candle, &family.base, 1500),
        (DeviceChoice::Cpu, &phi, 60),
    ] {
        let least = least(choice, base, &[]);
        let engine = load(choice, Some(least), base, &[]).unwrap();
        let mut prompts = prompts(5, 10);
        prompts[2].messages = vec![Message::user("w1 ".repeat(longest))];
        let answers = engine.generate(&engine.prepare_prompts(&prompts), &Sampling::greedy(8)).unwrap();
        let references = vec!["w1 w2".to_owned(), "w3".to_owned()];
        let items: Vec<ScoreItem> = prompts
            .into_iter()
            .map(|prompt| ScoreItem { messages: prompt.messages, references: references.clone() })
            .collect();
        let scores = engine.score(&engine.prepare_scores(&items)).unwrap();
        for at in 0..5 {
            if at != 2 {
                assert!(answers[at].is_ok() && scores[at].is_ok(), "{:?} {:?}", answers[at], scores[at]);
                continue;
            }
            for error in [answers[at].clone().map(drop), scores[at].clone().map(drop)].map(Result::unwrap_err)
            {
                let text = error.to_string();
                let ItemError::Memory { tokens, needed, room } = error else { panic!("{text}") };
                assert!(tokens > longest && needed > room && room == engine.memory().room());
                assert!(text.contains("--memory"), "{text}");
            }
        }
    }
}

/// Long prompts join a running batch a few at a time, so that their pass takes what the plan says.
#[test]
fn joining_prompts_are_taken_in_within_a_bounded_pass() {
    let family = RandomFamily::new(&LONG, 0);
    let engine = load(DeviceChoice::Cpu, None, &family.base, &[]).unwrap();
    let prompts: Vec<PromptItem> = (0..20)
        .map(|seed| {
            let text = words(&mut ChaCha8Rng::seed_from_u64(seed), 200, SMALL.vocab);
            PromptItem { messages: vec![Message::user(text)], seed }
        })
        .collect();
    let together = engine.prepare_prompts(&prompts);
    let settings = Sampling::greedy(4);
    let plan = engine.generation_plan(&together, &settings);
    assert!(plan.prompt_tokens <= 256, "{plan:?}");
    let answers = engine.generate(&together, &settings).unwrap();
    for (prompt, expected) in prompts.iter().zip(&answers) {
        let alone = engine.prepare_prompts(std::slice::from_ref(prompt));
        assert_eq!(&engine.generate(&alone, &settings).unwrap()[0], expected);
    }
}

/// On a device results depend on the batch within rounding: its size must not follow every byte that is free.
#[test]
fn on_a_device_memory_changes_what_is_done_together_by_halves_only() {
    let family = RandomFamily::new(&LONG, 0);
    let phi = folder("others/phi");
    for (choice, base, count, words, new_tokens) in
        [(DeviceChoice::Candle, &family.base, 200, 20, 1000), (DeviceChoice::Cpu, &phi, 16, 30, 20)]
    {
        let least = least(choice, base, &[]);
        let prompt = PromptItem { messages: vec![Message::user("w1 ".repeat(words))], seed: 0 };
        let (prompts, settings) = (vec![prompt; count], Sampling::greedy(new_tokens));
        let mut seen = Vec::new();
        for step in 0..60 {
            let engine = load(choice, Some(least + step * least / 2), base, &[]).unwrap();
            let plan = engine.generation_plan(&engine.prepare_prompts(&prompts), &settings);
            assert!(plan.cache <= engine.memory().room());
            // Under the least budget even one may be too long.
            if plan.sequences > 0 {
                seen.push(plan.sequences);
            }
        }
        // Not sorted yet: where more prompts may join at once, they can take room from the sequences.
        seen.sort_unstable();
        seen.dedup();
        let halves: Vec<usize> = std::iter::successors(Some(256), |size| (*size > 1).then_some(size / 2))
            .map(|size| size.min(count))
            .collect();
        assert!(seen.len() > 2 && seen.iter().all(|size| halves.contains(size)), "{choice}: {seen:?}");
        assert_eq!(seen.last(), Some(&count));
    }
}

#[test]
fn a_long_prompt_does_not_take_its_length_in_every_slot() {
    // Many layers, for keys and values to weigh more than a pass.
    let family = RandomFamily::new(&Shape { layers: 40, ..LONG }, 0);
    let least = least(DeviceChoice::Candle, &family.base, &[]);
    let engine = load(DeviceChoice::Candle, Some(3 * least), &family.base, &[]).unwrap();
    let settings = Sampling::greedy(10);
    let mut prompts = prompts(40, 12);
    let plan = |prompts: &[PromptItem]| engine.generation_plan(&engine.prepare_prompts(prompts), &settings);
    assert_eq!(plan(&prompts).sequences, 40);
    prompts[7].messages = vec![Message::user("w1 ".repeat(500))];
    let long = plan(&prompts[7..8]);
    // What forty such slots would take is not there.
    assert!(
        long.sequences == 1 && 40 * long.cache > engine.memory().room(),
        "{long:?} {:?}",
        engine.memory()
    );
    assert_eq!(plan(&prompts).sequences, 39);
    let together = engine.generate(&engine.prepare_prompts(&prompts), &settings).unwrap();
    for at in [0, 7, 8, 39] {
        let alone = engine.prepare_prompts(&prompts[at..=at]);
        assert_eq!(engine.generate(&alone, &settings).unwrap()[0], together[at]);
        assert!(together[at].is_ok());
    }
}
