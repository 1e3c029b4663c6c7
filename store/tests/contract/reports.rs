//! Laws of reports: exactly once, complete, well-formed, counted.

use std::time::Duration;

use anyhow::Result;
use avsweep_domain::{Label, Level, QueryScore, QuerySlice, ReferenceScore, Rung, Verdict};
use avsweep_store::{
    JobResults, LeaseStatus, PointFilter, Report, ReportProblem, ResultRow, ResultValue, RungCounts, Store,
    StoreError, Timings,
};

use super::fixture::{
    CONFIRM, NOW, SEARCH, create, definition, evaluate, every_result, finish, job, lease_one, plan, point,
    query_id, report, report_some, response, score, tallies_equal_a_recount, work_off,
};

pub(crate) async fn results_come_back_bit_for_bit(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    for rung in [Rung::Likelihood, Rung::Generation] {
        plan(store, id, vec![job("0.5,-1", rung, SEARCH)]).await?;
    }
    work_off(store, &definition).await?;
    let at = point("0.5,-1");
    let wanted: Vec<ResultRow> = SEARCH
        .ordinals()
        .flat_map(|ordinal| {
            let query = query_id(&definition, ordinal);
            let values =
                [ResultValue::Score(score(&at, query, 3)), ResultValue::Response(response(&at, query))];
            values.map(|value| ResultRow { point: at.clone(), ordinal, value })
        })
        .collect();
    assert_eq!(every_result(store, id, 1).await?, wanted);
    assert_eq!(store.point_results(id, &at, &[]).await?, wanted);
    assert_eq!(store.point_results(id, &at, &[4, 2]).await?, [&wanted[4..6], &wanted[8..10]].concat());
    assert!(store.point_results(id, &at, &[9]).await?.is_empty());
    assert!(store.point_results(id, &point("0,0"), &[]).await?.is_empty());
    Ok(())
}

pub(crate) async fn a_result_reported_twice_is_stored_once_and_counted(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    for rung in [Rung::Likelihood, Rung::Generation] {
        plan(store, id, vec![job("0,0", rung, SEARCH)]).await?;
        let held = lease_one(store).await?;
        let before = store.totals(id).await?;
        report_some(store, &definition, &held, &[0, 1, 2], false).await?;
        let once = every_result(store, id, 9).await?;
        report_some(store, &definition, &held, &[0, 1, 2], false).await?;
        assert_eq!(every_result(store, id, 9).await?, once);
        report_some(store, &definition, &held, &[2, 3], false).await?;
        let totals = store.totals(id).await?;
        assert_eq!(totals.results - before.results, 4);
        assert_eq!(totals.duplicate_results - before.duplicate_results, 4);
        tallies_equal_a_recount(store, id, &definition).await?;
        report_some(store, &definition, &held, &[4, 5], true).await?;
        tallies_equal_a_recount(store, id, &definition).await?;
    }
    Ok(())
}

pub(crate) async fn the_first_result_stays(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    plan(store, id, vec![job("0,0", Rung::Likelihood, SEARCH)]).await?;
    let held = lease_one(store).await?;
    report_some(store, &definition, &held, &[0], false).await?;
    let other = score(&point("1,1"), "another", 3);
    let second = report(held.lease.reference, JobResults::Scores(vec![(0, other)]), false);
    assert_eq!(store.report(&second, NOW).await?, LeaseStatus::Held);
    let rows = every_result(store, id, 9).await?;
    assert_eq!(rows.len(), 1);
    let first = score(&point("0,0"), query_id(&definition, 0), 3);
    assert_eq!(rows[0].value, ResultValue::Score(first));
    tallies_equal_a_recount(store, id, &definition).await
}

pub(crate) async fn the_last_report_repeated_is_lost_and_changes_nothing(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    plan(store, id, vec![job("0,0", Rung::Likelihood, SEARCH)]).await?;
    let held = lease_one(store).await?;
    finish(store, &definition, &held).await?;
    let before = (store.totals(id).await?, every_result(store, id, 9).await?);
    assert_eq!(report_some(store, &definition, &held, &held.ordinals, true).await?, LeaseStatus::Lost);
    assert_eq!((store.totals(id).await?, every_result(store, id, 9).await?), before);
    Ok(())
}

pub(crate) async fn a_last_report_with_a_query_missing_is_refused(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    for rung in [Rung::Likelihood, Rung::Generation] {
        plan(store, id, vec![job("0,0", rung, SEARCH)]).await?;
        let held = lease_one(store).await?;
        report_some(store, &definition, &held, &[0], false).await?;
        let before = every_result(store, id, 9).await?;
        let short = report(held.lease.reference, evaluate(&definition, &held, &[2, 1]), true);
        match store.report(&short, NOW).await {
            Err(StoreError::BadReport { job, problem }) => {
                assert_eq!(job, held.lease.reference.job);
                assert_eq!(problem, ReportProblem::Unfinished { missing: 3, wanted: 6, first: 3 });
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(every_result(store, id, 9).await?, before, "nothing of it is stored");
        // What is missing may also come in a report that is not the last; an empty last one then closes the job.
        report_some(store, &definition, &held, &[1, 2, 3, 4, 5], false).await?;
        report_some(store, &definition, &held, &[], true).await?;
    }
    assert_eq!(store.totals(id).await?.likelihood, RungCounts { done: 1, ..Default::default() });
    Ok(())
}

pub(crate) async fn a_malformed_report_is_refused_and_stores_nothing(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    plan(store, id, vec![job("0,0", Rung::Likelihood, CONFIRM)]).await?;
    let held = lease_one(store).await?;
    let good = score(&point("0,0"), "q", 3);
    let with = |reference: ReferenceScore| {
        let mut bad = good.clone();
        bad.0[1] = reference;
        JobResults::Scores(vec![(6, good.clone()), (7, bad)])
    };
    let sum = |log_prob_sum: f64| with(ReferenceScore { log_prob_sum, tokens: 1, bytes: 1 });
    let (ordinal, level) = (7, 1);
    let two_levels = QueryScore(good.0[..2].to_vec());
    let cases = [
        (sum(f64::INFINITY), ReportProblem::LogProb { ordinal, level, found: f64::INFINITY }),
        (sum(f64::NEG_INFINITY), ReportProblem::LogProb { ordinal, level, found: f64::NEG_INFINITY }),
        (sum(0.5), ReportProblem::LogProb { ordinal, level, found: 0.5 }),
        (
            with(ReferenceScore { log_prob_sum: -1.0, tokens: 0, bytes: 1 }),
            ReportProblem::EmptyReference { ordinal, level, tokens: 0, bytes: 1 },
        ),
        (
            with(ReferenceScore { log_prob_sum: -1.0, tokens: 1, bytes: 0 }),
            ReportProblem::EmptyReference { ordinal, level, tokens: 1, bytes: 0 },
        ),
        (
            JobResults::Scores(vec![(6, two_levels)]),
            ReportProblem::ScoreCount { ordinal: 6, found: 2, wanted: 3 },
        ),
        (
            JobResults::Scores(vec![(5, good.clone())]),
            ReportProblem::ForeignQuery { ordinal: 5, slice: CONFIRM },
        ),
        (
            JobResults::Scores(vec![(6, good.clone()), (10, good.clone())]),
            ReportProblem::ForeignQuery { ordinal: 10, slice: CONFIRM },
        ),
        (
            JobResults::Scores(vec![(u32::MAX, good.clone())]),
            ReportProblem::ForeignQuery { ordinal: u32::MAX, slice: CONFIRM },
        ),
        (
            JobResults::Scores(vec![(6, good.clone()), (6, good.clone())]),
            ReportProblem::DoubledQuery { ordinal: 6 },
        ),
        (
            JobResults::Responses(vec![(6, response(&point("0,0"), "q"))]),
            ReportProblem::Rung { found: Rung::Generation, wanted: Rung::Likelihood },
        ),
        (
            JobResults::Verdicts(Vec::new()),
            ReportProblem::Rung { found: Rung::Judgement, wanted: Rung::Likelihood },
        ),
    ];
    for (results, wanted) in cases {
        match store.report(&report(held.lease.reference, results, false), NOW).await {
            Err(StoreError::BadReport { job, problem }) => {
                assert_eq!((job, problem), (held.lease.reference.job, wanted));
            }
            other => panic!("{other:?} instead of {wanted}"),
        }
    }
    let nan = store.report(&report(held.lease.reference, sum(f64::NAN), false), NOW).await;
    let is_nan = |problem: &ReportProblem| matches!(problem, ReportProblem::LogProb { ordinal: 7, level: 1, found } if found.is_nan());
    assert!(matches!(&nan, Err(StoreError::BadReport { problem, .. }) if is_nan(problem)), "{nan:?}");
    assert!(every_result(store, id, 9).await?.is_empty());
    assert_eq!(store.totals(id).await?.results, 0);
    finish(store, &definition, &held).await
}

pub(crate) async fn a_malformed_verdict_is_refused(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    let slice = QuerySlice { start: 0, end: 1 };
    plan(store, id, vec![job("0,0", Rung::Generation, slice)]).await?;
    work_off(store, &definition).await?;
    plan(store, id, vec![job("0,0", Rung::Judgement, slice)]).await?;
    let held = lease_one(store).await?;
    let good = Verdict { label: Label::Level(Level(2)), confidence: Some(1.0), reason: None };
    for (bad, wanted) in [
        (
            Verdict { label: Label::Level(Level(3)), ..good.clone() },
            ReportProblem::UnknownLevel { ordinal: 0, found: 3, levels: 3 },
        ),
        (
            Verdict { confidence: Some(1.5), ..good.clone() },
            ReportProblem::Confidence { ordinal: 0, found: 1.5 },
        ),
        (
            Verdict { confidence: Some(-0.5), ..good.clone() },
            ReportProblem::Confidence { ordinal: 0, found: -0.5 },
        ),
    ] {
        let results = JobResults::Verdicts(vec![(0, bad)]);
        match store.report(&report(held.lease.reference, results, true), NOW).await {
            Err(StoreError::BadReport { problem, .. }) => assert_eq!(problem, wanted),
            other => panic!("{other:?}"),
        }
    }
    let results = JobResults::Verdicts(vec![(0, Verdict { confidence: Some(f64::NAN), ..good.clone() })]);
    let nan = store.report(&report(held.lease.reference, results, true), NOW).await;
    assert!(matches!(nan, Err(StoreError::BadReport { problem: ReportProblem::Confidence { .. }, .. })));
    let results = JobResults::Verdicts(vec![(0, good)]);
    let held = store.report(&report(held.lease.reference, results, true), NOW).await?;
    assert_eq!(held, LeaseStatus::Held);
    Ok(())
}

pub(crate) async fn times_are_summed(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    plan(store, id, vec![job("0,0", Rung::Likelihood, SEARCH)]).await?;
    let held = lease_one(store).await?;
    let timings = Timings {
        load: Duration::from_nanos(1),
        merge: Duration::from_millis(20),
        evaluate: Duration::from_secs(3),
    };
    for ordinal in 0..2 {
        let results = evaluate(&definition, &held, &[ordinal]);
        let report = Report { lease: held.lease.reference, results, finished: false, timings };
        store.report(&report, NOW).await?;
    }
    let summed = store.totals(id).await?.timings;
    assert_eq!(
        (summed.load, summed.merge, summed.evaluate),
        (timings.load * 2, timings.merge * 2, timings.evaluate * 2)
    );
    // A worker's clock is outside data: nonsense must not break the store.
    let timings = Timings { load: Duration::MAX, merge: Duration::MAX, evaluate: Duration::MAX };
    for ordinal in 2..4 {
        let results = evaluate(&definition, &held, &[ordinal]);
        let report = Report { lease: held.lease.reference, results, finished: false, timings };
        store.report(&report, NOW).await?;
    }
    assert!(store.totals(id).await?.timings.load > Duration::from_secs(1_000_000));
    Ok(())
}

pub(crate) async fn tallies_follow_every_report(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    let at = "0.5,0.5";
    plan(
        store,
        id,
        vec![
            job(at, Rung::Likelihood, CONFIRM),
            job(at, Rung::Likelihood, SEARCH),
            job(at, Rung::Generation, CONFIRM),
        ],
    )
    .await?;
    let none = &store.tallies(id, PointFilter::All).await?[0];
    assert_eq!((none.search.clone(), none.confirm.clone()), Default::default());
    work_off(store, &definition).await?;
    plan(store, id, vec![job(at, Rung::Judgement, CONFIRM)]).await?;
    work_off(store, &definition).await?;
    let all = &store.tallies(id, PointFilter::All).await?[0];
    let queries = |tallies: &Option<Vec<avsweep_domain::LikelihoodTally>>| {
        tallies.as_ref().map(|tallies| tallies.iter().map(|tally| tally.queries).collect::<Vec<_>>())
    };
    assert_eq!(queries(&all.search.likelihood), Some(vec![3, 3]));
    assert_eq!(queries(&all.confirm.likelihood), Some(vec![2, 2]));
    assert_eq!(all.search.judgement, None);
    assert!(all.confirm.judgement.is_some());
    tallies_equal_a_recount(store, id, &definition).await
}

pub(crate) async fn pages_of_results_join_up_whatever_their_size(store: &dyn Store) -> Result<()> {
    let definition = definition("s");
    let id = create(store, &definition).await?;
    let points = ["1,1", "-1,0", "0,0", "0.5,-0.5", "-1,-1", "0,0.5"];
    for rung in [Rung::Likelihood, Rung::Generation] {
        plan(store, id, points.iter().map(|at| job(at, rung, SEARCH)).collect()).await?;
    }
    // One point without any result stands among the others.
    plan(store, id, vec![job("-0.5,0", Rung::Likelihood, CONFIRM)]).await?;
    let blocked = loop {
        let held = lease_one(store).await?;
        if held.point == point("-0.5,0") {
            break held;
        }
        finish(store, &definition, &held).await?;
    };
    assert_eq!(blocked.rung, Rung::Likelihood);
    let all = every_result(store, id, 100).await?;
    assert_eq!(all.len(), points.len() * 6 * 2);
    let key = |row: &ResultRow| {
        let rung = match row.value {
            ResultValue::Score(_) => 0,
            ResultValue::Response(_) => 1,
            ResultValue::Verdict(_) => 2,
        };
        (row.point.clone(), row.ordinal, rung)
    };
    assert!(all.is_sorted_by(|a, b| key(a) < key(b)));
    for page in [1, 2, 3, 7] {
        assert_eq!(every_result(store, id, page).await?, all);
    }
    let first = store.results(id, None, 1).await?;
    assert!(first.rows.iter().all(|row| row.point == point("-1,-1")));
    assert_eq!(first.last, Some(point("-1,-1")));
    assert_eq!(store.results(id, Some(&point("1,1")), 5).await?, Default::default());
    Ok(())
}
