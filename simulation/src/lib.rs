//! Coordinators, workers and judges under simulated faults.
//!
//! A schedule is everything that a seed makes of one run: the real coordinators, worker loops and judge loops on one
//! thread whose clock is simulated, over a real SQLite store in memory, with a made-up model and judge. Between them
//! lies a network that loses, delays, doubles and reorders calls. Processes crash and come back, freeze past their
//! leases, are cut off; coordinators die between two store calls; users pause, prioritise and retry.
//!
//! Every store call is one step: it takes no simulated time, and after it the laws are checked against a model of what
//! all answers so far have promised. When the faults end, the sweeps must become done, with the results of the
//! undisturbed run.
//!
//! Time, chance and the order of events come from the seed alone, so a schedule that breaks a law can be replayed.

mod cluster;
mod evaluator;
mod export;
mod laws;
mod network;
mod schedule;
mod store;
mod sweeps;
mod user;
mod values;
mod weather;
mod world;

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

pub use schedule::run_schedule;
pub use world::{Fault, FaultCounts};

/// A store that is broken on purpose: the laws must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Takes reports whose lease has ended, as long as nobody has taken it back.
    AcceptLateReports,
    /// Drops a result of every report that is not a job's last.
    ForgetResults,
    /// Lets everybody plan at once.
    PlanUnguarded,
}

/// What became of a schedule.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What it was made from.
    pub seed: u64,
    /// The law that was broken, if one was.
    pub problem: Option<String>,
    /// Store calls that could change something, each checked.
    pub steps: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// What went wrong on purpose.
    pub faults: FaultCounts,
    /// Every event with its simulated time in seconds.
    pub log: Vec<String>,
}

/// Runs the schedules of these seeds on some threads, and hands each outcome on as it comes, until `take` breaks.
///
/// # Errors
/// When a simulation cannot be set up.
pub fn run_schedules(
    seeds: Range<u64>,
    threads: NonZeroUsize,
    take: impl FnMut(Outcome) -> ControlFlow<()> + Send,
) -> anyhow::Result<()> {
    let next = AtomicU64::new(seeds.start);
    let over = AtomicBool::new(false);
    let take = Mutex::new(take);
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let work = |thread: usize| {
        // A schedule and its database's thread take turns and never run at once. On one core that is a change of
        // threads; between two it would be the waking of a sleeping core, some hundred thousand times.
        if let Some(core) = cores.get(thread % cores.len().max(1)) {
            core_affinity::set_for_current(*core);
        }
        while !over.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            let outcome = run_schedule(seed, None);
            let stop = match outcome {
                Ok(outcome) => (take.lock().unwrap_or_else(PoisonError::into_inner))(outcome).is_break(),
                Err(error) => {
                    over.store(true, Ordering::Relaxed);
                    return Err(error.context(format!("seed {seed}")));
                }
            };
            if stop {
                over.store(true, Ordering::Relaxed);
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = (0..threads.get()).map(|thread| scope.spawn(move || work(thread))).collect();
        running.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}
