//! Jobs done, failed, lost; what the worker tells about itself.

use std::time::Duration;

use avsweep_proto::v1;
use avsweep_worker::Ended;

use crate::coordinator::{Coordinator, Event, LEASE};
use crate::evaluator::{MadeUp, Running, options};

#[tokio::test(start_paused = true)]
async fn every_job_is_finished_with_every_result_once_and_the_statuses_tell_the_whole_story() {
    let coordinator = Coordinator::new();
    coordinator.add_sweep(1, 40);
    let running = Running::start(&coordinator, options(), MadeUp::default());
    coordinator.wait_for("a first status", |state| !state.statuses.is_empty()).await;
    (1..=6).for_each(|job| coordinator.add_job(1, job, 40));
    coordinator.wait_for("every end", |state| state.finished.len() == 6).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    let summary = running.stop().await;
    assert_eq!((summary.finished, summary.results, summary.ended), (6, 240, Ended::Stopped));
    assert_eq!((summary.failed, summary.released, summary.lost), (0, 0, 0));
    let state = coordinator.state();
    assert!((1..=6).all(|job| state.stored(job) == 40));
    let mut states: Vec<_> = state.statuses.iter().map(v1::WorkerStatus::state).collect();
    states.dedup();
    use v1::WorkerState::{Busy, Idle, Stopped};
    states.retain(|state| *state != v1::WorkerState::Draining);
    assert_eq!(states, [Idle, Busy, Idle, Stopped]);
    let last = state.statuses.last().unwrap();
    assert_eq!((last.finished, last.results, last.device.as_str()), (6, 240, "made up"));
    assert_eq!((last.kind(), last.worker.as_str()), (v1::WorkerKind::Worker, "worker-1"));
    assert!(!last.host.is_empty() && !last.version.is_empty());
    // One query a second for four minutes, told every third of a lease.
    let busy: Vec<_> = state.statuses.iter().filter(|status| status.state() == Busy).collect();
    assert!((10..=20).contains(&busy.len()), "{}", busy.len());
    assert!((busy.last().unwrap().results_per_second - 1.0).abs() < 0.2, "{:?}", busy.last());
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_run() {
    let run = || async {
        let coordinator = Coordinator::new();
        coordinator.add_sweep(1, 40);
        (1..=6).for_each(|job| coordinator.add_job(1, job, 10));
        coordinator.state().away = true;
        let running = Running::start(&coordinator, options(), MadeUp::default());
        tokio::time::sleep(Duration::from_secs(100)).await;
        coordinator.state().away = false;
        coordinator.wait_for("every end", |state| state.finished.len() == 6).await;
        running.stop().await;
        std::mem::take(&mut coordinator.state().events)
    };
    assert_eq!(run().await, run().await);
}

#[tokio::test(start_paused = true)]
async fn the_evaluator_never_waits_for_a_report() {
    let coordinator = Coordinator::new();
    coordinator.add_sweep(1, 4);
    (1..=20).for_each(|job| coordinator.add_job(1, job, 4));
    let began = tokio::time::Instant::now();
    let running = Running::start(&coordinator, options(), MadeUp::default());
    coordinator.wait_for("every end", |state| state.finished.len() == 20).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(81), "{took:?} for 80 s of work");
    assert_eq!(running.stop().await.finished, 20);
}

#[tokio::test(start_paused = true)]
async fn work_under_a_lost_lease_is_dropped_and_the_next_job_done() {
    let coordinator = Coordinator::new();
    coordinator.add_sweep(1, 40);
    coordinator.add_job(1, 1, 40);
    let slow = MadeUp { per_query: Duration::from_secs(1000), chunk: 40, ..MadeUp::default() };
    let running = Running::start(&coordinator, options(), slow);
    coordinator
        .wait_for("a renewal", |state| state.count(|event| matches!(event, Event::Renew { .. })) > 0)
        .await;
    coordinator.state().lost.insert(1);
    coordinator.add_job(1, 2, 1);
    coordinator.wait_for("the next job's end", |state| state.finished.contains(&2)).await;
    let summary = running.stop().await;
    assert_eq!((summary.lost, summary.finished, summary.released), (1, 1, 0));
    let state = coordinator.state();
    assert_eq!(state.stored(1), 0);
    assert!(state.failure(1).is_none() && state.released().is_empty());
    // Not the 40,000 s of the first job: it ended with the renewal that said so.
    let end = state.events.last().unwrap().0;
    assert!(end < Duration::from_secs(1000) + LEASE * 2, "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn a_panic_counts_against_its_job_only() {
    let coordinator = Coordinator::new();
    coordinator.add_sweep(1, 40);
    [(1, 10), (2, 13), (3, 10)].into_iter().for_each(|(job, queries)| coordinator.add_job(1, job, queries));
    let broken = MadeUp { panics_at: Some(13), ..MadeUp::default() };
    let running = Running::start(&coordinator, options(), broken);
    coordinator.wait_for("the others' ends", |state| state.finished.len() == 2).await;
    let summary = running.stop().await;
    assert_eq!((summary.finished, summary.failed, summary.released), (2, 1, 0));
    let error = coordinator.state().failure(2).unwrap();
    assert!(error.contains("panicked") && error.contains("made to break"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn out_of_memory_halves_the_batch_and_no_result_is_lost_or_made_twice() {
    let coordinator = Coordinator::new();
    coordinator.add_sweep(1, 40);
    coordinator.add_job(1, 1, 40);
    coordinator.add_job(1, 2, 40);
    let small = MadeUp { chunk: 40, memory: 6, ..MadeUp::default() };
    let chunks = small.chunks.clone();
    let running = Running::start(&coordinator, options(), small);
    coordinator.wait_for("both ends", |state| state.finished.len() == 2).await;
    assert_eq!(running.stop().await.failed, 0);
    let state = coordinator.state();
    assert_eq!((state.stored(1), state.stored(2)), (40, 40));
    // 40, 20 and 10 are too many; what was learnt holds for the next job.
    let sum = |of: fn(&v1::Usage) -> u64| {
        let usages = state.events.iter().filter_map(|(_, event)| match event {
            Event::Report { usage, .. } => Some(of(usage)),
            _ => None,
        });
        usages.sum::<u64>()
    };
    assert_eq!(sum(|usage| u64::from(usage.out_of_memory)), 3);
    assert_eq!(sum(|usage| usage.tokens), 800);
    assert_eq!(*chunks.lock().unwrap(), [5; 16]);
}

#[tokio::test(start_paused = true)]
async fn a_query_that_does_not_fit_the_memory_alone_fails_its_job_with_the_reason() {
    let coordinator = Coordinator::new();
    coordinator.add_sweep(1, 40);
    coordinator.add_job(1, 1, 8);
    let running = Running::start(&coordinator, options(), MadeUp { memory: 0, ..MadeUp::default() });
    coordinator.wait_for("the failure", |state| state.failure(1).is_some()).await;
    assert_eq!(running.stop().await.failed, 1);
    let error = coordinator.state().failure(1).unwrap();
    assert!(error.contains("single query") && error.contains("out of memory"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_loaded_sweep_is_preferred_for_a_stint_and_no_longer() {
    let coordinator = Coordinator::new();
    coordinator.add_sweep(1, 40);
    coordinator.add_sweep(2, 40);
    // Held jobs of one model go first even if they came later.
    for (job, sweep) in [(1, 1), (2, 2), (3, 1)] {
        coordinator.add_job(sweep, job, 10);
    }
    let mut options = options();
    options.held_jobs = 8;
    let running = Running::start(&coordinator, options, MadeUp::default());
    coordinator.wait_for("every end", |state| state.finished.len() == 3).await;
    tokio::time::sleep(Duration::from_secs(200)).await;
    running.stop().await;
    let state = coordinator.state();
    let ends: Vec<_> = state
        .events
        .iter()
        .filter_map(|(_, event)| match event {
            Event::Report { job, finished: true, .. } => Some(*job),
            _ => None,
        })
        .collect();
    assert_eq!(ends, [1, 3, 2]);
    let mut preferred: Vec<_> = state
        .events
        .iter()
        .filter_map(|(_, event)| match event {
            Event::Lease { prefers, .. } => Some(*prefers),
            _ => None,
        })
        .collect();
    preferred.dedup();
    assert_eq!(preferred, [None, Some(1), Some(2), None]);
}

#[tokio::test(start_paused = true)]
async fn nothing_more_of_a_job_is_evaluated_once_its_rest_is_unwanted() {
    let coordinator = Coordinator::new();
    coordinator.add_sweep(1, 40);
    coordinator.state().block = 10;
    coordinator.add_job(1, 1, 40);
    coordinator.state().unwanted.insert(1);
    let evaluator = MadeUp::default();
    let chunks = evaluator.chunks.clone();
    let running = Running::start(&coordinator, options(), evaluator);
    coordinator.wait_for("an end", |state| state.finished.contains(&1)).await;
    // What is wanted comes block by block, and whole.
    coordinator.add_job(1, 2, 35);
    coordinator.wait_for("another end", |state| state.finished.contains(&2)).await;
    let summary = running.stop().await;
    assert_eq!((summary.finished, summary.results), (2, 45));
    assert_eq!((summary.failed, summary.released, summary.lost), (0, 0, 0));
    let state = coordinator.state();
    assert_eq!((state.stored(1), state.stored(2)), (10, 35));
    assert_eq!(chunks.lock().unwrap().iter().sum::<usize>(), 45);
    let reports = |wanted: i64| {
        let of_job = state.events.iter().filter_map(|(_, event)| match event {
            Event::Report { job, ordinals, finished, .. } if *job == wanted => {
                Some((ordinals.len(), *finished))
            }
            _ => None,
        });
        of_job.collect::<Vec<_>>()
    };
    assert_eq!(reports(1).iter().map(|(results, _)| results).sum::<usize>(), 10);
    assert!(reports(1).iter().all(|(_, finished)| !finished));
    assert_eq!(reports(2).last().map(|(_, finished)| *finished), Some(true));
}

#[tokio::test(start_paused = true)]
async fn what_waits_at_a_point_whose_rest_is_unwanted_is_given_back() {
    let coordinator = Coordinator::new();
    coordinator.add_sweep(1, 40);
    coordinator.state().block = 10;
    (1..=2).for_each(|job| coordinator.add_job(1, job, 40));
    coordinator.state().unwanted.insert(1);
    coordinator.state().keeps_released = true;
    let options = avsweep_worker::WorkerOptions { held_jobs: 2, ..options() };
    let running = Running::start(&coordinator, options, MadeUp::default());
    coordinator
        .wait_for("a job that is given back", |state| {
            state.count(|event| matches!(event, Event::Release { job: 2 })) == 1
        })
        .await;
    let summary = running.stop().await;
    assert_eq!((summary.finished, summary.results, summary.released), (1, 10, 1));
    assert_eq!(coordinator.state().stored(2), 0);
}
