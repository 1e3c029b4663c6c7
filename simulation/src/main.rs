//! Runs random schedules of faults and prints the seed of the first that breaks a law, or replays one.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Instant;

use avsweep_simulation::{FaultCounts, Outcome, run_schedule, run_schedules};
use clap::Parser;

/// Lines of the log that are printed of a schedule that broke a law.
const TAIL: usize = 60;

/// Coordinators, workers and judges under simulated faults.
#[derive(Debug, Parser)]
#[command(name = "avsweep-simulation")]
struct Arguments {
    /// How many schedules.
    #[arg(long, default_value_t = 1000)]
    schedules: u64,
    /// The first seed; with --log, the only one.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Replay the schedule of --seed and print every event.
    #[arg(long)]
    log: bool,
    /// Threads; a schedule takes one. All cores by default.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
}

fn print_failure(outcome: &Outcome) {
    let Some(problem) = &outcome.problem else { return };
    let from = outcome.log.len().saturating_sub(TAIL);
    outcome.log[from..].iter().for_each(|line| println!("{line}"));
    println!("\nseed {} breaks a law: {problem}", outcome.seed);
    println!("replay: cargo run -p avsweep-simulation -- --seed {} --log", outcome.seed);
}

fn replay(seed: u64) -> anyhow::Result<ExitCode> {
    let outcome = run_schedule(seed, None)?;
    outcome.log.iter().for_each(|line| println!("{line}"));
    println!("\nseed {seed}: {} steps in {:?} of simulated time", outcome.steps, outcome.simulated);
    print_failure(&outcome);
    Ok(if outcome.problem.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.log {
        return replay(arguments.seed);
    }
    let threads = match arguments.threads {
        Some(threads) => threads,
        None => std::thread::available_parallelism()?,
    };
    let begun = Instant::now();
    let (mut kept, mut steps, mut simulated, mut faults) = (0_u64, 0_u64, 0.0, FaultCounts::new());
    let mut failed = false;
    let end = arguments.seed.saturating_add(arguments.schedules);
    run_schedules(arguments.seed..end, threads, |outcome| {
        steps += outcome.steps;
        simulated += outcome.simulated.as_secs_f64();
        for (fault, count) in &outcome.faults {
            *faults.entry(*fault).or_default() += count;
        }
        if outcome.problem.is_some() {
            print_failure(&outcome);
            failed = true;
            return ControlFlow::Break(());
        }
        kept += 1;
        if kept.is_multiple_of(100) {
            eprintln!("{kept} schedules in {:.1} s", begun.elapsed().as_secs_f64());
        }
        ControlFlow::Continue(())
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    for (fault, count) in &faults {
        println!("{fault:<40} {count:>9}");
    }
    println!(
        "{kept} schedules kept every law: {steps} steps, {:.1} h of simulated time in {seconds:.1} s on {threads} \
         threads ({:.1} schedules/s)",
        simulated / 3600.0,
        kept as f64 / seconds
    );
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
