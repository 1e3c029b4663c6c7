//! The form of a sweep file, from which its JSON schema is made.

use std::collections::BTreeMap;

use schemars::{JsonSchema, generate::SchemaSettings};
use serde::Deserialize;

/// An avsweep sweep: which model, which vectors, which coefficients, measured on what.
///
/// Paths are relative to the file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSweep {
    /// The sweep's name, unique in a store.
    pub name: String,
    /// The base model.
    pub model: RawModel,
    /// Alignment vectors by name: an aligned model folder, a PEFT LoRA adapter folder or a delta safetensors file, by path
    /// or s3://bucket/key.
    #[schemars(with = "BTreeMap<String, String>")]
    pub vectors: serde_json::Map<String, serde_json::Value>,
    /// Coefficients by name, in the order in which points list their values.
    #[schemars(with = "BTreeMap<String, RawCoefficient>")]
    pub coefficients: serde_json::Map<String, serde_json::Value>,
    /// Levels, lowest first. Default: avoidance, generic, expert.
    pub levels: Option<Vec<String>>,
    /// Domains by name.
    #[schemars(with = "BTreeMap<String, RawDomain>")]
    pub domains: serde_json::Map<String, serde_json::Value>,
    /// How the next points are chosen. Default: grid.
    pub strategy: Option<RawStrategy>,
    /// What is measured, and where.
    #[serde(default)]
    pub evaluation: RawEvaluation,
    /// Who judges responses. Default: reference.
    #[serde(default)]
    pub judge: RawJudge,
}

/// The base model.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawModel {
    /// A Hugging Face folder: a path, or s3://bucket/prefix (also gs://, az://).
    pub base: String,
    /// What merged weights are cast to. Default: f32.
    #[serde(default)]
    pub dtype: RawDtype,
}

/// Element type of merged weights.
#[derive(Debug, Default, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawDtype {
    /// 32-bit float.
    #[default]
    F32,
    /// bfloat16.
    Bf16,
    /// 16-bit float.
    F16,
}

/// One knob.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCoefficient {
    /// The vector it adds, by name.
    pub vector: String,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// Distance between neighbours; must lead from min to max exactly.
    pub step: f64,
    /// The tensors it acts on: a pattern or several, with `*`, `?`, `{a,b}` and `{0..9}`. Default: all.
    pub tensors: Option<RawPatterns>,
}

/// One pattern or several.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum RawPatterns {
    /// One.
    One(String),
    /// Several: a tensor matched by any is acted on.
    Several(Vec<String>),
}

/// One domain.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDomain {
    /// A JSON Lines file of queries.
    pub queries: String,
}

/// How the next points are chosen. Every kind has settings of its own; all but `kind` and the budget of random and sobol
/// can be left out.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStrategy {
    /// The kind.
    pub kind: RawStrategyKind,
    /// bayesian, random, sobol, hierarchical: no more points than this. Default for bayesian: 81; for hierarchical: no
    /// limit. random and sobol must have it.
    #[schemars(range(min = 1, max = 4_294_967_295_u32))]
    pub budget: Option<u32>,
    /// bayesian, random, sobol: another seed makes other choices. Default: 0.
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_u64))]
    pub seed: Option<u64>,
    /// bayesian: points spread over the space before the model is asked. Default: six times the coefficients.
    #[schemars(range(min = 2, max = 4_294_967_295_u32))]
    pub initial: Option<u32>,
    /// bayesian: the search stops when the best next point is expected to gain less than this, summed over all targets.
    /// 0 goes on to the budget. Default: 0.0002.
    #[schemars(range(min = 0.0))]
    pub min_gain: Option<f64>,
    /// bayesian: what a target is worth, over its domains. Default: min.
    pub aggregate: Option<RawAggregate>,
    /// bayesian: the targets that count, such as `medical=expert,legal=any,financial=base`. Default: all.
    pub targets: Option<Vec<String>>,
    /// hierarchical: rounds, the coarse one included. Default: as many as the widest range has room for.
    #[schemars(range(min = 1, max = 4_294_967_295_u32))]
    pub levels: Option<u32>,
    /// hierarchical: by how much the step shrinks from round to round. Default: 2.
    #[schemars(range(min = 2, max = 4_294_967_295_u32))]
    pub factor: Option<u32>,
    /// hierarchical: how many steps around a leader are measured. Default: 1.
    #[schemars(range(min = 1, max = 4_294_967_295_u32))]
    pub width: Option<u32>,
    /// hierarchical: leaders per target. Default: 1.
    #[schemars(range(min = 1, max = 4_294_967_295_u32))]
    pub leaders: Option<u32>,
    /// hierarchical: further rounds below the grid's step. Default: 0.
    #[schemars(range(min = 0, max = 4_294_967_295_u32))]
    pub finer: Option<u32>,
}

/// Kinds of strategies.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawStrategyKind {
    /// Every point of the grid.
    #[default]
    Grid,
    /// Coarse to fine around the leaders of every target.
    Hierarchical,
    /// A model of what was measured; the points that promise most over all targets.
    Bayesian,
    /// Distinct grid points, drawn evenly at random.
    Random,
    /// Distinct grid points along a scrambled Sobol sequence.
    Sobol,
}

/// What a target is worth, over its domains.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawAggregate {
    /// The weakest domain's rate.
    Min,
    /// The mean of the rates.
    Mean,
    /// Their product.
    Product,
}

/// Where a rung is measured.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawCoverage {
    /// Nowhere.
    None,
    /// At the best points of each target.
    Finalists,
    /// Wherever the strategy looks.
    All,
}

/// What is measured, and where.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEvaluation {
    /// Likelihood rung: all (default) or none.
    pub likelihood: Option<RawCoverage>,
    /// Generation and judgement rungs: finalists (default), all or none.
    pub generation: Option<RawCoverage>,
    /// Queries per domain that points are chosen by: the first of each file. Default: two thirds.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub search_queries: Option<u32>,
    /// Queries per domain that chosen points are reported on: the next of each file. Default: the rest.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub confirm_queries: Option<u32>,
    /// Best points of each target that go on to the confirm queries. Default: 1.
    #[schemars(range(min = 1, max = 1000))]
    pub finalists_per_target: Option<u32>,
    /// Token limit of a response. Default: 64.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_new_tokens: Option<u32>,
    /// 0 (default) is greedy.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub temperature: Option<f64>,
    /// Nucleus mass, above 0, at most 1 (default).
    #[schemars(range(min = 0.0, max = 1.0))]
    pub top_p: Option<f64>,
    /// Seed of sampled decoding. Default: 0.
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_u64))]
    pub seed: Option<u64>,
    /// Texts before which a response ends, at most 16. Default: none.
    #[schemars(length(max = 16), inner(length(min = 1)))]
    pub stop: Option<Vec<String>>,
    /// Gives a point up, its remaining queries unasked, once it is out of reach for every target. Default: every point
    /// is measured in full. Not with strategies bayesian and hierarchical, nor with a ladder.
    pub racing: Option<RawRacing>,
    /// Judges more points on the search queries, best by likelihood first: as many as the rank correlation between
    /// likelihoods and judge asks for. The judge then chooses among them. Default: only finalists are judged. Not with racing.
    pub ladder: Option<RawLadder>,
}

/// How far points are judged. `{}` takes the defaults.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLadder {
    /// The probability with which a target's best point by the judge is to be among its judged ones. Default: 0.9.
    #[schemars(range(min = 0.5, max = 1.0))]
    pub confidence: Option<f64>,
    /// Beyond the points that are judged first (each target's best and a sample), no more than this. Default: 200.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub most: Option<u32>,
}

/// How points are raced. `{}` takes the defaults.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRacing {
    /// Queries of each domain asked between two looks. Default: 10.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub block: Option<u32>,
    /// Of the points that would have bettered some target, at most this share is given up; 0 gives up only what is
    /// certainly out of reach. Default: 0.01.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub error: Option<f64>,
    /// Another seed asks the queries in another order. Default: 0.
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_u64))]
    pub seed: Option<u64>,
}

/// Who judges responses.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawJudge {
    /// The provider. Default: reference.
    #[serde(default)]
    pub provider: RawProvider,
    /// reference: similarity (chrF, 0 to 1) under which a response is unclear.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub threshold: Option<f64>,
    /// openai: endpoint without `/chat/completions`. Default: `https://api.openai.com/v1`.
    pub base_url: Option<String>,
    /// openai: the model's name there. Required.
    pub model: Option<String>,
    /// openai: environment variable that holds the key. Default: OPENAI_API_KEY; empty for a server without keys.
    pub api_key_env: Option<String>,
    /// openai: requests in flight at once. Default: 8.
    #[schemars(range(min = 1, max = 1000))]
    pub concurrency: Option<u32>,
    /// openai: seconds one request may take. Default: 60.
    #[schemars(range(min = 1, max = 3600))]
    pub timeout_seconds: Option<u32>,
    /// openai: tries per response. Default: 6.
    #[schemars(range(min = 1, max = 100))]
    pub max_attempts: Option<u32>,
    /// openai: the rubric; a default one describes the three default levels.
    pub rubric: Option<String>,
}

/// Judge providers.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawProvider {
    /// Embedded: the level of the nearest reference response.
    #[default]
    Reference,
    /// Any OpenAI-compatible chat-completions endpoint.
    Openai,
}

/// The JSON schema of sweep files.
pub(crate) fn schema() -> serde_json::Value {
    schema_of::<RawSweep>("avsweep sweep file")
}

/// The JSON schema of what a sweep file has under `strategy`.
pub(super) fn strategy_schema() -> serde_json::Value {
    schema_of::<RawStrategy>("avsweep strategy")
}

fn schema_of<T: JsonSchema>(title: &str) -> serde_json::Value {
    // Inlined, so that the place of an error in the schema is also the place of its properties.
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    if let Some(object) = schema.as_object_mut() {
        object.insert("title".to_owned(), title.into());
    }
    schema
}
