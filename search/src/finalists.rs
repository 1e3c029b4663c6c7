//! The points worth a closer look.

use std::collections::BTreeSet;

use avsweep_domain::{
    Aggregate, Normalisation, Point, PointTallies, Reading, SweepDefinition, Target, Wanted,
};

use crate::{Ranking, all_targets};

/// The points worth a closer look, by what they get; each list names a point once, in ticks order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finalists {
    /// By the sweep's own reading and the weakest domain, with a ladder by any aggregate: these are worth generating and
    /// judging texts at.
    pub judged: Vec<Point>,
    /// By any likelihood reading and any aggregate, the judged ones among them: whichever of these an answer is asked
    /// for, its points are scored on the confirm queries.
    pub confirmed: Vec<Point>,
}

/// The best `per_target` points of every target on the search queries.
///
/// Where the sweep has more than [`MAX_TARGETS`](crate::MAX_TARGETS) targets, the targets are instead those that ask for
/// one level of one domain and leave the others free.
pub fn finalists(definition: &SweepDefinition, history: &[PointTallies], per_target: usize) -> Finalists {
    let targets = targets(definition);
    let leaders = |reading, aggregates: &[Aggregate]| {
        let ranking = Ranking::new(definition, history, reading);
        let mut points = BTreeSet::new();
        for target in &targets {
            for aggregate in aggregates {
                // These targets name levels of this sweep for all of its domains: they cannot be refused.
                let leaders = ranking.leaders(target, *aggregate, per_target).unwrap_or_default();
                points.extend(leaders.into_iter().map(|tallies| tallies.point.clone()));
            }
        }
        points
    };
    // Where the judge chooses, every answer of the judge's is reported on texts too.
    let aggregates =
        if definition.evaluation.ladder.is_some() { &Aggregate::ALL[..] } else { &[Aggregate::Min] };
    let judged = leaders(definition.default_reading(), aggregates);
    let mut confirmed = judged.clone();
    for normalisation in Normalisation::ALL {
        confirmed.append(&mut leaders(Reading::Likelihood(normalisation), &Aggregate::ALL));
    }
    Finalists { judged: judged.into_iter().collect(), confirmed: confirmed.into_iter().collect() }
}

/// Every target, or those of single domains where these are countless.
pub(crate) fn targets(definition: &SweepDefinition) -> Vec<Target> {
    all_targets(definition).unwrap_or_else(|| {
        let domains = definition.domains.len();
        let single = (0..domains).flat_map(|domain| {
            definition.levels.iter().map(move |level| {
                let mut wanted = vec![Wanted::Free; domains];
                wanted[domain] = Wanted::Level(level);
                Target::new(wanted)
            })
        });
        single.collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{definition, point_tallies};

    #[test]
    fn finalists_are_the_leaders_of_all_targets_each_once() {
        let definition = definition(2, 10, 5);
        let history = [
            point_tallies(1, &[300, 0], &[[0, 0, 10], [0, 0, 10]]),
            point_tallies(2, &[-300, 0], &[[10, 0, 0], [10, 0, 0]]),
            point_tallies(3, &[0, 0], &[[0, 10, 0], [0, 10, 0]]),
            point_tallies(4, &[100, 100], &[[1, 1, 8], [1, 1, 8]]),
            point_tallies(5, &[200, 200], &[[0, 0, 3], [0, 0, 10]]),
        ];
        let finalists = finalists(&definition, &history, 1).judged;
        let reversed: Vec<_> = history.iter().rev().cloned().collect();
        assert_eq!(
            super::finalists(&definition, &reversed, 1).judged,
            finalists,
            "not the order of the history"
        );
        assert!(finalists.is_sorted());
        for leader in [1, 2, 3] {
            assert!(finalists.contains(&history[leader - 1].point), "{leader} leads a target outright");
        }
        assert!(finalists.len() <= 9 && !finalists.contains(&history[4].point), "a partly measured point");
    }

    #[test]
    fn the_best_point_by_any_likelihood_reading_and_aggregate_is_confirmed() {
        let definition = definition(2, 10, 5);
        // Counts that differ between normalisations, from a linear congruential sequence.
        let mut state = 1u64;
        let mut below = |end: u32| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % u64::from(end)) as u32
        };
        let history: Vec<_> = (0..49)
            .map(|index| {
                let mut point = point_tallies(
                    i64::from(index) + 1,
                    &[(index / 7 - 3) * 100, (index % 7 - 3) * 100],
                    &[[10, 0, 0]; 2],
                );
                for tally in point.search.likelihood.iter_mut().flatten() {
                    tally.counts = std::array::from_fn(|_| {
                        let low = below(11);
                        let middle = below(11 - low);
                        vec![low, middle, 10 - low - middle]
                    });
                }
                point
            })
            .collect();
        let finalists = finalists(&definition, &history, 1);
        assert!(finalists.confirmed.is_sorted() && finalists.judged.is_sorted());
        assert!(finalists.judged.iter().all(|point| finalists.confirmed.contains(point)));
        assert!(finalists.judged.len() < finalists.confirmed.len(), "readings and aggregates disagree");
        for normalisation in Normalisation::ALL {
            for aggregate in Aggregate::ALL {
                let reading = Reading::Likelihood(normalisation);
                let targets = definition.all_targets();
                let answers = crate::best(&definition, &history, &targets, aggregate, reading)
                    .expect("targets of this sweep");
                for answer in answers {
                    let best = answer.best.expect("measured points");
                    assert!(finalists.confirmed.contains(&best.point), "{aggregate} {normalisation:?}");
                }
            }
        }
    }

    #[test]
    fn a_sweep_with_countless_targets_has_finalists_for_single_domains() {
        let definition = definition(40, 1, 0);
        let targets = targets(&definition);
        assert_eq!(targets.len(), 120);
        assert!(targets.iter().all(|target| {
            target.wanted().iter().filter(|wanted| !matches!(wanted, Wanted::Free)).count() == 1
        }));
    }
}
