//! The standard normal distribution.

/// The probability of being below `x`.
pub(crate) fn cdf(x: f64) -> f64 {
    0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
}

/// The density at `x`.
pub(crate) fn density(x: f64) -> f64 {
    (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

/// The `x` that a share `p` lies below, between −38 and 38.
pub(crate) fn quantile(p: f64) -> f64 {
    const FURTHEST: f64 = 38.0;
    if p > 0.5 {
        return -quantile(1.0 - p);
    }
    // From what a logistic distribution of like spread has.
    let mut x = (0.55 * (p / (1.0 - p)).ln()).max(-FURTHEST);
    // Newton's steps in the logarithm of the share, which is concave: they never run away.
    for _ in 0..STEPS {
        let below = cdf(x);
        let step = (p / below).ln() * below / density(x);
        x = (x + step).clamp(-FURTHEST, FURTHEST);
        // The next one would be about its square.
        if step.abs() < 1e-6 {
            break;
        }
    }
    x
}

/// Of a quantile's search, at most.
const STEPS: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    /// Values from SciPy 1.17.1, `scipy.stats.norm.ppf`, 2026-11-23.
    #[test]
    fn quantiles_are_scipys() {
        for (p, x) in [(0.975, 1.959_963_984_540_054), (0.5, 0.0), (1e-6, -4.753_424_308_822_899)] {
            assert!((quantile(p) - x).abs() < 1e-9, "{p}");
        }
        for p in [1e-300, 1e-12, 1e-3, 0.2, 0.8, 0.999] {
            assert!((cdf(quantile(p)) / p - 1.0).abs() < 1e-9, "{p}");
        }
        assert_eq!((quantile(0.0), quantile(1.0)), (-38.0, 38.0));
        let step = 1e-6;
        assert!(((cdf(0.3 + step) - cdf(0.3 - step)) / (2.0 * step) - density(0.3)).abs() < 1e-9);
    }
}
