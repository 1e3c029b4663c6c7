//! Extracting a delta file from a base and an aligned model, piece by piece.

use super::aligned::open_aligned;
use super::delta::{BASE_KEY, FORMAT, FORMAT_KEY, UNCHANGED_KEY, UNCHANGED_OMITTED};
use crate::EngineError;
use crate::files::{StoredTensor, StoredType, TensorHeader, TensorWriter};
use crate::model::ModelWeights;
use rayon::prelude::*;
use std::path::Path;

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

/// Writes `aligned − base` to a new safetensors file, f32 by default.
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
    let base = ModelWeights::open(base)?;
    let aligned = open_aligned(aligned, &base)?;
    aligned.par_iter().try_for_each(StoredTensor::check_finite)?;
    let changed: Vec<(&StoredTensor, &StoredTensor)> =
        aligned.iter().zip(&base.tensors).filter(|(aligned, base)| differ(aligned, base)).collect();
    let stored = match dtype {
        DeltaType::F32 => StoredType::F32,
        DeltaType::Bf16 => StoredType::BF16,
    };
    let headers: Vec<TensorHeader> = changed
        .iter()
        .map(|(tensor, _)| TensorHeader {
            name: tensor.name.to_string(),
            dtype: stored,
            shape: tensor.shape.clone(),
        })
        .collect();
    let metadata = [
        ("format", "pt"),
        (FORMAT_KEY, FORMAT),
        (BASE_KEY, base.fingerprint()),
        (UNCHANGED_KEY, UNCHANGED_OMITTED),
    ];
    let mut writer = TensorWriter::create(out, &metadata, &headers)?;
    for (aligned, base) in &changed {
        for_pieces(aligned, base, |difference| writer.append(difference))?;
    }
    writer.finish()?;
    Ok(Extracted {
        changed_tensors: changed.len(),
        unchanged_tensors: aligned.len() - changed.len(),
        elements: changed.iter().map(|(tensor, _)| tensor.len()).sum(),
    })
}

/// Calls `take` with aligned − base, piece by piece.
fn for_pieces(
    aligned: &StoredTensor,
    base: &StoredTensor,
    mut take: impl FnMut(&[f32]) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    let mut difference = vec![0.0; PIECE.min(aligned.len())];
    let mut subtrahend = difference.clone();
    for start in (0..aligned.len()).step_by(PIECE) {
        let length = PIECE.min(aligned.len() - start);
        aligned.read(start, &mut difference[..length]);
        base.read(start, &mut subtrahend[..length]);
        difference.iter_mut().zip(&subtrahend).for_each(|(aligned, base)| *aligned -= base);
        take(&difference[..length])?;
    }
    aligned.release();
    base.release();
    Ok(())
}

/// Whether any weight differs; stored types may differ between the two.
fn differ(aligned: &StoredTensor, base: &StoredTensor) -> bool {
    if aligned.dtype == base.dtype {
        let changed = aligned.bytes() != base.bytes();
        aligned.release();
        base.release();
        return changed;
    }
    let mut changed = false;
    let result = for_pieces(aligned, base, |difference| {
        changed |= difference.iter().any(|&value| value != 0.0);
        Ok(())
    });
    result.is_err() || changed
}
