//! A base model: weights that can be merged, and the text side that makes queries of them.

use super::config::ModelConfig;
use super::weights::ModelWeights;
use crate::EngineError;
use crate::files::StoredTensor;
use crate::text::ChatText;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// An opened, checked base model. Cloning is cheap: weights stay mapped and shared.
#[derive(Clone)]
pub struct BaseModel {
    pub(crate) weights: Arc<ModelWeights>,
    pub(crate) text: Arc<ChatText>,
    fingerprint: Arc<OnceLock<String>>,
}

impl BaseModel {
    /// Opens a Hugging Face folder: `config.json`, `tokenizer.json`, a chat template, and safetensors weights.
    ///
    /// # Errors
    /// Every [`EngineError`] about files, fields and tensors: an unsupported architecture, a missing, misshapen,
    /// duplicate or non-finite tensor, a tokenizer whose ids exceed the vocabulary, and so on.
    pub fn open(folder: &Path) -> Result<Self, EngineError> {
        let weights = ModelWeights::open(folder)?;
        let text = ChatText::open(folder, &weights.config)?;
        Ok(Self { weights: Arc::new(weights), text: Arc::new(text), fingerprint: Arc::default() })
    }

    /// The folder that the model was opened from.
    pub fn folder(&self) -> &Path {
        &self.weights.folder
    }

    /// Sizes and constants.
    pub fn config(&self) -> &ModelConfig {
        &self.weights.config
    }

    /// Number of weights (a tied output head counts once).
    pub fn parameters(&self) -> usize {
        self.weights.tensors.iter().map(StoredTensor::len).sum()
    }

    /// Tensor names, in the order in which the engine goes through them.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.weights.layout.tensors.iter().map(|spec| spec.name.as_str())
    }

    /// blake3 over what decides the model's answers: sizes and constants, tokenizer, chat template, stop tokens,
    /// and names, shapes, types and bytes of the weights. How the weights are split into files does not matter.
    /// Computed on first use; 64 hexadecimal digits.
    pub fn fingerprint(&self) -> &str {
        self.fingerprint.get_or_init(|| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(b"avsweep base 2\0");
            self.weights.config.hash_into(&mut hasher);
            hasher.update(self.text.content_hash().as_bytes());
            hasher.update(self.weights_fingerprint().as_bytes());
            hasher.finalize().to_hex().to_string()
        })
    }

    /// blake3 over the weights alone: what a delta file records about the base that it was made from.
    pub fn weights_fingerprint(&self) -> &str {
        self.weights.fingerprint()
    }
}

impl fmt::Debug for BaseModel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("BaseModel")
            .field("folder", &self.weights.folder)
            .field("config", &self.weights.config)
            .finish_non_exhaustive()
    }
}
