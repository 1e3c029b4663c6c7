//! Decoders that run the slow way against transformers: numbers recorded by `goldens/others/others.py`.

use crate::change_config;
use crate::goldens::{agrees, expected_in, folder};
use avsweep_engine::{
    AlignmentVector, BaseModel, Coefficient, Device, DeviceChoice, Engine, EngineError, WeightType,
};
use serde_json::{Value, json};
use std::path::Path;

const ALL: [&str; 5] = ["phi", "starcoder2", "olmo2", "helium", "mixtral"];

/// On CPU, with the first vector of the folder.
fn engine_of(folder: &Path) -> Engine {
    let base = BaseModel::open(folder).unwrap();
    let vector = AlignmentVector::open(&folder.join("vector0.safetensors"), &base).unwrap();
    let device = Device::open(DeviceChoice::Cpu).unwrap();
    let coefficients = [Coefficient::whole("alpha", 0)];
    Engine::load_on(&device, None, base, vec![vector], &coefficients, WeightType::F32).unwrap()
}

/// At the base, and at a point that torch has merged.
#[track_caller]
fn decoder_agrees(name: &str) {
    let folder = folder("others").join(name);
    let expected = expected_in(&folder);
    let mut engine = engine_of(&folder);
    assert!(engine.is_slow());
    agrees(&engine, &expected.queries);
    let merged = expected.merged.as_ref().unwrap();
    engine.merge(&merged.point).unwrap();
    agrees(&engine, &merged.queries);
}

/// A copy of a folder with another configuration.
fn changed(name: &str, change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(folder("others").join(name)).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    change_config(copy.path(), change);
    copy
}

/// A copy of a folder with some fields of its configuration replaced.
fn patched(name: &str, patch: Value) -> tempfile::TempDir {
    let Value::Object(fields) = patch else { panic!("{patch}") };
    changed(name, |config| config.as_object_mut().unwrap().extend(fields))
}

/// Neither the order of fields, nor who wrote them and in which form.
#[test]
fn a_slow_base_is_identified_by_what_its_decoder_reads() {
    let fingerprint = |folder: &Path| BaseModel::open(folder).unwrap().fingerprint().to_owned();
    let reversed = |value: &mut Value| {
        let fields = std::mem::take(value.as_object_mut().unwrap());
        *value = fields.into_iter().rev().collect();
    };
    for name in ALL {
        let before = fingerprint(&folder("others").join(name));
        let same = |change: &dyn Fn(&mut Value)| {
            assert_eq!(fingerprint(changed(name, change).path()), before, "{name}");
        };
        same(&|config| {
            reversed(&mut config["rope_parameters"]);
            reversed(config);
        });
        same(&|config| {
            config["_name_or_path"] = json!("/elsewhere");
            config["transformers_version"] = json!("4.40.0");
            config["torch_dtype"] = config["dtype"].take();
            config["use_cache"] = json!(false);
        });
        same(&|config| {
            let Value::Object(rope) = config["rope_parameters"].take() else { panic!("{name}") };
            config.as_object_mut().unwrap().extend(rope);
            config["rope_theta"] = json!(config["rope_theta"].as_f64().unwrap() as u64);
        });
        let changes: [fn(&mut Value); 2] = [
            |config| config["rope_parameters"]["rope_theta"] = json!(12_345.0),
            |config| config["max_position_embeddings"] = json!(191),
        ];
        for change in changes {
            assert_ne!(fingerprint(changed(name, change).path()), before, "{name}");
        }
    }
}

#[test]
fn windows_that_are_off_and_kernels_that_are_not_there_change_nothing() {
    for (name, patch) in [
        ("starcoder2", json!({"use_sliding_window": false, "sliding_window": 2})),
        ("mixtral", json!({"use_sliding_window": false, "sliding_window": u64::MAX, "use_flash_attn": true})),
        ("helium", json!({"use_flash_attn": true})),
    ] {
        let copy = patched(name, patch);
        agrees(&engine_of(copy.path()), &expected_in(copy.path()).queries);
    }
}

#[test]
fn phi_by_candle_agrees_with_transformers() {
    decoder_agrees("phi");
}

#[test]
fn starcoder2_by_candle_agrees_with_transformers() {
    decoder_agrees("starcoder2");
}

#[test]
fn olmo2_by_candle_agrees_with_transformers() {
    decoder_agrees("olmo2");
}

#[test]
fn helium_by_candle_agrees_with_transformers() {
    decoder_agrees("helium");
}

#[test]
fn mixtral_by_candle_agrees_with_transformers() {
    decoder_agrees("mixtral");
}

/// Nothing is allocated or divided by what nobody checked.
#[test]
fn impossible_fields_of_a_slow_decoders_configuration_are_named() {
    const MANY: u32 = i32::MAX as u32;
    #[track_caller]
    fn refused(name: &str, patch: Value, field: &str, wanted: &str) {
        let copy = patched(name, patch);
        let text = BaseModel::open(copy.path()).expect_err(field).to_string();
        let named = format!("config.json: `{field}` is ");
        assert!(text.contains(&named) && text.contains(wanted), "{name}: {text}");
    }
    for name in ALL {
        refused(name, json!({"num_hidden_layers": MANY}), "num_hidden_layers", "at most 10000 layers");
        refused(name, json!({"num_key_value_heads": 3}), "num_key_value_heads", "divisor of the 4");
        refused(name, json!({"num_attention_heads": 0}), "num_attention_heads", "positive integer");
        refused(name, json!({"hidden_act": "swiglu"}), "hidden_act", "keep the width");
        let field = "rope_parameters.rope_theta";
        refused(name, json!({"rope_parameters": {"rope_theta": -1.0}}), field, "positive number");
        if name != "helium" {
            let heads = json!({"num_attention_heads": 6, "num_key_value_heads": 6});
            refused(name, heads, "hidden_size", "multiple of the 6");
            let wide = json!({"hidden_size": MANY, "num_attention_heads": 1, "num_key_value_heads": 1});
            refused(name, wide, "hidden_size", "at most 65536 elements");
        }
        if name != "phi" {
            refused(name, json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor", "supported: 1");
        }
    }
    for (share, wanted) in
        [(1e20, "at most all"), (2.0, "at most all"), (0.01, "an even number"), (-0.5, "positive number")]
    {
        let rope = json!({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": share}});
        refused("phi", rope, "rope_parameters.partial_rotary_factor", wanted);
        refused(
            "phi",
            json!({"rope_parameters": {"rope_theta": 1e4}, "partial_rotary_factor": share}),
            "partial_rotary_factor",
            wanted,
        );
    }
    refused("phi", json!({"layer_norm_eps": -1.0}), "layer_norm_eps", "positive number");
    refused("helium", json!({"head_dim": MANY}), "head_dim", "at most 65536 elements");
    refused("helium", json!({"head_dim": 7}), "head_dim", "an even number");
    refused("mixtral", json!({"head_dim": 16}), "head_dim", "hidden_size / num_attention_heads");
    refused("mixtral", json!({"num_local_experts": MANY}), "num_local_experts", "at most 10000 experts");
    refused("mixtral", json!({"num_experts_per_tok": 5}), "num_experts_per_tok", "at most the 4 experts");
    refused("mixtral", json!({"num_experts_per_tok": 0}), "num_experts_per_tok", "positive integer");
}

/// Cosines and sines in f32: Phi has them in every layer, StarCoder2 and Mixtral repeat them for both halves of a head.
#[test]
fn the_plan_counts_the_rotations_of_every_position() {
    let device = Device::open(DeviceChoice::Cpu).unwrap();
    for (name, columns) in [("phi", 2 * 2), ("starcoder2", 8), ("olmo2", 4), ("helium", 4), ("mixtral", 8)] {
        let merged = |positions: u64| {
            let copy = patched(name, json!({"max_position_embeddings": positions}));
            match Engine::check_memory(&device, Some(1), copy.path(), WeightType::F32) {
                Err(EngineError::TooLarge { merged, .. }) => merged,
                other => panic!("{name}: {other:?}"),
            }
        };
        let positions = 1 << 22;
        let tables = positions * 2 * columns * 4;
        let planned = merged(positions) - merged(192);
        assert!((tables..3 * tables).contains(&planned), "{name}: {planned} bytes, tables take {tables}");
    }
}

/// What the decoder wants of the files is checked while they are opened: no job finds out.
#[test]
fn tensors_that_a_slow_decoder_misses_has_misshapen_or_never_asks_for_are_named_while_opening() {
    for (name, inner) in [
        ("phi", "mlp.fc1.weight"),
        ("starcoder2", "mlp.c_fc.weight"),
        ("olmo2", "mlp.gate_proj.weight"),
        ("helium", "mlp.gate_proj.weight"),
        ("mixtral", "block_sparse_moe.experts.0.w1.weight"),
    ] {
        let complaint = |field: &str, change: fn(u64) -> u64| {
            let mut before = 0;
            let copy = changed(name, |config| {
                before = config[field].as_u64().unwrap();
                config[field] = change(before).into();
            });
            let text = BaseModel::open(copy.path()).expect_err("the files do not fit").to_string();
            assert!(text.contains(&copy.path().display().to_string()), "{name}: {text}");
            (text, before)
        };
        let (text, layers) = complaint("num_hidden_layers", |layers| layers + 1);
        assert!(text.contains(&format!("`model.layers.{layers}.")) && text.contains("is missing"), "{text}");
        let (text, layers) = complaint("num_hidden_layers", |layers| layers - 1);
        let last = format!("`model.layers.{}.", layers - 1);
        assert!(text.contains(&last) && text.contains("not one of this model's"), "{text}");
        let (text, width) = complaint("intermediate_size", |width| width + 2);
        assert!(text.contains(inner) && text.contains(&format!("wanted [{}, ", width + 2)), "{text}");
        let (text, _) = complaint("max_position_embeddings", |_| 1 << 30);
        assert!(text.contains("max_position_embeddings") && text.contains("at most 4194304"), "{text}");
    }
}
