//! A coordinator that is away, or does not want this worker.

use std::time::Duration;

use avsweep_proto::ErrorCode;
use avsweep_worker::{OnCoordinatorLost, WorkerError};
use tokio::time::Instant;

use crate::coordinator::Coordinator;
use crate::evaluator::{MadeUp, Running, options};

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_while_the_coordinator_is_away() {
    let coordinator = Coordinator::new();
    coordinator.add_sweep(1, 40);
    (1..=6).for_each(|job| coordinator.add_job(1, job, 40));
    coordinator.state().away = true;
    let running = Running::start(&coordinator, options(), MadeUp::default());
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_secs(100)).await;
        coordinator.state().away = false;
        tokio::time::sleep(Duration::from_secs(30)).await;
        coordinator.state().away = true;
    }
    coordinator.state().away = false;
    coordinator.wait_for("every end", |state| state.finished.len() == 6).await;
    let summary = running.stop().await;
    assert_eq!((summary.finished, summary.failed, summary.lost, summary.released), (6, 0, 0, 0));
    assert!((1..=6).all(|job| coordinator.state().stored(job) == 40));
}

#[tokio::test(start_paused = true)]
async fn a_lost_coordinator_ends_the_worker_after_its_patience_where_it_shall() {
    let coordinator = Coordinator::new();
    coordinator.add_sweep(1, 40);
    coordinator.add_job(1, 1, 40);
    let patience = Duration::from_secs(120);
    let mut options = options();
    options.coordinator = "https://sweeps:7700".to_owned();
    options.on_coordinator_lost = OnCoordinatorLost::Stop { patience };
    let running = Running::start(&coordinator, options, MadeUp::default());
    // Shorter absences are nothing.
    for _ in 0..3 {
        coordinator.state().away = true;
        tokio::time::sleep(Duration::from_secs(100)).await;
        coordinator.state().away = false;
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
    coordinator.state().away = true;
    let began = Instant::now();
    let error = running.ended().await.expect_err("it is lost");
    assert!(matches!(error, WorkerError::CoordinatorLost { .. }), "{error:?}");
    assert!(error.to_string().contains("https://sweeps:7700 has not answered for 120 s"), "{error}");
    let took = began.elapsed();
    assert!(took >= patience && took < patience + Duration::from_secs(30), "{took:?}");
    assert_eq!(coordinator.state().stored(1), 40);
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_ends_the_worker_and_names_coordinator_and_role() {
    for code in [ErrorCode::Unauthenticated, ErrorCode::Forbidden] {
        let coordinator = Coordinator::new();
        coordinator.state().refusal = Some(code.status("not you"));
        let mut options = options();
        options.coordinator = "https://sweeps:7700".to_owned();
        let running = Running::start(&coordinator, options, MadeUp::default());
        let error = running.ended().await.expect_err("it is not let in");
        assert!(matches!(error, WorkerError::Access(_)), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("https://sweeps:7700") && text.contains("worker token"), "{text}");
        assert!(text.contains("not you"), "{text}");
    }
}
