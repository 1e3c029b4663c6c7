//! The delta file: safetensors whose tensors are aligned − base, and what its metadata says.

use crate::EngineError;
use crate::files::{StoredTensor, TensorFile};
use crate::model::{Layout, ModelWeights};
use std::path::Path;

/// Metadata key under which a delta written by `extract` names itself.
pub(crate) const FORMAT_KEY: &str = "avsweep.format";
/// What it says there.
pub(crate) const FORMAT: &str = "delta-1";
/// Metadata key of the weights fingerprint of the base.
pub(crate) const BASE_KEY: &str = "avsweep.base_weights";
/// Metadata key that says what an absent tensor means.
pub(crate) const UNCHANGED_KEY: &str = "avsweep.unchanged";
/// An absent tensor did not change.
pub(crate) const UNCHANGED_OMITTED: &str = "omitted";

/// Opens a delta file against a base: per layout tensor its delta, or `None` where nothing changed.
///
/// # Errors
/// [`EngineError::OtherBase`] when the file says that it was made from other weights; missing, unknown, misshapen
/// and non-finite tensors.
pub(crate) fn open_delta(path: &Path, base: &ModelWeights) -> Result<Vec<Option<StoredTensor>>, EngineError> {
    let mut file = TensorFile::open(path)?;
    if let Some(found) = file.metadata.get(BASE_KEY)
        && found != base.fingerprint()
    {
        return Err(EngineError::OtherBase {
            path: path.to_path_buf(),
            found: found.clone(),
            wanted: base.fingerprint().to_owned(),
        });
    }
    let ours = file.metadata.get(FORMAT_KEY).is_some_and(|format| format == FORMAT);
    let may_omit = ours && file.metadata.get(UNCHANGED_KEY).is_some_and(|what| what == UNCHANGED_OMITTED);
    let layout = &base.layout;
    let mut deltas = Vec::with_capacity(layout.tensors.len());
    for spec in &layout.tensors {
        match file.tensors.remove(&spec.name) {
            Some(tensor) => {
                tensor.check_shape(&spec.shape)?;
                deltas.push(Some(tensor));
            }
            None if may_omit => deltas.push(None),
            None => {
                return Err(EngineError::MissingTensor {
                    path: path.to_path_buf(),
                    tensor: spec.name.clone(),
                    wanted: spec.shape.clone(),
                });
            }
        }
    }
    match file.tensors.into_keys().find(|name| !Layout::is_derived(name)) {
        None => Ok(deltas),
        Some(tensor) => {
            Err(EngineError::UnknownTensor { path: file.path, tensor, example: layout.example().to_owned() })
        }
    }
}
