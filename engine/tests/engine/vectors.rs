//! Extracting and inspecting vectors.

use crate::SMALL;
use crate::common::{RandomFamily, Shape, random_weights, write_companions, write_tensors};
use avsweep_engine::{
    AlignmentVector, BaseModel, Coefficient, DeltaType, Engine, WeightType, extract, inspect,
};
use std::path::{Path, PathBuf};

/// A model that differs from the family's base in two tensors.
fn aligned(family: &RandomFamily, shape: &Shape) -> PathBuf {
    let folder = family.folder.path().join("aligned");
    std::fs::create_dir(&folder).unwrap();
    write_companions(&folder, shape);
    let mut weights = random_weights(shape, 1, 1.0);
    for index in [2, 5] {
        weights[index].2.iter_mut().step_by(2).for_each(|weight| *weight += 0.125);
    }
    write_tensors(&folder.join("model.safetensors"), &weights);
    folder
}

fn logits(base: &Path, vector: &Path) -> Vec<Vec<f32>> {
    let base = BaseModel::open(base).unwrap();
    let vector = AlignmentVector::open(vector, &base).unwrap();
    let mut engine =
        Engine::load(base, vec![vector], &[Coefficient::whole("c", 0)], WeightType::F32).unwrap();
    engine.merge(&[0.75]).unwrap();
    engine.logits(&[1, 20, 30, 40]).unwrap()
}

#[test]
fn an_extracted_delta_equals_the_difference_and_leaves_out_what_did_not_change() {
    for shape in [SMALL, Shape { tied: true, ..SMALL }] {
        let family = RandomFamily::new(&shape, 0);
        let aligned = aligned(&family, &shape);
        let delta = family.folder.path().join("delta.safetensors");
        let extracted = extract(&family.base, &aligned, &delta, DeltaType::F32).unwrap();
        assert_eq!(extracted.changed_tensors, 2);
        assert_eq!(extracted.unchanged_tensors, shape.tensors().len() - 2);
        assert_eq!(logits(&family.base, &delta), logits(&family.base, &aligned));
        assert!(extract(&family.base, &aligned, &delta, DeltaType::F32).is_err(), "an existing file stays");
    }
}

#[test]
fn extraction_is_reproducible_to_the_byte() {
    let family = RandomFamily::new(&SMALL, 0);
    let aligned = aligned(&family, &SMALL);
    let write = |name: &str| {
        let path = family.folder.path().join(name);
        extract(&family.base, &aligned, &path, DeltaType::Bf16).unwrap();
        std::fs::read(path).unwrap()
    };
    assert_eq!(write("one.safetensors"), write("two.safetensors"));
}

#[test]
fn a_delta_of_another_base_is_refused() {
    let family = RandomFamily::new(&SMALL, 0);
    let aligned = aligned(&family, &SMALL);
    let delta = family.folder.path().join("delta.safetensors");
    extract(&family.base, &aligned, &delta, DeltaType::F32).unwrap();
    let error = AlignmentVector::open(&delta, &BaseModel::open(&aligned).unwrap()).unwrap_err().to_string();
    assert!(error.contains("delta.safetensors") && error.contains("base"), "{error}");
}

#[test]
fn a_report_counts_and_measures_what_changed() {
    let family = RandomFamily::new(&SMALL, 0);
    let aligned = aligned(&family, &SMALL);
    let delta = family.folder.path().join("delta.safetensors");
    extract(&family.base, &aligned, &delta, DeltaType::F32).unwrap();
    let report = inspect(Some(&family.base), &[aligned, delta.clone()]).unwrap();
    let lengths: Vec<usize> = [2, 5].map(|index| SMALL.tensors()[index].1.iter().product()).to_vec();
    let changed: usize = lengths.iter().map(|length| length.div_ceil(2)).sum();
    for vector in &report.vectors {
        assert_eq!(vector.changed_tensors, 2);
        assert_eq!(vector.tensors_total, SMALL.tensors().len());
        assert_eq!(vector.changed_elements as usize, changed);
        // Every change is 0.125, up to the rounding of the sum that was stored.
        let exact = 0.125 * (changed as f64).sqrt();
        assert!((vector.norm / exact - 1.0).abs() < 1e-5, "{} against {exact}", vector.norm);
        assert!(vector.relative_norm.unwrap() > 0.0);
        let layer = vector.layers.iter().find(|layer| layer.name == "model.layers.0").unwrap();
        assert!((layer.norm / exact - 1.0).abs() < 1e-5);
    }
    assert!((report.cosine[0][1] - 1.0).abs() < 1e-9);
    let alone = inspect(None, &[delta]).unwrap();
    assert_eq!(alone.vectors[0].relative_norm, None);
    assert!((alone.vectors[0].norm / report.vectors[1].norm - 1.0).abs() < 1e-12);
}

#[test]
fn unrelated_vectors_are_nearly_orthogonal_and_opposite_ones_are_opposite() {
    let family = RandomFamily::new(&SMALL, 2);
    let opposite = family.folder.path().join("opposite.safetensors");
    let mut weights = random_weights(&SMALL, 100, 0.1);
    weights.iter_mut().flat_map(|(_, _, values)| values).for_each(|value| *value = -*value);
    write_tensors(&opposite, &weights);
    let report = inspect(None, &[family.vectors[0].clone(), family.vectors[1].clone(), opposite]).unwrap();
    assert!(report.cosine[0][1].abs() < 0.1, "{}", report.cosine[0][1]);
    assert!((report.cosine[0][2] + 1.0).abs() < 1e-9);
}
