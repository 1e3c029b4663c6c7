//! The weights of one point, in the layout that the kernels read. Filled anew for every point, never updated.

use crate::kernels::{PANEL, PackedMatrix, PanelMut, PanelType, pack_panel};
use crate::memory::Residency;
use crate::merge::MergingSource;
use crate::model::{LayerNames, ModelWeights, Rows};
use crate::run::WeightType;
use rayon::prelude::*;
use std::collections::BTreeSet;

/// Elements that are merged before mapped memory that is not to stay is let go of.
const STRETCH: usize = 4 << 20;

/// Several checkpoint matrices with the same inputs, stacked: one product computes all their outputs.
pub(crate) struct Stacked {
    /// Rows of layout tensors from top to bottom.
    parts: Vec<Rows>,
    pub(crate) matrix: PackedMatrix,
    /// Added to the outputs; empty where there is none.
    pub(crate) bias: Vec<f32>,
}

/// The weights of a normalisation, as they multiply.
pub(crate) struct Norm {
    tensor: usize,
    pub(crate) weight: Vec<f32>,
}

/// One decoder layer.
pub(crate) struct LayerWeights {
    pub(crate) input_norm: Norm,
    pub(crate) query: Stacked,
    /// Keys, then values.
    pub(crate) key_value: Stacked,
    /// Of each head's queries, and of its keys.
    pub(crate) query_key_norms: Option<(Norm, Norm)>,
    pub(crate) output: Stacked,
    pub(crate) attention_norm: Option<Norm>,
    pub(crate) feed_forward_norm: Norm,
    /// Gate, then up.
    pub(crate) gate_up: Stacked,
    pub(crate) down: Stacked,
    pub(crate) down_norm: Option<Norm>,
}

/// All weights of the decoder. Buffers are allocated once and reused for every point.
pub(crate) struct Weights {
    /// `[vocabulary, hidden]`; none when tied, rows are then taken from the head.
    embedding: Option<Stacked>,
    pub(crate) layers: Vec<LayerWeights>,
    pub(crate) final_norm: Norm,
    pub(crate) head: Stacked,
    /// What norm weights are stored without.
    norm_offset: f32,
}

impl Stacked {
    fn zeros(base: &ModelWeights, panel_type: PanelType, parts: &[&Rows]) -> Self {
        let inputs = base.layout.tensors[parts[0].tensor].shape[1];
        let outputs = parts.iter().map(|part| part.rows.len()).sum();
        let biased = parts.iter().all(|part| part.bias.is_some());
        Self {
            parts: parts.iter().map(|&part| part.clone()).collect(),
            matrix: PackedMatrix::zeros(panel_type, outputs, inputs),
            bias: vec![0.0; if biased { outputs } else { 0 }],
        }
    }
}

impl Norm {
    fn zeros(base: &ModelWeights, tensor: usize) -> Self {
        Self { tensor, weight: vec![0.0; base.layout.tensors[tensor].shape[0]] }
    }
}

/// One piece of the merge: a stretch of memory, and where its values come from.
enum Piece<'a> {
    /// Consecutive elements of one tensor, and what is added to them.
    Plain { tensor: usize, start: usize, out: &'a mut [f32], offset: f32 },
    /// One panel: stacked rows from `row` on.
    Panel { parts: &'a [Rows], row: usize, inputs: usize, out: PanelMut<'a> },
}

/// Weights that are rounded to bf16 are kept as such: the same numbers in half the memory.
fn panel_type(dtype: WeightType) -> PanelType {
    match dtype {
        WeightType::Bf16 => PanelType::Bf16,
        WeightType::F32 | WeightType::F16 => PanelType::F32,
    }
}

impl Piece<'_> {
    fn elements(&self) -> usize {
        match self {
            Self::Plain { out, .. } => out.len(),
            Self::Panel { inputs, .. } => PANEL * inputs,
        }
    }

    /// The tensors that it is read from.
    fn tensors(&self) -> impl Iterator<Item = usize> {
        let (plain, parts) = match self {
            Self::Plain { tensor, .. } => (Some(*tensor), [].as_slice()),
            Self::Panel { parts, .. } => (None, *parts),
        };
        plain.into_iter().chain(parts.iter().map(|part| part.tensor))
    }
}

impl Weights {
    /// Bytes of the buffers of a model.
    pub(crate) fn bytes(base: &ModelWeights, dtype: WeightType) -> u64 {
        let panel_type = panel_type(dtype);
        // Stacked matrices fill up one panel together; the difference is less than a panel of each.
        let words = |shape: &[usize]| match shape {
            [outputs, inputs] => outputs.div_ceil(PANEL) * panel_type.words(*inputs),
            _ => shape.iter().product(),
        };
        4 * base.layout.tensors.iter().map(|spec| words(&spec.shape)).sum::<usize>() as u64
    }

    /// Buffers for a model, all zero.
    pub(crate) fn zeros(base: &ModelWeights, dtype: WeightType) -> Self {
        let layout = &base.layout;
        let norm = |tensor: usize| Norm::zeros(base, tensor);
        let stacked = |parts: &[&Rows]| Stacked::zeros(base, panel_type(dtype), parts);
        let layer = |names: &LayerNames| LayerWeights {
            input_norm: norm(names.input_norm),
            query: stacked(&[&names.query]),
            key_value: stacked(&[&names.key, &names.value]),
            query_key_norms: names.query_key_norms.map(|(query, key)| (norm(query), norm(key))),
            output: stacked(&[&names.output]),
            attention_norm: names.attention_norm.map(norm),
            feed_forward_norm: norm(names.feed_forward_norm),
            gate_up: stacked(&[&names.gate, &names.up]),
            down: stacked(&[&names.down]),
            down_norm: names.down_norm.map(norm),
        };
        let vocabulary = base.config.vocab_size;
        let whole = |tensor: usize| stacked(&[&Rows { tensor, rows: 0..vocabulary, bias: None }]);
        Self {
            embedding: (layout.head != layout.embedding).then(|| whole(layout.embedding)),
            layers: layout.layers.iter().map(layer).collect(),
            final_norm: norm(layout.final_norm),
            head: whole(layout.head),
            norm_offset: if base.config.unit_offset_norms { 1.0 } else { 0.0 },
        }
    }

    /// Fills every buffer from a point's source: one parallel pass, each piece merged, rounded and laid out while
    /// it is in the cache. Where base and vectors do not all stay in memory, stretch by stretch, so that only a
    /// stretch's part of the others is there at a time.
    pub(crate) fn fill(&mut self, source: &MergingSource<'_>, residency: &Residency) {
        let offset = self.norm_offset;
        let mut pieces = Vec::new();
        if let Some(embedding) = &mut self.embedding {
            stacked(&mut pieces, embedding);
        }
        for layer in &mut self.layers {
            layer.pieces(offset, &mut pieces);
        }
        plain(&mut pieces, self.final_norm.tensor, 0, &mut self.final_norm.weight, offset);
        stacked(&mut pieces, &mut self.head);
        if residency.keeps_all() {
            return merge(source, pieces);
        }
        let merge_stretch = |stretch: Vec<Piece<'_>>| {
            let read: BTreeSet<usize> = stretch.iter().flat_map(Piece::tensors).collect();
            merge(source, stretch);
            read.into_iter().for_each(|tensor| residency.release(source.base, source.vectors, tensor));
        };
        let (mut stretch, mut elements) = (Vec::new(), 0);
        for piece in pieces {
            elements += piece.elements();
            stretch.push(piece);
            if elements >= STRETCH {
                merge_stretch(std::mem::take(&mut stretch));
                elements = 0;
            }
        }
        merge_stretch(stretch);
    }

    /// Writes the embedding of `token` to `row`.
    pub(crate) fn embed(&self, token: u32, row: &mut [f32]) {
        self.embedding.as_ref().unwrap_or(&self.head).matrix.copy_row(token as usize, row);
    }
}

fn merge(source: &MergingSource<'_>, pieces: Vec<Piece<'_>>) {
    pieces.into_par_iter().for_each_init(Default::default, |(rows, pairs), piece| match piece {
        Piece::Plain { tensor, start, out, offset } => {
            source.read(tensor, start, out);
            if offset != 0.0 {
                out.iter_mut().for_each(|value| *value += offset);
            }
        }
        Piece::Panel { parts, row, inputs, out } => {
            let count = read_rows(source, parts, row, inputs, rows);
            pack_panel(&rows[..count * inputs], inputs, out, pairs);
        }
    });
}

impl LayerWeights {
    fn pieces<'a>(&'a mut self, offset: f32, pieces: &mut Vec<Piece<'a>>) {
        let (query, key) = self.query_key_norms.as_mut().map_or((None, None), |(q, k)| (Some(q), Some(k)));
        let norms = [&mut self.input_norm, &mut self.feed_forward_norm].into_iter();
        let others = [query, key, self.attention_norm.as_mut(), self.down_norm.as_mut()];
        for Norm { tensor, weight } in norms.chain(others.into_iter().flatten()) {
            plain(pieces, *tensor, 0, weight, offset);
        }
        for matrix in
            [&mut self.query, &mut self.key_value, &mut self.output, &mut self.gate_up, &mut self.down]
        {
            stacked(pieces, matrix);
        }
    }
}

fn plain<'a>(pieces: &mut Vec<Piece<'a>>, tensor: usize, from: usize, values: &'a mut [f32], offset: f32) {
    const LENGTH: usize = 8192;
    for (index, out) in values.chunks_mut(LENGTH).enumerate() {
        pieces.push(Piece::Plain { tensor, start: from + index * LENGTH, out, offset });
    }
}

fn stacked<'a>(pieces: &mut Vec<Piece<'a>>, stacked: &'a mut Stacked) {
    let Stacked { parts, matrix, bias } = stacked;
    let mut rest = bias.as_mut_slice();
    for part in parts.iter() {
        if let Some(tensor) = part.bias
            && !rest.is_empty()
        {
            let (own, others) = rest.split_at_mut(part.rows.len());
            plain(pieces, tensor, part.rows.start, own, 0.0);
            rest = others;
        }
    }
    let inputs = matrix.inputs;
    for (panel, out) in matrix.panels_mut().enumerate() {
        pieces.push(Piece::Panel { parts, row: panel * PANEL, inputs, out });
    }
}

/// Reads up to a panel's worth of stacked rows, from stacked row `row` on; returns how many there are.
fn read_rows(
    source: &MergingSource<'_>,
    parts: &[Rows],
    row: usize,
    inputs: usize,
    rows: &mut Vec<f32>,
) -> usize {
    rows.resize(PANEL * inputs, 0.0);
    let mut skipped = 0;
    let mut count = 0;
    for part in parts {
        let height = part.rows.len();
        let first = (row + count).saturating_sub(skipped);
        if first < height && count < PANEL {
            let taken = (height - first).min(PANEL - count);
            let out = &mut rows[count * inputs..(count + taken) * inputs];
            source.read(part.tensor, (part.rows.start + first) * inputs, out);
            count += taken;
        }
        skipped += height;
    }
    count
}
