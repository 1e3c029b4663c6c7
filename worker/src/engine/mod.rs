//! The evaluator that computes: an engine on a thread of its own.

mod locations;
mod memory;
mod model;
mod thread;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use avsweep_domain::Fingerprint;
use avsweep_engine::{Device, DeviceChoice};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::locations::{Locations, ModelPaths};
use self::thread::ThreadJob;
use crate::error::{UnfitError, WorkerError};
use crate::evaluate::{Chunk, End, Evaluate, Failure, Task};

/// How an engine is set up.
#[derive(Debug, Clone, Default)]
pub struct EngineOptions {
    /// What computes.
    pub device: DeviceChoice,
    /// Bytes of memory that the model may take; `None` is a share of what there is.
    pub memory: Option<u64>,
    /// Threads that compute; `None` is all cores.
    pub threads: Option<usize>,
    /// Folder under which a sweep's model files are looked for that are not where the sweep says.
    pub model_root: Option<PathBuf>,
    /// Folder for model files from object storage; `None` is one among the system's temporary files.
    pub cache: Option<PathBuf>,
}

/// Evaluates on an engine. The thread ends with this, after the chunk it is on.
#[derive(Debug)]
pub struct EngineEvaluator {
    jobs: mpsc::Sender<ThreadJob>,
    device: Device,
    threads: usize,
    locations: Locations,
    /// Where the model of the last task is.
    located: Option<(Fingerprint, Arc<ModelPaths>)>,
    /// The recipe whose cached files proved wrong and were fetched again; once is enough.
    fetched_again: Option<Fingerprint>,
}

impl EngineEvaluator {
    /// Opens the device and starts the engine's thread; nothing is loaded yet.
    ///
    /// # Errors
    /// When there is no such device, or the system gives no thread.
    pub fn start(options: &EngineOptions) -> Result<Self, WorkerError> {
        let (jobs, queue) = mpsc::channel(1);
        let device = Device::open(options.device).map_err(|error| WorkerError::Device(Box::new(error)))?;
        let threads = thread::start(options.threads, options.memory, device.clone(), queue)?;
        let locations = Locations::new(options);
        Ok(Self { jobs, device, threads, locations, located: None, fetched_again: None })
    }

    /// The model's files; `None` when the task became unwanted meanwhile.
    async fn locate(
        &mut self,
        task: &Task,
        unwanted: &CancellationToken,
    ) -> Result<Option<Arc<ModelPaths>>, UnfitError> {
        if let Some((recipe, paths)) = &self.located
            && *recipe == task.recipe
        {
            return Ok(Some(Arc::clone(paths)));
        }
        self.located = None;
        let paths = tokio::select! {
            biased;
            () = unwanted.cancelled() => return Ok(None),
            paths = self.locations.find_all(&task.definition) => Arc::new(paths?),
        };
        self.located = Some((task.recipe, Arc::clone(&paths)));
        Ok(Some(paths))
    }

    async fn evaluate_located(
        &mut self,
        task: &Arc<Task>,
        chunks: &mpsc::Sender<Chunk>,
        unwanted: &CancellationToken,
    ) -> Result<End, Failure> {
        let started = Instant::now();
        let Some(paths) = self.locate(task, unwanted).await.map_err(Failure::Unfit)? else {
            return Ok(End::Stopped);
        };
        let (answer, answered) = oneshot::channel();
        let job = ThreadJob {
            task: Arc::clone(task),
            paths,
            located_in: started.elapsed(),
            chunks: chunks.clone(),
            unwanted: unwanted.clone(),
            answer,
        };
        let gone = || Failure::Worker(WorkerError::EngineGone);
        self.jobs.send(job).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

#[async_trait]
impl Evaluate for EngineEvaluator {
    async fn evaluate(
        &mut self,
        task: Arc<Task>,
        chunks: mpsc::Sender<Chunk>,
        unwanted: CancellationToken,
    ) -> Result<End, Failure> {
        let outcome = self.evaluate_located(&task, &chunks, &unwanted).await;
        let Err(Failure::Unfit(error)) = &outcome else { return outcome };
        // What is opened next may be elsewhere, or have been put right.
        self.located = None;
        let again = self.fetched_again != Some(task.recipe);
        if !again || !self.locations.forget(&task.definition, error).await {
            return outcome;
        }
        self.fetched_again = Some(task.recipe);
        tracing::warn!(
            sweep = task.sweep.0, error = %avsweep_lease::error_chain(error),
            "cached model files are not the sweep's: fetching them again"
        );
        self.evaluate_located(&task, &chunks, &unwanted).await
    }

    fn device(&self) -> String {
        let plural = if self.threads == 1 { "" } else { "s" };
        format!("{}, {} thread{plural}", self.device, self.threads)
    }
}
