//! Batched generation with a key/value cache: places for so many sequences, refilled as they end.

use super::plan::{Plan, Share, answer_limit, sequence_bytes};
use super::prepare::{PreparedPrompts, PromptTokens};
use super::sample::{Sampler, Sampling};
use crate::ItemError;
use crate::decoder::{CacheShape, Decoder, ForestBuilder, KvCache, Step};
use crate::model::BaseModel;
use rayon::prelude::*;

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// The model ended its turn, or wrote a stop string.
    Stop,
    /// `max_new_tokens` or the model's context was reached.
    Length,
}

impl FinishReason {
    /// `stop` or `length`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// A generated answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// The text, special tokens left out, up to a stop string.
    pub text: String,
    /// Generated tokens, the one that ended the turn included.
    pub tokens: u32,
    /// Why it ended.
    pub finish: FinishReason,
}

/// A sequence being decoded.
struct Sequence {
    /// Index of the prompt.
    item: usize,
    generated: Vec<u32>,
    limit: usize,
    /// Tokens in the cache.
    length: usize,
    cache: KvCache,
    /// What it takes, by the plan's count.
    bytes: u64,
    sampler: Sampler,
}

/// The index of a prompt with its finished sequence's tokens, or what went wrong.
pub(crate) type Finished = (usize, Result<(Vec<u32>, FinishReason), ItemError>);

/// Answers every prompt at the decoder's point, with caches and activations in `room` bytes.
pub(crate) fn generate(
    base: &BaseModel,
    decoder: &Decoder,
    prepared: &PreparedPrompts,
    settings: &Sampling,
    room: u64,
) -> Vec<Result<Generation, ItemError>> {
    let Plan { groups, share, refused, .. } = Plan::new(base, prepared.ready(), settings, room);
    decoder.forget_workspaces();
    let group = Group { base, decoder, settings, share };
    let finished: Vec<Vec<Finished>> =
        groups.par_iter().with_max_len(1).map(|prompts| group.run(prompts)).collect();
    // Neither scoring's buffers beside these caches, nor a long prompt's beside what comes next.
    decoder.forget_workspaces();
    results(base, prepared, settings, finished.into_iter().flatten().chain(refused))
}

/// Texts of finished sequences, and the reasons of prompts that could not be answered; one result per prompt.
pub(crate) fn results(
    base: &BaseModel,
    prepared: &PreparedPrompts,
    settings: &Sampling,
    finished: impl IntoIterator<Item = Finished>,
) -> Vec<Result<Generation, ItemError>> {
    let mut results: Vec<Result<Generation, ItemError>> = prepared
        .items
        .iter()
        .map(|item| Err(item.as_ref().err().cloned().unwrap_or(ItemError::EmptyPrompt)))
        .collect();
    for (item, outcome) in finished {
        results[item] = outcome.and_then(|(tokens, finish)| {
            let text = base.text.decode(&tokens, &settings.stop)?;
            Ok(Generation { text, tokens: tokens.len() as u32, finish })
        });
    }
    results
}

struct Group<'a> {
    base: &'a BaseModel,
    decoder: &'a Decoder,
    settings: &'a Sampling,
    share: Share,
}

impl Group<'_> {
    /// Answers the prompts, in order; the place of a sequence that has ended goes to the next prompt at once.
    fn run(&self, prompts: &[(usize, &PromptTokens)]) -> Vec<Finished> {
        let mut finished = Vec::with_capacity(prompts.len());
        let mut waiting = prompts;
        let mut active: Vec<Sequence> = Vec::new();
        // Of each active sequence, the state after its last token.
        let mut hidden = Vec::new();
        loop {
            while let (joining @ [_, ..], others) = waiting.split_at(self.joining(waiting, &active)) {
                waiting = others;
                let (sequences, states) = self.prefill(joining);
                active.extend(sequences);
                hidden.extend(states);
            }
            if active.is_empty() {
                return finished;
            }
            let logits = self.decoder.head().logits(self.share.threads, &hidden);
            let width = self.base.config().vocab_size;
            let mut going_on = Vec::with_capacity(active.len());
            for (mut sequence, logits) in active.into_iter().zip(logits.chunks_exact(width)) {
                match self.advance(&mut sequence, logits) {
                    None => going_on.push(sequence),
                    Some(outcome) => {
                        let tokens = std::mem::take(&mut sequence.generated);
                        finished.push((sequence.item, outcome.map(|finish| (tokens, finish))));
                    }
                }
            }
            active = going_on;
            let mut steps: Vec<Step<'_>> = active
                .iter_mut()
                .map(|sequence| {
                    let position = sequence.length;
                    sequence.length += 1;
                    let token = *sequence.generated.last().expect("a sequence that goes on has a token");
                    Step { token, position, cache: &mut sequence.cache }
                })
                .collect();
            hidden = match steps.as_mut_slice() {
                [] => Vec::new(),
                steps => self.decoder.step(self.share.threads, steps),
            };
        }
    }

    /// How many of the waiting prompts are taken in next: as many as there are places and memory for, and as one pass
    /// may take together.
    fn joining(&self, waiting: &[(usize, &PromptTokens)], active: &[Sequence]) -> usize {
        let Share { places, caches, joining, .. } = self.share;
        let mut held: u64 = active.iter().map(|sequence| sequence.bytes).sum();
        let mut tokens = 0;
        waiting
            .iter()
            .take(places - active.len())
            .enumerate()
            .take_while(|(index, (_, prompt))| {
                tokens += prompt.tokens.len();
                held += self.bytes(prompt);
                // What is alone fits: the plan has refused what does not.
                let first = *index == 0;
                (first && active.is_empty()) || (held <= caches && (first || tokens <= joining))
            })
            .count()
    }

    fn bytes(&self, prompt: &PromptTokens) -> u64 {
        let config = self.base.config();
        let tokens = prompt.tokens.len();
        sequence_bytes(config, tokens + answer_limit(config, self.settings, tokens))
    }

    /// Takes in all prompts in one packed pass; returns the sequences with the hidden state of each prompt's end.
    fn prefill(&self, prompts: &[(usize, &PromptTokens)]) -> (Vec<Sequence>, Vec<f32>) {
        let config = self.base.config();
        let mut builder = ForestBuilder::default();
        let nodes: Vec<Vec<u32>> =
            prompts.iter().map(|(_, prompt)| builder.insert(None, &prompt.tokens)).collect();
        let (forest, row_of) = builder.finish();
        let end = |nodes: &Vec<u32>| row_of[*nodes.last().expect("a prepared prompt has tokens") as usize];
        let mut wanted: Vec<u32> = nodes.iter().map(end).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut sequences: Vec<Sequence> = prompts
            .iter()
            .map(|&(item, prompt)| {
                let length = prompt.tokens.len();
                let limit = answer_limit(config, self.settings, length);
                Sequence {
                    item,
                    generated: Vec::new(),
                    limit,
                    length,
                    // The last token of all is never taken in.
                    cache: KvCache::new(CacheShape::new(config, length + limit)),
                    bytes: self.bytes(prompt),
                    sampler: Sampler::new(self.settings, prompt.seed),
                }
            })
            .collect();
        let width = 2 * config.kv_heads * config.head_dim;
        let states = self.decoder.run(self.share.threads, &forest, &wanted, |layer, keys_values| {
            for (sequence, nodes) in sequences.iter_mut().zip(&nodes) {
                for (position, &node) in nodes.iter().enumerate() {
                    let row = row_of[node as usize] as usize;
                    sequence.cache.store(layer, position, &keys_values[row * width..(row + 1) * width]);
                }
            }
        });
        let size = config.hidden_size;
        let mut hidden = Vec::with_capacity(prompts.len() * size);
        for nodes in &nodes {
            let at = wanted.partition_point(|&row| row < end(nodes));
            hidden.extend_from_slice(&states[at * size..(at + 1) * size]);
        }
        (sequences, hidden)
    }

    /// Chooses the sequence's next token; returns how it ended, if it did.
    fn advance(&self, sequence: &mut Sequence, logits: &[f32]) -> Option<Result<FinishReason, ItemError>> {
        let Some(token) = sequence.sampler.next(logits) else {
            return Some(Err(ItemError::NonFinite));
        };
        sequence.generated.push(token);
        ending(self.base, self.settings, &sequence.generated, sequence.limit)
    }
}

/// How a sequence ended with its last token, if it did.
pub(crate) fn ending(
    base: &BaseModel,
    settings: &Sampling,
    generated: &[u32],
    limit: usize,
) -> Option<Result<FinishReason, ItemError>> {
    match base.text.ends(generated, &settings.stop) {
        Ok(true) => Some(Ok(FinishReason::Stop)),
        Ok(false) => (generated.len() >= limit).then_some(Ok(FinishReason::Length)),
        Err(error) => Some(Err(error)),
    }
}
