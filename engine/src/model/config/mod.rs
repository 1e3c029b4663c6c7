//! `config.json` of the supported architectures, checked field by field.
//!
//! The families differ in details that are data here (windows, rotary tables, biases, norms, caps), so that one
//! decoder computes them all and never asks which family it has.

mod architecture;
mod attention;
mod candle;
mod identity;
mod read;
mod rotary;

pub use architecture::Architecture;
pub use attention::LayerAttention;
pub(crate) use candle::CandleConfig;
pub use candle::CandleModel;
pub use rotary::Rotary;

/// Sizes and constants of a decoder, from `config.json` and `generation_config.json`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ModelConfig {
    /// The family that the weights are of; what it computes is said by the other fields.
    pub architecture: Architecture,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward block.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub layers: usize,
    /// Query heads per layer.
    pub heads: usize,
    /// Key/value heads per layer; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Rows of the embedding and of the output head.
    pub vocab_size: usize,
    /// Positions that the engine computes: `max_position_embeddings`, or fewer (see [`Rotary`] on `longrope`).
    pub context: usize,
    /// What the gate of the feed-forward block passes through.
    pub activation: Activation,
    /// The ε of RMS normalisation.
    pub rms_norm_eps: f32,
    /// Norm weights are stored as w − 1 (Gemma).
    pub unit_offset_norms: bool,
    /// Attention and feed-forward outputs are normalised before they join the residual stream (Gemma 2 and 3).
    pub output_norms: bool,
    /// Every head's queries and keys are normalised before they are rotated (Qwen3, Gemma 3).
    pub query_key_norms: bool,
    /// Query, key and value projections have biases.
    pub query_key_value_bias: bool,
    /// The attention's output projection has a bias.
    pub output_bias: bool,
    /// Query, key and value are rows of one tensor, and so are gate and up (Phi-3).
    pub fused_projections: bool,
    /// Factor on query · key.
    pub attention_scale: f32,
    /// Scaled attention scores s become c · tanh(s / c) with this c.
    pub attention_softcap: Option<f32>,
    /// Logits l become c · tanh(l / c) with this c.
    pub logit_softcap: Option<f32>,
    /// Factor on embeddings where they enter the decoder (not where the output head shares them).
    pub embedding_scale: f32,
    /// How each layer attends; as many as `layers`.
    pub attention: Vec<LayerAttention>,
    /// The rotary embeddings that `attention` refers to.
    pub rotaries: Vec<Rotary>,
    /// The output head is the embedding matrix.
    pub tied_embeddings: bool,
    /// Tokens that end a turn (`generation_config.json`'s before `config.json`'s); may be empty here.
    pub end_tokens: Vec<u32>,
    /// Texts before which an answer ends (`stop_strings` of `generation_config.json`); usually none.
    pub stop_strings: Vec<String>,
    /// For [`Architecture::Candle`]: what candle-transformers reads of `config.json`. Of the other fields only sizes,
    /// context, the one rotary embedding, tied embeddings and stop tokens mean something there.
    pub candle: Option<String>,
}

impl ModelConfig {
    /// The decoder of candle-transformers that computes the model, with its configuration; `None` where the engine
    /// does.
    pub(crate) fn candle_model(&self) -> Option<(CandleModel, &str)> {
        match (self.architecture, &self.candle) {
            (Architecture::Candle(model), Some(text)) => Some((model, text)),
            _ => None,
        }
    }
}

/// An activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activation {
    /// x / (1 + e⁻ˣ).
    Silu,
    /// The tanh approximation of GELU: x / 2 · (1 + tanh(√(2/π) · (x + 0.044715 · x³))).
    GeluTanh,
}
