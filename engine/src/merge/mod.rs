//! Merging: `merged = cast(base + Σ cᵢ·AVᵢ)`, always from the base.

mod candle;
mod coefficient;
mod export;
mod pattern;
mod source;

pub(crate) use candle::CandleSource;
pub(crate) use coefficient::MergePlan;
pub use coefficient::{Coefficient, check_coefficients};
pub use export::{MergedModel, merge_to_folder};
pub(crate) use source::MergingSource;
