//! Running a model at a point: the engine, scoring, generation.

mod engine;
mod generate;
mod prepare;
mod sample;
mod score;
mod weight_type;

pub use engine::Engine;
pub use generate::{FinishReason, Generation};
pub use prepare::{PreparedPrompts, PreparedScores, PromptItem, ScoreItem};
pub use sample::Sampling;
pub use score::ReferenceScore;
pub use weight_type::WeightType;
