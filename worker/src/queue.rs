//! Jobs that wait for the evaluator.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use avsweep_domain::{Fingerprint, SweepId};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::evaluate::Task;

/// A job for the evaluator.
#[derive(Debug, Clone)]
pub(crate) struct QueuedJob {
    /// Tells the worker's jobs apart; later ones have higher numbers.
    pub(crate) number: u64,
    pub(crate) task: Arc<Task>,
    /// The task's queries in blocks: before the next one is begun, it is asked whether it is wanted.
    pub(crate) blocks: Vec<Vec<u32>>,
    /// Once cancelled, nobody wants the job's results.
    pub(crate) unwanted: CancellationToken,
}

/// The evaluator takes the next job by itself, so that it never waits for a report.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    added: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<QueuedJob>,
    stint: Option<Stint>,
}

/// Work on one sweep without another's in between.
#[derive(Debug, Clone, Copy)]
struct Stint {
    sweep: SweepId,
    recipe: Fingerprint,
    since: Instant,
}

impl Queue {
    pub(crate) fn push(&self, job: QueuedJob) {
        self.lock().waiting.push_back(job);
        self.added.notify_one();
    }

    /// The next job, once there is one: of the model that is loaded while the stint on it is short, else the oldest.
    pub(crate) async fn next(&self, longest_stint: Duration) -> QueuedJob {
        loop {
            if let Some(job) = self.take_next(longest_stint) {
                return job;
            }
            self.added.notified().await;
        }
    }

    fn take_next(&self, longest_stint: Duration) -> Option<QueuedJob> {
        let now = Instant::now();
        let mut state = self.lock();
        let loaded = state
            .stint
            .filter(|stint| now.duration_since(stint.since) < longest_stint)
            .map(|stint| stint.recipe);
        let of_loaded =
            loaded.and_then(|recipe| state.waiting.iter().position(|job| job.task.recipe == recipe));
        let job = state.waiting.remove(of_loaded.unwrap_or(0))?;
        if state.stint.is_none_or(|stint| stint.sweep != job.task.sweep) {
            state.stint = Some(Stint { sweep: job.task.sweep, recipe: job.task.recipe, since: now });
        }
        Some(job)
    }

    /// Notes that the model of the job taken last could not be loaded.
    pub(crate) fn nothing_loaded(&self) {
        self.lock().stint = None;
    }

    /// The sweep to stay with: the one whose model is loaded, for no longer than a stint.
    pub(crate) fn preferred(&self, longest_stint: Duration) -> Option<SweepId> {
        let stint = self.lock().stint?;
        (stint.since.elapsed() < longest_stint).then_some(stint.sweep)
    }

    /// Takes waiting jobs out; their numbers.
    pub(crate) fn remove(&self, unwanted: impl Fn(&QueuedJob) -> bool) -> Vec<u64> {
        let mut state = self.lock();
        let (out, waiting): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut state.waiting).into_iter().partition(unwanted);
        state.waiting = waiting;
        out.iter().map(|job| job.number).collect()
    }

    /// No code panics while it holds the lock, so what it guards is whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
