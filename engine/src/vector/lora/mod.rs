//! A PEFT LoRA adapter folder as a vector: `scale · B·A` per module, and modules saved whole.
//!
//! The factors stay factors; rows of a product exist only while they are merged. Which module has which rank and scale
//! follows PEFT's rules ([`config`], [`names`]); the file must hold exactly the tensors that those rules ask for.

mod config;
mod names;

pub(crate) use config::CONFIG;

use self::config::AdapterConfig;
use crate::EngineError;
use crate::files::{StoredTensor, TensorFile};
use crate::kernels::LowRank;
use crate::model::{HEAD, ModelWeights};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The adapter's weights.
const WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT puts before the name of every tensor.
const PREFIX: &str = "base_model.model.";

/// An adapter, in the base's layout.
pub(crate) struct Lora {
    /// Per layout tensor what the adapter does to it; `None` where nothing.
    pub(crate) deltas: Vec<Option<LoraDelta>>,
    /// Every tensor of the file, by name.
    pub(crate) stored: Vec<StoredTensor>,
}

/// What an adapter does to a tensor.
pub(crate) enum LoraDelta {
    /// Adds `scale · left · right`.
    Product(Factors),
    /// Puts another in its place; the delta is that one minus the base's.
    Saved(StoredTensor),
}

/// A product's factors, in f32.
pub(crate) struct Factors {
    left: Vec<f32>,
    right: Vec<f32>,
    rank: usize,
    columns: usize,
    scale: f32,
}

impl Factors {
    /// The product.
    pub(crate) fn product(&self) -> LowRank<'_> {
        let Self { left, right, rank, columns, scale } = self;
        LowRank { left, right, rank: *rank, columns: *columns, scale: *scale }
    }
}

impl Lora {
    /// Opens an adapter against a base.
    ///
    /// # Errors
    /// Those of the configuration; missing, unknown, misshapen and non-finite tensors;
    /// [`EngineError::AdapterTensor`] for tensors that cannot be merged into this base.
    pub(crate) fn open(folder: &Path, base: &ModelWeights) -> Result<Self, EngineError> {
        let config = AdapterConfig::open(folder)?;
        let path = folder.join(WEIGHTS);
        if !path.is_file() {
            return Err(EngineError::MissingFile {
                path: folder.to_path_buf(),
                wanted: format!("{WEIGHTS} (PEFT writes it with safe_serialization=True)"),
            });
        }
        let file = TensorFile::open(&path)?;
        let stored: Vec<StoredTensor> = file.tensors.values().cloned().collect();
        let mut reader = Reader { path, base, config: &config, tensors: file.tensors };
        let tied = base.layout.head == base.layout.embedding;
        let mut deltas = Vec::with_capacity(base.layout.tensors.len());
        for index in 0..base.layout.tensors.len() {
            deltas.push(reader.delta(index, tied)?);
        }
        if deltas.iter().all(Option::is_none) && reader.tensors.is_empty() {
            return Err(config.selects_nothing(base.layout.example().trim_end_matches(".weight")));
        }
        reader.refuse_rest()?;
        Ok(Self { deltas, stored })
    }

    /// The scales of all products, in the layout's order, for the fingerprint.
    pub(crate) fn scales(&self) -> impl Iterator<Item = (usize, f32)> {
        self.deltas.iter().enumerate().filter_map(|(index, delta)| match delta {
            Some(LoraDelta::Product(factors)) => Some((index, factors.scale)),
            _ => None,
        })
    }
}

/// Takes an adapter's tensors one after the other; what is left over in the end belongs to nothing.
struct Reader<'a> {
    path: PathBuf,
    base: &'a ModelWeights,
    config: &'a AdapterConfig,
    tensors: BTreeMap<String, StoredTensor>,
}

impl Reader<'_> {
    fn delta(&mut self, index: usize, tied: bool) -> Result<Option<LoraDelta>, EngineError> {
        let spec = &self.base.layout.tensors[index];
        let is_embedding = index == self.base.layout.embedding;
        if is_embedding && tied {
            self.check_tied_head()?;
        }
        if self.config.saves(&spec.name) {
            let saved = self.take(&format!("{PREFIX}{}", spec.name), &spec.shape)?;
            return Ok(Some(LoraDelta::Saved(saved)));
        }
        let (Some(module), &[rows, columns]) = (spec.name.strip_suffix(".weight"), &spec.shape[..]) else {
            return Ok(None);
        };
        if !self.config.targets(module) {
            return Ok(None);
        }
        if is_embedding && tied {
            return Err(self.problem(
                &format!("{PREFIX}{module}.lora_embedding_A"),
                "changes an embedding that is the base's output head too, which PEFT does not adapt with it",
            ));
        }
        let (rank, scale) = self.config.rank_and_scale(module);
        let (left, right) = if is_embedding {
            let a = self.take(&format!("{PREFIX}{module}.lora_embedding_A"), &[rank, rows])?;
            let b = self.take(&format!("{PREFIX}{module}.lora_embedding_B"), &[columns, rank])?;
            (transposed(&a), transposed(&b))
        } else {
            let a = self.take(&format!("{PREFIX}{module}.lora_A.weight"), &[rank, columns])?;
            let b = self.take(&format!("{PREFIX}{module}.lora_B.weight"), &[rows, rank])?;
            (values(&b), values(&a))
        };
        // Written along with adapted embeddings; PEFT puts it into the base's place.
        let copy = format!("{PREFIX}{module}.base_layer.weight");
        if self.tensors.contains_key(&copy) {
            let copy = self.take(&copy, &spec.shape)?;
            if !copy.has_the_numbers_of(&self.base.tensors[index]) {
                return Err(self
                    .problem(&copy.name, "differs from the base's own, so the adapter is for another base"));
            }
        }
        Ok(Some(LoraDelta::Product(Factors { left, right, rank, columns, scale })))
    }

    /// A head that is the embedding can only be what the embedding becomes.
    fn check_tied_head(&mut self) -> Result<(), EngineError> {
        let head = format!("{PREFIX}{HEAD}");
        let module = HEAD.trim_end_matches(".weight");
        let embedding = &self.base.layout.tensors[self.base.layout.embedding];
        if self.config.targets(module) {
            let tensor = format!("{PREFIX}{module}.lora_A.weight");
            return Err(self.problem(
                &tensor,
                "changes an output head that is the base's embedding too, which PEFT does not adapt with it",
            ));
        }
        let saves_embedding = self.config.saves(&embedding.name);
        let saves_head = self.config.saves(HEAD);
        if !saves_embedding && !saves_head
            || saves_embedding && self.config.ties && !self.tensors.contains_key(&head)
        {
            return Ok(());
        }
        let both = "embedding and output head are one matrix in this base: both must be among modules_to_save, and alike";
        let name = format!("{PREFIX}{}", embedding.name);
        let (Some(own), Some(copy)) = (self.tensors.get(&name), self.tensors.get(&head)) else {
            return Err(self.problem(if saves_head { &head } else { &name }, both));
        };
        if own.bytes() != copy.bytes() {
            return Err(self.problem(&head, both));
        }
        self.tensors.remove(&head);
        Ok(())
    }

    fn take(&mut self, name: &str, shape: &[usize]) -> Result<StoredTensor, EngineError> {
        let tensor = self.tensors.remove(name).ok_or_else(|| EngineError::MissingTensor {
            path: self.path.clone(),
            tensor: name.to_owned(),
            wanted: shape.to_vec(),
        })?;
        tensor.check_shape(shape)?;
        tensor.check_finite()?;
        Ok(tensor)
    }

    fn refuse_rest(&self) -> Result<(), EngineError> {
        let Some(name) = self.tensors.keys().next() else { return Ok(()) };
        let Some(inner) = name.strip_prefix(PREFIX) else {
            return Err(
                self.problem(name, &format!("has a name that does not begin with `{PREFIX}`, as PEFT's do"))
            );
        };
        if inner.contains("lora_magnitude_vector") {
            return Err(self.problem(name, "is one of DoRA's magnitudes, and only plain LoRA is merged here"));
        }
        if inner.ends_with(".bias") {
            return Err(self.problem(
                name,
                "is a trained bias; only adapters without them (bias: none) are merged here",
            ));
        }
        let layout = &self.base.layout;
        let known = layout.tensors.iter().any(|spec| {
            let module = spec.name.trim_end_matches(".weight");
            inner.strip_prefix(module).is_some_and(|rest| rest.starts_with('.'))
        });
        if known || inner.starts_with(HEAD.trim_end_matches("weight")) {
            return Err(self.problem(
                name,
                "is not asked for by adapter_config.json (target_modules, modules_to_save and what restricts them)",
            ));
        }
        Err(EngineError::UnknownTensor {
            path: self.path.clone(),
            tensor: name.clone(),
            example: format!("{PREFIX}{}.lora_A.weight", layout.example().trim_end_matches(".weight")),
        })
    }

    fn problem(&self, tensor: &str, problem: &str) -> EngineError {
        EngineError::AdapterTensor {
            path: self.path.clone(),
            tensor: tensor.to_owned(),
            problem: problem.to_owned(),
        }
    }
}

fn values(tensor: &StoredTensor) -> Vec<f32> {
    let mut values = vec![0.0; tensor.len()];
    tensor.read(0, &mut values);
    values
}

fn transposed(tensor: &StoredTensor) -> Vec<f32> {
    let rows = values(tensor);
    let (height, width) = (tensor.shape[0], tensor.shape[1]);
    (0..width)
        .flat_map(|column| (0..height).map(move |row| (row, column)))
        .map(|(row, column)| rows[row * width + column])
        .collect()
}
