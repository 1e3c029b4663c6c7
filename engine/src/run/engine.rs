//! The engine: a base, its vectors, and the merged model of the present point.

use super::generate::{Generation, generate, results};
use super::prepare::{PreparedPrompts, PreparedScores, PromptItem, ScoreItem, chunk_tokens};
use super::sample::Sampling;
use super::score::{ReferenceScore, score};
use super::weight_type::WeightType;
use crate::decoder::{Decoder, ForestBuilder};
use crate::device::{self, Device, SlowDecoder, TensorDecoder};
use crate::kernels::Threads;
use crate::merge::{CandleSource, Coefficient, MergePlan, MergingSource};
use crate::model::BaseModel;
use crate::text::Message;
use crate::vector::AlignmentVector;
use crate::{EngineError, ItemError};
use candle_core::DType;
use candle_nn::VarBuilder;
use rayon::prelude::*;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// Elements of a tensor that one task merges.
const PART: usize = 1 << 16;

/// Merges and evaluates points. Always holds the merged model of some point: the base's at first.
///
/// All calls block, and use the rayon pool that they are called in (the global one by default). Results depend
/// neither on the number of threads, nor on the points merged before, nor, on CPU, on what else is in a batch.
pub struct Engine {
    base: BaseModel,
    vectors: Vec<AlignmentVector>,
    plan: Arc<MergePlan>,
    dtype: WeightType,
    /// The merged point.
    point: Vec<f32>,
    device: Device,
    decoder: Backend,
}

/// What computes.
enum Backend {
    /// The engine's own CPU kernels.
    Cpu(Box<Decoder>),
    /// A device that holds tensors.
    Tensors(Box<TensorDecoder>),
    /// A decoder of candle-transformers.
    Slow(Box<SlowDecoder>),
}

/// Rows that a device scores together: enough to fill it with matrix products.
const DEVICE_CHUNK_TOKENS: usize = 8192;

impl Engine {
    /// Sets the engine up on the CPU and merges the origin (every coefficient zero).
    ///
    /// # Errors
    /// Those of [`load_on`](Self::load_on), devices apart.
    pub fn load(
        base: BaseModel,
        vectors: Vec<AlignmentVector>,
        coefficients: &[Coefficient],
        dtype: WeightType,
    ) -> Result<Self, EngineError> {
        Self::load_on(&Device::cpu(), None, base, vectors, coefficients, dtype)
    }

    /// Sets the engine up on a device and merges the origin (every coefficient zero). On a device with a memory of
    /// its own, base and vectors stay there as far as they fit into `memory` bytes beside the merged weights (by
    /// default three quarters of what is free then); the rest is sent for every point.
    ///
    /// # Errors
    /// [`EngineError::OtherBase`] when a vector was opened against another base; complaints about coefficients
    /// and their patterns; [`EngineError::OutOfMemory`] and [`EngineError::Device`].
    pub fn load_on(
        device: &Device,
        memory: Option<u64>,
        base: BaseModel,
        vectors: Vec<AlignmentVector>,
        coefficients: &[Coefficient],
        dtype: WeightType,
    ) -> Result<Self, EngineError> {
        for vector in &vectors {
            let theirs = vector.base();
            if !Arc::ptr_eq(theirs, &base.weights) && theirs.fingerprint() != base.weights_fingerprint() {
                return Err(EngineError::OtherBase {
                    path: vector.path().to_path_buf(),
                    found: theirs.fingerprint().to_owned(),
                    wanted: base.weights_fingerprint().to_owned(),
                });
            }
        }
        let plan = Arc::new(MergePlan::new(coefficients, &base.weights.layout, vectors.len())?);
        let decoder = match (&device.tensors, SlowDecoder::of(&base, dtype, device.tensors.as_ref())) {
            (_, Some(slow)) => Backend::Slow(Box::new(slow)),
            (None, None) => Backend::Cpu(Box::new(Decoder::new(&base.weights))),
            (Some(tensors), None) => {
                let decoder = TensorDecoder::new(&base.weights, &vectors, dtype, tensors, memory)?;
                Backend::Tensors(Box::new(decoder))
            }
        };
        let device = device.clone();
        let mut engine = Self { base, vectors, plan, dtype, point: Vec::new(), device, decoder };
        engine.merge(&vec![0.0; coefficients.len()])?;
        Ok(engine)
    }

    /// What the engine computes on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Bytes of base and vectors that stay in the device's memory, and bytes that are sent there for every point;
    /// `None` on the CPU.
    pub fn residency(&self) -> Option<(usize, usize)> {
        match &self.decoder {
            Backend::Cpu(_) | Backend::Slow(_) => None,
            Backend::Tensors(decoder) => Some(decoder.residency()),
        }
    }

    /// Whether the model runs the slow way: by a decoder of candle-transformers, in batches of equal length.
    pub fn is_slow(&self) -> bool {
        matches!(self.decoder, Backend::Slow(_))
    }

    /// The base model.
    pub fn base(&self) -> &BaseModel {
        &self.base
    }

    /// Merges a point: `cast(base + Σ cᵢ·AVᵢ)`, one value per coefficient. The previous point leaves no trace.
    ///
    /// # Errors
    /// [`EngineError::PointLength`] or [`EngineError::PointValue`]; the previous point then stays. On a device also
    /// [`EngineError::Terms`], [`EngineError::OutOfMemory`] or [`EngineError::Device`], which leave no point.
    pub fn merge(&mut self, point: &[f64]) -> Result<(), EngineError> {
        self.point = self.plan.checked_point(point)?;
        let by_name = self.source_by_name();
        let source = MergingSource {
            base: &self.base.weights,
            vectors: &self.vectors,
            plan: &self.plan,
            point: &self.point,
            dtype: self.dtype,
        };
        match &mut self.decoder {
            Backend::Cpu(decoder) => {
                decoder.fill(&source);
                Ok(())
            }
            Backend::Tensors(decoder) => decoder.fill(&source),
            Backend::Slow(decoder) => decoder.fill(by_name),
        }
    }

    /// Renders, tokenises and plans queries for scoring, once for all points. Items that cannot be scored are
    /// reported with every point's results, and by [`PreparedScores::failures`].
    pub fn prepare_scores(&self, items: &[ScoreItem]) -> PreparedScores {
        let chunk_tokens = match &self.decoder {
            Backend::Cpu(_) | Backend::Slow(_) => chunk_tokens(&self.base),
            Backend::Tensors(_) => DEVICE_CHUNK_TOKENS,
        };
        PreparedScores::new(&self.base, items, chunk_tokens)
    }

    /// Renders and tokenises prompts for generation, once for all points.
    pub fn prepare_prompts(&self, items: &[PromptItem]) -> PreparedPrompts {
        PreparedPrompts::new(&self.base, items)
    }

    /// Scores every reference of every query under the present point's model; one result per item, in order.
    ///
    /// # Errors
    /// [`EngineError::OtherModel`] when the items were prepared for another base; [`EngineError::OutOfMemory`] and
    /// [`EngineError::Device`].
    pub fn score(
        &self,
        prepared: &PreparedScores,
    ) -> Result<Vec<Result<Vec<ReferenceScore>, ItemError>>, EngineError> {
        self.check_model(&prepared.model)?;
        match &self.decoder {
            Backend::Cpu(decoder) => Ok(score(decoder, prepared)),
            Backend::Tensors(decoder) => device::score(decoder, prepared),
            Backend::Slow(decoder) => decoder.score(prepared),
        }
    }

    /// Answers every prompt with the present point's model; one result per item, in order.
    ///
    /// # Errors
    /// [`EngineError::Setting`]; [`EngineError::OtherModel`] when the prompts were prepared for another base;
    /// [`EngineError::OutOfMemory`] and [`EngineError::Device`].
    pub fn generate(
        &self,
        prepared: &PreparedPrompts,
        settings: &Sampling,
    ) -> Result<Vec<Result<Generation, ItemError>>, EngineError> {
        settings.check()?;
        self.check_model(&prepared.model)?;
        match &self.decoder {
            Backend::Cpu(decoder) => Ok(generate(&self.base, decoder, prepared, settings)),
            Backend::Tensors(decoder) => {
                let finished = device::generate(&self.base, decoder, prepared, settings)?;
                Ok(results(&self.base, prepared, finished))
            }
            Backend::Slow(decoder) => {
                let finished = decoder.generate(&self.base, prepared, settings)?;
                Ok(results(&self.base, prepared, finished))
            }
        }
    }

    /// The present point's weights for candle, merged tensor by tensor as they are asked for: any architecture that
    /// candle builds from a `VarBuilder` runs on a point this way, on any of its devices.
    pub fn var_builder(&self, dtype: DType, device: &candle_core::Device) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.source_by_name()), dtype, device.clone())
    }

    fn source_by_name(&self) -> CandleSource {
        CandleSource {
            base: Arc::clone(&self.base.weights),
            vectors: self.vectors.clone(),
            plan: Arc::clone(&self.plan),
            point: self.point.clone(),
            dtype: self.dtype,
        }
    }

    /// Fills `bytes` with a tensor of the present point's model: little-endian elements of the sweep's type, row-major.
    /// One parallel pass over base and vectors; what the buffer held is replaced, its memory used again.
    ///
    /// # Errors
    /// [`EngineError::NoTensor`].
    pub fn merged_tensor(&self, name: &str, bytes: &mut Vec<u8>) -> Result<(), EngineError> {
        let layout = &self.base.weights.layout;
        let index = layout.tensors.iter().position(|spec| spec.name == name);
        let index = index.ok_or_else(|| EngineError::NoTensor {
            tensor: name.to_owned(),
            example: layout.example().to_owned(),
        })?;
        let stored = self.dtype.stored();
        bytes.resize(self.base.weights.tensors[index].len() * stored.size(), 0);
        let source = self.source();
        bytes.par_chunks_mut(PART * stored.size()).enumerate().for_each(|(part, bytes)| {
            source.write(index, part * PART, stored, bytes);
        });
        Ok(())
    }

    fn source(&self) -> MergingSource<'_> {
        MergingSource {
            base: &self.base.weights,
            vectors: &self.vectors,
            plan: &self.plan,
            point: &self.point,
            dtype: self.dtype,
        }
    }

    /// The tokens that a conversation's prompt becomes.
    ///
    /// # Errors
    /// [`ItemError`] about template, tokenizer or context.
    pub fn prompt_tokens(&self, messages: &[Message]) -> Result<Vec<u32>, ItemError> {
        Ok(self.base.text.prompt(messages)?.tokens)
    }

    /// Logits after every token of one sequence, `[tokens, vocabulary]`: for comparison with other
    /// implementations, not for speed.
    ///
    /// # Errors
    /// [`ItemError::EmptyPrompt`], [`ItemError::TooLong`] when the sequence does not fit the context, or
    /// [`ItemError::Device`].
    pub fn logits(&self, tokens: &[u32]) -> Result<Vec<Vec<f32>>, ItemError> {
        let context = self.base.config().context;
        if tokens.is_empty() {
            return Err(ItemError::EmptyPrompt);
        }
        if tokens.len() > context {
            return Err(ItemError::TooLong {
                what: "the sequence".to_owned(),
                tokens: tokens.len(),
                context,
            });
        }
        let vocabulary = self.base.config().vocab_size;
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(ItemError::Tokenizer {
                reason: format!("token {token}, wanted one below {vocabulary}"),
            });
        }
        let mut builder = ForestBuilder::default();
        builder.insert(None, tokens);
        let (forest, _) = builder.finish();
        let every: Vec<u32> = (0..tokens.len() as u32).collect();
        match &self.decoder {
            Backend::Cpu(decoder) => {
                let hidden = decoder.run(Threads::All, &forest, &every, |_, _| {});
                let logits = decoder.head().logits(Threads::All, &hidden);
                Ok(logits.chunks_exact(vocabulary).map(<[f32]>::to_vec).collect())
            }
            Backend::Tensors(decoder) => {
                decoder.all_logits(&forest, &every).map_err(|error| device_failed(&error))
            }
            Backend::Slow(decoder) => decoder.all_logits(tokens).map_err(|error| device_failed(&error)),
        }
    }

    fn check_model(&self, prepared: &str) -> Result<(), EngineError> {
        if prepared == self.base.fingerprint() {
            return Ok(());
        }
        Err(EngineError::OtherModel {
            found: prepared.to_owned(),
            wanted: self.base.fingerprint().to_owned(),
        })
    }
}

/// A device's failure on one item.
fn device_failed(error: &EngineError) -> ItemError {
    let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    ItemError::Device { reason: format!("{error}{cause}") }
}

impl fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Engine")
            .field("base", &self.base)
            .field("vectors", &self.vectors)
            .field("dtype", &self.dtype)
            .finish_non_exhaustive()
    }
}
