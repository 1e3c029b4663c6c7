//! The Matérn-5/2 kernel with a length per coefficient.

use faer::Mat;

/// √5, to the last bit of an f64.
const SQRT_5: f64 = 2.236_067_977_499_79;

/// A Matérn-5/2 kernel of unit variance and a nugget on the diagonal.
///
/// `k(x, y) = (1 + √5 r + 5 r²/3) exp(−√5 r)` with `r² = Σ ((xᵢ − yᵢ) / lengthᵢ)²`
/// (C. E. Rasmussen, C. K. I. Williams, "Gaussian Processes for Machine Learning", 2006, equation 4.17).
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// Length per coefficient, in the coordinates' units; above 0.
    pub lengths: Vec<f64>,
    /// Variance of what is no function of the coordinates, relative to the kernel's.
    pub nugget: f64,
}

/// The kernel's value at a scaled squared distance.
pub(super) fn matern(squared: f64) -> f64 {
    let r = SQRT_5 * squared.sqrt();
    (1.0 + r + r * r / 3.0) * exp_of_negative(r)
}

/// The kernel's derivative by the logarithm of one length is this, times that coordinate's share of the squared distance.
pub(super) fn matern_slope(squared: f64) -> f64 {
    let r = SQRT_5 * squared.sqrt();
    5.0 / 3.0 * (1.0 + r) * exp_of_negative(r)
}

/// `exp(−x)` for `x ≥ 0`, to a relative 1e-14; without branches, so that loops over it are vectorised.
///
/// The argument is split into a multiple of ln 2 and a rest within ±ln 2 / 2, whose exponential is a Taylor polynomial.
#[inline]
pub(crate) fn exp_of_negative(x: f64) -> f64 {
    // 1.5 · 2^52: adding it rounds to a whole number, which then stands in the low bits.
    const ROUNDER: f64 = 6_755_399_441_055_744.0;
    let x = -x.min(700.0);
    let shifted = x * std::f64::consts::LOG2_E + ROUNDER;
    let whole = shifted - ROUNDER;
    let rest = (x - whole * 0.693_147_180_369_123_8) - whole * 1.908_214_929_270_587_7e-10;
    let mut sum = 1.0 / 479_001_600.0;
    for factor in [
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        sum = sum * rest + factor;
    }
    let exponent = shifted.to_bits().wrapping_add(1023) << 52;
    sum * f64::from_bits(exponent)
}

impl Kernel {
    /// Covariances between points (rows of `left`) and points (rows of `right`), without the nugget.
    ///
    /// Both are flat, `lengths.len()` coordinates a point; the result has a row per point of `left`.
    pub fn between(&self, left: &[f64], right: &[f64]) -> Mat<f64> {
        let dimensions = self.lengths.len();
        let scaled = |points: &[f64]| -> Vec<f64> {
            points
                .chunks_exact(dimensions)
                .flat_map(|point| point.iter().zip(&self.lengths).map(|(x, length)| x / length))
                .collect()
        };
        let (left, right) = (scaled(left), scaled(right));
        let rows = left.len() / dimensions;
        let mut covariances = Mat::zeros(rows, right.len() / dimensions);
        // Columns of coordinates, so that the innermost loop runs over points.
        let columns: Vec<Vec<f64>> =
            (0..dimensions).map(|i| left.iter().skip(i).step_by(dimensions).copied().collect()).collect();
        for (index, point) in right.chunks_exact(dimensions).enumerate() {
            let column = covariances.col_as_slice_mut(index);
            for (coordinates, at) in columns.iter().zip(point) {
                for (squared, x) in column.iter_mut().zip(coordinates) {
                    *squared += (x - at) * (x - at);
                }
            }
            for value in column.iter_mut() {
                *value = matern(*value);
            }
        }
        covariances
    }

    /// Covariances of points with each other, the nugget on the diagonal.
    pub fn within(&self, points: &[f64]) -> Mat<f64> {
        let mut covariances = self.between(points, points);
        for index in 0..covariances.nrows() {
            covariances[(index, index)] = 1.0 + self.nugget;
        }
        covariances
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fast_exponential_is_the_exponential() {
        for step in 0..70_000 {
            let x = f64::from(step) * 0.01;
            let (fast, exact) = (exp_of_negative(x), (-x).exp());
            assert!((fast - exact).abs() <= 1e-14 * exact, "{x}: {fast} {exact}");
        }
        assert!(exp_of_negative(1e9) < 1e-300);
    }

    #[test]
    fn the_slope_is_the_derivative_by_a_logarithm_of_a_length() {
        let step = 1e-6;
        for distance in [0.1f64, 0.7, 2.0] {
            let at = |log_length: f64| matern((distance / log_length.exp()).powi(2));
            let numeric = (at(step) - at(-step)) / (2.0 * step);
            assert!((numeric - matern_slope(distance * distance) * distance * distance).abs() < 1e-8);
        }
    }
}
