//! What a pass takes beside weights and caches, known before it runs.

use super::attention::QUERY_ROWS;
use crate::kernels::{PANEL, Threads};
use crate::model::ModelConfig;

/// Bytes of f32 activations.
const FLOAT: u64 = 4;

/// An upper bound on the activations of one pass: linear in its rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PassBytes {
    row: u64,
    /// What does not grow with the rows.
    fixed: u64,
}

impl PassBytes {
    /// For passes on one thread, or by `pool` threads together.
    pub(crate) fn of(config: &ModelConfig, threads: Threads, pool: usize) -> Self {
        let pool = match threads {
            Threads::One => 1,
            Threads::All => pool,
        };
        let ModelConfig { hidden_size: hidden, intermediate_size: inner, heads, kv_heads, head_dim, .. } =
            *config;
        // Residual stream, its normalised copy, the result; keys and values; queries and what attention makes of them.
        let states = 3 * hidden + 2 * kv_heads * head_dim + 2 * heads * head_dim;
        // Normalised input, gate and up, their product, outputs: of a block of rows, or of all.
        let feed_forward = 2 * hidden + 3 * inner;
        // Per thread one head's keys and values along a path, and a block's scores on it.
        let path = head_dim + head_dim.next_multiple_of(PANEL) + QUERY_ROWS * heads / kv_heads;
        let row = FLOAT * (states + feed_forward + pool * path) as u64;
        // A path is padded to whole panels; rows, tokens and positions are indices of a few bytes each.
        let fixed = FLOAT * (pool * (path * PANEL + HEAD)) as u64;
        Self { row: row + 64, fixed }
    }

    /// Bytes of a pass of so many rows.
    pub(crate) fn at(&self, rows: usize) -> u64 {
        self.fixed + self.row * rows as u64
    }

    /// The largest pass that takes no more.
    pub(crate) fn most_rows(&self, bytes: u64) -> usize {
        usize::try_from(bytes.saturating_sub(self.fixed) / self.row).unwrap_or(usize::MAX)
    }
}

/// Elements of the output head's block of logits, per thread.
const HEAD: usize = super::head::ROWS * super::head::PANELS * PANEL;
