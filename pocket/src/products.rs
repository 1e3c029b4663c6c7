//! The family's files: a Hugging Face folder for the base, a delta file per vector, a query
//! file per domain, two sweep files.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use half::bf16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

use crate::corpus::{Corpus, DOMAINS, QueryLine};
use crate::error::{PocketError, Result, read_text, write_text};
use crate::model::{Shape, Weights};
use crate::vocabulary::{ASSISTANT, CHAT_TEMPLATE, END, END_ID, PAD, PAD_ID, USER, Vocabulary};

/// Where each product lies below the family's folder.
#[derive(Debug, Clone)]
pub struct Layout {
    folder: PathBuf,
}

impl Layout {
    /// The family in `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The base's Hugging Face folder.
    pub fn base(&self) -> PathBuf {
        self.folder.join("base")
    }

    /// The base's tokenizer.
    pub fn tokenizer(&self) -> PathBuf {
        self.base().join("tokenizer.json")
    }

    /// The base's weights.
    pub fn base_weights(&self) -> PathBuf {
        self.base().join("model.safetensors")
    }

    /// The vector of a domain, by index.
    pub fn vector(&self, domain: usize) -> PathBuf {
        self.folder.join(format!("{}.safetensors", DOMAINS[domain].name))
    }

    /// The held-out queries of a domain, by index.
    pub fn queries(&self, domain: usize) -> PathBuf {
        self.folder.join(format!("{}.jsonl", DOMAINS[domain].name))
    }

    /// How the family was trained.
    pub fn training_record(&self) -> PathBuf {
        self.folder.join("training.json")
    }

    /// What was measured on it.
    pub fn measurements(&self) -> PathBuf {
        self.folder.join("measured.json")
    }

    /// The model card.
    pub fn card(&self) -> PathBuf {
        self.folder.join("MODEL_CARD.md")
    }

    /// Writes the query files and the two sweep files.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write_queries(&self, corpus: &Corpus) -> Result<()> {
        for domain in 0..DOMAINS.len() {
            let path = self.queries(domain);
            let mut text = String::new();
            for query in corpus.held_out_of(domain) {
                let line = serde_json::to_string(&QueryLine::from(query))
                    .map_err(|source| PocketError::Json { path: path.clone(), source })?;
                text.push_str(&line);
                text.push('\n');
            }
            write_text(&path, &text)?;
        }
        write_text(
            &self.folder.join("grid.yaml"),
            &sweep_file("pocket-grid", "0.1", "The full grid: 21 × 21 × 21 = 9,261 points."),
        )?;
        write_text(
            &self.folder.join("coarse.yaml"),
            &sweep_file("pocket-coarse", "0.25", "A coarse look: 9 × 9 × 9 = 729 points."),
        )
    }

    /// Writes tokenizer.json, tokenizer_config.json, config.json and generation_config.json.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write_base_configuration(&self, shape: &Shape, vocabulary: &Vocabulary) -> Result<()> {
        write_text(&self.tokenizer(), &vocabulary.to_json()?)?;
        let special = |content: &str| {
            json!({
                "content": content, "lstrip": false, "normalized": false,
                "rstrip": false, "single_word": false, "special": true
            })
        };
        let tokenizer_config = json!({
            "added_tokens_decoder": {
                "0": special(PAD), "1": special(USER), "2": special(ASSISTANT), "3": special(END)
            },
            "bos_token": null,
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": false,
            "eos_token": END,
            "model_max_length": shape.max_positions,
            "pad_token": PAD,
            "tokenizer_class": "PreTrainedTokenizerFast"
        });
        let config = json!({
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": false,
            "attention_dropout": 0.0,
            "bos_token_id": null,
            "eos_token_id": END_ID,
            "head_dim": shape.head_dim(),
            "hidden_act": "silu",
            "hidden_size": shape.hidden,
            "initializer_range": 0.02,
            "intermediate_size": shape.mlp,
            "max_position_embeddings": shape.max_positions,
            "mlp_bias": false,
            "model_type": "llama",
            "num_attention_heads": shape.heads,
            "num_hidden_layers": shape.layers,
            "num_key_value_heads": shape.kv_heads,
            "pad_token_id": PAD_ID,
            "rms_norm_eps": shape.norm_eps,
            "rope_scaling": null,
            "rope_theta": shape.rope_theta,
            "tie_word_embeddings": false,
            "torch_dtype": "float32",
            "use_cache": true,
            "vocab_size": shape.vocab
        });
        let generation_config = json!({
            "do_sample": false,
            "eos_token_id": END_ID,
            "max_new_tokens": 32,
            "pad_token_id": PAD_ID
        });
        write_json(&self.base().join("tokenizer_config.json"), &tokenizer_config)?;
        write_json(&self.base().join("config.json"), &config)?;
        write_json(&self.base().join("generation_config.json"), &generation_config)
    }

    /// Reads the shape of the model back from config.json.
    ///
    /// # Errors
    /// When the file is missing or lacks a field.
    pub fn read_shape(&self) -> Result<Shape> {
        #[derive(serde::Deserialize)]
        struct Config {
            vocab_size: usize,
            hidden_size: usize,
            num_hidden_layers: usize,
            num_attention_heads: usize,
            num_key_value_heads: usize,
            intermediate_size: usize,
            rope_theta: f32,
            rms_norm_eps: f64,
            max_position_embeddings: usize,
        }
        let path = self.base().join("config.json");
        let config: Config =
            serde_json::from_str(&read_text(&path)?).map_err(|source| PocketError::Json { path, source })?;
        Ok(Shape {
            vocab: config.vocab_size,
            hidden: config.hidden_size,
            layers: config.num_hidden_layers,
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            mlp: config.intermediate_size,
            rope_theta: config.rope_theta,
            norm_eps: config.rms_norm_eps,
            max_positions: config.max_position_embeddings,
        })
    }

    /// Reads the base's and the vectors' weights.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read_weights(&self) -> Result<(Weights, Vec<Weights>)> {
        let base = read_weights(&self.base_weights())?;
        let vectors =
            (0..DOMAINS.len()).map(|domain| read_weights(&self.vector(domain))).collect::<Result<_>>()?;
        Ok((base, vectors))
    }
}

/// Writes any value as indented JSON.
///
/// # Errors
/// When the file cannot be written.
pub fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|source| PocketError::Json { path: path.to_owned(), source })?;
    text.push('\n');
    write_text(path, &text)
}

/// How a weight is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// As it was trained.
    F32,
    /// Rounded to the nearest bfloat16: half the size, and enough for a difference.
    Bf16,
}

/// Writes weights as safetensors, with the format mark that transformers asks for.
///
/// # Errors
/// When a tensor cannot be read or the file cannot be written.
pub fn write_weights(path: &Path, weights: &Weights, stored: Stored) -> Result<()> {
    let (dtype, to_bytes): (Dtype, fn(f32) -> Vec<u8>) = match stored {
        Stored::F32 => (Dtype::F32, |value| value.to_le_bytes().to_vec()),
        Stored::Bf16 => (Dtype::BF16, |value| bf16::from_f32(value).to_le_bytes().to_vec()),
    };
    let tensors: Vec<(&String, Vec<usize>, Vec<u8>)> = weights
        .iter()
        .map(|(name, tensor)| {
            let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
            let bytes = values.into_iter().flat_map(to_bytes).collect();
            Ok((name, tensor.dims().to_vec(), bytes))
        })
        .collect::<Result<_>>()?;
    let failed =
        |source: std::io::Error| PocketError::File { action: "writing", path: path.to_owned(), source };
    let refused = |error: safetensors::SafeTensorError| failed(std::io::Error::other(error));
    let views = tensors
        .iter()
        .map(|(name, dims, bytes)| {
            TensorView::new(dtype, dims.clone(), bytes).map(|view| (name.as_str(), view))
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(refused)?;
    let mark = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(views, Some(mark)).map_err(refused)?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    std::fs::write(path, bytes).map_err(failed)
}

/// Reads a safetensors file; whatever it stores, the weights come as f32.
///
/// # Errors
/// When the file cannot be read.
pub fn read_weights(path: &Path) -> Result<Weights> {
    // candle's own error leaves the path out.
    std::fs::metadata(path).map_err(|source| PocketError::File {
        action: "reading",
        path: path.to_owned(),
        source,
    })?;
    candle_core::safetensors::load(path, &Device::Cpu)?
        .into_iter()
        .map(|(name, tensor)| Ok((name, tensor.to_dtype(DType::F32)?)))
        .collect()
}

fn sweep_file(name: &str, step: &str, comment: &str) -> String {
    format!(
        "# {comment}\n\
         name: {name}\n\
         model: {{base: base, dtype: f32}}\n\
         vectors: {{medical: medical.safetensors, legal: legal.safetensors, financial: financial.safetensors}}\n\
         coefficients:\n\
         \x20 alpha: {{vector: medical, min: -1, max: 1, step: {step}}}\n\
         \x20 beta: {{vector: legal, min: -1, max: 1, step: {step}}}\n\
         \x20 gamma: {{vector: financial, min: -1, max: 1, step: {step}}}\n\
         levels: [avoidance, generic, expert]\n\
         domains: {{medical: {{queries: medical.jsonl}}, legal: {{queries: legal.jsonl}}, financial: {{queries: financial.jsonl}}}}\n\
         strategy: {{kind: grid}}\n\
         evaluation: {{likelihood: all, generation: finalists, search_queries: 40, confirm_queries: 20, max_new_tokens: 32}}\n\
         judge: {{provider: reference}}\n"
    )
}
