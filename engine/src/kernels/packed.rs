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
    if count < PANEL {
        panel.fill(0.0);
    }
    // Eight inputs at a time keep the reads in the same cache lines and the writes in few.
    const BLOCK: usize = 8;
    for (block, weights) in panel.chunks_mut(BLOCK * PANEL).enumerate() {
        let start = block * BLOCK;
        let width = weights.len() / PANEL;
        for (row, values) in rows.chunks_exact(inputs).enumerate() {
            for (column, value) in values[start..start + width].iter().enumerate() {
                weights[column * PANEL + row] = *value;
            }
        }
    }
}
