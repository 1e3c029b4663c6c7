//! What of a configuration identifies a model: every field by its own name and bytes, so that neither how Rust prints
//! them nor their order in memory matters.

use super::{Activation, LayerAttention, ModelConfig, Rotary};

/// Fields that are hashed one after the other, each with its name and length.
struct Fields<'a>(&'a mut blake3::Hasher);

impl Fields<'_> {
    fn bytes(&mut self, name: &str, value: &[u8]) {
        for part in [name.as_bytes(), value] {
            self.0.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
    }

    fn size(&mut self, name: &str, value: usize) {
        self.bytes(name, &(value as u64).to_le_bytes());
    }

    fn flag(&mut self, name: &str, value: bool) {
        self.bytes(name, &[u8::from(value)]);
    }

    fn number(&mut self, name: &str, value: f32) {
        self.bytes(name, &value.to_le_bytes());
    }

    /// Nothing is no bytes.
    fn optional(&mut self, name: &str, value: Option<&[u8]>) {
        self.flag(name, value.is_some());
        self.bytes(name, value.unwrap_or_default());
    }
}

impl ModelConfig {
    /// Adds every field to a fingerprint.
    pub(crate) fn hash_into(&self, hasher: &mut blake3::Hasher) {
        // In full, so that a new field cannot be forgotten here.
        let Self {
            architecture,
            hidden_size,
            intermediate_size,
            layers,
            heads,
            kv_heads,
            head_dim,
            vocab_size,
            context,
            activation,
            rms_norm_eps,
            unit_offset_norms,
            output_norms,
            query_key_norms,
            query_key_value_bias,
            output_bias,
            fused_projections,
            attention_scale,
            attention_softcap,
            logit_softcap,
            embedding_scale,
            attention,
            rotaries,
            tied_embeddings,
            end_tokens,
            stop_strings,
            candle,
        } = self;
        let mut fields = Fields(hasher);
        fields.bytes("architecture", architecture.name().as_bytes());
        fields.size("hidden_size", *hidden_size);
        fields.size("intermediate_size", *intermediate_size);
        fields.size("layers", *layers);
        fields.size("heads", *heads);
        fields.size("kv_heads", *kv_heads);
        fields.size("head_dim", *head_dim);
        fields.size("vocab_size", *vocab_size);
        fields.size("context", *context);
        let activation = match activation {
            Activation::Silu => "silu",
            Activation::GeluTanh => "gelu_tanh",
        };
        fields.bytes("activation", activation.as_bytes());
        fields.number("rms_norm_eps", *rms_norm_eps);
        fields.flag("unit_offset_norms", *unit_offset_norms);
        fields.flag("output_norms", *output_norms);
        fields.flag("query_key_norms", *query_key_norms);
        fields.flag("query_key_value_bias", *query_key_value_bias);
        fields.flag("output_bias", *output_bias);
        fields.flag("fused_projections", *fused_projections);
        fields.number("attention_scale", *attention_scale);
        for (name, cap) in [("attention_softcap", attention_softcap), ("logit_softcap", logit_softcap)] {
            fields.optional(name, cap.map(f32::to_le_bytes).as_ref().map(<[u8; 4]>::as_slice));
        }
        fields.number("embedding_scale", *embedding_scale);
        fields.size("attention", attention.len());
        for LayerAttention { window, rotary } in attention {
            let window = window.map(|window| (window as u64).to_le_bytes());
            fields.optional("window", window.as_ref().map(<[u8; 8]>::as_slice));
            fields.size("rotary", *rotary);
        }
        fields.size("rotaries", rotaries.len());
        for Rotary { frequencies, attention_factor } in rotaries {
            let frequencies: Vec<u8> = frequencies.iter().flat_map(|value| value.to_le_bytes()).collect();
            fields.bytes("frequencies", &frequencies);
            fields.number("attention_factor", *attention_factor);
        }
        fields.flag("tied_embeddings", *tied_embeddings);
        let ids: Vec<u8> = end_tokens.iter().flat_map(|id| id.to_le_bytes()).collect();
        fields.bytes("end_tokens", &ids);
        fields.size("stop_strings", stop_strings.len());
        stop_strings.iter().for_each(|text| fields.bytes("stop_string", text.as_bytes()));
        fields.optional("candle", candle.as_ref().map(String::as_bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Architecture;
    use std::path::Path;

    #[test]
    fn every_field_is_part_of_the_identity() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens/families/gemma3");
        let config = ModelConfig::open(&golden).expect("a golden opens");
        let hash = |config: &ModelConfig| {
            let mut hasher = blake3::Hasher::new();
            config.hash_into(&mut hasher);
            hasher.finalize()
        };
        let changes: [fn(&mut ModelConfig); 29] = [
            |config| config.architecture = Architecture::Llama,
            |config| config.hidden_size += 1,
            |config| config.intermediate_size += 1,
            |config| config.layers += 1,
            |config| config.heads += 1,
            |config| config.kv_heads += 1,
            |config| config.head_dim += 1,
            |config| config.vocab_size += 1,
            |config| config.context += 1,
            |config| config.activation = Activation::Silu,
            |config| config.rms_norm_eps *= 2.0,
            |config| config.unit_offset_norms ^= true,
            |config| config.output_norms ^= true,
            |config| config.query_key_norms ^= true,
            |config| config.query_key_value_bias ^= true,
            |config| config.output_bias ^= true,
            |config| config.fused_projections ^= true,
            |config| config.attention_scale *= 2.0,
            |config| config.attention_softcap = Some(3.0),
            |config| config.logit_softcap = Some(3.0),
            |config| config.embedding_scale *= 2.0,
            |config| config.attention[0].window = Some(3),
            |config| config.attention[0].rotary ^= 1,
            |config| config.rotaries[0].frequencies[0] *= 2.0,
            |config| config.rotaries[0].attention_factor *= 2.0,
            |config| config.tied_embeddings ^= true,
            |config| config.end_tokens.push(7),
            |config| config.stop_strings.push("stop".to_owned()),
            |config| config.candle = Some("{}".to_owned()),
        ];
        let mut seen = vec![hash(&config)];
        for change in changes {
            let mut changed = config.clone();
            change(&mut changed);
            let changed = hash(&changed);
            assert!(!seen.contains(&changed));
            seen.push(changed);
        }
        assert_eq!(hash(&ModelConfig::open(&golden).expect("a golden opens")), seen[0]);
    }
}
