//! Laws of the register of workers, and of the sums over all sweeps.

use anyhow::Result;
use avsweep_domain::{Rung, SweepState, WorkerId};
use avsweep_store::{
    LeaseClaim, Overview, RungCounts, Store, Timestamp, WorkerKind, WorkerState, WorkerStatus,
};

use super::fixture::{
    EVERY_RUNG, LATER, LEASE, NOW, SEARCH, claim, create, definition, finish, job, lease_one, plan, point,
};

fn later(milliseconds: i64) -> Timestamp {
    Timestamp(NOW.0 + milliseconds)
}

fn status(worker: &str) -> WorkerStatus {
    WorkerStatus {
        worker: WorkerId(worker.to_owned()),
        kind: WorkerKind::Worker,
        state: WorkerState::Idle,
        device: "cpu, 2 threads".to_owned(),
        host: "node-7".to_owned(),
        version: "0.2.0".to_owned(),
        finished: 0,
        failed: 0,
        lost: 0,
        results: 0,
        rate: 0.0,
        problem: None,
    }
}

pub(crate) async fn a_worker_is_remembered_as_it_last_said(store: &dyn Store) -> Result<()> {
    assert!(store.workers().await?.is_empty());
    store.note_worker(&status("a"), NOW).await?;
    let judge = WorkerStatus { kind: WorkerKind::Judge, rate: 1.0 / 3.0, ..status("j") };
    store.note_worker(&judge, later(5)).await?;
    let mut last = status("a");
    for (step, state) in
        [WorkerState::Busy, WorkerState::Draining, WorkerState::Stopped].into_iter().enumerate()
    {
        last = WorkerStatus {
            state,
            finished: 3 + step as u64,
            failed: 1,
            lost: 2,
            results: 400,
            rate: 12.5,
            problem: (state == WorkerState::Busy).then(|| "sweep 3: base/config.json differs".to_owned()),
            ..last
        };
        store.note_worker(&last, later(10 + step as i64)).await?;
        let found = &store.workers().await?[0];
        assert_eq!((&found.status, found.first_seen, found.last_seen), (&last, NOW, later(10 + step as i64)));
    }
    let found = store.workers().await?;
    assert_eq!(found.iter().map(|worker| worker.status.worker.0.as_str()).collect::<Vec<_>>(), ["a", "j"]);
    assert_eq!((&found[1].status, found[1].first_seen), (&judge, later(5)));
    // A late word does not make a worker younger, and no rate is not a number.
    store.note_worker(&WorkerStatus { rate: f64::NAN, ..last }, later(1)).await?;
    let found = &store.workers().await?[0];
    assert_eq!((found.last_seen, found.status.rate), (later(12), 0.0));
    Ok(())
}

pub(crate) async fn a_worker_is_listed_with_the_jobs_it_holds(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    plan(store, id, (0..4).map(|step| job(&format!("0.{step},0"), Rung::Likelihood, SEARCH)).collect())
        .await?;
    for worker in ["a", "b"] {
        store.note_worker(&status(worker), NOW).await?;
    }
    let of =
        |worker: &str, jobs| LeaseClaim { worker: WorkerId(worker.to_owned()), ..claim(&EVERY_RUNG, jobs) };
    let mut held = store.lease(&of("b", 1), NOW).await?;
    store.lease(&of("a", 1), later(1)).await?;
    held.extend(store.lease(&of("b", 1), later(2)).await?);
    store.lease(&of("unknown", 1), NOW).await?;
    let listed = store.workers().await?;
    let points: Vec<Vec<String>> =
        listed.iter().map(|worker| worker.jobs.iter().map(|job| job.point.to_string()).collect()).collect();
    assert_eq!(points, [vec!["0.1,0"], vec!["0,0", "0.2,0"]]);
    let job = &listed[1].jobs[0];
    assert_eq!((job.id, job.sweep, job.rung), (held[0].lease.reference.job, id, Rung::Likelihood));
    assert_eq!(job.point, point("0,0"));
    finish(store, &definition, &held[0]).await?;
    assert_eq!(store.workers().await?[1].jobs.len(), 1);
    Ok(())
}

pub(crate) async fn forgetting_spares_who_was_seen_and_who_holds_a_lease(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    plan(store, id, vec![job("0,0", Rung::Likelihood, SEARCH)]).await?;
    store.note_worker(&status("gone"), NOW).await?;
    store.note_worker(&status("worker-1"), NOW).await?;
    store.note_worker(&status("seen"), later(10)).await?;
    let held = lease_one(store).await?;
    assert_eq!(store.forget_workers(NOW).await?, 0);
    assert_eq!(store.forget_workers(later(10)).await?, 1);
    let names = async || -> Result<Vec<String>> {
        Ok(store.workers().await?.into_iter().map(|worker| worker.status.worker.0).collect())
    };
    assert_eq!(names().await?, ["seen", "worker-1"]);
    finish(store, &definition, &held).await?;
    assert_eq!(store.forget_workers(LATER).await?, 2);
    assert!(names().await?.is_empty());
    Ok(())
}

pub(crate) async fn the_overview_sums_every_sweep(store: &dyn Store) -> Result<()> {
    assert_eq!(store.overview(NOW).await?, Overview::default());
    let (first, second) = (definition("first"), definition("second"));
    let (id, other) = (create(store, &first).await?, create(store, &second).await?);
    plan(store, id, (0..3).map(|step| job(&format!("0.{step},0"), Rung::Likelihood, SEARCH)).collect())
        .await?;
    plan(store, other, vec![job("1,1", Rung::Generation, SEARCH)]).await?;
    store.set_sweep_state(other, SweepState::Paused).await?;
    lease_one(store).await?;
    store.lease(&claim(&EVERY_RUNG, 1), later(500)).await?;
    let expected = Overview {
        likelihood: RungCounts { ready: 1, leased: 2, ..Default::default() },
        generation: RungCounts { ready: 1, ..Default::default() },
        running: 1,
        next_expiry: Some(NOW.plus(LEASE)),
        ..Overview::default()
    };
    assert_eq!(store.overview(NOW).await?, expected);
    let end = NOW.plus(LEASE);
    assert_eq!(store.overview(end).await?, expected, "held up to its end");
    let after = Timestamp(end.0 + 1);
    let expected = Overview { expired: 1, next_expiry: Some(later(500).plus(LEASE)), ..expected };
    assert_eq!(store.overview(after).await?, expected);
    Ok(())
}
