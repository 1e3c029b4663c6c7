//! What is written down about a training run, for the model card.

use serde::{Deserialize, Serialize};

use crate::base::Progress;

/// A loss on the way.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct LossAt {
    /// Steps done.
    pub step: usize,
    /// Mean loss since the entry before.
    pub loss: f32,
}

/// One stage of training.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stage {
    /// Its settings, in words.
    pub settings: String,
    /// Wall time, seconds.
    pub seconds: f64,
    /// About ten losses, from first to last.
    pub losses: Vec<LossAt>,
}

/// The whole run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct TrainingRecord {
    /// Seed of everything random.
    pub seed: u64,
    /// Parameters of the model.
    pub parameters: usize,
    /// Tokens in the vocabulary.
    pub vocabulary: usize,
    /// Training questions, all domains.
    pub trained_queries: usize,
    /// The base's training.
    pub base: Option<Stage>,
    /// The vectors' training.
    pub align: Option<Stage>,
}

/// Collects about ten mean losses of a stage.
#[derive(Debug, Default)]
pub struct LossLog {
    entries: Vec<LossAt>,
    sum: f32,
    count: usize,
}

impl LossLog {
    /// Takes note of one step; true when an entry was completed.
    pub fn note(&mut self, progress: Progress) -> Option<LossAt> {
        self.sum += progress.loss;
        self.count += 1;
        let every = (progress.steps / 10).max(1);
        if !progress.step.is_multiple_of(every) && progress.step != progress.steps {
            return None;
        }
        let entry = LossAt { step: progress.step, loss: self.sum / self.count as f32 };
        self.entries.push(entry);
        (self.sum, self.count) = (0.0, 0);
        Some(entry)
    }

    /// The entries so far.
    pub fn into_entries(self) -> Vec<LossAt> {
        self.entries
    }
}
