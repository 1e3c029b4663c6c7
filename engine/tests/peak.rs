//! What a device's passes take of the memory, beside what was planned for them. In a program of its own: the peak of a
//! process is that of all its tests.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

#[expect(dead_code, reason = "shared with the engine's other tests")]
#[path = "engine/common.rs"]
mod common;

use avsweep_engine::{
    Device, DeviceChoice, Engine, EngineError, ItemError, Message, PromptItem, Sampling, ScoreItem,
    WeightType, peak_host_memory,
};
use common::{RandomFamily, Shape, load, random_prompts};
use serde_json::Value;
use std::path::Path;

/// Bytes of this process that are in memory now.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

/// Bytes by which the memory of this process grows at most while something is done.
fn growth(work: impl FnOnce()) -> u64 {
    let before = resident();
    work();
    peak_host_memory().unwrap() - before
}

/// One test, the largest last.
#[test]
fn nothing_takes_more_than_its_bounds() {
    headers_are_checked_without_memory();
    passes_and_steps_on_a_device_take_no_more_than_their_bounds();
}

/// However many positions a slow decoder's tables are to hold.
fn headers_are_checked_without_memory() {
    let device = Device::open(DeviceChoice::Cpu).unwrap();
    for name in ["phi", "starcoder2", "olmo2", "helium", "mixtral"] {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens/others").join(name);
        let copy = tempfile::tempdir().unwrap();
        std::fs::copy(golden.join("model.safetensors"), copy.path().join("model.safetensors")).unwrap();
        let mut config: Value =
            serde_json::from_str(&std::fs::read_to_string(golden.join("config.json")).unwrap()).unwrap();
        config["max_position_embeddings"] = (1 << 22).into();
        std::fs::write(copy.path().join("config.json"), config.to_string()).unwrap();
        let grown = growth(|| {
            let checked = Engine::check_memory(&device, Some(1), copy.path(), WeightType::F32);
            assert!(matches!(checked, Err(EngineError::TooLarge { .. })));
        });
        assert!(grown < 16 << 20, "{name}: checking takes {grown} bytes");
    }
}

fn passes_and_steps_on_a_device_take_no_more_than_their_bounds() {
    let device = Device::open(DeviceChoice::Candle).unwrap();
    let none: [&str; 0] = [];
    // Masks weigh most where there is one head.
    let narrow = Shape {
        hidden: 16,
        inner: 16,
        layers: 2,
        heads: 1,
        kv_heads: 1,
        vocab: 101,
        context: 16_384,
        tied: true,
    };
    let family = RandomFamily::new(&narrow, 0);
    let engine = |memory| load(&device, memory, &family.base, &none, WeightType::F32);
    let query = ScoreItem {
        messages: vec![Message::user("w1 w2 w3 ".repeat(4000))],
        references: vec!["w4 w5".to_owned()],
    };
    let needed = match engine(Some(1)).map(drop) {
        Err(EngineError::TooLarge { merged, least, .. }) => {
            let engine = engine(Some(merged + least)).unwrap();
            match engine.prepare_scores(std::slice::from_ref(&query)).failures().next() {
                Some((0, ItemError::Memory { needed, .. })) => *needed,
                other => panic!("{other:?}"),
            }
        }
        other => panic!("{other:?}"),
    };
    let engine = engine(None).unwrap();
    let prepared = engine.prepare_scores(&[query]);
    let grown = growth(|| assert!(engine.score(&prepared).unwrap()[0].is_ok()));
    assert!(grown <= needed, "12,000 rows take {grown} bytes, planned {needed}");
    drop((engine, prepared));

    // A step's logits weigh most where the vocabulary is large: they are there in f32, and once more while the
    // largest is looked for.
    let wide = Shape { vocab: 150_001, context: 64, ..narrow };
    let family = RandomFamily::new(&wide, 0);
    let engine = load(&device, None, &family.base, &none, WeightType::F32).unwrap();
    let prompts: Vec<PromptItem> = random_prompts(1, 256, 4, wide.vocab);
    let prepared = engine.prepare_prompts(&prompts);
    let logits = 256 * 150_001 * 4;
    assert!(peak_host_memory().unwrap() - resident() < 3 * logits);
    let grown = growth(|| {
        let answers = engine.generate(&prepared, &Sampling::greedy(3)).unwrap();
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 256);
    });
    assert!(grown <= 7 * logits / 2, "steps take {grown} bytes, {logits} of logits");
}
