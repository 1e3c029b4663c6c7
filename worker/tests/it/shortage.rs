//! Jobs that want more memory than a worker has, and jobs that break its device.

use std::time::Duration;

use avsweep_domain::WorkerId;
use avsweep_worker::{UnfitPolicy, WorkerError};

use crate::coordinator::{Coordinator, Event};
use crate::evaluator::{MadeUp, Running, options};

fn one_sweep(jobs: i64) -> Coordinator {
    let coordinator = Coordinator::new();
    coordinator.add_sweep(1, 40);
    (1..=jobs).for_each(|job| coordinator.add_job(1, job, 8));
    coordinator
}

fn small() -> MadeUp {
    MadeUp { too_long: Some(5), ..MadeUp::default() }
}

fn failures(coordinator: &Coordinator) -> usize {
    coordinator.state().count(|event| matches!(event, Event::Fail { .. }))
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_here_is_left_to_a_larger_worker_and_does_not_count_against_its_job() {
    let coordinator = one_sweep(3);
    let narrow = Running::start(&coordinator, options(), small());
    coordinator.wait_for("a job given back", |state| state.released().contains(&1)).await;
    coordinator
        .wait_for("the reason", |state| {
            let problem = state.statuses.last().and_then(|status| status.problem.as_ref());
            problem.is_some_and(|text| text.contains("sweep 1: query 'q5'") && text.contains("--memory"))
        })
        .await;
    // The others have their results by then.
    assert_eq!(coordinator.state().stored(1), 7);
    let mut options = options();
    options.name = WorkerId("worker-2".to_owned());
    let wide = Running::start(&coordinator, options, MadeUp::default());
    coordinator.wait_for("every job's end", |state| state.finished.len() == 3).await;
    let at = coordinator.state().events.last().unwrap().0;
    assert!(at < Duration::from_secs(300), "{at:?}");
    assert_eq!(failures(&coordinator), 0);
    // No result was made twice.
    (1..=3).for_each(|job| assert_eq!(coordinator.state().stored(job), 8));
    assert_eq!((narrow.stop().await.failed, wide.stop().await.finished), (0, 3));
}

#[tokio::test(start_paused = true)]
async fn where_nobody_else_takes_it_such_a_job_counts_as_failed_and_the_rest_of_the_sweep_goes_on() {
    let coordinator = one_sweep(4);
    let running = Running::start(&coordinator, options(), small());
    coordinator
        .wait_for("every job's failure", |state| (1..=4).all(|job| state.failure(job).is_some()))
        .await;
    // Left to others once, not once for each job.
    let at = coordinator.state().events.last().unwrap().0;
    assert!(at >= Duration::from_secs(300) && at < Duration::from_secs(400), "{at:?}");
    (1..=4).for_each(|job| assert_eq!(coordinator.state().stored(job), 7));
    let error = coordinator.state().failure(1).unwrap();
    assert!(error.contains("query 'q5'") && error.contains("--memory"), "{error}");
    assert_eq!(running.stop().await.failed, 4);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_alone_lets_such_a_job_fail_at_once() {
    let coordinator = one_sweep(2);
    let mut options = options();
    options.unfit = UnfitPolicy::End;
    let running = Running::start(&coordinator, options, small());
    coordinator.wait_for("both failures", |state| (1..=2).all(|job| state.failure(job).is_some())).await;
    assert!(coordinator.state().released().is_empty());
    assert_eq!(running.stop().await.failed, 2);
}

/// Uncounted, it would end one worker after another.
#[tokio::test(start_paused = true)]
async fn a_job_that_breaks_the_device_counts_as_failed_before_the_worker_ends() {
    let coordinator = one_sweep(1);
    coordinator.add_job(1, 2, 6);
    let evaluator = MadeUp { breaks_at: Some(6), ..MadeUp::default() };
    let ended = Running::start(&coordinator, options(), evaluator).ended().await;
    assert!(matches!(ended, Err(WorkerError::EngineGone)), "{ended:?}");
    let state = coordinator.state();
    assert_eq!(state.finished.iter().copied().collect::<Vec<_>>(), [1]);
    assert!(state.failure(2).is_some_and(|error| error.contains("the engine ended")), "{:?}", state.events);
    assert!(!state.released().contains(&2));
}
