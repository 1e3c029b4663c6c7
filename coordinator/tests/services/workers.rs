//! Workers as they are seen, and jobs as a user handles them.

use std::time::Duration;

use anyhow::Context as _;
use avsweep_proto::{ErrorCode, v1};

use crate::support::{ALL_RUNGS, Cluster, Shape, definition, evaluate};

fn status(worker: &str, state: v1::WorkerState) -> v1::ReportStatusRequest {
    v1::ReportStatusRequest {
        status: Some(v1::WorkerStatus {
            worker: worker.to_owned(),
            kind: v1::WorkerKind::Worker.into(),
            state: state.into(),
            device: "cpu, 2 threads".to_owned(),
            results_per_second: 1.5,
            ..v1::WorkerStatus::default()
        }),
    }
}

async fn workers(cluster: &Cluster) -> anyhow::Result<Vec<v1::Worker>> {
    Ok(cluster.sweeps().list_workers(v1::ListWorkersRequest {}).await?.into_inner().workers)
}

#[tokio::test]
async fn a_worker_is_listed_with_what_it_says_and_the_jobs_it_holds() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let definition = definition(Shape::default());
    cluster.create(&definition).await?;
    cluster.coordinator.plan_once().await?;
    let job = cluster.lease(&ALL_RUNGS, 1).await?.remove(0);
    let answer = cluster.jobs().report_status(status("tester", v1::WorkerState::Busy)).await?.into_inner();
    assert_eq!(answer.next_millis, job.lease_millis / 3);
    let listed = workers(&cluster).await?;
    let told = listed[0].status.clone().context("a status")?;
    assert_eq!((told.worker.as_str(), told.state()), ("tester", v1::WorkerState::Busy));
    assert_eq!((told.results_per_second, listed[0].gone), (1.5, false));
    let held: Vec<_> = listed[0].jobs.iter().map(|job| job.job).collect();
    assert_eq!(held, [job.lease.context("a lease")?.job]);
    Ok(())
}

#[tokio::test]
async fn a_worker_not_heard_of_for_a_whole_lease_is_gone_unless_it_said_that_it_ends() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    for (worker, state) in [("dies", v1::WorkerState::Idle), ("ends", v1::WorkerState::Stopped)] {
        cluster.jobs().report_status(status(worker, state)).await?;
    }
    cluster.clock.advance(Duration::from_secs(60));
    assert!(workers(&cluster).await?.iter().all(|worker| !worker.gone));
    cluster.clock.advance(Duration::from_millis(1));
    for worker in workers(&cluster).await? {
        let name = worker.status.context("a status")?.worker;
        assert_eq!((worker.gone, worker.seen_millis_ago), (name == "dies", 60_001), "{name}");
    }
    let metrics = cluster.coordinator.metrics_text().await;
    for line in [
        "avsweep_workers{kind=\"worker\",state=\"gone\"} 1\n",
        "avsweep_workers{kind=\"worker\",state=\"stopped\"} 1\n",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
    Ok(())
}

#[tokio::test]
async fn a_status_that_says_the_wrong_thing_is_refused() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let with = |change: fn(&mut v1::WorkerStatus)| {
        let mut bad = status("tester", v1::WorkerState::Idle);
        bad.status.iter_mut().for_each(change);
        bad
    };
    for (bad, code) in [
        (v1::ReportStatusRequest { status: None }, ErrorCode::Malformed),
        (with(|status| status.state = 0), ErrorCode::Malformed),
        (with(|status| status.kind = 9), ErrorCode::Malformed),
        (with(|status| status.worker.clear()), ErrorCode::Malformed),
        (with(|status| status.device = "x".repeat(2001)), ErrorCode::Malformed),
        (with(|status| status.results_per_second = f64::NAN), ErrorCode::NotFinite),
    ] {
        let refusal = cluster.jobs().report_status(bad).await.expect_err("a bad status");
        assert_eq!(ErrorCode::of(&refusal), Some(code), "{refusal}");
    }
    assert!(workers(&cluster).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn jobs_are_listed_in_pages_and_by_state() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let definition = definition(Shape::default());
    cluster.create(&definition).await?;
    cluster.coordinator.plan_once().await?;
    let leased = cluster.lease(&ALL_RUNGS, 2).await?;
    let list = async |request: v1::ListJobsRequest| {
        anyhow::Ok(cluster.sweeps().list_jobs(request).await?.into_inner().jobs)
    };
    let all = list(v1::ListJobsRequest::default()).await?;
    let mut paged = Vec::new();
    loop {
        let after = paged.last().map(|job: &v1::Job| job.job);
        let page = list(v1::ListJobsRequest { after, limit: 1, ..v1::ListJobsRequest::default() }).await?;
        if page.is_empty() {
            break;
        }
        assert_eq!(page.len(), 1);
        paged.extend(page);
    }
    assert_eq!(paged, all);
    let states = vec![v1::JobState::Leased.into()];
    let held = list(v1::ListJobsRequest { states, ..v1::ListJobsRequest::default() }).await?;
    assert_eq!(held.len(), leased.len());
    for job in held {
        assert_eq!((job.worker.as_deref(), job.lease_millis_left), (Some("tester"), Some(60_000)));
    }
    Ok(())
}

#[tokio::test]
async fn a_sweep_of_higher_priority_goes_first_and_one_that_a_worker_excepts_never() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let mut numbers = Vec::new();
    for (name, model) in [("low", 1), ("high", 2)] {
        let mut definition = definition(Shape { name, ..Shape::default() });
        definition.model.fingerprint = avsweep_domain::Fingerprint::of(&[model]);
        numbers.push(cluster.create(&definition).await?);
    }
    let request = v1::SetSweepPriorityRequest { sweep: "high".to_owned(), priority: 7 };
    cluster.sweeps().set_sweep_priority(request).await?;
    assert_eq!(cluster.progress("high").await?.priority, 7);
    cluster.coordinator.plan_once().await?;
    let job = cluster.lease(&ALL_RUNGS, 1).await?.remove(0);
    assert_eq!(job.sweep, numbers[1]);
    let wish = v1::LeaseRequest {
        except_sweeps: vec![numbers[1]],
        ..crate::support::lease_request(&ALL_RUNGS, 1, 0)
    };
    let job = cluster.jobs().lease(wish).await?.into_inner().jobs.remove(0);
    assert_eq!(job.sweep, numbers[0]);
    Ok(())
}

#[tokio::test]
async fn a_deleted_sweep_is_gone_and_its_planner_does_not_bring_it_back() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let definition = definition(Shape::default());
    cluster.create(&definition).await?;
    cluster.run_to_done(&definition).await?;
    let delete = v1::DeleteSweepRequest { sweep: "tiny".to_owned() };
    let deleted = cluster.sweeps().delete_sweep(delete).await?.into_inner();
    assert_eq!((deleted.jobs, deleted.points), (9 * (2 + 1 + 1 + 1), 9));
    cluster.coordinator.plan_once().await?;
    let get = v1::GetSweepRequest { sweep: "tiny".to_owned() };
    let refusal = cluster.sweeps().get_sweep(get).await.expect_err("deleted");
    assert_eq!(ErrorCode::of(&refusal), Some(ErrorCode::UnknownSweep));
    Ok(())
}

#[tokio::test]
async fn what_a_report_used_is_counted_once_it_is_taken() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let definition = definition(Shape::default());
    cluster.create(&definition).await?;
    cluster.coordinator.plan_once().await?;
    let job = cluster.lease(&ALL_RUNGS, 1).await?.remove(0);
    let mut report = evaluate(&definition, &job)?;
    report.usage = Some(v1::Usage { tokens: 42, out_of_memory: 1, ..v1::Usage::default() });
    cluster.jobs().report(report).await?;
    let metrics = cluster.coordinator.metrics_text().await;
    for line in [
        "avsweep_jobs_leased_total{rung=\"likelihood\"} 1\n",
        "avsweep_reports_total{rung=\"likelihood\",status=\"held\"} 1\n",
        "avsweep_tokens_total{rung=\"likelihood\"} 42\n",
        "avsweep_out_of_memory_total 1\n",
        "avsweep_jobs{rung=\"likelihood\",state=\"done\"} 1\n",
        "avsweep_sweeps_running 1\n",
        "avsweep_store_reachable 1\n",
        "avsweep_requests_total{method=\"JobService/Report\",code=\"ok\"} 1\n",
        "avsweep_store_seconds_count{operation=\"report\"} 1\n",
    ] {
        assert!(metrics.contains(line), "{line}{metrics}");
    }
    Ok(())
}

#[tokio::test]
async fn what_judging_took_is_counted_under_a_lost_lease_too() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let definition = definition(Shape::default());
    cluster.create(&definition).await?;
    cluster.coordinator.plan_once().await?;
    let job = cluster.lease(&ALL_RUNGS, 1).await?.remove(0);
    cluster.clock.advance(Duration::from_millis(u64::from(job.lease_millis) + 1));
    let spent = |judge_calls| Some(v1::Usage { judge_calls, ..v1::Usage::default() });
    let report = v1::ReportRequest { usage: spent(3), ..evaluate(&definition, &job)? };
    assert_eq!(cluster.jobs().report(report).await?.into_inner().status(), v1::LeaseStatus::Lost);
    let (worker, error) = ("tester".to_owned(), "late".to_owned());
    let failure = v1::FailRequest { worker, lease: job.lease, error, usage: spent(2) };
    assert_eq!(cluster.jobs().fail(failure).await?.into_inner().status(), v1::LeaseStatus::Lost);
    let metrics = cluster.coordinator.metrics_text().await;
    assert!(metrics.contains("avsweep_judge_calls_total 5\n"), "{metrics}");
    Ok(())
}
