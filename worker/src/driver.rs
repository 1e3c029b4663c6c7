//! Drives the evaluator: one job after another, fewer queries at once where the memory ran out.

use std::any::Any;
use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use avsweep_lease::error_chain;
use futures::FutureExt as _;
use tokio::sync::{mpsc, oneshot};

use crate::error::{JobError, UnfitError, WorkerError};
use crate::evaluate::{Chunk, End, Evaluate, Failure, Task};
use crate::limits::Limits;
use crate::queue::{Queue, QueuedJob};

/// Chunks of a job that may wait to be taken before the evaluator waits.
const CHUNK_QUEUE: usize = 4;
/// Events that may wait to be taken.
const EVENT_QUEUE: usize = 16;

/// What comes of a job. All but `Chunk`, `OutOfMemory` and `Block` are a job's last.
#[derive(Debug)]
pub(crate) enum Event {
    /// Results.
    Chunk { number: u64, chunk: Chunk },
    /// The memory ran out; the job goes on with fewer queries at once.
    OutOfMemory { number: u64 },
    /// A block of the job is done, and not the last one: is the next one wanted?
    Block { number: u64, goes_on: oneshot::Sender<bool> },
    /// Every query has its result.
    Finished { number: u64 },
    /// Given up because it is unwanted.
    Stopped { number: u64 },
    /// The job failed.
    Failed { number: u64, error: String },
    /// The job wants more memory than is here.
    Short { number: u64, error: String },
    /// The sweep's jobs cannot be done here.
    Unfit { number: u64, error: UnfitError },
    /// The evaluator cannot go on after this job.
    Broken { number: u64, error: WorkerError },
}

/// The evaluator and what drives it.
pub(crate) struct Driver {
    evaluator: Box<dyn Evaluate>,
    queue: Arc<Queue>,
    events: mpsc::Sender<Event>,
    limits: Limits,
    stint: Duration,
}

/// Nobody takes events any more.
struct Unheard;

impl Driver {
    pub(crate) fn new(
        evaluator: Box<dyn Evaluate>,
        queue: Arc<Queue>,
        stint: Duration,
    ) -> (Self, mpsc::Receiver<Event>) {
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        (Self { evaluator, queue, events, limits: Limits::default(), stint }, receiver)
    }

    /// Takes jobs until nobody takes events.
    pub(crate) async fn run(mut self) {
        loop {
            let job = self.queue.next(self.stint).await;
            let Ok(last) = self.drive(&job).await else { return };
            if matches!(last, Event::Unfit { .. }) {
                self.queue.nothing_loaded();
            }
            let broken = matches!(last, Event::Broken { .. });
            if self.events.send(last).await.is_err() || broken {
                return;
            }
        }
    }

    /// A job's last event.
    async fn drive(&mut self, job: &QueuedJob) -> Result<Event, Unheard> {
        let number = job.number;
        for (index, block) in job.blocks.iter().enumerate() {
            if let Some(last) = self.drive_block(job, block).await? {
                return Ok(last);
            }
            if index + 1 < job.blocks.len() {
                let (goes_on, answer) = oneshot::channel();
                self.events.send(Event::Block { number, goes_on }).await.map_err(|_| Unheard)?;
                // Without an answer the job is in nobody's care any more.
                if !answer.await.unwrap_or(false) {
                    return Ok(Event::Stopped { number });
                }
            }
        }
        Ok(Event::Finished { number })
    }

    /// Evaluates a block of a job; the job's last event, if it ends here.
    async fn drive_block(&mut self, job: &QueuedJob, block: &[u32]) -> Result<Option<Event>, Unheard> {
        let number = job.number;
        let (recipe, rung) = (job.task.recipe, job.task.rung);
        let mut left: BTreeSet<u32> = block.iter().copied().collect();
        let mut task = Arc::clone(&job.task);
        let limit = self.limits.get(recipe, rung);
        if limit.is_some() || task.ordinals != block {
            task = Arc::new(Task { ordinals: block.to_vec(), together: limit, ..(*task).clone() });
        }
        loop {
            if job.unwanted.is_cancelled() {
                return Ok(Some(Event::Stopped { number }));
            }
            let failure = match self.evaluate(job, &task, &mut left).await? {
                Ok(End::Stopped) => return Ok(Some(Event::Stopped { number })),
                Ok(End::Finished) if left.is_empty() => {
                    self.limits.fitted(recipe, rung);
                    return Ok(None);
                }
                Ok(End::Finished) => {
                    Failure::Job(JobError::Incomplete { missing: left.len(), wanted: block.len() })
                }
                Err(failure) => failure,
            };
            match failure {
                Failure::Job(error) => {
                    return Ok(Some(Event::Failed { number, error: error_chain(&error) }));
                }
                Failure::Unfit(error) => return Ok(Some(Event::Unfit { number, error })),
                Failure::Short(error) => {
                    return Ok(Some(Event::Short { number, error: error_chain(&error) }));
                }
                Failure::Worker(error) => return Ok(Some(Event::Broken { number, error })),
                Failure::OutOfMemory { together, reason } => {
                    self.events.send(Event::OutOfMemory { number }).await.map_err(|_| Unheard)?;
                    let Some(fewer) = self.limits.halve(recipe, rung, together) else {
                        let error = JobError::OutOfMemory { reason };
                        return Ok(Some(Event::Short { number, error: error_chain(&error) }));
                    };
                    tracing::warn!(%rung, together, fewer, reason, "out of memory: going on with fewer queries at once");
                    task = Arc::new(Task {
                        ordinals: left.iter().copied().collect(),
                        together: Some(fewer),
                        ..(*task).clone()
                    });
                }
            }
        }
    }

    /// Evaluates `task` once and hands its chunks on; a panic is the job's failure.
    async fn evaluate(
        &mut self,
        job: &QueuedJob,
        task: &Arc<Task>,
        left: &mut BTreeSet<u32>,
    ) -> Result<Result<End, Failure>, Unheard> {
        let (sender, mut chunks) = mpsc::channel(CHUNK_QUEUE);
        let evaluating = self.evaluator.evaluate(Arc::clone(task), sender, job.unwanted.clone());
        let mut evaluating = std::pin::pin!(AssertUnwindSafe(evaluating).catch_unwind());
        let outcome = loop {
            tokio::select! {
                biased;
                Some(chunk) = chunks.recv() => hand_on(&self.events, job.number, chunk, left).await?,
                outcome = &mut evaluating => break outcome,
            }
        };
        // What was sent just before the end.
        while let Ok(chunk) = chunks.try_recv() {
            hand_on(&self.events, job.number, chunk, left).await?;
        }
        Ok(outcome.unwrap_or_else(|panic| Err(Failure::Job(JobError::Panicked(panic_text(panic.as_ref()))))))
    }
}

async fn hand_on(
    events: &mpsc::Sender<Event>,
    number: u64,
    chunk: Chunk,
    left: &mut BTreeSet<u32>,
) -> Result<(), Unheard> {
    for ordinal in chunk.results.ordinals() {
        left.remove(&ordinal);
    }
    events.send(Event::Chunk { number, chunk }).await.map_err(|_| Unheard)
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "no message".to_owned())
}
