//! The weights of one point, in the layout that the kernels read. Filled anew for every point, never updated.

use crate::kernels::{PANEL, PackedMatrix, pack_panel};
use crate::merge::MergingSource;
use crate::model::{LayerNames, ModelWeights};
use rayon::prelude::*;

/// Several checkpoint matrices with the same inputs, stacked: one product computes all their outputs.
pub(crate) struct Stacked {
    /// Layout tensors from top to bottom.
    tensors: Vec<usize>,
    pub(crate) matrix: PackedMatrix,
}

/// One decoder layer.
pub(crate) struct LayerWeights {
    pub(crate) input_norm: Vec<f32>,
    pub(crate) query: Stacked,
    /// Keys, then values.
    pub(crate) key_value: Stacked,
    pub(crate) output: Stacked,
    pub(crate) post_norm: Vec<f32>,
    /// Gate, then up.
    pub(crate) gate_up: Stacked,
    pub(crate) down: Stacked,
}

/// All weights of the decoder. Buffers are allocated once and reused for every point.
pub(crate) struct Weights {
    /// Row-major `[vocabulary, hidden]`; empty when tied, rows are then taken from the head.
    pub(crate) embedding: Vec<f32>,
    pub(crate) layers: Vec<LayerWeights>,
    pub(crate) final_norm: Vec<f32>,
    pub(crate) head: Stacked,
}

impl Stacked {
    fn zeros(base: &ModelWeights, tensors: &[usize]) -> Self {
        let shape = |tensor: &usize| &base.layout.tensors[*tensor].shape;
        let outputs = tensors.iter().map(|tensor| shape(tensor)[0]).sum();
        Self { tensors: tensors.to_vec(), matrix: PackedMatrix::zeros(outputs, shape(&tensors[0])[1]) }
    }
}

/// One piece of the merge: a stretch of memory, and where its values come from.
enum Piece<'a> {
    /// Consecutive elements of one tensor.
    Plain { tensor: usize, start: usize, out: &'a mut [f32] },
    /// One panel: rows of the stacked tensors from `row` on.
    Panel { tensors: &'a [usize], row: usize, inputs: usize, out: &'a mut [f32] },
}

impl Weights {
    /// Buffers for a model, all zero.
    pub(crate) fn zeros(base: &ModelWeights) -> Self {
        let layout = &base.layout;
        let hidden = base.config.hidden_size;
        let layer = |names: &LayerNames| LayerWeights {
            input_norm: vec![0.0; hidden],
            query: Stacked::zeros(base, &[names.query]),
            key_value: Stacked::zeros(base, &[names.key, names.value]),
            output: Stacked::zeros(base, &[names.output]),
            post_norm: vec![0.0; hidden],
            gate_up: Stacked::zeros(base, &[names.gate, names.up]),
            down: Stacked::zeros(base, &[names.down]),
        };
        let tied = layout.head == layout.embedding;
        Self {
            embedding: if tied { Vec::new() } else { vec![0.0; base.config.vocab_size * hidden] },
            layers: layout.layers.iter().map(layer).collect(),
            final_norm: vec![0.0; hidden],
            head: Stacked::zeros(base, &[layout.head]),
        }
    }

    /// Fills every buffer from a point's source: one parallel pass, each piece merged, rounded and laid out while
    /// it is in the cache.
    pub(crate) fn fill(&mut self, source: &MergingSource<'_>) {
        let layout = &source.base.layout;
        let mut pieces = Vec::new();
        plain(&mut pieces, layout.embedding, &mut self.embedding);
        for (layer, names) in self.layers.iter_mut().zip(&layout.layers) {
            plain(&mut pieces, names.input_norm, &mut layer.input_norm);
            plain(&mut pieces, names.post_norm, &mut layer.post_norm);
            for stacked in [
                &mut layer.query,
                &mut layer.key_value,
                &mut layer.output,
                &mut layer.gate_up,
                &mut layer.down,
            ] {
                panels(&mut pieces, stacked);
            }
        }
        plain(&mut pieces, layout.final_norm, &mut self.final_norm);
        panels(&mut pieces, &mut self.head);
        pieces.into_par_iter().for_each_init(Vec::new, |rows, piece| match piece {
            Piece::Plain { tensor, start, out } => source.read(tensor, start, out),
            Piece::Panel { tensors, row, inputs, out } => {
                let count = read_rows(source, tensors, row, inputs, rows);
                pack_panel(&rows[..count * inputs], inputs, out);
            }
        });
    }

    /// Writes the embedding of `token` to `row`.
    pub(crate) fn embed(&self, token: u32, row: &mut [f32]) {
        let token = token as usize;
        if self.embedding.is_empty() {
            self.head.matrix.copy_row(token, row);
        } else {
            row.copy_from_slice(&self.embedding[token * row.len()..(token + 1) * row.len()]);
        }
    }
}

fn plain<'a>(pieces: &mut Vec<Piece<'a>>, tensor: usize, values: &'a mut [f32]) {
    const LENGTH: usize = 8192;
    for (index, out) in values.chunks_mut(LENGTH).enumerate() {
        pieces.push(Piece::Plain { tensor, start: index * LENGTH, out });
    }
}

fn panels<'a>(pieces: &mut Vec<Piece<'a>>, stacked: &'a mut Stacked) {
    let Stacked { tensors, matrix } = stacked;
    let inputs = matrix.inputs;
    for (panel, out) in matrix.data.chunks_mut(PANEL * inputs).enumerate() {
        pieces.push(Piece::Panel { tensors, row: panel * PANEL, inputs, out });
    }
}

/// Reads up to a panel's worth of rows of stacked tensors, from stacked row `row` on; returns how many there are.
fn read_rows(
    source: &MergingSource<'_>,
    tensors: &[usize],
    row: usize,
    inputs: usize,
    rows: &mut Vec<f32>,
) -> usize {
    rows.resize(PANEL * inputs, 0.0);
    let mut skipped = 0;
    let mut count = 0;
    for &tensor in tensors {
        let height = source.base.layout.tensors[tensor].shape[0];
        let first = (row + count).saturating_sub(skipped);
        if first < height && count < PANEL {
            let taken = (height - first).min(PANEL - count);
            source.read(tensor, first * inputs, &mut rows[count * inputs..(count + taken) * inputs]);
            count += taken;
        }
        skipped += height;
    }
    count
}
