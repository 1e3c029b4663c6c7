//! Which stored tensors stay in memory, and which are read anew for every point.

use super::MemoryUse;
use crate::EngineError;
use crate::model::ModelWeights;
use crate::vector::{AlignmentVector, Part};

/// Of what merged weights leave, this part is for caches and activations at least.
const ROOM: u64 = 4;

/// Which tensors of base and vectors stay in memory.
#[derive(Debug)]
pub(crate) struct Residency {
    base: Vec<bool>,
    vectors: Vec<Vec<bool>>,
    kept: u64,
    streamed: u64,
}

/// What of base and vectors may stay in the memory that is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stay {
    /// Tensors; low-rank factors are there whatever is decided, and count as merged weights.
    Tensors,
    /// Tensors and factors.
    All,
    /// Nothing: merged weights are made elsewhere.
    Nothing,
}

/// How the budget is split between merged weights, what stays of base and vectors, and room for the rest.
///
/// `merged` are the merged weights, `least` what a short query takes beside them.
///
/// # Errors
/// [`EngineError::TooLarge`] when merged weights and a short query are over the budget.
pub(crate) fn split(
    base: &ModelWeights,
    vectors: &[AlignmentVector],
    (budget, merged, least): (u64, u64, u64),
    stay: Stay,
) -> Result<(Residency, MemoryUse), EngineError> {
    let factors: u64 = vectors.iter().map(AlignmentVector::factor_bytes).sum();
    let merged = merged + if stay == Stay::Tensors { factors } else { 0 };
    let Some(rest) = budget.checked_sub(merged).filter(|rest| *rest >= least) else {
        let path = base.folder.clone();
        return Err(EngineError::TooLarge { path, merged, least, budget });
    };
    let sources = if stay == Stay::Nothing { 0 } else { rest - (rest / ROOM).max(least) };
    let residency = Residency::within(base, vectors, sources, stay);
    let memory = MemoryUse { budget, merged, kept: residency.kept, streamed: residency.streamed };
    Ok((residency, memory))
}

impl Residency {
    /// Keeps nothing.
    pub(crate) fn nothing(base: &ModelWeights, vectors: &[AlignmentVector]) -> Self {
        Self::within(base, vectors, 0, Stay::Nothing)
    }

    /// Keeps tensors as long as `budget` bytes last: the base first, which every point reads, then the vectors in
    /// order.
    fn within(base: &ModelWeights, vectors: &[AlignmentVector], budget: u64, stay: Stay) -> Self {
        let (mut kept, mut streamed) = (0, 0);
        let mut keep = |bytes: u64| {
            let fits = kept + bytes <= budget;
            *if fits { &mut kept } else { &mut streamed } += bytes;
            fits
        };
        let base_kept = base.tensors.iter().map(|tensor| keep(tensor.bytes().len() as u64)).collect();
        let vectors = vectors
            .iter()
            .map(|vector| {
                (0..base.tensors.len())
                    .map(|tensor| match vector.part(tensor) {
                        Part::Unchanged => true,
                        Part::Delta(stored) | Part::Aligned(stored) => keep(stored.bytes().len() as u64),
                        Part::LowRank(product) => stay == Stay::Tensors || keep(product.bytes()),
                    })
                    .collect()
            })
            .collect();
        Self { base: base_kept, vectors, kept, streamed }
    }

    /// Whether everything stays.
    pub(crate) fn keeps_all(&self) -> bool {
        self.streamed == 0
    }

    /// Whether a base tensor stays.
    pub(crate) fn keeps_base(&self, tensor: usize) -> bool {
        self.base[tensor]
    }

    /// Whether a vector's tensor stays.
    pub(crate) fn keeps_vector(&self, vector: usize, tensor: usize) -> bool {
        self.vectors[vector][tensor]
    }

    /// Lets go of the mapped memory of a tensor that is not to stay, after a point has read it.
    pub(crate) fn release(&self, base: &ModelWeights, vectors: &[AlignmentVector], tensor: usize) {
        if !self.base[tensor] {
            base.tensors[tensor].release();
        }
        for (vector, kept) in vectors.iter().zip(&self.vectors) {
            if !kept[tensor] {
                vector.release(tensor);
            }
        }
    }
}
