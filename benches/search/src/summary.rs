//! Figures of replayed searches.

use std::path::Path;

use anyhow::Context as _;

use avsweep_search::replay::Regret;

use crate::replay::Replay;

/// One seed's search.
pub(crate) struct Run {
    pub(crate) regrets: Vec<Regret>,
    pub(crate) replay: Replay,
}

impl Run {
    /// After so many evaluations, or at the end where it ended before.
    fn after(&self, evaluations: usize) -> Regret {
        let last = self.regrets.len().saturating_sub(1);
        self.regrets.get(evaluations.saturating_sub(1).min(last)).copied().unwrap_or_default()
    }
}

/// Prints a line per grid: after some numbers of evaluations, the worst target's regret and the targets reached, in the
/// median seed and in the worst.
pub(crate) fn print(name: &str, runs: &[Run], targets: usize, at: &[usize]) {
    print!("{name:20}");
    for evaluations in at {
        let mut worst: Vec<f64> = runs.iter().map(|run| run.after(*evaluations).worst).collect();
        let mut reached: Vec<usize> = runs.iter().map(|run| run.after(*evaluations).equal).collect();
        worst.sort_by(f64::total_cmp);
        reached.sort_unstable_by(|left, right| right.cmp(left));
        let (median, last) = (runs.len() / 2, runs.len().saturating_sub(1));
        print!(
            " | {evaluations}: {:.3} {}, {:.3} {}",
            worst[median], reached[median], worst[last], reached[last]
        );
    }
    let lengths = runs.iter().map(|run| run.regrets.len());
    let deciding: f64 = runs.iter().map(|run| run.replay.deciding.as_secs_f64()).sum();
    let slowest = runs.iter().map(|run| run.replay.slowest.as_secs_f64()).fold(0.0, f64::max);
    println!(
        " of {targets} | {} to {} evaluations, {:.0} ms a decision, at most {:.0}",
        lengths.clone().min().unwrap_or(0),
        lengths.clone().max().unwrap_or(0),
        1e3 * deciding / lengths.sum::<usize>().max(1) as f64,
        1e3 * slowest,
    );
}

/// Writes every seed's regret after every evaluation.
pub(crate) fn write_csv(path: &Path, strategy: &str, grids: &[(String, Vec<Run>)]) -> anyhow::Result<()> {
    let mut writer =
        csv::Writer::from_path(path).with_context(|| format!("cannot write {}", path.display()))?;
    writer.write_record([
        "grid",
        "strategy",
        "seed",
        "evaluations",
        "worst_regret",
        "mean_regret",
        "targets_reached",
    ])?;
    for (name, runs) in grids {
        for (seed, run) in runs.iter().enumerate() {
            for (index, regret) in run.regrets.iter().enumerate() {
                writer.write_record([
                    name.clone(),
                    strategy.to_owned(),
                    seed.to_string(),
                    (index + 1).to_string(),
                    format!("{:.6}", regret.worst),
                    format!("{:.6}", regret.mean),
                    regret.equal.to_string(),
                ])?;
            }
        }
    }
    Ok(writer.flush()?)
}
