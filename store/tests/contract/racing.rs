//! Laws of jobs that are closed early.

use anyhow::Result;
use avsweep_domain::{JobId, JobState, Rung, SweepState};
use avsweep_store::{
    JobFilter, LeaseRef, LeaseStatus, NewJob, PointFilter, RungCounts, SearchState, Store, StoreError,
};

use super::fixture::{
    CONFIRM, LATER, NOW, SEARCH, claim, create, definition, every_result, finish, job, lease_one, plan,
    point, report_some, tallies_equal_a_recount, token, work_off,
};

pub(crate) async fn a_raced_job_is_closed_with_what_else_was_planned_at_its_point(
    store: &dyn Store,
) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    let sample = NewJob { priority: 100, ..job("0,0", Rung::Generation, CONFIRM) };
    let jobs = vec![
        job("0,0", Rung::Likelihood, SEARCH),
        job("0,0", Rung::Generation, SEARCH),
        sample,
        job("0.5,0", Rung::Likelihood, SEARCH),
    ];
    plan(store, id, jobs).await?;
    let raced = store.lease(&claim(&[Rung::Likelihood], 1), NOW).await?.remove(0);
    report_some(store, &definition, &raced, &[0, 3], false).await?;
    // The other one is in another worker's hands.
    let sampled = lease_one(store).await?;
    finish(store, &definition, &sampled).await?;
    let generated = store.lease(&claim(&[Rung::Generation], 1), NOW).await?.remove(0);
    report_some(store, &definition, &generated, &[1], false).await?;

    assert_eq!(store.close_raced(&raced.lease.reference, NOW).await?, LeaseStatus::Held);
    let states = |jobs: Vec<avsweep_store::JobStatus>| -> Vec<_> {
        jobs.into_iter().map(|job| (job.rung, job.slice, job.state)).collect()
    };
    let wanted = [
        (Rung::Likelihood, SEARCH, JobState::Raced),
        (Rung::Generation, SEARCH, JobState::Raced),
        (Rung::Generation, CONFIRM, JobState::Done),
    ];
    assert_eq!(states(store.point_jobs(id, &point("0,0")).await?), wanted);
    let totals = store.totals(id).await?;
    assert_eq!(totals.likelihood, RungCounts { ready: 1, raced: 1, ..RungCounts::default() });
    assert_eq!(totals.generation, RungCounts { done: 1, raced: 1, ..RungCounts::default() });
    let search = SEARCH.len() as u64;
    assert_eq!((totals.saved, totals.holders), (search - 2 + search - 1, 0));
    assert_eq!(store.overview(NOW).await?.likelihood.raced, 1);
    let filter = JobFilter { states: vec![JobState::Raced], limit: 9, ..JobFilter::default() };
    assert_eq!(store.jobs(&filter).await?.len(), 2);

    // Its results stay, nobody writes more of them, and it is not handed out again.
    assert_eq!(every_result(store, id, 2).await?.len(), 2 + 1 + CONFIRM.len());
    for lost in [&raced, &generated] {
        assert_eq!(report_some(store, &definition, lost, &[2], false).await?, LeaseStatus::Lost);
        assert_eq!(store.close_raced(&lost.lease.reference, NOW).await?, LeaseStatus::Lost);
    }
    let seen = store.search_points(id, PointFilter::All).await?;
    assert_eq!(
        seen.iter().map(|point| &point.state).collect::<Vec<_>>(),
        [&SearchState::Raced, &SearchState::Pending]
    );
    let next = store.lease(&claim(&[Rung::Likelihood, Rung::Generation], 9), NOW).await?;
    assert_eq!(next.iter().map(|job| job.point.clone()).collect::<Vec<_>>(), [point("0.5,0")]);
    tallies_equal_a_recount(store, id, &definition).await
}

pub(crate) async fn a_lost_lease_closes_nothing(store: &dyn Store) -> Result<()> {
    let id = create(store, &definition("s")).await?;
    plan(store, id, vec![job("0,0", Rung::Likelihood, SEARCH)]).await?;
    let reference = lease_one(store).await?.lease.reference;
    for wrong in
        [LeaseRef { token: token(), ..reference }, LeaseRef { attempt: reference.attempt + 1, ..reference }]
    {
        assert_eq!(store.close_raced(&wrong, NOW).await?, LeaseStatus::Lost);
    }
    assert_eq!(store.close_raced(&reference, LATER).await?, LeaseStatus::Lost);
    let unknown = LeaseRef { job: JobId(reference.job.0 + 1), ..reference };
    assert!(matches!(store.close_raced(&unknown, NOW).await, Err(StoreError::NoSuchJob(_))));
    let totals = store.totals(id).await?;
    assert_eq!((totals.likelihood.leased, totals.likelihood.raced, totals.saved), (1, 0, 0));
    Ok(())
}

pub(crate) async fn a_raced_job_that_is_wanted_after_all_goes_on_where_it_was(
    store: &dyn Store,
) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    plan(store, id, vec![job("0,0", Rung::Likelihood, SEARCH)]).await?;
    let raced = lease_one(store).await?;
    report_some(store, &definition, &raced, &[0, 3], false).await?;
    store.close_raced(&raced.lease.reference, NOW).await?;
    store.set_sweep_state(id, SweepState::Done).await?;
    assert_eq!(store.retry_jobs(id, &[]).await?, 0, "only who names it has it done");
    assert_eq!(store.retry_jobs(id, &[raced.lease.reference.job]).await?, 1);
    assert_eq!(store.sweep(id).await?.state, SweepState::Running);
    let again = lease_one(store).await?;
    assert_eq!(again.ordinals, SEARCH.ordinals().filter(|n| ![0, 3].contains(n)).collect::<Vec<_>>());
    finish(store, &definition, &again).await?;
    work_off(store, &definition).await?;
    let seen = store.search_points(id, PointFilter::All).await?;
    assert!(matches!(seen[0].state, SearchState::Measured { .. }));
    let totals = store.totals(id).await?;
    assert_eq!(totals.likelihood, RungCounts { done: 1, ..RungCounts::default() });
    Ok(())
}
