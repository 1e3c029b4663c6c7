//! The ladder of rungs: how well the cheap one predicts the judged one, and how many points are worth judging.

use crate::normal::{cdf, quantile};
use crate::problem::{Measured, Problem};

/// How a domain's likelihood rung and its judged rung agree.
#[derive(Clone, Debug, PartialEq)]
pub struct Agreement {
    /// The domain.
    pub domain: String,
    /// Points measured on both rungs.
    pub points: usize,
    /// Spearman's rank correlation of the mean level on both rungs, ties at their mean rank; `None` below 3 points, or
    /// where all points share one mean level.
    pub rank_correlation: Option<f64>,
}

/// Per domain, how the rungs agree at the points measured on both.
pub fn agreement(problem: &Problem, measured: &[Measured<'_>]) -> Vec<Agreement> {
    let levels = problem.levels();
    let mean_level = |counts: &[u32]| {
        let n = counts.iter().sum::<u32>().max(1);
        counts.iter().zip(0u32..).map(|(count, level)| f64::from(count * level)).sum::<f64>() / f64::from(n)
    };
    let width = problem.domains().len() * levels;
    let both: Vec<(Vec<u32>, &[u32])> = measured
        .iter()
        .filter(|measured| measured.log_probs.len() == problem.outputs())
        .filter_map(|measured| {
            Some((
                problem.counts(measured.log_probs),
                measured.judged.filter(|judged| judged.len() == width)?,
            ))
        })
        .collect();
    let of_domain = |(domain, shape): (usize, &crate::problem::DomainShape)| {
        let at = domain * levels..(domain + 1) * levels;
        let cheap: Vec<f64> = both.iter().map(|(counts, _)| mean_level(&counts[at.clone()])).collect();
        let judged: Vec<f64> = both.iter().map(|(_, counts)| mean_level(&counts[at.clone()])).collect();
        let rank_correlation = rank_correlation(&cheap, &judged);
        Agreement { domain: shape.name.clone(), points: both.len(), rank_correlation }
    };
    problem.domains().iter().enumerate().map(of_domain).collect()
}

/// Spearman's rank correlation; ties share their mean rank. `None` below 3 pairs, or where one side is constant.
pub fn rank_correlation(left: &[f64], right: &[f64]) -> Option<f64> {
    if left.len() != right.len() || left.len() < 3 {
        return None;
    }
    let (left, right) = (ranks(left), ranks(right));
    let mean = (left.len() as f64 + 1.0) / 2.0;
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum::<f64>();
    let spread = product(&left, &left) * product(&right, &right);
    (spread > 0.0).then(|| product(&left, &right) / spread.sqrt())
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|left, right| values[*left].total_cmp(&values[*right]));
    let mut ranks = vec![0.0; values.len()];
    for tied in order.chunk_by(|left, right| values[*left] == values[*right]) {
        let first = order.iter().position(|index| *index == tied[0]).unwrap_or(0);
        let rank = first as f64 + (tied.len() as f64 + 1.0) / 2.0;
        tied.iter().for_each(|index| ranks[*index] = rank);
    }
    ranks
}

/// The share of points, best by likelihood first, that is worth judging: with this confidence, the point that a judge would
/// find best of all `points` is among them.
///
/// Both rungs are taken as jointly normal with the given rank correlation ρ: the normal correlation is r = 2 sin(πρ/6)
/// (K. Pearson, 1907). The best of N lies near z = Φ⁻¹(1 − 1/(N+1)) on the judged rung and so around r·z, with deviation
/// √(1 − r²), on the cheap one.
pub fn judged_share(rank_correlation: f64, points: usize, confidence: f64) -> f64 {
    let r = (2.0 * (std::f64::consts::PI * rank_correlation.clamp(-1.0, 1.0) / 6.0).sin()).clamp(-1.0, 1.0);
    let best = quantile(1.0 - 1.0 / (points as f64 + 1.0));
    let least = r * best - quantile(confidence.clamp(0.5, 0.999_999)) * (1.0 - r * r).max(0.0).sqrt();
    (1.0 - cdf(least)).max(1.0 / points.max(1) as f64).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{normal, stream};

    /// From SciPy 1.17.1, `scipy.stats.spearmanr`, 2026-11-23.
    #[test]
    fn rank_correlations_are_scipys() {
        let left = [1.0, 2.0, 2.0, 4.0, 5.5, 3.0];
        let right = [0.1, 0.4, 0.3, 0.3, 0.9, 0.2];
        let found = rank_correlation(&left, &right).expect("six pairs");
        assert!((found - SCIPY).abs() < 1e-12, "{found}");
        assert_eq!(rank_correlation(&left, &[1.0; 6]), None);
        assert_eq!(rank_correlation(&left[..2], &right[..2]), None);
    }

    const SCIPY: f64 = 0.602_941_176_470_588_3;

    #[test]
    fn the_best_point_is_judged_as_often_as_stated() {
        let mut generator = stream(1, "ladder", 0);
        for (r, points) in [(0.9f64, 200usize), (0.6, 200), (0.97, 50)] {
            let rho = 6.0 / std::f64::consts::PI * (r / 2.0).asin();
            let share = judged_share(rho, points, 0.9);
            let mut found = 0;
            for _ in 0..400 {
                let mut pairs: Vec<(f64, f64)> = (0..points)
                    .map(|_| {
                        let judged = normal(&mut generator);
                        (r * judged + (1.0 - r * r).sqrt() * normal(&mut generator), judged)
                    })
                    .collect();
                let best = pairs.iter().map(|pair| pair.1).fold(f64::NEG_INFINITY, f64::max);
                pairs.sort_by(|left, right| right.0.total_cmp(&left.0));
                let judged = (share * points as f64).ceil() as usize;
                found += usize::from(pairs[..judged].iter().any(|pair| pair.1 == best));
            }
            // 90 % of 400 tries, four deviations below.
            assert!(found >= 336, "r = {r}, {points} points: {found} of 400 at a share of {share}");
        }
    }
}
