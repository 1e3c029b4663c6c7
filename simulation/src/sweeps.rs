//! The sweeps that schedules run: small, each kind with its own way through the planner.

use anyhow::Context as _;
use avsweep_domain::{
    BayesianSettings, Coefficient, Coverage, DecodeSettings, DomainDefinition, Dtype, Evaluation,
    Fingerprint, HierarchicalSettings, JudgeProvider, JudgeSettings, Ladder, Levels, Message, ModelSource,
    Query, Racing, Range, Role, Space, Strategy, SweepDefinition, Ticks, VectorSource,
};

/// What a schedule's sweeps are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Shape {
    /// One sweep: likelihoods everywhere, texts at finalists.
    Finalists,
    /// One sweep: likelihoods alone.
    Likelihood,
    /// One sweep: texts everywhere, no likelihoods.
    Texts,
    /// Two sweeps over the same inputs.
    Same,
    /// Two sweeps that share a model, and some points and queries.
    Overlapping,
    /// Two sweeps of different models.
    Apart,
    /// One sweep: coarse to fine.
    Hierarchical,
    /// One sweep: a model of the likelihoods chooses.
    Bayesian,
    /// One sweep: a model of the verdicts chooses.
    Judged,
    /// One sweep: points out of reach are given up.
    Raced,
    /// One sweep: the judge chooses among the best by likelihood.
    Laddered,
}

/// What the points and results of a schedule have in common with those of an undisturbed run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Likeness {
    /// They are the same; where a job was parked, there may be more.
    Always,
    /// They are the same unless a job was parked: what comes next depends on the results before.
    Unparked,
    /// What is measured depends on who is first.
    ByTiming,
}

impl Shape {
    pub(crate) const ALL: [Self; 11] = [
        Self::Finalists,
        Self::Likelihood,
        Self::Texts,
        Self::Same,
        Self::Overlapping,
        Self::Apart,
        Self::Hierarchical,
        Self::Bayesian,
        Self::Judged,
        Self::Raced,
        Self::Laddered,
    ];

    /// How a schedule's export compares with the undisturbed run's.
    pub(crate) fn likeness(self) -> Likeness {
        match self {
            Self::Finalists
            | Self::Likelihood
            | Self::Texts
            | Self::Same
            | Self::Overlapping
            | Self::Apart => Likeness::Always,
            Self::Hierarchical | Self::Laddered => Likeness::Unparked,
            Self::Bayesian | Self::Judged | Self::Raced => Likeness::ByTiming,
        }
    }

    /// The sweeps' definitions.
    pub(crate) fn definitions(self) -> anyhow::Result<Vec<SweepDefinition>> {
        let plain = Recipe { name: "first", base: "base", wide: false, shift: 0 };
        let wide = Recipe { wide: true, ..plain };
        let texts_at_finalists = (Coverage::All, Coverage::Finalists);
        let both = |second: Recipe, (likelihood, generation)| {
            Ok(vec![
                definition(plain, texts_at_finalists.0, texts_at_finalists.1)?,
                definition(second, likelihood, generation)?,
            ])
        };
        match self {
            Self::Finalists => Ok(vec![definition(plain, Coverage::All, Coverage::Finalists)?]),
            Self::Likelihood => Ok(vec![definition(plain, Coverage::All, Coverage::None)?]),
            Self::Texts => Ok(vec![definition(plain, Coverage::None, Coverage::All)?]),
            Self::Same => both(Recipe { name: "second", ..plain }, texts_at_finalists),
            Self::Overlapping => {
                both(Recipe { name: "second", wide: true, shift: 1, ..plain }, (Coverage::All, Coverage::All))
            }
            Self::Apart => both(Recipe { name: "second", base: "other", ..plain }, texts_at_finalists),
            Self::Hierarchical => {
                let settings = HierarchicalSettings { budget: Some(9), ..HierarchicalSettings::default() };
                one(wide, Coverage::Finalists, |sweep| sweep.strategy = Strategy::Hierarchical(settings))
            }
            Self::Bayesian | Self::Judged => {
                let texts = if self == Self::Judged { Coverage::All } else { Coverage::None };
                let settings = BayesianSettings {
                    budget: 8,
                    initial: Some(4),
                    min_gain: 0.0,
                    ..BayesianSettings::default()
                };
                one(wide, texts, |sweep| sweep.strategy = Strategy::Bayesian(settings))
            }
            Self::Raced => one(wide, Coverage::None, |sweep| {
                sweep.evaluation.racing = Some(Racing { block: 1, error: 0.0, seed: 0 });
            }),
            Self::Laddered => one(wide, Coverage::Finalists, |sweep| {
                sweep.evaluation.ladder = Some(Ladder { confidence: 0.9, most: 4 });
            }),
        }
    }
}

/// A sweep that scores everywhere, changed.
fn one(
    recipe: Recipe,
    generation: Coverage,
    change: impl FnOnce(&mut SweepDefinition),
) -> anyhow::Result<Vec<SweepDefinition>> {
    let mut sweep = definition(recipe, Coverage::All, generation)?;
    change(&mut sweep);
    sweep.check().context("a made-up sweep")?;
    Ok(vec![sweep])
}

#[derive(Clone, Copy, Debug)]
struct Recipe {
    name: &'static str,
    base: &'static str,
    /// Five by two points instead of three by two.
    wide: bool,
    /// The first query's number.
    shift: usize,
}

fn definition(recipe: Recipe, likelihood: Coverage, generation: Coverage) -> anyhow::Result<SweepDefinition> {
    let query = |domain: &str, index: usize| Query {
        id: format!("{domain}-{index}"),
        messages: vec![Message { role: Role::User, content: format!("What of {domain} {index}?") }],
        references: ["no", "some", "much"].map(|level| format!("{level} {domain} {index}")).to_vec(),
    };
    let vector = |name: &str| VectorSource {
        name: name.to_owned(),
        path: format!("{name}.safetensors"),
        fingerprint: Fingerprint::of(name.as_bytes()),
    };
    let knob = |name: &str, vector, step: i32| {
        let range = Range::new(Ticks::new(-10_000), Ticks::new(10_000), Ticks::new(step))?;
        anyhow::Ok(Coefficient { name: name.to_owned(), vector, tensors: None, range })
    };
    let step = if recipe.wide { 5000 } else { 10_000 };
    let domains = ["medical", "legal"].map(|name| DomainDefinition {
        name: name.to_owned(),
        search: (0..2).map(|index| query(name, index + recipe.shift)).collect(),
        confirm: vec![query(name, 10)],
    });
    let definition = SweepDefinition {
        name: recipe.name.to_owned(),
        model: ModelSource {
            path: recipe.base.to_owned(),
            dtype: Dtype::F32,
            fingerprint: Fingerprint::of(recipe.base.as_bytes()),
        },
        vectors: vec![vector("medical"), vector("legal")],
        space: Space::new(vec![knob("alpha", 0, step)?, knob("beta", 1, 20_000)?])?,
        levels: Levels::default(),
        domains: domains.to_vec(),
        strategy: Strategy::Grid,
        evaluation: Evaluation {
            likelihood,
            generation,
            finalists_per_target: 1,
            decode: DecodeSettings {
                max_new_tokens: 8,
                temperature: 0.0,
                top_p: 1.0,
                seed: 0,
                stop: Vec::new(),
            },
            ladder: None,
            racing: None,
        },
        judge: JudgeSettings { provider: JudgeProvider::Reference { threshold: 0.5 }, rubric: String::new() },
    };
    definition.check().context("a made-up sweep")?;
    Ok(definition)
}
