//! Judged responses, drawn.

use rand::RngExt as _;

use crate::random::stream;

/// A judge of one response per query: the response is at a level with the probability `exp(log p / temperature)` of that
/// level's reference, normalised over the levels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SoftmaxJudge {
    /// Levels of a query, whose log-probabilities stand together.
    pub levels: usize,
    /// Nats per token.
    pub temperature: f64,
    /// Of the draws.
    pub seed: u64,
}

impl SoftmaxJudge {
    /// Levels of one response per query, drawn anew for each `draw`.
    pub fn judged(&self, log_probs: &[f32], draw: u64) -> Vec<u8> {
        let mut generator = stream(self.seed, "judged", draw);
        log_probs
            .chunks_exact(self.levels)
            .map(|scores| {
                // The largest of scores with standard Gumbel noise is distributed as the softmax of the scores.
                let noisy = scores.iter().map(|score| {
                    let uniform: f64 = 1.0 - generator.random::<f64>();
                    f64::from(*score) / self.temperature - (-uniform.ln()).ln()
                });
                let mut best = (0, f64::NEG_INFINITY);
                for (level, value) in noisy.enumerate() {
                    if value > best.1 {
                        best = (level, value);
                    }
                }
                best.0 as u8
            })
            .collect()
    }

    /// Per query and level, the probability that a response is at the level.
    pub fn probabilities(&self, log_probs: &[f32]) -> Vec<f64> {
        let softmax = |scores: &[f32]| {
            let powers: Vec<f64> =
                scores.iter().map(|score| (f64::from(*score) / self.temperature).exp()).collect();
            let sum: f64 = powers.iter().sum();
            powers.into_iter().map(move |power| power / sum)
        };
        log_probs.chunks_exact(self.levels).flat_map(softmax).collect()
    }
}
