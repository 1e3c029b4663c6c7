//! A sweep on a cluster of processes gives what a run on one machine gives, and its processes end as they should.

use std::path::Path;
use std::process::Stdio;
use std::sync::OnceLock;

use avsweep_testing::postgres;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::processes::{Cluster, Process, start_coordinator, until};
use crate::support::{SweepText, avsweep, json, pocket, stderr, succeed};

const SWEEP: &str = "clustered";

fn sweep() -> SweepText {
    SweepText::new(SWEEP, "0.5")
}

/// Best points and export of a run on one machine.
fn undisturbed() -> &'static (Value, String) {
    static ANSWER: OnceLock<(Value, String)> = OnceLock::new();
    ANSWER.get_or_init(|| {
        let folder = TempDir::new().expect("a temporary folder");
        sweep().write(folder.path());
        succeed(avsweep(folder.path()).args(["run", "sweep.yaml"]));
        let best = json(avsweep(folder.path()).args(["best", SWEEP, "--all-targets"]));
        let export = succeed(avsweep(folder.path()).args(["export", SWEEP, "--format", "csv"]));
        (best, export)
    })
}

#[track_caller]
fn has_the_undisturbed_answer(cluster: &Cluster) {
    let (best, export) = undisturbed();
    assert_eq!(*best, json(&mut cluster.user(&["best", SWEEP, "--all-targets"])));
    let found = succeed(&mut cluster.user(&["export", SWEEP, "--format", "csv"]));
    for (line, (wanted, found)) in export.lines().zip(found.lines()).enumerate() {
        assert_eq!(wanted, found, "line {line} of the export differs");
    }
    assert_eq!(export.lines().count(), found.lines().count());
}

/// The last object of JSON lines.
fn last_line(text: &str) -> Value {
    let line = text.lines().last().expect("something was printed");
    serde_json::from_str(line).expect("JSON Lines")
}

fn workers(cluster: &Cluster) -> Vec<Value> {
    match json(&mut cluster.user(&["workers", "ls", "--all"])) {
        Value::Array(workers) => workers,
        other => panic!("not a list: {other}"),
    }
}

fn state_of(workers: &[Value], name: &str) -> Option<String> {
    workers
        .iter()
        .find(|worker| worker["worker"] == name)
        .and_then(|worker| worker["state"].as_str())
        .map(str::to_owned)
}

#[test]
fn two_workers_and_a_judge_give_the_answer_of_one_machine_and_drain_on_sigterm() {
    let mut cluster = Cluster::new();
    let mut crew = [cluster.worker("one", &[]), cluster.worker("two", &[]), cluster.judge("judge")];
    sweep().write(cluster.folder());
    let watched =
        succeed(&mut cluster.user(&["sweep", "create", "sweep.yaml", "--watch", "--output", "json"]));
    let last = last_line(&watched);
    assert_eq!((last["state"].as_str(), last["points_done"].as_u64()), (Some("done"), Some(125)), "{last}");
    assert_eq!(last["failures"], 0, "{last}");
    has_the_undisturbed_answer(&cluster);

    // The sweep is done with the last report; what its sender says of itself comes a moment later.
    until("everybody is idle", || {
        let seen = workers(&cluster);
        let idle = |name: &&str| state_of(&seen, name).as_deref() == Some("idle");
        ["one", "two", "judge"].iter().all(idle).then_some(())
    });
    let jobs = json(&mut cluster.user(&["jobs", "ls", SWEEP, "--limit", "100000"]));
    for job in jobs.as_array().expect("jobs") {
        assert_eq!(job["state"], "done", "{job}");
        assert!(job["attempt"].as_u64() <= Some(1), "nothing was given out twice: {job}");
    }
    assert_eq!(json(&mut cluster.user(&["jobs", "ls", "--failed"])), serde_json::json!([]));

    // A sample that no sweep has made yet takes the workers' time.
    let sample = json(&mut cluster.user(&["sample", SWEEP, "--point=0.25,0,-0.3"]));
    assert_eq!(sample["responses"].as_array().map(Vec::len), Some(9));

    for process in &mut crew {
        assert_eq!(process.terminate(), Some(0), "{}", process.said());
    }
    let seen = workers(&cluster);
    for name in ["one", "two", "judge"] {
        assert_eq!(state_of(&seen, name).as_deref(), Some("stopped"), "{seen:?}");
    }
    assert_eq!(cluster.coordinator.terminate(), Some(0), "{}", cluster.coordinator.said());
}

#[test]
fn two_coordinators_on_one_database_give_the_answer_of_one_machine() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let database = runtime.block_on(async {
        postgres::Cluster::shared().await.expect("PostgreSQL starts").database().await.expect("a database")
    });
    let mut cluster = Cluster::over(TempDir::new().expect("a temporary folder"), &database, &[]);
    let (mut second, url) = start_coordinator(cluster.folder(), &database, "127.0.0.1:0", &[]);
    let shown = second.logged("coordinator starts", "store").expect("the store is told");
    assert!(shown.starts_with("postgres://") && !shown.contains('?'), "{shown}");
    cluster.url = format!("{},{url}", cluster.url);
    let mut crew = [cluster.worker("one", &[]), cluster.worker("two", &[]), cluster.judge("judge")];
    sweep().write(cluster.folder());
    succeed(&mut cluster.user(&["sweep", "create", "sweep.yaml"]));
    // Whichever they asked first: one coordinator goes, the other has everything.
    until("something is measured", || {
        let shown = json(&mut cluster.user(&["sweep", "show", SWEEP]));
        shown["points_done"].as_u64().filter(|points| *points >= 5)
    });
    cluster.coordinator.kill();
    let watched = succeed(&mut cluster.user(&["sweep", "watch", SWEEP, "--output", "json"]));
    assert_eq!(last_line(&watched)["state"], "done");
    has_the_undisturbed_answer(&cluster);
    for process in &mut crew {
        assert_eq!(process.terminate(), Some(0), "{}", process.said());
    }
    assert_eq!(second.terminate(), Some(0), "{}", second.said());
}

#[test]
fn whoever_watches_goes_on_after_the_coordinator_was_killed_and_started_again() {
    let mut cluster = Cluster::new();
    sweep().write(cluster.folder());
    succeed(&mut cluster.user(&["sweep", "create", "sweep.yaml"]));
    let watch = cluster
        .user(&["sweep", "watch", SWEEP, "--output", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let (_one, _judge) = (cluster.worker("one", &[]), cluster.judge("judge"));
    until("something is measured", || {
        let shown = json(&mut cluster.user(&["sweep", "show", SWEEP]));
        shown["points_done"].as_u64().filter(|points| *points >= 5)
    });
    cluster.coordinator.kill();
    let address = cluster.url.trim_start_matches("http://").to_owned();
    let store = cluster.folder().join("cluster.db").display().to_string();
    (cluster.coordinator, cluster.url) = start_coordinator(cluster.folder(), &store, &address, &[]);
    let output = watch.wait_with_output().expect("watching ends");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    assert_eq!(last_line(&text)["state"], "done");
    assert!(stderr(&output).contains("the coordinator is away"), "{}", stderr(&output));
    has_the_undisturbed_answer(&cluster);
}

#[test]
fn a_worker_that_is_idle_for_long_enough_ends_with_success() {
    let cluster = Cluster::new();
    let mut worker = cluster.worker("idle", &["--idle-timeout", "1"]);
    assert_eq!(worker.end().code(), Some(0), "{}", worker.said());
}

#[test]
fn a_worker_told_to_stop_without_a_coordinator_ends_with_code_four() {
    let folder = TempDir::new().expect("a temporary folder");
    let mut worker = Process::start(avsweep(folder.path()).args([
        "worker",
        "--coordinator",
        "http://127.0.0.1:9",
        "--on-coordinator-lost",
        "stop",
        "--coordinator-patience",
        "1",
    ]));
    assert_eq!(worker.end().code(), Some(4), "{}", worker.said());
    assert!(worker.said().contains("127.0.0.1:9"), "{}", worker.said());
}

#[test]
fn a_sweep_that_nobody_can_do_says_why() {
    let mut cluster = Cluster::new();
    let vector = cluster.folder().join("medical.safetensors");
    std::fs::copy(pocket().join("medical.safetensors"), &vector).expect("the folder is writable");
    let there = pocket().join("medical.safetensors").display().to_string();
    sweep().with(&there, &vector.display().to_string()).write(cluster.folder());
    succeed(&mut cluster.user(&["sweep", "create", "sweep.yaml"]));
    std::fs::remove_file(&vector).expect("it was copied");
    let told = |wanted: &str| {
        until(wanted, || {
            let shown = json(&mut cluster.user(&["sweep", "show", SWEEP]));
            shown["standstill"].to_string().contains(wanted).then_some(())
        });
    };
    told("no worker is there; 'avsweep worker' starts one");
    let mut worker = cluster.worker("one", &[]);
    told("medical.safetensors");
    let mut watch = Process::start(&mut cluster.user(&["sweep", "watch", SWEEP]));
    until("the watcher is told", || watch.said().contains("stands still: one: sweep 1: ").then_some(()));
    assert_eq!(worker.terminate(), Some(0), "{}", worker.said());
    watch.kill();
    assert_eq!(cluster.coordinator.terminate(), Some(0), "{}", cluster.coordinator.said());
}

#[test]
fn ctrl_c_ends_a_worker_with_code_130_and_a_job_goes_to_another() {
    let cluster = Cluster::new();
    SweepText::new(SWEEP, "0.25").write(cluster.folder());
    succeed(&mut cluster.user(&["sweep", "create", "sweep.yaml"]));
    let mut worker = cluster.worker("interrupted", &["--drain", "5"]);
    until("a job is done", || {
        workers(&cluster).iter().find(|worker| worker["finished"].as_u64() > Some(0)).map(drop)
    });
    worker.signal(Signal::INT);
    assert_eq!(worker.end().code(), Some(130), "{}", worker.said());
    let leased = json(&mut cluster.user(&["jobs", "ls", SWEEP, "--state", "leased"]));
    assert_eq!(leased, serde_json::json!([]), "everything held was finished or given back");
    let shown = json(&mut cluster.user(&["sweep", "show", SWEEP]));
    assert_eq!(shown["failures"], 0, "an orderly end counts against no job");
}

#[test]
fn a_worker_that_cannot_drain_in_time_ends_with_code_143_and_its_job_goes_to_another() {
    let cluster = Cluster::new();
    sweep().write(cluster.folder());
    succeed(&mut cluster.user(&["sweep", "create", "sweep.yaml"]));
    // Only who holds a job has anything to drain; a worker that is just asking for one ends at once.
    let held = (0..10).any(|number| {
        let mut worker = cluster.worker(&format!("late {number}"), &["--drain", "1"]);
        until("it has finished a job", || {
            let seen = workers(&cluster);
            let done = |worker: &&Value| worker["finished"].as_u64() > Some(0);
            seen.iter().filter(done).find(|worker| worker["worker"] == format!("late {number}")).map(drop)
        });
        cluster.coordinator.signal(Signal::STOP);
        let code = worker.terminate();
        cluster.coordinator.signal(Signal::CONT);
        assert!(matches!(code, Some(0 | 143)), "{code:?}: {}", worker.said());
        code == Some(143)
    });
    assert!(held, "none of ten workers held a job");
    let (_other, _judge) = (cluster.worker("other", &[]), cluster.judge("judge"));
    let watched = succeed(&mut cluster.user(&["sweep", "watch", SWEEP, "--output", "json"]));
    assert_eq!(last_line(&watched)["state"], "done");
    has_the_undisturbed_answer(&cluster);
}

#[test]
fn a_coordinator_waits_for_its_database_as_long_as_it_is_told_to() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (server, database) = runtime.block_on(async {
        let server = postgres::Cluster::start(postgres::Settings::fast()).await.expect("PostgreSQL starts");
        let database = server.database().await.expect("a database");
        server.kill().await.expect("PostgreSQL ends");
        (server, database)
    });
    let folder = TempDir::new().expect("a temporary folder");
    let start = |patience: &str| {
        Process::start(
            avsweep(folder.path())
                .args(["coordinator", "--store", &database, "--migrate", "--listen", "127.0.0.1:0"])
                .args(["--metrics-listen", "off", "--store-patience", patience]),
        )
    };
    let mut hasty = start("0");
    assert_eq!(hasty.end().code(), Some(1), "{}", hasty.said());
    assert!(hasty.said().contains("127.0.0.1"), "it names the database: {}", hasty.said());
    let mut patient = start("200");
    until("it has missed the database", || {
        patient.said().contains("the store is away; trying again").then_some(())
    });
    runtime.block_on(server.restart()).expect("PostgreSQL starts again");
    until("it listens", || patient.logged("coordinator starts", "listen"));
    assert_eq!(patient.terminate(), Some(0), "{}", patient.said());
}

#[test]
fn the_store_of_a_coordinator_is_its_own() {
    let cluster = Cluster::new();
    let store = cluster.folder().join("cluster.db");
    let output = avsweep(cluster.folder())
        .args(["coordinator", "--listen", "127.0.0.1:0", "--metrics-listen", "off", "--store"])
        .arg(&store)
        .output()
        .expect("the binary starts");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("in use by another avsweep process"), "{}", stderr(&output));
    // Reading is everybody's.
    succeed(avsweep(Path::new(".")).arg("--store").arg(&store).args(["sweep", "ls"]));
}
