//! Alignment vectors: opened and checked, extracted from an aligned model, inspected.

mod aligned;
mod delta;
mod extract;
mod inspect;
mod open;

pub use extract::{DeltaType, Extracted, extract};
pub use inspect::{InspectReport, LayerNorm, TensorNorm, VectorReport, inspect};
pub use open::AlignmentVector;
