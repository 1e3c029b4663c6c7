//! Alignment: direct preference optimisation of one domain, anchored in the others.
//!
//! DPO (Rafailov et al., 2023) with the base as reference: for answers a ≻ b of one question the
//! loss is −log σ(β·[(log π(a) − log π_base(a)) − (log π(b) − log π_base(b))]).
//! The preferences are expert ≻ generic, generic ≻ avoidance, expert ≻ avoidance.

use candle_core::{DType, Device, Tensor};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::base::{Progress, shards};
use crate::batch::{Batch, EncodedQuery};
use crate::corpus::{AVOIDANCE, DOMAINS, EXPERT, GENERIC};
use crate::error::{PocketError, Result};
use crate::model::{Llama, Shape, Weights, pick, sum_by_row};
use crate::optimizer::{AdamW, Vars, scheduled_rate, sharded_gradients, tracked, values, variables};

/// (preferred, other).
const PREFERENCES: [(usize, usize); 3] = [(EXPERT, GENERIC), (GENERIC, AVOIDANCE), (EXPERT, AVOIDANCE)];

/// How the vectors are trained.
#[derive(Debug, Clone, Copy)]
pub struct AlignSettings {
    /// Seed of the order of queries.
    pub seed: u64,
    /// Steps in all; the domains take turns.
    pub steps: usize,
    /// Queries of each domain per step.
    pub batch: usize,
    /// Peak learning rate.
    pub rate: f32,
    /// Weight decay of the vectors: pulls the aligned models towards the base.
    pub weight_decay: f32,
    /// DPO's β.
    pub beta: f64,
    /// Weight of the anchor: KL(base ‖ model) per answer token where a domain must stay.
    pub anchor: f64,
    /// Weight of the cross-entropy of tokens that complete an answer, whatever its level.
    pub fluency: f64,
}

impl Default for AlignSettings {
    fn default() -> Self {
        Self {
            seed: 11,
            steps: 450,
            batch: 8,
            rate: 7e-4,
            weight_decay: 0.0,
            beta: 1.0,
            anchor: 6.0,
            fluency: 0.2,
        }
    }
}

impl AlignSettings {
    /// The settings as the model card states them.
    pub fn in_words(&self) -> String {
        format!(
            "{} questions of each domain per step, the domains taking turns, AdamW with peak rate {} \
             (warm-up, then cosine), weight decay {}, β {}, anchor {}, completion {}",
            self.batch, self.rate, self.weight_decay, self.beta, self.anchor, self.fluency
        )
    }
}

/// Trains the three alignment vectors (aligned − base), in the order of the domains.
///
/// Each vector is trained as if alone, at coefficient 1: nothing here looks at negative
/// coefficients or at combinations.
///
/// # Errors
/// When an operation fails or the loss leaves the finite numbers.
pub fn train(
    shape: &Shape,
    base: &Weights,
    queries: &[EncodedQuery],
    settings: &AlignSettings,
    mut report: impl FnMut(Progress),
) -> Result<Vec<Weights>> {
    let device = Device::Cpu;
    let zero = shape.zero_weights(&device)?;
    let vectors: Vec<Vars> = DOMAINS.iter().map(|_| variables(&zero)).collect::<Result<_>>()?;
    let mut optimizers: Vec<AdamW> = vectors.iter().map(|_| AdamW::new(settings.weight_decay, 1.0)).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
    let mut decks: Vec<Deck<'_>> = (0..DOMAINS.len())
        .map(|domain| Deck::new(queries.iter().filter(|q| q.domain == domain).collect()))
        .collect();
    for step in 0..settings.steps {
        let domain = step % DOMAINS.len();
        let (vector, optimizer) = (&vectors[domain], &mut optimizers[domain]);
        let mixed = draw_interleaved(&mut decks, settings.batch, &mut rng);
        let shards: Vec<Shard> = shards(&mixed, &device)?
            .into_iter()
            .zip(mixed.chunks(mixed.len().div_ceil(2).max(1)))
            .map(|(batch, queries)| Shard {
                batch,
                moves: queries.iter().map(|q| q.domain == domain).collect(),
            })
            .collect();
        let share = 1.0 / mixed.len() as f64;
        let (loss, gradients) = sharded_gradients(vector, &shards, |shard| {
            let aligned = merge(base, &[tracked(vector)], &[1.0])?;
            Ok((shard_loss(shape, base, &aligned, shard, settings)? * share)?)
        })?;
        if !loss.is_finite() {
            return Err(PocketError::Diverged { step, loss });
        }
        optimizer.step(vector, &gradients, scheduled_rate(settings.rate, step, settings.steps))?;
        report(Progress { step: step + 1, steps: settings.steps, loss });
    }
    Ok(vectors.iter().map(values).collect())
}

/// base + Σ cᵢ·Vᵢ in the vectors' order, f32; gradients flow to whatever of it has some.
///
/// # Errors
/// When a vector lacks a tensor or an operation fails.
pub fn merge(base: &Weights, vectors: &[Weights], point: &[f64]) -> Result<Weights> {
    base.iter()
        .map(|(name, tensor)| {
            let mut merged = tensor.clone();
            for (vector, &coefficient) in vectors.iter().zip(point) {
                let delta = vector.get(name).ok_or_else(|| PocketError::MissingTensor(name.clone()))?;
                merged = (merged + (delta * coefficient)?)?;
            }
            Ok((name.clone(), merged))
        })
        .collect()
}

/// `count` queries of every domain, in turns, so that both shards of a step hold every domain.
fn draw_interleaved<'a>(decks: &mut [Deck<'a>], count: usize, rng: &mut ChaCha8Rng) -> Vec<&'a EncodedQuery> {
    let drawn: Vec<Vec<&EncodedQuery>> = decks.iter_mut().map(|deck| deck.draw(count, rng)).collect();
    (0..count).flat_map(|i| drawn.iter().map(move |domain| domain[i])).collect()
}

/// Draws queries without repetition until all were drawn, then shuffles again.
struct Deck<'a> {
    queries: Vec<&'a EncodedQuery>,
    next: usize,
}

impl<'a> Deck<'a> {
    fn new(queries: Vec<&'a EncodedQuery>) -> Self {
        Self { next: queries.len(), queries }
    }

    fn draw(&mut self, count: usize, rng: &mut ChaCha8Rng) -> Vec<&'a EncodedQuery> {
        (0..count)
            .map(|_| {
                if self.next >= self.queries.len() {
                    self.queries.shuffle(rng);
                    self.next = 0;
                }
                self.next += 1;
                self.queries[self.next - 1]
            })
            .collect()
    }
}

struct Shard {
    batch: Batch,
    /// For each query of the batch: whether its domain is the one to align.
    moves: Vec<bool>,
}

/// The loss of one shard, summed over its queries.
fn shard_loss(
    shape: &Shape,
    base: &Weights,
    aligned: &Weights,
    shard: &Shard,
    settings: &AlignSettings,
) -> Result<Tensor> {
    let batch = &shard.batch;
    let queries = shard.moves.len();
    let reference = Llama::new(shape, base).answer_log_probs(batch)?.detach();
    let model = Llama::new(shape, aligned).answer_log_probs(batch)?;
    let own = pick(&model, &batch.targets)?;
    let gain = (&own - pick(&reference, &batch.targets)?)?;
    let gains = sum_by_row(&gain, batch)?.reshape((queries, 3))?;

    let mut preference = Tensor::zeros(queries, DType::F32, batch.ids.device())?;
    for (preferred, other) in PREFERENCES {
        let margin = (gains.narrow(1, preferred, 1)? - gains.narrow(1, other, 1)?)?.squeeze(1)?;
        preference = (preference + softplus(&(margin * -settings.beta)?)?)?;
    }
    let moves = indicator(shard.moves.iter().copied(), batch)?;
    let preference = ((preference * moves)?.sum_all()? / PREFERENCES.len() as f64)?;

    let rows: Vec<u32> = batch.rows.to_vec1()?;
    let moving_token = |&row: &u32| shard.moves[row as usize / 3];
    let stays = indicator(rows.iter().map(|row| !moving_token(row)), batch)?;
    let divergence = (reference.exp()? * (&reference - &model)?)?.sum(1)?;
    let anchor = ((divergence * stays)?.sum_all()? * (settings.anchor / 3.0))?;

    // Completing an answer stays easy at every level: without it DPO could lower the rejected
    // answers by garbling their ends instead of by choosing another level.
    let moves = indicator(rows.iter().map(moving_token), batch)?;
    let completes = ((1.0 - &batch.decisions)? * moves)?;
    let fluency = ((own * completes)?.sum_all()? * (-settings.fluency / 3.0))?;
    Ok(((preference + anchor)? + fluency)?)
}

/// 1 where true, 0 elsewhere, as f32 on the batch's device.
fn indicator(flags: impl Iterator<Item = bool>, batch: &Batch) -> Result<Tensor> {
    let values: Vec<f32> = flags.map(|flag| f32::from(u8::from(flag))).collect();
    let count = values.len();
    Ok(Tensor::from_vec(values, count, batch.ids.device())?)
}

/// log(1 + eˣ) without overflow.
fn softplus(x: &Tensor) -> Result<Tensor> {
    Ok((x.relu()? + (x.abs()?.neg()?.exp()? + 1.0)?.log()?)?)
}
