//! Synthetic response surfaces: sweeps whose every answer is known, without a model.
//!
//! Domain `d` has a proficiency `s` that the coefficients `x` (−1 … 1 each) move:
//!
//! ```text
//! s(x) = saturate( bias + Σᵢ gainᵢ xᵢ + Σᵢ<ⱼ interactionᵢⱼ xᵢ xⱼ + bend · x_d² − wear · |x|² / D )
//!        + ripple · Σₖ aₖ cos(ωₖ·x + φₖ)
//! saturate(u) = u where saturation is 0, else tanh(saturation · u) / saturation
//! ```
//!
//! A query `q` shifts it by its own offset, and every level `l` (its place `c` runs evenly from −1 to 1) is less probable
//! the further the proficiency lies from it:
//!
//! ```text
//! log p(q, l | x) = −base(q, l) − slope(q) · |s(x) + offset(q) − c(l)|^power − damage · |x|² + sway · Σₖ b(q, l, k) cos(ωₖ·x + φₖ)
//! ```
//!
//! Offsets, bases, slopes, frequencies, phases and the weights `a`, `b` (scaled so that the sums have unit variance) are
//! drawn from the seed. Responses are judged by a [`SoftmaxJudge`].

mod catalogue;
mod grid;
mod judge;
mod layers;

use std::f64::consts::PI;

use rand::RngExt as _;

use crate::random::{normal, stream};

pub use catalogue::{Shape, catalogue};
pub use judge::SoftmaxJudge;
pub use layers::{layered, tied};

/// A surface: what would be measured at any point.
#[derive(Clone, Debug)]
pub struct Surface {
    name: String,
    shape: Shape,
    domains: Vec<Domain>,
    levels: usize,
    seed: u64,
}

#[derive(Clone, Debug)]
struct Domain {
    bias: f64,
    gains: Vec<f64>,
    /// `(i, j, weight)`.
    interactions: Vec<(usize, usize, f64)>,
    /// The domain's own coefficient, whose square bends the response.
    own: usize,
    waves: Vec<Wave>,
    queries: Vec<QueryShape>,
}

#[derive(Clone, Debug)]
struct Wave {
    frequencies: Vec<f64>,
    phase: f64,
    weight: f64,
}

#[derive(Clone, Debug)]
struct QueryShape {
    offset: f64,
    slope: f64,
    bases: Vec<f64>,
    /// Per level and wave.
    sways: Vec<f64>,
}

/// Waves per domain.
const WAVES: usize = 12;

impl Surface {
    /// A surface of a shape: `gains` has a row per domain and a column per coefficient.
    pub(crate) fn new(
        name: &str,
        shape: Shape,
        gains: &[Vec<f64>],
        queries: usize,
        levels: usize,
        seed: u64,
    ) -> Self {
        let domains = gains.iter().enumerate().map(|(index, gains)| {
            let mut generator = stream(seed, name, index as u64);
            let dimensions = gains.len();
            let waves: Vec<Wave> = (0..WAVES)
                .map(|_| Wave {
                    frequencies: (0..dimensions).map(|_| shape.frequency * normal(&mut generator)).collect(),
                    phase: generator.random::<f64>() * 2.0 * PI,
                    weight: normal(&mut generator) * (2.0 / WAVES as f64).sqrt(),
                })
                .collect();
            let pairs = (0..dimensions).flat_map(|i| (i + 1..dimensions).map(move |j| (i, j)));
            let interactions =
                pairs.map(|(i, j)| (i, j, shape.interaction * normal(&mut generator))).collect();
            let queries = (0..queries)
                .map(|_| QueryShape {
                    offset: shape.spread * normal(&mut generator),
                    slope: shape.slope * (1.0 + 0.3 * normal(&mut generator)).max(0.3),
                    bases: (0..levels).map(|_| 0.3 + shape.unevenness * generator.random::<f64>()).collect(),
                    sways: (0..levels * WAVES)
                        .map(|_| normal(&mut generator) * (2.0 / WAVES as f64).sqrt())
                        .collect(),
                })
                .collect();
            let bias = shape.bias * normal(&mut generator);
            Domain { bias, gains: gains.clone(), interactions, own: index % dimensions, waves, queries }
        });
        Self { name: name.to_owned(), shape, domains: domains.collect(), levels, seed }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The numbers that it is made of.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// How many coefficients it takes.
    pub fn dimensions(&self) -> usize {
        self.domains.first().map_or(0, |domain| domain.gains.len())
    }

    /// The domains' proficiencies at `x`.
    pub fn proficiencies(&self, x: &[f64]) -> Vec<f64> {
        self.domains.iter().map(|domain| self.proficiency(domain, x, &cosines(domain, x))).collect()
    }

    fn proficiency(&self, domain: &Domain, x: &[f64], cosines: &[f64]) -> f64 {
        let shape = &self.shape;
        let linear: f64 = domain.gains.iter().zip(x).map(|(gain, x)| gain * x).sum();
        let crossed: f64 = domain.interactions.iter().map(|(i, j, weight)| weight * x[*i] * x[*j]).sum();
        let inner = domain.bias + linear + crossed + shape.bend * x[domain.own] * x[domain.own]
            - shape.wear * mean_square(x);
        let saturated =
            if shape.saturation > 0.0 { (shape.saturation * inner).tanh() / shape.saturation } else { inner };
        let ripple: f64 = domain.waves.iter().zip(cosines).map(|(wave, cosine)| wave.weight * cosine).sum();
        saturated + shape.ripple * ripple
    }

    /// Mean log-probabilities per token at `x`: the domains' queries one after another, a query's levels together.
    pub fn log_probs(&self, x: &[f64]) -> Vec<f32> {
        let shape = &self.shape;
        let damage = shape.damage * mean_square(x) * x.len() as f64;
        let mut log_probs = Vec::new();
        for domain in &self.domains {
            let cosines = cosines(domain, x);
            let proficiency = self.proficiency(domain, x, &cosines);
            for query in &domain.queries {
                for level in 0..self.levels {
                    let place = 2.0 * level as f64 / (self.levels - 1) as f64 - 1.0;
                    let distance = (proficiency + query.offset - place).abs();
                    let sway: f64 = query.sways[level * WAVES..][..WAVES]
                        .iter()
                        .zip(&cosines)
                        .map(|(b, cosine)| b * cosine)
                        .sum();
                    let log_prob = -query.bases[level] - query.slope * distance.powf(shape.power) - damage
                        + shape.sway * sway;
                    log_probs.push(log_prob.min(-1e-4) as f32);
                }
            }
        }
        log_probs
    }

    /// Its judge.
    pub fn judge(&self) -> SoftmaxJudge {
        SoftmaxJudge { levels: self.levels, temperature: self.shape.temperature, seed: self.seed }
    }
}

fn cosines(domain: &Domain, x: &[f64]) -> Vec<f64> {
    let angle = |wave: &Wave| wave.phase + wave.frequencies.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
    domain.waves.iter().map(|wave| angle(wave).cos()).collect()
}

fn mean_square(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>() / x.len().max(1) as f64
}

#[cfg(test)]
mod tests;
