//! The base model: configuration, weights, tokenizer and chat template of a Hugging Face folder.

mod base;
mod config;
mod layout;
mod weights;

pub use base::BaseModel;
pub(crate) use config::CandleConfig;
pub use config::{Activation, Architecture, CandleModel, LayerAttention, ModelConfig, Rotary};
pub(crate) use layout::{HEAD, LayerNames, Layout, Rows};
pub(crate) use weights::{ModelWeights, checked_tensors, hash_tensors};
