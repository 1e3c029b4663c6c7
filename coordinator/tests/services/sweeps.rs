//! Sweeps from their creation to their answers, over gRPC in process.

use std::sync::Arc;

use anyhow::Context as _;
use avsweep_domain::{Coverage, Level, Point, Target, Wanted};
use avsweep_proto::v1;
use tonic::Code;

use crate::support::{
    ALL_RUNGS, BOUND, Cluster, Shape, definition, evaluate, eventually, lease_request, point_of, settings,
};

/// Every target's best point is the one where the made-up model is at its levels.
fn check_answers(best: &v1::BestPointsResponse, reported: u32, judged: bool) -> anyhow::Result<()> {
    anyhow::ensure!(best.answers.len() == 9 && best.points_measured == 9);
    for answer in &best.answers {
        let target = Target::try_from(answer.target.clone().context("a target")?)?;
        let levels: Vec<u8> = target
            .wanted()
            .iter()
            .map(|wanted| match wanted {
                Wanted::Level(Level(index)) => *index,
                Wanted::AsBase | Wanted::Free => unreachable!("all targets name levels"),
            })
            .collect();
        let point = Point::try_from(answer.point.clone().context("a point")?)?;
        assert_eq!(point, point_of([levels[0], levels[1]]));
        assert_eq!(
            (answer.search_aggregate, answer.confirm_aggregate, answer.achieved),
            (1.0, Some(1.0), Some(true))
        );
        assert_eq!(answer.judged_aggregate, judged.then_some(1.0));
        let counts = Some(v1::LevelCount { count: reported, n: reported });
        assert!(answer.domains.iter().all(|domain| domain.confirm == counts));
        assert!(answer.domains.iter().all(|domain| domain.judged == counts.filter(|_| judged)));
    }
    Ok(())
}

fn jobs(progress: &v1::SweepProgress) -> Vec<(u64, u64)> {
    progress.rungs.iter().map(|rung| (rung.done, rung.ready + rung.leased + rung.parked)).collect()
}

#[tokio::test]
async fn a_sweep_ends_with_the_best_point_of_every_target_confirmed_and_judged() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let definition = definition(Shape::default());
    cluster.create(&definition).await?;
    cluster.run_to_done(&definition).await?;
    check_answers(&cluster.best(&definition).await?, 2, true)?;
    let progress = cluster.progress("tiny").await?;
    // 8 search queries make two jobs of at most 5; all nine points are finalists, each with 4 confirm queries.
    assert_eq!(jobs(&progress), [(9 * 2 + 9, 0), (9, 0), (9, 0)]);
    assert_eq!((progress.points_planned, progress.points_done), (Some(9), 9));
    assert_eq!((progress.results, progress.duplicate_results), (9 * (8 + 4 + 4 + 4), 0));
    assert_eq!(progress.merge_micros, 2 * (9 * 2 + 9 + 9 + 9));
    Ok(())
}

/// Scores without rhyme or reason, the same whenever they are asked for: normalisations and aggregates disagree.
fn scramble(report: &mut v1::ReportRequest, point: &Point) {
    let Some(v1::report_request::Results::Scores(scores)) = &mut report.results else {
        return;
    };
    for result in &mut scores.results {
        let place = point.values().iter().fold(u64::from(result.ordinal), |hash, ticks| {
            (hash ^ u64::from(ticks.get().unsigned_abs() * 2 + u32::from(ticks.get() < 0)))
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407)
                .rotate_left(29)
        });
        let mut state = place;
        let mut below = |end: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % end
        };
        for score in &mut result.scores {
            score.log_prob_sum = -1.0 - below(1000) as f64 / 100.0;
            score.tokens = 1 + below(20) as u32;
            score.bytes = 1 + below(90) as u32;
        }
    }
}

#[tokio::test]
async fn the_best_points_by_any_aggregate_and_likelihood_reading_are_confirmed() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let definition = definition(Shape::default());
    cluster.create(&definition).await?;
    while cluster.progress("tiny").await?.state() != v1::SweepState::Done {
        cluster.coordinator.plan_once().await?;
        for job in cluster.lease(&ALL_RUNGS, 3).await? {
            let mut report = evaluate(&definition, &job)?;
            scramble(&mut report, &Point::try_from(job.point.clone().context("a point")?)?);
            cluster.jobs().report(report).await?;
        }
    }
    for reading in [v1::Reading::Mean, v1::Reading::Sum, v1::Reading::PerByte] {
        for aggregate in [v1::Aggregate::Min, v1::Aggregate::Mean, v1::Aggregate::Product] {
            let best = cluster.best_by(&definition, aggregate, reading).await?;
            anyhow::ensure!(best.answers.len() == 9 && best.points_measured == 9);
            for answer in &best.answers {
                assert!(answer.achieved.is_some(), "{reading:?} {aggregate:?}: {answer:?}");
                let counts: Vec<_> = answer.domains.iter().map(|d| d.confirm.map(|c| c.n)).collect();
                assert_eq!(counts, [Some(2); 2], "{reading:?} {aggregate:?}");
            }
        }
    }
    // Only the leaders by the default reading and the weakest domain are judged.
    let [(likelihoods, _), (texts, _), (judgements, _)] = jobs(&cluster.progress("tiny").await?)[..] else {
        anyhow::bail!("three rungs");
    };
    assert!(texts < likelihoods - 9 * 2 && texts == judgements, "{likelihoods} {texts} {judgements}");
    Ok(())
}

#[tokio::test]
async fn with_generation_everywhere_every_query_of_every_point_is_judged() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let definition = definition(Shape { generation: Coverage::All, ..Shape::default() });
    cluster.create(&definition).await?;
    cluster.run_to_done(&definition).await?;
    check_answers(&cluster.best(&definition).await?, 2, true)?;
    let progress = cluster.progress("tiny").await?;
    assert_eq!(progress.results, 9 * (12 + 12 + 12));
    Ok(())
}

#[tokio::test]
async fn judgements_alone_can_choose_the_points() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let shape = Shape { likelihood: Coverage::None, generation: Coverage::All, ..Shape::default() };
    let definition = definition(shape);
    cluster.create(&definition).await?;
    cluster.run_to_done(&definition).await?;
    let best = cluster.best(&definition).await?;
    assert_eq!(best.reading(), v1::Reading::Judgement);
    check_answers(&best, 2, true)?;
    Ok(())
}

#[tokio::test]
async fn without_confirm_queries_and_texts_a_sweep_ends_after_its_grid() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let definition = definition(Shape { generation: Coverage::None, confirm: 0, ..Shape::default() });
    cluster.create(&definition).await?;
    cluster.run_to_done(&definition).await?;
    let best = cluster.best(&definition).await?;
    assert_eq!(best.reported_set(), v1::QuerySet::Search);
    check_answers(&best, 4, false)?;
    assert_eq!(jobs(&cluster.progress("tiny").await?), [(18, 0), (0, 0), (0, 0)]);
    Ok(())
}

#[tokio::test]
async fn the_planner_can_run_at_any_time_and_any_number_of_times() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let definition = definition(Shape::default());
    cluster.create(&definition).await?;
    for _ in 0..20 {
        cluster.coordinator.plan_once().await?;
        let planned = cluster.progress("tiny").await?;
        cluster.coordinator.plan_once().await?;
        assert_eq!(cluster.progress("tiny").await?, planned);
        for job in cluster.lease(&ALL_RUNGS, 1).await? {
            cluster.work(&definition, &job).await?;
        }
    }
    cluster.run_to_done(&definition).await?;
    check_answers(&cluster.best(&definition).await?, 2, true)
}

#[tokio::test]
async fn a_new_coordinator_goes_on_where_the_last_one_stopped() -> anyhow::Result<()> {
    let definition = definition(Shape::default());
    // Stopped after so many jobs, in every phase of the sweep.
    for stop_after in [0, 1, 3, 7, 18, 20, 30, 44] {
        let first = Cluster::start().await?;
        first.create(&definition).await?;
        let mut done = 0;
        while done < stop_after {
            first.coordinator.plan_once().await?;
            let jobs = first.lease(&ALL_RUNGS, 1).await?;
            anyhow::ensure!(!jobs.is_empty(), "no job after {done}");
            for job in jobs {
                first.work(&definition, &job).await?;
                done += 1;
            }
        }
        let (store, clock) = (Arc::clone(&first.store), first.clock.clone());
        drop(first);
        let second = Cluster::over(store, clock, settings()).await;
        second.run_to_done(&definition).await?;
        check_answers(&second.best(&definition).await?, 2, true)?;
        let progress = second.progress("tiny").await?;
        assert_eq!((progress.results, progress.duplicate_results), (9 * (8 + 4 + 4 + 4), 0), "{stop_after}");
    }
    Ok(())
}

#[tokio::test]
async fn two_coordinators_over_one_store_finish_a_sweep_together() -> anyhow::Result<()> {
    let first = Cluster::start().await?;
    let second = Cluster::over(Arc::clone(&first.store), first.clock.clone(), settings()).await;
    let definition = definition(Shape::default());
    first.create(&definition).await?;
    let tasks = [first.background(), second.background()];
    let clusters = [&first, &second];
    let workers = clusters.map(async |cluster| {
        loop {
            let jobs = cluster.jobs().lease(lease_request(&ALL_RUNGS, 1, 20)).await?.into_inner().jobs;
            for job in jobs {
                cluster.work(&definition, &job).await?;
            }
            if cluster.progress("tiny").await?.state() == v1::SweepState::Done {
                return anyhow::Ok(());
            }
        }
    });
    let both = futures::future::try_join_all(workers);
    tokio::time::timeout(BOUND, both).await.context("the sweep is not done")??;
    check_answers(&second.best(&definition).await?, 2, true)?;
    assert_eq!(second.progress("tiny").await?.duplicate_results, 0);
    for (cluster, tasks) in clusters.iter().zip(&tasks) {
        cluster.cancel.cancel();
        tokio::time::timeout(BOUND, tasks.wait()).await.context("background tasks end")?;
    }
    Ok(())
}

#[tokio::test]
async fn the_same_definition_is_the_same_sweep_and_another_of_its_name_is_refused() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let definition = definition(Shape::default());
    let id = cluster.create(&definition).await?;
    let mut again = v1::SweepDefinition::from(&definition);
    again.vectors[0].path = "elsewhere.safetensors".to_owned();
    let request = v1::CreateSweepRequest { definition: Some(again.clone()), priority: 0 };
    let answer = cluster.sweeps().create_sweep(request).await?.into_inner();
    assert_eq!((answer.sweep, answer.created), (id, false));
    again.vectors[0].fingerprint = vec![7; 32];
    let request = v1::CreateSweepRequest { definition: Some(again), priority: 0 };
    let error = cluster.sweeps().create_sweep(request).await.expect_err("another vector");
    assert_eq!(error.code(), Code::AlreadyExists);
    assert!(error.message().contains("sweep 'tiny'"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_second_sweep_over_the_same_inputs_evaluates_nothing_again() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let first = definition(Shape::default());
    cluster.create(&first).await?;
    cluster.run_to_done(&first).await?;
    let second = definition(Shape { name: "again", ..Shape::default() });
    cluster.create(&second).await?;
    for _ in 0..3 {
        cluster.coordinator.plan_once().await?;
    }
    assert!(cluster.lease(&ALL_RUNGS, 9).await?.is_empty());
    assert_eq!(cluster.progress("again").await?.state(), v1::SweepState::Done);
    check_answers(&cluster.best(&second).await?, 2, true)
}

#[tokio::test]
async fn a_paused_sweep_hands_out_nothing_until_it_runs_again() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let definition = definition(Shape::default());
    cluster.create(&definition).await?;
    cluster.coordinator.plan_once().await?;
    let held = cluster.lease(&ALL_RUNGS, 1).await?;
    let set = async |state: v1::SweepState| {
        let request = v1::SetSweepStateRequest { sweep: "tiny".to_owned(), state: state.into() };
        cluster.sweeps().set_sweep_state(request).await
    };
    set(v1::SweepState::Paused).await?;
    assert!(cluster.lease(&ALL_RUNGS, 9).await?.is_empty());
    assert!(cluster.work(&definition, &held[0]).await?, "what is in flight may finish");
    set(v1::SweepState::Running).await?;
    cluster.run_to_done(&definition).await?;
    let error = set(v1::SweepState::Paused).await.expect_err("a done sweep");
    assert_eq!(error.code(), Code::FailedPrecondition);
    let error = set(v1::SweepState::Done).await.expect_err("done by itself");
    assert_eq!(error.code(), Code::InvalidArgument);
    Ok(())
}

#[tokio::test]
async fn a_watcher_sees_the_sweep_to_its_end() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let definition = definition(Shape::default());
    cluster.create(&definition).await?;
    let request = v1::WatchSweepRequest { sweep: "tiny".to_owned() };
    let mut watched = cluster.sweeps().watch_sweep(request).await?.into_inner();
    let first = watched.message().await?.and_then(|message| message.progress).context("progress at once")?;
    assert_eq!((first.state(), first.results), (v1::SweepState::Running, 0));
    cluster.run_to_done(&definition).await?;
    let watching = async {
        let mut last = first.clone();
        while let Some(message) = watched.message().await? {
            last = message.progress.context("progress")?;
        }
        anyhow::Ok(last)
    };
    let last = tokio::time::timeout(BOUND, watching).await.context("the stream ends")??;
    // Only a watcher is told of the pace.
    let last = v1::SweepProgress { points_per_second: None, seconds_left: None, ..last };
    assert_eq!(last, cluster.progress("tiny").await?);
    Ok(())
}

#[tokio::test]
async fn results_and_tallies_are_read_whole_and_in_order() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let definition = definition(Shape::default());
    cluster.create(&definition).await?;
    cluster.run_to_done(&definition).await?;
    let rows = cluster.results("tiny").await?;
    let order = |row: &v1::ResultRow| {
        let ticks = row.point.as_ref().map(|point| point.ticks.clone());
        let rung = match row.result {
            Some(v1::result_row::Result::Score(_)) => 0,
            Some(v1::result_row::Result::Response(_)) => 1,
            _ => 2,
        };
        (ticks, row.ordinal, rung)
    };
    let places: Vec<_> = rows.iter().map(order).collect();
    assert!(places.is_sorted());
    assert_eq!(places.len(), 9 * (8 + 4 + 4 + 4));
    let request = v1::ReadTalliesRequest { sweep: "tiny".to_owned() };
    let mut pages = cluster.sweeps().read_tallies(request).await?.into_inner();
    let mut points = Vec::new();
    while let Some(page) = pages.message().await? {
        points.extend(page.points);
    }
    let points: Vec<avsweep_domain::PointTallies> =
        points.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
    assert_eq!(points.iter().map(|tallies| &tallies.point).collect::<Vec<_>>().len(), 9);
    assert!(points.iter().all(|tallies| tallies.confirm.judgement.is_some()));
    Ok(())
}

#[tokio::test]
async fn a_sample_of_a_done_sweep_is_generated_judged_and_then_there() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let definition = definition(Shape { generation: Coverage::None, ..Shape::default() });
    cluster.create(&definition).await?;
    cluster.run_to_done(&definition).await?;
    // Between the grid's points: a sample may be taken anywhere in the space.
    let request = v1::RequestSampleRequest {
        sweep: "tiny".to_owned(),
        point: Some(v1::Point { ticks: vec![10_000, -5] }),
        ordinals: vec![9, 0, 9],
        stored_only: false,
    };
    let look = v1::RequestSampleRequest { stored_only: true, ..request.clone() };
    let looked = cluster.sweeps().request_sample(look).await?.into_inner();
    assert_eq!((looked.responses.len(), looked.pending), (0, 0));
    assert_eq!(cluster.progress("tiny").await?.state(), v1::SweepState::Done, "looking plans nothing");
    let sample = async || anyhow::Ok(cluster.sweeps().request_sample(request.clone()).await?.into_inner());
    let first = sample().await?;
    assert_eq!((first.responses.len(), first.pending), (0, 2));
    assert_eq!(cluster.progress("tiny").await?.state(), v1::SweepState::Running);
    cluster.run_to_done(&definition).await?;
    let last = sample().await?;
    assert_eq!((last.pending, last.failures.len()), (0, 0));
    let told: Vec<_> = last
        .responses
        .iter()
        .map(|sampled| (sampled.ordinal, sampled.response.is_some(), sampled.verdict.is_some()))
        .collect();
    assert_eq!(told, [(0, true, true), (9, true, true)]);
    assert_eq!(cluster.progress("tiny").await?.state(), v1::SweepState::Done);
    check_answers(&cluster.best(&definition).await?, 2, false)
}

#[tokio::test]
async fn a_sample_that_fails_says_why() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let definition = definition(Shape::default());
    cluster.create(&definition).await?;
    let request = v1::RequestSampleRequest {
        sweep: "tiny".to_owned(),
        point: Some((&point_of([2, 2])).into()),
        ordinals: vec![3],
        stored_only: false,
    };
    cluster.sweeps().request_sample(request.clone()).await?;
    for _ in 0..2 {
        let jobs = cluster.lease(&[v1::Rung::Generation], 1).await?;
        let lease = jobs.first().and_then(|job| job.lease.clone());
        let error = "the tokenizer has no chat template".to_owned();
        cluster
            .jobs()
            .fail(v1::FailRequest { worker: "tester".to_owned(), lease, error, usage: None })
            .await?;
    }
    let sample = cluster.sweeps().request_sample(request).await?.into_inner();
    assert_eq!((sample.responses.len(), sample.pending), (0, 0));
    assert!(sample.failures[0].contains("the tokenizer has no chat template"), "{:?}", sample.failures);
    Ok(())
}

#[tokio::test]
async fn progress_names_every_sweep_newest_first() -> anyhow::Result<()> {
    let cluster = Cluster::with_settings(settings()).await?;
    for name in ["one", "two"] {
        cluster.create(&definition(Shape { name, ..Shape::default() })).await?;
    }
    let listed = cluster.sweeps().list_sweeps(v1::ListSweepsRequest {}).await?.into_inner().sweeps;
    let names: Vec<_> = listed.iter().map(|sweep| sweep.name.as_str()).collect();
    assert_eq!(names, ["two", "one"]);
    assert!(listed.iter().all(|sweep| sweep.points_planned == Some(9) && sweep.strategy == "grid"));
    Ok(())
}

#[tokio::test]
async fn the_background_tasks_alone_bring_a_sweep_to_its_end() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let tasks = cluster.background();
    let definition = definition(Shape::default());
    cluster.create(&definition).await?;
    let done = async || {
        let jobs = cluster.jobs().lease(lease_request(&ALL_RUNGS, 2, 50)).await?.into_inner().jobs;
        for job in jobs {
            cluster.work(&definition, &job).await?;
        }
        Ok((cluster.progress("tiny").await?.state() == v1::SweepState::Done).then_some(()))
    };
    eventually("the sweep's end", done).await?;
    check_answers(&cluster.best(&definition).await?, 2, true)?;
    cluster.cancel.cancel();
    tokio::time::timeout(BOUND, tasks.wait()).await.context("background tasks end")?;
    let Cluster { server, .. } = cluster;
    tokio::time::timeout(BOUND, server.finished()).await.context("the server ends")??;
    Ok(())
}
