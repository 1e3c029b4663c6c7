//! The lease protocol over gRPC in process.

use std::time::Duration;

use anyhow::Context as _;
use avsweep_coordinator::Settings;
use avsweep_proto::v1;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{ALL_RUNGS, BOUND, Cluster, Shape, definition, evaluate, lease_request, settings};

#[tokio::test]
async fn late_report_from_lost_lease_changes_nothing_and_is_told_so() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let definition = definition(Shape::default());
    cluster.create(&definition).await?;
    cluster.coordinator.plan_once().await?;
    let lost = cluster.lease(&ALL_RUNGS, 1).await?.remove(0);
    cluster.clock.advance(Duration::from_millis(u64::from(lost.lease_millis) + 1));
    assert_eq!(cluster.coordinator.reap_once().await?, 1);
    assert_eq!(cluster.coordinator.reap_once().await?, 0);

    assert!(!cluster.work(&definition, &lost).await?);
    let renewal =
        v1::RenewRequest { worker: "tester".to_owned(), leases: lost.lease.clone().into_iter().collect() };
    let statuses = cluster.jobs().renew(renewal).await?.into_inner().statuses;
    assert_eq!(statuses, [i32::from(v1::LeaseStatus::Lost)]);
    let failure = v1::FailRequest {
        worker: "tester".to_owned(),
        lease: lost.lease.clone(),
        error: "late".to_owned(),
        usage: None,
    };
    let status = cluster.jobs().fail(failure).await?.into_inner().status();
    assert_eq!(status, v1::LeaseStatus::Lost);
    assert_eq!(cluster.progress("tiny").await?.results, 0);

    let again = cluster.lease(&ALL_RUNGS, 1).await?.remove(0);
    let (lost_lease, lease) = (lost.lease.context("a lease")?, again.lease.clone().context("a lease")?);
    assert_eq!((lease.job, lease.attempt), (lost_lease.job, lost_lease.attempt + 1));
    assert_ne!(lease.token, lost_lease.token);
    assert!(cluster.work(&definition, &again).await?);
    Ok(())
}

#[tokio::test]
async fn a_renewed_lease_outlives_its_first_duration() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let definition = definition(Shape::default());
    cluster.create(&definition).await?;
    cluster.coordinator.plan_once().await?;
    let job = cluster.lease(&ALL_RUNGS, 1).await?.remove(0);
    for _ in 0..5 {
        cluster.clock.advance(Duration::from_millis(u64::from(job.lease_millis) * 2 / 3));
        let leases = job.lease.clone().into_iter().collect();
        let renewal = v1::RenewRequest { worker: "tester".to_owned(), leases };
        let answer = cluster.jobs().renew(renewal).await?.into_inner();
        assert_eq!(answer.statuses, [i32::from(v1::LeaseStatus::Held)]);
        assert_eq!(cluster.coordinator.reap_once().await?, 0);
    }
    assert!(cluster.work(&definition, &job).await?);
    Ok(())
}

#[tokio::test]
async fn a_report_sent_twice_is_stored_once() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let definition = definition(Shape::default());
    cluster.create(&definition).await?;
    cluster.coordinator.plan_once().await?;
    let job = cluster.lease(&ALL_RUNGS, 1).await?.remove(0);
    let part = v1::ReportRequest { finished: false, ..evaluate(&definition, &job)? };
    for _ in 0..2 {
        let status = cluster.jobs().report(part.clone()).await?.into_inner().status();
        assert_eq!(status, v1::LeaseStatus::Held);
    }
    let progress = cluster.progress("tiny").await?;
    assert_eq!(progress.results, job.ordinals.len() as u64);
    assert_eq!(progress.duplicate_results, job.ordinals.len() as u64);
    Ok(())
}

#[tokio::test]
async fn a_job_given_back_is_handed_out_again_uncounted() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let definition = definition(Shape::default());
    cluster.create(&definition).await?;
    cluster.coordinator.plan_once().await?;
    for _ in 0..10 {
        let job = cluster.lease(&ALL_RUNGS, 1).await?.remove(0);
        let leases = job.lease.into_iter().collect();
        cluster
            .jobs()
            .release(v1::ReleaseRequest { worker: "tester".to_owned(), leases, usage: None })
            .await?;
    }
    cluster.run_to_done(&definition).await?;
    Ok(())
}

#[tokio::test]
async fn a_job_that_keeps_failing_is_parked_with_its_reason_and_the_sweep_goes_on() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let definition = definition(Shape::default());
    cluster.create(&definition).await?;
    cluster.coordinator.plan_once().await?;
    for _ in 0..2 {
        let job = cluster.lease(&ALL_RUNGS, 1).await?.remove(0);
        let error = "logits of 'lm_head' are not finite".to_owned();
        cluster
            .jobs()
            .fail(v1::FailRequest { worker: "tester".to_owned(), lease: job.lease, error, usage: None })
            .await?;
    }
    cluster.run_to_done(&definition).await?;
    let sweep = || "tiny".to_owned();
    let failed = cluster
        .sweeps()
        .list_jobs(v1::ListJobsRequest {
            states: vec![v1::JobState::Parked.into()],
            after: None,
            limit: 0,
            sweep: sweep(),
        })
        .await?;
    let failed = failed.into_inner().jobs;
    assert_eq!((failed.len(), failed[0].errors, failed[0].lost), (1, 2, 0));
    assert_eq!(failed[0].last_error.as_deref(), Some("logits of 'lm_head' are not finite"));
    let best = cluster.best(&definition).await?;
    assert_eq!(best.points_measured, 8, "the point that lacks results does not count");

    // Tried again, the point is measured, and finalists are chosen anew.
    let retry = v1::RetryJobsRequest { jobs: vec![], sweep: sweep() };
    assert_eq!(cluster.sweeps().retry_jobs(retry).await?.into_inner().retried, 1);
    assert_eq!(cluster.progress("tiny").await?.state(), v1::SweepState::Running);
    cluster.run_to_done(&definition).await?;
    let best = cluster.best(&definition).await?;
    assert!(best.answers.iter().all(|answer| answer.achieved() && answer.judged_aggregate == Some(1.0)));
    Ok(())
}

#[tokio::test]
async fn a_request_for_jobs_waits_no_longer_than_the_settings_allow() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let request = lease_request(&ALL_RUNGS, 1, u32::MAX);
    let answer = tokio::time::timeout(BOUND, cluster.jobs().lease(request)).await.context("bounded")??;
    assert!(answer.into_inner().jobs.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_waiting_request_gets_the_jobs_of_a_sweep_created_meanwhile() -> anyhow::Result<()> {
    // Neither the planner's timer nor the request's own look would come in time: only signals do.
    let never = Duration::from_secs(100_000);
    let settings =
        Settings { max_wait: never, wait_poll_interval: never, planner_interval: never, ..settings() };
    let cluster = Cluster::with_settings(settings).await?;
    let tasks = cluster.background();
    let definition = definition(Shape::default());
    let waiting = {
        let mut client = cluster.jobs();
        tokio::spawn(async move { client.lease(lease_request(&ALL_RUNGS, 1, u32::MAX)).await })
    };
    cluster.create(&definition).await?;
    let jobs = tokio::time::timeout(BOUND, waiting).await.context("woken")???.into_inner().jobs;
    assert_eq!(jobs.len(), 1);

    // And so does everything that follows, to the sweep's end.
    cluster.work(&definition, &jobs[0]).await?;
    let working = async {
        while cluster.progress("tiny").await?.state() != v1::SweepState::Done {
            let request = lease_request(&ALL_RUNGS, 1, 50);
            for job in cluster.jobs().lease(request).await?.into_inner().jobs {
                cluster.work(&definition, &job).await?;
            }
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(BOUND, working).await.context("the sweep's end")??;
    cluster.cancel.cancel();
    tokio::time::timeout(BOUND, tasks.wait()).await.context("background tasks end")?;
    Ok(())
}

#[tokio::test]
async fn at_shutdown_waiting_requests_end_and_reports_are_still_taken() -> anyhow::Result<()> {
    let long = Settings { max_wait: Duration::from_secs(100_000), ..settings() };
    let cluster = Cluster::with_settings(long).await?;
    let definition = definition(Shape::default());
    cluster.create(&definition).await?;
    cluster.coordinator.plan_once().await?;
    let held = cluster.lease(&ALL_RUNGS, 1).await?.remove(0);
    let stop = tokio_util::sync::CancellationToken::new();
    let tasks = cluster.coordinator.start_background(stop.clone());
    let waiting = {
        let mut client = cluster.jobs();
        tokio::spawn(async move { client.lease(lease_request(&[v1::Rung::Judgement], 1, u32::MAX)).await })
    };
    stop.cancel();
    let error = tokio::time::timeout(BOUND, waiting).await.context("ended")??.expect_err("no job came");
    assert_eq!(error.code(), Code::Unavailable);
    tokio::time::timeout(BOUND, tasks.wait()).await.context("background tasks end")?;
    assert!(cluster.work(&definition, &held).await?);
    let error = cluster.jobs().lease(lease_request(&ALL_RUNGS, 1, 0)).await.expect_err("nothing new");
    assert_eq!(error.code(), Code::Unavailable);
    Ok(())
}

#[tokio::test]
async fn a_definition_is_fetched_by_the_sweeps_number() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let definition = definition(Shape::default());
    let sweep = cluster.create(&definition).await?;
    let answer = cluster.jobs().get_definition(v1::GetDefinitionRequest { sweep }).await?.into_inner();
    let fetched = avsweep_domain::SweepDefinition::try_from(answer.definition.context("a definition")?)?;
    assert_eq!(fetched, definition);
    assert_eq!(answer.fingerprint, definition.fingerprint().as_bytes());
    Ok(())
}

#[tokio::test]
async fn health_is_served_for_both_services() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let mut client = HealthClient::new(cluster.server.transport());
    for service in ["", "avsweep.v1.JobService", "avsweep.v1.SweepService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        assert_eq!(client.check(request).await?.into_inner().status(), ServingStatus::Serving);
    }
    Ok(())
}
