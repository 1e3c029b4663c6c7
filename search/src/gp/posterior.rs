//! What a Gaussian process says of points that are not measured.

use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::{Mat, Par, Side};

use super::Kernel;

/// A Gaussian process conditioned on outputs at points.
#[derive(Clone, Debug)]
pub struct Gp {
    kernel: Kernel,
    /// Flat: the outputs' points first, then those that only take variance away.
    points: Vec<f64>,
    measured: usize,
    /// Lower Cholesky factor of the covariances of all points.
    factor: Mat<f64>,
    /// Some of the points and their factor, where there are many: they bound the deviations from above at little cost.
    scouts: Option<Scouts>,
    /// `K⁻¹ Z`, a row per measured point, a column per output.
    weights: Mat<f64>,
    /// `L⁻¹ Z / √n`: its Gram matrix is the outputs' covariance.
    residuals: Mat<f64>,
    /// Each output's mean.
    means: Vec<f64>,
}

#[derive(Clone, Debug)]
struct Scouts {
    /// Places among all points.
    places: Vec<usize>,
    factor: Mat<f64>,
}

/// With more points than this, rough predictions are made from some of them.
const MOST_SCOUTS: usize = 256;

/// Why there is no Gaussian process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GpError {
    /// No outputs, or numbers that do not fit each other.
    #[error("{outputs} outputs do not belong to {points} points")]
    Shape {
        /// Coordinates found, in points.
        points: usize,
        /// Rows of outputs found.
        outputs: usize,
    },
    /// The covariances have no Cholesky factor: a point stands twice, or a number is not finite.
    #[error(
        "the covariances of {0} points are not positive definite: does a point stand twice, or is a value not finite?"
    )]
    NotPositiveDefinite(usize),
}

/// Means and deviations at some points.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// A row per point, a column per output.
    pub means: Mat<f64>,
    /// Per point, the deviation in units of the outputs' own.
    pub deviations: Vec<f64>,
}

impl Gp {
    /// Conditions on `outputs` (a row per point, a column per output) at `points` (flat).
    ///
    /// # Errors
    /// When the shapes do not fit, or the covariances are not positive definite.
    pub fn new(kernel: Kernel, points: &[f64], outputs: &Mat<f64>) -> Result<Self, GpError> {
        Self::with_pending(kernel, points, outputs, &[])
    }

    /// As [`Gp::new`]; `pending` are points whose outputs will be known.
    ///
    /// They lower the deviations and leave the means as they are: the expectation over what they will show.
    ///
    /// # Errors
    /// As [`Gp::new`].
    pub fn with_pending(
        kernel: Kernel,
        points: &[f64],
        outputs: &Mat<f64>,
        pending: &[f64],
    ) -> Result<Self, GpError> {
        let dimensions = kernel.lengths.len();
        let (n, m) = (outputs.nrows(), outputs.ncols());
        if n == 0 || points.len() != n * dimensions || !pending.len().is_multiple_of(dimensions) {
            return Err(GpError::Shape { points: points.len() / dimensions.max(1), outputs: n });
        }
        let means: Vec<f64> =
            (0..m).map(|column| outputs.col(column).iter().sum::<f64>() / n as f64).collect();
        let centred = Mat::from_fn(n, m, |row, column| outputs[(row, column)] - means[column]);
        let all = [points, pending].concat();
        let factor = kernel
            .within(&all)
            .llt(Side::Lower)
            .map_err(|_| GpError::NotPositiveDefinite(all.len() / dimensions))?
            .L()
            .to_owned();
        let known = factor.get(..n, ..n);
        let mut residuals = centred;
        solve_lower_triangular_in_place(known, residuals.as_mut(), Par::Seq);
        let mut weights = residuals.clone();
        faer::linalg::triangular_solve::solve_upper_triangular_in_place(
            known.transpose(),
            weights.as_mut(),
            Par::Seq,
        );
        let share = 1.0 / (n as f64).sqrt();
        for column in 0..m {
            residuals.col_as_slice_mut(column).iter_mut().for_each(|value| *value *= share);
        }
        if !weights.col(0).iter().all(|value| value.is_finite()) {
            return Err(GpError::NotPositiveDefinite(all.len() / dimensions));
        }
        let scouts = Scouts::among(&kernel, &all);
        Ok(Self { kernel, points: all, measured: n, factor, scouts, weights, residuals, means })
    }

    /// The kernel.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// How many outputs there are.
    pub fn outputs(&self) -> usize {
        self.means.len()
    }

    /// How many points the outputs are known at.
    pub fn measured(&self) -> usize {
        self.measured
    }

    /// Means and deviations at `points` (flat), of the function itself: without the nugget.
    pub fn predict(&self, points: &[f64]) -> Prediction {
        let covariances = self.kernel.between(points, &self.points);
        Prediction {
            means: self.means_from(&covariances),
            deviations: deviations(&covariances, &self.factor),
        }
    }

    /// The means of [`Gp::predict`].
    pub fn means(&self, points: &[f64]) -> Mat<f64> {
        self.means_from(&self.kernel.between(points, &self.points))
    }

    /// As [`Gp::predict`], but with many points the deviations are upper bounds, from some of the points.
    pub fn predict_roughly(&self, points: &[f64]) -> Prediction {
        let covariances = self.kernel.between(points, &self.points);
        let means = self.means_from(&covariances);
        let deviations = match &self.scouts {
            None => deviations(&covariances, &self.factor),
            Some(Scouts { places, factor }) => {
                let to_scouts = Mat::from_fn(covariances.nrows(), places.len(), |row, column| {
                    covariances[(row, places[column])]
                });
                deviations(&to_scouts, factor)
            }
        };
        Prediction { means, deviations }
    }

    /// Whether [`Gp::predict_roughly`] differs from [`Gp::predict`].
    pub fn has_rough_predictions(&self) -> bool {
        self.scouts.is_some()
    }

    /// The deviations of [`Gp::predict`].
    pub fn deviations(&self, points: &[f64]) -> Vec<f64> {
        deviations(&self.kernel.between(points, &self.points), &self.factor)
    }

    fn means_from(&self, covariances: &Mat<f64>) -> Mat<f64> {
        let mut means = covariances.get(.., ..self.measured) * &self.weights;
        for (column, mean) in self.means.iter().enumerate() {
            means.col_as_slice_mut(column).iter_mut().for_each(|value| *value += mean);
        }
        means
    }

    /// A factor `A` with `A Aᵀ` the covariances of the deviations at `points` (flat), given what is known.
    ///
    /// # Errors
    /// When points stand twice.
    pub fn joint_factor(&self, points: &[f64]) -> Result<Mat<f64>, GpError> {
        let mut explained = self.kernel.between(&self.points, points);
        solve_lower_triangular_in_place(self.factor.as_ref(), explained.as_mut(), Par::Seq);
        let mut covariances = self.kernel.between(points, points) - explained.transpose() * &explained;
        let count = covariances.nrows();
        for index in 0..count {
            // What rounding may have taken.
            covariances[(index, index)] += 1e-9;
        }
        Ok(covariances.llt(Side::Lower).map_err(|_| GpError::NotPositiveDefinite(count))?.L().to_owned())
    }

    /// `L⁻¹ Z / √n`, a row per measured point, a column per output: its Gram matrix is the outputs' covariance.
    pub(crate) fn residuals(&self) -> &Mat<f64> {
        &self.residuals
    }

    /// Turns standard normal numbers (one per measured point) into one draw of all outputs' deviations together.
    ///
    /// A draw times a point's deviation, plus its mean, is a draw of the outputs there.
    pub fn draw(&self, normals: &[f64]) -> Vec<f64> {
        (0..self.outputs())
            .map(|column| {
                self.residuals
                    .col_as_slice(column)
                    .iter()
                    .zip(normals)
                    .map(|(residual, normal)| residual * normal)
                    .sum()
            })
            .collect()
    }

    /// Standard deviation of an output's deviations: the square root of its kernel's variance.
    pub fn deviation_of(&self, output: usize) -> f64 {
        self.residuals.col_as_slice(output).iter().map(|value| value * value).sum::<f64>().sqrt()
    }

    /// Standard deviation of the difference of two outputs' deviations.
    pub fn deviation_of_difference(&self, left: usize, right: usize) -> f64 {
        let (left, right) = (self.residuals.col_as_slice(left), self.residuals.col_as_slice(right));
        left.iter().zip(right).map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt()
    }
}

/// As [`Gp::with_pending`]; with a larger nugget where rounding leaves the covariances without a Cholesky factor.
pub(crate) fn conditioned(
    kernel: &Kernel,
    points: &[f64],
    outputs: &Mat<f64>,
    pending: &[f64],
) -> Option<Gp> {
    [1.0, 1e2, 1e4].into_iter().find_map(|factor| {
        let kernel = Kernel { nugget: kernel.nugget * factor, ..kernel.clone() };
        Gp::with_pending(kernel, points, outputs, pending).ok()
    })
}

impl Scouts {
    fn among(kernel: &Kernel, points: &[f64]) -> Option<Self> {
        let dimensions = kernel.lengths.len();
        let stride = (points.len() / dimensions).div_ceil(MOST_SCOUTS);
        if stride < 2 {
            return None;
        }
        let places: Vec<usize> = (0..points.len() / dimensions).step_by(stride).collect();
        let some: Vec<f64> = places
            .iter()
            .flat_map(|place| &points[place * dimensions..(place + 1) * dimensions])
            .copied()
            .collect();
        let factor = kernel.within(&some).llt(Side::Lower).ok()?.L().to_owned();
        Some(Self { places, factor })
    }
}

/// What is left of the kernel's unit variance, given points by the Cholesky factor of their covariances.
fn deviations(covariances: &Mat<f64>, factor: &Mat<f64>) -> Vec<f64> {
    let mut explained = covariances.transpose().to_owned();
    solve_lower_triangular_in_place(factor.as_ref(), explained.as_mut(), Par::Seq);
    let left = (0..explained.ncols()).map(|column| {
        let explained: f64 = explained.col_as_slice(column).iter().map(|value| value * value).sum();
        (1.0 - explained).max(0.0).sqrt()
    });
    left.collect()
}
