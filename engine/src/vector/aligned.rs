//! An aligned model folder as a vector: its weights, to be taken minus the base's.

use crate::EngineError;
use crate::files::{Checkpoint, StoredTensor};
use crate::model::{ModelWeights, checked_tensors};
use std::path::Path;

/// Opens the weights of an aligned model, in the base's layout.
///
/// # Errors
/// Missing, unknown, misshapen or duplicate tensors.
pub(crate) fn open_aligned(folder: &Path, base: &ModelWeights) -> Result<Vec<StoredTensor>, EngineError> {
    checked_tensors(&base.layout, Checkpoint::open(folder)?, base.config.tied_embeddings)
}
