//! The order of the measured points for a target.

use std::cmp::Ordering;

use avsweep_domain::{
    Aggregate, Level, Normalisation, Point, PointTallies, QuerySet, Reading, SetTallies, SweepDefinition,
    Target, Wanted,
};

use crate::SearchError;

/// The measured points of a history, with everything that targets rank them by in flat tables.
///
/// Only points whose search queries are all measured count: a rate over some of the queries is no rate of the point.
///
/// Better is: a higher aggregate of the wanted levels' rates on the search queries; on an exact tie a larger weakest
/// margin; then a smaller distance from the base; then smaller ticks. A domain's margin is the mean log-probability of
/// the wanted level's references less that of the best other level (nats per token); a point without likelihood results
/// comes after those with. The order is total, so it depends on nothing but the history's content.
#[derive(Debug)]
pub struct Ranking<'a> {
    definition: &'a SweepDefinition,
    reading: Reading,
    measured: Vec<Row<'a>>,
    /// Per domain and level, the rate at each measured point.
    rates: Vec<Vec<f64>>,
    /// Per domain and level, the margin at each measured point; negative infinity where likelihoods are not measured in
    /// full.
    margins: Vec<Vec<f64>>,
}

#[derive(Debug)]
struct Row<'a> {
    tallies: &'a PointTallies,
    squared_norm: i128,
}

/// A measured point's rank for one target.
#[derive(Clone, Copy, Debug)]
struct Rank {
    row: usize,
    aggregate: Quantised,
    weakest_margin: f64,
}

/// An aggregate in units of 1e-12.
///
/// Aggregates of the same rates in another order of domains can differ in their last bits; so they still tie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Quantised(i64);

impl Quantised {
    fn new(aggregate: f64) -> Self {
        Self((aggregate * 1e12).round() as i64)
    }

    fn value(self) -> f64 {
        self.0 as f64 / 1e12
    }
}

/// How many queries a domain has in a set.
pub(crate) fn queries_of(definition: &SweepDefinition, set: QuerySet, domain: usize) -> usize {
    let domain = &definition.domains[domain];
    match set {
        QuerySet::Search => domain.search.len(),
        QuerySet::Confirm => domain.confirm.len(),
    }
}

/// Whether every search query has a result on the reading's rung.
fn is_complete(definition: &SweepDefinition, tallies: &SetTallies, reading: Reading) -> bool {
    (0..definition.domains.len()).all(|domain| {
        let wanted = queries_of(definition, QuerySet::Search, domain);
        tallies.counts(reading, domain).is_some_and(|(_, found)| found as usize == wanted)
    })
}

impl<'a> Ranking<'a> {
    /// The measured points of a history, read by `reading`.
    pub fn new(definition: &'a SweepDefinition, history: &'a [PointTallies], reading: Reading) -> Self {
        let (domains, levels) = (definition.domains.len(), definition.levels.len());
        let likelihood = Reading::Likelihood(Normalisation::Mean);
        let columns = || vec![Vec::new(); domains * levels];
        let mut ranking =
            Self { definition, reading, measured: Vec::new(), rates: columns(), margins: columns() };
        for tallies in history.iter().filter(|tallies| is_complete(definition, &tallies.search, reading)) {
            let with_margins = is_complete(definition, &tallies.search, likelihood);
            ranking.measured.push(Row { tallies, squared_norm: tallies.point.squared_norm() });
            for domain in 0..domains {
                let (counts, n) = tallies.search.counts(reading, domain).unwrap_or((&[], 0));
                let sums = if with_margins { mean_sums(&tallies.search, domain, levels) } else { None };
                for level in 0..levels {
                    let column = domain * levels + level;
                    let count = counts.get(level).copied().unwrap_or(0);
                    ranking.rates[column].push(f64::from(count) / f64::from(n.max(1)));
                    ranking.margins[column]
                        .push(sums.map_or(f64::NEG_INFINITY, |(sums, queries)| margin(sums, queries, level)));
                }
            }
        }
        ranking
    }

    /// The sweep.
    pub fn definition(&self) -> &'a SweepDefinition {
        self.definition
    }

    /// The numbers that points are ranked by.
    pub fn reading(&self) -> Reading {
        self.reading
    }

    /// How many points count.
    pub fn measured(&self) -> usize {
        self.measured.len()
    }

    /// The measured points' tallies.
    pub(crate) fn points(&self) -> impl ExactSizeIterator<Item = &'a PointTallies> {
        self.measured.iter().map(|row| row.tallies)
    }

    /// The tallies of a measured point.
    pub(crate) fn at(&self, point: &Point) -> Option<&'a PointTallies> {
        self.measured.iter().find(|row| row.tallies.point == *point).map(|row| row.tallies)
    }

    /// The best `count` points for a target, best first.
    ///
    /// # Errors
    /// When the target does not fit the sweep, or refers to a base that is not measured.
    pub fn leaders(
        &self,
        target: &Target,
        aggregate: Aggregate,
        count: usize,
    ) -> Result<Vec<&'a PointTallies>, SearchError> {
        let wanted = self.wanted_levels(target)?;
        Ok(self.top(&wanted, aggregate, count).iter().map(|rank| self.measured[rank.row].tallies).collect())
    }

    /// The level that a target wants of each domain, with "as the base" looked up; `None` where the domain is free.
    ///
    /// # Errors
    /// When the target does not fit the sweep, or refers to a base that is not measured.
    pub fn wanted_levels(&self, target: &Target) -> Result<Vec<Option<Level>>, SearchError> {
        let (definition, wanted) = (self.definition, target.wanted());
        if wanted.len() != definition.domains.len() {
            return Err(SearchError::WrongDomains {
                found: wanted.len(),
                wanted: definition.domains.len(),
                names: definition.domain_names().join(", "),
            });
        }
        let name = |domain: usize| definition.domains[domain].name.clone();
        let levels = wanted.iter().enumerate().map(|(domain, wanted)| match wanted {
            Wanted::Free => Ok(None),
            Wanted::Level(level) if level.index() < definition.levels.len() => Ok(Some(*level)),
            Wanted::Level(level) => Err(SearchError::UnknownLevel {
                domain: name(domain),
                found: level.0,
                levels: definition.levels.len(),
            }),
            Wanted::AsBase => self.base_level(domain).map(Some),
        });
        levels.collect()
    }

    fn base_level(&self, domain: usize) -> Result<Level, SearchError> {
        let origin = Point::origin(self.definition.space.dimensions());
        let name = || self.definition.domains[domain].name.clone();
        let Some(base) = self.measured.iter().find(|row| row.tallies.point == origin) else {
            return Err(SearchError::BaseNotMeasured { domain: name(), origin });
        };
        let dominant = base.tallies.search.dominant(self.reading, domain);
        dominant.ok_or_else(|| SearchError::BaseUndecided { domain: name() })
    }

    /// One pass over the points that keeps the best `count`: most points fall at the first comparison.
    fn top(&self, wanted: &[Option<Level>], aggregate: Aggregate, count: usize) -> Vec<Rank> {
        let levels = self.definition.levels.len();
        let columns: Vec<usize> = wanted
            .iter()
            .enumerate()
            .filter_map(|(domain, level)| Some(domain * levels + (*level)?.index()))
            .collect();
        let rates: Vec<&[f64]> = columns.iter().map(|column| self.rates[*column].as_slice()).collect();
        if count == 0 {
            return Vec::new();
        }
        let mut best: Vec<Rank> = Vec::new();
        // Surely below the worst that is kept, by more than quantising moves a value.
        let mut out_of_reach = f64::NEG_INFINITY;
        for (row, value) in aggregates(aggregate, &rates, self.measured.len()).into_iter().enumerate() {
            if value < out_of_reach {
                continue;
            }
            let quantised = Quantised::new(value);
            let margins = columns.iter().map(|column| self.margins[*column][row]);
            let weakest_margin = margins.fold(f64::INFINITY, f64::min);
            let rank = Rank { row, aggregate: quantised, weakest_margin };
            let place = best.partition_point(|other| self.order(other, &rank).is_lt());
            if place < count {
                best.truncate(count - 1);
                best.insert(place, rank);
            }
            if let Some(worst) = best.get(count - 1) {
                out_of_reach = worst.aggregate.value() - 1e-9;
            }
        }
        best
    }

    /// `Less` when `left` is the better point.
    fn order(&self, left: &Rank, right: &Rank) -> Ordering {
        let (left_row, right_row) = (&self.measured[left.row], &self.measured[right.row]);
        right
            .aggregate
            .cmp(&left.aggregate)
            .then_with(|| right.weakest_margin.total_cmp(&left.weakest_margin))
            .then_with(|| left_row.squared_norm.cmp(&right_row.squared_norm))
            .then_with(|| left_row.tallies.point.cmp(&right_row.tallies.point))
    }
}

/// [`Aggregate::of`] at every point, a column of rates at a time so that the processor can take several points at once.
fn aggregates(aggregate: Aggregate, columns: &[&[f64]], points: usize) -> Vec<f64> {
    let Some((first, others)) = columns.split_first() else {
        return vec![aggregate.of([]); points];
    };
    let mut values = first.to_vec();
    for column in others {
        let pairs = values.iter_mut().zip(*column);
        match aggregate {
            Aggregate::Min => pairs.for_each(|(value, rate)| *value = value.min(*rate)),
            Aggregate::Mean => pairs.for_each(|(value, rate)| *value += rate),
            Aggregate::Product => pairs.for_each(|(value, rate)| *value *= rate),
        }
    }
    if aggregate == Aggregate::Mean {
        values.iter_mut().for_each(|value| *value /= columns.len() as f64);
    }
    values
}

/// A domain's sums of mean log-probabilities, one per level, and over how many queries.
fn mean_sums(tallies: &SetTallies, domain: usize, levels: usize) -> Option<(&[i64], u32)> {
    let tally = tallies.likelihood.as_ref()?.get(domain)?;
    (tally.mean_log_prob_micronats.len() == levels)
        .then_some((tally.mean_log_prob_micronats.as_slice(), tally.queries))
}

/// How far a level's mean log-probability lies above that of the best other level.
///
/// The difference is taken in the tally's integers and divided once, so that equal margins are equal floats.
fn margin(sums: &[i64], queries: u32, level: usize) -> f64 {
    let others = sums.iter().enumerate().filter(|(other, _)| *other != level).map(|(_, sum)| *sum);
    // There are at least two levels, so there is another one.
    let best_other = others.max().unwrap_or(i64::MIN);
    sums[level].saturating_sub(best_other) as f64 / (f64::from(queries) * 1e6)
}

#[cfg(test)]
mod tests;
