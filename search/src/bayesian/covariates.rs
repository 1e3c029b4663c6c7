//! What the log-probabilities of the references say of the judged rates.
//!
//! Where both are measured, the likelihoods are a smooth and exact account of how the coefficients move the model, and the
//! verdicts a coarse and noisy one of the same. The share of responses above a level is guessed from the log-probabilities
//! as if a response were drawn by them, at the temperature that explains a domain's verdicts best (C. Guo et al., "On
//! calibration of modern neural networks", 2017), at a softer and at a sharper one; the judged rung's process has these
//! guesses as covariates and finds out from the verdicts how far each is to be followed.

use faer::Mat;
use rayon::prelude::*;

use super::likelihood::{self, domain_columns};
use crate::gp::{Gp, exp_of_negative, spread};
use crate::normal::quantile;
use crate::problem::{Measured, Problem};

/// Guesses per threshold, the softest first. Each divides log-probabilities by a quarter of what the one before does, so that
/// its powers are fourth powers.
const GUESSES: usize = 3;

/// What the softest guess divides log-probabilities by, in units of the temperature: the second guess is at the temperature.
const SOFTEST: f64 = 4.0;

/// Temperatures are sought between the usual margin of two levels times these.
const TEMPERATURES: (f64, f64) = (1.0 / 64.0, 16.0);

/// Temperatures are told by at most so many points.
const FIT_POINTS: usize = 100;

/// First steps of that search, and how often the best of them is halved.
const STEPS: usize = 10;
const HALVINGS: usize = 6;

/// Shares are kept this far from none and all.
const LEAST_SHARE: f64 = 1e-3;

/// The guesses of every domain.
pub(super) struct Covariates<'a> {
    problem: &'a Problem,
    /// Per domain, the log-probabilities anywhere.
    processes: Vec<Gp>,
    /// Per domain, what log-probabilities are divided by to guess its verdicts.
    temperatures: Vec<f64>,
}

/// What a threshold's latent function is guessed to be at some points.
pub(super) struct Guess {
    /// At the temperature.
    pub(super) means: Vec<f64>,
    /// What it may be a little more of: a row per point, a column each for that guess, and for what the softer and the
    /// sharper one differ from it.
    pub(super) covariates: Mat<f64>,
}

impl<'a> Covariates<'a> {
    /// From all points with likelihoods, which all judged points must have; `None` where they have not.
    pub(super) fn new(problem: &'a Problem, measured: &[Measured<'_>]) -> Option<Self> {
        let told = |measured: &&Measured<'_>| measured.log_probs.len() == problem.outputs();
        if measured.iter().any(|measured| measured.judged.is_some() && !told(&measured)) {
            return None;
        }
        let mut known: Vec<&Measured<'_>> = measured.iter().filter(told).collect();
        known.sort_by_key(|measured| measured.point);
        known.dedup_by_key(|measured| measured.point);
        if known.len() < 2 {
            return None;
        }
        let processes = (0..problem.domains().len())
            .into_par_iter()
            .map(|domain| likelihood::process(problem, &known, domain))
            .collect::<Option<_>>()?;
        let softness = problem.softness(known.iter().map(|measured| measured.log_probs));
        let judged: Vec<(&[f32], &[u32])> =
            known.iter().filter_map(|measured| Some((measured.log_probs, measured.judged?))).collect();
        let some: Vec<(&[f32], &[u32])> = spread(judged.len(), FIT_POINTS).map(|row| judged[row]).collect();
        let temperatures = (0..problem.domains().len())
            .into_par_iter()
            .map(|domain| temperature(problem, domain, &some, softness))
            .collect();
        Some(Self { problem, processes, temperatures })
    }

    /// At points whose log-probabilities are measured.
    pub(super) fn measured(&self, domain: usize, log_probs: &[&[f32]]) -> Vec<Guess> {
        let columns = domain_columns(self.problem, domain);
        let row = |log_probs: &&[f32]| log_probs[columns.clone()].iter().copied().map(f64::from).collect();
        self.guesses(domain, &log_probs.iter().map(row).collect::<Vec<Vec<f64>>>())
    }

    /// At points (flat coordinates), as the process expects them.
    pub(super) fn expected(&self, domain: usize, points: &[f64]) -> Vec<Guess> {
        let means = self.processes[domain].means(points);
        let row = |row: usize| (0..means.ncols()).map(|column| means[(row, column)]).collect();
        self.guesses(domain, &(0..means.nrows()).map(row).collect::<Vec<Vec<f64>>>())
    }

    fn guesses(&self, domain: usize, log_probs: &[Vec<f64>]) -> Vec<Guess> {
        let levels = self.problem.levels();
        let softest = SOFTEST * self.temperatures[domain];
        let mut guesses: Vec<Guess> = (1..levels).map(|_| Guess::none(log_probs.len(), GUESSES)).collect();
        let mut probits: [Vec<f64>; GUESSES] = std::array::from_fn(|_| vec![0.0; levels - 1]);
        for (row, log_probs) in log_probs.iter().enumerate() {
            let mut odds = Odds::new(log_probs.iter().copied(), levels);
            odds.set_temperature(softest);
            for probits in &mut probits {
                let mut above = 0.0;
                for (threshold, share) in odds.shares().iter().enumerate().skip(1).rev() {
                    above += share;
                    probits[threshold - 1] = quantile(above.clamp(LEAST_SHARE, 1.0 - LEAST_SHARE));
                }
                odds.quarter_temperature();
            }
            let [softer, usual, sharper] = &probits;
            let values = usual.iter().zip(softer).zip(sharper);
            for (guess, ((usual, softer), sharper)) in guesses.iter_mut().zip(values) {
                guess.means[row] = *usual;
                guess.covariates[(row, 0)] = *usual;
                guess.covariates[(row, 1)] = softer - usual;
                guess.covariates[(row, 2)] = sharper - usual;
            }
        }
        guesses
    }
}

/// What log-probabilities are to be divided by, that a softmax of them makes a domain's verdicts (log-probabilities, counts
/// of `domains × levels`) likeliest.
fn temperature(problem: &Problem, domain: usize, judged: &[(&[f32], &[u32])], softness: f64) -> f64 {
    let levels = problem.levels();
    let columns = domain_columns(problem, domain);
    let mut all: Vec<(Odds, &[u32])> = judged
        .iter()
        .map(|(log_probs, counts)| {
            let scores = log_probs[columns.clone()].iter().copied().map(f64::from);
            (Odds::new(scores, levels), &counts[domain * levels..(domain + 1) * levels])
        })
        .collect();
    let mut unlikelihood = |logarithm: f64| -> f64 {
        let of_point = |(odds, counts): &mut (Odds, &[u32])| -> f64 {
            odds.set_temperature(softness * logarithm.exp());
            let shares = odds.shares();
            let terms = shares
                .iter()
                .zip(*counts)
                .map(|(share, count)| f64::from(*count) * share.max(LEAST_SHARE).ln());
            -terms.sum::<f64>()
        };
        all.iter_mut().map(of_point).sum()
    };
    let (low, high) = (TEMPERATURES.0.ln(), TEMPERATURES.1.ln());
    let step = (high - low) / STEPS as f64;
    let mut best = (f64::INFINITY, 0.0);
    for place in 0..=STEPS {
        let logarithm = low + step * place as f64;
        let found = unlikelihood(logarithm);
        if found < best.0 {
            best = (found, logarithm);
        }
    }
    let (_, mut at) = best;
    let mut half = 0.5 * step;
    for _ in 0..HALVINGS {
        for aside in [at - half, at + half] {
            let found = unlikelihood(aside);
            if found < best.0 {
                best = (found, aside);
            }
        }
        at = best.1;
        half *= 0.5;
    }
    softness * at.exp()
}

/// A point's odds of responding at each level of each query.
struct Odds {
    levels: usize,
    /// By how much each log-probability lies below its query's highest.
    below: Vec<f64>,
    /// To one, of the highest.
    odds: Vec<f64>,
    shares: Vec<f64>,
}

impl Odds {
    /// Of one domain's log-probabilities.
    fn new(log_probs: impl Iterator<Item = f64>, levels: usize) -> Self {
        let mut below: Vec<f64> = log_probs.collect();
        for scores in below.chunks_exact_mut(levels) {
            let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            scores.iter_mut().for_each(|score| *score = highest - *score);
        }
        Self { levels, odds: vec![0.0; below.len()], shares: vec![0.0; levels], below }
    }

    fn set_temperature(&mut self, temperature: f64) {
        let inverse = temperature.recip();
        let values = self.odds.iter_mut().zip(&self.below);
        values.for_each(|(odds, below)| *odds = exp_of_negative(below * inverse));
    }

    fn quarter_temperature(&mut self) {
        self.odds.iter_mut().for_each(|odds| *odds = (*odds * *odds) * (*odds * *odds));
    }

    /// Of responses at each level.
    fn shares(&mut self) -> &[f64] {
        self.shares.fill(0.0);
        for odds in self.odds.chunks_exact(self.levels) {
            let scale = odds.iter().sum::<f64>().recip();
            self.shares.iter_mut().zip(odds).for_each(|(share, odds)| *share += odds * scale);
        }
        let queries = (self.odds.len() / self.levels).max(1) as f64;
        self.shares.iter_mut().for_each(|share| *share /= queries);
        &self.shares
    }
}

impl Guess {
    fn none(points: usize, covariates: usize) -> Self {
        Self { means: vec![0.0; points], covariates: Mat::zeros(points, covariates) }
    }
}

/// No guesses for so many points.
pub(super) fn none(points: usize, levels: usize) -> Vec<Guess> {
    (1..levels).map(|_| Guess::none(points, 0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normal::cdf;
    use crate::surface::SoftmaxJudge;

    const QUERIES: usize = 30;

    /// A sweep of one domain, and the log-probabilities of some points.
    fn measured() -> (Problem, Vec<Vec<f32>>) {
        let problem = Problem::of(&crate::fixture::definition(1, QUERIES, 0));
        let outputs = QUERIES * problem.levels();
        let log_prob = |point: usize, output: usize| {
            let favoured = (point as f32 * 0.4).sin() * (output % problem.levels()) as f32;
            favoured + ((point * outputs + output) as f32 * 0.713).sin() - 4.0
        };
        let of_point = |point| (0..outputs).map(|output| log_prob(point, output)).collect();
        let points = (0..60).map(of_point);
        let points = points.collect();
        (problem, points)
    }

    #[test]
    fn the_temperature_that_verdicts_were_drawn_at_is_found() {
        let (problem, points) = measured();
        for temperature in [0.05, 0.3, 2.0] {
            let judge = SoftmaxJudge { levels: problem.levels(), temperature, seed: 7 };
            let counts: Vec<Vec<u32>> = points
                .iter()
                .enumerate()
                .map(|(index, log_probs)| {
                    let mut counts = vec![0; problem.levels()];
                    for level in judge.judged(log_probs, index as u64) {
                        counts[usize::from(level)] += 1;
                    }
                    counts
                })
                .collect();
            let judged: Vec<(&[f32], &[u32])> =
                points.iter().zip(&counts).map(|(points, counts)| (&points[..], &counts[..])).collect();
            let found = super::temperature(&problem, 0, &judged, 0.5);
            assert!((found / temperature).ln().abs() < 0.2, "{found} for {temperature}");
        }
    }

    #[test]
    fn guesses_are_the_shares_of_responses_drawn_at_three_temperatures() {
        let (problem, points) = measured();
        let temperature = 0.4;
        let covariates =
            Covariates { problem: &problem, processes: Vec::new(), temperatures: vec![temperature] };
        let guesses = covariates.measured(0, &points.iter().map(Vec::as_slice).collect::<Vec<_>>());
        for (softer, column) in [(1.0, None), (4.0, Some(1)), (0.25, Some(2))] {
            let judge = SoftmaxJudge { levels: problem.levels(), temperature: softer * temperature, seed: 0 };
            for (row, log_probs) in points.iter().enumerate() {
                let probabilities = judge.probabilities(log_probs);
                for (threshold, guess) in guesses.iter().enumerate() {
                    let queries = probabilities.chunks_exact(problem.levels());
                    let above =
                        queries.flat_map(|query| &query[threshold + 1..]).sum::<f64>() / QUERIES as f64;
                    let above = above.clamp(LEAST_SHARE, 1.0 - LEAST_SHARE);
                    let guessed =
                        guess.means[row] + column.map_or(0.0, |column| guess.covariates[(row, column)]);
                    assert!((cdf(guessed) - above).abs() < 1e-9, "{row} {threshold} {softer}");
                }
            }
        }
    }
}
