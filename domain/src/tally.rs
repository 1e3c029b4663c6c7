//! Tallies: how many of a set's queries are at each level, per point and domain.

use serde::{Deserialize, Serialize};

use crate::{Label, Level, LevelRate, Normalisation, Point, PointId, QueryScore, Verdict};

/// One domain's likelihood results on one query set at one point.
///
/// Integers throughout, so that the tally does not depend on the order in which results arrive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LikelihoodTally {
    /// Queries scored.
    pub queries: u32,
    /// Per normalisation (in [`Normalisation::ALL`]'s order), queries at each level.
    pub counts: [Vec<u32>; 3],
    /// Per level, sum over queries of the mean log-probability per token, in micronats, each rounded to nearest.
    pub mean_log_prob_micronats: Vec<i64>,
}

/// One domain's verdicts on one query set at one point.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgementTally {
    /// Responses judged.
    pub queries: u32,
    /// Responses at each level.
    pub counts: Vec<u32>,
    /// Responses at no level that can be told.
    pub unclear: u32,
    /// Responses that the judge declined to judge.
    pub refused: u32,
}

impl LikelihoodTally {
    /// An empty tally for this many levels.
    pub fn new(levels: usize) -> Self {
        Self {
            queries: 0,
            counts: std::array::from_fn(|_| vec![0; levels]),
            mean_log_prob_micronats: vec![0; levels],
        }
    }

    /// Counts one query's scores (one per level).
    pub fn add(&mut self, scores: &QueryScore) {
        self.queries += 1;
        for normalisation in Normalisation::ALL {
            if let Some(level) = scores.level(normalisation)
                && let Some(count) = self.counts[normalisation.index()].get_mut(level.index())
            {
                *count += 1;
            }
        }
        for (sum, score) in self.mean_log_prob_micronats.iter_mut().zip(&scores.0) {
            *sum += (Normalisation::Mean.apply(score) * 1e6).round() as i64;
        }
    }

    /// Mean over queries of the per-token log-probability of a level's reference (nats); 0 when nothing was scored.
    pub fn mean_log_prob(&self, level: Level) -> f64 {
        match self.queries {
            0 => 0.0,
            n => self.mean_log_prob_micronats[level.index()] as f64 / 1e6 / f64::from(n),
        }
    }
}

impl JudgementTally {
    /// An empty tally for this many levels.
    pub fn new(levels: usize) -> Self {
        Self { queries: 0, counts: vec![0; levels], unclear: 0, refused: 0 }
    }

    /// Counts one verdict.
    pub fn add(&mut self, verdict: &Verdict) {
        self.queries += 1;
        match verdict.label {
            Label::Level(level) => {
                if let Some(count) = self.counts.get_mut(level.index()) {
                    *count += 1;
                }
            }
            Label::Unclear => self.unclear += 1,
            Label::Refused => self.refused += 1,
        }
    }
}

/// Which numbers a rate is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reading {
    /// The likelihood rung under this normalisation.
    Likelihood(Normalisation),
    /// The judgement rung; unclear and refused responses count in n and at no level.
    Judgement,
}

/// Everything counted on one query set at one point; one entry per domain, in the sweep's order.
///
/// A rung that has no result yet is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetTallies {
    /// The likelihood rung.
    pub likelihood: Option<Vec<LikelihoodTally>>,
    /// The judgement rung.
    pub judgement: Option<Vec<JudgementTally>>,
}

impl SetTallies {
    /// Queries at each level in a domain; `None` when the rung has no result there.
    pub fn counts(&self, reading: Reading, domain: usize) -> Option<(&[u32], u32)> {
        match reading {
            Reading::Likelihood(normalisation) => {
                let tally = self.likelihood.as_ref()?.get(domain)?;
                (tally.queries > 0).then_some((&tally.counts[normalisation.index()], tally.queries))
            }
            Reading::Judgement => {
                let tally = self.judgement.as_ref()?.get(domain)?;
                (tally.queries > 0).then_some((&tally.counts, tally.queries))
            }
        }
    }

    /// The rate of a level in a domain; `None` when the rung has no result there.
    pub fn rate(&self, reading: Reading, domain: usize, level: Level) -> Option<LevelRate> {
        let (counts, n) = self.counts(reading, domain)?;
        Some(LevelRate::new(counts.get(level.index()).copied()?, n))
    }

    /// The level that more queries are at than at any other; `None` on a tie for the first place or without results.
    pub fn dominant(&self, reading: Reading, domain: usize) -> Option<Level> {
        let (counts, _) = self.counts(reading, domain)?;
        let highest = counts.iter().copied().max()?;
        let mut at_highest = counts.iter().enumerate().filter(|(_, count)| **count == highest);
        let (index, _) = at_highest.next()?;
        (highest > 0 && at_highest.next().is_none()).then_some(Level(index as u8))
    }
}

/// A point with everything counted there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PointTallies {
    /// The point's id in the store.
    pub id: PointId,
    /// The point.
    pub point: Point,
    /// On the search queries.
    pub search: SetTallies,
    /// On the confirm queries.
    pub confirm: SetTallies,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ReferenceScore;

    fn scores(sums: [f64; 3]) -> QueryScore {
        QueryScore(sums.map(|log_prob_sum| ReferenceScore { log_prob_sum, tokens: 4, bytes: 10 }).to_vec())
    }

    #[test]
    fn tallies_do_not_depend_on_the_order_of_results() {
        let results = [[-1.0, -2.0, -3.1], [-2.0, -1.3, -0.7], [-5.0, -0.123_456_7, -9.0]].map(scores);
        let tally = |order: [usize; 3]| {
            let mut tally = LikelihoodTally::new(3);
            order.iter().for_each(|index| tally.add(&results[*index]));
            tally
        };
        assert_eq!(tally([0, 1, 2]), tally([2, 0, 1]));
        assert_eq!(tally([0, 1, 2]).counts[0], [1, 1, 1]);
    }

    #[test]
    fn a_tie_has_no_dominant_level() {
        let tallies = |counts: Vec<u32>| SetTallies {
            likelihood: None,
            judgement: Some(vec![JudgementTally { queries: 4, counts, unclear: 0, refused: 0 }]),
        };
        assert_eq!(tallies(vec![2, 2, 0]).dominant(Reading::Judgement, 0), None);
        assert_eq!(tallies(vec![1, 2, 1]).dominant(Reading::Judgement, 0), Some(Level(1)));
        assert_eq!(tallies(vec![0, 0, 0]).dominant(Reading::Judgement, 0), None);
    }
}
