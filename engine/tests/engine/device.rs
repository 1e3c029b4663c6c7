//! The decoder for devices, on candle's CPU device, against the CPU decoder and transformers' numbers.

use crate::SMALL;
use crate::common::{self, RandomFamily, Shape, random_prompts, words};
use crate::families::FAMILIES;
use crate::goldens::{agrees, expected_in, folder};
use avsweep_engine::{
    BaseModel, Device, DeviceChoice, Engine, EngineError, Message, PromptItem, Sampling, ScoreItem,
    WeightType,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::path::Path;

/// Share of the largest logit by which logits may differ: f32 sums in another order.
const LOGITS: f32 = 1e-4;
/// By which sums of some ten log-probabilities may differ.
const SCORES: f64 = 1e-3;

fn tensors() -> Device {
    Device::open(DeviceChoice::Candle).unwrap()
}

fn load(
    device: &Device,
    memory: Option<u64>,
    base: &Path,
    vectors: &[impl AsRef<Path>],
    dtype: WeightType,
) -> Engine {
    common::load(device, memory, base, vectors, dtype).unwrap()
}

fn prompts(count: u64, longest: usize) -> Vec<PromptItem> {
    random_prompts(11, count, longest, SMALL.vocab)
}

fn items(count: u64) -> Vec<ScoreItem> {
    let mut generator = ChaCha8Rng::seed_from_u64(3);
    prompts(count, 24)
        .into_iter()
        .map(|prompt| {
            let first = words(&mut generator, 5, SMALL.vocab);
            let references =
                vec![first.clone(), format!("{first} w3 w4"), words(&mut generator, 9, SMALL.vocab)];
            ScoreItem { messages: prompt.messages, references }
        })
        .collect()
}

/// Everything that both engines compute is the same within the tolerances, and greedy texts are equal.
fn agree(cpu: &Engine, device: &Engine) {
    let tokens: Vec<u32> = (0..40).map(|at| (at * 37 + 5) % 98 + 3).collect();
    let (ours, theirs) = (device.logits(&tokens).unwrap(), cpu.logits(&tokens).unwrap());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        let largest = theirs.iter().fold(0.0_f32, |most, logit| most.max(logit.abs()));
        for (ours, theirs) in ours.iter().zip(theirs) {
            assert!((ours - theirs).abs() <= LOGITS * largest, "{ours} against {theirs}");
        }
    }
    let items = items(25);
    let ours = device.score(&device.prepare_scores(&items)).unwrap();
    let theirs = cpu.score(&cpu.prepare_scores(&items)).unwrap();
    for (ours, theirs) in ours.into_iter().zip(theirs) {
        for (ours, theirs) in ours.unwrap().into_iter().zip(theirs.unwrap()) {
            assert_eq!((ours.tokens, ours.bytes), (theirs.tokens, theirs.bytes));
            assert!((ours.log_prob_sum - theirs.log_prob_sum).abs() <= SCORES, "{ours:?} against {theirs:?}");
        }
    }
    let prompts = prompts(21, 24);
    for settings in [Sampling::greedy(14), Sampling { temperature: 0.8, top_p: 0.9, ..Sampling::greedy(10) }]
    {
        let ours = device.generate(&device.prepare_prompts(&prompts), &settings).unwrap();
        assert_eq!(ours, cpu.generate(&cpu.prepare_prompts(&prompts), &settings).unwrap());
    }
}

#[test]
fn the_devices_decoder_computes_what_the_cpus_does() {
    for shape in [SMALL, Shape { tied: true, kv_heads: 1, ..SMALL }] {
        let family = RandomFamily::new(&shape, 2);
        for dtype in [WeightType::F32, WeightType::Bf16, WeightType::F16] {
            let mut cpu = load(&Device::cpu(), None, &family.base, &family.vectors, dtype);
            let mut device = load(&tensors(), None, &family.base, &family.vectors, dtype);
            for point in [[0.0, 0.0], [0.8, -0.3]] {
                cpu.merge(&point).unwrap();
                device.merge(&point).unwrap();
                agree(&cpu, &device);
            }
        }
    }
}

#[test]
fn every_family_agrees_with_transformers_on_a_device() {
    let none: [&Path; 0] = [];
    let families = FAMILIES.map(|name| folder("families").join(name));
    for folder in ["untied", "tied", "sharded"].map(folder).iter().chain(&families) {
        println!("{}", folder.display());
        let engine = load(&tensors(), None, folder, &none, WeightType::F32);
        agrees(&engine, &expected_in(folder).queries);
    }
}

#[test]
fn a_point_is_the_same_wherever_base_and_vectors_are_kept() {
    let family = RandomFamily::new(&SMALL, 2);
    let tokens = [1_u32, 40, 41, 99, 7, 3, 60];
    let logits = |memory| {
        let mut engine = load(&tensors(), memory, &family.base, &family.vectors, WeightType::Bf16);
        engine.merge(&[0.7, -0.4]).unwrap();
        (engine.logits(&tokens).unwrap(), engine.memory())
    };
    let (all, memory) = logits(None);
    assert_eq!(memory.streamed, 0);
    // What a short query takes beside merged weights is told by a budget that is too small for it.
    let least = least(&family, &tensors());
    let mut seen = Vec::new();
    for part in [0, memory.kept / 2, 2 * memory.kept] {
        let budget = least + part;
        let (some, decided) = logits(Some(budget));
        assert_eq!(some, all);
        assert_eq!((decided.budget, decided.merged), (budget, memory.merged));
        assert_eq!(decided.kept + decided.streamed, memory.kept);
        assert!(decided.kept <= part && decided.room() >= least - memory.merged, "{decided:?}");
        seen.push(decided.kept);
    }
    assert!(seen[0] == 0 && seen[1] > 0 && seen[2] > seen[1], "{seen:?}");
}

/// What a family's model takes at least, from the complaint about a budget that is too small.
fn least(family: &RandomFamily, device: &Device) -> u64 {
    let base = BaseModel::open(&family.base).unwrap();
    match Engine::load_on(device, Some(1), base, Vec::new(), &[], WeightType::Bf16).map(drop) {
        Err(EngineError::TooLarge { merged, least, .. }) => merged + least,
        other => panic!("{other:?}"),
    }
}

#[test]
fn more_prompts_than_slots_are_answered_as_each_alone() {
    let family = RandomFamily::new(&Shape { layers: 1, ..SMALL }, 0);
    let none: [&Path; 0] = [];
    let engine = load(&tensors(), None, &family.base, &none, WeightType::F32);
    // More than the 256 slots, so that finished sequences' places are taken by waiting ones.
    let prompts = prompts(300, 6);
    let together = engine.generate(&engine.prepare_prompts(&prompts), &Sampling::greedy(5)).unwrap();
    for (prompt, expected) in prompts.iter().zip(&together).step_by(13) {
        let alone = engine.prepare_prompts(std::slice::from_ref(prompt));
        assert_eq!(&engine.generate(&alone, &Sampling::greedy(5)).unwrap()[0], expected);
    }
}

#[test]
fn a_batch_scores_on_a_device_as_its_items_one_by_one_within_rounding() {
    let family = RandomFamily::new(&SMALL, 0);
    let none: [&Path; 0] = [];
    let engine = load(&tensors(), None, &family.base, &none, WeightType::F32);
    let items = items(30);
    let together = engine.score(&engine.prepare_scores(&items)).unwrap();
    for (item, expected) in items.iter().zip(together) {
        let alone = engine.score(&engine.prepare_scores(std::slice::from_ref(item))).unwrap();
        for (alone, expected) in alone[0].as_ref().unwrap().iter().zip(expected.unwrap()) {
            assert!((alone.log_prob_sum - expected.log_prob_sum).abs() <= 1e-4);
        }
    }
}

#[test]
fn an_item_that_does_not_fit_the_context_fails_alone_on_a_device() {
    let family = RandomFamily::new(&SMALL, 0);
    let none: [&Path; 0] = [];
    let engine = load(&tensors(), None, &family.base, &none, WeightType::F32);
    let mut prompts = prompts(3, 9);
    prompts[1].messages = vec![Message::user("w1 ".repeat(80))];
    let answers = engine.generate(&engine.prepare_prompts(&prompts), &Sampling::greedy(4)).unwrap();
    assert!(answers[0].is_ok() && answers[1].is_err() && answers[2].is_ok());
}
