//! The slow way: decoders that candle-transformers computes from the merging weight source.
//!
//! They take sequences of equal length only, keep their own caches, and return the last position's logits. So prompts
//! are batched by length, as many as the memory beside the weights holds, and every token of a reference is a step of
//! its own.

mod model;

pub(crate) use model::check_tensors;

use self::model::{Model, Tables};
use super::memory::{PassSizes, halved};
use super::weights::device_error;
use crate::files::StoredTensor;
use crate::memory::{GenerationPlan, MemoryUse, Residency, SHORT_QUERY, Stay, split};
use crate::merge::CandleSource;
use crate::model::{BaseModel, CandleConfig, CandleModel, ModelConfig, ModelWeights};
use crate::run::{
    FinishReason, Finished, PreparedPrompts, PreparedScores, PromptTokens, ReferenceScore, Sampler, Sampling,
    ScoreTokens, answer_limit, ending,
};
use crate::vector::AlignmentVector;
use crate::{EngineError, ItemError};
use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use candle_nn::ops::log_softmax;
use std::sync::Arc;

/// Sequences that are computed together at most.
const BATCH: usize = 16;

/// What weights are held and computed in, on every device; they are rounded to the sweep's type before.
///
/// Some of these decoders make their tables of rotations in the weights' type, and bf16 tells few positions apart.
const HELD: DType = DType::F32;

/// A decoder of candle-transformers with the weights of one point.
pub(crate) struct SlowDecoder {
    config: CandleConfig,
    device: Device,
    sizes: ModelConfig,
    memory: MemoryUse,
    residency: Arc<Residency>,
    /// Never run itself: every batch runs a copy, whose weights are shared and whose cache is empty.
    model: Option<Model>,
}

/// A batch being decoded.
struct Batch<'a> {
    device: &'a Device,
    model: Model,
    /// Tokens taken in.
    seen: usize,
}

impl Batch<'_> {
    /// Takes one or more tokens per sequence in, equally many for all; logits after the last.
    fn take(&mut self, tokens: &[&[u32]]) -> Result<Tensor> {
        let length = tokens.first().map_or(0, |tokens| tokens.len());
        let rows = Tensor::from_vec(tokens.concat(), (tokens.len(), length), self.device)?;
        let logits = self.model.forward(&rows, self.seen)?;
        self.seen += length;
        Ok(logits)
    }

    fn step(&mut self, tokens: &[u32]) -> Result<Tensor> {
        self.take(&tokens.iter().map(std::slice::from_ref).collect::<Vec<_>>())
    }
}

impl SlowDecoder {
    /// A decoder without weights; `None` where the engine computes the architecture itself.
    ///
    /// # Errors
    /// [`EngineError::TooLarge`].
    pub(crate) fn of(
        base: &ModelWeights,
        vectors: &[AlignmentVector],
        device: Option<&Device>,
        budget: u64,
    ) -> std::result::Result<Option<Self>, EngineError> {
        let Some((model, text)): Option<(CandleModel, &str)> = base.config.candle_model() else {
            return Ok(None);
        };
        let device = device.cloned().unwrap_or(Device::Cpu);
        // What was parsed when the base was opened is parsed again.
        let Ok(config) = CandleConfig::parse(model, text) else { return Ok(None) };
        let (residency, memory) = Self::split(base, vectors, &device, budget)?;
        let (sizes, residency) = (base.config.clone(), Arc::new(residency));
        Ok(Some(Self { config, device, sizes, memory, residency, model: None }))
    }

    /// How a budget is split.
    fn split(
        base: &ModelWeights,
        vectors: &[AlignmentVector],
        device: &Device,
        budget: u64,
    ) -> std::result::Result<(Residency, MemoryUse), EngineError> {
        let sizes = PassSizes { config: &base.config, element: HELD.size_in_bytes() };
        let short = SHORT_QUERY.min(base.config.context);
        let least = sizes.alone(short / 2, short);
        let tensors = &base.tensors;
        let elements: usize = tensors.iter().map(StoredTensor::len).sum();
        // One tensor is merged in f32 before it takes the type that it is held in, or one pair of tables is made.
        let largest = tensors.iter().map(StoredTensor::len).max().unwrap_or(0);
        let tables = Tables::of(&base.config);
        let passing = tables.making.max(largest * size_of::<f32>());
        let merged = (elements * HELD.size_in_bytes() + tables.kept + passing) as u64;
        let stay = if device.is_cpu() { Stay::Tensors } else { Stay::Nothing };
        split(base, vectors, (budget, merged, least), stay)
    }

    /// Where the memory goes.
    pub(crate) fn memory(&self) -> MemoryUse {
        self.memory
    }

    /// What stays in memory.
    pub(crate) fn residency(&self) -> &Arc<Residency> {
        &self.residency
    }

    fn bytes(&self, prompt: usize, positions: usize) -> u64 {
        PassSizes { config: &self.sizes, element: HELD.size_in_bytes() }.alone(prompt, positions)
    }

    /// How many sequences of so many prompt tokens and positions are computed together.
    fn batch_size(&self, prompt: usize, positions: usize) -> usize {
        let bytes = self.bytes(prompt, positions);
        halved(BATCH, |sequences| bytes * sequences as u64 <= self.memory.room())
    }

    /// Checks that a sequence fits beside the weights.
    fn check(&self, prompt: usize, positions: usize) -> std::result::Result<(), ItemError> {
        let (needed, room) = (self.bytes(prompt, positions), self.memory.room());
        if needed <= room { Ok(()) } else { Err(ItemError::Memory { tokens: positions, needed, room }) }
    }

    /// Checks that every reference fits beside the weights.
    ///
    /// # Errors
    /// [`ItemError::Memory`].
    pub(crate) fn check_item(&self, item: &ScoreTokens) -> std::result::Result<(), ItemError> {
        self.check(item.prompt.len(), item.prompt.len() + longest(item))
    }

    /// What generation takes of the memory, at most.
    pub(crate) fn plan(&self, prepared: &PreparedPrompts, settings: &Sampling) -> GenerationPlan {
        let mut plan = GenerationPlan::default();
        let sizes = PassSizes { config: &self.sizes, element: HELD.size_in_bytes() };
        for (prompts, positions) in self.batches(prepared, settings).0 {
            let sequences = prompts.len();
            let tokens = sequences * prompts.first().map_or(0, |(_, prompt)| prompt.tokens.len());
            plan.sequences = plan.sequences.max(sequences);
            plan.cache = plan.cache.max(sizes.cache(positions) * sequences as u64);
            plan.prompt_tokens = plan.prompt_tokens.max(tokens);
        }
        plan
    }

    /// Prompts that are answered together, with the positions that each takes, and prompts that do not fit.
    fn batches<'a>(
        &self,
        prepared: &'a PreparedPrompts,
        settings: &Sampling,
    ) -> (Vec<(Vec<(usize, &'a PromptTokens)>, usize)>, Vec<Finished>) {
        let positions = |length: usize| length + answer_limit(&self.sizes, settings, length);
        let (mut fitting, mut refused) = (Vec::new(), Vec::new());
        for (item, prompt) in prepared.ready() {
            let length = prompt.tokens.len();
            match self.check(length, positions(length)) {
                Ok(()) => fitting.push((item, prompt)),
                Err(error) => refused.push((item, Err(error))),
            }
        }
        fitting.sort_by_key(|(_, prompt)| prompt.tokens.len());
        let mut batches = Vec::new();
        for equal in fitting.chunk_by(|a, b| a.1.tokens.len() == b.1.tokens.len()) {
            let length = equal[0].1.tokens.len();
            let size = self.batch_size(length, positions(length));
            batches.extend(equal.chunks(size).map(|batch| (batch.to_vec(), positions(length))));
        }
        (batches, refused)
    }

    /// Takes over the weights of a point, tensor by tensor.
    ///
    /// # Errors
    /// [`EngineError::OutOfMemory`] or [`EngineError::Device`].
    pub(crate) fn fill(&mut self, source: CandleSource) -> std::result::Result<(), EngineError> {
        // The old weights go first: two may not fit.
        self.model = None;
        let weights = VarBuilder::from_backend(Box::new(source), HELD, self.device.clone());
        self.model = Some(
            Model::load(&self.config, weights)
                .map_err(device_error("building the model with candle-transformers"))?,
        );
        Ok(())
    }

    fn batch(&self) -> Result<Batch<'_>> {
        let model = self.model.clone().ok_or_else(|| candle_core::Error::msg("no point is merged"))?;
        Ok(Batch { device: &self.device, model, seen: 0 })
    }

    /// Scores every item at the decoder's point.
    ///
    /// # Errors
    /// [`EngineError::OutOfMemory`] or [`EngineError::Device`].
    pub(crate) fn score(
        &self,
        prepared: &PreparedScores,
    ) -> std::result::Result<Vec<std::result::Result<Vec<ReferenceScore>, ItemError>>, EngineError> {
        let mut sums: Vec<Vec<f64>> = prepared
            .items
            .iter()
            .map(|item| vec![0.0; item.as_ref().map_or(0, |item| item.references.len())])
            .collect();
        let mut asked: Vec<(usize, usize, &ScoreTokens)> = Vec::new();
        for (index, item) in prepared.items.iter().enumerate() {
            let Ok(item) = item else { continue };
            asked.extend((0..item.references.len()).map(|reference| (index, reference, &**item)));
        }
        asked.sort_by_key(|(_, _, item)| item.prompt.len());
        for equal in asked.chunk_by(|a, b| a.2.prompt.len() == b.2.prompt.len()) {
            let prompt = equal[0].2.prompt.len();
            let longest = equal.iter().map(|(.., item)| longest(item)).max().unwrap_or(0);
            for batch in equal.chunks(self.batch_size(prompt, prompt + longest)) {
                let scores = self.score_batch(batch).map_err(device_error("scoring"))?;
                for ((item, reference, _), score) in batch.iter().zip(scores) {
                    sums[*item][*reference] = score;
                }
            }
        }
        let finish = |(item, sums): (&std::result::Result<Arc<ScoreTokens>, ItemError>, Vec<f64>)| {
            let item = item.as_ref().map_err(Clone::clone)?;
            if sums.iter().any(|sum| !sum.is_finite()) {
                return Err(ItemError::NonFinite);
            }
            let score = |(log_prob_sum, (tokens, bytes)): (f64, &(Vec<u32>, u32))| ReferenceScore {
                log_prob_sum,
                tokens: tokens.len() as u32,
                bytes: *bytes,
            };
            Ok(sums.into_iter().zip(&item.references).map(score).collect())
        };
        Ok(prepared.items.iter().zip(sums).map(finish).collect())
    }

    /// Σ log p of references after prompts of equal length.
    fn score_batch(&self, asked: &[(usize, usize, &ScoreTokens)]) -> Result<Vec<f64>> {
        let references: Vec<&[u32]> =
            asked.iter().map(|(_, reference, item)| item.references[*reference].0.as_slice()).collect();
        let longest = references.iter().map(|tokens| tokens.len()).max().unwrap_or(0);
        let mut sums = vec![0.0; asked.len()];
        let mut batch = self.batch()?;
        let prompts: Vec<&[u32]> = asked.iter().map(|(.., item)| item.prompt.as_slice()).collect();
        let mut logits = batch.take(&prompts)?;
        for position in 0..longest {
            // A reference that has ended goes on with any token; nobody asks for it.
            let tokens: Vec<u32> =
                references.iter().map(|tokens| tokens.get(position).copied().unwrap_or(0)).collect();
            let chosen = Tensor::new(tokens.as_slice(), &self.device)?.unsqueeze(1)?;
            let chosen =
                log_softmax(&logits, D::Minus1)?.gather(&chosen, 1)?.flatten_all()?.to_vec1::<f32>()?;
            for ((sum, tokens), log_prob) in sums.iter_mut().zip(&references).zip(chosen) {
                *sum += if position < tokens.len() { f64::from(log_prob) } else { 0.0 };
            }
            if position + 1 < longest {
                logits = batch.step(&tokens)?;
            }
        }
        Ok(sums)
    }

    /// Answers every prompt at the decoder's point.
    ///
    /// # Errors
    /// [`EngineError::OutOfMemory`] or [`EngineError::Device`].
    pub(crate) fn generate(
        &self,
        base: &BaseModel,
        prepared: &PreparedPrompts,
        settings: &Sampling,
    ) -> std::result::Result<Vec<Finished>, EngineError> {
        let (batches, mut finished) = self.batches(prepared, settings);
        for (batch, _) in batches {
            let answers = self.generate_batch(base, &batch, settings);
            finished.extend(answers.map_err(device_error("generating"))?);
        }
        Ok(finished)
    }

    fn generate_batch(
        &self,
        base: &BaseModel,
        prompts: &[(usize, &PromptTokens)],
        settings: &Sampling,
    ) -> Result<Vec<Finished>> {
        let mut batch = self.batch()?;
        let tokens: Vec<&[u32]> = prompts.iter().map(|(_, prompt)| &*prompt.tokens).collect();
        let length = tokens.first().map_or(0, |tokens| tokens.len());
        let limit = answer_limit(&self.sizes, settings, length);
        let mut samplers: Vec<Sampler> =
            prompts.iter().map(|(_, prompt)| Sampler::new(settings, prompt.seed)).collect();
        let mut generated: Vec<Vec<u32>> = vec![Vec::new(); prompts.len()];
        let mut outcomes = vec![None; prompts.len()];
        let mut logits = batch.take(&tokens)?;
        loop {
            let rows = logits.to_vec2::<f32>()?;
            let mut next = vec![0; prompts.len()];
            for (row, logits) in
                rows.iter().enumerate().filter(|(row, _)| outcomes[*row].is_none()).collect::<Vec<_>>()
            {
                let Some(token) = samplers[row].next(logits) else {
                    outcomes[row] = Some(Err(ItemError::NonFinite));
                    continue;
                };
                generated[row].push(token);
                next[row] = token;
                outcomes[row] = ending(base, settings, &generated[row], limit);
            }
            if outcomes.iter().all(Option::is_some) {
                break;
            }
            logits = batch.step(&next)?;
        }
        let finish = |((prompt, outcome), tokens): ((&(usize, &PromptTokens), Option<_>), Vec<u32>)| {
            let outcome: std::result::Result<FinishReason, ItemError> =
                outcome.unwrap_or(Ok(FinishReason::Length));
            (prompt.0, outcome.map(|finish| (tokens, finish)))
        };
        Ok(prompts.iter().zip(outcomes).zip(generated).map(finish).collect())
    }

    /// Logits after every token of one sequence.
    ///
    /// # Errors
    /// [`EngineError::OutOfMemory`] or [`EngineError::Device`].
    pub(crate) fn all_logits(&self, tokens: &[u32]) -> std::result::Result<Vec<Vec<f32>>, EngineError> {
        let logits = || {
            let mut batch = self.batch()?;
            let mut rows = Vec::with_capacity(tokens.len());
            for token in tokens {
                rows.extend(batch.step(&[*token])?.to_vec2::<f32>()?);
            }
            Ok(rows)
        };
        logits().map_err(device_error("computing logits"))
    }
}

/// Tokens of an item's longest reference.
fn longest(item: &ScoreTokens) -> usize {
    item.references.iter().map(|(tokens, _)| tokens.len()).max().unwrap_or(0)
}
