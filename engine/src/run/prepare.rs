//! What is done once per sweep: rendering, tokenising, planning batches. Points reuse it.

use super::score::ScoreChunk;
use crate::ItemError;
use crate::model::BaseModel;
use crate::text::Message;
use rayon::prelude::*;
use std::sync::Arc;

/// A query to score: a conversation, and what the model might answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScoreItem {
    /// The conversation up to the model's turn.
    pub messages: Vec<Message>,
    /// Possible answers, usually one per level.
    pub references: Vec<String>,
}

/// A query to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptItem {
    /// The conversation up to the model's turn.
    pub messages: Vec<Message>,
    /// Seed of this query's sampling; greedy decoding does not use it.
    pub seed: u64,
}

/// Tokens of one query and its references.
#[derive(Debug)]
pub(crate) struct ScoreTokens {
    pub(crate) prompt: Vec<u32>,
    /// Tokens (the one that ends the turn included) and UTF-8 bytes of each reference.
    pub(crate) references: Vec<(Vec<u32>, u32)>,
}

impl ScoreTokens {
    /// Rows that it takes where nothing is shared but the prompt.
    pub(crate) fn rows(&self) -> usize {
        self.prompt.len() + self.references.iter().map(|(tokens, _)| tokens.len()).sum::<usize>()
    }
}

/// Queries ready to be scored at any number of points.
#[derive(Clone)]
pub struct PreparedScores {
    pub(crate) model: Arc<str>,
    pub(crate) items: Vec<Result<Arc<ScoreTokens>, ItemError>>,
    pub(crate) chunks: Arc<[ScoreChunk]>,
    size: ChunkSize,
}

/// How many rows are scored together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChunkSize {
    /// About so many: a chunk is full when it has them.
    pub(crate) tokens: usize,
    /// Never more.
    pub(crate) most: usize,
}

impl BaseModel {
    /// Renders, tokenises and plans queries for scoring, once for all points. Items that cannot be scored are
    /// reported with every point's results, and by [`PreparedScores::failures`].
    pub fn prepare_scores(&self, items: &[ScoreItem]) -> PreparedScores {
        let size = ChunkSize { tokens: chunk_tokens(self), most: usize::MAX };
        PreparedScores::new(self, items, size, |_| Ok(()))
    }
}

impl PreparedScores {
    /// Plans chunks of that size; `fits` refuses items of too many rows.
    pub(crate) fn new(
        base: &BaseModel,
        items: &[ScoreItem],
        size: ChunkSize,
        fits: impl Fn(&ScoreTokens) -> Result<(), ItemError> + Sync,
    ) -> Self {
        let encode = |item: &ScoreItem| {
            let tokens = encode(base, item)?;
            fits(&tokens)?;
            Ok(Arc::new(tokens))
        };
        let items = items.par_iter().map(encode).collect();
        Self::plan(Arc::from(base.fingerprint()), items, size)
    }

    fn plan(model: Arc<str>, items: Vec<Result<Arc<ScoreTokens>, ItemError>>, size: ChunkSize) -> Self {
        let chunks = ScoreChunk::plan(&items, size).into();
        Self { model, items, chunks, size }
    }

    /// Some of these queries, in the given order, without tokenising again.
    ///
    /// # Panics
    /// When an index is not below [`len`](Self::len).
    #[must_use]
    pub fn select(&self, indices: &[usize]) -> Self {
        let items = indices.iter().map(|&index| self.items[index].clone()).collect();
        Self::plan(Arc::clone(&self.model), items, self.size)
    }

    /// Number of queries, those that cannot be scored included.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is no query.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Queries that cannot be scored at any point, with the reason.
    pub fn failures(&self) -> impl Iterator<Item = (usize, &ItemError)> {
        failures(&self.items)
    }

    /// Tokens that one point computes: shared beginnings count once.
    pub fn tokens(&self) -> usize {
        self.chunks.iter().map(ScoreChunk::tokens).sum()
    }

    /// Tokens whose probability one point asks for.
    pub fn targets(&self) -> usize {
        self.chunks.iter().map(ScoreChunk::targets).sum()
    }
}

/// Prompts ready to be answered at any number of points.
#[derive(Clone)]
pub struct PreparedPrompts {
    pub(crate) model: Arc<str>,
    pub(crate) items: Vec<Result<PromptTokens, ItemError>>,
}

/// Tokens of one prompt.
#[derive(Debug, Clone)]
pub(crate) struct PromptTokens {
    pub(crate) tokens: Arc<[u32]>,
    pub(crate) seed: u64,
}

impl PreparedPrompts {
    pub(crate) fn new(base: &BaseModel, items: &[PromptItem]) -> Self {
        let encode = |item: &PromptItem| {
            let tokens = base.text.prompt(&item.messages)?.tokens;
            fits(base, "the prompt with one new token", tokens.len() + 1)?;
            Ok(PromptTokens { tokens: tokens.into(), seed: item.seed })
        };
        Self { model: Arc::from(base.fingerprint()), items: items.par_iter().map(encode).collect() }
    }

    /// Some of these prompts, in the given order, without tokenising again.
    ///
    /// # Panics
    /// When an index is not below [`len`](Self::len).
    #[must_use]
    pub fn select(&self, indices: &[usize]) -> Self {
        let items = indices.iter().map(|&index| self.items[index].clone()).collect();
        Self { model: Arc::clone(&self.model), items }
    }

    /// Prompts that can be answered, with their indices.
    pub(crate) fn ready(&self) -> impl Iterator<Item = (usize, &PromptTokens)> {
        self.items.iter().enumerate().filter_map(|(index, item)| Some((index, item.as_ref().ok()?)))
    }

    /// Number of prompts, those that cannot be answered included.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is no prompt.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Prompts that cannot be answered at any point, with the reason.
    pub fn failures(&self) -> impl Iterator<Item = (usize, &ItemError)> {
        failures(&self.items)
    }
}

fn failures<T>(items: &[Result<T, ItemError>]) -> impl Iterator<Item = (usize, &ItemError)> {
    items.iter().enumerate().filter_map(|(index, item)| Some((index, item.as_ref().err()?)))
}

fn encode(base: &BaseModel, item: &ScoreItem) -> Result<ScoreTokens, ItemError> {
    let text = &base.text;
    let prompt = text.prompt(&item.messages)?;
    let mut references = Vec::with_capacity(item.references.len());
    for (index, reference) in item.references.iter().enumerate() {
        let tokens = text.reference(&item.messages, &prompt, reference)?;
        let total = prompt.tokens.len() + tokens.len();
        fits(base, &format!("the prompt with reference {}", index + 1), total)?;
        references.push((tokens, u32::try_from(reference.len()).unwrap_or(u32::MAX)));
    }
    Ok(ScoreTokens { prompt: prompt.tokens, references })
}

fn fits(base: &BaseModel, what: &str, tokens: usize) -> Result<(), ItemError> {
    let context = base.config().context;
    if tokens <= context {
        return Ok(());
    }
    Err(ItemError::TooLong { what: what.to_owned(), tokens, context })
}

/// Tokens per chunk: enough rows to make matrix products of it, few enough for several chunks to share the cores
/// and for the activations to stay in the cache. A function of the model only, never of the machine.
pub(crate) fn chunk_tokens(base: &BaseModel) -> usize {
    if base.config().hidden_size <= 256 { 256 } else { 1024 }
}
