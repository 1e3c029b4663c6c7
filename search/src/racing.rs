//! Racing: a point's remaining queries are skipped once it is out of reach for every target.
//!
//! All points are asked the same queries in the same order: a seeded shuffle per domain, in blocks. What is asked so far is
//! a random sample, without replacement, of the domain's queries; how many of them all can still be at a level is bounded
//! by the hypergeometric distribution. The best points' rates are over the very same queries, so that nothing but the
//! unasked ones is uncertain. A point is stopped when its bounded value is not above the best one's for any target.

mod standing;

use std::collections::HashMap;

use avsweep_domain::{Level, Racing};
use rand::RngExt as _;

pub use standing::Standing;

use crate::problem::Problem;
use crate::random::stream;

/// A race over a problem's search queries.
#[derive(Clone, Debug)]
pub struct Race<'a> {
    problem: &'a Problem,
    rule: Racing,
    order: Vec<Vec<usize>>,
}

/// What a domain's asked queries showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Queries asked, of the domain's own.
    pub queries: u32,
    /// Of these, at each level.
    pub counts: Vec<u32>,
}

/// Why a race cannot be run.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("racing.{field} is {found}; {wanted} is wanted")]
pub struct RacingError {
    /// The setting.
    pub field: &'static str,
    /// The value found.
    pub found: String,
    /// The values wanted.
    pub wanted: &'static str,
}

impl<'a> Race<'a> {
    /// A race by a rule.
    ///
    /// # Errors
    /// When a block is empty, or the error is no share below 1.
    pub fn new(problem: &'a Problem, rule: Racing) -> Result<Self, RacingError> {
        if rule.block == 0 {
            return Err(RacingError {
                field: "block",
                found: "0".to_owned(),
                wanted: "a whole number of at least 1",
            });
        }
        if !(0.0..1.0).contains(&rule.error) {
            let found = rule.error.to_string();
            return Err(RacingError { field: "error", found, wanted: "a number from 0 to below 1" });
        }
        let order = problem.domains().iter().enumerate().map(|(domain, shape)| {
            let mut generator = stream(rule.seed, "racing", domain as u64);
            let mut order: Vec<usize> = (0..shape.queries).collect();
            for place in (1..order.len()).rev() {
                order.swap(place, generator.random_range(0..=place));
            }
            order
        });
        let order = order.collect();
        Ok(Self { problem, rule, order })
    }

    /// The order in which a domain's queries are asked.
    pub fn order(&self, domain: usize) -> &[usize] {
        &self.order[domain]
    }

    /// How many blocks there are; a race is looked at after each but the last.
    pub fn blocks(&self) -> usize {
        let longest = self.order.iter().map(Vec::len).max().unwrap_or(0);
        longest.div_ceil(self.rule.block as usize)
    }

    /// Each domain's queries of a block.
    pub fn block(&self, block: usize) -> Vec<&[usize]> {
        let size = self.rule.block as usize;
        let of_domain = |order: &'_ Vec<usize>| {
            let at = |place: usize| place.min(order.len());
            at(block * size)..at((block + 1) * size)
        };
        self.order.iter().map(|order| &order[of_domain(order)]).collect()
    }

    /// Some of the search queries, by their ordinals (the domains' queries one after another), in the blocks that they
    /// are asked in, each ascending; blocks without any are left out.
    pub fn blocks_of(&self, ordinals: &[u32]) -> Vec<Vec<u32>> {
        let mut block_of = HashMap::new();
        let mut first = 0;
        for order in &self.order {
            for (place, query) in order.iter().enumerate() {
                block_of.insert(first + *query as u32, place / self.rule.block as usize);
            }
            first += order.len() as u32;
        }
        let mut blocks = vec![Vec::new(); self.blocks().max(1)];
        let last = blocks.len() - 1;
        for ordinal in ordinals {
            // One that is none of these queries has no turn.
            blocks[block_of.get(ordinal).copied().unwrap_or(last)].push(*ordinal);
        }
        blocks.retain(|block| !block.is_empty());
        blocks.iter_mut().for_each(|block| block.sort_unstable());
        blocks
    }

    /// What the queries asked so far showed, from the levels of those that have a result, by ordinal.
    ///
    /// Of each domain only the queries up to the first one without a result count: what else is known (another sweep
    /// may have measured it) is no random sample.
    pub fn asked(&self, level: impl Fn(u32) -> Option<Level>) -> Vec<Asked> {
        let mut first = 0;
        let of_domain = |order: &Vec<usize>| {
            let mut asked = Asked { queries: 0, counts: vec![0; self.problem.levels()] };
            for level in order.iter().map_while(|query| level(first + *query as u32)) {
                asked.queries += 1;
                if let Some(count) = asked.counts.get_mut(level.index()) {
                    *count += 1;
                }
            }
            first += order.len() as u32;
            asked
        };
        self.order.iter().map(of_domain).collect()
    }

    /// Whether the rest of a point's queries can be skipped: for no target will its value exceed `best`, but with the
    /// probability of the rule's error.
    ///
    /// `asked` has an entry per domain, `wants` and `best` one per target.
    pub fn is_out_of_reach(&self, asked: &[Asked], wants: &[Vec<Option<Level>>], best: &[f64]) -> bool {
        let levels = self.problem.levels();
        // Every bound of every look may fail with this probability, so that all hold but with the rule's error.
        let bounds = asked.len() * levels * self.blocks().saturating_sub(1).max(1);
        let each = self.rule.error / bounds as f64;
        let highest: Vec<f64> = asked
            .iter()
            .zip(self.problem.domains())
            .flat_map(|(asked, shape)| {
                let n = shape.queries as u32;
                asked
                    .counts
                    .iter()
                    .map(move |count| f64::from(most(*count, asked.queries, n, each)) / f64::from(n))
            })
            .collect();
        wants.iter().zip(best).all(|(wanted, best)| self.problem.value(wanted, &highest) <= best + 1e-12)
    }
}

/// The most of `n` queries that can be at a level when `count` of `asked` random ones are: the largest number of which so
/// few, or fewer, would be found with more than the probability `error`.
fn most(count: u32, asked: u32, n: u32, error: f64) -> u32 {
    let certain = count + n.saturating_sub(asked);
    let logs = log_factorials(n);
    let choose = |n: u32, k: u32| logs[n as usize] - logs[k as usize] - logs[(n - k) as usize];
    if error <= 0.0 {
        return certain;
    }
    let is_likely = |total: u32| {
        let fewest = asked.saturating_sub(n - total);
        let found: f64 = (fewest..=count.min(asked))
            .map(|hits| (choose(total, hits) + choose(n - total, asked - hits) - choose(n, asked)).exp())
            .sum();
        found > error
    };
    // The probability of at most `count` hits falls as the total grows.
    let (mut likely, mut unlikely) = (count, certain + 1);
    while likely + 1 < unlikely {
        let middle = likely + (unlikely - likely) / 2;
        if is_likely(middle) {
            likely = middle;
        } else {
            unlikely = middle;
        }
    }
    likely
}

fn log_factorials(n: u32) -> Vec<f64> {
    let mut logs = vec![0.0];
    for k in 1..=n {
        logs.push(logs[k as usize - 1] + f64::from(k).ln());
    }
    logs
}

#[cfg(test)]
mod tests;
