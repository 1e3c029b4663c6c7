//! The one thread that owns the engine.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread::JoinHandle;

use avsweep_lease::error_chain;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::error::{JobError, WorkerError};
use crate::evaluator::{ChunkResults, End, Evaluator, Failure, Spent, Task, Wish};

/// A job for the engine.
#[derive(Debug)]
pub(crate) struct EngineJob {
    /// Tells the worker's jobs apart.
    pub(crate) number: u64,
    pub(crate) task: Arc<Task>,
    /// Once cancelled, nobody wants the job's results.
    pub(crate) unwanted: CancellationToken,
}

/// What comes of it. `Finished`, `Stopped` or `Failed` is a job's last.
#[derive(Debug)]
pub(crate) enum EngineEvent {
    /// Results of a chunk.
    Results { number: u64, results: ChunkResults, spent: Spent },
    /// Every query has its result.
    Finished { number: u64 },
    /// Given up because it is unwanted.
    Stopped { number: u64 },
    /// The job failed.
    Failed { number: u64, error: String },
    /// The engine cannot go on.
    Broken(WorkerError),
}

/// Events that may wait to be taken before the engine waits.
const EVENT_QUEUE: usize = 16;

/// Starts the thread. It ends when `jobs` or the events' receiver is dropped.
///
/// `threads` is how many threads compute; `None` is all cores.
///
/// # Errors
/// When the system gives no thread.
pub(crate) fn start(
    threads: Option<usize>,
    mut jobs: mpsc::Receiver<EngineJob>,
) -> Result<(mpsc::Receiver<EngineEvent>, JoinHandle<()>), WorkerError> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.unwrap_or(0))
        .thread_name(|index| format!("engine-{index}"))
        .build()
        .map_err(|error| WorkerError::Threads(error.to_string()))?;
    let (events, receiver) = mpsc::channel(EVENT_QUEUE);
    let thread = std::thread::Builder::new()
        .name("engine".to_owned())
        .spawn(move || {
            // The evaluator lives inside the pool: everything it does in parallel happens there.
            pool.install(|| {
                let mut evaluator = Evaluator::default();
                while let Some(job) = jobs.blocking_recv() {
                    if !evaluate(&mut evaluator, &job, &events) {
                        return;
                    }
                }
            });
        })
        .map_err(|error| WorkerError::Threads(error.to_string()))?;
    Ok((receiver, thread))
}

/// Evaluates one job; `false` when the thread should end.
fn evaluate(evaluator: &mut Evaluator, job: &EngineJob, events: &mpsc::Sender<EngineEvent>) -> bool {
    let number = job.number;
    if job.unwanted.is_cancelled() {
        return events.blocking_send(EngineEvent::Stopped { number }).is_ok();
    }
    let evaluated = std::panic::catch_unwind(AssertUnwindSafe(|| {
        evaluator.evaluate(&job.task, |results, spent| {
            let sent = events.blocking_send(EngineEvent::Results { number, results, spent });
            if sent.is_err() || job.unwanted.is_cancelled() { Wish::Stop } else { Wish::GoOn }
        })
    }));
    let outcome = match evaluated {
        Ok(outcome) => outcome,
        // The job is counted as failed, so that one which always breaks the engine is parked in the end. What the
        // panic left behind is thrown away.
        Err(panic) => {
            *evaluator = Evaluator::default();
            Err(Failure::Job(JobError::Panicked(panic_text(panic.as_ref()))))
        }
    };
    let last = match outcome {
        Ok(End::Finished) => EngineEvent::Finished { number },
        Ok(End::Stopped) => EngineEvent::Stopped { number },
        Err(Failure::Job(error)) => EngineEvent::Failed { number, error: error_chain(&error) },
        Err(Failure::Worker(error)) => {
            // Nothing more can be done whether or not somebody hears it.
            let _ = events.blocking_send(EngineEvent::Broken(error));
            return false;
        }
    };
    events.blocking_send(last).is_ok()
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "no message".to_owned())
}
