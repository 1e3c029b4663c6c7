//! `y = x · Wᵀ` for row-major activations and packed weights.
//!
//! Register tiles ([`tile`]) take some rows and panels at a time, activations broadcast from where they lie, weights from
//! their panels. Blocks of [`ROWS`] rows × [`DEPTH`] inputs stay in the second-level cache while every panel passes by. An
//! element is summed over its inputs in order, in one accumulator per [`DEPTH`] inputs, so its value depends neither on
//! the tile it falls into nor, where multiply-add is fused, on the form of the tile.

mod tile;

use super::Threads;
use super::packed::{PANEL, PackedView, PanelsView};
use rayon::prelude::*;
use std::ops::Range;
use tile::{Form, Line, Output, sum_tile};

/// Rows of activations per block; a multiple of the tiles' heights.
const ROWS: usize = 144;
/// Inputs per block; even, so that no pair of bf16 weights is cut.
pub(super) const DEPTH: usize = 768;

/// Computes `y[row][output] = Σ x[row][input] · W[output][input]`, or adds it to `y` when `accumulate`.
///
/// `x` is `[rows, inputs]` and `y` `[rows, outputs]`, both row-major and dense.
pub(crate) fn gemm(threads: Threads, x: &[f32], weights: PackedView<'_>, y: &mut [f32], accumulate: bool) {
    gemm_as(Form::best(), threads, x, weights, y, accumulate);
}

/// [`gemm`] in a form that the CPU must have.
fn gemm_as(
    form: Form,
    threads: Threads,
    x: &[f32],
    weights: PackedView<'_>,
    y: &mut [f32],
    accumulate: bool,
) {
    let operands = Operands { form, threads, x, y, accumulate };
    let PackedView { outputs, inputs, stride, data } = weights;
    match data {
        PanelsView::F32(data) => {
            multiply::<[f32; PANEL]>(operands, outputs, inputs, stride, data.as_chunks().0);
        }
        PanelsView::Bf16(data) => {
            multiply::<[u32; PANEL]>(operands, outputs, inputs, stride, data.as_chunks().0);
        }
    }
}

/// What a product has beside its weights.
struct Operands<'a> {
    form: Form,
    threads: Threads,
    x: &'a [f32],
    y: &'a mut [f32],
    accumulate: bool,
}

fn multiply<L: Line>(operands: Operands<'_>, outputs: usize, inputs: usize, stride: usize, lines: &[L]) {
    let Operands { form, threads, x, y, accumulate } = operands;
    let rows = x.len() / inputs;
    assert_eq!(x.len(), rows * inputs, "activations are whole rows");
    assert_eq!(y.len(), rows * outputs, "outputs are whole rows");
    let panels = outputs.div_ceil(PANEL);
    let (height, stride) = (inputs.div_ceil(L::INPUTS), stride / PANEL);
    assert!(stride >= height, "panels do not overlap");
    assert!(panels == 0 || lines.len() >= (panels - 1) * stride + height, "weights are whole panels");
    let product = Product { x, inputs, outputs, lines, stride, y: y.as_mut_ptr(), accumulate, form };
    let blocks = rows.div_ceil(ROWS);
    let block = |index: usize| index * ROWS..((index + 1) * ROWS).min(rows);
    match threads {
        Threads::One => (0..blocks).for_each(|index| product.block(block(index), 0..panels)),
        Threads::All => {
            // Groups of as many panels as a tile takes.
            let units = panels.div_ceil(TOGETHER);
            let groups = (4 * rayon::current_num_threads()).div_ceil(blocks.max(1)).clamp(1, units.max(1));
            let bound = |group: usize| (group * units / groups * TOGETHER).min(panels);
            (0..blocks * groups).into_par_iter().for_each(|task| {
                let (index, group) = (task / groups, task % groups);
                product.block(block(index), bound(group)..bound(group + 1));
            });
        }
    }
}

/// Panels that the widest tile takes of many rows.
const TOGETHER: usize = 3;

/// One product's operands; tasks write disjoint rows × panels of `y`.
struct Product<'a, L> {
    x: &'a [f32],
    inputs: usize,
    outputs: usize,
    lines: &'a [L],
    /// Lines from one panel to the next.
    stride: usize,
    y: *mut f32,
    accumulate: bool,
    form: Form,
}

// SAFETY: `y` points into the caller's exclusive borrow, which outlives the product, and tasks that run at the
// same time are given disjoint (row, panel) blocks of it; everything else is read only.
unsafe impl<L: Sync> Sync for Product<'_, L> {}

impl<L: Line> Product<'_, L> {
    fn block(&self, rows: Range<usize>, panels: Range<usize>) {
        let mut start = 0;
        while start < self.inputs {
            let depth = DEPTH.min(self.inputs - start);
            let accumulate = self.accumulate || start > 0;
            self.panels(rows.clone(), panels.clone(), start, depth, accumulate);
            start += depth;
        }
    }

    fn panels(&self, rows: Range<usize>, panels: Range<usize>, start: usize, depth: usize, accumulate: bool) {
        let (most, together) = self.form.shape(rows.len());
        let mut panel = panels.start;
        while panel < panels.end {
            let count = if panel + together <= panels.end { together } else { 1 };
            let place = Place { panel, start, depth, accumulate };
            let mut row = rows.start;
            while row < rows.end {
                let height = (rows.end - row).min(most);
                match (height, count) {
                    (1, 4) => self.tile::<1, 4>(row, place),
                    (1, 3) => self.tile::<1, 3>(row, place),
                    (1, _) => self.tile::<1, 1>(row, place),
                    (2, 3) => self.tile::<2, 3>(row, place),
                    (2, 2) => self.tile::<2, 2>(row, place),
                    (2, _) => self.tile::<2, 1>(row, place),
                    (3, 3) => self.tile::<3, 3>(row, place),
                    (3, 2) => self.tile::<3, 2>(row, place),
                    (3, _) => self.tile::<3, 1>(row, place),
                    (4, 3) => self.tile::<4, 3>(row, place),
                    (4, _) => self.tile::<4, 1>(row, place),
                    (5, 3) => self.tile::<5, 3>(row, place),
                    (5, _) => self.tile::<5, 1>(row, place),
                    (6, 3) => self.tile::<6, 3>(row, place),
                    (6, _) => self.tile::<6, 1>(row, place),
                    (7, 3) => self.tile::<7, 3>(row, place),
                    (7, _) => self.tile::<7, 1>(row, place),
                    (_, 3) => self.tile::<8, 3>(row, place),
                    _ => self.tile::<8, 1>(row, place),
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
        let (inputs, outputs) = (self.inputs, self.outputs);
        let mut x: [&[f32]; M] = [&[]; M];
        for (offset, x) in x.iter_mut().enumerate() {
            *x = &self.x[(row + offset) * inputs + start..][..depth];
        }
        let mut panels: [&[L]; P] = [&[]; P];
        for (offset, lines) in panels.iter_mut().enumerate() {
            let first = (panel + offset) * self.stride + start / L::INPUTS;
            *lines = &self.lines[first..][..depth.div_ceil(L::INPUTS)];
        }
        let first = panel * PANEL;
        let width = (outputs - first).min(P * PANEL);
        // SAFETY: row < rows and first < outputs, so the offset lies inside `y`.
        let y = unsafe { self.y.add(row * outputs + first) };
        if width == P * PANEL {
            // SAFETY: M rows from `row` on and P whole panels from `panel` on lie inside the caller's exclusive
            // borrow, and no other task has them.
            unsafe { sum_tile(self.form, &x, &panels, Output { y, stride: outputs, accumulate }) };
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
        unsafe { sum_tile(self.form, &x, &panels, output) };
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

#[cfg(test)]
mod tests {
    use super::super::packed::{PackedMatrix, PanelType, pack_panel};
    use super::super::{PLAIN_FUSED, round_bf16};
    use super::*;
    use rand::{RngExt, SeedableRng};

    fn random(length: usize, seed: u64) -> Vec<f32> {
        let mut generator = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        (0..length).map(|_| generator.random::<f32>() - 0.5).collect()
    }

    /// Weights that bf16 can hold.
    fn narrow(length: usize, seed: u64) -> Vec<f32> {
        let mut weights = random(length, seed);
        round_bf16(&mut weights);
        weights
    }

    fn packed(panel_type: PanelType, weights: &[f32], outputs: usize, inputs: usize) -> PackedMatrix {
        let mut matrix = PackedMatrix::zeros(panel_type, outputs, inputs);
        for (rows, panel) in weights.chunks(PANEL * inputs).zip(matrix.panels_mut()) {
            pack_panel(rows, inputs, panel, &mut Vec::new());
        }
        matrix
    }

    const TYPES: [PanelType; 2] = [PanelType::F32, PanelType::Bf16];

    /// Rows, outputs, inputs: all edges of tiles, panels and blocks.
    const SHAPES: [(usize, usize, usize); 10] = [
        (1, 16, 4),
        (1, 100, 7),
        (2, 33, 64),
        (3, 48, 5),
        (4, 70, 2),
        (5, 17, 900),
        (7, 31, 9),
        (8, 97, 1537),
        (150, 40, 130),
        (6, 1, 1),
    ];

    #[test]
    fn product_agrees_with_f64_sums_for_all_edges() {
        for (rows, outputs, inputs) in SHAPES {
            let (x, weights) = (random(rows * inputs, 1), narrow(outputs * inputs, 2));
            let before = random(rows * outputs, 3);
            let both = [(Threads::One, false), (Threads::All, true)];
            for (form, panel_type, (threads, accumulate)) in Form::all()
                .flat_map(|form| TYPES.map(|panel_type| (form, panel_type)))
                .flat_map(|(form, panel_type)| both.map(|b| (form, panel_type, b)))
            {
                let matrix = packed(panel_type, &weights, outputs, inputs);
                let mut y = before.clone();
                gemm_as(form, threads, &x, matrix.view(), &mut y, accumulate);
                for row in 0..rows {
                    for output in 0..outputs {
                        let exact: f64 = (0..inputs)
                            .map(|i| f64::from(x[row * inputs + i]) * f64::from(weights[output * inputs + i]))
                            .sum();
                        let start = if accumulate { f64::from(before[row * outputs + output]) } else { 0.0 };
                        let error = (f64::from(y[row * outputs + output]) - exact - start).abs();
                        assert!(error < 1e-4, "{form:?} {rows}x{outputs}x{inputs}: {error:e}");
                    }
                }
            }
        }
    }

    #[test]
    fn forms_and_panel_types_have_the_same_bits() {
        for (rows, outputs, inputs) in SHAPES {
            let (x, weights) = (random(rows * inputs, 7), narrow(outputs * inputs, 8));
            let mut first: Option<Vec<f32>> = None;
            for form in Form::all().filter(|form| *form != Form::Plain || PLAIN_FUSED) {
                for panel_type in TYPES {
                    let matrix = packed(panel_type, &weights, outputs, inputs);
                    let mut y = vec![0.0; rows * outputs];
                    gemm_as(form, Threads::One, &x, matrix.view(), &mut y, false);
                    let first = first.get_or_insert_with(|| y.clone());
                    assert_eq!(&y, first, "{form:?} {panel_type:?} {rows}x{outputs}x{inputs}");
                }
            }
        }
    }

    #[test]
    fn a_rows_product_does_not_depend_on_its_neighbours_or_threads() {
        let (rows, outputs, inputs) = (151, 72, 900);
        let (x, weights) = (random(rows * inputs, 4), narrow(outputs * inputs, 5));
        for panel_type in TYPES {
            let matrix = packed(panel_type, &weights, outputs, inputs);
            let mut together = vec![0.0; rows * outputs];
            gemm(Threads::All, &x, matrix.view(), &mut together, false);
            for (row, expected) in together.chunks(outputs).enumerate() {
                let mut alone = vec![0.0; outputs];
                gemm(Threads::One, &x[row * inputs..(row + 1) * inputs], matrix.view(), &mut alone, false);
                assert_eq!(alone, expected, "row {row}");
            }
        }
    }

    #[test]
    fn packed_rows_can_be_read_back() {
        let (outputs, inputs) = (21, 13);
        let weights = narrow(outputs * inputs, 6);
        for panel_type in TYPES {
            let matrix = packed(panel_type, &weights, outputs, inputs);
            let mut row = vec![0.0; inputs];
            for (output, expected) in weights.chunks(inputs).enumerate() {
                matrix.copy_row(output, &mut row);
                assert_eq!(row, expected);
            }
        }
    }
}
