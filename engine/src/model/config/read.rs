//! From `config.json` to [`ModelConfig`].

use super::attention::Windows;
use super::candle;
use super::rotary::Description;
use super::{Activation, Architecture, LayerAttention, ModelConfig, Rotary};
use crate::EngineError;
use crate::files::JsonFile;
use std::path::Path;

/// No decoder has so many; what is kept per layer is allocated before any tensor is looked at.
const MOST_LAYERS: usize = 10_000;

/// No head is so wide; so is what is kept per element of one.
const WIDEST_HEAD: usize = 1 << 16;

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
        if file.get("quantization_config").is_some() {
            return Err(file.unsupported("quantization_config", "unquantised weights (F32, F16 or BF16)"));
        }
        let architecture = Architecture::of(&file)?;
        let generation = folder.join("generation_config.json");
        let generation = generation.is_file().then(|| JsonFile::open(&generation)).transpose()?;
        let end_tokens = end_tokens(generation.as_ref(), &file)?;
        let stop_strings = generation.as_ref().map(stop_strings).transpose()?.unwrap_or_default();
        if let Architecture::Candle(model) = architecture {
            return candle::read(&file, model, end_tokens, stop_strings);
        }
        refuse_unsupported(&file, architecture)?;

        let Heads { hidden_size, heads, kv_heads, head_dim } = Heads::read(&file, architecture)?;
        let rms_norm_eps =
            file.optional_number("rms_norm_eps")?
                .ok_or_else(|| file.wrong("rms_norm_eps", "a positive number"))? as f32;
        let layers = read_layers(&file)?;
        let positions =
            file.optional_size("max_position_embeddings")?.unwrap_or(architecture.default_positions());
        let theta = file.optional_number("rope_theta")?.unwrap_or(architecture.default_theta());
        let section = "rope_parameters";
        let rotary = Description { file: &file, section, theta, architecture, head_dim, positions };
        let Attention { attention, rotaries, context } = read_attention(&rotary, layers)?;
        let gemma = architecture.is_gemma();
        // Absent fields have the family's values, `null` means none.
        let softcap = |field: &str, usual: Option<f32>| match file.names(field) {
            true => Ok(file.optional_number(field)?.map(|cap| cap as f32)),
            false => Ok(usual),
        };
        let gemma2 = architecture == Architecture::Gemma2;
        let biased = file.flag("attention_bias")? == Some(true)
            && !matches!(architecture, Architecture::Qwen2 | Architecture::Mistral | Architecture::Phi3);
        let query_scalar =
            if gemma { file.optional_number("query_pre_attn_scalar")?.or(Some(256.0)) } else { None };
        Ok(Self {
            architecture,
            hidden_size,
            intermediate_size: file.size("intermediate_size")?,
            layers,
            heads,
            kv_heads,
            head_dim,
            vocab_size: file.size("vocab_size")?,
            context,
            activation: activation(&file, gemma)?,
            rms_norm_eps,
            unit_offset_norms: gemma,
            output_norms: gemma,
            query_key_norms: matches!(architecture, Architecture::Qwen3 | Architecture::Gemma3),
            query_key_value_bias: biased || architecture == Architecture::Qwen2,
            output_bias: biased,
            fused_projections: architecture == Architecture::Phi3,
            attention_scale: 1.0 / query_scalar.unwrap_or(head_dim as f64).sqrt() as f32,
            attention_softcap: if gemma2 { softcap("attn_logit_softcapping", Some(50.0))? } else { None },
            logit_softcap: if gemma {
                softcap("final_logit_softcapping", gemma2.then_some(30.0))?
            } else {
                None
            },
            embedding_scale: if gemma { (hidden_size as f64).sqrt() as f32 } else { 1.0 },
            attention,
            rotaries,
            tied_embeddings: file.flag("tie_word_embeddings")?.unwrap_or(gemma),
            end_tokens,
            stop_strings,
            candle: None,
        })
    }
}

/// The residual stream's width and how heads divide it.
pub(super) struct Heads {
    pub(super) hidden_size: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
}

impl Heads {
    /// # Errors
    /// [`EngineError::Field`] for absent or impossible values.
    pub(super) fn read(file: &JsonFile, architecture: Architecture) -> Result<Self, EngineError> {
        let hidden_size = file.size("hidden_size")?;
        let heads = file.size("num_attention_heads")?;
        let kv_heads = file.optional_size("num_key_value_heads")?.unwrap_or(heads);
        if heads % kv_heads != 0 {
            return Err(
                file.wrong("num_key_value_heads", &format!("a divisor of the {heads} attention heads"))
            );
        }
        let (field, head_dim) = match file.optional_size("head_dim")?.or(architecture.default_head_dim()) {
            Some(width) => ("head_dim", width),
            None if hidden_size % heads == 0 => ("hidden_size", hidden_size / heads),
            None => {
                return Err(file.wrong("hidden_size", &format!("a multiple of the {heads} attention heads")));
            }
        };
        if head_dim > WIDEST_HEAD {
            return Err(file.wrong(field, &format!("at most {WIDEST_HEAD} elements per head")));
        }
        Ok(Self { hidden_size, heads, kv_heads, head_dim })
    }
}

/// Number of decoder layers.
///
/// # Errors
/// [`EngineError::Field`].
pub(super) fn read_layers(file: &JsonFile) -> Result<usize, EngineError> {
    let layers = file.size("num_hidden_layers")?;
    if layers > MOST_LAYERS {
        return Err(file.wrong("num_hidden_layers", &format!("at most {MOST_LAYERS} layers")));
    }
    Ok(layers)
}

/// Refuses what would silently compute another model than the one in the folder.
fn refuse_unsupported(file: &JsonFile, architecture: Architecture) -> Result<(), EngineError> {
    if file.flag("mlp_bias")? == Some(true) {
        return Err(file.unsupported("mlp_bias", "false"));
    }
    if architecture.is_gemma() && file.flag("use_bidirectional_attention")? == Some(true) {
        return Err(file.unsupported("use_bidirectional_attention", "false"));
    }
    // transformers reads this field of Gemma 3 and then leaves it out of the computation.
    if architecture == Architecture::Gemma3 && file.get("attn_logit_softcapping").is_some() {
        return Err(file.unsupported("attn_logit_softcapping", "null"));
    }
    Ok(())
}

fn activation(file: &JsonFile, gemma: bool) -> Result<Activation, EngineError> {
    let (field, default) =
        if gemma { ("hidden_activation", "gelu_pytorch_tanh") } else { ("hidden_act", "silu") };
    match file.optional_text(field)?.unwrap_or(default) {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
        _ => Err(file.unsupported(field, "\"silu\" and \"gelu_pytorch_tanh\"")),
    }
}

/// The layers' attention with what it refers to.
struct Attention {
    attention: Vec<LayerAttention>,
    rotaries: Vec<Rotary>,
    context: usize,
}

/// Reads windows and rotary embeddings; `rotary` is that of the layers that see everything, but for its section.
fn read_attention(rotary: &Description<'_>, layers: usize) -> Result<Attention, EngineError> {
    let Description { file, architecture, .. } = *rotary;
    let windows = Windows::read(file, architecture, layers)?;
    let section = if file.get("rope_scaling").is_some() { "rope_scaling" } else { rotary.section };
    let [full, local] = ["full_attention", "sliding_attention"].map(|kind| format!("{section}.{kind}"));
    let nested = file.get(&full).is_some() || file.get(&local).is_some();
    if nested && architecture != Architecture::Gemma3 {
        return Err(file.unsupported(section, "one rotary embedding for all layers"));
    }
    let everywhere = if nested { full.as_str() } else { section };
    let (global, mut context) = Description { section: everywhere, ..*rotary }.read()?;
    let mut rotaries = vec![global];
    let mut slide = 0;
    if architecture == Architecture::Gemma3 {
        // Earlier files have the base of sliding layers at the top level; a scaling there is the others'.
        let theta = file.optional_number("rope_local_base_freq")?.unwrap_or(10_000.0);
        let (sliding, positions) = Description { section: &local, theta, ..*rotary }.read()?;
        rotaries.push(sliding);
        context = context.min(positions);
        slide = 1;
    }
    let attention = windows.slides.iter().map(|&slides| LayerAttention {
        // A window that holds the whole context hides nothing.
        window: windows.width.filter(|width| slides && *width < context),
        rotary: if slides { slide } else { 0 },
    });
    Ok(Attention { attention: attention.collect(), rotaries, context })
}

fn end_tokens(generation: Option<&JsonFile>, config: &JsonFile) -> Result<Vec<u32>, EngineError> {
    if let Some(file) = generation {
        let ids = file.token_ids("eos_token_id")?;
        if !ids.is_empty() {
            return Ok(ids);
        }
    }
    config.token_ids("eos_token_id")
}

/// One text, or a list of them.
fn stop_strings(generation: &JsonFile) -> Result<Vec<String>, EngineError> {
    const FIELD: &str = "stop_strings";
    let texts = match generation.get(FIELD) {
        None => Vec::new(),
        Some(serde_json::Value::String(text)) => vec![text.as_str()],
        Some(_) => generation.texts(FIELD)?.unwrap_or_default(),
    };
    if texts.contains(&"") {
        return Err(generation.wrong(FIELD, "texts that are not empty"));
    }
    Ok(texts.into_iter().map(str::to_owned).collect())
}
