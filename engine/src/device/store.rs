//! Copying rows into a cache, in place.

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, Tensor, bail};

/// Copies row `from[i]` of `source` to row `to[i]` of a contiguous destination of the same width and type. candle's
/// own scatter walks the rows one after another on CUDA.
pub(super) struct StoreRows {
    /// `[rows, width]`, contiguous.
    pub(super) source: Tensor,
    /// Rows of the source, u32 `[count]`.
    pub(super) from: Tensor,
    /// Rows of the destination, u32 `[count]`, each at most once.
    pub(super) to: Tensor,
}

impl StoreRows {
    /// Elements of a row.
    pub(super) fn width(&self) -> Result<usize> {
        self.source.dim(1)
    }

    /// Rows to copy.
    pub(super) fn count(&self) -> Result<usize> {
        if self.from.dims1()? != self.to.dims1()? {
            bail!("{} rows to copy to {} places", self.from.dims1()?, self.to.dims1()?);
        }
        self.to.dims1()
    }
}

impl InplaceOp1 for StoreRows {
    fn name(&self) -> &'static str {
        "store-rows"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("rows are stored in contiguous memory")
        };
        let (width, count) = (self.width()?, self.count()?);
        let (from, to) = (self.from.to_vec1::<u32>()?, self.to.to_vec1::<u32>()?);
        let (source, source_layout) = self.source.storage_and_layout();
        let Some((first, last)) = source_layout.contiguous_offsets() else {
            bail!("rows are stored from contiguous memory")
        };
        fn copy<T: Copy>(to: &mut [T], from: &[T], rows: impl Iterator<Item = (u32, u32)>, width: usize) {
            for (source, target) in rows {
                let (source, target) = (source as usize * width, target as usize * width);
                to[target..target + width].copy_from_slice(&from[source..source + width]);
            }
        }
        debug_assert_eq!(from.len(), count);
        let rows = from.into_iter().zip(to);
        match (storage, &*source) {
            (CpuStorage::F32(to), Storage::Cpu(CpuStorage::F32(from))) => {
                copy(&mut to[start..end], &from[first..last], rows, width);
            }
            (CpuStorage::BF16(to), Storage::Cpu(CpuStorage::BF16(from))) => {
                copy(&mut to[start..end], &from[first..last], rows, width);
            }
            (CpuStorage::F16(to), Storage::Cpu(CpuStorage::F16(from))) => {
                copy(&mut to[start..end], &from[first..last], rows, width);
            }
            _ => bail!("rows are stored between tensors of one type: f32, bf16 or f16"),
        }
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, storage: &mut candle_core::CudaStorage, layout: &Layout) -> Result<()> {
        super::cuda::store_rows(self, storage, layout)
    }
}
