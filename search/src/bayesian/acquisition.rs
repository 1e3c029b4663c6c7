//! Expected improvement over all targets, for batches.

use avsweep_domain::{Aggregate, Level};

use super::rates::Counts;

/// Rates that differ by less are the same.
pub(super) const SAME: f32 = 1e-5;

/// What a batch is chosen by: sampled rates at the candidates, and what is known already.
pub(super) struct Acquisition<'a> {
    /// One entry per domain.
    pub(super) counts: &'a [Counts],
    /// The targets' wanted levels.
    pub(super) wants: &'a [Vec<Option<Level>>],
    /// What a target is worth.
    pub(super) aggregate: Aggregate,
    /// Per target, the best value so far in each sample.
    pub(super) best: Vec<Vec<f32>>,
}

/// A candidate with what it is expected to gain over all targets together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Choice {
    pub(super) candidate: usize,
    pub(super) gain: f64,
}

/// A candidate that may better a target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rival {
    pub(super) candidate: usize,
    /// Its expected gain for the target.
    pub(super) gain: f64,
    /// The probability that it gains anything.
    pub(super) share: f64,
}

impl Acquisition<'_> {
    fn samples(&self) -> usize {
        self.counts.first().map_or(0, Counts::samples)
    }

    /// A target's value at a candidate in every sample.
    pub(super) fn values(&self, wanted: &[Option<Level>], candidate: usize, values: &mut [f32]) {
        let start = match self.aggregate {
            Aggregate::Min | Aggregate::Product => 1.0,
            Aggregate::Mean => 0.0,
        };
        values.fill(start);
        let mut asked = 0;
        for (counts, level) in self.counts.iter().zip(wanted) {
            let Some(level) = level else { continue };
            asked += 1;
            counts.each_sample(candidate, level.index(), |sample, rate| match self.aggregate {
                Aggregate::Min => values[sample] = values[sample].min(rate),
                Aggregate::Mean => values[sample] += rate,
                Aggregate::Product => values[sample] *= rate,
            });
        }
        match (self.aggregate, asked) {
            (Aggregate::Mean, 0) => values.fill(1.0),
            (Aggregate::Mean, _) => values.iter_mut().for_each(|value| *value /= asked as f32),
            _ => {}
        }
    }

    /// A target's value at a candidate, on average over the samples.
    pub(super) fn expected(&self, target: usize, candidate: usize) -> f32 {
        let mut values = vec![0.0; self.samples()];
        self.values(&self.wants[target], candidate, &mut values);
        values.iter().sum::<f32>() / values.len().max(1) as f32
    }

    /// No sample of a target's value at a candidate is above this.
    fn highest(&self, wanted: &[Option<Level>], candidate: usize) -> f32 {
        let rates = self.counts.iter().zip(wanted);
        let rates = rates.filter_map(|(counts, level)| Some(counts.highest(candidate, (*level)?.index())));
        match self.aggregate {
            Aggregate::Min => rates.fold(1.0, f32::min),
            Aggregate::Product => rates.product(),
            Aggregate::Mean => {
                let (sum, asked) = rates.fold((0.0, 0), |(sum, asked), rate| (sum + rate, asked + 1));
                if asked == 0 { 1.0 } else { sum / asked as f32 }
            }
        }
    }

    /// Whether a candidate can be better than what is known, for any target.
    pub(super) fn is_promising(&self, candidate: usize, floor: &[f32]) -> bool {
        self.wants.iter().zip(floor).any(|(wanted, floor)| self.highest(wanted, candidate) > *floor + SAME)
    }

    /// What a candidate is expected to gain over all targets.
    fn gain(&self, candidate: usize, floor: &[f32], values: &mut [f32]) -> f64 {
        let mut gain = 0.0;
        for ((wanted, best), floor) in self.wants.iter().zip(&self.best).zip(floor) {
            if self.highest(wanted, candidate) <= *floor + SAME {
                continue;
            }
            self.values(wanted, candidate, values);
            let improved = values.iter().zip(best).map(|(value, best)| (value - best).max(0.0)).sum::<f32>();
            gain += f64::from(improved);
        }
        gain / self.samples().max(1) as f64
    }

    /// The lowest of each target's best values over the samples.
    pub(super) fn floor(&self) -> Vec<f32> {
        self.best.iter().map(|best| best.iter().copied().fold(f32::INFINITY, f32::min)).collect()
    }

    /// Takes a candidate's sampled values as known.
    pub(super) fn take(&mut self, candidate: usize) {
        let mut values = vec![0.0; self.samples()];
        for target in 0..self.wants.len() {
            self.values(&self.wants[target], candidate, &mut values);
            for (best, value) in self.best[target].iter_mut().zip(&values) {
                *best = best.max(*value);
            }
        }
    }

    /// Per sample, by how much the best of all candidates betters a target (0 where none does).
    pub(super) fn joint_regrets(&self, target: usize) -> Vec<f32> {
        let mut regrets = vec![0.0f32; self.samples()];
        let mut values = vec![0.0; self.samples()];
        for candidate in 0..self.counts.first().map_or(0, Counts::points) {
            self.values(&self.wants[target], candidate, &mut values);
            for ((regret, value), best) in regrets.iter_mut().zip(&values).zip(&self.best[target]) {
                *regret = regret.max(value - best);
            }
        }
        regrets
    }

    /// For one target, every candidate that betters it in some sample: how much it gains on average, and in what share of
    /// the samples it does; the largest gain first.
    pub(super) fn rivals(&self, target: usize) -> Vec<Rival> {
        let (wanted, best) = (&self.wants[target], &self.best[target]);
        let floor = best.iter().copied().fold(f32::INFINITY, f32::min);
        let mut values = vec![0.0; self.samples()];
        let mut rivals = Vec::new();
        for candidate in 0..self.counts.first().map_or(0, Counts::points) {
            if self.highest(wanted, candidate) <= floor + SAME {
                continue;
            }
            self.values(wanted, candidate, &mut values);
            let gains = values.iter().zip(best).map(|(value, best)| value - best).filter(|gain| *gain > SAME);
            let (sum, count) = gains.fold((0.0, 0u32), |(sum, count), gain| (sum + gain, count + 1));
            if count > 0 {
                let samples = values.len() as f64;
                rivals.push(Rival {
                    candidate,
                    gain: f64::from(sum) / samples,
                    share: f64::from(count) / samples,
                });
            }
        }
        rivals.sort_by(|left, right| {
            right.gain.total_cmp(&left.gain).then(left.candidate.cmp(&right.candidate))
        });
        rivals
    }

    /// Per target, of the candidates that can better it: the one of the highest expected value, and the one that is
    /// expected to gain most.
    pub(super) fn leaders(&self) -> Vec<usize> {
        let mut values = vec![0.0; self.samples()];
        let mut leaders = Vec::new();
        for ((wanted, best), floor) in self.wants.iter().zip(&self.best).zip(self.floor()) {
            let (mut highest, mut gainer) = ((f32::NEG_INFINITY, None), (0.0, None));
            for candidate in 0..self.counts.first().map_or(0, Counts::points) {
                // No sum over samples exceeds the highest sample's.
                let most = self.highest(wanted, candidate);
                if most <= floor + SAME || most * values.len() as f32 <= highest.0 {
                    continue;
                }
                self.values(wanted, candidate, &mut values);
                let sum: f32 = values.iter().sum();
                if sum > highest.0 {
                    highest = (sum, Some(candidate));
                }
                let gain: f32 = values.iter().zip(best).map(|(value, best)| (value - best).max(0.0)).sum();
                if gain > gainer.0 {
                    gainer = (gain, Some(candidate));
                }
            }
            leaders.extend(highest.1.into_iter().chain(gainer.1));
        }
        leaders
    }

    /// The best batch of at most `limit` of the candidates, chosen greedily: each for what it adds to those before it.
    ///
    /// Equal gains go to the first candidate. Ends early when no candidate gains anything.
    pub(super) fn choose(&mut self, candidates: &[usize], limit: usize) -> Vec<Choice> {
        let mut values = vec![0.0; self.samples()];
        let mut chosen: Vec<Choice> = Vec::new();
        // A gain only shrinks as others are taken: what it was bounds what it is.
        let floor = self.floor();
        let mut bounds: Vec<Choice> = candidates
            .iter()
            .map(|candidate| Choice {
                candidate: *candidate,
                gain: self.gain(*candidate, &floor, &mut values),
            })
            .filter(|choice| choice.gain > 0.0)
            .collect();
        bounds.sort_by(|left, right| {
            right.gain.total_cmp(&left.gain).then(left.candidate.cmp(&right.candidate))
        });
        while chosen.len() < limit {
            let Some(first) = bounds.first().copied() else { break };
            let mut best = first;
            if !chosen.is_empty() {
                let floor = self.floor();
                best.gain = 0.0;
                for bound in &mut bounds {
                    if bound.gain <= best.gain {
                        break;
                    }
                    bound.gain = self.gain(bound.candidate, &floor, &mut values);
                    if bound.gain > best.gain {
                        best = *bound;
                    }
                }
                if best.gain <= 0.0 {
                    break;
                }
            }
            chosen.push(best);
            self.take(best.candidate);
            bounds.retain(|bound| bound.candidate != best.candidate);
            bounds.sort_by(|left, right| {
                right.gain.total_cmp(&left.gain).then(left.candidate.cmp(&right.candidate))
            });
        }
        chosen
    }
}
