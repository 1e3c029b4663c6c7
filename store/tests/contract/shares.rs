//! Laws of sharing workers between sweeps: priorities, fair shares, preferences.

use std::collections::VecDeque;

use anyhow::Result;
use avsweep_domain::{Rung, SweepId, SweepState, WorkerId};
use avsweep_store::{JobFilter, LeaseClaim, LeaseRef, LeaseStatus, LeasedJob, NewJob, RungCounts, Store};

use super::fixture::{
    EVERY_RUNG, LEASE, NOW, SEARCH, claim, create, definition, finish, job, lease_several, plan,
};

/// A sweep with some likelihood jobs at points that no other of these sweeps has.
async fn sweep_with(store: &dyn Store, name: &str, jobs: u32) -> Result<SweepId> {
    let mut definition = definition(name);
    definition.model.fingerprint = avsweep_domain::Fingerprint::of(name.as_bytes());
    let id = create(store, &definition).await?;
    plan(store, id, (0..jobs).map(|step| at(step, Rung::Likelihood)).collect()).await?;
    Ok(id)
}

fn at(step: u32, rung: Rung) -> NewJob {
    job(&format!("0.{step:02},0"), rung, SEARCH)
}

async fn leased_from(store: &dyn Store, claim: &LeaseClaim) -> Result<Vec<SweepId>> {
    Ok(store.lease(claim, NOW).await?.iter().map(|job| job.sweep).collect())
}

fn count(held: &VecDeque<LeasedJob>, sweep: SweepId) -> usize {
    held.iter().filter(|job| job.sweep == sweep).count()
}

pub(crate) async fn a_sweep_of_higher_priority_goes_first(store: &dyn Store) -> Result<()> {
    let (low, high) = (sweep_with(store, "low", 4).await?, sweep_with(store, "high", 2).await?);
    let found = store.create_sweep(&definition("third"), 7, NOW).await?;
    assert_eq!(store.sweep(found.id).await?.priority, 7);
    store.create_sweep(&definition("third"), 1, NOW).await?;
    assert_eq!(store.sweep(found.id).await?.priority, 7, "finding a sweep does not change it");
    assert_eq!(store.sweep(low).await?.priority, 0);

    store.set_sweep_priority(high, 3).await?;
    assert_eq!(store.find_sweep("high").await?.priority, 3);
    let preferring = LeaseClaim { prefers: Some(low), ..claim(&EVERY_RUNG, 3) };
    assert_eq!(leased_from(store, &preferring).await?, [high, high, low], "priority before preference");
    store.set_sweep_priority(high, -3).await?;
    plan(store, high, vec![at(50, Rung::Likelihood)]).await?;
    assert_eq!(leased_from(store, &claim(&EVERY_RUNG, 9)).await?, [low, low, low, high]);
    let nowhere = store.set_sweep_priority(SweepId(99), 1).await;
    assert!(matches!(nowhere, Err(avsweep_store::StoreError::NoSuchSweep { .. })), "{nowhere:?}");
    Ok(())
}

pub(crate) async fn equal_sweeps_get_equal_shares(store: &dyn Store) -> Result<()> {
    let (one, two) = (sweep_with(store, "one", 40).await?, sweep_with(store, "two", 40).await?);
    let mut held = VecDeque::new();
    let mut done = [0, 0];
    for turn in 0..60 {
        held.extend(store.lease(&claim(&EVERY_RUNG, 1), NOW).await?);
        let (ones, twos) = (count(&held, one), count(&held, two));
        assert!(ones.abs_diff(twos) <= 1, "turn {turn}: {ones} and {twos} jobs are held");
        if held.len() == 6
            && let Some(oldest) = held.pop_front()
        {
            finish(store, &definition("either"), &oldest).await?;
            done[usize::from(oldest.sweep == two)] += 1;
        }
    }
    assert!(done.iter().all(|jobs| *jobs >= 25), "{done:?}");
    Ok(())
}

pub(crate) async fn shares_are_counted_by_the_rungs_asked_for(store: &dyn Store) -> Result<()> {
    let (one, two) = (sweep_with(store, "one", 3).await?, sweep_with(store, "two", 3).await?);
    plan(store, one, (0..5).map(|step| at(step, Rung::Generation)).collect()).await?;
    assert_eq!(leased_from(store, &claim(&[Rung::Generation], 5)).await?, [one; 5]);
    let first = LeaseClaim { prefers: Some(two), ..claim(&[Rung::Likelihood], 1) };
    assert_eq!(leased_from(store, &first).await?, [two]);
    assert_eq!(
        leased_from(store, &claim(&[Rung::Likelihood], 1)).await?,
        [one],
        "it has no likelihood job out"
    );
    Ok(())
}

pub(crate) async fn a_claim_takes_from_one_sweep_what_it_can(store: &dyn Store) -> Result<()> {
    let (one, two) = (sweep_with(store, "one", 5).await?, sweep_with(store, "two", 5).await?);
    let first = leased_from(store, &claim(&EVERY_RUNG, 4)).await?;
    assert!(first == [one; 4] || first == [two; 4], "{first:?}");
    let second = leased_from(store, &claim(&EVERY_RUNG, 4)).await?;
    assert!(second.len() == 4 && second.iter().all(|sweep| *sweep != first[0]), "{second:?}");
    let mut rest = leased_from(store, &claim(&EVERY_RUNG, 4)).await?;
    rest.sort();
    assert_eq!(rest, [one, two]);
    Ok(())
}

pub(crate) async fn a_preferred_sweep_keeps_its_worker(store: &dyn Store) -> Result<()> {
    let (one, two) = (sweep_with(store, "one", 5).await?, sweep_with(store, "two", 5).await?);
    for _ in 0..5 {
        let preferring = LeaseClaim { prefers: Some(two), ..claim(&EVERY_RUNG, 1) };
        assert_eq!(leased_from(store, &preferring).await?, [two]);
    }
    let preferring = LeaseClaim { prefers: Some(two), ..claim(&EVERY_RUNG, 1) };
    assert_eq!(leased_from(store, &preferring).await?, [one], "nothing is left there");
    Ok(())
}

pub(crate) async fn an_excepted_sweep_is_left_to_others(store: &dyn Store) -> Result<()> {
    let (one, two) = (sweep_with(store, "one", 2).await?, sweep_with(store, "two", 2).await?);
    store.set_sweep_priority(one, 9).await?;
    let without = LeaseClaim { except: vec![one], prefers: Some(one), ..claim(&EVERY_RUNG, 3) };
    assert_eq!(leased_from(store, &without).await?, [two, two]);
    let without = LeaseClaim { except: vec![one, two], ..claim(&EVERY_RUNG, 3) };
    assert!(leased_from(store, &without).await?.is_empty());
    assert_eq!(leased_from(store, &claim(&EVERY_RUNG, 3)).await?, [one, one]);
    Ok(())
}

pub(crate) async fn several_claims_get_what_they_would_one_after_the_other(store: &dyn Store) -> Result<()> {
    let (one, two) = (sweep_with(store, "one", 5).await?, sweep_with(store, "two", 5).await?);
    let high = sweep_with(store, "high", 1).await?;
    store.set_sweep_priority(high, 3).await?;
    let paused = sweep_with(store, "paused", 2).await?;
    store.set_sweep_state(paused, SweepState::Paused).await?;
    let asking = |most, prefers, except: &[SweepId]| LeaseClaim {
        worker: WorkerId(format!("of {most}")),
        prefers,
        except: except.to_vec(),
        duration: LEASE * most,
        ..claim(&EVERY_RUNG, most)
    };
    let judge = claim(&[Rung::Judgement], 4);
    let claims = [
        asking(2, Some(one), &[]),
        asking(1, None, &[]),
        asking(3, Some(two), &[]),
        judge,
        asking(5, None, &[one, two]),
        claim(&EVERY_RUNG, 0),
        asking(9, None, &[]),
        asking(1, None, &[]),
    ];
    let answers: Vec<_> = lease_several(store, &claims).await.into_iter().collect::<Result<_, _>>()?;
    let from: Vec<Vec<SweepId>> =
        answers.iter().map(|jobs| jobs.iter().map(|job| job.sweep).collect()).collect();
    // The one of higher priority, then the preferred one; then the one that is behind; and so on.
    assert_eq!(
        from,
        [
            vec![high, one],
            vec![two],
            vec![two; 3],
            vec![],
            vec![],
            vec![],
            vec![one, one, one, one, two],
            vec![]
        ]
    );
    let mut last = [0, 0, 0];
    for (claim, jobs) in claims.iter().zip(&answers) {
        for job in jobs {
            let reference = job.lease.reference;
            assert_eq!((reference.token, reference.attempt), (claim.token, 1), "its own secret");
            assert_eq!(job.lease.expires, NOW.plus(claim.duration), "its own time");
            // Within a sweep the oldest first, whoever gets them.
            let last = &mut last[[one, two, high].iter().position(|sweep| *sweep == job.sweep).unwrap_or(0)];
            assert!(reference.job.0 > *last, "job {} after {last}", reference.job);
            *last = reference.job.0;
            let foreign = LeaseRef { token: claims[7].token, ..reference };
            let held = store.renew(&[reference, foreign], LEASE, NOW).await?;
            assert_eq!(held, [LeaseStatus::Held, LeaseStatus::Lost]);
        }
    }
    let workers: Vec<_> = store
        .jobs(&JobFilter { sweep: Some(high), limit: 10, ..JobFilter::default() })
        .await?
        .into_iter()
        .map(|job| job.worker)
        .collect();
    assert_eq!(workers, [Some(WorkerId("of 2".to_owned()))]);
    for sweep in [one, two] {
        let counts = store.totals(sweep).await?.likelihood;
        assert_eq!(counts, RungCounts { leased: 5, ..RungCounts::default() });
    }
    assert!(lease_several(store, &[]).await.is_empty());
    Ok(())
}

pub(crate) async fn claims_at_once_get_equal_shares_of_equal_sweeps(store: &dyn Store) -> Result<()> {
    let (one, two) = (sweep_with(store, "one", 20).await?, sweep_with(store, "two", 20).await?);
    let mut held = VecDeque::new();
    for _ in 0..4 {
        let claims: Vec<_> = (0..5).map(|_| claim(&EVERY_RUNG, 1)).collect();
        for answer in lease_several(store, &claims).await {
            held.extend(answer?);
            let (ones, twos) = (count(&held, one), count(&held, two));
            assert!(ones.abs_diff(twos) <= 1, "{ones} and {twos} jobs are held");
        }
    }
    assert_eq!(held.len(), 20);
    Ok(())
}
