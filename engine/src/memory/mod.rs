//! What a model may take of the memory: how much there is, what stays in it, what is read anew for every point.

mod host;
mod residency;
mod size;

pub(crate) use host::share_of_host;
pub use host::{HOST_SHARE, peak_host_memory};
pub(crate) use residency::{Residency, Stay, split};
pub use size::ByteSize;

/// Tokens of a query that must fit beside merged weights, prompt and answer together.
pub(crate) const SHORT_QUERY: usize = 256;

/// Where an engine keeps what, in bytes: of the device's memory where it computes on one that has its own, else of the
/// host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryUse {
    /// What weights, caches and activations may take together.
    pub budget: u64,
    /// Merged weights, a slow decoder's tables of rotations, and the factors of low-rank vectors where they are always
    /// in memory.
    pub merged: u64,
    /// Base and vectors that stay in memory.
    pub kept: u64,
    /// Base and vectors that are read from their mapped files for every point.
    pub streamed: u64,
}

impl MemoryUse {
    /// What is left to caches and activations.
    pub fn room(&self) -> u64 {
        self.budget.saturating_sub(self.merged).saturating_sub(self.kept)
    }
}

/// How prompts are answered together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct GenerationPlan {
    /// Most sequences that are decoded together.
    pub sequences: usize,
    /// Most bytes that their keys and values take together.
    pub cache: u64,
    /// Most prompt tokens that are taken in together, a longer prompt apart.
    pub prompt_tokens: usize,
}
