//! Teacher-forced scoring: how probable each reference is after its prompt.

use super::prepare::{ChunkSize, PreparedScores, ScoreTokens};
use crate::ItemError;
use crate::decoder::{Decoder, Forest, ForestBuilder, PassBytes, TokenTarget};
use crate::kernels::Threads;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// One reference's score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReferenceScore {
    /// Σ log p(token | prompt, earlier tokens), natural logarithm, the token that ends the turn included.
    pub log_prob_sum: f64,
    /// Tokens in the sum.
    pub tokens: u32,
    /// UTF-8 bytes of the reference as given.
    pub bytes: u32,
}

/// Some adjacent queries of a job, packed into one forward pass.
pub(crate) struct ScoreChunk {
    items: Range<usize>,
    forest: Forest,
    /// Rows after which a token's probability is asked for, ascending.
    wanted: Vec<u32>,
    /// Ordered by row (of `wanted`).
    targets: Vec<TokenTarget>,
    /// Index into `targets` of every token of every reference of every item, in that order.
    order: Vec<u32>,
}

impl ScoreChunk {
    /// Cuts items into chunks of that size: a function of the items and of it. On a device, where results depend on the
    /// chunk within rounding, memory only halves the size (`device::TensorDecoder::chunk_size`).
    pub(crate) fn plan(items: &[Result<Arc<ScoreTokens>, ItemError>], size: ChunkSize) -> Vec<Self> {
        let mut chunks = Vec::new();
        let mut start = 0;
        while start < items.len() {
            let mut builder = ForestBuilder::default();
            // Per token of a reference: the node after which it is asked for, and the token.
            let mut asked = Vec::new();
            let mut end = start;
            while end < items.len() && builder.len() < size.tokens {
                if let Ok(item) = &items[end] {
                    if builder.len() > 0 && builder.len() + item.rows() > size.most {
                        break;
                    }
                    insert(&mut builder, item, &mut asked);
                }
                end += 1;
            }
            chunks.push(Self::new(start..end, &builder, &asked));
            start = end;
        }
        chunks
    }

    fn new(items: Range<usize>, builder: &ForestBuilder, asked: &[(u32, u32)]) -> Self {
        let (forest, row_of) = builder.finish();
        let mut by_row: Vec<(u32, u32, usize)> = asked
            .iter()
            .enumerate()
            .map(|(index, &(node, token))| (row_of[node as usize], token, index))
            .collect();
        by_row.sort_unstable();
        let mut wanted: Vec<u32> = Vec::new();
        let mut targets: Vec<TokenTarget> = Vec::new();
        let mut order = vec![0; asked.len()];
        for (row, token, index) in by_row {
            if wanted.last() != Some(&row) {
                wanted.push(row);
            }
            let target = TokenTarget { row: wanted.len() as u32 - 1, token };
            // References that begin alike ask for the same token after the same row.
            if targets.last() != Some(&target) {
                targets.push(target);
            }
            order[index] = targets.len() as u32 - 1;
        }
        Self { items, forest, wanted, targets, order }
    }

    pub(crate) fn tokens(&self) -> usize {
        self.forest.tokens.len()
    }

    pub(crate) fn targets(&self) -> usize {
        self.targets.len()
    }

    /// The rows to run, those whose logits are asked for, and what is asked of them.
    pub(crate) fn asked(&self) -> (&Forest, &[u32], &[TokenTarget]) {
        (&self.forest, &self.wanted, &self.targets)
    }

    /// Scores of the chunk's items on CPU, in order.
    fn run(
        &self,
        threads: Threads,
        decoder: &Decoder,
        items: &[Result<Arc<ScoreTokens>, ItemError>],
    ) -> Vec<Result<Vec<ReferenceScore>, ItemError>> {
        let log_probs = if self.targets.is_empty() {
            Vec::new()
        } else {
            let hidden = decoder.run(threads, &self.forest, &self.wanted, |_, _| {});
            decoder.head().log_probabilities(threads, &hidden, &self.targets)
        };
        self.results(items, &log_probs)
    }

    /// Scores of the chunk's items, in order, from the targets' log-probabilities.
    pub(crate) fn results(
        &self,
        items: &[Result<Arc<ScoreTokens>, ItemError>],
        log_probs: &[f64],
    ) -> Vec<Result<Vec<ReferenceScore>, ItemError>> {
        let mut order = self.order.iter();
        items[self.items.clone()]
            .iter()
            .map(|item| {
                let item = item.as_ref().map_err(Clone::clone)?;
                let scores: Vec<_> = item
                    .references
                    .iter()
                    .map(|(tokens, bytes)| ReferenceScore {
                        log_prob_sum: order
                            .by_ref()
                            .take(tokens.len())
                            .map(|&at| log_probs[at as usize])
                            .sum(),
                        tokens: tokens.len() as u32,
                        bytes: *bytes,
                    })
                    .collect();
                if scores.iter().any(|score| !score.log_prob_sum.is_finite()) {
                    return Err(ItemError::NonFinite);
                }
                Ok(scores)
            })
            .collect()
    }
}

fn insert(builder: &mut ForestBuilder, item: &ScoreTokens, asked: &mut Vec<(u32, u32)>) {
    let prompt = builder.insert(None, &item.prompt);
    let Some(&prompt_end) = prompt.last() else { return };
    for (tokens, _) in &item.references {
        let Some((_, fed)) = tokens.split_last() else { continue };
        // The last token is asked for, but nothing is asked after it.
        let nodes = builder.insert(Some(prompt_end), fed);
        asked.extend(std::iter::once(prompt_end).chain(nodes).zip(tokens.iter().copied()));
    }
}

/// Scores every item at the decoder's point in `room` bytes: chunks in parallel, or, when there are fewer than threads
/// or no room for so many at a time, each chunk with the whole pool.
pub(crate) fn score(
    decoder: &Decoder,
    prepared: &PreparedScores,
    room: u64,
) -> Vec<Result<Vec<ReferenceScore>, ItemError>> {
    let chunks = &prepared.chunks;
    let pool = rayon::current_num_threads();
    let largest = chunks.iter().map(ScoreChunk::tokens).max().unwrap_or(0);
    let abreast = PassBytes::of(&decoder.config, Threads::One, pool).at(largest) * pool as u64;
    let results: Vec<Vec<_>> = if chunks.len() < pool || abreast > room {
        chunks.iter().map(|chunk| chunk.run(Threads::All, decoder, &prepared.items)).collect()
    } else {
        chunks
            .par_iter()
            .with_max_len(1)
            .map(|chunk| chunk.run(Threads::One, decoder, &prepared.items))
            .collect()
    };
    results.into_iter().flatten().collect()
}
