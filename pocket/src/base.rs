//! Training the base: it learns to say all three levels, and prefers the generic one.

use candle_core::{Device, Tensor};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::batch::{Batch, EncodedQuery};
use crate::error::{PocketError, Result};
use crate::model::{Llama, Shape, Weights};
use crate::optimizer::{AdamW, scheduled_rate, sharded_gradients, tracked, values, variables};

/// How the base is trained.
#[derive(Debug, Clone, Copy)]
pub struct BaseSettings {
    /// Seed of the initial weights and the order of the queries.
    pub seed: u64,
    /// Tokens in the vocabulary.
    pub vocabulary: usize,
    /// Passes over the training queries.
    pub epochs: usize,
    /// Queries per step, each with all its answers.
    pub batch: usize,
    /// Peak learning rate.
    pub rate: f32,
    /// Weight decay.
    pub weight_decay: f32,
    /// Share of each level where the answers part.
    pub mixture: [f32; 3],
}

impl Default for BaseSettings {
    fn default() -> Self {
        Self {
            seed: 7,
            vocabulary: 1792,
            epochs: 40,
            batch: 48,
            rate: 4e-3,
            weight_decay: 0.05,
            mixture: [0.15, 0.7, 0.15],
        }
    }
}

impl BaseSettings {
    /// The settings as the model card states them.
    pub fn in_words(&self) -> String {
        let [avoidance, generic, expert] = self.mixture;
        format!(
            "{} passes, {} questions with all answers per step, AdamW with peak rate {} (warm-up, then \
             cosine), weight decay {}, mixture {avoidance} / {generic} / {expert}",
            self.epochs, self.batch, self.rate, self.weight_decay
        )
    }
}

/// What a step of training found.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Step just done, from 1.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// The step's loss.
    pub loss: f32,
}

/// Trains the base from nothing.
///
/// The loss is the cross-entropy of every answer token. Where answers of different levels share
/// what came before (their first tokens), the levels weigh as `mixture` says, so the base
/// prefers the generic answer; where an answer stands alone, all levels weigh the same, so the
/// rarer levels are learned as well as the common one.
///
/// # Errors
/// When an operation fails or the loss leaves the finite numbers.
pub fn train(
    shape: &Shape,
    queries: &[EncodedQuery],
    settings: &BaseSettings,
    mut report: impl FnMut(Progress),
) -> Result<Weights> {
    let device = Device::Cpu;
    let vars = variables(&shape.initial_weights(settings.seed, &device)?)?;
    let mut optimizer = AdamW::new(settings.weight_decay, 1.0);
    let mut rng = ChaCha8Rng::seed_from_u64(settings.seed + 1);
    let mut order: Vec<&EncodedQuery> = queries.iter().collect();
    let steps = settings.epochs * order.len().div_ceil(settings.batch);
    let mut step = 0;
    for _ in 0..settings.epochs {
        order.shuffle(&mut rng);
        for chunk in order.chunks(settings.batch) {
            let shards = shards(chunk, &device)?;
            let share = 1.0 / chunk.len() as f64;
            let (loss, gradients) = sharded_gradients(&vars, &shards, |batch| {
                let weights = tracked(&vars);
                let log_probs = Llama::new(shape, &weights).token_log_probs(batch)?;
                let weighted = (log_probs * mixture_weights(batch, settings.mixture)?)?;
                Ok((weighted.sum_all()? * -share)?)
            })?;
            if !loss.is_finite() {
                return Err(PocketError::Diverged { step, loss });
            }
            optimizer.step(&vars, &gradients, scheduled_rate(settings.rate, step, steps))?;
            step += 1;
            report(Progress { step, steps, loss });
        }
    }
    Ok(values(&vars))
}

/// Two halves of a batch, so that both cores work on a step.
pub(crate) fn shards(queries: &[&EncodedQuery], device: &Device) -> Result<Vec<Batch>> {
    queries.chunks(queries.len().div_ceil(2).max(1)).map(|half| Batch::new(half, device)).collect()
}

fn mixture_weights(batch: &Batch, mixture: [f32; 3]) -> Result<Tensor> {
    let decisions: Vec<f32> = batch.decisions.to_vec1()?;
    let weights: Vec<f32> = decisions
        .iter()
        .zip(&batch.levels)
        .map(|(&decision, &level)| if decision > 0.0 { mixture[level] } else { 1.0 / 3.0 })
        .collect();
    Ok(Tensor::from_vec(weights, batch.token_count(), batch.ids.device())?)
}
