//! A Gaussian process seen through binomial counts.
//!
//! `count ~ Binomial(n, Φ(f))`, `f` a Gaussian process; its posterior by Laplace's approximation
//! (C. E. Rasmussen, C. K. I. Williams, "Gaussian Processes for Machine Learning", 2006, section 3.4).

mod fit;

use faer::linalg::triangular_solve::{solve_lower_triangular_in_place, solve_upper_triangular_in_place};
use faer::prelude::Solve as _;
use faer::{Mat, Par, Side};

use super::{GpError, Kernel};
use crate::normal::{cdf, density};

pub use fit::{Threshold, fit};

/// What is known of a latent function beforehand: `amplitude²` times the kernel, and an unknown constant.
#[derive(Clone, Debug, PartialEq)]
pub struct BinomialKernel {
    /// Its nugget only steadies the arithmetic.
    pub kernel: Kernel,
    /// The latent function's deviation from its constant.
    pub amplitude: f64,
}

/// Variance of the latent function's constant, whose mean is zero: rates from 1 in 10,000 on are likely.
const CONSTANT: f64 = 4.0;

/// Variance of a covariate's factor, whose mean is zero.
const FACTOR: f64 = 0.04;

/// Where a latent function is asked for.
#[derive(Clone, Debug)]
pub struct Sites {
    /// Coordinates, a point after another.
    pub points: Vec<f64>,
    /// The function's mean beforehand, but for an unknown constant.
    pub means: Vec<f64>,
    /// What the function may be a multiple of, but for a Gaussian process: a row per point, a column per covariate (often
    /// none).
    pub covariates: Mat<f64>,
}

impl Sites {
    /// Points (flat) without covariates.
    pub fn plain(points: Vec<f64>, dimensions: usize) -> Self {
        let rows = points.len() / dimensions.max(1);
        Self { points, means: vec![0.0; rows], covariates: Mat::zeros(rows, 0) }
    }
}

/// A posterior over a latent function whose Φ is a probability.
#[derive(Clone, Debug)]
pub struct BinomialGp {
    kernel: BinomialKernel,
    sites: Sites,
    /// The latent function at the mode.
    latent: Vec<f64>,
    /// The likelihood's gradient there.
    gradient: Vec<f64>,
    /// Square roots of the likelihood's negative curvatures.
    roots: Vec<f64>,
    /// Cholesky factor of `I + W^½ K W^½`.
    factor: Mat<f64>,
}

/// Draws of a latent function: what is needed to tell them anywhere.
#[derive(Clone, Debug)]
pub struct LatentDraws {
    /// Cholesky factor of the measured points' covariances.
    prior: Mat<f64>,
    /// `K⁻¹ f`, a row per measured point, a column per draw.
    weights: Mat<f64>,
}

const NEWTON_STEPS: usize = 50;

impl BinomialKernel {
    /// Covariances of the latent function, a row per site of `left`, without the nugget.
    fn between(&self, left: &Sites, right: &Sites) -> Mat<f64> {
        self.scaled(self.kernel.between(&left.points, &right.points), left, right)
    }

    fn within(&self, sites: &Sites) -> Mat<f64> {
        self.scaled(self.kernel.within(&sites.points), sites, sites)
    }

    fn scaled(&self, mut covariances: Mat<f64>, left: &Sites, right: &Sites) -> Mat<f64> {
        let scale = self.amplitude * self.amplitude;
        for column in 0..covariances.ncols() {
            covariances
                .col_as_slice_mut(column)
                .iter_mut()
                .for_each(|value| *value = scale * *value + CONSTANT);
        }
        if left.covariates.ncols() > 0 {
            covariances += faer::Scale(FACTOR) * (&left.covariates * right.covariates.transpose());
        }
        covariances
    }

    /// The latent function's variance at every site.
    fn variances(&self, sites: &Sites) -> impl Iterator<Item = f64> {
        let scale = self.amplitude * self.amplitude;
        sites.covariates.row_iter().map(move |row| scale + CONSTANT + FACTOR * row.squared_norm_l2())
    }
}

impl BinomialGp {
    /// Conditions on `counts` (hits, of how many) at `sites`.
    ///
    /// # Errors
    /// When the shapes do not fit, or the covariances are not positive definite.
    pub fn new(kernel: BinomialKernel, sites: Sites, counts: &[(u32, u32)]) -> Result<Self, GpError> {
        let n = counts.len();
        let dimensions = kernel.kernel.lengths.len();
        if n == 0
            || sites.points.len() != n * dimensions
            || sites.covariates.nrows() != n
            || sites.means.len() != n
        {
            return Err(GpError::Shape { points: sites.points.len() / dimensions.max(1), outputs: n });
        }
        let covariances = kernel.within(&sites);
        let mut latent = sites.means.clone();
        let (mut gradient, mut roots) = (vec![0.0; n], vec![0.0; n]);
        let mut factor = Mat::identity(n, n);
        for _ in 0..NEWTON_STEPS {
            for (index, (count, of)) in counts.iter().enumerate() {
                let (slope, curvature) = slopes(latent[index], *count, *of);
                gradient[index] = slope;
                roots[index] = curvature.sqrt();
            }
            let steadied = Mat::from_fn(n, n, |row, column| {
                roots[row] * covariances[(row, column)] * roots[column]
                    + if row == column { 1.0 } else { 0.0 }
            });
            let decomposed = steadied.llt(Side::Lower).map_err(|_| GpError::NotPositiveDefinite(n))?;
            // b = W (f − m) + ∇; a = b − W^½ B⁻¹ W^½ K b; f = m + K a.
            let away = |row: usize| latent[row] - sites.means[row];
            let b = Mat::from_fn(n, 1, |row, _| roots[row] * roots[row] * away(row) + gradient[row]);
            let mut inner = &covariances * &b;
            (0..n).for_each(|row| inner[(row, 0)] *= roots[row]);
            let solved = decomposed.solve(&inner);
            let a = Mat::from_fn(n, 1, |row, _| b[(row, 0)] - roots[row] * solved[(row, 0)]);
            let moved = &covariances * &a;
            let mut change = 0.0f64;
            for row in 0..n {
                // A step of at most 2 deviations: the mode is never further from where the counts put it.
                let step = (sites.means[row] + moved[(row, 0)] - latent[row]).clamp(-2.0, 2.0);
                latent[row] += step;
                change = change.max(step.abs());
            }
            factor = decomposed.L().to_owned();
            // The next step would be about its square; where the mode is now, `a` is the gradient.
            if change < 1e-6 {
                gradient = a.col_as_slice(0).to_vec();
                break;
            }
        }
        if !latent.iter().all(|value| value.is_finite()) {
            return Err(GpError::NotPositiveDefinite(n));
        }
        Ok(Self { kernel, sites, latent, gradient, roots, factor })
    }

    /// Means and deviations of the latent function at `sites`.
    #[cfg(test)]
    fn predict(&self, sites: &Sites) -> (Vec<f64>, Vec<f64>) {
        let mut covariances = self.kernel.between(&self.sites, sites);
        let mut means = sites.means.clone();
        for (column, mean) in means.iter_mut().enumerate() {
            let values = covariances.col_as_slice_mut(column);
            for ((value, gradient), root) in values.iter_mut().zip(&self.gradient).zip(&self.roots) {
                *mean += *value * gradient;
                *value *= root;
            }
        }
        solve_lower_triangular_in_place(self.factor.as_ref(), covariances.as_mut(), Par::Seq);
        (means, self.left_of_variance(sites, &covariances))
    }

    /// Joint draws of the latent function from two standard normal numbers per measured point and draw.
    ///
    /// By Matheron's rule: with `f₀ = L ξ` from the prior and `e = W^{-½} η` the counts' noise, `f₀ − K (K + W⁻¹)⁻¹ (f₀ + e)`
    /// plus the mode is a draw from the posterior (J. T. Wilson et al., "Efficiently sampling functions from Gaussian process
    /// posteriors", 2020).
    ///
    /// # Errors
    /// When the covariances are not positive definite.
    pub fn draws(&self, normals: &[(Vec<f64>, Vec<f64>)]) -> Result<LatentDraws, GpError> {
        let n = self.latent.len();
        let prior = self
            .kernel
            .within(&self.sites)
            .llt(Side::Lower)
            .map_err(|_| GpError::NotPositiveDefinite(n))?
            .L()
            .to_owned();
        let mut weights = Mat::from_fn(n, normals.len(), |row, draw| normals[draw].0[row]);
        let mut pulled = &prior * &weights;
        for (draw, (_, noise)) in normals.iter().enumerate() {
            let values = pulled.col_as_slice_mut(draw).iter_mut().zip(&self.roots).zip(noise);
            values.for_each(|((value, root), noise)| *value = root * *value + noise);
        }
        solve_lower_triangular_in_place(self.factor.as_ref(), pulled.as_mut(), Par::Seq);
        solve_upper_triangular_in_place(self.factor.transpose(), pulled.as_mut(), Par::Seq);
        solve_upper_triangular_in_place(prior.transpose(), weights.as_mut(), Par::Seq);
        for draw in 0..normals.len() {
            let values = weights.col_as_slice_mut(draw).iter_mut().zip(pulled.col_as_slice(draw));
            for ((weight, pulled), (gradient, root)) in values.zip(self.gradient.iter().zip(&self.roots)) {
                // K⁻¹ times what the mode is beside the mean is the gradient.
                *weight += gradient - root * pulled;
            }
        }
        Ok(LatentDraws { prior, weights })
    }

    /// The draws at `sites`, a row per site, as far as the measured ones tell; and per site the deviation of what
    /// they leave open.
    pub fn drawn(&self, draws: &LatentDraws, sites: &Sites) -> (Mat<f64>, Vec<f64>) {
        let mut covariances = self.kernel.between(&self.sites, sites);
        let mut values = covariances.transpose() * &draws.weights;
        for draw in 0..values.ncols() {
            values
                .col_as_slice_mut(draw)
                .iter_mut()
                .zip(&sites.means)
                .for_each(|(value, mean)| *value += mean);
        }
        solve_lower_triangular_in_place(draws.prior.as_ref(), covariances.as_mut(), Par::Seq);
        (values, self.left_of_variance(sites, &covariances))
    }

    /// Deviations that are left after what the columns' squares explain.
    fn left_of_variance(&self, sites: &Sites, explained: &Mat<f64>) -> Vec<f64> {
        let left = self.kernel.variances(sites).enumerate().map(|(column, variance)| {
            let explained: f64 = explained.col_as_slice(column).iter().map(|value| value * value).sum();
            (variance - explained).max(0.0).sqrt()
        });
        left.collect()
    }
}

/// Gradient and negative curvature of `log Binomial(count; n, Φ(f))` by `f`.
fn slopes(latent: f64, count: u32, n: u32) -> (f64, f64) {
    let (hits, misses) = (f64::from(count), f64::from(n - count.min(n)));
    // The ratio of density to tail stays finite far out, where both vanish.
    let ratio = |x: f64| if x < -30.0 { -x } else { density(x) / cdf(x) };
    let (up, down) = (ratio(latent), ratio(-latent));
    let curvature = hits * up * (up + latent) + misses * down * (down - latent);
    (hits * up - misses * down, curvature.max(1e-10))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{normal, stream};

    #[test]
    fn slopes_are_the_derivatives() {
        let log_likelihood = |f: f64| 7.0 * cdf(f).ln() + 5.0 * cdf(-f).ln();
        for f in [-1.5, 0.0, 0.4, 2.0] {
            let step = 1e-4;
            let (slope, curvature) = slopes(f, 7, 12);
            let (up, at, down) = (log_likelihood(f + step), log_likelihood(f), log_likelihood(f - step));
            assert!(((up - down) / (2.0 * step) - slope).abs() < 1e-5);
            assert!(((up - 2.0 * at + down) / (step * step) + curvature).abs() < 1e-4);
        }
    }

    /// One point: the mode solves a scalar equation, found here by bisection.
    #[test]
    fn the_mode_of_one_point_is_the_scalar_solution() {
        let kernel = BinomialKernel { kernel: Kernel { lengths: vec![1.0], nugget: 0.0 }, amplitude: 1.3 };
        let gp = BinomialGp::new(kernel, Sites::plain(vec![0.0], 1), &[(9, 10)]).expect("one point");
        let variance = 1.3 * 1.3 + CONSTANT;
        let slope = |f: f64| slopes(f, 9, 10).0 - f / variance;
        let (mut low, mut high) = (-5.0, 5.0);
        for _ in 0..60 {
            let middle = 0.5 * (low + high);
            if slope(middle) > 0.0 { low = middle } else { high = middle }
        }
        let (means, deviations) = gp.predict(&Sites::plain(vec![0.0], 1));
        assert!((means[0] - low).abs() < 1e-6, "{} {low}", means[0]);
        let precision = 1.0 / variance + slopes(low, 9, 10).1;
        assert!((deviations[0] - precision.sqrt().recip()).abs() < 1e-6);
    }

    /// What two sites with the same coordinates differ in is their mean and their covariate; counts go further
    /// than the guess.
    #[test]
    fn a_guess_is_followed_as_far_as_the_counts_tell() {
        let kernel = BinomialKernel { kernel: Kernel { lengths: vec![1.0], nugget: 1e-6 }, amplitude: 0.1 };
        let sites = |points: Vec<f64>, covariates: &[f64]| Sites {
            covariates: Mat::from_fn(points.len(), 1, |row, _| covariates[row]),
            means: covariates.to_vec(),
            points,
        };
        let measured = sites(vec![-0.6, -0.2, 0.2, 0.6], &[-1.05, 1.05, -0.35, 0.35]);
        let gp = BinomialGp::new(kernel, measured, &[(30, 400), (370, 400), (120, 400), (280, 400)])
            .expect("distinct points");
        let (means, _) = gp.predict(&sites(vec![0.0, 0.0], &[-0.7, 0.7]));
        assert!((cdf(means[0]) - 0.16).abs() < 0.03 && (cdf(means[1]) - 0.84).abs() < 0.03, "{means:?}");
    }

    #[test]
    fn draws_have_the_posteriors_mean_and_deviation() {
        let kernel = BinomialKernel { kernel: Kernel { lengths: vec![0.7], nugget: 1e-6 }, amplitude: 1.5 };
        let sites = |points: Vec<f64>| {
            let covariates = Mat::from_fn(points.len(), 1, |row, _| points[row].sin());
            Sites { means: points.iter().map(|x| 0.3 * x).collect(), points, covariates }
        };
        let points = vec![-0.9, -0.2, 0.1, 0.8];
        let gp = BinomialGp::new(kernel, sites(points.clone()), &[(1, 20), (9, 20), (13, 20), (19, 20)])
            .expect("distinct points");
        let mut generator = stream(1, "draws", 0);
        let mut numbers = || -> Vec<f64> { (0..points.len()).map(|_| normal(&mut generator)).collect() };
        let normals: Vec<(Vec<f64>, Vec<f64>)> = (0..4000).map(|_| (numbers(), numbers())).collect();
        let draws = gp.draws(&normals).expect("distinct points");
        let asked = sites(vec![-0.5, 0.1, 0.5, 1.4]);
        let (means, deviations) = gp.predict(&asked);
        let (values, left) = gp.drawn(&draws, &asked);
        for (row, (mean, deviation)) in means.iter().zip(deviations).enumerate() {
            let count = values.ncols() as f64;
            let average = (0..values.ncols()).map(|draw| values[(row, draw)]).sum::<f64>() / count;
            let spread =
                (0..values.ncols()).map(|draw| (values[(row, draw)] - average).powi(2)).sum::<f64>() / count;
            let whole = (spread + left[row] * left[row]).sqrt();
            assert!(
                (average - mean).abs() < 5.0 * deviation / count.sqrt() + 1e-3,
                "{row}: {average} {mean}"
            );
            assert!((whole / deviation - 1.0).abs() < 0.05, "{row}: {whole} {deviation}");
        }
    }
}
