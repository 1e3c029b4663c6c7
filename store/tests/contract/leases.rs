//! Laws of leases: order, fencing, expiry, limits.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use avsweep_domain::{FailureLimits, JobId, JobState, LeaseToken, Rung};
use avsweep_store::{
    JobResults, LeaseClaim, LeaseRef, LeaseStatus, NewJob, RungCounts, Store, StoreError, Timestamp,
};

use super::fixture::{
    EVERY_RUNG, LATER, LEASE, NOW, SEARCH, claim, create, definition, evaluate, every_result, finish, job,
    lease_one, lease_several, parked, plan, point, report, report_some, tallies_equal_a_recount, token,
};

const LIMITS: FailureLimits = FailureLimits { lost: 3, errors: 2 };

fn with_priority(at: &str, priority: i32) -> NewJob {
    NewJob { priority, ..job(at, Rung::Likelihood, SEARCH) }
}

pub(crate) async fn jobs_are_leased_by_priority_then_age(store: &dyn Store) -> Result<()> {
    let id = create(store, &definition("s")).await?;
    plan(store, id, vec![with_priority("0,0", 0), with_priority("0,0.5", 5)]).await?;
    plan(store, id, vec![with_priority("0,1", 0), with_priority("0.5,0", 7), with_priority("0.5,1", -1)])
        .await?;
    plan(store, id, vec![with_priority("1,1", 0)]).await?;
    let mut order = Vec::new();
    for jobs in [1, 4, 9] {
        let leased = store.lease(&claim(&EVERY_RUNG, jobs), NOW).await?;
        order.extend(leased.iter().map(|job| job.point.to_string()));
    }
    assert_eq!(order, ["0.5,0", "0,0.5", "0,0", "0,1", "1,1", "0.5,1"]);
    Ok(())
}

pub(crate) async fn only_the_rungs_asked_for_are_leased(store: &dyn Store) -> Result<()> {
    let id = create(store, &definition("s")).await?;
    plan(store, id, vec![job("0,0", Rung::Likelihood, SEARCH), job("0,0", Rung::Generation, SEARCH)]).await?;
    assert!(store.lease(&claim(&[Rung::Judgement], 5), NOW).await?.is_empty());
    assert!(store.lease(&claim(&[], 5), NOW).await?.is_empty());
    assert!(store.lease(&claim(&EVERY_RUNG, 0), NOW).await?.is_empty());
    let leased = store.lease(&claim(&[Rung::Generation, Rung::Judgement], 5), NOW).await?;
    assert_eq!(leased.iter().map(|job| job.rung).collect::<Vec<_>>(), [Rung::Generation]);
    Ok(())
}

pub(crate) async fn a_leased_job_says_what_it_is_on(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    plan(store, id, vec![job("0.5,-1", Rung::Likelihood, SEARCH)]).await?;
    let claim = claim(&EVERY_RUNG, 1);
    let leased = &store.lease(&claim, NOW).await?[0];
    assert_eq!((leased.sweep, leased.sweep_fingerprint), (id, definition.fingerprint()));
    assert_eq!((leased.rung, &leased.point), (Rung::Likelihood, &point("0.5,-1")));
    assert_eq!(leased.ordinals, SEARCH.ordinals().collect::<Vec<_>>());
    assert!(leased.responses.is_empty());
    assert_eq!((leased.lease.reference.attempt, leased.lease.reference.token), (1, claim.token));
    assert_eq!(leased.lease.expires, NOW.plus(LEASE));
    Ok(())
}

pub(crate) async fn two_claims_never_get_the_same_job(store: Arc<dyn Store>) -> Result<()> {
    let id = create(&*store, &definition("s")).await?;
    let points: Vec<String> = (0..60).map(|step| format!("0.{step:02},0")).collect();
    plan(&*store, id, points.iter().map(|at| job(at, Rung::Likelihood, SEARCH)).collect()).await?;
    let claims = (0..12).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let mut jobs = Vec::new();
            loop {
                // Alone, and several at once.
                let mut leased = store.lease(&claim(&EVERY_RUNG, 2), NOW).await?;
                let claims = [2, 1, 2].map(|most| claim(&EVERY_RUNG, most));
                for answer in lease_several(&*store, &claims).await {
                    leased.extend(answer?);
                }
                if leased.is_empty() {
                    return anyhow::Ok(jobs);
                }
                jobs.extend(leased.into_iter().map(|job| job.lease.reference.job));
            }
        })
    });
    let mut seen = HashSet::new();
    for claim in claims.collect::<Vec<_>>() {
        for job in claim.await?? {
            assert!(seen.insert(job), "{job} was handed out twice");
        }
    }
    assert_eq!(seen.len(), 60);
    Ok(())
}

pub(crate) async fn a_late_report_from_a_lost_lease_changes_nothing(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    plan(store, id, vec![job("0,0", Rung::Likelihood, SEARCH)]).await?;
    let lost = lease_one(store).await?;
    let late = report(lost.lease.reference, evaluate(&definition, &lost, &lost.ordinals), true);

    // Its time is over, whether anybody has noticed or not.
    assert_eq!(store.report(&late, LATER).await?, LeaseStatus::Lost);
    assert_eq!(store.reap(LIMITS, LATER).await?, 1);
    assert_eq!(store.report(&late, LATER).await?, LeaseStatus::Lost);
    // Another has it now.
    let again = store.lease(&claim(&EVERY_RUNG, 1), LATER).await?.remove(0);
    assert_eq!(again.lease.reference.attempt, 2);
    assert_eq!(store.report(&late, LATER).await?, LeaseStatus::Lost);
    assert_eq!(store.fail(&lost.lease.reference, "late", LIMITS, LATER).await?, LeaseStatus::Lost);
    store.release(&[lost.lease.reference], LATER).await?;
    assert_eq!(store.renew(&[lost.lease.reference], LEASE, LATER).await?, [LeaseStatus::Lost]);

    assert!(every_result(store, id, 10).await?.is_empty());
    let totals = store.totals(id).await?;
    assert_eq!(totals.likelihood, RungCounts { leased: 1, ..Default::default() });
    assert_eq!((totals.results, totals.duplicate_results), (0, 0));
    assert_eq!(again.ordinals, lost.ordinals);
    let theirs = report(again.lease.reference, evaluate(&definition, &again, &again.ordinals), true);
    assert_eq!(store.report(&theirs, LATER).await?, LeaseStatus::Held);
    Ok(())
}

pub(crate) async fn a_wrong_token_or_attempt_changes_nothing(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    plan(store, id, vec![job("0,0", Rung::Likelihood, SEARCH)]).await?;
    let held = lease_one(store).await?;
    let right = held.lease.reference;
    for wrong in [
        LeaseRef { token: token(), ..right },
        LeaseRef { token: LeaseToken::from_bytes([0; 16]), ..right },
        LeaseRef { attempt: 0, ..right },
        LeaseRef { attempt: 2, ..right },
    ] {
        let results = evaluate(&definition, &held, &held.ordinals);
        assert_eq!(store.report(&report(wrong, results, true), NOW).await?, LeaseStatus::Lost);
        assert_eq!(store.fail(&wrong, "no", LIMITS, NOW).await?, LeaseStatus::Lost);
        assert_eq!(store.renew(&[wrong], LEASE * 10, NOW).await?, [LeaseStatus::Lost]);
        store.release(&[wrong], NOW).await?;
    }
    assert_eq!(store.totals(id).await?.likelihood, RungCounts { leased: 1, ..Default::default() });
    assert!(every_result(store, id, 10).await?.is_empty());
    assert_eq!(store.renew(&[right], LEASE, NOW).await?, [LeaseStatus::Held]);
    finish(store, &definition, &held).await
}

pub(crate) async fn an_unknown_job_is_refused(store: &dyn Store) -> Result<()> {
    create(store, &definition("s")).await?;
    let nowhere = LeaseRef { job: JobId(99), attempt: 1, token: token() };
    let empty = report(nowhere, JobResults::Scores(Vec::new()), false);
    assert!(matches!(store.report(&empty, NOW).await, Err(StoreError::NoSuchJob(JobId(99)))));
    assert!(matches!(store.fail(&nowhere, "no", LIMITS, NOW).await, Err(StoreError::NoSuchJob(JobId(99)))));
    assert_eq!(store.renew(&[nowhere], LEASE, NOW).await?, [LeaseStatus::Lost]);
    store.release(&[nowhere], NOW).await?;
    Ok(())
}

pub(crate) async fn renewing_keeps_a_lease_past_its_first_end(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    plan(store, id, vec![job("0,0", Rung::Likelihood, SEARCH), job("0,1", Rung::Likelihood, SEARCH)]).await?;
    let leased = store.lease(&claim(&EVERY_RUNG, 2), NOW).await?;
    let (kept, lost) = (leased[0].lease.reference, leased[1].lease.reference);
    let half = NOW.plus(LEASE / 2);
    assert_eq!(store.renew(&[kept], LEASE, half).await?, [LeaseStatus::Held]);
    assert_eq!(store.reap(LIMITS, LATER).await?, 1, "only the one that nobody renewed");
    assert_eq!(store.renew(&[lost, kept], LEASE, LATER).await?, [LeaseStatus::Lost, LeaseStatus::Held]);
    assert!(store.renew(&[], LEASE, LATER).await?.is_empty());
    Ok(())
}

pub(crate) async fn a_lease_is_held_up_to_its_end_and_lost_after(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    plan(store, id, vec![job("0,0", Rung::Likelihood, SEARCH)]).await?;
    let held = lease_one(store).await?;
    let end = held.lease.expires;
    assert_eq!(store.reap(LIMITS, end).await?, 0);
    let partial = report(held.lease.reference, evaluate(&definition, &held, &[0]), false);
    assert_eq!(store.report(&partial, end).await?, LeaseStatus::Held);
    let after = Timestamp(end.0 + 1);
    let more = report(held.lease.reference, evaluate(&definition, &held, &[1]), false);
    assert_eq!(store.report(&more, after).await?, LeaseStatus::Lost);
    assert_eq!(store.reap(LIMITS, after).await?, 1);
    assert_eq!(every_result(store, id, 5).await?.len(), 1);
    Ok(())
}

pub(crate) async fn lost_workers_are_counted_and_park_the_job_at_their_limit(
    store: &dyn Store,
) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    plan(store, id, vec![job("0,0", Rung::Likelihood, SEARCH)]).await?;
    let mut now = NOW;
    for lost in 1..=LIMITS.lost {
        let leased = store.lease(&claim(&EVERY_RUNG, 1), now).await?;
        assert_eq!(leased[0].lease.reference.attempt, lost);
        now = Timestamp(leased[0].lease.expires.0 + 1);
        assert_eq!(store.reap(LIMITS, now).await?, 1);
    }
    assert!(store.lease(&claim(&EVERY_RUNG, 1), now).await?.is_empty());
    let failed = parked(store, id).await?;
    assert_eq!(failed.len(), 1);
    assert_eq!((failed[0].lost, failed[0].errors), (LIMITS.lost, 0));
    assert_eq!(failed[0].job, job("0,0", Rung::Likelihood, SEARCH));
    assert!(failed[0].last_error.as_deref().is_some_and(|error| error.contains("worker-1")), "{failed:?}");
    assert_eq!(store.totals(id).await?.likelihood, RungCounts { parked: 1, ..Default::default() });
    Ok(())
}

pub(crate) async fn errors_are_counted_apart_from_lost_workers(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    plan(store, id, vec![job("0,0", Rung::Likelihood, SEARCH)]).await?;
    // Two lost, one error: neither limit is reached.
    lease_one(store).await?;
    store.reap(LIMITS, LATER).await?;
    lease_one(store).await?;
    store.reap(LIMITS, LATER).await?;
    let held = lease_one(store).await?;
    assert_eq!(store.fail(&held.lease.reference, "out of memory", LIMITS, NOW).await?, LeaseStatus::Held);
    assert_eq!(store.point_jobs(id, &point("0,0")).await?[0].state, JobState::Ready);
    // The second error is at its limit.
    let held = lease_one(store).await?;
    store.fail(&held.lease.reference, "NaN in layer 3", LIMITS, NOW).await?;
    let status = &store.point_jobs(id, &point("0,0")).await?[0];
    assert_eq!((status.state, status.last_error.as_deref()), (JobState::Parked, Some("NaN in layer 3")));
    let failed = &parked(store, id).await?[0];
    assert_eq!((failed.lost, failed.errors, failed.id), (2, 2, status.id));
    assert_eq!(store.fail(&held.lease.reference, "again", LIMITS, NOW).await?, LeaseStatus::Lost);
    Ok(())
}

pub(crate) async fn a_parked_job_runs_again_on_request_with_clean_counts(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    plan(store, id, vec![job("0,0", Rung::Likelihood, SEARCH), job("0,1", Rung::Likelihood, SEARCH)]).await?;
    for _ in 0..2 {
        let held = lease_one(store).await?;
        assert_eq!(held.point, point("0,0"), "a failed job keeps its place");
        store.fail(&held.lease.reference, "broken", LIMITS, NOW).await?;
    }
    assert_eq!(store.retry_jobs(id, &[]).await?, 1);
    assert_eq!(store.retry_jobs(id, &[]).await?, 0);
    assert!(parked(store, id).await?.is_empty());
    let held = lease_one(store).await?;
    assert_eq!((&held.point, held.lease.reference.attempt), (&point("0,0"), 3), "attempts are never reused");
    store.fail(&held.lease.reference, "broken", LIMITS, NOW).await?;
    assert_eq!(store.totals(id).await?.likelihood.parked, 0, "one error after the retry is one error");
    Ok(())
}

pub(crate) async fn a_released_job_is_ready_again_and_nothing_is_counted(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    plan(store, id, vec![job("0,0", Rung::Likelihood, SEARCH)]).await?;
    for attempt in 1..=10 {
        let held = lease_one(store).await?;
        assert_eq!(held.lease.reference.attempt, attempt);
        store.release(&[held.lease.reference], NOW).await?;
        let late = report(held.lease.reference, evaluate(&definition, &held, &held.ordinals), true);
        assert_eq!(store.report(&late, NOW).await?, LeaseStatus::Lost);
    }
    let held = lease_one(store).await?;
    store.fail(&held.lease.reference, "x", FailureLimits { lost: 1, errors: 1 }, NOW).await?;
    let failed = &parked(store, id).await?[0];
    assert_eq!((failed.lost, failed.errors), (0, 1));
    Ok(())
}

pub(crate) async fn reaping_all_takes_back_what_has_not_expired(store: &dyn Store) -> Result<()> {
    let id = create(store, &definition("s")).await?;
    plan(store, id, vec![job("0,0", Rung::Likelihood, SEARCH), job("0,1", Rung::Likelihood, SEARCH)]).await?;
    let long = LeaseClaim { duration: Duration::from_secs(1_000_000), ..claim(&EVERY_RUNG, 1) };
    let held = store.lease(&long, NOW).await?;
    assert_eq!(store.reap(LIMITS, LATER).await?, 0);
    assert_eq!(store.reap_all(LIMITS, NOW).await?, 1);
    assert_eq!(store.renew(&[held[0].lease.reference], LEASE, NOW).await?, [LeaseStatus::Lost]);
    assert_eq!(store.totals(id).await?.likelihood.ready, 2);
    Ok(())
}

pub(crate) async fn a_partly_reported_job_is_leased_again_for_what_is_missing(
    store: &dyn Store,
) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    for (rung, at) in [(Rung::Likelihood, "0,0"), (Rung::Generation, "0.5,0")] {
        plan(store, id, vec![job(at, rung, SEARCH)]).await?;
        let first = lease_one(store).await?;
        report_some(store, &definition, &first, &[4, 1], false).await?;
        tallies_equal_a_recount(store, id, &definition).await?;
        store.release(&[first.lease.reference], NOW).await?;
        let second = lease_one(store).await?;
        assert_eq!(second.ordinals, [0, 2, 3, 5]);
        report_some(store, &definition, &second, &[0], false).await?;
        store.release(&[second.lease.reference], NOW).await?;
        let third = lease_one(store).await?;
        assert_eq!(third.ordinals, [2, 3, 5]);
        finish(store, &definition, &third).await?;
        tallies_equal_a_recount(store, id, &definition).await?;
        assert!(store.lease(&claim(&EVERY_RUNG, 1), NOW).await?.is_empty());
    }
    let totals = store.totals(id).await?;
    assert_eq!((totals.results, totals.duplicate_results), (12, 0));
    Ok(())
}

pub(crate) async fn a_claim_among_several_whose_jobs_lack_nothing_gets_others(
    store: &dyn Store,
) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    let points = ["0,0", "0,0.1", "0,0.2", "0,0.3", "0,0.4"];
    plan(store, id, points.iter().map(|at| job(at, Rung::Likelihood, SEARCH)).collect()).await?;
    let held = store.lease(&claim(&EVERY_RUNG, 2), NOW).await?;
    for held in held {
        report_some(store, &definition, &held, &held.ordinals, false).await?;
        store.release(&[held.lease.reference], NOW).await?;
    }
    // What the first is dealt has every result stored; nobody goes without for that.
    let claims = [2, 1].map(|most| claim(&EVERY_RUNG, most));
    let mut leased = Vec::new();
    for answer in lease_several(store, &claims).await {
        let jobs = answer?;
        assert!(!jobs.is_empty());
        leased.extend(jobs.into_iter().map(|job| job.point));
    }
    leased.sort();
    assert_eq!(leased, [point("0,0.2"), point("0,0.3"), point("0,0.4")]);
    assert_eq!(store.totals(id).await?.likelihood, RungCounts { leased: 3, done: 2, ..Default::default() });
    Ok(())
}

pub(crate) async fn a_job_that_lacks_nothing_is_closed_instead_of_leased(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    plan(store, id, vec![job("0,0", Rung::Likelihood, SEARCH), job("0,1", Rung::Likelihood, SEARCH)]).await?;
    let held = lease_one(store).await?;
    report_some(store, &definition, &held, &held.ordinals, false).await?;
    store.release(&[held.lease.reference], NOW).await?;
    // The first job waits with every result stored; the second is handed out in its place.
    let next = lease_one(store).await?;
    assert_eq!(next.point, point("0,1"));
    assert_eq!(store.totals(id).await?.likelihood, RungCounts { leased: 1, done: 1, ..Default::default() });
    Ok(())
}
