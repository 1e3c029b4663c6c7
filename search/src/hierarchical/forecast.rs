//! What is to be expected where nothing is measured yet.
//!
//! Log-probabilities are smooth in the coefficients, and so are rates, but for their steps and noise. Between the points that
//! have them they are interpolated by the mean of a Gaussian process, whose kernel is chosen once, by the first wave. Rates
//! and values follow from interpolated log-probabilities as they do from measured ones. Where only verdicts count, the rates
//! themselves are interpolated: the kernel's nugget smooths their noise away.

use avsweep_domain::Point;
use faer::Mat;
use rayon::prelude::*;

use crate::gp::{self, Gp, Kernel};
use crate::problem::{Measured, Problem, SearchRung};

/// Points forecast together.
const CHUNK: usize = 256;

/// What a point is ranked by, measured or expected.
pub(super) struct Record {
    /// `domains × levels`.
    pub(super) rates: Vec<f64>,
    /// As [`Problem::soft_rates`]; the rates themselves where likelihoods are not measured.
    pub(super) soft: Vec<f64>,
    /// What is interpolated: log-probabilities, or rates where these are not measured. Empty where the record is
    /// expected: there may be as many of those as the grid has points.
    outputs: Vec<f32>,
}

impl Record {
    /// A measured point's; `None` where what it is ranked by is not measured.
    pub(super) fn measured(problem: &Problem, measured: &Measured<'_>) -> Option<Self> {
        let rates = problem.rates(measured)?;
        let outputs = match problem.rung() {
            SearchRung::Likelihood => measured.log_probs.to_vec(),
            SearchRung::Judgement => rates.iter().map(|rate| *rate as f32).collect(),
        };
        Some(Self { soft: rates.clone(), rates, outputs })
    }

    pub(super) fn log_probs(&self, problem: &Problem) -> Option<&[f32]> {
        (problem.rung() == SearchRung::Likelihood).then_some(self.outputs.as_slice())
    }

    /// Sets the soft rates.
    pub(super) fn soften(&mut self, problem: &Problem, softness: f64) {
        if let Some(log_probs) = self.log_probs(problem) {
            self.soft = problem.soft_rates(log_probs, softness);
        }
    }

    fn expected(problem: &Problem, outputs: &[f32], softness: f64) -> Self {
        let (rates, soft) = match problem.rung() {
            SearchRung::Likelihood => {
                (problem.rates_of(&problem.counts(outputs)), problem.soft_rates(outputs, softness))
            }
            SearchRung::Judgement => {
                let rates: Vec<f64> = outputs.iter().map(|rate| f64::from(*rate)).collect();
                (rates.clone(), rates)
            }
        };
        Self { rates, soft, outputs: Vec::new() }
    }
}

/// The kernel that makes what is known most probable.
pub(super) fn kernel(problem: &Problem, known: &[(&Point, &Record)]) -> Option<Kernel> {
    let (at, outputs) = conditions(problem, known)?;
    Some(gp::fit_some(&at, problem.space().dimensions(), &outputs))
}

/// Coordinates and outputs, a row per point.
fn conditions(problem: &Problem, known: &[(&Point, &Record)]) -> Option<(Vec<f64>, Mat<f64>)> {
    let (_, first) = known.first()?;
    let at = known.iter().flat_map(|(point, _)| problem.coordinates(point)).collect();
    let outputs =
        Mat::from_fn(known.len(), first.outputs.len(), |row, column| f64::from(known[row].1.outputs[column]));
    Some((at, outputs))
}

/// An interpolation of what is known.
pub(super) struct Forecast {
    gp: Gp,
    softness: f64,
}

impl Forecast {
    /// `known` in any fixed order; `None` where nothing is.
    pub(super) fn new(
        problem: &Problem,
        kernel: &Kernel,
        known: &[(&Point, &Record)],
        softness: f64,
    ) -> Option<Self> {
        let (at, outputs) = conditions(problem, known)?;
        Some(Self { gp: gp::conditioned(kernel, &at, &outputs, &[])?, softness })
    }

    /// What is expected at these points.
    pub(super) fn at(&self, problem: &Problem, points: &[&Point]) -> Vec<Record> {
        // On any thread and put together in order: threads change nothing.
        let chunks = points.par_chunks(CHUNK).map(|chunk| {
            let at: Vec<f64> = chunk.iter().flat_map(|point| problem.coordinates(point)).collect();
            let means = self.gp.means(&at);
            let outputs = |row: usize| -> Vec<f32> {
                (0..means.ncols()).map(|column| means[(row, column)] as f32).collect()
            };
            (0..chunk.len()).map(|row| Record::expected(problem, &outputs(row), self.softness)).collect()
        });
        chunks.collect::<Vec<Vec<Record>>>().into_iter().flatten().collect()
    }
}
