//! An evaluator that is made up: it takes its time, runs out of memory and breaks as a test says.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use avsweep_domain::{QueryScore, ReferenceScore, WorkerId};
use avsweep_engine::ItemError;
use avsweep_worker::{
    Chunk, ChunkResults, End, Evaluate, Failure, Jitter, JobError, Shutdown, Spent, Task, UnfitError, Worker,
    WorkerError, WorkerOptions, WorkerSummary,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::coordinator::Coordinator;

/// How the made-up evaluator behaves.
#[derive(Clone, Debug)]
pub(crate) struct MadeUp {
    /// Time for one query.
    pub(crate) per_query: Duration,
    /// Queries evaluated together where nothing says otherwise.
    pub(crate) chunk: usize,
    /// Queries that fit the memory together.
    pub(crate) memory: usize,
    /// A query that does not fit the memory, not even alone.
    pub(crate) too_long: Option<u32>,
    /// The device breaks on tasks with this many queries.
    pub(crate) breaks_at: Option<usize>,
    /// Sweeps whose model is not here.
    pub(crate) unfit: BTreeSet<i64>,
    /// Tasks with this many queries make it panic.
    pub(crate) panics_at: Option<usize>,
    /// Sizes of the chunks that fitted.
    pub(crate) chunks: Arc<Mutex<Vec<usize>>>,
}

impl Default for MadeUp {
    fn default() -> Self {
        Self {
            per_query: Duration::from_secs(1),
            chunk: 4,
            memory: usize::MAX,
            too_long: None,
            breaks_at: None,
            unfit: BTreeSet::new(),
            panics_at: None,
            chunks: Arc::default(),
        }
    }
}

#[async_trait]
impl Evaluate for MadeUp {
    async fn evaluate(
        &mut self,
        task: Arc<Task>,
        chunks: mpsc::Sender<Chunk>,
        unwanted: CancellationToken,
    ) -> Result<End, Failure> {
        assert_ne!(Some(task.ordinals.len()), self.panics_at, "made to break");
        if self.unfit.contains(&task.sweep.0) {
            return Err(Failure::Unfit(UnfitError::FilesDiffer {
                path: task.definition.model.path.clone(),
                found: "abc".to_owned(),
                wanted: "def".to_owned(),
            }));
        }
        if self.breaks_at == Some(task.ordinals.len()) {
            return Err(Failure::Worker(WorkerError::EngineGone));
        }
        let (long, short): (Vec<_>, Vec<_>) =
            task.ordinals.iter().copied().partition(|ordinal| self.too_long == Some(*ordinal));
        for ordinals in short.chunks(task.together.unwrap_or(self.chunk)) {
            if ordinals.len() > self.memory {
                let reason = "made-up device out of memory".to_owned();
                return Err(Failure::OutOfMemory { together: ordinals.len(), reason });
            }
            let evaluate = self.per_query * ordinals.len() as u32;
            tokio::select! {
                biased;
                () = unwanted.cancelled() => return Ok(End::Stopped),
                () = tokio::time::sleep(evaluate) => {}
            }
            self.chunks.lock().unwrap().push(ordinals.len());
            let score = |ordinal: &u32| (*ordinal, QueryScore(vec![reference(*ordinal); 3]));
            let chunk = Chunk {
                results: ChunkResults::Scores(ordinals.iter().map(score).collect()),
                spent: Spent { evaluate, ..Spent::default() },
                tokens: 10 * ordinals.len() as u64,
            };
            if chunks.send(chunk).await.is_err() {
                return Ok(End::Stopped);
            }
        }
        match long.first() {
            None => Ok(End::Finished),
            Some(ordinal) => Err(Failure::Short(JobError::Query {
                query: format!("q{ordinal}"),
                source: ItemError::Memory { tokens: 9000, needed: 2 << 30, room: 1 << 30 },
            })),
        }
    }

    fn device(&self) -> String {
        "made up".to_owned()
    }
}

fn reference(ordinal: u32) -> ReferenceScore {
    ReferenceScore { log_prob_sum: -f64::from(ordinal), tokens: 3, bytes: 12 }
}

/// Options whose waits are repeatable.
pub(crate) fn options() -> WorkerOptions {
    WorkerOptions {
        name: WorkerId("worker-1".to_owned()),
        drain: Duration::from_secs(30),
        jitter: Jitter::seeded(1),
        ..WorkerOptions::default()
    }
}

/// A worker that runs beside the test.
pub(crate) struct Running {
    pub(crate) shutdown: Shutdown,
    task: tokio::task::JoinHandle<Result<WorkerSummary, WorkerError>>,
}

impl Running {
    pub(crate) fn start(coordinator: &Coordinator, options: WorkerOptions, evaluator: MadeUp) -> Self {
        let worker = Worker::with_evaluator(coordinator.transport(), options, Box::new(evaluator));
        let shutdown = Shutdown::default();
        let task = tokio::spawn(worker.run(shutdown.clone()));
        Self { shutdown, task }
    }

    pub(crate) async fn ended(self) -> Result<WorkerSummary, WorkerError> {
        tokio::time::timeout(Duration::from_secs(86_400), self.task).await.expect("the worker ends").unwrap()
    }

    pub(crate) async fn stop(self) -> WorkerSummary {
        self.shutdown.drain.cancel();
        self.ended().await.unwrap()
    }
}
