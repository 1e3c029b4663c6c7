//! The engine on the family's products: level rates of held-out queries and greedy texts at any
//! point of the coefficient space.

use avsweep_engine::{
    AlignmentVector, BaseModel, Coefficient, Engine, Message, PreparedPrompts, PreparedScores, PromptItem,
    Sampling, ScoreItem, WeightType,
};

use crate::corpus::{DOMAINS, LEVELS, QueryLine};
use crate::error::{PocketError, Result, read_text};
use crate::measure::{PointRates, Rates, level_rates};
use crate::products::Layout;

/// Longest generated answer, in tokens.
const MAX_NEW_TOKENS: usize = 32;

/// What the greedy texts at one point are like.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct TextReport {
    /// Coefficients of the three vectors.
    pub point: [f64; 3],
    /// By domain: share of texts nearest to each level's reference.
    pub rates: [Rates; 3],
    /// By domain: mean chrF to the nearest reference.
    pub closeness: [f64; 3],
    /// By domain: the first query and its text.
    pub examples: [[String; 2]; 3],
}

/// The family, loaded and ready to be asked.
pub struct Probe {
    engine: Engine,
    domains: Vec<DomainItems>,
}

struct DomainItems {
    lines: Vec<QueryLine>,
    scores: PreparedScores,
    prompts: PreparedPrompts,
}

fn engine_error(error: impl std::error::Error + Send + Sync + 'static) -> PocketError {
    PocketError::Engine(Box::new(error))
}

impl Probe {
    /// Loads base, vectors and held-out queries from the family's folder.
    ///
    /// # Errors
    /// When a product is missing or refused by the engine.
    pub fn open(layout: &Layout) -> Result<Self> {
        let base = BaseModel::open(&layout.base()).map_err(engine_error)?;
        let vectors = (0..DOMAINS.len())
            .map(|d| AlignmentVector::open(&layout.vector(d), &base).map_err(engine_error))
            .collect::<Result<Vec<_>>>()?;
        let coefficients: Vec<Coefficient> = DOMAINS
            .iter()
            .enumerate()
            .map(|(index, domain)| Coefficient::whole(domain.name, index))
            .collect();
        let engine = Engine::load(base, vectors, &coefficients, WeightType::F32).map_err(engine_error)?;
        let domains = (0..DOMAINS.len())
            .map(|domain| {
                let lines = read_queries(layout, domain)?;
                let score_items: Vec<ScoreItem> = lines
                    .iter()
                    .map(|line| ScoreItem {
                        messages: vec![Message::user(&line.query)],
                        references: line.references.by_level().to_vec(),
                    })
                    .collect();
                let prompt_items: Vec<PromptItem> = lines
                    .iter()
                    .map(|line| PromptItem { messages: vec![Message::user(&line.query)], seed: 0 })
                    .collect();
                Ok(DomainItems {
                    scores: engine.prepare_scores(&score_items),
                    prompts: engine.prepare_prompts(&prompt_items),
                    lines,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { engine, domains })
    }

    /// Held-out queries of a domain (all domains have as many).
    pub fn query_count(&self) -> usize {
        self.domains.first().map_or(0, |domain| domain.lines.len())
    }

    /// Mean log-probability per token of each reference at a point: by domain, query, level.
    ///
    /// # Errors
    /// When the engine refuses the point or a query.
    pub fn scores(&mut self, point: [f64; 3]) -> Result<Vec<Vec<[f64; 3]>>> {
        self.engine.merge(&point).map_err(engine_error)?;
        self.domains
            .iter()
            .map(|domain| {
                self.engine
                    .score(&domain.scores)
                    .map_err(engine_error)?
                    .into_iter()
                    .map(|scored| {
                        let scored = scored.map_err(engine_error)?;
                        Ok(std::array::from_fn(|level| {
                            scored[level].log_prob_sum / f64::from(scored[level].tokens)
                        }))
                    })
                    .collect()
            })
            .collect()
    }

    /// The level rates of every domain at a point.
    ///
    /// # Errors
    /// When the engine refuses the point or a query.
    pub fn rates(&mut self, point: [f64; 3]) -> Result<PointRates> {
        let scores = self.scores(point)?;
        Ok(PointRates { point, domains: std::array::from_fn(|d| level_rates(&scores[d])) })
    }

    /// Greedy texts of all held-out queries at a point, judged by the nearest reference.
    ///
    /// # Errors
    /// When the engine refuses the point or a query.
    pub fn texts(&mut self, point: [f64; 3]) -> Result<TextReport> {
        self.engine.merge(&point).map_err(engine_error)?;
        let mut report = TextReport {
            point,
            rates: [[0.0; LEVELS.len()]; 3],
            closeness: [0.0; 3],
            examples: Default::default(),
        };
        for (index, domain) in self.domains.iter().enumerate() {
            let generated = self
                .engine
                .generate(&domain.prompts, &Sampling::greedy(MAX_NEW_TOKENS))
                .map_err(engine_error)?;
            let share = 1.0 / domain.lines.len() as f64;
            for (line, answer) in domain.lines.iter().zip(generated) {
                let text = answer.map_err(engine_error)?.text;
                let (level, closeness) = nearest(&text, &line.references.by_level());
                report.rates[index][level] += share;
                report.closeness[index] += closeness * share;
                if report.examples[index][0].is_empty() {
                    report.examples[index] = [line.query.clone(), text];
                }
            }
        }
        Ok(report)
    }

    /// Logits after every token of a sequence at the last merged point.
    ///
    /// # Errors
    /// When the engine refuses the tokens.
    pub fn logits(&self, tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
        self.engine.logits(tokens).map_err(engine_error)
    }

    /// Tokens that a question becomes under the chat template of the products.
    ///
    /// # Errors
    /// When the engine refuses the question.
    pub fn prompt_tokens(&self, question: &str) -> Result<Vec<u32>> {
        self.engine.prompt_tokens(&[Message::user(question)]).map_err(engine_error)
    }
}

/// Reads a domain's committed query file.
///
/// # Errors
/// When the file is missing or a line does not parse.
pub fn read_queries(layout: &Layout, domain: usize) -> Result<Vec<QueryLine>> {
    let path = layout.queries(domain);
    read_text(&path)?
        .lines()
        .map(|line| {
            serde_json::from_str(line).map_err(|source| PocketError::Json { path: path.clone(), source })
        })
        .collect()
}

/// The reference nearest to `text` by chrF, and its chrF; the first of equals.
fn nearest(text: &str, references: &[String; 3]) -> (usize, f64) {
    let mut best = (0, f64::NEG_INFINITY);
    for (level, reference) in references.iter().enumerate() {
        let score = avsweep_judge::chrf(text, reference);
        if score > best.1 {
            best = (level, score);
        }
    }
    best
}
