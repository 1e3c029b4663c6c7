//! Law 1: a point's weights come from the base alone.

use crate::SMALL;
use crate::common::{RandomFamily, random_weights, write_tensors};
use avsweep_engine::{
    AlignmentVector, BaseModel, Coefficient, Engine, MergedModel, WeightType, merge_to_folder,
};
use std::path::Path;

fn open(family: &RandomFamily, coefficients: &[Coefficient], dtype: WeightType) -> Engine {
    let base = BaseModel::open(&family.base).unwrap();
    let vectors = family.vectors.iter().map(|path| AlignmentVector::open(path, &base).unwrap()).collect();
    Engine::load(base, vectors, coefficients, dtype).unwrap()
}

fn three() -> Vec<Coefficient> {
    (0..3).map(|index| Coefficient::whole(format!("c{index}"), index)).collect()
}

fn logits(engine: &Engine) -> Vec<Vec<f32>> {
    engine.logits(&[1, 5, 77, 9, 2, 30]).unwrap()
}

#[test]
fn a_point_does_not_depend_on_the_points_before_it() {
    let family = RandomFamily::new(&SMALL, 3);
    for dtype in [WeightType::F32, WeightType::Bf16, WeightType::F16] {
        let mut wandering = open(&family, &three(), dtype);
        for point in [[1.0, -1.0, 0.5], [0.0, 0.0, 0.0], [-3.0, 2.0, 0.1], [0.3, 0.0, -0.7]] {
            wandering.merge(&point).unwrap();
            let mut fresh = open(&family, &three(), dtype);
            fresh.merge(&point).unwrap();
            assert_eq!(logits(&wandering), logits(&fresh), "{point:?} in {dtype:?}");
        }
    }
}

#[test]
fn the_origin_is_the_base() {
    let family = RandomFamily::new(&SMALL, 3);
    let base =
        Engine::load(BaseModel::open(&family.base).unwrap(), Vec::new(), &[], WeightType::F32).unwrap();
    let mut engine = open(&family, &three(), WeightType::F32);
    assert_eq!(logits(&engine), logits(&base));
    engine.merge(&[1.0, 1.0, 1.0]).unwrap();
    assert_ne!(logits(&engine), logits(&base));
    engine.merge(&[0.0, 0.0, 0.0]).unwrap();
    assert_eq!(logits(&engine), logits(&base));
}

/// What a bf16 sweep computes with is the rounded point, whose numbers need half the memory.
#[test]
fn weights_of_16_bits_give_the_bits_that_the_same_numbers_give_in_32() {
    for tied in [true, false] {
        // Odd numbers of inputs, too, which do not go in pairs.
        let shape = crate::common::Shape { tied, inner: 51, ..SMALL };
        let family = RandomFamily::new(&shape, 3);
        let mut narrow = open(&family, &three(), WeightType::Bf16);
        narrow.merge(&[0.7, -0.2, 1.3]).unwrap();
        let mut bytes = Vec::new();
        let rounded: Vec<_> = shape
            .tensors()
            .into_iter()
            .map(|(name, dimensions)| {
                narrow.merged_tensor(&name, &mut bytes).unwrap();
                let widened = |raw: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*raw)) << 16);
                (name, dimensions, bytes.as_chunks::<2>().0.iter().map(widened).collect())
            })
            .collect();
        write_tensors(&family.base.join("model.safetensors"), &rounded);
        let wide = open(&RandomFamily { vectors: Vec::new(), ..family }, &[], WeightType::F32);
        assert_eq!(logits(&narrow), logits(&wide));
        let share = narrow.memory().merged as f64 / wide.memory().merged as f64;
        assert!((0.5..0.52).contains(&share), "{share}");
    }
}

/// The merge done here, tensor by tensor, written as a model of its own.
#[test]
fn a_merge_is_the_sum_in_coefficient_order() {
    let family = RandomFamily::new(&SMALL, 3);
    let point = [0.37_f64, -1.2, 0.05];
    let mut sum = random_weights(&SMALL, 1, 1.0);
    for (seed, factor) in [100, 101, 102].into_iter().zip(point) {
        for ((_, _, sum), (_, _, delta)) in sum.iter_mut().zip(random_weights(&SMALL, seed, 0.1)) {
            sum.iter_mut().zip(delta).for_each(|(sum, delta)| *sum += factor as f32 * delta);
        }
    }
    let by_hand = RandomFamily::new(&SMALL, 0);
    write_tensors(&by_hand.base.join("model.safetensors"), &sum);
    let mut engine = open(&family, &three(), WeightType::F32);
    engine.merge(&point).unwrap();
    assert_eq!(logits(&engine), logits(&open(&by_hand, &[], WeightType::F32)));
}

#[test]
fn a_restricted_coefficient_leaves_other_tensors_alone() {
    let family = RandomFamily::new(&SMALL, 1);
    let layers = |pattern: &str, name: &str| Coefficient {
        name: name.to_owned(),
        vector: 0,
        tensors: Some(vec![pattern.to_owned()]),
    };
    let split = [layers("model.layers.0.*", "first"), layers("model.layers.{1..9}.*", "rest")];
    let outside = Coefficient {
        name: "outside".to_owned(),
        vector: 0,
        tensors: Some(vec![
            "model.embed_tokens.*".to_owned(),
            "model.norm.*".to_owned(),
            "lm_head.*".to_owned(),
        ]),
    };
    let mut parts = open(&family, &[split[0].clone(), split[1].clone(), outside], WeightType::F32);
    let mut whole = open(&family, &[Coefficient::whole("all", 0)], WeightType::F32);
    parts.merge(&[0.5, 0.5, 0.5]).unwrap();
    whole.merge(&[0.5]).unwrap();
    assert_eq!(logits(&parts), logits(&whole));
    parts.merge(&[0.5, 0.0, 0.0]).unwrap();
    assert_ne!(logits(&parts), logits(&whole));
    parts.merge(&[0.0, 0.0, 0.0]).unwrap();
    whole.merge(&[0.0]).unwrap();
    assert_eq!(logits(&parts), logits(&whole));
}

#[test]
fn an_aligned_folder_is_its_difference_to_the_base() {
    let family = RandomFamily::new(&SMALL, 1);
    let aligned = family.folder.path().join("aligned");
    merge_to_folder(&MergedModel::weighted(&family.base, &[(family.vectors[0].clone(), 1.0)]), &aligned)
        .unwrap();
    let engine = |vector: &Path| {
        let base = BaseModel::open(&family.base).unwrap();
        let vector = AlignmentVector::open(vector, &base).unwrap();
        let mut engine =
            Engine::load(base, vec![vector], &[Coefficient::whole("c", 0)], WeightType::F32).unwrap();
        engine.merge(&[0.6]).unwrap();
        logits(&engine)
    };
    // Not to the last bit: the aligned weights were rounded when they were written.
    for (ours, theirs) in engine(&aligned).iter().flatten().zip(engine(&family.vectors[0]).iter().flatten()) {
        assert!((ours - theirs).abs() < 1e-3, "{ours} against {theirs}");
    }
}

#[test]
fn an_export_keeps_ties_and_refuses_an_occupied_folder() {
    let tied = crate::common::Shape { tied: true, ..SMALL };
    let family = RandomFamily::new(&tied, 1);
    let out = family.folder.path().join("merged");
    let request = MergedModel::weighted(&family.base, &[(family.vectors[0].clone(), 0.25)]);
    merge_to_folder(&request, &out).unwrap();
    let exported = BaseModel::open(&out).unwrap();
    assert!(exported.tensor_names().all(|name| name != "lm_head.weight"));
    let mut engine = open(&family, &[Coefficient::whole("c", 0)], WeightType::F32);
    engine.merge(&[0.25]).unwrap();
    let reopened = Engine::load(exported, Vec::new(), &[], WeightType::F32).unwrap();
    assert_eq!(logits(&engine), logits(&reopened));
    let error = merge_to_folder(&request, &out).unwrap_err().to_string();
    assert!(error.contains("merged"), "{error}");
}

/// More vectors than pass together, a folder among the files: summed here one after the other.
#[test]
fn a_merge_of_many_vectors_in_different_forms_is_the_sum_in_coefficient_order() {
    let mut family = RandomFamily::new(&SMALL, 5);
    let aligned = family.folder.path().join("aligned");
    merge_to_folder(&MergedModel::weighted(&family.base, &[(family.vectors[1].clone(), 1.0)]), &aligned)
        .unwrap();
    let base = random_weights(&SMALL, 1, 1.0);
    let mut sum = base.clone();
    let point = [0.37_f64, -1.2, 0.05, 0.6, -0.2];
    for (index, factor) in point.iter().enumerate() {
        let deltas = random_weights(&SMALL, 100 + index as u64, 0.1);
        for (((_, _, sum), (_, _, delta)), (_, _, base)) in sum.iter_mut().zip(deltas).zip(&base) {
            for ((sum, delta), base) in sum.iter_mut().zip(delta).zip(base) {
                let delta = if index == 1 { (base + delta) - base } else { delta };
                *sum += *factor as f32 * delta;
            }
        }
    }
    let by_hand = RandomFamily::new(&SMALL, 0);
    write_tensors(&by_hand.base.join("model.safetensors"), &sum);
    family.vectors[1] = aligned;
    let coefficients: Vec<_> = (0..5).map(|index| Coefficient::whole(format!("c{index}"), index)).collect();
    for dtype in [WeightType::F32, WeightType::Bf16, WeightType::F16] {
        let mut engine = open(&family, &coefficients, dtype);
        engine.merge(&point).unwrap();
        assert_eq!(logits(&engine), logits(&open(&by_hand, &[], dtype)), "{dtype:?}");
    }
}

#[test]
fn a_tensor_alone_is_the_exported_models() {
    let family = RandomFamily::new(&SMALL, 3);
    let point = [0.37, -1.2, 0.05];
    let weighted: Vec<_> = family.vectors.iter().cloned().zip(point).collect();
    let out = family.folder.path().join("merged");
    merge_to_folder(&MergedModel::weighted(&family.base, &weighted), &out).unwrap();
    let file = std::fs::read(out.join("model.safetensors")).unwrap();
    let mut engine = open(&family, &three(), WeightType::F32);
    engine.merge(&point).unwrap();
    let names: Vec<String> = engine.base().tensor_names().map(str::to_owned).collect();
    let mut bytes = Vec::new();
    let mut all = Vec::new();
    for name in &names {
        engine.merged_tensor(name, &mut bytes).unwrap();
        all.extend_from_slice(&bytes);
    }
    assert!(file.ends_with(&all), "the file's data is its tensors in the engine's order");
    let error = engine.merged_tensor("lm_head.bias", &mut bytes).unwrap_err().to_string();
    assert!(error.contains("lm_head.bias"), "{error}");
}
