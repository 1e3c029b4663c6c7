//! The lease keeper and the patient calls, on a paused clock: time passes only while everyone waits.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use avsweep_domain::WorkerId;
use avsweep_lease::{Backoff, CoordinatorClient, Ending, Jitter, LeaseKeeper, OnCoordinatorLost, Shutdown};
use avsweep_proto::v1;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::coordinator::{Coordinator, Event, definition};

const LEASE: Duration = Duration::from_secs(30);

fn reference_judge() -> avsweep_domain::JudgeSettings {
    avsweep_domain::JudgeSettings {
        provider: avsweep_domain::JudgeProvider::Reference { threshold: 0.35 },
        rubric: String::new(),
    }
}

/// A coordinator that has leased these jobs, and a keeper for them.
async fn leased(jobs: &[i64]) -> (Coordinator, LeaseKeeper, Vec<v1::LeaseRef>) {
    let coordinator = Coordinator::start();
    let judge = definition(reference_judge(), 1).judge;
    coordinator.set_sweep(judge, 1);
    for job in jobs {
        coordinator.add_job(*job, [0], |_| String::new());
    }
    let client = patient(&coordinator);
    let request = v1::LeaseRequest {
        worker: "w".to_owned(),
        rungs: vec![v1::Rung::Judgement.into()],
        max_jobs: jobs.len() as u32,
        wait_millis: 0,
        ..Default::default()
    };
    let answer = client.once(LEASE, |mut client| async move { client.lease(request).await }).await.unwrap();
    let keeper = LeaseKeeper::start(client, WorkerId("w".to_owned()));
    (coordinator, keeper, answer.jobs.into_iter().filter_map(|job| job.lease).collect())
}

fn renewals(coordinator: &Coordinator) -> Vec<(Instant, Vec<i64>)> {
    let state = coordinator.state();
    let renewals = state.events.iter().filter_map(|(at, event)| match event {
        Event::Renew { jobs } => Some((*at, jobs.clone())),
        _ => None,
    });
    renewals.collect()
}

#[tokio::test(start_paused = true)]
async fn every_held_lease_is_renewed_at_a_third_of_its_duration() {
    let (coordinator, keeper, references) = leased(&[1, 2]).await;
    let granted = Instant::now();
    let held: Vec<_> = references.into_iter().map(|lease| keeper.hold(lease, LEASE, granted)).collect();
    tokio::time::sleep(LEASE * 10).await;
    let mut last = granted;
    let renewals = renewals(&coordinator);
    assert!((29..=30).contains(&renewals.len()), "{}", renewals.len());
    for (at, mut jobs) in renewals {
        jobs.sort_unstable();
        assert_eq!(jobs, [1, 2], "both in one call");
        let gap = at - last;
        assert!(gap >= LEASE / 3 && gap < LEASE / 3 + Duration::from_millis(50), "{gap:?}");
        last = at;
    }
    assert!(held.iter().all(|lease| !lease.is_lost()));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_the_coordinator_calls_lost_ends_and_the_others_stay() {
    let (coordinator, keeper, references) = leased(&[1, 2]).await;
    let held: Vec<_> =
        references.into_iter().map(|lease| keeper.hold(lease, LEASE, Instant::now())).collect();
    coordinator.state().lost.insert(1);
    held[0].lost().await;
    assert!(held[0].is_lost() && !held[1].is_lost());
    assert_eq!(keeper.held(), 1);
    tokio::time::sleep(LEASE).await;
    assert_eq!(renewals(&coordinator).last().map(|(_, jobs)| jobs.clone()), Some(vec![2]));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_lease_is_renewed_no_more() {
    let (coordinator, keeper, mut references) = leased(&[1]).await;
    drop(keeper.hold(references.remove(0), LEASE, Instant::now()));
    assert_eq!(keeper.held(), 0);
    tokio::time::sleep(LEASE * 3).await;
    assert!(renewals(&coordinator).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_failed_renewal_is_tried_again_before_the_lease_ends_and_loses_nothing() {
    let (coordinator, keeper, mut references) = leased(&[1]).await;
    let granted = Instant::now();
    let held = keeper.hold(references.remove(0), LEASE, granted);
    coordinator.state().refusals =
        vec![("renew", Status::unavailable("away")), ("renew", Status::internal("still away"))];
    tokio::time::sleep(LEASE).await;
    let before_the_end = renewals(&coordinator).iter().filter(|(at, _)| *at < granted + LEASE).count();
    assert!(before_the_end >= 4, "two failed and at least two more: {before_the_end}");
    assert!(!held.is_lost());
}

#[tokio::test(start_paused = true)]
async fn a_lease_taken_into_care_later_but_due_earlier_is_renewed_in_time() {
    let (coordinator, keeper, mut references) = leased(&[1, 2]).await;
    let long = keeper.hold(references.remove(0), LEASE * 100, Instant::now());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let granted = Instant::now();
    let short = keeper.hold(references.remove(0), LEASE, granted);
    tokio::time::sleep(LEASE).await;
    let first = renewals(&coordinator)[0].0;
    assert!(first < granted + LEASE / 2, "{:?}", first - granted);
    assert!(!long.is_lost() && !short.is_lost());
}

fn patient(coordinator: &Coordinator) -> CoordinatorClient {
    let ending = Ending::new(&Shutdown::default(), Duration::ZERO, OnCoordinatorLost::Finish);
    let backoff = Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(5) };
    let transport = coordinator.transport();
    CoordinatorClient::new(transport, &ending, backoff, Jitter::seeded(1), Duration::from_secs(20))
}

async fn fetch(coordinator: &Coordinator) -> Result<v1::GetDefinitionResponse, Status> {
    patient(coordinator)
        .call("GetDefinition", |mut client| async move {
            client.get_definition(v1::GetDefinitionRequest { sweep: 1 }).await
        })
        .await
}

#[tokio::test(start_paused = true)]
async fn an_internal_error_that_the_coordinator_answers_is_retried_a_bounded_number_of_times() {
    let (coordinator, _keeper, _) = leased(&[]).await;
    coordinator.state().refusals = vec![("get_definition", Status::internal("the store is broken")); 20];
    let status = fetch(&coordinator).await.expect_err("it never gets better");
    assert_eq!((status.code(), status.message()), (Code::Internal, "the store is broken"));
    assert_eq!(coordinator.state().count(|event| matches!(event, Event::GetDefinition)), 1 + 8);
    // One of the tries counted anew.
    coordinator.state().refusals.truncate(8);
    fetch(&coordinator).await.expect("it got better in time");
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_is_away_is_called_without_end() {
    let (coordinator, _keeper, _) = leased(&[]).await;
    coordinator.state().refusals = vec![("get_definition", Status::unavailable("away")); 50];
    fetch(&coordinator).await.expect("it comes back");
    // What a broken connection looks like: internal, with the transport's error as its source.
    let tries = Cell::new(0);
    let answer = patient(&coordinator)
        .call("GetDefinition", |_| {
            tries.set(tries.get() + 1);
            let mut status = Status::internal("h2 protocol error");
            status.set_source(Arc::new(std::io::Error::other("connection reset")));
            let answer = if tries.get() > 50 { Ok(tonic::Response::new(())) } else { Err(status) };
            std::future::ready(answer)
        })
        .await;
    assert!(answer.is_ok());
    assert_eq!(tries.get(), 51);
}
