//! The engine's laws, checked through its public interface.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod bad_input;
mod candle;
mod common;
mod device;
mod families;
mod generation;
mod goldens;
mod lora;
mod memory;
mod merging;
mod others;
mod scoring;
mod stops;
mod vectors;

/// Small enough for a test to take milliseconds; odd sizes, so that every edge of the kernels is met.
pub(crate) const SMALL: common::Shape = common::Shape {
    hidden: 40,
    inner: 52,
    layers: 2,
    heads: 4,
    kv_heads: 2,
    vocab: 101,
    context: 64,
    tied: false,
};

/// Changes the `config.json` of a folder.
pub(crate) fn change_config(folder: &std::path::Path, change: impl FnOnce(&mut serde_json::Value)) {
    let path = folder.join("config.json");
    let mut config: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(&path, config.to_string()).unwrap();
}

/// The worker keeps the engine on a thread of its own, and shares what was prepared.
#[test]
fn the_engine_can_move_to_another_thread() {
    fn is_send<T: Send>() {}
    fn is_shared<T: Send + Sync + Clone>() {}
    is_send::<avsweep_engine::Engine>();
    is_shared::<avsweep_engine::BaseModel>();
    is_shared::<avsweep_engine::AlignmentVector>();
    is_shared::<avsweep_engine::PreparedScores>();
    is_shared::<avsweep_engine::PreparedPrompts>();
}
