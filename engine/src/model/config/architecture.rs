//! The supported families: their names, and what transformers assumes of each where `config.json` is silent.

use super::candle::{self, CandleModel};
use crate::EngineError;
use crate::files::JsonFile;
use serde_json::Value;

/// A family of decoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Architecture {
    /// `LlamaForCausalLM`: Llama 1–3.3, SmolLM2, the pocket family.
    Llama,
    /// `MistralForCausalLM`: Mistral 7B and its like.
    Mistral,
    /// `Qwen2ForCausalLM`: Qwen2 and Qwen2.5.
    Qwen2,
    /// `Qwen3ForCausalLM`: the dense Qwen3 models.
    Qwen3,
    /// `Gemma2ForCausalLM`.
    Gemma2,
    /// `Gemma3ForCausalLM`: the text models of Gemma 3.
    Gemma3,
    /// `Phi3ForCausalLM`: Phi-3 and Phi-4 mini, small and medium with fused projections.
    Phi3,
    /// Another decoder, computed by candle-transformers: the slow way.
    Candle(CandleModel),
}

/// Every architecture with its name in `architectures` and its `model_type`.
const KNOWN: [(Architecture, &str, &str); 7] = [
    (Architecture::Llama, "LlamaForCausalLM", "llama"),
    (Architecture::Mistral, "MistralForCausalLM", "mistral"),
    (Architecture::Qwen2, "Qwen2ForCausalLM", "qwen2"),
    (Architecture::Qwen3, "Qwen3ForCausalLM", "qwen3"),
    (Architecture::Gemma2, "Gemma2ForCausalLM", "gemma2"),
    (Architecture::Gemma3, "Gemma3ForCausalLM", "gemma3_text"),
    (Architecture::Phi3, "Phi3ForCausalLM", "phi3"),
];

impl Architecture {
    /// The architecture that a configuration names.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`], with the supported names.
    pub(super) fn of(file: &JsonFile) -> Result<Self, EngineError> {
        let named = file.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
        let by_type = file.optional_text("model_type")?;
        let known = KNOWN.iter().chain(&candle::KNOWN).find(|(_, name, model_type)| match named {
            Some(named) => named == *name,
            None => by_type == Some(model_type),
        });
        match known {
            Some((architecture, ..)) => Ok(*architecture),
            None => {
                let all = KNOWN.iter().chain(&candle::KNOWN);
                let (field, names): (_, Vec<_>) = match named {
                    Some(_) => ("architectures", all.map(|known| known.1).collect()),
                    None => ("model_type", all.map(|known| known.2).collect()),
                };
                Err(file.unsupported(field, &names.join(", ")))
            }
        }
    }

    /// Gemma's way: norm weights around zero, output norms, scaled embeddings.
    pub(super) fn is_gemma(self) -> bool {
        matches!(self, Self::Gemma2 | Self::Gemma3)
    }

    /// Width of a head where neither the configuration nor a division says it.
    pub(super) fn default_head_dim(self) -> Option<usize> {
        match self {
            Self::Gemma2 | Self::Gemma3 => Some(256),
            Self::Qwen3 => Some(128),
            Self::Llama | Self::Mistral | Self::Qwen2 | Self::Phi3 | Self::Candle(_) => None,
        }
    }

    /// The attention window where the configuration does not name the field.
    pub(super) fn default_window(self) -> Option<usize> {
        match self {
            Self::Llama | Self::Phi3 | Self::Candle(_) => None,
            Self::Mistral | Self::Qwen2 | Self::Qwen3 | Self::Gemma2 | Self::Gemma3 => Some(4096),
        }
    }

    /// The name in `architectures`.
    pub(super) fn name(self) -> &'static str {
        let known = KNOWN.iter().chain(&candle::KNOWN).find(|(architecture, ..)| *architecture == self);
        known.map_or("", |(_, name, _)| name)
    }

    /// The positions of the context where the configuration does not say it.
    pub(super) fn default_positions(self) -> usize {
        match self {
            Self::Llama | Self::Candle(CandleModel::Phi | CandleModel::Olmo2) => 2048,
            Self::Phi3 | Self::Candle(CandleModel::Starcoder2 | CandleModel::Helium) => 4096,
            Self::Gemma2 => 8192,
            Self::Qwen2 | Self::Qwen3 => 32_768,
            Self::Mistral | Self::Gemma3 | Self::Candle(CandleModel::Mixtral) => 131_072,
        }
    }

    /// The base of the rotary frequencies where the configuration names none.
    pub(super) fn default_theta(self) -> f64 {
        if self == Self::Gemma3 { 1_000_000.0 } else { 10_000.0 }
    }
}
