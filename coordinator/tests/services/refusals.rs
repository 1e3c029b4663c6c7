//! Bad input and bad peers: each is refused with its own error code, counted, and changes nothing.

use anyhow::Context as _;
use avsweep_proto::{ErrorCode, v1};
use http::Request;
use http_body_util::Full;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::ServiceExt as _;

use crate::export::export;
use crate::support::{ALL_RUNGS, Cluster, Shape, definition, evaluate, lease_request};

/// A cluster with one leased job, and what its store tells before anything bad comes.
struct Scene {
    cluster: Cluster,
    good: v1::ReportRequest,
    before: String,
}

impl Scene {
    async fn set() -> anyhow::Result<Self> {
        let cluster = Cluster::start().await?;
        let definition = definition(Shape::default());
        cluster.create(&definition).await?;
        cluster.coordinator.plan_once().await?;
        let job = cluster.lease(&ALL_RUNGS, 1).await?.remove(0);
        let good = evaluate(&definition, &job)?;
        let before = export(cluster.store.as_ref()).await?;
        Ok(Self { cluster, good, before })
    }

    /// Refused with this code, counted once under the method, and nothing has changed; the lease is still good.
    async fn check(self, method: &str, status: Option<Status>, code: ErrorCode) -> anyhow::Result<()> {
        if let Some(status) = status {
            assert_eq!((ErrorCode::of(&status), status.code()), (Some(code), code.grpc_code()), "{status}");
        }
        assert_eq!(export(self.cluster.store.as_ref()).await?, self.before);
        let metrics = self.cluster.coordinator.metrics_text().await;
        let line = format!("avsweep_refused_requests_total{{method=\"{method}\",code=\"{code}\"}} 1\n");
        assert!(metrics.contains(&line), "{line}{metrics}");
        let status = self.cluster.jobs().report(self.good).await?.into_inner().status();
        assert_eq!(status, v1::LeaseStatus::Held);
        Ok(())
    }

    async fn check_report(self, bad: v1::ReportRequest, code: ErrorCode) -> anyhow::Result<()> {
        let status = self.cluster.jobs().report(bad).await.err().context("a refusal")?;
        self.check("JobService/Report", Some(status), code).await
    }

    /// Sends bytes as they are, and reads the refusal.
    async fn send(&self, path: &str, bytes: Vec<u8>) -> anyhow::Result<Status> {
        let request = Request::post(path)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Body::new(Full::new(bytes::Bytes::from(bytes))))?;
        let answer = self.cluster.transport.clone().oneshot(request).await?;
        Status::from_header_map(answer.headers()).context("a refusal in the headers")
    }
}

fn with_scores(good: &v1::ReportRequest, change: impl Fn(&mut Vec<v1::ScoreResult>)) -> v1::ReportRequest {
    let mut bad = good.clone();
    if let Some(v1::report_request::Results::Scores(scores)) = &mut bad.results {
        change(&mut scores.results);
    }
    bad
}

fn with_lease(good: &v1::ReportRequest, change: impl Fn(&mut v1::LeaseRef)) -> v1::ReportRequest {
    let mut bad = good.clone();
    bad.lease.iter_mut().for_each(change);
    bad
}

#[tokio::test]
async fn a_message_of_garbage_is_malformed() -> anyhow::Result<()> {
    let scene = Scene::set().await?;
    let status = scene.send("/avsweep.v1.JobService/Report", b"\0\0\0\0\x08garbage!".to_vec()).await?;
    scene.check("JobService/Report", Some(status), ErrorCode::Malformed).await
}

#[tokio::test]
async fn a_message_that_is_cut_short_is_malformed() -> anyhow::Result<()> {
    let scene = Scene::set().await?;
    let status = scene.send("/avsweep.v1.JobService/Report", b"\0\0\0\0\x08gar".to_vec()).await?;
    scene.check("JobService/Report", Some(status), ErrorCode::Malformed).await
}

#[tokio::test]
async fn an_oversized_message_is_refused_before_it_is_read() -> anyhow::Result<()> {
    let scene = Scene::set().await?;
    let status = scene.send("/avsweep.v1.JobService/Report", b"\0\xff\0\0\0begin".to_vec()).await?;
    scene.check("JobService/Report", Some(status), ErrorCode::MessageTooLarge).await
}

#[tokio::test]
async fn a_method_that_is_none_is_counted_without_its_name() -> anyhow::Result<()> {
    let scene = Scene::set().await?;
    let status = scene.send("/avsweep.v1.JobService/Steal", b"\0\0\0\0\0".to_vec()).await?;
    scene.check("other", Some(status), ErrorCode::UnknownMethod).await
}

#[tokio::test]
async fn too_few_results_are_wrong_results() -> anyhow::Result<()> {
    let scene = Scene::set().await?;
    let bad = with_scores(&scene.good, |scores| scores.truncate(1));
    scene.check_report(bad, ErrorCode::WrongResults).await
}

#[tokio::test]
async fn a_result_for_another_query_is_wrong_results() -> anyhow::Result<()> {
    let scene = Scene::set().await?;
    let bad = with_scores(&scene.good, |scores| scores[0].ordinal = 11);
    scene.check_report(bad, ErrorCode::WrongResults).await
}

#[tokio::test]
async fn scores_of_too_few_levels_are_wrong_results() -> anyhow::Result<()> {
    for levels in [0, 1, 2] {
        let scene = Scene::set().await?;
        let bad = with_scores(&scene.good, |scores| scores[0].scores.truncate(levels));
        scene.check_report(bad, ErrorCode::WrongResults).await?;
    }
    Ok(())
}

#[tokio::test]
async fn results_of_another_rung_are_wrong_results() -> anyhow::Result<()> {
    let scene = Scene::set().await?;
    let results = v1::report_request::Results::Responses(v1::ResponseResults { results: vec![] });
    let bad = v1::ReportRequest { results: Some(results), ..scene.good.clone() };
    scene.check_report(bad, ErrorCode::WrongResults).await
}

#[tokio::test]
async fn a_score_that_is_no_number_is_not_finite() -> anyhow::Result<()> {
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let scene = Scene::set().await?;
        let bad = with_scores(&scene.good, |scores| scores[0].scores[1].log_prob_sum = value);
        scene.check_report(bad, ErrorCode::NotFinite).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_report_for_an_unknown_job_says_so() -> anyhow::Result<()> {
    let scene = Scene::set().await?;
    let bad = with_lease(&scene.good, |lease| lease.job = 123_456);
    scene.check_report(bad, ErrorCode::UnknownJob).await
}

#[tokio::test]
async fn a_report_for_somebody_elses_lease_is_told_that_it_has_none() -> anyhow::Result<()> {
    let scene = Scene::set().await?;
    let bad = with_lease(&scene.good, |lease| lease.token[0] ^= 1);
    let answer = scene.cluster.jobs().report(bad).await?.into_inner();
    assert_eq!(answer.status(), v1::LeaseStatus::Lost);
    scene.check("JobService/Report", None, ErrorCode::LeaseLost).await
}

#[tokio::test]
async fn a_failure_for_somebody_elses_lease_is_told_that_it_has_none() -> anyhow::Result<()> {
    let scene = Scene::set().await?;
    let lease = with_lease(&scene.good, |lease| lease.attempt += 1).lease;
    let failure =
        v1::FailRequest { worker: "thief".to_owned(), lease, error: "mine".to_owned(), usage: None };
    let answer = scene.cluster.jobs().fail(failure).await?.into_inner();
    assert_eq!(answer.status(), v1::LeaseStatus::Lost);
    scene.check("JobService/Fail", None, ErrorCode::LeaseLost).await
}

#[tokio::test]
async fn more_exceptions_than_there_can_be_are_malformed() -> anyhow::Result<()> {
    let scene = Scene::set().await?;
    let wish = v1::LeaseRequest { except_sweeps: (0..1001).collect(), ..lease_request(&ALL_RUNGS, 1, 0) };
    let status = scene.cluster.jobs().lease(wish).await.err().context("a refusal")?;
    scene.check("JobService/Lease", Some(status), ErrorCode::Malformed).await
}

#[tokio::test]
async fn every_user_error_has_its_code() -> anyhow::Result<()> {
    let scene = Scene::set().await?;
    let mut sweeps = scene.cluster.sweeps();
    let code = |status: Status| ErrorCode::of(&status);
    let nowhere = v1::GetSweepRequest { sweep: "nowhere".to_owned() };
    assert_eq!(sweeps.get_sweep(nowhere).await.map_err(code).err(), Some(Some(ErrorCode::UnknownSweep)));
    let running = v1::DeleteSweepRequest { sweep: "tiny".to_owned() };
    assert_eq!(sweeps.delete_sweep(running).await.map_err(code).err(), Some(Some(ErrorCode::WrongState)));
    let mut other = v1::SweepDefinition::from(&definition(Shape::default()));
    other.vectors[0].fingerprint = vec![7; 32];
    let other = v1::CreateSweepRequest { definition: Some(other), priority: 0 };
    let refusal = sweeps.create_sweep(other).await.expect_err("another definition");
    assert_eq!((refusal.code(), code(refusal)), (Code::AlreadyExists, Some(ErrorCode::SweepDiffers)));
    let priority = v1::SetSweepPriorityRequest { sweep: "tiny".to_owned(), priority: i32::MAX };
    assert_eq!(
        sweeps.set_sweep_priority(priority).await.map_err(code).err(),
        Some(Some(ErrorCode::Malformed))
    );
    let unknown = v1::RetryJobsRequest { sweep: "tiny".to_owned(), jobs: vec![123_456] };
    assert_eq!(sweeps.retry_jobs(unknown).await.map_err(code).err(), Some(Some(ErrorCode::UnknownJob)));
    assert_eq!(export(scene.cluster.store.as_ref()).await?, scene.before);
    Ok(())
}
