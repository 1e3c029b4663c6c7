//! How likely each small fault is at the moment. All are zero in calm weather.

use crate::world::World;

/// Probabilities, each per call, chunk or response.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// A request never arrives.
    pub(crate) lose_request: f64,
    /// A request is carried out and its answer never arrives.
    pub(crate) lose_reply: f64,
    /// A request or an answer takes seconds instead of milliseconds.
    pub(crate) delay: f64,
    /// A request arrives a second time.
    pub(crate) duplicate: f64,
    /// A store call begins or returns some milliseconds late.
    pub(crate) store_pause: f64,
    /// An evaluation fails, once.
    pub(crate) fail: f64,
    /// An evaluation runs out of memory.
    pub(crate) out_of_memory: f64,
    /// A worker's model files seem to be others than the sweep's.
    pub(crate) unfit: f64,
    /// A judge gives no verdict on a response.
    pub(crate) judge_fails: f64,
    /// A judge's key is refused: its process ends.
    pub(crate) judge_refused: f64,
}

impl Weather {
    /// Weather in which some kinds of faults are frequent and others absent: bugs that take many of one kind are
    /// found in schedules that have only that.
    pub(crate) fn draw(world: &World) -> Self {
        let rate = |often: f64, most: f64| {
            if world.chance(often) { most * (1 + world.below(100)) as f64 / 100.0 } else { 0.0 }
        };
        Self {
            lose_request: rate(0.5, 0.15),
            lose_reply: rate(0.6, 0.2),
            delay: rate(0.5, 0.15),
            duplicate: rate(0.6, 0.25),
            store_pause: rate(0.7, 0.3),
            fail: rate(0.3, 0.04),
            out_of_memory: rate(0.3, 0.1),
            unfit: rate(0.2, 0.02),
            judge_fails: rate(0.3, 0.04),
            judge_refused: rate(0.1, 0.02),
        }
    }
}
