//! Weight matrices in the layout that the matrix product reads.

/// Outputs per panel: two AVX2 registers of f32.
pub(crate) const PANEL: usize = 16;

/// A weight matrix `[outputs, inputs]` as panels of [`PANEL`] outputs, each stored `[inputs][PANEL]`.
///
/// One step of the product loads the weights of 16 outputs for one input from adjacent memory, and reading a
/// panel is one linear walk. The last panel is filled with zeros.
pub(crate) struct PackedMatrix {
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    pub(crate) data: Vec<f32>,
}

impl PackedMatrix {
    /// A matrix of zeros.
    pub(crate) fn zeros(outputs: usize, inputs: usize) -> Self {
        Self { outputs, inputs, data: vec![0.0; outputs.div_ceil(PANEL) * PANEL * inputs] }
    }

    /// The whole matrix for the product.
    pub(crate) fn view(&self) -> PackedView<'_> {
        PackedView {
            outputs: self.outputs,
            inputs: self.inputs,
            stride: PANEL * self.inputs,
            data: &self.data,
        }
    }

    /// The outputs of panels `first..last`, as a matrix of its own.
    pub(crate) fn panels(&self, first: usize, last: usize) -> PackedView<'_> {
        let width = PANEL * self.inputs;
        PackedView {
            outputs: (last * PANEL).min(self.outputs) - first * PANEL,
            inputs: self.inputs,
            stride: width,
            data: &self.data[first * width..last * width],
        }
    }

    /// Copies row `output` (the weights of one output) into `row`.
    pub(crate) fn copy_row(&self, output: usize, row: &mut [f32]) {
        let panel = &self.data[output / PANEL * PANEL * self.inputs..][..PANEL * self.inputs];
        for (value, weights) in row.iter_mut().zip(panel.as_chunks::<PANEL>().0) {
            *value = weights[output % PANEL];
        }
    }
}

/// Borrowed panels: of a [`PackedMatrix`], or with room between them.
#[derive(Clone, Copy)]
pub(crate) struct PackedView<'a> {
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    /// Elements from one panel to the next.
    pub(crate) stride: usize,
    pub(crate) data: &'a [f32],
}

/// Writes `rows` (row-major, at most [`PANEL`] rows of `inputs`) into one panel; absent rows become zeros.
pub(crate) fn pack_panel(rows: &[f32], inputs: usize, panel: &mut [f32]) {
    let count = rows.len() / inputs;
    let mut start = 0;
    #[cfg(target_arch = "x86_64")]
    if count == PANEL && super::has_avx2_fma() {
        // SAFETY: AVX2 was detected.
        start = unsafe { avx2::pack(rows, inputs, panel) };
    }
    if count < PANEL {
        panel.fill(0.0);
    }
    // Eight inputs at a time keep the reads in the same cache lines and the writes in few.
    while start < inputs {
        let width = (inputs - start).min(BLOCK);
        let weights = &mut panel[start * PANEL..(start + width) * PANEL];
        for (row, values) in rows.chunks_exact(inputs).enumerate() {
            for (column, value) in values[start..start + width].iter().enumerate() {
                weights[column * PANEL + row] = *value;
            }
        }
        start += width;
    }
}

/// Inputs that are packed together.
const BLOCK: usize = 8;

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{BLOCK, PANEL};
    use std::arch::x86_64::{
        __m256, _mm256_loadu_ps, _mm256_permute2f128_ps, _mm256_shuffle_ps, _mm256_storeu_ps,
        _mm256_unpackhi_ps, _mm256_unpacklo_ps,
    };

    /// Packs [`PANEL`] rows, [`BLOCK`] inputs at a time, and returns how many inputs that makes.
    #[target_feature(enable = "avx2")]
    pub(super) fn pack(rows: &[f32], inputs: usize, panel: &mut [f32]) -> usize {
        let blocks = inputs / BLOCK;
        for (block, weights) in panel.as_chunks_mut::<{ BLOCK * PANEL }>().0[..blocks].iter_mut().enumerate()
        {
            for half in 0..2 {
                let row = |index: usize| -> &[f32; BLOCK] {
                    rows[(half * 8 + index) * inputs + block * BLOCK..]
                        .first_chunk()
                        .expect("the block ends with the row")
                };
                // SAFETY: eight numbers are read from an array of eight.
                let rows: [__m256; 8] =
                    std::array::from_fn(|index| unsafe { _mm256_loadu_ps(row(index).as_ptr()) });
                for (column, values) in transposed(rows).into_iter().enumerate() {
                    let target: &mut [f32; 8] = (&mut weights[column * PANEL + half * 8..][..8])
                        .try_into()
                        .expect("half a panel has eight outputs");
                    // SAFETY: eight numbers are written to an array of eight.
                    unsafe { _mm256_storeu_ps(target.as_mut_ptr(), values) };
                }
            }
        }
        blocks * BLOCK
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn transposed(rows: [__m256; 8]) -> [__m256; 8] {
        let [a, b, c, d, e, f, g, h] = rows;
        // Pairs of rows, then fours, then both halves of the registers.
        let (ab, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let (cd, cd_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        let (ef, ef_high) = (_mm256_unpacklo_ps(e, f), _mm256_unpackhi_ps(e, f));
        let (gh, gh_high) = (_mm256_unpacklo_ps(g, h), _mm256_unpackhi_ps(g, h));
        let upper = [
            _mm256_shuffle_ps::<0x44>(ab, cd),
            _mm256_shuffle_ps::<0xee>(ab, cd),
            _mm256_shuffle_ps::<0x44>(ab_high, cd_high),
            _mm256_shuffle_ps::<0xee>(ab_high, cd_high),
        ];
        let lower = [
            _mm256_shuffle_ps::<0x44>(ef, gh),
            _mm256_shuffle_ps::<0xee>(ef, gh),
            _mm256_shuffle_ps::<0x44>(ef_high, gh_high),
            _mm256_shuffle_ps::<0xee>(ef_high, gh_high),
        ];
        [
            _mm256_permute2f128_ps::<0x20>(upper[0], lower[0]),
            _mm256_permute2f128_ps::<0x20>(upper[1], lower[1]),
            _mm256_permute2f128_ps::<0x20>(upper[2], lower[2]),
            _mm256_permute2f128_ps::<0x20>(upper[3], lower[3]),
            _mm256_permute2f128_ps::<0x31>(upper[0], lower[0]),
            _mm256_permute2f128_ps::<0x31>(upper[1], lower[1]),
            _mm256_permute2f128_ps::<0x31>(upper[2], lower[2]),
            _mm256_permute2f128_ps::<0x31>(upper[3], lower[3]),
        ]
    }
}
