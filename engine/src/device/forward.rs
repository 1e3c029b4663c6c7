//! The forward pass over tensors: packed rows through the matrix products, details from the configuration.

use super::attention::{AttentionPlan, Heads};
use super::memory::{PassSizes, halved};
use super::rotary::{RotaryTable, Rotation};
use super::weights::{FillError, LayerWeights, Matrix, Norm, Sources, Weights, device_error, held_as};
use crate::decoder::Forest;
use crate::files::StoredTensor;
use crate::memory::{MemoryUse, Residency, SHORT_QUERY, Stay, split};
use crate::merge::MergingSource;
use crate::model::{Activation, ModelConfig, ModelWeights};
use crate::run::{ChunkSize, WeightType};
use crate::vector::AlignmentVector;
use crate::{EngineError, ItemError};
use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::ops::{rms_norm, silu};

/// Elements of logits that exist at a time: with 150,000 tokens a vocabulary, some 200 rows.
pub(super) const LOGITS: usize = 1 << 25;
/// Rows that are scored together.
const CHUNK_ROWS: usize = 8192;

/// A decoder on a device, with the weights of one point.
pub(crate) struct TensorDecoder {
    pub(super) config: ModelConfig,
    pub(super) device: Device,
    /// Of weights and activations.
    pub(super) dtype: DType,
    weights: Weights,
    sources: Sources,
    memory: MemoryUse,
    rotaries: Vec<RotaryTable>,
    /// The windows that layers have, each once.
    pub(super) windows: Vec<Option<usize>>,
}

/// One layer's queries, keys and values, normalised and rotated: `[rows, heads, head_dim]`.
pub(super) struct Projected {
    pub(super) queries: Tensor,
    pub(super) keys: Tensor,
    pub(super) values: Tensor,
}

impl TensorDecoder {
    /// A decoder for a base model, its weights still zero. Base and vectors stay in the device's memory as far as the
    /// budget holds them beside merged weights, and a part for activations and caches.
    ///
    /// # Errors
    /// [`EngineError::TooLarge`]; [`EngineError::OutOfMemory`] when the device has less than the budget;
    /// [`EngineError::Device`].
    pub(crate) fn new(
        base: &ModelWeights,
        vectors: &[AlignmentVector],
        dtype: WeightType,
        device: &Device,
        budget: u64,
    ) -> std::result::Result<Self, EngineError> {
        Self::holding(held_as(dtype, device), base, vectors, device, budget)
    }

    /// How a budget is split where weights and activations are of type `held`.
    ///
    /// # Errors
    /// [`EngineError::TooLarge`].
    pub(crate) fn split(
        base: &ModelWeights,
        vectors: &[AlignmentVector],
        held: DType,
        budget: u64,
    ) -> std::result::Result<(Residency, MemoryUse), EngineError> {
        let sizes = PassSizes { config: &base.config, element: held.size_in_bytes() };
        let merged =
            (base.tensors.iter().map(StoredTensor::len).sum::<usize>() * held.size_in_bytes()) as u64;
        let short = SHORT_QUERY.min(base.config.context);
        let least = sizes.pass(short) + sizes.sequence(short);
        split(base, vectors, (budget, merged, least), Stay::All)
    }

    /// As [`new`](Self::new), with weights and activations of type `held`.
    fn holding(
        held: DType,
        base: &ModelWeights,
        vectors: &[AlignmentVector],
        device: &Device,
        budget: u64,
    ) -> std::result::Result<Self, EngineError> {
        let config = base.config.clone();
        let (residency, memory) = Self::split(base, vectors, held, budget)?;
        let weights =
            Weights::zeros(base, held, device).map_err(device_error("allocating the merged weights"))?;
        let sources = Sources::load(base, vectors, device, &residency)
            .map_err(device_error("sending base and vectors to the device"))?;
        let mut windows: Vec<_> = config.attention.iter().map(|layer| layer.window).collect();
        windows.sort_unstable();
        windows.dedup();
        Ok(Self {
            rotaries: config.rotaries.iter().map(|rotary| RotaryTable::new(rotary, held, device)).collect(),
            device: device.clone(),
            dtype: held,
            weights,
            sources,
            memory,
            windows,
            config,
        })
    }

    /// Where the memory goes.
    pub(crate) fn memory(&self) -> MemoryUse {
        self.memory
    }

    /// What passes take.
    pub(super) fn sizes(&self) -> PassSizes<'_> {
        PassSizes { config: &self.config, element: self.dtype.size_in_bytes() }
    }

    /// How many rows are scored together: enough to fill a device with matrix products, or a part that leaves room
    /// beside the weights for the last query of a chunk.
    pub(crate) fn chunk_size(&self) -> ChunkSize {
        let (sizes, room) = (self.sizes(), self.memory.room());
        let tokens = halved(CHUNK_ROWS, |rows| sizes.pass(2 * rows) <= room);
        ChunkSize { tokens, most: 2 * tokens }
    }

    /// Checks that a pass of so many rows fits beside the weights.
    ///
    /// # Errors
    /// [`ItemError::Memory`].
    pub(crate) fn check_pass(&self, rows: usize) -> std::result::Result<(), ItemError> {
        let (needed, room) = (self.sizes().pass(rows), self.memory.room());
        if needed <= room { Ok(()) } else { Err(ItemError::Memory { tokens: rows, needed, room }) }
    }

    /// Takes over the weights of a point.
    ///
    /// # Errors
    /// [`EngineError::Terms`], [`EngineError::OutOfMemory`] or [`EngineError::Device`].
    pub(crate) fn fill(&mut self, source: &MergingSource<'_>) -> std::result::Result<(), EngineError> {
        self.weights.fill(source, &self.sources).map_err(|error| match error {
            FillError::Terms(found) => EngineError::Terms { found, wanted: super::merge::MOST_TERMS },
            FillError::Device(error) => device_error("merging")(error),
        })
    }

    /// Runs a forest and returns the normalised hidden states of the `wanted` rows (ascending), `[wanted, hidden]`.
    ///
    /// `keep` sees, layer by layer, the rotated keys and the values of all rows, `[rows, kv_heads, head_dim]`.
    pub(super) fn run(
        &self,
        forest: &Forest,
        wanted: &[u32],
        mut keep: impl FnMut(usize, &Tensor, &Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        let rows = forest.tokens.len();
        let plan = |wanted: &[u32]| AttentionPlan::new(forest, wanted, self.dtype, &self.device);
        let every: Vec<u32> = (0..rows as u32).collect();
        let all = plan(&every)?;
        // Behind the last layer's keys and values only the wanted rows matter.
        let last = plan(wanted)?;
        let kept = Tensor::new(wanted, &self.device)?;
        let end = forest.positions.iter().max().map_or(1, |last| *last as usize + 1);
        let rotations = self.rotations(&Tensor::new(forest.positions.as_slice(), &self.device)?, end)?;
        let mut states = self.embed(&Tensor::new(forest.tokens.as_slice(), &self.device)?)?;
        let layers = &self.weights.layers;
        for (index, layer) in layers.iter().enumerate() {
            let attention = self.config.attention[index];
            let Projected { mut queries, keys, values } =
                self.project(layer, &states, &rotations[attention.rotary])?;
            keep(index, &keys, &values)?;
            let plan = if index + 1 == layers.len() {
                queries = queries.index_select(&kept, 0)?;
                states = states.index_select(&kept, 0)?;
                &last
            } else {
                &all
            };
            let mixed = plan.run(self.heads(), attention.window, &queries, (&keys, &values))?;
            states = self.finish_layer(layer, &mixed, &states)?;
        }
        self.normalise(&states, &self.weights.final_norm)
    }

    /// Takes one token into each of several sequences, u32 `[rows]` like their positions, all below `end`; returns
    /// normalised hidden states, `[rows, hidden]`. `attend` gets each layer's number and projections, and returns
    /// `[rows, heads · head_dim]`.
    pub(super) fn step(
        &self,
        tokens: &Tensor,
        positions: &Tensor,
        end: usize,
        mut attend: impl FnMut(usize, &Projected) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let rotations = self.rotations(positions, end)?;
        let mut states = self.embed(tokens)?;
        for (index, layer) in self.weights.layers.iter().enumerate() {
            let rotation = &rotations[self.config.attention[index].rotary];
            let projected = self.project(layer, &states, rotation)?;
            let mixed = attend(index, &projected)?;
            states = self.finish_layer(layer, &mixed, &states)?;
        }
        self.normalise(&states, &self.weights.final_norm)
    }

    /// Logits of hidden states in f32, `[rows, vocabulary]`.
    pub(super) fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let mut logits = hidden.matmul(&self.weights.head.t()?)?.to_dtype(DType::F32)?;
        if let Some(cap) = self.config.logit_softcap.map(f64::from) {
            // Each step lets go of the one before.
            logits = (logits / cap)?;
            logits = logits.tanh()?;
            logits = (logits * cap)?;
        }
        Ok(logits)
    }

    /// Rows whose logits exist at a time.
    pub(super) fn head_rows(&self) -> usize {
        (LOGITS / self.config.vocab_size).max(1)
    }

    /// Logits after every row of one sequence.
    ///
    /// # Errors
    /// [`EngineError::OutOfMemory`] or [`EngineError::Device`].
    pub(crate) fn all_logits(
        &self,
        forest: &Forest,
        wanted: &[u32],
    ) -> std::result::Result<Vec<Vec<f32>>, EngineError> {
        let logits = || {
            let hidden = self.run(forest, wanted, |_, _, _| Ok(()))?;
            let mut rows = Vec::with_capacity(wanted.len());
            for start in (0..wanted.len()).step_by(self.head_rows()) {
                let count = self.head_rows().min(wanted.len() - start);
                rows.extend(self.logits(&hidden.narrow(0, start, count)?)?.to_vec2::<f32>()?);
            }
            Ok(rows)
        };
        logits().map_err(device_error("computing logits"))
    }

    pub(super) fn heads(&self) -> Heads {
        let ModelConfig { heads, kv_heads, head_dim, attention_scale, attention_softcap, .. } = self.config;
        Heads { heads, kv_heads, head_dim, scale: attention_scale, softcap: attention_softcap }
    }

    fn rotations(&self, positions: &Tensor, end: usize) -> Result<Vec<Rotation>> {
        self.rotaries.iter().map(|table| table.at(positions, end)).collect()
    }

    fn embed(&self, tokens: &Tensor) -> Result<Tensor> {
        let states = self.weights.embedding.index_select(tokens, 0)?;
        match self.config.embedding_scale {
            1.0 => Ok(states),
            scale => states * f64::from(scale),
        }
    }

    fn project(&self, layer: &LayerWeights, states: &Tensor, rotation: &Rotation) -> Result<Projected> {
        let ModelConfig { heads, kv_heads, head_dim, .. } = self.config;
        let rows = states.dim(0)?;
        let normed = self.normalise(states, &layer.input_norm)?;
        let projected = layer.query_key_value.product(&normed)?;
        let part = |start: usize, count: usize| {
            projected
                .narrow(1, start * head_dim, count * head_dim)?
                .contiguous()?
                .reshape((rows, count, head_dim))
        };
        let (mut queries, mut keys) = (part(0, heads)?, part(heads, kv_heads)?);
        if let Some((query, key)) = &layer.query_key_norms {
            queries = self.normalise(&queries, query)?;
            keys = self.normalise(&keys, key)?;
        }
        Ok(Projected {
            queries: rotation.turn(&queries)?,
            keys: rotation.turn(&keys)?,
            values: part(heads + kv_heads, kv_heads)?,
        })
    }

    /// Output projection, residual, feed-forward block, residual.
    fn finish_layer(&self, layer: &LayerWeights, mixed: &Tensor, states: &Tensor) -> Result<Tensor> {
        let join = |outputs: Tensor, norm: &Option<Norm>| match norm {
            None => Ok(outputs),
            Some(norm) => self.normalise(&outputs, norm),
        };
        let states = (states + join(layer.output.product(mixed)?, &layer.attention_norm)?)?;
        let normed = self.normalise(&states, &layer.feed_forward_norm)?;
        let gate_up = layer.gate_up.product(&normed)?;
        let inner = self.config.intermediate_size;
        let gate = gate_up.narrow(D::Minus1, 0, inner)?;
        let gate = match self.config.activation {
            Activation::Silu => silu(&gate)?,
            Activation::GeluTanh => gate.gelu()?,
        };
        let gated = (gate * gate_up.narrow(D::Minus1, inner, inner)?)?;
        states + join(layer.down.product(&gated)?, &layer.down_norm)?
    }

    fn normalise(&self, states: &Tensor, norm: &Norm) -> Result<Tensor> {
        let epsilon = self.config.rms_norm_eps;
        if norm.weight.dtype() == states.dtype() {
            return rms_norm(states, &norm.weight, epsilon);
        }
        rms_norm(&states.to_dtype(norm.weight.dtype())?, &norm.weight, epsilon)?.to_dtype(states.dtype())
    }
}

impl Matrix {
    /// `x · Wᵀ + bias`.
    fn product(&self, x: &Tensor) -> Result<Tensor> {
        let product = x.matmul(&self.weight.t()?)?;
        match &self.bias {
            None => Ok(product),
            Some(bias) => product.broadcast_add(bias),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{generate, score};
    use crate::merge::MergePlan;
    use crate::model::BaseModel;
    use crate::run::{PreparedPrompts, PromptItem, Sampling, ScoreItem, results};
    use crate::text::Message;
    use std::path::Path;

    fn decoder(base: &BaseModel, held: DType, dtype: WeightType) -> TensorDecoder {
        let mut decoder = TensorDecoder::holding(held, &base.weights, &[], &Device::Cpu, 1 << 40)
            .expect("candle's CPU is there");
        let plan = MergePlan::new(&[], &base.weights.layout, 0).expect("no coefficient can be wrong");
        let source = MergingSource { base: &base.weights, vectors: &[], plan: &plan, point: &[], dtype };
        decoder.fill(&source).expect("the base merges");
        decoder
    }

    /// What a GPU holds in 16 bits is held so on the CPU here: every family's path keeps its types apart, and the
    /// results are those of f32 within what 8 bits of precision leave.
    #[test]
    fn activations_of_sixteen_bits_follow_those_of_thirty_two() {
        for family in ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens/families").join(family);
            let base = BaseModel::open(&folder).expect("a golden opens");
            let messages = vec![Message::user("What is a fever? The heart pumps blood.")];
            let references = vec!["A contract binds both parties.".to_owned(), "I cannot help.".to_owned()];
            let items = base.prepare_scores(&[ScoreItem { messages: messages.clone(), references }]);
            let prompts = PreparedPrompts::new(&base, &[PromptItem { messages, seed: 1 }]);
            let wide = decoder(&base, DType::F32, WeightType::Bf16);
            let exact = score(&wide, &items).expect("f32 scores");
            for (held, dtype) in [(DType::BF16, WeightType::Bf16), (DType::F16, WeightType::F16)] {
                let narrow = decoder(&base, held, dtype);
                let scores = score(&narrow, &items).expect("16 bits score");
                for (narrow, exact) in scores.iter().flatten().flatten().zip(exact.iter().flatten().flatten())
                {
                    let difference = (narrow.log_prob_sum - exact.log_prob_sum).abs();
                    assert!(
                        difference <= 0.05 * exact.log_prob_sum.abs().max(10.0),
                        "{family} in {held:?}: {narrow:?} against {exact:?}"
                    );
                }
                let settings = Sampling { temperature: 0.7, top_p: 0.9, ..Sampling::greedy(6) };
                for settings in [Sampling::greedy(6), settings] {
                    let finished = generate(&base, &narrow, &prompts, &settings).expect("16 bits generate");
                    let answers = results(&base, &prompts, &settings, finished);
                    assert!(answers.iter().flatten().count() == 1, "{family} in {held:?}: {answers:?}");
                }
            }
        }
    }
}
