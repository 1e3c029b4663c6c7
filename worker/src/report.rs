//! Results on their way to the coordinator.

use std::time::Duration;

use avsweep_domain::Rung;
use avsweep_proto::v1;

use crate::evaluate::{Chunk, ChunkResults};

/// What a report is to its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Some results.
    Part,
    /// The results up to the end of a block: is the next block wanted?
    Block,
    /// The last results.
    Last,
}

/// Results of one job that are not reported yet.
#[derive(Debug)]
pub(crate) struct Batch {
    results: v1::report_request::Results,
    timings: v1::Timings,
    usage: v1::Usage,
}

impl Batch {
    /// An empty batch for a job of this rung.
    pub(crate) fn new(rung: Rung) -> Self {
        let results = match rung {
            Rung::Likelihood => v1::report_request::Results::Scores(v1::ScoreResults::default()),
            Rung::Generation | Rung::Judgement => {
                v1::report_request::Results::Responses(v1::ResponseResults::default())
            }
        };
        Self { results, timings: v1::Timings::default(), usage: v1::Usage::default() }
    }

    /// Adds a chunk's results.
    pub(crate) fn add(&mut self, chunk: &Chunk) {
        let spent = chunk.spent;
        match (&mut self.results, &chunk.results) {
            (v1::report_request::Results::Scores(all), ChunkResults::Scores(new)) => {
                all.results.extend(new.iter().map(v1::ScoreResult::from));
            }
            (v1::report_request::Results::Responses(all), ChunkResults::Responses(new)) => {
                all.results.extend(new.iter().map(v1::ResponseResult::from));
            }
            // A job has one rung, and so has the engine's answer to it.
            (_, ChunkResults::Scores(_) | ChunkResults::Responses(_)) => {}
        }
        self.timings.load_micros += micros(spent.load);
        self.timings.merge_micros += micros(spent.merge);
        self.timings.evaluate_micros += micros(spent.evaluate);
        self.usage.tokens += chunk.tokens;
    }

    /// Notes that the memory ran out.
    pub(crate) fn add_out_of_memory(&mut self) {
        self.usage.out_of_memory += 1;
    }

    /// Number of results.
    pub(crate) fn len(&self) -> usize {
        match &self.results {
            v1::report_request::Results::Scores(scores) => scores.results.len(),
            v1::report_request::Results::Responses(responses) => responses.results.len(),
            v1::report_request::Results::Verdicts(verdicts) => verdicts.results.len(),
        }
    }

    /// Whether there is nothing to report.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The request that reports the batch.
    pub(crate) fn into_request(self, worker: String, lease: v1::LeaseRef, stage: Stage) -> v1::ReportRequest {
        v1::ReportRequest {
            worker,
            lease: Some(lease),
            finished: stage == Stage::Last,
            block_done: stage != Stage::Part,
            timings: Some(self.timings),
            results: Some(self.results),
            usage: Some(self.usage),
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
