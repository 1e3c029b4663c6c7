//! The forward pass of the decoder on CPU.

use super::attention::ForestAttention;
use super::cache::KvCache;
use super::forest::Forest;
use super::head::Head;
use super::rope::RotaryTable;
use super::weights::{LayerWeights, Norm, Stacked, Weights};
use crate::kernels::{
    Queries, Threads, Visible, attend, geglu, gemm, rms_norm, rms_norm_in_place, rotate, swiglu,
};
use crate::memory::Residency;
use crate::merge::MergingSource;
use crate::model::{Activation, ModelConfig, ModelWeights};
use crate::run::WeightType;
use rayon::prelude::*;
use std::sync::Mutex;

/// Rows that one task of an element-wise pass takes.
const ROW_BLOCK: usize = 64;

/// Rows that pass the feed-forward block together on one thread: one block of the matrix product.
const FEED_FORWARD_ROWS: usize = 144;

/// A decoder with the weights of one point.
pub(crate) struct Decoder {
    pub(crate) config: ModelConfig,
    weights: Weights,
    /// One per rotary embedding of the configuration.
    ropes: Vec<RotaryTable>,
    /// Buffers of passes that have ended, for the next ones; as many as passes have run at a time.
    workspaces: Mutex<Vec<Workspace>>,
}

/// Activations of one pass, reused so that they are neither allocated nor cleared for every chunk.
#[derive(Default)]
struct Workspace {
    states: Vec<f32>,
    normed: Vec<f32>,
    keys_values: Vec<f32>,
    queries: Vec<f32>,
    mixed: Vec<f32>,
    feed_forward: FeedForward,
}

/// Activations of the feed-forward block.
#[derive(Default)]
struct FeedForward {
    normed: Vec<f32>,
    gate_up: Vec<f32>,
    gated: Vec<f32>,
    /// Outputs that are normalised before they join the residual stream.
    outputs: Vec<f32>,
}

/// One sequence's part in a decoding step.
pub(crate) struct Step<'a> {
    /// The token to take in.
    pub(crate) token: u32,
    /// Its position; all earlier ones are in the cache.
    pub(crate) position: usize,
    pub(crate) cache: &'a mut KvCache,
}

/// A step with its row of the output, its queries, and its keys and values.
type StepInOut<'a, 's> = ((&'a mut Step<'s>, &'a mut [f32]), (&'a [f32], &'a [f32]));

impl Decoder {
    /// A decoder for a base model and weights of that type, still zero.
    pub(crate) fn new(base: &ModelWeights, dtype: WeightType) -> Self {
        let config = base.config.clone();
        Self {
            ropes: config.rotaries.iter().map(|rotary| RotaryTable::new(rotary, config.context)).collect(),
            weights: Weights::zeros(base, dtype),
            config,
            workspaces: Mutex::default(),
        }
    }

    /// Bytes of the merged weights of a model.
    pub(crate) fn bytes(base: &ModelWeights, dtype: WeightType) -> u64 {
        Weights::bytes(base, dtype)
    }

    /// Takes over the weights of a point.
    pub(crate) fn fill(&mut self, source: &MergingSource<'_>, residency: &Residency) {
        self.weights.fill(source, residency);
    }

    /// The output head, `[vocabulary, hidden]`.
    pub(crate) fn head(&self) -> Head<'_> {
        Head { matrix: &self.weights.head.matrix, softcap: self.config.logit_softcap }
    }

    /// Runs a forest and returns the normalised hidden states of the `wanted` rows (ascending),
    /// `[wanted, hidden]`: what the output head takes.
    ///
    /// `keep` sees, layer by layer, the rotated keys and the values of all rows,
    /// `[rows, 2 · kv_heads · head_dim]`.
    pub(crate) fn run(
        &self,
        threads: Threads,
        forest: &Forest,
        wanted: &[u32],
        mut keep: impl FnMut(usize, &[f32]),
    ) -> Vec<f32> {
        let hidden = self.config.hidden_size;
        let mut workspace = self.take_workspace();
        let Workspace { states, normed, keys_values, queries, mixed, feed_forward } = &mut workspace;
        self.embed(forest.tokens.iter().copied(), states);
        let every: Vec<u32> = (0..forest.tokens.len() as u32).collect();
        let last = self.weights.layers.len() - 1;
        for (index, layer) in self.weights.layers.iter().enumerate() {
            self.normalise(threads, states, &layer.input_norm, normed);
            product(threads, normed, &layer.key_value, keys_values);
            self.turn_keys(index, keys_values, |row| forest.positions[row] as usize);
            keep(index, keys_values);
            // Behind the last layer's keys and values only the wanted rows matter.
            let kept: &[u32] = if index == last { wanted } else { &every };
            if kept.len() < every.len() {
                keep_rows(states, kept, hidden);
                keep_rows(normed, kept, hidden);
            }
            product(threads, normed, &layer.query, queries);
            let position = |row: usize| forest.positions[kept[row] as usize] as usize;
            self.turn_queries(threads, index, queries, position);
            sized(mixed, queries.len());
            ForestAttention {
                config: &self.config,
                layer: index,
                forest,
                queries,
                wanted: kept,
                keys_values,
            }
            .run(threads, mixed);
            self.finish_layer(threads, layer, mixed, states, feed_forward);
        }
        self.normalise(threads, states, &self.weights.final_norm, normed);
        let result = normed.clone();
        self.return_workspace(workspace);
        result
    }

    /// Takes one token into each of several cached sequences and returns their normalised hidden states,
    /// `[steps, hidden]`.
    pub(crate) fn step(&self, threads: Threads, steps: &mut [Step<'_>]) -> Vec<f32> {
        let mut workspace = self.take_workspace();
        let Workspace { states, normed, keys_values, queries, mixed, feed_forward } = &mut workspace;
        self.embed(steps.iter().map(|step| step.token), states);
        for (index, layer) in self.weights.layers.iter().enumerate() {
            self.normalise(threads, states, &layer.input_norm, normed);
            product(threads, normed, &layer.key_value, keys_values);
            self.turn_keys(index, keys_values, |row| steps[row].position);
            product(threads, normed, &layer.query, queries);
            self.turn_queries(threads, index, queries, |row| steps[row].position);
            sized(mixed, queries.len());
            self.attend_cached(threads, index, queries, keys_values, steps, mixed);
            self.finish_layer(threads, layer, mixed, states, feed_forward);
        }
        self.normalise(threads, states, &self.weights.final_norm, normed);
        let result = normed.clone();
        self.return_workspace(workspace);
        result
    }

    /// Lets go of the buffers of passes that have ended, for other passes may want others.
    pub(crate) fn forget_workspaces(&self) {
        if let Ok(mut free) = self.workspaces.lock() {
            free.clear();
        }
    }

    fn take_workspace(&self) -> Workspace {
        self.workspaces.lock().map_or_else(|_| None, |mut free| free.pop()).unwrap_or_default()
    }

    fn return_workspace(&self, workspace: Workspace) {
        // After a panic elsewhere the pool is given up; buffers are then allocated anew.
        if let Ok(mut free) = self.workspaces.lock() {
            free.push(workspace);
        }
    }

    fn embed(&self, tokens: impl ExactSizeIterator<Item = u32>, states: &mut Vec<f32>) {
        let hidden = self.config.hidden_size;
        sized(states, tokens.len() * hidden);
        for (row, token) in states.chunks_exact_mut(hidden).zip(tokens) {
            self.weights.embed(token, row);
            if self.config.embedding_scale != 1.0 {
                row.iter_mut().for_each(|value| *value *= self.config.embedding_scale);
            }
        }
    }

    /// Stores each step's keys and values, and lets its queries see the sequence so far.
    fn attend_cached(
        &self,
        threads: Threads,
        layer: usize,
        queries: &[f32],
        keys_values: &[f32],
        steps: &mut [Step<'_>],
        mixed: &mut [f32],
    ) {
        let ModelConfig { heads, kv_heads, head_dim, .. } = self.config;
        let group = heads / kv_heads * head_dim;
        let width = heads * head_dim;
        let window = self.config.attention[layer].window;
        let one = |scores: &mut Vec<f32>, ((step, mixed), (queries, row)): StepInOut<'_, '_>| {
            step.cache.store(layer, step.position, row);
            for head in 0..kv_heads {
                let range = head * group..(head + 1) * group;
                let cached = step.cache.head(layer, head);
                let queries = Queries {
                    rows: &queries[range.clone()],
                    visible: &vec![Visible::up_to(step.position, window); heads / kv_heads],
                    scale: self.config.attention_scale,
                    softcap: self.config.attention_softcap,
                };
                attend(queries, cached, scores, &mut mixed[range]);
            }
        };
        let row_width = 2 * kv_heads * head_dim;
        match threads {
            Threads::One => {
                let mut scores = Vec::new();
                let outputs = steps.iter_mut().zip(mixed.chunks_exact_mut(width));
                let inputs = queries.chunks_exact(width).zip(keys_values.chunks_exact(row_width));
                outputs.zip(inputs).for_each(|step| one(&mut scores, step));
            }
            Threads::All => {
                let outputs = steps.par_iter_mut().zip(mixed.par_chunks_exact_mut(width));
                let inputs = queries.par_chunks_exact(width).zip(keys_values.par_chunks_exact(row_width));
                outputs.zip(inputs).for_each_init(Vec::new, one);
            }
        }
    }

    /// Output projection, residual, feed-forward block, residual: in blocks of rows, so that the wide activations
    /// stay in the cache.
    fn finish_layer(
        &self,
        threads: Threads,
        layer: &LayerWeights,
        mixed: &[f32],
        states: &mut [f32],
        scratch: &mut FeedForward,
    ) {
        let ModelConfig { hidden_size: hidden, intermediate_size: inner, .. } = self.config;
        let rows = match threads {
            Threads::One => FEED_FORWARD_ROWS,
            Threads::All => (states.len() / hidden).max(1),
        };
        let width = mixed.len() / (states.len() / hidden).max(1);
        let FeedForward { normed, gate_up, gated, outputs } = scratch;
        for (states, mixed) in states.chunks_mut(rows * hidden).zip(mixed.chunks(rows * width)) {
            self.join(threads, (mixed, &layer.output), layer.attention_norm.as_ref(), states, outputs);
            self.normalise(threads, states, &layer.feed_forward_norm, normed);
            product(threads, normed, &layer.gate_up, gate_up);
            sized(gated, gate_up.len() / 2);
            let gate = match self.config.activation {
                Activation::Silu => swiglu,
                Activation::GeluTanh => geglu,
            };
            match threads {
                Threads::One => gate(gate_up, inner, gated),
                Threads::All => gate_up
                    .par_chunks(2 * inner * ROW_BLOCK)
                    .zip(gated.par_chunks_mut(inner * ROW_BLOCK))
                    .for_each(|(gate_up, gated)| gate(gate_up, inner, gated)),
            }
            self.join(threads, (gated, &layer.down), layer.down_norm.as_ref(), states, outputs);
        }
    }

    /// Adds a projection's outputs to the residual stream, normalised first where there is a norm.
    fn join(
        &self,
        threads: Threads,
        (x, weights): (&[f32], &Stacked),
        norm: Option<&Norm>,
        states: &mut [f32],
        outputs: &mut Vec<f32>,
    ) {
        let Some(norm) = norm else {
            add_bias(states, &weights.bias);
            return gemm(threads, x, weights.matrix.view(), states, true);
        };
        product(threads, x, weights, outputs);
        self.normalise_in_place(threads, outputs, self.config.hidden_size, norm);
        states.iter_mut().zip(outputs.iter()).for_each(|(state, output)| *state += output);
    }

    fn normalise(&self, threads: Threads, states: &[f32], norm: &Norm, normed: &mut Vec<f32>) {
        let weight = norm.weight.as_slice();
        sized(normed, states.len());
        let epsilon = self.config.rms_norm_eps;
        let block = self.config.hidden_size * ROW_BLOCK;
        match threads {
            Threads::One => rms_norm(states, weight, epsilon, normed),
            Threads::All => states
                .par_chunks(block)
                .zip(normed.par_chunks_mut(block))
                .for_each(|(states, normed)| rms_norm(states, weight, epsilon, normed)),
        }
    }

    /// Normalises rows of `width`, each piece of the norm's own width apart.
    fn normalise_in_place(&self, threads: Threads, rows: &mut [f32], width: usize, norm: &Norm) {
        let epsilon = self.config.rms_norm_eps;
        match threads {
            Threads::One => rms_norm_in_place(rows, &norm.weight, epsilon),
            Threads::All => rows
                .par_chunks_mut(width * ROW_BLOCK)
                .for_each(|rows| rms_norm_in_place(rows, &norm.weight, epsilon)),
        }
    }

    /// Normalises each head's query, where the model does that, and rotates it.
    fn turn_queries(
        &self,
        threads: Threads,
        layer: usize,
        queries: &mut [f32],
        position: impl Fn(usize) -> usize,
    ) {
        let width = self.config.heads * self.config.head_dim;
        if let Some((norm, _)) = &self.weights.layers[layer].query_key_norms {
            self.normalise_in_place(threads, queries, width, norm);
        }
        let rope = &self.ropes[self.config.attention[layer].rotary];
        for (row, query) in queries.chunks_exact_mut(width).enumerate() {
            rotate(query, self.config.head_dim, rope.at(position(row)));
        }
    }

    /// Normalises each head's key, where the model does that, and rotates it; values stay.
    fn turn_keys(&self, layer: usize, keys_values: &mut [f32], position: impl Fn(usize) -> usize) {
        let width = self.config.kv_heads * self.config.head_dim;
        let rope = &self.ropes[self.config.attention[layer].rotary];
        let norm = self.weights.layers[layer].query_key_norms.as_ref().map(|(_, key)| key.weight.as_slice());
        for (row, key_value) in keys_values.chunks_exact_mut(2 * width).enumerate() {
            let keys = &mut key_value[..width];
            if let Some(weight) = norm {
                rms_norm_in_place(keys, weight, self.config.rms_norm_eps);
            }
            rotate(keys, self.config.head_dim, rope.at(position(row)));
        }
    }
}

/// A buffer of that length, whatever is in it, without the room that a growing vector takes.
fn sized(buffer: &mut Vec<f32>, length: usize) {
    if buffer.capacity() < length {
        *buffer = Vec::with_capacity(length);
    }
    buffer.resize(length, 0.0);
}

/// `y = x · Wᵀ + bias`.
fn product(threads: Threads, x: &[f32], weights: &Stacked, y: &mut Vec<f32>) {
    let Stacked { matrix, bias, .. } = weights;
    sized(y, x.len() / matrix.inputs * matrix.outputs);
    if !bias.is_empty() {
        y.chunks_exact_mut(matrix.outputs).for_each(|y| y.copy_from_slice(bias));
    }
    gemm(threads, x, matrix.view(), y, !bias.is_empty());
}

/// Adds the bias, where there is one, to every row.
fn add_bias(rows: &mut [f32], bias: &[f32]) {
    if bias.is_empty() {
        return;
    }
    for row in rows.chunks_exact_mut(bias.len()) {
        row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
    }
}

/// Keeps the given rows (ascending), in order.
fn keep_rows(rows: &mut Vec<f32>, kept: &[u32], width: usize) {
    for (to, &from) in kept.iter().enumerate() {
        rows.copy_within(from as usize * width..(from as usize + 1) * width, to * width);
    }
    rows.truncate(kept.len() * width);
}
