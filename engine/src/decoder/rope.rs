//! Rotary angles, computed block by block as positions are first needed.

use crate::model::Rotary;
use std::sync::OnceLock;

/// Positions per block.
const BLOCK: usize = 512;

/// cos and sin of position · frequency, for every position of the context.
pub(crate) struct RotaryTable {
    rotary: Rotary,
    /// Each block holds, per position, the cosines and then the sines.
    blocks: Vec<OnceLock<Vec<f32>>>,
}

impl RotaryTable {
    /// An empty table for `context` positions.
    pub(crate) fn new(rotary: &Rotary, context: usize) -> Self {
        let blocks = (0..context.div_ceil(BLOCK)).map(|_| OnceLock::new()).collect();
        Self { rotary: rotary.clone(), blocks }
    }

    /// Cosines and sines of a position below the context length, one per frequency.
    pub(crate) fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let half = self.rotary.frequencies.len();
        let block = self.blocks[position / BLOCK].get_or_init(|| self.block(position / BLOCK * BLOCK));
        block[position % BLOCK * 2 * half..][..2 * half].split_at(half)
    }

    fn block(&self, start: usize) -> Vec<f32> {
        let Rotary { frequencies, attention_factor } = &self.rotary;
        let mut values = Vec::with_capacity(BLOCK * 2 * frequencies.len());
        for position in start..start + BLOCK {
            // As transformers has it: angles in f32. In f64 they would differ at high positions.
            let angle = |frequency: &f32| f64::from(position as f32 * frequency);
            values
                .extend(frequencies.iter().map(|frequency| angle(frequency).cos() as f32 * attention_factor));
            values
                .extend(frequencies.iter().map(|frequency| angle(frequency).sin() as f32 * attention_factor));
        }
        values
    }
}
