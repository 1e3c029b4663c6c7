//! Decoders that candle-transformers computes: what the engine itself must know of their configuration.

use super::{Activation, Architecture, ModelConfig};
use crate::EngineError;
use crate::files::JsonFile;
use candle_transformers::models::{helium, mixtral, olmo2, phi, starcoder2};
use serde_json::{Map, Value};

/// A decoder of candle-transformers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CandleModel {
    /// `PhiForCausalLM`: Phi-1 to Phi-2.
    Phi,
    /// `Starcoder2ForCausalLM`.
    Starcoder2,
    /// `Olmo2ForCausalLM`.
    Olmo2,
    /// `HeliumForCausalLM`.
    Helium,
    /// `MixtralForCausalLM`.
    Mixtral,
}

/// More positions than any of these models has.
const MOST_POSITIONS: usize = 1 << 22;

/// Every decoder with its name in `architectures` and its `model_type`.
pub(super) const KNOWN: [(Architecture, &str, &str); 5] = [
    (Architecture::Candle(CandleModel::Phi), "PhiForCausalLM", "phi"),
    (Architecture::Candle(CandleModel::Starcoder2), "Starcoder2ForCausalLM", "starcoder2"),
    (Architecture::Candle(CandleModel::Olmo2), "Olmo2ForCausalLM", "olmo2"),
    (Architecture::Candle(CandleModel::Helium), "HeliumForCausalLM", "helium"),
    (Architecture::Candle(CandleModel::Mixtral), "MixtralForCausalLM", "mixtral"),
];

/// A configuration as candle-transformers has it.
#[derive(Debug, Clone)]
pub(crate) enum CandleConfig {
    Phi(phi::Config),
    Starcoder2(starcoder2::Config),
    Olmo2(olmo2::Config),
    Helium(helium::Config),
    Mixtral(mixtral::Config),
}

impl CandleConfig {
    /// Parses what [`ModelConfig::candle`] holds.
    ///
    /// # Errors
    /// The parser's, which name the field.
    pub(crate) fn parse(model: CandleModel, text: &str) -> serde_json::Result<Self> {
        Ok(match model {
            CandleModel::Phi => Self::Phi(serde_json::from_str(text)?),
            CandleModel::Starcoder2 => Self::Starcoder2(serde_json::from_str(text)?),
            CandleModel::Olmo2 => Self::Olmo2(serde_json::from_str(text)?),
            CandleModel::Helium => Self::Helium(serde_json::from_str(text)?),
            CandleModel::Mixtral => Self::Mixtral(serde_json::from_str(text)?),
        })
    }
}

/// Reads the configuration of a decoder that candle-transformers computes. Its details are candle's; the sizes here
/// are for reports.
///
/// # Errors
/// [`EngineError::Field`] for absent or impossible values, [`EngineError::Unsupported`] for what candle-transformers
/// would compute otherwise than transformers.
pub(super) fn read(
    file: &JsonFile,
    model: CandleModel,
    end_tokens: Vec<u32>,
    stop_strings: Vec<String>,
) -> Result<ModelConfig, EngineError> {
    let mut fields = flattened(file)?;
    // Windows are not computed: within one, they hide nothing.
    let window = match file.flag("use_sliding_window")? {
        Some(false) => None,
        _ => file.optional_size("sliding_window")?,
    };
    let architecture = Architecture::Candle(model);
    let positions =
        file.optional_size("max_position_embeddings")?.unwrap_or(architecture.default_positions());
    // Its tables of rotations hold every position.
    if positions > MOST_POSITIONS {
        return Err(file.wrong("max_position_embeddings", "at most 4194304"));
    }
    for (name, value) in [
        ("max_position_embeddings", Value::from(positions)),
        // Wanted by candle-transformers, and left out by transformers where they say nothing.
        ("use_flash_attn", Value::Bool(false)),
        ("sliding_window", Value::from(positions)),
        ("bos_token_id", Value::from(0)),
    ] {
        fields.entry(name).or_insert(value);
    }
    // Lists of stop tokens are the engine's business.
    fields.insert("eos_token_id".to_owned(), Value::from(0));
    // This decoder takes the embedding for a head, whatever the file says.
    let always_tied = model == CandleModel::Starcoder2;
    let tied = file.flag("tie_word_embeddings")?.unwrap_or(always_tied);
    if always_tied && !tied {
        return Err(file.unsupported("tie_word_embeddings", "true"));
    }
    let heads = file.size("num_attention_heads")?;
    let hidden_size = file.size("hidden_size")?;
    // The text is part of the base's fingerprint.
    fields.sort_keys();
    let candle = Value::Object(fields).to_string();
    if let Err(error) = CandleConfig::parse(model, &candle) {
        return Err(file.refused(&error.to_string()));
    }
    Ok(ModelConfig {
        architecture,
        hidden_size,
        intermediate_size: file.size("intermediate_size")?,
        layers: file.size("num_hidden_layers")?,
        heads,
        kv_heads: file.optional_size("num_key_value_heads")?.unwrap_or(heads),
        head_dim: file.optional_size("head_dim")?.unwrap_or(hidden_size / heads),
        vocab_size: file.size("vocab_size")?,
        context: window.map_or(positions, |window| window.min(positions)),
        activation: Activation::Silu,
        rms_norm_eps: 0.0,
        unit_offset_norms: false,
        output_norms: false,
        query_key_norms: false,
        query_key_value_bias: false,
        output_bias: false,
        fused_projections: false,
        attention_scale: 1.0,
        attention_softcap: None,
        logit_softcap: None,
        embedding_scale: 1.0,
        attention: Vec::new(),
        rotaries: Vec::new(),
        tied_embeddings: tied,
        end_tokens,
        stop_strings,
        candle: Some(candle),
    })
}

/// The file's fields as transformers 4 wrote them: those of `rope_parameters` at the top level, absent ones left out.
fn flattened(file: &JsonFile) -> Result<Map<String, Value>, EngineError> {
    let mut fields = file.object();
    for section in ["rope_scaling", "rope_parameters"] {
        for key in ["rope_type", "type"] {
            let field = format!("{section}.{key}");
            if !matches!(file.optional_text(&field)?, None | Some("default")) {
                return Err(file.unsupported(&field, "\"default\", that is, no RoPE scaling"));
            }
        }
        if let Some(Value::Object(inner)) = fields.remove(section) {
            for (name, value) in inner {
                fields.entry(name).or_insert(value);
            }
        }
    }
    fields.retain(|_, value| !value.is_null());
    Ok(fields)
}
