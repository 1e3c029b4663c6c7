//! Laws of the right to plan: one holder at a time, and nothing written without it.

use std::time::Duration;

use anyhow::{Context, Result};
use avsweep_domain::{FailureLimits, Rung, SweepId, SweepState};
use avsweep_store::{Plan, Planned, PlanningGuard, Store, StoreError, Timestamp};

use super::fixture::{
    EVERY_RUNG, NOW, SEARCH, claim, create, definition, finish, job, lease_one, plan, token,
};

const HOLD: Duration = Duration::from_secs(10);
/// The last moment of a guard taken at [`NOW`], and the first after it.
const END: Timestamp = Timestamp(NOW.0 + 10_000);
const AFTER: Timestamp = Timestamp(NOW.0 + 10_001);

async fn held(store: &dyn Store, sweep: SweepId) -> Result<PlanningGuard> {
    store.claim_planning(sweep, token(), HOLD, NOW).await?.context("nobody holds it")
}

fn one_job() -> Plan {
    Plan { jobs: vec![job("0,0", Rung::Likelihood, SEARCH)], ..Plan::default() }
}

pub(crate) async fn one_holder_at_a_time_may_plan(store: &dyn Store) -> Result<()> {
    let id = create(store, &definition("s")).await?;
    let (first, second) = (token(), token());
    let guard = store.claim_planning(id, first, HOLD, NOW).await?.context("free")?;
    assert_eq!(guard, PlanningGuard { sweep: id, holder: first, term: 1 });
    for now in [NOW, END] {
        assert_eq!(store.claim_planning(id, second, HOLD, now).await?, None);
    }
    let other = create(store, &definition("other")).await?;
    assert!(store.claim_planning(other, second, HOLD, NOW).await?.is_some(), "another sweep's is free");
    let taken = store.claim_planning(id, second, HOLD, AFTER).await?.context("its time is over")?;
    assert_eq!(taken, PlanningGuard { sweep: id, holder: second, term: 2 });
    assert_eq!(store.claim_planning(id, first, HOLD, AFTER).await?, None);
    let nowhere = store.claim_planning(SweepId(99), first, HOLD, NOW).await;
    assert!(matches!(nowhere, Err(StoreError::NoSuchSweep { .. })), "{nowhere:?}");
    Ok(())
}

pub(crate) async fn a_guard_is_extended_by_its_holder_in_the_same_term(store: &dyn Store) -> Result<()> {
    let id = create(store, &definition("s")).await?;
    let (holder, other) = (token(), token());
    let guard = store.claim_planning(id, holder, HOLD, NOW).await?;
    assert_eq!(store.claim_planning(id, holder, HOLD, END).await?, guard);
    assert_eq!(store.claim_planning(id, other, HOLD, AFTER).await?, None, "it was extended");
    // Expired or given back, with nobody in between: the same term.
    let later = Timestamp(NOW.0 + 1_000_000);
    assert_eq!(store.claim_planning(id, holder, HOLD, later).await?, guard);
    store.release_planning(&guard.context("held")?).await?;
    assert_eq!(store.claim_planning(id, holder, HOLD, later).await?, guard);
    store.release_planning(&guard.context("held")?).await?;
    let taken = store.claim_planning(id, other, HOLD, later).await?.context("it was given back")?;
    assert_eq!(taken.term, 2);
    // A lost guard gives nothing back.
    store.release_planning(&guard.context("held")?).await?;
    assert_eq!(store.claim_planning(id, holder, HOLD, later).await?, None);
    Ok(())
}

pub(crate) async fn a_plan_under_a_lost_guard_writes_nothing(store: &dyn Store) -> Result<()> {
    let id = create(store, &definition("s")).await?;
    let other = create(store, &definition("other")).await?;
    let guard = held(store, id).await?;
    let lost = |result: Result<Planned, StoreError>| match result {
        Err(StoreError::PlanningLost { .. }) => Ok(()),
        other => anyhow::bail!("{other:?}"),
    };
    lost(store.plan(id, &one_job(), Some(&guard), AFTER).await)?;
    lost(store.plan(other, &one_job(), Some(&guard), NOW).await)?;
    lost(store.plan(id, &one_job(), Some(&PlanningGuard { holder: token(), ..guard }), NOW).await)?;
    lost(store.plan(id, &one_job(), Some(&PlanningGuard { term: 2, ..guard }), NOW).await)?;
    store.release_planning(&guard).await?;
    lost(store.plan(id, &one_job(), Some(&guard), NOW).await)?;
    let next = held(store, id).await?;
    lost(store.plan(id, &one_job(), Some(&guard), NOW).await)?;
    assert_eq!(store.totals(id).await?, Default::default());
    assert_eq!(store.totals(other).await?, Default::default());

    assert_eq!(store.plan(id, &one_job(), Some(&next), END).await?.new_jobs, 1);
    // Without a guard a user's plan is written, whoever holds it.
    let sample = Plan { jobs: vec![job("0,0.5", Rung::Likelihood, SEARCH)], ..Plan::default() };
    assert_eq!(store.plan(id, &sample, None, NOW).await?.new_jobs, 1);
    Ok(())
}

pub(crate) async fn a_sweep_with_an_open_job_is_not_finished(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    plan(store, id, vec![job("0,0", Rung::Likelihood, SEARCH), job("0,1", Rung::Likelihood, SEARCH)]).await?;
    let guard = held(store, id).await?;
    assert!(!store.finish_sweep(&guard, NOW).await?, "two jobs are ready");
    finish(store, &definition, &lease_one(store).await?).await?;
    let last = lease_one(store).await?;
    assert!(!store.finish_sweep(&guard, NOW).await?, "one is leased");
    // Parked: the sweep goes on around it.
    let limits = FailureLimits { lost: 1, errors: 1 };
    store.fail(&last.lease.reference, "broken", limits, NOW).await?;
    store.set_sweep_state(id, SweepState::Paused).await?;
    assert!(!store.finish_sweep(&guard, NOW).await?, "a paused sweep stays paused");
    store.set_sweep_state(id, SweepState::Running).await?;
    let late = store.finish_sweep(&guard, AFTER).await;
    assert!(matches!(late, Err(StoreError::PlanningLost { sweep }) if sweep == id), "{late:?}");
    assert_eq!(store.sweep(id).await?.state, SweepState::Running);
    assert!(store.finish_sweep(&guard, NOW).await?);
    assert_eq!(store.sweep(id).await?.state, SweepState::Done);
    assert!(store.finish_sweep(&guard, NOW).await?, "it is done now, as before");
    assert!(store.lease(&claim(&EVERY_RUNG, 1), NOW).await?.is_empty());
    Ok(())
}
