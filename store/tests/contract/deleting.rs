//! Laws of deleting sweeps: what goes, what others keep, what is never used again.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use avsweep_domain::{QuerySlice, Rung, SweepId, SweepState};
use avsweep_store::{Deleted, JobFilter, LeaseStatus, Planned, PointFilter, Store, StoreError};

use super::fixture::{
    EVERY_RUNG, NOW, SEARCH, claim, create, definition, every_result, finish, job, lease_one, plan, point,
    report_some, response, tallies_equal_a_recount, work_off,
};

async fn no_sweep(store: &dyn Store, id: SweepId) -> Result<()> {
    let errors = [
        store.sweep(id).await.err(),
        store.totals(id).await.err(),
        store.unjudged(id).await.err(),
        store.tallies(id, PointFilter::All).await.err(),
        store.results(id, None, 1).await.err(),
        store.point_jobs(id, &point("0,0")).await.err(),
        store.plan(id, &avsweep_store::Plan::default(), None, NOW).await.err(),
        store.retry_jobs(id, &[]).await.err(),
        store.set_sweep_state(id, SweepState::Running).await.err(),
        store.set_sweep_priority(id, 1).await.err(),
        store.delete_sweep(id).await.err(),
    ];
    for (index, error) in errors.iter().enumerate() {
        assert!(matches!(error, Some(StoreError::NoSuchSweep { .. })), "call {index}: {error:?}");
    }
    Ok(())
}

pub(crate) async fn a_sweep_that_is_worked_on_is_not_deleted(store: &dyn Store) -> Result<()> {
    let id = create(store, &definition("s")).await?;
    for state in [SweepState::Running, SweepState::Paused] {
        store.set_sweep_state(id, state).await?;
        match store.delete_sweep(id).await {
            Err(StoreError::SweepRunning { name, state: found }) => {
                assert_eq!((name.as_str(), found), ("s", state));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(store.sweep(id).await?.state, SweepState::Paused);
    Ok(())
}

pub(crate) async fn a_deleted_sweep_is_gone_and_its_numbers_with_it(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    let jobs = vec![job("0,0", Rung::Likelihood, SEARCH), job("0,1", Rung::Likelihood, SEARCH)];
    plan(store, id, jobs.clone()).await?;
    finish(store, &definition, &lease_one(store).await?).await?;
    let held = lease_one(store).await?;
    let before = store.tallies(id, PointFilter::All).await?;
    store.set_sweep_state(id, SweepState::Cancelled).await?;
    assert_eq!(store.delete_sweep(id).await?, Deleted { jobs: 2, points: 2 });
    no_sweep(store, id).await?;
    assert!(store.sweeps().await?.is_empty());
    assert_eq!(store.overview(NOW).await?, Default::default());

    // Whoever still works for it is told that there is nothing to work for.
    let late = report_some(store, &definition, &held, &held.ordinals, true).await;
    let late = late.err().and_then(|error| error.downcast::<StoreError>().ok());
    assert!(matches!(late, Some(StoreError::NoSuchJob(job)) if job == held.lease.reference.job), "{late:?}");
    let renewed = store.renew(&[held.lease.reference], std::time::Duration::from_secs(1), NOW).await?;
    assert_eq!(renewed, [LeaseStatus::Lost]);
    store.release(&[held.lease.reference], NOW).await?;

    // The name is free, the numbers are not: a later sweep evaluates anew what was deleted.
    let again = create(store, &definition).await?;
    assert_ne!(again, id);
    let elsewhere = vec![job("1,1", Rung::Likelihood, SEARCH)];
    assert_eq!(plan(store, again, [elsewhere, jobs].concat()).await?.new_jobs, 3);
    assert!(every_result(store, again, 9).await?.is_empty());
    let all = JobFilter { limit: 9, ..JobFilter::default() };
    for job in store.jobs(&all).await? {
        assert!(job.id > held.lease.reference.job, "{job:?} has the number of a deleted one");
    }
    for tallies in store.tallies(again, PointFilter::All).await? {
        let same = before.iter().find(|old| old.id == tallies.id);
        assert!(
            same.is_none_or(|old| old.point == tallies.point),
            "{tallies:?} has the number of another point"
        );
    }
    assert_eq!(work_off(store, &definition).await?, 3);
    tallies_equal_a_recount(store, again, &definition).await
}

pub(crate) async fn deleting_keeps_what_others_share(store: &dyn Store) -> Result<()> {
    let (first, second) = (definition("first"), definition("second"));
    let (id, other) = (create(store, &first).await?, create(store, &second).await?);
    for rung in EVERY_RUNG {
        for at in ["0,0", "0,0.5", "-1,1"] {
            plan(store, id, vec![job(at, rung, SEARCH)]).await?;
        }
        work_off(store, &first).await?;
    }
    for rung in EVERY_RUNG {
        assert_eq!(plan(store, other, vec![job("0,0.5", rung, SEARCH)]).await?.reused_jobs, 1);
    }
    let kept = every_result(store, other, 5).await?;
    let totals = store.totals(other).await?;
    store.set_sweep_state(id, SweepState::Done).await?;
    assert_eq!(store.delete_sweep(id).await?, Deleted { jobs: 9, points: 2 });
    assert_eq!(every_result(store, other, 5).await?, kept);
    assert_eq!(store.totals(other).await?, totals);
    tallies_equal_a_recount(store, other, &second).await?;

    // What nobody else had is evaluated anew, what somebody has is not.
    let again = create(store, &first).await?;
    let likelihood = |at| job(at, Rung::Likelihood, SEARCH);
    let planned =
        plan(store, again, vec![likelihood("0,0"), likelihood("0,0.5"), likelihood("-1,1")]).await?;
    assert_eq!(planned, Planned { new_points: 3, new_jobs: 2, reused_jobs: 1 });
    assert_eq!(work_off(store, &first).await?, 2);
    tallies_equal_a_recount(store, again, &first).await
}

pub(crate) async fn a_verdict_stays_while_a_response_elsewhere_has_it(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let twin = super::fixture::definition("twin");
    // Points with the same response to the first query, but for their numbers nothing in common.
    let points: Vec<String> = (0..99).map(|step| format!("0.{step:02},0")).collect();
    let text = |at: &str| response(&point(at), "medical-0").text;
    let same: Vec<&String> = points.iter().filter(|at| text(at) == text(&points[0])).take(3).collect();
    let [one, two, three] = same[..] else { anyhow::bail!("three of 99 points share a text") };
    let query = QuerySlice { start: 0, end: 1 };
    let judged = async |sweep, at: &str| -> Result<Planned> {
        plan(store, sweep, vec![job(at, Rung::Generation, query)]).await?;
        work_off(store, &definition).await?;
        plan(store, sweep, vec![job(at, Rung::Judgement, query)]).await
    };
    let id = create(store, &definition).await?;
    let other = create(store, &twin).await?;
    assert_eq!(judged(id, one).await?.new_jobs, 1);
    work_off(store, &definition).await?;
    assert_eq!(judged(other, two).await?.reused_jobs, 1, "the text is judged");
    store.set_sweep_state(id, SweepState::Cancelled).await?;
    assert_eq!(store.delete_sweep(id).await?, Deleted { jobs: 2, points: 1 });
    tallies_equal_a_recount(store, other, &twin).await?;
    assert_eq!(judged(other, three).await?.reused_jobs, 1, "the verdict is still there");
    store.set_sweep_state(other, SweepState::Cancelled).await?;
    store.delete_sweep(other).await?;
    let last = create(store, &definition).await?;
    assert_eq!(judged(last, one).await?.new_jobs, 1, "nobody has the verdict any more");
    Ok(())
}

pub(crate) async fn a_large_sweep_is_deleted_as_a_whole(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    let other = create(store, &super::fixture::definition("other")).await?;
    let jobs = |steps: std::ops::Range<u32>| -> Vec<_> {
        steps.map(|step| job(&format!("0.{step:04},0"), Rung::Generation, SEARCH)).collect()
    };
    plan(store, id, jobs(0..5000)).await?;
    plan(store, other, jobs(4990..5010)).await?;
    store.set_sweep_state(id, SweepState::Cancelled).await?;
    // Whoever looks meanwhile finds it smaller, not damaged.
    let over = AtomicBool::new(false);
    let watching = async {
        while !over.load(Ordering::Relaxed) {
            match store.totals(id).await {
                Ok(totals) => assert!(totals.points <= 5000, "{totals:?}"),
                Err(StoreError::NoSuchSweep { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    let deleting = async {
        let deleted = store.delete_sweep(id).await;
        over.store(true, Ordering::Relaxed);
        deleted
    };
    let (deleted, watched) = tokio::join!(deleting, watching);
    watched?;
    assert_eq!(deleted?, Deleted { jobs: 5000, points: 4990 });
    no_sweep(store, id).await?;
    assert_eq!(store.lease(&claim(&EVERY_RUNG, 99), NOW).await?.len(), 20);
    Ok(())
}
