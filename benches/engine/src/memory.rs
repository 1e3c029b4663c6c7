//! Peak memory of loading, merging, scoring and generating, beside what the weights and the caches take.

use crate::model::{RandomFamily, Shape};
use anyhow::{Context, Result};
use avsweep_engine::{ByteSize, Message, PromptItem, Sampling, ScoreItem, peak_host_memory};
use clap::Args;
use serde_json::json;

#[derive(Debug, Args)]
pub(crate) struct MemoryArguments {
    /// The model's shape.
    #[arg(long, value_enum, default_value_t = Shape::Smol)]
    shape: Shape,
    /// Vectors.
    #[arg(long, default_value_t = 3)]
    vectors: usize,
    /// Queries that are scored and answered together.
    #[arg(long, default_value_t = 16)]
    queries: usize,
    /// Words of a query.
    #[arg(long, default_value_t = 64)]
    words: usize,
    /// Bytes that the engine may take; by default a share of the machine's.
    #[arg(long)]
    memory: Option<ByteSize>,
    /// Most tokens of an answer.
    #[arg(long, default_value_t = 64)]
    new_tokens: usize,
}

/// Prints one JSON object.
pub(crate) fn run(arguments: &MemoryArguments) -> Result<()> {
    let family = RandomFamily::write(arguments.shape, arguments.vectors)?;
    let mut engine = family.engine(arguments.memory.map(|size| size.0))?;
    let parameters = engine.base().parameters();
    engine.merge(&vec![0.1; arguments.vectors])?;

    let messages = |query: usize| {
        let words: Vec<String> = (0..arguments.words)
            .map(|word| format!("w{}", (query * 7919 + word * 104_729) % 30_000))
            .collect();
        vec![Message::new("user", words.join(" "))]
    };
    let scores: Vec<ScoreItem> = (0..arguments.queries)
        .map(|query| ScoreItem {
            messages: messages(query),
            references: (0..3).map(|level| format!("w{level} w{query} w5 w6 w7 w8")).collect(),
        })
        .collect();
    let prompts: Vec<PromptItem> =
        (0..arguments.queries).map(|query| PromptItem { messages: messages(query), seed: 0 }).collect();
    let scores = engine.prepare_scores(&scores);
    let prompts = engine.prepare_prompts(&prompts);
    engine.score(&scores)?;
    let answers = engine.generate(&prompts, &Sampling::greedy(arguments.new_tokens))?;
    let mut generated = 0;
    for answer in answers {
        generated += answer?.tokens;
    }

    let config = engine.base().config();
    let tokens = engine.prompt_tokens(&messages(0))?.len() + arguments.new_tokens;
    let memory = engine.memory();
    let plan = engine.generation_plan(&prompts, &Sampling::greedy(arguments.new_tokens));
    let planned = memory.merged + memory.kept + plan.cache;
    let caches = arguments.queries * tokens * config.layers * config.kv_heads * config.head_dim * 2 * 4;
    let files = 2 * parameters * (1 + arguments.vectors);
    let merged = usize::try_from(memory.merged)?;
    let kept = merged + files + caches;
    let status =
        std::fs::read_to_string("/proc/self/status").context("what is in memory is read from /proc")?;
    let bytes = |field: &str| -> Result<usize> {
        let line =
            status.lines().find_map(|line| line.strip_prefix(field)).with_context(|| field.to_owned())?;
        Ok(line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<usize>()? * 1024)
    };
    let peak = peak_host_memory().context("the system does not tell the peak")?;
    let report = json!({
        "shape": arguments.shape.name(), "parameters": parameters, "vectors": arguments.vectors,
        "queries": arguments.queries, "scored_tokens": scores.tokens(), "generated_tokens": generated,
        "bytes": {"merged_weights": merged, "mapped_files": files, "caches": caches, "peak": peak,
                  "anonymous_at_end": bytes("RssAnon")?, "mapped_at_end": bytes("RssFile")?},
        "planned": {"budget": memory.budget, "merged": memory.merged, "kept": memory.kept, "streamed": memory.streamed,
                    "sequences": plan.sequences, "caches": plan.cache},
        "peak_of_kept": peak as f64 / kept as f64, "peak_of_planned": peak as f64 / planned as f64,
    });
    println!("{report}");
    Ok(())
}
