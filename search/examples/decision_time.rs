//! How long one decision takes, by the number of points measured: 3 domains, 21³ grid.
//!
//! `cargo run --release -p avsweep-search --example decision_time -- [points] [queries a domain] [what]`
//!
//! `likelihood` (the default) and `judged`, likelihoods of the same points beside the verdicts: one decision of `bayesian`.
//! `hierarchical`: every wave of a whole search.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use avsweep_domain::{BayesianSettings, HierarchicalSettings, Levels, Point, SequenceSettings, Strategy};
use avsweep_search::strategy::{Decision, History, Measured, Problem, next_points};
use avsweep_search::surface::{Surface, catalogue};
use avsweep_search::{DomainShape, SearchRung};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let count: u32 = arguments.next().map_or(Ok(1000), |text| text.parse())?;
    let queries: usize = arguments.next().map_or(Ok(300), |text| text.parse())?;
    let what = arguments.next().unwrap_or_else(|| "likelihood".to_owned());
    let rung = if what == "judged" { SearchRung::Judgement } else { SearchRung::Likelihood };
    let surface = &catalogue(0)[2];
    let space = surface.space(20)?;
    let shapes: Vec<DomainShape> =
        (0..3).map(|domain| DomainShape { name: format!("domain{domain}"), queries }).collect();
    let problem = |strategy| Problem::new(space.clone(), &Levels::default(), shapes.clone(), strategy, rung);
    let outcome = |point: &Point| Outcome::new(surface, point, queries, rung);
    match what.as_str() {
        "likelihood" | "judged" => {
            let design = problem(Strategy::Random(SequenceSettings { budget: count, seed: 1 }))?;
            let Decision::Propose(points) = next_points(&design, &History::default(), count as usize) else {
                return Err("no points".into());
            };
            let known: BTreeMap<Point, Outcome> =
                points.into_iter().map(|point| (point.clone(), outcome(&point))).collect();
            let settings =
                BayesianSettings { budget: count + 100, min_gain: 0.0, ..BayesianSettings::default() };
            let problem = problem(Strategy::Bayesian(settings))?;
            for _ in 0..3 {
                let (decision, took) = decide(&problem, &known, 1);
                println!("{count} points, {queries} queries x 3 levels x 3 domains: {took:?} {decision:?}");
            }
        }
        "hierarchical" => {
            let settings = HierarchicalSettings { budget: Some(count), ..HierarchicalSettings::default() };
            let problem = problem(Strategy::Hierarchical(settings))?;
            let mut known = BTreeMap::new();
            loop {
                let (decision, took) = decide(&problem, &known, usize::MAX);
                println!("{} points, {queries} queries x 3 levels x 3 domains: {took:?}", known.len());
                let Decision::Propose(points) = decision else { break };
                known.extend(points.into_iter().map(|point| (point.clone(), outcome(&point))));
            }
        }
        other => return Err(format!("nothing called {other}: likelihood, judged or hierarchical").into()),
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(peak) = status.lines().find(|line| line.starts_with("VmHWM")) {
        println!("peak memory {}", peak.trim_start_matches("VmHWM:").trim());
    }
    Ok(())
}

fn decide(problem: &Problem, known: &BTreeMap<Point, Outcome>, limit: usize) -> (Decision, Duration) {
    let measured: Vec<Measured<'_>> = known
        .iter()
        .map(|(point, outcome)| Measured {
            point,
            log_probs: &outcome.log_probs,
            judged: outcome.judged.as_deref(),
        })
        .collect();
    let history = History { proposed: known.len() as u64, measured: &measured, ..History::default() };
    let started = Instant::now();
    (black_box(next_points(problem, &history, limit)), started.elapsed())
}

/// What measuring a point gives.
struct Outcome {
    log_probs: Vec<f32>,
    judged: Option<Vec<u32>>,
}

impl Outcome {
    fn new(surface: &Surface, point: &Point, queries: usize, rung: SearchRung) -> Self {
        // A surface has 40 queries a domain: they are repeated with small shifts until there are enough.
        let log_probs = widened(&surface.log_probs_at(point), queries);
        // As judges would count the expected responses.
        let judged = (rung == SearchRung::Judgement)
            .then(|| expected(&surface.judge().probabilities(&log_probs), queries));
        Self { log_probs, judged }
    }
}

/// Per domain, the whole number of responses at each of three levels.
fn expected(probabilities: &[f64], queries: usize) -> Vec<u32> {
    probabilities
        .chunks_exact(queries * 3)
        .flat_map(|domain| {
            let at = |level: usize| domain.iter().skip(level).step_by(3).sum::<f64>().floor() as u32;
            let (low, high) = (at(0), at(2));
            [low, queries as u32 - low - high, high]
        })
        .collect()
}

fn widened(log_probs: &[f32], queries: usize) -> Vec<f32> {
    log_probs
        .chunks_exact(120)
        .flat_map(|domain| {
            (0..queries * 3).map(move |index| {
                let copy = (index / 120) as f32;
                let other = domain[(index * 7 + index / 120) % 120];
                domain[index % 120] * (1.0 + 0.01 * copy) + 0.05 * copy * other
            })
        })
        .collect()
}
