//! The likelihood rung: Gaussian processes over the log-probabilities themselves.
//!
//! A domain's log-probabilities (every query and level) are the outputs of one process with one kernel: the same
//! coefficients move them, at the same pace. Levels, rates and all targets' values follow from draws of the outputs.

use std::collections::BTreeSet;

use avsweep_domain::{BayesianSettings, Point};
use faer::Mat;
use rayon::prelude::*;

use super::acquisition::Acquisition;
use super::candidates;
use super::judged::best_of;
use super::rates::{Counts, Draws, Outlook};
use crate::gp::{self, Gp};
use crate::problem::{Decision, DomainShape, History, Measured, Problem};
use crate::random::{normal, stream};
use crate::sequence;

/// Samples of the outputs.
const SAMPLES: usize = 64;

/// Points predicted together.
const CHUNK: usize = 256;

/// Deviations are widened by these, one after another, while no candidate promises anything.
const BOLDNESS: [f64; 4] = [1.0, 2.0, 4.0, 8.0];

/// The widening that the rule for stopping is held to: models are a little too sure of themselves.
pub(super) const STOPPING_BOLDNESS: f64 = 2.0;

/// At most so many candidates get exact deviations where there are so many points that rough ones are cheaper.
const MOST_EXACT: usize = 1024;

/// Rounds of sampling candidates, each around the best of those before, where not all grid points are candidates.
const ROUNDS: u64 = 4;

/// What is known: the history, its usable points in ticks order, and every point measured or pending.
pub(super) struct Known<'a> {
    pub(super) history: &'a History<'a>,
    pub(super) measured: &'a [&'a Measured<'a>],
    pub(super) points: &'a BTreeSet<&'a Point>,
}

/// A domain's model.
pub(super) struct Model {
    /// Pending points only widen what is known.
    pub(super) gp: Gp,
    /// Without the pending points, for these points themselves.
    before: Option<Gp>,
    draws: Draws,
}

/// Candidates and what the models say of them.
#[derive(Default)]
pub(super) struct Pool {
    pub(super) points: Vec<Point>,
    /// Per chunk of [`CHUNK`] candidates or fewer, per domain.
    predictions: Vec<Vec<Outlook>>,
}

pub(super) fn next_points(
    problem: &Problem,
    settings: &BayesianSettings,
    known: &Known<'_>,
    limit: usize,
) -> Decision {
    let Some(models) = models(problem, settings, known) else {
        let points = sequence::spread(problem.space(), settings.seed, known.points, limit);
        return if points.is_empty() { Decision::Finished } else { Decision::Propose(points) };
    };
    let search = Search::new(problem, settings, known, &models);
    let pool = search.candidates();
    if pool.points.is_empty() {
        return Decision::Finished;
    }
    let mut chosen: Vec<usize> = Vec::new();
    for boldness in BOLDNESS {
        let counts = search.sampled_counts(&pool, boldness);
        let mut acquisition = search.acquisition(&counts, boldness);
        chosen.iter().for_each(|taken| acquisition.take(*taken));
        let open: Vec<usize> = (0..pool.points.len()).filter(|index| !chosen.contains(index)).collect();
        let choices = acquisition.choose(&open, limit - chosen.len());
        let gain = choices.first().map_or(0.0, |choice| choice.gain);
        if chosen.is_empty() && gain < settings.min_gain {
            if boldness < STOPPING_BOLDNESS {
                continue;
            }
            // What is pending may still show something.
            return if known.history.pending.is_empty() { Decision::Finished } else { Decision::Wait };
        }
        chosen.extend(choices.iter().map(|choice| choice.candidate));
        if chosen.len() >= limit {
            break;
        }
    }
    if chosen.len() < limit {
        // Nothing promises anything more: learn where least is known.
        let deviations = pool.deviations();
        let mut rest: Vec<usize> = (0..pool.points.len()).filter(|index| !chosen.contains(index)).collect();
        rest.sort_by(|left, right| deviations[*right].total_cmp(&deviations[*left]).then(left.cmp(right)));
        chosen.extend(rest.into_iter().take(limit - chosen.len()));
    }
    Decision::Propose(chosen.into_iter().map(|index| pool.points[index].clone()).collect())
}

impl Pool {
    /// Per candidate, its chunk and its row there: chunks differ in length where candidates came in rounds.
    fn rows(&self) -> Vec<(usize, usize)> {
        let rows = |(chunk, predictions): (usize, &Vec<Outlook>)| {
            let count = predictions.first().map_or(0, |outlook| outlook.deviations.len());
            (0..count).map(move |row| (chunk, row))
        };
        self.predictions.iter().enumerate().flat_map(rows).collect()
    }

    /// Per candidate, the largest of the domains' deviations.
    fn deviations(&self) -> Vec<f32> {
        let largest = |chunk: &Vec<Outlook>| -> Vec<f32> {
            let points = chunk.first().map_or(0, |outlook| outlook.deviations.len());
            (0..points)
                .map(|point| chunk.iter().map(|outlook| outlook.deviations[point]).fold(0.0, f32::max))
                .collect()
        };
        self.predictions.iter().flat_map(largest).collect()
    }
}

pub(super) fn models(
    problem: &Problem,
    settings: &BayesianSettings,
    known: &Known<'_>,
) -> Option<Vec<Model>> {
    let coordinates = |points: &mut dyn Iterator<Item = &Point>| -> Vec<f64> {
        points.flat_map(|point| problem.coordinates(point)).collect()
    };
    let at = coordinates(&mut known.measured.iter().map(|measured| measured.point));
    let mut pending: Vec<&Point> = known.history.pending.iter().collect();
    pending.sort();
    pending.dedup();
    pending.retain(|point| known.measured.binary_search_by_key(point, |measured| measured.point).is_err());
    let pending = coordinates(&mut pending.into_iter());
    let levels = problem.levels();
    (0..problem.domains().len())
        .into_par_iter()
        .map(|domain| {
            let outputs = outputs(problem, known.measured, domain);
            let kernel = gp::fit_some(&at, problem.space().dimensions(), &outputs);
            let gp = gp::conditioned(&kernel, &at, &outputs, &pending)?;
            let before =
                if pending.is_empty() { None } else { Some(gp::conditioned(&kernel, &at, &outputs, &[])?) };
            let mut generator = stream(settings.seed, "draws", domain as u64);
            let mut normals = |_| (0..known.measured.len()).map(|_| normal(&mut generator)).collect();
            let normals: Vec<Vec<f64>> = (0..SAMPLES).map(&mut normals).collect();
            let draws = Draws::new(&gp, levels, &normals);
            Some(Model { gp, before, draws })
        })
        .collect()
}

/// The places of a domain's numbers among a point's log-probabilities.
pub(super) fn domain_columns(problem: &Problem, domain: usize) -> std::ops::Range<usize> {
    let queries = |domains: &[DomainShape]| domains.iter().map(|domain| domain.queries).sum::<usize>();
    let domains = problem.domains();
    queries(&domains[..domain]) * problem.levels()..queries(&domains[..=domain]) * problem.levels()
}

/// A domain's log-probabilities, a row per point.
fn outputs(problem: &Problem, measured: &[&Measured<'_>], domain: usize) -> Mat<f64> {
    let columns = domain_columns(problem, domain);
    Mat::from_fn(measured.len(), columns.len(), |row, column| {
        f64::from(measured[row].log_probs[columns.start + column])
    })
}

/// A domain's process over the log-probabilities of points that all have them.
pub(super) fn process(problem: &Problem, measured: &[&Measured<'_>], domain: usize) -> Option<Gp> {
    let at: Vec<f64> = measured.iter().flat_map(|measured| problem.coordinates(measured.point)).collect();
    let outputs = outputs(problem, measured, domain);
    gp::conditioned(&gp::fit_some(&at, problem.space().dimensions(), &outputs), &at, &outputs, &[])
}

pub(super) struct Search<'a> {
    problem: &'a Problem,
    settings: &'a BayesianSettings,
    known: &'a Known<'a>,
    models: &'a [Model],
    pub(super) wants: Vec<Vec<Option<avsweep_domain::Level>>>,
    /// Per target, its best measured point and that one's value.
    pub(super) incumbents: Vec<(usize, f64)>,
}

impl<'a> Search<'a> {
    pub(super) fn new(
        problem: &'a Problem,
        settings: &'a BayesianSettings,
        known: &'a Known<'a>,
        models: &'a [Model],
    ) -> Self {
        let wants = problem.wants(known.history);
        let rates: Vec<Vec<f64>> =
            known.measured.iter().map(|measured| problem.rates(measured).unwrap_or_default()).collect();
        let incumbents = best_of(problem, &wants, &rates);
        Self { problem, settings, known, models, wants, incumbents }
    }

    /// Every open grid point, or those sampled around the leaders, and what the models say of them.
    pub(super) fn candidates(&self) -> Pool {
        let pool = match self.problem.whole_grid() {
            Some(mut all) => {
                all.retain(|point| !self.known.points.contains(point));
                self.pool(all)
            }
            None => self.refined(),
        };
        self.with_exact_deviations(pool)
    }

    /// What the models say of these points.
    fn pool(&self, points: Vec<Point>) -> Pool {
        let predictions = self.predicted(&points, |model| &model.gp);
        Pool { points, predictions }
    }

    /// Chunks are computed on any thread and put together in order: threads change nothing.
    fn predicted(&self, points: &[Point], gp: fn(&Model) -> &Gp) -> Vec<Vec<Outlook>> {
        let chunks = points.par_chunks(CHUNK).map(|chunk| {
            let at: Vec<f64> = chunk.iter().flat_map(|point| self.problem.coordinates(point)).collect();
            self.models.iter().map(|model| Outlook::new(&gp(model).predict_roughly(&at))).collect()
        });
        chunks.collect()
    }

    /// Candidates that can be better than what is known.
    fn promising(&self, counts: &[Counts], boldness: f64) -> Vec<usize> {
        let acquisition = self.acquisition(counts, boldness);
        let floor = acquisition.floor();
        let candidates = 0..counts.first().map_or(0, Counts::points);
        candidates.filter(|candidate| acquisition.is_promising(*candidate, &floor)).collect()
    }

    /// Puts exact deviations in place of rough ones where they can matter, unless that is nearly everywhere.
    fn with_exact_deviations(&self, mut pool: Pool) -> Pool {
        if !self.models.iter().any(|model| model.gp.has_rough_predictions()) {
            return pool;
        }
        let mut promising =
            self.promising(&self.bounded_counts(&pool.predictions, STOPPING_BOLDNESS), STOPPING_BOLDNESS);
        if promising.len() > MOST_EXACT {
            promising = self.promising(&self.bounded_counts(&pool.predictions, 1.0), 1.0);
        }
        if promising.len() > MOST_EXACT {
            return pool;
        }
        let exact: Vec<Vec<f64>> = self
            .models
            .par_iter()
            .map(|model| {
                let of_chunk = |chunk: &[usize]| {
                    let at =
                        chunk.iter().flat_map(|candidate| self.problem.coordinates(&pool.points[*candidate]));
                    model.gp.deviations(&at.collect::<Vec<f64>>())
                };
                promising.chunks(CHUNK).flat_map(of_chunk).collect()
            })
            .collect();
        let rows = pool.rows();
        for (place, candidate) in promising.iter().enumerate() {
            let (chunk, row) = rows[*candidate];
            for (outlook, exact) in pool.predictions[chunk].iter_mut().zip(&exact) {
                outlook.deviations[row] = exact[place] as f32;
            }
        }
        pool
    }

    /// Counts per domain, sampled where a candidate can be better than what is known.
    pub(super) fn sampled_counts(&self, pool: &Pool, boldness: f64) -> Vec<Counts> {
        let mut counts = self.bounded_counts(&pool.predictions, boldness);
        let promising = self.promising(&counts, boldness);
        let rows = pool.rows();
        counts.par_iter_mut().zip(self.models).enumerate().for_each(|(domain, (counts, model))| {
            for candidate in &promising {
                let (chunk, row) = rows[*candidate];
                counts.sample(
                    *candidate,
                    &pool.predictions[chunk][domain],
                    row,
                    &model.draws,
                    boldness as f32,
                );
            }
        });
        counts
    }

    /// Bounds of the counts per domain.
    fn bounded_counts(&self, predictions: &[Vec<Outlook>], boldness: f64) -> Vec<Counts> {
        let counts = self.models.par_iter().enumerate().map(|(domain, model)| {
            let mut counts = Counts::empty(&model.draws);
            predictions.iter().for_each(|chunk| counts.add(&chunk[domain], &model.draws, boldness as f32));
            counts
        });
        counts.collect()
    }

    /// Candidates sampled around the leaders, round by round.
    fn refined(&self) -> Pool {
        let mut pool = Pool::default();
        let mut seen: BTreeSet<Point> = BTreeSet::new();
        let mut leaders: BTreeSet<Point> =
            self.incumbents.iter().map(|(row, _)| self.known.measured[*row].point.clone()).collect();
        for round in 0..ROUNDS {
            let around: Vec<&Point> = leaders.iter().collect();
            let mut fresh = candidates::sampled(self.problem, self.settings.seed, round, &around);
            fresh.retain(|point| !self.known.points.contains(point) && seen.insert(point.clone()));
            pool.predictions.extend(self.predicted(&fresh, |model| &model.gp));
            pool.points.extend(fresh);
            let counts = self.sampled_counts(&pool, 1.0);
            let acquisition = self.acquisition(&counts, 1.0);
            leaders.extend(acquisition.leaders().into_iter().map(|index| pool.points[index].clone()));
        }
        pool
    }

    pub(super) fn acquisition<'b>(&'b self, counts: &'b [Counts], boldness: f64) -> Acquisition<'b> {
        let aggregate = self.settings.aggregate;
        let best = self.incumbents.iter().map(|(_, value)| vec![*value as f32; SAMPLES]).collect();
        let mut acquisition = Acquisition { counts, wants: &self.wants, aggregate, best };
        if self.models.iter().all(|model| model.before.is_some()) {
            let mut pending: Vec<Point> = self.known.history.pending.to_vec();
            pending.sort();
            pending.dedup();
            let predictions = self.predicted(&pending, |model| model.before.as_ref().unwrap_or(&model.gp));
            let mut counts = self.bounded_counts(&predictions, boldness);
            for (domain, (counts, model)) in counts.iter_mut().zip(self.models).enumerate() {
                let rows = predictions.iter().flat_map(|chunk| {
                    (0..chunk[domain].deviations.len()).map(move |row| (&chunk[domain], row))
                });
                for (point, (outlook, row)) in rows.enumerate() {
                    counts.sample(point, outlook, row, &model.draws, boldness as f32);
                }
            }
            let mut fantasy =
                Acquisition { counts: &counts, wants: &self.wants, aggregate, best: acquisition.best };
            (0..pending.len()).for_each(|index| fantasy.take(index));
            acquisition.best = fantasy.best;
        }
        acquisition
    }
}
