//! Whether a better point than the best measured one is left: joint draws of the rivals' log-probabilities.

use std::collections::BTreeSet;

use avsweep_domain::{BayesianSettings, Point};
use faer::Mat;

use super::acquisition::{Acquisition, Rival, SAME};
use super::likelihood::{Known, STOPPING_BOLDNESS, Search, models};
use super::rates::Counts;
use crate::honesty::Assurance;
use crate::problem::{History, Measured, Problem, first_largest};
use crate::random::{normal, stream};

/// Joint draws.
const DRAWS: usize = 128;

/// Rivals of each target that are drawn jointly; of the others only the sum of their chances counts.
const RIVALS: usize = 6;

/// At most so many joint numbers per draw: rivals times measured points.
const MOST_JOINT: usize = 24_000;

/// The regret's bound holds with this probability.
const CONFIDENCE: f64 = 0.95;

pub(super) fn assurances(
    problem: &Problem,
    settings: &BayesianSettings,
    measured: &[Measured<'_>],
) -> Option<Vec<Assurance>> {
    let history = History { proposed: measured.len() as u64, measured, ..History::default() };
    let mut usable: Vec<&Measured<'_>> =
        measured.iter().filter(|measured| problem.rates(measured).is_some()).collect();
    usable.sort_by_key(|measured| measured.point);
    usable.dedup_by_key(|measured| measured.point);
    if usable.len() < 2 {
        return None;
    }
    let points: BTreeSet<&Point> = usable.iter().map(|measured| measured.point).collect();
    let known = Known { history: &history, measured: &usable, points: &points };
    let models = models(problem, settings, &known)?;
    let search = Search::new(problem, settings, &known, &models);
    let pool = search.candidates();
    // Widened: what is left out of the joint draws is counted at its worst.
    let counts = search.sampled_counts(&pool, STOPPING_BOLDNESS);
    let acquisition = search.acquisition(&counts, STOPPING_BOLDNESS);
    let rivals: Vec<Vec<Rival>> = (0..search.wants.len()).map(|target| acquisition.rivals(target)).collect();

    let mut joint: Vec<usize> = Vec::new();
    let mut listed = BTreeSet::new();
    let most = (MOST_JOINT / usable.len()).clamp(32, 192);
    for place in 0..RIVALS {
        for rivals in &rivals {
            if let Some(rival) = rivals.get(place)
                && joint.len() < most
                && listed.insert(rival.candidate)
            {
                joint.push(rival.candidate);
            }
        }
    }
    let drawn = draw(problem, settings, &models, &pool.points, &joint)?;
    let best = search.incumbents.iter().map(|(_, value)| vec![*value as f32; DRAWS]).collect();
    let drawn = Acquisition { counts: &drawn, wants: &search.wants, aggregate: settings.aggregate, best };
    let targets = problem.targets();
    let of_target = |(target, rivals): (usize, &Vec<Rival>)| {
        let (row, value) = search.incumbents[target];
        let regrets = drawn.joint_regrets(target);
        let others = rivals.iter().filter(|rival| !listed.contains(&rival.candidate));
        let (gain, share) =
            others.fold((0.0, 0.0), |(gain, share), rival| (gain + rival.gain, share + rival.share));
        let better = regrets.iter().filter(|regret| **regret > SAME).count() as f64 / DRAWS as f64;
        let expected = regrets.iter().map(|regret| f64::from(*regret)).sum::<f64>() / DRAWS as f64;
        Assurance {
            target: targets[target].clone(),
            chosen: usable[row].point.clone(),
            value,
            probability_best: (1.0 - better - share).max(0.0),
            expected_regret: (expected + gain).min(1.0 - value).max(0.0),
            regret_bound: bound(regrets, share, 1.0 - value),
            next: rivals.first().map(|rival| (pool.points[rival.candidate].clone(), rival.gain)),
        }
    };
    Some(rivals.iter().enumerate().map(of_target).collect())
}

/// The regret that is not exceeded with the stated confidence, when regrets outside the draws have the chance `outside`.
pub(super) fn bound(mut regrets: Vec<f32>, outside: f64, most: f64) -> f64 {
    let left = 1.0 - CONFIDENCE - outside;
    if left <= 0.0 {
        return most.max(0.0);
    }
    regrets.sort_by(|left, right| right.total_cmp(left));
    let exceeding = (left * regrets.len() as f64) as usize;
    regrets.get(exceeding).map_or(0.0, |regret| f64::from(*regret).max(0.0))
}

/// Joint draws of the counts at some candidates, per domain.
///
/// Given what is known, the outputs at M points are matrix normal: `mean + A E R` with `A Aᵀ` the points' covariances, `Rᵀ R`
/// the outputs', and E independent standard normal numbers.
fn draw(
    problem: &Problem,
    settings: &BayesianSettings,
    models: &[super::likelihood::Model],
    candidates: &[Point],
    joint: &[usize],
) -> Option<Vec<Counts>> {
    let levels = problem.levels();
    let at: Vec<f64> = joint.iter().flat_map(|index| problem.coordinates(&candidates[*index])).collect();
    let of_domain = |(domain, model): (usize, &super::likelihood::Model)| {
        let mut counts = Counts::empty_of(levels, DRAWS, model.gp.outputs() / levels);
        if joint.is_empty() {
            return Some(counts);
        }
        let means = model.gp.predict(&at).means;
        let factor = model.gp.joint_factor(&at).ok()?;
        let residuals = model.gp.residuals();
        let mut generator = stream(settings.seed, "joint draws", domain as u64);
        let mut blocks = vec![0u16; joint.len() * levels * DRAWS];
        let mut scores = vec![0.0f32; levels];
        for draw in 0..DRAWS {
            let normals = Mat::from_fn(joint.len(), residuals.nrows(), |_, _| normal(&mut generator));
            let outputs = &means + (&factor * normals) * residuals;
            for point in 0..joint.len() {
                for query in 0..outputs.ncols() / levels {
                    for (level, score) in scores.iter_mut().enumerate() {
                        *score = outputs[(point, query * levels + level)] as f32;
                    }
                    blocks[(point * levels + first_largest(&scores)) * DRAWS + draw] += 1;
                }
            }
        }
        blocks.chunks_exact(levels * DRAWS).for_each(|block| counts.push_samples(block));
        Some(counts)
    };
    models.iter().enumerate().map(of_domain).collect()
}
