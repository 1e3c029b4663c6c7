//! A run that is killed again and again ends with the results of an undisturbed one, and evaluates nothing twice.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::support::{SweepText, avsweep, json, stderr, succeed};
use serde_json::Value;
use tempfile::TempDir;

const SWEEP: &str = "kills";
const KILLS: usize = 10;

fn sweep() -> SweepText {
    SweepText::new(SWEEP, "0.25")
}

fn export(folder: &Path) -> String {
    succeed(avsweep(folder).args(["export", SWEEP, "--format", "csv"]))
}

fn start(folder: &Path) -> Child {
    avsweep(folder)
        .args(["run", "sweep.yaml"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts")
}

fn has_jobs(jobs: &[Value], rung: &str) -> bool {
    jobs.iter()
        .filter(|job| job["rung"] == rung)
        .any(|job| ["ready", "leased", "done"].iter().any(|state| job[state].as_u64().unwrap_or(0) > 0))
}

/// Asks the store the way a user would, until what it shows is as wanted.
fn wait_until(folder: &Path, wanted: impl Fn(&Value) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(180);
    loop {
        let shown =
            avsweep(folder).args(["sweep", "ls", "--output", "json"]).output().expect("the binary starts");
        let sweeps: Vec<Value> = serde_json::from_slice(&shown.stdout).unwrap_or_default();
        if sweeps.iter().any(|sweep| sweep["name"] == SWEEP && wanted(sweep)) {
            return;
        }
        assert!(Instant::now() < deadline, "waited for three minutes; last seen:\n{}", stderr(&shown));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// xorshift64*, so that a schedule follows from its seed alone.
fn random(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_F491_4F6C_DD1D)
}

#[test]
fn sigkill_at_ten_random_moments_changes_no_result_and_repeats_no_evaluation() {
    let seed: u64 =
        std::env::var("AVSWEEP_KILL_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_123);
    let undisturbed = TempDir::new().expect("a temporary folder");
    sweep().write(undisturbed.path());
    let started = Instant::now();
    succeed(avsweep(undisturbed.path()).args(["run", "sweep.yaml"]));
    let whole = started.elapsed();

    let killed = TempDir::new().expect("a temporary folder");
    sweep().write(killed.path());
    let mut state = seed;
    for kill in 0..KILLS {
        // The moments together are shorter than one undisturbed run, so that every kill meets a running sweep.
        let share = (random(&mut state) % 1000) as f64 / 1000.0;
        let moment = whole.mul_f64(0.01 + 0.08 * share);
        let mut child = start(killed.path());
        std::thread::sleep(moment);
        let ended = child.try_wait().expect("the child can be asked");
        assert!(ended.is_none(), "seed {seed}: kill {kill} after {moment:?} found the run ended: {ended:?}");
        child.kill().expect("SIGKILL reaches the child");
        child.wait().expect("the child can be waited for");
        println!("seed {seed}: kill {kill} after {moment:?}");
    }
    // And once more amid the finalists.
    let mut child = start(killed.path());
    wait_until(killed.path(), |shown| {
        shown["jobs"].as_array().is_some_and(|jobs| has_jobs(jobs, "generation"))
    });
    child.kill().expect("SIGKILL reaches the child");
    child.wait().expect("the child can be waited for");
    succeed(avsweep(killed.path()).args(["run", "sweep.yaml"]));

    let (wanted, found) = (export(undisturbed.path()), export(killed.path()));
    assert!(wanted.lines().count() > 729 * 36, "the undisturbed run has its results");
    for (line, (wanted, found)) in wanted.lines().zip(found.lines()).enumerate() {
        assert_eq!(wanted, found, "seed {seed}: line {line} differs");
    }
    assert_eq!(wanted.lines().count(), found.lines().count(), "seed {seed}");
    let shown = json(avsweep(killed.path()).args(["sweep", "show", SWEEP]));
    assert_eq!(shown["duplicate_results"], 0, "seed {seed}: something acknowledged was evaluated again");
    assert_eq!(shown["state"], "done");
}

#[test]
fn the_first_ctrl_c_stops_cleanly_and_the_same_command_goes_on() {
    let folder = TempDir::new().expect("a temporary folder");
    SweepText::new(SWEEP, "0.1").write(folder.path());
    let child = avsweep(folder.path())
        .args(["run", "sweep.yaml"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    // Something has to be stored first.
    wait_until(folder.path(), |shown| shown["points_done"].as_u64().is_some_and(|points| points >= 5));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("SIGINT reaches the child");
    let output = child.wait_with_output().expect("the child can be waited for");
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("the same command goes on from there"), "{said}");
    let shown = json(avsweep(folder.path()).args(["sweep", "show", SWEEP]));
    assert_eq!(shown["state"], "running");
    let leased: u64 =
        shown["jobs"].as_array().expect("jobs").iter().map(|rung| rung["leased"].as_u64().unwrap_or(1)).sum();
    assert_eq!(leased, 0, "a clean stop gives everything back");
    let failed: u64 =
        shown["jobs"].as_array().expect("jobs").iter().map(|rung| rung["parked"].as_u64().unwrap_or(1)).sum();
    assert_eq!(failed, 0);
}
