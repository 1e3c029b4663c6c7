//! Strategies and their settings.

use serde::{Deserialize, Serialize};

use crate::{Aggregate, FingerprintBuilder, Space, SpaceError, Target, Wanted};

/// How the next points are chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Strategy {
    /// Every point of the grid.
    Grid,
    /// Coarse to fine around the leaders of every target.
    Hierarchical(HierarchicalSettings),
    /// A model of what was measured; the points that promise most over all targets.
    Bayesian(BayesianSettings),
    /// Distinct grid points, drawn evenly at random.
    Random(SequenceSettings),
    /// Distinct grid points along a scrambled Sobol sequence.
    Sobol(SequenceSettings),
}

/// Settings of `random` and `sobol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SequenceSettings {
    /// How many points are measured; at least 1.
    pub budget: u32,
    /// Another seed gives another sequence.
    #[serde(default)]
    pub seed: u64,
}

/// Settings of `hierarchical`.
///
/// The first round measures a coarse lattice. Every later round has a step `factor` times smaller; what lies between the
/// measured points is forecast from them. It measures the `leaders` best points of every target where they are only expected
/// to be that, and around measured ones the points up to `width` steps away along each coefficient, until nothing of that is
/// new; then comes the next round. The grid's own step ends with the best contenders of the whole grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HierarchicalSettings {
    /// Rounds, the coarse one included; at least 1. The last one's step is the grid's. `None` starts with the largest step
    /// that fits twice into the widest range.
    #[serde(default)]
    pub levels: Option<u32>,
    /// By how much the step shrinks from round to round; at least 2.
    #[serde(default = "HierarchicalSettings::default_factor")]
    pub factor: u32,
    /// How many steps around a leader are measured; at least 1.
    #[serde(default = "HierarchicalSettings::default_width")]
    pub width: u32,
    /// Leaders per target; at least 1.
    #[serde(default = "HierarchicalSettings::default_leaders")]
    pub leaders: u32,
    /// Further rounds below the grid's step, each `factor` times finer; the step must divide that often.
    #[serde(default)]
    pub finer: u32,
    /// No more points than this; `None` for no limit.
    #[serde(default)]
    pub budget: Option<u32>,
}

/// Settings of `bayesian`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BayesianSettings {
    /// No more points than this; at least 1.
    #[serde(default = "BayesianSettings::default_budget")]
    pub budget: u32,
    /// Points spread over the space before the model is asked; `None` leaves the number to the strategy.
    #[serde(default)]
    pub initial: Option<u32>,
    /// The search stops when the best next point is expected to gain less than this, summed over all targets, in
    /// units of the aggregate (a rate); 0 goes on to the budget.
    #[serde(default = "BayesianSettings::default_min_gain")]
    pub min_gain: f64,
    /// What a target is worth.
    #[serde(default)]
    pub aggregate: Aggregate,
    /// The targets that count; none means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Target>,
    /// Another seed gives another design and other samples.
    #[serde(default)]
    pub seed: u64,
}

impl HierarchicalSettings {
    const fn default_factor() -> u32 {
        2
    }

    const fn default_width() -> u32 {
        1
    }

    const fn default_leaders() -> u32 {
        1
    }

    /// How many rounds there are in a space, down to the grid's step.
    pub fn rounds(&self, space: &Space) -> u32 {
        self.levels.unwrap_or_else(|| {
            let factor = u64::from(self.factor.max(2));
            let twice =
                |rounds: &u32| factor.checked_pow(*rounds).is_some_and(|step| step <= widest(space) / 2);
            1 + (1..64).take_while(twice).count() as u32
        })
    }

    /// The first round's step in steps of the grid; `None` when it is beyond counting.
    fn coarse_step(&self, space: &Space) -> Option<u64> {
        u64::from(self.factor).checked_pow(self.rounds(space).saturating_sub(1))
    }
}

/// Steps of the widest range.
fn widest(space: &Space) -> u64 {
    space.coefficients().iter().map(|coefficient| coefficient.range.count() - 1).max().unwrap_or(0)
}

impl Default for HierarchicalSettings {
    fn default() -> Self {
        Self {
            levels: None,
            factor: Self::default_factor(),
            width: Self::default_width(),
            leaders: Self::default_leaders(),
            finer: 0,
            budget: None,
        }
    }
}

impl BayesianSettings {
    const fn default_budget() -> u32 {
        81
    }

    const fn default_min_gain() -> f64 {
        0.0002
    }
}

impl Default for BayesianSettings {
    fn default() -> Self {
        Self {
            budget: Self::default_budget(),
            initial: None,
            min_gain: Self::default_min_gain(),
            aggregate: Aggregate::default(),
            targets: Vec::new(),
            seed: 0,
        }
    }
}

/// Why a strategy does not fit a sweep.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StrategyError {
    /// A setting out of its range.
    #[error("strategy.{field} is {found}; {wanted} is wanted")]
    OutOfRange {
        /// The setting.
        field: &'static str,
        /// The value found.
        found: String,
        /// The values wanted.
        wanted: String,
    },
    /// The first round would be one point wide along every coefficient.
    #[error(
        "strategy.levels = {levels} with strategy.factor = {factor} starts with a step of {step} grid steps, wider \
         than every coefficient's range (at most {widest} steps): use fewer levels or a smaller factor"
    )]
    TooCoarse {
        /// Rounds found.
        levels: u32,
        /// Factor found.
        factor: u32,
        /// The first step in steps of the grid.
        step: String,
        /// Steps of the widest range.
        widest: u64,
    },
    /// The first round alone would go on for too long.
    #[error(
        "strategy: the first round of 'hierarchical' would have more than {limit} points ({coefficients} \
         coefficients): raise strategy.levels or strategy.factor, or use 'bayesian'"
    )]
    TooManyCoarsePoints {
        /// The most that is accepted.
        limit: u64,
        /// How many coefficients there are.
        coefficients: usize,
    },
    /// A step that cannot be divided any further.
    #[error(
        "strategy.finer = {finer} divides the step of coefficient '{coefficient}', {step}, by {divisor}: not a whole \
         number of 0.0001"
    )]
    StepNotDivisible {
        /// Rounds below the grid's step.
        finer: u32,
        /// The coefficient.
        coefficient: String,
        /// Its step.
        step: crate::Ticks,
        /// What it is divided by.
        divisor: String,
    },
    /// More coefficients than the strategy can handle.
    #[error("strategy '{kind}' takes 1 to {limit} coefficients; the sweep has {found}")]
    TooManyCoefficients {
        /// The strategy.
        kind: &'static str,
        /// The most that it takes.
        limit: usize,
        /// How many there are.
        found: usize,
    },
    /// A target that names other domains or levels than the sweep's.
    #[error(
        "strategy.targets: target number {index} does not fit the sweep's {domains} domains and {levels} levels"
    )]
    BadTarget {
        /// Which, from 1.
        index: usize,
        /// How many domains the sweep has.
        domains: usize,
        /// How many levels it has.
        levels: usize,
    },
    /// The grid is too large for this strategy.
    #[error(transparent)]
    Space(#[from] SpaceError),
}

/// A first round of more points than this is refused.
const MOST_COARSE_POINTS: u64 = 100_000;

impl Strategy {
    /// The most coefficients that a model-based or quasi-random search takes.
    pub const MOST_COEFFICIENTS: usize = 12;

    /// `grid`, `hierarchical`, `bayesian`, `random` or `sobol`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Grid => "grid",
            Self::Hierarchical(_) => "hierarchical",
            Self::Bayesian(_) => "bayesian",
            Self::Random(_) => "random",
            Self::Sobol(_) => "sobol",
        }
    }

    /// Adds everything that the choice of points depends on to a sweep's fingerprint.
    pub(crate) fn add_to(&self, builder: &mut FingerprintBuilder) {
        let number = |value: u32| i64::from(value);
        let optional = |value: Option<u32>| value.map_or(-1, i64::from);
        builder.text(self.kind());
        match self {
            Self::Grid => {}
            Self::Hierarchical(settings) => {
                let HierarchicalSettings { levels, factor, width, leaders, finer, budget } = *settings;
                for setting in
                    [optional(levels), number(factor), number(width), number(leaders), number(finer)]
                {
                    builder.integer(setting);
                }
                builder.integer(optional(budget));
            }
            Self::Bayesian(settings) => {
                let BayesianSettings { budget, initial, min_gain, aggregate, targets, seed } = settings;
                builder.integer(number(*budget)).integer(optional(*initial)).bytes(&min_gain.to_le_bytes());
                builder.text(&aggregate.to_string()).bytes(&seed.to_le_bytes()).count(targets.len());
                for wanted in targets.iter().flat_map(Target::wanted) {
                    builder.integer(match wanted {
                        Wanted::Level(level) => i64::from(level.0),
                        Wanted::AsBase => -1,
                        Wanted::Free => -2,
                    });
                }
            }
            Self::Random(settings) | Self::Sobol(settings) => {
                builder.integer(number(settings.budget)).bytes(&settings.seed.to_le_bytes());
            }
        }
    }

    /// Checks that the settings are in range and fit the space, the domains and the levels.
    ///
    /// # Errors
    /// The first setting that does not.
    pub fn check(&self, space: &Space, domains: usize, levels: usize) -> Result<(), StrategyError> {
        let few_coefficients = |kind| {
            let (found, limit) = (space.dimensions(), Self::MOST_COEFFICIENTS);
            if found > limit {
                return Err(StrategyError::TooManyCoefficients { kind, limit, found });
            }
            Ok(())
        };
        match self {
            Self::Grid => space.grid_size().map(|_| ()).map_err(StrategyError::from),
            Self::Random(settings) => at_least("budget", settings.budget, 1),
            Self::Sobol(settings) => {
                at_least("budget", settings.budget, 1)?;
                few_coefficients("sobol")
            }
            Self::Hierarchical(settings) => settings.check(space),
            Self::Bayesian(settings) => {
                settings.check(domains, levels)?;
                few_coefficients("bayesian")
            }
        }
    }
}

fn at_least(field: &'static str, found: u32, least: u32) -> Result<(), StrategyError> {
    if found < least {
        let wanted = format!("a whole number of at least {least}");
        return Err(StrategyError::OutOfRange { field, found: found.to_string(), wanted });
    }
    Ok(())
}

impl HierarchicalSettings {
    fn check(&self, space: &Space) -> Result<(), StrategyError> {
        if let Some(levels) = self.levels {
            at_least("levels", levels, 1)?;
        }
        at_least("factor", self.factor, 2)?;
        at_least("width", self.width, 1)?;
        at_least("leaders", self.leaders, 1)?;
        if let Some(budget) = self.budget {
            at_least("budget", budget, 1)?;
        }
        let steps = |coefficient: &crate::Coefficient| coefficient.range.count() - 1;
        let (levels, widest) = (self.rounds(space), widest(space));
        let coarse = self.coarse_step(space).filter(|step| levels == 1 || *step <= widest);
        let Some(coarse) = coarse else {
            return Err(StrategyError::TooCoarse {
                levels,
                factor: self.factor,
                step: self
                    .coarse_step(space)
                    .map_or_else(|| "more than 2^64".to_owned(), |step| step.to_string()),
                widest,
            });
        };
        let points = space.coefficients().iter().try_fold(1u64, |points, coefficient| {
            points
                .checked_mul(steps(coefficient).div_ceil(coarse) + 1)
                .filter(|points| *points <= MOST_COARSE_POINTS)
        });
        if points.is_none() {
            return Err(StrategyError::TooManyCoarsePoints {
                limit: MOST_COARSE_POINTS,
                coefficients: space.dimensions(),
            });
        }
        let divisor = i32::try_from(self.factor).ok().and_then(|factor| factor.checked_pow(self.finer));
        for coefficient in space.coefficients() {
            let step = coefficient.range.step();
            if divisor.is_none_or(|divisor| step.get() % divisor != 0) {
                return Err(StrategyError::StepNotDivisible {
                    finer: self.finer,
                    coefficient: coefficient.name.clone(),
                    step,
                    divisor: divisor
                        .map_or_else(|| "more than 2^31".to_owned(), |divisor| divisor.to_string()),
                });
            }
        }
        Ok(())
    }
}

impl BayesianSettings {
    fn check(&self, domains: usize, levels: usize) -> Result<(), StrategyError> {
        at_least("budget", self.budget, 1)?;
        if let Some(initial) = self.initial {
            at_least("initial", initial, 2)?;
            if initial > self.budget {
                let wanted = format!("at most the budget, {},", self.budget);
                return Err(StrategyError::OutOfRange {
                    field: "initial",
                    found: initial.to_string(),
                    wanted,
                });
            }
        }
        if !(self.min_gain >= 0.0 && self.min_gain.is_finite()) {
            return Err(StrategyError::OutOfRange {
                field: "min_gain",
                found: self.min_gain.to_string(),
                wanted: "a number of at least 0".to_owned(),
            });
        }
        let fits = |target: &Target| {
            target.wanted().len() == domains
                && target.wanted().iter().all(|wanted| match wanted {
                    Wanted::Level(level) => level.index() < levels,
                    Wanted::AsBase | Wanted::Free => true,
                })
        };
        match self.targets.iter().position(|target| !fits(target)) {
            Some(index) => Err(StrategyError::BadTarget { index: index + 1, domains, levels }),
            None => Ok(()),
        }
    }
}
