//! Decoders that run the slow way against transformers: numbers recorded by `goldens/others/others.py`.

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
    crate::change_config(copy.path(), |config| {
        let fields = std::mem::take(config.as_object_mut().unwrap());
        *config = fields.into_iter().rev().collect();
    });
    assert_eq!(fingerprint(), before);
    crate::change_config(copy.path(), |config| config["layer_norm_eps"] = 2e-5.into());
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
