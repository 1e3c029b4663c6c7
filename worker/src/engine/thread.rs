//! The one thread that owns the engine.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use avsweep_engine::{Device, EngineError, ItemError};
use avsweep_lease::error_chain;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::locations::ModelPaths;
use super::memory::is_out_of_memory;
use super::model::{Failed, Model, Wish};
use crate::driver::panic_text;
use crate::error::{JobError, UnfitError, WorkerError};
use crate::evaluate::{Chunk, End, Failure, Task};

/// A task for the thread.
#[derive(Debug)]
pub(super) struct ThreadJob {
    pub(super) task: Arc<Task>,
    pub(super) paths: Arc<ModelPaths>,
    /// Time that finding the files took.
    pub(super) located_in: Duration,
    pub(super) chunks: mpsc::Sender<Chunk>,
    pub(super) unwanted: CancellationToken,
    pub(super) answer: oneshot::Sender<Result<End, Failure>>,
}

/// Starts the thread, which ends when the sender of `jobs` is dropped; how many threads compute.
///
/// # Errors
/// When the system gives no thread.
pub(super) fn start(
    threads: Option<usize>,
    memory: Option<u64>,
    device: Device,
    mut jobs: mpsc::Receiver<ThreadJob>,
) -> Result<usize, WorkerError> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.unwrap_or(0))
        .thread_name(|index| format!("engine-{index}"))
        .build()
        .map_err(|error| WorkerError::Threads(error.to_string()))?;
    let computing = pool.current_num_threads();
    // Not waited for at the end, since a long chunk may still be on it.
    let _thread = std::thread::Builder::new()
        .name("engine".to_owned())
        .spawn(move || {
            // The model lives inside the pool: everything it does in parallel happens there.
            pool.install(|| {
                let mut model = Model::new(device, memory);
                while let Some(job) = jobs.blocking_recv() {
                    let outcome = evaluate(&mut model, &job);
                    // Nobody waits for it any more when the worker has ended.
                    let _ = job.answer.send(outcome);
                }
            });
        })
        .map_err(|error| WorkerError::Threads(error.to_string()))?;
    Ok(computing)
}

fn evaluate(model: &mut Model, job: &ThreadJob) -> Result<End, Failure> {
    if job.unwanted.is_cancelled() {
        return Ok(End::Stopped);
    }
    let evaluated = std::panic::catch_unwind(AssertUnwindSafe(|| {
        model.evaluate(&job.task, &job.paths, job.located_in, |chunk| {
            let sent = job.chunks.blocking_send(chunk);
            if sent.is_err() || job.unwanted.is_cancelled() { Wish::Stop } else { Wish::GoOn }
        })
    }));
    match evaluated {
        Ok(Ok(end)) => Ok(end),
        Ok(Err(Failed::Unfit(error))) => Err(Failure::Unfit(too_large_or(error, &job.paths))),
        Ok(Err(Failed::Job { error, together })) => {
            let reason = error_chain(&error);
            match error {
                _ if is_out_of_memory(&reason) => Err(Failure::OutOfMemory { together, reason }),
                JobError::Query { source: ItemError::Memory { .. }, .. } => Err(Failure::Short(error)),
                // A CUDA error stays for as long as the process: every further job would fail for it. Elsewhere it is
                // candle that refuses what this job asks.
                JobError::Engine(error @ EngineError::Device { .. }) if model.is_on_accelerator() => {
                    Err(Failure::Worker(WorkerError::Device(Box::new(error))))
                }
                error => Err(Failure::Job(error)),
            }
        }
        // The job is counted as failed, so that one which always breaks the engine is parked in the end. What the
        // panic left behind is thrown away.
        Err(panic) => {
            let together = model.together();
            model.reset();
            let reason = panic_text(panic.as_ref());
            if is_out_of_memory(&reason) {
                return Err(Failure::OutOfMemory { together, reason });
            }
            Err(Failure::Job(JobError::Panicked(reason)))
        }
    }
}

/// A model that cannot be loaded for want of memory is said to be too large.
fn too_large_or(error: UnfitError, paths: &ModelPaths) -> UnfitError {
    let reason = error_chain(&error);
    let over_budget = matches!(error, UnfitError::Open(EngineError::TooLarge { .. }));
    if over_budget || matches!(error, UnfitError::Open(_)) && is_out_of_memory(&reason) {
        return UnfitError::TooLarge { path: paths.base.display().to_string(), reason };
    }
    error
}
