//! How long one decision takes, by the number of points measured: 3 domains, 21³ grid.
//!
//! `cargo run --release -p avsweep-search --example decision_time -- [points] [queries a domain]`

use std::hint::black_box;
use std::time::Instant;

use avsweep_domain::{BayesianSettings, Levels, Point, SequenceSettings, Strategy};
use avsweep_search::strategy::{History, Measured, Problem, next_points};
use avsweep_search::surface::catalogue;
use avsweep_search::{DomainShape, SearchRung};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let count: u32 = arguments.next().map_or(Ok(1000), |text| text.parse())?;
    let queries: usize = arguments.next().map_or(Ok(300), |text| text.parse())?;
    let surface = &catalogue(0)[2];
    let space = surface.space(20)?;
    let shapes: Vec<DomainShape> =
        (0..3).map(|domain| DomainShape { name: format!("domain{domain}"), queries }).collect();
    let problem = |strategy| {
        Problem::new(space.clone(), &Levels::default(), shapes.clone(), strategy, SearchRung::Likelihood)
    };
    let design = problem(Strategy::Random(SequenceSettings { budget: count, seed: 1 }))?;
    let avsweep_search::strategy::Decision::Propose(points) =
        next_points(&design, &History::default(), count as usize)
    else {
        return Err("no points".into());
    };
    // A surface has 40 queries a domain: they are repeated with small shifts until there are enough.
    let log_probs: Vec<Vec<f32>> =
        points.iter().map(|point| widened(&surface.log_probs_at(point), queries)).collect();
    let measured: Vec<Measured<'_>> = points
        .iter()
        .zip(&log_probs)
        .map(|(point, log_probs): (&Point, _)| Measured { point, log_probs, judged: None })
        .collect();
    let settings = BayesianSettings { budget: count + 100, min_gain: 0.0, ..BayesianSettings::default() };
    let problem = problem(Strategy::Bayesian(settings))?;
    let history = History { proposed: u64::from(count), measured: &measured, ..History::default() };
    for _ in 0..3 {
        let started = Instant::now();
        let decision = black_box(next_points(&problem, &history, 1));
        println!(
            "{count} points, {queries} queries x 3 levels x 3 domains: {:?} {decision:?}",
            started.elapsed()
        );
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(peak) = status.lines().find(|line| line.starts_with("VmHWM")) {
        println!("peak memory {}", peak.trim_start_matches("VmHWM:").trim());
    }
    Ok(())
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
