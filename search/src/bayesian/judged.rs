//! The judged rung: ordinal outcomes with binomial noise.
//!
//! Per domain and per threshold between two levels, the number of responses above the threshold is binomial, and so is the
//! number of those at any level (unclear and refused ones count in n); its
//! probability is Φ of a Gaussian process. The thresholds of a domain share lengths, chosen by the marginal likelihood of
//! the counts. Where likelihoods are measured too, what they say of the rates is the mean, and comes in as covariates. A draw
//! moves all thresholds of a domain together, as a better or worse model would.
//!
//! No count tells a rate exactly, so that the best measured point is not known either: in every joint draw it is another
//! one, and a candidate gains what it is better than the draw's best (B. Letham et al., "Constrained Bayesian optimization
//! with noisy experiments", 2019).

use std::collections::BTreeSet;

use avsweep_domain::{BayesianSettings, Level, Point, Target};
use faer::Mat;
use rayon::prelude::*;

use super::acquisition::{Acquisition, SAME};
use super::assurance::bound;
use super::candidates;
use super::covariates::{self, Covariates, Guess};
use super::likelihood::Known;
use super::rates::{Counts, RESOLUTION};
use crate::gp::{BinomialGp, LatentDraws, Sites, Threshold, fit_binomial, spread};
use crate::honesty::Assurance;
use crate::normal::cdf;
use crate::problem::{Decision, History, Measured, Problem};
use crate::random::{normal, stream};
use crate::sequence;

/// Draws of each domain's latent functions.
const SAMPLES: usize = 64;

/// Points predicted together.
const CHUNK: usize = 256;

/// A candidate's draws cost the square of the known points: at most so much is spent on a whole grid.
const MOST_WORK: usize = 2_000_000_000;

/// Kernels are chosen by at most so many points.
const FIT_POINTS: usize = 100;

/// A domain's model.
struct JudgedModel {
    /// Of the responses at a level, those above each threshold, lowest first.
    thresholds: Vec<BinomialGp>,
    /// Of all responses, those at any level; `None` while all are.
    told: Option<BinomialGp>,
}

/// A domain's joint draws, and how far each of them lies from what the measured points tell elsewhere.
struct Drawn {
    thresholds: Vec<LatentDraws>,
    told: Option<LatentDraws>,
    deviates: Vec<f64>,
}

/// A judged point: where, with which log-probabilities, and its counts.
struct Judged<'a> {
    point: &'a Point,
    log_probs: &'a [f32],
    counts: &'a [u32],
}

/// All domains' models.
struct Models<'a> {
    problem: &'a Problem,
    covariates: Option<Covariates<'a>>,
    domains: Vec<(JudgedModel, Drawn)>,
}

pub(super) fn next_points(
    problem: &Problem,
    settings: &BayesianSettings,
    known: &Known<'_>,
    limit: usize,
) -> Decision {
    let judged: Vec<Judged<'_>> = known.measured.iter().filter_map(|measured| Judged::of(measured)).collect();
    let Some(models) = Models::new(problem, settings, known.history.measured, &judged) else {
        return super::propose_or_finish(sequence::spread(
            problem.space(),
            settings.seed,
            known.points,
            limit,
        ));
    };
    let wants = problem.wants(known.history);
    // What is measured and what is pending will be known: the best of them in each draw counts as found.
    let mut points: Vec<&Point> =
        known.history.pending.iter().chain(judged.iter().map(|judged| judged.point)).collect();
    points.sort();
    points.dedup();
    let found_counts = models.counts(&points);
    let aggregate = settings.aggregate;
    let best = vec![vec![0.0; SAMPLES]; wants.len()];
    let mut found = Acquisition { counts: &found_counts, wants: &wants, aggregate, best };
    let leaders: Vec<&Point> = leaders(&found, &points).into_iter().map(|place| points[place]).collect();
    let candidates = open_candidates(problem, settings, known.points, &leaders);
    if candidates.is_empty() {
        return Decision::Finished;
    }
    (0..points.len()).for_each(|index| found.take(index));
    let best = found.best;
    let candidate_counts = models.counts(&candidates.iter().collect::<Vec<_>>());
    let mut acquisition = Acquisition { counts: &candidate_counts, wants: &wants, aggregate, best };
    let choices = acquisition.choose(&(0..candidates.len()).collect::<Vec<_>>(), limit);
    let gain = choices.first().map_or(0.0, |choice| choice.gain);
    if gain < settings.min_gain {
        return if known.history.pending.is_empty() { Decision::Finished } else { Decision::Wait };
    }
    if choices.is_empty() {
        return super::propose_or_finish(sequence::spread(
            problem.space(),
            settings.seed,
            known.points,
            limit,
        ));
    }
    Decision::Propose(choices.iter().map(|choice| candidates[choice.candidate].clone()).collect())
}

/// Whether a better point than the best judged one is left, by joint draws of all rates; `None` without a model.
///
/// A target's best point is the one of the highest expected value: the noise of its own counts is smoothed away, and a
/// point whose domains are all a little uncertain is worth less than their rates say.
pub(super) fn assurances(
    problem: &Problem,
    settings: &BayesianSettings,
    measured: &[Measured<'_>],
) -> Option<Vec<Assurance>> {
    let history = History { proposed: measured.len() as u64, measured, ..History::default() };
    let mut judged: Vec<Judged<'_>> =
        measured.iter().filter(|measured| problem.rates(measured).is_some()).filter_map(Judged::of).collect();
    judged.sort_by_key(|judged| judged.point);
    judged.dedup_by_key(|judged| judged.point);
    let models = Models::new(problem, settings, measured, &judged)?;
    let wants = problem.wants(&history);
    let (points, known): (Vec<&Point>, BTreeSet<&Point>) =
        judged.iter().map(|judged| (judged.point, judged.point)).unzip();
    let found_counts = models.counts(&points);
    let none = || vec![vec![0.0; SAMPLES]; wants.len()];
    let aggregate = settings.aggregate;
    let found = Acquisition { counts: &found_counts, wants: &wants, aggregate, best: none() };
    let leaders = leaders(&found, &points);
    let leading: Vec<&Point> = leaders.iter().map(|place| points[*place]).collect();
    let candidates = open_candidates(problem, settings, &known, &leading);
    let candidate_counts = models.counts(&candidates.iter().collect::<Vec<_>>());
    let mut best = none();
    best.iter_mut().zip(&leaders).enumerate().for_each(|(target, (best, leader))| {
        found.values(&wants[target], *leader, best);
    });
    let others = Acquisition { counts: &found_counts, wants: &wants, aggregate, best: best.clone() };
    let open = Acquisition { counts: &candidate_counts, wants: &wants, aggregate, best };
    let of_target = |(target, wanted): (usize, Target)| {
        let regrets: Vec<f32> = others
            .joint_regrets(target)
            .into_iter()
            .zip(open.joint_regrets(target))
            .map(|(measured, open)| measured.max(open))
            .collect();
        let chosen = leaders[target];
        let value = f64::from(found.expected(target, chosen));
        let better = regrets.iter().filter(|regret| **regret > SAME).count();
        let sum: f64 = regrets.iter().map(|regret| f64::from(*regret)).sum();
        let next = open.rivals(target).first().map(|rival| (candidates[rival.candidate].clone(), rival.gain));
        Assurance {
            target: wanted,
            chosen: points[chosen].clone(),
            value,
            probability_best: 1.0 - better as f64 / SAMPLES as f64,
            expected_regret: sum / SAMPLES as f64,
            regret_bound: bound(regrets, 0.0, 1.0 - value),
            next,
        }
    };
    Some(problem.targets().into_iter().enumerate().map(of_target).collect())
}

/// Per target, the place of the point with the highest expected value, the first on a tie.
fn leaders(found: &Acquisition<'_>, points: &[&Point]) -> Vec<usize> {
    let of_target = |target| {
        let mut best = (0, f32::NEG_INFINITY);
        for point in 0..points.len() {
            let value = found.expected(target, point);
            if value > best.1 {
                best = (point, value);
            }
        }
        best.0
    };
    (0..found.wants.len()).map(of_target).collect()
}

/// Every open grid point, or those sampled around the targets' best points where these are too many, or too many points are
/// judged for all of them; in ticks order.
fn open_candidates(
    problem: &Problem,
    settings: &BayesianSettings,
    known: &BTreeSet<&Point>,
    leaders: &[&Point],
) -> Vec<Point> {
    let affordable =
        |grid: &Vec<Point>| grid.len().saturating_mul(known.len()).saturating_mul(known.len()) <= MOST_WORK;
    let mut candidates = problem.whole_grid().filter(affordable).unwrap_or_else(|| {
        let mut leaders = leaders.to_vec();
        leaders.sort();
        leaders.dedup();
        (0..2).flat_map(|round| candidates::sampled(problem, settings.seed, round, &leaders)).collect()
    });
    candidates.retain(|point| !known.contains(point));
    candidates.sort();
    candidates.dedup();
    candidates
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

impl<'a> Judged<'a> {
    fn of(measured: &Measured<'a>) -> Option<Self> {
        Some(Self { point: measured.point, log_probs: measured.log_probs, counts: measured.judged? })
    }

    /// Of a domain's `levels`.
    fn at_levels(&self, domain: usize, levels: usize) -> &'a [u32] {
        &self.counts[domain * levels..(domain + 1) * levels]
    }
}

impl JudgedModel {
    /// `guesses` are of the judged points.
    fn new(problem: &Problem, domain: usize, judged: &[Judged<'_>], guesses: Vec<Guess>) -> Option<Self> {
        let levels = problem.levels();
        let dimensions = problem.space().dimensions();
        let at_levels = |row: usize| judged[row].at_levels(domain, levels);
        let above = |threshold: usize, row: usize| -> (u32, u32) {
            (at_levels(row)[threshold..].iter().sum(), at_levels(row).iter().sum())
        };
        let mut thresholds: Vec<Threshold> = (1..levels)
            .zip(guesses)
            .map(|(threshold, guess)| Threshold {
                counts: (0..judged.len()).map(|row| above(threshold, row)).collect(),
                means: guess.means,
                covariates: guess.covariates,
            })
            .collect();
        let queries = problem.domains()[domain].queries as u32;
        let told = |row: usize| -> (u32, u32) { (at_levels(row).iter().sum::<u32>().min(queries), queries) };
        let told: Vec<(u32, u32)> = (0..judged.len()).map(told).collect();
        let modelled = |thresholds: &[Threshold]| -> Option<Vec<BinomialGp>> {
            let some: Vec<usize> = spread(judged.len(), FIT_POINTS).collect();
            let coordinates = |rows: &mut dyn Iterator<Item = usize>| -> Vec<f64> {
                rows.flat_map(|row| problem.coordinates(judged[row].point)).collect()
            };
            let kept: Vec<Threshold> = thresholds.iter().map(|threshold| threshold.kept(&some)).collect();
            let kernels = fit_binomial(&coordinates(&mut some.iter().copied()), dimensions, &kept);
            let points = coordinates(&mut (0..judged.len()));
            let gp = |(kernel, Threshold { means, covariates, counts }): (_, &Threshold)| {
                let sites =
                    Sites { points: points.clone(), means: means.clone(), covariates: covariates.clone() };
                BinomialGp::new(kernel, sites, counts).ok()
            };
            kernels.into_par_iter().zip(thresholds).map(gp).collect()
        };
        let all_told = told.iter().all(|(count, _)| *count == queries);
        let of_thresholds = modelled(&thresholds)?;
        if all_told {
            return Some(Self { thresholds: of_thresholds, told: None });
        }
        thresholds = vec![Threshold {
            means: vec![0.0; judged.len()],
            covariates: Mat::zeros(judged.len(), 0),
            counts: told,
        }];
        Some(Self { thresholds: of_thresholds, told: Some(modelled(&thresholds)?.pop()?) })
    }

    fn draw(&self, seed: u64, domain: usize, measured: usize) -> Option<Drawn> {
        let mut generator = stream(seed, "judged draws", domain as u64);
        let mut numbers = |count: usize| -> Vec<f64> { (0..count).map(|_| normal(&mut generator)).collect() };
        let deviates = numbers(SAMPLES);
        // The same numbers for all thresholds: their functions go up and down together.
        let normals: Vec<(Vec<f64>, Vec<f64>)> =
            (0..SAMPLES).map(|_| (numbers(measured), numbers(measured))).collect();
        let thresholds = self.thresholds.par_iter().map(|gp| gp.draws(&normals).ok());
        let thresholds = thresholds.collect::<Option<_>>()?;
        let told = self.told.as_ref().map(|gp| gp.draws(&normals)).transpose().ok()?;
        Some(Drawn { thresholds, told, deviates })
    }
}

/// The rate of each level from the probits of being above each threshold, lowest threshold first.
fn level_rates(above: impl Iterator<Item = f64>, rates: &mut [f64]) {
    let mut below = 1.0;
    for (threshold, probit) in above.enumerate() {
        // Thresholds are modelled apart: a higher one is never passed more often than a lower one.
        let above = cdf(probit).min(below);
        rates[threshold] = below - above;
        below = above;
    }
    if let Some(last) = rates.last_mut() {
        *last = below;
    }
}

impl<'a> Models<'a> {
    fn new(
        problem: &'a Problem,
        settings: &BayesianSettings,
        measured: &[Measured<'_>],
        judged: &[Judged<'_>],
    ) -> Option<Self> {
        if judged.len() < 2 {
            return None;
        }
        let covariates = Covariates::new(problem, measured);
        let log_probs: Vec<&[f32]> = judged.iter().map(|judged| judged.log_probs).collect();
        let of_domain = |domain| {
            let guesses = match &covariates {
                Some(covariates) => covariates.measured(domain, &log_probs),
                None => covariates::none(judged.len(), problem.levels()),
            };
            let model = JudgedModel::new(problem, domain, judged, guesses)?;
            let drawn = model.draw(settings.seed, domain, judged.len())?;
            Some((model, drawn))
        };
        let domains: Option<_> = (0..problem.domains().len()).into_par_iter().map(of_domain).collect();
        let domains = domains?;
        Some(Self { problem, covariates, domains })
    }

    /// Drawn rates at some points, per domain.
    fn counts(&self, points: &[&Point]) -> Vec<Counts> {
        let levels = self.problem.levels();
        let scaled = |rate: f64| (rate.clamp(0.0, 1.0) * f64::from(RESOLUTION)).round() as u16;
        let of_chunk = |chunk: &[&Point]| -> Vec<Counts> {
            let at: Vec<f64> = chunk.iter().flat_map(|point| self.problem.coordinates(point)).collect();
            let of_domain = |(domain, (model, drawn)): (usize, &(JudgedModel, Drawn))| {
                let guesses = match &self.covariates {
                    Some(covariates) => covariates.expected(domain, &at),
                    None => covariates::none(chunk.len(), levels),
                };
                let processes = model.thresholds.iter().zip(&drawn.thresholds).zip(guesses);
                let latent: Vec<_> = processes
                    .map(|((gp, draws), Guess { means, covariates })| {
                        gp.drawn(draws, &Sites { points: at.clone(), means, covariates })
                    })
                    .collect();
                let plain = Sites::plain(at.clone(), self.problem.space().dimensions());
                let told =
                    model.told.as_ref().zip(drawn.told.as_ref()).map(|(gp, draws)| gp.drawn(draws, &plain));
                let mut counts = Counts::of_rates(levels, SAMPLES);
                let mut rates = vec![0.0; levels];
                let mut block = vec![0; levels * SAMPLES];
                for point in 0..chunk.len() {
                    for (sample, deviate) in drawn.deviates.iter().enumerate() {
                        let above = latent
                            .iter()
                            .map(|(values, left)| values[(point, sample)] + deviate * left[point]);
                        level_rates(above, &mut rates);
                        if let Some((values, left)) = &told {
                            let share = cdf(values[(point, sample)] + deviate * left[point]);
                            rates.iter_mut().for_each(|rate| *rate *= share);
                        }
                        for (level, rate) in rates.iter().enumerate() {
                            block[level * SAMPLES + sample] = scaled(*rate);
                        }
                    }
                    counts.push_samples(&block);
                }
                counts
            };
            self.domains.iter().enumerate().map(of_domain).collect()
        };
        let chunks: Vec<Vec<Counts>> = points.par_chunks(CHUNK).map(of_chunk).collect();
        let mut all = vec![Counts::of_rates(levels, SAMPLES); self.domains.len()];
        for chunk in chunks {
            all.iter_mut().zip(chunk).for_each(|(all, more)| all.append(more));
        }
        all
    }
}
