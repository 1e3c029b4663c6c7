//! Laws of looking at jobs and of retrying them.

use anyhow::Result;
use avsweep_domain::{FailureLimits, JobId, JobState, Rung, SweepId, SweepState, WorkerId};
use avsweep_store::{JobFilter, LeaseClaim, NewJob, RungCounts, Store, StoreError};

use super::fixture::{
    EVERY_RUNG, LATER, LEASE, NOW, SEARCH, claim, create, definition, finish, job, lease_one, parked, plan,
    report_some,
};

const AT_ONCE: FailureLimits = FailureLimits { lost: 1, errors: 1 };

fn some(filter: JobFilter, limit: u32) -> JobFilter {
    JobFilter { limit, ..filter }
}

/// Two sweeps: the first with a parked, a leased, a done and two ready jobs, the second with a ready one.
async fn mixed(store: &dyn Store) -> Result<(SweepId, SweepId)> {
    let definition = definition("first");
    let id = create(store, &definition).await?;
    let jobs: Vec<NewJob> = (0..5)
        .map(|step| NewJob { priority: -step, ..job(&format!("0.{step},0"), Rung::Likelihood, SEARCH) })
        .collect();
    plan(store, id, jobs).await?;
    let leased = store.lease(&claim(&EVERY_RUNG, 3), NOW).await?;
    store.fail(&leased[0].lease.reference, "NaN in layer 3", AT_ONCE, NOW).await?;
    finish(store, &definition, &leased[2]).await?;
    let other = create(store, &super::fixture::definition("second")).await?;
    plan(store, other, vec![job("1,1", Rung::Generation, SEARCH)]).await?;
    Ok((id, other))
}

pub(crate) async fn jobs_are_listed_by_number_in_pages(store: &dyn Store) -> Result<()> {
    let (id, other) = mixed(store).await?;
    let all = store.jobs(&some(JobFilter::default(), 100)).await?;
    assert_eq!(all.len(), 6);
    assert!(all.is_sorted_by_key(|job| job.id));
    assert_eq!(all.iter().map(|job| job.sweep).collect::<Vec<_>>(), [id, id, id, id, id, other]);
    let mut paged = Vec::new();
    let mut after = None;
    loop {
        let page = store.jobs(&JobFilter { after, limit: 4, ..JobFilter::default() }).await?;
        assert!(page.len() <= 4);
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        paged.extend(page);
    }
    assert_eq!(paged, all);
    assert!(store.jobs(&some(JobFilter::default(), 0)).await?.is_empty());
    let nowhere = JobFilter { sweep: Some(SweepId(99)), ..JobFilter::default() };
    assert!(store.jobs(&some(nowhere, 9)).await?.is_empty());
    Ok(())
}

pub(crate) async fn jobs_are_listed_as_they_stand(store: &dyn Store) -> Result<()> {
    let (id, _) = mixed(store).await?;
    let states =
        |states: &[JobState]| JobFilter { sweep: Some(id), states: states.to_vec(), after: None, limit: 100 };
    for (state, numbers) in [
        (JobState::Parked, vec![0]),
        (JobState::Leased, vec![1]),
        (JobState::Done, vec![2]),
        (JobState::Ready, vec![3, 4]),
    ] {
        let found = store.jobs(&states(&[state])).await?;
        assert!(found.iter().all(|job| job.state == state));
        assert_eq!(found.iter().map(|job| -job.job.priority).collect::<Vec<_>>(), numbers, "{state}");
    }
    assert_eq!(store.jobs(&states(&[JobState::Parked, JobState::Ready])).await?.len(), 3);
    assert_eq!(store.jobs(&states(&[JobState::Parked, JobState::Leased, JobState::Parked])).await?.len(), 2);
    assert_eq!(store.jobs(&states(&[])).await?.len(), 5);

    let parked = store.jobs(&states(&[JobState::Parked])).await?.remove(0);
    assert_eq!(parked.job, job("0,0", Rung::Likelihood, SEARCH));
    assert_eq!((parked.sweep, parked.attempt, parked.lost, parked.errors), (id, 1, 0, 1));
    assert_eq!(parked.last_error.as_deref(), Some("NaN in layer 3"));
    let worker = Some(WorkerId("worker-1".to_owned()));
    assert_eq!((&parked.worker, parked.expires), (&worker, None), "who held it last is known");
    let leased = store.jobs(&states(&[JobState::Leased])).await?.remove(0);
    assert_eq!((&leased.worker, leased.expires), (&worker, Some(NOW.plus(LEASE))));
    let ready = store.jobs(&states(&[JobState::Ready])).await?.remove(0);
    assert_eq!((&ready.worker, ready.expires, ready.attempt), (&None, None, 0));
    Ok(())
}

pub(crate) async fn listed_jobs_are_retried_and_no_others(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    plan(store, id, (0..4).map(|step| job(&format!("0.{step},0"), Rung::Likelihood, SEARCH)).collect())
        .await?;
    let leased = store.lease(&claim(&EVERY_RUNG, 3), NOW).await?;
    for job in &leased {
        store.fail(&job.lease.reference, "broken", AT_ONCE, NOW).await?;
    }
    let numbers: Vec<JobId> = leased.iter().map(|job| job.lease.reference.job).collect();
    let ready =
        store.jobs(&JobFilter { states: vec![JobState::Ready], limit: 9, ..JobFilter::default() }).await?[0]
            .id;
    let other = create(store, &super::fixture::definition("other")).await?;
    for (sweep, wrong) in [(id, ready), (id, JobId(999)), (other, numbers[1])] {
        let refused = store.retry_jobs(sweep, &[numbers[0], wrong]).await;
        assert!(matches!(refused, Err(StoreError::NoSuchJob(_))), "{wrong}: {refused:?}");
    }
    assert_eq!(parked(store, id).await?.len(), 3, "a refused retry changes nothing");
    assert_eq!(store.retry_jobs(id, &[numbers[0], numbers[2], numbers[0]]).await?, 2);
    assert_eq!(parked(store, id).await?.iter().map(|job| job.id).collect::<Vec<_>>(), [numbers[1]]);
    assert_eq!(store.totals(id).await?.likelihood, RungCounts { ready: 3, parked: 1, ..Default::default() });
    Ok(())
}

pub(crate) async fn retrying_makes_a_done_sweep_run_again(store: &dyn Store) -> Result<()> {
    let id = create(store, &definition("s")).await?;
    plan(store, id, vec![job("0,0", Rung::Likelihood, SEARCH)]).await?;
    for state in [SweepState::Done, SweepState::Paused] {
        let held = lease_one(store).await?;
        store.fail(&held.lease.reference, "broken", AT_ONCE, NOW).await?;
        store.set_sweep_state(id, state).await?;
        assert_eq!(store.retry_jobs(id, &[]).await?, 1);
        let expected = if state == SweepState::Done { SweepState::Running } else { state };
        assert_eq!(store.sweep(id).await?.state, expected);
    }
    store.set_sweep_state(id, SweepState::Running).await?;
    store.set_sweep_state(id, SweepState::Done).await?;
    assert_eq!(store.retry_jobs(id, &[]).await?, 0);
    assert_eq!(store.sweep(id).await?.state, SweepState::Done, "there was nothing to retry");
    Ok(())
}

pub(crate) async fn failures_are_summed_whatever_is_retried(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    plan(store, id, vec![job("0,0", Rung::Likelihood, SEARCH), job("0,1", Rung::Likelihood, SEARCH)]).await?;
    let limits = FailureLimits { lost: 2, errors: 2 };
    for round in 1..=3 {
        lease_one(store).await?;
        store.reap(limits, LATER).await?;
        for _ in 0..2 {
            let held = lease_one(store).await?;
            store.fail(&held.lease.reference, "broken", limits, NOW).await?;
        }
        assert_eq!(store.retry_jobs(id, &[]).await?, 1);
        let totals = store.totals(id).await?;
        assert_eq!((totals.lost, totals.errors), (round, 2 * round));
    }
    assert_eq!(store.totals(id).await?.holders, 0);
    for worker in ["a", "b", "a"] {
        plan(store, id, vec![job("1,0", Rung::Likelihood, SEARCH)]).await?;
        let claim = LeaseClaim { worker: WorkerId(worker.to_owned()), ..claim(&EVERY_RUNG, 1) };
        store.lease(&claim, NOW).await?;
    }
    assert_eq!(store.totals(id).await?.holders, 2);
    Ok(())
}

pub(crate) async fn a_job_that_gets_on_is_not_parked_for_its_lost_workers(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    plan(store, id, vec![job("0,0", Rung::Likelihood, SEARCH)]).await?;
    let limits = FailureLimits { lost: 2, errors: 2 };
    for ordinal in 0..4 {
        let held = lease_one(store).await?;
        report_some(store, &definition, &held, &[ordinal], false).await?;
        assert_eq!(store.reap(limits, LATER).await?, 1);
    }
    assert!(parked(store, id).await?.is_empty());
    // A result that was there is no progress.
    let held = lease_one(store).await?;
    report_some(store, &definition, &held, &[0], false).await?;
    store.reap(limits, LATER).await?;
    assert_eq!(parked(store, id).await?[0].lost, 2);
    assert_eq!(store.totals(id).await?.lost, 5);
    Ok(())
}

pub(crate) async fn jobs_leased_with_a_poisoned_one_are_not_parked_with_it(store: &dyn Store) -> Result<()> {
    let id = create(store, &definition("s")).await?;
    plan(store, id, (0..3).map(|step| job(&format!("0.{step},0"), Rung::Likelihood, SEARCH)).collect())
        .await?;
    let limits = FailureLimits { lost: 3, errors: 2 };
    for killed in 1..=limits.lost {
        let held = store.lease(&claim(&EVERY_RUNG, 3), NOW).await?;
        assert_eq!((held[0].point.to_string().as_str(), held.len()), ("0,0", 3));
        assert_eq!(store.reap(limits, LATER).await?, 3);
        assert_eq!(store.totals(id).await?.lost, u64::from(killed));
    }
    assert_eq!(parked(store, id).await?.len(), 1);
    assert_eq!(store.totals(id).await?.likelihood, RungCounts { ready: 2, parked: 1, ..Default::default() });
    Ok(())
}

pub(crate) async fn a_killed_process_is_blamed_on_the_job_it_was_on(store: &dyn Store) -> Result<()> {
    let id = create(store, &definition("s")).await?;
    plan(store, id, (0..3).map(|step| job(&format!("0.{step},0"), Rung::Likelihood, SEARCH)).collect())
        .await?;
    let limits = FailureLimits { lost: 3, errors: 2 };
    for killed in 1..=limits.lost {
        // It works on the first job, the next ones wait in its hands.
        let first = lease_one(store).await?;
        let next = store.lease(&claim(&EVERY_RUNG, 2), avsweep_store::Timestamp(NOW.0 + 5)).await?;
        assert_eq!((first.point.to_string().as_str(), next.len()), ("0,0", 2));
        assert_eq!(store.reap_all(limits, NOW).await?, 3);
        assert_eq!(store.totals(id).await?.lost, u64::from(killed));
    }
    let listed = store.jobs(&JobFilter { sweep: Some(id), limit: 9, ..JobFilter::default() }).await?;
    let found: Vec<_> = listed.iter().map(|job| (job.state, job.lost)).collect();
    assert_eq!(found, [(JobState::Parked, limits.lost), (JobState::Ready, 0), (JobState::Ready, 0)]);
    Ok(())
}
