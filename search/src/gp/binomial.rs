//! A Gaussian process seen through binomial counts.
//!
//! `count ~ Binomial(n, Φ(f))`, `f` a Gaussian process; its posterior by Laplace's approximation
//! (C. E. Rasmussen, C. K. I. Williams, "Gaussian Processes for Machine Learning", 2006, section 3.4).

use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::prelude::Solve as _;
use faer::{Mat, Par, Side};

use super::{GpError, Kernel};
use crate::normal::{cdf, density, quantile};

/// A posterior over a latent function whose Φ is a probability.
#[derive(Clone, Debug)]
pub struct BinomialGp {
    kernel: Kernel,
    points: Vec<f64>,
    mean: f64,
    amplitude: f64,
    /// The likelihood's gradient at the mode.
    gradient: Vec<f64>,
    /// Square roots of the likelihood's negative curvatures.
    roots: Vec<f64>,
    /// Cholesky factor of `I + W^½ K W^½`.
    factor: Mat<f64>,
}

const NEWTON_STEPS: usize = 50;

/// The transform of a count that is finite at 0 and n: `Φ⁻¹((count + ½) / (n + 1))`.
pub fn empirical_probit(count: u32, n: u32) -> f64 {
    quantile((f64::from(count) + 0.5) / (f64::from(n) + 1.0))
}

impl BinomialGp {
    /// Conditions on `counts` of `n` at `points` (flat). The latent function has the constant `mean` and the variance
    /// `amplitude²` times the kernel's, whose nugget only steadies the arithmetic.
    ///
    /// # Errors
    /// When the shapes do not fit, or the covariances are not positive definite.
    pub fn new(
        kernel: Kernel,
        mean: f64,
        amplitude: f64,
        points: &[f64],
        counts: &[(u32, u32)],
    ) -> Result<Self, GpError> {
        let n = counts.len();
        if n == 0 || points.len() != n * kernel.lengths.len() {
            return Err(GpError::Shape { points: points.len() / kernel.lengths.len().max(1), outputs: n });
        }
        let mut covariances = kernel.within(points);
        for column in 0..n {
            covariances.col_as_slice_mut(column).iter_mut().for_each(|value| *value *= amplitude * amplitude);
        }
        let mut latent = vec![mean; n];
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
            let b =
                Mat::from_fn(n, 1, |row, _| roots[row] * roots[row] * (latent[row] - mean) + gradient[row]);
            let mut inner = &covariances * &b;
            (0..n).for_each(|row| inner[(row, 0)] *= roots[row]);
            let solved = decomposed.solve(&inner);
            let a = Mat::from_fn(n, 1, |row, _| b[(row, 0)] - roots[row] * solved[(row, 0)]);
            let moved = &covariances * &a;
            let mut change = 0.0f64;
            for row in 0..n {
                // A step of at most 2 deviations: the mode is never further from where the counts put it.
                let step = (mean + moved[(row, 0)] - latent[row]).clamp(-2.0, 2.0);
                latent[row] += step;
                change = change.max(step.abs());
            }
            factor = decomposed.L().to_owned();
            if change < 1e-8 {
                break;
            }
        }
        if !latent.iter().all(|value| value.is_finite()) {
            return Err(GpError::NotPositiveDefinite(n));
        }
        Ok(Self { kernel, points: points.to_vec(), mean, amplitude, gradient, roots, factor })
    }

    /// Means and deviations of the latent function at `points` (flat).
    pub fn predict(&self, points: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let scale = self.amplitude * self.amplitude;
        let mut covariances = self.kernel.between(&self.points, points);
        let mut means = vec![self.mean; covariances.ncols()];
        let mut before = vec![scale; covariances.ncols()];
        for (column, mean) in means.iter_mut().enumerate() {
            let values = covariances.col_as_slice_mut(column);
            for ((value, gradient), root) in values.iter_mut().zip(&self.gradient).zip(&self.roots) {
                *mean += scale * *value * gradient;
                *value *= scale * root;
            }
        }
        solve_lower_triangular_in_place(self.factor.as_ref(), covariances.as_mut(), Par::Seq);
        for (column, variance) in before.iter_mut().enumerate() {
            *variance -= covariances.col_as_slice(column).iter().map(|value| value * value).sum::<f64>();
        }
        (means, before.into_iter().map(|variance| variance.max(0.0).sqrt()).collect())
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
        let kernel = Kernel { lengths: vec![1.0], nugget: 0.0 };
        let gp = BinomialGp::new(kernel, 0.2, 1.3, &[0.0], &[(9, 10)]).expect("one point");
        let slope = |f: f64| slopes(f, 9, 10).0 - (f - 0.2) / (1.3 * 1.3);
        let (mut low, mut high) = (-5.0, 5.0);
        for _ in 0..60 {
            let middle = 0.5 * (low + high);
            if slope(middle) > 0.0 { low = middle } else { high = middle }
        }
        let (means, deviations) = gp.predict(&[0.0]);
        assert!((means[0] - low).abs() < 1e-6, "{} {low}", means[0]);
        let precision = 1.0 / (1.3 * 1.3) + slopes(low, 9, 10).1;
        assert!((deviations[0] - precision.sqrt().recip()).abs() < 1e-6);
    }
}
