//! Loads once, merges per point, scores or generates in chunks.

use std::path::Path;
use std::time::{Duration, Instant};

use avsweep_domain::{Dtype, Fingerprint, FinishReason, Point, QueryScore, ReferenceScore, Response, Rung};
use avsweep_engine::{
    AlignmentVector, BaseModel, ByteSize, Coefficient, Device, Engine, EngineError, Message, PreparedPrompts,
    PreparedScores, PromptItem, Sampling, ScoreItem, WeightType,
};
use avsweep_lease::error_chain;

use super::locations::ModelPaths;
use super::memory::is_out_of_memory;
use crate::error::{JobError, UnfitError};
use crate::evaluate::{Chunk, ChunkResults, End, Spent, Task};

/// Whether the caller wants more chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    GoOn,
    Stop,
}

/// Why a task failed.
#[derive(Debug)]
pub(super) enum Failed {
    /// The job cannot be done; it was on this many queries.
    Job { error: JobError, together: usize },
    /// The sweep's jobs cannot be done here.
    Unfit(UnfitError),
}

/// Floating-point work of a chunk, about: small enough that results come every few seconds on two cores, large
/// enough that a small model takes a whole job at once. A function of job, model and kind of device only (law 5).
const CHUNK_FLOP: f64 = 5e11;

/// The same for a GPU, whose chunks are large for its matrix products to be.
const GPU_CHUNK_FLOP: f64 = 5e14;

/// Fewest prompts that are answered together: decoding one sequence costs nearly as much as decoding several.
const LEAST_PROMPTS: usize = 16;

/// The same for a GPU: decoding reads all weights at each step, for however many sequences.
const GPU_LEAST_PROMPTS: usize = 256;

/// An engine with what it has loaded and prepared.
pub(super) struct Model {
    device: Device,
    /// Bytes that it may take; `None` is a share of what there is.
    memory: Option<u64>,
    /// The most that weights and caches were planned to take.
    planned: u64,
    loaded: Option<Loaded>,
    prepared: Option<Prepared>,
    /// Queries of the chunk being evaluated.
    together: usize,
}

struct Loaded {
    recipe: Fingerprint,
    engine: Engine,
    merged: Option<Point>,
}

/// One sweep's queries, tokenised.
struct Prepared {
    sweep: Fingerprint,
    scores: PreparedScores,
    prompts: PreparedPrompts,
    /// Each query's messages, for counting their tokens.
    conversations: Vec<Vec<Message>>,
    /// Tokens that scoring each query computes, by ordinal.
    score_tokens: Vec<usize>,
    /// Tokens of each prompt, by ordinal; counted when the first is generated from.
    prompt_tokens: Option<Vec<usize>>,
    /// The last selection; consecutive jobs usually ask for the same queries.
    selected: Option<(Vec<u32>, PreparedScores)>,
}

impl Model {
    /// Nothing loaded yet.
    pub(super) fn new(device: Device, memory: Option<u64>) -> Self {
        Self { device, memory, planned: 0, loaded: None, prepared: None, together: 0 }
    }

    /// Throws everything away that is loaded.
    pub(super) fn reset(&mut self) {
        *self = Self { planned: self.planned, ..Self::new(self.device.clone(), self.memory) };
    }

    /// Evaluates a task chunk by chunk; `emit` takes each chunk and says whether to go on.
    pub(super) fn evaluate(
        &mut self,
        task: &Task,
        paths: &ModelPaths,
        located_in: Duration,
        mut emit: impl FnMut(Chunk) -> Wish,
    ) -> Result<End, Failed> {
        if task.rung == Rung::Judgement {
            return Err(Failed::Job { error: JobError::WrongRung(task.rung), together: 0 });
        }
        self.together = task.ordinals.len();
        let mut spent = Spent::default();
        let started = Instant::now();
        self.load(task, paths)?;
        self.prepare(task);
        spent.load = located_in + started.elapsed();

        let started = Instant::now();
        self.merge(&task.point).map_err(|error| self.failed(error))?;
        spent.merge = started.elapsed();

        // A query that cannot be evaluated fails the job in the end, once the others have their results.
        let mut refused = None;
        for chunk in self.chunks(task) {
            self.together = chunk.len();
            let started = Instant::now();
            let evaluated = match task.rung {
                Rung::Likelihood | Rung::Judgement => {
                    self.score(task, &chunk).map(|results| apart(results, ChunkResults::Scores))
                }
                Rung::Generation => {
                    self.generate(task, &chunk).map(|results| apart(results, ChunkResults::Responses))
                }
            };
            let (results, error) = evaluated.map_err(|error| self.failed(error))?;
            refused = refused.or(error);
            let done: Vec<u32> = results.ordinals().collect();
            if done.is_empty() {
                continue;
            }
            spent.evaluate = started.elapsed();
            let tokens = self.tokens(&done, &results);
            if emit(Chunk { results, spent: std::mem::take(&mut spent), tokens }) == Wish::Stop {
                return Ok(End::Stopped);
            }
        }
        refused.map_or(Ok(End::Finished), |error| Err(self.failed(error)))
    }

    /// Whether a device computes that can break apart from the host.
    pub(super) fn is_on_accelerator(&self) -> bool {
        self.device.is_accelerator()
    }

    /// Queries that were evaluated together last.
    pub(super) fn together(&self) -> usize {
        self.together
    }

    fn failed(&self, error: JobError) -> Failed {
        Failed::Job { error, together: self.together }
    }

    /// Loads the sweep's model unless it is loaded. The files must be those that the sweep was created with.
    fn load(&mut self, task: &Task, paths: &ModelPaths) -> Result<(), Failed> {
        let definition = &task.definition;
        if self.loaded.as_ref().is_some_and(|loaded| loaded.recipe == task.recipe) {
            return Ok(());
        }
        // The old model goes first: two may not fit.
        self.loaded = None;
        self.prepared = None;
        let unfit = |error: avsweep_engine::EngineError| Failed::Unfit(error.into());
        let dtype = match definition.model.dtype {
            Dtype::F32 => WeightType::F32,
            Dtype::Bf16 => WeightType::Bf16,
            Dtype::F16 => WeightType::F16,
        };
        // Opening reads and hashes every file: not those of a model that has no room here.
        Engine::check_memory(&self.device, self.memory, &paths.base, dtype).map_err(unfit)?;
        let base = BaseModel::open(&paths.base).map_err(unfit)?;
        check_fingerprint(&paths.base, base.fingerprint(), &definition.model.fingerprint)?;
        let vectors = definition
            .vectors
            .iter()
            .zip(&paths.vectors)
            .map(|(source, path)| {
                let vector = AlignmentVector::open(path, &base).map_err(unfit)?;
                check_fingerprint(path, vector.fingerprint(), &source.fingerprint)?;
                if vector.is_zero() {
                    tracing::warn!(
                        vector = source.name, file = %path.display(),
                        "the vector is zero in every element: its coefficients change nothing"
                    );
                }
                Ok(vector)
            })
            .collect::<Result<Vec<_>, Failed>>()?;
        let coefficients: Vec<Coefficient> = definition
            .space
            .coefficients()
            .iter()
            .map(|coefficient| Coefficient {
                name: coefficient.name.clone(),
                vector: coefficient.vector,
                tensors: coefficient.tensors.clone(),
            })
            .collect();
        let loaded = Engine::load_on(&self.device, self.memory, base, vectors, &coefficients, dtype);
        let engine = loaded.map_err(|error| {
            // The right files, and still no engine: the sweep's coefficients do not suit them, here as anywhere.
            let too_large = matches!(error, EngineError::TooLarge { .. });
            if too_large || is_out_of_memory(&error_chain(&error)) {
                unfit(error)
            } else {
                self.failed(error.into())
            }
        })?;
        if engine.is_slow() {
            tracing::warn!(
                architecture = ?engine.base().config().architecture,
                "this model runs the slow way: by candle-transformers' decoder, in batches of equal length"
            );
        }
        let memory = engine.memory();
        self.planned = self.planned.max(memory.merged + memory.kept);
        tracing::info!(
            device = %self.device, budget = %ByteSize(memory.budget), merged = %ByteSize(memory.merged),
            kept = %ByteSize(memory.kept), streamed = %ByteSize(memory.streamed), room = %ByteSize(memory.room()),
            "memory: merged weights, base and vectors that stay, those read from files for every point, and what is \
             left for caches and activations"
        );
        self.loaded = Some(Loaded { recipe: task.recipe, engine, merged: None });
        Ok(())
    }

    /// Tokenises the sweep's queries unless that is done.
    fn prepare(&mut self, task: &Task) {
        let Some(loaded) = &self.loaded else { return };
        if self.prepared.as_ref().is_some_and(|prepared| prepared.sweep == task.sweep_fingerprint) {
            return;
        }
        let definition = &task.definition;
        let messages = |query: &avsweep_domain::Query| -> Vec<Message> {
            query
                .messages
                .iter()
                .map(|message| Message::new(message.role.as_str(), &message.content))
                .collect()
        };
        let scores: Vec<ScoreItem> = definition
            .queries()
            .map(|entry| ScoreItem {
                messages: messages(entry.query),
                references: entry.query.references.clone(),
            })
            .collect();
        let prompts: Vec<PromptItem> = definition
            .queries()
            .map(|entry| PromptItem {
                messages: messages(entry.query),
                seed: query_seed(definition.evaluation.decode.seed, &entry.query.fingerprint()),
            })
            .collect();
        let scores = loaded.engine.prepare_scores(&scores);
        self.prepared = Some(Prepared {
            sweep: task.sweep_fingerprint,
            score_tokens: (0..scores.len()).map(|index| scores.select(&[index]).tokens()).collect(),
            prompts: loaded.engine.prepare_prompts(&prompts),
            conversations: prompts.into_iter().map(|prompt| prompt.messages).collect(),
            scores,
            prompt_tokens: None,
            selected: None,
        });
    }

    fn merge(&mut self, point: &Point) -> Result<(), JobError> {
        let loaded = self.loaded.as_mut().ok_or(JobError::NothingLoaded)?;
        // The same point again is the same model: merging starts from the base every time (law 1).
        if loaded.merged.as_ref() != Some(point) {
            loaded.merged = None;
            loaded.engine.merge(&point.to_f64())?;
            loaded.merged = Some(point.clone());
        }
        Ok(())
    }

    /// Tokens that went through the model for a chunk.
    fn tokens(&mut self, ordinals: &[u32], results: &ChunkResults) -> u64 {
        let (Some(loaded), Some(prepared)) = (&self.loaded, &mut self.prepared) else { return 0 };
        let (counts, generated) = match results {
            ChunkResults::Scores(_) => (&prepared.score_tokens, 0_u64),
            ChunkResults::Responses(responses) => {
                let counts = prepared.prompt_tokens.get_or_insert_with(|| {
                    prepared
                        .conversations
                        .iter()
                        .map(|messages| {
                            loaded.engine.prompt_tokens(messages).map_or(0, |tokens| tokens.len())
                        })
                        .collect()
                });
                let generated = responses.iter().map(|(_, response)| u64::from(response.tokens)).sum::<u64>();
                (&*counts, generated)
            }
        };
        let count = |ordinal: &u32| counts.get(*ordinal as usize).map_or(0, |tokens| *tokens as u64);
        ordinals.iter().map(count).sum::<u64>() + generated
    }

    /// The task's ordinals cut where [`CHUNK_FLOP`] (on a GPU [`GPU_CHUNK_FLOP`]) is reached, or the memory's limit.
    fn chunks(&self, task: &Task) -> Vec<Vec<u32>> {
        let (Some(loaded), Some(prepared)) = (&self.loaded, &self.prepared) else { return Vec::new() };
        let flop_per_token = 2.0 * loaded.engine.base().parameters() as f64;
        let new_tokens = task.definition.evaluation.decode.max_new_tokens as usize;
        let mut chunks: Vec<Vec<u32>> = Vec::new();
        let mut flop = f64::INFINITY;
        let most = task.together.unwrap_or(usize::MAX).max(1);
        let (most_flop, least_prompts) = if self.device.is_accelerator() {
            (GPU_CHUNK_FLOP, GPU_LEAST_PROMPTS)
        } else {
            (CHUNK_FLOP, LEAST_PROMPTS)
        };
        let least = if task.rung == Rung::Generation { least_prompts } else { 1 };
        for ordinal in &task.ordinals {
            let tokens = match task.rung {
                Rung::Generation => new_tokens,
                Rung::Likelihood | Rung::Judgement => {
                    prepared.score_tokens.get(*ordinal as usize).copied().unwrap_or_default()
                }
            };
            let cost = tokens as f64 * flop_per_token;
            match chunks.last_mut() {
                Some(chunk) if chunk.len() < most && (flop + cost <= most_flop || chunk.len() < least) => {
                    chunk.push(*ordinal);
                    flop += cost;
                }
                _ => {
                    chunks.push(vec![*ordinal]);
                    flop = cost;
                }
            }
        }
        chunks
    }

    fn score(&mut self, task: &Task, ordinals: &[u32]) -> Result<Evaluated<QueryScore>, JobError> {
        let (Some(loaded), Some(prepared)) = (&self.loaded, &mut self.prepared) else {
            return Err(JobError::NothingLoaded);
        };
        if prepared.selected.as_ref().is_none_or(|(selected, _)| selected != ordinals) {
            let selection = prepared.scores.select(&indices(ordinals, prepared.scores.len())?);
            prepared.selected = Some((ordinals.to_vec(), selection));
        }
        let Some((_, selection)) = &prepared.selected else { return Err(JobError::NothingLoaded) };
        let results = loaded.engine.score(selection)?;
        Ok(ordinals
            .iter()
            .zip(results)
            .map(|(ordinal, result)| {
                let scores = result.map_err(|source| item_error(task, *ordinal, source))?;
                let scores = scores
                    .into_iter()
                    .map(|score| ReferenceScore {
                        // Rounding may lift a certain reference above 0.
                        log_prob_sum: score.log_prob_sum.min(0.0),
                        tokens: score.tokens,
                        bytes: score.bytes,
                    })
                    .collect();
                Ok((*ordinal, QueryScore(scores)))
            })
            .collect())
    }

    fn generate(&mut self, task: &Task, ordinals: &[u32]) -> Result<Evaluated<Response>, JobError> {
        let (Some(loaded), Some(prepared)) = (&self.loaded, &self.prepared) else {
            return Err(JobError::NothingLoaded);
        };
        let decode = &task.definition.evaluation.decode;
        let sampling = Sampling {
            temperature: decode.temperature,
            top_p: decode.top_p,
            stop: decode.stop.clone(),
            ..Sampling::greedy(decode.max_new_tokens as usize)
        };
        let selection = prepared.prompts.select(&indices(ordinals, prepared.prompts.len())?);
        let plan = loaded.engine.generation_plan(&selection, &sampling);
        let memory = loaded.engine.memory();
        let planned = memory.merged + memory.kept + plan.cache;
        if planned > self.planned {
            self.planned = planned;
            tracing::info!(
                planned = %ByteSize(planned), sequences = plan.sequences, cache = %ByteSize(plan.cache), prompt_tokens = plan.prompt_tokens,
                "memory: weights and caches together; sequences that are decoded together, and their keys and values"
            );
        }
        let results = loaded.engine.generate(&selection, &sampling)?;
        Ok(ordinals
            .iter()
            .zip(results)
            .map(|(ordinal, result)| {
                let generation = result.map_err(|source| item_error(task, *ordinal, source))?;
                let finish = match generation.finish {
                    avsweep_engine::FinishReason::Stop => FinishReason::Stop,
                    avsweep_engine::FinishReason::Length => FinishReason::Length,
                };
                Ok((*ordinal, Response { text: generation.text, tokens: generation.tokens, finish }))
            })
            .collect())
    }
}

/// Every query's result, or why it has none.
type Evaluated<T> = Vec<Result<(u32, T), JobError>>;

/// The results there are, and the first error.
fn apart<T>(
    evaluated: Evaluated<T>,
    results: impl FnOnce(Vec<(u32, T)>) -> ChunkResults,
) -> (ChunkResults, Option<JobError>) {
    let (mut done, mut refused) = (Vec::new(), None);
    for result in evaluated {
        match result {
            Ok(one) => done.push(one),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    (results(done), refused)
}

/// Ordinals as indices into what was prepared.
fn indices(ordinals: &[u32], known: usize) -> Result<Vec<usize>, JobError> {
    ordinals
        .iter()
        .map(|ordinal| {
            let index = *ordinal as usize;
            if index < known { Ok(index) } else { Err(JobError::UnknownQuery { ordinal: *ordinal, known }) }
        })
        .collect()
}

fn item_error(task: &Task, ordinal: u32, source: avsweep_engine::ItemError) -> JobError {
    let query = task
        .definition
        .queries()
        .nth(ordinal as usize)
        .map_or_else(|| ordinal.to_string(), |entry| entry.query.id.clone());
    JobError::Query { query, source }
}

/// A query's own sampling seed: a function of the sweep's seed and the query, of nothing else (law 5).
fn query_seed(seed: u64, query: &Fingerprint) -> u64 {
    let mut builder = avsweep_domain::FingerprintBuilder::new("avsweep sampling seed 1");
    let hash = builder.bytes(&seed.to_le_bytes()).fingerprint(query).finish();
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}

fn check_fingerprint(path: &Path, found: &str, wanted: &Fingerprint) -> Result<(), Failed> {
    if found == wanted.to_string() {
        return Ok(());
    }
    Err(Failed::Unfit(UnfitError::FilesDiffer {
        path: path.display().to_string(),
        found: found.chars().take(12).collect(),
        wanted: wanted.short(),
    }))
}
