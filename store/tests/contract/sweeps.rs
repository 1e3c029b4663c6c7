//! Laws of sweeps: names, definitions, states, totals.

use anyhow::Result;
use avsweep_domain::{JudgeProvider, Rung, SweepId, SweepState, Ticks};
use avsweep_store::{NewJob, RungCounts, Store, StoreError, Timestamp};

use super::fixture::{
    EVERY_RUNG, NOW, SEARCH, claim, create, definition, finish, job, lease_one, plan, work_off,
};

pub(crate) async fn creating_a_sweep_twice_finds_the_first(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let first = store.create_sweep(&definition, 0, NOW).await?;
    let second = store.create_sweep(&definition, 0, Timestamp(NOW.0 + 1)).await?;
    assert!(first.created && !second.created);
    assert_eq!((first.id, first.state), (second.id, second.state));
    let record = store.sweep(first.id).await?;
    assert_eq!(record.created_at, NOW);
    assert_eq!(*record.definition, definition);
    assert_eq!(record.fingerprint, definition.fingerprint());
    assert_eq!(store.sweeps().await?.len(), 1);
    Ok(())
}

pub(crate) async fn a_name_with_another_definition_is_refused(store: &dyn Store) -> Result<()> {
    let first = definition("s");
    create(store, &first).await?;
    let mut second = definition("s");
    second.domains[0].search[0].references[0] = "another text".to_owned();
    match store.create_sweep(&second, 0, NOW).await {
        Err(StoreError::SweepDiffers { name, stored, given }) => {
            assert_eq!(name, "s");
            assert_eq!((stored, given), (first.fingerprint(), second.fingerprint()));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(*store.find_sweep("s").await?.definition, first);
    Ok(())
}

pub(crate) async fn the_same_sweep_elsewhere_brings_its_paths_up_to_date(store: &dyn Store) -> Result<()> {
    let before = definition("s");
    let id = create(store, &before).await?;
    store.set_sweep_state(id, SweepState::Paused).await?;
    assert_eq!(store.sweep(id).await?.definition.model.path, "base");

    let mut moved = before.clone();
    moved.model.path = "elsewhere/base".to_owned();
    if let JudgeProvider::Openai { concurrency, .. } = &mut moved.judge.provider {
        *concurrency = 9;
    }
    let found = store.create_sweep(&moved, 0, NOW).await?;
    assert_eq!((found.id, found.created, found.state), (id, false, SweepState::Paused));
    assert_eq!(*store.sweep(id).await?.definition, moved);
    assert_eq!(*store.find_sweep("s").await?.definition, moved);
    Ok(())
}

pub(crate) async fn an_unsound_definition_is_refused(store: &dyn Store) -> Result<()> {
    let mut no_domains = definition("s");
    no_domains.domains.clear();
    assert!(matches!(store.create_sweep(&no_domains, 0, NOW).await, Err(StoreError::BadDefinition { .. })));
    let mut one_reference_more = definition("s");
    one_reference_more.domains[0].search[0].references.push("a fourth".to_owned());
    assert!(matches!(
        store.create_sweep(&one_reference_more, 0, NOW).await,
        Err(StoreError::Unstorable { .. })
    ));
    assert!(store.sweeps().await?.is_empty());
    Ok(())
}

pub(crate) async fn a_definition_comes_back_bit_for_bit(store: &dyn Store) -> Result<()> {
    let mut odd = definition("s");
    // Shortest decimal forms of 17 digits, subnormals, extremes.
    for temperature in [0.1 + 0.2, 1.0 / 3.0, 5e-324, 2.225_073_858_507_201e-308, 99.999_999_999_999_99] {
        odd.evaluation.decode.temperature = temperature;
        odd.name = format!("s-{}", temperature.to_bits());
        match store.create_sweep(&odd, 0, NOW).await {
            Ok(created) => {
                let back = store.sweep(created.id).await?;
                assert_eq!(back.definition.evaluation.decode.temperature.to_bits(), temperature.to_bits());
                assert_eq!(back.definition.fingerprint(), odd.fingerprint());
            }
            // A store may refuse what it cannot keep exactly; it must not keep something else.
            Err(StoreError::Unstorable { .. }) => {}
            Err(other) => return Err(other.into()),
        }
    }
    Ok(())
}

pub(crate) async fn a_sweep_is_found_by_name_and_by_number(store: &dyn Store) -> Result<()> {
    let first = create(store, &definition("first")).await?;
    let second = store.create_sweep(&definition("second"), 0, Timestamp(NOW.0 + 5)).await?.id;
    assert_eq!(store.find_sweep("first").await?.id, first);
    assert_eq!(store.find_sweep(&second.to_string()).await?.id, second);
    let names: Vec<_> =
        store.sweeps().await?.into_iter().map(|sweep| sweep.definition.name.clone()).collect();
    assert_eq!(names, ["second", "first"], "newest first");
    for wanted in ["third", "99", ""] {
        match store.find_sweep(wanted).await {
            Err(StoreError::NoSuchSweep { known, .. }) => assert_eq!(known, ["second", "first"]),
            other => panic!("{other:?}"),
        }
    }
    let nowhere = SweepId(99);
    assert!(matches!(store.sweep(nowhere).await, Err(StoreError::NoSuchSweep { .. })));
    assert!(matches!(store.totals(nowhere).await, Err(StoreError::NoSuchSweep { .. })));
    assert!(matches!(store.unjudged(nowhere).await, Err(StoreError::NoSuchSweep { .. })));
    assert!(matches!(store.retry_jobs(nowhere, &[]).await, Err(StoreError::NoSuchSweep { .. })));
    assert!(matches!(store.results(nowhere, None, 1).await, Err(StoreError::NoSuchSweep { .. })));
    assert!(matches!(
        store.plan(nowhere, &avsweep_store::Plan::default(), None, NOW).await,
        Err(StoreError::NoSuchSweep { .. })
    ));
    Ok(())
}

pub(crate) async fn only_allowed_changes_of_state_happen(store: &dyn Store) -> Result<()> {
    let id = create(store, &definition("s")).await?;
    let mut state = SweepState::Running;
    for to in [
        SweepState::Running,
        SweepState::Paused,
        SweepState::Done,
        SweepState::Running,
        SweepState::Done,
        SweepState::Paused,
        SweepState::Running,
        SweepState::Cancelled,
        SweepState::Running,
    ] {
        let allowed = state.check_transition(to).is_ok();
        match store.set_sweep_state(id, to).await {
            Ok(()) => {
                assert!(allowed, "{state} to {to}");
                state = to;
            }
            Err(StoreError::Transition { sweep, source }) => {
                assert!(!allowed, "{state} to {to}");
                assert_eq!((sweep, source.from, source.to), (id, state, to));
            }
            Err(other) => return Err(other.into()),
        }
        assert_eq!(store.sweep(id).await?.state, state);
    }
    Ok(())
}

pub(crate) async fn totals_count_jobs_by_rung_and_state(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    assert_eq!(store.totals(id).await?, Default::default());
    let jobs: Vec<NewJob> = (0..4)
        .flat_map(|step| {
            let at = format!("0.5,{}", Ticks::new(step * 5000 - 10_000));
            [job(&at, Rung::Likelihood, SEARCH), job(&at, Rung::Generation, SEARCH)]
        })
        .collect();
    plan(store, id, jobs).await?;
    let leased = store.lease(&claim(&[Rung::Likelihood], 3), NOW).await?;
    finish(store, &definition, &leased[0]).await?;
    let totals = store.totals(id).await?;
    assert_eq!(totals.points, 4);
    assert_eq!(totals.likelihood, RungCounts { ready: 1, leased: 2, done: 1, parked: 0, raced: 0 });
    assert_eq!(totals.generation, RungCounts { ready: 4, ..Default::default() });
    assert_eq!(totals.judgement, RungCounts::default());
    assert_eq!(totals.results, 6);
    assert_eq!(store.ready_jobs(&[Rung::Likelihood]).await?, 1);
    assert_eq!(store.ready_jobs(&EVERY_RUNG).await?, 5);
    store.set_sweep_state(id, SweepState::Paused).await?;
    assert_eq!(store.ready_jobs(&EVERY_RUNG).await?, 0, "a paused sweep has nothing to hand out");
    Ok(())
}

pub(crate) async fn paused_and_cancelled_sweeps_hand_nothing_out(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    let jobs = ["0,0", "0,0.5", "0,1"].map(|at| job(at, Rung::Likelihood, SEARCH)).to_vec();
    plan(store, id, jobs).await?;
    let held = lease_one(store).await?;

    store.set_sweep_state(id, SweepState::Paused).await?;
    assert!(store.lease(&claim(&EVERY_RUNG, 5), NOW).await?.is_empty());
    finish(store, &definition, &held).await?;

    store.set_sweep_state(id, SweepState::Running).await?;
    lease_one(store).await?;

    store.set_sweep_state(id, SweepState::Cancelled).await?;
    assert!(store.lease(&claim(&EVERY_RUNG, 5), NOW).await?.is_empty());
    let totals = store.totals(id).await?;
    assert_eq!(totals.likelihood, RungCounts { ready: 1, leased: 1, done: 1, parked: 0, raced: 0 });
    Ok(())
}

pub(crate) async fn a_cancelled_sweep_does_not_hold_up_others(store: &dyn Store) -> Result<()> {
    let (first, second) = (definition("first"), definition("second"));
    let first = create(store, &first).await?;
    let other = create(store, &second).await?;
    plan(store, first, vec![job("0,0", Rung::Likelihood, SEARCH)]).await?;
    plan(store, other, vec![job("0,0.5", Rung::Likelihood, SEARCH)]).await?;
    store.set_sweep_state(first, SweepState::Cancelled).await?;
    assert_eq!(work_off(store, &second).await?, 1);
    assert_eq!(store.totals(other).await?.likelihood.done, 1);
    Ok(())
}
