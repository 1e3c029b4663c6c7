//! Sweeps whose model files are not here.

use std::time::Duration;

use avsweep_worker::{UnfitPolicy, WorkerError};

use crate::coordinator::{Coordinator, Event};
use crate::evaluator::{MadeUp, Running, options};

fn two_sweeps() -> Coordinator {
    let coordinator = Coordinator::new();
    coordinator.add_sweep(1, 40);
    coordinator.add_sweep(2, 40);
    (1..=6).for_each(|job| coordinator.add_job(1 + job % 2, job, 4));
    coordinator
}

#[tokio::test(start_paused = true)]
async fn an_unfit_sweep_is_given_back_passed_over_for_a_while_and_told_by_its_files_name() {
    let coordinator = two_sweeps();
    let evaluator = MadeUp { unfit: [2].into(), ..MadeUp::default() };
    let running = Running::start(&coordinator, options(), evaluator);
    coordinator.wait_for("the other sweep's jobs", |state| state.finished.len() == 3).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    {
        let state = coordinator.state();
        assert_eq!(state.count(|event| matches!(event, Event::Fail { .. })), 0);
        let released = state.released();
        assert!(!released.is_empty() && released.iter().all(|job| job % 2 == 1), "{released:?}");
        let problem = state.statuses.last().unwrap().problem.clone().unwrap();
        assert!(problem.contains("sweep 2: /models/base-2 has fingerprint abc, wanted def"), "{problem}");
        let (_, last) = state.events.iter().rfind(|(_, event)| matches!(event, Event::Lease { .. })).unwrap();
        assert!(matches!(last, Event::Lease { except, .. } if except == &[2]), "{last:?}");
    }
    let before = coordinator.state().released().len();
    coordinator.wait_for("another try", |state| state.released().len() > before).await;
    let at = coordinator.state().events.last().unwrap().0;
    assert!(at >= Duration::from_secs(300) && at < Duration::from_secs(330), "{at:?}");
    let summary = running.stop().await;
    assert_eq!((summary.finished, summary.failed), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn where_nobody_else_is_there_an_unfit_sweep_ends_the_worker_with_everything_given_back() {
    let coordinator = two_sweeps();
    coordinator.state().keeps_released = true;
    let mut options = options();
    options.unfit = UnfitPolicy::End;
    let evaluator = MadeUp { unfit: [2].into(), ..MadeUp::default() };
    let error = Running::start(&coordinator, options, evaluator).ended().await.expect_err("it cannot go on");
    assert!(matches!(error, WorkerError::Unfit { sweep: 2, .. }), "{error:?}");
    let state = coordinator.state();
    let mut open: Vec<_> = state.released();
    open.extend(&state.finished);
    open.sort_unstable();
    open.dedup();
    assert!(open.len() >= 4, "{open:?}");
    assert_eq!(state.count(|event| matches!(event, Event::Fail { .. })), 0);
}
