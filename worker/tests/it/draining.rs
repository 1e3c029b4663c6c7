//! The end on request: what is held is finished or given back, in time.

use std::time::Duration;

use avsweep_worker::Ended;
use tokio::time::Instant;

use crate::coordinator::{Coordinator, Event};
use crate::evaluator::{MadeUp, Running, options};

/// A worker on a job of 40 queries of a second each, with three more jobs in hand, five seconds in.
async fn busy(evaluator: MadeUp) -> (Coordinator, Running) {
    let coordinator = Coordinator::new();
    coordinator.state().keeps_released = true;
    coordinator.add_sweep(1, 40);
    (1..=4).for_each(|job| coordinator.add_job(1, job, 40));
    let running = Running::start(&coordinator, options(), evaluator);
    coordinator
        .wait_for("the first job", |state| state.count(|event| matches!(event, Event::Lease { .. })) > 0)
        .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    (coordinator, running)
}

#[tokio::test(start_paused = true)]
async fn the_job_on_the_evaluator_is_finished_within_the_drain_time_and_the_waiting_ones_given_back_at_once()
{
    let quick = MadeUp { per_query: Duration::from_millis(500), ..MadeUp::default() };
    let (coordinator, running) = busy(quick).await;
    let began = Instant::now();
    let summary = running.stop().await;
    assert!(began.elapsed() < Duration::from_secs(17), "{:?}", began.elapsed());
    assert_eq!((summary.finished, summary.released, summary.ended), (1, 3, Ended::Stopped));
    let state = coordinator.state();
    assert_eq!(state.stored(1), 40);
    assert_eq!(state.released(), [2, 3, 4]);
    let (_, last) = state.events.iter().rfind(|(_, event)| !matches!(event, Event::Renew { .. })).unwrap();
    assert!(matches!(last, Event::Report { job: 1, finished: true, .. }), "given back first: {last:?}");
}

#[tokio::test(start_paused = true)]
async fn a_job_longer_than_the_drain_time_is_given_back_with_its_results_reported() {
    let (coordinator, running) = busy(MadeUp::default()).await;
    let began = Instant::now();
    let summary = running.stop().await;
    assert!(began.elapsed() <= Duration::from_secs(30), "{:?}", began.elapsed());
    assert_eq!((summary.finished, summary.released, summary.ended), (0, 4, Ended::Stopped));
    let state = coordinator.state();
    assert!((28..40).contains(&state.stored(1)), "{}", state.stored(1));
    assert_eq!(state.released(), [2, 3, 4, 1]);
}

#[tokio::test(start_paused = true)]
async fn told_twice_everything_is_given_back_at_once() {
    let (coordinator, running) = busy(MadeUp::default()).await;
    let began = Instant::now();
    let shutdown = running.shutdown.clone();
    shutdown.drain.cancel();
    tokio::time::sleep(Duration::from_secs(4)).await;
    shutdown.at_once.cancel();
    let summary = running.ended().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    assert_eq!((summary.finished, summary.released, summary.ended), (0, 4, Ended::Stopped));
    assert_eq!(coordinator.state().stored(1), 8);
}

#[tokio::test(start_paused = true)]
async fn without_a_coordinator_the_drain_ends_in_time_and_says_that_leases_are_left() {
    let (coordinator, running) = busy(MadeUp::default()).await;
    coordinator.state().away = true;
    let began = Instant::now();
    let summary = running.stop().await;
    assert!(began.elapsed() <= Duration::from_secs(31), "{:?}", began.elapsed());
    assert_eq!(summary.ended, Ended::DrainRanOut);
    assert!(coordinator.state().finished.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_worker_without_work_ends_after_the_idle_timeout_and_not_while_it_has_some() {
    let coordinator = Coordinator::new();
    coordinator.add_sweep(1, 40);
    coordinator.add_job(1, 1, 40);
    let mut options = options();
    options.idle_timeout = Some(Duration::from_secs(20));
    let began = Instant::now();
    let running = Running::start(&coordinator, options, MadeUp::default());
    let summary = running.ended().await.unwrap();
    assert_eq!((summary.finished, summary.ended), (1, Ended::Idle));
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(60) && took < Duration::from_secs(64), "{took:?}");
}
