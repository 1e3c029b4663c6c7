//! Requests that cannot be right are refused with a code and a reason, and change nothing.

use avsweep_proto::v1;
use tonic::{Code, Status};

use crate::support::{ALL_RUNGS, Cluster, Shape, definition, evaluate, lease_request};

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, text: &str) {
    let error = answer.expect_err(text);
    assert_eq!(error.code(), code, "{error}");
    assert!(error.message().contains(text), "'{}' does not say '{text}'", error.message());
}

fn sweep(name: &str) -> String {
    name.to_owned()
}

#[tokio::test]
async fn requests_of_workers_that_say_too_little_or_the_wrong_thing() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let definition = definition(Shape::default());
    cluster.create(&definition).await?;
    cluster.coordinator.plan_once().await?;
    let job = cluster.lease(&[v1::Rung::Likelihood], 1).await?.remove(0);
    let before = cluster.progress("tiny").await?;
    let invalid = Code::InvalidArgument;

    let mut jobs = cluster.jobs();
    let ask = lease_request(&ALL_RUNGS, 1, 0);
    let no_name = v1::LeaseRequest { worker: String::new(), ..ask.clone() };
    refused(jobs.lease(no_name).await, invalid, "LeaseRequest.worker is 0 bytes long");
    refused(jobs.lease(lease_request(&[], 1, 0)).await, invalid, "LeaseRequest.rungs is empty");
    refused(jobs.lease(lease_request(&ALL_RUNGS, 0, 0)).await, invalid, "LeaseRequest.max_jobs is 0");
    let unknown_rung = v1::LeaseRequest { rungs: vec![9], ..ask };
    refused(jobs.lease(unknown_rung).await, invalid, "LeaseRequest.rungs is 9");

    let good = evaluate(&definition, &job)?;
    let lease = job.lease.clone();
    let with_lease = |change: fn(&mut v1::LeaseRef)| {
        let mut bad = good.clone();
        bad.lease.iter_mut().for_each(change);
        bad
    };
    let no_lease = v1::ReportRequest { lease: None, ..good.clone() };
    refused(jobs.report(no_lease).await, invalid, "ReportRequest.lease is missing");
    let no_results = v1::ReportRequest { results: None, ..good.clone() };
    refused(jobs.report(no_results).await, invalid, "ReportRequest.results is missing");
    let short_token = with_lease(|lease| lease.token.truncate(3));
    refused(jobs.report(short_token).await, invalid, "LeaseRef.token is 3 bytes long; 16 bytes is wanted");
    let no_attempt = with_lease(|lease| lease.attempt = 0);
    refused(jobs.report(no_attempt).await, invalid, "LeaseRef.attempt is 0");
    let other_token = with_lease(|lease| lease.token[0] ^= 1);
    assert_eq!(jobs.report(other_token).await?.into_inner().status(), v1::LeaseStatus::Lost);

    let with_scores = |change: fn(&mut Vec<v1::ScoreResult>)| {
        let mut bad = good.clone();
        if let Some(v1::report_request::Results::Scores(scores)) = &mut bad.results {
            change(&mut scores.results);
        }
        bad
    };
    let not_a_number = with_scores(|scores| scores[0].scores[1].log_prob_sum = f64::NAN);
    refused(jobs.report(not_a_number).await, invalid, "ReferenceScore.log_prob_sum is NaN");
    let two_levels = with_scores(|scores| scores[0].scores.truncate(2));
    refused(jobs.report(two_levels).await, invalid, "2 scores");
    let foreign = with_scores(|scores| scores[0].ordinal = 11);
    refused(jobs.report(foreign).await, invalid, "query 11 is not of the job");
    let unfinished = with_scores(|scores| scores.truncate(1));
    refused(jobs.report(unfinished).await, invalid, "have no result");
    let texts = v1::ReportRequest {
        results: Some(v1::report_request::Results::Responses(v1::ResponseResults { results: vec![] })),
        ..good.clone()
    };
    refused(jobs.report(texts).await, invalid, "the job is a likelihood job");

    let no_lease =
        v1::FailRequest { worker: sweep("tester"), lease: None, error: String::new(), usage: None };
    refused(jobs.fail(no_lease).await, invalid, "FailRequest.lease is missing");
    let too_many = v1::RenewRequest {
        worker: sweep("tester"),
        leases: lease.into_iter().cycle().take(10_001).collect(),
    };
    refused(jobs.renew(too_many).await, invalid, "RenewRequest.leases is 10001 long");
    let nowhere = v1::GetDefinitionRequest { sweep: 77 };
    refused(jobs.get_definition(nowhere).await, Code::NotFound, "no sweep '77'");

    assert_eq!(cluster.progress("tiny").await?, before);
    assert!(cluster.work(&definition, &job).await?, "the lease is still held");
    Ok(())
}

#[tokio::test]
async fn requests_of_users_that_name_what_is_not_there() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let definition = definition(Shape::default());
    cluster.create(&definition).await?;
    let before = cluster.progress("tiny").await?;
    let (invalid, missing) = (Code::InvalidArgument, Code::NotFound);
    let mut sweeps = cluster.sweeps();

    let empty = v1::CreateSweepRequest { definition: None, priority: 0 };
    refused(sweeps.create_sweep(empty).await, invalid, "CreateSweepRequest.definition is missing");
    let mut wire = v1::SweepDefinition::from(&definition);
    wire.name = "other".to_owned();
    wire.domains[1].search[0].references.pop();
    let bad = v1::CreateSweepRequest { definition: Some(wire), priority: 0 };
    refused(sweeps.create_sweep(bad).await, invalid, "no reference for level 'expert'");

    let mut wire = v1::SweepDefinition::from(&definition);
    wire.name = "other".to_owned();
    wire.vectors.push(v1::VectorSource { name: "spare".to_owned(), ..wire.vectors[0].clone() });
    let bad = v1::CreateSweepRequest { definition: Some(wire), priority: 0 };
    refused(sweeps.create_sweep(bad).await, invalid, "vector 'spare' is used by no coefficient");

    let nothing = || sweep("nothing");
    refused(sweeps.get_sweep(v1::GetSweepRequest { sweep: nothing() }).await, missing, "it holds tiny");
    refused(
        sweeps.watch_sweep(v1::WatchSweepRequest { sweep: nothing() }).await,
        missing,
        "no sweep 'nothing'",
    );
    let read = v1::ReadResultsRequest { sweep: nothing() };
    refused(sweeps.read_results(read).await, missing, "no sweep 'nothing'");
    let read = v1::ReadTalliesRequest { sweep: nothing() };
    refused(sweeps.read_tallies(read).await, missing, "no sweep 'nothing'");
    let list = v1::ListJobsRequest { states: vec![], after: None, limit: 0, sweep: nothing() };
    refused(sweeps.list_jobs(list).await, missing, "no sweep 'nothing'");
    let retry = v1::RetryJobsRequest { jobs: vec![], sweep: nothing() };
    refused(sweeps.retry_jobs(retry).await, missing, "no sweep 'nothing'");
    let state = v1::SetSweepStateRequest { sweep: sweep("tiny"), state: 0 };
    refused(sweeps.set_sweep_state(state).await, invalid, "SetSweepStateRequest.state is 0");

    let target = |levels: &[u32]| v1::Target {
        wanted: levels
            .iter()
            .map(|level| v1::Wanted { wanted: Some(v1::wanted::Wanted::Level(*level)) })
            .collect(),
    };
    let best = |targets: Vec<v1::Target>| v1::BestPointsRequest {
        sweep: sweep("tiny"),
        targets,
        aggregate: 0,
        reading: 0,
        assured: false,
    };
    refused(sweeps.best_points(best(vec![target(&[1])])).await, invalid, "1 domains; the sweep has 2");
    refused(
        sweeps.best_points(best(vec![target(&[1, 3])])).await,
        invalid,
        "level number 3 of domain 'legal'",
    );
    refused(sweeps.best_points(best(vec![target(&[])])).await, invalid, "Target.wanted is empty");
    let odd = v1::BestPointsRequest { aggregate: 17, ..best(vec![]) };
    refused(sweeps.best_points(odd).await, invalid, "BestPointsRequest.aggregate is 17");
    let judged = v1::BestPointsRequest { reading: v1::Reading::Judgement.into(), ..best(vec![]) };
    refused(
        sweeps.best_points(judged).await,
        Code::FailedPrecondition,
        "judges the finalists' responses to the confirm queries only; a sweep with 'generation: all'",
    );
    let as_base = v1::Target {
        wanted: vec![v1::Wanted { wanted: Some(v1::wanted::Wanted::AsBase(v1::AsBase {})) }; 2],
    };
    refused(sweeps.best_points(best(vec![as_base])).await, Code::FailedPrecondition, "the base (point 0,0)");

    let sample = |ticks: Vec<i32>, ordinals: Vec<u32>| v1::RequestSampleRequest {
        sweep: sweep("tiny"),
        point: Some(v1::Point { ticks }),
        ordinals,
        stored_only: false,
    };
    refused(sweeps.request_sample(sample(vec![0], vec![])).await, invalid, "the sweep has 2 coefficients");
    let outside = sample(vec![0, 20_000], vec![]);
    refused(sweeps.request_sample(outside).await, invalid, "beta = 2 lies outside -1 … 1");
    let no_query = sample(vec![0, 0], vec![12]);
    refused(sweeps.request_sample(no_query).await, invalid, "query number 12; sweep 'tiny' has 12");
    let pointless = v1::RequestSampleRequest { point: None, ..sample(vec![], vec![]) };
    refused(sweeps.request_sample(pointless).await, invalid, "RequestSampleRequest.point is missing");

    assert_eq!(cluster.progress("tiny").await?, before);
    let pause = v1::SetSweepStateRequest { sweep: sweep("tiny"), state: v1::SweepState::Paused.into() };
    sweeps.set_sweep_state(pause).await?;
    let paused = sample(vec![0, 0], vec![1]);
    refused(sweeps.request_sample(paused).await, Code::FailedPrecondition, "sweep 'tiny' is paused");
    assert_eq!(cluster.store.totals(avsweep_domain::SweepId(before.sweep)).await?.points, 0);
    Ok(())
}
