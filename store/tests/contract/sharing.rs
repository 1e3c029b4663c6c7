//! Laws of sharing: nothing is evaluated or judged twice, within a sweep or between sweeps.

use anyhow::Result;
use avsweep_domain::{Fingerprint, QuerySlice, Rung, SweepDefinition};
use avsweep_store::{NewJob, Planned, PointFilter, ResultValue, RungCounts, Store};

use super::fixture::{
    CONFIRM, EVERY_RUNG, NOW, SEARCH, claim, create, definition, every_result, finish, job, lease_one, plan,
    point, query, report_some, tallies_equal_a_recount, work_off,
};

const POINTS: [&str; 3] = ["0,0", "0,0.5", "-1,1"];

fn likelihood_everywhere() -> Vec<NewJob> {
    POINTS.iter().map(|at| job(at, Rung::Likelihood, SEARCH)).collect()
}

pub(crate) async fn a_second_sweep_over_the_same_inputs_evaluates_nothing(store: &dyn Store) -> Result<()> {
    let (first, second) = (definition("first"), definition("second"));
    let id = create(store, &first).await?;
    plan(store, id, likelihood_everywhere()).await?;
    work_off(store, &first).await?;
    plan(store, id, vec![job(POINTS[0], Rung::Generation, SEARCH)]).await?;
    work_off(store, &first).await?;
    plan(store, id, vec![job(POINTS[0], Rung::Judgement, SEARCH)]).await?;
    work_off(store, &first).await?;

    let again = create(store, &second).await?;
    assert_eq!(
        plan(store, again, likelihood_everywhere()).await?,
        Planned { new_points: 3, new_jobs: 0, reused_jobs: 3 }
    );
    let rungs = [Rung::Generation, Rung::Judgement].map(|rung| job(POINTS[0], rung, SEARCH));
    assert_eq!(
        plan(store, again, rungs.to_vec()).await?,
        Planned { new_points: 0, new_jobs: 0, reused_jobs: 2 }
    );
    assert!(store.lease(&claim(&EVERY_RUNG, 9), NOW).await?.is_empty());
    assert_eq!(every_result(store, again, 2).await?, every_result(store, id, 2).await?);
    let tallies = |tallies: Vec<avsweep_domain::PointTallies>| -> Vec<_> {
        tallies.into_iter().map(|point| (point.id, point.point, point.search, point.confirm)).collect()
    };
    assert_eq!(
        tallies(store.tallies(again, PointFilter::All).await?),
        tallies(store.tallies(id, PointFilter::All).await?)
    );
    let totals = store.totals(again).await?;
    assert_eq!((totals.results, totals.duplicate_results), (0, 0));
    assert_eq!(totals.likelihood, RungCounts { done: 3, ..Default::default() });
    assert!(store.unjudged(again).await?.is_empty(), "its judgement is planned");
    Ok(())
}

pub(crate) async fn a_sweep_with_more_queries_asks_only_for_those_it_lacks(store: &dyn Store) -> Result<()> {
    let first = definition("first");
    let mut second = definition("second");
    second.domains[0].search.insert(1, query("one-more"));
    second.domains[1].search.remove(0);
    let id = create(store, &first).await?;
    plan(store, id, likelihood_everywhere()).await?;
    work_off(store, &first).await?;

    let wider = create(store, &second).await?;
    let planned = plan(store, wider, vec![job("0,0", Rung::Likelihood, SEARCH)]).await?;
    assert_eq!(planned, Planned { new_points: 1, new_jobs: 1, reused_jobs: 0 });
    tallies_equal_a_recount(store, wider, &second).await?;
    let held = lease_one(store).await?;
    assert_eq!(held.ordinals, [1]);
    finish(store, &second, &held).await?;
    assert_eq!(every_result(store, wider, 9).await?.len(), 6);
    tallies_equal_a_recount(store, wider, &second).await?;
    tallies_equal_a_recount(store, id, &first).await
}

pub(crate) async fn results_reported_for_one_sweep_count_in_the_other_at_once(
    store: &dyn Store,
) -> Result<()> {
    let (first, second) = (definition("first"), definition("second"));
    let (id, other) = (create(store, &first).await?, create(store, &second).await?);
    for sweep in [id, other] {
        plan(store, sweep, likelihood_everywhere()).await?;
        plan(store, sweep, vec![job("0,0", Rung::Generation, CONFIRM)]).await?;
    }
    let held = lease_one(store).await?;
    report_some(store, &first, &held, &[3, 4], false).await?;
    tallies_equal_a_recount(store, id, &first).await?;
    tallies_equal_a_recount(store, other, &second).await?;
    finish(store, &first, &held).await?;
    tallies_equal_a_recount(store, other, &second).await?;
    // The other's job at the same point is closed without being handed out.
    work_off(store, &first).await?;
    for (sweep, definition) in [(id, &first), (other, &second)] {
        tallies_equal_a_recount(store, sweep, definition).await?;
        plan(store, sweep, vec![job("0,0", Rung::Judgement, CONFIRM)]).await?;
    }
    work_off(store, &first).await?;
    for (sweep, definition) in [(id, &first), (other, &second)] {
        tallies_equal_a_recount(store, sweep, definition).await?;
    }
    let (totals, others) = (store.totals(id).await?, store.totals(other).await?);
    assert_eq!(totals.results + others.results, 3 * 6 + 4 + 4);
    assert_eq!(totals.duplicate_results + others.duplicate_results, 2, "the two that were reported twice");
    assert_eq!(every_result(store, other, 9).await?, every_result(store, id, 9).await?);
    Ok(())
}

/// Changes that make results other results; each gives a definition that must share nothing with the plain one.
pub(crate) async fn sweeps_over_other_inputs_share_nothing(store: &dyn Store) -> Result<()> {
    let plain = definition("plain");
    let id = create(store, &plain).await?;
    plan(store, id, vec![job("0,0", Rung::Likelihood, SEARCH), job("0,0", Rung::Generation, SEARCH)]).await?;
    work_off(store, &plain).await?;

    type Change = (&'static str, fn(&mut SweepDefinition), u64);
    let changes: [Change; 5] = [
        ("another-base", |d| d.model.fingerprint = Fingerprint::of(b"another"), 0),
        ("another-vector", |d| d.vectors[1].fingerprint = Fingerprint::of(b"another"), 0),
        ("another-dtype", |d| d.model.dtype = avsweep_domain::Dtype::Bf16, 0),
        ("other-tensors", |d| d.space = restricted(d), 0),
        // Decoding touches responses, not scores.
        ("another-decoding", |d| d.evaluation.decode.max_new_tokens = 9, 1),
    ];
    for (name, change, reused) in changes {
        let mut changed = definition(name);
        change(&mut changed);
        let other = create(store, &changed).await?;
        let jobs = vec![job("0,0", Rung::Likelihood, SEARCH), job("0,0", Rung::Generation, SEARCH)];
        let planned = plan(store, other, jobs).await?;
        assert_eq!((planned.reused_jobs, planned.new_jobs), (reused, 2 - reused), "{name}");
        let scores = every_result(store, other, 9).await?;
        assert_eq!(scores.len() as u64, reused * 6, "{name}");
        assert!(scores.iter().all(|row| matches!(row.value, ResultValue::Score(_))));
    }
    Ok(())
}

fn restricted(definition: &SweepDefinition) -> avsweep_domain::Space {
    let mut coefficients = definition.space.coefficients().to_vec();
    coefficients[0].tensors = Some(vec!["model.layers.0.*".to_owned()]);
    avsweep_domain::Space::new(coefficients).expect("names differ")
}

pub(crate) async fn an_identical_response_is_judged_once(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    // Three texts a query over eight points: most responses come again.
    let points = ["-1,-1", "-1,0", "-1,1", "0,-1", "0,0", "0,1", "1,-1", "1,0"];
    plan(store, id, points.iter().map(|at| job(at, Rung::Generation, SEARCH)).collect()).await?;
    work_off(store, &definition).await?;
    let mut pairs: Vec<_> = every_result(store, id, 9)
        .await?
        .into_iter()
        .filter_map(|row| match row.value {
            ResultValue::Response(response) => Some((row.ordinal, response.text)),
            _ => None,
        })
        .collect();
    assert_eq!(pairs.len(), 48);
    pairs.sort();
    pairs.dedup();
    assert!(pairs.len() <= 18);

    plan(store, id, points.iter().map(|at| job(at, Rung::Judgement, SEARCH)).collect()).await?;
    let mut judged = 0;
    while let Some(held) = store.lease(&claim(&EVERY_RUNG, 1), NOW).await?.pop() {
        assert_eq!(held.responses.len(), held.ordinals.len());
        judged += held.ordinals.len();
        finish(store, &definition, &held).await?;
        tallies_equal_a_recount(store, id, &definition).await?;
    }
    assert_eq!(judged, pairs.len(), "one judgement per query and text");
    let verdicts = every_result(store, id, 9).await?;
    assert_eq!(verdicts.iter().filter(|row| matches!(row.value, ResultValue::Verdict(_))).count(), 48);
    let totals = store.totals(id).await?;
    assert_eq!(totals.judgement, RungCounts { done: 8, ..Default::default() });
    assert_eq!(totals.duplicate_results, 0);
    Ok(())
}

pub(crate) async fn a_response_judged_meanwhile_keeps_its_first_verdict(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    let slice = QuerySlice { start: 0, end: 1 };
    // Two points with the same text for the first query.
    let query = super::fixture::query_id(&definition, 0);
    let all: Vec<String> = (0..9).map(|step| format!("0.{step},0")).collect();
    let text = |at: &str| super::fixture::response(&point(at), query).text;
    let (a, b) = all
        .iter()
        .flat_map(|a| all.iter().map(move |b| (a, b)))
        .find(|(a, b)| a < b && text(a) == text(b))
        .expect("nine points, three texts");
    for rung in [Rung::Generation, Rung::Judgement] {
        plan(store, id, vec![job(a, rung, slice), job(b, rung, slice)]).await?;
        if rung == Rung::Generation {
            work_off(store, &definition).await?;
        }
    }
    let (first, second) = (lease_one(store).await?, lease_one(store).await?);
    finish(store, &definition, &first).await?;
    let differing = avsweep_domain::Verdict {
        label: avsweep_domain::Label::Unclear,
        confidence: Some(0.123),
        reason: Some("another view".to_owned()),
    };
    let results = avsweep_store::JobResults::Verdicts(vec![(0, differing.clone())]);
    store.report(&super::fixture::report(second.lease.reference, results, true), NOW).await?;
    let verdict_at = async |at: &str| -> Result<ResultValue> {
        let mut rows = store.point_results(id, &point(at), &[]).await?;
        Ok(rows.pop().expect("judged").value)
    };
    assert_eq!(verdict_at(a).await?, verdict_at(b).await?);
    assert_ne!(verdict_at(b).await?, ResultValue::Verdict(differing));
    let totals = store.totals(id).await?;
    assert_eq!((totals.judgement.done, totals.duplicate_results), (2, 1));
    tallies_equal_a_recount(store, id, &definition).await
}

pub(crate) async fn queries_of_one_content_under_two_ids_are_evaluated_once(store: &dyn Store) -> Result<()> {
    let mut definition = definition("s");
    let mut twin = definition.domains[0].search[0].clone();
    twin.id = "twin".to_owned();
    definition.domains[1].search.push(twin);
    let id = create(store, &definition).await?;
    let slice = QuerySlice { start: 0, end: 7 };
    plan(store, id, vec![job("0,0", Rung::Likelihood, slice)]).await?;
    let held = lease_one(store).await?;
    assert_eq!(held.ordinals, [0, 1, 2, 3, 4, 5], "ordinal 6 is ordinal 0 again");
    finish(store, &definition, &held).await?;
    let rows = every_result(store, id, 9).await?;
    assert_eq!(rows.iter().map(|row| row.ordinal).collect::<Vec<_>>(), (0..7).collect::<Vec<_>>());
    assert_eq!(rows[0].value, rows[6].value);
    assert_eq!(store.totals(id).await?.results, 6);
    tallies_equal_a_recount(store, id, &definition).await
}
