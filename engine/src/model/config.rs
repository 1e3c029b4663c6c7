//! `config.json` of the supported architectures, checked field by field.

use crate::EngineError;
use crate::files::JsonFile;
use std::path::Path;

/// A family of decoders that share one computation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Architecture {
    /// `LlamaForCausalLM` without RoPE scaling and biases: Llama 1–3, SmolLM2, the pocket family.
    Llama,
}

/// Sizes and constants of a decoder, from `config.json` and `generation_config.json`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ModelConfig {
    /// Which computation the weights are for.
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
    /// Width of one head; even.
    pub head_dim: usize,
    /// Rows of the embedding and of the output head.
    pub vocab_size: usize,
    /// Positions that the model was made for.
    pub context: usize,
    /// The ε of RMS normalisation.
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// The output head is the embedding matrix.
    pub tied_embeddings: bool,
    /// Tokens that end a turn (`generation_config.json`'s before `config.json`'s); may be empty here.
    pub end_tokens: Vec<u32>,
}

impl ModelConfig {
    /// Reads `config.json` (and `generation_config.json`, where there is one) of a model folder.
    ///
    /// # Errors
    /// [`EngineError::Field`] for absent or impossible values, [`EngineError::Unsupported`] for an architecture,
    /// activation, bias, RoPE scaling or quantisation that the engine does not compute.
    pub(crate) fn open(folder: &Path) -> Result<Self, EngineError> {
        let path = folder.join("config.json");
        if !path.is_file() {
            return Err(EngineError::MissingFile {
                path: folder.to_path_buf(),
                wanted: "config.json".to_owned(),
            });
        }
        let file = JsonFile::open(&path)?;
        let architecture = architecture(&file)?;
        refuse_unsupported(&file)?;

        let hidden_size = file.size("hidden_size")?;
        let heads = file.size("num_attention_heads")?;
        let kv_heads = file.optional_size("num_key_value_heads")?.unwrap_or(heads);
        if heads % kv_heads != 0 {
            return Err(
                file.wrong("num_key_value_heads", &format!("a divisor of the {heads} attention heads"))
            );
        }
        let head_dim = match file.optional_size("head_dim")? {
            Some(width) => width,
            None if hidden_size % heads == 0 => hidden_size / heads,
            None => {
                return Err(file.wrong("hidden_size", &format!("a multiple of the {heads} attention heads")));
            }
        };
        if head_dim % 2 != 0 {
            return Err(file.wrong("head_dim", "an even number (rotary embeddings turn pairs)"));
        }
        let rms_norm_eps =
            file.optional_number("rms_norm_eps")?
                .ok_or_else(|| file.wrong("rms_norm_eps", "a positive number"))? as f32;
        Ok(Self {
            architecture,
            hidden_size,
            intermediate_size: file.size("intermediate_size")?,
            layers: file.size("num_hidden_layers")?,
            heads,
            kv_heads,
            head_dim,
            vocab_size: file.size("vocab_size")?,
            context: file.optional_size("max_position_embeddings")?.unwrap_or(2048),
            rms_norm_eps,
            rope_theta: rope_theta(&file)?,
            tied_embeddings: file.flag("tie_word_embeddings")?.unwrap_or(false),
            end_tokens: end_tokens(folder, &file)?,
        })
    }
}

fn architecture(file: &JsonFile) -> Result<Architecture, EngineError> {
    if file.get("quantization_config").is_some() {
        return Err(file.unsupported("quantization_config", "unquantised weights (F32, F16 or BF16)"));
    }
    let named = file.get("architectures").and_then(|list| list.get(0)).and_then(serde_json::Value::as_str);
    match (named, file.optional_text("model_type")?) {
        (Some("LlamaForCausalLM"), _) | (None, Some("llama")) => Ok(Architecture::Llama),
        (Some(_), _) => Err(file.unsupported("architectures", "LlamaForCausalLM")),
        (None, _) => Err(file.unsupported("model_type", "llama")),
    }
}

/// Refuses what would silently compute another model than the one in the folder.
fn refuse_unsupported(file: &JsonFile) -> Result<(), EngineError> {
    for field in ["attention_bias", "mlp_bias"] {
        if file.flag(field)? == Some(true) {
            return Err(file.unsupported(field, "false"));
        }
    }
    if !matches!(file.optional_text("hidden_act")?, None | Some("silu" | "swish")) {
        return Err(file.unsupported("hidden_act", "\"silu\""));
    }
    for section in ["rope_scaling", "rope_parameters"] {
        for key in ["rope_type", "type"] {
            let field = format!("{section}.{key}");
            if !matches!(file.optional_text(&field)?, None | Some("default")) {
                return Err(file.unsupported(&field, "\"default\", that is, no RoPE scaling"));
            }
        }
        let field = format!("{section}.partial_rotary_factor");
        if file.optional_number(&field)?.is_some_and(|factor| factor != 1.0) {
            return Err(file.unsupported(&field, "1.0"));
        }
    }
    if file.optional_number("partial_rotary_factor")?.is_some_and(|factor| factor != 1.0) {
        return Err(file.unsupported("partial_rotary_factor", "1.0"));
    }
    Ok(())
}

/// transformers 5 writes the base inside `rope_parameters`, earlier versions at the top level.
fn rope_theta(file: &JsonFile) -> Result<f64, EngineError> {
    for field in ["rope_parameters.rope_theta", "rope_scaling.rope_theta", "rope_theta"] {
        if let Some(theta) = file.optional_number(field)? {
            return Ok(theta);
        }
    }
    Ok(10_000.0)
}

fn end_tokens(folder: &Path, config: &JsonFile) -> Result<Vec<u32>, EngineError> {
    let generation = folder.join("generation_config.json");
    if generation.is_file() {
        let ids = JsonFile::open(&generation)?.token_ids("eos_token_id")?;
        if !ids.is_empty() {
            return Ok(ids);
        }
    }
    config.token_ids("eos_token_id")
}
