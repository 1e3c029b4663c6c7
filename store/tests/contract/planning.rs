//! Laws of planning: what is added, what is there already, what is refused.

use anyhow::Result;
use avsweep_domain::{JobState, QuerySlice, Rung};
use avsweep_store::{PlanProblem, Planned, PointFilter, Store, StoreError};

use super::fixture::{
    CONFIRM, EVERY_RUNG, NOW, SEARCH, claim, create, definition, finish, job, lease_one, plan, point,
    work_off,
};

pub(crate) async fn planning_twice_adds_nothing(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    let jobs = vec![
        job("0,0", Rung::Likelihood, SEARCH),
        job("0,0", Rung::Likelihood, CONFIRM),
        job("0,0.5", Rung::Likelihood, SEARCH),
    ];
    let first = plan(store, id, jobs.clone()).await?;
    assert_eq!(first, Planned { new_points: 2, new_jobs: 3, reused_jobs: 0 });
    assert_eq!(plan(store, id, jobs.clone()).await?, Planned::default());
    let before = store.totals(id).await?;
    finish(store, &definition, &lease_one(store).await?).await?;
    assert_eq!(plan(store, id, jobs).await?, Planned::default(), "a job that is done stays done");
    let after = store.totals(id).await?;
    assert_eq!((before.points, before.likelihood.ready), (2, 3));
    assert_eq!((after.points, after.likelihood.ready, after.likelihood.done), (2, 2, 1));
    Ok(())
}

pub(crate) async fn a_job_planned_twice_in_one_plan_is_one_job(store: &dyn Store) -> Result<()> {
    let id = create(store, &definition("s")).await?;
    let jobs = vec![job("0,0", Rung::Likelihood, SEARCH); 3];
    assert_eq!(plan(store, id, jobs).await?, Planned { new_points: 1, new_jobs: 1, reused_jobs: 0 });
    assert_eq!(store.point_jobs(id, &point("0,0")).await?.len(), 1);
    Ok(())
}

pub(crate) async fn an_empty_plan_changes_nothing(store: &dyn Store) -> Result<()> {
    let id = create(store, &definition("s")).await?;
    assert_eq!(plan(store, id, Vec::new()).await?, Planned::default());
    assert_eq!(store.totals(id).await?, Default::default());
    Ok(())
}

pub(crate) async fn a_plan_with_a_bad_job_is_refused_as_a_whole(store: &dyn Store) -> Result<()> {
    let id = create(store, &definition("s")).await?;
    let good = job("0,0", Rung::Likelihood, SEARCH);
    let slice = |start, end| QuerySlice { start, end };
    for (bad, problem) in [
        (job("0,0,0", Rung::Likelihood, SEARCH), PlanProblem::Dimensions { found: 3, wanted: 2 }),
        (job("0", Rung::Likelihood, SEARCH), PlanProblem::Dimensions { found: 1, wanted: 2 }),
        (job("0,0", Rung::Likelihood, slice(3, 3)), PlanProblem::Slice { queries: 10 }),
        (job("0,0", Rung::Likelihood, slice(3, 11)), PlanProblem::Slice { queries: 10 }),
        (job("0,0", Rung::Judgement, SEARCH), PlanProblem::NoResponse { ordinal: 0 }),
    ] {
        match store
            .plan(
                id,
                &avsweep_store::Plan {
                    jobs: vec![good.clone(), bad.clone()],
                    ..avsweep_store::Plan::default()
                },
                None,
                NOW,
            )
            .await
        {
            Err(StoreError::BadPlan { sweep, job, problem: found }) => {
                assert_eq!((sweep, *job, found), (id, bad, problem));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(store.totals(id).await?, Default::default());
    assert!(store.tallies(id, PointFilter::All).await?.is_empty());
    Ok(())
}

pub(crate) async fn points_come_in_the_order_of_their_ticks(store: &dyn Store) -> Result<()> {
    let id = create(store, &definition("s")).await?;
    let shuffled = ["0.5,-1", "-1,1", "0,0", "1,-0.5", "-0.5,0.5", "0,-1", "-1,-1"];
    plan(store, id, shuffled.iter().map(|at| job(at, Rung::Likelihood, SEARCH)).collect()).await?;
    let mut sorted = shuffled.map(point).to_vec();
    sorted.sort();
    let listed = store.tallies(id, PointFilter::All).await?;
    assert_eq!(listed.iter().map(|tallies| tallies.point.clone()).collect::<Vec<_>>(), sorted);

    let asked = [point("0.5,-1"), point("0.5,0.5"), point("-1,1"), point("-1,1"), point("0")];
    let some = store.tallies(id, PointFilter::These(&asked)).await?;
    assert_eq!(some.iter().map(|tallies| tallies.point.to_string()).collect::<Vec<_>>(), ["-1,1", "0.5,-1"]);
    assert!(store.tallies(id, PointFilter::These(&[])).await?.is_empty());
    Ok(())
}

pub(crate) async fn the_jobs_of_a_point_are_listed_by_rung_and_slice(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    let jobs = vec![
        job("0,0", Rung::Generation, SEARCH),
        job("0,0", Rung::Likelihood, CONFIRM),
        job("0,0", Rung::Likelihood, SEARCH),
        job("0,0.5", Rung::Likelihood, SEARCH),
    ];
    plan(store, id, jobs).await?;
    let leased = store.lease(&claim(&[Rung::Generation], 1), NOW).await?;
    finish(store, &definition, &leased[0]).await?;
    let listed: Vec<_> = store
        .point_jobs(id, &point("0,0"))
        .await?
        .into_iter()
        .map(|job| (job.rung, job.slice, job.state, job.last_error))
        .collect();
    assert_eq!(
        listed,
        [
            (Rung::Likelihood, SEARCH, JobState::Ready, None),
            (Rung::Likelihood, CONFIRM, JobState::Ready, None),
            (Rung::Generation, SEARCH, JobState::Done, None),
        ]
    );
    assert!(store.point_jobs(id, &point("1,1")).await?.is_empty());
    Ok(())
}

pub(crate) async fn generation_without_judgement_is_listed_until_it_is_planned(
    store: &dyn Store,
) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    plan(store, id, vec![job("0,0", Rung::Generation, SEARCH), job("0,1", Rung::Generation, SEARCH)]).await?;
    assert!(store.unjudged(id).await?.is_empty(), "nothing is generated yet");
    let leased = lease_one(store).await?;
    finish(store, &definition, &leased).await?;
    let unjudged = store.unjudged(id).await?;
    assert_eq!(unjudged, [job("0,0", Rung::Generation, SEARCH)]);
    plan(store, id, vec![job("0,0", Rung::Judgement, SEARCH)]).await?;
    assert!(store.unjudged(id).await?.is_empty());
    work_off(store, &definition).await?;
    assert_eq!(store.unjudged(id).await?, [job("0,1", Rung::Generation, SEARCH)]);
    Ok(())
}

pub(crate) async fn large_plans_keep_their_order(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    let points: Vec<String> = (0..5000).map(|step| format!("0.{:04},0", (step * 7919) % 5000)).collect();
    let jobs = points.iter().map(|at| job(at, Rung::Likelihood, SEARCH)).collect();
    let planned = plan(store, id, jobs).await?;
    assert_eq!(planned, Planned { new_points: 5000, new_jobs: 5000, reused_jobs: 0 });
    let leased = store.lease(&claim(&EVERY_RUNG, 100), NOW).await?;
    assert!(leased.iter().zip(&points).all(|(job, at)| job.point == point(at)), "oldest first");
    let asked: Vec<_> = points.iter().take(3000).map(|at| point(at)).collect();
    let found = store.tallies(id, PointFilter::These(&asked)).await?;
    let mut sorted = asked;
    sorted.sort();
    assert!(found.iter().map(|tallies| &tallies.point).eq(&sorted));
    Ok(())
}
