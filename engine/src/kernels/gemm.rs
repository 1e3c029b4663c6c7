//! `y = x · Wᵀ` for row-major activations and packed weights.
//!
//! Register tiles of up to 6 rows × 16 outputs (AVX2: 12 accumulators), activations broadcast from where they
//! lie, weights from their panel. Blocks of [`ROWS`] rows × [`DEPTH`] inputs stay in the second-level cache
//! while every panel passes by. An element is summed over its inputs in order, in one accumulator per
//! [`DEPTH`] inputs, so its value does not depend on the tile it falls into.

use super::packed::{PANEL, PackedView};
use super::{PLAIN_FUSED, Threads, has_avx2_fma, multiply_add};
use rayon::prelude::*;
use std::ops::Range;

/// Rows of activations per block; a multiple of the tile's 6.
const ROWS: usize = 144;
/// Inputs per block.
pub(super) const DEPTH: usize = 512;

/// Computes `y[row][output] = Σ x[row][input] · W[output][input]`, or adds it to `y` when `accumulate`.
///
/// `x` is `[rows, inputs]` and `y` `[rows, outputs]`, both row-major and dense.
pub(crate) fn gemm(threads: Threads, x: &[f32], weights: PackedView<'_>, y: &mut [f32], accumulate: bool) {
    gemm_on(has_avx2_fma(), threads, x, weights, y, accumulate);
}

/// [`gemm`] with or without AVX2 and FMA, which the CPU must have if `avx2`.
fn gemm_on(
    avx2: bool,
    threads: Threads,
    x: &[f32],
    weights: PackedView<'_>,
    y: &mut [f32],
    accumulate: bool,
) {
    let rows = x.len() / weights.inputs;
    assert_eq!(x.len(), rows * weights.inputs, "activations are whole rows");
    assert_eq!(y.len(), rows * weights.outputs, "outputs are whole rows");
    let panels = weights.outputs.div_ceil(PANEL);
    assert!(weights.stride >= PANEL * weights.inputs, "panels do not overlap");
    assert!(
        panels == 0 || weights.data.len() >= (panels - 1) * weights.stride + PANEL * weights.inputs,
        "weights are whole panels"
    );
    let product = Product { x, weights, y: y.as_mut_ptr(), accumulate, avx2 };
    let blocks = rows.div_ceil(ROWS);
    let block = |index: usize| index * ROWS..((index + 1) * ROWS).min(rows);
    match threads {
        Threads::One => (0..blocks).for_each(|index| product.block(block(index), 0..panels)),
        Threads::All => {
            let groups = (4 * rayon::current_num_threads()).div_ceil(blocks.max(1)).clamp(1, panels);
            (0..blocks * groups).into_par_iter().for_each(|task| {
                let (index, group) = (task / groups, task % groups);
                product.block(block(index), group * panels / groups..(group + 1) * panels / groups);
            });
        }
    }
}

/// One product's operands; tasks write disjoint rows × panels of `y`.
struct Product<'a> {
    x: &'a [f32],
    weights: PackedView<'a>,
    y: *mut f32,
    accumulate: bool,
    avx2: bool,
}

// SAFETY: `y` points into the caller's exclusive borrow, which outlives the product, and tasks that run at the
// same time are given disjoint (row, panel) blocks of it; everything else is read only.
unsafe impl Sync for Product<'_> {}

impl Product<'_> {
    fn block(&self, rows: Range<usize>, panels: Range<usize>) {
        let inputs = self.weights.inputs;
        let mut start = 0;
        while start < inputs {
            let depth = DEPTH.min(inputs - start);
            let accumulate = self.accumulate || start > 0;
            self.panels(rows.clone(), panels.clone(), start, depth, accumulate);
            start += depth;
        }
    }

    fn panels(&self, rows: Range<usize>, panels: Range<usize>, start: usize, depth: usize, accumulate: bool) {
        // With few rows several panels at a time keep enough accumulators in flight to hide the latency.
        let together = match rows.len() {
            1 => 4,
            2 | 3 => 2,
            _ => 1,
        };
        let mut panel = panels.start;
        while panel < panels.end {
            let count = if panel + together <= panels.end { together } else { 1 };
            let place = Place { panel, start, depth, accumulate };
            let mut row = rows.start;
            while row < rows.end {
                let height = (rows.end - row).min(6);
                match (height, count) {
                    (1, 4) => self.tile::<1, 4>(row, place),
                    (1, _) => self.tile::<1, 1>(row, place),
                    (2, 2) => self.tile::<2, 2>(row, place),
                    (2, _) => self.tile::<2, 1>(row, place),
                    (3, 2) => self.tile::<3, 2>(row, place),
                    (3, _) => self.tile::<3, 1>(row, place),
                    (4, _) => self.tile::<4, 1>(row, place),
                    (5, _) => self.tile::<5, 1>(row, place),
                    _ => self.tile::<6, 1>(row, place),
                }
                row += height;
            }
            panel += count;
        }
    }

    /// Computes `M` rows from `row` on for `P` panels.
    #[inline]
    fn tile<const M: usize, const P: usize>(&self, row: usize, place: Place) {
        let Place { panel, start, depth, accumulate } = place;
        let (inputs, outputs) = (self.weights.inputs, self.weights.outputs);
        let mut x: [&[f32]; M] = [&[]; M];
        for (offset, x) in x.iter_mut().enumerate() {
            *x = &self.x[(row + offset) * inputs + start..][..depth];
        }
        let mut weights: [&[[f32; PANEL]]; P] = [&[]; P];
        for (offset, weights) in weights.iter_mut().enumerate() {
            let first = (panel + offset) * self.weights.stride + start * PANEL;
            *weights = self.weights.data[first..][..depth * PANEL].as_chunks().0;
        }
        let first = panel * PANEL;
        let width = (outputs - first).min(P * PANEL);
        // SAFETY: row < rows and first < outputs, so the offset lies inside `y`.
        let y = unsafe { self.y.add(row * outputs + first) };
        if width == P * PANEL {
            // SAFETY: M rows from `row` on and P whole panels from `panel` on lie inside the caller's exclusive
            // borrow, and no other task has them.
            unsafe { sum_tile(self.avx2, &x, &weights, Output { y, stride: outputs, accumulate }) };
            return;
        }
        // The last panel hangs over the last output: computed aside.
        let mut edge = [[[0.0_f32; PANEL]; P]; M];
        let output = Output {
            y: edge.as_flattened_mut().as_flattened_mut().as_mut_ptr(),
            stride: P * PANEL,
            accumulate: false,
        };
        // SAFETY: `edge` has M rows of P panels.
        unsafe { sum_tile(self.avx2, &x, &weights, output) };
        for (offset, edge) in edge.iter().enumerate() {
            // SAFETY: `width` outputs from `first` on end with the row.
            let y = unsafe { std::slice::from_raw_parts_mut(y.add(offset * outputs), width) };
            for (y, sum) in y.iter_mut().zip(edge.as_flattened()) {
                *y = if accumulate { *y + sum } else { *sum };
            }
        }
    }
}

/// Which panels and inputs a tile covers.
#[derive(Clone, Copy)]
struct Place {
    panel: usize,
    start: usize,
    depth: usize,
    accumulate: bool,
}

/// Where a tile's sums go: rows of whole panels at `stride`.
#[derive(Clone, Copy)]
struct Output {
    y: *mut f32,
    stride: usize,
    accumulate: bool,
}

/// `y[row][panel][output] (+)= Σ x[row][input] · panels[panel][input][output]`; all slices have one length.
///
/// # Safety
/// `output` has room for `M` rows of `P` panels, and nobody else uses it meanwhile.
#[inline]
unsafe fn sum_tile<const M: usize, const P: usize>(
    avx2: bool,
    x: &[&[f32]; M],
    panels: &[&[[f32; PANEL]]; P],
    output: Output,
) {
    #[cfg(target_arch = "x86_64")]
    if avx2 {
        // SAFETY: AVX2 and FMA were detected; the rest is this function's own contract.
        return unsafe { avx2::sum_tile(x, panels, output) };
    }
    debug_assert!(!avx2);
    for (row, x) in x.iter().enumerate() {
        for (index, panel) in panels.iter().enumerate() {
            let mut sums = [0.0_f32; PANEL];
            for (value, weights) in x.iter().zip(*panel) {
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum = multiply_add::<PLAIN_FUSED>(*value, *weight, *sum);
                }
            }
            // SAFETY: this function's own contract.
            let y = unsafe { &mut *output.y.add(row * output.stride + index * PANEL).cast::<[f32; PANEL]>() };
            for (y, sum) in y.iter_mut().zip(sums) {
                *y = if output.accumulate { *y + sum } else { sum };
            }
        }
    }
}

/// The register tile: 12 accumulators for 6 rows.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{Output, PANEL};
    use std::arch::x86_64::{__m256, _mm256_fmadd_ps, _mm256_set1_ps, _mm256_setzero_ps};

    /// Inputs taken between two checks of the slices' bounds. Slices rather than pointers, so that builds with
    /// debug assertions, which check every pointer, stay as fast as release builds.
    const UNROLL: usize = 4;

    type Registers<const M: usize, const P: usize> = [[[__m256; 2]; P]; M];

    /// # Safety
    /// As that of `super::sum_tile`, on a CPU with AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn sum_tile<const M: usize, const P: usize>(
        x: &[&[f32]; M],
        panels: &[&[[f32; PANEL]]; P],
        output: Output,
    ) {
        let depth = panels[0].len();
        let mut registers: Registers<M, P> = [[[_mm256_setzero_ps(); 2]; P]; M];
        let mut values = [&[0.0_f32; UNROLL]; M];
        let mut weights = [&[[0.0_f32; PANEL]; UNROLL]; P];
        let mut x_blocks: [&[[f32; UNROLL]]; M] = [&[]; M];
        let mut panel_blocks: [&[[[f32; PANEL]; UNROLL]]; P] = [&[]; P];
        for row in 0..M {
            x_blocks[row] = &x[row].as_chunks().0[..depth / UNROLL];
        }
        for panel in 0..P {
            panel_blocks[panel] = &panels[panel].as_chunks().0[..depth / UNROLL];
        }
        // Indices, because the compiler then keeps every accumulator in a register.
        for block in 0..depth / UNROLL {
            for row in 0..M {
                values[row] = &x_blocks[row][block];
            }
            for panel in 0..P {
                weights[panel] = &panel_blocks[panel][block];
            }
            for step in 0..UNROLL {
                for panel in 0..P {
                    let [low, high] = load(&weights[panel][step]);
                    for row in 0..M {
                        let value = _mm256_set1_ps(values[row][step]);
                        registers[row][panel][0] = _mm256_fmadd_ps(value, low, registers[row][panel][0]);
                        registers[row][panel][1] = _mm256_fmadd_ps(value, high, registers[row][panel][1]);
                    }
                }
            }
        }
        for step in depth / UNROLL * UNROLL..depth {
            for panel in 0..P {
                let [low, high] = load(&panels[panel][step]);
                for row in 0..M {
                    let value = _mm256_set1_ps(x[row][step]);
                    registers[row][panel][0] = _mm256_fmadd_ps(value, low, registers[row][panel][0]);
                    registers[row][panel][1] = _mm256_fmadd_ps(value, high, registers[row][panel][1]);
                }
            }
        }
        // Out of the registers by constant indices first: a loop that took the registers' address would keep them
        // in memory all along.
        let mut sums = [[[0.0_f32; PANEL]; P]; M];
        for row in 0..M {
            for panel in 0..P {
                // SAFETY: two registers are 16 floats, and any bits are valid in both.
                sums[row][panel] =
                    unsafe { std::mem::transmute::<[__m256; 2], [f32; PANEL]>(registers[row][panel]) };
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (panel, sums) in sums.iter().enumerate() {
                // SAFETY: this function's own contract.
                let y =
                    unsafe { &mut *output.y.add(row * output.stride + panel * PANEL).cast::<[f32; PANEL]>() };
                if output.accumulate {
                    y.iter_mut().zip(sums).for_each(|(y, sum)| *y += sum);
                } else {
                    *y = *sums;
                }
            }
        }
    }

    #[inline(always)]
    fn load(weights: &[f32; PANEL]) -> [__m256; 2] {
        // SAFETY: 16 floats are two registers, and any bits are valid in both.
        unsafe { std::mem::transmute::<[f32; PANEL], [__m256; 2]>(*weights) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::packed::{PackedMatrix, pack_panel};
    use super::*;
    use rand::{RngExt, SeedableRng};

    fn random(length: usize, seed: u64) -> Vec<f32> {
        let mut generator = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        (0..length).map(|_| generator.random::<f32>() - 0.5).collect()
    }

    fn packed(weights: &[f32], outputs: usize, inputs: usize) -> PackedMatrix {
        let mut matrix = PackedMatrix::zeros(outputs, inputs);
        for (rows, panel) in weights.chunks(PANEL * inputs).zip(matrix.data.chunks_mut(PANEL * inputs)) {
            pack_panel(rows, inputs, panel);
        }
        matrix
    }

    #[test]
    fn product_agrees_with_f64_sums_for_all_edges() {
        for (rows, outputs, inputs) in [
            (1, 16, 4),
            (1, 100, 7),
            (2, 33, 64),
            (3, 48, 5),
            (5, 17, 600),
            (7, 31, 9),
            (150, 40, 130),
            (6, 1, 1),
        ] {
            let (x, weights) = (random(rows * inputs, 1), random(outputs * inputs, 2));
            let before = random(rows * outputs, 3);
            let matrix = packed(&weights, outputs, inputs);
            let both = [(Threads::One, false), (Threads::All, true)];
            for (avx2, (threads, accumulate)) in
                [false, has_avx2_fma()].into_iter().flat_map(|a| both.map(|b| (a, b)))
            {
                let mut y = before.clone();
                gemm_on(avx2, threads, &x, matrix.view(), &mut y, accumulate);
                for row in 0..rows {
                    for output in 0..outputs {
                        let exact: f64 = (0..inputs)
                            .map(|i| f64::from(x[row * inputs + i]) * f64::from(weights[output * inputs + i]))
                            .sum();
                        let start = if accumulate { f64::from(before[row * outputs + output]) } else { 0.0 };
                        let error = (f64::from(y[row * outputs + output]) - exact - start).abs();
                        assert!(error < 1e-4, "{rows}x{outputs}x{inputs}: {error:e}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_rows_product_does_not_depend_on_its_neighbours_or_threads() {
        let (rows, outputs, inputs) = (151, 72, 700);
        let (x, weights) = (random(rows * inputs, 4), random(outputs * inputs, 5));
        let matrix = packed(&weights, outputs, inputs);
        let mut together = vec![0.0; rows * outputs];
        gemm(Threads::All, &x, matrix.view(), &mut together, false);
        for (row, expected) in together.chunks(outputs).enumerate() {
            let mut alone = vec![0.0; outputs];
            gemm(Threads::One, &x[row * inputs..(row + 1) * inputs], matrix.view(), &mut alone, false);
            assert_eq!(alone, expected, "row {row}");
        }
    }

    #[test]
    fn packed_rows_can_be_read_back() {
        let (outputs, inputs) = (21, 13);
        let weights = random(outputs * inputs, 6);
        let matrix = packed(&weights, outputs, inputs);
        let mut row = vec![0.0; inputs];
        for (output, expected) in weights.chunks(inputs).enumerate() {
            matrix.copy_row(output, &mut row);
            assert_eq!(row, expected);
        }
    }
}
