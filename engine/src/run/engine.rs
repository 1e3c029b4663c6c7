//! The engine: a base, its vectors, and the merged model of the present point.

use super::generate::{Generation, generate, results};
use super::plan::{Plan, least_room};
use super::prepare::{ChunkSize, PreparedPrompts, PreparedScores, PromptItem, ScoreItem, chunk_tokens};
use super::sample::Sampling;
use super::score::{ReferenceScore, score};
use super::weight_type::WeightType;
use crate::decoder::{Decoder, ForestBuilder, PassBytes};
use crate::device::{self, Device, SlowDecoder, TensorDecoder, device_error, held_as};
use crate::kernels::Threads;
use crate::memory::{GenerationPlan, MemoryUse, Residency, Stay, share_of_host, split};
use crate::merge::{CandleSource, Coefficient, MergePlan, MergingSource};
use crate::model::{BaseModel, ModelWeights};
use crate::text::Message;
use crate::vector::AlignmentVector;
use crate::{EngineError, ItemError};
use candle_core::DType;
use candle_nn::VarBuilder;
use rayon::prelude::*;
use std::error::Error;
use std::fmt;
use std::path::Path;
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
    Cpu(Box<Cpu>),
    /// A device that holds tensors.
    Tensors(Box<TensorDecoder>),
    /// A decoder of candle-transformers.
    Slow(Box<SlowDecoder>),
}

/// The CPU decoder with its part of the memory.
struct Cpu {
    decoder: Decoder,
    memory: MemoryUse,
    residency: Arc<Residency>,
}

impl Cpu {
    fn new(
        base: &BaseModel,
        vectors: &[AlignmentVector],
        dtype: WeightType,
        budget: u64,
    ) -> Result<Self, EngineError> {
        let (residency, memory) = Self::split(&base.weights, vectors, dtype, budget)?;
        let residency = Arc::new(residency);
        Ok(Self { decoder: Decoder::new(&base.weights, dtype), memory, residency })
    }

    fn split(
        base: &ModelWeights,
        vectors: &[AlignmentVector],
        dtype: WeightType,
        budget: u64,
    ) -> Result<(Residency, MemoryUse), EngineError> {
        let needs = (budget, Decoder::bytes(base, dtype), least_room(&base.config));
        split(base, vectors, needs, Stay::Tensors)
    }

    /// What passes of all threads together take.
    fn pass(&self) -> PassBytes {
        PassBytes::of(&self.decoder.config, Threads::All, rayon::current_num_threads())
    }

    fn check_pass(&self, rows: usize) -> Result<(), ItemError> {
        let (needed, room) = (self.pass().at(rows), self.memory.room());
        if needed <= room { Ok(()) } else { Err(ItemError::Memory { tokens: rows, needed, room }) }
    }
}

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

    /// Sets the engine up on a device and merges the origin (every coefficient zero). Weights, caches and activations
    /// take `memory` bytes at most: of the device's memory where it has its own, else of the host's. By default that is
    /// [`HOST_SHARE`](crate::HOST_SHARE) of what the host or the process's control group has, or 85 % of the device's
    /// (90 % of what is free where others use it). Base and vectors stay in that memory as far as they fit beside merged weights and a part for
    /// the rest; [`memory`](Self::memory) says what was decided. The other tensors are read from their mapped files for
    /// every point.
    ///
    /// # Errors
    /// [`EngineError::OtherBase`] when a vector was opened against another base; complaints about coefficients
    /// and their patterns; [`EngineError::TooLarge`], before anything is allocated; [`EngineError::OutOfMemory`] and
    /// [`EngineError::Device`].
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
        let tensors = device.tensors.as_ref();
        let budget = budget(memory, tensors)?;
        let slow = SlowDecoder::of(&base.weights, &vectors, tensors, budget)?;
        let decoder = match (tensors, slow) {
            (_, Some(slow)) => Backend::Slow(Box::new(slow)),
            (None, None) => Backend::Cpu(Box::new(Cpu::new(&base, &vectors, dtype, budget)?)),
            (Some(tensors), None) => {
                let decoder = TensorDecoder::new(&base.weights, &vectors, dtype, tensors, budget)?;
                Backend::Tensors(Box::new(decoder))
            }
        };
        let device = device.clone();
        let mut engine = Self { base, vectors, plan, dtype, point: Vec::new(), device, decoder };
        engine.merge(&vec![0.0; coefficients.len()])?;
        Ok(engine)
    }

    /// Checks by the headers of its files alone that a model fits: nothing but them is read of what
    /// [`load_on`](Self::load_on) would refuse in the end. Vectors whose factors are always in memory count only there.
    ///
    /// # Errors
    /// [`EngineError::TooLarge`]; those of [`BaseModel::open`] about configuration, names and shapes;
    /// [`EngineError::Device`].
    pub fn check_memory(
        device: &Device,
        memory: Option<u64>,
        folder: &Path,
        dtype: WeightType,
    ) -> Result<(), EngineError> {
        let base = ModelWeights::described(folder)?;
        let tensors = device.tensors.as_ref();
        let budget = budget(memory, tensors)?;
        if SlowDecoder::of(&base, &[], tensors, budget)?.is_some() {
            return Ok(());
        }
        let split = match tensors {
            None => Cpu::split(&base, &[], dtype, budget),
            Some(tensors) => TensorDecoder::split(&base, &[], held_as(dtype, tensors), budget),
        };
        split.map(drop)
    }

    /// What the engine computes on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Where the memory goes.
    pub fn memory(&self) -> MemoryUse {
        match &self.decoder {
            Backend::Cpu(cpu) => cpu.memory,
            Backend::Tensors(decoder) => decoder.memory(),
            Backend::Slow(decoder) => decoder.memory(),
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
            Backend::Cpu(cpu) => {
                cpu.decoder.fill(&source, &cpu.residency);
                Ok(())
            }
            Backend::Tensors(decoder) => decoder.fill(&source),
            Backend::Slow(decoder) => decoder.fill(by_name),
        }
    }

    /// Renders, tokenises and plans queries for scoring, once for all points. Items that cannot be scored are
    /// reported with every point's results, and by [`PreparedScores::failures`].
    pub fn prepare_scores(&self, items: &[ScoreItem]) -> PreparedScores {
        let size = |tokens: usize, most: usize| ChunkSize { tokens: tokens.min(most), most };
        let base = &self.base;
        match &self.decoder {
            Backend::Cpu(cpu) => {
                let size = size(chunk_tokens(base), cpu.pass().most_rows(cpu.memory.room()));
                PreparedScores::new(base, items, size, |item| cpu.check_pass(item.rows()))
            }
            Backend::Tensors(decoder) => {
                PreparedScores::new(base, items, decoder.chunk_size(), |item| decoder.check_pass(item.rows()))
            }
            Backend::Slow(decoder) => {
                let size = size(chunk_tokens(base), usize::MAX);
                PreparedScores::new(base, items, size, |item| decoder.check_item(item))
            }
        }
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
            Backend::Cpu(cpu) => Ok(score(&cpu.decoder, prepared, cpu.memory.room())),
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
            Backend::Cpu(cpu) => {
                Ok(generate(&self.base, &cpu.decoder, prepared, settings, cpu.memory.room()))
            }
            Backend::Tensors(decoder) => {
                let finished = device::generate(&self.base, decoder, prepared, settings)?;
                Ok(results(&self.base, prepared, settings, finished))
            }
            Backend::Slow(decoder) => {
                let finished = decoder.generate(&self.base, prepared, settings)?;
                Ok(results(&self.base, prepared, settings, finished))
            }
        }
    }

    /// What [`generate`](Self::generate) would take of the memory beside the weights.
    pub fn generation_plan(&self, prepared: &PreparedPrompts, settings: &Sampling) -> GenerationPlan {
        match &self.decoder {
            Backend::Cpu(cpu) => {
                let plan = Plan::new(&self.base, prepared.ready(), settings, cpu.memory.room());
                plan.summary(self.base.config(), settings)
            }
            Backend::Tensors(decoder) => device::generation_plan(decoder, prepared, settings),
            Backend::Slow(decoder) => decoder.plan(prepared, settings),
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
            residency: match &self.decoder {
                Backend::Cpu(cpu) => Arc::clone(&cpu.residency),
                Backend::Slow(decoder) => Arc::clone(decoder.residency()),
                // Read from the host's mapped files, of which the device keeps its own copy.
                Backend::Tensors(_) => Arc::new(Residency::nothing(&self.base.weights, &self.vectors)),
            },
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
            Backend::Cpu(cpu) => {
                let decoder = &cpu.decoder;
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

/// Bytes that an engine may take.
fn budget(memory: Option<u64>, tensors: Option<&candle_core::Device>) -> Result<u64, EngineError> {
    match (memory, tensors) {
        (Some(bytes), _) => Ok(bytes),
        (None, None) => Ok(share_of_host()),
        (None, Some(tensors)) => {
            device::default_budget(tensors).map_err(device_error("asking for free memory"))
        }
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
