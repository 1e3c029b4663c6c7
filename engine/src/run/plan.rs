//! How a job's prompts are answered together on CPU within the memory that weights leave: settled before anything runs.
//!
//! A function of the job, the model, the memory and, where groups of a small model share it, the number of threads;
//! results do not depend on it.

use super::generate::Finished;
use super::prepare::{PromptTokens, chunk_tokens};
use super::sample::Sampling;
use crate::ItemError;
use crate::decoder::{CacheShape, PassBytes};
use crate::kernels::Threads;
use crate::memory::{GenerationPlan, SHORT_QUERY};
use crate::model::{BaseModel, ModelConfig};

/// Places for sequences of a large model that are decoded together: one reading of the weights serves all of them.
const LARGE_GROUP: usize = 16;

/// Places for sequences of a small model that are decoded together: few, so that all cores have a group.
const SMALL_GROUP: usize = 8;

/// Groups that a small model's prompts are split into where there are enough. Results do not depend on it: a sequence is
/// the same in any batch here.
const SMALL_GROUPS: usize = 8;

/// Above this many weight bytes a step is bound by reading the weights: then one group uses all cores, instead of
/// each core reading all weights for a group of its own.
const LARGE_MODEL: usize = 32 << 20;

/// Of the room, so much may be taken by the pass of joining prompts, longer single prompts apart.
const JOINING: u64 = 4;

/// The plan of one job.
pub(crate) struct Plan<'a> {
    /// Prompts that are answered, in order, by group.
    pub(crate) groups: Vec<Vec<(usize, &'a PromptTokens)>>,
    /// Groups that are under way at a time.
    at_once: usize,
    pub(crate) share: Share,
    /// Prompts that do not fit.
    pub(crate) refused: Vec<Finished>,
}

/// What one group may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    pub(crate) threads: Threads,
    /// Most sequences that are decoded together.
    pub(crate) places: usize,
    /// Bytes that sequences may take together, as [`sequence_bytes`] has them.
    pub(crate) caches: u64,
    /// Prompt tokens that are taken in together at most, a longer prompt apart.
    pub(crate) joining: usize,
    pass: PassBytes,
}

impl Share {
    fn new(base: &BaseModel, threads: Threads, places: usize, room: u64) -> Self {
        let pass = PassBytes::of(base.config(), threads, rayon::current_num_threads());
        let joining = pass.most_rows(room / JOINING).clamp(1, chunk_tokens(base));
        Self { threads, places, caches: room, joining, pass }
    }

    /// Bytes beside the weights while this prompt alone is answered.
    fn alone(&self, config: &ModelConfig, prompt: usize, limit: usize) -> u64 {
        self.pass.at(prompt.max(self.joining)) + sequence_bytes(config, prompt + limit)
    }
}

/// Most tokens of an answer to a prompt of so many.
pub(crate) fn answer_limit(config: &ModelConfig, settings: &Sampling, prompt: usize) -> usize {
    settings.max_new_tokens.min(config.context.saturating_sub(prompt))
}

/// Bytes of a sequence that is being decoded: keys and values, and its logits.
pub(crate) fn sequence_bytes(config: &ModelConfig, positions: usize) -> u64 {
    CacheShape::new(config, positions).bytes() + (size_of::<f32>() * config.vocab_size) as u64
}

/// Bytes beside the weights that a short query takes.
pub(crate) fn least_room(config: &ModelConfig) -> u64 {
    let short = SHORT_QUERY.min(config.context);
    let pass = PassBytes::of(config, Threads::All, rayon::current_num_threads());
    pass.at(short) + sequence_bytes(config, short)
}

impl<'a> Plan<'a> {
    /// Plans for `room` bytes.
    pub(crate) fn new(
        base: &BaseModel,
        prompts: impl Iterator<Item = (usize, &'a PromptTokens)>,
        settings: &Sampling,
        room: u64,
    ) -> Self {
        let config = base.config();
        let whole = Share::new(base, Threads::All, LARGE_GROUP, room);
        let needed = |share: &Share, prompt: &PromptTokens| {
            let tokens = prompt.tokens.len();
            share.alone(config, tokens, answer_limit(config, settings, tokens))
        };
        let (fitting, refused): (Vec<_>, Vec<_>) =
            prompts.partition(|(_, prompt)| needed(&whole, prompt) <= room);
        let refuse = |(item, prompt): (usize, &PromptTokens)| {
            let tokens = prompt.tokens.len() + answer_limit(config, settings, prompt.tokens.len());
            (item, Err(ItemError::Memory { tokens, needed: needed(&whole, prompt), room }))
        };
        let refused = refused.into_iter().map(refuse).collect();
        let (mut share, mut at_once, mut length) = (whole, 1, fitting.len().max(1));
        if base.parameters() * size_of::<f32>() <= LARGE_MODEL {
            let small = fitting.len().div_ceil(SMALL_GROUPS).max(SMALL_GROUP);
            let groups = fitting.len().div_ceil(small).min(rayon::current_num_threads()).max(1);
            let own = Share::new(base, Threads::One, SMALL_GROUP, room / groups as u64);
            if fitting.iter().all(|(_, prompt)| needed(&own, prompt) <= own.caches) {
                (share, at_once, length) = (own, groups, small);
            }
        }
        let longest = fitting.iter().map(|(_, prompt)| prompt.tokens.len()).max().unwrap_or(0);
        share.caches = share.caches.saturating_sub(share.pass.at(longest.max(share.joining)));
        let groups = fitting.chunks(length).map(<[_]>::to_vec).collect();
        Self { groups, at_once, share, refused }
    }

    /// What the plan comes to.
    pub(crate) fn summary(&self, config: &ModelConfig, settings: &Sampling) -> GenerationPlan {
        let mut caches: Vec<u64> = self
            .groups
            .iter()
            .flatten()
            .map(|(_, prompt)| {
                let tokens = prompt.tokens.len();
                CacheShape::new(config, tokens + answer_limit(config, settings, tokens)).bytes()
            })
            .collect();
        caches.sort_unstable_by(|a, b| b.cmp(a));
        let most = self.share.caches * self.at_once as u64;
        let places = self.share.places * self.at_once;
        let (mut sequences, mut cache) = (0, 0);
        // The smallest ones tell how many fit together, the largest ones what they may take.
        let mut held = 0;
        for bytes in caches.iter().rev().take(places) {
            held += bytes + (size_of::<f32>() * config.vocab_size) as u64;
            sequences += usize::from(held <= most);
        }
        for bytes in caches.iter().take(sequences) {
            cache += bytes;
        }
        GenerationPlan { sequences, cache: cache.min(most), prompt_tokens: self.share.joining }
    }
}
