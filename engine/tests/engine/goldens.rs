//! Against transformers: numbers recorded by `goldens/make.py` on tiny random checkpoints.

use avsweep_engine::{
    AlignmentVector, BaseModel, Coefficient, Engine, FinishReason, MergedModel, Message, PromptItem,
    Sampling, ScoreItem, WeightType, merge_to_folder,
};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// What the design asks for. The numbers are recorded from f32 arithmetic in another order.
const LOGIT_TOLERANCE: f32 = 1e-3;
/// Sums of some twenty log-probabilities.
const SUM_TOLERANCE: f64 = 1e-3;

#[derive(Deserialize)]
pub(crate) struct Expected {
    pub(crate) queries: Vec<Query>,
    /// Conversations that the chat template refuses.
    #[serde(default)]
    pub(crate) refused: Vec<Refused>,
    pub(crate) merged: Option<Merged>,
    merged_bf16: Option<Merged>,
}

#[derive(Deserialize)]
pub(crate) struct Refused {
    pub(crate) messages: Vec<Turn>,
    pub(crate) reason: String,
}

#[derive(Deserialize)]
pub(crate) struct Merged {
    pub(crate) point: Vec<f64>,
    pub(crate) queries: Vec<Query>,
}

#[derive(Deserialize)]
pub(crate) struct Query {
    pub(crate) messages: Vec<Turn>,
    tokens: Vec<u32>,
    pub(crate) references: Vec<Reference>,
    last_logits: Vec<f32>,
    greedy: Option<Greedy>,
}

#[derive(Deserialize)]
pub(crate) struct Turn {
    role: String,
    content: String,
}

#[derive(Deserialize)]
pub(crate) struct Reference {
    pub(crate) text: String,
    tokens: Vec<u32>,
    log_prob_sum: f64,
}

#[derive(Deserialize)]
struct Greedy {
    text: String,
    tokens: u32,
    finish: String,
}

pub(crate) fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens").join(name)
}

fn expected(name: &str) -> Expected {
    expected_in(&folder(name))
}

pub(crate) fn expected_in(folder: &Path) -> Expected {
    serde_json::from_str(&std::fs::read_to_string(folder.join("expected.json")).unwrap()).unwrap()
}

pub(crate) fn messages(turns: &[Turn]) -> Vec<Message> {
    turns.iter().map(|turn| Message::new(&turn.role, &turn.content)).collect()
}

pub(crate) fn agrees(engine: &Engine, queries: &[Query]) {
    let items: Vec<ScoreItem> = queries
        .iter()
        .map(|query| ScoreItem {
            messages: messages(&query.messages),
            references: query.references.iter().map(|reference| reference.text.clone()).collect(),
        })
        .collect();
    let scores = engine.score(&engine.prepare_scores(&items)).unwrap();
    let prompts: Vec<PromptItem> =
        queries.iter().map(|query| PromptItem { messages: messages(&query.messages), seed: 0 }).collect();
    let answers = engine.generate(&engine.prepare_prompts(&prompts), &Sampling::greedy(24)).unwrap();
    for ((query, scores), answer) in queries.iter().zip(scores).zip(answers) {
        assert_eq!(engine.prompt_tokens(&messages(&query.messages)).unwrap(), query.tokens);
        let logits = engine.logits(&query.tokens).unwrap();
        let worst = logits
            .last()
            .unwrap()
            .iter()
            .zip(&query.last_logits)
            .map(|(ours, theirs)| (ours - theirs).abs())
            .fold(0.0, f32::max);
        println!("logits differ by at most {worst:e}");
        assert!(worst <= LOGIT_TOLERANCE, "logits differ by {worst:e}");
        for (score, reference) in scores.unwrap().into_iter().zip(&query.references) {
            assert_eq!(score.tokens as usize, reference.tokens.len(), "{}", reference.text);
            assert_eq!(score.bytes as usize, reference.text.len());
            let difference = (score.log_prob_sum - reference.log_prob_sum).abs();
            println!("log-probabilities differ by {difference:e}");
            assert!(
                difference <= SUM_TOLERANCE,
                "{}: log-probabilities differ by {difference:e}",
                reference.text
            );
        }
        if let Some(greedy) = &query.greedy {
            let answer = answer.unwrap();
            assert_eq!(answer.text, greedy.text);
            assert_eq!(answer.tokens, greedy.tokens);
            assert_eq!(answer.finish == FinishReason::Stop, greedy.finish == "stop");
        }
    }
}

pub(crate) fn plain(folder: &Path) -> Engine {
    Engine::load(BaseModel::open(folder).unwrap(), Vec::new(), &[], WeightType::F32).unwrap()
}

/// With `AVSWEEP_MODEL`, the folder of a real model that `goldens/make.py` has recorded as well.
#[test]
fn untied_grouped_query_model_agrees_with_transformers() {
    agrees(&plain(&folder("untied")), &expected("untied").queries);
    if let Some(model) = std::env::var_os("AVSWEEP_MODEL").map(PathBuf::from) {
        agrees(&plain(&model), &expected_in(&model).queries);
    }
}

#[test]
fn tied_f16_model_with_wide_heads_agrees_with_transformers() {
    agrees(&plain(&folder("tied")), &expected("tied").queries);
}

#[test]
fn sharded_bf16_model_with_llama3_template_agrees_with_transformers() {
    agrees(&plain(&folder("sharded")), &expected("sharded").queries);
}

fn merged(dtype: WeightType, point: &[f64]) -> Engine {
    let base = BaseModel::open(&folder("untied")).unwrap();
    let vectors = (0..2)
        .map(|index| {
            AlignmentVector::open(&folder("untied").join(format!("vector{index}.safetensors")), &base)
                .unwrap()
        })
        .collect();
    let coefficients = [Coefficient::whole("alpha", 0), Coefficient::whole("beta", 1)];
    let mut engine = Engine::load(base, vectors, &coefficients, dtype).unwrap();
    engine.merge(point).unwrap();
    engine
}

#[test]
fn a_merged_point_agrees_with_the_merge_in_torch() {
    let expected = expected("untied").merged.unwrap();
    agrees(&merged(WeightType::F32, &expected.point), &expected.queries);
}

#[test]
fn a_point_rounded_to_bf16_agrees_with_torch_rounding_once() {
    let expected = expected("untied").merged_bf16.unwrap();
    agrees(&merged(WeightType::Bf16, &expected.point), &expected.queries);
}

#[test]
fn an_exported_point_is_the_point() {
    let expected = expected("untied").merged.unwrap();
    let out = tempfile::tempdir().unwrap();
    let vectors: Vec<(PathBuf, f64)> = expected
        .point
        .iter()
        .enumerate()
        .map(|(index, weight)| (folder("untied").join(format!("vector{index}.safetensors")), *weight))
        .collect();
    merge_to_folder(&MergedModel::weighted(&folder("untied"), &vectors), out.path()).unwrap();
    agrees(&plain(out.path()), &expected.queries);
}
