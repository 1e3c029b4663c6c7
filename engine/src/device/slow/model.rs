//! candle-transformers' decoders, and what they ask of a checkpoint.

use super::HELD;
use crate::EngineError;
use crate::files::StoredTensor;
use crate::model::{Architecture, CandleConfig, CandleModel, Layout, ModelConfig};
use candle_core::{D, DType, Device, Error, Result, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use candle_transformers::models::{helium, mixtral, olmo2, phi, starcoder2};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A decoder with its cache. Cloning shares the weights.
#[derive(Clone)]
pub(super) enum Model {
    Phi(phi::Model),
    Starcoder2(starcoder2::Model),
    Olmo2(olmo2::Model),
    Helium(helium::Model),
    Mixtral(mixtral::Model),
}

impl Model {
    pub(super) fn load(config: &CandleConfig, weights: VarBuilder<'_>) -> Result<Self> {
        Ok(match config {
            CandleConfig::Phi(config) => Self::Phi(phi::Model::new(config, weights)?),
            CandleConfig::Starcoder2(config) => Self::Starcoder2(starcoder2::Model::new(config, weights)?),
            CandleConfig::Olmo2(config) => Self::Olmo2(olmo2::Model::new(config, weights)?),
            CandleConfig::Helium(config) => Self::Helium(helium::Model::new(config, weights)?),
            CandleConfig::Mixtral(config) => Self::Mixtral(mixtral::Model::new(config, weights)?),
        })
    }

    /// Takes tokens in, `[batch, tokens]`, after `seen` earlier ones; logits after the last in f32,
    /// `[batch, vocabulary]`.
    pub(super) fn forward(&mut self, tokens: &Tensor, seen: usize) -> Result<Tensor> {
        let logits = match self {
            Self::Phi(model) => model.forward(tokens)?,
            Self::Starcoder2(model) => model.forward(tokens, seen)?,
            Self::Olmo2(model) => model.forward(tokens, seen)?,
            Self::Helium(model) => model.forward(tokens, seen)?,
            Self::Mixtral(model) => model.forward(tokens, seen)?,
        };
        let width = logits.dim(D::Minus1)?;
        logits.reshape((tokens.dim(0)?, width))?.to_dtype(DType::F32)
    }
}

/// What a decoder's tables of rotations take: cosines and sines at every position.
pub(super) struct Tables {
    /// Bytes of all that it keeps.
    pub(super) kept: usize,
    /// Bytes that come on top while one pair is made.
    pub(super) making: usize,
}

impl Tables {
    pub(super) fn of(config: &ModelConfig) -> Self {
        let pairs = config.rotaries.first().map_or(0, |rotary| rotary.frequencies.len());
        let (sets, columns) = match config.architecture {
            Architecture::Candle(CandleModel::Phi) => (config.layers, pairs),
            Architecture::Candle(CandleModel::Starcoder2 | CandleModel::Mixtral) => (1, 2 * pairs),
            _ => (1, pairs),
        };
        let kept = sets * 2 * config.context * columns * HELD.size_in_bytes();
        // Positions, and their angles, once more twice as wide or as what they become.
        let making = config.context * (2 + 3 * pairs) * size_of::<f32>();
        Self { kept, making }
    }
}

/// Checks the tensors of a checkpoint that candle-transformers is to decode: those that the decoder asks for are
/// there and have their shapes, and no other is. `layout` names the tensors, in their order.
///
/// # Errors
/// [`EngineError::MissingTensor`], [`EngineError::Shape`] or [`EngineError::UnknownTensor`]; [`EngineError::Field`] for
/// a configuration that the decoder refuses.
pub(crate) fn check_tensors(
    folder: &Path,
    config: &ModelConfig,
    layout: &Layout,
    tensors: &[StoredTensor],
) -> std::result::Result<(), EngineError> {
    let Some((model, text)) = config.candle_model() else { return Ok(()) };
    let refused = |reason: String| EngineError::Field {
        path: folder.join("config.json"),
        field: "(the whole file)".to_owned(),
        found: format!("refused: {reason}"),
        wanted: "the fields of its architecture".to_owned(),
    };
    let config = CandleConfig::parse_with_one_position(model, text);
    let config = config.map_err(|error| refused(error.to_string()))?;
    let stored = tensors
        .iter()
        .map(|tensor| Stored { path: tensor.path.to_path_buf(), shape: tensor.shape.clone(), asked: false })
        .collect();
    let found = Arc::new(Mutex::new(Found { stored, complaint: None }));
    let asking = Asking { folder: folder.to_path_buf(), layout: layout.clone(), found: Arc::clone(&found) };
    let weights = VarBuilder::from_backend(Box::new(asking), DType::F32, Device::Cpu);
    let loaded = Model::load(&config, weights).map(drop);
    let Found { stored, complaint } = &mut *found.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(complaint) = complaint.take() {
        return Err(complaint);
    }
    loaded.map_err(|error| refused(error.to_string()))?;
    match stored.iter().position(|tensor| !tensor.asked) {
        None => Ok(()),
        Some(index) => Err(EngineError::UnknownTensor {
            path: stored[index].path.clone(),
            tensor: layout.tensors[index].name.clone(),
            example: layout.example().to_owned(),
        }),
    }
}

/// Stands in for weights while a decoder is built of them: tensors of the shapes asked for that take no memory.
struct Asking {
    folder: PathBuf,
    layout: Layout,
    found: Arc<Mutex<Found>>,
}

/// What was found out.
struct Found {
    /// In the layout's order.
    stored: Vec<Stored>,
    /// The first thing that is wrong.
    complaint: Option<EngineError>,
}

struct Stored {
    path: PathBuf,
    shape: Vec<usize>,
    asked: bool,
}

impl SimpleBackend for Asking {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let Found { stored, complaint } = &mut *found;
        let wrong = match self.layout.position(name) {
            None => EngineError::MissingTensor {
                path: self.folder.clone(),
                tensor: name.to_owned(),
                wanted: shape.dims().to_vec(),
            },
            Some(index) if stored[index].shape == shape.dims() => {
                stored[index].asked = true;
                return Tensor::zeros((), dtype, device)?.broadcast_as(shape);
            }
            Some(index) => EngineError::Shape {
                path: stored[index].path.clone(),
                tensor: name.to_owned(),
                found: stored[index].shape.clone(),
                wanted: shape.dims().to_vec(),
            },
        };
        complaint.get_or_insert(wrong);
        Err(Error::CannotFindTensor { path: name.to_owned() })
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let index = self.layout.position(name);
        let index = index.ok_or_else(|| Error::CannotFindTensor { path: name.to_owned() })?;
        let shape = Shape::from_dims(&self.layout.tensors[index].shape);
        self.get(shape, name, Init::Const(0.0), dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.layout.position(name).is_some()
    }
}
