//! Decoders that candle-transformers computes: what the engine itself must know of their configuration.

use super::read::{Heads, read_layers};
use super::rotary::Description;
use super::{Activation, Architecture, ModelConfig};
use crate::EngineError;
use crate::files::JsonFile;
use candle_transformers::models::{helium, mixtral, olmo2, phi, starcoder2};
use serde::de::{DeserializeOwned, Deserializer, Error, Visitor};
use serde::forward_to_deserialize_any;
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

/// More experts than any layer has.
const MOST_EXPERTS: usize = 10_000;

impl CandleModel {
    /// The fields that its decoder reads.
    fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Phi => field_names::<phi::Config>(),
            Self::Starcoder2 => field_names::<starcoder2::Config>(),
            Self::Olmo2 => field_names::<olmo2::Config>(),
            Self::Helium => field_names::<helium::Config>(),
            Self::Mixtral => field_names::<mixtral::Config>(),
        }
    }
}

/// Learns the fields of a structure that asks it for them, and gives none.
struct FieldNames(&'static [&'static str]);

fn field_names<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut names = FieldNames(&[]);
    drop(T::deserialize(&mut names));
    names.0
}

impl<'de> Deserializer<'de> for &mut FieldNames {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> serde_json::Result<V::Value> {
        Err(Error::custom("only its fields are wanted"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> serde_json::Result<V::Value> {
        self.0 = fields;
        self.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

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

    /// As [`parse`](Self::parse), with one position, for which tables of rotations take no memory to speak of. Tensors
    /// do not depend on it.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub(crate) fn parse_with_one_position(model: CandleModel, text: &str) -> serde_json::Result<Self> {
        let mut fields: Map<String, Value> = serde_json::from_str(text)?;
        fields.insert("max_position_embeddings".to_owned(), Value::from(1));
        Self::parse(model, &Value::Object(fields).to_string())
    }
}

/// Reads the configuration of a decoder that candle-transformers computes. Its details are candle's; the sizes here
/// are for reports and for memory.
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
    let architecture = Architecture::Candle(model);
    let Heads { hidden_size, heads, kv_heads, head_dim } = Heads::read(file, architecture)?;
    // The other decoders divide, whatever the file says.
    if model != CandleModel::Helium && heads * head_dim != hidden_size {
        return Err(file.unsupported("head_dim", "hidden_size / num_attention_heads"));
    }
    let layers = read_layers(file)?;
    if model == CandleModel::Mixtral {
        check_experts(file)?;
    }
    // candle-transformers' halves the width; transformers has none of this name.
    if file.get("hidden_act").is_some_and(|name| name == "swiglu") {
        return Err(file.unsupported("hidden_act", "activations that keep the width"));
    }
    let positions =
        file.optional_size("max_position_embeddings")?.unwrap_or(architecture.default_positions());
    // Its tables of rotations hold every position.
    if positions > MOST_POSITIONS {
        return Err(file.wrong("max_position_embeddings", &format!("at most {MOST_POSITIONS}")));
    }
    // Windows are not computed: within one, they hide nothing.
    let window = match file.flag("use_sliding_window")? {
        Some(false) => None,
        _ => file.optional_size("sliding_window")?,
    };
    let context = window.map_or(positions, |window| window.min(positions));
    // This decoder takes the embedding for a head, whatever the file says.
    let always_tied = model == CandleModel::Starcoder2;
    let tied = file.flag("tie_word_embeddings")?.unwrap_or(always_tied);
    if always_tied && !tied {
        return Err(file.unsupported("tie_word_embeddings", "true"));
    }

    let mut fields = file.object();
    let theta = file.optional_number("rope_theta")?.unwrap_or(architecture.default_theta());
    let section = rotary_section(file)?;
    let description = Description { file, section, theta, architecture, head_dim, positions };
    let (rotary, _) = description.read()?;
    // The other decoders turn whole heads.
    if model != CandleModel::Phi && 2 * rotary.frequencies.len() != head_dim {
        return Err(file.unsupported(&description.place("partial_rotary_factor"), "1"));
    }
    let turning = ["partial_rotary_factor", "rope_theta"].map(|name| (name, description.place(name)));
    let norms = ["layer_norm_eps", "norm_epsilon", "rms_norm_eps"].map(|name| (name, name.to_owned()));
    for (name, place) in turning.into_iter().chain(norms) {
        if let Some(number) = file.optional_number(&place)? {
            fields.insert(name.to_owned(), Value::from(number));
        }
    }
    for (name, value) in [
        ("max_position_embeddings", Value::from(context)),
        ("sliding_window", Value::from(context)),
        ("tie_word_embeddings", Value::from(tied)),
        ("use_flash_attn", Value::from(false)),
        // Special tokens are the engine's business.
        ("bos_token_id", Value::from(0)),
        ("eos_token_id", Value::from(0)),
    ] {
        fields.insert(name.to_owned(), value);
    }
    // The text is part of the base's fingerprint: what the decoder reads, whatever the order.
    let names = model.fields();
    fields.retain(|name, value| names.contains(&name.as_str()) && !value.is_null());
    let mut fields = Value::Object(fields);
    fields.sort_all_objects();
    let candle = fields.to_string();
    if let Err(error) = CandleConfig::parse(model, &candle) {
        return Err(file.refused(&error.to_string()));
    }
    Ok(ModelConfig {
        architecture,
        hidden_size,
        intermediate_size: file.size("intermediate_size")?,
        layers,
        heads,
        kv_heads,
        head_dim,
        vocab_size: file.size("vocab_size")?,
        context,
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
        rotaries: vec![rotary],
        tied_embeddings: tied,
        end_tokens,
        stop_strings,
        candle: Some(candle),
    })
}

/// Checks the experts of a layer, and how many of them compute a token.
fn check_experts(file: &JsonFile) -> Result<(), EngineError> {
    let experts = file.size("num_local_experts")?;
    if experts > MOST_EXPERTS {
        return Err(file.wrong("num_local_experts", &format!("at most {MOST_EXPERTS} experts")));
    }
    if file.size("num_experts_per_tok")? > experts {
        return Err(file.wrong("num_experts_per_tok", &format!("at most the {experts} experts")));
    }
    Ok(())
}

/// The object that describes the rotary embedding; none scales it.
fn rotary_section(file: &JsonFile) -> Result<&'static str, EngineError> {
    for section in ["rope_scaling", "rope_parameters"] {
        for key in ["rope_type", "type"] {
            let field = format!("{section}.{key}");
            if !matches!(file.optional_text(&field)?, None | Some("default")) {
                return Err(file.unsupported(&field, "\"default\", that is, no RoPE scaling"));
            }
        }
    }
    Ok(if file.get("rope_scaling").is_some() { "rope_scaling" } else { "rope_parameters" })
}
