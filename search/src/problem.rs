//! What a strategy is asked, and what it is told.

use avsweep_domain::{
    Aggregate, Level, Levels, Point, Reading, Space, Strategy, StrategyError, SweepDefinition, Target, Wanted,
};

use crate::MAX_TARGETS;

/// Up to this many grid points are looked at all.
const MOST_ENUMERATED: u64 = 50_000;

/// A search: its space, what is measured, and the strategy.
///
/// A sweep's definition has one, and so has a recorded grid with a strategy.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    space: Space,
    levels: usize,
    domains: Vec<DomainShape>,
    strategy: Strategy,
    rung: SearchRung,
    /// Whether a grid is visited all over the space from the first: a race is decided by points that are far apart.
    spread: bool,
}

/// A domain's name and how many queries its points are chosen by.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainShape {
    /// Its name.
    pub name: String,
    /// Its search queries; at least 1.
    pub queries: usize,
}

/// What the search chooses points by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchRung {
    /// Log-probabilities of the references: [`Measured::log_probs`].
    Likelihood,
    /// Verdicts: [`Measured::judged`].
    Judgement,
}

/// One measured point.
#[derive(Clone, Debug)]
pub struct Measured<'a> {
    /// The point.
    pub point: &'a Point,
    /// Mean log-probability per token (nats) of every level's reference: `queries × levels` numbers, the domains' queries
    /// one after another, a query's levels together. Empty where likelihoods are not measured.
    pub log_probs: &'a [f32],
    /// Responses judged to be at each level, `domains × levels` counts; `None` where nothing is judged. A response at no
    /// level that can be told is left out.
    pub judged: Option<&'a [u32]>,
}

/// What a strategy decides from.
///
/// The order within the lists does not matter.
#[derive(Clone, Copy, Debug, Default)]
pub struct History<'a> {
    /// How many points were proposed so far: those measured, those pending and those given up.
    pub proposed: u64,
    /// Points measured on all search queries.
    pub measured: &'a [Measured<'a>],
    /// Points proposed and not measured yet.
    pub pending: &'a [Point],
    /// Points proposed that will never be measured: their jobs were parked.
    pub given_up: &'a [Point],
}

/// What a strategy decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Measure these, best first; never empty, never one that is measured or pending.
    Propose(Vec<Point>),
    /// Ask again when more is measured.
    Wait,
    /// There is nothing more to propose, whatever comes of the pending points.
    Finished,
}

impl Problem {
    /// The problem of a sweep.
    pub fn of(definition: &SweepDefinition) -> Self {
        let shape = |domain: &avsweep_domain::DomainDefinition| DomainShape {
            name: domain.name.clone(),
            queries: domain.search.len(),
        };
        Self {
            space: definition.space.clone(),
            levels: definition.levels.len(),
            domains: definition.domains.iter().map(shape).collect(),
            strategy: definition.strategy.clone(),
            rung: match definition.search_reading() {
                Reading::Likelihood(_) => SearchRung::Likelihood,
                Reading::Judgement => SearchRung::Judgement,
            },
            spread: definition.evaluation.racing.is_some(),
        }
    }

    /// A problem of its parts.
    ///
    /// # Errors
    /// When the strategy does not fit the space, the domains or the levels.
    pub fn new(
        space: Space,
        levels: &Levels,
        domains: Vec<DomainShape>,
        strategy: Strategy,
        rung: SearchRung,
    ) -> Result<Self, StrategyError> {
        strategy.check(&space, domains.len(), levels.len())?;
        Ok(Self { space, levels: levels.len(), domains, strategy, rung, spread: false })
    }

    /// The space.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// How many levels there are.
    pub fn levels(&self) -> usize {
        self.levels
    }

    /// The domains.
    pub fn domains(&self) -> &[DomainShape] {
        &self.domains
    }

    /// The strategy.
    pub fn strategy(&self) -> &Strategy {
        &self.strategy
    }

    /// Whether a grid is visited all over the space from the first.
    pub(crate) fn is_spread(&self) -> bool {
        self.spread
    }

    /// What points are chosen by.
    pub fn rung(&self) -> SearchRung {
        self.rung
    }

    /// Log-probabilities of one point: queries of all domains times levels.
    pub fn outputs(&self) -> usize {
        self.domains.iter().map(|domain| domain.queries).sum::<usize>() * self.levels
    }

    /// The aggregate that targets are valued by.
    pub fn aggregate(&self) -> Aggregate {
        match &self.strategy {
            Strategy::Bayesian(settings) => settings.aggregate,
            _ => Aggregate::default(),
        }
    }

    /// The targets that count: those that the strategy names, else all; where these are countless, those that ask for one
    /// level of one domain.
    pub fn targets(&self) -> Vec<Target> {
        if let Strategy::Bayesian(settings) = &self.strategy
            && !settings.targets.is_empty()
        {
            return settings.targets.clone();
        }
        let (domains, levels) = (self.domains.len(), self.levels);
        let level = |index: usize| Wanted::Level(Level(index as u8));
        let count = u32::try_from(domains).ok().and_then(|domains| levels.checked_pow(domains));
        match count.filter(|count| *count <= MAX_TARGETS) {
            Some(count) => (0..count)
                .map(|index| {
                    let digit = |domain: usize| index / levels.pow((domains - 1 - domain) as u32) % levels;
                    Target::new((0..domains).map(|domain| level(digit(domain))).collect())
                })
                .collect(),
            None => (0..domains * levels)
                .map(|index| {
                    let mut wanted = vec![Wanted::Free; domains];
                    wanted[index / levels] = level(index % levels);
                    Target::new(wanted)
                })
                .collect(),
        }
    }

    /// Every grid point in order, where they are few enough to look at them all.
    pub(crate) fn whole_grid(&self) -> Option<Vec<Point>> {
        self.space.grid_size().ok().filter(|size| *size <= MOST_ENUMERATED)?;
        Some(self.space.grid().collect())
    }

    /// A point's coordinates for models: each coefficient's range is −1 … 1.
    pub(crate) fn coordinates(&self, point: &Point) -> Vec<f64> {
        let axes = self.space.coefficients().iter().zip(point.values());
        axes.map(|(coefficient, value)| {
            let (min, max) = (coefficient.range.min().to_f64(), coefficient.range.max().to_f64());
            if max > min { 2.0 * (value.to_f64() - min) / (max - min) - 1.0 } else { 0.0 }
        })
        .collect()
    }

    /// Queries at each level of each domain (`domains × levels`), from a point's log-probabilities.
    ///
    /// A query's level is its most probable one, the lower one on an exact tie.
    pub fn counts(&self, log_probs: &[f32]) -> Vec<u32> {
        let mut counts = vec![0; self.domains.len() * self.levels];
        let mut queries = log_probs.chunks_exact(self.levels);
        for (domain, shape) in self.domains.iter().enumerate() {
            for scores in queries.by_ref().take(shape.queries) {
                counts[domain * self.levels + first_largest(scores)] += 1;
            }
        }
        counts
    }

    /// How far a query's level lies above the best other one (nats), on average over these points' log-probabilities.
    pub(crate) fn softness<'a>(&self, points: impl Iterator<Item = &'a [f32]>) -> f64 {
        let (mut sum, mut count) = (0.0, 0u32);
        for scores in points.flat_map(|log_probs| log_probs.chunks_exact(self.levels)) {
            sum += margin(scores, first_largest(scores));
            count += 1;
        }
        if count == 0 || sum <= 0.0 { 1.0 } else { sum / f64::from(count) }
    }

    /// Rates (`domains × levels`) that count a query by how clearly it is at a level: the logistic function of its margin
    /// in units of a quarter of `softness`.
    pub(crate) fn soft_rates(&self, log_probs: &[f32], softness: f64) -> Vec<f64> {
        let mut queries = log_probs.chunks_exact(self.levels);
        let mut rates = vec![0.0; self.domains.len() * self.levels];
        for (shape, rates) in self.domains.iter().zip(rates.chunks_exact_mut(self.levels)) {
            for scores in queries.by_ref().take(shape.queries) {
                let best = first_largest(scores);
                let lead = margin(scores, best);
                for (level, rate) in rates.iter_mut().enumerate() {
                    let over_best = f64::from(scores[level]) - f64::from(scores[best]);
                    let clear = 4.0 * if level == best { lead } else { over_best } / softness;
                    *rate += 1.0 / (1.0 + (-clear).exp()) / shape.queries as f64;
                }
            }
        }
        rates
    }

    /// The rates (`domains × levels`) that a measured point is ranked by; `None` where they are not measured.
    pub fn rates(&self, measured: &Measured<'_>) -> Option<Vec<f64>> {
        let counts = match self.rung {
            SearchRung::Likelihood if measured.log_probs.len() == self.outputs() => {
                self.counts(measured.log_probs)
            }
            SearchRung::Judgement => {
                measured.judged.filter(|counts| counts.len() == self.domains.len() * self.levels)?.to_vec()
            }
            SearchRung::Likelihood => return None,
        };
        Some(self.rates_of(&counts))
    }

    /// Rates of counts (both `domains × levels`); a response at no level counts in n all the same.
    pub(crate) fn rates_of(&self, counts: &[u32]) -> Vec<f64> {
        let rates = counts.chunks_exact(self.levels).zip(&self.domains).flat_map(|(counts, shape)| {
            counts.iter().map(|count| f64::from(*count) / shape.queries.max(1) as f64)
        });
        rates.collect()
    }

    /// What a target is worth at a point with these rates (`domains × levels`), for wants without "as the base".
    pub fn value(&self, wanted: &[Option<Level>], rates: &[f64]) -> f64 {
        let asked = wanted.iter().zip(rates.chunks_exact(self.levels));
        self.aggregate().of(asked.filter_map(|(level, rates)| Some(rates[(*level)?.index()])))
    }

    /// Every target's level per domain, "as the base" looked up among the measured points; while the base is not measured,
    /// or has no dominant level, such a domain counts as free.
    pub fn wants(&self, history: &History<'_>) -> Vec<Vec<Option<Level>>> {
        let origin = Point::origin(self.space.dimensions());
        let base = history.measured.iter().find(|measured| *measured.point == origin);
        let base = base.and_then(|measured| self.rates(measured));
        let dominant = |domain: usize| {
            let rates = &base.as_ref()?[domain * self.levels..(domain + 1) * self.levels];
            let largest = rates.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let mut leaders = rates.iter().enumerate().filter(|(_, rate)| **rate == largest);
            let first = leaders.next()?.0;
            leaders.next().is_none().then_some(Level(first as u8))
        };
        let targets = self.targets();
        let wants = targets.iter().map(|target| {
            let wanted = target.wanted().iter().enumerate().map(|(domain, wanted)| match wanted {
                Wanted::Level(level) => Some(*level),
                Wanted::Free => None,
                Wanted::AsBase => dominant(domain),
            });
            wanted.collect()
        });
        wants.collect()
    }
}

/// How far a level's log-probability lies above that of the best other level.
fn margin(scores: &[f32], level: usize) -> f64 {
    let others = scores.iter().enumerate().filter(|(other, _)| *other != level).map(|(_, score)| *score);
    f64::from(scores[level]) - f64::from(others.fold(f32::NEG_INFINITY, f32::max))
}

/// The place of the largest number, the first one on a tie.
pub(crate) fn first_largest(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}
