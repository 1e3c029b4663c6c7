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
