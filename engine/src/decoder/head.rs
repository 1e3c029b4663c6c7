//! The output head: logits, and log-probabilities of given tokens without ever holding a whole row of logits.

use crate::kernels::{PANEL, PackedMatrix, RunningSoftmax, Threads, gemm, soft_cap};
use rayon::prelude::*;

/// Hidden states that pass the head together.
pub(super) const ROWS: usize = 192;
/// Panels of the head per block: with [`ROWS`] rows the logits take 216 KiB, whatever the vocabulary.
pub(super) const PANELS: usize = 18;

/// A token whose log-probability is wanted after a hidden state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenTarget {
    /// Row of the hidden states.
    pub(crate) row: u32,
    pub(crate) token: u32,
}

/// The output head of a point.
#[derive(Clone, Copy)]
pub(crate) struct Head<'a> {
    /// `[vocabulary, hidden]`.
    pub(crate) matrix: &'a PackedMatrix,
    /// Logits l become c · tanh(l / c).
    pub(crate) softcap: Option<f32>,
}

impl Head<'_> {
    /// Logits of rows of hidden states, `[rows, vocabulary]`.
    pub(crate) fn logits(&self, threads: Threads, hidden: &[f32]) -> Vec<f32> {
        let mut logits = vec![0.0; hidden.len() / self.matrix.inputs * self.matrix.outputs];
        gemm(threads, hidden, self.matrix.view(), &mut logits, false);
        self.cap(&mut logits);
        logits
    }

    fn cap(&self, logits: &mut [f32]) {
        if let Some(cap) = self.softcap {
            soft_cap(logits, 1.0, cap);
        }
    }

    /// log softmax(logits of row)\[token\] for every target; targets are ordered by row.
    ///
    /// The head passes in blocks of outputs; each row keeps a running maximum and sum.
    pub(crate) fn log_probabilities(
        &self,
        threads: Threads,
        hidden: &[f32],
        targets: &[TokenTarget],
    ) -> Vec<f64> {
        let width = self.matrix.inputs;
        let rows = hidden.len() / width;
        let mut results = vec![0.0; targets.len()];
        // One stretch of targets and results per block of rows.
        let mut blocks = Vec::with_capacity(rows.div_ceil(ROWS));
        let (mut targets, mut rest) = (targets, results.as_mut_slice());
        for start in (0..rows).step_by(ROWS) {
            let end = (start + ROWS).min(rows);
            let count = targets.partition_point(|target| (target.row as usize) < end);
            let (own, later) = targets.split_at(count);
            let (own_results, later_results) = rest.split_at_mut(count);
            blocks.push((start, &hidden[start * width..end * width], own, own_results));
            (targets, rest) = (later, later_results);
        }
        debug_assert!(targets.is_empty(), "targets are ordered by row and lie inside the hidden states");
        match threads {
            Threads::One => {
                let mut logits = Vec::new();
                blocks.into_iter().for_each(|block| self.row_block(block, &mut logits));
            }
            Threads::All => {
                blocks.into_par_iter().for_each_init(Vec::new, |logits, block| self.row_block(block, logits));
            }
        }
        results
    }

    fn row_block(&self, block: RowBlock<'_>, logits: &mut Vec<f32>) {
        let head = self.matrix;
        let (start, hidden, targets, results) = block;
        let rows = hidden.len() / head.inputs;
        let panels = head.outputs.div_ceil(PANEL);
        let mut running = vec![RunningSoftmax::EMPTY; rows];
        for first in (0..panels).step_by(PANELS) {
            let weights = head.some_panels(first, (first + PANELS).min(panels));
            let (first_token, width) = (first * PANEL, weights.outputs);
            logits.resize(rows * width, 0.0);
            gemm(Threads::One, hidden, weights, logits, false);
            self.cap(logits);
            for (target, result) in targets.iter().zip(results.iter_mut()) {
                if let Some(column) =
                    (target.token as usize).checked_sub(first_token).filter(|&column| column < width)
                {
                    *result = f64::from(logits[(target.row as usize - start) * width + column]);
                }
            }
            for (running, logits) in running.iter_mut().zip(logits.chunks_exact_mut(width)) {
                running.push(logits);
            }
        }
        for (target, result) in targets.iter().zip(results) {
            *result -= running[target.row as usize - start].log_sum();
        }
    }
}

/// First row, hidden states, targets and results of a block of rows.
type RowBlock<'a> = (usize, &'a [f32], &'a [TokenTarget], &'a mut [f64]);
