//! Every supported family against transformers: numbers recorded by `goldens/families/families.py` on tiny random
//! checkpoints with windows shorter than their prompts, and the laws of batching on each.

use crate::change_config;
use crate::goldens::{agrees, expected_in, folder, messages, plain};
use avsweep_engine::{
    AlignmentVector, BaseModel, Coefficient, Engine, ItemError, MergedModel, Message, ModelConfig,
    PromptItem, Sampling, ScoreItem, WeightType, merge_to_folder,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

pub(crate) const FAMILIES: [&str; 7] = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"];

fn family(name: &str) -> PathBuf {
    folder("families").join(name)
}

#[track_caller]
fn family_agrees(name: &str) {
    let folder = family(name);
    let expected = expected_in(&folder);
    let engine = plain(&folder);
    agrees(&engine, &expected.queries);
    for refused in &expected.refused {
        let error = engine.prompt_tokens(&messages(&refused.messages)).unwrap_err();
        assert!(
            matches!(&error, ItemError::Template { reason } if reason.contains(&refused.reason)),
            "{error}"
        );
    }
}

#[test]
fn llama_with_scaled_rope_and_biases_agrees_with_transformers() {
    family_agrees("llama");
}

#[test]
fn mistral_with_its_sliding_window_agrees_with_transformers() {
    family_agrees("mistral");
}

#[test]
fn qwen2_with_biases_and_windows_in_upper_layers_agrees_with_transformers() {
    family_agrees("qwen2");
}

#[test]
fn qwen3_with_normalised_queries_and_keys_agrees_with_transformers() {
    family_agrees("qwen3");
}

#[test]
fn gemma2_with_soft_caps_and_alternating_windows_agrees_with_transformers() {
    family_agrees("gemma2");
}

#[test]
fn gemma3_with_local_and_global_rope_agrees_with_transformers() {
    family_agrees("gemma3");
}

#[test]
fn phi3_with_fused_projections_and_longrope_agrees_with_transformers() {
    family_agrees("phi3");
}

/// Queries of all lengths with equal beginnings: those of the golden, and some with longer texts.
fn items(name: &str) -> Vec<ScoreItem> {
    let golden: Vec<ScoreItem> = expected_in(&family(name))
        .queries
        .iter()
        .map(|query| ScoreItem {
            messages: messages(&query.messages),
            references: query.references.iter().map(|reference| reference.text.clone()).collect(),
        })
        .collect();
    let long = (0..12).map(|index| ScoreItem {
        messages: vec![Message::user("The heart pumps blood. ".repeat(1 + index % 5) + &"ab".repeat(index))],
        references: (0..3).map(|level| "A contract binds ".repeat(level) + &"x".repeat(index)).collect(),
    });
    golden.into_iter().chain(long).collect()
}

fn scores(engine: &Engine, items: &[ScoreItem]) -> Vec<Vec<(u64, u32)>> {
    engine
        .score(&engine.prepare_scores(items))
        .unwrap()
        .into_iter()
        .map(|scores| {
            scores.unwrap().iter().map(|score| (score.log_prob_sum.to_bits(), score.tokens)).collect()
        })
        .collect()
}

#[test]
fn every_family_scores_a_batch_as_its_items_one_by_one_to_the_last_bit() {
    for name in FAMILIES {
        let engine = plain(&family(name));
        let items = items(name);
        let together = scores(&engine, &items);
        for (item, expected) in items.iter().zip(&together) {
            assert_eq!(scores(&engine, std::slice::from_ref(item))[0], *expected, "{name}");
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(5).build().unwrap();
        assert_eq!(pool.install(|| scores(&engine, &items)), together, "{name}");
    }
}

#[test]
fn every_family_answers_a_batch_as_its_prompts_one_by_one() {
    for name in FAMILIES {
        let engine = plain(&family(name));
        let prompts: Vec<PromptItem> =
            items(name).into_iter().map(|item| PromptItem { messages: item.messages, seed: 5 }).collect();
        for settings in
            [Sampling::greedy(20), Sampling { temperature: 0.8, top_p: 0.9, ..Sampling::greedy(20) }]
        {
            let together = engine.generate(&engine.prepare_prompts(&prompts), &settings).unwrap();
            for (prompt, expected) in prompts.iter().zip(&together) {
                let alone = engine.prepare_prompts(std::slice::from_ref(prompt));
                assert_eq!(&engine.generate(&alone, &settings).unwrap()[0], expected, "{name}");
            }
        }
    }
}

fn copy(name: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(family(name)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    copy
}

/// Doubles every weight of a bf16 checkpoint, exactly.
fn double_weights(path: &Path) {
    let mut file = std::fs::read(path).unwrap();
    let header = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    for value in file[8 + header..].as_chunks_mut::<2>().0 {
        let doubled = half::bf16::from_le_bytes(*value).to_f32() * 2.0;
        *value = half::bf16::from_f32(doubled).to_le_bytes();
    }
    std::fs::write(path, file).unwrap();
}

#[test]
fn a_vector_reaches_every_tensor_of_every_family() {
    let tokens: Vec<u32> = (0..30).map(|i| i * 13 % 400).collect();
    for name in FAMILIES {
        let aligned = copy(name);
        double_weights(&aligned.path().join("model.safetensors"));
        let base = BaseModel::open(&family(name)).unwrap();
        let vector = AlignmentVector::open(aligned.path(), &base).unwrap();
        let mut engine =
            Engine::load(base, vec![vector], &[Coefficient::whole("alpha", 0)], WeightType::Bf16).unwrap();
        assert_eq!(engine.logits(&tokens), plain(&family(name)).logits(&tokens), "{name} at 0");
        engine.merge(&[1.0]).unwrap();
        assert_eq!(engine.logits(&tokens), plain(aligned.path()).logits(&tokens), "{name} at 1");
        // A point leaves as a folder of the same family.
        engine.merge(&[-0.7]).unwrap();
        let out = tempfile::tempdir().unwrap();
        let vectors = [(aligned.path().to_path_buf(), -0.7)];
        merge_to_folder(&MergedModel::weighted(&family(name), &vectors), out.path()).unwrap();
        assert_eq!(engine.logits(&tokens), plain(out.path()).logits(&tokens), "{name} at -0.7");
    }
}

/// `config.json` of a family after a change, read by the engine.
fn changed(name: &str, change: impl FnOnce(&mut Value)) -> Result<ModelConfig, String> {
    let copy = copy(name);
    change_config(copy.path(), change);
    BaseModel::open(copy.path()).map(|base| base.config().clone()).map_err(|error| error.to_string())
}

#[test]
fn configurations_of_transformers_4_say_the_same_as_those_of_transformers_5() {
    for name in FAMILIES {
        let text = std::fs::read_to_string(family(name).join("config.v4.json")).unwrap();
        let old: Value = serde_json::from_str(&text).unwrap();
        let old = changed(name, |config| *config = old).unwrap();
        assert_eq!(old, changed(name, |_| ()).unwrap(), "{name}");
    }
}

#[test]
fn what_the_hub_leaves_out_of_a_configuration_is_what_transformers_assumes() {
    // Published Gemma 2 and 3 files name neither layer types nor tied embeddings.
    for (name, fields) in [
        ("gemma2", &["layer_types", "tie_word_embeddings", "hidden_activation"][..]),
        ("gemma3", &["layer_types", "tie_word_embeddings", "_sliding_window_pattern"]),
        ("qwen2", &["layer_types"]),
        ("qwen3", &["layer_types"]),
    ] {
        let short = changed(name, |config| {
            let config = config.as_object_mut().unwrap();
            fields.iter().for_each(|field| drop(config.remove(*field)));
        });
        assert_eq!(short.unwrap(), changed(name, |_| ()).unwrap(), "{name}");
    }
}

#[test]
fn windows_follow_their_fields() {
    let windows = |name, change: fn(&mut Value)| {
        let config = changed(name, change).unwrap();
        config.attention.iter().map(|layer| layer.window).collect::<Vec<_>>()
    };
    assert_eq!(windows("mistral", |config| config["sliding_window"] = Value::Null), [None; 3]);
    assert_eq!(windows("mistral", |config| config["sliding_window"] = json!(192)), [None; 3]);
    assert_eq!(windows("phi3", |_| ()), [Some(6); 3]);
    assert_eq!(windows("gemma2", |_| ()), [Some(6), None, Some(6)]);
    assert_eq!(windows("gemma3", |_| ()), [Some(6), Some(6), None]);
    assert_eq!(windows("qwen2", |_| ()), [None, None, Some(6)]);
    let off = |config: &mut Value| {
        config["use_sliding_window"] = json!(false);
        config["layer_types"] = Value::Null;
    };
    assert_eq!(windows("qwen2", off), [None; 3]);
}

#[test]
fn a_model_that_is_not_computed_as_described_is_refused() {
    for (name, field, value, named) in [
        ("gemma3", "use_bidirectional_attention", json!(true), "false"),
        ("gemma3", "attn_logit_softcapping", json!(50.0), "null"),
        ("gemma2", "hidden_activation", json!("gelu"), "gelu_pytorch_tanh"),
        ("qwen2", "layer_types", json!(["full_attention", "chunked_attention", "full_attention"]), "chunked"),
        ("qwen2", "layer_types", json!(["full_attention"]), "3 layers"),
        ("qwen2", "sliding_window", Value::Null, "window"),
        ("gemma2", "rope_parameters", json!({"full_attention": {"rope_type": "default"}}), "one rotary"),
        ("phi3", "rope_parameters", json!({"rope_type": "longrope", "short_factor": [1.0]}), "positive"),
        ("llama", "rope_parameters", json!({"rope_type": "llama3", "factor": 8.0}), "low_freq_factor"),
        ("llama", "partial_rotary_factor", json!(0.4), "even number"),
        ("llama", "architectures", json!(["Gemma3ForConditionalGeneration"]), "Gemma3ForCausalLM"),
    ] {
        let error = changed(name, |config| config[field] = value).unwrap_err();
        assert!(error.contains("config.json") && error.contains(named), "{name} {field}: {error}");
    }
    // longrope ends with the context that its first set of frequencies is for.
    assert_eq!(changed("phi3", |_| ()).unwrap().context, 160);
}

/// The defaults of transformers' configuration classes (5.24).
#[test]
fn a_context_that_is_not_stated_is_the_one_that_transformers_assumes() {
    for (name, positions) in [
        ("llama", 2048),
        ("mistral", 131_072),
        ("qwen2", 32_768),
        ("qwen3", 32_768),
        ("gemma2", 8192),
        ("gemma3", 131_072),
        ("phi3", 4096),
    ] {
        let config = changed(name, |config| {
            let fields = config.as_object_mut().unwrap();
            fields.remove("max_position_embeddings");
            fields.remove("rope_parameters");
        });
        assert_eq!(config.unwrap().context, positions, "{name}");
    }
}

#[derive(Deserialize)]
struct Rope {
    head_dim: usize,
    rope_theta: f64,
    rope_scaling: Value,
    frequencies: Vec<f64>,
    attention_factor: f64,
}

#[test]
fn rope_scalings_turn_by_the_angles_of_transformers() {
    let cases: Vec<Rope> =
        serde_json::from_str(&std::fs::read_to_string(folder("families").join("ropes.json")).unwrap())
            .unwrap();
    for case in cases {
        let config = rope_of(&case);
        let rotary = &config.rotaries[0];
        assert_eq!(rotary.frequencies.len(), case.frequencies.len());
        for (ours, theirs) in rotary.frequencies.iter().zip(&case.frequencies) {
            let difference = (f64::from(*ours) / theirs - 1.0).abs();
            assert!(difference < 3e-7, "{}: {ours} against {theirs}", case.rope_scaling);
        }
        let difference = (f64::from(rotary.attention_factor) - case.attention_factor).abs();
        assert!(difference < 1e-6, "{}: {}", case.rope_scaling, rotary.attention_factor);
    }
}

fn rope_of(case: &Rope) -> ModelConfig {
    let shape = crate::common::Shape {
        hidden: 4 * case.head_dim,
        heads: 4,
        kv_heads: 4,
        context: 4096,
        ..crate::SMALL
    };
    let family = crate::common::RandomFamily::new(&shape, 0);
    change_config(&family.base, |config| {
        config["rope_theta"] = json!(case.rope_theta);
        config["rope_scaling"] = case.rope_scaling.clone();
    });
    BaseModel::open(&family.base).unwrap().config().clone()
}
