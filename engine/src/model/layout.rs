//! The tensors that a configuration asks for: names, shapes, and which belong to which layer.

use super::config::ModelConfig;

/// Name and shape of one tensor of the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorSpec {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
}

/// Indices into [`Layout::tensors`] of one decoder layer.
#[derive(Debug, Clone)]
pub(crate) struct LayerNames {
    pub(crate) input_norm: usize,
    pub(crate) query: usize,
    pub(crate) key: usize,
    pub(crate) value: usize,
    pub(crate) output: usize,
    pub(crate) post_norm: usize,
    pub(crate) gate: usize,
    pub(crate) up: usize,
    pub(crate) down: usize,
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
    /// The tensors of a Llama checkpoint (matrices are `[outputs, inputs]`, row-major, as PyTorch stores them).
    pub(crate) fn of(config: &ModelConfig) -> Self {
        let mut tensors = Vec::new();
        let mut add = |name: String, shape: &[usize]| {
            tensors.push(TensorSpec { name, shape: shape.to_vec() });
            tensors.len() - 1
        };
        let hidden = config.hidden_size;
        let inner = config.intermediate_size;
        let queries = config.heads * config.head_dim;
        let keys = config.kv_heads * config.head_dim;
        let embedding = add(EMBEDDING.to_owned(), &[config.vocab_size, hidden]);
        let layers = (0..config.layers)
            .map(|layer| {
                let mut part =
                    |name: &str, shape: &[usize]| add(format!("model.layers.{layer}.{name}.weight"), shape);
                LayerNames {
                    input_norm: part("input_layernorm", &[hidden]),
                    query: part("self_attn.q_proj", &[queries, hidden]),
                    key: part("self_attn.k_proj", &[keys, hidden]),
                    value: part("self_attn.v_proj", &[keys, hidden]),
                    output: part("self_attn.o_proj", &[hidden, queries]),
                    post_norm: part("post_attention_layernorm", &[hidden]),
                    gate: part("mlp.gate_proj", &[inner, hidden]),
                    up: part("mlp.up_proj", &[inner, hidden]),
                    down: part("mlp.down_proj", &[hidden, inner]),
                }
            })
            .collect();
        let final_norm = add("model.norm.weight".to_owned(), &[hidden]);
        let head = if config.tied_embeddings {
            embedding
        } else {
            add(HEAD.to_owned(), &[config.vocab_size, hidden])
        };
        Self { tensors, embedding, layers, final_norm, head }
    }

    /// Whether older exporters write a tensor of this name that carries no weights of its own.
    pub(crate) fn is_derived(name: &str) -> bool {
        name.ends_with(".rotary_emb.inv_freq")
    }

    /// A tensor name to show in complaints: one of a layer where there is one.
    pub(crate) fn example(&self) -> &str {
        let index = self.layers.first().map_or(self.embedding, |layer| layer.query);
        &self.tensors[index].name
    }
}
