//! The weights of a model folder, checked against its configuration.

use super::config::{Architecture, ModelConfig};
use super::layout::{EMBEDDING, HEAD, Layout};
use crate::EngineError;
use crate::device::check_tensors;
use crate::files::{Checkpoint, StoredTensor};
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Configuration and mapped tensors of a model: all that merging needs, without tokenizer and template.
pub(crate) struct ModelWeights {
    pub(crate) folder: PathBuf,
    pub(crate) config: ModelConfig,
    pub(crate) layout: Layout,
    /// In the layout's order.
    pub(crate) tensors: Vec<StoredTensor>,
    fingerprint: OnceLock<String>,
}

impl ModelWeights {
    /// Opens a folder's configuration and weights. Every tensor is there, has its shape, and is finite.
    ///
    /// # Errors
    /// Every [`EngineError`] about `config.json` and tensors.
    pub(crate) fn open(folder: &Path) -> Result<Self, EngineError> {
        let weights = Self::described(folder)?;
        weights.tensors.par_iter().try_for_each(StoredTensor::check_finite)?;
        Ok(weights)
    }

    /// As [`open`](Self::open), from the files' headers alone: no weight is read.
    pub(crate) fn described(folder: &Path) -> Result<Self, EngineError> {
        let config = ModelConfig::open(folder)?;
        let checkpoint = Checkpoint::open(folder)?;
        let layout = match config.architecture {
            Architecture::Candle(_) => Layout::stored(&checkpoint, &config)?,
            _ => Layout::of(&config),
        };
        let tensors = checked_tensors(&layout, checkpoint, config.tied_embeddings)?;
        check_tensors(folder, &config, &layout, &tensors)?;
        Ok(Self { folder: folder.to_path_buf(), config, layout, tensors, fingerprint: OnceLock::new() })
    }

    /// blake3 over names, shapes, types and bytes; computed on first use.
    pub(crate) fn fingerprint(&self) -> &str {
        self.fingerprint.get_or_init(|| hash_tensors(b"avsweep weights 1\0", &self.tensors))
    }
}

/// One hash over names and contents, tensors hashed in parallel, combined in the given order.
pub(crate) fn hash_tensors(purpose: &[u8], tensors: &[StoredTensor]) -> String {
    let hashes: Vec<blake3::Hash> = tensors.par_iter().map(StoredTensor::content_hash).collect();
    let mut hasher = blake3::Hasher::new();
    hasher.update(purpose);
    for (tensor, hash) in tensors.iter().zip(hashes) {
        hasher.update(&(tensor.name.len() as u64).to_le_bytes());
        hasher.update(tensor.name.as_bytes());
        hasher.update(hash.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// Puts a checkpoint's tensors into layout order; nothing may be missing, misshapen or left over.
pub(crate) fn checked_tensors(
    layout: &Layout,
    checkpoint: Checkpoint,
    tied: bool,
) -> Result<Vec<StoredTensor>, EngineError> {
    let Checkpoint { folder, mut tensors } = checkpoint;
    let mut ordered = Vec::with_capacity(layout.tensors.len());
    for spec in &layout.tensors {
        let tensor = tensors.remove(&spec.name).ok_or_else(|| EngineError::MissingTensor {
            path: folder.clone(),
            tensor: spec.name.clone(),
            wanted: spec.shape.clone(),
        })?;
        tensor.check_shape(&spec.shape)?;
        ordered.push(tensor);
    }
    for (name, tensor) in tensors {
        if Layout::is_derived(&name) {
            continue;
        }
        let embedding = &ordered[layout.embedding];
        // Some exporters repeat the tied embedding as the head; a head that differs belongs to an untied model.
        if tied && name == HEAD {
            if tensor.shape == embedding.shape && tensor.bytes() == embedding.bytes() {
                continue;
            }
            return Err(EngineError::Unsupported {
                path: tensor.path.to_path_buf(),
                field: HEAD.to_owned(),
                found: "a matrix of its own although config.json ties the embeddings".to_owned(),
                supported: format!("no {HEAD}, or a copy of {EMBEDDING}"),
            });
        }
        return Err(EngineError::UnknownTensor {
            path: tensor.path.to_path_buf(),
            tensor: name,
            example: layout.example().to_owned(),
        });
    }
    Ok(ordered)
}
