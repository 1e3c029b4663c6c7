//! The seam between the worker's loop and whatever evaluates: an engine, or something made up that takes its place.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use avsweep_domain::{Fingerprint, Point, QueryScore, Response, Rung, SweepDefinition, SweepId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::error::{JobError, UnfitError, WorkerError};

/// What an evaluator is asked to do.
#[derive(Debug, Clone)]
pub struct Task {
    /// The sweep's number, for messages.
    pub sweep: SweepId,
    /// The sweep.
    pub definition: Arc<SweepDefinition>,
    /// The definition's fingerprint.
    pub sweep_fingerprint: Fingerprint,
    /// What has to be loaded: tasks of one recipe need no other model.
    pub recipe: Fingerprint,
    /// What is measured.
    pub rung: Rung,
    /// Where.
    pub point: Point,
    /// The queries, ascending.
    pub ordinals: Vec<u32>,
    /// Most queries that may be evaluated together, where more have run out of memory before.
    pub together: Option<usize>,
}

/// What comes of a part of a task's queries. The queries of one chunk are evaluated together.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// The results.
    pub results: ChunkResults,
    /// The time they took.
    pub spent: Spent,
    /// Tokens that went through the model: scored, prompts, generated.
    pub tokens: u64,
}

/// Results by ordinal.
#[derive(Debug, Clone, PartialEq)]
pub enum ChunkResults {
    /// Of the likelihood rung.
    Scores(Vec<(u32, QueryScore)>),
    /// Of the generation rung.
    Responses(Vec<(u32, Response)>),
}

impl ChunkResults {
    /// The queries that have a result here.
    pub fn ordinals(&self) -> impl Iterator<Item = u32> {
        let (scores, responses): (&[_], &[_]) = match self {
            Self::Scores(scores) => (scores, &[]),
            Self::Responses(responses) => (&[], responses),
        };
        let of_scores = scores.iter().map(|(ordinal, _)| *ordinal);
        of_scores.chain(responses.iter().map(|(ordinal, _)| *ordinal))
    }
}

/// Where the time of a chunk went. Loading and merging count with a task's first chunk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Fetching and reading model files.
    pub load: Duration,
    /// Merging the point.
    pub merge: Duration,
    /// Scoring or generating.
    pub evaluate: Duration,
}

/// How a task ended, when it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Every query has its result.
    Finished,
    /// Given up because it is unwanted.
    Stopped,
}

/// Why a task failed. What was sent before counts all the same.
#[derive(Debug)]
pub enum Failure {
    /// The job cannot be done; others may. Counts against it.
    Job(JobError),
    /// The memory does not suffice for this many queries together; fewer may fit.
    OutOfMemory {
        /// Queries that were evaluated together when it ran out.
        together: usize,
        /// What the device said.
        reason: String,
    },
    /// The model files here are not the sweep's: its jobs cannot be done here, those of others may.
    Unfit(UnfitError),
    /// The memory here does not hold one of the job's queries, not even alone: it cannot be done here, while another
    /// worker may do it.
    Short(JobError),
    /// The evaluator cannot go on. Counts against the job that it was on, or a job that breaks every evaluator would
    /// end one worker after another.
    Worker(WorkerError),
}

/// Evaluates tasks, one at a time.
#[async_trait]
pub trait Evaluate: Send {
    /// Evaluates one task and sends its results chunk by chunk.
    ///
    /// Ends soon after `unwanted` is cancelled, or when nobody takes the chunks any more. A panic counts against the
    /// task's job, and the evaluator is used again.
    ///
    /// # Errors
    /// See [`Failure`].
    async fn evaluate(
        &mut self,
        task: Arc<Task>,
        chunks: mpsc::Sender<Chunk>,
        unwanted: CancellationToken,
    ) -> Result<End, Failure>;

    /// What it computes on, for people: "cpu, 2 threads".
    fn device(&self) -> String;
}
