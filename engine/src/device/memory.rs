//! What passes and sequences take on a device beside the weights, known before they run: upper bounds, for what the
//! device's allocator gives and when it takes it back is its own affair.

use super::attention::{FREE_SCORES, GROUP_KEYS, GROUP_SCORES, QUERY_ROWS};
use super::forward::LOGITS;
use crate::memory::share_of_host;
use crate::model::ModelConfig;
use candle_core::{Device, Result};

/// Bytes of f32.
const FLOAT: usize = 4;
/// Copies of a group's scores that exist at a time: products, scaled, masked, normalised.
const SCORES: usize = 4;
/// Copies of a group's keys and values: gathered, and in the order that products want.
const GATHERED: usize = 4;
/// No pass has more rows.
const MOST_ROWS: usize = 1 << 20;
/// Windows that a model's layers may have together: a step makes a mask for each.
const WINDOWS: usize = 2;

/// Share of a device's free memory that an engine may take by itself: the rest is for what allocators leave unused.
#[cfg(feature = "cuda")]
const DEVICE_SHARE: f64 = 0.9;

/// What an engine may take of a device's memory where it is not told: nine tenths of what is free there, or the host's
/// share for candle's CPU device.
pub(crate) fn default_budget(device: &Device) -> Result<u64> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => Ok((super::cuda::memory(device)?.0 as f64 * DEVICE_SHARE) as u64),
        _ => Ok(share_of_host()),
    }
}

/// Sizes that decide what a pass takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct PassSizes<'a> {
    pub(super) config: &'a ModelConfig,
    /// Bytes of an activation's element.
    pub(super) element: usize,
}

impl PassSizes<'_> {
    /// Bytes of a pass of so many rows, and of the logits that exist at a time.
    pub(super) fn pass(&self, rows: usize) -> u64 {
        let ModelConfig { heads, kv_heads, head_dim, vocab_size, .. } = *self.config;
        let square = rows.saturating_mul(rows);
        // A group's padding included.
        let scores = (square + square / 10 + FREE_SCORES).min(GROUP_SCORES.max(QUERY_ROWS * rows));
        let gathered = square.min(GROUP_KEYS.max(rows));
        let logits = rows.min((LOGITS / vocab_size).max(1)) * self.logits();
        (rows * self.row() + logits) as u64
            + (scores * (SCORES * heads * self.element + self.mask())) as u64
            + (GATHERED * gathered * kv_heads * head_dim * self.element) as u64
    }

    /// The largest pass that takes no more.
    pub(super) fn most_rows(&self, bytes: u64) -> usize {
        let (mut fits, mut over) = (0, MOST_ROWS);
        while fits + 1 < over {
            let rows = fits.midpoint(over);
            *if self.pass(rows) <= bytes { &mut fits } else { &mut over } = rows;
        }
        fits
    }

    /// Bytes of the keys and values of so many positions.
    pub(super) fn cache(&self, positions: usize) -> u64 {
        let ModelConfig { layers, kv_heads, head_dim, .. } = *self.config;
        (2 * layers * kv_heads * head_dim * positions * self.element) as u64
    }

    /// Bytes of a sequence that is being decoded, its cache included.
    pub(super) fn sequence(&self, positions: usize) -> u64 {
        let ModelConfig { layers, heads, .. } = *self.config;
        let scores = positions * (SCORES * heads * self.element + WINDOWS * self.mask());
        // One layer's keys and values may be copied for the products.
        self.cache(positions) + self.cache(positions) / layers as u64 + (scores + self.logits()) as u64
    }

    /// Bytes of a sequence that is computed by itself: its prompt in one pass, then token by token.
    pub(super) fn alone(&self, prompt: usize, positions: usize) -> u64 {
        let scores = SCORES * self.config.heads * prompt * prompt * self.element;
        (self.row() * prompt + scores) as u64 + self.sequence(positions)
    }

    /// Of one row of a pass, attention apart.
    fn row(&self) -> usize {
        let ModelConfig { hidden_size, intermediate_size, heads, kv_heads, head_dim, .. } = *self.config;
        let (queries, keys) = (heads * head_dim, kv_heads * head_dim);
        self.element * (8 * hidden_size + 5 * queries + 6 * keys + 4 * intermediate_size)
            + 2 * FLOAT * hidden_size
    }

    /// Of a score's mask: what is seen, within the window, both; and the mask made of it.
    fn mask(&self) -> usize {
        3 + self.element
    }

    /// Of one row: as products, in f32, and what softmax or a choice makes of them.
    fn logits(&self) -> usize {
        self.config.vocab_size * (self.element + 3 * FLOAT + 1)
    }
}
