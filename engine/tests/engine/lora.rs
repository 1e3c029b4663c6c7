//! LoRA adapters, against PEFT's merge of them (numbers recorded by `engine/goldens/lora.py`).

use avsweep_engine::{
    AlignmentVector, BaseModel, Coefficient, DeltaType, Engine, MergedModel, WeightType, extract, inspect,
    merge_to_folder,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

const ADAPTERS: [&str; 5] = ["plain", "patterns", "saved", "embedded", "tied"];

#[derive(Deserialize)]
struct Expected {
    base: String,
    tokens: Vec<u32>,
    /// Norm of what changed, per tensor.
    norms: HashMap<String, f64>,
    last_logits: Vec<f32>,
    last_logits_halfway: Vec<f32>,
}

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens")
}

fn adapter(name: &str) -> PathBuf {
    goldens().join("lora").join(name)
}

fn expected(name: &str) -> Expected {
    serde_json::from_str(&std::fs::read_to_string(adapter(name).join("expected.json")).unwrap()).unwrap()
}

fn engine(base: &Path, vector: &Path, dtype: WeightType) -> Engine {
    let base = BaseModel::open(base).unwrap();
    let vector = AlignmentVector::open(vector, &base).unwrap();
    Engine::load(base, vec![vector], &[Coefficient::whole("c", 0)], dtype).unwrap()
}

fn last_logits(engine: &mut Engine, coefficient: f64, tokens: &[u32]) -> Vec<f32> {
    engine.merge(&[coefficient]).unwrap();
    engine.logits(tokens).unwrap().pop().unwrap()
}

#[test]
fn an_adapter_is_merged_as_peft_merges_it() {
    for name in ADAPTERS {
        let expected = expected(name);
        let mut engine = engine(&goldens().join(&expected.base), &adapter(name), WeightType::F32);
        for (coefficient, wanted) in [(1.0, &expected.last_logits), (0.5, &expected.last_logits_halfway)] {
            let found = last_logits(&mut engine, coefficient, &expected.tokens);
            assert_eq!(found.len(), wanted.len(), "{name}");
            for (found, wanted) in found.iter().zip(wanted) {
                assert!((found - wanted).abs() < 2e-4, "{name} at {coefficient}: {found} against {wanted}");
            }
        }
    }
}

#[test]
fn every_tensor_changes_by_as_much_as_under_peft() {
    for name in ADAPTERS {
        let expected = expected(name);
        let report = inspect(Some(&goldens().join(&expected.base)), &[adapter(name)]).unwrap();
        for tensor in &report.vectors[0].tensors {
            let wanted = expected.norms[&tensor.name];
            // PEFT's norms are of merged f32 weights minus the base's, with the rounding of that sum.
            assert!(
                (tensor.norm - wanted).abs() < 2e-5,
                "{name} {}: {} against {wanted}",
                tensor.name,
                tensor.norm
            );
        }
    }
}

#[test]
fn an_extracted_adapter_is_the_adapter() {
    let folder = tempfile::tempdir().unwrap();
    for name in ADAPTERS {
        let expected = expected(name);
        let base = goldens().join(&expected.base);
        let delta = folder.path().join(format!("{name}.safetensors"));
        let extracted = extract(&base, &adapter(name), &delta, DeltaType::F32).unwrap();
        // A tied head has no tensor of its own.
        let changed = expected
            .norms
            .iter()
            .filter(|(tensor, norm)| **norm > 0.0 && !(name == "tied" && *tensor == "lm_head.weight"));
        assert_eq!(extracted.changed_tensors, changed.count(), "{name}");
        let mut adapted = engine(&base, &adapter(name), WeightType::F32);
        let mut written = engine(&base, &delta, WeightType::F32);
        assert_eq!(
            last_logits(&mut adapted, 0.3, &expected.tokens),
            last_logits(&mut written, 0.3, &expected.tokens),
            "{name}"
        );
    }
}

#[test]
fn an_exported_adapter_is_the_engines_own_model() {
    let folder = tempfile::tempdir().unwrap();
    let expected = expected("patterns");
    let base = goldens().join(&expected.base);
    let out = folder.path().join("merged");
    merge_to_folder(&MergedModel::weighted(&base, &[(adapter("patterns"), -0.7)]), &out).unwrap();
    let exported = Engine::load(BaseModel::open(&out).unwrap(), Vec::new(), &[], WeightType::F32).unwrap();
    let mut merged = engine(&base, &adapter("patterns"), WeightType::F32);
    let exported = exported.logits(&expected.tokens).unwrap().pop().unwrap();
    assert_eq!(last_logits(&mut merged, -0.7, &expected.tokens), exported);
}

/// A copy of an adapter whose configuration can be changed.
struct Changed {
    folder: tempfile::TempDir,
}

impl Changed {
    fn new(name: &str, change: impl FnOnce(&mut Value)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            std::fs::copy(adapter(name).join(file), folder.path().join(file)).unwrap();
        }
        let path = folder.path().join("adapter_config.json");
        let mut config = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        change(&mut config);
        std::fs::write(path, config.to_string()).unwrap();
        Self { folder }
    }

    fn refusal(&self, base: &str) -> String {
        let base = BaseModel::open(&goldens().join(base)).unwrap();
        AlignmentVector::open(self.folder.path(), &base).unwrap_err().to_string()
    }

    fn fingerprint(&self) -> String {
        let base = BaseModel::open(&goldens().join("untied")).unwrap();
        AlignmentVector::open(self.folder.path(), &base).unwrap().fingerprint().to_owned()
    }
}

#[test]
fn a_fingerprint_covers_factors_and_scales_and_nothing_else() {
    let plain = Changed::new("plain", |_| {}).fingerprint();
    let renamed = Changed::new("plain", |config| {
        config["base_model_name_or_path"] = json!("elsewhere/model");
        config["lora_dropout"] = json!(0.1);
    });
    assert_eq!(renamed.fingerprint(), plain);
    assert_ne!(Changed::new("plain", |config| config["lora_alpha"] = json!(7)).fingerprint(), plain);
    assert_ne!(Changed::new("plain", |config| config["use_rslora"] = json!(true)).fingerprint(), plain);
}

#[test]
fn what_is_not_plain_lora_is_refused_by_its_field() {
    for (field, value) in [
        ("peft_type", json!("IA3")),
        ("peft_type", json!(null)),
        ("r", json!(null)),
        ("r", json!(0)),
        ("lora_alpha", json!(null)),
        ("lora_alpha", json!("16")),
        ("target_modules", json!(null)),
        ("target_modules", json!("*_proj")),
        ("use_dora", json!(true)),
        ("fan_in_fan_out", json!(true)),
        ("init_lora_weights", json!("pissa")),
        ("trainable_token_indices", json!([3])),
        ("layer_replication", json!([[0, 2]])),
        ("some_new_variant", json!(true)),
        ("rank_pattern", json!({"q_proj": "4"})),
        ("alpha_pattern", json!({"(": 4})),
        ("layers_to_transform", json!("first")),
    ] {
        let error = Changed::new("plain", |config| config[field] = value.clone()).refusal("untied");
        assert!(error.contains("adapter_config.json") && error.contains(&format!("`{field}`")), "{error}");
    }
}

#[test]
fn tensors_that_do_not_suit_base_or_configuration_are_refused_by_name() {
    let rank = Changed::new("plain", |config| config["r"] = json!(3)).refusal("untied");
    assert!(
        rank.contains("q_proj.lora_A.weight") && rank.contains("[4, 48]") && rank.contains("[3, 48]"),
        "{rank}"
    );
    let absent = Changed::new("plain", |config| config["target_modules"] = json!(["q_proj", "k_proj"]));
    let absent = absent.refusal("untied");
    assert!(
        absent.contains("layers.0.self_attn.k_proj.lora_A.weight") && absent.contains("missing"),
        "{absent}"
    );
    let unasked = Changed::new("plain", |config| config["target_modules"] = json!(["q_proj", "v_proj"]));
    let unasked = unasked.refusal("untied");
    assert!(
        unasked.contains("layers.0.mlp.down_proj.lora_A.weight") && unasked.contains("target_modules"),
        "{unasked}"
    );
    let other = Changed::new("plain", |_| {}).refusal("tied");
    assert!(
        other.contains("q_proj.lora_B.weight") && other.contains("[48, 4]") && other.contains("[60, 4]"),
        "{other}"
    );
    let tied = Changed::new("tied", |config| config["modules_to_save"] = json!(["lm_head"])).refusal("tied");
    assert!(tied.contains("embed_tokens.weight") && tied.contains("modules_to_save"), "{tied}");
    let head = Changed::new("embedded", |_| {}).refusal("tied");
    assert!(head.contains("lm_head.lora_A.weight") && head.contains("embedding"), "{head}");
    let nothing =
        Changed::new("plain", |config| config["target_modules"] = json!(["query"])).refusal("untied");
    assert!(
        nothing.contains("q_proj.lora_A.weight") || nothing.contains("down_proj.lora_A.weight"),
        "{nothing}"
    );
}

#[test]
fn an_adapter_without_safetensors_or_with_damaged_ones_is_refused() {
    let changed = Changed::new("plain", |_| {});
    let path = changed.folder.path().join("adapter_model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let error = changed.refusal("untied");
    assert!(error.contains("NaN") && error.contains("lora_"), "{error}");
    std::fs::write(&path, &bytes[..end - 8]).unwrap();
    assert!(changed.refusal("untied").contains("cut short"));
    std::fs::remove_file(&path).unwrap();
    let error = changed.refusal("untied");
    assert!(error.contains("adapter_model.safetensors"), "{error}");
}
