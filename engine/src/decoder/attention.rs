//! Attention over a forest: each row sees the rows on the path to it, itself included.

use super::forest::Forest;
use crate::kernels::{PANEL, PackedHead, Queries, Threads, Visible, attend, head_sizes, store_position};
use crate::model::ModelConfig;
use rayon::prelude::*;
use std::ops::Range;

/// Operands of one layer's attention.
pub(crate) struct ForestAttention<'a> {
    pub(crate) config: &'a ModelConfig,
    pub(crate) layer: usize,
    pub(crate) forest: &'a Forest,
    /// Rotated queries of the wanted rows, `[wanted, heads · head_dim]`.
    pub(crate) queries: &'a [f32],
    /// The wanted rows, ascending.
    pub(crate) wanted: &'a [u32],
    /// Rotated keys and values of all rows, `[rows, 2 · kv_heads · head_dim]`.
    pub(crate) keys_values: &'a [f32],
}

/// Queries of a segment that are computed together: bounds the scores that exist at a time.
pub(super) const QUERY_ROWS: usize = 48;

/// Scratch of one thread: a path's keys and values of one head, and a block of queries on them.
#[derive(Default)]
struct Gathered {
    path: Vec<Range<usize>>,
    keys: Vec<f32>,
    values: Vec<f32>,
    queries: Vec<f32>,
    visible: Vec<Visible>,
    scores: Vec<f32>,
    mixed: Vec<f32>,
}

impl ForestAttention<'_> {
    /// Writes the attention of every wanted row to `out`, `[wanted, heads · head_dim]`.
    pub(crate) fn run(&self, threads: Threads, out: &mut [f32]) {
        let width = self.config.heads * self.config.head_dim;
        // Segments' wanted rows are adjacent in `wanted`, so `out` splits into one stretch per segment.
        let mut jobs = Vec::with_capacity(self.forest.segments.len());
        let mut rest = out;
        let mut from = 0;
        for (index, segment) in self.forest.segments.iter().enumerate() {
            let count = self.wanted[from..].partition_point(|&row| (row as usize) < segment.rows.end);
            if count > 0 {
                let (own, others) = rest.split_at_mut(count * width);
                jobs.push((index, from..from + count, own));
                rest = others;
                from += count;
            }
        }
        debug_assert!(rest.is_empty(), "wanted rows are ascending rows of the forest");
        match threads {
            Threads::One => {
                let mut gathered = Gathered::default();
                for (segment, wanted, out) in jobs {
                    self.segment(segment, wanted, out, &mut gathered);
                }
            }
            Threads::All => {
                jobs.into_par_iter().for_each_init(Gathered::default, |gathered, (segment, wanted, out)| {
                    self.segment(segment, wanted, out, gathered);
                });
            }
        }
    }

    fn segment(&self, index: usize, wanted: Range<usize>, out: &mut [f32], gathered: &mut Gathered) {
        let ModelConfig { heads, kv_heads, head_dim, .. } = *self.config;
        let window = self.config.attention[self.layer].window;
        let segment = &self.forest.segments[index];
        self.forest.path(index, &mut gathered.path);
        let capacity = (segment.start + segment.rows.len()).next_multiple_of(PANEL);
        let group = heads / kv_heads * head_dim;
        let width = heads * head_dim;
        for head in 0..kv_heads {
            self.gather(head, capacity, gathered);
            let columns = head * group..(head + 1) * group;
            let queries = self.queries[wanted.start * width..wanted.end * width].chunks(QUERY_ROWS * width);
            let rows = self.wanted[wanted.clone()].chunks(QUERY_ROWS);
            for ((queries, rows), out) in queries.zip(rows).zip(out.chunks_mut(QUERY_ROWS * width)) {
                let Gathered { keys, values, queries: block, visible, scores, mixed, .. } = gathered;
                block.clear();
                visible.clear();
                for (query, row) in queries.chunks_exact(width).zip(rows) {
                    block.extend_from_slice(&query[columns.clone()]);
                    let position = segment.start + *row as usize - segment.rows.start;
                    visible.extend(std::iter::repeat_n(Visible::up_to(position, window), group / head_dim));
                }
                mixed.resize(block.len(), 0.0);
                let queries = Queries {
                    rows: block,
                    visible,
                    scale: self.config.attention_scale,
                    softcap: self.config.attention_softcap,
                };
                attend(queries, PackedHead { keys, values, head_dim, capacity }, scores, mixed);
                for (out, mixed) in out.chunks_exact_mut(width).zip(mixed.chunks_exact(group)) {
                    out[columns.clone()].copy_from_slice(mixed);
                }
            }
        }
    }

    /// Collects a head's keys and values along the path.
    fn gather(&self, head: usize, capacity: usize, gathered: &mut Gathered) {
        let ModelConfig { kv_heads, head_dim, .. } = *self.config;
        let Gathered { path, keys, values, .. } = gathered;
        let (key_size, value_size) = head_sizes(head_dim, capacity);
        keys.resize(key_size, 0.0);
        values.resize(value_size, 0.0);
        let row_width = 2 * kv_heads * head_dim;
        for (position, row) in path.iter().cloned().flatten().enumerate() {
            let row = &self.keys_values[row * row_width..(row + 1) * row_width];
            let key = &row[head * head_dim..(head + 1) * head_dim];
            let value = &row[(kv_heads + head) * head_dim..][..head_dim];
            store_position(keys, values, capacity, position, (key, value));
        }
        // Behind the last position zeros: values there are multiplied by zero, which only leaves no trace if they
        // are finite.
        let positions = path.iter().map(ExactSizeIterator::len).sum::<usize>();
        values.chunks_exact_mut(capacity * PANEL).for_each(|panel| panel[positions * PANEL..].fill(0.0));
    }
}
