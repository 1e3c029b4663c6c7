//! Alignment vectors (delta files, aligned models, LoRA adapters): opened and checked, extracted, inspected.

mod aligned;
mod delta;
mod extract;
mod inspect;
mod lora;
mod open;

pub use extract::{DeltaType, Extracted, extract};
pub use inspect::{InspectReport, LayerNorm, TensorNorm, VectorReport, inspect};
pub use open::AlignmentVector;
pub(crate) use open::Part;
