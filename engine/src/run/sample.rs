//! Choosing the next token: greedily, or drawn at a temperature from the nucleus.

use crate::EngineError;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Decoding settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Most tokens to generate per prompt, the one that ends the turn included.
    pub max_new_tokens: usize,
    /// 0 decodes greedily; otherwise logits are divided by it before a token is drawn.
    pub temperature: f64,
    /// Draw from the smallest set of most probable tokens that holds at least this probability; 1 is all.
    pub top_p: f64,
    /// Texts before which an answer ends, besides those of the model's `generation_config.json`.
    pub stop: Vec<String>,
}

impl Sampling {
    /// Greedy decoding.
    pub fn greedy(max_new_tokens: usize) -> Self {
        Self { max_new_tokens, temperature: 0.0, top_p: 1.0, stop: Vec::new() }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`EngineError::Setting`].
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        let refuse = |field, found: String, wanted| Err(EngineError::Setting { field, found, wanted });
        if self.max_new_tokens == 0 {
            return refuse("max_new_tokens", "0".to_owned(), "at least 1");
        }
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return refuse("temperature", self.temperature.to_string(), "0 or a positive number");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return refuse("top_p", self.top_p.to_string(), "a number above 0 and at most 1");
        }
        if self.stop.iter().any(String::is_empty) {
            return refuse("stop", "an empty text".to_owned(), "texts of at least one character");
        }
        Ok(())
    }
}

/// One sequence's source of next tokens. Its draws depend on settings, seed and logits only.
pub(crate) struct Sampler {
    temperature: f64,
    top_p: f64,
    generator: ChaCha8Rng,
}

impl Sampler {
    /// A sampler for one query.
    pub(crate) fn new(settings: &Sampling, seed: u64) -> Self {
        Self {
            temperature: settings.temperature,
            top_p: settings.top_p,
            generator: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// The next token, or nothing when the logits are not finite.
    pub(crate) fn next(&mut self, logits: &[f32]) -> Option<u32> {
        let (best, highest) = argmax(logits)?;
        if self.temperature == 0.0 {
            return Some(best);
        }
        draw(logits, highest, self.temperature, self.top_p, &mut self.generator)
    }
}

/// The most probable token, the first of equals. Nothing when a logit is NaN or the highest is not finite.
fn argmax(logits: &[f32]) -> Option<(u32, f32)> {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, &logit) in logits.iter().enumerate() {
        if logit.is_nan() {
            return None;
        }
        if logit > best.1 {
            best = (token as u32, logit);
        }
    }
    best.1.is_finite().then_some(best)
}

/// Nucleus sampling: the most probable tokens until `top_p` is reached, then inversion of their distribution.
fn draw(logits: &[f32], highest: f32, temperature: f64, top_p: f64, generator: &mut impl Rng) -> Option<u32> {
    let weight = |logit: f32| (f64::from(logit - highest) / temperature).exp();
    let mut candidates: Vec<(u32, f64)> =
        logits.iter().enumerate().map(|(token, &logit)| (token as u32, weight(logit))).collect();
    let total: f64 = candidates.iter().map(|(_, weight)| weight).sum();
    if top_p < 1.0 {
        // Most probable first, the lower id among equals, so that the set does not depend on the sort.
        candidates.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let mut held = 0.0;
        let enough = candidates.iter().position(|(_, weight)| {
            held += weight;
            held >= top_p * total
        });
        candidates.truncate(enough.map_or(candidates.len(), |last| last + 1));
    }
    let kept: f64 = candidates.iter().map(|(_, weight)| weight).sum();
    let mut left = generator.random::<f64>() * kept;
    for (token, weight) in &candidates {
        left -= weight;
        if left < 0.0 {
            return Some(*token);
        }
    }
    // Rounding may leave a trace of mass behind the last candidate.
    candidates.iter().rev().find(|(_, weight)| *weight > 0.0).map(|(token, _)| *token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(top_p: f64, temperature: f64) -> [usize; 4] {
        let mut sampler = Sampler::new(&Sampling { temperature, top_p, ..Sampling::greedy(1) }, 7);
        let mut counts = [0; 4];
        for _ in 0..20_000 {
            // Probabilities 0.1, 0.2, 0.3, 0.4 at temperature 1.
            let token = sampler.next(&[0.1_f32.ln(), 0.2_f32.ln(), 0.3_f32.ln(), 0.4_f32.ln()]);
            counts[token.expect("finite logits") as usize] += 1;
        }
        counts
    }

    #[test]
    fn draws_follow_the_distribution() {
        for (count, share) in drawn(1.0, 1.0).into_iter().zip([0.1, 0.2, 0.3, 0.4]) {
            // Five standard deviations of a binomial share.
            assert!((count as f64 / 20_000.0 - share).abs() < 5.0 * (0.25_f64 / 20_000.0).sqrt());
        }
    }

    #[test]
    fn the_nucleus_is_the_smallest_set_that_holds_top_p() {
        let counts = drawn(0.69, 1.0);
        assert_eq!(counts[..2], [0, 0]);
        assert!((counts[3] as f64 / 20_000.0 - 4.0 / 7.0).abs() < 0.02);
        assert_eq!(drawn(0.05, 1.0), [0, 0, 0, 20_000]);
    }

    #[test]
    fn greedy_takes_the_first_of_equals_and_refuses_nan() {
        let mut greedy = Sampler::new(&Sampling::greedy(1), 0);
        assert_eq!(greedy.next(&[1.0, 3.0, 3.0]), Some(1));
        assert_eq!(greedy.next(&[1.0, f32::NAN]), None);
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        for (temperature, top_p, max_new_tokens) in
            [(-1.0, 1.0, 1), (f64::NAN, 1.0, 1), (1.0, 0.0, 1), (1.0, 1.1, 1), (0.0, 1.0, 0)]
        {
            assert!(Sampling { max_new_tokens, temperature, top_p, stop: Vec::new() }.check().is_err());
        }
        assert!(Sampling { stop: vec![String::new()], ..Sampling::greedy(1) }.check().is_err());
    }
}
