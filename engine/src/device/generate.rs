//! Generation on a device: continuous batching over a preallocated cache.
//!
//! A job's prompts are cut into batches of about one length where that pays. Those of a batch wait in a queue, longest
//! first. Each takes a slot of the cache; when its sequence ends, the next
//! prompt takes the slot before another step is made. A step computes all slots, and one transfer brings the chosen
//! tokens to the host, which only looks for ends. Sampling at a temperature draws on the host, from the same random
//! numbers as on CPU.

use super::attention::Sight;
use super::forward::{Projected, TensorDecoder};
use super::memory::{PassSizes, halved};
use super::store::StoreRows;
use super::weights::device_error;
use crate::decoder::ForestBuilder;
use crate::memory::GenerationPlan;
use crate::model::{BaseModel, ModelConfig};
use crate::run::{Finished, PreparedPrompts, PromptTokens, Sampler, Sampling, answer_limit, ending};
use crate::{EngineError, ItemError};
use candle_core::{D, DType, Device, Result, Tensor};
use rayon::prelude::*;
use std::collections::VecDeque;

/// Sequences that are decoded together at most.
const SLOTS: usize = 256;
/// What a step costs beside reading, in bytes that a device reads meanwhile: its kernels are started one by one.
const STEP: u64 = 4 << 30;
/// Prompt tokens that are taken in together at most, a longer prompt apart: bounds the activations of a pass.
const JOINING: usize = 8192;
/// Of the memory beside the weights, so much may be taken by the pass of joining prompts, longer single prompts apart.
const JOINING_SHARE: u64 = 2;

/// A prompt on its way.
struct Sequence<'a> {
    prompt: &'a PromptTokens,
    item: usize,
    limit: usize,
    generated: Vec<u32>,
    sampler: Sampler,
}

/// Keys and values of all layers, `[slots · kv_heads · capacity, head_dim]` each.
struct Cache {
    layers: Vec<(Tensor, Tensor)>,
    slots: usize,
    kv_heads: usize,
    capacity: usize,
    head_dim: usize,
}

/// Rows of new keys and values, and the cache's rows that they go to: u32, one per position and head.
struct Places {
    from: Tensor,
    to: Tensor,
}

/// How a job's prompts are answered: a function of the job, the model, and the memory beside its weights, which only
/// halves what is done together.
struct Plan<'a> {
    batches: Vec<Planned<'a>>,
    refused: Vec<Finished>,
    /// Prompt tokens that are taken in together.
    joining: usize,
}

/// Prompts that share slots.
struct Planned<'a> {
    /// Longest first.
    prompts: Vec<(usize, &'a PromptTokens)>,
    slots: usize,
    /// Positions of each slot.
    capacity: usize,
}

/// What decides how prompts are put together.
struct Planner<'a> {
    config: &'a ModelConfig,
    sizes: PassSizes<'a>,
    settings: &'a Sampling,
    room: u64,
    joining: usize,
    /// Bytes that a step reads whatever it computes, or could read meanwhile.
    step: u64,
}

impl<'a> Plan<'a> {
    fn new(decoder: &TensorDecoder, prepared: &'a PreparedPrompts, settings: &Sampling) -> Self {
        let (sizes, memory) = (decoder.sizes(), decoder.memory());
        let room = memory.room();
        let joining = halved(JOINING, |rows| sizes.pass(rows) <= room / JOINING_SHARE);
        let step = STEP + memory.merged;
        let planner = Planner { config: &decoder.config, sizes, settings, room, joining, step };
        let (mut fitting, refused): (Vec<_>, Vec<_>) =
            prepared.ready().partition(|(_, prompt)| planner.needed(prompt) <= room);
        let refuse = |(item, prompt): (usize, &PromptTokens)| {
            let (tokens, needed) = (planner.positions(prompt), planner.needed(prompt));
            (item, Err(ItemError::Memory { tokens, needed, room }))
        };
        let refused = refused.into_iter().map(refuse).collect();
        // Stable, so that the order is a function of the job.
        fitting.sort_by_key(|(_, prompt)| std::cmp::Reverse(prompt.tokens.len()));
        let mut batches = Vec::new();
        planner.cut(&fitting, &mut batches);
        Self { batches, refused, joining }
    }
}

impl Planner<'_> {
    fn positions(&self, prompt: &PromptTokens) -> usize {
        prompt.tokens.len() + answer_limit(self.config, self.settings, prompt.tokens.len())
    }

    /// Bytes that a prompt takes by itself.
    fn needed(&self, prompt: &PromptTokens) -> u64 {
        self.sizes.pass(prompt.tokens.len().max(self.joining)) + self.sizes.sequence(self.positions(prompt))
    }

    /// Slots for prompts of which this is the longest, and the positions of each: every slot holds the longest.
    fn slots(&self, longest: &PromptTokens, count: usize) -> (usize, usize) {
        let capacity = self.positions(longest);
        let left = self.room.saturating_sub(self.sizes.pass(longest.tokens.len().max(self.joining)));
        let bytes = self.sizes.sequence(capacity);
        // Halved first: parts of a job must not be cut to what exactly fits.
        (halved(SLOTS, |slots| bytes * slots as u64 <= left).min(count), capacity)
    }

    /// Bytes that answering these prompts reads, per token of an answer: the weights for every slot's round, and the
    /// slots up to their capacity.
    fn cost(&self, prompts: &[(usize, &PromptTokens)]) -> u64 {
        let Some((_, longest)) = prompts.first() else { return 0 };
        let (slots, capacity) = self.slots(longest, prompts.len());
        let count = prompts.len() as u64;
        // Rounded up, so that cutting equals gains nothing.
        self.step
            .saturating_mul(count)
            .div_ceil(slots as u64)
            .saturating_add(self.sizes.cache(capacity) * count)
    }

    /// Cuts prompts, longest first, into batches wherever two read less than one: a long prompt would take its length
    /// in every slot.
    fn cut<'a>(&self, prompts: &[(usize, &'a PromptTokens)], batches: &mut Vec<Planned<'a>>) {
        let Some((_, longest)) = prompts.first() else { return };
        let parted = |at: usize| (self.cost(&prompts[..at]) + self.cost(&prompts[at..]), at);
        match (1..prompts.len()).map(parted).min() {
            Some((cost, at)) if cost < self.cost(prompts) => {
                self.cut(&prompts[..at], batches);
                self.cut(&prompts[at..], batches);
            }
            _ => {
                let (slots, capacity) = self.slots(longest, prompts.len());
                batches.push(Planned { prompts: prompts.to_vec(), slots, capacity });
            }
        }
    }
}

/// What generation takes of the memory, at most.
pub(crate) fn plan(
    decoder: &TensorDecoder,
    prepared: &PreparedPrompts,
    settings: &Sampling,
) -> GenerationPlan {
    let Plan { batches, joining, .. } = Plan::new(decoder, prepared, settings);
    let cache = |batch: &Planned<'_>| decoder.sizes().cache(batch.capacity) * batch.slots as u64;
    GenerationPlan {
        sequences: batches.iter().map(|batch| batch.slots).max().unwrap_or(0),
        cache: batches.iter().map(cache).max().unwrap_or(0),
        prompt_tokens: joining,
    }
}

/// Answers the prompts at the decoder's point; finished sequences in any order. Those that do not fit the memory, not
/// even alone, are refused.
///
/// # Errors
/// [`EngineError::OutOfMemory`] when the device has less than the plan counts on, or [`EngineError::Device`].
pub(crate) fn generate(
    base: &BaseModel,
    decoder: &TensorDecoder,
    prepared: &PreparedPrompts,
    settings: &Sampling,
) -> std::result::Result<Vec<Finished>, EngineError> {
    let Plan { batches, refused: mut finished, joining } = Plan::new(decoder, prepared, settings);
    let failed = || device_error("generating");
    let greedy = Greedy::new(decoder.config.vocab_size, &decoder.device).map_err(failed())?;
    for Planned { prompts, slots, capacity } in batches {
        let waiting = prompts.into_iter().map(|(item, prompt)| Sequence {
            prompt,
            item,
            limit: answer_limit(&decoder.config, settings, prompt.tokens.len()),
            generated: Vec::new(),
            sampler: Sampler::new(settings, prompt.seed),
        });
        let batch = Batch {
            base,
            decoder,
            settings,
            joining,
            greedy: &greedy,
            cache: Cache::new(decoder, slots, capacity)?,
            slots: (0..slots).map(|_| None).collect(),
            waiting: waiting.collect(),
            finished: Vec::new(),
        };
        finished.extend(batch.run().map_err(failed())?);
    }
    Ok(finished)
}

struct Batch<'a> {
    base: &'a BaseModel,
    decoder: &'a TensorDecoder,
    settings: &'a Sampling,
    joining: usize,
    greedy: &'a Greedy,
    cache: Cache,
    slots: Vec<Option<Sequence<'a>>>,
    waiting: VecDeque<Sequence<'a>>,
    finished: Vec<Finished>,
}

impl Batch<'_> {
    fn run(mut self) -> Result<Vec<Finished>> {
        loop {
            while !self.waiting.is_empty() && self.slots.iter().any(Option::is_none) {
                let (filled, logits) = self.refill()?;
                self.advance(&filled, &logits)?;
            }
            let active: Vec<(usize, usize)> = (0..self.slots.len())
                .filter(|slot| self.slots[*slot].is_some())
                .map(|slot| (slot, slot))
                .collect();
            if active.is_empty() {
                return Ok(self.finished);
            }
            let logits = self.step()?;
            self.advance(&active, &logits)?;
        }
    }

    /// Takes waiting prompts into free slots, in one packed pass; returns the slots, each with the row of its prompt's
    /// end in the logits.
    fn refill(&mut self) -> Result<(Vec<(usize, usize)>, Tensor)> {
        let mut taken = Vec::new();
        let mut builder = ForestBuilder::default();
        let mut nodes = Vec::new();
        for slot in 0..self.slots.len() {
            if self.slots[slot].is_some() {
                continue;
            }
            let fits = |next: &mut Sequence<'_>| {
                taken.is_empty() || builder.len() + next.prompt.tokens.len() <= self.joining
            };
            let Some(sequence) = self.waiting.pop_front_if(fits) else { break };
            nodes.push(builder.insert(None, &sequence.prompt.tokens));
            self.slots[slot] = Some(sequence);
            taken.push(slot);
        }
        let (forest, row_of) = builder.finish();
        let row = |node: &u32| row_of[*node as usize];
        let ends: Vec<u32> = nodes.iter().filter_map(|nodes| nodes.last().map(row)).collect();
        let mut wanted = ends.clone();
        wanted.sort_unstable();
        wanted.dedup();
        // Every position of every prompt, with the row that holds it: prompts may share rows.
        let rows: Vec<u32> = nodes.iter().flatten().map(row).collect();
        let places: Vec<(usize, usize)> = taken
            .iter()
            .zip(&nodes)
            .flat_map(|(slot, nodes)| (0..nodes.len()).map(move |position| (*slot, position)))
            .collect();
        let device = &self.decoder.device;
        let rows = self.cache.rows(&rows, &places, device)?;
        let hidden = self
            .decoder
            .run(&forest, &wanted, |layer, keys, values| self.cache.store(layer, &rows, keys, values))?;
        let row = |end: &u32| wanted.partition_point(|row| row < end);
        let filled = taken.into_iter().zip(ends.iter().map(row)).collect();
        Ok((filled, self.decoder.logits(&hidden)?))
    }

    /// Takes every slot's last token in; logits of all slots. An empty slot computes a token nobody reads, at a
    /// position that its next prompt overwrites.
    fn step(&self) -> Result<Tensor> {
        let device = &self.decoder.device;
        let (tokens, positions): (Vec<u32>, Vec<u32>) = self
            .slots
            .iter()
            .map(|slot| {
                let Some(sequence) = slot else { return (0, 0) };
                let last = sequence.generated.last().copied().unwrap_or(0);
                (last, (sequence.prompt.tokens.len() + sequence.generated.len() - 1) as u32)
            })
            .unzip();
        let end = positions.iter().max().map_or(1, |last| *last as usize + 1);
        let places: Vec<(usize, usize)> =
            positions.iter().enumerate().map(|(slot, position)| (slot, *position as usize)).collect();
        let slots: Vec<u32> = (0..self.slots.len() as u32).collect();
        let rows = self.cache.rows(&slots, &places, device)?;
        let positions = Tensor::new(positions, device)?;
        let sight = Sight::new(&positions, end, self.decoder.dtype)?;
        let mask = |window: &Option<usize>| sight.mask(*window)?.reshape((self.slots.len(), 1, 1, end));
        let masks = self.decoder.windows.iter().map(mask).collect::<Result<Vec<_>>>()?;
        let hidden =
            self.decoder.step(&Tensor::new(tokens, device)?, &positions, end, |layer, projected| {
                let window = self.decoder.config.attention[layer].window;
                let mask = self.decoder.windows.iter().position(|known| *known == window).unwrap_or(0);
                let Projected { queries, keys, values } = projected;
                self.cache.store(layer, &rows, keys, values)?;
                self.cache.attend(self.decoder, layer, end, queries, &masks[mask])
            })?;
        self.decoder.logits(&hidden)
    }

    /// Gives each of these slots (ascending) its next token from its row of the logits, and takes finished sequences
    /// out.
    fn advance(&mut self, slots: &[(usize, usize)], logits: &Tensor) -> Result<()> {
        let tokens: Vec<Option<u32>> = if self.settings.temperature == 0.0 {
            let chosen = self.greedy.choose(logits)?;
            slots.iter().map(|(_, row)| chosen[*row]).collect()
        } else {
            let logits = logits.to_vec2::<f32>()?;
            let mut rows = slots.iter().peekable();
            let mut drawn: Vec<(&[f32], &mut Sampler)> = self
                .slots
                .iter_mut()
                .enumerate()
                .filter_map(|(slot, sequence)| {
                    let (_, row) = rows.next_if(|(wanted, _)| *wanted == slot)?;
                    Some((logits[*row].as_slice(), &mut sequence.as_mut()?.sampler))
                })
                .collect();
            drawn.par_iter_mut().map(|(logits, sampler)| sampler.next(logits)).collect()
        };
        for ((slot, _), token) in slots.iter().zip(tokens) {
            let Some(sequence) = &mut self.slots[*slot] else { continue };
            let outcome = match token {
                None => Some(Err(ItemError::NonFinite)),
                Some(token) => {
                    sequence.generated.push(token);
                    ending(self.base, self.settings, &sequence.generated, sequence.limit)
                }
            };
            if let Some(outcome) = outcome {
                if outcome.is_err() {
                    // A number that is not finite would spoil what comes after it in the slot: even where a mask hides
                    // it, for nothing times it is not nothing.
                    self.cache.clear(*slot)?;
                }
                let tokens = std::mem::take(&mut sequence.generated);
                self.finished.push((sequence.item, outcome.map(|finish| (tokens, finish))));
                self.slots[*slot] = None;
            }
        }
        Ok(())
    }
}

/// Chooses most probable tokens on the device.
struct Greedy {
    /// Every token, in f32 (ids below 2²⁴ are exact there), `[1, vocabulary]`.
    ids: Tensor,
    /// What is no token, `[1, 1]`.
    none: Tensor,
}

impl Greedy {
    fn new(vocabulary: usize, device: &Device) -> Result<Self> {
        let ids = Tensor::arange(0, vocabulary as u32, device)?.to_dtype(DType::F32)?.unsqueeze(0)?;
        Ok(Self { ids, none: Tensor::full(vocabulary as f32, (1, 1), device)? })
    }

    /// The most probable token of every row, the first of equals, or nothing where a logit is not finite; fetched at
    /// once.
    fn choose(&self, logits: &Tensor) -> Result<Vec<Option<u32>>> {
        let (_, width) = logits.dims2()?;
        let highest = logits.max_keepdim(D::Minus1)?;
        let is_highest = logits.broadcast_eq(&highest)?;
        let shape = logits.shape();
        // A device's argmax takes any of equals.
        let first = is_highest
            .where_cond(&self.ids.broadcast_as(shape)?, &self.none.broadcast_as(shape)?)?
            .min(D::Minus1)?;
        // A sum is finite only if every logit is.
        let sums = logits.sum(D::Minus1)?;
        let fetched = Tensor::stack(&[first, sums], 0)?.to_vec2::<f32>()?;
        Ok(fetched[0]
            .iter()
            .zip(&fetched[1])
            .map(|(token, sum)| (sum.is_finite() && (*token as usize) < width).then_some(*token as u32))
            .collect())
    }
}

impl Cache {
    fn new(decoder: &TensorDecoder, slots: usize, capacity: usize) -> std::result::Result<Self, EngineError> {
        let ModelConfig { kv_heads, head_dim, layers, .. } = decoder.config;
        let rows = slots * kv_heads * capacity;
        let allocate = || Tensor::zeros((rows, head_dim), decoder.dtype, &decoder.device);
        let layers = (0..layers)
            .map(|_| Ok((allocate()?, allocate()?)))
            .collect::<Result<_>>()
            .map_err(device_error("allocating the cache of keys and values"))?;
        Ok(Self { layers, slots, kv_heads, capacity, head_dim })
    }

    /// Forgets what a slot holds.
    fn clear(&self, slot: usize) -> Result<()> {
        let rows = self.kv_heads * self.capacity;
        for cached in self.layers.iter().flat_map(|(keys, values)| [keys, values]) {
            cached.slice_set(&cached.narrow(0, 0, rows)?.zeros_like()?, 0, slot * rows)?;
        }
        Ok(())
    }

    /// Which rows of keys and values, `[rows, kv_heads, head_dim]`, go to which places (slot and position).
    fn rows(&self, from: &[u32], to: &[(usize, usize)], device: &Device) -> Result<Places> {
        let heads = 0..self.kv_heads;
        let from: Vec<u32> = from
            .iter()
            .flat_map(|row| heads.clone().map(move |head| row * self.kv_heads as u32 + head as u32))
            .collect();
        let to: Vec<u32> = to
            .iter()
            .flat_map(|(slot, position)| {
                heads
                    .clone()
                    .map(move |head| ((slot * self.kv_heads + head) * self.capacity + position) as u32)
            })
            .collect();
        Ok(Places { from: Tensor::new(from, device)?, to: Tensor::new(to, device)? })
    }

    /// Stores rows of keys and values, `[rows, kv_heads, head_dim]`, at their places.
    fn store(&self, layer: usize, places: &Places, keys: &Tensor, values: &Tensor) -> Result<()> {
        let (cached_keys, cached_values) = &self.layers[layer];
        for (cached, new) in [(cached_keys, keys), (cached_values, values)] {
            let source = new.reshape((new.dim(0)? * self.kv_heads, self.head_dim))?;
            cached.inplace_op1(&StoreRows { source, from: places.from.clone(), to: places.to.clone() })?;
        }
        Ok(())
    }

    /// Attention of one query per slot over its first `end` positions, `[slots, heads · head_dim]`.
    fn attend(
        &self,
        decoder: &TensorDecoder,
        layer: usize,
        end: usize,
        queries: &Tensor,
        mask: &Tensor,
    ) -> Result<Tensor> {
        let heads = decoder.heads();
        let Self { slots, kv_heads, capacity, head_dim, .. } = *self;
        let group = heads.heads / kv_heads;
        let seen = |cached: &Tensor| cached.reshape((slots, kv_heads, capacity, head_dim))?.narrow(2, 0, end);
        let (keys, values) = &self.layers[layer];
        let queries = queries.reshape((slots, kv_heads, group, head_dim))?;
        let products = queries.matmul(&seen(keys)?.t()?)?;
        heads.weights(&products, mask)?.matmul(&seen(values)?)?.reshape((slots, heads.heads * head_dim))
    }
}
