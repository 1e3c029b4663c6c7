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
/// Windows that a model's layers may have together: a step makes a mask for each.
const WINDOWS: usize = 2;

/// What an engine may take of a device's memory where it is not told: 85 % of all of it, or 90 % of what is free where
/// others have much; the host's share for candle's CPU device.
pub(crate) fn default_budget(device: &Device) -> Result<u64> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => {
            let (free, total) = super::cuda::memory(device)?;
            Ok(share_of_device(free as u64, total as u64))
        }
        _ => Ok(share_of_host()),
    }
}

/// A share of all memory, so that what is free at the moment does not decide how batches are made; the rest is for the
/// driver, and for what allocators leave unused.
#[cfg(any(feature = "cuda", test))]
fn share_of_device(free: u64, total: u64) -> u64 {
    (total / 100 * 85).min(free / 100 * 90)
}

/// `most`, or half of it, or a quarter …: the largest that `fits`, and 1 where none does. So memory changes a batch in
/// coarse steps only, and it has the same composition wherever there is about as much.
pub(super) fn halved(most: usize, fits: impl Fn(usize) -> bool) -> usize {
    std::iter::successors(Some(most.max(1)), |size| (*size > 1).then_some(size / 2))
        .find(|size| fits(*size))
        .unwrap_or(1)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_changes_sizes_by_halves_only() {
        let sizes = |most: usize| (1..=400).map(|room| halved(most, |size| size <= room)).collect::<Vec<_>>();
        let mut seen = sizes(256);
        seen.dedup();
        assert_eq!(seen, [1, 2, 4, 8, 16, 32, 64, 128, 256]);
        let mut seen = sizes(150);
        seen.dedup();
        assert_eq!(seen, [1, 2, 4, 9, 18, 37, 75, 150]);
        assert_eq!((halved(0, |_| false), halved(256, |_| false)), (1, 1));
    }

    #[test]
    fn a_device_of_ones_own_is_shared_by_its_size_and_not_by_what_is_free_at_the_moment() {
        let total = 140 << 30;
        let idle = [total, total - (1 << 30), total - (5 << 30)].map(|free| share_of_device(free, total));
        assert_eq!(idle, [total / 100 * 85; 3]);
        let shared = share_of_device(total / 2, total);
        assert!(shared < total / 2 && shared > total / 10 * 4, "{shared}");
    }
}
