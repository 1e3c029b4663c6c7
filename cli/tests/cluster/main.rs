//! Clusters of real processes: a private PostgreSQL, coordinators, workers and a judge, and a network between them that
//! misbehaves.
//!
//! `AVSWEEP_FAULT_SEED=7 cargo test -p avsweep-cli --test cluster faults` repeats the case of a seed,
//! `AVSWEEP_FAULT_CASES=50` runs as many cases.
#![cfg(unix)]

mod faults;
mod loss;
mod network;
mod schedule;
mod sharing;
mod site;
#[path = "../it/support.rs"]
#[expect(dead_code, reason = "shared with the other tests of the command, which use all of it")]
mod support;

use std::sync::OnceLock;

use support::{SweepText, avsweep, succeed};
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

/// Each of these tests wants the machine for itself.
async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

/// The export of a sweep that nothing disturbs: `avsweep run`, all in one process over SQLite.
fn undisturbed(sweep: &SweepText, name: &str) -> String {
    let folder = TempDir::new().expect("a temporary folder");
    sweep.write(folder.path());
    succeed(avsweep(folder.path()).args(["run", "sweep.yaml"]));
    succeed(avsweep(folder.path()).args(["export", name, "--format", "csv"]))
}

/// 27 points, no text.
fn small_sweep(name: &str) -> SweepText {
    SweepText::new(name, "1").with("max_new_tokens: 24", "generation: none")
}

/// The undisturbed export of [`small_sweep`], whatever its name: an export does not hold that.
fn small_export() -> &'static str {
    static EXPORT: OnceLock<String> = OnceLock::new();
    EXPORT.get_or_init(|| undisturbed(&small_sweep("small"), "small"))
}

/// Both exports hold the same rows in the same order.
#[track_caller]
fn same_rows(wanted: &str, found: &str, case: &str) {
    for (line, (wanted, found)) in wanted.lines().zip(found.lines()).enumerate() {
        assert_eq!(wanted, found, "{case}: line {line} differs");
    }
    assert_eq!(wanted.lines().count(), found.lines().count(), "{case}: rows");
}
