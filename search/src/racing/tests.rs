//! The stated error, by simulation.

use avsweep_domain::Strategy;

use super::*;
use crate::fixture::definition;
use crate::random::normal;

#[test]
fn a_rule_out_of_range_is_refused() {
    let problem = Problem::of(&definition(1, 4, 0));
    let rule = Racing { block: 0, error: 0.05, seed: 0 };
    assert!(Race::new(&problem, rule).expect_err("no block").to_string().contains("racing.block is 0"));
    let rule = Racing { block: 1, error: 1.0, seed: 0 };
    assert!(Race::new(&problem, rule).expect_err("certain error").to_string().contains("racing.error is 1"));
}

#[test]
fn blocks_ask_every_query_once_in_a_seeded_order() {
    let problem = Problem::of(&definition(2, 10, 0));
    let race = |seed| Race::new(&problem, Racing { block: 4, error: 0.05, seed }).expect("a rule");
    let first = race(1);
    assert_eq!(first.blocks(), 3);
    for domain in 0..2 {
        let mut asked: Vec<usize> = (0..3).flat_map(|block| first.block(block)[domain].to_vec()).collect();
        assert_eq!(asked, first.order(domain));
        asked.sort_unstable();
        assert_eq!(asked, (0..10).collect::<Vec<_>>());
    }
    assert_eq!(first.order(0), race(1).order(0));
    assert_ne!(first.order(0), race(2).order(0));
}

/// From SciPy 1.17.1: the largest K with `hypergeom(40, K, 10).cdf(count) > error`, 2026-11-23.
#[test]
fn bounds_are_scipys() {
    for (count, error, wanted) in SCIPY {
        assert_eq!(most(count, 10, 40, error), wanted, "{count} of 10 at {error}");
    }
    // Without error only what is certain.
    assert_eq!(most(3, 10, 40, 0.0), 33);
    assert_eq!(most(3, 40, 40, 0.01), 3);
}

const SCIPY: [(u32, f64, u32); 4] = [(0, 0.05, 9), (2, 0.05, 18), (5, 0.001, 34), (9, 0.01, 39)];

#[test]
fn points_that_would_better_a_target_are_stopped_no_more_often_than_stated() {
    let mut definition = definition(2, 40, 0);
    definition.strategy = Strategy::Grid;
    let problem = Problem::of(&definition);
    let wants = problem.wants(&crate::strategy::History::default());
    let (mut betters, mut wrongly, mut hopeless, mut saved) = (0, 0, 0, 0);
    for trial in 0..1500u64 {
        let rule = Racing { block: 10, error: 0.05, seed: trial };
        let race = Race::new(&problem, rule).expect("a rule");
        let mut generator = stream(trial, "racing test", 0);
        // Two points: queries have offsets, the points' proficiencies differ.
        let offsets: Vec<Vec<f64>> =
            (0..2).map(|_| (0..40).map(|_| 0.6 * normal(&mut generator)).collect()).collect();
        let mut levels_of = |spread: f64| -> Vec<Vec<usize>> {
            offsets
                .iter()
                .map(|offsets| {
                    let proficiency = spread * normal(&mut generator);
                    offsets
                        .iter()
                        .map(|offset| ((proficiency + offset).round().clamp(-1.0, 1.0) + 1.0) as usize)
                        .collect()
                })
                .collect()
        };
        let (known, point) = (levels_of(0.6), levels_of(1.0));
        let rates = |levels: &[Vec<usize>]| -> Vec<f64> {
            let rate = |queries: &Vec<usize>, level| {
                queries.iter().filter(|found| **found == level).count() as f64 / 40.0
            };
            levels.iter().flat_map(|queries| (0..3).map(move |level| rate(queries, level))).collect()
        };
        let values = |levels: &[Vec<usize>]| -> Vec<f64> {
            wants.iter().map(|wanted| problem.value(wanted, &rates(levels))).collect()
        };
        // The rest of the targets are taken as solved well: few are left to better.
        let best: Vec<f64> = values(&known)
            .into_iter()
            .enumerate()
            .map(|(target, value)| if target < 2 { value.max(0.5) } else { 1.0 })
            .collect();
        let better = values(&point).iter().zip(&best).any(|(value, best)| value > &(best + 1e-9));
        let stopped = (1..race.blocks()).find(|blocks| {
            let asked: Vec<Asked> = (0..2)
                .map(|domain| {
                    let mut counts = vec![0; 3];
                    (0..*blocks)
                        .flat_map(|block| race.block(block)[domain].to_vec())
                        .for_each(|query| counts[point[domain][query]] += 1);
                    Asked { queries: counts.iter().sum(), counts }
                })
                .collect();
            race.is_out_of_reach(&asked, &wants, &best)
        });
        betters += usize::from(better);
        wrongly += usize::from(better && stopped.is_some());
        hopeless += usize::from(!better);
        saved += if better { 0 } else { stopped.map_or(0, |blocks| race.blocks() - blocks) };
    }
    assert!(betters >= 30, "{betters} points better a target");
    assert!(wrongly as f64 <= 0.05 * betters as f64, "{wrongly} of {betters} are stopped");
    let share = saved as f64 / (hopeless * 4) as f64;
    assert!(share > 0.4, "of the hopeless points' queries a share of {share} is saved");
}

#[test]
fn ordinals_are_asked_in_the_blocks_of_the_race() {
    let problem = Problem::of(&definition(2, 10, 5));
    let race = Race::new(&problem, Racing { block: 4, error: 0.0, seed: 7 }).expect("a rule");
    let all: Vec<u32> = (0..20).collect();
    let blocks = race.blocks_of(&all);
    assert_eq!(blocks.iter().map(Vec::len).collect::<Vec<_>>(), [8, 8, 4]);
    for (number, block) in blocks.iter().enumerate() {
        let wanted = race.block(number);
        let (first, second): (Vec<u32>, Vec<u32>) = block.iter().copied().partition(|ordinal| *ordinal < 10);
        for (found, (wanted, offset)) in [first, second].into_iter().zip(wanted.into_iter().zip([0, 10])) {
            let mut wanted: Vec<u32> = wanted.iter().map(|query| *query as u32 + offset).collect();
            wanted.sort_unstable();
            assert_eq!(found, wanted);
        }
    }
    // Of a job that is partly done.
    let left: Vec<u32> = blocks.concat().split_off(10);
    assert_eq!(race.blocks_of(&left).iter().map(Vec::len).collect::<Vec<_>>(), [6, 4]);
}

#[test]
fn what_is_known_out_of_turn_does_not_count_as_asked() {
    let problem = Problem::of(&definition(2, 10, 5));
    let race = Race::new(&problem, Racing { block: 4, error: 0.0, seed: 7 }).expect("a rule");
    let known: Vec<u32> =
        race.order(0)[..3].iter().chain(&race.order(0)[4..]).map(|query| *query as u32).collect();
    let asked = race.asked(|ordinal| known.contains(&ordinal).then_some(Level(1)));
    assert_eq!(asked[0], Asked { queries: 3, counts: vec![0, 3, 0] });
    assert_eq!(asked[1], Asked { queries: 0, counts: vec![0, 0, 0] });
}
