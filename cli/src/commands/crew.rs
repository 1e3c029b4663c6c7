//! A worker and a judge in this process, for the commands that bring their own.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use avsweep_domain::{JudgeProvider, SweepDefinition, WorkerId};
use avsweep_engine::{ByteSize, DeviceChoice};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connection::Connection;
use crate::output;

/// How long worker and judge may take to finish what they hold after Ctrl-C, before it is given back.
const DRAIN: Duration = Duration::from_secs(5);

/// A judge that cannot work is an error before any model work.
pub(super) fn check_judge(definition: &SweepDefinition) -> Result<()> {
    avsweep_judge::Judge::new(&definition.judge, &definition.levels)?;
    Ok(())
}

fn judge_concurrency(definition: &SweepDefinition) -> u32 {
    match definition.judge.provider {
        JudgeProvider::Reference { .. } => 1,
        JudgeProvider::Openai { concurrency, .. } => concurrency,
    }
}

/// How the worker of this process works.
#[derive(Debug, Clone, Copy)]
pub(super) struct CrewOptions<'a> {
    /// What computes.
    pub device: DeviceChoice,
    /// Memory that the model may take; `None` is a share of what there is.
    pub memory: Option<ByteSize>,
    /// Threads that compute; `None` is all cores.
    pub threads: Option<u16>,
    /// Where model files of object storage are kept.
    pub cache: &'a Path,
}

/// The worker and the judge of this process.
pub(super) struct Crew {
    stop: CancellationToken,
    tasks: TaskTracker,
    failed: tokio::sync::watch::Receiver<Option<String>>,
}

impl Crew {
    /// Starts both.
    ///
    /// # Errors
    /// When there is no such device, or the engine's threads cannot be started.
    pub(super) fn start(
        connection: &Connection,
        crew: CrewOptions<'_>,
        definition: &SweepDefinition,
    ) -> Result<Self> {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (tell, failed) = tokio::sync::watch::channel(None);
        let worker = avsweep_worker::Worker::new(
            connection.transport(),
            avsweep_worker::WorkerOptions {
                device: crew.device,
                memory: crew.memory.map(|size| size.0),
                threads: crew.threads.map(usize::from),
                cache: Some(crew.cache.to_path_buf()),
                drain: DRAIN,
                // Nobody else is there to do it.
                unfit: avsweep_worker::UnfitPolicy::End,
                ..avsweep_worker::WorkerOptions::default()
            },
        )?;
        let working = worker.run(stop.clone());
        tasks.spawn(tell_of_failure("worker", tell.clone(), stop.clone(), async move {
            working.await.map(drop).map_err(anyhow::Error::from)
        }));
        let options = avsweep_judge::LoopOptions {
            drain: DRAIN,
            max_jobs: judge_concurrency(definition).clamp(1, 16),
            ..avsweep_judge::LoopOptions::new(WorkerId(format!("judge-{}", std::process::id())))
        };
        let judging = avsweep_judge::run(connection.transport(), options, stop.clone());
        tasks.spawn(tell_of_failure("judge", tell, stop.clone(), async move {
            judging.await.map(drop).map_err(anyhow::Error::from)
        }));
        Ok(Self { stop, tasks, failed })
    }

    /// Waits until one of them ends by itself.
    pub(super) async fn failure(&self) -> String {
        let mut failed = self.failed.clone();
        match failed.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            // Both tasks are gone without a failure: only possible after `stop`.
            Err(_) => std::future::pending().await,
        }
    }

    /// Lets both finish or give back what they hold.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        let _ = tokio::time::timeout(DRAIN + Duration::from_secs(2), self.tasks.wait()).await;
    }
}

/// Waits for a part of the crew and tells how it failed: with an error, by a panic, or by ending unasked.
async fn tell_of_failure(
    name: &'static str,
    tell: tokio::sync::watch::Sender<Option<String>>,
    stop: CancellationToken,
    part: impl Future<Output = Result<()>> + Send + 'static,
) {
    let failure = match tokio::spawn(part).await {
        Ok(Ok(())) if stop.is_cancelled() => return,
        Ok(Ok(())) => "it ended unasked".to_owned(),
        Ok(Err(error)) => output::in_one_line(&error),
        Err(panic) => panic.to_string(),
    };
    tell.send_replace(Some(format!("the {name} ended: {failure}")));
}
