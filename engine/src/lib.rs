//! Reads weights, builds alignment vectors, merges, scores and generates.
//!
//! ```text
//! BaseModel ──┐
//! AlignmentVector … ──┴► Engine ── merge(point) ──► score(prepared) · generate(prepared)
//! ```
//!
//! - `model`, `files`, `text`: a Hugging Face folder, parsed and checked whole before anything is computed.
//! - `vector`: alignment vectors as delta files, aligned folders or LoRA adapters; extracting and inspecting them.
//! - `merge`: `cast(base + Σ cᵢ·AVᵢ)`, always from the base (law 1), read piece by piece by whoever needs weights.
//! - `decoder`, `kernels`: the forward pass on CPU over packed token forests.
//! - `device`: the same over candle tensors, for CUDA.
//! - `memory`: how much of it there is, and what stays there.
//! - `run`: the engine at a point.
//!
//! Everything is synchronous. Results depend on weights, point, item and settings, and on the kind of device; never
//! on threads or earlier points, nor, on CPU, on batch composition.

mod decoder;
mod device;
mod error;
mod files;
mod kernels;
mod memory;
mod merge;
mod model;
mod run;
mod text;
mod vector;

pub use device::{Device, DeviceChoice};
pub use error::{EngineError, ItemError};
pub use memory::{ByteSize, GenerationPlan, HOST_SHARE, MemoryUse, peak_host_memory};
pub use merge::{Coefficient, MergedModel, check_coefficients, merge_to_folder};
pub use model::{Activation, Architecture, BaseModel, CandleModel, LayerAttention, ModelConfig, Rotary};
pub use run::{
    Engine, FinishReason, Generation, PreparedPrompts, PreparedScores, PromptItem, ReferenceScore, Sampling,
    ScoreItem, WeightType,
};
pub use text::Message;
pub use vector::{
    AlignmentVector, DeltaType, Extracted, InspectReport, LayerNorm, TensorNorm, VectorReport, extract,
    inspect,
};
