//! Merged weights, element range by element range: what every consumer of a point reads from.

use super::coefficient::MergePlan;
use crate::files::StoredType;
use crate::kernels::{MOST, Stored, Terms, fused_sum};
use crate::model::ModelWeights;
use crate::run::WeightType;
use crate::vector::AlignmentVector;

/// Elements that are taken through all terms before the next ones where these take several passes: their sums stay in the
/// first-level cache, so that base and vectors still come from memory once.
const BLOCK: usize = 1024;

/// The merged weights of one point. Nothing is stored: a range is computed from the base when it is asked for,
/// so that a point's weights cannot depend on what was merged before.
pub(crate) struct MergingSource<'a> {
    pub(crate) base: &'a ModelWeights,
    pub(crate) vectors: &'a [AlignmentVector],
    pub(crate) plan: &'a MergePlan,
    pub(crate) point: &'a [f32],
    pub(crate) dtype: WeightType,
}

impl MergingSource<'_> {
    /// Elements `start..start + out.len()` of a layout tensor: f32 accumulation in coefficient order, one final
    /// rounding to the sweep's type. An element does not depend on the range that it is read in.
    pub(crate) fn read(&self, tensor: usize, start: usize, out: &mut [f32]) {
        let terms = self.terms(tensor);
        let base = &self.base.tensors[tensor];
        let alike = Alike::first_of(terms.clone(), tensor, start, out.len());
        let all = alike.count == terms.clone().count();
        let round = all && self.dtype == WeightType::Bf16;
        // Mostly all of it in one pass.
        if all
            && self.dtype != WeightType::F16
            && fused_sum(base.stored(start, out.len()), alike.terms(), round, out)
        {
            return;
        }
        // A low-rank term wants whole rows, of which it computes several at a time.
        let low_rank = terms.clone().any(|(vector, _)| vector.is_low_rank(tensor));
        let block = if low_rank { out.len().max(1) } else { BLOCK };
        for (index, sums) in out.chunks_mut(block).enumerate() {
            let first = start + index * block;
            let alike = Alike::first_of(terms.clone(), tensor, first, sums.len());
            let fused = fused_sum(base.stored(first, sums.len()), alike.terms(), false, sums);
            if !fused {
                base.read(first, sums);
            }
            for (vector, factor) in terms.clone().skip(if fused { alike.count } else { 0 }) {
                vector.add_scaled(tensor, first, factor, sums);
            }
            self.dtype.round(sums);
        }
    }

    /// As [`read`](Self::read), encoded as `stored`, which rounds once more where it is narrower than the sweep's type.
    pub(crate) fn write(&self, tensor: usize, start: usize, stored: StoredType, bytes: &mut [u8]) {
        let mut sums = [0.0; BLOCK];
        for (index, bytes) in bytes.chunks_mut(BLOCK * stored.size()).enumerate() {
            let sums = &mut sums[..bytes.len() / stored.size()];
            self.read(tensor, start + index * BLOCK, sums);
            stored.encode(sums, bytes);
        }
    }

    /// The vectors that act on a tensor at this point, with their factors, in the order of the coefficients.
    fn terms(&self, tensor: usize) -> impl Iterator<Item = (&AlignmentVector, f32)> + Clone {
        self.plan
            .terms(tensor)
            .iter()
            .map(|term| (&self.vectors[term.vector], self.point[term.coefficient]))
            // A zero term leaves every (finite) sum as it is; most points of a coarse sweep have some.
            .filter(move |(vector, factor)| *factor != 0.0 && vector.acts_on(tensor))
    }
}

/// Vectors at the beginning of a sum that can be added in one pass.
struct Alike<'a> {
    vectors: [(Stored<'a>, f32); MOST],
    differences: bool,
    count: usize,
}

impl<'a> Alike<'a> {
    /// The first vectors that are stored alike, at most [`MOST`], from element `start` of a tensor on.
    fn first_of(
        terms: impl Iterator<Item = (&'a AlignmentVector, f32)>,
        tensor: usize,
        start: usize,
        length: usize,
    ) -> Self {
        let mut alike = Self { vectors: [(Stored::F16, 0.0); MOST], differences: false, count: 0 };
        for (vector, factor) in terms.take(MOST) {
            let Some((stored, difference)) = vector.stored_part(tensor, start, length) else { break };
            if alike.count == 0 {
                alike.differences = difference;
            } else if difference != alike.differences || !stored.is_like(alike.vectors[0].0) {
                break;
            }
            alike.vectors[alike.count] = (stored, factor);
            alike.count += 1;
        }
        alike
    }

    fn terms(&self) -> Terms<'a, '_> {
        Terms { vectors: &self.vectors[..self.count], differences: self.differences }
    }
}
