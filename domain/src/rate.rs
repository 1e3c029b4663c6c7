//! Level rates and their intervals.

use serde::Serialize;

/// A two-sided confidence interval of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// Lower end, in [0, 1].
    pub low: f64,
    /// Upper end, in [0, 1].
    pub high: f64,
}

/// Share of a domain's queries at a level, with its n and a 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LevelRate {
    /// Queries at the level.
    pub count: u32,
    /// Queries asked.
    pub n: u32,
    /// `count / n`; 0 when nothing was asked.
    pub rate: f64,
    /// The 95 % Wilson interval; [0, 1] when nothing was asked.
    pub interval: Interval,
}

/// The 97.5 % quantile of the standard normal distribution.
const Z_95: f64 = 1.959_963_984_540_054;

/// The 95 % score interval of `count` successes in `n` trials.
///
/// E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
pub fn wilson_interval(count: u32, n: u32) -> Interval {
    if n == 0 {
        return Interval { low: 0.0, high: 1.0 };
    }
    let (n, p) = (f64::from(n), f64::from(count) / f64::from(n));
    let z2 = Z_95 * Z_95;
    let centre = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = Z_95 / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    Interval { low: (centre - half).max(0.0), high: (centre + half).min(1.0) }
}

impl LevelRate {
    /// The rate of `count` out of `n`.
    pub fn new(count: u32, n: u32) -> Self {
        let rate = if n == 0 { 0.0 } else { f64::from(count) / f64::from(n) };
        Self { count, n, rate, interval: wilson_interval(count, n) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values from SciPy 1.17.1, `binomtest(count, n).proportion_ci(0.95, method="wilson")`, 2026-11-23.
    #[test]
    fn wilson_agrees_with_scipy() {
        for (count, n, low, high) in [
            (0, 10, 0.0, 0.277_532_799_862_889_26),
            (5, 10, 0.236_593_090_512_564, 0.763_406_909_487_436_1),
            (20, 20, 0.838_874_841_947_180_8, 1.0),
            (37, 40, 0.801_357_664_756_894_5, 0.974_163_974_225_411_8),
            (1, 300, 0.000_588_657_721_851_158_1, 0.018_636_693_694_531_237),
        ] {
            let interval = wilson_interval(count, n);
            assert!((interval.low - low).abs() < 1e-9, "{count}/{n}: {interval:?}");
            assert!((interval.high - high).abs() < 1e-9, "{count}/{n}: {interval:?}");
        }
    }
}
