//! What each layer's attention sees: everything before a token, or a window of it.

use super::Architecture;
use crate::EngineError;
use crate::files::JsonFile;

/// How one layer attends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerAttention {
    /// Positions that a token sees, itself included; all before it where `None`. Smaller than the context.
    pub window: Option<usize>,
    /// Index into [`ModelConfig::rotaries`](super::ModelConfig::rotaries).
    pub rotary: usize,
}

/// Per layer whether its attention slides, and the window of those that do.
pub(super) struct Windows {
    /// One per layer.
    pub(super) slides: Vec<bool>,
    /// There where any layer slides.
    pub(super) width: Option<usize>,
}

impl Windows {
    /// Reads `sliding_window` and what says which layers have it: `layer_types` where there is one, else the
    /// family's own rule.
    ///
    /// # Errors
    /// [`EngineError::Field`] or [`EngineError::Unsupported`].
    pub(super) fn read(
        file: &JsonFile,
        architecture: Architecture,
        layers: usize,
    ) -> Result<Self, EngineError> {
        let mut width = match file.names("sliding_window") {
            true => file.optional_size("sliding_window")?,
            false => architecture.default_window(),
        };
        let named = file.texts("layer_types")?;
        let slides: Vec<bool> = match architecture {
            Architecture::Llama => vec![false; layers],
            Architecture::Mistral | Architecture::Phi3 => {
                if named.iter().flatten().any(|kind| *kind != "sliding_attention") && width.is_some() {
                    return Err(file.unsupported("layer_types", "one kind of attention in all layers"));
                }
                vec![width.is_some(); layers]
            }
            _ => {
                let qwen = matches!(architecture, Architecture::Qwen2 | Architecture::Qwen3);
                if qwen && file.flag("use_sliding_window")? != Some(true) {
                    width = None;
                }
                match named {
                    Some(kinds) => explicit(file, &kinds, layers)?,
                    None => (0..layers)
                        .map(|layer| slides_by_rule(file, architecture, layer, width.is_some()))
                        .collect::<Result<_, _>>()?,
                }
            }
        };
        if slides.contains(&true) && width.is_none() {
            return Err(file.wrong("sliding_window", "a window for the layers that slide"));
        }
        Ok(Self { slides, width })
    }
}

fn explicit(file: &JsonFile, kinds: &[&str], layers: usize) -> Result<Vec<bool>, EngineError> {
    if kinds.len() != layers {
        return Err(file.wrong("layer_types", &format!("one kind for each of the {layers} layers")));
    }
    kinds
        .iter()
        .map(|kind| match *kind {
            "sliding_attention" => Ok(true),
            "full_attention" => Ok(false),
            _ => Err(file.unsupported("layer_types", "\"sliding_attention\" and \"full_attention\"")),
        })
        .collect()
}

/// transformers' rule for a layer where no list says it.
fn slides_by_rule(
    file: &JsonFile,
    architecture: Architecture,
    layer: usize,
    has_window: bool,
) -> Result<bool, EngineError> {
    Ok(match architecture {
        Architecture::Gemma2 => layer.is_multiple_of(2),
        Architecture::Gemma3 => {
            let pattern = file.optional_size("sliding_window_pattern")?.unwrap_or(6);
            !(layer + 1).is_multiple_of(pattern)
        }
        _ => {
            let first = match file.get("max_window_layers") {
                // Zero is a value here: every layer slides.
                Some(value) if value.as_u64() == Some(0) => 0,
                _ => file.optional_size("max_window_layers")?.unwrap_or(28),
            };
            has_window && layer >= first
        }
    })
}
