//! An aligned model folder as a vector: its weights, to be taken minus the base's.

use crate::EngineError;
use crate::files::{Checkpoint, JsonFile, StoredTensor};
use crate::model::{ModelWeights, checked_tensors};
use std::path::Path;

/// Opens the weights of an aligned model, in the base's layout.
///
/// A folder with `adapter_config.json` is a LoRA adapter, which is another thing.
///
/// # Errors
/// Missing, unknown, misshapen or duplicate tensors; [`EngineError::Unsupported`] for adapters.
pub(crate) fn open_aligned(folder: &Path, base: &ModelWeights) -> Result<Vec<StoredTensor>, EngineError> {
    let adapter = folder.join("adapter_config.json");
    if adapter.is_file() {
        return Err(JsonFile::open(&adapter)?.unsupported("peft_type", "whole models and delta files"));
    }
    checked_tensors(&base.layout, Checkpoint::open(folder)?, base.config.tied_embeddings)
}
