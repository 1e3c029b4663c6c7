//! BFGS within bounds.

const ITERATIONS: usize = 40;

/// Where `objective` (its value and gradient; `None` where it has none) is lowest near `start`, each parameter within its
/// bounds. A parameter at its bound whose gradient points outward stays there.
pub(super) fn minimise(
    objective: impl Fn(&[f64]) -> Option<(f64, Vec<f64>)>,
    bounds: &[(f64, f64)],
    start: Vec<f64>,
) -> Vec<f64> {
    let size = start.len();
    let mut at = start;
    let Some((mut value, mut gradient)) = objective(&at) else {
        return at;
    };
    let mut inverse_hessian = identity(size, 1.0 / norm(&gradient).max(1.0));
    for _ in 0..ITERATIONS {
        let held: Vec<bool> = (0..size)
            .map(|i| {
                let (low, high) = bounds[i];
                (at[i] <= low && gradient[i] > 0.0) || (at[i] >= high && gradient[i] < 0.0)
            })
            .collect();
        let free: Vec<f64> =
            gradient.iter().zip(&held).map(|(g, held)| if *held { 0.0 } else { *g }).collect();
        if norm(&free) < 1e-3 * (1.0 + value.abs()).sqrt() {
            break;
        }
        let mut direction: Vec<f64> =
            (0..size).map(|i| if held[i] { 0.0 } else { -dot(&inverse_hessian[i], &free) }).collect();
        if dot(&direction, &free) >= 0.0 {
            inverse_hessian = identity(size, 1.0 / norm(&free).max(1.0));
            direction = free.iter().map(|g| -g / norm(&free).max(1.0)).collect();
        }
        // At most a factor of e² a step.
        let largest = direction.iter().fold(0.0f64, |largest, step| largest.max(step.abs()));
        let mut step = if largest > 2.0 { 2.0 / largest } else { 1.0 };
        let mut moved = None;
        for _ in 0..12 {
            let next: Vec<f64> = (0..size)
                .map(|i| {
                    let (low, high) = bounds[i];
                    (at[i] + step * direction[i]).clamp(low, high)
                })
                .collect();
            let promised: f64 = (0..size).map(|i| (next[i] - at[i]) * gradient[i]).sum();
            if let Some((found, slope)) = objective(&next)
                && found <= value + 1e-4 * promised
            {
                moved = Some((next, found, slope));
                break;
            }
            step *= 0.4;
        }
        let Some((next, found, slope)) = moved else {
            break;
        };
        let change: Vec<f64> = next.iter().zip(&at).map(|(new, old)| new - old).collect();
        let bend: Vec<f64> = slope.iter().zip(&gradient).map(|(new, old)| new - old).collect();
        update(&mut inverse_hessian, &change, &bend);
        let gained = value - found;
        (at, value, gradient) = (next, found, slope);
        if gained < 1e-4 * (1.0 + value.abs()) {
            break;
        }
    }
    at
}

/// The BFGS update of an inverse Hessian; skipped where the curvature is not positive.
fn update(inverse: &mut [Vec<f64>], change: &[f64], bend: &[f64]) {
    let curvature = dot(change, bend);
    if curvature <= 1e-10 * norm(change) * norm(bend) {
        return;
    }
    let size = change.len();
    let moved: Vec<f64> = inverse.iter().map(|row| dot(row, bend)).collect();
    let scale = (1.0 + dot(bend, &moved) / curvature) / curvature;
    for row in 0..size {
        for column in 0..size {
            inverse[row][column] += scale * change[row] * change[column]
                - (moved[row] * change[column] + change[row] * moved[column]) / curvature;
        }
    }
}

fn identity(size: usize, value: f64) -> Vec<Vec<f64>> {
    (0..size).map(|i| (0..size).map(|j| if i == j { value } else { 0.0 }).collect()).collect()
}

fn dot(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(x, y)| x * y).sum()
}

fn norm(values: &[f64]) -> f64 {
    dot(values, values).sqrt()
}
