//! Random schedules of faults, and stores that are broken on purpose.

use std::ops::ControlFlow;

use anyhow::{Context as _, Result, ensure};
use avsweep_simulation::{Outcome, Sabotage, run_schedule, run_schedules};

/// Schedules run when AVSWEEP_SCHEDULES does not say how many.
const SHORT: u64 = 60;
/// Schedules within which a broken store must be caught.
const SABOTAGED: u64 = 40;

fn report(outcome: &Outcome) -> String {
    let from = outcome.log.len().saturating_sub(60);
    format!(
        "{}\nseed {} breaks a law: {}\nreplay: cargo run -p avsweep-simulation -- --seed {} --log",
        outcome.log[from..].join("\n"),
        outcome.seed,
        outcome.problem.as_deref().unwrap_or_default(),
        outcome.seed,
    )
}

#[test]
fn random_schedules_of_faults_keep_every_law_and_end_with_the_undisturbed_results() -> Result<()> {
    let schedules = match std::env::var("AVSWEEP_SCHEDULES") {
        Ok(text) => text.parse().with_context(|| format!("AVSWEEP_SCHEDULES is '{text}'"))?,
        Err(_) => SHORT,
    };
    let mut broken = None;
    run_schedules(0..schedules, std::thread::available_parallelism()?, |outcome| {
        if outcome.problem.is_some() {
            broken = Some(report(&outcome));
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    match broken {
        Some(report) => anyhow::bail!(report),
        None => Ok(()),
    }
}

#[test]
fn a_seed_gives_the_same_schedule_event_by_event() -> Result<()> {
    for seed in [3, 11] {
        let (first, second) = (run_schedule(seed, None)?, run_schedule(seed, None)?);
        for (number, (left, right)) in first.log.iter().zip(&second.log).enumerate() {
            ensure!(left == right, "seed {seed}, event {number}: '{left}', then '{right}'");
        }
        ensure!(first.log.len() == second.log.len(), "seed {seed}: one schedule is longer");
        ensure!(first.faults == second.faults && first.steps == second.steps, "seed {seed}: counts differ");
    }
    Ok(())
}

/// The first problem that schedules find in a broken store.
fn caught(sabotage: Sabotage) -> Result<String> {
    for seed in 0..SABOTAGED {
        if let Some(problem) = run_schedule(seed, Some(sabotage))?.problem {
            return Ok(problem);
        }
    }
    anyhow::bail!("{sabotage:?} was not caught in {SABOTAGED} schedules")
}

#[test]
fn a_store_that_takes_late_reports_is_caught() -> Result<()> {
    let problem = caught(Sabotage::AcceptLateReports)?;
    ensure!(problem.contains("is Held; held: false"), "{problem}");
    Ok(())
}

#[test]
fn a_store_that_forgets_a_result_is_caught() -> Result<()> {
    let problem = caught(Sabotage::ForgetResults)?;
    ensure!(problem.contains("was acknowledged and is gone"), "{problem}");
    Ok(())
}

#[test]
fn a_store_that_lets_two_plan_at_once_is_caught() -> Result<()> {
    let problem = caught(Sabotage::PlanUnguarded)?;
    ensure!(problem.contains("is planned by another: true") || problem.contains("term"), "{problem}");
    Ok(())
}
