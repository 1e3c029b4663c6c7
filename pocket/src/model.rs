//! A trainable Llama-architecture forward pass over named weights.
//!
//! Names, shapes and arithmetic follow `LlamaForCausalLM` of Hugging Face transformers
//! (RMSNorm before attention and MLP, rotary embeddings by half rotation, grouped-query
//! attention, SwiGLU), so the saved weights load there. Only operations with a gradient in
//! candle are used; speed at inference is the engine's concern.

use std::collections::BTreeMap;

use candle_core::{D, DType, Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::batch::Batch;
use crate::error::{PocketError, Result};

/// Weights by their Hugging Face name. A `BTreeMap` fixes the order of every walk over them.
pub type Weights = BTreeMap<String, Tensor>;

/// The shape of the model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of the MLP.
    pub mlp: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Added to the mean square in RMSNorm.
    pub norm_eps: f64,
    /// Longest sequence the configuration promises.
    pub max_positions: usize,
}

impl Shape {
    /// The pocket model over a vocabulary of `vocab` tokens.
    pub fn pocket(vocab: usize) -> Self {
        Self {
            vocab,
            hidden: 128,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            mlp: 256,
            rope_theta: 10_000.0,
            norm_eps: 1e-5,
            max_positions: 256,
        }
    }

    /// Width of one head.
    pub fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }

    /// Every tensor's name and shape, with the standard deviation of its initial values
    /// (`None` for norms, which start at one).
    fn tensors(&self) -> Vec<(String, Vec<usize>, Option<f32>)> {
        let kv_width = self.kv_heads * self.head_dim();
        // Linear layers keep the variance of their input; the two that write to the residual
        // stream are scaled down by the number of such writes.
        let fan = |inputs: usize| 1.0 / (inputs as f32).sqrt();
        let into_residual = |inputs: usize| fan(inputs) / (2.0 * self.layers as f32).sqrt();
        let h = self.hidden;
        let mut all = vec![
            ("model.embed_tokens.weight".to_owned(), vec![self.vocab, h], Some(0.5)),
            ("model.norm.weight".to_owned(), vec![h], None),
            ("lm_head.weight".to_owned(), vec![self.vocab, h], Some(0.5 * fan(h))),
        ];
        for layer in 0..self.layers {
            let mut add = |name: &str, shape: Vec<usize>, deviation: Option<f32>| {
                all.push((format!("model.layers.{layer}.{name}.weight"), shape, deviation));
            };
            add("input_layernorm", vec![h], None);
            add("self_attn.q_proj", vec![h, h], Some(fan(h)));
            add("self_attn.k_proj", vec![kv_width, h], Some(fan(h)));
            add("self_attn.v_proj", vec![kv_width, h], Some(fan(h)));
            add("self_attn.o_proj", vec![h, h], Some(into_residual(h)));
            add("post_attention_layernorm", vec![h], None);
            add("mlp.gate_proj", vec![self.mlp, h], Some(fan(h)));
            add("mlp.up_proj", vec![self.mlp, h], Some(fan(h)));
            add("mlp.down_proj", vec![h, self.mlp], Some(into_residual(self.mlp)));
        }
        all
    }

    /// Parameters in all.
    pub fn parameter_count(&self) -> usize {
        self.tensors().iter().map(|(_, shape, _)| shape.iter().product::<usize>()).sum()
    }

    /// Initial weights; the same seed gives the same weights.
    ///
    /// # Errors
    /// When a tensor cannot be made.
    pub fn initial_weights(&self, seed: u64, device: &Device) -> Result<Weights> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        self.tensors()
            .into_iter()
            .map(|(name, shape, deviation)| {
                let count = shape.iter().product();
                let values = match deviation {
                    Some(deviation) => (0..count).map(|_| deviation * normal(&mut rng)).collect(),
                    None => vec![1.0f32; count],
                };
                Ok((name, Tensor::from_vec(values, shape, device)?))
            })
            .collect()
    }

    /// All tensors of the shape filled with zeros: the vector that changes nothing.
    ///
    /// # Errors
    /// When a tensor cannot be made.
    pub fn zero_weights(&self, device: &Device) -> Result<Weights> {
        self.tensors()
            .into_iter()
            .map(|(name, shape, _)| Ok((name, Tensor::zeros(shape, DType::F32, device)?)))
            .collect()
    }
}

/// A standard normal number (Box–Muller).
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    let radius = (-2.0 * (1.0 - rng.random::<f32>()).ln()).sqrt();
    radius * (std::f32::consts::TAU * rng.random::<f32>()).cos()
}

/// The model over one set of weights.
#[derive(Debug, Clone, Copy)]
pub struct Llama<'a> {
    shape: &'a Shape,
    weights: &'a Weights,
}

impl<'a> Llama<'a> {
    /// Binds a shape to weights; a missing tensor is reported when it is used.
    pub fn new(shape: &'a Shape, weights: &'a Weights) -> Self {
        Self { shape, weights }
    }

    /// Log-probabilities over the vocabulary at the batch's answer positions, (n, vocab).
    ///
    /// # Errors
    /// When a tensor is missing or an operation fails.
    pub fn answer_log_probs(&self, batch: &Batch) -> Result<Tensor> {
        self.log_probs_at(&batch.ids, &batch.positions)
    }

    /// Log-probability of each of the batch's answer tokens, (n).
    ///
    /// # Errors
    /// When a tensor is missing or an operation fails.
    pub fn token_log_probs(&self, batch: &Batch) -> Result<Tensor> {
        pick(&self.answer_log_probs(batch)?, &batch.targets)
    }

    /// Log-probabilities of the next token at flat `positions` of `ids` (rows, width).
    ///
    /// # Errors
    /// When a tensor is missing or an operation fails.
    pub fn log_probs_at(&self, ids: &Tensor, positions: &Tensor) -> Result<Tensor> {
        let (rows, width) = ids.dims2()?;
        let hidden = self.shape.hidden;
        let mut stream = self
            .weight("model.embed_tokens.weight")?
            .index_select(&ids.flatten_all()?, 0)?
            .reshape((rows, width, hidden))?;
        let rotary = Rotary::new(self.shape, width, ids.device())?;
        for layer in 0..self.shape.layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
            let normed = self.norm(&stream, &name("input_layernorm"))?;
            stream = (stream + self.attention(&normed, &rotary, &name)?)?;
            let normed = self.norm(&stream, &name("post_attention_layernorm"))?;
            let gate = self.linear(&normed, &name("mlp.gate_proj"))?.silu()?;
            let up = self.linear(&normed, &name("mlp.up_proj"))?;
            stream = (stream + self.linear(&(gate * up)?, &name("mlp.down_proj"))?)?;
        }
        // Only answer positions reach the output layer, the widest of all.
        let answered = stream.reshape((rows * width, hidden))?.index_select(positions, 0)?;
        let normed = self.norm(&answered, "model.norm.weight")?;
        let logits = normed.matmul(&self.weight("lm_head.weight")?.t()?)?;
        Ok(candle_nn::ops::log_softmax(&logits, D::Minus1)?)
    }

    fn weight(&self, name: &str) -> Result<&'a Tensor> {
        self.weights.get(name).ok_or_else(|| PocketError::MissingTensor(name.to_owned()))
    }

    fn linear(&self, input: &Tensor, name: &str) -> Result<Tensor> {
        let (rows, width, inputs) = input.dims3()?;
        let weight = self.weight(name)?;
        let output = input.reshape((rows * width, inputs))?.matmul(&weight.t()?)?;
        Ok(output.reshape((rows, width, weight.dim(0)?))?)
    }

    fn norm(&self, input: &Tensor, name: &str) -> Result<Tensor> {
        let mean_square = input.sqr()?.mean_keepdim(D::Minus1)?;
        let scale = (mean_square + self.shape.norm_eps)?.sqrt()?;
        Ok(input.broadcast_div(&scale)?.broadcast_mul(self.weight(name)?)?)
    }

    fn attention(&self, input: &Tensor, rotary: &Rotary, name: &impl Fn(&str) -> String) -> Result<Tensor> {
        let (rows, width, _) = input.dims3()?;
        let Shape { heads, kv_heads, hidden, .. } = *self.shape;
        let head_dim = self.shape.head_dim();
        let split = |part: &str, count: usize| -> Result<Tensor> {
            let projected = self.linear(input, &name(part))?;
            Ok(projected.reshape((rows, width, count, head_dim))?.transpose(1, 2)?.contiguous()?)
        };
        let query = rotary.turn(&split("self_attn.q_proj", heads)?)?;
        let key = rotary.turn(&split("self_attn.k_proj", kv_heads)?)?;
        let value = split("self_attn.v_proj", kv_heads)?;
        // Key/value head j serves the query heads j·r … j·r + r − 1.
        let repeat = |tensor: Tensor| -> Result<Tensor> {
            let group = heads / kv_heads;
            Ok(tensor
                .unsqueeze(2)?
                .broadcast_as((rows, kv_heads, group, width, head_dim))?
                .reshape((rows, heads, width, head_dim))?)
        };
        let (key, value) = (repeat(key)?, repeat(value)?);
        let scale = 1.0 / (head_dim as f64).sqrt();
        let scores = (query.matmul(&key.transpose(2, 3)?.contiguous()?)? * scale)?;
        let weights = candle_nn::ops::softmax(&scores.broadcast_add(&rotary.mask)?, D::Minus1)?;
        let mixed = weights.matmul(&value)?.transpose(1, 2)?.reshape((rows, width, hidden))?;
        self.linear(&mixed, &name("self_attn.o_proj"))
    }
}

/// Rotation tables and the causal mask for one width.
struct Rotary {
    cos: Tensor,
    sin: Tensor,
    mask: Tensor,
}

impl Rotary {
    fn new(shape: &Shape, width: usize, device: &Device) -> Result<Self> {
        let half = shape.head_dim() / 2;
        let angles: Vec<f32> = (0..width)
            .flat_map(|position| {
                (0..half).map(move |i| position as f32 * shape.rope_theta.powf(-(i as f32) / half as f32))
            })
            .collect();
        let table = |f: fn(f32) -> f32| {
            Tensor::from_vec(angles.iter().map(|&a| f(a)).collect(), (width, half), device)
        };
        let mask: Vec<f32> =
            (0..width).flat_map(|i| (0..width).map(move |j| if j > i { -1e9 } else { 0.0 })).collect();
        Ok(Self {
            cos: table(f32::cos)?,
            sin: table(f32::sin)?,
            mask: Tensor::from_vec(mask, (width, width), device)?,
        })
    }

    /// Rotates the pairs (i, i + half) of every head of (rows, heads, width, head_dim).
    fn turn(&self, input: &Tensor) -> Result<Tensor> {
        let half = self.cos.dim(1)?;
        let first = input.narrow(D::Minus1, 0, half)?;
        let second = input.narrow(D::Minus1, half, half)?;
        let turned_first = (first.broadcast_mul(&self.cos)? - second.broadcast_mul(&self.sin)?)?;
        let turned_second = (second.broadcast_mul(&self.cos)? + first.broadcast_mul(&self.sin)?)?;
        Ok(Tensor::cat(&[turned_first, turned_second], D::Minus1)?)
    }
}

/// The entry of each row of `table` (n, width) that `indices` (n) names, (n).
///
/// # Errors
/// When the shapes do not agree.
pub fn pick(table: &Tensor, indices: &Tensor) -> Result<Tensor> {
    Ok(table.gather(&indices.unsqueeze(1)?, 1)?.squeeze(1)?)
}

/// Sums `values` (n) by row, (rows): the log-probability of whole answers.
///
/// # Errors
/// When the shapes do not agree.
pub fn sum_by_row(values: &Tensor, batch: &Batch) -> Result<Tensor> {
    let zeros = Tensor::zeros(batch.row_count(), values.dtype(), values.device())?;
    Ok(zeros.index_add(&batch.rows, values, 0)?)
}
