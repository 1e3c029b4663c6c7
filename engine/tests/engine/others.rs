//! Decoders that run the slow way against transformers: numbers recorded by `goldens/others/others.py`.

use crate::change_config;
use crate::goldens::{agrees, expected_in, folder};
use avsweep_engine::{AlignmentVector, BaseModel, Coefficient, Device, DeviceChoice, Engine, WeightType};

/// At the base, and at a point that torch has merged.
#[track_caller]
fn decoder_agrees(name: &str) {
    let folder = folder("others").join(name);
    let expected = expected_in(&folder);
    let base = BaseModel::open(&folder).unwrap();
    let vector = AlignmentVector::open(&folder.join("vector0.safetensors"), &base).unwrap();
    let device = Device::open(DeviceChoice::Cpu).unwrap();
    let coefficients = [Coefficient::whole("alpha", 0)];
    let mut engine =
        Engine::load_on(&device, None, base, vec![vector], &coefficients, WeightType::F32).unwrap();
    assert!(engine.is_slow());
    agrees(&engine, &expected.queries);
    let merged = expected.merged.as_ref().unwrap();
    engine.merge(&merged.point).unwrap();
    agrees(&engine, &merged.queries);
}

#[test]
fn the_order_of_a_configurations_fields_does_not_matter() {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder("others").join("phi")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let fingerprint = || BaseModel::open(copy.path()).unwrap().fingerprint().to_owned();
    let before = fingerprint();
    change_config(copy.path(), |config| {
        let fields = std::mem::take(config.as_object_mut().unwrap());
        *config = fields.into_iter().rev().collect();
    });
    assert_eq!(fingerprint(), before);
    change_config(copy.path(), |config| config["layer_norm_eps"] = 2e-5.into());
    assert_ne!(fingerprint(), before);
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
            let copy = tempfile::tempdir().unwrap();
            for file in std::fs::read_dir(folder("others").join(name)).unwrap() {
                let file = file.unwrap();
                std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
            }
            let mut before = 0;
            change_config(copy.path(), |config| {
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
