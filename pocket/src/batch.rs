//! Questions with answers as padded batches of token ids.

use candle_core::{Device, Tensor};

use crate::corpus::Query;
use crate::error::Result;
use crate::vocabulary::{PAD_ID, Vocabulary};

/// One query's tokens: the prompt and the answer of every level.
#[derive(Debug, Clone)]
pub struct EncodedQuery {
    /// Index of the query's domain.
    pub domain: usize,
    /// Opened question, up to and including the token that asks for the answer.
    pub prompt: Vec<u32>,
    /// Answers with their end token, in level order.
    pub answers: [Vec<u32>; 3],
}

impl EncodedQuery {
    /// Encodes one query.
    ///
    /// # Errors
    /// When the tokenizer refuses a text.
    pub fn new(vocabulary: &Vocabulary, query: &Query) -> Result<Self> {
        let [avoidance, generic, expert] = &query.references;
        Ok(Self {
            domain: query.domain,
            prompt: vocabulary.prompt(&query.text)?,
            answers: [vocabulary.answer(avoidance)?, vocabulary.answer(generic)?, vocabulary.answer(expert)?],
        })
    }

    /// Whether another level's answer shares everything before token `position` of `level`'s
    /// answer: there the model chooses between levels; elsewhere it completes one.
    pub fn is_decision(&self, level: usize, position: usize) -> bool {
        let answer = &self.answers[level];
        self.answers.iter().enumerate().any(|(other, tokens)| {
            other != level && tokens.len() > position && tokens[..position] == answer[..position]
        })
    }
}

/// Encodes all queries.
///
/// # Errors
/// When the tokenizer refuses a text.
pub fn encode_all<'a>(
    vocabulary: &Vocabulary,
    queries: impl IntoIterator<Item = &'a Query>,
) -> Result<Vec<EncodedQuery>> {
    queries.into_iter().map(|query| EncodedQuery::new(vocabulary, query)).collect()
}

/// Sequences padded on the right. Row `3·q + l` is query `q` answered at level `l`.
///
/// Padding needs no mask: attention is causal, and only answer positions are read.
#[derive(Debug)]
pub struct Batch {
    /// Token ids, (rows, width), u32.
    pub ids: Tensor,
    /// Flat indices into rows × width of the positions that predict an answer token, (n), u32.
    pub positions: Tensor,
    /// The answer tokens predicted there, (n), u32.
    pub targets: Tensor,
    /// The row of each predicted token, (n), u32.
    pub rows: Tensor,
    /// 1 where the token chooses between levels, 0 where it completes one, (n), f32.
    pub decisions: Tensor,
    /// The level of each predicted token's answer, by token.
    pub levels: Vec<usize>,
    /// Answer tokens per row, end token included.
    pub lengths: Vec<usize>,
}

impl Batch {
    /// Lays out queries × levels.
    ///
    /// # Errors
    /// When a tensor cannot be made.
    pub fn new(queries: &[&EncodedQuery], device: &Device) -> Result<Self> {
        let sequences = || queries.iter().flat_map(|query| (0..3).map(move |level| (*query, level)));
        let width = sequences()
            .map(|(query, level)| query.prompt.len() + query.answers[level].len() - 1)
            .max()
            .unwrap_or(1);
        let rows_in_all = 3 * queries.len();
        let mut ids = vec![PAD_ID; rows_in_all * width];
        let (mut positions, mut targets, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        let (mut decisions, mut levels, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        for (row, (query, level)) in sequences().enumerate() {
            let answer = &query.answers[level];
            let start = row * width;
            let prompt_end = start + query.prompt.len();
            ids[start..prompt_end].copy_from_slice(&query.prompt);
            ids[prompt_end..prompt_end + answer.len() - 1].copy_from_slice(&answer[..answer.len() - 1]);
            for (offset, &token) in answer.iter().enumerate() {
                positions.push(index(prompt_end - 1 + offset));
                targets.push(token);
                rows.push(index(row));
                decisions.push(f32::from(u8::from(query.is_decision(level, offset))));
                levels.push(level);
            }
            lengths.push(answer.len());
        }
        let count = targets.len();
        Ok(Self {
            ids: Tensor::from_vec(ids, (rows_in_all, width), device)?,
            positions: Tensor::from_vec(positions, count, device)?,
            targets: Tensor::from_vec(targets, count, device)?,
            rows: Tensor::from_vec(rows, count, device)?,
            decisions: Tensor::from_vec(decisions, count, device)?,
            levels,
            lengths,
        })
    }

    /// Rows of the batch: three per query.
    pub fn row_count(&self) -> usize {
        self.lengths.len()
    }

    /// Answer tokens of the batch.
    pub fn token_count(&self) -> usize {
        self.levels.len()
    }
}

fn index(value: usize) -> u32 {
    u32::try_from(value).expect("a batch holds far fewer than 2^32 tokens")
}
