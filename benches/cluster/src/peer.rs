//! Optuna's RDB storage on the same server, measured by `optuna_peer.py`.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/optuna_peer.py");

/// One window of Optuna.
#[derive(Clone, Debug)]
pub(crate) struct PeerWindow {
    /// Its version.
    pub(crate) version: String,
    /// Processes at once.
    pub(crate) processes: usize,
    /// Trials completed per second.
    pub(crate) trials_per_second: f64,
}

/// Runs the script on an empty database for a window.
///
/// # Errors
/// When the script does not run, or says something else than its figures.
pub(crate) async fn run(python: &Path, url: &str, processes: usize, seconds: f64) -> Result<PeerWindow> {
    let (_, address) = url.split_once("://").context("a database URL has a scheme")?;
    let mut command = Command::new(python);
    command
        .arg(SCRIPT)
        .args(["--url", &format!("postgresql+psycopg2://{address}")])
        .args(["--processes", &processes.to_string(), "--seconds", &seconds.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = tokio::task::spawn_blocking(move || command.output())
        .await?
        .with_context(|| format!("{} cannot be started", python.display()))?;
    ensure!(output.status.success(), "{SCRIPT} ended with {}", output.status);
    let figures: Value = serde_json::from_slice(&output.stdout).context("optuna_peer.py prints JSON")?;
    Ok(PeerWindow {
        version: figures["optuna"].as_str().context("optuna_peer.py prints Optuna's version")?.to_owned(),
        processes,
        trials_per_second: figures["trials_per_second"].as_f64().context("optuna_peer.py prints a rate")?,
    })
}
