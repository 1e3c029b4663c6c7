//! Merged weights, element range by element range: what every consumer of a point reads from.

use super::coefficient::MergePlan;
use crate::model::ModelWeights;
use crate::run::WeightType;
use crate::vector::AlignmentVector;

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
    /// rounding to the sweep's type. `scratch` is reused between calls.
    pub(crate) fn read(&self, tensor: usize, start: usize, out: &mut [f32], scratch: &mut Vec<f32>) {
        self.base.tensors[tensor].read(start, out);
        for term in self.plan.terms(tensor) {
            let factor = self.point[term.coefficient];
            // A zero term leaves every (finite) sum as it is; most points of a coarse sweep have some.
            if factor != 0.0 {
                self.vectors[term.vector].add_scaled(tensor, start, factor, out, scratch);
            }
        }
        self.dtype.round(out);
    }
}
