//! Rotary angles, computed block by block as positions are first needed.

use crate::model::ModelConfig;
use std::sync::OnceLock;

/// Positions per block.
const BLOCK: usize = 512;

/// cos and sin of position · θ^(−2i/head_dim), for every position of the context.
pub(crate) struct RotaryTable {
    frequencies: Vec<f32>,
    /// Each block holds, per position, the cosines and then the sines.
    blocks: Vec<OnceLock<Vec<f32>>>,
}

impl RotaryTable {
    /// An empty table for the model's context.
    pub(crate) fn new(config: &ModelConfig) -> Self {
        let half = config.head_dim / 2;
        // As transformers has it: frequencies and angles in f32. In f64 they would differ at high positions.
        let frequencies =
            (0..half).map(|i| 1.0 / config.rope_theta.powf(i as f64 / half as f64) as f32).collect();
        let blocks = (0..config.context.div_ceil(BLOCK)).map(|_| OnceLock::new()).collect();
        Self { frequencies, blocks }
    }

    /// Cosines and sines of a position below the context length, each `head_dim / 2` long.
    pub(crate) fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let half = self.frequencies.len();
        let block = self.blocks[position / BLOCK].get_or_init(|| self.block(position / BLOCK * BLOCK));
        block[position % BLOCK * 2 * half..][..2 * half].split_at(half)
    }

    fn block(&self, start: usize) -> Vec<f32> {
        let mut values = Vec::with_capacity(BLOCK * 2 * self.frequencies.len());
        for position in start..start + BLOCK {
            let angle = |frequency: &f32| f64::from(position as f32 * frequency);
            values.extend(self.frequencies.iter().map(|frequency| angle(frequency).cos() as f32));
            values.extend(self.frequencies.iter().map(|frequency| angle(frequency).sin() as f32));
        }
        values
    }
}
