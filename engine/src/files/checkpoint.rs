//! The weights of a Hugging Face folder: one safetensors file, or shards listed in an index.

use super::json::read_json;
use super::tensor::{StoredTensor, TensorFile};
use crate::EngineError;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The single-file name that transformers writes.
const SINGLE: &str = "model.safetensors";
/// The index that transformers writes next to shards.
const INDEX: &str = "model.safetensors.index.json";

/// All tensors of a model folder, by name.
pub(crate) struct Checkpoint {
    pub(crate) folder: PathBuf,
    pub(crate) tensors: BTreeMap<String, StoredTensor>,
}

impl Checkpoint {
    /// Maps `model.safetensors`, or every shard that the index names.
    ///
    /// # Errors
    /// [`EngineError::MissingFile`] when neither is there or a shard is absent; [`EngineError::DuplicateTensor`]
    /// when two shards hold one name; [`EngineError::MissingTensor`] when the index promises a tensor that its
    /// shard does not hold; and the errors of [`TensorFile::open`].
    pub(crate) fn open(folder: &Path) -> Result<Self, EngineError> {
        let single = folder.join(SINGLE);
        let index = folder.join(INDEX);
        match (single.is_file(), index.is_file()) {
            (true, true) => Err(EngineError::DuplicateTensor {
                tensor: "every tensor".to_owned(),
                first: single,
                second: index,
            }),
            (true, false) => {
                Ok(Self { folder: folder.to_path_buf(), tensors: TensorFile::open(&single)?.tensors })
            }
            (false, true) => Self::open_shards(folder, &index),
            (false, false) => Err(EngineError::MissingFile {
                path: folder.to_path_buf(),
                wanted: format!("{SINGLE} or {INDEX}"),
            }),
        }
    }

    fn open_shards(folder: &Path, index: &Path) -> Result<Self, EngineError> {
        let parsed = read_json(index)?;
        let field = |found: String| EngineError::Field {
            path: index.to_path_buf(),
            field: "weight_map".to_owned(),
            found,
            wanted: "an object from tensor names to shard file names in the same folder".to_owned(),
        };
        let map = parsed
            .get("weight_map")
            .and_then(serde_json::Value::as_object)
            .ok_or_else(|| field("absent or not an object".to_owned()))?;
        let mut shard_of = BTreeMap::new();
        for (tensor, shard) in map {
            let name = shard
                .as_str()
                .filter(|name| Path::new(name).file_name().is_some_and(|file| file == *name))
                .ok_or_else(|| field(shard.to_string()))?;
            shard_of.insert(tensor.clone(), name.to_owned());
        }
        let mut tensors: BTreeMap<String, StoredTensor> = BTreeMap::new();
        for shard in shard_of.values().collect::<BTreeSet<_>>() {
            let path = folder.join(shard);
            if !path.is_file() {
                return Err(EngineError::MissingFile { path: folder.to_path_buf(), wanted: shard.clone() });
            }
            for (name, tensor) in TensorFile::open(&path)?.tensors {
                if let Some(first) = tensors.get(&name) {
                    return Err(EngineError::DuplicateTensor {
                        tensor: name,
                        first: first.path.to_path_buf(),
                        second: path,
                    });
                }
                tensors.insert(name, tensor);
            }
        }
        for (name, shard) in &shard_of {
            let held = tensors.get(name).is_some_and(|tensor| tensor.path.ends_with(shard));
            if !held {
                return Err(EngineError::MissingTensor {
                    path: folder.join(shard),
                    tensor: name.clone(),
                    wanted: Vec::new(),
                });
            }
        }
        Ok(Self { folder: folder.to_path_buf(), tensors })
    }
}
