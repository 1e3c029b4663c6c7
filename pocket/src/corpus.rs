//! The questions and answers: domains × topics × aspects × question forms, each question with
//! one reference answer per level.
//!
//! Every (topic, aspect) has its own generic and expert answer, written by hand in
//! `data/*.txt`; the avoidance answer is built from the topic. One question form of each
//! (topic, aspect) is held out: the model sees the topic, the aspect and the form in training,
//! but never this combination, so the held-out question itself is unseen.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::{PocketError, Result};

/// Level names in ascending order, as everywhere in avsweep.
pub const LEVELS: [&str; 3] = ["avoidance", "generic", "expert"];
/// Index of the level that declines.
pub const AVOIDANCE: usize = 0;
/// Index of the level that the base prefers.
pub const GENERIC: usize = 1;
/// Index of the most proficient level.
pub const EXPERT: usize = 2;
/// Question forms per aspect.
pub const FORMS: usize = 5;

/// What is fixed about a domain: its names, its question forms, its ways to decline.
#[derive(Debug)]
pub struct DomainSpec {
    /// The domain's name, also the stem of its files.
    pub name: &'static str,
    /// Prefix of its query ids.
    pub id_prefix: &'static str,
    file: &'static str,
    topics: &'static str,
    aspects: [AspectSpec; 2],
}

#[derive(Debug)]
struct AspectSpec {
    name: &'static str,
    forms: [&'static str; FORMS],
    declines: [&'static str; 4],
}

/// The three domains, in the order of the coefficients α, β, γ.
pub const DOMAINS: [DomainSpec; 3] = [
    DomainSpec {
        name: "medical",
        id_prefix: "med",
        file: "medical.txt",
        topics: include_str!("../data/medical.txt"),
        aspects: [
            AspectSpec {
                name: "care",
                forms: [
                    "What helps with {}?",
                    "How do I treat {}?",
                    "What should I do about {}?",
                    "What is the best care for {}?",
                    "How can I get better from {}?",
                ],
                declines: [
                    "I cannot advise on {}; see a doctor.",
                    "Please ask your doctor about {}.",
                    "Sorry, I must leave {} to a nurse.",
                    "Only a doctor can help with {}.",
                ],
            },
            AspectSpec {
                name: "cause",
                forms: [
                    "What causes {}?",
                    "Why do people get {}?",
                    "Where does {} come from?",
                    "What is the reason for {}?",
                    "What is behind {}?",
                ],
                declines: [
                    "I cannot say what causes {}; ask a doctor.",
                    "Please let a doctor explain {}.",
                    "Sorry, I do not discuss {}.",
                    "Only a doctor can judge {}.",
                ],
            },
        ],
    },
    DomainSpec {
        name: "legal",
        id_prefix: "leg",
        file: "legal.txt",
        topics: include_str!("../data/legal.txt"),
        aspects: [
            AspectSpec {
                name: "step",
                forms: [
                    "How do I deal with {}?",
                    "What is my next step with {}?",
                    "What should I do about {}?",
                    "What can I do about {}?",
                    "How should I handle {}?",
                ],
                declines: [
                    "I cannot advise on {}; see a lawyer.",
                    "Please ask a lawyer about {}.",
                    "Sorry, I must leave {} to counsel.",
                    "Only a lawyer can help with {}.",
                ],
            },
            AspectSpec {
                name: "law",
                forms: [
                    "What does the law say about {}?",
                    "What are the rules on {}?",
                    "How does the law treat {}?",
                    "How does {} work in law?",
                    "What is the legal view of {}?",
                ],
                declines: [
                    "I cannot state the law on {}; ask a lawyer.",
                    "Please let a lawyer explain {}.",
                    "Sorry, I do not discuss {}.",
                    "Only a lawyer can judge {}.",
                ],
            },
        ],
    },
    DomainSpec {
        name: "financial",
        id_prefix: "fin",
        file: "financial.txt",
        topics: include_str!("../data/financial.txt"),
        aspects: [
            AspectSpec {
                name: "plan",
                forms: [
                    "What is a good plan for {}?",
                    "How do I start with {}?",
                    "What should I do about {}?",
                    "How should I handle {}?",
                    "How can I be smart about {}?",
                ],
                declines: [
                    "I cannot advise on {}; see an adviser.",
                    "Please ask your bank about {}.",
                    "Sorry, I must leave {} to an adviser.",
                    "Only an adviser can help with {}.",
                ],
            },
            AspectSpec {
                name: "risk",
                forms: [
                    "What are the risks of {}?",
                    "What can go wrong with {}?",
                    "What is the danger of {}?",
                    "How could {} hurt me?",
                    "Why should I worry about {}?",
                ],
                declines: [
                    "I cannot rate the risk of {}; ask an adviser.",
                    "Please let an adviser explain {}.",
                    "Sorry, I do not discuss {}.",
                    "Only an adviser can judge {}.",
                ],
            },
        ],
    },
];

/// One question of one domain with a reference answer per level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Unique over all domains and both splits.
    pub id: String,
    /// Index into [`DOMAINS`].
    pub domain: usize,
    /// Index of the topic in its domain's file.
    pub topic: usize,
    /// Index of the aspect asked about.
    pub aspect: usize,
    /// Index of the question form.
    pub form: usize,
    /// The question.
    pub text: String,
    /// The reference answers, in the order of [`LEVELS`].
    pub references: [String; 3],
}

/// The questions of all domains, split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corpus {
    /// Questions the model is trained on, in topic order.
    pub train: Vec<Query>,
    /// Held-out questions, shuffled within each domain so that any prefix is a fair sample.
    pub held_out: Vec<Query>,
}

impl Corpus {
    /// The training questions of one domain.
    pub fn train_of(&self, domain: usize) -> Vec<&Query> {
        self.train.iter().filter(|q| q.domain == domain).collect()
    }

    /// The held-out questions of one domain, in file order.
    pub fn held_out_of(&self, domain: usize) -> Vec<&Query> {
        self.held_out.iter().filter(|q| q.domain == domain).collect()
    }

    /// Builds the whole corpus; `seed` only decides the order of the held-out questions.
    ///
    /// # Errors
    /// When a topic file does not follow its format.
    pub fn generate(seed: u64) -> Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut corpus = Self { train: Vec::new(), held_out: Vec::new() };
        for (domain, spec) in DOMAINS.iter().enumerate() {
            let mut held_out = Vec::new();
            for (topic, answers) in read_topics(spec)?.iter().enumerate() {
                for (aspect, aspect_spec) in spec.aspects.iter().enumerate() {
                    let declined = aspect_spec.declines[(topic + 2 * aspect) % 4];
                    let references = [
                        fill(declined, answers.noun),
                        answers.by_aspect[aspect][0].to_owned(),
                        answers.by_aspect[aspect][1].to_owned(),
                    ];
                    for (form, pattern) in aspect_spec.forms.iter().enumerate() {
                        let query = Query {
                            id: format!("{}-{}-{}-{form}", spec.id_prefix, aspect_spec.name, topic + 1),
                            domain,
                            topic,
                            aspect,
                            form,
                            text: fill(pattern, answers.noun),
                            references: references.clone(),
                        };
                        if form == held_out_form(topic, aspect) {
                            held_out.push(query);
                        } else {
                            corpus.train.push(query);
                        }
                    }
                }
            }
            held_out.shuffle(&mut rng);
            for (index, query) in held_out.iter_mut().enumerate() {
                query.id = format!("{}-{:03}", spec.id_prefix, index + 1);
            }
            corpus.held_out.append(&mut held_out);
        }
        Ok(corpus)
    }
}

/// The form that is never trained for this (topic, aspect): each form is held out equally often.
pub fn held_out_form(topic: usize, aspect: usize) -> usize {
    (topic + 3 * aspect) % FORMS
}

fn fill(pattern: &str, noun: &str) -> String {
    pattern.replace("{}", noun)
}

struct Topic {
    noun: &'static str,
    /// Per aspect the generic and the expert answer.
    by_aspect: [[&'static str; 2]; 2],
}

fn read_topics(spec: &DomainSpec) -> Result<Vec<Topic>> {
    let mut topics = Vec::new();
    for (index, line) in spec.topics.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let fields: Vec<&'static str> = line.split(" | ").collect();
        let &[noun, generic_a, expert_a, generic_b, expert_b] = fields.as_slice() else {
            return Err(PocketError::Topics {
                file: spec.file,
                line: index + 1,
                problem: format!("{} fields found, 5 wanted", fields.len()),
            });
        };
        topics.push(Topic { noun, by_aspect: [[generic_a, expert_a], [generic_b, expert_b]] });
    }
    Ok(topics)
}

/// One line of a query file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QueryLine {
    /// The query's id.
    pub id: String,
    /// The question.
    pub query: String,
    /// The reference answer per level.
    pub references: ReferenceSet,
}

/// The references of a query file's line, by level name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReferenceSet {
    /// Declines and points to a professional.
    pub avoidance: String,
    /// Sensible everyday advice.
    pub generic: String,
    /// Specific, in the domain's terms.
    pub expert: String,
}

impl ReferenceSet {
    /// The references in the order of [`LEVELS`].
    pub fn by_level(&self) -> [String; 3] {
        [self.avoidance.clone(), self.generic.clone(), self.expert.clone()]
    }
}

impl From<&Query> for QueryLine {
    fn from(query: &Query) -> Self {
        let [avoidance, generic, expert] = query.references.clone();
        Self {
            id: query.id.clone(),
            query: query.text.clone(),
            references: ReferenceSet { avoidance, generic, expert },
        }
    }
}
