//! The ladder of rungs: how well the cheap one predicts the judged one, and which points are therefore judged.
//!
//! Likelihoods are measured wherever the strategy looks. Judged are, first, the best points of every target by them and a
//! random sample of all; then, by what the sample says, so many more of every target's best that the one which the judge
//! would choose is probably among them; then the judge's choices on the confirm queries.
//!
//! The rank correlation is taken from the sample alone. The targets' best points are picked for extreme likelihoods: all
//! of them together lie further apart than points do, which makes the correlation too high, and those of one target
//! closer together, which makes it too low.

use std::collections::{BTreeMap, BTreeSet};

use avsweep_domain::{
    Aggregate, FingerprintBuilder, Normalisation, Point, PointTallies, QuerySet, Reading, SetTallies,
    SweepDefinition,
};

use crate::Ranking;
use crate::finalists::targets;
use crate::normal::{cdf, quantile};
use crate::ranking::queries_of;

/// Points of the sample. Of independent rungs so many show a correlation of more than 0.35 once in twenty tries.
const SAMPLE: usize = 24;

/// With fewer judged points of the sample nothing is known of the rungs' agreement.
const LEAST: usize = 8;

/// What likelihoods are read by.
const LIKELIHOOD: Reading = Reading::Likelihood(Normalisation::Mean);

/// How a domain's likelihood rung and its judged rung agree.
#[derive(Clone, Debug, PartialEq)]
pub struct Agreement {
    /// The domain.
    pub domain: String,
    /// Points measured in full on both rungs.
    pub points: usize,
    /// Spearman's rank correlation of the mean level on both rungs, ties at their mean rank; `None` below 3 points, or
    /// where all points share one mean level.
    pub rank_correlation: Option<f64>,
}

/// How far a sweep with a ladder judges, by what is measured so far.
#[derive(Clone, Debug, PartialEq)]
pub struct Climb {
    /// Points measured in full by likelihood: those that are ordered by it.
    pub points: usize,
    /// Points that are judged first: the best ones of every target and the sample; in ticks order.
    pub first: Vec<Point>,
    /// Of the sample's points, how the rungs agree.
    pub agreement: Vec<Agreement>,
    /// The least rank correlation of any domain that the sample leaves likely; `None` while too little of it is judged.
    pub correlation: Option<f64>,
    /// The share of the points, best by likelihood first, that is judged for every target; `None` as above.
    pub share: Option<f64>,
    /// The same as a number of points.
    pub per_target: usize,
    /// Points to be judged on the search queries, in ticks order; no more than the first ones before the share is known.
    pub judged: Vec<Point>,
    /// Whether the share asks for more points than may be judged.
    pub is_cut: bool,
}

/// How far a sweep judges by its ladder; `None` where it has none.
///
/// A function of the history: of likelihoods on the search queries, and of the sample's verdicts.
pub fn climb(definition: &SweepDefinition, history: &[PointTallies]) -> Option<Climb> {
    let ladder = definition.evaluation.ladder?;
    let ranking = Ranking::new(definition, history, LIKELIHOOD);
    let ordered = ranking.points();
    let points = ordered.len();
    let sample = sample(ordered);
    let agreement = agreement(definition, sample.iter().copied(), QuerySet::Search);
    let judged_points = agreement.iter().map(|domain| domain.points).min().unwrap_or(0);
    let correlation = (judged_points >= LEAST.min(points)).then(|| {
        // Where one rung never changes, the other tells nothing of it.
        let likely = |domain: &Agreement| {
            least_likely(domain.rank_correlation.unwrap_or(0.0), domain.points, ladder.confidence)
        };
        agreement.iter().map(likely).fold(1.0, f64::min)
    });
    let share = correlation.map(|correlation| judged_share(correlation, points, ladder.confidence));
    let at_first = definition.evaluation.finalists_per_target as usize;
    let per_target =
        share.map_or(0, |share| (share * points as f64).ceil() as usize).max(at_first).min(points);

    let mut judged: BTreeSet<&Point> = sample.iter().map(|tallies| &tallies.point).collect();
    let targets = targets(definition);
    let leaders = |count: usize| -> Vec<Vec<&PointTallies>> {
        // These targets name levels of this sweep for all of its domains: they cannot be refused.
        let of_target = |target| ranking.leaders(target, Aggregate::Min, count).unwrap_or_default();
        targets.iter().map(of_target).collect()
    };
    judged.extend(leaders(at_first).into_iter().flatten().map(|tallies| &tallies.point));
    let first: Vec<Point> = judged.iter().copied().cloned().collect();
    // Every rank of one target is another point, so that no rank after this many is reached.
    let most = first.len() + ladder.most as usize;
    let orders = leaders(per_target.min(most));
    // Rank by rank, so that what the limit cuts off is each target's worst.
    let by_rank =
        (0..per_target.min(most)).flat_map(|rank| orders.iter().filter_map(move |order| order.get(rank)));
    let mut is_cut = per_target > most;
    for tallies in by_rank {
        if judged.len() >= most && !judged.contains(&tallies.point) {
            is_cut = true;
            break;
        }
        judged.insert(&tallies.point);
    }
    Some(Climb {
        points,
        first,
        agreement,
        correlation,
        share,
        per_target,
        judged: judged.into_iter().cloned().collect(),
        is_cut,
    })
}

/// A random sample that is the same wherever it is drawn, and changes by one point at most when a point is added.
fn sample<'a>(points: impl Iterator<Item = &'a PointTallies>) -> Vec<&'a PointTallies> {
    let drawn = |tallies: &PointTallies| {
        let mut builder = FingerprintBuilder::new("avsweep ladder sample 1");
        tallies.point.values().iter().for_each(|ticks| {
            builder.integer(i64::from(ticks.get()));
        });
        builder.finish()
    };
    let mut drawn: Vec<_> = points.map(|tallies| (drawn(tallies), tallies)).collect();
    drawn.sort_by(|left, right| left.0.cmp(&right.0).then_with(|| left.1.point.cmp(&right.1.point)));
    drawn.into_iter().take(SAMPLE).map(|(_, tallies)| tallies).collect()
}

/// Per domain, how the rungs agree at the points that are measured in full on both, on one query set.
pub fn agreement<'a>(
    definition: &SweepDefinition,
    points: impl IntoIterator<Item = &'a PointTallies>,
    set: QuerySet,
) -> Vec<Agreement> {
    let mut pairs: BTreeMap<usize, Vec<(f64, f64)>> = BTreeMap::new();
    for tallies in points {
        let tallies = match set {
            QuerySet::Search => &tallies.search,
            QuerySet::Confirm => &tallies.confirm,
        };
        for domain in 0..definition.domains.len() {
            let queries = queries_of(definition, set, domain);
            let both = mean_level(tallies, LIKELIHOOD, domain, queries).zip(mean_level(
                tallies,
                Reading::Judgement,
                domain,
                queries,
            ));
            pairs.entry(domain).or_default().extend(both);
        }
    }
    let of_domain = |(domain, shape): (usize, &avsweep_domain::DomainDefinition)| {
        let (cheap, judged): (Vec<f64>, Vec<f64>) = pairs.get(&domain).into_iter().flatten().copied().unzip();
        let rank_correlation = rank_correlation(&cheap, &judged);
        Agreement { domain: shape.name.clone(), points: cheap.len(), rank_correlation }
    };
    definition.domains.iter().enumerate().map(of_domain).collect()
}

/// The mean level of the responses at any level; `None` unless all queries have a result, one of them at a level.
fn mean_level(tallies: &SetTallies, reading: Reading, domain: usize, queries: usize) -> Option<f64> {
    let (counts, found) = tallies.counts(reading, domain)?;
    let at_levels: u32 = counts.iter().sum();
    let sum: f64 = counts.iter().zip(0u32..).map(|(count, level)| f64::from(count * level)).sum();
    (found as usize == queries && at_levels > 0).then(|| sum / f64::from(at_levels))
}

/// Spearman's rank correlation; ties share their mean rank. `None` below 3 pairs, or where one side is constant.
fn rank_correlation(left: &[f64], right: &[f64]) -> Option<f64> {
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

/// The least rank correlation that a sample's leaves likely: it is no more than the true one with this confidence.
///
/// Fisher's transform with the variance (1 + ρ²/2) / (n − 3) (D. G. Bonett, T. A. Wright, "Sample size requirements for
/// estimating Pearson, Kendall and Spearman correlations", 2000).
fn least_likely(rank_correlation: f64, points: usize, confidence: f64) -> f64 {
    if points < 4 {
        return -1.0;
    }
    // A perfect order of a small sample is no perfect order of all.
    let edge = 1.0 - 1.0 / (points * points) as f64;
    let rho = rank_correlation.clamp(-edge, edge);
    let deviation = ((1.0 + rho * rho / 2.0) / (points - 3) as f64).sqrt();
    (rho.atanh() - quantile(confidence) * deviation).tanh()
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
    use avsweep_domain::{Coverage, Ladder};

    use super::*;
    use crate::fixture::{definition, judged, likelihood, point_tallies};
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

    #[test]
    fn a_sample_overstates_the_correlation_no_more_often_than_stated() {
        let mut generator = stream(2, "ladder", 0);
        for rho in [0.3f64, 0.8, 0.95] {
            let r = 2.0 * (std::f64::consts::PI * rho / 6.0).sin();
            let mut over = 0;
            for _ in 0..1000 {
                let (left, right): (Vec<f64>, Vec<f64>) = (0..SAMPLE)
                    .map(|_| {
                        let judged = normal(&mut generator);
                        (r * judged + (1.0 - r * r).sqrt() * normal(&mut generator), judged)
                    })
                    .unzip();
                let found = rank_correlation(&left, &right).expect("distinct numbers");
                over += usize::from(least_likely(found, SAMPLE, 0.9) > rho);
            }
            // 10 % of 1000 draws, four deviations above.
            assert!(over <= 138, "{rho}: {over} of 1000");
        }
    }

    /// 49 points of one knob per domain, and a judge who sees what `levels` says of the point's number.
    fn history(
        levels: impl Fn(usize, usize) -> [u32; 3],
        is_judged: impl Fn(&Point) -> bool,
    ) -> Vec<PointTallies> {
        let points = (0..49usize).map(|index| {
            let ticks = [index / 7, index % 7].map(|knob| (knob as i32 - 3) * 100);
            let cheap = [index / 7, index % 7].map(|knob| [6 - knob as u32, 4, knob as u32]);
            let mut point = point_tallies(index as i64 + 1, &ticks, &cheap);
            if is_judged(&point.point) {
                let counts = [0, 1].map(|domain| levels(index, domain));
                point.search.judgement = Some(judged(&counts, &[0, 0]));
            }
            point.confirm.likelihood = Some(likelihood(&[[1, 1, 3]; 2]));
            point
        });
        points.collect()
    }

    fn laddered(most: u32) -> SweepDefinition {
        let mut definition = definition(2, 10, 5);
        definition.evaluation.generation = Coverage::Finalists;
        definition.evaluation.ladder = Some(Ladder { confidence: 0.9, most });
        definition.check().expect("a valid definition");
        definition
    }

    /// The judge who agrees with the likelihoods on all points.
    fn agreeing(index: usize, domain: usize) -> [u32; 3] {
        let knob = [index / 7, index % 7][domain] as u32;
        [6 - knob, 4, knob]
    }

    /// The judge whose verdicts have nothing to do with them.
    fn independent(index: usize, domain: usize) -> [u32; 3] {
        let knob = ((index * (domain + 3) * 2_654_435_761) >> 7) as u32 % 7;
        [6 - knob, 4, knob]
    }

    #[test]
    fn the_better_likelihoods_predict_the_judge_the_fewer_points_are_judged() {
        let definition = laddered(1000);
        let climbed = |levels: fn(usize, usize) -> [u32; 3]| {
            climb(&definition, &history(levels, |_| true)).expect("a ladder")
        };
        let (good, bad) = (climbed(agreeing), climbed(independent));
        assert_eq!(good.points, 49);
        assert!(good.agreement.iter().all(|domain| domain.rank_correlation > Some(0.999)), "{good:?}");
        assert!(good.share < Some(0.1) && bad.share > Some(0.7), "{good:?} {bad:?}");
        assert!(good.judged.len() < bad.judged.len() && bad.judged.len() > 40, "{good:?} {bad:?}");
        assert!(!good.is_cut && !bad.is_cut);
    }

    #[test]
    fn before_the_sample_is_judged_only_the_first_points_are_wanted() {
        let definition = laddered(1000);
        let unjudged = climb(&definition, &history(agreeing, |_| false)).expect("a ladder");
        assert_eq!((unjudged.share, unjudged.correlation, &unjudged.judged), (None, None, &unjudged.first));
        // Nine targets, some of which share a best point, and the sample.
        assert!((SAMPLE..=SAMPLE + 9).contains(&unjudged.first.len()), "{unjudged:?}");
        // What is judged besides the sample changes nothing.
        let first: BTreeSet<Point> = unjudged.first.iter().cloned().collect();
        let judged = |levels: fn(usize, usize) -> [u32; 3]| {
            climb(&definition, &history(levels, |point| first.contains(point))).expect("a ladder")
        };
        let whole = climb(&definition, &history(independent, |_| true)).expect("a ladder");
        assert_eq!(judged(independent), whole);
        assert_eq!(judged(agreeing).first, unjudged.first);
        assert!(judged(agreeing).first.iter().all(|point| judged(agreeing).judged.contains(point)));
    }

    #[test]
    fn no_more_points_are_judged_than_stated() {
        for most in [0, 1, 5, 12] {
            let history = history(independent, |_| true);
            let climbed = climb(&laddered(most), &history).expect("a ladder");
            assert_eq!(climbed.judged.len(), climbed.first.len() + most as usize);
            assert!(climbed.is_cut);
            let reversed: Vec<_> = history.iter().rev().cloned().collect();
            assert_eq!(climb(&laddered(most), &reversed).as_ref(), Some(&climbed), "whatever the order");
        }
    }

    #[test]
    fn a_judge_who_always_says_the_same_is_not_predicted() {
        let climbed = climb(&laddered(1000), &history(|_, _| [0, 10, 0], |_| true)).expect("a ladder");
        assert!(climbed.agreement.iter().all(|domain| domain.rank_correlation.is_none()));
        assert_eq!(climbed.judged.len(), 49, "{climbed:?}");
    }

    #[test]
    fn without_a_ladder_nobody_climbs() {
        assert_eq!(climb(&definition(2, 10, 5), &history(agreeing, |_| true)), None);
    }
}
