//! Kernel parameters by marginal likelihood.

use faer::prelude::Solve as _;
use faer::{Mat, Side};

use super::kernel::{Kernel, matern, matern_slope};
use super::minimise::minimise;

/// Lengths are kept between these, in coordinates that run from −1 to 1.
const LENGTHS: (f64, f64) = (0.1, 40.0);

/// The nugget is kept between these, relative to the kernel's variance.
const NUGGETS: (f64, f64) = (1e-8, 2.0);

/// Where the search for lengths and the nugget starts.
const START: (f64, f64) = (2.0, 1e-5);

/// Weight of the prior on the logarithms of lengths: outputs are correlated, so that many say little more than one.
const PRIOR: f64 = 0.01;

/// [`fit_some`] takes at most so many points: more would cost time and change little.
const MOST_POINTS: usize = 160;

/// The problem of choosing a kernel: the points, and the products of their outputs.
struct Objective<'a> {
    points: &'a [f64],
    dimensions: usize,
    count: usize,
    outputs: f64,
    /// `Z Zᵀ`: all that the likelihood needs of the outputs, however many there are.
    products: &'a Mat<f64>,
}

/// The kernel that makes the outputs `centred` (a row per point, a column per output) most probable.
///
/// Minimises `n/2 · log tr(K⁻¹ Z Zᵀ) + 1/2 · log |K|`, the negative log marginal likelihood per output with the
/// variance profiled out, by BFGS in the logarithms of the parameters, from one fixed start.
pub fn fit(points: &[f64], dimensions: usize, centred: &Mat<f64>) -> Kernel {
    let count = centred.nrows();
    let products = centred * centred.transpose();
    let objective =
        Objective { points, dimensions, count, outputs: centred.ncols() as f64, products: &products };
    let mut start = vec![START.0.ln(); dimensions];
    start.push(START.1.ln());
    let bounds: Vec<(f64, f64)> = (0..=dimensions).map(|index| bounds(index, dimensions)).collect();
    kernel_of(&minimise(|parameters| objective.at(parameters), &bounds, start))
}

/// At most so many of the first `count` numbers, spread over them evenly.
///
/// A whole stride would fall in step with a sorted lattice: all it takes could agree in a coordinate.
pub(crate) fn spread(count: usize, most: usize) -> impl Iterator<Item = usize> {
    let kept = count.min(most);
    (0..kept).map(move |place| place * count / kept)
}

/// As [`fit`], of outputs that are not centred; by some of the points where there are many.
pub(crate) fn fit_some(points: &[f64], dimensions: usize, outputs: &Mat<f64>) -> Kernel {
    let kept: Vec<usize> = spread(outputs.nrows(), MOST_POINTS).collect();
    let points: Vec<f64> =
        kept.iter().flat_map(|row| &points[row * dimensions..(row + 1) * dimensions]).copied().collect();
    let mut centred = Mat::from_fn(kept.len(), outputs.ncols(), |row, column| outputs[(kept[row], column)]);
    for column in 0..centred.ncols() {
        let values = centred.col_as_slice_mut(column);
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        values.iter_mut().for_each(|value| *value -= mean);
    }
    fit(&points, dimensions, &centred)
}

fn kernel_of(parameters: &[f64]) -> Kernel {
    let (nugget, lengths) = parameters.split_last().expect("a nugget is always there");
    Kernel { lengths: lengths.iter().map(|log| log.exp()).collect(), nugget: nugget.exp() }
}

fn bounds(index: usize, dimensions: usize) -> (f64, f64) {
    let (low, high) = if index < dimensions { LENGTHS } else { NUGGETS };
    (low.ln(), high.ln())
}

impl Objective<'_> {
    /// The objective and its gradient; `None` where the covariances have no Cholesky factor.
    fn at(&self, parameters: &[f64]) -> Option<(f64, Vec<f64>)> {
        let (n, dimensions) = (self.count, self.dimensions);
        let kernel = kernel_of(parameters);
        let scaled: Vec<f64> = self
            .points
            .chunks_exact(dimensions)
            .flat_map(|point| point.iter().zip(&kernel.lengths).map(|(x, length)| x / length))
            .collect();
        let point = |index: usize| &scaled[index * dimensions..(index + 1) * dimensions];
        let mut covariances = Mat::zeros(n, n);
        let mut squares = Vec::with_capacity(n * (n - 1) / 2);
        for column in 0..n {
            covariances[(column, column)] = 1.0 + kernel.nugget;
            for row in column + 1..n {
                squares
                    .push(point(row).iter().zip(point(column)).map(|(x, y)| (x - y) * (x - y)).sum::<f64>());
            }
        }
        let (mut values, mut slopes) = (squares.clone(), squares);
        values.iter_mut().for_each(|value| *value = matern(*value));
        slopes.iter_mut().for_each(|value| *value = matern_slope(*value));
        let mut pair = 0;
        for column in 0..n {
            for row in column + 1..n {
                covariances[(row, column)] = values[pair];
                covariances[(column, row)] = values[pair];
                pair += 1;
            }
        }
        let factor = covariances.llt(Side::Lower).ok()?;
        let log_determinant: f64 = (0..n).map(|i| factor.L()[(i, i)].ln()).sum::<f64>() * 2.0;
        let inverse = factor.solve(Mat::<f64>::identity(n, n));
        let explained = &inverse * self.products;
        let trace: f64 = (0..n).map(|i| explained[(i, i)]).sum();
        if trace.is_nan() || trace <= 0.0 {
            return None;
        }
        let both = &explained * &inverse;
        let weight = n as f64 / trace;
        let weights = |row: usize, column: usize| inverse[(row, column)] - both[(row, column)] * weight;

        let centre = START.0.ln();
        let logs = &parameters[..dimensions];
        let prior: f64 = logs.iter().map(|log| (log - centre).powi(2)).sum::<f64>() * PRIOR * n as f64 / 20.0;
        let value = 0.5 * (n as f64 * (trace / (n as f64 * self.outputs)).ln() + log_determinant) + prior;
        let mut gradient = vec![0.0; dimensions + 1];
        let mut pair = 0;
        for column in 0..n {
            gradient[dimensions] += 0.5 * kernel.nugget * weights(column, column);
            for row in column + 1..n {
                // Twice one half, for the two triangles.
                let by_distance = weights(row, column) * slopes[pair];
                for (slope, (x, y)) in gradient.iter_mut().zip(point(row).iter().zip(point(column))) {
                    *slope += by_distance * (x - y) * (x - y);
                }
                pair += 1;
            }
        }
        for (slope, log) in gradient.iter_mut().zip(logs) {
            *slope += 2.0 * PRIOR * n as f64 / 20.0 * (log - centre);
        }
        (value.is_finite() && gradient.iter().all(|slope| slope.is_finite())).then_some((value, gradient))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_of_a_sorted_lattice_differ_in_every_coordinate() {
        // Eight coordinates of three values, the last running fastest.
        for axis in 0..8 {
            let values = spread(6561, MOST_POINTS).map(|row| row / 3_usize.pow(axis) % 3);
            assert_eq!(values.collect::<std::collections::BTreeSet<_>>().len(), 3, "{axis}");
        }
        assert!(spread(100, MOST_POINTS).eq(0..100));
        assert_eq!(spread(0, MOST_POINTS).count(), 0);
    }

    #[test]
    fn the_gradient_is_the_derivative() {
        let points: Vec<f64> = (0..24).map(|i| (f64::from(i) * 1.7).sin()).collect();
        let outputs = Mat::from_fn(12, 5, |i, j| (points[2 * i] * (j + 1) as f64 + points[2 * i + 1]).cos());
        let products = &outputs * outputs.transpose();
        let objective =
            Objective { points: &points, dimensions: 2, count: 12, outputs: 5.0, products: &products };
        let at = [0.3, -0.2, -4.0];
        let (_, gradient) = objective.at(&at).expect("positive definite");
        for (i, slope) in gradient.iter().enumerate() {
            let value = |change: f64| {
                let mut moved = at;
                moved[i] += change;
                objective.at(&moved).expect("positive definite").0
            };
            let numeric = (value(1e-5) - value(-1e-5)) / 2e-5;
            assert!((numeric - slope).abs() < 1e-4 * (1.0 + slope.abs()), "{i}: {numeric} {slope}");
        }
    }
}
