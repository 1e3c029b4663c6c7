//! The judged rung: ordinal outcomes with binomial noise.
//!
//! Per domain and per threshold between two levels, the number of responses above the threshold is binomial; its
//! probability is Φ of a Gaussian process. The thresholds of a domain share one kernel, chosen by the marginal likelihood of
//! the counts' probits. A draw moves all thresholds of a domain together, as a better or worse model would.

use avsweep_domain::{BayesianSettings, Level, Point};
use faer::Mat;
use rayon::prelude::*;

use super::acquisition::Acquisition;
use super::candidates;
use super::likelihood::Known;
use super::rates::{Counts, RESOLUTION};
use crate::gp::{self, BinomialGp, Kernel, empirical_probit};
use crate::normal::cdf;
use crate::problem::{Decision, Problem};
use crate::random::{normal, stream};
use crate::sequence;

/// Samples of each domain's latent functions.
const SAMPLES: usize = 32;

/// Points predicted together.
const CHUNK: usize = 256;

/// No sample deviates by more.
const FARTHEST: f64 = 3.3;

/// A domain's model: a process per threshold, lowest first.
pub(crate) struct JudgedModel {
    thresholds: Vec<BinomialGp>,
}

/// Probabilities of being above each threshold: latent means and deviations, per point and threshold.
struct Latent {
    thresholds: usize,
    values: Vec<(f64, f64)>,
}

pub(super) fn next_points(
    problem: &Problem,
    settings: &BayesianSettings,
    known: &Known<'_>,
    limit: usize,
) -> Decision {
    let judged: Vec<(&Point, &[u32])> =
        known.measured.iter().filter_map(|measured| Some((measured.point, measured.judged?))).collect();
    let pending: Vec<&Point> =
        known.points.iter().copied().filter(|point| known.history.pending.contains(point)).collect();
    let models: Option<Vec<JudgedModel>> = (0..problem.domains().len())
        .into_par_iter()
        .map(|domain| JudgedModel::new(problem, domain, &judged))
        .collect();
    let Some(models) = models else {
        return super::propose_or_finish(sequence::spread(
            problem.space(),
            settings.seed,
            known.points,
            limit,
        ));
    };
    let wants = problem.wants(known.history);
    let measured: Vec<&Point> = judged.iter().map(|(point, _)| *point).collect();
    let incumbents = best_of(problem, &wants, &expected_rates(problem, &models, &measured));
    let candidates = match candidates::enumerated(problem) {
        Some(all) => all,
        None => {
            let leaders: std::collections::BTreeSet<&Point> =
                incumbents.iter().map(|(row, _)| measured[*row]).collect();
            (0..2)
                .flat_map(|round| {
                    candidates::sampled(
                        problem,
                        settings.seed,
                        round,
                        &leaders.iter().copied().collect::<Vec<_>>(),
                    )
                })
                .collect()
        }
    };
    let mut candidates: Vec<Point> =
        candidates.into_iter().filter(|point| !known.points.contains(point)).collect();
    candidates.sort();
    candidates.dedup();
    if candidates.is_empty() {
        return Decision::Finished;
    }
    let best: Vec<Vec<f32>> = incumbents.iter().map(|(_, value)| vec![*value as f32; SAMPLES]).collect();
    let deviates = deviates(settings.seed, models.len());
    let aggregate = settings.aggregate;
    // What is pending will be known: what it may show counts as found.
    let pending_counts =
        counts(problem, &models, &pending, &deviates, &wants, &vec![f32::NEG_INFINITY; wants.len()]);
    let mut fantasy = Acquisition { counts: &pending_counts, wants: &wants, aggregate, best };
    (0..pending.len()).for_each(|index| fantasy.take(index));
    let best = fantasy.best;
    let floor: Vec<f32> =
        best.iter().map(|best| best.iter().copied().fold(f32::INFINITY, f32::min)).collect();
    let points: Vec<&Point> = candidates.iter().collect();
    let counts = counts(problem, &models, &points, &deviates, &wants, &floor);
    let mut acquisition = Acquisition { counts: &counts, wants: &wants, aggregate, best };
    let open: Vec<usize> = (0..candidates.len()).collect();
    let choices = acquisition.choose(&open, limit);
    let gain = choices.first().map_or(0.0, |choice| choice.gain);
    if gain < settings.min_gain {
        return if known.history.pending.is_empty() { Decision::Finished } else { Decision::Wait };
    }
    let chosen: Vec<Point> = choices.iter().map(|choice| candidates[choice.candidate].clone()).collect();
    if chosen.is_empty() {
        return super::propose_or_finish(sequence::spread(
            problem.space(),
            settings.seed,
            known.points,
            limit,
        ));
    }
    Decision::Propose(chosen)
}

/// Expected rates (`domains × levels`) at judged points, the noise of their counts smoothed away; `None` without a model.
pub(crate) fn smoothed_rates(problem: &Problem, judged: &[(&Point, &[u32])]) -> Option<Vec<Vec<f64>>> {
    let models: Option<Vec<JudgedModel>> =
        (0..problem.domains().len()).map(|domain| JudgedModel::new(problem, domain, judged)).collect();
    let points: Vec<&Point> = judged.iter().map(|(point, _)| *point).collect();
    Some(expected_rates(problem, &models?, &points))
}

/// Per target, the best of some points (the first on a tie) and its value.
pub(super) fn best_of(
    problem: &Problem,
    wants: &[Vec<Option<Level>>],
    rates: &[Vec<f64>],
) -> Vec<(usize, f64)> {
    let of_target = |wanted: &Vec<Option<Level>>| {
        let mut best = (0, f64::NEG_INFINITY);
        for (row, rates) in rates.iter().enumerate() {
            let value = problem.value(wanted, rates);
            if value > best.1 {
                best = (row, value);
            }
        }
        best
    };
    wants.iter().map(of_target).collect()
}

impl JudgedModel {
    fn new(problem: &Problem, domain: usize, judged: &[(&Point, &[u32])]) -> Option<Self> {
        let levels = problem.levels();
        let dimensions = problem.space().dimensions();
        let points: Vec<f64> = judged.iter().flat_map(|(point, _)| problem.coordinates(point)).collect();
        let above = |row: usize, threshold: usize| {
            let counts = &judged[row].1[domain * levels..(domain + 1) * levels];
            (counts[threshold..].iter().sum::<u32>(), counts.iter().sum::<u32>())
        };
        let probits = Mat::from_fn(judged.len(), levels - 1, |row, column| {
            let (count, n) = above(row, column + 1);
            empirical_probit(count, n)
        });
        let n = judged.len() as f64;
        let means: Vec<f64> =
            (0..levels - 1).map(|column| probits.col(column).iter().sum::<f64>() / n).collect();
        let centred =
            Mat::from_fn(judged.len(), levels - 1, |row, column| probits[(row, column)] - means[column]);
        let fitted = gp::fit(&points, dimensions, &centred);
        let gp = gp::Gp::new(fitted.clone(), &points, &probits).ok()?;
        let thresholds = (0..levels - 1).map(|threshold| {
            // What the counts' own noise does not explain is no noise at all: a small nugget is left for the arithmetic.
            let kernel = Kernel { nugget: 1e-4, ..fitted.clone() };
            let amplitude = gp.deviation_of(threshold).clamp(0.3, 10.0);
            let counts: Vec<(u32, u32)> = (0..judged.len()).map(|row| above(row, threshold + 1)).collect();
            BinomialGp::new(kernel, means[threshold], amplitude, &points, &counts).ok()
        });
        Some(Self { thresholds: thresholds.collect::<Option<_>>()? })
    }

    fn latent(&self, points: &[f64], count: usize) -> Latent {
        let mut latent = Latent {
            thresholds: self.thresholds.len(),
            values: vec![(0.0, 0.0); count * self.thresholds.len()],
        };
        for (threshold, gp) in self.thresholds.iter().enumerate() {
            let (means, deviations) = gp.predict(points);
            for (point, value) in means.into_iter().zip(deviations).enumerate() {
                latent.values[point * latent.thresholds + threshold] = value;
            }
        }
        latent
    }
}

impl Latent {
    /// The probability of each level at a point, every threshold moved by so many of its deviations.
    fn rates(&self, point: usize, deviate: f64, rates: &mut [f64]) {
        let mut below = 1.0;
        for (threshold, (mean, deviation)) in
            self.values[point * self.thresholds..][..self.thresholds].iter().enumerate()
        {
            // Thresholds are modelled apart: a higher one is never passed more often than a lower one.
            let above = cdf(mean + deviate * deviation).min(below);
            rates[threshold] = below - above;
            below = above;
        }
        rates[self.thresholds] = below;
    }

    /// The expected probability of each level.
    fn expected(&self, point: usize, rates: &mut [f64]) {
        let mut below = 1.0;
        for (threshold, (mean, deviation)) in
            self.values[point * self.thresholds..][..self.thresholds].iter().enumerate()
        {
            let above = cdf(mean / (1.0 + deviation * deviation).sqrt()).min(below);
            rates[threshold] = below - above;
            below = above;
        }
        rates[self.thresholds] = below;
    }

    /// No level's probability exceeds this within so many deviations.
    fn highest(&self, point: usize, rates: &mut [f64]) {
        let at = &self.values[point * self.thresholds..][..self.thresholds];
        let (mut below, mut lowest) = (1.0f64, 1.0f64);
        for (threshold, (mean, deviation)) in at.iter().enumerate() {
            lowest = cdf(mean - FARTHEST * deviation).min(lowest);
            rates[threshold] = below - lowest;
            below = cdf(mean + FARTHEST * deviation);
        }
        rates[self.thresholds] = below;
    }
}

fn expected_rates(problem: &Problem, models: &[JudgedModel], points: &[&Point]) -> Vec<Vec<f64>> {
    let levels = problem.levels();
    let at: Vec<f64> = points.iter().flat_map(|point| problem.coordinates(point)).collect();
    let latents: Vec<Latent> = models.iter().map(|model| model.latent(&at, points.len())).collect();
    let of_point = |point: usize| {
        let mut rates = vec![0.0; models.len() * levels];
        latents
            .iter()
            .zip(rates.chunks_exact_mut(levels))
            .for_each(|(latent, rates)| latent.expected(point, rates));
        rates
    };
    (0..points.len()).map(of_point).collect()
}

/// Per domain, how far each sample's latent functions lie from their means.
fn deviates(seed: u64, domains: usize) -> Vec<Vec<f64>> {
    let of_domain = |domain| {
        let mut generator = stream(seed, "judged draws", domain as u64);
        (0..SAMPLES).map(|_| normal(&mut generator).clamp(-FARTHEST, FARTHEST)).collect()
    };
    (0..domains).map(of_domain).collect()
}

/// Sampled rates where a candidate can be better than `floor` for a target, bounds elsewhere.
fn counts(
    problem: &Problem,
    models: &[JudgedModel],
    points: &[&Point],
    deviates: &[Vec<f64>],
    wants: &[Vec<Option<Level>>],
    floor: &[f32],
) -> Vec<Counts> {
    let levels = problem.levels();
    let scaled = |rate: f64| (rate.clamp(0.0, 1.0) * f64::from(RESOLUTION)).round() as u16;
    let chunks: Vec<Vec<Counts>> = points
        .par_chunks(CHUNK)
        .map(|chunk| {
            let at: Vec<f64> = chunk.iter().flat_map(|point| problem.coordinates(point)).collect();
            let latents: Vec<Latent> = models.iter().map(|model| model.latent(&at, chunk.len())).collect();
            let mut counts = vec![Counts::of_rates(levels, SAMPLES); models.len()];
            let mut highest = vec![0.0; models.len() * levels];
            let mut rates = vec![0.0; levels];
            for point in 0..chunk.len() {
                for (latent, highest) in latents.iter().zip(highest.chunks_exact_mut(levels)) {
                    latent.highest(point, highest);
                }
                let promising = wants
                    .iter()
                    .zip(floor)
                    .any(|(wanted, floor)| problem.value(wanted, &highest) > f64::from(*floor));
                for (domain, counts) in counts.iter_mut().enumerate() {
                    let most: Vec<u16> =
                        highest[domain * levels..][..levels].iter().map(|rate| scaled(*rate)).collect();
                    if !promising {
                        counts.push_bounds(&most);
                        continue;
                    }
                    let mut block = vec![0; levels * SAMPLES];
                    for (sample, deviate) in deviates[domain].iter().enumerate() {
                        latents[domain].rates(point, *deviate, &mut rates);
                        for (level, rate) in rates.iter().enumerate() {
                            block[level * SAMPLES + sample] = scaled(*rate);
                        }
                    }
                    counts.push_samples(&block);
                }
            }
            counts
        })
        .collect();
    let mut all = vec![Counts::of_rates(levels, SAMPLES); models.len()];
    for chunk in chunks {
        all.iter_mut().zip(chunk).for_each(|(all, more)| all.append(more));
    }
    all
}
