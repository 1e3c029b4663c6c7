//! Extracting a delta file from a base and an aligned model, piece by piece.

use super::delta::{BASE_KEY, FORMAT, FORMAT_KEY, UNCHANGED_KEY, UNCHANGED_OMITTED};
use super::open::AlignmentVector;
use crate::EngineError;
use crate::files::{StoredType, TensorHeader, TensorWriter};
use crate::model::ModelWeights;
use std::path::Path;
use std::sync::Arc;

/// Elements that are subtracted and written together.
const PIECE: usize = 1 << 18;

/// The type that deltas are stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeltaType {
    /// Exact: f32 differences.
    #[default]
    F32,
    /// Half the size, differences rounded to bf16.
    Bf16,
}

/// What an extraction wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extracted {
    /// Tensors in the file.
    pub changed_tensors: usize,
    /// Tensors left out because nothing changed in them.
    pub unchanged_tensors: usize,
    /// Weights in the file.
    pub elements: usize,
}

/// Writes `aligned − base` to a new safetensors file, f32 by default. `aligned` is an aligned model's folder, or a LoRA
/// adapter's, whose products are then written out.
///
/// Tensors that did not change are left out, which the file's metadata says, next to the fingerprint of the
/// base's weights. Weights are mapped, not loaded: the memory used is a few megabytes, whatever the model's size.
/// The file appears under its name when it is whole.
///
/// # Errors
/// [`EngineError::NotEmpty`] when `out` exists; those of opening the two models.
pub fn extract(base: &Path, aligned: &Path, out: &Path, dtype: DeltaType) -> Result<Extracted, EngineError> {
    if out.exists() {
        return Err(EngineError::NotEmpty { path: out.to_path_buf() });
    }
    let base = Arc::new(ModelWeights::open(base)?);
    let vector = AlignmentVector::open_against(aligned, &base)?;
    let tensors = &base.layout.tensors;
    let changed: Vec<usize> = (0..tensors.len()).filter(|&index| vector.is_changed(index)).collect();
    let stored = match dtype {
        DeltaType::F32 => StoredType::F32,
        DeltaType::Bf16 => StoredType::BF16,
    };
    let headers: Vec<TensorHeader> = changed
        .iter()
        .map(|&index| TensorHeader {
            name: tensors[index].name.clone(),
            dtype: stored,
            shape: tensors[index].shape.clone(),
        })
        .collect();
    let metadata = [
        ("format", "pt"),
        (FORMAT_KEY, FORMAT),
        (BASE_KEY, base.fingerprint()),
        (UNCHANGED_KEY, UNCHANGED_OMITTED),
    ];
    let mut writer = TensorWriter::create(out, &metadata, &headers)?;
    let mut delta = Vec::new();
    let mut elements = 0;
    for &index in &changed {
        let length = base.tensors[index].len();
        elements += length;
        for start in (0..length).step_by(PIECE) {
            delta.resize(PIECE.min(length - start), 0.0);
            vector.read(index, start, &mut delta);
            writer.append(&delta)?;
        }
        base.tensors[index].release();
        vector.release(index);
    }
    writer.finish()?;
    Ok(Extracted {
        changed_tensors: changed.len(),
        unchanged_tensors: tensors.len() - changed.len(),
        elements,
    })
}
