//! Laws of the order of points.

use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any, prop_assert_eq, proptest};
use proptest::strategy::Strategy as _;

use super::*;
use crate::fixture::{definition, judged, likelihood, point_tallies};

const READING: Reading = Reading::Likelihood(Normalisation::Mean);

fn wants(levels: &[u8]) -> Target {
    Target::new(levels.iter().map(|level| Wanted::Level(Level(*level))).collect())
}

fn ids(ranking: &Ranking<'_>, target: &Target, count: usize) -> Vec<i64> {
    let leaders = ranking.leaders(target, Aggregate::Min, count).expect("a fitting target");
    leaders.iter().map(|tallies| tallies.id.0).collect()
}

/// Sets the mean log-probabilities of a point's search tallies (10 queries), in millinats per level.
fn with_means(mut tallies: PointTallies, means: &[[i64; 3]]) -> PointTallies {
    let domains = tallies.search.likelihood.iter_mut().flatten();
    for (tally, means) in domains.zip(means) {
        tally.mean_log_prob_micronats = means.map(|mean| mean * 1000 * 10).to_vec();
    }
    tallies
}

#[test]
fn ties_go_to_the_larger_weakest_margin_then_the_nearer_point_then_smaller_ticks() {
    let definition = definition(2, 10, 0);
    let counts = [[0, 1, 9], [9, 1, 0]];
    let means = [[-3000, -2000, -1000], [-1000, -2000, -3000]];
    let weaker = [[-3000, -2000, -1000], [-1500, -2000, -3000]];
    let history = [
        with_means(point_tallies(1, &[0, 0], &counts), &weaker),
        with_means(point_tallies(2, &[200, 0], &counts), &means),
        with_means(point_tallies(3, &[100, 0], &counts), &means),
        with_means(point_tallies(4, &[0, -100], &counts), &means),
        with_means(point_tallies(5, &[300, 300], &[[0, 0, 10], [10, 0, 0]]), &weaker),
    ];
    let ranking = Ranking::new(&definition, &history, READING);
    assert_eq!(ids(&ranking, &wants(&[2, 0]), 9), [5, 4, 3, 2, 1]);
    assert_eq!(ids(&ranking, &wants(&[2, 0]), 2), [5, 4]);
    assert_eq!(ids(&ranking, &wants(&[2, 0]), 0), [0i64; 0]);
}

#[test]
fn a_point_that_lacks_a_result_does_not_count() {
    let definition = definition(2, 10, 0);
    let mut no_rung = point_tallies(2, &[100, 0], &[[0, 0, 10], [0, 0, 10]]);
    no_rung.search.likelihood = None;
    let history = [
        point_tallies(1, &[0, 0], &[[0, 0, 10], [0, 0, 9]]),
        no_rung,
        point_tallies(3, &[200, 0], &[[4, 3, 3], [4, 3, 3]]),
    ];
    let ranking = Ranking::new(&definition, &history, READING);
    assert_eq!(ranking.measured(), 1);
    assert_eq!(ids(&ranking, &wants(&[2, 2]), 9), [3]);
}

#[test]
fn judged_points_rank_without_likelihoods() {
    let definition = definition(2, 10, 0);
    let point = |id, ticks: &[i32], counts: &[[u32; 3]], unclear: &[u32]| {
        let mut tallies = point_tallies(id, ticks, &[]);
        tallies.search.likelihood = None;
        tallies.search.judgement = Some(judged(counts, unclear));
        tallies
    };
    let history = [
        point(1, &[200, 0], &[[0, 2, 8], [0, 2, 8]], &[0, 0]),
        point(2, &[100, 0], &[[0, 0, 8], [0, 0, 8]], &[2, 2]),
        point(3, &[0, 0], &[[0, 0, 7], [0, 0, 10]], &[3, 0]),
    ];
    let ranking = Ranking::new(&definition, &history, Reading::Judgement);
    assert_eq!(ids(&ranking, &wants(&[2, 2]), 9), [2, 1, 3]);
}

#[test]
fn as_the_base_means_the_dominant_level_at_the_origin() {
    let definition = definition(2, 10, 0);
    let target = Target::new(vec![Wanted::AsBase, Wanted::Level(Level(2))]);
    let elsewhere = point_tallies(2, &[100, 0], &[[0, 10, 0], [0, 0, 10]]);
    let with_base = |counts: [u32; 3]| [point_tallies(1, &[0, 0], &[counts, [10, 0, 0]]), elsewhere.clone()];

    let history = with_base([1, 8, 1]);
    let ranking = Ranking::new(&definition, &history, READING);
    assert_eq!(ranking.wanted_levels(&target), Ok(vec![Some(Level(1)), Some(Level(2))]));
    assert_eq!(ids(&ranking, &target, 1), [2]);

    let history = with_base([5, 5, 0]);
    let error = Ranking::new(&definition, &history, READING).wanted_levels(&target).expect_err("a tie");
    assert!(
        error.to_string().contains("domain 'd0' as the base has it, but no level is dominant"),
        "{error}"
    );

    let history = [elsewhere.clone()];
    let error = Ranking::new(&definition, &history, READING).wanted_levels(&target).expect_err("no base");
    assert!(error.to_string().contains("point 0,0"), "{error}");
}

#[test]
fn targets_that_do_not_fit_are_refused() {
    let definition = definition(2, 10, 0);
    let ranking = Ranking::new(&definition, &[], READING);
    let error = ranking.wanted_levels(&wants(&[0])).expect_err("one of two domains").to_string();
    assert!(error.contains("1 domains; the sweep has 2 (d0, d1)"), "{error}");
    let error = ranking.wanted_levels(&wants(&[0, 3])).expect_err("three levels").to_string();
    assert!(error.contains("level number 3 of domain 'd1'"), "{error}");
}

#[test]
fn the_same_rates_in_other_domains_tie_exactly() {
    // 0.1 + 0.2 + 0.3 and 0.3 + 0.2 + 0.1 differ in their last bit.
    let definition = definition(3, 10, 0);
    let history = [
        point_tallies(1, &[200, 0], &[[9, 0, 1], [8, 0, 2], [7, 0, 3]]),
        point_tallies(2, &[100, 0], &[[7, 0, 3], [8, 0, 2], [9, 0, 1]]),
    ];
    let ranking = Ranking::new(&definition, &history, READING);
    for aggregate in [Aggregate::Mean, Aggregate::Product, Aggregate::Min] {
        let leaders = ranking.leaders(&wants(&[2, 2, 2]), aggregate, 1).expect("a fitting target");
        assert_eq!(leaders[0].id.0, 2, "{aggregate}: the nearer point wins the tie");
    }
}

#[test]
fn aggregates_by_column_are_the_aggregates_of_each_point() {
    let columns: [&[f64]; 3] = [&[0.1, 1.0, 0.0], &[0.7, 0.25, 1.0], &[0.3, 0.5, 0.9]];
    for aggregate in [Aggregate::Min, Aggregate::Mean, Aggregate::Product] {
        for taken in 0..=3 {
            let by_column = aggregates(aggregate, &columns[..taken], 3);
            let by_point: Vec<f64> =
                (0..3).map(|row| aggregate.of(columns[..taken].iter().map(|column| column[row]))).collect();
            assert_eq!(by_column, by_point, "{aggregate} of {taken}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Against sorting the whole history by exact integers.
    #[test]
    fn leaders_are_the_head_of_the_sorted_history(
        rows in vec((vec(0u32..=4, 4), vec(-5i64..0, 6), -3i32..=3, -3i32..=3), 0..40),
        wanted in vec(0u8..3, 2),
        count in 0usize..12,
        aggregate in any::<u8>().prop_map(|n| [Aggregate::Min, Aggregate::Mean, Aggregate::Product][n as usize % 3]),
    ) {
        let definition = definition(2, 8, 0);
        let mut seen = std::collections::HashSet::new();
        let history: Vec<PointTallies> = rows
            .iter()
            .filter(|row| seen.insert((row.2, row.3)))
            .enumerate()
            .map(|(id, (counts, means, x, y))| {
                let domain = |offset: usize| {
                    [counts[offset], counts[offset + 1], 8 - counts[offset] - counts[offset + 1]]
                };
                let mut tallies = point_tallies(id as i64, &[x * 100, y * 100], &[]);
                let mut domains = likelihood(&[domain(0), domain(2)]);
                for (tally, means) in domains.iter_mut().zip(means.chunks(3)) {
                    tally.mean_log_prob_micronats = means.to_vec();
                }
                tallies.search.likelihood = Some(domains);
                tallies
            })
            .collect();

        let key = |tallies: &PointTallies| {
            let domains = tallies.search.likelihood.as_ref().expect("set above");
            let counts: Vec<u32> =
                domains.iter().zip(&wanted).map(|(tally, level)| tally.counts[0][*level as usize]).collect();
            let aggregate = match aggregate {
                Aggregate::Min => counts[0].min(counts[1]),
                Aggregate::Mean => counts[0] + counts[1],
                Aggregate::Product => counts[0] * counts[1],
            };
            let margin = |(tally, level): (&avsweep_domain::LikelihoodTally, &u8)| {
                let means = &tally.mean_log_prob_micronats;
                let others = (0..3).filter(|other| *other != *level as usize).map(|other| means[other]);
                means[*level as usize] - others.max().expect("two others")
            };
            let weakest = domains.iter().zip(&wanted).map(margin).min().expect("two domains");
            (-i64::from(aggregate), -weakest, tallies.point.squared_norm(), tallies.point.clone())
        };
        let mut sorted: Vec<&PointTallies> = history.iter().collect();
        sorted.sort_by_key(|tallies| key(tallies));
        sorted.truncate(count);

        let ranking = Ranking::new(&definition, &history, READING);
        let leaders = ranking.leaders(&wants(&wanted), aggregate, count).expect("a fitting target");
        prop_assert_eq!(leaders, sorted);
    }
}
