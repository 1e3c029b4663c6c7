//! What the log-probabilities of the references say of the judged rates.
//!
//! Where both are measured, the likelihoods are a smooth and exact account of how the coefficients move the model, and the
//! verdicts a coarse and noisy one of the same. The share of responses above a level is guessed from the log-probabilities
//! as if a response were drawn by them, sharply or not; the judged rung's process has these guesses as covariates and finds
//! out from the verdicts how far each is to be followed.

use faer::Mat;
use rayon::prelude::*;

use super::likelihood::{self, domain_columns};
use crate::gp::Gp;
use crate::problem::{Measured, Problem};

/// Guesses per threshold, the softest first. Each divides log-probabilities by a quarter of what the one before does, so that
/// its powers are fourth powers.
const GUESSES: usize = 3;

/// What the softest guess divides log-probabilities by, in units of the usual margin between two levels.
const SOFTEST: f64 = 2.0;

/// Shares are kept this far from none and all.
const LEAST_SHARE: f64 = 1e-3;

/// Logits to probits: the logistic distribution's deviation.
const LOGITS: f64 = 0.551_328_895_421_792_1;

/// The guesses of every domain.
pub(super) struct Covariates<'a> {
    problem: &'a Problem,
    /// Per domain, the log-probabilities anywhere.
    processes: Vec<Gp>,
    softness: f64,
}

/// A domain's guesses at some points: per threshold, a row per point.
pub(super) type Guesses = Vec<Mat<f64>>;

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
        Some(Self { problem, processes, softness })
    }

    /// At points whose log-probabilities are measured.
    pub(super) fn measured(&self, domain: usize, log_probs: &[&[f32]]) -> Guesses {
        let columns = domain_columns(self.problem, domain);
        let row = |log_probs: &&[f32]| log_probs[columns.clone()].iter().copied().map(f64::from).collect();
        self.guesses(&log_probs.iter().map(row).collect::<Vec<Vec<f64>>>())
    }

    /// At points (flat coordinates), as the process expects them.
    pub(super) fn expected(&self, domain: usize, points: &[f64]) -> Guesses {
        let means = self.processes[domain].means(points);
        let row = |row: usize| (0..means.ncols()).map(|column| means[(row, column)]).collect();
        self.guesses(&(0..means.nrows()).map(row).collect::<Vec<Vec<f64>>>())
    }

    fn guesses(&self, log_probs: &[Vec<f64>]) -> Guesses {
        let levels = self.problem.levels();
        let mut guesses = vec![Mat::zeros(log_probs.len(), GUESSES); levels - 1];
        let mut shares = vec![0.0; (levels - 1) * GUESSES];
        let mut powers = vec![0.0; levels];
        for (row, log_probs) in log_probs.iter().enumerate() {
            shares.fill(0.0);
            for scores in log_probs.chunks_exact(levels) {
                let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                for (power, score) in powers.iter_mut().zip(scores) {
                    *power = ((score - highest) / (SOFTEST * self.softness)).exp();
                }
                for guess in 0..GUESSES {
                    let sum: f64 = powers.iter().sum();
                    let mut above = 0.0;
                    for threshold in (1..levels).rev() {
                        above += powers[threshold];
                        shares[(threshold - 1) * GUESSES + guess] += above / sum;
                    }
                    powers.iter_mut().for_each(|power| *power = (*power * *power) * (*power * *power));
                }
            }
            let queries = (log_probs.len() / levels).max(1) as f64;
            for (index, share) in shares.iter().enumerate() {
                let share = (share / queries).clamp(LEAST_SHARE, 1.0 - LEAST_SHARE);
                guesses[index / GUESSES][(row, index % GUESSES)] = LOGITS * (share / (1.0 - share)).ln();
            }
        }
        guesses
    }
}

/// No guesses for so many points.
pub(super) fn none(points: usize, levels: usize) -> Guesses {
    vec![Mat::zeros(points, 0); levels - 1]
}
