//! Kernels of binomial counts by marginal likelihood.

use faer::prelude::Solve as _;
use faer::{Mat, Side};

use super::{BinomialGp, BinomialKernel, CONSTANT, FACTOR, Sites};
use crate::gp::kernel::{Kernel, matern, matern_slope};
use crate::gp::minimise::minimise;

/// Lengths are kept between these, in coordinates that run from −1 to 1.
const LENGTHS: (f64, f64) = (0.1, 40.0);

/// Amplitudes are kept between these, in probits.
const AMPLITUDES: (f64, f64) = (0.01, 50.0);

/// What lengths and amplitudes are likely beforehand, and where the search for them starts: the median of a log-normal
/// distribution, and the deviation of its logarithm.
const USUAL: (f64, f64) = (2.0, 1.5);

/// The same for the amplitude of what a guess of the function leaves open: nothing, unless the counts tell otherwise.
const USUAL_BESIDE_GUESS: (f64, f64) = (0.03, 1.0);

/// Share of the variance that is no function of the coordinates: counts have noise enough, this steadies the arithmetic.
const NUGGET: f64 = 1e-4;

/// Rounds of linearising the counts.
const ROUNDS: usize = 2;

/// What a threshold's kernel is chosen by.
#[derive(Clone, Debug)]
pub struct Threshold {
    /// The latent function's mean beforehand, per point.
    pub means: Vec<f64>,
    /// A row per point, a column per covariate.
    pub covariates: Mat<f64>,
    /// Hits, of how many, per point.
    pub counts: Vec<(u32, u32)>,
}

impl Threshold {
    /// Of some points only.
    pub fn kept(&self, rows: &[usize]) -> Self {
        Self {
            means: rows.iter().map(|row| self.means[*row]).collect(),
            covariates: Mat::from_fn(rows.len(), self.covariates.ncols(), |row, column| {
                self.covariates[(rows[row], column)]
            }),
            counts: rows.iter().map(|row| self.counts[*row]).collect(),
        }
    }
}

/// Counts as normal observations near the mode: `z = f + ∇/W` with the variance `1/W`, less the mean.
struct Linearised {
    /// Covariances by the covariates.
    by_covariates: Mat<f64>,
    /// `W^½`.
    roots: Vec<f64>,
    /// `W^½ z`.
    scaled: Vec<f64>,
}

/// Kernels that make counts most probable: one per threshold, which share their lengths.
///
/// Maximises the marginal likelihood of the counts linearised around the mode (N. E. Breslow, D. G. Clayton, "Approximate
/// inference in generalized linear mixed models", 1993), by BFGS in the logarithms of lengths and amplitudes. A count near
/// none or all says little that way, as it should, and lengths are not bent by it.
pub fn fit(points: &[f64], dimensions: usize, thresholds: &[Threshold]) -> Vec<BinomialKernel> {
    let mut usual = vec![USUAL; dimensions];
    usual.extend(thresholds.iter().map(|threshold| match threshold.covariates.ncols() {
        0 => USUAL,
        _ => USUAL_BESIDE_GUESS,
    }));
    let mut parameters: Vec<f64> = usual.iter().map(|(median, _)| median.ln()).collect();
    let bounds: Vec<(f64, f64)> = (0..parameters.len())
        .map(|index| if index < dimensions { LENGTHS } else { AMPLITUDES })
        .map(|(low, high)| (low.ln(), high.ln()))
        .collect();
    for _ in 0..ROUNDS {
        let kernels = kernels(&parameters, dimensions);
        let modes =
            kernels.into_iter().zip(thresholds).map(|(kernel, Threshold { means, covariates, counts })| {
                let sites =
                    Sites { points: points.to_vec(), means: means.clone(), covariates: covariates.clone() };
                let gp = BinomialGp::new(kernel, sites, counts).ok()?;
                let by_covariates = faer::Scale(FACTOR) * (covariates * covariates.transpose());
                let scaled = |index: usize| {
                    gp.roots[index] * (gp.latent[index] - means[index]) + gp.gradient[index] / gp.roots[index]
                };
                Some(Linearised {
                    by_covariates,
                    scaled: (0..counts.len()).map(scaled).collect(),
                    roots: gp.roots,
                })
            });
        let Some(modes) = modes.collect::<Option<Vec<_>>>() else { break };
        parameters =
            minimise(|parameters| objective(points, &usual, &modes, parameters), &bounds, parameters);
    }
    kernels(&parameters, dimensions)
}

fn kernels(parameters: &[f64], dimensions: usize) -> Vec<BinomialKernel> {
    let lengths: Vec<f64> = parameters[..dimensions].iter().map(|log| log.exp()).collect();
    let of_amplitude = |log: &f64| BinomialKernel {
        kernel: Kernel { lengths: lengths.clone(), nugget: NUGGET },
        amplitude: log.exp(),
    };
    parameters[dimensions..].iter().map(of_amplitude).collect()
}

/// The negative log posterior density of the parameters and its gradient; `usual` tells what they are beforehand.
fn objective(
    points: &[f64],
    usual: &[(f64, f64)],
    thresholds: &[Linearised],
    parameters: &[f64],
) -> Option<(f64, Vec<f64>)> {
    let dimensions = parameters.len() - thresholds.len();
    let n = points.len() / dimensions;
    let lengths: Vec<f64> = parameters[..dimensions].iter().map(|log| log.exp()).collect();
    let scaled: Vec<f64> = points
        .chunks_exact(dimensions)
        .flat_map(|point| point.iter().zip(&lengths).map(|(x, length)| x / length))
        .collect();
    let point = |index: usize| &scaled[index * dimensions..(index + 1) * dimensions];
    let pairs = || (0..n).flat_map(|column| (column + 1..n).map(move |row| (row, column)));
    let squares: Vec<f64> = pairs()
        .map(|(row, column)| point(row).iter().zip(point(column)).map(|(x, y)| (x - y) * (x - y)).sum())
        .collect();
    let values: Vec<f64> = squares.iter().map(|square| matern(*square)).collect();
    let slopes: Vec<f64> = squares.into_iter().map(matern_slope).collect();

    let mut value = 0.0;
    let mut gradient = vec![0.0; parameters.len()];
    // Per pair, what its squared distance does to the value.
    let mut by_distance = vec![0.0; values.len()];
    for (threshold, linearised) in thresholds.iter().enumerate() {
        let variance = (2.0 * parameters[dimensions + threshold]).exp();
        let Linearised { by_covariates, roots, .. } = linearised;
        let mut steadied = Mat::zeros(n, n);
        for index in 0..n {
            steadied[(index, index)] = 1.0
                + roots[index]
                    * roots[index]
                    * (variance * (1.0 + NUGGET) + CONSTANT + by_covariates[(index, index)]);
        }
        for ((row, column), matern) in pairs().zip(&values) {
            let covariance =
                roots[row] * roots[column] * (variance * matern + CONSTANT + by_covariates[(row, column)]);
            steadied[(row, column)] = covariance;
            steadied[(column, row)] = covariance;
        }
        let factor = steadied.llt(Side::Lower).ok()?;
        let observed = Mat::from_fn(n, 1, |row, _| linearised.scaled[row]);
        let solved = factor.solve(&observed);
        let inverse = factor.solve(Mat::<f64>::identity(n, n));
        let log_determinant: f64 = (0..n).map(|index| factor.L()[(index, index)].ln()).sum::<f64>() * 2.0;
        let misfit: f64 = (0..n).map(|row| observed[(row, 0)] * solved[(row, 0)]).sum();
        value += 0.5 * (misfit + log_determinant);
        let weight = |row: usize, column: usize| {
            (inverse[(row, column)] - solved[(row, 0)] * solved[(column, 0)]) * roots[row] * roots[column]
        };
        let mut by_variance = 0.0;
        for index in 0..n {
            by_variance += 0.5 * weight(index, index) * (1.0 + NUGGET);
        }
        for (((row, column), matern), (by_distance, slope)) in
            pairs().zip(&values).zip(by_distance.iter_mut().zip(&slopes))
        {
            let weight = weight(row, column);
            // Twice one half, for the two triangles.
            by_variance += weight * matern;
            *by_distance += weight * variance * slope;
        }
        gradient[dimensions + threshold] += 2.0 * variance * by_variance;
    }
    for ((row, column), by_distance) in pairs().zip(&by_distance) {
        for (slope, (x, y)) in gradient.iter_mut().zip(point(row).iter().zip(point(column))) {
            *slope += by_distance * (x - y) * (x - y);
        }
    }
    for ((slope, log), (median, deviation)) in gradient.iter_mut().zip(parameters).zip(usual) {
        let far = (log - median.ln()) / deviation;
        value += 0.5 * far * far;
        *slope += far / deviation;
    }
    (value.is_finite() && gradient.iter().all(|slope| slope.is_finite())).then_some((value, gradient))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normal::cdf;

    #[test]
    fn the_gradient_is_the_derivative() {
        let points: Vec<f64> = (0..24).map(|i| (f64::from(i) * 1.7).sin()).collect();
        let linearised = |shift: f64| Linearised {
            by_covariates: Mat::from_fn(12, 12, |row, column| {
                shift * (row as f64).cos() * (column as f64).cos()
            }),
            roots: (0..12).map(|i| 0.5 + (f64::from(i) * 0.9).cos().abs()).collect(),
            scaled: (0..12).map(|i| (f64::from(i) + shift).sin()).collect(),
        };
        let thresholds = [linearised(0.0), linearised(1.3)];
        let usual = [(1.6, 1.5), (1.6, 1.5), (0.4, 0.5), (1.2, 1.0)];
        let at = [0.3, -0.2, 0.4, -0.5];
        let (_, gradient) = objective(&points, &usual, &thresholds, &at).expect("positive definite");
        for (i, slope) in gradient.iter().enumerate() {
            let value = |change: f64| {
                let mut moved = at;
                moved[i] += change;
                objective(&points, &usual, &thresholds, &moved).expect("positive definite").0
            };
            let numeric = (value(1e-5) - value(-1e-5)) / 2e-5;
            assert!((numeric - slope).abs() < 1e-4 * (1.0 + slope.abs()), "{i}: {numeric} {slope}");
        }
    }

    #[test]
    fn a_coefficient_without_effect_gets_the_longer_length() {
        let points: Vec<f64> =
            (0..80).flat_map(|i| [(f64::from(i) * 0.37).sin(), (f64::from(i) * 0.71).cos()]).collect();
        let counts: Vec<(u32, u32)> = points
            .chunks_exact(2)
            .map(|x| ((40.0 * cdf(2.0 * (3.0 * x[0]).sin())).round() as u32, 40))
            .collect();
        let fitted = fit(
            &points,
            2,
            &[Threshold { means: vec![0.0; counts.len()], covariates: Mat::zeros(counts.len(), 0), counts }],
        );
        let lengths = &fitted[0].kernel.lengths;
        assert!(lengths[1] > 4.0 * lengths[0], "{lengths:?}");
    }
}
