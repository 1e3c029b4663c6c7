//! Laws of what strategies see and of what they chose.

use anyhow::Result;
use avsweep_domain::{
    Coverage, FailureLimits, Label, Normalisation, QuerySlice, Rung, SweepDefinition, SweepState,
};
use avsweep_store::{Choice, NewJob, Plan, PointFilter, SearchPoint, SearchState, Store, StoreError};

use super::fixture::{
    CONFIRM, NOW, SEARCH, claim, create, definition, finish, job, lease_one, plan, point, query_id,
    report_some, response, score, verdict, work_off,
};

const FIRST_ERROR_PARKS: FailureLimits = FailureLimits { lost: 1, errors: 1 };

fn at(text: &str, state: SearchState) -> SearchPoint {
    SearchPoint { point: point(text), state }
}

/// The mean log-probabilities that the made-up scores of a point's search queries have.
fn log_probs(definition: &SweepDefinition, text: &str) -> Vec<f32> {
    let scores = SEARCH.ordinals().map(|ordinal| score(&point(text), query_id(definition, ordinal), 3));
    scores.flat_map(|score| score.0).map(|score| Normalisation::Mean.apply(&score) as f32).collect()
}

pub(crate) async fn a_strategy_sees_what_came_of_its_points(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    let likelihood = |text| job(text, Rung::Likelihood, SEARCH);
    let (head, tail) = (QuerySlice { start: 0, end: 4 }, QuerySlice { start: 4, end: 6 });
    let jobs = vec![
        likelihood("0.5,0"),
        likelihood("0,0.5"),
        // One point in two jobs, one of which will fail.
        job("0,0", Rung::Likelihood, head),
        job("0,0", Rung::Likelihood, tail),
        likelihood("-1,0"),
        // Sampled and confirmed, not proposed.
        job("1,1", Rung::Generation, SEARCH),
        job("1,-1", Rung::Likelihood, CONFIRM),
        job("1,0.5", Rung::Likelihood, head),
    ];
    plan(store, id, jobs).await?;
    finish(store, &definition, &lease_one(store).await?).await?;
    let half = lease_one(store).await?;
    report_some(store, &definition, &half, &[0, 1, 2], false).await?;
    finish(store, &definition, &lease_one(store).await?).await?;
    let failing = lease_one(store).await?;
    store.fail(&failing.lease.reference, "broken", FIRST_ERROR_PARKS, NOW).await?;

    let measured = |text| {
        let log_probs = log_probs(&definition, text);
        at(text, SearchState::Measured { log_probs, judged: None })
    };
    let wanted = vec![
        at("-1,0", SearchState::Pending),
        at("0,0", SearchState::GivenUp),
        at("0,0.5", SearchState::Pending),
        measured("0.5,0"),
    ];
    assert_eq!(store.search_points(id, PointFilter::All).await?, wanted);

    // By name, in the order of ticks; a point that is not proposed is not there.
    store.retry_jobs(id, &[]).await?;
    report_some(store, &definition, &half, &[3, 4, 5], true).await?;
    let asked = ["0.5,0", "0,0.5", "1,1", "0,0", "0.5,0.5", "0"].map(point);
    let some = store.search_points(id, PointFilter::These(&asked)).await?;
    assert_eq!(some, vec![at("0,0", SearchState::Pending), measured("0,0.5"), measured("0.5,0")]);
    assert_eq!(store.search_points(id, PointFilter::These(&[])).await?, vec![]);
    work_off(store, &definition).await?;
    let wanted: Vec<_> = ["-1,0", "0,0", "0,0.5", "0.5,0"].map(measured).into();
    assert_eq!(store.search_points(id, PointFilter::All).await?, wanted);
    assert!(matches!(
        store.search_points(avsweep_domain::SweepId(77), PointFilter::All).await,
        Err(StoreError::NoSuchSweep { .. })
    ));
    Ok(())
}

pub(crate) async fn without_likelihoods_a_point_is_measured_when_its_responses_are_judged(
    store: &dyn Store,
) -> Result<()> {
    let mut definition = definition("judged");
    (definition.evaluation.likelihood, definition.evaluation.generation) = (Coverage::None, Coverage::All);
    let id = create(store, &definition).await?;
    let generation = |text| job(text, Rung::Generation, SEARCH);
    plan(store, id, vec![generation("0,0"), generation("0.5,0"), generation("1,0")]).await?;
    for _ in 0..2 {
        finish(store, &definition, &lease_one(store).await?).await?;
    }
    let pending = |text| at(text, SearchState::Pending);
    let all = store.search_points(id, PointFilter::All).await?;
    assert_eq!(all, vec![pending("0,0"), pending("0.5,0"), pending("1,0")], "generated is not judged");

    plan(
        store,
        id,
        store.unjudged(id).await?.into_iter().map(|job| NewJob { rung: Rung::Judgement, ..job }).collect(),
    )
    .await?;
    let first = store.lease(&claim(&[Rung::Judgement], 1), NOW).await?.remove(0);
    finish(store, &definition, &first).await?;
    for job in store.lease(&claim(&[Rung::Judgement], 1), NOW).await? {
        store.fail(&job.lease.reference, "no answer", FIRST_ERROR_PARKS, NOW).await?;
    }
    let mut counts = vec![0; 2 * 3];
    for ordinal in SEARCH.ordinals() {
        let query = query_id(&definition, ordinal);
        if let Label::Level(level) = verdict(query, &response(&point("0,0"), query).text).label {
            counts[ordinal as usize / 3 * 3 + level.index()] += 1;
        }
    }
    let measured = SearchState::Measured { log_probs: Vec::new(), judged: Some(counts) };
    let wanted = vec![at("0,0", measured), at("0.5,0", SearchState::GivenUp), pending("1,0")];
    assert_eq!(store.search_points(id, PointFilter::All).await?, wanted);
    Ok(())
}

pub(crate) async fn by_verdicts_a_point_with_likelihoods_is_measured_when_both_are_there(
    store: &dyn Store,
) -> Result<()> {
    let mut definition = definition("both");
    definition.evaluation.generation = Coverage::All;
    definition.strategy = avsweep_domain::Strategy::Bayesian(avsweep_domain::BayesianSettings::default());
    let id = create(store, &definition).await?;
    plan(store, id, vec![job("0,0", Rung::Likelihood, SEARCH), job("0,0", Rung::Generation, SEARCH)]).await?;
    work_off(store, &definition).await?;
    let all = store.search_points(id, PointFilter::All).await?;
    assert_eq!(all, vec![at("0,0", SearchState::Pending)], "scored and generated is not judged");
    let unjudged = store.unjudged(id).await?;
    plan(store, id, unjudged.into_iter().map(|job| NewJob { rung: Rung::Judgement, ..job }).collect())
        .await?;
    work_off(store, &definition).await?;
    let all = store.search_points(id, PointFilter::All).await?;
    let Some(SearchState::Measured { log_probs: found, judged: Some(_) }) =
        all.first().map(|point| &point.state)
    else {
        anyhow::bail!("not measured: {all:?}");
    };
    assert_eq!(*found, log_probs(&definition, "0,0"));
    Ok(())
}

pub(crate) async fn choices_are_written_with_their_plans_and_go_with_their_sweep<S: Store>(
    store: &S,
) -> Result<()> {
    let id = create(store, &definition("s")).await?;
    let choose = |choice: &Choice| Plan {
        jobs: choice.points.iter().map(|at| job(&at.to_string(), Rung::Likelihood, SEARCH)).collect(),
        choice: Some(choice.clone()),
    };
    let points = |texts: &[&str]| texts.iter().map(|text| point(text)).collect::<Vec<_>>();
    let first = Choice { asked: 4, points: points(&["0,0", "1,-1", "-1,0.5"]), ..Choice::default() };
    let second = Choice {
        proposed: 3,
        asked: 1,
        pending: points(&["1,-1"]),
        given_up: points(&["-1,0.5"]),
        points: points(&["0.5,0.5"]),
    };
    assert_eq!(store.choices(id).await?, vec![]);
    for choice in [&first, &second, &second] {
        store.plan(id, &choose(choice), None, NOW).await?;
    }
    assert_eq!(store.choices(id).await?, vec![first, second.clone()]);
    // Somebody else has planned from the same history.
    let other = Choice { points: points(&["-0.5,-0.5"]), ..second };
    let lost = store.plan(id, &choose(&other), None, NOW).await;
    assert!(matches!(lost, Err(StoreError::PlanningLost { .. })), "{lost:?}");
    assert_eq!(store.totals(id).await?.points, 4, "nothing of it is planned");

    let twin = create(store, &SweepDefinition { name: "twin".to_owned(), ..definition("s") }).await?;
    assert_eq!(store.choices(twin).await?, vec![], "a sweep has its own choices");
    store.set_sweep_state(id, SweepState::Cancelled).await?;
    store.delete_sweep(id).await?;
    assert!(matches!(store.choices(id).await, Err(StoreError::NoSuchSweep { .. })));
    Ok(())
}
