//! Users steer sweeps and jobs through a coordinator, which asks everybody who they are.

use std::process::Command;

use avsweep_proto::v1;
use avsweep_proto::v1::job_service_client::JobServiceClient;
use tempfile::TempDir;
use tonic::metadata::MetadataValue;

use crate::processes::{Cluster, JUDGE, USER, WORKER, until};
use crate::support::{SweepText, avsweep, fail, json, misuse, pocket, stderr, succeed};

const SWEEP: &str = "steered";

fn created(flags: &[&str]) -> Cluster {
    let folder = TempDir::new().expect("a temporary folder");
    let store = folder.path().join("cluster.db").display().to_string();
    let cluster = Cluster::over(folder, &store, flags);
    SweepText::new(SWEEP, "1").write(cluster.folder());
    let sweep = json(&mut cluster.user(&["sweep", "create", "sweep.yaml", "--priority", "5"]));
    assert_eq!((sweep["created"].as_bool(), sweep["priority"].as_i64()), (Some(true), Some(5)));
    cluster
}

#[test]
fn a_sweep_is_paused_resumed_cancelled_and_deleted() {
    let cluster = created(&[]);
    let run = |arguments: &[&str]| json(&mut cluster.user(arguments));
    assert_eq!(run(&["sweep", "create", "sweep.yaml"])["created"], false, "it is found again");
    assert_eq!(run(&["sweep", "pause", SWEEP])["state"], "paused");
    let asked = cluster.user(&["best", SWEEP, "--all-targets"]).output().expect("the command starts");
    let told = String::from_utf8_lossy(&asked.stderr);
    assert!(told.contains("is not done"), "{told}");
    assert_eq!(run(&["sweep", "resume", "sweep.yaml"])["state"], "running");
    assert_eq!(run(&["sweep", "priority", SWEEP, "-3"])["priority"], -3);
    let listed = run(&["sweep", "ls"]);
    assert_eq!((listed[0]["state"].as_str(), listed[0]["priority"].as_i64()), (Some("running"), Some(-3)));
    let error = fail(&mut cluster.user(&["sweep", "rm", SWEEP, "--yes"]));
    assert!(error.contains("running") && error.contains("cancel it first"), "{error}");
    assert_eq!(run(&["sweep", "cancel", SWEEP])["state"], "cancelled");
    let error = fail(&mut cluster.user(&["sweep", "resume", SWEEP]));
    assert!(error.contains("cancelled"), "{error}");
    let error = misuse(&mut cluster.user(&["sweep", "rm", SWEEP]));
    assert!(error.contains("--yes"), "{error}");
    assert_eq!(run(&["sweep", "rm", SWEEP, "--yes"])["sweep"], SWEEP);
    assert_eq!(run(&["sweep", "ls"]), serde_json::json!([]));
    let error = fail(&mut cluster.user(&["sweep", "show", SWEEP]));
    assert!(error.contains(SWEEP), "{error}");
}

#[test]
fn jobs_that_failed_are_listed_with_their_reasons_and_tried_again() {
    let cluster = created(&["--error-limit", "1"]);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let job = runtime.block_on(fail_one_job(&cluster.url));
    let failed = json(&mut cluster.user(&["jobs", "ls", SWEEP, "--failed"]));
    assert_eq!(failed.as_array().map(Vec::len), Some(1), "{failed}");
    assert_eq!(failed[0]["job"].as_i64(), Some(job));
    assert_eq!(failed[0]["state"], "failed");
    assert!(failed[0]["last_error"].as_str().is_some_and(|error| error.contains("a made-up reason")));
    let table = succeed(&mut cluster.user(&["jobs", "ls", "--failed"]));
    assert!(table.contains("a made-up reason"), "{table}");
    let error = fail(&mut cluster.user(&["jobs", "retry", SWEEP, "999999"]));
    assert!(error.contains("999999"), "{error}");
    assert_eq!(json(&mut cluster.user(&["jobs", "retry", SWEEP, &job.to_string()]))["retried"], 1);
    assert_eq!(json(&mut cluster.user(&["jobs", "ls", "--failed"])), serde_json::json!([]));
    assert_eq!(json(&mut cluster.user(&["jobs", "retry", SWEEP]))["retried"], 0);
}

/// Leases a job as a worker does, and says that it failed.
async fn fail_one_job(url: &str) -> i64 {
    let endpoint = tonic::transport::Endpoint::from_shared(url.to_owned()).expect("a URL");
    let token: MetadataValue<_> = format!("Bearer {WORKER}").parse().expect("a header");
    let mut client = JobServiceClient::with_interceptor(
        endpoint.connect().await.expect("the coordinator listens"),
        move |mut request: tonic::Request<()>| {
            request.metadata_mut().insert("authorization", token.clone());
            Ok(request)
        },
    );
    let worker = "made-up".to_owned();
    let request = v1::LeaseRequest {
        worker: worker.clone(),
        rungs: vec![v1::Rung::Likelihood.into()],
        max_jobs: 1,
        wait_millis: 20_000,
        ..Default::default()
    };
    let leased = client.lease(request).await.expect("a lease").into_inner().jobs;
    let lease = leased.first().and_then(|job| job.lease.clone()).expect("a job");
    let job = lease.job;
    let failure =
        v1::FailRequest { worker, lease: Some(lease), error: "a made-up reason".to_owned(), usage: None };
    client.fail(failure).await.expect("the failure is taken");
    job
}

#[test]
fn nobody_gets_in_without_the_token_of_the_right_role() {
    let cluster = created(&[]);
    let ls = |token: Option<&str>| {
        let mut command = avsweep(cluster.folder());
        command.args(["sweep", "ls", "--coordinator", &cluster.url]).env_remove("AVSWEEP_STORE");
        if let Some(token) = token {
            command.env("AVSWEEP_TOKEN", token);
        }
        command
    };
    succeed(&mut ls(Some(USER)));
    for token in [None, Some("a-wrong-one"), Some(WORKER), Some(JUDGE)] {
        let error = fail(&mut ls(token));
        assert!(error.contains("token"), "{token:?}: {error}");
        assert!(token.is_none_or(|token| !error.contains(token)), "a token is never shown: {error}");
    }
    let worker = |kind: &str, token: &str| -> Command {
        let mut command = avsweep(cluster.folder());
        command.args([kind, "--coordinator", &cluster.url]).env("AVSWEEP_TOKEN", token);
        command
    };
    for mut command in [worker("worker", USER), worker("worker", JUDGE), worker("judge", WORKER)] {
        let error = fail(&mut command);
        assert!(error.contains("token"), "{error}");
    }
    assert!(!cluster.coordinator.said().contains(USER), "a token is never logged");
}

#[test]
fn a_port_for_other_machines_wants_tls_and_tokens() {
    let folder = TempDir::new().expect("a temporary folder");
    let coordinator = |flags: &[&str]| {
        fail(avsweep(folder.path()).args(["coordinator", "--metrics-listen", "off"]).args(flags))
    };
    let error = coordinator(&["--listen", "0.0.0.0:0"]);
    assert!(error.contains("TLS") && error.contains("--insecure"), "{error}");
    let error = fail(
        avsweep(folder.path())
            .args(["worker", "--coordinator", "http://coordinator.example:7700"])
            .env("AVSWEEP_TOKEN", WORKER),
    );
    assert!(error.contains("plain text") && error.contains("--insecure"), "{error}");
    let error = misuse(avsweep(folder.path()).args(["sweep", "ls", "--coordinator", "coordinator:7700"]));
    assert!(error.contains("coordinator:7700") && error.contains("https://"), "{error}");
    assert!(!folder.path().join("test.db").exists(), "nothing was made");
}

#[test]
fn slurm_is_given_the_script_by_environment_and_never_a_token() {
    let folder = TempDir::new().expect("a temporary folder");
    std::fs::write(folder.path().join("worker.token"), WORKER).expect("the folder is writable");
    // The user's own.
    let token = "6f1c-never-printed";
    let submit = |flags: &[&str]| {
        let mut command = avsweep(folder.path());
        command
            .args(["slurm", "submit", "--dry-run", "--array", "3", "--gpus", "2", "--partition", "gpu"])
            .args(["--coordinator", "https://coordinator.example:7700", "--ca", "ca.pem"]);
        command.args(flags).env("AVSWEEP_TOKEN", token).current_dir(folder.path());
        command
    };
    let printed = succeed(&mut submit(&["--worker-token-file", "worker.token"]));
    for part in [
        "export AVSWEEP_COORDINATOR=https://coordinator.example:7700",
        "worker.token",
        "--array=0-2",
        "--gres=gpu:2",
        "--partition=gpu",
        "--requeue",
        "#!/bin/bash",
    ] {
        assert!(printed.contains(part), "'{part}' is not in\n{printed}");
    }
    assert!(!printed.contains(WORKER) && !printed.contains(token), "{printed}");
    for user in [&[][..], &["--token-file", "user.token"]] {
        let error = misuse(&mut submit(user));
        assert!(error.contains("--worker-token-file") && !error.contains(token), "{error}");
    }
    let error = misuse(&mut submit(&["--worker-token-file", "wroker.token"]));
    assert!(error.contains("wroker.token"), "{error}");
    let missing = misuse(avsweep(&pocket()).args(["slurm", "submit", "--dry-run"]));
    assert!(missing.contains("--coordinator"), "{missing}");
}

#[test]
fn two_workers_of_one_name_are_told_and_a_restarted_one_works_at_once() {
    let cluster = Cluster::new();
    let workers = || json(&mut cluster.user(&["workers", "ls"]));
    let problem = || {
        let workers = workers();
        workers[0]["problem"].as_str().filter(|problem| problem.contains("same name")).map(str::to_owned)
    };
    let mut first = cluster.worker("one", &[]);
    until("the first one is there", || (workers()[0]["worker"] == "one").then_some(()));
    first.kill();
    let mut second = cluster.worker("one", &[]);
    SweepText::new(SWEEP, "1").write(cluster.folder());
    succeed(&mut cluster.user(&["sweep", "create", "sweep.yaml"]));
    until("the one that was restarted works", || {
        json(&mut cluster.user(&["sweep", "show", SWEEP]))["results"].as_u64().filter(|results| *results > 0)
    });
    assert_eq!(problem(), None);

    let mut third = cluster.worker("one", &[]);
    let told = until("both are told", problem);
    assert!(told.contains("--name"), "{told}");
    until("they say it themselves", || {
        (second.said().contains("same name") && third.said().contains("same name")).then_some(())
    });
    assert_eq!(third.terminate(), Some(0), "{}", third.said());
    until("the one that is left is told no more", || problem().is_none().then_some(()));
    assert_eq!(second.terminate(), Some(0), "{}", second.said());
}

#[test]
fn a_log_line_tells_its_fields_apart() {
    let folder = TempDir::new().expect("a temporary folder");
    let mut command = avsweep(folder.path());
    command.args(["worker", "--coordinator", "http://127.0.0.1:9", "--on-coordinator-lost", "stop"]);
    let output = command.args(["--coordinator-patience", "2"]).output().expect("the binary starts");
    let said = stderr(&output);
    let line = said.lines().find(|line| line.contains("trying again")).expect("it tries again");
    assert!(
        line.contains("code=Unavailable") && line.contains("reason=\"cannot reach the coordinator"),
        "{line}"
    );
}
