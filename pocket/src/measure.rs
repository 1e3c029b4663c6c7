//! What is measured on the family, and what follows from it: level rates along each axis, over
//! the grid, the 27 targets, the generated texts.

use serde::{Deserialize, Serialize};

use crate::corpus::{AVOIDANCE, EXPERT, GENERIC, LEVELS};
use crate::error::Result;
use crate::probe::{Probe, TextReport};

/// Share of a domain's queries at each level.
pub type Rates = [f64; 3];

/// The level rates of every domain at one point.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PointRates {
    /// Coefficients of the three vectors.
    pub point: [f64; 3],
    /// Rates by domain.
    pub domains: [Rates; 3],
}

impl PointRates {
    /// Whether every domain's dominant level is the wanted one.
    pub fn achieves(&self, target: [usize; 3]) -> bool {
        (0..3).all(|domain| dominant(&self.domains[domain]) == target[domain])
    }

    /// The least rate of a wanted level.
    pub fn weakest(&self, target: [usize; 3]) -> f64 {
        (0..3).map(|domain| self.domains[domain][target[domain]]).fold(f64::INFINITY, f64::min)
    }
}

/// The best point for one target.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TargetResult {
    /// Wanted level by domain.
    pub target: [usize; 3],
    /// Where the weakest domain's rate of its wanted level is greatest.
    pub best: PointRates,
    /// That rate.
    pub weakest: f64,
    /// Whether some point has every wanted level dominant.
    pub achieved: bool,
    /// Points that achieve it.
    pub points: usize,
}

/// Everything that was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Measurements {
    /// Held-out queries per domain.
    pub queries: usize,
    /// Points of the grid.
    pub points: usize,
    /// Rates along each vector's own axis, the others at zero; by domain.
    pub axes: Vec<Vec<PointRates>>,
    /// The 27 targets over the grid.
    pub targets: Vec<TargetResult>,
    /// Greedy texts at the origin, the axes' ends and the corners.
    pub texts: Vec<TextReport>,
}

/// The level with the greatest value; the lower one at a tie.
pub fn dominant(values: &[f64; 3]) -> usize {
    (0..values.len()).rev().max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap_or(GENERIC)
}

/// Rates of the argmax level over queries' scores.
pub fn level_rates(scores: &[[f64; 3]]) -> Rates {
    let mut counts = [0usize; 3];
    for score in scores {
        counts[dominant(score)] += 1;
    }
    counts.map(|count| count as f64 / scores.len().max(1) as f64)
}

/// The best point for each of the 27 targets; the first point wins a tie.
pub fn targets(rates: &[PointRates]) -> Vec<TargetResult> {
    cube(2)
        .iter()
        .map(|corner| corner.map(|coordinate| (coordinate + 1.0) as usize))
        .filter_map(|target| {
            let best = rates.iter().rev().max_by(|a, b| a.weakest(target).total_cmp(&b.weakest(target)))?;
            let points = rates.iter().filter(|point| point.achieves(target)).count();
            Some(TargetResult {
                target,
                weakest: best.weakest(target),
                best: best.clone(),
                achieved: points > 0,
                points,
            })
        })
        .collect()
}

/// All points of a cubic grid from −1 to 1 with `steps` steps a side, last axis fastest.
pub fn cube(steps: u16) -> Vec<[f64; 3]> {
    let side = line(steps);
    let mut points = Vec::with_capacity(side.len().pow(3));
    for &a in &side {
        for &b in &side {
            points.extend(side.iter().map(|&c| [a, b, c]));
        }
    }
    points
}

/// `steps` + 1 values from −1 to 1. One division per value keeps them the nearest f64 to the
/// decimal fraction.
fn line(steps: u16) -> Vec<f64> {
    (0..=steps).map(|i| (2.0 * f64::from(i) - f64::from(steps)) / f64::from(steps)).collect()
}

/// Measures everything; `report` hears (points done, points in all).
///
/// # Errors
/// When the engine refuses a point or a query.
pub fn measure(
    probe: &mut Probe,
    grid_steps: u16,
    mut report: impl FnMut(usize, usize),
) -> Result<Measurements> {
    let mut axes = Vec::new();
    for domain in 0..3 {
        let mut axis = Vec::new();
        for value in line(20) {
            let mut point = [0.0; 3];
            point[domain] = value;
            axis.push(probe.rates(point)?);
        }
        axes.push(axis);
    }
    let grid = cube(grid_steps);
    let mut rates = Vec::with_capacity(grid.len());
    for point in &grid {
        rates.push(probe.rates(*point)?);
        report(rates.len(), grid.len());
    }
    let corner_texts =
        cube(2).into_iter().map(|point| probe.texts(point)).collect::<Result<Vec<TextReport>>>()?;
    Ok(Measurements {
        queries: probe.query_count(),
        points: grid.len(),
        axes,
        targets: targets(&rates),
        texts: corner_texts,
    })
}

/// The level a coefficient of −1, 0 or 1 stands for.
pub fn level_of(coefficient: f64) -> usize {
    match coefficient.total_cmp(&0.0) {
        std::cmp::Ordering::Less => AVOIDANCE,
        std::cmp::Ordering::Equal => GENERIC,
        std::cmp::Ordering::Greater => EXPERT,
    }
}

/// A target in words, `expert / generic / avoidance`.
pub fn target_name(target: [usize; 3]) -> String {
    target.map(|level| LEVELS[level]).join(" / ")
}
