//! Files on disk: memory-mapped safetensors, sets of shards, JSON, content hashes.

mod checkpoint;
mod json;
mod tensor;
mod writer;

pub(crate) use checkpoint::Checkpoint;
pub(crate) use json::{JsonFile, read_json, read_text};
pub(crate) use tensor::{StoredTensor, StoredType, TensorFile};
pub(crate) use writer::{TensorHeader, TensorWriter};
