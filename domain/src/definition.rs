//! A sweep's definition: everything its results depend on.

use serde::{Deserialize, Serialize};

use crate::{
    Fingerprint, FingerprintBuilder, Ladder, Levels, LevelsError, Normalisation, Query, QueryError, QuerySet,
    QuerySlice, Racing, RacingProblem, Reading, Space, SpaceError, Strategy, StrategyError, Target,
    TargetError,
};

/// The element type that merged weights are held in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32-bit IEEE float.
    #[default]
    F32,
    /// bfloat16.
    Bf16,
    /// 16-bit IEEE float.
    F16,
}

impl Dtype {
    /// `f32`, `bf16` or `f16`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }
}

/// The base model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelSource {
    /// Its Hugging Face folder.
    pub path: String,
    /// What merged weights are cast to.
    pub dtype: Dtype,
    /// The folder's content.
    pub fingerprint: Fingerprint,
}

/// An alignment vector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VectorSource {
    /// Its name in the sweep.
    pub name: String,
    /// Its file or folder.
    pub path: String,
    /// The content.
    pub fingerprint: Fingerprint,
}

/// One domain with its queries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainDefinition {
    /// Its name.
    pub name: String,
    /// The queries that points are chosen by.
    pub search: Vec<Query>,
    /// The queries that chosen points are reported on.
    pub confirm: Vec<Query>,
}

/// Where a rung is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Coverage {
    /// Nowhere.
    None,
    /// At the best points of each target.
    Finalists,
    /// Wherever the strategy looks.
    All,
}

/// How responses are decoded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecodeSettings {
    /// Token limit of a response.
    pub max_new_tokens: u32,
    /// 0 is greedy.
    pub temperature: f64,
    /// Nucleus mass in (0, 1]; 1 keeps every token.
    pub top_p: f64,
    /// Seed of sampled decoding; each query's own seed follows from it and the query.
    pub seed: u64,
    /// Texts before which a response ends; their order means nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
}

impl DecodeSettings {
    /// The most probable token at every step, up to this many.
    pub fn greedy(max_new_tokens: u32) -> Self {
        Self { max_new_tokens, temperature: 0.0, top_p: 1.0, seed: 0, stop: Vec::new() }
    }
}

/// Stop strings of a sweep at most.
const MOST_STOPS: usize = 16;
/// Bytes of a stop string at most.
const LONGEST_STOP: usize = 256;

/// What is measured, and where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The likelihood rung: everywhere or nowhere.
    pub likelihood: Coverage,
    /// The generation and judgement rungs.
    pub generation: Coverage,
    /// Best points per target that go on to the confirm queries (by any likelihood reading and aggregate) and, with
    /// `generation: finalists`, to the judge (by the default reading and the weakest domain).
    pub finalists_per_target: u32,
    /// How far points are judged on the search queries, so that the judge chooses among them; `None` judges the
    /// finalists alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ladder: Option<Ladder>,
    /// Decoding.
    pub decode: DecodeSettings,
    /// Whether points that are out of reach are given up early; `None` measures every point in full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub racing: Option<Racing>,
}

/// Who judges.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "provider", rename_all = "snake_case")]
pub enum JudgeProvider {
    /// Embedded, no network: the level of the nearest reference response.
    Reference {
        /// Similarity (chrF, 0 to 1) under which a response is `unclear`.
        threshold: f64,
    },
    /// Any OpenAI-compatible chat-completions endpoint.
    Openai {
        /// Up to but without `/chat/completions`.
        base_url: String,
        /// The model's name there.
        model: String,
        /// Environment variable that holds the key; `None` sends no key (a server of one's own).
        api_key_env: Option<String>,
        /// Requests in flight at once per judge process.
        concurrency: u32,
        /// Seconds one request may take.
        timeout_seconds: u32,
        /// Tries per response before it counts as failed.
        max_attempts: u32,
    },
}

/// Who judges, and by what rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgeSettings {
    /// The provider.
    pub provider: JudgeProvider,
    /// The rubric that a model judge is given; not used by `reference`.
    pub rubric: String,
}

/// One search: model, domains, levels, space, strategy, evaluation, judge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SweepDefinition {
    /// Its name, unique in a store.
    pub name: String,
    /// The base model.
    pub model: ModelSource,
    /// The alignment vectors that coefficients refer to.
    pub vectors: Vec<VectorSource>,
    /// The coefficients.
    pub space: Space,
    /// The levels.
    pub levels: Levels,
    /// The domains; at least one.
    pub domains: Vec<DomainDefinition>,
    /// The strategy.
    pub strategy: Strategy,
    /// What is measured, and where.
    pub evaluation: Evaluation,
    /// Who judges.
    pub judge: JudgeSettings,
}

/// What is wrong with a definition.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DefinitionError {
    /// Points cannot be raced.
    #[error(transparent)]
    Racing(#[from] RacingProblem),
    /// The name could not be used in a path or a command.
    #[error("sweep name '{0}' must be 1 to 100 letters, digits, '-', '_' or '.', and not only digits")]
    BadName(String),
    /// There is no domain.
    #[error("a sweep needs at least one domain")]
    NoDomains,
    /// A domain's name stands twice.
    #[error("domain '{0}' is defined twice")]
    DuplicateDomain(String),
    /// A name that the target grammar could not read back.
    #[error("domain '{0}' must be non-empty and hold no '=', ',' or white space")]
    BadDomainName(String),
    /// Nothing to choose points by.
    #[error("domain '{0}' has no search queries")]
    NoSearchQueries(String),
    /// Domains differ in whether they have confirm queries.
    #[error("domain '{0}' has no confirm queries although others have: give every domain some, or none")]
    NoConfirmQueries(String),
    /// A query id stands twice.
    #[error("query id '{id}' stands twice (domains '{first}' and '{second}')")]
    DuplicateQuery {
        /// The id.
        id: String,
        /// Where it stood first.
        first: String,
        /// Where it stands again.
        second: String,
    },
    /// A query is wrong.
    #[error("domain '{domain}': {source}")]
    Query {
        /// The domain.
        domain: String,
        /// What is wrong.
        source: QueryError,
    },
    /// A coefficient names a vector that is not there.
    #[error("coefficient '{coefficient}' refers to vector number {index}; there are {count}")]
    UnknownVector {
        /// The coefficient.
        coefficient: String,
        /// The index found.
        index: usize,
        /// How many vectors there are.
        count: usize,
    },
    /// A vector that would be loaded for nothing.
    #[error("vector '{0}' is used by no coefficient: give it one, or remove it")]
    UnusedVector(String),
    /// Nothing is measured.
    #[error("evaluation: likelihood and generation are both 'none': nothing would be measured")]
    NothingMeasured,
    /// Likelihood is all or nothing.
    #[error(
        "evaluation: likelihood is 'finalists'; it is what finalists are chosen by: 'all' or 'none' is wanted"
    )]
    LikelihoodFinalists,
    /// Finalists are chosen by likelihood.
    #[error("evaluation: generation 'finalists' needs 'likelihood: all' to choose the finalists by")]
    FinalistsWithoutLikelihood,
    /// A ladder has to begin somewhere.
    #[error("evaluation.ladder needs 'generation: finalists': it says how many points are judged besides")]
    LadderWithoutFinalists,
    /// Only the points within reach are measured in full.
    #[error(
        "evaluation.ladder and evaluation.racing are both given; only one of them is wanted: a ladder samples from all \
         points, and a race measures only those within reach in full"
    )]
    LadderWithRacing,
    /// A number out of its range.
    #[error("{field} is {found}; {wanted} is wanted")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// The value found.
        found: String,
        /// The values wanted.
        wanted: &'static str,
    },
    /// The strategy does not fit the space.
    #[error(transparent)]
    Strategy(#[from] StrategyError),
    /// The space is wrong.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// The levels are wrong.
    #[error(transparent)]
    Levels(#[from] LevelsError),
}

/// A query with its place in the sweep.
#[derive(Clone, Copy, Debug)]
pub struct QueryEntry<'a> {
    /// Its ordinal: search queries of all domains first, then confirm queries.
    pub ordinal: u32,
    /// Its domain's index.
    pub domain: usize,
    /// Its set.
    pub set: QuerySet,
    /// The query.
    pub query: &'a Query,
}

impl SweepDefinition {
    /// Checks everything that can be checked without reading a model.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), DefinitionError> {
        let name_ok = (1..=100).contains(&self.name.len())
            && self.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            && !self.name.bytes().all(|byte| byte.is_ascii_digit());
        if !name_ok {
            return Err(DefinitionError::BadName(self.name.clone()));
        }
        if self.domains.is_empty() {
            return Err(DefinitionError::NoDomains);
        }
        let any_confirm = self.domains.iter().any(|domain| !domain.confirm.is_empty());
        for (index, domain) in self.domains.iter().enumerate() {
            let name = || domain.name.clone();
            if domain.name.is_empty()
                || domain.name.contains(|c: char| c == '=' || c == ',' || c.is_whitespace())
            {
                return Err(DefinitionError::BadDomainName(name()));
            }
            if self.domains[..index].iter().any(|earlier| earlier.name == domain.name) {
                return Err(DefinitionError::DuplicateDomain(name()));
            }
            if domain.search.is_empty() {
                return Err(DefinitionError::NoSearchQueries(name()));
            }
            if any_confirm && domain.confirm.is_empty() {
                return Err(DefinitionError::NoConfirmQueries(name()));
            }
        }
        let mut seen = std::collections::HashMap::new();
        for entry in self.queries() {
            let domain = &self.domains[entry.domain].name;
            entry
                .query
                .check(&self.levels)
                .map_err(|source| DefinitionError::Query { domain: domain.clone(), source })?;
            if let Some(first) = seen.insert(&entry.query.id, domain) {
                return Err(DefinitionError::DuplicateQuery {
                    id: entry.query.id.clone(),
                    first: first.clone(),
                    second: domain.clone(),
                });
            }
        }
        for coefficient in self.space.coefficients() {
            if coefficient.vector >= self.vectors.len() {
                return Err(DefinitionError::UnknownVector {
                    coefficient: coefficient.name.clone(),
                    index: coefficient.vector,
                    count: self.vectors.len(),
                });
            }
        }
        for (index, vector) in self.vectors.iter().enumerate() {
            if !self.space.coefficients().iter().any(|coefficient| coefficient.vector == index) {
                return Err(DefinitionError::UnusedVector(vector.name.clone()));
            }
        }
        self.strategy.check(&self.space, self.domains.len(), self.levels.len())?;
        self.check_evaluation()
    }

    fn check_evaluation(&self) -> Result<(), DefinitionError> {
        let evaluation = &self.evaluation;
        match (evaluation.likelihood, evaluation.generation) {
            (Coverage::None, Coverage::None) => return Err(DefinitionError::NothingMeasured),
            (Coverage::Finalists, _) => return Err(DefinitionError::LikelihoodFinalists),
            (Coverage::None, Coverage::Finalists) => return Err(DefinitionError::FinalistsWithoutLikelihood),
            _ => {}
        }
        let decode = &evaluation.decode;
        let out_of_range = |field, found: &dyn std::fmt::Display, wanted| {
            Err(DefinitionError::OutOfRange { field, found: found.to_string(), wanted })
        };
        if !(1..=100_000).contains(&decode.max_new_tokens) {
            return out_of_range("evaluation.max_new_tokens", &decode.max_new_tokens, "1 to 100000");
        }
        if !(0.0..=100.0).contains(&decode.temperature) {
            return out_of_range("evaluation.temperature", &decode.temperature, "0 to 100");
        }
        if !(decode.top_p > 0.0 && decode.top_p <= 1.0) {
            return out_of_range("evaluation.top_p", &decode.top_p, "above 0, at most 1");
        }
        if decode.stop.len() > MOST_STOPS {
            return out_of_range(
                "evaluation.stop",
                &format!("{} texts", decode.stop.len()),
                "at most 16 texts",
            );
        }
        if let Some(stop) = decode.stop.iter().find(|stop| !(1..=LONGEST_STOP).contains(&stop.len())) {
            return out_of_range("evaluation.stop", &format!("{stop:?}"), "texts of 1 to 256 bytes");
        }
        if !(1..=1000).contains(&evaluation.finalists_per_target) {
            return out_of_range(
                "evaluation.finalists_per_target",
                &evaluation.finalists_per_target,
                "1 to 1000",
            );
        }
        if let Some(ladder) = &evaluation.ladder {
            ladder.check(evaluation)?;
        }
        if let Some(racing) = &evaluation.racing {
            racing.check(evaluation.likelihood, &self.strategy, self.domains.len(), self.levels.len())?;
        }
        match &self.judge.provider {
            JudgeProvider::Reference { threshold } if !(0.0..=1.0).contains(threshold) => {
                out_of_range("judge.threshold", threshold, "0 to 1")
            }
            JudgeProvider::Openai { concurrency, .. } if !(1..=1000).contains(concurrency) => {
                out_of_range("judge.concurrency", concurrency, "1 to 1000")
            }
            JudgeProvider::Openai { timeout_seconds, .. } if !(1..=3600).contains(timeout_seconds) => {
                out_of_range("judge.timeout_seconds", timeout_seconds, "1 to 3600")
            }
            JudgeProvider::Openai { max_attempts, .. } if !(1..=100).contains(max_attempts) => {
                out_of_range("judge.max_attempts", max_attempts, "1 to 100")
            }
            JudgeProvider::Reference { .. } | JudgeProvider::Openai { .. } => Ok(()),
        }
    }

    /// The domains' names, in order.
    pub fn domain_names(&self) -> Vec<&str> {
        self.domains.iter().map(|domain| domain.name.as_str()).collect()
    }

    /// Every query with its place: the search queries of all domains first, then the confirm queries.
    pub fn queries(&self) -> impl Iterator<Item = QueryEntry<'_>> {
        [QuerySet::Search, QuerySet::Confirm]
            .into_iter()
            .flat_map(move |set| {
                self.domains.iter().enumerate().flat_map(move |(domain, definition)| {
                    let queries = match set {
                        QuerySet::Search => &definition.search,
                        QuerySet::Confirm => &definition.confirm,
                    };
                    queries.iter().map(move |query| (domain, set, query))
                })
            })
            .enumerate()
            .map(|(ordinal, (domain, set, query))| QueryEntry { ordinal: ordinal as u32, domain, set, query })
    }

    /// The ordinals of a set's queries.
    pub fn slice(&self, set: QuerySet) -> QuerySlice {
        let search = self.domains.iter().map(|domain| domain.search.len() as u32).sum();
        let confirm: u32 = self.domains.iter().map(|domain| domain.confirm.len() as u32).sum();
        match set {
            QuerySet::Search => QuerySlice { start: 0, end: search },
            QuerySet::Confirm => QuerySlice { start: search, end: search + confirm },
        }
    }

    /// The set that chosen points are reported on: confirm where there is one, else search.
    pub fn reported_set(&self) -> QuerySet {
        if self.slice(QuerySet::Confirm).is_empty() { QuerySet::Search } else { QuerySet::Confirm }
    }

    /// The numbers that points are ranked by unless a user says otherwise: the highest rung that is measured on the
    /// search queries where it decides.
    pub fn default_reading(&self) -> Reading {
        if self.evaluation.ladder.is_some() { Reading::Judgement } else { self.search_reading() }
    }

    /// The numbers that the strategy searches by: where every point is judged, `bayesian` goes by the verdicts, and takes
    /// what is known of likelihoods for hints.
    pub fn search_reading(&self) -> Reading {
        match (self.evaluation.likelihood, self.evaluation.generation, &self.strategy) {
            (Coverage::None, _, _) | (Coverage::All, Coverage::All, Strategy::Bayesian(_)) => {
                Reading::Judgement
            }
            (Coverage::Finalists | Coverage::All, _, _) => Reading::Likelihood(Normalisation::Mean),
        }
    }

    /// The query set whose responses are judged; where both are, the one that points are chosen by.
    pub fn judged_set(&self) -> QuerySet {
        match (self.evaluation.generation, &self.evaluation.ladder) {
            (Coverage::All, _) | (_, Some(_)) => QuerySet::Search,
            (Coverage::Finalists | Coverage::None, None) => self.reported_set(),
        }
    }

    /// Reads a target of this sweep.
    ///
    /// # Errors
    /// When a domain or level is unknown, doubled or missing.
    pub fn target(&self, text: &str) -> Result<Target, TargetError> {
        Target::parse(text, &self.domain_names(), &self.levels)
    }

    /// Every target: a level for every domain.
    pub fn all_targets(&self) -> Vec<Target> {
        Target::all(self.domains.len(), &self.levels)
    }

    /// What a merged model depends on besides the point: base, dtype, vectors, and what each coefficient acts on.
    pub fn recipe_fingerprint(&self) -> Fingerprint {
        let mut builder = FingerprintBuilder::new("avsweep recipe 1");
        builder.fingerprint(&self.model.fingerprint).text(self.model.dtype.as_str());
        builder.count(self.space.dimensions());
        for coefficient in self.space.coefficients() {
            if let Some(vector) = self.vectors.get(coefficient.vector) {
                builder.fingerprint(&vector.fingerprint);
            }
            match &coefficient.tensors {
                None => builder.integer(-1),
                Some(patterns) => patterns
                    .iter()
                    .fold(builder.integer(patterns.len() as i64), |builder, pattern| builder.text(pattern)),
            };
        }
        builder.finish()
    }

    /// What a response depends on besides model, point and query.
    pub fn decode_fingerprint(&self) -> Fingerprint {
        let decode = &self.evaluation.decode;
        let mut builder = FingerprintBuilder::new("avsweep decode 1");
        builder.integer(i64::from(decode.max_new_tokens)).bytes(&decode.temperature.to_le_bytes());
        if decode.temperature > 0.0 {
            builder.bytes(&decode.top_p.to_le_bytes()).bytes(&decode.seed.to_le_bytes());
        }
        let stops: std::collections::BTreeSet<&str> = decode.stop.iter().map(String::as_str).collect();
        if !stops.is_empty() {
            builder.text("stop").count(stops.len());
            stops.into_iter().fold(&mut builder, |builder, stop| builder.text(stop));
        }
        builder.finish()
    }

    /// What a verdict depends on besides query and response: provider, its model and the rubric, not where it runs.
    pub fn judge_fingerprint(&self) -> Fingerprint {
        let mut builder = FingerprintBuilder::new("avsweep judge 1");
        for level in self.levels.names() {
            builder.text(level);
        }
        match &self.judge.provider {
            JudgeProvider::Reference { threshold } => {
                builder.text("reference").bytes(&threshold.to_le_bytes())
            }
            JudgeProvider::Openai { base_url, model, .. } => {
                builder.text("openai").text(base_url).text(model).text(&self.judge.rubric)
            }
        };
        builder.finish()
    }

    /// What the sweep as a whole is: two definitions with the same fingerprint are one sweep.
    ///
    /// Paths are left out: the same content elsewhere is the same sweep. So is how a judge is reached.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut builder = FingerprintBuilder::new("avsweep sweep 1");
        builder.text(&self.name).fingerprint(&self.recipe_fingerprint());
        for coefficient in self.space.coefficients() {
            builder.text(&coefficient.name);
            for ticks in [coefficient.range.min(), coefficient.range.max(), coefficient.range.step()] {
                builder.integer(i64::from(ticks.get()));
            }
        }
        builder.count(self.levels.len());
        for level in self.levels.names() {
            builder.text(level);
        }
        builder.count(self.domains.len());
        for domain in &self.domains {
            builder.text(&domain.name).count(domain.search.len()).count(domain.confirm.len());
        }
        for entry in self.queries() {
            builder.text(&entry.query.id).fingerprint(&entry.query.fingerprint());
        }
        self.strategy.add_to(&mut builder);
        let coverage = |coverage| match coverage {
            Coverage::None => 0,
            Coverage::Finalists => 1,
            Coverage::All => 2,
        };
        builder
            .integer(coverage(self.evaluation.likelihood))
            .integer(coverage(self.evaluation.generation))
            .integer(i64::from(self.evaluation.finalists_per_target))
            .fingerprint(&self.decode_fingerprint())
            .fingerprint(&self.judge_fingerprint());
        if let Some(racing) = &self.evaluation.racing {
            racing.add_to(&mut builder);
        }
        if let Some(ladder) = &self.evaluation.ladder {
            ladder.add_to(&mut builder);
        }
        builder.finish()
    }
}
