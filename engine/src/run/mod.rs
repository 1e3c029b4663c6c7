//! Running a model at a point: the engine, scoring, generation.

mod engine;
mod generate;
mod plan;
mod prepare;
mod sample;
mod score;
mod weight_type;

pub use engine::Engine;
#[cfg(test)]
pub(crate) use generate::results;
pub use generate::{FinishReason, Generation};
pub(crate) use generate::{Finished, ending};
pub(crate) use plan::answer_limit;
pub(crate) use prepare::{ChunkSize, PromptTokens, ScoreTokens};
pub use prepare::{PreparedPrompts, PreparedScores, PromptItem, ScoreItem};
pub(crate) use sample::Sampler;
pub use sample::Sampling;
pub use score::ReferenceScore;
pub use weight_type::WeightType;
