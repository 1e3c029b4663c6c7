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
    let (mut low, mut high) = (-38.0f64, 38.0f64);
    // Halving 76 sixty times leaves less than the spacing of doubles near 1.
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if cdf(middle) < p { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values from SciPy 1.17.1, `scipy.stats.norm.ppf`, 2026-11-23.
    #[test]
    fn quantiles_are_scipys() {
        for (p, x) in [(0.975, 1.959_963_984_540_054), (0.5, 0.0), (1e-6, -4.753_424_308_822_899)] {
            assert!((quantile(p) - x).abs() < 1e-9, "{p}");
        }
        let step = 1e-6;
        assert!(((cdf(0.3 + step) - cdf(0.3 - step)) / (2.0 * step) - density(0.3)).abs() < 1e-9);
    }
}
