//! Scoring and generating with a given model and given queries, a round for every line of standard input, so that a
//! driver can let other programs take turns with this one.

use anyhow::{Context, Result};
use avsweep_engine::{BaseModel, Engine, Message, PromptItem, Sampling, ScoreItem, WeightType};
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::time::Instant;

#[derive(Debug, Args)]
pub(crate) struct ScoreArguments {
    #[command(flatten)]
    input: Input,
}

#[derive(Debug, Args)]
pub(crate) struct GenerateArguments {
    #[command(flatten)]
    input: Input,
    /// Most tokens of an answer.
    #[arg(long, default_value_t = 64)]
    new_tokens: usize,
}

#[derive(Debug, Args)]
struct Input {
    /// The model's folder.
    #[arg(long)]
    model: PathBuf,
    /// Queries with references, one JSON object a line, as sweeps have them.
    #[arg(long)]
    queries: PathBuf,
    /// Type of the weights: `f32`, `bf16` or `f16`.
    #[arg(long, default_value = "f32", value_parser = weight_type)]
    dtype: WeightType,
}

fn weight_type(name: &str) -> Result<WeightType> {
    WeightType::parse(name).with_context(|| format!("`{name}`, wanted f32, bf16 or f16"))
}

/// A line of the query file.
#[derive(Deserialize)]
struct Query {
    query: String,
    /// By level; their order is the alphabet's.
    references: BTreeMap<String, String>,
}

impl Input {
    fn open(&self) -> Result<(Engine, Vec<Query>)> {
        let file = std::fs::File::open(&self.queries).with_context(|| self.queries.display().to_string())?;
        let queries = BufReader::new(file)
            .lines()
            .map(|line| Ok(serde_json::from_str(&line?)?))
            .collect::<Result<_>>()
            .with_context(|| self.queries.display().to_string())?;
        let base = BaseModel::open(&self.model)?;
        Ok((Engine::load(base, Vec::new(), &[], self.dtype)?, queries))
    }
}

/// Every round's line holds its seconds and each reference's summed log-probability and tokens.
pub(crate) fn score(arguments: &ScoreArguments) -> Result<()> {
    let (engine, queries) = arguments.input.open()?;
    let items: Vec<ScoreItem> = queries
        .into_iter()
        .map(|Query { query, references }| ScoreItem {
            messages: vec![Message::user(query)],
            references: references.into_values().collect(),
        })
        .collect();
    let prepared = engine.prepare_scores(&items);
    rounds(|| {
        let started = Instant::now();
        let scores = engine.score(&prepared)?;
        let seconds = started.elapsed().as_secs_f64();
        let mut values = Vec::new();
        for scores in scores {
            values.extend(scores?.into_iter().map(|score| json!([score.log_prob_sum, score.tokens])));
        }
        Ok(json!({"seconds": seconds, "scores": values, "positions": prepared.tokens()}))
    })
}

/// Every round's line holds its seconds, and each query's text and tokens.
pub(crate) fn generate(arguments: &GenerateArguments) -> Result<()> {
    let (engine, queries) = arguments.input.open()?;
    let items: Vec<PromptItem> = queries
        .into_iter()
        .map(|query| PromptItem { messages: vec![Message::user(query.query)], seed: 0 })
        .collect();
    let prepared = engine.prepare_prompts(&items);
    let sampling = Sampling::greedy(arguments.new_tokens);
    rounds(|| {
        let started = Instant::now();
        let answers = engine.generate(&prepared, &sampling)?;
        let seconds = started.elapsed().as_secs_f64();
        let mut texts = Vec::new();
        for answer in answers {
            let answer = answer?;
            texts.push(json!([answer.text, answer.tokens]));
        }
        Ok(json!({"seconds": seconds, "texts": texts}))
    })
}

fn rounds(mut round: impl FnMut() -> Result<Value>) -> Result<()> {
    let mut out = std::io::stdout();
    for line in std::io::stdin().lock().lines() {
        line?;
        writeln!(out, "{}", round()?)?;
        out.flush()?;
    }
    Ok(())
}
