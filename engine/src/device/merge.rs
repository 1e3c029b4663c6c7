//! One tensor's merge as an operation on its buffer: the arithmetic of `MergingSource`, on a device.

use crate::run::WeightType;
use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, Tensor, bail};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

/// Elements that one task merges while they are in the cache.
const BLOCK: usize = 1 << 12;

/// Most terms of one sum: what fits a kernel's parameters.
pub(super) const MOST_TERMS: usize = 128;

/// One term of the sum: factor · weights, or factor · (weights − base).
pub(super) struct MergeTerm {
    pub(super) factor: f32,
    /// One-dimensional, as long as the base's elements.
    pub(super) weights: Tensor,
    /// The weights are an aligned model's, of which the base's are taken.
    pub(super) aligned: bool,
}

/// Overwrites a contiguous one-dimensional tensor with `round(base + Σ terms)`: f32 accumulation in the order of the
/// terms, products and sums rounded one by one, one rounding at the end.
pub(super) struct MergeInto {
    /// One-dimensional, as long as the destination.
    pub(super) base: Tensor,
    pub(super) terms: Vec<MergeTerm>,
    /// What the sums are rounded to; the destination's type holds it exactly.
    pub(super) round: WeightType,
}

impl InplaceOp1 for MergeInto {
    fn name(&self) -> &'static str {
        "merge"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("merge wants contiguous weights") };
        let base = self.base.storage_and_layout();
        let guards: Vec<_> = self.terms.iter().map(|term| term.weights.storage_and_layout()).collect();
        let base = Elements::of(&base.0, base.1)?;
        let terms = self
            .terms
            .iter()
            .zip(&guards)
            .map(|(term, (storage, layout))| Ok((term.factor, Elements::of(storage, layout)?, term.aligned)))
            .collect::<Result<Vec<_>>>()?;
        let sums = |start: usize, sums: &mut [f32]| {
            base.read(start, sums);
            let (mut weights, mut origin) = ([0.0; BLOCK], [0.0; BLOCK]);
            let weights = &mut weights[..sums.len()];
            let origin = &mut origin[..sums.len()];
            for (factor, elements, aligned) in &terms {
                elements.read(start, weights);
                if *aligned {
                    base.read(start, origin);
                    weights.iter_mut().zip(&*origin).for_each(|(aligned, base)| *aligned -= base);
                }
                sums.iter_mut().zip(&*weights).for_each(|(sum, delta)| *sum += factor * delta);
            }
            self.round.round(sums);
        };
        match storage {
            CpuStorage::F32(values) => {
                let blocks = values[start..end].par_chunks_mut(BLOCK).enumerate();
                blocks.for_each(|(index, block)| sums(index * BLOCK, block));
            }
            CpuStorage::BF16(values) => {
                let blocks = values[start..end].par_chunks_mut(BLOCK).enumerate();
                blocks.for_each_init(
                    || vec![0.0; BLOCK],
                    |wide, (index, block)| {
                        sums(index * BLOCK, &mut wide[..block.len()]);
                        block.convert_from_f32_slice(&wide[..block.len()]);
                    },
                );
            }
            CpuStorage::F16(values) => {
                let blocks = values[start..end].par_chunks_mut(BLOCK).enumerate();
                blocks.for_each_init(
                    || vec![0.0; BLOCK],
                    |wide, (index, block)| {
                        sums(index * BLOCK, &mut wide[..block.len()]);
                        block.convert_from_f32_slice(&wide[..block.len()]);
                    },
                );
            }
            _ => bail!("merge wants weights of type f32, bf16 or f16"),
        }
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, storage: &mut candle_core::CudaStorage, layout: &Layout) -> Result<()> {
        super::cuda::merge(self, storage, layout)
    }
}

/// A tensor's elements in the CPU's memory.
enum Elements<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
}

impl<'a> Elements<'a> {
    fn of(storage: &'a Storage, layout: &Layout) -> Result<Self> {
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("merge wants contiguous weights") };
        match storage {
            Storage::Cpu(CpuStorage::F32(values)) => Ok(Self::F32(&values[start..end])),
            Storage::Cpu(CpuStorage::BF16(values)) => Ok(Self::Bf16(&values[start..end])),
            Storage::Cpu(CpuStorage::F16(values)) => Ok(Self::F16(&values[start..end])),
            _ => bail!("merge wants weights of type f32, bf16 or f16 on one device"),
        }
    }

    fn read(&self, start: usize, out: &mut [f32]) {
        let range = start..start + out.len();
        match self {
            Self::F32(values) => out.copy_from_slice(&values[range]),
            Self::Bf16(values) => values[range].convert_to_f32_slice(out),
            Self::F16(values) => values[range].convert_to_f32_slice(out),
        }
    }
}
