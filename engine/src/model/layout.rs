//! The tensors that a configuration asks for: names, shapes, and which belong to which layer.

use super::config::ModelConfig;
use crate::EngineError;
use crate::files::Checkpoint;
use std::ops::Range;

/// Name and shape of one tensor of the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorSpec {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
}

/// Some rows of a matrix of the checkpoint: all, unless several projections are fused into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rows {
    /// Index into [`Layout::tensors`].
    pub(crate) tensor: usize,
    pub(crate) rows: Range<usize>,
    /// Index of the vector that is added to the outputs, of the same rows.
    pub(crate) bias: Option<usize>,
}

/// Indices into [`Layout::tensors`] of one decoder layer.
#[derive(Debug, Clone)]
pub(crate) struct LayerNames {
    /// Before the attention.
    pub(crate) input_norm: usize,
    pub(crate) query: Rows,
    pub(crate) key: Rows,
    pub(crate) value: Rows,
    /// Of each head's queries, and of its keys.
    pub(crate) query_key_norms: Option<(usize, usize)>,
    pub(crate) output: Rows,
    /// After the attention, before its outputs join the residual stream.
    pub(crate) attention_norm: Option<usize>,
    /// Before the feed-forward block.
    pub(crate) feed_forward_norm: usize,
    pub(crate) gate: Rows,
    pub(crate) up: Rows,
    pub(crate) down: Rows,
    /// After the feed-forward block, before its outputs join the residual stream.
    pub(crate) down_norm: Option<usize>,
}

/// Every tensor of a model, in a fixed order, with the roles they play.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) tensors: Vec<TensorSpec>,
    pub(crate) embedding: usize,
    pub(crate) layers: Vec<LayerNames>,
    pub(crate) final_norm: usize,
    /// The embedding's own index when the two are tied.
    pub(crate) head: usize,
}

/// The output head's name in a checkpoint; absent from tied models (or a copy of the embedding there).
pub(crate) const HEAD: &str = "lm_head.weight";
/// The embedding's name in a checkpoint.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";

impl Layout {
    /// The tensors of a checkpoint (matrices are `[outputs, inputs]`, row-major, as PyTorch stores them).
    pub(crate) fn of(config: &ModelConfig) -> Self {
        let hidden = config.hidden_size;
        let mut list = TensorList::default();
        let embedding = list.add(EMBEDDING, &[config.vocab_size, hidden]);
        let layers = (0..config.layers).map(|layer| list.layer(layer, config)).collect();
        let final_norm = list.add("model.norm.weight", &[hidden]);
        let head =
            if config.tied_embeddings { embedding } else { list.add(HEAD, &[config.vocab_size, hidden]) };
        Self { tensors: list.tensors, embedding, layers, final_norm, head }
    }

    /// The tensors of a checkpoint as they are, for a decoder that candle-transformers builds from them by name: it says
    /// which it wants (`device::check_tensors`).
    ///
    /// # Errors
    /// [`EngineError::MissingTensor`] without an embedding, or without an output head where it is not the embedding.
    pub(crate) fn stored(checkpoint: &Checkpoint, config: &ModelConfig) -> Result<Self, EngineError> {
        let tensors: Vec<TensorSpec> = checkpoint
            .tensors
            .values()
            .filter(|tensor| {
                let copied_head = config.tied_embeddings && &*tensor.name == HEAD;
                !Self::is_derived(&tensor.name) && !copied_head
            })
            .map(|tensor| TensorSpec { name: tensor.name.to_string(), shape: tensor.shape.clone() })
            .collect();
        let index = |name: &str| {
            tensors.iter().position(|spec| spec.name == name).ok_or_else(|| EngineError::MissingTensor {
                path: checkpoint.folder.clone(),
                tensor: name.to_owned(),
                wanted: vec![config.vocab_size, config.hidden_size],
            })
        };
        let embedding = index(EMBEDDING)?;
        let head = if config.tied_embeddings { embedding } else { index(HEAD)? };
        Ok(Self { embedding, layers: Vec::new(), final_norm: embedding, head, tensors })
    }

    /// Index of a tensor by its name in a checkpoint; a tied output head is the embedding.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        if name == HEAD {
            return Some(self.head);
        }
        self.tensors.iter().position(|spec| spec.name == name)
    }

    /// Whether older exporters write a tensor of this name that carries no weights of its own.
    pub(crate) fn is_derived(name: &str) -> bool {
        name.ends_with(".rotary_emb.inv_freq")
    }

    /// A tensor name to show in complaints: one of a layer where there is one.
    pub(crate) fn example(&self) -> &str {
        let index = self.layers.first().map_or(self.embedding, |layer| layer.query.tensor);
        &self.tensors[index].name
    }
}

/// The tensors so far.
#[derive(Default)]
struct TensorList {
    tensors: Vec<TensorSpec>,
}

impl TensorList {
    fn add(&mut self, name: &str, shape: &[usize]) -> usize {
        self.tensors.push(TensorSpec { name: name.to_owned(), shape: shape.to_vec() });
        self.tensors.len() - 1
    }

    /// A matrix and its bias, as one set of rows per height.
    fn projection<const N: usize>(
        &mut self,
        name: &str,
        heights: [usize; N],
        inputs: usize,
        biased: bool,
    ) -> [Rows; N] {
        let outputs = heights.iter().sum();
        let tensor = self.add(&format!("{name}.weight"), &[outputs, inputs]);
        let bias = biased.then(|| self.add(&format!("{name}.bias"), &[outputs]));
        let mut start = 0;
        heights.map(|height| {
            start += height;
            Rows { tensor, rows: start - height..start, bias }
        })
    }

    fn layer(&mut self, layer: usize, config: &ModelConfig) -> LayerNames {
        let hidden = config.hidden_size;
        let inner = config.intermediate_size;
        let queries = config.heads * config.head_dim;
        let keys = config.kv_heads * config.head_dim;
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let norm = |list: &mut Self, part: &str, width| list.add(&format!("{}.weight", name(part)), &[width]);

        let input_norm = norm(self, "input_layernorm", hidden);
        let biased = config.query_key_value_bias;
        let [query, key, value] = if config.fused_projections {
            self.projection(&name("self_attn.qkv_proj"), [queries, keys, keys], hidden, biased)
        } else {
            [("q_proj", queries), ("k_proj", keys), ("v_proj", keys)].map(|(part, outputs)| {
                let [rows] = self.projection(&name(&format!("self_attn.{part}")), [outputs], hidden, biased);
                rows
            })
        };
        let query_key_norms = config.query_key_norms.then(|| {
            let query = norm(self, "self_attn.q_norm", config.head_dim);
            (query, norm(self, "self_attn.k_norm", config.head_dim))
        });
        let [output] = self.projection(&name("self_attn.o_proj"), [hidden], queries, config.output_bias);
        // Where outputs are normalised too, the name that otherwise stands before the feed-forward block means
        // what it says.
        let after_attention = norm(self, "post_attention_layernorm", hidden);
        let (attention_norm, feed_forward_norm) = if config.output_norms {
            (Some(after_attention), norm(self, "pre_feedforward_layernorm", hidden))
        } else {
            (None, after_attention)
        };
        let [gate, up] = if config.fused_projections {
            self.projection(&name("mlp.gate_up_proj"), [inner, inner], hidden, false)
        } else {
            ["gate_proj", "up_proj"].map(|part| {
                let [rows] = self.projection(&name(&format!("mlp.{part}")), [inner], hidden, false);
                rows
            })
        };
        let [down] = self.projection(&name("mlp.down_proj"), [hidden], inner, false);
        let down_norm = config.output_norms.then(|| norm(self, "post_feedforward_layernorm", hidden));
        LayerNames {
            input_norm,
            query,
            key,
            value,
            query_key_norms,
            output,
            attention_norm,
            feed_forward_norm,
            gate,
            up,
            down,
            down_norm,
        }
    }
}
