//! The points worth a closer look.

use std::collections::BTreeSet;

use avsweep_domain::{Aggregate, Point, PointTallies, SweepDefinition, Target, Wanted};

use crate::Ranking;

/// With more targets than this, ranking them all would take longer than it is worth (10 domains of 3 levels make 59,049).
const MAX_TARGETS: usize = 10_000;

/// The best `per_target` points of every target by the weakest domain, each point once, in ticks order.
///
/// Points are chosen by the sweep's own reading on the search queries. Where the sweep has more than 10,000 targets, the
/// targets are instead those that ask for one level of one domain and leave the others free.
pub fn finalists(definition: &SweepDefinition, history: &[PointTallies], per_target: usize) -> Vec<Point> {
    let ranking = Ranking::new(definition, history, definition.default_reading());
    let mut points = BTreeSet::new();
    for target in targets(definition) {
        // These targets name levels of this sweep for all of its domains: they cannot be refused.
        let leaders = ranking.leaders(&target, Aggregate::default(), per_target).unwrap_or_default();
        points.extend(leaders.into_iter().map(|tallies| tallies.point.clone()));
    }
    points.into_iter().collect()
}

fn targets(definition: &SweepDefinition) -> Vec<Target> {
    let (domains, levels) = (definition.domains.len(), definition.levels.len());
    let count = u32::try_from(domains).ok().and_then(|domains| levels.checked_pow(domains));
    if count.is_some_and(|count| count <= MAX_TARGETS) {
        return definition.all_targets();
    }
    let single = (0..domains).flat_map(|domain| {
        definition.levels.iter().map(move |level| {
            let mut wanted = vec![Wanted::Free; domains];
            wanted[domain] = Wanted::Level(level);
            Target::new(wanted)
        })
    });
    single.collect()
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
        let finalists = finalists(&definition, &history, 1);
        let reversed: Vec<_> = history.iter().rev().cloned().collect();
        assert_eq!(super::finalists(&definition, &reversed, 1), finalists, "not the order of the history");
        assert!(finalists.is_sorted());
        for leader in [1, 2, 3] {
            assert!(finalists.contains(&history[leader - 1].point), "{leader} leads a target outright");
        }
        assert!(finalists.len() <= 9 && !finalists.contains(&history[4].point), "a partly measured point");
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
