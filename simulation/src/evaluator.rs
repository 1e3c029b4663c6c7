//! The made-up evaluator and judge behind the real loops: right results after simulated time, and trouble.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use avsweep_domain::{Levels, Query, Response, Rung, Verdict};
use avsweep_judge::{AttemptError, JudgeError, Meter, Rate};
use avsweep_worker::{Chunk, ChunkResults, End, Evaluate, Failure, JobError, Spent, Task, UnfitError};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::network::Host;
use crate::values;
use crate::world::{Fault, World};

/// Loading another model.
const LOAD: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));
/// One chunk.
const EVALUATE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(1500));
/// One response.
const JUDGE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(1200));
/// Most queries evaluated together.
const TOGETHER: u64 = 3;

/// Evaluates tasks by [`values`], on a host that can be frozen.
#[derive(Debug)]
pub(crate) struct MadeUpEvaluator {
    world: Arc<World>,
    host: Arc<Host>,
    loaded: Option<avsweep_domain::Fingerprint>,
}

impl MadeUpEvaluator {
    pub(crate) fn new(world: Arc<World>, host: Arc<Host>) -> Self {
        Self { world, host, loaded: None }
    }

    /// Takes a while; whether the task is still wanted then.
    async fn spend(&self, time: (Duration, Duration), unwanted: &CancellationToken) -> bool {
        let working = async {
            sleep(self.world.between(time.0, time.1)).await;
            self.host.thawed().await;
        };
        tokio::select! {
            biased;
            () = unwanted.cancelled() => false,
            () = working => true,
        }
    }

    /// Trouble before a task begins.
    fn begins(&mut self, task: &Task) -> Result<(), Failure> {
        let weather = self.world.weather();
        if self.world.chance(weather.unfit) {
            self.world.count(Fault::ModelUnfit);
            self.loaded = None;
            return Err(Failure::Unfit(UnfitError::FilesDiffer {
                path: task.definition.model.path.clone(),
                found: "another".to_owned(),
                wanted: "the sweep's".to_owned(),
            }));
        }
        Ok(())
    }

    /// Trouble with a chunk.
    fn fails(&self, task: &Task, together: usize) -> Result<(), Failure> {
        let weather = self.world.weather();
        if self.world.poison().is_some_and(|poison| poison == (task.point.clone(), task.rung)) {
            return Err(Failure::Job(JobError::Panicked("this point always fails".to_owned())));
        }
        if self.world.chance(weather.fail) {
            self.world.count(Fault::EvaluationFailed);
            return Err(Failure::Job(JobError::Panicked("made to fail".to_owned())));
        }
        if together > 1 && self.world.chance(weather.out_of_memory) {
            self.world.count(Fault::OutOfMemory);
            return Err(Failure::OutOfMemory { together, reason: "made to be short".to_owned() });
        }
        Ok(())
    }

    fn results(task: &Task, ordinals: &[u32]) -> Result<ChunkResults, Failure> {
        let definition = &task.definition;
        let queries: Vec<(u32, &Query)> = ordinals
            .iter()
            .filter_map(|ordinal| Some((*ordinal, definition.queries().nth(*ordinal as usize)?.query)))
            .collect();
        let (recipe, point) = (task.recipe, &task.point);
        match task.rung {
            Rung::Likelihood => Ok(ChunkResults::Scores(
                queries
                    .iter()
                    .map(|(ordinal, query)| (*ordinal, values::score(recipe, point, query)))
                    .collect(),
            )),
            Rung::Generation => Ok(ChunkResults::Responses(
                queries
                    .iter()
                    .map(|(ordinal, query)| (*ordinal, values::response(recipe, point, query)))
                    .collect(),
            )),
            Rung::Judgement => Err(Failure::Job(JobError::WrongRung(Rung::Judgement))),
        }
    }
}

#[async_trait]
impl Evaluate for MadeUpEvaluator {
    async fn evaluate(
        &mut self,
        task: Arc<Task>,
        chunks: mpsc::Sender<Chunk>,
        unwanted: CancellationToken,
    ) -> Result<End, Failure> {
        self.begins(&task)?;
        if self.loaded != Some(task.recipe) {
            if !self.spend(LOAD, &unwanted).await {
                return Ok(End::Stopped);
            }
            self.loaded = Some(task.recipe);
        }
        let mut left = task.ordinals.as_slice();
        while !left.is_empty() {
            let most = task.together.map_or(TOGETHER, |together| TOGETHER.min(together as u64));
            let together = (1 + self.world.below(most) as usize).min(left.len());
            let (now, later) = left.split_at(together);
            left = later;
            if !self.spend(EVALUATE, &unwanted).await {
                return Ok(End::Stopped);
            }
            self.fails(&task, together)?;
            let chunk = Chunk {
                results: Self::results(&task, now)?,
                spent: Spent { evaluate: EVALUATE.0, ..Spent::default() },
                tokens: now.len() as u64,
            };
            if chunks.send(chunk).await.is_err() {
                return Ok(End::Stopped);
            }
        }
        Ok(End::Finished)
    }

    fn device(&self) -> String {
        "simulated".to_owned()
    }
}

/// Judges by [`values`], over an endpoint that can be away.
#[derive(Debug)]
pub(crate) struct MadeUpJudge {
    pub(crate) world: Arc<World>,
    pub(crate) host: Arc<Host>,
}

fn endpoint() -> String {
    "simulated endpoint".to_owned()
}

#[async_trait]
impl Rate for MadeUpJudge {
    async fn rate(
        &self,
        _levels: &Levels,
        query: &Query,
        response: &Response,
        meter: &Meter,
    ) -> Result<Verdict, JudgeError> {
        meter.add_call();
        sleep(self.world.between(JUDGE.0, JUDGE.1)).await;
        self.host.thawed().await;
        let weather = self.world.weather();
        let timeout = AttemptError::Timeout { seconds: 1 };
        if self.world.judges_are_away() {
            meter.add_error();
            return Err(JudgeError::GaveUp { endpoint: endpoint(), attempts: 3, source: timeout });
        }
        if self.world.chance(weather.judge_fails) {
            self.world.count(Fault::JudgeFailed);
            meter.add_error();
            return Err(JudgeError::OneUnanswered { endpoint: endpoint(), attempts: 3, source: timeout });
        }
        if self.world.chance(weather.judge_refused) {
            self.world.count(Fault::JudgeFailed);
            let source =
                AttemptError::Status { status: 401, message: "made to be refused".to_owned(), code: None };
            return Err(JudgeError::Rejected { endpoint: endpoint(), source });
        }
        meter.add_tokens(10, 1);
        Ok(values::verdict(query, &response.text))
    }
}
